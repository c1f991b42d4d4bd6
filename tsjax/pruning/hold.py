"""A fixed mask as an algorithm: the mask that does not change while the model trains."""

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from tsjax import trees
from tsjax.pruning import masks
from tsjax.pruning.algorithms import SparseState, start
from tsjax.pruning.schedules import Step
from tsjax.trees import PyTree


@functools.partial(jax.tree_util.register_dataclass, data_fields=["mask"], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class Hold:
    """Trains under one mask from the first step to the last.

    The optimiser, wrapped in :func:`tsjax.pruning.keep_pruned`, holds pruned weights at zero; this
    adds nothing to the program of a step.

    Attributes:
      mask: which weights are kept, a tree of bool arrays like the params; all by default.
    """

    reads_loss: ClassVar[bool] = False

    mask: PyTree | None = None

    def problems(self) -> list[str]:
        """Nothing: there is no number in it."""
        return []

    def init(self, params: PyTree, key: Array) -> SparseState:
        """The state before the first step, with the mask.

        Raises:
          ValueError: if the mask does not fit ``params``, listing every leaf at fault.
        """
        if self.mask is None:
            return start(masks.ones(params), key)
        trees.check_mask(self.mask, params)
        return start(self.mask, key)

    def held(self, mask: PyTree) -> PyTree:
        """The mask itself."""
        return mask

    def due(self, step: Step) -> Array:
        """Never: the mask does not change."""
        return jnp.zeros(jnp.shape(step), bool)

    def settled(self, step: Step) -> Array:
        """Always: as many weights are kept at last as at first."""
        return jnp.ones(jnp.shape(step), bool)

    def update(
        self,
        params: PyTree,
        sparse: SparseState,
        grads: PyTree,
        loss: Array | None = None,
        before: PyTree | None = None,
    ) -> tuple[PyTree, SparseState]:
        """Counts the step; see :class:`tsjax.pruning.Algorithm`."""
        del grads, loss, before
        return params, dataclasses.replace(sparse, step=sparse.step + 1)
