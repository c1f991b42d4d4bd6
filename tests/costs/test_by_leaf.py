"""Which leaf of params a product is with, and what its mask would save."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from tsjax import costs

B, D, F = 2, 8, 4


def shape(*dims, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(dims, dtype)


PRODUCT = 2 * B * D * F
X = shape(B, D)

# {name: function of w [D, F] and x [B, D] that multiplies x with all of w, once}
WAYS = {
    "directly": lambda w, x: x @ w,
    "transposed twice": lambda w, x: (w.T @ x.T).T,
    "reshaped": lambda w, x: jnp.einsum("bd,dhe->bhe", x, w.reshape(D, 2, F // 2)),
    "converted": lambda w, x: x.astype(jnp.bfloat16) @ w.astype(jnp.bfloat16),
    "copied": lambda w, x: x @ jnp.copy(w),
    "squeezed": lambda w, x: x @ w[None].squeeze(0),
    "reversed": lambda w, x: x @ w[::-1],
    "masked": lambda w, x: x @ jnp.where(x[0, 0] > 0, w, 0.0),
    "masked by an array": lambda w, x: x @ jnp.where(jnp.arange(D * F).reshape(D, F) > 3, w, 0.0),
    "stop_gradient": lambda w, x: x @ lax.stop_gradient(w),
    "optimization_barrier": lambda w, x: x @ lax.optimization_barrier((x, w))[1],
    "in jit": lambda w, x: jax.jit(lambda w, x: x @ w)(w, x),
    "out of jit": lambda w, x: x @ jax.jit(lambda w: w.T)(w).T,
    "in checkpoint": lambda w, x: jax.checkpoint(lambda w, x: x @ w)(w, x),
    "in cond": lambda w, x: lax.cond(x.sum() > 0, lambda: x @ w, lambda: x[:, :F]),
    "out of cond": lambda w, x: x @ lax.cond(x.sum() > 0, lambda: w.T, lambda: w[::-1].T).T,
    "in vmap": lambda w, x: jax.vmap(lambda r: r @ w)(x),
    "in a scan, as a constant": lambda w, x: lax.map(lambda r: r @ w, x),
    "in a scan, as slices": lambda w, x: lax.map(lambda column: x @ column, w.T),
    "out of a scan": lambda w, x: x @ lax.map(lambda row: row, w),
    "in a scan, carried": lambda w, x: lax.scan(lambda c, r: (c.T.T, r @ c), w, x)[1],
    "in a while": lambda w, x: lax.while_loop(
        lambda y: y.sum() > 0, lambda y: y * (x @ w), jnp.ones((B, F))
    ),
    "as a convolution": lambda w, x: lax.conv_general_dilated(
        x[:, None], w[None], (1,), "VALID", dimension_numbers=("NWC", "WIO", "NWC")
    ),
    "in slices": lambda w, x: (x @ w[:, :1], x @ w[:, 1:]),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_leaf_is_followed(way):
    counted = costs.count(lambda p, x: WAYS[way](p["w"], x), {"w": shape(D, F)}, X)
    assert counted.by_leaf == {"w": PRODUCT}


# {name: function in which w is in no product, or only its result is}
NOT_WAYS = {
    "arithmetic on the leaf": lambda w, x: x @ (w * 2.0),
    "a bias": lambda w, x: (x @ jnp.ones((D, F)) + w[:1]) @ jnp.ones((F, F)),
    "an embedding looked up": lambda w, x: w[x[:, 0].astype(jnp.int32)] @ jnp.ones((F, F)),
    "a scale": lambda w, x: (x * w[:, 0][None]) @ jnp.ones((D, D)),
    "a carry that changes": lambda w, x: lax.fori_loop(0, 3, lambda _, c: c + 1.0, w).T @ x.T,
}


@pytest.mark.parametrize("way", NOT_WAYS)
def test_a_leaf_is_not_followed_through_arithmetic(way):
    counted = costs.count(lambda p, x: NOT_WAYS[way](p["w"], x), {"w": shape(D, F)}, X)
    assert counted.flops > 0
    assert counted.by_leaf == {"w": 0}


def test_paths_and_leaves_without_products():
    def fn(params, x):
        for layer in params["layers"]:
            x = x @ layer["kernel"] + layer["bias"][None]
        return x

    params = {"layers": [{"kernel": shape(D, D), "bias": shape(D)} for _ in range(2)]}
    assert costs.count(fn, params, X).by_leaf == {
        "layers/0/bias": 0,
        "layers/0/kernel": 2 * B * D * D,
        "layers/1/bias": 0,
        "layers/1/kernel": 2 * B * D * D,
    }


def test_a_tied_leaf_counts_at_each_use():
    counted = costs.count(lambda p, x: (x @ p["w"]) @ p["w"].T, {"w": shape(D, F)}, X)
    assert counted.by_leaf == {"w": 2 * PRODUCT}


def test_stacked_layers_in_a_scan():
    def fn(params, x):
        return lax.scan(lambda c, w: (jnp.tanh(c @ w), None), x, params["w"])[0]

    counted = costs.count(fn, {"w": shape(5, D, D)}, X)
    assert counted.by_leaf == {"w": 5 * 2 * B * D * D}


def test_layers_stacked_by_the_function_get_their_share():
    def fn(params, x):
        return lax.scan(lambda c, w: (c @ w, None), x, jnp.stack(params))[0]

    counted = costs.count(fn, [shape(D, D), shape(D, D)], X)
    assert counted.by_leaf == {"0": 2 * B * D * D, "1": 2 * B * D * D}


def test_joined_kernels_get_their_share():
    def fn(params, x):
        return x @ jnp.concatenate([params["q"], params["v"]], axis=1)

    counted = costs.count(fn, {"q": shape(D, F), "v": shape(D, 3 * F)}, X)
    assert counted.by_leaf == {"q": PRODUCT, "v": 3 * PRODUCT}


def test_padding_is_no_part_of_the_leaf():
    def fn(params, x):
        return x @ jnp.pad(params["w"], ((0, 0), (0, F)))

    assert costs.count(fn, {"w": shape(D, F)}, X).by_leaf == {"w": PRODUCT}


def test_real_and_imaginary_leaf_are_half_of_a_complex_kernel_each():
    def fn(params, x):
        return x.astype(jnp.complex64) @ lax.complex(params["re"], params["im"])

    counted = costs.count(fn, {"re": shape(D, F), "im": shape(D, F)}, X)
    assert counted.by_leaf == {"im": 2 * PRODUCT, "re": 2 * PRODUCT}


def test_a_choice_between_two_leaves_is_neither():
    def fn(params, x):
        return x @ jnp.where(x[0, 0] > 0, params["a"], params["b"])

    assert costs.count(fn, {"a": shape(D, F), "b": shape(D, F)}, X).by_leaf == {"a": 0, "b": 0}


def test_branches_that_give_different_leaves_give_neither():
    def fn(params, x):
        return x @ lax.cond(x.sum() > 0, lambda: params["a"].T, lambda: params["b"].T).T

    assert costs.count(fn, {"a": shape(D, F), "b": shape(D, F)}, X).by_leaf == {"a": 0, "b": 0}


def test_a_mask_among_the_params_is_in_no_product():
    def fn(params, x):
        return x @ jnp.where(params["mask"], params["w"], 0.0)

    counted = costs.count(fn, {"w": shape(D, F), "mask": shape(D, F, dtype=jnp.bool_)}, X)
    assert counted.by_leaf == {"mask": 0, "w": PRODUCT}


def test_backward_pass_multiplies_with_the_leaf_once_more():
    def loss(params, x):
        return jnp.sin(x @ jnp.where(x[0, 0] > 0, params["w"], 0.0)).sum()

    forward = costs.count(loss, {"w": shape(D, F)}, X)
    both = costs.count(jax.grad(loss, argnums=(0, 1)), {"w": shape(D, F)}, X)
    assert forward.by_leaf == {"w": PRODUCT}
    assert both.by_leaf == {"w": 2 * PRODUCT}


def mask_of(kept, *dims):
    return (np.arange(np.prod(dims)) < kept).reshape(dims)


def test_sparse_flops():
    def fn(params, x):
        return jnp.tanh(x @ params["a"] + params["bias"][None]) @ params["b"]

    params = {"a": shape(D, F), "b": shape(F, D), "bias": shape(F)}
    counted = costs.count(fn, params, X)
    mask = {"a": mask_of(8, D, F), "b": jnp.asarray(mask_of(16, F, D)), "bias": mask_of(0, F)}
    assert counted.sparse_flops(mask) == PRODUCT // 4 + PRODUCT // 2 + 2 * B * F
    everything = jax.tree.map(lambda s: np.ones(s.shape, bool), params)
    assert counted.sparse_flops(everything) == counted.flops


def test_sparse_flops_of_a_product_of_two_leaves_leaves_the_product_of_densities():
    params = {"a": shape(D, F), "b": shape(F, D)}
    counted = costs.count(lambda p: p["a"] @ p["b"], params)
    assert counted.by_leaf == {"a": counted.flops, "b": counted.flops}
    mask = {"a": mask_of(16, D, F), "b": mask_of(8, F, D)}
    assert counted.sparse_flops(mask) == counted.flops // 8


def test_sparse_flops_of_stacked_layers_and_joined_kernels():
    stacked = costs.count(
        lambda w, x: lax.scan(lambda c, k: (c @ k, None), x, w)[0], shape(4, D, D), X
    )
    assert stacked.sparse_flops(mask_of(D * D, 4, D, D)) == stacked.flops // 4
    joined = costs.count(lambda p, x: x @ jnp.concatenate(p, axis=1), [shape(D, F)] * 2, X)
    assert joined.sparse_flops([mask_of(0, D, F), mask_of(D * F, D, F)]) == joined.flops // 2


def test_a_mask_of_another_structure_is_refused_with_all_paths():
    counted = costs.count(
        lambda p, x: x @ p["w"] + p["b"][None], {"w": shape(D, F), "b": shape(F)}, X
    )
    with pytest.raises(ValueError, match=re.escape("b: missing from mask")) as error:
        counted.sparse_flops({"w": mask_of(1, F, D), "c": mask_of(1, F)})
    assert "c: not in params" in str(error.value)
    assert "w: mask has shape (4, 8), params (8, 4)" in str(error.value)


def test_a_mask_that_is_not_bool_is_refused():
    counted = costs.count(lambda p, x: x @ p["w"], {"w": shape(D, F)}, X)
    with pytest.raises(ValueError, match=r"leaves must be bool: w \(float32\)"):
        counted.sparse_flops({"w": np.ones((D, F), np.float32)})
