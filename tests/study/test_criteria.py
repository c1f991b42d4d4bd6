"""Masks as the settings ask: criteria, scopes, blocks and complex weights on a trained model."""

import functools
import types

import jax
import numpy as np
import pytest

from tsjax import models, pruning, study, trees
from tsjax.study import criteria, prunable

TINY = {
    "seq_len": 12, "label_len": 4, "pred_len": 6, "d_model": 8, "n_heads": 2, "e_layers": 1,
    "d_ff": 8, "batch_size": 16, "calibration_batches": 3,
}  # fmt: skip
TINY_SPARSE = {name: value for name, value in TINY.items() if name != "calibration_batches"}


@functools.cache
def parts(model="transformer"):
    """A task and its untrained model: how weights are scored does not depend on training."""
    own = {"moving_avg": 5, "modes": 3} if model == "fedformer" else {}
    task = study.set_up(study.PruneSettings.make(model=model, **own, **TINY))
    return task, study.Trained(task.forecaster, None, None)


def pruner(model="transformer", **given):
    task, trained = parts(model)
    return study.pruner(task, trained, study.PruneSettings.make(model=model, **TINY, **given))


def leaves(mask):
    return np.concatenate([np.asarray(leaf).ravel() for leaf in jax.tree.leaves(mask)])


@pytest.mark.parametrize("criterion", criteria.CRITERIA)
def test_every_criterion_gives_exact_masks_of_its_own(criterion):
    mask = pruner(criterion=criterion).mask(0.3)
    kept, prunable = pruning.count(mask, pruning.kernels)
    assert kept == prunable - round(0.7 * prunable)
    if criterion != "magnitude":
        assert np.any(leaves(mask) != leaves(pruner().mask(0.3)))


def test_another_criterion_is_a_function_and_a_row_of_the_table(monkeypatch):
    def mostly_the_first(task, trained, batches, where):
        return jax.tree.map(
            lambda w: abs(w).at[(0,) * w.ndim].multiply(10), trained.forecaster.params
        )

    monkeypatch.setitem(study.CRITERIA, "toy", mostly_the_first)
    first = [leaf.ravel()[0] for leaf in jax.tree.leaves(pruner(criterion="toy").scores)]
    assert first == [10 * abs(w.ravel()[0]) for w in jax.tree.leaves(parts()[1].forecaster.params)]
    kept, prunable = pruning.count(pruner(criterion="toy").mask(0.3), pruning.kernels)
    assert kept == prunable - round(0.7 * prunable)


def test_the_default_is_the_published_studys_global_magnitude():
    _, trained = parts()
    expected = pruning.select(pruning.magnitude(trained.forecaster.params), 0.3)
    np.testing.assert_array_equal(leaves(pruner().mask(0.3)), leaves(expected))


def test_saliency_is_the_mean_over_calibration_batches():
    task, trained = parts()
    starts = list(criteria.calibration(task, 3))
    assert [len(batch) for batch in starts] == [16] * 3
    rows = np.concatenate(starts)
    assert len(set(rows.tolist())) == 48
    # Spread over the training part, not its beginning.
    assert rows.max() > 0.9 * task.starts("train").max()

    def loss(params, starts):
        batch = task.windows.gather(starts)
        state = trained.forecaster.state
        forecast, _ = trained.forecaster.forward(params, state, *batch.inputs)
        return ((forecast - batch.target) ** 2).mean()

    grads = [jax.jit(jax.grad(loss))(trained.forecaster.params, batch) for batch in starts]
    mean = jax.tree.map(lambda *g: sum(map(abs, g)) / 3, *grads)
    expected = jax.tree.map(lambda w, g: abs(w) * g, trained.forecaster.params, mean)
    got = pruner(criterion="saliency").scores
    for want, have in zip(jax.tree.leaves(expected), jax.tree.leaves(got), strict=True):
        np.testing.assert_allclose(have, want, rtol=2e-4, atol=1e-9)


def test_scopes_and_blocks():
    by_leaf = pruner(scope="leaf").mask(0.5)
    for path, (kept, size) in pruning.summary(by_leaf).items():
        if pruning.kernels(path, np.ones((2, 2))) and path.endswith("kernel"):
            assert kept in (size // 2, size - size // 2) or "output_projection" in path, path
    erk = pruner(scope="erk").mask(0.5)
    assert pruning.count(erk, pruning.kernels) == pruning.count(pruner().mask(0.5), pruning.kernels)
    block = pruner(block=(2, 2)).mask(0.5)
    kernel = np.asarray(block["encoder"]["layer_0"]["feed_forward"]["up"]["kernel"])
    kernel = kernel[: kernel.shape[0] // 2 * 2].reshape(-1, 2, kernel.shape[1] // 2, 2)
    assert np.all(kernel.all((1, 3)) == kernel.any((1, 3)))


SMALL = {
    "seq_len": 12, "label_len": 6, "pred_len": 6, "d_model": 14, "n_heads": 2, "d_ff": 10,
    "e_layers": 1, "modes": 3, "seg_len": 6, "factor": 2,
}  # fmt: skip
FORECASTS = ("output_projection/kernel",)
TRENDS = ("decoder/layer_0/trend_projection/kernel", "output_projection/kernel")
PREDICTIONS = tuple(f"decoder/layer_{i}/output_projection/kernel" for i in range(2))


def exempt(name, where, **fields):
    """The kernels of a model that ``where`` leaves out."""
    given = {"enc_in": 7, "dec_in": 7, "c_out": 7, **SMALL, **fields}
    known = models.fields(name)
    config = models.config(name, "paper", **{k: v for k, v in given.items() if k in known})
    forecaster = jax.eval_shape(lambda: models.create(config, jax.random.key(0)))
    params, task = forecaster.params, types.SimpleNamespace(forecaster=forecaster)
    prunes = prunable.EXEMPT[where](task)
    kernels = {p: v for p, v in trees.by_path(params).items() if pruning.all_kernels(p, v)}
    return tuple(path for path, leaf in kernels.items() if not prunes(path, leaf))


@pytest.mark.parametrize(
    ("name", "by_role", "of_seven"),
    [
        ("transformer", FORECASTS, FORECASTS),
        ("informer", FORECASTS, FORECASTS),
        ("autoformer", FORECASTS, TRENDS),
        ("fedformer", FORECASTS, TRENDS),
        ("crossformer", PREDICTIONS, ()),
    ],
)
def test_what_is_exempt_by_its_role_and_by_the_published_studys_rule(name, by_role, of_seven):
    assert exempt(name, "output_projection") == by_role
    assert exempt(name, "seven_outputs") == of_seven
    eight = {"enc_in": 8, "dec_in": 8, "c_out": 8}
    assert exempt(name, "output_projection", **eight) == by_role
    assert exempt(name, "seven_outputs", **eight) == ()


def test_the_published_studys_rule_is_the_number_of_a_whole_layers_outputs():
    # Heads are 7 wide here, but a layer has both.
    assert exempt("transformer", "seven_outputs", d_model=14, n_heads=2) == FORECASTS
    one_head = [f"{block}_attention" for block in ("self", "cross")]
    narrow = exempt("transformer", "seven_outputs", d_model=7, n_heads=1, d_ff=7)
    assert {f"decoder/layer_0/{block}/query/kernel" for block in one_head} <= set(narrow)
    assert "encoder/layer_0/feed_forward/up/kernel" in narrow
    assert exempt("crossformer", "seven_outputs", seg_len=7) == PREDICTIONS
    wavelets = exempt("fedformer", "seven_outputs", version="wavelets", wavelet_c=7, cross_c=2)
    assert wavelets == TRENDS


@pytest.mark.parametrize("preset", ["corrected", "tslib", "paper"])
def test_what_a_preset_prunes(preset):
    settings = study.PruneSettings.make(preset=preset, size="small", model="crossformer", **TINY)
    task = study.set_up(settings)
    trained = study.Trained(task.forecaster, None, None)
    found = study.pruner(task, trained, settings)
    kept = pruning.summary(found.mask(0.1))["decoder/layer_0/output_projection/kernel"]
    assert (kept[0] < kept[1]) is (preset == "paper")
    sparse = study.SparseSettings.make(
        preset=preset, size="small", model="crossformer", **TINY_SPARSE
    )
    assert prunable.prunable(task, sparse.exempt, prune_complex=False) is found.where


def test_fourier_weights_are_pruned_by_choice_and_counted_once():
    dense, mask = (pruner("fedformer", prune_complex=c) for c in (False, True))
    assert pruning.density(dense.mask(0.5), pruning.complex_pairs) == 1
    both = mask.mask(0.5)
    kept, prunable = pruning.count(both, mask.where)
    assert kept == prunable - round(0.5 * prunable)
    assert pruning.density(both, pruning.complex_pairs) < 1
    by_path = trees.by_path(both)
    real = [leaf for path, leaf in by_path.items() if path.endswith("/real")]
    imag = [leaf for path, leaf in by_path.items() if path.endswith("/imag")]
    assert len(real) > 0
    jax.tree.map(np.testing.assert_array_equal, real, imag)
