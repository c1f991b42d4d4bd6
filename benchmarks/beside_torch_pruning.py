"""What Torch-Pruning makes of the five models, beside tsjax: a table of docs/torch-pruning.md.

    python benchmarks/beside_torch_pruning.py [--models=transformer] [--ratio=0.5] [--seconds=30]

Torch-Pruning gets the PyTorch models of `third_party/pytorch` at their published sizes and removes
the ratio of each group's units, once with the model width left alone and once with it. What it
leaves is run. tsjax gets the same models and is asked for the share of parameters that
Torch-Pruning ended with, or for half where it ended with none.
"""

import dataclasses

import jax
import torch
from absl import app, flags

from third_party import pytorch
from tsjax import costs, models, structure

MODELS = flags.DEFINE_list("models", list(models.MODELS), "models to prune")
RATIO = flags.DEFINE_float("ratio", 0.5, "share of the units that Torch-Pruning removes")
SECONDS = flags.DEFINE_float("seconds", 30.0, "when to give up on Torch-Pruning")
SMALL = flags.DEFINE_bool("small", False, "whether to take width 32 in place of published sizes")

SIZES = {"enc_in": 7, "dec_in": 7, "c_out": 7}
TINY = {"d_model": 32, "n_heads": 4, "d_ff": 64}


@dataclasses.dataclass(frozen=True)
class Way:
    """A way to call Torch-Pruning: whether the model width stays, and whether groups compete."""

    label: str
    keep_width: bool
    global_pruning: bool


WAYS = (
    Way("width kept, uniform", keep_width=True, global_pruning=False),
    Way("width kept, global", keep_width=True, global_pruning=True),
    Way("all, uniform", keep_width=False, global_pruning=False),
)


def torch_pruned(config: models.ForecastConfig, way: Way) -> pytorch.Pruned:
    """What Torch-Pruning makes of a model in one way."""
    torch.manual_seed(0)
    module = pytorch.create(config)
    inputs = [torch.randn(shape.shape) for shape in models.input_shapes(config, 1)]
    return pytorch.prune_structured(
        module,
        tuple(inputs),
        RATIO.value,
        keep_width=way.keep_width,
        global_pruning=way.global_pruning,
        seconds=SECONDS.value,
    )


def told(pruned: pytorch.Pruned) -> str:
    """The share of the parameters that is left, or why there is no model."""
    if pruned.params_after is None:
        return str(pruned.failure).splitlines()[0][:70].replace("|", "/")
    return f"{pruned.params_after / pruned.params_before:.3f}"


def ours(config: models.ForecastConfig, share: float) -> str:
    """The share that a plan of tsjax gets when it is asked for this one."""
    forecaster = models.create(config, jax.random.key(0))
    groups = structure.find_groups(models.forecast, forecaster, *models.input_shapes(config, 1))
    plan = structure.plan(groups, forecaster, target=structure.Params(share))
    return f"{share:.3f} asked, {plan.got:.3f} got"


def main(argv: list[str]) -> None:
    """Prunes and prints."""
    del argv
    described = costs.device_description()
    print(", ".join(described[k] for k in ("cpu_model", "cpu_count", "jax")), torch.__version__)
    print(f"| model | {' | '.join(way.label for way in WAYS)} | tsjax |")
    print(f"|---|{'---|' * (len(WAYS) + 1)}")
    for name in MODELS.value:
        config = models.config(name, **SIZES, **(TINY if SMALL.value else {}))
        results = [torch_pruned(config, way) for way in WAYS]
        left = [r.params_after / r.params_before for r in results if r.params_after is not None]
        cells = [told(pruned) for pruned in results] + [ours(config, min(left, default=0.5))]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    app.run(main)
