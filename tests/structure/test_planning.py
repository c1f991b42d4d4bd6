"""Plans: targets are met to one step, options hold, and what is refused is said."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsjax import costs, structure, trees

X = jnp.asarray(np.random.default_rng(0).normal(size=(8, 4)), jnp.float32)


def normal(shapes, seed=0):
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(rng.normal(size=s), jnp.float32) for name, s in shapes.items()}


def mlp(params, x):
    h = jax.nn.relu(x @ params["a"] + params["bias"][None])
    return jnp.tanh(h @ params["b"]) @ params["c"]


def attention(params, x):
    q, k, v = (jnp.einsum("bd,dhe->bhe", x, params[name]) for name in "qkv")
    weights = jax.nn.softmax(jnp.einsum("bhe,che->hbc", q, k))
    mixed = jnp.einsum("hbc,che->bhe", weights, v).reshape(len(x), -1)
    return jax.nn.gelu(mixed @ params["up"]) @ params["down"]


def convolution(params, x):
    h = jax.lax.conv(x[None].transpose(0, 2, 1), params["first"], (1,), "SAME")
    h = jax.lax.conv(jax.nn.relu(h), params["second"], (1,), "SAME")
    return h.sum((0, 2)) @ params["out"]


def gated(params, x):
    h = jax.nn.silu(x @ params["gate"]) * (x @ params["up"])
    pairs = (h[:, :, None] * h[:, None, :]).reshape(len(x), -1)
    return pairs @ params["out"]


FUNCTIONS = {
    "mlp": (mlp, {"a": (4, 12), "bias": (12,), "b": (12, 9), "c": (9, 2)}),
    "attention": (
        attention,
        {"q": (4, 3, 5), "k": (4, 3, 5), "v": (4, 3, 6), "up": (18, 11), "down": (11, 2)},
    ),
    "convolution": (convolution, {"first": (10, 4, 3), "second": (7, 10, 3), "out": (7, 2)}),
    "gated": (gated, {"gate": (4, 9), "up": (4, 9), "out": (81, 3)}),
}
FOUND = {
    name: (fn, params, structure.find_groups(fn, params, X))
    for name, fn, params in ((name, fn, normal(s)) for name, (fn, s) in FUNCTIONS.items())
}
each_function = pytest.mark.parametrize("name", FUNCTIONS)


def sizes_of(shapes):
    return sum(map(math.prod, shapes.values()))


def largest_step(groups, plan, count):
    """By how much less there would be if one unit of one group were cut, at the most."""
    sizes, steps = plan.sizes, []
    for group in groups.free:
        if sizes[group.name] > 1:
            steps.append(count(sizes) - count(sizes | {group.name: sizes[group.name] - 1}))
        if sizes[group.name] < group.size:
            steps.append(count(sizes | {group.name: sizes[group.name] + 1}) - count(sizes))
    return max(steps, default=0)


# Targets.


@each_function
@settings(max_examples=30, deadline=None)
@given(
    share=st.floats(0.25, 1),
    target=st.sampled_from([structure.Params, structure.Flops]),
    scope=st.sampled_from(["uniform", "global"]),
)
def test_targets_are_met_to_one_step(name, share, target, scope):
    fn, params, groups = FOUND[name]
    plan = structure.plan(groups, params, target=target(share), scope=scope)
    small = structure.slice(params, plan)
    if target is structure.Params:
        before, after = trees.size(params), trees.size(small)
        step = largest_step(groups, plan, lambda sizes: sizes_of(groups.shapes(sizes)))
    else:
        before, after = (costs.count(fn, tree, X).flops for tree in (params, small))
        step = largest_step(groups, plan, groups.flops)
    assert abs(after - share * before) <= step
    assert plan.got == after / before
    assert plan.asked == share
    assert min(plan.sizes.values()) >= 1
    # Uniform: no group is a whole unit ahead of another one.
    if scope == "uniform":
        lost = [(1 - plan.sizes[g.name] / g.size, 1 / g.size) for g in groups.free]
        assert all(a - step <= b + own + 1e-9 for a, step in lost for b, own in lost)


@each_function
def test_counts_are_those_of_the_cut_function(name):
    fn, params, groups = FOUND[name]
    plan = structure.plan(groups, params, target=structure.Params(0.5))
    small = structure.slice(params, plan)
    assert plan.params == (trees.size(params), trees.size(small))
    counted = tuple(costs.count(fn, tree, X).flops for tree in (params, small))
    assert plan.flops == counted
    assert fn(small, X).shape == fn(params, X).shape


def test_flops_by_hand():
    """Matrix products of 2 x 8 rows: 4 x 12, 12 x 9 and 9 x 2; a bias, a relu and a tanh."""
    _, params, groups = FOUND["mlp"]
    plan = structure.plan(groups, params, keep={"b:0": 1.0})
    assert (
        plan.flops[0]
        == 2 * 8 * (48 + 108 + 18) + 8 * (12 + 12) + costs.count(jnp.tanh, jnp.ones((8, 9))).flops
    )


def test_a_share_of_one_cuts_nothing():
    _, params, groups = FOUND["mlp"]
    for target in (structure.Params(1), structure.Flops(1.0)):
        plan = structure.plan(groups, params, target=target)
        assert plan.sizes == {group.name: group.size for group in groups}
        assert plan.got == 1


def test_flax_counts_its_params_only():
    _, params, _ = FOUND["mlp"]
    variables = {"params": params, "stats": {"mean": jnp.zeros(12)}, "n": jnp.zeros((), int)}

    def run(variables, x):
        p = variables["params"]
        h = x @ p["a"] - variables["stats"]["mean"][None]
        return jnp.tanh(h @ p["b"] + 0 * variables["n"]) @ p["c"]

    groups = structure.find_groups(run, variables, X)
    plan = structure.plan(groups, variables, target=structure.Params(0.5))
    assert plan.params[0] == trees.size(params) == 48 + 12 + 108 + 18
    assert plan.params[1] == trees.size(structure.slice(variables, plan)["params"])
    assert structure.slice(variables, plan)["stats"]["mean"].shape[0] < 12


def test_integers_are_no_parameters():
    params = {"w": jnp.ones((4, 3)), "index": jnp.arange(5)}
    groups = structure.find_groups(lambda p, x: x @ p["w"] + p["index"].sum(), params, X)
    plan = structure.plan(groups, params, keep={"index:0": 2})
    assert plan.params == (12, 12)


def test_latency_is_met_with_few_measurements():
    _, params, groups = FOUND["attention"]
    calls = []

    def measure(tree):
        calls.append(1)
        assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(tree))
        return 1e-6 * trees.size(tree)

    by_time = structure.plan(groups, params, target=structure.Latency(0.4, measure))
    by_size = structure.plan(groups, params, target=structure.Params(0.4))
    assert by_time.sizes == by_size.sizes
    assert by_time.got == pytest.approx(by_size.got)
    before, after = by_time.measured
    assert (before, after) == pytest.approx([1e-6 * n for n in by_size.params])
    assert len(calls) < 30
    assert by_size.measured == by_size.params


@dataclasses.dataclass(frozen=True)
class LargestLeaf:
    """A target from outside: this share of the dense model's largest leaf."""

    share: float

    def measurer(self, groups, params):
        assert jax.tree.structure(params) == groups.structure
        return lambda sizes: max(map(math.prod, groups.shapes(sizes).values()))


@each_function
def test_a_target_of_your_own(name):
    _, params, groups = FOUND[name]
    plan = structure.plan(groups, params, target=LargestLeaf(0.4))
    assert isinstance(plan.target, structure.Target)
    before, after = (
        max(leaf.size for leaf in jax.tree.leaves(tree))
        for tree in (params, structure.slice(params, plan))
    )
    assert plan.measured == (before, after)
    assert plan.got == after / before == pytest.approx(plan.asked, abs=0.1)
    with pytest.raises(ValueError, match=r"LargestLeaf\(0.0001\) cannot be reached"):
        structure.plan(groups, params, target=LargestLeaf(1e-4))


# Which units.


def test_the_least_important_units_are_cut():
    _, params, groups = FOUND["mlp"]
    chosen = {g.name: np.random.default_rng(3).permutation(g.size) for g in groups.free}
    for scope in ("uniform", "global"):
        plan = structure.plan(
            groups, params, target=structure.Params(0.5), importance=lambda *_: chosen, scope=scope
        )
        for name, each in chosen.items():
            kept = np.isin(np.arange(len(each)), plan.keep[name])
            assert each[kept].min() > each[~kept].max(initial=-1)
            np.testing.assert_array_equal(plan.keep[name], np.sort(plan.keep[name]))


def test_global_ranks_the_units_of_all_groups():
    """The units of one group are all worth less than those of the other."""
    _, params, groups = FOUND["mlp"]
    values = {"a:1": np.arange(12) + 100.0, "b:1": np.arange(9) + 0.0}
    plan = structure.plan(
        groups,
        params,
        target=structure.Params(0.7),
        importance=lambda *_: values,
        scope="global",
    )
    # A unit of b:1 has 12 + 2 elements, and 56 of 186 have to go: 4 of them.
    assert plan.sizes["b:1"] == 5
    assert plan.sizes["a:1"] == 12
    np.testing.assert_array_equal(plan.keep["b:1"], [4, 5, 6, 7, 8])


def test_global_ranks_units_that_go_together_by_their_mean():
    """Four units of one group, of which one matters more than the one unit of the other."""
    _, params, groups = FOUND["mlp"]
    values = {"a:1": np.array([0.0, 0, 0, 10] + [30] * 8), "b:1": np.array([5.0] + [30] * 8)}
    plan = structure.plan(
        groups,
        params,
        target=structure.Params(130 / 186),
        importance=lambda *_: values,
        scope="global",
        round_to=4,
    )
    # A unit of a:1 has 4 + 1 + 9 elements: without four, 130 of 186 are left.
    assert plan.sizes == {**plan.sizes, "a:1": 8, "b:1": 9}


def test_global_never_empties_a_group():
    _, params, groups = FOUND["mlp"]
    values = {"a:1": np.arange(12) + 100.0, "b:1": np.zeros(9)}
    plan = structure.plan(
        groups,
        params,
        target=structure.Params(0.2),
        importance=lambda *_: values,
        scope="global",
    )
    assert plan.sizes["b:1"] == 1
    assert 1 <= plan.sizes["a:1"] < 12


def test_equal_scores_cut_the_last_units():
    _, params, groups = FOUND["mlp"]
    same = {g.name: np.ones(g.size) for g in groups.free}
    plan = structure.plan(groups, params, importance=lambda *_: same, keep={"b:1": 4})
    np.testing.assert_array_equal(plan.keep["b:1"], [0, 1, 2, 3])


# Options.


@pytest.mark.parametrize("scope", ["uniform", "global"])
def test_sizes_are_rounded(scope):
    _, params, groups = FOUND["mlp"]
    for share in (0.8, 0.6, 0.4):
        target = structure.Params(share)
        plan = structure.plan(groups, params, target=target, round_to=4, scope=scope)
        assert plan.sizes["a:1"] in (4, 8, 12)
        # 9 units may stay nine.
        assert plan.sizes["b:1"] in (4, 8, 9)
        by_glob = {"a:*": 5, "*:1": 2}
        plan = structure.plan(groups, params, target=target, round_to=by_glob, scope=scope)
        assert plan.sizes["a:1"] in (5, 10, 12)
        assert plan.sizes["b:1"] in (2, 4, 6, 8, 9)


@pytest.mark.parametrize(
    ("minimum", "least"),
    [
        (7, {"a:1": 7, "b:1": 7}),
        (0.5, {"a:1": 6, "b:1": 5}),
        ({"bias:*": 11, "b:1": 0.1}, {"a:1": 11, "b:1": 1}),
        (100, {"a:1": 12, "b:1": 9}),
        (0, {"a:1": 1, "b:1": 1}),
    ],
)
def test_groups_keep_their_minimum(minimum, least):
    _, params, groups = FOUND["mlp"]
    smallest = sizes_of(groups.shapes(least)) / trees.size(params)
    at_least = structure.plan(
        groups, params, target=structure.Params(max(smallest, 0.01)), minimum=minimum
    )
    assert {name: at_least.sizes[name] for name in least} == least
    if smallest < 1:
        with pytest.raises(ValueError, match=f"the smallest share is {smallest:.4f}"):
            structure.plan(
                groups, params, target=structure.Params(0.99 * smallest), minimum=minimum
            )


@pytest.mark.parametrize(
    "ignore",
    ["a:1", "bias:0", "bi*:0", lambda g: g.size == 12, ["c:*", lambda g: g.name == "a:1"]],
    ids=["name", "member", "glob", "predicate", "list"],
)
def test_ignored_groups_stay_whole(ignore):
    _, params, groups = FOUND["mlp"]
    plan = structure.plan(groups, params, target=structure.Params(0.7), ignore=ignore)
    assert plan.sizes["a:1"] == 12
    assert plan.sizes["b:1"] < 9


@pytest.mark.parametrize(
    ("keep", "units"),
    [
        ({"a:1": [3, 1, 7]}, [1, 3, 7]),
        ({"a:1": np.array([11])}, [11]),
        ({"a:1": 2}, [4, 9]),
        ({"a:1": np.int64(2)}, [4, 9]),
        ({"a:1": 0.25}, [2, 4, 9]),
        ({"b:0": 1}, [4]),
        ({"*a*": range(2)}, [0, 1]),
    ],
)
def test_what_is_kept_can_be_said(keep, units):
    _, params, groups = FOUND["mlp"]
    scores = {"a:1": np.zeros(12), "b:1": np.zeros(9)}
    scores["a:1"][[4, 9, 2]] = 3, 2, 1
    plan = structure.plan(groups, params, keep=keep, importance=lambda *_: scores)
    np.testing.assert_array_equal(plan.keep["a:1"], units)
    assert plan.sizes["b:1"] == 9
    assert plan.target is plan.asked is None
    assert plan.got == plan.params[1] / plan.params[0]


def test_the_first_glob_holds():
    _, params, groups = FOUND["mlp"]
    plan = structure.plan(groups, params, keep={"b:1": 2, "*": 3})
    assert (plan.sizes["b:1"], plan.sizes["a:1"]) == (2, 3)


def test_the_target_is_met_by_the_other_groups():
    _, params, groups = FOUND["mlp"]
    plan = structure.plan(groups, params, target=structure.Params(0.5), keep={"a:1": [0, 5]})
    np.testing.assert_array_equal(plan.keep["a:1"], [0, 5])
    # With two hidden units a unit of b:1 has 2 + 2 elements, beside 10 fixed: all of them fit.
    assert plan.sizes["b:1"] == 9
    plan = structure.plan(groups, params, target=structure.Params(0.5), keep={"a:1": 10})
    # Now each has 10 + 2, beside 50: (93 - 50) / 12 is nearest to 4.
    assert plan.sizes["b:1"] == 4


def test_plans_say_what_is_cut():
    _, params, groups = FOUND["mlp"]
    plan = structure.plan(groups, params, keep={"b:1": 3})
    assert str(plan).splitlines() == [
        "b:1: 3 of 9",
        f"parameters: 102 of 186 ({102 / 186:.3f})",
        f"FLOPs: {plan.flops[1]:,} of {plan.flops[0]:,} ({plan.flops[1] / plan.flops[0]:.3f})",
    ]


# What is refused.


def test_targets_out_of_reach_are_explained():
    _, params, groups = FOUND["mlp"]
    # One unit each: 4 + 1 + 1 + 2 of 186.
    with pytest.raises(ValueError, match="cannot be reached") as error:
        structure.plan(groups, params, target=structure.Params(0.01))
    lines = str(error.value).splitlines()
    assert lines[0] == (
        "Params(0.01) cannot be reached: the smallest share is 0.0430. It is held up by:"
    )
    # Of the 8 elements left, 3 go with three of the four inputs, 1 with one of the two outputs.
    assert lines[1:] == [
        f"  a:0 (4 units, 38% of what is left): {groups['a:0'].frozen}",
        "  c:1 (2 units, 12% of what is left): output 0, axis 1",
    ]
    with pytest.raises(ValueError, match=r"Flops\(0.1\) cannot be reached") as error:
        structure.plan(groups, params, target=structure.Flops(0.1), ignore="a:1")
    assert "a:1 (12 units" in str(error.value)
    assert "at its minimum, ignored or given" in str(error.value)


def test_frozen_groups_cannot_be_kept_in_part():
    _, params, groups = FOUND["mlp"]
    message = "keep names groups that cannot be cut: a:0: input 0, axis 1"
    with pytest.raises(ValueError, match=message):
        structure.plan(groups, params, keep={"a:0": 2})


WRONG = {
    "no target": ({}, "say what to keep: target=Params"),
    "scope": (
        {"target": structure.Params(0.5), "scope": "gobal"},
        r"scope is 'gobal' \(did you mean 'global'\?\): use one of uniform, global",
    ),
    "unknown group": (
        {"keep": {"a1": 2}},
        r"no group matches 'a1' \(did you mean 'a:1'\?\)",
    ),
    "too many": ({"keep": {"a:1": 13}}, "a:1 has 12 units and keeps at least one, got 13"),
    "none": ({"keep": {"a:1": 0}}, "a:1 has 12 units and keeps at least one, got 0"),
    "truth": ({"keep": {"a:1": True}}, "a:1 has 12 units and keeps at least one, got True"),
    "share above one": ({"keep": {"a:1": 1.01}}, "keeps at least one, got 1.01"),
    "no share": ({"keep": {"a:1": 0.01}}, "keeps at least one, got 0.01"),
    "empty": ({"keep": {"a:1": []}}, r"keeps a list of different unit indices, got \[\]"),
    "twice": ({"keep": {"a:1": [1, 1]}}, "keeps a list of different unit indices"),
    "no indices": ({"keep": {"a:1": [0.5]}}, "keeps a list of different unit indices"),
    "out of range": ({"keep": {"a:1": [12]}}, r"a:1 has units 0 to 11, got \[12\]"),
    "negative": ({"keep": {"a:1": [-1]}}, r"a:1 has units 0 to 11, got \[-1\]"),
    "round_to": (
        {"target": structure.Params(0.5), "round_to": 0},
        "round_to must be a positive whole number, got 0",
    ),
    "fractional round_to": (
        {"target": structure.Params(0.5), "round_to": {"*": 1.5}},
        "round_to must be a positive whole number, got 1.5",
    ),
    "minimum": (
        {"target": structure.Params(0.5), "minimum": -1},
        "minimum must be a number of units, or a share as a float, got -1",
    ),
    "minimum above one": ({"target": structure.Params(0.5), "minimum": 1.5}, "got 1.5"),
    "scores of another shape": (
        {
            "target": structure.Params(0.5),
            "importance": lambda groups, _: {g.name: np.ones(3) for g in groups},
        },
        r"importance of a:1 has shape \(3,\), not \(12,\)",
    ),
    "scores that are no numbers": (
        {
            "target": structure.Params(0.5),
            "importance": lambda groups, _: {g.name: np.full(g.size, np.nan) for g in groups},
        },
        "importance of a:1 is not a number for some units",
    ),
    "too few scores": (
        {"target": structure.Params(0.5), "importance": lambda groups, _: {"b:1": np.ones(9)}},
        "importance gives no scores of a:1",
    ),
    "scores of unknown groups": (
        {
            "target": structure.Params(0.5),
            "importance": lambda groups, _: {g.name: np.ones(g.size) for g in groups} | {"b": 1},
        },
        "importance gives scores of 'b', which is no group",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_options_that_make_no_sense_are_refused(case):
    _, params, groups = FOUND["mlp"]
    options, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        structure.plan(groups, params, **options)


@pytest.mark.parametrize("share", [0, -0.5, 1.5, float("nan")])
def test_shares_are_in_range(share):
    for target in (
        structure.Params,
        structure.Flops,
        lambda share: structure.Latency(share, trees.size),
    ):
        with pytest.raises(ValueError, match=rf"takes the share to keep, in \(0, 1\], got {share}"):
            target(share)
    with pytest.raises(ValueError, match="rounds takes a share in"):
        structure.rounds(share, 2)


def test_params_of_another_shape_are_refused():
    _, params, groups = FOUND["mlp"]
    message = "params are not those that the groups were found for: bias differ"
    with pytest.raises(ValueError, match=message):
        structure.plan(groups, {**params, "bias": jnp.zeros(3)}, target=structure.Params(0.5))
    with pytest.raises(ValueError, match=r": c differ"):
        structure.plan(
            groups, {k: v for k, v in params.items() if k != "c"}, target=structure.Params(0.5)
        )


# Rounds.


def test_rounds_multiply_to_the_share():
    assert structure.rounds(0.25, 2) == [0.5, 0.5]
    assert structure.rounds(0.3, 1) == [0.3]
    assert math.prod(structure.rounds(0.1, 7)) == pytest.approx(0.1)
    with pytest.raises(ValueError, match=r"got 0\.5, 0"):
        structure.rounds(0.5, 0)


def test_pruning_and_training_in_turns():
    """Each round finds the groups anew, and the optimiser goes on with what it has."""
    _, params, _ = FOUND["mlp"]
    y = jnp.asarray(np.random.default_rng(1).normal(size=(8, 2)), jnp.float32)

    def loss(params):
        return jnp.mean((mlp(params, X) - y) ** 2)

    optimiser = optax.adam(3e-3)
    state = optimiser.init(params)
    dense = trees.size(params)

    @jax.jit
    def step(params, state):
        value, gradients = jax.value_and_grad(loss)(params)
        updates, state = optimiser.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, value

    for share in structure.rounds(0.3, 3):
        for _ in range(5):
            params, state, _ = step(params, state)
        groups = structure.find_groups(mlp, params, X)
        plan = structure.plan(groups, params, target=structure.Params(share))
        assert trees.size(structure.slice(params, plan)) < trees.size(params)
        count = state[0].count
        params, state = structure.slice(params, plan), structure.slice(state, plan)
        assert jax.tree.map(jnp.shape, state[0].mu) == jax.tree.map(jnp.shape, params)
        assert state[0].count == count
        losses = []
        for _ in range(20):
            params, state, value = step(params, state)
            losses.append(float(value))
        assert losses[-1] < losses[0]
    # Each round misses by less than half a unit of at most 17 elements.
    assert abs(trees.size(params) - 0.3 * dense) < 0.1 * dense


def test_the_order_of_an_einsum_follows_sizes():
    """It changes the program, and what it costs, but not what it computes."""

    def run(params, x):
        return jnp.einsum("bi,ij,jk->bk", x, params["a"], params["b"])

    params, x = {"a": jnp.ones((4, 40)), "b": jnp.ones((40, 6))}, jnp.ones((20, 4))
    groups = structure.find_groups(run, params, x)
    for target in (0.2, 0.5, 0.8):
        plan = structure.plan(groups, params, target=structure.Flops(target))
        assert plan.flops[1] == costs.count(run, structure.slice(params, plan), x).flops
        assert plan.got == pytest.approx(target, abs=0.07)  # one unit is up to an eighth


def test_what_does_not_work_with_one_unit_is_refused():
    def run(params, x):
        return jnp.tanh(x @ params["a"]).squeeze() @ params["b"]

    params, x = {"a": jnp.ones((3, 7)), "b": jnp.ones((7, 2))}, jnp.ones((5, 1, 3))
    groups = structure.find_groups(run, params, x)
    structure.plan(groups, params, keep={"a:1": 2})
    with pytest.raises(ValueError, match=r"does not work with one unit of a:1: .*minimum=2"):
        structure.plan(groups, params, keep={"a:1": 1})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": 0.5}, "target must be Params"),
        ({"target": structure.Params}, "target must be Params"),
        ({"keep": 3}, "keep must be"),
        ({"keep": {"a:1": 2}, "importance": "l2"}, "importance must be a function"),
        ({"keep": {"a:1": 2}, "ignore": 5}, "groups are named by globs"),
    ],
    ids=lambda value: None,
)
def test_what_is_no_option_is_refused(options, message):
    params = {"a": jnp.ones((3, 7)), "b": jnp.ones((7, 2))}
    groups = structure.find_groups(lambda p, x: x @ p["a"] @ p["b"], params, jnp.ones((5, 3)))
    with pytest.raises(ValueError, match=message):
        structure.plan(groups, params, **options)


def test_shapes_will_do_where_no_scores_are_needed():
    params = {
        "a": jax.ShapeDtypeStruct((3, 7), "float32"),
        "b": jax.ShapeDtypeStruct((7, 2), "float32"),
    }
    groups = structure.find_groups(lambda p, x: x @ p["a"] @ p["b"], params, jnp.ones((5, 3)))
    plan = structure.plan(groups, params, keep={"a:1": [0, 4]})
    assert structure.slice(params, plan)["a"].shape == (3, 2)
    assert structure.scatter(structure.slice(params, plan), plan)["b"].shape == (7, 2)
    assert structure.zero(params, plan) == params
    with pytest.raises(ValueError, match="importance needs weights, and a is a shape only"):
        structure.plan(groups, params, target=structure.Params(0.5))
