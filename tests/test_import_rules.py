"""The arrows between packages are held by import-linter; a wrong import must fail the lint step."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def _lint(tree: Path) -> subprocess.CompletedProcess[str]:
    program = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    return subprocess.run(
        [sys.executable, "-c", program], cwd=tree, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture
def tree(checkout: Path, tmp_path: Path) -> Path:
    """A copy of the packages, to be spoilt."""
    shutil.copy(checkout / "pyproject.toml", tmp_path)
    for package in ("tinyengine", "nas", "harness"):
        shutil.copytree(checkout / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_the_packages_keep_the_rules(tree: Path) -> None:
    run = _lint(tree)
    assert run.returncode == 0, run.stdout


@pytest.mark.parametrize(
    ("package", "line", "contract"),
    [
        ("tinyengine", "import harness.errors", "never the other way"),
        ("tinyengine", "import nas.space", "never the other way"),
        ("nas", "import harness.errors", "never the other way"),
        ("tinyengine", "import serial", "the compiler knows no board"),
        ("tinyengine", "import nas.arch", "never the other way"),
        ("nas", "import harness.errors", "never the other way"),
        ("nas", "import serial", "the search knows no board"),
    ],
)
def test_a_wrong_import_is_refused(tree: Path, package: str, line: str, contract: str) -> None:
    (tree / package / "spoilt.py").write_text(f"{line}\n")
    run = _lint(tree)
    assert run.returncode != 0
    assert f"{contract}" in run.stdout.replace("\n", " ")
    assert "BROKEN" in run.stdout
