"""Attention: how heads are cut from the features, shared, positioned."""

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from .case import case, filled, initialised, normals, parted


def attend(q, k, v):
    """Attention over ``[batch, length, heads, width]``."""
    scores = jnp.einsum("bqhe,bkhe->bhqk", q, k) / q.shape[-1] ** 0.5
    return jnp.einsum("bhqk,bkhe->bqhe", jax.nn.softmax(scores), v)


@case(
    free=(
        ("enter:1", "qkv:1", "out:2", "leave:0"),
        ("qkv:2", "scale:0", "out:0"),
        ("qkv:3", "out:1"),
    ),
    frozen={"qkv:0": "", "enter:0": "input", "leave:1": "output"},
    exact=("enter:1", "scale:0"),
)
def attention_stacked_three():
    """The leading three are unpacked, so fixed."""
    w = normals()

    def fn(params, x):
        x = x @ params["enter"]
        q, k, v = jnp.einsum("bld,xdhe->xblhe", x, params["qkv"])
        h = attend(q, k, v) * params["scale"][:, None]
        return (x + jnp.einsum("blhe,hed->bld", h, params["out"])) @ params["leave"]

    params = {
        "enter": w(4, 7),
        "qkv": w(3, 7, 3, 5),
        "scale": w(3),
        "out": w(3, 5, 7),
        "leave": w(7, 3),
    }
    return fn, params, (w(2, 6, 4),)


@case(
    free=(
        ("enter:1", "qkv:0", "out:1", "leave:0"),
        ("qkv:1#2", "scale:0", "out:0#2"),
        ("qkv:1#5", "out:0#5"),
    ),
    frozen={"qkv:1#3": "", "enter:0": "input", "leave:1": "output"},
    exact=("enter:1", "scale:0"),
    layout={
        "qkv:1#2": "3*[2]*5",
        "qkv:1#5": "3*2*[5]",
        "out:0#2": "[2]*5",
        "out:0#5": "2*[5]",
    },
)
def attention_fused_reshape():
    w = normals()

    def fn(params, x):
        x = x @ params["enter"]
        b, length, _ = x.shape
        fused = (x @ params["qkv"]).reshape(b, length, 3, params["scale"].shape[0], -1)
        h = attend(fused[:, :, 0], fused[:, :, 1], fused[:, :, 2])
        h = (h * params["scale"][:, None]).reshape(b, length, -1)
        return (x + h @ params["out"]) @ params["leave"]

    params = {"enter": w(4, 7), "qkv": w(7, 30), "scale": w(2), "out": w(10, 7), "leave": w(7, 3)}
    return fn, params, (w(2, 6, 4),)


@case(
    free=(
        ("enter:1", "q:0", "k:0", "v:0", "out:3", "leave:0"),
        ("q:1", "k:1", "v:1", "out:0"),
        ("q:2", "out:1"),
        ("v:2", "out:2"),
    ),
    frozen={"q:3": "iota", "k:2": "iota", "enter:0": "input", "leave:1": "output"},
    exact=("enter:1", "k:1", "q:2", "v:2"),
)
def grouped_query_rotary():
    w = normals()

    def rotate(x):
        length, width = x.shape[1], x.shape[-1]
        rates = 100.0 ** (-jnp.arange(0, width, 2) / width)
        angles = jnp.arange(length)[:, None] * rates
        angles = angles.reshape((length,) + (1,) * (x.ndim - 3) + (width // 2,))
        a, b = jnp.split(x, 2, axis=-1)
        sin, cos = jnp.sin(angles), jnp.cos(angles)
        return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)

    def fn(params, x):
        x = x @ params["enter"]
        q = rotate(jnp.einsum("bld,dkre->blkre", x, params["q"]))
        k = rotate(jnp.einsum("bld,dke->blke", x, params["k"]))
        v = jnp.einsum("bld,dke->blke", x, params["v"])
        scores = jnp.einsum("bqkre,bmke->bkrqm", q, k) / q.shape[-1] ** 0.5
        h = jnp.einsum("bkrqm,bmke->bqkre", jax.nn.softmax(scores), v)
        return (x + jnp.einsum("blkre,kred->bld", h, params["out"])) @ params["leave"]

    params = {
        "enter": w(4, 11),
        "q": w(11, 4, 3, 6),
        "k": w(11, 4, 6),
        "v": w(11, 4, 5),
        "out": w(4, 3, 5, 11),
        "leave": w(11, 3),
    }
    return fn, params, (w(2, 7, 4),)


@case(
    free=(
        ("q:1#2", "k:1", "v:1", "out:0#2"),
        ("q:1#3", "out:0#3"),
        ("q:2", "k:2"),
        ("v:2", "out:1"),
    ),
    frozen={"q:0": "input", "v:0": "input", "out:2": "output"},
    exact=("k:1", "q:1#3", "v:2"),
    layout={"q:1#2": "[2]*3", "out:0#2": "[2]*3", "q:1#3": "2*[3]", "out:0#3": "2*[3]"},
)
def grouped_query_repeated():
    w = normals()

    def fn(params, x):
        q, k, v = (jnp.einsum("bld,dhe->blhe", x, params[name]) for name in "qkv")
        times = q.shape[2] // k.shape[2]
        h = attend(q, jnp.repeat(k, times, axis=2), jnp.repeat(v, times, axis=2))
        return jnp.einsum("blhe,hed->bld", h, params["out"])

    params = {"q": w(4, 6, 5), "k": w(4, 2, 5), "v": w(4, 2, 7), "out": w(6, 7, 4)}
    return fn, params, (w(2, 8, 4),)


class MultiQuery(eqx.Module):
    q: jax.Array
    k: eqx.nn.Linear
    v: eqx.nn.Linear
    out: jax.Array

    def __call__(self, x):
        q = jnp.einsum("ld,dhe->lhe", x, self.q)
        k, v = jax.vmap(self.k)(x), jax.vmap(self.v)(x)
        weights = jax.nn.softmax(jnp.einsum("qhe,me->hqm", q, k) / k.shape[-1] ** 0.5)
        return jnp.einsum("hqm,me,hed->qd", weights, v, self.out)


@case(
    free=(
        ("q:1", "out:0"),
        ("q:2", "k/weight:0", "k/bias:0"),
        ("v/weight:0", "v/bias:0", "out:1"),
    ),
    frozen={"q:0": "input", "k/weight:1": "input", "out:2": "output"},
    exact=("q:1", "v/bias:0"),
)
def multi_query_equinox():
    w, key = normals(), jax.random.key(0)

    def make():
        linears = [eqx.nn.Linear(4, size, key=key) for size in (5, 7)]
        return MultiQuery(w(4, 3, 5), *linears, w(3, 7, 2))

    params, static = parted(make)
    return lambda p, x: jax.vmap(eqx.combine(p, static))(x), params, (w(2, 6, 4),)


class FourHeads(nnx.Module):
    def __init__(self, rngs):
        self.q = nnx.Linear(3, 20, rngs=rngs)
        self.k = nnx.Linear(3, 20, rngs=rngs)
        self.v = nnx.Linear(3, 28, rngs=rngs)
        self.out = nnx.Linear(28, 6, rngs=rngs)

    def __call__(self, x):
        b, length, _ = x.shape
        q, k, v = (layer(x).reshape(b, length, 4, -1) for layer in (self.q, self.k, self.v))
        return self.out(attend(q, k, v).reshape(b, length, -1))


@case(
    free=(
        ("q/kernel/value:1#5", "q/bias/value:0#5", "k/kernel/value:1#5", "k/bias/value:0#5"),
        ("v/kernel/value:1#7", "v/bias/value:0#7", "out/kernel/value:0#7"),
    ),
    frozen={
        "q/kernel/value:1#4": "reshape",
        "out/kernel/value:0#4": "reshape",
        "q/kernel/value:0": "input",
        "out/kernel/value:1": "output",
    },
    exact=("out/kernel/value:0#7",),
    layout={
        **{f"{n}/kernel/value:1#5": "4*[5]" for n in "qk"},
        **{f"{n}/bias/value:0#5": "4*[5]" for n in "qk"},
        "v/kernel/value:1#7": "4*[7]",
        "v/bias/value:0#7": "4*[7]",
        "out/kernel/value:0#7": "4*[7]",
    },
)
def four_heads_literal_nnx():
    graph, params = nnx.split(nnx.eval_shape(lambda: FourHeads(nnx.Rngs(0))))
    return lambda p, x: nnx.merge(graph, p)(x), filled(params), (normals()(2, 9, 3),)


@case(
    free=(
        (
            *(f"{n}_proj/weight:0#5" for n in ("query", "key")),
            *(f"{n}_proj/bias:0#5" for n in ("query", "key")),
        ),
        ("value_proj/weight:0#7", "value_proj/bias:0#7", "output_proj/weight:1#7"),
    ),
    frozen={
        "query_proj/weight:0#2": "reshape",
        "query_proj/weight:1": "input",
        "output_proj/bias:0": "output",
    },
    exact=("output_proj/weight:1#7",),
    layout={
        **{f"{n}_proj/weight:0#5": "2*[5]" for n in ("query", "key")},
        **{f"{n}_proj/bias:0#5": "2*[5]" for n in ("query", "key")},
        "value_proj/weight:0#7": "2*[7]",
        "value_proj/bias:0#7": "2*[7]",
        "output_proj/weight:1#7": "2*[7]",
    },
)
def library_attention_equinox():
    biases = {f"use_{name}_bias": True for name in ("query", "key", "value", "output")}
    sizes = {"output_size": 4, "qk_size": 5, "vo_size": 7}
    params, static = parted(
        lambda: eqx.nn.MultiheadAttention(2, 3, **sizes, **biases, key=jax.random.key(0))
    )

    def fn(params, x):
        model = eqx.combine(params, static)
        return jax.vmap(lambda sequence: model(sequence, sequence, sequence))(x)

    return fn, params, (normals()(3, 6, 3),)


@case(
    free=(("q:1#5", "k:1#5"), ("v:1#7", "out:0#7")),
    frozen={"q:1#3": "iota", "v:1#3": "iota", "out:1": "output"},
    exact=("v:1#7",),
    layout={"q:1#5": "3*[5]", "k:1#5": "3*[5]", "v:1#7": "3*[7]", "out:0#7": "3*[7]"},
)
def slopes_by_head():
    """Linear biases on the distance, whose slope depends on the number of the head."""
    w = normals()

    def fn(params, x):
        b, length, _ = x.shape
        heads = params["heads"].shape[0]
        q, k, v = ((x @ params[n]).reshape(b, length, heads, -1) for n in "qkv")
        slopes = 2.0 ** (-8 * (jnp.arange(heads) + 1) / heads)
        distance = jnp.arange(length)[None, :] - jnp.arange(length)[:, None]
        scores = jnp.einsum("bqhe,bkhe->bhqk", q, k) / q.shape[-1] ** 0.5
        scores = scores + slopes[:, None, None] * distance + params["heads"][:, None, None]
        h = jnp.einsum("bhqk,bkhe->bqhe", jax.nn.softmax(scores), v)
        return h.reshape(b, length, -1) @ params["out"]

    params = {"heads": w(3), "q": w(4, 15), "k": w(4, 15), "v": w(4, 21), "out": w(21, 2)}
    return fn, params, (w(2, 6, 4),)


@case(
    free=(
        ("~/latents:0",),
        (
            "~/latents:1",
            "cross_q/w:0",
            "cross_out/w:1",
            "cross_out/b:0",
            "self_q/w:0",
            "self_k/w:0",
            "self_v/w:0",
            "self_out/w:1",
            "self_out/b:0",
            "leave/w:0",
        ),
        ("cross_q/w:1", "cross_q/b:0", "cross_k/w:1", "cross_k/b:0"),
        ("cross_v/w:1", "cross_v/b:0", "cross_out/w:0"),
        ("self_q/w:1", "self_q/b:0", "self_k/w:1", "self_k/b:0"),
        ("self_v/w:1", "self_v/b:0", "self_out/w:0"),
    ),
    frozen={"cross_k/w:0": "input", "cross_v/w:0": "input", "leave/w:1": "output"},
    exact=("~/latents:1", "cross_v/b:0", "self_v/b:0"),
)
def perceiver_haiku():
    def mix(name, z, x, narrow, wide):
        q = hk.Linear(narrow, name=f"{name}_q")(z)
        k = hk.Linear(narrow, name=f"{name}_k")(x)
        v = hk.Linear(wide, name=f"{name}_v")(x)
        h = attend(*(a[:, :, None] for a in (q, k, v)))[:, :, 0]
        return z + hk.Linear(z.shape[-1], name=f"{name}_out")(h)

    def model(x, latents, cross, within, out):
        z = hk.get_parameter("latents", latents, init=hk.initializers.RandomNormal())
        z = jnp.broadcast_to(z, x.shape[:1] + latents)
        z = mix("cross", z, x, *cross)
        z = mix("self", z, z, *within)
        return hk.Linear(out, name="leave")(z.mean(axis=1))

    net = hk.without_apply_rng(hk.transform(model))

    def fn(params, x):
        widths = [[params[f"{name}_{n}"]["b"].size for n in "qv"] for name in ("cross", "self")]
        shape = params["~"]["latents"].shape
        return net.apply(params, x, shape, *widths, params["leave"]["b"].size)

    x = normals()(2, 6, 3)
    params = initialised(net.init, jax.random.key(0), x, (5, 7), (11, 13), (17, 19), 4)
    return fn, params, (x,)


@case(
    free=(("q:1", "k:1"), ("v:1", "out:0")),
    frozen={"q:0": "input", "bias:0": "", "bias:1": "", "out:1": "output"},
    exact=("q:1", "v:1"),
)
def attention_with_constant_mask():
    """A mask of numpy and a learned bias over positions; no scale, so queries cut exactly."""
    w = normals()
    mask = np.tril(np.ones((6, 6), bool))

    def fn(params, x):
        scores = jnp.einsum("bqe,bke->bqk", x @ params["q"], x @ params["k"]) + params["bias"]
        weights = jax.nn.softmax(jnp.where(mask, scores, -1e9))
        return jnp.einsum("bqk,bke->bqe", weights, x @ params["v"]) @ params["out"]

    params = {"q": w(4, 5), "k": w(4, 5), "v": w(4, 7), "out": w(7, 4), "bias": w(6, 6)}
    return fn, params, (w(2, 6, 4),)
