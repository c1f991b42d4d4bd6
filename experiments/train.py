"""Trains a forecaster and tests it.

    ./launch.sh train --dataset=ETTh1 --data_dir=DIR --pred_len=96

Leaves in the run folder: the best weights (``checkpoint/``), ``settings.json``, ``training.json``,
and ``test.json`` with the test error beside those of repeating the last value and the last season.
``prune`` and ``study`` go on from there with ``--checkpoint=RUN_FOLDER``.
"""

from experiments import common
from tsjax import results, study
from tsjax.study import records


def run(settings: study.TrainSettings) -> records.TrainResult:
    """Trains; see the module's docstring.

    Raises:
      ValueError: if something asked for is not sound; nothing has been written then.
    """
    task = study.set_up(settings)
    folder = common.task_folder(settings)
    trained = study.train(task, folder.path)
    result = records.TrainResult(
        **results.provenance(settings),
        dense=trained.error,
        baselines=task.baselines(),
        notes=task.notes,
    )
    results.write_json(result, folder.test)
    common.show(result.dense, *result.baselines)
    common.show_notes(result.notes)
    print(f"run folder: {folder.path}")
    return result


if __name__ == "__main__":
    common.main(study.TrainSettings, run)
