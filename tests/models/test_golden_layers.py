"""Layers that several models share equal the published ones."""

import jax.numpy as jnp
import numpy as np
import pytest
from layer_goldens import CASE, PATH, REASON, assert_layer, ctor, names, params_like

from tsjax.models import ForecastConfig, torch_names
from tsjax.models.layers import DataEmbedding, attend, sinusoids

pytestmark = pytest.mark.skipif(not PATH.is_file(), reason=REASON)


@pytest.mark.parametrize("name", names("data_embedding/") + names("data_embedding_wo_pos/"))
def test_data_embedding(name):
    made = ctor(name)
    embed, freq, positions = made["embed_type"], made["freq"], "wo_pos" not in name
    config = ForecastConfig(enc_in=1, dec_in=1, c_out=1, embed=embed, freq=freq)
    layer = DataEmbedding(made["d_model"], embed, freq, 0.0, 64 if positions else None)
    names = {
        path.removeprefix("x/"): (key.removeprefix("x."), layout)
        for path, (key, layout) in torch_names._data_embedding("x", config, position=positions)
    }
    tables = {path for path in names if path == "position" or (embed == "fixed" and "time" in path)}

    def buffers(stored, draws):
        found = {path: jnp.asarray(stored[names[path][0]]) for path in tables}
        if positions:
            found["position"] = found["position"][0]
        fields = {path.removeprefix("time/"): found.pop(path) for path in [*found] if "/" in path}
        return found | ({"time": fields} if fields else {})

    def run(params, buffers, x, x_mark):
        variables = {"params": params, "buffers": buffers}
        y = layer.apply(variables, x, x_mark, train=False)
        if not positions:
            return {"y": y}
        position = buffers["position"][None, : x.shape[1]]
        temporal = layer.apply(variables, jnp.zeros_like(x), x_mark, train=False) - position
        parts = {"value": y - temporal - position, "temporal": temporal}
        # The case's loss weighs the terms too, where they can be trained.
        ct = CASE.group(f"{name}/ct")
        return {"y": y} | {key: part for key, part in parts.items() if key in ct}

    marks = CASE.arrays[f"{name}/in/x_mark"]
    like = params_like(layer, CASE.arrays[f"{name}/in/x"], marks, train=False)
    trained = {path: entry for path, entry in names.items() if path not in tables}
    assert_layer(name, run, trained, like, buffers)


@pytest.mark.parametrize("name", names("full_attention/"))
def test_attention(name):
    causal = ctor(name)["mask_flag"]

    def run(params, q, k, v):
        one_hot = jnp.eye(k.shape[1])[None, :, None].repeat(k.shape[0], 0).repeat(k.shape[2], 2)
        weights = attend(q, k, one_hot, causal=causal).swapaxes(1, 2)
        return {"y": attend(q, k, v, causal=causal), "attn": weights}

    assert_layer(name, run)


def test_positional_table():
    tables = {k: x for k, x in CASE.group("positional_table").items() if not k.endswith("rows")}
    assert tables
    for key, table in tables.items():
        rows = CASE.arrays[f"positional_table/{key}_rows"]
        error = np.abs(sinusoids(5000, table.shape[1])[rows] - table)
        # The reference rounds frequencies and angles, up to the row's number, to float32.
        assert np.all(np.max(error, axis=1) <= (rows + 1) * 2.0**-23), key
