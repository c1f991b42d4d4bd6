"""What does it cost to train sparse, instead of pruning what was trained dense?"""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

from tsjax import costs, pruning, results, training, trees
from tsjax.forecaster import forecast
from tsjax.settings import among, at_least, setting, share
from tsjax.study import records
from tsjax.study.folder import RunFolder
from tsjax.study.prunable import EXEMPT, EXEMPT_MEANS, prunable
from tsjax.study.settings import TrainSettings, write_saved
from tsjax.study.task import Task
from tsjax.study.trained import Trained


def _gradual(s: "SparseSettings", steps: int, where: pruning.Where, **more: Any) -> pruning.Prune:
    end = max(1, 2 * steps // 3)
    select = functools.partial(pruning.select, where=where)
    return pruning.gradual(
        s.density, begin=min(s.mask_every, end), end=end, every=s.mask_every, select=select, **more
    )


def _straight_through(s: "SparseSettings", steps: int, where: pruning.Where) -> pruning.Prune:
    return _gradual(s, steps, where, straight_through=True)


def _set(s: "SparseSettings", steps: int, where: pruning.Where) -> pruning.Regrow:
    del steps
    return pruning.sparse_evolution(s.density, every=s.mask_every, where=where)


def _rigl(s: "SparseSettings", steps: int, where: pruning.Where) -> pruning.Regrow:
    end = max(1, 3 * steps // 4)
    return pruning.rigl(s.density, end=end, every=s.mask_every, where=where)


def _static(s: "SparseSettings", steps: int, where: pruning.Where) -> pruning.Regrow:
    del steps
    return pruning.static_sparse(s.density, where=where)


def _pals(s: "SparseSettings", steps: int, where: pruning.Where) -> pruning.PALS:
    return pruning.pals(
        steps,
        every=s.mask_every,
        tolerance=s.loss_tolerance,
        factor=s.exchange_factor,
        where=where,
    )


METHODS: dict[str, Callable[["SparseSettings", int, pruning.Where], pruning.Algorithm]] = {
    "pals": _pals,
    "gradual": _gradual,
    "straight_through": _straight_through,
    "rigl": _rigl,
    "set": _set,
    "static": _static,
}
"""How a mask is found during training, from settings, steps of the whole training, and leaves."""


@dataclasses.dataclass(frozen=True)
class SparseSettings(TrainSettings):
    """Also how to find a mask while the model trains."""

    script: ClassVar[str] = "sparse"

    method: str = setting(
        "pals",
        f"how the mask is found: {', '.join(METHODS)}",
        among(METHODS),
        group="sparse training",
    )
    density: float = setting(
        0.2, "share of the prunable weights to keep; pals finds its own", share()
    )
    mask_every: int = setting(20, "steps between changes of the mask", at_least(1))
    exchange_factor: float = setting(
        1.1, "pals: how much shrinking and growing differ, gamma", at_least(1)
    )
    loss_tolerance: float = setting(
        1.1, "pals: rise of the validation loss to allow, lambda", at_least(1)
    )
    loss_windows: int = setting(
        512, "pals: validation windows for its loss; 0 for all", at_least(0)
    )
    exempt: str = setting("output_projection", EXEMPT_MEANS, among(EXEMPT))
    prune_complex: bool = setting(False, "prune FEDformer's Fourier weights as well")


@dataclasses.dataclass(frozen=True)
class SparselyTrained:
    """A model trained sparse, which holds its mask, and its record."""

    forecaster: training.Forecaster
    record: records.SparseTraining


def train_sparse(task: Task, settings: SparseSettings, folder: Path) -> SparselyTrained:
    """Trains from the task's fresh weights with a mask that changes on the way.

    Args:
      task: the task.
      settings: the method, and its numbers.
      folder: gets the best epoch's weights and mask, the settings, and the history.

    Raises:
      FloatingPointError: if the error is not finite in the first epoch.
    """
    run = RunFolder(folder)
    write_saved(settings, run)
    where = prunable(task, settings.exempt, prune_complex=settings.prune_complex)
    config = settings.fit_config()
    steps = config.epochs * training.steps_per_epoch(config, len(task.starts("train")))
    fitted = training.fit(
        task.forecaster,
        task.windows,
        task.starts("train"),
        task.starts("val"),
        config,
        algorithm=METHODS[settings.method](settings, steps, where),
        loss_starts=_spread(task.starts("val"), settings.loss_windows),
        checkpoint=run.checkpoint,
        label=settings.method,
    )
    history = records.Training(fitted.epochs, fitted.best_epoch, fitted.ended)
    results.write_json(history, run.training)
    record = _record(task, settings.method, fitted.forecaster, history, where)
    return SparselyTrained(fitted.forecaster, record)


def ask(
    task: Task, trained: Trained, settings: SparseSettings, folder: Path
) -> records.SparseTraining:
    """Trains sparse; the arguments are those of :func:`train_sparse`.

    The trained model is what the record is read beside; training sparse begins from fresh weights.
    """
    del trained
    return train_sparse(task, settings, folder).record


def _record(
    task: Task,
    method: str,
    forecaster: training.Forecaster,
    history: records.Training,
    where: pruning.Where,
) -> records.SparseTraining:
    error = task.test(forecaster)
    # Counted without its mask, which is what the FLOPs of a sparse machine are counted for.
    whole, mask = dataclasses.replace(forecaster, mask=None), forecaster.mask
    inputs = task.windows.gather(jnp.asarray(task.starts("test")[:1])).inputs
    count = costs.count(forecast, whole, *inputs)
    kept, prunable = pruning.count(mask, where)
    return records.SparseTraining(
        method=method,
        kept=kept,
        prunable=prunable,
        nonzero=sum(n for n, _ in pruning.summary(mask).values()),
        params=trees.size(forecaster.params),
        flops=count.flops,
        sparse_flops=count.sparse_flops(dataclasses.replace(whole.kept(), params=mask)),
        mse=error.mse,
        mae=error.mae,
        training=history,
    )


def _spread(starts: np.ndarray, wanted: int) -> np.ndarray:
    """So many windows, evenly spaced; all of them for 0."""
    if not 0 < wanted < len(starts):
        return starts
    return starts[np.linspace(0, len(starts) - 1, wanted).round().astype(int)]
