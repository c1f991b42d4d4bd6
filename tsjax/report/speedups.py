"""What cutting buys: speed over the dense model against how many times fewer its FLOPs are."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from tsjax.benchmark import Benchmark, Measurement
from tsjax.report import canvas, formats
from tsjax.report.canvas import INK, MUTED, PAPER, Plot

_LABEL = 34  # Letters of a model's name.
_TICKS = [m * 10.0**p for p in range(-2, 5) for m in (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)]


@canvas.styled
def draw(found: Benchmark) -> Plot | None:
    """The figure, if any cut variant was timed beside the dense one by XLA."""
    rows = [
        row
        for row in found.rows
        if row.engine == "xla" and row.variant != "dense" and row.over_dense and row.flops_ratio
    ]
    return _speedups(rows) if rows else None


def _speedups(rows: Sequence[Measurement]) -> Plot:
    names = list(dict.fromkeys(row.model for row in rows))
    colours = dict(zip(names, canvas.colours(len(names)), strict=True))
    panels = sorted(dict.fromkeys((row.task, row.batch) for row in rows))
    kinds = {
        "structured": Line2D([], [], color=INK, marker="o", lw=1.2, label="narrower"),
        "compacted": Line2D([], [], color=INK, marker="D", ls="", mfc=PAPER, label="compacted"),
    }
    present = {_kind(row) for row in rows}
    handles = [handle for kind, handle in kinds.items() if kind in present]
    handles.append(
        Line2D([], [], color=MUTED, ls=(0, (4, 2)), lw=1.2, label="as much faster as FLOPs fewer")
    )
    columns, lines = canvas.legend_columns(handles, len(panels))
    # A label is a name and the speed of its last point.
    right = 0.25 + 0.075 * (min(_LABEL, max(map(len, names))) + 6)
    figure, axes = canvas.grid(len(panels), 2, 2.6, right=right, top=0.55 + 0.2 * lines)
    figure.legend(handles=handles, loc="upper left", ncol=columns, borderaxespad=0.5)
    farthest = 1.15 * max(row.flops_ratio or 1.0 for row in rows)
    speeds = [
        s for row in rows for s in (row.over_dense, row.over_dense_q1, row.over_dense_q3) if s
    ]
    low, high = min(0.9, *speeds) / 1.05, 1.1 * max(1.5, *speeds)
    for ax, (task, batch) in zip(axes, panels, strict=True):
        _axes(ax, (1 / 1.05, max(farthest, 1.5)), (low, high))
        labels = []
        for name in names:
            mine = [row for row in rows if (row.model, row.task, row.batch) == (name, task, batch)]
            if mine:
                _points(ax, mine, colours[name])
                last = max(mine, key=lambda row: (_kind(row) == "structured", row.flops_ratio))
                label = f"{formats.label(name, _LABEL)} {formats.times(last.over_dense)}"
                labels.append((last.over_dense or 1.0, label, colours[name]))
        canvas.margin_labels(ax, labels)
        ax.set_title(f"{task}, batch {formats.count(batch)}")
        ax.set_ylabel("times as fast", labelpad=1)
        ax.set_xlabel("times fewer FLOPs")
    said = [
        f"{row.model} {row.variant}, {row.task} at batch {row.batch}: "
        f"{formats.times(row.over_dense)} for FLOPs / {formats.ratio(row.flops_ratio)}"
        for row in rows
    ]
    alt = f"Speed over the dense model against times fewer FLOPs. {'; '.join(said)}."
    return canvas.finish(figure, "speed", alt, _caption(present))


def _caption(present: set[str]) -> str:
    text = (
        "How many times as fast as the dense model, against how many times fewer FLOPs, both "
        "compiled by XLA. A speed is the median ratio of paired turns, its bar reaches from the "
        "first quartile to the third. On the dashed line time falls as FLOPs do; what lies below "
        "is FLOPs that bought no time."
    )
    if "structured" in present:
        text += " Lines join a model's narrower variants."
    if "compacted" in present:
        text += (
            " Diamonds are models that were pruned weight by weight and rid of what that killed."
        )
    which = "narrowest" if "structured" in present else "smallest"
    return f"{text} The number at the right is the speed of a model's {which} variant."


def _axes(ax: Axes, across: tuple[float, float], up: tuple[float, float]) -> None:
    """Logarithmic axes, the dense model's speed, and the line on which time falls as FLOPs do."""
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlim(*across)
    ax.set_ylim(*up)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(FixedLocator(_TICKS))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{canvas.plain(value)}×"))
    ax.axhline(1, color=MUTED, lw=1.0)
    ends = (1.0, max(across[1], up[1]))
    ax.plot(ends, ends, color=MUTED, ls=(0, (4, 2)), lw=1.2)


def _points(ax: Axes, rows: Sequence[Measurement], colour: str) -> None:
    """One model's variants: the narrower ones joined, from the dense one on."""
    narrower = [(1.0, 1.0)]
    for row in rows:
        x, y, whole = row.flops_ratio or 1.0, row.over_dense or 1.0, _kind(row) == "structured"
        if whole:
            narrower.append((x, y))
        if row.over_dense_q1 is not None and row.over_dense_q3 is not None:
            bar = [row.over_dense_q1, row.over_dense_q3]
            ax.plot([x, x], bar, color=colour, lw=3, alpha=0.35, solid_capstyle="butt", zorder=2)
        marker, fill = ("o", colour) if whole else ("D", PAPER)
        ax.plot([x], [y], color=colour, ls="", marker=marker, mfc=fill, zorder=4)
    ax.plot(*zip(*sorted(narrower), strict=True), color=colour, lw=1.2, zorder=3)


def _kind(row: Measurement) -> str:
    """How a variant was made: ``structured`` or ``compacted``."""
    return row.variant.partition("-")[0]
