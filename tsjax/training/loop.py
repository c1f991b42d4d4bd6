"""The training loop: Adam, a decaying rate, early stopping, the best weights kept."""

import dataclasses
import itertools
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from tqdm import tqdm

from tsjax import pruning
from tsjax.forecaster import Forecaster, Forward
from tsjax.training import checkpoints
from tsjax.training.evaluation import Metrics, evaluate
from tsjax.training.schedule import FitConfig, optimiser, steps_per_epoch
from tsjax.training.steps import TrainState, algorithm_key, init_state, train_step, with_mask
from tsjax.training.windows import Windows

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Epoch:
    """What one epoch did; ``seconds`` is wall time with compilation and validation.

    Lanes that train side by side share the machine meanwhile, and so the time.
    """

    epoch: int
    learning_rate: float
    train_mse: float
    val_mse: float
    val_mae: float
    seconds: float


@dataclasses.dataclass(frozen=True)
class Fitted:
    """The forecaster of the best epoch, and the way there.

    Attributes:
      forecaster: its weights, state and mask; the mask is None where training pruned nothing.
      epochs: what each epoch did.
      best_epoch: the epoch with the lowest validation error, from 1.
      ended: why training ended.
    """

    forecaster: Forecaster
    epochs: tuple[Epoch, ...]
    best_epoch: int
    ended: str


Outcome = Fitted | FloatingPointError
"""What becomes of a training."""


def fit(
    forecaster: Forecaster,
    windows: Windows,
    train_starts: np.ndarray,
    val_starts: np.ndarray,
    config: FitConfig,
    *,
    algorithm: pruning.Algorithm | None = None,
    loss_starts: np.ndarray | None = None,
    checkpoint: Path | None = None,
    label: str = "train",
    progress: bool | None = None,
) -> Fitted:
    """Trains with Adam on the mean squared error, and returns the best epoch's forecaster.

    Training ends after ``config.epochs``, when the validation error has not fallen for
    ``config.patience`` epochs, or when an error is no longer finite.

    Args:
      forecaster: where to start from. Its mask is held: the weights that it prunes stay exactly
        zero.
      windows: the series.
      train_starts: first rows of the training windows, [N].
      val_starts: first rows of the validation windows.
      config: how to train.
      algorithm: finds and changes the mask during training, for a forecaster without one. Epochs
        before it has settled, as gradual pruning does at its last density, count neither as best
        nor as worse.
      loss_starts: first rows of the windows on whose error an algorithm decides that reads one;
        the validation windows by default.
      checkpoint: folder in which the best epoch's params, state and mask are saved.
      label: what the progress bar says.
      progress: whether to show the bar; by default only on a terminal.

    Raises:
      FloatingPointError: if an error is not finite before one epoch has been validated.
      ValueError: if there is no window to train on or to validate on, if windows do not lie within
        the series, if the forecast has another shape than the target, or for a mask and an
        algorithm.
    """
    if forecaster.mask is not None and algorithm is not None:
        raise ValueError(
            "an algorithm finds its own mask: pass a forecaster without a mask, or no algorithm"
        )
    run = Run(forecaster, config, algorithm, label=label, checkpoint=checkpoint)
    parts = {"train_starts": train_starts, "val_starts": val_starts}
    if loss_starts is not None:
        parts["loss_starts"] = loss_starts
    shared = Shared.of(forecaster.forward, windows, parts, config, progress, label)
    outcome = alone(shared, run)
    if isinstance(outcome, FloatingPointError):
        raise outcome
    return outcome


def alone(shared: "Shared", run: "Run") -> Outcome:
    """Trains with the machine to itself; the mask may change on the way."""
    algorithm = run.algorithm
    numbers = itertools.count(1)

    def error(state: TrainState, rows: np.ndarray) -> Metrics:
        lane = shared.forecaster(state)
        return evaluate(lane, shared.windows, rows, batch_size=shared.config.batch_size)

    def step(state: TrainState, rows: Array) -> tuple[TrainState, Array]:
        due = algorithm.reads_loss and bool(algorithm.due(next(numbers)))
        loss = jnp.float32(error(state, shared.loss_rows).mse) if due else NOT_READ
        return train_step(state, shared.windows, rows, algorithm, loss, **shared.static)

    programs = Programs(
        step=step,
        errors=lambda state: [error(state, shared.val_rows)],
        rows=lambda epoch: shared.rows(run, epoch),
        lane=lambda state, _: shared.forecaster(state),
    )
    state = init(**run.start, tx=shared.tx)
    (outcome,) = train(shared, [run], state, programs, algorithm.settled)
    return outcome


NOT_READ = np.float32(math.nan)
"""The validation error in steps that need none: always a number, so that one program serves all."""

init = jax.jit(init_state, static_argnames="tx")


@dataclasses.dataclass(frozen=True)
class Shared:
    """What trainings share that differ in weights, mask and seed, and what follows from it.

    Attributes:
      forward: the model.
      windows: the series.
      train_rows: first rows of the training windows, int32 [N].
      val_rows: of the validation windows.
      loss_rows: of the windows on whose error an algorithm decides.
      config: how to train.
      progress: whether to show bars.
    """

    forward: Forward
    windows: Windows
    train_rows: np.ndarray
    val_rows: np.ndarray
    loss_rows: np.ndarray
    config: FitConfig
    progress: bool | None

    @classmethod
    def of(
        cls,
        forward: Forward,
        windows: Windows,
        starts: dict[str, np.ndarray],
        config: FitConfig,
        progress: bool | None,
        label: str,
    ) -> Self:
        """Checks the starts, which are named as `fit` names them.

        Raises:
          ValueError: if there is no window to train on or to validate on, or if windows do not lie
            within the series.
        """
        for name, what in (("train_starts", "train on"), ("val_starts", "validate on")):
            if not len(starts[name]):
                raise ValueError(f"{label}: there is no window to {what}")
        found = {name: windows.check(each, f"{label}: {name}") for name, each in starts.items()}
        train, val = found["train_starts"], found["val_starts"]
        return cls(forward, windows, train, val, found.get("loss_starts", val), config, progress)

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return steps_per_epoch(self.config, len(self.train_rows))

    @property
    def tx(self) -> optax.GradientTransformation:
        """The optimiser."""
        return optimiser(self.config, self.steps)[0]

    @property
    def rate(self) -> optax.Schedule:
        """The learning rate by the step."""
        return optimiser(self.config, self.steps)[1]

    @property
    def static(self) -> dict[str, Any]:
        """What a train step is compiled for."""
        return {"forward": self.forward, "tx": self.tx}

    def rows(self, run: "Run", epoch: int) -> Iterator[np.ndarray]:
        """First rows of the windows of each step of an epoch, int32 [B], in the run's order."""
        order = np.random.default_rng((run.seed, epoch)).permutation(self.train_rows)
        size = min(self.config.batch_size, len(order))
        for step in range(self.steps):
            yield order[step * size : (step + 1) * size]

    def forecaster(self, state: TrainState) -> Forecaster:
        """What a state evaluates, or the stacked forecasters of stacked states."""
        return Forecaster(self.forward, state.params, state.state, state.mask)


class Programs(NamedTuple):
    """What the trainer calls. Its state is that of one lane, or of several lanes, stacked.

    Attributes:
      step: the state and each lane's loss, from a state and the rows of a step.
      errors: each lane's errors on the validation windows, from a state.
      rows: the rows of each step of an epoch, int32 [B], or [R, B] for stacked lanes.
      lane: the forecaster of the lane of this number, from a state.
    """

    step: Callable[[TrainState, Array], tuple[TrainState, Array]]
    errors: Callable[[TrainState], list[Metrics]]
    rows: Callable[[int], Iterator[np.ndarray]]
    lane: Callable[[TrainState, int], Forecaster]


def train(
    shared: Shared,
    runs: "Sequence[Run]",
    state: TrainState,
    programs: Programs,
    settled: Callable[[int], Any] = lambda _: True,
    stop: threading.Event | None = None,
) -> list[Outcome]:
    """Trains until the last lane has ended.

    Args:
      shared: what the lanes share.
      runs: what has become of each of them so far. The state may have more lanes than these, which
        are left out of account.
      state: the first state.
      programs: the steps and the validation.
      settled: whether epochs count that end with this step.
      stop: set where another thread has failed.
    """
    config, steps = shared.config, shared.steps
    label = " and ".join(dict.fromkeys(run.label for run in runs))
    hidden = None if shared.progress is None else not shared.progress
    with tqdm(total=config.epochs * steps, unit="step", disable=hidden, leave=False) as bar:
        for epoch in range(1, config.epochs + 1):
            began = time.perf_counter()
            bar.set_description(f"{label}, epoch {epoch} of {config.epochs}")
            learning_rate = float(shared.rate(jnp.int32((epoch - 1) * steps)))
            state, losses = _run_epoch(state, programs.rows(epoch), bar, programs.step, stop)
            errors = programs.errors(state)
            seconds = time.perf_counter() - began
            counts = bool(settled(epoch * steps))
            bar.clear()  # The lines go above the bar, not into it.
            for i, run in enumerate(runs):
                loss, val = float(losses[i]), errors[i]
                done = Epoch(epoch, learning_rate, loss, val.mse, val.mae, seconds)
                if run.add(done, counts=counts):
                    run.keep(programs.lane(state, i))
            if all(run.ended for run in runs):
                break
    return [run.outcome() for run in runs]


def _run_epoch(
    state: TrainState,
    batches: Iterator[np.ndarray],
    bar: Any,
    step: Callable[[TrainState, Array], tuple[TrainState, Array]],
    stop: threading.Event | None,
) -> tuple[TrainState, np.ndarray]:
    """All steps of one epoch; returns the new state and each lane's mean loss."""
    losses: list[Array] = []
    shown = time.perf_counter()
    for rows in batches:
        if stop is not None and stop.is_set():
            raise RuntimeError("another lane was interrupted")
        state, loss = step(state, jnp.asarray(rows))
        losses.append(loss)
        bar.update()
        # Reading the loss waits for the device, so it is read only as often as a person looks.
        if not bar.disable and time.perf_counter() - shown > 0.5:
            bar.set_postfix(loss=f"{np.mean(loss):.4f}", refresh=False)
            shown = time.perf_counter()
    each = np.asarray(jax.device_get(losses), np.float64).reshape(len(losses), -1)
    return state, each.mean(axis=0)


class Run:
    """One training: where it starts, and what has become of it so far."""

    # Orbax's savers get in one another's way.
    _saving = threading.Lock()

    def __init__(
        self,
        forecaster: Forecaster,
        config: FitConfig,
        algorithm: pruning.Algorithm | None = None,
        *,
        label: str,
        checkpoint: Path | None,
        seed: int | None = None,
    ) -> None:
        self.label, self.checkpoint, self.config = label, checkpoint, config
        self.seed = config.seed if seed is None else seed
        self.prunes = forecaster.mask is not None or algorithm is not None
        self.algorithm = algorithm or pruning.Hold(with_mask(forecaster).mask)
        self.start = self._start(forecaster)
        self.epochs: list[Epoch] = []
        self.best: Forecaster | None = None
        self.best_epoch, self.best_mse = 0, math.inf
        self.since = 0
        self.ended: str | None = None

    def _start(self, forecaster: Forecaster) -> dict[str, Any]:
        """What `init_state` makes the first state of, but the optimiser."""
        key = jax.random.fold_in(jax.random.key(self.seed), 1)
        sparse = self.algorithm.init(forecaster.params, algorithm_key(key))
        model = {"params": forecaster.params, "state": forecaster.state, "mask": sparse.mask}
        return model | {"key": key, "memory": sparse.memory}

    def add(self, done: Epoch, *, counts: bool) -> bool:
        """Takes note of an epoch unless training has ended, and says whether it is the best."""
        if self.ended is not None:
            return False
        if not (math.isfinite(done.train_mse) and math.isfinite(done.val_mse)):
            self.ended = f"the error was not finite in epoch {done.epoch}"
            return False
        self.epochs.append(done)
        log.info(
            "%s, epoch %d of %d: train MSE %.4f, validation MSE %.4f, MAE %.4f, %.1f s",
            self.label, done.epoch, self.config.epochs, done.train_mse, done.val_mse,
            done.val_mae, done.seconds,
        )  # fmt: skip
        # If none has counted before it, the last epoch counts in any case.
        if not counts and (done.epoch < self.config.epochs or self.best is not None):
            self.since = done.epoch
            return False
        if done.val_mse < self.best_mse:
            self.best_epoch, self.best_mse = done.epoch, done.val_mse
            return True
        if done.epoch - max(self.best_epoch, self.since) >= self.config.patience:
            self.ended = f"no better validation error in {self.config.patience} epochs"
        return False

    def keep(self, forecaster: Forecaster) -> None:
        """Keeps and saves what the best epoch left."""
        self.best = forecaster
        if self.checkpoint is not None:
            tree = {name: getattr(forecaster, name) for name in ("params", "state", "mask")}
            with self._saving:
                checkpoints.save(self.checkpoint, tree)

    def outcome(self) -> Outcome:
        """What `fit` returns or raises."""
        ended = self.ended or f"all {self.config.epochs} epochs done"
        if self.best is None:
            return FloatingPointError(
                f"{self.label}: {ended}, and no epoch gave a finite validation error; "
                f"try a learning rate below {self.config.learning_rate:g}"
            )
        best = self.best if self.prunes else dataclasses.replace(self.best, mask=None)
        return Fitted(best, tuple(self.epochs), self.best_epoch, ended)
