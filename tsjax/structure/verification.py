"""Whether a function works with smaller leaves: traced again, is it the same program?"""

import contextlib
import gc
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

from jax.extend import core

from tsjax.structure import axes
from tsjax.structure.axes import Dim, Sum
from tsjax.structure.comparing import DiffersError, check, check_outputs
from tsjax.structure.equations import Followed, Reason, line_of
from tsjax.structure.layout import Layout

Attempt = Callable[[Mapping[Dim, int]], Reason | None]
"""Why a function does not work with these sizes of dims, None if it does."""


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Turns the garbage collector off, which would take a sixth of an analysis."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def trial(
    trace: Callable[[Mapping[Dim, int]], core.ClosedJaxpr],
    followed: Followed,
    sizes: Mapping[Dim, int],
) -> Reason | None:
    """Why the function does not work with other sizes, None if it does.

    Args:
      trace: traces the function with these sizes.
      followed: the program of the function.
      sizes: the dims that have another size, and which.
    """
    try:
        other = trace(sizes)
        if any(size < _least(dim.size) for dim, size in sizes.items()):
            # Axes of one place are broadcast, and programs for them differ: it must do if it runs.
            check_outputs(followed, other)
        else:
            check(followed, other, sizes)
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

    All are tried at once, since most functions take every size from their params; what fails is
    looked for by halves.

    Args:
      layout: what the leaves consist of; its dims are frozen and tied.
      attempt: the function, traced with other sizes.
    """
    failing: dict[Dim, Reason] = {}
    passed = _free(layout)
    while found := _failing(attempt, passed):
        failing |= found
        passed = [dim for dim in passed if dim not in found]
    for dims in _candidates(layout, failing):
        together = [dim for dim in dict.fromkeys(dims) if dim in failing]
        if len(together) > 1 and not any(
            attempt(dict.fromkeys(together, size))
            for sizes in _sizings(together[:1])
            for size in sizes.values()
        ):
            for dim in together:
                axes.unify(together[0], dim, None)
            for dim in dims:
                failing.pop(dim, None)
    for dim, why in failing.items():
        dim.frozen = why
    while (free := _free(layout)) != passed and (found := _failing(attempt, free)):
        for dim, why in found.items():
            dim.frozen = why


def _free(layout: Layout) -> list[Dim]:
    return [dim for dim in layout.dims() if dim.frozen is None]


def _failing(attempt: Attempt, dims: Sequence[Dim]) -> dict[Dim, Reason]:
    """Some of these dims that cannot have other sizes, and why; none if all can at once."""
    for sizes in _sizings(dims):
        if reason := attempt(sizes):
            return _by_halves(attempt, sizes, reason) or _one_by_one(attempt, sizes)
    return {}


def _by_halves(attempt: Attempt, sizes: Mapping[Dim, int], reason: Reason) -> dict[Dim, Reason]:
    """The dims that fail while all others keep their sizes."""
    if len(sizes) == 1:
        return dict.fromkeys(sizes, reason)
    found: dict[Dim, Reason] = {}
    pairs, middle = [*sizes.items()], len(sizes) // 2
    for half in (dict(pairs[:middle]), dict(pairs[middle:])):
        if why := attempt(half):
            found |= _by_halves(attempt, half, why)
    return found


def _one_by_one(attempt: Attempt, sizes: Mapping[Dim, int]) -> dict[Dim, Reason]:
    """The dims that fail only together: each that fails beside those before it that pass."""
    good: dict[Dim, int] = {}
    found: dict[Dim, Reason] = {}
    for dim, size in sizes.items():
        if reason := attempt({**good, dim: size}):
            found[dim] = reason
        else:
            good[dim] = size
    return found


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
    """Other sizes to try, for all dims at once.

    Each dim has one unit less in some try, almost none in another, and about half. Dims that the
    code ties, not the dataflow, must not pass: any two of one size differ in some try, and
    neighbours move in opposite directions, as the parts of ``h[: c // 2]`` and ``h[c // 2 :]``
    never may, one way and then the other. Three units leave one size untried, 1.
    """
    ranks: dict[tuple[int, int], list[Dim]] = {}
    for i, dim in enumerate(dims):
        ranks.setdefault((dim.size, i % 2), []).append(dim)
    words: dict[Dim, Sequence[int]] = {}
    for tries in itertools.count(2):
        for (size, odd), alike in ranks.items():
            words.update(zip(alike, _words(size, tries, mirrored=bool(odd)), strict=False))
        if len(words) == len(dims):
            break
    for sizes in zip(*words.values(), strict=True):
        if other := {d: size for d, size in zip(words, sizes, strict=True) if size != d.size}:
            yield other
    if three := [dim for dim in dims if dim.size == 3]:
        yield dict.fromkeys(three, 1)


def _words(size: int, tries: int, *, mirrored: bool) -> Iterator[Sequence[int]]:
    """Sequences of sizes, one size for each try; each dim of this size gets another sequence."""
    high, low = size - 1, _least(size) if _least(size) < size - 1 else size
    between = sorted(range(low + 1, high), key=lambda n: (abs(n - size / 2), n))[:_HALVES]
    mirror = {high: low, low: high} if mirrored else {}
    for word in itertools.product(dict.fromkeys((high, low, *between, size)), repeat=tries):
        ends = high in word and low in word[word.index(high) :]
        if ends and (not between or any(low < n < high for n in word)):
            yield [mirror.get(n, n) for n in word]


_HALVES = 16


def _least(size: int) -> int:
    """The smallest size for which the program must be the same."""
    return min(2, size - 1)
