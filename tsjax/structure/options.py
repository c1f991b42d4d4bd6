"""The options of a plan: which groups are meant, and what is said of them."""

import fnmatch
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tsjax import trees
from tsjax.structure.groups import Group, Groups
from tsjax.trees import PyTree
from tsjax.wording import listing, near

Which = str | Callable[[Group], bool] | Sequence["str | Callable[[Group], bool]"]
"""A group's name, or a glob over names; one that no name matches is tried on all members, which
are called ``path:axis``. Or a predicate, or several of these."""


def named(groups: Sequence[Group], which: Any) -> list[str]:
    """The names of the groups that are meant."""
    if isinstance(which, Group):
        return [which.name]
    if callable(which):
        return [group.name for group in groups if which(group)]
    if not isinstance(which, str):
        if not isinstance(which, Sequence):
            raise ValueError(f"groups are named by globs, predicates or a list, got {which!r}")
        found = [name for each in which for name in named(groups, each)]
        return list(dict.fromkeys(found))
    if any(group.name == which for group in groups):
        return [which]
    for labels in (lambda g: [g.name], lambda g: map(str, g.members)):
        matched = [g.name for g in groups if any(fnmatch.fnmatchcase(x, which) for x in labels(g))]
        if matched:
            return matched
    hint = near(which, [group.name for group in groups])
    raise ValueError(f"no group matches {which!r}{hint}")


def table(groups: Sequence[Group], value: Any) -> dict[str, Any]:
    """{group name: what an option says of it}; where several globs match, the first one counts."""
    if not isinstance(value, Mapping):
        return dict.fromkeys((group.name for group in groups), value)
    found: dict[str, Any] = {}
    for pattern, each in value.items():
        for name in named(groups, pattern):
            found.setdefault(name, each)
    return found


def least_units(group: Group, minimum: int | float) -> int:
    """How many units a group keeps at least."""
    number = isinstance(minimum, int | float | np.integer) and not isinstance(minimum, bool)
    if not number or not minimum >= 0 or (isinstance(minimum, float) and minimum > 1):
        raise ValueError(f"minimum must be a number of units, or a share as a float, got {minimum}")
    units = -(-minimum * group.size // 1) if isinstance(minimum, float) else minimum
    return min(group.size, max(1, int(units)))


def explicit(group: Group, what: Any, scores: np.ndarray | None) -> np.ndarray:
    """The units that a group keeps.

    Args:
      group: the group.
      what: the indices of the units; or how many of them, or which share as a float.
      scores: of all units, by which the best so many are chosen.
    """
    if isinstance(what, bool | float | int | np.integer | np.floating):
        share = isinstance(what, float | np.floating)
        count = round(float(what) * group.size) if share else int(what)
        if isinstance(what, bool) or not 1 <= count <= group.size or (share and what > 1):
            raise ValueError(
                f"{group.name} has {group.size} units and keeps at least one, got {what!r}"
            )
        assert scores is not None
        return np.sort(np.argsort(-scores, kind="stable")[:count])
    units = np.asarray(what)
    fine = units.ndim == 1 and units.size and np.issubdtype(units.dtype, np.integer)
    if not fine or len(set(units.tolist())) < units.size:
        raise ValueError(f"{group.name} keeps a list of different unit indices, got {what!r}")
    if units.min() < 0 or units.max() >= group.size:
        raise ValueError(f"{group.name} has units 0 to {group.size - 1}, got {what!r}")
    return np.sort(units)


def checked_scores(
    scores: Mapping[str, Any], groups: Groups, ranked: Sequence[Group]
) -> dict[str, np.ndarray]:
    """What an importance says of these groups, if it makes sense."""
    if missing := [group.name for group in ranked if group.name not in scores]:
        raise ValueError(f"importance gives no scores of {listing(missing, 5)}")
    found, names = {}, {group.name for group in groups}
    for name, values in scores.items():
        if name not in names:
            raise ValueError(
                f"importance gives scores of {name!r}, which is no group{near(name, names)}"
            )
        array = np.asarray(values, np.float64)
        if array.shape != (groups[name].size,):
            size = groups[name].size
            raise ValueError(f"importance of {name} has shape {array.shape}, not ({size},)")
        if np.isnan(array).any():
            raise ValueError(f"importance of {name} is not a number for some units")
        found[name] = array
    return found


def check_shapes(groups: Groups, params: PyTree) -> None:
    """Checks that params are those that groups were found for."""
    if not isinstance(groups, Groups):
        raise ValueError(f"the first argument must be groups, got a {type(groups).__name__}")
    trees.check_arrays(params)
    have = {path: tuple(leaf.shape) for path, leaf in trees.by_path(params).items()}
    want = groups.shapes({})
    if have != want:
        differ = [p for p in {**have, **want} if have.get(p) != want.get(p)]
        raise ValueError(
            f"params are not those that the groups were found for: {listing(differ, 5)} differ"
        )
