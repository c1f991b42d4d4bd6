"""Architectures of many kinds, in five frameworks: what must be found, and that every cut runs."""

import functools

import jax
import numpy as np
import pytest
from zoo import CASES, axis_group, leaf_axis, units

from tsjax import costs, structure

cases = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def analysed(case):
    return by_name(case.name)


@functools.cache
def by_name(name):
    (case,) = (case for case in CASES if case.name == name)
    fn, params, inputs = case.build()
    return fn, params, inputs, structure.find_groups(fn, params, *inputs)


def members(group):
    return {str(member) for member in group.members}


def plain(text):
    return text.split("#")[0]


@cases
def test_groups_are_those_that_the_architecture_has(case):
    *_, groups = analysed(case)
    found = [[axis_group(groups, text) for text in texts] for texts in case.free]
    for texts, each in zip(case.free, found, strict=True):
        assert {group.name for group in each} == {each[0].name}, texts
        assert each[0].frozen is None, f"{texts}: {each[0].frozen}"
        if case.complete:
            assert members(each[0]) == set(map(plain, texts))
    names = [each[0].name for each in found]
    assert len(set(names)) == len(names), "groups of different axes are one"
    for texts in case.together:
        assert len({axis_group(groups, text).name for text in texts}) == 1, texts
    for text, why in case.frozen.items():
        reason = axis_group(groups, text).frozen
        assert reason is not None, f"{text} is free"
        assert why in str(reason).lower(), f"{text}: {reason}"
    for text, layout in case.layout.items():
        path, axis, _ = leaf_axis(text)
        group = axis_group(groups, text)
        (ours,) = (m.units for m in group.members if (m.path, m.axis) == (path, axis))
        assert_same_partition(ours, units(layout))


def assert_same_partition(a, b):
    assert a.shape == b.shape
    pairs = set(zip(a.tolist(), b.tolist(), strict=True))
    assert len(pairs) == len(set(a.tolist())) == len(set(b.tolist()))
    assert ((a < 0) == (b < 0)).all()


def check_that_it_runs(case, keeps):
    """Without running it: that the function takes leaves of these sizes, for the same outputs."""
    fn, params, inputs, groups = analysed(case)
    want = jax.eval_shape(fn, params, *inputs)
    shapes = jax.eval_shape(lambda: params)
    for keep in keeps:
        small = structure.slice(shapes, structure.plan(groups, params, keep=keep))
        assert jax.eval_shape(fn, small, *inputs) == want, keep


def some_of_all(groups, rng):
    return {g.name: rng.permutation(g.size)[: rng.integers(1, g.size)] for g in groups.free}


@cases
def test_every_free_group_can_be_cut(case):
    """To one unit, to half, and by one; and all groups at once."""
    groups, rng = analysed(case)[-1], np.random.default_rng(0)
    sizes = {g.name: sorted({1, g.size // 2, g.size - 1} - {0}) for g in groups.free}
    each = [
        {name: rng.permutation(groups[name].size)[:n]} for name, ns in sizes.items() for n in ns
    ]
    check_that_it_runs(case, [*each, some_of_all(groups, rng)])


@pytest.mark.long
@cases
def test_every_free_group_can_be_cut_to_any_size(case):
    groups, rng = analysed(case)[-1], np.random.default_rng(0)
    each = [
        {g.name: rng.permutation(g.size)[:size]} for g in groups.free for size in range(1, g.size)
    ]
    check_that_it_runs(case, [*each, *(some_of_all(groups, rng) for _ in range(5))])


def without_first(groups, names):
    return {name: range(1, groups[name].size) for name in names}


def check_against_zeros(case, keep, exact):
    """A cut model gives numbers, those of the zeroed one where cutting is exact."""
    fn, params, inputs, groups = analysed(case)
    plan, run = structure.plan(groups, params, keep=keep), jax.jit(fn)
    got = run(structure.slice(params, plan), *inputs)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(got)), keep
    if exact:
        zeroed = run(structure.zero(params, plan), *inputs)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), got, zeroed)


def exact_groups(case):
    return {axis_group(analysed(case)[-1], text).name for text in case.exact}


@cases
def test_cut_models_run_and_where_exact_equal_zeroed_ones(case):
    groups, exact = analysed(case)[-1], exact_groups(case)
    every = {group.name for group in groups.free}
    if exact:
        check_against_zeros(case, without_first(groups, exact), exact=True)
    if every - exact:
        check_against_zeros(case, without_first(groups, every), exact=False)


@pytest.mark.long
@cases
def test_each_cut_model_runs_and_if_exact_equals_the_zeroed_one(case):
    groups, exact = analysed(case)[-1], exact_groups(case)
    for group in groups.free:
        check_against_zeros(case, without_first(groups, [group.name]), group.name in exact)


def test_the_zoo_is_large():
    assert len(CASES) >= 70


@cases
def test_operations_are_counted_as_costs_counts_them(case):
    fn, params, inputs, groups = analysed(case)
    assert groups.flops({}) == costs.count(fn, params, *inputs).flops
