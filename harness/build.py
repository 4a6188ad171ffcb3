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
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import jinja2
from elftools.elf.elffile import ELFFile
from filelock import FileLock, Timeout

from harness import paths
from harness.boards import ClockSource, hse_problem
from harness.chips import Chip, Span, UartPins
from harness.errors import ArenaOverflow, BuildFailed, ConfigError, FlashOverflow
from harness.toolchain import Toolchain
from tinyengine.sources import Sources

STACK_RESERVE_BYTES = 2048
"""What the linker script sets apart for the stack; marks stay under 1 kB."""

FORMAT = "tinyrack.build/3"
_STEP_TIMEOUT_S = 300.0
_LOCK_TIMEOUT_S = 600.0
# Above any part's memory and far below the next region's start; see the linker script.
_OPEN_BYTES = 0x0400_0000
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
HOT_RESERVED_BYTES = 32
"""Left free at the bottom: nothing of a model may lie at address 0."""
_TILE_PIXELS = 4
"""Output pixels for which the fast kernels load a weight once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightUse:
    """A constant of the generated code and the multiply-accumulates of the layer that reads it."""

    symbol: str
    macs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildPlan:
    """Everything that decides the bytes of an image.

    Args:
        weight_uses: from which the constants for the chip's fastest memory are chosen; none, and none is moved.
        hot: constants and functions for that memory by name, the most wanted first, instead of that choice.
    """

    sources: Sources
    chip: Chip
    uart: UartPins
    clock_source: ClockSource
    baud: int
    toolchain: Toolchain
    weight_uses: tuple[WeightUse, ...] = ()
    hot: tuple[str, ...] | None = None

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
            " ".join(f"{use.symbol}={use.macs}" for use in self.weight_uses)
            if self.hot is None
            else f"hot {' '.join(self.hot)}",
        ):
            h.update(f"{len(part)}\0{part}".encode())
        return h.hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """A linked firmware.

    Args:
        flash_bytes: the whole image, the load image of .data included.
        model_flash_bytes: what the model brought: weights, tables, kernels and the C library's functions they use
            (the firmware itself uses none).
        static_ram_bytes: .noinit, .data and .bss; neither arena nor stack.
        stack_reserve_bytes: what the linker script keeps for the stack.
        arena_memory: names of the chip's memories that hold the arena, joined by +.
        hot_bytes: of weights that start-up copies into the chip's `hot_weights` memory; they count as flash too.
    """

    elf: Path
    elf_sha256: str
    build_digest: str
    flash_bytes: int
    model_flash_bytes: int
    text_bytes: int
    rodata_bytes: int
    static_ram_bytes: int
    arena_bytes: int
    stack_reserve_bytes: int
    toolchain: str
    arena_memory: str
    hot_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """Where things of an image go that could go elsewhere.

    Args:
        spare: RAM for the input's stash and for records, when it is not what the arena leaves of its own.
        hot: symbols of constants, in the order in which they lie in `hot_weights`.
    """

    arena_memories: tuple[str, ...]
    arena: Span
    spare: Span | None
    hot: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Section:
    address: int
    load_address: int
    bytes: int

    @property
    def end(self) -> int:
        return self.address + self.bytes


@cache
def firmware_digest() -> str:
    """SHA-256 over names and contents of the firmware's sources."""
    root = paths.firmware_dir()
    h = hashlib.sha256()
    for file in sorted(p for p in root.rglob("*") if p.suffix in {".c", ".h", ".S", ".j2"}):
        data = file.read_bytes()
        h.update(f"{file.relative_to(root).as_posix()}\0{len(data)}\0".encode())
        h.update(data)
    return h.hexdigest()


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
        image = _cached(place, digest)
        if image is not None:
            return image
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
        image = Image(elf=elf, **values)
        sound = hashlib.sha256(elf.read_bytes()).hexdigest() == image.elf_sha256
    except (OSError, ValueError, TypeError):
        return None  # absent or damaged: it is built again
    return image if sound else None


def _build(plan: BuildPlan, digest: str, work: Path, place: Path, cache_dir: Path) -> Image:
    generated = work / "generated"
    generated.mkdir()
    for file in plan.sources.files:
        (generated / file.name).write_text(file.text, encoding="utf-8", newline="\n")
    arena_bytes = _arena_bytes(plan.sources)
    if arena_bytes > _OPEN_BYTES:
        most = max(plan.chip.span(names).bytes for names in plan.chip.placement.arena)
        raise ArenaOverflow(arena_bytes, most, "the arena alone")

    objects = _compile(plan, digest, work, generated, cache_dir)
    elf = work / f"{digest}.elf"
    image = _link(plan, digest, work, objects, elf, arena_bytes)

    kept = work / "kept"
    kept.mkdir()
    elf.rename(kept / elf.name)
    values = asdict(image)
    del values["elf"]
    (kept / "image.json").write_text(json.dumps(values, indent=1), encoding="utf-8")
    kept.rename(place)
    return _with_elf(image, place / elf.name)


def _with_elf(image: Image, elf: Path) -> Image:
    values = asdict(image)
    values["elf"] = elf
    return Image(**values)


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


def _arena_bytes(sources: Sources) -> int:
    try:
        header = sources.text("model.h")
    except KeyError as e:
        raise BuildFailed("generated sources", "error: there is no model.h") from e
    found = re.search(r"^#define TE_ARENA_BYTES (\d+)u?\s*$", header, re.MULTILINE)
    if found is None:
        raise BuildFailed("generated sources", "error: model.h does not define TE_ARENA_BYTES")
    return int(found[1])


def _link(plan: BuildPlan, digest: str, work: Path, objects: Sequence[str], elf: Path, arena_bytes: int) -> Image:
    """Links with the arena in the first of the chip's candidates that has room for it."""
    chip = plan.chip
    hot = _hot_symbols(plan, [work / name for name in objects if name.startswith("model/")])
    if hot:
        _rename_sections(plan, [name for name in objects if name.startswith("model/")], hot, work)
    *others, last = chip.placement.arena
    layouts = [
        _Layout(arena_memories=names, arena=chip.span(names), spare=chip.span(last), hot=hot) for names in others
    ]
    layouts.append(_Layout(arena_memories=last, arena=chip.span(last), spare=None, hot=hot))
    for layout in layouts:
        (work / "tinyrack.ld").write_text(_linker_script(chip, layout), encoding="utf-8", newline="\n")
        _step(
            "linking",
            [
                str(plan.toolchain.gcc), *chip.cpu_flags, *_LINK_FLAGS,
                "-Wl,-T,tinyrack.ld", "-Wl,-Map,image.map", *objects, "-o", elf.name,
            ],
            work,
        )  # fmt: skip
        try:
            return _measure(plan, layout, digest, elf, arena_bytes, work / "image.map")
        except ArenaOverflow:
            if layout is layouts[-1]:
                raise
    raise AssertionError("a chip has at least one place for the arena")


def _hot_symbols(plan: BuildPlan, objects: Sequence[Path]) -> tuple[str, ...]:
    """The constants to copy into the chip's fastest memory: those that would miss the data cache most often.

    A tiled kernel walks through its weights once for a few output pixels. Weights that the cache holds miss in the
    first of these walks, larger ones in each. Taken in the order of misses saved a byte, as long as they fit; ties
    fall as the layers come.
    """
    memory = plan.chip.placement.hot_weights
    if memory is None:
        return ()
    room = plan.chip.span(memory).bytes - HOT_RESERVED_BYTES
    if plan.hot is not None:
        return _fitting(plan.hot, _section_bytes(objects, (".rodata.", ".text.")), room)
    if not plan.weight_uses:
        return ()
    sizes = _section_bytes(objects, (".rodata.",))
    kept = plan.chip.caches.dcache_bytes * 3 // 4
    ranked: list[tuple[float, str]] = []
    for use in plan.weight_uses:
        size = sizes.get(use.symbol, 0)
        if size and use.macs:  # lookup tables are read here and there
            walks = max(1.0, use.macs / (size * _TILE_PIXELS / 2)) if size > kept else 1.0
            ranked.append((-walks, use.symbol))
    return _fitting([symbol for _, symbol in sorted(ranked, key=lambda one: one[0])], sizes, room)


def _fitting(wanted: Sequence[str], sizes: dict[str, int], room: int) -> tuple[str, ...]:
    """Those that fit, taken in order; sections start at multiples of 16 at most."""
    chosen: list[str] = []
    for symbol in dict.fromkeys(wanted):
        needed = (sizes.get(symbol, 0) + 15) // 16 * 16
        if 0 < needed <= room:
            chosen.append(symbol)
            room -= needed
    return tuple(chosen)


def _rename_sections(plan: BuildPlan, objects: Sequence[str], symbols: Sequence[str], work: Path) -> None:
    """Gives the sections of constants and functions a name that the linker script puts elsewhere."""
    objcopy = str(plan.toolchain.gcc).removesuffix("gcc") + "objcopy"
    kinds = (".rodata", ".text")
    renames = [f"--rename-section={kind}.{symbol}=.hot.{symbol}" for symbol in symbols for kind in kinds]
    for name in objects:
        _step(f"placing the constants of {name}", [objcopy, *renames, name], work)


def _section_bytes(objects: Sequence[Path], kinds: tuple[str, ...]) -> dict[str, int]:
    """Sizes of the constants and functions that have a section of their own, by name."""
    out: dict[str, int] = {}
    for file in objects:
        with file.open("rb") as stream:
            for section in ELFFile(stream).iter_sections():
                for kind in kinds:
                    if section.name.startswith(kind):
                        out[section.name.removeprefix(kind)] = int(section["sh_size"])
    return out


def _linker_script(chip: Chip, layout: _Layout) -> str:
    code, data, arena = chip.span(chip.placement.code), chip.span(chip.placement.data), layout.arena
    hot = () if chip.placement.hot_weights is None else chip.placement.hot_weights
    if chip.placement.stack != chip.placement.data or chip.placement.code != chip.placement.weights:
        raise ConfigError(
            "the linker script puts the stack beside the data and the weights beside the code",
            file=f"{chip.name}/chip.yaml",
            field="placement",
        )
    environment = jinja2.Environment(
        variable_start_string="${",
        variable_end_string="}",
        line_statement_prefix="//%",
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    template = (paths.firmware_dir() / "ld" / "tinyrack.ld.j2").read_text(encoding="utf-8")
    return environment.from_string(template).render(
        chip=chip,
        code=code,
        data=data,
        arena=arena,
        arena_apart=arena != data,
        spare=layout.spare,
        hot=layout.hot,
        hot_base=chip.span(hot).base + HOT_RESERVED_BYTES if hot else 0,
        stack_bytes=STACK_RESERVE_BYTES,
        open_bytes=_OPEN_BYTES,
    )


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


def _measure(plan: BuildPlan, layout: _Layout, digest: str, elf: Path, arena_bytes: int, link_map: Path) -> Image:
    sections = _sections(elf)
    chip = plan.chip
    code, data, arena = chip.span(chip.placement.code), chip.span(chip.placement.data), layout.arena
    empty = _Section(address=0, load_address=0, bytes=0)
    loaded = [sections[n] for n in (".text", ".hot", ".rodata", ".ARM.exidx", ".data") if n in sections]
    flash_bytes = max(s.load_address + s.bytes for s in loaded if s.bytes) - code.base
    if flash_bytes > code.bytes:
        raise FlashOverflow(flash_bytes, code.bytes, f"the image for {chip.name}")
    data_bytes = sections[".bss"].end - data.base
    together = arena == data
    needed = sections[".arena"].end - arena.base
    if needed > arena.bytes:
        what = "arena, guard, static data and stack" if together else "arena and guard"
        raise ArenaOverflow(needed, arena.bytes, f"{what} on {chip.name}")
    if data_bytes > data.bytes:
        raise ArenaOverflow(data_bytes, data.bytes, f"static data and stack on {chip.name}")
    return Image(
        elf=elf,
        elf_sha256=hashlib.sha256(elf.read_bytes()).hexdigest(),
        build_digest=digest,
        flash_bytes=flash_bytes,
        model_flash_bytes=_model_bytes(link_map.read_text(encoding="utf-8", errors="replace")),
        text_bytes=sections[".text"].bytes,
        rodata_bytes=sections.get(".rodata", empty).bytes + sections.get(".hot", empty).bytes,
        static_ram_bytes=sections[".bss"].end - sections[".stack"].end,
        arena_bytes=arena_bytes,
        stack_reserve_bytes=STACK_RESERVE_BYTES,
        toolchain=plan.toolchain.description,
        arena_memory="+".join(_touched(chip, layout.arena_memories, sections[".arena"])),
        hot_bytes=sections.get(".hot", empty).bytes,
    )


def _touched(chip: Chip, names: Sequence[str], section: _Section) -> list[str]:
    """Those of the memories that hold a part of the section."""
    memories = [chip.memory(name) for name in names]
    return [m.name for m in memories if m.base < section.end and section.address < m.end]


def _sections(elf: Path) -> dict[str, _Section]:
    with elf.open("rb") as stream:
        parsed = ELFFile(stream)
        segments = [s for s in parsed.iter_segments() if s["p_type"] == "PT_LOAD"]
        out: dict[str, _Section] = {}
        for section in parsed.iter_sections():
            address, size = int(section["sh_addr"]), int(section["sh_size"])
            load = address
            for segment in segments:
                start = int(segment["p_vaddr"])
                if start <= address and address + size <= start + int(segment["p_memsz"]):
                    load = int(segment["p_paddr"]) + address - start
            out[section.name] = _Section(address=address, load_address=load, bytes=size)
        return out


def _model_bytes(link_map: str) -> int:
    """Flash that is not the firmware's: input sections of the model's objects, of archives and of linker stubs."""
    return sum(size for _, size, origin in _contributions(link_map) if not origin.startswith("firmware/"))


_OUTPUT = re.compile(r"^(\.[\w.]+)(?:\s|$)")
_INPUT = re.compile(r"^ \S+\s+0x([0-9a-f]+)\s+0x([0-9a-f]+) (\S.*)$")
_FLASH_SECTIONS = frozenset({".text", ".hot", ".rodata", ".ARM.exidx", ".data"})


def _contributions(link_map: str) -> Iterable[tuple[str, int, str]]:
    """(output section, bytes, object file) of every input section that the linker put into flash."""
    _, _, body = link_map.partition("Linker script and memory map")
    # A long name stands on a line of its own; its numbers follow on the next.
    joined = re.sub(r"^( \.\S+)\n\s+", r"\1 ", body, flags=re.MULTILINE)
    output = ""
    for line in joined.splitlines():
        if head := _OUTPUT.match(line):
            output = head[1]
        elif (found := _INPUT.match(line)) and output in _FLASH_SECTIONS and int(found[2], 16):
            yield output, int(found[2], 16), found[3]
