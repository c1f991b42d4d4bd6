"""Joules of a call, on a GPU of which a stand-in for NVML tells."""

import sys
import types

import jax
import pytest

from tsjax import costs
from tsjax.costs import energy


class Board:
    """Draws 200 W; a call takes a hundredth of a second."""

    now = 0.0

    def call(self):
        self.now += 0.01

    def millijoules(self):
        return round(200_000 * self.now)


@pytest.fixture
def nvml(monkeypatch):
    """Boards 0 and 1; the second one is known by its UUID, too."""
    boards = {0: Board(), 1: Board()}
    boards["GPU-1"] = boards[1]

    class NVMLError(Exception):
        pass

    def get(name):
        if name not in boards:
            raise NVMLError("not supported")
        return boards[name]

    fake = types.SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByIndex=get,
        nvmlDeviceGetHandleByUUID=get,
        nvmlDeviceGetTotalEnergyConsumption=Board.millijoules,
    )
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    gpu = types.SimpleNamespace(platform="gpu", local_hardware_id=0)
    monkeypatch.setattr(energy.jax, "devices", lambda: [gpu])
    return boards


@pytest.mark.parametrize(
    ("visible", "board"),
    [("", 0), ("0,1", 0), ("1,0", 1), ("GPU-1", 1), ("7", None), ("MIG-1", None)],
)
def test_the_board_that_is_visible_is_read(nvml, monkeypatch, visible, board):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    counter = costs.energy_counter()
    if board is None:
        assert counter is None
    else:
        nvml[board].now = 3.0
        assert counter() == 600.0


def test_joules_are_those_of_one_call(nvml, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    board = nvml[1]
    joules = costs.measure_energy(
        board.call, costs.energy_counter(), clock=lambda: board.now, block=lambda _: None
    )
    assert joules == pytest.approx(2.0)


def test_without_nvml_there_is_no_counter(nvml, monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert costs.energy_counter() is None


def test_a_cpu_has_no_counter():
    assert jax.devices()[0].platform == "cpu"
    assert costs.energy_counter() is None


def test_no_time_is_refused():
    with pytest.raises(ValueError, match="seconds must be above 0, got 0"):
        costs.measure_energy(lambda: None, lambda: 0.0, seconds=0)
