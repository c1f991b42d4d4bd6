"""Properties that every model has, from one table."""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import golden_dir
from forecasters import batch, drawn, shapes
from golden import Case

from tsjax import interop, models, trees
from tsjax.models.informer import ProbSparse
from tsjax.models.layers import attend
from tsjax.models.transformer import Decoder

SMALL = {
    "enc_in": 3, "dec_in": 3, "c_out": 3, "seq_len": 13, "label_len": 5, "pred_len": 7,
    "d_model": 8, "n_heads": 2, "d_ff": 12, "e_layers": 2, "d_layers": 1, "dropout": 0.1,
    "moving_avg": 5, "modes": 3, "seg_len": 3, "factor": 2,
}  # fmt: skip
# One level is three layers of two stages, which take long enough to compile. What merges levels is
# in test_crossformer.py and in the reference cases.
OWN = {"crossformer": {"e_layers": 1}}
NAMES = list(models.MODELS)
# These forecast the channels that they read.
SAME_CHANNELS = ["autoformer", "fedformer", "crossformer"]
CAUSAL = ["transformer", "informer"]
# A bias on the keys shifts all logits of a query alike.
NO_GRADIENT = dict.fromkeys(NAMES, ("key/bias",))


def small_config(name, preset="corrected", **sizes):
    known = models.fields(name)
    sizes = {**SMALL, **OWN.get(name, {}), **sizes}
    return models.config(name, preset, **{k: v for k, v in sizes.items() if k in known})


class Built(NamedTuple):
    """A model and the programs that the tests share: compiling them is most of the time.

    Attributes:
      made: the model with fresh weights.
      inputs: a batch of four windows.
      forecast: the compiled forecast in evaluation mode, of a model and a batch.
      step: a compiled training step, of a model and a random key: forecast and gradients.
      traces: what has been traced, a word for each time.
    """

    made: models.Forecaster
    inputs: tuple
    forecast: Callable
    step: Callable
    traces: list


@functools.cache
def build(name):
    # Wide enough that the moments of the first weights can be told.
    config = small_config(name, d_model=32, n_heads=4, d_ff=48, modes=4)
    inputs, traces = batch(config, 4), []

    @jax.jit
    def forecast(made, *inputs):
        traces.append("evaluation")
        return models.forecast(made, *inputs)

    @jax.jit
    def step(made, key):
        traces.append("training")

        def loss(params):
            forecast, _ = made.forward(params, made.state, *inputs, key=key)
            return jnp.mean(jnp.square(forecast - 1)), forecast

        return jax.grad(loss, has_aux=True)(made.params)

    return Built(models.create(config, jax.random.key(0)), inputs, forecast, step, traces)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("lengths", [(13, 5, 7), (8, 0, 1), (5, 5, 20)])
def test_shapes(name, lengths):
    sizes = dict(zip(("seq_len", "label_len", "pred_len"), lengths, strict=True))
    c_out = 3 if name in SAME_CHANNELS else 2
    config = small_config(name, c_out=c_out, **sizes)
    forecast = jax.eval_shape(models.forecast, shapes(config), *models.input_shapes(config, 4))
    assert forecast.shape == (4, lengths[2], c_out)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_precision_is_kept(name, dtype):
    config = small_config(name)
    made, inputs = shapes(config), models.input_shapes(config, 4)
    params, inputs = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, dtype), (made.params, inputs)
    )
    made = dataclasses.replace(made, params=params)
    assert jax.eval_shape(models.forecast, made, *inputs).dtype == dtype


@pytest.mark.parametrize("name", ["transformer", "informer"])
def test_weights_drawn_under_a_trace_are_those_drawn_one_by_one(name):
    config, key = small_config(name), jax.random.key(3)
    made = models.create(config, key)
    traced = jax.jit(functools.partial(models.create, config))(key)
    assert jax.tree.structure(made) == jax.tree.structure(traced)
    for ours, theirs in zip(jax.tree.leaves(made), jax.tree.leaves(traced), strict=True):
        assert ours.dtype == theirs.dtype
        if jnp.issubdtype(ours.dtype, jax.dtypes.prng_key):
            ours, theirs = jax.random.key_data(ours), jax.random.key_data(theirs)
        # Compiled as one program, a draw is rounded otherwise.
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-7)


def test_a_trace_may_close_over_its_key():
    config, key = small_config("transformer"), jax.random.key(3)
    assert jax.eval_shape(lambda: models.create(config, key)) == shapes(config)


@pytest.mark.parametrize("name", NAMES)
def test_every_leaf_is_an_array_with_memory_of_its_own(name):
    """So that each can be given away to a compiled step."""
    leaves = jax.tree.leaves(models.create(small_config(name), jax.random.key(0)))
    assert all(isinstance(leaf, jax.Array) for leaf in leaves)
    keys = [leaf for leaf in leaves if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)]
    numbers = [leaf for leaf in leaves if not any(leaf is key for key in keys)]
    pointers = [leaf.unsafe_buffer_pointer() for leaf in numbers]
    assert len(set(pointers)) == len(pointers)


@pytest.mark.parametrize("name", NAMES)
def test_windows_of_a_batch_do_not_see_one_another(name):
    made, inputs, forecast, *_ = build(name)
    together = forecast(made, *inputs)
    alone = forecast(made, *(x[np.ones(4, int)] for x in inputs))
    np.testing.assert_allclose(alone, np.repeat(together[1:2], 4, 0), rtol=1e-5, atol=1e-6)
    order = np.array([2, 0, 3, 1])
    permuted = forecast(made, *(x[order] for x in inputs))
    np.testing.assert_allclose(permuted, together[order], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["transformer", "informer", "autoformer"])
def test_every_width_can_differ_by_block(name):
    config = small_config(
        name, d_model=8, d_model_dec=6, n_heads=(2, 1, 3, 2), d_keys=(3, 2, 5, 1),
        d_values=(4, 7, 1, 2), d_ff=(12, 5, 9), attention_scale=(0.5, 0.3, 0.2, 0.1),
    )  # fmt: skip
    made = shapes(config)
    forecast = jax.eval_shape(models.forecast, made, *models.input_shapes(config, 4))
    assert forecast.shape == (4, 7, 3)
    found = {path: leaf.shape for path, leaf in trees.by_path(made.params).items()}
    blocks = ["encoder/layer_0/attention", "encoder/layer_1/attention"]
    blocks += [f"decoder/layer_0/{kind}_attention" for kind in ("self", "cross")]
    sizes = zip(
        blocks, (8, 8, 6, 6), (8, 8, 6, 8), (2, 1, 3, 2), (3, 2, 5, 1), (4, 7, 1, 2), strict=True
    )
    for block, width, memory, n_heads, d_keys, d_values in sizes:
        assert found[f"{block}/query/kernel"] == (width, n_heads, d_keys)
        assert found[f"{block}/key/kernel"] == (memory, n_heads, d_keys)
        assert found[f"{block}/value/kernel"] == (memory, n_heads, d_values)
        assert found[f"{block}/out/kernel"] == (n_heads, d_values, width)
    layers = {"encoder/layer_0": 12, "encoder/layer_1": 5, "decoder/layer_0": 9}
    for layer, d_ff in layers.items():
        assert found[f"{layer}/feed_forward/up/kernel"][1] == d_ff


@pytest.mark.parametrize("name", ["transformer", "informer", "autoformer"])
def test_a_given_scale_is_the_one_used(name):
    # Of heads 4 wide; Autoformer's is the mean over heads and their width.
    usual = 1 / 8 if name == "autoformer" else 0.5
    configs = [small_config(name, e_layers=1, attention_scale=s) for s in (None, usual, 3 * usual)]
    made, inputs = drawn(configs[0]), batch(configs[0])

    @jax.jit
    def run(params, state, *inputs):
        return [models.forward(c)(params, state, *inputs)[0] for c in configs]

    want, same, other = run(made.params, made.state, *inputs)
    np.testing.assert_allclose(same, want, rtol=1e-5, atol=1e-6)
    assert np.any(np.abs(other - want) > 1e-4)


@pytest.mark.parametrize("name", CAUSAL)
def test_a_step_depends_on_no_later_decoder_input(name):
    # Of the decoder's layers: the token embedding before them is circular, and shows the first step
    # the last one.
    params = drawn(small_config(name)).params
    rng = np.random.default_rng(1)
    x, memory = (jnp.asarray(rng.normal(size=(1, n, 8)), jnp.float32) for n in (12, 13))

    config = small_config(name)
    decoder = Decoder(config)
    prob = ProbSparse(
        config.factor if name == "informer" else 1, None, 0, "transposed", causal=True
    )

    def mix(q, k, v):
        if name == "transformer":
            return attend(q, k, v, causal=True)
        return prob.init_with_output(jax.random.key(0), q, k, v, train=False)[0]

    def run(x):
        variables = {"params": params["decoder"]}
        return decoder.apply(variables, x, memory, [(mix, attend)], train=False)

    jacobian = jax.jit(jax.jacobian(run))(x)[0, :, :, 0]
    influence = jnp.abs(jacobian).sum((1, 3))
    assert np.all(np.triu(influence, 1) == 0)
    assert np.all(np.diag(influence) > 0)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_finite_at_init_and_reach_every_weight(name):
    made, _, _, step, _ = build(name)
    gradients, _ = step(made, jax.random.key(1))
    for path, gradient in trees.by_path(gradients).items():
        assert np.all(np.isfinite(gradient)), path
        assert np.any(gradient != 0) or path.endswith(NO_GRADIENT[name]), path


@pytest.mark.parametrize("name", NAMES)
def test_dropout_acts_in_train_mode_only(name):
    made, inputs, forecast, step, _ = build(name)
    evaluated = [forecast(made, *inputs) for _ in range(2)]
    trained = [step(made, jax.random.key(k))[1] for k in (0, 0, 1)]
    np.testing.assert_array_equal(*evaluated)
    np.testing.assert_array_equal(trained[0], trained[1])
    assert np.any(trained[0] != trained[2])
    assert np.any(trained[0] != evaluated[0])


@pytest.mark.parametrize("name", NAMES)
def test_a_second_call_does_not_trace_again(name):
    made, inputs, forecast, step, traces = build(name)
    for each in (made, jax.tree.map(lambda leaf: 2 * leaf, made)):
        forecast(each, *inputs)
        step(each, jax.random.key(0))
    assert sorted(traces) == ["evaluation", "training"]


@pytest.mark.parametrize("name", NAMES)
def test_same_key_same_weights(name):
    first, config = build(name).made.params, build(name).made.config
    second, other = (models.create(config, jax.random.key(k)).params for k in (0, 1))
    jax.tree.map(np.testing.assert_array_equal, first, second)
    path = next(path for path in trees.paths(first) if path.endswith("kernel"))
    assert np.any(trees.by_path(first)[path] != trees.by_path(other)[path])


# How the reference calls its models and sizes.
COUNTED = {
    "Transformer": ("transformer", {}),
    "Informer (distil)": ("informer", {}),
    "Autoformer": ("autoformer", {}),
    "FEDformer fourier modes=64": ("fedformer", {"modes": 64}),
    "FEDformer fourier modes=32 (TSL default)": ("fedformer", {"modes": 32}),
    "FEDformer Wavelets modes=64": ("fedformer", {"modes": 64, "version": "wavelets"}),
    "Crossformer (256/512/4 heads/3 layers, factor 10)": ("crossformer", {}),
    "Crossformer (TSL script: 512/2048/8 heads/2 layers, factor 3)": (
        "crossformer",
        {"d_model": 512, "d_ff": 2048, "n_heads": 8, "e_layers": 2, "factor": 3},
    ),
    # Their own decompositions are not the pruning study's: no mixtures, and mixtures throughout.
    "Autoformer repo": ("autoformer", {"moving_avg": 25}),
    "FEDformer repo Fourier modes=64 moving_avg=[24]": ("fedformer", {"mix_input": True}),
    "FEDformer repo Wavelets modes=64 L=3 moving_avg=[24]": (
        "fedformer",
        {"mix_input": True, "version": "wavelets"},
    ),
    "Thinklab Crossformer in_len 96, seg_len 12": ("crossformer", {}),
}
PRESET = {"time_series_library": "tslib", "original_repositories": "paper"}


def published_counts():
    path = golden_dir() / "param_counts.json"
    if not path.is_file():
        return []
    return [
        (label, PRESET[source], int(horizon), row["params_if_complex_counts_twice"])
        for source, models_ in Case(path).meta.items()
        if source in PRESET
        for label, rows in models_.items()
        if label in COUNTED
        for horizon, row in rows.items()
    ]


@pytest.mark.skipif(not published_counts(), reason=f"no param_counts.json in {golden_dir()}")
@pytest.mark.parametrize(("label", "preset", "pred_len", "count"), published_counts())
def test_parameter_counts_at_full_size(label, preset, pred_len, count):
    name, sizes = COUNTED[label]
    config = models.config(name, preset, enc_in=7, dec_in=7, c_out=7, pred_len=pred_len, **sizes)
    assert trees.size(shapes(config).params) == count


@pytest.mark.parametrize("name", NAMES)
def test_initial_weights_have_the_moments_of_the_reference(name):
    made = build(name).made
    names = models.MODELS[name].torch_names(made.config).items()
    torch = {path: keys for path, (keys, _) in names}
    arrays = interop.to_torch(made)
    for path, w in trees.by_path(made.params).items():
        key = torch[path] if isinstance(torch[path], str) else torch[path][0]
        w = np.asarray(w, np.float64).ravel()
        if "norm" in path and path.endswith(("scale", "bias")):
            assert np.all(w == (1 if path.endswith("scale") else 0)), path
            continue
        # Of torch's own layers: the weight's shape is [out, in] or [out, in, steps].
        weight = arrays.get(key.removesuffix("bias") + "weight", arrays[key])
        fan_in = np.prod(weight.shape[1:])
        if "tokenConv" in key:
            mean, std, fourth = 0, (2 / fan_in) ** 0.5, 3
        elif path.endswith(("router", "position", "embedding")):
            mean, std, fourth = 0, 1, 3
            assert np.max(np.abs(w)) > 2, path
        elif path.endswith(("real", "imag")):
            mean, std, fourth = 0.5 / 32**2, 32**-2 / 12**0.5, 1.8
        else:
            mean, std, fourth = 0, (3 * fan_in) ** -0.5, 1.8
            assert np.max(np.abs(w)) <= fan_in**-0.5, path
        # Within 5 standard errors, of the mean and of the variance.
        assert abs(w.mean() - mean) < 5 * std / w.size**0.5, path
        variance = np.mean((w - mean) ** 2)
        assert abs(variance / std**2 - 1) < 5 * ((fourth - 1) / w.size) ** 0.5, path
