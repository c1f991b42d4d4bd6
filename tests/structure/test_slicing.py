"""Slices, zeros and the way back: of params, and of what an optimiser knows of them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tsjax import structure, trees

X = jnp.asarray(np.random.default_rng(0).normal(size=(8, 4)), jnp.float32)
Y = jnp.asarray(np.random.default_rng(1).normal(size=(8, 3)), jnp.float32)


def normal(shapes, seed=0):
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(rng.normal(size=s), jnp.float32) for name, s in shapes.items()}


def planned(fn, params, x=X, **keep):
    groups = structure.find_groups(fn, params, x)
    named = {
        groups.on(path, int(axis))[0].name: units
        for (path, axis), units in ((key.rsplit("_", 1), units) for key, units in keep.items())
    }
    return structure.plan(groups, params, keep=named)


def mlp(params, x):
    h = jax.nn.relu(x @ params["up"] + params["bias"][None])
    return h @ params["down"]


MLP = normal({"up": (4, 6), "bias": (6,), "down": (6, 3)})
PLAN = planned(mlp, MLP, up_1=[0, 2, 5])


def heads(params, x):
    h = jnp.tanh(jnp.einsum("bd,dhe->bhe", x, params["q"]))
    return h.reshape(len(x), -1) @ params["out"]


def halves(params, x):
    h, at = x @ params["both"], params["first"].shape[0]
    return jnp.tanh(h[:, :at]) @ params["first"] + jax.nn.relu(h[:, at:]) @ params["second"]


def pairs(params, x):
    h = x @ params["w"]
    return (h[:, :, None] * h[:, None, :]).reshape(len(x), -1) @ params["out"]


def picked(params, x):
    """Reads columns of its input that an integer leaf names."""
    return x[:, params["index"]] @ params["w"]


KINDS = {
    "mlp": (mlp, MLP, PLAN),
    "product": (
        heads,
        HEADS := normal({"q": (4, 3, 2), "out": (6, 3)}),
        planned(heads, HEADS, q_1=[0, 2], q_2=[1]),
    ),
    "sum": (
        halves,
        HALVES := normal({"both": (4, 7), "first": (3, 3), "second": (4, 3)}),
        planned(halves, HALVES, first_0=[2], second_0=[0, 3]),
    ),
    "double": (
        pairs,
        PAIRS := normal({"w": (4, 3), "out": (9, 3)}),
        planned(pairs, PAIRS, w_1=[0, 2]),
    ),
}
each_kind = pytest.mark.parametrize("kind", KINDS)


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


# What is cut.


def test_slices_by_hand():
    small = structure.slice(MLP, PLAN)
    at = np.array([0, 2, 5])
    assert_equal(small, {"up": MLP["up"][:, at], "bias": MLP["bias"][at], "down": MLP["down"][at]})


def test_a_product_axis_by_hand():
    _, params, plan = KINDS["product"]
    small = structure.slice(params, plan)
    np.testing.assert_array_equal(small["q"], np.asarray(params["q"])[:, [0, 2]][:, :, [1]])
    # Rows of `out`: head 0 has 0 and 1, head 2 has 4 and 5; of each the second one.
    np.testing.assert_array_equal(small["out"], np.asarray(params["out"])[[1, 5]])


def test_a_sum_axis_by_hand():
    _, params, plan = KINDS["sum"]
    small = structure.slice(params, plan)
    np.testing.assert_array_equal(small["both"], np.asarray(params["both"])[:, [2, 3, 6]])
    np.testing.assert_array_equal(small["first"], np.asarray(params["first"])[[2]])


def test_a_double_member_by_hand():
    _, params, plan = KINDS["double"]
    small = structure.slice(params, plan)
    # Pairs of units 0 and 2: (0, 0), (0, 2), (2, 0), (2, 2) of three by three.
    np.testing.assert_array_equal(small["out"], np.asarray(params["out"])[[0, 2, 6, 8]])


@each_kind
def test_cut_and_zeroed_units_are_the_same_function(kind):
    fn, params, plan = KINDS[kind]
    small, zeroed = structure.slice(params, plan), structure.zero(params, plan)
    np.testing.assert_allclose(fn(small, X), fn(zeroed, X), rtol=1e-5, atol=1e-5)
    assert np.abs(fn(params, X) - fn(zeroed, X)).max() > 1e-2


@each_kind
def test_the_way_back_gives_zeros_where_units_were(kind):
    _, params, plan = KINDS[kind]
    small, zeroed = structure.slice(params, plan), structure.zero(params, plan)
    back = structure.scatter(small, plan)
    assert_equal(back, zeroed)
    assert trees.size(small) < trees.size(back) == trees.size(params)
    # And forth again.
    assert_equal(structure.slice(back, plan), small)
    assert_equal(structure.slice(zeroed, plan), small)


def test_zeros_are_where_a_unit_is_cut_and_nowhere_else():
    zeroed = structure.zero(MLP, PLAN)
    cut = np.array([1, 3, 4])
    assert (np.asarray(zeroed["up"])[:, cut] == 0).all()
    assert sum(int((leaf == 0).sum()) for leaf in zeroed.values()) == 3 * (4 + 1 + 3)


@each_kind
def test_originals_stay_as_they_are(kind):
    _, params, plan = KINDS[kind]
    arrays = jax.tree.map(np.array, params)
    small = structure.slice(arrays, plan)
    structure.zero(arrays, plan)
    structure.scatter(small, plan)
    assert_equal(arrays, params)


@pytest.mark.parametrize("way", [structure.slice, structure.zero])
def test_results_share_no_memory_that_changes(way):
    arrays = jax.tree.map(np.array, MLP)
    result = way(arrays, PLAN)
    arrays["up"][:] = 7
    assert (result["up"] != 7).all()


def test_a_plan_that_cuts_nothing_changes_nothing():
    plan = planned(mlp, MLP, up_1=range(6))
    for way in (structure.slice, structure.zero, structure.scatter):
        assert_equal(way(MLP, plan), MLP)


# Kinds of leaves.


def test_kinds_of_arrays_stay():
    mixed = {
        "up": np.asarray(MLP["up"]),
        "bias": MLP["bias"],
        "down": jax.ShapeDtypeStruct((6, 3), "bfloat16"),
    }
    small = structure.slice(mixed, PLAN)
    assert type(small["up"]) is np.ndarray
    assert isinstance(small["bias"], jax.Array)
    assert small["down"] == jax.ShapeDtypeStruct((3, 3), "bfloat16")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "complex64", "int8", "bool"])
def test_dtypes_stay(dtype):
    params = jax.tree.map(lambda w: (10 * w).astype(dtype), MLP)
    small = structure.slice(params, PLAN)
    assert {leaf.dtype for leaf in small.values()} == {jnp.dtype(dtype)}
    np.testing.assert_array_equal(small["bias"], params["bias"][np.array([0, 2, 5])])
    back = structure.scatter(small, PLAN)
    assert {leaf.dtype for leaf in back.values()} == {jnp.dtype(dtype)}


@each_kind
def test_traced_arrays_stay_traced(kind):
    _, params, plan = KINDS[kind]
    for way in (structure.slice, structure.zero):
        assert_equal(jax.jit(lambda tree, way=way: way(tree, plan))(params), way(params, plan))
    small = structure.slice(params, plan)
    assert_equal(
        jax.jit(lambda tree: structure.scatter(tree, plan))(small),
        structure.scatter(small, plan),
    )


def test_gradients_pass_through_a_slice():
    gradients = jax.grad(lambda p: mlp(structure.slice(p, PLAN), X).sum())(MLP)
    alone = jax.grad(lambda p: mlp(p, X).sum())(structure.slice(MLP, PLAN))
    assert_equal(gradients, structure.scatter(alone, PLAN))


def test_masks_are_cut_along():
    masks = jax.tree.map(lambda w: np.asarray(w) > 0, MLP)
    small = structure.slice(masks, PLAN)
    assert {leaf.dtype for leaf in small.values()} == {np.dtype(bool)}
    assert_equal(small, jax.tree.map(lambda w: np.asarray(w) > 0, structure.slice(MLP, PLAN)))


def test_indices_are_cut_but_not_zeroed():
    params = {"index": jnp.array([3, 1, 2, 1]), **normal({"w": (4, 3)})}
    plan = planned(picked, params, w_0=[1, 3])
    small, zeroed = structure.slice(params, plan), structure.zero(params, plan)
    np.testing.assert_array_equal(small["index"], [1, 1])
    np.testing.assert_array_equal(zeroed["index"], params["index"])
    np.testing.assert_allclose(picked(small, X), picked(zeroed, X), rtol=1e-6)
    np.testing.assert_array_equal(structure.scatter(small, plan)["index"], [0, 1, 0, 1])


# Optimisers.

SCHEDULE = optax.exponential_decay(1e-2, 5, 0.9)
OPTIMISERS = {
    "sgd": optax.sgd(1e-2),
    "momentum": optax.sgd(1e-2, momentum=0.9),
    "adam": optax.adam(1e-2),
    "adamw": optax.adamw(SCHEDULE, weight_decay=1e-2),
    "clipped": optax.chain(optax.clip(0.5), optax.adam(SCHEDULE)),
    "average": optax.chain(optax.adam(1e-2), optax.ema(0.9)),
    "accumulating": optax.MultiSteps(optax.adam(1e-2), 2),
    "injected": optax.inject_hyperparams(optax.adam)(1e-2),
    "masked": optax.chain(
        optax.masked(optax.trace(0.5), {"up": True, "bias": False, "down": True}),
        optax.scale(-1e-3),
    ),
    "partitioned": optax.partition(
        {"a": optax.adam(1e-2), "b": optax.sgd(1e-2)}, {"up": "a", "bias": "b", "down": "a"}
    ),
    "masked in part": optax.chain(
        optax.masked(optax.trace(0.9), {"up": True, "bias": False, "down": True}),
        optax.adam(1e-2),
    ),
}


def loss(params):
    return jnp.mean((mlp(params, X) - Y) ** 2)


def trained(optimiser, params, state, steps, kept=None):
    """Params, state and losses after some steps, in which only what is kept may move."""

    @jax.jit
    def step(params, state):
        value, gradients = jax.value_and_grad(loss)(params)
        if kept is not None:
            gradients = jax.tree.map(jnp.multiply, gradients, kept)
        updates, state = optimiser.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, value

    losses = []
    for _ in range(steps):
        params, state, value = step(params, state)
        losses.append(float(value))
    return params, state, losses


@pytest.mark.parametrize("name", OPTIMISERS)
def test_training_goes_on_as_that_of_the_zeroed_model(name):
    """With the state cut along, too: as if the units had only been held at zero."""
    optimiser = OPTIMISERS[name]
    params, state, _ = trained(optimiser, MLP, optimiser.init(MLP), 5)
    kept = structure.zero(jax.tree.map(jnp.ones_like, MLP), PLAN)
    # As one tree, of which some optimisers' state has no part to cut.
    zeroed, _, want = trained(optimiser, *structure.zero((params, state), PLAN), 8, kept)
    cut, _, got = trained(optimiser, *structure.slice((params, state), PLAN), 8)
    np.testing.assert_allclose(got, want, rtol=1e-5)
    assert got[-1] < got[0]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        structure.scatter(cut, PLAN),
        zeroed,
    )


def test_a_fresh_state_is_that_of_the_cut_params():
    for name in ("adam", "clipped", "accumulating", "masked", "partitioned", "masked in part"):
        optimiser = OPTIMISERS[name]
        cut = structure.slice(optimiser.init(MLP), PLAN)
        assert_equal(cut, optimiser.init(structure.slice(MLP, PLAN)))


def test_what_is_not_like_params_stays():
    state = {"weights": MLP, "step": 3, "rate": jnp.ones(6), "note": "fine", "none": None}
    small = structure.slice(state, PLAN)
    assert_equal(small["weights"], structure.slice(MLP, PLAN))
    assert (small["step"], small["note"], small["none"]) == (3, "fine", None)
    assert small["rate"].shape == (6,)


def test_states_whose_leaves_have_other_shapes_are_refused():
    """Adafactor keeps rows and columns: which of its leaves is cut how, only it could say."""
    optimiser = optax.adafactor(1e-2, min_dim_size_to_factor=2)
    message = r"leaves of other shapes than the plan's:\n  \S+: \(\d*,\), not "
    with pytest.raises(ValueError, match=message) as error:
        structure.slice(optimiser.init(MLP), PLAN)
    assert all(f"  {path}: " in str(error.value) for path in ("down", "up"))


def test_labels_of_leaves_stay():
    labels = {"up": "fast", "bias": "slow", "down": "fast"}
    assert structure.slice((MLP, labels), PLAN)[1] == labels
    with pytest.raises(ValueError, match="no part of the tree has the structure of params"):
        structure.slice(labels, PLAN)


# What is refused.


@pytest.mark.parametrize("way", [structure.slice, structure.zero, structure.scatter])
def test_other_trees_are_refused(way):
    with pytest.raises(ValueError, match="no part of the tree has the structure of params"):
        way({"up": MLP["up"]}, PLAN)
    with pytest.raises(ValueError, match="no part of the tree has the structure of params"):
        way((), PLAN)


def test_other_shapes_are_refused_all_at_once():
    small = structure.slice(MLP, PLAN)
    for way, tree in ((structure.slice, small), (structure.zero, small), (structure.scatter, MLP)):
        with pytest.raises(ValueError, match="leaves of other shapes than the plan's") as error:
            way(tree, PLAN)
        lines = str(error.value).splitlines()[1:]
        full, cut = [(4, 6), (6,), (6, 3)], [(4, 3), (3,), (3, 3)]
        have, want = (full, cut) if way is structure.scatter else (cut, full)
        expected = zip(("up", "bias", "down"), have, want, strict=True)
        assert sorted(lines) == sorted(f"  {p}: {h}, not {w}" for p, h, w in expected)


def test_params_that_are_one_array():
    groups = structure.find_groups(lambda w, x: (x @ w).sum(), jnp.ones((4, 5)), X)
    (group,) = groups.free
    plan = structure.plan(groups, jnp.ones((4, 5)), keep={group.name: [1, 2]})
    w = jnp.arange(20.0).reshape(4, 5)
    np.testing.assert_array_equal(structure.slice(w, plan), w[:, 1:3])


def test_random_keys_among_params():
    params = {"w": jnp.ones((4, 3, 2)), "keys": jax.random.split(jax.random.key(0), 4)}

    def run(params, x):
        noise = jax.vmap(lambda key: jax.random.normal(key, (2,)))(params["keys"])
        return jnp.mean(jnp.einsum("bi,nio->nbo", x, params["w"]) + noise[:, None], axis=0)

    groups = structure.find_groups(run, params, jnp.ones((5, 3)))
    plan = structure.plan(groups, params, keep={"w:0": [0, 2]})
    small = structure.slice(params, plan)
    assert jnp.array_equal(
        jax.random.key_data(small["keys"]), jax.random.key_data(params["keys"])[::2]
    )
    full = structure.scatter(small, plan)
    assert full["keys"].shape == (4,)
    assert jnp.array_equal(
        jax.random.key_data(full["keys"])[2], jax.random.key_data(params["keys"])[2]
    )
