"""Compaction of the five forecasters."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_compaction import gone_of, unit_mask
from test_forecasters import SMALL

from tsjax import models, structure


@functools.cache
def forecaster(name):
    """The function, its configuration, variables, a batch and its groups."""
    known = models.fields(name)
    sizes = {key: n for key, n in {**SMALL, "e_layers": 1}.items() if key in known}
    config = models.config(name, **sizes)
    model, rng = models.create(name, config), np.random.default_rng(0)

    def draw(struct):
        return jnp.asarray(0.3 * rng.normal(size=struct.shape), struct.dtype)

    # Compiled for its state only: most of what it does is left out.
    state = jax.jit(lambda key: models.init(model, key)[1])(jax.random.key(0))
    shapes = jax.eval_shape(lambda: models.init(model, jax.random.key(0))[0])
    params, *batch = jax.tree.map(draw, (shapes, *models.input_shapes(config, 2)))
    variables, fn = {"params": params, **state}, models.sized_forward(config)
    return fn, config, variables, batch, structure.find_groups(fn, variables, *batch)


@pytest.mark.parametrize("name", models.MODELS)
def test_units_of_forecasters(name):
    """Hidden units, heads and their widths go, one by one; the widths that are normed stay."""
    fn, config, variables, batch, groups = forecaster(name)
    but_one = {g.name: np.arange(1, g.size) for g in groups.free}
    dead = {n: units for n, units in but_one.items() if groups[n].size in (4, 20)}
    normed = {n: units for n, units in but_one.items() if n.endswith("embedding/value/kernel:2")}
    mask = unit_mask(groups, variables, dead | normed)
    small, plan = structure.compact(fn, variables, mask, *batch, groups=groups)
    assert gone_of(plan) == {unit: {0} for unit in dead}
    assert models.config_from_params(config, small).d_ff == 19
    masked = jax.tree.map(lambda leaf, keep: np.where(keep, leaf, 0), variables, mask)
    want, got = (jax.jit(fn)(each, *batch) for each in (masked, small))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5 * np.abs(want).max())


def test_units_of_a_forecaster_that_are_dead_on_one_side():
    """Of each unit only what goes in, or only what comes out, is cut."""
    fn, _, variables, batch, groups = forecaster("transformer")
    mask = jax.tree.map(lambda leaf: np.ones(leaf.shape, bool), variables)
    layer = mask["params"]["encoder"]["layer_0"]
    up, down = (layer["feed_forward"][part] for part in ("up", "down"))
    up["kernel"][:, 3] = up["bias"][3] = down["kernel"][5] = False
    value, out = (layer["attention"][part] for part in ("value", "out"))
    value["kernel"][:, :, 1] = value["bias"][:, 1] = out["kernel"][2] = False
    plan = structure.compact(fn, variables, mask, *batch, groups=groups)[1]
    assert [*gone_of(plan).values()] == [{2}, {1}, {3, 5}]


@pytest.mark.parametrize("name", models.MODELS)
def test_half_of_the_weights_kill_no_unit(name):
    fn, _, variables, batch, groups = forecaster(name)
    kernels = [np.abs(w).ravel() for w in jax.tree.leaves(variables["params"]) if w.ndim > 1]
    median = np.median(np.concatenate(kernels))
    mask = jax.tree.map(lambda leaf: np.ones(leaf.shape, bool), variables)
    mask["params"] = jax.tree.map(
        lambda w: (np.abs(w) > median) | (w.ndim < 2), variables["params"]
    )
    assert gone_of(structure.compact(fn, variables, mask, *batch, groups=groups)[1]) == {}
