"""Runs the placements of `placing.py` on a board, and keeps what came of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, replace

from harness.chips import Chip, Names, load_chip
from harness.errors import Interrupted, Outcome
from harness.images.layout import Sizes, room_bytes, spare_bytes
from harness.images.placement import Placement, Rule, default_rule, layer_uses, placements, symbol_bytes
from harness.images.plan import firmware_digest
from harness.job import Job, Memory
from harness.row import Row
from harness.runner import Runner
from harness.tuning.placing import DEFAULT, Placed, Room, place
from harness.tuning.readings import Reading, Readings, Verdict
from harness.tuning.record import TunedPlacement
from tinyengine.schedule import Optimize

_STATIC_BYTES = 3 << 10
"""Of the firmware, rounded up."""


def placed_best(job: Job, *, runner: Runner, stage: Callable[[str], None]) -> Job:
    """The job with the placement that measuring finds best, or already has; as it is where the stop was set."""
    placer = Placer(
        runner=runner,
        readings=Readings.of_board(job.board, job.options.memory),
        observe=lambda done, total: stage(f"placement {done}/{total}"),
    )
    try:
        found = placer.place(job)
    except Interrupted:
        return job  # its run ends at once, with a row that says so
    chosen = None if found is None else found.chosen
    wanted = chosen or default_rule(job.options.optimize)
    return replace(job, options=replace(job.options, placement=wanted))


class Placer:
    """One board, one thread."""

    def __init__(self, *, runner: Runner, readings: Readings, observe: Callable[[int, int], None]) -> None:
        """Args:
        observe: told how many of how many trials are done.
        """
        self._runner = runner
        self._readings = readings
        self._observe = observe

    def place(self, job: Job) -> TunedPlacement | None:
        """The best placement of the job's network; None where nothing waits for memory, or nothing ran.

        Raises:
            Interrupted: the stop was set; what was measured is kept.
        """
        chip, options = load_chip(job.board.chip), job.options
        if not chip.placement.copies or (job.board.simulated and options.memory is Memory.IDEAL):
            return None
        compiled, limit = job.model.compiled, _sram_limit(job)
        arenas: tuple[Names | None, ...] = (None, *chip.placement.arena[1:])
        rules = {DEFAULT: default_rule(options.optimize), "itcm": Rule.DEFAULT, "tcm": Rule.TCM, "ram": Rule.RAM}
        found = place(
            layer_uses(compiled),
            symbol_bytes(compiled.sources),
            {arena: _rooms(chip, job, arena) for arena in arenas},
            dict(zip(rules, placements(rules.values(), chip, compiled), strict=True)),
            lambda name, placement: self._run(job, name, replace(placement, sram_limit_bytes=limit)),
            self._observe,
            # Under a limit, as with arenas, the fastest that keeps it.
            saves_sram=limit is None and options.optimize is not Optimize.LATENCY,
        )
        if not found:
            return None
        best = found[0]
        return TunedPlacement(
            sources_digest=compiled.sources.digest(),
            name=best.name,
            chosen=None if best.name == DEFAULT else best.placement,
            cycles=best.cycles,
            tried={p.name: p.cycles for p in sorted(found, key=lambda p: p.name)},
        )

    def _run(self, job: Job, name: str, placement: Placement) -> Placed | None:
        key = _key(job, placement)
        known = self._readings.get(key)
        if known is None:
            known = self._measured(job, key, placement)
        if known.verdict is not Verdict.OK or known.cycles is None:
            return None
        return Placed(
            name=name,
            placement=placement,
            cycles=known.cycles,
            layers=known.layers,
            sram_bytes=known.sram_bytes,
        )

    def _measured(self, job: Job, key: str, placement: Placement) -> Reading:
        options = replace(job.options, repetitions=1, marks=False, layers=True, placement=placement)
        row, _ = self._runner.run(replace(job, options=options), stage=lambda _: None)
        if row.outcome is Outcome.INTERRUPTED:
            raise Interrupted("stopped; the same command measures the rest")
        reading = _reading(key, row, job.model.compiled.sources.digest())
        self._readings.add([reading])
        return reading


def _reading(key: str, row: Row, sources_digest: str) -> Reading:
    if row.sources_digest != sources_digest:
        # Compiled again to fit the flash: other layers, and other symbols.
        return Reading(name=key, verdict=Verdict.UNTIMED, reason="another network than the one that was asked for")
    cycles = tuple(layer.cycles for layer in row.layers or ())
    if row.outcome is not Outcome.OK or row.cycles is None or None in cycles:
        return Reading(name=key, verdict=Verdict.UNTIMED, reason=(row.error or "; ".join(row.warnings))[:200])
    return Reading(
        name=key,
        verdict=Verdict.OK,
        cycles=row.cycles,
        layers=tuple(c or 0 for c in cycles),
        sram_bytes=0 if row.placement is None else row.placement.hot_sram_bytes,
    )


def _key(job: Job, placement: Placement) -> str:
    """All that decides cycles beside the kind of board."""
    parts = [job.model.compiled.sources.digest(), firmware_digest(), asdict(placement), job.options.warmups > 0]
    return "network/" + hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _sram_limit(job: Job) -> int | None:
    """What arena and copies may take together; the smallest SRAM has no copies."""
    if job.options.optimize is Optimize.SRAM:
        return job.model.compiled.plan.arena_bytes
    return job.options.sram_limit_bytes


def _rooms(chip: Chip, job: Job, arena: Names | None) -> tuple[Room, ...]:
    """What the chip's memories have left, the fastest first."""
    compiled, limit = job.model.compiled, _sram_limit(job)
    inputs = sum(t.size_bytes for t in (compiled.graph.tensors[i] for i in compiled.graph.inputs))
    arena_bytes = compiled.plan.arena_bytes
    sizes = Sizes(
        static=_STATIC_BYTES, arena=arena_bytes, spare=spare_bytes(inputs, len(compiled.layers)), symbols={}
    )
    left = max(0, limit - arena_bytes) if limit is not None else chip.sram_bytes
    found = []
    for memory in chip.placement.copies:
        is_sram = chip.is_sram(memory)
        room = room_bytes(chip, arena, sizes, memory)
        room = min(room, left) if is_sram else room
        if is_sram:
            left -= room
        tier = 0 if all(chip.memory(m).kind == "tcm" for m in memory) else 1
        found.append(Room(memory=memory, bytes=room, tier=tier, is_sram=is_sram))
    return tuple(found)
