"""What the build promises: same bytes anywhere, built once, no raw linker error, sizes that add up."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from harness import paths
from harness.boards import ClockSource
from harness.chips import UartPins, chip_names, load_chip
from harness.errors import ArenaOverflow, BuildFailed, ConfigError, FlashOverflow, MissingTool
from harness.images.build import build
from harness.images.image import Image
from harness.images.layout import STACK_RESERVE_BYTES
from harness.images.placement import Copy, Placement, Rule, layer_uses, placed, symbol_bytes
from harness.images.plan import BuildPlan
from harness.images.toolchain import Toolchain, find_toolchain
from tests.firmware.tiny_model import ARENA_BYTES, tiny_sources
from tinyengine import zoo
from tinyengine.compile import CompileOptions, compile_graph
from tinyengine.kernels.catalogue import Target
from tinyengine.sources import SourceFile, Sources

GUARD_BYTES = 256


@pytest.fixture(scope="module")
def toolchain() -> Toolchain:
    try:
        return find_toolchain()
    except MissingTool as e:
        pytest.skip(f"NO CROSS COMPILER: {e}")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def plan(toolchain: Toolchain, chip: str = "stm32f746", sources: Sources | None = None) -> BuildPlan:
    return BuildPlan.of_chip(load_chip(chip), sources or tiny_sources(), toolchain=toolchain)


def symbols(image: Image) -> dict[str, int]:
    with image.elf.open("rb") as stream:
        table = ELFFile(stream).get_section_by_name(".symtab")
        assert isinstance(table, SymbolTableSection)
        return {s.name: s["st_value"] for s in table.iter_symbols()}


@pytest.mark.parametrize("chip", chip_names())
def test_an_image_is_laid_out_as_the_chip_folder_says(chip: str, toolchain: Toolchain, cache: Path) -> None:
    image = build(plan(toolchain, chip), cache_dir=cache)
    part = load_chip(chip)
    at = symbols(image)
    data, arena = part.span(part.placement.data), part.span(part.placement.arena[0])
    assert at["tr_vectors"] == part.flash_memory.base
    assert at["tr_ld_stack_bottom"] == data.base
    assert at["tr_ld_stack_top"] == data.base + STACK_RESERVE_BYTES
    assert at["tr_ld_bss_end"] == at["tr_ld_stack_top"] + image.static_ram_bytes
    assert arena.base <= at["tr_arena"] < arena.base + 4096
    assert at["tr_arena"] % 32 == 0
    assert image.memories("arena") == part.placement.arena[0][:1], "a small one lies in the first memory alone"
    if chip != "stm32h743":
        assert at["tr_ld_spare_start"] == (at["tr_arena"] + ARENA_BYTES + GUARD_BYTES + 15) // 16 * 16
        assert at["tr_ld_spare_end"] == arena.end
    else:
        spare = part.span(part.placement.arena[-1])
        assert (at["tr_ld_spare_start"], at["tr_ld_spare_end"]) == (spare.base, spare.end)
    assert image.copied_bytes == 0 and at["tr_ld_copies_end"] - at["tr_ld_copies_start"] == 12, "but for .data"
    assert image.arena_bytes == ARENA_BYTES
    assert image.static_ram_bytes < 1_600
    assert image.text_bytes + image.rodata_bytes <= image.flash_bytes < 12_000


def with_table(size: int, *, used: bool) -> Sources:
    """The tiny model with a constant table that its code reads, or does not."""
    text = tiny_sources().text("model.c")
    text = text.replace("static void te_add", f"const uint8_t te_big[{size}] = {{1}};\nstatic void te_add", 1)
    if used:
        text = text.replace("sum += arena", "sum += te_big[arena[i]] + arena", 1)
    text = text.replace("const uint8_t te_big", f"extern const uint8_t te_big[{size}];\nconst uint8_t te_big", 1)
    return Sources(files=(SourceFile(name="model.c", text=text), tiny_sources().files[1]))


def copying(toolchain: Toolchain, chip: str, memory: tuple[str, ...] | None, size: int) -> BuildPlan:
    """With a table that start-up copies into a memory, or into the first that has room."""
    memories = load_chip(chip).placement.copies if memory is None else (memory,)
    copies = tuple(Copy(memory=m, symbols=("te_big",)) for m in memories)
    wanted = plan(toolchain, chip, with_table(size, used=True))
    return replace(wanted, placement=Placement(copies=copies))


def test_the_memories_of_an_arena_are_those_it_lies_in(toolchain: Toolchain, cache: Path) -> None:
    """F746: 64 kB of DTCM, then SRAM1."""
    for size, memories in ((60_000, ("dtcm",)), (100_000, ("dtcm", "sram1"))):
        image = build(plan(toolchain, sources=tiny_sources(arena_bytes=size)), cache_dir=cache)
        assert image.memories("arena") == memories


def test_an_arena_that_the_preferred_memory_cannot_hold_goes_to_the_next(
    toolchain: Toolchain, cache: Path
) -> None:
    """H743: 128 kB of DTCM with stack and static data, else AXI SRAM; the stash is never beside a full DTCM."""
    near = build(plan(toolchain, "stm32h743", tiny_sources(arena_bytes=120_000)), cache_dir=cache)
    far = build(plan(toolchain, "stm32h743", tiny_sources(arena_bytes=131_000)), cache_dir=cache)
    assert (near.memories("arena"), far.memories("arena")) == (("dtcm",), ("axi_sram",))
    part = load_chip("stm32h743")
    dtcm, axi = part.memory("dtcm"), part.memory("axi_sram")
    at = symbols(near)
    assert dtcm.base < at["tr_arena"] and at["tr_arena"] + 120_000 + GUARD_BYTES <= dtcm.end
    assert (at["tr_ld_spare_start"], at["tr_ld_spare_end"]) == (axi.base, axi.end)
    at = symbols(far)
    assert at["tr_arena"] == axi.base
    assert axi.base + 131_000 < at["tr_ld_spare_start"] < at["tr_ld_spare_end"] == axi.end


@pytest.mark.parametrize("chip", ["stm32f746", "stm32f765", "stm32h743"])
def test_hot_weights_lie_in_the_itcm_and_their_image_in_flash(
    chip: str, toolchain: Toolchain, cache: Path
) -> None:
    image = build(copying(toolchain, chip, ("itcm",), 5_000), cache_dir=cache)
    cold = build(plan(toolchain, chip, with_table(5_000, used=True)), cache_dir=cache)
    part, at = load_chip(chip), symbols(image)
    itcm = part.memory("itcm")
    assert itcm.base < at["te_big"] < itcm.end - 5_000, "and nothing lies at address 0"
    assert (image.copied_bytes, image.copied_sram_bytes) == (5_000, 0)
    assert image.model_flash_bytes == pytest.approx(cold.model_flash_bytes, abs=16)
    assert image.flash_bytes == pytest.approx(cold.flash_bytes, abs=32)
    assert image.rodata_bytes == pytest.approx(cold.rodata_bytes, abs=16)
    with image.elf.open("rb") as stream:
        parsed = ELFFile(stream)
        hot = parsed.get_section_by_name(".hot_itcm")
        assert hot is not None and hot.data()[:2] == b"\x01\x00"
        loads = sorted((s["p_paddr"], s["p_filesz"]) for s in parsed.iter_segments() if s["p_filesz"])
    assert all(low + size <= high for (low, size), (high, _) in pairwise(loads)), "no flash is written twice"


def test_hot_functions_run_in_the_itcm_and_are_reached_from_flash(toolchain: Toolchain, cache: Path) -> None:
    """What tuning asks for, in its order; BL cannot reach so far, the linker's veneers do."""
    compiled = compile_graph(zoo.load("ds-cnn"), CompileOptions(target=Target.M7))
    sizes = symbol_bytes(compiled.sources)
    used = layer_uses(compiled)[2]
    wanted = (*used.functions, *used.constants, "te_no_such_thing")
    wished = Placement(copies=(Copy(memory=("itcm",), symbols=wanted),))
    image = build(replace(plan(toolchain, "stm32f746", compiled.sources), placement=wished), cache_dir=cache)
    itcm, at = load_chip("stm32f746").memory("itcm"), symbols(image)
    for name in wanted[:-1]:
        assert itcm.base < at[name] < itcm.end
    exact = sum(sizes[name] for name in wanted[:-1])
    assert exact - 64 <= image.copied_bytes <= exact + 16 * len(wanted), "functions are counted at their widest"
    assert any("veneer" in name for name in at)


def test_weights_that_do_not_fit_a_memory_go_to_the_next(toolchain: Toolchain, cache: Path) -> None:
    """F746: 16 kB of ITCM, 64 kB of DTCM with stack and arena, 256 kB of SRAM."""
    part = load_chip("stm32f746")
    for size, memory in ((16_000, "itcm"), (16_384, "dtcm"), (62_000, "sram1"), (300_000, None)):
        image = build(copying(toolchain, "stm32f746", None, size), cache_dir=cache)
        assert image.memories("copies") == (() if memory is None else (memory,))
        home = part.memory(memory or "flash")
        assert home.base < symbols(image)["te_big"] + 1 <= home.end - size
        assert image.copied_sram_bytes == (size if memory in ("dtcm", "sram1") else 0)
        used = {r.memory: r.bytes for r in image.regions if r.section == "copies"}
        assert sum(used.values()) == image.copied_bytes == (size if memory else 0)


def test_copies_lie_before_an_arena_that_leaves_the_dtcm_and_behind_one_that_does_not(
    toolchain: Toolchain, cache: Path
) -> None:
    part, wanted = load_chip("stm32f746"), copying(toolchain, "stm32f746", ("dtcm",), 5_000)
    near = symbols(build(wanted, cache_dir=cache))
    away = replace(wanted.placement, arena=("sram1", "sram2"))
    image = build(replace(wanted, placement=away), cache_dir=cache)
    far = symbols(image)
    assert near["tr_ld_bss_end"] <= near["tr_arena"] < near["te_big"] < part.memory("dtcm").end
    assert far["tr_ld_bss_end"] <= far["te_big"] < far["tr_arena"] == part.memory("sram1").base
    assert far["tr_ld_spare_start"] > far["tr_arena"] and image.memories("arena") == ("sram1",)


def test_copies_keep_within_the_limit_of_sram(toolchain: Toolchain, cache: Path) -> None:
    wanted = copying(toolchain, "stm32f412", ("sram1",), 5_000)
    for room, copied in ((5_008, 5_000), (4_999, 0)):
        limited = replace(wanted.placement, sram_limit_bytes=ARENA_BYTES + room)
        image = build(replace(wanted, placement=limited), cache_dir=cache)
        assert image.copied_sram_bytes == copied


def test_the_input_has_room_beside_copies(toolchain: Toolchain, cache: Path) -> None:
    """Else the board could not repeat a run."""
    image = build(copying(toolchain, "stm32f412", ("sram1",), 250_000), cache_dir=cache)
    at = symbols(image)
    assert image.copied_bytes == 250_000 and at["tr_ld_spare_end"] - at["tr_ld_spare_start"] >= 8 * 128 + 600
    assert not build(copying(toolchain, "stm32f412", ("sram1",), 256_000), cache_dir=cache).copied_bytes


def test_rules_differ_in_the_memories_they_fill(toolchain: Toolchain, cache: Path) -> None:
    compiled = compile_graph(zoo.load("ds-cnn"), CompileOptions(target=Target.M7))
    part, held = load_chip("stm32f746"), {}
    for rule in (Rule.FLASH, Rule.DEFAULT, Rule.TCM, Rule.RAM):
        wished = placed(rule, part, compiled)
        image = build(replace(plan(toolchain, "stm32f746", compiled.sources), placement=wished), cache_dir=cache)
        held[rule] = image.memories("copies")
    assert held == {
        Rule.FLASH: (), Rule.DEFAULT: ("itcm",), Rule.TCM: ("itcm", "dtcm"), Rule.RAM: ("itcm", "dtcm"),
    }  # fmt: skip


def test_the_models_flash_is_what_the_model_brought(toolchain: Toolchain, cache: Path) -> None:
    small = build(plan(toolchain), cache_dir=cache)
    large = build(plan(toolchain, sources=with_table(5_000, used=True)), cache_dir=cache)
    unused = build(plan(toolchain, sources=with_table(5_000, used=False)), cache_dir=cache)
    assert 100 < small.model_flash_bytes < 1_000
    assert 5_000 <= large.model_flash_bytes - small.model_flash_bytes < 5_050
    assert 5_000 <= large.flash_bytes - small.flash_bytes < 5_050
    assert (unused.flash_bytes, unused.model_flash_bytes) == (small.flash_bytes, small.model_flash_bytes)


def test_the_firmware_itself_needs_nothing_of_the_c_library(toolchain: Toolchain, cache: Path) -> None:
    """Else its share could not be told from the model's."""
    image = build(plan(toolchain), cache_dir=cache)
    without = tiny_sources().text("model.c").replace("memcpy(line, arena, sizeof line);", "")
    without = without.replace("memcpy(arena + 1000u, line, sizeof line);", "arena[1000] = line[0] = 0;")
    sources = Sources(files=(SourceFile(name="model.c", text=without), tiny_sources().files[1]))
    bare = build(plan(toolchain, sources=sources), cache_dir=cache)
    assert "memcpy" in symbols(image)
    assert not {"memcpy", "memset", "memmove", "memcmp", "__aeabi_uldivmod"} & set(symbols(bare))
    assert bare.flash_bytes < image.flash_bytes


def test_equal_plans_give_equal_bytes_in_any_folder_and_locale(
    toolchain: Toolchain, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = build(plan(toolchain), cache_dir=cache)
    elsewhere = tmp_path / "a path with spaces"
    moved = tmp_path / "moved firmware"
    shutil.copytree(paths.firmware_dir(), moved)
    monkeypatch.setattr(paths, "firmware_dir", lambda: moved)
    monkeypatch.setenv("LC_ALL", "C")
    second = build(plan(toolchain), cache_dir=elsewhere)
    assert first.elf != second.elf
    assert first.elf.read_bytes() == second.elf.read_bytes()
    assert first.elf_sha256 == second.elf_sha256


def test_a_plan_is_built_once_and_again_when_its_image_is_damaged(
    toolchain: Toolchain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = build(plan(toolchain), cache_dir=tmp_path)
    assert image.elf.stem == image.build_digest == plan(toolchain).digest()
    runs: list[object] = []
    real = subprocess.run

    def counted(*arguments: Any, **options: Any) -> Any:
        runs.append(arguments)
        return real(*arguments, **options)

    monkeypatch.setattr(subprocess, "run", counted)
    assert build(plan(toolchain), cache_dir=tmp_path) == image
    assert not runs
    image.elf.write_bytes(b"cut short")
    assert build(plan(toolchain), cache_dir=tmp_path) == image
    assert runs


@pytest.mark.parametrize("change", ["sources", "baud", "clock", "uart", "toolchain", "chip"])
def test_everything_that_decides_the_bytes_changes_the_digest(toolchain: Toolchain, change: str) -> None:
    before = plan(toolchain)
    after = {
        "sources": replace(before, sources=tiny_sources(extra="\n")),
        "baud": replace(before, baud=115_200),
        "clock": replace(before, clock_source=ClockSource(hse_hz=8_000_000, bypass=True)),
        "uart": replace(before, uart=UartPins(instance="USART1", tx="PA9", rx="PB7")),
        "toolchain": replace(before, toolchain=Toolchain(gcc=toolchain.gcc, description="another")),
        "chip": replace(before, chip=load_chip("stm32f765")),
    }[change]
    assert after.digest() != before.digest()


@pytest.mark.parametrize(
    ("chip", "limit"),
    [("stm32f412", 0x40000), ("stm32f746", 0x50000), ("stm32f765", 0x80000), ("stm32h743", 0x80000)],
)
def test_an_arena_that_does_not_fit_is_refused_with_both_numbers(
    chip: str, limit: int, toolchain: Toolchain, cache: Path
) -> None:
    with pytest.raises(ArenaOverflow) as caught:
        build(plan(toolchain, chip, tiny_sources(arena_bytes=600_000)), cache_dir=cache)
    assert caught.value.limit_bytes == limit
    apart = chip == "stm32h743"
    assert 0 <= caught.value.needed_bytes - 600_000 - GUARD_BYTES - (0 if apart else STACK_RESERVE_BYTES) < 1_700
    with pytest.raises(ArenaOverflow):
        build(plan(toolchain, chip, tiny_sources(arena_bytes=10**12)), cache_dir=cache)


def test_the_largest_arena_that_fits_is_accepted_and_one_byte_more_is_not(
    toolchain: Toolchain, cache: Path
) -> None:
    """H743: its arena has a memory of its own, rounded up to 16."""
    most = 0x80000 - GUARD_BYTES
    assert build(plan(toolchain, "stm32h743", tiny_sources(arena_bytes=most)), cache_dir=cache).arena_bytes == most
    with pytest.raises(ArenaOverflow, match=r"524,304 B of SRAM, the chip has 524,288 B"):
        build(plan(toolchain, "stm32h743", tiny_sources(arena_bytes=most + 1)), cache_dir=cache)


def test_flash_that_does_not_suffice_is_refused_with_both_numbers(toolchain: Toolchain, cache: Path) -> None:
    sources = with_table(1_200_000, used=True)
    with pytest.raises(FlashOverflow) as caught:
        build(plan(toolchain, sources=sources), cache_dir=cache)
    assert caught.value.limit_bytes == 1 << 20
    assert 1_200_000 < caught.value.needed_bytes < 1_220_000
    assert build(plan(toolchain, "stm32h743", sources), cache_dir=cache).flash_bytes > 1_200_000


def test_a_compiler_error_is_one_line_and_keeps_the_log(toolchain: Toolchain, cache: Path) -> None:
    with pytest.raises(BuildFailed, match=r"compiling model/model\.o: .*error: ") as caught:
        build(plan(toolchain, sources=tiny_sources(extra="\nint broken\n")), cache_dir=cache)
    assert "broken" in caught.value.log


def test_a_cache_that_cannot_be_written_is_one_line(toolchain: Toolchain, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(BuildFailed, match=r"writing the image: error: .*file.*: (Not a directory|File exists)"):
        build(plan(toolchain), cache_dir=tmp_path / "file")


@pytest.mark.parametrize("chip", chip_names())
@pytest.mark.parametrize("source", [ClockSource(hse_hz=8_000_000, bypass=True), ClockSource(hse_hz=25_000_000)])
def test_every_chip_builds_for_an_external_clock(
    chip: str, source: ClockSource, toolchain: Toolchain, cache: Path
) -> None:
    build(replace(plan(toolchain, chip), clock_source=source), cache_dir=cache)


@pytest.mark.parametrize(
    ("uart", "clock", "baud", "words"),
    [
        (UartPins(instance="USART7", tx="PD8", rx="PD9"), ClockSource(), 921_600, "no USART7"),
        (UartPins(instance="USART3", tx="PA1", rx="PD9"), ClockSource(), 921_600, "tx cannot be PA1; known: PB10"),
        (None, ClockSource(hse_hz=8_123_456), 921_600, "multiple of 1 MHz"),
        (None, ClockSource(hse_hz=1_000_000), 921_600, "no HSE frequency"),
        (None, ClockSource(), 300, "between 9,600"),
    ],
)
def test_a_board_that_cannot_be_is_refused_before_compiling(
    uart: UartPins | None, clock: ClockSource, baud: int, words: str, toolchain: Toolchain, cache: Path
) -> None:
    before = plan(toolchain)
    with pytest.raises(ConfigError, match=words):
        build(replace(before, uart=uart or before.uart, clock_source=clock, baud=baud), cache_dir=cache)


def test_a_missing_compiler_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(MissingTool, match="apt-get install gcc-arm-none-eabi libnewlib-arm-none-eabi"):
        find_toolchain.__wrapped__()


@pytest.mark.parametrize("chip", chip_names())
def test_hot_window_is_the_call_and_nothing_else(chip: str, toolchain: Toolchain, cache: Path) -> None:
    image = build(plan(toolchain, chip), cache_dir=cache)
    command = [str(toolchain.gcc).replace("gcc", "objdump"), "-d", "--no-show-raw-insn", str(image.elf)]
    text = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    body = text.split("<tr_cycles_of>:")[1].split("\n\n")[0]
    lines = [line.split("\t", 1)[1].split("@")[0].split() for line in body.splitlines() if "\t" in line]
    words = [" ".join(line) for line in lines]
    start = words.index("isb sy")
    assert words[start : start + 4] == ["isb sy", "ldr r5, [r4, #0]", "blx r6", "ldr r0, [r4, #0]"]
