"""The timing logic under a clock that only moves when a fake device or compiler says so."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tsjax import costs
from tsjax.costs import devices, programs, timing


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Device:
    """An asynchronous device: a call returns at once, its result takes the next of `seconds`."""

    def __init__(self, clock, seconds):
        self.clock = clock
        self.seconds = itertools.chain(seconds, itertools.repeat(0.0))
        self.calls = []

    def __call__(self, *args):
        self.calls.append(args)
        return [Pending(self.clock, next(self.seconds))]


class Pending:
    def __init__(self, clock, seconds):
        self.clock = clock
        self.seconds = seconds

    def block_until_ready(self):
        self.clock.now += self.seconds
        return self


LIMITS = {"repeats": 3, "min_seconds": 0.0, "max_repeats": 100, "warmup": 2}


def sample(seconds, arguments=((),), **limits):
    clock = Clock()
    device = Device(clock, seconds)
    return costs.sample(device, arguments, clock=clock, **(LIMITS | limits)), device


def test_samples_are_the_device_times_after_the_warmup():
    samples, device = sample([100.0, 50.0, 2.0, 4.0, 3.0])
    assert samples == (2.0, 4.0, 3.0)
    assert len(device.calls) == 5


def test_samples_wait_for_the_result():
    clock = Clock()
    forgetful = costs.sample(Device(clock, [1.0] * 9), [()], clock=clock, block=id, **LIMITS)
    assert forgetful == (0.0, 0.0, 0.0)
    assert sample([1.0] * 9)[0] == (1.0, 1.0, 1.0)


def test_sampling_goes_on_until_min_seconds():
    samples, _ = sample([1.0] * 50, min_seconds=7.5)
    assert len(samples) == 8


def test_repeats_is_a_lower_bound():
    samples, _ = sample([10.0] * 50, repeats=4, min_seconds=1.0)
    assert len(samples) == 4


def test_max_repeats_ends_the_sampling():
    samples, _ = sample([], min_seconds=1.0, max_repeats=20)
    assert len(samples) == 20


def test_arguments_take_turns():
    _, device = sample([1.0] * 9, arguments=[("a",), ("b",), ("c",)], repeats=5)
    assert device.calls == [("a",), ("b",), ("c",), ("a",), ("b",), ("c",), ("a",)]


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"repeats": 0}, "need 1 <= repeats <= max_repeats, got 0 and 100"),
        ({"repeats": 101}, "need 1 <= repeats <= max_repeats, got 101 and 100"),
        ({"warmup": 0}, "warmup must be at least 1, got 0"),
    ],
)
def test_senseless_limits_are_refused(limits, message):
    with pytest.raises(ValueError, match=message):
        sample([], **limits)


def test_summary_of_samples():
    program = programs.compile_ahead(lambda x: x, jnp.zeros(()))
    result = costs.Timing((5.0, 1.0, 2.0, 4.0, 100.0), 0.5, program)
    assert result.median == 4.0
    assert result.quartiles == (2.0, 5.0)
    assert result.iqr == 3.0
    assert result.minimum == 1.0
    assert result.repeats == 5


X = np.ones((4, 8), np.float32)
W = {"w": np.ones((8, 16), np.float32)}


def test_a_device_function_of_known_cost_is_measured():
    clock = Clock()
    seconds = itertools.cycle([1.0, 2.0, 6.0])

    def work(x):
        clock.now += next(seconds)
        return x

    def fn(params, x):
        return jax.pure_callback(work, jax.ShapeDtypeStruct(x.shape, x.dtype), x)

    result = costs.measure(fn, W, X, repeats=9, min_seconds=0.0, clock=clock)
    assert sorted(result.samples) == [1.0] * 3 + [2.0] * 3 + [6.0] * 3
    assert (result.median, result.quartiles, result.minimum) == (2.0, (1.0, 6.0), 1.0)
    assert result.dispatch == 0.0


def test_compiling_is_measured_apart():
    clock = Clock()

    def fn(params, x):
        clock.now += 50.0
        return x @ params["w"]

    result = costs.measure(fn, W, X, repeats=5, min_seconds=0.0, clock=clock)
    assert result.program.compile_seconds == 50.0
    assert result.samples == (0.0,) * 5


def test_dispatch_is_sampled_the_same_way():
    ticks = itertools.count()
    result = costs.measure(
        lambda p, x: x @ p["w"],
        W,
        X,
        repeats=5,
        min_seconds=0.0,
        clock=lambda: float(next(ticks)),
    )
    assert (result.median, result.dispatch) == (1.0, 1.0)


def test_params_and_inputs_are_arguments_of_the_compiled_function():
    def fn(params, x):
        assert isinstance(params["w"], jax.core.Tracer)
        assert isinstance(x, jax.core.Tracer)
        return (x @ params["w"]) @ (params["w"].T @ params["w"])

    result = costs.measure(fn, W, X, repeats=1, min_seconds=0.0)
    assert result.program.xla_flops == costs.count(fn, W, X).flops


def test_what_the_compiler_says():
    result = costs.measure(lambda p, x: x @ p["w"], W, X, repeats=1, min_seconds=0.0)
    assert result.program.xla_flops == 2 * 4 * 8 * 16
    assert result.program.peak_bytes is not None
    assert result.program.peak_bytes >= 4 * (4 * 8 + 8 * 16 + 4 * 16)
    assert result.program.device == f"cpu: {jax.devices()[0].device_kind}"


class Silent:
    """A compiled program of a backend that has no analyses."""

    def __init__(self, answer):
        self.answer = answer

    def cost_analysis(self):
        if self.answer is NotImplementedError:
            raise NotImplementedError
        return self.answer

    memory_analysis = cost_analysis


@pytest.mark.parametrize("answer", [None, {}, [], {"flops": -1.0}, NotImplementedError])
def test_an_estimate_that_the_backend_does_not_give_is_none(answer):
    assert programs.estimate(Silent(answer), "flops") is None


@pytest.mark.parametrize("answer", [None, NotImplementedError])
def test_memory_that_the_backend_does_not_give_is_none(answer):
    assert programs.peak_bytes(Silent(answer)) is None


def test_work_that_needs_no_argument_is_refused():
    w = jnp.ones((64, 64))
    x = jnp.ones((64, 64))

    @jax.jit
    def fn(params, x):
        return jnp.tanh(x @ params)

    message = "528,384 of the 528,384 FLOPs need none of the arguments"
    with pytest.raises(ValueError, match=message):
        costs.measure(lambda p, _: fn(w, x), w, x)
    # The first of two layers could be done beforehand.
    with pytest.raises(ValueError, match=r"528,384 of the 1,056,768 FLOPs"):
        costs.measure(lambda p, _: fn(p, fn(w, x)), w, x)
    # A small table may be.
    timed = costs.measure(lambda p, y: fn(p, y + jnp.sin(jnp.arange(64.0))[None]), w, x, repeats=1)
    assert timed.repeats >= 1


def test_kernels_are_what_is_run_one_after_the_other():
    def fn(w, x):
        h = jnp.tanh(x @ w)
        return jax.lax.scan(lambda h, _: (jnp.tanh(h @ w), None), h, None, length=5)[0] @ w

    w = jnp.ones((64, 64))
    program = jax.jit(fn).lower(w, w).compile()
    once = jax.jit(lambda w, x: jnp.tanh(x @ w) @ w).lower(w, w).compile()
    assert programs.kernels(once) == 3
    # Each turn: product, tanh, counter; outside, the counter is set.
    assert programs.kernels(program) == 3 + 5 * 3 + 1
    assert programs.kernels(Silent(None)) is None


def test_inputs_are_different_buffers_and_params_one(monkeypatch):
    seen = []

    def spy(calls, **limits):
        seen.extend(arguments for _, arguments in calls)
        return [(1.0,) for _ in calls]

    monkeypatch.setattr(timing, "sample_in_turns", spy)
    x, key = jnp.asarray(X), jax.random.key(0)
    costs.measure(lambda p, x, k: x @ p["w"] + jax.random.normal(k, (4, 16)), W, x, key, copies=3)
    arguments = seen[0]
    pointers = {args[1].unsafe_buffer_pointer() for args in arguments} | {x.unsafe_buffer_pointer()}
    assert len(pointers) == 4
    assert len({id(args[0]["w"]) for args in arguments}) == 1
    assert isinstance(arguments[0][0]["w"], jax.Array)


def test_abstract_arguments_are_refused_by_path():
    abstract = jax.ShapeDtypeStruct((4, 8), jnp.float32)
    with pytest.raises(ValueError, match=r"params/w, inputs\[1\], inputs\[2\]/0\. Pass arrays"):
        costs.measure(lambda *a: a[1], {"w": abstract}, X, abstract, [abstract])


def test_copies_must_be_positive():
    with pytest.raises(ValueError, match="copies must be at least 1, got 0"):
        costs.measure(lambda p, x: x @ p["w"], W, X, copies=0)


def test_device_description():
    described = costs.device_description()
    assert described["platform"] == "cpu"
    assert described["jax"] == jax.__version__
    assert int(described["cpu_count"]) >= 1
    assert all(isinstance(value, str) and value for value in described.values())
    assert {"device_kind", "cpu_model", "jaxlib"} <= described.keys()


def test_the_allocators_settings_belong_to_a_figure(monkeypatch):
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
    assert costs.device_description()["malloc"] == "glibc.malloc.hugetlb=1"
    monkeypatch.setenv("GLIBC_TUNABLES", "")
    assert "malloc" not in costs.device_description()


@pytest.mark.parametrize(
    ("group", "free"),
    [
        ({}, 8_000_000_000),
        ({"memory.max": "max"}, 8_000_000_000),
        ({"memory.max": "64000000000", "memory.current": "1"}, 8_000_000_000),
        ({"memory.max": "4000000000", "memory.current": "3000000000"}, 1_000_000_000),
        (
            {
                "memory.max": "4000000000",
                "memory.current": "3000000000",
                "memory.stat": "anon 5\ninactive_file 2000000000\n",
            },
            3_000_000_000,
        ),
    ],
)
def test_what_is_free_is_what_machine_and_container_can_give(tmp_path, monkeypatch, group, free):
    (tmp_path / "meminfo").write_text("MemTotal: 9000000 kB\nMemAvailable:    7812500 kB\n")
    for name, text in group.items():
        (tmp_path / name).write_text(text)
    places = {"/proc/meminfo": tmp_path / "meminfo", "/sys/fs/cgroup": tmp_path}
    monkeypatch.setattr(devices, "Path", lambda name: places[name])
    assert costs.free_bytes() == free
    (tmp_path / "meminfo").unlink()
    assert costs.free_bytes() is None


@pytest.mark.parametrize(
    ("says", "found"),
    [
        ("echo '580.1, 1980, 3201, 700.00'; echo '580.1, 345, 3201, 700.00'", ("580.1", "1980")),
        ("echo '580.1, [N/A], 3201, 700.00'", ("580.1", None)),
        ("echo no devices were found", (None, None)),
        ("exit 9", (None, None)),
    ],
)
def test_a_gpu_tells_its_driver_and_clocks(tmp_path, monkeypatch, says, found):
    smi = tmp_path / "nvidia-smi"
    smi.write_text(f"#!/bin/sh\n{says}\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    told = devices._nvidia()
    assert (told.get("driver"), told.get("gpu_mhz")) == found
    monkeypatch.setenv("PATH", "")
    assert devices._nvidia() == {}


def test_functions_take_turns_and_are_timed_each_for_itself():
    order = []

    def device(name, seconds):
        def call():
            order.append(name)
            clock.now += seconds

        return call

    clock = Clock()
    calls = [(device("a", 1.0), [()]), (device("b", 3.0), [()])]
    limits = {"repeats": 2, "max_repeats": 9, "warmup": 1, "clock": clock, "block": id}
    samples = costs.sample_in_turns(calls, min_seconds=2.5, **limits)
    # Three rounds: until the quicker one, too, has been sampled for 2.5 seconds.
    assert samples == [(1.0,) * 3, (3.0,) * 3]
    assert order == ["a", "b"] + ["a", "b"] * 3


def test_calls_before_each_sample_are_not_timed():
    # Each call that follows one of the other's takes ten times as long.
    order, clock = [], Clock()

    def device(name):
        def call():
            clock.now += 1.0 if order[-1:] == [name] else 10.0
            order.append(name)

        return call

    calls = [(device(name), [()]) for name in "ab"]
    limits = LIMITS | {"clock": clock, "block": id}
    assert costs.sample_in_turns(calls, **limits) == [(10.0,) * 3] * 2
    order.clear()
    assert costs.sample_in_turns(calls, lead=1, **limits) == [(1.0,) * 3] * 2


def test_donated_arguments_are_used_up():
    program = costs.compile_ahead(lambda x, y: x + y, jnp.ones(8), jnp.ones(8), donate_argnums=(0,))
    x, y = jnp.ones(8), jnp.ones(8)
    np.testing.assert_array_equal(program.call(x, y), np.full(8, 2.0))
    assert x.is_deleted()
    assert not y.is_deleted()


def test_measure_in_turns_names_each_timing():
    fns = {"plain": (lambda p, x: x @ p["w"], W), "twice": (lambda p, x: 2 * (x @ p["w"]), W)}
    timings = costs.measure_in_turns(fns, X, repeats=2, min_seconds=0.0)
    assert list(timings) == ["plain", "twice"]
    assert [t.repeats for t in timings.values()] == [2, 2]
    assert timings["twice"].program.xla_flops > timings["plain"].program.xla_flops
