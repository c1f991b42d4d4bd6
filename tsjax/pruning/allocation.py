"""Allocations: how a density is shared out over the leaves.

Each function returns ``{path: density}`` for :func:`tsjax.pruning.select`. Those of :func:`uniform`
and :func:`erk` are whole numbers of weights, in total exactly as many as a global selection keeps.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from tsjax.pruning.choice import Where, choose, kernels, pairs
from tsjax.pruning.selection import Density, check_density, kept_count
from tsjax.trees import PyTree


def uniform(params: PyTree, density: Density, where: Where = kernels) -> dict[str, Density]:
    """Keeps the same share of each leaf, up to rounding, and exactly the density in total.

    Args:
      params: tree of arrays; only shapes are read.
      density: share of the chosen weights to keep, in (0, 1]; may be traced.
      where: which leaves are pruned.
    """
    return erk(params, density, where, power=0.0)


def erk(
    params: PyTree, density: Density, where: Where = kernels, power: float = 1.0
) -> dict[str, Density]:
    """Erdos-Renyi-Kernel: keeps more of small leaves than of large ones (Evci et al.).

    A leaf's share is proportional to ``(sum of its axes / product of its axes) ** power``, but not
    above 1. What a leaf cannot take goes to the others (arXiv 1911.11134; Mocanu et al., arXiv
    1707.04780, for ``power=1``).

    Args:
      params: tree of arrays; only shapes are read.
      density: share of all chosen weights to keep, in (0, 1]; may be traced.
      where: which leaves are pruned.
      power: 1 as in the papers; 0 gives :func:`uniform`.
    """
    check_density(density)
    shapes, partner = _weights(params, where)
    if not shapes:
        return {}
    traced = isinstance(density, jax.core.Tracer)
    xp: Any = jnp if traced else np
    density = density if traced else float(density)
    sizes = np.asarray([np.prod(shape) for shape in shapes.values()])
    raw = np.asarray([(sum(shape) / np.prod(shape)) ** power for shape in shapes.values()])
    # Leaves fill up in the order of their raw share. With the first i of them dense, the scale of
    # the others follows from the total; the right i is the first that leaves none of them above 1.
    order = np.argsort(-raw, kind="stable")
    dense = np.cumsum(sizes[order]) - sizes[order]
    rest = np.cumsum((sizes * raw)[order][::-1])[::-1]
    scales = (density * sizes.sum() - xp.asarray(dense)) / xp.asarray(rest)
    fits = scales * raw[order] <= 1
    scale = xp.where(xp.any(fits), scales[xp.argmax(fits)], 1 / raw.min())
    counts = _whole(xp, raw * sizes, scale, kept_count(density, int(sizes.sum())), sizes)
    if not traced:
        counts = counts.tolist()
    values = [count / n for count, n in zip(counts, sizes.tolist(), strict=True)]
    return _with_partners(dict(zip(shapes, values, strict=True)), partner)


def wsap(
    params: PyTree,
    shares: tuple[float, float, float] = (0.7, 0.5, 0.3),
    where: Where = kernels,
) -> dict[str, Density]:
    """WSAP: keeps more of leaves whose weights vary little (the SEDIMARK toolbox, 2025).

    Each leaf has a coefficient of variation, ``c = std / |mean|`` of its weights. The leaves are
    divided into thirds by c, and each third has a density of its own.

    Args:
      params: tree of arrays.
      shares: the densities of the leaves with low, middle and high c. The defaults keep what the
        toolbox does, which prunes 0.3, 0.5 and 0.7.
      where: which leaves are pruned.
    """
    for share in shares:
        check_density(share, "each of the shares")
    chosen = choose(params, where)
    shapes, partner = _weights(params, where)
    paths, variation = list(shapes), []
    for path in paths:
        leaf = jnp.asarray(chosen[path])
        # Squares overflow, and vanish, in float16.
        leaf = leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32))
        if path in partner:
            leaf = jax.lax.complex(leaf, jnp.asarray(chosen[partner[path]]))
        mean = jnp.mean(leaf)
        spread = jnp.sqrt(jnp.mean(jnp.square(jnp.abs(leaf - mean))))
        # Weights that are all zero do not vary.
        variation.append(jnp.where(spread == 0, 0, spread / jnp.abs(mean)).astype(jnp.float32))
    if not paths:
        return {}
    c = jnp.stack(variation)
    # Infinite where the mean is zero; a quantile of infinities alone would be NaN.
    c = jnp.minimum(c, jnp.finfo(jnp.float32).max / 4)
    low, high = jnp.quantile(c, 1 / 3), jnp.quantile(c, 2 / 3)
    thirds = (c > low).astype(jnp.int32) + (c > high)
    if isinstance(thirds, jax.core.Tracer):
        values = list(jnp.asarray(shares)[thirds])
    else:
        values = [shares[int(third)] for third in thirds]
    return _with_partners(dict(zip(paths, values, strict=True)), partner)


def _weights(params: PyTree, where: Where) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """The shapes of the chosen leaves by path, and ``{path of real part: path of imaginary part}``.

    The two parts of a complex weight have one shape, under the path of the real part.
    """
    chosen = choose(params, where)
    partner = pairs(chosen)
    shapes = {
        p: tuple(leaf.shape) or (1,) for p, leaf in chosen.items() if p not in partner.values()
    }
    return shapes, partner


def _with_partners(found: dict[str, Density], partner: dict[str, str]) -> dict[str, Density]:
    return found | {imag: found[real] for real, imag in partner.items()}


def _whole(xp: Any, parts: np.ndarray, scale: Any, total: int | Array, sizes: np.ndarray) -> Any:
    """Whole numbers near ``min(scale * parts, sizes)`` that add up to ``total``.

    Webster's method of apportionment: the k-th weight of a leaf costs ``(k - 1/2) / part``, and the
    ``total`` cheapest are taken, ties by position. A larger total thus never takes a weight from a
    leaf, which rounding by largest remainder can do.
    """
    # Rounding each leaf by itself misses the total by half a weight per leaf at most, so that only
    # so many weights of each are in question.
    reach = len(sizes) // 2 + 2
    near = xp.floor(xp.minimum(scale * parts, sizes) + 0.5).astype(int)
    base = xp.maximum(near - reach, 0)
    k = base[:, None] + np.arange(1, 2 * reach + 1)[None]
    cost = xp.where(k <= sizes[:, None], (k - 0.5) / parts[:, None], np.inf)
    rank = xp.argsort(xp.argsort(cost.ravel(), stable=True)).reshape(k.shape)
    return base + (rank < total - base.sum()).sum(axis=1)
