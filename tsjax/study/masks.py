"""What does it cost to cut single weights? One-shot pruning and fine-tuning."""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import ClassVar

import jax
import jax.numpy as jnp

from tsjax import pruning, training
from tsjax.settings import among, at_least, distinct, filled, setting, share
from tsjax.study import records
from tsjax.study.criteria import CRITERIA, calibration
from tsjax.study.folder import RunFolder
from tsjax.study.prunable import EXEMPT, EXEMPT_MEANS, prunable
from tsjax.study.settings import TrainSettings
from tsjax.study.task import Task
from tsjax.study.trained import Trained
from tsjax.trees import PyTree

SCOPES = (*pruning.SCOPES, "erk")


@dataclasses.dataclass(frozen=True)
class PruneSettings(TrainSettings):
    """Also what to prune; a ``checkpoint`` takes the place of training."""

    script: ClassVar[str] = "prune"

    checkpoint: str | None = setting(
        None, "run folder whose trained model is used (else train)", group="pruning"
    )
    densities: tuple[float, ...] = setting(
        pruning.ladder(0.8, 10, floor=0.01),
        "densities to test, without fine-tuning",
        filled,
        share(),
        distinct,
    )
    finetune_densities: tuple[float, ...] = setting(
        (1.0, 0.8**5, 0.8**10),
        "densities to fine-tune at; 1 is the control, the dense model trained on as long",
        share(),
        distinct,
    )
    finetune_epochs: int = setting(1, "fine-tuning epochs, at most", at_least(1))
    criterion: str = setting(
        "magnitude", f"how weights are scored: {', '.join(CRITERIA)}", among(CRITERIA)
    )
    scope: str = setting(
        "global",
        "what is ranked together: global, leaf, or erk (each leaf, small ones denser)",
        among(SCOPES),
    )
    block: tuple[int, ...] = setting(
        (), "prune whole blocks, e.g. 4,4; empty for single weights", at_least(1)
    )
    exempt: str = setting("output_projection", EXEMPT_MEANS, among(EXEMPT))
    prune_complex: bool = setting(False, "prune FEDformer's Fourier weights as well")
    calibration_batches: int = setting(
        8, "training batches from which weights are scored", at_least(1)
    )


@dataclasses.dataclass(frozen=True)
class Pruner:
    """Makes masks of a model whose weights have been scored once.

    Attributes:
      scores: of its weights.
      params: its weights.
      settings: what is ranked together, and in which blocks.
      where: the prunable leaves.
    """

    scores: PyTree
    params: PyTree
    settings: PruneSettings
    where: pruning.Where

    def mask(self, density: float) -> PyTree:
        """The mask at a density."""
        s = self.settings
        pattern = pruning.Blocks(s.block) if s.block else None
        if s.scope in pruning.SCOPES:
            return pruning.select(self.scores, density, s.scope, self.where, pattern=pattern)
        shares = pruning.erk(self.params, density, self.where)
        return pruning.select(self.scores, shares, where=self.where, pattern=pattern)


def pruner(task: Task, trained: Trained, settings: PruneSettings) -> Pruner:
    """Scores a trained model's weights by the criterion that the settings name."""
    batches = calibration(task, settings.calibration_batches)
    where = prunable(task, settings.exempt, prune_complex=settings.prune_complex)
    scores = CRITERIA[settings.criterion](task, trained, batches, where)
    return Pruner(scores, trained.forecaster.params, settings, where)


@dataclasses.dataclass(frozen=True)
class Tuned:
    """A fine-tuned model, which holds its mask, and its record."""

    forecaster: training.Forecaster
    record: records.FineTuning


def rungs(
    task: Task, trained: Trained, pruner: Pruner, densities: Iterable[float]
) -> tuple[records.Rung, ...]:
    """Tests the trained model at each density, all at once, without fine-tuning."""
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
    checkpoints = {d: RunFolder(folder).finetuned(d) for d in settings.finetune_densities}
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
            dataclasses.replace(trained.forecaster, mask=mask),
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
    error = task.test(tuned)
    revived = jax.tree.map(lambda w, keep: jnp.sum(~keep & (w != 0)), tuned.params, tuned.mask)
    record = records.FineTuning(
        rung,
        error.mse,
        error.mae,
        sum(int(n) for n in jax.tree.leaves(revived)),
        records.Training(fitted.epochs, fitted.best_epoch, fitted.ended),
    )
    return Tuned(tuned, record)


def _rungs(
    task: Task, trained: Trained, pruner: Pruner, masks: Mapping[float, PyTree]
) -> tuple[records.Rung, ...]:
    """The trained model's test errors under masks, by density asked."""
    if not masks:
        return ()
    errors = training.evaluate_many(
        trained.forecaster,
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
