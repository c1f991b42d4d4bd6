"""Random networks: no counterexample to what the groups of a function promise.

TSJAX_RANDOM_NETWORKS is the number of networks; some hundred where it is not set.
"""

import os

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_layers import LAYERS
from random_networks import INPUTS, double_precision, networks

from tsjax import structure, trees

EXAMPLES = int(os.environ.get("TSJAX_RANDOM_NETWORKS", "320"))
UNKNOWN = [layer for layer in LAYERS if layer.unknown]


def examples(share):
    return settings(
        max_examples=max(1, round(share * EXAMPLES)),
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


@pytest.fixture(autouse=True, scope="module")
def _in_double_precision():
    with double_precision():
        yield


def sizes_of(group, rng):
    return rng.permutation(group.size)[: rng.integers(1, group.size)]


def close(got, want):
    """Whether outputs agree, with what is not finite at the same places."""
    for name in want:
        ours, theirs = np.asarray(want[name]), np.asarray(got[name])
        finite = np.isfinite(ours)
        scale = max(1.0, np.abs(ours[finite]).max(initial=0))
        np.testing.assert_array_equal(np.isfinite(theirs), finite, err_msg=name)
        worst = np.abs(theirs - ours)[finite].max(initial=0)
        assert worst <= 1e-7 * scale, f"{name} differs by {worst}, its size is {scale}"


def permuted(params, groups, orders):
    """Params with the units of these groups in another order, wherever they occur."""
    leaves = {path: np.asarray(leaf) for path, leaf in trees.by_path(params).items()}
    for name, order in orders.items():
        for member in groups[name].members:
            # The first place of a unit gets what was at the first place of another, and so on.
            source = np.arange(member.units.size)
            for unit, other in enumerate(order):
                source[member.units == unit] = np.flatnonzero(member.units == other)
            leaves[member.path] = leaves[member.path].take(source, member.axis)
    return trees.map_with_path(lambda path, _: leaves[path], params)


def check_layout(groups, params, keep):
    """Every axis has its groups, no place is twice one group's, and units say what is cut."""
    left = {path: [np.ones(n, bool) for n in a.shape] for path, a in trees.by_path(params).items()}
    for group in groups:
        assert sorted(str(m) for m in group.members)
        for member in group.members:
            path, axis = member.path, member.axis
            assert group in groups.on(path, axis)
            counts = np.bincount(member.units[member.units >= 0], minlength=group.size)
            assert len(counts) == group.size
            assert len(set(counts)) == 1, f"units of {group.name} occur {counts} times in {member}"
            if group.name in keep:
                kept = (member.units < 0) | np.isin(member.units, keep[group.name])
                left[path][axis] &= kept
    for path, leaf in trees.by_path(params).items():
        assert all(groups.on(path, at) for at, n in enumerate(leaf.shape) if n > 1), path
    assert {path: tuple(m.sum() for m in masks) for path, masks in left.items()} == groups.shapes(
        {name: len(units) for name, units in keep.items()}
    )


@examples(0.6)
@given(networks(), st.integers(0, 2**16))
def test_networks_can_be_cut_anywhere(network, seed):
    """Groups are found, every free one can be cut, and the order of its units does not matter."""
    rng, params = np.random.default_rng(seed), network.params
    groups = structure.find_groups(network, params, *INPUTS)
    want = jax.eval_shape(network, params, *INPUTS)
    joint = {g.name: sizes_of(g, rng) for g in groups.free}
    check_layout(groups, params, joint)
    for keep in (*({g.name: sizes_of(g, rng)} for g in groups.free), joint):
        small = structure.slice(params, structure.plan(groups, params, keep=keep))
        assert jax.eval_shape(network, small, *INPUTS) == want, keep
    run = jax.jit(network)
    full = run(params, *INPUTS)
    if seed % 4 == 0:  # Nearly all the time is compilation.
        for name, cut in run(small, *INPUTS).items():
            assert np.isfinite(cut).all() or not np.isfinite(full[name]).all(), name
    if not network.random:
        orders = {g.name: rng.permutation(g.size) for g in groups.free}
        close(run(permuted(params, groups, orders), *INPUTS), full)


@examples(0.3)
@given(networks(exact=True), st.integers(0, 2**16))
def test_cut_networks_equal_those_with_zeros(network, seed):
    """Away from norms and selections, a unit that is cut is one whose weights are zero."""
    rng, params = np.random.default_rng(seed), network.params
    groups = structure.find_groups(network, params, *INPUTS)
    plan = structure.plan(groups, params, keep={g.name: sizes_of(g, rng) for g in groups.free})
    run = jax.jit(network)
    small, zeroed = structure.slice(params, plan), structure.zero(params, plan)
    close(run(small, *INPUTS), run(zeroed, *INPUTS))


@pytest.mark.parametrize("layer", UNKNOWN, ids=lambda layer: layer.name)
@examples(0.05)
@given(data=st.data())
def test_what_is_unknown_is_frozen_and_named(layer, data):
    network = data.draw(networks(must=layer))
    params = network.params
    groups = structure.find_groups(network, params, *INPUTS)
    assert layer.unknown in network.unknown.values()
    for path, primitive in network.unknown.items():
        for group in groups.on(path, 1):
            assert primitive in str(group.frozen), f"{group.name}: {group.frozen}"
