"""Autoformer (Wu et al., NeurIPS 2021, arXiv 2106.13008) in PyTorch.

The counterpart of :mod:`tsjax.models.autoformer`: the skeleton of
:mod:`third_party.pytorch.decomposition` with auto-correlation in place of attention.

Dimensions: B batch, L length of queries, S of keys, H heads, E head width, V value width.
"""

import math

import torch
from torch import Tensor, nn

from third_party.pytorch.decomposition import DecompositionForecaster, Mixes
from third_party.pytorch.layers import wide
from tsjax.models import AutoformerConfig, Heads


class AutoCorrelation(nn.Module):
    """Averages the values over the most similar lags (eq. 5 to 7).

    [B, L, H, E], [B, S, H, E] and [B, S, H, V] -> [B, L, H * V]. In train mode all samples of a
    batch share their lags. Keys and values are cut to L steps, or count as zero beyond S.
    """

    def __init__(self, c: AutoformerConfig, heads: Heads, length: int):
        super().__init__()
        self.scale = 1 / (heads.n_heads * heads.d_keys) if heads.scale is None else heads.scale
        self.length = length
        self.points = length if c.lags == "all" else max(2 * (length // 2), 1)
        self.count = min(max(int(c.factor * math.log(length)), 1), self.points)
        steps = torch.arange(length)
        # Row by row, by which lag step s enters step t.
        lags = (steps - steps.unsqueeze(1)) % length
        self.register_buffer("lags", lags.flatten(), persistent=False)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See the class."""
        length = self.length
        of_q, of_k = (torch.fft.rfft(wide(x.flatten(2)), n=length, dim=1) for x in (q, k))
        # Averaged before the inverse transform, which is linear: one is left of H * E.
        power = (of_q * of_k.conj()).sum(2) * self.scale
        bins = self.points // 2 + 1
        correlation = torch.fft.irfft(power[:, :bins], n=self.points, dim=1).to(q.dtype)
        shares = correlation.new_zeros(correlation.shape[0], length)
        if self.training:
            chosen = correlation.mean(0).topk(self.count).indices
            shares = shares.index_copy(1, chosen, correlation.index_select(1, chosen).softmax(1))
        else:
            best, chosen = correlation.topk(self.count)
            shares = shares.scatter(1, chosen, best.softmax(1))
        # A product with a circulant matrix per sample: on a CPU it takes a tenth of the time of
        # shifting the values once for each lag, and its gradient needs no scattered addition.
        mixing = shares.index_select(1, self.lags).unflatten(1, (length, length))
        v = v.flatten(2)[:, :length]
        return mixing[:, :, : v.shape[1]] @ v


class Autoformer(DecompositionForecaster):
    """Decomposing encoder-decoder with auto-correlation; see the module's docstring."""

    def __init__(self, c: AutoformerConfig):
        mixes = Mixes(
            encoder=[AutoCorrelation(c, heads, c.seq_len) for heads in c.encoder_heads],
            decoder=[
                (AutoCorrelation(c, own, c.dec_len), AutoCorrelation(c, cross, c.dec_len))
                for own, cross in zip(c.self_heads, c.cross_heads, strict=True)
            ],
        )
        # The series' order is in its lags: there are no positions.
        super().__init__(c, mixes, positions=False)
