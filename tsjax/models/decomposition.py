"""The skeleton that Autoformer and FEDformer share: season and trend, taken apart in every layer.

Autoformer (Wu et al., arXiv 2106.13008, section 3.1) puts a moving average after each sub-layer;
the encoder keeps what is left, the season, and the decoder adds up the averages, the trend. The two
models differ in how their layers mix steps.

Dimensions: B batch, L length, C channels, D model width.
"""

import dataclasses
import functools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from tsjax.models.base import EncoderDecoderConfig
from tsjax.models.initializers import torch_uniform
from tsjax.models.layers import (
    Attention,
    FeedForward,
    Heads,
    LayerNorm,
    Linear,
    Mix,
    dropout,
)
from tsjax.models.transformer import data_embedding

PADDINGS = ("edge", "zeros")

STUDY_AVERAGES = {"moving_avg": (24,), "moving_avg_padding": "zeros", "mix_input": False}
"""The moving averages of the pruning study, preset ``paper``: its layers have mixing weights, which
weigh one average only."""


@dataclasses.dataclass(frozen=True)
class DecompositionConfig(EncoderDecoderConfig):
    """Sizes of a model that takes season and trend apart.

    Attributes:
      moving_avg: steps of the moving average that gives the trend, or several such numbers, whose
        averages are then mixed with learned weights (FEDformer, arXiv 2201.12740, section 3.4).
      moving_avg_padding: what the moving average sees beyond the ends: ``edge`` repeats the first
        and the last step, ``zeros`` pulls the trend to zero there. The published averages of the
        pruning study are of the second kind.
      mix_input: where ``moving_avg`` is a list, whether the decomposition of the input mixes its
        averages as those in the layers do. If not, as in the pruning study, the input has one plain
        average, and the list must hold one number.
    """

    moving_avg: int | tuple[int, ...] = 25
    moving_avg_padding: str = "edge"
    mix_input: bool = True

    def problems(self) -> list[str]:
        """Says what is wrong with the sizes, one sentence each."""
        found = super().problems()
        found += self.below(1, "moving_avg") + self.outside("moving_avg_padding", PADDINGS)
        if self.moving_avg == ():
            found.append("moving_avg must be a number of steps or several, got none")
        elif (
            self.moving_avg_padding == "edge"
            and isinstance(self.moving_avg, int)
            and not self.moving_avg % 2
        ):
            odd = f"{self.moving_avg - 1} or {self.moving_avg + 1}"
            found.append(
                f"moving_avg must be odd to have a centre, got {self.moving_avg}: pass {odd}, "
                f"({self.moving_avg},) for FEDformer's uncentred average, or "
                "moving_avg_padding='zeros' for the pruning study's"
            )
        if not self.mix_input and isinstance(self.moving_avg, tuple) and len(self.moving_avg) > 1:
            found.append(
                "mix_input=False leaves the input one plain average, but moving_avg has "
                f"{len(self.moving_avg)}, {self.moving_avg}: pass one of them, or mix_input=True"
            )
        if self.c_out != self.enc_in:
            found.append(
                f"c_out ({self.c_out}) must equal enc_in ({self.enc_in}): the trend of the input "
                "is part of the forecast"
            )
        if self.dec_in != self.enc_in:
            found.append(
                f"dec_in ({self.dec_in}) must equal enc_in ({self.enc_in}): the decoder reads the "
                "season of the encoder's input"
            )
        return found

    @property
    def input_moving_avg(self) -> int | tuple[int, ...]:
        """``moving_avg`` of the input's own decomposition: a number where it does not mix."""
        if self.mix_input or isinstance(self.moving_avg, int):
            return self.moving_avg
        (steps,) = self.moving_avg
        return steps


def moving_average(x: Array, steps: int, padding: str = "edge") -> Array:
    """Centred moving average over time, [B, L, C] -> [B, L, C].

    An even window has one step more on one side of its centre: with ``edge`` before it, as
    FEDformer's authors pad; with ``zeros`` after it, as the pruning study does. Zeros beyond the
    ends count in the mean.
    """
    longer, shorter = steps // 2, (steps - 1) // 2
    if padding == "edge":
        front, back = longer, shorter
        first, last = x[:, :1], x[:, -1:]
    else:
        front, back = shorter, longer
        first = last = jnp.zeros_like(x[:, :1])
    parts = [jnp.repeat(first, front, axis=1), x, jnp.repeat(last, back, axis=1)]
    return nn.avg_pool(jnp.concatenate(parts, axis=1), (steps,), (1,), "VALID")


class Decompose(nn.Module):
    """Takes a series apart: [B, L, C] -> (season, trend), which add up to it.

    With several windows the trend is a mixture of their averages, weighted for each element by a
    softmax over a linear function of the element's own value.
    """

    moving_avg: int | tuple[int, ...]
    padding: str

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        if isinstance(self.moving_avg, int):
            trend = moving_average(x, self.moving_avg, self.padding)
        else:
            means = [moving_average(x, steps, self.padding) for steps in self.moving_avg]
            share = jax.nn.softmax(Linear((len(means),), name="mixture")(x[..., None]))
            trend = jnp.sum(jnp.stack(means, axis=-1) * share, axis=-1)
        return x - trend, trend


class SeasonalNorm(nn.Module):
    """Layer norm, then minus its mean over time, which makes the norm's bias irrelevant."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        y = LayerNorm(name="norm")(x)
        return y - jnp.mean(y, axis=1, keepdims=True)


class EncoderLayer(nn.Module):
    """Mixing and feed-forward; each keeps the season only: [B, L, D] -> [B, L, D]."""

    heads: Heads
    d_ff: int
    config: DecompositionConfig
    projections: str = "qkv"

    @nn.compact
    def __call__(self, x: Array, mix: Mix, *, train: bool) -> Array:
        c = self.config
        drop = dropout(c.dropout, train=train)
        decompose = functools.partial(Decompose, c.moving_avg, c.moving_avg_padding)
        attention = Attention(self.heads, projections=self.projections, name="attention")
        x, _ = decompose(name="decomp1")(x + drop(attention(x, x, mix)))
        x, _ = decompose(name="decomp2")(x + _feed_forward(c, self.d_ff)(x, train=train))
        return x


class DecoderLayer(nn.Module):
    """Self-mixing, mixing with the memory, feed-forward: [B, L, D] -> (season, trend [B, L, C])."""

    self_heads: Heads
    cross_heads: Heads
    d_ff: int
    config: DecompositionConfig
    projections: tuple[str, str] = ("qkv", "qkv")

    @nn.compact
    def __call__(
        self, x: Array, memory: Array, self_mix: Mix, cross_mix: Mix, *, train: bool
    ) -> tuple[Array, Array]:
        c = self.config
        drop = dropout(c.dropout, train=train)
        decompose = functools.partial(Decompose, c.moving_avg, c.moving_avg_padding)
        own, cross = (
            Attention(heads, projections=projections, name=f"{name}_attention")
            for heads, projections, name in zip(
                (self.self_heads, self.cross_heads),
                self.projections,
                ("self", "cross"),
                strict=True,
            )
        )
        x, trend1 = decompose(name="decomp1")(x + drop(own(x, x, self_mix)))
        x, trend2 = decompose(name="decomp2")(x + drop(cross(x, memory, cross_mix)))
        x, trend3 = decompose(name="decomp3")(x + _feed_forward(c, self.d_ff)(x, train=train))
        project = nn.Conv(
            c.c_out,
            (3,),
            padding="CIRCULAR",
            use_bias=False,
            kernel_init=torch_uniform(3 * x.shape[-1]),
            name="trend_projection",
        )
        return x, project(trend1 + trend2 + trend3)


class Encoder(nn.Module):
    """``e_layers`` encoder layers and a final norm."""

    config: DecompositionConfig
    projections: str = "qkv"

    @nn.compact
    def __call__(self, x: Array, mixes: Sequence[Mix], *, train: bool) -> Array:
        c = self.config
        for i, (heads, mix) in enumerate(zip(c.encoder_heads, mixes, strict=True)):
            layer = EncoderLayer(heads, c.ff_widths[i], c, self.projections, name=f"layer_{i}")
            x = layer(x, mix, train=train)
        return SeasonalNorm(name="norm")(x)


class Decoder(nn.Module):
    """``d_layers`` decoder layers, a final norm and the projection: -> (season, trend)."""

    config: DecompositionConfig
    projections: tuple[str, str] = ("qkv", "qkv")

    @nn.compact
    def __call__(
        self,
        x: Array,
        memory: Array,
        trend: Array,
        mixes: Sequence[tuple[Mix, Mix]],
        *,
        train: bool,
    ) -> tuple[Array, Array]:
        c = self.config
        for i, heads in enumerate(zip(c.self_heads, c.cross_heads, strict=True)):
            d_ff = c.ff_widths[c.e_layers + i]
            layer = DecoderLayer(*heads, d_ff, c, self.projections, name=f"layer_{i}")
            x, more = layer(x, memory, *mixes[i], train=train)
            trend = trend + more
        return SeasonalNorm(name="norm")(x), trend


@dataclasses.dataclass(frozen=True)
class Mixes:
    """How the layers of a model mix steps.

    Attributes:
      encoder: per encoder layer.
      decoder: per decoder layer, for self- and for cross-attention.
      projections: which of query, key and value the encoder's and the decoder's own blocks have,
        and which the cross blocks.
    """

    encoder: Sequence[Mix]
    decoder: Sequence[tuple[Mix, Mix]]
    projections: tuple[str, str] = ("qkv", "qkv")


def encode_decode(
    c: DecompositionConfig,
    mixes: Mixes,
    x_enc: Array,
    x_mark_enc: Array,
    x_mark_dec: Array,
    *,
    positions: bool,
    train: bool,
) -> Array:
    """The forecast [B, pred_len, c_out] of a decomposing model, from within its own call.

    The decoder starts from the season of the look-back's last ``label_len`` steps followed by
    zeros, and from its trend followed by the look-back's mean; the values of ``x_dec`` are not used
    (arXiv 2106.13008, eq. 2).
    """
    season, trend = Decompose(c.input_moving_avg, c.moving_avg_padding, name="decomp")(x_enc)
    mean = jnp.repeat(jnp.mean(x_enc, axis=1, keepdims=True), c.pred_len, axis=1)
    first = c.seq_len - c.label_len
    trend = jnp.concatenate([trend[:, first:], mean], axis=1)
    season = jnp.concatenate([season[:, first:], jnp.zeros_like(mean)], axis=1)
    own, cross = mixes.projections
    enc_len, dec_len = (c.seq_len, c.dec_len) if positions else (None, None)
    embed = data_embedding(c, "enc_embedding", c.d_model, enc_len)
    memory = embed(x_enc, x_mark_enc, train=train)
    memory = Encoder(c, own, name="encoder")(memory, mixes.encoder, train=train)
    embed = data_embedding(c, "dec_embedding", c.decoder_width, dec_len)
    x = embed(season, x_mark_dec, train=train)
    decode = Decoder(c, (own, cross), name="decoder")
    season, trend = decode(x, memory, trend, mixes.decoder, train=train)
    season = Linear((c.c_out,), name="output_projection")(season[:, -c.pred_len :])
    return trend[:, -c.pred_len :] + season


def _feed_forward(c: DecompositionConfig, d_ff: int) -> FeedForward:
    return FeedForward(d_ff, c.dropout, c.activation, use_bias=False, name="feed_forward")
