"""Compaction: what a mask has killed goes, nothing else does, and outputs stay what they were."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax
from random_layers import mystery

from tsjax import pruning, structure
from tsjax.structure.primitives import PRIMITIVES, Primitive

X = jnp.asarray(np.random.default_rng(0).normal(size=(8, 4)), jnp.float32)
SERIES = jnp.asarray(np.random.default_rng(1).normal(size=(2, 5, 4)), jnp.float32)
ALL = slice(None)


def normal(**shapes):
    rng = np.random.default_rng(0)
    return {name: jnp.asarray(rng.normal(size=s), jnp.float32) for name, s in shapes.items()}


def without(params, **places):
    """A mask that cuts these places of leaves, each an index or a list of them."""
    mask = jax.tree.map(lambda w: np.ones(w.shape, bool), params)
    for name, where in places.items():
        for index in where if isinstance(where, list) else [where]:
            mask[name][index] = False
    return mask


def unit_mask(groups, params, keep):
    """A mask that cuts all weights of the units that are not kept."""
    plan = structure.plan(groups, params, keep=keep)
    ones = jax.tree.map(lambda leaf: np.ones(leaf.shape), params)
    return jax.tree.map(lambda leaf: leaf > 0, structure.zero(ones, plan))


def gone_of(plan):
    """The units that a plan cuts, by group."""
    sizes = {group.name: group.size for group in plan.groups}
    return {
        n: {*range(sizes[n])} - {*u.tolist()} for n, u in plan.keep.items() if len(u) < sizes[n]
    }


def compacted(fn, params, mask, *inputs, tolerance=1e-5, **options):
    """What goes, {group: units}, once it has been seen that outputs stay."""
    small, plan = structure.compact(fn, params, mask, *inputs, **options)
    masked = jax.tree.map(lambda leaf, keep: np.where(keep, leaf, 0), params, mask)
    jax.tree.map(np.testing.assert_array_equal, small, structure.slice(masked, plan))
    gone = {name: sorted(units) for name, units in gone_of(plan).items()}
    if gone:
        want, got = (jax.jit(fn)(each, *inputs) for each in (masked, small))
        np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance * np.abs(want).max())
    return gone


# Layers.

MLP = normal(up=(4, 6), bias=(6,), down=(6, 3))


def mlp(params, x, activation=jax.nn.relu):
    return activation(x @ params["up"] + params["bias"][None]) @ params["down"]


UNFED = {"up": (ALL, 1), "bias": 1}
UNREAD = {"down": 4}


def test_units_that_are_always_zero_go_and_those_that_nothing_reads():
    assert compacted(mlp, MLP, without(MLP, **UNFED, **UNREAD), X) == {"up:1": [1, 4]}


def test_what_is_left_of_the_mask_and_of_the_values_does_not_matter():
    """Weights may be zero already, or the mask be what says so."""
    mask = without(MLP, **UNFED, **UNREAD)
    masked, ones = pruning.apply(MLP, mask), pruning.ones(MLP)
    assert compacted(mlp, masked, mask, X) == compacted(mlp, masked, ones, X) == {"up:1": [1, 4]}


def test_a_bias_alone_keeps_a_unit():
    assert compacted(mlp, MLP, without(MLP, up=(ALL, 1)), X) == {}


def test_weights_here_and_there_kill_nothing():
    mask = jax.tree.map(lambda w: np.random.default_rng(2).random(w.shape) < 0.5, MLP)
    mask["down"][:, 0] = mask["bias"][:] = True
    assert compacted(mlp, MLP, mask, X) == {}


KEEP_ZEROS = {
    "relu": jax.nn.relu,
    "relu6": jax.nn.relu6,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu by tanh": jax.nn.gelu,
    "silu": jax.nn.silu,
    "elu": jax.nn.elu,
    "leaky": jax.nn.leaky_relu,
    "hard tanh": jax.nn.hard_tanh,
    "soft sign": jax.nn.soft_sign,
    "tanh": jnp.tanh,
    "sine": jnp.sin,
    "power": lambda h: h**3 + jnp.sqrt(jnp.abs(h)) - jnp.floor(h) * jnp.sign(h),
    "other power": lambda h: jnp.abs(h) ** 1.5,
    "clip": lambda h: jnp.clip(h, -1, 0.5),
    "at most ones": lambda h: jnp.minimum(h, jnp.ones_like(h).T.T),
    "inverse": lambda h: h / (1 + jnp.square(h)),
    "complex": lambda h: (h * (1 + 2j)).imag + jnp.abs(h + 1j * h),
    "half precision": lambda h: h.astype(jnp.bfloat16).astype(jnp.float32),
    "gradient": jax.grad(lambda h: jnp.sum(jnp.square(h))),
    "checkpointed": jax.checkpoint(jnp.tanh),
    "compared": lambda h: jnp.where(h != 0, 1.0, 0.0),
}
FILL_ZEROS = {
    "sigmoid": jax.nn.sigmoid,
    "softplus": jax.nn.softplus,
    "exponential": jnp.exp,
    "cosine": jnp.cos,
    "shifted": lambda h: h + 1,
    "at least": lambda h: jnp.maximum(h, 0.5),
    "at most": lambda h: jnp.minimum(h, -0.5),
    "compared": lambda h: jnp.where(h >= 0, 1.0, 0.0),
    "power of nothing": lambda h: h**0,
    "angle": lambda h: jnp.arctan2(h, -jnp.ones_like(h)),
}


@pytest.mark.parametrize("name", KEEP_ZEROS)
def test_zeros_pass_what_keeps_them(name):
    fn = functools.partial(mlp, activation=KEEP_ZEROS[name])
    assert compacted(fn, MLP, without(MLP, **UNFED, **UNREAD), X) == {"up:1": [1, 4]}


@pytest.mark.parametrize("name", FILL_ZEROS)
def test_units_that_become_something_else_stay_if_they_are_read(name):
    fn = functools.partial(mlp, activation=FILL_ZEROS[name])
    assert compacted(fn, MLP, without(MLP, **UNFED, **UNREAD), X) == {"up:1": [4]}


DEEP = normal(a=(4, 5), b=(5, 5), c=(5, 5), d=(5, 2))


def deep(params, x):
    for name in "abc":
        x = jnp.tanh(x @ params[name])
    return x @ params["d"]


def test_death_goes_on_to_the_next_layers():
    """What only unit 2 fed, and what only that fed."""
    mask = without(DEEP, a=(ALL, 2), b=(slice(2), 1), c=(slice(1), 3))
    mask["b"][3:, 1] = mask["c"][2:, 3] = False
    assert compacted(deep, DEEP, mask, X) == {"a:1": [2], "b:1": [1], "c:1": [3]}


def test_death_comes_back_from_the_layers_before():
    """What only unit 2 read, and what only that read."""
    mask = without(DEEP, d=2, c=[(1, slice(2)), (1, slice(3, 5))])
    mask["b"][3, [0, 2, 3, 4]] = False
    assert compacted(deep, DEEP, mask, X) == {"a:1": [3], "b:1": [1], "c:1": [2]}


def test_half_dead_on_each_side():
    """Unit 0 feeds only units that have died from the other side."""
    mask = without(DEEP, b=[(0, 0), (0, 2), (0, 4)], d=[1, 3])
    mask["c"][[1, 3]][:, [0, 2, 4]] = False
    mask["c"][np.ix_([1, 3], [0, 2, 4])] = False
    assert compacted(deep, DEEP, mask, X) == {"a:1": [0], "b:1": [1, 3], "c:1": [1, 3]}


def test_a_group_keeps_one_unit():
    mask = without(MLP, down=ALL)
    mask["up"][:, :3] = mask["bias"][3] = False
    small, plan = structure.compact(mlp, MLP, mask, X)
    assert plan.sizes["up:1"] == 1
    assert not np.asarray(mlp(small, X)).any()


def test_a_group_keeps_two_units_where_one_would_be_another_program():
    def shifted_if_narrow(params, x):
        return mlp(params, x) + (params["bias"].size == 1)

    for fn, left in ((mlp, 1), (shifted_if_narrow, 2)):
        assert len(compacted(fn, MLP, without(MLP, down=ALL), X)["up:1"]) == 6 - left


def test_a_program_that_changes_with_its_size_keeps_it():
    def shifted_by_three(params, x):
        return mlp(params, x) + (params["bias"].size == 5)

    mask = without(MLP, **UNFED)
    assert compacted(shifted_by_three, MLP, mask, X) == {}
    mask = without(MLP, **UNFED, **UNREAD)
    assert compacted(shifted_by_three, MLP, mask, X) == {"up:1": [1, 4]}


# Numbers that depend on how many units there are.

NORMED = normal(up=(4, 6), scale=(6,), shift=(6,), down=(6, 3))
NORMED_UNIT = {"up": (ALL, 1), "scale": 1, "shift": 1, "down": 1}


def layer_norm(params, x):
    h = x @ params["up"]
    h = (h - h.mean(-1, keepdims=True)) * lax.rsqrt(h.var(-1, keepdims=True) + 1e-3)
    return (h * params["scale"][None] + params["shift"][None]) @ params["down"]


def rms_norm(params, x, count=None):
    h = x @ params["up"]
    count = h.shape[-1] if count is None else count
    square = jnp.square(h).sum(-1, keepdims=True) / count
    h = h * lax.rsqrt(square + 1e-3)
    return (h * params["scale"][None] + params["shift"][None]) @ params["down"]


@pytest.mark.parametrize("norm", [layer_norm, rms_norm])
def test_the_width_of_a_norm_stays(norm):
    assert compacted(norm, NORMED, without(NORMED, **NORMED_UNIT), X) == {}


def test_it_is_the_divisor_that_counts():
    fn = functools.partial(rms_norm, count=6)
    assert compacted(fn, NORMED, without(NORMED, **NORMED_UNIT), X) == {"up:1": [1]}


@pytest.mark.parametrize("over", [jnp.max, jnp.prod, jax.nn.logsumexp, jnp.mean, jnp.argmax])
def test_units_of_which_more_than_a_sum_is_taken_stay(over):
    def fn(params, x):
        return over(jnp.tanh(x @ params["up"]), axis=-1)

    params = {"up": MLP["up"]}
    assert compacted(fn, params, without(params, up=(ALL, 1)), X) == {}


def test_a_number_with_the_size_keeps_its_group_and_no_other():
    def fn(params, x):
        h = jnp.tanh(x @ params["a"]) / params["a"].shape[1] ** 0.5
        return jnp.tanh(h @ params["b"]) @ params["c"]

    params = normal(a=(4, 6), b=(6, 5), c=(5, 2))
    assert compacted(fn, params, without(params, a=(ALL, 1), b=[1, (ALL, 3)], c=3), X) == {
        "b:1": [3]
    }


def test_a_constant_with_the_size_keeps_its_group():
    def fn(params, x):
        return mlp(params, x + jnp.full_like(x, params["bias"].size / 10))

    assert compacted(fn, MLP, without(MLP, **UNFED), X) == {}


def test_what_is_drawn_for_each_unit_keeps_them():
    def fn(params, x):
        h = x @ params["up"]
        return (
            jnp.where(jax.random.bernoulli(jax.random.key(0), 0.5, h.shape), h, 0) @ params["down"]
        )

    params = {name: MLP[name] for name in ("up", "down")}
    assert compacted(fn, params, without(params, up=(ALL, 1), down=1), X) == {}


def test_what_nobody_reads_keeps_nothing():
    def fn(params, x):
        h = jax.nn.relu(x @ params["up"] + params["bias"][None])
        jnp.add(jnp.sum(h), 1)
        return h @ params["down"]

    assert compacted(fn, MLP, without(MLP, **UNREAD), X) == {"up:1": [4]}


# Residual streams and attention.


def residual(params, x):
    h = x @ params["embed"]
    h = h + jax.nn.gelu(h @ params["up"]) @ params["down"]
    return h @ params["head"]


def test_a_residual_stream():
    params = normal(embed=(4, 6), up=(6, 5), down=(5, 6), head=(6, 2))
    one_way = without(params, embed=(ALL, 1), down=[(ALL, 1), 3])
    assert compacted(residual, params, one_way, X) == {"down:1": [1], "up:1": [3]}
    assert compacted(residual, params, without(params, up=2, head=2), X) == {"down:1": [2]}
    assert compacted(residual, params, without(params, embed=(ALL, 1), head=2), X) == {}


HEADS = normal(q=(4, 3, 5), k=(4, 3, 5), v=(4, 3, 2), o=(3, 2, 4))


def attention(params, x, scale=0.5):
    q, k, v = (jnp.einsum("bld,dhe->blhe", x, params[name]) for name in "qkv")
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    scores = jnp.einsum("blhe,bmhe->bhlm", q, k) * scale
    causal = jnp.tri(x.shape[1], dtype=bool)[None, None]
    weights = jax.nn.softmax(jnp.where(causal, scores, -jnp.inf))
    return jnp.einsum("bhlm,bmhe,hed->bld", weights, v, params["o"])


ATTENTION = {
    "a head that is not read": ({"o": 1}, {"q:1": [1]}),
    "a head without values": ({"v": (ALL, 1)}, {"q:1": [1]}),
    "a head that looks nowhere in particular": ({"q": (ALL, 1), "k": (ALL, 1)}, {}),
    "a width of values": ({"v": (ALL, ALL, 0)}, {"v:2": [0]}),
    "a width of values of some heads": ({"v": (ALL, slice(2), 0)}, {}),
    "a width of values, half by half": ({"v": (ALL, slice(2), 0), "o": (2, 0)}, {"v:2": [0]}),
    "a width of queries": ({"q": (ALL, ALL, 3)}, {"q:2": [3]}),
    "a width of keys": ({"k": (ALL, ALL, 3)}, {"q:2": [3]}),
    "a width, of queries here, of keys there": (
        {"q": (ALL, slice(2), 3), "k": (ALL, 2, 3)},
        {"q:2": [3]},
    ),
    "a width of the heads that are left": (
        {"o": 2, "q": (ALL, 0, 3), "k": (ALL, 1, 3)},
        {"q:1": [2], "q:2": [3]},
    ),
}


@pytest.mark.parametrize("name", ATTENTION)
def test_attention(name):
    cut, gone = ATTENTION[name]
    found = compacted(attention, HEADS, without(HEADS, **cut), SERIES)
    assert {re.sub("^k", "q", group): units for group, units in found.items()} == gone


def test_a_scale_that_is_taken_from_the_width_keeps_it():
    fn = functools.partial(attention, scale=None)
    mask = without(HEADS, q=(ALL, ALL, 3), k=(ALL, ALL, 3), o=1)
    assert [*compacted(fn, HEADS, mask, SERIES).values()] == [[1]]


def fused(params, x):
    q, k, v = jnp.einsum("bld,dthe->tblhe", x, params["qkv"])
    weights = jax.nn.softmax(jnp.einsum("blhe,bmhe->bhlm", q, k))
    return jnp.einsum("bhlm,bmhe->blhe", weights, v).reshape(*x.shape[:2], -1) @ params["o"]


def split(params, x):
    heads = params["heads"].size
    q, k, v = (
        part.reshape(*x.shape[:2], heads, -1) for part in jnp.split(x @ params["qkv"], 3, axis=-1)
    )
    weights = jax.nn.softmax(jnp.einsum("blhe,bmhe->bhlm", q, k))
    out = jnp.einsum("bhlm,bmhe->blhe", weights, v) * params["heads"][None, None, :, None]
    return out.reshape(*x.shape[:2], -1) @ params["o"]


def test_fused_projections():
    params = normal(qkv=(4, 3, 2, 5), o=(10, 4))
    unread = without(params, o=slice(5, 10))
    assert [*compacted(fused, params, unread, SERIES).values()] == [[1]]
    # One width of queries, keys and values.
    mask = without(params, qkv=[(ALL, 0, ALL, 2), (ALL, 2, ALL, 2)])
    assert [*compacted(fused, params, mask, SERIES).values()] == [[2]]
    assert compacted(fused, params, without(params, qkv=(ALL, 0, ALL, 2)), SERIES) == {}


def test_split_projections():
    params = normal(qkv=(4, 30), heads=(2,), o=(10, 4))
    assert compacted(split, params, without(params, heads=1), SERIES) == {"heads:0": [1]}
    assert compacted(split, params, without(params, o=slice(5)), SERIES) == {"heads:0": [0]}
    values = without(params, qkv=(ALL, slice(25, 30)))
    assert compacted(split, params, values, SERIES) == {"heads:0": [1]}
    widths = without(params, qkv=(ALL, [3, 8, 23, 28]))
    assert [*compacted(split, params, widths, SERIES).values()] == [[3]]


def test_tied_embeddings():
    def fn(params, ids):
        h = jnp.tanh(params["table"][ids])
        return h @ params["mix"] @ params["back"] @ params["table"].T

    params = normal(table=(7, 5), mix=(5, 3), back=(3, 5))
    ids = jnp.arange(6).reshape(2, 3)
    gone = compacted(fn, params, without(params, table=(ALL, 2), mix=(ALL, 1)), ids)
    assert [*gone.values()] == [[1], [2]]
    assert compacted(fn, params, without(params, mix=2), ids) == {}
    gone = compacted(fn, params, without(params, mix=2, back=(ALL, 2)), ids)
    assert [*gone.values()] == [[2]]


def test_looked_up_rows_may_be_out_of_bounds():
    """Jax fills in what is not there; if with a number, a zero row is not all there is."""

    def fn(params, ids, fill):
        return jnp.take(params["table"], ids, axis=0, mode="fill", fill_value=fill) @ params["out"]

    params, ids = normal(table=(7, 5), out=(5, 3)), jnp.array([1, 9])
    mask = without(params, table=(ALL, 2))
    assert compacted(functools.partial(fn, fill=0), params, mask, ids) == {"table:1": [2]}
    assert compacted(functools.partial(fn, fill=1), params, mask, ids) == {}


# Convolutions, loops and the like.


def convolved(x, kernel, groups=1):
    return lax.conv_general_dilated(
        x, kernel, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"), feature_group_count=groups
    )


def test_channels_of_convolutions():
    def fn(params, x):
        h = jax.nn.relu(convolved(x, params["a"]))
        h = convolved(h, params["depthwise"], h.shape[-1])
        return convolved(h, params["b"])

    params = normal(a=(3, 4, 6), depthwise=(3, 1, 6), b=(3, 6, 2))
    cut = {"a": (ALL, ALL, 1), "depthwise": (ALL, ALL, 2), "b": (ALL, 3)}
    assert compacted(fn, params, without(params, **cut), SERIES) == {"a:2": [1, 2, 3]}
    assert compacted(fn, params, without(params, a=(0, ALL, 1), b=(2, 3)), SERIES) == {}


def test_convolutions_in_groups():
    def fn(params, x):
        h = jnp.tanh(convolved(x, params["a"]))
        return convolved(convolved(h, params["grouped"], 2), params["b"])

    # Each of the two groups has three channels in, and two out.
    params = normal(a=(3, 4, 6), grouped=(3, 3, 4), b=(3, 4, 2))
    both = without(params, a=(ALL, ALL, [1, 4]), b=(ALL, [1, 3]))
    one_way = without(params, grouped=[(ALL, 1), (ALL, ALL, [1, 3])])
    for mask in (both, one_way):
        gone = compacted(fn, params, mask, SERIES)
        assert sorted(gone.values()) == [[1], [1]]
    assert compacted(fn, params, without(params, a=(ALL, ALL, 1), b=(ALL, 1)), SERIES) == {}


RNN = normal(w=(4, 5), u=(5, 5), start=(5,), out=(5, 2))


def rnn(params, x):
    def cell(state, x):
        state = jnp.tanh(x @ params["w"] + state @ params["u"])
        return state, state

    start = jnp.broadcast_to(params["start"], (x.shape[0], *params["start"].shape))
    return lax.scan(cell, start, x.swapaxes(0, 1))[1] @ params["out"]


def test_cells_of_a_recurrent_layer():
    unfed = {"w": (ALL, 1), "u": (ALL, 1)}
    mask = without(RNN, **unfed, start=1)
    assert compacted(rnn, RNN, mask, SERIES) == {"u:1": [1]}
    # It is not zero at first.
    assert compacted(rnn, RNN, without(RNN, **unfed), SERIES) == {}
    # It is zero at first, as all others are, but the first feeds it.
    later = without(RNN, w=(ALL, 1), u=(slice(1, 5), 1), start=ALL)
    assert compacted(rnn, RNN, later, SERIES) == {}
    # Nobody reads it but it itself.
    unread = without(RNN, u=[(2, slice(2)), (2, slice(3, 5))], out=2)
    assert compacted(rnn, RNN, unread, SERIES) == {"u:1": [2]}
    assert compacted(rnn, RNN, without(RNN, out=2), SERIES) == {}


def test_while_loops_and_branches():
    def fn(params, x):
        def turn(state):
            return state[0] + 1, jnp.tanh(state[1] @ params["u"])

        start = (0, jnp.tanh(x @ params["w"]))
        h = lax.while_loop(lambda s: (s[0] < 3) & (s[1].sum() < 99), turn, start)[1]
        return lax.cond(h[0, 0] > 0, lambda: h @ params["a"], lambda: (2 * h) @ params["b"])

    params = normal(w=(4, 5), u=(5, 5), a=(5, 2), b=(5, 2))
    unfed = without(params, w=(ALL, 3), u=(ALL, 3))
    # The first unit is looked at, the others are a group.
    assert compacted(fn, params, unfed, X) == {"u:1": [2]}
    later = without(params, w=(ALL, 3), u=(slice(1, 5), 3))
    assert compacted(fn, params, later, X) == {}

    def summed(params, x):
        h = jnp.tanh(x @ params["w"])
        for _ in range(2):
            h = lax.fori_loop(0, 3, lambda _, h: jnp.tanh(h @ params["u"]), h)
        return lax.cond(x[0, 0] > 0, lambda: h @ params["a"], lambda: (2 * h) @ params["b"])

    assert compacted(summed, params, unfed, X) == {"u:1": [3]}
    ends = without(params, u=[(3, [0, 1, 2, 4])], a=3, b=3)
    assert compacted(summed, params, ends, X) == {"u:1": [3]}
    assert compacted(summed, params, without(params, u=3, a=3), X) == {}


def test_a_condition_reads():
    def fn(params, x):
        h = jnp.tanh(x @ params["w"])
        turns = lax.while_loop(lambda n: n < h.sum() + 5, lambda n: n + 1, 0.0)
        return turns + h @ params["a"]

    params = normal(w=(4, 5), a=(5, 2))
    assert compacted(fn, params, without(params, a=3), X) == {}
    assert compacted(fn, params, without(params, w=(ALL, 3)), X) == {"w:1": [3]}


def test_updates_that_are_added_at_indices():
    def fn(params, x, how):
        at = params["index"] % 3
        values = x @ params["w"]
        return getattr(jnp.zeros((len(x), 3)).at[:, at], how)(values)

    params = {"w": MLP["up"], "index": np.arange(6)}
    mask = without(params, w=(ALL, 1))
    index = params["index"]
    assert index[1] == 1
    for how, gone in (("add", [[1]]), ("set", []), ("max", [])):
        fn_ = functools.partial(fn, how=how)
        assert [*compacted(fn_, params, mask, X).values()] == gone, how


# What is not known.


def test_an_unknown_primitive_keeps_everything():
    def fn(params, x):
        return mystery.bind(jnp.tanh(x @ params["up"])) @ params["down"]

    params = {name: MLP[name] for name in ("up", "down")}
    assert compacted(fn, params, without(params, up=(ALL, 1), down=[1, 4]), X) == {}


def test_a_rule_says_which_axes_are_the_same_but_not_what_becomes_of_zeros(monkeypatch):
    """That units of a primitive can be cut does not mean that those that are zero do nothing."""

    def fn(params, x):
        return mystery.bind(jnp.tanh(x @ params["up"])) @ params["down"]

    params = {name: MLP[name] for name in ("up", "down")}
    monkeypatch.setitem(PRIMITIVES, "test_mystery", Primitive(lambda eqn: [eqn.ins[0]]))
    assert structure.find_groups(fn, params, X)["up:1"].frozen is None
    assert compacted(fn, params, without(params, up=(ALL, 1), down=[1, 4]), X) == {}


def test_a_rule_in_place_of_ours_is_not_ours(monkeypatch):
    def fn(params, x):
        return jnp.cumsum(x @ params["up"], axis=-1) @ params["down"]

    params = {name: MLP[name] for name in ("up", "down")}
    monkeypatch.setitem(PRIMITIVES, "cumsum", Primitive(lambda eqn: [eqn.ins[0]]))
    assert compacted(fn, params, without(params, up=(ALL, 1)), X) == {}


# What comes out, and what is refused.


def test_nothing_dead_nothing_gone():
    small, plan = structure.compact(mlp, MLP, pruning.ones(MLP), X)
    assert plan.got == 1
    assert plan.asked is None
    jax.tree.map(np.testing.assert_array_equal, small, MLP)


def test_groups_and_shapes_of_inputs_will_do():
    groups = structure.find_groups(mlp, MLP, X)
    mask = without(MLP, **UNREAD)
    shapes = jax.ShapeDtypeStruct(X.shape, X.dtype)
    small, plan = structure.compact(mlp, MLP, mask, shapes, groups=groups)
    assert plan.groups is groups
    assert small["up"].shape == (4, 5)
    unverified = structure.find_groups(mlp, MLP, X, verify=False)
    assert compacted(mlp, MLP, mask, X, groups=unverified) == {"up:1": [4]}


def test_sizes_that_unverified_groups_get_wrong_stay():
    def fn(params, x):
        return (x @ params["up"]).reshape(len(x), 2, 3).sum(1) @ params["down"]

    params = normal(up=(4, 6), down=(3, 2))
    mask = without(params, up=(ALL, [1, 4]), down=1)
    for verify in (True, False):
        groups = structure.find_groups(fn, params, X, verify=verify)
        assert compacted(fn, params, mask, X, groups=groups) == {}


def test_mask_and_optimiser_are_cut_along():
    mask = without(MLP, **UNFED, **UNREAD)
    small, plan = structure.compact(mlp, MLP, mask, X)
    state = structure.slice(optax.adam(1e-3).init(MLP), plan)
    jax.tree.map(np.testing.assert_array_equal, state, optax.adam(1e-3).init(small))
    assert structure.slice(mask, plan)["up"].shape == small["up"].shape


def test_kinds_of_leaves_stay():
    def fn(params, x):
        h = x[:, params["index"]] @ params["up"]
        noise = jax.random.normal(params["key"], h.shape[:1])
        return h @ params["down"] + noise[:, None]

    params = {
        "up": np.asarray(MLP["up"]),
        "down": MLP["down"].astype(jnp.bfloat16),
        "index": np.arange(4),
        "key": jax.random.key(0),
    }
    mask = {**without({n: params[n] for n in ("up", "down", "index")}), "key": np.array(True)}
    mask["down"][4] = mask["index"][1] = False
    small, plan = structure.compact(fn, params, mask, X)
    assert type(small["up"]) is np.ndarray
    assert small["down"].dtype == jnp.bfloat16
    assert plan.sizes["up:1"] == 5
    np.testing.assert_array_equal(small["index"], [0, 0, 2, 3])


def test_other_masks_are_refused():
    mask = without(MLP)
    wrong = {"up": mask["up"][:2], "bias": mask["bias"], "extra": mask["down"]}
    message = "mask does not match params:\n  down: missing from mask\n  extra: not in params\n  up"
    with pytest.raises(ValueError, match=message):
        structure.compact(mlp, MLP, wrong, X)
    with pytest.raises(ValueError, match=r"must be bool: bias \(float32\)"):
        structure.compact(mlp, MLP, {**mask, "bias": MLP["bias"]}, X)


def test_shapes_have_no_zeros():
    shapes = jax.eval_shape(lambda: MLP)
    with pytest.raises(ValueError, match="params has none at bias, down, up"):
        structure.compact(mlp, shapes, without(MLP), X)
    with pytest.raises(ValueError, match="mask has none at bias, down, up"):
        jax.jit(lambda mask: structure.compact(mlp, MLP, mask, X)[0])(without(MLP))


def test_groups_of_another_function_are_refused():
    groups = structure.find_groups(functools.partial(mlp, activation=jnp.sin), MLP, X)
    with pytest.raises(ValueError, match=r"groups are those of another function: .*sin"):
        structure.compact(mlp, MLP, without(MLP), X, groups=groups)
    shifted = structure.find_groups(lambda params, x: mlp(params, x + 0.5), MLP, X)
    with pytest.raises(ValueError, match="another function, which has other numbers in it"):
        structure.compact(
            lambda params, x: mlp(params, x + 0.2), MLP, without(MLP), X, groups=shifted
        )
    with pytest.raises(ValueError, match="not those that the groups were found for: "):
        structure.compact(rnn, RNN, without(RNN), SERIES, groups=groups)
