"""Layers that several of the models share.

Dimensions: B batch, L length (queries), S length (keys), C channels, F time marks, D model width,
H heads, E head width (V where values have their own).

Kernels keep heads and head widths as axes of their own: masks, dependency groups and slices can
then address them one by one.
"""

import contextvars
import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from tsjax.models.dropout import dropout
from tsjax.models.initializers import kaiming_normal, torch_uniform

MARKS = {"s": 6, "t": 5, "h": 4, "d": 3, "b": 3, "w": 2, "m": 1, "a": 1}
"""Columns of ``timeF`` marks by sampling frequency (second, minute, hour, ...)."""

LOOK_UPS = {"month": 13, "day": 32, "weekday": 7, "hour": 24, "minute": 4}
"""Rows of the ``fixed`` and ``learned`` embeddings' tables, in the order of the mark columns."""

EMBEDS = ("timeF", "fixed", "learned")


def activation(name: str) -> Callable[[Array], Array]:
    """``"relu"`` or ``"gelu"``, which is the exact one (erf)."""
    return jax.nn.relu if name == "relu" else gelu


def gelu(x: Array) -> Array:
    """``x (1 + erf(x / sqrt 2)) / 2``, the exact GELU (arXiv 1606.08415, section 2).

    In PyTorch's form; ``jax.nn.gelu`` is written with erfc, which takes a CPU about half as long
    again.
    """
    half, one, root = (np.asarray(n, x.dtype) for n in (0.5, 1, np.sqrt(0.5)))
    return lax.mul(lax.mul(half, x), lax.add(one, lax.erf(lax.mul(x, root))))


def mark_dim(embed: str, freq: str) -> int:
    """Number of time-mark columns that an embedding expects."""
    if embed == "timeF":
        return MARKS[freq]
    return 5 if freq == "t" else 4


shapes_only = contextvars.ContextVar("shapes_only", default=False)
"""Whether parameters are made for their shapes alone. They are not drawn then: tracing the draws
takes much of the time."""


def parameter(
    module: nn.Module, name: str, init: Callable[..., Array], shape: tuple[int, ...]
) -> Array:
    """Gets a parameter of ``module``, or makes it, in float32.

    It does what ``module.param`` does in less time. To check the shape of a parameter that exists,
    linen traces its initialiser, which is half of the time that tracing a model takes. Here its
    shape is compared with ``shape``.

    Raises:
      flax.errors.ScopeParamShapeError: if the parameter exists and has another shape.
    """
    if not module.has_variable("params", name):
        if shapes_only.get():
            module.put_variable("params", name, jnp.zeros(shape, jnp.float32))
        else:
            module.param(name, init, shape, jnp.float32)
    value: Array = module.get_variable("params", name)
    if value.shape != shape:
        scope = "/".join(module.path)
        raise flax.errors.ScopeParamShapeError(name, f"/{scope}", value.shape, shape)
    return value


class LayerNorm(nn.Module):
    """Layer normalisation (arXiv 1607.06450, eq. 4) with torch's epsilon, 1e-5.

    Mean and variance are taken in float32 at least, as in linen's layer, which takes longer to
    trace.

    Attributes:
      axes: how many trailing axes are normalised over; scale and bias have them too.
    """

    axes: int = 1

    @nn.compact
    def __call__(self, x: Array) -> Array:
        axes = tuple(range(x.ndim - self.axes, x.ndim))
        shape = x.shape[axes[0] :]
        scale = parameter(self, "scale", nn.initializers.ones, shape)
        bias = parameter(self, "bias", nn.initializers.zeros, shape)
        dtype = jnp.result_type(x, scale, bias)
        wide = jnp.promote_types(dtype, jnp.float32)
        x = x.astype(wide)
        count = np.asarray(math.prod(shape), wide)

        def mean(y: Array) -> Array:
            return lax.div(lax.expand_dims(lax.reduce_sum(y, axes), axes), count)

        centred = lax.sub(x, mean(x))
        deviation = lax.rsqrt(lax.add(mean(lax.square(centred)), np.asarray(1e-5, wide)))
        y = lax.mul(lax.mul(centred, deviation), leading(scale.astype(wide), x.ndim))
        return lax.add(y, leading(bias.astype(wide), x.ndim)).astype(dtype)


def leading(x: Array, ndim: int) -> Array:
    """``x`` with axes of size one in front, so that it has ``ndim`` axes."""
    return lax.expand_dims(x, range(ndim - x.ndim))


class Linear(nn.Module):
    """Contracts the last ``in_axes`` axes of the input with a kernel ``[*in, *features]``.

    Attributes:
      features: widths of the output axes, e.g. ``(H, E)``.
      in_axes: how many trailing axes of the input are contracted.
      use_bias: whether to add a bias ``[*features]``.
    """

    features: tuple[int, ...]
    in_axes: int = 1
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        in_shape = x.shape[x.ndim - self.in_axes :]
        init = torch_uniform(math.prod(in_shape))
        kernel = parameter(self, "kernel", init, (*in_shape, *self.features))
        dtype = jnp.result_type(x, kernel)
        # All leading axes become one. With several, a CPU computes the kernel's gradient from
        # transposed copies of all that it depends on, which takes up to twice as long.
        lead = x.shape[: x.ndim - self.in_axes]
        rows = lax.reshape(x.astype(dtype), (math.prod(lead), *in_shape))
        contracted = tuple(range(1, rows.ndim)), tuple(range(self.in_axes))
        y = lax.dot_general(rows, kernel.astype(dtype), (contracted, ((), ())))
        y = lax.reshape(y, (*lead, *self.features))
        if self.use_bias:
            bias = parameter(self, "bias", init, self.features)
            dtype = jnp.result_type(y, bias)
            y = lax.add(y.astype(dtype), leading(bias.astype(dtype), y.ndim))
        return y


def sinusoids(length: int, width: int) -> np.ndarray:
    """The positional table of Vaswani et al. (arXiv 1706.03762, section 3.5), [length, width].

    As the reference does, frequencies and angles are rounded to float32, which matters in late
    rows; where its exponential rounds the other way, row ``l`` differs by up to
    ``(l + 1) * 2**-23``. A table loaded from a checkpoint is kept as it is.
    """
    exponents = np.arange(0, width, 2, dtype=np.float32) * np.float32(-math.log(1e4) / width)
    frequencies = np.exp(exponents.astype(np.float64)).astype(np.float32)
    angle = (np.arange(length, dtype=np.float32)[:, None] * frequencies).astype(np.float64)
    table = np.zeros((length, width))
    table[:, 0::2] = np.sin(angle)
    table[:, 1::2] = np.cos(angle)[:, : width // 2]
    return table


def _float32_sinusoids(length: int, width: int) -> Array:
    return jnp.asarray(sinusoids(length, width), jnp.float32)


class TimeEmbedding(nn.Module):
    """Embeds time marks: a bias-free projection (``timeF``) or a sum of look-ups.

    ``fixed`` tables are sinusoids kept among the buffers, ``learned`` ones are parameters.
    Input [B, L, F], output [B, L, D].
    """

    d_model: int
    embed: str
    freq: str

    @nn.compact
    def __call__(self, marks: Array) -> Array:
        if self.embed == "timeF":
            return Linear((self.d_model,), use_bias=False, name="projection")(marks)
        count = mark_dim(self.embed, self.freq)
        if marks.shape[-1] < count:
            raise ValueError(
                f"embed={self.embed!r} with freq={self.freq!r} needs {count} mark columns "
                f"({', '.join([*LOOK_UPS][:count])}), got {marks.shape[-1]}"
            )
        # Further columns are ignored, as in the reference.
        columns = jnp.moveaxis(marks[..., :count], -1, 0).astype(jnp.int32)
        look_ups = zip([*LOOK_UPS.items()][:count], columns, strict=True)
        rows = [self._look_up(name, size, index) for (name, size), index in look_ups]
        return functools.reduce(jnp.add, rows)

    def _look_up(self, name: str, size: int, index: Array) -> Array:
        if self.embed == "learned":
            init = nn.initializers.normal(1.0)
            return nn.Embed(size, self.d_model, embedding_init=init, name=name)(index)
        return self.variable("buffers", name, _float32_sinusoids, size, self.d_model).value[index]


class DataEmbedding(nn.Module):
    """Value + time + position, then dropout: [B, L, C] and [B, L, F] -> [B, L, D].

    Values pass a bias-free convolution over time with kernel 3 and circular padding. The positional
    table is a buffer ``[max_len, D]``, not a constant: it travels with the model through
    checkpoints and slicing. With ``max_len`` None there is none.
    """

    d_model: int
    embed: str
    freq: str
    dropout: float
    max_len: int | None

    @nn.compact
    def __call__(self, x: Array, marks: Array, *, train: bool) -> Array:
        y = nn.Conv(
            self.d_model,
            (3,),
            padding="CIRCULAR",
            use_bias=False,
            kernel_init=kaiming_normal(3 * x.shape[-1]),
            name="value",
        )(x)
        y = y + TimeEmbedding(self.d_model, self.embed, self.freq, name="time")(marks).astype(
            y.dtype
        )
        if self.max_len is not None:
            table = position_table(self, self.max_len, self.d_model)
            y = y + table[None, : x.shape[1]].astype(y.dtype)
        return dropout(self.dropout, train=train)(y)


def position_table(module: nn.Module, rows: int, width: int) -> Array:
    """A positional table [rows, width] among the buffers of ``module``."""
    return module.variable("buffers", "position", _float32_sinusoids, rows, width).value


class FeedForward(nn.Module):
    """Position-wise feed-forward block, dropout after each projection: [..., D] -> [..., D]."""

    d_ff: int
    dropout: float
    activation: str
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        drop = dropout(self.dropout, train=train)
        y = Linear((self.d_ff,), use_bias=self.use_bias, name="up")(x)
        y = drop(activation(self.activation)(y))
        return drop(Linear((x.shape[-1],), use_bias=self.use_bias, name="down")(y))


class Heads(NamedTuple):
    """Sizes of one attention block.

    Attributes:
      n_heads: H.
      d_keys: E, width of one head's queries and keys.
      d_values: V, width of one head's values.
      scale: what the logits are multiplied by; None for the block's own default.
    """

    n_heads: int
    d_keys: int
    d_values: int
    scale: float | None = None


Mix = Callable[[Array, Array, Array], Array]
"""``mix(q, k, v)``: [B, L, H, E], [B, S, H, E] and [B, S, H, V] -> the context [B, L, H, V]."""


def attend(
    q: Array,
    k: Array,
    v: Array,
    *,
    scale: float | None = None,
    causal: bool = False,
    drop: Callable[[Array], Array] = lambda x: x,
) -> Array:
    """Scaled dot-product attention (arXiv 1706.03762, eq. 1) over all heads.

    Args:
      q: queries [..., L, H, E].
      k: keys [..., S, H, E].
      v: values [..., S, H, V].
      scale: factor on the logits; None for ``1 / sqrt(E)``.
      causal: whether position l sees positions <= l only.
      drop: dropout on the attention weights [..., H, L, S].

    Returns:
      The context [..., L, H, V].
    """
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    # Heads go in front of the steps, and the weights are normalised in the context, not one by
    # one: a CPU then takes less than half the time of two einsums around a softmax.
    q, k, v = (jnp.swapaxes(x, -2, -3) for x in (q * np.asarray(scale, q.dtype), k, v))
    logits = q @ jnp.swapaxes(k, -1, -2)
    if causal:
        seen = np.tri(*logits.shape[-2:], dtype=np.bool_)
        logits = jnp.where(leading(jnp.asarray(seen), logits.ndim), logits, -jnp.inf)
    weights = jnp.exp(logits - lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True)))
    # Before it is divided, the context of a long series may be more than 16-bit floats hold.
    wide = jnp.promote_types(weights.dtype, jnp.float32)
    context = jnp.matmul(drop(weights), v, preferred_element_type=wide)
    context = context / jnp.sum(weights, axis=-1, keepdims=True, dtype=wide)
    return jnp.swapaxes(context.astype(jnp.result_type(weights, v)), -2, -3)


class Attention(nn.Module):
    """The projections around a way to mix steps, such as :func:`attend`.

    Attributes:
      heads: sizes; its ``n_heads``, ``d_keys`` and ``d_values`` are the kernels' axes.
      d_out: width of the result; None for that of the queries.
      projections: which of query, key and value there are; ``mix`` gets None for the others.
    """

    heads: Heads
    d_out: int | None = None
    projections: str = "qkv"

    @nn.compact
    def __call__(self, queries: Array, memory: Array, mix: Callable[..., Array]) -> Array:
        """[..., L, D] attends to [..., S, D']; returns [..., L, d_out]."""
        n, d_keys, d_values, _ = self.heads
        parts = (("query", queries, d_keys), ("key", memory, d_keys), ("value", memory, d_values))
        q, k, v = (
            Linear((n, width), name=name)(x) if name[0] in self.projections else None
            for name, x, width in parts
        )
        d_out = queries.shape[-1] if self.d_out is None else self.d_out
        return Linear((d_out,), in_axes=2, name="out")(mix(q, k, v))


def full_attention(scale: float | None, rate: float, *, causal: bool = False, train: bool) -> Mix:
    """:func:`attend` with dropout on its weights, for an :class:`Attention` of this module."""
    drop = dropout(rate, train=train)
    return functools.partial(attend, scale=scale, causal=causal, drop=drop)
