"""Moments of the loss gradient over batches, which the gradient criteria need."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tsjax.trees import PyTree


class GradientMoments(NamedTuple):
    """Means over batches, each a tree like the params, in float32 at least.

    Attributes:
      mean: the mean of the gradient ``g``.
      absolute: the mean of ``|g|``.
      square: the mean of ``|g|^2``.
    """

    mean: PyTree
    absolute: PyTree
    square: PyTree


def gradient_moments(
    loss: Callable[[PyTree, Any], Any], params: PyTree, batches: Iterable[Any]
) -> GradientMoments:
    """The means over batches of the gradient of ``loss``, of its absolute values and its squares.

    The batches are read once. If they have equal shapes, one compilation serves them all. The
    function works inside jit as well, where its loop is unrolled.

    Args:
      loss: ``loss(params, batch)``, a real scalar.
      params: tree of arrays; integer leaves get zeros.
      batches: what ``loss`` takes, one after the other.

    Raises:
      ValueError: if there is no batch.
    """

    @jax.jit
    def add(sums: GradientMoments, params: PyTree, batch: Any) -> GradientMoments:
        grads = jax.grad(loss, allow_int=True)(params, batch)
        # The gradient of an integer has the empty type float0.
        grads = jax.tree.map(
            lambda g, total: (
                jnp.zeros_like(total) if g.dtype == jax.dtypes.float0 else g.astype(total.dtype)
            ),
            grads,
            sums.mean,
        )
        sizes = jax.tree.map(jnp.abs, grads)
        new = GradientMoments(grads, sizes, jax.tree.map(jnp.square, sizes))
        return jax.tree.map(jnp.add, sums, new)

    def zeros(leaf: Any, *, real: bool) -> Any:
        # A sum in bfloat16 stops growing after some 256 batches.
        dtype = jnp.promote_types(leaf.dtype, jnp.float32)
        return jnp.zeros(leaf.shape, jnp.finfo(dtype).dtype if real else dtype)

    sums = GradientMoments(
        jax.tree.map(lambda leaf: zeros(leaf, real=False), params),
        *(jax.tree.map(lambda leaf: zeros(leaf, real=True), params) for _ in range(2)),
    )
    count = 0
    for batch in batches:
        sums = add(sums, params, batch)
        count += 1
    if not count:
        raise ValueError("there is no batch to take gradients on")
    return jax.tree.map(lambda total: total / np.asarray(count, total.real.dtype), sums)
