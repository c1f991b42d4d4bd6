"""The report's tables: one definition each for CSV (full precision), Markdown and the page."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd

from tsjax.report import findings, formats
from tsjax.study import records


@dataclasses.dataclass(frozen=True)
class Column:
    """A column as readers see it.

    Attributes:
      key: the CSV column it shows.
      title: its heading.
      show: writes one value.
      number: whether it is a number, set flush right.
    """

    key: str
    title: str
    show: Callable[[Any], str] = formats.label
    number: bool = True


@dataclasses.dataclass(frozen=True)
class Table:
    """A table: the records in full, and the columns that readers see.

    Attributes:
      name: its file name without the ending.
      caption: what it shows.
      origin: settings of the run that every row comes from; CSV only, so that the tables of
        several runs can be joined.
      keys: the CSV columns after those of ``origin``.
      records: one mapping per row, by key; None where a value is undefined.
      columns: the columns shown; the first names the row.
    """

    name: str
    caption: str
    origin: dict[str, Any]
    keys: tuple[str, ...]
    records: tuple[dict[str, Any], ...]
    columns: tuple[Column, ...]

    @property
    def frame(self) -> pd.DataFrame:
        """The records with their origin and all keys."""
        rows = [self.origin | record for record in self.records]
        return pd.DataFrame(rows, columns=[*self.origin, *self.keys])

    def rows(self) -> list[list[str]]:
        """The cells as readers see them."""
        return [[c.show(record[c.key]) for c in self.columns] for record in self.records]

    def csv(self) -> str:
        """Comma-separated, full precision, one heading line."""
        return self.frame.to_csv(index=False, lineterminator="\n")

    def markdown(self) -> str:
        """A pipe table of what readers see."""
        lines = [
            [column.title for column in self.columns],
            ["---:" if column.number else ":---" for column in self.columns],
            *([cell.replace("|", "\\|") for cell in row] for row in self.rows()),
        ]
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)


_ORIGIN = ("preset", "model", "dataset", "seq_len", "pred_len", "seed")
_SHARE = ("asked", "density", "density_all", "kept", "prunable", "nonzero", "params")


def origin(study: records.Study) -> dict[str, Any]:
    """What tells one run's rows from another's; None where a setting is absent."""
    return {name: study.config.get(name) for name in _ORIGIN}


def ladder(study: records.Study) -> Table:
    """Error at each density, without fine-tuning."""
    return Table(
        name="ladder",
        caption="Test error by density, without fine-tuning",
        origin=origin(study),
        keys=(*_SHARE, "mse", "mae", "mse_relative"),
        records=tuple(
            {key: getattr(rung, key) for key in (*_SHARE, "mse", "mae")}
            | {"mse_relative": findings.relative(rung.mse, study.dense.mse)}
            for rung in study.ladder
        ),
        columns=(
            Column("asked", "Density asked", formats.share),
            Column("density", "Obtained, prunable", formats.share),
            Column("density_all", "Obtained, all", formats.share),
            Column("kept", "Weights kept", formats.count),
            Column("mse", "MSE", formats.error),
            Column("mae", "MAE", formats.error),
            Column("mse_relative", "MSE / dense", formats.times),
        ),
    )


def finetuned(study: records.Study) -> Table:
    """Error after fine-tuning, beside the error before."""
    return Table(
        name="finetuned",
        caption="Fine-tuned with the mask held",
        origin=origin(study),
        keys=(
            *_SHARE,
            *("mse_pruned", "mae_pruned", "mse", "mae", "mse_change", "epochs", "best_epoch"),
            *("seconds", "revived", "ended"),
        ),
        records=tuple(
            {key: getattr(tuned.rung, key) for key in _SHARE}
            | {
                "mse_pruned": tuned.rung.mse,
                "mae_pruned": tuned.rung.mae,
                "mse": tuned.mse,
                "mae": tuned.mae,
                "mse_change": findings.excess(tuned.mse, study.dense.mse),
                "epochs": len(tuned.training.epochs),
                "best_epoch": tuned.training.best_epoch,
                "seconds": tuned.training.seconds,
                "revived": tuned.revived,
                "ended": tuned.training.ended,
            }
            for tuned in study.finetuned
        ),
        columns=(
            Column("density", "Density", formats.share),
            Column("mse_pruned", "MSE pruned", formats.error),
            Column("mse", "MSE fine-tuned", formats.error),
            Column("mse_change", "Against dense", formats.change),
            Column("mae", "MAE fine-tuned", formats.error),
            Column("epochs", "Epochs", formats.count),
            Column("seconds", "Wall time", formats.duration),
            Column("revived", "Pruned weights that came back", formats.count),
        ),
    )


def costs(study: records.Study) -> Table:
    """Cost of one forward pass, by variant and batch; masked is dense with zeros in the weights."""
    keys = ("variant", "density", "params", "nonzero", "batch", "flops", "sparse_flops")
    times = ("dispatch_ms", "median_ms", "q1_ms", "q3_ms")

    def record(cost: Any) -> dict[str, Any]:
        dense = findings.dense_cost(study, cost.batch)
        ratio = findings.relative(cost.median_ms, dense.median_ms) if dense else None
        return {key: getattr(cost, key) for key in (*keys, *times)} | {
            "uncounted": formats.uncounted(cost.uncounted),
            "time_relative": ratio,
            "range": f"{formats.milliseconds(cost.q1_ms)} to {formats.milliseconds(cost.q3_ms)}",
        }

    return Table(
        name="costs",
        caption="One forward pass: dense, and masked, which is the same program with zeros in the"
        " weights",
        origin=origin(study),
        keys=(*keys, "uncounted", *times, "time_relative"),
        records=tuple(record(cost) for cost in study.costs),
        columns=(
            Column("variant", "Variant", number=False),
            Column("density", "Density", formats.share),
            Column("params", "Parameters", formats.count),
            Column("nonzero", "Not masked", formats.count),
            Column("batch", "Batch", formats.count),
            Column("flops", "FLOPs", formats.si),
            Column("sparse_flops", "Ideal sparse FLOPs", formats.si),
            Column("median_ms", "Median, ms", formats.milliseconds),
            Column("range", "Quartiles, ms"),
            Column("dispatch_ms", "Empty call, ms", formats.milliseconds),
            Column("time_relative", "Time / dense", formats.times),
        ),
    )


def sizes(study: records.Study) -> Table:
    """Sizes of the models' files."""
    kinds = ("dense", "masked", "sparse")
    keys = tuple(kind + ending for ending in ("", "_gzip") for kind in kinds)
    return Table(
        name="sizes",
        caption="The model's file, in bytes, and compressed by gzip",
        origin=origin(study),
        keys=("density", *keys, "sparse_relative"),
        records=tuple(
            {key: getattr(size, key) for key in ("density", *keys)}
            | {"sparse_relative": findings.relative(size.sparse, size.dense)}
            for size in study.sizes
        ),
        columns=(
            Column("density", "Density", formats.share),
            Column("dense", "Dense", formats.si),
            Column("masked", "Zeros written", formats.si),
            Column("sparse", "Sparse", formats.si),
            Column("sparse_relative", "Sparse / dense", formats.times),
            Column("dense_gzip", "Dense, gzip", formats.si),
            Column("masked_gzip", "Zeros, gzip", formats.si),
            Column("sparse_gzip", "Sparse, gzip", formats.si),
        ),
    )


def baselines(study: records.Study) -> Table:
    """The dense model beside the baselines."""
    return Table(
        name="baselines",
        caption="Dense model and baselines, test part",
        origin=origin(study),
        keys=("name", "mse", "mae", "mse_relative"),
        records=tuple(
            dataclasses.asdict(e) | {"mse_relative": findings.relative(e.mse, study.dense.mse)}
            for e in (study.dense, *study.baselines)
        ),
        columns=(
            Column("name", "Forecaster", number=False),
            Column("mse", "MSE", formats.error),
            Column("mae", "MAE", formats.error),
            Column("mse_relative", "MSE / dense", formats.times),
        ),
    )


def runs(study: records.Study) -> Iterator[tuple[str, records.Training]]:
    """Every training run with its name: the dense model's, then the fine-tuned ones'."""
    yield "dense", study.training
    for tuned in study.finetuned:
        yield f"fine-tuned at {formats.short_share(tuned.rung.density)}", tuned.training


def training(study: records.Study) -> Table:
    """Every epoch of every run."""
    keys = ("epoch", "learning_rate", "train_mse", "val_mse", "val_mae", "seconds")
    return Table(
        name="training",
        caption="Every epoch of every training run",
        origin=origin(study),
        keys=("run", *keys, "best"),
        records=tuple(
            {"run": name}
            | {key: getattr(epoch, key) for key in keys}
            | {"best": epoch.epoch == run.best_epoch}
            for name, run in runs(study)
            for epoch in run.epochs
        ),
        columns=(
            Column("run", "Run", number=False),
            Column("epoch", "Epoch", formats.count),
            Column("learning_rate", "Learning rate", formats.rate),
            Column("train_mse", "Training MSE", formats.error),
            Column("val_mse", "Validation MSE", formats.error),
            Column("val_mae", "Validation MAE", formats.error),
            Column("seconds", "Wall time", formats.duration),
            Column("best", "Best", lambda best: "best" if best else "", number=False),
        ),
    )


def all_tables(study: records.Study) -> dict[str, Table]:
    """Every table by name, in the page's order."""
    made = (ladder, finetuned, costs, sizes, baselines, training)
    return {table.name: table for table in (make(study) for make in made)}
