"""What a mask costs in a train step, and how fast a global mask is selected beside PyTorch.

    python benchmarks/masks.py [--models=transformer,informer] [--repeats=10]

Prints, as ratios of medians within one run:

* masked over dense train step (batch 32, Adam, dropout on) for each model at the published size;
* selection of a global mask at density 0.5 over torch's ``global_unstructured``, for 10 million
  weights in 20 leaves. Needs PyTorch; without it only our own time is printed.
"""

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags

from tsjax import costs, models, pruning, study, training

MODELS = flags.DEFINE_list("models", list(models.MODELS), "models to train")
REPEATS = flags.DEFINE_integer("repeats", 10, "samples of each step, at least")

DENSITY = 0.5
LEAVES, ROWS, COLUMNS = 20, 1000, 500


def step_times(name: str) -> dict[str, costs.Timing]:
    """Times of one train step, dense and masked, in turns."""
    settings = study.TrainSettings.make(model=name, size="paper")
    task = study.set_up(settings)
    model = task.forecaster
    tx = optax.adam(1e-4)
    mask = pruning.select(pruning.magnitude(model.params), DENSITY)
    state = training.init_state(model.params, model.state, mask, tx, jax.random.key(0))

    def masked(train: training.TrainState, windows: training.Windows, starts: jax.Array) -> Any:
        return training.train_step(train, windows, starts, forward=model.forward, tx=tx)

    def dense(train: tuple[Any, ...], windows: training.Windows, starts: jax.Array) -> Any:
        step, params, state, opt_state, key = train
        batch = windows.gather(starts)
        key_now = jax.random.fold_in(key, step)

        def loss_fn(params: Any) -> tuple[jax.Array, Any]:
            forecast, new = model.forward(params, state, *batch.inputs, key=key_now)
            return jnp.mean(jnp.square(forecast - batch.target)), new

        (loss, new), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
        updates, opt_state = tx.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
        return (step + 1, params, new, opt_state, key), loss

    plain = (jnp.zeros((), jnp.int32), model.params, model.state, tx.init(model.params), state.key)
    starts = jnp.asarray(task.starts("train")[: settings.batch_size])
    functions = {"dense": (dense, plain), "masked": (masked, state)}
    return costs.measure_in_turns(
        functions, task.windows, starts, repeats=REPEATS.value, warmup=1, copies=1
    )


def selection_times() -> dict[str, list[float]]:
    """Seconds of selecting one global mask, ours and torch's, in turns."""
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(ROWS, COLUMNS)).astype(np.float32) for _ in range(LEAVES)]
    params = {f"layer_{i}": {"kernel": jnp.asarray(a)} for i, a in enumerate(arrays)}

    def ours() -> None:
        jax.block_until_ready(pruning.select(pruning.magnitude(params), DENSITY))

    calls = {"tsjax": ours}
    try:
        import torch
        from torch.nn.utils import prune
    except ImportError:
        print("PyTorch is not there: only our own selection is timed")
    else:

        def theirs() -> None:
            layers = [torch.nn.Linear(COLUMNS, ROWS, bias=False) for _ in arrays]
            for layer, array in zip(layers, arrays, strict=True):
                layer.weight.data = torch.from_numpy(array)
            began = time.perf_counter()
            weights = [(layer, "weight") for layer in layers]
            prune.global_unstructured(weights, prune.L1Unstructured, amount=1 - DENSITY)
            times["torch"].append(time.perf_counter() - began)

        calls["torch"] = theirs
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(REPEATS.value + 1):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            if name == "tsjax":
                times[name].append(time.perf_counter() - began)
            if turn == 0:  # Compilation, and torch's first touch of its memory.
                times[name].clear()
    return times


def main(argv: list[str]) -> None:
    """Measures and prints."""
    del argv
    described = costs.device_description()
    print(", ".join(described[k] for k in ("cpu_model", "cpu_count", "device_kind", "jax")))
    print("| model | dense step, ms | masked step, ms | masked / dense |")
    print("|---|---|---|---|")
    for name in MODELS.value:
        found = step_times(name)
        dense, masked = (1e3 * found[key].median for key in ("dense", "masked"))
        print(f"| {name} | {dense:.0f} | {masked:.0f} | {masked / dense:.3f} |", flush=True)
    medians = {name: float(np.median(t)) for name, t in selection_times().items()}
    for name, seconds in medians.items():
        print(f"select 1 mask of {LEAVES * ROWS * COLUMNS:,} weights, {name}: {seconds:.3f} s")
    if "torch" in medians:
        print(f"tsjax / torch: {medians['tsjax'] / medians['torch']:.2f}")


if __name__ == "__main__":
    app.run(main)
