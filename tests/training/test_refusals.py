"""What is refused: forecasts of another shape than the target, windows outside the series."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from linear_toy import STARTS, C, L, P, T, linear, make_forecaster, make_mask, make_windows

from tsjax import pruning
from tsjax.training import (
    FitConfig,
    Lane,
    eval_step,
    evaluate,
    evaluate_many,
    fit,
    fit_many,
    init_state,
    predict,
    predict_step,
    train_step,
)
from tsjax.training.steps import train_steps

TRAIN, VAL = STARTS[:16], STARTS[43:]
ONCE = FitConfig(epochs=1, batch_size=8)
LAST = T - L - P


def lanes(forecaster):
    return [Lane(forecaster), Lane(forecaster, seed=1)]


def masks():
    return pruning.stack([make_mask(), make_mask()])


# Each with the starts that are not those of a window in the place of one of its arguments.
ENTRIES = {
    "fit": lambda f, w, s: fit(f, w, s, VAL, ONCE),
    "fit, validation": lambda f, w, s: fit(f, w, TRAIN, s, ONCE),
    "fit, loss": lambda f, w, s: fit(
        f, w, TRAIN, VAL, ONCE, algorithm=pruning.pals(4, every=1), loss_starts=s
    ),
    "fit_many": lambda f, w, s: fit_many(lanes(f), w, s, VAL, ONCE),
    "fit_many, validation": lambda f, w, s: fit_many(lanes(f), w, TRAIN, s, ONCE),
    "fit_many, mapped": lambda f, w, s: fit_many(lanes(f), w, s, VAL, ONCE, chunk=2),
    "evaluate": lambda f, w, s: evaluate(f, w, s),
    "evaluate_many": lambda f, w, s: evaluate_many(f, masks(), w, s),
    "evaluate_many, mapped": lambda f, w, s: evaluate_many(f, masks(), w, s, chunk=2),
    "predict": lambda f, w, s: predict(f, w, s),
}
CALLED = {
    "fit": "train: train_starts",
    "fit, validation": "train: val_starts",
    "fit, loss": "train: loss_starts",
    "fit_many": "train: train_starts",
    "fit_many, validation": "train: val_starts",
    "fit_many, mapped": "train: train_starts",
}

ADAM = optax.adam(1e-3)
BATCH = jnp.arange(8)


def started(forecaster):
    params, key = forecaster.params, jax.random.key(0)
    return init_state(params, (), pruning.ones(params), ADAM, key)


STEPS = {
    "train_step": lambda f: train_step(
        started(f), make_windows(), BATCH, forward=f.forward, tx=ADAM
    ),
    "train_steps": lambda f: train_steps(
        pruning.stack([started(f)] * 2), make_windows(), jnp.stack([BATCH] * 2),
        forward=f.forward, tx=ADAM,
    ),
    "predict_step": lambda f: predict_step(
        f.params, make_mask(), (), make_windows(), BATCH, forward=f.forward
    ),
    "eval_step": lambda f: eval_step(
        f.params, make_mask(), (), make_windows(), BATCH, jnp.ones(8), forward=f.forward
    ),
}  # fmt: skip


def one_channel(*args, key=None):
    forecast, state = linear(*args)
    return forecast[..., :1], state


def one_step(*args, key=None):
    forecast, state = linear(*args)
    return forecast[:, :1], state


def no_channel(*args, key=None):
    forecast, state = linear(*args)
    return forecast[..., 0], state


# NumPy would stretch the first two to the target's shape.
FORECASTS = {one_channel: (P, 1), one_step: (1, C), no_channel: (P,)}


def refuses_the_shape(call, forward):
    with pytest.raises(ValueError, match="forward must return") as error:
        call(make_forecaster(forward=forward))
    got, target = re.match(
        r"the forecast has shape \(\d+, ([\d, ]+)\), and the target \(\d+, ([\d, ]+)\)",
        str(error.value),
    ).groups()
    assert tuple(map(int, got.split(","))) == FORECASTS[forward]
    assert target == f"{P}, {C}"


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_forecast_of_one_channel_is_refused(entry):
    starts = STARTS[:8]
    refuses_the_shape(lambda f: ENTRIES[entry](f, make_windows(), starts), one_channel)


@pytest.mark.parametrize("forward", FORECASTS)
@pytest.mark.parametrize("step", STEPS)
def test_each_step_refuses_a_forecast_of_another_shape(step, forward):
    refuses_the_shape(STEPS[step], forward)


OUTSIDE = (
    ": {} of {} windows do not lie within the series, the first of them at {}: with "
    f"{T} rows, seq_len {L} and pred_len {P}, windows begin at rows 0 to {LAST}"
)
NO_ROWS = " must be whole numbers [N], the first rows of windows; got {} of shape {}"


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize(
    ("starts", "said"),
    [
        ([LAST, LAST + 1, 3, 99], OUTSIDE.format(2, 4, LAST + 1)),
        ([-1, 0], OUTSIDE.format(1, 2, -1)),
        ([0.0, 1.0], NO_ROWS.format("float64", (2,))),
        ([[0, 1]], NO_ROWS.format("int64", (1, 2))),
    ],
)
def test_windows_outside_the_series_are_refused(entry, starts, said):
    with pytest.raises(ValueError, match="windows") as error:
        ENTRIES[entry](make_forecaster(), make_windows(), np.asarray(starts))
    assert str(error.value) == CALLED.get(entry, "starts") + said
