"""The models timed, dense and cut, compiled by XLA and beside engines that come from outside."""

from tsjax.benchmark.contenders import Contender, make_contender
from tsjax.benchmark.engines import Batches, Engine, Runner, random_batch, xla
from tsjax.benchmark.records import Benchmark, Measurement
from tsjax.benchmark.settings import ENGINES, BenchmarkSettings
from tsjax.benchmark.timing import Timed, placed, summary, times

__all__ = [
    "ENGINES",
    "Batches",
    "Benchmark",
    "BenchmarkSettings",
    "Contender",
    "Engine",
    "Measurement",
    "Runner",
    "Timed",
    "make_contender",
    "placed",
    "random_batch",
    "summary",
    "times",
    "xla",
]
