"""The scripts through the real command line: what they leave behind, and what they refuse."""

import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT

TINY = [
    "--d_model=8", "--n_heads=2", "--d_ff=8", "--e_layers=1", "--seq_len=24", "--label_len=12",
    "--pred_len=6", "--epochs=1", "--batch_size=256", "--finetune_epochs=1",
    "--densities=1,0.5,0.1", "--finetune_densities=0.3", "--cost_batches=1,2",
]  # fmt: skip
TRAIN = [flag for flag in TINY if "densit" not in flag and "finetune" not in flag][:-1]


def launch(script, *flags, cwd):
    env = {name: v for name, v in os.environ.items() if name != "TSJAX_DATA_DIR"}
    command = [sys.executable, str(ROOT / "experiments" / f"{script}.py"), *flags]
    return subprocess.run(
        command, cwd=cwd, env=env, capture_output=True, text=True, timeout=600, check=False
    )


@pytest.fixture(scope="module")
def csv(tmp_path_factory):
    """A small hourly CSV with a daily wave in two channels."""
    rng = np.random.default_rng(0)
    hours = np.arange(1200)
    wave = np.sin(2 * np.pi * hours / 24)
    frame = pd.DataFrame(
        {
            "date": pd.date_range("2020-01-01", periods=1200, freq="h"),
            "load": 100 + 10 * wave + rng.normal(size=1200),
            "wind": 5 - wave + rng.normal(size=1200),
        }
    )
    path = tmp_path_factory.mktemp("csv") / "plant.csv"
    frame.to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def trained(csv, tmp_path_factory):
    """A run folder of ``train``."""
    cwd = tmp_path_factory.mktemp("trained")
    done = launch("train", *TRAIN, f"--dataset={csv}", "--out_dir=run", cwd=cwd)
    assert done.returncode == 0, done.stderr
    assert "run folder: run" in done.stdout
    return cwd / "run"


def test_train_leaves_a_run_folder(trained):
    names = {path.name for path in trained.iterdir()}
    assert names == {"checkpoint", "settings.json", "training.json", "test.json"}
    result = json.loads((trained / "test.json").read_text())
    assert {e["name"] for e in result["baselines"]} == {"repeat last", "seasonal naive"}
    assert 0 < result["dense"]["mse"] < 10


def test_prune_goes_on_from_a_run_folder(trained, tmp_path):
    flags = [f"--checkpoint={trained}", "--densities=1,0.5", "--finetune_densities=0.3"]
    flags += ["--finetune_epochs=1", "--out_dir=pruned"]
    done = launch("prune_unstructured", *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "pruned" / "pruning.json").read_text())
    dense = json.loads((trained / "test.json").read_text())["dense"]
    # The restored model is the trained one, and at density 1 the pruned model is the dense one.
    assert result["dense"] == dense
    assert result["ladder"][0]["mse"] == dense["mse"]
    for rung in [*result["ladder"], result["finetuned"][0]["rung"]]:
        assert abs(rung["kept"] - rung["asked"] * rung["prunable"]) < 1
    assert result["finetuned"][0]["revived"] == 0


def test_study_ends_in_a_report(csv, tmp_path):
    done = launch("study", *TINY, f"--dataset={csv}", "--out_dir=out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().splitlines()[-1] == "report: out/report.html"
    page = (tmp_path / "out" / "report.html").read_text()
    assert "plant" in page
    result = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [rung["asked"] for rung in result["ladder"]] == [1, 0.5, 0.1]
    assert {(c["variant"], c["batch"]) for c in result["costs"]} == {
        (variant, batch) for variant in ("dense", "masked") for batch in (1, 2)
    }
    # In the file's own units, with the scale undone.
    truth = [f["truth"] for f in result["forecasts"] if f["channel"] == "load"]
    assert 80 < np.mean(truth) < 120
    assert f"--dataset={csv}" in result["command"]
    # Quiet where nobody watches: a line per epoch, no bar.
    assert "\r" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 2


def change(csv, tmp_path, edit):
    frame = pd.read_csv(csv, dtype=str)
    frame = edit(frame)
    path = tmp_path / "changed.csv"
    frame.to_csv(path, index=False)
    return f"--dataset={path}"


def set_cell(column, row, value):
    def edit(frame):
        frame.loc[row, column] = value
        return frame

    return edit


def swap_rows(frame):
    frame.iloc[[10, 11]] = frame.iloc[[11, 10]].to_numpy()
    return frame


def flat(frame):
    frame["wind"] = "1"
    return frame


BAD_FILES = {
    "no date column": (lambda f: f.rename(columns={"date": "when"}), "no column 'date'|'date'"),
    "unparsable date": (set_cell("date", 7, "soon"), "soon"),
    "unsorted dates": (swap_rows, "do not ascend"),
    "text in a channel": (set_cell("wind", 30, "calm"), "wind.*calm|calm.*wind"),
    "missing value": (set_cell("wind", 30, ""), "wind"),
    "constant channel": (flat, "wind.*constant|constant.*wind"),
    "too short": (lambda f: f.head(40), "too short|rows"),
}


@pytest.mark.parametrize("fault", BAD_FILES)
def test_a_bad_file_gets_one_line_and_leaves_nothing(fault, csv, tmp_path):
    edit, says = BAD_FILES[fault]
    dataset = change(csv, tmp_path, edit)
    refused(tmp_path, says, *TINY, dataset)


BAD_FLAGS = {
    "unknown set": (["--dataset=ETTh3", "--data_dir=."], "ETTh"),
    "known set, no file": (["--dataset=ETTh1", "--data_dir=."], "ETTh1.csv.*--data_dir|ETDataset"),
    "no such folder": (["--dataset=ETTh1", "--data_dir=nowhere"], "nowhere"),
    "horizon of 0": (["--pred_len=0"], "pred_len"),
    "density of 0": (["--densities=0,0.5"], r"densities must be in \(0, 1\], got 0"),
    "density above 1": (["--finetune_densities=1.5"], r"must be in \(0, 1\], got 1.5"),
    "density that is text": (["--densities=half"], "--densities takes numbers .* got 'half'"),
    "unknown model": (["--model=transfomer"], "did you mean 'transformer'"),
    "unknown preset": (["--preset=papr"], "did you mean 'paper'"),
    "folder is a file": (["--out_dir=file/run"], "cannot write to the output folder file/run"),
    "checkpoint without a run": (["--checkpoint=."], "no trained run at"),
    "stray word": (["ETTh1"], "unexpected arguments: ETTh1"),
}


@pytest.mark.parametrize("fault", BAD_FLAGS)
def test_a_bad_flag_gets_one_line_and_leaves_nothing(fault, tmp_path):
    (tmp_path / "file").touch()
    flags, says = BAD_FLAGS[fault]
    refused(tmp_path, says, *TINY, *flags)


def refused(cwd, says, *flags):
    before = sorted(cwd.rglob("*"))
    done = launch("study", *flags, cwd=cwd)
    assert done.returncode == 2, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    assert pd.Series(lines).str.contains(says).all(), lines
    assert done.stdout == ""
    assert sorted(cwd.rglob("*")) == before


def test_an_unknown_flag_is_met_with_a_near_one(tmp_path):
    done = launch("study", "--datset=ETTh1", cwd=tmp_path)
    assert done.returncode != 0
    assert "dataset" in done.stderr
    assert "Traceback" not in done.stderr
