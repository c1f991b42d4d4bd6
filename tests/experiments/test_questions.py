"""A further question of the study: what it touches, and where its answer goes."""

import dataclasses
import json

import jax

from experiments import study as script
from tsjax import study
from tsjax.settings import at_least, setting

TINY = {
    "seq_len": 12, "label_len": 4, "pred_len": 6, "d_model": 8, "n_heads": 2, "e_layers": 1,
    "d_ff": 8, "epochs": 1, "batch_size": 64, "densities": (0.5,), "finetune_densities": (),
    "cost_batches": (1,),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class ScaleSettings(study.TrainSettings):
    """Also by how much the weights are scaled."""

    scale: float = setting(0.5, "factor on all weights", at_least(0))


@dataclasses.dataclass(frozen=True)
class Scaled:
    """The test error with scaled weights."""

    scale: float
    mse: float


def ask_scaled(task, trained, settings, folder):
    """What does it cost to scale all weights?"""
    model = trained.forecaster
    params = jax.tree.map(lambda w: settings.scale * w, model.params)
    (folder / "note.txt").write_text(f"d_model {settings.d_model}")
    return Scaled(settings.scale, task.test(dataclasses.replace(model, params=params)).mse)


def test_a_question_is_its_function_and_a_row_of_the_table(csv, tmp_path, monkeypatch):
    asked = []

    def diverging(task, trained, settings, folder):
        asked.append(settings)
        raise FloatingPointError("sparse: the error is not finite")

    monkeypatch.setitem(study.QUESTIONS, "scaled", study.Question(ScaleSettings, ask_scaled))
    sparse = study.QUESTIONS["sparse"]
    monkeypatch.setitem(study.QUESTIONS, "sparse", sparse._replace(ask=diverging))
    settings = study.StudySettings.make(
        **TINY, dataset=str(csv), questions=("sparse", "scaled"), out_dir=str(tmp_path / "run")
    )
    found = script.run(settings)
    run = tmp_path / "run"
    stored = json.loads((run / "results.json").read_text())
    assert stored["answers"] == {"scaled": {"scale": 0.5, "mse": found.answers["scaled"].mse}}
    assert found.answers["scaled"].mse != found.dense.mse
    # Its settings of model and data are the study's, and its folder is its own.
    assert (run / "scaled" / "note.txt").read_text() == "d_model 8"
    of_the_study = {**given(ScaleSettings), "dataset": str(csv), "out_dir": str(run)}
    assert asked == [study.SparseSettings.make(**of_the_study)]
    # One that fails takes nothing from the others, and one without a section has none.
    assert stored["warnings"] == ["sparse: the error is not finite"]
    assert 'id="question-' not in (run / "report.html").read_text()
    assert "--questions=sparse,scaled" in found.command


def given(settings):
    """The tiny sizes that settings have."""
    return {n: v for n, v in TINY.items() if n in {f.name for f in dataclasses.fields(settings)}}
