"""What does it save to evaluate, and to fine-tune, several masks of a model at once?

    python benchmarks/lanes.py [--models=transformer] [--sizes=small,large] [--windows=1024]

For each model and size, evaluates masks at 12 densities on test windows, in a Python loop over
masks and batches and by ``training.evaluate_many``; then fine-tunes small models at some of these
densities (``--lanes``) for ``--steps`` steps and one validation, in a loop of ``training.fit`` and
by ``training.fit_many``. The two take turns, so that what slows the machine for a while slows both.
Prints medians, and the median and the quartiles of the turns' ratios; compilation is left out.
"""

import dataclasses
import logging
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from tsjax import costs, models, pruning, study, training

MODELS = flags.DEFINE_list("models", list(models.MODELS), "models to take")
SIZES = flags.DEFINE_list("sizes", ["small", "large"], "small (d_model 64) and large (512)")
DATASET = flags.DEFINE_string("dataset", "synthetic", "data set")
DATA_DIR = flags.DEFINE_string("data_dir", None, "folder of the CSV files")
WINDOWS = flags.DEFINE_integer("windows", 1024, "test windows, 0 for none; a 16th if large")
LANES = flags.DEFINE_list("lanes", ["3"], "how many masks are fine-tuned at once")
STEPS = flags.DEFINE_integer("steps", 8, "fine-tuning steps; 0 for none")
TURNS = flags.DEFINE_integer("turns", 5, "turns of each pair")

DENSITIES = pruning.ladder(0.8, 11)
WIDTHS = {
    "small": {"d_model": 64, "n_heads": 4, "d_ff": 128},
    "large": {"d_model": 512, "n_heads": 8, "d_ff": 2048},
}

Call = Callable[[], np.ndarray]


def set_up(name: str, size: str) -> tuple[study.Task, training.Forecaster]:
    """The task, and its model with fresh weights: what they are is nothing to the time."""
    widths: dict[str, Any] = WIDTHS[size]
    settings = study.TrainSettings.make(
        model=name, dataset=DATASET.value, data_dir=DATA_DIR.value, **widths
    )
    task = study.set_up(settings)
    return task, task.forecaster


def masks_of(forecaster: training.Forecaster) -> list[Any]:
    """A mask at each density."""
    scores = pruning.magnitude(forecaster.params)
    return [pruning.select(scores, density) for density in DENSITIES]


def evaluation(
    task: study.Task, forecaster: training.Forecaster, masks: list[Any], starts: np.ndarray
) -> tuple[Call, Call]:
    """Mean squared errors, mask by mask and batch by batch, and by `training.evaluate_many`."""
    size = task.settings.batch_size

    def one_by_one() -> np.ndarray:
        found = []
        for mask in masks:
            sums = []
            for first in range(0, len(starts), size):
                batch = starts[first : first + size]
                weights = jnp.asarray(np.arange(size) < len(batch), jnp.float32)
                rows = jnp.asarray(np.resize(batch, size))
                sums.append(
                    training.eval_step(
                        forecaster.params, mask, forecaster.state, task.windows, rows, weights,
                        forward=forecaster.forward,
                    )
                )  # fmt: skip
            total = np.sum(np.asarray(jax.device_get(sums), np.float64), axis=0)
            found.append(total[0] / len(starts))
        return np.asarray(found)

    def at_once() -> np.ndarray:
        metrics = training.evaluate_many(
            forecaster, pruning.stack(masks), task.windows, starts, batch_size=size
        )
        return np.asarray([m.mse for m in metrics])

    return one_by_one, at_once


def fine_tuning(
    task: study.Task, forecaster: training.Forecaster, masks: list[Any]
) -> tuple[Call, Call]:
    """One epoch of a few steps, by `training.fit` in a loop and by `training.fit_many`."""
    size = task.settings.batch_size
    data = task.windows, task.starts("train")[: STEPS.value * size], task.starts("val")[:size]
    config = training.FitConfig(epochs=1, batch_size=size, learning_rate=1e-4)
    forecasters = [dataclasses.replace(forecaster, mask=mask) for mask in masks]

    def one_by_one() -> np.ndarray:
        fits = [training.fit(each, *data, config, progress=False) for each in forecasters]
        return np.asarray([fitted.epochs[0].val_mse for fitted in fits])

    def at_once() -> np.ndarray:
        lanes = [training.Lane(each) for each in forecasters]
        fits = training.fit_many(lanes, *data, config, progress=False)
        return np.asarray([fitted.epochs[0].val_mse for fitted in fits])

    return one_by_one, at_once


def in_turns(calls: tuple[Call, Call]) -> tuple[list[float], list[float]]:
    """Median seconds of each call; quartiles and median of the second's ratio to the first's."""
    first, second = (call() for call in calls)
    np.testing.assert_allclose(second, first, rtol=1e-4)
    seconds = []
    for _ in range(TURNS.value):
        turn = []
        for call in calls:
            began = time.perf_counter()
            call()
            turn.append(time.perf_counter() - began)
        seconds.append(turn)
    ratios = [turn[1] / turn[0] for turn in seconds]
    return np.median(seconds, axis=0).tolist(), np.quantile(ratios, [0.25, 0.5, 0.75]).tolist()


def main(argv: list[str]) -> None:
    """Measures and prints."""
    del argv
    logging.getLogger("tsjax").setLevel(logging.WARNING)
    described = costs.device_description()
    print(", ".join(described[k] for k in ("cpu_model", "cpu_count", "device_kind", "jax")))
    print("| model | size | what | one by one, s | at once, s | ratio | its quartiles |")
    print("|---|---|---|---|---|---|---|")
    for name in MODELS.value:
        for size in SIZES.value:
            task, forecaster = set_up(name, size)
            masks = masks_of(forecaster)
            rows = {}
            if WINDOWS.value:
                starts = task.starts("test")[: WINDOWS.value // (16 if size == "large" else 1)]
                what = f"evaluate {len(masks)} masks, {len(starts)} windows"
                rows[what] = evaluation(task, forecaster, masks, starts)
            if size == "small" and STEPS.value:
                for lanes in map(int, LANES.value):
                    chosen = masks[:: len(masks) // lanes][:lanes]
                    what = f"fine-tune {lanes} masks, {STEPS.value} steps"
                    rows[what] = fine_tuning(task, forecaster, chosen)
            for what, calls in rows.items():
                (one, all_), (low, ratio, high) = in_turns(calls)
                print(
                    f"| {name} | {size} | {what} | {one:.2f} | {all_:.2f} | {ratio:.2f} | "
                    f"{low:.2f} to {high:.2f} |",
                    flush=True,
                )


if __name__ == "__main__":
    app.run(main)
