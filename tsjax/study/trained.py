"""The trained model that a study asks its questions of: trained now, or restored from a run."""

import dataclasses
import json
from pathlib import Path

from tsjax import pruning, results, training
from tsjax.study import records
from tsjax.study.folder import RunFolder
from tsjax.study.settings import write_saved
from tsjax.study.task import Task


@dataclasses.dataclass(frozen=True)
class Trained:
    """A trained model, how it was trained, and its test error."""

    forecaster: training.Forecaster
    training: records.Training
    error: records.Error


def train(task: Task, folder: Path) -> Trained:
    """Trains the task's model; ``folder`` gets its best weights, its settings and its history."""
    run = RunFolder(folder)
    write_saved(task.settings, run)
    fitted = training.fit(
        task.forecaster,
        task.windows,
        task.starts("train"),
        task.starts("val"),
        task.settings.fit_config(),
        checkpoint=run.checkpoint,
    )
    history = records.Training(fitted.epochs, fitted.best_epoch, fitted.ended)
    results.write_json(history, run.training)
    return _tested(task, fitted.forecaster, history)


def restore(task: Task, folder: Path) -> Trained:
    """The model that :func:`train` left in ``folder``.

    Raises:
      FileNotFoundError: if there is none.
      ValueError: if it cannot be read, or does not fit the task.
    """
    fresh = task.forecaster
    like = {"params": fresh.params, "state": fresh.state, "mask": pruning.ones(fresh.params)}
    run = RunFolder(folder)
    found = training.restore(run.checkpoint, like)
    path = run.training
    if not path.is_file():
        raise FileNotFoundError(f"the run at {folder} did not end: there is no {path.name} in it")
    try:
        stored = json.loads(path.read_text())
        epochs = tuple(training.Epoch(**epoch) for epoch in stored["epochs"])
        history = records.Training(epochs, stored["best_epoch"], stored["ended"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} does not hold a run's history: {error!r}") from None
    restored = dataclasses.replace(fresh, params=found["params"], state=found["state"])
    return _tested(task, restored, history)


def _tested(task: Task, forecaster: training.Forecaster, history: records.Training) -> Trained:
    error = task.test(forecaster)
    return Trained(forecaster, history, records.Error("dense", error.mse, error.mae))
