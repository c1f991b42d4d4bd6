"""Which units to cut: from importance and a target to exact sizes.

All units of all groups are put in one order, the order in which they would be cut. A target is met
by cutting the first so many of them; how many is found by bisection on the size of the cut model,
counted anew each time.
"""

import bisect
import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tsjax.structure.groups import Group, Groups
from tsjax.structure.importance import Importance, l2
from tsjax.structure.options import (
    Which,
    check_shapes,
    checked_scores,
    explicit,
    least_units,
    named,
    table,
)
from tsjax.structure.targets import Flops, Params, Target
from tsjax.trees import PyTree
from tsjax.wording import listing, one_of

SCOPES = ("uniform", "global")


def rounds(share: float, count: int) -> list[float]:
    """The share to keep in each of so many rounds, each of what the round before has left.

    ``structure.rounds(0.25, 2)`` is ``[0.5, 0.5]``. Pruning a little, training, and pruning again
    costs less accuracy than one large cut (Molchanov et al., arXiv 1906.10771).

    Args:
      share: what to keep after all rounds, in (0, 1].
      count: number of rounds.

    Raises:
      ValueError: for a share or a count out of range.
    """
    if not (isinstance(count, int) and 0 < share <= 1 <= count):
        raise ValueError(f"rounds takes a share in (0, 1] and a count from 1, got {share}, {count}")
    return [share ** (1 / count)] * count


@dataclass(frozen=True)
class Plan:
    """Which units are kept; made by :func:`plan`.

    Attributes:
      groups: what was planned for.
      keep: {group name: kept units, ascending}, for every group.
      target: what was asked for, None where nothing was.
      params: number of parameters, before and after.
      flops: floating-point operations, before and after.
      measured: what the target measures, before and after; None where there is none.
    """

    groups: Groups = field(repr=False)
    keep: dict[str, np.ndarray] = field(repr=False)
    target: Target | None
    params: tuple[int, int]
    flops: tuple[int, int]
    measured: tuple[float, float] | None = None

    @property
    def sizes(self) -> dict[str, int]:
        """{group name: number of kept units}."""
        return {name: len(units) for name, units in self.keep.items()}

    @property
    def asked(self) -> float | None:
        """The share that was asked for."""
        return self.target.share if self.target else None

    @property
    def got(self) -> float:
        """The share that is kept, of what was asked for: parameters where nothing was."""
        before, after = self.measured or self.params
        return after / before if before else 1.0

    def __str__(self) -> str:
        cut = [(n, len(u), self.groups[n].size) for n, u in self.keep.items()]
        lines = [f"{name}: {kept} of {size}" for name, kept, size in cut if kept < size]
        for what, (before, after) in (("parameters", self.params), ("FLOPs", self.flops)):
            lines.append(f"{what}: {after:,} of {before:,} ({after / max(before, 1):.3f})")
        return "\n".join(lines)


def plan(
    groups: Groups,
    params: PyTree,
    *,
    target: Target | None = None,
    importance: Importance = l2,
    scope: str = "uniform",
    round_to: int | Mapping[str, int] = 1,
    minimum: int | float | Mapping[str, int | float] = 1,
    ignore: Which = (),
    keep: Mapping[str, Any] | None = None,
) -> Plan:
    """Chooses which units of which groups to keep.

    Args:
      groups: from :func:`find_groups`.
      params: the tree that the groups were found for, with weights where ``importance`` reads them.
      target: :class:`Params`, :class:`Flops`, :class:`Latency` or another :class:`Target`; None
        where ``keep`` says it all.
      importance: scores of units, lowest cut first: :func:`l1`, :func:`l2`, :func:`norm`,
        :func:`taylor`, :func:`fisher`, :func:`random`, :func:`activation`, or a function of yours.
      scope: ``uniform`` cuts the same share of every group; ``global`` ranks the units of all
        groups together.
      round_to: what kept sizes are multiples of, for all groups or by glob, as ``{"*:1": 8}``, of
        which the first that matches counts. A group can always stay whole, and a smaller one does.
      minimum: units that every group keeps, or their share where it is a float; for all groups or
        by glob.
      ignore: groups that stay whole.
      keep: what some groups keep, by name or glob: unit indices, a number of units, or a share as
        a float. The target is met by cutting the others.

    Returns:
      The plan. What is got differs from the target by less than one step, which is one unit or
      ``round_to`` units of one group.

    Raises:
      ValueError: for a target that cannot be met, with the smallest share that can and the groups
        that hold it up; for options that make no sense; for groups that are frozen, or unknown.
    """
    one_of("scope", scope, SCOPES)
    if target is not None and not isinstance(target, Target):
        raise ValueError(
            f"target must be Params(0.5), Flops(0.5), Latency(...) or a Target, got {target!r}"
        )
    if not (keep is None or isinstance(keep, Mapping)):
        raise ValueError(f"keep must be {{group: what it keeps}}, got {keep!r}")
    if not callable(importance):
        raise ValueError(f"importance must be a function as structure.l2, got {importance!r}")
    if target is None and keep is None:
        raise ValueError("say what to keep: target=Params(0.5), Flops(0.5), or keep={group: ...}")
    check_shapes(groups, params)
    names = {group.name for group in groups}
    by_name = {name: what for name, what in (keep or {}).items() if name in names}
    rest = {glob: what for glob, what in (keep or {}).items() if glob not in names}
    chosen = by_name | table([g for g in groups.free if g.name not in by_name], rest)
    if stuck := [name for name in chosen if groups[name].frozen]:
        reasons = "; ".join(f"{name}: {groups[name].frozen}" for name in stuck)
        raise ValueError(f"keep names groups that cannot be cut: {reasons}")
    ignored = {*chosen, *named(groups, ignore)}
    free = [group for group in groups.free if group.name not in ignored]
    ranked = [*free] if target is not None else []
    ranked += [groups[name] for name, what in chosen.items() if np.ndim(what) == 0]
    scores = checked_scores(importance(ranked, params) if ranked else {}, groups, ranked)
    kept = {group.name: np.arange(group.size) for group in groups}
    for name, what in chosen.items():
        kept[name] = explicit(groups[name], what, scores.get(name))
    measured = None
    if target is not None:
        multiples, least = table(groups, round_to), table(groups, minimum)
        cuts = [
            _Cuts(g, scores[g.name], multiples.get(g.name, 1), least.get(g.name, 1)) for g in free
        ]
        measured = _meet(groups, params, target, kept, _in_order(cuts, scope))
    sizes = {name: len(units) for name, units in kept.items()}
    if problem := groups.problem(sizes):
        few = [name for name, size in sizes.items() if size == 1 < groups[name].size]
        raise ValueError(
            f"the function does not work with one unit of {listing(few, 5)}: {problem}. "
            "Pass minimum=2, or keep more"
        )
    count, flops = (what.measurer(groups, params) for what in (Params(1), Flops(1)))
    return Plan(
        groups,
        kept,
        target,
        params=(int(count({})), int(count(sizes))),
        flops=(int(flops({})), int(flops(sizes))),
        measured=measured,
    )


# The order of cuts.


class _Cuts:
    """The steps in which a group is cut, from whole to its minimum."""

    def __init__(self, group: Group, scores: np.ndarray, multiple: Any, minimum: Any) -> None:
        whole = isinstance(multiple, int | np.integer) and not isinstance(multiple, bool)
        if not whole or multiple < 1:
            raise ValueError(f"round_to must be a positive whole number, got {multiple!r}")
        least = least_units(group, minimum)
        self.group = group
        # Most important first: a size is kept by taking so many from the front.
        self.order = np.argsort(-scores, kind="stable")
        self.ranked = scores[self.order]
        smaller = range((group.size - 1) // multiple * multiple, 0, -int(multiple))
        self.sizes = [group.size, *(size for size in smaller if size >= least)]

    def steps(self, scope: str) -> list[tuple[float, int]]:
        """(place in the order, size after it) of each cut, in the order of their places."""
        found, place = [], -np.inf
        for before, size in zip(self.sizes, self.sizes[1:], strict=False):
            if scope == "uniform":
                own = 1 - size / self.group.size
            else:
                own = float(self.ranked[size:before].mean())
            place = max(place, own)
            found.append((place, size))
        return found


def _in_order(cuts: Sequence[_Cuts], scope: str) -> list[tuple[_Cuts, int]]:
    """All cuts of all groups, (group, size after it), in the order in which they are made."""
    every = [
        (place, i, each, size) for i, each in enumerate(cuts) for place, size in each.steps(scope)
    ]
    every.sort(key=lambda cut: cut[:2])
    return [(each, size) for _, _, each, size in every]


def _meet(
    groups: Groups,
    params: PyTree,
    target: Target,
    kept: dict[str, np.ndarray],
    order: Sequence[tuple[_Cuts, int]],
) -> tuple[float, float]:
    """Makes the first of these cuts, as many as bring the quantity closest to the target.

    Returns:
      What the target is about, before and after.
    """
    measure = target.measurer(groups, params)
    fixed = {name: len(units) for name, units in kept.items()}
    whole = measure({})
    if not 0 < whole < math.inf:
        raise ValueError(f"{type(target).__name__} of the dense model is {whole}: nothing to cut")
    wanted = target.share * whole

    def sizes(cuts: int) -> dict[str, int]:
        return fixed | {each.group.name: size for each, size in order[:cuts]}

    @functools.cache
    def left(cuts: int) -> float:
        return measure(sizes(cuts))

    if left(len(order)) > wanted:
        _refuse(groups, params, target, sizes(len(order)), left(len(order)) / whole)
    # The first number of cuts that is enough; one cut less may come nearer.
    enough = bisect.bisect_left(range(len(order)), True, key=lambda cuts: left(cuts) <= wanted)
    if enough and left(enough - 1) - wanted < wanted - left(enough):
        enough -= 1
    for each, size in order[:enough]:
        kept[each.group.name] = np.sort(each.order[:size])
    return whole, left(enough)


def _refuse(
    groups: Groups, params: PyTree, target: Target, smallest: dict[str, int], reached: float
) -> None:
    count = Params(1).measurer(groups, params)
    least = count(smallest)
    # What would go if this group had one unit only.
    held = {group.name: least - count(smallest | {group.name: 1}) for group in groups}
    lines = [
        f"{name} ({smallest[name]} units, {held[name] / least:.0%} of what is left): "
        f"{groups[name].frozen or 'at its minimum, ignored or given'}"
        for name in sorted(held, key=lambda name: -held[name])[:5]
        if held[name] > 0
    ]
    raise ValueError(
        f"{type(target).__name__}({target.share}) cannot be reached: the smallest share is "
        f"{reached:.4f}. It is held up by:\n  " + "\n  ".join(lines)
    )
