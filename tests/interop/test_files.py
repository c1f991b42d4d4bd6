"""Weights come out of a file as they went in, and a file that is none is refused, never run."""

import json
import pickle
import re
import struct
import sys
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from forecasters import drawn

from tsjax import interop, models

TORCH = (".pth", ".pt", ".bin", ".ckpt")
FORMATS = (".npz", ".safetensors", ".pth")

# Whatever a dtype, layout or name can do to a writer; complex128 is not in safetensors.
ARRAYS = {
    "single": np.array([[0.1, -np.inf], [np.nan, 3e-39]], np.float32),
    "double": np.arange(3) / 7,
    "half": np.array([0.1, 65504, 6e-8], np.float16),
    "complex": np.array([1 + 2j, -0.5j], np.complex64),
    "long": np.array([2**62, -1]),
    "short": np.array([65535], np.uint16),
    "flags": np.array([True, False]),
    "scalar": np.array(7.5, np.float32),
    "empty": np.zeros((0, 3), np.float32),
    "transposed": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "strided": np.arange(12, dtype=np.float32).reshape(3, 4)[:, ::2],
    "reversed": np.arange(4, dtype=np.float32)[::-1],
    "swapped": np.arange(3, dtype=">f4"),
    "broadcast": np.broadcast_to(np.float32(2), (2, 2)),
    "read-only": np.frombuffer(b"\0\0\x80\x3f", np.float32),
    "file": np.ones(1, np.float32),
    "allow_pickle": np.ones(1, np.float32),
    "a/b.npy": np.ones(2, np.float32),
    "模型.weight": np.ones(3, np.float32),
}


class Trap:
    """Leaves a file behind if it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), "w")


@pytest.fixture
def marker(tmp_path):
    """A file that unpickling a Trap makes, as it does here once to prove it."""
    path = tmp_path / "sprung"
    pickle.loads(pickle.dumps(Trap(path))).close()
    path.unlink()
    return path


@pytest.fixture(params=FORMATS)
def suffix(request):
    if request.param == ".pth":
        pytest.importorskip("torch", reason="PyTorch's own files need torch")
    return request.param


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="PyTorch's own files need torch")


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert type(found[name]) is np.ndarray
        assert found[name].dtype == array.dtype.newbyteorder("=")
        assert found[name].dtype.isnative
        np.testing.assert_array_equal(found[name], array, err_msg=name, strict=False)
        assert found[name].shape == array.shape


def refusal(path, error=ValueError):
    """The message of the one error that reading the path ends in, which names the path."""
    with pytest.raises(error, match=re.escape(str(path))) as caught:
        interop.read_weights(path)
    assert type(caught.value) is error
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    message = str(caught.value)
    assert message.startswith((str(path), f"the suffix of {path}"))
    assert "\n" not in message
    assert "weights_only" not in message
    return message


def test_what_is_written_is_read(tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    interop.write_weights(path, ARRAYS)
    assert_same(interop.read_weights(path), ARRAYS)
    assert_same(interop.read_weights(str(path)), ARRAYS)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("end", TORCH)
def test_torch_has_four_suffixes(tmp_path, torch, end):
    interop.write_weights(tmp_path / f"w{end}", {"w": np.ones(2)})
    assert torch.load(tmp_path / f"w{end}", weights_only=True)["w"].tolist() == [1, 1]
    assert_same(interop.read_weights(tmp_path / f"w{end}"), {"w": np.ones(2)})


def test_the_suffix_may_be_in_capitals(tmp_path):
    interop.write_weights(tmp_path / "W.NPZ", {"w": np.ones(2)})
    assert_same(interop.read_weights(tmp_path / "W.NPZ"), {"w": np.ones(2)})


def test_other_libraries_read_what_is_written(tmp_path):
    interop.write_weights(tmp_path / "w.npz", ARRAYS)
    with np.load(tmp_path / "w.npz") as found:
        assert_same({name: found[name] for name in ARRAYS}, ARRAYS)
    interop.write_weights(tmp_path / "w.safetensors", ARRAYS)
    assert_same(safetensors.numpy.load_file(tmp_path / "w.safetensors"), ARRAYS)
    with safetensors.safe_open(tmp_path / "w.safetensors", "np") as file:
        assert file.metadata() == {"format": "pt"}


def test_torch_reads_what_is_written(tmp_path, torch):
    interop.write_weights(tmp_path / "w.pth", ARRAYS)
    found = torch.load(tmp_path / "w.pth", weights_only=True)
    assert {type(tensor) for tensor in found.values()} == {torch.Tensor}
    assert_same({name: tensor.numpy() for name, tensor in found.items()}, ARRAYS)


def test_files_of_other_libraries_are_read(tmp_path):
    with (tmp_path / "w.npz").open("wb") as file:
        np.savez_compressed(file, w=ARRAYS["transposed"], c=ARRAYS["complex"])
    expected = {"w": ARRAYS["transposed"], "c": ARRAYS["complex"]}
    assert_same(interop.read_weights(tmp_path / "w.npz"), expected)


def test_complex128_is_kept_or_refused(tmp_path, suffix):
    path = tmp_path / f"w{suffix}"
    weights = {"c": np.array([1 / 3 + 1j])}
    if suffix == ".safetensors":
        with pytest.raises(ValueError, match="'c' is an array of complex128"):
            interop.write_weights(path, weights)
        assert not path.exists()
    else:
        interop.write_weights(path, weights)
        assert_same(interop.read_weights(path), weights)


@pytest.mark.parametrize("kind", [jnp.bfloat16, jnp.float8_e4m3fn, jnp.float8_e5m2])
def test_floats_that_numpy_lacks_are_written_as_float32(tmp_path, suffix, kind):
    weights = {"w": jnp.array([1 / 3, -8, 0.25], kind)}
    interop.write_weights(tmp_path / f"w{suffix}", weights)
    expected = {"w": np.asarray(weights["w"]).astype(np.float32)}
    assert_same(interop.read_weights(tmp_path / f"w{suffix}"), expected)


def test_bfloat16_in_safetensors_comes_as_float32(tmp_path):
    header = json.dumps({"w": {"dtype": "BF16", "shape": [3], "data_offsets": [0, 6]}}).encode()
    bits = struct.pack("<3H", 0x3F80, 0xC049, 0x7F7F)
    path = tmp_path / "w.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bits)
    widened = np.frombuffer(struct.pack("<3I", 0x3F800000, 0xC0490000, 0x7F7F0000), np.float32)
    assert_same(interop.read_weights(path), {"w": widened})


def test_tensors_of_every_kind_are_read(tmp_path, torch):
    complex64 = torch.tensor([1 + 2j, 3 - 1j], dtype=torch.complex64)
    tensors = {
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "gradient": torch.ones(2, requires_grad=True),
        "bfloat16": torch.tensor([1 / 3]).bfloat16(),
        "float8": torch.tensor([0.3]).to(torch.float8_e4m3fn),
        "conjugate": complex64.conj(),
        "negative": torch.tensor([1 + 2j, 3 - 1j]).conj().imag,
        "slice": torch.arange(12.0).reshape(3, 4)[1:, ::2].t(),
        "scalar": torch.tensor(3),
    }
    torch.save(tensors, tmp_path / "w.pth")
    expected = {
        "parameter": np.ones(2, np.float32),
        "gradient": np.ones(2, np.float32),
        "bfloat16": np.array([0.333984375], np.float32),
        "float8": np.array([0.3125], np.float32),
        "conjugate": np.array([1 - 2j, 3 + 1j], np.complex64),
        "negative": np.array([-2, 1], np.float32),
        "slice": np.array([[4, 8], [6, 10]], np.float32),
        "scalar": np.array(3),
    }
    assert_same(interop.read_weights(tmp_path / "w.pth"), expected)


@pytest.mark.parametrize(
    "how",
    [{}, {"_use_new_zipfile_serialization": False}, {"pickle_protocol": 3}],
    ids=["zip", "legacy", "protocol 3"],
)
def test_each_of_torchs_formats_is_read(tmp_path, torch, how):
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    torch.save(model.state_dict(), tmp_path / "w.pth", **how)
    expected = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    assert_same(interop.read_weights(tmp_path / "w.pth"), expected)


def test_tensors_from_an_accelerator_are_read_without_one(tmp_path, torch, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(torch.serialization, "location_tag", lambda _: "cuda:7")
        torch.save({"w": torch.ones(2)}, tmp_path / "w.pth")
    assert_same(interop.read_weights(tmp_path / "w.pth"), {"w": np.ones(2, np.float32)})


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_weights_one_level_down_are_found(tmp_path, torch, key, prefix):
    model = torch.nn.Linear(3, 2)
    adam = torch.optim.Adam(model.parameters())
    model(torch.ones(3)).sum().backward()
    adam.step()
    weights = {prefix + name: tensor for name, tensor in model.state_dict().items()}
    checkpoint = {key: weights, "optimizer": adam.state_dict(), "epoch": 3, "best": torch.ones(1)}
    torch.save(checkpoint, tmp_path / "w.ckpt")
    expected = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    assert_same(interop.read_weights(tmp_path / "w.ckpt"), expected)


def test_a_usual_key_that_holds_no_weights_is_passed_over(tmp_path, torch):
    weights = {"w": torch.ones(2)}
    torch.save({"model": {"width": 3}, "state_dict": weights}, tmp_path / "w.pth")
    assert_same(interop.read_weights(tmp_path / "w.pth"), {"w": np.ones(2, np.float32)})
    torch.save({"model": torch.ones(2), "state_dict": torch.zeros(1)}, tmp_path / "w.pth")
    expected = {"model": np.ones(2, np.float32), "state_dict": np.zeros(1, np.float32)}
    assert_same(interop.read_weights(tmp_path / "w.pth"), expected)


def test_two_sets_of_weights_are_not_chosen_from(tmp_path, torch):
    weights = {"w": torch.ones(2)}
    torch.save({"model": weights, "state_dict": weights}, tmp_path / "w.pth")
    assert "holds weights under 'state_dict' and 'model'" in refusal(tmp_path / "w.pth")


def test_the_prefix_goes_only_where_every_name_has_it(tmp_path, suffix):
    ones = np.ones(2, np.float32)
    path = tmp_path / f"w{suffix}"
    interop.write_weights(path, {"module.a": ones, "module.module.b": ones})
    assert_same(interop.read_weights(path), {"a": ones, "module.b": ones})
    interop.write_weights(path, {"module.a": ones, "modules.b": ones})
    assert_same(interop.read_weights(path), {"module.a": ones, "modules.b": ones})


def test_a_model_goes_through_a_file(tmp_path, suffix):
    config = models.config(
        "transformer", enc_in=3, dec_in=3, c_out=2, seq_len=8, label_len=4, pred_len=4,
        d_model=4, n_heads=2, e_layers=1, d_layers=1, d_ff=6,
    )  # fmt: skip
    made = drawn(config)
    path = tmp_path / f"w{suffix}"
    interop.write_weights(path, interop.to_torch(made))
    found = interop.from_torch(config, interop.read_weights(path))
    jax.tree.map(np.testing.assert_array_equal, found, made)


# What is refused.


def test_every_truncated_file_is_refused(tmp_path, suffix):
    path = tmp_path / f"w{suffix}"
    interop.write_weights(
        path, {"w": np.arange(8, dtype=np.float32), "b": np.ones(2, np.complex64)}
    )
    whole = path.read_bytes()
    for size in [*range(1, len(whole), 29), len(whole) - 1]:
        path.write_bytes(whole[:size])
        assert f"({size} bytes) cannot be read as {suffix}: " in refusal(path)
    path.write_bytes(b"")
    assert "is empty: expected " in refusal(path)


def test_a_truncated_legacy_file_is_refused(tmp_path, torch):
    path = tmp_path / "w.pth"
    torch.save({"w": torch.ones(8)}, path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    for size in range(1, len(whole), 7):
        path.write_bytes(whole[:size])
        assert "cannot be read as .pth: " in refusal(path)


def test_a_changed_number_in_npz_is_noticed(tmp_path):
    path = tmp_path / "w.npz"
    weights = np.arange(8, dtype=np.float32)
    interop.write_weights(path, {"w": weights})
    path.write_bytes(path.read_bytes().replace(weights.tobytes(), weights[::-1].tobytes()))
    assert "BadZipFile: Bad CRC-32" in refusal(path)


@pytest.mark.parametrize("seed", range(5))
def test_random_bytes_are_refused(tmp_path, suffix, seed):
    path = tmp_path / f"w{suffix}"
    path.write_bytes(np.random.default_rng(seed).bytes(3000))
    assert f"(3000 bytes) cannot be read as {suffix}: " in refusal(path)


@pytest.mark.parametrize("other", FORMATS)
def test_the_content_counts_and_not_the_suffix_alone(tmp_path, suffix, other, request):
    if other == ".pth":
        request.getfixturevalue("torch")
    interop.write_weights(tmp_path / f"w{other}", {"w": np.ones(2)})
    path = (tmp_path / f"w{other}").rename(tmp_path / f"renamed{suffix}")
    if suffix == other:
        assert_same(interop.read_weights(path), {"w": np.ones(2)})
    else:
        assert f"cannot be read as {suffix}: " in refusal(path)


def test_an_array_too_large_for_any_memory_is_refused(tmp_path):
    path = tmp_path / "w.npz"
    with zipfile.ZipFile(path, "w") as archive, archive.open("w.npy", "w") as member:
        header = {"descr": "<f8", "fortran_order": False, "shape": (10**17,)}
        np.lib.format.write_array_header_1_0(member, header)
    assert "MemoryError: Unable to allocate" in refusal(path)


def test_object_arrays_are_refused_and_not_run(tmp_path, marker):
    path = tmp_path / "w.npz"
    with path.open("wb") as file:
        np.savez(file, fine=np.ones(2), trap=np.array([Trap(marker)], object))
    assert "entry 'trap.npy': Object arrays cannot be loaded" in refusal(path)
    with path.open("wb") as file:
        pickle.dump(Trap(marker), file)
    assert "BadZipFile: File is not a zip file" in refusal(path)
    assert not marker.exists()


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_pickled_objects_are_refused_and_not_run(tmp_path, torch, marker, zipped):
    path = tmp_path / "w.pth"
    for content in (Trap(marker), {"state_dict": {"w": torch.ones(2)}, "args": Trap(marker)}):
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
        message = refusal(path)
        assert "UnpicklingError: Unsupported global: GLOBAL io.open" in message
        assert "Expected named tensors and nothing else" in message
    assert not marker.exists()
    torch.load(path, weights_only=False)["args"].close()
    assert marker.exists()


@pytest.mark.parametrize("protocol", [2, 4])
def test_bare_pickles_are_refused_and_not_run(tmp_path, torch, marker, protocol):
    path = tmp_path / "w.bin"
    path.write_bytes(pickle.dumps({"w": Trap(marker)}, protocol))
    assert "cannot be read as .bin: UnpicklingError: " in refusal(path)
    assert not marker.exists()


def test_a_whole_model_is_refused(tmp_path, torch):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "w.pt")
    message = refusal(tmp_path / "w.pt")
    assert "GLOBAL torch.nn.modules.linear.Linear" in message
    assert "torch.save(model.state_dict(), path)" in message


def test_a_mapping_that_holds_itself_is_refused(tmp_path, torch):
    loop = {}
    loop["state_dict"] = loop
    torch.save(loop, tmp_path / "w.pth")
    assert "cannot be read as .pth: RecursionError" in refusal(tmp_path / "w.pth")


def test_what_is_not_weights_is_named(tmp_path, torch):
    path = tmp_path / "w.pth"
    expected = "expected string names that map to arrays of numbers"
    for content, holds in [
        (torch.ones(2), "an array of float32"),
        ([torch.ones(2)], "list"),
        ({}, "no weights"),
    ]:
        torch.save(content, path)
        assert refusal(path).startswith(f"{path} holds {holds}: {expected}")
    weights = {"w": torch.ones(2), 3: torch.ones(2), "epoch": 3, "note": "x", "sub": {"w": 1}}
    torch.save(weights, path)
    assert (
        f"{path} has entries that cannot be taken: 3 is a name of type int, 'epoch' is int, "
        f"'note' is str, 'sub' is dict; {expected}"
    ) in refusal(path)
    inner = {"w": torch.ones(2), "s": torch.eye(2).to_sparse(), "m": torch.ones(2, device="meta")}
    torch.save({"model": inner, "epoch": 3}, path)
    assert (
        f"{path}, under 'model', has entries that cannot be taken: "
        "'s' is a tensor (torch.sparse_coo, torch.float32, on cpu), "
        f"'m' is a tensor (torch.strided, torch.float32, on meta); {expected}"
    ) in refusal(path)


def test_text_is_not_weights_and_the_first_entries_are_named(tmp_path):
    path = tmp_path / "w.npz"
    with path.open("wb") as file:
        np.savez(file, fine=np.ones(2), **{f"t{i}": np.array(["x"]) for i in range(7)})
    assert "'t0' is an array of str32" in refusal(path)
    assert "'t4' is an array of str32 and 2 more; expected" in refusal(path)


def test_an_archive_without_arrays_is_refused(tmp_path):
    path = tmp_path / "w.npz"
    with path.open("wb") as file:
        np.savez(file)
    assert " holds no weights: expected " in refusal(path)


def test_missing_files_and_folders_are_told_apart(tmp_path):
    interop.write_weights(tmp_path / "weights.npz", {"w": np.ones(2)})
    assert refusal(tmp_path / "weight.npz", FileNotFoundError) == (
        f"{tmp_path / 'weight.npz'} does not exist (did you mean 'weights.npz'?): "
        "name an existing file of weights"
    )
    refusal(tmp_path / "no" / "weights.pth", FileNotFoundError)
    refusal(tmp_path / "checkpoint", FileNotFoundError)
    for name in ("folder", "folder.npz", "folder.pth"):
        (tmp_path / name).mkdir()
        message = refusal(tmp_path / name, IsADirectoryError)
        assert message == f"{tmp_path / name} is a folder: name a file of weights"
        with pytest.raises(IsADirectoryError, match="is a folder: name a file of weights"):
            interop.write_weights(tmp_path / name, {"w": np.ones(2)})


def test_an_unknown_suffix_lists_the_known(tmp_path):
    (tmp_path / "w.pht").write_bytes(b"x")
    message = (
        f"the suffix of {tmp_path / 'w.pht'} is '.pht' (did you mean '.pt' or '.pth'?): use one of "
        ".npz, .safetensors, .pth, .pt, .bin, .ckpt"
    )
    assert refusal(tmp_path / "w.pht") == message
    with pytest.raises(ValueError, match="use one of") as caught:
        interop.write_weights(tmp_path / "w.pht", {"w": np.ones(2)})
    assert str(caught.value) == message


@pytest.mark.parametrize("end", TORCH)
def test_missing_torch_is_one_clear_line(tmp_path, monkeypatch, end):
    monkeypatch.setitem(sys.modules, "torch", None)
    path = tmp_path / f"w{end}"
    path.write_bytes(b"anything")
    message = (
        "PyTorch's own files need torch, which is not installed: "
        'pip install "tsjax[torch]" in an environment, or pip install -e ".[torch]" from a '
        "checkout; or use .safetensors, to which a machine with torch converts them"
    )
    with pytest.raises(ImportError, match="need torch") as caught:
        interop.read_weights(path)
    assert str(caught.value) == message
    with pytest.raises(ImportError, match="need torch") as caught:
        interop.write_weights(path, {"w": np.ones(2)})
    assert str(caught.value) == message
    assert path.read_bytes() == b"anything"
    assert list(tmp_path.iterdir()) == [path]


# Writing.


def test_what_cannot_be_written_is_named(tmp_path, suffix):
    path = tmp_path / f"w{suffix}"
    weights = {"w": np.ones(2), 3: np.ones(2), "none": None, "text": "x", "ragged": [[1], [1, 2]]}
    with pytest.raises(ValueError, match="cannot be taken") as caught:
        interop.write_weights(path, weights)
    assert str(caught.value).startswith(
        f"state_dict, for {path}, has entries that cannot be taken: 3 is a name of type int, "
        "'none' is NoneType, 'text' is an array of str32, 'ragged' is list; expected "
    )
    with pytest.raises(ValueError, match="holds no weights"):
        interop.write_weights(path, {})
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no is not a folder: create it to write w\.npz"):
        interop.write_weights(tmp_path / "no" / "w.npz", {"w": np.ones(2)})


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "w.npz"
    interop.write_weights(path, {"w": np.ones(2)})
    before = path.read_bytes()

    def full(*args, **kwargs):
        raise OSError("disk full")

    for owner, name in [(np.lib.format, "write_array"), (Path, "replace")]:
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, full)
            with pytest.raises(OSError, match="disk full"):
                interop.write_weights(path, {"w": np.zeros(2)})
        assert path.read_bytes() == before
        assert list(tmp_path.iterdir()) == [path]


def test_a_written_file_has_the_usual_permissions(tmp_path, suffix):
    (tmp_path / "plain").write_bytes(b"")
    interop.write_weights(tmp_path / f"w{suffix}", {"w": np.ones(2)})
    assert (tmp_path / f"w{suffix}").stat().st_mode == (tmp_path / "plain").stat().st_mode
