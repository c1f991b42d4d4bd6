"""Masks: what they zero, what they leave alone, and how much they keep."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tsjax import pruning


def some_params(dtype=jnp.float32):
    return {
        "dense": {
            "kernel": jnp.arange(1, 7, dtype=dtype).reshape(2, 3),
            "bias": jnp.ones(3, dtype),
        },
        "rest": [jnp.asarray(2, dtype), jnp.zeros((0, 2), dtype)],
    }


def some_mask():
    return {
        "dense": {
            "kernel": jnp.asarray([[True, False, True], [False, False, True]]),
            "bias": jnp.asarray([True, True, False]),
        },
        "rest": [jnp.asarray(True), jnp.ones((0, 2), bool)],
    }


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "complex64"])
def test_pruned_weights_are_zero_and_the_others_untouched(dtype):
    got = pruning.apply(some_params(jnp.dtype(dtype)), some_mask())
    chex.assert_trees_all_equal_dtypes(got, some_params(jnp.dtype(dtype)))
    assert np.asarray(got["dense"]["kernel"]).tolist() == [[1, 0, 3], [0, 0, 6]]
    assert np.asarray(got["dense"]["bias"]).tolist() == [1, 1, 0]
    assert got["rest"][0] == 2
    assert got["rest"][1].shape == (0, 2)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, -0.0, -3.0])
def test_whatever_is_under_the_mask_becomes_plain_zero(bad):
    got = pruning.apply([jnp.asarray([bad, bad])], [jnp.asarray([False, True])])[0]
    assert got[0] == 0
    assert not jnp.signbit(got[0])
    np.testing.assert_array_equal(got[1], np.float32(bad))


def test_a_pruned_weight_has_exactly_zero_gradient():
    params, mask = some_params(), some_mask()

    def loss(params):
        masked = pruning.apply(params, mask)
        # The root's slope at a pruned weight is infinite: it must not reach the gradient.
        return sum(jnp.sum(jnp.sqrt(leaf)) for leaf in jax.tree.leaves(masked))

    grads = jax.jit(jax.grad(loss))(params)
    chex.assert_trees_all_equal(grads, pruning.apply(grads, mask))
    kernel = np.asarray(params["dense"]["kernel"])
    expected = np.where(mask["dense"]["kernel"], 0.5 / np.sqrt(kernel), 0)
    np.testing.assert_allclose(grads["dense"]["kernel"], expected, rtol=1e-6)


def test_apply_works_inside_jit_and_vmap():
    params, mask = some_params(), some_mask()
    expected = pruning.apply(params, mask)
    chex.assert_trees_all_equal(jax.jit(pruning.apply)(params, mask), expected)
    masks = jax.tree.map(lambda a, b: jnp.stack([a, b]), mask, pruning.ones(params))
    both = jax.jit(jax.vmap(pruning.apply, in_axes=(None, 0)))(params, masks)
    chex.assert_trees_all_equal(jax.tree.map(lambda leaf: leaf[0], both), expected)
    chex.assert_trees_all_equal(jax.tree.map(lambda leaf: leaf[1], both), params)


def test_apply_lists_every_leaf_that_differs():
    mask = some_mask()
    mask["dense"]["kernel"] = mask["dense"]["kernel"].T
    del mask["dense"]["bias"]
    mask["more"] = jnp.ones(1, bool)
    with pytest.raises(ValueError, match="mask") as error:
        pruning.apply(some_params(), mask)
    assert str(error.value) == (
        "mask does not match params:\n"
        "  dense/bias: missing from mask\n"
        "  more: not in params\n"
        "  dense/kernel: mask has shape (3, 2), params (2, 3)"
    )


def test_a_leaf_that_would_broadcast_is_refused():
    with pytest.raises(ValueError, match=r"w: mask has shape \(1, 3\), params \(2, 3\)"):
        pruning.apply({"w": jnp.ones((2, 3))}, {"w": jnp.ones((1, 3), bool)})


def test_ones_keeps_every_weight():
    params = some_params(jnp.bfloat16)
    mask = pruning.ones(params)
    chex.assert_trees_all_equal_shapes(mask, params)
    assert all(leaf.dtype == bool for leaf in jax.tree.leaves(mask))
    chex.assert_trees_all_equal(pruning.apply(params, mask), params)


def test_ones_of_shapes_alone():
    params = some_params()
    chex.assert_trees_all_equal(pruning.ones(jax.eval_shape(lambda: params)), pruning.ones(params))


def test_summary_counts_each_leaf():
    summary = pruning.summary(some_mask())
    assert summary == {
        "dense/bias": (2, 3),
        "dense/kernel": (3, 6),
        "rest/0": (1, 1),
        "rest/1": (0, 0),
    }
    assert all(type(count) is int for counts in summary.values() for count in counts)


def test_density_counts_all_leaves_or_the_chosen():
    assert pruning.density(some_mask()) == (3 + 2 + 1) / (6 + 3 + 1)
    assert pruning.density(some_mask(), where=pruning.kernels) == 3 / 6
    assert pruning.density(some_mask(), where=lambda _, leaf: leaf.ndim == 1) == 2 / 3


def test_density_of_nothing_is_one():
    assert pruning.density({}) == 1
    assert pruning.density(some_mask(), where=lambda *_: False) == 1
    assert pruning.density([jnp.ones((0, 2), bool)]) == 1


def test_density_takes_globs_and_refuses_those_that_match_nothing():
    assert pruning.density(some_mask(), where="dense/*") == 5 / 9
    assert pruning.density(some_mask(), where=("dense/bias", "rest/0")) == 3 / 4
    with pytest.raises(ValueError, match=r"no leaf matches 'dense/kernl' \(did you mean"):
        pruning.density(some_mask(), where="dense/kernl")


def test_density_counts_a_complex_weight_once():
    mask = {"f": {"real": np.array([True, False]), "imag": np.array([True, False])}}
    mask["g"] = np.array([True, True, True])
    assert pruning.density(mask) == 4 / 5
    assert pruning.density(mask, "f/*") == 1 / 2
    assert pruning.density(mask, pruning.complex_pairs) == 1 / 2
    assert pruning.count(mask) == (4, 5)
    assert pruning.count(mask, "g") == (3, 3)
    assert pruning.count(mask, ()) == (0, 0)


def test_the_intersection_keeps_what_all_masks_keep():
    one, other = jnp.asarray([True, True, False, False]), jnp.asarray([True, False, True, False])
    assert pruning.intersect([one], [other])[0].tolist() == [True, False, False, False]
    assert pruning.intersect([one], [other], [~one])[0].tolist() == [False] * 4
    assert pruning.intersect([one])[0].tolist() == one.tolist()


# The straight-through estimator.


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "complex64"])
def test_straight_through_has_the_values_of_apply(dtype):
    params = some_params(jnp.dtype(dtype))
    got = pruning.straight_through(params, some_mask())
    chex.assert_trees_all_equal(got, pruning.apply(params, some_mask()))
    chex.assert_trees_all_equal_dtypes(got, params)


def test_straight_through_gives_pruned_weights_the_gradient_at_the_masked_weights():
    params, mask = some_params(), some_mask()

    def loss(params):
        masked = pruning.straight_through(params, mask)
        return jnp.sum((masked["dense"]["kernel"] - 10) ** 2) + 3 * masked["dense"]["bias"][2]

    grads = jax.jit(jax.grad(loss))(params)
    # 2 (w - 10) at w = 1, 0, 3; 0, 0, 6: the pruned weights count as zero, not as they are.
    assert grads["dense"]["kernel"].tolist() == [[-18, -20, -14], [-20, -20, -8]]
    assert grads["dense"]["bias"].tolist() == [0, 0, 3]


def test_straight_through_in_forward_mode_and_under_vmap():
    params, mask = [jnp.asarray([2.0, 3.0])], [jnp.asarray([True, False])]
    tangent = [jnp.asarray([0.5, 7.0])]
    through = lambda params: pruning.straight_through(params, mask)  # noqa: E731
    value, slope = jax.jvp(through, (params,), (tangent,))
    assert value[0].tolist() == [2, 0]
    assert slope[0].tolist() == [0.5, 7]
    both = jax.vmap(through)([jnp.asarray([[2.0, 3.0], [4.0, 5.0]])])
    assert both[0].tolist() == [[2, 0], [4, 0]]


@pytest.mark.parametrize("use", [pruning.apply, pruning.straight_through])
def test_a_mask_that_is_not_bool_is_refused(use):
    with pytest.raises(ValueError, match=r"must be bool: a/kernel \(float32\)$"):
        use({"a": {"kernel": jnp.ones(2)}}, {"a": {"kernel": jnp.array([1.0, 0.5])}})


def test_leaves_that_are_no_arrays_are_named():
    weights = {"w": jnp.ones((2, 2))}
    model = {"layer": weights, "activation": jax.nn.relu}
    for use in (
        lambda: pruning.apply(weights, {"w": True}),
        lambda: pruning.pack({"w": True}),
        lambda: pruning.keep_pruned(optax.sgd(0.1), {"w": True}).init(weights),
        lambda: pruning.summary({"w": True}),
        lambda: pruning.compress({"w": 1.0}, {"w": jnp.ones((), bool)}),
    ):
        with pytest.raises(ValueError, match=r"these leaves are no arrays: w \((bool|float)\)"):
            use()
    for use in (
        pruning.ones,
        pruning.magnitude,
        functools.partial(pruning.random, key=jax.random.key(0)),
        functools.partial(pruning.erk, density=0.5),
        functools.partial(pruning.static_sparse(0.5).init, key=jax.random.key(0)),
        lambda tree: pruning.saliency(tree, tree),
    ):
        with pytest.raises(ValueError, match=r"these leaves are no arrays: activation \("):
            use(model)


def test_leaves_that_are_no_masks_are_named():
    weights = {"w": 10 * jnp.ones((2, 2))}
    for use in (pruning.summary, pruning.count, pruning.density):
        with pytest.raises(ValueError, match=r"leaves must be bool: w \(float32\)"):
            use(weights)
    with pytest.raises(ValueError, match=r"w: mask has shape \(2,\)"):
        pruning.intersect(pruning.ones(weights), {"w": jnp.ones(2, bool)})
    with pytest.raises(ValueError, match="no numbers, but random keys: rng"):
        pruning.magnitude(weights | {"rng": jax.random.key(0)})
    with pytest.raises(ValueError, match="w: values must be arrays"):
        pruning.decompress({"w": {"values": [1, 2]}}, {"w": jnp.ones(2)})
