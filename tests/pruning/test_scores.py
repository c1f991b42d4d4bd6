"""Every criterion's scores, and the masks that follow from them, by hand."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tsjax import pruning

CRITERIA = ("magnitude", "saliency", "snip", "fisher", "movement", "wanda")

# One layer [in, out]: weights, gradients, mean squared gradients, sums of squared inputs.
WEIGHTS = [[2.0, -1.0], [0.5, 4.0]]
GRADIENTS = [[0.5, -3.0], [-2.0, 0.0]]
SQUARES = [[9.0, 1.0], [4.0, 0.25]]
INPUTS = [[16.0, 16.0], [400.0, 400.0]]


def tree(values, dtype=jnp.float32):
    return {"layer": {"kernel": jnp.asarray(values, dtype)}}


def score(criterion, w=WEIGHTS, g=GRADIENTS, f=SQUARES, x=INPUTS, like=tree):
    """Scores of one criterion, from what each of them needs."""
    second = {"magnitude": None, "fisher": f, "wanda": x}.get(criterion, g)
    more = () if second is None else (like(second),)
    return getattr(pruning, criterion)(like(w), *more)


def everything(path, leaf):
    return True


@pytest.mark.parametrize(
    ("criterion", "scores", "mask"),
    [
        ("magnitude", [[2, 1], [0.5, 4]], [[1, 0], [0, 1]]),
        ("saliency", [[1, 3], [1, 0]], [[1, 1], [0, 0]]),
        ("snip", [[0.2, 0.6], [0.2, 0]], [[1, 1], [0, 0]]),
        ("fisher", [[18, 0.5], [0.5, 2]], [[1, 0], [0, 1]]),
        ("movement", [[-1, -3], [1, 0]], [[0, 0], [1, 1]]),
        ("wanda", [[8, 4], [10, 80]], [[0, 0], [1, 1]]),
    ],
)
def test_scores_and_the_half_that_is_kept(criterion, scores, mask):
    got = score(criterion)
    np.testing.assert_allclose(got["layer"]["kernel"], scores, rtol=1e-6)
    kept = pruning.select(got, 0.5)["layer"]["kernel"]
    assert np.asarray(kept).astype(int).tolist() == mask


def test_wanda_within_each_output():
    scores = pruning.wanda(tree([[3.0, -1.0], [2.0, 4.0]]), tree([[16.0, 16.0], [1.0, 1.0]]))
    assert scores["layer"]["kernel"].tolist() == [[12, 4], [2, 4]]
    kept = pruning.select(scores, 0.5, pattern=pruning.Within(-1))["layer"]["kernel"]
    assert kept.tolist() == [[True, True], [False, False]]


# w = 3 - 4i and g = 1 + 2i: |w| = 5, |g|^2 = 5, Re(w g) = 11.
@pytest.mark.parametrize(
    ("criterion", "expected"),
    [("magnitude", 5), ("saliency", 5 * 5**0.5), ("snip", 1), ("movement", -11), ("fisher", 62.5)],
)
def test_a_complex_weight_has_one_score(criterion, expected):
    number = score(criterion, w=[3 - 4j], g=[1 + 2j], f=[5.0], like=jnp.asarray)
    assert number.dtype == jnp.float32
    np.testing.assert_allclose(number, [expected], rtol=1e-6)

    def pair(parts):
        return {"real": jnp.asarray([parts[0]]), "imag": jnp.asarray([parts[1]])}

    # JAX's gradient in a complex weight is that in its real part less i times the other.
    scores = score(criterion, w=(3.0, -4.0), g=(1.0, -2.0), f=(1.0, 4.0), like=pair)
    np.testing.assert_allclose(scores["real"], [expected], rtol=1e-6)
    np.testing.assert_array_equal(scores["imag"], scores["real"])


@pytest.mark.parametrize("criterion", ["saliency", "snip", "fisher", "movement"])
def test_pairs_and_complex_numbers_score_alike_under_real_gradients(criterion):
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    pair, x, y = {"real": draw(3, 2), "imag": draw(3, 2)}, draw(4, 3), draw(4, 2)

    def of_number(z):
        return jnp.mean(jnp.square(jnp.abs(jnp.dot(x, z) - y)))

    def of_pair(pair):
        return of_number(jax.lax.complex(pair["real"], pair["imag"]))

    def both(params, loss):
        moments = pruning.gradient_moments(lambda params, _: loss(params), params, [0])
        second = moments.square if criterion == "fisher" else moments.mean
        return getattr(pruning, criterion)(params, second)

    number = jax.lax.complex(pair["real"], pair["imag"])
    expected = both(number, of_number)
    got = both(pair, of_pair)
    np.testing.assert_allclose(got["real"], expected, rtol=1e-5)
    np.testing.assert_allclose(got["imag"], expected, rtol=1e-5)


def test_wanda_takes_the_larger_input_of_a_complex_weight():
    w = {"real": jnp.asarray([3.0, 0.0]), "imag": jnp.asarray([-4.0, 2.0])}
    x = {"real": jnp.asarray([4.0, 9.0]), "imag": jnp.asarray([1.0, 16.0])}
    scores = pruning.wanda(w, x)
    assert scores["real"].tolist() == [10, 8]
    assert scores["imag"].tolist() == [10, 8]


# Single criteria.


def test_magnitude_keeps_dtypes():
    params = {"a": jnp.asarray([-2.0, 0.0, 3.0]), "b": [jnp.asarray(-1.5, jnp.bfloat16)]}
    scores = pruning.magnitude(params)
    assert scores["a"].tolist() == [2, 0, 3]
    assert scores["b"][0] == 1.5
    assert scores["b"][0].dtype == jnp.bfloat16


def test_sensitivities_are_shares_of_the_whole_tree():
    scores = pruning.snip(
        {"a": jnp.asarray([1.0, -2.0]), "b": jnp.asarray([[3.0]])},
        {"a": jnp.asarray([2.0, 1.0]), "b": jnp.asarray([[4.0]])},
    )
    np.testing.assert_allclose(scores["a"], [2 / 16, 2 / 16])
    np.testing.assert_allclose(scores["b"], [[12 / 16]])


def test_sensitivities_count_a_complex_weight_once():
    params = {"f": {"real": jnp.asarray([3.0]), "imag": jnp.asarray([4.0])}, "w": jnp.ones(1)}
    grads = {"f": {"real": jnp.asarray([0.0]), "imag": jnp.asarray([1.0])}, "w": jnp.full(1, 5.0)}
    scores = pruning.snip(params, grads)
    assert scores["f"]["real"] == scores["f"]["imag"] == scores["w"] == 0.5


def test_without_gradients_all_sensitivities_are_zero():
    scores = pruning.snip(tree(WEIGHTS), tree(np.zeros((2, 2))))
    assert not np.any(scores["layer"]["kernel"])


def test_sensitivities_of_many_half_precision_weights():
    ones = [jnp.ones((300, 300), jnp.float16), jnp.ones((), jnp.bfloat16)]
    scores = pruning.snip(ones, ones)
    assert all(leaf.dtype == jnp.float32 for leaf in scores)
    np.testing.assert_allclose(scores[0], np.full((300, 300), 1 / 90001), rtol=1e-5)


def test_movement_adds_up_over_steps_of_training():
    def loss(w):
        return jnp.sum(jnp.square(w - jnp.asarray([4.0, 0.0, -3.0, 0.0])))

    w = start = jnp.asarray([1.0, 2.0, -1.0, -2.0])
    scores, by_hand = None, np.zeros(4)
    for _ in range(3):
        g = jax.grad(loss)(w)
        scores = pruning.movement(w, g, scores)
        by_hand -= np.asarray(w) * np.asarray(g)
        w = w - 0.1 * g
    np.testing.assert_allclose(scores, by_hand, rtol=1e-6)
    # The first and the third weight moved away from zero, the others towards it.
    assert np.sign(scores).tolist() == np.sign(np.abs(w) - np.abs(start)).tolist() == [1, -1] * 2


# The control.


def test_one_key_gives_one_draw_and_another_key_another():
    params = {"a": jnp.ones((4, 5)), "b": jnp.ones((4, 5))}
    first, again = (pruning.random(params, jax.random.key(3)) for _ in range(2))
    other = pruning.random(params, jax.random.key(4))
    chex.assert_trees_all_equal(first, again)
    assert not np.any(first["a"] == other["a"])
    assert not np.any(first["a"] == first["b"])


def test_draws_depend_on_shapes_alone():
    params = {"a": jnp.ones((4, 5)), "b": jnp.ones(3, jnp.complex64)}
    key = jax.random.key(0)
    draws = pruning.random(params, key)
    chex.assert_trees_all_equal(pruning.random(jax.eval_shape(lambda: params), key), draws)
    assert draws["b"].dtype == jnp.float32


def test_draws_are_uniform():
    draws = np.asarray(pruning.random([jnp.zeros((200, 100))], jax.random.key(0))[0])
    assert draws.min() >= 0
    assert draws.max() < 1
    tenths, _ = np.histogram(draws, 10, (0, 1))
    # 2000 in each tenth, with a standard deviation of 42.
    assert np.all(np.abs(tenths - 2000) < 200)


def test_both_parts_of_a_complex_weight_get_one_draw():
    params = {"real": jnp.ones((3, 2)), "imag": jnp.zeros((3, 2)), "w": jnp.ones((3, 2))}
    draws = pruning.random(params, jax.random.key(0))
    np.testing.assert_array_equal(draws["real"], draws["imag"])
    assert not np.any(draws["real"] == draws["w"])


def test_no_leaves_no_scores():
    assert pruning.random({}, jax.random.key(0)) == pruning.magnitude({}) == pruning.snip({}, {})


# Any tree; bad input.


@pytest.mark.parametrize("criterion", CRITERIA)
def test_scores_look_like_the_params(criterion):
    params = [
        {"w": jnp.ones((2, 3), jnp.bfloat16), "empty": jnp.ones((0, 3))},
        (jnp.asarray(2.0), jnp.ones(3, jnp.complex64)),
    ]
    squares = jax.tree.map(jnp.real, params)
    scores = score(criterion, w=params, g=params, f=squares, x=squares, like=lambda leaves: leaves)
    chex.assert_trees_all_equal_shapes(scores, params)
    assert jax.tree.structure(scores) == jax.tree.structure(params)
    assert all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(scores))


@pytest.mark.parametrize("criterion", CRITERIA[1:])
def test_a_second_tree_unlike_the_params_is_refused(criterion):
    params = {"a": jnp.ones(2), "b": jnp.ones((2, 3))}
    second = {"a": jnp.ones(3), "c": jnp.ones(())}
    with pytest.raises(ValueError, match="does not match") as error:
        getattr(pruning, criterion)(params, second)
    assert str(error.value) == (
        "the second tree does not match params:\n"
        "  b: missing from the second tree\n"
        "  c: not in params\n"
        "  a: the second tree has shape (3,), params (2,)"
    )


def test_leaves_that_are_no_arrays_are_named():
    with pytest.raises(ValueError, match="no arrays") as error:
        pruning.magnitude({"act": jnp.tanh, "w": jnp.ones(2), "rate": 0.5})
    assert str(error.value).startswith("these leaves are no arrays: act (")
    assert ", rate (float). Pass only the arrays of a tree" in str(error.value)


def drawn(dtype, size, add=0.0):
    rng = np.random.default_rng(int(-np.log10(size)))
    return {"k": jnp.asarray(add + size * rng.normal(size=(16, 16)), dtype)}


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
@pytest.mark.parametrize(
    ("score", "weight", "other"),
    [
        (pruning.saliency, 0.02, 1e-6),
        (pruning.snip, 0.02, 1e-6),
        (pruning.movement, 0.02, 1e-6),
        (pruning.fisher, 2e-4, 1e-3),
        (pruning.wanda, 2e-4, 1e-5),
    ],
)
def test_small_numbers_of_few_bits_are_scored_as_in_float32(score, dtype, weight, other):
    weights, others = drawn(dtype, weight), drawn(dtype, other)
    if score in (pruning.fisher, pruning.wanda):
        others = jax.tree.map(jnp.abs, others)
    found = score(weights, others)["k"]
    wide = (jax.tree.map(lambda leaf: leaf.astype(jnp.float32), t) for t in (weights, others))
    np.testing.assert_array_equal(found, score(*wide)["k"])
    assert found.dtype == jnp.float32
    assert np.count_nonzero(found) >= np.count_nonzero(weights["k"] * (others["k"] != 0))


def test_a_large_norm_of_the_inputs_does_not_overflow_few_bits():
    weights = {"k": jnp.asarray([[1, 2], [3, 4]], jnp.float16)}
    found = pruning.wanda(weights, {"k": jnp.full((2, 2), 1e10)})["k"]
    np.testing.assert_allclose(found, 1e5 * np.asarray([[1, 2], [3, 4]]), rtol=1e-6)
