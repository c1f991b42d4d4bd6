"""Layers that several of the PyTorch models share.

Dimensions: B batch, L length (queries), S length (keys), C channels, F time marks, D model width,
H heads, E head width (V where values have their own).

Modules and parameters are called as in Time-Series-Library, whose ``state_dict`` keys
:func:`tsjax.interop.to_torch` writes. What has no state there is a buffer that is not saved.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from tsjax.models import LOOK_UPS, EncoderDecoderConfig, Heads, sinusoids

MAX_POSITIONS = 5000
"""Rows of a positional table, as in Time-Series-Library; strict loading compares them."""


def table(rows: int, width: int) -> Tensor:
    """The sinusoidal table [rows, width], in float32's values."""
    values = sinusoids(rows, width).astype(np.float32)
    return torch.from_numpy(values).to(torch.get_default_dtype())


def wide(x: Tensor) -> Tensor:
    """In 32 bits at least, as Fourier transforms and complex numbers are on a CPU."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class Pointwise(nn.Linear):
    """A linear layer that is saved as the convolution with kernel 1 that checkpoints have.

    The weight is [out, in] here and [out, in, 1] in a ``state_dict``. As a convolution it would
    need the steps last, and so two transposed copies of its input and output.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True):
        super().__init__(in_features, out_features, bias)
        self.register_state_dict_post_hook(_with_kernel_axis)
        self.register_load_state_dict_pre_hook(_without_kernel_axis)


def _with_kernel_axis(module: nn.Module, state_dict: dict, prefix: str, *_: Any) -> None:
    del module
    key = f"{prefix}weight"
    if key in state_dict and state_dict[key].ndim == 2:
        state_dict[key] = state_dict[key].unsqueeze(-1)


def _without_kernel_axis(module: nn.Module, state_dict: dict, prefix: str, *_: Any) -> None:
    del module
    key = f"{prefix}weight"
    if key in state_dict and state_dict[key].shape[2:] == (1,):
        state_dict[key] = state_dict[key].squeeze(-1)


def activation(name: str) -> nn.Module:
    """``"relu"`` or the exact ``"gelu"``."""
    return nn.ReLU() if name == "relu" else nn.GELU()


class TokenEmbedding(nn.Module):
    """Circular convolution over time with kernel 3: [B, L, C] -> [B, L, D]."""

    def __init__(self, channels: int, d_model: int):
        super().__init__()
        self.tokenConv = nn.Conv1d(
            channels, d_model, 3, padding=1, padding_mode="circular", bias=False
        )
        nn.init.kaiming_normal_(self.tokenConv.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, C] -> [B, L, D], a view whose steps lie next to each other."""
        return self.tokenConv(x.transpose(1, 2)).transpose(1, 2)


class PositionalEmbedding(nn.Module):
    """The first rows of a sinusoidal table."""

    def __init__(self, d_model: int):
        super().__init__()
        self.register_buffer("pe", table(MAX_POSITIONS, d_model)[None])

    def forward(self, length: int) -> Tensor:
        """The table's first rows [1, length, D]."""
        return self.pe[:, :length]


class TimeFeatures(nn.Module):
    """Projects real-valued marks: [B, L, F] -> [B, L, D]."""

    def __init__(self, mark_dim: int, d_model: int):
        super().__init__()
        self.embed = nn.Linear(mark_dim, d_model, bias=False)

    def forward(self, marks: Tensor) -> Tensor:
        """[B, L, F] -> [B, L, D]."""
        return self.embed(marks)


class FixedEmbedding(nn.Module):
    """Look-ups in a sinusoidal table that is not trained."""

    def __init__(self, rows: int, d_model: int):
        super().__init__()
        self.emb = nn.Embedding.from_pretrained(table(rows, d_model))

    def forward(self, index: Tensor) -> Tensor:
        """[B, L] -> [B, L, D]."""
        return self.emb(index)


class CalendarEmbedding(nn.Module):
    """Sum of look-ups, one for each mark column: [B, L, F] -> [B, L, D]."""

    def __init__(self, mark_dim: int, d_model: int, *, learned: bool):
        super().__init__()
        self.fields = list(LOOK_UPS)[:mark_dim]
        for field in self.fields:
            embed = nn.Embedding if learned else FixedEmbedding
            self.add_module(f"{field}_embed", embed(LOOK_UPS[field], d_model))

    def forward(self, marks: Tensor) -> Tensor:
        """[B, L, F] -> [B, L, D]; further columns are ignored."""
        columns = marks.long().unbind(-1)
        rows = [
            self.get_submodule(f"{f}_embed")(i) for f, i in zip(self.fields, columns, strict=False)
        ]
        return sum(rows[1:], rows[0])


class DataEmbedding(nn.Module):
    """Value + time + position, then dropout: [B, L, C] and [B, L, F] -> [B, L, D].

    The table of positions is there, and saved, even where ``positions`` says that it is not read.
    """

    def __init__(
        self, c: EncoderDecoderConfig, channels: int, d_model: int, *, positions: bool = True
    ):
        super().__init__()
        self.positions = positions
        self.value_embedding = TokenEmbedding(channels, d_model)
        self.position_embedding = PositionalEmbedding(d_model)
        if c.embed == "timeF":
            self.temporal_embedding: nn.Module = TimeFeatures(c.mark_dim, d_model)
        else:
            learned = c.embed == "learned"
            self.temporal_embedding = CalendarEmbedding(c.mark_dim, d_model, learned=learned)
        self.dropout = nn.Dropout(c.dropout)

    def forward(self, x: Tensor, marks: Tensor) -> Tensor:
        """[B, L, C] and [B, L, F] -> [B, L, D]."""
        # The first term decides on the sum's strides: the values' steps are next to each other.
        y = self.temporal_embedding(marks) + self.value_embedding(x)
        if self.positions:
            y = y + self.position_embedding(x.shape[1])
        return self.dropout(y)


class FullAttention(nn.Module):
    """Scaled dot-product attention: [B, L, H, E], [B, S, H, E], [B, S, H, V] -> [B, L, H * V].

    ``scale`` is stated, and not left to follow from E: heads may be pruned.
    """

    def __init__(self, heads: Heads, dropout: float, *, causal: bool = False):
        super().__init__()
        self.scale = heads.d_keys**-0.5 if heads.scale is None else heads.scale
        self.dropout = dropout
        self.causal = causal

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See the class."""
        context = functional.scaled_dot_product_attention(
            q.transpose(1, 2),
            k.transpose(1, 2),
            v.transpose(1, 2),
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=self.causal,
            scale=self.scale,
        )
        return context.transpose(1, 2).flatten(2)


class Attention(nn.Module):
    """The projections around a way to mix steps, such as :class:`FullAttention`.

    Args:
      heads: sizes.
      mix: ``mix(q, k, v)``: [B, L, H, E], [B, S, H, E] and [B, S, H, V] -> [B, L, H * V].
      d_query: width of what attends.
      d_memory: width of what is attended to; None for ``d_query``.
      d_out: width of the result; None for ``d_query``.
      projections: which of query, key and value there are; ``mix`` gets None for the others.
      unread: those of them that ``mix`` does not read. They have weights, and are not computed.
    """

    def __init__(
        self,
        heads: Heads,
        mix: nn.Module,
        d_query: int,
        d_memory: int | None = None,
        d_out: int | None = None,
        projections: str = "qkv",
        unread: str = "",
    ):
        super().__init__()
        self.n_heads = heads.n_heads
        self.read = tuple(name in projections and name not in unread for name in "qkv")
        self.inner_correlation = mix
        d_memory = d_query if d_memory is None else d_memory
        sizes: Mapping[str, tuple[int, int]] = {
            "query": (d_query, heads.d_keys),
            "key": (d_memory, heads.d_keys),
            "value": (d_memory, heads.d_values),
        }
        for name, (width, d_head) in sizes.items():
            if name[0] in projections:
                linear = nn.Linear(width, heads.n_heads * d_head)
                self.add_module(f"{name}_projection", linear)
        d_out = d_query if d_out is None else d_out
        self.out_projection = nn.Linear(heads.n_heads * heads.d_values, d_out)

    def forward(self, queries: Tensor, memory: Tensor) -> Tensor:
        """[B, L, D] attends to [B, S, D']: [B, L, d_out].

        Queries that are alike for several entries of the batch may be given once, [B', L, D] with
        B a multiple of B'; they are then projected once.
        """
        has_query, has_key, has_value = self.read
        q = self._heads(self.query_projection(queries)) if has_query else None
        k = self._heads(self.key_projection(memory)) if has_key else None
        v = self._heads(self.value_projection(memory)) if has_value else None
        if q is not None and q.shape[0] < memory.shape[0]:
            q = q.repeat(memory.shape[0] // q.shape[0], 1, 1, 1)
        return self.out_projection(self.inner_correlation(q, k, v))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.n_heads, -1))
