"""The accuracies in the docs: what pruning costs, with mean and spread over seeds.

    python benchmarks/accuracy.py --data_dir=DIR [--tables=ladder,pals] [--seeds=3]

Runs `experiments/prune_unstructured.py` (the table `ladder`, in README) and
`experiments/train_sparse.py` (the table `pals`, in docs/masks.md) once for each model and seed, at
the small size on ETTh1 with horizon 96, and prints a Markdown table of test errors. A cell is the
mean over the seeds and their standard deviation.

A run lies in its own folder below ``--out``, beside the commit that it was made with. A run that is
there is not made again, so the script can be stopped at any time and started again.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags

from tsjax import models

TABLES = flags.DEFINE_list("tables", ["ladder", "pals"], "tables to print")
MODELS = flags.DEFINE_list("models", list(models.MODELS), "models to train")
SEEDS = flags.DEFINE_integer("seeds", 3, "runs of each model")
DATA_DIR = flags.DEFINE_string("data_dir", None, "folder of the CSV files", required=True)
OUT = flags.DEFINE_string("out", "runs/accuracy", "folder of the runs")

ROOT = Path(__file__).resolve().parents[1]
DENSITIES = (1.0, 0.5, 0.328, 0.107)
TASK = ("--dataset=ETTh1", "--pred_len=96")
LADDER = (
    f"--densities={','.join(f'{d:g}' for d in DENSITIES)}",
    # The first is the control: the dense model trained on for as long as the pruned one.
    "--finetune_densities=1,0.107",
)


def commit() -> str:
    """The commit of the code that runs, marked where files have been changed since."""
    command = ["git", "describe", "--always", "--dirty"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "no commit"


def result(name: str, script: str, file: str, arguments: Sequence[str]) -> dict[str, Any]:
    """The result of a run, made now unless it is there."""
    folder = Path(OUT.value) / name
    if not (folder / file).is_file():
        path = ROOT / "experiments" / f"{script}.py"
        made_with = commit()
        command = [sys.executable, str(path), *arguments, f"--data_dir={DATA_DIR.value}"]
        subprocess.run([*command, f"--out_dir={folder}"], check=True, stdout=subprocess.DEVNULL)
        (folder / "commit").write_text(f"{made_with}\n")
    found: dict[str, Any] = json.loads((folder / file).read_text())
    found["commit"] = (folder / "commit").read_text().strip()
    return found


def cell(errors: Sequence[dict[str, Any]]) -> str:
    """Mean and standard deviation of both errors over the seeds."""
    return " / ".join(
        f"{np.mean(each):.3f} ± {np.std(each, ddof=1) if len(each) > 1 else 0:.3f}"
        for each in ([error[key] for error in errors] for key in ("mse", "mae"))
    )


def share(kept: Sequence[float]) -> str:
    """Mean and standard deviation of shares, in per cent."""
    spread = np.std(kept, ddof=1) if len(kept) > 1 else 0
    return f"{100 * np.mean(kept):.0f} ± {100 * spread:.0f} %"


def print_ladder() -> list[dict[str, Any]]:
    """Errors at each density, and after fine-tuning beside the control."""
    runs = {
        model: [
            result(
                f"ladder-{model}-{seed}",
                "prune_unstructured",
                "pruning.json",
                [*TASK, *LADDER, f"--model={model}", f"--seed={seed}"],
            )
            for seed in range(SEEDS.value)
        ]
        for model in MODELS.value
    }
    rows: dict[str, Callable[[dict[str, Any]], Any]] = {"dense": lambda run: run["dense"]}
    for density in DENSITIES[1:]:
        rows[f"pruned to {density}"] = lambda run, d=density: _at(run["ladder"], d)
    rows["dense, trained on (control)"] = lambda run: _tuned(run["finetuned"], 1.0)
    rows["0.107, fine-tuned"] = lambda run: _tuned(run["finetuned"], DENSITIES[-1])
    print(f"| test MSE / MAE | {' | '.join(runs)} |\n|---|{'---|' * len(runs)}")
    for label, error in rows.items():
        cells = (cell([error(run) for run in each]) for each in runs.values())
        print(f"| {label} | {' | '.join(cells)} |")
    return [run for each in runs.values() for run in each]


def print_pals() -> list[dict[str, Any]]:
    """What PALS keeps of each model, and the errors beside the dense model's."""
    print("| model | parameters kept | prunable ones kept | FLOPs, zeros skipped | dense | PALS |")
    print("|---|---|---|---|---|---|")
    everything = []
    variants = [(model, "") for model in MODELS.value]
    variants += [("fedformer", "--prune_complex")] * ("fedformer" in MODELS.value)
    for model, more in variants:
        runs = [
            result(
                f"pals-{model}{more.strip('-')}-{seed}",
                "train_sparse",
                "sparse.json",
                [
                    *TASK,
                    "--method=pals",
                    f"--model={model}",
                    f"--seed={seed}",
                    *[more][: len(more)],
                ],
            )
            for seed in range(SEEDS.value)
        ]
        everything += runs
        sparse = [run["sparse"] for run in runs]
        ratios = (("nonzero", "params"), ("kept", "prunable"), ("sparse_flops", "flops"))
        kept = (share([s[a] / s[b] for s in sparse]) for a, b in ratios)
        errors = (cell([run["dense"] for run in runs]), cell(sparse))
        print(f"| {' | '.join([f'{model} {more}'.strip(), *kept, *errors])} |")
    return everything


def _at(rungs: Sequence[dict[str, Any]], density: float) -> dict[str, Any]:
    return next(rung for rung in rungs if rung["asked"] == density)


def _tuned(tuned: Sequence[dict[str, Any]], density: float) -> dict[str, Any]:
    return next(each for each in tuned if each["rung"]["asked"] == density)


def main(argv: list[str]) -> None:
    """Runs what is missing, and prints."""
    del argv
    tables = {"ladder": print_ladder, "pals": print_pals}
    for name in TABLES.value:
        runs = tables[name]()
        versions = {json.dumps(run["versions"], sort_keys=True) for run in runs}
        print(f"\ncommits: {', '.join(sorted({run['commit'] for run in runs}))}")
        print("\n".join(sorted(versions)), end="\n\n")


if __name__ == "__main__":
    app.run(main)
