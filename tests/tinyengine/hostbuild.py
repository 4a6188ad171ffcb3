"""Builds generated C with the host's gcc and runs it: many models in one executable, one process a run.

What all builders of test programs share (`corebuild.py`, `qemubuild.py`) is here too: the cache and the compiler.

The driver paints the arena with two complementary patterns and runs each model once on either, so that every run
also measures the arena's high-water mark and shows that no output depends on what the arena held before.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tinyengine.compile import Compiled
from tinyengine.ir import Graph
from tinyengine.sources import Sources

WARNINGS = ("-std=c11", "-Wall", "-Wextra", "-Werror", "-Wvla")


class Flavour(Enum):
    """Compiler options beyond warnings."""

    O0 = ("-O0",)
    O1 = ("-O1",)
    O2 = ("-O2",)
    O3 = ("-O3",)
    SANITIZED = ("-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


@dataclass(frozen=True, slots=True, kw_only=True)
class HostRun:
    """Outputs of one inference and the last byte of the arena that was touched, plus one."""

    outputs: tuple[NDArray[Any], ...]
    arena_mark_bytes: int


_DRIVER = """
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
typedef struct { uint32_t offset; uint32_t bytes; } te_io;
@DECLARATIONS@
static const struct {
    uint32_t arena, inputs, outputs, layers;
    const te_io *input, *output;
    void (*invoke)(uint8_t *);
    void (*const *layer)(uint8_t *);
} models[] = {
@MODELS@
};
static void must(int ok, const char *what) { if (!ok) { fprintf(stderr, "driver: %s\\n", what); exit(3); } }
int main(void)
{
    uint32_t m;
    while (fread(&m, 4, 1, stdin) == 1) {
        must(m < sizeof models / sizeof models[0], "model index");
        uint32_t mark = 0, in_bytes = 0, out_bytes = 0;
        for (uint32_t i = 0; i < models[m].inputs; i++) in_bytes += models[m].input[i].bytes;
        for (uint32_t i = 0; i < models[m].outputs; i++) out_bytes += models[m].output[i].bytes;
        uint8_t *in = malloc(in_bytes + 1), *out[2] = {malloc(out_bytes + 1), malloc(out_bytes + 1)};
        uint8_t *arena = malloc(models[m].arena);
        must(in && out[0] && out[1] && arena && (uintptr_t)arena % 16 == 0, "memory");
        must(fread(in, 1, in_bytes, stdin) == in_bytes, "input");
        for (int pass = 0; pass < 2; pass++) {
            const uint8_t paint = pass ? 0x5A : 0xA5;
            memset(arena, paint, models[m].arena);
            uint32_t at = 0;
            for (uint32_t i = 0; i < models[m].inputs; i++) {
                memcpy(arena + models[m].input[i].offset, in + at, models[m].input[i].bytes);
                at += models[m].input[i].bytes;
            }
            if (pass) models[m].invoke(arena);
            else for (uint32_t i = 0; i < models[m].layers; i++) models[m].layer[i](arena);
            at = 0;
            for (uint32_t i = 0; i < models[m].outputs; i++) {
                memcpy(out[pass] + at, arena + models[m].output[i].offset, models[m].output[i].bytes);
                at += models[m].output[i].bytes;
            }
            for (uint32_t i = 0; i < models[m].arena; i++) if (arena[i] != paint && i + 1 > mark) mark = i + 1;
        }
        must(!memcmp(out[0], out[1], out_bytes), "old arena contents matter, or layers differ from invoke");
        fwrite(&mark, 4, 1, stdout);
        fwrite(out[0], 1, out_bytes, stdout);
        free(in); free(out[0]); free(out[1]); free(arena);
    }
    return 0;
}
"""


_KEPT_S = 2 * 24 * 3600.0
"""Programs no run has rebuilt for so long are removed."""


def _cache_dir() -> Path:
    """Where executables of earlier runs lie, by digest."""
    path = Path(tempfile.gettempdir()) / f"tinyrack-hostbuild-{os.getuid()}"
    path.mkdir(mode=0o700, exist_ok=True)
    for program in path.iterdir():
        if program.is_file() and time.time() - program.stat().st_mtime > _KEPT_S:
            program.unlink(missing_ok=True)
    return path


def cached(how: object, models: Sequence[Sources], build: Callable[[Path], Path]) -> Path:
    """What `build` makes of the models in an empty folder, or made of them in an earlier run.

    Args:
        how: everything else that decides the result; its repr is digested.
    """
    h = hashlib.sha256(repr(how).encode())
    for sources in models:
        h.update(sources.digest().encode())
    program = _cache_dir() / h.hexdigest()[:32]
    if program.exists():
        return program
    folder = Path(tempfile.mkdtemp(dir=_cache_dir()))
    try:
        build(folder).replace(program)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return program


def run_compiler(command: Sequence[str | Path], folder: Path) -> None:
    """Runs it there; its complaints fail the test."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        raise AssertionError(f"{command[0]}: {done.stderr[:5000]}")


def write(sources: Sources, folder: Path, prefix: str = "te_", suffixes: tuple[str, ...] = (".c",)) -> list[Path]:
    """Writes the files, with another prefix of all symbols, and answers with those to compile."""
    folder.mkdir(parents=True, exist_ok=True)
    for f in sources.files:
        (folder / f.name).write_text(re.sub(r"\bte_", prefix, f.text))
    return [folder / f.name for f in sources.files if f.name.endswith(suffixes)]


ARM_GCC = "arm-none-eabi-gcc"
_MOST_OPTIMIZED = 4


def arm_level(models: Sequence[Sources]) -> str:
    """Firmware is built with -O2; many small models are about kernels, and gcc's time is most of theirs."""
    return "-O2" if len(models) <= _MOST_OPTIMIZED else "-O1"


def arm_objects(models: Sequence[Sources], flags: Sequence[str], folder: Path) -> list[Path]:
    """The models' objects for a core, all symbols of model `i` with the prefix ``m<i>_``."""
    objects: list[Path] = []
    for i, sources in enumerate(models):
        # Two models' files have the same names, and objects are written where gcc runs.
        files = write(sources, folder / f"m{i}", f"m{i}_", (".c", ".S"))
        run_compiler([ARM_GCC, *WARNINGS, *flags, "-c", *files], folder / f"m{i}")
        objects += [f.with_suffix(".o") for f in files]
    return objects


class HostBatch:
    """Several models in one executable."""

    def __init__(self, models: Sequence[Compiled], flavour: Flavour) -> None:
        self._models = tuple(models)
        self._program = _build(tuple(m.sources for m in models), flavour)

    def run(self, requests: Sequence[tuple[int, Sequence[NDArray[Any]]]]) -> list[HostRun]:
        """Runs `(model index, inputs)` requests in order."""
        stream = b"".join(
            struct.pack("<I", index) + b"".join(np.ascontiguousarray(x).tobytes() for x in inputs)
            for index, inputs in requests
        )
        done = subprocess.run([self._program], input=stream, capture_output=True, timeout=300, check=False)
        if done.returncode:
            raise AssertionError(f"host program ended with {done.returncode}: {done.stderr.decode()[-3000:]}")
        runs = []
        at = 0
        for index, _ in requests:
            (mark,) = struct.unpack_from("<I", done.stdout, at)
            outputs, size = parse_outputs(self._models[index].graph, done.stdout[at + 4 :])
            at += 4 + size
            runs.append(HostRun(outputs=outputs, arena_mark_bytes=mark))
        return runs


def parse_outputs(graph: Graph, blob: bytes) -> tuple[tuple[NDArray[Any], ...], int]:
    """Splits concatenated outputs; also how many bytes they took."""
    outputs = []
    at = 0
    for t in graph.outputs:
        tensor = graph.tensors[t]
        flat = np.frombuffer(blob, dtype=tensor.dtype.value, count=tensor.elements, offset=at)
        outputs.append(flat.reshape(tensor.shape))
        at += tensor.size_bytes
    return tuple(outputs), at


def _build(sources: tuple[Sources, ...], flavour: Flavour) -> Path:
    if shutil.which("gcc") is None:
        pytest.skip("GCC ABSENT: generated C was not built; install gcc")
    how = ("gcc", *WARNINGS, *flavour.value)
    return cached((how, _DRIVER), sources, lambda folder: _built(sources, how, folder))


def _built(sources: tuple[Sources, ...], how: tuple[str, ...], folder: Path) -> Path:
    files: list[Path] = []
    declarations, models = [], []
    for i, s in enumerate(sources):
        files += write(s, folder / f"m{i}", f"m{i}_")
        header = s.text("model.h")
        arena, layers, inputs, outputs = (
            re.search(rf"#define TE_{word} (\d+)u", header)[1]  # type: ignore[index]
            for word in ("ARENA_BYTES", "LAYER_COUNT", "INPUT_COUNT", "OUTPUT_COUNT")
        )
        declarations.append(
            f"extern const te_io m{i}_inputs[], m{i}_outputs[]; void m{i}_invoke(uint8_t *); "
            f"extern void (*const m{i}_layers[])(uint8_t *);"
        )
        sizes = f"{arena}, {inputs}, {outputs}, {layers}"
        models.append(f"    {{{sizes}, m{i}_inputs, m{i}_outputs, m{i}_invoke, m{i}_layers}},")
    text = _DRIVER.replace("@DECLARATIONS@", "\n".join(declarations)).replace("@MODELS@", "\n".join(models))
    (folder / "driver.c").write_text(text)
    run_compiler([*how, *files, "driver.c", "-o", "program"], folder)
    return folder / "program"
