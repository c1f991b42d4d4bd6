"""Properties that every model has, from one table."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import golden_dir
from golden import Case

from tsjax import models, trees
from tsjax.models.layers import Dropout
from tsjax.models.transformer import Decoder

SMALL = {
    "enc_in": 3, "dec_in": 3, "c_out": 3, "seq_len": 13, "label_len": 5, "pred_len": 7,
    "d_model": 8, "n_heads": 2, "d_ff": 12, "e_layers": 2, "d_layers": 1, "dropout": 0.1,
}  # fmt: skip
NAMES = list(models.MODELS)
CAUSAL = ["transformer"]


@functools.cache
def build(name, batch=4, **sizes):
    config = models.config(name, **{**SMALL, **sizes})
    params, state = models.init(models.create(name, config), jax.random.key(0))
    rng = np.random.default_rng(0)
    shapes = models.input_shapes(config, batch)
    inputs = [jnp.asarray(rng.normal(size=s.shape), jnp.float32) for s in shapes]
    return jax.jit(models.forward(models.create(name, config))), params, state, inputs


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("lengths", [(13, 5, 7), (8, 0, 1), (5, 5, 20)])
def test_shapes(name, lengths):
    sizes = dict(zip(("seq_len", "label_len", "pred_len"), lengths, strict=True))
    forward, params, state, inputs = build(name, c_out=2, **sizes)
    forecast, _ = forward(params, state, *inputs)
    assert forecast.shape == (4, lengths[2], 2)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_precision_is_kept(name, dtype):
    forward, params, state, inputs = build(name)
    params, inputs = jax.tree.map(lambda x: x.astype(dtype), (params, inputs))
    assert forward(params, state, *inputs)[0].dtype == dtype


@pytest.mark.parametrize("name", NAMES)
def test_windows_of_a_batch_do_not_see_one_another(name):
    forward, params, state, inputs = build(name)
    together, _ = forward(params, state, *inputs)
    alone, _ = forward(params, state, *(x[1:2] for x in inputs))
    np.testing.assert_allclose(together[1:2], alone, rtol=1e-5, atol=1e-6)
    order = np.array([2, 0, 3, 1])
    permuted, _ = forward(params, state, *(x[order] for x in inputs))
    np.testing.assert_allclose(permuted, together[order], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", CAUSAL)
def test_a_step_depends_on_no_later_decoder_input(name):
    # Of the decoder's layers: the token embedding before them is circular, and shows the first step
    # the last one.
    params = build(name)[1]
    rng = np.random.default_rng(1)
    x, memory = (jnp.asarray(rng.normal(size=(1, n, 8)), jnp.float32) for n in (12, 13))

    decoder = Decoder(models.config(name, **SMALL))

    def run(x):
        return decoder.apply({"params": params["decoder"]}, x, memory, train=False)

    jacobian = jax.jit(jax.jacobian(run))(x)[0, :, :, 0]
    influence = jnp.abs(jacobian).sum((1, 3))
    assert np.all(np.triu(influence, 1) == 0)
    assert np.all(np.diag(influence) > 0)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_finite_at_init_and_reach_every_weight(name):
    forward, params, state, inputs = build(name)

    def loss(params):
        forecast, _ = forward(params, state, *inputs, key=jax.random.key(1))
        return jnp.mean(jnp.square(forecast - 1))

    for path, gradient in trees.by_path(jax.jit(jax.grad(loss))(params)).items():
        assert np.all(np.isfinite(gradient)), path
        # A bias on the keys shifts all logits of a query alike.
        assert np.any(gradient != 0) or path.endswith("key/bias"), path


@pytest.mark.parametrize("name", NAMES)
def test_dropout_acts_in_train_mode_only(name):
    forward, params, state, inputs = build(name)
    evaluated = [forward(params, state, *inputs)[0] for _ in range(2)]
    trained = [forward(params, state, *inputs, key=jax.random.key(k))[0] for k in (0, 0, 1)]
    np.testing.assert_array_equal(*evaluated)
    np.testing.assert_array_equal(trained[0], trained[1])
    assert np.any(trained[0] != trained[2])
    assert np.any(trained[0] != evaluated[0])


@pytest.mark.parametrize("name", NAMES)
def test_a_second_call_does_not_trace_again(name):
    forward, params, state, inputs = build(name)
    traces = []

    @jax.jit
    def run(params, *inputs):
        traces.append(1)
        return forward(params, state, *inputs)[0]

    run(params, *inputs)
    run(jax.tree.map(lambda w: 2 * w, params), *inputs)
    assert len(traces) == 1


@pytest.mark.parametrize("name", NAMES)
def test_same_key_same_weights(name):
    model = models.create(name, models.config(name, **SMALL))
    first, second, other = (models.init(model, jax.random.key(k))[0] for k in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, first, second)
    assert np.any(first["output_projection"]["kernel"] != other["output_projection"]["kernel"])


def published_counts():
    path = golden_dir() / "param_counts.json"
    if not path.is_file():
        return []
    counts = Case(path).meta["time_series_library"]
    return [
        (name.lower(), int(horizon), row["params"])
        for name, rows in counts.items()
        for horizon, row in rows.items()
        if name.lower() in models.MODELS
    ]


@pytest.mark.skipif(not published_counts(), reason=f"no param_counts.json in {golden_dir()}")
@pytest.mark.parametrize(("name", "pred_len", "count"), published_counts())
def test_parameter_counts_at_full_size(name, pred_len, count):
    config = models.config(name, enc_in=7, dec_in=7, c_out=7, pred_len=pred_len)
    model = models.create(name, config)
    params, _ = jax.eval_shape(lambda key: models.init(model, key), jax.random.key(0))
    assert trees.size(params) == count


def test_initial_weights_have_the_moments_of_the_reference():
    config = models.config("transformer", enc_in=7, dec_in=7, c_out=7, d_model=256, d_ff=512)
    params, _ = models.init(models.create("transformer", config), jax.random.key(0))
    leaves = trees.by_path(params)
    # torch's Linear: uniform within 1 / sqrt(fan_in), for weights and biases.
    for path, fan_in in {
        "encoder/layer_0/attention/query/kernel": 256,
        "encoder/layer_0/attention/out/kernel": 256,
        "encoder/layer_0/feed_forward/down/kernel": 512,
        "encoder/layer_0/feed_forward/down/bias": 512,
        "enc_embedding/time/projection/kernel": 4,
    }.items():
        bound, w = fan_in**-0.5, np.asarray(leaves[path]).ravel()
        n = w.size
        assert np.max(np.abs(w)) <= bound
        assert abs(w.std() - bound / 3**0.5) < 4 * bound / (5 * n) ** 0.5, path
        assert abs(w.mean()) < 4 * bound / (3 * n) ** 0.5, path
    # The token embedding: normal, variance 2 / fan_in.
    w = np.asarray(leaves["enc_embedding/value/kernel"]).ravel()
    std = (2 / 21) ** 0.5
    assert abs(w.std() - std) < 4 * std / (2 * w.size) ** 0.5
    assert np.max(np.abs(w)) > 3 * std
    for path, w in leaves.items():
        if "norm" in path:
            assert np.all(w == (1 if path.endswith("scale") else 0)), path


def test_a_wrong_config_is_refused_with_all_its_faults():
    faults = {"d_model": 0, "pred_len": 0, "dropout": 1.0, "freq": "x", "activation": "tanh"}
    with pytest.raises(ValueError, match="TransformerConfig: ") as caught:
        models.config("transformer", **{**SMALL, **faults})
    for fault in faults:
        assert fault in str(caught.value)


def test_unknown_names_are_met_with_near_ones():
    with pytest.raises(ValueError, match="did you mean 'transformer'"):
        models.config("transfomer", **SMALL)
    with pytest.raises(ValueError, match=r"no field 'd_modle' \(did you mean 'd_model'"):
        models.config("transformer", **SMALL, d_modle=3)


def test_a_config_of_another_model_is_refused():
    base = models.ForecastConfig(enc_in=1, dec_in=1, c_out=1)
    with pytest.raises(ValueError, match="needs a TransformerConfig, got a ForecastConfig"):
        models.create("transformer", base)


def test_config_is_hashable_and_replaceable():
    config = models.config("transformer", **SMALL)
    assert hash(dataclasses.replace(config)) == hash(config)


@pytest.mark.parametrize("rate", [0.05, 0.5])
def test_dropout_zeroes_its_share_and_keeps_the_mean(rate):
    x = jnp.ones((3, 333, 101))
    y = Dropout(rate).apply({}, x, train=True, rngs={"dropout": jax.random.key(0)})
    sd = (rate * (1 - rate) / x.size) ** 0.5
    assert abs(float(jnp.mean(y == 0)) - rate) < 4 * sd
    assert abs(float(jnp.mean(y)) - 1) < 4 * sd / (1 - rate)
    kept = np.asarray(y[y != 0])
    np.testing.assert_allclose(kept, 1 / (1 - rate), rtol=2e-5)
    # Neighbours share a random word; their fates must not.
    flat = np.asarray(y == 0).ravel()[:-1].reshape(-1, 2).astype(float)
    assert abs(np.corrcoef(flat.T)[0, 1]) < 4 / len(flat) ** 0.5


def test_dropout_is_off_at_rate_zero_and_in_evaluation():
    x = jnp.ones((2, 3))
    assert Dropout(0.0).apply({}, x, train=True) is x
    assert Dropout(0.5).apply({}, x, train=False) is x
