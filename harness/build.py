"""BuildPlan -> Image: generated sources and the firmware compiled and linked into an ELF named by its digest.

A plan is a value; equal plans give equal bytes in any folder, and are built once. Nothing is printed. The linker
is given open-ended memories so that it never fails for want of room: what does not fit is found from the
sections' sizes, with both numbers.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

from elftools.elf.elffile import ELFFile
from filelock import FileLock, Timeout

from harness import digests, image, paths
from harness.boards import DEFAULT_BAUD, Board, ClockSource, hse_problem
from harness.chips import Chip, UartPins, load_chip
from harness.errors import ArenaOverflow, BuildFailed, ConfigError
from harness.image import Image, Region
from harness.layout import (
    OPEN_BYTES,
    Layout,
    Sizes,
    lay_out,
    linker_script,
    spare_bytes,
)
from harness.placement import PLAIN, Placement
from harness.toolchain import Toolchain
from tinyengine.sources import Sources

FORMAT = "tinyrack.build/4"
_STEP_TIMEOUT_S = 300.0
_LOCK_TIMEOUT_S = 600.0
_FLAGS = (
    "-std=c11", "-O2", "-ffunction-sections", "-fdata-sections", "-fno-common", "-Wall", "-Wextra", "-Werror",
)  # fmt: skip
# Firmware is freestanding: libc in the image is what the model asked for, so its size can be told apart.
# It is small (-Os): the timed window is assembly, no figure depends on how the rest is compiled.
_FIRMWARE_FLAGS = (
    "-Os",
    # No FP register is used to move data: the firmware leaves no FP context for the core to stack.
    "-mgeneral-regs-only",
    "-ffreestanding",
    "-fno-tree-loop-distribute-patterns",
    "-Wconversion",
    "-Wshadow",
    "-Wundef",
)
_LINK_FLAGS = (
    "-nostartfiles", "--specs=nano.specs", "-Wl,--gc-sections", "-Wl,--build-id=none", "-Wl,--fatal-warnings",
    "-Wl,-z,max-page-size=4096", "-Wl,--no-warn-rwx-segments",
)  # fmt: skip
_FIRMWARE_SOURCES = (
    "startup/vectors.S", "startup/start.c", "app/main.c", "runtime/cbor.c", "runtime/crc32.c",
    "runtime/frame.c", "runtime/protocol.c", "drivers/board.c", "drivers/cache.c", "drivers/clock.c",
    "drivers/watermark.c",
)  # fmt: skip


_BENCH = "app/bench.c"


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildPlan:
    """Everything that decides the bytes of an image.

    Args:
        placement: what lies elsewhere than the chip's folder says.
    """

    sources: Sources
    chip: Chip
    uart: UartPins
    clock_source: ClockSource
    baud: int
    toolchain: Toolchain
    placement: Placement = PLAIN

    @classmethod
    def of_board(
        cls, board: Board, sources: Sources, *, toolchain: Toolchain, placement: Placement = PLAIN
    ) -> BuildPlan:
        """For a board as it is wired."""
        return cls(
            sources=sources,
            chip=load_chip(board.chip),
            uart=board.uart,
            clock_source=board.clock_source,
            baud=board.baud,
            toolchain=toolchain,
            placement=placement,
        )

    @classmethod
    def of_chip(
        cls, chip: Chip, sources: Sources, *, toolchain: Toolchain, placement: Placement = PLAIN
    ) -> BuildPlan:
        """For a chip's own UART and oscillator, whatever board it is on."""
        return cls(
            sources=sources,
            chip=chip,
            uart=chip.uart,
            clock_source=ClockSource(),
            baud=DEFAULT_BAUD,
            toolchain=toolchain,
            placement=placement,
        )

    def digest(self) -> str:
        """SHA-256 over all of it, the firmware's own files included; the image carries it and HELLO repeats it."""
        h = hashlib.sha256()
        for part in (
            FORMAT,
            self.sources.digest(),
            self.chip.model_dump_json(),
            self.uart.model_dump_json(),
            json.dumps(asdict(self.clock_source), sort_keys=True),
            str(self.baud),
            self.toolchain.description,
            " ".join((*_FLAGS, *_FIRMWARE_FLAGS, *_LINK_FLAGS)),
            firmware_digest(),
            json.dumps(asdict(self.placement), sort_keys=True),
        ):
            h.update(f"{len(part)}\0{part}".encode())
        return h.hexdigest()


@cache
def firmware_digest() -> str:
    """SHA-256 over names and contents of the firmware's sources."""
    root = paths.firmware_dir()
    return digests.of_files(root, (p for p in root.rglob("*") if p.suffix in {".c", ".h", ".S", ".j2"}))


def build(plan: BuildPlan, *, cache_dir: Path) -> Image:
    """The image of `plan`, from the cache when it is there.

    Args:
        cache_dir: images are kept in ``<cache_dir>/images/<digest>``; several processes may share it.

    Raises:
        BuildFailed: the compiler or the linker refused something.
        ArenaOverflow, FlashOverflow: it does not fit the chip.
        ConfigError: a pin or a clock source that the chip cannot use.
    """
    try:
        return _build_once(plan, plan.digest(), cache_dir)
    except OSError as e:
        raise BuildFailed("writing the image", f"error: {e.filename or cache_dir}: {e.strerror}") from e


def _build_once(plan: BuildPlan, digest: str, cache_dir: Path) -> Image:
    images = cache_dir / "images"
    images.mkdir(parents=True, exist_ok=True)
    place = images / digest
    with _locked(images / f"{digest}.lock"):
        known = _cached(place, digest)
        if known is not None:
            return known
        shutil.rmtree(place, ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=images, prefix="build-") as folder:
            return _build(plan, digest, Path(folder), place, cache_dir)


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    lock = FileLock(file)
    try:
        lock.acquire(timeout=_LOCK_TIMEOUT_S)
    except Timeout as e:
        raise BuildFailed("waiting", f"error: another process has held {file} for {_LOCK_TIMEOUT_S:g} s") from e
    try:
        yield
    finally:
        lock.release()


def _cached(place: Path, digest: str) -> Image | None:
    elf = place / f"{digest}.elf"
    try:
        values = json.loads((place / "image.json").read_text(encoding="utf-8"))
        regions = tuple(Region(**r) for r in values.pop("regions"))
        known = Image(elf=elf, regions=regions, **values)
        sound = hashlib.sha256(elf.read_bytes()).hexdigest() == known.elf_sha256
    except (OSError, ValueError, TypeError, KeyError):
        return None  # absent or damaged: it is built again
    return known if sound else None


def _build(plan: BuildPlan, digest: str, work: Path, place: Path, cache_dir: Path) -> Image:
    generated = work / "generated"
    generated.mkdir()
    for file in plan.sources.files:
        (generated / file.name).write_text(file.text, encoding="utf-8", newline="\n")
    arena_bytes = _defined(plan.sources, "TE_ARENA_BYTES")
    if arena_bytes > OPEN_BYTES:
        most = max(plan.chip.span(names).bytes for names in plan.chip.placement.arena)
        raise ArenaOverflow(arena_bytes, most, "the arena alone")

    objects = _compile(plan, digest, work, generated, cache_dir)
    elf = work / f"{digest}.elf"
    layout = _laid_out(plan, [work / name for name in objects], arena_bytes)
    _rename_sections(plan, [name for name in objects if name.startswith("model/")], layout, work)
    linked = _link(plan, layout, digest, work, objects, elf, arena_bytes)

    kept = work / "kept"
    kept.mkdir()
    elf.rename(kept / elf.name)
    values = asdict(linked)
    del values["elf"]
    (kept / "image.json").write_text(json.dumps(values, indent=1), encoding="utf-8")
    kept.rename(place)
    return replace(linked, elf=place / elf.name)


def _defines(plan: BuildPlan) -> tuple[str, ...]:
    chip, uart, source = plan.chip, plan.uart, plan.clock_source
    try:
        tx_function, rx_function = chip.uart_functions(uart)
    except ValueError as e:
        raise ConfigError(str(e), file="boards.yaml", field="uart") from e
    if (problem := hse_problem(chip, source)) is not None:
        raise ConfigError(problem, file="boards.yaml", field="hse_hz")
    if not 9_600 <= plan.baud <= 3_000_000:
        raise ConfigError(f"{plan.baud} is not between 9,600 and 3,000,000", file="boards.yaml", field="baud")
    values = {
        "TR_CHIP_NAME": f'"{chip.name}"',
        f"TR_FAMILY_{chip.firmware.family.upper()}": "1",
        f"TR_CORE_{chip.core.removeprefix('cortex-').upper()}": "1",
        "TR_HSE_HZ": str(source.hse_hz or 0),
        "TR_HSE_BYPASS": str(int(source.bypass)),
        "TR_UART_NUMBER": uart.instance[-1],
        "TR_UART_BAUD": f"{plan.baud}u",
    }
    for role, pin, function in (("TX", uart.tx, tx_function), ("RX", uart.rx, rx_function)):
        if pin == "-":
            continue
        values[f"TR_UART_{role}_PORT"] = f"{ord(pin[1]) - ord('A')}u"
        values[f"TR_UART_{role}_PIN"] = f"{int(pin[2:])}u"
        values[f"TR_UART_{role}_AF"] = f"{function}u"
    return tuple(f"-D{name}={value}" for name, value in values.items())


def _defined(sources: Sources, name: str) -> int:
    """A number of the generated header."""
    try:
        header = sources.text("model.h")
    except KeyError as e:
        raise BuildFailed("generated sources", "error: there is no model.h") from e
    found = re.search(rf"^#define {name} (\d+)u?\s*$", header, re.MULTILINE)
    if found is None:
        raise BuildFailed("generated sources", f"error: model.h does not define {name}")
    return int(found[1])


def _laid_out(plan: BuildPlan, objects: Sequence[Path], arena_bytes: int) -> Layout:
    static, symbols = 0, dict[str, int]()
    for file in objects:
        for name, size in _object_sections(file).items():
            if name.startswith((".noinit", ".data", ".bss")):
                static += size + 4
            elif name.startswith((".rodata.", ".text.")) and file.parent.name == "model":
                symbols[name.split(".", 2)[2]] = size
    spare = spare_bytes(_defined(plan.sources, "TE_INPUT_BYTES"), _defined(plan.sources, "TE_LAYER_COUNT"))
    sizes = Sizes(static=static, arena=arena_bytes, spare=spare, symbols=symbols)
    return lay_out(plan.chip, plan.placement, sizes)


def _link(
    plan: BuildPlan, layout: Layout, digest: str, work: Path, objects: Sequence[str], elf: Path, arena_bytes: int
) -> Image:
    (work / "tinyrack.ld").write_text(linker_script(plan.chip, layout), encoding="utf-8", newline="\n")
    _step(
        "linking",
        [
            str(plan.toolchain.gcc), *plan.chip.cpu_flags, *_LINK_FLAGS,
            "-Wl,-T,tinyrack.ld", "-Wl,-Map,image.map", *objects, "-o", elf.name,
        ],
        work,
    )  # fmt: skip
    return image.measured(
        elf,
        work / "image.map",
        chip=plan.chip,
        layout=layout,
        build_digest=digest,
        arena_bytes=arena_bytes,
        toolchain=plan.toolchain.description,
    )


def _rename_sections(plan: BuildPlan, objects: Sequence[str], layout: Layout, work: Path) -> None:
    """Gives the sections of constants and functions a name that the linker script puts elsewhere."""
    objcopy = str(plan.toolchain.gcc).removesuffix("gcc") + "objcopy"
    renames = [
        f"--rename-section={kind}.{symbol}={part.section}.{symbol}"
        for part in layout.copies
        for symbol in part.symbols
        for kind in (".rodata", ".text")
    ]
    if renames:
        for name in objects:
            _step(f"placing the constants of {name}", [objcopy, *renames, name], work)


def _object_sections(file: Path) -> dict[str, int]:
    """Bytes of an object's sections by name."""
    with file.open("rb") as stream:
        return {s.name: int(s["sh_size"]) for s in ELFFile(stream).iter_sections()}


def _compile(plan: BuildPlan, digest: str, work: Path, generated: Path, cache_dir: Path) -> list[str]:
    """Object names relative to `work`; the model's begin with ``model/``, so that the map tells them apart.

    What depends on chip and board alone is compiled once for all models and kept.
    """
    for folder in ("model", "firmware"):
        (work / folder).mkdir()
    shared = _shared_objects(plan, cache_dir)
    for file in shared:
        shutil.copyfile(file, work / "firmware" / file.name)
    jobs = [
        (f"model/{Path(file.name).stem}.o", [*_compiler(plan, work), f"generated/{file.name}"])
        for file in plan.sources.files
        if Path(file.name).suffix in {".c", ".S"}
    ]
    own = [f'-DTR_BUILD_DIGEST="{digest}"', f"-I{generated}", str(paths.firmware_dir() / _BENCH)]
    jobs.append(("firmware/bench.o", [*_compiler(plan, work), *_firmware_options(plan), *own]))
    _run_all(jobs, work)
    # The order of the link is part of the bytes.
    return sorted(output for output, _ in jobs) + sorted(f"firmware/{file.name}" for file in shared)


def _shared_objects(plan: BuildPlan, cache_dir: Path) -> tuple[Path, ...]:
    """The firmware's objects that no model changes."""
    options = _firmware_options(plan)
    h = hashlib.sha256()
    for part in (FORMAT, plan.chip.model_dump_json(), plan.toolchain.description, firmware_digest(), *_FLAGS):
        h.update(f"{len(part)}\0{part}".encode())
    h.update(" ".join(o for o in options if not o.startswith("-I")).encode())
    kept = cache_dir / "firmware"
    kept.mkdir(parents=True, exist_ok=True)
    place = kept / h.hexdigest()
    parts = plan.chip.firmware
    names = (*_FIRMWARE_SOURCES, *(f"drivers/{name}" for name in (parts.clock, parts.uart, parts.cycles)))
    with _locked(kept / f"{place.name}.lock"):
        if not place.is_dir():
            with tempfile.TemporaryDirectory(dir=kept, prefix="build-") as folder:
                work = Path(folder)
                (work / "objects").mkdir()
                _run_all(
                    [
                        (
                            f"objects/{Path(name).stem}.o",
                            [*_compiler(plan, work), *options, str(paths.firmware_dir() / name)],
                        )
                        for name in names
                    ],
                    work,
                )
                (work / "objects").rename(place)
    return tuple(place / f"{Path(name).stem}.o" for name in names)


def _compiler(plan: BuildPlan, work: Path) -> list[str]:
    maps = (f"-ffile-prefix-map={work}=.", f"-ffile-prefix-map={paths.firmware_dir()}=firmware")
    return [str(plan.toolchain.gcc), *plan.chip.cpu_flags, *_FLAGS, *maps, "-c"]


def _firmware_options(plan: BuildPlan) -> list[str]:
    root = paths.firmware_dir()
    folders = ("drivers", "runtime", f"chips/{plan.chip.firmware.registers}")
    return [*_FIRMWARE_FLAGS, *_defines(plan), *(f"-I{root / folder}" for folder in folders)]


def _run_all(jobs: Sequence[tuple[str, list[str]]], work: Path) -> None:
    """Compiles (output, command) pairs, as many at a time as there are cores."""
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        list(pool.map(lambda job: _step(f"compiling {job[0]}", [*job[1], "-o", job[0]], work), jobs))


def _step(what: str, command: Sequence[str], folder: Path) -> None:
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, timeout=_STEP_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as e:
        raise BuildFailed(what, f"error: no result within {_STEP_TIMEOUT_S:g} s") from e
    if done.returncode != 0:
        raise BuildFailed(what, (done.stderr + done.stdout).decode(errors="replace"))
