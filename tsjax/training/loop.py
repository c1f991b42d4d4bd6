"""The training loop: Adam, a decaying rate, early stopping, the best weights kept.

Several trainings that differ in weights, mask or seed are lanes of one loop: side by side on the
cores of a CPU, or as one ``vmap`` of the train step.
"""

import dataclasses
import functools
import itertools
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from tqdm import tqdm

from tsjax import pruning
from tsjax.pruning import stacking
from tsjax.training import checkpoints, workers
from tsjax.training.evaluation import MEMORY, Metrics, evaluate, prepare
from tsjax.training.steps import (
    Forward,
    TrainState,
    algorithm_key,
    init_state,
    train_step,
    train_steps,
)
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
      lr_decay: factor on the rate at each decay; 1 keeps the rate constant.
      full_rate_epochs: epochs before the first decay.
      decay_every: epochs from one decay to the next.
      lr_floor: the least rate, as a share of ``learning_rate``.
      patience: epochs without a better validation error before training stops.
      seed: fixes shuffling and dropout.
      drop_last: leave out each epoch's last incomplete batch (the order is new in each epoch).
    """

    epochs: int = 10
    batch_size: int = 32
    learning_rate: float = 1e-4
    lr_decay: float = 0.5
    full_rate_epochs: int = 1
    decay_every: int = 1
    lr_floor: float = 0.0
    patience: int = 3
    seed: int = 0
    drop_last: bool = True

    def __post_init__(self) -> None:
        found = [
            f"{name} must be at least 1, got {getattr(self, name)}"
            for name in ("epochs", "batch_size", "full_rate_epochs", "decay_every", "patience")
            if getattr(self, name) < 1
        ]
        if not 0 <= self.seed < 2**32:
            found.append(f"seed must be at least 0 and below 2**32, got {self.seed}")
        if not 0 < self.learning_rate < math.inf:
            found.append(f"learning_rate must be positive, got {self.learning_rate}")
        if not 0 < self.lr_decay <= 1:
            found.append(f"lr_decay must be in (0, 1], got {self.lr_decay}")
        if not 0 <= self.lr_floor <= 1:
            found.append(f"lr_floor must be in [0, 1], got {self.lr_floor}")
        if found:
            raise ValueError("; ".join(found))


def steps_per_epoch(config: FitConfig, windows: int) -> int:
    """Steps that one epoch on so many training windows takes."""
    batch_size = min(config.batch_size, windows)
    return windows // batch_size if config.drop_last else math.ceil(windows / batch_size)


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
    """Weights, other variables and mask of the best epoch, and the way there."""

    params: PyTree
    state: PyTree
    mask: PyTree
    epochs: tuple[Epoch, ...]
    best_epoch: int
    ended: str


@dataclasses.dataclass(frozen=True)
class Lane:
    """One of several trainings: what it does not share with the others.

    Attributes:
      params: weights to start from.
      state: the model's other variables.
      mask: which weights are kept; the others stay exactly zero. All by default.
      seed: fixes shuffling and dropout; by default the config's.
      checkpoint: folder in which the best epoch's params, state and mask are saved.
      label: what progress and messages call it.
    """

    params: PyTree
    state: PyTree
    mask: PyTree | None = None
    seed: int | None = None
    checkpoint: Path | None = None
    label: str = "train"


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
    algorithm: pruning.Algorithm | None = None,
    loss_starts: np.ndarray | None = None,
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
      algorithm: changes the mask during training, in place of ``mask``. Epochs before it has
        settled, as gradual pruning does at its last density, count neither as best nor as worse.
      loss_starts: first rows of the windows on whose error an algorithm decides that reads one;
        the validation windows by default.
      checkpoint: folder in which the best epoch's params, state and mask are saved.
      label: what the progress bar says.
      progress: whether to show the bar; by default only on a terminal.

    Raises:
      FloatingPointError: if an error is not finite before one epoch has been validated.
      ValueError: if there is no window to train on or to validate on, or for a mask and an
        algorithm.
    """
    if mask is not None and algorithm is not None:
        raise ValueError("an algorithm finds its own mask: pass one of the two")
    lane = Lane(params, state, mask, None, checkpoint, label)
    _check_starts(label, train_starts, val_starts)
    rows = np.asarray(train_starts, np.int32)
    shared = _Shared(forward, windows, rows, val_starts, config, progress)
    fitted = _alone(shared, lane, algorithm, loss_starts)
    if isinstance(fitted, FloatingPointError):
        raise fitted
    return fitted


def fit_many(
    forward: Forward,
    lanes: Sequence[Lane],
    windows: Windows,
    train_starts: np.ndarray,
    val_starts: np.ndarray,
    config: FitConfig,
    *,
    chunk: int | None = None,
    memory: int = MEMORY,
    progress: bool | None = None,
) -> tuple[Fitted | FloatingPointError, ...]:
    """Trains several lanes at once, each as `fit` trains it alone.

    Args:
      forward: the model.
      lanes: what the trainings do not share; their trees are alike in structure, shapes and dtypes.
      windows: the series.
      train_starts: first rows of the training windows, [N].
      val_starts: first rows of the validation windows.
      config: how to train.
      chunk: lanes, at most, that one program trains by ``vmap``, until all of them have ended. By
        default one on a CPU, whose cores take different lanes: there batched matrix products are
        slower than one after another. Elsewhere as many as ``memory`` holds, by XLA's memory
        analysis of the step for one.
      memory: bytes that train steps at work may take together; one lane is trained in any case.
      progress: whether to show bars; by default only on a terminal.

    Returns:
      For each lane, in order, what `fit` returns, or the FloatingPointError that it raises: a lane
      that fails does no harm to the others.

    Raises:
      ValueError: if there is no window to train on or to validate on, for a chunk below 1, or if
        the lanes' trees differ.
    """
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk must be at least 1, got {chunk}")
    if not lanes:
        return ()
    _check_starts(lanes[0].label, train_starts, val_starts)
    shared = _Shared(
        forward, windows, np.asarray(train_starts, np.int32), val_starts, config, progress
    )
    stacking.check_alike([shared.start(lane) for lane in lanes])
    on_cpu = workers.on_cpu(windows.values)
    if chunk is None and not on_cpu:
        first = _init(**shared.start(lanes[0]), tx=shared.static["tx"])
        batch = next(shared.batches(lanes[0], 1))
        step = train_step.lower(first, windows, batch, **shared.static).compile()
        chunk = workers.fitting(memory, workers.program_bytes(step), len(lanes))
    if chunk is not None and min(chunk, len(lanes)) > 1:
        return _mapped(shared, lanes, chunk)
    if len(lanes) > 1 and on_cpu:
        return _side_by_side(shared, lanes, memory)
    return tuple(_alone(shared, lane) for lane in lanes)


def _check_starts(label: str, train_starts: np.ndarray, val_starts: np.ndarray) -> None:
    for part, starts in (("train on", train_starts), ("validate on", val_starts)):
        if not len(starts):
            raise ValueError(f"{label}: there is no window to {part}")


@dataclasses.dataclass(frozen=True)
class _Shared:
    """The arguments of `fit_many` that all lanes share, and what follows from them."""

    forward: Forward
    windows: Windows
    train_starts: np.ndarray
    val_starts: np.ndarray
    config: FitConfig
    progress: bool | None

    @property
    def steps(self) -> int:
        return steps_per_epoch(self.config, len(self.train_starts))

    @property
    def rate(self) -> optax.Schedule:
        return self._optimiser[1]

    @property
    def static(self) -> dict[str, Any]:
        """What a train step is compiled for."""
        return {"forward": self.forward, "tx": self._optimiser[0]}

    @property
    def _optimiser(self) -> tuple[optax.GradientTransformation, optax.Schedule]:
        c = self.config
        return _optimiser(
            c.learning_rate, c.lr_decay, c.full_rate_epochs, c.decay_every, c.lr_floor, self.steps
        )

    def seed(self, lane: Lane) -> int:
        return self.config.seed if lane.seed is None else lane.seed

    def start(self, lane: Lane) -> dict[str, Any]:
        """What `init_state` makes the lane's first state of, but the optimiser."""
        mask = pruning.ones(lane.params) if lane.mask is None else lane.mask
        key = jax.random.fold_in(jax.random.key(self.seed(lane)), 1)
        return {"params": lane.params, "state": lane.state, "mask": mask, "key": key}

    def batches(self, lane: Lane, epoch: int) -> Iterator[np.ndarray]:
        """First rows of each step's windows, [B], in the order of the lane's seed."""
        order = np.random.default_rng((self.seed(lane), epoch)).permutation(self.train_starts)
        size = min(self.config.batch_size, len(order))
        for step in range(self.steps):
            yield order[step * size : (step + 1) * size]


Step = Callable[[TrainState, Array], tuple[TrainState, Array]]
Validate = Callable[[TrainState], list[Metrics]]
Ended = Fitted | FloatingPointError

_init = jax.jit(init_state, static_argnames="tx")
# Orbax's savers get in one another's way.
_SAVING = threading.Lock()


def _alone(
    shared: _Shared,
    lane: Lane,
    algorithm: pruning.Algorithm | None = None,
    loss_starts: np.ndarray | None = None,
) -> Ended:
    """Trains one lane, with the machine to itself; its mask may change on the way."""

    def error(train: TrainState, starts: np.ndarray | None) -> Metrics:
        starts = shared.val_starts if starts is None else starts
        return evaluate(
            shared.forward, train.params, train.state, shared.windows, starts,
            mask=train.mask, batch_size=shared.config.batch_size,
        )  # fmt: skip

    steps = itertools.count(1)
    unknown = jnp.float32(math.nan)

    def step(train: TrainState, batch: Array) -> tuple[TrainState, Array]:
        val_mse = None
        if algorithm is not None and algorithm.reads_loss:
            due = bool(algorithm.due(next(steps)))
            val_mse = jnp.float32(error(train, loss_starts).mse) if due else unknown
        return train_step(train, shared.windows, batch, algorithm, val_mse, **shared.static)

    def validate(train: TrainState) -> list[Metrics]:
        return [error(train, None)]

    start = shared.start(lane)
    if algorithm is not None:
        sparse = algorithm.init(lane.params, algorithm_key(start["key"]))
        start |= {"mask": sparse.mask, "memory": sparse.memory}
    first = _init(**start, tx=shared.static["tx"])
    settled = algorithm.settled if algorithm is not None else None
    (found,) = _train(shared, [lane], first, step, validate, settled=settled)
    return found


def _side_by_side(shared: _Shared, lanes: Sequence[Lane], memory: int) -> tuple[Ended, ...]:
    """Trains each lane in a thread, as many at a time as there are cores and memory."""
    # A thread computes nothing but what is compiled here: see `workers`.
    starts = [shared.start(lane) for lane in lanes]
    init = _init.lower(**starts[0], tx=shared.static["tx"]).compile()
    first = init(**starts[0])
    sizes = {len(batch): batch for batch in shared.batches(lanes[0], 1)}
    programs = {
        size: train_step.lower(first, shared.windows, batch, None, None, **shared.static).compile()
        for size, batch in sizes.items()
    }
    evaluation = prepare(
        shared.forward, _lane(first), shared.windows, shared.val_starts, shared.config.batch_size
    )
    del first
    stop = threading.Event()

    def step(train: TrainState, batch: Array) -> tuple[TrainState, Array]:
        return programs[len(batch)](train, shared.windows, batch, None, None)

    def validate(train: TrainState) -> list[Metrics]:
        return evaluation.of([_lane(train)], threads=1)

    def train(lane: Lane, start: dict[str, Any]) -> Ended:
        (found,) = _train(shared, [lane], init(**start), step, validate, stop=stop)
        return found

    calls = [functools.partial(train, *both) for both in zip(lanes, starts, strict=True)]
    each = workers.program_bytes(programs[max(programs)])
    return tuple(workers.run_all(calls, workers.fitting(memory, each, workers.cores()), stop))


def _mapped(shared: _Shared, lanes: Sequence[Lane], chunk: int) -> tuple[Ended, ...]:
    """Trains lanes in equal chunks of at most ``chunk``, each of them by one program."""

    def step(train: TrainState, batch: Array) -> tuple[TrainState, Array]:
        return train_steps(train, shared.windows, batch, **shared.static)

    def validate(train: TrainState) -> list[Metrics]:
        evaluation = prepare(
            shared.forward, _lane(train), shared.windows, shared.val_starts,
            shared.config.batch_size, axes=(0, 0, 0),
        )  # fmt: skip
        return evaluation.of([_lane(train)], threads=1)

    size = workers.even(len(lanes), chunk)
    found: list[Ended] = []
    for begin in range(0, len(lanes), size):
        part = list(lanes[begin : begin + size])
        first = [_init(**shared.start(lane), tx=shared.static["tx"]) for lane in part]
        # A last chunk that is not full is filled up: another size would be another program.
        first += first[-1:] * (size - len(part))
        found += _train(shared, part, stacking.stack(first), step, validate, size)
    return tuple(found)


def _lane(train: TrainState) -> tuple[PyTree, PyTree, PyTree]:
    """What is evaluated, and kept of the best epoch."""
    return train.params, train.mask, train.state


def _train(
    shared: _Shared,
    lanes: Sequence[Lane],
    train: TrainState,
    step: Step,
    validate: Validate,
    size: int = 1,
    stop: threading.Event | None = None,
    settled: Callable[[int], Array] | None = None,
) -> list[Ended]:
    """Trains until the last lane has ended.

    Args:
      shared: what the lanes share.
      lanes: what they do not.
      train: the lane's first state; of several, their states stacked.
      step: a step of this state on the rows of a batch, int32 [B]; of several lanes, [R, B].
      validate: the lanes' errors on the validation windows.
      size: lanes in the state, which may be more than there are: those are left out of account.
      stop: set where another thread has failed.
      settled: whether epochs count that end with this step; all by default.
    """
    config, steps, mapped = shared.config, shared.steps, size > 1
    runs = [_Run(lane, config) for lane in lanes]
    label = " and ".join(dict.fromkeys(lane.label for lane in lanes))
    hidden = None if shared.progress is None else not shared.progress
    with tqdm(total=config.epochs * steps, unit="step", disable=hidden, leave=False) as bar:
        for epoch in range(1, config.epochs + 1):
            began = time.perf_counter()
            bar.set_description(f"{label}, epoch {epoch} of {config.epochs}")
            learning_rate = float(shared.rate(jnp.int32((epoch - 1) * steps)))
            each = [shared.batches(lanes[min(i, len(lanes) - 1)], epoch) for i in range(size)]
            batches = map(np.stack, zip(*each, strict=True)) if mapped else each[0]
            train, losses = _run_epoch(train, batches, bar, step, stop)
            errors = validate(train)
            seconds = time.perf_counter() - began
            bar.clear()  # The lines go above the bar, not into it.
            for i, run in enumerate(runs):
                loss, val = float(losses[i]), errors[i]
                done = Epoch(epoch, learning_rate, loss, val.mse, val.mae, seconds)
                # If none has settled, the last epoch counts.
                unsettled = settled is not None and not settled(epoch * steps)
                counts = not unsettled or (epoch == config.epochs and run.best is None)
                if run.ended is None and run.add(done, counts=counts):
                    found = _lane(train)
                    run.keep(*(stacking.lane(found, i) if mapped else found))
            if all(run.ended for run in runs):
                break
    return [run.result() for run in runs]


def _run_epoch(
    train: TrainState,
    batches: Iterator[np.ndarray],
    bar: Any,
    step: Step,
    stop: threading.Event | None,
) -> tuple[TrainState, np.ndarray]:
    """All steps of one epoch; returns the new state and each lane's mean loss."""
    losses: list[Array] = []
    shown = time.perf_counter()
    for batch in batches:
        if stop is not None and stop.is_set():
            raise RuntimeError("another lane was interrupted")
        train, loss = step(train, jnp.asarray(batch))
        losses.append(loss)
        bar.update()
        # Reading the loss waits for the device, so it is read only as often as a person looks.
        if not bar.disable and time.perf_counter() - shown > 0.5:
            bar.set_postfix(loss=f"{np.mean(loss):.4f}", refresh=False)
            shown = time.perf_counter()
    each = np.asarray(jax.device_get(losses), np.float64).reshape(len(losses), -1)
    return train, each.mean(axis=0)


class _Run:
    """What has become of one lane so far."""

    def __init__(self, lane: Lane, config: FitConfig) -> None:
        self.lane, self.config = lane, config
        self.epochs: list[Epoch] = []
        self.best: tuple[PyTree, PyTree, PyTree] | None = None
        self.best_epoch, self.best_mse = 0, math.inf
        self.since = 0
        self.ended: str | None = None

    def add(self, done: Epoch, *, counts: bool) -> bool:
        """Takes note of an epoch, and says whether it is the best of those that count."""
        if not (math.isfinite(done.train_mse) and math.isfinite(done.val_mse)):
            self.ended = f"the error was not finite in epoch {done.epoch}"
            return False
        self.epochs.append(done)
        log.info(
            "%s, epoch %d of %d: train MSE %.4f, validation MSE %.4f, MAE %.4f, %.1f s",
            self.lane.label, done.epoch, self.config.epochs, done.train_mse, done.val_mse,
            done.val_mae, done.seconds,
        )  # fmt: skip
        if not counts:
            self.since = done.epoch
            return False
        if done.val_mse < self.best_mse:
            self.best_epoch, self.best_mse = done.epoch, done.val_mse
            return True
        if done.epoch - max(self.best_epoch, self.since) >= self.config.patience:
            self.ended = f"no better validation error in {self.config.patience} epochs"
        return False

    def keep(self, params: PyTree, mask: PyTree, state: PyTree) -> None:
        """Keeps and saves what the best epoch left."""
        self.best = params, state, mask
        if self.lane.checkpoint is not None:
            tree = {"params": params, "state": state, "mask": mask}
            with _SAVING:
                checkpoints.save(self.lane.checkpoint, tree)

    def result(self) -> Ended:
        """What `fit` returns or raises."""
        ended = self.ended or f"all {self.config.epochs} epochs done"
        if self.best is None:
            return FloatingPointError(
                f"{self.lane.label}: {ended}, and no epoch gave a finite validation error; "
                f"try a learning rate below {self.config.learning_rate:g}"
            )
        return Fitted(*self.best, tuple(self.epochs), self.best_epoch, ended)


@functools.lru_cache
def _optimiser(
    learning_rate: float,
    decay: float,
    full_rate_epochs: int,
    decay_every: int,
    floor: float,
    steps: int,
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """Adam and its rate; cached, because the jitted step is compiled anew for a new optimiser."""

    def rate(step: Array) -> Array:
        # The first epoch after those at the full rate has decayed once.
        decayed = jnp.maximum(step // steps - (full_rate_epochs - 1), 0)
        decays = (decayed + (decay_every - 1)) // decay_every
        share = jnp.power(decay, decays.astype(jnp.float32))
        return learning_rate * jnp.maximum(share, floor)

    return optax.adam(rate), rate
