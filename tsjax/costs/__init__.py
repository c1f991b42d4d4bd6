"""What a function costs: operations counted from its trace, time measured on the device."""

from tsjax.costs.counting import Count, count
from tsjax.costs.devices import device_description
from tsjax.costs.timing import Timing, measure, sample

__all__ = ["Count", "Timing", "count", "device_description", "measure", "sample"]
