"""Masks of params on a mesh, also one whose axes are part of an array's type; on four devices."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

from tsjax import pruning

axes, form = sys.argv[1:]
mesh = jax.make_mesh((4,), ("x",), axis_types=(AxisType[axes],))
rng = np.random.default_rng(0)
shapes = {"up": (16, 8), "down": (8, 16), "bias": (12,), "whole": (3, 5)}
host = {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()}
specs = {"up": P("x"), "down": P(None, "x"), "bias": P("x"), "whole": P()}
placed = jax.device_put(host, {name: NamedSharding(mesh, spec) for name, spec in specs.items()})
KEY = jax.random.key(0)


def check(what, function):
    expected = function(host)
    for found in (function(placed), jax.jit(function)(placed)):
        jax.tree.map(np.testing.assert_array_equal, found, expected)
        if axes == "Explicit" and isinstance(found, dict) and found.keys() == host.keys():
            for name, leaf in found.items():
                kind = jax.typeof(placed[name]).sharding
                assert leaf.shape != host[name].shape or jax.typeof(leaf).sharding == kind, what
    print(what, flush=True)


def selected(**how):
    return lambda params: pruning.select(pruning.magnitude(params), **how)


mask = selected(density=0.5)(host)
half = selected(density=0.5)
CHECKS = {
    "global": half,
    "erk": lambda params: pruning.select(pruning.magnitude(params), pruning.erk(params, 0.4)),
    "N:M, last axis": selected(pattern=pruning.NofM(2, 4, 1)),
    "blocks": selected(density=0.5, pattern=pruning.Blocks((4, 4))),
    "within rows": selected(density=0.5, pattern=pruning.Within(0)),
    "apply, a mask on one device": lambda params: pruning.apply(params, mask),
    "pack": lambda params: pruning.pack(half(params)),
}
MORE_CHECKS = {
    "leaf": selected(density=0.3, scope="leaf"),
    "random": lambda params: pruning.select(pruning.random(params, KEY), 0.4),
    "N:M, first axis": selected(pattern=pruning.NofM(2, 4, 0)),
    "rows": selected(density=0.5, pattern=pruning.Slices(0)),
    "columns": selected(density=0.5, pattern=pruning.Slices(1)),
    "within columns": selected(density=0.5, pattern=pruning.Within(1)),
    "ones": pruning.ones,
    "apply, a mask of its own": lambda params: pruning.apply(params, half(params)),
}
for what, function in (CHECKS if form == "short" else CHECKS | MORE_CHECKS).items():
    check(what, function)


def one_of_four(scores, density):
    return pruning.select(scores, pattern=pruning.NofM(1, 4))


every_other = {"begin": 0, "end": 4, "every": 2}
ALGORITHMS = (
    pruning.gradual(0.4, **every_other, score="movement", straight_through=True),
    pruning.rigl(0.4, end=4, every=2),
)
MORE_ALGORITHMS = (
    pruning.pals(6, every=2),
    pruning.gradual(0.4, **every_other),
    pruning.Prune(None, **every_other, select=one_of_four),
    pruning.static_sparse(0.4),
    pruning.sparse_evolution(0.4, every=2),
)
for algorithm in ALGORITHMS if form == "short" else ALGORITHMS + MORE_ALGORITHMS:
    tx = pruning.keep_pruned(optax.adamw(0.1))

    @jax.jit
    def step(params, sparse, state):
        def loss(params):
            masked = pruning.apply(params, sparse.mask)
            return sum(jnp.sum(jnp.cos(leaf)) for leaf in jax.tree.leaves(masked))

        grads = jax.grad(loss)(params)
        updates, state = tx.update(grads, state, params, mask=algorithm.held(sparse.mask))
        moved = optax.apply_updates(params, updates)
        params, sparse = algorithm.update(moved, sparse, grads, jnp.float32(1), before=params)
        return params, sparse, state

    def train(params, begin):
        sparse, state = begin(params, KEY), tx.init(params)
        for _ in range(4):
            params, sparse, state = step(params, sparse, state)
        return params, sparse.mask

    expected = train(host, algorithm.init)
    begins = (jax.jit(algorithm.init), algorithm.init)
    for begin in begins[:1] if form == "short" else begins:
        weights, kept = train(placed, begin)
        jax.tree.map(np.testing.assert_array_equal, kept, expected[1])
        for name, leaf in weights.items():
            np.testing.assert_allclose(leaf, expected[0][name], rtol=1e-5)
    with jax.set_mesh(mesh):
        _, kept = train(placed, algorithm.init)
    jax.tree.map(np.testing.assert_array_equal, kept, expected[1])
    print(type(algorithm).__name__, flush=True)
print("done")
"""


@pytest.mark.parametrize(
    ("axes", "form"),
    [
        ("Explicit", "short"),
        pytest.param("Explicit", "long", marks=pytest.mark.long),
        pytest.param("Auto", "long", marks=pytest.mark.long),
    ],
)
def test_all_masks_are_those_of_one_device(axes, form):
    environment = os.environ | {
        "XLA_FLAGS": os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=4"
    }
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM, axes, form], env=environment, capture_output=True,
        text=True, timeout=900, check=False,
    )  # fmt: skip
    assert found.returncode == 0, f"after {found.stdout.splitlines()[-1:]}:\n{found.stderr}"
    assert found.stdout.splitlines()[-1] == "done"
