"""Patterns: N:M, blocks, slices and rows, by hand and against plain numpy."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsjax import pruning
from tsjax.pruning import Blocks, NofM, Slices, Within


def kernel(scores):
    return {"kernel": jnp.asarray(scores, jnp.float32)}


def kept(scores, density=None, **options):
    """The mask of a tree, or of one kernel, as nested lists."""
    mask = pruning.select(
        scores if isinstance(scores, dict) else kernel(scores), density, **options
    )
    lists = jax.tree.map(lambda leaf: np.asarray(leaf).astype(int).tolist(), mask)
    return lists if isinstance(scores, dict) else lists["kernel"]


@st.composite
def cases(draw, cases):
    """One of these (shape, pattern), and scores: some with ties and zeros, of either sign."""
    shape, pattern = draw(st.sampled_from(cases))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    levels = draw(st.sampled_from([2, 4, 1000]))
    return pattern, (rng.integers(-1, levels, shape) / 4).astype(np.float32)


# Powers of two: a traced float32 density then rounds as a float does.
DENSITIES = st.sampled_from([1.0, 0.75, 0.5, 0.25, 0.125, 0.015625])


@functools.cache
def selection(pattern):
    """Compiled once for each pattern and shape."""

    def select(scores, density):
        fixed = isinstance(pattern, NofM)
        return pruning.select({"kernel": scores}, None if fixed else density, pattern=pattern)

    compiled = jax.jit(lambda scores, density: select(scores, density)["kernel"])

    def masked(scores, density=1.0):
        mask = np.asarray(compiled(scores, density))
        assert mask.shape == scores.shape
        return mask

    return masked


def largest(scores, k):
    """The mask of the ``k`` largest, ties by position."""
    mask = np.zeros(len(scores), bool)
    mask[np.argsort(-scores, kind="stable")[:k]] = True
    return mask


# N:M.


def test_two_of_four_inputs_of_each_output():
    scores = [[1, 8], [4, 5], [2, 6], [3, 7], [0, 1], [9, 0], [1, 2], [1, 3]]
    expected = [[0, 1], [1, 0], [0, 0], [1, 1], [0, 0], [1, 0], [1, 1], [0, 1]]
    assert kept(scores, pattern=NofM(2, 4)) == expected


def test_groups_along_another_axis():
    assert kept([[1, 2, 4, 3], [8, 7, 5, 6]], pattern=NofM(1, 2, -1)) == [
        [0, 1, 1, 0],
        [1, 0, 0, 1],
    ]


@pytest.mark.parametrize(
    ("n", "m", "expected"),
    [
        (1, 4, [0, 0, 0, 1, 0, 1]),
        (2, 4, [0, 0, 1, 1, 1, 1]),
        (3, 4, [0, 1, 1, 1, 1, 1]),
        (2, 8, [0, 0, 0, 0, 1, 1]),
        (5, 5, [1, 1, 1, 1, 1, 1]),
    ],
)
def test_a_short_last_group_keeps_as_many(n, m, expected):
    assert kept([[1, 2, 3, 4, 5, 6]], pattern=NofM(n, m, axis=1)) == [expected]


def test_ties_within_a_group_go_by_position():
    assert kept([[0.0, -0.0, 1, 1], [-0.0, 0, -1, 0]], pattern=NofM(1, 2, -1)) == [
        [1, 0, 1, 0],
        [1, 0, 0, 1],
    ]


@settings(max_examples=30, deadline=None)
@given(
    cases(
        [
            ((8, 3), NofM(2, 4)),
            ((5, 2), NofM(1, 2)),
            ((2, 6, 2), NofM(3, 4, -2)),
            ((2, 3, 7), NofM(2, 3, -1)),
            ((5, 2, 2), NofM(2, 4, 0)),
        ]
    )
)
def test_every_group_keeps_its_largest(case):
    pattern, scores = case
    mask = selection(pattern)(scores)
    lanes, lanes_kept = (
        np.moveaxis(x, pattern.axis, -1).reshape(-1, x.shape[pattern.axis]) for x in (scores, mask)
    )
    for lane, keep in zip(lanes, lanes_kept, strict=True):
        for first in range(0, len(lane), pattern.m):
            group, stay = lane[first : first + pattern.m], keep[first : first + pattern.m]
            np.testing.assert_array_equal(stay, largest(group, pattern.n))


def test_within_a_global_mask():
    scores = kernel([[9, 8, 7, 6], [5, 4, 3, 2]])
    both = pruning.intersect(
        pruning.select(scores, 0.75), pruning.select(scores, pattern=NofM(1, 2, -1))
    )
    assert both["kernel"].tolist() == [[True, False, True, False], [True, False, False, False]]


# Blocks and slices.

FOUR = [[1, 2, 0, 0], [3, 4, 0, 9], [5, 5, 1, 1], [5, 5, 1, 1]]


@pytest.mark.parametrize(
    ("pattern", "density", "expected"),
    [
        # Means 2.5, 2.25, 5, 1; maxima 4, 9, 5, 1.
        (Blocks((2, 2)), 0.25, [[0, 0], [1, 0]]),
        (Blocks((2, 2)), 0.5, [[1, 0], [1, 0]]),
        (Blocks((2, 2)), 0.75, [[1, 1], [1, 0]]),
        (Blocks((2, 2), "max"), 0.25, [[0, 1], [0, 0]]),
        (Blocks((2, 2), "max"), 0.5, [[0, 1], [1, 0]]),
        # Half a block less, half a block more: the shorter of two as near.
        (Blocks((2, 2)), 0.375, [[0, 0], [1, 0]]),
        (Blocks((2, 2)), 0.4375, [[1, 0], [1, 0]]),
        (Blocks((2, 2)), 0.01, [[0, 0], [0, 0]]),
    ],
)
def test_the_best_blocks_are_kept_whole(pattern, density, expected):
    assert kept(FOUR, density, pattern=pattern) == np.kron(expected, np.ones((2, 2))).tolist()


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        # Rows' means 0.75, 4, 3, 3 and maxima 2, 9, 5, 5; columns' means 3.5, 4, 0.5, 2.75.
        (Slices(0), [[0] * 4, [1] * 4, [1] * 4, [0] * 4]),
        (Slices(0, "max"), [[0] * 4, [1] * 4, [1] * 4, [0] * 4]),
        (Slices(-1), [[1, 1, 0, 0]] * 4),
        (Slices(-1, "max"), [[1, 0, 0, 1]] * 4),
        (Slices(1), [[1, 1, 0, 0]] * 4),
    ],
)
def test_the_best_slices_are_kept_whole(pattern, expected):
    assert kept(FOUR, 0.5, pattern=pattern) == expected


def test_blocks_at_the_far_edge_are_smaller():
    # Blocks of 4, 2 in the first rows, of 2, 1 in the last; a mean runs over what is there.
    scores = [[1, 1, 4], [1, 1, 4], [3, 3, 5]]
    pattern = Blocks((2, 2))
    assert kept(scores, 1 / 9, pattern=pattern) == [[0, 0, 0], [0, 0, 0], [0, 0, 1]]
    assert kept(scores, 3 / 9, pattern=pattern) == [[0, 0, 1], [0, 0, 1], [0, 0, 1]]
    assert kept(scores, 5 / 9, pattern=pattern) == [[0, 0, 1], [0, 0, 1], [1, 1, 1]]
    assert kept(scores, 1.0, pattern=pattern) == [[1, 1, 1]] * 3


def test_what_lies_beyond_the_edge_has_no_score():
    assert kept([[-1, -2, -3]], 0.7, pattern=Blocks((1, 2), "max")) == [[1, 1, 0]]
    assert kept([[-1, -2, -3]], 0.7, pattern=Blocks((1, 2), "mean")) == [[1, 1, 0]]
    assert kept([[-1, -2, -3]], pattern=NofM(1, 2, -1)) == [[1, 0, 1]]


def test_equal_blocks_are_kept_in_the_order_of_their_position():
    scores = [[-0.0, -0.0], [0.0, -0.0], [-1.0, 0.0], [-2.0, 0.0]]
    assert kept(scores, 0.5, pattern=Slices(0, "max")) == [[1, 1], [1, 1], [0, 0], [0, 0]]
    tree = {"b": {"kernel": jnp.ones((2, 2))}, "a": {"kernel": jnp.ones((2, 2))}}
    mask = kept(tree, 0.75, pattern=Slices(-1))
    assert mask == {"a": {"kernel": [[1, 1], [1, 1]]}, "b": {"kernel": [[1, 0], [1, 0]]}}


def test_a_block_larger_than_the_leaf_is_the_leaf():
    assert kept([[1, 2], [3, 4]], 0.75, pattern=Blocks((16, 16))) == [[1, 1], [1, 1]]
    assert kept([[1, 2], [3, 4]], 0.5, pattern=Blocks((16, 16))) == [[0, 0], [0, 0]]


def test_blocks_of_the_last_axes_of_a_kernel_of_rank_three():
    scores = [[[1, 1, 4, 4]], [[3, 3, 2, 2]]]
    assert kept(scores, 0.5, pattern=Blocks((1, 2))) == [[[0, 0, 1, 1]], [[1, 1, 0, 0]]]
    assert kept(scores, 0.5, pattern=Blocks((2,))) == [[[0, 0, 1, 1]], [[1, 1, 0, 0]]]


@pytest.mark.parametrize(
    ("axis", "expected"),
    [
        (0, [[[0, 0], [0, 0]], [[1, 1], [1, 1]]]),
        (1, [[[0, 0], [1, 1]]] * 2),
        (2, [[[0, 1]] * 2] * 2),
    ],
)
def test_slices_of_each_axis_of_rank_three(axis, expected):
    scores = np.arange(8).reshape(2, 2, 2)
    assert kept(scores, 0.5, pattern=Slices(axis)) == expected
    assert kept(scores, 0.5, pattern=Slices(axis - 3)) == expected


def test_blocks_of_single_weights_are_single_weights():
    scores = np.random.default_rng(0).random((5, 7))
    for density in (0.9, 0.37, 0.02):
        single = kept(scores, density)
        assert kept(scores, density, pattern=Blocks((1, 1))) == single
        assert kept(scores, density, pattern=Slices(1)) != single


def reference(scores, block, reduce, density):
    """Whole blocks, the best first, as many as come nearest to the count; in plain numpy."""
    n = scores.size
    steps = [range(0, size, b) for size, b in zip(scores.shape, block, strict=True)]
    places = [
        tuple(slice(at, at + b) for at, b in zip(corner, block, strict=True))
        for corner in itertools.product(*steps)
    ]
    worth = [getattr(np, reduce)(scores[place].astype(np.float64)) for place in places]
    order = sorted(range(len(places)), key=lambda i: -worth[i])
    wanted = n - round((1 - density) * n)
    totals = np.cumsum([0] + [scores[places[i]].size for i in order])
    mask = np.zeros(scores.shape, bool)
    for i in order[: int(np.argmin(np.abs(totals - wanted)))]:
        mask[places[i]] = True
    return mask


@settings(max_examples=30, deadline=None)
@given(
    cases(
        [
            ((6, 8), Blocks((2, 2))),
            ((5, 7), Blocks((2, 2))),
            ((5, 7), Blocks((4, 3), "max")),
            ((3, 17), Blocks((1, 8))),
            ((3, 4, 5), Blocks((3, 2))),
            ((3, 4, 5), Blocks((2, 2, 2), "max")),
            ((3, 4, 5), Slices(1)),
        ]
    ),
    DENSITIES,
)
def test_blocks_equal_plain_numpy_within_half_a_block(case, density):
    pattern, scores = case
    mask = selection(pattern)(scores, density)
    block = pattern.block(scores.shape)
    # Sums of quarters are exact; their division by the same few counts rounds alike.
    np.testing.assert_array_equal(mask, reference(scores, block, pattern.reduce, density))
    wanted = scores.size - round((1 - density) * scores.size)
    assert abs(int(mask.sum()) - wanted) <= math.prod(block) / 2


@settings(max_examples=20, deadline=None)
@given(
    cases(
        [
            ((6, 8), Blocks((2, 2))),
            ((3, 4, 5), Slices(1)),
            ((5, 7), Blocks((4, 3), "max")),
            ((4, 3, 5), Within((0, 1))),
        ]
    ),
    DENSITIES,
    DENSITIES,
)
def test_a_lower_density_keeps_a_subset(case, one, other):
    pattern, scores = case
    low, high = (selection(pattern)(scores, density) for density in sorted((one, other)))
    assert np.all(~low | high)


@pytest.mark.parametrize("pattern", [Blocks((2, 2)), Slices(0), Within(-1), NofM(2, 4)])
def test_pruning_what_is_pruned_changes_nothing(pattern):
    params = kernel(np.random.default_rng(0).normal(size=(8, 6)).round(1))
    density = None if isinstance(pattern, NofM) else 0.4
    once = pruning.select(pruning.magnitude(params), density, pattern=pattern)
    masked = pruning.magnitude(pruning.apply(params, once))
    again = pruning.select(masked, density, pattern=pattern)
    np.testing.assert_array_equal(again["kernel"], once["kernel"])


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_means_of_many_half_precision_scores(dtype):
    # In float16 the sums overflow, in bfloat16 the means tie; in float32 neither.
    scores = np.full((1024, 2), 128)
    scores[:2, 1] = 129
    mask = pruning.select({"kernel": jnp.asarray(scores, dtype)}, 0.5, pattern=Slices(-1))
    assert np.all(mask["kernel"] == np.array([[False, True]]))


# Rows.


def test_each_output_keeps_its_share():
    scores = [[1, 9, 3], [2, 8, 9], [3, 7, 1], [4, 6, 2]]
    expected = [[0, 1, 1], [0, 1, 1], [1, 0, 0], [1, 0, 0]]
    assert kept(scores, 0.5, pattern=Within(-1)) == expected
    assert kept(scores, 0.5, pattern=Within(1)) == expected
    assert kept(scores, 1 / 3, pattern=Within(0)) == [[0, 1, 0], [0, 0, 1], [0, 1, 0], [0, 1, 0]]


@settings(max_examples=25, deadline=None)
@given(cases([((4, 3, 5), Within(axes)) for axes in (-1, 0, (0, 1), (2, 0), (-1, -2))]), DENSITIES)
def test_every_slice_keeps_its_largest(case, density):
    pattern, scores = case
    mask = selection(pattern)(scores, density)
    axes = (pattern.axes,) if isinstance(pattern.axes, int) else pattern.axes
    slices = math.prod(scores.shape[axis] for axis in axes)
    rows, stay = (
        np.moveaxis(x, axes, range(len(axes))).reshape(slices, -1) for x in (scores, mask)
    )
    n = rows.shape[1]
    for row, keep in zip(rows, stay, strict=True):
        np.testing.assert_array_equal(keep, largest(row, n - round((1 - density) * n)))


# Several patterns in one tree.

MIXED = {
    "blocks": {"kernel": jnp.asarray([[1.0, 2.0, 8.0, 8.0]])},
    "columns": {"kernel": jnp.asarray([[1.0, 6.0], [1.0, 5.0]])},
    "sparse": {"kernel": jnp.asarray([[3.0], [4.0], [5.0], [6.0]])},
    "single": {"kernel": jnp.asarray([[7.0, 0.0], [5.0, 9.0]])},
}


def test_a_table_of_patterns():
    table = {
        "blocks/*": Blocks((1, 2)),
        "columns/kernel": Slices(-1),
        "sparse/*": NofM(1, 4),
        "*": None,
    }
    # Ranked together are 8 and 1.5 (two weights each), 5.5 and 1 (likewise), 9, 7, 5, 0; the N:M
    # leaf has its own count.
    assert kept(MIXED, 0.5, pattern=table) == {
        "blocks": {"kernel": [[0, 0, 1, 1]]},
        "columns": {"kernel": [[0, 1], [0, 1]]},
        "sparse": {"kernel": [[0], [0], [0], [1]]},
        "single": {"kernel": [[1, 0], [0, 1]]},
    }


def test_patterns_and_scopes_and_densities_by_leaf():
    table = {"sparse/*": NofM(3, 4), "single/*": Within(0), "*": Blocks((1, 2))}
    by_leaf = kept(MIXED, 0.5, pattern=table, scope="leaf")
    assert by_leaf["blocks"]["kernel"] == [[0, 0, 1, 1]]
    assert by_leaf["columns"]["kernel"] == [[1, 1], [0, 0]]
    assert by_leaf["single"]["kernel"] == [[1, 0], [0, 1]]
    assert by_leaf["sparse"]["kernel"] == [[0], [1], [1], [1]]
    densities = {"blocks/*": 1.0, "columns/*": 0.0, "single/*": 0.5}
    assert kept(MIXED, densities, pattern=table) == {
        **by_leaf,
        "blocks": {"kernel": [[1, 1, 1, 1]]},
        "columns": {"kernel": [[0, 0], [0, 0]]},
    }


@pytest.mark.parametrize(
    ("pattern", "density", "expected"),
    [
        # Larger scores of the two parts: 1, 2, 3, 9.
        (NofM(1, 2, -1), None, [[0, 1, 0, 1]]),
        (Blocks((1, 2)), 0.5, [[0, 0, 1, 1]]),
        (Slices(-1), 0.25, [[0, 0, 0, 1]]),
        (Within(0), 0.5, [[0, 0, 1, 1]]),
        ({"f/imag": Within(0), "f/real": Slices(0)}, 0.9, [[1, 1, 1, 1]]),
    ],
)
def test_a_complex_weight_in_two_leaves_follows_one_pattern(pattern, density, expected):
    scores = {"f": {"real": jnp.asarray([[1.0, 0, 3, 0]]), "imag": jnp.asarray([[0.0, 2, 0, 9]])}}
    mask = kept(scores, density, pattern=pattern, where="f/*")
    assert mask == {"f": {"real": expected, "imag": expected}}


# Bad input.


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: NofM(0, 4), "N:M needs 0 < n <= m, got n=0 and m=4"),
        (lambda: NofM(5, 4), "N:M needs 0 < n <= m, got n=5 and m=4"),
        (lambda: Blocks(()), "a block's sizes must be at least 1, got ()"),
        (lambda: Blocks((4, 0)), "a block's sizes must be at least 1, got (4, 0)"),
        (
            lambda: Blocks((2, 2), "means"),
            "reduce is 'means' (did you mean 'mean'?): use one of mean, max",
        ),
        (lambda: Slices(0, "sum"), "reduce is 'sum': use one of mean, max"),
    ],
)
def test_patterns_that_make_no_sense_are_refused(make, said):
    with pytest.raises(ValueError, match=" ") as error:
        make()
    assert str(error.value) == said


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        (NofM(2, 4), "axis -2 is not in the shape (3,)"),
        (Slices(1), "axis 1 is not in the shape (3,)"),
        (Within((0, 1)), "axis 1 is not in the shape (3,)"),
        (Within((0, -1)), "axes (0, -1) name an axis twice in the shape (3,)"),
        (Blocks((2, 2)), "blocks of (2, 2) need rank 2, got (3,)"),
        ("2:4", "'2:4' is no pattern: use NofM, Blocks, Slices or Within"),
    ],
)
def test_leaves_that_a_pattern_does_not_fit_are_named(pattern, why):
    scores = {"a": jnp.ones((3, 3)), "b": jnp.ones(3), "c": jnp.ones(3)}
    fine = pattern if not isinstance(pattern, str) and pattern != Within((0, -1)) else None
    with pytest.raises(ValueError, match="does not fit") as error:
        pruning.select(scores, 0.5, where="*", pattern={"a": fine, "*": pattern})
    assert str(error.value) == f"the pattern does not fit:\n  b: {why}\n  c: {why}"


@pytest.mark.parametrize(
    ("pattern", "density", "said"),
    [
        (NofM(2, 4), 0.5, "an N:M pattern fixes the density: leave density out"),
        (
            {"blocks/*": NofM(2, 4, -1), "*": None},
            {"*": 0.5, "blocks/*": 0.5},
            "an N:M pattern fixes the density of blocks/*: leave that out of the table",
        ),
        (
            {"blocks/*": NofM(2, 4, -1), "*": None},
            None,
            "density is missing: give the share to keep, in (0, 1]",
        ),
        (Blocks((1, 2)), None, "density is missing: give the share to keep, in (0, 1]"),
        (Blocks((1, 2)), 1.5, "density must be in (0, 1], got 1.5"),
        ({"sparse/*": NofM(2, 4)}, 0.5, "no pattern for blocks/kernel, columns/kernel, "),
        ({"*": None, "norm/*": Slices(0)}, 0.5, "no prunable leaf matches norm/*: they are "),
    ],
)
def test_patterns_and_densities_that_do_not_go_together(pattern, density, said):
    with pytest.raises(ValueError, match=" ") as error:
        pruning.select(MIXED, density, pattern=pattern)
    assert str(error.value).startswith(said)


def test_nothing_to_prune_needs_no_pattern():
    assert pruning.select({}, pattern={"*": NofM(2, 4)}) == {}
    assert kept({"bias": jnp.ones(3)}, 0.5, pattern={"*": Slices(0)}) == {"bias": [1, 1, 1]}


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(
    ("pattern", "density"),
    [(NofM(1, 4), None), (Within(-1), 0.25), (Slices(0, "max"), 0.25), (None, 0.25)],
)
def test_numbers_too_small_for_the_machine_are_not_zeros(pattern, density, dtype):
    scores = {"k": jnp.asarray([[0], [0], [1e-40], [0]], dtype)}
    mask = pruning.select(scores, density, pattern=pattern)["k"]
    assert mask.ravel().tolist() == [False, False, True, False]


def test_an_n_of_m_pair_is_found_by_either_name():
    rng = np.random.default_rng(0)
    pair = {part: jnp.asarray(rng.normal(size=(4, 4))) for part in ("real", "imag")}
    scores = pruning.magnitude({"w": pair, "k": jnp.ones((2, 2))})
    for name in ("w/real", "w/imag", "w/*"):
        with pytest.raises(ValueError, match="an N:M pattern fixes the density of w/"):
            pruning.select(
                scores, {name: 0.5, "k": 0.5}, where="*", pattern={"w/*": NofM(2, 4), "k": None}
            )


def test_sizes_and_axes_may_come_from_json_or_numpy():
    assert Blocks([4, 4]) == Blocks((4, 4))
    assert Within(np.int64(-1)) == Within((-1,)) == Within([-1]) == Within(-1)
    assert len({Blocks([4, 4]), Blocks((4, 4))}) == 1
