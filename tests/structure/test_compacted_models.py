"""Compaction of the five forecasters."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from forecasters import batch, drawn
from test_compaction import gone_of, unit_mask
from test_forecasters import SMALL

from tsjax import models, structure


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
