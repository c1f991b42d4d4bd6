"""Moments of the gradient over batches, against a loop in numpy."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tsjax import pruning

RNG = np.random.default_rng(0)
BATCHES = [(RNG.normal(size=(4, 3)), RNG.normal(size=(4, 2))) for _ in range(5)]


def params():
    return {"w": jnp.asarray(np.random.default_rng(1).normal(size=(3, 2)), jnp.float32)}


def loss(params, batch):
    x, y = (jnp.asarray(part, jnp.float32) for part in batch)
    return 0.5 * jnp.sum(jnp.square(jnp.dot(x, params["w"]) - y))


def gradients():
    """One gradient per batch, in numpy: x' (x w - y)."""
    w = np.asarray(params()["w"], np.float64)
    return np.stack([x.T @ (x @ w - y) for x, y in BATCHES])


def test_moments_are_means_over_batches():
    moments = pruning.gradient_moments(loss, params(), BATCHES)
    assert isinstance(moments, pruning.GradientMoments)
    g = gradients()
    np.testing.assert_allclose(moments.mean["w"], g.mean(0), rtol=1e-5)
    np.testing.assert_allclose(moments.absolute["w"], np.abs(g).mean(0), rtol=1e-5)
    np.testing.assert_allclose(moments.square["w"], np.square(g).mean(0), rtol=1e-5)
    # Gradients of opposite sign cancel in the mean alone.
    assert np.any(moments.absolute["w"] > 1.05 * np.abs(moments.mean["w"]))


def test_batches_may_come_one_by_one():
    moments = pruning.gradient_moments(loss, params(), (batch for batch in BATCHES))
    chex.assert_trees_all_equal(moments, pruning.gradient_moments(loss, params(), BATCHES))


def test_inside_jit_the_moments_are_the_same():
    moments = jax.jit(lambda p: pruning.gradient_moments(loss, p, BATCHES))(params())
    expected = pruning.gradient_moments(loss, params(), BATCHES)
    chex.assert_trees_all_close(moments, expected, rtol=1e-5)


def test_all_batches_take_one_compilation():
    traced = []

    def counted(params, batch):
        traced.append(batch)
        return loss(params, batch)

    pruning.gradient_moments(counted, params(), BATCHES)
    assert len(traced) == 1


def test_integer_leaves_get_zeros():
    both = {**params(), "index": jnp.asarray([2, 0, 1]), "empty": jnp.zeros((0, 2))}

    def with_index(params, batch):
        x, y = batch
        return loss(params, (jnp.asarray(x)[:, params["index"]], y))

    moments = pruning.gradient_moments(with_index, both, BATCHES)
    for moment in moments:
        assert jax.tree.structure(moment) == jax.tree.structure(both)
        assert moment["index"].tolist() == [0, 0, 0]
        assert np.all(moment["w"] != 0)
    chex.assert_trees_all_equal_shapes(moments.mean, both)


def test_complex_gradients_have_real_sizes_and_squares():
    w = {"z": jnp.asarray([3 + 4j, -1j], jnp.complex64)}
    moments = pruning.gradient_moments(
        lambda p, scale: scale * jnp.sum(jnp.square(jnp.abs(p["z"]))), w, [1.0, 2.0]
    )
    # JAX's gradient of |z|^2 is 2 conj(z).
    np.testing.assert_allclose(moments.mean["z"], [3 * (3 - 4j), 3j], rtol=1e-6)
    np.testing.assert_allclose(moments.absolute["z"], [15, 3], rtol=1e-6)
    np.testing.assert_allclose(moments.square["z"], [2.5 * 100, 2.5 * 4], rtol=1e-6)
    assert moments.absolute["z"].dtype == moments.square["z"].dtype == jnp.float32


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_many_batches_of_half_precision_do_not_stall(dtype):
    # In bfloat16, 256 + 1 is 256.
    moments = pruning.gradient_moments(
        lambda p, scale: scale * jnp.sum(p["w"]), {"w": jnp.ones(2, dtype)}, [1.0] * 700
    )
    for moment in moments:
        assert moment["w"].tolist() == [1, 1]
        assert moment["w"].dtype == jnp.float32


def test_no_batch_is_refused():
    with pytest.raises(ValueError, match=r"^there is no batch to take gradients on$"):
        pruning.gradient_moments(loss, params(), [])
