"""Runs what a guide in ``docs/`` shows.

Each section goes on from the guide's base, which goes on from its first block. In a section each
block goes on from the section's first.
"""

import functools
import re

import pytest
from conftest import ROOT


class Guide:
    """The sections of a guide, and its Python blocks by ``(section, number)``.

    The base is a block, by default the guide's first one.
    """

    def __init__(self, path, base=None):
        self.path = path
        text = (ROOT / path).read_text()
        # A single # may begin a comment in a block; only the title has one.
        self.sections = {
            section.partition("\n")[0]: section
            for section in re.split(r"^## ", "#" + text, flags=re.MULTILINE)[1:]
        }
        self.blocks = {
            (title, i): block
            for title, section in self.sections.items()
            for i, block in enumerate(re.findall(r"```python\n(.*?)```", section, re.DOTALL))
        }
        self.start = next(iter(self.blocks))
        self.base = base or self.start
        self.before, self.after = map(functools.cache, (self._before, self._after))

    def rows(self, title, first_column):
        """The cells of the section's table that begins with this column."""
        (table,) = re.findall(
            rf"^\| {first_column} \|.*\n\|[-|]+\n((?:\|.*\n)+)", self.sections[title], re.MULTILINE
        )
        return [[c.strip() for c in re.split(r"(?<!\\)\|", r)[1:-1]] for r in table.splitlines()]

    def run(self, block, names):
        names = dict(names)
        exec(compile(self.blocks[block], f"{self.path}, {block}", "exec"), names)
        return names

    def run_once(self, block):
        """Runs a block after those it goes on from, unless it has run or lacks its library."""
        for module in re.findall(r"^import (equinox|haiku)", self.blocks[block], re.MULTILINE):
            pytest.importorskip(module)
        return self.after(block)

    def _before(self, block):
        """The names that a block finds."""
        first = (block[0], 0)
        if block == self.start:
            return {}
        if block != first:
            return self.after(first)
        return self.after(self.start if block == self.base else self.base)

    def _after(self, block):
        """The names that there are once a block has run."""
        return self.run(block, self.before(block))


def code(cell):
    return re.findall(r"`([^`]+)`", cell)


def name_of(block):
    return f"{block[0]}, {block[1]}"
