"""Functions over modelled time, as Chrome's trace viewer and Perfetto read it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import IO, Any

from harness.sim.board import SimulatedBoard
from harness.sim.program import Program


def write_trace(
    out: IO[str], events: Sequence[tuple[int, int, bool]], dropped: int, program: Program,
    machine: SimulatedBoard, *, last_cycles: int,
) -> None:  # fmt: skip
    other = {
        "unit": "1 us of the trace is 1 modelled cycle",
        "clock_hz": machine.clock_hz,
        "timing_model": machine.timing_model,
        "memory_model": machine.memory_model,
        "changes_left_out": dropped,
    }
    out.write('{"traceEvents":[\n')
    name = {"name": "process_name", "ph": "M", "pid": 1, "args": {"name": f"{machine.chip.name} (modelled)"}}
    out.write(json.dumps(name))
    for record in trace_records(events, program.names, last_cycles=last_cycles):
        out.write(",\n" + json.dumps(record, separators=(",", ":")))
    out.write(f'\n],"displayTimeUnit":"ns","otherData":{json.dumps(other)}}}\n')


def trace_records(
    events: Sequence[tuple[int, int, bool]], names: Sequence[str], *, last_cycles: int
) -> Iterator[dict[str, Any]]:
    """Begin and end records from function changes.

    A change to a function's first instruction is a call, one into the middle of a function that is under way
    returns to it, any other one replaces the function that ran.
    """
    stack: list[int] = []

    def record(phase: str, function: int, at: int) -> dict[str, Any]:
        return {"name": names[function], "ph": phase, "ts": at, "pid": 1, "tid": 1}

    for cycles, function, at_entry in events:
        if not at_entry:
            if function in stack:
                while stack[-1] != function:
                    yield record("E", stack.pop(), cycles)
                continue
            if stack:
                yield record("E", stack.pop(), cycles)
        stack.append(function)
        yield record("B", function, cycles)
    while stack:
        yield record("E", stack.pop(), last_cycles)
