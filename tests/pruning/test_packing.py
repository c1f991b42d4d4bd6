"""Packed masks and compressed params: every bit comes back, none is stored that need not be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from masked_trees import assert_bitwise_equal, masked_trees, random_leaf, zeroed

from tsjax import pruning
from tsjax.pruning import packing

jitted_pack = jax.jit(packing.pack)


def nbytes(tree):
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def shapes_of(tree):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


def layout_of(compressed):
    """The parts that are stored, by path, each with its size."""
    leaves = jax.tree_util.tree_leaves_with_path(compressed)
    return {jax.tree_util.keystr(p, simple=True, separator="/"): leaf.size for p, leaf in leaves}


def test_bits_are_in_row_major_order_the_first_one_highest():
    mask = {"w": jnp.array([[1, 0, 1], [0, 0, 0], [0, 1, 1]], bool), "b": jnp.array(True)}
    packed = packing.pack(mask)
    assert packed["w"].dtype == jnp.uint8
    assert packed["w"].tolist() == [0b10100001, 0b10000000]
    assert packed["b"].tolist() == [0b10000000]


@pytest.mark.parametrize("shape", [(), (0,), (2, 0), (1,), (7,), (8,), (9,), (3, 5), (4, 4, 2)])
def test_a_mask_of_any_shape_comes_back(shape):
    mask = jnp.asarray(np.random.default_rng(0).random(shape) < 0.5)
    packed = jitted_pack(mask)
    assert packed.shape == (-(-mask.size // 8),)
    assert_bitwise_equal(packed, packing.pack(mask))
    assert_bitwise_equal(jax.jit(packing.unpack)(packed, mask), mask)
    # The shapes of params are enough.
    assert_bitwise_equal(packing.unpack(packed, jax.ShapeDtypeStruct(shape, "bfloat16")), mask)


def test_a_packed_mask_of_another_size_is_refused_and_every_leaf_named():
    packed = packing.pack({"a": jnp.ones(8, bool), "b": jnp.ones(9, bool), "c": jnp.ones(3, bool)})
    like = {"a": jnp.ones(9), "b": jnp.ones((2, 4)), "c": jnp.ones(8)}
    with pytest.raises(ValueError, match="packed does not match a packed mask") as error:
        packing.unpack(packed, like)
    assert "a: packed has shape (1,), a packed mask of these shapes (2,)" in str(error.value)
    assert "b: packed has shape (2,), a packed mask of these shapes (1,)" in str(error.value)
    assert "c:" not in str(error.value)


def test_what_is_no_mask_is_not_packed():
    with pytest.raises(ValueError, match=r"must be bool: w \(float32\)$"):
        packing.pack({"w": jnp.ones(3), "v": jnp.ones(3, bool)})
    with pytest.raises(ValueError, match=r"must be uint8: w \(float32\)$"):
        packing.unpack({"w": jnp.ones(1)}, {"w": jnp.ones(3)})


def test_only_what_is_needed_is_stored():
    params = {
        "all": np.float32([[1, 2], [3, 4]]),
        "some": np.float32([[1, 2, 3], [4, 5, 6], [7, 8, 9]]),
        "none": np.ones(10, np.float32),
        "empty": np.ones((2, 0), np.float32),
        "scalar": [np.float32(5), np.float32(6)],
    }
    mask = pruning.ones(params)
    mask["some"] = np.array([[0, 1, 0], [1, 0, 0], [0, 0, 1]], bool)
    mask["none"] = np.zeros(10, bool)
    mask["scalar"][1] = np.array(False)
    compressed = packing.compress(params, mask)
    assert layout_of(compressed) == {
        "all/values": 4, "some/values": 3, "some/mask": 2, "none/mask": 2,
        "scalar/0/values": 1, "scalar/1/mask": 1,
    }  # fmt: skip
    assert compressed["some"]["values"].tolist() == [2, 4, 9]
    assert compressed["some"]["mask"].tolist() == [0b01010000, 0b10000000]
    assert compressed["all"]["values"].shape == (2, 2)
    restored, again = packing.decompress(compressed, shapes_of(params))
    assert_bitwise_equal(restored, zeroed(params, mask))
    assert_bitwise_equal(again, jax.tree.map(np.asarray, mask))


@settings(max_examples=50, deadline=None)
@given(masked_trees())
def test_any_tree_comes_back_and_takes_no_more_than_it_must(tree):
    params, mask = tree
    assert_bitwise_equal(packing.unpack(packing.pack(mask), params), mask)
    compressed = packing.compress(params, mask)
    for like in (params, shapes_of(params)):
        restored, again = packing.decompress(compressed, like)
        assert_bitwise_equal(restored, zeroed(params, mask))
        assert_bitwise_equal(again, mask)
    expected = 0
    for leaf, keep in zip(jax.tree.leaves(params), jax.tree.leaves(mask), strict=True):
        expected += int(keep.sum()) * leaf.itemsize
        expected += 0 if keep.all() else -(-keep.size // 8)
    assert nbytes(compressed) == expected


@pytest.mark.parametrize(
    "dtype",
    ["bool", "int8", "uint64", "float16", "bfloat16", "float32", "float64", "complex64",
     "complex128", "float8_e4m3fn"],
)  # fmt: skip
def test_every_bit_of_a_kept_value_comes_back(dtype):
    rng = np.random.default_rng(0)
    dtype = jnp.dtype(dtype)
    leaf = rng.random(64) < 0.5 if dtype == "bool" else random_leaf((64,), dtype, rng)
    keep = rng.random(64) < 0.5
    compressed = packing.compress({"w": leaf}, {"w": keep})
    assert compressed["w"]["values"].nbytes == keep.sum() * dtype.itemsize
    restored, _ = packing.decompress(compressed, {"w": leaf})
    assert_bitwise_equal(restored, zeroed({"w": leaf}, {"w": keep}))


def test_the_mask_is_stored_and_not_inferred():
    params = {"w": np.float32([0.0, -0.0, 3.0, np.nan])}
    mask = {"w": np.array([True, True, False, False])}
    restored, again = packing.decompress(packing.compress(params, mask), params)
    assert again["w"].tolist() == [True, True, False, False]
    assert np.signbit(restored["w"]).tolist() == [False, True, False, False]
    assert restored["w"].tolist() == [0, 0, 0, 0]


def test_memory_layout_and_byte_order_do_not_matter():
    leaf = np.arange(6, dtype=">f4").reshape(2, 3).T
    keep = np.array([[1, 0, 1], [0, 1, 1]], bool).T
    compressed = packing.compress({"w": leaf}, {"w": keep})
    assert compressed["w"]["values"].tolist() == [0, 4, 2, 5]
    restored, _ = packing.decompress(compressed, {"w": leaf})
    assert restored["w"].dtype.isnative
    assert restored["w"].tolist() == [[0, 0], [0, 4], [2, 5]]
    dense = packing.compress({"w": leaf}, {"w": np.ones((3, 2), bool)})
    assert dense["w"]["values"].flags.c_contiguous


def test_a_mask_of_other_params_is_refused():
    with pytest.raises(ValueError, match=r"w: mask has shape \(3,\), params \(4,\)"):
        packing.compress({"w": np.ones(4)}, {"w": np.ones(3, bool)})


# Of a float32 leaf of 9 weights: what is stored, and what is said of it.
CONTRADICTIONS = {
    "nothing": ({}, "neither values nor a mask are stored for 9 weights"),
    "no dict": (np.ones(9, np.float32), "expected arrays values and mask, got"),
    "another part": ({"indices": np.ones(1)}, "expected arrays values and mask, got"),
    "other shape": ({"values": np.ones(8, np.float32)}, r"have shape \(8,\), expected \(9,\)"),
    "other dtype": ({"values": np.ones(9)}, "the values are float64, expected float32"),
    "short mask": ({"mask": np.zeros(1, np.uint8)}, r"the mask is uint8 \(1,\), expected uint8"),
    "long mask": ({"mask": np.zeros(3, np.uint8)}, r"uint8 \(3,\), expected uint8 \(2,\) for 9"),
    "bool mask": ({"mask": np.zeros(2, bool)}, r"the mask is bool \(2,\), expected uint8"),
    "bits beyond": ({"mask": np.uint8([0, 1])}, "bits set beyond the last of 9 weights"),
    "too few values": (
        {"mask": np.uint8([3, 0]), "values": np.ones(1, np.float32)},
        r"the mask keeps 2 of 9 weights, but the values have shape \(1,\)",
    ),
    "no values": ({"mask": np.uint8([3, 0])}, r"keeps 2 of 9 weights, .* have shape \(0,\)"),
    "values of none": (
        {"mask": np.uint8([0, 0]), "values": np.ones(1, np.float32)},
        "the mask keeps 0 of 9 weights",
    ),
    "values in a table": (
        {"mask": np.uint8([15, 0]), "values": np.ones((2, 2), np.float32)},
        r"keeps 4 of 9 weights, but the values have shape \(2, 2\)",
    ),
}


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_contradictions_are_named(case):
    parts, message = CONTRADICTIONS[case]
    with pytest.raises(ValueError, match=f"w: .*{message}"):
        packing.decompress({"w": parts}, {"w": np.ones(9, np.float32)})


def test_all_leaves_at_fault_are_named():
    like = {"a": np.ones(9, np.float32), "b": np.ones(1), "c": [np.ones(2)]}
    compressed = {"a": {}, "b": {"values": np.ones(1)}, "c": [{"values": np.ones(3)}]}
    with pytest.raises(ValueError, match=r"compressed does not fit like:\n  a: .*\n  c/0: .*$"):
        packing.decompress(compressed, like)


def test_other_containers_are_refused():
    with pytest.raises(ValueError, match="compressed does not have the containers of like"):
        packing.decompress({"a": {"values": np.ones(1)}}, {"a": [np.ones(1)], "b": np.ones(1)})
