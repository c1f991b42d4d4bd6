"""Forecasts of a few test windows, in the data's own units."""

from collections.abc import Mapping

import numpy as np

from tsjax.study import records
from tsjax.study.task import Task
from tsjax.training import Forecaster, predict


def forecasts(
    task: Task, forecasters: Mapping[str, Forecaster], windows: int = 3, channels: int = 2
) -> tuple[records.Forecast, ...]:
    """Forecasts of evenly spaced test windows: chosen by position, not by how they look.

    Args:
      task: the task.
      forecasters: models by the name they are shown under.
      windows: how many test windows.
      channels: how many channels, counted from the last (the target of the ETT sets).
    """
    dataset = task.dataset
    starts = dataset.starts("test")
    places = np.linspace(0, len(starts) - 1, windows + 2)[1:-1].round().astype(int)
    chosen = starts[np.unique(places)]
    shown = {
        name: dataset.unscale(predict(forecaster, task.windows, chosen))
        for name, forecaster in forecasters.items()
    }
    found = []
    for channel in range(len(dataset.channels))[::-1][:channels]:
        for i, start in enumerate(chosen):
            end = start + dataset.seq_len + dataset.pred_len
            values = dataset.unscale(dataset.values[start:end])[:, channel].tolist()
            found.append(
                records.Forecast(
                    channel=dataset.channels[channel],
                    dates=tuple(date.isoformat() for date in dataset.dates[start:end]),
                    history=tuple(values[: dataset.seq_len]),
                    truth=tuple(values[dataset.seq_len :]),
                    forecasts={n: tuple(y[i, :, channel].tolist()) for n, y in shown.items()},
                )
            )
    return tuple(found)
