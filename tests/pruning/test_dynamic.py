"""Masks that change in training: against numpy, step by step, and under JAX's transformations."""

import functools
import itertools
import os
import subprocess
import sys
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sparse_toy as toy
from sparse_toy import BOTH, HELD, PRUNED, SELECT

from tsjax import pruning

STEPS = 18
KEY = jax.random.key(3)


def gradual(**more):
    return pruning.gradual(0.2, begin=2, end=15, every=3, select=SELECT, **more)


one_shot_schedule = pruning.schedule(pruning.one_shot, density=0.3, begin=5)

ALGORITHMS = {
    "static": pruning.static_sparse(0.4, where=BOTH),
    "SET": pruning.sparse_evolution(0.4, drop=0.3, every=4, where=BOTH),
    "RigL": pruning.rigl(0.4, end=20, drop=0.5, every=3, where=BOTH),
    "RigL, uniform": pruning.rigl(
        0.3, end=12, drop=0.6, every=2, begin=3, allocate=pruning.uniform, where=BOTH
    ),
    "gradual": gradual(),
    "saliency": gradual(score="saliency"),
    "one-shot": pruning.Prune(one_shot_schedule, begin=5, end=5, select=SELECT),
    "straight-through": gradual(straight_through=True),
    "movement": gradual(score="movement", straight_through=True),
    "movement, held": gradual(score="movement"),
    "PALS": pruning.pals(STEPS, every=3, where=BOTH),
}
# Steps after which the mask may change, by hand.
DUE = {
    "static": [],
    "SET": [4, 8, 12, 16],
    "RigL": [3, 6, 9, 12, 15, 18],
    "RigL, uniform": [3, 5, 7, 9, 11],
    # The last is not a multiple of three after the first.
    "gradual": [2, 5, 8, 11, 14, 15],
    "one-shot": [5],
    "PALS": [3, 6, 9, 12],
}
DUE |= {name: DUE["gradual"] for name in ALGORITHMS if name not in DUE}
LEARNS_ON = {"straight-through", "movement"}
GROWS = {"SET", "RigL", "RigL, uniform"}
# A validation loss that goes up and down.
LOSSES = np.asarray(1 + 0.5 * np.cos(np.arange(STEPS)))


TRACES = []
train = jax.jit(functools.partial(toy.train, on_trace=lambda: TRACES.append(1)))


@functools.cache
def trained(name):
    """The first mask and the steps of a training in float64, where ties and roundings are rare."""
    with jax.enable_x64(True):
        first, history = train(ALGORITHMS[name], KEY, LOSSES, toy.make_params())
        return toy.flat(first), toy.steps_of(history)


def masks_of(name):
    first, steps = trained(name)
    return [first, *(step["mask"] for step in steps)]


# -- against numpy ---------------------------------------------------------------------------------


def np_cubic(t, density=0.2, begin=2, end=15):
    done = np.clip((t - begin) / (end - begin), 0, 1)
    return density + (1 - density) * (1 - done) ** 3


def np_select(scores, density):
    """Global; the two parts of the complex weight are ranked once, by the larger score."""
    scores = scores | {"mixing/real": np.maximum(scores["mixing/real"], scores["mixing/imag"])}
    ranked = [path for path in PRUNED if path != "mixing/imag"]
    joined = np.concatenate([scores[path].ravel() for path in ranked])
    keep = toy.largest(joined, joined.size - round((1 - density) * joined.size))
    ends = np.cumsum([scores[path].size for path in ranked])[:-1]
    masks = {path: np.ones(leaf.shape, bool) for path, leaf in scores.items()}
    for path, part in zip(ranked, np.split(keep, ends), strict=True):
        masks[path] = part.reshape(scores[path].shape)
    return masks | {"mixing/imag": masks["mixing/real"]}


def np_cosine(t, initial, end):
    return initial * (1 + np.cos(np.pi * min(t / end, 1))) / 2


DROPS = {
    "SET": lambda t: 0.3,
    "RigL": lambda t: np_cosine(t, 0.5, 20),
    "RigL, uniform": lambda t: np_cosine(t, 0.6, 12),
}


def np_rule(name):
    """What the algorithm does after each step. Where it draws, it is given what was drawn."""
    moves = dict.fromkeys(PRUNED, 0.0)

    def rule(t, moved, before, mask, grads):
        for path in PRUNED:
            parts = ("mixing/real", "mixing/imag") if path.startswith("mixing") else (path,)
            moves[path] = moves[path] - sum(before[part] * grads[part] for part in parts)
        if t not in DUE[name]:
            return mask
        low, high = toy.modulus(moved), toy.modulus(grads)
        if name in GROWS:
            new = dict(mask)
            for path in PRUNED:
                n = int(DROPS[name](t) * mask[path].sum() + 1e-9)
                if name == "SET":
                    drawn = masks_of(name)[t]
                    stay = toy.exchange(mask[path], low[path], low[path], n, 0)
                    assert np.all(drawn[path][stay])
                    assert drawn[path].sum() == mask[path].sum()
                    new[path] = drawn[path]
                else:
                    new[path] = toy.exchange(mask[path], low[path], high[path], n, n)
            return new
        density = 0.3 if name == "one-shot" else np_cubic(t)
        if name == "saliency":
            found = {path: low[path] * high[path] for path in low}
        else:
            found = low | moves if name.startswith("movement") else low
        if name not in LEARNS_ON:
            found = {path: np.where(mask[path], found[path], -np.inf) for path in found}
        return np_select(found, density)

    return rule


@pytest.mark.parametrize("name", sorted(set(ALGORITHMS) - {"PALS"}))
def test_a_whole_training_is_that_of_numpy(name):
    first, steps = trained(name)
    held = name not in LEARNS_ON
    expected = toy.np_train(np_rule(name), toy.make_params(), first, STEPS, held)
    for got, want in zip(steps, expected, strict=True):
        for path in want["mask"]:
            np.testing.assert_array_equal(got["mask"][path], want["mask"][path])
            for field in ("grads", "moved", "params"):
                np.testing.assert_allclose(got[field][path], want[field][path], atol=1e-9)


# -- what holds of every training ------------------------------------------------------------------


def grew(name):
    """For each step, the weights it brought back, by path."""
    masks = masks_of(name)
    return [{p: new[p] & ~old[p] for p in new} for old, new in itertools.pairwise(masks)]


def equal(a, b):
    return all(np.array_equal(a[path], b[path]) for path in a)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_masks_change_at_due_steps_only(name):
    masks = masks_of(name)
    changed = [t for t in range(1, STEPS + 1) if not equal(masks[t - 1], masks[t])]
    assert set(changed) <= set(DUE[name])
    assert len(changed) >= len(DUE[name]) // 2
    due = np.asarray(ALGORITHMS[name].due(jnp.arange(1, STEPS + 1)))
    assert (1 + np.flatnonzero(due)).tolist() == DUE[name]
    assert name == "SET" or not ALGORITHMS[name].due(100)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_only_the_chosen_leaves_are_pruned_and_a_complex_weight_is_kept_or_pruned_whole(name):
    for mask in masks_of(name):
        assert all(mask[path].all() for path in HELD)
        np.testing.assert_array_equal(mask["mixing/real"], mask["mixing/imag"])
    assert not all(mask[path].all() for path in PRUNED)


@pytest.mark.parametrize("name", sorted(set(ALGORITHMS) - LEARNS_ON))
def test_pruned_weights_are_zero_grown_ones_begin_at_zero_and_kept_ones_keep_their_value(name):
    _, steps = trained(name)
    for new, step in zip(grew(name), steps, strict=True):
        for path, keep in step["mask"].items():
            after, before = step["params"][path], step["moved"][path]
            assert np.all(after[~keep] == 0)
            assert np.all(after[new[path]] == 0)
            kept = keep & ~new[path]
            np.testing.assert_array_equal(after[kept], before[kept])
            assert np.all(after[kept] != 0) or name in GROWS | {"PALS"}


@pytest.mark.parametrize("name", sorted(GROWS))
def test_grown_weights_learn(name):
    _, steps = trained(name)
    for new, step in zip(grew(name)[:-1], steps[1:], strict=True):
        # Behind a hidden unit that goes nowhere, some have no gradient.
        assert np.all(step["moved"]["second/kernel"][new["second/kernel"]] != 0)
    assert sum(new[path].sum() for new in grew(name) for path in PRUNED) > 8


@pytest.mark.parametrize("name", ["gradual", "saliency", "one-shot", "movement, held"])
def test_what_is_pruned_stays_pruned(name):
    assert not any(leaf.any() for new in grew(name) for leaf in new.values())


@pytest.mark.parametrize("name", sorted(LEARNS_ON))
def test_straight_through_weights_learn_on_and_come_back(name):
    _, steps = trained(name)
    assert any(leaf.any() for new in grew(name) for leaf in new.values())
    for step in steps:
        for path in PRUNED:
            pruned = ~step["mask"][path]
            np.testing.assert_array_equal(step["params"][path], step["moved"][path])
            assert np.all(step["params"][path][pruned] != 0)


def kept_of(mask):
    """Kept weights, the complex ones once."""
    return sum(int(mask[path].sum()) for path in PRUNED if path != "mixing/imag")


@pytest.mark.parametrize("name", ["static", *sorted(GROWS)])
def test_each_leaf_keeps_its_count(name):
    # 48 + 24 + 6 weights; 78 - round(0.6 * 78) and 78 - round(0.7 * 78).
    first, *rest = masks_of(name)
    assert kept_of(first) == {"RigL, uniform": 23}.get(name, 31)
    for mask in rest:
        assert {path: leaf.sum() for path, leaf in mask.items()} == {
            path: leaf.sum() for path, leaf in first.items()
        }


@pytest.mark.parametrize(
    ("name", "allocate", "density"),
    [("RigL", pruning.erk, 0.4), ("RigL, uniform", pruning.uniform, 0.3)],
)
def test_the_first_mask_has_the_allocated_counts(name, allocate, density):
    """The allocation is of a number, the mask was made from a traced one."""
    params = toy.make_params()
    shares = allocate(params, density, BOTH)
    first = masks_of(name)[0]
    expected = {path: round(shares[path] * first[path].size) for path in PRUNED}
    assert {path: int(first[path].sum()) for path in PRUNED} == expected


@pytest.mark.parametrize("name", ["gradual", "movement", "movement, held"])
def test_gradual_pruning_follows_the_cubic_to_the_very_end(name):
    counts = [kept_of(mask) for mask in masks_of(name)]
    expected = [78] * (STEPS + 1)
    for t in range(1, STEPS + 1):
        due = t in DUE[name]
        expected[t] = 78 - round((1 - np_cubic(t)) * 78) if due else expected[t - 1]
    assert counts == expected
    assert counts[-1] == 78 - round(0.8 * 78)


def test_one_shot_prunes_once():
    assert [kept_of(mask) for mask in masks_of("one-shot")] == [78] * 5 + [23] * (STEPS - 4)


@pytest.mark.parametrize("name", ["static", "SET", "gradual"])
def test_the_key_decides_what_is_drawn_and_nothing_else(name):
    with jax.enable_x64(True):
        run = functools.partial(train, ALGORITHMS[name])
        same = run(KEY, LOSSES, toy.make_params())
        other = run(jax.random.key(4), LOSSES, toy.make_params())
        first, steps = trained(name)
        assert equal(toy.flat(same[0]), first)
        for got, want in zip(toy.steps_of(same[1]), steps, strict=True):
            assert equal(got["params"], want["params"])
            assert equal(got["mask"], want["mask"])
    last = toy.steps_of(other[1])[-1]["mask"]
    assert equal(got["mask"], last) == (name == "gradual")


def test_the_gradient_through_the_mask_is_that_at_the_masked_weights():
    params = jax.tree.map(jnp.asarray, toy.make_params())
    mask = jax.tree.map(lambda w: jnp.arange(w.size).reshape(w.shape) % 3 > 0, params)
    gradient = jax.jit(jax.grad(lambda w, masked: toy.loss(masked(w, mask))), static_argnums=1)
    through = gradient(params, pruning.straight_through)
    at_masked = jax.jit(jax.grad(toy.loss))(pruning.apply(params, mask))
    chex.assert_trees_all_close(through, at_masked, rtol=1e-6)
    assert np.all(at_masked["second"]["kernel"] != 0)


# -- under JAX's transformations -------------------------------------------------------------------

OTHERS = {
    "static": [pruning.static_sparse(0.7, where=BOTH)],
    "SET": [pruning.sparse_evolution(0.2, drop=0.5, every=2, begin=3, end=11, where=BOTH)],
    "RigL": [
        pruning.rigl(0.2, end=7, drop=0.5, every=2, where=BOTH),
        pruning.rigl(0.6, end=10**9, drop=0.1, every=1, begin=4, where=BOTH),
    ],
    "gradual": [
        pruning.gradual(0.5, begin=1, end=9, every=2, select=SELECT),
        pruning.gradual(0.1, begin=0, end=10**9, every=1, select=SELECT),
    ],
    "movement": [
        pruning.gradual(
            0.5, begin=1, end=9, every=2, score="movement", straight_through=True, select=SELECT
        )
    ],
    "PALS": [pruning.pals(40, every=5, tolerance=1.05, factor=1.2, most=0.5, where=BOTH)],
}


@pytest.mark.parametrize("name", OTHERS)
def test_one_program_serves_all_numbers_masks_and_steps(name):
    last = [masks_of(name)[-1]]
    with jax.enable_x64(True):
        # Once more: between tests, JAX may have been made to forget what it compiled.
        train(ALGORITHMS[name], KEY, LOSSES, toy.make_params())
        TRACES.clear()
        for seed, algorithm in enumerate(OTHERS[name]):
            _, history = train(algorithm, jax.random.key(seed), LOSSES, toy.make_params(seed))
            last.append(toy.steps_of(history)[-1]["mask"])
    assert len({kept_of(mask) for mask in last}) == len(last)
    assert TRACES == []


def test_a_loop_over_steps_compiles_one():
    """The step and the mask of the state are data, and the first state is like all others."""
    algorithm, traces = pruning.rigl(0.4, end=20, every=3), []

    @jax.jit
    def step(params, sparse):
        traces.append(1)
        grads = jax.tree.map(lambda keep: jnp.float32(~keep), sparse.mask)
        return algorithm.update(params, sparse, grads)

    params = jax.tree.map(jnp.float32, toy.linear_params())
    state, masks = (params, algorithm.init(params, KEY)), []
    for _ in range(7):
        state = step(*state)
        masks.append(toy.flat(state[1].mask))
    assert traces == [1]
    assert state[1].step == 7
    assert [equal(a, b) for a, b in itertools.pairwise(masks)] == [1, 0, 1, 1, 0, 1]


@pytest.mark.parametrize("name", ["RigL", "movement"])
def test_several_densities_and_seeds_at_once(name):
    algorithms = [ALGORITHMS[name], OTHERS[name][0]]
    keys = jax.random.split(KEY, 2)
    with jax.enable_x64(True):
        # Made in float64: in float32 a density of 0.4 is another number.
        stack = jax.tree.map(lambda *numbers: jnp.stack(numbers), *algorithms)
        over_keys = jax.vmap(toy.train, in_axes=(None, 0, None, None))
        grid = jax.jit(jax.vmap(over_keys, in_axes=(0, None, None, None)))
        first, history = grid(stack, keys, LOSSES, toy.make_params())
        for i, algorithm in enumerate(algorithms):
            for j, key in enumerate(keys):
                want_first, want = train(algorithm, key, LOSSES, toy.make_params())
                got_first, got = jax.tree.map(lambda leaf, ij=(i, j): leaf[ij], (first, history))
                chex.assert_trees_all_equal(got_first, want_first)
                chex.assert_trees_all_equal(got["mask"], want["mask"])
                chex.assert_trees_all_close(got["params"], want["params"], atol=1e-9)


def test_a_rematerialised_loss_trains_the_same():
    _, steps = trained("RigL")
    with jax.enable_x64(True):
        run = jax.jit(functools.partial(toy.train, loss=jax.checkpoint(toy.loss)))
        _, history = run(ALGORITHMS["RigL"], KEY, LOSSES, toy.make_params())
        for got, want in zip(toy.steps_of(history), steps, strict=True):
            assert equal(got["mask"], want["mask"])
            for path, leaf in want["params"].items():
                np.testing.assert_allclose(got["params"][path], leaf, atol=1e-9)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["SET", "gradual", "movement", "PALS"])
def test_a_state_keeps_its_types(name, dtype):
    """Weak types too: a state that lost one would trace the second step again."""
    algorithm = ALGORITHMS[name]
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), toy.make_params())
    before = params, jax.eval_shape(algorithm.init, params, KEY)
    after = jax.eval_shape(lambda p, s: algorithm.update(p, s, p, jnp.float32(1), p), *before)
    types = [[(x.shape, x.dtype, x.weak_type) for x in jax.tree.leaves(t)] for t in (before, after)]
    assert types[0] == types[1]


SHARDED = ["SET", "RigL", "movement", "PALS"]
PROGRAM = """
import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
import sparse_toy as toy
from test_dynamic import ALGORITHMS, KEY, LOSSES, SHARDED

expected = np.load(FILE)
mesh = jax.make_mesh((4,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
specs = jax.tree.map(lambda _: P(), toy.make_params())
specs["first"] = {"kernel": P(None, "x"), "bias": P("x")}
specs["second"] = {"kernel": P("x")}
shardings = jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)
params = jax.device_put(toy.make_params(), shardings)
assert params["first"]["kernel"].addressable_shards[0].data.shape == (toy.I, toy.H // 4)
run = jax.jit(toy.train)
for name in SHARDED:
    _, history = run(ALGORITHMS[name], KEY, LOSSES, params)
    kernel = history["params"]["first"]["kernel"]
    for t, step in enumerate(toy.steps_of(history)):
        for path, leaf in step["mask"].items():
            np.testing.assert_array_equal(leaf, expected[f"{name}:{t}:{path}:mask"])
            np.testing.assert_allclose(
                step["params"][path], expected[f"{name}:{t}:{path}:params"], atol=1e-9
            )
    print(f"{name} on {len(kernel.sharding.device_set)}: {kernel.sharding.spec}")
"""


def test_sharded_params_train_the_same(tmp_path):
    expected = {
        f"{name}:{t}:{path}:{field}": leaf
        for name in SHARDED
        for t, step in enumerate(trained(name)[1])
        for field in ("mask", "params")
        for path, leaf in step[field].items()
    }
    np.savez(tmp_path / "expected.npz", **expected)
    env = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_ENABLE_X64": "1",
        "XLA_FLAGS": os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=4",
        "PYTHONPATH": str(Path(__file__).parent),
    }
    program = PROGRAM.replace("FILE", repr(str(tmp_path / "expected.npz")))
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=env, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "".join(f"{name} on 4: P(None, None, 'x')\n" for name in SHARDED)


# -- do they learn? --------------------------------------------------------------------------------


def test_rigl_and_set_find_a_sparse_solution():
    """A random mask has a fifth of the weights that are needed, 16 of 160; growth finds others."""
    loss, _ = toy.linear_problem(16)
    run = jax.jit(jax.vmap(functools.partial(toy.train, loss=loss), in_axes=(None, 0, None, None)))
    keys, steps = jax.random.split(KEY, 4), np.zeros(150)
    algorithms = {
        # As a static mask, without another program.
        "static": pruning.sparse_evolution(0.2, drop=0.0),
        "SET": pruning.sparse_evolution(0.2, every=5, end=120),
        "RigL": pruning.rigl(0.2, every=5, end=120),
    }
    last = {
        name: np.asarray(run(algorithm, keys, steps, toy.linear_params())[1]["loss"][:, -1])
        for name, algorithm in algorithms.items()
    }
    assert np.all(last["static"] > 1)
    assert np.all(last["SET"] < 0.5 * last["static"])
    assert np.all(last["RigL"] < 0.1)
