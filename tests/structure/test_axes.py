"""What axes consist of: hand cases, and random descriptions of one axis."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsjax.structure import axes
from tsjax.structure.axes import ONE, Dim, Product, Sum, places

WHY = "they cannot be followed"


def dims(*sizes):
    return [Dim(size) for size in sizes]


def plain(axis, names):
    """An axis as nested tuples of the names of its dims."""
    axis = axes.resolve(axis)
    if isinstance(axis, Dim):
        return names[axis]
    if isinstance(axis, Product):
        return ("*", *(plain(factor, names) for factor in axis.factors))
    return ("+", *(plain(part, names) for part in axis.parts))


def named(**known):
    return {dim: name for name, dim in known.items()}


def units(axis):
    """For each dim of an axis its unit at every place, as lists."""
    return [(dim, found.tolist()) for dim, found in places(axis)]


def same(a, b):
    """Whether two axes have the same dims at the same places."""

    def table(axis):
        found = {}
        for dim, each in places(axis):
            if dim.size > 1:
                found.setdefault(dim, []).append(tuple(each))
        return {dim: sorted(each) for dim, each in found.items()}

    return table(a) == table(b)


def free(axis):
    return all(dim.frozen is None for dim in axes.dims(axis))


# Products and sums.


def test_products_and_sums_are_flat():
    a, b, c = dims(2, 3, 5)
    names = named(a=a, b=b, c=c)
    assert plain(axes.product([a, Product([b, c])]), names) == ("*", "a", "b", "c")
    assert plain(axes.total([a, Sum([b, c])]), names) == ("+", "a", "b", "c")
    assert axes.product([a, Product([b, c])]).size == 30
    assert axes.total([a, Sum([b, c])]).size == 10
    assert axes.product([a]) is a
    assert axes.total([a]) is a
    assert axes.product([]) is ONE
    assert axes.total([a, Dim(0)]) is a


def test_the_first_factor_varies_slowest():
    a, b = dims(2, 3)
    assert units(Product([a, b])) == [(a, [0, 0, 0, 1, 1, 1]), (b, [0, 1, 2, 0, 1, 2])]


def test_parts_lie_end_to_end():
    a, b = dims(2, 3)
    assert units(Sum([a, b, a])) == [
        (a, [0, 1, -1, -1, -1, 0, 1]),
        (b, [-1, -1, 0, 1, 2, -1, -1]),
    ]


def test_places_of_a_sum_in_a_product():
    h, q, k = dims(2, 1, 2)
    assert units(Product([h, Sum([q, k])])) == [
        (h, [0, 0, 0, 1, 1, 1]),
        (q, [0, -1, -1, 0, -1, -1]),
        (k, [-1, 0, 1, -1, 0, 1]),
    ]


def test_a_dim_that_a_place_has_twice_is_listed_twice():
    (a,) = dims(2)
    assert units(Product([a, a])) == [(a, [0, 0, 1, 1]), (a, [0, 1, 0, 1])]


def test_sizes_follow_those_of_dims():
    h, e, f = dims(4, 3, 5)
    axis = Sum([Product([h, e]), f, Product([h, h])])
    assert axes.size_in(axis, {}) == 12 + 5 + 16 == axis.size
    assert axes.size_in(axis, {h: 2}) == 6 + 5 + 4
    assert axes.size_in(axis, {h: 3, e: 1, f: 2}) == 3 + 2 + 9
    assert axes.size_in(ONE, {h: 2}) == 1


def test_resolve_fills_in_what_became_known():
    a, b, c, d = dims(6, 2, 3, 5)
    outer = Product([d, a])
    axes.unify(a, Product([b, c]), WHY)
    assert plain(outer, named(b=b, c=c, d=d)) == ("*", "d", "b", "c")
    assert list(axes.dims(outer)) == [d, b, c]


# Unification.


def test_dims_become_the_same():
    a, b, c = dims(4, 4, 4)
    axes.unify(a, b, WHY)
    axes.unify(b, c, WHY)
    assert axes.resolve(a) is axes.resolve(b) is axes.resolve(c)
    assert free(a)


def test_heads_and_their_width():
    width, h, e = dims(12, 3, 4)
    axes.unify(width, Product([h, e]), WHY)
    assert units(width) == [(h, np.repeat(range(3), 4).tolist()), (e, list(range(4)) * 3)]
    other_h, other_e = dims(3, 4)
    axes.unify(Product([other_h, other_e]), width, WHY)
    assert axes.resolve(other_h) is axes.resolve(h)
    assert axes.resolve(other_e) is axes.resolve(e)


def test_fused_projections_of_equal_parts():
    fused, q, k, v = dims(12, 4, 4, 4)
    parts = axes.split(fused, [4, 4, 4], WHY)
    for part, each in zip(parts, (q, k, v), strict=True):
        axes.unify(part, each, WHY)
    axes.unify(q, k, WHY)
    names = named(k=axes.resolve(k), v=axes.resolve(v))
    assert plain(fused, names) == ("+", "k", "k", "v")


def test_interleaved_projections():
    """As in ``reshape(x, (H, 3, E))``, of which the parts are read one by one."""
    fused, h, e = dims(24, 2, 4)
    rest = axes.factor(fused, 2, WHY)
    three, width = axes.factor(rest[1], 3, WHY)
    axes.unify(rest[0], h, WHY)
    axes.unify(width, e, WHY)
    q, k, v = axes.split(three, [1, 1, 1], WHY)
    assert q is k is v is ONE
    by_dim = {dim: found for dim, found in units(fused) if not dim.frozen}
    assert set(by_dim) == {h, axes.resolve(e)}
    assert by_dim[h] == [0] * 12 + [1] * 12
    assert by_dim[axes.resolve(e)] == [0, 1, 2, 3] * 6
    assert axes.frozen(three) == WHY


def test_fused_heads_end_to_end():
    """The fused axis [q heads x E | k heads x E]: both parts have heads and widths."""
    fused, h, e = dims(16, 2, 4)
    for part in axes.split(fused, [8, 8], WHY):
        axes.unify(part, Product([h, e]), WHY)
    names = named(h=h, e=e)
    assert plain(fused, names) == ("+", ("*", "h", "e"), ("*", "h", "e"))
    assert axes.size_in(fused, {h: 1, e: 3}) == 6


def test_an_axis_rotated_against_itself_is_frozen():
    a, b = dims(3, 5)
    axes.unify(Sum([a, b]), Sum([b, a]), WHY)
    assert axes.frozen(a) == WHY
    assert axes.frozen(b) == WHY
    assert axes.size_in(Sum([a, b]), {}) == 8


def test_a_rotation_by_half_ties_both_halves():
    a, b = dims(4, 4)
    axes.unify(Sum([a, b]), Sum([b, a]), WHY)
    assert axes.resolve(a) is axes.resolve(b)
    assert free(a)


def test_products_have_a_common_refinement():
    """6 x 4 and 3 x 8 are both 3 x 2 x 4."""
    six, four, three, eight = dims(6, 4, 3, 8)
    axes.unify(Product([six, four]), Product([three, eight]), WHY)
    (inner,) = [dim for dim in axes.dims(six) if dim.size == 2]
    # As they stand for the same factors, the dims in either may stand for both.
    names = named(three=axes.resolve(three), two=inner, four=axes.resolve(four))
    assert plain(six, names) == ("*", "three", "two")
    assert plain(eight, names) == ("*", "two", "four")
    assert free(six)
    assert free(eight)
    assert axes.size_in(Product([six, four]), {inner: 1}) == 12


def test_products_without_a_common_refinement_are_frozen():
    """6 x 4 and 4 x 6: neither leading factor divides the other."""
    a, b, c, d = dims(6, 4, 4, 6)
    axes.unify(Product([a, b]), Product([c, d]), WHY)
    assert [axes.frozen(dim) for dim in (a, b, c, d)] == [WHY] * 4


def test_only_what_follows_an_indivisible_factor_is_frozen():
    lead, a, b, c, d, other = dims(2, 6, 4, 4, 6, 2)
    axes.unify(Product([lead, a, b]), Product([other, c, d]), WHY)
    assert free(lead)
    assert axes.resolve(lead) is axes.resolve(other)
    assert [axes.frozen(dim) for dim in (a, b, c, d)] == [WHY] * 4


def test_sums_are_cut_at_all_ends_of_both():
    """[5 | 3] and [2 | 6] have the parts 2, 3 and 3."""
    a, b, c, d = dims(5, 3, 2, 6)
    axes.unify(Sum([a, b]), Sum([c, d]), WHY)
    assert same(Sum([a, b]), Sum([c, d]))
    assert [part.size for part in axes.resolve(Sum([a, b])).parts] == [2, 3, 3]
    assert [part.size for part in axes.resolve(d).parts] == [3, 3]
    assert free(Sum([a, b]))


def test_a_product_that_is_a_sum_has_equal_parts():
    """What is both [2 x E] and [A | B]: A, B and E are one."""
    two, e, a, b = dims(2, 4, 4, 4)
    axes.unify(Product([two, e]), Sum([a, b]), WHY)
    assert axes.resolve(a) is axes.resolve(b) is axes.resolve(e)
    assert free(e)
    assert axes.frozen(two) == WHY


def test_products_in_another_order_fall_into_common_factors():
    """Where A x B is B x A both are powers of one size: 2 x 8 = 8 x 2 makes 8 = 2 x 2 x 2."""
    a, b = dims(4, 4)
    axes.unify(Product([a, b]), Product([b, a]), WHY)
    assert axes.resolve(a) is axes.resolve(b)
    assert free(a)
    c, d = dims(2, 8)
    axes.unify(Product([c, d]), Product([d, c]), WHY)
    assert plain(d, named(c=axes.resolve(c))) == ("*", "c", "c", "c")
    assert free(d)


def test_frozen_meets_free():
    a, b, h, e = Dim(12, "an input"), *dims(12, 3, 4)
    axes.unify(a, b, WHY)
    assert axes.frozen(b) == "an input"
    axes.unify(Product([h, e]), a, WHY)
    assert axes.frozen(h) == axes.frozen(e) == "an input"


def test_reasons_stay_those_that_came_first():
    (a,) = dims(4)
    axes.freeze(a, "the first")
    axes.freeze(a, "the second")
    assert axes.frozen(a) == "the first"
    axes.unify(a, Dim(4, "a third"), WHY)
    assert axes.frozen(a) == "the first"


def test_an_axis_is_frozen_if_none_of_its_dims_is_free():
    a, b = dims(2, 3)
    axes.freeze(a, "one")
    assert axes.frozen(Product([a, b])) is None
    axes.freeze(b, "other")
    assert axes.frozen(Product([a, b])) == "one"
    assert axes.frozen(ONE) is None


def test_axes_of_different_sizes_are_never_unified():
    with pytest.raises(AssertionError, match="axes of 3 and 4 places cannot be the same"):
        axes.unify(*dims(3, 4), WHY)


# Splitting and factoring.


def test_factors_of_a_product():
    a, b, c = dims(2, 6, 5)
    first, rest = axes.factor(Product([a, b, c]), 4, WHY)
    assert (first.size, rest.size) == (4, 15)
    two, three = axes.resolve(b).factors
    names = named(a=a, c=c, two=two, three=three)
    assert plain(first, names) == ("*", "a", "two")
    assert plain(rest, names) == ("*", "three", "c")


def test_a_factor_that_does_not_fit_freezes():
    a, b = dims(4, 3)
    first, rest = axes.factor(Product([a, b]), 6, WHY)
    assert (first.size, rest.size) == (6, 2)
    assert [axes.frozen(axis) for axis in (a, b, first, rest)] == [WHY] * 4


def test_a_sum_of_equal_parts_is_a_product():
    a, b = dims(4, 4)
    first, rest = axes.factor(Sum([a, b]), 2, WHY)
    assert (first.size, rest.size) == (2, 4)
    assert axes.resolve(a) is axes.resolve(b) is axes.resolve(rest)
    assert free(a)


def test_parts_of_a_product_are_whole_multiples():
    h, e = dims(6, 4)
    first, last = axes.split(Product([h, e]), [8, 16], WHY)
    few, many = axes.resolve(h).parts
    names = named(few=few, many=many, e=e)
    assert (few.size, many.size) == (2, 4)
    assert plain(first, names) == ("*", "few", "e")
    assert plain(last, names) == ("*", "many", "e")
    assert free(h)


def test_parts_within_a_unit_tell_the_units_apart():
    h, e = dims(2, 4)
    first, last = axes.split(Product([h, e]), [3, 5], WHY)
    assert axes.frozen(h) == WHY
    assert (first.size, last.size) == (3, 5)
    assert [part.size for part in axes.resolve(e).parts] == [3, 1]


def test_places_told_apart_one_by_one_are_frozen():
    (a,) = dims(3)
    assert axes.split(a, [1, 1, 1], WHY) == [ONE] * 3
    assert axes.frozen(a) == WHY


def test_a_part_of_no_places_changes_nothing():
    (a,) = dims(3)
    empty, whole = axes.split(a, [0, 3], WHY)
    assert empty.size == 0
    assert whole is a
    assert free(a)


def test_parts_of_parts():
    a, b = dims(4, 4)
    first, middle, last = axes.split(Sum([a, b]), [3, 2, 3], WHY)
    assert [x.size for x in (first, middle, last)] == [3, 2, 3]
    assert axes.size_in(middle, {}) == 2
    assert axes.size_in(Sum([a, b]), {first: 1, last: 2}) == 1 + 2 + 2


# Merging.


def test_a_sum_of_which_nothing_can_be_cut_is_one_group():
    a, b = Dim(2, "an input"), Dim(3, "an input")
    known = {}
    one = axes.merged(Sum([a, b]), known)
    assert isinstance(one, Dim)
    assert (one.size, one.frozen) == (5, "an input")
    assert axes.merged(Sum([a, b]), known) is one


def test_a_sum_of_which_a_part_can_be_cut_stays_one():
    a, b, h = Dim(2, "an input"), *dims(3, 2)
    axis = axes.merged(Product([h, Sum([a, b])]), {})
    assert plain(axis, named(a=a, b=b, h=h)) == ("*", "h", ("+", "a", "b"))


def test_sums_that_differ_in_single_places_are_not_merged():
    """Places of one belong to no dim, yet they count."""
    a = Dim(3, "an input")
    known = {}
    four, five = (axes.merged(Sum([*ones, a]), known) for ones in ([ONE], [ONE, ONE]))
    assert (four.size, five.size) == (4, 5)


# Random descriptions of one axis.

SIZES = (4, 6, 8, 12, 16, 24)


def divisors(n):
    return [d for d in range(2, n) if n % d == 0]


@st.composite
def descriptions(draw, size, pool, depth=2):
    """An axis of so many places, of old and new dims."""
    kinds = ["dim", *(["product"] if depth and divisors(size) else [])]
    kinds += ["sum"] if depth and size > 1 else []
    kind = draw(st.sampled_from(kinds))
    if kind == "product":
        first = draw(st.sampled_from(divisors(size)))
        pair = [draw(descriptions(n, pool, depth - 1)) for n in (first, size // first)]
        return Product(pair)
    if kind == "sum":
        first = draw(st.integers(1, size - 1))
        return Sum([draw(descriptions(n, pool, depth - 1)) for n in (first, size - first)])
    if size == 1:
        return ONE
    old = [dim for dim in pool if dim.size == size]
    if old and draw(st.booleans()):
        return draw(st.sampled_from(old))
    new = Dim(size, draw(st.sampled_from([None] * 7 + ["from the start"])))
    pool.append(new)
    return new


def partition(axis):
    """For each place what is cut with it: the dims and units there, as far as they are free."""
    labels = [set() for _ in range(axes.resolve(axis).size)]
    for dim, found in places(axis):
        for place, unit in enumerate(found):
            if unit >= 0 and dim.frozen is None and dim.size > 1:
                labels[place].add((id(dim), int(unit)))
    return labels


def check_sizes(axis):
    axis = axes.resolve(axis)
    if isinstance(axis, Product):
        assert axis.size == math.prod(factor.size for factor in axis.factors)
    elif isinstance(axis, Sum):
        assert axis.size == sum(part.size for part in axis.parts)
    for inner in getattr(axis, "factors", getattr(axis, "parts", ())):
        check_sizes(inner)
    assert all(len(found) == axis.size for _, found in places(axis))
    assert axes.size_in(axis, {}) == axis.size


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_unified_axes_are_the_same_place_for_place(data):
    pool, pairs = [], []
    for _ in range(data.draw(st.integers(1, 4))):
        size = data.draw(st.sampled_from(SIZES))
        pairs.append([data.draw(descriptions(size, pool)) for _ in range(2)])
    for i, (a, b) in enumerate(pairs):
        was_frozen = [dim for dim in pool if axes.frozen(dim)]
        axes.unify(a, b, WHY)
        assert all(axes.frozen(dim) for dim in was_frozen)
        # What was made the same before is still the same.
        for one, other in pairs[: i + 1]:
            check_sizes(one)
            check_sizes(other)
            assert partition(one) == partition(other)
    for dim in pool:
        check_sizes(dim)
        assert axes.resolve(dim).size == dim.size


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_sizes_of_dims_give_unified_axes_one_size(data):
    pool = []
    size = data.draw(st.sampled_from(SIZES))
    a, b = (data.draw(descriptions(size, pool)) for _ in range(2))
    axes.unify(a, b, WHY)
    inner = [dim for axis in (a, b) for dim in axes.dims(axis) if dim.frozen is None]
    sizes = {dim: data.draw(st.integers(1, dim.size)) for dim in inner}
    assert axes.size_in(a, sizes) == axes.size_in(b, sizes)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_parts_and_factors_make_up_the_axis(data):
    pool = []
    size = data.draw(st.sampled_from(SIZES))
    axis = data.draw(descriptions(size, pool))
    if data.draw(st.booleans()):
        first = data.draw(st.sampled_from([1, *divisors(size), size]))
        parts = axes.factor(axis, first, WHY)
        assert tuple(part.size for part in parts) == (first, size // first)
        whole = axes.product(parts)
    else:
        ends = sorted(data.draw(st.lists(st.integers(0, size), max_size=3)))
        sizes = np.diff([0, *ends, size]).tolist()
        parts = axes.split(axis, sizes, WHY)
        assert [part.size for part in parts] == sizes
        whole = axes.total(parts)
    check_sizes(axis)
    assert partition(whole) == partition(axis)
    for dim in pool:
        check_sizes(dim)
