"""What a function costs: operations counted from its trace, time measured on the device."""

from tsjax.costs.counting import Count, count
from tsjax.costs.devices import device_description
from tsjax.costs.timing import Timing, measure, measure_in_turns, sample, sample_in_turns

__all__ = [
    "Count",
    "Timing",
    "count",
    "device_description",
    "measure",
    "measure_in_turns",
    "sample",
    "sample_in_turns",
]
