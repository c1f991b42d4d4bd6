"""Shared layers equal the published ones: outputs and gradients of the reference's layer cases."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import golden_dir
from golden import Case

from tsjax.models.layers import DataEmbedding, attend, sinusoids

PATH = golden_dir() / "layers.json"
CASE = Case(PATH)

pytestmark = pytest.mark.skipif(
    not PATH.is_file(), reason=f"no layers.json in {golden_dir()}: set TSJAX_GOLDEN_DIR"
)


def names(prefix: str) -> list[str]:
    cases = CASE.meta["cases"] if PATH.is_file() else []
    return [name for name in cases if name.startswith(prefix)]


def close(got, want, relative=1e-10):
    assert np.max(np.abs(np.asarray(got) - want)) <= relative * np.max(np.abs(want))


@pytest.mark.parametrize("name", names("data_embedding/"))
def test_data_embedding(name):
    ctor = CASE.meta["cases"][name]["ctor"]
    stored, inputs = CASE.group(f"{name}/param"), CASE.group(f"{name}/in")
    params = {"value": {"kernel": stored["value_embedding.tokenConv.weight"].transpose(2, 1, 0)}}
    buffers = {"position": stored["position_embedding.pe"][0]}
    fields = ("month", "day", "weekday", "hour", "minute")
    key = "temporal_embedding.{}_embed" + (".emb" if ctor["embed_type"] == "fixed" else "")
    key += ".weight"
    if ctor["embed_type"] == "timeF":
        kernel = stored["temporal_embedding.embed.weight"].T
        params["time"] = {"projection": {"kernel": kernel}}
    elif ctor["embed_type"] == "learned":
        tables = {f: stored[key.format(f)] for f in fields if key.format(f) in stored}
        params["time"] = {field: {"embedding": table} for field, table in tables.items()}
    else:
        buffers["time"] = {f: stored[key.format(f)] for f in fields if key.format(f) in stored}
    rows = buffers["position"].shape[0]
    layer = DataEmbedding(ctor["d_model"], ctor["embed_type"], ctor["freq"], 0.0, rows)
    with jax.enable_x64(True):
        params, buffers = jax.tree.map(jnp.asarray, (params, buffers))

        def run(params, x):
            variables = {"params": params, "buffers": buffers}
            return layer.apply(variables, x, jnp.asarray(inputs["x_mark"]), train=False)

        y, pull = jax.vjp(run, params, jnp.asarray(inputs["x"]))
        close(y, CASE.arrays[f"{name}/out/y"])
        # The case's loss weighs the sum and also its terms.
        ct = CASE.group(f"{name}/ct")
        of_params, of_x = pull(jnp.asarray(ct["y"] + ct["value"]))
        want = CASE.group(f"{name}/grad")
        kernel = want["value_embedding.tokenConv.weight"].transpose(2, 1, 0)
        close(of_params["value"]["kernel"], kernel)
        close(of_x, CASE.arrays[f"{name}/grad_in/x"])
        if ctor["embed_type"] == "learned":
            of_params, _ = pull(jnp.asarray(ct["y"] + ct["temporal"]))
            for field, gradients in of_params["time"].items():
                close(gradients["embedding"], want[key.format(field)])


@pytest.mark.parametrize("name", names("full_attention/"))
def test_attention(name):
    causal = CASE.meta["cases"][name]["ctor"]["mask_flag"]
    with jax.enable_x64(True):
        q, k, v = (jnp.asarray(CASE.arrays[f"{name}/in/{n}"]) for n in "qkv")
        close(attend(q, k, v, causal=causal), CASE.arrays[f"{name}/out/y"])


@pytest.mark.parametrize("width", [16, 24, 512])
def test_positional_table(width):
    rows = CASE.arrays[f"positional_table/d{width}_rows"]
    error = np.abs(sinusoids(5000, width)[rows] - CASE.arrays[f"positional_table/d{width}"])
    # The reference rounds frequencies and angles, up to the row's number, to float32.
    assert np.all(np.max(error, axis=1) <= (rows + 1) * 2.0**-23)
