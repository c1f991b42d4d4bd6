"""The files: what is written, whole or not at all, and the same for the same record."""

import dataclasses
import io
import json
import math
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import report_example as example

from tsjax import report
from tsjax.report import canvas, figures, tables
from tsjax.study.records import Error

EXPECTED = {
    "report.html",
    "results.json",
    *(f"figures/{name}.{kind}" for name in figures.NAMES for kind in ("svg", "png")),
    *(
        f"tables/{name}.{kind}"
        for name in ("ladder", "finetuned", "costs", "sizes", "baselines", "training")
        for kind in ("csv", "md")
    ),
}


def files(folder):
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


def read(table):
    # As text, so that the test does not depend on how a version of pandas parses numbers.
    frame = pd.read_csv(io.StringIO(table.csv()), dtype=str, keep_default_na=False)
    return frame.map(number)


def number(cell):
    for parse in (int, float):
        try:
            return parse(cell)
        except ValueError:
            pass
    return {"True": True, "False": False}.get(cell, cell)


def fresh(code):
    """What a new process prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_writes_every_file_and_says_where(tmp_path):
    assert report.write(example.study(), tmp_path) == tmp_path / "report.html"
    assert files(tmp_path) == EXPECTED
    stored = json.loads((tmp_path / "results.json").read_text())
    assert stored == json.loads(json.dumps(dataclasses.asdict(example.study())))


def test_same_record_same_bytes(tmp_path):
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
        report.write(example.study(), folder)
    for name in EXPECTED:
        first, second = ((folder / name).read_bytes() for folder in folders)
        assert first == second, name


def test_figures_leave_the_global_style_alone():
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    figures.draw(example.study())
    assert dict(mpl.rcParams) == before


def test_svg_keeps_text_as_text_and_names_nothing_outside():
    svg = figures.draw(example.study())["error_by_density"].svg
    assert ">MSE, scaled series</text>" in svg
    assert "repeat last 1.295" in svg
    assert "<metadata" not in svg


def test_a_figure_without_data_is_removed(tmp_path):
    report.write(example.study(), tmp_path)
    report.write(example.study(costs=()), tmp_path)
    assert EXPECTED - files(tmp_path) == {"figures/cost.svg", "figures/cost.png"}


def test_a_number_that_is_not_finite_touches_nothing(tmp_path):
    report.write(example.study(), tmp_path)
    before = (tmp_path / "report.html").read_bytes()
    with pytest.raises(ValueError, match="not JSON compliant"):
        report.write(example.study(dense=Error("dense", math.nan, 1.0)), tmp_path)
    assert (tmp_path / "report.html").read_bytes() == before
    assert files(tmp_path) == EXPECTED


def test_an_interrupted_write_leaves_the_old_page(tmp_path, monkeypatch):
    report.write(example.study(), tmp_path)
    before = (tmp_path / "report.html").read_bytes()
    replace = Path.replace

    def fail(self, target):
        if Path(target).name == "report.html":
            raise OSError("disk full")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        report.write(example.study(seconds=1.0), tmp_path)
    assert (tmp_path / "report.html").read_bytes() == before
    assert files(tmp_path) == EXPECTED


@pytest.mark.parametrize("name", ["matplotlib", "jinja2"])
def test_missing_package_is_one_clear_line(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError) as caught:
        report.write(example.study(), tmp_path)
    assert str(caught.value) == (
        f'The report needs {name}, which is not installed: pip install "tsjax[report]" in an '
        'environment, or pip install -e ".[report]" from a checkout'
    )
    assert files(tmp_path) == set()
    assert report.terminal_table(example.study())


def test_import_loads_neither_matplotlib_nor_jinja2():
    loaded = "[m for m in ('matplotlib', 'jinja2') if m in sys.modules]"
    assert fresh(f"import sys; from tsjax import report; print({loaded})") == "[]"


def test_figures_never_load_pyplot():
    code = "import sys; from tsjax.report import figures; print('matplotlib.pyplot' in sys.modules)"
    assert fresh(code) == "False"


def test_ladder_csv_is_the_records_in_full():
    study = example.study()
    frame = read(tables.ladder(study))
    assert len(frame) == len(study.ladder)
    for rung, row in zip(study.ladder, frame.itertuples(), strict=True):
        for key in ("asked", "density", "density_all", "kept", "prunable", "nonzero", "params"):
            assert getattr(row, key) == getattr(rung, key)
        assert (row.mse, row.mae) == (rung.mse, rung.mae)
        assert row.mse_relative == rung.mse / study.dense.mse


def test_other_csvs_are_the_records_in_full():
    study = example.study()
    study = dataclasses.replace(
        study,
        costs=tuple(dataclasses.replace(c, uncounted={"sort": 2, "top_k": 1}) for c in study.costs),
    )
    for cost, row in zip(study.costs, read(tables.costs(study)).itertuples(), strict=True):
        expected = dataclasses.asdict(cost) | {"uncounted": "sort 2 times; top_k 1 time"}
        for key, value in expected.items():
            assert getattr(row, key) == value
    for tuned, row in zip(study.finetuned, read(tables.finetuned(study)).itertuples(), strict=True):
        assert (row.mse, row.mae, row.revived) == (tuned.mse, tuned.mae, tuned.revived)
        assert (row.mse_pruned, row.kept) == (tuned.rung.mse, tuned.rung.kept)
        assert (row.epochs, row.seconds) == (len(tuned.training.epochs), tuned.training.seconds)
    errors = (study.dense, *study.baselines)
    for error, row in zip(errors, read(tables.baselines(study)).itertuples(), strict=True):
        assert (row.name, row.mse, row.mae) == (error.name, error.mse, error.mae)
    for size, row in zip(study.sizes, read(tables.sizes(study)).itertuples(), strict=True):
        assert (row.density, row.dense, row.sparse) == (size.density, size.dense, size.sparse)
        assert row.sparse_relative == size.sparse / size.dense
    frame = read(tables.training(study))
    epochs = frame[frame["run"] == "dense"]
    assert epochs["val_mse"].tolist() == [e.val_mse for e in study.training.epochs]
    assert epochs["epoch"][epochs["best"].astype(bool)].tolist() == [study.training.best_epoch]


def test_every_csv_row_names_its_run():
    study = example.study()
    for table in tables.all_tables(study).values():
        frame = read(table)
        assert list(frame)[:6] == ["preset", "model", "dataset", "seq_len", "pred_len", "seed"]
        rows = {tuple(row) for row in frame.iloc[:, :6].itertuples(index=False)}
        assert rows == {("corrected", "transformer", "ETTh1", 96, 96, 1)}
        assert "preset" not in table.markdown()


def test_a_setting_that_is_absent_is_empty():
    study = example.study(config={"model": "informer", "pred_len": 24})
    assert tables.ladder(study).csv().splitlines()[1].startswith(",informer,,,24,,1.0,")


def test_ratio_without_a_reference_is_empty():
    study = example.study(costs=example.study().costs[1:2])
    assert tables.costs(study).csv().splitlines()[1].endswith(",")
    assert tables.costs(study).rows()[0][-1] == "–"


def test_markdown_is_a_pipe_table():
    study = example.study(baselines=(Error("a|b", 1.0, 0.5),))
    lines = tables.baselines(study).markdown().splitlines()
    assert lines[:2] == [
        "| Forecaster | MSE | MAE | MSE / dense |",
        "| :--- | ---: | ---: | ---: |",
    ]
    assert lines[3] == r"| a\|b | 1.000 | 0.500 | 2.22× |"


def test_empty_tables_keep_their_heading():
    table = tables.finetuned(example.study(finetuned=()))
    assert table.csv().startswith("preset,model,dataset,seq_len,pred_len,seed,asked,density,")
    assert len(table.csv().splitlines()) == 1


@pytest.mark.parametrize("finetuned", [0, 3, 9])
@pytest.mark.parametrize("scale", [1.0, 1e-7, 1e9])
def test_terminal_table_is_small(finetuned, scale):
    study = example.study()
    tuned = (study.finetuned * 3)[:finetuned]
    study = dataclasses.replace(
        study,
        finetuned=tuple(dataclasses.replace(t, mse=t.mse * scale) for t in tuned),
        ladder=tuple(dataclasses.replace(r, mse=r.mse * scale) for r in study.ladder),
        baselines=(*study.baselines, Error("a very long name " * 5, 1e12, 1e-12)),
        data=dataclasses.replace(study.data, name="a very long name " * 5),
    )
    lines = report.terminal_table(study).splitlines()
    assert max(map(len, lines)) <= 80
    assert 8 <= len(lines) <= 18
    assert report.terminal_table(study).isascii()
    assert all(line == line.rstrip() for line in lines)


def test_terminal_table_has_the_answer():
    lines = report.terminal_table(example.study()).splitlines()
    assert lines[0] == "Transformer on ETTh1, horizon 96"
    assert any(line.split() == ["dense", "1", "0.450", "0.459"] for line in lines)
    assert any(line.split()[:3] == ["fine-tuned", "0.328", "0.456"] for line in lines)
    assert any(line.startswith("pruned") and " 0.01 " in line for line in lines)
    assert "within the spread" in lines[-1]


def test_terminal_table_warns_in_one_line_each():
    long = "The data's\nown dates repeat " * 9
    lines = report.terminal_table(example.study(warnings=("Short.", long))).splitlines()
    assert lines[-2] == "WARNING: Short."
    assert lines[-1].startswith("WARNING: The data's own dates repeat The")
    assert lines[-1].endswith("...")
    assert 75 < len(lines[-1]) <= 80


def test_labels_are_moved_apart():
    moved = canvas.spread([0.0, 0.1, 5.0, 9.9, 10.0], 1.0, 10.0)
    assert moved == pytest.approx([0.0, 1.0, 5.0, 9.0, 10.0])
    assert canvas.spread([], 1.0, 10.0) == []
