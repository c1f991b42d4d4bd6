"""Models in one file: what is read is what was written, and wrong files are refused."""

import dataclasses
import functools
import json
import struct

import jax
import numpy as np
import pytest
from forecasters import drawn, shapes

from tsjax import interop, models, pruning, structure
from tsjax.interop import sparse

SIZES = {
    "enc_in": 3, "dec_in": 3, "c_out": 3, "seq_len": 24, "label_len": 12, "pred_len": 12,
    "d_model": 16, "n_heads": 4, "d_ff": 12, "e_layers": 1,
}  # fmt: skip


@functools.cache
def dense(name):
    """A model and its groups."""
    config = models.config(name, **SIZES)
    return drawn(config), structure.find_groups(
        models.forecast, shapes(config), *models.input_shapes(config, 2)
    )


def sliced(name, share=0.5):
    forecaster, groups = dense(name)
    plan = structure.plan(groups, forecaster, target=structure.Params(share), scope="global")
    return structure.slice(forecaster, plan)


def assert_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("name", models.MODELS)
def test_a_sliced_and_masked_model_comes_back_whole(name, tmp_path):
    small = sliced(name)
    mask = pruning.select(pruning.magnitude(small.params), density=0.5)
    path = tmp_path / "model.safetensors"
    interop.write_model(path, dataclasses.replace(small, mask=mask))
    found = interop.read_model(path)
    assert found.config == small.config
    assert found.config != dense(name)[0].config
    assert found.forward is models.forward(small.config)
    assert_equal(found.params, pruning.apply(small.params, mask))
    assert_equal(found.state, small.state)
    assert_equal(found.mask, mask)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(found))


@pytest.mark.parametrize("name", ["transformer", "fedformer"])
def test_what_was_read_is_an_ordinary_model(name, tmp_path):
    """It runs, can be cut again, and is then written and read once more."""
    path = tmp_path / "model.safetensors"
    interop.write_model(path, sliced(name))
    found = interop.read_model(path)
    inputs = models.input_shapes(found.config, 2)
    groups = structure.find_groups(models.forecast, found, *inputs)
    plan = structure.plan(groups, found, target=structure.Params(0.8))
    smaller = structure.slice(found, plan)
    assert plan.got == pytest.approx(0.8, abs=0.05)
    assert jax.eval_shape(models.forecast, smaller, *inputs).shape == (2, 12, 3)
    interop.write_model(path, smaller)
    assert interop.read_model(path).config == smaller.config


def test_without_a_mask_all_weights_are_kept(tmp_path):
    forecaster, _ = dense("transformer")
    path = tmp_path / "model.safetensors"
    interop.write_model(path, forecaster)
    assert_equal(interop.read_model(path), forecaster)
    everything = jax.tree.map(lambda w: np.ones(w.shape, bool), forecaster.params)
    interop.write_model(path, dataclasses.replace(forecaster, mask=everything))
    assert_equal(interop.read_model(path), forecaster)


def test_a_file_as_it_has_always_been_is_read(tmp_path):
    """Its leaves are ``params/...`` and ``buffers/...``, and its model has a name and fields."""
    small = sliced("fedformer")
    mask = pruning.select(pruning.magnitude(small.params), density=0.5)
    variables = {"params": small.params, "buffers": small.state["buffers"]}
    keep = jax.tree.map(lambda leaf: np.ones(leaf.shape, bool), variables) | {"params": mask}
    model = {"name": "fedformer", "config": dataclasses.asdict(small.config)}
    old, new = tmp_path / "old.safetensors", tmp_path / "new.safetensors"
    old.write_bytes(sparse.encoded(variables, keep, model))
    found = interop.read_model(old)
    assert found.config == small.config
    assert_equal(found.params, pruning.apply(small.params, mask))
    assert_equal((found.state, found.mask), (small.state, mask))
    interop.write_model(new, found)
    assert new.read_bytes() == old.read_bytes()


def test_what_is_no_whole_model_is_not_written(tmp_path):
    forecaster, _ = dense("transformer")
    path = tmp_path / "model.safetensors"
    other = dataclasses.replace(
        forecaster, forward=models.forward(models.config("informer", **SIZES))
    )
    with pytest.raises(ValueError, match="does not match the model of a InformerConfig"):
        interop.write_model(path, other)
    with pytest.raises(ValueError, match="mask"):
        interop.write_model(path, dataclasses.replace(forecaster, mask=forecaster.params))
    with pytest.raises(AttributeError, match="is no model's function"):
        interop.write_model(path, dataclasses.replace(forecaster, forward=lambda *_, key=None: _))
    assert not path.exists()


def test_a_file_without_a_model_is_refused(tmp_path):
    path = tmp_path / "leaves.safetensors"
    params = {"w": np.ones((2, 3), np.float32)}
    interop.write_sparse(path, params, {"w": np.ones((2, 3), bool)})
    with pytest.raises(ValueError, match=r"holds no model but single leaves: interop.read_sparse"):
        interop.read_model(path)


def changed(path, change):
    """Changes what the file says of its model."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    about = json.loads(header["__metadata__"]["tsjax.sparse"])
    change(about["model"])
    header["__metadata__"]["tsjax.sparse"] = json.dumps(about)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


def test_a_changed_configuration_is_noticed(tmp_path):
    path = tmp_path / "model.safetensors"
    interop.write_model(path, dense("transformer")[0])
    changed(path, lambda model: model["config"].update(dropout=0.5))
    with pytest.raises(ValueError, match="its checksum is"):
        interop.read_model(path)


def test_models_of_other_versions_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    monkeypatch.setattr(sparse, "_checksum", lambda *_: "00000000")
    for change, message in (
        ({"name": "performer"}, "model is 'performer'"),
        ({"config": {"kernel": 3}}, "no field 'kernel'"),
        ({"config": None}, "holds a model that cannot be made"),
        ({"config": dataclasses.asdict(sliced("transformer").config)}, "are not those of its conf"),
    ):
        interop.write_model(path, dense("transformer")[0])
        changed(path, lambda model, change=change: model.update(change))
        with pytest.raises(ValueError, match=message):
            interop.read_model(path)


def test_leaves_of_a_sliced_tree_are_read_into_the_dense_one_s_structure(tmp_path):
    rng = np.random.default_rng(0)
    dense = {"a": [rng.normal(size=(3, 8))], "b": rng.normal(size=(8, 2))}
    small = {"a": [dense["a"][0][:, :5]], "b": dense["b"][:5]}
    mask = jax.tree.map(lambda leaf: leaf > 0, small)
    path = tmp_path / "leaves.safetensors"
    interop.write_sparse(path, small, mask)
    with pytest.raises(ValueError, match=r"b: the file .* has shape \(5, 2\), .* \(8, 2\)"):
        interop.read_sparse(path, dense)
    params, kept = interop.read_sparse(path, dense, same_shapes=False)
    assert_equal(params, jax.tree.map(lambda m, w: np.where(m, w, 0), mask, small))
    assert_equal(kept, mask)
    with pytest.raises(ValueError, match="a/0: not in the tree expected"):
        interop.read_sparse(path, {"a": [], "b": dense["b"], "c": dense["b"]}, same_shapes=False)
