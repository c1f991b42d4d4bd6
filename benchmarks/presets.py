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
    same: dict[str, Any] = {
        "freq": "h", "full_rate_epochs": 1, "decay_every": 1, "lr_floor": 0.0, "split": None,
        "seq_len": 96, "label_len": 48, "drop_last_test": False,
    }  # fmt: skip
    return study.TrainSettings.make(
        preset=preset, size="small", model=name, dataset=DATASET.value, data_dir=DATA_DIR.value,
        pred_len=PRED_LEN.value, epochs=EPOCHS.value, seed=seed, options=options,
        drop_last_train=True, **same,
    )  # fmt: skip


def program(task: study.Task) -> str:
    """The evaluation and the training program, to tell whether a switch matters at these sizes."""
    inputs = models.input_shapes(task.forecaster.config, 2)

    def both(model: models.Forecaster, *inputs: Any) -> Any:
        key, (params, state) = jax.random.key(0), (model.params, model.state)
        return model.forward(params, state, *inputs), model.forward(params, state, *inputs, key=key)

    shapes = jax.eval_shape(lambda: task.forecaster)
    return jax.jit(both).lower(shapes, *inputs).as_text()


def trained(run: study.TrainSettings, log: Path) -> dict[str, Any]:
    """A run's test error, from the log or trained now."""
    command = run.command()
    for line in log.read_text().splitlines() if log.exists() else []:
        if (row := json.loads(line))["command"] == command:
            return row
    folder = log.parent / f"{run.model}-{len(list(log.parent.iterdir()))}"
    folder.mkdir()
    error = study.train(study.set_up(run), folder).error
    row = {"command": command, "mse": error.mse, "mae": error.mae}
    with log.open("a") as file:
        print(json.dumps(row), file=file)
    return row


def main(argv: list[str]) -> None:
    """Trains and prints."""
    del argv
    log = Path(OUT.value) / "results.jsonl"
    log.parent.mkdir(parents=True, exist_ok=True)
    for name in MODELS.value:
        programs: dict[str, str] = {}
        for label, preset, options in variants(name):
            runs = [settings(name, preset, options, seed) for seed in range(SEEDS.value)]
            try:
                first = programs.setdefault(program(study.set_up(runs[0])), label)
            except ValueError as error:
                print(f"| {name} | {label} | refused: {error} |", flush=True)
                continue
            if first != label:
                print(f"| {name} | {label} | the same program as {first} |", flush=True)
                continue
            rows = [trained(run, log) for run in runs]
            mse, mae = ([row[key] for row in rows] for key in ("mse", "mae"))
            cells = f"{np.mean(mse):.3f} | {min(mse):.3f} to {max(mse):.3f} | {np.mean(mae):.3f}"
            print(f"| {name} | {label} | {cells} |", flush=True)


if __name__ == "__main__":
    app.run(main)
