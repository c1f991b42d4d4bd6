"""The page: one HTML file that holds everything it shows."""

import json
from collections.abc import Mapping
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from tsjax.report import findings, formats, tables
from tsjax.report.answers import Section
from tsjax.report.canvas import Plot
from tsjax.report.tables import Table
from tsjax.study import records

CHANNELS = 40


def _value(value: Any) -> str:
    """A setting's value: text as it is, lists without brackets, anything else as JSON writes it."""
    if value is None:
        return "not given"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(_value(item) for item in value) or "none"
    text = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    return formats.label(text, 200)


def _step(study: records.Study) -> str | None:
    """The usual time between rows, in the largest unit that divides it; None if there is none."""
    seconds = study.data.step_seconds
    if seconds <= 0:
        return None
    units = ((604_800, "week"), (86_400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))
    for size, unit in units:
        if seconds >= size and seconds % size == 0:
            number = round(seconds / size)
            return f"every {unit}" if number == 1 else f"every {formats.count(number)} {unit}s"
    return f"every {seconds:g} seconds"


def _channels(study: records.Study) -> str:
    """The channels' names, cut short where there are many."""
    names = [formats.label(name, 48) for name in study.data.channels]
    more = len(names) - CHANNELS
    return ", ".join(names[:CHANNELS]) + (f" and {formats.count(more)} more" if more > 0 else "")


def _size(study: records.Study) -> str:
    """The line under the title: model, data, dates, sizes and preset."""
    data = study.data
    params = study.ladder[0].params if study.ladder else None
    parts = [findings.model(study)]
    if params is not None:
        parts[0] += f", {formats.si(params)} parameters"
    parts.append(
        f"{formats.label(data.name)}: {formats.count(data.rows)} rows of "
        f"{formats.count(len(data.channels))} channel{'s' if len(data.channels) != 1 else ''}, "
        f"{formats.date(data.first_date)} to {formats.date(data.last_date)}"
    )
    seq_len = study.config.get("seq_len")
    seen = f"{formats.label(seq_len)} steps in, " if seq_len is not None else ""
    parts.append(f"{seen}{findings.horizon(study)} out")
    preset = study.config.get("preset")
    parts += [f"preset {formats.label(preset)}"] if preset is not None else []
    return " · ".join(parts)


def render(
    study: records.Study,
    plots: Mapping[str, Plot],
    shown: Mapping[str, Table],
    sections: Mapping[str, Section],
) -> str:
    """Renders the page.

    Args:
      study: the record.
      plots: the figures, by name; one without data is absent.
      shown: the tables, by name.
      sections: what the page says of further questions, by the question's name.

    Returns:
      The HTML text.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tsjax.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = resources.files("tsjax.report").joinpath("page.css").read_text("utf-8")
    template = environment.get_template("template.html.j2")
    return template.render(
        study=study,
        style=Markup(style),
        title=findings.title(study),
        size=_size(study),
        headline=findings.headline(study),
        sentences=findings.sentences(study),
        revived=findings.revived(study),
        warnings=findings.warnings(study),
        control=findings.control(study),
        uncounted=findings.uncounted_sentence(study),
        seed=study.config.get("seed"),
        plots=plots,
        tables=shown,
        sections=sections,
        timings=findings.timings(study),
        runs=list(tables.runs(study)),
        channels=_channels(study),
        step=_step(study),
        whole_batches=bool(study.config.get("drop_last_test")),
        settings=[(formats.label(n), _value(v)) for n, v in study.config.items()],
        versions=[(formats.label(n), _value(v)) for n, v in study.versions.items()],
        formats=formats,
    )
