"""Places on a roofline by hand, and peaks of a machine whose times are known."""

import re

import jax
import pytest

from tsjax import costs
from tsjax.costs import programs, roofline

# A cache of 1,000 bytes is ten times as fast as memory.
BANDWIDTHS = ((1000, 1e9), (10**6, 1e8))
PEAKS = costs.Peaks("float32", 1e9, BANDWIDTHS, launch=1e-6, dispatch=1e-5, device="cpu: cpu")


def program(**fields):
    about = {"compile_seconds": 1.0, "xla_flops": 1.0, "peak_bytes": 2000, "device": "cpu: cpu"}
    return costs.Program(call=None, **(about | {"xla_bytes": 1e3, "kernels": 10} | fields))


@pytest.mark.parametrize(
    ("flops", "bytes_", "kernels", "bound", "least"),
    [
        (10**6, 1e4, 10, "arithmetic", 1e-3),
        (10**4, 1e6, 10, "memory", 1e-2),
        (10**4, 1e3, 90, "launches", 1e-4),
    ],
)
def test_what_takes_longest_bounds(flops, bytes_, kernels, bound, least):
    placed = costs.place(flops, program(xla_bytes=bytes_, kernels=kernels), 4 * least, PEAKS)
    assert placed.bound == bound
    assert placed.least == pytest.approx(least)
    assert placed.attained == pytest.approx(0.25)
    assert placed.intensity == flops / bytes_
    assert placed.launches == pytest.approx(1e-5 + kernels * 1e-6)


@pytest.mark.parametrize(
    ("memory", "seconds"), [(10, 1e-3), (1000, 1e-3), (1001, 1e-2), (10**7, 1e-2), (None, 1e-2)]
)
def test_bytes_move_as_fast_as_in_arrays_as_large_as_the_programs_memory(memory, seconds):
    placed = costs.place(1, program(xla_bytes=1e6, peak_bytes=memory), 1.0, PEAKS)
    assert placed.memory == pytest.approx(seconds)


def test_places_of_another_device_are_refused():
    with pytest.raises(ValueError, match="timed on gpu: H, but the peaks are those of cpu: cpu"):
        costs.place(1, program(device="gpu: H"), 1.0, PEAKS)


@pytest.mark.parametrize("unknown", ["xla_bytes", "kernels"])
def test_what_xla_does_not_say_is_not_guessed(unknown):
    with pytest.raises(ValueError, match="XLA does not say what the program moves and runs"):
        costs.place(1, program(**{unknown: None}), 1.0, PEAKS)


@pytest.mark.parametrize("disturbed", [False, True])
def test_peaks_are_the_work_over_the_time(monkeypatch, disturbed):
    """A machine that does 1e9 FLOPs and moves 1e8 bytes a second, and starts 1e6 kernels."""

    multiplied = []

    def sample(call, arguments, **limits):
        shapes = [x.shape for x in arguments[0]]
        if len(shapes) == 2:
            seconds = 2 * shapes[0][0] ** 3 / 1e9
            multiplied.append(shapes)
            if disturbed and len(multiplied) <= 2:
                seconds *= 3
        elif shapes == [(8, 8)]:
            seconds = 1e-5 + programs.kernels(call) * 1e-6
        elif shapes == [()]:
            seconds = 1e-5
        else:
            # XLA unrolls a loop of one turn. What making the result takes is in both programs.
            turns = int((re.findall(r'"known_trip_count":\{"n":"(\d+)"', call.as_text()) or [1])[0])
            rate = 1e9 if arguments[0][0].nbytes < 10**4 else 1e8
            seconds = (turns + 0.5) * 2 * arguments[0][0].nbytes / rate
            if disturbed and turns == 1:
                seconds = 8.5 * 2 * 64000 / 1e8
        return (2 * seconds, seconds)

    monkeypatch.setattr(roofline, "sample", sample)
    peaks = costs.measure_peaks(widths=(16, 32), arrays=(4000, 64000), chain=40)
    assert peaks.flops == pytest.approx(1e9)
    # Where one turn seems to take as long as eight, its share of the result's making is not known.
    share = 8 / 8.5 if disturbed else 1
    fast, slow = pytest.approx(share * 1e9), pytest.approx(share * 1e8)
    assert peaks.bandwidths == ((4000, fast), (64000, slow))
    assert peaks.launch == pytest.approx(1e-6)
    assert peaks.dispatch == pytest.approx(1e-5)
    assert peaks.device == f"cpu: {jax.devices()[0].device_kind}"


def test_of_two_measurements_each_better_figure_holds():
    other = costs.Peaks("float32", 2e9, ((1000, 2e9), (10**6, 5e7)), 2e-6, 5e-6, "cpu: cpu")
    best = costs.Peaks("float32", 2e9, ((1000, 2e9), (10**6, 1e8)), 1e-6, 5e-6, "cpu: cpu")
    assert PEAKS.or_better(other) == other.or_better(PEAKS) == best


@pytest.mark.parametrize("precision", list(costs.PRECISIONS))
def test_peaks_of_this_machine(precision):
    peaks = costs.measure_peaks(precision, widths=(64,), arrays=(2**16,), chain=20, repeats=2)
    assert peaks.precision == precision
    assert min(peaks.flops, peaks.bandwidth(), peaks.dispatch) > 0
    assert peaks.launch >= 0


def test_unknown_precisions_are_named():
    with pytest.raises(ValueError, match="one of float32, tfloat32, bfloat16, got 'float8'"):
        costs.measure_peaks("float8")
