"""Reads the reference cases: one JSON (configuration) and one NPZ (weights, inputs, outputs)."""

import dataclasses
import functools
import json
from pathlib import Path

import numpy as np
from conftest import golden_dir

from tsjax import models

INPUTS = ("x_enc", "x_mark_enc", "x_dec", "x_mark_dec")


@dataclasses.dataclass(frozen=True)
class Case:
    """One reference model; ``arrays`` are read when first asked for."""

    path: Path

    @functools.cached_property
    def meta(self) -> dict:
        return json.loads(self.path.read_text())

    @functools.cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        with np.load(self.path.with_suffix(".npz")) as archive:
            return dict(archive)

    @property
    def model(self) -> str:
        return self.meta["config"]["model"].lower()

    def config(self) -> models.ForecastConfig:
        fields = models.fields(self.model)
        stated = dict(self.meta["config"])
        for name, size in stated.pop("mwt", {}).items():
            stated[name if name.startswith("cross") else f"wavelet_{name}"] = size
        sizes = {name: value for name, value in stated.items() if name in fields}
        if sizes["d_model"] % sizes["n_heads"]:
            # The reference rounds heads' widths down.
            sizes["d_keys"] = sizes["d_values"] = sizes["d_model"] // sizes["n_heads"]
        return models.config(self.model, "tslib", **sizes)

    def group(self, prefix: str) -> dict[str, np.ndarray]:
        """Arrays whose key begins with ``prefix/``, without it."""
        return {
            key.removeprefix(f"{prefix}/"): array
            for key, array in self.arrays.items()
            if key.startswith(f"{prefix}/")
        }


def model_cases() -> list[Case]:
    """All cases in the folder whose model exists here; empty where there is no folder."""
    found = [Case(path) for path in sorted(golden_dir().glob("*.json"))]
    return [case for case in found if "config" in case.meta and case.model in models.MODELS]
