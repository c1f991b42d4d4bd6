"""Reads the published models' cases: a JSON (configuration) and an NPZ (weights, inputs, outputs).

They lie beside the checkout. Those of ``tests/reference``, which lie in it, are read alike.
"""

import dataclasses
import functools
import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from conftest import golden_dir
from reference.cases import Reference

from tsjax import interop, models

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


def forecaster_of(case: Case | Reference) -> models.Forecaster:
    """A case's model, with the frequencies or the keys that its original drew."""
    config, draws = case.config(), case.group("rand")
    modes = draws if draws and case.model == "fedformer" else None
    made = interop.from_torch(config, case.group("param"), modes=modes)
    if case.model == "informer":
        buffers = made.state["buffers"]
        # In the order of their calls; full attention samples none.
        called = [f"encoder_sampling_{i}" for i in range(config.e_layers)]
        called += [f"{k}_sampling_{i}" for i in range(config.d_layers) for k in ("self", "cross")]
        called = [name for name in called if name in buffers]
        for name, (_, index) in zip(called, sorted(draws.items()), strict=True):
            assert buffers[name]["index"].shape == index.shape
            buffers[name]["index"] = jnp.asarray(index)
    return made
