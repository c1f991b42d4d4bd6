"""`input_squares`: what each weight multiplies, by hand, by Jacobians, and in whole models.

In a function that is linear in its weights and uses each at most once per output, the derivative of
an output by a weight is what that weight multiplies there. The sum of its squares over all outputs
is an oracle that knows nothing of products and convolutions.
"""

import functools
import inspect

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from tsjax import models, pruning, trees
from tsjax.pruning.input_norms import input_squares


def draw(*shape, seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=shape)
    if np.issubdtype(dtype, np.complexfloating):
        x = x + 1j * rng.normal(size=shape)
    return jnp.asarray(x, dtype)


def squares_of(fn, params, *inputs, where="*"):
    return jax.jit(functools.partial(input_squares, fn, where=where))(params, *inputs)


def dense(x, n_outputs):
    """The squares of a kernel [inputs, n_outputs] that is applied to [..., inputs]."""
    sums = jnp.sum(jnp.abs(x) ** 2, range(x.ndim - 1))
    return jnp.broadcast_to(sums[:, None], (x.shape[-1], n_outputs))


def assert_close(got, want, rtol=1e-5):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-5), got, want)


def check_linear(fn, w, *inputs):
    """Compares with the oracle."""
    derivative = jax.jit(jax.jacfwd(lambda w: fn(w, *inputs)))(w)
    want = jnp.sum(derivative**2, range(derivative.ndim - w.ndim))
    assert_close(squares_of(fn, w, *inputs), want)


def test_a_dense_layer_by_hand():
    x = jnp.array([[1.0, 2.0], [3.0, -4.0], [0.0, 1.0]])
    got = squares_of(lambda p, x: x @ p["w"], {"w": draw(2, 3)}, x)
    np.testing.assert_array_equal(got["w"], [[10, 10, 10], [21, 21, 21]])
    assert got["w"].dtype == jnp.float32
    # The other way round, the columns of the input are what meets the weight.
    got = squares_of(lambda p, x: p["w"] @ x, {"w": draw(2, 3)}, x)
    np.testing.assert_array_equal(got["w"], [[5, 25, 1], [5, 25, 1]])


WIDTHS = dict(zip("bdehilmov", (2, 4, 3, 2, 5, 3, 2, 4, 3), strict=True))


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize(
    ("data", "weight", "out"),
    [
        ("bi", "io", "bo"),
        ("bi", "oi", "ob"),
        ("bld", "dhe", "blhe"),
        ("blhv", "hvd", "bld"),
        ("bhim", "hiom", "bhom"),
        ("bmhe", "hevm", "hbmv"),
        ("lb", "ol", "bo"),
    ],
)
def test_einsum_with_weights_on_either_side(data, weight, out, swapped):
    x, w = (draw(*(WIDTHS[letter] for letter in letters)) for letters in (data, weight))
    if swapped:
        check_linear(lambda w, x: jnp.einsum(f"{weight},{data}->{out}", w, x), w, x)
    else:
        check_linear(lambda w, x: jnp.einsum(f"{data},{weight}->{out}", x, w), w, x)


CONVOLUTIONS = {
    "plain": {},
    "stride": {"window_strides": (2, 3)},
    "padding": {"padding": ((2, 1), (0, 3))},
    "same": {"padding": "SAME", "window_strides": (2, 2)},
    "dilated kernel": {"rhs_dilation": (2, 1)},
    "dilated input": {"lhs_dilation": (1, 2), "padding": ((1, 1), (1, 1))},
    "groups": {"feature_group_count": 2},
    "batch groups": {"batch_group_count": 2},
}


@pytest.mark.parametrize("options", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_convolutions(options):
    options = {"window_strides": (1, 1), "padding": "VALID", **options}
    x, w = draw(2, 4, 6, 7), draw(4, 4 // options.get("feature_group_count", 1), 2, 3, seed=1)
    check_linear(lambda w, x: lax.conv_general_dilated(x, w, **options), w, x)


def test_a_convolution_by_hand_and_one_whose_left_operand_is_the_weight():
    x = jnp.array([[[1.0, 2.0, 3.0, 4.0]]])
    got = squares_of(
        lambda w, x: lax.conv_general_dilated(x, w, (2,), ((1, 0),)), jnp.ones((1, 1, 2)), x
    )
    # The kernel stands on (padding, 1) and on (2, 3).
    np.testing.assert_array_equal(got, [[[4, 10]]])
    check_linear(lambda w, k: lax.conv(w, k, (2,), "SAME"), draw(2, 3, 8), draw(4, 3, 3, seed=1))


def test_ragged_products():
    x, w, groups = draw(6, 4), draw(3, 4, 2, seed=1), jnp.array([2, 0, 3])
    got = squares_of(lambda w, x: lax.ragged_dot(x, w, groups), w, x)
    assert_close(got, jnp.stack([dense(rows, 2) for rows in (x[:2], x[:0], x[2:5])]))


def matrix(w):
    return w.reshape(6, 4)


PATTERN = np.arange(24).reshape(6, 4) % 3 > 0

# Of a weight [2, 3, 4] and data [5, 6].
REARRANGED = {
    "reshaped": lambda w, x: x @ matrix(w),
    "transposed": lambda w, x: x @ jnp.transpose(w, (2, 0, 1)).reshape(4, 6).T,
    "joined": lambda w, x: x @ jnp.concatenate([w[0], w[1]], axis=0),
    "stacked": lambda w, x: jnp.stack([x[:, :3], x[:, 3:]]) @ jnp.stack([w[1], w[0]]),
    "strided": lambda w, x: x[:, :4] @ w[:, ::2].reshape(4, 4)[:, ::-1],
    "padded": lambda w, x: x @ jnp.pad(w[0], ((1, 2), (0, 1))),
    "put into zeros": lambda w, x: x @ jnp.zeros((6, 4)).at[1:4].set(w[0]),
    "set to zero": lambda w, x: x @ matrix(w).at[jnp.array([0, 5])].set(0),
    "indexed": lambda w, x: x @ matrix(w)[jnp.array([5, 0, 3, 1, 2, 4])],
    "chosen by data": lambda w, x: x[:, :3] @ w[jnp.argmax(x[0, :2])],
    "split": lambda w, x: jnp.stack([x[:, :3] @ part[0] for part in jnp.split(w, 2)]),
    "masked": lambda w, x: x @ jnp.where(PATTERN, matrix(w), 0),
    "masked by a factor": lambda w, x: x @ (matrix(w) * PATTERN),
    "scaled": lambda w, x: x @ (-0.5 * matrix(w) / jnp.arange(1.0, 5.0)[None]),
    "modulated": lambda w, x: jnp.einsum("bi,bio->bo", x, matrix(w)[None] * x[:, :, None]),
    "rounded": lambda w, x: x @ lax.optimization_barrier(lax.reduce_precision(matrix(w), 8, 23)),
    "from a branch": lambda w, x: (
        x[:, :3] @ lax.cond(x[0, 0] > 0, lambda w: w[0], lambda w: 2 * w[1], w)
    ),
}


@pytest.mark.parametrize("fn", REARRANGED.values(), ids=REARRANGED)
def test_weights_are_followed_through_rearrangements(fn):
    check_linear(fn, draw(2, 3, 4, seed=1), draw(5, 6))


def test_a_fused_projection_split_into_queries_keys_and_values():
    x, params = draw(5, 4), {name: draw(4, 3, seed=i) for i, name in enumerate("qkv")}

    def fn(p, x):
        q, k, v = jnp.split(x @ jnp.concatenate([p["q"], p["k"], p["v"]], axis=1), 3, axis=1)
        return jax.nn.softmax(q @ k.T) @ v

    assert_close(squares_of(fn, params, x), dict.fromkeys("qkv", dense(x, 3)))


def test_uses_of_a_tied_weight_add_up():
    x, w = draw(5, 4), draw(4, 4, seed=1)
    got = squares_of(lambda w, x: jnp.tanh(x @ w) @ w.T, w, x)
    assert_close(got, dense(x, 4) + dense(jnp.tanh(x @ w), 4).T)


def layer_by_layer(params, x):
    """The squares of stacked layers ``x <- tanh(x w)``."""
    found = []
    for w in params:
        found.append(dense(x, w.shape[1]))
        x = jnp.tanh(x @ w)
    return jnp.stack(found)


@pytest.mark.parametrize("remat", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
def test_a_scan_over_layers(remat, reverse):
    def layer(x, w):
        return jnp.tanh(x @ w), None

    def fn(params, x):
        return lax.scan(jax.checkpoint(layer) if remat else layer, x, params, reverse=reverse)[0]

    x, params = draw(5, 3), draw(4, 3, 3, seed=1)
    way = slice(None, None, -1 if reverse else 1)
    assert_close(squares_of(fn, params, x), layer_by_layer(params[way], x)[way])


def step(params, h):
    return jnp.tanh(h @ params["a"])


def carried(loop, params, h):
    """Three steps with the params among what is carried, and a fourth with what comes out."""
    return step(*loop(lambda carry: (carry[0], step(*carry)), (params, h)))


def scanned(turn, carry):
    return lax.scan(lambda carry, _: (turn(carry), None), carry, length=3)[0]


def repeated(turn, carry):
    # Of a length that is not known, or JAX would make it a scan.
    return lax.fori_loop(0, jnp.argmax(carry[1][0]) * 0 + 3, lambda _, carry: turn(carry), carry)


LOOPS = {
    "scan": lambda p, h: lax.scan(lambda h, _: (step(p, h), None), h, length=4)[0],
    "while": lambda p, h: lax.while_loop(
        lambda c: c[0] < 4, lambda c: (c[0] + 1, step(p, c[1])), (0, h)
    )[1],
    "carried by scan": functools.partial(carried, scanned),
    "carried by while": functools.partial(carried, repeated),
    # JAX takes what a loop only hands on out of it, unless it can't see that through remat.
    "remat in scan": functools.partial(carried, lambda f, c: scanned(jax.checkpoint(f), c)),
    "remat in while": functools.partial(carried, lambda f, c: repeated(jax.checkpoint(f), c)),
}


@pytest.mark.parametrize("fn", LOOPS.values(), ids=LOOPS)
def test_loops_over_time_sum_over_steps(fn):
    params, h = {"a": draw(3, 3, seed=1)}, draw(5, 3)
    want = jnp.sum(layer_by_layer([params["a"]] * 4, h), 0)
    assert_close(squares_of(fn, params, h)["a"], want)


def test_products_in_the_condition_of_a_loop_count():
    def fn(w, x):
        return lax.while_loop(lambda x: jnp.sum(x @ w) < 10, lambda x: 2 * x, x)

    got = squares_of(fn, jnp.ones((1, 1)), jnp.ones((1, 1)))
    # 1, 2, 4, 8 and 16 are looked at.
    np.testing.assert_array_equal(got, [[1 + 4 + 16 + 64 + 256]])


@pytest.mark.parametrize("index", [0, 1, 2])
def test_only_the_branch_that_is_taken_counts(index):
    branches = [
        lambda p, x: x @ p["a"],
        lambda p, x: 2 * x @ p["b"],
        lambda p, x: x @ p["a"] + x @ p["b"],
    ]

    def fn(params, x, index):
        return lax.switch(index, branches, params, x)

    x, params = draw(5, 3), {"a": draw(3, 2), "b": draw(3, 2)}
    got = squares_of(fn, params, x, jnp.asarray(index))
    times = {"a": (1, 0, 1), "b": (0, 4, 1)}
    assert_close(got, {name: dense(x, 2) * counts[index] for name, counts in times.items()})


@pytest.mark.parametrize("taken", [False, True])
def test_a_weight_that_comes_out_of_a_branch_keeps_the_branchs_own_products(taken):
    def fn(params, x, taken):
        y, w = lax.cond(
            taken, lambda p: (x @ p["a"], 3 * p["b"]), lambda p: (x @ p["b"], p["a"]), params
        )
        return y + (2 * x) @ w

    x, params = draw(5, 3), {"a": draw(3, 2), "b": draw(3, 2)}
    times = {"a": 1, "b": 4 * 9} if taken else {"a": 4, "b": 1}
    got = squares_of(fn, params, x, jnp.asarray(taken))
    assert_close(got, {name: dense(x, 2) * count for name, count in times.items()})


@jax.custom_vjp
def round_through(x):
    return jnp.round(x)


round_through.defvjp(lambda x: (jnp.round(x), None), lambda _, g: (g,))

LAYERS = {
    "jit": jax.jit(lambda w, x: jnp.tanh(x @ w)),
    "nested jit": jax.jit(jax.jit(lambda w, x: jnp.tanh(x @ w))),
    "remat": jax.checkpoint(lambda w, x: jnp.tanh(x @ w)),
    "vmap over rows": jax.vmap(lambda w, x: jnp.tanh(x @ w), (None, 0)),
    "relu": lambda w, x: jax.nn.relu(x @ w),
    "gelu": lambda w, x: jax.nn.gelu(x @ w),
    "stop_gradient": lambda w, x: jnp.tanh(x @ lax.stop_gradient(w)),
    "custom_vjp": lambda w, x: round_through(3 * (x @ w)),
    "printed": lambda w, x: (jax.debug.callback(lambda w: None, w), jnp.tanh(x @ w))[1],
}


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_nested_programs(layer):
    x, params = draw(5, 3), {"a": draw(3, 4, seed=1), "b": draw(4, 2, seed=2)}
    got = squares_of(lambda p, x: layer(p["b"], layer(p["a"], x)), params, x)
    assert_close(got, {"a": dense(x, 4), "b": dense(layer(params["a"], x), 2)})


def test_layers_mapped_over_weights():
    x, w = draw(5, 2, 3), draw(2, 3, 4, seed=1)
    check_linear(lambda w, x: jax.vmap(lambda w, x: x @ w, (0, 1))(w, x), w, x)


def test_complex_weights_and_complex_data():
    x, w = draw(5, 3, dtype=np.complex64), draw(3, 2, seed=1, dtype=np.complex64)
    want = dense(x, 2)
    assert want[0, 0] == pytest.approx(float(jnp.sum(x[:, 0].real ** 2 + x[:, 0].imag ** 2)))
    assert_close(squares_of(lambda w, x: x @ w, w, x), want)
    assert_close(squares_of(lambda w, x: x @ jnp.conj(w), w, x), want)
    assert_close(squares_of(lambda w, x: x @ (2j * w), w, x), 4 * want)
    parts = {"real": w.real, "imag": w.imag}
    got = squares_of(lambda p, x: x @ lax.complex(p["real"], p["imag"]), parts, x)
    assert_close(got, {"real": want, "imag": want})
    assert_close(squares_of(lambda w, x: x @ w.astype(x.dtype), w.real, x), want)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_low_precision_is_summed_in_single(dtype):
    # Neither the square nor the sum is a number of these types.
    x = jnp.full((512, 2), 129, dtype)
    got = squares_of(lambda w, x: x @ w, jnp.ones((2, 3), dtype), x)
    assert got.dtype == jnp.float32
    np.testing.assert_array_equal(got, np.full((2, 3), 512 * 129**2))
    got = squares_of(
        lambda w, x: lax.conv(x, w, (1,), "SAME"), jnp.ones((1, 2, 1), dtype), x[..., None]
    )
    np.testing.assert_array_equal(got, np.full((1, 2, 1), 512 * 129**2))


def test_what_reaches_no_output_counts_nothing():
    @jax.jit
    def inner(p, x):
        return x @ p["used"], jnp.exp(p["dead"]) + jnp.sum(x @ p["used"] @ p["dead"].T)

    params = {"used": draw(3, 2), "dead": draw(3, 2), "unread": draw(3, 2)}
    got = squares_of(lambda p, x: inner(p, x)[0], params, jnp.ones((4, 3)))
    zero = jnp.zeros((3, 2))
    assert_close(got, {"used": jnp.full((3, 2), 4.0), "dead": zero, "unread": zero})


def test_only_weights_that_are_chosen_are_known():
    params = {
        "kernel": draw(3, 2), "bias": draw(2), "table": jnp.zeros((2, 2), int),
        "key": jax.random.key(0),
    }  # fmt: skip

    def fn(p, x, key):
        x = x + jax.random.normal(key, x.shape) + jax.random.normal(p["key"], x.shape)
        return {"y": x[p["table"]] @ p["kernel"] + p["bias"][None, None], "key": key}

    where = (pruning.kernels, "table", "key")
    got = squares_of(fn, params, draw(4, 3), jax.random.key(1), where=where)
    assert jax.tree.structure(got) == jax.tree.structure(params)
    assert {path: leaf.shape for path, leaf in got.items()} == {
        path: leaf.shape for path, leaf in params.items()
    }
    assert np.all(got["kernel"] > 0)
    assert all(np.all(np.isnan(got[name])) for name in ("bias", "table", "key"))


def test_select_refuses_leaves_that_were_not_looked_at():
    params = {"a": draw(3, 3), "b": draw(3, 3)}
    squares = squares_of(lambda p, x: x @ p["a"] @ p["b"], params, draw(2, 3), where="a")
    scores = pruning.wanda(params, squares)
    assert pruning.summary(pruning.select(scores, 5 / 9, where="a"))["a"] == (5, 9)
    with pytest.raises(ValueError, match="b: 9 of 9 scores are NaN"):
        pruning.select(scores, 0.5)


def exponential(p, x):
    return x @ jnp.exp(p["w"])


def normalised(p, x):
    return x @ (p["w"] / jnp.sqrt(jnp.sum(p["w"] ** 2)))


def shifted(p, x):
    return x @ (p["w"] + 1)


def by_hand(p, x):
    return jnp.sum(x[:, :, None] * p["w"][None], axis=1)


def looked_up(p, x):
    return p["w"][jnp.array([0, 2])] + x[:2, :2]


def cast(p, x):
    return x @ p["w"].astype(jnp.int8).astype(x.dtype)


def indexing(p, x):
    return x[jnp.argmax(p["w"])]


def masked_by_size(p, x):
    return x @ jnp.where(jnp.abs(p["w"]) > 0.5, p["w"], 0)


def divisor(p, x):
    return x[:, :2] / p["v"][:1]


def turned(p, x):
    return lax.fori_loop(0, 2, lambda _, c: (c[0].T, c[1] @ c[0]), (p["v"], x @ p["w"]))[1]


def turned_while(p, x):
    def turn(carry):
        return carry[0] @ carry[1], carry[1].T

    return lax.while_loop(lambda carry: jnp.sum(carry[0]) < 3, turn, (x @ p["w"], p["v"]))[0]


def emitted(p, x):
    return x @ lax.map(lambda row: 2 * row, p["w"])


def in_the_condition(p, x):
    return lax.while_loop(lambda x: jnp.sum(x) < jnp.sum(jnp.exp(p["w"])), jnp.exp, x)


OTHER_USES = {
    in_the_condition: "w: used by `exp`",
    exponential: "w: used by `exp`",
    normalised: "w: used by `",
    shifted: "w: used by `add`",
    by_hand: "w: used by `reduce_sum`",
    looked_up: "w: used by `add`",
    cast: "w: used by `convert_element_type`",
    indexing: "w: used by `argmax`",
    masked_by_size: "w: used by `abs`",
    divisor: "v: used by `div`",
    turned: "v: changed from turn to turn by `scan`",
    turned_while: "v: changed from turn to turn by `while`",
    emitted: "w: given out by the body of `scan`",
}


@pytest.mark.parametrize("fn", OTHER_USES, ids=lambda fn: fn.__name__)
def test_other_uses_are_refused_where_they_happen(fn):
    params = {"w": draw(3, 2), "v": draw(2, 2)}
    with pytest.raises(
        ValueError, match=f"in other ways than in products:\n  {OTHER_USES[fn]}"
    ) as info:
        squares_of(fn, params, draw(4, 3))
    lines, first = inspect.getsourcelines(fn)
    line = int(str(info.value).split(f"{inspect.getsourcefile(fn)}:")[1].split(":")[0])
    assert first <= line < first + len(lines)
    uses = str(info.value).splitlines()[1].split(": ", 1)[1].split(", ")
    assert len(uses) == len(set(uses))


def test_all_refusals_are_named_at_once():
    params = {"a": {"w": draw(3, 3)}, "b": draw(3, 3), "c": draw(3, 3), "d": draw(3, 3)}

    def fn(p, x):
        y = x @ (p["a"]["w"] @ p["b"]) + jnp.sin(p["c"]) + jnp.cos(p["c"]) + x @ p["c"]
        return y, p["d"]

    with pytest.raises(ValueError, match="in other ways") as info:
        input_squares(fn, params, draw(3, 3), where="*")
    lines = str(info.value).splitlines()
    assert [line.split(" at ")[0] for line in lines] == [
        "these weights are used in other ways than in products:",
        "  a/w: multiplied by b in `dot_general`",
        "  b: multiplied by a/w in `dot_general`",
        "  c: used by `sin`",
        "  d: returned by fn",
        "Leave them out with where=..., or use them in matrix products or convolutions only",
    ]
    assert "used by `cos` at " in lines[3]
    # One that is left of a product is multiplied by the other, whatever that is.
    got = squares_of(fn, params, draw(3, 3), where="b")
    assert_close(got["b"], dense(params["a"]["w"], 3))


def perceptron(params, x):
    for w in params:
        x = jax.nn.gelu(x @ w)
    return x


SQUARES_OF_PERCEPTRON = jax.jit(functools.partial(input_squares, perceptron))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 4))
def test_a_batch_is_the_sum_of_its_parts(seed):
    params = [draw(3, 4, seed=seed), draw(4, 4, seed=seed + 1), draw(4, 2, seed=seed + 2)]
    x = draw(6, 3, seed=seed + 3)
    parts = [SQUARES_OF_PERCEPTRON(params, part) for part in (x[:3], x[3:])]
    assert_close(SQUARES_OF_PERCEPTRON(params, x), jax.tree.map(jnp.add, *parts))


SIZES = {
    "enc_in": 3, "dec_in": 3, "c_out": 3, "seq_len": 8, "label_len": 4, "pred_len": 4,
    "d_model": 8, "n_heads": 2, "d_ff": 12, "e_layers": 1, "d_layers": 1, "moving_avg": 5,
    "modes": 3, "factor": 1,
}  # fmt: skip
# FEDformer's Fourier weights are complex.
CHOSEN = (pruning.kernels, pruning.complex_pairs)


@functools.cache
def model(name):
    config = models.config(name, **{k: v for k, v in SIZES.items() if k in models.fields(name)})
    made = models.create(config, jax.random.key(0))
    params, state = made.params, made.state
    shapes = models.input_shapes(config, batch=4)
    inputs = [draw(*s.shape, seed=i) for i, s in enumerate(shapes)]
    forward = made.forward

    @jax.jit
    def squares(params, *inputs):
        return input_squares(lambda p, *x: forward(p, state, *x), params, *inputs, where=CHOSEN)

    return models.module(config), params, state, inputs, squares


@pytest.mark.parametrize(
    "name", ["transformer", "fedformer", pytest.param("informer", marks=pytest.mark.long)]
)
def test_whole_models(name):
    _, params, _, inputs, squares = model(name)
    got = trees.by_path(squares(params, *inputs))
    known = [path for path, leaf in got.items() if not np.any(np.isnan(leaf))]
    assert known == [
        path
        for path, leaf in trees.by_path(params).items()
        if any(chosen(path, leaf) for chosen in CHOSEN)
    ]
    assert [path for path in known if not np.all(got[path] > 0)] == []
    # Twice the first half of the batch and twice the second make twice the whole.
    halves = [
        squares(params, *(x[rows] for x in inputs)) for rows in np.array([[0, 1] * 2, [2, 3] * 2])
    ]
    twice = trees.by_path(jax.tree.map(jnp.add, *halves))
    assert_close({p: 2 * leaf for p, leaf in got.items()}, twice, rtol=1e-4)


def test_a_models_layers_match_their_captured_inputs():
    module, params, state, inputs, squares = model("transformer")
    seen = {}

    def note(call, args, kwargs, context):
        if type(context.module).__name__ == "Linear":
            seen["/".join((*context.module.path, "kernel"))] = args[0], context.module.in_axes
        return call(*args, **kwargs)

    with nn.intercept_methods(note):
        module.apply({"params": params, **state}, *inputs)
    got = trees.by_path(squares(params, *inputs))
    del seen["output_projection/kernel"]
    # Three blocks of attention, two of feed-forward, the time marks of encoder and decoder.
    assert len(seen) == 3 * 4 + 2 * 2 + 2
    for path, (x, in_axes) in seen.items():
        sums = jnp.sum(x**2, range(x.ndim - in_axes))
        outputs = range(in_axes, got[path].ndim)
        want = jnp.broadcast_to(jnp.expand_dims(sums, outputs), got[path].shape)
        np.testing.assert_allclose(got[path], want, rtol=1e-4, err_msg=path)
