"""Autoformer (Wu et al., NeurIPS 2021, arXiv 2106.13008).

Season and trend are taken apart in every layer (:mod:`tsjax.models.decomposition`), and attention
is replaced by auto-correlation: the series is shifted by the lags at which it resembles itself
most, and the shifted copies are averaged.

Dimensions: B batch, L length of queries, S of keys, H heads, E head width, V value width.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from tsjax.models.decomposition import STUDY_AVERAGES, DecompositionConfig, Mixes, encode_decode
from tsjax.models.layers import Heads
from tsjax.models.spectra import series, spectrum

LAGS = ("all", "even_length")


@dataclasses.dataclass(frozen=True)
class AutoformerConfig(DecompositionConfig):
    """Sizes of an :class:`Autoformer`; the defaults are the published study's.

    Attributes:
      factor: ``int(factor * log(length))`` lags are kept.
      lags: ``all`` lags of the series, as its authors have it, or as in Time-Series-Library those
        of an ``even_length``: an odd length L is treated as L - 1 when going back from frequencies
        to lags, which reads the last frequency wrongly. For even lengths both are the same.
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
        {
            "corrected": {},
            "tslib": {"lags": "even_length"},
            "paper": {"lags": "even_length"} | STUDY_AVERAGES,
        }
    )
    # All heads share the lags and their weights: the values could have any number of heads.
    loose: ClassVar[Mapping[str, tuple[str, ...]]] = MappingProxyType(
        {r"attention/value/kernel$": ("n_heads",)}
    )

    factor: int = 3
    lags: str = "all"

    def problems(self) -> list[str]:
        """Says what is wrong with the sizes, one sentence each."""
        found = super().problems()
        found += self.below(1, "factor") + self.outside("lags", LAGS)
        return found

    def scales(self) -> dict[str, tuple[float, ...]]:
        """``1 / (n_heads d_keys)`` for each block, which makes correlations a mean."""
        return {
            "attention_scale": tuple(
                1 / (block.n_heads * block.d_keys) if block.scale is None else block.scale
                for block in self.heads
            )
        }


def auto_correlation(
    q: Array, k: Array, v: Array, *, factor: int, lags: str, scale: float | None, train: bool
) -> Array:
    """Averages the values over the most similar lags (arXiv 2106.13008, eq. 5 to 7).

    In evaluation each sample has lags of its own. In train mode, as published, all samples of a
    batch share those whose correlation is largest in the mean, each with weights of its own; the
    output then depends on the batch.

    Args:
      q: queries [B, L, H, E].
      k: keys [B, S, H, E]; cut to L steps, or filled up with zeros.
      v: values [B, S, H, V], likewise.
      factor: ``int(factor * log(L))`` lags are kept.
      lags: see :class:`AutoformerConfig`.
      scale: factor on the correlations summed over heads and their width; None for ``1 / (H E)``,
        their mean.
      train: whether the batch shares its lags.

    Returns:
      The context [B, L, H, V].
    """
    length = q.shape[1]
    scale = 1 / (q.shape[2] * q.shape[3]) if scale is None else scale
    correlation = correlations(q, k[:, :length]) * scale
    points = length if lags == "all" else max(2 * (length // 2), 1)
    if points != length:
        correlation = series(spectrum(correlation)[:, : points // 2 + 1], points)
    correlation = correlation.astype(q.dtype)
    count = min(max(int(factor * math.log(length)), 1), points)
    shares = jnp.zeros((q.shape[0], length), q.dtype)
    if train:
        _, chosen = jax.lax.top_k(jnp.mean(correlation, axis=0), count)
        weights = jax.nn.softmax(correlation[:, chosen])
        shares = shares.at[:, chosen].set(weights, unique_indices=True)
    else:
        best, chosen = jax.lax.top_k(correlation, count)
        shares = jax.vmap(_placed)(shares, chosen, jax.nn.softmax(best))
    return _shifted_mean(shares, v[:, :length])


def correlations(q: Array, k: Array) -> Array:
    """The sum over t of ``q[:, (t + lag) mod L] . k[:, t]``, k being zero beyond S (eq. 6).

    Every step is multiplied with every step, and the products of each lag are added up. The paper
    goes by way of frequencies, which grows with L log L in place of L squared. On a CPU that takes
    up to twice as long for 150 steps and as long for 400; it would be the quicker way for 800.

    Args:
      q: [B, L, H, E].
      k: [B, S, H, E], S at most L.

    Returns:
      [B, L], by lag, in at least 32-bit floats.
    """
    batch, length = q.shape[:2]
    q, k = (
        x.reshape(*x.shape[:2], -1).astype(jnp.promote_types(x.dtype, jnp.float32)) for x in (q, k)
    )
    # A GPU's default precision would tell lags apart less exactly than Fourier transforms do.
    products = jnp.matmul(k, jnp.swapaxes(q, 1, 2), precision=jax.lax.Precision.HIGHEST)
    # All rows stand in one line, each of them twice. Cut into rows that are one longer, row t
    # begins t steps further to the left, and the products of one lag are in one column.
    rows = jnp.concatenate([products, products], axis=2).reshape(batch, -1)
    rows = jnp.pad(rows, ((0, 0), (0, k.shape[1]))).reshape(batch, k.shape[1], -1)
    return jnp.sum(rows[:, :, :length], axis=1)


def _placed(shares: Array, chosen: Array, weights: Array) -> Array:
    return shares.at[chosen].set(weights, unique_indices=True)


def _shifted_mean(shares: Array, v: Array) -> Array:
    """The sum over lags of ``shares[:, lag] * v[:, (t + lag) mod L]``, v being zero beyond S.

    It is computed as a product with a circulant matrix for each sample. That is more arithmetic
    than to shift the values once for each lag that has a share. But a CPU takes no longer for it,
    and for its gradient a third of the time: the gradient of a shift by a lag that only the data
    tell is a scattered addition.

    Args:
      shares: [B, L], by lag.
      v: [B, S, H, V], S at most L.

    Returns:
      [B, L, H, V].
    """
    steps = np.arange(shares.shape[1])
    lags = (steps[None, : v.shape[1]] - steps[:, None]) % len(steps)
    return jnp.einsum("bls,bshv->blhv", shares[:, lags], v)


class Autoformer(nn.Module):
    """Decomposing encoder-decoder with auto-correlation; see the module's docstring."""

    config: AutoformerConfig

    @nn.compact
    def __call__(
        self,
        x_enc: Array,
        x_mark_enc: Array,
        x_dec: Array,
        x_mark_dec: Array,
        *,
        train: bool = False,
    ) -> Array:
        """Forecasts ``pred_len`` steps.

        Args:
          x_enc: look-back window [B, seq_len, enc_in].
          x_mark_enc: its time marks [B, seq_len, F].
          x_dec: not used, the decoder starts from the look-back's season and trend.
          x_mark_dec: time marks of the decoder's steps [B, label_len + pred_len, F].
          train: whether dropout is active (then an rng stream ``dropout`` is needed), and a batch
            shares its lags.

        Returns:
          The forecast [B, pred_len, c_out].
        """
        del x_dec
        c = self.config

        def mix(heads: Heads) -> Any:
            return functools.partial(
                auto_correlation, factor=c.factor, lags=c.lags, scale=heads.scale, train=train
            )

        blocks = zip(c.self_heads, c.cross_heads, strict=True)
        mixes = Mixes(
            encoder=[mix(heads) for heads in c.encoder_heads],
            decoder=[(mix(own), mix(cross)) for own, cross in blocks],
        )
        # The series' order is in its lags: there are no positions.
        return encode_decode(c, mixes, x_enc, x_mark_enc, x_mark_dec, positions=False, train=train)
