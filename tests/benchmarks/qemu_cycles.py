"""Two engines under one timing model: how far QEMU's cycles are from the virtual STM32s', memory ideal."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.benchmarks.bench_rows import CHECKOUT, MODELS, TIMEOUT_S, NotMeasured
from tests.benchmarks.figures import figure

PAIRS = (("qemu-m4", "f412-sim"), ("qemu-m7", "f746-sim"))


@figure("sim_qemu_cycle_difference_percent", "%", 0.1)
def difference() -> float:
    """The largest over the five models of the shared data and both cores; outputs must be identical."""
    models = CHECKOUT.parent / "shared" / "models"
    if not models.is_dir():
        raise NotMeasured("the folder 'shared' is not beside the checkout")
    boards = [board for pair in PAIRS for board in pair]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "rows.json"
        command = [sys.executable, "-m", "harness.cli.main", "bench", *(str(models / f) for f in MODELS.values())]
        command += ["--boards", ",".join(boards), "--memory", "ideal", "--json", str(out), "--results", folder]
        subprocess.run(command, cwd=CHECKOUT, check=False, capture_output=True, timeout=TIMEOUT_S)
        if not out.exists():
            raise NotMeasured("tinyrack bench printed no rows")
        rows = json.loads(out.read_text())["rows"]
    found = {(row["model"], row["board"]): row for row in rows}
    largest = 0.0
    for model in {row["model"] for row in rows}:
        for ours, other in PAIRS:
            a, b = found[model, ours], found[model, other]
            if a["outcome"] != "ok" or b["outcome"] != "ok" or a["output_sha256"] != b["output_sha256"]:
                raise NotMeasured(f"{model} on {ours} and {other}: {a['error'] or b['error'] or 'outputs differ'}")
            largest = max(largest, 100 * abs(a["cycles"] - b["cycles"]) / b["cycles"])
            print(f"{model}: {ours} {a['cycles']:,}, {other} {b['cycles']:,}", file=sys.stderr)
    return largest
