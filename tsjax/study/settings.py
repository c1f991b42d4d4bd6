"""The settings that every question of the study shares: data, model and training.

Two names fill in several fields at once: ``preset`` says whose behaviour is followed, ``size`` how
much is computed. A field that is given beats both. Each question adds settings of its own.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from tsjax import data, models, pruning, results, settings
from tsjax.settings import among, setting
from tsjax.study import published
from tsjax.study.folder import RunFolder
from tsjax.training import FitConfig
from tsjax.wording import one_of

PRESETS: dict[str, dict[str, Any]] = {
    "corrected": {},
    "tslib": {"freq": "h", "full_rate_epochs": 2, "drop_last_train": False},
    "paper": {
        "size": "paper",
        "freq": "h",
        "full_rate_epochs": 2,
        "drop_last_test": True,
        "exempt": "seven_outputs",
        "densities": pruning.ladder(0.8, 9),
        "finetune_densities": (1.0, 0.8**5),
    },
}
"""``tslib``: what Time-Series-Library does; ``paper``: what arXiv 2412.12883 ran, at its size. What
the models themselves do differently is in the ``presets`` of their configurations.
"""

SIZES = ("small", "paper")
"""``small`` runs on a laptop in minutes; ``paper`` is the published study's size and schedule."""

_TASK = ("model", "dataset", "pred_len")
"""Settings on which the published sizes depend."""

_MODELS_OWN = ("factor", "moving_avg", "version", "modes", "seg_len", "win_size")
"""Settings that only some models have."""


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """What to train on, which model, and how; each field's metadata say what it is ``about``."""

    script: ClassVar[str] = "train"

    preset: str = setting(
        "corrected",
        f"whose behaviour is followed: {', '.join(PRESETS)}",
        among(PRESETS),
        group="preset and size (below stand the defaults of corrected and small)",
    )
    size: str = setting("small", f"size of model and schedule: {', '.join(SIZES)}", among(SIZES))

    dataset: str = setting(
        "synthetic", "synthetic, a known set (ETTh1), or a CSV's name or path", group="data"
    )
    data_dir: str | None = setting(None, "folder of the CSV files (else $TSJAX_DATA_DIR)")
    date_column: str = setting("date", "name of the column with the dates")
    channels: tuple[str, ...] = setting((), "columns to use; empty for all")
    missing: str | None = setting(None, "missing values: error, previous or linear")
    split: str | None = setting(None, f"{', '.join(data.SPLITS)} (else the data set's)")
    freq: str | None = setting(None, "frequency of the time marks: s t h d b w m (else the data's)")

    model: str = setting("transformer", f"which model: {', '.join(models.MODELS)}", group="model")
    seq_len: int = setting(96, "steps of the look-back window")
    label_len: int = setting(48, "observed steps that the decoder begins with, at most seq_len")
    pred_len: int = setting(96, "steps to forecast, the horizon")
    d_model: int = setting(64, "model width")
    n_heads: int = setting(4, "attention heads")
    e_layers: int = setting(2, "encoder layers")
    d_layers: int = setting(1, "decoder layers")
    d_ff: int = setting(128, "feed-forward width")
    dropout: float = setting(0.05, "dropout rate")
    activation: str = setting("gelu", "relu or gelu")
    factor: int | None = setting(
        None, "queries and lags kept, in units of a logarithm; Crossformer's routers (else its own)"
    )
    moving_avg: int | None = setting(None, "steps of the moving average (else the preset's)")
    version: str | None = setting(None, "FEDformer: fourier or wavelets (else fourier)")
    modes: int | None = setting(None, "FEDformer: frequencies kept, at most (else 64)")
    seg_len: int | None = setting(None, "Crossformer: steps of a segment (else 12)")
    win_size: int | None = setting(None, "Crossformer: segments merged into one (else 2)")
    options: tuple[str, ...] = setting(
        (), "further fields of the model's configuration, name=value, joined by commas"
    )
    embed: str = setting("timeF", "time embedding: timeF, fixed or learned")

    epochs: int = setting(3, "training epochs, at most", group="training")
    batch_size: int = setting(32, "windows per step")
    learning_rate: float = setting(1e-3, "Adam's learning rate at the start")
    lr_decay: float = setting(0.5, "factor on the learning rate at each decay")
    full_rate_epochs: int = setting(1, "epochs before the first decay")
    decay_every: int = setting(1, "epochs from one decay to the next")
    lr_floor: float = setting(0.0, "least learning rate, as a share of the one at the start")
    patience: int = setting(3, "epochs without improvement before training stops")
    seed: int = setting(0, "fixes initialisation, shuffling and dropout")
    drop_last_train: bool = setting(True, "leave out each epoch's last incomplete batch")
    drop_last_test: bool = setting(False, "leave out the last incomplete test batch")

    out_dir: str | None = setting(
        None, "folder of the results (else a new one below runs/)", group="output"
    )

    @classmethod
    def make(cls, *, preset: str | None = None, size: str | None = None, **given: Any) -> Self:
        """Settings from a preset, then a size, then single fields, each beating the one before.

        With a ``checkpoint``, its run's settings of data, model and training are kept.

        Raises:
          ValueError: for an unknown preset, size or field, a value out of range, or one that a
            checkpoint's run has fixed to another.
          FileNotFoundError: if the folder ``checkpoint`` holds no run.
        """
        settings.check_names(cls, given)
        if given.get("checkpoint"):
            base = _of_run(Path(given["checkpoint"]), {"preset": preset, "size": size, **given})
        else:
            preset = preset or "corrected"
            one_of("preset", preset, PRESETS)
            size = size or PRESETS[preset].get("size", "small")
            one_of("size", size, SIZES)
            task = {n: given.get(n, usual) for n, usual in _usual_task(preset, given).items()}
            base = _implied(preset, size, **task) | {"preset": preset, "size": size}
        values = base | given
        if "label_len" not in given:
            usual = base.get("label_len", cls.label_len)
            values["label_len"] = min(usual, values.get("seq_len", cls.seq_len))
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(**{name: value for name, value in values.items() if name in names})

    def __post_init__(self) -> None:
        settings.check(self, self.fit_config, self.model_options)

    def model_options(self) -> dict[str, Any]:
        """Fields of the model's configuration that are set here, the task's own ones left out.

        Raises:
          ValueError: for an option that is not ``name=value``, or that has a flag of its own.
        """
        known = models.fields(self.model) if self.model in models.MODELS else ()
        own = {field.name for field in dataclasses.fields(self)}
        found = {n: v for n in known if n in own and (v := getattr(self, n)) is not None}
        unused = [
            n for n in _MODELS_OWN if known and n not in known and getattr(self, n) is not None
        ]
        if unused:
            raise ValueError(f"{self.model} has no {', '.join(unused)}: leave that out")
        for option in self.options:
            name, equals, text = option.partition("=")
            if not equals:
                raise ValueError(f"options takes name=value, got {option!r}")
            if name in own and (name in found or name not in known):
                raise ValueError(f"options sets {name}, which has a flag of its own: --{name}")
            if name in found:
                raise ValueError(f"options sets {name} twice")
            if name in ("enc_in", "dec_in", "c_out"):
                raise ValueError(f"options sets {name}, which is the data's: see --channels")
            found[name] = _value(text)
        return found

    def fit_config(self) -> FitConfig:
        """How to train."""
        return FitConfig(
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            lr_decay=self.lr_decay,
            full_rate_epochs=self.full_rate_epochs,
            decay_every=self.decay_every,
            lr_floor=self.lr_floor,
            patience=self.patience,
            seed=self.seed,
            drop_last=self.drop_last_train,
        )

    def command(self) -> str:
        """The command line that repeats the run: all that is not implied by what it names."""
        if checkpoint := getattr(self, "checkpoint", None):
            plain = type(self).make(checkpoint=checkpoint)
            flags: dict[str, Any] = {"checkpoint": checkpoint}
        else:
            task = {n: getattr(self, n) for n in _TASK}
            plain = type(self).make(preset=self.preset, size=self.size, **task)
            usual = {"preset": "corrected", "size": PRESETS[self.preset].get("size", "small")}
            usual |= _usual_task(self.preset, task)
            flags = {n: getattr(self, n) for n in usual if getattr(self, n) != usual[n]}
        return settings.command(self.script, flags | settings.differing(self, plain))


def write_saved(made: TrainSettings, folder: RunFolder) -> None:
    """Writes the settings into a run folder, with places that hold from elsewhere, too."""
    if made.data_dir is not None:
        made = dataclasses.replace(made, data_dir=str(Path(made.data_dir).absolute()))
    # A name such as "ETTh1" is no place, whatever lies in the working folder.
    if Path(made.dataset).suffix and Path(made.dataset).is_file():
        made = dataclasses.replace(made, dataset=str(Path(made.dataset).absolute()))
    results.write_json(made, folder.settings)


def _of_run(folder: Path, given: dict[str, Any]) -> dict[str, Any]:
    """The values that a run folder's settings fix.

    Raises:
      FileNotFoundError: if the folder holds no run.
      ValueError: if its settings cannot be read, or ``given`` has others.
    """
    path = RunFolder(folder).settings
    if not path.is_file():
        raise FileNotFoundError(f"no trained run at {folder}: there is no {path.name} in it")
    try:
        stored = json.loads(path.read_text())
        fixed = {f.name: stored[f.name] for f in dataclasses.fields(TrainSettings)}
        for name in ("channels", "options"):
            fixed[name] = tuple(fixed[name])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} does not hold a run's settings: {error!r}") from None
    del fixed["out_dir"]
    own = [n for n in fixed if n != "data_dir" and given.get(n) not in (None, fixed[n])]
    if own:
        raise ValueError(f"the run at {folder} fixes {', '.join(own)}: leave that out")
    try:
        TrainSettings(**fixed)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    task = {name: fixed[name] for name in _TASK}
    return _implied(fixed["preset"], fixed["size"], **task) | fixed


def _implied(preset: str, size: str, *, model: str, dataset: str, pred_len: int) -> dict[str, Any]:
    """What a preset and a size fill in for a task."""
    implied = PRESETS[preset] | _lengths(preset, dataset)
    if preset == "paper":
        implied |= published.protocol(model, dataset)
    if size == "paper":
        implied |= published.sizes(model, dataset, pred_len)
    return implied | {"pred_len": pred_len}


def _usual_task(preset: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The model, the data set and the horizon where none are given."""
    usual = {name: getattr(TrainSettings, name) for name in _TASK}
    lengths = _lengths(preset, given.get("dataset", usual["dataset"]))
    return usual | {name: lengths[name] for name in _TASK if name in lengths}


def _lengths(preset: str, dataset: str) -> dict[str, int]:
    """The lengths of the published results on a data set, where the preset follows these."""
    return {} if preset == "corrected" else published.lengths(dataset)


def _value(text: str) -> Any:
    """A number, true, false, null or list as JSON has them; any other text is itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text
