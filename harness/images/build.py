"""BuildPlan -> Image: generated sources and the firmware compiled and linked into an ELF named by its digest.

A plan is a value; equal plans give equal bytes in any folder, and are built once. Nothing is printed. The linker
is given open-ended memories so that it never fails for want of room: what does not fit is found from the
sections' sizes, with both numbers.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from elftools.elf.elffile import ELFFile

from harness.errors import ArenaOverflow, BuildFailed
from harness.images import image
from harness.images.image import Image, Region
from harness.images.layout import OPEN_BYTES, Layout, Sizes, lay_out, linker_script, spare_bytes
from harness.images.objects import compile_objects, locked, run_step
from harness.images.plan import LINK_FLAGS, BuildPlan
from harness.images.pruning import WORK_PREFIX, prune
from tinyengine.sources import Sources


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
    with locked(images / f"{digest}.lock"):
        known = _cached(place, digest)
        if known is not None:
            with contextlib.suppress(PermissionError):
                os.utime(place)  # it was asked for; in a cache of somebody else's it only seems older
            return known
        _prune_once(images)
        shutil.rmtree(place, ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=images, prefix=WORK_PREFIX) as folder:
            return _build(plan, digest, Path(folder), place, cache_dir)


@functools.cache
def _prune_once(images: Path) -> None:
    """Once a process is often enough: a limit of gigabytes is not passed in a day."""
    prune(images, now_s=time.time())


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

    objects = compile_objects(plan, digest, work, generated, cache_dir)
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
    run_step(
        "linking",
        [
            str(plan.toolchain.gcc), *plan.chip.cpu_flags, *LINK_FLAGS,
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
            run_step(f"placing the constants of {name}", [objcopy, *renames, name], work)


def _object_sections(file: Path) -> dict[str, int]:
    """Bytes of an object's sections by name."""
    with file.open("rb") as stream:
        return {s.name: int(s["sh_size"]) for s in ELFFile(stream).iter_sections()}
