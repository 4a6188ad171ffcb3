"""The folder for other people's firmware: it builds as it is, and its example classifies."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from nas import network
from nas.data.front_end import FrontEnd
from nas.library import Facts, library
from nas.network import Weights
from nas.space import layout
from tests.nas.tiny import SPACE
from tinyengine import reference
from tinyengine.compile import CompileOptions, compile_graph
from tinyengine.ir import Graph
from tinyengine.kernels.catalogue import Target

FRONT_END = FrontEnd(sample_rate_hz=8000, window=128, hop=64, frames=16, bands=16, high_hz=4000)
FACTS = Facts(
    name="words",
    arch="r48",
    core="cortex-m7",
    cpu_flags=("-mcpu=cortex-m7", "-mthumb", "-mfpu=fpv5-sp-d16", "-mfloat-abi=hard"),
    classes=("yes", 'n"o\n', "?"),
    lines=("latency: 5 ms",),
)


def _graph() -> Graph:
    return network.graph(layout(SPACE.skeleton, SPACE.extreme(largest=False)), Weights.SEEDED)


def _write(folder: Path, front_end: FrontEnd | None, target: Target) -> list[str]:
    compiled = compile_graph(_graph(), CompileOptions(target=target))
    files = library(compiled, FACTS, front_end).files
    for file in files:
        (folder / file.name).write_text(file.text)
    return [f.name for f in files]


@pytest.mark.parametrize("front_end", [FRONT_END, None], ids=["audio", "pixels"])
def test_the_example_builds_and_names_a_class(front_end: FrontEnd | None, tmp_path: Path) -> None:
    if shutil.which("gcc") is None:
        pytest.skip("GCC ABSENT: the example was not built; install gcc")
    names = _write(tmp_path, front_end, Target.C)
    sources = [n for n in names if n.endswith(".c")]
    flags = ("-std=c11", "-O1", "-Wall", "-Wextra", "-Werror", "-fsanitize=address,undefined")
    subprocess.run(["gcc", *flags, *sources, "-o", "example"], cwd=tmp_path, check=True, timeout=120)
    done = subprocess.run([tmp_path / "example"], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split(" (score")[0] in {"yes", "n_o_", "_"}


@pytest.mark.parametrize("front_end", [FRONT_END, None], ids=["audio", "pixels"])
def test_a_firmware_in_cpp_links_with_it(front_end: FrontEnd | None, tmp_path: Path) -> None:
    if shutil.which("g++") is None:
        pytest.skip("G++ ABSENT: the library was not linked with C++; install g++")
    sources = [n for n in _write(tmp_path, front_end, Target.C) if n.endswith(".c") and n != "example.c"]
    sound = "static int16_t s[TE_FRONT_END_SAMPLES]; static te_front_end_scratch scratch; static int8_t x[1024];"
    call = "" if front_end is None else f"{sound} te_front_end(s, TE_FRONT_END_SAMPLES, x, &scratch);"
    (tmp_path / "application.cpp").write_text(
        '#include "tinyrack_model.h"\nalignas(16) static uint8_t arena[TE_ARENA_BYTES];\n'
        f"int main() {{ {call} te_invoke(arena); return te_outputs[0].bytes == 3 ? 0 : 1; }}\n"
    )
    subprocess.run(["gcc", "-std=c11", "-c", *sources], cwd=tmp_path, check=True, timeout=120)
    objects = [n.replace(".c", ".o") for n in sources]
    flags = ("-std=c++17", "-Wall", "-Wextra", "-Werror")
    subprocess.run(["g++", *flags, "application.cpp", *objects, "-o", "it"], cwd=tmp_path, check=True, timeout=120)
    subprocess.run([tmp_path / "it"], timeout=60, check=True)


def test_the_build_file_names_every_source_but_the_example(tmp_path: Path) -> None:
    names = _write(tmp_path, FRONT_END, Target.M4)
    text = (tmp_path / "CMakeLists.txt").read_text()
    wanted = [n for n in names if n.endswith(".c") and n not in ("example.c", "model_kernels.c")]
    assert wanted and all(f"  {n}\n" in text for n in wanted)
    assert all(f"PRIVATE {n})" in text for n in ("model_kernels.S", "model_kernels.c"))
    assert "latency: 5 ms" in (tmp_path / "README.md").read_text()


def test_a_folder_without_assembly_needs_no_assembler(tmp_path: Path) -> None:
    assert not {"model_kernels.S", "model_kernels.c"} & {*_write(tmp_path, None, Target.C)}
    assert "ASM" not in (tmp_path / "CMakeLists.txt").read_text()


@pytest.mark.parametrize("target", [Target.M7, Target.M55], ids=lambda t: t.value)
def test_the_folder_of_a_core_builds_here_and_answers_as_the_reference(target: Target, tmp_path: Path) -> None:
    """`example.c` without a front end asks about zeros."""
    _cmake(tmp_path, None, target)
    done = subprocess.run([tmp_path / "build" / "example"], capture_output=True, text=True, timeout=60, check=True)
    graph = _graph()
    scores = reference.run(graph, [np.zeros(graph.tensors[graph.inputs[0]].shape, np.int8)])[0].ravel()
    classes = ("yes", "n_o_", "_")
    assert done.stdout == f"{classes[int(scores.argmax())]} (score {scores.max()})\n"


def test_the_folder_builds_for_its_core(tmp_path: Path) -> None:
    if shutil.which("arm-none-eabi-gcc") is None:
        pytest.skip("CROSS COMPILER ABSENT: install gcc-arm-none-eabi")
    _cmake(tmp_path, FRONT_END, Target.M7, "-DCMAKE_TOOLCHAIN_FILE=arm-none-eabi.cmake")
    listed = subprocess.run(
        ["arm-none-eabi-nm", "build/libtinyrack_model.a"], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    assert " T te_invoke" in listed and " T te_front_end" in listed and "__m7_0" in listed


_PROJECT = """cmake_minimum_required(VERSION 3.16)
project(firmware C)
add_compile_options({flags})
add_subdirectory(model)
"""


@pytest.mark.parametrize(
    ("target", "flags", "wanted"),
    [
        (Target.M7, "-mcpu=cortex-m7 -mthumb -mfloat-abi=hard", "model_kernels.S"),
        (Target.M4, "-mcpu=cortex-m4 -mthumb -mfloat-abi=softfp", "model_kernels.S"),
        (Target.M55, "-mcpu=cortex-m55 -mthumb -mfloat-abi=hard", "model_kernels.S"),
        (Target.M7, "-mcpu=cortex-m7 -mthumb", "model_kernels.c"),
        (Target.M55, "-mcpu=cortex-m7 -mthumb -mfloat-abi=hard", "model_kernels.c"),
    ],
    ids=lambda value: str(getattr(value, "value", value)),
)
def test_a_project_without_a_toolchain_file_gets_the_kernels_that_its_core_can_run(
    target: Target, flags: str, wanted: str, tmp_path: Path
) -> None:
    """Nothing says that it is cross-compiling but its compiler; M4's and M7's kernels need registers of an FPU."""
    if shutil.which("arm-none-eabi-gcc") is None:
        pytest.skip("CROSS COMPILER ABSENT: install gcc-arm-none-eabi")
    (tmp_path / "model").mkdir()
    _write(tmp_path / "model", None, target)
    (tmp_path / "CMakeLists.txt").write_text(_PROJECT.format(flags=flags))
    said = _configured(
        tmp_path, "-DCMAKE_C_COMPILER=arm-none-eabi-gcc", "-DCMAKE_EXE_LINKER_FLAGS=--specs=nosys.specs"
    )
    assert f"-- tinyrack_model: {wanted}," in said
    built = subprocess.run(
        ["cmake", "--build", "build"], cwd=tmp_path, capture_output=True, text=True, timeout=180, check=False
    )
    assert built.returncode == 0, built.stdout + built.stderr


def _configured(folder: Path, *arguments: str) -> str:
    """What CMake said."""
    if shutil.which("cmake") is None:
        pytest.skip("CMAKE ABSENT: the build file was read by tests only, not by cmake")
    done = subprocess.run(
        ["cmake", "-S", ".", "-B", "build", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _cmake(folder: Path, front_end: FrontEnd | None, target: Target, *arguments: str) -> None:
    if shutil.which("cmake") is None:
        pytest.skip("CMAKE ABSENT: the build file was read by tests only, not by cmake")
    _write(folder, front_end, target)
    for words in (("-S", ".", "-B", "build", *arguments), ("--build", "build")):
        done = subprocess.run(
            ["cmake", *words], cwd=folder, capture_output=True, text=True, timeout=180, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_a_front_end_of_another_size_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not fill"):
        _write(tmp_path, dataclasses.replace(FRONT_END, frames=15), Target.C)
