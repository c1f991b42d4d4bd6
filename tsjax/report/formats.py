"""How numbers and names are written for readers: on the page, in Markdown and on the terminal.

CSV and JSON hold the full precision and use none of this.
"""

import math

NOTHING = "–"
MINUS = "\N{MINUS SIGN}"
THIN = "\N{NARROW NO-BREAK SPACE}"
SPACE = "\N{NO-BREAK SPACE}"


def count(value: float) -> str:
    """An integer with thin separators: ``10 537 991``."""
    return f"{round(value):,}".replace(",", THIN).replace("-", MINUS)


def error(value: float | None) -> str:
    """An error with three or four significant digits: ``0.450``, ``0.0812``, ``158 000``."""
    if value is None:
        return NOTHING
    size = abs(value)
    if size == 0:
        return "0"
    if size >= 1e9 or size < 1e-4:
        return f"{value:.2e}"
    if size >= 1000:
        return count(value)
    # Three decimals are the field's convention; smaller values keep three significant digits.
    decimals = 3 - max(0, math.floor(math.log10(size)))
    if size < 0.1:
        decimals = 2 - math.floor(math.log10(size))
    return f"{value:.{decimals}f}"


def share(value: float) -> str:
    """A density or share in a table column: ``0.3277``, or ``3.2e-05`` where that shows nothing."""
    return f"{value:.4f}" if value == 0 or value >= 0.001 else f"{value:.1e}"


def short_share(value: float) -> str:
    """A density in a sentence: ``0.328``, ``0.8``, ``1``."""
    # Rounding up to 1 would call a pruned model dense.
    return f"{value:.3g}" if value == 1 or float(f"{value:.3g}") < 1 else f"{value:.6g}"


def ratio(value: float | None) -> str:
    """A ratio: ``1.02``, ``0.35``, ``0.050``, ``351 000``."""
    if value is None:
        return NOTHING
    if value >= 1000:
        return count(value) if value < 1e9 else f"{value:.1e}"
    if value >= 10:
        return f"{value:.1f}"
    if value >= 0.1:
        return f"{value:.2f}"
    return f"{value:.3f}" if value >= 0.01 or value == 0 else f"{value:.1e}"


def times(value: float | None) -> str:
    """A ratio with its sign: ``1.02×``."""
    return NOTHING if value is None else ratio(value) + "×"


def change(value: float | None) -> str:
    """A relative change: ``+4.2 %``; beyond a factor of ten the factor itself, ``23.1×``."""
    if value is None:
        return NOTHING
    if value >= 9:
        return times(value + 1)
    text = f"{100 * value:+.1f}".replace("-", MINUS)
    return ("0.0" if text in ("+0.0", MINUS + "0.0") else text) + f"{SPACE}%"


def percent(value: float) -> str:
    """A share as a percentage without sign: ``65 %``, ``0.4 %``."""
    size = 100 * abs(value)
    if size < 0.1:
        return f"less than 0.1{SPACE}%"
    return f"{size:.1f}{SPACE}%" if size < 9.95 else f"{count(size)}{SPACE}%"


def occurrences(number: int) -> str:
    """How often something occurs: ``1 time``, ``12 times``."""
    return f"{number} time{'s' if number != 1 else ''}"


def uncounted(found: dict[str, int]) -> str:
    """Primitives without a rule, and how often each occurs: ``while 2 times; sort 1 time``."""
    return "; ".join(f"{name} {occurrences(number)}" for name, number in found.items())


def si(value: float) -> str:
    """A large count with its prefix, three significant digits: ``1.23 G``, ``412 M``."""
    for power, prefix in ((12, "T"), (9, "G"), (6, "M"), (3, "k")):
        # 0.9995 of a step already rounds up to the next prefix.
        if value >= 0.9995 * 10**power:
            scaled = value / 10**power
            decimals = max(0, 2 - math.floor(math.log10(max(scaled, 1.0)) + 1e-9))
            return f"{scaled:.{decimals}f}{SPACE}{prefix}"
    return f"{value:.0f}"


def milliseconds(value: float) -> str:
    """A time in milliseconds, three significant digits, without the unit: ``4.31``."""
    if value >= 100:
        return count(value)
    if value <= 0:
        return "0"
    return f"{value:.{min(6, max(0, 2 - math.floor(math.log10(value))))}f}"


def spread(middle: str, low: str, high: str) -> str:
    """A median with its quartiles: ``4.31 (4.20 to 4.45)``."""
    return f"{middle} ({low} to {high})"


def duration(seconds: float) -> str:
    """A wall time: ``12.3 s``, ``4 min 12 s``, ``1 h 12 min``."""
    if seconds < 59.95:
        return f"{seconds:.1f}{SPACE}s"
    if seconds < 3599.5:
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes}{SPACE}min {rest}{SPACE}s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours}{SPACE}h {minutes}{SPACE}min"


def rate(value: float) -> str:
    """A learning rate: ``1e-4``, ``6.25e-6``."""
    mantissa, _, exponent = f"{value:.3g}".partition("e")
    if exponent:
        return f"{mantissa}e{int(exponent)}"
    if 0 < abs(value) < 0.01:
        digits, _, power = f"{value:.2e}".partition("e")
        return f"{digits.rstrip('0').rstrip('.')}e{int(power)}"
    return mantissa


def label(text: object, width: int = 60) -> str:
    """A name from outside, fit to show: no control or direction characters, at most ``width``."""
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(text))
    return shown if len(shown) <= width else shown[: width - 1] + "…"


def listing(items: list[str]) -> str:
    """``"a"``, ``"a and b"``, ``"a, b and c"``."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def date(text: str) -> str:
    """An ISO date without a time of midnight and without seconds that are zero."""
    return label(text.replace("T", " ").removesuffix(" 00:00:00").removesuffix(":00"))
