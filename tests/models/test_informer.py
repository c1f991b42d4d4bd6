"""What is Informer's own: sampled keys, distilling, running statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from forecasters import batch

from tsjax import models, trees
from tsjax.models.informer import BatchNorm, ProbSparse
from tsjax.models.layers import attend

SIZES = {
    "enc_in": 2, "dec_in": 2, "c_out": 2, "seq_len": 16, "label_len": 4, "pred_len": 4,
    "d_model": 8, "n_heads": 2, "d_ff": 8, "e_layers": 2, "factor": 1, "dropout": 0.0,
}  # fmt: skip


def build(key=0, **sizes):
    config = models.config("informer", **{**SIZES, **sizes})
    made = models.create(config, jax.random.key(key))
    return jax.jit(made.forward), made.params, made.state, batch(config, 3)


def indices(state):
    found = trees.by_path(state["buffers"])
    return {path: index for path, index in found.items() if path.endswith("index")}


def test_evaluation_samples_the_keys_of_its_state():
    forward, params, state, inputs = build()
    twice = [forward(params, state, *inputs)[0] for _ in range(2)]
    np.testing.assert_array_equal(*twice)
    first, *_ = indices(state)
    other = trees.map_with_path(lambda path, x: 15 - x if path == f"buffers/{first}" else x, state)
    assert np.any(forward(params, other, *inputs)[0] != twice[0])


def test_the_fixed_draw_depends_on_its_own_seed_only():
    *_, state, _ = build(key=0)
    *_, same, _ = build(key=1)
    *_, other, _ = build(key=0, sample_seed=1)
    jax.tree.map(np.testing.assert_array_equal, indices(state), indices(same))
    assert all(np.any(index != indices(other)[path]) for path, index in indices(state).items())
    for index in indices(state).values():
        assert index.min() >= 0
        assert index.max() < 16


def test_training_samples_anew_with_each_key():
    forward, params, state, inputs = build()
    got = [forward(params, state, *inputs, key=jax.random.key(k))[0] for k in (0, 0, 1)]
    np.testing.assert_array_equal(got[0], got[1])
    assert np.any(got[0] != got[2])


@pytest.mark.parametrize(("padding", "length"), [(1, 8), (2, 9)])
def test_distilling_halves_the_length(padding, length):
    *_, state, _ = build(distil_padding=padding)
    buffers = state["buffers"]
    assert buffers["encoder_sampling_0"]["index"].shape == (16, 3)
    assert buffers["encoder_sampling_1"]["index"].shape[0] == length
    *_, whole, _ = build(distil=False)
    assert whole["buffers"]["encoder_sampling_1"]["index"].shape[0] == 16


def test_full_cross_attention_samples_nothing():
    *_, full, _ = build()
    *_, prob, _ = build(cross_attention="prob")
    assert set(indices(prob)) - set(indices(full)) == {"cross_sampling_0/index"}


def test_enough_queries_make_it_full_attention():
    rng = np.random.default_rng(1)
    q, k, v = (jnp.asarray(rng.normal(size=(2, 6, 3, 4)), jnp.float32) for _ in range(3))
    for causal in (False, True):
        block = ProbSparse(9, None, 0, "transposed", causal)
        run = jax.jit(lambda *qkv, block=block: block.init_with_output(
            jax.random.key(0), *qkv, train=False
        )[0])  # fmt: skip
        want = attend(q, k, v, causal=causal)
        np.testing.assert_allclose(run(q, k, v), want, rtol=1e-5, atol=1e-6)


def test_one_head_and_many_windows():
    forward, params, state, inputs = build(n_heads=1)
    together = forward(params, state, *inputs)[0]
    alone = forward(params, state, *(x[1:2] for x in inputs))[0]
    np.testing.assert_allclose(together[1:2], alone, rtol=1e-5, atol=1e-6)


def test_running_statistics_move_in_train_mode_only():
    forward, params, state, inputs = build()
    evaluated, trained = (
        forward(params, state, *inputs, key=key)[1]["batch_stats"]
        for key in (None, jax.random.key(0))
    )
    jax.tree.map(np.testing.assert_array_equal, evaluated, state["batch_stats"])
    norm = trained["distil_0"]["norm"]
    assert int(norm["count"]) == 1
    assert np.any(norm["mean"] != 0)


def test_running_statistics_stay_in_float32_beside_bfloat16():
    x = jnp.asarray(np.random.default_rng(2).normal(size=(2, 5, 3)), jnp.bfloat16)
    variables = BatchNorm().init(jax.random.key(0), x, train=False)
    y, new = BatchNorm().apply(variables, x, train=True, mutable=["batch_stats"])
    assert y.dtype == jnp.bfloat16
    assert new["batch_stats"]["mean"].dtype == jnp.float32
    want = np.asarray(x, np.float32).reshape(-1, 3)
    np.testing.assert_allclose(new["batch_stats"]["mean"], 0.1 * want.mean(0), rtol=1e-3)
    np.testing.assert_allclose(
        new["batch_stats"]["var"], 0.9 + 0.1 * want.var(0, ddof=1), rtol=1e-3
    )
