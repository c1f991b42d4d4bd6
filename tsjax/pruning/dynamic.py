"""Masks that change while the model trains: gradual pruning, SET, RigL, straight-through.

An algorithm is a frozen dataclass of numbers with pure methods, and a pytree whose leaves are these
numbers: as an argument of a jitted step, neither new numbers nor new masks compile it again. A
train step with any of them, where ``tx = pruning.keep_pruned(optax.adam(1e-3))``:

    grads = jax.grad(loss)(pruning.apply(params, sparse.mask))
    updates, opt_state = tx.update(grads, opt_state, params, mask=algorithm.held(sparse.mask))
    moved = optax.apply_updates(params, updates)
    params, sparse = algorithm.update(moved, sparse, grads, before=params)

after ``sparse = algorithm.init(params, key)``. The gradients are those at the masked weights, also
of weights that are pruned: RigL and PALS grow by them. The mask changes only in steps that are due;
in the others the cost is that of a fixed mask. Steps count from 1.

Numbers are data, functions are part of the program: a ``select``, ``where`` or ``allocate`` made by
a lambda or :func:`functools.partial` must be the same object each time, or the step compiles again.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar, Protocol

import jax
import jax.numpy as jnp
from jax import Array

from tsjax import trees
from tsjax.pruning import masks, scores
from tsjax.pruning.allocation import erk
from tsjax.pruning.choice import Where, choose, kernels
from tsjax.pruning.ranking import keep_largest
from tsjax.pruning.schedules import Schedule, Step, cosine, cubic, periodic, schedule
from tsjax.pruning.selection import select
from tsjax.wording import one_of

PyTree = Any
Allocation = Callable[[PyTree, Any, Where], dict[str, Any]]
Criterion = Callable[[PyTree, PyTree, Array], PyTree]

CRITERIA: dict[str, Criterion] = {
    "magnitude": lambda params, grads, key: scores.magnitude(params),  # noqa: ARG005
    "saliency": lambda params, grads, key: scores.saliency(params, grads),  # noqa: ARG005
    "random": lambda params, grads, key: scores.random(params, key),  # noqa: ARG005
}
"""Scores by name, for :class:`Prune`; ``"movement"`` is there too, which remembers."""

_AT_ONCE = ("magnitude", "random")  # These need no gradient.

_FOREVER = 2**31 - 1


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["mask", "step", "key", "memory"],
    meta_fields=[],
)
@dataclasses.dataclass(frozen=True)
class SparseState:
    """What an algorithm carries from step to step.

    Attributes:
      mask: which weights are kept, a tree like the params.
      step: steps done, int32 [].
      key: random key; each step folds its number into it.
      memory: what else the algorithm remembers.
    """

    mask: PyTree
    step: Array
    key: Array
    memory: PyTree = ()


class Algorithm(Protocol):
    """Decides, step by step, which weights are kept.

    Attributes:
      reads_loss: whether ``update`` needs the validation loss in steps that are due.
    """

    reads_loss: ClassVar[bool]

    def init(self, params: PyTree, key: Array) -> SparseState:
        """The state before the first step."""

    def held(self, mask: PyTree) -> PyTree:
        """Which weights the optimiser may move, for :func:`tsjax.pruning.keep_pruned`."""

    def due(self, step: Step) -> Array:
        """Whether the mask may change after this step (the first is 1): bool []."""

    def settled(self, step: Step) -> Array:
        """Whether as few weights are kept after this step as will be at last: bool []."""

    def update(
        self,
        params: PyTree,
        sparse: SparseState,
        grads: PyTree,
        loss: Array | None = None,
        before: PyTree | None = None,
    ) -> tuple[PyTree, SparseState]:
        """The params and the state after an optimiser step.

        Args:
          params: the weights after the optimiser's update.
          sparse: the state before.
          grads: gradients at the masked weights, dense.
          loss: validation loss; only :class:`PALS` reads it, and only where it is due.
          before: the weights before the optimiser's update, those of the gradients; only movement
            pruning reads them.
        """


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
    end: Step = _FOREVER
    score: str | Criterion = "magnitude"
    select: Callable[[PyTree, Any], PyTree] = select
    straight_through: bool = False

    def __post_init__(self) -> None:
        if not callable(self.score):
            one_of("score", self.score, (*CRITERIA, "movement"))

    def init(self, params: PyTree, key: Array) -> SparseState:
        """The first mask, if step 0 is due and scores need no gradient; else all is kept."""
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
        return _start(mask, key, memory)

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
        """Selects anew if the step is due; see :class:`Algorithm`.

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
    """
    falling = schedule(cubic, density=density, begin=begin, end=end)
    return Prune(falling, every=every, begin=begin, end=end, **more)


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["density", "drop", "every", "begin", "end"],
    meta_fields=["grow", "allocate", "where"],
)
@dataclasses.dataclass(frozen=True)
class Regrow:
    """Sparse from the first step; drops the smallest weights now and then, and grows as many.

    Each leaf keeps its count of weights. Grown weights begin at zero; a dropped weight may be grown
    at once, and then keeps its value. The mask changes at ``begin``, ``begin + every``, and so on;
    the first step is 1, so that from 0 on these are the multiples of ``every``.

    Attributes:
      density: share of prunable weights kept, throughout.
      drop: schedule of the share of a leaf's kept weights that is dropped; rounded down to whole
        weights.
      every: steps between changes.
      begin: where the steps that change the mask begin.
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
    end: Step = _FOREVER
    grow: str = "gradient"
    allocate: Allocation = erk
    where: Where = kernels

    def __post_init__(self) -> None:
        one_of("grow", self.grow, ("gradient", "random"))
        object.__setattr__(self, "where", hashable(self.where))

    def init(self, params: PyTree, key: Array) -> SparseState:
        """A random mask, leaf by leaf at the allocated density."""
        here, later = jax.random.split(key)
        shares = self.allocate(params, self.density, self.where)
        mask = select(scores.random(params, here), shares, where=self.where)
        return _start(mask, later)

    def held(self, mask: PyTree) -> PyTree:
        """The mask itself."""
        return mask

    def due(self, step: Step) -> Array:
        """Whether the mask may change after this step: bool []."""
        return periodic(step, every=self.every, begin=self.begin, end=self.end)

    def settled(self, step: Step) -> Array:
        """Always: the count of weights is the same throughout."""
        return jnp.ones(jnp.shape(step), bool)

    def update(
        self,
        params: PyTree,
        sparse: SparseState,
        grads: PyTree,
        loss: Array | None = None,
        before: PyTree | None = None,
    ) -> tuple[PyTree, SparseState]:
        """Drops and grows if the step is due; see :class:`Algorithm`."""
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
    """A random mask, drawn once and held: the control of every dynamic method.

    Args:
      density: share of prunable weights kept.
      **more: ``allocate`` and ``where`` of :class:`Regrow`.
    """
    return Regrow(density, schedule(_constant, share=0.0), end=0, **more)


def sparse_evolution(
    density: float, *, drop: float = 0.3, every: Step = 100, **more: Any
) -> Regrow:
    """SET: drops a fixed share of the smallest weights, grows at random (arXiv 1707.04780).

    Args:
      density: share of prunable weights kept.
      drop: share of a leaf's kept weights that is dropped each time; the paper's zeta.
      every: steps between changes; an epoch in the paper.
      **more: other fields of :class:`Regrow`.
    """
    return Regrow(density, schedule(_constant, share=drop), every=every, grow="random", **more)


def rigl(density: float, *, end: Step, drop: float = 0.3, every: Step = 100, **more: Any) -> Regrow:
    """RigL: drops the smallest weights, grows where the gradient is largest (arXiv 1911.11134).

    Args:
      density: share of prunable weights kept.
      end: the last step that changes the mask; the paper's is three quarters of training.
      drop: share dropped at first, which falls to zero along half a cosine; the paper's alpha.
      every: steps between changes; the paper's Delta T.
      **more: other fields of :class:`Regrow`.
    """
    share = schedule(cosine, initial=drop, end=end)
    return Regrow(density, share, every=every, end=end, **more)


def drop_and_grow(
    mask: PyTree,
    kept_scores: PyTree,
    grow_scores: PyTree,
    counts: Callable[[Array], tuple[Array, Array]],
    where: Where,
) -> PyTree:
    """Drops the lowest of what is kept, then grows the highest of what is not, leaf by leaf.

    Args:
      mask: which weights are kept.
      kept_scores: real scores of kept weights; the lowest are dropped.
      grow_scores: real scores of the others; the highest are grown, NaN last.
      counts: maps the number of a leaf's kept weights to how many to drop, and how many to grow.
      where: which leaves change.
    """
    chosen = choose(mask, where)
    lows, highs = trees.by_path(kept_scores), trees.by_path(grow_scores)

    def changed(path: str, keep: Array) -> Array:
        if path not in chosen:
            return keep
        kept = jnp.sum(keep, dtype=jnp.int32)
        drop, grow = counts(kept)
        left = kept - jnp.minimum(drop, kept)
        (stay,) = keep_largest([jnp.where(keep, lows[path], -jnp.inf)], left)
        # Finite, so that a diverging gradient cannot push a survivor out.
        high = jnp.nan_to_num(highs[path])
        (new,) = keep_largest([jnp.where(stay, jnp.inf, high)], jnp.minimum(left + grow, keep.size))
        return new

    return trees.map_with_path(changed, mask)


def hashable(where: Where) -> Where:
    """The same choice of leaves as part of a program, which a list could not be."""
    return where if isinstance(where, str) or callable(where) else tuple(where)


def whole(x: Array, rounding: Callable[[Array], Array]) -> Array:
    """``rounding(x)`` as int32, where an ``x`` that is whole up to float error is already whole.

    In float32, 0.13 of 900 weights are 116.99999. The error allowed for is that of four roundings.
    """
    x = jnp.asarray(x, jnp.result_type(x, jnp.float32))
    near = jnp.round(x)
    is_whole = jnp.abs(x - near) <= 2 * jnp.finfo(x.dtype).eps * near
    return jnp.where(is_whole, near, rounding(x)).astype(jnp.int32)


def _start(mask: PyTree, key: Array, memory: PyTree = ()) -> SparseState:
    return SparseState(mask, jnp.zeros((), jnp.int32), key, memory)


def _constant(step: Array, *, share: float) -> Array:
    del step
    return jnp.asarray(share)
