"""The roofline of a device: what it does at most, and what of that bounds a function.

A call takes at least as long as its arithmetic at the device's best rate, about as long as its
bytes take to move, and at least as long as its kernels take to start (Williams, Waterman and
Patterson, "Roofline", CACM 2009, with the third bound added). Which of the three is largest says
what a narrower model can gain: width takes away arithmetic and bytes, but no kernels.

Bytes move faster where they fit a cache, so that the bandwidth is measured for arrays of several
sizes, and a program's is that of arrays as large as all its memory. This is an estimate: what a
program touches again at once, it may find in a smaller cache still.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from tsjax.costs.programs import Program, compile_ahead
from tsjax.costs.timing import sample

PRECISIONS = {
    "float32": ("float32", "highest"),
    "tfloat32": ("float32", "tensorfloat32"),
    "bfloat16": ("bfloat16", "default"),
}
"""{name: (dtype of the operands, precision of the products)}; tfloat32 is float32 on a CPU."""

BOUNDS = ("arithmetic", "memory", "launches")


@dataclass(frozen=True)
class Peaks:
    """What a device does at most, as measured; made by `measure_peaks`.

    Attributes:
      precision: a name of `PRECISIONS`.
      flops: floating-point operations a second, in matrix products.
      bandwidths: (bytes of an array, bytes a second read and written), adding 1 to the array over
        and over in place; ascending, the last one fits no cache.
      launch: seconds for each further kernel of a program.
      dispatch: seconds of a call, however little it does.
      device: platform and kind.
    """

    precision: str
    flops: float
    bandwidths: tuple[tuple[int, float], ...]
    launch: float
    dispatch: float
    device: str

    def bandwidth(self, size: int | None = None) -> float:
        """The bandwidth for an array of this size, in bytes a second.

        It is that of the next larger array that was measured. Without a size, or where none is
        larger, it is that of the largest one, which fits into no cache.
        """
        rates = [rate for measured, rate in self.bandwidths if size and measured >= size]
        return rates[0] if rates else self.bandwidths[-1][1]

    def or_better(self, other: "Peaks") -> "Peaks":
        """The better figures of two measurements, since whatever disturbs one lowers its figures.

        Args:
          other: measured on the same device, in the same precision, with the same arrays.
        """
        pairs = zip(self.bandwidths, other.bandwidths, strict=True)
        return dataclasses.replace(
            self,
            flops=max(self.flops, other.flops),
            bandwidths=tuple(max(pair) for pair in pairs),
            launch=min(self.launch, other.launch),
            dispatch=min(self.dispatch, other.dispatch),
        )


@dataclass(frozen=True)
class Place:
    """Where a function lies on the roofline, in seconds; made by `place`.

    Attributes:
      arithmetic: of its FLOPs at the peak rate.
      memory: of the bytes that the compiled program reads and writes, at the bandwidth of arrays as
        large as its memory.
      launches: of the call and its kernels.
      measured: median seconds of a call.
      flops: floating-point operations.
      bytes: that the compiled program reads and writes.
    """

    arithmetic: float
    memory: float
    launches: float
    measured: float
    flops: int
    bytes: float

    @property
    def bound(self) -> str:
        """What takes longest: one of `BOUNDS`."""
        return max(BOUNDS, key=lambda name: getattr(self, name))

    @property
    def least(self) -> float:
        """The seconds of what takes longest."""
        return max(self.arithmetic, self.memory, self.launches)

    @property
    def attained(self) -> float:
        """Share of the bound that is attained: the least seconds over the measured ones."""
        return self.least / self.measured

    @property
    def intensity(self) -> float:
        """FLOPs a byte."""
        return self.flops / self.bytes


def place(flops: int, program: Program, seconds: float, peaks: Peaks) -> Place:
    """Places a measured function on the roofline of the device that it was measured on.

    Args:
      flops: its operations, from `costs.count`.
      program: the compiled function, from `costs.compile_ahead` or a timing.
      seconds: of a call, the median of its timing.
      peaks: of the device, in the precision that the function was measured in.

    Raises:
      ValueError: where the two are of different devices, or XLA says nothing of bytes or kernels.
    """
    if program.device != peaks.device:
        raise ValueError(f"timed on {program.device}, but the peaks are those of {peaks.device}")
    if not program.xla_bytes or program.kernels is None:
        raise ValueError(f"XLA does not say what the program moves and runs on {program.device}")
    return Place(
        arithmetic=flops / peaks.flops,
        memory=program.xla_bytes / peaks.bandwidth(program.peak_bytes),
        launches=peaks.dispatch + program.kernels * peaks.launch,
        measured=seconds,
        flops=flops,
        bytes=program.xla_bytes,
    )


def measure_peaks(
    precision: str = "float32",
    *,
    widths: tuple[int, ...] | None = None,
    arrays: Sequence[int] = (10**6, 4 * 10**6, 16 * 10**6, 64 * 10**6, 256 * 10**6, 10**9),
    chain: int = 200,
    repeats: int = 5,
) -> Peaks:
    """Measures what the default device does at most, in about a minute.

    Args:
      precision: a name of `PRECISIONS`.
      widths: of the square matrices that are multiplied, of which the best rate holds; None for
        512, 1024 and 2048 on a CPU, 4096 and 8192 elsewhere.
      arrays: bytes of the arrays that are read and written, ascending; the last is to be several
        times what caches hold.
      chain: kernels of the longer one of two programs, whose times differ by what kernels cost.
      repeats: samples of each, of which the shortest holds: a peak is what nothing disturbs.

    Raises:
      ValueError: for another precision.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    dtype, products = PRECISIONS[precision]

    def fastest(fn: Callable[..., Any], *args: Any) -> float:
        limits: dict[str, Any] = {"repeats": repeats, "max_repeats": repeats, "min_seconds": 0.0}
        return min(sample(compile_ahead(fn, *args).call, [args], warmup=1, **limits))

    device = jax.devices()[0]
    matrices = widths or ((512, 1024, 2048) if device.platform == "cpu" else (4096, 8192))

    def best_rate() -> float:
        rates = []
        for width in matrices:
            a, b = (jnp.full((width, width), 0.5, dtype) + i for i in range(2))
            seconds = fastest(lambda a, b: jnp.matmul(a, b, precision=products), a, b)
            rates.append(2 * width**3 / seconds)
        return max(rates)

    first_rate = best_rate()
    bandwidths = []
    for size in arrays:
        words = jnp.zeros(max(1, size // 4), jnp.float32)
        turns = max(8, int(arrays[-1] / size) // 4)
        once, often = (fastest(_additions(n), words) for n in (1, turns))
        bandwidths.append((words.nbytes, _bandwidth(words.nbytes, turns, once, often)))
    small = jnp.eye(8)
    short, long = (fastest(_products(n), small) for n in (chain // 10, chain))
    return Peaks(
        precision=precision,
        # Before and after all else: what slows a machine for a moment slows one of them.
        flops=max(first_rate, best_rate()),
        bandwidths=tuple(bandwidths),
        launch=max(0.0, long - short) / (chain - chain // 10),
        dispatch=fastest(lambda x: x + 1, jnp.zeros(())),
        device=f"{device.platform}: {device.device_kind}",
    )


def _bandwidth(size: int, turns: int, once: float, often: float) -> float:
    """Bytes a second of reading and writing an array, from the seconds of one turn and of several.

    Their difference leaves out the time that it takes to provide memory for the result. Where the
    one turn was disturbed so much that the difference says nothing, all turns are taken as they
    are.
    """
    if once > often / 2:
        return turns * 2 * size / often
    return (turns - 1) * 2 * size / (often - once)


def _additions(times: int) -> Callable[[jax.Array], jax.Array]:
    """Adds 1 so many times, each time to all of an array."""
    return lambda x: jax.lax.fori_loop(0, times, lambda _, y: y + 1, x)


def _products(length: int) -> Callable[[jax.Array], jax.Array]:
    """So many small products, each of the last one's result, which no compiler fuses."""
    return lambda x: functools.reduce(lambda y, _: jnp.matmul(y, x), range(length), x)
