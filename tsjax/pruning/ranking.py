"""The largest scores of many arrays at once, exactly, without a sort."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


@jax.jit
def keep_largest(scores: Sequence[Array], k: Array) -> list[Array]:
    """Masks that keep the ``k`` largest of all scores, ties by position.

    IEEE floats are ordered like unsigned integers once the bits of negative ones are flipped, so
    the threshold is found bit by bit. Each bit costs one pass over the scores.

    Args:
      scores: floating-point arrays; NaN ranks above infinity.
      k: how many to keep, a traced or concrete integer in [0, number of scores].
    """
    keys = _ordered(scores)
    integer = keys[0].dtype
    bits = jnp.iinfo(integer).bits
    k = jnp.asarray(k, jnp.int32)

    def count(threshold: Array) -> Array:
        return sum((jnp.sum(key >= threshold, dtype=k.dtype) for key in keys), jnp.zeros_like(k))

    def set_bit(i: Array, threshold: Array) -> Array:
        bit = jnp.ones((), integer) << (bits - 1 - i).astype(integer)
        return jnp.where(count(threshold | bit) >= k, threshold | bit, threshold)

    threshold = jax.lax.fori_loop(0, bits, set_bit, jnp.zeros((), integer))
    above = sum((jnp.sum(key > threshold, dtype=k.dtype) for key in keys), jnp.zeros_like(k))
    spare = k - above
    masks = []
    for key in keys:
        tied = (key == threshold).ravel()
        first = tied & (jnp.cumsum(tied, dtype=k.dtype) <= spare)
        masks.append((key > threshold) | first.reshape(key.shape))
        spare = spare - jnp.sum(tied, dtype=k.dtype)
    return masks


def keep_units(scores: Sequence[Array], sizes: Sequence[np.ndarray], k: Array) -> list[Array]:
    """Masks that keep whole units, the largest scores first, until about ``k`` weights are kept.

    Of all such prefixes the one whose weight count is nearest to ``k`` is taken (the shorter of two
    as near), so what is obtained is within half a unit of what is asked. Ties go by position.

    Args:
      scores: one score per unit.
      sizes: weights in each unit, of the same shapes.
      k: how many weights to keep.
    """
    flat = jnp.concatenate([jnp.where(s == 0, 0, s).ravel() for s in scores])
    weights = jnp.asarray(np.concatenate([np.ravel(s) for s in sizes]), jnp.int32)
    order = jnp.argsort(flat, descending=True, stable=True)
    kept = jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.cumsum(weights[order])])
    first = jnp.argmin(jnp.abs(kept - k))
    chosen = jnp.zeros(flat.shape, bool).at[order].set(jnp.arange(flat.size) < first)
    ends = np.cumsum([math.prod(s.shape) for s in scores])[:-1]
    parts = jnp.split(chosen, ends)
    return [part.reshape(s.shape) for part, s in zip(parts, scores, strict=True)]


def keep_in_groups(scores: Array, n: int | Array) -> Array:
    """Keeps the ``n`` largest scores along the last axis, ties by position."""
    order = jnp.argsort(jnp.where(scores == 0, 0, scores), axis=-1, descending=True, stable=True)
    return jnp.argsort(order, axis=-1) < n


def _ordered(scores: Sequence[Array]) -> list[Array]:
    """Unsigned integers in the order of the scores."""
    dtype = jnp.result_type(*scores)
    if jnp.finfo(dtype).bits < 32:
        dtype = jnp.dtype(jnp.float32)
    integer = jnp.dtype(f"uint{jnp.finfo(dtype).bits}")
    sign = jnp.ones((), integer) << (jnp.iinfo(integer).bits - 1)
    keys = []
    for score in scores:
        # -0.0 has other bits than 0.0, to which it is equal.
        bits = jnp.where(score == 0, 0, score).astype(dtype).view(integer)
        keys.append(jnp.where(bits & sign, ~bits, bits | sign))
    return keys
