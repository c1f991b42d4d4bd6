"""Experts, ensembles, and mixing over tokens, nodes and frequencies."""

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
from jax import lax

from .case import case, complexes, initialised, normals, parted


def experts(w):
    return {"gate": w(4, 3), "up": w(3, 4, 7), "down": w(3, 7, 5), "leave": w(5, 2)}


@case(
    free=(("gate:1", "up:0", "down:0"), ("up:2", "down:1"), ("down:2", "leave:0")),
    frozen={"gate:0": "input", "up:1": "input", "leave:1": "output"},
    exact=("up:2", "down:2"),
)
def experts_soft():
    w = normals()

    def fn(params, x):
        gates = jax.nn.softmax(x @ params["gate"])
        h = jax.nn.gelu(jnp.einsum("bd,xdf->bxf", x, params["up"]))
        return jnp.einsum("bx,bxf,xfo->bo", gates, h, params["down"]) @ params["leave"]

    return fn, experts(w), (w(6, 4),)


class Expert(eqx.Module):
    up: eqx.nn.Linear
    down: eqx.nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key)
        self.up = eqx.nn.Linear(4, 7, key=keys[0])
        self.down = eqx.nn.Linear(7, 5, key=keys[1])

    def __call__(self, x):
        return self.down(jax.nn.relu(self.up(x)))


class Mixture(eqx.Module):
    gate: eqx.nn.Linear
    experts: Expert

    def __call__(self, x):
        made = eqx.filter_vmap(lambda expert: expert(x))(self.experts)
        return jax.nn.softmax(self.gate(x)) @ made


@case(
    free=(
        (
            "gate/weight:0",
            "gate/bias:0",
            *(f"experts/{n}/{leaf}:0" for n in ("up", "down") for leaf in ("weight", "bias")),
        ),
        ("experts/up/weight:1", "experts/up/bias:1", "experts/down/weight:2"),
    ),
    frozen={"gate/weight:1": "input", "experts/down/bias:1": "output"},
    exact=("experts/up/bias:1",),
)
def experts_soft_equinox():
    key = jax.random.key(0)

    def make():
        made = eqx.filter_vmap(Expert)(jax.random.split(key, 3))
        return Mixture(eqx.nn.Linear(4, 3, key=key), made)

    params, static = parted(make)
    return lambda p, x: jax.vmap(eqx.combine(p, static))(x), params, (normals()(6, 4),)


@case(
    free=(("up:2", "down:1"), ("down:2", "leave:0")),
    frozen={"gate:1": "top_k", "up:0": "", "down:0": "", "gate:0": "input", "leave:1": "output"},
    exact=("up:2", "down:2"),
)
def experts_top_k_dense():
    """Every expert runs; all but the best two are weighted zero."""
    w = normals()

    def fn(params, x):
        best, which = lax.top_k(x @ params["gate"], 2)
        chosen = jax.nn.one_hot(which, params["up"].shape[0])
        gates = jnp.einsum("bk,bkx->bx", jax.nn.softmax(best), chosen)
        h = jax.nn.gelu(jnp.einsum("bd,xdf->bxf", x, params["up"]))
        return jnp.einsum("bx,bxf,xfo->bo", gates, h, params["down"]) @ params["leave"]

    return fn, experts(w), (w(6, 4),)


@case(
    free=(("up:2", "down:1"), ("down:2", "leave:0")),
    frozen={"gate:1": "top_k", "up:0": "gather", "down:0": "gather", "leave:1": "output"},
    exact=("up:2", "down:2"),
)
def experts_top_k_gathered():
    """The kernels of the best two are fetched."""
    w = normals()

    def fn(params, x):
        best, which = lax.top_k(x @ params["gate"], 2)
        h = jax.nn.gelu(jnp.einsum("bd,bkdf->bkf", x, params["up"][which]))
        made = jnp.einsum("bkf,bkfo->bko", h, params["down"][which])
        return jnp.einsum("bk,bko->bo", jax.nn.softmax(best), made) @ params["leave"]

    return fn, experts(w), (w(6, 4),)


@case(
    free=(
        ("enter/w:0", "enter/b:0", "leave/w:0", "leave/b:0"),
        ("enter/w:2", "enter/b:1", "leave/w:1"),
    ),
    frozen={"enter/w:1": "input", "leave/b:1": "output"},
    exact=("leave/w:1",),
)
def ensemble_haiku():
    """Averaged over members at the end, so members are free, but their mean has another divisor."""

    def model(x, hidden, out):
        return hk.Linear(out, name="leave")(jnp.tanh(hk.Linear(hidden, name="enter")(x)))

    net = hk.without_apply_rng(hk.transform(model))
    x = normals()(4, 3)
    keys = jax.random.split(jax.random.key(0), 5)
    params = initialised(jax.vmap(lambda key: net.init(key, x, 7, 2)), keys)

    def fn(params, x):
        sizes = params["leave"]["w"].shape[1:]
        return jax.vmap(lambda p: net.apply(p, x, *sizes))(params).mean(axis=0)

    return fn, params, (x,)


class Mixer(nn.Module):
    width: int
    token_hidden: int
    hidden: int
    out: int

    @nn.compact
    def __call__(self, x):
        tokens = x.shape[1]
        x = nn.Dense(self.width, name="enter")(x)
        h = nn.LayerNorm(name="norm_0")(x).swapaxes(1, 2)
        h = nn.gelu(nn.Dense(self.token_hidden, name="token_up")(h))
        x = x + nn.Dense(tokens, name="token_down")(h).swapaxes(1, 2)
        h = nn.gelu(nn.Dense(self.hidden, name="up")(nn.LayerNorm(name="norm_1")(x)))
        x = x + nn.Dense(self.width, name="down")(h)
        return nn.Dense(self.out, name="head")(nn.LayerNorm(name="norm_2")(x).mean(axis=1))


@case(
    free=(
        (
            "enter/kernel:1",
            "enter/bias:0",
            *(f"norm_{k}/{leaf}:0" for k in range(3) for leaf in ("scale", "bias")),
            "up/kernel:0",
            "down/kernel:1",
            "down/bias:0",
            "head/kernel:0",
        ),
        ("token_up/kernel:1", "token_up/bias:0", "token_down/kernel:0"),
        ("up/kernel:1", "up/bias:0", "down/kernel:0"),
    ),
    frozen={
        "token_up/kernel:0": "input",
        "token_down/kernel:1": "input",
        "token_down/bias:0": "input",
        "head/kernel:1": "output",
    },
    exact=("token_down/kernel:0", "down/kernel:0"),
)
def mlp_mixer_linen():
    def fn(params, x):
        sizes = [params[name]["bias"].size for name in ("enter", "token_up", "up", "head")]
        return Mixer(*sizes).apply({"params": params}, x)

    x = normals()(2, 6, 3)
    params = initialised(Mixer(5, 7, 11, 4).init, jax.random.key(0), x)["params"]
    return fn, params, (x,)


@case(
    free=(
        ("enter:1", "message/w:0#5", "update:0#5", "update:1", "leave:0"),
        ("message/w:1", "message/b:0", "update:0#7"),
    ),
    frozen={"enter:0": "input", "leave:1": "output"},
    exact=("leave:0", "message/b:0"),
    layout={"message/w:0#5": "2*[5]", "update:0#5": "[5]+7", "update:0#7": "5+[7]"},
)
def graph_network():
    w = normals()

    def fn(params, nodes, senders, receivers):
        x = nodes @ params["enter"]
        for _ in range(2):
            ends = jnp.concatenate([x[senders], x[receivers]], axis=-1)
            sent = jax.nn.relu(ends @ params["message"]["w"] + params["message"]["b"])
            got = jax.ops.segment_sum(sent, receivers, num_segments=x.shape[0])
            x = x + jnp.tanh(jnp.concatenate([x, got], axis=-1) @ params["update"])
        return x.sum(axis=0) @ params["leave"]

    params = {
        "enter": w(3, 5),
        "message": {"w": w(10, 7), "b": w(7)},
        "update": w(12, 5),
        "leave": w(5, 2),
    }
    edges = jnp.array([0, 1, 2, 3, 3, 5]), jnp.array([1, 2, 0, 4, 5, 3])
    return fn, params, (w(6, 3), *edges)


@case(
    free=(
        ("lift:1", "spectral/0:0", "local/0:0"),
        ("spectral/0:1", "local/0:1", "spectral/1:0", "local/1:0"),
        ("spectral/1:1", "local/1:1", "leave:0"),
    ),
    frozen={"lift:0": "input", "spectral/0:2": "", "spectral/1:2": "", "leave:1": "output"},
    exact=("lift:1", "local/1:0", "leave:0"),
)
def fourier_operator():
    w = normals()

    def fn(params, x):
        x = x @ params["lift"]
        for spectral, local in zip(params["spectral"], params["local"], strict=True):
            modes = jnp.fft.rfft(x, axis=1)[:, : spectral.shape[-1]]
            mixed = jnp.einsum("bmi,iom->bmo", modes, spectral)
            x = jax.nn.gelu(jnp.fft.irfft(mixed, n=x.shape[1], axis=1) + x @ local)
        return x @ params["leave"]

    params = {
        "lift": w(3, 5),
        "spectral": [complexes(w, 5, 7, 4), complexes(w, 7, 11, 4)],
        "local": [w(5, 7), w(7, 11)],
        "leave": w(11, 2),
    }
    return fn, params, (w(2, 12, 3),)


@case(
    free=(("enter:1", "codes:1", "leave:0"),),
    frozen={"codes:0": "", "enter:0": "input", "leave:1": "output"},
    exact=("leave:0",),
)
def nearest_code():
    """Vector quantisation: which codes there are is a matter of position, their width is not."""
    w = normals()

    def fn(params, x):
        x = x @ params["enter"]
        distance = jnp.sum((x[:, None] - params["codes"]) ** 2, axis=-1)
        code = params["codes"][jnp.argmin(distance, axis=-1)]
        return (x + lax.stop_gradient(code - x)) @ params["leave"]

    return fn, {"enter": w(3, 5), "codes": w(7, 5), "leave": w(5, 2)}, (w(6, 3),)
