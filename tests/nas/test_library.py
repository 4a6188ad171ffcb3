"""The folder for other people's firmware: it builds as it is, and its example classifies."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
from pathlib import Path

import pytest

from nas import network
from nas.data.front_end import FrontEnd
from nas.library import Facts, library
from nas.network import Weights
from nas.space import layout
from tests.nas.tiny import SPACE
from tinyengine.compile import CompileOptions, compile_graph
from tinyengine.kernels.catalogue import Target

FRONT_END = FrontEnd(sample_rate_hz=8000, window=128, hop=64, frames=16, bands=16, high_hz=4000)
FACTS = Facts(name="words", arch="r48", core="C", classes=("yes", 'n"o\n', "?"), lines=("latency: 5 ms",))


def _write(folder: Path, front_end: FrontEnd | None, target: Target) -> list[str]:
    shape = layout(SPACE.skeleton, SPACE.extreme(largest=False))
    compiled = compile_graph(network.graph(shape, Weights.SEEDED), CompileOptions(target=target))
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


def test_the_build_file_names_every_source_but_the_example(tmp_path: Path) -> None:
    names = _write(tmp_path, FRONT_END, Target.M4)
    text = (tmp_path / "CMakeLists.txt").read_text()
    wanted = [n for n in names if n.endswith((".c", ".S")) and n != "example.c"]
    assert wanted and all(f"  {n}\n" in text for n in wanted) and "  example.c\n" not in text
    assert ("C ASM" in text) == any(n.endswith(".S") for n in wanted)
    assert "latency: 5 ms" in (tmp_path / "README.md").read_text()


def test_cmake_accepts_the_folder(tmp_path: Path) -> None:
    if shutil.which("cmake") is None:
        pytest.skip("CMAKE ABSENT: the build file was read by tests only, not by cmake")
    _write(tmp_path, FRONT_END, Target.C)
    for arguments in (("-S", ".", "-B", "build"), ("--build", "build")):
        subprocess.run(["cmake", *arguments], cwd=tmp_path, check=True, timeout=180)


def test_a_front_end_of_another_size_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not fill"):
        _write(tmp_path, dataclasses.replace(FRONT_END, frames=15), Target.C)
