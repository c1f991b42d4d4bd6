"""Stacked trees: what goes in comes out, lane by lane, and unlike trees are refused."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tsjax import pruning, stacking


def mask_of(seed):
    """A mask of a tree with a dict, a list, a scalar and a leaf without weights."""
    rng = np.random.default_rng(seed)
    shapes = {"kernel": (2, 3), "rest": [(), (0, 2)]}
    return jax.tree.map(
        lambda shape: jnp.asarray(rng.random(shape) < 0.5),
        shapes,
        is_leaf=lambda node: isinstance(node, tuple),
    )


MASKS = [mask_of(seed) for seed in range(5)]


def test_what_is_stacked_comes_out_again():
    stacked = stacking.stack(MASKS)
    assert jax.tree.structure(stacked) == jax.tree.structure(MASKS[0])
    assert stacked["kernel"].shape == (5, 2, 3)
    assert stacked["rest"][1].shape == (5, 0, 2)
    assert all(leaf.dtype == bool for leaf in jax.tree.leaves(stacked))
    assert stacking.lanes(stacked) == 5
    chex.assert_trees_all_equal(stacking.unstack(stacked), MASKS)
    chex.assert_trees_all_equal(stacking.lane(stacked, 3), MASKS[3])


@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 7])
def test_chunks_are_of_one_size_and_the_last_lane_fills_up(chunk):
    parts = stacking.split(stacking.stack(MASKS), chunk)
    lanes = [lane for part in parts for lane in stacking.unstack(part)]
    assert {stacking.lanes(part) for part in parts} == {chunk}
    assert len(lanes) - 5 < chunk
    filled = MASKS + [MASKS[-1]] * (len(lanes) - 5)
    chex.assert_trees_all_equal(lanes, filled)


def test_random_keys_can_be_stacked():
    keys = [{"key": jax.random.key(seed)} for seed in (3, 4)]
    first, second = stacking.unstack(stacking.stack(keys))
    assert jax.random.bits(first["key"]) == jax.random.bits(keys[0]["key"])
    assert jax.random.bits(second["key"]) == jax.random.bits(keys[1]["key"])


def test_another_lane_traces_nothing():
    traced = []

    def listen(event, duration, **details):
        if event.endswith("jaxpr_trace_duration"):
            traced.append(details.get("fun_name"))

    # A length that no other test uses.
    stacked = stacking.stack([{"kernel": jnp.full((2, 11), i > 2)} for i in range(4)])
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        assert not np.asarray(stacking.lane(stacked, 0)["kernel"]).any()
        assert traced, "here at least the first call is traced"
        traced.clear()
        assert np.asarray(stacking.lane(stacked, 3)["kernel"]).all()
        assert traced == []
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def test_a_vmap_over_the_stack_is_a_loop_over_the_lanes():
    params = {"kernel": jnp.ones((2, 3)), "rest": [jnp.asarray(2.0), jnp.zeros((0, 2))]}
    stacked = stacking.stack(MASKS)
    got = jax.jit(jax.vmap(pruning.apply, (None, 0)))(params, stacked)
    expected = [pruning.apply(params, mask) for mask in MASKS]
    chex.assert_trees_all_equal(stacking.unstack(got), expected)


# Bad input.


def test_nothing_to_stack_is_refused():
    with pytest.raises(ValueError, match=r"^there is nothing to stack: pass at least one tree$"):
        stacking.stack([])


def test_lanes_of_other_shapes_are_named():
    other = {"kernel": jnp.ones((3, 2), bool), "rest": MASKS[0]["rest"]}
    with pytest.raises(ValueError, match="lane 2") as error:
        stacking.stack([MASKS[0], MASKS[1], other])
    assert str(error.value) == (
        "lane 2 does not match lane 0:\n  kernel: lane 2 has shape (3, 2), lane 0 (2, 3)"
    )


def test_lanes_of_other_dtypes_are_named():
    other = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), MASKS[0])
    with pytest.raises(ValueError, match="lane 1") as error:
        stacking.stack([MASKS[0], other])
    assert str(error.value) == (
        "lane 1 does not match lane 0:\n"
        "  kernel: lane 1 has dtype float32, lane 0 bool\n"
        "  rest/0: lane 1 has dtype float32, lane 0 bool\n"
        "  rest/1: lane 1 has dtype float32, lane 0 bool"
    )


def test_leaves_that_disagree_on_the_lanes_are_named():
    with pytest.raises(ValueError, match="number of lanes") as error:
        stacking.lanes({"a": jnp.zeros((2, 3)), "b": jnp.zeros(3), "c": jnp.zeros(())})
    assert str(error.value) == (
        "the leaves of stacked trees must agree on the number of lanes, their first axis:\n"
        "  a: 2\n"
        "  b: 3\n"
        "  c: no axis"
    )


def test_a_stack_without_leaves_is_refused():
    with pytest.raises(ValueError, match="there is no leaf"):
        stacking.lanes({})


def test_a_chunk_of_none_is_refused():
    with pytest.raises(ValueError, match=r"^chunk must be at least 1, got 0$"):
        stacking.split(stacking.stack(MASKS), 0)
