"""Costs of the blocks that several forecasters share, for :mod:`tsjax.models.formulas`.

A real multiply-add is 2 FLOPs, a complex one 8. A product's gradient with respect to one operand is
a product of the same size: a training step adds the cost of the forward pass once for each operand
that depends on params. A convolution over time is the exception, see :func:`convolution`.

Dimensions: B batch, L steps (queries), S steps (memory), C channels, F time marks, D model width,
H heads, E width of one head's queries and keys, V of its values.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Protocol

from tsjax.models.base import EncoderDecoderConfig
from tsjax.models.layers import Heads


@dataclasses.dataclass(frozen=True)
class Cost:
    """FLOPs of some products.

    Attributes:
      forward: of the forward pass.
      backward: what the gradient with respect to the params adds.
    """

    forward: int
    backward: int

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.forward + other.forward, self.backward + other.backward)


Terms = Iterator[tuple[str, Cost]]
"""Costs with the names of their terms; those of one name add up."""


def real(multiply_adds: int, gradients: int = 2) -> Cost:
    """``2 multiply_adds``, and as much for each of the operands that depend on params."""
    return Cost(2 * multiply_adds, 2 * multiply_adds * gradients)


def complex_(multiply_adds: int, gradients: int = 2) -> Cost:
    """``8 multiply_adds``, and as much for each of the operands that depend on params."""
    return Cost(8 * multiply_adds, 8 * multiply_adds * gradients)


def convolution(B: int, L: int, C: int, D: int, *, of_params: bool) -> Cost:
    """A kernel of 3 steps over ``L + 2``, C to D channels: ``2 B L 3 C D``.

    The two further steps are those by which the series wraps around. The gradient with respect to
    the kernel costs the same. That with respect to the input, if this is ``of_params``, has all
    ``L + 2`` steps, each with 3 taps, of which some fall on padding: ``2 B (L + 2) 3 C D``.
    """
    forward = 2 * B * L * 3 * C * D
    return Cost(forward, forward + (2 * B * (L + 2) * 3 * C * D if of_params else 0))


def embedding(
    c: EncoderDecoderConfig,
    B: int,
    name: str,
    sizes: tuple[int, int, int],
    *,
    of_params: bool = False,
) -> Terms:
    """Value ``2 B L 3 C D`` and, with ``timeF``, time ``2 B L F D``; look-ups are no products.

    ``sizes`` are L, C and D; ``of_params`` says whether the values depend on params.
    """
    L, C, D = sizes
    yield f"{name}/value", convolution(B, L, C, D, of_params=of_params)
    if c.embed == "timeF":
        yield f"{name}/time", real(B * L * c.mark_dim * D, gradients=1)


def feed_forward(rows: int, D: int, d_ff: int) -> Cost:
    """Up and down: ``2 rows 2 D d_ff``."""
    return real(rows * 2 * D * d_ff)


class Mix(Protocol):
    """Costs of a way to mix steps, by part."""

    def __call__(self, B: int, L: int, S: int, heads: Heads) -> Terms:
        """Of B windows, L queries, S steps of memory."""


def full_attention(B: int, L: int, S: int, heads: Heads) -> Terms:
    """Logits and context, ``2 B H L S (E + V)``, whether masked or not."""
    H, E, V, _ = heads
    yield "mixing", real(B * H * L * S * (E + V))


@dataclasses.dataclass(frozen=True)
class Attention:
    """The attention blocks of one kind.

    Attributes:
      mix: what the mixing between the projections costs.
      reads: which of query, key and value the result depends on; the others do not count.
      of_params: whether the mixing's result depends on params at all.
    """

    mix: Mix = full_attention
    reads: str = "qkv"
    of_params: bool = True

    def costs(
        self, B: int, name: str, steps: tuple[int, int], widths: tuple[int, int], heads: Heads
    ) -> Terms:
        """Projections ``2 B H (L D E + S D' (E + V) + L V D)``, and the mixing.

        ``steps`` are L and S; ``widths`` are D, of queries and result, and D', of the memory.
        """
        (L, S), (D, memory), (H, E, V, _) = steps, widths, heads
        each = {"q": L * D * E, "k": S * memory * E, "v": S * memory * V}
        yield f"{name}/projections", real(B * H * sum(each[part] for part in self.reads))
        yield f"{name}/projections", real(B * H * L * V * D, gradients=1 + self.of_params)
        for part, cost in self.mix(B, L, S, heads):
            yield f"{name}/{part}", cost


@dataclasses.dataclass(frozen=True)
class Blocks:
    """The attention blocks of an encoder-decoder model."""

    encoder: Attention
    own: Attention
    cross: Attention


def encoder(c: EncoderDecoderConfig, B: int, lengths: Sequence[int], attention: Attention) -> Terms:
    """The embedding; per layer, of one of the ``lengths`` each, attention and feed-forward."""
    D = c.d_model
    yield from embedding(c, B, "enc_embedding", (c.seq_len, c.enc_in, D))
    widths = c.ff_widths[: c.e_layers]
    for L, heads, d_ff in zip(lengths, c.encoder_heads, widths, strict=True):
        yield from attention.costs(B, "encoder/attention", (L, L), (D, D), heads)
        yield "encoder/feed_forward", feed_forward(B * L, D, d_ff)


def decoder(c: EncoderDecoderConfig, B: int, S: int, blocks: Blocks) -> Terms:
    """Per layer both attentions and feed-forward; then the output, ``2 B pred_len D c_out``.

    ``S`` is the length of the memory. Only the steps that are forecast are projected.
    """
    L, D = c.dec_len, c.decoder_width
    layers = zip(c.self_heads, c.cross_heads, c.ff_widths[c.e_layers :], strict=True)
    for own, cross, d_ff in layers:
        yield from blocks.own.costs(B, "decoder/self_attention", (L, L), (D, D), own)
        yield from blocks.cross.costs(B, "decoder/cross_attention", (L, S), (D, c.d_model), cross)
        yield "decoder/feed_forward", feed_forward(B * L, D, d_ff)
    yield "output_projection", real(B * c.pred_len * D * c.c_out)
