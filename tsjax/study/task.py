"""From settings to a task: the series on the device, and the model that is to forecast it."""

import dataclasses

import jax
import numpy as np

from tsjax import data, models
from tsjax.study import records
from tsjax.study.comparable import incomparable
from tsjax.study.settings import TrainSettings
from tsjax.training import Forecaster, Metrics, Windows, evaluate, repeat_last, seasonal_naive


@dataclasses.dataclass(frozen=True)
class Task:
    """A forecasting task.

    Attributes:
      settings: what it was made from.
      dataset: the series split, scaled and marked.
      windows: the same on the device.
      forecaster: the model with fresh weights.
    """

    settings: TrainSettings
    dataset: data.Dataset
    windows: Windows
    forecaster: Forecaster

    @property
    def notes(self) -> tuple[str, ...]:
        """What is odd about the series, and what keeps errors on it from being compared."""
        return (*self.dataset.notes, *incomparable(self.settings, self.dataset))

    def starts(self, part: str) -> np.ndarray:
        """First rows of a part's windows."""
        return self.dataset.starts(part)

    def test(self, forecaster: Forecaster) -> Metrics:
        """Error on the test windows."""
        return evaluate(
            forecaster,
            self.windows,
            self.starts("test"),
            batch_size=self.settings.batch_size,
            drop_last=self.settings.drop_last_test,
        )

    def baselines(self) -> tuple[records.Error, ...]:
        """Errors of repeating the last value, and the last season if the look-back holds one."""
        horizon, period = self.dataset.pred_len, self.dataset.period
        naive = {"repeat last": repeat_last(horizon)}
        if 1 < period <= self.dataset.seq_len:
            naive["seasonal naive"] = seasonal_naive(horizon, period)
        found = {name: self.test(forecaster) for name, forecaster in naive.items()}
        return tuple(records.Error(name, m.mse, m.mae) for name, m in found.items())


def set_up(settings: TrainSettings) -> Task:
    """Reads and checks everything that a run needs, and writes nothing.

    Raises:
      FileNotFoundError: if the data set's file is missing.
      ValueError: if the settings, the file or the model's sizes are not sound.
    """
    s = settings
    series = data.load(
        s.dataset,
        s.data_dir,
        preset=s.preset,
        missing=s.missing,
        date_column=s.date_column,
        channels=s.channels or None,
        split=s.split,
    )
    dataset = data.prepare(
        series,
        seq_len=s.seq_len,
        label_len=s.label_len,
        pred_len=s.pred_len,
        freq=s.freq,
        embed=s.embed,
    )
    if s.drop_last_test and len(dataset.starts("test")) < s.batch_size:
        raise ValueError(
            f"{dataset.name}: the test part has {len(dataset.starts('test'))} windows, less than "
            f"one batch of {s.batch_size}, and drop_last_test would leave out all of them"
        )
    channels = len(dataset.channels)
    sizes = {"enc_in": channels, "dec_in": channels, "c_out": channels, "freq": dataset.freq}
    config = models.config(s.model, s.preset, **(s.model_options() | sizes))
    forecaster = models.create(config, jax.random.key(s.seed))
    return Task(s, dataset, Windows.of(dataset), forecaster)


def describe(task: Task) -> records.Data:
    """The record of a task's data set."""
    dataset = task.dataset
    return records.Data(
        name=dataset.name,
        channels=dataset.channels,
        rows=len(dataset.values),
        first_date=dataset.dates[0].isoformat(),
        last_date=dataset.dates[-1].isoformat(),
        freq=dataset.freq,
        step_seconds=float(np.median(np.diff(dataset.dates.to_numpy()) / np.timedelta64(1, "s"))),
        windows={part: len(dataset.starts(part)) for part in dataset.parts},
        notes=task.notes,
    )
