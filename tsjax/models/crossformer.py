"""Crossformer (Zhang & Yan, ICLR 2023, openreview vSVLM2j9eie).

Each channel's series is cut into segments, and a segment is a token. A layer attends in two stages:
over the segments of a channel, then over the channels of a segment through a few learned routers.
The encoder merges neighbouring segments from level to level; a decoder layer attends to one level
each, and the layers' predictions add up to the forecast. Neither marks nor the decoder's input are
read.

Dimensions: B batch, L time steps, C channels, W steps of a segment (``seg_len``), S segments,
N segments of a window (``win_size``), R routers, D model width.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from tsjax.models.base import ForecastConfig, Sizes, heads_of, indivisible, spread
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

PADDINGS = ("front", "end")

_standard_normal = nn.initializers.normal(1.0)


@dataclasses.dataclass(frozen=True)
class TwoStageSizes:
    """Sizes of one two-stage layer.

    Attributes:
      time: heads of the attention over segments.
      sender: heads of the attention of routers to channels.
      receiver: heads of the attention of channels to what the routers gathered.
      n_routers: R, routers of a segment.
      d_router: width of a router.
      d_message: width of what a router hands on.
      d_ff: hidden widths of the MLPs after the first and the second stage.
    """

    time: Heads
    sender: Heads
    receiver: Heads
    n_routers: int
    d_router: int
    d_message: int
    d_ff: tuple[int, int]


@dataclasses.dataclass(frozen=True)
class CrossformerConfig(ForecastConfig):
    """Sizes of a :class:`Crossformer`; the defaults are the published study's.

    There are ``e_layers`` encoder levels, then ``e_layers + 1`` decoder layers; every one holds a
    two-stage layer. Attention blocks are counted in the order of their calls: time, sender and
    receiver of each encoder level, then time, sender, receiver and cross-attention of each decoder
    layer. ``label_len`` shapes the decoder's input, which the model does not read.

    Attributes:
      d_model: D, the width of the encoder, or of each of its levels; the embedding has the first.
      d_model_dec: width of the decoder; None for the first of ``d_model``.
      n_heads: heads, for all attention blocks or for each.
      d_keys: width of one head's queries and keys; None for the layer's width over ``n_heads``.
      d_values: width of one head's values; None for the layer's width over ``n_heads``.
      attention_scale: factor on the attention logits; None for what the widths imply. A model whose
        heads have been cut keeps the one it was trained with.
      e_layers: encoder levels.
      factor: R, the routers of a segment, for all two-stage layers or for each.
      d_router: width of the routers, for all two-stage layers or for each; None for the layer's.
      d_message: width of what the sender hands to the receiver, for all two-stage layers or for
        each; None for the layer's.
      d_ff: hidden width of the MLPs of the two-stage layers, for all or for each: two per layer.
      d_mlp: hidden width of the decoder layers' own MLP, for all or for each; None for the
        decoder's width.
      seg_len: steps of a segment.
      win_size: segments that a level merges into one; 1 merges nothing.
      dropout: dropout rate.
      padding: what fills up lengths that are no multiple of ``seg_len``. ``front``, the authors':
        the first value is repeated before the look-back, and of the steps decoded the first
        ``pred_len`` are the forecast. ``end``, Time-Series-Library's: the last value is repeated
        after it, and the last ``pred_len`` are the forecast.
      sinusoid: whether a sinusoidal table over the segments is added to the learned positions, as
        in Time-Series-Library.
      embedding_bias: whether the segments' projection has a bias; not in Time-Series-Library.
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
        {
            "corrected": {},
            "tslib": {"padding": "end", "sinusoid": True, "embedding_bias": False},
            "paper": {},
        }
    )

    d_model: Sizes = 256
    d_model_dec: int | None = None
    n_heads: Sizes = 4
    d_keys: Sizes | None = None
    d_values: Sizes | None = None
    attention_scale: float | tuple[float, ...] | None = None
    e_layers: int = 3
    factor: Sizes = 10
    d_router: Sizes | None = None
    d_message: Sizes | None = None
    d_ff: Sizes = 512
    d_mlp: Sizes | None = None
    seg_len: int = 12
    win_size: int = 2
    dropout: float = 0.2
    padding: str = "front"
    sinusoid: bool = False
    embedding_bias: bool = True

    def problems(self) -> list[str]:
        """Says what is wrong with the sizes, one sentence each."""
        found = super().problems()
        found += self.below(1, "d_model", "d_model_dec", "n_heads", "d_keys", "d_values")
        found += self.below(1, "e_layers", "factor", "d_router", "d_message", "d_ff", "d_mlp")
        found += self.below(1, "seg_len", "win_size")
        found += self._wrong_counts() if self.e_layers >= 1 else []
        found += self.wrong_scales("attention_scale")
        found += self.wrong_dropout(self.dropout) + self.outside("padding", PADDINGS)
        if self.c_out != self.enc_in:
            found.append(
                f"c_out ({self.c_out}) must equal enc_in ({self.enc_in}): the channels that are "
                "read are those that are forecast"
            )
        if self.win_size == 1 and len(set(spread(self.d_model, 1))) > 1:
            found.append(
                f"d_model must be the same for all levels where win_size is 1, got {self.d_model}: "
                "only merging maps one width to another, pass one d_model or win_size=2"
            )
        return found or self._wrong_heads()

    def _wrong_counts(self) -> list[str]:
        levels, layers = self.e_layers, 2 * self.e_layers + 1
        found = self.per_block("d_model", levels, "encoder level")
        for name in ("n_heads", "d_keys", "d_values", "attention_scale"):
            found += self.per_block(name, 7 * levels + 4, "attention block")
        for name in ("factor", "d_router", "d_message"):
            found += self.per_block(name, layers, "two-stage layer")
        found += self.per_block("d_ff", 2 * layers, "MLP of a two-stage layer")
        return found + self.per_block("d_mlp", levels + 1, "decoder layer")

    def _wrong_heads(self) -> list[str]:
        if self.d_keys is not None and self.d_values is not None:
            return []
        widths = self._block_widths()
        split = 3 * self.e_layers
        names = ["d_model"] * split + ["d_model_dec"] * (len(widths) - split)
        if self.d_model_dec is None:
            names = ["d_model"] * len(widths)
        return indivisible(names, widths, self.n_heads)

    @property
    def level_widths(self) -> tuple[int, ...]:
        """Widths of the encoder's levels."""
        return spread(self.d_model, self.e_layers)

    @property
    def decoder_width(self) -> int:
        """Width of the decoder."""
        return self.level_widths[0] if self.d_model_dec is None else self.d_model_dec

    @property
    def level_segments(self) -> tuple[int, ...]:
        """S at the encoder's levels; the embedding has that of the first."""
        counts = [-(-self.seq_len // self.seg_len)]
        while len(counts) < self.e_layers:
            counts.append(-(-counts[-1] // self.win_size))
        return tuple(counts)

    @property
    def out_segments(self) -> int:
        """S in the decoder."""
        return -(-self.pred_len // self.seg_len)

    @property
    def encoder_sizes(self) -> tuple[TwoStageSizes, ...]:
        """Sizes of the encoder levels' two-stage layers."""
        return self._two_stage_sizes()[: self.e_layers]

    @property
    def decoder_sizes(self) -> tuple[TwoStageSizes, ...]:
        """Sizes of the decoder layers' two-stage layers."""
        return self._two_stage_sizes()[self.e_layers :]

    @property
    def cross_heads(self) -> tuple[Heads, ...]:
        """Sizes of the decoder layers' cross-attention blocks."""
        return self._heads()[3 * self.e_layers + 3 :: 4]

    @property
    def mlp_widths(self) -> tuple[int, ...]:
        """Hidden widths of the decoder layers' own MLPs."""
        return spread(self.d_mlp or self.decoder_width, self.e_layers + 1)

    def _two_stage_sizes(self) -> tuple[TwoStageSizes, ...]:
        heads, split = self._heads(), 3 * self.e_layers
        starts = (*range(0, split, 3), *range(split, len(heads), 4))
        widths = self.level_widths + (self.decoder_width,) * (self.e_layers + 1)
        fields = (self.factor, self.d_router, self.d_message)
        factor, d_router, d_message = (spread(field, len(widths)) for field in fields)
        d_ff = spread(self.d_ff, 2 * len(widths))
        return tuple(
            TwoStageSizes(
                time=heads[start],
                sender=heads[start + 1],
                receiver=heads[start + 2],
                n_routers=factor[i],
                d_router=d_router[i] or width,
                d_message=d_message[i] or width,
                d_ff=(d_ff[2 * i], d_ff[2 * i + 1]),
            )
            for i, (start, width) in enumerate(zip(starts, widths, strict=True))
        )

    def _block_widths(self) -> tuple[int, ...]:
        """Model widths at the attention blocks."""
        encoder = tuple(width for width in self.level_widths for _ in range(3))
        return encoder + (self.decoder_width,) * (4 * (self.e_layers + 1))

    def _heads(self) -> tuple[Heads, ...]:
        widths = self._block_widths()
        return heads_of(widths, self.n_heads, self.d_keys, self.d_values, self.attention_scale)


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

    Where N does not divide S, the last ``-S mod N`` segments follow once more. Where there are not
    even so many, which the published implementations do not run, the last one is repeated.
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
    """``e_layers`` levels, coarser and coarser; gives what went in and what each level gave."""

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
