"""An import may only point down: the layers of ``docs/architecture.md``, checked on the source."""

import ast
import subprocess
import sys

import pytest
from conftest import ROOT

THIRD_PARTY = {
    "absl", "chex", "flax", "jax", "jinja2", "matplotlib", "numpy", "optax", "orbax", "pandas",
    "markupsafe", "pynvml", "safetensors", "torch", "tqdm",
}  # fmt: skip

# What each part may import of tsjax, and of other packages.
ALLOWED = {
    "wording": (set(), set()),
    "forecaster": ({"trees"}, {"jax"}),
    "trees": (set(), {"jax"}),
    "stacking": ({"trees"}, {"jax"}),
    "jaxprs": (set(), {"jax"}),
    "flop_rules": ({"jaxprs"}, {"jax"}),
    "data": ({"wording"}, {"numpy", "pandas"}),
    "pruning": ({"jaxprs", "stacking", "trees", "wording"}, {"jax", "numpy", "optax"}),
    "structure": ({"flop_rules", "jaxprs", "trees", "wording"}, {"jax", "numpy"}),
    "costs": ({"flop_rules", "jaxprs", "trees", "wording"}, {"jax", "numpy", "pynvml"}),
    "models": ({"forecaster", "trees", "wording"}, {"jax", "numpy", "flax"}),
    "training": (
        {"forecaster", "pruning", "stacking", "trees", "wording"},
        {"jax", "numpy", "optax", "orbax", "tqdm"},
    ),
    "interop": (
        {"forecaster", "models", "pruning", "trees", "wording"},
        {"jax", "numpy", "safetensors", "torch"},
    ),
    "study": (
        {
            *("costs", "data", "interop", "models", "pruning", "structure", "training"),
            *("forecaster", "trees", "wording"),
        },
        {"jax", "numpy", "optax"},
    ),
    "report": ({"study", "wording"}, {"jinja2", "markupsafe", "matplotlib", "numpy", "pandas"}),
}


def imports(path):
    """Modules that a file imports, as dotted names."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if node.module == "tsjax":
                yield from (f"tsjax.{alias.name}" for alias in node.names)
            else:
                yield node.module


def files():
    return sorted(p for p in (ROOT / "tsjax").rglob("*.py") if p.parent.name != "tsjax") + sorted(
        p for p in (ROOT / "tsjax").glob("*.py") if p.stem != "__init__"
    )


@pytest.mark.parametrize("path", files(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path):
    part = path.relative_to(ROOT / "tsjax").parts[0].removesuffix(".py")
    ours, others = ALLOWED[part]
    for module in imports(path):
        names = module.split(".")
        if names[0] == "tsjax":
            if len(names) > 1:
                assert names[1] in ours | {part}, f"{part} must not import {module}"
        elif names[0] in THIRD_PARTY:
            assert names[0] in others, f"{part} must not import {module}"
        else:
            assert names[0] in sys.stdlib_module_names, f"{module}: say where it belongs"


def test_the_package_itself_imports_nothing():
    assert list(imports(ROOT / "tsjax" / "__init__.py")) == []


def test_only_experiments_read_flags():
    readers = [p for p in ROOT.joinpath("tsjax").rglob("*.py") if "absl" in p.read_text()]
    assert readers == []


@pytest.mark.parametrize(
    ("part", "absent"),
    [
        ("pruning", {"flax", "pandas", "orbax", "matplotlib"}),
        ("costs", {"flax", "pandas", "optax", "matplotlib"}),
        ("structure", {"flax", "pandas", "optax", "matplotlib"}),
        ("data", {"jax", "flax", "matplotlib"}),
        ("models", {"pandas", "matplotlib", "tqdm"}),
        ("interop", {"safetensors", "torch"}),
    ],
)
def test_a_part_loads_no_more_than_it_needs(part, absent):
    code = f"import sys, tsjax.{part}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert not loaded & absent
