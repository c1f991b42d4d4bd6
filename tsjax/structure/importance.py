"""How much each unit of a group matters: one score per unit, over all members of the group.

An importance is a function of groups and params that returns ``{group name: scores [size]}``. The
units with the lowest scores are cut first. A unit consists of many weights: the elements of the
group's members that belong to it.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tsjax import trees
from tsjax.structure.groups import Group
from tsjax.trees import PyTree
from tsjax.wording import one_of

Importance = Callable[[Iterable[Group], PyTree], dict[str, np.ndarray]]
"""``importance(groups, params)``: the scores of each group's units, by the group's name."""

_Scores = dict[str, np.ndarray]

SCALES: dict[str, Callable[[np.ndarray], float]] = {
    "none": lambda _: 1.0,
    "mean": lambda scores: float(scores.mean()),
    "max": lambda scores: float(scores.max()),
    "sum": lambda scores: float(scores.sum()),
}
"""What the scores of a group can be divided by, so that groups can be compared with one another."""

_REDUCTIONS: dict[str, Callable[..., np.ndarray]] = {
    "sum": lambda scores: np.sum(scores, axis=0),
    "mean": lambda scores: np.mean(scores, axis=0),
    "max": lambda scores: np.max(scores, axis=0),
    "product": lambda scores: np.prod(scores, axis=0),
}


def norm(order: float = 2, *, members: str = "joint", scale: str = "mean") -> Importance:
    """The norm of a unit's weights.

    Args:
      order: p of the norm ``(sum |w|^p)^(1/p)``: 1, 2, or any other positive number.
      members: ``joint`` for one norm over the weights of all members (the group norm of Fang et
        al., arXiv 2301.12900, eq. 4); ``sum``, ``mean``, ``max`` or ``product`` of one norm for
        each member.
      scale: what a group's scores are divided by: their ``mean``, ``max`` or ``sum``, or
        ``none``. It matters where units of several groups are ranked together.

    Returns:
      The importance.

    Raises:
      ValueError: for an order that is not positive, or an unknown option.
    """
    if not order > 0:
        raise ValueError(f"order must be a positive number, got {order}")
    if members != "joint":
        one_of("members", members, ["joint", *_REDUCTIONS])

    def importance(groups: Iterable[Group], params: PyTree) -> _Scores:
        power = {
            path: np.abs(leaf) ** order for path, leaf in _weights(trees.by_path(params)).items()
        }

        def score(group: Group) -> np.ndarray:
            each = _per_member(group, power)
            if members == "joint":
                return _REDUCTIONS["sum"](each) ** (1 / order)
            return _REDUCTIONS[members](np.asarray(each) ** (1 / order))

        return scaled(groups, score, scale)

    check_scale(scale)
    return importance


def l1(groups: Iterable[Group], params: PyTree) -> _Scores:
    """The L1 norm of a unit's weights, over the group's mean: ``norm(1)``."""
    return norm(1)(groups, params)


def l2(groups: Iterable[Group], params: PyTree) -> _Scores:
    """The L2 norm of a unit's weights, over the group's mean: ``norm(2)``."""
    return norm(2)(groups, params)


def taylor(gradients: PyTree, *, scale: str = "mean") -> Importance:
    """By how much the loss changes without the unit, to first order: ``|sum g w|``.

    Molchanov et al. (arXiv 1906.10771, section 3.1), for all weights of a unit jointly.

    Args:
      gradients: of the loss, as ``jax.grad`` gives them; so of complex weights the conjugate of the
        direction in which the loss grows. A tree like the planned one or like its part ``params``.
      scale: see :func:`norm`.
    """
    return _of_products(gradients, lambda g, w: (g * w).real, np.abs, "gradients", scale)


def fisher(squares: PyTree, *, scale: str = "mean") -> Importance:
    """By how much the loss grows without the unit, to second order: ``sum E[g^2] w^2 / 2``.

    The diagonal of the empirical Fisher information stands for the curvature, as in Theis et al.
    (arXiv 1801.05787, eq. 7).

    Args:
      squares: mean over samples of the squared gradients of their losses, a tree like the planned
        one or like its part ``params``.
      scale: see :func:`norm`.
    """
    return _of_products(squares, lambda s, w: s * np.abs(w) ** 2 / 2, np.asarray, "squares", scale)


def random(seed: int) -> Importance:
    """Numbers drawn from U[0, 1): the baseline that every importance must beat.

    Args:
      seed: of the draw.
    """

    def importance(groups: Iterable[Group], params: PyTree) -> _Scores:
        del params
        draw = np.random.default_rng(seed)
        return {group.name: draw.random(group.size) for group in groups}

    return importance


def _of_products(factors: PyTree, combine: Any, finish: Any, name: str, scale: str) -> Importance:
    check_scale(scale)

    def importance(groups: Iterable[Group], params: PyTree) -> _Scores:
        others = _weights(trees.leaves_like(factors, params, name=name, like_name="params"))
        products = {
            p: combine(others[p], w)
            for p, w in _weights(trees.by_path(params)).items()
            if p in others
        }
        return scaled(groups, lambda g: finish(_REDUCTIONS["sum"](_per_member(g, products))), scale)

    return importance


def check_scale(scale: str) -> None:
    """Raises ValueError if a scale is not one of ``SCALES``."""
    one_of("scale", scale, SCALES)


def scaled(groups: Iterable[Group], score: Callable[[Group], Any], scale: str) -> _Scores:
    """Scores of groups, each divided by what ``scale`` says (a key of ``SCALES``)."""
    found = {}
    for group in groups:
        scores = np.asarray(score(group), np.float64)
        found[group.name] = scores / (SCALES[scale](scores) or 1.0)
    return found


def _weights(leaves: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The leaves that are numbers with a fraction, in at least float32; others are no weights."""
    found = {}
    for path, leaf in leaves.items():
        if isinstance(leaf, jax.ShapeDtypeStruct):
            raise ValueError(
                f"importance needs weights, and {path} is a shape only: pass arrays, or an "
                "importance that reads none, as structure.random(seed)"
            )
        if jnp.issubdtype(leaf.dtype, jnp.inexact):
            array = np.asarray(jax.device_get(leaf))
            found[path] = array.astype(jnp.promote_types(array.dtype, jnp.float32))
    return found


def _per_member(group: Group, elements: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Sums of the elements of each unit, for each member that has weights."""
    found = []
    for member in group.members:
        if member.path in elements:
            leaf = elements[member.path]
            others = tuple(axis for axis in range(leaf.ndim) if axis != member.axis)
            sums, counted = leaf.sum(axis=others, dtype=np.float64), member.units >= 0
            found.append(np.bincount(member.units[counted], sums[counted], group.size))
    return found or [np.zeros(group.size)]
