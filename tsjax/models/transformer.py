"""The vanilla Transformer for forecasting (Vaswani et al., arXiv 1706.03762).

An encoder reads the look-back window; a decoder reads its last ``label_len`` steps followed by
``pred_len`` zeros, with causal self-attention, attends to the encoder's output, and emits the
forecast in one pass. This is the variant that Informer's authors (arXiv 2012.07436) and the
libraries after them compare with: post-norm layers, a final norm after either stack, a circular
convolution as token embedding, and a projection of calendar marks.

Dimensions: B batch, C channels in (``enc_in``), F time marks, D ``d_model``.
"""

import dataclasses

import flax.linen as nn
from jax import Array

from tsjax.models.base import ForecastConfig
from tsjax.models.layers import (
    Attention,
    DataEmbedding,
    FeedForward,
    LayerNorm,
    Linear,
    dropout,
)


@dataclasses.dataclass(frozen=True)
class TransformerConfig(ForecastConfig):
    """Sizes of a :class:`Transformer`; the defaults are the published study's.

    Attributes:
      d_model: D, the model width.
      n_heads: heads of every attention block, each ``d_model // n_heads`` wide.
      e_layers: encoder layers.
      d_layers: decoder layers.
      d_ff: width of the feed-forward blocks.
      dropout: rate after embeddings, on attention weights, and after every sub-block.
      activation: ``"relu"`` or ``"gelu"`` (exact).
    """

    d_model: int = 512
    n_heads: int = 8
    e_layers: int = 2
    d_layers: int = 1
    d_ff: int = 2048
    dropout: float = 0.05
    activation: str = "gelu"

    def problems(self) -> list[str]:
        """Says what is wrong with the sizes, one sentence each."""
        found = super().problems()
        found += self.below(1, "d_model", "n_heads", "d_ff", "e_layers", "d_layers")
        if not found and self.d_model < self.n_heads:
            found.append(f"d_model ({self.d_model}) must be at least n_heads ({self.n_heads})")
        # Dropout counts in steps of 2**-16.
        if not 0 <= self.dropout <= 1 - 2**-16:
            found.append(f"dropout must be in [0, 1), got {self.dropout}")
        if self.activation not in ("relu", "gelu"):
            found.append(f"activation must be relu or gelu, got {self.activation!r}")
        return found


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each followed by a norm: [B, L, D] -> [B, L, D]."""

    config: TransformerConfig

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        drop = dropout(self.config.dropout, train=train)
        attend = _attention(self.config, "attention")
        x = LayerNorm(name="norm1")(x + drop(attend(x, x, train=train)))
        return LayerNorm(name="norm2")(x + _feed_forward(self.config)(x, train=train))


class DecoderLayer(nn.Module):
    """Causal self-attention, attention to the memory [B, S, D], feed-forward; a norm after each."""

    config: TransformerConfig

    @nn.compact
    def __call__(self, x: Array, memory: Array, *, train: bool) -> Array:
        drop = dropout(self.config.dropout, train=train)
        attend = _attention(self.config, "self_attention", causal=True)
        x = LayerNorm(name="norm1")(x + drop(attend(x, x, train=train)))
        attend = _attention(self.config, "cross_attention")
        x = LayerNorm(name="norm2")(x + drop(attend(x, memory, train=train)))
        return LayerNorm(name="norm3")(x + _feed_forward(self.config)(x, train=train))


class Encoder(nn.Module):
    """``e_layers`` encoder layers and a final norm."""

    config: TransformerConfig

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        for i in range(self.config.e_layers):
            x = EncoderLayer(self.config, name=f"layer_{i}")(x, train=train)
        return LayerNorm(name="norm")(x)


class Decoder(nn.Module):
    """``d_layers`` decoder layers and a final norm."""

    config: TransformerConfig

    @nn.compact
    def __call__(self, x: Array, memory: Array, *, train: bool) -> Array:
        for i in range(self.config.d_layers):
            x = DecoderLayer(self.config, name=f"layer_{i}")(x, memory, train=train)
        return LayerNorm(name="norm")(x)


class Transformer(nn.Module):
    """Encoder-decoder forecaster; see the module's docstring."""

    config: TransformerConfig

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
          train: whether dropout is active (then an rng stream ``dropout`` is needed).

        Returns:
          The forecast [B, pred_len, c_out].
        """
        c = self.config
        memory = _embedding(c, c.seq_len, "enc_embedding")(x_enc, x_mark_enc, train=train)
        memory = Encoder(c, name="encoder")(memory, train=train)
        x = _embedding(c, c.dec_len, "dec_embedding")(x_dec, x_mark_dec, train=train)
        x = Decoder(c, name="decoder")(x, memory, train=train)
        return Linear((c.c_out,), name="output_projection")(x[:, -c.pred_len :])


def _embedding(c: TransformerConfig, max_len: int, name: str) -> DataEmbedding:
    return DataEmbedding(c.d_model, c.embed, c.freq, c.dropout, max_len, name=name)


def _attention(c: TransformerConfig, name: str, *, causal: bool = False) -> Attention:
    return Attention(c.n_heads, c.d_model // c.n_heads, c.dropout, causal, name=name)


def _feed_forward(c: TransformerConfig) -> FeedForward:
    return FeedForward(c.d_ff, c.dropout, c.activation, name="feed_forward")
