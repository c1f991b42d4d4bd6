"""Random networks: no counterexample to what groups, slices and compaction promise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import examples
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from random_layers import LAYERS
from random_networks import INPUTS, double_precision, networks
from test_compaction import unit_mask

from tsjax import structure, trees

UNKNOWN = [layer for layer in LAYERS if layer.unknown]


def tried(short, long):
    """So many networks; nearly all the time is that of compiling them."""
    return settings(
        max_examples=examples(short, long),
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


@pytest.fixture(autouse=True, scope="module")
def _in_double_precision():
    with double_precision():
        yield


def groups_of(network):
    """The groups of a network of which something can be cut; others show nothing."""
    groups = structure.find_groups(network, network.params, *INPUTS)
    assume(groups.free)
    return groups


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


@tried(40, 192)
@given(networks(), st.integers(0, 2**16))
def test_networks_can_be_cut_anywhere(network, seed):
    """Groups are found, every free one can be cut, and the order of its units does not matter."""
    rng, params = np.random.default_rng(seed), network.params
    groups = groups_of(network)
    want = jax.eval_shape(network, params, *INPUTS)
    joint = {g.name: sizes_of(g, rng) for g in groups.free}
    check_layout(groups, params, joint)
    for keep in (*({g.name: sizes_of(g, rng)} for g in groups.free), joint):
        small = structure.slice(params, structure.plan(groups, params, keep=keep))
        assert jax.eval_shape(network, small, *INPUTS) == want, keep
    run = jax.jit(network)
    full = run(params, *INPUTS)
    if seed % 4 == 0:
        for name, cut in run(small, *INPUTS).items():
            assert np.isfinite(cut).all() or not np.isfinite(full[name]).all(), name
    if not network.random:
        orders = {g.name: rng.permutation(g.size) for g in groups.free}
        close(run(permuted(params, groups, orders), *INPUTS), full)


@tried(20, 96)
@given(networks(exact=True), st.integers(0, 2**16))
def test_cut_networks_equal_those_with_zeros(network, seed):
    """Away from norms and selections, a unit that is cut is one whose weights are zero."""
    rng, params = np.random.default_rng(seed), network.params
    groups = groups_of(network)
    plan = structure.plan(groups, params, keep={g.name: sizes_of(g, rng) for g in groups.free})
    run = jax.jit(network)
    small, zeroed = structure.slice(params, plan), structure.zero(params, plan)
    close(run(small, *INPUTS), run(zeroed, *INPUTS))


@pytest.mark.parametrize("layer", UNKNOWN, ids=lambda layer: layer.name)
@tried(4, 16)
@given(data=st.data())
def test_what_is_unknown_is_frozen_and_named(layer, data):
    network = data.draw(networks(must=layer))
    params = network.params
    groups = structure.find_groups(network, params, *INPUTS)
    assert layer.unknown in network.unknown.values()
    for path, primitive in network.unknown.items():
        for group in groups.on(path, 1):
            assert primitive in str(group.frozen), f"{group.name}: {group.frozen}"


# Compaction.


def random_mask(groups, params, rng):
    """Some weights, and some members of some units."""
    density = rng.choice([1.0, 0.7, 0.3])
    masks = {
        path: rng.random(np.shape(leaf)) < (density if np.ndim(leaf) > 1 else 1)
        for path, leaf in trees.by_path(params).items()
    }
    for group in groups:
        for member in group.members:
            cut = (rng.random(group.size) < 0.3).nonzero()[0]
            at = [slice(None)] * masks[member.path].ndim
            at[member.axis] = np.isin(member.units, cut)
            masks[member.path][tuple(at)] = False
    for path, leaf in trees.by_path(params).items():
        masks[path] |= not jnp.issubdtype(leaf.dtype, jnp.inexact)
    return trees.map_with_path(lambda path, _: masks[path], params)


@tried(16, 60)
@given(networks(), st.integers(0, 2**16))
def test_compacted_networks_equal_masked_ones(network, seed):
    """Of networks that lose a unit; what loses none is what it was."""
    params, groups = network.params, groups_of(network)
    mask = random_mask(groups, params, np.random.default_rng(seed))
    small, plan = structure.compact(network, params, mask, *INPUTS, groups=groups)
    assume(plan.sizes != {group.name: group.size for group in groups})
    masked = jax.tree.map(lambda leaf, keep: np.where(keep, leaf, 0), params, mask)
    run = jax.jit(network)
    want = run(masked, *INPUTS)
    # Zeros times infinity are taken for zeros.
    assume(all(np.isfinite(each).all() for each in want.values()))
    close(run(small, *INPUTS), want)


@tried(12, 24)
@given(networks(exact=True), st.integers(0, 2**16))
def test_units_without_weights_go(network, seed):
    """Away from norms and selections all of them do, but for one of a group."""
    rng, params, groups = np.random.default_rng(seed), network.params, groups_of(network)
    chosen = {g.name: sizes_of(g, rng) for g in groups.free}
    mask = unit_mask(groups, params, chosen)
    plan = structure.compact(network, params, mask, *INPUTS, groups=groups)[1]
    for name, units in chosen.items():
        assert plan.sizes[name] == 1 or {*plan.keep[name]} <= {*units}, name
