"""Masks: bool pytrees with exactly the structure and shapes of the params they belong to."""

import functools
import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tsjax import trees
from tsjax.pruning.choice import Where, choose, pairs
from tsjax.pruning.placement import placed_like
from tsjax.trees import PyTree


def ones(params: PyTree) -> PyTree:
    """The mask that keeps every weight of ``params``.

    Raises:
      ValueError: naming the leaves that are no arrays.
    """
    trees.check_arrays(params)
    return jax.tree.map(lambda leaf: placed_like(jnp.ones(leaf.shape, bool), leaf), params)


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
    trees.check_mask(mask, params)
    return jax.tree.map(
        lambda w, keep: jnp.where(placed_like(keep, w), w, jnp.zeros_like(w)), params, mask
    )


def straight_through(params: PyTree, mask: PyTree) -> PyTree:
    """As :func:`apply`, but the gradient reaches pruned weights as if they were kept.

    This is the straight-through estimator (Bengio et al., arXiv 1308.3432): pruned weights go on
    learning and may come back. It also gives the gradient at pruned weights, by which RigL grows.

    Args:
      params: tree of arrays.
      mask: tree of bool arrays with the structure and shapes of ``params``.

    Raises:
      ValueError: as :func:`apply`.
    """
    return _straight_through(params, apply(params, mask))


@jax.custom_jvp
def _straight_through(params: PyTree, masked: PyTree) -> PyTree:
    del params
    return masked


@_straight_through.defjvp
def _straight_through_jvp(primals: tuple[Any, Any], tangents: tuple[Any, Any]) -> tuple[Any, Any]:
    return primals[1], tangents[0]


def intersect(*masks: PyTree) -> PyTree:
    """The mask that keeps what all of ``masks`` keep, such as a global mask and an N:M pattern.

    Raises:
      ValueError: if they differ in structure or shapes, listing every leaf that does.
    """
    for mask in masks:
        trees.check_mask(mask, masks[0])
    return jax.tree.map(lambda *leaves: functools.reduce(operator.and_, leaves), *masks)


def summary(mask: PyTree) -> dict[str, tuple[int, int]]:
    """Maps each leaf's path to ``(kept weights, all weights)``.

    Raises:
      ValueError: if leaves are not bool, naming them.
    """
    trees.check_bool(mask)
    host = jax.device_get(mask)
    return {path: (int(np.sum(leaf)), leaf.size) for path, leaf in trees.by_path(host).items()}


def count(mask: PyTree, where: Where | None = None) -> tuple[int, int]:
    """How many weights of the chosen leaves are kept, and how many there are.

    A complex weight counts once, be it a complex number or a pair of leaves ``real`` and ``imag``.

    Args:
      mask: tree of bool arrays.
      where: which leaves are counted, see :data:`tsjax.pruning.Where`; all of them by default.
    """
    leaves = trees.by_path(mask)
    counted = set(leaves if where is None else choose(mask, where)) - set(pairs(leaves).values())
    counts = [both for path, both in summary(mask).items() if path in counted]
    return sum(kept for kept, _ in counts), sum(n for _, n in counts)


def density(mask: PyTree, where: Where | None = None) -> float:
    """The share of the chosen leaves' weights that is kept, counted as by :func:`count`.

    Args:
      mask: tree of bool arrays.
      where: which leaves are counted, see :data:`tsjax.pruning.Where`; all of them by default.

    Returns:
      A number in [0, 1]; 1 where nothing is counted.
    """
    kept, total = count(mask, where)
    return kept / total if total else 1.0
