"""FEDformer (Zhou et al., ICML 2022, arXiv 2201.12740).

Season and trend are taken apart in every layer (:mod:`tsjax.models.decomposition`), and attention
is replaced by mixing in the frequency domain, in one of two versions: among a few Fourier
frequencies (:mod:`tsjax.models.fourier`), or level by level among multiwavelets
(:mod:`tsjax.models.wavelets`). All encoder layers share one mixing block, weights and frequencies,
and so do all self blocks and all cross blocks of the decoder.

Dimensions: B batch, C channels, F time marks, D model width, H heads, E width of one head's queries
and keys, V of its values.
"""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import flax.linen as nn
from jax import Array

from tsjax.models.base import PerBlock, Sizes, Slot, spread
from tsjax.models.decomposition import STUDY_AVERAGES, DecompositionConfig, Mixes, encode_decode
from tsjax.models.fourier import FourierBlock, FourierCross, Kept
from tsjax.models.layers import Heads
from tsjax.models.wavelets import WaveletBlock, WaveletCross, padded_length

MODES = ("encoder", "decoder", "cross_q", "cross_kv")
"""The lists of frequencies that a Fourier version keeps, in the order in which PyTorch draws them:
encoder, decoder, the cross block's queries, its keys."""

MOST_MODES = 64
"""How many frequencies a block keeps where the configuration does not say."""

_HEADS = ("n_heads", "d_keys", "d_values")

OPTIONS = {
    "version": ("fourier", "wavelets"),
    "mode_select": ("random", "low"),
    "cross_activation": ("tanh", "softmax"),
    "output_bins": ("read", "lowest"),
    "context": ("transposed", "reread"),
    "complex_tanh": ("split", "complex"),
    "decoder_spectrum": ("decoder", "half_look_back"),
}

_PUBLISHED = {
    "output_bins": "lowest",
    "context": "reread",
    "decoder_spectrum": "half_look_back",
    "dead_projections": True,
    "clip_modes": True,
    "wavelet_c": 128,
    "cross_c": 64,
}


@dataclasses.dataclass(frozen=True)
class FEDformerConfig(DecompositionConfig):
    """Sizes of a :class:`FEDformer`; the defaults are the published study's.

    A block that is built for L steps chooses among the frequencies 0 ... L // 2 - 1.

    Attributes:
      version: ``fourier`` or ``wavelets``, in any letter case.
      mode_select: ``random`` frequencies, or ``low``: the lowest ones.
      modes: how many frequencies each block keeps if it has so many, None for 64; or the exact
        numbers for the encoder, the decoder, the cross block's queries and its keys, as of a pruned
        model. The wavelet version keeps at most so many per level in its cross block, always the
        lowest.
      cross_activation: what the cross block applies to the products of queries and keys: ``tanh``,
        or ``softmax`` of their absolute values.
      cross_scale: factor on the cross block's result; None for ``1 / decoder width ** 2``. A model
        whose width has been cut keeps the one it was trained with.
      wavelet_c: channels of the wavelet self blocks, for both or for the encoder's and the
        decoder's; None for a quarter of their widths. Published are 128, whatever the width.
      wavelet_k: Legendre polynomials of the wavelet self blocks.
      wavelet_alpha: frequencies that the wavelet self blocks keep per level, for both or for each;
        always the lowest.
      wavelet_skip: how many of the coarsest levels the wavelet self blocks leave out.
      cross_c: channels of the wavelet cross block; None for an eighth of the decoder's width.
        Published are 64.
      cross_k: Legendre polynomials of the wavelet cross block.
      output_bins: where a Fourier self block writes what it has made of the frequencies it reads:
        back (``read``), or as published to the ``lowest`` ones, 0, 1, 2, ...
      context: ``transposed``, or as published ``reread``: the result of a Fourier block [B, H, V,
        L] is taken for [B, L, H * V] as it lies in memory, which mixes steps and heads.
      positions: whether the embeddings have a positional table, as in Time-Series-Library.
      complex_tanh: whether ``tanh`` is that of the real and of the imaginary part (``split``), as
        in Time-Series-Library, or that of the ``complex`` number, as in the authors' code.
      decoder_spectrum: what the Fourier blocks of the decoder are built for: the ``decoder``'s
        length, or as published for ``half_look_back``, ``seq_len // 2 + pred_len`` steps;
        frequencies that its series do not have are then left out.
      dead_projections: whether to have, as published, projections that nothing reads. A Fourier
        block reads only queries, a wavelet one only values, a cross block only queries and keys.
      clip_modes: whether ``modes`` may be more than any block has, which as published means all
        that there are. Otherwise such a number is refused.
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
        {
            "corrected": {},
            # Its script has no flag for positions, and asks for 32 modes.
            "tslib": _PUBLISHED | {"positions": True, "modes": 32},
            "paper": _PUBLISHED | STUDY_AVERAGES | {"complex_tanh": "complex", "wavelet_skip": 3},
        }
    )

    loose: ClassVar[Mapping[str, tuple[str, ...]]] = MappingProxyType(
        {
            # Dead projections are read by nothing, and a wavelet block maps the heads that it
            # reads to other heads.
            r"attention/(query|key|value|out)/kernel$": _HEADS,
            # The value projection is dead. The others are where series are too short for a level.
            r"cross_mixing/(query|value|out)/kernel$": ("cross_c",),
            # Each kernel has frequencies of its own, and none is called where series are too short
            # for a level.
            r"_mixing/\w+_to_\w+/real$": ("wavelet_c", "wavelet_alpha"),
        }
    )

    version: str = "fourier"
    mode_select: str = "random"
    modes: PerBlock | None = None
    cross_activation: str = "tanh"
    cross_scale: float | None = None
    wavelet_c: PerBlock | None = None
    wavelet_k: int = 8
    wavelet_alpha: PerBlock = 16
    wavelet_skip: int = 1
    cross_c: int | None = None
    cross_k: int = 8
    output_bins: str = "read"
    context: str = "transposed"
    positions: bool = False
    complex_tanh: str = "split"
    decoder_spectrum: str = "decoder"
    dead_projections: bool = False
    clip_modes: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "version", str(self.version).lower())
        super().__post_init__()

    def problems(self) -> list[str]:
        """Says what is wrong with the sizes, one sentence each."""
        found = super().problems()
        for name, options in OPTIONS.items():
            found += self.outside(name, options)
        found += self.below(1, "modes", "wavelet_c", "wavelet_k", "wavelet_alpha")
        found += self.below(1, "cross_c", "cross_k") + self.below(0, "wavelet_skip")
        for name in ("wavelet_c", "wavelet_alpha"):
            found += self.per_block(name, 2, "wavelet self block")
        found += self.per_block("modes", len(MODES), f"list of {', '.join(MODES)}")
        if self.version == "fourier" and self.seq_len == 1:
            found.append("seq_len must be at least 2 for fourier: one step has no frequencies")
        if self.attention_scale is not None:
            found.append("attention_scale must be None, there are no logits: see cross_scale")
        found += self.wrong_scales("cross_scale")
        if not found:
            found += self._unshared() + self._too_many_modes()
        return found

    def _unshared(self) -> list[str]:
        kinds = {
            "encoder": self.encoder_heads,
            "decoder self": self.self_heads,
            "decoder cross": self.cross_heads,
        }
        return [
            f"n_heads, d_keys and d_values must agree among the {kind} blocks, which share their "
            f"weights, got {', '.join(str(tuple(heads[:3])) for heads in blocks)}"
            for kind, blocks in kinds.items()
            if len({heads[:3] for heads in blocks}) > 1
        ]

    def _too_many_modes(self) -> list[str]:
        if isinstance(self.modes, tuple):
            if self.version == "wavelets":
                return [f"modes must be one number for wavelets, got {self.modes}"]
            return [
                f"modes has {count} for {name}, which has {size} frequencies"
                for name, count, size in zip(MODES, self.modes, self.spectra, strict=True)
                if count > size
            ]
        sizes = dict(zip(MODES, self.spectra, strict=True))
        if self.version == "wavelets":
            # The finest level has half of the padded series' steps.
            sizes = {"cross": padded_length(self.dec_len) // 4}
        most = max(sizes.values())
        if self.clip_modes or self.modes is None or self.modes <= most:
            return []
        listed = ", ".join(f"{name} {size}" for name, size in sizes.items())
        remedy = f"pass modes={most}, or clip_modes=True to keep what there is"
        longest = f"{most}, the frequencies of the longest block"
        return [f"modes must be at most {longest}, got {self.modes} ({listed}): {remedy}"]

    def sizes(self) -> Sizes:
        """Adds what the version mixes with: frequencies, or wavelet channels."""
        sizes = super().sizes()
        if self.version == "fourier":
            return {**sizes, "modes": tuple(kept.n_modes for kept in self.kept.values())}
        return {
            **sizes,
            "wavelet_c": self.wavelet_channels,
            "wavelet_alpha": spread(self.wavelet_alpha, 2),
            "cross_c": (self.cross_channels,),
        }

    def sharing(self, field: str) -> tuple[int, ...]:
        """All encoder layers share one mixing, all self blocks one, and all cross blocks one."""
        if field not in _HEADS:
            return super().sharing(field)
        n = self.e_layers
        return (0,) * n + (n, n + 1) * self.d_layers

    def scales(self) -> dict[str, tuple[float, ...]]:
        """The factor on the cross block's result, the only one of the model."""
        return {"cross_scale": (self.cross_factor,)}

    def listed(self) -> dict[str, Slot]:
        """The modes of the Fourier blocks: a series has no more than half its steps of them."""
        if self.version != "fourier":
            return {}
        names = ("cross_mixing/key_modes", "encoder_mixing", "decoder_mixing", "cross_mixing")
        lists = ("cross_kv", "encoder", "decoder", "cross_q")
        return {
            name: ("modes", MODES.index(list_)) for name, list_ in zip(names, lists, strict=True)
        }

    @property
    def cross_factor(self) -> float:
        """Factor on the cross block's result."""
        return self.decoder_width**-2 if self.cross_scale is None else self.cross_scale

    @property
    def spectra(self) -> tuple[int, ...]:
        """How many frequencies a Fourier version chooses from, for each list of ``MODES``."""
        half = self.decoder_spectrum == "half_look_back"
        decoder = self.seq_len // 2 + self.pred_len if half else self.dec_len
        return tuple(steps // 2 for steps in (self.seq_len, decoder, decoder, self.seq_len))

    @property
    def kept(self) -> dict[str, Kept]:
        """The frequencies that a Fourier version keeps, by the names in ``MODES``."""
        each = spread(self.modes or MOST_MODES, len(MODES))
        return {
            name: Kept(min(count, size), size, self.mode_select)
            for name, count, size in zip(MODES, each, self.spectra, strict=True)
        }

    @property
    def wavelet_channels(self) -> tuple[int, int]:
        """Channels of the wavelet self blocks: the encoder's and the decoder's."""
        first, second = spread(self.wavelet_c, 2)
        return first or max(1, self.d_model // 4), second or max(1, self.decoder_width // 4)

    @property
    def cross_channels(self) -> int:
        """Channels of the wavelet cross block."""
        return self.cross_c or max(1, self.decoder_width // 8)

    @property
    def projections(self) -> tuple[str, str]:
        """Which of query, key and value there are in self blocks, and in cross blocks."""
        if self.dead_projections:
            return "qkv", "qkv"
        return ("q" if self.version == "fourier" else "v"), "qk"


class FEDformer(nn.Module):
    """Decomposing encoder-decoder that mixes frequencies; see the module's docstring."""

    config: FEDformerConfig

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
          train: whether dropout is active (then an rng stream ``dropout`` is needed).

        Returns:
          The forecast [B, pred_len, c_out].
        """
        del x_dec
        c = self.config
        blocks = _wavelet_blocks if c.version == "wavelets" else _fourier_blocks
        encoder, decoder, cross = blocks(c)
        mixes = Mixes([encoder] * c.e_layers, [(decoder, cross)] * c.d_layers, c.projections)
        return encode_decode(
            c, mixes, x_enc, x_mark_enc, x_mark_dec, positions=c.positions, train=train
        )


def _fourier_blocks(c: FEDformerConfig) -> tuple[nn.Module, nn.Module, nn.Module]:
    """The shared blocks: encoder, decoder, cross."""

    def own(name: str, heads: Heads, width: int) -> FourierBlock:
        mixing = f"{name}_mixing"
        return FourierBlock(heads, c.kept[name], width**-2, c.output_bins, c.context, name=mixing)

    cross = FourierCross(
        c.cross_heads[0],
        queries=c.kept["cross_q"],
        keys=c.kept["cross_kv"],
        init_scale=c.decoder_width**-2,
        scale=c.cross_factor,
        activation=_activation(c),
        context=c.context,
        name="cross_mixing",
    )
    encoder = own("encoder", c.encoder_heads[0], c.d_model)
    return encoder, own("decoder", c.self_heads[0], c.decoder_width), cross


def _wavelet_blocks(c: FEDformerConfig) -> tuple[nn.Module, nn.Module, nn.Module]:
    """The shared blocks: encoder, decoder, cross."""
    assert not isinstance(c.modes, tuple)

    def own(index: int, name: str, heads: Heads) -> WaveletBlock:
        channels = c.wavelet_channels[index]
        alpha = spread(c.wavelet_alpha, 2)[index]
        mixing = f"{name}_mixing"
        return WaveletBlock(heads, channels, c.wavelet_k, alpha, c.wavelet_skip, name=mixing)

    cross = WaveletCross(
        c.cross_heads[0],
        channels=c.cross_channels,
        order=c.cross_k,
        modes=c.modes or MOST_MODES,
        scale=c.cross_factor,
        activation=_activation(c),
        dead=c.dead_projections,
        name="cross_mixing",
    )
    encoder = own(0, "encoder", c.encoder_heads[0])
    return encoder, own(1, "decoder", c.self_heads[0]), cross


def _activation(c: FEDformerConfig) -> str:
    return c.complex_tanh if c.cross_activation == "tanh" else c.cross_activation
