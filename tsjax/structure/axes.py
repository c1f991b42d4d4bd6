"""What an axis of an array consists of, and which axes turn out to be the same.

An axis is an expression over *dims*, the unknowns of the analysis: a dim itself, a product of axes
(heads and their widths, flattened into one axis, the first factor varying slowest), or a sum of
axes (parts laid end to end). Equations of a program say that two axes are the same; ``unify``
takes them apart until only dims are left to be made the same (unification as in Robinson, 1965).

A dim that is frozen cannot be cut. What a frozen axis consists of no longer matters, so frozen
dims are never taken apart.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Union

import numpy as np

Axis = Union["Dim", "Product", "Sum"]


class Dim:
    """An unknown: so many units that are kept or cut one by one.

    Attributes:
      size: number of units.
      frozen: why it cannot be cut, or None.
      is_: the axis that it was found to be, or None.
    """

    __slots__ = ("frozen", "is_", "size")

    def __init__(self, size: int, frozen: Any = None) -> None:
        self.size: int = size
        self.frozen = frozen
        self.is_: Axis | None = None


class Product:
    """Axes flattened into one, the first of them varying slowest."""

    __slots__ = ("factors", "size")

    def __init__(self, factors: Sequence[Axis]) -> None:
        self.factors = tuple(factors)
        self.size: int = math.prod(factor.size for factor in factors)


class Sum:
    """Axes laid end to end."""

    __slots__ = ("parts", "size")

    def __init__(self, parts: Sequence[Axis]) -> None:
        self.parts = tuple(parts)
        self.size: int = sum(part.size for part in parts)


ONE = Product(())
"""An axis of one place, which belongs to nothing."""

# Rotated against itself, an axis falls apart into ever smaller parts: no cut would survive that.
_DEEPEST = 40


def product(factors: Sequence[Axis]) -> Axis:
    """These axes flattened into one."""
    flat: list[Axis] = []
    for factor in map(resolve, factors):
        flat += factor.factors if isinstance(factor, Product) else (factor,)
    return flat[0] if len(flat) == 1 else Product(flat) if flat else ONE


def total(parts: Sequence[Axis]) -> Axis:
    """These axes laid end to end."""
    flat: list[Axis] = []
    for part in map(resolve, parts):
        flat += part.parts if isinstance(part, Sum) else (part,) if part.size else ()
    return flat[0] if len(flat) == 1 else Sum(flat)


def resolve(axis: Axis) -> Axis:
    """The axis with everything filled in that is known by now."""
    if isinstance(axis, Dim):
        if axis.is_ is None:
            return axis
        axis.is_ = resolve(axis.is_)
        return axis.is_
    if isinstance(axis, Product):
        settled = all(isinstance(f, Dim) and f.is_ is None for f in axis.factors)
        return axis if settled else product(axis.factors)
    settled = all(isinstance(p, Dim) and p.is_ is None for p in axis.parts)
    return axis if settled else total(axis.parts)


def dims(axis: Axis) -> Iterator[Dim]:
    """The dims of an axis, as often as they occur."""
    axis = resolve(axis)
    if isinstance(axis, Dim):
        yield axis
    else:
        for inner in axis.factors if isinstance(axis, Product) else axis.parts:
            yield from dims(inner)


def freeze(axis: Axis, why: Any) -> None:
    """Freezes all dims of an axis that are not frozen yet."""
    for dim in dims(axis):
        if dim.frozen is None:
            dim.frozen = why


def frozen(axis: Axis) -> Any:
    """Why no unit of the axis can be cut; None where one can."""
    why = None
    for dim in dims(axis):
        if dim.frozen is None:
            return None
        why = why or dim.frozen
    return why


def merged(axis: Axis, known: dict[Any, Dim]) -> Axis:
    """The axis with one frozen dim for each sum of which no part can be cut.

    Args:
      axis: an axis, of a program that has been followed.
      known: the dims made so far, by their sizes and the dims that they replace.
    """
    axis = resolve(axis)
    if isinstance(axis, Product):
        return product([merged(factor, known) for factor in axis.factors])
    if isinstance(axis, Dim):
        return axis
    parts = [merged(part, known) for part in axis.parts]
    inner = tuple(dims(axis))
    if inner and all(dim.frozen for dim in inner):
        return known.setdefault((axis.size, inner), Dim(axis.size, inner[0].frozen))
    return total(parts)


def size_in(axis: Axis, sizes: Mapping[Dim, int]) -> int:
    """The size of an axis when these dims have other sizes than their own."""
    axis = resolve(axis)
    if isinstance(axis, Dim):
        return sizes.get(axis, axis.size)
    if isinstance(axis, Product):
        return math.prod(size_in(factor, sizes) for factor in axis.factors)
    return sum(size_in(part, sizes) for part in axis.parts)


def unify(a: Axis, b: Axis, why: Any, depth: int = 0) -> None:
    """Makes two axes of one size the same; where that cannot be followed, freezes both.

    Args:
      a: an axis.
      b: another one.
      why: the reason to give for what cannot be followed.
      depth: how many axes this one is a part of.
    """
    a, b = resolve(a), resolve(b)
    assert a.size == b.size, f"axes of {a.size} and {b.size} places cannot be the same"
    if a is b or a.size == 1:
        return
    for one, other in ((a, b), (b, a)):
        # Without any dim, it is places told apart one by one.
        if reason := why if next(dims(one), None) is None else frozen(one):
            freeze(other, reason)
            return
    if depth > _DEEPEST:
        freeze(a, why)
        freeze(b, why)
    elif isinstance(a, Dim):
        a.is_ = b
    elif isinstance(b, Dim):
        b.is_ = a
    elif isinstance(a, Product) and isinstance(b, Product):
        _unify_products(a, b, why, depth)
    else:
        ends = sorted(_ends(a) | _ends(b))
        sizes = [end - start for start, end in zip([0, *ends], ends, strict=False)]
        parts = zip(split(a, sizes, why), split(b, sizes, why), strict=True)
        for one, other in parts:
            unify(one, other, why, depth + 1)


def _ends(axis: Axis) -> set[int]:
    """Where the parts of an axis end."""
    ends, at = set(), 0
    for part in axis.parts if isinstance(axis, Sum) else (axis,):
        at += part.size
        ends.add(at)
    return ends


def _unify_products(a: Product, b: Product, why: Any, depth: int) -> None:
    left, right = list(a.factors), list(b.factors)
    while left and right:
        one, other = _next(left), _next(right)
        if one.size < other.size:
            left, right, one, other = right, left, other, one
        if one.size % other.size:
            for axis in (one, other, *left, *right):
                freeze(axis, why)
            return
        if one.size > other.size:
            one, rest = factor(one, other.size, why)
            left.insert(0, rest)
        unify(one, other, why, depth + 1)


def _next(factors: list[Axis]) -> Axis:
    """Takes the first factor off the list, which may turn out to be several."""
    first = resolve(factors.pop(0))
    if isinstance(first, Product):
        first, *rest = first.factors
        factors[:0] = rest
    return first


def factor(axis: Axis, size: int, why: Any) -> tuple[Axis, Axis]:
    """Takes an axis for a product, of which the first factor has this size: both factors."""
    axis, rest = resolve(axis), axis.size // size
    if rest == 1:
        return axis, ONE
    if isinstance(axis, Dim):
        if axis.frozen:
            return Dim(size, axis.frozen), Dim(rest, axis.frozen)
        pair = Dim(size), Dim(rest)
        axis.is_ = Product(pair)
        return pair
    if isinstance(axis, Product):
        heads, factors, have = list[Axis](), list(axis.factors), 1
        while have < size:
            head = _next(factors)
            if size % (have * head.size):
                if size % have or head.size % (size // have):
                    freeze(axis, why)
                    return Dim(size, why), Dim(rest, why)
                head, tail = factor(head, size // have, why)
                factors.insert(0, tail)
            heads.append(head)
            have *= head.size
        return product(heads), product(factors)
    first, *others = split(axis, [rest] * size, why)
    for other in others:
        unify(first, other, why, 1)
    return Dim(size, why), first


def split(axis: Axis, sizes: Sequence[int], why: Any) -> list[Axis]:
    """Takes an axis for a sum of parts of these sizes: the parts."""
    axis = resolve(axis)
    sizes = list(sizes)
    if reason := frozen(axis):
        return [Dim(size, reason) if size != 1 else ONE for size in sizes]
    if len([size for size in sizes if size]) == 1:
        return [axis if size else Dim(0) for size in sizes]
    if isinstance(axis, Sum):
        return _split_sum(axis, sizes, why)
    if max(sizes) == 1:
        # Told apart one by one.
        if isinstance(axis, Dim):
            freeze(axis, why)
            return [ONE if size else Dim(0) for size in sizes]
    elif isinstance(axis, Dim):
        parts: list[Axis] = [Dim(size) if size != 1 else ONE for size in sizes]
        axis.is_ = total(parts)
        return parts
    assert isinstance(axis, Product)
    first, rest = resolve(axis.factors[0]), product(axis.factors[1:])
    if all(size % rest.size == 0 for size in sizes):
        # The parts are whole multiples of what the first factor repeats.
        heads = split(first, [size // rest.size for size in sizes], why)
        return [product((head, rest)) if head.size else Dim(0) for head in heads]
    # Units of the first factor are told apart.
    freeze(first, why)
    return split(Sum([rest] * first.size), sizes, why)


def _split_sum(axis: Sum, sizes: Sequence[int], why: Any) -> list[Axis]:
    rest, found = list(axis.parts), []
    for size in sizes:
        taken, have = list[Axis](), 0
        while have < size:
            part = resolve(rest.pop(0))
            if isinstance(part, Sum):
                rest[:0] = part.parts
                continue
            if have + part.size > size:
                part, more = split(part, [size - have, have + part.size - size], why)
                rest.insert(0, more)
            taken.append(part)
            have += part.size
        found.append(total(taken) if taken else Dim(0))
    return found


def places(axis: Axis) -> list[tuple[Dim, np.ndarray]]:
    """The dims of an axis, each with its unit at every place, -1 where there is none.

    A dim is there twice only if some place belongs to two of its units.
    """
    axis = resolve(axis)
    if isinstance(axis, Dim):
        return [(axis, np.arange(axis.size))]
    found: list[tuple[Dim, np.ndarray]] = []
    if isinstance(axis, Product):
        repeats = 1
        for factor in axis.factors:
            last = axis.size // (repeats * factor.size)
            found += [(dim, np.tile(np.repeat(u, last), repeats)) for dim, u in places(factor)]
            repeats *= factor.size
        return found
    start = 0
    for part in axis.parts:
        for dim, units in places(part):
            here = np.full(axis.size, -1)
            here[start : start + part.size] = units
            alike = (
                i for i, (d, u) in enumerate(found) if d is dim and not (u[here >= 0] >= 0).any()
            )
            at = next(alike, None)
            if at is None:
                found.append((dim, here))
            else:
                found[at] = dim, np.maximum(found[at][1], here)
        start += part.size
    return found
