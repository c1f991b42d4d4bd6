"""Criteria: each function returns a tree like ``params`` of scores. Larger scores are kept.

What a criterion needs besides the weights is an argument: gradients from
:func:`tsjax.pruning.gradient_moments` or from any train step, or input norms from
:func:`tsjax.pruning.input_squares`. A complex weight has one score, by its modulus. If it is
stored as two leaves ``real`` and ``imag``, both get this score.

Products are computed in float32 at least, because products of small float16 numbers would be zero.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from tsjax import trees
from tsjax.pruning.choice import pairs
from tsjax.pruning.placement import placed_like
from tsjax.trees import PyTree
from tsjax.wording import listing


def magnitude(params: PyTree) -> PyTree:
    """Scores each weight by its absolute value, ``|w|`` (Han et al., arXiv 1506.02626).

    Args:
      params: tree of real or complex arrays; a complex weight is scored by its modulus.

    Returns:
      A tree like ``params`` of real scores >= 0.

    Raises:
      ValueError: naming the leaves that are no arrays.
    """
    return _modulus(params)


def random(params: PyTree, key: Array) -> PyTree:
    """Random scores, uniform on [0, 1): the control for every criterion.

    Args:
      params: tree of arrays; only shapes are read.
      key: a JAX random key.
    """
    trees.check_arrays(params)
    leaves, treedef = jax.tree.flatten(params)
    keys = jax.random.split(key, max(1, len(leaves)))
    draws = [
        placed_like(jax.random.uniform(k, leaf.shape), leaf)
        for k, leaf in zip(keys, leaves, strict=False)
    ]
    return _joined(jax.tree.unflatten(treedef, draws), _first)


def saliency(params: PyTree, grads: PyTree) -> PyTree:
    """First-order Taylor saliency, ``|w| |g|`` (Molchanov et al., arXiv 1906.10771, eq. 8).

    With the mean gradient over the data, this is the size of the change of the loss when the weight
    goes to zero, to first order. With ``gradient_moments(...).absolute``, it is the mean of that
    size over the batches, in which changes of opposite sign do not cancel.

    Args:
      params: tree of real or complex arrays.
      grads: gradients of a loss, a tree like ``params``.
    """
    _check_like(grads, params)
    return jax.tree.map(lambda w, g: _wide(w) * _wide(g), _modulus(params), _modulus(grads))


def snip(params: PyTree, grads: PyTree) -> PyTree:
    """SNIP's connection sensitivity, ``|w g| / sum |w g|`` (Lee et al., arXiv 1810.02340, eq. 6).

    It is meant for weights as they are initialised, to be pruned at once. The sum runs over all
    leaves of the tree. So the scores have the order of :func:`saliency`, and say which share of the
    whole each weight has.

    Args:
      params: tree of real or complex arrays.
      grads: gradients of a loss on one batch or more, a tree like ``params``.
    """
    scores = saliency(params, grads)
    leaves = trees.by_path(scores)
    again = set(pairs(leaves).values())
    once = [leaf for path, leaf in leaves.items() if path not in again]
    total = sum((jnp.sum(leaf) for leaf in once), start=jnp.zeros(()))
    # A network that nothing reaches has no sensitivity at all; its shares are then zero.
    safe = jnp.where(total > 0, total, 1)
    return jax.tree.map(lambda score: score / safe, scores)


def fisher(params: PyTree, squared_grads: PyTree) -> PyTree:
    """Second-order saliency with the diagonal Fisher information, ``w^2 F / 2``, F = E[g^2].

    This is Optimal Brain Damage's ``w^2 H / 2`` (LeCun et al., 1989, eq. 5), in which the mean of
    squared gradients replaces the diagonal of the Hessian, as in Theis et al. (arXiv 1801.05787,
    eq. 5). The Fisher information is exact if each batch of :func:`gradient_moments` is one
    example. Larger batches average the gradients before they are squared.

    Args:
      params: tree of real or complex arrays.
      squared_grads: mean squared gradients, ``gradient_moments(...).square``.
    """
    _check_like(squared_grads, params)
    squares = _joined(squared_grads, jnp.add)
    return jax.tree.map(
        lambda w, f: 0.5 * jnp.square(_wide(w)) * _wide(f), _modulus(params), squares
    )


def movement(params: PyTree, grads: PyTree, scores: PyTree | None = None) -> PyTree:
    """Movement pruning's ``S - w g`` (Sanh et al., arXiv 2005.07683, eq. 3, unit learning rate).

    Call it in each training step with the scores so far. The scores of weights that move away from
    zero rise, and those of weights that shrink fall. Scores may be negative.

    Args:
      params: tree of real or complex arrays.
      grads: gradients at ``params``. Pruned weights need the gradients that
        :func:`tsjax.pruning.straight_through` gives.
      scores: the scores before this step; zeros by default.
    """
    _check_like(grads, params)
    moved = jax.tree.map(lambda w, g: -jnp.real(_wide(w) * _wide(g)), params, grads)
    moved = _joined(moved, jnp.add)
    return moved if scores is None else jax.tree.map(jnp.add, scores, moved)


def wanda(params: PyTree, squares: PyTree) -> PyTree:
    """Wanda's ``|w| ||x||``: weight times norm of its input (Sun et al., arXiv 2306.11695, eq. 1).

    The paper ranks the weights of each output by themselves. Use ``pattern=pruning.Within(-1)`` in
    :func:`tsjax.pruning.select` to do so.

    Args:
      params: tree of real or complex arrays.
      squares: sums of squared inputs, from :func:`tsjax.pruning.input_squares`, added over batches.
    """
    _check_like(squares, params)
    joined = _joined(squares, jnp.maximum)
    return jax.tree.map(lambda w, x: _wide(w) * jnp.sqrt(_wide(x)), _modulus(params), joined)


def _modulus(tree: PyTree) -> PyTree:
    trees.check_arrays(tree)
    if keys := [
        path
        for path, leaf in trees.by_path(tree).items()
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.extended)
    ]:
        raise ValueError(f"these leaves are no numbers, but random keys: {listing(keys)}")
    return _joined(jax.tree.map(jnp.abs, tree), jnp.hypot)


def _joined(tree: PyTree, join: Callable[[Array, Array], Array]) -> PyTree:
    """The tree with both parts of each complex weight replaced by ``join(real, imag)``."""
    leaves = trees.by_path(tree)
    new = {
        path: join(leaves[real], leaves[imag])
        for real, imag in pairs(leaves).items()
        for path in (real, imag)
    }
    return trees.map_with_path(lambda path, leaf: new.get(path, leaf), tree) if new else tree


def _wide(leaf: Array) -> Array:
    leaf = jnp.asarray(leaf)
    return leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32))


def _first(real: Array, imag: Array) -> Array:
    del imag
    return real


def _check_like(tree: PyTree, params: PyTree) -> None:
    trees.check_same_structure(tree, params, name="the second tree", like_name="params")
