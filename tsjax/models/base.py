"""What every forecaster's configuration states: the task, the widths, and whose behaviour.

The published versions of these models disagree with one another. Each difference is a field of the
configuration; ``presets`` of a configuration class groups them under three names. ``corrected``,
the fields' own defaults, is the architecture as its paper describes it; ``tslib`` is what
Time-Series-Library's checkpoints mean; ``paper`` is what the pruning study arXiv 2412.12883 ran.
"""

import dataclasses
import math
import numbers
import types
import typing
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

from tsjax.models.layers import EMBEDS, MARKS, Heads, mark_dim

PerBlock = int | tuple[int, ...]
"""One size for all blocks, or one for each of them in the order in which they are called."""

Sizes = dict[str, tuple[int, ...]]
"""The sizes of a model by field, one for each of the field's blocks."""

Slot = tuple[str, int]
"""One of the sizes of a model: a field, and the first of the blocks that have this size."""

PRESETS = ("corrected", "tslib", "paper")


@dataclasses.dataclass(frozen=True)
class ForecastConfig:
    """Lengths and channels of a forecasting task, which every model's configuration begins with.

    A model's own class adds its fields, and says with :meth:`sizes` which of them slicing changes.
    The other facts that it may state are :meth:`sharing`, :meth:`scales`, :meth:`listed` and
    ``loose``.

    Attributes:
      presets: fields that differ from the defaults, by preset.
      loose: axes to which the configuration gives one size with others although the model's
        arithmetic would work with two. Maps a pattern of leaf paths to the fields of these axes.
      enc_in: channels of the encoder's input.
      dec_in: channels of the decoder's input.
      c_out: channels of the forecast.
      seq_len: steps of the look-back window.
      label_len: observed steps that the decoder's input begins with, at most ``seq_len``.
      pred_len: steps to forecast, the horizon.
      embed: time embedding: ``timeF`` (a projection), ``fixed`` or ``learned`` (look-ups).
      freq: sampling frequency of the marks: s, t, h, d, b, w, m or a.

    Raises:
      ValueError: if a field is out of range; all such fields are listed.
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType({})
    loose: ClassVar[Mapping[str, tuple[str, ...]]] = MappingProxyType({})

    enc_in: int
    dec_in: int
    c_out: int
    seq_len: int = 96
    label_len: int = 48
    pred_len: int = 96
    embed: str = "timeF"
    freq: str = "h"

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            # JSON has lists where a configuration, which is hashable, has tuples.
            if isinstance(value := getattr(self, field.name), list):
                object.__setattr__(self, field.name, tuple(value))
        if found := self.wrong_types() or self.problems():
            raise ValueError(f"{type(self).__name__}: " + "; ".join(found))

    def problems(self) -> list[str]:
        """Says what is wrong with the fields, one sentence each."""
        found = self.below(1, "enc_in", "dec_in", "c_out", "seq_len", "pred_len")
        found += self.below(0, "label_len")
        if self.label_len > self.seq_len:
            found.append(
                f"label_len must be at most seq_len ({self.seq_len}), got {self.label_len}: "
                "the decoder begins with the last steps of the look-back"
            )
        found += self.outside("embed", EMBEDS) + self.outside("freq", tuple(MARKS))
        return found

    def wrong_types(self) -> list[str]:
        """A sentence for each field whose value is of a type that it cannot have."""
        found, hints = [], typing.get_type_hints(type(self))
        for name in (field.name for field in dataclasses.fields(self)):
            hint = hints[name]
            kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
            if not any(_is_a(getattr(self, name), kind) for kind in kinds):
                wanted = getattr(hint, "__name__", str(hint))
                found.append(f"{name} must be {wanted}, got {getattr(self, name)!r}")
        return found

    def below(self, least: int, *names: str) -> list[str]:
        """A sentence for each of the fields ``names`` with a size smaller than ``least``."""
        found = []
        for name in names:
            value = getattr(self, name)
            sizes = value if isinstance(value, tuple) else () if value is None else (value,)
            if any(size < least for size in sizes):
                found.append(f"{name} must be at least {least}, got {value}")
        return found

    def outside(self, name: str, options: tuple[str, ...]) -> list[str]:
        """A sentence if the field ``name`` is none of the ``options``."""
        value = getattr(self, name)
        if value in options:
            return []
        return [f"{name} must be one of {', '.join(options)}, got {value!r}"]

    def per_block(self, name: str, count: int, blocks: str) -> list[str]:
        """A sentence if the field ``name`` lists another number of sizes than ``count``."""
        value = getattr(self, name)
        if not isinstance(value, tuple) or len(value) == count:
            return []
        return [f"{name} must be one number or {count}, one per {blocks}, got {len(value)}"]

    def wrong_scales(self, name: str) -> list[str]:
        """A sentence if the field ``name`` has a factor that is not a positive number."""
        value = getattr(self, name)
        wrong = [s for s in spread(value, 1) if s is not None and not 0 < s < math.inf]
        return [f"{name} must be positive, got {value}"] if wrong else []

    def wrong_dropout(self, rate: float) -> list[str]:
        """A sentence if a dropout rate is out of range; dropout counts in steps of 2**-16."""
        return [] if 0 <= rate <= 1 - 2**-16 else [f"dropout must be in [0, 1), got {rate}"]

    def sizes(self) -> Sizes:
        """The sizes that slicing changes, by field, also where the field is None.

        The fields come in such an order that what None means follows from the fields before it.
        """
        return {}

    def sharing(self, field: str) -> tuple[int, ...]:
        """For each block of a field, the first block with which it always shares its size.

        Blocks that have their weights in common do. By default no two blocks share.
        """
        return tuple(range(len(self.sizes()[field])))

    def scales(self) -> dict[str, tuple[float, ...]]:
        """Factors that follow from widths where their field is None: by field, one for each block.

        A sliced model keeps the factors that it was trained with.
        """
        return {}

    def listed(self) -> dict[str, Slot]:
        """The slots of last axes whose sizes the task bounds, by a part of the leaf's path.

        The slots of all other axes are found by giving each size a number of its own. Sizes that
        cannot take any number are listed here. Where several parts fit a path, the first holds.
        """
        return {}

    @property
    def dec_len(self) -> int:
        """Length of the decoder's input, ``label_len + pred_len``."""
        return self.label_len + self.pred_len

    @property
    def mark_dim(self) -> int:
        """F, the number of time-mark columns."""
        return mark_dim(self.embed, self.freq)


@dataclasses.dataclass(frozen=True)
class EncoderDecoderConfig(ForecastConfig):
    """Sizes of an encoder-decoder model; the defaults are the published study's.

    Attention blocks are counted in the order of their calls: one per encoder layer, then for each
    decoder layer the self-attention and the cross-attention. Feed-forward blocks likewise.

    Attributes:
      d_model: D, the width of the encoder, and of the decoder where ``d_model_dec`` is None.
      d_model_dec: width of the decoder.
      n_heads: heads, for all attention blocks or for each.
      d_keys: width of one head's queries and keys; None for ``d_model // n_heads``.
      d_values: width of one head's values; None for ``d_model // n_heads``.
      attention_scale: factor on the attention logits; None for what the widths imply. A model whose
        heads have been cut keeps the one it was trained with.
      e_layers: encoder layers.
      d_layers: decoder layers.
      d_ff: width of the feed-forward blocks, for all layers or for each.
      dropout: dropout rate.
      activation: ``"relu"`` or ``"gelu"`` (exact).
    """

    d_model: int = 512
    d_model_dec: int | None = None
    n_heads: PerBlock = 8
    d_keys: PerBlock | None = None
    d_values: PerBlock | None = None
    attention_scale: float | tuple[float, ...] | None = None
    e_layers: int = 2
    d_layers: int = 1
    d_ff: PerBlock = 2048
    dropout: float = 0.05
    activation: str = "gelu"

    def problems(self) -> list[str]:
        """Says what is wrong with the sizes, one sentence each."""
        found = super().problems()
        found += self.below(1, "d_model", "d_model_dec", "n_heads", "d_keys", "d_values", "d_ff")
        found += self.below(1, "e_layers", "d_layers")
        if self.e_layers >= 1 and self.d_layers >= 1:
            for name in ("n_heads", "d_keys", "d_values", "attention_scale"):
                found += self.per_block(name, self.e_layers + 2 * self.d_layers, "attention block")
            found += self.per_block("d_ff", self.e_layers + self.d_layers, "layer")
        found += self.wrong_scales("attention_scale")
        if not found and (self.d_keys is None or self.d_values is None):
            decoder = "d_model" if self.d_model_dec is None else "d_model_dec"
            names = ("d_model",) * self.e_layers + (decoder,) * (2 * self.d_layers)
            found += indivisible(names, self._block_widths(), self.n_heads)
        found += self.wrong_dropout(self.dropout) + self.outside("activation", ("relu", "gelu"))
        return found

    def sizes(self) -> Sizes:
        """Widths of both halves, sizes of all attention blocks, widths of the feed-forward ones."""
        return {
            "d_model": (self.d_model,),
            "d_model_dec": (self.decoder_width,),
            **sizes_of_heads(self.heads),
            "d_ff": self.ff_widths,
        }

    def scales(self) -> dict[str, tuple[float, ...]]:
        """``1 / sqrt(d_keys)`` for each attention block."""
        return {"attention_scale": logit_scales(self.heads)}

    @property
    def decoder_width(self) -> int:
        """Width of the decoder."""
        return self.d_model if self.d_model_dec is None else self.d_model_dec

    @property
    def heads(self) -> tuple[Heads, ...]:
        """Sizes of all attention blocks, in the order of their calls."""
        return heads_of(
            self._block_widths(), self.n_heads, self.d_keys, self.d_values, self.attention_scale
        )

    @property
    def encoder_heads(self) -> tuple[Heads, ...]:
        """Sizes of the encoder layers' attention blocks."""
        return self.heads[: self.e_layers]

    @property
    def self_heads(self) -> tuple[Heads, ...]:
        """Sizes of the decoder layers' self-attention blocks."""
        return self.heads[self.e_layers :: 2]

    @property
    def cross_heads(self) -> tuple[Heads, ...]:
        """Sizes of the decoder layers' cross-attention blocks."""
        return self.heads[self.e_layers + 1 :: 2]

    @property
    def ff_widths(self) -> tuple[int, ...]:
        """Widths of the feed-forward blocks, encoder layers first."""
        return spread(self.d_ff, self.e_layers + self.d_layers)

    def _block_widths(self) -> tuple[int, ...]:
        """Model widths at the attention blocks."""
        return (self.d_model,) * self.e_layers + (self.decoder_width,) * (2 * self.d_layers)


def spread(value: Any, count: int) -> tuple[Any, ...]:
    """One value per block, from one for all or one for each."""
    return value if isinstance(value, tuple) else (value,) * count


def heads_of(
    widths: tuple[int, ...],
    n_heads: PerBlock,
    d_keys: PerBlock | None,
    d_values: PerBlock | None,
    scale: float | tuple[float, ...] | None,
) -> tuple[Heads, ...]:
    """Sizes of the attention blocks of models with these widths, from fields of a configuration."""
    given = (spread(value, len(widths)) for value in (n_heads, d_keys, d_values, scale))
    return tuple(
        Heads(n, k or width // n, v or width // n, s)
        for width, n, k, v, s in zip(widths, *given, strict=True)
    )


def sizes_of_heads(heads: Sequence[Heads]) -> Sizes:
    """The three fields that state the sizes of attention blocks."""
    return {
        "n_heads": tuple(block.n_heads for block in heads),
        "d_keys": tuple(block.d_keys for block in heads),
        "d_values": tuple(block.d_values for block in heads),
    }


def logit_scales(heads: Sequence[Heads]) -> tuple[float, ...]:
    """Factors on the logits of full attention, ``1 / sqrt(d_keys)`` where none is given."""
    return tuple(
        1 / math.sqrt(block.d_keys) if block.scale is None else block.scale for block in heads
    )


def indivisible(names: Sequence[str], widths: Sequence[int], n_heads: PerBlock) -> list[str]:
    """A sentence for each block whose heads do not divide its width, with widths that they do.

    Args:
      names: the fields that the blocks' widths come from.
      widths: the blocks' widths.
      n_heads: heads, for all blocks or for each.
    """
    found = []
    for name, width, n in zip(names, widths, spread(n_heads, len(widths)), strict=True):
        if width % n:
            sizes = dict.fromkeys((width // n * n, -(-width // n) * n))
            near = " or ".join(f"{name}={size}" for size in sizes if size)
            remedy = f"pass {near}, another n_heads, or the head widths d_keys and d_values"
            found.append(f"{name} ({width}) must be a multiple of n_heads ({n}): {remedy}")
    return list(dict.fromkeys(found))


def _is_a(value: Any, kind: Any) -> bool:
    """Whether a value is of a type. Whole numbers count as floats, truth values not as numbers."""
    if args := typing.get_args(kind):
        return isinstance(value, tuple) and all(_is_a(item, args[0]) for item in value)
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    # These are abstract types, which numpy's numbers belong to as well.
    kinds = {int: numbers.Integral, float: numbers.Real}
    return isinstance(value, kinds.get(kind, kind))
