"""How FEDformer mixes steps in the frequency domain (arXiv 2201.12740, section 3.2).

A block transforms a series, keeps some of its frequencies, and transforms back. Which ones is
drawn when the model is made and is part of its state, like a weight that is never trained: the
indices are gathered and scattered with, along the frequency axis only, and never are constants.

Dimensions: B batch, L length of queries, S of keys, H heads, E width of one head's queries and
keys, V of its values, M and N kept frequencies of queries and keys.
"""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax

from tsjax.models.layers import Heads, parameter
from tsjax.models.spectra import series, spectrum


class Kept(NamedTuple):
    """The frequencies that a block keeps.

    Attributes:
      n_modes: how many.
      spectrum: it chooses from 0 ... spectrum - 1.
      select: ``random``, or ``low``: the lowest ones.
    """

    n_modes: int
    spectrum: int
    select: str


def kept_modes(module: nn.Module, name: str, kept: Kept) -> Array:
    """The kept frequencies, ascending, among the buffers of ``module``: int32 [n_modes]."""

    def draw() -> Array:
        if kept.select == "low":
            return jnp.arange(kept.n_modes, dtype=jnp.int32)
        order = jax.random.permutation(module.make_rng("params"), kept.spectrum)
        return jnp.sort(order[: kept.n_modes]).astype(jnp.int32)

    return module.variable("buffers", name, draw).value


def take(frequencies: Array, modes: Array) -> Array:
    """Frequencies ``modes`` of [B, bins, ...]; zero where the series is too short to have one."""
    return frequencies.at[:, modes].get(mode="fill", fill_value=0)


def place(values: Array, modes: Array, length: int) -> Array:
    """All frequencies of a series of ``length`` steps whose ``modes`` are ``values`` [B, M, ...].

    The others are zero, and values for frequencies that the series does not have are left out.
    """
    empty = jnp.zeros((values.shape[0], length // 2 + 1, *values.shape[2:]), values.dtype)
    return empty.at[:, modes].set(values, mode="drop")


def complex_weight(module: nn.Module, shape: tuple[int, ...], scale: float, like: Array) -> Array:
    """A complex parameter, as two real ones ``real`` and ``imag`` initially in U[0, scale)."""
    init, real = nn.initializers.uniform(scale), like.real.dtype
    parts = (parameter(module, name, init, shape) for name in ("real", "imag"))
    return lax.complex(*(part.astype(real) for part in parts))


def _split_tanh(x: Array) -> Array:
    return lax.complex(jnp.tanh(x.real), jnp.tanh(x.imag))


def _softmax_of_size(x: Array) -> Array:
    return jax.nn.softmax(jnp.abs(x)).astype(x.dtype)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "split": _split_tanh,
    "complex": jnp.tanh,
    "softmax": _softmax_of_size,
}


def complex_einsum(formula: str, x: Array, y: Array) -> Array:
    """``jnp.einsum`` of two complex arrays, in four of real ones.

    These are the same FLOPs, of which a CPU does two to three times as many a second.
    """

    def product(x: Array, y: Array) -> Array:
        return jnp.einsum(formula, x, y)

    real = product(x.real, y.real) - product(x.imag, y.imag)
    return lax.complex(real, product(x.real, y.imag) + product(x.imag, y.real))


def frequency_attention(q: Array, k: Array, activation: str) -> Array:
    """Attention among frequencies (arXiv 2201.12740, section 3.2).

    As published, and unlike the paper's equation, the keys are the values too, and are not
    conjugated.

    Args:
      q: frequencies of the queries [B, M, H, E].
      k: frequencies of the keys [B, N, H, E].
      activation: of the products of a query with all keys: the hyperbolic tangent of their real
        and imaginary parts (``split``) or of the ``complex`` number, or the ``softmax`` over the
        keys of their absolute values.

    Returns:
      The sums of the keys, weighted by the activated products, [B, M, H, E].
    """
    # What is common to both factors goes in front, here and below: a CPU takes half the time.
    q, k = jnp.swapaxes(q, 1, 2), jnp.swapaxes(k, 1, 2)
    weights = ACTIVATIONS[activation](complex_einsum("bhme,bhne->bhmn", q, k))
    return jnp.swapaxes(complex_einsum("bhmn,bhne->bhme", weights, k), 1, 2)


def transform(x: Array, weight: Array) -> Array:
    """A linear map of its own for each frequency: [B, M, H, E] by [H, E, V, M]."""
    x, weight = jnp.transpose(x, (2, 1, 0, 3)), jnp.transpose(weight, (0, 3, 1, 2))
    return jnp.transpose(complex_einsum("hmbe,hmev->hmbv", x, weight), (2, 1, 0, 3))


def in_context(x: Array, context: str) -> Array:
    """[B, L, H, V], or what comes of reading its memory in the order [B, H, V, L] as such."""
    if context == "transposed":
        return x
    return jnp.transpose(x, (0, 2, 3, 1)).reshape(x.shape)


class FourierBlock(nn.Module):
    """Frequency-enhanced block FEB-f: [B, L, H, E] -> [B, L, H, V]; reads the queries only.

    Attributes:
      heads: widths.
      kept: the frequencies.
      init_scale: its weights are drawn from [0, init_scale).
      output_bins: ``read`` or ``lowest``, see :class:`tsjax.models.FEDformerConfig`.
      context: ``transposed`` or ``reread``, see there.
    """

    heads: Heads
    kept: Kept
    init_scale: float
    output_bins: str
    context: str

    @nn.compact
    def __call__(self, q: Array, k: Array | None, v: Array | None) -> Array:
        del k, v
        n_heads, d_keys, d_values, _ = self.heads
        n_modes, length = self.kept.n_modes, q.shape[1]
        modes = kept_modes(self, "modes", self.kept)
        x = take(spectrum(q), modes)
        weight = complex_weight(self, (n_heads, d_keys, d_values, n_modes), self.init_scale, x)
        bins = modes
        if self.output_bins == "lowest":
            bins = self.variable("buffers", "bins", jnp.arange, n_modes, dtype=jnp.int32).value
        y = series(place(transform(x, weight), bins, length), length)
        return in_context(y.astype(q.dtype), self.context)


class FourierCross(nn.Module):
    """Frequency-enhanced attention FEA-f: [B, L, H, E] and [B, S, H, E] -> [B, L, H, V].

    Attributes:
      heads: widths.
      queries: the queries' frequencies.
      keys: the keys' frequencies.
      init_scale: its weights are drawn from [0, init_scale).
      scale: factor on the result.
      activation: see :func:`frequency_attention`.
      context: ``transposed`` or ``reread``, see :class:`tsjax.models.FEDformerConfig`.
    """

    heads: Heads
    queries: Kept
    keys: Kept
    init_scale: float
    scale: float
    activation: str
    context: str

    @nn.compact
    def __call__(self, q: Array, k: Array, v: Array | None) -> Array:
        del v
        n_heads, d_keys, d_values, _ = self.heads
        n_modes, length = self.queries.n_modes, q.shape[1]
        modes = kept_modes(self, "query_modes", self.queries)
        of_q = take(spectrum(q), modes)
        of_k = take(spectrum(k), kept_modes(self, "key_modes", self.keys))
        weight = complex_weight(self, (n_heads, d_keys, d_values, n_modes), self.init_scale, of_q)
        y = transform(frequency_attention(of_q, of_k, self.activation), weight) * self.scale
        y = series(place(y, modes, length), length)
        return in_context(y.astype(q.dtype), self.context)
