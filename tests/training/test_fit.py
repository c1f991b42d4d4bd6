"""The training loop: the best epoch's weights, the rate's decay, when it ends, what it says.

Two toys: the linear forecaster, and a single weight whose way through training is known by hand.
"""

import dataclasses
import io
import math
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from linear_toy import STARTS, counting, make_forecaster, make_mask, make_windows, noisy

from tsjax import pruning
from tsjax.training import FitConfig, Forecaster, Windows, evaluate, fit, restore

TRAIN, VAL = STARTS[:40], STARTS[43:]
QUICK = FitConfig(epochs=2, batch_size=8, learning_rate=1e-2)


def fit_linear(config=QUICK, forecaster=None, **options):
    forecaster = make_forecaster() if forecaster is None else forecaster
    return fit(forecaster, make_windows(), TRAIN, VAL, config, **options)


def series(train, val):
    """Windows of length 1 and horizon 1 whose targets are `train`, then `val`."""
    values = jnp.float32([0, *train, 0, *val])[:, None]
    windows = Windows(values, jnp.zeros_like(values), 1, 0, 1)
    starts = np.arange(len(values) - 1)
    return windows, starts[: len(train)], starts[len(train) + 1 :]


def constant(params, state, x_enc, *others, key=None):
    """Forecasts its one weight, whatever it sees."""
    return jnp.broadcast_to(params["w"], x_enc.shape), state


def fit_constant(start, train, val, forward=constant, state=(), **config):
    """Eight windows in batches of four: two steps an epoch, each close to the learning rate."""
    windows, train_starts, val_starts = series([train] * 8, [val] * 4)
    settings = FitConfig(**{"batch_size": 4, "learning_rate": 0.1, "lr_decay": 1.0, **config})
    forecaster = Forecaster(forward, {"w": jnp.float32(start)}, state)
    return fit(forecaster, windows, train_starts, val_starts, settings)


def weight(fitted):
    return float(fitted.forecaster.params["w"])


# Which weights are returned, and when training ends.


def test_the_best_epoch_is_returned_and_not_the_last():
    # The weight walks from -0.5 to 100 in steps of 0.1 and passes 0, where validation is best.
    fitted = fit_constant(-0.5, train=100.0, val=0.0, epochs=8, patience=8)
    errors = [epoch.val_mse for epoch in fitted.epochs]
    assert len(errors) == 8
    assert fitted.best_epoch == 1 + int(np.argmin(errors))
    assert 1 < fitted.best_epoch < 8
    assert fitted.ended == "all 8 epochs done"
    until_then = fit_constant(-0.5, train=100.0, val=0.0, epochs=fitted.best_epoch)
    chex.assert_trees_all_equal(fitted.forecaster, until_then.forecaster)
    np.testing.assert_allclose(weight(fitted) ** 2, min(errors), rtol=1e-6)


def test_the_state_returned_is_the_best_epochs():
    def stateful(params, state, *inputs, key=None):
        return constant(params, state, *inputs)[0], {"steps": state["steps"] + 1}

    fitted = fit_constant(-0.5, 100.0, 0.0, stateful, {"steps": jnp.int32(0)}, epochs=8, patience=8)
    assert fitted.forecaster.state["steps"] == 2 * fitted.best_epoch < 16


@pytest.mark.parametrize("patience", [1, 3])
def test_training_ends_when_patience_does(patience):
    fitted = fit_constant(0.0, train=100.0, val=-1.0, epochs=9, patience=patience)
    assert fitted.best_epoch == 1
    assert [epoch.epoch for epoch in fitted.epochs] == list(range(1, 2 + patience))
    assert fitted.ended == f"no better validation error in {patience} epochs"


def test_an_epoch_that_is_as_good_is_not_better():
    def stuck(params, state, x_enc, *others, key=None):
        return constant(params, state, x_enc)[0] * (0.0 if key is None else 1.0), state

    fitted = fit_constant(0.0, train=1.0, val=1.0, forward=stuck, epochs=9, patience=2)
    assert (fitted.best_epoch, len(fitted.epochs)) == (1, 3)


def test_a_better_epoch_renews_the_patience():
    fitted = fit_constant(-0.95, train=100.0, val=0.0, epochs=20, patience=2)
    assert fitted.best_epoch >= 4
    assert len(fitted.epochs) == fitted.best_epoch + 2


def test_epochs_record_what_evaluate_says():
    fitted = fit_linear(FitConfig(epochs=1, batch_size=8))
    metrics = evaluate(fitted.forecaster, make_windows(), VAL, batch_size=8)
    (epoch,) = fitted.epochs
    assert (epoch.val_mse, epoch.val_mae) == (metrics.mse, metrics.mae)
    assert epoch.seconds > 0


def test_the_train_error_is_the_mean_over_the_epochs_steps():
    fitted = fit_constant(0.0, train=100.0, val=0.0, epochs=1)
    np.testing.assert_allclose(fitted.epochs[0].train_mse, (100**2 + 99.9**2) / 2, rtol=1e-5)


# The learning rate.


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ({"lr_decay": 0.5}, [0.1, 0.05, 0.025, 0.0125]),
        ({"lr_decay": 0.5, "full_rate_epochs": 2}, [0.1, 0.1, 0.05, 0.025]),
        ({"lr_decay": 0.5, "full_rate_epochs": 9}, [0.1, 0.1, 0.1, 0.1]),
        ({"lr_decay": 1.0}, [0.1, 0.1, 0.1, 0.1]),
        ({"lr_decay": 0.5, "decay_every": 2}, [0.1, 0.05, 0.05, 0.025]),
        ({"lr_decay": 0.5, "lr_floor": 0.3}, [0.1, 0.05, 0.03, 0.03]),
    ],
)
def test_the_rate_decays_by_the_epoch(schedule, rates):
    # Far from the target the gradient hardly changes, and Adam's step is the rate itself.
    fitted = fit_constant(0.0, 1e4, 1e4, epochs=4, **schedule)
    np.testing.assert_allclose([epoch.learning_rate for epoch in fitted.epochs], rates, rtol=1e-6)
    assert fitted.best_epoch == 4
    np.testing.assert_allclose(weight(fitted), 2 * sum(rates), rtol=1e-3)


def test_a_rate_that_halves_every_second_epoch_down_to_a_32nd():
    fitted = fit_constant(
        0.0, 1e4, 1e4, epochs=14, lr_decay=0.5, full_rate_epochs=2, decay_every=2, lr_floor=1 / 32
    )
    shares = [1, 1, 1 / 2, 1 / 2, 1 / 4, 1 / 4, 1 / 8, 1 / 8, 1 / 16, 1 / 16, *[1 / 32] * 4]
    rates = [epoch.learning_rate / 0.1 for epoch in fitted.epochs]
    np.testing.assert_allclose(rates, shares, rtol=1e-6)


# Batches.


def ordered(params, state, x_enc, *others, key=None):
    """Keeps the order in which training sees the windows; a window is its first value."""
    if key is not None:
        at, seen = state["at"], state["seen"]
        seen = jax.lax.dynamic_update_slice(seen, x_enc[:, 0, 0], (at,))
        state = {"at": at + len(x_enc), "seen": seen}
    return constant(params, state, x_enc)[0], state


def order_of(n, **config):
    """The windows that two epochs on `n` windows see, in order."""
    values = jnp.arange(n + 4, dtype=jnp.float32)[:, None]
    windows = Windows(values, jnp.zeros_like(values), 1, 0, 1)
    state = {"at": jnp.int32(0), "seen": jnp.full(4 * n, -1.0)}
    starts = np.arange(n)
    settings = FitConfig(epochs=2, lr_decay=1.0, **config)
    forecaster = Forecaster(ordered, {"w": jnp.float32(-100.0)}, state)
    fitted = fit(forecaster, windows, starts, starts[-2:] + 2, settings)
    assert fitted.best_epoch == 2
    state = fitted.forecaster.state
    return np.asarray(state["seen"])[: int(state["at"])].astype(int).tolist()


def test_with_every_batch_each_epoch_sees_each_window_once_in_a_new_order():
    seen = order_of(10, batch_size=4, drop_last=False)
    first, second = seen[:10], seen[10:]
    assert sorted(first) == sorted(second) == list(range(10))
    assert len({tuple(first), tuple(second), tuple(range(10))}) == 3


def test_without_the_incomplete_batch_no_window_comes_twice():
    seen = order_of(10, batch_size=4, drop_last=True)
    assert len(seen) == 16
    assert len(set(seen[:8])) == len(set(seen[8:])) == 8


def test_the_seed_decides_the_order():
    orders = [order_of(10, batch_size=4, seed=seed) for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]


@pytest.mark.parametrize("drop_last", [True, False])
def test_fewer_windows_than_a_batch_train_as_one(drop_last):
    seen = order_of(3, batch_size=32, drop_last=drop_last)
    assert sorted(seen[:3]) == sorted(seen[3:]) == [0, 1, 2]


@pytest.mark.parametrize(("train", "val"), [(TRAIN[:0], VAL), (TRAIN, VAL[:0])])
def test_no_window_is_an_error_before_anything_is_traced(train, val):
    forward, traces = counting()
    with pytest.raises(ValueError, match="no window"):
        fit(make_forecaster(forward=forward), make_windows(), train, val, QUICK)
    assert traces == []


# Masks, seeds and compilation.


def test_pruned_weights_come_back_exactly_zero():
    params = fit_linear(forecaster=make_forecaster(make_mask())).forecaster.params
    chex.assert_trees_all_equal(params, pruning.apply(params, make_mask()))
    assert np.all(params["kernel"][make_mask()["kernel"]] != 0)


def test_what_pruned_nothing_has_no_mask():
    assert fit_linear().forecaster.mask is None
    held = fit_linear(forecaster=make_forecaster(make_mask())).forecaster
    chex.assert_trees_all_equal(held.mask, make_mask())
    found = fit_linear(algorithm=pruning.static_sparse(0.5)).forecaster
    assert pruning.density(found.mask, "kernel") == 0.5


def test_holding_a_mask_as_an_algorithm_is_holding_the_forecasters():
    held = fit_linear(forecaster=make_forecaster(make_mask()))
    by_algorithm = fit_linear(algorithm=pruning.Hold(make_mask()))
    chex.assert_trees_all_equal(by_algorithm.forecaster, held.forecaster)


def test_a_mask_and_an_algorithm_are_refused():
    with pytest.raises(ValueError, match="pass a forecaster without a mask, or no algorithm"):
        fit_linear(forecaster=make_forecaster(make_mask()), algorithm=pruning.Hold(make_mask()))


def test_a_mask_of_another_shape_is_refused():
    other = {"kernel": make_mask()["kernel"].T, "bias": make_mask()["bias"]}
    with pytest.raises(ValueError, match=r"kernel: mask has shape \(3, 6\), params \(6, 3\)"):
        fit_linear(forecaster=make_forecaster(other))


def test_training_beats_the_start():
    before = evaluate(make_forecaster(), make_windows(), VAL)
    fitted = fit_linear(FitConfig(epochs=6, batch_size=8, learning_rate=3e-2))
    assert fitted.epochs[fitted.best_epoch - 1].val_mse < 0.5 * before.mse
    assert fitted.epochs[-1].train_mse < 0.5 * fitted.epochs[0].train_mse


def test_one_seed_decides_bit_by_bit():
    forecaster = make_forecaster(forward=noisy)
    fits = [fit_linear(FitConfig(2, 8, 1e-2, seed=seed), forecaster) for seed in (5, 5, 6)]
    first, again, other = (fitted.forecaster for fitted in fits)
    chex.assert_trees_all_equal(first, again)
    assert [e.val_mse for e in fits[0].epochs] == [e.val_mse for e in fits[1].epochs]
    assert np.any(first.params["kernel"] != other.params["kernel"])


def test_fine_tuning_does_not_compile_again():
    forward, traces = counting()
    dense = fit_linear(forecaster=make_forecaster(forward=forward)).forecaster
    assert sorted(traces) == [False, True]
    for density in (0.5, 0.2):
        mask = pruning.select(pruning.magnitude(dense.params), density)
        fit_linear(FitConfig(2, 8, 1e-2), dataclasses.replace(dense, mask=mask))
    assert sorted(traces) == [False, True]


# Losses that are not finite.


def test_a_first_epoch_that_is_not_finite_is_an_error():
    windows = make_windows()
    broken = Windows(windows.values.at[:5].set(jnp.nan), windows.marks, 6, 2, 3)
    with pytest.raises(FloatingPointError, match="finite") as error:
        fit(make_forecaster(), broken, TRAIN, VAL, QUICK, label="fine-tune")
    assert str(error.value) == (
        "fine-tune: the error was not finite in epoch 1, and no epoch gave a finite validation "
        "error; try a learning rate below 0.01"
    )


def test_a_validation_error_that_is_never_finite_is_an_error():
    with pytest.raises(FloatingPointError, match="no epoch gave a finite validation error"):
        fit_constant(0.0, train=1.0, val=float("nan"), epochs=9, patience=2)


def test_a_loss_that_turns_bad_later_ends_training_and_keeps_the_best():
    def breaking(params, state, *inputs, key=None):
        forecast, _ = constant(params, state, *inputs)
        if key is None:
            return forecast, state
        # Two steps make an epoch: the fourth step is the last of the second.
        broken = jnp.where(state["steps"] == 3, jnp.nan, 1.0)
        return forecast * broken, {"steps": state["steps"] + 1}

    fitted = fit_constant(0.0, 100.0, 100.0, breaking, {"steps": jnp.int32(0)}, epochs=5)
    assert fitted.ended == "the error was not finite in epoch 2"
    assert (fitted.best_epoch, len(fitted.epochs)) == (1, 1)
    np.testing.assert_allclose(weight(fitted), 0.2, rtol=1e-3)


# What is written and what is said.


def test_the_checkpoint_is_the_best_epoch_bit_by_bit(tmp_path):
    def stateful(params, state, *inputs, key=None):
        return constant(params, state, *inputs)[0], {"steps": state["steps"] + 1}

    windows, train, val = series([100.0] * 8, [0.0] * 4)
    params = {"w": jnp.float32(-0.5), "unused": jnp.ones(3)}
    mask = {"w": jnp.asarray(True), "unused": jnp.asarray([True, False, True])}
    fitted = fit(
        Forecaster(stateful, params, {"steps": jnp.int32(0)}, mask), windows, train, val,
        FitConfig(epochs=8, batch_size=4, learning_rate=0.1, lr_decay=1.0),
        checkpoint=tmp_path / "best",
    )  # fmt: skip
    assert 1 < fitted.best_epoch < len(fitted.epochs), "neither the first nor the last is best"
    best = fitted.forecaster
    want = {"params": best.params, "state": best.state, "mask": mask}
    got = restore(tmp_path / "best", jax.eval_shape(lambda: want))
    chex.assert_trees_all_equal(got, want)
    chex.assert_trees_all_equal_dtypes(got, want)
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


@pytest.mark.parametrize("progress", [None, False])
def test_quiet_when_not_on_a_terminal(tmp_path, capsys, progress):
    fit_linear(progress=progress, checkpoint=tmp_path / "best")
    assert capsys.readouterr() == ("", "")


def test_a_bar_on_request(capsys):
    fit_linear(progress=True, label="fine-tune at 0.5")
    said = capsys.readouterr()
    assert said.out == ""
    assert "fine-tune at 0.5, epoch 2 of 2" in said.err
    assert "/10" in said.err


@pytest.mark.parametrize(("progress", "shown"), [(None, True), (False, False)])
def test_a_bar_on_a_terminal_unless_told_otherwise(monkeypatch, progress, shown):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    fit_linear(progress=progress)
    assert bool(sys.stderr.getvalue()) is shown


# Settings.


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("epochs", 0, "epochs must be at least 1, got 0"),
        ("batch_size", 0, "batch_size must be at least 1, got 0"),
        ("full_rate_epochs", 0, "full_rate_epochs must be at least 1, got 0"),
        ("patience", -1, "patience must be at least 1, got -1"),
        ("learning_rate", 0.0, "learning_rate must be positive, got 0.0"),
        ("learning_rate", math.nan, "learning_rate must be positive, got nan"),
        ("learning_rate", math.inf, "learning_rate must be positive, got inf"),
        ("lr_decay", 0.0, "lr_decay must be in (0, 1], got 0.0"),
        ("lr_decay", 1.5, "lr_decay must be in (0, 1], got 1.5"),
        ("decay_every", 0, "decay_every must be at least 1, got 0"),
        ("lr_floor", -0.1, "lr_floor must be in [0, 1], got -0.1"),
        ("lr_floor", 1.5, "lr_floor must be in [0, 1], got 1.5"),
    ],
)
def test_settings_out_of_range_are_refused(name, value, said):
    with pytest.raises(ValueError, match="must be") as error:
        FitConfig(**{name: value})
    assert str(error.value) == said


def test_a_negative_seed_is_refused():
    with pytest.raises(ValueError, match=r"seed must be at least 0 and below 2\*\*32, got -1"):
        FitConfig(seed=-1)


def test_all_settings_out_of_range_are_listed():
    with pytest.raises(ValueError, match="must be") as error:
        FitConfig(epochs=0, learning_rate=-1.0, lr_decay=2.0, patience=0)
    assert str(error.value) == (
        "epochs must be at least 1, got 0; patience must be at least 1, got 0; "
        "learning_rate must be positive, got -1.0; lr_decay must be in (0, 1], got 2.0"
    )
