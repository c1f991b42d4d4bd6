"""The page of a benchmark, from rows made by hand."""

import dataclasses
import json
import re

import pandas as pd
import pytest

from tsjax import benchmark, costs, report
from tsjax.report import benchmark_tables as tables
from tsjax.report import speedups

PEAKS = costs.Peaks(
    "float32", 1e9, ((10**6, 1e9), (10**9, 1e8)), launch=1e-6, dispatch=1e-5, device="cpu: cpu"
)
VERSIONS = {
    "platform": "cpu",
    "cpu_model": "A CPU",
    "device_kind": "cpu",
    "cpu_count": "2",
    "jax": "0.10.2",
    "torch": "2.13.0",
}


def row(**fields):
    about = {
        "model": "transformer",
        "variant": "dense",
        "task": "inference",
        "engine": "xla",
        "batch": 32,
        "params": 1000,
        "flops": 4_000_000,
        "uncounted": {},
        "bytes_moved": 1000,
        "median_ms": 8.0,
        "q1_ms": 7.5,
        "q3_ms": 9.0,
        "repeats": 10,
        "kernels": 90,
        "bytes_run": 2e5,
        "arithmetic_ms": 4.0,
        "memory_ms": 2.0,
        "launches_ms": 0.1,
        "bound": "arithmetic",
        "least_ms": 4.0,
        "over_dense": 1.0,
        "over_eager_q1": 2.8,
        "over_eager_q3": 3.1,
        "over_eager": 3.0,
        "over_compiled": 2.0,
        "flops_ratio": 1.0,
    }
    return benchmark.Measurement(**(about | fields))


TORCH = {"kernels": None, "bytes_run": None, "bound": None, "least_ms": None}
UNTIMED = dict.fromkeys(("median_ms", "q1_ms", "q3_ms", "over_dense", "over_eager"))
CUT = row(
    variant="structured-0.5",
    flops=2_000_000,
    median_ms=5.0,
    least_ms=2.0,
    q1_ms=4.8,
    q3_ms=5.5,
    over_dense=1.6,
    over_dense_q1=1.5,
    over_dense_q3=1.75,
    flops_ratio=2.0,
    params=600,
)
ROWS = (
    row(),
    row(engine="torch-eager", median_ms=24.0, q1_ms=23.0, q3_ms=26.5, over_eager=1.0, **TORCH),
    row(engine="torch-compiled", error="Unsupported: a|b", **(TORCH | UNTIMED)),
    CUT,
)
FOUND = benchmark.Benchmark("./launch.sh benchmark --batches=32", {}, VERSIONS, PEAKS, ROWS)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    assert report.write_benchmark(FOUND, folder) == folder / "README.md"
    return folder


def cells(table):
    return [dict(zip([c.title for c in table.columns], r, strict=True)) for r in table.rows()]


def test_engines_stand_side_by_side():
    (line,) = cells(tables.engines(FOUND))
    assert (line["xla, ms"], line["torch-eager, ms"]) == (
        "8.00 (7.50 to 9.00)",
        "24.0 (23.0 to 26.5)",
    )
    assert line["torch-compiled, ms"] == "–"
    assert line["XLA over eager (paired)"] == "3.00× (2.80× to 3.10×)"
    # A run from before quartiles of ratios were kept has the medians.
    assert line["XLA over compiled (paired)"] == "2.00×"


def test_what_was_not_compared_has_no_column():
    (line,) = cells(tables.engines(dataclasses.replace(FOUND, rows=ROWS[:2])))
    assert line["XLA over eager (paired)"].startswith("3.00×")
    assert "XLA over compiled (paired)" not in line


def test_cuts_are_set_against_the_dense_model():
    (line,) = cells(tables.cuts(FOUND))
    assert (line["Dense, ms"], line["Cut, ms"]) == ("8.00 (7.50 to 9.00)", "5.00 (4.80 to 5.50)")
    assert line["Speed (paired)"] == "1.60× (1.50× to 1.75×)"
    assert (line["FLOPs"], line["Realised (paired)"]) == ("/ 2.00", "0.80")
    # At its bound of 2 ms it would be four times as fast as the dense model is.
    assert line["At most"] == "4.00×"
    assert line["Bound by, dense and cut"] == "arithmetic, arithmetic"


def test_energy_is_shown_where_it_is_known():
    drawn = {"xla": 2.0, "torch-eager": 3.5}
    rows = tuple(dataclasses.replace(r, energy_j=drawn.get(r.engine)) for r in ROWS[:3])
    rows += (dataclasses.replace(CUT, energy_j=1.25),)
    known = dataclasses.replace(FOUND, rows=rows)
    (line,) = cells(tables.engines(known))
    assert (line["xla, J"], line["torch-eager, J"]) == ("2.00", "3.50")
    assert "torch-compiled, J" not in line
    (line,) = cells(tables.cuts(known))
    assert (line["Dense, J"], line["Cut, J"]) == ("2.00", "1.25")
    assert not any(title.endswith(", J") for title in cells(tables.engines(FOUND))[0])


def test_bounds_add_nothing_that_xla_does_not_say():
    dense, cut = cells(tables.bounds(FOUND))
    assert (dense["Arithmetic, ms"], dense["Memory, ms"]) == ("4.00", "2.00")
    assert dense["Launches, ms"] == "0.100"
    assert (dense["Attained"], cut["Attained"]) == (
        "50\N{NO-BREAK SPACE}%",
        "40\N{NO-BREAK SPACE}%",
    )


def test_the_page_names_command_device_and_peaks(page):
    text = (page / "README.md").read_text()
    assert text.startswith("# Times on A CPU\n\n```\n./launch.sh benchmark --batches=32\n```\n")
    assert "jax 0.10.2, torch 2.13.0" in text
    assert "1.00\N{NO-BREAK SPACE}GFLOP/s in matrix products" in text
    assert "1.00\N{NO-BREAK SPACE}GB/s of cache, 1.00 µs a kernel, 10.0 µs a call" in text
    for title in ("Beside PyTorch", "What cutting buys", "What bounds each time"):
        assert f"\n## {title}\n" in text
    assert "* transformer, dense, inference, batch 32, torch-compiled: Unsupported: a|b" in text


def test_the_page_names_what_the_system_tells_of_a_gpu(tmp_path):
    told = {"platform": "gpu", "device_kind": "NVIDIA H", "driver": "580.1", "gpu_mhz": "1980"}
    told |= {"power_limit_w": "700.00", "malloc": "glibc.malloc.hugetlb=1"}
    report.write_benchmark(dataclasses.replace(FOUND, versions=VERSIONS | told), tmp_path)
    line = (
        "* gpu, 2 CPUs, driver 580.1, 1980 MHz, at most 700.00 W, glibc.malloc.hugetlb=1, "
        "precision float32\n"
    )
    assert line in (tmp_path / "README.md").read_text()


def test_every_row_is_in_the_csv_in_full(page):
    frame = pd.read_csv(page / "times.csv")
    assert len(frame) == len(ROWS)
    assert frame["realised"].tolist()[3] == 0.8
    assert {
        "device",
        "precision",
        *(f.name for f in dataclasses.fields(benchmark.Measurement)),
    } <= {*frame}
    assert json.loads((page / "results.json").read_text())["peaks"]["flops"] == 1e9


def test_the_page_says_which_ratios_are_of_paired_turns(page):
    text = " ".join((page / "README.md").read_text().split())
    assert "*(paired)* is one of paired turns: each time is divided by the other's of" in text
    assert "Other ratios are of medians." in text


def test_figures_are_drawn(page):
    svg = (page / "bounds.svg").read_text()
    assert "inference, batch 32" in svg
    assert "structured-0.5" in svg
    assert (page / "bounds.png").read_bytes().startswith(b"\x89PNG")
    text = (page / "README.md").read_text()
    assert text.index("What cutting buys") < text.index("](speed.svg)") < text.index("What bounds")
    assert "transformer structured-0.5, inference at batch 32: 1.60× for FLOPs / 2.00" in text
    svg = (page / "speed.svg").read_text()
    assert "transformer 1.60×" in svg
    assert ">narrower<" in svg
    assert ">compacted<" not in svg


def test_speed_is_drawn_only_where_something_was_cut(tmp_path):
    assert speedups.draw(dataclasses.replace(FOUND, rows=ROWS[:3])) is None
    report.write_benchmark(dataclasses.replace(FOUND, rows=ROWS[:3]), tmp_path)
    assert not (tmp_path / "speed.svg").exists()
    assert "speed.svg" not in (tmp_path / "README.md").read_text()


def test_no_two_models_share_a_colour_and_no_name_is_cut():
    names = [f"model-with-a-name-of-its-own-{i}" for i in range(14)]
    rows = [dataclasses.replace(row, model=name) for name in names for row in (ROWS[0], CUT)]
    svg = speedups.draw(dataclasses.replace(FOUND, rows=tuple(rows))).svg
    shown = re.findall(r"fill: (#\w{6})[^>]*>(model-with[^<]*) 1.60×<", svg)
    assert sorted(name for _, name in shown) == sorted(names)
    assert len({colour for colour, _ in shown}) == len(names)


def test_a_compacted_variant_alone_is_a_point_without_a_line():
    alone = dataclasses.replace(
        FOUND, rows=(ROWS[0], dataclasses.replace(CUT, variant="compacted-0.1"))
    )
    plot = speedups.draw(alone)
    assert ">compacted<" in plot.svg
    assert ">narrower<" not in plot.svg
    assert plot.caption.endswith("is the speed of a model's smallest variant.")


def test_one_engine_alone_is_compared_with_none():
    alone = dataclasses.replace(FOUND, rows=(ROWS[0],))
    assert tables.engines(alone).records == ()
    assert tables.cuts(alone).records == ()


def test_a_number_that_is_not_finite_is_refused(tmp_path):
    wrong = dataclasses.replace(FOUND, rows=(row(median_ms=float("nan")),))
    with pytest.raises(ValueError, match="not JSON compliant"):
        report.write_benchmark(wrong, tmp_path)
    assert list(tmp_path.iterdir()) == []
