"""Times a compiled function on the device, without the usual ways to fool oneself.

The function is compiled ahead of time with everything that it reads as an argument; one whose work
the compiler could do beforehand, on arrays that it closes over, is refused. Its inputs are on the
device, in several copies that take turns; the first calls are thrown away; every sample waits until
the result is there; and what remains is reported as a median with quartiles, beside the time that a
call of an almost empty function takes.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tsjax import trees
from tsjax.costs.programs import Program, compile_ahead, device_of
from tsjax.trees import PyTree


@dataclass(frozen=True)
class Timing:
    """Times of one compiled function, in seconds; `measure` and `measure_in_turns` make it.

    Attributes:
      samples: seconds per call, in the order in which they were taken.
      dispatch: median seconds of a call that adds 1 to a scalar, sampled the same way: what a call
        costs before it does anything.
      program: what was timed, with its seconds of compiling and XLA's own estimates.
      device_peak_bytes: the most that the process has had on the device so far, or None where the
        device doesn't say.
    """

    samples: tuple[float, ...] = field(repr=False)
    dispatch: float
    program: Program
    device_peak_bytes: int | None = None

    @property
    def repeats(self) -> int:
        """Number of samples."""
        return len(self.samples)

    @property
    def median(self) -> float:
        """Median seconds per call."""
        return float(np.median(self.samples))

    @property
    def quartiles(self) -> tuple[float, float]:
        """First and third quartile of the seconds per call, interpolated linearly."""
        first, third = np.percentile(self.samples, (25, 75))
        return float(first), float(third)

    @property
    def iqr(self) -> float:
        """Interquartile range: third less first quartile."""
        first, third = self.quartiles
        return third - first

    @property
    def minimum(self) -> float:
        """Shortest sample."""
        return min(self.samples)


def measure(fn: Callable[..., Any], params: PyTree, *inputs: PyTree, **limits: Any) -> Timing:
    """Compiles `fn(params, *inputs)` and measures the time of a call.

    `fn` must take what it reads as arguments: arrays that it closes over are constants to the
    compiler, which may compute with them beforehand. Nothing is donated.

    Args:
      fn: function of arrays, jitted or not.
      params: tree of arrays; one copy on the device, as in use.
      *inputs: further arguments, trees of arrays.
      **limits: see `measure_in_turns`.

    Returns:
      The timing.

    Raises:
      ValueError: where a leaf is a `jax.ShapeDtypeStruct` (its path is named), where more than a
        tenth of the function's FLOPs are done on arrays that it closes over, or where the limits
        make no sense.
    """
    return measure_in_turns({"fn": (fn, params)}, *inputs, **limits)["fn"]


def measure_in_turns(
    functions: Mapping[str, tuple[Callable[..., Any], PyTree]],
    *inputs: PyTree,
    repeats: int = 30,
    min_seconds: float = 0.5,
    max_repeats: int = 10_000,
    warmup: int = 3,
    copies: int = 3,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Measures several functions of the same inputs, one call of each in turn.

    What slows the machine down for a while then slows all of them, and leaves their ratios alone.

    Args:
      functions: `(fn, params)` by name; see `measure`.
      *inputs: further arguments of every function, trees of arrays.
      repeats: the least number of samples of each.
      min_seconds: sampling goes on until the samples of each add up to this, too.
      max_repeats: the greatest number of samples; it ends the sampling in any case.
      warmup: calls of each before the first sample.
      copies: how many copies of the inputs take turns, so that the last call's input is not what
        this call finds in the cache.
      clock: gives the time in seconds.

    Returns:
      Timings by name.

    Raises:
      ValueError: as `measure` does.
    """
    for _, params in functions.values():
        _check_concrete(params, inputs)
    if copies < 1:
        raise ValueError(f"copies must be at least 1, got {copies}.")
    limits: dict[str, Any] = {"repeats": repeats, "max_repeats": max_repeats, "warmup": warmup}
    limits["clock"] = clock
    turns = [jax.tree.map(jnp.copy, inputs) for _ in range(copies)]
    programs, calls = [], []
    for fn, params in functions.values():
        params = jax.device_put(params)
        arguments = [(params, *copy) for copy in turns]
        programs.append(compile_ahead(fn, *arguments[0], clock=clock))
        calls.append((programs[-1].call, arguments))

    samples = sample_in_turns(calls, min_seconds=min_seconds, **limits)
    dispatch = measure_dispatch(copies=copies, min_seconds=min_seconds / 10, **limits)
    peak = (device_of(turns[0]).memory_stats() or {}).get("peak_bytes_in_use")
    return {
        name: Timing(samples[i], dispatch, programs[i], device_peak_bytes=peak)
        for i, name in enumerate(functions)
    }


def _check_concrete(params: PyTree, inputs: Sequence[PyTree]) -> None:
    abstract = [
        f"{'params' if i == 0 else f'inputs[{i - 1}]'}{'/' if path else ''}{path}"
        for i, tree in enumerate((params, *inputs))
        for path, leaf in trees.by_path(tree).items()
        if isinstance(leaf, jax.ShapeDtypeStruct)
    ]
    if abstract:
        raise ValueError(
            "measure runs the function and needs arrays, but these are jax.ShapeDtypeStruct: "
            f"{', '.join(abstract)}. Pass arrays of that shape, or use count, which only traces."
        )


def sample(
    call: Callable[..., Any], arguments: Sequence[tuple[Any, ...]], **limits: Any
) -> tuple[float, ...]:
    """Seconds of single calls; `sample_in_turns` of one call."""
    return sample_in_turns([(call, arguments)], **limits)[0]


def sample_in_turns(
    calls: Sequence[tuple[Callable[..., Any], Sequence[tuple[Any, ...]]]],
    *,
    repeats: int,
    min_seconds: float,
    max_repeats: int,
    warmup: int = 3,
    lead: int = 0,
    clock: Callable[[], float] = time.perf_counter,
    block: Callable[[Any], Any] = jax.block_until_ready,
) -> list[tuple[float, ...]]:
    """Seconds of single calls, each from its start until its result is there.

    Args:
      calls: what to time, compiled already, each with argument tuples that take turns.
      repeats: the least number of samples of each.
      min_seconds: sampling goes on until the samples of each add up to this, too.
      max_repeats: the greatest number of samples of each; it ends the sampling in any case.
      warmup: calls of each before the first sample, at least 1.
      lead: calls before each sample that are not timed. Threads that another framework has left
        spinning come to rest in them.
      clock: gives the time in seconds.
      block: waits for a result of a call.

    Returns:
      The samples of each, in order.

    Raises:
      ValueError: where the limits make no sense.
    """
    if not 1 <= repeats <= max_repeats:
        raise ValueError(f"need 1 <= repeats <= max_repeats, got {repeats} and {max_repeats}.")
    if warmup < 1:
        raise ValueError(f"warmup must be at least 1, got {warmup}: no first call is timed.")
    turns = [(call, cycle(arguments)) for call, arguments in calls]
    for call, arguments in turns:
        for args in islice(arguments, warmup):
            block(call(*args))
    samples: list[list[float]] = [[] for _ in calls]
    totals = [0.0 for _ in calls]
    rounds = 0
    while rounds < repeats or (min(totals) < min_seconds and rounds < max_repeats):
        rounds += 1
        for i, (call, arguments) in enumerate(turns):
            for args in islice(arguments, lead):
                block(call(*args))
            args = next(arguments)
            start = clock()
            result = call(*args)
            block(result)
            samples[i].append(clock() - start)
            totals[i] += samples[i][-1]
            # Here, and not in the next call's time, the outputs are freed.
            del result
    return [tuple(seconds) for seconds in samples]


def measure_dispatch(*, copies: int = 3, **limits: Any) -> float:
    """Median seconds of a call that adds 1 to a scalar: what a call costs before it does anything.

    Args:
      copies: how many copies of the scalar take turns.
      **limits: see `sample_in_turns`.
    """
    arguments = [(jnp.zeros((), jnp.float32).copy(),) for _ in range(copies)]
    program = compile_ahead(lambda x: x + 1, *arguments[0])
    return float(np.median(sample(program.call, arguments, **limits)))
