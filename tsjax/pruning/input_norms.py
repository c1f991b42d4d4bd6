"""What a weight is multiplied by, for any function: the input norms of Wanda, without hooks.

The function is traced, and its program is run once more, equation by equation. Beside each value
it is noted whether the value is made of weights, that is of chosen leaves that have only been
rearranged, selected or scaled. Where such a value meets another one in a matrix product or
a convolution, the squares of what each of its entries multiplies are summed, and handed back
through the rearrangements to the leaves. This happens on the way forward: nothing is stored for
a backward pass, and a `while` loop is no obstacle.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.extend import core
from jax.interpreters import partial_eval

from tsjax import trees
from tsjax.jaxprs import CALLS, bodies
from tsjax.pruning import weight_rules
from tsjax.pruning.choice import Where, choose, kernels
from tsjax.pruning.weight_rules import Leaf, Rule, Value, Weight, place, zeros_like
from tsjax.trees import PyTree
from tsjax.wording import listing


def input_squares(
    fn: Callable[..., Any], params: PyTree, *inputs: Any, where: Where = kernels
) -> PyTree:
    """Sums the squares of what each weight multiplies (Sun et al., arXiv 2306.11695, eq. 1).

    The paper's norm ``||X_j||`` is the root of it. For a dense layer ``x @ w`` it is the sum of
    ``|x_j|^2`` over all rows of ``x``, the same for all outputs; for a convolution the sum over
    the positions at which an entry of the kernel meets ``x_j``, where padding is zero. A weight
    that is used more than once, tied or inside a loop, gets the sum over its uses. Sums over
    several batches are sums of trees, for :func:`tsjax.pruning.wanda`:

        squares_of = jax.jit(functools.partial(pruning.input_squares, fn))
        squares = squares_of(params, batches[0])
        for batch in batches[1:]:
            squares = jax.tree.map(jnp.add, squares, squares_of(params, batch))

    Weights are followed through reshaping, transposing, casting, slicing, joining, indexing,
    masking, and multiplication by a factor, which then belongs to what they multiply (a weight that
    ``fn`` masks gets zero); and through jit, vmap, remat, custom derivatives, ``scan``, ``while``
    and ``cond``. What they multiply is their input whether it depends on ``inputs`` or not:
    a learned query is the input of its projection. A product that is written as ``x * w`` and a sum
    is not recognised as one, nor is an embedding's look-up, whose rows are added to something: such
    leaves are refused.

    Args:
      fn: ``fn(params, *inputs)``, any function that JAX can trace, with any outputs. What no
        output depends on does not count.
      params: tree of arrays.
      *inputs: trees of arrays; close over what is static.
      where: the leaves to look at, see :data:`tsjax.pruning.Where`.

    Returns:
      A tree like ``params`` of real arrays, float32 or, with ``jax_enable_x64``, float64. A leaf
      that no output depends on gets zeros. Leaves that ``where`` does not choose, and integers,
      get NaN: they are unknown, and :func:`tsjax.pruning.select` refuses to rank them.

    Raises:
      ValueError: if a chosen leaf is also used in another way: in ``exp(w)``, in a sum, in
        a product of two chosen leaves, in a loop that changes it from turn to turn, or as an
        output. All such leaves are named, with primitive and source line.
    """
    trees.check_arrays(params)
    leaves = {
        path: Leaf(path)
        for path, leaf in choose(params, where).items()
        if jnp.issubdtype(leaf.dtype, jnp.inexact)
    }
    made_of = [frozenset({leaves[p]}) if p in leaves else None for p in trees.paths(params)]
    data = [jnp.asarray(x) for x in jax.tree.leaves((params, inputs))]
    values, squares = _sources(data, made_of + [None] * (len(data) - len(made_of)))
    for out in _run(_program(fn, params, inputs), values):
        if out.weight:
            out.weight.lose("returned by fn")
    if problems := [
        f"{x.path}: {listing(x.other_uses, 3)}" for x in leaves.values() if x.other_uses
    ]:
        raise ValueError(
            "these weights are used in other ways than in products:\n  "
            + "\n  ".join(problems)
            + "\nLeave them out with where=..., or use them in matrix products or convolutions only"
        )
    total = [
        squares[i] if i in squares else jnp.full_like(zeros_like(leaf), jnp.nan)
        for i, leaf in enumerate(jax.tree.leaves(params))
    ]
    return jax.tree.unflatten(jax.tree.structure(params), total)


_MadeOf = Sequence[frozenset[Leaf] | None]
"""The leaves that each of several values is made of; None for one that is not made of weights."""


def _program(fn: Callable[..., Any], params: PyTree, inputs: Any) -> core.ClosedJaxpr:
    """The program of ``fn``, without what no output depends on."""
    closed = jax.make_jaxpr(fn)(params, *inputs)
    live = [True] * len(closed.jaxpr.outvars)
    jaxpr, _ = partial_eval.dce_jaxpr(closed.jaxpr, live, instantiate=True)
    return core.ClosedJaxpr(jaxpr, closed.consts)


def _run(program: core.ClosedJaxpr, values: Sequence[Value]) -> list[Value]:
    """Runs a program on these values."""
    jaxpr = program.jaxpr
    known: dict[Any, Value] = dict(zip(jaxpr.constvars, map(Value, program.consts), strict=True))
    known.update(zip(jaxpr.invars, values, strict=True))

    def look_up(var: Any) -> Value:
        return Value(var.val) if isinstance(var, core.Literal) else known[var]

    for eqn in jaxpr.eqns:
        rule = _RULES.get(eqn.primitive.name)
        outs = weight_rules.apply_rule(rule, eqn, [look_up(var) for var in eqn.invars])
        known.update(zip(eqn.outvars, outs, strict=True))
    return [look_up(var) for var in jaxpr.outvars]


def _sources(data: Sequence[Any], made_of: _MadeOf) -> tuple[list[Value], dict[int, Array]]:
    """The inputs of a program where trails begin: of ``fn``, or of the body of a loop.

    Returns:
      The inputs, and the squares given to those that are made of weights, by position.
    """
    squares = {i: zeros_like(data[i]) for i, leaves in enumerate(made_of) if leaves}

    def source(i: int, leaves: frozenset[Leaf]) -> Weight:
        def give(more: Array) -> None:
            squares[i] = squares[i] + more

        return Weight(leaves, give)

    pairs = enumerate(zip(data, made_of, strict=True))
    return [Value(x, source(i, leaves) if leaves else None) for i, (x, leaves) in pairs], squares


def _made_of(values: Sequence[Value]) -> _MadeOf:
    return [value.weight.leaves if value.weight else None for value in values]


def _give(values: Sequence[Value], squares: dict[int, Array]) -> None:
    for i, more in squares.items():
        weight = values[i].weight
        assert weight
        weight.give(more)


def _call(eqn: core.JaxprEqn, ins: Sequence[Value]) -> list[Value]:
    """A program that runs once, where it stands."""
    (program,) = bodies(eqn)
    return _run(program, ins)


def _scan(eqn: core.JaxprEqn, ins: Sequence[Value]) -> list[Value]:
    """Squares of constants are summed over the turns, squares of what is scanned are stacked."""
    first, n_carry = eqn.params["num_consts"], eqn.params["num_carry"]
    last = first + n_carry
    data, made_of = [value.data for value in ins], _made_of(ins)

    def turn(state: Any, xs: list[Any]) -> Any:
        carry, total = state
        values, squares = _sources([*data[:first], *carry, *xs], made_of)
        outs = _run(eqn.params["jaxpr"], values)
        _check_turn(eqn, values[first:last], outs)
        total = {i: before + squares.pop(i) for i, before in total.items()}
        results = [out.data for out in outs]
        return (results[:n_carry], total), (results[n_carry:], squares)

    start = data[first:last], {i: zeros_like(data[i]) for i in range(last) if made_of[i]}
    options = {name: eqn.params[name] for name in ("length", "reverse", "unroll")}
    (carry, total), (ys, each) = lax.scan(turn, start, data[last:], **options)
    _give(ins, total | each)
    carried = [value.weight for value in ins[first:last]]
    return [*map(Value, carry, carried), *map(Value, ys)]


def _while(eqn: core.JaxprEqn, ins: Sequence[Value]) -> list[Value]:
    """Squares are summed over the turns, those of products in the condition as well."""
    n_cond, n_body = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    first = n_cond + n_body
    data, made_of = [value.data for value in ins], _made_of(ins)

    def run(which: str, consts: range, carry: list[Any], total: Any) -> Any:
        at = [*consts, *range(first, len(ins))]
        values, squares = _sources(
            [*data[consts.start : consts.stop], *carry], [made_of[i] for i in at]
        )
        outs = _run(eqn.params[which], values)
        total = total | {at[i]: total[at[i]] + more for i, more in squares.items()}
        return values[len(consts) :], outs, total

    def check(carry: list[Any], total: Any) -> Any:
        _, (go,), total = run("cond_jaxpr", range(n_cond), carry, total)
        return go.data, carry, total

    def turn(state: Any) -> Any:
        values, outs, total = run("body_jaxpr", range(n_cond, first), *state[1:])
        _check_turn(eqn, values, outs)
        return check([out.data for out in outs], total)

    # Nothing but a bool comes out of a condition: it is run in the body, where squares can be kept.
    start = {i: zeros_like(data[i]) for i, leaves in enumerate(made_of) if leaves}
    _, carry, total = lax.while_loop(lambda state: state[0], turn, check(data[first:], start))
    _give(ins, total)
    return [*map(Value, carry, [value.weight for value in ins[first:]])]


def _check_turn(eqn: core.JaxprEqn, carry: Sequence[Value], outs: Sequence[Value]) -> None:
    """A loop may hand on the weights that it carries, and make no others.

    Args:
      eqn: the loop.
      carry: what its body gets from the turn before.
      outs: what its body makes, first what the next turn gets.
    """
    before = [value.weight for value in carry] + [None] * (len(outs) - len(carry))
    for old, out in zip(before, outs, strict=True):
        if old and out.weight is not old:
            old.lose(f"changed from turn to turn by {place(eqn)}")
        elif out.weight and not old:
            out.weight.lose(f"given out by the body of {place(eqn)}")


def _cond(eqn: core.JaxprEqn, ins: Sequence[Value]) -> list[Value]:
    """The branch that is taken; weights may come out of it."""
    ins, index = ins[1:], ins[0].data
    data, made_of = [value.data for value in ins], _made_of(ins)
    leaves: dict[int, frozenset[Leaf]] = {}

    def switch(result: Callable[..., Any], *more: Any) -> Any:
        def run(program: core.ClosedJaxpr, data: Sequence[Any]) -> Any:
            values, squares = _sources(data, made_of)
            return result(_run(program, values), squares, *more)

        branches = [functools.partial(run, program) for program in eqn.params["branches"]]
        return lax.switch(index, branches, data)

    def count(outs: list[Value], squares: dict[int, Array]) -> Any:
        for i, out in enumerate(outs):
            if out.weight:
                leaves[i] = leaves.get(i, frozenset()) | out.weight.leaves
        return [out.data for out in outs], squares

    def hand_back(outs: list[Value], squares: dict[int, Array], which: int, more: Array) -> Any:
        # The branch's own products have been counted.
        squares.update(jax.tree.map(jnp.zeros_like, squares))
        if weight := outs[which].weight:
            weight.give(more)
        return squares

    def giver(which: int) -> Callable[[Array], None]:
        return lambda more: _give(ins, switch(hand_back, which, more))

    outs, squares = switch(count)
    _give(ins, squares)
    weights = {i: Weight(made, giver(i)) for i, made in leaves.items()}
    return [Value(out, weights.get(i)) for i, out in enumerate(outs)]


_RULES: dict[str, Rule] = {
    **weight_rules.RULES,
    **dict.fromkeys(CALLS, _call),
    "scan": _scan,
    "while": _while,
    "cond": _cond,
}
