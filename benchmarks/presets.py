"""What does each difference between the published models cost or gain?

    python benchmarks/presets.py --data_dir=DIR [--models=informer,autoformer] [--seeds=3]

For each model, trains the presets, and ``corrected`` with one switch at a time set as another
preset has it; prints a row each with the mean test error over the seeds and how far the seeds lie
apart. A row with the same compiled program as an earlier one is not run. Results already in
``--out`` (one JSON object per line) are not computed again.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import app, flags

from tsjax import models, study

MODELS = flags.DEFINE_list("models", list(models.MODELS), "models to train")
DATASET = flags.DEFINE_string("dataset", "ETTh1", "data set")
DATA_DIR = flags.DEFINE_string("data_dir", None, "folder of the CSV files")
EPOCHS = flags.DEFINE_integer("epochs", 1, "training epochs, at most")
SEEDS = flags.DEFINE_integer("seeds", 3, "runs per row")
PRED_LEN = flags.DEFINE_integer("pred_len", 96, "horizon")
OUT = flags.DEFINE_string("out", "runs/presets", "folder of the runs and of results.jsonl")


def variants(name: str) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Rows of a model: a label, a preset, and options on top of it."""
    presets = models.MODELS[name].config.presets
    for preset in ("corrected", "tslib", "paper"):
        yield f"preset {preset}", preset, ()
    switches = {(k, json.dumps(v)) for preset in presets.values() for k, v in preset.items()}
    for key, value in sorted(switches):
        yield f"{key}={value.strip(chr(34))}", "corrected", (f"{key}={value}",)


def settings(name: str, preset: str, options: tuple[str, ...], seed: int) -> study.TrainSettings:
    """Of one run; the data and the schedule are the same for all presets."""
    same: dict[str, Any] = {"freq": "h", "full_rate_epochs": 1, "drop_last_test": False}
    return study.TrainSettings.make(
        preset=preset, size="small", model=name, dataset=DATASET.value, data_dir=DATA_DIR.value,
        pred_len=PRED_LEN.value, epochs=EPOCHS.value, seed=seed, options=options,
        drop_last_train=True, **same,
    )  # fmt: skip


def program(task: study.Task) -> str:
    """The evaluation and the training program, to tell whether a switch matters at these sizes."""
    inputs = models.input_shapes(task.config, 2)
    shapes = jax.eval_shape(lambda: (task.params, task.state))

    def both(params: Any, state: Any, *inputs: Any) -> Any:
        key = jax.random.key(0)
        return task.forward(params, state, *inputs), task.forward(params, state, *inputs, key=key)

    return jax.jit(both).lower(*shapes, *inputs).as_text()


def main(argv: list[str]) -> None:
    """Trains and prints."""
    del argv
    out = Path(OUT.value)
    out.mkdir(parents=True, exist_ok=True)
    log = out / "results.jsonl"
    lines = log.read_text().splitlines() if log.exists() else []
    done = {(r["model"], r["label"], r["seed"]): r for r in map(json.loads, lines)}
    for name in MODELS.value:
        programs: dict[str, str] = {}
        for label, preset, options in variants(name):
            errors = []
            for seed in range(SEEDS.value):
                if (name, label, seed) not in done:
                    try:
                        task = study.set_up(settings(name, preset, options, seed))
                    except ValueError as error:
                        print(f"| {name} | {label} | not by itself: {error} |", flush=True)
                        break
                    if (first := programs.setdefault(program(task), label)) != label:
                        print(f"| {name} | {label} | the same program as {first} |", flush=True)
                        break
                    folder = out / f"{name}-{label.replace(' ', '-')}-{seed}"
                    folder.mkdir(parents=True, exist_ok=True)
                    error = study.train(task, folder).error
                    row = {"model": name, "label": label, "seed": seed, "mse": error.mse}
                    row |= {"mae": error.mae, "command": task.settings.command()}
                    with log.open("a") as file:
                        print(json.dumps(row), file=file)
                    done[name, label, seed] = row
                errors.append(done[name, label, seed])
            if errors:
                mse, mae = ([e[k] for e in errors] for k in ("mse", "mae"))
                spread = f"{min(mse):.3f} to {max(mse):.3f}"
                print(
                    f"| {name} | {label} | {np.mean(mse):.3f} | {spread} | {np.mean(mae):.3f} |",
                    flush=True,
                )


if __name__ == "__main__":
    app.run(main)
