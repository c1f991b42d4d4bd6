"""Forms for storage: masks as one bit for each weight, and params as their kept values.

The bits are in row-major order. The first weight has the highest bit of the first byte, as in
``numpy.packbits``. Bits of the last byte that no weight needs are zero.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tsjax import trees
from tsjax.pruning.placement import replicated
from tsjax.trees import PyTree

COMPRESSED_PARTS = ("values", "mask")
"""What :func:`compress` may store of a leaf."""


def pack(mask: PyTree) -> PyTree:
    """Packs a mask for storage, eight weights to a byte. It also works inside a jitted function.

    Args:
      mask: tree of bool arrays.

    Returns:
      A tree like ``mask`` of uint8 arrays ``[ceil(n / 8)]`` for leaves of ``n`` weights.

    Raises:
      ValueError: if leaves are not bool, naming them.
    """
    trees.check_bool(mask)
    return jax.tree.map(lambda leaf: jnp.packbits(jnp.ravel(replicated(leaf))), mask)


def unpack(packed: PyTree, like: PyTree) -> PyTree:
    """The mask that :func:`pack` packed. It also works inside a jitted function.

    Args:
      packed: tree of uint8 arrays. Bits beyond a leaf's last weight are not read.
      like: the params or the mask, or their shapes (``ShapeDtypeStruct``).

    Returns:
      A tree like ``like`` of bool arrays of its shapes.

    Raises:
      ValueError: if ``packed`` is not uint8, or does not have the leaves and sizes that ``like``
        asks for. Every leaf at fault is listed.
    """
    trees.check_same_structure(
        packed,
        jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((_bytes(leaf.size),), np.uint8), like),
        name="packed",
        like_name="a packed mask of these shapes",
    )
    if other := [f"{p} ({b.dtype})" for p, b in trees.by_path(packed).items() if b.dtype != "u1"]:
        raise ValueError(f"a packed mask's leaves must be uint8: {', '.join(other)}")
    return jax.tree.map(
        lambda bits, leaf: jnp.unpackbits(bits, count=leaf.size).astype(bool).reshape(leaf.shape),
        packed,
        like,
    )


def compress(params: PyTree, mask: PyTree) -> PyTree:
    """The kept weights alone, with what is needed to put them back. It runs on the host.

    The values of pruned weights are dropped. A kept weight may be zero, so the mask is stored and
    not inferred. A complex number is one weight.

    Args:
      params: tree of arrays.
      mask: tree of bool arrays with the structure and shapes of ``params``.

    Returns:
      A tree like ``params`` with a dict of numpy arrays for each leaf, which orbax saves as it is:

      * all weights kept: ``values``, the leaf itself;
      * some kept: ``values`` ``[kept]`` in row-major order, and ``mask``, packed as by
        :func:`pack`;
      * none kept: ``mask`` alone, all zero;
      * a leaf without weights: nothing.

    Raises:
      ValueError: if ``mask`` is no mask of ``params``, listing every leaf at fault.
    """
    trees.check_mask(mask, params)
    return jax.tree.map(_compress, *jax.device_get((params, mask)))


def decompress(compressed: PyTree, like: PyTree) -> tuple[PyTree, PyTree]:
    """The params and the mask that :func:`compress` was given. Pruned weights are zero.

    Args:
      compressed: as :func:`compress` returns it.
      like: tree of arrays or ``ShapeDtypeStruct`` with the structure, shapes and dtypes of the
        params.

    Returns:
      Params and mask, trees like ``like`` of numpy arrays. Kept weights come back bit by bit.

    Raises:
      ValueError: if ``compressed`` does not fit ``like``, or contradicts itself. It does so if the
        mask keeps more or fewer weights than there are values. Every leaf at fault is listed.
    """
    problems: list[str] = []

    def expand(path: str, leaf: Any, parts: Any) -> Any:
        try:
            return _expand(parts, tuple(leaf.shape), _native(leaf.dtype))
        except ValueError as error:
            problems.append(f"{path}: {error}")

    try:
        pairs = trees.map_with_path(expand, like, compressed)
    except (ValueError, TypeError) as error:
        raise ValueError(f"compressed does not have the containers of like: {error}") from None
    if problems:
        raise ValueError("compressed does not fit like:\n  " + "\n  ".join(problems))
    return (
        jax.tree.map(lambda _, pair: pair[0], like, pairs),
        jax.tree.map(lambda _, pair: pair[1], like, pairs),
    )


def _compress(leaf: np.ndarray, keep: np.ndarray) -> dict[str, np.ndarray]:
    if not leaf.size:
        return {}  # Orbax stores no array without elements.
    leaf = np.asarray(leaf, _native(leaf.dtype), order="C")
    values = leaf[keep]
    if values.size == leaf.size:
        return {"values": leaf}
    packed = {"mask": np.packbits(np.ravel(keep))}
    return {"values": values} | packed if values.size else packed


def _expand(parts: Any, shape: tuple[int, ...], dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """One leaf and its mask, or ValueError that says what is wrong with the parts."""
    if not isinstance(parts, Mapping) or not parts.keys() <= set(COMPRESSED_PARTS):
        raise ValueError(f"expected arrays {' and '.join(COMPRESSED_PARTS)}, got {str(parts)[:80]}")
    n = math.prod(shape)
    if other := [name for name, part in parts.items() if not hasattr(part, "dtype")]:
        raise ValueError(f"{' and '.join(other)} must be arrays")
    values, packed = (parts.get(part) for part in COMPRESSED_PARTS)
    if values is not None and values.dtype != dtype:
        raise ValueError(f"the values are {values.dtype}, expected {dtype}")
    if packed is None:
        if values is None:
            if n:
                raise ValueError(f"neither values nor a mask are stored for {n} weights")
            values = np.empty(shape, dtype)
        if values.shape != shape:
            raise ValueError(f"the values have shape {values.shape}, expected {shape}")
        return np.asarray(values), np.ones(shape, bool)
    if packed.dtype != np.uint8 or packed.shape != (_bytes(n),):
        raise ValueError(
            f"the mask is {packed.dtype} {packed.shape}, expected uint8 ({_bytes(n)},) for "
            f"{n} weights"
        )
    bits = np.unpackbits(np.asarray(packed)).view(bool)
    if bits[n:].any():
        raise ValueError(f"the mask has bits set beyond the last of {n} weights")
    keep = bits[:n].reshape(shape)
    kept = int(np.count_nonzero(keep))
    values = np.empty(0, dtype) if values is None else values
    if values.shape != (kept,):
        raise ValueError(
            f"the mask keeps {kept} of {n} weights, but the values have shape {values.shape}"
        )
    leaf = np.zeros(shape, dtype)
    leaf[keep] = values
    return leaf, keep


def _bytes(n: int) -> int:
    """Bytes that hold ``n`` bits."""
    return -(-n // 8)


def _native(dtype: Any) -> np.dtype:
    return np.dtype(dtype).newbyteorder("=")
