"""The train step: pruned weights stay zero, masks never retrace, one seed decides."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from linear_toy import (
    STARTS,
    counting,
    linear,
    make_mask,
    make_params,
    make_windows,
    noisy,
    numpy_linear,
)

from tsjax import pruning
from tsjax.training import init_state, predict_step, train_step

ADAM = optax.adam(1e-2)
BATCH = jnp.asarray(STARTS[:8])


def start(mask=None, tx=ADAM, seed=0, state=()):
    params = make_params()
    mask = pruning.ones(params) if mask is None else mask
    return init_state(params, state, mask, tx, jax.random.key(seed))


def run(train, steps, forward=linear, tx=ADAM):
    losses = []
    for _ in range(steps):
        train, loss = train_step(train, make_windows(), BATCH, forward=forward, tx=tx)
        losses.append(float(loss))
    return train, losses


def under(mask, tree):
    """All values of the tree where the mask prunes."""
    leaves = jax.tree.map(lambda keep, leaf: np.asarray(leaf)[~np.asarray(keep)], mask, tree)
    return np.concatenate(jax.tree.leaves(leaves))


def test_the_initial_state_is_masked():
    train = start(make_mask())
    assert np.all(under(train.mask, make_params()) != 0)
    assert np.all(under(train.mask, train.params) == 0)
    chex.assert_trees_all_equal(train.params, pruning.apply(make_params(), train.mask))
    assert train.step == 0


def test_the_loss_is_the_mean_squared_error_before_the_step():
    _, losses = run(start(make_mask()), 1)
    params = pruning.apply(make_params(), make_mask())
    forecasts, targets = numpy_linear(params, make_windows(), BATCH)
    np.testing.assert_allclose(losses[0], np.mean((forecasts - targets) ** 2), rtol=1e-6)


def test_a_step_of_gradient_descent_is_the_one_by_hand():
    sgd = optax.sgd(0.1)
    train, _ = run(start(tx=sgd), 1, tx=sgd)
    forecasts, targets = numpy_linear(make_params(), make_windows(), BATCH)
    slope = 2 * np.mean(forecasts - targets, axis=(0, 2)) / targets.shape[1]
    expected = np.asarray(make_params()["bias"]) - 0.1 * slope
    np.testing.assert_allclose(train.params["bias"], expected, rtol=1e-5)


def test_pruned_weights_stay_exactly_zero():
    train = start(make_mask())
    for _ in range(5):
        before = train.params
        train, _ = run(train, 1)
        assert np.all(under(train.mask, train.params) == 0)
        kept = jax.tree.map(jnp.logical_not, train.mask)
        assert np.all(under(kept, train.params) != under(kept, before))
    chex.assert_trees_all_equal(train.mask, make_mask())
    assert train.step == 5


def test_the_loss_falls():
    _, losses = run(start(make_mask()), 60)
    assert losses[-1] < 0.5 * losses[0]


def test_a_new_mask_on_a_state_with_momentum_leaves_pruned_weights_alone():
    train, _ = run(start(), 5)
    mask = make_mask()
    moments = under(mask, train.opt_state.inner_state[0].mu)
    assert np.all(moments != 0), "without momentum this test shows nothing"
    train = dataclasses.replace(train, mask=mask, params=pruning.apply(train.params, mask))
    for _ in range(3):
        train, _ = run(train, 1)
        assert np.all(under(mask, train.params) == 0)
        assert np.all(under(mask, train.opt_state.inner_state[0].mu) == 0)


def test_weights_under_a_new_mask_count_as_zero_at_once_and_are_zero_after_a_step():
    train, _ = run(start(), 2)
    stale = dataclasses.replace(train, mask=make_mask())
    zeroed = dataclasses.replace(stale, params=pruning.apply(stale.params, stale.mask))
    (after_stale, stale_loss), (after_zeroed, zeroed_loss) = run(stale, 2), run(zeroed, 2)
    assert stale_loss == zeroed_loss
    chex.assert_trees_all_equal(after_stale.params, after_zeroed.params)
    assert np.any(under(stale.mask, stale.params) != 0)
    assert np.all(under(stale.mask, after_stale.params) == 0)


def test_an_infinite_gradient_under_the_mask_does_no_harm():
    def rooted(params, state, *inputs, key=None):
        forecast, state = linear(params, state, *inputs)
        return forecast + jnp.sum(jnp.sqrt(jnp.abs(params["kernel"]))), state

    train, losses = run(start(make_mask()), 3, forward=rooted)
    assert np.all(np.isfinite(losses))
    chex.assert_tree_all_finite(train.params)
    assert np.all(under(train.mask, train.params) == 0)


def test_another_mask_does_not_retrace():
    forward, traces = counting()
    train, _ = run(start(), 2, forward=forward)
    run(start(make_mask()), 1, forward=forward)
    run(dataclasses.replace(train, mask=make_mask()), 2, forward=forward)
    selected = pruning.select(pruning.magnitude(train.params), 0.4)
    run(dataclasses.replace(train, mask=selected), 2, forward=forward)
    assert traces == [True]


def test_one_seed_decides_bit_by_bit():
    first, losses = run(start(make_mask(), seed=3), 4, forward=noisy)
    again, again_losses = run(start(make_mask(), seed=3), 4, forward=noisy)
    chex.assert_trees_all_equal(again.params, first.params)
    assert again_losses == losses
    other, other_losses = run(start(make_mask(), seed=4), 4, forward=noisy)
    assert other_losses[0] != losses[0]
    assert np.any(other.params["kernel"] != first.params["kernel"])


def test_train_mode_gets_a_new_key_in_each_step_and_evaluation_none():
    def remembering(params, state, *inputs, key=None):
        assert (key is None) is (state == {})
        forecast, _ = linear(params, state, *inputs)
        return forecast, state if key is None else {"key": jax.random.key_data(key)}

    train = start(state={"key": jax.random.key_data(jax.random.key(9))})
    seen = []
    for _ in range(4):
        train, _ = run(train, 1, forward=remembering)
        seen.append(tuple(np.asarray(train.state["key"]).tolist()))
    assert len(set(seen)) == 4
    assert tuple(np.asarray(jax.random.key_data(train.key)).tolist()) not in seen
    predict_step(train.params, train.mask, {}, make_windows(), BATCH, forward=remembering)


def test_the_state_a_forward_returns_is_kept():
    def stateful(params, state, *inputs, key=None):
        forecast, _ = linear(params, state, *inputs)
        return forecast, {"calls": state["calls"] + 1}

    train, _ = run(start(state={"calls": jnp.int32(0)}), 3, forward=stateful)
    assert train.state["calls"] == 3


def test_a_mask_of_another_shape_is_refused():
    mask = make_mask()
    mask["kernel"] = mask["kernel"].T
    with pytest.raises(ValueError, match=r"kernel: mask has shape \(3, 6\), params \(6, 3\)"):
        start(mask)
