"""Methods that keep a constant number of weights: static masks, SET and RigL."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from tsjax.pruning import masks, scores
from tsjax.pruning.algorithms import (
    FOREVER,
    Exchange,
    SparseState,
    checked,
    density_problems,
    drop_and_grow,
    start,
    whole,
)
from tsjax.pruning.allocation import erk
from tsjax.pruning.choice import Where, kernels
from tsjax.pruning.schedules import Schedule, Step, cosine, schedule
from tsjax.pruning.selection import select
from tsjax.trees import PyTree
from tsjax.wording import one_of

Allocation = Callable[[PyTree, Any, Where], dict[str, Any]]


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["density", "drop", "every", "begin", "end"],
    meta_fields=["grow", "allocate", "where"],
)
@dataclasses.dataclass(frozen=True)
class Regrow(Exchange):
    """Trains sparse from the first step, and exchanges the smallest weights for others at times.

    Each leaf drops as many weights as it grows, so its count stays. Grown weights begin at zero. A
    dropped weight may be grown in the same step, and then keeps its value. The mask changes at the
    steps ``begin``, ``begin + every``, and so on. The first step of training is 1, so with
    ``begin=0`` these are the multiples of ``every``.

    Attributes:
      density: share of prunable weights kept, throughout.
      drop: schedule of the share of a leaf's kept weights that is dropped. It is rounded down to
        whole weights.
      every: steps between changes.
      begin: the mask changes at ``begin``, ``begin + every``, and so on.
      end: after this step the mask stays.
      grow: ``"gradient"`` grows where the gradient is largest, ``"random"`` anywhere.
      allocate: how the density is shared out over the leaves, :func:`tsjax.pruning.erk` or
        :func:`tsjax.pruning.uniform`.
      where: which leaves are pruned.
    """

    reads_loss: ClassVar[bool] = False

    density: float
    drop: Schedule
    every: Step = 100
    begin: Step = 0
    end: Step = FOREVER
    grow: str = "gradient"
    allocate: Allocation = erk
    where: Where = kernels

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("grow", self.grow, ("gradient", "random"))

    def problems(self) -> list[str]:
        """What is wrong with its numbers, as far as they are known."""
        found = density_problems("density", self.density)
        return found + self.share_problems("the share dropped", self.drop)

    def init(self, params: PyTree, key: Array) -> SparseState:
        """The state before the first step: a random mask, each leaf at its allocated density.

        Raises:
          ValueError: for numbers that make no sense.
        """
        checked(self)
        here, later = jax.random.split(key)
        shares = self.allocate(params, self.density, self.where)
        mask = select(scores.random(params, here), shares, where=self.where)
        return start(mask, later)

    def update(
        self,
        params: PyTree,
        sparse: SparseState,
        grads: PyTree,
        loss: Array | None = None,
        before: PyTree | None = None,
    ) -> tuple[PyTree, SparseState]:
        """Drops and grows if the step is due; see :class:`tsjax.pruning.Algorithm`."""
        del loss, before
        step = sparse.step + 1

        def new(mask: PyTree) -> PyTree:
            key = jax.random.fold_in(sparse.key, step)
            by_gradient = self.grow == "gradient"
            grown = scores.magnitude(grads) if by_gradient else scores.random(params, key)
            share = self.drop(step)

            def counts(kept: Array) -> tuple[Array, Array]:
                n = jnp.minimum(whole(share * kept, jnp.floor), kept)
                return n, n

            return drop_and_grow(mask, scores.magnitude(params), grown, counts, self.where)

        mask = jax.lax.cond(self.due(step), new, lambda mask: mask, sparse.mask)
        return masks.apply(params, mask), dataclasses.replace(sparse, mask=mask, step=step)


def static_sparse(density: float, **more: Any) -> Regrow:
    """A random mask that is drawn once and held: the control for every method that changes masks.

    Args:
      density: share of prunable weights kept.
      **more: ``allocate`` and ``where`` of :class:`Regrow`.

    Raises:
      ValueError: for a density outside (0, 1].
    """
    return checked(Regrow(density, schedule(_constant, share=0.0), end=0, **more))


def sparse_evolution(
    density: float, *, drop: float = 0.3, every: Step = 100, **more: Any
) -> Regrow:
    """SET: drops a fixed share of the smallest weights, grows at random (arXiv 1707.04780).

    Args:
      density: share of prunable weights kept.
      drop: share of a leaf's kept weights that is dropped each time; the paper's zeta.
      every: steps between changes; an epoch in the paper.
      **more: other fields of :class:`Regrow`.

    Raises:
      ValueError: for a density outside (0, 1], a ``drop`` outside [0, 1], ``every`` below 1, or an
        end before the beginning.
    """
    return checked(
        Regrow(density, schedule(_constant, share=drop), every=every, grow="random", **more)
    )


def rigl(density: float, *, end: Step, drop: float = 0.3, every: Step = 100, **more: Any) -> Regrow:
    """RigL: drops the smallest weights, grows where the gradient is largest (arXiv 1911.11134).

    Args:
      density: share of prunable weights kept.
      end: the last step that changes the mask; the paper's is three quarters of training.
      drop: share dropped at first; it falls to zero along half a cosine. The paper's alpha.
      every: steps between changes; the paper's Delta T.
      **more: other fields of :class:`Regrow`.

    Raises:
      ValueError: for a density outside (0, 1], a ``drop`` outside [0, 1], ``every`` below 1, or an
        end before the beginning.
    """
    share = schedule(cosine, initial=drop, end=end)
    return checked(Regrow(density, share, every=every, end=end, **more))


def _constant(step: Array, *, share: float) -> Array:
    del step
    return jnp.asarray(share)
