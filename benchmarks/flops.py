"""The FLOPs of the forecasters three ways: closed formulas, the walk of the jaxpr, XLA's estimate.

    python benchmarks/flops.py [--preset=corrected] [--pred_len=96] [--noxla]

Prints the Markdown tables of docs/flops.md, at the published sizes: the terms of the closed
formulas, what the walk finds beside them, and XLA's own estimate of the compiled program, which
takes about a minute to compile. Nothing else runs.
"""

from typing import Any

import jax
from absl import app, flags

from tsjax import costs, models

PRESET = flags.DEFINE_enum("preset", "corrected", models.PRESETS, "whose behaviour")
PRED_LEN = flags.DEFINE_integer("pred_len", 96, "horizon")
XLA = flags.DEFINE_boolean("xla", True, "whether to compile the models for XLA's estimate")

VARIANTS = {
    "Transformer": ("transformer", {}),
    "Informer": ("informer", {}),
    "Autoformer": ("autoformer", {}),
    "FEDformer, Fourier": ("fedformer", {}),
    "FEDformer, wavelets": ("fedformer", {"version": "wavelets"}),
    "Crossformer": ("crossformer", {}),
}
PRODUCTS = ("dot_general", "conv_general_dilated")
FUNCTIONS = ("erf", "exp", "log", "logistic", "pow", "rsqrt", "sqrt", "tanh", "expm1", "log1p")


def kind_of(primitive: str) -> str:
    """The column of the second table that a primitive belongs to."""
    if primitive in PRODUCTS:
        return "products"
    if primitive == "fft":
        return "FFT"
    if primitive in FUNCTIONS:
        return "functions"
    return "sums" if primitive.startswith(("reduce", "cum")) else "element by element"


KINDS = ("products", "element by element", "sums", "functions", "FFT")


def traced(config: models.ForecastConfig) -> tuple[Any, ...]:
    """The shapes of a model and of one window, which ``models.forecast`` takes."""
    forecaster = jax.eval_shape(lambda: models.create(config, jax.random.key(0)))
    return forecaster, *models.input_shapes(config, batch=1)


def main(argv: list[str]) -> None:
    """Prints."""
    del argv
    channels = {"enc_in": 7, "dec_in": 7, "c_out": 7, "pred_len": PRED_LEN.value}
    shares, estimates = [], []
    for label, (name, fields) in VARIANTS.items():
        config = models.config(name, PRESET.value, **channels, **fields)
        closed, step = models.product_flops(config), models.product_flops(config, train=True)
        print(f"\n{label}\n\n| term | forward | training step |\n|---|---|---|")
        for term, flops in closed.items():
            print(f"| `{term}` | {flops:,} | {step[term]:,} |")
        total, stepped = sum(closed.values()), sum(step.values())
        print(f"| total | {total:,} | {stepped:,} ({stepped / total:.3f}) |")

        args = traced(config)
        count = costs.count(models.forecast, *args)
        kinds = dict.fromkeys(KINDS, 0)
        for primitive, flops in count.by_primitive.items():
            kinds[kind_of(primitive)] += flops
        cells = " | ".join(f"{100 * kinds[kind] / count.flops:.3f} %" for kind in KINDS)
        shares.append(f"| {label} | {count.flops:,} | {cells} | {count.comparisons:,} |")
        if XLA.value:
            analysis = jax.jit(models.forecast).lower(*args).compile().cost_analysis()
            xla, rest = int(analysis["flops"]), count.flops - kinds["products"]
            row = (total, kinds["products"], xla, xla - total, rest, analysis["transcendentals"])
            estimates.append(f"| {label} | " + " | ".join(f"{int(n):,}" for n in row) + " |")
    heads = " | ".join(KINDS)
    print(f"\n| | all that is walked | {heads} | comparisons |\n|---|---|---|---|---|---|---|---|")
    print("\n".join(shares))
    if estimates:
        print(
            "\n| | closed | walked | XLA | XLA - closed | no products | XLA's transcendentals |"
            "\n|---|---|---|---|---|---|---|"
        )
        print("\n".join(estimates))
    described = costs.device_description()
    print(", ".join(described[k] for k in ("cpu_model", "cpu_count", "device_kind", "jax")))


if __name__ == "__main__":
    app.run(main)
