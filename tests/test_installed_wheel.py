"""Installed use: the wheel holds everything that a bench needs, away from the checkout.

The wheel is built from the unpacked source distribution, so that both are complete, and installed with its real
dependencies in an empty environment.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ENVIRONMENT_S = 240
BENCH_S = 240
_NO_NETWORK = ("NewConnectionError", "Temporary failure in name resolution", "Network is unreachable")


def _hatchling(target: str, source: Path, out: Path) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(out)]
    run = subprocess.run(command, cwd=source, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr
    (built,) = out.glob("*.tar.gz" if target == "sdist" else "*.whl")
    return built


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    sdist = _hatchling("sdist", checkout, folder)
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    return _hatchling("wheel", folder / sdist.name.removesuffix(".tar.gz"), folder)


@pytest.fixture
def runtime_dir() -> Iterator[Path]:
    """Simulated boards of this test alone; short, as a socket's path may not pass 107 bytes."""
    folder = Path(tempfile.mkdtemp(prefix="tr"))
    yield folder
    shutil.rmtree(folder)


def test_the_wheel_holds_firmware_templates_and_simulator_sources(wheel: Path, checkout: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    wanted = {"harness/_data/boards.yaml"}
    for folder, inside in (
        ("harness", "harness"),
        ("tinyengine", "tinyengine"),
        ("firmware", "harness/_data/firmware"),
    ):
        for file in (checkout / folder).rglob("*"):
            if file.is_file() and "__pycache__" not in file.parts:
                wanted.add(f"{inside}/{file.relative_to(checkout / folder).as_posix()}")
    assert not wanted - held
    assert not [name for name in held if name.startswith(("tests/", "results/"))]


def test_an_installed_tinyrack_benchmarks_the_zoo_away_from_the_checkout(
    wheel: Path, tmp_path: Path, runtime_dir: Path
) -> None:
    environment = tmp_path / "an empty environment"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True, timeout=ENVIRONMENT_S)
    python = environment / "bin" / "python"
    install = subprocess.run(
        [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", str(wheel)],
        capture_output=True,
        text=True,
        timeout=ENVIRONMENT_S,
        check=False,
    )
    if install.returncode != 0 and any(sign in install.stderr for sign in _NO_NETWORK):
        pytest.skip("NO NETWORK: the wheel's dependencies cannot be installed, installed use was not checked")
    assert install.returncode == 0, install.stderr

    elsewhere = tmp_path / "some where"
    elsewhere.mkdir()
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "LC_ALL": "C",
        "TINYRACK_RUNTIME_DIR": str(runtime_dir),
    }
    bench = subprocess.run(
        [
            str(environment / "bin" / "tinyrack"),
            *["bench", "zoo:ds-cnn", "--boards", "f746-sim", "--json", "out.json"],
        ],
        cwd=elsewhere,
        env=env,
        capture_output=True,
        text=True,
        timeout=BENCH_S,
        check=False,
    )
    assert bench.returncode == 0, f"{bench.stdout}\n{bench.stderr}"
    (row,) = json.loads((elsewhere / "out.json").read_text())["rows"]
    assert (row["outcome"], row["bit_exact"], row["macs"]) == ("ok", True, 2_656_768)
    assert (elsewhere / "results").is_dir()
    assert (tmp_path / ".cache" / "tinyrack").is_dir()
