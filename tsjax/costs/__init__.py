"""What a function costs: operations counted from its trace, time measured on the device."""

from tsjax.costs.counting import Count, count
from tsjax.costs.devices import device_description, free_bytes
from tsjax.costs.energy import energy_counter, measure_energy
from tsjax.costs.programs import Program, compile_ahead, operations
from tsjax.costs.roofline import BOUNDS, PRECISIONS, Peaks, Place, measure_peaks, place
from tsjax.costs.timing import (
    Timing,
    measure,
    measure_dispatch,
    measure_in_turns,
    sample,
    sample_in_turns,
)

__all__ = [
    "BOUNDS",
    "PRECISIONS",
    "Count",
    "Peaks",
    "Place",
    "Program",
    "Timing",
    "compile_ahead",
    "count",
    "device_description",
    "energy_counter",
    "free_bytes",
    "measure",
    "measure_dispatch",
    "measure_energy",
    "measure_in_turns",
    "measure_peaks",
    "operations",
    "place",
    "sample",
    "sample_in_turns",
]
