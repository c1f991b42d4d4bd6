"""Masks: bool pytrees with exactly the structure and shapes of the params they belong to."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tsjax import trees

PyTree = Any
Where = Callable[[str, Any], bool]

_NOT_KERNELS = frozenset({"bias", "scale", "embedding", "position", "router", "real", "imag"})
OUTPUT_PROJECTION = "output_projection"


def kernels(path: str, leaf: Any) -> bool:
    """The default choice of prunable leaves: kernels of rank >= 2, without the output projection.

    Left out by their name are biases, norms' scales, look-up tables, positions, routers, and the
    real and imaginary parts of complex weights, which the published study keeps dense too. The
    output projection is known by its role, a module called ``output_projection``, not by its width.

    Args:
      path: the leaf's path, ``"decoder/layer_0/feed_forward/up/kernel"``.
      leaf: the leaf; only its rank is read.
    """
    *scopes, name = path.split("/")
    return leaf.ndim >= 2 and name not in _NOT_KERNELS and OUTPUT_PROJECTION not in scopes


def ones(params: PyTree) -> PyTree:
    """The mask that keeps every weight of ``params``."""
    return jax.tree.map(lambda leaf: jnp.ones(leaf.shape, bool), params)


def apply(params: PyTree, mask: PyTree) -> PyTree:
    """Sets pruned weights to zero: ``where(mask, w, 0)`` on every leaf.

    Inside a differentiated function this also gives pruned weights a gradient of exactly zero.

    Args:
      params: tree of arrays.
      mask: tree of bool arrays with the structure and shapes of ``params``.

    Returns:
      A tree like ``params``, with the same dtypes.

    Raises:
      ValueError: if the trees differ, listing every leaf that does, or if a mask is not bool.
    """
    trees.check_same_structure(mask, params, name="mask", like_name="params")
    if other := [f"{p} ({m.dtype})" for p, m in trees.by_path(mask).items() if m.dtype != bool]:
        raise ValueError(f"a mask's leaves must be bool: {', '.join(other)}")
    return jax.tree.map(lambda w, keep: jnp.where(keep, w, jnp.zeros_like(w)), params, mask)


def summary(mask: PyTree) -> dict[str, tuple[int, int]]:
    """Maps each leaf's path to ``(kept weights, all weights)``."""
    host = jax.device_get(mask)
    return {path: (int(np.sum(leaf)), leaf.size) for path, leaf in trees.by_path(host).items()}


def density(mask: PyTree, where: Where | None = None) -> float:
    """Kept weights over counted weights.

    Args:
      mask: tree of bool arrays.
      where: ``where(path, leaf)`` says which leaves are counted; all of them by default.

    Returns:
      A number in [0, 1]; 1 where nothing is counted.
    """
    leaves = trees.by_path(mask)
    counts = [
        count for path, count in summary(mask).items() if where is None or where(path, leaves[path])
    ]
    total = sum(n for _, n in counts)
    return sum(kept for kept, _ in counts) / total if total else 1.0
