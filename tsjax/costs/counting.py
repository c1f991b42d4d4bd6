"""Counts the floating-point operations of a function by walking its jaxpr.

Nothing runs and nothing is compiled. What is counted is what the traced program does: the repeats
of a scan, the recomputation of a checkpointed block, the padded taps of a convolution. Operations
that no output depends on are left out, as a compiler would; common subexpressions are not merged.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import jax
import numpy as np
from jax.extend import core

from tsjax import trees
from tsjax.costs.origins import NOWHERE, Origin, leaf
from tsjax.costs.walking import VIEWS, Products, walk
from tsjax.jaxprs import bytes_of, size_of
from tsjax.trees import PyTree


@dataclass(frozen=True)
class Count:
    """The work of one call of a function; made by `count`.

    Attributes:
      flops: floating-point operations.
      macs: multiply-adds of dots and convolutions; a complex one is 4 real ones.
      by_primitive: {primitive name: flops}; the values add up to `flops`.
      by_scope: {name-stack scope, "" outside any: flops}; the values add up to `flops`. The forward
        and the backward pass of a layer are both under the layer's scope.
      by_leaf: {leaf path: flops of the dots and convolutions in which this leaf of params is an
        operand}, for every leaf. A leaf that makes up part of an operand (kernels that were
        concatenated) gets its part. Two leaves multiplied with one another both get the product.
      comparisons: comparisons of sorts, top-k and argmax, which are not in `flops`.
      uncounted: {primitive: times it occurs} where there was no rule; their work is in no other
        figure.
      params: number of elements in params; where the first argument has a part ``params``, as
        a :class:`tsjax.forecaster.Forecaster` has, of that part alone.
      param_bytes: bytes of these.
      input_bytes: bytes of all else that goes in.
      output_bytes: bytes of the outputs.
      intermediate_bytes: bytes of all other results, views of others (reshape, broadcast) left out,
        those of a loop once a turn. So much is written, and read at least once, if nothing is
        fused; a compiler keeps most of it out of memory.
    """

    flops: int
    macs: int
    by_primitive: dict[str, int]
    by_scope: dict[str, int]
    by_leaf: dict[str, int]
    comparisons: int
    uncounted: dict[str, int]
    params: int
    param_bytes: int
    input_bytes: int
    output_bytes: int
    intermediate_bytes: int
    _products: Products = field(repr=False)
    _like: PyTree = field(repr=False)

    @property
    def bytes_moved(self) -> int:
        """Bytes that must move at least once: params, inputs and outputs."""
        return self.param_bytes + self.input_bytes + self.output_bytes

    def sparse_flops(self, mask: PyTree) -> int:
        """FLOPs that a machine would do that skips every multiply-add with a pruned weight.

        That is `flops - sum(by_leaf[p] * (1 - density(mask[p])))`, where no product is of two
        leaves; of such a product the share `density * density` is left. A leaf of which a product
        uses a slice is taken to have its overall density in the slice. What masks make zero further
        on (a dead unit's activation) and the gradients of pruned weights still count.

        Args:
          mask: tree of bool arrays with the structure and shapes of params, or of its part
            ``params`` where it has one; True is kept.

        Returns:
          FLOPs, rounded to an integer.

        Raises:
          ValueError: with all leaf paths where mask and params differ, or that are not bool.
        """
        arrays = jax.tree.map(np.asarray, mask)
        kept = trees.leaves_like(arrays, self._like, name="mask", like_name="params")
        trees.check_bool(kept)
        pruned = {p: 1 - Fraction(int(a.sum()), a.size) if a.size else 0 for p, a in kept.items()}

        def density(origin: Origin) -> Fraction:
            return 1 - sum((share * pruned.get(path, 0) for path, share in origin), Fraction(0))

        skipped = sum(
            flops * (1 - density(lhs) * density(rhs))
            for (lhs, rhs), flops in self._products.items()
        )
        return round(self.flops - skipped)


def count(fn: Callable[..., Any], params: PyTree, *inputs: PyTree) -> Count:
    """Counts the floating-point operations of `fn(params, *inputs)` by tracing it.

    The rules per primitive are in `tsjax.flop_rules` and in docs/costs.md. A loop whose length the
    program does not fix (`while`) counts one turn, and is listed in `uncounted`; of a `cond`, the
    branch with the most flops counts.

    Args:
      fn: function of arrays, jitted or not; its outputs may be any tree of arrays.
      params: tree of arrays or `jax.ShapeDtypeStruct`; its leaves are the ones in `by_leaf`. A
        forecaster will do: `count(models.forecast, forecaster, *inputs)`.
      *inputs: further arguments: trees of arrays or `jax.ShapeDtypeStruct`.

    Returns:
      The count.
    """
    closed = jax.make_jaxpr(fn)(params, *inputs)
    paths = trees.paths(params)
    param_vars, input_vars = closed.jaxpr.invars[: len(paths)], closed.jaxpr.invars[len(paths) :]
    origins = [leaf(path) for path in paths] + [NOWHERE] * len(input_vars)
    tally, _ = walk(closed.jaxpr, origins, (), [True] * len(closed.jaxpr.outvars))

    leaves = [jax.ShapeDtypeStruct(var.aval.shape, var.aval.dtype) for var in param_vars]
    weights = [
        var for path, var in zip(paths, param_vars, strict=True) if trees.in_params(path)
    ] or param_vars
    total = sum(map(bytes_of, closed.jaxpr.invars))
    return Count(
        flops=tally.flops,
        macs=tally.macs,
        by_primitive=dict(tally.by_primitive),
        by_scope=dict(tally.by_scope),
        by_leaf=_by_leaf(paths, tally.products),
        comparisons=tally.comparisons,
        uncounted=dict(tally.uncounted),
        params=sum(map(size_of, weights)),
        param_bytes=sum(map(bytes_of, weights)),
        input_bytes=total - sum(map(bytes_of, weights)),
        output_bytes=sum(map(bytes_of, closed.jaxpr.outvars)),
        intermediate_bytes=tally.result_bytes - sum(map(bytes_of, _results(closed.jaxpr))),
        _products=tally.products,
        _like=jax.tree.unflatten(jax.tree.structure(params), leaves),
    )


def _results(jaxpr: core.Jaxpr) -> set[Any]:
    """The outputs that the program computes; an output that is a view counts as what it shows."""
    made_by = {var: eqn for eqn in jaxpr.eqns for var in eqn.outvars}
    found = set()
    for var in jaxpr.outvars:
        while not isinstance(var, core.Literal) and var in made_by:
            if made_by[var].primitive.name not in VIEWS:
                found.add(var)
                break
            var = made_by[var].invars[0]
    return found


def _by_leaf(paths: Sequence[str], products: Products) -> dict[str, int]:
    flops = dict.fromkeys(paths, Fraction(0))
    for (lhs, rhs), work in products.items():
        left, right = dict(lhs), dict(rhs)
        for path in left.keys() | right.keys():
            flops[path] += work * max(left.get(path, Fraction(0)), right.get(path, Fraction(0)))
    return {path: round(work) for path, work in flops.items()}
