"""A forecaster is one tree: groups, plans, slices and compaction of it, and of what is like it."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tsjax import costs, pruning, structure, trees
from tsjax.forecaster import Forecaster, forecast

B, L, C, D, H = 4, 5, 3, 6, 8
X = jnp.asarray(np.random.default_rng(0).normal(size=(B, L, C)), jnp.float32)


def forward(params, state, x, *, key=None):
    """Embeds, normalises by running statistics, and adds a hidden layer."""
    h = x @ params["embed"] + state["table"][None, : x.shape[1]]
    h = (h - state["mean"][None, None]) * params["scale"][None, None]
    h = h + jnp.tanh(h @ params["up"] + params["bias"][None, None]) @ params["down"]
    return h @ params["head"], state


PARAMS = {
    "embed": (C, D),
    "scale": (D,),
    "up": (D, H),
    "bias": (H,),
    "down": (H, D),
    "head": (D, C),
}
STATE = {"mean": (D,), "table": (L, D)}


def normal(shapes, seed):
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(rng.normal(size=s), jnp.float32) for name, s in shapes.items()}


DENSE = Forecaster(forward, normal(PARAMS, 1), normal(STATE, 2))
MASK = jax.tree.map(lambda w: jnp.ones(w.shape, bool), DENSE.params)
# Nothing reads hidden unit 2, nothing feeds unit 5.
MASK["down"] = MASK["down"].at[2].set(False)
MASK["up"] = MASK["up"].at[:, 5].set(False)
MASK["bias"] = MASK["bias"].at[5].set(False)
MASKED = dataclasses.replace(DENSE, mask=MASK)
GROUPS = structure.find_groups(forecast, DENSE, X)
MASKED_GROUPS = structure.find_groups(forecast, MASKED, X)
KEEP = {"params/up:1": [0, 2, 5], "params/down:1": [1, 3, 4, 5]}
both = pytest.mark.parametrize(
    ("whole", "groups"), [(DENSE, GROUPS), (MASKED, MASKED_GROUPS)], ids=["dense", "masked"]
)


def members(group):
    return {str(member) for member in group.members}


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


# Groups and plans.


def test_state_and_mask_are_cut_with_the_weights():
    weights = {"params/up:1", "params/bias:0", "params/down:0"}
    width = {"params/embed:1", "params/scale:0", "params/up:0", "params/down:1", "params/head:0"}
    state = {"state/mean:0", "state/table:1"}
    assert {g.name: members(g) for g in GROUPS.free} == {
        "params/up:1": weights,
        "params/down:1": width | state,
    }
    masked = {name: {m.replace("params", "mask") for m in each} for name, each in
              (("params/up:1", weights), ("params/down:1", width))}  # fmt: skip
    assert {g.name: members(g) for g in MASKED_GROUPS.free} == {
        "params/up:1": weights | masked["params/up:1"],
        "params/down:1": width | state | masked["params/down:1"],
    }


def test_what_is_cut_but_not_in_the_first_argument_holds_everything():
    """And the reason says where it belongs."""
    params, state = {"h": DENSE.params}, DENSE.state
    groups = structure.find_groups(lambda p, s, x: forward(p["h"], s, x)[0], params, state, X)
    assert str(groups["h/down:1"].frozen) == (
        "input 1, axis 1: inputs stay as they are; what must be cut along with params belongs into "
        "the first argument"
    )
    with pytest.raises(
        ValueError, match=r"cannot be reached(.|\n)*belongs into the first argument"
    ):
        structure.plan(groups, params, target=structure.Params(0.1))
    assert [group.name for group in groups.free] == ["h/up:1"]


def test_a_mask_is_no_weight():
    """It neither counts nor scores: with one or without, a plan is the same."""
    assert [g.weights for g in MASKED_GROUPS.free] == [
        2 * D * H + H,
        *[g.weights for g in GROUPS.free][1:],
    ]
    for target in (structure.Params(0.5), structure.Flops(0.5)):
        for importance in (structure.l1, structure.l2, structure.norm(2, members="mean")):
            plans = [
                structure.plan(groups, whole, target=target, importance=importance, scope="global")
                for whole, groups in ((DENSE, GROUPS), (MASKED, MASKED_GROUPS))
            ]
            assert plans[0].params == plans[1].params
            assert plans[0].params[0] == trees.size(DENSE.params)
            for name, units in plans[0].keep.items():
                np.testing.assert_array_equal(plans[1].keep[name], units)


@both
@pytest.mark.parametrize("make", [structure.taylor, structure.fisher])
def test_gradients_of_the_weights_alone_will_do(whole, groups, make):
    factors = jax.tree.map(jnp.sin, whole.params)
    zeros = jax.tree.map(jnp.zeros_like, whole)
    scores = make(factors)(groups.free, whole)
    want = make(dataclasses.replace(zeros, params=factors))(groups.free, whole)
    for name, each in want.items():
        assert each.any()
        np.testing.assert_array_equal(scores[name], each)
    with pytest.raises(ValueError, match=r"does not match params:\n  bias: "):
        make({**factors, "bias": jnp.zeros(1)})(groups.free, whole)


@both
def test_a_target_is_met_for_the_weights_alone(whole, groups):
    plan = structure.plan(groups, whole, target=structure.Params(0.5))
    small = structure.slice(whole, plan)
    assert plan.params[1] == trees.size(small.params)
    assert plan.flops[1] == costs.count(forecast, small, X).flops
    assert abs(plan.got - 0.5) < 0.1


# Slices.


@both
def test_a_slice_is_a_forecaster(whole, groups):
    plan = structure.plan(groups, whole, keep=KEEP)
    small, zeroed = structure.slice(whole, plan), structure.zero(whole, plan)
    assert isinstance(small, Forecaster)
    assert small.forward is forward
    at = np.array([1, 3, 4, 5])
    np.testing.assert_array_equal(small.state["table"], whole.state["table"][:, at])
    np.testing.assert_array_equal(small.params["up"], whole.params["up"][at][:, [0, 2, 5]])
    if whole.mask:
        assert_equal(small.mask, structure.slice(whole.mask, plan))
        assert small.mask["down"].shape == (3, 4)
        # A zeroed weight is none that is pruned.
        assert_equal(zeroed.mask, whole.mask)
    np.testing.assert_allclose(forecast(small, X), forecast(zeroed, X), rtol=1e-5, atol=1e-5)
    back = structure.scatter(small, plan)
    assert_equal((back.params, back.state), (zeroed.params, zeroed.state))
    assert_equal(structure.slice(back, plan), small)


@both
def test_shapes_of_a_forecaster_are_sliced(whole, groups):
    plan = structure.plan(groups, whole, keep=KEEP)
    shapes = jax.eval_shape(lambda: whole)
    assert structure.slice(shapes, plan) == jax.eval_shape(lambda: structure.slice(whole, plan))


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["forecaster", "optimiser", "average", "step"],
    meta_fields=[],
)
@dataclasses.dataclass(frozen=True)
class Training:
    """All that a training step changes."""

    forecaster: Forecaster
    optimiser: Any
    average: Any
    step: Any


ADAM = optax.adam(1e-3)


@both
def test_what_is_like_the_weights_alone_is_cut_along(whole, groups):
    """As an optimiser's state, which knows nothing of buffers."""
    plan = structure.plan(groups, whole, keep=KEEP)
    small = structure.slice(whole, plan)
    state = ADAM.init(whole.params)
    _, state = ADAM.update(jax.tree.map(jnp.cos, whole.params), state)
    cut = structure.slice(state, plan)
    assert_equal(cut[0].mu, structure.slice(state[0].mu, plan))
    assert jax.tree.structure(cut) == jax.tree.structure(ADAM.init(small.params))
    assert_equal(structure.slice(ADAM.init(whole.params), plan), ADAM.init(small.params))
    assert_equal(structure.slice(whole.params, plan), small.params)
    assert_equal(
        structure.slice(MASK, plan)["up"], MASK["up"][plan.keep["params/down:1"]][:, [0, 2, 5]]
    )
    back = structure.scatter(cut, plan)
    assert_equal(back[0].mu, structure.zero(state[0].mu, plan))


@both
def test_a_training_state_is_cut_in_all_its_parts(whole, groups):
    plan = structure.plan(groups, whole, keep=KEEP)
    small = structure.slice(whole, plan)
    whole_state = Training(whole, ADAM.init(whole.params), whole.params, jnp.array(3))
    state = structure.slice(whole_state, plan)
    assert_equal(state, Training(small, ADAM.init(small.params), small.params, jnp.array(3)))
    tx = pruning.keep_pruned(ADAM, MASK)
    assert_equal(
        structure.slice(tx.init(whole.params), plan),
        pruning.keep_pruned(ADAM, structure.slice(MASK, plan)).init(small.params),
    )


def test_parts_of_a_masked_optimiser_are_cut():
    plan = structure.plan(GROUPS, DENSE, keep=KEEP)
    tx = optax.masked(ADAM, {name: name != "bias" for name in PARAMS})
    small = structure.slice(DENSE, plan)
    assert_equal(structure.slice(tx.init(DENSE.params), plan), tx.init(small.params))


def test_collections_of_flax_have_their_params_cut():
    """As of old: a dict whose part ``params`` an optimiser sees."""
    variables = {"params": DENSE.params, "buffers": DENSE.state}

    def run(variables, x):
        return forward(variables["params"], variables["buffers"], x)[0]

    groups = structure.find_groups(run, variables, X)
    plan = structure.plan(groups, variables, keep=KEEP)
    small = structure.slice(variables, plan)
    assert_equal(structure.slice(ADAM.init(DENSE.params), plan), ADAM.init(small["params"]))


def test_a_part_that_only_looks_like_the_weights_is_refused():
    plan = structure.plan(GROUPS, DENSE, keep=KEEP)
    wrong = jax.tree.map(lambda w: w[:1], DENSE.params)
    with pytest.raises(ValueError, match="leaves of other shapes than the plan's"):
        structure.slice(wrong, plan)
    with pytest.raises(ValueError, match="no part of the tree has the structure of params"):
        structure.slice(DENSE.state, plan)


@pytest.mark.parametrize("way", [structure.slice, structure.zero, structure.scatter])
def test_a_forecaster_with_other_parts_is_refused(way):
    """Its weights and mask would be cut, and its state left as it is."""
    plan = structure.plan(GROUPS, DENSE, keep=KEEP)
    message = "the tree holds a Forecaster without the leaves of the one that was planned for"
    with pytest.raises(ValueError, match=message):
        way(MASKED, plan)
    with pytest.raises(ValueError, match=message):
        way({"best": MASKED, "step": 3}, plan)


def test_weights_that_are_one_array():
    def linear(w, state, x, *, key=None):
        return jnp.tanh((x - state["mean"][None, None]) @ w).sum(-1), state

    whole = Forecaster(linear, jnp.ones((C, D)), {"mean": jnp.ones(C), "other": jnp.ones((C, 2))})
    groups = structure.find_groups(forecast, whole, X)
    plan = structure.plan(groups, whole, keep={"params:1": [0, 3]})
    assert plan.params == (C * D, 2 * C)
    small = structure.slice(whole, plan)
    assert small.params.shape == (C, 2)
    assert_equal(structure.slice(ADAM.init(whole.params), plan), ADAM.init(small.params))


# Compaction.


def compacted(whole, kept, **options):
    small, plan = structure.compact(forecast, whole, kept, X, **options)
    want, got = forecast(structure.zero(whole, plan), X), forecast(small, X)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    assert isinstance(small, Forecaster)
    return small, plan


def test_what_its_mask_has_killed_is_removed_from_a_forecaster():
    small, plan = compacted(MASKED, MASKED.kept(), groups=MASKED_GROUPS)
    assert plan.keep["params/up:1"].tolist() == [0, 1, 3, 4, 6, 7]
    np.testing.assert_allclose(forecast(small, X), forecast(MASKED, X), rtol=1e-5, atol=1e-5)
    at = plan.keep["params/up:1"]
    np.testing.assert_array_equal(small.mask["down"], MASK["down"][at])
    assert all(np.all(leaf) for leaf in jax.tree.leaves(small.mask))
    assert small.state["table"].shape == (L, D)


def test_a_forecaster_without_a_mask_is_compacted_by_its_zeros():
    zeros = dataclasses.replace(DENSE, params=pruning.apply(DENSE.params, MASK))
    small, plan = compacted(zeros, zeros.kept(), groups=GROUPS)
    assert plan.keep["params/up:1"].tolist() == [0, 1, 3, 4, 6, 7]
    assert small.mask is None
    assert structure.compact(forecast, DENSE, DENSE.kept(), X, groups=GROUPS)[1].got == 1


def test_a_mask_from_elsewhere_compacts_a_forecaster():
    kept = dataclasses.replace(DENSE.kept(), params=MASK)
    small, plan = compacted(DENSE, kept)
    assert plan.keep["params/up:1"].tolist() == [0, 1, 3, 4, 6, 7]
    np.testing.assert_allclose(forecast(small, X), forecast(MASKED, X), rtol=1e-5, atol=1e-5)
