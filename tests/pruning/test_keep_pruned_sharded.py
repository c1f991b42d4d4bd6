"""`keep_pruned` on sharded params: in a process of its own, which has four host devices."""

import os
import subprocess
import sys

PROGRAM = """
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec as P

from tsjax import pruning
from tsjax.pruning.optimiser import keep_pruned

mesh = jax.make_mesh((4,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
specs = {"rows": P("x", None), "columns": P(None, "x"), "bias": P(), "scale": P()}
shardings = jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)
rng = np.random.default_rng(0)
shapes = {"rows": (8, 3), "columns": (3, 8), "bias": (3,), "scale": ()}
params = {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()}
mask = {name: jnp.asarray(rng.random(shape) < 0.5) for name, shape in shapes.items()}
tx = optax.adamw(0.1, weight_decay=0.3)
wrapped = keep_pruned(tx)


def sharded_like_params(tree):
    assert jax.tree.structure(tree) == jax.tree.structure(shardings)
    for name, leaf in tree.items():
        assert leaf.sharding.is_equivalent_to(shardings[name], leaf.ndim), (name, leaf.sharding)


@jax.jit
def step(params, state, grads):
    updates, state = wrapped.update(grads, state, params)
    return optax.apply_updates(params, updates), state, updates


def train(params, mask):
    state = keep_pruned(tx, mask).init(params)
    for _ in range(2):
        params, state, updates = step(params, state, params)
    return params, state, updates


expected, _, _ = train(params, mask)
on_mesh = jax.device_put(params, shardings)
masks = {"sharded": jax.device_put(mask, shardings), "on one device": mask}
for where, kept in masks.items():
    new, state, updates = train(on_mesh, kept)
    for tree in (new, updates, optax.tree.get(state, "mu"), optax.tree.get(state, "nu")):
        sharded_like_params(tree)
    for name, leaf in new.items():
        np.testing.assert_allclose(leaf, expected[name], rtol=1e-6)
        assert np.all(np.asarray(leaf)[~np.asarray(mask[name])] == 0)
    if where == "sharded":
        sharded_like_params(state.mask)
        sharded_like_params(keep_pruned(tx, kept).init(on_mesh).mask)

text = step.lower(on_mesh, keep_pruned(tx, masks["sharded"]).init(on_mesh), on_mesh).compile()
assert "all-gather" not in text.as_text() and "all-reduce" not in text.as_text()
print("held on", jax.device_count(), "devices")
"""


def test_updates_and_moments_keep_the_shardings_of_the_params():
    env = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=4",
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=env, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "held on 4 devices\n"
