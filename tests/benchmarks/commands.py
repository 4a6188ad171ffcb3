"""Wall time of the two commands in a fresh clone whose path has a space, after the downloads."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.benchmarks.bench_rows import CHECKOUT, NotMeasured
from tests.benchmarks.figures import figure

DOWNLOAD_TIMEOUT_S = 1800
COMMAND_TIMEOUT_S = 1800


@contextmanager
def _fresh_clone() -> Iterator[tuple[Path, dict[str, str]]]:
    """A clone of what is committed, the shared data beside it, and an environment with empty caches."""
    with tempfile.TemporaryDirectory(prefix="tr") as folder:
        clone = Path(folder) / "fresh clone"
        subprocess.run(["git", "clone", "--quiet", str(CHECKOUT), str(clone)], check=True, timeout=120)
        shared = CHECKOUT.parent / "shared"
        if shared.is_dir():
            (Path(folder) / "shared").symlink_to(shared, target_is_directory=True)
        env = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("TINYRACK_", "VIRTUAL_ENV", "PYTHON"))},
            "XDG_CACHE_HOME": f"{folder}/cache",
            "TINYRACK_RUNTIME_DIR": f"{folder}/run",
            "LC_ALL": "C",
        }
        yield clone, env


def _seconds(what: str) -> float:
    with _fresh_clone() as (clone, env):
        subprocess.run([".ci/bootstrap", what], cwd=clone, env=env, check=True, timeout=DOWNLOAD_TIMEOUT_S)
        start = time.monotonic()
        run = subprocess.run(
            ["make", what],
            cwd=clone,
            env=env,
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
        taken = time.monotonic() - start
    if run.returncode != 0:
        raise NotMeasured(f"make {what} ended with {run.returncode}: {(run.stdout + run.stderr)[-2000:]}")
    return taken


@figure("demo_s", "s", 180, slow=True)
def demo() -> float:
    """`make demo` after its downloads."""
    return _seconds("demo")


@figure("test_s", "s", 720, slow=True)
def test() -> float:
    """`make test` after its downloads."""
    return _seconds("test")
