"""What an attempt learns, step by step, put into its row. Nothing is judged here."""

from __future__ import annotations

from dataclasses import asdict, replace

from harness import __version__, stats
from harness.boards import Board
from harness.cable.interfaces import FlashReport
from harness.cable.messages import Hello
from harness.chips import load_chip
from harness.diagnosis import ADVICE
from harness.errors import FaultClass, Outcome
from harness.images.image import Image
from harness.job import JobOptions, PreparedModel, sha256
from harness.models import ModelSource
from harness.row import (
    BufferRow,
    Flashing,
    LayerRow,
    LinkStats,
    MemoryMap,
    PatchesRow,
    PlacementRow,
    Readback,
    RegionRow,
    Row,
    RungRow,
)
from harness.station import Modelled
from harness.store import utc
from tinyengine.memory.plan import MemoryPlan

STALE_TUNING = "the tuning record is of other kernels than today's; `tinyrack tune` measures again"


def blank_row(source: ModelSource, board: Board, options: JobOptions, *, now_s: float) -> Row:
    """A row that knows what was asked and nothing else."""
    chip = load_chip(board.chip)
    return Row(
        model=source.name,
        model_sha256=source.sha256,
        board=board.name,
        chip=board.chip,
        core=chip.core,
        simulated=board.simulated,
        requant=options.requant.value,
        outcome=Outcome.INTERRUPTED,
        started=utc(now_s),
        repetitions=options.repetitions,
        warmups=options.warmups,
        float_io=options.float_io,
        kernels=options.kernels.value,
        tuned=None if options.tuning is None else options.tuning.digest,
        warnings=(STALE_TUNING,) if options.tuning is not None and options.tuning.is_stale else (),
        baud=board.baud,
        tinyrack=__version__,
    )


def model_facts(row: Row, model: PreparedModel) -> Row:
    """`row` with what is known once the model is compiled."""
    compiled = model.compiled
    return replace(
        row,
        macs=compiled.macs,
        macs_executed=compiled.macs_executed,
        folded=compiled.folded,
        weights_bytes=compiled.weights_bytes,
        arena_planned_bytes=compiled.plan.arena_bytes,
        sources_digest=compiled.sources.digest(),
        input_sha256=sha256(model.input_blob),
        layers=tuple(
            LayerRow(index=layer.index, name=layer.name, op=layer.op, kernel=layer.kernel, macs=layer.macs)
            for layer in compiled.layers
        ),
        memory=memory_map(compiled.plan),
        patches=None
        if compiled.patches is None
        else PatchesRow(**asdict(compiled.patches), recomputed_share=compiled.patches.recomputed_share),
    )


def ladder_facts(row: Row, model: PreparedModel) -> Row:
    """`row` with what less sharing would need."""
    return replace(
        row,
        ladder=tuple(
            RungRow(sharing=rung.sharing.value, arena_bytes=rung.plan.arena_bytes, memory=memory_map(rung.plan))
            for rung in model.ladder()
        ),
    )


def memory_map(plan: MemoryPlan) -> MemoryMap:
    """The plan as the row keeps it."""
    return MemoryMap(
        steps=plan.steps,
        buffers=tuple(
            BufferRow(
                label=p.buffer.label,
                kind=p.buffer.kind.value,
                offset_bytes=p.offset,
                size_bytes=p.buffer.size_bytes,
                first=p.buffer.first,
                last=p.buffer.last,
            )
            for p in plan.placements
        ),
        lower_bound_bytes=plan.lower_bound_bytes,
    )


def image_facts(row: Row, image: Image, *, is_measured: bool) -> Row:
    """`row` with what was built, and where it lies."""
    return replace(
        row,
        placement=PlacementRow(
            code="+".join(image.memories("text")),
            weights="+".join(image.memories("rodata")),
            arena="+".join(image.memories("arena")),
            stack="+".join(image.memories("stack")),
            hot_weights="+".join(image.memories("copies")) or None,
            hot_bytes=image.copied_bytes,
            hot_sram_bytes=image.copied_sram_bytes,
            measured=is_measured,
            regions=tuple(RegionRow(section=r.section, memory=r.memory, bytes=r.bytes) for r in image.regions),
        ),
        elf_sha256=image.elf_sha256,
        build_digest=image.build_digest,
        flash_bytes=image.flash_bytes,
        model_flash_bytes=image.model_flash_bytes,
        text_bytes=image.text_bytes,
        rodata_bytes=image.rodata_bytes,
        static_ram_bytes=image.static_ram_bytes,
        toolchain=image.toolchain,
    )


def flash_facts(row: Row, report: FlashReport) -> Row:
    """`row` with what the probe wrote."""
    return replace(
        row,
        flash=Flashing(
            probe=report.probe,
            programmed_bytes=report.programmed_bytes,
            verified=report.verified,
            seconds=round(report.seconds, 3),
        ),
    )


def link_facts(row: Row, counted: LinkStats) -> Row:
    """`row` with what the line lost."""
    return replace(row, link=counted)


def hello_facts(row: Row, hello: Hello) -> Row:
    """`row` with what the chip says of itself."""
    return replace(
        row,
        clock_hz=hello.clock_hz,
        readback=Readback(
            cpuid=hello.cpuid,
            device_id=hello.device_id,
            revision_id=hello.revision_id,
            wait_states=hello.wait_states,
            icache=hello.icache,
            dcache=hello.dcache,
            prefetch=hello.prefetch,
            art=hello.art,
            fpu=hello.fpu,
            reset_cause=hello.reset_cause,
            nonce=hello.nonce,
            boot=hello.boot,
        ),
    )


def cycle_facts(row: Row, samples: tuple[int, ...], clock_hz: int, modelled: Modelled | None) -> Row:
    """`row` with cycles, and what the timing model says of them."""
    cycles = stats.median_cycles(samples)
    if modelled is not None and modelled.counts == "instructions":
        # Instructions are no cycles, and no time follows from them.
        return replace(row, instructions=cycles, warnings=(*row.warnings, *modelled.remarks))
    row = replace(
        row,
        cycles=cycles,
        cycles_samples=samples,
        latency_ms=stats.milliseconds(cycles, clock_hz),
        latency_ms_216mhz=stats.milliseconds(cycles, stats.REFERENCE_HZ),
    )
    if modelled is None:
        return row
    return replace(
        row,
        instructions=modelled.instructions,
        timing_model=modelled.timing_model,
        memory_model=modelled.memory_model,
        warnings=(*row.warnings, *modelled.remarks),
    )


def troubled(row: Row, fault: FaultClass) -> Row:
    """A row that is good all the same, with what somebody should look at."""
    if row.outcome not in (Outcome.OK, Outcome.INTERRUPTED):
        return row
    words = f"{fault.value.replace('_', ' ')}; {ADVICE[fault]}"
    return replace(warned(row, words), fault_class=fault, advice=ADVICE[fault])


def warned(row: Row, words: str) -> Row:
    """`row` with one more remark."""
    return replace(row, warnings=(*row.warnings, words))
