"""Masks of any tree: what holds whatever its containers, dtypes and values.

Leaves come from a few lists of shapes, so that little is compiled; how they are nested is free.
"""

import collections
import dataclasses
import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from tsjax import pruning, trees

eqx = pytest.importorskip("equinox")

FAST = settings(max_examples=25, deadline=None)
SCOPES = st.sampled_from(pruning.SCOPES)
DENSITIES = st.sampled_from([*pruning.ladder(0.8, 10, floor=0.01), 0.5, 1e-9])


# Trees.

Pair = collections.namedtuple("Pair", ["left", "right"])


@functools.partial(jax.tree_util.register_dataclass, data_fields=["w", "b"], meta_fields=["name"])
@dataclasses.dataclass(frozen=True)
class Dense:
    w: Any
    b: Any
    name: str = "dense"


class Module(eqx.Module):
    weight: Any
    more: Any
    activation: Any = jax.nn.relu
    width: int = eqx.field(static=True, default=3)


def state(left, right):
    """An nnx.State, whose arrays lie in variables as a module's do."""
    children = {"left": left, "right": right}
    return nnx.State({k: nnx.Param(v) if hasattr(v, "dtype") else v for k, v in children.items()})


CONTAINERS = [
    lambda left, right: {"q": right, "p": left},
    lambda left, right: [left, right],
    lambda left, right: (left, right),
    Pair,
    Dense,
    state,
    lambda left, right: eqx.filter(Module(left, right), eqx.is_array),
]

# The dtypes rotate, so that each shape meets each of them.
DTYPES = [jnp.float32, jnp.bfloat16, jnp.complex64]
SHAPES = [
    [(2, 3), (), (0, 2), (4,)],
    [(3, 1, 2), (2, 3), (1,), (2, 2), ()],
    [(5,)],
    [(0,), (2, 0)],
]

# Ties, zeros of both signs, a subnormal number.
VALUES = [0.0, -0.0, 0.25, -0.5, 1.0, 1.0, -1.0, 3.5, 1e-3, -7e-8, 1e-40, 6e4]


@st.composite
def lists_of_leaves(draw, *, distinct=False):
    """Leaves of one list of shapes; with ``distinct``, no two weights have one modulus."""
    shapes, first = draw(st.sampled_from(SHAPES)), draw(st.integers(0, 2))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    sizes = [int(np.prod(shape)) for shape in shapes]
    # Whole numbers this small are exact in bfloat16.
    values = rng.permutation(sum(sizes)) + 1.0 if distinct else rng.choice(VALUES, sum(sizes))
    leaves = []
    parts = np.split(values, np.cumsum(sizes)[:-1])
    for i, (part, shape) in enumerate(zip(parts, shapes, strict=True)):
        dtype = DTYPES[(first + i) % 3]
        turns = [1, -1]
        if dtype == jnp.complex64:
            # Whether the modulus of a subnormal number is zero depends on the thread.
            turns, part = [1, -1, 1j, -1j], np.where(np.abs(part) < 1e-30, 0, part)
        leaves.append(jnp.asarray((part * rng.choice(turns, part.shape)).reshape(shape), dtype))
    return leaves


@st.composite
def nested(draw, leaves):
    """A tree of these leaves, in this order."""
    if len(leaves) == 1:
        return leaves[0]
    cut = draw(st.integers(1, len(leaves) - 1))
    container = draw(st.sampled_from(CONTAINERS))
    return container(draw(nested(leaves[:cut])), draw(nested(leaves[cut:])))


@st.composite
def random_params(draw, **options):
    container = draw(st.sampled_from(CONTAINERS))
    return container(
        draw(nested(draw(lists_of_leaves(**options)))), draw(st.sampled_from([[], ()]))
    )


def everything(path, leaf):
    return True


def select(params, density, scope="global"):
    return pruning.select(pruning.magnitude(params), density, scope, where=everything)


def reference(params, density, scope):
    """The specification in plain numpy: a stable sort from the largest modulus down."""
    leaves, treedef = jax.tree.flatten(params)
    sizes = [np.abs(np.asarray(leaf, np.complex64)).ravel() for leaf in leaves]
    groups = [range(len(leaves))] if scope == "global" else [[i] for i in range(len(leaves))]
    masks = [None] * len(leaves)
    for group in groups:
        flat = np.concatenate([sizes[i] for i in group])
        keep = np.zeros(len(flat), bool)
        count = len(flat) - round((1 - density) * len(flat))
        keep[np.argsort(-flat, kind="stable")[:count]] = True
        parts = np.split(keep, np.cumsum([len(sizes[i]) for i in group])[:-1])
        for i, part in zip(group, parts, strict=True):
            masks[i] = part.reshape(leaves[i].shape)
    return jax.tree.unflatten(treedef, masks)


def test_every_container_is_a_tree_of_arrays():
    leaves = [jnp.ones(2), jnp.ones(())]
    built = [container(*leaves) for container in CONTAINERS]
    assert [trees.paths(tree) for tree in built] == [
        ["p", "q"], ["0", "1"], ["0", "1"], ["left", "right"], ["w", "b"],
        ["left/value", "right/value"], ["weight", "more"],
    ]  # fmt: skip
    for tree in built:
        chex.assert_trees_all_equal(jax.tree.leaves(tree), leaves)


# Properties.


@settings(FAST, max_examples=50)
@given(random_params(), DENSITIES, SCOPES)
def test_the_mask_is_that_of_a_stable_sort(params, density, scope):
    mask = select(params, density, scope)
    assert jax.tree.structure(mask) == jax.tree.structure(params)
    assert all(leaf.dtype == bool for leaf in jax.tree.leaves(mask))
    chex.assert_trees_all_equal(mask, reference(params, density, scope))


@FAST
@given(random_params(), DENSITIES)
def test_the_count_is_exact(params, density):
    n = trees.size(params)
    kept = n - round((1 - density) * n)
    assert pruning.count(select(params, density)) == (kept, n)
    table = pruning.erk(params, density, everything)
    if n:
        assert pruning.count(select(params, table)) == (kept, n)
    by_leaf = pruning.summary(select(params, density, "leaf"))
    assert all(k == m - round((1 - density) * m) for k, m in by_leaf.values())


@FAST
@given(random_params(), DENSITIES, DENSITIES, SCOPES)
def test_a_lower_density_keeps_a_subset(params, one, other, scope):
    low, high = (select(params, density, scope) for density in sorted((one, other)))
    chex.assert_trees_all_equal(pruning.intersect(low, high), low)


@FAST
@given(random_params(), DENSITIES, SCOPES)
def test_pruning_what_is_pruned_changes_nothing(params, density, scope):
    mask = select(params, density, scope)
    pruned = pruning.apply(params, mask)
    chex.assert_trees_all_equal_dtypes(pruned, params)
    expected = jax.tree.map(lambda w, keep: np.where(keep, w, np.zeros_like(w)), params, mask)
    chex.assert_trees_all_equal(pruned, expected)
    chex.assert_trees_all_equal(select(pruned, density, scope), mask)
    chex.assert_trees_all_equal(pruning.apply(pruned, mask), pruned)


@FAST
@given(random_params(distinct=True), DENSITIES, SCOPES, st.integers(0, 99))
def test_shuffled_weights_give_the_shuffled_mask(params, density, scope, seed):
    def shuffle(leaf):
        flat = np.asarray(leaf).ravel()
        order = np.random.default_rng(seed).permutation(flat.size)
        return jnp.asarray(flat[order].reshape(leaf.shape))

    mask = select(params, density, scope)
    shuffled = select(jax.tree.map(shuffle, params), density, scope)
    chex.assert_trees_all_equal(shuffled, jax.tree.map(shuffle, mask))


@FAST
@given(lists_of_leaves(distinct=True), DENSITIES, SCOPES)
def test_the_order_of_the_leaves_does_not_matter(leaves, density, scope):
    mask = select(leaves, density, scope)
    chex.assert_trees_all_equal(select(leaves[::-1], density, scope), mask[::-1])


@FAST
@given(random_params(), DENSITIES, SCOPES, st.data())
def test_a_weight_that_is_not_a_number_is_refused_by_its_path(params, density, scope, data):
    leaves = trees.by_path(params)
    path = data.draw(st.sampled_from(sorted(leaves)))
    nan = complex(0, np.nan) if leaves[path].dtype == jnp.complex64 else np.nan
    bad = trees.map_with_path(lambda p, w: jnp.full_like(w, nan) if p == path else w, params)
    if not (n := leaves[path].size):
        select(bad, density, scope)
        return
    with pytest.raises(ValueError, match="cannot rank") as error:
        select(bad, density, scope)
    assert str(error.value) == f"cannot rank these scores:\n  {path}: {n} of {n} scores are NaN"
