"""What Autoformer is made of equals the published layers."""

import functools

import jax.numpy as jnp
import pytest
from layer_goldens import CASE, PATH, REASON, assert_layer, ctor, names, params_like

from tsjax.models import torch_names
from tsjax.models.autoformer import AutoformerConfig, auto_correlation
from tsjax.models.decomposition import (
    DecoderLayer,
    Decompose,
    EncoderLayer,
    SeasonalNorm,
    moving_average,
)
from tsjax.models.layers import Attention, Heads
from tsjax.models.spectra import series, spectrum
from tsjax.models.torch_layouts import linear

pytestmark = pytest.mark.skipif(not PATH.is_file(), reason=REASON)


@pytest.mark.parametrize("name", names("series_decomp/"))
def test_decomposition(name):
    layer = Decompose(ctor(name)["kernel_size"], "edge")

    def run(params, x):
        season, trend = layer.apply({}, x)
        return {"seasonal": season, "moving_mean": trend}

    assert_layer(name, run)


@pytest.mark.parametrize("name", names("orig_fedformer/moving_avg"))
def test_the_uncentred_average(name):
    steps = ctor(name)["kernel_size"]
    assert_layer(name, lambda params, x: {"moving_mean": moving_average(x, steps)})


@pytest.mark.parametrize("name", names("orig_fedformer/series_decomp_multi"))
def test_a_mixture_of_averages(name):
    layer = Decompose(tuple(ctor(name)["kernel_size"]), "edge")

    def run(params, x):
        season, trend = layer.apply({"params": params}, x)
        return {"seasonal": season, "moving_mean": trend}

    entries = torch_names.dense("mixture", "layer", linear())
    assert_layer(name, run, entries, params_like(layer, jnp.zeros((1, 48, 3))))


@pytest.mark.parametrize("name", names("my_Layernorm"))
def test_norm(name):
    layer = SeasonalNorm()
    entries = torch_names.norm("norm", "layernorm")
    like = params_like(layer, jnp.zeros((1, 2, ctor(name)["channels"])))
    assert_layer(name, lambda params, x: {"y": layer.apply({"params": params}, x)}, entries, like)


def correlation(name, **settings):
    made = {
        "factor": ctor(name).get("factor"),
        "lags": "even_length",
        "scale": None,
        "train": False,
    }
    return functools.partial(auto_correlation, **(made | settings))


@pytest.mark.parametrize("name", names("autocorrelation/") + names("orig_autoformer/"))
def test_auto_correlation(name):
    lags = "all" if name.startswith("orig") else "even_length"
    mix = correlation(name, lags=lags, train=CASE.meta["cases"][name]["mode"] == "train")

    def run(params, q, k, v):
        # The correlations by head and channel, whose mean alone is ever computed.
        length = q.shape[1]
        padded = jnp.pad(k[:, :length], ((0, 0), (0, max(length - k.shape[1], 0)), (0, 0), (0, 0)))
        points = length if lags == "all" else length // 2 * 2
        power = (spectrum(q) * jnp.conj(spectrum(padded)))[:, : points // 2 + 1]
        return {"y": mix(q, k, v), "corr": series(power, points)}

    assert_layer(name, run)


@pytest.mark.parametrize("name", names("autocorrelation_layer/"))
def test_auto_correlation_between_its_projections(name):
    made = ctor(name)
    width = made["d_model"] // made["n_heads"]
    layer = Attention(Heads(made["n_heads"], width, width))
    mix = correlation(name)
    x = jnp.zeros((1, 24, made["d_model"]))
    entries = {p.removeprefix("/"): e for p, e in torch_names.attention("", "x")}
    entries = {p: (key.removeprefix("x."), layout) for p, (key, layout) in entries.items()}

    def run(params, x):
        return {"y": layer.apply({"params": params}, x, x, mix)}

    assert_layer(name, run, entries, params_like(layer, x, x, mix))


def layer_config(name):
    made = ctor(name)
    channels = made.get("c_out", 1)
    # What the reference's layers are tried with, where the case does not say.
    own = {
        "n_heads": made.get("n_heads", 3),
        "factor": made.get("factor", 2),
        "lags": "even_length",
    }
    return AutoformerConfig(
        enc_in=channels, dec_in=channels, c_out=channels, d_model=made["d_model"],
        d_ff=made["d_ff"], moving_avg=made["moving_avg"], activation=made["activation"],
        dropout=0.0, **own,
    )  # fmt: skip


@pytest.mark.parametrize("name", names("autoformer_encoder_layer/"))
def test_encoder_layer(name):
    config = layer_config(name)
    layer = EncoderLayer(config.encoder_heads[0], config.d_ff, config)
    mix = correlation(name, factor=config.factor)

    def run(params, x):
        return {"y": layer.apply({"params": params}, x, mix, train=False)}

    entries = dict(torch_names.attention("attention", "attention"))
    entries.update(without_prefix(torch_names._decomposing_layer("x", "x", config, 2)))
    assert_layer(
        name, run, entries, params_like(layer, jnp.zeros((1, 24, config.d_model)), mix, train=False)
    )


@pytest.mark.parametrize("name", names("autoformer_decoder_layer/"))
def test_decoder_layer(name):
    config = layer_config(name)
    layer = DecoderLayer(config.self_heads[0], config.cross_heads[0], config.d_ff, config)
    mix = correlation(name, factor=config.factor)

    def run(params, x, cross):
        y, trend = layer.apply({"params": params}, x, cross, mix, mix, train=False)
        return {"seasonal": y, "residual_trend": trend}

    entries = {}
    for block in ("self_attention", "cross_attention"):
        entries.update(torch_names.attention(block, block))
    entries.update(without_prefix(torch_names._decomposing_layer("x", "x", config, 3)))
    entries["trend_projection/kernel"] = ("projection.weight", torch_names.CONV)
    x, memory = (jnp.zeros((1, steps, config.d_model)) for steps in (30, 24))
    like = params_like(layer, x, memory, mix, mix, train=False)
    assert_layer(name, run, entries, like)


def without_prefix(entries):
    return {
        path.removeprefix("x/"): (key.removeprefix("x."), layout) for path, (key, layout) in entries
    }
