"""Compaction of whole models: random networks, and the five forecasters."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from forecasters import batch, drawn
from hypothesis import given
from hypothesis import strategies as st
from random_networks import INPUTS, double_precision, networks
from test_compaction import gone_of
from test_forecasters import SMALL
from test_random_networks import close, examples, sizes_of

from tsjax import models, structure, trees

# Random networks.


def unit_mask(groups, variables, keep):
    """Cuts all weights of the units that are not kept."""
    plan = structure.plan(groups, variables, keep=keep)
    ones = jax.tree.map(lambda leaf: np.ones(leaf.shape), variables)
    return jax.tree.map(lambda leaf: leaf > 0, structure.zero(ones, plan))


@pytest.fixture
def _in_double_precision():
    with double_precision():
        yield


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


@pytest.mark.usefixtures("_in_double_precision")
@examples(0.03)
@given(networks(), st.integers(0, 2**16))
def test_compacted_networks_equal_masked_ones(network, seed):
    rng, params = np.random.default_rng(seed), network.params
    groups = structure.find_groups(network, params, *INPUTS)
    mask = random_mask(groups, params, rng)
    small, plan = structure.compact(network, params, mask, *INPUTS, groups=groups)
    if plan.sizes != {group.name: group.size for group in groups}:
        run = jax.jit(network)
        masked = jax.tree.map(lambda leaf, keep: np.where(keep, leaf, 0), params, mask)
        want = run(masked, *INPUTS)
        if all(np.isfinite(each).all() for each in want.values()):
            close(run(small, *INPUTS), want)


@pytest.mark.usefixtures("_in_double_precision")
@examples(0.06)
@given(networks(exact=True), st.integers(0, 2**16))
def test_units_without_weights_go(network, seed):
    """Away from norms and selections all of them do, but for one of a group."""
    rng, params = np.random.default_rng(seed), network.params
    groups = structure.find_groups(network, params, *INPUTS)
    chosen = {g.name: sizes_of(g, rng) for g in groups.free}
    mask = unit_mask(groups, params, chosen)
    plan = structure.compact(network, params, mask, *INPUTS, groups=groups)[1]
    for name, units in chosen.items():
        assert plan.sizes[name] == 1 or {*plan.keep[name]} <= {*units}, name


# Forecasters.


@functools.cache
def analysed(name):
    """A model, a batch and its groups."""
    known = models.fields(name)
    sizes = {key: n for key, n in {**SMALL, "e_layers": 1}.items() if key in known}
    config = models.config(name, **sizes)
    forecaster, inputs = drawn(config), batch(config)
    return forecaster, inputs, structure.find_groups(models.forecast, forecaster, *inputs)


@pytest.mark.parametrize("name", models.MODELS)
def test_units_of_forecasters(name):
    """Hidden units, heads and their widths go, one by one; the widths that are normed stay."""
    forecaster, inputs, groups = analysed(name)
    but_one = {g.name: np.arange(1, g.size) for g in groups.free}
    dead = {n: units for n, units in but_one.items() if groups[n].size in (4, 20)}
    normed = {n: units for n, units in but_one.items() if n.endswith("embedding/value/kernel:2")}
    mask = unit_mask(groups, forecaster, dead | normed)
    small, plan = structure.compact(models.forecast, forecaster, mask, *inputs, groups=groups)
    assert gone_of(plan) == {unit: {0} for unit in dead}
    assert small.config.d_ff == 19
    masked = jax.tree.map(lambda leaf, keep: np.where(keep, leaf, 0), forecaster, mask)
    want, got = (jax.jit(models.forecast)(each, *inputs) for each in (masked, small))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5 * np.abs(want).max())


def test_units_of_a_forecaster_that_are_dead_on_one_side():
    """Of each unit only what goes in, or only what comes out, is cut."""
    forecaster, inputs, groups = analysed("transformer")
    mask = jax.tree.map(lambda leaf: np.ones(leaf.shape, bool), forecaster)
    layer = mask.params["encoder"]["layer_0"]
    up, down = (layer["feed_forward"][part] for part in ("up", "down"))
    up["kernel"][:, 3] = up["bias"][3] = down["kernel"][5] = False
    value, out = (layer["attention"][part] for part in ("value", "out"))
    value["kernel"][:, :, 1] = value["bias"][:, 1] = out["kernel"][2] = False
    plan = structure.compact(models.forecast, forecaster, mask, *inputs, groups=groups)[1]
    assert [*gone_of(plan).values()] == [{2}, {1}, {3, 5}]


@pytest.mark.parametrize("name", models.MODELS)
def test_half_of_the_weights_kill_no_unit(name):
    forecaster, inputs, groups = analysed(name)
    kernels = [np.abs(w).ravel() for w in jax.tree.leaves(forecaster.params) if w.ndim > 1]
    median = np.median(np.concatenate(kernels))
    weights = jax.tree.map(lambda w: (np.abs(w) > median) | (w.ndim < 2), forecaster.params)
    mask = dataclasses.replace(forecaster.kept(), params=weights)
    plan = structure.compact(models.forecast, forecaster, mask, *inputs, groups=groups)[1]
    assert gone_of(plan) == {}
