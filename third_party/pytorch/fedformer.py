"""FEDformer (Zhou et al., ICML 2022, arXiv 2201.12740) in PyTorch.

The counterpart of :mod:`tsjax.models.fedformer` and :mod:`tsjax.models.fourier`: the skeleton of
:mod:`third_party.pytorch.decomposition` with mixing among a few Fourier frequencies, or among
multiwavelets (:mod:`third_party.pytorch.wavelets`). All encoder layers share one mixing block, and
so do all self blocks and all cross blocks of the decoder.

Dimensions: B batch, L length of queries, S of keys, H heads, E width of one head's queries and
keys, V of its values, M and N kept frequencies of queries and keys.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from third_party.pytorch.decomposition import DecompositionForecaster, Mixes
from third_party.pytorch.layers import wide
from third_party.pytorch.wavelets import WaveletBlock, WaveletCross, frequency_attention
from tsjax.models import FEDformerConfig, Heads, Kept

Modes = Mapping[str, Sequence[int]]


class Spectrum(nn.Module):
    """The complex weights [H, E, V, M] of a block, and which frequencies they read and write.

    All is known when the model is made, and so is what a series of this length does not have:
    frequencies beyond its spectrum are left out of both.

    Args:
      heads: widths.
      modes: frequencies that are read, M of them.
      bins: frequencies that are written.
      length: L.
      init_scale: weights are drawn from [0, init_scale).
    """

    def __init__(
        self,
        heads: Heads,
        modes: Sequence[int],
        bins: Sequence[int],
        length: int,
        init_scale: float,
    ):
        super().__init__()
        shape = (heads.n_heads, heads.d_keys, heads.d_values, len(modes))
        self.length = length
        self.weights1 = nn.Parameter(torch.rand(shape) * init_scale)
        self.weights2 = nn.Parameter(torch.rand(shape) * init_scale)
        size = length // 2 + 1
        usable = [i for i, pair in enumerate(zip(modes, bins, strict=True)) if max(pair) < size]
        self.all_usable = len(usable) == len(modes)
        written = torch.tensor([bins[i] for i in usable], dtype=torch.long)
        self.register_buffer("usable", torch.tensor(usable, dtype=torch.long), persistent=False)
        read = torch.tensor([modes[i] for i in usable], dtype=torch.long)
        self.register_buffer("modes", read, persistent=False)
        self.register_buffer("bins", written, persistent=False)
        # Bins 0 and L / 2 of a real series have no imaginary parts. Not all libraries for GPUs see
        # to that themselves (pytorch issue 154496).
        complex_bins = (written != 0) & (2 * written != length)
        self.all_complex = bool(complex_bins.all())
        imaginary = complex_bins.to(torch.get_default_dtype())[:, None, None]
        self.register_buffer("imaginary", imaginary, persistent=False)

    def read(self, x: Tensor) -> Tensor:
        """The frequencies of a series, [B, L, H, E] -> [B, M, H, E]."""
        frequencies = torch.fft.rfft(wide(x.flatten(2)), dim=1)
        return frequencies.index_select(1, self.modes).unflatten(2, x.shape[2:])

    def write(self, x: Tensor, scale: float = 1.0) -> Tensor:
        """Frequencies [B, M, H, E], mapped linearly, as a series [B, L, H * V]."""
        weight = torch.complex(wide(self.weights1), wide(self.weights2))
        if not self.all_usable:
            weight = weight.index_select(3, self.usable)
        y = torch.einsum("bmhe,hevm->bmhv", x, weight)
        if scale != 1.0:
            y = y * scale
        if not self.all_complex:
            y = torch.complex(y.real, y.imag * self.imaginary)
        y = y.flatten(2)
        empty = y.new_zeros(y.shape[0], self.length // 2 + 1, y.shape[2])
        series = torch.fft.irfft(empty.index_copy(1, self.bins, y), n=self.length, dim=1)
        return series.to(self.weights1.dtype)


def in_context(x: Tensor, context: str) -> Tensor:
    """[B, L, H * V], or what comes of reading its memory in the order [B, H * V, L] as such."""
    return x if context == "transposed" else x.transpose(1, 2).reshape(x.shape)


class FourierBlock(Spectrum):
    """Frequency-enhanced block FEB-f: [B, L, H, E] -> [B, L, H * V]; reads the queries only."""

    def __init__(self, c: FEDformerConfig, heads: Heads, width: int, length: int, modes: Modes):
        super().__init__(heads, modes["modes"], modes["bins"], length, width**-2)
        self.context = c.context

    def forward(self, q: Tensor, k: None, v: None) -> Tensor:
        """See the class."""
        del k, v
        return in_context(self.write(self.read(q)), self.context)


class FourierCross(Spectrum):
    """Frequency-enhanced attention FEA-f: [B, L, H, E] and [B, S, H, E] -> [B, L, H * V]."""

    def __init__(self, c: FEDformerConfig, heads: Heads, modes: Modes):
        queries = modes["query_modes"]
        super().__init__(heads, queries, queries, c.dec_len, c.decoder_width**-2)
        self.context, self.scale, self.activation = c.context, cross_scale(c), activation(c)
        keys = torch.tensor(list(modes["key_modes"]), dtype=torch.long)
        self.register_buffer("key_modes", keys, persistent=False)

    def forward(self, q: Tensor, k: Tensor, v: None) -> Tensor:
        """See the class."""
        del v
        of_k = torch.fft.rfft(wide(k.flatten(2)), dim=1).index_select(1, self.key_modes)
        of_k = of_k.unflatten(2, k.shape[2:])
        attended = frequency_attention(self.read(q), of_k, self.activation)
        return in_context(self.write(attended, self.scale), self.context)


def cross_scale(c: FEDformerConfig) -> float:
    """Factor on the result of a cross block."""
    return c.decoder_width**-2 if c.cross_scale is None else c.cross_scale


def activation(c: FEDformerConfig) -> str:
    """What a cross block applies to products: ``split``, ``complex`` or ``softmax``."""
    return c.complex_tanh if c.cross_activation == "tanh" else c.cross_activation


def drawn(kept: Kept) -> list[int]:
    """Frequencies of a new block, ascending."""
    order = torch.arange(kept.spectrum) if kept.select == "low" else torch.randperm(kept.spectrum)
    return sorted(order[: kept.n_modes].tolist())


def modes_of(c: FEDformerConfig, buffers: Mapping[str, Any] | None) -> Mapping[str, Modes]:
    """The frequencies of the three Fourier blocks: those of a tsjax model, or new ones.

    Args:
      c: sizes.
      buffers: the collection of this name of the model's variables.
    """
    blocks = ("encoder_mixing", "decoder_mixing", "cross_mixing")
    if buffers is not None:
        found = {
            block: {name: [int(i) for i in index] for name, index in buffers[block].items()}
            for block in blocks
        }
    else:
        new = {name: drawn(kept) for name, kept in c.kept.items()}
        cross = {"query_modes": new["cross_q"], "key_modes": new["cross_kv"]}
        own = ({"modes": new["encoder"]}, {"modes": new["decoder"]})
        found = dict(zip(blocks, (*own, cross), strict=True))
    for block in blocks[:2]:
        if c.output_bins == "read":
            found[block]["bins"] = found[block]["modes"]
        elif buffers is None:
            found[block]["bins"] = list(range(len(found[block]["modes"])))
    return found


class FEDformer(DecompositionForecaster):
    """Decomposing encoder-decoder that mixes frequencies; see the module's docstring.

    Args:
      c: sizes.
      buffers: of a tsjax model, for the frequencies it has drawn; by default they are drawn here.
    """

    def __init__(self, c: FEDformerConfig, buffers: Mapping[str, Any] | None = None):
        if c.version == "fourier":
            modes = modes_of(c, buffers)
            encoder: nn.Module = FourierBlock(
                c, c.encoder_heads[0], c.d_model, c.seq_len, modes["encoder_mixing"]
            )
            decoder: nn.Module = FourierBlock(
                c, c.self_heads[0], c.decoder_width, c.dec_len, modes["decoder_mixing"]
            )
            cross: nn.Module = FourierCross(c, c.cross_heads[0], modes["cross_mixing"])
            unread = ("kv", "v")
        else:
            encoder, decoder = (
                WaveletBlock(c, heads[0], i)
                for i, heads in enumerate((c.encoder_heads, c.self_heads))
            )
            cross = WaveletCross(c, c.cross_heads[0], cross_scale(c), activation(c))
            unread = ("qk", "v")
        mixes = Mixes(
            [encoder] * c.e_layers, [(decoder, cross)] * c.d_layers, c.projections, unread
        )
        super().__init__(c, mixes, positions=c.positions)
