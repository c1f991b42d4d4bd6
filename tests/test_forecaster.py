"""The value that stands for a model: a pytree with a static function, whose mask is applied."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tsjax.forecaster import Forecaster, forecast

X = jnp.arange(6.0).reshape(1, 3, 2)
KERNEL = jnp.asarray([[1.0, 2.0], [3.0, 4.0]])
MASK = {"kernel": jnp.asarray([[True, False], [True, True]])}


def linear(params, state, x, *, key=None):
    drawn = 0.0 if key is None else jax.random.uniform(key)
    return x @ params["kernel"] * state.get("scale", 1.0) + drawn, {"seen": state}


def test_it_has_a_state_and_no_mask_unless_it_is_given_them():
    made = Forecaster(linear, {"kernel": KERNEL})
    assert (made.state, made.mask) == ({}, None)
    np.testing.assert_array_equal(forecast(made, X), X @ KERNEL)


def test_the_state_reaches_the_function_and_the_key_does():
    made = Forecaster(linear, {"kernel": KERNEL}, {"scale": jnp.float32(2)})
    np.testing.assert_array_equal(forecast(made, X), 2 * (X @ KERNEL))
    key = jax.random.key(3)
    expected = 2 * (X @ KERNEL) + jax.random.uniform(key)
    np.testing.assert_array_equal(forecast(made, X, key=key), expected)


def test_the_mask_is_applied_in_front():
    made = Forecaster(linear, {"kernel": KERNEL}, mask=MASK)
    masked = jnp.where(MASK["kernel"], KERNEL, 0)
    np.testing.assert_array_equal(forecast(made, X), X @ masked)
    gradient = jax.grad(lambda params: forecast(dataclasses.replace(made, params=params), X).sum())(
        made.params
    )
    assert gradient["kernel"][0, 1] == 0
    assert jnp.all(gradient["kernel"][:, 0] != 0)


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        ({"kernel": jnp.ones((2, 2))}, r"leaves must be bool: kernel \(float32\)"),
        ({"kernel": jnp.ones((2, 1), bool)}, r"kernel: mask has shape \(2, 1\), params \(2, 2\)"),
        ({"bias": MASK["kernel"]}, "kernel: missing from mask"),
    ],
    ids=["numbers", "shape", "leaf"],
)
def test_what_is_no_mask_is_refused(mask, said):
    with pytest.raises(ValueError, match=said):
        forecast(Forecaster(linear, {"kernel": KERNEL}, mask=mask), X)


def test_other_leaves_compile_nothing_again_and_another_function_does():
    traces = []

    @jax.jit
    def run(forecaster):
        traces.append(forecaster.forward)
        return forecast(forecaster, X)

    made = Forecaster(linear, {"kernel": KERNEL}, mask=MASK)
    run(made)
    run(jax.tree.map(lambda leaf: ~leaf if leaf.dtype == bool else 2 * leaf, made))
    assert traces == [linear]
    run(dataclasses.replace(made, forward=lambda params, state, x, key=None: (x, state)))
    assert len(traces) == 2


def test_what_is_kept_is_a_tree_like_it():
    dense = Forecaster(linear, {"kernel": KERNEL}, {"scale": jnp.float32(2)})
    assert jax.tree.structure(dense.kept()) == jax.tree.structure(dense)
    assert all(leaf.dtype == bool and leaf.all() for leaf in jax.tree.leaves(dense.kept()))
    masked = dataclasses.replace(dense, mask=MASK)
    kept = masked.kept()
    assert jax.tree.structure(kept) == jax.tree.structure(masked)
    np.testing.assert_array_equal(kept.params["kernel"], MASK["kernel"])
    np.testing.assert_array_equal(kept.mask["kernel"], MASK["kernel"])
    assert kept.state["scale"]


def test_a_function_written_by_hand_has_no_configuration():
    with pytest.raises(AttributeError, match="it has no configuration"):
        _ = Forecaster(linear, {"kernel": KERNEL}).config
