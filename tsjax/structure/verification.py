"""Whether a function works with smaller leaves: traced again, is it the same program?"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax

from tsjax.structure import axes
from tsjax.structure.axes import Dim, Sum
from tsjax.structure.equations import Reason, line_of
from tsjax.structure.layout import Layout
from tsjax.structure.programs import DiffersError, check, check_outputs

Attempt = Callable[[Mapping[Dim, int]], Reason | None]
"""Why a function does not work with these sizes of dims, None if it does."""


def trial(
    fn: Callable[..., Any], inputs: Sequence[Any], layout: Layout, sizes: Mapping[Dim, int]
) -> Reason | None:
    """Why the function does not work with other sizes, None if it does."""
    try:
        program = jax.make_jaxpr(fn)(layout.resized(sizes), *inputs)
        if any(size < _least(dim.size) for dim, size in sizes.items()):
            # Axes of one place are broadcast, and programs for them differ: it must do if it runs.
            check_outputs(layout.program, program)
        else:
            check(layout.program, program, sizes)
    except DiffersError as differs:
        return differs.reason
    # What a function may raise for a shape that it does not expect is anything.
    except Exception as error:
        frames, traceback = [], error.__traceback__
        while traceback:
            code = traceback.tb_frame.f_code
            frames.append((code.co_filename, traceback.tb_lineno, code.co_qualname))
            traceback = traceback.tb_next
        # The first line may only announce what follows.
        message = " ".join(line.strip() for line in str(error).strip().split("\n")[:2])
        line = line_of([f for f in frames[::-1] if f[0] != __file__])
        return Reason("size", line=line, detail=f"{type(error).__name__}: {message}")
    return None


def settle(layout: Layout, attempt: Attempt) -> None:
    """Finds the dims that cannot have another size: ties them to one another, or freezes them.

    All are tried at once, since most functions take every size from their params, and by halves
    only where that fails.

    Args:
      layout: what the leaves consist of; its dims are frozen and tied.
      attempt: the function, traced with other sizes.
    """
    failing: dict[Dim, Reason] = {}

    def fails(*classes: Sequence[Dim]) -> Reason | None:
        """Why these cannot be cut at once, the dims of one class always alike."""
        for sizes in _sizings([dims[0] for dims in classes]):
            every = {dim: sizes[dims[0]] for dims in classes for dim in dims}
            if reason := attempt(every):
                return reason
        return None

    def search(some: Sequence[Dim]) -> None:
        if not some or not (reason := fails(*([dim] for dim in some))):
            return
        if len(some) == 1:
            failing[some[0]] = reason
            return
        search(some[: len(some) // 2])
        search(some[len(some) // 2 :])

    free = [dim for dim in layout.dims() if dim.frozen is None]
    search(free)
    for dims in _candidates(layout, failing):
        together = [dim for dim in dict.fromkeys(dims) if dim in failing]
        if len(together) > 1 and not fails(together):
            for dim in together:
                axes.unify(together[0], dim, None)
            for dim in dims:
                failing.pop(dim, None)
    for dim, why in failing.items():
        dim.frozen = why
    rest = [dim for dim in layout.dims() if dim.frozen is None]
    if rest == free or not fails(*([dim] for dim in rest)):
        return
    # Each by itself can be cut, but not all of them together.
    good: list[Dim] = []
    for dim in rest:
        if reason := fails(*([other] for other in [*good, dim])):
            dim.frozen = reason
        else:
            good.append(dim)


_NEIGHBOURS = 4


def _candidates(layout: Layout, failing: Mapping[Dim, Reason]) -> Iterator[list[Dim]]:
    """Dims of one size that the code might tie: parts of one axis first, then neighbours.

    What has been tied by the time that it comes up is no longer failing.
    """
    for leaf in layout.leaves.values():
        for axis in leaf:
            parts = axes.resolve(axis)
            if isinstance(parts, Sum):
                inner = [list(axes.dims(part)) for part in parts.parts if part.size > 1]
                for dims in zip(*inner, strict=False):
                    if len({dim.size for dim in dims}) == 1:
                        yield list(dims)
    order = list(failing)
    for i, dim in enumerate(order):
        alike = [other for other in order[i + 1 :] if other.size == dim.size]
        for other in alike[:_NEIGHBOURS]:
            yield [dim, other]


def _sizings(dims: Sequence[Dim]) -> Iterator[dict[Dim, int]]:
    """Sizes to try, for all dims at once: one unit less; about half; nearly all or nothing.

    Dims that the code ties, not the dataflow, must not pass. Any two of one size differ in one of
    the tries after the first: their sizes there are the digits of their rank. Where a size has no
    digits left, neighbours move in opposite directions, as the parts of ``h[: c // 2]`` and
    ``h[c // 2 :]`` never may, one way and then the other. Three units leave one size untried, 1.
    """
    yield {dim: dim.size - 1 for dim in dims}
    counts: dict[int, int] = {}
    ranks = []
    for dim in dims:
        ranks.append(counts.get(dim.size, 0))
        counts[dim.size] = ranks[-1] + 1
    turn = 0
    while turn == 0 or counts or (turn < 3 and len(dims) > 1):
        sizes = {}
        for i, dim in enumerate(dims):
            choices = _near_half(dim.size)
            ranks[i], digit = divmod(ranks[i], len(choices))
            ends = _least(dim.size), dim.size
            sizes[dim] = choices[digit] if dim.size in counts else ends[(i + turn) % 2]
        yield sizes
        left = {size: -(-count // len(_near_half(size))) for size, count in counts.items()}
        counts = {size: count for size, count in left.items() if count > 1}
        turn += 1
    if any(dim.size == 3 for dim in dims):
        yield {dim: 1 if dim.size == 3 else dim.size for dim in dims}


def _least(size: int) -> int:
    """The smallest size for which the program must be the same."""
    return min(2, size - 1)


@functools.cache
def _near_half(size: int) -> list[int]:
    """Sizes to try, those nearest to half first."""
    return sorted(range(_least(size), size + 1), key=lambda n: (abs(n - size / 2), n))
