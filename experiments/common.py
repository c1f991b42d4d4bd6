"""What the scripts share: flags made from the settings, messages, the place for results."""

import dataclasses
import logging
import sys
import time
import types
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import app, flags
from absl import logging as absl_logging

from tsjax import study
from tsjax.study import settings as study_settings

FLAGS = flags.FLAGS

TRACEBACK = flags.DEFINE_bool("traceback", False, "show where an error arose", module_name="tsjax")

_DEFINE: dict[type, Callable[..., Any]] = {
    bool: flags.DEFINE_bool,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    str: flags.DEFINE_string,
}


def main(settings: type[study.TrainSettings], run: Callable[[Any], Any]) -> None:
    """Runs a script: flags to settings, settings to ``run``, errors to one line.

    Exits with 2 where what was asked cannot be done, and with 130 on an interrupt.
    """
    _define_flags(settings)

    def parsed(argv: Sequence[str]) -> None:
        if len(argv) > 1:
            raise ValueError(f"unexpected arguments: {' '.join(argv[1:])} (flags begin with --)")
        _log_to_stderr()
        run(_from_flags(settings))

    def guarded(argv: Sequence[str]) -> None:
        try:
            parsed(argv)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            sys.exit(130)
        except (ValueError, OSError, ImportError, FloatingPointError) as error:
            if TRACEBACK.value:
                raise
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)

    app.run(guarded)


def results_folder(settings: study.TrainSettings) -> Path:
    """Claims the folder for a run's results: ``--out_dir``, or a new one below ``runs/``.

    Raises:
      ValueError: if it cannot be written.
    """
    if settings.out_dir is not None:
        return study.claim(Path(settings.out_dir))
    stamp = time.strftime("%Y%m%d-%H%M%S")
    name = f"{stamp}-{settings.script}-{Path(settings.dataset).stem}-{settings.model}"
    return study.claim(Path("runs") / f"{name}-h{settings.pred_len}")


def _log_to_stderr() -> None:
    """Our own progress lines; of the libraries' only warnings."""
    absl_logging.set_verbosity(absl_logging.WARNING)
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("tsjax")
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False


def _define_flags(settings: type[study.TrainSettings]) -> None:
    hints = typing.get_type_hints(settings)
    for field in dataclasses.fields(settings):
        default = study_settings.flag_text(field.default)
        about = field.metadata["about"]
        if field.default not in (None, ()):
            about = f"{about} (default: {default})"
        kind = _plain_type(hints[field.name])
        # No flag has a default of its own: what is not given is the preset's and the size's to say.
        _DEFINE.get(kind, flags.DEFINE_string)(field.name, None, about, module_name="tsjax")


def _plain_type(hint: Any) -> Any:
    """``str`` for ``str | None``; other types as they are."""
    if isinstance(hint, types.UnionType):
        return next(arg for arg in typing.get_args(hint) if arg is not type(None))
    return hint


def _from_flags(settings: type[study.TrainSettings]) -> study.TrainSettings:
    hints = typing.get_type_hints(settings)
    given = {}
    for field in dataclasses.fields(settings):
        value = FLAGS[field.name].value
        if value is None:
            continue
        if typing.get_origin(hints[field.name]) is tuple:
            value = _listed(field.name, value, typing.get_args(hints[field.name])[0])
        given[field.name] = value
    return settings.make(**given)


def _listed(name: str, text: str, kind: type) -> tuple[Any, ...]:
    """``"0.8,0.5"`` as a tuple of ``kind``."""
    found = []
    for word in filter(None, (word.strip() for word in text.split(","))):
        try:
            found.append(kind(word))
        except ValueError:
            raise ValueError(f"--{name}: {word!r} is not a number") from None
    return tuple(found)
