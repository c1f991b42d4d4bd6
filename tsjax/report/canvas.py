"""What the figures share: colours by role, SVG and PNG output, axes and labels.

Figures are drawn with matplotlib's object-oriented API and its own font, so that layout does not
depend on the machine. In the SVG, text stays text, and every colour is one of the roles below: the
page swaps them for CSS variables, and so one figure serves the light and the dark scheme.
"""

import dataclasses
import functools
import io
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import matplotlib as mpl
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.colors import hsv_to_rgb, to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from tsjax.report import formats

# The hues of Okabe and Ito's colour-blind-safe palette, darkened until they can carry text.
INK = "#1f2328"
MUTED = "#646c76"
RULE = "#dde1e6"
PAPER = "#ffffff"
DENSE = "#0067a3"
PRUNED = "#bd4b00"
TUNED = "#007a57"
BASELINE = "#8f4f7d"
# Further hues, where more lines than roles share a panel.
_FURTHER = ("#7a6a00", "#00808a", "#6b4fc0", "#b3123f", "#5a7d1a")
ROLES = {
    "ink": INK,
    "muted": MUTED,
    "rule": RULE,
    "paper": PAPER,
    "dense": DENSE,
    "pruned": PRUNED,
    "tuned": TUNED,
    "baseline": BASELINE,
}

WIDTH = 11.4  # Inches: at 96 px/in the full width of the page.
_ALONE = 0.62  # Of that, the width of a figure with one panel.
SIZE = 9.0  # Points: the smallest text.
_FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
_STYLE: dict[str, Any] = {
    "font.family": ["DejaVu Sans"],
    "font.size": SIZE,
    # Names come from outside: a dollar sign in one is no formula.
    "text.parse_math": False,
    "text.color": INK,
    "svg.fonttype": "none",
    "axes.unicode_minus": True,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.facecolor": PAPER,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.labelsize": SIZE,
    "axes.titlesize": SIZE + 1,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.titlecolor": INK,
    "axes.linewidth": 0.8,
    "figure.facecolor": PAPER,
    "grid.color": RULE,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": SIZE,
    "ytick.labelsize": SIZE,
    "lines.linewidth": 1.7,
    "lines.markersize": 4.5,
    "legend.frameon": False,
    "legend.fontsize": SIZE,
}


@dataclasses.dataclass(frozen=True)
class Plot:
    """A finished figure.

    Attributes:
      name: its file name without the ending.
      svg: the standalone SVG file.
      png: the same as PNG, 160 dots per inch.
      alt: what it shows, for readers who cannot see it.
      caption: how to read it.
    """

    name: str
    svg: str
    png: bytes
    alt: str
    caption: str

    @property
    def inline(self) -> Markup:
        """The SVG for the page: its own ids, the page's colours and fonts, a text alternative."""
        body = self.svg[self.svg.index("<svg") :]
        head, _, body = body.partition(">")
        found = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', head)
        assert found is not None, head
        body = re.sub(r'\bid="', f'id="{self.name}-', body)
        body = re.sub(r'(url\(|href=")#', rf"\1#{self.name}-", body)
        for role, colour in ROLES.items():
            body = body.replace(colour, f"var(--{role})")
        # Points to CSS pixels: no figure is blown up beyond its drawn size.
        width = round(float(found[1]) * 96 / 72)
        start = (
            f'<svg class="plot" role="img" aria-label="{escape(self.alt)}" {found[0]} '
            f'style="max-width:{width}px;min-width:{min(width, 760)}px">'
        )
        return Markup(start + body.rstrip())


def styled(draw: Callable[..., Any]) -> Callable[..., Any]:
    """Runs a drawing function under the report's style, and leaves the global style alone."""

    @functools.wraps(draw)
    def run(*args: Any, **kwargs: Any) -> Any:
        with mpl.rc_context():
            mpl.rcdefaults()
            mpl.rcParams.update(_STYLE)
            return draw(*args, **kwargs)

    return run


def finish(figure: Figure, name: str, alt: str, caption: str) -> Plot:
    """Renders a figure; the same figure gives the same bytes."""
    svg, png = io.BytesIO(), io.BytesIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with mpl.rc_context({"svg.hashsalt": name}):
        figure.savefig(svg, format="svg", metadata=nothing)
    figure.savefig(png, format="png", dpi=160, metadata={"Software": None})
    text = svg.getvalue().decode()
    text = text.replace("font-family: 'DejaVu Sans'", f"font-family: {_FONTS}")
    return Plot(name, text, png.getvalue(), alt, caption)


def error_axis(ax: Axes, values: Iterable[float], *, extra: Iterable[float] = ()) -> float:
    """Sets up a y axis for errors: from zero, or logarithmic where they span a decade.

    Args:
      ax: the axes.
      values: errors that must show.
      extra: errors that show as far as twice the largest of ``values``.

    Returns:
      The largest error that shows; larger ones lie above the axis.
    """
    must = [value for value in values if value > 0] or [1.0]
    cap = 2 * max(must)
    top = max([*must, *(value for value in extra if value <= cap)])
    if max(must) > 10 * min(must):
        ax.set_yscale("log")
        ax.set_ylim(min(must) / 1.4, top * 1.3)
        ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        ax.yaxis.set_minor_locator(NullLocator())
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: plain(value)))
    else:
        ax.set_ylim(0, top * 1.1)
        ax.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        if 0.01 <= top < 1000:
            ax.ticklabel_format(axis="y", style="plain", useOffset=False)
        else:
            ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: plain(value)))
    ax.grid(visible=False, axis="x")
    return top


def density_axis(ax: Axes, lowest: float) -> None:
    """Sets up an x axis for densities: logarithmic, from 1 on the left to the lowest."""
    ax.set_xscale("log")
    # Half an octave at least, for a ladder of one rung.
    ax.set_xlim(1.08, min(lowest, 0.6) / 1.08)
    ticks = [m * 10.0**-p for p in range(9) for m in (1.0, 0.5, 0.2) if m * 10.0**-p >= lowest / 2]
    ax.xaxis.set_major_locator(FixedLocator(ticks))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def plain(value: float) -> str:
    """A tick's number, without trailing zeros."""
    return formats.count(value) if abs(value) >= 1000 else f"{value:.3g}"


def epoch_axis(ax: Axes, last: int) -> None:
    """Sets up an x axis for epochs: whole numbers, half an epoch of room."""
    ax.set_xlim(0.5, last + 0.5)
    ax.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))


def margin_labels(ax: Axes, labels: Iterable[tuple[float, str, str]], x: float = 1.02) -> None:
    """Writes labels beside the axes at their values, moved apart where they would touch.

    Args:
      ax: the axes, their position and limits final.
      labels: (y in data units, text, colour).
      x: where they start, in axes widths.
    """
    height = ax.bbox.height * 72 / ax.figure.dpi / (SIZE * 1.35)
    placed = sorted(
        (ax.transAxes.inverted().transform(ax.transData.transform((1.0, y)))[1] * height, text, c)
        for y, text, c in labels
    )
    lines = spread([min(max(y, 0.0), height) for y, _, _ in placed], 1.0, height)
    for y, (_, text, colour) in zip(lines, placed, strict=True):
        ax.text(
            *(x, y / height, text),
            transform=ax.transAxes,
            color=colour,
            va="center",
            ha="left",
        )


def spread(values: list[float], gap: float, top: float) -> list[float]:
    """Moves ascending values apart to at least ``gap``, as little as a sweep up and down does."""
    moved: list[float] = []
    for value in values:
        moved.append(max(value, moved[-1] + gap) if moved else value)
    limit = max(top, gap * (len(values) - 1))
    for i in range(len(moved) - 1, -1, -1):
        moved[i] = min(moved[i], limit)
        limit = moved[i] - gap
    return moved


def colours(number: int) -> list[str]:
    """So many colours, no two of them alike: the page's roles first, then further hues."""
    known = [DENSE, PRUNED, TUNED, BASELINE, INK, *_FURTHER]
    # The golden section spreads any number of hues.
    hues = ((0.13 + 0.618034 * i) % 1 for i in range(max(0, number - len(known))))
    return (known + [to_hex(hsv_to_rgb((hue, 0.55, 0.75))) for hue in hues])[:number]


def legend_columns(handles: Sequence[Line2D], panels: int) -> tuple[int, int]:
    """Columns and lines of a legend above a grid of panels: one line if all fit, else columns."""
    # Inches: a name's letters and its line.
    wide = [0.08 * len(str(handle.get_label())) + 0.55 for handle in handles]
    room = WIDTH * (1.0 if panels > 1 else _ALONE)
    columns = len(handles) if sum(wide) < room else max(1, int(room / max(wide)))
    return columns, -(-len(handles) // columns)


def grid(
    panels: int, columns: int, size: float, *, right: float, top: float
) -> tuple[Figure, list[Axes]]:
    """Small multiples on a fixed grid, in inches.

    Args:
      panels: how many.
      columns: at most so many side by side.
      size: height of a panel's axes.
      right: room right of each panel, for its labels.
      top: room above the first row, its titles included.
    """
    columns = min(panels, columns)
    rows = -(-panels // columns)
    left, below, between = 0.6, 0.5, 0.8
    width = WIDTH if columns > 1 else _ALONE * WIDTH
    height = top + rows * size + (rows - 1) * between + below
    figure = Figure(figsize=(width, height))
    axes = []
    for i in range(panels):
        row, column = divmod(i, columns)
        x = column * width / columns + left
        y = below + (rows - 1 - row) * (size + between)
        wide = width / columns - left - right
        axes.append(figure.add_axes((x / width, y / height, wide / width, size / height)))
    return figure, axes
