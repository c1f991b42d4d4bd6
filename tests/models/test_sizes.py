"""Sliced models from the shapes of their leaves, for every model and preset."""

import collections
import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import Var
from jax.interpreters import partial_eval

from tsjax import costs, models, trees
from tsjax.models import sizes
from tsjax.models.decomposition import DecompositionConfig
from tsjax.models.functions import ModelForward
from tsjax.models.variables import RNG_STREAMS

SMALL = {
    "enc_in": 3, "dec_in": 3, "c_out": 3, "seq_len": 13, "label_len": 5, "pred_len": 7,
    "d_model": 8, "n_heads": 2, "d_ff": 12, "e_layers": 2, "d_layers": 1, "dropout": 0.1,
    "moving_avg": (5,), "modes": 3, "seg_len": 3, "factor": 2, "wavelet_c": 4, "wavelet_k": 3,
    "wavelet_alpha": 2, "cross_c": 5, "cross_k": 2,
}  # fmt: skip
# Name, preset, and fields that differ from SMALL.
VARIANTS = {
    "transformer": ("transformer", "corrected", {}),
    "transformer learned": ("transformer", "corrected", {"embed": "learned"}),
    "informer": ("informer", "corrected", {}),
    "informer tslib fixed": ("informer", "tslib", {"embed": "fixed"}),
    "autoformer": ("autoformer", "corrected", {}),
    "autoformer paper": ("autoformer", "paper", {}),
    "fedformer": ("fedformer", "corrected", {}),
    "fedformer tslib": ("fedformer", "tslib", {}),
    "fedformer paper all modes": ("fedformer", "paper", {"modes": None}),
    "wavelets": (
        "fedformer", "corrected", {"version": "wavelets", "wavelet_c": None, "cross_c": None}
    ),
    "wavelets tslib": ("fedformer", "tslib", {"version": "wavelets"}),
    "crossformer": ("crossformer", "corrected", {"e_layers": 3}),
    "crossformer tslib": ("crossformer", "tslib", {}),
    "crossformer unmerged": ("crossformer", "corrected", {"win_size": 1}),
}  # fmt: skip


def config_of(variant, **fields):
    name, preset, own = VARIANTS[variant]
    given = {**SMALL, **own, **fields}
    return models.config(
        name, preset, **{k: v for k, v in given.items() if k in models.fields(name)}
    )


@functools.cache
def structs(config):
    """Shapes of all leaves of a model."""
    return jax.eval_shape(functools.partial(models.create, config), jax.random.key(0))


def shapes(tree):
    return {path: leaf.shape for path, leaf in trees.by_path(tree).items()}


# A cut: a pattern of paths, an axis, and how many units of it are left.


def heads(block, n):
    cuts = [(f"{block}/(query|key|value)/kernel", 1, n), (f"{block}/(query|key|value)/bias", 0, n)]
    return [*cuts, (f"{block}/out/kernel", 0, n)]


def keys(block, n):
    return [(f"{block}/(query|key)/kernel", 2, n), (f"{block}/(query|key)/bias", 1, n)]


def values(block, n):
    return [(f"{block}/value/kernel", 2, n), (f"{block}/value/bias", 1, n),
            (f"{block}/out/kernel", 1, n)]  # fmt: skip


def hidden(block, n):
    return [
        (f"{block}/up/kernel", 1, n),
        (f"{block}/up/bias", 0, n),
        (f"{block}/down/kernel", 0, n),
    ]


def width(stack, n):
    """Model width of the encoder or of the decoder, but for what the other one reads of it."""
    cuts = [(rf"{stack[:3]}_embedding/value/kernel", 2), (rf"{stack[:3]}_embedding/time/", 1),
            (rf"{stack[:3]}_embedding/position", 1), (rf"{stack}/.*attention/query/kernel", 0),
            (rf"{stack}/.*/(self_)?attention/(key|value)/kernel", 0),
            (rf"{stack}/.*attention/out/kernel", 2), (rf"{stack}/.*attention/out/bias", 0),
            (rf"{stack}/.*up/kernel", 0), (rf"{stack}/.*down/kernel", 1),
            (rf"{stack}/.*down/bias", 0), (rf"{stack}/.*(norm\d?)/(scale|bias)", 0)]  # fmt: skip
    if stack == "encoder":
        cuts += [(r"distil_\d/conv/kernel", 1), (r"distil_\d/conv/kernel", 2),
                 (r"distil_\d/conv/bias", 0), (r"distil_\d/norm/(scale|bias|mean|var)", 0),
                 (r"cross_attention/(key|value)/kernel", 0)]  # fmt: skip
    else:
        cuts += [("output_projection/kernel", 0), ("trend_projection/kernel", 1)]
    return [(pattern, axis, n) for pattern, axis in cuts]


def weights(mixing, axis, n):
    return [(rf"{mixing}_mixing/(real|imag)", axis, n)]


def kernels(mixing, axes, n):
    return [(rf"{mixing}_mixing/\w+_to_\w+/(real|imag)", axis, n) for axis in axes]


def within(cuts, path, shape):
    """A leaf's shape once its model is cut."""
    shape = list(shape)
    for pattern, axis, left in cuts:
        if re.search(pattern, path):
            shape[axis] = min(shape[axis], left)
    return tuple(shape)


def cut(tree, cuts):
    """The first units along each axis that is cut."""

    def one(path, leaf):
        shape = within(cuts, path, leaf.shape)
        if isinstance(leaf, jax.ShapeDtypeStruct):
            return jax.ShapeDtypeStruct(shape, leaf.dtype)
        return leaf[tuple(slice(n) for n in shape)]

    for pattern, _, _ in cuts:
        assert any(re.search(pattern, path) for path in trees.paths(tree)), pattern
    return trees.map_with_path(one, tree)


def config_cut(config, cuts):
    """The configuration of a model that has been cut."""
    return cut(structs(config), cuts).config


def present(config, cuts):
    """The cuts of what a model has."""
    paths = trees.paths(structs(config))
    return [c for c in cuts if any(re.search(c[0], path) for path in paths)]


def zero(tree, cuts):
    def one(path, leaf):
        left = tuple(slice(n) for n in within(cuts, path, leaf.shape))
        return jnp.zeros_like(leaf).at[left].set(leaf[left])

    return trees.map_with_path(one, tree)


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_is_not_cut_keeps_its_configuration(variant):
    config = config_of(variant)
    forecaster = structs(config)
    # Equal configurations share one function, so it may hold another one that is equal.
    assert forecaster.config == config
    assert models.config_from_params(config, forecaster.params, forecaster.state) is config
    assert models.config_from_params(config, forecaster.params) is config


ENC, DEC = "encoder/layer_[01]/attention", "decoder/layer_0/self_attention"
CROSS = "decoder/layer_0/cross_attention"
TIME, SENDER, RECEIVER = (
    f"level_0/two_stage/{name}" for name in ("time_attention", "sender", "receiver")
)
PLAIN = ("transformer", "informer tslib fixed")
# Four wide heads of the width 8: what was implied must be stated once heads and width part.
STATED = {"d_keys": 4, "d_values": 4}


def every(*variants):
    """One row for each variant: the variant, cuts, and fields that change."""
    return [(v, *row) for names, rows in variants for v in names for row in rows]


FAMILY = [
    (width("encoder", 6), {"d_model": 6, "d_model_dec": 8, **STATED}),
    (width("decoder", 6), {"d_model_dec": 6, **STATED}),
    (width("encoder", 6) + width("decoder", 6), {"d_model": 6, **STATED}),
    (hidden("encoder/layer_1/feed_forward", 5), {"d_ff": (12, 5, 12)}),
    (hidden("feed_forward", 5), {"d_ff": 5}),
    (values("encoder/layer_0/attention", 3), {"d_values": (3, 4, 4, 4)}),
    (values("attention", 3), {"d_values": 3}),
]
FREQUENCIES = [
    (width("encoder", 6), {"d_model": 6, "d_model_dec": 8, **STATED}),
    (width("decoder", 6), {"d_model_dec": 6, **STATED, "cross_scale": 1 / 64}),
    (hidden("encoder/layer_1/feed_forward", 5), {"d_ff": (12, 5, 12)}),
]
SELF_MODES = [("encoder_mixing/(modes|bins)", 0, 2), ("encoder_mixing/(real|imag)", 3, 2)]
QUERY_MODES = [("cross_mixing/query_modes", 0, 1), ("cross_mixing/(real|imag)", 3, 1)]
FOURIER = [
    *FREQUENCIES,
    (
        heads(ENC, 1) + weights("encoder", 0, 1),
        {"n_heads": (1, 1, 2, 2), **STATED},
    ),
    (heads(CROSS, 1) + weights("cross", 0, 1), {"n_heads": (2, 2, 2, 1), **STATED}),
    (keys(DEC, 3) + weights("decoder", 1, 3), {"d_keys": (4, 4, 3, 4)}),
    (values(ENC, 3) + weights("encoder", 2, 3), {"d_values": (3, 3, 4, 4)}),
    (values(CROSS, 3) + weights("cross", 2, 3), {"d_values": (4, 4, 4, 3)}),
]
INTO_WAVELETS = [
    ("encoder_mixing/value/kernel", 0, 1),
    ("encoder_mixing/out/kernel", 2, 1),
    ("encoder_mixing/out/bias", 0, 1),
]
WAVELETS = [
    (
        heads(ENC, 1) + INTO_WAVELETS,
        {"n_heads": (1, 1, 2, 2), "d_values": 4},
    ),
    (
        [*keys(CROSS, 2), ("cross_mixing/(query|key)/kernel", 1, 2)],
        {"d_keys": (4, 4, 4, 2)},
    ),
    (
        [*values(DEC, 3), ("decoder_mixing/value/kernel", 1, 3),
         ("decoder_mixing/out/kernel", 3, 3), ("decoder_mixing/out/bias", 1, 3)],
        {"d_values": (4, 4, 3, 4)},
    ),
    (
        [*kernels("encoder", (0, 2), 1), ("encoder_mixing/value/kernel", 2, 1),
         ("encoder_mixing/value/bias", 0, 1), ("encoder_mixing/out/kernel", 0, 1)],
        {"wavelet_c": (1, 2)},
    ),
    (kernels("decoder", (4,), 1), {"wavelet_alpha": (2, 1)}),
]  # fmt: skip
CUTS = [
    *every(
        (("transformer",), FAMILY),
        (("autoformer",), FAMILY[1:4]),
        (("informer tslib fixed", "informer"), FAMILY[:2]),
        (("transformer learned", "autoformer paper"), FAMILY[1:2]),
        (PLAIN, [
            (heads("encoder/layer_0/attention", 1), {"n_heads": (1, 2, 2, 2), **STATED}),
            (heads("attention", 1), {"n_heads": 1, **STATED}),
            (keys(CROSS, 3), {"d_keys": (4, 4, 4, 3), "attention_scale": 0.5}),
            (keys("attention", 3), {"d_keys": 3, "attention_scale": 0.5}),
        ]),
        (("autoformer",), [
            (heads(CROSS, 1), {"n_heads": (2, 2, 2, 1), **STATED, "attention_scale": 1 / 8}),
            (keys("attention", 3), {"d_keys": 3, "attention_scale": 1 / 8}),
        ]),
        (("fedformer", "fedformer tslib"), FOURIER),
        (("fedformer", "fedformer tslib"), [
            (SELF_MODES, {"modes": (2, 3, 3, 3)}),
            (QUERY_MODES, {"modes": (3, 3, 1, 3)}),
            ([("cross_mixing/key_modes", 0, 1)], {"modes": (3, 3, 3, 1)}),
            ([("_modes|/modes|bins", 0, 2), ("mixing/(real|imag)", 3, 2)], {"modes": 2}),
        ]),
        # 64 are asked for, and 6 there are of each: half the look-back and the horizon make 13.
        (("fedformer paper all modes",), [
            (SELF_MODES, {"modes": (2, 6, 6, 6)}),
            (heads(DEC, 1) + weights("decoder", 0, 1), {"n_heads": (2, 2, 1, 2), **STATED}),
        ]),
        (("wavelets",), WAVELETS),
        (("wavelets",), [
            # What nothing shows stays implied where it can, here the keys of the self blocks.
            (width("decoder", 6), {"d_model_dec": 6, **STATED, "cross_scale": 1 / 64,
                                   "wavelet_c": 2}),
        ]),
        (("wavelets tslib",), [
            *FREQUENCIES,
            ([("cross_mixing/(query|key|value)/kernel", 2, 3), ("cross_mixing/out/kernel", 0, 3),
              ("cross_mixing/(query|key|value)/bias", 0, 3)], {"cross_c": 3}),
            ([*values(CROSS, 3), ("cross_mixing/value/kernel", 1, 3),
              ("cross_mixing/out/kernel", 3, 3), ("cross_mixing/out/bias", 1, 3)],
             {"d_values": (4, 4, 4, 3)}),
            (heads(ENC, 1) + INTO_WAVELETS, {"n_heads": (1, 1, 2, 2), **STATED}),
            (keys(ENC, 2), {"d_keys": (2, 2, 4, 4)}),
        ]),
    ),
]  # fmt: skip
LEVEL = [("level_1/merging/projection/kernel", 2), ("level_1/merging/projection/bias", 0),
         ("level_2/merging/norm/", 1), ("level_2/merging/projection/kernel", 1),
         (r"level_1/two_stage/.*(norm\d)/", 0), ("level_1/two_stage/.*down/kernel", 1),
         ("level_1/two_stage/.*down/bias", 0), ("level_1/two_stage/.*up/kernel", 0),
         ("level_1/two_stage/time_attention/(query|key|value)/kernel", 0),
         ("level_1/two_stage/(time_attention|receiver)/out/kernel", 2),
         ("level_1/two_stage/(time_attention|receiver)/out/bias", 0),
         ("level_1/two_stage/sender/(key|value)/kernel", 0),
         ("level_1/two_stage/receiver/query/kernel", 0),
         ("decoder/layer_2/cross_attention/(key|value)/kernel", 0)]  # fmt: skip


def but(count, usual, block, size):
    """A field that is as usual but in one block."""
    return (usual,) * block + (size,) + (usual,) * (count - block - 1)


# Three levels: 9 + 16 attention blocks, 3 + 4 two-stage layers.
CUTS += every((("crossformer",), [
    ([(p, a, 6) for p, a in LEVEL],
     {"d_model": (8, 6, 8), "d_router": 8, "d_message": 8, **STATED}),
    (heads(TIME, 1) + keys(SENDER, 3) + values(RECEIVER, 3),
     {"n_heads": but(25, 2, 0, 1), "d_keys": but(25, 4, 1, 3), "d_values": but(25, 4, 2, 3),
      "attention_scale": 0.5}),
    ([("level_2/two_stage/router", 1, 1), ("decoder/layer_3/two_stage/router", 2, 5),
      ("layer_3/two_stage/sender/query/kernel", 0, 5),
      ("level_0/two_stage/sender/out/kernel", 2, 5), ("level_0/two_stage/sender/out/bias", 0, 5),
      ("level_0/two_stage/receiver/(key|value)/kernel", 0, 5)],
     {"factor": but(7, 2, 2, 1), "d_router": but(7, 8, 6, 5), "d_message": but(7, 8, 0, 5)}),
    (hidden("level_1/two_stage/feed_forward2", 5) + hidden("layer_1/feed_forward", 5)
     + values(CROSS, 3),
     {"d_ff": but(14, 12, 3, 5), "d_mlp": (8, 5, 8, 8), "d_values": but(25, 4, 12, 3)}),
    (hidden("decoder/layer_[0-3]/feed_forward", 5), {"d_mlp": 5}),
]))  # fmt: skip


@pytest.mark.parametrize("row", range(len(CUTS)))
def test_a_cut_is_seen_in_the_shapes(row):
    variant, cuts, fields = CUTS[row]
    config = config_of(variant)
    small = cut(structs(config), present(config, cuts))
    assert shapes(small) != shapes(structs(config))
    assert small.config == dataclasses.replace(config, **fields)


def test_the_key_modes_are_seen_in_the_state_only():
    config = config_of("fedformer")
    small = cut(structs(config), [("cross_mixing/key_modes", 0, 1), *QUERY_MODES])
    assert small.config.modes == (3, 3, 1, 1)
    assert models.config_from_params(config, small.params).modes == (3, 3, 1, 3)


def test_scales_that_differ_stay_those_of_their_blocks():
    config = config_of("transformer", d_keys=(4, 9, 16, 25))
    found = config_cut(config, keys("attention", 4))
    assert found == dataclasses.replace(
        config, d_keys=4, attention_scale=(1 / 2, 1 / 3, 1 / 4, 0.2)
    )


@pytest.mark.parametrize("name", ["transformer", "autoformer"])
def test_given_scales_stay(name):
    config = config_of(name, attention_scale=0.3)
    found = config_cut(config, keys("attention", 3))
    assert found == dataclasses.replace(config, d_keys=3)
    config = config_of("fedformer", cross_scale=0.3)
    small = cut(structs(config), present(config, width("decoder", 6)))
    assert small.config.cross_scale == 0.3


def test_given_sizes_that_still_fit_stay():
    config = config_of("transformer", d_model_dec=8, d_keys=4, d_ff=(12, 12, 12), n_heads=(2,) * 4)
    found = config_cut(config, values("attention", 3))
    assert found == dataclasses.replace(config, d_values=3)
    # Three heads of 8 // 3 would not be as wide as these, four of 8 // 4 are.
    config = config_of("transformer", n_heads=4)
    small = cut(structs(config), present(config, width("encoder", 6) + width("decoder", 6)))
    small = cut(small, heads("attention", 3))
    assert small.config == dataclasses.replace(config, d_model=6, n_heads=3)


MANY = {
    "transformer": width("encoder", 6) + heads(ENC, 1) + hidden("feed_forward", 7),
    "informer": width("encoder", 6) + width("decoder", 5) + keys(DEC, 3) + values("attention", 2),
    "autoformer": width("decoder", 6) + heads(CROSS, 1) + keys(ENC, 2),
    "fedformer tslib": width("decoder", 6) + SELF_MODES + QUERY_MODES + hidden("feed_forward", 7),
    "wavelets tslib": width("encoder", 6) + heads(ENC, 1) + INTO_WAVELETS,
    "crossformer": [(p, a, 6) for p, a in LEVEL]
    + heads(TIME, 1)
    + hidden("layer_1/feed_forward", 3),
}


@pytest.mark.parametrize("variant", MANY)
def test_a_sliced_model_is_sliced_again(variant):
    config = config_of(variant)
    first, second = present(config, MANY[variant]), present(config, hidden("forward[12]?", 2))
    small = cut(structs(config), first)
    smaller = cut(small, second)
    twice = models.config_from_params(small.config, smaller.params, smaller.state)
    assert shapes(structs(twice)) == shapes(smaller)
    assert twice == smaller.config


@pytest.mark.parametrize("variant", VARIANTS)
def test_any_sizes_are_seen(variant):
    # Nearly all of them are cut, each to a size of its own.
    config = config_of(variant)
    rng = np.random.default_rng(0)
    left = collections.defaultdict(lambda: rng.uniform(0.1, 1))
    axes = sizes._axes(config)

    def some(path, leaf):
        shape = [
            size if isinstance(slot, int) else max(1, round(size * left[slot]))
            for slot, size in zip(axes[path], leaf.shape, strict=True)
        ]
        return jax.ShapeDtypeStruct(tuple(shape), leaf.dtype)

    small = trees.map_with_path(some, structs(config))
    assert small.config != config
    assert shapes(structs(small.config)) == shapes(small)


def test_tracers_will_do_even_for_the_first_call():
    sizes._axes.cache_clear()
    config = config_of("fedformer")
    cuts = present(config, [*hidden("feed_forward", 5), *SELF_MODES])
    found = []

    def fn(forecaster):
        found.append(forecaster.config)
        return 0

    jaxpr = jax.make_jaxpr(fn)(cut(structs(config), cuts))
    assert not jaxpr.eqns
    assert structs(config).config == config
    assert found == [dataclasses.replace(config, d_ff=5, modes=(2, 3, 3, 3))]


# What no configuration has: cuts, and the leaf that is named, with its shape and the wanted one.
WRONG = [
    ("transformer", [("encoder/layer_1/feed_forward/up/kernel", 0, 7)],
     "params/encoder/layer_1/feed_forward/up/kernel", (7, 12), (8, 12)),
    ("transformer", [("enc_embedding/value/kernel", 1, 2)],
     "params/enc_embedding/value/kernel", (3, 2, 8), (3, 3, 8)),
    ("transformer", [("dec_embedding/position", 0, 11)],
     "state/buffers/dec_embedding/position", (11, 8), (12, 8)),
    ("transformer learned", [("enc_embedding/time/hour", 0, 23)],
     "params/enc_embedding/time/hour/embedding", (23, 8), (24, 8)),
    ("transformer", [("output_projection/bias", 0, 2)], "params/output_projection/bias", (2,),
     (3,)),
    ("informer", [("distil_0/conv/kernel", 2, 7)], "params/distil_0/conv/kernel", (3, 8, 7),
     (3, 8, 8)),
    ("informer", [("distil_0/norm/mean", 0, 7)],
     "state/batch_stats/distil_0/norm/mean", (7,), (8,)),
    ("informer", [("self_sampling_0/index", 1, 5)], "state/buffers/self_sampling_0/index", (12, 5),
     (12, 6)),
    ("autoformer", [("layer_0/attention/value/bias", 0, 1)],
     "params/encoder/layer_0/attention/value/bias", (1, 4), (2, 4)),
    ("fedformer", heads("encoder/layer_0/attention", 1),
     "params/encoder/layer_0/attention/query/kernel", (8, 1, 4), (8, 2, 4)),
    ("fedformer tslib", [("encoder_mixing/bins", 0, 2)],
     "state/buffers/encoder_mixing/bins", (2,), (3,)),
    ("wavelets", [("encoder_mixing/coarsest/kernel", 0, 2)],
     "params/encoder_mixing/coarsest/kernel", (2, 3), (3, 3)),
    ("crossformer", [("decoder/layer_0/output_projection/bias", 0, 2)],
     "params/decoder/layer_0/output_projection/bias", (2,), (3,)),
    ("crossformer", [("level_0/two_stage/router", 0, 4)],
     "params/encoder/level_0/two_stage/router", (4, 2, 8), (5, 2, 8)),
    ("crossformer unmerged", [(p, a, 6) for p, a in LEVEL if "level_1/two" in p],
     "params/encoder/level_1/two_stage/norm1/scale", (6,), (8,)),
]  # fmt: skip


@pytest.mark.parametrize("row", range(len(WRONG)))
def test_what_no_configuration_has_is_refused(row):
    variant, cuts, path, have, want = WRONG[row]
    config = config_of(variant)
    small = cut(structs(config), cuts)
    owner = re.escape(f"the model of a {type(config).__name__}")
    message = re.escape(f"{path}: the tree has shape {have}, ") + owner + re.escape(f" {want}")
    with pytest.raises(ValueError, match=message):
        models.config_from_params(config, small.params, small.state)
    with pytest.raises(ValueError, match=message):
        models.forecast(small, *models.input_shapes(config, 2))
    if path.startswith("params/"):
        with pytest.raises(ValueError, match=message):
            models.config_from_params(config, small.params)


def test_all_that_does_not_fit_is_listed():
    config = config_of("informer")
    small = cut(structs(config), [("index", 1, 5), ("up/kernel", 0, 7)])
    extra = {**small.params, "more": small.params["output_projection"]}
    del extra["output_projection"]
    with pytest.raises(ValueError, match="not match") as error:
        models.config_from_params(config, extra, small.state)
    lines = str(error.value).splitlines()[1:]
    wrong = [line.split(":")[0].strip() for line in lines]
    assert sorted(wrong) == sorted(
        [f"params/{name}/{part}" for name in ("more", "output_projection")
         for part in ("bias", "kernel")]
        + [f"state/buffers/{kind}_sampling_{i}/index" for kind, i in (("encoder", 0), ("self", 0))]
        + [f"params/{layer}/feed_forward/up/kernel"
           for layer in ("decoder/layer_0", "encoder/layer_0", "encoder/layer_1")]
    )  # fmt: skip


def test_other_things_are_refused():
    config = config_of("transformer")
    params = structs(config).params
    with pytest.raises(ValueError, match="buffers/enc_embedding/position: missing from the tree"):
        models.config_from_params(config, params, {})
    with pytest.raises(ValueError, match=r"config must be one of .*got a DecompositionConfig"):
        models.config_from_params(DecompositionConfig(3, 3, 3), params)
    with pytest.raises(ValueError, match=r"config must be one of .*got a DecompositionConfig"):
        models.create(DecompositionConfig(3, 3, 3), jax.random.key(0))
    with pytest.raises(ValueError, match="these leaves are no arrays: params/a"):
        models.config_from_params(config, {"a": 1})
    config = config_of("fedformer")
    grown = trees.map_with_path(
        lambda path, leaf: jax.ShapeDtypeStruct((*leaf.shape[:-1], 9), leaf.dtype)
        if re.search("encoder_mixing/", path) else leaf, structs(config),
    )  # fmt: skip
    with pytest.raises(ValueError, match="modes has 9 for encoder, which has 6 frequencies"):
        grown.config  # noqa: B018
    with pytest.raises(ValueError, match="d_ff must be at least 1"):
        config_cut(config, present(config, hidden("feed_forward", 0)))


@functools.cache
def sample(variant, **fields):
    config = config_of(variant, **fields)
    rng = np.random.default_rng(0)

    def random(path, leaf):
        if leaf.dtype == jnp.int32:  # The lowest modes.
            return jnp.broadcast_to(jnp.arange(leaf.shape[-1] if leaf.shape else 1), leaf.shape)
        values = rng.uniform(0.1, 1, leaf.shape) if "var" in path else rng.normal(size=leaf.shape)
        return jnp.asarray(values, jnp.float32)

    inputs = [
        jnp.asarray(rng.normal(size=s.shape), s.dtype) for s in models.input_shapes(config, 2)
    ]
    return config, trees.map_with_path(random, structs(config)), inputs


# A head, two of the width of the other one's keys, a hidden unit.
INNER = {
    "transformer": (ENC, [], "layer_0/feed_forward"),
    "informer": (ENC, [], "layer_0/feed_forward"),
    "autoformer": (ENC, [], "layer_0/feed_forward"),
    "fedformer": (ENC, weights("encoder", 0, 1) + weights("encoder", 1, 2), "layer_0/feed_forward"),
    "crossformer tslib": ("time_attention", [], "feed_forward1"),
}


@pytest.mark.parametrize("variant", INNER)
def test_a_sliced_model_forecasts_as_if_what_was_cut_were_zero(variant):
    config, forecaster, inputs = sample(variant, e_layers=1)
    block, more, mlp = INNER[variant]
    cuts = present(config, [*heads(block, 1), *keys(block, 2), *more, *hidden(mlp, 7)])
    forecast = jax.jit(models.forecast)
    dense = forecast(forecaster, *inputs)
    want = forecast(zero(forecaster, cuts), *inputs)
    assert np.max(np.abs(want - dense)) > 1e-4
    np.testing.assert_allclose(forecast(cut(forecaster, cuts), *inputs), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("variant", ["transformer", "informer"])
@pytest.mark.parametrize("key", [None, jax.ShapeDtypeStruct((), jax.random.key(0).dtype)])
def test_uncut_it_is_the_module_in_either_mode(variant, key):
    config = config_of(variant)
    assert models.forward(config_of(variant)) is models.forward(config)
    module = models.module(config)

    def plain(params, state, *inputs, key):
        variables = {"params": params, **state}
        if key is None:
            return module.apply(variables, *inputs), state
        rngs = dict(zip(RNG_STREAMS, jax.random.split(key), strict=True))
        return module.apply(variables, *inputs, train=True, rngs=rngs, mutable=list(state))

    forecaster = structs(config)
    given = (forecaster.params, forecaster.state, *models.input_shapes(config, 2))
    want, got = (
        str(live(jax.make_jaxpr(fn)(*given, key=key))) for fn in (plain, models.forward(config))
    )
    assert got == want
    assert ("random_unwrap" in got) == (key is not None)


def live(program):
    """A program without the equations that nothing reads."""
    return partial_eval.dce_jaxpr(program.jaxpr, [True] * len(program.out_avals))[0]


def test_equal_configurations_make_equal_functions():
    config, same = config_of("informer"), config_of("informer", dropout=0.1)
    assert config is not same
    assert hash(ModelForward(config)) == hash(ModelForward(same))
    assert ModelForward(config) == ModelForward(same) == models.forward(config)
    assert ModelForward(config) != ModelForward(config_of("informer", dropout=0.2))


def ties(config):
    """Pairs of (path, axis) whose sums over all other axes are added up, read by nothing."""
    forecaster = structs(config)
    jaxpr = jax.make_jaxpr(models.forecast)(forecaster, *models.input_shapes(config, 2)).jaxpr
    leaf = dict(zip(jaxpr.invars, trees.paths(forecaster), strict=False))
    sums, found = {}, set()
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "reduce_sum" and eqn.invars[0] in leaf:
            left = [i for i in range(eqn.invars[0].aval.ndim) if i not in eqn.params["axes"]]
            sums[eqn.outvars[0]] = (leaf[eqn.invars[0]], *left)
        read = [v for v in eqn.invars if isinstance(v, Var) and v in sums]
        if eqn.primitive.name == "add" and len(read) == 2:
            found.add(frozenset(sums[v] for v in read))
        else:
            assert not read
    return found


# One tie of each kind: the loose end, and what it is tied to.
TIES = [
    ("informer", r"distil_0/conv/kernel 2", r"enc_embedding|encoder|cross_attention/key"),
    ("autoformer", r"decoder/layer_0/cross_attention/value/kernel 1",
     r"decoder/layer_0/cross_attention/(query|key)/(kernel 1|bias 0)"),
    ("fedformer tslib", "encoder/layer_1/attention/key/kernel 2", "encoder.* [012]$"),
    ("fedformer tslib", "decoder/layer_0/cross_attention/value/kernel 2", "cross_mixing.* 2$"),
    ("wavelets", "encoder/layer_1/attention/out/kernel 0", "encoder.*value.* [01]$"),
    ("wavelets", "decoder_mixing/smooth_to_detail/real 4", "decoder_mixing/detail_to_detail.* 4$"),
    ("wavelets tslib", "cross_mixing/value/kernel 2", "cross_mixing/key.* [02]$"),
    ("wavelets tslib", "decoder/layer_0/self_attention/query/kernel 2",
     "self_attention/key/.* [12]$"),
]  # fmt: skip


@pytest.mark.parametrize(("variant", "loose", "anchor"), TIES)
def test_what_only_the_configuration_ties_is_tied_in_the_trace(variant, loose, anchor):
    named = [{f"{path} {axis}" for path, axis in pair} for pair in ties(config_of(variant))]
    partners = [p for pair in named for p in pair if f"params/{loose}" in pair - {p}]
    assert partners
    assert any(re.search(anchor, partner) for partner in partners), partners


def test_ties_cost_nothing():
    """Neither in what is counted nor in what is compiled."""
    config = config_of("fedformer tslib")
    assert ties(config)
    forecaster, inputs = structs(config), models.input_shapes(config, 2)
    module = models.module(config)

    def plain(forecaster, *inputs):
        return module.apply({"params": forecaster.params, **forecaster.state}, *inputs)

    def counted(fn):
        count = costs.count(fn, forecaster, *inputs)
        return count.flops, count.comparisons, count.by_primitive, count.by_leaf

    assert counted(models.forecast) == counted(plain)
    want, got = (
        jax.jit(fn).lower(forecaster, *inputs).compile().as_text().count(" reduce(")
        for fn in (plain, models.forecast)
    )
    assert got == want


@pytest.mark.parametrize("variant", ["transformer", "crossformer"])
def test_what_the_arithmetic_ties_needs_no_tie(variant):
    assert not ties(config_of(variant))
