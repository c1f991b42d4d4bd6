"""What Crossformer's configuration promises: sizes per block, both paddings, first weights."""

import collections
import dataclasses
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import golden_dir
from forecasters import batch, drawn, shapes
from golden import Case

from tsjax import interop, models, trees
from tsjax.models.crossformer import Embedding, SegmentMerging, segments, windows
from tsjax.models.dropout import Dropout

SMALL = {
    "enc_in": 3, "dec_in": 3, "c_out": 3, "seq_len": 16, "label_len": 5, "pred_len": 8,
    "d_model": 8, "n_heads": 2, "d_ff": 12, "e_layers": 1, "factor": 2, "seg_len": 4,
}  # fmt: skip

# Every size another one where two are on axes that meet.
BLOCKS = 18
PER_BLOCK = {
    **SMALL,
    "e_layers": 2,
    "seq_len": 19,
    "d_model": (8, 6),
    "d_model_dec": 10,
    "n_heads": tuple(1 + i % 3 for i in range(BLOCKS)),
    "d_keys": tuple(range(2, 2 + BLOCKS)),
    "d_values": tuple(range(3, 3 + BLOCKS)),
    "factor": (1, 2, 3, 4, 5),
    "d_router": (5, 6, 7, 8, 9),
    "d_message": (7, 8, 9, 10, 11),
    "d_ff": tuple(range(4, 14)),
    "d_mlp": (3, 5, 7),
}


def small(**sizes):
    return models.config("crossformer", **{**SMALL, **sizes})


forecast = jax.jit(models.forecast)


def outcome(config, **kwargs):
    """Shape and type of the forecast, without running anything."""
    return jax.eval_shape(
        models.forecast, shapes(config), *models.input_shapes(config, 2), **kwargs
    )


def test_presets():
    ours, theirs, paper = (
        models.config("crossformer", preset, enc_in=7, dec_in=7, c_out=7)
        for preset in ("corrected", "tslib", "paper")
    )
    assert ours == paper
    assert (ours.padding, ours.sinusoid, ours.embedding_bias) == ("front", False, True)
    assert (theirs.padding, theirs.sinusoid, theirs.embedding_bias) == ("end", True, False)


# Sizes.


def script_counts():
    path = golden_dir() / "param_counts.json"
    if not path.is_file():
        return []
    rows = Case(path).meta["original_repositories"]["Thinklab Crossformer, its ETTh1 script"]
    return [(lengths, row["params"]) for lengths, row in rows.items()]


@pytest.mark.skipif(not script_counts(), reason=f"no param_counts.json in {golden_dir()}")
@pytest.mark.parametrize(("lengths", "count"), script_counts())
def test_parameter_counts_of_the_authors_script(lengths, count):
    # "in168_out24_seg6". Other full sizes are counted with those of all models.
    numbers = map(int, re.findall(r"\d+", lengths))
    sizes = dict(zip(("seq_len", "pred_len", "seg_len"), numbers, strict=True))
    config = models.config("crossformer", "paper", enc_in=7, dec_in=7, c_out=7, **sizes)
    assert trees.size(shapes(config).params) == count


def attention_shapes(name, block, d_queries, d_memory, d_out):
    n, keys, values = (PER_BLOCK[field][block] for field in ("n_heads", "d_keys", "d_values"))
    yield from dense_shapes(f"{name}/query", (d_queries,), (n, keys))
    yield from dense_shapes(f"{name}/key", (d_memory,), (n, keys))
    yield from dense_shapes(f"{name}/value", (d_memory,), (n, values))
    yield from dense_shapes(f"{name}/out", (n, values), (d_out,))


def dense_shapes(name, inner, outer):
    yield f"{name}/kernel", (*inner, *outer)
    yield f"{name}/bias", outer


def mlp_shapes(name, width, hidden):
    yield from dense_shapes(f"{name}/up", (width,), (hidden,))
    yield from dense_shapes(f"{name}/down", (hidden,), (width,))


def norm_shapes(name, *shape):
    yield f"{name}/scale", shape
    yield f"{name}/bias", shape


def two_stage_shapes(name, layer, block, width, count):
    routers, d_router, d_message = (
        PER_BLOCK[field][layer] for field in ("factor", "d_router", "d_message")
    )
    yield f"{name}/router", (count, routers, d_router)
    yield from attention_shapes(f"{name}/time_attention", block, width, width, width)
    yield from attention_shapes(f"{name}/sender", block + 1, d_router, width, d_message)
    yield from attention_shapes(f"{name}/receiver", block + 2, width, d_message, width)
    for i in (0, 1):
        hidden = PER_BLOCK["d_ff"][2 * layer + i]
        yield from mlp_shapes(f"{name}/feed_forward{i + 1}", width, hidden)
    for i in range(1, 5):
        yield from norm_shapes(f"{name}/norm{i}", width)


def per_block_shapes():
    """Shapes of all leaves of a model with the sizes PER_BLOCK."""
    # 19 steps in segments of 4, which are then merged in pairs; 8 steps to forecast.
    level_0, level_1, decoded = 5, 3, 2
    yield "enc_embedding/position", (1, 3, level_0, 8)
    yield from dense_shapes("enc_embedding/segments/value", (4,), (8,))
    yield from norm_shapes("enc_embedding/norm", 8)
    yield from two_stage_shapes("encoder/level_0/two_stage", 0, 0, 8, level_0)
    yield from norm_shapes("encoder/level_1/merging/norm", 2, 8)
    yield from dense_shapes("encoder/level_1/merging/projection", (2, 8), (6,))
    yield from two_stage_shapes("encoder/level_1/two_stage", 1, 3, 6, level_1)
    yield "decoder/position", (1, 3, decoded, 10)
    for i, memory in enumerate((8, 8, 6)):
        name, block = f"decoder/layer_{i}", 6 + 4 * i
        yield from two_stage_shapes(f"{name}/two_stage", 2 + i, block, 10, decoded)
        yield from attention_shapes(f"{name}/cross_attention", block + 3, 10, memory, 10)
        yield from mlp_shapes(f"{name}/feed_forward", 10, PER_BLOCK["d_mlp"][i])
        for n in (1, 2):
            yield from norm_shapes(f"{name}/norm{n}", 10)
        yield from dense_shapes(f"{name}/output_projection", (10,), (4,))


def test_every_block_has_its_own_sizes():
    config = small(**PER_BLOCK)
    made = shapes(config)
    found = {path: leaf.shape for path, leaf in trees.by_path(made.params).items()}
    assert found == dict(per_block_shapes())
    assert not made.state
    assert outcome(config).shape == (2, 8, 3)


QUERIES = [
    f"{layer}/{block}/query"
    for layer, blocks in (
        ("encoder/level_0/two_stage", ("time_attention", "sender", "receiver")),
        ("decoder/layer_0/two_stage", ("time_attention", "sender", "receiver")),
        ("decoder/layer_0", ("cross_attention",)),
        ("decoder/layer_1/two_stage", ("time_attention", "sender", "receiver")),
        ("decoder/layer_1", ("cross_attention",)),
    )
    for block in blocks
]


def test_every_block_has_its_own_scale():
    # Queries that are larger by a factor, and logits scaled by less.
    factors = [1.5**i for i in range(len(QUERIES))]
    scaled = small(attention_scale=tuple(4**-0.5 / factor for factor in factors))
    plain, x = drawn(small()), batch(small())
    by_block = {f"params/{name}": factor for name, factor in zip(QUERIES, factors, strict=True)}
    larger = trees.map_with_path(lambda p, w: w * by_block.get(p.rsplit("/", 1)[0], 1), plain)
    want = forecast(plain, *x)
    assert np.max(np.abs(forecast(larger, *x) - want)) > 1e-2
    both = dataclasses.replace(larger, forward=models.forward(scaled))
    np.testing.assert_allclose(forecast(both, *x), want, rtol=1e-4, atol=1e-5)


# Lengths and paddings.


def test_segments_are_filled_up_at_one_end():
    x = jnp.asarray([[[1, 10], [2, 20], [3, 30], [4, 40], [5, 50]]])
    front, end = (segments(x, 3, padding).tolist() for padding in ("front", "end"))
    assert front == [[[[1, 1, 2], [3, 4, 5]], [[10, 10, 20], [30, 40, 50]]]]
    assert end == [[[[1, 2, 3], [4, 5, 5]], [[10, 20, 30], [40, 50, 50]]]]


@pytest.mark.parametrize(
    ("count", "size", "want"),
    [
        (4, 2, [[0, 1], [2, 3]]),
        (5, 2, [[0, 1], [2, 3], [4, 4]]),
        (1, 2, [[0, 0]]),
        (4, 3, [[0, 1, 2], [3, 2, 3]]),
        (1, 4, [[0, 0, 0, 0]]),
    ],
)
def test_windows_repeat_the_last_segments(count, size, want):
    assert windows(jnp.arange(count).reshape(1, 1, -1, 1), size)[0, 0, :, :, 0].tolist() == want


def test_front_and_end_differ_by_padding_alone():
    # The look-back is a whole number of segments; 7 steps are decoded as 8.
    plain = drawn(small())
    options = [("front", 8), ("front", 7), ("end", 8), ("end", 7)]
    configs = [small(padding=padding, pred_len=n) for padding, n in options]

    @jax.jit
    def run(*x):
        return [models.forward(c)(plain.params, plain.state, *x)[0] for c in configs]

    front, first, end, last = run(*batch(small()))
    np.testing.assert_array_equal(front, end)
    np.testing.assert_array_equal(first, front[:, :7])
    np.testing.assert_array_equal(last, front[:, 1:])


@pytest.mark.parametrize(
    ("seq_len", "pred_len", "e_layers", "win_size", "padding", "levels"),
    [
        (13, 7, 2, 2, "front", (4, 2)),
        (17, 9, 3, 2, "end", (5, 3, 2)),
        (3, 1, 3, 2, "front", (1, 1, 1)),
        (29, 2, 3, 3, "end", (8, 3, 1)),
        (5, 20, 2, 4, "end", (2, 1)),
        (9, 5, 3, 1, "front", (3, 3, 3)),
    ],
)
def test_any_lengths(seq_len, pred_len, e_layers, win_size, padding, levels):
    config = small(
        seq_len=seq_len, label_len=0, pred_len=pred_len, e_layers=e_layers, win_size=win_size,
        padding=padding,
    )  # fmt: skip
    assert config.level_segments == levels
    assert outcome(config).shape == (2, pred_len, 3)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("sinusoid", [False, True])
def test_precision_is_kept(sinusoid, dtype):
    config = small(sinusoid=sinusoid)
    made, x = shapes(config), models.input_shapes(config, 2)
    params, x = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, dtype), (made.params, x))
    made = dataclasses.replace(made, params=params)
    assert jax.eval_shape(models.forecast, made, *x).dtype == dtype


# What the model computes.


def test_channels_may_be_listed_in_any_order():
    made = drawn(small(), scale=0.6)
    x, *rest = batch(small())
    want = forecast(made, x, *rest)
    order = np.array([2, 0, 1])
    moved = trees.map_with_path(
        lambda path, w: w[:, order] if path.endswith("position") else w, made
    )
    got = forecast(moved, x[:, :, order], *rest)
    np.testing.assert_allclose(got, want[:, :, order], rtol=1e-4, atol=1e-5)
    # But each of them counts for all.
    other = forecast(made, x * np.array([-1, 1, 1], np.float32)[None, None], *rest)
    assert np.all(np.max(np.abs(other - want), (0, 1)) > 1e-3)


def test_the_sinusoid_is_added_to_the_learned_positions():
    config = small(sinusoid=True)
    made = drawn(config)
    params, buffers = made.params["enc_embedding"], made.state["buffers"]["enc_embedding"]
    table = buffers["segments"]["position"]
    folded = {**params, "position": params["position"] + table[None, None]}
    x, *_ = batch(config)
    got = Embedding(config).apply({"params": params, "buffers": buffers}, x)
    want = Embedding(small()).apply({"params": folded}, x)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_places_of_dropout():
    places = collections.Counter()

    def count(call, args, kwargs, context):
        if isinstance(context.module, Dropout) and context.module.rate > 0 and kwargs["train"]:
            places["/".join(context.module.path[:-1])] += 1
        return call(*args, **kwargs)

    with nn.intercept_methods(count):
        outcome(small(e_layers=2), key=jax.random.key(0))
    # Weights of three attentions, and what is added to the stream: time, MLP, receiver, MLP.
    blocks = [f"encoder/level_{i}" for i in range(2)] + [f"decoder/layer_{i}" for i in range(3)]
    want = {f"{block}/two_stage": 7 for block in blocks}
    # Weights and output of the cross-attention.
    want |= {f"decoder/layer_{i}": 2 for i in range(3)}
    assert places == want


# First weights.


def test_initial_weights_have_the_moments_of_the_reference():
    config = models.config(
        "crossformer", enc_in=20, dec_in=20, c_out=20, seq_len=192, d_model=64, d_values=32,
        d_ff=48, e_layers=1,
    )  # fmt: skip
    params = models.create(config, jax.random.key(0)).params
    merging = SegmentMerging(64, 2).init(jax.random.key(0), jnp.zeros((1, 1, 2, 64)))
    leaves = trees.by_path({**params, "merging": merging["params"]})
    level, layer = "encoder/level_0", "decoder/layer_1"
    # torch's Linear: uniform within 1 / sqrt(fan_in), for weights and biases.
    for path, fan_in in {
        "enc_embedding/segments/value/kernel": 12,
        "enc_embedding/segments/value/bias": 12,
        "merging/projection/kernel": 128,
        "merging/projection/bias": 128,
        f"{level}/two_stage/sender/query/kernel": 64,
        f"{level}/two_stage/sender/out/kernel": 128,
        f"{level}/two_stage/feed_forward1/down/kernel": 48,
        f"{layer}/feed_forward/down/kernel": 64,
        f"{layer}/output_projection/kernel": 64,
    }.items():
        bound, w = fan_in**-0.5, np.asarray(leaves[path]).ravel()
        assert np.max(np.abs(w)) <= bound, path
        assert abs(w.std() - bound / 3**0.5) < 4 * bound / (5 * w.size) ** 0.5, path
        assert abs(w.mean()) < 4 * bound / (3 * w.size) ** 0.5, path
    learned = [path for path in leaves if path.endswith(("position", "router"))]
    assert len(learned) == 2 + 1 + 2
    for path in learned:
        w = np.asarray(leaves[path]).ravel()
        assert abs(w.std() - 1) < 4 / (2 * w.size) ** 0.5, path
        assert abs(w.mean()) < 4 / w.size**0.5, path
        assert np.max(np.abs(w)) > 3, path
    for path, w in leaves.items():
        if "norm" in path:
            assert np.all(w == (1 if path.endswith("scale") else 0)), path


# Names.


def test_the_authors_names_differ_in_the_embedding_alone():
    names = {}
    for preset in ("paper", "tslib"):
        config = models.config("crossformer", preset, **{**SMALL, "e_layers": 2})
        there = drawn(config)
        names[preset] = interop.to_torch(there)
        back = interop.from_torch(config, names[preset])
        jax.tree.map(np.testing.assert_array_equal, back, there)
    paper, tslib = map(set, names.values())
    embedding = "enc_value_embedding"
    assert paper - tslib == {f"{embedding}.linear.weight", f"{embedding}.linear.bias"}
    pe = f"{embedding}.position_embedding.pe"
    assert tslib - paper == {f"{embedding}.value_embedding.weight", pe}
    assert names["tslib"][pe].shape == (1, 5000, 8)
    assert names["paper"]["encoder.encode_blocks.1.merge_layer.norm.weight"].shape == (16,)
    assert names["paper"]["encoder.encode_blocks.1.merge_layer.linear_trans.weight"].shape == (
        8,
        16,
    )


# Configurations.


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"seg_len": 0}, "seg_len must be at least 1, got 0"),
        ({"win_size": 0}, "win_size must be at least 1, got 0"),
        ({"factor": (1, 0, 1)}, r"factor must be at least 1, got \(1, 0, 1\)"),
        ({"e_layers": 0}, "e_layers must be at least 1, got 0"),
        ({"d_router": 0, "d_message": -1}, "d_router .* got 0; d_message must be at least 1"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        ({"padding": "left"}, "padding must be one of front, end, got 'left'"),
        (
            {"c_out": 2},
            (
                r"c_out \(2\) must equal enc_in \(3\): "
                "the channels that are read are those that are forecast"
            ),
        ),
        (
            {"n_heads": 3},
            (
                r"d_model \(8\) must be a multiple of n_heads \(3\): pass d_model=6 or d_model=9, "
                "another n_heads, or the head widths d_keys and d_values"
            ),
        ),
        (
            {"d_model": 9, "n_heads": 3, "d_model_dec": 10},
            r"d_model_dec \(10\) must be a multiple of n_heads \(3\)",
        ),
        (
            {"e_layers": 2, "win_size": 1, "d_model": (8, 6)},
            (
                r"d_model must be the same for all levels where win_size is 1, got \(8, 6\): only "
                "merging maps one width to another, pass one d_model or win_size=2"
            ),
        ),
        ({"d_model": (8, 8)}, "d_model must be one number or 1, one per encoder level, got 2"),
        ({"n_heads": (2,) * 4}, "n_heads must be one number or 11, one per attention block, got 4"),
        ({"d_keys": (2,)}, "d_keys must be one number or 11"),
        ({"d_values": (2,)}, "d_values must be one number or 11"),
        ({"attention_scale": (2.0,)}, "attention_scale must be one number or 11"),
        ({"factor": (2,)}, "factor must be one number or 3, one per two-stage layer, got 1"),
        ({"d_router": (2,)}, "d_router must be one number or 3"),
        ({"d_message": (2,)}, "d_message must be one number or 3"),
        ({"d_ff": (2, 2, 2)}, "d_ff must be one number or 6, one per MLP of a two-stage layer"),
        ({"d_mlp": (2,)}, "d_mlp must be one number or 2, one per decoder layer, got 1"),
    ],
)
def test_a_wrong_config_is_refused(fields, message):
    with pytest.raises(ValueError, match=f"^CrossformerConfig: .*{message}") as caught:
        models.config("crossformer", **{**SMALL, **fields})
    # No fault is a consequence of another one.
    assert str(caught.value).count(";") == len(fields) // 2 * ("d_router" in fields)


def test_head_widths_free_the_model_width():
    config = models.config("crossformer", **{**SMALL, "n_heads": 3}, d_keys=2, d_values=5)
    assert {(h.n_heads, h.d_keys, h.d_values) for h in config.cross_heads} == {(3, 2, 5)}
    # As JSON has it, and as a key.
    listed = dataclasses.replace(config, d_ff=[1, 2, 3, 4, 5, 6])
    assert [sizes.d_ff for sizes in listed.decoder_sizes] == [(3, 4), (5, 6)]
    assert hash(listed) != hash(config)
