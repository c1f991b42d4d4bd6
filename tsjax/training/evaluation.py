"""Errors and forecasts over many windows, and the two forecasters that need no training."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from tsjax import pruning
from tsjax.forecaster import Forecaster, Forward
from tsjax.pruning import stacking
from tsjax.training import workers
from tsjax.training.steps import error_sums, predict_step, with_mask
from tsjax.training.windows import Windows
from tsjax.trees import PyTree

MEMORY = 2 * 2**30
"""Bytes that programs at work may take together, where nothing else is said: 2 GiB."""

# Batches of one call: few enough for calls to share out evenly, and for Ctrl-C to be heard.
_BATCHES = 16
# What a few windows need between two operations stays in a core's cache.
_CPU_WINDOWS = 8


class Metrics(NamedTuple):
    """Means over windows, steps and channels of the scaled series."""

    mse: float
    mae: float
    windows: int


def evaluate(
    forecaster: Forecaster,
    windows: Windows,
    starts: np.ndarray,
    *,
    batch_size: int = 32,
    drop_last: bool = False,
    memory: int = MEMORY,
) -> Metrics:
    """Mean squared and absolute error over the windows that begin at ``starts`` [N].

    Every window counts once, and its forecast must not depend on the others of its batch: the last
    batch is padded, and its padding weighs nothing. A CPU takes fewer windows at a time than
    ``batch_size``, but on several cores.

    Args:
      forecaster: what forecasts; its mask is applied.
      windows: the series.
      starts: first rows of the windows.
      batch_size: windows at a time, at most.
      drop_last: leave out the last incomplete batch, as several published studies did.
      memory: bytes that the cores of a CPU may take together; one core works in any case.

    Raises:
      ValueError: if no window is left to evaluate, if windows do not lie within the series, or if
        the forecast has another shape than the target.
    """
    forecaster = with_mask(forecaster)
    evaluation = prepare(forecaster, windows, starts, batch_size, drop_last=drop_last)
    (metrics,) = evaluation.of([forecaster], evaluation.threads(memory))
    return metrics


def evaluate_many(
    forecaster: Forecaster,
    masks: PyTree,
    windows: Windows,
    starts: np.ndarray,
    *,
    batch_size: int = 32,
    drop_last: bool = False,
    chunk: int | None = None,
    memory: int = MEMORY,
) -> list[Metrics]:
    """Evaluates one forecaster under many masks at once, each as `evaluate` does.

    One program is compiled for ``chunk`` masks, and called for every chunk: neither other masks nor
    another number of chunks or windows compile it again. In a chunk of several, the masks are
    mapped by ``jax.vmap``.

    Args:
      forecaster: what forecasts; ``masks`` take the place of its own.
      masks: stacked masks (:func:`tsjax.pruning.stack`), leaves ``[R, ...]``.
      windows: the series.
      starts: first rows of the windows, [N].
      batch_size: windows at a time, at most.
      drop_last: leave out the last incomplete batch.
      chunk: masks per program. By default one on a CPU, whose cores work on different masks: there
        batched matrix products are slower than one after another. Elsewhere as many as ``memory``
        holds, by XLA's memory analysis of the program for one.
      memory: bytes that programs at work may take together, beside the masks and the series; one
        mask is evaluated in any case.

    Returns:
      R results, in order.

    Raises:
      ValueError: as `evaluate`; also if the leaves of ``masks`` do not agree on R or do not fit the
        params, or for a chunk below 1.
    """
    count = stacking.lanes(masks)

    def under(mask: PyTree) -> Forecaster:
        return dataclasses.replace(forecaster, mask=mask)

    def ready(lane: Forecaster, stacked: tuple[str, ...] = ()) -> Evaluation:
        return prepare(lane, windows, starts, batch_size, drop_last=drop_last, stacked=stacked)

    if chunk is None or chunk == 1:
        single = ready(under(stacking.lane(masks, 0)))
        if chunk is None:
            chunk = 1 if single.on_cpu else workers.even(count, single.fitting(memory, count))
        if chunk == 1:
            lanes = [under(mask) for mask in stacking.unstack(masks)]
            return single.of(lanes, single.threads(memory))
    chunks = [under(part) for part in stacking.split(masks, min(chunk, count))]
    return ready(chunks[0], stacked=("mask",)).of(chunks, threads=1)[:count]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """A compiled evaluation of certain windows, which any thread may call.

    What it evaluates is a lane, a forecaster with a mask, or a forecaster whose leaves are those of
    several lanes, stacked.

    Attributes:
      program: the compiled :func:`_sums`.
      windows: the series.
      calls: arguments ``starts, weights, batches`` of the program's calls.
      count: windows evaluated.
      on_cpu: whether they are on a CPU.
    """

    program: Callable[..., Array]
    windows: Windows
    calls: tuple[tuple[Array, Array, np.int32], ...]
    count: int
    on_cpu: bool

    def fitting(self, memory: int, most: int) -> int:
        """How many such programs may be at work in so many bytes: at least 1, at most ``most``."""
        return workers.fitting(memory, workers.program_bytes(self.program), most)

    def threads(self, memory: int) -> int:
        """How many threads should call."""
        return self.fitting(memory, workers.cores()) if self.on_cpu else 1

    def of(self, lanes: Sequence[Forecaster], threads: int) -> list[Metrics]:
        """Metrics of each lane, in order; of stacked ones, of each lane in the stack."""
        calls = [functools.partial(self._sums, lane, call) for lane in lanes for call in self.calls]
        found = np.stack(workers.run_all(calls, threads))
        sums = found.reshape(len(lanes), len(self.calls), -1, 2).sum(axis=1).reshape(-1, 2)
        return [Metrics(float(m[0]), float(m[1]), self.count) for m in sums / self.count]

    def _sums(self, lane: Forecaster, call: tuple[Array, Array, np.int32]) -> np.ndarray:
        sums = self.program(lane, self.windows, *call)
        # In float64: thousands of batches would lose digits in float32.
        return np.asarray(sums, np.float64).sum(axis=-2)


def prepare(
    lane: Forecaster,
    windows: Windows,
    starts: np.ndarray,
    batch_size: int,
    *,
    drop_last: bool = False,
    stacked: tuple[str, ...] = (),
) -> Evaluation:
    """Compiles an evaluation, or finds it compiled.

    Args:
      lane: a forecaster with a mask, as it will be passed.
      windows: the series.
      starts: first rows of the windows, [N].
      batch_size: windows at a time, at most.
      drop_last: leave out the last incomplete batch.
      stacked: the fields of ``lane`` that are those of several lanes, stacked.

    Raises:
      ValueError: as `evaluate`.
    """
    rows = windows.check(starts)
    if drop_last:
        rows = rows[: len(rows) // batch_size * batch_size]
    if not len(rows):
        raise ValueError("there is no window to evaluate")
    on_cpu = workers.on_cpu(windows.values)
    size = min(batch_size, len(rows), _CPU_WINDOWS if on_cpu else batch_size)
    calls = tuple(_calls(rows, size))
    program = _sums.lower(lane, windows, *calls[0], stacked=stacked).compile()
    return Evaluation(program, windows, calls, len(rows), on_cpu)


def _calls(rows: np.ndarray, size: int) -> Iterator[tuple[Array, Array, np.int32]]:
    """Arguments for `_sums`: all of one shape, so that one program serves any number of windows."""
    shape = (_BATCHES, size)
    for first in range(0, len(rows), _BATCHES * size):
        part = rows[first : first + _BATCHES * size]
        weights = (np.arange(_BATCHES * size) < len(part)).astype(np.float32)
        batches = np.int32(-(-len(part) // size))
        yield jnp.asarray(np.resize(part, shape)), jnp.asarray(weights.reshape(shape)), batches


@functools.partial(jax.jit, static_argnames=("stacked",))
def _sums(
    lane: Forecaster,
    windows: Windows,
    starts: Array,
    weights: Array,
    batches: Array,
    *,
    stacked: tuple[str, ...],
) -> Array:
    """Sums of squared and absolute errors of the first ``batches`` batches, in front of R lanes.

    Args:
      lane: the forecaster, or several of them stacked; the mask is applied once for all batches.
      windows: the series.
      starts: first rows of the batches' windows, int32 [S, B].
      weights: 1 for windows that count and 0 for padding, [S, B].
      batches: how many batches there are; the others are not computed.
      stacked: which fields of ``lane`` are stacked; none for one lane.

    Returns:
      ``[S, 2]``, or ``[R, S, 2]`` with lanes.
    """

    def sums_of(lane: Forecaster) -> Array:
        masked = pruning.apply(lane.params, lane.mask)

        def add(i: Array, sums: Array) -> Array:
            found = error_sums(
                masked, lane.state, windows, starts[i], weights[i], forward=lane.forward
            )
            return sums.at[i].set(found.astype(sums.dtype))

        return jax.lax.fori_loop(0, batches, add, jnp.zeros((len(starts), 2), weights.dtype))

    if not stacked:
        return sums_of(lane)
    axes: Any = {name: 0 if name in stacked else None for name in ("params", "state", "mask")}
    return jax.vmap(sums_of, (dataclasses.replace(lane, **axes),))(lane)


def predict(
    forecaster: Forecaster, windows: Windows, starts: np.ndarray, *, batch_size: int = 32
) -> np.ndarray:
    """Forecasts [N, pred_len, C] of the windows that begin at ``starts`` [N].

    Arguments are those of `evaluate`.

    Raises:
      ValueError: as `evaluate`.
    """
    rows = windows.check(starts)
    if not len(rows):
        raise ValueError("there is no window to forecast")
    lane = with_mask(forecaster)
    size = min(batch_size, len(rows))
    batches = [
        predict_step(
            lane.params, lane.mask, lane.state, windows,
            np.resize(rows[first : first + size], size), forward=lane.forward,
        )
        for first in range(0, len(rows), size)
    ]  # fmt: skip
    return np.concatenate(batches)[: len(rows)]


def repeat_last(pred_len: int) -> Forecaster:
    """A forecaster without weights: the last observed value, for every step of the horizon."""
    return seasonal_naive(pred_len, 1)


def seasonal_naive(pred_len: int, period: int) -> Forecaster:
    """A forecaster without weights: the last ``period`` observed steps, over and over."""
    return Forecaster(_repeat(pred_len, period), {})


@functools.lru_cache
def _repeat(pred_len: int, period: int) -> Forward:
    """Cached, because evaluation is compiled anew for a new function."""

    def forward(
        params: PyTree, state: PyTree, x_enc: Array, *others: Array, key: Array | None = None
    ) -> tuple[Array, PyTree]:
        del params, others, key
        if x_enc.shape[1] < period:
            raise ValueError(f"period is {period}, but the look-back has {x_enc.shape[1]} steps")
        steps = np.arange(pred_len) % period
        return x_enc[:, x_enc.shape[1] - period + steps], state

    return forward
