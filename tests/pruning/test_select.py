"""`pruning.select`: which weights are kept, and exactly how many."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tsjax import pruning

LADDER = pruning.ladder(0.8, 10, floor=0.01)


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


def test_negative_scores_are_kept_last():
    scores = {"a": jnp.asarray([[-5.0, 3.0]]), "b": jnp.asarray([[-1.0, 0.0, -np.inf, -1e-30]])}
    assert kept(pruning.select(scores, 5 / 6)) == {"a": [[1, 1]], "b": [[1, 1, 0, 1]]}
    assert kept(pruning.select(scores, 4 / 6)) == {"a": [[0, 1]], "b": [[1, 1, 0, 1]]}
    assert kept(pruning.select(scores, 3 / 6)) == {"a": [[0, 1]], "b": [[0, 1, 0, 1]]}
    assert kept(pruning.select(scores, 2 / 6)) == {"a": [[0, 1]], "b": [[0, 1, 0, 0]]}


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


# Other scopes, and densities by leaf.

LAYERS = {
    "decoder": {"kernel": jnp.asarray([[1.0, 2.0], [3.0, 4.0]])},
    "encoder": [
        {"kernel": jnp.asarray([[10.0, 30.0]])},
        {"kernel": jnp.asarray([[20.0, 40.0]])},
    ],
}


@pytest.mark.parametrize(
    "scope",
    [
        ("encoder/*", "decoder/*"),
        ["decoder/kernel", "*"],
        lambda path: path.split("/")[0],
        lambda path: len(path),
    ],
)
def test_each_group_of_a_scope_is_ranked_by_itself(scope):
    mask = pruning.select(LAYERS, 0.5, scope=scope)
    assert kept(mask) == {
        "decoder": {"kernel": [[0, 0], [1, 1]]},
        "encoder": [{"kernel": [[0, 1]]}, {"kernel": [[0, 1]]}],
    }


def test_scopes_differ_in_what_is_kept():
    whole = pruning.select(LAYERS, 0.75, scope=lambda path: None)
    assert kept(whole) == kept(pruning.select(LAYERS, 0.75))
    assert kept(whole)["decoder"]["kernel"] == [[0, 0], [1, 1]]
    grouped = pruning.select(LAYERS, 0.75, scope=("decoder/*", "encoder/*"))
    assert kept(grouped)["decoder"]["kernel"] == [[0, 1], [1, 1]]
    assert kept(grouped)["encoder"] == [{"kernel": [[0, 1]]}, {"kernel": [[1, 1]]}]
    by_leaf = pruning.select(LAYERS, 0.75, scope="leaf")
    assert kept(by_leaf)["encoder"] == [{"kernel": [[1, 1]]}, {"kernel": [[1, 1]]}]


@pytest.mark.parametrize(
    ("table", "decoder", "encoder"),
    [
        # Each entry ranks what it matches together.
        ({"decoder/*": 0.25, "encoder/*": 0.5}, [[0, 0], [0, 1]], [[0, 1], [0, 1]]),
        ({"*": 0.5}, [[0, 0], [0, 0]], [[1, 1], [1, 1]]),
        ({"decoder/*": 0.0, "encoder/*": 1.0}, [[0, 0], [0, 0]], [[1, 1], [1, 1]]),
        # The first match holds,
        ({"encoder/*": 0.5, "*": 1.0}, [[1, 1], [1, 1]], [[0, 1], [0, 1]]),
        ({"*": 0.5, "encoder/*": 1.0}, [[0, 0], [0, 0]], [[1, 1], [1, 1]]),
        # but a leaf's own path comes before any glob.
        ({"*": 1.0, "encoder/0/kernel": 0.5}, [[1, 1], [1, 1]], [[0, 1], [1, 1]]),
    ],
)
def test_a_table_of_densities(table, decoder, encoder):
    mask = kept(pruning.select(LAYERS, table))
    assert mask["decoder"]["kernel"] == decoder
    assert [layer["kernel"][0] for layer in mask["encoder"]] == encoder


@pytest.mark.parametrize("density", LADDER)
def test_each_entry_of_a_table_keeps_its_own_count(density):
    mask = pruning.select(random_scores(levels=3), {"first/*": density, "*": 0.5})
    counts = pruning.summary(mask)
    assert counts["first/kernel"][0] == 20 - round((1 - density) * 20)
    assert counts["second/0/kernel"][0] + counts["second/1/kernel"][0] == 18


# A complex weight in two leaves.

FOURIER = {
    "fourier": {"real": jnp.asarray([9.0, 1.0, 2.0]), "imag": jnp.asarray([0.0, 8.0, 3.0])},
    "up": {"kernel": jnp.asarray([[4.0, 5.0]])},
}
WHOLE = (pruning.kernels, pruning.complex_pairs)


@pytest.mark.parametrize(
    ("density", "fourier", "up"),
    [(1.0, [1, 1, 1], [[1, 1]]), (0.6, [1, 1, 0], [[0, 1]]), (0.2, [1, 0, 0], [[0, 0]])],
)
def test_a_complex_weight_counts_once_by_its_larger_score(density, fourier, up):
    # Ranked are 9, 8, 3 and 4, 5.
    mask = pruning.select(FOURIER, density, where=WHOLE)
    assert kept(mask) == {"fourier": {"real": fourier, "imag": fourier}, "up": {"kernel": up}}
    assert pruning.density(mask) == density


def test_by_default_complex_weights_are_kept():
    assert kept(pruning.select(FOURIER, 0.5)) == {
        "fourier": {"real": [1, 1, 1], "imag": [1, 1, 1]},
        "up": {"kernel": [[0, 1]]},
    }


@pytest.mark.parametrize(
    "options",
    [
        {"density": 0.5, "scope": "leaf"},
        {"density": 0.5, "scope": ("fourier/real", "fourier/imag", "up/*")},
        {"density": {"fourier/imag": 1.0, "fourier/real": 0.5, "up/kernel": 0.5}},
        {"density": {"*/imag": 1.0, "*": 0.4, "fourier/real": 0.5}},
    ],
)
def test_the_real_part_speaks_for_both(options):
    mask = kept(pruning.select(FOURIER, **options, where=WHOLE))
    # Of three weights, 3 - round(1.5) = 1 is kept.
    assert mask["fourier"] == {"real": [1, 0, 0], "imag": [1, 0, 0]}


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


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"scope": ("a/*", "c/*")},
            "no prunable leaf matches c/*: they are a/kernel, b/kernel",
        ),
        ({"scope": ("a/*",)}, "no scope for b/kernel: add a glob that matches, or '*'"),
        (
            {"density": {"a/*": 0.5, "norm/*": 0.5, "b/*": 0.5}},
            "no prunable leaf matches norm/*: they are a/kernel, b/kernel",
        ),
        ({"density": {"b/*": 0.5}}, "no density for a/kernel: add a glob that matches, or '*'"),
        ({"density": {"*": 1.5}}, "the density of '*' must be in [0, 1], got 1.5"),
        ({"density": {"*": float("nan")}}, "the density of '*' must be in [0, 1], got nan"),
        (
            {"density": {"*": 0.5}, "scope": "leaf"},
            "a table of densities says what is ranked together: leave scope out",
        ),
        ({"density": None}, "density is missing: give the share to keep, in (0, 1]"),
        (
            {"where": "c/kernel"},
            (
                "no leaf matches 'c/kernel' (did you mean 'b/kernel' or 'a/kernel'?): "
                "the paths are a/kernel, b/kernel, norm/scale"
            ),
        ),
    ],
)
def test_bad_options_are_refused(options, said):
    scores = {**SMALL, "norm": {"scale": jnp.ones(2)}}
    with pytest.raises(ValueError, match=" ") as error:
        pruning.select(scores, **{"density": 0.5, **options})
    assert str(error.value) == said


def test_leaves_that_are_no_arrays_are_named():
    with pytest.raises(ValueError, match=r"no arrays: activation \(.*\), rate \(float\)\. Pass"):
        pruning.select({"kernel": jnp.ones((2, 2)), "activation": jnp.tanh, "rate": 0.1}, 0.5)


def test_two_leaves_with_one_path_are_refused():
    with pytest.raises(ValueError, match=r"two leaves have the path 'a/kernel'"):
        pruning.select({"a/kernel": jnp.ones((2, 2)), "a": {"kernel": jnp.ones((2, 2))}}, 0.5)
