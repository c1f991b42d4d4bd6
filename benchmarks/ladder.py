"""What does it save to evaluate, and to fine-tune, all rungs of a ladder at once?

    python benchmarks/ladder.py [--models=transformer] [--sizes=small,large] [--windows=1024]

For each model and size, evaluates masks at 12 densities on test windows, in a Python loop over
masks and batches and by ``training.evaluate_many``; then fine-tunes small models at 3 densities
for ``--steps`` steps, one by one and by ``training.fit_many``. The two take turns, so that what
slows the machine for a while slows both. Prints medians and the median of the turns' ratios;
compilation is left out.
"""

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
WINDOWS = flags.DEFINE_integer("windows", 1024, "test windows; large models get a sixteenth")
STEPS = flags.DEFINE_integer("steps", 8, "fine-tuning steps; 0 for none")
TURNS = flags.DEFINE_integer("turns", 5, "turns of each pair")

DENSITIES = pruning.ladder(0.8, 11)
WIDTHS = {
    "small": {"d_model": 64, "n_heads": 4, "d_ff": 128},
    "large": {"d_model": 512, "n_heads": 8, "d_ff": 2048},
}


def set_up(name: str, size: str) -> study.Task:
    """The task, with fresh weights: what they are is nothing to the time."""
    widths: dict[str, Any] = WIDTHS[size]
    settings = study.TrainSettings.make(
        model=name, dataset=DATASET.value, data_dir=DATA_DIR.value, **widths
    )
    return study.set_up(settings)


def masks_of(task: study.Task, densities: tuple[float, ...]) -> list[Any]:
    """A mask at each density."""
    scores = pruning.magnitude(task.params)
    return [pruning.select(scores, density) for density in densities]


def loop(task: study.Task, starts: np.ndarray, masks: list[Any]) -> np.ndarray:
    """Mean squared errors, mask by mask and batch by batch."""
    size = task.settings.batch_size
    found = []
    for mask in masks:
        sums = []
        for first in range(0, len(starts), size):
            batch = starts[first : first + size]
            weights = jnp.asarray(np.arange(size) < len(batch), jnp.float32)
            rows = jnp.asarray(np.resize(batch, size))
            sums.append(
                training.eval_step(
                    task.params, mask, task.state, task.windows, rows, weights, forward=task.forward
                )
            )
        found.append(np.sum(np.asarray(jax.device_get(sums), np.float64), axis=0)[0] / len(starts))
    return np.asarray(found)


def at_once(task: study.Task, starts: np.ndarray, masks: list[Any]) -> np.ndarray:
    """The same by `training.evaluate_many`."""
    metrics = training.evaluate_many(
        task.forward, task.params, task.state, task.windows, starts, masks=pruning.stack(masks),
        batch_size=task.settings.batch_size,
    )  # fmt: skip
    return np.asarray([m.mse for m in metrics])


def fine_tuning(task: study.Task, masks: list[Any]) -> tuple[Callable[[], np.ndarray], ...]:
    """One epoch of a few steps, by `training.fit` in a loop and by `training.fit_many`."""
    size = task.settings.batch_size
    data = task.windows, task.starts("train")[: STEPS.value * size], task.starts("val")[:size]
    config = training.FitConfig(epochs=1, batch_size=size, learning_rate=1e-4)
    model = task.params, task.state

    def one_by_one() -> np.ndarray:
        fits = [
            training.fit(task.forward, *model, *data, config, mask=mask, progress=False)
            for mask in masks
        ]
        return np.asarray([fitted.epochs[0].val_mse for fitted in fits])

    def at_once() -> np.ndarray:
        lanes = [training.Lane(*model, mask) for mask in masks]
        fits = training.fit_many(task.forward, lanes, *data, config, progress=False)
        return np.asarray([fitted.epochs[0].val_mse for fitted in fits])

    return one_by_one, at_once


def in_turns(*calls: Callable[[], np.ndarray]) -> tuple[list[float], float]:
    """Median seconds of each call, and the median ratio of the second's to the first's."""
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
    return [float(m) for m in np.median(seconds, axis=0)], float(np.median(ratios))


def main(argv: list[str]) -> None:
    """Measures and prints."""
    del argv
    logging.getLogger("tsjax").setLevel(logging.WARNING)
    described = costs.device_description()
    print(", ".join(described[k] for k in ("cpu_model", "cpu_count", "device_kind", "jax")))
    print("| model | size | what | one by one, s | at once, s | ratio |")
    print("|---|---|---|---|---|---|")
    for name in MODELS.value:
        for size in SIZES.value:
            task = set_up(name, size)
            starts = task.starts("test")[: WINDOWS.value // (16 if size == "large" else 1)]
            masks = masks_of(task, DENSITIES)
            rows = {
                f"evaluate {len(masks)} masks, {len(starts)} windows": (
                    lambda: loop(task, starts, masks),  # noqa: B023
                    lambda: at_once(task, starts, masks),  # noqa: B023
                )
            }
            if size == "small" and STEPS.value:
                rows[f"fine-tune 3 masks, {STEPS.value} steps"] = fine_tuning(task, masks[::4])
            for what, calls in rows.items():
                (one, all_), ratio = in_turns(*calls)
                print(
                    f"| {name} | {size} | {what} | {one:.2f} | {all_:.2f} | {ratio:.2f} |",
                    flush=True,
                )


if __name__ == "__main__":
    app.run(main)
