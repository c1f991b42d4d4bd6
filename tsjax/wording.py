"""What all messages share: near names, lists of the valid options, shortened lists."""

import difflib
from collections.abc import Collection, Iterable


def near(name: str, options: Iterable[str]) -> str:
    """Returns ``" (did you mean 'x'?)"`` for the options nearest to `name`, or an empty string."""
    by_lower = {option.lower(): option for option in options}
    found = difflib.get_close_matches(name.lower(), by_lower, n=2, cutoff=0.6)
    if not found:
        return ""
    return f" (did you mean {' or '.join(repr(by_lower[key]) for key in found)}?)"


def listing(items: Collection[object], limit: int = 10) -> str:
    """Returns the items joined by commas, the first `limit` of them, then how many are left out."""
    shown = ", ".join(str(item) for item in list(items)[:limit])
    left = len(items) - limit
    return f"{shown} and {left} more" if left > 0 else shown


def one_of(what: str, given: object, options: Collection[str]) -> None:
    """Raises ValueError, with the options and the nearest of them, if `given` is not one."""
    if given not in options:
        hint = near(given, options) if isinstance(given, str) else ""
        raise ValueError(f"{what} is {given!r}{hint}: use one of {', '.join(options)}")
