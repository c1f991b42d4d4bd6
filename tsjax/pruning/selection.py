"""Turns scores into a mask that keeps an exact number of weights."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from tsjax import trees
from tsjax.pruning.masks import Where, kernels
from tsjax.wording import one_of

PyTree = Any

SCOPES = ("global", "leaf")


def select(
    scores: PyTree, density: float | Array, scope: str = "global", where: Where = kernels
) -> PyTree:
    """Keeps the highest scores among the leaves that ``where`` chooses.

    With ``n`` weights chosen, ``n - round((1 - density) * n)`` are kept, so that what is obtained
    differs from what is asked by less than one weight. Equal scores are kept in the order of their
    position (leaves in tree order, then row-major). A new density or new scores never compile
    again; under ``jit``, ``density`` may be traced (a float32 density then rounds the count at
    ``n * 2**-24``).

    Args:
      scores: tree of real scores >= 0, as from :func:`tsjax.pruning.magnitude`.
      density: share of the chosen weights to keep, in (0, 1].
      scope: ``"global"`` ranks all chosen leaves together, ``"leaf"`` each for itself.
      where: ``where(path, leaf)`` chooses the leaves to prune; all others are kept whole.

    Returns:
      A mask: a tree like ``scores`` of bool arrays.

    Raises:
      ValueError: for a density outside (0, 1], an unknown scope, a score that is NaN or negative,
        or complex scores; leaves are named by path.
    """
    one_of("scope", scope, SCOPES)
    _check_density(density)
    chosen = {p: s for p, s in trees.by_path(scores).items() if where(p, s) and s.size}
    _check_scores(chosen)
    groups = [list(chosen)] if scope == "global" else [[path] for path in chosen]
    kept: dict[str, Array] = {}
    for group in filter(None, groups):
        k = _kept_count(density, sum(chosen[p].size for p in group))
        kept.update(zip(group, _keep_largest([chosen[p] for p in group], k), strict=True))
    return trees.map_with_path(lambda p, s: kept.get(p, jnp.ones(s.shape, bool)), scores)


def _check_density(density: float | Array) -> None:
    if isinstance(density, jax.core.Tracer):
        return
    if not 0 < float(density) <= 1:
        raise ValueError(f"density must be in (0, 1], got {density}")


def _check_scores(scores: dict[str, Array]) -> None:
    problems = []
    for path, score in scores.items():
        if not jnp.issubdtype(score.dtype, jnp.floating):
            problems.append(f"{path}: scores must be floating point, got {score.dtype}")
        elif not isinstance(score, jax.core.Tracer):
            bad = int(np.sum(~(np.asarray(score) >= 0)))
            if bad:
                problems.append(f"{path}: {bad} scores are NaN or negative")
    if problems:
        raise ValueError("cannot rank these scores:\n  " + "\n  ".join(problems))


@jax.jit
def _keep_largest(scores: list[Array], k: Array) -> list[Array]:
    """Masks that keep the ``k`` largest of all scores, ties by position.

    The threshold is found bit by bit, which needs no sort: non-negative IEEE floats are ordered
    like the integers that share their bits. Each bit costs one pass over the scores.
    """
    dtype = jnp.result_type(*scores)
    if jnp.finfo(dtype).bits < 32:
        dtype = jnp.dtype(jnp.float32)
    bits = jnp.finfo(dtype).bits
    integer = jnp.dtype(f"int{bits}")
    # -0.0 would have the sign bit set.
    keys = [jnp.abs(s.astype(dtype)).view(integer) for s in scores]

    def count(threshold: Array) -> Array:
        return sum((jnp.sum(key >= threshold) for key in keys), start=jnp.zeros((), k.dtype))

    def set_bit(i: int, threshold: Array) -> Array:
        candidate = threshold | (jnp.ones((), integer) << jnp.asarray(bits - 2 - i, integer))
        return jnp.where(count(candidate) >= k, candidate, threshold)

    threshold = jax.lax.fori_loop(0, bits - 1, set_bit, jnp.zeros((), integer))
    spare = k - sum((jnp.sum(key > threshold) for key in keys), start=jnp.zeros((), k.dtype))
    masks = []
    for key in keys:
        tied = (key == threshold).ravel()
        first = tied & (jnp.cumsum(tied, dtype=spare.dtype) <= spare)
        masks.append((key > threshold) | first.reshape(key.shape))
        spare = spare - jnp.sum(tied)
    return masks


def _kept_count(density: float | Array, n: int) -> Array:
    """``n - round((1 - density) * n)``, the count of ``torch.nn.utils.prune``."""
    if isinstance(density, jax.core.Tracer):
        return n - jnp.round((1 - density) * n).astype(jnp.int32)
    return jnp.asarray(n - round((1 - float(density)) * n), jnp.int32)
