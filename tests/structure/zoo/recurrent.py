"""Sequences and loops: gates of cells, causal convolutions, state spaces, stacks."""

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from .case import case, complexes, filled, initialised, normals, parted


@case(
    free=(("x:1#5", "h:0", "h:1#5", "b:0#5", "head:0"),),
    frozen={"x:0": "input", "head:1": "output"},
    exact=("head:0",),
    layout=dict.fromkeys(("x:1#5", "h:1#5", "b:0#5"), "4*[5]"),
)
def lstm_fused_gates():
    w = normals()

    def fn(params, x):
        def step(carry, now):
            h, c = carry
            gates = now @ params["x"] + h @ params["h"] + params["b"]
            i, f, g, o = jnp.split(gates, 4, axis=-1)
            c = jax.nn.sigmoid(f + 1) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), None

        start = jnp.zeros((x.shape[0], params["h"].shape[0]))
        (h, _), _ = lax.scan(step, (start, start), x.swapaxes(0, 1))
        return h @ params["head"]

    return fn, {"x": w(3, 20), "h": w(5, 20), "b": w(20), "head": w(5, 2)}, (w(6, 7, 3),)


class SequenceModel(nn.Module):
    hidden: int
    out: int

    @nn.compact
    def __call__(self, x):
        cell = nn.OptimizedLSTMCell(self.hidden, parent=None)
        return nn.Dense(self.out, name="head")(nn.RNN(cell, name="rnn")(x))


@case(
    free=(
        tuple(f"rnn/cell/i{gate}/kernel:1" for gate in "ifgo")
        + tuple(f"rnn/cell/h{gate}/kernel:0" for gate in "ifgo")
        + tuple(f"rnn/cell/h{gate}/kernel:1" for gate in "ifgo")
        + tuple(f"rnn/cell/h{gate}/bias:0" for gate in "ifgo")
        + ("head/kernel:0",),
    ),
    frozen={"rnn/cell/ii/kernel:0": "input", "head/kernel:1": "output"},
    exact=("head/kernel:0",),
)
def lstm_linen():
    def fn(params, x):
        return SequenceModel(*params["head"]["kernel"].shape).apply({"params": params}, x)

    x = normals()(2, 7, 3)
    return fn, initialised(SequenceModel(5, 4).init, jax.random.key(0), x)["params"], (x,)


class GRU(eqx.Module):
    cell: eqx.nn.GRUCell
    head: eqx.nn.Linear

    def __call__(self, x):
        start = jnp.zeros(self.head.weight.shape[1])
        h, _ = lax.scan(lambda h, now: (self.cell(now, h), None), start, x)
        return self.head(h)


@case(
    free=(
        (
            "cell/weight_ih:0#5",
            "cell/weight_hh:0#5",
            "cell/weight_hh:1",
            "cell/bias:0#5",
            "cell/bias_n:0",
            "head/weight:1",
        ),
    ),
    frozen={"cell/weight_ih:1": "input", "head/weight:0": "output"},
    exact=("cell/bias_n:0",),
    layout=dict.fromkeys(("cell/weight_ih:0#5", "cell/weight_hh:0#5", "cell/bias:0#5"), "3*[5]"),
)
def gru_equinox():
    key = jax.random.key(0)
    params, static = parted(
        lambda: GRU(eqx.nn.GRUCell(3, 5, key=key), eqx.nn.Linear(5, 2, key=key))
    )
    return lambda p, x: jax.vmap(eqx.combine(p, static))(x), params, (normals()(4, 7, 3),)


@case(
    free=(("gru/w_i:1#5", "gru/w_h:0", "gru/w_h:1#5", "gru/b:0#5", "head/w:0"),),
    frozen={"gru/w_i:0": "input", "head/w:1": "output"},
    exact=("head/w:0",),
    layout=dict.fromkeys(("gru/w_i:1#5", "gru/w_h:1#5", "gru/b:0#5"), "3*[5]"),
)
def gru_haiku():
    def model(x, hidden, out):
        cell = hk.GRU(hidden, name="gru")
        h, _ = hk.dynamic_unroll(cell, x, cell.initial_state(x.shape[1]))
        return hk.Linear(out, name="head")(h)

    net = hk.without_apply_rng(hk.transform(model))
    x = normals()(7, 4, 3)
    params = initialised(net.init, jax.random.key(0), x, 5, 2)
    return lambda p, x: net.apply(p, x, *p["head"]["w"].shape), params, (x,)


class Direction(nnx.Module):
    def __init__(self, d, hidden, rngs):
        self.x = nnx.Linear(d, hidden, rngs=rngs)
        self.h = nnx.Linear(hidden, hidden, use_bias=False, rngs=rngs)

    def __call__(self, x, reverse):
        def step(h, now):
            h = jnp.tanh(now + self.h(h))
            return h, h

        start = jnp.zeros((x.shape[0], self.h.kernel.shape[0]))
        _, states = lax.scan(step, start, self.x(x).swapaxes(0, 1), reverse=reverse)
        return states.swapaxes(0, 1)


class Bidirectional(nnx.Module):
    def __init__(self, rngs):
        self.forward = Direction(3, 5, rngs)
        self.backward = Direction(3, 7, rngs)
        self.head = nnx.Linear(12, 2, rngs=rngs)

    def __call__(self, x):
        both = self.forward(x, reverse=False), self.backward(x, reverse=True)
        return self.head(jnp.concatenate(both, axis=-1))


@case(
    free=tuple(
        (
            f"{way}/x/kernel/value:1",
            f"{way}/x/bias/value:0",
            f"{way}/h/kernel/value:0",
            f"{way}/h/kernel/value:1",
            f"head/kernel/value:0#{size}",
        )
        for way, size in (("forward", 5), ("backward", 7))
    ),
    frozen={"forward/x/kernel/value:0": "input", "head/bias/value:0": "output"},
    exact=("forward/x/bias/value:0", "backward/x/bias/value:0"),
    layout={"head/kernel/value:0#5": "[5]+7", "head/kernel/value:0#7": "5+[7]"},
)
def bidirectional_nnx():
    graph, params = nnx.split(nnx.eval_shape(lambda: Bidirectional(nnx.Rngs(0))))
    return lambda p, x: nnx.merge(graph, p)(x), filled(params), (normals()(4, 6, 3),)


@case(
    free=(("conv_0/w:2", "conv_0/b:0", "conv_1/w:1", "conv_1/w:2", "conv_1/b:0", "head/w:0"),),
    frozen={"conv_0/w:0": "conv", "conv_0/w:1": "input", "head/w:1": "output"},
    exact=("head/w:0",),
)
def causal_tcn_haiku():
    def model(x, width, out):
        x = hk.Conv1D(width, 3, padding=hk.pad.causal, name="conv_0")(x)
        deep = hk.Conv1D(width, 3, rate=2, padding=hk.pad.causal, name="conv_1")
        x = x + deep(jax.nn.relu(x))
        return hk.Linear(out, name="head")(x[:, -1])

    net = hk.without_apply_rng(hk.transform(model))
    x = normals()(2, 8, 3)
    params = initialised(net.init, jax.random.key(0), x, 5, 4)
    return lambda p, x: net.apply(p, x, *p["head"]["w"].shape), params, (x,)


@case(
    free=(
        ("enter:1", "b:1", "c:0", "skip:0", "leave:0"),
        ("decay:0", "turn:0", "b:0", "c:1"),
    ),
    frozen={"enter:0": "input", "leave:1": "output"},
    exact=("leave:0", "decay:0"),
)
def diagonal_state_space():
    w = normals()

    def fn(params, x):
        x = x @ params["enter"]
        rate = jnp.exp(-jnp.exp(params["decay"]) + 1j * params["turn"])
        driven = jnp.einsum("bld,nd->bln", x.astype(jnp.complex64), params["b"])
        rates = jnp.broadcast_to(rate, driven.shape)

        def join(left, right):
            return left[0] * right[0], left[1] * right[0] + right[1]

        _, states = lax.associative_scan(join, (rates, driven), axis=1)
        y = jnp.einsum("bln,dn->bld", states, params["c"]).real + x * params["skip"]
        return jax.nn.gelu(y) @ params["leave"]

    params = {
        "enter": w(3, 5),
        "decay": w(7),
        "turn": w(7),
        "b": complexes(w, 7, 5),
        "c": complexes(w, 5, 7),
        "skip": w(5),
        "leave": w(5, 2),
    }
    return fn, params, (w(2, 6, 3),)


@case(
    free=(
        ("enter:1", "stack/norm:1", "stack/up:1", "stack/down:2", "leave:0"),
        ("stack/up:2", "stack/bias:1", "stack/down:1"),
    ),
    frozen={
        "stack/up:0": "scan",
        "stack/norm:0": "scan",
        "enter:0": "input",
        "leave:1": "output",
    },
    exact=("stack/down:1",),
)
def scanned_stack():
    w = normals()

    def fn(params, x):
        def block(x, p):
            h = x / jnp.sqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-6) * p["norm"]
            return x + jax.nn.gelu(h @ p["up"] + p["bias"]) @ p["down"], None

        x, _ = lax.scan(block, x @ params["enter"], params["stack"])
        return x @ params["leave"]

    stack = {"norm": w(3, 7), "up": w(3, 7, 11), "bias": w(3, 11), "down": w(3, 11, 7)}
    return fn, {"enter": w(4, 7), "stack": stack, "leave": w(7, 2)}, (w(5, 4),)


class Step(eqx.Module):
    up: eqx.nn.Linear
    down: eqx.nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key)
        self.up = eqx.nn.Linear(3, 5, key=keys[0])
        self.down = eqx.nn.Linear(5, 3, key=keys[1])

    def __call__(self, x):
        return x + self.down(jax.nn.relu(self.up(x)))


@case(
    free=(("up/weight:1", "up/bias:1", "down/weight:2"),),
    frozen={"up/weight:0": "scan", "up/weight:2": "", "down/bias:1": ""},
    exact=("up/bias:1",),
)
def scanned_stack_equinox():
    """The stream is the input and the output, so only the widths within are free."""
    keys = jax.random.split(jax.random.key(0), 4)
    params, static = parted(lambda: eqx.filter_vmap(Step)(keys))

    def fn(params, x):
        def run(x, layer):
            return jax.vmap(eqx.combine(layer, static))(x), None

        return lax.scan(run, x, params)[0]

    return fn, params, (normals()(6, 3),)


@case(
    free=(("enter:1", "a:0", "b:1", "leave:0"), ("a:1", "b:0")),
    frozen={"enter:0": "input", "leave:1": "output"},
    exact=("leave:0", "a:1"),
)
def euler_fori_loop():
    w = normals()

    def fn(params, x):
        def step(_, z):
            return z + 0.1 * jnp.tanh(z @ params["a"]) @ params["b"]

        return lax.fori_loop(0, 5, step, x @ params["enter"]) @ params["leave"]

    return fn, {"enter": w(3, 5), "a": w(5, 7), "b": w(7, 5), "leave": w(5, 2)}, (w(4, 3),)


@case(
    free=(("enter:1", "h:0", "h:1", "b:0", "leave:0"),),
    frozen={"enter:0": "input", "leave:1": "output"},
    exact=("leave:0",),
)
def fixed_point_while():
    w = normals()

    def fn(params, x):
        x = x @ params["enter"] + params["b"]

        def unsettled(state):
            z, last, k = state
            return (jnp.max(jnp.abs(z - last)) > 1e-7) & (k < 200)

        def step(state):
            z, _, k = state
            return jnp.tanh(0.3 * z @ params["h"] + x), z, k + 1

        z, _, _ = lax.while_loop(unsettled, step, (jnp.zeros_like(x), jnp.ones_like(x), 0))
        return z @ params["leave"]

    return fn, {"enter": w(3, 5), "h": w(5, 5), "b": w(5), "leave": w(5, 2)}, (w(4, 3),)
