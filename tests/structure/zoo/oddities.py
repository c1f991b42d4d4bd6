"""Transformations, control flow, containers, and code that uses axes by position."""

import functools
import itertools
from dataclasses import dataclass

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import mlir

from .case import case, filled, initialised, normals, parted


def chain(w, *sizes):
    """Kernels from one size to the next."""
    return [w(a, b) for a, b in itertools.pairwise(sizes)]


@case(
    free=(
        ("enter:1", "blocks/0/0:0", "blocks/0/1:1", "blocks/1/0:0", "blocks/1/1:1", "leave:0"),
        ("blocks/0/0:1", "blocks/0/1:0"),
        ("blocks/1/0:1", "blocks/1/1:0"),
    ),
    frozen={"enter:0": "input", "leave:1": "output"},
    exact=("enter:1", "blocks/0/0:1", "blocks/1/0:1"),
)
def remat_blocks():
    w = normals()

    @jax.checkpoint
    def block(p, x):
        return x + jax.nn.gelu(x @ p[0]) @ p[1]

    def fn(params, x):
        x = x @ params["enter"]
        for p in params["blocks"]:
            x = block(p, x)
        return x @ params["leave"]

    blocks = [chain(w, 5, 7, 5), chain(w, 5, 11, 5)]
    return fn, {"enter": w(3, 5), "blocks": blocks, "leave": w(5, 2)}, (w(4, 3),)


@jax.custom_vjp
def clipped(x):
    return jnp.clip(x, -1, 1)


clipped.defvjp(lambda x: (clipped(x), None), lambda _, g: (g,))


@jax.custom_jvp
def squashed(x):
    return x / (1 + jnp.abs(x))


squashed.defjvp(lambda primals, tangents: (squashed(*primals), tangents[0]))


@case(
    free=(("0:1", "1:0"), ("1:1", "2:0")),
    frozen={"0:0": "input", "2:1": "output"},
    exact=("1:0", "2:0"),
)
def custom_derivatives():
    w = normals()

    def fn(params, x):
        a, b, c = params
        return squashed(clipped(x @ a) @ b) @ c

    return fn, chain(w, 3, 5, 7, 2), (w(4, 3),)


@case(
    free=(
        ("enter:1", "then/0:0", "else/0:0"),
        ("then/0:1", "then/1:0"),
        ("else/0:1", "else/1:0"),
        ("then/1:1", "else/1:1", "leave:0"),
    ),
    frozen={"enter:0": "input", "leave:1": "output"},
    exact=("enter:1", "then/0:1", "else/0:1", "leave:0"),
)
def cond_branches():
    w = normals()

    def fn(params, x):
        def branch(p):
            return lambda h: jnp.tanh(h @ p[0]) @ p[1]

        h = x @ params["enter"]
        h = lax.cond(x.sum() > 0, branch(params["then"]), branch(params["else"]), h)
        return h @ params["leave"]

    params = {"enter": w(3, 5), "then": chain(w, 5, 7, 13), "else": chain(w, 5, 11, 13)}
    return fn, params | {"leave": w(13, 2)}, (w(4, 3),)


class Tree(nnx.Module):
    def __init__(self, rngs):
        sizes = (3, 5, 7, 11)
        self.layers = nnx.List([nnx.Linear(a, b, rngs=rngs) for a, b in itertools.pairwise(sizes)])
        self.heads = nnx.Dict(a=nnx.Linear(11, 2, rngs=rngs), b=nnx.Linear(11, 4, rngs=rngs))

    def __call__(self, x):
        for layer in self.layers:
            x = nnx.relu(layer(x))
        return {name: head(x) for name, head in self.heads.items()}


@case(
    free=(
        ("layers/0/kernel/value:1", "layers/0/bias/value:0", "layers/1/kernel/value:0"),
        ("layers/1/kernel/value:1", "layers/1/bias/value:0", "layers/2/kernel/value:0"),
        (
            "layers/2/kernel/value:1",
            "layers/2/bias/value:0",
            "heads/a/kernel/value:0",
            "heads/b/kernel/value:0",
        ),
    ),
    frozen={
        "layers/0/kernel/value:0": "input",
        "heads/a/bias/value:0": "output",
        "heads/b/kernel/value:1": "output",
    },
    exact=tuple(f"layers/{k}/bias/value:0" for k in range(3)),
)
def state_tree_nnx():
    graph, params = nnx.split(nnx.eval_shape(lambda: Tree(nnx.Rngs(0))))
    return lambda p, x: nnx.merge(graph, p)(x), filled(params), (normals()(4, 3),)


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=("kernel", "bias"), meta_fields=("power",)
)
@dataclass
class Layer:
    kernel: jax.Array
    bias: jax.Array
    power: int


@case(
    free=(("first/kernel:1", "first/bias:0", "rest/0/kernel:0"),),
    frozen={"first/kernel:0": "input", "rest/0/bias:0": "output"},
    exact=("first/bias:0",),
)
def dataclass_params():
    w = normals()

    def fn(params, x):
        for layer in (params["first"], *params["rest"]):
            x = (x @ layer.kernel + layer.bias) ** layer.power
        return x

    params = {"first": Layer(w(3, 5), w(5), 2), "rest": (Layer(w(5, 2), w(2), 1),)}
    return fn, params, (w(4, 3),)


@case(
    free=(("0:1", "1:0"), ("2:1", "3:0")),
    frozen={"1:1": "pure_callback", "2:0": "pure_callback", "0:0": "input", "3:1": "output"},
    exact=("1:0", "3:0"),
)
def callback_inside():
    w = normals()

    def outside(h):
        return np.tanh(h)

    def fn(params, x):
        a, b, c, d = params
        h = jnp.tanh(x @ a) @ b
        h = jax.pure_callback(outside, jax.ShapeDtypeStruct(h.shape, h.dtype), h)
        return jnp.tanh(h @ c) @ d

    return fn, chain(w, 3, 5, 7, 11, 2), (w(4, 3),)


mystery = Primitive("zoo_mystery")
mystery.def_impl(lambda x: x * 2)
mystery.def_abstract_eval(lambda x: x)
mlir.register_lowering(mystery, mlir.lower_fun(lambda x: x * 2, multiple_results=False))


@case(
    free=(("0:1", "1:0"), ("2:1", "3:0")),
    frozen={"1:1": "zoo_mystery", "2:0": "zoo_mystery", "3:1": "output"},
    exact=("1:0", "3:0"),
)
def unknown_primitive():
    w = normals()

    def fn(params, x):
        a, b, c, d = params
        h = mystery.bind(jnp.tanh(x @ a) @ b)
        return jnp.tanh(h @ c) @ d

    return fn, chain(w, 3, 5, 7, 11, 2), (w(4, 3),)


POSITIONAL = {
    "cumsum": lambda h: jnp.cumsum(h, axis=-1),
    "sort": lambda h: jnp.sort(h, axis=-1),
    "top_k": lambda h: lax.top_k(h, 2)[0],
    "argmax": lambda h: jnp.argmax(h, axis=-1)[:, None].astype(h.dtype),
    "iota": lambda h: h * jnp.arange(h.shape[-1]),
    "fft": lambda h: jnp.abs(jnp.fft.fft(h, axis=-1)),
    "pad": lambda h: jnp.exp(jnp.pad(h, ((0, 0), (1, 0)))),
    "slice": lambda h: h[:, 2:3],
    "roll": lambda h: h * jnp.roll(h, 1, axis=-1),
    "literal": lambda h: h + jnp.ones(6),
    "constant": lambda h: h * np.array([1.0, 2.0, 3.0, 5.0, 7.0, 11.0], np.float32),
    "conv": lambda h: jnp.convolve(h[0], jnp.ones(3), mode="same")[None],
    "gather": lambda h: h[:, jnp.array([0, 3])],
}

NOT_NAMED = ("roll", "literal", "constant")


@case(
    free=(("plain:1", "plain_out:0"),),
    frozen={
        **{f"{name}:1": name for name in POSITIONAL if name not in NOT_NAMED},
        "slice:1": "unread",
        **{f"{name}:1": "" for name in NOT_NAMED},
        "plain:0": "input",
    },
    exact=("plain:1",),
)
def used_by_position():
    """Each leaf makes features that one positional thing is done to; they are not tied."""
    w = normals()

    def fn(params, x):
        total = (x @ params["plain"] @ params["plain_out"]).sum()
        for name, use in POSITIONAL.items():
            total = total + use(x @ params[name]).sum()
        return total

    params = {name: w(3, 6) for name in POSITIONAL}
    return fn, params | {"plain": w(3, 6), "plain_out": w(6, 2)}, (w(4, 3),)


@case(
    free=(("w:1#7", "two:0"),),
    frozen={"w:1#5": "", "one:0": "", "w:0": "input", "one:1": "output"},
    exact=("two:0",),
    layout={"w:1#7": "5+[7]"},
)
def literal_first_part():
    """The first five are named by number, the rest are however many there are."""
    w = normals()

    def fn(params, x):
        h = x @ params["w"]
        return jnp.tanh(h[:, :5]) @ params["one"] + h[:, 5:] @ params["two"]

    return fn, {"w": w(3, 12), "one": w(5, 2), "two": w(7, 2)}, (w(4, 3),)


class Energy(eqx.Module):
    up: eqx.nn.Linear
    mid: eqx.nn.Linear
    down: eqx.nn.Linear

    def __call__(self, x):
        return self.down(jax.nn.softplus(self.mid(jax.nn.softplus(self.up(x)))))[0]


@case(
    free=(
        ("up/weight:0", "up/bias:0", "mid/weight:1"),
        ("mid/weight:0", "mid/bias:0", "down/weight:1"),
    ),
    frozen={"up/weight:1": ""},
    exact=("up/bias:0", "mid/bias:0"),
)
def forces_of_energy_equinox():
    """A gradient inside: the output has the input's axis."""
    key, sizes = jax.random.key(0), ((3, 5), (5, 7), (7, 1))

    def make():
        return Energy(*(eqx.nn.Linear(*pair, key=key) for pair in sizes))

    params, static = parted(make)

    def fn(params, x):
        return jax.vmap(jax.grad(eqx.combine(params, static)))(x)

    return fn, params, (normals()(4, 3),)


@case(
    free=(("enter:1", "w:0", "w:1", "leave:0"),),
    frozen={"enter:0": "input", "leave:1": "output"},
    exact=("leave:0",),
)
def symmetric_kernel():
    w = normals()

    def fn(params, x):
        kernel = (params["w"] + params["w"].T) / 2
        return jnp.tanh(x @ params["enter"]) @ kernel @ params["leave"]

    return fn, {"enter": w(3, 5), "w": w(5, 5), "leave": w(5, 2)}, (w(4, 3),)


class Dropped(nn.Module):
    hidden: int
    out: int

    @nn.compact
    def __call__(self, x):
        h = nn.relu(nn.Dense(self.hidden, name="up")(x))
        h = nn.Dropout(0.5, deterministic=False)(h)
        return nn.Dense(self.out, name="down")(h)


@case(
    free=(("up/kernel:1", "up/bias:0", "down/kernel:0"),),
    frozen={"up/kernel:0": "input", "down/bias:0": "output"},
)
def dropout_linen():
    """Random bits are drawn for each unit: fewer units draw others, but none is special."""

    def fn(params, x):
        model = Dropped(params["up"]["bias"].size, params["down"]["bias"].size)
        return model.apply({"params": params}, x, rngs={"dropout": jax.random.key(1)})

    x = normals()(4, 3)
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    return fn, initialised(Dropped(7, 2).init, keys, x)["params"], (x,)


@case(
    free=(("a:1", "b:0"), ("b:1", "c:0")),
    frozen={"a:0": "input", "c:1": "output"},
    exact=("b:0", "c:0"),
)
def half_precision_jitted():
    w = normals()

    @jax.jit
    def dense(x, kernel):
        return jnp.matmul(x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16))

    def fn(params, x):
        h = jax.nn.silu(dense(x, params["a"]).astype(jnp.float32))
        return (jax.nn.relu(h @ params["b"])) @ params["c"]

    return fn, {"a": w(3, 5), "b": w(5, 7), "c": w(7, 2)}, (w(4, 3),)


@case(
    free=(("head:1", "leave:0"), ("a:1", "head:0")),
    frozen={"a:0": "input", "leave:1": "output"},
    exact=("leave:0", "a:1"),
)
def outer_product_with_itself():
    """Each position of the flattened axis has two units of one group: it is a member twice."""
    w = normals()

    def fn(params, x):
        h = x @ params["a"]
        pairs = (h[:, :, None] * h[:, None, :]).reshape(h.shape[0], -1)
        return jnp.tanh(pairs @ params["head"]) @ params["leave"]

    return fn, {"a": w(3, 5), "head": w(25, 7), "leave": w(7, 2)}, (w(4, 3),)


@case(
    free=(("enter:1", "mean:0", "spread:0"), ("widen:1", "leave:0")),
    # The noise is as wide as the latent axis: cutting works, and draws other noise.
    together=(("mean:1", "spread:1", "widen:0"),),
    frozen={"enter:0": "input", "leave:1": "output"},
    exact=("enter:1", "leave:0"),
)
def variational_noise():
    w = normals()

    def fn(params, x, key):
        h = jnp.tanh(x @ params["enter"])
        mean, spread = h @ params["mean"], jnp.exp(h @ params["spread"])
        z = mean + spread * jax.random.normal(key, mean.shape)
        return jnp.tanh(z @ params["widen"]) @ params["leave"]

    params = {
        "enter": w(3, 11),
        "mean": w(11, 5),
        "spread": w(11, 5),
        "widen": w(5, 7),
        "leave": w(7, 3),
    }
    return fn, params, (w(4, 3), jax.random.key(0))
