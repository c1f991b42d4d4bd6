"""A synthetic study with the shape and the numbers of a real run, for the report's tests."""

import dataclasses
import datetime
import math

from tsjax.study.records import (
    Cost,
    Data,
    Error,
    FineTuning,
    Forecast,
    Rung,
    Size,
    Study,
    Training,
)
from tsjax.training import Epoch

PARAMS, PRUNABLE = 10_540_039, 10_489_856
DENSE = Error("dense", 0.4496312, 0.4591127)


def rung(asked: float, mse: float, mae: float) -> Rung:
    kept = round(asked * PRUNABLE)
    return Rung(asked, kept, PRUNABLE, kept + PARAMS - PRUNABLE, PARAMS, mse, mae)


def training(epochs: int, start: float, end: float) -> Training:
    def at(i: int) -> Epoch:
        fall = math.exp(-1.1 * i)
        rise = 0.012 * max(0, i - 3)
        value = end + (start - end) * fall
        return Epoch(
            i + 1, 1e-4 * 0.5**i, 0.8 * value, value + rise, 0.9 * value, 31.7 if i else 44.2
        )

    rows = tuple(at(i) for i in range(epochs))
    best = min(rows, key=lambda epoch: epoch.val_mse).epoch
    return Training(rows, best, "no better validation loss for 3 epochs")


def forecast(channel: str, level: float, swing: float, phase: float, days: int) -> Forecast:
    start = datetime.datetime(2018, 2, 3, 5) + datetime.timedelta(days=days)
    dates = tuple((start + datetime.timedelta(hours=i)).isoformat() for i in range(192))

    def wave(i: int, damp: float, drift: float) -> float:
        daily = math.sin(2 * math.pi * i / 24 + phase)
        ripple = 0.25 * math.sin(2 * math.pi * i / 7.3 + 2 * phase)
        return level + swing * (damp * daily + damp * damp * ripple + drift * (i - 96) / 96)

    return Forecast(
        channel,
        dates,
        tuple(wave(i, 1.0, 0.4) for i in range(96)),
        tuple(wave(i, 1.0, 0.4) for i in range(96, 192)),
        {
            "dense": tuple(wave(i, 0.85, 0.1) for i in range(96, 192)),
            "density 0.33, fine-tuned": tuple(wave(i, 0.75, 0.2) for i in range(96, 192)),
        },
    )


def control() -> FineTuning:
    """The dense model, trained on as long as the pruned ones."""
    whole = Rung(1.0, PRUNABLE, PRUNABLE, PARAMS, PARAMS, DENSE.mse, DENSE.mae)
    return FineTuning(whole, 0.9 * DENSE.mse, DENSE.mae, 0, training(4, 0.7, 0.54))


def study(**changes) -> Study:
    """The example, with some of its fields replaced."""
    ladder = []
    for n in [*range(21), None]:
        asked = 0.01 if n is None else 0.8**n
        rise = 0.62 / (1 + (asked / 0.16) ** 2.2) if asked < 1 else 0.0
        ladder.append(rung(asked, DENSE.mse + rise - 0.003 * (asked < 1), DENSE.mae + 0.55 * rise))
    tuned = tuple(
        FineTuning(rung(0.8**n, ladder[n].mse, ladder[n].mae), mse, mae, 0, training(4, 0.7, val))
        for n, mse, mae, val in (
            (3, 0.4487, 0.4581, 0.55),
            (5, 0.4562, 0.4634, 0.56),
            (10, 0.5123, 0.4950, 0.6),
        )
    )
    flops = 412_871_680
    costs = []
    for batch, milliseconds in ((1, 4.31), (32, 61.7)):
        for variant, density, factor in (
            ("dense", 1.0, 1.0),
            ("masked", 0.32768, 1.02),
            ("masked", 0.01, 0.985),
        ):
            nonzero = round(density * PRUNABLE) + PARAMS - PRUNABLE
            time = milliseconds * factor
            costs.append(
                Cost(
                    variant,
                    density,
                    PARAMS,
                    nonzero,
                    batch,
                    batch * flops,
                    round(batch * flops * (0.04 + 0.96 * density)),
                    {},
                    0.052,
                    time,
                    0.96 * time,
                    1.05 * time,
                )
            )
    record = Study(
        command="./launch.sh study --dataset=ETTh1 --data_dir=data --model=transformer --seed=1",
        config={
            "preset": "corrected",
            "model": "transformer",
            "dataset": "ETTh1",
            "pred_len": 96,
            "seq_len": 96,
            "seed": 1,
            "densities": [0.8**n for n in range(4)],
            "batch_size": 32,
            "learning_rate": 1e-4,
            "patience": 3,
        },
        versions={"python": "3.12.3", "jax": "0.10.0", "flax": "0.12.1", "device": "cpu, 2 cores"},
        data=Data(
            name="ETTh1",
            channels=("HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT"),
            rows=17_420,
            first_date="2016-07-01 00:00:00",
            last_date="2018-06-26 19:00:00",
            freq="h",
            step_seconds=3600.0,
            windows={"train": 8449, "val": 2785, "test": 2785},
            notes=("Only the first 14,400 rows are used: 12, 4 and 4 months of 30 days.",),
        ),
        baselines=(Error("repeat last", 1.2947, 0.7131), Error("seasonal naive", 0.5123, 0.4330)),
        dense=DENSE,
        training=training(6, 0.93, 0.61),
        ladder=tuple(ladder),
        finetuned=tuned,
        costs=tuple(costs),
        sizes=tuple(
            Size(
                d,
                42_162_000,
                42_162_000,
                round(42e6 * d + 1.31e6),
                39_100_000,
                round(4.4e7 * d),
                round(4e7 * d),
            )
            for d in (0.32768, 0.107)
        ),
        forecasts=tuple(
            forecast(channel, level, swing, phase + days, days)
            for channel, level, swing, phase in (("OT", 9.0, 4.0, 0.3), ("LULL", 0.7, 0.2, 4.0))
            for days in (0, 29, 58)
        ),
        warnings=(),
        seconds=1327.4,
    )
    return dataclasses.replace(record, **changes)
