"""Dense layers: residuals, gates, shared, tied and generated weights."""

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
from flax import nnx

from .case import case, filled, initialised, normals, parted


class PreNorm(nn.Module):
    hidden: int

    @nn.compact
    def __call__(self, x):
        h = nn.LayerNorm(name="norm")(x)
        h = nn.gelu(nn.Dense(self.hidden, name="up")(h))
        return x + nn.Dense(x.shape[-1], name="down")(h)


class ResidualMLP(nn.Module):
    width: int
    hidden: tuple[int, ...]
    classes: int

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(self.width, name="enter")(x)
        for k, hidden in enumerate(self.hidden):
            x = PreNorm(hidden, name=f"block_{k}")(x)
        return nn.Dense(self.classes, name="leave")(nn.LayerNorm(name="norm")(x))


@case(
    free=(
        (
            "enter/kernel:1",
            "enter/bias:0",
            *(f"block_{k}/norm/{leaf}:0" for k in range(2) for leaf in ("scale", "bias")),
            *(f"block_{k}/{leaf}" for k in range(2) for leaf in ("up/kernel:0", "down/kernel:1")),
            *(f"block_{k}/down/bias:0" for k in range(2)),
            "norm/scale:0",
            "norm/bias:0",
            "leave/kernel:0",
        ),
        ("block_0/up/kernel:1", "block_0/up/bias:0", "block_0/down/kernel:0"),
        ("block_1/up/kernel:1", "block_1/up/bias:0", "block_1/down/kernel:0"),
    ),
    frozen={"enter/kernel:0": "input", "leave/kernel:1": "output", "leave/bias:0": "output"},
    exact=("block_0/up/kernel:1", "block_1/up/kernel:1"),
)
def mlp_residual_linen():
    def fn(params, x):
        hidden = tuple(params[f"block_{k}"]["up"]["bias"].shape[0] for k in range(2))
        model = ResidualMLP(params["enter"]["bias"].size, hidden, params["leave"]["bias"].size)
        return model.apply({"params": params}, x)

    x = normals()(4, 3)
    params = initialised(ResidualMLP(7, (11, 13), 5).init, jax.random.key(0), x)["params"]
    return fn, params, (x,)


@case(
    free=(("0/w:1", "0/b:0", "1/w:0"), ("1/w:1", "1/b:0", "2/w:0")),
    frozen={"0/w:0": "input", "2/w:1": "output"},
    exact=("1/w:0", "2/w:0"),
)
def mlp_all_sizes_equal():
    w = normals()
    params = [{"w": w(6, 6), "b": w(6)} for _ in range(3)]

    def fn(params, x):
        for layer in params[:-1]:
            x = jax.nn.relu(x @ layer["w"] + layer["b"])
        return x @ params[-1]["w"] + params[-1]["b"]

    return fn, params, (w(6, 6),)


@case(
    free=(
        ("layers/0/weight:0", "layers/0/bias:0", "layers/1/weight:1"),
        ("layers/1/weight:0", "layers/1/bias:0", "layers/2/weight:1"),
    ),
    frozen={"layers/0/weight:1": "input", "layers/2/weight:0": "output"},
    exact=("layers/0/bias:0", "layers/1/bias:0"),
)
def mlp_equinox():
    params, static = parted(lambda: eqx.nn.MLP(3, 5, 7, 2, key=jax.random.key(0)))
    return lambda p, x: jax.vmap(eqx.combine(p, static))(x), params, (normals()(4, 3),)


class SwiGLU(nnx.Module):
    def __init__(self, d, f, out, rngs):
        self.up = nnx.Linear(d, 2 * f, rngs=rngs)
        self.down = nnx.Linear(f, out, rngs=rngs)

    def __call__(self, x):
        gate, value = jnp.split(self.up(x), 2, axis=-1)
        return self.down(nnx.silu(gate) * value)


@case(
    free=(("up/kernel/value:1#7", "up/bias/value:0#7", "down/kernel/value:0"),),
    frozen={"up/kernel/value:0": "input", "down/bias/value:0": "output"},
    exact=("down/kernel/value:0",),
    layout={"up/kernel/value:1#7": "2*[7]", "up/bias/value:0#7": "2*[7]"},
)
def swiglu_fused_nnx():
    graph, params = nnx.split(nnx.eval_shape(lambda: SwiGLU(3, 7, 5, nnx.Rngs(0))))
    return lambda p, x: nnx.merge(graph, p)(x), filled(params), (normals()(2, 4, 3),)


@case(
    free=(("up/w:1#7", "up/b:0#7", "down/w:0"),),
    frozen={"up/w:0": "input", "down/w:1": "output"},
    exact=("down/w:0",),
    layout={"up/w:1#7": "2*[7]", "up/b:0#7": "2*[7]"},
)
def glu_sliced_haiku():
    def model(x, hidden, out):
        h = hk.Linear(2 * hidden, name="up")(x)
        half = h.shape[-1] // 2
        return hk.Linear(out, name="down")(h[..., :half] * jax.nn.sigmoid(h[..., half:]))

    net = hk.without_apply_rng(hk.transform(model))

    def fn(params, x):
        return net.apply(params, x, *params["down"]["w"].shape)

    x = normals()(4, 3)
    return fn, initialised(net.init, jax.random.key(0), x, 7, 5), (x,)


@case(
    free=(
        (
            "enter/w:1",
            "enter/b:0",
            *(f"{n}_{k}/{leaf}" for n in "ht" for k in range(2) for leaf in ("w:0", "w:1", "b:0")),
            "leave/w:0",
        ),
    ),
    frozen={"enter/w:0": "input", "leave/w:1": "output"},
    exact=("leave/w:0",),
)
def highway_haiku():
    def model(x, width, out):
        x = hk.Linear(width, name="enter")(x)
        for k in range(2):
            t = jax.nn.sigmoid(hk.Linear(width, name=f"t_{k}")(x))
            x = t * jnp.tanh(hk.Linear(width, name=f"h_{k}")(x)) + (1 - t) * x
        return hk.Linear(out, name="leave")(x)

    net = hk.without_apply_rng(hk.transform(model))
    x = normals()(4, 3)
    params = initialised(net.init, jax.random.key(0), x, 7, 5)
    return lambda p, x: net.apply(p, x, *p["leave"]["w"].shape), params, (x,)


class Siamese(eqx.Module):
    first: eqx.nn.Linear
    second: eqx.nn.Linear
    score: eqx.nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key, 3)
        self.first = eqx.nn.Linear(3, 11, key=keys[0])
        self.second = eqx.nn.Linear(11, 7, key=keys[1])
        self.score = eqx.nn.Linear(7, 1, key=keys[2])

    def embed(self, x):
        return self.second(jnp.tanh(self.first(x)))

    def __call__(self, a, b):
        return self.score(jnp.abs(self.embed(a) - self.embed(b)))


@case(
    free=(
        ("first/weight:0", "first/bias:0", "second/weight:1"),
        ("second/weight:0", "second/bias:0", "score/weight:1"),
    ),
    frozen={"first/weight:1": "input"},
    exact=("first/bias:0", "second/bias:0"),
)
def siamese_equinox():
    params, static = parted(lambda: Siamese(jax.random.key(0)))
    w = normals()
    return lambda p, a, b: jax.vmap(eqx.combine(p, static))(a, b), params, (w(4, 3), w(4, 3))


@case(
    free=(("w:1", "b:0"),),
    frozen={"w:0": "input", "c:0": "input"},
    exact=("b:0",),
)
def autoencoder_tied():
    w = normals()

    def fn(params, x):
        return jnp.tanh(x @ params["w"] + params["b"]) @ params["w"].T + params["c"]

    return fn, {"w": w(5, 3), "b": w(3), "c": w(5)}, (w(4, 5),)


@case(
    free=(("left:1", "core:0"), ("right:1", "core:1"), ("core:2", "head:0")),
    frozen={"left:0": "input", "right:0": "input", "head:1": "output"},
    exact=("core:0", "core:1", "core:2"),
)
def bilinear():
    w = normals()

    def fn(params, x, y):
        mixed = jnp.einsum("bi,ijk,bj->bk", x @ params["left"], params["core"], y @ params["right"])
        return jax.nn.relu(mixed) @ params["head"]

    params = {"left": w(3, 5), "right": w(4, 7), "core": w(5, 7, 11), "head": w(11, 2)}
    return fn, params, (w(6, 3), w(6, 4))


class WeightNormed(nnx.Module):
    def __init__(self, d, out, rngs):
        self.v = nnx.Param(jax.random.normal(rngs.params(), (d, out)))
        self.g = nnx.Param(jnp.ones(out))

    def __call__(self, x):
        length = jnp.sqrt(jnp.sum(self.v[...] ** 2, axis=0, keepdims=True) + 1e-6)
        return x @ (self.g[...] * self.v[...] / length)


@case(
    free=(("0/v/value:1", "0/g/value:0", "1/v/value:0"),),
    frozen={"0/v/value:0": "input", "1/v/value:1": "output", "1/g/value:0": "output"},
    exact=("1/v/value:0",),
)
def weight_normed_nnx():
    def make():
        rngs = nnx.Rngs(0)
        return nnx.List([WeightNormed(3, 7, rngs), WeightNormed(7, 5, rngs)])

    graph, params = nnx.split(nnx.eval_shape(make))

    def fn(params, x):
        first, second = nnx.merge(graph, params)
        return second(nnx.relu(first(x)))

    return fn, filled(params), (normals()(4, 3),)


@case(
    free=(
        ("small/embeddings:1", "widen/w:0"),
        ("widen/w:1", "widen/b:0", "leave/w:0"),
    ),
    frozen={"small/embeddings:0": "", "leave/w:1": "output"},
    exact=("widen/w:0", "leave/w:0"),
)
def factorised_embedding_haiku():
    def model(tokens, vocabulary, narrow, wide, out):
        x = hk.Embed(vocabulary, narrow, name="small")(tokens)
        x = jnp.tanh(hk.Linear(wide, name="widen")(x))
        return hk.Linear(out, name="leave")(x.mean(axis=1))

    net = hk.without_apply_rng(hk.transform(model))

    def fn(params, tokens):
        sizes = params["small"]["embeddings"].shape + params["leave"]["w"].shape
        return net.apply(params, tokens, *sizes)

    tokens = jnp.array([[1, 3, 12, 0], [2, 2, 7, 5]])
    return fn, initialised(net.init, jax.random.key(0), tokens, 13, 3, 7, 5), (tokens,)


@case(
    free=(
        ("enter:1", "make:1#5", "shift:0#5"),
        ("head:0", "make:1#7", "shift:0#7"),
        ("context:1", "make:0"),
    ),
    frozen={"enter:0": "input", "context:0": "input", "head:1": "output"},
    exact=("enter:1", "head:0", "context:1"),
    layout={
        "make:1#5": "[5]*7",
        "shift:0#5": "[5]*7",
        "make:1#7": "5*[7]",
        "shift:0#7": "5*[7]",
    },
)
def hypernetwork():
    w = normals()

    def fn(params, x, z):
        sizes = params["enter"].shape[1], params["head"].shape[0]
        vector = jnp.tanh(z @ params["context"]) @ params["make"] + params["shift"]
        kernel = vector.reshape(sizes)
        return jnp.tanh(x @ params["enter"] @ kernel) @ params["head"]

    params = {
        "enter": w(3, 5),
        "context": w(2, 11),
        "make": w(11, 35),
        "shift": w(35),
        "head": w(7, 4),
    }
    return fn, params, (w(6, 3), w(2))


@case(
    free=(("w:1#7", "b:0#7", "head:0"),),
    frozen={"w:0": "input", "w:1#3": "", "head:1": "output"},
    exact=("head:0",),
    layout={"w:1#7": "[7]*3", "b:0#7": "[7]*3"},
)
def maxout_literal_pieces():
    w = normals()

    def fn(params, x):
        h = x @ params["w"] + params["b"]
        return h.reshape(h.shape[0], -1, 3).max(axis=-1) @ params["head"]

    return fn, {"w": w(4, 21), "b": w(21), "head": w(7, 5)}, (w(6, 4),)


@case(
    free=(("a:1", "head:0#5"), ("b:1", "head:0#7")),
    frozen={"a:0": "input", "b:0": "input", "head:1": "output"},
    exact=("a:1", "b:1"),
    layout={"head:0#5": "[5]*7", "head:0#7": "5*[7]"},
)
def outer_product_flattened():
    w = normals()

    def fn(params, x):
        pairs = jnp.einsum("bi,bj->bij", x @ params["a"], x @ params["b"])
        return pairs.reshape(x.shape[0], -1) @ params["head"]

    return fn, {"a": w(3, 5), "b": w(3, 7), "head": w(35, 4)}, (w(6, 3),)
