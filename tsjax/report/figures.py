"""The report's four figures."""

import datetime
import warnings
from typing import Any

from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from tsjax.report import canvas, findings, formats, tables
from tsjax.report.canvas import DENSE, INK, MUTED, PAPER, PRUNED, TUNED, Plot
from tsjax.report.density import error_by_density
from tsjax.study import records

NAMES = ("error_by_density", "forecasts", "training", "cost")
_PANELS = 12
# By the step between ticks: years, months, days, hours, minutes, seconds.
_DATES = ["%Y", "%b %Y", "%d %b", "%d %b %H:%M", "%H:%M", "%H:%M:%S"]
_YEARS = ["", "", "%Y", "%Y", "%d %b %Y", "%d %b %Y %H:%M"]
_DASHES = ((0, (6, 2.5)), (0, (1.5, 2)), (0, (6, 2, 1.5, 2)))


@canvas.styled
def draw(study: records.Study) -> dict[str, Plot]:
    """Draws every figure that the study has data for, by name."""
    made = {
        "error_by_density": error_by_density(study) if study.ladder else None,
        "forecasts": forecasts(study) if study.forecasts else None,
        "training": training(study) if study.training.epochs else None,
        "cost": cost(study) if findings.timings(study) else None,
    }
    with warnings.catch_warnings():
        # A channel's name may be in a script that the PNG's font lacks; the SVG still shows it.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        return {name: canvas.finish(*parts) for name, parts in made.items() if parts is not None}


def _colour(name: str) -> str:
    if name == "dense":
        return DENSE
    return TUNED if "tuned" in name else PRUNED


def _lines(windows: tuple[records.Forecast, ...]) -> dict[str, tuple[str, Any]]:
    """Colour and dash of every forecast by name; those of one colour differ in their dash."""
    lines: dict[str, tuple[str, Any]] = {}
    for name in dict.fromkeys(name for window in windows for name in window.forecasts):
        colour = _colour(name)
        same = sum(used == colour for used, _ in lines.values())
        lines[name] = (colour, _DASHES[(same - 1) % len(_DASHES)] if same else "-")
    return lines


def forecasts(study: records.Study) -> tuple[Figure, str, str, str]:
    """History, truth and forecasts of a few windows, in the data's own units."""
    shown = study.forecasts[:_PANELS]
    names = _lines(shown)
    handles = [
        Line2D([], [], color=MUTED, lw=1.2, label="history"),
        Line2D([], [], color=INK, lw=1.5, label="truth"),
    ] + [
        Line2D([], [], color=colour, ls=dash, lw=1.4, label=formats.label(name, 34))
        for name, (colour, dash) in names.items()
    ]
    columns, lines = canvas.legend_columns(handles, len(shown))
    figure, axes = canvas.grid(len(shown), _columns(shown), 1.9, right=0.3, top=0.5 + 0.2 * lines)
    figure.legend(handles=handles, loc="upper left", ncol=columns, borderaxespad=0.5)
    cut = clipped = False
    for ax, window in zip(axes, shown, strict=True):
        steps = len(window.truth)
        past = min(len(window.history), max(2 * steps, 48))
        cut |= past < len(window.history)
        dates = [date2num(datetime.datetime.fromisoformat(date)) for date in window.dates]
        before = dates[len(window.history) - past : len(window.history)]
        after = dates[len(window.history) :]
        marker = "o" if steps == 1 else None
        ax.axvline(before[-1] if before else after[0], color=MUTED, lw=0.8)
        ax.plot(before, window.history[len(window.history) - past :], color=MUTED, lw=1.2)
        ax.plot(after, window.truth, color=INK, lw=1.5, marker=marker, zorder=3)
        for name, values in window.forecasts.items():
            colour, dash = names[name]
            ax.plot(after, values, color=colour, ls=dash, lw=1.4, marker=marker, zorder=4)
        clipped |= _own_units(ax, window, past)
        ax.set_title(formats.label(window.channel, 40))
        locator = AutoDateLocator(minticks=3, maxticks=5)
        ax.xaxis.set_major_locator(locator)
        ax.xaxis.set_major_formatter(
            ConciseDateFormatter(
                locator,
                formats=_DATES,
                zero_formats=_DATES,
                offset_formats=_YEARS,
                show_offset=True,
            )
        )
        ax.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    caption = (
        "Test windows in the data's own units. The vertical line is the last observation that the "
        "model sees; right of it lie the truth and the forecasts."
    )
    caption += " Of the look-back only the last part is drawn." if cut else ""
    caption += " A forecast that leaves the panel is cut at its edge." if clipped else ""
    if len(study.forecasts) > len(shown):
        caption += f" The first {len(shown)} of {len(study.forecasts)} windows."
    channels = dict.fromkeys(formats.label(window.channel) for window in shown)
    alt = (
        f"Line charts of {len(shown)} test windows (channels: {', '.join(channels)}), each with "
        f"its history, the truth and the forecasts: {', '.join(formats.label(n) for n in names)}."
    )
    return figure, "forecasts", alt, caption


def _columns(windows: tuple[records.Forecast, ...]) -> int:
    """Three panels side by side if each channel has three windows, else two."""
    names = [window.channel for window in windows]
    rows = [names[i : i + 3] for i in range(0, len(names), 3)]
    return 3 if all(len(row) == 3 and len(set(row)) == 1 for row in rows) else 2


def _own_units(ax: Axes, window: records.Forecast, past: int) -> bool:
    """Limits y by history and truth, so that a forecast gone astray flattens neither."""
    known = [*window.history[len(window.history) - past :], *window.truth]
    drawn = [*known, *(value for values in window.forecasts.values() for value in values)]
    low, high = min(known), max(known)
    room = (high - low) or abs(high) or 1.0
    bottom, top = max(min(drawn), low - room), min(max(drawn), high + room)
    edge = 0.05 * ((top - bottom) or room)
    ax.set_ylim(bottom - edge, top + edge)
    return min(drawn) < bottom or max(drawn) > top


def training(study: records.Study) -> tuple[Figure, str, str, str]:
    """Training and validation loss by epoch, a panel for each run."""
    runs = [(name, run) for name, run in tables.runs(study) if run.epochs][:_PANELS]
    figure, axes = canvas.grid(len(runs), 2 if len(runs) == 4 else 3, 2.1, right=1.25, top=0.4)
    clipped = False
    for ax, (name, run) in zip(axes, runs, strict=True):
        clipped |= _loss(ax, name, run)
    caption = (
        "MSE by epoch, scaled series. Solid: validation; dashed: training, averaged over the epoch "
        "while the weights change and dropout, if any, is on. The ring marks the best epoch."
    )
    caption += " A loss above the axis is cut." if clipped else ""
    said = [
        f"{name}: validation MSE {formats.error(run.epochs[0].val_mse)} in the first epoch, "
        f"{formats.error(run.epochs[-1].val_mse)} in the last of {len(run.epochs)}, best epoch "
        f"{run.best_epoch}"
        for name, run in runs
    ]
    return figure, "training", f"Loss by epoch. {'; '.join(said)}.", caption


def _loss(ax: Axes, name: str, run: records.Training) -> bool:
    colour = DENSE if name == "dense" else TUNED
    epochs = [epoch.epoch for epoch in run.epochs]
    validation = [epoch.val_mse for epoch in run.epochs]
    trained = [epoch.train_mse for epoch in run.epochs]
    best = [
        value for epoch, value in zip(epochs, validation, strict=True) if epoch == run.best_epoch
    ]
    last = (validation[-1], trained[-1])
    top = canvas.error_axis(ax, [*last, *best], extra=[*validation, *trained])
    canvas.epoch_axis(ax, max(epochs))
    ax.plot(epochs, trained, color=MUTED, ls=_DASHES[0], marker=".")
    ax.plot(epochs, validation, color=colour, marker="o", zorder=3)
    for value in best:
        ax.plot([run.best_epoch], [value], "o", ms=11, mfc="none", mec=colour, mew=1.3, zorder=4)
    ax.set_title(formats.label(name, 30))
    ax.set_xlabel("epoch")
    labels = [
        (validation[-1], f"validation {formats.error(validation[-1])}", colour),
        (trained[-1], f"training {formats.error(trained[-1])}", MUTED),
    ]
    canvas.margin_labels(ax, labels)
    return max(*validation, *trained) > top


def cost(study: records.Study) -> tuple[Figure, str, str, str]:
    """Measured time and ideal FLOPs against the dense model at the same batch."""
    rows: list[tuple[str, Any, Any]] = []
    for batch in sorted({c.batch for c in study.costs}):
        dense = findings.dense_cost(study, batch)
        if dense is None or dense.median_ms <= 0:
            continue
        rows.append((f"batch {batch}", None, dense))
        same = [c for c in study.costs if c.batch == batch]
        rows += [
            (
                "dense" if c.variant == "dense" else f"masked, {formats.short_share(c.density)}",
                c,
                dense,
            )
            for c in sorted(same, key=lambda c: -c.density)
        ]
    row, left, right, top, bottom = 0.27, 1.25, 1.65, 0.5, 0.62
    width = 0.8 * canvas.WIDTH
    height = row * len(rows) + top + bottom
    figure = Figure(figsize=(width, height))
    ax = figure.add_axes(
        (
            left / width,
            bottom / height,
            (width - left - right) / width,
            row * len(rows) / height,
        )
    )
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.axvline(1, color=DENSE, lw=1.2)
    reach = [1.0]
    said = []
    for y, (name, c, dense) in enumerate(rows):
        if c is None:
            ax.text(
                -0.02,
                y,
                name,
                transform=ax.get_yaxis_transform(),
                ha="right",
                va="center",
                weight="bold",
            )
            continue
        colour = DENSE if c.variant == "dense" else PRUNED
        middle, q1, q3 = (t / dense.median_ms for t in (c.median_ms, c.q1_ms, c.q3_ms))
        reach += [middle, min(q3, 2 * middle)]
        ax.plot([q1, q3], [y, y], color=colour, lw=4, alpha=0.35, solid_capstyle="butt")
        ax.plot([middle], [y], "o", color=colour, ms=6, zorder=4)
        if c.variant != "dense" and dense.flops:
            ideal = c.sparse_flops / dense.flops
            reach.append(ideal)
            ax.plot([ideal], [y], "D", mfc=PAPER, mec=PRUNED, mew=1.2, ms=6, zorder=3)
        ax.text(-0.02, y, name, transform=ax.get_yaxis_transform(), ha="right", va="center")
        text = f"{formats.milliseconds(c.median_ms)} ms"
        text += "" if c.variant == "dense" else f", {formats.times(middle)}"
        ax.text(1.02, y, text, transform=ax.get_yaxis_transform(), va="center", color=colour)
        if c.variant != "dense":
            said.append(f"{name} at batch {c.batch}: {formats.times(middle)}")
    ax.set_xlim(0, 1.08 * max(reach))
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)
    ax.set_xlabel("relative to dense at the same batch")
    handles = [
        Line2D([], [], color=INK, ls="none", marker="o", ms=6, label="measured time, median"),
        Line2D([], [], color=INK, lw=4, alpha=0.35, label="its interquartile range"),
        Line2D(
            [], [], ls="none", marker="D", mfc=PAPER, mec=PRUNED, ms=6, label="ideal sparse FLOPs"
        ),
    ]
    figure.legend(handles=handles, loc="upper left", ncol=3, borderaxespad=0.5)
    caption = (
        "What zeros in the weights could save and what they save: the ideal sparse FLOPs "
        "(diamonds) fall with the density, the measured time (dots) is what this machine took for "
        "the same program."
    )
    return (
        figure,
        "cost",
        f"Time with zeros in the weights against dense. {'; '.join(said)}.",
        caption,
    )
