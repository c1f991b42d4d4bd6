"""Random small networks: layers drawn one after another, each on arrays that are there by then."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from hypothesis import strategies as st
from random_layers import ALWAYS, KEEPS, LAYERS, VOCABULARY, Layer

B, L, C = 2, 4, 3


@contextlib.contextmanager
def double_precision():
    """Else a network that magnifies rounding could not be told from one that is cut wrongly.

    For all threads, unlike ``jax.enable_x64``: callbacks run in those of XLA.
    """
    jax.config.update("jax_enable_x64", True)
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", False)


INPUTS = (
    np.random.default_rng(0).normal(size=(B, L, C)),
    np.random.default_rng(1).integers(VOCABULARY, size=(B, L)),
)
SIZES = (1, 2, 3, 4, 5, 5, 6, 6, 7, 8)
LARGEST = 1500
"""Number of elements of an array, and of a leaf."""


@dataclass(frozen=True)
class Step:
    """A layer as a network has it: which arrays it takes, the number in it."""

    layer: Layer
    operands: tuple[int, ...]
    n: int

    def __call__(self, arrays: Sequence[Any], ids: Any, leaves: Sequence[Any]) -> tuple[Any, ...]:
        operands = [arrays[i] for i in self.operands]
        if self.layer.second == "ids":
            operands.insert(0, ids)
        found = self.layer.run(*operands, self.n, *leaves)
        return found if isinstance(found, tuple) else (found,)

    def __str__(self) -> str:
        return f"{self.layer.name} of arrays {list(self.operands)}, n={self.n}"


@dataclass(frozen=True)
class End:
    """How an array becomes an output: as it is, by one of its axes or all of them flattened."""

    array: int
    how: str
    lead: int

    def __str__(self) -> str:
        return f"array {self.array} ({self.how})"

    def __call__(self, arrays: Sequence[Any], leaves: Sequence[Any]) -> Any:
        h = arrays[self.array]
        if self.how == "as it is":
            return h
        if self.how == "sum":
            return h.sum(-1)
        if self.how == "flat":
            h = h.reshape(*h.shape[: self.lead], -1)
        return h @ leaves[0]


@dataclass(frozen=True, eq=False)
class Network:
    """``network(params, *INPUTS)``; params has the leaves of each step, and of each output."""

    steps: tuple[Step, ...]
    ends: tuple[End, ...]
    params: dict[str, Any]

    def __repr__(self) -> str:
        lines = [f"[{i}] {step}" for i, step in enumerate(self.steps)]
        lines += [f"-> {end}" for end in self.ends]
        lines += [f"{name}: {[w.shape for w in leaves]}" for name, leaves in self.params.items()]
        return "\n  ".join(["Network", *lines])

    def _repr_pretty_(self, printer: Any, _: bool) -> None:
        """Hypothesis would print the fields of a dataclass."""
        printer.text(repr(self))

    def __call__(self, params: dict[str, Any], x: Any, ids: Any) -> dict[str, Any]:
        # The suite forbids rank promotion, users' models are full of it.
        with jax.numpy_rank_promotion("allow"):
            arrays = [x]
            for name, step in zip(params, self.steps, strict=False):
                arrays += step(arrays, ids, params[name])
            names = [f"out{i}" for i in range(len(self.ends))]
            pairs = zip(names, self.ends, strict=True)
            return {name: end(arrays, params[name]) for name, end in pairs}

    @property
    def random(self) -> bool:
        return any(step.layer.random for step in self.steps)

    @property
    def unknown(self) -> dict[str, str]:
        """{path of a leaf: the primitive without a rule that its last axis goes into}."""
        names = zip(self.params, self.steps, strict=False)
        return {f"{name}/0": step.layer.unknown for name, step in names if step.layer.unknown}


@dataclass(frozen=True)
class Array:
    """What is known of an array while a network is drawn.

    Attributes:
      shape: its shape.
      zero: whether places of cut units are zero if their weights are.
      lead: how many leading axes are those of the inputs.
    """

    shape: tuple[int, ...]
    zero: bool
    lead: int


@st.composite
def networks(draw: Callable[..., Any], *, exact: bool = False, must: Layer | None = None):
    """Networks of 2 to 9 layers.

    Args:
      draw: Hypothesis's.
      exact: only layers in which a unit that is cut and one whose weights are zero are the same.
      must: a layer that comes first.
    """
    allowed = [layer for layer in LAYERS if layer.exact or not exact]
    arrays, steps, params = [Array((B, L, C), False, 2)], list[Step](), dict[str, Any]()
    unused = [0]
    # Hypothesis leaves layers out of a network that fails, but it does not choose them: it would
    # choose the same few again and again.
    seed = draw(st.tuples(*[st.integers(0, 2**16)] * 4))
    for turn in range(9):
        if not draw(st.integers(0, 3)) and not (must and not steps):
            continue
        rng = np.random.default_rng((*seed, turn))
        layer = must if must and not steps else allowed[rng.integers(len(allowed))]
        n, d = int(rng.integers(layer.most)) + 1, int(rng.choice(SIZES))
        step = _placed(rng, layer, arrays, n, exact)
        if step is None:
            continue
        operands = [arrays[i] for i in step.operands]
        last = operands[-1]
        leaves = _leaves(layer.leaves(last.shape, d, n), rng, len(steps))
        shapes = _shapes_after(step, arrays, leaves)
        if any(np.prod(shape) > LARGEST or 0 in shape for shape in shapes):
            continue
        name = f"{len(steps):02d}_{layer.name}"
        params[name] = leaves
        steps.append(step)
        unused = [i for i in unused if i not in step.operands]
        zero = layer.zero == ALWAYS or (
            layer.zero == KEEPS and all(array.zero for array in operands)
        )
        for shape in shapes:
            unused.append(len(arrays))
            arrays.append(Array(shape, zero, last.lead + layer.lead))
    ends, rng = list[End](), np.random.default_rng(len(steps))
    for i in unused[-4:]:
        array = arrays[i]
        how = str(rng.choice(["last"] * 4 + ["flat", "sum", "as it is"]))
        if how == "sum" and exact and not array.zero:
            how = "last"
        rows = array.shape[-1] if how == "last" else int(np.prod(array.shape[array.lead :]))
        params[f"out{len(ends)}"] = _leaves(
            ((rows, 2),) if how in ("last", "flat") else (), rng, len(ends)
        )
        ends.append(End(i, how, array.lead))
    return Network(tuple(steps), tuple(ends), params)


def _placed(
    rng: np.random.Generator, layer: Layer, arrays: list[Array], n: int, exact: bool
) -> Step | None:
    """The layer on an array, the latest ones first, that it works for."""

    def fits(array: Array) -> bool:
        if exact and layer.reads_zeros and not array.zero:
            return False
        return (not layer.length or array.lead == 2) and layer.when(array.shape, n)

    some = [i for i, array in enumerate(arrays) if fits(array)][::-1]
    if not some:
        return None
    chosen = int(rng.choice(some))
    if layer.second not in ("same", "lead"):
        return Step(layer, (chosen,), n)
    cut = None if layer.second == "same" else -1
    others = [i for i in some if arrays[i].shape[:cut] == arrays[chosen].shape[:cut]]
    return Step(layer, (int(rng.choice(others)), chosen), n)


def _leaves(wanted: Sequence[Any], rng: np.random.Generator, turn: int) -> Any:
    """Arrays of these shapes, about as large as keeps what passes through them at its size."""
    leaves = []
    for shape in wanted:
        if isinstance(shape, np.ndarray):
            leaves.append(shape)
        else:
            leaves.append(rng.normal(size=shape) / max(1, np.prod(shape[:-1])) ** 0.5)
    return leaves if turn % 2 else tuple(leaves)


def _shapes_after(step: Step, arrays: list[Array], leaves: Any) -> list[tuple[int, ...]]:
    structs = [jax.ShapeDtypeStruct(array.shape, np.float64) for array in arrays]
    with jax.numpy_rank_promotion("allow"):
        found = jax.eval_shape(step, structs, INPUTS[1], leaves)
    return [tuple(each.shape) for each in found]
