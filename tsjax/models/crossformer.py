"""Crossformer (Zhang & Yan, ICLR 2023, openreview vSVLM2j9eie).

Each channel's series is cut into segments, and a segment is a token. A layer attends in two stages:
over the segments of a channel, then over the channels of a segment through a few learned routers.
The encoder merges neighbouring segments from level to level; a decoder layer attends to one level
each, and the layers' predictions add up to the forecast. Neither marks nor the decoder's input are
read. :mod:`tsjax.models.crossformer_config` states the sizes.

Dimensions: B batch, L time steps, C channels, W steps of a segment (``seg_len``), S segments,
N segments of a window (``win_size``), R routers, D model width.
"""

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from tsjax.models.crossformer_config import CrossformerConfig, TwoStageSizes
from tsjax.models.layers import (
    Attention,
    FeedForward,
    Heads,
    LayerNorm,
    Linear,
    dropout,
    full_attention,
    parameter,
    position_table,
)

_standard_normal = nn.initializers.normal(1.0)


def segments(x: Array, length: int, padding: str) -> Array:
    """Cuts each channel into segments, [B, L, C] -> [B, C, S, W] (section 3.1).

    Args:
      x: series [B, L, C].
      length: W.
      padding: whether the first value fills up the ``front`` or the last one the ``end``.
    """
    x = jnp.swapaxes(x, 1, 2)
    missing = -x.shape[2] % length
    if padding == "front":
        parts = [jnp.repeat(x[:, :, :1], missing, axis=2), x]
    else:
        parts = [x, jnp.repeat(x[:, :, -1:], missing, axis=2)]
    x = jnp.concatenate(parts, axis=2)
    return x.reshape(*x.shape[:2], x.shape[2] // length, length)


def windows(x: Array, size: int) -> Array:
    """Groups neighbouring segments, [B, C, S, D] -> [B, C, ceil(S / N), N, D].

    Where N does not divide S, the last ``-S mod N`` segments follow once more. If there are fewer
    segments than that, for which the published implementations fail, the last one is repeated.
    """
    while missing := -x.shape[2] % size:
        x = jnp.concatenate([x, x[:, :, -missing:]], axis=2)
    batch, channels, count, width = x.shape
    return x.reshape(batch, channels, count // size, size, width)


class SegmentEmbedding(nn.Module):
    """Projects segments, [B, C, S, W] -> [B, C, S, D], and adds the sinusoidal table, if any."""

    d_model: int
    use_bias: bool
    sinusoid: bool

    @nn.compact
    def __call__(self, x: Array) -> Array:
        y = Linear((self.d_model,), use_bias=self.use_bias, name="value")(x)
        if self.sinusoid:
            table = position_table(self, x.shape[2], self.d_model)
            y = y + table[None, None].astype(y.dtype)
        return y


class Embedding(nn.Module):
    """Embedded segments + learned position, and a norm: [B, L, C] -> [B, C, S, D] (section 3.1)."""

    config: CrossformerConfig

    @nn.compact
    def __call__(self, x: Array) -> Array:
        c = self.config
        embed = SegmentEmbedding(c.level_widths[0], c.embedding_bias, c.sinusoid, name="segments")
        y = embed(segments(x, c.seg_len, c.padding))
        return LayerNorm(name="norm")(
            y + parameter(self, "position", _standard_normal, (1, *y.shape[1:]))
        )


class TwoStageAttention(nn.Module):
    """Attention over segments, then over channels: [B, C, S, D] -> [B, C, S, D] (section 3.2).

    In the second stage the routers of a segment gather from all channels, and the channels
    attend to what was gathered: the cost is linear in C.
    """

    sizes: TwoStageSizes
    dropout: float

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        drop = dropout(self.dropout, train=train)
        x = LayerNorm(name="norm1")(x + drop(self._over_segments(x, train=train)))
        x = LayerNorm(name="norm2")(x + drop(self._mlp(x, 1, train=train)))
        x = jnp.swapaxes(x, 1, 2)
        x = LayerNorm(name="norm3")(x + drop(self._over_channels(x, train=train)))
        x = LayerNorm(name="norm4")(x + drop(self._mlp(x, 2, train=train)))
        return jnp.swapaxes(x, 1, 2)

    def _over_segments(self, x: Array, *, train: bool) -> Array:
        heads = self.sizes.time
        mix = full_attention(heads.scale, self.dropout, train=train)
        return Attention(heads, name="time_attention")(x, x, mix)

    def _over_channels(self, x: Array, *, train: bool) -> Array:
        """[B, S, C, D] -> [B, S, C, D]."""
        sizes = self.sizes
        shape = (x.shape[1], sizes.n_routers, sizes.d_router)
        routers = parameter(self, "router", _standard_normal, shape)
        send = Attention(sizes.sender, sizes.d_message, name="sender")
        # Alike for all windows, the routers are projected once.
        messages = send(
            routers[None], x, full_attention(sizes.sender.scale, self.dropout, train=train)
        )
        receive = Attention(sizes.receiver, name="receiver")
        mix = full_attention(sizes.receiver.scale, self.dropout, train=train)
        return receive(x, messages, mix)

    def _mlp(self, x: Array, stage: int, *, train: bool) -> Array:
        width = self.sizes.d_ff[stage - 1]
        return FeedForward(width, 0.0, "gelu", name=f"feed_forward{stage}")(x, train=train)


class SegmentMerging(nn.Module):
    """Merges N neighbouring segments into one of width ``features`` (section 3.3).

    [B, C, S, D] -> [B, C, ceil(S / N), features]. Window and width stay axes of their own, in the
    norm's scale and bias [N, D] and in the kernel [N, D, features].
    """

    features: int
    win_size: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = LayerNorm(axes=2, name="norm")(windows(x, self.win_size))
        return Linear((self.features,), in_axes=2, name="projection")(x)


class EncoderLevel(nn.Module):
    """Merging (none where ``win_size`` is 1) to width ``d_model``, and a two-stage layer."""

    d_model: int
    win_size: int
    sizes: TwoStageSizes
    dropout: float

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        if self.win_size > 1:
            x = SegmentMerging(self.d_model, self.win_size, name="merging")(x)
        return TwoStageAttention(self.sizes, self.dropout, name="two_stage")(x, train=train)


class Encoder(nn.Module):
    """``e_layers`` levels, each coarser: returns the input and the output of each level."""

    config: CrossformerConfig

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> list[Array]:
        c = self.config
        scales = [x]
        for i, (width, sizes) in enumerate(zip(c.level_widths, c.encoder_sizes, strict=True)):
            win_size = c.win_size if i else 1
            level = EncoderLevel(width, win_size, sizes, c.dropout, name=f"level_{i}")
            scales.append(level(scales[-1], train=train))
        return scales


class DecoderLayer(nn.Module):
    """A two-stage layer, attention to the memory, an MLP, and a prediction (section 3.3).

    [B, C, S, D] and the memory [B, C, S', D'] -> ([B, C, S, D], prediction [B, C, S, W]).
    """

    sizes: TwoStageSizes
    cross_heads: Heads
    d_mlp: int
    seg_len: int
    dropout: float

    @nn.compact
    def __call__(self, x: Array, memory: Array, *, train: bool) -> tuple[Array, Array]:
        drop = dropout(self.dropout, train=train)
        x = TwoStageAttention(self.sizes, self.dropout, name="two_stage")(x, train=train)
        mix = full_attention(self.cross_heads.scale, self.dropout, train=train)
        cross = Attention(self.cross_heads, name="cross_attention")
        x = LayerNorm(name="norm1")(x + drop(cross(x, memory, mix)))
        # As published, nothing is dropped behind this MLP.
        feed_forward = FeedForward(self.d_mlp, 0.0, "gelu", name="feed_forward")
        x = LayerNorm(name="norm2")(x + feed_forward(x, train=train))
        return x, Linear((self.seg_len,), name="output_projection")(x)


class Decoder(nn.Module):
    """Learned positions through a layer per scale: -> the sum of predictions [B, C, S, W]."""

    config: CrossformerConfig

    @nn.compact
    def __call__(self, scales: Sequence[Array], *, train: bool) -> Array:
        c = self.config
        shape = (c.enc_in, c.out_segments, c.decoder_width)
        position = parameter(self, "position", _standard_normal, (1, *shape))
        x = jnp.broadcast_to(position, (scales[0].shape[0], *shape))
        predictions = []
        layers = zip(c.decoder_sizes, c.cross_heads, c.mlp_widths, scales, strict=True)
        for i, (sizes, cross, d_mlp, memory) in enumerate(layers):
            layer = DecoderLayer(sizes, cross, d_mlp, c.seg_len, c.dropout, name=f"layer_{i}")
            x, prediction = layer(x, memory, train=train)
            predictions.append(prediction)
        return functools.reduce(jnp.add, predictions)


class Crossformer(nn.Module):
    """Two-stage attention over segments and channels; see the module's docstring."""

    config: CrossformerConfig

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
          x_mark_enc: not used.
          x_dec: not used, the decoder starts from learned positions.
          x_mark_dec: not used.
          train: whether dropout is active (then an rng stream ``dropout`` is needed).

        Returns:
          The forecast [B, pred_len, c_out].
        """
        del x_mark_enc, x_dec, x_mark_dec
        c = self.config
        scales = Encoder(c, name="encoder")(Embedding(c, name="enc_embedding")(x_enc), train=train)
        y = Decoder(c, name="decoder")(scales, train=train)
        y = jnp.swapaxes(y.reshape(*y.shape[:2], -1), 1, 2)
        return y[:, : c.pred_len] if c.padding == "front" else y[:, -c.pred_len :]
