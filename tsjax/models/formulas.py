"""Closed formulas for the matrix products and convolutions of the forecasters.

They are derived on paper from the architectures and are arithmetic on a configuration: nothing is
traced. What is no product (sums, norms, softmax, FFTs, sorting) is not in them. Every
product of these models has two operands, so that no cost depends on the order in which an einsum is
contracted. docs/flops.md has the derivation as tables.

Dimensions: as in :mod:`tsjax.models.formula_blocks`; those of one model are at its functions.
"""

import functools
import math
from typing import NamedTuple

from tsjax.models.autoformer import AutoformerConfig
from tsjax.models.base import spread
from tsjax.models.crossformer_config import CrossformerConfig, TwoStageSizes
from tsjax.models.decomposition import DecompositionConfig
from tsjax.models.fedformer import MOST_MODES, FEDformerConfig
from tsjax.models.formula_blocks import (
    Attention,
    Blocks,
    Cost,
    Mix,
    Terms,
    complex_,
    convolution,
    decoder,
    embedding,
    encoder,
    feed_forward,
    full_attention,
    real,
)
from tsjax.models.informer import InformerConfig
from tsjax.models.layers import Heads
from tsjax.models.transformer import TransformerConfig
from tsjax.models.wavelets import levels, padded_length


def transformer(c: TransformerConfig, B: int) -> Terms:
    """Full attention everywhere, at the lengths of the inputs."""
    full = Attention()
    yield from encoder(c, B, [c.seq_len] * c.e_layers, full)
    yield from embedding(c, B, "dec_embedding", (c.dec_len, c.dec_in, c.decoder_width))
    yield from decoder(c, B, c.seq_len, Blocks(full, full, full))


def informer(c: InformerConfig, B: int) -> Terms:
    """ProbSparse attention; the encoder's length shrinks after each layer but the last.

    From L steps a distilling convolution makes ``N = L + 2 distil_padding - 2`` by ``2 B N 3 D D``,
    and pooling ``ceil(N / 2)`` of these.
    """
    prob = Attention(functools.partial(_prob_sparse, c.factor))
    lengths = [c.seq_len]
    while len(lengths) < c.e_layers:
        N = lengths[-1]
        if c.distil:
            N += 2 * c.distil_padding - 2
            yield "encoder/distil", convolution(B, N, c.d_model, c.d_model, of_params=True)
            N = -(-N // 2)
        lengths.append(N)
    yield from encoder(c, B, lengths, prob)
    yield from embedding(c, B, "dec_embedding", (c.dec_len, c.dec_in, c.decoder_width))
    cross = prob if c.cross_attention == "prob" else Attention()
    yield from decoder(c, B, lengths[-1], Blocks(prob, prob, cross))


def _prob_sparse(factor: int, B: int, L: int, S: int, heads: Heads) -> Terms:
    """All logits, of which some are sampled, ``2 B H L S E``; then N queries attend.

    That is ``2 B H N S (E + V)``; N is ``factor ceil(ln L)``, at least 1 and at most L. Sampled
    logits do nothing but choose queries, and have no gradient.
    """
    H, E, V, _ = heads
    N = min(max(factor * math.ceil(math.log(L)), 1), L)
    yield "sampling", real(B * H * L * S * E, gradients=0)
    yield "mixing", real(B * H * N * S * (E + V))


def _decomposing(c: DecompositionConfig, B: int, blocks: Blocks) -> Terms:
    """What Autoformer and FEDformer share: mixtures of moving averages, and trends.

    A mixture of n averages costs ``2 B L D n`` per series; one average alone is none. The first
    series is the input, C wide, and its season is what the decoder embeds: of params only where
    that is a mixture. A decoder layer's trend is projected by ``2 B L 3 D C``. Where the cross
    blocks do not read the memory, nothing of the encoder reaches the forecast.
    """
    S, L, D = c.seq_len, c.dec_len, c.decoder_width
    n_input, n = (
        0 if isinstance(average, int) else len(average)
        for average in (c.input_moving_avg, c.moving_avg)
    )
    if n_input:
        yield "decomposition", real(B * S * c.enc_in * n_input, gradients=1)
    if n:
        yield "decoder/decomposition", real(3 * c.d_layers * B * L * D * n)
    if blocks.cross.reads:
        yield from encoder(c, B, [S] * c.e_layers, blocks.encoder)
        if n:
            yield "encoder/decomposition", real(2 * c.e_layers * B * S * c.d_model * n)
    yield from embedding(c, B, "dec_embedding", (L, c.dec_in, D), of_params=n_input > 0)
    yield from decoder(c, B, S, blocks)
    for _ in range(c.d_layers):
        yield "decoder/trend_projection", convolution(B, L, D, c.c_out, of_params=True)


def autoformer(c: AutoformerConfig, B: int) -> Terms:
    """Auto-correlation everywhere."""
    block = Attention(_auto_correlation)
    yield from _decomposing(c, B, Blocks(block, block, block))


def _auto_correlation(B: int, L: int, S: int, heads: Heads) -> Terms:
    """Queries times keys, ``2 B L min(S, L) H E``; then lags' shares times values, likewise with V.

    The latter is a product with a circulant matrix. Keys and values are at most L long.
    """
    H, E, V, _ = heads
    yield "correlation", real(B * L * min(S, L) * H * E)
    yield "mixing", real(B * L * min(S, L) * H * V)


def fedformer(c: FEDformerConfig, B: int) -> Terms:
    """Fourier or wavelet blocks between the projections."""
    blocks = _wavelets(c) if c.version == "wavelets" else _fourier(c)
    yield from _decomposing(c, B, blocks)


def _fourier(c: FEDformerConfig) -> Blocks:
    """Self blocks read queries, cross blocks queries and keys; without a frequency, nothing."""
    M = {name: kept.n_modes for name, kept in c.kept.items()}

    def block(mix: Mix, reads: str, n_modes: int) -> Attention:
        return Attention(mix, reads if n_modes else "", of_params=n_modes > 0)

    encoder_, decoder_ = (
        block(functools.partial(_fourier_self, M[name]), "q", M[name])
        for name in ("encoder", "decoder")
    )
    cross = functools.partial(_fourier_cross, M["cross_q"], M["cross_kv"])
    return Blocks(encoder_, decoder_, block(cross, "qk", M["cross_q"]))


def _transform(B: int, L: int, M: int, width: int) -> Cost:
    """L steps to M frequencies, or back: a real and an imaginary part, ``2 (2 B L M width)``.

    The matrices are fixed: the one gradient is that with respect to the series.
    """
    return real(2 * B * L * M * width, gradients=1)


def _fourier_self(M: int, B: int, L: int, S: int, heads: Heads) -> Terms:
    """A map for each of M frequencies, ``8 B M H E V``, between the transforms."""
    del S
    H, E, V, _ = heads
    yield "mixing/transforms", _transform(B, L, M, H * (E + V))
    yield "mixing", complex_(B * M * H * E * V)


def _fourier_cross(M: int, N: int, B: int, L: int, S: int, heads: Heads) -> Terms:
    """M frequencies attend to N, ``8 B H M N 2 E``, and are mapped, ``8 B M H E V``.

    Queries and the result are transformed, and keys too unless M is 0.
    """
    H, E, V, _ = heads
    yield "mixing/transforms", _transform(B, L, M, H * (E + V))
    if M:
        yield "mixing/transforms", _transform(B, S, N, H * E)
    yield "mixing", complex_(B * H * M * N * 2 * E) + complex_(B * M * H * E * V)


def _wavelets(c: FEDformerConfig) -> Blocks:
    """Self blocks read values, cross blocks queries and keys.

    A cross block of one or two steps reads nothing, since no level has a frequency that it keeps.
    Its result is then a bias alone.
    """
    encoder_, decoder_ = (
        functools.partial(_wavelet_self, _Wavelets(C, c.wavelet_k), alpha, c.wavelet_skip)
        for C, alpha in zip(c.wavelet_channels, spread(c.wavelet_alpha, 2), strict=True)
    )
    assert not isinstance(c.modes, tuple)
    sizes = _Wavelets(c.cross_channels, c.cross_k)
    cross = functools.partial(_wavelet_cross, sizes, c.modes or MOST_MODES)
    reads = "qk" if c.dec_len > 2 else ""
    return Blocks(Attention(encoder_, "v"), Attention(decoder_, "v"), Attention(cross, reads))


class _Wavelets(NamedTuple):
    """C channels and K polynomials of a wavelet block."""

    C: int
    K: int

    def filters(self, B: int, N: int, gradients: int = 1) -> Cost:
        """One level down to N steps, or one up from them: two filters, ``2 B N C 2 (2 K K)``.

        Filters are fixed: the one gradient is that with respect to the series.
        """
        return real(B * N * self.C * 4 * self.K**2, gradients)


def _wavelet_self(
    sizes: _Wavelets, alpha: int, skip: int, B: int, L: int, S: int, heads: Heads
) -> Terms:
    """Into channels and out, ``2 B L 2 H V C K``; J levels; the coarsest, ``2 B N C K K``.

    J is ``floor(log2 L) - skip``, at least 0. Level j has ``N = P / 2**j`` steps, where P is L
    rounded up to a power of two. It costs two filters down, two up, and three maps of its ``M =
    min(alpha, N // 2 + 1)`` frequencies, ``3 (8 B M (C K)**2)``.
    """
    del S
    (H, _, V, _), (C, K) = heads, sizes
    P, J = padded_length(L), max(levels(L) - skip, 0)
    for N in (P >> j for j in range(1, J + 1)):
        yield "mixing/filters", sizes.filters(B, N) + sizes.filters(B, N)
        yield "mixing/frequencies", complex_(3 * B * min(alpha, N // 2 + 1) * (C * K) ** 2)
    yield "mixing/projections", real(B * L * 2 * H * V * C * K) + real(B * (P >> J) * C * K * K)


def _wavelet_cross(sizes: _Wavelets, modes: int, B: int, L: int, S: int, heads: Heads) -> Terms:
    """Into channels, ``2 B (L + S) H E C K``, and out, ``2 B L H V C K``; levels as in self blocks.

    A level of N steps costs two filters down for queries and for keys, two up for the result. With
    ``M = min(N // 2, modes)`` frequencies, its details attend and its smooth parts do, ``8 B K M M
    2 C`` each; those of the coarsest level attend once more. Where N is 1, M is 0: then the filters
    down to that level do not count. The zeros that come from it do go through the filters up, and
    have no gradient.
    """
    (H, E, V, _), (C, K) = heads, sizes
    P, J = padded_length(L), levels(L)
    for j in range(1, J + 1):
        N = P >> j
        M, attend = min(N // 2, modes), 3 if j == J else 2
        if M:
            yield "mixing/filters", sizes.filters(B, N) + sizes.filters(B, N)
        yield "mixing/filters", sizes.filters(B, N, gradients=1 if M else 0)
        yield "mixing/frequencies", complex_(attend * B * K * M * M * 2 * C)
    if reads := L > 2:
        yield "mixing/projections", real(B * (L + S) * H * E * C * K)
    yield "mixing/projections", real(B * L * H * V * C * K, gradients=1 + reads)


def crossformer(c: CrossformerConfig, B: int) -> Terms:
    """Two-stage layers: C channels, segments of W steps, S segments, merged n by n.

    The embedding costs ``2 B C S W D``, merging into S segments ``2 B C S n D' D``, the decoder
    layer's own MLP ``2 B C S 2 D d_mlp``, and its prediction ``2 B C S D W``. Each decoder layer
    attends to one scale of the encoder, within a channel.
    """
    C, W = c.enc_in, c.seg_len
    scales = [(c.level_segments[0], c.level_widths[0])]
    yield "enc_embedding", real(B * C * math.prod(scales[0]) * W, gradients=1)
    for S, D, sizes in zip(c.level_segments, c.level_widths, c.encoder_sizes, strict=True):
        if len(scales) > 1 and c.win_size > 1:
            yield "encoder/merging", real(B * C * S * c.win_size * scales[-1][1] * D)
        yield from _two_stage("encoder/two_stage", (B, C, S, D), sizes)
        scales.append((S, D))
    S, D = c.out_segments, c.decoder_width
    layers = zip(c.decoder_sizes, c.cross_heads, c.mlp_widths, scales, strict=True)
    for sizes, heads, d_mlp, (steps, width) in layers:
        yield from _two_stage("decoder/two_stage", (B, C, S, D), sizes)
        name = "decoder/cross_attention"
        yield from Attention().costs(B * C, name, (S, steps), (D, width), heads)
        yield "decoder/feed_forward", feed_forward(B * C * S, D, d_mlp)
        yield "decoder/output_projection", real(B * C * S * D * W)


def _two_stage(name: str, dims: tuple[int, int, int, int], sizes: TwoStageSizes) -> Terms:
    """Attention over the S segments of a channel, over the C channels of a segment, two MLPs.

    In the second stage R routers of width Q attend to the channels, and these to what they got, of
    width Z. The routers are alike for all windows and projected once. The sender's projections cost
    ``2 S R Q H E + 2 B S H (C D (E + V) + R V Z)``, the receiver's those of C queries and R steps
    of memory; the MLPs ``2 B C S 2 D d_ff`` each.
    """
    B, C, S, D = dims
    R, Q, Z = sizes.n_routers, sizes.d_router, sizes.d_message
    yield from Attention().costs(B * C, f"{name}/time_attention", (S, S), (D, D), sizes.time)
    H, E, V, _ = sizes.sender
    yield f"{name}/sender/projections", real(S * R * Q * H * E)
    yield f"{name}/sender/projections", real(B * S * H * (C * D * (E + V) + R * V * Z))
    for part, cost in full_attention(B * S, R, C, sizes.sender):
        yield f"{name}/sender/{part}", cost
    yield from Attention().costs(B * S, f"{name}/receiver", (C, R), (D, Z), sizes.receiver)
    yield f"{name}/feed_forward", feed_forward(B * C * S, D, sum(sizes.d_ff))
