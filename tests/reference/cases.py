"""Small reference cases of our own: every model, in every preset that computes something else.

Each is a file of weights, inputs and what the PyTorch side makes of them in float64: forecasts in
both modes, the loss, its gradients, the batch statistics after it. ``make.py`` writes the files.

| key | content |
|---|---|
| param/<key of the state_dict> | weights, float16; buffers in full, positional tables 32 rows |
| in/x_enc, x_mark_enc, x_dec, x_mark_dec, target | inputs of a batch of 2, float16 |
| rand/<name> | frequencies of FEDformer, or keys that Informer samples, in the order of calls |
| out/float64, out_train/float64 | forecasts in evaluation and in train mode, without dropout |
| loss_train/float64 | mean squared error of the latter against the target |
| grad/<key>, grad_in/<input> | its gradients; what has none is left out |
| bn_after/<key> | running statistics after that step |
"""

import dataclasses
import functools
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from tsjax import models

FOLDER = Path(__file__).parent
BATCH = 2
# Odd lengths, a memory longer than the queries, segments and windows that divide nothing.
SIZES = {
    "enc_in": 3, "dec_in": 3, "c_out": 3, "seq_len": 19, "label_len": 7, "pred_len": 10,
    "d_model": 8, "n_heads": 2, "d_ff": 12, "e_layers": 2, "d_layers": 1, "dropout": 0.0,
    "factor": 2, "modes": 4, "moving_avg": 5, "seg_len": 4, "wavelet_c": 2, "wavelet_k": 3,
    "wavelet_alpha": 3, "cross_c": 3, "cross_k": 2,
}  # fmt: skip
# Model, preset, and fields that differ from SIZES.
CASES = {
    "transformer": ("transformer", "corrected", {}),
    "transformer_learned": ("transformer", "tslib", {"embed": "learned", "activation": "relu"}),
    "informer_corrected": ("informer", "corrected", {}),
    "informer_tslib": ("informer", "tslib", {"embed": "fixed", "freq": "t"}),
    "autoformer_corrected": ("autoformer", "corrected", {}),
    "autoformer_tslib": ("autoformer", "tslib", {"pred_len": 14, "factor": 1}),
    "autoformer_paper": ("autoformer", "paper", {"moving_avg": (6,)}),
    "autoformer_mixtures": ("autoformer", "corrected", {"moving_avg": (4, 7)}),
    "fedformer_corrected": ("fedformer", "corrected", {"d_layers": 2}),
    "fedformer_tslib": ("fedformer", "tslib", {"label_len": 1, "modes": 9}),
    "fedformer_paper": ("fedformer", "paper", {"d_layers": 2, "moving_avg": (6,)}),
    "wavelets_corrected": ("fedformer", "corrected", {"version": "wavelets", "pred_len": 14}),
    "wavelets_tslib": ("fedformer", "tslib", {"version": "wavelets"}),
    "wavelets_paper": ("fedformer", "paper", {"version": "wavelets", "moving_avg": (6,)}),
    "crossformer_corrected": ("crossformer", "corrected", {}),
    "crossformer_tslib": ("crossformer", "tslib", {"e_layers": 1}),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Reference:
    """One of ``CASES``; ``arrays`` are read when first asked for."""

    name: str

    @property
    def path(self) -> Path:
        return FOLDER / f"{self.name}.safetensors"

    @property
    def model(self) -> str:
        return CASES[self.name][0]

    def config(self) -> models.ForecastConfig:
        model, preset, own = CASES[self.name]
        known = models.fields(model)
        sizes = {field: size for field, size in {**SIZES, **own}.items() if field in known}
        return models.config(model, preset, **sizes)

    @functools.cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        """As stored, but all floats in 64 bits."""
        return {
            key: array.astype(np.float64) if np.issubdtype(array.dtype, np.floating) else array
            for key, array in load_file(self.path).items()
        }

    def group(self, prefix: str) -> dict[str, np.ndarray]:
        """Arrays whose key begins with ``prefix/``, without it."""
        return {
            key.removeprefix(f"{prefix}/"): array
            for key, array in self.arrays.items()
            if key.startswith(f"{prefix}/")
        }


def reference_cases() -> list[Reference]:
    return [Reference(name) for name in CASES]
