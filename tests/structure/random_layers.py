"""What random networks are made of: one small function each, of an array, a number and leaves.

Arrays are [B, L, C], [B, L, H, E] or [B, C]; c is the size of the last axis, d one that is drawn, n
a number that stands in the code of the network. All other sizes are taken from arrays.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import mlir

# What becomes of the places of units whose weights are zero: zero whatever they were; zero if they
# were zero; anything.
ALWAYS, KEEPS, NEVER = "always", "keeps", "never"

VOCABULARY = 5


@dataclass(frozen=True)
class Layer:
    """A function of an array (and of a second one, where ``second``) and of leaves.

    Attributes:
      run: ``run(h, n, *leaves)`` or ``run(g, h, n, *leaves)``.
      leaves: ``leaves(shape, d, n)``: shapes of the leaves, or values.
      when: ``when(shape, n)``: whether it works for an array of this shape.
      zero: see above.
      exact: whether a cut unit leaves no trace here if its places are zero: False for norms and
        whatever else depends on how many units there are.
      reads_zeros: whether places of cut units are summed up, so that they must be zero.
      length: whether axis 1 must be the length.
      lead: number of leading axes that become more (or fewer).
      second: whether it takes two arrays; "same" where they must have one shape, "lead" where they
        agree in all axes but the last; "ids" where the other one is the input of integers.
      random: whether it draws random numbers.
      unknown: name of a primitive without a rule that it applies to its first leaf's output.
      most: n is one of 1 to this.
    """

    run: Callable[..., Any]
    leaves: Callable[..., Any]
    when: Callable[..., bool]
    zero: str
    exact: bool
    reads_zeros: bool
    length: bool
    lead: int
    second: str
    random: bool
    unknown: str
    most: int

    @property
    def name(self) -> str:
        return self.run.__name__


LAYERS: list[Layer] = []


def layer(
    leaves=lambda shape, d, n: (),
    when=lambda shape, n: True,
    zero=ALWAYS,
    exact=True,
    reads_zeros=False,
    length=False,
    lead=0,
    second="",
    random=False,
    unknown="",
    most=4,
    weight=1,
):
    def register(run):
        found = Layer(
            run, leaves, when, zero, exact, reads_zeros, length, lead, second, random, unknown, most
        )
        LAYERS.extend([found] * weight)
        return run

    return register


unary = functools.partial(layer, zero=KEEPS)


def divides(shape, n):
    return shape[-1] % n == 0


def even(shape, n):
    return shape[-1] % 2 == 0


def wide(shape, n):
    return shape[-1] > n


def ranked(*ranks):
    return lambda shape, n: len(shape) in ranks


# Dense layers.


@layer(lambda shape, d, n: ((shape[-1], d),), weight=8)
def linear(h, n, w):
    return h @ w


@layer(lambda shape, d, n: ((shape[-1], d), (d,)), weight=8)
def dense(h, n, w, b):
    return h @ w + b


@layer(lambda shape, d, n: ((d, shape[-1]), (d,)))
def dense_torch(h, n, w, b):
    return jnp.einsum("...c,dc->...d", h, w) + b


@layer(lambda shape, d, n: ((shape[-1], n), (n, d)))
def low_rank(h, n, a, b):
    return h @ (a @ b)


@layer(lambda shape, d, n: ((shape[-1], d), (d, shape[-1])), zero=KEEPS, weight=3)
def residual(h, n, a, b):
    return h + jax.nn.gelu(h @ a) @ b


@layer(lambda shape, d, n: ((shape[-1], d), (d,)))
def weight_norm(h, n, w, g):
    return h @ (w * lax.rsqrt(jnp.square(w).sum(0, keepdims=True) + 1e-3) * g)


@layer(lambda shape, d, n: ((shape[-1], shape[-1]),))
def symmetric(h, n, w):
    return h @ (w + w.T)


@layer(lambda shape, d, n: ((shape[-1], d),))
def tied_transpose(h, n, w):
    return jnp.sin(h @ w) @ w.T


@layer(lambda shape, d, n: ((shape[-1], d + n), (n,)))
def leaf_in_parts(h, n, w, b):
    k = b.shape[0]
    return jnp.tanh(h @ w[:, :k] + b), h @ w[:, k:]


@layer(lambda shape, d, n: ((shape[-1], d + n),))
def leaf_in_literal_parts(h, n, w):
    return h @ w[:, :n], h @ w[:, n:]


@layer(lambda shape, d, n: ((shape[-1], shape[-1]),))
def diagonal(h, n, w):
    return h * jnp.diag(w)


@layer(lambda shape, d, n: ((shape[-1], shape[-1]),))
def masked_by_eye(h, n, w):
    return h @ (w * (1 - jnp.eye(w.shape[0])))


@layer(lambda shape, d, n: ((shape[-1], shape[-1]),))
def triangular(h, n, w):
    return h @ jnp.tril(w)


@layer(lambda shape, d, n: ((shape[-1], d), (shape[-1], d)))
def complex_mix(h, n, a, b):
    z = h @ (a + 1j * b)
    return z.real * z.imag


@layer(lambda shape, d, n: (np.exp(1j * np.arange(shape[-1] * d)).reshape(shape[-1], d),))
def complex_leaf(h, n, w):
    return jnp.abs(h @ w)


@layer(lambda shape, d, n: ((shape[-1],), (shape[-1],)), zero=KEEPS)
def scaled_by_softplus(h, n, a, b):
    return h * jax.nn.softplus(a) + b


@layer(lambda shape, d, n: ((shape[-1],) * 2, (shape[-1], d)))
def bilinear(h, n, w, v):
    return jnp.einsum("...c,...d,cd,ck->...k", h, h, w, v)


@layer(lambda shape, d, n: (np.arange(d) % shape[-1],), zero=NEVER)
def index_leaf(h, n, index):
    return jnp.take(h, index, axis=-1)


@layer(lambda shape, d, n: ((shape[-1], d),))
def energy_gradient(h, n, w):
    return jax.grad(lambda h: jnp.sum(jnp.tanh(h @ w)))(h)


@layer(lambda shape, d, n: ((shape[-1], 2 * d),))
def gate_gradient(h, n, w):
    def energy(h):
        a, b = jnp.split(h @ w, 2, axis=-1)
        return jnp.sum(a * jnp.tanh(b))

    return jax.grad(energy)(h)


@layer(lambda shape, d, n: ((VOCABULARY, d),), second="ids", when=ranked(3), length=True)
def embedded(ids, h, n, table):
    if n % 2:
        return table[ids]
    return jax.nn.one_hot(ids, table.shape[0]) @ table


# Element by element.

ZERO_KEEPING = [
    *(jax.nn.relu, jnp.tanh, jax.nn.gelu, jax.nn.silu, jnp.square, jnp.sin, jnp.abs),
    *(jax.nn.leaky_relu, jnp.sign, lambda h: 2 * h, lambda h: h - lax.stop_gradient(h) / 2),
    *(lambda h: jnp.clip(h, -1, 1), lambda h: jnp.where(h > 0, h, 0.1 * h), jax.nn.soft_sign),
]
OTHERS = [
    *(lambda h: jnp.exp(jnp.tanh(h)), jax.nn.sigmoid, jnp.cos, jax.nn.softplus, lambda h: 1 + h),
    *(lambda h: jnp.where(h > 0, h, -1.0), lambda h: 1 / (1 + jnp.square(h)), jax.nn.relu6),
    *(lambda h: jnp.maximum(h, 0.5), lambda h: lax.erf(h) + jnp.ones(h.shape)),
]


@unary(most=len(ZERO_KEEPING), weight=3)
def activation(h, n):
    return ZERO_KEEPING[n % len(ZERO_KEEPING)](h)


@layer(zero=NEVER, most=len(OTHERS), weight=2)
def shifting_activation(h, n):
    return OTHERS[n % len(OTHERS)](h)


@jax.custom_jvp
def squashed(x):
    return x / (1 + jnp.abs(x))


squashed.defjvp(lambda primals, tangents: (squashed(*primals), tangents[0]))


@jax.custom_vjp
def straight_through(x):
    return jnp.round(4 * x) / 4 + x


straight_through.defvjp(lambda x: (straight_through(x), None), lambda _, g: (g,))


@unary()
def custom_derivatives(h, n):
    return squashed(h) if n % 2 else straight_through(h)


@layer(lambda shape, d, n: ((shape[-1], d), (d, d)))
def remat_and_jit(h, n, a, b):
    wrap = jax.checkpoint if n % 2 else jax.jit
    return wrap(lambda h, a: jnp.tanh(h @ a))(h, a) @ b


# Two arrays.


@layer(second="same", zero=KEEPS, weight=4)
def combined(g, h, n):
    return [jnp.add, jnp.subtract, jnp.multiply, jnp.maximum][n % 4](g, h)


@layer(second="same", zero=KEEPS)
def chosen(g, h, n):
    return jnp.where(h > g, h, g) + g / (1 + jnp.square(h))


@layer(second="lead", zero=KEEPS, weight=4)
def concatenated(g, h, n):
    return jnp.concatenate([g, h] if n % 2 else [g, h, g], axis=-1)


@layer(lambda shape, d, n: ((shape[-1],),), second="lead", zero=KEEPS, weight=2)
def concatenated_and_split(g, h, n, scale):
    joined = jnp.tanh(jnp.concatenate([g, h * scale], axis=-1))
    left, right = jnp.split(joined, [g.shape[-1]], axis=-1)
    return left * 2, right


@layer(second="lead", zero=KEEPS)
def concatenated_and_split_elsewhere(g, h, n):
    joined = jnp.concatenate([g, h], axis=-1)
    return joined[..., :n], joined[..., n:]


@layer(second="same", zero=KEEPS)
def stacked_and_flattened(g, h, n):
    pair = jnp.stack([g, h], axis=-1 - n % 2)
    return pair.reshape(*h.shape[:-1], -1)


@layer(second="lead", zero=KEEPS)
def outer(g, h, n):
    return (g[..., :, None] * h[..., None, :]).reshape(*h.shape[:-1], -1)


@layer(lambda shape, d, n: ((shape[-1], d),), second="same", zero=KEEPS)
def cross_residual(g, h, n, w):
    return jnp.tanh(g) + h @ w @ w.T


@layer(second="same", when=ranked(3), reads_zeros=True, length=True)
def affinity(g, h, n):
    return jnp.einsum("blc,bmc->blm", g, h)


@layer(second="same", when=ranked(3), reads_zeros=True)
def covariance(g, h, n):
    return jnp.einsum("blc,bld->bcd", g, h).sum((1, 2), keepdims=True) * h


# Parts of the channels.


@unary(when=even, weight=2)
def halves(h, n):
    return tuple(jnp.split(h, 2, axis=-1))


@unary(when=even, weight=2)
def gated(h, n):
    a, b = jnp.split(h, 2, axis=-1)
    return a * jax.nn.sigmoid(b)


@unary(when=wide)
def literal_parts(h, n):
    return h[..., :n], h[..., n:]


@unary(when=lambda shape, n: shape[-1] > 1)
def size_halves(h, n):
    return h[..., : h.shape[-1] // 2], h[..., h.shape[-1] // 2 :]


@unary(when=even)
def rotary(h, n):
    a, b = jnp.split(h, 2, axis=-1)
    return h * 0.8 + jnp.concatenate([-b, a], axis=-1) * 0.6


@unary(when=even)
def rotary_interleaved(h, n):
    a, b = h[..., ::2], h[..., 1::2]
    return jnp.stack([a * 0.8 - b * 0.6, b * 0.8 + a * 0.6], axis=-1).reshape(h.shape)


@unary(weight=2)
def copies(h, n):
    times = 1 + n % 3
    if n % 2:
        return jnp.repeat(h, times, axis=-1)
    return jnp.tile(h, (*(1 for _ in h.shape[1:]), times))


@unary(when=wide)
def last_place(h, n):
    return h * h[..., -1:], h[..., -n:]


POSITIONAL = [
    *(lambda h: jnp.cumsum(h, axis=-1), lambda h: jnp.sort(h, axis=-1), lambda h: h[..., ::2]),
    *(lambda h: lax.top_k(h, 1)[0], lambda h: h + jnp.roll(h, 1, axis=-1), lambda h: h[..., ::-1]),
    *(lambda h: jnp.roll(h, 2, axis=-1), lambda h: h * jnp.arange(h.shape[-1])),
    *(lambda h: jnp.pad(h, ((0, 0),) * (h.ndim - 1) + ((1, 0),)), lambda h: h[..., np.array([0])]),
    *(lambda h: jnp.fft.rfft(h, axis=-1).real, lambda h: h[..., 1:] - h[..., :-1]),
    *(lambda h: lax.dynamic_slice_in_dim(h, 0, h.shape[-1] - 1, axis=-1),),
    *(lambda h: jnp.argmax(h, axis=-1, keepdims=True) * h, lambda h: h.at[..., 0].mul(2.0)),
    *(lambda h: lax.cummax(jnp.abs(h), axis=h.ndim - 1), lambda h: jnp.flip(h, -1) * h),
    *(lambda h: jnp.diff(h, axis=-1), lambda h: jnp.take_along_axis(h, jnp.zeros_like(h, int), -1)),
]


@layer(when=lambda shape, n: shape[-1] > 1, zero=NEVER, most=len(POSITIONAL))
def by_position(h, n):
    return POSITIONAL[n % len(POSITIONAL)](h)


@layer(when=lambda shape, n: shape[-1] == n, zero=NEVER, most=6)
def literal_constant(h, n):
    return h + jnp.ones(n)


# Heads.


@layer(lambda shape, d, n: ((shape[-1], n, d),), when=ranked(2, 3), weight=3)
def to_heads(h, n, w):
    return jnp.einsum("...c,che->...he", h, w)


@layer(lambda shape, d, n: ((*shape[-2:], d),), when=ranked(4), weight=3)
def from_heads(h, n, w):
    return jnp.einsum("...he,hed->...d", h, w)


@unary(when=lambda shape, n: len(shape) < 4 and divides(shape, n), weight=2)
def literal_heads(h, n):
    return h.reshape(*h.shape[:-1], n, -1)


@unary(when=lambda shape, n: len(shape) < 4 and divides(shape, n))
def literal_widths(h, n):
    return h.reshape(*h.shape[:-1], -1, n)


@layer(
    lambda shape, d, n: ((n,),),
    when=lambda shape, n: len(shape) < 4 and divides(shape, n),
    zero=KEEPS,
    weight=2,
)
def heads_of_leaf(h, n, scale):
    return h.reshape(*h.shape[:-1], scale.size, -1) * scale[:, None]


@unary(when=ranked(4), weight=3)
def flattened(h, n):
    return h.reshape(*h.shape[:-2], -1)


@unary(when=ranked(4), weight=2)
def heads_last(h, n):
    return jnp.swapaxes(h, -1, -2)


@unary(when=ranked(4), reads_zeros=True)
def sum_of_heads(h, n):
    return h.sum(-2)


@unary(when=ranked(4), exact=False)
def mean_of_heads(h, n):
    return h.mean(-2) if n % 2 else h.max(-2)


@unary(when=ranked(3), exact=False, length=True, lead=-1)
def length_last(h, n):
    return jnp.swapaxes(h, 1, 2)


def attend(q, k, v, scale):
    scores = jnp.einsum("blhe,bmhe->bhlm", q, k) * scale
    scores = jnp.where(jnp.tri(q.shape[1], dtype=bool), scores, -1e9)
    return jnp.einsum("bhlm,bmhe->blhe", jax.nn.softmax(scores), v)


@layer(
    lambda shape, d, n: ((shape[-1], 3, n, 3), (n, 3, d)),
    when=ranked(3),
    length=True,
    weight=2,
)
def attention(h, n, w, o):
    q, k, v = jnp.einsum("blc,cthe->tblhe", h, w)
    return jnp.einsum("blhe,hed->bld", attend(q, k, v, 0.5), o)


@layer(lambda shape, d, n: ((shape[-1], 9 * n), (3 * n, d)), when=ranked(3), length=True)
def attention_of_literal_heads(h, n, w, o):
    q, k, v = (part.reshape(*h.shape[:2], n, -1) for part in jnp.split(h @ w, 3, axis=-1))
    return attend(q, k, v, 0.5).reshape(*h.shape[:2], -1) @ o


@layer(
    lambda shape, d, n: ((shape[-1], 2 * n, 3), (shape[-1], n, 3), (shape[-1], n, 3), (6 * n, d)),
    when=ranked(3),
    length=True,
    exact=False,
)
def grouped_query_attention(h, n, wq, wk, wv, o):
    q, k, v = (jnp.einsum("blc,che->blhe", h, w) for w in (wq, wk, wv))
    k, v = (jnp.repeat(x, q.shape[2] // k.shape[2], axis=2) for x in (k, v))
    return attend(q, k, v, q.shape[-1] ** -0.5).reshape(*h.shape[:2], -1) @ o


# Norms, gates and the like.


@layer(lambda shape, d, n: ((shape[-1],),) * 2, zero=KEEPS, exact=False, weight=2)
def layer_norm(h, n, g, b):
    centred = h - h.mean(-1, keepdims=True)
    return centred * lax.rsqrt(h.var(-1, keepdims=True) + 1e-2) * g + b


@layer(lambda shape, d, n: ((shape[-1],),), exact=False)
def rms_norm(h, n, g):
    return h * lax.rsqrt(jnp.square(h).mean(-1, keepdims=True) + 1e-2) * g


@layer(lambda shape, d, n: ((shape[-1],),) * 4)
def batch_norm(h, n, mean, var, g, b):
    return (h - mean) * lax.rsqrt(jnp.square(var) + 1e-2) * g + b


@layer(lambda shape, d, n: ((shape[-1],),), when=divides, exact=False)
def group_norm(h, n, g):
    x = h.reshape(*h.shape[:-1], n, -1)
    x = (x - x.mean(-1, keepdims=True)) * lax.rsqrt(x.var(-1, keepdims=True) + 1e-2)
    return x.reshape(h.shape) * g


@unary(exact=False)
def softmax_of_channels(h, n):
    return jax.nn.softmax(h, axis=-1)


@unary(exact=False)
def scaled_by_size(h, n):
    return h / h.shape[-1] ** 0.5


@unary(exact=False)
def gated_by_all(h, n):
    return jnp.tanh([jnp.mean, jnp.max, jax.nn.logsumexp][n % 3](h, axis=-1, keepdims=True)) * h


@unary(reads_zeros=True)
def gated_by_sum(h, n):
    return jax.nn.sigmoid(h.sum(-1, keepdims=True)) * h


@layer(lambda shape, d, n: ((shape[-1], 1),), zero=NEVER)
def shifted_by_one_unit(h, n, w):
    return h + h @ w


@unary(exact=False, random=True)
def dropout(h, n):
    keep = jax.random.bernoulli(jax.random.key(n), 0.7, h.shape)
    return jnp.where(keep, h / 0.7, 0.0)


@unary(exact=False, random=True)
def noise_by_length(h, n):
    return h * jax.random.normal(jax.random.key(n), (*h.shape[:-1], 1), h.dtype)


# Along the length.


def convolved(h, kernel, groups, padding="SAME"):
    return lax.conv_general_dilated(
        h,
        kernel,
        (1,),
        padding,
        dimension_numbers=("NWC", "WIO", "NWC"),
        feature_group_count=groups,
    )


three = functools.partial(layer, when=ranked(3), length=True)


@three(lambda shape, d, n: ((3, shape[-1], d), (d,)), weight=2)
def conv(h, n, kernel, b):
    return convolved(h, kernel, 1) + b


@three(lambda shape, d, n: ((2, 1, shape[-1] * (1 + n % 2)),), weight=2)
def conv_depthwise(h, n, kernel):
    return convolved(h, kernel, h.shape[-1])


@layer(
    lambda shape, d, n: ((3, shape[-1] // n, n * d),),
    when=lambda shape, n: len(shape) == 3 and divides(shape, n),
    length=True,
)
def conv_grouped(h, n, kernel):
    return convolved(h, kernel, n)


@unary(length=True, lead=-1)
def pooled(h, n):
    return [jnp.mean, jnp.max, jnp.sum][n % 3](h, axis=1)


@unary(length=True, when=lambda shape, n: len(shape) == 3 and shape[1] > 1)
def windowed(h, n):
    return lax.reduce_window(h, 0.0, lax.add, (1, 2, 1), (1, 1 + n % 2, 1), "VALID")


ALONG = [
    *(lambda h: jnp.cumsum(h, axis=1), lambda h: jnp.flip(h, 1), lambda h: jnp.roll(h, 1, axis=1)),
    *(lambda h: jnp.fft.rfft(h, axis=1).imag, lambda h: h[:, -1:], lambda h: h - h[:, :1]),
    *(lambda h: h[:, ::2], lambda h: jnp.sort(h, axis=1), lambda h: h - h.mean(1, keepdims=True)),
    lambda h: jnp.pad(h, ((0, 0), (1, 1)) + ((0, 0),) * (h.ndim - 2), mode="edge"),
]


@unary(length=True, most=len(ALONG))
def along_length(h, n):
    return ALONG[n % len(ALONG)](h)


@layer(lambda shape, d, n: (shape[1:],), length=True, zero=KEEPS)
def positions(h, n, table):
    return h + table


@layer(lambda shape, d, n: ((shape[1] // 2 + 1, shape[-1], d),) * 2, when=ranked(3), length=True)
def fourier(h, n, a, b):
    spectrum = jnp.einsum("blc,lcd->bld", jnp.fft.rfft(h, axis=1), lax.complex(a, b))
    return jnp.fft.irfft(spectrum, n=h.shape[1], axis=1)


# Control flow.


@three(lambda shape, d, n: ((shape[-1], d), (d, d), (d,)), weight=2)
def rnn(h, n, w, u, start):
    def cell(state, x):
        state = jnp.tanh(x @ w + state @ u)
        return state, state * 2

    start = jnp.broadcast_to(start, (h.shape[0], *start.shape))
    last, states = lax.scan(cell, start, jnp.swapaxes(h, 0, 1))
    return jnp.swapaxes(states, 0, 1) + last[:, None]


@three(lambda shape, d, n: ((shape[-1], 3 * d), (d, 3 * d)))
def gru(h, n, w, u):
    def cell(state, x):
        (r, z, c), (rr, zz, cc) = (jnp.split(y, 3, axis=-1) for y in (x @ w, state @ u))
        z = jax.nn.sigmoid(z + zz)
        state = z * state + (1 - z) * jnp.tanh(c + jax.nn.sigmoid(r + rr) * cc)
        return state, state

    start = jnp.zeros((h.shape[0], u.shape[0]))
    return jnp.swapaxes(lax.scan(cell, start, jnp.swapaxes(h, 0, 1))[1], 0, 1)


@layer(lambda shape, d, n: ((n, shape[-1], d), (n, d, shape[-1])), zero=KEEPS, weight=2)
def stacked_layers(h, n, a, b):
    def block(h, weights):
        up, down = weights
        return h + jnp.tanh(h @ up) @ down, None

    return lax.scan(block, h, (a, b))[0]


@layer(lambda shape, d, n: ((shape[-1], shape[-1]),))
def loop(h, n, w):
    if n % 2:
        return lax.fori_loop(0, n, lambda _, h: jnp.tanh(h @ w), h)
    first = (0, jnp.tanh(h @ w))
    return lax.while_loop(lambda s: s[0] < n, lambda s: (s[0] + 1, jnp.tanh(s[1] @ w)), first)[1]


@layer(lambda shape, d, n: ((shape[-1], d), (shape[-1], n), (n, d)), weight=2)
def branches(h, n, a, b, c):
    # The batch has two places.
    return lax.cond(h.shape[0] * n > 5, lambda h: h @ a, lambda h: jnp.tanh(h @ b) @ c, h)


@layer(lambda shape, d, n: ((shape[-1], d),), zero=KEEPS, second="same")
def traced_branches(g, h, n, w):
    wanted = lax.stop_gradient(h.ravel()[0]) > 0
    return lax.cond(wanted, lambda: h, lambda: g + jnp.tanh(h @ w) @ w.T)


@layer(lambda shape, d, n: ((n, shape[-1], d), (shape[-1], n)))
def experts(h, n, w, gate):
    each = jax.vmap(lambda w: jnp.tanh(h @ w))(w)
    return jnp.einsum("e...d,...e->...d", each, jax.nn.sigmoid(h @ gate))


@layer(lambda shape, d, n: ((n, shape[-1], d), (shape[-1], n)), exact=False)
def mixed_experts(h, n, w, gate):
    each = jax.vmap(lambda w: h @ w, out_axes=-2)(w)
    return (each * jax.nn.softmax(h @ gate)[..., None]).sum(-2)


@layer(lambda shape, d, n: ((n, shape[-1], d), (shape[-1], n)))
def routed_experts(h, n, w, gate):
    chosen = jax.nn.one_hot(jnp.argmax(h @ gate, axis=-1), w.shape[0])
    return jnp.einsum("...c,ecd,...e->...d", h, w, chosen)


# What the analysis knows nothing of.

mystery = Primitive("test_mystery")
mystery.def_impl(lambda x: x * 2)
mystery.def_abstract_eval(lambda x: x)
mlir.register_lowering(mystery, mlir.lower_fun(lambda x: x * 2, multiple_results=False))


@layer(lambda shape, d, n: ((shape[-1], d),), unknown="pure_callback")
def callback(h, n, w):
    h = h @ w
    return jax.pure_callback(np.tanh, jax.ShapeDtypeStruct(h.shape, h.dtype), h)


@layer(lambda shape, d, n: ((shape[-1], d),), unknown="test_mystery")
def unknown_primitive(h, n, w):
    return mystery.bind(h @ w)
