"""The vanilla Transformer for forecasting (Vaswani et al., arXiv 1706.03762).

An encoder reads the look-back window; a decoder reads its last ``label_len`` steps followed by
``pred_len`` zeros, with causal self-attention, attends to the encoder's output, and emits the
forecast in one pass. This is the variant that Informer's authors (arXiv 2012.07436) and the
libraries after them compare with: post-norm layers, a final norm after either stack, a circular
convolution as token embedding, and a projection of calendar marks.

Dimensions: B batch, C channels in (``enc_in``), F time marks, D ``d_model``.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

import flax.linen as nn
from jax import Array

from tsjax.models.base import EncoderDecoderConfig
from tsjax.models.layers import (
    Attention,
    DataEmbedding,
    FeedForward,
    Heads,
    LayerNorm,
    Linear,
    Mix,
    dropout,
    full_attention,
)


@dataclasses.dataclass(frozen=True)
class TransformerConfig(EncoderDecoderConfig):
    """Sizes of a :class:`Transformer`; all published versions agree."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
        {"corrected": {}, "tslib": {}, "paper": {}}
    )


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each followed by a norm: [B, L, D] -> [B, L, D]."""

    heads: Heads
    d_ff: int
    dropout: float
    activation: str

    @nn.compact
    def __call__(self, x: Array, mix: Mix, *, train: bool) -> Array:
        drop = dropout(self.dropout, train=train)
        x = LayerNorm(name="norm1")(x + drop(Attention(self.heads, name="attention")(x, x, mix)))
        feed_forward = FeedForward(self.d_ff, self.dropout, self.activation, name="feed_forward")
        return LayerNorm(name="norm2")(x + feed_forward(x, train=train))


class DecoderLayer(nn.Module):
    """Self-attention, attention to the memory [B, S, D'], feed-forward; a norm after each."""

    self_heads: Heads
    cross_heads: Heads
    d_ff: int
    dropout: float
    activation: str

    @nn.compact
    def __call__(
        self, x: Array, memory: Array, self_mix: Mix, cross_mix: Mix, *, train: bool
    ) -> Array:
        drop = dropout(self.dropout, train=train)
        attend = Attention(self.self_heads, name="self_attention")
        x = LayerNorm(name="norm1")(x + drop(attend(x, x, self_mix)))
        attend = Attention(self.cross_heads, name="cross_attention")
        x = LayerNorm(name="norm2")(x + drop(attend(x, memory, cross_mix)))
        feed_forward = FeedForward(self.d_ff, self.dropout, self.activation, name="feed_forward")
        return LayerNorm(name="norm3")(x + feed_forward(x, train=train))


class Encoder(nn.Module):
    """``e_layers`` encoder layers and a final norm."""

    config: EncoderDecoderConfig

    @nn.compact
    def __call__(
        self, x: Array, mixes: Sequence[Mix], between: Sequence[nn.Module] = (), *, train: bool
    ) -> Array:
        """Mixes steps with one of ``mixes`` per layer, and applies ``between`` after the first."""
        c = self.config
        for i, (heads, mix) in enumerate(zip(c.encoder_heads, mixes, strict=True)):
            layer = EncoderLayer(heads, c.ff_widths[i], c.dropout, c.activation, name=f"layer_{i}")
            x = layer(x, mix, train=train)
            if i < len(between):
                x = between[i](x, train=train)
        return LayerNorm(name="norm")(x)


class Decoder(nn.Module):
    """``d_layers`` decoder layers and a final norm."""

    config: EncoderDecoderConfig

    @nn.compact
    def __call__(
        self, x: Array, memory: Array, mixes: Sequence[tuple[Mix, Mix]], *, train: bool
    ) -> Array:
        """Mixes steps with a pair of ``mixes`` per layer, for self- and for cross-attention."""
        c = self.config
        for i, heads in enumerate(zip(c.self_heads, c.cross_heads, strict=True)):
            d_ff = c.ff_widths[c.e_layers + i]
            layer = DecoderLayer(*heads, d_ff, c.dropout, c.activation, name=f"layer_{i}")
            x = layer(x, memory, *mixes[i], train=train)
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

        def mix(heads: Heads, *, causal: bool = False) -> Mix:
            return full_attention(heads.scale, c.dropout, causal=causal, train=train)

        blocks = zip(c.self_heads, c.cross_heads, strict=True)
        return encode_decode(
            c,
            [mix(heads) for heads in c.encoder_heads],
            [(mix(own, causal=True), mix(cross)) for own, cross in blocks],
            (x_enc, x_mark_enc, x_dec, x_mark_dec),
            train=train,
        )


def encode_decode(
    c: EncoderDecoderConfig,
    encoder: Sequence[Mix],
    decoder: Sequence[tuple[Mix, Mix]],
    inputs: tuple[Array, Array, Array, Array],
    between: Sequence[nn.Module] = (),
    *,
    train: bool,
) -> Array:
    """The forecast [B, pred_len, c_out] of a model with these layers, from within its own call.

    Args:
      c: sizes.
      encoder: how each encoder layer mixes steps.
      decoder: how each decoder layer does, in its self- and its cross-attention.
      inputs: as of :class:`Transformer`.
      between: what follows each encoder layer but the last, if anything.
      train: whether dropout is active.
    """
    x_enc, x_mark_enc, x_dec, x_mark_dec = inputs
    embed = data_embedding(c, "enc_embedding", c.d_model, c.seq_len)
    memory = embed(x_enc, x_mark_enc, train=train)
    memory = Encoder(c, name="encoder")(memory, encoder, between, train=train)
    embed = data_embedding(c, "dec_embedding", c.decoder_width, c.dec_len)
    x = embed(x_dec, x_mark_dec, train=train)
    x = Decoder(c, name="decoder")(x, memory, decoder, train=train)
    return Linear((c.c_out,), name="output_projection")(x[:, -c.pred_len :])


def data_embedding(
    c: EncoderDecoderConfig, name: str, width: int, max_len: int | None
) -> DataEmbedding:
    """The embedding of the encoder's or the decoder's input; ``max_len`` None: no positions."""
    return DataEmbedding(width, c.embed, c.freq, c.dropout, max_len, name=name)
