"""Chooses leaves by glob or by predicate, and finds which two leaves are one complex weight."""

import fnmatch
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

import jax.numpy as jnp

from tsjax import trees
from tsjax.trees import PyTree
from tsjax.wording import listing, near

T = TypeVar("T")

Where = str | Callable[[str, Any], bool] | Sequence["str | Callable[[str, Any], bool]"]
"""A glob over paths, a predicate ``where(path, leaf)``, or a sequence of these. A leaf is
chosen if one of them says so."""

OUTPUT_PROJECTION = "output_projection"

_NOT_KERNELS = frozenset({
    "bias", "scale", "embedding", "embeddings", "position", "positions", "pos_embedding",
    "position_embedding", "positional_embedding", "router", "real", "imag",
})  # fmt: skip
_LOOK_UPS = frozenset({"embed", "embedding", "embedder", "token_embedding"})


def kernels(path: str, leaf: Any) -> bool:
    """Whether a leaf is pruned by default: all kernels but those of the output projection.

    The output projection is known by its name: it lies in a module called ``output_projection``.

    Args:
      path: the leaf's path, ``"decoder/layer_0/feed_forward/up/kernel"``.
      leaf: the leaf; only its rank and dtype are read.
    """
    return all_kernels(path, leaf) and OUTPUT_PROJECTION not in _names(path)[:-1]


def all_kernels(path: str, leaf: Any) -> bool:
    """Whether a leaf is a kernel: of rank >= 2, the weight of a linear layer or a convolution.

    These are left out by their name: biases, norms' scales, look-up tables, positions, routers, and
    the real and imaginary parts of complex weights, which the published study keeps dense too.
    Integer leaves are not weights, and are left out as well.

    Args:
      path: the leaf's path.
      leaf: the leaf; only its rank and dtype are read.
    """
    *scopes, name = _names(path)
    if name == "weight" and scopes and scopes[-1] in _LOOK_UPS:
        return False
    return (
        leaf.ndim >= 2 and name not in _NOT_KERNELS and not jnp.issubdtype(leaf.dtype, jnp.integer)
    )


def complex_pairs(path: str, leaf: Any) -> bool:
    """Whether a leaf is a part of a complex weight: it is called ``real`` or ``imag``.

    ``where=(pruning.kernels, pruning.complex_pairs)`` prunes FEDformer's Fourier weights as well.
    """
    del leaf
    return _names(path)[-1] in ("real", "imag")


def choose(tree: PyTree, where: Where) -> dict[str, Any]:
    """The leaves that ``where`` chooses, by path, in tree order; empty ones are never chosen.

    Raises:
      ValueError: for a glob that no path matches, if the real part of a complex weight is chosen
        without the imaginary part, and for leaves that are no arrays.
    """
    trees.check_arrays(tree)
    leaves = trees.by_path(tree)
    parts = (where,) if isinstance(where, str) or callable(where) else tuple(where)
    for part in parts:
        if isinstance(part, str) and leaves and not any(matches(part, path) for path in leaves):
            raise ValueError(
                f"no leaf matches {part!r}{near(part, leaves)}: the paths are {listing(leaves)}"
            )

    def wanted(path: str, leaf: Any) -> bool:
        return any(
            matches(part, path) if isinstance(part, str) else part(path, leaf) for part in parts
        )

    chosen = {path: leaf for path, leaf in leaves.items() if wanted(path, leaf) and leaf.size}
    halves = [
        p
        for pair in pairs(leaves).items()
        for p in pair
        if (pair[0] in chosen) != (pair[1] in chosen)
    ]
    if halves:
        raise ValueError(
            "a complex weight is pruned whole, but only one of its parts is chosen: "
            + listing([path for path in halves if path in chosen])
        )
    return chosen


def matches(glob: str, path: str) -> bool:
    """Whether a path is the glob or matches it; ``*`` also runs over ``/``.

    The ``value`` that ends nnx's paths may be left out.
    """
    return any(
        p == glob or fnmatch.fnmatchcase(p, glob) for p in {path, path.removesuffix("/value")}
    )


def look_up(
    table: Mapping[str, T], chosen: Mapping[str, Any], what: str, followers: Collection[str] = ()
) -> dict[str, T]:
    """For each chosen path, its own value in the table, or that of the first glob it matches.

    Args:
      table: values by glob.
      chosen: leaves by path.
      what: what a value is called in the message.
      followers: further paths that a glob may match without an error. They get no value of their
        own: imaginary parts follow the real ones.

    Raises:
      ValueError: listing the paths without a value, or the globs that match no chosen path.
    """
    known = (*chosen, *followers)
    if unused := [glob for glob in table if not any(matches(glob, path) for path in known)]:
        raise ValueError(f"no prunable leaf matches {listing(unused)}: they are {listing(chosen)}")
    found = {}
    for path in chosen:
        glob = path if path in table else next((g for g in table if matches(g, path)), None)
        if glob is not None:
            found[path] = table[glob]
    if missing := [path for path in chosen if path not in found]:
        raise ValueError(f"no {what} for {listing(missing)}: add a glob that matches, or '*'")
    return found


def pairs(leaves: Mapping[str, Any]) -> dict[str, str]:
    """The path of each real part, with that of the imaginary part of its shape beside it."""
    found = {}
    for path, leaf in leaves.items():
        names = path.split("/")
        at = len(names) - 1 - (names[-1] == "value" and len(names) > 1)
        if names[at] != "real":
            continue
        other = "/".join([*names[:at], "imag", *names[at + 1 :]])
        if other in leaves and leaves[other].shape == leaf.shape:
            found[path] = other
    return found


def _names(path: str) -> list[str]:
    """The parts of a path, without the ``value`` in which nnx keeps each array."""
    names = path.split("/")
    return names[:-1] if names[-1] == "value" and len(names) > 1 else names
