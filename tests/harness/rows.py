"""Rows made up for tests of the store, the report and the command line."""

from __future__ import annotations

from dataclasses import replace

from harness.errors import Outcome
from harness.row import BufferRow, LayerRow, LinkStats, MemoryMap, Readback, Row


def link_stats(*, frames: int = 9, resends: int = 0, garbage_bytes: int = 0, **more: int) -> LinkStats:
    """A line on which nothing happened but what is named."""
    return LinkStats(frames=frames, resends=resends, garbage_bytes=garbage_bytes, **more)


OK = Row(
    model="vww_96",
    model_sha256="ab" * 32,
    board="f746-sim",
    chip="stm32f746",
    core="cortex-m7",
    clock_hz=216_000_000,
    simulated=True,
    timing_model="tr-cortexm/1",
    memory_model="ideal",
    requant="exact",
    outcome=Outcome.OK,
    cycles=6_000_000,
    cycles_samples=(6_000_000,) * 5,
    instructions=5_000_000,
    latency_ms=27.78,
    latency_ms_216mhz=27.78,
    macs=7_489_664,
    macs_executed=7_489_664,
    arena_planned_bytes=55_296,
    arena_measured_bytes=55_296,
    stack_bytes=400,
    sram_bytes=58_000,
    flash_bytes=270_000,
    model_flash_bytes=260_000,
    text_bytes=30_000,
    rodata_bytes=230_000,
    bit_exact=True,
    input_sha256="01" * 32,
    output_sha256="02" * 32,
    sources_digest="03" * 32,
    elf_sha256="04" * 32,
    toolchain="arm-none-eabi-gcc 12.2.1",
    layers=tuple(
        LayerRow(
            index=i,
            name=f"layer {i} <b>&",
            op=("CONV_2D", "DEPTHWISE_CONV_2D", "ADD")[i % 3],
            kernel="te_conv2d_s8_fx_3x3s2__c",
            macs=1_000_000 - 100_000 * i,
            cycles=1_500_000 - 200_000 * i,
        )
        for i in range(6)
    ),
    started="2026-01-01T00:00:00.000Z",
    seconds=2.5,
    repetitions=5,
    warmups=1,
    float_io=False,
    link=link_stats(frames=120),
    readback=Readback(
        cpuid=0x411FC270,
        device_id=0x449,
        revision_id=0x1001,
        wait_states=7,
        icache=True,
        dcache=True,
        prefetch=True,
        art=True,
        fpu=True,
        reset_cause=None,
        nonce=7,
        boot=1,
    ),
    memory=MemoryMap(
        steps=tuple(f"layer {i}" for i in range(6)),
        buffers=(
            BufferRow(label="input", kind="tensor", offset_bytes=0, size_bytes=27_648, first=0, last=0),
            BufferRow(
                label="</script><i>x", kind="tensor", offset_bytes=27_648, size_bytes=18_432, first=0, last=1
            ),
            BufferRow(label="y", kind="tensor", offset_bytes=0, size_bytes=18_432, first=1, last=3),
            BufferRow(label="columns", kind="scratch", offset_bytes=46_080, size_bytes=9_216, first=2, last=2),
            BufferRow(label="z", kind="tensor", offset_bytes=18_432, size_bytes=9_216, first=3, last=5),
        ),
        lower_bound_bytes=46_080,
    ),
)

FAILED = replace(
    OK,
    model="big",
    board="f412-sim",
    chip="stm32f412",
    core="cortex-m4",
    outcome=Outcome.ARENA_OVERFLOW,
    error="big needs 300,000 B of SRAM, the chip has 262,144 B",
    fault="model",
    advice="a smaller input or narrower layers, or a chip with more SRAM",
    clock_hz=None,
    cycles=None,
    cycles_samples=None,
    instructions=None,
    latency_ms=None,
    latency_ms_216mhz=None,
    arena_measured_bytes=None,
    stack_bytes=None,
    sram_bytes=None,
    flash_bytes=None,
    model_flash_bytes=None,
    text_bytes=None,
    rodata_bytes=None,
    bit_exact=None,
    output_sha256=None,
    elf_sha256=None,
    layers=None,
    link=None,
    readback=None,
)
