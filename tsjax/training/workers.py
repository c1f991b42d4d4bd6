"""Independent calls on the cores of a CPU.

XLA runs the calls of one Python thread one after another, and a small model's operations are too
short to keep several cores busy. Calls from several threads run side by side.

What a thread calls must be compiled beforehand: settings like ``jax.default_matmul_precision`` hold
only in the thread that made them, and so belong where a function is traced.
"""

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

T = TypeVar("T")


def on_cpu(array: Any) -> bool:
    """Whether an array is on a CPU; one that is on no device yet goes to the default one."""
    return all(device.platform == "cpu" for device in jnp.asarray(array).devices())


def cores() -> int:
    """Cores that this process may use."""
    # A container or taskset may leave fewer than the machine has; not every system can say so.
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def run_all(
    calls: Sequence[Callable[[], T]], threads: int, stop: threading.Event | None = None
) -> list[T]:
    """Results of calls that do not depend on one another, in order.

    Args:
      calls: what to call.
      threads: how many to run side by side; with 1 this thread calls them itself.
      stop: set when a call fails or the user interrupts, for long calls to look at. Calls that
        have not begun then are not made.

    Raises:
      BaseException: what the first call that failed raised.
    """
    if threads == 1 or len(calls) < 2:
        return [call() for call in calls]
    with ThreadPoolExecutor(min(threads, len(calls))) as pool:
        futures = [pool.submit(call) for call in calls]
        try:
            for done in wait(futures, return_when=FIRST_EXCEPTION).done:
                done.result()
            return [future.result() for future in futures]
        except BaseException:
            if stop is not None:
                stop.set()
            pool.shutdown(cancel_futures=True)
            raise


def fitting(memory: int, each: int | None, most: int) -> int:
    """How many of something fit into memory: at least 1, at most ``most``.

    Args:
      memory: bytes for all of them.
      each: bytes of one; where nobody knows, only one fits.
      most: how many are wanted.
    """
    if each is None:
        return 1
    return max(1, min(most, memory // max(each, 1)))


def even(count: int, chunk: int) -> int:
    """The size of equal chunks, as few as chunks of at most ``chunk`` would be."""
    return -(-count // -(-count // chunk))


def program_bytes(compiled: Any) -> int | None:
    """Temporaries and outputs of a compiled program by XLA's memory analysis; None if not known."""
    try:
        memory = compiled.memory_analysis()
    except (NotImplementedError, jax.errors.JaxRuntimeError):
        return None
    if memory is None:
        return None
    return int(memory.output_size_in_bytes + memory.temp_size_in_bytes)
