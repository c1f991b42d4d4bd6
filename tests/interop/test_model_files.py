"""Models in one file: what is read is what was written, and wrong files are refused."""

import functools
import json
import struct

import jax
import numpy as np
import pytest

from tsjax import interop, models, pruning, structure

SIZES = {
    "enc_in": 3, "dec_in": 3, "c_out": 3, "seq_len": 24, "label_len": 12, "pred_len": 12,
    "d_model": 16, "n_heads": 4, "d_ff": 12, "e_layers": 1,
}  # fmt: skip


def drawn(like):
    """Leaves like these, drawn without compiling anything."""
    rng = np.random.default_rng(0)
    if np.issubdtype(like.dtype, np.integer):
        return np.arange(like.size, dtype=like.dtype).reshape(like.shape)
    return rng.normal(size=like.shape).astype(like.dtype)


def pruned(name, share=0.5):
    config = models.config(name, **SIZES)
    model = models.create(name, config)
    params, state = jax.eval_shape(functools.partial(models.init, model), jax.random.key(0))
    params, state = jax.tree.map(drawn, (params, state))
    variables = {"params": params, **state}
    inputs = models.input_shapes(config, 2)
    groups = structure.find_groups(models.sized_forward(config), variables, *inputs)
    plan = structure.plan(groups, variables, target=structure.Params(share), scope="global")
    small = structure.slice(variables, plan)
    config = models.config_from_params(config, small)
    params = small.pop("params")
    return config, params, small


def assert_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("name", models.MODELS)
def test_a_pruned_model_comes_back_whole(name, tmp_path):
    config, params, state = pruned(name)
    mask = pruning.select(pruning.magnitude(params), density=0.5)
    path = tmp_path / "model.safetensors"
    interop.write_model(path, name, config, params, state, mask)
    found = interop.read_model(path)
    assert (found.name, found.config) == (name, config)
    assert_equal(found.params, pruning.apply(params, mask))
    assert_equal(found.state, state)
    assert_equal(found.mask, mask)
    # It is an ordinary model: it runs, and can be cut again.
    variables = {"params": found.params, **found.state}
    forward, inputs = models.sized_forward(found.config), models.input_shapes(found.config, 2)
    groups = structure.find_groups(forward, variables, *inputs)
    plan = structure.plan(groups, variables, target=structure.Params(0.8))
    smaller = structure.slice(variables, plan)
    assert plan.got == pytest.approx(0.8, abs=0.05)
    assert jax.eval_shape(forward, smaller, *inputs).shape == (2, 12, 3)


def test_without_a_mask_all_weights_are_kept(tmp_path):
    config, params, state = pruned("transformer")
    path = tmp_path / "model.safetensors"
    interop.write_model(path, "transformer", config, params, state)
    found = interop.read_model(path)
    assert_equal(found.params, params)
    assert all(jax.tree.leaves(jax.tree.map(np.all, found.mask)))


def test_weights_of_another_configuration_are_refused(tmp_path):
    config, params, state = pruned("transformer")
    path = tmp_path / "model.safetensors"
    dense = models.config("transformer", **SIZES)
    with pytest.raises(ValueError, match=r"d_model is 16, .* would fit"):
        interop.write_model(path, "transformer", dense, params, state)
    with pytest.raises(ValueError, match="transformer needs a TransformerConfig"):
        interop.write_model(path, "transformer", models.config("informer", **SIZES), params, state)
    with pytest.raises(ValueError, match="mask"):
        interop.write_model(path, "transformer", config, params, state, {"params": params})
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
    config, params, state = pruned("transformer")
    path = tmp_path / "model.safetensors"
    interop.write_model(path, "transformer", config, params, state)
    changed(path, lambda model: model["config"].update(dropout=0.5))
    with pytest.raises(ValueError, match="its checksum is"):
        interop.read_model(path)


def test_models_of_other_versions_are_refused(tmp_path, monkeypatch):
    config, params, state = pruned("transformer")
    path = tmp_path / "model.safetensors"
    monkeypatch.setattr(interop.sparse, "_checksum", lambda *_: "00000000")
    for change, message in (
        ({"name": "performer"}, "model is 'performer'"),
        ({"config": {"kernel": 3}}, "no field 'kernel'"),
        ({"config": None}, "holds a model that cannot be made"),
    ):
        interop.write_model(path, "transformer", config, params, state)
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
