"""Primitives that draw random numbers, and those that make keys."""

from collections.abc import Sequence

from tsjax.structure.equations import Axes, Equation
from tsjax.structure.primitives.record import Primitive, anything
from tsjax.structure.units import Filled, Units


def _random(eqn: Equation) -> list[Axes]:
    """Keys keep their axes; those of what is drawn may have any size."""
    (shape,), keys = eqn.out_shapes, eqn.ins[0]
    drawn = [eqn.new(size) for size in shape[len(keys) :]]
    eqn.expect("shape", drawn)
    return [(*keys, *drawn)]


def _wrap(eqn: Equation) -> list[Axes]:
    """The words of a key become one."""
    (shape,), keys = eqn.out_shapes, eqn.ins[0]
    for at in range(len(shape), len(keys)):
        eqn.freeze(0, at, "the words of one key")
    return [keys[: len(shape)]]


def _unwrap(eqn: Equation) -> list[Axes]:
    """A key becomes its words."""
    (shape,), keys = eqn.out_shapes, eqn.ins[0]
    return [(*keys, *(eqn.fixed(size, "the words of one key") for size in shape[len(keys) :]))]


def _uniform(eqn: Equation) -> list[Axes]:
    """The axes of what is drawn may have any size."""
    drawn = tuple(eqn.new(size) for size in eqn.out_shapes[0])
    eqn.expect("shape", drawn)
    return [drawn]


def _bit_generator(eqn: Equation) -> list[Axes]:
    """The axes of what is drawn may have any size; its state keeps its own."""
    drawn = tuple(eqn.new(size) for size in eqn.out_shapes[1])
    eqn.expect("shape", drawn)
    return [eqn.ins[0], drawn]


def _drawn_for_each_key(units: Units, eqn: Equation, filled: Sequence[Filled]) -> bool:
    """What is drawn depends on how many numbers are, along axes that the key has not."""
    del filled
    return units.hold_whole(eqn.outs[0][len(eqn.ins[0]) :])


def _drawn_at_once(units: Units, eqn: Equation, filled: Sequence[Filled]) -> bool:
    """What is drawn depends on how many numbers are."""
    del filled
    return units.hold_whole(eqn.outs[-1])


DRAWING: dict[str, Primitive] = {
    **dict.fromkeys(
        ("random_bits", "random_split"), Primitive(_random, anything, _drawn_for_each_key)
    ),
    "random_seed": Primitive(_random, anything),
    "random_wrap": Primitive(_wrap, anything),
    "random_unwrap": Primitive(_unwrap, anything),
    "rng_uniform": Primitive(_uniform, anything, _drawn_at_once),
    "rng_bit_generator": Primitive(_bit_generator, anything, _drawn_at_once),
}
