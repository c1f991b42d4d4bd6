"""What is particular to FEDformer: sizes, frequencies as state, and each switch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import golden_dir
from forecasters import batch, shapes
from golden import Case

from tsjax import models, trees
from tsjax.models.fourier import FourierBlock, FourierCross, Kept, frequency_attention
from tsjax.models.layers import Heads
from tsjax.models.spectra import Parts, series_of, spectrum_at
from tsjax.models.wavelets import Filters, double, filter_tables, halve, legendre_filters

SMALL = {
    "enc_in": 2, "dec_in": 2, "c_out": 2, "seq_len": 12, "label_len": 4, "pred_len": 8,
    "d_model": 8, "n_heads": 2, "d_ff": 12, "e_layers": 1, "d_layers": 1, "dropout": 0.0,
    "modes": 3, "wavelet_c": 2, "wavelet_k": 3, "wavelet_alpha": 2, "cross_c": 3, "cross_k": 2,
}  # fmt: skip

COUNTS = golden_dir() / "param_counts.json"
DEAD = {
    "FEDformer fourier modes=64": {"modes": 64},
    "FEDformer fourier modes=32 (TSL default)": {"modes": 32},
    "FEDformer Wavelets modes=64": {"version": "Wavelets"},
}


def small(preset="corrected", **sizes):
    return models.config("fedformer", preset, **{**SMALL, **sizes})


@functools.cache
def build(preset="corrected", **sizes):
    config = small(preset, **sizes)
    made = models.create(config, jax.random.key(0))
    return jax.jit(made.forward), made.params, made.state, batch(config)


def shapes_of(config):
    made = shapes(config)
    return {path: leaf.shape for path, leaf in trees.by_path({**made.params, **made.state}).items()}


def trace(**sizes):
    """The model's computation, as text."""
    config = small(**sizes)
    return str(jax.make_jaxpr(models.forecast)(shapes(config), *models.input_shapes(config, 2)))


def size(preset, **sizes):
    config = models.config("fedformer", preset, enc_in=7, dec_in=7, c_out=7, **sizes)
    return trees.size(shapes(config).params)


@pytest.mark.skipif(not COUNTS.is_file(), reason=f"no param_counts.json in {golden_dir()}")
@pytest.mark.parametrize("name", DEAD)
def test_the_default_has_no_dead_projections(name):
    row = Case(COUNTS).meta["time_series_library"][name]["96"]
    assert size("tslib", **DEAD[name]) == row["params"]
    dead = row["params_never_reaching_the_output"]
    assert size("corrected", **DEAD[name]) == row["params"] - dead


def test_frequencies_are_drawn_at_init_and_are_state():
    config = small(seq_len=40, label_len=20, modes=6)
    for key in range(3):
        state = models.create(config, jax.random.key(key)).state["buffers"]
        for block, name, spectrum in (
            ("encoder", "modes", 20), ("decoder", "modes", 14),
            ("cross", "query_modes", 14), ("cross", "key_modes", 20),
        ):  # fmt: skip
            modes = np.asarray(state[f"{block}_mixing"][name])
            assert modes.dtype == np.int32
            assert modes.shape == (6,)
            assert np.all(np.diff(modes) > 0)
            assert modes[0] >= 0
            assert modes[-1] < spectrum


def test_another_key_draws_other_frequencies():
    config = small(seq_len=40, label_len=20, modes=6)
    first, again, other = (
        trees.by_path(models.create(config, jax.random.key(k)).state) for k in (0, 0, 1)
    )
    for path, modes in first.items():
        np.testing.assert_array_equal(modes, again[path])
        assert np.any(modes != other[path]), path
    assert len({tuple(modes.tolist()) for modes in first.values()}) == 4


def test_every_frequency_has_the_same_chance():
    config = small(seq_len=12, modes=2)
    keys = jax.random.split(jax.random.key(0), 300)
    draws = jax.jit(jax.vmap(lambda key: models.create(config, key).state))(keys)
    counts = np.bincount(np.asarray(draws["buffers"]["encoder_mixing"]["modes"]).ravel())
    # Six frequencies, two of them 300 times: 100 each, with a standard deviation of about 8.
    assert counts.shape == (6,)
    assert np.all(np.abs(counts - 100) < 35)


def test_low_keeps_the_lowest_frequencies():
    _, _, state, _ = build(mode_select="low")
    for modes in jax.tree.leaves(state):
        np.testing.assert_array_equal(modes, [0, 1, 2])


@pytest.mark.parametrize("path", ["encoder_mixing/modes", "cross_mixing/key_modes"])
def test_other_frequencies_give_another_forecast_without_a_new_trace(path):
    forward, params, state, inputs = build(mode_select="low")
    traces = []

    @jax.jit
    def run(state):
        traces.append(1)
        return forward(params, state, *inputs)[0]

    def moved(leaf, modes):
        return modes + 1 if leaf == f"buffers/{path}" else modes

    assert jnp.max(jnp.abs(run(state) - run(trees.map_with_path(moved, state)))) > 1e-6
    assert len(traces) == 1


def test_each_block_can_have_widths_of_its_own():
    config = small(
        modes=(3, 5, 2, 4), n_heads=(2, 1, 3), d_keys=(3, 2, 5), d_values=(4, 6, 1),
        d_model_dec=10, cross_scale=0.5,
    )  # fmt: skip
    shapes = shapes_of(config)
    for path, shape in {
        "encoder_mixing/real": (2, 3, 4, 3),
        "encoder_mixing/imag": (2, 3, 4, 3),
        "decoder_mixing/real": (1, 2, 6, 5),
        "cross_mixing/imag": (3, 5, 1, 2),
        "buffers/encoder_mixing/modes": (3,),
        "buffers/decoder_mixing/modes": (5,),
        "buffers/cross_mixing/query_modes": (2,),
        "buffers/cross_mixing/key_modes": (4,),
        "decoder/layer_0/cross_attention/key/kernel": (8, 3, 5),
        "decoder/layer_0/self_attention/out/kernel": (1, 6, 10),
    }.items():
        assert shapes[path] == shape, path
    forward, params, state, inputs = build(
        **{name: getattr(config, name) for name in
           ("modes", "n_heads", "d_keys", "d_values", "d_model_dec", "cross_scale")}
    )  # fmt: skip
    forecast, _ = forward(params, state, *inputs)
    assert forecast.shape == (2, 8, 2)
    assert np.all(np.isfinite(forecast))


def test_wavelet_blocks_can_have_widths_of_their_own():
    sizes = {
        "version": "wavelets", "n_heads": (2, 1, 3), "d_keys": (3, 2, 5),
        "d_values": (4, 6, 1), "d_model_dec": 10,
    }  # fmt: skip
    shapes = shapes_of(small(**sizes))
    for path, shape in {
        "encoder_mixing/value/kernel": (2, 4, 2, 3),
        "encoder_mixing/detail_to_smooth/real": (2, 3, 2, 3, 2),
        "decoder_mixing/out/kernel": (2, 3, 1, 6),
        "cross_mixing/query/kernel": (3, 5, 3, 2),
        "cross_mixing/out/kernel": (3, 2, 3, 1),
        "buffers/encoder_mixing/smooth": (2, 3, 3),
        "buffers/cross_mixing/odd": (2, 2, 2),
    }.items():
        assert shapes[path] == shape, path
    forward, params, state, inputs = build(**sizes)
    assert forward(params, state, *inputs)[0].shape == (2, 8, 2)


@pytest.mark.parametrize("lengths", [(12, 0, 1), (3, 2, 4)])
@pytest.mark.parametrize("version", ["fourier", "wavelets"])
def test_short_series(version, lengths):
    sizes = dict(zip(("seq_len", "label_len", "pred_len"), lengths, strict=True))
    forward, params, state, inputs = build(version=version, clip_modes=True, **sizes)
    forecast, _ = forward(params, state, *inputs)
    assert forecast.shape == (2, lengths[2], 2)
    assert np.all(np.isfinite(forecast))


@pytest.mark.parametrize(("preset", "version"), [("paper", "fourier"), ("tslib", "wavelets")])
def test_published_projections_are_there_and_nothing_reads_them(preset, version):
    forward, params, state, inputs = build(preset, version=version)

    def loss(params):
        return jnp.sum(jnp.square(forward(params, state, *inputs)[0]))

    gradients = trees.by_path(jax.jit(jax.grad(loss))(params))
    # Biases may have no effect for other reasons, and a mixture of one average has none.
    kernels = [path for path in gradients if "mixture" not in path and not path.endswith("bias")]
    read = shapes_of(small(version=version))
    for path in kernels:
        assert np.any(gradients[path]) == (path in read), path
    assert len(kernels) > sum(path in read for path in kernels)


def test_initial_frequency_weights_have_the_moments_of_the_reference():
    config = small(d_model=48, d_model_dec=32, d_ff=4, modes=6)
    params = models.create(config, jax.random.key(0)).params
    for block, width in {"encoder": 48, "decoder": 32, "cross": 32}.items():
        assert_uniform(params[f"{block}_mixing"], width**-2)
    wavelets = small(version="wavelets", wavelet_c=4, wavelet_k=5, wavelet_alpha=6)
    params = models.create(wavelets, jax.random.key(0)).params
    for kernel in ("detail_to_detail", "smooth_to_detail", "detail_to_smooth"):
        assert_uniform(params["encoder_mixing"][kernel], 20**-2)


def assert_uniform(weight, bound):
    for part in ("real", "imag"):
        w = np.asarray(weight[part]).ravel() / bound
        assert w.min() >= 0
        assert w.max() <= 1
        assert abs(w.mean() - 0.5) < 4 / (12 * w.size) ** 0.5
        assert abs(w.std() - 12**-0.5) < 4 * 12**-0.5 / w.size**0.5
    parts = np.stack([np.asarray(weight[part]).ravel() for part in ("real", "imag")])
    assert abs(np.corrcoef(parts)[0, 1]) < 4 / parts.shape[1] ** 0.5


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("length", [1, 2, 3, 4, 12, 13, 816])
def test_transforms_of_chosen_frequencies_are_those_of_an_fft(length, dtype):
    rng, bins = np.random.default_rng(0), length // 2 + 1
    modes = np.sort(rng.permutation(bins + 2)[:-1])  # Two or one that there are not.
    there = modes < bins
    x = rng.normal(size=(2, length, 3)).astype(dtype)
    real, imag = rng.normal(size=(2, modes.size, 2, 3)).astype(dtype)
    spectrum, written = np.fft.rfft(x, axis=1), np.zeros((2, bins, 3), np.complex128)
    written[:, modes[there]] = np.swapaxes(real + 1j * imag, 0, 1)[:, there]
    with jax.enable_x64(True):
        got = Parts(*map(np.asarray, jax.jit(spectrum_at)(x, modes)))
        y = jax.jit(series_of, static_argnums=2)(Parts(real, imag), modes, length)
    assert y.dtype == got.real.dtype == dtype
    frequencies = np.swapaxes(got.real + 1j * got.imag, 0, 1)
    assert not np.any(frequencies[:, ~there])
    want = np.fft.irfft(written, n=length, axis=1)
    for result, exact in ((frequencies[:, there], spectrum[:, modes[there]]), (y, want)):
        rounding = 16 * np.finfo(dtype).eps * np.max(np.abs(exact), initial=0)
        np.testing.assert_allclose(result, exact, rtol=0, atol=rounding)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_short_floats_are_transformed_in_single_precision(dtype):
    x = jnp.ones((1, 300, 2), dtype)
    got = spectrum_at(x, jnp.arange(2))
    assert got.real.dtype == got.imag.dtype == jnp.float32
    np.testing.assert_array_equal(got.real[0], 300)


MODES = jnp.array([2, 4, 5])


def block_of_identities(output_bins, length):
    block = FourierBlock(Heads(1, 2, 2), Kept(3, 6, "low"), 1.0, output_bins, "transposed")
    real = jnp.broadcast_to(jnp.eye(2)[None, :, :, None], (1, 2, 2, 3))
    variables = {
        "params": {"real": real, "imag": jnp.zeros_like(real)},
        "buffers": {"modes": MODES, "bins": jnp.arange(3)},
    }
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, length, 1, 2)), jnp.float32)
    y = jax.jit(block.apply)(variables, x, None, None)
    return np.fft.rfft(x, axis=1), np.fft.rfft(y, axis=1)


@pytest.mark.parametrize("length", [12, 13])
def test_frequencies_go_back_to_where_they_were_read(length):
    before, after = block_of_identities("read", length)
    want = np.zeros_like(before)
    want[:, MODES] = before[:, MODES]
    np.testing.assert_allclose(after, want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("length", [12, 13])
def test_frequencies_go_to_the_lowest_bins_as_published(length):
    before, after = block_of_identities("lowest", length)
    want = np.zeros_like(before)
    want[:, :3] = before[:, MODES]
    want[:, 0] = want[:, 0].real
    np.testing.assert_allclose(after, want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("output_bins", ["read", "lowest"])
def test_frequencies_beyond_a_short_series_are_left_out(output_bins):
    # Of 8 steps: frequency 5 does not exist.
    before, after = block_of_identities(output_bins, 8)
    want = np.zeros_like(before)
    want[:, [2, 4] if output_bins == "read" else [0, 1]] = before[:, [2, 4]]
    want[:, 0] = want[:, 0].real
    np.testing.assert_allclose(after, want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("activation", ["split", "complex", "softmax"])
def test_attention_among_frequencies(activation):
    rng = np.random.default_rng(0)
    q, k = (rng.normal(size=(n, 2, 3, 2)) + 1j * rng.normal(size=(n, 2, 3, 2)) for n in (4, 5))
    s = 3 * np.einsum("mbhe,nbhe->bhmn", q, k)
    size = np.exp(np.abs(s))
    weights = {
        "split": np.tanh(s.real) + 1j * np.tanh(s.imag),
        "complex": np.tanh(s),
        "softmax": size / size.sum(-1, keepdims=True),
    }[activation]
    with jax.enable_x64(True):
        parts = (Parts(jnp.asarray(x.real), jnp.asarray(x.imag)) for x in (3 * q, k))
        got = jax.jit(frequency_attention, static_argnums=2)(*parts, activation)
        want = np.einsum("bhmn,nbhe->mbhe", weights, k)
        np.testing.assert_allclose(got.real + 1j * got.imag, want, rtol=1e-12)


@pytest.mark.parametrize("activation", ["split", "complex", "softmax"])
def test_attention_among_loud_or_absent_frequencies_is_finite(activation):
    def total(q, k):
        y = frequency_attention(q, k, activation)
        return jnp.sum(jnp.abs(y.real) + jnp.abs(y.imag))

    for loudness in (0.0, 1e4):
        x = Parts(*(jnp.full((2, 1, 1, 2), loudness * part, jnp.float32) for part in (1, 2)))
        for value in jax.tree.leaves(jax.jit(jax.value_and_grad(total, argnums=(0, 1)))(x, x)):
            assert np.all(np.isfinite(value))


def test_the_cross_block_is_scaled_by_the_decoder_width_unless_told_otherwise():
    traces = {scale: trace(d_model_dec=10, cross_scale=scale) for scale in (None, 10**-2, 0.02)}
    assert traces[None] == traces[10**-2]
    assert traces[None] != traces[0.02]

    block = FourierCross(Heads(1, 2, 2), *(Kept(2, 4, "low"),) * 2, 1.0, 1.0, "split", "transposed")
    q = jnp.asarray(np.random.default_rng(0).normal(size=(1, 8, 1, 2)), jnp.float32)
    once, variables = block.init_with_output(jax.random.key(0), q, q, None)
    thrice = block.clone(scale=3.0).apply(variables, q, q, None)
    np.testing.assert_allclose(thrice, 3 * once, rtol=1e-6)


def test_the_presets_differ_as_documented():
    corrected, tslib, paper = (small(preset) for preset in models.PRESETS)
    assert corrected.spectra == (6, 6, 6, 6)
    assert tslib.spectra == paper.spectra == (6, 7, 7, 6)
    positions = "buffers/enc_embedding/position"
    assert positions in shapes_of(tslib)
    assert positions not in shapes_of(corrected)
    assert positions not in shapes_of(paper)
    assert (corrected.wavelet_skip, tslib.wavelet_skip, paper.wavelet_skip) == (1, 1, 3)
    assert (corrected.complex_tanh, tslib.complex_tanh, paper.complex_tanh) == (
        "split", "split", "complex",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("version", "switch"),
    [
        ("fourier", {"output_bins": "lowest"}),
        ("fourier", {"context": "reread"}),
        ("fourier", {"complex_tanh": "complex"}),
        ("fourier", {"cross_activation": "softmax"}),
        ("wavelets", {"complex_tanh": "complex"}),
        ("wavelets", {"cross_activation": "softmax"}),
        ("wavelets", {"wavelet_skip": 0}),
        ("wavelets", {"modes": 1}),
    ],
)
def test_every_switch_acts(version, switch):
    assert trace(version=version) != trace(version=version, **switch)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_wavelet_version_keeps_the_precision(dtype):
    forward, params, state, inputs = build(version="wavelets")
    params, inputs = jax.tree.map(lambda x: x.astype(dtype), (params, inputs))
    assert forward(params, state, *inputs)[0].dtype == dtype


def test_doubling_undoes_halving():
    filters = Filters(**jax.tree.map(jnp.float32, filter_tables(8)))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 6, 3, 8)), jnp.float32)
    detail, smooth = halve(x, filters)
    np.testing.assert_allclose(double(detail, smooth, filters), x, rtol=0, atol=1e-5)
    energy = jnp.sum(jnp.square(x))
    np.testing.assert_allclose(jnp.sum(detail**2) + jnp.sum(smooth**2), energy, rtol=1e-5)


@pytest.mark.parametrize("order", [1, 4, 8, 16])
def test_wavelet_filters_are_those_of_gram_schmidt(order):
    smooth, detail = legendre_filters(order)
    rows = np.concatenate([smooth.reshape(order, -1), detail.reshape(order, -1)])
    np.testing.assert_allclose(rows @ rows.T, np.eye(2 * order), rtol=0, atol=1e-12)
    # Each row leaves out the left half's functions before its own, which fixes the rows.
    left = detail[:, 0]
    np.testing.assert_allclose(np.tril(left, -1), 0, rtol=0, atol=1e-12)
    assert np.all(np.diag(left) > 0)


def test_each_block_keeps_up_to_64_frequencies():
    for preset in models.PRESETS:
        for version in ("fourier", "wavelets"):
            sizes = {"enc_in": 7, "dec_in": 7, "c_out": 7, "version": version}
            config = models.config("fedformer", preset, **sizes)
        want = [32] * 4 if preset == "tslib" else [48, 64, 64, 48]
        assert [kept.n_modes for kept in config.kept.values()] == want
    # A short horizon has fewer, and is no error where nothing was asked for.
    short = models.config("fedformer", enc_in=7, dec_in=7, c_out=7, pred_len=24)
    assert [kept.n_modes for kept in short.kept.values()] == [48, 36, 36, 48]


@pytest.mark.parametrize(
    ("faults", "message"),
    [
        (
            {"modes": 7},
            (
                "modes must be at most 6, the frequencies of the longest block, got 7 "
                "(encoder 6, decoder 6, cross_q 6, cross_kv 6): pass modes=6, or clip_modes=True "
                "to keep what there is"
            ),
        ),
        (
            {"modes": 5, "version": "wavelets"},
            (
                "modes must be at most 4, the frequencies of the longest block, got 5 "
                "(cross 4): pass modes=4, or clip_modes=True to keep what there is"
            ),
        ),
        (
            {"modes": (6, 7, 6, 9)},
            (
                "modes has 7 for decoder, which has 6 frequencies; modes has 9 for "
                "cross_kv, which has 6 frequencies"
            ),
        ),
        (
            {"modes": (3, 3, 3)},
            (
                "modes must be one number or 4, one per list of encoder, decoder, "
                "cross_q, cross_kv, got 3"
            ),
        ),
        (
            {"modes": (1, 1, 1, 1), "version": "wavelets"},
            "modes must be one number for wavelets, got (1, 1, 1, 1)",
        ),
        (
            {"e_layers": 2, "n_heads": (2, 4, 2, 2), "d_keys": 3, "d_values": 3},
            (
                "n_heads, d_keys and d_values must agree among the encoder blocks, "
                "which share their weights, got (2, 3, 3), (4, 3, 3)"
            ),
        ),
        (
            {"attention_scale": 0.1},
            "attention_scale must be None, there are no logits: see cross_scale",
        ),
        (
            {"version": "haar", "wavelet_k": 0, "wavelet_skip": -1, "context": "x"},
            (
                "version must be one of fourier, wavelets, got 'haar'; context must "
                "be one of transposed, reread, got 'x'; wavelet_k must be at least 1, got 0; "
                "wavelet_skip must be at least 0, got -1"
            ),
        ),
        (
            {"seq_len": 1, "label_len": 1},
            "seq_len must be at least 2 for fourier: one step has no frequencies",
        ),
    ],
)
def test_a_wrong_config_is_refused(faults, message):
    with pytest.raises(ValueError, match="FEDformerConfig") as caught:
        small(**faults)
    assert str(caught.value) == f"FEDformerConfig: {message}"


def test_published_presets_cut_what_is_too_much():
    kept = small("tslib", modes=100).kept
    assert [each.n_modes for each in kept.values()] == [6, 7, 7, 6]
    with pytest.raises(ValueError, match="modes has 7 for encoder, which has 6"):
        small("tslib", modes=(7, 7, 7, 6))


def test_the_version_may_be_spelled_as_the_reference_does():
    assert small(version="Wavelets").version == "wavelets"
    assert hash(small(version="Fourier")) == hash(small())
