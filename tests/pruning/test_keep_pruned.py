"""`keep_pruned`: pruned weights and their moments are exactly zero, kept ones train as ever."""

import dataclasses
import functools
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsjax import pruning
from tsjax.pruning.optimiser import keep_pruned

# Both hide leaves from a part of the state; "rest" stands for a whole sub-tree of the params.
DECAY = {"layer": {"kernel": True, "bias": False}, "rest": False}
LABELS = {"layer": {"kernel": "adam", "bias": "sgd"}, "rest": "adam"}


def adamw():
    return optax.adamw(0.1, weight_decay=0.3)


TABLE = {
    "adam": optax.adam(0.1),
    "adam in bfloat16": optax.adam(0.1, mu_dtype=jnp.bfloat16),
    "adamw": adamw(),
    "adamw with a mask": optax.adamw(0.1, weight_decay=0.3, mask=DECAY),
    "sgd": optax.sgd(0.1),
    "momentum": optax.sgd(0.1, momentum=0.9),
    "nesterov": optax.sgd(0.1, momentum=0.9, nesterov=True),
    "rmsprop": optax.rmsprop(0.1, momentum=0.9, initial_scale=1.0),
    "lion": optax.lion(0.1, weight_decay=0.3),
    "adafactor": optax.adafactor(0.1, min_dim_size_to_factor=2, momentum=0.9),
    "lamb": optax.lamb(0.1, weight_decay=0.3),
    "schedule-free": optax.contrib.schedule_free_adamw(0.1, weight_decay=0.3),
    "chain": optax.chain(
        optax.clip_by_global_norm(1.0), optax.add_decayed_weights(0.3), optax.sgd(0.1, 0.9)
    ),
    "noise": optax.chain(optax.add_noise(0.5, 0.5, jax.random.key(0)), optax.adam(0.1)),
    "schedule": optax.adamw(optax.cosine_decay_schedule(0.1, 50), weight_decay=0.3),
    "multi_transform": optax.multi_transform({"adam": adamw(), "sgd": optax.sgd(0.1, 0.9)}, LABELS),
    "masked": optax.masked(adamw(), DECAY),
    "inject_hyperparams": optax.inject_hyperparams(optax.adamw)(0.1, weight_decay=0.3),
    "MultiSteps": optax.MultiSteps(adamw(), 2),
    "apply_if_finite": optax.apply_if_finite(adamw(), 2),
}
WITHOUT_MOMENTS = {"sgd"}


def some_params(seed=0, dtype=jnp.float32):
    """A nested tree with a scalar and an empty leaf; no two leaves have the same shape."""
    rng = np.random.default_rng(seed)

    def draw(*shape):
        values = rng.normal(size=shape)
        if jnp.issubdtype(dtype, jnp.complexfloating):
            values = values + 1j * rng.normal(size=shape)
        return jnp.asarray(values, dtype)

    return {"layer": {"kernel": draw(3, 4), "bias": draw(4)}, "rest": [draw(), draw(0, 2)]}


def some_mask(seed=0):
    """Prunes half of the kernel, one bias and, from an odd seed, the scalar."""
    kernel = np.random.default_rng(seed).permutation(12).reshape(3, 4) < 6
    return {
        "layer": {"kernel": jnp.asarray(kernel), "bias": jnp.arange(4) != seed % 4},
        "rest": [jnp.asarray(seed % 2 == 0), jnp.ones((0, 2), bool)],
    }


def at(tree, mask):
    """The values of ``tree`` where ``mask`` holds, in one flat array."""
    leaves = jax.tree.map(lambda leaf, m: np.asarray(leaf)[np.asarray(m)].ravel(), tree, mask)
    return np.concatenate(jax.tree.leaves(leaves))


def invert(mask):
    return jax.tree.map(jnp.logical_not, mask)


def moments(state, like):
    """All values of an optimiser's state that belong to a leaf of ``like``, by the leaf's path.

    Counters and hyperparameters share the shape of a scalar, but their paths end differently.
    """
    found = [
        (leaf, m)
        for path, m in jax.tree_util.tree_leaves_with_path(like)
        for state_path, leaf in jax.tree_util.tree_leaves_with_path(state)
        if state_path[-len(path) :] == path and leaf.shape == m.shape
    ]
    return [leaf for leaf, _ in found], [m for _, m in found]


def make_step(tx):
    @jax.jit
    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return step


@functools.cache
def jitted(name, wrapped=True):
    """One compiled step of a transformation of the table; the mask is in the state."""
    return make_step(keep_pruned(TABLE[name]) if wrapped else TABLE[name])


@pytest.mark.parametrize("name", TABLE)
def test_pruned_weights_and_moments_are_zero_through_changes_of_the_mask(name):
    def assert_moments_held(state, mask):
        values, masks = moments(state.inner_state, mask)
        assert bool(values) == (name not in WITHOUT_MOMENTS)
        if values:
            assert set(at(values, invert(masks)).tolist()) == {0.0}

    params = some_params()
    assert np.all(at(params, pruning.ones(params)))
    state = keep_pruned(TABLE[name], some_mask()).init(params)
    assert_moments_held(state, some_mask())
    for i in range(6):
        mask = some_mask(i // 2)
        state = state._replace(mask=mask)
        before = params, state
        params, state = jitted(name)(params, state, some_params(10 + i))
        chex.assert_trees_all_equal_shapes_and_dtypes((params, state), before)
        chex.assert_trees_all_equal(state.mask, mask)
        assert set(at(params, invert(mask)).tolist()) == {0.0}
        assert_moments_held(state, mask)
    # Two steps under one mask move all that it keeps, what it has brought back included.
    assert np.all(at(params, mask) != 0)


@pytest.mark.parametrize("name", sorted(set(TABLE) - {"noise"}))
def test_kept_weights_evolve_as_without_the_wrapper(name):
    """In float64: the two programs may round differently, and weights come near zero."""
    mask = some_mask()
    with jax.enable_x64(True):
        start = some_params(dtype=jnp.float64)
        params, plain = start, pruning.apply(start, mask)
        state, plain_state = keep_pruned(TABLE[name], mask).init(params), TABLE[name].init(plain)
        for i in range(4):
            grads = some_params(10 + i, jnp.float64)
            params, state = jitted(name)(params, state, grads)
            grads = pruning.apply(grads, mask)
            plain, plain_state = jitted(name, wrapped=False)(plain, plain_state, grads)
            np.testing.assert_allclose(at(params, mask), at(plain, mask), rtol=1e-12)
            assert np.any(at(params, mask) != at(start, mask)) or name == "MultiSteps"


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "nesterov", "rmsprop", "lion"])
def test_elementwise_kept_weights_do_not_see_the_pruned_ones(name):
    params = plain = some_params()
    mask = some_mask()
    state, plain_state = keep_pruned(TABLE[name], mask).init(params), TABLE[name].init(plain)
    for i in range(4):
        params, state = jitted(name)(params, state, some_params(10 + i))
        plain, plain_state = jitted(name, wrapped=False)(plain, plain_state, some_params(10 + i))
        np.testing.assert_allclose(at(params, mask), at(plain, mask), rtol=1e-6)


def test_a_regrown_weight_starts_without_momentum():
    tx = keep_pruned(optax.sgd(0.1, momentum=0.9), jnp.array([True, True]))
    params, grads = jnp.array([1.0, 2.0]), jnp.array([1.0, 1.0])
    state = tx.init(params)
    expected = [
        # mask,        updates,        trace
        ([True, True], [-0.1, -0.1], [1, 1]),
        ([True, False], [-0.19, -1.9], [1.9, 0]),
        ([True, False], [-0.271, 0], [2.71, 0]),
        ([True, True], [-0.3439, -0.1], [3.439, 1]),
    ]
    for mask, want, trace in expected:
        updates, state = tx.update(grads, state._replace(mask=jnp.array(mask)), params)
        np.testing.assert_allclose(updates, want, rtol=1e-6)
        np.testing.assert_allclose(optax.tree.get(state, "trace"), trace, rtol=1e-6)
        params = optax.apply_updates(params, updates)
        assert np.all((params == 0) == ~np.array(mask)) or mask[1]


def test_weight_decay_acts_on_kept_weights_only():
    tx = keep_pruned(optax.adamw(0.1, weight_decay=0.5), {"w": jnp.array([True, False])})
    params = {"w": jnp.array([2.0, 2.0])}
    updates, _ = tx.update({"w": jnp.zeros(2)}, tx.init(params), params)
    np.testing.assert_allclose(updates["w"], [-0.1, -2.0], rtol=1e-6)


DECAYED = keep_pruned(optax.chain(optax.add_decayed_weights(0.3), optax.sgd(0.1, 0.9)))
decayed_step = make_step(DECAYED)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.tuples(*[st.booleans()] * 5), st.integers(0, 99)), max_size=5))
def test_any_sequence_of_masks_is_followed(steps):
    """Against plain numpy: weight decay inside momentum, the mask changing at each step."""
    w = np.random.default_rng(0).normal(size=5)
    trace = np.zeros(5)
    params = jnp.asarray(w, jnp.float32)
    state = DECAYED.init(params)
    for keep, seed in steps:
        g = np.random.default_rng(seed).normal(size=5)
        state = state._replace(mask=jnp.array(keep))
        params, state = decayed_step(params, state, jnp.asarray(g, jnp.float32))
        trace = np.where(keep, g + 0.3 * w + 0.9 * trace, 0)
        w = np.where(keep, w - 0.1 * trace, 0)
        np.testing.assert_allclose(params, w, rtol=1e-5, atol=1e-6)
        assert np.all(params[~np.array(keep)] == 0)
        assert np.all(optax.tree.get(state, "trace")[~np.array(keep)] == 0)


def test_without_params_pruned_updates_are_zero():
    params, mask = some_params(), some_mask()
    tx = keep_pruned(optax.sgd(0.1, momentum=0.9))
    # Momentum from before the mask is what would move the pruned weights.
    _, state = tx.update(some_params(1), tx.init(params), mask=pruning.ones(params))
    updates, _ = tx.update(some_params(1), state, mask=mask)
    assert set(at(updates, invert(mask)).tolist()) == {0.0}
    with_params, _ = tx.update(some_params(1), state, params, mask=mask)
    np.testing.assert_array_equal(at(updates, mask), at(with_params, mask))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_gradient_that_is_not_finite_passes_where_it_is_pruned(bad):
    tx = keep_pruned(optax.apply_if_finite(optax.adam(0.1), 3), jnp.array([True, False]))
    params = jnp.array([1.0, 2.0])
    updates, state = tx.update(jnp.array([1.0, bad]), tx.init(params), params)
    np.testing.assert_allclose(updates, [-0.1, -2.0], rtol=1e-5)
    assert state.inner_state.total_notfinite == 0


# -- dtypes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("param_dtype", "grad_dtype", "tx"),
    [
        ("bfloat16", "bfloat16", optax.adamw(0.1)),
        ("bfloat16", "bfloat16", optax.sgd(0.1, 0.9, accumulator_dtype=jnp.float32)),
        ("bfloat16", "float32", optax.adamw(0.1)),
        ("float32", "bfloat16", optax.adamw(0.1)),
        ("complex64", "complex64", optax.adamw(0.1)),
        ("complex64", "complex64", optax.contrib.split_real_and_imaginary(optax.sgd(0.1, 0.9))),
    ],
)
def test_dtypes_are_those_without_the_wrapper(param_dtype, grad_dtype, tx):
    params, grads = some_params(0, jnp.dtype(param_dtype)), some_params(1, jnp.dtype(grad_dtype))
    mask = some_mask()
    plain_updates, plain_state = jax.jit(tx.update)(grads, tx.init(params), params)
    wrapped = keep_pruned(tx)
    update = jax.jit(wrapped.update)
    # Dense first: the moments of the next step are not zero by themselves.
    _, state = update(grads, wrapped.init(params), params, mask=pruning.ones(params))
    updates, state = update(grads, state, params, mask=mask)
    chex.assert_trees_all_equal_dtypes(updates, plain_updates)
    chex.assert_trees_all_equal_shapes_and_dtypes(state.inner_state, plain_state)
    assert set(at(optax.apply_updates(params, updates), invert(mask)).tolist()) == {0.0}
    pruned = invert(mask)["layer"]["kernel"]
    sized = [x for x in jax.tree.leaves(state.inner_state) if x.shape == pruned.shape]
    assert sized
    assert all(np.all(x[pruned] == 0) and np.any(x != 0) for x in sized)


def test_a_narrow_update_widens_to_hold_a_wide_weight():
    params, mask = jnp.array([1.2345678, 1.2345678]), jnp.array([True, False])
    tx = keep_pruned(optax.sgd(0.5), mask)
    updates, _ = tx.update(jnp.ones(2, jnp.bfloat16), tx.init(params), params)
    assert optax.apply_updates(params, updates).tolist() == [params[0] - 0.5, 0]


# -- the mask: in the state or at the call -------------------------------------------------------


def test_a_mask_passed_at_the_update_is_the_same_as_one_in_the_state():
    params, mask = some_params(), some_mask()
    held, passed = keep_pruned(adamw(), mask), keep_pruned(adamw())
    held_state, state = held.init(params), passed.init(params)
    assert state.mask is None
    for i in range(2):
        grads = some_params(10 + i)
        expected, held_state = held.update(grads, held_state, params)
        updates, state = passed.update(grads, state, params, mask=mask)
        chex.assert_trees_all_equal(updates, expected)
        chex.assert_trees_all_equal(state.inner_state, held_state.inner_state)
        assert state.mask is None
        params = optax.apply_updates(params, updates)


def test_a_mask_passed_at_the_update_wins_for_that_update():
    params, inside, passed = some_params(), some_mask(), some_mask(1)
    tx = keep_pruned(adamw(), inside)
    updates, state = tx.update(some_params(1), tx.init(params), params, mask=passed)
    new = optax.apply_updates(params, updates)
    assert np.all((at(new, pruning.ones(new)) == 0) == at(invert(passed), pruning.ones(new)))
    chex.assert_trees_all_equal(state.mask, inside)


def test_without_any_mask_update_says_where_to_give_it():
    params = some_params()
    tx = keep_pruned(optax.adam(0.1))
    with pytest.raises(ValueError, match="no mask") as error:
        tx.update(params, tx.init(params), params)
    assert str(error.value) == (
        "keep_pruned has no mask: give it once, keep_pruned(tx, mask), "
        "or at each update, update(grads, state, params, mask=mask)"
    )


def test_a_mask_that_does_not_match_is_refused_at_init_and_update():
    params, mask = some_params(), some_mask()
    mask["layer"]["kernel"] = mask["layer"]["kernel"].T
    message = r"mask does not match params:\n  layer/kernel: mask has shape \(4, 3\), params \(3, 4"
    with pytest.raises(ValueError, match=message):
        keep_pruned(optax.adam(0.1), mask).init(params)
    tx = keep_pruned(optax.adam(0.1))
    state = tx.init(params)
    with pytest.raises(ValueError, match=message):
        tx.update(params, state, params, mask=mask)
    with pytest.raises(ValueError, match=message):
        tx.update(params, state, mask=mask)
    with pytest.raises(ValueError, match=message):
        tx.update(params, state._replace(mask=mask), params)


def test_a_mask_that_is_not_bool_is_refused():
    params = {"a": jnp.ones(2)}
    with pytest.raises(ValueError, match=r"must be bool: a \(float32\)"):
        keep_pruned(optax.adam(0.1), params).init(params)
    tx = keep_pruned(optax.adam(0.1))
    with pytest.raises(ValueError, match=r"must be bool: a \(float32\)"):
        tx.update(params, tx.init(params), params, mask=params)


def test_extra_arguments_reach_the_inner_transformation():
    params, mask = some_params(), some_mask()
    tx = keep_pruned(
        optax.chain(optax.sgd(1.0), optax.contrib.reduce_on_plateau(factor=0.5, patience=1)), mask
    )
    state = tx.init(params)
    for _ in range(2):  # The second loss is no better than the first: the step is halved.
        updates, state = tx.update(params, state, params, value=1.0)
    np.testing.assert_allclose(at(updates, mask), -0.5 * at(params, mask), rtol=1e-6)
    plain = keep_pruned(optax.sgd(1.0), mask)
    updates, _ = plain.update(params, plain.init(params), params, value=1.0)
    np.testing.assert_allclose(at(updates, mask), -at(params, mask), rtol=1e-6)


# -- under transformations -----------------------------------------------------------------------


def test_new_mask_values_do_not_trace_again_and_no_mask_is_a_constant():
    params, mask = some_params(), some_mask()
    held = keep_pruned(adamw(), mask)
    passed = keep_pruned(adamw())
    traces = []

    @functools.partial(jax.jit, static_argnames="tx")
    def step(params, state, grads, tx, **mask):
        traces.append(tx)
        return tx.update(grads, state, params, **mask)

    state = held.init(params)
    for new in (mask, some_mask(1)):
        _, state = step(params, state._replace(mask=new), some_params(1), held)
    assert traces == [held]
    state = passed.init(params)
    for new in (mask, some_mask(1)):
        _, state = step(params, state, some_params(1), passed, mask=new)
    assert traces == [held, passed]
    closed = jax.make_jaxpr(held.update)(params, held.init(params), params)
    assert closed.consts == []


def test_the_mask_survives_a_donated_state():
    params, mask = some_params(), some_mask()
    tx = keep_pruned(adamw(), mask)
    step = jax.jit(tx.update, donate_argnums=1)
    for _ in range(2):
        _, state = step(params, tx.init(params), params)
        chex.assert_trees_all_equal(state.mask, mask)
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(mask))


def test_scan_over_steps_equals_a_loop():
    params, mask = some_params(), some_mask()
    state = keep_pruned(TABLE["adamw"], mask).init(params)
    grads = [some_params(10 + i) for i in range(3)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *grads)
    last, _ = jax.lax.scan(lambda c, g: (jitted("adamw")(*c, g), None), (params, state), stacked)
    for g in grads:
        params, state = jitted("adamw")(params, state, g)
    chex.assert_trees_all_close(last, (params, state), rtol=1e-6)
    assert set(at(last[0], invert(mask)).tolist()) == {0.0}


def test_a_stack_of_models_with_their_own_masks():
    singles = [(some_params(i), some_mask(i), some_params(10 + i)) for i in range(3)]
    params, masks, grads = jax.tree.map(lambda *leaves: jnp.stack(leaves), *singles)
    states = jax.vmap(lambda m, p: keep_pruned(TABLE["adamw"], m).init(p))(masks, params)
    new, states = jax.vmap(jitted("adamw"))(params, states, grads)
    for i, (p, m, g) in enumerate(singles):
        expected = jitted("adamw")(p, keep_pruned(TABLE["adamw"], m).init(p), g)
        got = jax.tree.map(lambda leaf, i=i: leaf[i], (new, states))
        chex.assert_trees_all_close(got, expected, rtol=1e-6)
        assert set(at(got[0], invert(m)).tolist()) == {0.0}


def test_one_mask_for_a_stack_of_states():
    tx = keep_pruned(adamw())
    params = jax.tree.map(lambda *leaves: jnp.stack(leaves), some_params(0), some_params(1))
    update = jax.vmap(lambda g, s, p, m: tx.update(g, s, p, mask=m), in_axes=(0, 0, 0, None))
    updates, _ = jax.jit(update)(params, jax.vmap(tx.init)(params), params, some_mask())
    new = optax.apply_updates(params, updates)
    for i in range(2):
        one = jax.tree.map(lambda leaf, i=i: leaf[i], new)
        assert set(at(one, invert(some_mask())).tolist()) == {0.0}


def test_a_rematerialised_loss_trains_the_same():
    mask = some_mask()
    tx = keep_pruned(adamw(), mask)

    def loss(params):
        w = pruning.apply(params, mask)
        return jnp.sum(jnp.tanh(w["layer"]["kernel"] @ w["layer"]["bias"]) ** 2) + w["rest"][0] ** 2

    def train(loss, params):
        def step(carry, _):
            params, state = carry
            updates, state = tx.update(jax.grad(loss)(params), state, params)
            return (optax.apply_updates(params, updates), state), loss(params)

        return jax.lax.scan(step, (params, tx.init(params)), None, length=5)

    (params, _), losses = jax.jit(functools.partial(train, loss))(some_params())
    (again, _), _ = jax.jit(functools.partial(train, jax.checkpoint(loss)))(some_params())
    chex.assert_trees_all_close(params, again, rtol=1e-5)
    assert losses[-1] < losses[0]
    assert set(at(params, invert(mask)).tolist()) == {0.0}


# -- any pytree ----------------------------------------------------------------------------------


@functools.partial(jax.tree_util.register_dataclass, data_fields=["w", "b"], meta_fields=["name"])
@dataclasses.dataclass(frozen=True)
class Layer:
    w: Any
    b: Any
    name: str = "layer"


class Pair(NamedTuple):
    first: Any
    second: Any


def nnx_state():
    from flax import nnx

    return nnx.state(nnx.Linear(3, 4, rngs=nnx.Rngs(0)), nnx.Param)


def equinox_module():
    eqx = pytest.importorskip("equinox")
    return eqx.filter(eqx.nn.MLP(3, 2, 4, 1, key=jax.random.key(0)), eqx.is_array)


TREES = {
    "dict": some_params,
    "list": lambda: [jnp.ones((2, 3)), jnp.ones(())],
    # Like the state of `optax.chain`, and with leaves of one shape.
    "tuple": lambda: (jnp.ones(3), jnp.ones(3)),
    "named tuple": lambda: Pair(jnp.ones(3), {"a": jnp.ones((2, 2))}),
    "dataclass": lambda: Layer(jnp.ones((3, 2)), jnp.ones(2)),
    "nnx.State": nnx_state,
    "equinox": equinox_module,
    "None leaves": lambda: {"a": jnp.ones(3), "b": None},
    "one array": lambda: jnp.ones(4),
    "one empty array": lambda: jnp.ones((0, 3)),
    "nothing": dict,
}


@pytest.mark.parametrize("tree", TREES)
def test_any_tree_of_params(tree):
    params = jax.tree.map(lambda leaf: leaf + 2, TREES[tree]())
    mask = jax.tree.map(lambda leaf: jnp.arange(leaf.size).reshape(leaf.shape) % 2 == 1, params)
    tx = keep_pruned(optax.chain(optax.identity(), adamw()), pruning.ones(params))
    update = jax.jit(tx.update)
    _, state = update(params, tx.init(params), params)
    updates, state = update(params, state._replace(mask=mask), params)
    new = optax.apply_updates(params, updates)
    chex.assert_trees_all_equal_shapes_and_dtypes(new, params)
    chex.assert_trees_all_equal(new, pruning.apply(new, mask))
    mu, nu = optax.tree.get(state, "mu"), optax.tree.get(state, "nu")
    chex.assert_trees_all_equal((mu, nu), (pruning.apply(mu, mask), pruning.apply(nu, mask)))
    # Kept places trained: nothing but the mask is zero.
    assert all(
        np.all((np.asarray(leaf) != 0) == m)
        for part in (new, mu, nu)
        for leaf, m in zip(jax.tree.leaves(part), jax.tree.leaves(mask), strict=True)
    )


def test_one_bare_scalar_leaves_the_learning_rate_alone():
    params = jnp.asarray(2.0)
    tx = keep_pruned(optax.inject_hyperparams(optax.sgd)(0.5), jnp.asarray(False))
    updates, state = tx.update(jnp.asarray(1.0), tx.init(params), params)
    assert updates == -2
    updates, _ = tx.update(jnp.asarray(1.0), state._replace(mask=jnp.asarray(True)), params)
    assert updates == -0.5


def test_keys_and_counters_are_not_taken_for_moments():
    # An old-style key is two uint32, as many as this array has weights.
    inner = {"key": jax.random.PRNGKey(7), "count": 3}
    tx = optax.GradientTransformation(
        lambda _: inner, lambda updates, state, _=None: (updates, state)
    )
    params = jnp.ones(2)
    wrapped = keep_pruned(tx, jnp.array([True, False]))
    _, state = wrapped.update(params, wrapped.init(params), params)
    chex.assert_trees_all_equal(state.inner_state, inner)
