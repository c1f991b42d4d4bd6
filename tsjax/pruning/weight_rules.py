"""What one equation of a program does with weights: move, scale or multiply them, or lose track.

Each rule computes an equation's outputs, and says which of them are made of weights and where the
squares of what multiplies these weights go.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.extend import core, source_info_util

from tsjax.jaxprs import CASTS, HANDED_ON, REARRANGED, bind
from tsjax.wording import listing


@dataclass(eq=False)
class Leaf:
    """A leaf of the params, and how it is used other than in products."""

    path: str
    other_uses: list[str] = field(default_factory=list)


class Weight(NamedTuple):
    """What is known of a value that is made of weights.

    Attributes:
      leaves: what it is made of.
      give: hands squares, an array of the value's shape, to the leaves.
    """

    leaves: frozenset[Leaf]
    give: Callable[[Array], None]

    def lose(self, use: str) -> None:
        """Notes that the leaves are used in a way in which they cannot be followed."""
        for leaf in self.leaves:
            if use not in leaf.other_uses:
                leaf.other_uses.append(use)


class Value(NamedTuple):
    """An array, and what is known of it if it is made of weights."""

    data: Any
    weight: Weight | None = None


Rule = Callable[[core.JaxprEqn, Sequence[Value]], list[Value]]
"""``rule(eqn, inputs) -> outputs``."""


def apply_rule(rule: Rule | None, eqn: core.JaxprEqn, ins: Sequence[Value]) -> list[Value]:
    """The outputs of an equation; its weights are lost if there is no rule for it."""
    if not any(value.weight for value in ins):
        return _plain(eqn, ins)
    return (rule or lose)(eqn, ins)


def lose(eqn: core.JaxprEqn, ins: Sequence[Value]) -> list[Value]:
    """The end of a weight's trail."""
    for value in ins:
        if value.weight:
            value.weight.lose(f"used by {place(eqn)}")
    return _plain(eqn, ins)


def place(eqn: core.JaxprEqn) -> str:
    """The primitive and the source line."""
    line = source_info_util.summarize(eqn.source_info)
    return f"`{eqn.primitive.name}` at {line or 'an unknown line'}"


def union(weights: Iterable[Weight]) -> frozenset[Leaf]:
    """The leaves that any of these is made of."""
    return frozenset().union(*(weight.leaves for weight in weights))


def zeros_like(x: Any) -> Array:
    """Squares of nothing, in an array of the shape of ``x``."""
    return jnp.zeros(jnp.shape(x), _dtype())


def _dtype() -> Any:
    return jnp.result_type(float)


def _squared(x: Any) -> Array:
    if jnp.iscomplexobj(x):
        return _squared(jnp.real(x)) + _squared(jnp.imag(x))
    return jnp.square(jnp.asarray(x, _dtype()))


def _plain(eqn: core.JaxprEqn, ins: Sequence[Value]) -> list[Value]:
    return [Value(out) for out in bind(eqn, *(value.data for value in ins))]


def _same(eqn: core.JaxprEqn, ins: Sequence[Value]) -> list[Value]:
    """Each output is an input, up to sign and precision."""
    dtype = eqn.params.get("new_dtype", jnp.float32)
    if not jnp.issubdtype(dtype, jnp.inexact):
        return lose(eqn, ins)
    outs = _plain(eqn, ins)
    return [Value(out.data, value.weight) for out, value in zip(outs, ins, strict=True)]


def _complex(eqn: core.JaxprEqn, ins: Sequence[Value]) -> list[Value]:
    """What multiplies a complex number multiplies both of its parts."""
    weights = [value.weight for value in ins if value.weight]

    def give(squares: Array) -> None:
        for weight in weights:
            weight.give(squares)

    (out,) = _plain(eqn, ins)
    return [Value(out.data, Weight(union(weights), give))]


def _linear(places: slice) -> Rule:
    """The rule of a primitive that is linear in the operands at these places, together.

    The others are indices and masks, which are no weights: those are never cast to an integer.
    """

    def rule(eqn: core.JaxprEqn, ins: Sequence[Value]) -> list[Value]:
        linear = range(len(ins))[places]
        operands = [zeros_like(v.data) if i in linear else v.data for i, v in enumerate(ins)]
        return _follow(eqn, ins, operands)

    return rule


def _scale(eqn: core.JaxprEqn, ins: Sequence[Value]) -> list[Value]:
    """The factor belongs to what the weight multiplies; so does the inverse of a divisor."""
    factor = 0 if eqn.primitive.name == "mul" and ins[1].weight else 1
    if ins[factor].weight:
        return lose(eqn, ins)
    return _follow(eqn, ins, [_squared(value.data) for value in ins])


def _follow(eqn: core.JaxprEqn, ins: Sequence[Value], operands: Sequence[Any]) -> list[Value]:
    """The outputs, whose squares go where a linear primitive takes its entries from.

    Args:
      eqn: the equation.
      ins: its inputs.
      operands: what stands for them among squares; not read where they are weights.
    """
    weights = {i: value.weight for i, value in enumerate(ins) if value.weight}

    def moved(entries: dict[int, Array]) -> list[Array]:
        return bind(eqn, *(entries.get(i, operand) for i, operand in enumerate(operands)))

    def giver(which: int) -> Callable[[Array], None]:
        def give(squares: Array) -> None:
            outs, pull = jax.vjp(moved, {i: zeros_like(ins[i].data) for i in weights})
            each = [squares if i == which else jnp.zeros_like(out) for i, out in enumerate(outs)]
            for i, part in pull(each)[0].items():
                weights[i].give(part)

        return give

    leaves = union(weights.values())
    outs = enumerate(_plain(eqn, ins))
    return [Value(out.data, Weight(leaves, giver(i))) for i, out in outs]


def _product(eqn: core.JaxprEqn, ins: Sequence[Value]) -> list[Value]:
    """Sums the squares of what the weights multiply."""
    left, right = (value.weight for value in ins[:2])
    data = [value.data for value in ins]
    if left and right:
        for weight, other in ((left, right), (right, left)):
            paths = listing(sorted(leaf.path for leaf in other.leaves))
            weight.lose(f"multiplied by {paths} in {place(eqn)}")
    elif left:
        left.give(_met(eqn, data, 0))
    elif right:
        right.give(_met(eqn, data, 1))
    return _plain(eqn, ins)


def _met(eqn: core.JaxprEqn, data: Sequence[Any], side: int) -> Array:
    """Sums of squares of what meets each entry of the operand on this side of a product."""
    shape = jnp.shape(data[side])
    x = _squared(data[1 - side])
    if eqn.primitive.name == "dot_general":
        contracted, batch = eqn.params["dimension_numbers"]
        of_w, of_x = ((*contracted[i], *batch[i]) for i in (side, 1 - side))
        axis_in_x = dict(zip(of_w, of_x, strict=True))
        free = [axis for axis in range(x.ndim) if axis not in of_x]
        x = jnp.transpose(x, free + [axis_in_x[axis] for axis in sorted(of_w)])
        return lax.broadcast_in_dim(jnp.sum(x, range(len(free))), shape, sorted(of_w))

    # The others' geometry is left to their own derivative.
    def product(w: Array) -> Array:
        operands = (w, x) if side == 0 else (x, w)
        exact = {"precision": (lax.Precision.HIGHEST,) * 2, "preferred_element_type": x.dtype}
        return bind(eqn, *operands, *data[2:], **exact)[0]

    out, pull = jax.vjp(product, jnp.zeros(shape, x.dtype))
    return pull(jnp.ones_like(out))[0]


# Operations that move, select, scale or multiply weights; any other ends their trail.
RULES: dict[str, Rule] = {
    **dict.fromkeys((*HANDED_ON, *CASTS, "neg", "conj"), _same),
    **{name: _linear(places) for name, places in REARRANGED.items()},
    "gather": _linear(slice(1)),
    "dynamic_update_slice": _linear(slice(2)),
    # The indices lie between the array and the updates.
    "scatter": _linear(slice(0, 3, 2)),
    "complex": _complex,
    **dict.fromkeys(("mul", "div"), _scale),
    **dict.fromkeys(("dot_general", "ragged_dot_general", "conv_general_dilated"), _product),
    # What is printed goes nowhere.
    **dict.fromkeys(("debug_callback", "debug_print"), _plain),
}
