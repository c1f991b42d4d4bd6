"""Checkpoints: what is written comes back bit by bit, or the message says why not."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tsjax.training import restore, save


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
