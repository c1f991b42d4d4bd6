"""Crossformer's layers equal the published ones."""

import jax.numpy as jnp
import pytest
from layer_goldens import CASE, PATH, REASON, assert_layer, ctor, names, params_like

from tsjax import models
from tsjax.models.crossformer import (
    DecoderLayer,
    EncoderLevel,
    SegmentEmbedding,
    SegmentMerging,
    TwoStageAttention,
    TwoStageSizes,
    segments,
)
from tsjax.models.layers import Heads
from tsjax.models.torch_names import crossformer

pytestmark = pytest.mark.skipif(not PATH.is_file(), reason=REASON)


def entries(ours: str, theirs: str):
    """Keys and layouts by path, of a layer whose names in the model begin with these."""
    config = models.config("crossformer", "tslib", enc_in=1, dec_in=1, c_out=1, e_layers=2)
    return {
        path.removeprefix(ours): (key.removeprefix(theirs), layout)
        for path, (key, layout) in crossformer(config).items()
        if path.startswith(ours)
    }


def two_stage_sizes(made):
    width, n_heads = made["d_model"], made["n_heads"]
    heads = Heads(n_heads, width // n_heads, width // n_heads)
    return TwoStageSizes(heads, heads, heads, made["factor"], width, width, (made["d_ff"],) * 2)


def assert_block(name, layer, named, **kwargs):
    """Of a layer that maps an input x to an output y."""
    like = params_like(layer, jnp.asarray(CASE.arrays[f"{name}/in/x"]), **kwargs)

    def run(params, x):
        return {"y": layer.apply({"params": params}, x, **kwargs)}

    assert_layer(name, run, named, like)


@pytest.mark.parametrize("name", names("patch_embedding/"))
def test_segment_embedding(name):
    made = ctor(name)
    length, width = made["patch_len"], made["d_model"]
    assert made["stride"] == length
    named = entries("enc_embedding/segments/", "enc_value_embedding.")
    pe, _ = named.pop("position")
    layer = SegmentEmbedding(width, use_bias=False, sinusoid=True)

    def table(stored, draws):
        count = -(-CASE.arrays[f"{name}/in/x"].shape[2] // length)
        return {"position": jnp.asarray(stored[pe][0, :count])}

    def run(params, buffers, x):
        parts = segments(jnp.swapaxes(x, 1, 2), length, "end")
        y = layer.apply({"params": params, "buffers": buffers}, parts)
        return {"y": y.reshape(-1, *y.shape[2:])}

    assert_layer(name, run, named, params_like(layer, jnp.zeros((1, 1, 1, length))), table)


@pytest.mark.parametrize("name", names("two_stage_attention/"))
def test_two_stage_attention(name):
    layer = TwoStageAttention(two_stage_sizes(ctor(name)), 0.0)
    named = entries("encoder/level_0/two_stage/", "encoder.encode_blocks.0.encode_layers.0.")
    assert_block(name, layer, named, train=False)


@pytest.mark.parametrize("name", names("seg_merging/"))
def test_segment_merging(name):
    made = ctor(name)
    layer = SegmentMerging(made["d_model"], made["win_size"])
    named = entries("encoder/level_1/merging/", "encoder.encode_blocks.1.merge_layer.")
    assert_block(name, layer, named)


@pytest.mark.parametrize("name", names("scale_block/"))
def test_encoder_level(name):
    made = ctor(name)
    assert made["depth"] == 1
    layer = EncoderLevel(made["d_model"], made["win_size"], two_stage_sizes(made), 0.0)
    named = entries("encoder/level_1/", "encoder.encode_blocks.1.")
    assert_block(name, layer, named, train=False)


@pytest.mark.parametrize("name", names("crossformer_decoder_layer"))
def test_decoder_layer(name):
    made = ctor(name)
    sizes = two_stage_sizes(made)
    layer = DecoderLayer(sizes, sizes.time, made["d_model"], made["seg_len"], 0.0)
    x, memory = (jnp.asarray(CASE.arrays[f"{name}/in/{key}"]) for key in ("x", "cross"))

    def run(params, x, cross):
        y, prediction = layer.apply({"params": params}, x, cross, train=False)
        flat = prediction.reshape(x.shape[0], -1, made["seg_len"])
        return {"y": y, "layer_predict": flat}

    named = entries("decoder/layer_0/", "decoder.decode_layers.0.")
    assert_layer(name, run, named, params_like(layer, x, memory, train=False))
