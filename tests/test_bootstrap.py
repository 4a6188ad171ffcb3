"""`.ci/bootstrap` on machines that lack something: it installs what it may, and else says what to type."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = ("sh", "cat", "cksum", "dirname", "id", "rm", "true", "env")


@pytest.fixture
def machine(checkout: Path, tmp_path: Path) -> Path:
    """A checkout in a folder with spaces, and `bin` with just the commonest tools and Python."""
    tree = tmp_path / "a check out"
    (tree / ".ci").mkdir(parents=True)
    shutil.copy(checkout / ".ci" / "bootstrap", tree / ".ci")
    shutil.copy(checkout / "pyproject.toml", tree)
    (tmp_path / "bin").mkdir()
    for tool in TOOLS:
        found = shutil.which(tool)
        assert found is not None
        (tmp_path / "bin" / tool).symlink_to(found)
    _script(tmp_path, "python3", f'exec "{sys.executable}" "$@"')
    return tmp_path


def _script(machine: Path, name: str, body: str) -> None:
    file = machine / "bin" / name
    file.unlink(missing_ok=True)
    file.write_text(f"#!/bin/sh\n{body}\n")
    file.chmod(0o755)


def _bootstrap(machine: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(machine / "a check out" / ".ci" / "bootstrap"), *arguments],
        env={"PATH": str(machine / "bin"), "HOME": str(machine), "LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_without_the_right_to_install_it_says_what_to_type(machine: Path) -> None:
    _script(machine, "id", "echo 1000")
    _script(machine, "apt-get", "echo must not be called; exit 1")
    run = _bootstrap(machine, "demo")
    assert run.returncode == 3
    assert "sudo apt-get update && sudo apt-get install -y" in run.stderr
    assert {"gcc-arm-none-eabi", "libnewlib-arm-none-eabi", "gcc", "libc6-dev"} <= set(run.stderr.split())
    assert "chromium" not in run.stderr
    assert "must not be called" not in run.stdout


def test_as_root_it_installs_exactly_what_is_missing(machine: Path) -> None:
    log = machine / "apt.log"
    _script(machine, "id", "echo 0")
    _script(machine, "apt-get", f'echo "$@" >>"{log}"; [ "$1" = update ] || exit 7')
    run = _bootstrap(machine, "test")
    assert run.returncode == 7  # the stand-in refuses to install, and that is not passed over
    update, install = log.read_text().splitlines()
    assert update.startswith("update")
    assert "gcc-arm-none-eabi" in install
    assert "chromium" in install
    assert "python3-venv" not in install


def test_it_has_nothing_to_do_a_second_time(checkout: Path) -> None:
    if not (checkout / ".venv" / "tinyrack-test.stamp").exists():
        pytest.skip("this checkout was not set up by .ci/bootstrap")
    run = subprocess.run(
        [str(checkout / ".ci" / "bootstrap"), "test"],
        env={**os.environ, "http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (run.returncode, run.stdout) == (0, "")


def test_an_unknown_purpose_is_a_usage_error(machine: Path) -> None:
    assert _bootstrap(machine, "everything").returncode == 2
