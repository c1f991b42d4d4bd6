"""The models that are timed, dense and cut."""

import dataclasses

import jax

from tsjax import models, pruning, structure


@dataclasses.dataclass(frozen=True)
class Contender:
    """A model to time.

    Attributes:
      variant: how it was cut.
      forecaster: the model, with the sizes that this has left.
    """

    variant: str
    forecaster: models.Forecaster

    @property
    def model(self) -> str:
        """The model's name."""
        return models.name_of(self.forecaster.config)


def variant_of(name: str) -> tuple[str, float]:
    """How a variant is made, and to what share: ``"structured-0.5"`` is ``("structured", 0.5)``.

    Raises:
      ValueError: for another name.
    """
    kind, _, text = name.partition("-")
    try:
        share = 1.0 if name == "dense" else float(text)
    except ValueError:
        share = 0.0
    if kind not in ("dense", "structured", "compacted") or not 0 < share <= 1:
        raise ValueError(
            "a variant is dense, structured-SHARE or compacted-DENSITY with a number in (0, 1], "
            f"got {name!r}"
        )
    return kind, share


def make_contender(
    config: models.ForecastConfig, name: str, *, round_to: int = 1, seed: int = 0
) -> Contender:
    """A model with fresh weights, cut as the variant's name says.

    Args:
      config: its dense configuration.
      name: ``dense``; ``structured-SHARE``, narrower, uniformly, to a share of the FLOPs; or
        ``compacted-DENSITY``, pruned to a density by global magnitude, and rid of the units that
        this has killed.
      round_to: what the widths of a structured variant are multiples of.
      seed: of the weights.

    Raises:
      ValueError: for another name, or a target out of reach.
    """
    kind, share = variant_of(name)
    forecaster, inputs = models.create(config, jax.random.key(seed)), models.input_shapes(config, 2)
    if kind == "structured":
        groups = structure.find_groups(models.forecast, forecaster, *inputs)
        target = structure.Flops(share)
        plan = structure.plan(groups, forecaster, target=target, round_to=round_to)
        forecaster = structure.slice(forecaster, plan)
    elif kind == "compacted":
        mask = pruning.select(pruning.magnitude(forecaster.params), share)
        kept = dataclasses.replace(forecaster.kept(), params=mask)
        forecaster, _ = structure.compact(models.forecast, forecaster, kept, *inputs)
    return Contender(name, forecaster)
