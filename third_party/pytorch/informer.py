"""Informer (Zhou et al., AAAI 2021, arXiv 2012.07436) in PyTorch.

The counterpart of :mod:`tsjax.models.informer`: a Transformer with ProbSparse attention, and an
encoder that halves the length between its layers.

Dimensions: B batch, L length of queries, S of keys, H heads, E head width, V value width, D model
width, U sampled keys, N chosen queries.
"""

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from third_party.pytorch.layers import DataEmbedding, FullAttention
from third_party.pytorch.transformer import Decoder, Encoder
from tsjax.models import Heads, InformerConfig


class ProbAttention(nn.Module):
    """ProbSparse attention: [B, L, H, E], [B, S, H, E] and [B, S, H, V] -> [B, L, H * V].

    The N queries whose largest sampled logit stands out most attend to all keys, the others get the
    mean of the values or, if causal, their running sum. In evaluation the sampled keys are those of
    the buffer ``index``, in train mode they are drawn anew in each call.

    Attributes:
      redraws: whether train mode draws anew.
    """

    def __init__(
        self, c: InformerConfig, heads: Heads, length: int, keys: int, *, causal: bool = False
    ):
        super().__init__()
        self.scale = heads.d_keys**-0.5 if heads.scale is None else heads.scale
        self.reread = c.context == "reread"
        self.causal = causal
        self.redraws = True
        self.n_chosen = _count(c.factor, length)
        generator = torch.Generator().manual_seed(c.sample_seed)
        index = torch.randint(keys, (length, _count(c.factor, keys)), generator=generator)
        self.register_buffer("index", index, persistent=False)
        self.register_buffer("steps", torch.arange(keys), persistent=False)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See the class."""
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        length = q.shape[2]
        chosen = self._most_selective(q.detach(), k.detach())
        rows = q.gather(2, chosen.unsqueeze(-1).expand(-1, -1, -1, q.shape[-1]))
        seen = self.steps <= chosen.unsqueeze(-1) if self.causal else None
        attended = functional.scaled_dot_product_attention(
            rows, k, v, attn_mask=seen, scale=self.scale
        )
        others = v.cumsum(2) if self.causal else v.mean(2, keepdim=True).expand(-1, -1, length, -1)
        where = chosen.unsqueeze(-1).expand(-1, -1, -1, v.shape[-1])
        context = others.scatter(2, where, attended)
        if self.reread:
            return context.reshape(context.shape[0], length, -1)
        return context.transpose(1, 2).flatten(2)

    def _most_selective(self, q: Tensor, k: Tensor) -> Tensor:
        """Positions of the queries that are to attend, [B, H, N]."""
        keys = k.shape[2]
        index = self.index
        if self.training and self.redraws:
            index = torch.randint_like(index, keys)
        # All logits, [B, H, L, S], and not only the sampled ones, for which [B, H, L, U, E] keys
        # would have to be gathered: at 96 steps that takes a CPU seven times as long.
        logits = (q @ k.mT).gather(3, index.expand(*q.shape[:2], -1, -1))
        score = logits.amax(3) - logits.sum(3) / keys
        return score.topk(self.n_chosen, sorted=False).indices


def _count(factor: int, length: int) -> int:
    return min(max(factor * math.ceil(math.log(length)), 1), length)


class Distil(nn.Module):
    """Convolution, batch norm, ELU and max-pooling with stride 2 (eq. 5)."""

    def __init__(self, d_model: int, padding: int):
        super().__init__()
        self.downConv = nn.Conv1d(d_model, d_model, 3, padding=padding, padding_mode="circular")
        self.norm = nn.BatchNorm1d(d_model)
        self.activation = nn.ELU()
        self.maxPool = nn.MaxPool1d(3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, D] -> [B, about L / 2, D]."""
        y = self.activation(self.norm(self.downConv(x.transpose(1, 2))))
        return self.maxPool(y).transpose(1, 2)


def encoder_lengths(c: InformerConfig) -> list[int]:
    """Steps that go into each encoder layer, and steps that the last one gives."""
    lengths = [c.seq_len]
    for _ in range(c.e_layers - 1):
        convolved = lengths[-1] + 2 * c.distil_padding - 2
        lengths.append((convolved - 1) // 2 + 1 if c.distil else lengths[-1])
    return [*lengths, lengths[-1]]


class Informer(nn.Module):
    """Encoder-decoder with ProbSparse attention; see the module's docstring."""

    def __init__(self, c: InformerConfig):
        super().__init__()
        *lengths, memory = encoder_lengths(c)
        encoder = [
            ProbAttention(c, heads, length, length)
            for heads, length in zip(c.encoder_heads, lengths, strict=True)
        ]
        decoder = [
            (
                ProbAttention(c, own, c.dec_len, c.dec_len, causal=True),
                FullAttention(cross, c.dropout)
                if c.cross_attention == "full"
                else ProbAttention(c, cross, c.dec_len, memory),
            )
            for own, cross in zip(c.self_heads, c.cross_heads, strict=True)
        ]
        between = [Distil(c.d_model, c.distil_padding) for _ in range(c.e_layers - 1)]
        self.enc_embedding = DataEmbedding(c, c.enc_in, c.d_model)
        self.dec_embedding = DataEmbedding(c, c.dec_in, c.decoder_width)
        self.encoder = Encoder(c, encoder, between if c.distil else ())
        self.decoder = Decoder(c, decoder)

    def forward(
        self, x_enc: Tensor, x_mark_enc: Tensor, x_dec: Tensor, x_mark_dec: Tensor
    ) -> Tensor:
        """[B, seq_len, C], [B, seq_len, F], [B, dec_len, C], [B, dec_len, F] -> the forecast."""
        memory = self.encoder(self.enc_embedding(x_enc, x_mark_enc))
        return self.decoder(self.dec_embedding(x_dec, x_mark_dec), memory)

    @torch.no_grad()
    def set_draws(self, buffers: dict) -> None:
        """Takes over the sampled keys of a tsjax model, its collection ``buffers``."""
        layers = itertools.chain(
            (
                (f"encoder_sampling_{i}", a.attention)
                for i, a in enumerate(self.encoder.attn_layers)
            ),
            ((f"self_sampling_{i}", a.self_attention) for i, a in enumerate(self.decoder.layers)),
            ((f"cross_sampling_{i}", a.cross_attention) for i, a in enumerate(self.decoder.layers)),
        )
        for name, attention in layers:
            if isinstance(mix := attention.inner_correlation, ProbAttention):
                mix.index.copy_(torch.tensor(buffers[name]["index"].tolist()))
