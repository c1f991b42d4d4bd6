"""Several trainings at once: each as if it were alone, side by side or as one program."""

import dataclasses
import logging

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from linear_toy import (
    STARTS,
    counting,
    linear,
    make_forecaster,
    make_mask,
    make_windows,
    noisy,
)

from tsjax import pruning
from tsjax.training import (
    FitConfig,
    Forecaster,
    Lane,
    Windows,
    fit,
    fit_many,
    restore,
    workers,
)
from tsjax.training import lanes as module

TRAIN, VAL = STARTS[:40], STARTS[43:]
QUICK = FitConfig(epochs=3, batch_size=8, learning_rate=1e-2)

# Side by side on a CPU's cores, and two by two as one program: five lanes leave one over.
WAYS = [None, 2]


def five(forward=noisy):
    """Lanes that differ in weights, mask and seed."""
    none = jax.tree.map(jnp.zeros_like, make_mask())
    masks = [None, make_mask(), make_mask(), none, None]
    seeds = [None, 3, 4, None, 5]
    return [
        Lane(make_forecaster(mask, i % 2, forward), seed, label=f"lane {i}")
        for i, (mask, seed) in enumerate(zip(masks, seeds, strict=True))
    ]


def fit_five(lanes, config=QUICK, **options):
    return fit_many(lanes, make_windows(), TRAIN, VAL, config, **options)


def alone(lane, config=QUICK, windows=None, starts=(TRAIN, VAL), **options):
    if lane.seed is not None:
        config = dataclasses.replace(config, seed=lane.seed)
    windows = make_windows() if windows is None else windows
    return fit(lane.forecaster, windows, *starts, config, label=lane.label, **options)


def assert_same(got, expected):
    assert (got.best_epoch, got.ended) == (expected.best_epoch, expected.ended)
    assert len(got.epochs) == len(expected.epochs)
    for one, other in zip(got.epochs, expected.epochs, strict=True):
        numbers = [dataclasses.astuple(epoch)[:-1] for epoch in (one, other)]
        np.testing.assert_allclose(*numbers, rtol=1e-5)
    got, expected = got.forecaster, expected.forecaster
    chex.assert_trees_all_close(got.params, expected.params, rtol=1e-5, atol=1e-7)
    chex.assert_trees_all_equal(got.mask, expected.mask)
    chex.assert_trees_all_close(got.state, expected.state)


@pytest.mark.parametrize("chunk", WAYS)
@pytest.mark.parametrize("drop_last", [True, False])
def test_each_lane_is_fitted_as_it_is_alone(chunk, drop_last):
    # Batches of 12 leave 4 of 40 windows for a last one.
    config = FitConfig(epochs=3, batch_size=12, learning_rate=1e-2, drop_last=drop_last)
    fits = fit_five(five(), config, chunk=chunk)
    for lane, got in zip(five(), fits, strict=True):
        assert_same(got, alone(lane, config))
    errors = {fitted.epochs[0].train_mse for fitted in fits}
    assert len(errors) == 5, "the lanes must differ for this to show anything"


def test_side_by_side_is_alone_bit_by_bit():
    for lane, got in zip(five(), fit_five(five()), strict=True):
        expected = alone(lane)
        chex.assert_trees_all_equal(got.forecaster, expected.forecaster)
        assert [e.val_mse for e in got.epochs] == [e.val_mse for e in expected.epochs]


@pytest.mark.parametrize("chunk", WAYS)
def test_lanes_of_one_seed_see_the_same_batches_and_noise(chunk):
    first, *others = fit_five([Lane(make_forecaster(forward=noisy))] * 3, chunk=chunk)
    for other in others:
        chex.assert_trees_all_equal(other.forecaster, first.forecaster)


@pytest.mark.parametrize("chunk", WAYS)
def test_pruned_weights_come_back_exactly_zero(chunk):
    for lane, fitted in zip(five(), fit_five(five(), chunk=chunk), strict=True):
        params, mask = fitted.forecaster.params, lane.forecaster.mask
        if mask is None:
            assert fitted.forecaster.mask is None
        else:
            chex.assert_trees_all_equal(params, pruning.apply(params, mask))


def test_no_lanes_are_fitted_to_nothing():
    assert fit_five([]) == ()


# Ends of lanes.


def constant(params, state, x_enc, *others, key=None):
    """Forecasts its one weight, whatever it sees; counts its steps in train mode."""
    steps = state["steps"] + (key is not None)
    return jnp.broadcast_to(params["w"], x_enc.shape), {"steps": steps}


def walk(begins, chunk=None, forward=constant, **config):
    """Weights that walk from where they begin to 100 in steps of 0.1; validation is best at 0."""
    values = jnp.float32([0, *[100] * 8, 0, *[0] * 8])[:, None]
    windows = Windows(values, jnp.zeros_like(values), 1, 0, 1)
    starts = np.arange(8), np.arange(9, 17)
    config = FitConfig(**{"batch_size": 4, "learning_rate": 0.1, "lr_decay": 1.0, **config})
    state = {"steps": jnp.int32(0)}
    lanes = [
        Lane(Forecaster(forward, {"w": jnp.float32(w)}, state), label=f"from {w}") for w in begins
    ]
    fits = fit_many(lanes, windows, *starts, config, chunk=chunk)
    return fits, [lambda lane=lane: alone(lane, config, windows, starts) for lane in lanes]


@pytest.mark.parametrize("chunk", [None, 4])
def test_a_lane_that_has_ended_keeps_its_best_whatever_the_others_do(chunk):
    fits, each = walk([0.0, -0.35, -1.5, -0.95], chunk, epochs=6, patience=1)
    for got, expected in zip(fits, each, strict=True):
        assert_same(got, expected())
    assert [fitted.best_epoch for fitted in fits] == [1, 2, 6, 5]
    assert [len(fitted.epochs) for fitted in fits] == [2, 3, 6, 6]
    assert fits[0].ended == "no better validation error in 1 epochs"
    assert fits[2].ended == "all 6 epochs done"
    assert [int(fitted.forecaster.state["steps"]) for fitted in fits] == [2, 4, 12, 10]


def test_training_ends_with_the_last_lane():
    calls = []

    def counted(params, state, *inputs, key=None):
        if key is not None:
            jax.debug.callback(lambda: calls.append(1))
        return constant(params, state, *inputs, key=key)

    walk([0.0, 0.1], 2, counted, epochs=50, patience=1)
    jax.effects_barrier()
    assert len(calls) <= 2 * 2 * 2, "two lanes, two epochs, two steps"


@pytest.mark.parametrize("chunk", [None, 3])
def test_a_lane_that_is_not_finite_does_no_harm_to_the_others(chunk):
    fits, each = walk([-0.5, float("nan"), -0.95], chunk, epochs=4)
    assert_same(fits[0], each[0]())
    assert_same(fits[2], each[2]())
    assert isinstance(fits[1], FloatingPointError)
    with pytest.raises(FloatingPointError) as error:
        each[1]()
    assert str(fits[1]) == str(error.value)
    assert str(fits[1]).startswith("from nan: the error was not finite in epoch 1")


@pytest.mark.parametrize("chunk", [None, 2])
def test_a_lane_that_breaks_later_keeps_its_best(chunk):
    def breaking(params, state, x_enc, *others, key=None):
        forecast, state = constant(params, state, x_enc, key=key)
        return jnp.where(params["w"] > 0.3, jnp.nan, forecast), state

    fits, each = walk([0.0, -0.95], chunk, breaking, epochs=4, patience=4)
    for got, expected in zip(fits, each, strict=True):
        assert_same(got, expected())
    assert fits[0].ended == "the error was not finite in epoch 2"
    assert fits[1].ended == "all 4 epochs done"


# What is written and what is said.


@pytest.mark.parametrize("chunk", WAYS)
def test_each_lane_has_a_checkpoint_of_its_own(chunk, tmp_path):
    folders = [tmp_path / str(i) for i in range(5)]
    lanes = [
        dataclasses.replace(lane, checkpoint=folder)
        for lane, folder in zip(five(), folders, strict=True)
    ]
    for fitted, folder in zip(fit_five(lanes, chunk=chunk), folders, strict=True):
        found = fitted.forecaster
        mask = pruning.ones(found.params) if found.mask is None else found.mask
        want = {"params": found.params, "state": found.state, "mask": mask}
        got = restore(folder, jax.eval_shape(lambda want=want: want))
        chex.assert_trees_all_equal(got, want)
    assert sorted(tmp_path.iterdir()) == folders


@pytest.mark.parametrize("chunk", WAYS)
def test_a_checkpoint_that_cannot_be_written_is_an_error(chunk, tmp_path):
    (tmp_path / "taken").touch()
    lanes = [*five()[:2], dataclasses.replace(five()[2], checkpoint=tmp_path / "taken")]
    with pytest.raises(FileExistsError, match="no checkpoint"):
        fit_five(lanes, chunk=chunk)


@pytest.mark.parametrize("chunk", WAYS)
def test_every_lane_has_its_lines_in_the_log(chunk, caplog):
    caplog.set_level(logging.INFO, logger="tsjax")
    fits = fit_five(five(), chunk=chunk)
    for i, fitted in enumerate(fits):
        lines = [r.getMessage() for r in caplog.records if f"lane {i}," in r.getMessage()]
        assert len(lines) == len(fitted.epochs)
        assert f"validation MSE {fitted.epochs[0].val_mse:.4f}" in lines[0]


@pytest.mark.parametrize("chunk", WAYS)
def test_bars_on_request_and_else_silence(chunk, capsys):
    fit_five(five(), chunk=chunk)
    assert capsys.readouterr() == ("", "")
    fit_five(five(), chunk=chunk, progress=True)
    said = capsys.readouterr().err
    assert all(f"lane {i}" in said for i in range(5))
    assert "epoch 3 of 3" in said


# Programs and memory.


@pytest.mark.parametrize("chunk", WAYS)
def test_other_masks_and_seeds_do_not_compile_again(chunk):
    forward, traces = counting(noisy)
    fit_five(five(forward), chunk=chunk)
    first = list(traces)
    assert sorted(first) == [False, True], "one program to train, one to validate"
    turned = [dataclasses.replace(lane, seed=9) for lane in five(forward)[::-1]]
    fit_five([*turned, turned[0]], chunk=chunk)
    assert traces == first


def test_fit_and_fit_many_share_their_programs():
    forward, traces = counting(noisy)
    alone(five(forward)[1])
    fit_five(five(forward))
    assert sorted(traces) == [False, True]


def spy(monkeypatch, name):
    """Keeps a function of the module, and returns the list of its calls' last arguments."""
    seen, function = [], getattr(module, name)

    def spied(*args):
        seen.append(args[-1])
        return function(*args)

    monkeypatch.setattr(module, name, spied)
    return seen


def step_bytes(monkeypatch):
    """Of the train step for one lane, as `fit_many` sees it."""
    found = []
    with monkeypatch.context() as patch:
        patch.setattr(workers, "fitting", lambda memory, each, most: found.append(each) or 1)
        fit_five(five())
    return found[0]


def test_cores_train_side_by_side_as_far_as_memory_goes(monkeypatch):
    each = step_bytes(monkeypatch)
    monkeypatch.setattr(workers, "cores", lambda: 3)
    threads, run_all = [], workers.run_all

    def counted(calls, count, stop=None):
        threads.append(count)
        return run_all(calls, count, stop)

    monkeypatch.setattr(workers, "run_all", counted)
    for memory in (0, 2 * each, 100 * each):
        fit_five(five(), memory=memory)
    assert [n for n in threads if n > 1] == [2, 3]


def test_elsewhere_than_on_a_cpu_the_chunk_is_what_memory_holds(monkeypatch):
    expected = fit_five(five())
    each = step_bytes(monkeypatch)
    monkeypatch.setattr(workers, "on_cpu", lambda array: False)
    chunks = spy(monkeypatch, "_mapped")
    for memory in (0, 2 * each, 100 * each):
        for got, want in zip(fit_five(five(), memory=memory), expected, strict=True):
            assert_same(got, want)
    assert chunks == [2, 5], "one lane after another needs no map"


def test_settings_of_this_thread_hold_in_the_others():
    seen = []

    def asking(*args, key=None):
        seen.append(jax.config.jax_default_matmul_precision)
        return linear(*args, key=key)

    with jax.default_matmul_precision("bfloat16"):
        fit_five(five(asking))
    assert set(seen) == {"bfloat16"}


def test_in_double_precision():
    with jax.enable_x64(True):
        narrow = make_windows()
        windows = Windows(jnp.float64(narrow.values), jnp.float64(narrow.marks), 6, 2, 3)
        wide = []
        for lane in five(linear):
            params = jax.tree.map(jnp.float64, lane.forecaster.params)
            forecaster = dataclasses.replace(lane.forecaster, params=params)
            wide.append(dataclasses.replace(lane, forecaster=forecaster))
        fits = fit_many(wide, windows, TRAIN, VAL, QUICK)
        for lane, got in zip(wide, fits, strict=True):
            assert got.forecaster.params["kernel"].dtype == np.float64
            expected = alone(lane, windows=windows)
            chex.assert_trees_all_equal(got.forecaster, expected.forecaster)


# Bad input.


def test_lanes_that_are_not_alike_are_refused():
    other = Forecaster(noisy, {"kernel": jnp.zeros((3, 3)), "bias": jnp.zeros(3)}, ())
    with pytest.raises(ValueError, match=r"params/kernel: lane 1 has shape \(3, 3\), lane 0 \(6"):
        fit_five([five()[0], Lane(other)])


def test_lanes_of_another_function_are_refused():
    with pytest.raises(ValueError, match=r"the forward of lane 0, <function noisy .* lane 2 is"):
        fit_five([*five()[:2], five(linear)[2]])


def test_a_chunk_of_none_is_refused():
    with pytest.raises(ValueError, match=r"^chunk must be at least 1, got 0$"):
        fit_five(five(), chunk=0)


@pytest.mark.parametrize(("train", "val"), [(TRAIN[:0], VAL), (TRAIN, VAL[:0])])
def test_no_window_is_an_error(train, val):
    with pytest.raises(ValueError, match=r"lane 0: there is no window to (train|validate) on"):
        fit_many(five(), make_windows(), train, val, QUICK)
