"""An import may only point down, and takes of a package only what it exports.

Both are the rules of ``docs/architecture.md``, checked on the source.
"""

import ast
import functools
import subprocess
import sys

import pytest
from conftest import ROOT

THIRD_PARTY = {
    "absl", "chex", "flax", "jax", "jinja2", "matplotlib", "numpy", "optax", "orbax", "pandas",
    "markupsafe", "pynvml", "safetensors", "torch", "tqdm",
}  # fmt: skip

GROUND = {"stacking", "trees", "wording"}

# What each part may import of tsjax, and of other packages.
ALLOWED = {
    "wording": (set(), set()),
    "trees": (set(), {"jax"}),
    "stacking": ({"trees"}, {"jax"}),
    "forecaster": ({"trees"}, {"jax"}),
    "jaxprs": (set(), {"jax"}),
    "flop_rules": ({"jaxprs"}, {"jax"}),
    "settings": ({"wording"}, set()),
    "results": ({"costs"}, {"jax"}),
    "data": ({"wording"}, {"numpy", "pandas"}),
    "pruning": (GROUND | {"jaxprs"}, {"jax", "numpy", "optax"}),
    "structure": (GROUND | {"flop_rules", "jaxprs"}, {"jax", "numpy"}),
    "costs": (GROUND | {"flop_rules", "jaxprs"}, {"jax", "numpy", "pynvml"}),
    "models": (GROUND | {"forecaster", "jaxprs"}, {"jax", "numpy", "flax"}),
    "training": (GROUND | {"forecaster", "pruning"}, {"jax", "numpy", "optax", "orbax", "tqdm"}),
    "interop": (
        GROUND | {"forecaster", "models", "pruning"},
        {"jax", "numpy", "safetensors", "torch"},
    ),
    "benchmark": (
        GROUND
        | {"costs", "forecaster", "models", "pruning", "results", "settings", "structure"}
        | {"training"},
        {"jax", "numpy", "optax"},
    ),
    "study": (
        GROUND
        | {"costs", "data", "forecaster", "interop", "models", "pruning", "results", "settings"}
        | {"structure", "training"},
        {"jax", "numpy"},
    ),
    "report": (
        {"benchmark", "results", "study", "wording"},
        {"jinja2", "markupsafe", "matplotlib", "numpy", "pandas"},
    ),
}
TSJAX = ROOT / "tsjax"
FILES = sorted(path for path in TSJAX.rglob("*.py") if path != TSJAX / "__init__.py")
OUTSIDE = sorted(
    path
    for name in ("benchmarks", "experiments", "third_party")
    for path in (ROOT / name).rglob("*.py")
)


def name_of(path):
    return str(path.relative_to(ROOT))


def part_of(path):
    """The room of a file of tsjax, None for one outside."""
    return path.relative_to(TSJAX).parts[0].removesuffix(".py") if TSJAX in path.parents else None


@functools.cache
def tree_of(path):
    return ast.parse(path.read_text())


def imports(path):
    """Modules that a file imports, as dotted names."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if node.module == "tsjax":
                yield from (f"tsjax.{alias.name}" for alias in node.names)
            else:
                yield node.module


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_point_down(path):
    part = part_of(path)
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


def test_every_room_is_in_the_table():
    assert {part_of(path) for path in FILES} == set(ALLOWED)


def public(part):
    """The names that a part exports; None for a single file, whose names without _ are public."""
    if (TSJAX / f"{part}.py").is_file():
        return None
    for node in tree_of(TSJAX / part / "__init__.py").body:
        if isinstance(node, ast.Assign) and node.targets[0].id == "__all__":
            return set(ast.literal_eval(node.value))
    raise AssertionError(f"tsjax/{part}/__init__.py has no __all__")


def exports(part, name):
    names = public(part)
    return not name.startswith("_") if names is None else name in names


def uses(path):
    """What a file takes of other parts: ``(part, name, line)``, where a name may be dotted."""
    parts, found = {}, []
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top, _, rest = alias.name.partition(".")
                part, _, inside = rest.partition(".")
                if top == "tsjax" and inside:
                    found.append((part, inside, node.lineno))
                elif top == "tsjax" and part and alias.asname:
                    parts[alias.asname] = part
        elif isinstance(node, ast.ImportFrom) and node.module == "tsjax":
            parts |= {alias.asname or alias.name: alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module.startswith("tsjax."):
            part, _, inside = node.module.removeprefix("tsjax.").partition(".")
            names = (f"{inside}.{alias.name}".removeprefix(".") for alias in node.names)
            found += [(part, name, node.lineno) for name in names]
    found += attributes(tree_of(path), parts)
    return [use for use in found if use[0] != part_of(path)]


def attributes(node, parts):
    """What is taken of the parts that names stand for; a variable may have the name of one."""
    if isinstance(node, ast.FunctionDef | ast.Lambda):
        bound = {n.arg for n in ast.walk(node) if isinstance(n, ast.arg)}
        bound |= {
            n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
        }
        parts = {name: part for name, part in parts.items() if name not in bound}
    if isinstance(node, ast.Attribute) and getattr(node.value, "id", None) in parts:
        yield parts[node.value.id], node.attr, node.lineno
    for child in ast.iter_child_nodes(node):
        yield from attributes(child, parts)


@pytest.mark.parametrize("path", [*FILES, *OUTSIDE], ids=name_of)
def test_only_what_is_exported_is_used(path):
    private = [
        f"line {line}: tsjax.{part}.{name}"
        for part, name, line in uses(path)
        if not exports(part, name)
    ]
    assert private == []


@pytest.mark.parametrize("part", [part for part in ALLOWED if public(part) is not None])
def test_a_package_exports_what_its_init_imports(part):
    path = TSJAX / part / "__init__.py"
    imported = [
        alias.asname or alias.name
        for node in tree_of(path).body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    ]
    assert sorted(imported) == sorted(public(part))
    assert len(set(imported)) == len(imported)


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from tsjax.pruning.masks import apply", [("pruning", "masks.apply")]),
        ("import tsjax.pruning.masks", [("pruning", "masks")]),
        ("from tsjax.pruning import masks as m", [("pruning", "masks")]),
        ("from tsjax import pruning as p\np.masks", [("pruning", "masks")]),
        ("import tsjax.pruning as p\np.masks.apply", [("pruning", "masks")]),
        ("def f():\n    from tsjax.pruning import masks", [("pruning", "masks")]),
        ("from tsjax import trees\ntrees._key", [("trees", "_key")]),
        ("from tsjax import pruning, trees\npruning.apply, trees.paths", []),
        ("from tsjax import data\ndef f(data): data.hidden\ndef g(): data = 1; data.hidden", []),
    ],
)  # fmt: skip
def test_the_check_sees_every_way_into_a_package(source, found, tmp_path):
    path = tmp_path / "file.py"
    path.write_text(source)
    private = [(part, name) for part, name, _ in uses(path) if not exports(part, name)]
    assert private == found


def test_the_package_itself_imports_nothing():
    assert list(imports(TSJAX / "__init__.py")) == []


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
