"""How FEDformer mixes steps with multiwavelets (arXiv 2201.12740, section 3.3), in PyTorch.

The counterpart of :mod:`tsjax.models.wavelets`, which says what the filters are.

Dimensions: B batch, L length of queries, S of keys, N steps of one level, H heads, E width of one
head's queries and keys, V of its values, C wavelet channels, K Legendre polynomials.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from third_party.pytorch.layers import wide
from tsjax.models import (
    MOST_MODES,
    FEDformerConfig,
    Heads,
    filter_tables,
    levels,
    padded_length,
    spread,
)

FILTERS = {"ec_s": "smooth", "ec_d": "detail", "rc_e": "even", "rc_o": "odd"}


def frequency_attention(q: Tensor, k: Tensor, activation: str) -> Tensor:
    """Attention among frequencies; the keys are the values too, and are not conjugated.

    Args:
      q: frequencies of the queries [B, M, H, E].
      k: frequencies of the keys [B, N, H, E].
      activation: of the products: the hyperbolic tangent of both parts (``split``) or of the
        ``complex`` number, or the ``softmax`` over the keys of their absolute values.

    Returns:
      [B, M, H, E].
    """
    products = torch.einsum("bmhe,bnhe->bhmn", q, k)
    if activation == "split":
        weights = torch.complex(products.real.tanh(), products.imag.tanh())
    elif activation == "complex":
        weights = products.tanh()
    else:
        weights = products.abs().softmax(-1).to(products.dtype)
    return torch.einsum("bhmn,bnhe->bmhe", weights, k)


def series_of_lowest(frequencies: Tensor, length: int) -> Tensor:
    """The series [B, length, ...] of which only the lowest frequencies [B, M, ...] are not zero."""
    count = frequencies.shape[1]
    # Bins 0 and length / 2 of a real series have no imaginary parts.
    nyquist = 2 * (count - 1) == length
    inner = frequencies.imag[:, 1 : count - nyquist]
    imag = functional.pad(inner, (0, 0) * (frequencies.ndim - 2) + (1, int(nyquist)))
    return torch.fft.irfft(torch.complex(frequencies.real, imag), n=length, dim=1)


def wrap(x: Tensor) -> Tensor:
    """Appends the first steps of [B, L, ...] up to the next power of two."""
    missing = padded_length(x.shape[1]) - x.shape[1]
    return torch.cat([x, x[:, :missing]], dim=1) if missing else x


def register_filters(module: nn.Module, order: int) -> None:
    """Gives a module its filters, buffers of float32's values."""
    tables = filter_tables(order)
    for theirs, ours in FILTERS.items():
        filters = torch.from_numpy(tables[ours].reshape(2 * order, order)).float()
        module.register_buffer(theirs, filters.to(torch.get_default_dtype()))


def halve(module: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """One level down: [B, 2 N, C, K] -> (detail, smooth), each [B, N, C, K]."""
    pairs = torch.cat([x[:, ::2], x[:, 1::2]], dim=-1)
    return pairs @ module.ec_d, pairs @ module.ec_s


def double(module: nn.Module, detail: Tensor, smooth: Tensor) -> Tensor:
    """The inverse of :func:`halve`."""
    parts = torch.cat([smooth, detail], dim=-1)
    return torch.stack([parts @ module.rc_e, parts @ module.rc_o], dim=2).flatten(1, 2)


class SparseKernel(nn.Module):
    """A linear map of its own for each of the lowest ``alpha`` frequencies, on [B, N, C, K]."""

    def __init__(self, width: int, alpha: int):
        super().__init__()
        shape = (width, width, alpha)
        self.weights1 = nn.Parameter(torch.rand(shape) * width**-2)
        self.weights2 = nn.Parameter(torch.rand(shape) * width**-2)

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, C, K] -> [B, N, C, K]."""
        count = min(self.weights1.shape[2], x.shape[1] // 2 + 1)
        frequencies = torch.fft.rfft(wide(x.flatten(2)), dim=1)[:, :count]
        weight = torch.complex(*(wide(w[..., :count]) for w in (self.weights1, self.weights2)))
        y = torch.einsum("bmi,iom->bmo", frequencies, weight)
        return series_of_lowest(y, x.shape[1]).view_as(x).to(x.dtype)


class Multiwavelets(nn.Module):
    """Mixes a series on all its levels: [B, N, C, K] -> [B, N, C, K], N a power of two."""

    def __init__(self, channels: int, order: int, alpha: int):
        super().__init__()
        register_filters(self, order)
        self.A = SparseKernel(channels * order, alpha)
        self.B = SparseKernel(channels * order, alpha)
        self.C = SparseKernel(channels * order, alpha)
        self.T0 = nn.Linear(order, order)

    def forward(self, x: Tensor, count: int) -> Tensor:
        """Halves ``x`` ``count`` times."""
        mixed = []
        for _ in range(count):
            detail, x = halve(self, x)
            mixed.append((self.A(detail) + self.B(x), self.C(detail)))
        x = self.T0(x)
        for detail, smooth in reversed(mixed):
            x = double(self, detail, x + smooth)
        return x


class WaveletBlock(nn.Module):
    """Wavelet-enhanced block FEB-w: [B, L, H, V] -> [B, L, H * V]; reads the values only.

    Args:
      c: sizes.
      heads: widths.
      i: 0 for the encoder's block, 1 for the decoder's.
    """

    def __init__(self, c: FEDformerConfig, heads: Heads, i: int):
        super().__init__()
        channels, order = c.wavelet_channels[i], c.wavelet_k
        self.shape, self.skip = (channels, order), c.wavelet_skip
        width = heads.n_heads * heads.d_values
        self.Lk0 = nn.Linear(width, channels * order)
        self.Lk1 = nn.Linear(channels * order, width)
        alpha = spread(c.wavelet_alpha, 2)[i]
        self.MWT_CZ = nn.ModuleList([Multiwavelets(channels, order, alpha)])

    def forward(self, q: None, k: None, v: Tensor) -> Tensor:
        """See the class."""
        del q, k
        length = v.shape[1]
        x = wrap(self.Lk0(v.flatten(2)).unflatten(2, self.shape))
        x = self.MWT_CZ[0](x, levels(length) - self.skip)
        return self.Lk1(x[:, :length].flatten(2))


class WaveletCross(nn.Module):
    """Wavelet-enhanced attention FEA-w: [B, L, H, E] and [B, S, H, E] -> [B, L, H * V].

    Args:
      c: sizes.
      heads: widths.
      scale: factor on the result of each attention.
      activation: see :func:`frequency_attention`.
    """

    def __init__(self, c: FEDformerConfig, heads: Heads, scale: float, activation: str):
        super().__init__()
        self.shape = channels, order = c.cross_channels, c.cross_k
        self.modes, self.scale, self.activation = c.modes or MOST_MODES, scale, activation
        register_filters(self, order)
        d_keys, d_values = heads.n_heads * heads.d_keys, heads.n_heads * heads.d_values
        self.Lq = nn.Linear(d_keys, channels * order)
        self.Lk = nn.Linear(d_keys, channels * order)
        self.out = nn.Linear(channels * order, d_values)
        if c.dead_projections:
            # As published; nothing reads them.
            self.Lv = nn.Linear(d_values, channels * order)
            self.T0 = nn.Linear(order, order)

    def forward(self, q: Tensor, k: Tensor, v: None) -> Tensor:
        """See the class."""
        del v
        length, missing = q.shape[1], q.shape[1] - k.shape[1]
        q = self.Lq(q.flatten(2)).unflatten(2, self.shape)
        k = self.Lk(k.flatten(2)[:, :length]).unflatten(2, self.shape)
        if missing > 0:
            k = functional.pad(k, (0, 0, 0, 0, 0, missing))
        q, k = wrap(q), wrap(k)
        mixed = []
        for _ in range(levels(length)):
            (detail_q, q), (detail_k, k) = halve(self, q), halve(self, k)
            smooth = self._attend(detail_q, detail_k)
            mixed.append((smooth + self._attend(q, k), smooth))
        x = self._attend(q, k)
        for detail, smooth in reversed(mixed):
            x = double(self, detail, x + smooth)
        return self.out(x[:, :length].flatten(2))

    def _attend(self, q: Tensor, k: Tensor) -> Tensor:
        """Attention among the lowest frequencies, within each polynomial, on [B, N, C, K]."""
        length = q.shape[1]
        count = min(length // 2, self.modes)
        if count == 0:
            return torch.zeros_like(q)
        of_q, of_k = (torch.fft.rfft(wide(x), dim=1)[:, :count].transpose(2, 3) for x in (q, k))
        y = frequency_attention(of_q, of_k, self.activation).transpose(2, 3) * self.scale
        return series_of_lowest(y, length).to(q.dtype)
