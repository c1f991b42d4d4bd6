"""What does it cost to cut single weights? One-shot pruning and fine-tuning."""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from tsjax import pruning, training
from tsjax.study import records
from tsjax.study.criteria import Pruner
from tsjax.study.runs import Trained
from tsjax.study.task import Task

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Tuned:
    """A fine-tuned model, with its mask and its record."""

    params: PyTree
    state: PyTree
    mask: PyTree
    record: records.FineTuning


def ladder(
    task: Task, trained: Trained, pruner: Pruner, densities: Iterable[float]
) -> tuple[records.Rung, ...]:
    """Tests the trained model at all densities at once, without fine-tuning."""
    masks = {density: pruner.mask(density) for density in densities}
    return _rungs(task, trained, pruner, masks)


def fine_tune(
    task: Task,
    trained: Trained,
    pruner: Pruner,
    density: float,
    epochs: int,
    checkpoint: Path | None = None,
) -> Tuned:
    """Prunes the trained model, and trains it on with the mask held.

    Args:
      task: the task.
      trained: the dense model.
      pruner: makes its mask.
      density: share of the prunable weights to keep.
      epochs: fine-tuning epochs, at most; the rest of the schedule is the training's.
      checkpoint: folder for the best epoch's weights and the mask.

    Raises:
      FloatingPointError: if the error is not finite in the first epoch.
    """
    (tuned,) = _fine_tune(task, trained, pruner, {density: checkpoint}, epochs)
    if isinstance(tuned, FloatingPointError):
        raise tuned
    return tuned


def fine_tune_all(
    task: Task, trained: Trained, pruner: Pruner, folder: Path
) -> tuple[tuple[Tuned, ...], tuple[str, ...]]:
    """Fine-tunes at all densities that the settings ask for, at once.

    Args:
      task: the task.
      trained: the dense model.
      pruner: makes the masks; its settings say densities and epochs.
      folder: gets the weights.

    Returns:
      The fine-tuned models, and a warning for each that diverged instead.
    """
    settings = pruner.settings
    checkpoints = {d: folder / f"finetuned-{d:.6g}" for d in settings.finetune_densities}
    found = _fine_tune(task, trained, pruner, checkpoints, settings.finetune_epochs)
    tuned = tuple(each for each in found if isinstance(each, Tuned))
    return tuned, tuple(str(each) for each in found if isinstance(each, FloatingPointError))


def _fine_tune(
    task: Task,
    trained: Trained,
    pruner: Pruner,
    checkpoints: Mapping[float, Path | None],
    epochs: int,
) -> list[Tuned | FloatingPointError]:
    """Fine-tunes at the densities that ``checkpoints`` has folders for."""
    masks = {density: pruner.mask(density) for density in checkpoints}
    lanes = [
        training.Lane(
            training.Forecaster(task.forward, trained.params, trained.state, mask),
            checkpoint=checkpoints[density],
            label=f"fine-tune at {density:.3g}",
        )
        for density, mask in masks.items()
    ]
    fits = training.fit_many(
        lanes,
        task.windows,
        task.starts("train"),
        task.starts("val"),
        dataclasses.replace(task.settings.fit_config(), epochs=epochs),
    )
    rungs = _rungs(task, trained, pruner, masks)
    return [
        fitted if isinstance(fitted, FloatingPointError) else _tuned(task, rung, fitted)
        for rung, fitted in zip(rungs, fits, strict=True)
    ]


def _tuned(task: Task, rung: records.Rung, fitted: training.Fitted) -> Tuned:
    tuned = fitted.forecaster
    error = task.test(tuned.params, tuned.state, mask=tuned.mask)
    revived = jax.tree.map(lambda w, keep: jnp.sum(~keep & (w != 0)), tuned.params, tuned.mask)
    record = records.FineTuning(
        rung,
        error.mse,
        error.mae,
        sum(int(n) for n in jax.tree.leaves(revived)),
        records.Training(fitted.epochs, fitted.best_epoch, fitted.ended),
    )
    return Tuned(tuned.params, tuned.state, tuned.mask, record)


def _rungs(
    task: Task, trained: Trained, pruner: Pruner, masks: Mapping[float, PyTree]
) -> tuple[records.Rung, ...]:
    """The trained model's test errors under masks, by density asked."""
    if not masks:
        return ()
    errors = training.evaluate_many(
        training.Forecaster(task.forward, trained.params, trained.state),
        pruning.stack(list(masks.values())),
        task.windows,
        task.starts("test"),
        batch_size=task.settings.batch_size,
        drop_last=task.settings.drop_last_test,
    )
    return tuple(
        _rung(density, mask, pruner.where, error)
        for (density, mask), error in zip(masks.items(), errors, strict=True)
    )


def _rung(
    density: float, mask: PyTree, where: pruning.Where, error: training.Metrics
) -> records.Rung:
    kept, prunable = pruning.count(mask, where)
    counts = pruning.summary(mask).values()
    return records.Rung(
        asked=density,
        kept=kept,
        prunable=prunable,
        nonzero=sum(kept for kept, _ in counts),
        params=sum(size for _, size in counts),
        mse=error.mse,
        mae=error.mae,
    )
