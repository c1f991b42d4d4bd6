"""How fast are the models, dense and cut, compiled by XLA and in other frameworks?

The engines of other frameworks come from outside: see ``experiments/benchmark.py``.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from tsjax import costs, trees
from tsjax.benchmark.contenders import Contender, make_contender
from tsjax.benchmark.engines import Batches, Engine, Runner, count, random_batch
from tsjax.benchmark.records import Measurement
from tsjax.benchmark.settings import ENGINES, BenchmarkSettings

Key = tuple[str, str]
"""What takes turns with its likes: variant and engine."""


class Timed(NamedTuple):
    """A measurement that has no place on a roofline yet.

    Attributes:
      row: the measurement.
      program: what is known of XLA's program, which itself is freed; None for other engines.
    """

    row: Measurement
    program: costs.Program | None


def times(
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

    Raises:
      ValueError: if a variant cannot be made; nothing has been timed then.
    """
    # All that can be refused is refused before the first time is taken.
    contenders = {model: _contenders(settings, model) for model in settings.models}
    dispatch = costs.measure_dispatch(repeats=100, min_seconds=0.0, max_repeats=100)
    for model, batch, task in itertools.product(settings.models, settings.batches, settings.tasks):
        config = settings.config(model)
        batches = [random_batch(config, batch, settings.seed + i) for i in range(3)]
        rows, runners = _start(settings, contenders[model], task, batches, engines, block)
        samples = _samples(settings, runners, block)
        for key, row in rows.items():
            if key in runners:
                row = _timed(row, runners[key], samples, dispatch)
                if energy is not None:
                    joules = costs.measure_energy(runners[key].call, energy, block=block)
                    row = dataclasses.replace(row, energy_j=joules)
            if dense := rows.get(("dense", row.engine)):
                row = dataclasses.replace(row, flops_ratio=dense.flops / row.flops)
            program = runners[key].program if key in runners else None
            yield Timed(row, program and dataclasses.replace(program, call=_freed))


def _contenders(settings: BenchmarkSettings, model: str) -> list[Contender]:
    config = settings.config(model)
    return [
        make_contender(config, name, round_to=settings.round_to, seed=settings.seed)
        for name in settings.variants
    ]


def _start(
    settings: BenchmarkSettings,
    contenders: Sequence[Contender],
    task: str,
    batches: Batches,
    engines: Mapping[str, Engine],
    block: Callable[[Any], Any],
) -> tuple[dict[Key, Measurement], dict[Key, Runner]]:
    """Readies every variant on every engine: a row each, and a runner for each that runs."""
    rows, runners = {}, {}
    for contender in contenders:
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
    return rows, runners


def _samples(
    settings: BenchmarkSettings, runners: Mapping[Key, Runner], block: Callable[[Any], Any]
) -> dict[Key, Sequence[float]]:
    """Seconds of calls, one of each runner in each turn."""
    if not runners:
        return {}
    found = costs.sample_in_turns(
        [(runner.call, [()]) for runner in runners.values()],
        warmup=1,
        lead=1,
        repeats=settings.repeats,
        max_repeats=max(1000, settings.repeats),
        min_seconds=settings.min_seconds,
        block=block,
    )
    return dict(zip(runners, found, strict=True))


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


def _counted(
    contender: Contender, task: str, batch: Sequence[np.ndarray], precision: str
) -> Measurement:
    counted = count(contender, task, batch, precision)
    return Measurement(
        model=contender.model,
        variant=contender.variant,
        task=task,
        engine="",
        batch=len(batch[0]),
        params=trees.size(contender.forecaster.params),
        flops=counted.flops,
        uncounted=counted.uncounted,
        bytes_moved=counted.bytes_moved,
    )


def _timed(
    row: Measurement, runner: Runner, samples: Mapping[Key, Sequence[float]], dispatch: float
) -> Measurement:
    mine = samples[row.variant, row.engine]
    q1, median, q3 = (1e3 * float(q) for q in np.percentile(mine, (25, 50, 75)))
    found: dict[str, Any] = {}
    if runner.program is not None:
        found = {"kernels": runner.program.kernels, "bytes_run": runner.program.xla_bytes}
        found["dispatch_ms"] = 1e3 * dispatch
    others = {
        "over_dense": ("dense", row.engine),
        "over_eager": (row.variant, "torch-eager"),
        "over_compiled": (row.variant, "torch-compiled"),
    }
    for name, key in others.items():
        if key in samples:
            # Each sample beside the other's of the same turn.
            ratios = np.percentile(np.divide(samples[key], mine), (25, 50, 75))
            found |= zip((f"{name}_q1", name, f"{name}_q3"), map(float, ratios), strict=True)
    return dataclasses.replace(
        row,
        median_ms=median,
        q1_ms=q1,
        q3_ms=q3,
        repeats=len(mine),
        compile_s=runner.compile_s,
        peak_mb=runner.peak_mb(),
        **found,
    )


def placed(timed: Timed, peaks: costs.Peaks) -> Measurement:
    """The row with its place on the roofline, where XLA tells what its program moves and runs."""
    row, program = timed
    if row.median_ms is None or program is None:
        return row
    if not program.xla_bytes or program.kernels is None:
        return row
    place = costs.place(row.flops, program, row.median_ms / 1e3, peaks)
    found: dict[str, Any] = {f"{name}_ms": 1e3 * getattr(place, name) for name in costs.BOUNDS}
    return dataclasses.replace(row, **found, bound=place.bound, least_ms=1e3 * place.least)


def summary(row: Measurement) -> str:
    """A row in a line."""
    what = f"{row.model} {row.variant} {row.task} batch {row.batch} {row.engine}"
    if row.error:
        return f"{what}: {row.error}"
    faster = "" if row.over_eager is None else f", {row.over_eager:.2f} times torch-eager's speed"
    return f"{what}: {row.median_ms:.2f} ms{faster}"
