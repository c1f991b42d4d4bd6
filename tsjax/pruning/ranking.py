"""Finds the largest scores exactly: of many arrays together, in groups, or as whole units."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


@jax.jit
def keep_largest(scores: Sequence[Array], k: int | Array) -> list[Array]:
    """Masks that keep the ``k`` largest of all scores; of equal scores, the first ones.

    IEEE floats have the order of unsigned integers, once the bits of negative ones are flipped. So
    the threshold is found bit by bit, and each bit takes one pass over the scores.

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
    tied = [key == threshold for key in keys]
    first = _first(tied, k - above)
    return [(key > threshold) | same for key, same in zip(keys, first, strict=True)]


def _first(masks: Sequence[Array], n: Array) -> list[Array]:
    """Masks that keep the first ``n`` true places of all masks, which hold at least so many.

    The place where they end is found like the threshold, bit by bit. A running count would need a
    sharded array in one place.
    """
    sizes = [math.prod(mask.shape) for mask in masks]
    bits = max(1, sum(sizes).bit_length())
    offsets = np.cumsum([0, *sizes[:-1]])

    def before(end: Array) -> list[Array]:
        return [
            mask & (_positions(mask.shape) < end - np.uint32(start)) & (end > start)
            for mask, start in zip(masks, offsets.tolist(), strict=True)
        ]

    def count(found: Sequence[Array]) -> Array:
        return sum((jnp.sum(mask, dtype=n.dtype) for mask in found), jnp.zeros_like(n))

    def set_bit(i: Array, end: Array) -> Array:
        bit = jnp.uint32(1) << (bits - 1 - i).astype(jnp.uint32)
        return jnp.where(count(before(end | bit)) <= n, end | bit, end)

    def search() -> Array:
        return jax.lax.fori_loop(0, bits, set_bit, jnp.uint32(0))

    # Without ties, which is the rule, nothing is left to decide.
    end = jax.lax.cond(count(masks) == n, lambda: jnp.uint32(2**32 - 1), search)
    return before(end)


def _positions(shape: tuple[int, ...]) -> Array:
    """Row-major positions, uint32."""
    found = jnp.zeros(shape, jnp.uint32)
    for axis in range(len(shape)):
        stride = np.uint32(math.prod(shape[axis + 1 :]))
        found = found + stride * jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
    return found


def keep_units(scores: Sequence[Array], sizes: Sequence[np.ndarray], k: int | Array) -> list[Array]:
    """Masks that keep whole units, the largest scores first, until about ``k`` weights are kept.

    The number of units is the one whose count of weights is nearest to ``k``, and the smaller of
    two that are equally near. So the count is within half a unit of ``k``. Of units with equal
    scores, the first ones are kept.

    Args:
      scores: one score per unit.
      sizes: weights in each unit, of the same shapes.
      k: how many weights to keep.
    """
    flat = jnp.concatenate([s.ravel() for s in _ordered(scores)])
    weights = jnp.asarray(np.concatenate([np.ravel(s) for s in sizes]), jnp.int32)
    order = jnp.argsort(flat, descending=True, stable=True)
    kept = jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.cumsum(weights[order])])
    first = jnp.argmin(jnp.abs(kept - k))
    chosen = jnp.zeros(flat.shape, bool).at[order].set(jnp.arange(flat.size) < first)
    ends = np.cumsum([math.prod(s.shape) for s in scores])[:-1]
    parts = jnp.split(chosen, ends)
    return [part.reshape(s.shape) for part, s in zip(parts, scores, strict=True)]


@jax.jit
def keep_in_groups(scores: Array, n: int | Array) -> Array:
    """A mask that keeps the ``n`` largest scores along the last axis; of equal ones, the first."""
    (keys,) = _ordered([scores])
    order = jnp.argsort(keys, axis=-1, descending=True, stable=True)
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
        bits = score.astype(dtype).view(integer)
        # -0.0 has other bits than 0.0, to which it is equal. A comparison of floats would take the
        # smallest for zeros too, on some devices.
        bits = jnp.where(bits << 1, bits, 0)
        keys.append(jnp.where(bits & sign, ~bits, bits | sign))
    return keys
