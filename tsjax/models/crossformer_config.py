"""The configuration of :class:`tsjax.models.Crossformer`, which states more sizes than the others.

Dimensions: S segments, R routers, D model width.
"""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from tsjax.models.base import (
    ForecastConfig,
    PerBlock,
    Sizes,
    heads_of,
    indivisible,
    logit_scales,
    sizes_of_heads,
    spread,
)
from tsjax.models.layers import Heads

PADDINGS = ("front", "end")


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

    d_model: PerBlock = 256
    d_model_dec: int | None = None
    n_heads: PerBlock = 4
    d_keys: PerBlock | None = None
    d_values: PerBlock | None = None
    attention_scale: float | tuple[float, ...] | None = None
    e_layers: int = 3
    factor: PerBlock = 10
    d_router: PerBlock | None = None
    d_message: PerBlock | None = None
    d_ff: PerBlock = 512
    d_mlp: PerBlock | None = None
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

    def sizes(self) -> Sizes:
        """Widths of levels and decoder, sizes of all blocks, routers and messages, MLP widths."""
        layers = self._two_stage_sizes()
        return {
            "d_model": self.level_widths,
            "d_model_dec": (self.decoder_width,),
            **sizes_of_heads(self.heads),
            "factor": tuple(layer.n_routers for layer in layers),
            "d_router": tuple(layer.d_router for layer in layers),
            "d_message": tuple(layer.d_message for layer in layers),
            "d_ff": tuple(width for layer in layers for width in layer.d_ff),
            "d_mlp": self.mlp_widths,
        }

    def sharing(self, field: str) -> tuple[int, ...]:
        """All levels have one width where nothing is merged: only merging changes the width."""
        if field == "d_model" and self.win_size == 1:
            return (0,) * self.e_layers
        return super().sharing(field)

    def scales(self) -> dict[str, tuple[float, ...]]:
        """``1 / sqrt(d_keys)`` for each attention block."""
        return {"attention_scale": logit_scales(self.heads)}

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
    def heads(self) -> tuple[Heads, ...]:
        """Sizes of all attention blocks, in the order of their calls."""
        widths = self._block_widths()
        return heads_of(widths, self.n_heads, self.d_keys, self.d_values, self.attention_scale)

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
        return self.heads[3 * self.e_layers + 3 :: 4]

    @property
    def mlp_widths(self) -> tuple[int, ...]:
        """Hidden widths of the decoder layers' own MLPs."""
        return spread(self.d_mlp or self.decoder_width, self.e_layers + 1)

    def _two_stage_sizes(self) -> tuple[TwoStageSizes, ...]:
        heads, split = self.heads, 3 * self.e_layers
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
