"""Every model goes through the study: trained, pruned, fine-tuned, counted, timed."""

import math

import jax
import numpy as np
import pytest
from conftest import some_long

from tsjax import models, pruning, study, trees

TINY = {
    "seq_len": 12, "label_len": 4, "pred_len": 6, "d_model": 8, "n_heads": 2, "e_layers": 1,
    "d_ff": 8, "epochs": 1, "batch_size": 64, "learning_rate": 5e-3, "densities": (0.5,),
}  # fmt: skip
OWN = {
    "autoformer": {"moving_avg": 5},
    "fedformer": {"moving_avg": 5, "modes": 4},
    "crossformer": {"seg_len": 3, "factor": 2},
}


# Crossformer's programs take half of the time of all five.
@pytest.mark.parametrize("name", some_long(models.MODELS, lambda name: name == "crossformer"))
def test_every_model_goes_through_the_study(name, csv, tmp_path):
    settings = study.StudySettings.make(model=name, dataset=str(csv), **TINY, **OWN.get(name, {}))
    task = study.set_up(settings)
    untrained = task.test(task.forecaster)
    trained = study.train(task, tmp_path)
    assert trained.error.mse < untrained.mse
    again = study.restore(task, tmp_path)
    assert again.error.mse == trained.error.mse
    jax.tree.map(np.testing.assert_array_equal, again.forecaster, trained.forecaster)

    pruner = study.pruner(task, trained, settings)
    (rung,) = study.rungs(task, trained, pruner, settings.densities)
    assert abs(rung.kept - 0.5 * rung.prunable) < 1
    tuned = study.fine_tune(task, trained, pruner, 0.5, 1)
    assert tuned.record.revived == 0
    assert math.isfinite(tuned.record.mse)

    (dense, masked) = study.forward_costs(task, trained, {0.5: tuned.forecaster.mask}, [2])
    assert dense.uncounted == masked.uncounted == {}
    assert 0 < masked.sparse_flops < dense.sparse_flops == dense.flops
    for cost in (dense, masked):
        assert 0 < cost.q1_ms <= cost.median_ms <= cost.q3_ms


def test_frequency_weights_stay_dense_by_default():
    config = models.config("fedformer", enc_in=2, dec_in=2, c_out=2, d_model=8, n_heads=2, d_ff=8)
    params = jax.eval_shape(lambda: models.create(config, jax.random.key(0))).params
    left = {path for path, leaf in trees.by_path(params).items() if not pruning.kernels(path, leaf)}
    for kind in ("encoder", "decoder", "cross"):
        assert {f"{kind}_mixing/real", f"{kind}_mixing/imag"} <= left
