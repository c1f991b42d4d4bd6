"""The five forecasters: what can be cut of them, what cannot, and what is left runs."""

import functools
import re

import jax
import numpy as np
import pytest
from conftest import examples, some_long
from forecasters import batch, drawn, shapes

from tsjax import models, structure, trees

SMALL = {
    "enc_in": 7, "dec_in": 7, "c_out": 7, "seq_len": 24, "label_len": 12, "pred_len": 8,
    "d_model": 16, "n_heads": 4, "d_ff": 20, "e_layers": 2, "d_layers": 1, "dropout": 0.0,
    "moving_avg": (5,), "modes": 5, "seg_len": 6, "factor": 3, "wavelet_c": 6,
    "wavelet_alpha": 3, "cross_c": 5,
}  # fmt: skip
CHANNELS, WINDOW, DECODED, MARKS, TAPS = 7, 24, 20, 4, 3
# Name, preset, and fields that differ from SMALL.
VARIANTS = {
    "transformer": ("transformer", "corrected", {}),
    "transformer tslib": ("transformer", "tslib", {}),
    "informer": ("informer", "corrected", {}),
    "informer tslib": ("informer", "tslib", {}),
    "autoformer": ("autoformer", "corrected", {}),
    "autoformer paper": ("autoformer", "paper", {}),
    "fedformer": ("fedformer", "corrected", {}),
    "fedformer tslib": ("fedformer", "tslib", {}),
    "fedformer paper": ("fedformer", "paper", {}),
    # Every level is another piece of program: few levels.
    "wavelets": (
        "fedformer", "corrected",
        {"version": "wavelets", "seq_len": 8, "label_len": 4, "pred_len": 4, "modes": 2,
         "wavelet_alpha": 2},
    ),
    "crossformer": ("crossformer", "corrected", {"e_layers": 1}),
    "crossformer tslib": ("crossformer", "tslib", {"e_layers": 1}),
}  # fmt: skip
each_variant = pytest.mark.parametrize("variant", VARIANTS)


@functools.cache
def analysed(variant):
    name, preset, own = VARIANTS[variant]
    known = models.fields(name)
    config = models.config(
        name, preset, **{key: n for key, n in {**SMALL, **own}.items() if key in known}
    )
    forecaster, inputs = shapes(config), models.input_shapes(config, 2)
    return name, config, forecaster, structure.find_groups(models.forecast, forecaster, *inputs)


# What there is.

ATTENTION = {
    "transformer": ("encoder/layer_0/attention", "encoder/layer_1/attention",
                    "decoder/layer_0/self_attention", "decoder/layer_0/cross_attention"),
}  # fmt: skip
ATTENTION |= dict.fromkeys(("informer", "autoformer"), ATTENTION["transformer"])
ATTENTION["crossformer"] = (
    *(f"encoder/level_0/two_stage/{block}" for block in ("time_attention", "sender", "receiver")),
    *(f"decoder/layer_{i}/two_stage/{block}"
      for i in range(2) for block in ("time_attention", "sender", "receiver")),
    *(f"decoder/layer_{i}/cross_attention" for i in range(2)),
)  # fmt: skip
FEED_FORWARD = dict.fromkeys(
    ("transformer", "informer", "autoformer", "fedformer"),
    tuple(f"{layer}/feed_forward" for layer in
          ("encoder/layer_0", "encoder/layer_1", "decoder/layer_0")),
)  # fmt: skip
FEED_FORWARD["crossformer"] = (
    *(f"{layer}/two_stage/feed_forward{i}" for i in (1, 2)
      for layer in ("encoder/level_0", "decoder/layer_0", "decoder/layer_1")),
    *(f"decoder/layer_{i}/feed_forward" for i in range(2)),
)  # fmt: skip


def expected(variant):
    """{what: axes of one free group}, and the size of each."""
    name = analysed(variant)[0]
    wavelets = "wavelets" in variant
    found = {}
    for block in ATTENTION.get(name, ()):
        at = f"params/{block}"
        found[f"{block} heads"] = (
            4,
            [
                f"{at}/query/kernel:1",
                f"{at}/key/kernel:1",
                f"{at}/value/kernel:1",
                f"{at}/out/kernel:0",
            ],
        )
        found[f"{block} keys"] = (4, [f"{at}/query/kernel:2", f"{at}/key/kernel:2"])
        found[f"{block} values"] = (4, [f"{at}/value/kernel:2", f"{at}/out/kernel:1"])
    for block in FEED_FORWARD[name]:
        size = 16 if re.search("layer_./feed_forward$", block) and name == "crossformer" else 20
        at = f"params/{block}"
        found[f"{block} hidden"] = (size, [f"{at}/up/kernel:1", f"{at}/down/kernel:0"])
    if name == "crossformer":
        found["width"] = (16, ["params/enc_embedding/segments/value/kernel:1"])
        found["decoder width"] = (16, ["params/decoder/position:3"])
        for layer in ("encoder/level_0", "decoder/layer_0", "decoder/layer_1"):
            at = f"params/{layer}/two_stage"
            found[f"{layer} routers"] = (3, [f"{at}/router:1"])
            found[f"{layer} router width"] = (16, [f"{at}/router:2", f"{at}/sender/query/kernel:0"])
            found[f"{layer} messages"] = (
                16,
                [
                    f"{at}/sender/out/kernel:2",
                    f"{at}/receiver/key/kernel:0",
                    f"{at}/receiver/value/kernel:0",
                ],
            )
        # One level only, and no merging: all of the encoder has one width.
        found["width"][1].append("params/decoder/layer_1/cross_attention/key/kernel:0")
        return found
    found["encoder width"] = (
        16,
        [
            "params/enc_embedding/value/kernel:2",
            "params/encoder/layer_1/feed_forward/up/kernel:0",
            "params/decoder/layer_0/cross_attention/key/kernel:0",
        ],
    )
    found["decoder width"] = (
        16,
        [
            "params/dec_embedding/value/kernel:2",
            "params/decoder/layer_0/feed_forward/up/kernel:0",
            "params/decoder/layer_0/cross_attention/query/kernel:0",
            "params/output_projection/kernel:0",
        ],
    )
    mixings = {
        "encoder": "encoder/layer_0/attention",
        "decoder": "decoder/layer_0/self_attention",
        "cross": "decoder/layer_0/cross_attention",
    }
    if name == "fedformer" and not wavelets:
        for mixing, block in mixings.items():
            at, weights = f"params/{block}", f"params/{mixing}_mixing/real"
            found[f"{mixing} heads"] = (
                4,
                [f"{at}/query/kernel:1", f"{at}/out/kernel:0", f"{weights}:0"],
            )
            found[f"{mixing} keys"] = (4, [f"{at}/query/kernel:2", f"{weights}:1"])
            found[f"{mixing} values"] = (4, [f"{at}/out/kernel:1", f"{weights}:2"])
            modes = "query_modes" if mixing == "cross" else "modes"
            kept = f"state/buffers/{mixing}_mixing/{modes}:0"
            found[f"{mixing} modes"] = (5, [kept, f"{weights}:3"])
        found["key modes"] = (5, ["state/buffers/cross_mixing/key_modes:0"])
    if wavelets:
        for mixing, block in list(mixings.items())[:2]:
            at = f"params/{mixing}_mixing"
            found[f"{mixing} channels"] = (
                6,
                [f"{at}/detail_to_detail/real:0", f"{at}/value/kernel:2", f"{at}/out/kernel:0"],
            )
            found[f"{mixing} heads"] = (
                4,
                [f"{at}/value/kernel:0", f"{at}/out/kernel:2", f"params/{block}/out/kernel:0"],
            )
        found["cross channels"] = (
            5,
            [
                "params/cross_mixing/query/kernel:2",
                "params/cross_mixing/key/kernel:2",
                "params/cross_mixing/out/kernel:0",
            ],
        )
        found["cross heads"] = (
            4,
            [
                "params/cross_mixing/query/kernel:0",
                "params/decoder/layer_0/cross_attention/query/kernel:1",
            ],
        )
    return found


# As published, Informer and FEDformer read what the heads give in another order of the axes than
# they wrote it, so that steps and heads (for FEDformer, values too) are mixed.
REREAD = {
    "informer": r"attention/((query|key|value)/(kernel:1|bias:0)|out/kernel:0)$",
    "fedformer": r"attention/((query|key)/(kernel:1|bias:0)|value/\w+:\d|out/kernel:[01])$"
    r"|mixing/(real|imag):[02]$",
}


def reread(variant, text):
    name, *published = variant.split()
    return bool(published and re.search(REREAD.get(name, "$^"), text)) and not re.search(
        r"value/kernel:0", text
    )


def on(groups, text):
    path, axis = text.rsplit(":", 1)
    return groups.on(path, int(axis))


@each_variant
def test_every_size_of_a_model_is_a_free_group(variant):
    *_, groups = analysed(variant)
    names = {}
    for what, (size, axes) in expected(variant).items():
        if any(reread(variant, text) for text in axes):
            continue
        (group,) = on(groups, axes[0])
        assert group.frozen is None, f"{what}: {group.frozen}"
        assert group.size == size, what
        for text in axes:
            assert on(groups, text) == (group,), f"{what}: {text}"
        names.setdefault(group.name, []).append(what)
    shared = [what for what in names.values() if len(what) > 1]
    assert not shared, "sizes that should be independent are one group"
    # And there is nothing else to cut.
    if "wavelets" not in variant:
        assert {group.name for group in groups.free} == set(names)


EMBEDDED = {
    **{rf"params/{side}_embedding/value/kernel:0": TAPS for side in ("enc", "dec")},
    **{rf"params/{side}_embedding/value/kernel:1": CHANNELS for side in ("enc", "dec")},
    **{rf"params/{side}_embedding/time/projection/kernel:0": MARKS for side in ("enc", "dec")},
    "params/output_projection/kernel:1": CHANNELS,
    "params/output_projection/bias:0": CHANNELS,
}
POSITIONS = {
    "state/buffers/enc_embedding/position:0": WINDOW,
    "state/buffers/dec_embedding/position:0": DECODED,
}
TREND = {
    "params/decoder/layer_0/trend_projection/kernel:0": TAPS,
    "params/decoder/layer_0/trend_projection/kernel:2": CHANNELS,
}
FROZEN = {
    "transformer": EMBEDDED | POSITIONS,
    "informer": EMBEDDED | POSITIONS | {
        "params/distil_0/conv/kernel:0": TAPS,
        # Which keys each query is compared with: 24 and 12 steps, 3 ln(L) keys.
        "state/buffers/encoder_sampling_0/index:0": WINDOW,
        "state/buffers/encoder_sampling_0/index:1": 12,
        "state/buffers/encoder_sampling_1/index:0": 12,
        "state/buffers/encoder_sampling_1/index:1": 9,
        "state/buffers/self_sampling_0/index:0": DECODED,
        "state/buffers/self_sampling_0/index:1": 9,
    },
    "autoformer": EMBEDDED | TREND,
    "fedformer": EMBEDDED | TREND,
    "crossformer": {
        "params/enc_embedding/segments/value/kernel:0": 6,
        "params/enc_embedding/position:1": CHANNELS,
        "params/enc_embedding/position:2": 4,
        "params/encoder/level_0/two_stage/router:0": 4,
        "params/decoder/position:1": CHANNELS,
        # Two segments of six steps make the horizon of eight.
        "params/decoder/position:2": 2,
        **{f"params/decoder/layer_{i}/two_stage/router:0": 2 for i in range(2)},
        **{f"params/decoder/layer_{i}/output_projection/{leaf}": 6
           for i in range(2) for leaf in ("kernel:1", "bias:0")},
    },
}  # fmt: skip
PUBLISHED = {
    "informer tslib": {
        "state/buffers/cross_sampling_0/index:0": DECODED,
        "state/buffers/cross_sampling_0/index:1": 9,
        # The published convolution makes 26 of 24 steps, and the pooling halves them.
        "state/buffers/encoder_sampling_1/index:0": 13,
    },
    "fedformer tslib": POSITIONS,
    "crossformer tslib": {"state/buffers/enc_embedding/segments/position:0": 4},
}


def frozen_axes(groups):
    return {
        str(member): len(member.units)
        for group in groups
        if group.frozen
        for member in group.members
    }


@each_variant
def test_only_channels_lengths_marks_and_taps_are_frozen(variant):
    name, _, forecaster, groups = analysed(variant)
    want = FROZEN[name] | PUBLISHED.get(variant, {})
    for path, leaf in trees.by_path(forecaster).items():
        for axis, size in enumerate(leaf.shape):
            if reread(variant, f"{path}:{axis}"):
                want |= {f"{path}:{axis}": size}
    found = frozen_axes(groups)
    if variant == "wavelets":
        # Polynomials, their halves and frequencies, of filters and kernels.
        found = {text: size for text, size in found.items() if "_mixing/" not in text}
    assert found == want


# Cuts.


CUTS = [
    (structure.Params, 0.75, "uniform"), (structure.Flops, 0.75, "global"),
    (structure.Params, 0.5, "global"), (structure.Flops, 0.5, "uniform"),
    (structure.Params, 0.25, "uniform"), (structure.Flops, 0.25, "global"),
    (structure.Params, 0.1, "global"), (structure.Flops, 0.1, "uniform"),
]  # fmt: skip
# In the short form each target, scope and share once or twice.
CUTS = examples([CUTS[0], CUTS[3], CUTS[5], CUTS[6]], CUTS)


@pytest.mark.parametrize("variant", some_long(VARIANTS, lambda v: len(v.split()) > 1))
def test_a_pruned_model_is_that_of_a_configuration(variant):
    _, _, forecaster, groups = analysed(variant)
    rng = np.random.default_rng(0)
    scores = {group.name: rng.random(group.size) for group in groups}
    for target, share, scope in CUTS:
        if share < 0.25 and (reread(variant, "attention/out/kernel:0") or variant == "wavelets"):
            continue  # What is frozen is more than that.
        plan = structure.plan(
            groups, forecaster, target=target(share), importance=lambda *_: scores, scope=scope
        )
        small = structure.slice(forecaster, plan)
        assert plan.got == pytest.approx(share, abs=0.05)
        assert plan.params[1] == trees.size(small.params)
        made = shapes(small.config)
        assert (made.params, made.state) == (small.params, small.state)


RUN = [variant for variant in VARIANTS if len(variant.split()) == 1]


@pytest.mark.parametrize("variant", RUN)
def test_a_pruned_model_runs(variant):
    _, config, _, groups = analysed(variant)
    forecaster = drawn(config)
    plan = structure.plan(groups, forecaster, target=structure.Params(0.3), scope="global")
    small = structure.slice(forecaster, plan)
    # As an ordinary model of its own configuration.
    forward = jax.jit(models.forward(small.config))
    forecast, _ = forward(small.params, small.state, *batch(config))
    assert forecast.shape == (2, config.pred_len, CHANNELS)
    assert np.isfinite(forecast).all()


# Exactness: units that are cut are units that are zero.

# Cutting one of these changes what a normalisation, or a softmax over it, adds up; of key modes
# only the numbers are kept, which stay when weights become zero.
INEXACT = r"^((en|de)coder )?width$|routers$|^key modes"


@pytest.mark.parametrize("variant", [variant for variant in RUN if variant != "wavelets"])
def test_units_that_are_cut_are_units_that_are_zero(variant):
    """Heads, queries and keys, values, hidden units and modes, all at once."""
    _, config, _, groups = analysed(variant)
    forecaster, inputs = drawn(config), batch(config)
    rng = np.random.default_rng(1)
    keep = {}
    for what, (size, axes) in expected(variant).items():
        if not re.search(INEXACT, what):
            keep[on(groups, axes[0])[0].name] = rng.permutation(size)[: size // 2]
    assert len(keep) >= 10
    plan = structure.plan(groups, forecaster, keep=keep)
    forecast = jax.jit(models.forecast)
    zeroed = forecast(structure.zero(forecaster, plan), *inputs)
    cut = forecast(structure.slice(forecaster, plan), *inputs)
    np.testing.assert_allclose(cut, zeroed, rtol=1e-5, atol=1e-5)
    assert np.abs(zeroed - forecast(forecaster, *inputs)).max() > 1e-2
