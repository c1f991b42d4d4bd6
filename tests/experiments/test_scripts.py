"""The scripts through the real command line: what they leave behind, and what they refuse."""

import dataclasses
import json
import multiprocessing
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, examples

from experiments import train
from tsjax.study import TrainSettings

TINY = [
    "--d_model=8", "--n_heads=2", "--d_ff=8", "--e_layers=1", "--seq_len=24", "--label_len=12",
    "--pred_len=6", "--epochs=1", "--batch_size=256", "--finetune_epochs=1",
    "--densities=1,0.5,0.1", "--finetune_densities=0.3", "--cost_batches=1,2",
]  # fmt: skip
TRAIN = [flag for flag in TINY if "densit" not in flag and "finetune" not in flag][:-1]


def left_out():
    """What a script does not see of the tests' environment: their data folder.

    In the long form it does not see their compiler settings either, as a user has it.
    """
    return examples(["TSJAX_DATA_DIR"], ["TSJAX_DATA_DIR", "XLA_FLAGS"])


def launch(script, *flags, cwd):
    """Runs a script in a process of its own."""
    env = {name: value for name, value in os.environ.items() if name not in left_out()}
    command = [sys.executable, str(ROOT / "experiments" / f"{script}.py"), *flags]
    return subprocess.run(
        command, cwd=cwd, env=env, capture_output=True, text=True, timeout=600, check=False
    )


def in_a_fork(script, flags, cwd):
    """What a process does that was forked after the imports: run a script, output into files."""
    for name in left_out():
        os.environ.pop(name, None)
    for stream, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(cwd.parent / name, os.O_CREAT | os.O_TRUNC | os.O_WRONLY), stream)
    os.chdir(cwd)
    path = str(ROOT / "experiments" / f"{script}.py")
    sys.argv = [path, *flags]
    runpy.run_path(path, run_name="__main__")


@pytest.fixture
def fork(tmp_path):
    """Runs a script as ``launch`` does, in a folder of its own, without importing all anew.

    The process that is forked has used no device: JAX cannot be forked after that.
    """
    cwd = tmp_path / "cwd"
    cwd.mkdir()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["experiments.study", "experiments.benchmark", __name__])

    def run(script, *flags):
        child = context.Process(target=in_a_fork, args=(script, flags, cwd))
        child.start()
        child.join(600)
        child.kill()  # One that has ended is left alone.
        out, err = ((tmp_path / name).read_text() for name in ("stdout", "stderr"))
        return subprocess.CompletedProcess(flags, child.exitcode, out, err)

    run.cwd = cwd
    return run


@pytest.fixture(scope="module")
def trained(csv, tmp_path_factory):
    """A run folder of ``train``, with what was printed in ``stdout`` beside it.

    Its file has the name of a known set, whose published results are on other rows.
    """
    cwd = tmp_path_factory.mktemp("trained")
    ili = shutil.copy(csv, cwd / "national_illness.csv")
    done = launch("train", *TRAIN, f"--dataset={ili}", "--out_dir=run", cwd=cwd)
    assert done.returncode == 0, done.stderr
    assert "run folder: run" in done.stdout
    (cwd / "stdout").write_text(done.stdout)
    return cwd / "run"


def test_train_leaves_a_run_folder(trained):
    names = {path.name for path in trained.iterdir()}
    assert names == {"checkpoint", "settings.json", "training.json", "test.json"}
    result = json.loads((trained / "test.json").read_text())
    assert {e["name"] for e in result["baselines"]} == {"repeat last", "seasonal naive"}
    assert 0 < result["dense"]["mse"] < 10


def test_notes_are_printed_and_kept(trained):
    notes = json.loads((trained / "test.json").read_text())["notes"]
    assert len(notes) == 3
    assert notes[0].startswith("The file differs from the published national_illness.csv")
    assert notes[1].startswith(
        "The look-back has 24 steps, and 36 in most published results on ILI"
    )
    assert notes[2].startswith("The last 235 of 235 test windows fill no batch of 256.")
    for note in notes:
        assert f"note: {note}\n" in (trained.parent / "stdout").read_text()


def test_prune_goes_on_from_a_run_folder(trained, fork):
    flags = [f"--checkpoint={trained}", "--densities=1,0.5", "--finetune_densities=0.3"]
    flags += ["--finetune_epochs=1", "--out_dir=pruned"]
    done = fork("prune_unstructured", *flags)
    assert done.returncode == 0, done.stderr
    result = json.loads((fork.cwd / "pruned" / "pruning.json").read_text())
    dense = json.loads((trained / "test.json").read_text())["dense"]
    # The restored model is the trained one, and at density 1 the pruned model is the dense one.
    assert result["dense"] == dense
    assert result["ladder"][0]["mse"] == dense["mse"]
    for rung in [*result["ladder"], result["finetuned"][0]["rung"]]:
        assert abs(rung["kept"] - rung["asked"] * rung["prunable"]) < 1
    assert result["finetuned"][0]["revived"] == 0
    assert f"--checkpoint={trained}" in result["command"]
    # The fine-tuned weights are there, with their mask, and those it prunes are zero.
    shown = sorted(path.name for path in (fork.cwd / "pruned").iterdir())
    assert shown == ["finetuned-0.3", "pruning.json"]


def test_sparse_trains_beside_a_dense_model(csv, fork):
    flags = ["--method=rigl", "--density=0.3", "--mask_every=1", "--out_dir=out"]
    done = fork("train_sparse", *TRAIN, *flags, f"--dataset={csv}")
    assert done.returncode == 0, done.stderr
    result = json.loads((fork.cwd / "out" / "sparse.json").read_text())
    sparse = result["sparse"]
    assert abs(sparse["kept"] - 0.3 * sparse["prunable"]) < 1
    assert f"{sparse['nonzero']:,} of {sparse['params']:,} parameters kept" in done.stdout
    assert f"dense            test MSE {result['dense']['mse']:.4f}" in done.stdout
    assert "--method=rigl" in result["command"]
    shown = {path.name for path in (fork.cwd / "out").iterdir()}
    assert shown == {"checkpoint", "dense", "settings.json", "training.json", "sparse.json"}


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda run: shutil.rmtree(run / "checkpoint"), "no checkpoint at"),
        (lambda run: (run / "training.json").unlink(), "did not end"),
        (lambda run: (run / "training.json").write_text("{}"), "does not hold a run's history"),
        (lambda run: (run / "settings.json").write_text("{}"), "does not hold a run's settings"),
        (lambda run: (run / "checkpoint" / "manifest.ocdbt").unlink(), "manifest.ocdbt is missing"),
    ],
)  # fmt: skip
def test_a_damaged_run_gets_one_line_and_leaves_nothing(damage, says, trained, fork):
    run = fork.cwd / "run"
    shutil.copytree(trained, run)
    damage(run)
    refused(fork, "prune_unstructured", f"^error: .*({says})", "--checkpoint=run")


def test_a_folder_that_holds_a_run_is_not_written_to(trained, fork):
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*")}
    done = fork("train", *TRAIN, f"--out_dir={trained}")
    assert done.returncode == 2
    assert "holds a run (settings.json, test.json): choose another --out_dir" in done.stderr
    assert {path: path.stat().st_mtime_ns for path in trained.rglob("*")} == before


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
    one, two = (c for c in result["costs"] if c["variant"] == "masked")
    assert two["flops"] == 2 * one["flops"] > 2 * one["sparse_flops"] > 0
    assert one["nonzero"] == result["finetuned"][0]["rung"]["nonzero"] < one["params"]
    assert one["uncounted"] == {}
    # The dense file is that of the dense model, whose weights compress less than zeros.
    (size,) = result["sizes"]
    assert size["sparse_gzip"] < size["masked_gzip"] < size["dense_gzip"]
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
    "missing value": (
        set_cell("wind", 30, ""),
        "wind.*previous",
    ),
    "constant channel": (flat, "wind.*constant|constant.*wind"),
    "too short": (lambda f: f.head(40), "too short.*30|30.*too short"),
}


@pytest.mark.parametrize("fault", BAD_FILES)
def test_a_bad_file_gets_one_line_and_leaves_nothing(fault, csv, fork):
    edit, says = BAD_FILES[fault]
    dataset = change(csv, fork.cwd, edit)
    refused(fork, "study", says, *TINY, dataset)


BAD_FLAGS = {
    "unknown set": (["--dataset=ETTh3", "--data_dir=."], "did you mean '?ETTh"),
    "known set, no file": (["--dataset=ETTh1", "--data_dir=."], "ETTh1.csv.*--data_dir|ETDataset"),
    "no such folder": (
        ["--dataset=ETTh1", "--data_dir=nowhere"],
        "nowhere.*(no|not)|no .*nowhere",
    ),
    "horizon of 0": (["--pred_len=0"], "pred_len is 0|pred_len must be at least 1, got 0"),
    "density of 0": (["--densities=0,0.5"], r"densities must be in \(0, 1\], got 0"),
    "density above 1": (["--finetune_densities=1.5"], r"must be in \(0, 1\], got 1.5"),
    "density that is text": (["--densities=half"], "--densities takes numbers .* got 'half'"),
    "unknown model": (["--model=transfomer"], "did you mean 'transformer'"),
    "unknown preset": (["--preset=papr"], "did you mean 'paper'"),
    "heads that do not divide": (["--n_heads=3"], r"must be a multiple of n_heads \(3\): pass"),
    "even moving average": (["--model=autoformer", "--moving_avg=4"], "must be odd .*, got 4"),
    "unknown option": (["--model=informer", "--options=contxt=a"], "did you mean 'context'"),
    "folder is a file": (["--out_dir=file/run"], "cannot write to the output folder file/run"),
    "checkpoint without a run": (["--checkpoint=."], "no trained run at"),
    "drop all": (["--drop_last_test", "--batch_size=4096"], "would leave out all of them"),
    "huge dropout": (["--dropout=0.9999999"], r"dropout must be in \[0, 1\)"),
    "huge seed": (["--seed=4294967296"], "seed must be at least 0 and below 2"),
    "stray word": (["ETTh1"], "unexpected arguments: ETTh1"),
    "misspelt flag": (
        ["--datset=ETTh1"],
        r"no flag --datset \(did you mean 'dataset'\?\); see --help",
    ),
}


@pytest.mark.parametrize("fault", BAD_FLAGS)
def test_a_bad_flag_gets_one_line_and_leaves_nothing(fault, fork):
    (fork.cwd / "file").touch()
    flags, says = BAD_FLAGS[fault]
    refused(fork, "study", says, *TINY, *flags)


def refused(fork, script, says, *flags):
    before = sorted(fork.cwd.rglob("*"))
    done = fork(script, *flags)
    assert done.returncode == 2, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    assert re.search(says, lines[0]), lines
    assert done.stdout == ""
    assert sorted(fork.cwd.rglob("*")) == before


def test_help_is_grouped_and_needs_no_terminal(fork):
    done = fork("train", "--help", "--epochs=many")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(
        "usage: ./launch.sh train [--flag=value ...]\n\nTrains a forecast"
    )
    assert "\n\ntraining\n  --epochs=N  " in done.stdout
    assert list(fork.cwd.iterdir()) == []


def test_run_from_python_is_repeatable(csv, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    given = dict(flag.removeprefix("--").split("=") for flag in TRAIN)
    sizes = {name: int(value) for name, value in given.items()}
    settings = TrainSettings.make(**sizes, dataset=str(csv))
    first, second = train.run(settings), train.run(settings)
    assert first == second
    other = train.run(dataclasses.replace(settings, seed=1))
    assert other.dense.mse != first.dense.mse
    # Each in a folder of its own, also within one second.
    assert len(list((tmp_path / "runs").iterdir())) == 3
    assert capsys.readouterr().out.count("run folder: runs/") == 3


TASKS = examples(["inference"], ["inference", "training"])
BENCHMARK = [
    "--models=transformer", "--size=small", "--seq_len=24", "--label_len=12", "--pred_len=6",
    "--variants=dense,structured-0.5", "--batches=1", "--engines=xla", "--repeats=1",
    "--min_seconds=0.0", "--peak_mb=1", "--round_to=1",
    *examples(["--tasks=inference"], []),  # The default is both.
]  # fmt: skip


def test_the_benchmark_leaves_its_page_and_times(tmp_path):
    done = launch("benchmark", *BENCHMARK, "--out_dir=out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "results: out/README.md" in done.stdout
    frame = pd.read_csv(tmp_path / "out" / "times.csv")
    assert frame[["task", "variant"]].to_numpy().tolist() == [
        [task, variant] for task in TASKS for variant in ("dense", "structured-0.5")
    ]
    assert (frame["median_ms"] > 0).all()
    assert frame["flops_ratio"].tolist()[1] == pytest.approx(2, abs=0.05)
    assert shlex.join(["./launch.sh", "benchmark", *sorted(BENCHMARK)]).split()[2:] == sorted(
        (tmp_path / "out" / "README.md").read_text().splitlines()[3].split()[2:-1]
    )


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--engines=torch", "engines is 'torch'"),
        ("--variants=half", "a variant is dense, structured-SHARE or compacted-DENSITY"),
    ],
)
def test_a_benchmark_of_what_there_is_not_is_refused(flag, message, fork):
    refused(fork, "benchmark", f"^error: {message}", flag)
