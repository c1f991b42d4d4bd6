"""Single updates of masks that change in training: by hand, their counts, and what is refused."""

import dataclasses
import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sparse_toy as toy
from hypothesis import given, settings
from hypothesis import strategies as st

from tsjax import pruning
from tsjax.pruning.algorithms import drop_and_grow, whole

KEY = jax.random.key(3)


def constant(step, *, share):
    return jnp.asarray(share)


@jax.jit
def one_update(algorithm, params, sparse, grads, **more):
    return algorithm.update(params, sparse, grads, **more)


def hand_case():
    """Five of ten weights are kept; the empty leaf and the scalar are never chosen."""
    rest = [np.float32(1), np.zeros((0, 2), np.float32)]
    mask = np.array([[1, 1, 1, 1, 1], [0, 0, 0, 0, 0]], bool)
    params = np.float32([[5, -1, 3, 0.5, -4], [0, 0, 0, 0, 0]])
    grads = np.float32([[0, 9, 0, 0, 0], [1, -7, 3, -2, 8]])
    tree = lambda leaf: jax.tree.map(jnp.asarray, {"kernel": leaf, "rest": rest})  # noqa: E731
    ones = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, bool), rest)
    sparse = pruning.SparseState({"kernel": jnp.asarray(mask), "rest": ones}, jnp.int32(0), KEY)
    return tree(params), sparse, tree(grads)


def test_rigl_by_hand():
    params, sparse, grads = hand_case()
    # Drops 0.5 and -1; the latter has the largest gradient and is grown at once.
    new, sparse = pruning.rigl(0.5, end=2**30, drop=0.4, every=1).update(params, sparse, grads)
    assert sparse.mask["kernel"].astype(int).tolist() == [[1, 1, 1, 0, 1], [0, 0, 0, 0, 1]]
    assert new["kernel"].tolist() == [[5, -1, 3, 0, -4], [0, 0, 0, 0, 0]]
    assert sparse.step == 1
    chex.assert_trees_all_equal(new["rest"], params["rest"])


@pytest.mark.parametrize(("share", "n"), [(0.0, 0), (0.19, 0), (0.2, 1), (0.99, 4), (1.0, 5)])
def test_the_share_to_drop_is_rounded_down(share, n):
    params, sparse, grads = hand_case()
    grads = jax.tree.map(jnp.zeros_like, grads) | {"kernel": jnp.zeros((2, 5)).at[1].set(1)}
    algorithm = pruning.Regrow(0.5, pruning.schedule(constant, share=share), every=1)
    mask = np.asarray(one_update(algorithm, params, sparse, grads)[1].mask["kernel"])
    assert mask.sum(1).tolist() == [5 - n, n]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_gradient_that_is_not_finite_pushes_no_survivor_out(bad):
    params, sparse, grads = hand_case()
    grads["kernel"] = grads["kernel"].at[1, :4].set(bad)
    algorithm = pruning.Regrow(0.5, pruning.schedule(constant, share=0.4), every=1)
    mask = one_update(algorithm, params, sparse, grads)[1].mask["kernel"].astype(int)
    assert mask.sum() == 5
    assert mask[0, [0, 2, 4]].tolist() == [1, 1, 1]
    # NaN grows last, infinity first.
    assert mask[1].tolist() == ([0, 0, 0, 0, 1] if np.isnan(bad) else [1, 1, 0, 0, 0])


@functools.cache
def jitted_exchange():
    def exchange(mask, low, high, drop, grow):
        return drop_and_grow(mask, low, high, lambda kept: (drop, grow), lambda *_: True)

    return jax.jit(exchange)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**20), st.integers(0, 24), st.integers(0, 24), st.integers(2, 9))
def test_drop_and_grow_is_a_stable_sort(seed, drop, grow, levels):
    rng = np.random.default_rng(seed)
    mask = rng.random((4, 5)) < rng.random()
    low, high = rng.integers(0, levels, (2, 4, 5)).astype(np.float32)
    drop = min(drop, int(mask.sum()))
    (got,) = jitted_exchange()([mask], [low], [high], drop, grow)
    np.testing.assert_array_equal(got, toy.exchange(mask, low, high, drop, grow))


def test_set_grows_anywhere_with_equal_chance():
    params = {"kernel": jnp.arange(1.0, 49).reshape(6, 8)}
    mask = {"kernel": jnp.arange(48).reshape(6, 8) >= 24}
    params = pruning.apply(params, mask)
    algorithm = pruning.sparse_evolution(0.5, drop=0.25, every=1)

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(0,))
    def grow(key):
        sparse = pruning.SparseState(mask, jnp.int32(0), key)
        return algorithm.update(params, sparse, params)[1].mask["kernel"].ravel()

    masks = np.asarray(grow(jax.random.split(KEY, 4000)))
    assert np.all(masks.sum(1) == 24)
    # The 18 largest survive; 6 of the other 30 are grown, each in a fifth of all draws.
    assert np.all(masks[:, 30:])
    chances = masks[:, :30].mean(0)
    assert np.all(np.abs(chances - 0.2) < 5 * np.sqrt(0.2 * 0.8 / 4000))
    assert len(np.unique(masks, axis=0)) > 3900


@pytest.mark.parametrize(
    "algorithm",
    [
        pruning.sparse_evolution(0.5, drop=1.0, every=1),
        pruning.Prune(
            pruning.schedule(pruning.one_shot, density=0.5), score="random", straight_through=True
        ),
    ],
    ids=["SET", "random"],
)
def test_each_step_draws_anew(algorithm):
    params, sparse, grads = hand_case()
    drawn = []
    for step in range(4):
        state = dataclasses.replace(sparse, step=jnp.int32(step))
        drawn.append(np.asarray(one_update(algorithm, params, state, grads)[1].mask["kernel"]))
    assert len({mask.tobytes() for mask in drawn}) == 4


def movement(**more):
    return pruning.gradual(0.2, begin=2, end=15, score="movement", **more)


def test_movement_gathers_at_the_weights_of_the_gradients():
    params, grads = {"kernel": jnp.asarray([[1.0, -2.0]])}, {"kernel": jnp.asarray([[0.5, 3.0]])}
    algorithm = movement(straight_through=True)
    sparse = algorithm.init(params, KEY)
    for n in (1, 2):
        _, sparse = one_update(
            algorithm, {"kernel": jnp.ones((1, 2))}, sparse, grads, before=params
        )
        assert sparse.memory["kernel"].tolist() == [[-0.5 * n, 6.0 * n]]


def test_movement_in_bfloat16_gathers_in_float32():
    """In bfloat16, 256 and 1 are 256."""
    sparse = movement().init({"kernel": jnp.ones((1, 2), jnp.bfloat16)}, KEY)
    for w in (16, 1):
        params = {"kernel": jnp.full((1, 2), w, jnp.bfloat16)}
        grads = jax.tree.map(jnp.negative, params)
        new, sparse = one_update(movement(), params, sparse, grads, before=params)
    assert sparse.memory["kernel"].tolist() == [[257, 257]]
    assert new["kernel"].dtype == jnp.bfloat16


def stairs(step, *, densities):
    return densities[step - 1]


@pytest.mark.parametrize("on", [False, True])
def test_where_the_density_rises(on):
    rising = pruning.schedule(stairs, densities=jnp.asarray([0.3, 0.7, 0.2]))
    algorithm = pruning.Prune(rising, begin=1, straight_through=on)
    params = {"kernel": jnp.arange(1.0, 11).reshape(2, 5)}
    sparse, kept = algorithm.init(params, KEY), []
    for _ in range(3):
        params, sparse = one_update(algorithm, params, sparse, params)
        kept.append(int(sparse.mask["kernel"].sum()))
    assert kept == ([3, 7, 2] if on else [3, 3, 2])


def test_blocks_are_pruned_whole_and_stay_pruned():
    blocks = functools.partial(pruning.select, pattern=pruning.Blocks((2, 2)))
    algorithm = pruning.gradual(0.25, begin=0, end=4, every=1, select=blocks)
    params = {"kernel": jnp.asarray(np.random.default_rng(0).normal(size=(4, 8)))}
    sparse, masks = algorithm.init(params, KEY), []
    for _ in range(4):
        params, sparse = one_update(algorithm, params, sparse, params)
        # What was pruned tries to come back.
        params = jax.tree.map(lambda w: jnp.where(w == 0, 10.0, w), params)
        masks.append(np.asarray(sparse.mask["kernel"]))
    for old, new in itertools.pairwise(masks):
        assert np.all(old | ~new)
    tiles = new.reshape(2, 2, 4, 2).transpose(0, 2, 1, 3).reshape(8, 4)
    assert sorted(tiles.sum(1).tolist()) == [0] * 6 + [4] * 2


# -- counts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("rounding", [jnp.floor, jnp.ceil])
def test_shares_that_are_whole_counts(rounding):
    """Up to four million weights, as in integers; float32 alone misses some."""
    rng = np.random.default_rng(0)
    kept = np.concatenate([np.arange(1, 2001), 100 * rng.integers(1, 40_000, 1000)])
    percent = np.arange(1, 101)
    share = jnp.asarray(percent / 100, jnp.float32)
    products = share[:, None] * jnp.asarray(kept, jnp.int32)[None]
    exact = percent[:, None] * kept
    exact = exact // 100 if rounding is jnp.floor else -(-exact // 100)
    np.testing.assert_array_equal(whole(products, rounding), exact)
    assert np.any(rounding(products) != exact)


def test_a_large_leaf_drops_the_exact_count():
    """0.13 of 900 weights are 117; in float32 they are 116.99999."""
    keep = np.arange(1800).reshape(40, 45) < 900
    sparse = pruning.SparseState({"kernel": jnp.asarray(keep)}, jnp.int32(0), KEY)
    algorithm = pruning.Regrow(0.5, pruning.schedule(constant, share=0.13), every=1)
    params, grads = {"kernel": jnp.asarray(keep, jnp.float32)}, {"kernel": jnp.float32(~keep)}
    mask = np.asarray(one_update(algorithm, params, sparse, grads)[1].mask["kernel"])
    assert (mask & ~keep).sum() == 117
    assert mask.sum() == 900


# -- what is accepted and refused ------------------------------------------------------------------


def test_a_list_of_choices_is_no_obstacle_to_jit():
    choices = [pruning.kernels, pruning.complex_pairs]
    for algorithm in (pruning.rigl(0.4, end=9, where=choices), pruning.pals(9, where=choices)):
        assert algorithm.where == tuple(choices)
        assert not jax.jit(lambda algorithm: algorithm.due(5))(algorithm)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match=r"score is 'magnitud' \(did you mean 'magnitude'"):
        pruning.gradual(0.5, begin=0, end=9, score="magnitud")
    with pytest.raises(ValueError, match=r"grow is 'gradients' \(did you mean 'gradient'.*random"):
        pruning.Regrow(0.5, pruning.schedule(constant, share=0.1), grow="gradients")


def test_movement_without_the_weights_before_is_refused():
    params, sparse, grads = hand_case()
    with pytest.raises(ValueError, match=r"movement pruning needs the weights .* before=params"):
        movement().update(params, sparse, grads)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda **numbers: pruning.gradual(**{"density": 0.5, "begin": 2, "end": 9} | numbers),
            {
                "density": (0.0, r"the density at step 9 must be in \(0, 1\], got 0.0"),
                "every": (0, "every must be at least 1, got 0"),
                "begin": (10, "begin must not be after end, got begin=10 and end=9"),
            },
        ),
        (
            lambda **numbers: pruning.static_sparse(**{"density": 0.5} | numbers),
            {"density": (np.array([0.5, 1.5]), r"density must be in \(0, 1\], got \[0.5 1.5\]")},
        ),
        (
            lambda **numbers: pruning.sparse_evolution(**{"density": 0.5} | numbers),
            {
                "drop": (-0.1, r"the share dropped at step 100 must be in \[0, 1\], got -0.1"),
                "every": (0, "every must be at least 1, got 0"),
            },
        ),
        (
            lambda **numbers: pruning.rigl(**{"density": 0.5, "end": 9, "every": 2} | numbers),
            {
                "density": (0.0, r"density must be in \(0, 1\], got 0.0"),
                "drop": (1.2, r"the share dropped at step 2 must be in \[0, 1\], got 1.05"),
                "every": (2.5, "every must be a whole number of steps, got 2.5"),
                "begin": (10, "begin must not be after end, got begin=10 and end=9"),
            },
        ),
        (
            lambda **numbers: pruning.pals(90, **numbers),
            {
                "every": (0, "every must be at least 1, got 0"),
                "tolerance": (0.9, "tolerance must be at least 1, got 0.9"),
                "factor": (0.5, "factor must be at least 1, got 0.5"),
                "least": (-1, r"least must be in \[0, 1\], got -1"),
                "most": (90, r"most must be in \[0, 1\], got 90"),
                "rate": (
                    pruning.schedule(constant, share=2.0),
                    r"the rate at step 20 must be in \[0, 1\], got 2.0",
                ),
                "least, most": ((0.9, 0.1), "least must not be above most, got 0.9 and 0.1"),
            },
        ),
    ],
    ids=["gradual", "static", "SET", "RigL", "PALS"],
)
def test_numbers_that_make_no_sense_are_refused(make, said):
    good = make()
    for names, (numbers, message) in said.items():
        numbers = numbers if "," in names else (numbers,)
        with pytest.raises(ValueError, match=message):
            make(**dict(zip(names.split(", "), numbers, strict=True)))
    # A transformation may put anything into the tree, and numbers that are traced are not known.
    empty = jax.tree.map(lambda _: None, good)
    assert type(empty) is type(good)
    params = jax.tree.map(jnp.asarray, toy.make_params())
    jax.eval_shape(lambda algorithm: algorithm.init(params, KEY), good)


def test_what_is_made_by_hand_is_checked_at_the_start():
    params = jax.tree.map(jnp.asarray, toy.make_params())
    algorithm = pruning.Prune(pruning.schedule(pruning.one_shot, density=0.5), every=0)
    with pytest.raises(ValueError, match="every must be at least 1, got 0"):
        algorithm.init(params, KEY)
    for algorithm in (
        pruning.Regrow(0.0, pruning.schedule(constant, share=0.1)),
        pruning.PALS(pruning.schedule(constant, share=0.1), most=2),
    ):
        with pytest.raises(ValueError, match="must be in"):
            algorithm.init(params, KEY)


def test_a_schedule_is_looked_at_only_where_it_is_used():
    params = jax.tree.map(jnp.asarray, toy.make_params())
    falling = pruning.schedule(lambda step, *, rate: rate ** jnp.float32(step), rate=0.9)
    pruning.Prune(falling).init(params, KEY)
    by_root = pruning.schedule(lambda step, *, a: a / jnp.sqrt(jnp.float32(step)), a=0.3)
    pruning.Regrow(0.5, by_root, every=5, end=30).init(params, KEY)
    linear = pruning.schedule(lambda step, *, a: a - 0.01 * step, a=0.3)
    pruning.Regrow(0.5, linear, every=5).init(params, KEY)
    with pytest.raises(ValueError, match=r"dropped at step 60 must be in \[0, 1\], got -0.3"):
        pruning.Regrow(0.5, linear, every=5, end=60).init(params, KEY)


def test_a_mask_is_held_from_the_first_step_to_the_last():
    params, sparse, grads = hand_case()
    algorithm = pruning.Hold(sparse.mask)
    first = algorithm.init(params, KEY)
    chex.assert_trees_all_equal(first.mask, sparse.mask)
    chex.assert_trees_all_equal(algorithm.held(sparse.mask), sparse.mask)
    new, after = one_update(algorithm, params, first, grads)
    chex.assert_trees_all_equal(new, params)
    chex.assert_trees_all_equal(after, dataclasses.replace(first, step=jnp.int32(1)))
    steps = jnp.arange(5)
    assert not algorithm.due(steps).any()
    assert algorithm.settled(steps).all()
    assert algorithm.problems() == []


def test_without_a_mask_all_weights_are_held():
    params, _, _ = hand_case()
    chex.assert_trees_all_equal(pruning.Hold().init(params, KEY).mask, pruning.ones(params))


def test_a_mask_that_does_not_fit_is_not_held():
    params, sparse, _ = hand_case()
    other = sparse.mask | {"kernel": jnp.ones((5, 2), bool)}
    with pytest.raises(ValueError, match=r"kernel: mask has shape \(5, 2\), params \(2, 5\)"):
        pruning.Hold(other).init(params, KEY)


def test_another_mask_to_hold_is_no_other_program():
    params, sparse, grads = hand_case()
    traces = []

    @jax.jit
    def step(algorithm, params, sparse):
        traces.append(1)
        return algorithm.update(params, sparse, grads)

    for mask in (sparse.mask, pruning.ones(params)):
        algorithm = pruning.Hold(mask)
        step(algorithm, params, algorithm.init(params, KEY))
    assert traces == [1]
