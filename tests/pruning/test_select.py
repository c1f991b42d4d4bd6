"""`pruning.select`: an exact count, the right weights, one compilation."""

import dataclasses
import functools
import itertools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsjax import pruning, trees

LADDER = pruning.ladder(0.8, 10, floor=0.01)


def everything(path, leaf):
    return True


def kept(mask):
    """The mask's leaves as nested lists, which are easy to write by hand."""
    return jax.tree.map(lambda leaf: np.asarray(leaf).astype(int).tolist(), mask)


def random_scores(seed=0, levels=None):
    """A small nested tree; with ``levels``, only that many different scores."""
    rng = np.random.default_rng(seed)

    def draw(*shape):
        if levels:
            return jnp.asarray(rng.integers(0, levels, shape), jnp.float32)
        return jnp.asarray(rng.random(shape), jnp.float32)

    return {
        "first": {"kernel": draw(5, 4), "bias": draw(4)},
        "second": [{"kernel": draw(3, 4, 2)}, {"kernel": draw(4, 3)}],
    }


def reference(scores, density, scope, where):
    """The specification in plain numpy: a stable sort from the largest score down."""
    leaves, treedef = jax.tree.flatten(scores)
    paths = trees.paths(scores)
    chosen = [i for i, leaf in enumerate(leaves) if where(paths[i], leaf)]
    masks = [np.ones(leaf.shape, bool) for leaf in leaves]
    for group in [chosen] if scope == "global" else [[i] for i in chosen]:
        if not group:
            continue
        flat = np.concatenate([np.asarray(leaves[i], np.float64).ravel() for i in group])
        n = len(flat)
        keep = np.zeros(n, bool)
        keep[np.argsort(-flat, kind="stable")[: n - round((1 - density) * n)]] = True
        parts = np.split(keep, np.cumsum([leaves[i].size for i in group])[:-1])
        for i, part in zip(group, parts, strict=True):
            masks[i] = part.reshape(leaves[i].shape)
    return jax.tree.unflatten(treedef, masks)


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


# What is kept, by hand.

SMALL = {
    "a": {"kernel": jnp.asarray([[1.0, 8.0], [7.0, 2.0]])},
    "b": {"kernel": jnp.asarray([[3.0, 4.0], [6.0, 5.0]])},
}


@pytest.mark.parametrize(
    ("density", "a", "b"),
    [
        (1.0, [[1, 1], [1, 1]], [[1, 1], [1, 1]]),
        (0.875, [[0, 1], [1, 1]], [[1, 1], [1, 1]]),
        (0.5, [[0, 1], [1, 0]], [[0, 0], [1, 1]]),
        (0.25, [[0, 1], [1, 0]], [[0, 0], [0, 0]]),
        (0.01, [[0, 0], [0, 0]], [[0, 0], [0, 0]]),
    ],
)
def test_global_scope_ranks_all_leaves_together(density, a, b):
    mask = pruning.select(SMALL, density)
    assert kept(mask) == {"a": {"kernel": a}, "b": {"kernel": b}}


@pytest.mark.parametrize(
    ("density", "a", "b"),
    [
        (0.75, [[0, 1], [1, 1]], [[0, 1], [1, 1]]),
        (0.5, [[0, 1], [1, 0]], [[0, 0], [1, 1]]),
        (0.25, [[0, 1], [0, 0]], [[0, 0], [1, 0]]),
    ],
)
def test_leaf_scope_ranks_each_leaf_for_itself(density, a, b):
    mask = pruning.select(SMALL, density, scope="leaf")
    assert kept(mask) == {"a": {"kernel": a}, "b": {"kernel": b}}


def test_equal_scores_are_kept_in_the_order_of_their_position():
    scores = {"b": jnp.ones((2, 2)), "a": jnp.ones((2, 3))}
    mask = pruning.select(scores, 0.7)
    assert kept(mask) == {"a": [[1, 1, 1], [1, 1, 1]], "b": [[1, 0], [0, 0]]}


def test_zero_and_minus_zero_tie():
    scores = {"kernel": jnp.asarray([[-0.0, 0.0, -0.0, 0.0]])}
    assert kept(pruning.select(scores, 0.5)) == {"kernel": [[1, 1, 0, 0]]}


def test_infinite_scores_are_kept_first():
    scores = {"kernel": jnp.asarray([[1.0, np.inf, 3e38, 0.0]])}
    assert kept(pruning.select(scores, 0.25)) == {"kernel": [[0, 1, 0, 0]]}


def test_what_the_default_does_not_choose_is_kept_whole():
    low, high = jnp.full((2, 2), 0.1), jnp.full((2, 2), 9.0)
    scores = {
        "token_embedding": {"kernel": high, "bias": low[0]},
        "norm": {"scale": low[0], "bias": low[0]},
        "time": {"embedding": low},
        "positions": {"position": low},
        "experts": {"router": low},
        "output_projection": {"kernel": low, "bias": low[0]},
        "feed_forward": {"output": {"kernel": low}},
    }
    mask = pruning.select(scores, 0.5)
    pruned = [path for path, (count, size) in pruning.summary(mask).items() if count < size]
    assert pruned == ["feed_forward/output/kernel"]
    assert pruning.summary(mask)["feed_forward/output/kernel"] == (0, 4)


def test_where_gets_paths_and_leaves():
    scores = {"x": jnp.asarray([1.0, 2.0, 3.0, 4.0]), "y": jnp.asarray([0.1, 0.2])}
    mask = pruning.select(scores, 0.5, where=lambda path, leaf: path == "x" and leaf.ndim == 1)
    assert kept(mask) == {"x": [0, 0, 1, 1], "y": [1, 1]}


@pytest.mark.parametrize("scope", pruning.SCOPES)
def test_nothing_to_prune_keeps_everything(scope):
    assert pruning.select({}, 0.5, scope=scope) == {}
    scores = {"bias": jnp.zeros(3), "kernel": jnp.zeros((0, 3))}
    assert kept(pruning.select(scores, 0.5, scope=scope)) == {"bias": [1, 1, 1], "kernel": []}


# How much is kept.


@pytest.mark.parametrize("density", LADDER)
@pytest.mark.parametrize("levels", [None, 3])
def test_the_count_is_exact_on_every_rung(density, levels):
    scores = random_scores(levels=levels)
    n = 20 + 24 + 12
    count = sum(
        count
        for path, (count, _) in pruning.summary(pruning.select(scores, density)).items()
        if path.endswith("kernel")
    )
    assert count == n - round((1 - density) * n)
    assert abs(count - density * n) < 1


@pytest.mark.parametrize("density", LADDER)
def test_the_count_is_exact_in_each_leaf(density):
    mask = pruning.select(random_scores(levels=3), density, scope="leaf")
    for path, (count, n) in pruning.summary(mask).items():
        assert count == (n - round((1 - density) * n) if path.endswith("kernel") else n), path


@pytest.mark.parametrize("scope", pruning.SCOPES)
@pytest.mark.parametrize("levels", [None, 3])
def test_a_lower_density_keeps_a_subset(scope, levels):
    scores = random_scores(levels=levels)
    masks = [pruning.select(scores, density, scope=scope) for density in LADDER]
    assert pruning.density(masks[0]) == 1
    for higher, lower in itertools.pairwise(masks):
        within = jax.tree.map(lambda low, high: bool(jnp.all(~low | high)), lower, higher)
        assert all(jax.tree.leaves(within))


# Any tree, against plain numpy.


@functools.partial(jax.tree_util.register_dataclass, data_fields=["w", "b"], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class Dense:
    w: Any
    b: Any


VALUES = [0.0, -0.0, 0.25, 0.5, 1.0, 1.0, 1.0, 3.5, 1e-3, 7e-8, 1e-40, 6e4, np.inf]


@st.composite
def leaves(draw):
    dtype = draw(st.sampled_from([jnp.float32, jnp.bfloat16, jnp.float16]))
    shape = draw(st.sampled_from([(), (1,), (5,), (2, 3), (0,), (2, 0), (3, 1, 2)]))
    n = int(np.prod(shape))
    values = draw(st.lists(st.sampled_from(VALUES), min_size=n, max_size=n))
    return jnp.asarray(np.asarray(values, np.float64).reshape(shape), dtype)


TREES = st.recursive(
    leaves(),
    lambda children: st.one_of(
        st.lists(children, max_size=3),
        st.tuples(children, children),
        st.dictionaries(st.sampled_from("pqr"), children, max_size=3),
        st.builds(Dense, children, children),
    ),
    max_leaves=6,
)


@settings(max_examples=16, deadline=None)
@given(TREES, st.sampled_from([*LADDER, 0.5, 1e-9]), st.sampled_from(pruning.SCOPES))
def test_any_tree_gives_the_mask_of_a_stable_sort(scores, density, scope):
    mask = pruning.select(scores, density, scope=scope, where=everything)
    assert jax.tree.structure(mask) == jax.tree.structure(scores)
    chex.assert_trees_all_equal(mask, reference(scores, density, scope, everything))
    assert all(leaf.dtype == bool for leaf in jax.tree.leaves(mask))


@settings(max_examples=8, deadline=None)
@given(TREES, st.sampled_from(LADDER), st.sampled_from(pruning.SCOPES))
def test_pruning_what_is_pruned_changes_nothing(params, density, scope):
    once = pruning.select(pruning.magnitude(params), density, scope=scope, where=everything)
    masked = pruning.magnitude(pruning.apply(params, once))
    again = pruning.select(masked, density, scope=scope, where=everything)
    chex.assert_trees_all_equal(again, once)


@pytest.mark.parametrize("scope", pruning.SCOPES)
@pytest.mark.parametrize("seed", range(3))
def test_random_scores_give_the_mask_of_a_stable_sort(scope, seed):
    scores = random_scores(seed)
    for density in (0.9, 0.5, 0.03):
        expected = reference(scores, density, scope, pruning.kernels)
        chex.assert_trees_all_equal(pruning.select(scores, density, scope=scope), expected)


def test_float64_scores_are_ranked_at_their_own_precision():
    with jax.enable_x64(True):
        steps = np.random.default_rng(0).permutation(24).reshape(4, 6)
        scores = {"kernel": jnp.asarray(1.0 + 1e-13 * steps), "low": jnp.zeros((2, 3), jnp.float32)}
        mask = pruning.select(scores, 0.4)
    assert scores["kernel"].dtype == np.float64
    np.testing.assert_array_equal(mask["kernel"], steps >= 12)
    assert not np.any(mask["low"])


def test_numpy_scores_are_welcome():
    scores = jax.tree.map(np.asarray, random_scores())
    chex.assert_trees_all_equal(pruning.select(scores, 0.5), pruning.select(random_scores(), 0.5))


# Inside transformations.


def test_inside_jit_with_the_density_traced():
    scores = random_scores(levels=4)
    select = jax.jit(lambda scores, density: pruning.select(scores, density))
    for density in LADDER:
        chex.assert_trees_all_equal(select(scores, density), pruning.select(scores, density))


def test_inside_jit_with_the_density_fixed():
    scores = random_scores(levels=4)
    select = jax.jit(lambda scores: pruning.select(scores, 0.3, scope="leaf"))
    chex.assert_trees_all_equal(select(scores), pruning.select(scores, 0.3, scope="leaf"))


def test_vmap_over_scores_selects_in_each():
    each = [random_scores(seed) for seed in range(3)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)
    masks = jax.jit(jax.vmap(lambda scores: pruning.select(scores, 0.4)))(stacked)
    for i, scores in enumerate(each):
        mine = jax.tree.map(lambda leaf, i=i: leaf[i], masks)
        chex.assert_trees_all_equal(mine, pruning.select(scores, 0.4))


def test_vmap_over_densities():
    scores = random_scores()
    densities = jnp.asarray([1.0, 0.5, 0.25])
    masks = jax.jit(jax.vmap(lambda density: pruning.select(scores, density)))(densities)
    for i, density in enumerate(densities):
        mine = jax.tree.map(lambda leaf, i=i: leaf[i], masks)
        chex.assert_trees_all_equal(mine, pruning.select(scores, float(density)))


def test_new_densities_and_scores_never_trace_again(traces):
    # Shapes that no other test uses: here at least the first call is traced.
    several = [{"kernel": jnp.asarray(np.random.default_rng(i).random((7, 11)))} for i in range(3)]
    pruning.select(several[0], 0.8)
    assert "keep_largest" in traces
    traces.clear()
    for scores in several:
        for density in (0.5, 0.25, 1.0):
            pruning.select(scores, density)
    assert traces == []


def test_new_densities_and_scores_never_trace_again_under_jit():
    count = 0

    @jax.jit
    def select(scores, density):
        nonlocal count
        count += 1
        return pruning.select(scores, density)

    for seed, density in enumerate((0.8, 0.5, 0.25)):
        select(random_scores(seed), density)
    assert count == 1


# Bad input.


@pytest.mark.parametrize("density", [0.0, -0.5, 1.0001, 80, float("nan"), float("inf")])
def test_densities_outside_the_range_are_refused(density):
    with pytest.raises(ValueError, match=rf"^density must be in \(0, 1\], got {density}$"):
        pruning.select(SMALL, density)


def test_an_unknown_scope_is_refused_with_the_near_name():
    with pytest.raises(ValueError, match="scope") as error:
        pruning.select(SMALL, 0.5, scope="globl")
    assert str(error.value) == (
        "scope is 'globl' (did you mean 'global'?): use one of global, leaf, a sequence of globs, "
        "or a function of the path"
    )


def test_scores_that_cannot_be_ranked_are_named():
    scores = {
        "ok": {"kernel": jnp.ones((2, 2))},
        "nan": {"kernel": jnp.asarray([[1.0, np.nan], [np.nan, 2.0]])},
        "complex": {"kernel": jnp.ones((2, 2), jnp.complex64)},
        "whole": {"kernel": jnp.ones((2, 2), jnp.int32)},
    }
    with pytest.raises(ValueError, match="cannot rank") as error:
        pruning.select(scores, 0.5, where="*kernel")
    assert str(error.value) == (
        "cannot rank these scores:\n"
        "  complex/kernel: scores must be floating point, got complex64\n"
        "  nan/kernel: 2 of 4 scores are NaN\n"
        "  whole/kernel: scores must be floating point, got int32"
    )


def test_only_the_chosen_scores_are_checked():
    scores = {"kernel": jnp.asarray([[1.0, 2.0]]), "bias": jnp.asarray([np.nan])}
    assert kept(pruning.select(scores, 0.5)) == {"kernel": [[0, 1]], "bias": [1]}
