"""Times the five models, dense and cut, compiled by XLA and in PyTorch, beside their FLOPs.

    ./launch.sh benchmark --models=transformer --batches=1,32 --engines=xla,torch-eager

The claims under test: a narrower model is faster in real time by a good share of the FLOPs that it
saves, where arithmetic bounds it (the published study measured at most 1.51 times for 7.63 times
fewer FLOPs, at batch 3 and operation by operation); zeros alone are not; and a program compiled by
XLA is faster than PyTorch's. All that a ratio compares takes turns within one run. Leaves
``README.md`` with the tables and figures, and ``times.csv``, in a new folder below ``runs/`` or in
``--out_dir``. The engines of PyTorch need the extra ``torch``.
"""

import dataclasses
import functools
import importlib.util
import os
import re
import sys
import time
from collections.abc import Callable
from typing import Any

# Two frameworks share a GPU: neither may take all of its memory beforehand.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax

from experiments import common
from tsjax import benchmark, costs, report, results


def run(settings: benchmark.BenchmarkSettings) -> benchmark.Benchmark:
    """Runs the benchmark; see the module's docstring.

    Raises:
      ValueError: if something asked for is not sound; nothing has been written then.
      ImportError: if torch's engines are asked for and torch is not there.
    """
    report.require()
    settings = dataclasses.replace(settings, engines=_engines_to_use(settings.engines))
    folder = common.results_folder(settings, _slug(costs.device_description()))
    largest = 10**6 * settings.peak_mb
    arrays = [largest // 4**i for i in range(6)][::-1]
    peaks = costs.measure_peaks(settings.precision, arrays=arrays)
    rows: list[benchmark.Timed] = []
    try:
        energy = costs.energy_counter()
        for timed in benchmark.times(settings, engines(settings.precision), block, energy):
            print(benchmark.summary(timed.row), flush=True)
            rows.append(timed)
        # What slows a machine for minutes slows one of the two measurements.
        peaks = peaks.or_better(costs.measure_peaks(settings.precision, arrays=arrays))
    finally:
        # What has been measured before an interrupt is kept.
        about = results.provenance(settings)
        about["versions"] |= _torch_version()
        placed = tuple(benchmark.placed(timed, peaks) for timed in rows)
        result = benchmark.Benchmark(**about, peaks=peaks, rows=placed)
        if rows:
            print(f"results: {report.write_benchmark(result, folder.path)}")
    return result


def _slug(device: dict[str, str]) -> str:
    """A folder's name for a device: ``intel-xeon-2-cores``, ``nvidia-h200``."""
    name = device["device_kind"]
    if device["platform"] == "cpu":
        model = re.sub(r"\(\w+\)|\bprocessor\b|@.*", "", device["cpu_model"], flags=re.IGNORECASE)
        name = f"{model} {device['cpu_count']} cores"
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _engines_to_use(asked: tuple[str, ...]) -> tuple[str, ...]:
    """The engines that were asked for; by default those that are installed."""
    if importlib.util.find_spec("torch") is not None:
        return asked or benchmark.ENGINES
    if torches := [name for name in asked if name.startswith("torch")]:
        raise ImportError(
            f"PyTorch is not installed, which is needed for {' and '.join(torches)}: "
            'pip install -e ".[torch]", or leave them out with --engines=xla'
        )
    if not asked:
        print('PyTorch is not installed (pip install -e ".[torch]"): timing XLA only')
    return ("xla",)


def engines(precision: str) -> dict[str, benchmark.Engine]:
    """What can run the models, by name; those of PyTorch import it when they are called."""
    torch = functools.partial(_torch, precision=precision)
    return {
        "xla": functools.partial(benchmark.xla, precision=precision),
        "torch-eager": functools.partial(torch, compiled=False),
        "torch-compiled": functools.partial(torch, compiled=True),
    }


def _torch(
    contender: benchmark.Contender,
    task: str,
    batches: benchmark.Batches,
    *,
    compiled: bool,
    precision: str,
) -> benchmark.Runner:
    """PyTorch on the device that JAX has, with the same weights and inputs."""
    import torch

    from third_party import pytorch

    torch.set_float32_matmul_precision("high" if precision == "tfloat32" else "highest")
    # One program for each model, size and task: none may be given up for there being many.
    torch._dynamo.config.recompile_limit = 10_000
    torch._dynamo.config.accumulated_recompile_limit = 10_000
    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    module = pytorch.build(contender.forecaster).to(device, dtype)
    turns = [
        tuple(x.to(dtype) for x in pytorch.tensors(*batch, device=device)) for batch in batches
    ]
    call: Callable[..., Any]
    if task == "inference":
        turns = [turn[:4] for turn in turns]
        call = pytorch.compiled(module) if compiled else pytorch.eager(module)
    else:
        call = pytorch.train_step(module, compile_options={} if compiled else None)
    seconds = None
    if compiled:
        began = time.perf_counter()
        block(call(*turns[0]))
        seconds = time.perf_counter() - began
    index = 0

    def in_turn() -> Any:
        nonlocal index
        index += 1
        return call(*turns[index % len(turns)])

    return benchmark.Runner(in_turn, seconds)


def block(result: Any) -> None:
    """Waits for a result of JAX or torch."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(result, torch.Tensor):
        if result.is_cuda:
            torch.cuda.synchronize()
        return
    jax.block_until_ready(result)


def _torch_version() -> dict[str, str]:
    torch = sys.modules.get("torch")
    return {} if torch is None else {"torch": torch.__version__}


if __name__ == "__main__":
    common.main(benchmark.BenchmarkSettings, run)
