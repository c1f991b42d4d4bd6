"""Trains a forecaster and tests it.

    ./launch.sh train --dataset=ETTh1 --data_dir=DIR --pred_len=96

Leaves in the run folder: the best weights (``checkpoint/``), ``settings.json``, ``training.json``,
and ``test.json`` with the test error beside those of repeating the last value and the last season.
``prune`` and ``study`` go on from there with ``--checkpoint=RUN_FOLDER``.
"""

import dataclasses
from typing import Any

from experiments import common
from tsjax import study
from tsjax.study import records


@dataclasses.dataclass(frozen=True)
class Result:
    """The test error of the trained model and of the baselines; how to repeat and to read it."""

    command: str
    config: dict[str, Any]
    versions: dict[str, str]
    dense: records.Error
    baselines: tuple[records.Error, ...]
    notes: tuple[str, ...]


def run(settings: study.TrainSettings) -> Result:
    """Trains; see the module's docstring.

    Raises:
      ValueError: if something asked for is not sound; nothing has been written then.
    """
    task = study.set_up(settings)
    folder = common.results_folder(settings)
    trained = study.train(task, folder)
    result = Result(
        **common.provenance(settings),
        dense=trained.error,
        baselines=task.baselines(),
        notes=task.notes,
    )
    study.write_json(result, folder / "test.json")
    for error in (result.dense, *result.baselines):
        print(f"{error.name:<16} test MSE {error.mse:.4f}  MAE {error.mae:.4f}")
    common.show_notes(result.notes)
    print(f"run folder: {folder}")
    return result


if __name__ == "__main__":
    common.main(study.TrainSettings, run)
