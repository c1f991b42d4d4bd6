"""What does it cost to cut single weights? One-shot global magnitude pruning and fine-tuning."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from tsjax import pruning, training, trees
from tsjax.study import records
from tsjax.study.runs import Trained
from tsjax.study.settings import PruneSettings
from tsjax.study.task import Task

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Tuned:
    """A fine-tuned model, with its mask and its record."""

    params: PyTree
    state: PyTree
    mask: PyTree
    record: records.FineTuning


def magnitude_mask(params: PyTree, density: float) -> PyTree:
    """The study's mask: global magnitude over the prunable kernels."""
    return pruning.select(pruning.magnitude(params), density)


def ladder(task: Task, trained: Trained, densities: Iterable[float]) -> tuple[records.Rung, ...]:
    """Tests the trained model at each density, without fine-tuning."""
    return tuple(_rung(task, trained, density)[0] for density in densities)


def fine_tune(
    task: Task, trained: Trained, density: float, epochs: int, checkpoint: Path | None = None
) -> Tuned:
    """Prunes the trained model, and trains it on with the mask held.

    Args:
      task: the task.
      trained: the dense model.
      density: share of the prunable weights to keep.
      epochs: fine-tuning epochs, at most; the rest of the schedule is the training's.
      checkpoint: folder for the best epoch's weights and the mask.

    Raises:
      FloatingPointError: if the error is not finite in the first epoch.
    """
    rung, mask = _rung(task, trained, density)
    fitted = training.fit(
        task.forward,
        trained.params,
        trained.state,
        task.windows,
        task.starts("train"),
        task.starts("val"),
        dataclasses.replace(task.settings.fit_config(), epochs=epochs),
        mask=mask,
        checkpoint=checkpoint,
        label=f"fine-tune at {density:.3g}",
    )
    error = task.test(fitted.params, fitted.state, mask=mask)
    revived = jax.tree.map(lambda w, keep: jnp.sum(~keep & (w != 0)), fitted.params, mask)
    record = records.FineTuning(
        rung,
        error.mse,
        error.mae,
        sum(int(n) for n in jax.tree.leaves(revived)),
        records.Training(fitted.epochs, fitted.best_epoch, fitted.ended),
    )
    return Tuned(fitted.params, fitted.state, mask, record)


def fine_tune_all(
    task: Task, trained: Trained, settings: PruneSettings, folder: Path
) -> tuple[tuple[Tuned, ...], tuple[str, ...]]:
    """Fine-tunes at each density that the settings ask for; ``folder`` gets the weights.

    Returns:
      The fine-tuned models, and a warning for each that diverged instead.
    """
    tuned, warnings = [], []
    for density in settings.finetune_densities:
        checkpoint = folder / f"finetuned-{density:.6g}"
        try:
            tuned.append(fine_tune(task, trained, density, settings.finetune_epochs, checkpoint))
        except FloatingPointError as error:
            warnings.append(str(error))
    return tuple(tuned), tuple(warnings)


def _rung(task: Task, trained: Trained, density: float) -> tuple[records.Rung, PyTree]:
    mask = magnitude_mask(trained.params, density)
    error = task.test(trained.params, trained.state, mask=mask)
    counts = pruning.summary(mask)
    leaves = trees.by_path(mask)
    prunable = [path for path, leaf in leaves.items() if pruning.kernels(path, leaf)]
    rung = records.Rung(
        asked=density,
        kept=sum(counts[path][0] for path in prunable),
        prunable=sum(counts[path][1] for path in prunable),
        nonzero=sum(kept for kept, _ in counts.values()),
        params=sum(size for _, size in counts.values()),
        mse=error.mse,
        mae=error.mae,
    )
    return rung, mask
