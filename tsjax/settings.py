"""Settings of a script: frozen dataclasses whose fields say what they mean and what they allow.

A field that :func:`setting` makes carries what its flag's help says, and the checks of its value::

    @dataclasses.dataclass(frozen=True)
    class Settings:
        repeats: int = setting(10, "samples of each", at_least(1))

        def __post_init__(self) -> None:
            check(self)

The scripts make their flags from the same fields, and :func:`command` gives the command line back.
"""

import csv
import dataclasses
import functools
import io
import math
import shlex
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from tsjax import wording

Check = Callable[[str, Any], str | None]
"""``check(name, value)`` says what is wrong with a setting's value; None where nothing is."""


def setting(default: Any, about: str, *checks: Check, group: str | None = None) -> Any:
    """A field of settings.

    Args:
      default: its default.
      about: what it means, for the help of its flag.
      *checks: what its value is checked for, unless it is None.
      group: the heading in the help for this field and for those after it.
    """
    metadata = {"about": about, "checks": checks, "group": group}
    return dataclasses.field(default=default, metadata=metadata)


def at_least(least: float) -> Check:
    """Checks that a number, or each number of a list, is finite and not below ``least``."""
    return _each(lambda value: least <= value < math.inf, f"at least {least:g}")


def share() -> Check:
    """Checks that a number, or each number of a list, is in (0, 1]."""
    return _each(lambda value: 0 < value <= 1, "in (0, 1]")


def among(options: Collection[str]) -> Check:
    """Checks that a word, or each word of a list, is one of the options."""
    return lambda name, value: _first_refusal(
        lambda word: wording.one_of(name, word, options), value
    )


def accepted_by(refuse: Callable[[Any], Any]) -> Check:
    """Checks that a function raises no ValueError for a value, or for any value of a list."""
    return lambda _, value: _first_refusal(refuse, value)


def filled(name: str, value: tuple[Any, ...]) -> str | None:
    """Checks that a list is not empty."""
    return None if value else f"{name} must not be empty"


def distinct(name: str, value: tuple[Any, ...]) -> str | None:
    """Checks that a list holds nothing twice."""
    twice = [item for i, item in enumerate(value) if item in value[:i]]
    return f"{name} holds {flag_text(tuple(dict.fromkeys(twice)))} twice" if twice else None


def check(settings: Any, *calls: Callable[[], Any]) -> None:
    """Checks the types and the values of settings, and says all that is wrong with them at once.

    Args:
      settings: a dataclass whose fields :func:`setting` has made.
      *calls: further checks of several settings together, which raise ValueError.

    Raises:
      ValueError: with every fault, joined by semicolons.
    """
    found = _wrong_types(settings)
    if not found:
        found = [fault for call in calls if (fault := _refusal(call))]
        for field in dataclasses.fields(settings):
            value = getattr(settings, field.name)
            if value is not None:
                faults = [one(field.name, value) for one in field.metadata["checks"]]
                found += [fault for fault in faults if fault]
    if found:
        raise ValueError("; ".join(found))


def check_names(settings: type[Any], names: Iterable[str]) -> None:
    """Checks that settings have fields of these names.

    Raises:
      ValueError: for the first that is none, with the nearest of those that there are.
    """
    known = [field.name for field in dataclasses.fields(settings)]
    for name in names:
        wording.one_of("setting", name, known)


def differing(settings: Any, usual: Any) -> dict[str, Any]:
    """The values that are not those of ``usual``, which has the same fields."""
    names = [field.name for field in dataclasses.fields(settings)]
    return {n: getattr(settings, n) for n in names if getattr(settings, n) != getattr(usual, n)}


def command(script: str, values: Mapping[str, Any]) -> str:
    """The command line that runs a script with these settings; others keep their defaults."""
    flags = [f"--{name}={flag_text(value)}" for name, value in values.items()]
    return shlex.join(["./launch.sh", script, *flags])


def flag_text(value: Any) -> str:
    """A value as a flag takes it: lists as a line of CSV, nothing for None."""
    if isinstance(value, tuple):
        line = io.StringIO()
        csv.writer(line, lineterminator="").writerow(value)
        return line.getvalue()
    return "" if value is None else str(value)


def _each(holds: Callable[[Any], bool], must_be: str) -> Check:
    def checked(name: str, value: Any) -> str | None:
        wrong = [v for v in (value if isinstance(value, tuple) else (value,)) if not holds(v)]
        if not wrong:
            return None
        listed = ", ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in wrong)
        return f"{name} must be {must_be}, got {listed}"

    return checked


def _first_refusal(call: Callable[[Any], Any], value: Any) -> str | None:
    """What a function says of the first value, or item of a list, that it refuses."""
    for item in value if isinstance(value, tuple) else (value,):
        if fault := _refusal(functools.partial(call, item)):
            return fault
    return None


def _refusal(call: Callable[[], Any]) -> str | None:
    try:
        call()
    except ValueError as error:
        return str(error)
    return None


def _wrong_types(settings: Any) -> list[str]:
    """Says which settings are not of their field's type."""
    found = []
    hints = typing.get_type_hints(type(settings))
    for field in dataclasses.fields(settings):
        value, hint = getattr(settings, field.name), hints[field.name]
        if not _is_of_type(value, hint):
            shown = hint.__name__ if isinstance(hint, type) else hint
            found.append(f"{field.name} must be {shown}, got {value!r}")
    return found


def _is_of_type(value: Any, hint: Any) -> bool:
    """Whether a value is of a type, of one of several, or a tuple of them; 1 will do for 1.0."""
    if isinstance(hint, types.UnionType):
        return any(_is_of_type(value, one) for one in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        kind = typing.get_args(hint)[0]
        return isinstance(value, tuple) and all(_is_of_type(item, kind) for item in value)
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, (int, float) if hint is float else hint)
