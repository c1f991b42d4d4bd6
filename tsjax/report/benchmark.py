"""Writes what a benchmark found: a page in Markdown, its tables and figures."""

from pathlib import Path

from tsjax.benchmark import Benchmark
from tsjax.report import formats
from tsjax.report.writing import require
from tsjax.results import write_file, write_json
from tsjax.study import RunFolder

_READ = """\
A time is the median of single calls, with the quartiles in brackets. All engines and variants of a
model, task and batch take turns, one call of each after the other. A ratio marked *(paired)* is one
of paired turns: each time is divided by the other's of the same turn, and the cell has the median
and the quartiles of these ratios. Other ratios are of medians.
"""

_ABOUT = {
    "engines": "The dense models on every engine.",
    "cuts": """\
Compiled by XLA. *Speed* is how many times as fast as the dense model, *realised* the share of the
saved FLOPs that became speed: the median speed over the ratio of FLOPs. *At most* is the speed if
the cut model attained its own bound.""",
    "bounds": """\
The milliseconds that a call takes for its arithmetic at the peak rate, for the bytes that its
compiled program reads and writes, and for the kernels that it starts. The largest is its bound;
*attained* is the bound's share of the time measured. Bytes move at the bandwidth of arrays as large
as all of the program's memory, which its caches may beat.""",
}

# What is said of a device where its system tells, and how.
_ABOUT_DEVICE = (
    ("driver", "driver {}"),
    ("gpu_mhz", "{} MHz"),
    ("memory_mhz", "its memory {} MHz"),
    ("power_limit_w", "at most {} W"),
    ("malloc", "{}"),
)


def write_benchmark(found: Benchmark, folder: Path) -> Path:
    """Writes ``README.md``, ``times.csv``, ``results.json`` and the figures.

    Args:
      found: what a run found.
      folder: an existing folder; files of an earlier run are replaced.

    Returns:
      The path of ``README.md``.

    Raises:
      ImportError: if matplotlib or jinja2 is missing.
      ValueError: if a number is not finite; no file is touched then.
    """
    require()
    from tsjax.report import benchmark_tables as tables
    from tsjax.report import roofline, speedups

    run = RunFolder(folder)
    write_json(found, run.results)
    write_file(run.times, tables.times(found).csv())
    plots = {"cuts": speedups.draw(found), "bounds": roofline.draw(found)}
    sections = [_heading(found), _READ]
    for table in (tables.engines(found), tables.cuts(found), tables.bounds(found)):
        if table.records:
            sections.append(f"## {table.caption}\n\n{_ABOUT[table.name]}\n\n{table.markdown()}")
        if plot := plots.get(table.name):
            write_file(folder / f"{plot.name}.svg", plot.svg)
            write_file(folder / f"{plot.name}.png", plot.png)
            sections.append(f"![{plot.alt}]({plot.name}.svg)\n\n{plot.caption}\n")
    failed = [
        f"* {row.model}, {row.variant}, {row.task}, batch {row.batch}, {row.engine}: "
        f"{formats.label(row.error, 200)}\n"
        for row in found.rows
        if row.error
    ]
    if failed:
        sections.append("## What did not run\n\n" + "".join(failed))
    write_file(run.benchmark_page, "\n".join(sections))
    return run.benchmark_page


def _heading(found: Benchmark) -> str:
    versions, peaks = found.versions, found.peaks
    device = versions["cpu_model" if versions["platform"] == "cpu" else "device_kind"]
    packages = ("python", "jax", "jaxlib", "flax", "torch")
    ran_on = ", ".join(f"{name} {versions[name]}" for name in packages if name in versions)
    cache = max(rate for _, rate in peaks.bandwidths)
    about = [versions["platform"], f"{versions['cpu_count']} CPUs"]
    about += [words.format(versions[name]) for name, words in _ABOUT_DEVICE if name in versions]
    about += [f"precision {peaks.precision}"]
    return f"""\
# Times on {device}

```
{found.command}
```

* {", ".join(about)}
* {ran_on}
* measured peaks: {formats.si(peaks.flops)}FLOP/s in matrix products, \
{formats.si(peaks.bandwidth())}B/s of memory, \
{formats.si(cache)}B/s of cache, {1e6 * peaks.launch:.2f} µs a kernel, \
{1e6 * peaks.dispatch:.1f} µs a call
"""
