"""Reads what a GPU draws, through NVIDIA's management library (NVML)."""

import os
import time
from collections.abc import Callable
from typing import Any

import jax


def energy_counter() -> Callable[[], float] | None:
    """Reads the joules that the default device has drawn so far; None where nothing tells.

    NVML tells of NVIDIA GPUs since Volta, for the whole board, if the package ``nvidia-ml-py`` is
    installed. GPUs are numbered in the order of ``CUDA_VISIBLE_DEVICES``, else in NVML's.
    """
    device = jax.devices()[0]
    if device.platform != "gpu":
        return None
    try:
        import pynvml
    except ImportError:
        return None
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    name = visible[device.local_hardware_id] if visible else str(device.local_hardware_id)
    try:
        pynvml.nvmlInit()
        board = (
            pynvml.nvmlDeviceGetHandleByIndex(int(name))
            if name.isdecimal()
            else pynvml.nvmlDeviceGetHandleByUUID(name)
        )
        pynvml.nvmlDeviceGetTotalEnergyConsumption(board)
    except pynvml.NVMLError:
        return None
    return lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(board) / 1e3


def measure_energy(
    call: Callable[[], Any],
    counter: Callable[[], float],
    *,
    seconds: float = 2.0,
    clock: Callable[[], float] = time.perf_counter,
    block: Callable[[Any], Any] = jax.block_until_ready,
) -> float:
    """The joules of one call: those drawn during many calls in a row, divided by their number.

    They include what the device draws at rest.

    Args:
      call: takes nothing, compiled already.
      counter: reads the joules drawn so far, from `energy_counter`. NVML renews it a few
        times a second or more.
      seconds: how long to go on calling, at least: many times as long as the counter is renewed.
      clock: gives the time in seconds.
      block: waits for a result of a call.

    Raises:
      ValueError: if ``seconds`` is not above 0.
    """
    if seconds <= 0:
        raise ValueError(f"seconds must be above 0, got {seconds}")
    block(call())
    calls, began, before = 0, clock(), counter()
    while clock() - began < seconds:
        block(call())
        calls += 1
    return (counter() - before) / calls
