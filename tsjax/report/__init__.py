"""The study's page: tables, figures and one self-contained HTML file, made from its record alone.

``write`` needs matplotlib and jinja2 (``pip install "tsjax[report]"``) and imports them when
called; ``terminal_table`` needs neither.
"""

from tsjax.report.benchmark import write_benchmark
from tsjax.report.terminal import terminal_table
from tsjax.report.writing import require, write

__all__ = ["require", "terminal_table", "write", "write_benchmark"]
