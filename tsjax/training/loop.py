"""The training loop: Adam, a decaying rate, early stopping, the best weights kept."""

import dataclasses
import functools
import logging
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from tqdm import tqdm

from tsjax import pruning
from tsjax.training import checkpoints
from tsjax.training.evaluation import evaluate
from tsjax.training.steps import Forward, TrainState, init_state, train_step
from tsjax.training.windows import Windows

PyTree = Any
log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class FitConfig:
    """How to train.

    Attributes:
      epochs: passes over the training windows, at most.
      batch_size: windows per step.
      learning_rate: Adam's rate in the first epochs.
      lr_decay: factor on the rate after each epoch.
      full_rate_epochs: epochs before the decay begins.
      patience: epochs without a better validation error before training stops.
      seed: fixes shuffling and dropout.
      drop_last: leave out each epoch's last incomplete batch (the order is new in each epoch).
    """

    epochs: int = 10
    batch_size: int = 32
    learning_rate: float = 1e-4
    lr_decay: float = 0.5
    full_rate_epochs: int = 1
    patience: int = 3
    seed: int = 0
    drop_last: bool = True

    def __post_init__(self) -> None:
        found = [
            f"{name} must be at least 1, got {getattr(self, name)}"
            for name in ("epochs", "batch_size", "full_rate_epochs", "patience")
            if getattr(self, name) < 1
        ]
        if not 0 <= self.seed < 2**32:
            found.append(f"seed must be at least 0 and below 2**32, got {self.seed}")
        if not 0 < self.learning_rate < math.inf:
            found.append(f"learning_rate must be positive, got {self.learning_rate}")
        if not 0 < self.lr_decay <= 1:
            found.append(f"lr_decay must be in (0, 1], got {self.lr_decay}")
        if found:
            raise ValueError("; ".join(found))


@dataclasses.dataclass(frozen=True)
class Epoch:
    """What one epoch did; ``seconds`` is wall time with compilation and validation."""

    epoch: int
    learning_rate: float
    train_mse: float
    val_mse: float
    val_mae: float
    seconds: float


@dataclasses.dataclass(frozen=True)
class Fitted:
    """The weights of the best epoch, and the way there."""

    params: PyTree
    state: PyTree
    epochs: tuple[Epoch, ...]
    best_epoch: int
    ended: str


def fit(
    forward: Forward,
    params: PyTree,
    state: PyTree,
    windows: Windows,
    train_starts: np.ndarray,
    val_starts: np.ndarray,
    config: FitConfig,
    *,
    mask: PyTree | None = None,
    checkpoint: Path | None = None,
    label: str = "train",
    progress: bool | None = None,
) -> Fitted:
    """Trains ``params`` with Adam on the mean squared error, and returns the best epoch's.

    Training ends after ``config.epochs``, when the validation error has not fallen for
    ``config.patience`` epochs, or when an error is no longer finite.

    Args:
      forward: the model, see :mod:`tsjax.training.steps`.
      params: weights to start from.
      state: the model's other variables.
      windows: the series.
      train_starts: first rows of the training windows, [N].
      val_starts: first rows of the validation windows.
      config: how to train.
      mask: which weights are kept; the others stay exactly zero. All by default.
      checkpoint: folder in which the best epoch's params, state and mask are saved.
      label: what the progress bar says.
      progress: whether to show the bar; by default only on a terminal.

    Raises:
      FloatingPointError: if an error is not finite before one epoch has been validated.
      ValueError: if there is no window to train on or to validate on.
    """
    for part, starts in (("train on", train_starts), ("validate on", val_starts)):
        if not len(starts):
            raise ValueError(f"{label}: there is no window to {part}")
    batch_size = min(config.batch_size, len(train_starts))
    whole = len(train_starts) // batch_size
    steps = whole if config.drop_last else math.ceil(len(train_starts) / batch_size)
    tx, rate = _optimiser(config.learning_rate, config.lr_decay, config.full_rate_epochs, steps)
    mask = pruning.ones(params) if mask is None else mask
    key = jax.random.fold_in(jax.random.key(config.seed), 1)
    train = init_state(params, state, mask, tx, key)

    epochs: list[Epoch] = []
    best, best_mse, best_epoch = (train.params, state), math.inf, 0
    ended = f"all {config.epochs} epochs done"
    hidden = None if progress is None else not progress
    with tqdm(total=config.epochs * steps, unit="step", disable=hidden, leave=False) as bar:
        for epoch in range(1, config.epochs + 1):
            began = time.perf_counter()
            bar.set_description(f"{label}, epoch {epoch} of {config.epochs}")
            learning_rate = float(rate(train.step))
            batches = _shuffled(train_starts, batch_size, steps, (config.seed, epoch))
            train, loss = _run_epoch(train, windows, batches, bar, forward, tx)
            val = evaluate(
                forward, train.params, train.state, windows, val_starts,
                mask=mask, batch_size=config.batch_size,
            )  # fmt: skip
            if not (math.isfinite(loss) and math.isfinite(val.mse)):
                ended = f"the error was not finite in epoch {epoch}"
                break
            seconds = time.perf_counter() - began
            epochs.append(Epoch(epoch, learning_rate, loss, val.mse, val.mae, seconds))
            bar.clear()  # The line goes above the bar, not into it.
            log.info(
                "%s, epoch %d of %d: train MSE %.4f, validation MSE %.4f, MAE %.4f, %.1f s",
                label, epoch, config.epochs, loss, val.mse, val.mae, seconds,
            )  # fmt: skip
            if val.mse < best_mse:
                best, best_mse, best_epoch = (train.params, train.state), val.mse, epoch
                if checkpoint is not None:
                    tree = {"params": train.params, "state": train.state, "mask": mask}
                    checkpoints.save(checkpoint, tree)
            elif epoch - best_epoch >= config.patience:
                ended = f"no better validation error in {config.patience} epochs"
                break
    if not best_epoch:
        raise FloatingPointError(
            f"{label}: {ended}, and no epoch gave a finite validation error; "
            f"try a learning rate below {config.learning_rate:g}"
        )
    return Fitted(*best, tuple(epochs), best_epoch, ended)


@functools.lru_cache
def _optimiser(
    learning_rate: float, decay: float, full_rate_epochs: int, steps: int
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """Adam and its rate; cached, because the jitted step is compiled anew for a new optimiser."""

    def rate(step: Array) -> Array:
        halvings = jnp.maximum(step // steps - (full_rate_epochs - 1), 0)
        return learning_rate * jnp.power(decay, halvings.astype(jnp.float32))

    return optax.adam(rate), rate


def _shuffled(
    starts: np.ndarray, batch_size: int, steps: int, seed: tuple[int, int]
) -> Iterator[np.ndarray]:
    order = np.random.default_rng(seed).permutation(starts)
    for step in range(steps):
        yield order[step * batch_size : (step + 1) * batch_size]


def _run_epoch(
    train: TrainState,
    windows: Windows,
    batches: Iterator[np.ndarray],
    bar: Any,
    forward: Forward,
    tx: optax.GradientTransformation,
) -> tuple[TrainState, float]:
    """All steps of one epoch; returns the new state and the mean loss."""
    losses: list[Array] = []
    shown = time.perf_counter()
    for batch in batches:
        train, loss = train_step(train, windows, jnp.asarray(batch), forward=forward, tx=tx)
        losses.append(loss)
        bar.update()
        # Reading the loss waits for the device, so it is read only as often as a person looks.
        if not bar.disable and time.perf_counter() - shown > 0.5:
            bar.set_postfix(loss=f"{float(loss):.4f}", refresh=False)
            shown = time.perf_counter()
    return train, float(np.mean(np.asarray(jax.device_get(losses), np.float64)))
