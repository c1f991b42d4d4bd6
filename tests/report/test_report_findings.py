"""The sentences say what the records say, in every case."""

import dataclasses

import pytest
import report_example as example

from tsjax.report import findings, formats
from tsjax.study.records import Error


def text(sentence):
    return sentence.replace(formats.SPACE, " ").replace(formats.THIN, " ")


def with_errors(*pairs):
    """A study whose ladder has these (density, MSE) pairs."""
    return example.study(ladder=tuple(example.rung(d, mse, mse) for d, mse in pairs))


def with_tuned(*errors):
    """A study with fine-tuned models at its ladder's 0.512, 0.328 and 0.107."""
    tuned = example.study().finetuned
    return example.study(
        finetuned=tuple(
            dataclasses.replace(t, mse=mse) for t, mse in zip(tuned, errors, strict=False)
        )
    )


def with_times(*times):
    """A study with (variant, batch, q1, median, q3) costs."""
    cost = example.study().costs[1]
    return example.study(
        costs=tuple(
            dataclasses.replace(cost, variant=v, batch=b, q1_ms=q1, median_ms=m, q3_ms=q3)
            for v, b, q1, m, q3 in times
        )
    )


def test_dense_beats_every_baseline():
    study = example.study(baselines=(Error("repeat last", 1.2947, 0.7131),))
    assert text(findings.dense_sentence(study)) == (
        "The dense Transformer reaches MSE 0.450 and MAE 0.459 on the test part; its MSE is 65 % "
        "below repeat last (1.295)."
    )


def test_dense_loses_to_a_baseline():
    study = example.study(
        dense=Error("dense", 0.9, 0.75),
        baselines=(Error("repeat last", 0.081, 0.2), Error("seasonal naive", 2.0, 1.1)),
    )
    assert text(findings.dense_sentence(study)) == (
        "The dense Transformer reaches MSE 0.900 and MAE 0.750 on the test part; its MSE is 11.1 "
        "times repeat last (0.0810) and 55 % below seasonal naive (2.000). By MSE it does not beat "
        "repeat last: read the results of pruning, which are relative to this model, with that in "
        "mind."
    )


def test_dense_equal_to_a_baseline_does_not_beat_it():
    study = example.study(baselines=(Error("repeat last", example.DENSE.mse, 1.0),))
    sentence = text(findings.dense_sentence(study))
    assert "equal to repeat last" in sentence
    assert "does not beat repeat last" in sentence
    assert "By MAE it beats repeat last (1.000)." in sentence


def test_mae_that_disagrees_is_said():
    sentence = text(findings.dense_sentence(example.study()))
    assert "By MAE it does not beat seasonal naive (0.433)." in sentence


def test_no_baseline():
    assert "no baseline was measured" in findings.dense_sentence(example.study(baselines=()))


def test_lowest_density_within_tolerance():
    study = with_errors((1.0, example.DENSE.mse), (0.8, 0.45), (0.5, 0.47), (0.2, 0.9))
    assert text(findings.pruned_sentence(study)) == (
        "Pruned by magnitude without fine-tuning, MSE stays within 5 % of dense down to density "
        "0.5 (MSE 0.470)."
    )


def test_the_tolerance_is_inclusive_and_relative_to_the_dense_model():
    limit = 1.05 * example.DENSE.mse
    assert findings.lowest_pruned(with_errors((0.5, limit))).density == pytest.approx(0.5)
    assert findings.lowest_pruned(with_errors((0.5, limit + 1e-9))).density is None


def test_never_within_tolerance():
    study = with_errors((1.0, example.DENSE.mse), (0.8, 0.9), (0.5, 1.5))
    assert text(findings.pruned_sentence(study)) == (
        "Pruned by magnitude without fine-tuning, none of the 2 densities tried is within 5 % of "
        "the dense MSE; at the highest, 0.8, the change is +100.2 %."
    )
    assert "none" in [number for number, _, _ in findings.headline(study)]


def test_always_within_tolerance():
    study = with_errors((0.8, 0.45), (0.5, 0.44))
    assert text(findings.pruned_sentence(study)).endswith(
        "0.5 (MSE 0.440), the lowest that was tried."
    )


def test_error_that_falls_again_is_said():
    study = with_errors((0.8, 0.45), (0.5, 0.9), (0.2, 0.46))
    assert text(findings.pruned_sentence(study)) == (
        "Pruned by magnitude without fine-tuning, the lowest density within 5 % of the dense MSE "
        "is 0.2 (MSE 0.460), though 0.5 is not within it."
    )


def test_only_the_dense_rung():
    study = with_errors((1.0, example.DENSE.mse))
    assert findings.pruned_sentence(study).endswith("no density below 1 was tried.")


def test_finetuned():
    assert "down to density 0.328 (MSE 0.456)." in text(
        findings.finetuned_sentence(example.study())
    )
    assert "none of the 3" in findings.finetuned_sentence(with_tuned(0.6, 0.7, 0.8))
    one = text(findings.finetuned_sentence(with_tuned(0.6)))
    assert one.endswith(
        "the one density tried, 0.512, is not within 5 % of the dense MSE (+33.4 %)."
    )
    absent = example.study(finetuned=())
    assert findings.finetuned_sentence(absent) == "Fine-tuning was not asked for."


def test_the_dense_model_trained_on_as_long_is_the_control():
    study = example.study(finetuned=(example.control(), *example.study().finetuned))
    assert text(findings.finetuned_sentence(study)).endswith(
        "Trained on just as long without a mask, the dense model itself reaches MSE 0.405 "
        "(−10.0 % against dense)."
    )


def test_time_within_the_spread():
    study = with_times(("dense", 1, 3.9, 4.0, 4.2), ("masked", 1, 4.0, 4.1, 4.3))
    assert findings.timing_sentence(study) == (
        "The zeros saved no time: at density 0.328 a forward pass takes 1.02 times the dense time "
        "at batch 1 (within the spread)."
    )


@pytest.mark.parametrize(("median", "ratio"), [(2.0, "0.50"), (8.0, "2.00")])
def test_time_beyond_the_spread(median, ratio):
    study = with_times(
        ("dense", 1, 3.9, 4.0, 4.2), ("masked", 1, median - 0.1, median, median + 0.1)
    )
    sentence = findings.timing_sentence(study)
    assert sentence.startswith("The zeros changed the measured time")
    assert f"{ratio} times the dense time at batch 1 (beyond the spread)" in sentence


def test_time_without_dense_or_without_costs():
    assert "Cost was not measured" in findings.timing_sentence(example.study(costs=()))
    assert findings.sparse_sentence(example.study(costs=())) is None
    alone = with_times(("masked", 1, 4.0, 4.1, 4.3))
    assert findings.timing_sentence(alone) == "No masked model was timed against the dense one."


def test_ideal_flops():
    assert text(findings.sparse_sentence(example.study())) == (
        "An ideal machine that skipped every pruned weight would do 5.0 % of the dense operations: "
        "20.5 MFLOP instead of 413 MFLOP for one window."
    )


@pytest.mark.parametrize(
    ("model", "start"),
    [("transformer", "a Transformer"), ("informer", "an Informer"), ("fedformer", "a FEDformer")],
)
def test_title(model, start):
    study = example.study(config={"model": model, "pred_len": 192})
    assert findings.title(study) == f"What can be cut from {start} on ETTh1, horizon 192"


def test_operations_without_a_rule_are_named():
    assert findings.uncounted_sentence(example.study()) is None
    costs = example.study().costs
    costs = (*costs[1:], dataclasses.replace(costs[0], uncounted={"sort": 2, "cumsum": 1}))
    assert findings.uncounted_sentence(example.study(costs=costs)) == (
        "Not counted, because no rule says how many operations they take: sort (2 times) and "
        "cumsum (1 time). The FLOPs above leave them out."
    )


@pytest.mark.parametrize(
    ("write", "value", "expected"),
    [
        (formats.error, 0.4496, "0.450"),
        (formats.error, 1.2947, "1.295"),
        (formats.error, 12.345, "12.35"),
        (formats.error, 0.08123, "0.0812"),
        (formats.error, 158000.4, "158 000"),
        (formats.error, 4.5e-8, "4.50e-08"),
        (formats.error, 0.0, "0"),
        (formats.count, 10_540_039, "10 540 039"),
        (formats.si, 412_871_680, "413 M"),
        (formats.si, 999_999, "1.00 M"),
        (formats.si, 13.2e9, "13.2 G"),
        (formats.si, 17, "17"),
        (formats.change, -0.002, "−0.2 %"),
        (formats.change, 0.0, "0.0 %"),
        (formats.change, 8.96, "+896.0 %"),
        (formats.change, 9.0, "10.0×"),
        (formats.change, 351_398.0, "351 399×"),
        (formats.change, None, "–"),
        (formats.short_share, 0.32768, "0.328"),
        (formats.short_share, 1.0, "1"),
        (formats.short_share, 0.9999, "0.9999"),
        (formats.duration, 12.34, "12.3 s"),
        (formats.duration, 3599.9, "1 h 0 min"),
        (formats.duration, 1327.4, "22 min 7 s"),
        (formats.milliseconds, 4.314, "4.31"),
        (formats.milliseconds, 0.0432, "0.0432"),
        (formats.rate, 1e-4, "1e-4"),
        (formats.rate, 6.25e-6, "6.25e-6"),
        (formats.label, "a\x00b\u202ec", "a\ufffdb\ufffdc"),
    ],
)
def test_formats(write, value, expected):
    assert text(write(value)) == expected
