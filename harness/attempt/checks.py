"""Whether what runs is what was built, on the chip it was built for, and whether its answers are right."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import replace

from harness import stats
from harness.attempt.facts import warned
from harness.boards import Board
from harness.cable.interfaces import FlashReport
from harness.cable.messages import ClockStatus, Hello, MemoryReport
from harness.chips import Chip
from harness.diagnosis import ADVICE
from harness.errors import FaultClass, FlashFailed, Outcome, WrongImage
from harness.images.image import Image
from harness.job import sha256
from harness.row import Row

LAYER_TOLERANCE = 0.02
STACK_LIMIT_BYTES = 1024
"""What a bit of generated C may use of the stack; more would hide arena there."""
CLOCK_TOLERANCE = 0.03
CLOCK_SLACK_S = 0.5


def check_clock(cycles: int, clock_hz: int, seconds: float, *, board: Board) -> None:
    """Whether a real board's clock is what its registers say, by the host's clock: a crystal is only believed.

    The cycles cannot take longer than the dialogue around them; much shorter they may only be when they are few.

    Raises:
        WrongImage: the two disagree.
    """
    believed_s = cycles / clock_hz
    fast = believed_s > CLOCK_SLACK_S and seconds < believed_s * (1 - CLOCK_TOLERANCE)
    slow = believed_s > CLOCK_SLACK_S and seconds > 2 * believed_s + 2 * CLOCK_SLACK_S
    if fast or slow:
        raise WrongImage(
            board.name,
            f"clock ({cycles:,} cycles took {seconds:.2f} s here)",
            f"{clock_hz / 1e6:g} MHz",
            f"about {cycles / seconds / 1e6:.3g} MHz",
            fault_class=FaultClass.WRONG_CLOCK,
        )


def check_flash(report: FlashReport, *, board: Board) -> None:
    """Whether the image was read back as it was written.

    Raises:
        FlashFailed: it was not.
    """
    if not report.verified:
        raise FlashFailed(
            board.name, "verify", "the image was not read back", "flash again", fault_class=FaultClass.FLASH_WRITE
        )


_LASTING: tuple[tuple[str, FaultClass, Callable[[Hello], object]], ...] = (
    ("build digest", FaultClass.WRONG_IMAGE, lambda h: h.build_digest),
    ("clock", FaultClass.WRONG_CLOCK, lambda h: (h.clock_hz, h.clock_status)),
    ("flash wait states", FaultClass.CHIP_STATE, lambda h: h.wait_states),
    ("instruction cache", FaultClass.CACHES_OFF, lambda h: h.icache),
    ("data cache", FaultClass.CACHES_OFF, lambda h: h.dcache),
    ("prefetch", FaultClass.CACHES_OFF, lambda h: h.prefetch),
    ("flash accelerator", FaultClass.CACHES_OFF, lambda h: h.art),
    ("cycle counter", FaultClass.CHIP_STATE, lambda h: h.dwt),
)


def check_unchanged(before: Hello, after: Hello, *, board: Board) -> None:
    """Whether the chip is still as it was when the measurement began.

    Raises:
        WrongImage: a clock, cache or counter changed on the way.
    """
    for what, fault, get in _LASTING:
        if get(before) != get(after):
            raise WrongImage(
                board.name, f"{what} after the run", str(get(before)), str(get(after)), fault_class=fault
            )


def check_hello(hello: Hello, *, chip: Chip, image: Image, board: Board) -> str | None:
    """Whether this very image runs, on the right chip, as configured.

    Returns:
        A warning for the row, if something is slower than it could be for a known reason.

    Raises:
        WrongImage: what was expected and what the board says.
    """
    kind = FaultClass
    expected: tuple[tuple[str, object, object, FaultClass], ...] = (
        ("build digest", image.build_digest, hello.build_digest, kind.WRONG_IMAGE),
        ("chip", chip.name, hello.chip, kind.WRONG_BOARD),
        ("device id", f"{chip.idcode.device_id:#05x}", f"{hello.device_id:#05x}", kind.WRONG_BOARD),
        ("cycle counter", "advancing", "advancing" if hello.dwt else "stopped", kind.CHIP_STATE),
        ("FPU", "on", "on" if hello.fpu else "off", kind.CHIP_STATE),
        ("instruction cache", bool(chip.caches.icache_bytes), hello.icache, kind.CACHES_OFF),
        ("data cache", bool(chip.caches.dcache_bytes), hello.dcache, kind.CACHES_OFF),
        ("flash accelerator", chip.caches.art, hello.art, kind.CACHES_OFF),
        ("prefetch", chip.caches.art, hello.prefetch, kind.CACHES_OFF),
    )
    for what, wanted, got, fault in expected:
        if wanted != got:
            raise WrongImage(board.name, what, str(wanted), str(got), fault_class=fault)
    if hello.clock_hz == chip.clock.rated_hz:
        if hello.wait_states != chip.clock.wait_states:
            raise WrongImage(
                board.name, "flash wait states", str(chip.clock.wait_states), str(hello.wait_states),
                fault_class=kind.CHIP_STATE,
            )  # fmt: skip
        return None
    # An older revision of the chip is slower by design and says so; any other speed is nobody's wish.
    if hello.clock_status is not ClockStatus.REDUCED_REVISION or hello.clock_hz != chip.clock.reduced_hz:
        raise WrongImage(
            board.name, f"clock (status {ClockStatus(hello.clock_status).name.lower()})",
            f"{chip.clock.rated_hz / 1e6:g} MHz", f"{hello.clock_hz / 1e6:g} MHz",
            fault_class=kind.WRONG_CLOCK,
        )  # fmt: skip
    revision = chip.idcode.revisions.get(hello.revision_id, f"{hello.revision_id:#06x}")
    return (
        f"runs at {hello.clock_hz / 1e6:g} MHz instead of {chip.clock.rated_hz / 1e6:g} (revision {revision}, "
        f"clock status {hello.clock_status}); milliseconds are of this clock"
    )


def check_output(row: Row, output: bytes, crcs: tuple[int, ...], *, expected: bytes) -> Row:
    """`row` with the verdict on the output: every repetition's checksum and the bytes themselves must be right."""
    wrong = next((i for i in range(min(len(output), len(expected))) if output[i] != expected[i]), None)
    same = output == expected
    right = zlib.crc32(expected)
    odd = [i for i, crc in enumerate(crcs) if crc != right]
    row = replace(row, output_sha256=sha256(output), bit_exact=same and not odd)
    if same and not odd:
        return replace(row, outcome=Outcome.OK)
    if not same:
        differing = sum(a != b for a, b in zip(output, expected, strict=False))
        where = f", first at {wrong}" if wrong is not None else ""
        words = f"{differing} of {len(expected)} output bytes differ from the reference{where}"
    else:
        words = f"the output of repetition {odd[0]} differed from that of the last one"
    return replace(
        row,
        outcome=Outcome.MISMATCH,
        error=words,
        fault="result",
        fault_class=FaultClass.WRONG_OUTPUT,
        advice=ADVICE[FaultClass.WRONG_OUTPUT],
    )


def check_layers(row: Row, cycles: tuple[int, ...]) -> Row:
    """`row` with cycles a layer, or without them and with a warning when they do not add up to the whole."""
    if row.layers is None or row.cycles is None:
        return row
    if len(cycles) != len(row.layers):
        return warned(row, f"the board sent cycles of {len(cycles)} layers, the model has {len(row.layers)}")
    off = stats.relative_difference(sum(cycles), row.cycles)
    if off > LAYER_TOLERANCE:
        return warned(
            row,
            f"layer cycles are left out: they add up to {sum(cycles):,}, {off:.1%} away from the whole run's "
            f"{row.cycles:,}",
        )
    return replace(
        row, layers=tuple(replace(layer, cycles=c) for layer, c in zip(row.layers, cycles, strict=True))
    )


def check_memory(row: Row, memory: MemoryReport, image: Image) -> Row:
    """`row` with what the inference left painted over, and with the verdict on the arena's guard."""
    row = replace(
        row,
        arena_measured_bytes=memory.arena_bytes,
        stack_bytes=memory.stack_bytes,
        stack_inference_bytes=memory.stack_inference_bytes,
        sram_bytes=image.static_ram_bytes + image.arena_bytes + memory.stack_bytes + image.copied_sram_bytes,
    )
    if not memory.guard_intact:
        return replace(
            row,
            outcome=Outcome.MISMATCH,
            bit_exact=False,
            error="inference wrote past the end of its arena",
            fault="result",
            fault_class=FaultClass.WRONG_OUTPUT,
            advice=ADVICE[FaultClass.WRONG_OUTPUT],
        )
    if memory.stack_bytes >= STACK_LIMIT_BYTES:
        row = warned(row, f"the stack reached {memory.stack_bytes:,} B; under {STACK_LIMIT_BYTES:,} B is promised")
    return row
