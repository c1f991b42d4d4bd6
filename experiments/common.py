"""What the scripts share: flags made from the settings, messages, the place for results."""

import csv
import dataclasses
import itertools
import logging
import os
import shutil
import sys
import time
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import app, flags
from absl import logging as absl_logging
from jax.errors import JaxRuntimeError

from experiments import usage
from tsjax import study
from tsjax.benchmark import BenchmarkSettings
from tsjax.wording import near

FLAGS = flags.FLAGS

Settings = study.TrainSettings | BenchmarkSettings

TRACEBACK = flags.DEFINE_bool("traceback", False, "show where an error arose")

# What a person can mend; anything else is a fault of ours, and shows where it arose.
_REFUSALS = (
    ValueError,
    OSError,
    ImportError,
    FloatingPointError,
    MemoryError,
    JaxRuntimeError,
)

_DEFINE: dict[type, Callable[..., Any]] = {
    bool: flags.DEFINE_bool,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    str: flags.DEFINE_string,
}


def main(settings: type[Settings], run: Callable[[Any], Any]) -> None:
    """Runs a script: flags to settings, settings to ``run``, errors to one line.

    Exits with 2 where what was asked cannot be done, and with 130 on an interrupt.
    """
    define_flags(settings)
    description = sys.modules[run.__module__].__doc__ or ""

    def parse(argv: Sequence[str]) -> list[str]:
        if usage.asked(argv):
            width = min(max(shutil.get_terminal_size().columns, 60), 100)
            print(usage.page(settings, description, width))
            sys.exit()
        try:
            return FLAGS(argv)
        except flags.Error as error:
            print(f"error: {wrong_flag(error, FLAGS)}; see --help", file=sys.stderr)
            sys.exit(2)

    def parsed(argv: Sequence[str]) -> None:
        if len(argv) > 1:
            raise ValueError(f"unexpected arguments: {' '.join(argv[1:])} (flags begin with --)")
        _log_to_stderr()
        run(from_flags(settings))

    def guarded(argv: Sequence[str]) -> None:
        try:
            parsed(argv)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            sys.exit(130)
        except _REFUSALS as error:
            if TRACEBACK.value:
                raise
            print(f"error: {_in_a_line(error)}", file=sys.stderr)
            sys.exit(2)

    app.run(guarded, flags_parser=parse)


def results_folder(settings: Settings, about: str) -> study.RunFolder:
    """Claims the folder for a run's results: ``--out_dir``, or a new one below ``runs/``.

    Args:
      settings: of the script.
      about: what the new folder's name says of the run behind the time and the script.

    Raises:
      ValueError: if it cannot be written, or holds a run.
    """
    if settings.out_dir is not None:
        return study.claim(Path(settings.out_dir))
    stamp = time.strftime("%Y%m%d-%H%M%S")
    folder = Path("runs") / f"{stamp}-{settings.script}-{about}"
    tries = (folder.with_name(f"{folder.name}-{n}") for n in itertools.count(2))
    return study.claim(next(f for f in itertools.chain([folder], tries) if not f.exists()))


def task_folder(settings: study.TrainSettings) -> study.RunFolder:
    """Claims the folder for the results on a task, as :func:`results_folder`."""
    about = f"{Path(settings.dataset).stem}-{settings.model}-h{settings.pred_len}"
    return results_folder(settings, about)


def folder_and_model(
    task: study.Task, settings: study.PruneSettings
) -> tuple[study.RunFolder, study.Trained]:
    """The run's folder, and the model: restored where the settings name a run, else trained.

    Raises:
      ValueError: if the run cannot be restored (no folder is made then), or the folder not claimed.
    """
    if settings.checkpoint is None:
        folder = task_folder(settings)
        return folder, study.train(task, folder.path)
    trained = study.restore(task, Path(settings.checkpoint))
    return task_folder(settings), trained


def show(*errors: study.records.Error) -> None:
    """Prints test errors, one in a line."""
    for error in errors:
        print(f"{error.name:<16} test MSE {error.mse:.4f}  MAE {error.mae:.4f}")


def show_notes(notes: Sequence[str]) -> None:
    """Prints what is to be known about the data and its errors, one line each."""
    for note in notes:
        print(f"note: {note}")


def wrong_flag(error: flags.Error, values: flags.FlagValues) -> str:
    """What is wrong with the command line, in a line."""
    if isinstance(error, flags.UnrecognizedFlagError):
        return f"there is no flag --{error.flagname}{near(error.flagname, values)}"
    return " ".join(str(error).split())


def _in_a_line(error: BaseException) -> str:
    """The whole message; of the device's long ones the first line."""
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0] if isinstance(error, JaxRuntimeError) else "\n".join(lines)


def _log_to_stderr() -> None:
    """Our own progress lines; of the libraries' only warnings."""
    absl_logging.set_verbosity(absl_logging.WARNING)
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("tsjax")
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False


def define_flags(settings: type[Settings], values: flags.FlagValues = FLAGS) -> None:
    """Defines a flag for each setting, without a default: what is not given is the preset's."""
    hints = typing.get_type_hints(settings)
    for field in dataclasses.fields(settings):
        define = _DEFINE.get(usage.plain_type(hints[field.name]), flags.DEFINE_string)
        define(field.name, None, usage.about(field), flag_values=values)


def from_flags(settings: type[Settings], values: flags.FlagValues = FLAGS) -> Settings:
    """Settings from the flags given.

    Raises:
      ValueError: for a list with a word that is not a number, or a value out of range.
    """
    given: dict[str, Any] = {}
    for name, hint in typing.get_type_hints(settings).items():
        value = values[name].value if name in values else None
        if typing.get_origin(hint) is tuple and value is not None:
            value = _listed(name, value, typing.get_args(hint)[0])
        elif name in ("checkpoint", "out_dir") and value:
            # pathlib refuses a ~user that is not known; here it is a folder of that name.
            value = os.path.expanduser(value)  # noqa: PTH111
        elif value == "":
            given[name] = value = None
        if value is not None:
            given[name] = value
    if "data_dir" not in given and given.get("dataset", "synthetic") != "synthetic":
        given["data_dir"] = os.environ.get("TSJAX_DATA_DIR")
    return settings.make(**given)


def _listed(name: str, text: str, kind: type) -> tuple[Any, ...]:
    """``"0.8,0.5"``, a line of CSV, as a tuple of ``kind``."""
    words = next(csv.reader([text], skipinitialspace=True), [])
    try:
        return tuple(kind(word) for word in words)
    except ValueError:
        what = "whole numbers" if kind is int else "numbers"
        raise ValueError(f"--{name} takes {what} joined by commas, got {text!r}") from None
