"""Masks under jit, scan, vmap, checkpoint and on sharded params; what never compiles again."""

import os
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tsjax import pruning
from tsjax.pruning import Blocks, NofM, Slices, Within

# Powers of two: a float32 density then rounds as a float does.
DENSITIES = (1.0, 0.5, 0.25, 0.0625)


def random_params(seed=0, levels=4):
    """A small nested tree; its weights have only a few moduli."""
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return jnp.asarray(rng.integers(-levels, levels, shape), jnp.float32)

    return {
        "first": {"kernel": draw(6, 4), "bias": draw(4)},
        "second": [{"kernel": draw(3, 4, 2)}],
    }


def one_by_one(run, xs):
    """The results of a function, stacked as scan and vmap stack them."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(run, xs))


WAYS = {
    "globally": lambda scores, density: pruning.select(scores, density),
    "by leaf": lambda scores, density: pruning.select(scores, density, "leaf"),
    "by glob": lambda scores, density: pruning.select(scores, density, ("first/*", "second/*")),
    "by table": lambda scores, density: pruning.select(scores, {"first/*": density, "*": 0.5}),
    "by erk": lambda scores, density: pruning.select(scores, pruning.erk(scores, density)),
    "blocks": lambda scores, density: pruning.select(scores, density, pattern=Blocks((2, 2))),
    "slices": lambda scores, density: pruning.select(scores, density, pattern=Slices(-1, "max")),
    "within": lambda scores, density: pruning.select(scores, density, pattern=Within(-1)),
    "n of m": lambda scores, density: pruning.select(
        scores, density, pattern={"first/*": NofM(2, 4), "*": None}
    ),
}


# Those that differ in what JAX sees.
KINDS = ("globally", "blocks", "within", "n of m")


@pytest.fixture(params=WAYS)
def way(request):
    return WAYS[request.param]


@pytest.fixture(params=KINDS)
def kind(request):
    return WAYS[request.param]


@pytest.fixture
def traces():
    """Names of the functions that JAX traces while the test runs."""
    names = []

    def listen(event, duration, **details):
        if event.endswith("jaxpr_trace_duration"):
            names.append(details.get("fun_name"))

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield names
    jax.monitoring.unregister_event_duration_listener(listen)


# The same masks everywhere.


def test_every_way_under_jit_with_the_density_traced_is_traced_once(way):
    traced = []

    @jax.jit
    def select(scores, density):
        traced.append(density)
        return way(scores, density)

    for seed, density in enumerate(DENSITIES):
        scores = pruning.magnitude(random_params(seed))
        chex.assert_trees_all_equal(select(scores, density), way(scores, density))
    assert len(traced) == 1


def test_eagerly_new_densities_and_scores_trace_nothing(way, traces):
    # Shapes that no other test uses: here at least the first call is traced.
    def scores(seed):
        rng = np.random.default_rng(seed)
        shapes = {"first": (7, 11), "second": (4, 13)}
        return {k: {"kernel": jnp.asarray(rng.random(s))} for k, s in shapes.items()}

    several = [scores(seed) for seed in range(3)]
    way(several[0], 0.8)
    traces.clear()
    for each in several:
        for density in (0.5, 0.25, 1.0):
            way(each, density)
    assert traces == []


def test_the_listener_hears_the_first_selection(traces):
    pruning.select({"kernel": jnp.ones((9, 17))}, 0.8)
    assert "keep_largest" in traces


def test_with_the_density_fixed():
    scores = pruning.magnitude(random_params())
    select = jax.jit(lambda scores: pruning.select(scores, 0.3, scope="leaf"))
    chex.assert_trees_all_equal(select(scores), pruning.select(scores, 0.3, scope="leaf"))


def test_scan_over_densities():
    scores = pruning.magnitude(random_params())

    def step(count, density):
        mask = pruning.select(scores, density)
        return count + sum(jnp.sum(leaf) for leaf in jax.tree.leaves(mask)), mask

    count, masks = jax.jit(lambda xs: jax.lax.scan(step, 0, xs))(jnp.asarray(DENSITIES))
    expected = one_by_one(lambda density: pruning.select(scores, density), DENSITIES)
    chex.assert_trees_all_equal(masks, expected)
    assert count == sum(int(np.sum(leaf)) for leaf in jax.tree.leaves(expected))


def test_scan_that_prunes_what_it_trains():
    def step(params, density):
        mask = pruning.select(pruning.magnitude(params), density)
        return jax.tree.map(lambda w: 1.5 * w, pruning.apply(params, mask)), None

    params = random_params(levels=50)
    pruned, _ = jax.jit(lambda params, xs: jax.lax.scan(step, params, xs))(
        params, jnp.asarray(DENSITIES)
    )
    last = pruning.select(pruning.magnitude(params), DENSITIES[-1])
    expected = jax.tree.map(lambda w: 1.5**4 * w, pruning.apply(params, last))
    expected["first"]["bias"] = 1.5**4 * params["first"]["bias"]
    chex.assert_trees_all_equal(pruned, expected)


def test_vmap_over_scores_selects_in_each(kind):
    each = [pruning.magnitude(random_params(seed)) for seed in range(3)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)
    masks = jax.jit(jax.vmap(lambda scores: kind(scores, 0.25)))(stacked)
    chex.assert_trees_all_equal(masks, one_by_one(lambda scores: kind(scores, 0.25), each))


def test_vmap_over_densities():
    scores = pruning.magnitude(random_params())
    select = lambda density: pruning.select(scores, density)  # noqa: E731
    masks = jax.jit(jax.vmap(select))(jnp.asarray(DENSITIES))
    chex.assert_trees_all_equal(masks, one_by_one(select, DENSITIES))


# Gradients.


def test_gradients_flow_through_what_is_selected_and_kept_under_checkpoint(kind):
    params = random_params()

    @jax.checkpoint
    def masked(params, density):
        return pruning.apply(params, kind(pruning.magnitude(params), density))

    @jax.jit
    def gradient(params, density):
        def loss(params):
            return sum(jnp.sum(w**3) for w in jax.tree.leaves(masked(params, density)))

        return jax.grad(loss)(params)

    kept = pruning.apply(params, kind(pruning.magnitude(params), 0.25))
    expected = jax.tree.map(lambda w: 3 * w**2, kept)
    chex.assert_trees_all_close(gradient(params, 0.25), expected, rtol=1e-6)


@pytest.mark.parametrize("use", [pruning.apply, pruning.straight_through])
def test_new_mask_values_never_compile_a_step_again(use):
    traced = []

    @jax.jit
    def step(params, mask):
        traced.append(mask)
        loss = lambda params: sum(jnp.sum(w**2) for w in jax.tree.leaves(use(params, mask)))  # noqa: E731
        return jax.tree.map(lambda w, g: w - 0.1 * g, params, jax.grad(loss)(params))

    params = random_params()
    for density in DENSITIES:
        params = step(params, pruning.select(pruning.magnitude(params), density))
    assert len(traced) == 1


# Sharded params, in a process of its own, which has four host devices.

PROGRAM = """
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P

from tsjax import pruning

mesh = jax.make_mesh((4,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
specs = {"rows": P("x", None), "columns": P(None, "x"), "whole": P()}
shardings = {name: {"kernel": NamedSharding(mesh, spec)} for name, spec in specs.items()}
rng = np.random.default_rng(0)
params = {
    name: {"kernel": jnp.asarray(rng.integers(-3, 4, (8, 12)), jnp.float32)} for name in specs
}
on_mesh = jax.device_put(params, shardings)


def sharded_like_params(tree):
    return all(
        tree[name]["kernel"].sharding.is_equivalent_to(shardings[name]["kernel"], 2)
        for name in specs
    )


def equal(tree, other):
    return all(jax.tree.leaves(jax.tree.map(np.array_equal, tree, other)))


options = {
    "globally": {},
    "by leaf": {"scope": "leaf"},
    "blocks": {"pattern": pruning.Blocks((2, 4))},
    "within": {"pattern": pruning.Within(-1)},
    "n of m": {"pattern": {"rows/*": pruning.NofM(2, 4), "*": None}},
}
for way, more in options.items():

    def prune(params, density):
        mask = pruning.select(pruning.magnitude(params), density, **more)
        return mask, pruning.apply(params, mask)

    jitted = jax.jit(prune, out_shardings=(shardings, None))
    if way in ("globally", "blocks"):
        expected, pruned = prune(params, 0.5)
        mask, result = prune(on_mesh, 0.5)
        assert equal(mask, expected) and equal(result, pruned), way
        assert sharded_like_params(result), way
    for density in (0.125, 0.5):
        expected, pruned = prune(params, density)
        mask, result = jitted(on_mesh, density)
        assert equal(mask, expected) and equal(result, pruned), way
        assert sharded_like_params(mask) and sharded_like_params(result), way
        assert pruning.summary(mask) == pruning.summary(expected)
    assert jitted._cache_size() == 1, way

apply = jax.jit(pruning.apply)
assert sharded_like_params(apply(on_mesh, mask)) and equal(apply(on_mesh, mask), pruned)
text = apply.lower(on_mesh, mask).compile().as_text()
assert "all-gather" not in text and "all-reduce" not in text
print("held on", jax.device_count(), "devices")
"""


def test_masks_of_sharded_params_are_those_of_whole_ones():
    env = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=4",
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=env, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "held on 4 devices\n"
