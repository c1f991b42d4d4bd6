"""Compiles a function ahead of time, and reads what XLA says of the program."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax

from tsjax.costs.folding import constant_flops
from tsjax.costs.origins import NOWHERE
from tsjax.costs.walking import walk


@dataclass(frozen=True)
class Program:
    """A compiled function; made by `compile_ahead`. What a backend keeps to itself is None.

    Attributes:
      call: takes arguments like those that it was compiled for.
      compile_seconds: tracing, lowering and compiling. A compilation cache, where one is on, makes
        it shorter.
      xla_flops: XLA's own estimate.
      xla_bytes: bytes that it reads and writes, as XLA estimates; what its fused operations keep to
        themselves is not in it.
      kernels: operations that are run one after the other, those of a loop once a turn.
      peak_bytes: arguments, outputs and temporaries, by XLA's memory analysis.
      device: platform and kind, e.g. "cpu: cpu".
    """

    call: Callable[..., Any] = field(repr=False)
    compile_seconds: float
    xla_flops: float | None
    xla_bytes: float | None
    kernels: int | None
    peak_bytes: int | None
    device: str


def compile_ahead(
    fn: Callable[..., Any],
    *args: Any,
    donate_argnums: tuple[int, ...] = (),
    clock: Callable[[], float] = time.perf_counter,
) -> Program:
    """Compiles `fn(*args)` ahead of time.

    Args:
      fn: function of arrays, jitted or not.
      *args: trees of arrays.
      donate_argnums: arguments whose memory the results may take, as in a training step.
      clock: gives the time in seconds.

    Raises:
      ValueError: where more than a tenth of the function's FLOPs are done on arrays that it closes
        over: the compiler could do that beforehand.
    """
    start = clock()
    traced = jax.jit(fn, donate_argnums=donate_argnums).trace(*args)
    seconds = clock() - start
    _check_unfolded(traced.jaxpr)
    start = clock()
    compiled = traced.lower().compile()
    seconds += clock() - start
    device = device_of(args)
    return Program(
        call=compiled,
        compile_seconds=seconds,
        xla_flops=estimate(compiled, "flops"),
        xla_bytes=estimate(compiled, "bytes accessed"),
        kernels=kernels(compiled),
        peak_bytes=peak_bytes(compiled),
        device=f"{device.platform}: {device.device_kind}",
    )


def _check_unfolded(closed: Any) -> None:
    folded = constant_flops(closed)
    origins, live = [NOWHERE] * len(closed.in_avals), [True] * len(closed.out_avals)
    flops = walk(closed.jaxpr, origins, (), live)[0].flops
    if 10 * folded > flops:
        raise ValueError(
            f"{folded:,} of the {flops:,} FLOPs need none of the arguments, so that the compiler "
            "would do them beforehand. Pass what the function closes over as params or inputs."
        )


def device_of(tree: Any) -> jax.Device:
    """The device that a tree of arrays lies on, the first of several; else the default one."""
    arrays = [leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.Array)]
    return min(arrays[0].devices(), key=lambda d: d.id) if arrays else jax.devices()[0]


def estimate(compiled: Any, what: str) -> float | None:
    """What XLA's cost analysis says of a program, such as "flops" or "bytes accessed"."""
    # Some backends answer with a list of one, without the key, with -1, or not at all.
    try:
        analysis = compiled.cost_analysis()
    except (NotImplementedError, jax.errors.JaxRuntimeError):
        return None
    if isinstance(analysis, list | tuple):
        analysis = analysis[0] if analysis else None
    value = (analysis or {}).get(what, -1)
    return float(value) if value >= 0 else None


def peak_bytes(compiled: Any) -> int | None:
    """Arguments, outputs and temporaries of a program, by XLA's memory analysis."""
    try:
        memory = compiled.memory_analysis()
    except (NotImplementedError, jax.errors.JaxRuntimeError):
        return None
    if memory is None:
        return None
    return int(
        memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes
    )


# Operations of an HLO program that are not run: they name, group or reinterpret buffers.
_NOT_RUN = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast"}
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(")
_OPERATION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (?:\(.*?\)|\S+) ([\w\-]+)\(")
_LOOP = re.compile(r"\bbody=%?([\w.\-]+)")
_TURNS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')


def operations(text: str) -> tuple[dict[str, list[tuple[str, str, str]]], str]:
    """The operations of an HLO program's text.

    Returns:
      ``{computation: [(name, opcode, line), ...]}``, and the name of the entry ("" without one).
    """
    computations: dict[str, list[tuple[str, str, str]]] = {}
    entry, current = "", list[tuple[str, str, str]]()
    for line in text.splitlines():
        if found := _COMPUTATION.match(line):
            current = computations.setdefault(found[1], [])
            entry = found[1] if line.startswith("ENTRY") else entry
        elif found := _OPERATION.match(line):
            current.append((found[1], found[2], line))
    return computations, entry


def kernels(compiled: Any) -> int | None:
    """Operations of a compiled program that are run one after the other.

    The body of a loop counts as often as the loop turns, once if XLA does not know how often; a
    fusion, a library call and a branch count as one.
    """
    try:
        text = compiled.as_text()
    except (AttributeError, NotImplementedError, jax.errors.JaxRuntimeError):
        return None
    computations, entry = operations(text or "")

    def run(name: str) -> int:
        total = 0
        for _, operation, line in computations[name]:
            if operation == "while" and (body := _LOOP.search(line)):
                turns = _TURNS.search(line)
                total += run(body[1]) * (int(turns[1]) if turns else 1)
            else:
                total += operation not in _NOT_RUN
        return total

    return run(entry) if entry else None
