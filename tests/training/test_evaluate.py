"""Evaluation and forecasts against plain numpy over all windows."""

import jax.numpy as jnp
import numpy as np
import pytest
from linear_toy import (
    STARTS,
    C,
    L,
    P,
    counting,
    linear,
    make_forecaster,
    make_mask,
    make_params,
    make_windows,
    noisy,
    numpy_linear,
)

from tsjax import pruning
from tsjax.training import Windows, evaluate, predict, repeat_last, seasonal_naive


def check(metrics, forecasts, targets):
    np.testing.assert_allclose(metrics.mse, np.mean((forecasts - targets) ** 2), rtol=1e-6)
    np.testing.assert_allclose(metrics.mae, np.mean(np.abs(forecasts - targets)), rtol=1e-6)
    assert metrics.windows == len(forecasts)
    assert all(type(value) is float for value in metrics[:2])


@pytest.mark.parametrize("batch_size", [1, 7, 52, 100])
def test_every_window_counts_once(batch_size):
    assert len(STARTS) == 52
    metrics = evaluate(make_forecaster(), make_windows(), STARTS, batch_size=batch_size)
    check(metrics, *numpy_linear(make_params(), make_windows(), STARTS))


def test_drop_last_leaves_out_the_incomplete_batch():
    metrics = evaluate(make_forecaster(), make_windows(), STARTS, batch_size=10, drop_last=True)
    check(metrics, *numpy_linear(make_params(), make_windows(), STARTS[:50]))
    whole = evaluate(make_forecaster(), make_windows(), STARTS, batch_size=13, drop_last=True)
    assert whole.windows == 52


def test_a_mask_is_applied():
    metrics = evaluate(make_forecaster(make_mask()), make_windows(), STARTS)
    masked = pruning.apply(make_params(), make_mask())
    check(metrics, *numpy_linear(masked, make_windows(), STARTS))


@pytest.mark.parametrize(("starts", "drop_last"), [(STARTS[:0], False), (STARTS[:9], True)])
def test_no_window_is_an_error(starts, drop_last):
    with pytest.raises(ValueError, match=r"^there is no window to evaluate$"):
        evaluate(make_forecaster(), make_windows(), starts, batch_size=10, drop_last=drop_last)


def test_evaluation_has_no_dropout_and_repeats_itself():
    forecaster = make_forecaster(forward=noisy)
    run = [evaluate(forecaster, make_windows(), STARTS) for _ in range(2)]
    assert run[0] == run[1]
    check(run[0], *numpy_linear(make_params(), make_windows(), STARTS))


def test_masks_incomplete_batches_and_new_weights_do_not_retrace():
    forward, traces = counting()
    for seed, mask in [(0, None), (1, make_mask()), (2, None)]:
        forecaster = make_forecaster(mask, seed, forward)
        evaluate(forecaster, make_windows(), STARTS, batch_size=10)
    assert traces == [False]


def test_a_window_that_is_not_finite_is_not_hidden():
    windows = make_windows()
    broken = Windows(windows.values.at[-1, 0].set(jnp.nan), windows.marks, L, 2, P)
    assert np.isnan(evaluate(make_forecaster(), broken, STARTS).mse)
    # The padding repeats windows of the batch, so that it can't bring in a broken one.
    assert np.isfinite(evaluate(make_forecaster(), broken, STARTS[:-1]).mse)


@pytest.mark.parametrize("batch_size", [1, 7, 52, 100])
def test_predict_is_the_forward_of_each_window_in_order(batch_size):
    order = STARTS[::-1].copy()
    got = predict(make_forecaster(), make_windows(), order, batch_size=batch_size)
    assert got.shape == (52, P, C)
    assert isinstance(got, np.ndarray)
    expected, _ = numpy_linear(make_params(), make_windows(), order)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_predict_is_the_forward_called_directly():
    got = predict(make_forecaster(), make_windows(), STARTS, batch_size=len(STARTS))
    direct, _ = linear(make_params(), (), *make_windows().gather(jnp.asarray(STARTS)).inputs)
    np.testing.assert_allclose(got, direct, rtol=1e-6, atol=1e-6)


def test_predict_applies_the_mask():
    got = predict(make_forecaster(make_mask()), make_windows(), STARTS)
    masked = pruning.apply(make_params(), make_mask())
    expected, _ = numpy_linear(masked, make_windows(), STARTS)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_predict_of_no_window_is_an_error():
    with pytest.raises(ValueError, match="no window"):
        predict(make_forecaster(), make_windows(), STARTS[:0])


def test_repeat_last_holds_the_last_value():
    values = np.asarray(make_windows().values)
    expected = np.stack([np.repeat(values[s + L - 1][None], P, axis=0) for s in STARTS])
    got = predict(repeat_last(P), make_windows(), STARTS)
    np.testing.assert_array_equal(got, expected)
    _, targets = numpy_linear(make_params(), make_windows(), STARTS)
    check(evaluate(repeat_last(P), make_windows(), STARTS), expected, targets)


@pytest.mark.parametrize("period", [1, 2, 3, 5, 6])
@pytest.mark.parametrize("pred_len", [1, 3, 8])
def test_seasonal_naive_repeats_the_last_period(period, pred_len):
    series = make_windows()
    windows = Windows(series.values, series.marks, L, 2, pred_len)
    starts = STARTS[: len(series.values) - L - pred_len + 1]
    values = np.asarray(series.values)
    expected = np.stack([np.resize(values[s + L - period : s + L], (pred_len, C)) for s in starts])
    got = predict(seasonal_naive(pred_len, period), windows, starts)
    np.testing.assert_array_equal(got, expected)


def test_a_season_longer_than_the_look_back_is_refused():
    with pytest.raises(ValueError, match="period"):
        predict(seasonal_naive(P, L + 1), make_windows(), STARTS)


def test_the_baselines_are_the_same_function_each_time():
    assert repeat_last(5).forward is repeat_last(5).forward
    assert seasonal_naive(5, 2).forward is seasonal_naive(5, 2).forward
    assert seasonal_naive(5, 2).forward is not seasonal_naive(5, 3).forward
