"""Where the time of a model goes, kernel by kernel: XLA's programs beside PyTorch's eager ones.

    python benchmarks/kernels.py [--models=transformer,informer] [--tasks=inference]
    python benchmarks/kernels.py --models=

At the published sizes, batch 32. Prints, for each model and task, the median milliseconds of a call
and how they divide, by the share of the profiler's time: matrix products (with what the compiler
has fused into them) and convolutions, copies (transposes, joins, gathers), and the rest, which is
sums and element by element. The rate is that of tsjax's products, for both, over the time in them.
PyTorch, if it is installed, is profiled after it in the same process. Last come the rates of single
products, in turns, which is all that is measured without a model.
"""

import importlib.util
import itertools
import re
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from experiments import benchmark as script
from tsjax import benchmark, costs, models, results

MODELS = flags.DEFINE_list("models", list(models.MODELS), "models to profile")
TASKS = flags.DEFINE_list("tasks", ["inference", "training"], "what is profiled")
CALLS = flags.DEFINE_integer("calls", 5, "calls that are profiled, and as many that are timed")

BATCH = 32
KINDS = ("products", "copies", "rest")

# Names of operations in HLO and in PyTorch. A fusion is of the first kind that it has an operation
# of; what only renames memory is of none.
PRODUCTS = {"dot", "convolution", "addmm", "mm", "bmm", "baddbmm", "mkldnn_convolution",
            "convolution_backward", "mkldnn_linear"}  # fmt: skip
WORK = {"add", "subtract", "multiply", "divide", "exponential", "exponential-minus-one", "erf",
        "tanh", "rsqrt", "sqrt", "power", "log", "negate", "abs", "maximum", "minimum", "reduce",
        "reduce-window", "select-and-scatter", "sort", "custom-call", "fft", "xor", "compare",
        "select", "scatter"}  # fmt: skip
COPIES = {"copy_", "cat", "index", "index_select", "gather", "stack", "_index_put_impl_"}


def time_by_kind(runner: benchmark.Runner) -> dict[str, float]:
    """Seconds of kernels of an XLA program, by kind; those that overlap count each in full."""
    assert runner.program is not None
    kind_of = kinds_of(runner.program.call.as_text())
    found = Counter(dict.fromkeys(KINDS, 0.0))
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(CALLS.value):
                script.block(runner.call())
        (trace,) = Path(folder).rglob("*.xplane.pb")
        for plane in jax.profiler.ProfileData.from_file(str(trace)).planes:
            for line in plane.lines:
                for event in line.events:
                    name = dict(event.stats).get("hlo_op")
                    if name in kind_of:
                        found[kind_of[name]] += event.duration_ns / 1e9 / CALLS.value
    return found


def kinds_of(text: str) -> dict[str, str]:
    """The kind of each operation of an HLO program's text that is run."""
    computations, _ = costs.operations(text)
    inside = {name: {opcode for _, opcode, _ in body} for name, body in computations.items()}
    kinds = {}
    for name, opcode, line in itertools.chain(*computations.values()):
        # What these run has events of its own.
        if opcode in ("while", "call", "conditional"):
            continue
        called = re.search(r"\bcalls=%?([\w.\-]+)", line)
        opcodes = {opcode} | (inside[called[1]] if called else set())
        kinds[name] = "products" if opcodes & PRODUCTS else "rest" if opcodes & WORK else "copies"
    return kinds


def torch_time_by_kind(runner: benchmark.Runner) -> dict[str, float]:
    """Seconds of PyTorch's operations, by kind."""
    from torch import profiler

    with profiler.profile(activities=[profiler.ProfilerActivity.CPU]) as profile:
        for _ in range(CALLS.value):
            script.block(runner.call())
    found = Counter(dict.fromkeys(KINDS, 0.0))
    for event in profile.key_averages():
        name = event.key.removeprefix("aten::")
        kind = "products" if name in PRODUCTS else "copies" if name in COPIES else "rest"
        found[kind] += event.self_cpu_time_total / 1e6 / CALLS.value
    return found


def row(name: str, runner: benchmark.Runner, flops: int) -> str:
    """One line of the table."""
    limits: dict[str, Any] = {"repeats": CALLS.value, "max_repeats": CALLS.value}
    samples = costs.sample(
        runner.call, [()], warmup=2, min_seconds=0.0, block=script.block, **limits
    )
    seconds = float(np.median(samples))
    parts = (time_by_kind if runner.program else torch_time_by_kind)(runner)
    scale = seconds / sum(parts.values())
    cells = [f"{1e3 * scale * parts[kind]:,.0f}" for kind in KINDS]
    rate = flops / (scale * parts["products"]) / 1e9
    return f"| {name} | {1e3 * seconds:,.0f} | {' | '.join(cells)} | {rate:,.0f} |"


# Rows, contracted, columns: square ones, and those of a feed-forward block at batch 32.
PRODUCT_SHAPES = ((512, 512, 512), (1024, 1024, 1024), (2048, 2048, 2048), (4096, 4096, 4096),
                  (4608, 512, 512), (4608, 512, 2048), (4608, 2048, 512))  # fmt: skip


def product_rates(shape: tuple[int, int, int]) -> list[float]:
    """GFLOP/s of one product of float32 matrices: XLA's, and PyTorch's if it is there."""
    rows, contracted, columns = shape
    rng = np.random.default_rng(0)
    a, b = (rng.random(sizes, np.float32) for sizes in ((rows, contracted), (contracted, columns)))
    program = costs.compile_ahead(jnp.matmul, jnp.asarray(a), jnp.asarray(b))
    calls: list[Any] = [(program.call, [(jnp.asarray(a), jnp.asarray(b))])]
    if importlib.util.find_spec("torch") is not None:
        import torch

        calls.append((torch.matmul, [(torch.from_numpy(a), torch.from_numpy(b))]))
    samples = costs.sample_in_turns(
        calls, repeats=10, min_seconds=0.2, max_repeats=200, lead=3, block=script.block
    )
    return [2e-9 * rows * contracted * columns / float(np.median(taken)) for taken in samples]


def main(_: list[str]) -> None:
    """Prints both tables, and what they were measured on."""
    engines = script.engines("float32")
    names = ["xla"] + ["torch-eager"] * (importlib.util.find_spec("torch") is not None)
    if MODELS.value:
        print("| model | task | engine | a call, ms | products | copies | rest | GFLOP/s |")
        print("|---|---|---|---|---|---|---|---|")
    for model in MODELS.value:
        config = benchmark.BenchmarkSettings.make().config(model)
        contender = benchmark.make_contender(config, "dense")
        batches = [benchmark.random_batch(config, BATCH, seed) for seed in range(3)]
        for task in TASKS.value:
            training = task == "training"
            flops = sum(models.product_flops(config, BATCH, train=training).values())
            for name in names:
                runner = engines[name](contender, task, batches)
                print(row(f"{model} | {task} | {name}", runner, flops), flush=True)
    print(f"| product | {' | '.join(f'{name}, GFLOP/s' for name in names)} |")
    print("|---|" + "---|" * len(names))
    for shape in PRODUCT_SHAPES:
        rates = " | ".join(f"{rate:,.0f}" for rate in product_rates(shape))
        print(f"| {' x '.join(map(str, shape))} | {rates} |", flush=True)
    versions = results.versions()
    shown = ("cpu_model", "cpu_count", "python", "jax", "flax", "malloc")
    print(", ".join(f"{key} {versions[key]}" for key in shown if key in versions))


if __name__ == "__main__":
    app.run(main)
