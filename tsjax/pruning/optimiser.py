"""An optax wrapper under which pruned weights, and their moments, stay exactly zero."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from tsjax.pruning import masks
from tsjax.trees import PyTree


class KeepPrunedState(NamedTuple):
    """The state of `keep_pruned`.

    Attributes:
      inner_state: state of the wrapped transformation.
      mask: which weights are kept, a tree like the params; None if each update is given the mask.
    """

    inner_state: optax.OptState
    mask: PyTree | None


def keep_pruned(
    tx: optax.GradientTransformation, mask: PyTree | None = None
) -> optax.GradientTransformationExtraArgs:
    """Wraps ``tx`` so that pruned weights and their moments stay exactly zero.

    A weight without gradient still moves: by momentum from before it was pruned, by weight decay,
    by noise. So ``tx`` gets masked gradients and params, and the moments in its new state are
    masked. With a mask ``m`` and weights ``w``, its updates ``u`` become

        u <- where(m, u, -w)

    `optax.apply_updates` then gives exactly 0 at pruned places, also where a finite ``w`` was not
    zero yet. Without params it is ``u <- where(m, u, 0)``, so that what is zero stays zero. Kept
    weights are updated as ``tx`` updates any params whose pruned weights and gradients are zero.
    Dtypes do not change, with one exception: an update that is narrower than its weight gets the
    weight's dtype, because it could not hold ``-w``.

    The mask is given either here or at each update:

        tx = keep_pruned(optax.adamw(1e-3), mask)         # the state holds the mask, from init on
        updates, state = tx.update(grads, state, params)
        state = state._replace(mask=new_mask)             # another mask from here on

        tx = keep_pruned(optax.adamw(1e-3))               # the state holds no mask
        updates, state = tx.update(grads, state, params, mask=mask)

    ``update`` reads the mask from its arguments only, so new values do not trace a jitted step
    again. A mask passed to ``update`` is used in place of the one in the state, for that update
    only.

    Which parts of the state are moments is seen from their form: they have the containers of the
    params, with or without the leaves that `optax.masked` and `optax.multi_transform` hide. In
    them, float and complex leaves of the weights' shapes are masked. Other parts are not, such as
    Adafactor's factors and whatever belongs to params that are a single scalar. They only ever see
    masked gradients and params.

    Args:
      tx: any optax transformation. Wrap the whole chain: what comes after `keep_pruned` can move
        pruned weights again.
      mask: tree of bool arrays with the structure and shapes of the params, or None.

    Returns:
      A transformation whose state is a `KeepPrunedState`, and whose ``update`` takes ``mask=`` and
      passes other extra arguments on to ``tx``.

    Raises:
      ValueError: from ``init`` and ``update``, if the mask does not match the params (without
        params: the gradients) or is not bool; from ``update``, if there is no mask at all.
    """
    inner = optax.with_extra_args_support(tx)

    def init(params: PyTree) -> KeepPrunedState:
        if mask is None:
            return KeepPrunedState(inner.init(params), None)
        inner_state = _held(inner.init(masks.apply(params, mask)), mask)
        # A copy: the state may be donated, and the caller's mask must survive that.
        return KeepPrunedState(inner_state, jax.tree.map(jnp.array, mask))

    def update(
        updates: PyTree,
        state: KeepPrunedState,
        params: PyTree | None = None,
        *,
        mask: PyTree | None = None,
        **extra_args: Any,
    ) -> tuple[PyTree, KeepPrunedState]:
        kept = state.mask if mask is None else mask
        if kept is None:
            raise ValueError(
                "keep_pruned has no mask: give it once, keep_pruned(tx, mask), "
                "or at each update, update(grads, state, params, mask=mask)"
            )
        masked_params = None if params is None else masks.apply(params, kept)
        updates, inner_state = inner.update(
            masks.apply(updates, kept), state.inner_state, masked_params, **extra_args
        )
        if params is None:
            updates = masks.apply(updates, kept)
        else:
            updates = jax.tree.map(lambda m, u, w: jnp.where(m, u, -w), kept, updates, params)
        return updates, KeepPrunedState(_held(inner_state, kept), state.mask)

    return optax.GradientTransformationExtraArgs(init, update)


def _held(state: PyTree, mask: PyTree) -> PyTree:
    """Sets pruned places to zero in all parts of an optimiser's state that look like the params."""
    if _is_leaf(mask) and mask.ndim == 0:
        return state  # Nothing tells the moment of one scalar from a learning rate.
    entries = jax.tree.leaves(state, is_leaf=_is_entry)
    structure: Any = jax.tree.structure(state, is_leaf=_is_entry)
    try:
        parts = structure.flatten_up_to(mask)
    except ValueError:
        parts = []
    if parts and all(map(_fits, entries, parts)):
        return structure.unflatten(map(_held_entry, entries, parts))
    children, structure = jax.tree.flatten(state, is_leaf=lambda node: node is not state)
    if jax.tree_util.treedef_is_leaf(structure):
        return state
    return structure.unflatten(_held(child, mask) for child in children)


def _fits(entry: PyTree, part: PyTree) -> bool:
    # What is hidden may stand for a whole subtree of the params; an array stands for one leaf.
    return _is_hidden(entry) or _is_leaf(part)


def _held_entry(entry: PyTree, keep: PyTree) -> PyTree:
    def hold(leaf: jax.Array) -> jax.Array:
        # Counters, keys and moments of other shapes (factored, with a memory) are left alone.
        if jnp.shape(leaf) != keep.shape or not jnp.issubdtype(leaf.dtype, jnp.inexact):
            return leaf
        return jnp.where(keep, leaf, jnp.zeros_like(leaf))

    return jax.tree.map(hold, entry)


def _is_entry(node: PyTree) -> bool:
    """Whether a node stands where the params have a leaf, as optax's own two such nodes do."""
    # The second is what `optax.contrib.split_real_and_imaginary` makes of a complex weight.
    return _is_hidden(node) or getattr(node, "_fields", None) == ("real", "imaginary")


def _is_hidden(node: PyTree) -> bool:
    return isinstance(node, optax.MaskedNode)


def _is_leaf(node: PyTree) -> bool:
    return jax.tree_util.all_leaves([node])
