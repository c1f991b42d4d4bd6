"""The page's sections on the further questions of a study, by the question's name."""

import dataclasses
from collections.abc import Callable
from typing import Any

from tsjax.report import findings, formats
from tsjax.report.tables import Column, Table, origin
from tsjax.study import records


@dataclasses.dataclass(frozen=True)
class Section:
    """What the page says of a question.

    Attributes:
      title: its heading.
      text: what the table shows, and how to read it.
      table: the answer.
    """

    title: str
    text: str
    table: Table


def sparse(study: records.Study, found: records.SparseTraining) -> Section:
    """The model trained sparse, beside the dense one."""
    table = Table(
        name="sparse",
        caption="Trained sparse from the first step",
        origin=origin(study),
        keys=(
            *("method", "density", "kept", "prunable", "nonzero", "params", "mse", "mae"),
            *("mse_relative", "flops", "sparse_flops", "epochs", "seconds"),
        ),
        records=(
            {name: getattr(found, name) for name in ("method", "kept", "prunable", "nonzero")}
            | {name: getattr(found, name) for name in ("params", "flops", "sparse_flops")}
            | {"density": found.kept / found.prunable, "mse": found.mse, "mae": found.mae}
            | {"mse_relative": findings.relative(found.mse, study.dense.mse)}
            | {"epochs": len(found.training.epochs), "seconds": found.training.seconds},
        ),
        columns=(
            Column("method", "Method", number=False),
            Column("density", "Density", formats.share),
            Column("nonzero", "Parameters kept", formats.count),
            Column("mse", "MSE", formats.error),
            Column("mae", "MAE", formats.error),
            Column("mse_relative", "MSE / dense", formats.times),
            Column("flops", "FLOPs", formats.si),
            Column("sparse_flops", "Ideal sparse FLOPs", formats.si),
            Column("epochs", "Epochs", formats.count),
            Column("seconds", "Wall time", formats.duration),
        ),
    )
    text = (
        "The model was trained again from fresh weights, with a mask that was found during the "
        "training. Its error is to be read beside that of the dense model and of the pruned ones. "
        "FLOPs are those of one window's forecast."
    )
    return Section("Trained sparse", text, table)


SECTIONS: dict[str, Callable[[records.Study, Any], Section]] = {"sparse": sparse}


def sections(study: records.Study) -> dict[str, Section]:
    """The sections of the questions that were asked, for those questions that have a section."""
    return {
        name: SECTIONS[name](study, answer)
        for name, answer in study.answers.items()
        if name in SECTIONS
    }
