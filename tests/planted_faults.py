"""Plants one fault at a time in a copy of the project, and sees whether the tests catch it.

    python tests/planted_faults.py               # all of FAULTS, each against the tests it names
    python tests/planted_faults.py 3 17 --jobs 2
    python tests/planted_faults.py --full        # each against the whole short suite
    python tests/planted_faults.py 0             # no fault: the named tests must pass

A fault is caught where a test fails, and survives where all pass; anything else, such as a test
that cannot be collected, is an error. The exit status is 1 unless all are caught. The list is of
faults that a reader would overlook: tests/test_planted_faults.py sees to it that it stays true.
"""

import argparse
import concurrent.futures
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 3600
"""Seconds that the tests of one fault may take."""


class Fault(NamedTuple):
    """One line of a file that is wrong.

    Attributes:
      file: from the project's root.
      old: what stands there, once in the file.
      new: what is to stand there.
      tests: test files or tests, separated by spaces, that are to notice.
    """

    file: str
    old: str
    new: str
    tests: str


FAULTS: tuple[Fault, ...] = (
    Fault(
        "tsjax/data/splits.py",
        "seq_len - pred_len + 1)",
        "seq_len - pred_len)",
        "tests/data/test_dataset.py",
    ),
    Fault(
        "tsjax/data/dataset.py",
        "train = series.values[:train_rows]",
        "train = series.values",
        "tests/data/test_dataset.py",
    ),
    Fault(
        "tsjax/data/cleaning.py",
        "np.maximum(np.searchsorted(known, hole) - 1, 0)",
        "np.minimum(np.searchsorted(known, hole), len(known) - 1)",
        "tests/data/test_cleaning.py",
    ),
    Fault(
        "tsjax/data/timemarks.py",
        "dates.minute // 15",
        "dates.minute // 16",
        "tests/data/test_timemarks.py",
    ),
    Fault(
        "tsjax/pruning/selection.py",
        "return n - round((1 - float(density)) * n)",
        "return round(float(density) * n)",
        "tests/pruning/test_select.py",
    ),
    Fault(
        "tsjax/pruning/optimiser.py",
        "jnp.where(m, u, -w)",
        "jnp.where(m, u, jnp.zeros_like(w))",
        "tests/pruning/test_keep_pruned.py",
    ),
    Fault(
        "tsjax/pruning/regrow.py",
        "step = sparse.step + 1",
        "step = sparse.step",
        "tests/pruning/test_dynamic.py",
    ),
    Fault(
        "tsjax/pruning/gradual.py",
        "masks.intersect(self._selected(found, step), mask)",
        "self._selected(found, step)",
        "tests/pruning/test_dynamic.py tests/pruning/test_dynamic_updates.py",
    ),
    Fault(
        "tsjax/pruning/weight_rules.py",
        "x = jnp.transpose(x, free + [axis_in_x[axis] for axis in sorted(of_w)])",
        "x = jnp.transpose(x, free + [axis_in_x[axis] for axis in of_w])",
        "tests/pruning/test_input_norms.py",
    ),
    Fault(
        "tsjax/structure/slicing.py",
        "np.isin(np.arange(group.size), units), True)",
        "np.isin(np.arange(group.size), units), False)",
        "tests/structure/test_slicing.py",
    ),
    Fault(
        "tsjax/structure/importance.py",
        "lambda s, w: s * np.abs(w) ** 2 / 2",
        "lambda s, w: s * np.abs(w) / 2",
        "tests/structure/test_importance.py",
    ),
    Fault(
        "tsjax/structure/planning.py",
        "float(self.ranked[size:before].mean())",
        "float(self.ranked[size:before].max())",
        "tests/structure/test_planning.py",
    ),
    Fault(
        "tsjax/structure/primitives/contracting.py",
        "units, eqn, [np.ones_like(filled[0])])",
        "units, eqn, filled)",
        "tests/structure/test_compaction.py tests/structure/test_zeros.py",
    ),
    Fault(
        "tsjax/flop_rules.py",
        "macs *= 4",
        "macs *= 3",
        "tests/costs/test_counting.py",
    ),
    Fault(
        "tsjax/flop_rules.py",
        "size - size // max(1, length)",
        "size",
        "tests/costs/test_counting.py",
    ),
    Fault(
        "tsjax/costs/timing.py",
        "np.percentile(self.samples, (25, 75))",
        "np.percentile(self.samples, (25, 90))",
        "tests/costs/test_timing.py",
    ),
    Fault(
        "tsjax/models/layers.py",
        "np.asarray(1e-5, wide)",
        "np.asarray(1e-6, wide)",
        "tests/interop/test_reference_models.py",
    ),
    Fault(
        "tsjax/models/informer.py",
        "now_var * (n / max(n - 1, 1))",
        "now_var",
        "tests/interop/test_reference_models.py",
    ),
    Fault(
        "tsjax/models/informer.py",
        "jnp.sum(sampled, axis=-1) / k.shape[1]",
        "jnp.mean(sampled, axis=-1)",
        "tests/interop/test_reference_models.py",
    ),
    Fault(
        "tsjax/models/decomposition.py",
        "front, back = longer, shorter",
        "front, back = shorter, longer",
        "tests/interop/test_reference_models.py",
    ),
    Fault(
        "tsjax/models/crossformer.py",
        "x[:, :, -missing:]",
        "x[:, :, :missing]",
        "tests/interop/test_reference_models.py",
    ),
    Fault(
        "tsjax/models/dropout.py",
        "x / (1 - threshold / 2**16)",
        "x",
        "tests/models/test_blocks.py",
    ),
    Fault(
        "tsjax/training/evaluation.py",
        "masked = pruning.apply(lane.params, lane.mask)",
        "masked = lane.params",
        "tests/training/test_evaluate.py",
    ),
    Fault(
        "tsjax/training/schedule.py",
        "- (full_rate_epochs - 1), 0)",
        "- full_rate_epochs, 0)",
        "tests/training/test_fit.py",
    ),
    Fault(
        "tsjax/training/steps.py",
        "jax.random.fold_in(train.key, train.step)",
        "train.key",
        "tests/training/test_train_step.py",
    ),
    Fault(
        "tsjax/training/loop.py",
        "done.epoch - max(self.best_epoch, self.since) >= self",
        "done.epoch - max(self.best_epoch, self.since) > self",
        "tests/training/test_fit.py",
    ),
    Fault(
        "tsjax/training/windows.py",
        "decoder_start = self.seq_len - self.label_len",
        "decoder_start = self.seq_len - self.label_len - 1",
        "tests/training/test_gather.py",
    ),
    Fault(
        "tsjax/interop/sparse.py",
        "encoded(masked, everything),",
        "encoded(params, everything),",
        "tests/interop/test_sparse_files.py",
    ),
    Fault(
        "tsjax/interop/torch_modes.py",
        "sorted(order[: kept.n_modes])",
        "order[: kept.n_modes]",
        "tests/interop/test_torch_modes.py",
    ),
    Fault(
        "tsjax/models/torch_names.py",
        '{"query": "Lq", "key": "Lk", "out": "out"}',
        '{"query": "Lk", "key": "Lq", "out": "out"}',
        "tests/interop/test_reference_models.py",
    ),
    Fault(
        "tsjax/study/costs_and_sizes.py",
        "q3_ms=1e3 * q3,",
        "q3_ms=1e3 * timing.iqr,",
        "tests/study/test_every_model.py",
    ),
    Fault(
        "tsjax/study/comparable.py",
        "if left < LEAST_SHARE * windows:",
        "if left < LEAST_SHARE * settings.batch_size:",
        "tests/study/test_comparable.py",
    ),
    Fault(
        "tsjax/study/criteria.py",
        "starts[i * step :: wanted * step][:size]",
        "starts[i * step :: step][:size]",
        "tests/study/test_criteria.py",
    ),
    Fault(
        "tsjax/benchmark/timing.py",
        "np.divide(samples[key], mine)",
        "np.divide(np.median(samples[key]), mine)",
        "tests/benchmark/test_benchmark.py",
    ),
    Fault(
        "tsjax/benchmark/records.py",
        "self.over_dense / self.flops_ratio",
        "self.flops_ratio / self.over_dense",
        "tests/benchmark/test_benchmark.py tests/report/test_benchmark_report.py",
    ),
    Fault(
        "tsjax/report/formats.py",
        "if value >= 9:",
        "if value >= 10:",
        "tests/report/test_report_findings.py",
    ),
    Fault(
        "tsjax/report/benchmark_tables.py",
        "dense.median_ms / row.least_ms",
        "row.median_ms / row.least_ms",
        "tests/report/test_benchmark_report.py",
    ),
    Fault(
        "experiments/common.py",
        'if "data_dir" not in given and',
        "if",
        "tests/experiments/test_usage.py",
    ),
    Fault(
        "launch.sh",
        'pyproject="$(cksum <"$root/pyproject.toml") $root"',
        'pyproject="$root"',
        "tests/test_launch.py",
    ),
)


def copy_of_the_project(folder: Path) -> None:
    """Copies what git tracks, and new files that it does not ignore."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target)


def plant(fault: Fault, folder: Path) -> None:
    path = folder / fault.file
    text = path.read_text()
    if text.count(fault.old) != 1:
        raise ValueError(f"{fault.file}: {text.count(fault.old)} times {fault.old!r}, expected 1")
    path.write_text(text.replace(fault.old, fault.new))


def outcome(number: int, tests: Sequence[str]) -> tuple[str, str]:
    """Says ``caught``, ``survived`` or ``error`` of a fault, and which line of pytest tells.

    Args:
      number: a fault of the list, counted from 1, or 0 for none.
      tests: arguments of pytest.
    """
    with tempfile.TemporaryDirectory(prefix="tsjax-fault-") as name:
        folder = Path(name)
        copy_of_the_project(folder)
        if number:
            plant(FAULTS[number - 1], folder)
        # In front of the project that is installed.
        environment = os.environ | {"PYTHONPATH": str(folder)}
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
        try:
            run = subprocess.run(
                command, cwd=folder, env=environment, capture_output=True, text=True, timeout=LIMIT
            )
        except subprocess.TimeoutExpired:
            return "error", f"not done in {LIMIT} s"
    lines = run.stdout.strip().splitlines() or run.stderr.strip().splitlines() or [""]
    told = [line for line in lines if line.startswith(("FAILED", "ERROR"))] or lines[-1:]
    return {0: "survived", 1: "caught"}.get(run.returncode, "error"), told[0]


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0 where all faults are caught, and where none is planted all tests pass."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("numbers", nargs="*", type=int, help="faults, counted from 1; 0 for none")
    parser.add_argument("--full", action="store_true", help="run the whole short suite for each")
    parser.add_argument("--jobs", type=int, default=1, help="how many to try at once (1)")
    chosen = parser.parse_args(arguments)
    numbers = chosen.numbers or list(range(1, len(FAULTS) + 1))
    if wrong := [n for n in numbers if not 0 <= n <= len(FAULTS)]:
        parser.error(f"no fault {wrong[0]}: there are 1 to {len(FAULTS)}")
    named = sorted({test for fault in FAULTS for test in fault.tests.split()})

    def tried(number: int) -> bool:
        tests = [] if chosen.full else FAULTS[number - 1].tests.split() if number else named
        start = time.monotonic()
        found, told = outcome(number, tests)
        place = FAULTS[number - 1].file if number else "no fault"
        print(
            f"{number:3} {found:8} {time.monotonic() - start:6.0f} s  {place}: {told}", flush=True
        )
        return found == ("caught" if number else "survived")

    with concurrent.futures.ThreadPoolExecutor(chosen.jobs) as pool:
        results = list(pool.map(tried, numbers))
    print(f"{sum(results)} of {len(results)} as expected")
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
