"""Paths of leaves in every kind of container, and messages that name all that differs."""

import dataclasses
import functools
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tsjax import trees


@functools.partial(jax.tree_util.register_dataclass, data_fields=["kernel", "bias"], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class Dense:
    kernel: Any
    bias: Any


TREE = {
    "encoder": [Dense(np.ones((2, 3)), np.ones(3)), (np.ones(()), np.ones((0, 4)))],
    "a": None,
}
PATHS = ["encoder/0/kernel", "encoder/0/bias", "encoder/1/0", "encoder/1/1"]


def test_paths_are_readable_through_dicts_lists_tuples_and_dataclasses():
    assert trees.paths(TREE) == PATHS
    assert list(trees.by_path(TREE)) == PATHS


def test_paths_have_the_order_of_the_leaves():
    tree = {"b": 1, "a": [2, {"z": 3, "y": 4}]}
    assert list(trees.by_path(tree).values()) == jax.tree.leaves(tree)


def test_map_with_path_gives_the_path_and_the_leaves_of_all_trees():
    first, second = {"a": [1, 2], "b": 3}, {"a": [10, 20], "b": 30}
    mapped = trees.map_with_path(lambda path, x, y: (path, x + y), first, second)
    assert mapped == {"a": [("a/0", 11), ("a/1", 22)], "b": ("b", 33)}


def test_size_counts_elements_of_arrays_and_of_shapes():
    assert trees.size(TREE) == 6 + 3 + 1 + 0
    assert trees.size([jax.ShapeDtypeStruct((4, 5), jnp.float32)]) == 20
    assert trees.size({}) == 0


def test_the_same_structure_passes_whatever_the_dtypes():
    other = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, bool), TREE)
    trees.check_same_structure(other, TREE, name="mask", like_name="params")


def test_a_mismatch_lists_every_leaf_that_differs():
    want = {"a": np.ones(2), "b": np.ones((2, 3)), "c": np.ones(()), "d": np.ones(4)}
    have = {"b": np.ones((3, 2)), "c": np.ones(1), "d": np.ones(4), "e": np.ones(1)}
    with pytest.raises(ValueError, match="does not match") as error:
        trees.check_same_structure(have, want, name="mask", like_name="params")
    assert str(error.value) == (
        "mask does not match params:\n"
        "  a: missing from mask\n"
        "  e: not in params\n"
        "  b: mask has shape (3, 2), params (2, 3)\n"
        "  c: mask has shape (1,), params ()"
    )


@pytest.mark.parametrize(
    ("have", "want"),
    [
        ([np.ones(1)], (np.ones(1),)),
        ({"a": np.ones(1), "b": {}}, {"a": np.ones(1)}),
        ({"kernel": np.ones(1), "bias": np.ones(1)}, Dense(np.ones(1), np.ones(1))),
    ],
)
def test_containers_that_differ_are_shown(have, want):
    with pytest.raises(ValueError, match="does not match") as error:
        trees.check_same_structure(have, want, name="mask", like_name="params")
    assert str(error.value) == (
        "mask does not match params:\n"
        f"  containers differ: {jax.tree.structure(have)} is not {jax.tree.structure(want)}"
    )


def test_two_leaves_with_one_path_are_refused():
    with pytest.raises(ValueError, match="two leaves have the path 'a/b'"):
        trees.by_path({"a/b": 1, "a": {"b": 2}})


# A part called params.

WHOLE = {"params": {"w": np.ones((2, 3)), "b": np.ones(3)}, "state": {"mean": np.ones(3)}}


def test_the_part_named_params_is_found():
    assert trees.params_in(WHOLE) == [WHOLE["params"]]
    assert trees.params_in(WHOLE["params"]) == trees.params_in(np.ones(3)) == []
    assert trees.params_in([WHOLE]) == []
    assert [path for path in trees.paths(WHOLE) if trees.in_params(path)] == [
        "params/b",
        "params/w",
    ]
    assert trees.in_params("params")
    assert not trees.in_params("params_of_mine/w")


def test_leaves_are_named_by_the_tree_that_they_are_like():
    part = {"w": np.zeros((2, 3)), "b": np.zeros(3)}
    found = trees.leaves_like(part, WHOLE, name="gradients", like_name="params")
    assert {path: leaf.sum() for path, leaf in found.items()} == {"params/b": 0, "params/w": 0}
    whole = trees.leaves_like(WHOLE, WHOLE, name="gradients", like_name="params")
    assert list(whole) == trees.paths(WHOLE)
    alone = trees.leaves_like(np.ones(3), {"params": np.ones(3)}, name="a", like_name="b")
    assert list(alone) == ["params"]
    with pytest.raises(ValueError, match="gradients has shape"):
        trees.leaves_like({**part, "b": np.ones(2)}, WHOLE, name="gradients", like_name="params")
    with pytest.raises(ValueError, match="state/mean: missing from gradients"):
        trees.leaves_like({"w": part["w"]}, WHOLE, name="gradients", like_name="params")


def test_a_description_survives_json():
    params = {"a": [np.ones((2, 0), np.float16)], "b": jnp.ones((3, 4), jnp.bfloat16)}
    described = trees.described(json.loads(json.dumps(trees.describe(params))))
    assert described == {
        "a/0": jax.ShapeDtypeStruct((2, 0), np.float16),
        "b": jax.ShapeDtypeStruct((3, 4), jnp.bfloat16),
    }


@pytest.mark.parametrize(
    "leaf",
    [
        {"dtype": "float32", "shape": [-1]},
        {"dtype": "float32", "shape": [2.0]},
        {"dtype": "float32", "shape": [True]},
        {"dtype": "float32", "shape": [0, 2**62]},
        {"dtype": "float32", "shape": [1] * 65},
        {"dtype": "float32", "shape": 3},
        {"dtype": "float33", "shape": [3]},
        {"dtype": None, "shape": [3]},
        {"dtype": "object", "shape": [3]},
        {"dtype": "U3", "shape": [3]},
        {"shape": [3]},
        {"dtype": "float32"},
        [3],
        None,
    ],
    ids=str,
)
def test_what_describes_no_array_is_refused(leaf):
    with pytest.raises(ValueError, match=r"^w: .* is no dtype and shape of an array$"):
        trees.described({"w": leaf, "v": {"dtype": "float32", "shape": [3]}})


def test_a_description_is_by_path():
    with pytest.raises(ValueError, match="the leaves are a list, not a mapping by path"):
        trees.described([])


def test_a_tree_that_is_not_the_one_stored_is_named():
    stored = trees.described(trees.describe({"a": np.ones(2, np.float32), "b": np.ones(3)}))
    trees.check_fits(stored, {"a": np.ones(2, np.float32), "b": np.ones(3)}, name="the file x")
    with pytest.raises(ValueError, match=r"b: the file x has shape \(3,\), the tree expected"):
        trees.check_fits(stored, {"a": np.ones(2), "b": np.ones(4)}, name="the file x")
    with pytest.raises(ValueError, match="the file x has other dtypes:\n  a: float32 stored, fl"):
        trees.check_fits(stored, {"a": np.ones(2), "b": np.ones(3)}, name="the file x")
