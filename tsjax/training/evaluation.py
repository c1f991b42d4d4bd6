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
from tsjax.pruning import stacking
from tsjax.training import workers
from tsjax.training.steps import Forward, error_sums, predict_step
from tsjax.training.windows import Windows

PyTree = Any

MEMORY = 2 * 2**30
"""Bytes that programs at work may take together, where nothing else is said: 2 GiB."""

# Steps of one call: few enough for calls to share out evenly, and for Ctrl-C to be heard.
_STEPS = 16
# What a few windows need between two operations stays in a core's cache.
_CPU_WINDOWS = 8


class Metrics(NamedTuple):
    """Means over windows, steps and channels of the scaled series."""

    mse: float
    mae: float
    windows: int


def evaluate(
    forward: Forward,
    params: PyTree,
    state: PyTree,
    windows: Windows,
    starts: np.ndarray,
    *,
    mask: PyTree | None = None,
    batch_size: int = 32,
    drop_last: bool = False,
    memory: int = MEMORY,
) -> Metrics:
    """Mean squared and absolute error over the windows that begin at ``starts`` [N].

    Every window counts once, and its forecast must not depend on the others of its batch: the last
    batch is padded, and its padding weighs nothing. A CPU takes fewer windows at a time than
    ``batch_size``, but on several cores.

    Args:
      forward: the model, see :mod:`tsjax.training.steps`.
      params: its weights.
      state: its other variables.
      windows: the series.
      starts: first rows of the windows.
      mask: which weights are kept; all by default.
      batch_size: windows at a time, at most.
      drop_last: leave out the last incomplete batch, as several published studies did.
      memory: bytes that the cores of a CPU may take together; one core works in any case.

    Raises:
      ValueError: if no window is left to evaluate.
    """
    lane = (params, pruning.ones(params) if mask is None else mask, state)
    evaluation = prepare(forward, lane, windows, starts, batch_size, drop_last=drop_last)
    (metrics,) = evaluation.of([lane], evaluation.threads(memory))
    return metrics


def evaluate_many(
    forward: Forward,
    params: PyTree,
    state: PyTree,
    windows: Windows,
    starts: np.ndarray,
    *,
    masks: PyTree,
    batch_size: int = 32,
    drop_last: bool = False,
    chunk: int | None = None,
    memory: int = MEMORY,
) -> list[Metrics]:
    """Evaluates one model under many masks at once, each as `evaluate` does.

    One program is compiled for ``chunk`` masks, and called for every chunk: neither other masks nor
    another number of chunks or windows compile it again. In a chunk of several, the masks are
    mapped by ``jax.vmap``.

    Args:
      forward: the model.
      params: its weights.
      state: its other variables.
      windows: the series.
      starts: first rows of the windows, [N].
      masks: stacked masks (:func:`tsjax.pruning.stack`), leaves ``[R, ...]``.
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
      ValueError: if no window is left to evaluate, if the leaves of ``masks`` do not agree on R or
        do not fit ``params``, or for a chunk below 1.
    """
    count = stacking.lanes(masks)
    ready = functools.partial(
        prepare, forward, windows=windows, starts=starts, batch_size=batch_size, drop_last=drop_last
    )
    if chunk is None or chunk == 1:
        single = ready(lane=(params, stacking.lane(masks, 0), state))
        if chunk is None:
            chunk = 1 if single.on_cpu else workers.even(count, single.fitting(memory, count))
        if chunk == 1:
            lanes = [(params, mask, state) for mask in stacking.unstack(masks)]
            return single.of(lanes, single.threads(memory))
    chunks = [(params, part, state) for part in stacking.split(masks, min(chunk, count))]
    return ready(lane=chunks[0], axes=(None, 0, None)).of(chunks, threads=1)[:count]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """A compiled evaluation of certain windows, which any thread may call.

    What it evaluates is a lane, ``(params, mask, state)``, or several of them stacked.

    Attributes:
      program: the compiled :func:`_sums`.
      windows: the series.
      batches: arguments ``starts, weights, steps`` of the program's calls.
      count: windows evaluated.
      on_cpu: whether they are on a CPU.
    """

    program: Callable[..., Array]
    windows: Windows
    batches: tuple[tuple[Array, Array, np.int32], ...]
    count: int
    on_cpu: bool

    def fitting(self, memory: int, most: int) -> int:
        """How many such programs may be at work in so many bytes: at least 1, at most ``most``."""
        return workers.fitting(memory, workers.program_bytes(self.program), most)

    def threads(self, memory: int) -> int:
        """How many threads should call."""
        return self.fitting(memory, workers.cores()) if self.on_cpu else 1

    def of(self, lanes: Sequence[tuple[PyTree, PyTree, PyTree]], threads: int) -> list[Metrics]:
        """Metrics of each lane, in order; of stacked ones, of each lane in the stack."""
        calls = [
            functools.partial(self._call, lane, batch) for lane in lanes for batch in self.batches
        ]
        found = np.stack(workers.run_all(calls, threads))
        sums = found.reshape(len(lanes), len(self.batches), -1, 2).sum(axis=1).reshape(-1, 2)
        return [Metrics(float(m[0]), float(m[1]), self.count) for m in sums / self.count]

    def _call(self, lane: tuple[Any, ...], batch: tuple[Any, ...]) -> np.ndarray:
        sums = self.program(*lane, self.windows, *batch)
        # In float64: thousands of batches would lose digits in float32.
        return np.asarray(sums, np.float64).sum(axis=-2)


def prepare(
    forward: Forward,
    lane: tuple[PyTree, PyTree, PyTree],
    windows: Windows,
    starts: np.ndarray,
    batch_size: int,
    *,
    drop_last: bool = False,
    axes: tuple[int | None, ...] = (),
) -> Evaluation:
    """Compiles an evaluation, or finds it compiled.

    Args:
      forward: the model.
      lane: ``(params, mask, state)`` as they will be passed.
      windows: the series.
      starts: first rows of the windows, [N].
      batch_size: windows at a time, at most.
      drop_last: leave out the last incomplete batch.
      axes: ``vmap``'s ``in_axes`` where the lane is a stack of several.

    Raises:
      ValueError: if no window is left to evaluate.
    """
    if drop_last:
        starts = starts[: len(starts) // batch_size * batch_size]
    if not len(starts):
        raise ValueError("there is no window to evaluate")
    on_cpu = workers.on_cpu(windows.values)
    size = min(batch_size, len(starts), _CPU_WINDOWS if on_cpu else batch_size)
    batches = tuple(_calls(starts, size))
    program = _sums.lower(*lane, windows, *batches[0], forward=forward, axes=axes).compile()
    return Evaluation(program, windows, batches, len(starts), on_cpu)


def _calls(starts: np.ndarray, size: int) -> Iterator[tuple[Array, Array, np.int32]]:
    """Arguments for `_sums`: all of one shape, so that one program serves any number of windows."""
    shape = (_STEPS, size)
    for first in range(0, len(starts), _STEPS * size):
        part = starts[first : first + _STEPS * size]
        weights = (np.arange(_STEPS * size) < len(part)).astype(np.float32)
        rows = np.resize(part, shape).astype(np.int32)
        steps = np.int32(-(-len(part) // size))
        yield jnp.asarray(rows), jnp.asarray(weights.reshape(shape)), steps


@functools.partial(jax.jit, static_argnames=("forward", "axes"))
def _sums(
    params: PyTree,
    mask: PyTree,
    state: PyTree,
    windows: Windows,
    starts: Array,
    weights: Array,
    steps: Array,
    *,
    forward: Forward,
    axes: tuple[int | None, ...],
) -> Array:
    """Sums of squared and absolute errors of the first ``steps`` batches, in front of R lanes.

    Args:
      params: the weights.
      mask: which of them are kept; applied once for all batches.
      state: the model's other variables.
      windows: the series.
      starts: first rows of the batches' windows, int32 [S, B].
      weights: 1 for windows that count and 0 for padding, [S, B].
      steps: how many batches there are; the others are not computed.
      forward: the model.
      axes: which of params, mask and state are stacked, as ``in_axes``; empty for no lanes.

    Returns:
      ``[S, 2]``, or ``[R, S, 2]`` with lanes.
    """

    def lane(params: PyTree, mask: PyTree, state: PyTree) -> Array:
        masked = pruning.apply(params, mask)

        def step(i: Array, sums: Array) -> Array:
            found = error_sums(masked, state, windows, starts[i], weights[i], forward=forward)
            return sums.at[i].set(found.astype(sums.dtype))

        return jax.lax.fori_loop(0, steps, step, jnp.zeros((len(starts), 2), weights.dtype))

    return (jax.vmap(lane, axes) if axes else lane)(params, mask, state)


def predict(
    forward: Forward,
    params: PyTree,
    state: PyTree,
    windows: Windows,
    starts: np.ndarray,
    *,
    mask: PyTree | None = None,
    batch_size: int = 32,
) -> np.ndarray:
    """Forecasts [N, pred_len, C] of the windows that begin at ``starts`` [N]; see `evaluate`."""
    if not len(starts):
        raise ValueError("there is no window to forecast")
    mask = pruning.ones(params) if mask is None else mask
    batches = [
        predict_step(params, mask, state, windows, batch, forward=forward)
        for batch, _ in _padded_batches(starts, batch_size)
    ]
    return np.concatenate(batches)[: len(starts)]


def _padded_batches(starts: np.ndarray, batch_size: int) -> Iterator[tuple[Array, Array]]:
    size = min(batch_size, len(starts))
    for first in range(0, len(starts), size):
        batch = starts[first : first + size]
        weights = (np.arange(size) < len(batch)).astype(np.float32)
        yield jnp.asarray(np.resize(batch, size)), jnp.asarray(weights)


def repeat_last(pred_len: int) -> Forward:
    """A forecaster without weights: the last observed value, for every step of the horizon."""
    return _repeat(pred_len, 1)


def seasonal_naive(pred_len: int, period: int) -> Forward:
    """A forecaster without weights: the last ``period`` observed steps, over and over."""
    return _repeat(pred_len, period)


@functools.lru_cache
def _repeat(pred_len: int, period: int) -> Forward:
    def forward(
        params: PyTree, state: PyTree, x_enc: Array, *others: Array, key: Array | None = None
    ) -> tuple[Array, PyTree]:
        del params, others, key
        if x_enc.shape[1] < period:
            raise ValueError(f"period is {period}, but the look-back has {x_enc.shape[1]} steps")
        steps = np.arange(pred_len) % period
        return x_enc[:, x_enc.shape[1] - period + steps], state

    return forward
