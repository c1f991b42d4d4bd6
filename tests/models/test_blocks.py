"""Blocks that several models share: embedding, dropout, attention."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tsjax.models.dropout import Dropout, random_words
from tsjax.models.layers import DataEmbedding, attend


@pytest.mark.parametrize("embed", ["fixed", "learned"])
def test_marks_beyond_those_embedded_are_ignored_and_fewer_refused(embed):
    layer = DataEmbedding(4, embed, "h", 0.0, None)
    x, marks = jnp.ones((1, 3, 2)), jnp.ones((1, 3, 5))
    variables = layer.init(jax.random.key(0), x, marks[..., :4], train=False)
    run = functools.partial(layer.apply, variables, x, train=False)
    np.testing.assert_array_equal(run(marks), run(marks[..., :4]))
    assert run(marks).dtype == jnp.float32
    half = jax.tree.map(lambda w: w.astype(jnp.bfloat16), variables["params"])
    y = layer.apply({**variables, "params": half}, x.astype(jnp.bfloat16), marks, train=False)
    assert y.dtype == jnp.bfloat16
    with pytest.raises(ValueError, match=r"needs 4 mark columns .*, got 3"):
        run(marks[..., :3])


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


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_attention_over_many_steps_does_not_overflow_short_floats(dtype):
    q, v = jnp.zeros((1, 800, 1, 2), dtype), jnp.full((1, 800, 1, 2), 200, dtype)
    context = jax.jit(attend)(q, q, v)
    assert context.dtype == dtype
    np.testing.assert_array_equal(context, 200)


@pytest.mark.parametrize("count", [1, 2, 7, 4096])
def test_random_words_are_those_of_jax(count):
    key = jax.random.key(3)
    with jax.threefry_partitionable(False):
        expected = jax.random.bits(key, (count,), jnp.uint32)
    assert np.array_equal(random_words(key, count), expected)
    assert np.array_equal(random_words(jax.random.key_data(key), count), expected)


def test_random_words_depend_on_all_of_a_longer_key():
    keys = jax.random.split(jax.random.key(0, impl="rbg"), 3)
    drawn = {tuple(np.asarray(random_words(key, 4))) for key in keys}
    assert len(drawn) == 3


def test_random_words_are_the_same_for_a_key_among_several():
    keys = jax.random.split(jax.random.key(0), 3)
    together = jax.vmap(lambda key: random_words(key, 5))(keys)
    assert np.array_equal(together, [random_words(key, 5) for key in keys])


def test_dropout_is_off_at_rate_zero_and_in_evaluation():
    x = jnp.ones((2, 3))
    assert Dropout(0.0).apply({}, x, train=True) is x
    assert Dropout(0.5).apply({}, x, train=False) is x
