"""Training sparse: each method reaches its density, and what it leaves can be read back."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from conftest import some_long

from tsjax import pruning, study, training
from tsjax.study.sparse import METHODS

TINY = {
    "seq_len": 12, "label_len": 4, "pred_len": 6, "d_model": 8, "n_heads": 2, "e_layers": 1,
    "d_ff": 8, "epochs": 3, "batch_size": 64, "learning_rate": 5e-3, "density": 0.3,
    "mask_every": 3, "loss_windows": 8,
}  # fmt: skip


# How a method moves its mask is tested with pruning, for all of them.
@pytest.mark.parametrize("method", some_long(METHODS, lambda m: m in ("set", "static")))
def test_every_method_trains_to_its_density(method, csv, tmp_path):
    settings = study.SparseSettings.make(method=method, dataset=str(csv), **TINY)
    task = study.set_up(settings)
    found = study.train_sparse(task, settings, tmp_path)
    record = found.record
    assert record.mse < task.test(task.forecaster).mse
    assert record.params - record.nonzero == record.prunable - record.kept
    assert 0 < record.sparse_flops < record.flops
    if method == "pals":
        assert record.kept < record.prunable
    else:
        assert abs(record.kept - 0.3 * record.prunable) < 1
        # Best is an epoch at the density asked for, not a dense one before.
        assert method not in ("gradual", "straight_through") or record.training.best_epoch >= 2

    fresh = task.forecaster
    like = {"params": fresh.params, "state": fresh.state, "mask": pruning.ones(fresh.params)}
    stored = training.restore(tmp_path / "checkpoint", like)
    jax.tree.map(np.testing.assert_array_equal, stored["mask"], found.forecaster.mask)
    assert task.test(dataclasses.replace(fresh, **stored)).mse == record.mse
    if method != "straight_through":
        zeroed = pruning.apply(stored["params"], stored["mask"])
        jax.tree.map(np.testing.assert_array_equal, zeroed, stored["params"])
    assert json.loads((tmp_path / "settings.json").read_text())["method"] == method


def test_bad_settings_are_all_named():
    with pytest.raises(ValueError, match="density") as error:
        study.SparseSettings(
            density=0, mask_every=0, loss_windows=-1, loss_tolerance=0.9, method="pal"
        )
    assert str(error.value) == (
        "method is 'pal' (did you mean 'pals'?): use one of pals, gradual, straight_through, rigl, "
        "set, static; density must be in (0, 1], got 0; mask_every must be at least 1, got 0; "
        "loss_tolerance must be at least 1, got 0.9; loss_windows must be at least 0, got -1"
    )
