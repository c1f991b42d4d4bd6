"""Counts against hand counts: B batch, L length, D width, H heads, E head width, F hidden width."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from tsjax import costs


def shape(*dims, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(dims, dtype)


def flops(fn, *args):
    """Flops of a function of inputs only; everything in it must have a rule."""
    counted = costs.count(lambda _, *inputs: fn(*inputs), {}, *args)
    assert counted.uncounted == {}
    assert sum(counted.by_primitive.values()) == counted.flops
    assert sum(counted.by_scope.values()) == counted.flops
    return counted.flops


B, L, D, H, E, F = 2, 6, 8, 4, 3, 5
C64 = jnp.complex64


def attention(q, k, v):
    scores = jnp.einsum("blhe,bshe->bhls", q, k) / 2.0
    scores = scores - lax.stop_gradient(scores.max(-1, keepdims=True))
    weights = jnp.exp(scores)
    weights = weights / weights.sum(-1, keepdims=True)
    return jnp.einsum("bhls,bshe->blhe", weights, v)


def layer_norm(x, scale, bias):
    centred = x - x.sum(-1, keepdims=True) / D
    variance = (centred * centred).sum(-1, keepdims=True) / D
    return centred * lax.rsqrt(variance + 1e-5) * scale + bias


def attention_flops():
    scores = B * H * L * L
    # Two products; scale, subtract, exp, divide; a maximum and a sum per row.
    return 2 * (2 * scores * E) + 4 * scores + 2 * (scores - B * H * L)


def layer_norm_flops():
    x, rows = B * L * D, B * L
    # Two sums; two divisions by D; subtract, square, normalise, scale, shift; add epsilon, rsqrt.
    return 2 * (x - rows) + 2 * rows + 5 * x + 2 * rows


def conv(x, w, padding="SAME", strides=(1,), groups=1, dilation=None):
    return lax.conv_general_dilated(
        x,
        w,
        strides,
        padding,
        lhs_dilation=dilation,
        dimension_numbers=("NWC", "WIO", "NWC"),
        feature_group_count=groups,
    )


HAND_COUNTS = {
    "dense": (
        lambda x, w, b: x @ w + b[None],
        (shape(B, D), shape(D, F), shape(F)),
        2 * B * D * F + B * F,
    ),
    "batched einsum": (
        lambda x, y: jnp.einsum("bld,bsd->bls", x, y),
        (shape(B, L, D), shape(B, F, D)),
        2 * B * L * F * D,
    ),
    "integer dot": (
        lambda x, y: x @ y,
        (shape(B, D, dtype=jnp.int8), shape(D, F, dtype=jnp.int8)),
        0,
    ),
    "bfloat16": (
        lambda x, y: x @ y,
        (shape(B, D, dtype=jnp.bfloat16), shape(D, F, dtype=jnp.bfloat16)),
        2 * B * D * F,
    ),
    "complex dot": (
        lambda x, y: x @ y,
        (shape(B, D, dtype=C64), shape(D, F, dtype=C64)),
        8 * B * D * F,
    ),
    "conv, padding counted": (conv, (shape(B, L, D), shape(3, D, F)), 2 * B * L * F * 3 * D),
    "conv, valid": (
        lambda x, w: conv(x, w, "VALID"),
        (shape(B, L, D), shape(3, D, F)),
        2 * B * (L - 2) * F * 3 * D,
    ),
    "conv, strided": (
        lambda x, w: conv(x, w, strides=(2,)),
        (shape(B, L, D), shape(3, D, F)),
        2 * B * (L // 2) * F * 3 * D,
    ),
    "conv, grouped": (
        lambda x, w: conv(x, w, groups=4),
        (shape(B, L, D), shape(3, D // 4, 12)),
        2 * B * L * 12 * 3 * (D // 4),
    ),
    "conv, depthwise": (
        lambda x, w: conv(x, w, groups=D),
        (shape(B, L, D), shape(3, 1, D)),
        2 * B * L * D * 3,
    ),
    "conv, dilated input": (
        lambda x, w: conv(x, w, ((0, 0),), dilation=(2,)),
        (shape(B, L, D), shape(3, D, F)),
        2 * B * (2 * L - 1 - 2) * F * 3 * D,
    ),
    "attention": (attention, (shape(B, L, H, E),) * 3, attention_flops()),
    "layer norm": (
        lambda x, s, b: layer_norm(x, s[None, None], b[None, None]),
        (shape(B, L, D), shape(D), shape(D)),
        layer_norm_flops(),
    ),
    "complex fft": (lambda x: jnp.fft.fft(x), (shape(B, 8, dtype=C64),), B * 5 * 8 * 3),
    "real fft": (lambda x: jnp.fft.rfft(x), (shape(B, 8),), B * 5 * 8 * 3 // 2),
    "inverse real fft": (
        lambda x: jnp.fft.irfft(x, n=8),
        (shape(B, 5, dtype=C64),),
        B * 5 * 8 * 3 // 2,
    ),
    "fft, length not a power of 2": (
        lambda x: jnp.fft.fft(x),
        (shape(B, 96, dtype=C64),),
        B * round(5 * 96 * math.log2(96)),
    ),
    "fft over two axes": (
        lambda x: jnp.fft.fft2(x),
        (shape(B, 4, 8, dtype=C64),),
        B * 5 * 32 * 5,
    ),
    "complex mul": (lambda x, y: x * y, (shape(D, dtype=C64),) * 2, 6 * D),
    "complex add": (lambda x, y: x + y, (shape(D, dtype=C64),) * 2, 2 * D),
    "complex div": (lambda x, y: x / y, (shape(D, dtype=C64),) * 2, 11 * D),
    "complex abs": (lambda x: jnp.abs(x), (shape(D, dtype=C64),), 4 * D),
    "complex sum": (lambda x: x.sum(), (shape(D, dtype=C64),), 2 * (D - 1)),
    "conj": (lambda x: x.conj(), (shape(D, dtype=C64),), D),
    "real abs": (lambda x: jnp.abs(x), (shape(D),), D),
    "transcendental": (lambda x: jnp.tanh(jnp.exp(x)), (shape(D),), 2 * D),
    # (exp(2 z) - 1) / (exp(2 z) + 1): a real factor, an exponential, two real terms, a division.
    "complex_tanh": (jnp.tanh, (shape(D, dtype=C64),), (2 + 5 + 2 + 11) * D),
    "x ** 3": (lambda x: x**3, (shape(D),), 2 * D),
    "x ** 7": (lambda x: x**7, (shape(D),), 4 * D),
    "x ** -2": (lambda x: x**-2, (shape(D),), 2 * D),
    "reduction": (lambda x: x.sum(1), (shape(B, D),), B * D - B),
    "maximum": (lambda x: x.max(), (shape(B, D),), B * D - 1),
    "cumsum": (lambda x: jnp.cumsum(x, 1), (shape(B, D),), B * (D - 1)),
    "pooling": (
        lambda x: lax.reduce_window(x, 0.0, lax.add, (1, 3), (1, 1), "VALID"),
        (shape(B, L),),
        B * (L - 2) * 2,
    ),
    "custom reduction": (
        lambda x: lax.reduce(x, 0.0, lambda a, b: a * b + a, (1,)),
        (shape(B, D),),
        2 * (B * D - B),
    ),
    "custom pooling": (
        lambda x: lax.reduce_window(x, 0.0, lambda a, b: a * b + a, (1, 3), (1, 1), "VALID"),
        (shape(B, L),),
        2 * B * (L - 2) * 2,
    ),
    "gather, scatter, scatter-add": (
        lambda x, i: (x[i], x.at[i].set(0.0), x.at[i].add(1.0)),
        (shape(L, D), shape(2, dtype=jnp.int32)),
        2 * D,
    ),
    "integers": (lambda i: (i * 2 + 1).sum(), (shape(D, dtype=jnp.int32),), 0),
    "moves and comparisons": (
        lambda x: jnp.where(x > 0, x, 0.0).T.reshape(-1)[::2].astype(jnp.bfloat16),
        (shape(B, D),),
        0,
    ),
    "relu": (jax.nn.relu, (shape(B, D),), B * D),
    "scan": (
        lambda w, x: lax.scan(lambda c, _: (jnp.tanh(c @ w), None), x, None, length=7)[0],
        (shape(D, D), shape(B, D)),
        7 * (2 * B * D * D + B * D),
    ),
    "nested scan": (
        lambda w, x: lax.scan(
            lambda c, _: (lax.scan(lambda d, _: (d @ w, None), c, None, length=3)[0], None),
            x,
            None,
            length=7,
        )[0],
        (shape(D, D), shape(B, D)),
        21 * 2 * B * D * D,
    ),
    "fori_loop of known length": (
        lambda w, x: lax.fori_loop(0, 5, lambda _, c: c @ w, x),
        (shape(D, D), shape(B, D)),
        5 * 2 * B * D * D,
    ),
    "cond": (
        lambda p, w, x: lax.cond(p, lambda: x @ w, lambda: x + 1.0),
        (shape(dtype=jnp.bool_), shape(D, D), shape(B, D)),
        2 * B * D * D,
    ),
    "cond, the other branch": (
        lambda p, w, x: lax.cond(p, lambda: x + 1.0, lambda: x @ w),
        (shape(dtype=jnp.bool_), shape(D, D), shape(B, D)),
        2 * B * D * D,
    ),
    "nested jit, once each": (
        lambda x, w: jax.jit(lambda x: jax.jit(lambda x: x @ w)(x) + 1.0)(x),
        (shape(B, D), shape(D, F)),
        2 * B * D * F + B * F,
    ),
    "checkpoint": (
        lambda x, w: jax.checkpoint(lambda x: jnp.sin(x @ w))(x),
        (shape(B, D), shape(D, F)),
        2 * B * D * F + B * F,
    ),
    "dead code": (
        lambda x, w: (x @ w, jax.jit(lambda x: (x + 1.0, x @ w))(x)[0])[1],
        (shape(B, D), shape(D, F)),
        B * D,
    ),
}


@pytest.mark.parametrize("name", HAND_COUNTS)
def test_flops_equal_the_hand_count(name):
    fn, args, expected = HAND_COUNTS[name]
    assert flops(fn, *args) == expected


def test_dead_outputs_of_a_scan_are_left_out():
    def fn(w, x):
        return lax.scan(lambda c, _: (c + 1.0, c @ w), x, None, length=3)[0]

    assert flops(fn, shape(D, F), shape(B, D)) == 3 * B * D


def test_work_that_only_an_effect_needs_counts():
    def fn(w, x):
        jax.jit(lambda x: jax.debug.callback(lambda _: None, x @ w))(x)
        return x

    assert flops(fn, shape(D, F), shape(B, D)) == 2 * B * D * F


def test_custom_derivative_calls_count_once():
    @jax.custom_vjp
    def double(x):
        return x * 2.0

    double.defvjp(lambda x: (double(x), None), lambda _, g: (g * 2.0 + 1.0,))
    assert flops(double, shape(D)) == D
    assert flops(lambda x: jax.vjp(double, x)[1](x), shape(D)) == 2 * D


def test_gradient_of_a_dense_layer_adds_the_weight_and_the_input_product():
    def step(w, x):
        return jax.grad(lambda w, x: (x @ w).sum(), argnums=(0, 1))(w, x)

    assert costs.count(step, shape(D, F), shape(B, D)).macs == 2 * B * D * F


def test_checkpoint_counts_the_recomputation():
    def loss(w, x, wrap):
        return wrap(lambda x: jnp.sin(x @ w) @ w)(x).sum()

    def macs(wrap):
        step = jax.value_and_grad(lambda w, x: loss(w, x, wrap))
        return costs.count(step, shape(D, D), shape(B, D)).macs

    assert macs(lambda f: f) == 5 * B * D * D
    assert macs(jax.checkpoint) == 6 * B * D * D


def test_multiply_adds():
    counted = costs.count(
        lambda w, x: (x @ w["a"], x.astype(C64) @ w["b"], x.astype(jnp.int8) @ w["c"]),
        {"a": shape(D, F), "b": shape(D, F, dtype=C64), "c": shape(D, F, dtype=jnp.int8)},
        shape(B, D),
    )
    assert counted.macs == (1 + 4 + 1) * B * D * F
    assert counted.flops == (2 + 8 + 0) * B * D * F


def test_comparisons_are_apart_from_flops():
    def comparisons(fn):
        counted = costs.count(lambda _, x: fn(x), {}, shape(B, 8))
        assert counted.flops == 0
        assert counted.uncounted == {}
        return counted.comparisons

    assert comparisons(lambda x: jnp.sort(x)) == B * 8 * 3
    assert comparisons(lambda x: lax.top_k(x, 3)) == B * 8 * 2
    assert comparisons(lambda x: jnp.argmax(x, 1)) == B * 7


def test_gradient_of_max_pooling():
    def pool(x):
        return lax.reduce_window(x, -jnp.inf, lax.max, (1, 3), (1, 1), "VALID").sum()

    counted = costs.count(lambda _, x: jax.grad(pool)(x), {}, shape(B, L))
    assert counted.comparisons == B * (L - 2) * 2
    assert counted.by_primitive == {"select_and_scatter_add": B * (L - 2)}


def test_flops_by_primitive():
    counted = costs.count(lambda w, x: jnp.exp(x @ w).sum(), shape(D, F), shape(B, D))
    assert counted.by_primitive == {
        "dot_general": 2 * B * D * F,
        "exp": B * F,
        "reduce_sum": B * F - 1,
    }


def test_a_while_loop_counts_one_turn_and_says_so():
    def fn(w, x):
        return lax.while_loop(lambda c: c.sum() < 3.0, lambda c: c @ w, x)

    counted = costs.count(fn, shape(D, D), shape(B, D))
    assert counted.uncounted == {"while (trip count unknown)": 1}
    assert counted.flops == 2 * B * D * D + B * D - 1


def test_unknown_primitives_are_said_with_their_number():
    def fn(_, w, z):
        repeated = lax.scan(lambda c, _: (lax.linalg.cholesky(c), None), w, None, length=3)[0]
        return repeated, jnp.sinh(z)

    counted = costs.count(fn, {}, shape(D, D), shape(D, dtype=C64))
    assert counted.uncounted == {"cholesky": 3, "sinh": 1}


def test_every_branch_of_a_cond_says_what_it_leaves_uncounted():
    def fn(w, p):
        return lax.cond(p, lambda: lax.linalg.cholesky(w, symmetrize_input=False), lambda: w + w)

    counted = costs.count(fn, shape(D, D), shape(dtype=jnp.bool_))
    assert counted.flops == D * D
    assert counted.uncounted == {"cholesky": 1}


def test_params_and_bytes():
    params = {"w": shape(D, F), "b": shape(F, dtype=jnp.bfloat16)}
    counted = costs.count(lambda p, x: x @ p["w"], params, shape(B, D))
    assert counted.params == D * F + F
    assert counted.param_bytes == 4 * D * F + 2 * F
    assert counted.input_bytes == 4 * B * D
    assert counted.output_bytes == 4 * B * F
    assert counted.bytes_moved == 4 * D * F + 2 * F + 4 * B * D + 4 * B * F


def test_arrays_and_shapes_give_the_same_count():
    rng = np.random.default_rng(0)
    arrays = rng.normal(size=(D, F)).astype(np.float32), rng.normal(size=(B, D)).astype(np.float32)
    concrete = costs.count(lambda w, x: x @ w, *arrays)
    assert concrete == costs.count(lambda w, x: x @ w, shape(D, F), shape(B, D))


@pytest.mark.parametrize("name", ["dense", "batched einsum", "conv, valid", "scan"])
def test_dots_agree_with_xla(name):
    """Where nothing is padded and nothing transcendental, XLA's estimate is ours."""
    fn, args, _ = HAND_COUNTS[name]
    if name == "scan":
        # XLA's estimate counts a loop's body once or by its trip count, by version: unroll it.
        def fn(w, x):
            return lax.fori_loop(0, 7, lambda _, c: c @ w, x, unroll=True)

    analysis = jax.jit(fn).lower(*args).compile().cost_analysis()
    assert analysis["flops"] == flops(fn, *args)


def test_xla_leaves_out_the_taps_on_padding():
    args = (shape(B, L, D), shape(3, D, F))
    analysis = jax.jit(conv).lower(*args).compile().cost_analysis()
    on_padding = 2 * B * 2 * F * D
    assert analysis["flops"] == flops(conv, *args) - on_padding


def test_intermediates_are_results_that_are_neither_outputs_nor_views():
    def fn(params, x):
        hidden = jnp.tanh(x @ params["w"])
        y = hidden.reshape(-1)[None]
        unread = jnp.exp(x)
        del unread
        return (y * 2).reshape(B, F), x.reshape(-1), params["w"]

    counted = costs.count(fn, {"w": shape(D, F)}, shape(B, D))
    # The product and its tanh; what is doubled is an output, seen through a view.
    assert counted.intermediate_bytes == 4 * (B * F + B * F)
    assert counted.output_bytes == 4 * (B * F + B * D + D * F)


def test_intermediates_of_a_loop_count_once_a_turn():
    def fn(_, x):
        return lax.scan(lambda h, _: (jnp.sin(jnp.cos(h)), None), x, None, length=5)[0]

    # One of the ten results is the output.
    counted = costs.count(fn, {}, shape(B, D, dtype=jnp.bfloat16))
    assert counted.intermediate_bytes == 5 * 2 * 2 * B * D - 2 * B * D
