"""The tables of a benchmark: beside PyTorch, what cutting buys, and what bounds each time."""

import dataclasses
from collections.abc import Iterable
from typing import Any

from tsjax.benchmark import Benchmark, Measurement
from tsjax.report import formats
from tsjax.report.tables import Column, Table

BOUNDS = {f"{name}_ms": f"{name.capitalize()}, ms" for name in ("arithmetic", "memory", "launches")}
_WHICH = (
    Column("model", "Model", number=False),
    Column("variant", "Variant", number=False),
    Column("task", "Task", number=False),
    Column("batch", "Batch", formats.count),
)


def times(found: Benchmark) -> Table:
    """Every row in full."""
    about = {"device": found.peaks.device, "precision": found.peaks.precision}
    rows = tuple(
        dataclasses.asdict(row)
        | {"realised": row.realised}
        | {
            "uncounted": "; ".join(
                f"{k} {formats.occurrences(n)}" for k, n in row.uncounted.items()
            )
        }
        for row in found.rows
    )
    return Table("times", "Every time", about, tuple(rows[0]), rows, ())


def engines(found: Benchmark) -> Table:
    """Dense models on every engine, side by side."""
    rows = [row for row in found.rows if row.variant == "dense"]
    names = list(dict.fromkeys(row.engine for row in rows))
    records: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        place = {"model": row.model, "task": row.task, "batch": row.batch}
        record = records.setdefault((*place.values(),), place | dict.fromkeys(names))
        record[row.engine] = _time(row)
        record[f"{row.engine}_j"] = row.energy_j
        if row.engine == "xla":
            record |= {name: _ratio(row, name) for name in ("over_eager", "over_compiled")}
    return Table(
        "engines",
        "Beside PyTorch",
        {},
        (),
        tuple(records.values()) if len(names) > 1 else (),
        (
            Column("model", "Model", number=False),
            Column("task", "Task", number=False),
            Column("batch", "Batch", formats.count),
            *(Column(name, f"{name}, ms", _spread) for name in names),
            *(Column(f"{name}_j", f"{name}, J", _digits) for name in _with_energy(rows)),
            *(
                Column(f"over_{name}", f"XLA over {name} (paired)", _spread)
                for name in ("eager", "compiled")
                if {"xla", f"torch-{name}"} <= {*names}
            ),
        ),
    )


def cuts(found: Benchmark) -> Table:
    """What cutting buys, compiled by XLA."""
    made = []
    for row in found.rows:
        dense = _dense_of(row, found)
        if row.engine != "xla" or row is dense or dense is None or row.median_ms is None:
            continue
        assert row.least_ms is not None
        at_most = None if dense.median_ms is None else dense.median_ms / row.least_ms
        made.append(
            {name: getattr(row, name) for name in ("model", "variant", "task", "batch")}
            | {name: getattr(row, name) for name in ("params", "flops_ratio", "realised")}
            | {"speed": _ratio(row, "over_dense"), "ms": _time(row), "dense": _time(dense)}
            | {"bound": f"{dense.bound}, {row.bound}", "at_most": at_most}
            | {"dense_j": dense.energy_j, "cut_j": row.energy_j}
        )
    return Table(
        "cuts",
        "What cutting buys",
        {},
        (),
        tuple(made),
        (
            *_WHICH,
            Column("params", "Parameters", formats.si),
            Column("dense", "Dense, ms", _spread),
            Column("ms", "Cut, ms", _spread),
            *(
                Column(f"{name}_j", f"{name.capitalize()}, J", _digits)
                for name in ("dense", "cut")
                if _with_energy(found.rows)
            ),
            Column("flops_ratio", "FLOPs", _fewer),
            Column("speed", "Speed (paired)", _spread),
            Column("realised", "Realised (paired)", formats.ratio),
            Column("at_most", "At most", formats.times),
            Column("bound", "Bound by, dense and cut", number=False),
        ),
    )


def bounds(found: Benchmark) -> Table:
    """Where each compiled program lies on the roofline."""
    made = [
        {name: getattr(row, name) for name in ("model", "variant", "task", "batch", "flops")}
        | {"bytes": row.bytes_run, "kernels": row.kernels, "ms": _time(row), "bound": row.bound}
        | {name: getattr(row, name) for name in BOUNDS}
        | {"attained": row.least_ms / row.median_ms}
        for row in found.rows
        if row.bound and row.least_ms and row.median_ms
    ]
    return Table(
        "bounds",
        "What bounds each time",
        {},
        (),
        tuple(made),
        (
            *_WHICH,
            Column("flops", "FLOPs", formats.si),
            Column("bytes", "Bytes", formats.si),
            Column("kernels", "Kernels", formats.count),
            *(Column(name, title, _digits) for name, title in BOUNDS.items()),
            Column("ms", "Measured, ms", _spread),
            Column("attained", "Attained", formats.percent),
            Column("bound", "Bound", number=False),
        ),
    )


def _digits(value: float | None) -> str:
    """Three significant digits."""
    return formats.NOTHING if value is None else formats.milliseconds(value)


def _time(row: Measurement) -> tuple[str, ...]:
    """Median and quartiles of the milliseconds, as far as they are known."""
    return tuple(_digits(t) for t in (row.median_ms, row.q1_ms, row.q3_ms) if t is not None)


def _ratio(row: Measurement, name: str) -> tuple[str, ...]:
    """Median and quartiles of one of the ratios, as far as they are known."""
    found = (getattr(row, name + ending) for ending in ("", "_q1", "_q3"))
    return tuple(formats.times(ratio) for ratio in found if ratio is not None)


def _spread(known: tuple[str, ...] | None) -> str:
    """A median with its quartiles, or alone, or nothing."""
    if not known:
        return formats.NOTHING
    return formats.spread(*known) if len(known) == 3 else known[0]


def _with_energy(rows: Iterable[Measurement]) -> list[str]:
    """The engines of which it is known what they draw."""
    return list(dict.fromkeys(row.engine for row in rows if row.energy_j is not None))


def _fewer(value: float | None) -> str:
    return formats.NOTHING if value is None else f"/ {formats.ratio(value)}"


def _dense_of(row: Measurement, found: Benchmark) -> Measurement | None:
    """The row of the dense variant on the same engine, in the same place."""
    return next((r for r in found.rows if r.variant == "dense" and _place(r) == _place(row)), None)


def _place(row: Measurement) -> tuple[Any, ...]:
    return row.model, row.task, row.batch, row.engine
