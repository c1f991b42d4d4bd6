"""How FEDformer mixes steps in the frequency domain (arXiv 2201.12740, section 3.2).

A block transforms a series, keeps some of its frequencies, and transforms back. Which frequencies
it keeps is drawn when the model is made. They are part of its state, like a weight that is never
trained, and not constants of the program: the indices look up rows of the transforms' matrices.

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
from tsjax.models.spectra import Parts, parts_of, series_of, spectrum_at


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


def complex_weight(
    module: nn.Module, shape: tuple[int, ...], scale: float, dtype: jnp.dtype
) -> Parts:
    """A complex parameter, two real ones ``real`` and ``imag`` initially in U[0, scale)."""
    init = nn.initializers.uniform(scale)
    real, imag = (parameter(module, name, init, shape) for name in ("real", "imag"))
    return Parts(real.astype(dtype), imag.astype(dtype))


def _split_tanh(x: Parts) -> Parts:
    return Parts(jnp.tanh(x.real), jnp.tanh(x.imag))


def _complex_tanh(x: Parts) -> Parts:
    return parts_of(jnp.tanh(lax.complex(*x)))


def _softmax_of_size(x: Parts) -> Parts:
    y = lax.complex(*x)
    return parts_of(jax.nn.softmax(jnp.abs(y)).astype(y.dtype))


ACTIVATIONS: dict[str, Callable[[Parts], Parts]] = {
    "split": _split_tanh,
    "complex": _complex_tanh,
    "softmax": _softmax_of_size,
}


def complex_einsum(formula: str, x: Parts, y: Parts) -> Parts:
    """``jnp.einsum`` of two complex arrays, as four of real ones.

    The FLOPs are the same, and a CPU does two to three times as many of them a second.
    """

    def product(x: Array, y: Array) -> Array:
        return jnp.einsum(formula, x, y)

    real = product(x.real, y.real) - product(x.imag, y.imag)
    return Parts(real, product(x.real, y.imag) + product(x.imag, y.real))


def frequency_attention(q: Parts, k: Parts, activation: str) -> Parts:
    """Attention among frequencies (arXiv 2201.12740, section 3.2).

    As published, and unlike the paper's equation, the keys are the values too, and are not
    conjugated.

    Args:
      q: frequencies of the queries [M, B, H, E].
      k: frequencies of the keys [N, B, H, E].
      activation: of the products of a query with all keys: the hyperbolic tangent of their real
        and imaginary parts (``split``) or of the ``complex`` number, or the ``softmax`` over the
        keys of their absolute values.

    Returns:
      The sums of the keys, weighted by the activated products, [M, B, H, E].
    """
    # The axes that both factors have go in front, here and below: a CPU takes half the time.
    q, k = q.transpose(1, 2, 0, 3), k.transpose(1, 2, 0, 3)
    weights = ACTIVATIONS[activation](complex_einsum("bhme,bhne->bhmn", q, k))
    return complex_einsum("bhmn,bhne->bhme", weights, k).transpose(2, 0, 1, 3)


def transform(x: Parts, weight: Parts) -> Parts:
    """A linear map of its own for each frequency: [M, B, H, E] by [H, E, V, M]."""
    x, weight = x.transpose(2, 0, 1, 3), weight.transpose(0, 3, 1, 2)
    return complex_einsum("hmbe,hmev->hmbv", x, weight).transpose(1, 2, 0, 3)


def in_context(x: Array, context: str) -> Array:
    """[B, L, H, V] as it is, or ``reread``: its memory in the order [B, H, V, L], taken for it."""
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
        x = spectrum_at(q, modes)
        shape = (n_heads, d_keys, d_values, n_modes)
        weight = complex_weight(self, shape, self.init_scale, x.real.dtype)
        bins = modes
        if self.output_bins == "lowest":
            bins = self.variable("buffers", "bins", jnp.arange, n_modes, dtype=jnp.int32).value
        y = series_of(transform(x, weight), bins, length)
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
        of_q = spectrum_at(q, modes)
        of_k = spectrum_at(k, kept_modes(self, "key_modes", self.keys))
        shape = (n_heads, d_keys, d_values, n_modes)
        weight = complex_weight(self, shape, self.init_scale, of_q.real.dtype)
        attended = frequency_attention(of_q, of_k, self.activation)
        y = series_of(transform(attended, weight), modes, length) * self.scale
        return in_context(y.astype(q.dtype), self.context)
