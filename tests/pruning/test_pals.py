"""PALS against a plain numpy version of its algorithm, and what it reaches."""

import dataclasses
import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sparse_toy as toy
from sparse_toy import BOTH, HELD, PRUNED

from tsjax import pruning

KEY = jax.random.key(0)
EVERY = 2
TRACES = []
train = jax.jit(functools.partial(toy.train, on_trace=lambda: TRACES.append(1)))


class Reference:
    """The algorithm, one due step after another; ``status`` is what was decided at each."""

    def __init__(self, rate, tolerance, factor, least, most, end, every=EVERY):
        self.rate, self.tolerance, self.factor = rate, tolerance, factor
        self.least, self.most, self.end, self.every = least, most, end, every
        self.best, self.best_sparsity = math.inf, 0.0
        self.status, self.sparsity, self.memory = [], [], []

    def __call__(self, t, moved, mask, grads, loss):
        if t % self.every == 0 and t <= self.end:
            mask = self.exchange(self.rate(t), moved, mask, grads, loss)
        self.memory.append((self.best, self.best_sparsity))
        return mask

    def exchange(self, rate, moved, mask, grads, loss):
        size = sum(leaf.size for leaf in mask.values())
        sparsity = 1 - sum(int(leaf.sum()) for leaf in mask.values()) / size
        if sparsity < self.least or (loss <= self.tolerance * self.best and sparsity < self.most):
            status = "shrink"
        elif loss > self.tolerance * self.best and sparsity > self.best_sparsity:
            status = "expand"
        else:
            status = "stay"
        if loss < self.best:
            self.best, self.best_sparsity = loss, sparsity
        self.status.append(status)
        self.sparsity.append(sparsity)
        low, high, new = toy.modulus(moved), toy.modulus(grads), dict(mask)
        for path in PRUNED:
            kept = int(mask[path].sum())
            # In decimals: 0.5 * 1.1 * 100 is 55, where floats have 55.00000000000001.
            drop = math.ceil(round(rate * kept * (self.factor if status == "shrink" else 1), 9))
            drop = min(drop, kept)
            grow = drop
            if status == "shrink":
                grow = math.floor(round(drop / self.factor, 9))
            elif status == "expand":
                grow = math.floor(round(drop * self.factor, 9))
            new[path] = toy.exchange(mask[path], low[path], high[path], drop, grow)
        return new


def follow(algorithm, reference, losses):
    """Trains on scripted losses in float64, and asserts that numpy does the same at each step."""
    with jax.enable_x64(True):
        _, history = train(algorithm, KEY, np.asarray(losses, float), toy.make_params())
        steps = toy.steps_of(history)
    dense = {path: np.ones(leaf.shape, bool) for path, leaf in toy.flat(toy.make_params()).items()}

    def rule(t, moved, before, mask, grads):
        return reference(t, moved, mask, grads, losses[t - 1])

    for t, want in enumerate(toy.np_train(rule, toy.make_params(), dense, len(losses))):
        got = steps[t]
        for path in want["mask"]:
            np.testing.assert_array_equal(got["mask"][path], want["mask"][path])
            np.testing.assert_allclose(got["params"][path], want["params"][path], atol=1e-9)
            assert np.all(got["params"][path][~got["mask"][path]] == 0)
        memory = got["memory"]["best"], got["memory"]["best_sparsity"]
        np.testing.assert_allclose(memory, reference.memory[t], rtol=1e-6)
    return steps


def at_due_steps(losses, every=EVERY):
    """Losses that are read; those between are bait."""
    return [
        losses[t // every - 1] if t % every == 0 else -9 for t in range(1, every * len(losses) + 1)
    ]


def constant(step, *, rate):
    return jnp.asarray(rate)


def algorithm_of(rate, **numbers):
    rate = pruning.schedule(constant, rate=rate)
    return pruning.PALS(rate, every=EVERY, where=BOTH, **numbers)


def test_a_script_of_losses_visits_every_status():
    numbers = {"tolerance": 1.1, "factor": 1.2, "least": 0.15, "most": 0.4, "end": 30}
    reference = Reference(lambda t: 0.4, **numbers)
    losses = at_due_steps([9, 9, 9, 1, 2, 2, 2, 2, 1.05, 1.2, 1.1, 1, 1, 0.5, 0.56, 0.5])
    follow(algorithm_of(0.4, **numbers), reference, losses)
    assert reference.status == (
        # Below the least sparsity, and while the loss stays near the best, 1.
        ["shrink"] * 4
        # Worse, until the sparsity is no longer above that of the best loss.
        + ["expand"] * 3
        + ["stay"]
        # In and out of the tolerance.
        + ["shrink", "expand", "shrink", "shrink"]
        # At the most; then worse, but no sparser than the best. The last is after the end.
        + ["stay"] * 3
    )
    assert max(reference.sparsity) > 0.4


def test_drops_and_growth_are_capped_by_the_leaf():
    numbers = {"tolerance": 1.1, "factor": 4.0, "least": 0.0, "most": 0.9, "end": 99}
    reference = Reference(lambda t: 0.5, **numbers)
    steps = follow(algorithm_of(0.5, **numbers), reference, at_due_steps([1, 5, 5, 5]))
    # The first would drop twice the weights there are, and grows a quarter of them.
    assert reference.status == ["shrink", "expand", "expand", "stay"]
    kernel = [int(step["mask"]["first/kernel"].sum()) for step in steps[1::2]]
    assert kernel == [12, 12 - 6 + 24, 48, 48]


def test_a_loss_that_is_nan_decides_nothing_and_is_not_remembered():
    numbers = {"tolerance": 1.1, "factor": 1.2, "least": 0.1, "most": 0.9, "end": 99}
    reference = Reference(lambda t: 0.4, **numbers)
    follow(algorithm_of(0.4, **numbers), reference, at_due_steps([np.nan] * 3 + [1, np.nan]))
    assert reference.status == ["shrink", "shrink", "stay", "shrink", "stay"]
    assert reference.best == 1


def test_a_training_with_the_authors_numbers():
    steps = 30
    losses = (1.5 + np.sin(np.arange(steps))).tolist()

    def rate(t):
        return 0.005 + (0.5 - 0.005) * (1 + math.cos(math.pi * t / steps)) / 2

    reference = Reference(rate, 1.1, 1.1, 0.2, 0.9, end=20)
    follow(pruning.pals(steps, every=EVERY, where=BOTH), reference, losses)
    assert len(reference.status) == 10
    assert len(set(reference.status)) > 1


def test_the_authors_numbers():
    algorithm = pruning.pals(300)
    assert (algorithm.end, algorithm.every, algorithm.least, algorithm.most) == (200, 20, 0.2, 0.9)
    rates = [algorithm.rate(t) for t in (0, 150, 300)]
    np.testing.assert_allclose(rates, [0.5, 0.2525, 0.005], rtol=1e-6)
    due = np.asarray(algorithm.due(jnp.arange(1, 301)))
    assert (1 + np.flatnonzero(due)).tolist() == list(range(20, 201, 20))
    assert pruning.pals(300, end=250, tolerance=1.2).end == 250


def test_training_begins_dense_and_other_leaves_stay_dense():
    params = jax.tree.map(jnp.asarray, toy.make_params())
    assert pruning.density(pruning.pals(300).init(params, KEY).mask) == 1
    with jax.enable_x64(True):
        steps = train(algorithm_of(0.4), KEY, np.ones(8), toy.make_params())[1]
        for step in toy.steps_of(steps):
            assert all(step["mask"][path].all() for path in HELD)
            np.testing.assert_array_equal(step["mask"]["mixing/real"], step["mask"]["mixing/imag"])
    assert not step["mask"]["mixing/real"].all()


@jax.jit
def one_update(algorithm, params, sparse, grads, loss):
    return algorithm.update(params, sparse, grads, loss)


@pytest.mark.parametrize(
    ("rate", "factor", "kept", "left"),
    [
        # drop ceil(0.55 * 100) = 55, grow 55 / 1.1 = 50: authors' floats drop 56.
        (0.5, 1.1, 100, 95),
        # drop ceil(0.24 * 900) = 216, grow 180.
        (0.2, 1.2, 900, 864),
        # drop ceil(0.35 * 3) = 2, grow floor(1.9) = 1.
        (1 / 3, 1.05, 3, 2),
    ],
)
def test_counts_are_exact_in_float32(rate, factor, kept, left):
    keep = (np.arange(1600) < kept).reshape(40, 40)
    params = {"kernel": jnp.where(keep, 1.0, 0.0)}
    algorithm = pruning.PALS(
        pruning.schedule(constant, rate=rate), factor=factor, every=1, most=1.0
    )
    sparse = algorithm.init(params, KEY)
    sparse = dataclasses.replace(sparse, mask={"kernel": jnp.asarray(keep)})
    _, sparse = one_update(algorithm, params, sparse, params, 1.0)
    assert int(sparse.mask["kernel"].sum()) == left


# -- under JAX's transformations -------------------------------------------------------------------


def test_one_program_serves_all_numbers_losses_and_steps():
    run = functools.partial(train, key=KEY, params=toy.make_params())
    with jax.enable_x64(True):
        run(algorithm_of(0.4), losses=np.ones(8))
        TRACES.clear()
        others = [
            algorithm_of(0.2, factor=1.3, tolerance=1.01, most=0.5),
            algorithm_of(0.7, least=0.5, begin=2, end=2**30),
        ]
        kept = {
            int(run(algorithm, losses=losses)[1]["mask"]["first"]["kernel"][-1].sum())
            for algorithm in others
            for losses in (np.ones(8), np.arange(1.0, 9))
        }
    assert len(kept) > 2
    assert TRACES == []


def test_a_loop_over_steps_compiles_one():
    """The best loss so far begins as a number like all later ones."""
    traces = []

    @jax.jit
    def step(algorithm, params, sparse, loss):
        traces.append(1)
        return algorithm.update(params, sparse, params, loss)

    params = {"kernel": jnp.arange(1.0, 21).reshape(4, 5)}
    state = params, algorithm_of(0.4).init(params, KEY)
    for algorithm, loss in ((algorithm_of(0.4), 3.0), (algorithm_of(0.3), 2.0)):
        for _ in range(3):
            state = step(algorithm, *state, jnp.float32(loss))
    assert traces == [1]
    assert state[1].memory["best"] == 2


def test_several_tolerances_at_once():
    losses = np.asarray(at_due_steps([9, 9, 9, 1, 1.15, 1.15, 1.15, 1.3]), float)
    algorithms = [algorithm_of(0.4, tolerance=t, factor=1.2) for t in (1.05, 1.2)]
    stack = jax.tree.map(lambda *numbers: np.stack(numbers), *algorithms)
    run = functools.partial(toy.train, loss=toy.linear_problem(16)[0])
    with jax.enable_x64(True):
        both = jax.jit(jax.vmap(run, in_axes=(0, None, None, None)))
        histories = both(stack, KEY, losses, toy.linear_params())[1]
        one, last = jax.jit(run), []
        for i, algorithm in enumerate(algorithms):
            want = one(algorithm, KEY, losses, toy.linear_params())[1]
            got = jax.tree.map(lambda leaf, i=i: leaf[i], histories)
            chex.assert_trees_all_equal(got["mask"], want["mask"])
            chex.assert_trees_all_close(got["params"], want["params"], atol=1e-9)
            last.append(int(want["mask"]["kernel"][-1].sum()))
    assert last[1] < last[0]


# -- does it learn? --------------------------------------------------------------------------------


@pytest.mark.parametrize(("needed", "least", "most"), [(16, 0.1, 0.25), (64, 0.4, 0.65)])
def test_it_finds_how_sparse_a_solution_can_be(needed, least, most):
    """Of 160 weights, 10 or 40 % are needed; it might go down to 5 %."""
    loss, validate = toy.linear_problem(needed)
    run = jax.jit(functools.partial(toy.train, loss=loss, validate=validate))
    algorithm = pruning.pals(300, every=5, factor=1.2, most=0.95)
    _, history = run(algorithm, KEY, np.zeros(300), toy.linear_params())
    last = jax.tree.map(lambda leaf: leaf[-1], history)
    assert least < pruning.density(last["mask"]) < most
    assert validate(last["params"]) < 0.14


def test_without_the_loss_it_says_how_to_give_it():
    params = {"kernel": jnp.ones((2, 2))}
    algorithm = pruning.pals(10)
    with pytest.raises(ValueError, match=r"needs the validation loss: update\(.*, loss\)"):
        algorithm.update(params, algorithm.init(params, KEY), params)
