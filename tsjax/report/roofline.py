"""The roofline of a benchmark: work done a second against FLOPs a byte, one panel a batch size."""

import itertools
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from tsjax.benchmark import Benchmark, Measurement
from tsjax.report import canvas, formats
from tsjax.report.canvas import MUTED, PAPER, Plot

_MARKERS = ("o", "v", "s", "D", "^", "P")


@canvas.styled
def draw(found: Benchmark) -> Plot | None:
    """The roofline, if any row has a place on it."""
    rows = [row for row in found.rows if row.bytes_run and row.median_ms]
    return _roofline(found, rows) if rows else None


def _roofline(found: Benchmark, rows: Sequence[Measurement]) -> Plot:
    names = list(dict.fromkeys(row.model for row in rows))
    variants = list(dict.fromkeys(row.variant for row in rows))
    colours = dict(zip(names, canvas.colours(len(names)), strict=True))
    markers = dict(zip(variants, itertools.cycle(_MARKERS)))
    panels = list(dict.fromkeys((row.task, row.batch) for row in rows))
    panels.sort()
    handles = [Line2D([], [], color=c, marker="o", ls="", label=n) for n, c in colours.items()]
    handles += [
        Line2D([], [], color=MUTED, marker=m, ls="", label=v, markerfacecolor=PAPER if i else MUTED)
        for i, (v, m) in enumerate(markers.items())
    ]
    columns, lines = canvas.legend_columns(handles, len(panels))
    figure, axes = canvas.grid(len(panels), 2, 2.6, right=0.2, top=0.55 + 0.2 * lines)
    figure.legend(handles=handles, loc="upper left", ncol=columns, borderaxespad=0.5)
    intensities = [row.flops / row.bytes_run for row in rows if row.bytes_run]
    rates = [1e3 * row.flops / row.median_ms for row in rows if row.median_ms]
    left, right = (
        min(intensities) / 2,
        2 * max(*intensities, found.peaks.flops / found.peaks.bandwidth()),
    )
    for ax, (task, batch) in zip(axes, panels, strict=True):
        _roofs(ax, found, left, right)
        for name in names:
            places = [r for r in rows if (r.model, r.task, r.batch) == (name, task, batch)]
            xs = [r.flops / (r.bytes_run or 1) for r in places]
            ys = [1e3 * r.flops / (r.median_ms or 1) for r in places]
            ax.plot(xs, ys, color=colours[name], lw=0.8, alpha=0.6)
            for row, x, y in zip(places, xs, ys, strict=True):
                whole = row.variant == "dense"
                ax.plot(x, y, color=colours[name], marker=markers[row.variant], ls="",
                        markerfacecolor=colours[name] if whole else PAPER, zorder=3)  # fmt: skip
        ax.set_ylim(min(rates) / 2, 1.6 * found.peaks.flops)
        ax.set_title(f"{task}, batch {formats.count(batch)}: FLOP/s")
        ax.set_xlabel("FLOPs a byte")
    alt = (
        f"Log-log charts of FLOPs a second against FLOPs a byte on {found.peaks.device}, one for "
        f"each of {len(panels)} tasks and batch sizes, with the roof that memory and arithmetic "
        f"make and the points of {', '.join(names)}."
    )
    caption = (
        "Work done a second against work a byte that the compiled program reads or writes. The "
        "level of the roof is the rate of matrix products, its slopes are the bandwidths of memory "
        "(solid) and of the fastest cache (dashed). What lies far below is bound by launches, or "
        "does much that is no product. Lines join a model's variants, the dense one filled."
    )
    return canvas.finish(figure, "bounds", alt, caption)


def _roofs(ax: Axes, found: Benchmark, left: float, right: float) -> None:
    """The roof of memory, and that of the fastest cache, dashed."""
    peaks = found.peaks
    xs = np.geomspace(left, right, 200)
    fastest = max(rate for _, rate in peaks.bandwidths)
    for rate, dash in ((fastest, (0, (4, 2))), (peaks.bandwidth(), "-")):
        ax.plot(xs, np.minimum(peaks.flops, xs * rate), color=MUTED, lw=1.4, ls=dash)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlim(left, right)
    for axis, write in ((ax.xaxis, canvas.plain), (ax.yaxis, formats.si)):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda value, _, write=write: write(value)))
