"""Stacks several trees of the same shapes into one, whose leaves have a leading axis of lanes.

The masks of one model at many densities are such trees, and so are its params from several seeds.
A function that is mapped over the lanes, by ``jax.vmap`` or ``jax.lax.map``, is one compiled
program for all of them.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from tsjax import trees
from tsjax.trees import PyTree


def stack(lanes: Sequence[PyTree]) -> PyTree:
    """Stacks trees into one tree, for instance the masks of one model.

    Args:
      lanes: R trees of arrays, alike in structure, shapes and dtypes.

    Returns:
      A tree like each of them, with leaves ``[R, ...]``.

    Raises:
      ValueError: if there is no lane, or if lanes differ from the first, listing every leaf.
    """
    check_alike(lanes)
    return _stack(list(lanes))


def check_alike(lanes: Sequence[PyTree]) -> None:
    """Raises ValueError if the trees cannot be stacked; see :func:`stack`."""
    if not lanes:
        raise ValueError("there is nothing to stack: pass at least one tree")
    first, *others = map(_signature, lanes)
    for i, (found, structure) in enumerate(others, start=1):
        if (found, structure) == first:
            continue
        trees.check_same_structure(lanes[i], lanes[0], name=f"lane {i}", like_name="lane 0")
        other = [
            f"{path}: lane {i} has dtype {dtype}, lane 0 {first[0][path][1]}"
            for path, (_, dtype) in found.items()
            if dtype != first[0][path][1]
        ]
        raise ValueError(f"lane {i} does not match lane 0:\n  " + "\n  ".join(other))


def _signature(lane: PyTree) -> tuple[dict[str, tuple[Any, Any]], str]:
    """The shape and dtype of each leaf, and the structure of the containers."""
    found = {path: (leaf.shape, leaf.dtype) for path, leaf in trees.by_path(lane).items()}
    return found, str(jax.tree.structure(lane))


def lanes(stacked: PyTree) -> int:
    """The number of lanes R: the length of the leading axis of all leaves.

    Raises:
      ValueError: if the leaves do not agree on it, or if there is no leaf.
    """
    counts = {path: leaf.shape[:1] for path, leaf in trees.by_path(stacked).items()}
    if len(set(counts.values())) != 1 or () in counts.values():
        found = [f"{path}: {', '.join(map(str, n)) or 'no axis'}" for path, n in counts.items()]
        raise ValueError(
            "the leaves of stacked trees must agree on the number of lanes, their first axis:\n  "
            + ("\n  ".join(found) or "there is no leaf")
        )
    return next(iter(counts.values()))[0]


def lane(stacked: PyTree, index: int | Array) -> PyTree:
    """The tree of one lane, ``stacked[index]``; another index does not compile again."""
    return _lane(stacked, index)


def unstack(stacked: PyTree) -> list[PyTree]:
    """The trees that :func:`stack` stacked.

    Raises:
      ValueError: as :func:`lanes`.
    """
    return [lane(stacked, i) for i in range(lanes(stacked))]


def split(stacked: PyTree, chunk: int) -> list[PyTree]:
    """Splits a stack into stacks of ``chunk`` lanes, the last one filled with its last lane.

    One program serves all of them because their sizes are equal.

    Args:
      stacked: leaves ``[R, ...]``.
      chunk: lanes of each part, at least 1.

    Returns:
      ``ceil(R / chunk)`` trees with leaves ``[chunk, ...]``.

    Raises:
      ValueError: as :func:`lanes`, or for a chunk below 1.
    """
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1, got {chunk}")
    count = lanes(stacked)
    rows = jnp.minimum(jnp.arange(-(-count // chunk) * chunk), count - 1).reshape(-1, chunk)
    return [_lane(stacked, row) for row in rows]


@jax.jit
def _stack(lanes: list[PyTree]) -> PyTree:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *lanes)


@jax.jit
def _lane(stacked: PyTree, index: Array) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[index], stacked)
