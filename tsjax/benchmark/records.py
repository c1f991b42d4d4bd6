"""What a benchmark finds, as plain records."""

import dataclasses

from tsjax import costs
from tsjax.results import Result


@dataclasses.dataclass(frozen=True)
class Measurement:
    """The time of one model, variant, task, engine and batch size, and what explains it.

    What does not apply, or cannot be had, is None. Variants and engines take turns, one call of
    each after the other. The ratios of times are of paired turns: each time is divided by the
    other's of the same turn, and the ratio is the median of these.

    Attributes:
      model: the model.
      variant: how it was cut.
      task: inference, or training: forward and backward pass and Adam's update.
      engine: what ran it.
      batch: windows a call.
      params: parameters.
      flops: of a call, counted from the trace of ours.
      uncounted: primitives of that trace without a rule, as in ``costs.Count``.
      bytes_moved: parameters, inputs and outputs, each once.
      median_ms: of a call.
      q1_ms: first quartile.
      q3_ms: third quartile.
      repeats: samples.
      compile_s: seconds until the first call can be made, of engines that compile.
      dispatch_ms: of a call that does next to nothing.
      peak_mb: memory that the call needs, in 10^6 bytes.
      kernels: operations run one after the other.
      bytes_run: that the compiled program reads and writes, as XLA estimates.
      arithmetic_ms: of its FLOPs at the peak rate, as in ``costs.Place``; so the next two.
      memory_ms: of its bytes.
      launches_ms: of the call and its kernels.
      bound: which of the three takes longest.
      least_ms: how long that takes.
      energy_j: joules that the device draws during a call, at rest included.
      over_dense: how many times as fast as the dense variant on the same engine, a ratio of paired
        turns; so the next two.
      over_eager: how many times as fast as torch-eager with the same variant.
      over_compiled: how many times as fast as torch-compiled with the same variant.
      over_dense_q1: first quartile of the ratios of which ``over_dense`` is the median.
      over_dense_q3: third quartile of these.
      over_eager_q1: first quartile, likewise.
      over_eager_q3: third quartile.
      over_compiled_q1: first quartile, likewise.
      over_compiled_q3: third quartile.
      flops_ratio: FLOPs of the dense variant over those of this one.
      error: why there is no time.
    """

    model: str
    variant: str
    task: str
    engine: str
    batch: int
    params: int
    flops: int
    uncounted: dict[str, int]
    bytes_moved: int
    median_ms: float | None = None
    q1_ms: float | None = None
    q3_ms: float | None = None
    repeats: int = 0
    compile_s: float | None = None
    dispatch_ms: float | None = None
    peak_mb: float | None = None
    kernels: int | None = None
    bytes_run: float | None = None
    arithmetic_ms: float | None = None
    memory_ms: float | None = None
    launches_ms: float | None = None
    bound: str | None = None
    least_ms: float | None = None
    energy_j: float | None = None
    over_dense: float | None = None
    over_eager: float | None = None
    over_compiled: float | None = None
    over_dense_q1: float | None = None
    over_dense_q3: float | None = None
    over_eager_q1: float | None = None
    over_eager_q3: float | None = None
    over_compiled_q1: float | None = None
    over_compiled_q3: float | None = None
    flops_ratio: float | None = None
    error: str | None = None

    @property
    def realised(self) -> float | None:
        """Share of the saved FLOPs that became speed: ``over_dense`` to ``flops_ratio``."""
        if self.over_dense is None or not self.flops_ratio:
            return None
        return self.over_dense / self.flops_ratio


@dataclasses.dataclass(frozen=True)
class Benchmark(Result):
    """What a benchmark found.

    Attributes:
      peaks: of the device.
      rows: the times, one row of ``times.csv`` each.
    """

    peaks: costs.Peaks
    rows: tuple[Measurement, ...]
