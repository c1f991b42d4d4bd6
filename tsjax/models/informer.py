"""Informer (Zhou et al., AAAI 2021, arXiv 2012.07436).

A Transformer in which only the queries that matter attend (ProbSparse attention), and whose encoder
halves the length after each layer but the last (distilling).

Dimensions: B batch, L length of queries, S of keys, H heads, E head width, V value width, D model
width, U sampled keys, N chosen queries.
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

from tsjax.models.base import EncoderDecoderConfig
from tsjax.models.initializers import torch_uniform
from tsjax.models.layers import Heads, Mix, full_attention, parameter
from tsjax.models.transformer import encode_decode

CONTEXTS = ("transposed", "reread")
CROSS_ATTENTIONS = ("full", "prob")

_PUBLISHED = MappingProxyType({"context": "reread", "distil_padding": 2, "cross_attention": "prob"})


@dataclasses.dataclass(frozen=True)
class InformerConfig(EncoderDecoderConfig):
    """Sizes of an :class:`Informer`; the defaults are the published study's.

    Attributes:
      factor: ``factor * ceil(log(length))`` queries are kept and keys sampled.
      distil: whether the encoder halves the length between its layers.
      context: ``transposed`` puts time before heads again after ProbSparse attention; ``reread``,
        as in Time-Series-Library, reads the memory of [B, H, L, V] as if it were [B, L, H, V],
        which mixes time and heads.
      distil_padding: steps by which the distilling convolution wraps around at either end: 1
        halves the length, 2 (Time-Series-Library) makes it two steps longer first.
      cross_attention: how the decoder attends to the encoder: ``full`` as in the paper, or
        ``prob`` as in Time-Series-Library.
      sample_seed: fixes the keys that evaluation samples.
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
        {"corrected": {}, "tslib": _PUBLISHED, "paper": _PUBLISHED}
    )
    # A distilling convolution maps one width to another, which need not be the same.
    loose: ClassVar[Mapping[str, tuple[str, ...]]] = MappingProxyType(
        {r"distil_\d+/conv/kernel$": ("d_model",)}
    )

    factor: int = 3
    distil: bool = True
    context: str = "transposed"
    distil_padding: int = 1
    cross_attention: str = "full"
    sample_seed: int = 0

    def problems(self) -> list[str]:
        """Says what is wrong with the sizes, one sentence each."""
        found = super().problems()
        found += self.below(1, "factor") + self.below(0, "sample_seed")
        found += self.outside("context", CONTEXTS)
        found += self.outside("cross_attention", CROSS_ATTENTIONS)
        if self.distil_padding not in (1, 2):
            found.append(f"distil_padding must be 1 or 2, got {self.distil_padding}")
        elif self.distil and self.seq_len < self.distil_padding:
            found.append(f"seq_len must be at least distil_padding, got {self.seq_len}")
        return found


class ProbSparse(nn.Module):
    """ProbSparse attention (arXiv 2012.07436, section 3.1): the most selective queries attend.

    How selective a query is, is estimated from U sampled keys: the largest of its logits minus
    their sum over S (eq. 3 has their mean; all published code divides by S). The N best queries
    attend to all keys; the others get the mean of the values or, if causal, their running sum.
    There is no dropout inside.

    The keys are drawn with replacement, alike for all windows and heads. In train mode they come
    from the rng stream ``keys`` where there is one. Otherwise, and in evaluation, they are those of
    the buffer ``index`` [L, U], so that evaluating twice gives the same numbers. (The reference
    draws anew in evaluation, too.)

    Attributes:
      factor: N is ``factor * ceil(log(L))`` and U is ``factor * ceil(log(S))``, at most L and S.
      scale: factor on the logits of the chosen queries; None for ``1 / sqrt(E)``.
      seed: of the buffer's draw.
      context: see :class:`InformerConfig`.
      causal: whether position l sees positions <= l only.
    """

    factor: int
    scale: float | None
    seed: int
    context: str
    causal: bool = False

    @nn.compact
    def __call__(self, q: Array, k: Array, v: Array, *, train: bool) -> Array:
        """[B, L, H, E], [B, S, H, E] and [B, S, H, V] -> [B, L, H, V]."""
        shape, keys = (q.shape[1], _count(self.factor, k.shape[1])), k.shape[1]

        def draw(key: Array) -> Array:
            return jax.random.randint(key, shape, 0, keys, jnp.int32)

        index = self.variable("buffers", "index", draw, jax.random.key(self.seed)).value
        if train and self.has_rng("keys"):
            index = draw(self.make_rng("keys"))
        scale = 1 / math.sqrt(q.shape[-1]) if self.scale is None else self.scale
        chosen = self._most_selective(q, k, index)
        q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
        logits = jnp.einsum("bhne,bhse->bhns", _per_head(_rows)(q, chosen), k) * scale
        if self.causal:
            later = np.arange(keys)[None, None, None] > chosen[..., None]
            logits = jnp.where(later, -jnp.inf, logits)
        attended = jnp.einsum("bhns,bhsv->bhnv", jax.nn.softmax(logits), v)
        context = _per_head(_with_rows)(self._of_others(v, shape[0]), chosen, attended)
        if self.context == "reread":
            b, h, length, width = context.shape
            return context.reshape(b, length, h, width)
        return context.swapaxes(1, 2)

    def _most_selective(self, q: Array, k: Array, index: Array) -> Array:
        """Positions of the queries that are to attend, [B, H, N]."""
        # All logits are computed, and the sampled ones are taken from them. Keys gathered for each
        # query would be many times as large, and moving them takes longer than the arithmetic that
        # is saved.
        rows = np.arange(q.shape[1])[:, None]
        sampled = jnp.einsum("blhe,bshe->bhls", q, k)[:, :, rows, index]
        score = jnp.max(sampled, axis=-1) - jnp.sum(sampled, axis=-1) / k.shape[1]
        return jax.lax.top_k(score, _count(self.factor, q.shape[1]))[1]

    def _of_others(self, v: Array, length: int) -> Array:
        """What the queries that do not attend get, from values [B, H, S, V]: [B, H, L, V]."""
        if self.causal:
            return jnp.cumsum(v, axis=2)
        return jnp.repeat(jnp.mean(v, axis=2, keepdims=True), length, axis=2)


def _count(factor: int, length: int) -> int:
    return min(max(factor * math.ceil(math.log(length)), 1), length)


def _per_head(fn: Any) -> Any:
    return jax.vmap(jax.vmap(fn))


def _rows(x: Array, index: Array) -> Array:
    return x[index]


def _with_rows(x: Array, index: Array, rows: Array) -> Array:
    return x.at[index].set(rows, unique_indices=True)


class BatchNorm(nn.Module):
    """Batch normalisation over batch and time (arXiv 1502.03167) with torch's running statistics.

    They move by a tenth of the way in each step. The running variance moves towards the unbiased
    variance of the batch, which is n / (n - 1) times the biased one that the batch is normalised
    with. Linen's layer differs in both. The statistics are in the collection ``batch_stats``.
    """

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        width = x.shape[-1]
        scale = parameter(self, "scale", nn.initializers.ones, (width,))
        bias = parameter(self, "bias", nn.initializers.zeros, (width,))
        mean = self.variable("batch_stats", "mean", jnp.zeros, (width,))
        var = self.variable("batch_stats", "var", jnp.ones, (width,))
        count = self.variable("batch_stats", "count", jnp.zeros, (), jnp.int32)
        now_mean, now_var = mean.value, var.value
        if train:
            wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
            now_mean, now_var = jnp.mean(wide, axis=(0, 1)), jnp.var(wide, axis=(0, 1))
            n = x.shape[0] * x.shape[1]
            unbiased = now_var * (n / max(n - 1, 1))
            mean.value = (0.9 * mean.value + 0.1 * now_mean).astype(mean.value.dtype)
            var.value = (0.9 * var.value + 0.1 * unbiased).astype(var.value.dtype)
            count.value = count.value + 1
        factor = scale * jax.lax.rsqrt(now_var + 1e-5)
        y = (x - now_mean[None, None]) * factor[None, None] + bias[None, None]
        return y.astype(x.dtype)


class Distil(nn.Module):
    """Convolution, batch norm, ELU and max-pooling with stride 2: [B, L, D] -> about [B, L/2, D].

    See arXiv 2012.07436, eq. 5.
    """

    padding: int

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        init = torch_uniform(3 * x.shape[-1])
        x = jnp.concatenate([x[:, -self.padding :], x, x[:, : self.padding]], axis=1)
        convolve = nn.Conv(
            x.shape[-1], (3,), padding="VALID", kernel_init=init, bias_init=init, name="conv"
        )
        x = jax.nn.elu(BatchNorm(name="norm")(convolve(x), train=train))
        return nn.max_pool(x, (3,), (2,), [(1, 1)])


class Informer(nn.Module):
    """Encoder-decoder with ProbSparse attention; see the module's docstring."""

    config: InformerConfig

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
        """Forecasts the last ``pred_len`` steps of the decoder's input.

        Args:
          x_enc: look-back window [B, seq_len, enc_in].
          x_mark_enc: its time marks [B, seq_len, F].
          x_dec: decoder input [B, label_len + pred_len, dec_in], zeros where the forecast goes.
          x_mark_dec: its time marks [B, label_len + pred_len, F].
          train: whether dropout and batch statistics are active. Then an rng stream ``dropout`` is
            needed, and keys are sampled from the stream ``keys`` where there is one.

        Returns:
          The forecast [B, pred_len, c_out].
        """
        c = self.config
        blocks = enumerate(zip(c.self_heads, c.cross_heads, strict=True))
        encoder = [
            _prob_sparse(c, heads, f"encoder_sampling_{i}", train=train)
            for i, heads in enumerate(c.encoder_heads)
        ]
        decoder = [
            (
                _prob_sparse(c, own, f"self_sampling_{i}", causal=True, train=train),
                full_attention(cross.scale, c.dropout, train=train)
                if c.cross_attention == "full"
                else _prob_sparse(c, cross, f"cross_sampling_{i}", train=train),
            )
            for i, (own, cross) in blocks
        ]
        distils = range(c.e_layers - 1 if c.distil else 0)
        between = [Distil(c.distil_padding, name=f"distil_{i}") for i in distils]
        inputs = (x_enc, x_mark_enc, x_dec, x_mark_dec)
        return encode_decode(c, encoder, decoder, inputs, between, train=train)


def _prob_sparse(
    c: InformerConfig, heads: Heads, name: str, *, causal: bool = False, train: bool
) -> Mix:
    block: Any = ProbSparse(c.factor, heads.scale, c.sample_seed, c.context, causal, name=name)
    return functools.partial(block, train=train)
