"""All masks at once: the same errors as one by one, in one program, within the memory given."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from linear_toy import (
    STARTS,
    L,
    P,
    counting,
    linear,
    make_forecaster,
    make_mask,
    make_params,
    make_windows,
)

from tsjax import pruning
from tsjax.training import Forecaster, Windows, evaluate, evaluate_many, evaluation, workers


def masks(count=5, seed=0):
    """Masks of falling density, the last without any weight."""
    rng = np.random.default_rng(seed)
    scores = jax.tree.map(lambda leaf: jnp.float32(rng.random(leaf.shape)), make_params())
    bounds = np.linspace(0, 1, count)
    return [jax.tree.map(lambda s, low=low: s >= low, scores) for low in bounds]


def many(found, forward=linear, windows=None, starts=STARTS, params=None, **options):
    windows = make_windows() if windows is None else windows
    params = make_params() if params is None else params
    forecaster = Forecaster(forward, params, ())
    return evaluate_many(forecaster, pruning.stack(found), windows, starts, **options)


def one_by_one(found, windows=None, starts=STARTS, **options):
    windows = make_windows() if windows is None else windows
    return [evaluate(make_forecaster(mask), windows, starts, **options) for mask in found]


def assert_same(got, expected):
    assert [m.windows for m in got] == [m.windows for m in expected]
    np.testing.assert_allclose([m[:2] for m in got], [m[:2] for m in expected], rtol=1e-6)


@pytest.mark.parametrize("chunk", [None, 1, 2, 5, 99])
@pytest.mark.parametrize("batch_size", [3, 16, 100])
def test_each_mask_has_the_error_that_it_has_alone(chunk, batch_size):
    found = masks()
    expected = one_by_one(found, batch_size=batch_size)
    assert len({m.mse for m in expected}) == 5, "the masks must differ for this to show anything"
    assert_same(many(found, batch_size=batch_size, chunk=chunk), expected)


def test_one_mask_at_a_time_is_evaluate_bit_by_bit():
    found = masks()
    assert many(found, chunk=1) == one_by_one(found)


@pytest.mark.parametrize("chunk", [1, 3])
def test_drop_last_leaves_out_the_incomplete_batch(chunk):
    found = masks(4)
    got = many(found, batch_size=10, drop_last=True, chunk=chunk)
    assert {m.windows for m in got} == {50}
    assert_same(got, one_by_one(found, starts=STARTS[:50]))


@pytest.mark.parametrize("chunk", [1, 3])
def test_more_windows_than_one_call_takes(chunk):
    rng = np.random.default_rng(3)
    values = jnp.float32(rng.normal(size=(600, 2)))
    windows = Windows(values, jnp.zeros((600, 1)), L, 2, P)
    starts = np.arange(600 - L - P + 1)
    got = many(masks(4), windows=windows, starts=starts, batch_size=16, chunk=chunk)
    assert_same(got, one_by_one(masks(4), windows=windows, starts=starts, batch_size=1))


@pytest.mark.parametrize("chunk", [1, 2])
def test_a_mask_with_a_broken_error_does_no_harm_to_the_others(chunk):
    params = make_params()
    params["kernel"] = params["kernel"].at[0, 0].set(jnp.nan)
    without = make_mask()
    without["kernel"] = without["kernel"].at[0, 0].set(False)
    first, broken, last = many([without, make_mask(), without], params=params, chunk=chunk)
    assert np.isnan(broken.mse)
    assert first == last
    assert np.isfinite(first.mse)


@pytest.mark.parametrize("chunk", [1, 2])
def test_other_masks_weights_and_windows_do_not_compile_again(chunk):
    forward, traces = counting()
    many(masks(), forward, batch_size=8, chunk=chunk)
    assert traces == [False]
    many(masks(seed=1), forward, batch_size=8, chunk=chunk)
    many(masks(9), forward, batch_size=8, chunk=chunk, params=make_params(1))
    many(masks(4), forward, batch_size=8, chunk=chunk, starts=STARTS[:21])
    assert traces == [False]


def test_evaluate_shares_the_program_for_one_mask():
    forward, traces = counting()
    many(masks(), forward, batch_size=8)
    evaluate(make_forecaster(forward=forward), make_windows(), STARTS[:30], batch_size=8)
    assert traces == [False]


# Memory.


@pytest.fixture
def spied(monkeypatch):
    """What is run: ``(calls, threads)``."""
    seen = []
    run_all = workers.run_all

    def spy(calls, threads, stop=None):
        seen.append((len(calls), threads))
        return run_all(calls, threads, stop)

    monkeypatch.setattr(workers, "run_all", spy)
    return seen


def program_bytes():
    """Of the program for one mask."""
    prepared = evaluation.prepare(make_forecaster(make_mask()), make_windows(), STARTS, 8)
    return workers.program_bytes(prepared.program)


def test_cores_work_side_by_side_as_far_as_memory_goes(spied, monkeypatch):
    monkeypatch.setattr(workers, "cores", lambda: 3)
    each = program_bytes()
    assert each > 0
    for memory, threads in [(0, 1), (each, 1), (2 * each + 1, 2), (9 * each, 3)]:
        assert_same(many(masks(), batch_size=8, memory=memory), one_by_one(masks()))
        assert spied[0] == (5, threads)
        spied.clear()


def test_elsewhere_than_on_a_cpu_the_chunk_is_what_memory_holds(spied, monkeypatch):
    monkeypatch.setattr(workers, "on_cpu", lambda array: False)
    each = program_bytes()
    expected = one_by_one(masks())
    spied.clear()
    # Six masks in chunks of at most 1, 2, 4 (which come out even as 3) and 6.
    for memory, calls in [(0, 6), (2 * each, 3), (4 * each, 2), (100 * each, 1)]:
        got = many([*masks(), masks()[0]], batch_size=8, memory=memory)
        assert_same(got, [*expected, expected[0]])
        assert spied[-1] == (calls, 1)


def test_settings_of_this_thread_hold_in_the_others():
    seen = []

    def asking(*args, key=None):
        seen.append(jax.config.jax_default_matmul_precision)
        return linear(*args, key=key)

    with jax.default_matmul_precision("bfloat16"):
        many(masks(), asking)
    assert seen == ["bfloat16"]


def test_in_double_precision():
    with jax.enable_x64(True):
        windows = make_windows()
        wide = Windows(jnp.float64(windows.values), jnp.float64(windows.marks), L, 2, P)
        params = jax.tree.map(jnp.float64, make_params())
        got = evaluate_many(Forecaster(linear, params, ()), pruning.stack(masks()), wide, STARTS)
    assert_same(got, one_by_one(masks()))


# Bad input.


def test_no_window_is_an_error():
    with pytest.raises(ValueError, match=r"^there is no window to evaluate$"):
        many(masks(), starts=STARTS[:0])


@pytest.mark.parametrize("chunk", [0, -1])
def test_a_chunk_of_none_is_refused(chunk):
    with pytest.raises(ValueError, match=f"^chunk must be at least 1, got {chunk}$"):
        many(masks(), chunk=chunk)


def test_one_mask_that_is_not_stacked_is_refused():
    with pytest.raises(ValueError, match="must agree on the number of lanes"):
        evaluate_many(make_forecaster(), make_mask(), make_windows(), STARTS)


def test_masks_of_another_model_are_refused():
    found = [{"kernel": jnp.ones((P, L), bool), "bias": jnp.ones(P, bool)}] * 2
    with pytest.raises(ValueError, match=r"kernel: mask has shape \(3, 6\), params \(6, 3\)"):
        many(found)
