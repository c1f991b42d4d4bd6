"""Closed formulas against the walk of the jaxpr, by hand, and against PyTorch's own count."""

import functools
import json
import math
import re

import jax
import jax.numpy as jnp
import pytest
from conftest import golden_dir
from forecasters import shapes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tsjax import costs, models
from tsjax.models.informer import InformerConfig

COUNTS = golden_dir() / "param_counts.json"
CHANNELS = {"enc_in": 7, "dec_in": 7, "c_out": 7}
SIZES = {
    "small": {
        "enc_in": 3, "dec_in": 3, "c_out": 3, "seq_len": 16, "label_len": 8, "pred_len": 8,
        "d_model": 8, "n_heads": 2, "d_ff": 12, "e_layers": 2, "seg_len": 4,
        "wavelet_c": 3, "wavelet_k": 2, "wavelet_alpha": 3, "cross_c": 2, "cross_k": 3,
    },
    # Another width for each block, as a pruned model has them.
    "odd": {
        "enc_in": 3, "dec_in": 3, "c_out": 3, "seq_len": 13, "label_len": 5, "pred_len": 8,
        "freq": "t", "d_model": 10, "d_model_dec": 7, "e_layers": 2, "d_layers": 1,
        "n_heads": (2, 1, 3, 2), "d_keys": (3, 2, 5, 1), "d_values": (4, 7, 1, 2),
        "d_ff": (12, 5, 9), "factor": 2, "moving_avg": (5, 4), "mix_input": True, "modes": 3,
        "seg_len": 3, "wavelet_c": (3, 2), "wavelet_k": 2, "wavelet_alpha": (2, 5), "cross_c": 5,
        "cross_k": 3,
    },
    # d_model 512, Crossformer 256: the configurations' own defaults.
    "published": CHANNELS | {"seq_len": 96, "label_len": 48, "pred_len": 96},
}  # fmt: skip
OWN = {
    # Blocks that share their weights share their sizes.
    ("fedformer", "odd"): {
        "n_heads": (2, 2, 3, 2), "d_keys": (3, 3, 5, 1), "d_values": (4, 4, 1, 2),
    },
    ("crossformer", "odd"): {
        "d_model": (10, 6), "win_size": 3, "n_heads": tuple(1 + i % 3 for i in range(18)),
        "d_keys": tuple(2 + i % 5 for i in range(18)), "d_values": tuple(range(1, 19)),
        "d_ff": tuple(range(4, 14)), "factor": (1, 2, 3, 4, 5), "d_router": (5, 6, 7, 8, 9),
        "d_message": (9, 8, 7, 6, 5), "d_mlp": (3, 4, 5),
    },
}  # fmt: skip
VARIANTS = {name: (name, {}) for name in models.MODELS} | {
    "wavelets": ("fedformer", {"version": "wavelets"})
}


def config_of(variant, size, preset="corrected", **fields):
    name, own = VARIANTS[variant]
    sizes = {**SIZES[size], **OWN.get((name, size), {}), **own, **fields}
    if variant == "wavelets" and size == "published":
        # The presets' widths, where there are any: 128 and 64.
        sizes = {k: v for k, v in sizes.items() if not k.startswith(("wavelet", "cross_"))}
    return models.config(
        name, preset, **{k: v for k, v in sizes.items() if k in models.fields(name)}
    )


def walk(config, batch, *, train):
    """Counts the forward pass, or a step's loss and gradient; traces shapes and runs nothing."""
    made, inputs = shapes(config), models.input_shapes(config, batch)
    if not train:
        return costs.count(models.forecast, made, *inputs)

    def loss(params, state, key, target, *inputs):
        forecast, _ = made.forward(params, state, *inputs, key=key)
        return jnp.mean(jnp.square(forecast - target))

    key = jax.eval_shape(lambda: jax.random.key(0))
    target = jax.ShapeDtypeStruct((batch, config.pred_len, config.c_out), "float32")
    return costs.count(jax.value_and_grad(loss), made.params, made.state, key, target, *inputs)


def products(count):
    # The hyperbolic tangent of a complex number has no rule.
    assert count.uncounted == {}
    primitives = ("dot_general", "conv_general_dilated")
    return sum(count.by_primitive.get(name, 0) for name in primitives)


def check(config, batch, *, train):
    closed = models.product_flops(config, batch, train=train)
    assert all(type(flops) is int for flops in closed.values())
    assert sum(closed.values()) == products(walk(config, batch, train=train)), config


# Presets that agree about a model are one case.
CASES = [
    (variant, size, preset)
    for variant, (name, _) in VARIANTS.items()
    for size in SIZES
    for i, preset in enumerate(models.PRESETS)
    if (fields := models.MODELS[name].config.presets)[preset]
    not in [fields[earlier] for earlier in models.PRESETS[:i]]
]


@pytest.mark.parametrize(("variant", "size", "preset"), CASES)
def test_the_walk_finds_what_the_formulas_say(variant, size, preset):
    config = config_of(variant, size, preset)
    batch = 3 if size == "odd" else 1
    check(config, batch, train=False)
    # Tracing a gradient takes several times as long, and no switch of a preset changes its rules;
    # the small size has steps below.
    if preset == "corrected" and size != "small":
        check(config, batch, train=True)


SWITCHES = {
    "no distilling": ("informer", {"distil": False}),
    "distilling twice, wrapped by two": ("informer", {"e_layers": 3, "distil_padding": 2}),
    "sampled keys in the cross blocks": ("informer", {"cross_attention": "prob"}),
    "look-ups of time marks": ("transformer", {"embed": "learned", "freq": "t"}),
    "fixed look-ups": ("autoformer", {"embed": "fixed"}),
    "one average of a mixture": ("autoformer", {"moving_avg": (4,)}),
    "a mixture in the layers only": ("autoformer", {"moving_avg": (4,), "mix_input": False}),
    "odd decoder": ("autoformer", {"label_len": 1, "lags": "even_length"}),
    "softmax of frequencies": ("fedformer", {"cross_activation": "softmax"}),
    "frequencies that a series lacks": (
        "fedformer", {"decoder_spectrum": "half_look_back", "label_len": 0}
    ),
    "wavelets skipped": ("wavelets", {"wavelet_skip": 9}),
    "nothing merged": ("crossformer", {"win_size": 1}),
    "one segment": ("crossformer", {"seg_len": 24}),
}  # fmt: skip


@pytest.mark.parametrize("case", SWITCHES)
def test_switches_that_no_preset_sets(case):
    variant, fields = SWITCHES[case]
    check(config_of(variant, "small", **fields), batch=2, train=True)


@pytest.mark.parametrize(
    ("variant", "dec_len", "reads"),
    [
        ("fedformer", 1, False),
        ("fedformer", 2, True),
        ("wavelets", 2, False),
        ("wavelets", 3, True),
    ],
)
def test_a_decoder_too_short_for_a_frequency_reads_no_memory(variant, dec_len, reads):
    fields = {"label_len": 0, "pred_len": dec_len, "moving_avg": (3, 2), "e_layers": 1}
    config = config_of(variant, "small", **fields)
    for train in (False, True):
        check(config, batch=2, train=train)
    assert any(name.startswith("enc") for name in models.product_flops(config)) == reads


@functools.cache
def random_fields(variant):
    """Strategies for the fields of a model, as far as they don't depend on one another."""
    name, own = VARIANTS[variant]
    sizes, few = st.integers(1, 9), st.integers(1, 3)
    fields = dict.fromkeys(("d_model_dec", "d_ff", "d_keys", "d_values", "d_router"), sizes)
    fields |= dict.fromkeys(("d_message", "d_mlp", "seg_len", "cross_c", "wavelet_alpha"), sizes)
    fields |= dict.fromkeys(("n_heads", "factor", "win_size"), few)
    fields |= dict.fromkeys(("e_layers", "d_layers"), st.integers(1, 2))
    fields |= dict.fromkeys(("wavelet_c", "wavelet_k", "cross_k"), few)
    fields |= dict.fromkeys(("distil", "dead_projections", "embedding_bias"), st.booleans())
    fields |= {
        "d_model": sizes,
        "embed": st.sampled_from(("timeF", "fixed", "learned")),
        "freq": st.sampled_from("sthdbwma"),
        "distil_padding": st.integers(1, 2),
        "wavelet_skip": st.integers(0, 3),
        "moving_avg": st.sampled_from((1, 3, (4,), (2, 7))),
        # Several averages are mixed at the input as well, or refused.
        "mix_input": st.just(True),
        "clip_modes": st.just(True),
        "modes": st.none() | st.integers(1, 12),
        "cross_attention": st.sampled_from(("full", "prob")),
        "lags": st.sampled_from(("all", "even_length")),
        "decoder_spectrum": st.sampled_from(("decoder", "half_look_back")),
        "output_bins": st.sampled_from(("read", "lowest")),
    }
    return st.fixed_dictionaries(
        {k: v for k, v in fields.items() if k in models.fields(name) and k not in own}
    )


@settings(
    max_examples=6, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
@given(data=st.data())
def test_random_configurations(data):
    variant = data.draw(st.sampled_from(list(VARIANTS)))
    name, own = VARIANTS[variant]
    enc_in = data.draw(st.integers(1, 4))
    seq_len = data.draw(st.integers(2, 20))
    config = models.config(
        name, data.draw(st.sampled_from(models.PRESETS)), **own,
        **data.draw(random_fields(variant)), enc_in=enc_in, dec_in=enc_in, c_out=enc_in,
        seq_len=seq_len, label_len=data.draw(st.integers(0, seq_len)),
        pred_len=data.draw(st.integers(1, 20)),
    )  # fmt: skip
    check(config, data.draw(st.integers(1, 3)), train=data.draw(st.booleans()))


# Terms whose every product has a leaf of params as an operand.
LEAVES = {
    r"enc_embedding/segments/value/": "enc_embedding",
    r"(enc|dec)_embedding/value/": r"\1_embedding/value",
    r"(enc|dec)_embedding/time/": r"\1_embedding/time",
    r"encoder/\w+/(two_stage/)?(\w+)/(query|key|value|out)/": r"encoder/\1\2/projections",
    r"decoder/\w+/(two_stage/)?(\w+)/(query|key|value|out)/": r"decoder/\1\2/projections",
    r"(encoder|decoder)/\w+/(two_stage/)?feed_forward[12]?/": r"\1/\2feed_forward",
    r"distil_\d/conv/": "encoder/distil",
    r"decomp/mixture/": "decomposition",
    r"(encoder|decoder)/\w+/decomp\d/mixture/": r"\1/decomposition",
    r"decoder/\w+/(trend|output)_projection/": r"decoder/\1_projection",
    r"encoder/\w+/merging/projection/": "encoder/merging",
    r"output_projection/": "output_projection",
}


def term_of(path):
    for pattern, term in LEAVES.items():
        if match := re.match(pattern, path):
            return match.expand(term)
    return None


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_term_is_that_of_its_kernels(variant):
    config = config_of(variant, "odd")
    closed, found = models.product_flops(config, 2), {}
    for path, flops in walk(config, 2, train=False).by_leaf.items():
        if flops and (term := term_of(path.removeprefix("params/"))):
            found[term] = found.get(term, 0) + flops
    assert found == {term: closed[term] for term in found}
    of_none = ("/mixing", "/sampling", "/correlation")
    mixing = [term for term in closed if any(part in term for part in of_none)]
    assert set(closed) == {*found, *mixing}


def test_a_tiny_transformer_by_hand():
    # 4 steps of 2 channels in, 3 of 3 decoded, 2 of 1 forecast; width 4, 2 heads of 2; 4 marks.
    config = models.config(
        "transformer", enc_in=2, dec_in=3, c_out=1, seq_len=4, label_len=1, pred_len=2, d_model=4,
        n_heads=2, d_ff=5, e_layers=1, d_layers=1,
    )  # fmt: skip
    want = {
        "enc_embedding/value": 192,  # 4 steps x 3 taps x 2 x 4 multiply-adds
        "enc_embedding/time": 128,  # 4 x 4 x 4
        "encoder/attention/projections": 512,  # 4 of 4 x 4 x 4
        "encoder/attention/mixing": 256,  # 2 heads x 4 x 4 logits, of width 2 twice
        "encoder/feed_forward": 320,  # 4 x 4 x 5 twice
        "dec_embedding/value": 216,  # 3 x 3 x 3 x 4
        "dec_embedding/time": 96,  # 3 x 4 x 4
        "decoder/self_attention/projections": 384,  # 4 of 3 x 4 x 4
        "decoder/self_attention/mixing": 144,  # 2 x 3 x 3 x 2 twice
        "decoder/cross_attention/projections": 448,  # 2 of 3 x 4 x 4, 2 of 4 x 4 x 4
        "decoder/cross_attention/mixing": 192,  # 2 x 3 x 4 x 2 twice
        "decoder/feed_forward": 240,  # 3 x 4 x 5 twice
        "output_projection": 16,  # 2 x 4 x 1
    }
    assert models.product_flops(config) == want
    assert sum(want.values()) == products(walk(config, 1, train=False)) == 3144
    # The embeddings' inputs need no gradient: 2 x 632 there, 3 x 2512 elsewhere.
    step = models.product_flops(config, train=True)
    assert sum(step.values()) == products(walk(config, 1, train=True)) == 8800
    assert step["enc_embedding/value"] == 384
    assert step["encoder/attention/mixing"] == 768


def test_what_is_refused():
    config = config_of("transformer", "small")
    with pytest.raises(ValueError, match="batch must be at least 1, got 0"):
        models.product_flops(config, 0)

    class Unknown(InformerConfig):
        pass

    with pytest.raises(ValueError, match=r"one of TransformerConfig, .*, got a Unknown$"):
        models.product_flops(Unknown(**CHANNELS))


# What torch's FlopCounterMode counts differently, in FLOPs at batch 1; more in torch is positive.


def all_steps_projected(c):
    """The references project all steps of the decoder, and cut the forecast out then."""
    return 2 * c.label_len * c.decoder_width * c.c_out


def correlations_elementwise(c):
    """Autoformer's products of frequencies are element by element there, and so are its shifts."""
    cross = min(c.seq_len, c.dec_len)
    steps = c.e_layers * c.seq_len**2 + c.d_layers * c.dec_len * (c.dec_len + cross)
    return -2 * 2 * steps * c.d_model


def only_sampled_keys(c):
    """Informer's references multiply queries with the keys that were sampled, and no others."""
    lengths = [c.seq_len]
    while len(lengths) < c.e_layers:
        shorter = -(-(lengths[-1] + 2 * c.distil_padding - 2) // 2)
        lengths.append(shorter if c.distil else lengths[-1])
    blocks = [(length, length) for length in lengths] + c.d_layers * [(c.dec_len, c.dec_len)]
    blocks += c.d_layers * [(c.dec_len, lengths[-1])] * (c.cross_attention == "prob")
    left_out = sum(L * (S - min(c.factor * math.ceil(math.log(S)), S)) for L, S in blocks)
    return -2 * left_out * c.d_model


def dead_projections(c):
    """Two of three projections of a FEDformer's self blocks, and the values' of its cross block."""
    steps = 2 * c.e_layers * c.seq_len + c.d_layers * (2 * c.dec_len + c.seq_len)
    return 2 * steps * c.d_model**2


def complex_as_real(c):
    """A product of complex numbers counts as one of real numbers, 2 in place of 8."""
    terms = models.product_flops(c)
    suffix = "/frequencies" if c.version == "wavelets" else "/mixing"
    return -sum(3 * flops // 4 for name, flops in terms.items() if name.endswith(suffix))


def transforms_as_ffts(c):
    """The Fourier transforms of a FEDformer's Fourier version are FFTs there, and not counted."""
    return -sum(n for term, n in models.product_flops(c).items() if term.endswith("/transforms"))


def wavelet_levels(c):
    """Steps N and kept frequencies M of the levels of the cross block."""
    count = c.dec_len.bit_length() - 1
    steps = [2 ** (c.dec_len - 1).bit_length() >> j for j in range(1, count + 1)]
    return [(N, min(N // 2, c.modes)) for N in steps]


def dead_values(c):
    """The wavelet cross block projects its values, and takes them apart."""
    filters = sum(N for N, _ in wavelet_levels(c)) * c.cross_channels * 4 * c.cross_k**2
    return 2 * (c.seq_len * c.d_model * c.cross_channels * c.cross_k + filters)


def attended_twice(c, multiply_add=8):
    """The wavelet cross block computes the attention of a level's details twice."""
    sizes = sum(M * M for _, M in wavelet_levels(c))
    return multiply_add * c.cross_k * sizes * 2 * c.cross_channels


def one_frequency(c, multiply_add=8):
    """With one frequency torch weights by an element-wise product, three times and once more."""
    assert [M for _, M in wavelet_levels(c)].count(1) == 1
    return -4 * multiply_add * c.cross_k * c.cross_channels


attended_twice_as_real = functools.partial(attended_twice, multiply_add=2)
one_frequency_as_real = functools.partial(one_frequency, multiply_add=2)

BIG = {"d_model": 512, "d_ff": 2048, "n_heads": 8, "e_layers": 2, "factor": 3}
WAVELETS = {"version": "wavelets", "modes": 64}
# Entry, model, preset, fields, and what torch counts otherwise.
TSL = {
    "Transformer": ("transformer", "tslib", {}, [all_steps_projected]),
    "Informer (distil)": ("informer", "tslib", {}, [all_steps_projected, only_sampled_keys]),
    "Autoformer": (
        "autoformer", "tslib", {}, [all_steps_projected, correlations_elementwise]
    ),
    "FEDformer fourier modes=64": (
        "fedformer", "tslib", {"modes": 64},
        [all_steps_projected, dead_projections, transforms_as_ffts],
    ),
    "FEDformer fourier modes=32 (TSL default)": (
        "fedformer", "tslib", {}, [all_steps_projected, dead_projections, transforms_as_ffts]
    ),
    "FEDformer Wavelets modes=64": (
        "fedformer", "tslib", WAVELETS,
        [all_steps_projected, dead_projections, dead_values, attended_twice, one_frequency],
    ),
    "Crossformer (256/512/4 heads/3 layers, factor 10)": ("crossformer", "tslib", {}, []),
    "Crossformer (TSL script: 512/2048/8 heads/2 layers, factor 3)": (
        "crossformer", "tslib", BIG, []
    ),
}  # fmt: skip
ORIGINAL = {
    "Informer2020 (factor 5)": (
        "informer", "corrected", {"factor": 5}, [all_steps_projected, only_sampled_keys]
    ),
    "Autoformer repo": (
        "autoformer", "corrected", {}, [all_steps_projected, correlations_elementwise]
    ),
    "FEDformer repo Fourier modes=64 moving_avg=[24]": (
        "fedformer", "paper", {"mix_input": True},
        [all_steps_projected, dead_projections, transforms_as_ffts, complex_as_real],
    ),
    "FEDformer repo Wavelets modes=64 L=3 moving_avg=[24]": (
        "fedformer", "paper", WAVELETS | {"mix_input": True},
        [
            all_steps_projected, dead_projections, complex_as_real, dead_values,
            attended_twice_as_real, one_frequency_as_real,
        ],
    ),
    "Thinklab Crossformer in_len 96, seg_len 12": ("crossformer", "paper", {}, []),
    "Thinklab Crossformer, its ETTh1 script": ("crossformer", "paper", {}, []),
}  # fmt: skip
ENTRIES = {"time_series_library": TSL, "original_repositories": ORIGINAL}
CONVOLUTIONS = ("_embedding/value", "/feed_forward", "/distil", "/trend_projection")


def lengths_of(label):
    """Horizon, look-back and segment of a row: "720", or "in168_out24_seg6"."""
    if label.isdigit():
        return {"pred_len": int(label)}
    names = ("seq_len", "pred_len", "seg_len")
    return dict(zip(names, map(int, re.findall(r"\d+", label)), strict=True))


@pytest.mark.skipif(not COUNTS.is_file(), reason=f"no param_counts.json in {golden_dir()}")
@pytest.mark.parametrize(("group", "entry"), [(g, e) for g in ENTRIES for e in ENTRIES[g]])
def test_torch_counts_the_same_but_for_named_differences(group, entry):
    name, preset, fields, differences = ENTRIES[group][entry]
    rows = json.loads(COUNTS.read_text())[group][entry]
    assert {"96", "720"} <= set(rows) or "script" in entry
    for label, row in rows.items():
        config = models.config(name, preset, **CHANNELS, **{**fields, **lengths_of(label)})
        closed = models.product_flops(config)
        assert sum(closed.values()) + sum(of(config) for of in differences) == row["flops_batch1"]
        # Feed-forward blocks are convolutions of one step there; Crossformer's are not.
        convolved = sum(f for term, f in closed.items() if term.endswith(CONVOLUTIONS))
        assert row["flops_by_op"].get("convolution", 0) == (name != "crossformer") * convolved


@pytest.mark.skipif(not COUNTS.is_file(), reason=f"no param_counts.json in {golden_dir()}")
def test_every_entry_of_the_reference_is_compared():
    counts = json.loads(COUNTS.read_text())
    assert {group: set(counts[group]) for group in ENTRIES} == {
        g: set(e) for g, e in ENTRIES.items()
    }
