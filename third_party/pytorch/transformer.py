"""The vanilla Transformer for forecasting (Vaswani et al., arXiv 1706.03762) in PyTorch.

The counterpart of :mod:`tsjax.models.transformer`: post-norm layers, a final norm after either
stack, causal self-attention in the decoder, all steps of the forecast in one pass.

Dimensions: B batch, L length, S length of the memory, D model width.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from third_party.pytorch.layers import (
    Attention,
    DataEmbedding,
    FullAttention,
    Pointwise,
    activation,
)
from tsjax.models import EncoderDecoderConfig, TransformerConfig


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each followed by a norm: [B, L, D] -> [B, L, D]."""

    def __init__(self, c: EncoderDecoderConfig, i: int, mix: nn.Module):
        super().__init__()
        d_model, d_ff = c.d_model, c.ff_widths[i]
        self.attention = Attention(c.encoder_heads[i], mix, d_model)
        self.conv1 = Pointwise(d_model, d_ff)
        self.conv2 = Pointwise(d_ff, d_model)
        self.norm1 = nn.LayerNorm(d_model)
        self.norm2 = nn.LayerNorm(d_model)
        self.activation = activation(c.activation)
        self.dropout = nn.Dropout(c.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, D] -> [B, L, D]."""
        drop = self.dropout
        x = self.norm1(x + drop(self.attention(x, x)))
        y = drop(self.conv2(drop(self.activation(self.conv1(x)))))
        return self.norm2(x + y)


class DecoderLayer(nn.Module):
    """Self-attention, attention to the memory, feed-forward; a norm after each."""

    def __init__(self, c: EncoderDecoderConfig, i: int, self_mix: nn.Module, cross_mix: nn.Module):
        super().__init__()
        d_model, d_ff = c.decoder_width, c.ff_widths[c.e_layers + i]
        self.self_attention = Attention(c.self_heads[i], self_mix, d_model)
        self.cross_attention = Attention(c.cross_heads[i], cross_mix, d_model, c.d_model)
        self.conv1 = Pointwise(d_model, d_ff)
        self.conv2 = Pointwise(d_ff, d_model)
        self.norm1 = nn.LayerNorm(d_model)
        self.norm2 = nn.LayerNorm(d_model)
        self.norm3 = nn.LayerNorm(d_model)
        self.activation = activation(c.activation)
        self.dropout = nn.Dropout(c.dropout)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        """[B, L, D] and the memory [B, S, D'] -> [B, L, D]."""
        drop = self.dropout
        x = self.norm1(x + drop(self.self_attention(x, x)))
        x = self.norm2(x + drop(self.cross_attention(x, memory)))
        y = drop(self.conv2(drop(self.activation(self.conv1(x)))))
        return self.norm3(x + y)


class Encoder(nn.Module):
    """``e_layers`` encoder layers, each but the last followed by one of ``between``, and a norm."""

    def __init__(
        self, c: EncoderDecoderConfig, mixes: Sequence[nn.Module], between: Sequence[nn.Module] = ()
    ):
        super().__init__()
        self.attn_layers = nn.ModuleList(EncoderLayer(c, i, mix) for i, mix in enumerate(mixes))
        self.conv_layers = nn.ModuleList(between)
        self.norm = nn.LayerNorm(c.d_model)

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, D] -> [B, L', D]."""
        for i, layer in enumerate(self.attn_layers):
            x = layer(x)
            if i < len(self.conv_layers):
                x = self.conv_layers[i](x)
        return self.norm(x)


class Decoder(nn.Module):
    """``d_layers`` decoder layers, a norm, and the projection of the steps to forecast."""

    def __init__(self, c: EncoderDecoderConfig, mixes: Sequence[tuple[nn.Module, nn.Module]]):
        super().__init__()
        self.pred_len = c.pred_len
        self.layers = nn.ModuleList(DecoderLayer(c, i, *pair) for i, pair in enumerate(mixes))
        self.norm = nn.LayerNorm(c.decoder_width)
        self.projection = nn.Linear(c.decoder_width, c.c_out)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        """[B, L, D] and the memory [B, S, D'] -> the forecast [B, pred_len, c_out]."""
        for layer in self.layers:
            x = layer(x, memory)
        return self.projection(self.norm(x[:, -self.pred_len :]))


class Transformer(nn.Module):
    """Encoder-decoder forecaster; see the module's docstring."""

    def __init__(self, c: TransformerConfig):
        super().__init__()
        self.enc_embedding = DataEmbedding(c, c.enc_in, c.d_model)
        self.dec_embedding = DataEmbedding(c, c.dec_in, c.decoder_width)
        self.encoder = Encoder(c, [FullAttention(h, c.dropout) for h in c.encoder_heads])
        blocks = zip(c.self_heads, c.cross_heads, strict=True)
        self.decoder = Decoder(
            c,
            [
                (FullAttention(own, c.dropout, causal=True), FullAttention(cross, c.dropout))
                for own, cross in blocks
            ],
        )

    def forward(
        self, x_enc: Tensor, x_mark_enc: Tensor, x_dec: Tensor, x_mark_dec: Tensor
    ) -> Tensor:
        """[B, seq_len, C], [B, seq_len, F], [B, dec_len, C], [B, dec_len, F] -> the forecast."""
        memory = self.encoder(self.enc_embedding(x_enc, x_mark_enc))
        return self.decoder(self.dec_embedding(x_dec, x_mark_dec), memory)
