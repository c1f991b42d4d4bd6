"""Calls on several threads: results in order, errors that stop the rest, and how many fit."""

import threading
import time
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tsjax.training import workers


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_results_come_in_the_order_of_the_calls(threads):
    def call(i):
        time.sleep(0.01 * (i % 3))
        return i

    calls = [lambda i=i: call(i) for i in range(9)]
    assert workers.run_all(calls, threads) == list(range(9))
    assert workers.run_all([], threads) == []


def test_calls_run_side_by_side_but_no_more_than_asked():
    # Each waits for a partner: with one thread this would never end.
    meeting = threading.Barrier(2, timeout=30)
    lock, running, most = threading.Lock(), [], []

    def call():
        with lock:
            running.append(1)
            most.append(len(running))
        meeting.wait()
        with lock:
            running.pop()

    workers.run_all([call] * 6, 2)
    assert max(most) == 2


def test_one_thread_is_the_callers_own():
    (found,) = workers.run_all([threading.current_thread], 4)
    assert found is threading.current_thread()
    assert set(workers.run_all([threading.current_thread] * 3, 1)) == {found}
    assert found not in workers.run_all([threading.current_thread] * 3, 2)


def test_an_error_stops_the_others_and_is_raised():
    stop, begun = threading.Event(), []

    def fails():
        raise OSError("disk full")

    def long():
        begun.append(1)
        assert stop.wait(timeout=30), "nobody said that another call had failed"

    with pytest.raises(OSError, match="disk full"):
        workers.run_all([long, fails, *[long] * 20], 2, stop)
    assert len(begun) < 10, "calls that had not begun were made"


def test_an_interrupt_stops_the_others():
    stop = threading.Event()

    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        workers.run_all([interrupted, lambda: stop.wait(timeout=30)], 2, stop)
    assert stop.is_set()


@pytest.mark.parametrize(
    ("memory", "each", "most", "expected"),
    [(100, 30, 8, 3), (100, 30, 2, 2), (10, 30, 8, 1), (100, 0, 8, 8), (100, None, 8, 1)],
)
def test_as_many_as_fit_but_one_in_any_case(memory, each, most, expected):
    assert workers.fitting(memory, each, most) == expected


@pytest.mark.parametrize(
    ("count", "chunk", "size"), [(12, 5, 4), (12, 12, 12), (12, 99, 12), (7, 4, 4), (7, 1, 1)]
)
def test_chunks_are_as_few_as_allowed_and_equal(count, chunk, size):
    assert workers.even(count, chunk) == size
    assert -(-count // size) == -(-count // chunk)


def test_a_programs_bytes_are_its_outputs_and_temporaries():
    compiled = jax.jit(lambda x: jnp.sort(x) * 2).lower(jnp.zeros(1000)).compile()
    memory = compiled.memory_analysis()
    assert memory.output_size_in_bytes == 4000
    assert workers.program_bytes(compiled) == 4000 + memory.temp_size_in_bytes


def test_bytes_that_nobody_knows_are_none():
    def silent():
        raise NotImplementedError

    assert workers.program_bytes(SimpleNamespace(memory_analysis=lambda: None)) is None
    assert workers.program_bytes(SimpleNamespace(memory_analysis=silent)) is None


def test_where_an_array_is():
    assert workers.on_cpu(jax.device_put(1.0, jax.devices("cpu")[0]))
    assert workers.on_cpu(np.zeros(3)) is (jax.default_backend() == "cpu")
    assert workers.cores() >= 1
