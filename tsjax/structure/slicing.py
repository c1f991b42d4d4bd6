"""Cuts units out of trees: smaller leaves, the same leaves with zeros, and the way back."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tsjax import trees
from tsjax.structure.planning import Plan
from tsjax.trees import PyTree


def slice(tree: PyTree, plan: Plan) -> PyTree:  # noqa: A001
    """Physically smaller leaves: only the units that a plan keeps.

    Args:
      tree: the tree that was planned for, of arrays or ``jax.ShapeDtypeStruct``; or a tree that
        holds trees like it, as an optimiser's state does, of which each is cut and the rest left as
        it is. Where the planned tree has a part ``params``, as a forecaster has, trees like that
        part are cut as well. Such trees may lack leaves, as ``optax.masked`` leaves them out, or
        have labels in their place.
      plan: from :func:`tsjax.structure.plan`.

    Returns:
      A tree of the same structure; jax arrays, numpy arrays and ``jax.ShapeDtypeStruct`` stay what
      they are.

    Raises:
      ValueError: if no part of ``tree`` is like the planned tree, if a leaf has another shape, or
        if a part is a dataclass like the planned one but with other leaves, as a forecaster with
        a mask where one without was planned for.
    """

    def cut(path: str, leaf: Any) -> Any:
        if isinstance(leaf, jax.ShapeDtypeStruct):
            return jax.ShapeDtypeStruct(shapes[path], leaf.dtype)
        if all(at is None for at in kept[path]):
            return leaf
        return computed(lambda a, _: _take(a, kept[path]), leaf)

    kept, shapes = _kept_places(plan), plan.groups.shapes(plan.sizes)
    return _map(cut, tree, plan, plan.groups.shapes({}))


def zero(tree: PyTree, plan: Plan) -> PyTree:
    """The leaves in full size, zero wherever a unit has been cut.

    What would become of the model without these units, before anything is cut. Integers stay as
    they are: a zero would be an index, too.

    Args:
      tree: the tree that was planned for, or one that holds trees like it, see :func:`slice`.
      plan: from :func:`tsjax.structure.plan`.

    Raises:
      ValueError: as of :func:`slice`.
    """

    def clear(path: str, leaf: Any) -> Any:
        if isinstance(leaf, jax.ShapeDtypeStruct) or not jnp.issubdtype(leaf.dtype, jnp.inexact):
            return leaf
        here = np.ones((1,) * leaf.ndim, bool)
        for axis, at in enumerate(kept[path]):
            if at is not None:
                along = np.isin(np.arange(leaf.shape[axis]), at)
                here = here & np.expand_dims(along, [i for i in range(leaf.ndim) if i != axis])
        return computed(lambda a, xp: xp.where(here, a, xp.zeros_like(a)), leaf)

    kept = _kept_places(plan)
    return _map(clear, tree, plan, plan.groups.shapes({}))


def scatter(tree: PyTree, plan: Plan) -> PyTree:
    """The leaves in full size again, zero where there is nothing: the inverse of :func:`slice`.

    Args:
      tree: what :func:`slice` returned, or a tree like it.
      plan: the same plan.

    Raises:
      ValueError: as of :func:`slice`.
    """
    shapes = plan.groups.shapes({})

    def spread(path: str, leaf: Any) -> Any:
        if all(at is None for at in kept[path]):
            return leaf
        if isinstance(leaf, jax.ShapeDtypeStruct):
            return jax.ShapeDtypeStruct(shapes[path], leaf.dtype)
        places = [
            np.arange(n) if at is None else at
            for n, at in zip(shapes[path], kept[path], strict=True)
        ]

        def place(a: Any, xp: Any) -> Any:
            # Random keys have an axis more, of their words.
            full = xp.zeros((*shapes[path], *a.shape[len(places) :]), a.dtype)
            if xp is jnp:
                return full.at[np.ix_(*places)].set(a)
            full[np.ix_(*places)] = a
            return full

        return computed(place, leaf)

    kept = _kept_places(plan)
    return _map(spread, tree, plan, plan.groups.shapes(plan.sizes))


def _kept_places(plan: Plan) -> dict[str, list[np.ndarray | None]]:
    """For each leaf and axis the places that are kept, None for all."""
    if not isinstance(plan, Plan):
        raise ValueError(f"the second argument must be a plan, got a {type(plan).__name__}")
    found: dict[str, list[np.ndarray | None]] = {}
    masks = {
        path: [np.ones(n, bool) for n in shape] for path, shape in plan.groups.shapes({}).items()
    }
    for name, units in plan.keep.items():
        group = plan.groups[name]
        if len(units) == group.size:
            continue
        kept = np.append(np.isin(np.arange(group.size), units), True)
        for member in group.members:
            masks[member.path][member.axis] &= kept[member.units]
    for path, each in masks.items():
        found[path] = [None if mask.all() else np.flatnonzero(mask) for mask in each]
    return found


def _take(array: Any, places: list[np.ndarray | None]) -> Any:
    # The axis that shrinks most goes first: less is copied.
    order = sorted(
        (len(at) / array.shape[axis], axis) for axis, at in enumerate(places) if at is not None
    )
    for _, axis in order:
        array = array.take(places[axis], axis)
    return array


def computed(fn: Callable[[Any, Any], Any], leaf: Any) -> Any:
    """Runs a function of arrays on the host, which compiles nothing; traced arrays stay traced."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        words = computed(fn, jax.random.key_data(leaf))
        return jax.random.wrap_key_data(words, impl=jax.random.key_impl(leaf))
    if isinstance(leaf, jax.core.Tracer):
        return fn(leaf, jnp)
    result = fn(np.asarray(leaf), np)
    if not isinstance(leaf, jax.Array):
        return result
    try:
        leaf.sharding.shard_shape(result.shape)
    except ValueError:
        # The devices cannot share what is left.
        return jnp.asarray(result)
    return jax.device_put(result, leaf.sharding)


def _left_out(part: PyTree) -> bool:
    """Whether Optax has this in place of what a transformation does not see."""
    return type(part).__name__ == "MaskedNode"


def _map(
    fn: Callable[[str, Any], Any], tree: PyTree, plan: Plan, shapes: dict[str, tuple[int, ...]]
) -> PyTree:
    """Maps a function of path and leaf over all parts of a tree that are like params."""
    planned = jax.tree.unflatten(plan.groups.structure, list(shapes))
    patterns = [planned, *trees.params_in(planned)]
    found = False

    def alike(part: PyTree) -> list[str | None] | None:
        """The paths of a part's arrays, if it is like params; None for what is left out."""
        for pattern in patterns:
            if (where := _paths_in(part, pattern, shapes)) is not None:
                return where
        if dataclasses.is_dataclass(planned) and type(part) is type(planned):
            raise ValueError(
                f"the tree holds a {type(part).__name__} without the leaves of the one that was "
                f"planned for, so that only parts of it would be cut: {jax.tree.structure(part)} "
                f"is not {plan.groups.structure}. Make the plan for a tree that is like it"
            )
        return None

    def each(part: PyTree) -> PyTree:
        nonlocal found
        if (where := alike(part)) is None:
            return part
        found = True
        leaves, structure = jax.tree.flatten(part, is_leaf=_left_out)
        pairs = list(zip(leaves, where, strict=True))
        if wrong := [
            f"{path}: {x.shape}, not {shapes[path]}"
            for x, path in pairs
            if path is not None and x.shape != shapes[path]
        ]:
            listed = "\n  ".join(wrong)
            raise ValueError(f"the tree has leaves of other shapes than the plan's:\n  {listed}")
        results = [x if path is None else fn(path, x) for x, path in pairs]
        return jax.tree.unflatten(structure, results)

    result = jax.tree.map(each, tree, is_leaf=lambda part: alike(part) is not None)
    if not found and shapes:
        raise ValueError(
            f"no part of the tree has the structure of params: {jax.tree.structure(tree)} holds no "
            f"{plan.groups.structure}"
        )
    return result


def _paths_in(
    part: PyTree, pattern: PyTree, shapes: dict[str, tuple[int, ...]]
) -> list[str | None] | None:
    """The paths of a part's arrays if it is like a tree of paths, None for what is left out."""
    structure: Any
    leaves, structure = jax.tree.flatten(part, is_leaf=_left_out)
    try:
        places = structure.flatten_up_to(pattern)
    except ValueError:
        return None
    pairs = list(zip(leaves, places, strict=True))
    if not all(_left_out(x) or isinstance(path, str) for x, path in pairs):
        return None
    where = [path if hasattr(x, "shape") else None for x, path in pairs]
    # A tree of paths that is a single one has the structure of any leaf.
    single = isinstance(pattern, str) and getattr(part, "shape", None) != shapes[pattern]
    return None if single or not any(path is not None for path in where) else where
