"""Generated sources and the firmware to object files; what depends on chip and board alone is compiled once."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from harness import digests, paths
from harness.boards import hse_problem
from harness.errors import BuildFailed, ConfigError
from harness.images.plan import FIRMWARE_FLAGS, FLAGS, FORMAT, BuildPlan, firmware_digest

_STEP_TIMEOUT_S = 300.0
_LOCK_TIMEOUT_S = 600.0
_FIRMWARE_SOURCES = (
    "startup/vectors.S", "startup/start.c", "app/main.c", "runtime/cbor.c", "runtime/crc32.c",
    "runtime/frame.c", "runtime/protocol.c", "drivers/board.c", "drivers/cache.c", "drivers/clock.c",
    "drivers/watermark.c",
)  # fmt: skip
_BENCH = "app/bench.c"


def compile_objects(plan: BuildPlan, digest: str, work: Path, generated: Path, cache_dir: Path) -> list[str]:
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
    wanted = (*FLAGS, *(o for o in options if not o.startswith("-I")))
    digest = digests.of_texts(
        FORMAT, plan.chip.model_dump_json(), plan.toolchain.description, firmware_digest(), *wanted
    )
    kept = cache_dir / "firmware"
    kept.mkdir(parents=True, exist_ok=True)
    place = kept / digest
    parts = plan.chip.firmware
    names = (*_FIRMWARE_SOURCES, *(f"drivers/{name}" for name in (parts.clock, parts.uart, parts.cycles)))
    with locked(kept / f"{place.name}.lock"):
        if not place.is_dir():
            with tempfile.TemporaryDirectory(dir=kept, prefix="build-") as folder:
                work = Path(folder)
                (work / "objects").mkdir()
                command = [*_compiler(plan, work), *options]
                jobs = [(f"objects/{Path(n).stem}.o", [*command, str(paths.firmware_dir() / n)]) for n in names]
                _run_all(jobs, work)
                (work / "objects").rename(place)
    return tuple(place / f"{Path(name).stem}.o" for name in names)


def _compiler(plan: BuildPlan, work: Path) -> list[str]:
    maps = (f"-ffile-prefix-map={work}=.", f"-ffile-prefix-map={paths.firmware_dir()}=firmware")
    return [str(plan.toolchain.gcc), *plan.chip.cpu_flags, *FLAGS, *maps, "-c"]


def _firmware_options(plan: BuildPlan) -> list[str]:
    root = paths.firmware_dir()
    folders = ("drivers", "runtime", f"chips/{plan.chip.firmware.registers}")
    return [*FIRMWARE_FLAGS, *_defines(plan), *(f"-I{root / folder}" for folder in folders)]


def _run_all(jobs: Sequence[tuple[str, list[str]]], work: Path) -> None:
    """Compiles (output, command) pairs, as many at a time as there are cores."""
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        list(pool.map(lambda job: run_step(f"compiling {job[0]}", [*job[1], "-o", job[0]], work), jobs))


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


def run_step(what: str, command: Sequence[str], folder: Path) -> None:
    """Runs a tool.

    Raises:
        BuildFailed: it took too long, or ended with an error; with what it said.
    """
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, timeout=_STEP_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as e:
        raise BuildFailed(what, f"error: no result within {_STEP_TIMEOUT_S:g} s") from e
    if done.returncode != 0:
        raise BuildFailed(what, (done.stderr + done.stdout).decode(errors="replace"))


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Keeps other processes from building the same thing at the same time.

    Raises:
        BuildFailed: one of them takes too long.
    """
    lock = FileLock(file)
    try:
        lock.acquire(timeout=_LOCK_TIMEOUT_S)
    except Timeout as e:
        raise BuildFailed("waiting", f"error: another process has held {file} for {_LOCK_TIMEOUT_S:g} s") from e
    try:
        yield
    finally:
        lock.release()
