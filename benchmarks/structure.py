"""How long structured pruning takes to plan, and what the narrower models gain in time.

    python benchmarks/structure.py [--models=transformer,informer] [--repeats=5] [--speed]

Prints Markdown tables, for the models at their published sizes, 7 channels, look-back and horizon
96, batch 32:

* the analysis, ``find_groups``, split into the first trace, following it, and verification;
* the same for Transformers of ever more encoder layers, by number of equations;
* ``plan`` and ``slice`` at half the parameters, uniformly and globally;
* with ``--speed``, the compiled forward pass at 0.5 and 0.25 of the FLOPs beside the dense one.

To try the script: ``--small --round_to=1 --layers=1,2 --repeats=2``, at width 32.
"""

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import app, flags

from tsjax import costs, models, structure

MODELS = flags.DEFINE_list("models", list(models.MODELS), "models to analyse and cut")
LAYERS = flags.DEFINE_list("layers", ["1", "2", "4", "8", "16", "32", "48"], "encoder layers")
REPEATS = flags.DEFINE_integer("repeats", 5, "runs of each analysis, plan and slice")
SPEED = flags.DEFINE_bool("speed", False, "whether to time forward passes too")
SAMPLES = flags.DEFINE_integer("samples", 20, "samples of each forward pass, at least")
SMALL = flags.DEFINE_bool("small", False, "whether to take width 32 in place of published sizes")
ROUND_TO = flags.DEFINE_integer("round_to", 8, "what the sizes timed with --speed are multiples of")
FIRST = flags.DEFINE_string("first", "", "print the seconds of this model's first analysis only")

BATCH = 32
SHARES = (0.5, 0.25)


class Case(NamedTuple):
    """A model: its configuration, and the shapes of its leaves and inputs."""

    config: models.ForecastConfig
    shapes: models.Forecaster
    inputs: tuple[Any, ...]

    @property
    def args(self) -> tuple[Any, ...]:
        """What ``find_groups`` is given."""
        return models.forecast, self.shapes, *self.inputs


def case(name: str, **fields: Any) -> Case:
    """A model of which nothing is computed yet."""
    if SMALL.value:
        fields = {"d_model": 32, "n_heads": 4, "d_ff": 64, **fields}
    config = models.config(name, enc_in=7, dec_in=7, c_out=7, **fields)
    shapes = jax.eval_shape(lambda: models.create(config, jax.random.key(0)))
    return Case(config, shapes, models.input_shapes(config, BATCH))


def seconds(call: Callable[[], Any]) -> float:
    """The time of one call."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def median(call: Callable[[], Any]) -> float:
    """The median time of so many calls."""
    return float(np.median([seconds(call) for _ in range(REPEATS.value)]))


def first_call(name: str) -> float:
    """Seconds of the first analysis in a process of its own."""
    command = [sys.executable, __file__, f"--first={name}", *["--small"][: SMALL.value]]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout)


def equations(followed: Any) -> int:
    """Number of equations of a followed program, those of programs within it too."""
    return sum(1 + sum(map(equations, each.bodies)) for each in followed.equations)


class Analysis(NamedTuple):
    """Median seconds of an analysis and of its parts, and what was analysed."""

    trace: float
    follow: float
    verify: float
    total: float
    equations: int
    groups: structure.Groups


def analyse(found: Case) -> Analysis:
    """Times an analysis and its parts, after dropping JAX's caches each time."""
    groups = structure.find_groups(*found.args)
    times = []
    for _ in range(REPEATS.value):
        jax.clear_caches()
        with traces() as spans:
            total = seconds(lambda: structure.find_groups(*found.args))
        # The first trace; until the next one begins it is followed; the rest is verification.
        (began, traced), (verified, _) = spans[:2]
        times.append((traced - began, verified - traced, total - (verified - began), total))
    return Analysis(*map(float, np.median(times, axis=0)), equations(groups.followed), groups)


@contextlib.contextmanager
def traces() -> Iterator[list[tuple[float, float]]]:
    """Notes when each trace begins and ends."""
    make_jaxpr, spans = jax.make_jaxpr, []

    def timed(fn: Callable[..., Any]) -> Callable[..., Any]:
        def trace(*args: Any) -> Any:
            began = time.perf_counter()
            program = make_jaxpr(fn)(*args)
            spans.append((began, time.perf_counter()))
            return program

        return trace

    jax.make_jaxpr = timed
    try:
        yield spans
    finally:
        jax.make_jaxpr = make_jaxpr


def print_analyses() -> None:
    """How long the analysis of each model takes."""
    print("\n| model | equations | groups (free) | first call in a process, s | later calls, s "
          "| of these: trace | follow | verify |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|")
    for name in MODELS.value:
        first = first_call(name)
        a = analyse(case(name))
        counts = f"{a.equations:,} | {len(a.groups)} ({len(a.groups.free)})"
        parts = f"{a.trace:.3f} | {a.follow:.3f} | {a.verify:.3f}"
        print(f"| {name} | {counts} | {first:.2f} | {a.total:.2f} | {parts} |", flush=True)


def print_layers() -> None:
    """How the time grows with the program."""
    print("\n| encoder layers | equations | groups (free) | seconds | ms an equation |")
    print("|---|---|---|---|---|")
    for layers in map(int, LAYERS.value):
        a = analyse(case("transformer", e_layers=layers))
        each = 1e3 * a.total / a.equations
        counts = f"{a.equations:,} | {len(a.groups)} ({len(a.groups.free)})"
        print(f"| {layers} | {counts} | {a.total:.2f} | {each:.2f} |", flush=True)


def initialised(found: Case) -> models.Forecaster:
    """The model with weights."""
    return models.create(found.config, jax.random.key(0))


def print_cuts() -> None:
    """How long it takes to plan and to slice, with weights."""
    print("\n| model | scope | share got of 0.5 | plan, s | slice, s |")
    print("|---|---|---|---|---|")
    for name in MODELS.value:
        found = case(name)
        forecaster, groups = initialised(found), structure.find_groups(*found.args)
        for scope in ("uniform", "global"):

            def chosen(
                groups: Any = groups, forecaster: Any = forecaster, scope: str = scope
            ) -> structure.Plan:
                return structure.plan(groups, forecaster, target=structure.Params(0.5), scope=scope)

            plan = chosen()

            def cut(forecaster: Any = forecaster, plan: structure.Plan = plan) -> Any:
                return jax.block_until_ready(structure.slice(forecaster, plan))

            planned, sliced = median(chosen), median(cut)
            print(
                f"| {name} | {scope} | {plan.got:.4f} | {planned:.3f} | {sliced:.3f} |", flush=True
            )


def print_speed() -> None:
    """What the forward pass of a narrower model takes, beside that of the dense one."""
    print("\n| model | FLOPs asked | FLOPs got | dense, ms | cut, ms | FLOPs / | time / |")
    print("|---|---|---|---|---|---|---|")
    for name in MODELS.value:
        found = case(name)
        forecaster, groups = initialised(found), structure.find_groups(*found.args)
        functions, got = {"dense": (models.forecast, forecaster)}, {}
        for share in SHARES:
            target = structure.Flops(share)
            plan = structure.plan(groups, forecaster, target=target, round_to=ROUND_TO.value)
            functions[str(share)] = models.forecast, structure.slice(forecaster, plan)
            got[share] = plan.got
        keys = jax.random.split(jax.random.key(1), len(found.inputs))
        inputs = [
            jax.random.uniform(key, x.shape, x.dtype, -0.5, 0.5)
            for key, x in zip(keys, found.inputs, strict=True)
        ]
        times = costs.measure_in_turns(functions, *inputs, repeats=SAMPLES.value)
        dense = times["dense"]
        for share in SHARES:
            cut = times[str(share)]
            # Each sample beside the dense one of the same turn.
            faster = np.median(np.divide(dense.samples, cut.samples))
            ms = f"{1e3 * dense.median:.1f} | {1e3 * cut.median:.1f}"
            ratios = f"{1 / got[share]:.2f} | {faster:.2f}"
            print(f"| {name} | {share} | {got[share]:.4f} | {ms} | {ratios} |", flush=True)


def main(argv: list[str]) -> None:
    """Measures and prints."""
    del argv
    if FIRST.value:
        found = case(FIRST.value)
        print(seconds(lambda: structure.find_groups(*found.args)))
        return
    described = costs.device_description()
    print(", ".join(described[k] for k in ("cpu_model", "cpu_count", "device_kind", "jax")))
    print_analyses()
    print_layers()
    print_cuts()
    if SPEED.value:
        print_speed()


if __name__ == "__main__":
    app.run(main)
