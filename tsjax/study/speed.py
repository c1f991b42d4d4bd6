"""How fast are the five models, dense and cut, compiled by XLA and in other frameworks?

The engines of other frameworks come from outside: see ``experiments/benchmark.py``.
"""

import dataclasses
import itertools
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np

from tsjax import costs, models, trees
from tsjax.models import ForecastConfig
from tsjax.study import published
from tsjax.study.engines import Contender, Engine, Runner, count, make_contender, variant_of
from tsjax.study.settings import flag_text, not_among, setting, wrong_types
from tsjax.wording import one_of

TASKS = ("inference", "training")
ENGINES = ("xla", "torch-eager", "torch-compiled")
_CHANNELS = 7


@dataclasses.dataclass(frozen=True)
class BenchmarkSettings:
    """What to time; each field's metadata say what it is ``about``."""

    script: ClassVar[str] = "benchmark"

    models: tuple[str, ...] = setting(tuple(models.MODELS), "models to time", group="what is timed")
    variants: tuple[str, ...] = setting(
        ("dense", "structured-0.5", "structured-0.25", "compacted-0.01"),
        "dense; structured-SHARE, narrower, to a share of the FLOPs; compacted-DENSITY, pruned by "
        "magnitude and rid of what that has killed",
    )
    engines: tuple[str, ...] = setting(
        (), f"what runs them: {', '.join(ENGINES)} (else those that are installed)"
    )
    tasks: tuple[str, ...] = setting(TASKS, f"what is timed: {', '.join(TASKS)}")
    batches: tuple[int, ...] = setting((1, 3, 32, 256, 1024), "windows a call")
    precision: str = setting("float32", f"of the products: {', '.join(costs.PRECISIONS)}")
    preset: str = setting(
        "corrected", "whose behaviour is followed: corrected, tslib, paper", group="model"
    )
    size: str = setting("paper", "paper (width 512, Crossformer 256) or small (width 64)")
    seq_len: int = setting(96, "steps of the look-back window")
    label_len: int = setting(48, "observed steps that the decoder begins with")
    pred_len: int = setting(96, "steps to forecast, the horizon")
    round_to: int = setting(8, "what the widths of structured variants are multiples of")
    repeats: int = setting(10, "samples of each, at least", group="timing")
    min_seconds: float = setting(0.5, "seconds of samples of each, at least")
    peak_mb: int = setting(1000, "megabytes that bandwidth is measured with: more than caches hold")
    seed: int = setting(0, "fixes weights and inputs")
    out_dir: str | None = setting(
        None, "folder of the results (else docs/results/DEVICE)", group="output"
    )

    @classmethod
    def make(cls, **given: Any) -> Self:
        """Settings from single fields.

        Raises:
          ValueError: for an unknown field, or a value out of range.
        """
        for name in given:
            one_of("setting", name, [field.name for field in dataclasses.fields(cls)])
        return cls(**given)

    def __post_init__(self) -> None:
        if problems := wrong_types(self) or self._problems():
            raise ValueError("; ".join(problems))

    def _problems(self) -> list[str]:
        found = not_among(
            self,
            {
                "models": tuple(models.MODELS),
                "engines": ENGINES,
                "tasks": TASKS,
                "precision": tuple(costs.PRECISIONS),
                "size": ("small", "paper"),
            },
        )
        for variant in self.variants:
            try:
                variant_of(variant)
            except ValueError as error:
                found.append(str(error))
        for name in ("models", "variants", "engines", "tasks", "batches"):
            values = getattr(self, name)
            if (not values and name != "engines") or len(set(values)) < len(values):
                found.append(f"{name} must hold one or more, each once, got {flag_text(values)}")
        if self.batches and min(self.batches) < 1:
            found.append(f"batches must be at least 1, got {flag_text(self.batches)}")
        for name in ("round_to", "repeats", "peak_mb"):
            if getattr(self, name) < 1:
                found.append(f"{name} must be at least 1, got {getattr(self, name)}")
        return found

    def command(self) -> str:
        """The command line that repeats the run."""
        words = [
            f"--{field.name}={flag_text(value)}"
            for field in dataclasses.fields(self)
            if (value := getattr(self, field.name)) != field.default
        ]
        return shlex.join(["./launch.sh", self.script, *words])

    def config(self, model: str) -> ForecastConfig:
        """The dense configuration of a model.

        Raises:
          ValueError: where the sizes are not sound.
        """
        sizes = {"enc_in": _CHANNELS, "dec_in": _CHANNELS, "c_out": _CHANNELS, "freq": "h"}
        sizes |= {"seq_len": self.seq_len, "label_len": self.label_len, "pred_len": self.pred_len}
        known = published.sizes(model, "", self.pred_len) if self.size == "paper" else _SMALL
        sizes |= {name: value for name, value in known.items() if name in models.fields(model)}
        return models.config(model, self.preset, **sizes)


_SMALL = {"d_model": 64, "n_heads": 4, "d_ff": 128}


@dataclasses.dataclass(frozen=True)
class Row:
    """One time. What does not apply, or cannot be had, is None.

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
      over_dense: how many times as fast as the dense variant on the same engine; of single turns,
        the median.
      over_eager: how many times as fast as torch-eager with the same variant, likewise.
      over_compiled: how many times as fast as torch-compiled, likewise.
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
    flops_ratio: float | None = None
    error: str | None = None

    @property
    def realised(self) -> float | None:
        """Share of the saved FLOPs that became speed: ``over_dense`` to ``flops_ratio``."""
        if self.over_dense is None or not self.flops_ratio:
            return None
        return self.over_dense / self.flops_ratio


class Timed(NamedTuple):
    """A row that has no place on a roofline yet.

    Attributes:
      row: the time.
      program: what is known of XLA's program, which itself is freed; None for other engines.
    """

    row: Row
    program: costs.Program | None


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """What a run found.

    Attributes:
      command: repeats it.
      config: its settings.
      versions: what it ran on.
      peaks: of the device.
      rows: the times.
    """

    command: str
    config: dict[str, Any]
    versions: dict[str, str]
    peaks: costs.Peaks
    rows: tuple[Row, ...]


def benchmark(
    settings: BenchmarkSettings,
    engines: Mapping[str, Engine],
    block: Callable[[Any], Any] = jax.block_until_ready,
    energy: Callable[[], float] | None = None,
) -> Iterator[Timed]:
    """Times every model, batch size and task: all variants and engines in turns.

    An engine that fails, or would need more memory than there is, leaves a row that says why. Where
    the rows lie on the device's roofline, :func:`placed` says.

    Args:
      settings: what to time.
      engines: by name, each of ``settings.engines``.
      block: waits for the result of any engine's call.
      energy: reads the joules drawn so far, from ``costs.energy_counter``.
    """
    dispatch = costs.measure_dispatch(repeats=100, min_seconds=0.0, max_repeats=100)
    limits: dict[str, Any] = {
        "repeats": settings.repeats,
        "max_repeats": max(1000, settings.repeats),
        "min_seconds": settings.min_seconds,
        "block": block,
    }
    # All that can be refused is refused before the first time is taken.
    contenders = {
        model: [
            make_contender(model, config, name, round_to=settings.round_to, seed=settings.seed)
            for name in settings.variants
        ]
        for model in settings.models
        for config in [settings.config(model)]
    }
    for model, batch, task in itertools.product(settings.models, settings.batches, settings.tasks):
        config = settings.config(model)
        batches = [random_batch(config, batch, settings.seed + i) for i in range(3)]
        rows, runners = {}, {}
        for contender in contenders[model]:
            row = _counted(contender, task, batches[0], settings.precision)
            needed = None
            # XLA's program comes first: it says what memory a call takes before it takes it.
            for engine in sorted(settings.engines, key=ENGINES.index):
                key = contender.variant, engine
                rows[key] = dataclasses.replace(row, engine=engine)
                try:
                    _check_room(needed, engine)
                    runner = engines[engine](contender, task, batches)
                    if runner.program is not None:
                        needed = runner.program.peak_bytes
                        _check_room(needed, engine)
                    block(runner.call())
                    runners[key] = runner
                # What another framework's compiler may raise is anything.
                except Exception as error:
                    first = next(iter(str(error).strip().splitlines()), "")
                    why = f"{type(error).__name__}: {first}"
                    rows[key] = dataclasses.replace(rows[key], error=why)
        calls = [(runner.call, [()]) for runner in runners.values()]
        samples = costs.sample_in_turns(calls, warmup=1, lead=1, **limits) if calls else []
        times = dict(zip(runners, samples, strict=True))
        for key, row in rows.items():
            if key in times:
                row = _timed(row, runners[key], times, dispatch)
                if energy is not None:
                    joules = costs.measure_energy(runners[key].call, energy, block=block)
                    row = dataclasses.replace(row, energy_j=joules)
            if dense := rows.get(("dense", row.engine)):
                row = dataclasses.replace(row, flops_ratio=dense.flops / row.flops)
            program = runners[key].program if key in runners else None
            yield Timed(row, program and dataclasses.replace(program, call=_freed))


def _freed(*_: Any) -> Any:
    raise RuntimeError("the compiled program has been freed: only what is known of it is left")


# What PyTorch will need is not known beforehand; this is on the safe side.
_MEMORY_OF_TORCH = 3


def _check_room(needed: int | None, engine: str) -> None:
    """Refuses what would end in the machine's killing the process."""
    free = costs.free_bytes()
    if needed is None or free is None:
        return
    factor = 1 if engine == "xla" else _MEMORY_OF_TORCH
    if factor * needed > free:
        times = "" if factor == 1 else f", and PyTorch may need {factor} times as much"
        raise MemoryError(
            f"XLA's program needs {needed / 1e9:.1f} GB{times}; {free / 1e9:.1f} GB are free"
        )


def _counted(contender: Contender, task: str, batch: Sequence[np.ndarray], precision: str) -> Row:
    counted = count(contender, task, batch, precision)
    return Row(
        model=contender.model,
        variant=contender.variant,
        task=task,
        engine="",
        batch=len(batch[0]),
        params=trees.size(contender.params),
        flops=counted.flops,
        uncounted=counted.uncounted,
        bytes_moved=counted.bytes_moved,
    )


def _timed(
    row: Row,
    runner: Runner,
    times: Mapping[tuple[str, str], Sequence[float]],
    dispatch: float,
) -> Row:
    mine = times[row.variant, row.engine]
    q1, median, q3 = (1e3 * float(q) for q in np.percentile(mine, (25, 50, 75)))

    def faster_than(key: tuple[str, str]) -> float | None:
        # Each sample beside the other's of the same turn.
        return float(np.median(np.divide(times[key], mine))) if key in times else None

    found: dict[str, Any] = {}
    if runner.program is not None:
        found = {"kernels": runner.program.kernels, "bytes_run": runner.program.xla_bytes}
        found["dispatch_ms"] = 1e3 * dispatch
    return dataclasses.replace(
        row,
        median_ms=median,
        q1_ms=q1,
        q3_ms=q3,
        repeats=len(mine),
        compile_s=runner.compile_s,
        peak_mb=runner.peak_mb(),
        over_dense=faster_than(("dense", row.engine)),
        over_eager=faster_than((row.variant, "torch-eager")),
        over_compiled=faster_than((row.variant, "torch-compiled")),
        **found,
    )


def placed(timed: Timed, peaks: costs.Peaks) -> Row:
    """The row with its place on the roofline, where XLA tells what its program moves and runs."""
    row, program = timed
    if row.median_ms is None or program is None:
        return row
    if not program.xla_bytes or program.kernels is None:
        return row
    place = costs.place(row.flops, program, row.median_ms / 1e3, peaks)
    found: dict[str, Any] = {f"{name}_ms": 1e3 * getattr(place, name) for name in costs.BOUNDS}
    return dataclasses.replace(row, **found, bound=place.bound, least_ms=1e3 * place.least)


def random_batch(config: ForecastConfig, batch: int, seed: int) -> tuple[np.ndarray, ...]:
    """Four inputs and the target, small random numbers: times don't depend on them."""
    shapes = [*models.input_shapes(config, batch)]
    shapes.append(jax.ShapeDtypeStruct((batch, config.pred_len, config.c_out), jnp.float32))
    rng = np.random.default_rng(seed)
    return tuple(rng.uniform(-0.5, 0.5, shape.shape).astype(np.float32) for shape in shapes)


def summary(row: Row) -> str:
    """A row in a line."""
    what = f"{row.model} {row.variant} {row.task} batch {row.batch} {row.engine}"
    if row.error:
        return f"{what}: {row.error}"
    faster = "" if row.over_eager is None else f", {row.over_eager:.2f} times torch-eager's speed"
    return f"{what}: {row.median_ms:.2f} ms{faster}"
