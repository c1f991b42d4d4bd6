"""Allocations: a density shared out over leaves, by hand and against the plain algorithm."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsjax import pruning

WHOLE = (pruning.kernels, pruning.complex_pairs)


def everything(path, leaf):
    return True


def shaped(*shapes, dtype=jnp.float32):
    """A tree of shapes alone, in this order."""
    return [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]


def counts(table, params):
    """Whole weights by leaf; fails if a share is none."""
    found = []
    for i, leaf in enumerate(params):
        ideal = float(table[str(i)]) * leaf.size
        found.append(round(ideal))
        # A traced share is a float32.
        assert abs(ideal - found[-1]) <= leaf.size * 2**-23
    return found


def total(density, params):
    n = sum(leaf.size for leaf in params)
    return n - round((1 - density) * n)


# Erdos-Renyi.


def test_a_leaf_that_would_be_more_than_dense_is_dense_and_the_others_get_the_rest():
    # Raw shares 4/4 and 20/100; 52 of 104 weights, of which 4 fill the first leaf.
    params = shaped((2, 2), (10, 10))
    assert pruning.erk(params, 0.5, everything) == {"0": 1.0, "1": 0.48}


def test_shares_follow_the_sum_of_axes_over_their_product():
    # Raw shares 8/16, 12/32 and, of a convolution, 11/24; 0.25 of 72 is 18.
    params = shaped((4, 4), (8, 4), (2, 3, 4))
    raw = [8, 12, 9]  # times size
    assert pruning.erk(params, 0.25, everything, power=0) == {
        "0": 4 / 16, "1": 8 / 32, "2": 6 / 24
    }  # fmt: skip
    ideal = [18 * part / sum(raw) for part in raw]
    # They are 4.97, 7.45 and 5.59.
    assert [round(x) for x in ideal] == [5, 7, 6]
    assert pruning.erk(params, 0.25, everything) == {"0": 5 / 16, "1": 7 / 32, "2": 6 / 24}


def test_uniform_shares_are_alike_up_to_whole_weights():
    # 1.5 + 2.5 + 1 of 10: of two halves the first is rounded up.
    params = shaped((3, 1), (5,), (2,))
    assert pruning.uniform(params, 0.5, everything) == {"0": 2 / 3, "1": 2 / 5, "2": 1 / 2}
    assert pruning.uniform(params, 1.0, everything) == {"0": 1, "1": 1, "2": 1}


def plain_erk(shapes, density, power):
    """The papers' algorithm: leaves whose share is above 1 are made dense until there are none."""
    sizes = [math.prod(shape) for shape in shapes]
    raw = [(sum(shape) / size) ** power for shape, size in zip(shapes, sizes, strict=True)]
    dense = set()
    while True:
        rest = [i for i in range(len(shapes)) if i not in dense]
        if not rest:
            return [1.0] * len(shapes)
        left = density * sum(sizes) - sum(sizes[i] for i in dense)
        scale = left / sum(raw[i] * sizes[i] for i in rest)
        largest = max(raw[i] for i in rest)
        if scale * largest <= 1:
            return [1.0 if i in dense else scale * raw[i] for i in range(len(shapes))]
        dense |= {i for i in rest if raw[i] == largest}


def plain_webster(parts, sizes, n):
    """Weight after weight to the leaf that is cheapest, the first of several."""
    found = [0] * len(parts)
    for _ in range(n):
        costs = [
            (count + 0.5) / part if count < size else math.inf
            for count, part, size in zip(found, parts, sizes, strict=True)
        ]
        found[costs.index(min(costs))] += 1
    return found


SHAPES = st.lists(st.integers(1, 9), min_size=1, max_size=3).map(tuple)
DENSITIES = st.one_of(st.floats(0.001, 1), st.sampled_from(pruning.ladder(0.8, 10, floor=0.01)))


@settings(max_examples=150, deadline=None)
@given(st.lists(SHAPES, min_size=1, max_size=7), DENSITIES, st.sampled_from([1.0, 0.0, 0.5, 2.0]))
def test_counts_are_those_of_the_plain_algorithms_and_add_up(shapes, density, power):
    params = shaped(*shapes)
    got = counts(pruning.erk(params, density, everything, power), params)
    sizes = [math.prod(shape) for shape in shapes]
    parts = [(sum(shape) / n) ** power * n for shape, n in zip(shapes, sizes, strict=True)]
    assert got == plain_webster(parts, sizes, total(density, params))
    # Half a weight from rounding, and as much for each leaf from what the rounding misses.
    for count, share, n in zip(got, plain_erk(shapes, density, power), sizes, strict=True):
        assert abs(count - share * n) <= (1 + len(shapes)) / 2 + 1e-9


@pytest.mark.parametrize("allocate", [pruning.erk, pruning.uniform])
def test_a_lower_density_takes_nothing_more_from_any_leaf(allocate):
    # Rounding by largest remainder gives the last leaf 1 of 11 weights, and 2 of 10.
    params = shaped((6, 1), (6, 1), (2, 1))
    found = [counts(allocate(params, n / 14, everything), params) for n in range(1, 15)]
    assert [sum(row) for row in found] == list(range(1, 15))
    assert np.all(np.diff(found, axis=0) >= 0)


@settings(max_examples=50, deadline=None)
@given(st.lists(SHAPES, min_size=1, max_size=9), st.lists(DENSITIES, min_size=2, max_size=2))
def test_allocations_nest(shapes, densities):
    params = shaped(*shapes)
    low, high = (counts(pruning.erk(params, d, everything), params) for d in sorted(densities))
    assert all(np.less_equal(low, high))


@pytest.mark.parametrize("allocate", [pruning.erk, pruning.uniform])
@pytest.mark.parametrize("density", [0.8, 0.37, 0.01])
def test_totals_are_exact_beyond_the_whole_numbers_of_float32(allocate, density):
    params = shaped((5000, 5001), (3001, 7001), (301, 70))
    assert sum(counts(allocate(params, density, everything), params)) == total(density, params)


@functools.cache
def traced_erk(shapes):
    return jax.jit(lambda density: pruning.erk(shaped(*shapes), density, everything))


@pytest.mark.parametrize("shapes", [((2, 2), (10, 10)), ((3,), (7, 11), (2, 3, 4), ()), ((5, 5),)])
@pytest.mark.parametrize("density", [*pruning.ladder(0.8, 10, floor=0.01)[::3], 0.999])
def test_a_traced_density_gives_the_same_counts(shapes, density):
    params = shaped(*shapes)
    expected = counts(pruning.erk(params, density, everything), params)
    assert counts(traced_erk(shapes)(density), params) == expected
    assert sum(expected) == total(density, params)


@pytest.mark.parametrize("density", [0.3, np.float32(0.3), jnp.asarray(0.3)])
def test_shares_of_a_concrete_density_are_floats_inside_jit_as_well(density):
    tables = []
    jax.jit(lambda: tables.append(pruning.erk(shaped((2, 2), (9, 9)), density, everything)))()
    assert all(type(share) is float for share in tables[0].values())
    assert tables == [pruning.erk(shaped((2, 2), (9, 9)), 0.3, everything)]


# As tables of densities.


@pytest.mark.parametrize("allocate", [pruning.erk, pruning.uniform])
@pytest.mark.parametrize("density", [1.0, 0.8, 0.31, 0.05])
def test_select_keeps_the_count_of_a_global_selection(allocate, density):
    rng = np.random.default_rng(0)
    params = {
        "down": {"kernel": jnp.asarray(rng.normal(size=(9, 2))), "bias": jnp.ones(2)},
        "mixing": {part: jnp.asarray(rng.normal(size=(3, 5))) for part in ("imag", "real")},
        "up": {"kernel": jnp.asarray(rng.normal(size=(4, 8)))},
    }
    table = allocate(params, density, WHOLE)
    assert set(table) == {"down/kernel", "mixing/imag", "mixing/real", "up/kernel"}
    assert table["mixing/imag"] == table["mixing/real"]
    mask = pruning.select(pruning.magnitude(params), table, where=WHOLE)
    kept, counted = pruning.count(mask, WHOLE)
    assert counted == 18 + 15 + 32
    assert kept == counted - round((1 - density) * counted)
    for path, (count, n) in pruning.summary(mask).items():
        assert path not in table or count == round(table[path] * n)


def test_a_share_may_be_nothing():
    table = pruning.uniform(shaped((1, 2), (30, 30)), 0.01, everything)
    assert table == {"0": 0, "1": 9 / 900}
    mask = pruning.select([jnp.ones((1, 2)), jnp.ones((30, 30))], table, where=everything)
    assert pruning.summary(mask) == {"0": (0, 2), "1": (9, 900)}


def test_scalars_and_vectors_are_dense_first_and_empty_leaves_left_out():
    table = pruning.erk(shaped((), (3,), (0, 4), (20, 20)), 0.5, everything)
    assert table == {"0": 1, "1": 1, "3": 198 / 400}


def test_nothing_to_share_out():
    bias = {"bias": jnp.ones(3)}
    assert pruning.erk(bias, 0.5) == pruning.uniform(bias, 0.5) == pruning.wsap(bias) == {}


@pytest.mark.parametrize("allocate", [pruning.erk, pruning.uniform])
@pytest.mark.parametrize("density", [0.0, 1.5, float("nan")])
def test_a_density_outside_the_range_is_refused(allocate, density):
    with pytest.raises(ValueError, match=rf"^density must be in \(0, 1\], got {density}$"):
        allocate(shaped((2, 2)), density, everything)


# WSAP.


def leaf_of(mean, std):
    """Two weights with this mean and standard deviation."""
    return jnp.asarray([mean - std, mean + std], jnp.float32)


@pytest.mark.parametrize("shares", [(0.7, 0.5, 0.3), (0.9, 0.2, 1.0)])
def test_leaves_that_vary_little_keep_more(shares):
    # Coefficients 4, 0.5, 1: neither the spread nor the mean by itself has this order.
    params = {"a": leaf_of(0.5, 2.0), "b": leaf_of(20, 10.0), "c": leaf_of(-1, 1.0)}
    low, middle, high = shares
    assert pruning.wsap(params, shares, everything) == {"a": high, "b": low, "c": middle}


def test_six_leaves_fall_into_pairs():
    spreads = [0.5, 3.0, 1.0, 2.5, 2.0, 1.5]
    params = [leaf_of(1, std) for std in spreads]
    table = pruning.wsap(params, where=everything)
    assert list(table.values()) == [0.7, 0.3, 0.7, 0.3, 0.5, 0.5]


def test_zero_means_vary_most_and_zero_weights_least():
    params = {"none": jnp.zeros(4), "some": leaf_of(1, 1.0), "symmetric": leaf_of(0, 1.0)}
    table = pruning.wsap(params, where=everything)
    assert table == {"none": 0.7, "some": 0.5, "symmetric": 0.3}


def test_a_complex_weight_varies_as_a_number():
    # The pair's numbers are 2 + 1i and 2 - 1i: their mean 2, their spread 1.
    pair = {"real": leaf_of(2, 0.0), "imag": leaf_of(0, 1.0)}
    params = {"f": pair, "less": leaf_of(4, 1.0), "more": leaf_of(1, 1.0)}
    table = pruning.wsap(params, where=everything)
    assert table == {"f/imag": 0.5, "f/real": 0.5, "less": 0.7, "more": 0.3}
    params["f"] = jnp.asarray([2 + 1j, 2 - 1j])
    assert pruning.wsap(params, where=everything)["f"] == 0.5


def test_traced_weights_give_the_same_shares():
    params = [leaf_of(1, std) for std in (1.0, 3.0, 2.0)]
    traced = jax.jit(lambda params: pruning.wsap(params, where=everything))(params)
    assert list(traced.values()) == [np.float32(0.7), np.float32(0.3), np.float32(0.5)]


def test_shares_outside_the_range_are_refused():
    with pytest.raises(ValueError, match=r"^each of the shares must be in \(0, 1\], got 0$"):
        pruning.wsap([leaf_of(1, 1.0)], (0.5, 0.1, 0), everything)


@pytest.mark.parametrize("size", [1e-4, 1e3])
def test_wsap_of_few_bits(size):
    rng = np.random.default_rng(0)
    draws = [size * (rng.normal(size=(30, 30)) + mean) for mean in (0.1, 1, 10)]
    for dtype in (jnp.float32, jnp.float16):
        table = pruning.wsap([jnp.asarray(draw, dtype) for draw in draws])
        assert table == {"0": 0.3, "1": 0.5, "2": 0.7}
