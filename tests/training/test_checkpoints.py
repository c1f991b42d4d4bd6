"""Checkpoints: what is written comes back bit by bit, or the message says why not."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from hypothesis import HealthCheck, example, given, settings
from masked_trees import masked_trees, zeroed

from tsjax.training import restore, save
from tsjax.training.checkpoints import restore_sparse, save_sparse


def some_tree(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "params": {
            "kernel": jnp.float32(rng.normal(size=(4, 3))).at[0, 0].set(-0.0).at[1, 1].set(1e-40),
            "layers": [{"bias": jnp.asarray(rng.normal(size=3), jnp.bfloat16)}, (jnp.int32(7),)],
        },
        "state": {},
        "mask": {"kernel": jnp.asarray(rng.random((4, 3)) < 0.5)},
    }


def assert_bitwise_equal(got, want):
    chex.assert_trees_all_equal_shapes_and_dtypes(got, want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.mark.parametrize("shapes_only", [False, True])
def test_what_is_saved_comes_back(tmp_path, shapes_only):
    path = tmp_path / "not" / "there" / "yet"
    save(path, some_tree())
    like = jax.eval_shape(some_tree) if shapes_only else jax.tree.map(jnp.zeros_like, some_tree())
    assert_bitwise_equal(restore(path, like), some_tree())


def test_saving_again_replaces(tmp_path):
    save(tmp_path / "best", some_tree(0))
    save(tmp_path / "best", some_tree(1))
    assert_bitwise_equal(restore(tmp_path / "best", some_tree(0)), some_tree(1))
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


def test_a_relative_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    relative = (tmp_path / "best").relative_to(tmp_path)
    save(relative, some_tree())
    assert_bitwise_equal(restore(relative, some_tree()), some_tree())


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"^no checkpoint at {tmp_path / 'none'}$"):
        restore(tmp_path / "none", some_tree())


def test_a_folder_that_is_no_checkpoint_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"no checkpoint at {tmp_path}"):
        restore(tmp_path, some_tree())


@pytest.mark.parametrize("name", ["_METADATA", "manifest.ocdbt"])
def test_a_missing_file_is_named(tmp_path, name):
    save(tmp_path / "best", some_tree())
    (tmp_path / "best" / name).unlink()
    with pytest.raises(ValueError, match=f"best cannot be read: {name} is missing$"):
        restore(tmp_path / "best", some_tree())


def test_another_shape_is_refused_and_the_leaf_is_named(tmp_path):
    save(tmp_path / "best", some_tree())
    like = some_tree()
    like["params"]["kernel"] = jnp.zeros((3, 4))
    with pytest.raises(ValueError, match="shape") as error:
        restore(tmp_path / "best", like)
    for said in ("params/kernel", "(4, 3)", "(3, 4)"):
        assert said in str(error.value)


def test_other_leaves_are_refused_and_named(tmp_path):
    save(tmp_path / "best", some_tree())
    like = some_tree()
    like["params"]["extra"] = jnp.zeros(2)
    del like["mask"]["kernel"]
    with pytest.raises(ValueError, match="match") as error:
        restore(tmp_path / "best", like)
    for said in ("params/extra", "mask/kernel"):
        assert said in str(error.value)


def test_a_folder_that_is_no_checkpoint_is_not_replaced(tmp_path):
    kept = tmp_path / "thesis"
    kept.mkdir()
    (kept / "chapter1.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="it is not replaced"):
        save(kept, {"w": jnp.ones(2)})
    assert (kept / "chapter1.txt").read_text() == "years of work"


def stored(path):
    """What orbax itself finds, as numpy arrays."""
    with ocp.StandardCheckpointer() as checkpointer:
        tree = checkpointer.metadata(path).item_metadata.tree
        return checkpointer.restore(path, jax.tree.map(lambda m: np.zeros(m.shape, m.dtype), tree))


def test_a_mask_takes_one_bit_a_weight(tmp_path):
    keep = np.zeros((3, 5), bool)
    keep[0, :3] = keep[2, 4] = True
    save(tmp_path / "best", {"params": {"w": np.ones((3, 5))}, "mask": {"w": jnp.asarray(keep)}})
    found = stored(tmp_path / "best")["mask"]["w"]
    assert found.dtype == np.uint8
    assert found.tolist() == [0b11100000, 0b00000010]


@pytest.mark.parametrize("shape", [(), (1,), (8,), (9,), (3, 5)])
def test_a_mask_of_any_shape_comes_back_as_what_is_expected(tmp_path, shape):
    keep = np.random.default_rng(1).random(shape) < 0.5
    save(tmp_path / "best", {"mask": keep})
    for like, kind in (
        (jax.ShapeDtypeStruct(shape, bool), jax.Array),
        (jnp.zeros(shape, bool), jax.Array),
        (np.zeros(shape, bool), np.ndarray),
    ):
        found = restore(tmp_path / "best", {"mask": like})
        assert isinstance(found["mask"], kind)
        assert_bitwise_equal(found, {"mask": keep})


def test_a_mask_of_another_shape_is_refused_though_it_has_as_many_bits(tmp_path):
    save(tmp_path / "best", {"mask": {"w": np.ones((3, 4), bool)}})
    with pytest.raises(ValueError, match=r"mask/w: .* has shape \(3, 4\), .* \(4, 3\)"):
        restore(tmp_path / "best", {"mask": {"w": np.ones((4, 3), bool)}})


def test_a_checkpoint_from_before_masks_were_packed_is_read(tmp_path):
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "old", some_tree())
    assert_bitwise_equal(restore(tmp_path / "old", some_tree(1)), some_tree())


def test_what_orbax_does_not_store_is_refused_before_it_begins(tmp_path):
    with pytest.raises(ValueError, match=r"without elements cannot be saved: a/0, b$"):
        save(tmp_path / "best", {"a": [jnp.ones((0, 3))], "b": np.ones(0, bool), "c": jnp.ones(1)})
    assert not list(tmp_path.iterdir())


EMPTY = np.zeros((0, 3), np.float32), np.zeros((0, 3), bool)


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@example(EMPTY)
@given(masked_trees())
def test_a_sparse_checkpoint_comes_back(tmp_path, tree):
    params, mask = tree
    save_sparse(tmp_path / "sparse", params, mask)
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)
    found = restore_sparse(tmp_path / "sparse", like)
    assert_bitwise_equal(found, (zeroed(params, mask), mask))


def test_a_sparse_checkpoint_holds_what_is_kept_and_no_more(tmp_path):
    params = {"w": jnp.arange(9.0), "b": jnp.ones((2, 2)), "gone": jnp.ones(3)}
    mask = {"w": params["w"] > 5, "b": jnp.ones((2, 2), bool), "gone": jnp.zeros(3, bool)}
    save_sparse(tmp_path / "sparse", params, mask)
    found = stored(tmp_path / "sparse")
    assert found["kept"] == 3 + 4 + 0
    assert jax.tree.map(np.ndarray.tolist, found["params"]) == {
        "w": {"values": [6, 7, 8], "mask": [0b00000011, 0b10000000]},
        "b": {"values": [[1, 1], [1, 1]]},
        "gone": {"mask": [0]},
    }


def test_another_tree_than_the_sparse_one_is_refused_and_the_leaves_named(tmp_path):
    params = {"w": jnp.ones((3, 4)), "b": jnp.ones(3)}
    save_sparse(tmp_path / "sparse", params, {"w": jnp.eye(3, 4) > 0, "b": jnp.ones(3, bool)})
    with pytest.raises(ValueError, match="does not match the tree expected") as error:
        restore_sparse(tmp_path / "sparse", {"w": jnp.ones((4, 3)), "extra": jnp.ones(1)})
    for said in ("(3, 4), the tree expected (4, 3)", "extra: missing", "b: not in", "sparse"):
        assert said in str(error.value)
    with pytest.raises(ValueError, match=r"other dtypes:\n  w: float32 stored, bfloat16 expected$"):
        restore_sparse(tmp_path / "sparse", params | {"w": jnp.ones((3, 4), jnp.bfloat16)})
    with pytest.raises(ValueError, match="mask does not match params"):
        save_sparse(tmp_path / "sparse", params, {"w": jnp.ones((3, 4), bool)})


def test_the_two_kinds_of_checkpoint_are_told_apart(tmp_path):
    params, mask = {"w": jnp.ones(3)}, {"w": jnp.ones(3, bool)}
    save_sparse(tmp_path / "sparse", params, mask)
    with pytest.raises(ValueError, match=r"is sparse: read it with restore_sparse$"):
        restore(tmp_path / "sparse", params)
    save(tmp_path / "dense", params)
    with pytest.raises(ValueError, match=r"it is not sparse; training\.restore may read it$"):
        restore_sparse(tmp_path / "dense", params)
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        restore_sparse(tmp_path / "none", params)


@pytest.mark.parametrize(
    ("part", "changed", "message"),
    [
        ("values", np.ones(4, np.float32), "w: the mask keeps 3 of 9 weights, but the values"),
        ("mask", np.uint8([3, 192]), "w: the mask has bits set beyond the last of 9 weights"),
        ("mask", np.uint8([3]), "w: the mask is uint8"),
        ("mask", None, "w: the values have shape"),
        ("values", None, "w: the mask keeps 3 of 9 weights"),
    ],
)
def test_a_sparse_checkpoint_that_contradicts_itself_is_refused(tmp_path, part, changed, message):
    path = tmp_path / "sparse"
    save_sparse(path, {"w": jnp.arange(9.0)}, {"w": jnp.arange(9) > 5})
    with ocp.StandardCheckpointer() as checkpointer:
        about = checkpointer.metadata(path).custom_metadata
    tree = stored(path)
    parts = tree["params"]["w"] | {part: changed}
    tree["params"]["w"] = {name: array for name, array in parts.items() if array is not None}
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, tree, force=True, custom_metadata=about)
    with pytest.raises(ValueError, match=f"{path} contradicts itself: .*\n  {message}"):
        restore_sparse(path, {"w": jnp.arange(9.0)})


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({"version": 2, "leaves": {}}, "it is sparse in version 2, and only 1 is known"),
        ({"version": 1, "leaves": {"w": 3}}, "w: 3 is no dtype and shape of an array"),
        ({"version": 1}, "leaves"),
        ([], "cannot be read"),
    ],
)
def test_what_a_sparse_checkpoint_says_of_itself_is_checked(tmp_path, about, message):
    with ocp.StandardCheckpointer() as checkpointer:
        tree = {"params": {"w": {"values": np.ones(3)}}}
        checkpointer.save(tmp_path / "c", tree, custom_metadata={"sparse": about})
    with pytest.raises(ValueError, match=f"the checkpoint at {tmp_path / 'c'}.*{message}"):
        restore_sparse(tmp_path / "c", {"w": np.ones(3)})
