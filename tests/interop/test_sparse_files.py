"""A pruned model's file holds what is kept and no more, and is refused when anything is wrong."""

import dataclasses
import gzip
import inspect
import json
import re
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from masked_trees import assert_bitwise_equal, masked_trees, random_leaf, zeroed

from tsjax import interop, trees
from tsjax.interop import sparse


def example():
    """Leaves of which all, some and no weights are kept, one without elements, one scalar."""
    rng = np.random.default_rng(0)
    params = {
        "block": [
            {"kernel": random_leaf((5, 7), jnp.dtype("bfloat16"), rng)},
            {"bias": np.arange(3, dtype=np.complex64)},
        ],
        "flags": np.array([True, False, True]),
        "gone": np.ones((2, 3), np.float32),
        "empty": np.ones((0, 3), np.int8),
        "scale": np.float32(2.5),
    }
    mask = jax.tree.map(lambda leaf: np.ones(leaf.shape, bool), params)
    mask["block"][0]["kernel"] = rng.random((5, 7)) < 0.4
    mask["gone"][:] = False
    mask["flags"][1] = False
    return params, mask


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


def header_and_data(path):
    """How many bytes the two have."""
    content = path.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    return header, len(content) - header


def refusal(path, like=None):
    """The message of the one error that reading ends in; it names the file."""
    with pytest.raises(ValueError, match=re.escape(str(path))) as caught:
        interop.read_sparse(path, like)
    assert type(caught.value) is ValueError
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return str(caught.value)


# Each example may write over the last one's file.
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(masked_trees())
def test_any_tree_comes_back(path, tree):
    params, mask = tree
    interop.write_sparse(path, params, mask)
    want = zeroed(params, mask)
    for got, expected in zip(interop.read_sparse(path, params), (want, mask), strict=True):
        assert_bitwise_equal(got, expected)
    for got, expected in zip(interop.read_sparse(path), (want, mask), strict=True):
        assert_bitwise_equal(got, trees.by_path(expected))


@pytest.mark.parametrize("dtype", sorted(sparse._DTYPES))
def test_every_dtype_comes_back_bit_by_bit(path, dtype):
    rng = np.random.default_rng(0)
    leaf = rng.random(64) < 0.5 if dtype == "bool" else random_leaf((64,), jnp.dtype(dtype), rng)
    keep = rng.random(64) < 0.5
    interop.write_sparse(path, {"w": leaf, "v": leaf}, {"w": keep, "v": keep | True})
    params, mask = interop.read_sparse(path)
    assert_bitwise_equal(params, {"w": zeroed(leaf, keep), "v": leaf})
    assert_bitwise_equal(mask, {"w": keep, "v": keep | True})


def test_arrays_on_the_device_and_shapes_alone_will_do(path):
    params = {"w": jnp.arange(12.0).reshape(3, 4), "b": jnp.ones(3, jnp.bfloat16)}
    mask = {"w": params["w"] > 3, "b": jnp.ones(3, bool)}
    interop.write_sparse(str(path), params, mask)
    like = jax.eval_shape(lambda: params)
    got, again = interop.read_sparse(str(path), like)
    assert_bitwise_equal(got, zeroed(*jax.device_get((params, mask))))
    assert_bitwise_equal(again, jax.device_get(mask))


def test_one_bit_a_weight_and_the_kept_values(path):
    rng = np.random.default_rng(0)
    params = {"w": random_leaf((333, 7), jnp.dtype("float32"), rng), "b": np.ones(5, np.float16)}
    mask = {"w": rng.random((333, 7)) < 0.25, "b": np.ones(5, bool)}
    interop.write_sparse(path, params, mask)
    header, data = header_and_data(path)
    assert data == 4 * mask["w"].sum() + 2 * 5 + -(-333 * 7 // 8)
    assert header < 512


def test_a_mask_of_which_nothing_is_kept_takes_one_bit_a_weight(path):
    interop.write_sparse(path, {"w": np.ones(80_001)}, {"w": np.zeros(80_001, bool)})
    header, data = header_and_data(path)
    assert data == 10_001
    assert header < 256


def test_the_same_model_gives_the_same_bytes(path):
    interop.write_sparse(path, *example())
    first = path.read_bytes()
    interop.write_sparse(path, *example())
    assert path.read_bytes() == first


def test_a_program_written_from_the_description_reads_it(path):
    interop.write_sparse(path, *example())
    described = inspect.getdoc(sparse).split("reads it so::\n")[1]
    program = textwrap.dedent(described)
    assert len(program.split("\n")) < 20
    names = {"path": path}
    exec(program, names)
    assert_bitwise_equal(names["params"], interop.read_sparse(path)[0])


def test_safetensors_itself_reads_the_entries(path):
    interop.write_sparse(path, {"a": {"w": np.float32([1, 2, 3])}}, {"a": {"w": np.eye(3)[1] > 0}})
    found = safetensors.numpy.load_file(path)
    assert {name: array.tolist() for name, array in found.items()} == {
        "a/w/values": [2.0],
        "a/w/mask": [0b01000000],
    }
    with safetensors.safe_open(path, "np") as file:
        about = json.loads(file.metadata()["tsjax.sparse"])
    assert about["version"] == 1
    assert about["leaves"] == {"a/w": {"dtype": "float32", "shape": [3]}}


# Writing.


def test_a_file_is_replaced_whole_or_left_alone(path, monkeypatch):
    interop.write_sparse(path, {"w": np.ones(2)}, {"w": np.ones(2, bool)})
    interop.write_sparse(path, {"w": np.zeros(3)}, {"w": np.ones(3, bool)})
    before = path.read_bytes()
    with pytest.raises(ValueError, match="mask does not match params"):
        interop.write_sparse(path, {"w": np.zeros(3)}, {"w": np.ones(4, bool)})

    def full(self, target):
        raise OSError("no space left")

    monkeypatch.setattr(type(path), "replace", full)
    with pytest.raises(OSError, match="no space left"):
        interop.write_sparse(path, {"w": np.ones(9)}, {"w": np.ones(9, bool)})
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_what_cannot_be_written_is_named(path):
    params = {"a": np.ones(2, complex), "b": jnp.ones(2, jnp.float8_e5m2), "\ud800": np.ones(1)}
    mask = jax.tree.map(lambda leaf: np.ones(leaf.shape, bool), params)
    with pytest.raises(ValueError, match="cannot be written to a sparse file") as error:
        interop.write_sparse(path, params, mask)
    for said in ("a: complex128 is not among bfloat16, bool", "b: float8_e5m2", r"'\ud800': a p"):
        assert said in str(error.value)
    with pytest.raises(ValueError, match="two leaves have the path 'a/b'"):
        interop.write_sparse(path, *[{"a/b": np.ones(1, bool), "a": {"b": np.ones(1, bool)}}] * 2)
    with pytest.raises(ValueError, match=r"must be bool: w \(float64\)"):
        interop.write_sparse(path, {"w": np.ones(1)}, {"w": np.ones(1)})
    assert not path.exists()


def test_paths_that_are_no_place_for_a_file(tmp_path):
    tree = {"w": np.ones(1)}, {"w": np.ones(1, bool)}
    with pytest.raises(FileNotFoundError, match="none is not a folder"):
        interop.write_sparse(tmp_path / "none" / "w.safetensors", *tree)
    with pytest.raises(IsADirectoryError, match="is a folder"):
        interop.write_sparse(tmp_path, *tree)
    with pytest.raises(ValueError, match=r"use one of \.safetensors"):
        interop.write_sparse(tmp_path / "w.npz", *tree)
    interop.write_sparse(tmp_path / "model.safetensors", *tree)
    with pytest.raises(FileNotFoundError, match=r"did you mean 'model.safetensors'\?"):
        interop.read_sparse(tmp_path / "modle.safetensors")


# Files that are refused.


def test_another_tree_is_refused_and_the_leaves_named(path):
    mask = {"w": np.ones((3, 4), bool), "b": np.zeros(3, bool)}
    interop.write_sparse(path, {"w": np.ones((3, 4)), "b": np.ones(3)}, mask)
    message = refusal(path, {"w": np.ones((4, 3)), "extra": np.ones(1)})
    for said in ("shape (3, 4), the tree expected (4, 3)", "extra: missing", "b: not in"):
        assert said in message
    assert "w: float64 stored, float32 expected" in refusal(
        path, {"w": np.ones((3, 4), np.float32), "b": np.ones(3)}
    )


def test_other_files_are_refused(path):
    interop.write_weights(path, {"w": np.ones(2)})
    assert "its metadata has no 'tsjax.sparse' (interop.read_weights may read it)" in refusal(path)
    path.write_bytes(b"")
    assert "does not begin with a safetensors header" in refusal(path)
    path.write_bytes(b"\xff" * 100)
    assert "does not begin with a safetensors header" in refusal(path)
    path.write_bytes((2).to_bytes(8, "little") + b"[]")
    assert "cannot be read as tsjax.sparse" in refusal(path)


def rewritten(path, *, tensors=None, text=None, **changes):
    """Changes the file's tensors and what it says of itself, with a checksum that is right."""
    with safetensors.safe_open(path, "np") as file:
        about = json.loads(file.metadata()["tsjax.sparse"])
    stored = safetensors.numpy.load_file(path) | (tensors or {})
    stored = {name: array for name, array in stored.items() if array is not None}
    about = about | changes
    about["crc32"] = changes.get("crc32", sparse._checksum(about["leaves"], stored))
    about = {key: value for key, value in about.items() if value is not None}
    metadata = {"tsjax.sparse": json.dumps(about) if text is None else text}
    path.write_bytes(safetensors.numpy.save(stored, metadata=metadata))


LEAF = {"dtype": "float32", "shape": [9]}
FORGED = {
    "nothing changed": ({}, None),
    "more values than bits": (
        {"tensors": {"w/values": np.ones(5, np.float32)}},
        r"w: the mask keeps 4 of 9 weights, but the values have shape \(5,\)",
    ),
    "more bits than values": ({"tensors": {"w/mask": np.uint8([255, 0])}}, "keeps 8 of 9"),
    "bits beyond": ({"tensors": {"w/mask": np.uint8([15, 1])}}, "beyond the last of 9"),
    "short mask": ({"tensors": {"w/mask": np.uint8([15])}}, "expected uint8"),
    "no mask": ({"tensors": {"w/mask": None}}, r"have shape \(4,\), expected \(9,\)"),
    "no values": ({"tensors": {"w/values": None}}, "keeps 4 of 9"),
    "no leaf": ({"tensors": {"w/values": None, "w/mask": None}}, "neither values nor a mask"),
    "other dtype": ({"tensors": {"w/values": np.ones(4)}}, "float64, expected float32"),
    "another leaf": ({"tensors": {"v/values": np.ones(4)}}, "'v/values' belongs to no leaf"),
    "another part": ({"tensors": {"w/index": np.ones(4)}}, "'w/index' belongs to no leaf"),
    "no part": ({"tensors": {"w": np.ones(4)}}, "'w' belongs to no leaf"),
    "unsafe name": ({"tensors": {"../w/mask": np.ones(4)}}, "'../w/mask' belongs to no leaf"),
    "no bool": ({"tensors": {"f/values": np.uint8([0, 7]).view(bool)}}, "other bytes than 0 and 1"),
    "other shape": (
        {"leaves": {"w": LEAF | {"shape": [17]}}},
        r"uint8 \(2,\), expected uint8 \(3,\) for 17",
    ),
    "absurd shape": ({"leaves": {"w": LEAF | {"shape": [2**40]}}}, "for 1099511627776 weights"),
    "absurd rank": ({"leaves": {"w": LEAF | {"shape": [1] * 99}}}, "is no dtype and shape"),
    "absurd and empty": ({"leaves": {"w": LEAF | {"shape": [0, 2**62]}}}, "is no dtype and shape"),
    "negative": ({"leaves": {"w": LEAF | {"shape": [-9]}}}, "is no dtype and shape"),
    "unknown dtype": ({"leaves": {"w": LEAF | {"dtype": "float33"}}}, "is no dtype and shape"),
    "leaves in a list": ({"leaves": ["w"]}, "the leaves are a list"),
    "no leaves": ({"leaves": None, "crc32": "0"}, "its metadata lacks leaves"),
    "no checksum": ({"text": '{"version": 1, "leaves": {}}'}, "its metadata lacks crc32"),
    "another checksum": ({"crc32": "00000000"}, "checksum is [0-9a-f]{8}, and 00000000 was"),
    "version 2": ({"version": 2}, "it has version 2, and only 1 is known"),
    "no version": ({"version": None}, "it has version None"),
    "no JSON": ({"text": "sparse"}, "Expecting value"),
    "no object": ({"text": "[]"}, "cannot be read as tsjax.sparse"),
    "a name twice": ({"text": '{"version": 1, "version": 1}'}, "its header has 'version' twice"),
    "deep": ({"text": "[" * 100_000}, "RecursionError"),
}


@pytest.mark.parametrize("case", FORGED)
def test_a_file_that_contradicts_itself_is_refused(path, case):
    changes, message = FORGED[case]
    params = {"w": np.arange(9, dtype=np.float32), "f": np.array([True, False])}
    mask = {"w": np.arange(9) // 4 == 1, "f": np.ones(2, bool)}
    interop.write_sparse(path, params, mask)
    if "leaves" in changes and isinstance(changes["leaves"], dict):
        leaves = {"f": {"dtype": "bool", "shape": [2]}} | changes["leaves"]
        changes = changes | {"leaves": leaves}
    rewritten(path, **changes)
    if message is None:
        assert_bitwise_equal(interop.read_sparse(path, params)[1], mask)
    else:
        assert re.search(message, refusal(path))


def with_header(path, change):
    """Changes the header's text."""
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = change(content[8:end].decode()).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + content[end:])


def test_a_tensor_that_is_there_twice_is_refused(path):
    interop.write_sparse(path, {"w": np.ones(1, np.float32)}, {"w": np.ones(1, bool)})
    entry = '"w/values":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
    with_header(path, lambda text: text.replace(entry, f"{entry},{entry.replace('F32', 'I32')}"))
    assert "its header has 'w/values' twice" in refusal(path)


def test_tensors_that_share_bytes_or_leave_gaps_are_refused(path):
    interop.write_sparse(path, {"w": np.ones(2, np.float32)}, {"w": np.ones(2, bool)})
    content = path.read_bytes()
    with_header(path, lambda text: text.replace("[0,8]", "[0,4]").replace("[2]", "[1]"))
    refusal(path)
    path.write_bytes(content + b"more")
    refusal(path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A small file's bytes."""
    path = tmp_path_factory.mktemp("whole") / "model.safetensors"
    interop.write_sparse(path, *example())
    return path.read_bytes()


def is_refused(path):
    """Whether it is refused; garbage, or an error other than ValueError, fails the test."""
    params, mask = example()
    try:
        found = interop.read_sparse(path)
    except ValueError:
        return True
    assert_bitwise_equal(found[0], trees.by_path(zeroed(params, mask)))
    assert_bitwise_equal(found[1], trees.by_path(mask))
    return False


@pytest.mark.parametrize("seed", range(4))
def test_damaged_files_are_refused_or_read_as_they_were(path, whole, seed):
    rng = np.random.default_rng(seed)
    refused = 0
    for _ in range(100):
        damaged = bytearray(whole)
        for at in rng.integers(0, len(whole), rng.choice([1, 1, 2, 20])):
            damaged[at] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        refused += is_refused(path)
    # What is not refused are flips in the spaces that fill up the header.
    assert refused > 90


def test_every_flip_of_a_bit_in_the_data_is_noticed(path, whole):
    start = 8 + int.from_bytes(whole[:8], "little")
    for at in range(8 * start, 8 * len(whole)):
        damaged = bytearray(whole)
        damaged[at // 8] ^= 1 << at % 8
        path.write_bytes(damaged)
        assert is_refused(path)


def test_every_truncation_is_noticed(path, whole):
    for length in range(0, len(whole), 3):
        path.write_bytes(whole[:length])
        assert is_refused(path)


# Sizes.


def test_sizes_are_those_of_the_files(path):
    rng = np.random.default_rng(0)
    params = {"w": rng.normal(size=(200, 50)).astype(np.float32), "b": np.ones(50, np.float32)}
    mask = {"w": rng.random((200, 50)) < 0.1, "b": np.ones(50, bool)}
    everything = {"w": np.ones((200, 50), bool), "b": np.ones(50, bool)}
    sizes = interop.file_sizes(params, mask)
    for name, written in {
        "dense": (params, everything),
        "masked": (zeroed(params, mask), everything),
        "sparse": (params, mask),
    }.items():
        interop.write_sparse(path, *written)
        content = path.read_bytes()
        assert getattr(sizes, name) == len(content)
        assert getattr(sizes, f"{name}_gzip") == len(gzip.compress(content, 6, mtime=0))
    # Of 10,000 weights of 4 bytes some are gone, each has a bit, and the headers are much alike.
    assert sizes.masked == sizes.dense
    gone = 10_000 - int(mask["w"].sum())
    assert abs(sizes.dense - sizes.sparse - (4 * gone - 1250)) < 100
    assert sizes.sparse_gzip < sizes.masked_gzip < sizes.dense_gzip
    # Of weights that are zero already, the dense ones have to be given.
    assert interop.file_sizes(zeroed(params, mask), mask).dense_gzip == sizes.masked_gzip
    assert interop.file_sizes(zeroed(params, mask), mask, params) == sizes


def test_sizes_of_a_mask_that_keeps_all_are_equal():
    params = {"w": np.arange(64, dtype=np.float32)}
    sizes = interop.file_sizes(params, {"w": np.ones(64, bool)})
    assert len({sizes.dense, sizes.masked, sizes.sparse}) == 1
    assert len({sizes.dense_gzip, sizes.masked_gzip, sizes.sparse_gzip}) == 1
    assert all(type(size) is int for size in dataclasses.astuple(sizes))
    with pytest.raises(ValueError, match="mask does not match params"):
        interop.file_sizes(params, {"w": np.ones(63, bool)})
