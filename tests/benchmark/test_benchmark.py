"""What a benchmark times and how it pairs the times, under a clock that the engines move."""

import dataclasses
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tsjax import benchmark, costs, models, trees
from tsjax.benchmark import timing as module
from tsjax.benchmark.engines import count
from tsjax.benchmark.settings import TASKS

PEAKS = costs.Peaks(
    "float32", 1e12, ((10**9, 1e11),), launch=1e-6, dispatch=1e-5, device="cpu: cpu"
)
SMALL = {"size": "small", "seq_len": 24, "label_len": 12, "pred_len": 12, "batches": (2,)}


def settings(**given):
    return benchmark.BenchmarkSettings.make(**(SMALL | given))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"models": ("lstm",)}, "models is 'lstm'"),
        ({"engines": ("xla", "torch")}, "engines is 'torch'.* use one of xla, torch-eager"),
        ({"variants": ("half",)}, "a variant is dense, structured-SHARE or compacted-DENSITY"),
        ({"variants": ("structured-2",)}, r"a number in \(0, 1\], got 'structured-2'"),
        ({"variants": ()}, "variants must not be empty"),
        ({"batches": (1, 1)}, "batches holds 1 twice"),
        ({"batches": (0,)}, "batches must be at least 1, got 0"),
        ({"repeats": 0}, "repeats must be at least 1, got 0"),
        ({"precision": "float8"}, "precision is 'float8'.*use one of float32"),
        ({"batch": 1}, "setting is 'batch'.*did you mean 'batches'"),
        ({"repeats": "3"}, "repeats must be int, got '3'"),
    ],
)
def test_senseless_settings_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        settings(**given)


def test_the_command_names_what_is_not_the_default():
    made = benchmark.BenchmarkSettings.make(models=("informer",), batches=(1, 32))
    assert made.command() == "./launch.sh benchmark --models=informer --batches=1,32"


def test_sizes_are_the_published_ones():
    paper = benchmark.BenchmarkSettings.make()
    assert paper.config("transformer").d_model == 512
    assert paper.config("crossformer").d_model == 256
    assert settings().config("transformer").d_model == 64


def test_a_structured_contender_has_its_share_of_the_flops():
    config = settings().config("transformer")
    dense, cut = (
        benchmark.make_contender(config, variant) for variant in ("dense", "structured-0.5")
    )
    batch = benchmark.random_batch(config, 2, seed=0)
    flops = [count(contender, "inference", batch).flops for contender in (dense, cut)]
    assert flops[1] / flops[0] == pytest.approx(0.5, abs=0.02)
    assert trees.size(cut.forecaster.params) < trees.size(dense.forecaster.params)


@pytest.mark.parametrize("task", TASKS)
def test_xla_runs_what_is_counted(task):
    config = settings().config("transformer")
    contender = benchmark.make_contender(config, "dense")
    batches = [benchmark.random_batch(config, 2, seed) for seed in range(3)]
    runner = benchmark.xla(contender, task, batches)
    results = [runner.call() for _ in range(4 if task == "inference" else 1)]
    counted = count(contender, task, batches[0])
    assert counted.uncounted == {}
    assert runner.program.kernels > 0
    if task == "inference":
        # Three batches take turns.
        np.testing.assert_array_equal(results[0], results[3])
        assert not np.array_equal(results[0], results[1])
        expected = models.forecast(contender.forecaster, *map(jnp.asarray, batches[1][:4]))
        np.testing.assert_allclose(results[0], expected, rtol=0, atol=1e-5)
    else:
        losses = [float(results[0][1]), *(float(runner.call()[1]) for _ in range(9))]
        assert min(losses[7:]) < min(losses[:3])
        forward_flops = count(contender, "inference", batches[0]).flops
        assert 2.5 < counted.flops / forward_flops < 4
        # The contender's own weights are not used up.
        assert all(not leaf.is_deleted() for leaf in jax.tree.leaves(contender.forecaster))


def test_bfloat16_halves_what_moves():
    config = settings().config("transformer")
    contender = benchmark.make_contender(config, "dense")
    batch = benchmark.random_batch(config, 2, seed=0)
    full, half = (count(contender, "inference", batch, p) for p in ("float32", "bfloat16"))
    assert half.bytes_moved * 2 == full.bytes_moved
    assert benchmark.xla(contender, "inference", [batch], "bfloat16").call().dtype == jnp.bfloat16


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture(scope="module")
def rows():
    """Rows of a run whose engines take known times and draw 100 W.

    In training, torch-compiled fails.
    """
    clock = Clock()
    seconds = {("xla", 1.0): 2.0, ("xla", 0.5): 1.25, ("torch-eager", 1.0): 6.0}
    seconds |= {
        ("torch-eager", 0.5): 5.0,
        ("torch-compiled", 1.0): 4.0,
        ("torch-compiled", 0.5): 3.0,
    }

    def engine(name):
        def start(contender, task, batches):
            if name == "torch-compiled" and task == "training":
                raise RuntimeError("no kernel\nand a long story")
            share = 0.5 if contender.variant != "dense" else 1.0

            def call():
                clock.now += seconds[name, share]

            compiled = benchmark.xla(contender, task, batches).program if name == "xla" else None
            return benchmark.Runner(call, 7.0, compiled)

        return start

    def in_turns(calls, **limits):
        return costs.sample_in_turns(calls, **(limits | {"clock": clock}))

    def joules():
        return 100.0 * clock.now

    def energy_of(call, counter, **limits):
        return costs.measure_energy(call, counter, **(limits | {"clock": clock}))

    made = settings(
        models=("transformer",),
        variants=("dense", "structured-0.5"),
        engines=benchmark.ENGINES,
        repeats=3,
        min_seconds=0.0,
        round_to=1,
    )
    engines = {name: engine(name) for name in benchmark.ENGINES}
    peaks = dataclasses.replace(PEAKS, device=f"cpu: {jax.devices()[0].device_kind}")
    with pytest.MonkeyPatch.context() as patch:
        # Only the clocks are exchanged.
        clocked = {"sample_in_turns": in_turns, "measure_energy": energy_of}
        patch.setattr(module, "costs", types.SimpleNamespace(**(vars(costs) | clocked)))
        timed = list(benchmark.times(made, engines, lambda _: None, joules))
    found = [benchmark.placed(one, peaks) for one in timed]
    return {(row.task, row.engine, row.variant): row for row in found}


def test_every_engine_and_variant_has_a_row(rows):
    assert len(rows) == 2 * 3 * 2


def test_ratios_are_of_the_same_variant_and_of_the_same_engine(rows):
    row = rows["inference", "xla", "structured-0.5"]
    assert row.median_ms == row.q1_ms == row.q3_ms == 1250
    assert row.over_dense == pytest.approx(2.0 / 1.25)
    assert row.over_eager == pytest.approx(5.0 / 1.25)
    assert row.over_compiled == pytest.approx(3.0 / 1.25)
    # All turns take the same times, so that the ratios have no spread.
    assert row.over_dense_q1 == row.over_dense == row.over_dense_q3
    assert row.over_eager_q1 == row.over_eager == row.over_eager_q3
    assert row.flops_ratio == pytest.approx(2.0, abs=0.02)
    assert row.realised == pytest.approx(1.6 / row.flops_ratio)
    assert rows["inference", "torch-eager", "structured-0.5"].over_dense == pytest.approx(1.2)
    assert rows["inference", "xla", "dense"].over_dense == 1.0
    assert row.compile_s == 7.0
    assert row.repeats == 3


def test_what_fails_leaves_a_row_that_says_why(rows):
    failed = rows["training", "torch-compiled", "dense"]
    assert failed.error == "RuntimeError: no kernel"
    assert failed.median_ms is None
    assert failed.realised is None
    assert rows["training", "xla", "dense"].over_compiled is None
    assert rows["training", "xla", "dense"].over_eager == pytest.approx(3.0)


def test_only_what_xla_compiles_has_a_place_on_the_roofline(rows):
    row = rows["inference", "xla", "dense"]
    assert row.bound in ("arithmetic", "memory", "launches")
    assert row.least_ms == pytest.approx(
        1e3
        * max(
            row.flops / PEAKS.flops,
            row.bytes_run / PEAKS.bandwidth(),
            PEAKS.dispatch + row.kernels * PEAKS.launch,
        )
    )
    assert rows["inference", "torch-eager", "dense"].bound is None


def test_joules_are_those_of_the_engine(rows):
    assert rows["inference", "xla", "dense"].energy_j == pytest.approx(200)
    assert rows["inference", "torch-eager", "structured-0.5"].energy_j == pytest.approx(500)
    assert rows["training", "torch-compiled", "dense"].energy_j is None


def test_what_is_known_of_a_program_outlives_it():
    made = settings(models=("transformer",), variants=("dense",), engines=("xla",), repeats=1)
    made = dataclasses.replace(made, tasks=("inference",), min_seconds=0.0)
    (timed,) = benchmark.times(made, {"xla": benchmark.xla})
    assert timed.program.kernels == timed.row.kernels > 0
    with pytest.raises(RuntimeError, match="the compiled program has been freed"):
        timed.program.call()


@pytest.mark.parametrize(
    ("free", "run"),
    [
        (10**12, {"xla", "torch-eager"}),
        (2.5, {"xla"}),
        (0.5, set()),
        (None, {"xla", "torch-eager"}),
    ],
)
def test_what_memory_does_not_hold_is_not_begun(monkeypatch, free, run):
    """Free memory in units of what XLA's program needs."""
    begun = set()
    needed = 0

    def torch(contender, task, batches):
        begun.add("torch-eager")
        return benchmark.Runner(lambda: None)

    def xla(contender, task, batches):
        nonlocal needed
        runner = benchmark.xla(contender, task, batches)
        needed = runner.program.peak_bytes

        def call():
            begun.add("xla")
            return runner.call()

        return runner._replace(call=call)

    monkeypatch.setattr(costs, "free_bytes", lambda: free and free * (needed or 1))
    made = settings(
        models=("transformer",), variants=("dense",), engines=("torch-eager", "xla"), repeats=1,
        tasks=("inference",), min_seconds=0.0,
    )  # fmt: skip
    rows = [t.row for t in benchmark.times(made, {"xla": xla, "torch-eager": torch})]
    assert begun == run
    assert [row.engine for row in rows] == ["xla", "torch-eager"]
    assert {row.engine for row in rows if row.error is None} == run
    if free == 0.5:
        assert rows[0].error.startswith("MemoryError: XLA's program needs 0.0 GB; 0.0 GB are free")
        assert "and PyTorch may need 3 times as much; 0.0 GB are free" in rows[1].error


@pytest.mark.parametrize("unknown", ["xla_bytes", "kernels"])
def test_what_xla_does_not_say_leaves_a_time_without_a_place(rows, unknown):
    row = dataclasses.replace(rows["inference", "xla", "dense"], bound=None, least_ms=None)
    about = {"compile_seconds": 1.0, "xla_flops": 1.0, "peak_bytes": 1, "device": PEAKS.device}
    told = {"xla_bytes": 1e3, "kernels": 10} | {unknown: None}
    program = costs.Program(call=None, **about, **told)
    assert benchmark.placed(benchmark.Timed(row, program), PEAKS) == row


def test_a_row_in_a_line(rows):
    line = benchmark.summary(rows["inference", "xla", "dense"])
    assert re.fullmatch(
        "transformer dense inference batch 2 xla: 2000.00 ms, 3.00 times torch-eager's speed", line
    )
    assert benchmark.summary(rows["training", "torch-compiled", "dense"]).endswith("no kernel")


def test_a_ratio_is_of_the_times_of_one_turn():
    """A slow turn slows both, which leaves their ratio; the ratio of medians is another."""
    row = benchmark.Measurement("m", "cut", "inference", "xla", 1, 1, 1, {}, 1)
    samples = {("dense", "xla"): [2.0, 40.0, 6.0], ("cut", "xla"): [1.0, 10.0, 1.0]}
    found = module._timed(row, benchmark.Runner(lambda: None), samples, 0.0)
    assert (found.over_dense_q1, found.over_dense, found.over_dense_q3) == (3.0, 4.0, 5.0)
    assert found.median_ms == 1000
    assert (found.over_eager, found.over_eager_q1) == (None, None)
