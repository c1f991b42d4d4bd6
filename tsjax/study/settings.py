"""Every setting of a study, its default and its meaning: the one source of the scripts' flags.

``train`` needs the first class, the other scripts one more each. Two names fill in several fields
at once: ``preset`` says whose behaviour is followed, ``size`` how much is computed. A field that is
given beats both.
"""

import csv
import dataclasses
import io
import json
import math
import shlex
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from tsjax import data, models, pruning
from tsjax.study import published
from tsjax.study.records import write_file
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

CRITERIA = ("magnitude", "random", "saliency", "fisher", "wanda")

SCOPES = (*pruning.SCOPES, "erk")

EXEMPT = ("output_projection", "seven_outputs")

SPARSE_METHODS = ("pals", "gradual", "straight_through", "rigl", "set", "static")

_TASK = ("model", "dataset", "pred_len")
"""Settings on which the published sizes depend."""

_MODELS_OWN = ("factor", "moving_avg", "version", "modes", "seg_len", "win_size")
"""Settings that only some models have."""

_EXEMPT_MEANS = (
    "kernels that are never pruned: output_projection (what forecasts), or seven_outputs (every "
    "layer with 7 outputs, the published study's rule)"
)

SETTINGS_FILE = "settings.json"


def setting(default: Any, about: str, group: str | None = None) -> Any:
    """A field of settings, with what its flag's help says.

    A ``group`` is the heading in the help for this field and for those after it.
    """
    return dataclasses.field(default=default, metadata={"about": about, "group": group})


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """What to train on, which model, and how; each field's metadata say what it is ``about``."""

    script: ClassVar[str] = "train"

    preset: str = setting(
        "corrected",
        f"whose behaviour is followed: {', '.join(PRESETS)}",
        group="preset and size (below stand the defaults of corrected and small)",
    )
    size: str = setting("small", f"size of model and schedule: {', '.join(SIZES)}")

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
        names = [field.name for field in dataclasses.fields(cls)]
        for name in given:
            one_of("setting", name, names)
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
        return cls(**{name: value for name, value in values.items() if name in names})

    def __post_init__(self) -> None:
        if problems := wrong_types(self) or self.problems():
            raise ValueError("; ".join(problems))

    def problems(self) -> list[str]:
        """Says what is wrong with the values that data and model do not check themselves."""
        found = []
        for check in (self.fit_config, self.model_options):
            try:
                check()
            except ValueError as error:
                found.append(str(error))
        return found

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
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value != getattr(plain, field.name):
                flags[field.name] = value
        words = [f"--{name}={flag_text(value)}" for name, value in flags.items()]
        return shlex.join(["./launch.sh", self.script, *words])


@dataclasses.dataclass(frozen=True)
class PruneSettings(TrainSettings):
    """Also what to prune; a ``checkpoint`` takes the place of training."""

    script: ClassVar[str] = "prune"

    checkpoint: str | None = setting(
        None, "run folder whose trained model is used (else train)", group="pruning"
    )
    densities: tuple[float, ...] = setting(
        pruning.ladder(0.8, 10, floor=0.01), "densities to test, without fine-tuning"
    )
    finetune_densities: tuple[float, ...] = setting(
        (1.0, 0.8**5, 0.8**10),
        "densities to fine-tune at; 1 is the control, the dense model trained on as long",
    )
    finetune_epochs: int = setting(1, "fine-tuning epochs, at most")
    criterion: str = setting("magnitude", f"how weights are scored: {', '.join(CRITERIA)}")
    scope: str = setting(
        "global", "what is ranked together: global, leaf, or erk (each leaf, small ones denser)"
    )
    block: tuple[int, ...] = setting((), "prune whole blocks, e.g. 4,4; empty for single weights")
    exempt: str = setting("output_projection", _EXEMPT_MEANS)
    prune_complex: bool = setting(False, "prune FEDformer's Fourier weights as well")
    calibration_batches: int = setting(8, "training batches from which weights are scored")

    def problems(self) -> list[str]:
        """Says what is wrong with the values that data and model do not check themselves."""
        found = TrainSettings.problems(self)
        for name in ("densities", "finetune_densities"):
            wrong = [d for d in getattr(self, name) if not 0 < d <= 1]
            if wrong:
                listed = ", ".join(f"{d:g}" for d in wrong)
                found.append(f"{name} must be in (0, 1], got {listed}")
            if len(set(getattr(self, name))) < len(getattr(self, name)):
                found.append(f"{name} holds a density twice")
        if not self.densities:
            found.append("densities must not be empty")
        for name in ("finetune_epochs", "calibration_batches"):
            if getattr(self, name) < 1:
                found.append(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.block and min(self.block) < 1:
            found.append(f"block must be sizes of at least 1, got {flag_text(self.block)}")
        options = {"criterion": CRITERIA, "scope": SCOPES, "exempt": EXEMPT}
        return found + not_among(self, options)


@dataclasses.dataclass(frozen=True)
class SparseSettings(TrainSettings):
    """Also how to find a mask while the model trains."""

    script: ClassVar[str] = "sparse"

    method: str = setting(
        "pals", f"how the mask is found: {', '.join(SPARSE_METHODS)}", group="sparse training"
    )
    density: float = setting(0.2, "share of the prunable weights to keep; pals finds its own")
    mask_every: int = setting(20, "steps between changes of the mask")
    exchange_factor: float = setting(1.1, "pals: how much shrinking and growing differ, gamma")
    loss_tolerance: float = setting(1.1, "pals: rise of the validation loss to allow, lambda")
    loss_windows: int = setting(512, "pals: validation windows for its loss; 0 for all")
    exempt: str = setting("output_projection", _EXEMPT_MEANS)
    prune_complex: bool = setting(False, "prune FEDformer's Fourier weights as well")

    def problems(self) -> list[str]:
        """Says what is wrong with the values that data and model do not check themselves."""
        found = TrainSettings.problems(self)
        if not 0 < self.density <= 1:
            found.append(f"density must be in (0, 1], got {self.density:g}")
        for name, least in (("mask_every", 1), ("loss_windows", 0)):
            if getattr(self, name) < least:
                found.append(f"{name} must be at least {least}, got {getattr(self, name)}")
        for name in ("exchange_factor", "loss_tolerance"):
            if not 1 <= getattr(self, name) < math.inf:
                found.append(f"{name} must be at least 1, got {getattr(self, name):g}")
        return found + not_among(self, {"method": SPARSE_METHODS, "exempt": EXEMPT})


@dataclasses.dataclass(frozen=True)
class StudySettings(PruneSettings):
    """Also what to time: the whole study."""

    script: ClassVar[str] = "study"

    cost_batches: tuple[int, ...] = setting((1, 32), "batch sizes to time", group="timing")

    def problems(self) -> list[str]:
        """Says what is wrong with the values that data and model do not check themselves."""
        wrong = [b for b in self.cost_batches if b < 1]
        found = PruneSettings.problems(self)
        return found + [f"cost_batches must be at least 1, got {b}" for b in wrong]


def flag_text(value: Any) -> str:
    """A value as a flag takes it: lists as a line of CSV, nothing for None."""
    if isinstance(value, tuple):
        line = io.StringIO()
        csv.writer(line, lineterminator="").writerow(value)
        return line.getvalue()
    return "" if value is None else str(value)


def as_dict(settings: Any) -> dict[str, Any]:
    """Every setting by name."""
    return dataclasses.asdict(settings)


def write_saved(settings: TrainSettings, folder: Path) -> None:
    """Writes the settings into a run folder, with places that hold from elsewhere, too."""
    values = as_dict(settings)
    if settings.data_dir is not None:
        values["data_dir"] = str(Path(settings.data_dir).absolute())
    # A name such as "ETTh1" is no place, whatever lies in the working folder.
    if Path(settings.dataset).suffix and Path(settings.dataset).is_file():
        values["dataset"] = str(Path(settings.dataset).absolute())
    write_file(folder / SETTINGS_FILE, json.dumps(values, indent=1) + "\n")


def _of_run(folder: Path, given: dict[str, Any]) -> dict[str, Any]:
    """The values that a run folder's settings fix.

    Raises:
      FileNotFoundError: if the folder holds no run.
      ValueError: if its settings cannot be read, or ``given`` has others.
    """
    path = folder / SETTINGS_FILE
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
        one_of("preset", fixed["preset"], PRESETS)
        one_of("size", fixed["size"], SIZES)
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


def not_among(settings: Any, options: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Says which settings, or which words of a list, are not among their options."""
    found = []
    for name, names in options.items():
        value = getattr(settings, name)
        for each in value if isinstance(value, tuple) else (value,):
            try:
                one_of(name, each, names)
            except ValueError as error:
                found.append(str(error))
    return found


def wrong_types(settings: Any) -> list[str]:
    """Says which settings are not of their field's type."""
    found = []
    hints = typing.get_type_hints(type(settings))
    for field in dataclasses.fields(settings):
        value, hint = getattr(settings, field.name), hints[field.name]
        kinds = set(typing.get_args(hint)) if isinstance(hint, types.UnionType) else {hint}
        kinds = {typing.get_origin(kind) or kind for kind in kinds}
        kinds |= {int} if float in kinds else set()
        if not isinstance(value, tuple(kinds)) or (isinstance(value, bool) and bool not in kinds):
            found.append(f"{field.name} must be {hint}, got {value!r}".replace("<class '", ""))
    return [message.replace("'>,", ",") for message in found]
