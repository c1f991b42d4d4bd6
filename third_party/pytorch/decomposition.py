"""The skeleton that Autoformer and FEDformer share: season and trend, taken apart in every layer.

The counterpart of :mod:`tsjax.models.decomposition` (arXiv 2106.13008, section 3.1).

Dimensions: B batch, L length, C channels, D model width.
"""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from third_party.pytorch.layers import Attention, DataEmbedding, Pointwise, activation
from tsjax.models import DecompositionConfig

LONGEST_PRODUCT = 256
"""The length up to which a moving average is a product with an [L, L] matrix. On a CPU that takes a
third of the time of pooling at 144 steps, and as long at some 450; it also leaves strides alone."""


class MovingAverage(nn.Module):
    """Centred moving average over time, [B, L, D] -> [B, L, D].

    Beyond the ends there are the first and the last step again (``edge``), or ``zeros``, which
    count. An even window has one step more before its centre with ``edge``, behind it with
    ``zeros``.
    """

    def __init__(self, steps: int, padding: str, length: int):
        super().__init__()
        self.steps = steps
        shorter, longer = (steps - 1) // 2, steps // 2
        if padding == "edge":
            self.mode, self.around = "replicate", (longer, shorter, 0, 0)
        else:
            self.mode, self.around = "constant", (shorter, longer, 0, 0)
        if length <= LONGEST_PRODUCT:
            matrix = self._pooled(torch.eye(length)[None])[0].contiguous()
            self.register_buffer("matrix", matrix, persistent=False)
        else:
            self.matrix = None

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, D] -> [B, L, D]."""
        return self._pooled(x) if self.matrix is None else self.matrix @ x

    def _pooled(self, x: Tensor) -> Tensor:
        padded = functional.pad(x.transpose(1, 2).unsqueeze(2), self.around, self.mode)
        # In two dimensions: PyTorch's one-dimensional pooling takes longer on a CPU.
        return functional.avg_pool2d(padded, (1, self.steps), 1).squeeze(2).transpose(1, 2)


class Decompose(nn.Module):
    """Takes a series apart: [B, L, D] -> (season, trend), which add up to it.

    With several windows the trend is a mixture of their averages, weighted for each element by a
    softmax over a linear function of the element's own value.
    """

    def __init__(self, moving_avg: int | tuple[int, ...], padding: str, length: int):
        super().__init__()
        windows = moving_avg if isinstance(moving_avg, tuple) else (moving_avg,)
        self.averages = nn.ModuleList(MovingAverage(steps, padding, length) for steps in windows)
        self.layer = nn.Linear(1, len(windows)) if isinstance(moving_avg, tuple) else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[B, L, D] -> (season, trend)."""
        if self.layer is None:
            trend = self.averages[0](x)
        else:
            means = torch.stack([average(x) for average in self.averages], dim=-1)
            trend = (means * self.layer(x.unsqueeze(-1)).softmax(-1)).sum(-1)
        return x - trend, trend


class SeasonalNorm(nn.Module):
    """Layer norm, then minus its mean over time: [B, L, D] -> [B, L, D]."""

    def __init__(self, d_model: int):
        super().__init__()
        self.layernorm = nn.LayerNorm(d_model)

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, D] -> [B, L, D]."""
        y = self.layernorm(x)
        return y - y.mean(1, keepdim=True)


@dataclasses.dataclass(frozen=True)
class Mixes:
    """How the layers of a model mix steps; a block may serve several layers.

    Attributes:
      encoder: per encoder layer.
      decoder: per decoder layer, for self- and for cross-attention.
      projections: which of query, key and value self blocks have, and which cross blocks have.
      unread: which of these they do not read.
    """

    encoder: Sequence[nn.Module]
    decoder: Sequence[tuple[nn.Module, nn.Module]]
    projections: tuple[str, str] = ("qkv", "qkv")
    unread: tuple[str, str] = ("", "")


class EncoderLayer(nn.Module):
    """Mixing and feed-forward; each keeps the season only: [B, L, D] -> [B, L, D]."""

    def __init__(self, c: DecompositionConfig, i: int, mixes: Mixes):
        super().__init__()
        d_model, d_ff = c.d_model, c.ff_widths[i]
        self.attention = Attention(
            c.encoder_heads[i],
            mixes.encoder[i],
            d_model,
            projections=mixes.projections[0],
            unread=mixes.unread[0],
        )
        self.conv1 = Pointwise(d_model, d_ff, bias=False)
        self.conv2 = Pointwise(d_ff, d_model, bias=False)
        self.decomp1 = Decompose(c.moving_avg, c.moving_avg_padding, c.seq_len)
        self.decomp2 = Decompose(c.moving_avg, c.moving_avg_padding, c.seq_len)
        self.activation = activation(c.activation)
        self.dropout = nn.Dropout(c.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, D] -> [B, L, D]."""
        drop = self.dropout
        x, _ = self.decomp1(x + drop(self.attention(x, x)))
        y = drop(self.conv2(drop(self.activation(self.conv1(x)))))
        return self.decomp2(x + y)[0]


class DecoderLayer(nn.Module):
    """Self-mixing, mixing with the memory, feed-forward: -> (season [B, L, D], trend [B, L, C])."""

    def __init__(self, c: DecompositionConfig, i: int, mixes: Mixes):
        super().__init__()
        d_model, d_ff = c.decoder_width, c.ff_widths[c.e_layers + i]
        self_mix, cross_mix = mixes.decoder[i]
        own, cross = mixes.projections
        own_unread, cross_unread = mixes.unread
        self.self_attention = Attention(
            c.self_heads[i], self_mix, d_model, projections=own, unread=own_unread
        )
        self.cross_attention = Attention(
            c.cross_heads[i],
            cross_mix,
            d_model,
            c.d_model,
            projections=cross,
            unread=cross_unread,
        )
        self.conv1 = Pointwise(d_model, d_ff, bias=False)
        self.conv2 = Pointwise(d_ff, d_model, bias=False)
        self.decomp1 = Decompose(c.moving_avg, c.moving_avg_padding, c.dec_len)
        self.decomp2 = Decompose(c.moving_avg, c.moving_avg_padding, c.dec_len)
        self.decomp3 = Decompose(c.moving_avg, c.moving_avg_padding, c.dec_len)
        self.projection = nn.Conv1d(
            d_model, c.c_out, 3, padding=1, padding_mode="circular", bias=False
        )
        self.activation = activation(c.activation)
        self.dropout = nn.Dropout(c.dropout)

    def forward(self, x: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """[B, L, D] and the memory [B, S, D'] -> (season [B, L, D], trend [B, L, C])."""
        drop = self.dropout
        x, trend1 = self.decomp1(x + drop(self.self_attention(x, x)))
        x, trend2 = self.decomp2(x + drop(self.cross_attention(x, memory)))
        y = drop(self.conv2(drop(self.activation(self.conv1(x)))))
        x, trend3 = self.decomp3(x + y)
        trend = (trend1 + trend2 + trend3).transpose(1, 2)
        return x, self.projection(trend).transpose(1, 2)


class Encoder(nn.Module):
    """``e_layers`` encoder layers and a final norm."""

    def __init__(self, c: DecompositionConfig, mixes: Mixes):
        super().__init__()
        self.attn_layers = nn.ModuleList(EncoderLayer(c, i, mixes) for i in range(c.e_layers))
        self.norm = SeasonalNorm(c.d_model)

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, D] -> [B, L, D]."""
        for layer in self.attn_layers:
            x = layer(x)
        return self.norm(x)


class Decoder(nn.Module):
    """``d_layers`` decoder layers, a norm, and the projection of the steps to forecast."""

    def __init__(self, c: DecompositionConfig, mixes: Mixes):
        super().__init__()
        self.pred_len = c.pred_len
        self.layers = nn.ModuleList(DecoderLayer(c, i, mixes) for i in range(c.d_layers))
        self.norm = SeasonalNorm(c.decoder_width)
        self.projection = nn.Linear(c.decoder_width, c.c_out)

    def forward(self, x: Tensor, memory: Tensor, trend: Tensor) -> Tensor:
        """Season [B, L, D], memory [B, S, D'] and trend [B, L, C] -> [B, pred_len, C]."""
        for layer in self.layers:
            x, more = layer(x, memory)
            trend = trend + more
        season = self.projection(self.norm(x)[:, -self.pred_len :])
        return trend[:, -self.pred_len :] + season


class DecompositionForecaster(nn.Module):
    """Decomposing encoder-decoder: a model is one with mixes of its own.

    The decoder starts from the season of the look-back's last ``label_len`` steps followed by
    zeros, and from its trend followed by the look-back's mean; ``x_dec`` is not read.
    """

    def __init__(self, c: DecompositionConfig, mixes: Mixes, *, positions: bool):
        super().__init__()
        self.first, self.pred_len = c.seq_len - c.label_len, c.pred_len
        self.decomp = Decompose(c.input_moving_avg, c.moving_avg_padding, c.seq_len)
        self.enc_embedding = DataEmbedding(c, c.enc_in, c.d_model, positions=positions)
        self.dec_embedding = DataEmbedding(c, c.dec_in, c.decoder_width, positions=positions)
        self.encoder = Encoder(c, mixes)
        self.decoder = Decoder(c, mixes)

    def forward(
        self, x_enc: Tensor, x_mark_enc: Tensor, x_dec: Tensor, x_mark_dec: Tensor
    ) -> Tensor:
        """[B, seq_len, C], [B, seq_len, F], [B, dec_len, C], [B, dec_len, F] -> the forecast."""
        del x_dec
        season, trend = self.decomp(x_enc)
        mean = x_enc.mean(1, keepdim=True).expand(-1, self.pred_len, -1)
        trend = torch.cat([trend[:, self.first :], mean], dim=1)
        season = functional.pad(season[:, self.first :], (0, 0, 0, self.pred_len))
        memory = self.encoder(self.enc_embedding(x_enc, x_mark_enc))
        return self.decoder(self.dec_embedding(season, x_mark_dec), memory, trend)
