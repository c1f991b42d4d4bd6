"""The study's main figure: error against density."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tsjax.report import canvas, findings, formats
from tsjax.report.canvas import BASELINE, DENSE, PAPER, PRUNED, TUNED
from tsjax.study import records

_DASHES = ((0, (6, 2.5)), (0, (1.5, 2)), (0, (6, 2, 1.5, 2)))


def error_by_density(study: records.Study) -> tuple[Figure, str, str, str]:
    """MSE and MAE against the density obtained, beside dense and the baselines."""
    names = [formats.label(baseline.name, 18) for baseline in study.baselines]
    right = min(1.9, 0.2 + 0.07 * max(len(name) + 8 for name in [*names, "fine-tuned"]))
    figure, axes = canvas.grid(2, 2, 3.3, right=right, top=0.4)
    above = [_panel(ax, study, metric) for ax, metric in zip(axes, ("mse", "mae"), strict=True)]
    return figure, "error_by_density", _alt(study), _caption(study, above)


def _panel(ax: Axes, study: records.Study, metric: str) -> list[tuple[float, float]]:
    """Draws one error against density; returns the (density, error) that lie above the axis."""
    rungs = sorted((r for r in study.ladder if r.kept), key=lambda rung: -rung.density)
    densities = [rung.density for rung in rungs]
    errors = [getattr(rung, metric) for rung in rungs]
    tuned = sorted((t for t in study.finetuned if t.rung.kept), key=lambda t: -t.rung.density)
    recovered = [getattr(t, metric) for t in tuned]
    dense = getattr(study.dense, metric)
    flat = [getattr(baseline, metric) for baseline in study.baselines]
    top = canvas.error_axis(ax, [dense, *flat, *recovered], extra=errors)
    lowest = min(densities, default=1.0)
    canvas.density_axis(ax, lowest)
    ax.set_title(f"{metric.upper()}, scaled series")
    ax.set_xlabel("density over prunable weights (log scale)")

    labels = [(dense, f"dense {formats.error(dense)}", DENSE)]
    if metric == "mse":
        ax.axhspan(dense, (1 + findings.TOLERANCE) * dense, color=DENSE, alpha=0.13, lw=0)
    ax.axhline(dense, color=DENSE, lw=1.4)
    for i, (baseline, value) in enumerate(zip(study.baselines, flat, strict=True)):
        ax.axhline(value, color=BASELINE, lw=1.3, ls=_DASHES[i % len(_DASHES)])
        name = formats.label(baseline.name, 18)
        labels.append((value, f"{name} {formats.error(value)}", BASELINE))

    ax.plot(densities, errors, color=PRUNED, marker="o", zorder=3, clip_on=True)
    above = [(d, value) for d, value in zip(densities, errors, strict=True) if value > top]
    edge: dict[str, Any] = {"transform": ax.get_xaxis_transform(), "clip_on": False}
    for density, _ in above:
        ax.plot([density], [0.985], marker="^", color=PRUNED, **edge)
    if errors and lowest < 1:
        arrow = " ▲" if errors[-1] > top else ""
        text = f"● pruned {formats.error(errors[-1])}{arrow}"
        labels.append((min(errors[-1], ax.get_ylim()[1]), text, PRUNED))

    for t, value in zip(tuned, recovered, strict=True):
        before = min(getattr(t.rung, metric), ax.get_ylim()[1])
        ax.plot([t.rung.density] * 2, [before, value], color=TUNED, lw=1, ls=":", zorder=2)
    if tuned:
        places = [t.rung.density for t in tuned]
        diamond: dict[str, Any] = {"ls": "none", "marker": "D", "ms": 6.5, "mec": PAPER, "mew": 0.8}
        ax.plot(places, recovered, color=TUNED, zorder=4, **diamond)
        labels.append((recovered[-1], f"◆ fine-tuned {formats.error(recovered[-1])}", TUNED))
    canvas.margin_labels(ax, labels)
    return above


def _alt(study: records.Study) -> str:
    points = [f"{formats.short_share(r.density)}: {formats.error(r.mse)}" for r in study.ladder]
    tuned = [
        f"{formats.short_share(t.rung.density)}: {formats.error(t.mse)}" for t in study.finetuned
    ]
    baselines = [f"{formats.label(b.name)} {formats.error(b.mse)}" for b in study.baselines]
    text = (
        f"Two line charts, MSE and MAE by density. Dense MSE {formats.error(study.dense.mse)}. "
        f"MSE pruned without fine-tuning, by density: {', '.join(points)}."
    )
    text += f" Fine-tuned: {', '.join(tuned)}." if tuned else ""
    return text + (f" Baselines: {', '.join(baselines)}." if baselines else "")


def _caption(study: records.Study, above: list[list[tuple[float, float]]]) -> str:
    text = (
        "Test error against the density obtained over the prunable weights, from dense on the"
        " left. "
        "Circles: pruned, no fine-tuning. "
    )
    if study.finetuned:
        text += "Diamonds: the same mask after fine-tuning; the dotted line is what was recovered. "
    text += f"Band: within {formats.percent(findings.TOLERANCE)} of the dense MSE. ".replace(
        ".0", ""
    )
    text += "Numbers at the right are those of the lowest density. "
    over = max(above, key=len)
    if over:
        largest = max(value for found in above for _, value in found)
        text += (
            f"{len(over)} of {len(study.ladder)} rungs lie above the axis (▲), up to "
            f"{formats.error(largest)}: the table has them. "
        )
    return text.strip()
