"""Crossformer (Zhang & Yan, ICLR 2023, openreview vSVLM2j9eie) in PyTorch.

The counterpart of :mod:`tsjax.models.crossformer`: tokens are segments of a channel, a layer
attends over segments, then over channels through a few routers; the encoder merges segments, and
the decoder's layers predict one summand of the forecast each.

Dimensions: B batch, L time steps, C channels, W steps of a segment (``seg_len``), S segments,
N segments of a window (``win_size``), R routers, D model width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from third_party.pytorch.layers import Attention, FullAttention, PositionalEmbedding
from tsjax.models import CrossformerConfig, Heads, TwoStageSizes


def mlp(width: int, hidden: int) -> nn.Sequential:
    """Two linear layers around a GELU, [..., D] -> [..., D]."""
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))


def windows(x: Tensor, size: int) -> Tensor:
    """Joins neighbouring segments, [B, C, S, D] -> [B, C, ceil(S / N), N * D].

    Where N does not divide S, the last ``-S mod N`` segments follow once more.
    """
    while missing := -x.shape[2] % size:
        x = torch.cat([x, x[:, :, -missing:]], dim=2)
    return x.reshape(*x.shape[:2], -1, size * x.shape[3])


class SegmentEmbedding(nn.Module):
    """Projects segments, [B, C, S, W] -> [B, C, S, D], and adds the sinusoidal table, if any."""

    def __init__(self, c: CrossformerConfig):
        super().__init__()
        width = c.level_widths[0]
        self.biased, self.sinusoid = c.embedding_bias, c.sinusoid
        if c.embedding_bias:
            self.linear = nn.Linear(c.seg_len, width)
        else:
            self.value_embedding = nn.Linear(c.seg_len, width, bias=False)
        if c.sinusoid:
            self.position_embedding = PositionalEmbedding(width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, S, W] -> [B, C, S, D]."""
        y = self.linear(x) if self.biased else self.value_embedding(x)
        return y + self.position_embedding(x.shape[2]) if self.sinusoid else y


class TwoStageAttention(nn.Module):
    """Attention over segments, then over channels: [B, C, S, D] -> [B, C, S, D] (section 3.2)."""

    def __init__(self, sizes: TwoStageSizes, width: int, segments: int, dropout: float):
        super().__init__()
        self.time_attention = _attention(sizes.time, dropout, width)
        self.dim_sender = Attention(
            sizes.sender,
            FullAttention(sizes.sender, dropout),
            sizes.d_router,
            width,
            sizes.d_message,
        )
        self.dim_receiver = _attention(sizes.receiver, dropout, width, sizes.d_message)
        self.router = nn.Parameter(torch.randn(segments, sizes.n_routers, sizes.d_router))
        self.dropout = nn.Dropout(dropout)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.norm3 = nn.LayerNorm(width)
        self.norm4 = nn.LayerNorm(width)
        self.MLP1 = mlp(width, sizes.d_ff[0])
        self.MLP2 = mlp(width, sizes.d_ff[1])

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, S, D] -> [B, C, S, D]."""
        batch, channels = x.shape[:2]
        drop = self.dropout
        x = x.flatten(0, 1)
        x = self.norm1(x + drop(self.time_attention(x, x)))
        x = self.norm2(x + drop(self.MLP1(x)))
        x = x.unflatten(0, (batch, channels)).transpose(1, 2).flatten(0, 1)
        # The routers are alike for all windows: the sender projects them once.
        messages = self.dim_sender(self.router, x)
        x = self.norm3(x + drop(self.dim_receiver(x, messages)))
        x = self.norm4(x + drop(self.MLP2(x)))
        return x.unflatten(0, (batch, -1)).transpose(1, 2)


class SegmentMerging(nn.Module):
    """Merges N neighbouring segments: [B, C, S, D] -> [B, C, ceil(S / N), D'] (section 3.3)."""

    def __init__(self, win_size: int, width: int, features: int):
        super().__init__()
        self.win_size = win_size
        self.norm = nn.LayerNorm(win_size * width)
        self.linear_trans = nn.Linear(win_size * width, features)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, S, D] -> [B, C, ceil(S / N), D']."""
        return self.linear_trans(self.norm(windows(x, self.win_size)))


class EncoderLevel(nn.Module):
    """Merging, but in the first level and where ``win_size`` is 1, and a two-stage layer."""

    def __init__(self, c: CrossformerConfig, i: int):
        super().__init__()
        width, sizes, segments = c.level_widths[i], c.encoder_sizes[i], c.level_segments[i]
        if i and c.win_size > 1:
            self.merge_layer = SegmentMerging(c.win_size, c.level_widths[i - 1], width)
        else:
            self.register_module("merge_layer", None)
        self.encode_layers = nn.ModuleList([TwoStageAttention(sizes, width, segments, c.dropout)])

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, S, D] -> [B, C, S', D']."""
        if self.merge_layer is not None:
            x = self.merge_layer(x)
        return self.encode_layers[0](x)


class Encoder(nn.Module):
    """``e_layers`` levels, coarser and coarser; gives what went in and what each level gave."""

    def __init__(self, c: CrossformerConfig):
        super().__init__()
        self.encode_blocks = nn.ModuleList(EncoderLevel(c, i) for i in range(c.e_layers))

    def forward(self, x: Tensor) -> list[Tensor]:
        """[B, C, S, D] -> ``e_layers + 1`` tensors."""
        scales = [x]
        for level in self.encode_blocks:
            scales.append(level(scales[-1]))
        return scales


class DecoderLayer(nn.Module):
    """A two-stage layer, attention to the memory, an MLP, and a prediction (section 3.3)."""

    def __init__(self, c: CrossformerConfig, i: int):
        super().__init__()
        width = c.decoder_width
        memory = (c.level_widths[0], *c.level_widths)[i]
        self.self_attention = TwoStageAttention(
            c.decoder_sizes[i], width, c.out_segments, c.dropout
        )
        self.cross_attention = _attention(c.cross_heads[i], c.dropout, width, memory)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.dropout = nn.Dropout(c.dropout)
        self.MLP1 = mlp(width, c.mlp_widths[i])
        self.linear_pred = nn.Linear(width, c.seg_len)

    def forward(self, x: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """[B, C, S, D] and the memory [B, C, S', D'] -> ([B, C, S, D], prediction [..., W])."""
        batch_and_channels = x.shape[:2]
        x = self.self_attention(x).flatten(0, 1)
        x = self.norm1(x + self.dropout(self.cross_attention(x, memory.flatten(0, 1))))
        x = self.norm2(x + self.MLP1(x)).unflatten(0, batch_and_channels)
        return x, self.linear_pred(x)


class Decoder(nn.Module):
    """A layer per scale: -> the sum of predictions [B, C, S, W]."""

    def __init__(self, c: CrossformerConfig):
        super().__init__()
        self.decode_layers = nn.ModuleList(DecoderLayer(c, i) for i in range(c.e_layers + 1))

    def forward(self, x: Tensor, scales: list[Tensor]) -> Tensor:
        """Learned positions [B, C, S, D] and the encoder's scales -> [B, C, S, W]."""
        predictions = []
        for layer, memory in zip(self.decode_layers, scales, strict=True):
            x, prediction = layer(x, memory)
            predictions.append(prediction)
        return sum(predictions[1:], predictions[0])


class Crossformer(nn.Module):
    """Two-stage attention over segments and channels; see the module's docstring."""

    def __init__(self, c: CrossformerConfig):
        super().__init__()
        self.seg_len, self.pred_len, self.front = c.seg_len, c.pred_len, c.padding == "front"
        first, width = c.level_widths[0], c.decoder_width
        self.enc_value_embedding = SegmentEmbedding(c)
        self.enc_pos_embedding = nn.Parameter(torch.randn(1, c.enc_in, c.level_segments[0], first))
        self.pre_norm = nn.LayerNorm(first)
        self.encoder = Encoder(c)
        self.dec_pos_embedding = nn.Parameter(torch.randn(1, c.enc_in, c.out_segments, width))
        self.decoder = Decoder(c)

    def forward(
        self, x_enc: Tensor, x_mark_enc: Tensor, x_dec: Tensor, x_mark_dec: Tensor
    ) -> Tensor:
        """[B, seq_len, C] -> the forecast [B, pred_len, C]; the other inputs are not read."""
        del x_mark_enc, x_dec, x_mark_dec
        x = x_enc.transpose(1, 2)
        if missing := -x.shape[2] % self.seg_len:
            x = functional.pad(x, (missing, 0) if self.front else (0, missing), mode="replicate")
        x = self.enc_value_embedding(x.unflatten(2, (-1, self.seg_len)))
        scales = self.encoder(self.pre_norm(x + self.enc_pos_embedding))
        start = self.dec_pos_embedding.expand(x.shape[0], -1, -1, -1)
        y = self.decoder(start, scales).flatten(2).transpose(1, 2)
        return y[:, : self.pred_len] if self.front else y[:, -self.pred_len :]


def _attention(heads: Heads, dropout: float, width: int, memory: int | None = None) -> Attention:
    return Attention(heads, FullAttention(heads, dropout), width, memory)
