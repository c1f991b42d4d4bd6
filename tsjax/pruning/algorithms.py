"""What changes a mask while the model trains: the protocol, its state, and what algorithms share.

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
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from tsjax import trees
from tsjax.pruning.choice import Where, choose
from tsjax.pruning.ranking import keep_largest
from tsjax.pruning.schedules import Schedule, Step, periodic
from tsjax.trees import PyTree

T = TypeVar("T")

FOREVER = 2**31 - 1
"""The last step that int32 counts."""

_ROUNDING = 1 + 1e-6  # A schedule's 1 in float32 may be a little more.


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

    def problems(self) -> list[str]:
        """What is wrong with its numbers, as far as they are known."""

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


class Exchange:
    """What algorithms share that drop weights and grow others every so many steps.

    Its users are dataclasses with these fields.
    """

    every: Step
    begin: Step
    end: Step
    where: Where

    def __post_init__(self) -> None:
        object.__setattr__(self, "where", hashable(self.where))

    def share_problems(self, name: str, share: Schedule) -> list[str]:
        """What is wrong with the steps, or with the share that is exchanged at them."""
        steps = self.every, self.begin, self.end
        if found := step_problems(*steps):
            return found
        within = functools.partial(range_problems, least=0, most=1)
        return schedule_problems(name, share, changes(*steps, first=1), within)

    def held(self, mask: PyTree) -> PyTree:
        """The mask itself."""
        return mask

    def due(self, step: Step) -> Array:
        """Whether the mask may change after this step: bool []."""
        return periodic(step, every=self.every, begin=self.begin, end=self.end)

    def settled(self, step: Step) -> Array:
        """Always: no last count of weights is aimed at."""
        return jnp.ones(jnp.shape(step), bool)


def start(mask: PyTree, key: Array, memory: PyTree = ()) -> SparseState:
    """The state before the first step."""
    return SparseState(mask, jnp.zeros((), jnp.int32), key, memory)


def checked(algorithm: T) -> T:
    """The algorithm itself.

    Not called on construction: transformations rebuild a pytree with whatever they put into it.

    Raises:
      ValueError: for numbers that make no sense.
    """
    if problems := algorithm.problems():  # type: ignore[attr-defined]
        raise ValueError("; ".join(problems))
    return algorithm


def step_problems(every: Step, begin: Step, end: Step) -> list[str]:
    """What is wrong with the steps at which a mask changes."""
    found = [
        f"{name} must be a whole number of steps, got {step}"
        for name, step in (("every", every), ("begin", begin), ("end", end))
        if known(step) and np.any(np.asarray(step) != np.floor(step))
    ]
    found += range_problems("every", every, 1, math.inf)
    if known(begin) and known(end) and np.any(np.asarray(begin) > end):
        found.append(f"begin must not be after end, got begin={begin} and end={end}")
    return found


def schedule_problems(
    name: str,
    schedule: Schedule,
    steps: Sequence[Step],
    problems: Callable[[str, Any], list[str]],
) -> list[str]:
    """What is wrong with a schedule's numbers at these steps."""
    return [
        problem for step in steps for problem in problems(f"{name} at step {step}", schedule(step))
    ]


def changes(every: Step, begin: Step, end: Step, first: int) -> tuple[Step, ...]:
    """The first step from ``first`` on that changes a mask, and the last one if there is one.

    None are named where the steps are not known; what a schedule is beyond them is nobody's matter.
    """
    if not all(known(step) and np.ndim(step) == 0 for step in (every, begin, end)):
        return ()
    begin = begin + max(0, -((begin - first) // every)) * every
    return () if begin > end else (begin,) if end == FOREVER else (begin, end)


def range_problems(name: str, number: Any, least: float, most: float) -> list[str]:
    """Whether a number lies in ``[least, most]``, if it is known; or all of several."""
    bound = f"at least {least}" if most == math.inf else f"in [{least}, {most}]"
    return _problems(name, number, bound, lambda x: (least <= x) & (x <= most * _ROUNDING))


def density_problems(name: str, density: Any) -> list[str]:
    """Whether a share lies in ``(0, 1]``, if it is known; or all of several."""
    return _problems(name, density, "in (0, 1]", lambda x: (x > 0) & (x <= _ROUNDING))


def _problems(
    name: str, number: Any, bound: str, within: Callable[[np.ndarray], np.ndarray]
) -> list[str]:
    if not known(number) or np.all(within(np.asarray(number, float))):
        return []
    return [f"{name} must be {bound}, got {number}"]


def known(number: Any) -> bool:
    """Whether this is not traced."""
    return not isinstance(number, jax.core.Tracer)


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
