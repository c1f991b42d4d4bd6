"""Writes the report's files, each whole or not at all."""

from pathlib import Path

from tsjax.results import write_file, write_json
from tsjax.study import RunFolder, records


def require() -> None:
    """Checks that the report can be made; a long study asks this before it starts.

    Raises:
      ImportError: if matplotlib or jinja2 is missing, with the command that installs them.
    """
    try:
        import jinja2
        import matplotlib  # noqa: F401
    except ImportError as missing:
        raise ImportError(
            f"The report needs {missing.name}, which is not installed: pip install "
            '"tsjax[report]" in an environment, or pip install -e ".[report]" from a checkout'
        ) from None
    del jinja2


def write(study: records.Study, folder: Path) -> Path:
    """Writes the page, its figures and tables, and the record itself.

    Into ``folder`` go ``report.html``, ``results.json``, ``figures/*.svg`` and ``*.png``, and
    ``tables/*.csv`` and ``*.md``. The page is written last and needs none of the other files.

    Args:
      study: the record.
      folder: an existing folder; files of an earlier report are replaced, and a figure that this
        study has no data for is removed.

    Returns:
      The path of ``report.html``.

    Raises:
      ImportError: if matplotlib or jinja2 is missing.
      ValueError: if a number in the record is not finite; no file is touched then.
    """
    require()
    from tsjax.report import answers, figures, page, tables

    run = RunFolder(folder)
    # First, because it refuses numbers that are not finite.
    write_json(study, run.results)
    plots = figures.draw(study)
    shown = tables.all_tables(study)
    sections = answers.sections(study)
    html = page.render(study, plots, shown, sections)

    run.figures.mkdir(exist_ok=True)
    run.tables.mkdir(exist_ok=True)
    for name in figures.NAMES:
        for kind in ("svg", "png"):
            path = run.figures / f"{name}.{kind}"
            if name in plots:
                write_file(path, plots[name].svg if kind == "svg" else plots[name].png)
            else:
                path.unlink(missing_ok=True)
    for name, table in (shown | {s.table.name: s.table for s in sections.values()}).items():
        write_file(run.tables / f"{name}.csv", table.csv())
        write_file(run.tables / f"{name}.md", table.markdown())
    write_file(run.page, html)
    return run.page
