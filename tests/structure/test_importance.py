"""Scores of units, against numbers by hand and against the loss itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from forecasters import batch, drawn

from tsjax import models, structure, trees

X = jnp.asarray(np.random.default_rng(0).normal(size=(5, 2)), jnp.float32)


def mlp(params, x):
    return jax.nn.relu(x @ params["up"] + params["bias"][None]) @ params["down"]


# Three hidden units: the columns of `up`, the elements of `bias`, the rows of `down`.
MLP = {
    "up": jnp.array([[1.0, -2.0, 0.0], [2.0, 0.0, 3.0]]),
    "bias": jnp.array([2.0, -1.0, 0.0]),
    "down": jnp.array([[3.0], [4.0], [-1.0]]),
}
GROUPS = structure.find_groups(mlp, MLP, X)
NAME = "up:1"


def scores(importance, groups=GROUPS, params=MLP):
    """Of the only free group."""
    (found,) = importance(groups.free, params).values()
    return found


def near(got, want, rtol=1e-6):
    assert np.asarray(got).shape == np.shape(want)
    np.testing.assert_allclose(got, want, rtol=rtol)


# Norms. By member, in the order bias, down, up: the squares are
# [4, 1, 0], [9, 16, 1] and [5, 4, 9]; the absolute values [2, 1, 0], [3, 4, 1] and [3, 2, 3].

L1 = np.array([2 + 3 + 3, 1 + 4 + 2, 0 + 1 + 3])
L2 = np.sqrt([4 + 9 + 5, 1 + 16 + 4, 0 + 1 + 9])


def test_norms_of_units():
    near(scores(structure.norm(1, scale="none")), L1)
    near(scores(structure.norm(2, scale="none")), L2)
    near(scores(structure.norm(scale="none")), L2)
    cubes = [8 + 27 + 1 + 8, 1 + 64 + 8, 0 + 1 + 27]
    near(scores(structure.norm(3, scale="none")), np.cbrt(cubes))


@pytest.mark.parametrize(
    ("members", "want"),
    [
        ("sum", [2 + 3 + 3, 1 + 4 + 2, 0 + 1 + 3]),
        ("mean", [8 / 3, 7 / 3, 4 / 3]),
        ("max", [3, 4, 3]),
        ("product", [2 * 3 * 3, 1 * 4 * 2, 0]),
    ],
)
def test_norms_of_members(members, want):
    near(scores(structure.norm(1, members=members, scale="none")), want)


def test_members_have_a_norm_each():
    each = np.sqrt([[4, 1, 0], [9, 16, 1], [5, 4, 9]])
    near(scores(structure.norm(2, members="sum", scale="none")), each.sum(0))


@pytest.mark.parametrize(
    ("scale", "divisor"), [("none", 1), ("mean", 19 / 3), ("max", 8), ("sum", 19)]
)
def test_scales(scale, divisor):
    near(scores(structure.norm(1, scale=scale)), L1 / divisor)


def test_l1_and_l2_are_norms_over_their_mean():
    near(scores(structure.l1), L1 / L1.mean())
    near(scores(structure.l2), L2 / L2.mean())


def test_a_group_of_zeros_has_scores_of_zero():
    zeros = jax.tree.map(jnp.zeros_like, MLP)
    for scale in ("none", "mean", "max", "sum"):
        near(scores(structure.norm(scale=scale), params=zeros), [0, 0, 0])


def heads(params, x):
    q = jnp.einsum("bd,dhe->bhe", x, params["q"])
    return jnp.tanh(q).reshape(len(x), -1) @ params["out"]


def test_units_of_a_product_axis():
    """Rows 0 and 1 of `out` are those of head 0, rows 2 and 3 those of head 1."""
    params = {
        "q": jnp.array([[[1.0, 2.0], [3.0, -4.0]], [[0.0, 0.0], [0.0, 1.0]]]),
        "out": jnp.array([[1.0], [-1.0], [5.0], [7.0]]),
    }
    groups = structure.find_groups(heads, params, X)
    found = structure.norm(1, scale="none")(groups.free, params)
    by_axis = {at: found[groups.on("q", at)[0].name] for at in (1, 2)}
    near(by_axis[1], [(1 + 2) + (1 + 1), (3 + 4 + 1) + (5 + 7)])
    near(by_axis[2], [(1 + 3) + (1 + 5), (2 + 4 + 1) + (1 + 7)])


def test_places_of_no_unit_do_not_count():
    def run(params, x):
        h = x @ params["both"]
        at = params["a"].shape[0]
        return h[:, :at] @ params["a"] + jnp.tanh(h[:, at:]) @ params["b"]

    params = {
        "both": jnp.array([[1.0, 2.0, 30.0], [0.0, 1.0, 40.0]]),
        "a": jnp.array([[1.0], [1.0]]),
        "b": jnp.array([[50.0]]),
    }
    groups = structure.find_groups(run, params, X)
    (group,) = groups.on("a", 0)
    found = structure.norm(1, scale="none")(groups.free, params)
    near(found[group.name], [1 + 1, 3 + 1])


def test_integers_are_no_weights():
    def run(params, x):
        return (x[:, params["index"]] * params["scale"][None]).sum(1)

    params = {"index": jnp.array([1, 0, 1]), "scale": jnp.array([1.0, -2.0, 3.0])}
    groups = structure.find_groups(run, params, X)
    near(scores(structure.norm(1, scale="none"), groups, params), [1, 2, 3])


def test_a_group_without_weights_has_scores_of_zero():
    params = {"index": jnp.array([1, 0, 1])}
    groups = structure.find_groups(lambda p, x: x[:, p["index"]].sum(1), params, X)
    near(scores(structure.l2, groups, params), [0, 0, 0])


def test_complex_and_narrow_weights():
    def run(params, x):
        return ((x @ params["a"]) @ params["b"]).real

    values = {"a": [[3 + 4j, 1], [0, 1j]], "b": [[2], [2j]]}
    params = {name: jnp.asarray(value, "complex64") for name, value in values.items()}
    groups = structure.find_groups(run, params, X)
    near(scores(structure.norm(1, scale="none"), groups, params), [5 + 2, 1 + 1 + 2])
    narrow = jax.tree.map(lambda w: (2 * w).astype("bfloat16"), MLP)
    groups = structure.find_groups(mlp, narrow, X.astype("bfloat16"))
    near(scores(structure.norm(1, scale="none"), groups, narrow), 2 * L1)
    # Far beyond what float16 can add up.
    large = jax.tree.map(lambda w: jnp.full(w.shape, 300.0, "float16"), MLP)
    near(scores(structure.norm(2, scale="none"), params=large), [600] * 3)


# Gradients.


def loss(params, x, y):
    return jnp.mean((mlp(params, x) - y) ** 2)


def random_mlp(seed=0, width=3):
    rng = np.random.default_rng(seed)
    shapes = {"up": (2, width), "bias": (width,), "down": (width, 1)}
    return {name: jnp.asarray(rng.normal(size=s), jnp.float32) for name, s in shapes.items()}


def test_taylor_by_hand():
    gradients = jax.tree.map(lambda w: jnp.full(w.shape, 2.0), MLP)
    # 2 |sum of the weights|: 1 + 2 + 2 + 3, -2 + 0 - 1 + 4 and 0 + 3 + 0 - 1.
    near(scores(structure.taylor(gradients, scale="none")), [16, 2, 4])
    near(scores(structure.taylor(gradients)), np.array([16, 2, 4]) / (22 / 3))


def test_fisher_by_hand():
    squares = jax.tree.map(lambda w: jnp.full(w.shape, 3.0), MLP)
    near(scores(structure.fisher(squares, scale="none")), 3 * L2**2 / 2)
    near(scores(structure.fisher(squares)), L2**2 / (L2**2).mean())


def test_taylor_is_the_change_of_the_loss_to_first_order():
    """Of small units: the rest is of second order, a hundredth where they are ten times smaller."""
    params, y = random_mlp(), jnp.ones((5, 1))
    errors = []
    for small in (1e-2, 1e-3):
        # Only the rows of `down` are small; without one, its unit has no effect.
        weak = {**params, "down": small * params["down"]}
        only = {"down": jax.grad(loss)(weak, X, y)["down"]}
        only |= {name: jnp.zeros_like(params[name]) for name in ("up", "bias")}
        estimated = scores(structure.taylor(only, scale="none"), params=weak)
        true = []
        for unit in range(3):
            keep = {NAME: [i for i in range(3) if i != unit]}
            zeroed = structure.zero(weak, structure.plan(GROUPS, weak, keep=keep))
            with jax.enable_x64(True):
                wide = [
                    loss(*jax.tree.map(lambda a: np.asarray(a, np.float64), (p, X, y)))
                    for p in (zeroed, weak)
                ]
                true.append(abs(float(wide[0] - wide[1])))
        assert max(true) > small / 10
        errors.append(np.abs(np.array(true) - estimated).max())
    assert errors[1] < errors[0] / 50


def test_taylor_of_complex_weights():
    """A linear loss changes by exactly what the first order says."""

    def run(params, x):
        return (x * params["w"]).sum() * (2 - 3j)

    params = {"w": jnp.array([1 + 2j, 3j, -4])}
    x = jnp.ones(())
    groups = structure.find_groups(run, params, x)
    gradients = jax.grad(lambda p: run(p, x).real)(params)
    # Without w, Re (2 - 3i) w goes: 2 Re w + 3 Im w.
    near(scores(structure.taylor(gradients, scale="none"), groups, params), [8, 9, 8])
    squares = jax.tree.map(lambda g: jnp.abs(g) ** 2, gradients)
    # 13 |w|^2 / 2.
    near(scores(structure.fisher(squares, scale="none"), groups, params), [32.5, 58.5, 104])


@pytest.mark.parametrize("make", [structure.taylor, structure.fisher])
def test_trees_of_another_structure_are_refused(make):
    name = "gradients" if make is structure.taylor else "squares"
    short = {key: MLP[key] for key in ("up", "bias")}
    with pytest.raises(ValueError, match=rf"{name} does not match params:\n  down: missing"):
        scores(make(short))
    wide = {**MLP, "bias": jnp.zeros(4)}
    with pytest.raises(ValueError, match=rf"bias: {name} has shape \(4,\), params \(3,\)"):
        scores(make(wide))


@pytest.mark.parametrize("order", [0, -1, float("nan")])
def test_orders_are_positive(order):
    with pytest.raises(ValueError, match=f"order must be a positive number, got {order}"):
        structure.norm(order)


@pytest.mark.parametrize(
    "make",
    [
        lambda: structure.norm(scale="meen"),
        lambda: structure.taylor(MLP, scale="meen"),
        lambda: structure.fisher(MLP, scale="meen"),
        lambda: structure.activation(GROUPS, X, scale="meen"),
    ],
    ids=["norm", "taylor", "fisher", "activation"],
)
def test_unknown_scales_are_refused(make):
    message = r"scale is 'meen' \(did you mean 'mean'\?\): use one of none, mean, max, sum"
    with pytest.raises(ValueError, match=message):
        make()


def test_unknown_members_are_refused():
    message = "members is 'min': use one of joint, sum, mean, max, product"
    with pytest.raises(ValueError, match=message):
        structure.norm(members="min")


# Random.


def test_random_scores_are_those_of_the_seed():
    groups = structure.find_groups(mlp, random_mlp(width=500), X)
    first, again, other = (
        scores(structure.random(seed), groups, random_mlp(width=500)) for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).all()
    assert first.min() >= 0
    assert first.max() < 1
    assert 0.4 < first.mean() < 0.6


# Activations.


def hidden(params, x):
    return np.maximum(np.asarray(x) @ np.asarray(params["up"]) + np.asarray(params["bias"]), 0)


@pytest.mark.parametrize("scale", ["mean", "sum"])
def test_activations_of_an_mlp(scale):
    params = random_mlp(1)
    want = np.abs(hidden(params, X)).mean(0)
    got = scores(structure.activation(GROUPS, X, scale=scale), params=params)
    near(got, want / getattr(want, scale)(), 1e-5)


def layer(params, x):
    return jax.nn.relu(x @ params["up"] + params["bias"][None])


WRAPPED = {
    "jit": lambda p, x: jax.jit(mlp)(p, x),
    "checkpoint": lambda p, x: jax.checkpoint(mlp)(p, x),
    "vmap": lambda p, x: jax.vmap(lambda row: mlp(p, row[None]))(x),
    "inner jit": lambda p, x: jax.jit(layer)(p, x) @ p["down"],
    "custom_jvp": lambda p, x: jax.nn.relu(layer(p, x)) @ p["down"],
}


@pytest.mark.parametrize("name", WRAPPED)
def test_activations_inside_of_calls(name):
    params = random_mlp(1)
    groups = structure.find_groups(WRAPPED[name], params, X)
    want = np.abs(hidden(params, X)).mean(0)
    near(scores(structure.activation(groups, X), groups, params), want / want.mean(), 1e-5)


def test_activations_of_a_loop_are_what_goes_in_and_comes_out():
    """What is multiplied within a scan cannot be seen: values that have the axis stand for it."""

    def run(params, x):
        def turn(h, x_t):
            h = jnp.tanh(x_t @ params["up"] + h * params["bias"])
            return h, h

        _, hs = jax.lax.scan(turn, jnp.zeros(params["bias"].shape), x)
        return hs.sum()

    params = random_mlp(1)
    params.pop("down")
    groups = structure.find_groups(run, params, X)
    h, hs = np.zeros(3), []
    for row in np.asarray(X):
        h = np.tanh(row @ np.asarray(params["up"]) + h * np.asarray(params["bias"]))
        hs.append(h)
    each = np.abs([h, np.abs(hs).mean(0)])
    # The last state and all of them, each over its mean.
    want = (each / each.mean(1, keepdims=True)).mean(0)
    near(scores(structure.activation(groups, X), groups, params), want / want.mean(), 1e-4)


def test_places_that_read_a_unit_count_alike():
    """Two products read the hidden units, one of them a hundred times as large values."""

    def run(params, x):
        h = x @ params["up"]
        return h @ params["down"] + (100 * h**2) @ params["down"]

    params = random_mlp(1)
    params.pop("bias")
    groups = structure.find_groups(run, params, X)
    h = np.asarray(X) @ np.asarray(params["up"])
    each = [np.abs(h).mean(0), (100 * h**2).mean(0)]
    want = np.mean([site / site.mean() for site in each], axis=0)
    near(scores(structure.activation(groups, X), groups, params), want / want.mean(), 1e-5)


def test_activations_of_heads():
    """Of heads and widths the other axes are averaged away."""
    params = {"q": random_mlp(2, 6)["up"].reshape(2, 2, 3), "out": random_mlp(3, 6)["down"]}
    groups = structure.find_groups(heads, params, X)
    found = structure.activation(groups, X)(groups.free, params)
    q = np.abs(np.tanh(np.einsum("bd,dhe->bhe", X, params["q"]))).mean(0)
    near(found[groups.on("q", 1)[0].name], q.mean(1) / q.mean(), 1e-5)
    near(found[groups.on("q", 2)[0].name], q.mean(0) / q.mean(), 1e-5)


def test_weights_judge_what_no_input_reaches():
    """As Crossformer's routers: queries that are params."""

    def run(params, x):
        queries = params["router"] @ params["query"]
        weights = jax.nn.softmax(queries @ x.T)
        return (weights @ x).sum(0)

    rng = np.random.default_rng(0)
    params = {
        "router": jnp.asarray(rng.normal(size=(4, 3)), jnp.float32),
        "query": jnp.asarray(rng.normal(size=(3, 2)), jnp.float32),
    }
    groups = structure.find_groups(run, params, X)
    found = structure.activation(groups, X)(groups.free, params)
    width = np.abs(params["router"]).mean(0)
    own = np.abs(params["query"]).mean(1)
    want = (width / width.mean() + own / own.mean()) / 2
    near(found[groups.on("router", 1)[0].name], want / want.mean(), 1e-5)


@pytest.mark.long
def test_crossformers_routers_have_activations():
    sizes = {"enc_in": 3, "dec_in": 3, "c_out": 3, "seq_len": 6, "label_len": 0, "pred_len": 3}
    sizes |= {"seg_len": 3, "d_model": 4, "n_heads": 2, "d_ff": 4, "e_layers": 1, "factor": 3}
    config = models.config("crossformer", **sizes)
    forecaster, inputs = drawn(config, scale=1.0), batch(config)
    groups = structure.find_groups(models.forecast, forecaster, *inputs)
    found = structure.activation(groups, *inputs)(groups.free, forecaster)
    assert set(found) == {group.name for group in groups.free}
    routers = [path for path in trees.paths(forecaster) if path.endswith("router")]
    for path in routers:
        for axis in (1, 2):
            (group,) = groups.on(path, axis)
            each = found[group.name]
            assert np.isfinite(each).all()
            assert len(set(each.tolist())) == group.size
            near(each.mean(), 1.0, 1e-5)


def test_a_group_without_activations_is_refused():
    params = {**MLP, "unused": jnp.ones(5)}
    groups = structure.find_groups(mlp, params, X)
    message = r"no value has an axis of \S+: choose another importance, or ignore it"
    with pytest.raises(ValueError, match=message):
        structure.activation(groups, X)(groups, params)
    assert list(structure.activation(groups, X)(groups.free, params)) == [NAME]
