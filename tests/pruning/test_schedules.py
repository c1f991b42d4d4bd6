"""Schedules: closed forms, their edges, and numbers that are data."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsjax import pruning

FOREVER = 2**31 - 1


def at(fn, steps, **numbers):
    return np.asarray(fn(jnp.asarray(steps, jnp.int32), **numbers))


@functools.cache
def compiled(fn):
    return jax.jit(fn)


def test_one_shot_is_dense_until_it_begins():
    densities = at(pruning.one_shot, [0, 9, 10, 11, FOREVER], density=0.25, begin=10)
    assert densities.tolist() == [1, 1, 0.25, 0.25, 0.25]
    assert pruning.one_shot(0, density=0.25) == 0.25


def test_geometric_is_the_ladder_in_time():
    densities = at(pruning.geometric, range(40), ratio=0.8, every=3, rungs=10, begin=5)
    rungs = pruning.ladder(0.8, 10)
    expected = [1.0] * 5 + [rung for rung in rungs[1:] for _ in range(3)] + [rungs[-1]] * 5
    np.testing.assert_allclose(densities, expected, rtol=1e-6)
    densities = at(pruning.geometric, [0, 1, 2], ratio=0.5, every=1, rungs=2)
    assert densities.tolist() == [0.5, 0.25, 0.25]


def test_cubic_by_hand():
    # (1 - 1/2)^3 = 1/8 and (1 - 1/4)^3 = 27/64 of the way back to 0.9.
    densities = at(pruning.cubic, [0, 4, 5, 6, 8, 9, 99], density=0.1, begin=4, end=8, initial=0.9)
    expected = [0.9, 0.9, 0.1 + 0.8 * 27 / 64, 0.1 + 0.8 / 8, 0.1, 0.1, 0.1]
    np.testing.assert_allclose(densities, expected, rtol=1e-6)


def test_cosine_by_hand():
    shares = at(pruning.cosine, [0, 3, 6, 9, 12, 13], initial=0.5, end=12, final=0.1)
    root = np.sqrt(0.5)
    expected = [0.5, 0.3 + 0.2 * root, 0.3, 0.3 - 0.2 * root, 0.1, 0.1]
    np.testing.assert_allclose(shares, expected, rtol=1e-6)
    np.testing.assert_allclose(pruning.cosine(6, initial=0.3, end=12), 0.15, rtol=1e-6)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(-50, 150), st.integers(0, 100), st.integers(1, 100), st.floats(0.01, 1),
    st.floats(0.01, 1), st.sampled_from([1.0, 2.0, 3.0]),
)  # fmt: skip
def test_cubic_is_its_closed_form(step, begin, length, density, initial, power):
    end = begin + length
    numbers = {"density": density, "begin": begin, "end": end, "initial": initial, "power": power}
    got = compiled(pruning.cubic)(step, **numbers)
    done = np.clip((step - begin) / length, 0, 1)
    want = density + (initial - density) * (1 - done) ** power
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=3e-7)


@pytest.mark.parametrize("end", [1, 1000, 2**24 + 1, FOREVER])
@pytest.mark.parametrize("share", [0.1, 0.3, 0.7, 0.01, 1 / 3])
def test_the_ends_are_exact(end, share):
    """A density of 0.99999994 would prune the first weight of a large leaf before its time."""
    ends = jnp.asarray([0, end])
    first, last = compiled(pruning.cubic)(ends, density=share, begin=0, end=end)
    assert (first, last) == (1, np.float32(share))
    first, last = compiled(pruning.cosine)(ends, initial=share, end=end)
    assert (first, last) == (np.float32(share), 0)


def test_steps_beyond_the_integers_of_float32():
    """From 2**24 on, float32 tells only even numbers apart."""
    t = 2**24
    steps = [t - 1, t, t + 1, t + 2]
    densities = at(pruning.cubic, steps, density=0.0, begin=t - 1, end=t + 2, power=1.0)
    np.testing.assert_allclose(densities, [1, 2 / 3, 1 / 3, 0], rtol=1e-6)
    assert at(pruning.one_shot, steps, density=0.5, begin=t + 1).tolist() == [1, 1, 0.5, 0.5]
    assert at(pruning.periodic, steps, every=2, begin=t - 1).tolist() == [1, 0, 1, 0]
    assert at(pruning.periodic, [FOREVER - 1, FOREVER], every=1, end=FOREVER).tolist() == [1, 1]


def test_where_begin_is_the_end_the_end_holds():
    assert at(pruning.cubic, [2, 3, 4], density=0.5, begin=3, end=3).tolist() == [1, 0.5, 0.5]
    assert at(pruning.cosine, [0, 1], initial=0.5, end=0).tolist() == [0.5, 0]


def test_periodic_at_its_edges():
    due = at(pruning.periodic, range(13), every=3, begin=4, end=10)
    assert np.flatnonzero(due).tolist() == [4, 7, 10]
    assert np.flatnonzero(at(pruning.periodic, range(8), every=3)).tolist() == [0, 3, 6]
    assert np.flatnonzero(at(pruning.periodic, range(8), every=3, begin=2)).tolist() == [2, 5]
    assert np.flatnonzero(at(pruning.periodic, range(12), every=3, begin=4, end=9)).tolist() == [
        4,
        7,
    ]
    assert not at(pruning.periodic, range(12), every=1, begin=1, end=0).any()
    assert due.dtype == bool


SCHEDULES = {
    pruning.one_shot: ({"density": 0.5, "begin": 3}, {"density": 0.2, "begin": 7}),
    pruning.geometric: (
        {"ratio": 0.5, "every": 2, "rungs": 3, "begin": 1},
        {"ratio": 0.8, "every": 1, "rungs": 9, "begin": 0},
    ),
    pruning.cubic: (
        {"density": 0.1, "begin": 1, "end": 5},
        {"density": 0.4, "begin": 0, "end": 9},
    ),
    pruning.cosine: ({"initial": 0.5, "end": 9}, {"initial": 0.3, "end": 5}),
}


@pytest.mark.parametrize("fn", SCHEDULES, ids=lambda fn: fn.__name__)
def test_a_schedule_is_its_function_and_its_numbers_are_data(fn):
    traces = []

    @jax.jit
    def value(schedule, steps):
        traces.append(fn)
        return schedule(steps)

    steps = jnp.arange(12)
    for numbers in SCHEDULES[fn]:
        got = value(pruning.schedule(fn, **numbers), steps)
        np.testing.assert_allclose(got, at(fn, steps, **numbers), rtol=1e-6)
    value(pruning.schedule(fn, **numbers), steps + 5)
    assert traces == [fn]


@pytest.mark.parametrize("fn", SCHEDULES, ids=lambda fn: fn.__name__)
def test_a_stack_of_schedules(fn):
    """Several settings at once, with the step traced in a scan."""
    schedules = [pruning.schedule(fn, **numbers) for numbers in SCHEDULES[fn]]
    stack = jax.tree.map(lambda *leaves: jnp.stack(leaves), *schedules)

    def over_time(schedule):
        return jax.lax.scan(lambda t, _: (t + 1, schedule(t)), jnp.int32(0), length=10)[1]

    both = jax.jit(jax.vmap(over_time))(stack)
    singles = jnp.stack([schedule(jnp.arange(10)) for schedule in schedules])
    chex.assert_trees_all_close(both, singles, rtol=1e-6)


def test_an_own_function_with_an_array_as_a_number():
    def table(step, *, densities):
        return densities[jnp.minimum(step, densities.size - 1)]

    schedule = pruning.schedule(table, densities=jnp.asarray([1.0, 0.5, 0.1]))
    assert [float(jax.jit(schedule)(t)) for t in (0, 1, 5)] == [1, 0.5, np.float32(0.1)]
