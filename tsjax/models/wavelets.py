"""How FEDformer mixes steps with multiwavelets (arXiv 2201.12740, section 3.3).

Steps are halved level by level into a smooth part and details, by the Legendre multiwavelets of
Gupta et al. (arXiv 2109.13459); the parts are mixed on each level in the frequency domain, and put
together again.

Dimensions: B batch, L length of queries, S of keys, N steps of one level, H heads, E width of one
head's queries and keys, V of its values, C wavelet channels, K Legendre polynomials.
"""

import functools
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from tsjax.models.fourier import complex_einsum, complex_weight, frequency_attention
from tsjax.models.layers import Heads, Linear
from tsjax.models.spectra import Parts, parts_of, series, spectrum


@functools.cache
def legendre_filters(order: int) -> tuple[np.ndarray, np.ndarray]:
    """Filters of the Legendre multiwavelets, in float64.

    Scaling functions are the first K orthonormal Legendre polynomials on [0, 1], ``phi``. With
    them, squeezed into the left and the right half, as a basis, row i of the smooth filter holds
    the coefficients of ``phi_i``. The rows of the detail filter span what the smooth ones leave of
    that basis: Gram-Schmidt of the left half's functions, in their order.

    The reference does the same with coefficients of monomials, and loses all digits on the way: for
    K = 8 its last detail rows are off by up to 0.4, and differ from machine to machine. These here
    are orthonormal for all presets; a checkpoint brings its own.

    Args:
      order: K.

    Returns:
      ``(smooth, detail)``, each [K, 2, K]: function, half, basis function of that half.
    """
    points, weights = np.polynomial.legendre.leggauss(order)
    points, weights = (points + 1) / 2, weights / 2
    scale = np.sqrt(2 * np.arange(order) + 1)

    def phi(x: np.ndarray) -> np.ndarray:
        return np.polynomial.legendre.legvander(2 * x - 1, order - 1) * scale

    halves = [phi((points + half) / 2).T * weights @ phi(points) for half in (0, 1)]
    smooth = np.concatenate(halves, axis=1) / np.sqrt(2)
    left = np.eye(2 * order, order)
    basis, triangle = np.linalg.qr(np.concatenate([smooth.T, left], axis=1))
    detail = (basis * np.sign(np.diag(triangle))).T[order:]
    return smooth.reshape(order, 2, order), detail.reshape(order, 2, order)


class Filters(NamedTuple):
    """Analysis filters [2, K, K] (even and odd steps in), synthesis ones (smooth and detail in)."""

    smooth: Array
    detail: Array
    even: Array
    odd: Array


def filter_tables(order: int) -> dict[str, np.ndarray]:
    """The fields of :class:`Filters` as numpy arrays, with zeros for what is only rounding."""
    smooth, detail = (np.where(abs(f) < 1e-8, 0, f) for f in legendre_filters(order))
    both = np.stack([smooth, detail])
    return {
        "smooth": smooth.transpose(1, 2, 0),
        "detail": detail.transpose(1, 2, 0),
        "even": both[:, :, 0],
        "odd": both[:, :, 1],
    }


def stored_filters(module: nn.Module, order: int, dtype: jnp.dtype) -> Filters:
    """Filters among the buffers of ``module``, kept in float32 as PyTorch does."""

    def stored(name: str, table: np.ndarray) -> Array:
        buffer = module.variable("buffers", name, jnp.asarray, table, jnp.float32)
        return buffer.value.astype(dtype)

    return Filters(**{name: stored(name, table) for name, table in filter_tables(order).items()})


def halve(x: Array, filters: Filters) -> tuple[Array, Array]:
    """One level down: [B, 2 N, C, K] -> (detail, smooth), each [B, N, C, K]."""
    b, n, c, k = x.shape
    pairs = x.reshape(b, n // 2, 2, c, k)
    detail, smooth = (
        jnp.einsum("bnpck,pkj->bncj", pairs, table) for table in (filters.detail, filters.smooth)
    )
    return detail, smooth


def double(detail: Array, smooth: Array, filters: Filters) -> Array:
    """The inverse of :func:`halve`."""
    b, n, c, k = smooth.shape
    parts = jnp.stack([smooth, detail], axis=2)
    steps = [jnp.einsum("bnpck,pkj->bncj", parts, table) for table in (filters.even, filters.odd)]
    return jnp.stack(steps, axis=2).reshape(b, 2 * n, c, k)


def levels(length: int) -> int:
    """How often a series is halved: ``log2(length)``, rounded down."""
    return length.bit_length() - 1


def wrap(x: Array) -> Array:
    """Appends the first steps of [B, L, ...] up to the next power of two."""
    return jnp.concatenate([x, x[:, : padded_length(x.shape[1]) - x.shape[1]]], axis=1)


def padded_length(length: int) -> int:
    """The smallest power of two that is not below ``length``."""
    return 1 << (length - 1).bit_length()


def series_of_lowest(frequencies: Parts, length: int) -> Array:
    """The series [B, length, ...] of which only the lowest frequencies [B, M, ...] are not zero."""
    lowest = lax.complex(*frequencies)
    missing = length // 2 + 1 - lowest.shape[1]
    rest = ((0, 0),) * (lowest.ndim - 2)
    return series(jnp.pad(lowest, ((0, 0), (0, missing), *rest)), length)


class SparseKernel(nn.Module):
    """A linear map of its own for each of the lowest ``alpha`` frequencies, on [B, N, C, K]."""

    alpha: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        _, n, c, k = x.shape
        frequencies = spectrum(x)[:, : self.alpha]
        shape = (c, k, c, k, self.alpha)
        weight = complex_weight(self, shape, (c * k) ** -2, frequencies.real.dtype)
        weight = Parts(*(part[..., : frequencies.shape[1]] for part in weight))
        y = complex_einsum("bmck,ckdjm->bmdj", parts_of(frequencies), weight)
        return series_of_lowest(y, n).astype(x.dtype)


class WaveletBlock(nn.Module):
    """Wavelet-enhanced block FEB-w: [B, L, H, V] -> [B, L, H, V]; reads the values only.

    Attributes:
      heads: widths.
      channels: C.
      order: K.
      alpha: frequencies that each level keeps.
      skip: how many of the coarsest levels are left out.
    """

    heads: Heads
    channels: int
    order: int
    alpha: int
    skip: int

    @nn.compact
    def __call__(self, q: Array | None, k: Array | None, v: Array) -> Array:
        del q, k
        length = v.shape[1]
        filters = stored_filters(self, self.order, v.dtype)
        a, b, c = (
            SparseKernel(self.alpha, name=name)
            for name in ("detail_to_detail", "smooth_to_detail", "detail_to_smooth")
        )
        x = wrap(Linear((self.channels, self.order), in_axes=2, name="value")(v))
        mixed = []
        for _ in range(levels(length) - self.skip):
            detail, x = halve(x, filters)
            mixed.append((a(detail) + b(x), c(detail)))
        if not mixed:
            # A series this short has no use for the kernels. As published, they exist all the same.
            for kernel in (a, b, c):
                kernel(x)
        x = Linear((self.order,), name="coarsest")(x)
        for detail, smooth in reversed(mixed):
            x = double(detail, x + smooth, filters)
        out = Linear((self.heads.n_heads, self.heads.d_values), in_axes=2, name="out")
        return out(x[:, :length])


def low_attention(q: Array, k: Array, *, modes: int, activation: str, scale: float) -> Array:
    """:func:`frequency_attention` among the lowest frequencies, within each polynomial.

    Args:
      q: queries [B, N, C, K].
      k: keys [B, N, C, K].
      modes: at most so many frequencies are kept, and at most ``N // 2``.
      activation: see :func:`frequency_attention`.
      scale: factor on the result.

    Returns:
      [B, N, C, K].
    """
    length = q.shape[1]
    count = min(length // 2, modes)
    if count == 0:
        return jnp.zeros_like(q)
    of_q, of_k = (parts_of(spectrum(x)[:, :count]).transpose(1, 0, 3, 2) for x in (q, k))
    y = frequency_attention(of_q, of_k, activation).transpose(1, 0, 3, 2)
    return (series_of_lowest(y, length) * scale).astype(q.dtype)


class WaveletCross(nn.Module):
    """Wavelet-enhanced attention FEA-w: [B, L, H, E] and [B, S, H, E] -> [B, L, H, V].

    Attributes:
      heads: widths.
      channels: C.
      order: K.
      modes: see :func:`low_attention`.
      scale: factor on the result of each attention.
      activation: see :func:`frequency_attention`.
      dead: whether to have the projections that nothing reads.
    """

    heads: Heads
    channels: int
    order: int
    modes: int
    scale: float
    activation: str
    dead: bool

    @nn.compact
    def __call__(self, q: Array, k: Array, v: Array | None) -> Array:
        length = q.shape[1]
        filters = stored_filters(self, self.order, q.dtype)
        project = functools.partial(Linear, (self.channels, self.order), in_axes=2)
        q, k = project(name="query")(q), project(name="key")(k)
        if self.dead:
            project(name="value")(v)
            Linear((self.order,), name="coarsest")(q)
        missing = max(length - k.shape[1], 0)
        k = jnp.pad(k[:, :length], ((0, 0), (0, missing), (0, 0), (0, 0)))
        x = self._mixed(wrap(q), wrap(k), levels(length), filters)
        out = Linear((self.heads.n_heads, self.heads.d_values), in_axes=2, name="out")
        return out(x[:, :length])

    def _mixed(self, q: Array, k: Array, count: int, filters: Filters) -> Array:
        attend = functools.partial(
            low_attention, modes=self.modes, activation=self.activation, scale=self.scale
        )
        mixed = []
        for _ in range(count):
            (detail_q, q), (detail_k, k) = halve(q, filters), halve(k, filters)
            smooth = attend(detail_q, detail_k)
            mixed.append((smooth + attend(q, k), smooth))
        x = attend(q, k)
        for detail, smooth in reversed(mixed):
            x = double(detail, x + smooth, filters)
        return x
