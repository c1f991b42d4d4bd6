"""What the records answer, in sentences: every number and every verdict is computed from them."""

import dataclasses

from tsjax.report import formats
from tsjax.study import records

# The share by which an error may exceed the dense model's and still count as kept.
TOLERANCE = 0.05
_TOLERANCE = formats.percent(TOLERANCE).replace(".0", "")

_MODELS = {
    "transformer": "Transformer",
    "informer": "Informer",
    "autoformer": "Autoformer",
    "fedformer": "FEDformer",
    "crossformer": "Crossformer",
}


def model(study: records.Study) -> str:
    """The model's name as its paper writes it."""
    name = study.config.get("model")
    return _MODELS.get(str(name).lower(), formats.label(name)) if name else "model"


def horizon(study: records.Study) -> str:
    """The forecast horizon in steps, or a dash where the records don't say."""
    pred_len = study.config.get("pred_len")
    if pred_len is None and study.forecasts:
        pred_len = len(study.forecasts[0].truth)
    return formats.NOTHING if pred_len is None else str(pred_len)


def title(study: records.Study) -> str:
    """The page's title: which model, on what, how far ahead."""
    name = model(study)
    article = "an" if name[:1] in "AEIOU" else "a"
    data = formats.label(study.data.name)
    series = "the synthetic series" if data == "synthetic" else data
    return f"What can be cut from {article} {name} on {series}, horizon {horizon(study)}"


def relative(value: float, reference: float) -> float | None:
    """``value / reference``, None where the reference is zero."""
    return value / reference if reference else None


def excess(value: float, reference: float) -> float | None:
    """``value / reference - 1``, None where the reference is zero."""
    return value / reference - 1 if reference else None


def within(value: float, reference: float) -> bool:
    """Whether an error is at most the tolerance above the reference."""
    return value <= (1 + TOLERANCE) * reference


@dataclasses.dataclass(frozen=True)
class Lowest:
    """The lowest density whose error is within the tolerance of dense, if there is one.

    Attributes:
      density: the density over prunable weights; None if none is within.
      mse: its error.
      tried: every density below 1 that was tried, descending.
      above: densities higher than ``density`` that are not within: an error need not be monotonic.
      highest_mse: error at the highest density tried.
    """

    density: float | None
    mse: float | None
    tried: tuple[float, ...]
    above: tuple[float, ...]
    highest_mse: float | None


def _lowest(study: records.Study, points: list[tuple[records.Rung, float]]) -> Lowest:
    """Searches (rung, MSE) pairs; the dense model itself, at density 1, is left out."""
    below = sorted(
        ((r.density, mse) for r, mse in points if r.kept < r.prunable), key=lambda point: -point[0]
    )
    good = {density: mse for density, mse in below if within(mse, study.dense.mse)}
    least = min(good, default=None)
    return Lowest(
        density=least,
        mse=None if least is None else good[least],
        tried=tuple(density for density, _ in below),
        above=tuple(d for d, mse in below if least and d > least and d not in good),
        highest_mse=below[0][1] if below else None,
    )


def lowest_pruned(study: records.Study) -> Lowest:
    """The lowest density within the tolerance without fine-tuning."""
    return _lowest(study, [(rung, rung.mse) for rung in study.ladder])


def lowest_finetuned(study: records.Study) -> Lowest:
    """The lowest density within the tolerance after fine-tuning."""
    return _lowest(study, [(tuned.rung, tuned.mse) for tuned in study.finetuned])


@dataclasses.dataclass(frozen=True)
class Timing:
    """A masked model's time against dense at the same batch.

    Attributes:
      cost: the masked model's cost.
      dense: the dense model's cost at that batch.
      ratio: median over median.
      within_spread: whether the interquartile ranges overlap.
    """

    cost: records.Cost
    dense: records.Cost
    ratio: float
    within_spread: bool


def dense_cost(study: records.Study, batch: int) -> records.Cost | None:
    """The dense model's cost at a batch size."""
    return next((c for c in study.costs if c.variant == "dense" and c.batch == batch), None)


def timings(study: records.Study) -> list[Timing]:
    """The sparsest masked model that was timed, against dense, by batch."""
    masked = [cost for cost in study.costs if cost.variant == "masked"]
    least = min((cost.density for cost in masked), default=0.0)
    found = []
    for cost in sorted((c for c in masked if c.density == least), key=lambda c: c.batch):
        dense = dense_cost(study, cost.batch)
        if dense is not None and dense.median_ms > 0:
            overlap = cost.q1_ms <= dense.q3_ms and dense.q1_ms <= cost.q3_ms
            found.append(Timing(cost, dense, cost.median_ms / dense.median_ms, overlap))
    return found


def _comparison(study: records.Study, baseline: records.Error) -> str:
    """How the dense MSE stands to one baseline's: ``"65 % below repeat last (1.295)"``."""
    name = f"{formats.label(baseline.name)} ({formats.error(baseline.mse)})"
    gap = excess(study.dense.mse, baseline.mse)
    if gap is None or gap == 0:
        return f"{'equal to' if study.dense.mse == baseline.mse else 'above'} {name}"
    if gap >= 1:
        return f"{formats.ratio(gap + 1)} times {name}"
    return f"{formats.percent(gap)} {'below' if gap < 0 else 'above'} {name}"


def dense_sentence(study: records.Study) -> str:
    """The dense model's error, and whether it beats the baselines."""
    dense = study.dense
    start = (
        f"The dense {model(study)} reaches MSE {formats.error(dense.mse)} and MAE "
        f"{formats.error(dense.mae)} on the test part"
    )
    if not study.baselines:
        return f"{start}; no baseline was measured beside it."
    ranked = sorted(study.baselines, key=lambda baseline: baseline.mse)
    stands = formats.listing([_comparison(study, baseline) for baseline in ranked])
    beaten = [baseline for baseline in ranked if dense.mse < baseline.mse]
    start = f"{start}; its MSE is {stands}."
    # The two errors may disagree, and the reader should not have to find out.
    otherwise = [b for b in ranked if (dense.mse < b.mse) != (dense.mae < b.mae)]
    for won, verb in ((True, "beats"), (False, "does not beat")):
        names = [
            f"{formats.label(b.name)} ({formats.error(b.mae)})"
            for b in otherwise
            if (dense.mae < b.mae) == won
        ]
        start += f" By MAE it {verb} {formats.listing(names)}." if names else ""
    if len(beaten) == len(ranked):
        return start
    unbeaten = [formats.label(b.name) for b in ranked if b not in beaten]
    return (
        f"{start} By MSE it does not beat {formats.listing(unbeaten)}: read the results of "
        "pruning, which are relative to this model, with that in mind."
    )


def _lowest_sentence(lowest: Lowest, start: str, dense_mse: float) -> str:
    if not lowest.tried:
        return f"{start} no density below 1 was tried."
    tried = [formats.short_share(density) for density in lowest.tried]
    if lowest.density is None:
        gap = excess(lowest.highest_mse or 0.0, dense_mse)
        if len(tried) == 1:
            return (
                f"{start} the one density tried, {tried[0]}, is not within {_TOLERANCE} of the "
                f"dense MSE ({formats.change(gap)})."
            )
        return (
            f"{start} none of the {len(tried)} densities tried is within {_TOLERANCE} of the dense "
            f"MSE; at the highest, {tried[0]}, the change is {formats.change(gap)}."
        )
    density = f"{formats.short_share(lowest.density)} (MSE {formats.error(lowest.mse)})"
    if lowest.above:
        missed = formats.listing([formats.short_share(d) for d in lowest.above])
        return (
            f"{start} the lowest density within {_TOLERANCE} of the dense MSE is {density}, though "
            f"{missed} {'is' if len(lowest.above) == 1 else 'are'} not within it."
        )
    end = ", the lowest that was tried" if lowest.density == lowest.tried[-1] else ""
    return f"{start} MSE stays within {_TOLERANCE} of dense down to density {density}{end}."


def pruned_sentence(study: records.Study) -> str:
    """How far pruning alone can go."""
    start = "Pruned by magnitude without fine-tuning,"
    return _lowest_sentence(lowest_pruned(study), start, study.dense.mse)


def control(study: records.Study) -> records.FineTuning | None:
    """The dense model trained on as long as the pruned ones, without a mask; None if absent."""
    return next((t for t in study.finetuned if t.rung.kept == t.rung.prunable), None)


def finetuned_sentence(study: records.Study) -> str:
    """How far pruning with fine-tuning can go, or that it was not asked for."""
    if not study.finetuned:
        return "Fine-tuning was not asked for."
    start = "Fine-tuned with the mask held,"
    found = _lowest_sentence(lowest_finetuned(study), start, study.dense.mse)
    whole = control(study)
    if whole is None:
        return found
    change = formats.change(excess(whole.mse, study.dense.mse))
    return (
        f"{found} Trained on just as long without a mask, the dense model itself reaches MSE "
        f"{formats.error(whole.mse)} ({change} against dense)."
    )


def revived(study: records.Study) -> list[records.FineTuning]:
    """Fine-tuned models with pruned weights that are not zero: there should be none."""
    return [tuned for tuned in study.finetuned if tuned.revived]


def warnings(study: records.Study) -> list[str]:
    """The study's warnings, each on one line and fit to show."""
    return [formats.label(" ".join(text.split()), 600) for text in study.warnings]


def timing_sentence(study: records.Study) -> str:
    """Whether zeros in the weights changed the time of the same program."""
    if not study.costs:
        return "Cost was not measured."
    found = timings(study)
    if not found:
        return "No masked model was timed against the dense one."
    density = formats.short_share(found[0].cost.density)
    parts = [
        f"{formats.ratio(t.ratio)} times the dense time at batch {t.cost.batch}"
        f" ({'within' if t.within_spread else 'beyond'} the spread)"
        for t in found
    ]
    changed = not all(t.within_spread for t in found)
    verdict = "The zeros changed the measured time" if changed else "The zeros saved no time"
    return f"{verdict}: at density {density} a forward pass takes {formats.listing(parts)}."


def sparse_sentence(study: records.Study) -> str | None:
    """What an ideal sparse machine would save; None where no cost says."""
    found = timings(study)
    if not found:
        return None
    cost, dense = found[0].cost, found[0].dense
    part = relative(cost.sparse_flops, dense.flops)
    if part is None:
        return None
    windows = "one window" if cost.batch == 1 else f"a batch of {cost.batch} windows"
    return (
        f"An ideal machine that skipped every pruned weight would do {formats.percent(part)} of "
        f"the dense operations: {formats.si(cost.sparse_flops)}FLOP instead of "
        f"{formats.si(dense.flops)}FLOP for {windows}."
    )


def uncounted_sentence(study: records.Study) -> str | None:
    """Which operations the FLOPs leave out; None where they leave out none."""
    most: dict[str, int] = {}
    for cost in study.costs:
        for name, number in cost.uncounted.items():
            most[name] = max(number, most.get(name, 0))
    if not most:
        return None
    parts = [f"{formats.label(name)} ({formats.occurrences(n)})" for name, n in most.items()]
    return (
        f"Not counted, because no rule says how many operations they take: "
        f"{formats.listing(parts)}. The FLOPs above leave them out."
    )


def sentences(study: records.Study) -> list[str]:
    """The answer, in the order a reader asks for it."""
    found = [
        dense_sentence(study),
        pruned_sentence(study),
        finetuned_sentence(study),
        timing_sentence(study),
        sparse_sentence(study),
    ]
    return [sentence for sentence in found if sentence]


def headline(study: records.Study) -> list[tuple[str, str, str]]:
    """The few numbers to see first, as (number, what it is, its colour's role)."""
    found = [(formats.error(study.dense.mse), "test MSE of the dense model", "dense")]
    if study.baselines:
        best = min(study.baselines, key=lambda baseline: baseline.mse)
        meaning = f"best baseline, {formats.label(best.name)}"
        found.append((formats.error(best.mse), meaning, "baseline"))
    for lowest, how, role in (
        (lowest_pruned(study), "pruned only", "pruned"),
        (lowest_finetuned(study), "fine-tuned", "tuned"),
    ):
        if lowest.tried:
            number = "none" if lowest.density is None else formats.short_share(lowest.density)
            found.append((number, f"lowest density within {_TOLERANCE} of dense, {how}", role))
    for timing in timings(study)[:1]:
        meaning = f"time of the masked model against dense, batch {timing.cost.batch}"
        found.append((formats.times(timing.ratio), meaning, "ink"))
    return found
