"""What ``--help`` prints: what a script does, and its flags by subject."""

import dataclasses
import inspect
import textwrap
import types
import typing
from collections.abc import Sequence
from typing import Any

_HELP = ("--help", "--helpshort", "-help", "-h")

_LAST = "output"
"""The group that stands last, whichever dataclass it comes from."""

_FOR_ALL = {
    "--[no]traceback": "show where an error arose (default: False)",
    "--help": "this page",
    "--helpfull": "all flags, with those of the libraries",
}

_VALUES = {int: "N", float: "X", str: "TEXT"}


def asked(argv: Sequence[str]) -> bool:
    """Whether a command line asks for the help."""
    return any(word in _HELP for word in argv[1:])


def page(settings: type[Any], description: str, width: int) -> str:
    """The help of a script.

    Args:
      settings: the dataclass of its settings, each field made by ``settings.setting``.
      description: the script's docstring.
      width: columns of the terminal.

    Returns:
      Lines no longer than ``width``, as far as the words and the indented examples allow.
    """
    groups = {**_groups(settings), "for every command": _FOR_ALL}
    # The explanations of all groups begin in one column.
    column = 4 + max(len(flag) for flags in groups.values() for flag in flags)
    parts = [f"usage: ./launch.sh {settings.script} [--flag=value ...]"]
    parts += [_paragraph(part, width) for part in inspect.cleandoc(description).split("\n\n")]
    for name, flags in groups.items():
        entries = [_entry(flag, about, column, width) for flag, about in flags.items()]
        parts.append("\n".join([_paragraph(name, width), *entries]))
    return "\n\n".join(parts)


def about(field: dataclasses.Field[Any]) -> str:
    """What a setting means, and its default where it has one."""
    meaning: str = field.metadata["about"]
    if field.default in (None, ()):
        return meaning
    return f"{meaning} (default: {_in_short(field.default)})"


def plain_type(hint: Any) -> Any:
    """``str`` for ``str | None``; other types as they are."""
    if isinstance(hint, types.UnionType):
        return next(arg for arg in typing.get_args(hint) if arg is not type(None))
    return hint


def _groups(settings: type[Any]) -> dict[str, dict[str, str]]:
    """Each group's flags, with what they mean."""
    hints = typing.get_type_hints(settings)
    groups: dict[str, dict[str, str]] = {}
    name = ""
    for field in dataclasses.fields(settings):
        name = field.metadata["group"] or name
        groups.setdefault(name, {})[_flag(field.name, hints[field.name])] = about(field)
    last = {_LAST: groups.pop(_LAST)} if _LAST in groups else {}
    return groups | last


def _flag(name: str, hint: Any) -> str:
    """A flag and the kind of its value: ``--d_model=N``."""
    kind = plain_type(hint)
    if kind is bool:
        return f"--[no]{name}"
    if typing.get_origin(kind) is tuple:
        return f"--{name}={_VALUES[typing.get_args(kind)[0]]},..."
    return f"--{name}={_VALUES[kind]}"


def _entry(flag: str, about: str, column: int, width: int) -> str:
    """A flag, and beside it what it means."""
    first, rest = f"  {flag}".ljust(column), " " * column
    # No line ends before the value of a default, nor within a word that may be typed.
    held = about.replace("(default: ", "(default:\N{NO-BREAK SPACE}")
    lines = textwrap.wrap(
        held, width, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False
    )
    return "\n".join(lines).replace("\N{NO-BREAK SPACE}", " ")


def _paragraph(text: str, width: int) -> str:
    """A paragraph of a docstring, in lines of the width; an indented one is an example."""
    plain = text.replace("``", "")
    return plain if plain.startswith(" ") else textwrap.fill(plain, width)


def _in_short(value: Any) -> str:
    """A default as the help shows it: numbers to three digits, of a long list the ends."""
    if isinstance(value, tuple):
        words = [_in_short(v) for v in value]
        return ",".join(words if len(words) < 9 else [*words[:3], "...", words[-1]])
    return f"{value:.3g}" if isinstance(value, float) else str(value)
