"""What a benchmark times: models, variants, engines, tasks and batch sizes."""

import dataclasses
from typing import Any, ClassVar, Self

from tsjax import costs, models, settings
from tsjax.benchmark.contenders import variant_of
from tsjax.models import ForecastConfig
from tsjax.settings import accepted_by, among, at_least, distinct, filled, setting

TASKS = ("inference", "training")
ENGINES = ("xla", "torch-eager", "torch-compiled")
SIZES: dict[str, dict[str, int]] = {
    "paper": {},
    "small": {"d_model": 64, "n_heads": 4, "d_ff": 128},
}
"""Widths by name; those of ``paper``, the published study's, are the configurations' defaults."""

_CHANNELS = 7


@dataclasses.dataclass(frozen=True)
class BenchmarkSettings:
    """What to time."""

    script: ClassVar[str] = "benchmark"

    models: tuple[str, ...] = setting(
        tuple(models.MODELS),
        "models to time",
        filled,
        among(models.MODELS),
        distinct,
        group="what is timed",
    )
    variants: tuple[str, ...] = setting(
        ("dense", "structured-0.5", "structured-0.25", "compacted-0.01"),
        "dense; structured-SHARE, narrower, to a share of the FLOPs; compacted-DENSITY, pruned by "
        "magnitude and rid of what that has killed",
        filled,
        accepted_by(variant_of),
        distinct,
    )
    engines: tuple[str, ...] = setting(
        (),
        f"what runs them: {', '.join(ENGINES)} (else those that are installed)",
        among(ENGINES),
        distinct,
    )
    tasks: tuple[str, ...] = setting(
        TASKS, f"what is timed: {', '.join(TASKS)}", filled, among(TASKS), distinct
    )
    batches: tuple[int, ...] = setting(
        (1, 3, 32, 256, 1024), "windows a call", filled, at_least(1), distinct
    )
    precision: str = setting(
        "float32", f"of the products: {', '.join(costs.PRECISIONS)}", among(costs.PRECISIONS)
    )
    preset: str = setting(
        "corrected", "whose behaviour is followed: corrected, tslib, paper", group="model"
    )
    size: str = setting(
        "paper", "paper (width 512, Crossformer 256) or small (width 64)", among(SIZES)
    )
    seq_len: int = setting(96, "steps of the look-back window")
    label_len: int = setting(48, "observed steps that the decoder begins with")
    pred_len: int = setting(96, "steps to forecast, the horizon")
    round_to: int = setting(
        8, "what the widths of structured variants are multiples of", at_least(1)
    )
    repeats: int = setting(10, "samples of each, at least", at_least(1), group="timing")
    min_seconds: float = setting(0.5, "seconds of samples of each, at least", at_least(0))
    peak_mb: int = setting(
        1000, "megabytes that bandwidth is measured with: more than caches hold", at_least(1)
    )
    seed: int = setting(0, "fixes weights and inputs")
    out_dir: str | None = setting(
        None, "folder of the results (else a new one below runs/)", group="output"
    )

    @classmethod
    def make(cls, **given: Any) -> Self:
        """Settings from single fields.

        Raises:
          ValueError: for an unknown field, or a value out of range.
        """
        settings.check_names(cls, given)
        return cls(**given)

    def __post_init__(self) -> None:
        settings.check(self)

    def command(self) -> str:
        """The command line that repeats the run."""
        return settings.command(self.script, settings.differing(self, type(self)()))

    def config(self, model: str) -> ForecastConfig:
        """The dense configuration of a model.

        Raises:
          ValueError: where the sizes are not sound.
        """
        sizes = {"enc_in": _CHANNELS, "dec_in": _CHANNELS, "c_out": _CHANNELS, "freq": "h"}
        sizes |= {"seq_len": self.seq_len, "label_len": self.label_len, "pred_len": self.pred_len}
        known = models.fields(model)
        sizes |= {name: size for name, size in SIZES[self.size].items() if name in known}
        return models.config(model, self.preset, **sizes)
