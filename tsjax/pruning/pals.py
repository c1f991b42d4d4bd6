"""PALS: a sparsity that the validation loss finds (Atashgahi et al., arXiv 2305.18382)."""

import dataclasses
import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from tsjax import trees
from tsjax.pruning import masks, scores
from tsjax.pruning.choice import Where, kernels
from tsjax.pruning.dynamic import SparseState, drop_and_grow, hashable, whole
from tsjax.pruning.schedules import Schedule, Step, cosine, periodic, schedule

PyTree = Any


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["rate", "tolerance", "factor", "every", "begin", "end", "least", "most"],
    meta_fields=["where"],
)
@dataclasses.dataclass(frozen=True)
class PALS:
    """Shrinks, expands or keeps the number of weights, by the validation loss (algorithm 1).

    Training begins dense. Each ``every`` steps, with sparsity ``S`` over all parameters and
    validation loss ``L``:

    * shrink, if ``S < least``, or ``L <= tolerance * best L`` and ``S < most``;
    * expand, if ``L > tolerance * best L`` and ``S`` is above the sparsity that the best L had;
    * else stay.

    Each leaf drops a share ``rate`` of its kept weights by magnitude and grows as many by gradient;
    shrinking drops ``factor`` times as many and grows what it would have dropped, expanding grows
    ``factor`` times as many. Counts are rounded as in the authors' code.

    Use as the algorithms of :mod:`tsjax.pruning.dynamic`; ``update`` needs the validation loss.

    Attributes:
      rate: schedule of the share of kept weights that is exchanged; in the authors' code from 0.5
        to 0.005 along half a cosine over the whole training, see :func:`pals`.
      tolerance: the paper's lambda, 1.05 to 1.2.
      factor: the paper's gamma, 1.05 to 1.2.
      every: steps between changes.
      begin: where the steps that change the mask begin; from 0 on these are the multiples of
        ``every``.
      end: after this step the mask stays; two thirds of training in the authors' code.
      least: sparsity below which it always shrinks.
      most: sparsity from which on it never shrinks.
      where: which leaves are pruned; the authors' code takes all of rank >= 2.
    """

    reads_loss: ClassVar[bool] = True

    rate: Schedule
    tolerance: float = 1.1
    factor: float = 1.1
    every: Step = 20
    begin: Step = 0
    end: Step = 2**31 - 1
    least: float = 0.2
    most: float = 0.9
    where: Where = kernels

    def __post_init__(self) -> None:
        object.__setattr__(self, "where", hashable(self.where))

    def init(self, params: PyTree, key: Array) -> SparseState:
        """Dense, with no best loss yet."""
        memory = {"best": jnp.float32(jnp.inf), "best_sparsity": jnp.float32(0)}
        return SparseState(masks.ones(params), jnp.zeros((), jnp.int32), key, memory)

    def held(self, mask: PyTree) -> PyTree:
        """The mask itself."""
        return mask

    def due(self, step: Step) -> Array:
        """Whether the mask changes after this step, and the loss is needed: bool []."""
        return periodic(step, every=self.every, begin=self.begin, end=self.end)

    def settled(self, step: Step) -> Array:
        """Always: no count of weights is aimed at."""
        return jnp.ones(jnp.shape(step), bool)

    def update(
        self,
        params: PyTree,
        sparse: SparseState,
        grads: PyTree,
        loss: Array | None = None,
        before: PyTree | None = None,
    ) -> tuple[PyTree, SparseState]:
        """Exchanges weights if the step is due; see :class:`tsjax.pruning.dynamic.Algorithm`.

        Raises:
          ValueError: without the loss.
        """
        del before
        if loss is None:
            raise ValueError("PALS needs the validation loss: update(params, sparse, grads, loss)")
        step = sparse.step + 1
        current = jnp.asarray(loss, jnp.float32)

        def new(carried: tuple[PyTree, PyTree]) -> tuple[PyTree, PyTree]:
            mask, memory = carried
            sparsity = _sparsity(mask)
            bound = self.tolerance * memory["best"]
            shrink = (sparsity < self.least) | ((current <= bound) & (sparsity < self.most))
            expand = ~shrink & (current > bound) & (sparsity > memory["best_sparsity"])
            rate = self.rate(step)

            def counts(kept: Array) -> tuple[Array, Array]:
                more = jnp.where(shrink, self.factor, 1.0)
                drop = jnp.minimum(whole(rate * more * kept, jnp.ceil), kept)
                grow = drop * jnp.where(expand, self.factor, 1.0) / more
                return drop, whole(grow, jnp.floor)

            low, high = scores.magnitude(params), scores.magnitude(grads)
            better = current < memory["best"]
            remembered = {
                "best": jnp.where(better, current, memory["best"]),
                "best_sparsity": jnp.where(better, sparsity, memory["best_sparsity"]),
            }
            return drop_and_grow(mask, low, high, counts, self.where), remembered

        carried = (sparse.mask, sparse.memory)
        mask, memory = jax.lax.cond(self.due(step), new, lambda same: same, carried)
        return masks.apply(params, mask), SparseState(mask, step, sparse.key, memory)


def pals(steps: int, **more: Any) -> PALS:
    """PALS as in the authors' code, for a training of so many steps.

    Args:
      steps: steps of the whole training.
      **more: fields of :class:`PALS` in place of the authors' values.
    """
    rate = schedule(cosine, initial=0.5, end=steps, final=0.005)
    return PALS(**{"rate": rate, "end": 2 * steps // 3, **more})


def _sparsity(mask: PyTree) -> Array:
    """Pruned over all parameters."""
    pruned = sum(jnp.sum(~leaf, dtype=jnp.int32) for leaf in jax.tree.leaves(mask))
    return jnp.asarray(pruned, jnp.float32) / np.float32(max(1, trees.size(mask)))
