"""Small helpers over pytrees that several layers share: paths, counts, checks."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

PyTree = Any


def path_of(key_path: tuple[Any, ...]) -> str:
    """The readable form of a leaf's key path: ``"encoder/layer_0/attention/query/kernel"``."""
    return jax.tree_util.keystr(key_path, simple=True, separator="/")


def paths(tree: PyTree) -> list[str]:
    """Paths of all leaves, in the order of ``jax.tree.leaves``."""
    return [path_of(key_path) for key_path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def by_path(tree: PyTree) -> dict[str, Any]:
    """Maps each leaf's path to the leaf.

    Raises:
      ValueError: if two leaves have the same path, as in ``{"a/b": x, "a": {"b": y}}``.
    """
    found: dict[str, Any] = {}
    for key_path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        path = path_of(key_path)
        if path in found:
            raise ValueError(f"two leaves have the path {path!r}: rename a key that contains '/'")
        found[path] = leaf
    return found


def map_with_path(fn: Callable[..., Any], tree: PyTree, *rest: PyTree) -> PyTree:
    """``jax.tree.map`` whose function also gets the leaf's path, as ``fn(path, leaf, *others)``."""
    return jax.tree_util.tree_map_with_path(lambda p, *leaves: fn(path_of(p), *leaves), tree, *rest)


def size(tree: PyTree) -> int:
    """Number of elements in all leaves (arrays or ``ShapeDtypeStruct``)."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def in_params(path: str) -> bool:
    """Whether a leaf is in the part ``params`` of a tree, as a forecaster's weights are."""
    return path == "params" or path.startswith("params/")


def params_in(tree: PyTree) -> list[PyTree]:
    """The part ``params`` of a tree that has more than that, in a list; else an empty list."""
    parts = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: x is not tree)
    return [part for key, part in parts if path_of(key) == "params"]


def leaves_like(tree: PyTree, like: PyTree, *, name: str, like_name: str) -> dict[str, Any]:
    """Maps paths in ``like`` to the leaves of a tree that is like it or like its part ``params``.

    Args:
      tree: the tree to take leaves from.
      like: the tree whose paths they get.
      name: what ``tree`` is called in a message.
      like_name: what ``like`` is called in a message.

    Raises:
      ValueError: if it is like neither, listing how it differs.
    """
    structure: Any = jax.tree.structure(tree)
    for part in params_in(like):
        if structure == jax.tree.structure(part):
            check_same_structure(tree, part, name=name, like_name=like_name)
            return {f"params/{path}".rstrip("/"): leaf for path, leaf in by_path(tree).items()}
    check_same_structure(tree, like, name=name, like_name=like_name)
    return by_path(tree)


def check_arrays(tree: PyTree) -> None:
    """Checks that every leaf is an array.

    Raises:
      ValueError: naming the leaves that are something else, as Equinox's activation functions are.
    """
    other = [
        f"{path} ({type(leaf).__name__})"
        for path, leaf in by_path(tree).items()
        if not hasattr(leaf, "dtype")
    ]
    if other:
        raise ValueError(
            f"these leaves are no arrays: {', '.join(other)}. Pass only the arrays of a tree, as "
            "eqx.filter(model, eqx.is_array) or nnx.split(model, nnx.Param, ...) give them"
        )


def check_same_structure(tree: PyTree, like: PyTree, *, name: str, like_name: str) -> None:
    """Checks that two trees have the same leaves, with equal shapes.

    Args:
      tree: the tree to check.
      like: the tree it should look like.
      name: what ``tree`` is called in the message, e.g. ``"mask"``.
      like_name: what ``like`` is called in the message, e.g. ``"params"``.

    Raises:
      ValueError: listing every leaf that is missing, extra, of another shape, or no array.
    """
    check_arrays(tree)
    check_arrays(like)
    have, want = by_path(tree), by_path(like)
    problems = [f"{p}: missing from {name}" for p in want if p not in have]
    problems += [f"{p}: not in {like_name}" for p in have if p not in want]
    problems += [
        f"{p}: {name} has shape {have[p].shape}, {like_name} {want[p].shape}"
        for p in want
        if p in have and have[p].shape != want[p].shape
    ]
    if not problems:
        structures = [str(jax.tree.structure(t)) for t in (tree, like)]
        if structures[0] != structures[1]:
            problems = [f"containers differ: {structures[0]} is not {structures[1]}"]
    if problems:
        raise ValueError(f"{name} does not match {like_name}:\n  " + "\n  ".join(problems))


def check_mask(mask: PyTree, params: PyTree) -> None:
    """Checks that a tree is a mask of ``params``: bool leaves with their paths and shapes.

    Raises:
      ValueError: listing every leaf at fault.
    """
    check_same_structure(mask, params, name="mask", like_name="params")
    check_bool(mask)


def check_bool(mask: PyTree) -> None:
    """Checks that every leaf of a mask is a bool array.

    Raises:
      ValueError: naming the leaves that are something else.
    """
    check_arrays(mask)
    if other := [f"{p} ({m.dtype})" for p, m in by_path(mask).items() if m.dtype != bool]:
        raise ValueError(f"a mask's leaves must be bool: {', '.join(other)}")


def describe(tree: PyTree) -> dict[str, dict[str, Any]]:
    """The ``dtype`` and ``shape`` of each leaf by its path, in types that JSON has."""
    return {
        path: {"dtype": leaf.dtype.name, "shape": list(leaf.shape)}
        for path, leaf in by_path(tree).items()
    }


def described(description: Any) -> dict[str, jax.ShapeDtypeStruct]:
    """The leaves by path, from a description by :func:`describe` that was read from a file.

    Raises:
      ValueError: if it is no such description; the paths at fault are named.
    """
    if not isinstance(description, Mapping):
        raise ValueError(f"the leaves are a {type(description).__name__}, not a mapping by path")
    found, problems = {}, []
    for path, leaf in description.items():
        try:
            found[path] = _described_leaf(leaf["dtype"], leaf["shape"])
        except (KeyError, TypeError, ValueError):
            problems.append(f"{path}: {str(leaf)[:80]} is no dtype and shape of an array")
    if problems:
        raise ValueError("; ".join(problems))
    return found


def check_fits(stored: Mapping[str, Any], like: PyTree, *, name: str) -> None:
    """Checks that stored leaves (by path) have the paths, shapes and dtypes of ``like``.

    Raises:
      ValueError: listing every leaf that does not; ``name`` says what is stored.
    """
    want = by_path(like)
    check_same_structure(dict(stored), want, name=name, like_name="the tree expected")
    if other := [
        f"{path}: {stored[path].dtype} stored, {leaf.dtype} expected"
        for path, leaf in want.items()
        if stored[path].dtype != jnp.dtype(leaf.dtype).newbyteorder("=")
    ]:
        raise ValueError(f"{name} has other dtypes:\n  " + "\n  ".join(other))


def _described_leaf(name: str, shape: list[int]) -> jax.ShapeDtypeStruct:
    dtype = jnp.dtype(name)
    number = jnp.issubdtype(dtype, jnp.number) or jnp.issubdtype(dtype, jnp.bool_)
    dims = len(shape) <= 32 and all(type(d) is int and d >= 0 for d in shape)
    # Even an array without elements must not have dimensions that no memory could hold.
    if not (number and dims and math.prod(max(d, 1) for d in shape) * dtype.itemsize < 2**63):
        raise ValueError
    if dtype.name != name:  # numpy has other names for it too, and takes None for float64.
        raise ValueError
    return jax.ShapeDtypeStruct(tuple(shape), dtype)
