"""Several trainings at once, which differ in weights, mask or seed.

They are lanes of the one trainer in :mod:`tsjax.training.loop`: side by side on the cores of a CPU,
or as one ``vmap`` of the train step.
"""

import dataclasses
import functools
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jax import Array

from tsjax import pruning
from tsjax.forecaster import Forecaster
from tsjax.pruning import stacking
from tsjax.training import workers
from tsjax.training.evaluation import MEMORY, Metrics, prepare
from tsjax.training.loop import NOT_READ, Outcome, Programs, Run, Shared, alone, init, train
from tsjax.training.schedule import FitConfig
from tsjax.training.steps import TrainState, train_step, train_steps
from tsjax.training.windows import Windows


@dataclasses.dataclass(frozen=True)
class Lane:
    """One of several trainings: what it does not share with the others.

    Attributes:
      forecaster: where to start from; its mask is held.
      seed: fixes shuffling and dropout; by default the config's.
      checkpoint: folder in which the best epoch's params, state and mask are saved.
      label: what progress and messages call it.
    """

    forecaster: Forecaster
    seed: int | None = None
    checkpoint: Path | None = None
    label: str = "train"


def fit_many(
    lanes: Sequence[Lane],
    windows: Windows,
    train_starts: np.ndarray,
    val_starts: np.ndarray,
    config: FitConfig,
    *,
    chunk: int | None = None,
    memory: int = MEMORY,
    progress: bool | None = None,
) -> tuple[Outcome, ...]:
    """Trains several lanes at once, each as `fit` trains it alone.

    Args:
      lanes: what the trainings do not share. Their forecasters have the same ``forward``, and trees
        alike in structure, shapes and dtypes; those without a mask train beside those with one.
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
      ValueError: as `fit`; also for a chunk below 1, or if the lanes' forecasters differ in more
        than the values of their leaves.
    """
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk must be at least 1, got {chunk}")
    if not lanes:
        return ()
    forward = lanes[0].forecaster.forward
    starts = {"train_starts": train_starts, "val_starts": val_starts}
    shared = Shared.of(forward, windows, starts, config, progress, lanes[0].label)
    runs = [_run(lane, config) for lane in lanes]
    _check_alike(lanes, runs)
    on_cpu = workers.on_cpu(windows.values)
    if chunk is None:
        chunk = 1 if on_cpu else _fitting(shared, runs, memory)
    if min(chunk, len(runs)) > 1:
        return _mapped(shared, runs, chunk)
    if len(runs) > 1 and on_cpu:
        return _side_by_side(shared, runs, memory)
    return tuple(alone(shared, run) for run in runs)


def _run(lane: Lane, config: FitConfig) -> Run:
    return Run(
        lane.forecaster, config, label=lane.label, checkpoint=lane.checkpoint, seed=lane.seed
    )


def _check_alike(lanes: Sequence[Lane], runs: Sequence[Run]) -> None:
    forward = lanes[0].forecaster.forward
    for i, lane in enumerate(lanes):
        if lane.forecaster.forward != forward:
            raise ValueError(
                f"all lanes must have the forward of lane 0, {forward!r}; "
                f"that of lane {i} is {lane.forecaster.forward!r}"
            )
    stacking.check_alike([run.start for run in runs])


def _fitting(shared: Shared, runs: Sequence[Run], memory: int) -> int:
    """Lanes whose train steps fit into so many bytes."""
    first = init(**runs[0].start, tx=shared.tx)
    rows = next(shared.rows(runs[0], 1))
    step = _compiled_step(shared, first, rows, runs[0].algorithm)
    return workers.fitting(memory, workers.program_bytes(step), len(runs))


def _compiled_step(
    shared: Shared, state: TrainState, rows: np.ndarray, algorithm: pruning.Algorithm
) -> Any:
    """The program that `alone` calls too."""
    arguments = state, shared.windows, rows, algorithm, NOT_READ
    return train_step.lower(*arguments, **shared.static).compile()


def _side_by_side(shared: Shared, runs: Sequence[Run], memory: int) -> tuple[Outcome, ...]:
    """Trains each lane in a thread, as many at a time as there are cores and memory."""
    # A thread computes nothing but what is compiled here: see `workers`.
    start = init.lower(**runs[0].start, tx=shared.tx).compile()
    first = start(**runs[0].start)
    sizes = {len(rows): rows for rows in shared.rows(runs[0], 1)}
    steps = {
        size: _compiled_step(shared, first, rows, runs[0].algorithm) for size, rows in sizes.items()
    }
    evaluation = prepare(
        shared.forecaster(first), shared.windows, shared.val_rows, shared.config.batch_size
    )
    del first
    stop = threading.Event()

    def train_one(run: Run) -> Outcome:
        def step(state: TrainState, rows: Array) -> tuple[TrainState, Array]:
            return steps[len(rows)](state, shared.windows, rows, run.algorithm, NOT_READ)

        programs = Programs(
            step=step,
            errors=lambda state: evaluation.of([shared.forecaster(state)], threads=1),
            rows=lambda epoch: shared.rows(run, epoch),
            lane=lambda state, _: shared.forecaster(state),
        )
        (outcome,) = train(shared, [run], start(**run.start), programs, stop=stop)
        return outcome

    each = workers.program_bytes(steps[max(steps)])
    threads = workers.fitting(memory, each, workers.cores())
    return tuple(workers.run_all([functools.partial(train_one, r) for r in runs], threads, stop))


def _mapped(shared: Shared, runs: Sequence[Run], chunk: int) -> tuple[Outcome, ...]:
    """Trains lanes in equal chunks of at most ``chunk``, each of them by one program."""
    size = workers.even(len(runs), chunk)
    found: list[Outcome] = []
    for begin in range(0, len(runs), size):
        found += _mapped_chunk(shared, runs[begin : begin + size], size)
    return tuple(found)


def _mapped_chunk(shared: Shared, runs: Sequence[Run], size: int) -> list[Outcome]:
    # A last chunk that is not full is filled up: another size would be another program.
    filled = [*runs, *[runs[-1]] * (size - len(runs))]
    algorithms = stacking.stack([run.algorithm for run in filled])

    def step(state: TrainState, rows: Array) -> tuple[TrainState, Array]:
        return train_steps(state, shared.windows, rows, algorithms, **shared.static)

    def errors(state: TrainState) -> list[Metrics]:
        lane = shared.forecaster(state)
        evaluation = prepare(
            lane, shared.windows, shared.val_rows, shared.config.batch_size,
            stacked=("params", "state", "mask"),
        )  # fmt: skip
        return evaluation.of([lane], threads=1)

    def rows(epoch: int) -> Iterator[np.ndarray]:
        return map(np.stack, zip(*(shared.rows(run, epoch) for run in filled), strict=True))

    programs = Programs(
        step, errors, rows, lane=lambda state, i: stacking.lane(shared.forecaster(state), i)
    )
    state = stacking.stack([init(**run.start, tx=shared.tx) for run in filled])
    return train(shared, runs, state, programs)
