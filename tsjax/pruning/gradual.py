"""Gradual and one-shot pruning by any score, straight-through and movement pruning."""

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
    SparseState,
    changes,
    checked,
    density_problems,
    schedule_problems,
    start,
    step_problems,
)
from tsjax.pruning.schedules import Schedule, Step, cubic, periodic, schedule
from tsjax.pruning.selection import select
from tsjax.trees import PyTree
from tsjax.wording import one_of

Criterion = Callable[[PyTree, PyTree, Array], PyTree]

CRITERIA: dict[str, Criterion] = {
    "magnitude": lambda params, grads, key: scores.magnitude(params),  # noqa: ARG005
    "saliency": lambda params, grads, key: scores.saliency(params, grads),  # noqa: ARG005
    "random": lambda params, grads, key: scores.random(params, key),  # noqa: ARG005
}
"""Scores by name, for :class:`Prune`; ``"movement"`` is there too, which remembers."""

_AT_ONCE = ("magnitude", "random")  # These need no gradient.


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["density", "every", "begin", "end"],
    meta_fields=["score", "select", "straight_through"],
)
@dataclasses.dataclass(frozen=True)
class Prune:
    """Selects a new mask at a density that the schedule gives, by scores of the weights.

    With the cubic schedule and magnitudes this is gradual magnitude pruning (Zhu and Gupta, arXiv
    1710.01878; see :func:`gradual`). What is pruned stays pruned, unless ``straight_through``:
    then all weights go on learning from the gradients at the masked ones, and the mask follows
    them (with ``score="movement"``, movement pruning of arXiv 2005.07683).

    Attributes:
      density: schedule of the share of prunable weights to keep; where it rises, nothing comes back
        unless ``straight_through``. None with a ``select`` that has a density of its own, as an N:M
        pattern has.
      every: steps between new masks, from ``begin`` on.
      begin: first step that may change the mask.
      end: last such step; it selects even if it is not a multiple of ``every`` after ``begin``.
      score: a name in :data:`CRITERIA`, ``"movement"``, or ``score(params, grads, key) -> scores``.
      select: ``select(scores, density) -> mask``; a :func:`functools.partial` of
        :func:`tsjax.pruning.select` says scope, leaves and pattern.
      straight_through: whether pruned weights go on learning and may come back.
    """

    reads_loss: ClassVar[bool] = False

    density: Schedule | None
    every: Step = 1
    begin: Step = 0
    end: Step = FOREVER
    score: str | Criterion = "magnitude"
    select: Callable[[PyTree, Any], PyTree] = select
    straight_through: bool = False

    def __post_init__(self) -> None:
        if not callable(self.score):
            one_of("score", self.score, (*CRITERIA, "movement"))

    def problems(self) -> list[str]:
        """What is wrong with its numbers, as far as they are known."""
        steps = self.every, self.begin, self.end
        found = step_problems(*steps)
        if found or self.density is None:
            return found
        due = changes(*steps, first=0 if self.score in _AT_ONCE else 1)
        return schedule_problems("the density", self.density, due, density_problems)

    def init(self, params: PyTree, key: Array) -> SparseState:
        """The first mask, if step 0 is due and scores need no gradient; else all is kept.

        Raises:
          ValueError: for numbers that make no sense.
        """
        checked(self)
        memory: PyTree = ()
        if self._moves:
            # A sum over many steps: in bfloat16 it would soon stand still.
            memory = jax.tree.map(
                lambda s: jnp.zeros(s.shape, jnp.promote_types(s.dtype, jnp.float32)),
                scores.magnitude(params),
            )
        mask = masks.ones(params)
        if self.score in _AT_ONCE:
            found = CRITERIA[self.score](params, params, key)

            def new() -> PyTree:
                return self._selected(found, 0)

            mask = jax.lax.cond(self.due(0), new, lambda: mask)
        return start(mask, key, memory)

    def held(self, mask: PyTree) -> PyTree:
        """The mask; all weights where pruned ones go on learning."""
        return masks.ones(mask) if self.straight_through else mask

    def due(self, step: Step) -> Array:
        """Whether the mask may change after this step: bool []."""
        last = (jnp.asarray(step) == self.end) & (self.begin <= self.end)
        return last | periodic(step, every=self.every, begin=self.begin, end=self.end)

    def settled(self, step: Step) -> Array:
        """Whether the last new mask was at the schedule's last density: bool []."""
        since = jnp.maximum(jnp.asarray(step) - self.begin, -1)
        latest = jnp.where(
            step >= self.end, self.end, self.begin + since // self.every * self.every
        )
        if self.density is None:
            return since >= 0
        return (since >= 0) & (self.density(latest) <= self.density(self.end) + 1e-6)

    def update(
        self,
        params: PyTree,
        sparse: SparseState,
        grads: PyTree,
        loss: Array | None = None,
        before: PyTree | None = None,
    ) -> tuple[PyTree, SparseState]:
        """Selects anew if the step is due; see :class:`tsjax.pruning.Algorithm`.

        Raises:
          ValueError: for movement pruning without the weights before the update.
        """
        del loss
        step = sparse.step + 1
        memory: PyTree = ()
        if self._moves:
            if before is None:
                raise ValueError(
                    "movement pruning needs the weights that the gradients belong to: "
                    "update(params, sparse, grads, before=params before the optimiser's update)"
                )
            memory = scores.movement(before, grads, sparse.memory)

        def new(mask: PyTree) -> PyTree:
            if self._moves:
                found = memory
            else:
                score = self.score if callable(self.score) else CRITERIA[self.score]
                found = score(params, grads, jax.random.fold_in(sparse.key, step))
            if self.straight_through:
                return self._selected(found, step)
            found = jax.tree.map(lambda s, kept: jnp.where(kept, s, -jnp.inf), found, mask)
            return masks.intersect(self._selected(found, step), mask)

        mask = jax.lax.cond(self.due(step), new, lambda mask: mask, sparse.mask)
        return self._settled(params, mask), SparseState(mask, step, sparse.key, memory)

    def _selected(self, found: PyTree, step: Step) -> PyTree:
        return self.select(found, None if self.density is None else self.density(step))

    def _settled(self, params: PyTree, mask: PyTree) -> PyTree:
        return params if self.straight_through else masks.apply(params, mask)

    @property
    def _moves(self) -> bool:
        return self.score == "movement"


def gradual(density: float, *, begin: Step, end: Step, every: Step = 100, **more: Any) -> Prune:
    """Gradual pruning from dense to ``density`` between two steps (arXiv 1710.01878).

    Args:
      density: share of prunable weights kept after ``end``.
      begin: the step at which pruning begins.
      end: the step that prunes last, be it a multiple of ``every`` after ``begin`` or not.
      every: steps between new masks.
      **more: other fields of :class:`Prune`.

    Raises:
      ValueError: for a density outside (0, 1], ``every`` below 1, or an end before the beginning.
    """
    falling = schedule(cubic, density=density, begin=begin, end=end)
    return checked(Prune(falling, every=every, begin=begin, end=end, **more))
