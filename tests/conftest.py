"""Settings every test runs under, and where the reference material lies."""

import gc
import itertools
import os
from pathlib import Path

# Tests compare numbers: they run on the CPU even where an accelerator is present.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Nearly all their time is compilation, and little of it is needed to run a function once or twice.
# Without the fusion emitters, and in one thread, compiling takes half of the processors' time. The
# reference cases ask for full optimisation themselves. XLA ends a process at a flag that it does
# not know: should a later version have dropped one, set XLA_FLAGS, or leave it out here.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false "
    "--xla_cpu_parallel_codegen_split_count=1",
)

import jax
import numpy as np
import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parents[1]
# Each compiled program is mapped into memory, and stays. Linux allows a process 65,530 mappings; at
# the next one the compiler crashes.
MAPPINGS = 40_000
# Set while the long forms run, for what is decided where a test is defined.
ALL_TESTS = "TSJAX_ALL_TESTS"


def pytest_addoption(parser):
    parser.addoption("--all", action="store_true", help="also run the long forms of the tests")


def pytest_configure(config):
    # Before the test files are imported, and before pytest-xdist starts its workers.
    if config.getoption("--all"):
        os.environ[ALL_TESTS] = "1"
    else:
        os.environ.pop(ALL_TESTS, None)
    jax.config.update("jax_numpy_rank_promotion", "raise")
    jax.config.update("jax_default_matmul_precision", "highest")


def pytest_collection_modifyitems(config, items):
    """Leaves out the tests marked ``long``, unless all are asked for."""
    if config.getoption("--all"):
        return
    long = [item for item in items if item.get_closest_marker("long")]
    if long:
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if not item.get_closest_marker("long")]


def pytest_collection_finish():
    """Collects garbage less often: looking through all that stays took a tenth of the time."""
    gc.set_threshold(50_000, 20, 50)


def examples(short, long):
    """What is tried, or how often: ``long`` with ``--all``, else ``short``."""
    return long if os.environ.get(ALL_TESTS) else short


def some_long(values, long):
    """Values of a parameter, of which those that ``long`` says are long forms."""
    return [pytest.param(v, marks=pytest.mark.long if long(v) else ()) for v in values]


_tests_done = itertools.count(1)


def pytest_runtest_teardown():
    """Forgets compiled programs when a process has many of them."""
    maps = Path("/proc/self/maps")
    if next(_tests_done) % 8 or not maps.exists():  # Not every system has it.
        return
    with maps.open("rb") as lines:
        mapped = sum(1 for _ in lines)
    if mapped > MAPPINGS:
        jax.clear_caches()
        gc.collect()


def reference_dir(variable: str, name: str) -> Path:
    """A folder of reference material: the environment's, or the one beside the checkout."""
    return Path(os.environ.get(variable, ROOT.parent / "shared" / name))


def golden_dir() -> Path:
    return reference_dir("TSJAX_GOLDEN_DIR", "golden")


@pytest.fixture
def as_a_user_has_it(tmp_path, monkeypatch):
    """A folder to write to, and JAX as it comes, for code that a document shows."""
    monkeypatch.chdir(tmp_path)
    with jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(scope="session")
def csv(tmp_path_factory):
    """A small hourly CSV with a daily wave in two channels."""
    rng = np.random.default_rng(0)
    hours = np.arange(1200)
    wave = np.sin(2 * np.pi * hours / 24)
    frame = pd.DataFrame(
        {
            "date": pd.date_range("2020-01-01", periods=1200, freq="h"),
            "load": 100 + 10 * wave + rng.normal(size=1200),
            "wind": 5 - wave + rng.normal(size=1200),
        }
    )
    path = tmp_path_factory.mktemp("csv") / "plant.csv"
    frame.to_csv(path, index=False)
    return path


@pytest.fixture
def real_data() -> Path:
    """The folder with the public CSV files (ETTh1.csv, ...), where there is one."""
    folder = reference_dir("TSJAX_DATA_DIR", "data")
    if not (folder / "ETTh1.csv").is_file():
        pytest.skip(f"no ETTh1.csv in {folder}: set TSJAX_DATA_DIR to run this test")
    return folder
