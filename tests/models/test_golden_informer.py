"""What Informer is made of equals the published layers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from layer_goldens import CASE, PATH, REASON, assert_close, assert_layer, ctor, names, params_like

from tsjax.models import torch_names
from tsjax.models.informer import Distil, ProbSparse
from tsjax.models.layers import Attention, Heads

pytestmark = pytest.mark.skipif(not PATH.is_file(), reason=REASON)


def recorded(stored, draws):
    return {"index": jnp.asarray(draws["index_sample"])}


@pytest.mark.parametrize("name", names("prob_attention/"))
def test_prob_sparse_attention(name):
    made = ctor(name)
    block = ProbSparse(made["factor"], None, 0, "transposed", made["mask_flag"])

    def run(params, buffers, q, k, v):
        context = block.apply({"buffers": buffers}, q, k, v, train=False)
        return {"context": context.swapaxes(1, 2)}

    assert_layer(name, run, buffers=recorded)


@pytest.mark.parametrize("name", names("prob_attention_layer/"))
def test_prob_sparse_attention_rereads_its_context(name):
    made = ctor(name)
    width = made["d_model"] // made["n_heads"]
    layer = Attention(Heads(made["n_heads"], width, width))
    block = ProbSparse(made["factor"], None, 0, "reread", made["mask_flag"])

    def run(params, buffers, x):
        def mix(q, k, v):
            return block.apply({"buffers": buffers}, q, k, v, train=False)

        return {"y": layer.apply({"params": params}, x, x, mix)}

    x = jnp.zeros((1, 20, made["d_model"]))
    entries = {
        path.removeprefix("x/"): (key.removeprefix("x."), layout)
        for path, (key, layout) in torch_names.attention("x", "x")
    }
    like = params_like(layer, x, x, lambda q, k, v: v)
    assert_layer(name, run, entries, like, recorded)


@pytest.mark.parametrize("name", names("distil_conv/"))
def test_distilling(name):
    layer = Distil(padding=2)
    train = CASE.meta["cases"][name]["mode"] == "train"

    def statistics(stored, draws=None):
        keys = torch_names.BATCH_STATISTICS.items()
        return {"norm": {ours: jnp.asarray(stored[f"norm.{key}"]) for ours, key in keys}}

    def apply(params, batch_stats, x):
        variables = {"params": params, "batch_stats": batch_stats}
        return layer.apply(variables, x, train=train, mutable=["batch_stats"])

    entries = dict(torch_names.dense("conv", "downConv", torch_names.CONV))
    entries.update(torch_names.norm("norm", "norm"))
    like = params_like(layer, jnp.zeros((3, 48, ctor(name)["c_in"])), train=True)
    assert_layer(name, lambda *args, x: {"y": apply(*args, x)[0]}, entries, like, statistics)
    if after := CASE.group(f"{name}/bn_after"):
        with jax.enable_x64(True):
            stored = CASE.group(f"{name}/param")
            x = jnp.asarray(CASE.arrays[f"{name}/in/x"])
            params = {
                "conv": {
                    "kernel": jnp.asarray(stored["downConv.weight"].transpose(2, 1, 0)),
                    "bias": jnp.asarray(stored["downConv.bias"]),
                },
                "norm": {
                    "scale": jnp.asarray(stored["norm.weight"]),
                    "bias": jnp.asarray(stored["norm.bias"]),
                },
            }
            got = jax.jit(apply)(params, statistics(stored), x)[1]["batch_stats"]["norm"]
        for ours, key in torch_names.BATCH_STATISTICS.items():
            assert_close(np.asarray(got[ours]), after[f"norm.{key}"], key)
