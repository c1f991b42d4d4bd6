"""PALS: finds the sparsity by the validation loss (Atashgahi et al., arXiv 2305.18382)."""

import dataclasses
import functools
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from tsjax import trees
from tsjax.pruning import masks, scores
from tsjax.pruning.algorithms import (
    FOREVER,
    Exchange,
    SparseState,
    checked,
    drop_and_grow,
    known,
    range_problems,
    start,
    whole,
)
from tsjax.pruning.choice import Where, kernels
from tsjax.pruning.schedules import Schedule, Step, cosine, schedule
from tsjax.trees import PyTree


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["rate", "tolerance", "factor", "every", "begin", "end", "least", "most"],
    meta_fields=["where"],
)
@dataclasses.dataclass(frozen=True)
class PALS(Exchange):
    """Shrinks, expands or keeps the number of weights, by the validation loss (algorithm 1).

    Training begins dense. Every ``every`` steps, the sparsity ``S`` over all parameters and the
    validation loss ``L`` decide what happens:

    * shrink, if ``S < least``, or if ``L <= tolerance * best L`` and ``S < most``;
    * expand, if ``L > tolerance * best L`` and ``S`` is above the sparsity that the best L had;
    * else stay.

    To stay, each leaf drops a share ``rate`` of its kept weights by magnitude, and grows as many by
    gradient. To shrink, it drops ``factor`` times as many, and grows what it would drop to stay. To
    expand, it drops what it would drop to stay, and grows ``factor`` times as many. Counts are
    rounded as in the authors' code.

    It is used like every :class:`tsjax.pruning.Algorithm`, but its ``update`` needs the validation
    loss.

    Attributes:
      rate: schedule of the share of kept weights that is exchanged. In the authors' code it falls
        from 0.5 to 0.005 along half a cosine over the whole training; see :func:`pals`.
      tolerance: the paper's lambda, 1.05 to 1.2.
      factor: the paper's gamma, 1.05 to 1.2.
      every: steps between changes.
      begin: the mask may change at ``begin``, ``begin + every``, and so on. With 0, these are the
        multiples of ``every``.
      end: after this step the mask stays. In the authors' code it is two thirds of training.
      least: sparsity below which it always shrinks.
      most: sparsity at and above which it shrinks no more.
      where: which leaves are pruned. The authors' code prunes all of rank >= 2.
    """

    reads_loss: ClassVar[bool] = True

    rate: Schedule
    tolerance: float = 1.1
    factor: float = 1.1
    every: Step = 20
    begin: Step = 0
    end: Step = FOREVER
    least: float = 0.2
    most: float = 0.9
    where: Where = kernels

    def problems(self) -> list[str]:
        """What is wrong with its numbers, as far as they are known."""
        found = self.share_problems("the rate", self.rate)
        for name in ("tolerance", "factor"):
            found += range_problems(name, getattr(self, name), 1, math.inf)
        for name in ("least", "most"):
            found += range_problems(name, getattr(self, name), 0, 1)
        if known(self.least) and known(self.most) and np.any(self.least > np.asarray(self.most)):
            found.append(f"least must not be above most, got {self.least} and {self.most}")
        return found

    def init(self, params: PyTree, key: Array) -> SparseState:
        """The state before the first step: all is kept, and there is no best loss yet.

        Raises:
          ValueError: for numbers that make no sense.
        """
        checked(self)
        memory = {"best": jnp.float32(jnp.inf), "best_sparsity": jnp.float32(0)}
        return start(masks.ones(params), key, memory)

    def update(
        self,
        params: PyTree,
        sparse: SparseState,
        grads: PyTree,
        loss: Array | None = None,
        before: PyTree | None = None,
    ) -> tuple[PyTree, SparseState]:
        """Exchanges weights if the step is due; see :class:`tsjax.pruning.Algorithm`.

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

    Raises:
      ValueError: for a tolerance or a factor below 1, sparsities or rates outside [0, 1], ``every``
        below 1, or an end before the beginning.
    """
    rate = schedule(cosine, initial=0.5, end=steps, final=0.005)
    return checked(PALS(**{"rate": rate, "end": 2 * steps // 3, **more}))


def _sparsity(mask: PyTree) -> Array:
    """The share of all parameters that is pruned."""
    pruned = sum(jnp.sum(~leaf, dtype=jnp.int32) for leaf in jax.tree.leaves(mask))
    return jnp.asarray(pruned, jnp.float32) / np.float32(max(1, trees.size(mask)))
