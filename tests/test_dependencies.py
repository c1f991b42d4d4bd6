"""pyproject.toml asks for what is imported, and for nothing else."""

import ast
import re
import sys
import tomllib

import pytest
from conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]

# Where a package has another name than its module.
PACKAGES = {
    "absl": "absl-py",
    "haiku": "dm-haiku",
    "orbax": "orbax-checkpoint",
    "pynvml": "nvidia-ml-py",
    "torch_pruning": "torch-pruning",
}

OURS = {"tsjax", "experiments", "third_party"}

# What `launch.sh test` and `launch.sh lint` run, and what mypy reads.
TOOLS = {"mypy", "pandas-stubs", "pytest-xdist", "ruff"}


def modules(path):
    """Names at the head of what a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.split(".")[0]


def imported(folder):
    """Packages of others that a folder's files import."""
    files = list((ROOT / folder).rglob("*.py"))
    assert files
    # Tests import one another by file.
    own = OURS | {path.stem for path in files} | {path.parent.name for path in files}
    others = {module for path in files for module in modules(path)} - own
    return {PACKAGES.get(module, module) for module in others - set(sys.stdlib_module_names)}


def named(requirements):
    """The names of requirements, without what is of this project or an extra of another."""
    names = {re.match(r"[\w-]+", requirement)[0] for requirement in requirements}
    return names - {"tsjax"}


ALWAYS = named(PROJECT["dependencies"])
OPTIONAL = named(EXTRAS["report"] + EXTRAS["torch"] + EXTRAS["cuda12"]) - ALWAYS


def test_the_package_and_its_scripts_import_what_is_asked_for():
    assert imported("tsjax") - OPTIONAL == ALWAYS - {"absl-py"}
    assert (imported("tsjax") | imported("experiments")) - OPTIONAL == ALWAYS
    assert imported("third_party") <= ALWAYS | OPTIONAL


@pytest.mark.parametrize("extra", ["report", "torch", "cuda12"])
def test_an_extra_is_imported(extra):
    users = imported("tsjax") | imported("third_party")
    assert named(EXTRAS[extra]) <= users


def test_the_tests_import_what_is_asked_for():
    tests = imported("tests") - ALWAYS - OPTIONAL
    assert tests == named(EXTRAS["test"]) - TOOLS


def test_each_package_is_asked_for_once():
    test = named(EXTRAS["test"])
    assert not test & ALWAYS
    assert not test & OPTIONAL
