"""Turns scores into a mask that keeps an exact number of weights."""

import functools
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from tsjax import trees
from tsjax.pruning import patterns, ranking
from tsjax.pruning.choice import Where, choose, kernels, look_up, matches, pairs
from tsjax.pruning.patterns import NofM, Pattern, Within
from tsjax.pruning.placement import placed_like, replicated
from tsjax.trees import PyTree
from tsjax.wording import listing, near

Density = float | Array
Scope = str | Sequence[str] | Callable[[str], Hashable]

SCOPES = ("global", "leaf")


def select(
    scores: PyTree,
    density: Density | Mapping[str, Density] | None = None,
    scope: Scope = "global",
    where: Where = kernels,
    *,
    pattern: Pattern | Mapping[str, Pattern | None] | None = None,
) -> PyTree:
    """Keeps the highest scores among the leaves that ``where`` chooses.

    Of ``n`` weights that are ranked together, ``n - round((1 - density) * n)`` are kept, so the
    count is less than one weight away from what was asked. Of equal scores, those that come first
    are kept (leaves in tree order, then row-major). A new density or new scores never compile
    again. Under ``jit``, ``density`` may be traced; a float32 density then rounds the count at
    ``n * 2**-24``.

    A complex weight is one weight, whether it is a complex number or a pair of leaves ``real`` and
    ``imag``. It is kept or pruned as a whole, and counted once. A pair has the larger of its two
    scores.

    With :class:`Blocks` or :class:`Slices` as ``pattern``, whole blocks or slices are kept, those
    with the highest scores first. The count is then within half a block of what was asked.
    :class:`Within` ranks the weights of each slice by themselves.

    Args:
      scores: tree of real scores, as from :func:`tsjax.pruning.magnitude`.
      density: share of the chosen weights to keep, in (0, 1]; or a table ``{glob: share}``, as from
        :func:`tsjax.pruning.erk`. In a table, the entry that is a leaf's path holds for it, or else
        the first entry that matches; the leaves of one entry are ranked together. Leave the density
        out for a :class:`NofM` pattern, which fixes it.
      scope: which weights are ranked together. ``"global"`` ranks all together, ``"leaf"`` those of
        each leaf. A sequence of globs (``("encoder/*", "decoder/*")``) ranks together the leaves
        whose first matching glob is the same. A function from path to group does so by group. Each
        group gets the density. A table of densities allows no scope.
      where: which leaves to prune, see :data:`tsjax.pruning.Where`; all others are kept whole.
      pattern: which weights are kept or pruned together, for all leaves or as a table
        ``{glob: pattern}``; None, the default, for single weights.

    Returns:
      A mask: a tree like ``scores`` of bool arrays.

    Raises:
      ValueError: for a density outside (0, 1], an unknown scope, a glob that matches nothing or a
        leaf that no glob matches, a pattern that does not fit a leaf, a score that is NaN, or
        scores that are not real floats; leaves are named by path.
    """
    trees.check_arrays(scores)
    chosen = choose(scores, where)
    _check_scores(chosen)
    partner = pairs(chosen)
    ranked = {
        path: jnp.maximum(score, chosen[partner[path]]) if path in partner else jnp.asarray(score)
        for path, score in chosen.items()
        if path not in partner.values()
    }
    patterns_of = _patterns(pattern, ranked, partner.values())
    fixed = {path: p for path, p in patterns_of.items() if isinstance(p, NofM)}
    kept = {path: _n_of_m(ranked[path], p) for path, p in fixed.items()}
    rest = {path: score for path, score in ranked.items() if path not in fixed}
    _check_table(density, *(_with_partners(paths, partner) for paths in (fixed, rest)))
    for group, share in _groups(rest, density, scope, partner.values()):
        kept |= _keep({path: rest[path] for path in group}, share, patterns_of)
    kept |= {imag: kept[real] for real, imag in partner.items()}

    def masked(path: str, score: Any) -> Array:
        return placed_like(kept.get(path, jnp.ones(score.shape, bool)), score)

    return trees.map_with_path(masked, scores)


def kept_count(density: Density, n: int) -> int | Array:
    """How many of ``n`` weights are kept: ``n - round((1 - density) * n)``, as PyTorch has it."""
    if isinstance(density, jax.core.Tracer):
        return n - jnp.round((1 - density) * n).astype(jnp.int32)
    return n - round((1 - float(density)) * n)


def check_density(density: Density, name: str = "density") -> None:
    """Raises ValueError for a density outside (0, 1]. A traced density is not checked."""
    if isinstance(density, jax.core.Tracer):
        return
    if not 0 < float(density) <= 1:
        raise ValueError(f"{name} must be in (0, 1], got {density}")


def _keep(
    scores: Mapping[str, Array], density: Density, patterns_of: Mapping[str, Pattern | None]
) -> dict[str, Array]:
    """The masks of leaves that are ranked together; ``Within`` leaves are ranked slice by slice."""
    found = {
        path: _within(score, density, pattern)
        for path, score in scores.items()
        if isinstance(pattern := patterns_of[path], Within)
    }
    scores = {path: score for path, score in scores.items() if path not in found}
    if not scores:
        return found
    k = kept_count(density, sum(score.size for score in scores.values()))
    leaves = list(scores.values())
    units = tuple(patterns.unit_of(patterns_of[path], s.shape) for path, s in scores.items())
    if all(patterns.largest_unit(u, s.shape) == 1 for u, s in zip(units, leaves, strict=True)):
        masks = ranking.keep_largest(leaves, k)
    else:
        reduce = tuple(getattr(patterns_of[path], "reduce", "mean") for path in scores)
        masks = _keep_blocks(list(map(replicated, leaves)), k, units, reduce)
    return found | dict(zip(scores, masks, strict=True))


@functools.partial(jax.jit, static_argnames=("blocks", "reduce"))
def _keep_blocks(
    scores: Sequence[Array],
    k: int | Array,
    blocks: tuple[tuple[int, ...], ...],
    reduce: tuple[str, ...],
) -> list[Array]:
    """Masks that keep whole blocks, about ``k`` weights in all; each leaf has its size of block."""
    worth, sizes = zip(*map(patterns.block_scores, scores, blocks, reduce), strict=True)
    masks = ranking.keep_units(worth, sizes, k)
    return [
        patterns.expand(mask, score.shape, block)
        for mask, score, block in zip(masks, scores, blocks, strict=True)
    ]


def _within(score: Array, density: Density, pattern: Within) -> Array:
    rows = patterns.rows(replicated(score), pattern)
    kept = ranking.keep_in_groups(rows, kept_count(density, rows.shape[-1]))
    return patterns.unrow(kept, score.shape, pattern)


def _n_of_m(score: Array, pattern: NofM) -> Array:
    kept = ranking.keep_in_groups(patterns.groups(replicated(score), pattern), pattern.n)
    return patterns.ungroup(kept, score.shape, pattern)


def _with_partners(paths: Collection[str], partner: Mapping[str, str]) -> list[str]:
    return [*paths, *(partner[path] for path in paths if path in partner)]


def _check_table(
    density: Density | Mapping[str, Density] | None, fixed: Sequence[str], others: Sequence[str]
) -> None:
    """Raises ValueError where a density is given to leaves whose pattern fixes it."""
    if not fixed or density is None:
        return
    if not others:
        raise ValueError("an N:M pattern fixes the density: leave density out")
    if not isinstance(density, Mapping):
        return
    if idle := [
        glob
        for glob in density
        if any(matches(glob, path) for path in fixed)
        and not any(matches(glob, path) for path in others)
    ]:
        raise ValueError(
            f"an N:M pattern fixes the density of {listing(idle)}: leave that out of the table"
        )


def _groups(
    ranked: Mapping[str, Any],
    density: Density | Mapping[str, Density] | None,
    scope: Scope,
    followers: Collection[str],
) -> list[tuple[list[str], Density]]:
    """Paths that are ranked together, and the share of each such group."""
    if not ranked:
        if density is not None and not isinstance(density, Mapping):
            check_density(density)
        _group_of(scope, ranked, followers)
        return []
    if density is None:
        raise ValueError("density is missing: give the share to keep, in (0, 1]")
    if isinstance(density, Mapping):
        if scope != "global":
            raise ValueError("a table of densities says what is ranked together: leave scope out")
        for glob, share in density.items():
            # An allocation may leave nothing of a leaf.
            if not isinstance(share, jax.core.Tracer) and not 0 <= float(share) <= 1:
                raise ValueError(f"the density of {glob!r} must be in [0, 1], got {share}")
        table = {glob: (glob, share) for glob, share in density.items()}
        entries = look_up(table, ranked, "density", followers)
        groups: dict[Hashable, list[str]] = {}
        for path, (glob, _) in entries.items():
            groups.setdefault(glob, []).append(path)
        return [(paths, density[glob]) for glob, paths in groups.items()]  # type: ignore[index]
    check_density(density)
    group_of = _group_of(scope, ranked, followers)
    groups = {}
    for path in ranked:
        groups.setdefault(group_of(path), []).append(path)
    return [(paths, density) for paths in groups.values()]


def _group_of(
    scope: Scope, ranked: Mapping[str, Any], followers: Collection[str]
) -> Callable[[str], Hashable]:
    if isinstance(scope, str):
        if scope not in SCOPES:
            raise ValueError(
                f"scope is {scope!r}{near(scope, SCOPES)}: use one of {', '.join(SCOPES)}, "
                "a sequence of globs, or a function of the path"
            )
        return {"global": lambda _: None, "leaf": lambda path: path}[scope]
    if callable(scope):
        return scope
    table = look_up({glob: glob for glob in scope}, ranked, "scope", followers) if ranked else {}
    return table.__getitem__


def _patterns(
    pattern: Pattern | Mapping[str, Pattern | None] | None,
    ranked: Mapping[str, Any],
    followers: Collection[str],
) -> dict[str, Pattern | None]:
    if isinstance(pattern, Mapping):
        found = look_up(pattern, ranked, "pattern", followers) if ranked else {}
    else:
        found = dict.fromkeys(ranked, pattern)
    problems = [
        f"{path}: {why}"
        for path, p in found.items()
        if (why := patterns.problem(p, np.shape(ranked[path])))
    ]
    if problems:
        raise ValueError("the pattern does not fit:\n  " + "\n  ".join(problems))
    return found


def _check_scores(scores: Mapping[str, Array]) -> None:
    problems = []
    for path, score in scores.items():
        if not jnp.issubdtype(score.dtype, jnp.floating):
            problems.append(f"{path}: scores must be floating point, got {score.dtype}")
        elif not isinstance(score, jax.core.Tracer):
            bad = int(np.sum(np.isnan(np.asarray(score, np.float32))))
            if bad:
                problems.append(f"{path}: {bad} of {score.size} scores are NaN")
    if problems:
        raise ValueError("cannot rank these scores:\n  " + "\n  ".join(problems))
