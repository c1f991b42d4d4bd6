"""What the README shows runs as it is written, and what the guides point to is there."""

import os
import re
import subprocess
import sys

import pytest
from conftest import ROOT

README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_python_example_runs(tmp_path):
    (example,) = blocks("python")
    # As a user has it: without the compiler settings of the tests.
    env = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", example],
        cwd=tmp_path, env=env, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["1.0", "0.5", "0.1"]
    errors = [float(re.search(r"mse=([\d.]+)", line)[1]) for line in lines]
    assert errors[0] < errors[2]


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 150


def anchors(page):
    """What a link may name in a page: its headings, as they are rendered."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


PAGES = [ROOT / "README.md", ROOT / "third_party/README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not link.startswith("http"):
            name, _, anchor = link.partition("#")
            target = page.parent / name if name else page
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


def test_the_commands_exist():
    usage = subprocess.run(
        [ROOT / "launch.sh", "--help"], capture_output=True, text=True, check=True
    ).stdout
    for block in blocks("bash"):
        for command in re.findall(r"\./launch\.sh ([a-z]+)", block):
            assert re.search(rf"^  {command} ", usage, re.MULTILINE), command


@pytest.mark.parametrize("path", ["README.md", *sorted(p.name for p in ROOT.glob("docs/*.md"))])
def test_no_figure_is_left_to_be_filled_in(path):
    text = (ROOT / path if path == "README.md" else ROOT / "docs" / path).read_text()
    assert not re.search(r"@[A-Z_]+@", text)
