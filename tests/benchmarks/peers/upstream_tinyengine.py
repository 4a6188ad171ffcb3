"""A network as the published TinyEngine (mit-han-lab) generates it, built for a simulated STM32.

`python -m tests.benchmarks.peers.upstream_tinyengine MODEL --board B --tinyengine DIR --generated DIR --cmsis DIR
--out ELF`: the user's checkout, the folder `codegen` that its `GenerateSourceFilesFromTFlite` wrote (with numpy
below 2), and CMSIS_5 at the commit of its submodule. Its float requantization is not exact: the program compares
its output with the reference within some steps.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from harness.boards_file import load_boards
from harness.chips import Chip, load_chip
from harness.job import default_inputs
from harness.models import resolve
from harness.sim.execution import End
from tests.benchmarks.peers import bare_image
from tests.benchmarks.peers.cmsis_nn import ran
from tinyengine import reference

DEFAULT_FLAGS = ("-Ofast",)
"""What the CubeIDE project of its tutorial takes."""
STEPS = 8
_MAIN = """#include <stdlib.h>
#include <string.h>
#include "genNN.h"
static const signed char given[] = {%s}, right[] = {%s};
int prepare(void) { memcpy(getInput(), given, sizeof given); return 0; }
int check(void)
{
    for (unsigned n = 0; n < sizeof right; n++)
        if (abs(getOutput()[n] - right[n]) > %d) return 0;
    return 1;
}
"""


def make(
    model: str, out: Path, *, chip: Chip, tinyengine: Path, generated: Path, cmsis: Path,
    flags: Sequence[str] = DEFAULT_FLAGS, steps: int = STEPS,
) -> None:  # fmt: skip
    """Builds the program and runs it once.

    Args:
        steps: how far an output may be from the reference's.

    Raises:
        RuntimeError: it does not compile, or an output is farther off.
    """
    graph = resolve(model).graph(float_io=False)
    inputs = default_inputs(graph)
    (expected,) = reference.run(graph, inputs)
    numbers = [",".join(str(int(v)) for v in np.asarray(values).ravel()) for values in (inputs[0], expected)]
    kernels = tinyengine / "TinyEngine/src/kernels"
    sources = sorted(p for kind in ("int_forward_op", "fp_requantize_op") for p in (kernels / kind).glob("*.c"))
    sources += sorted((generated / "Source").glob("*.c"))
    sources += sorted(p for p in (cmsis / "CMSIS/NN/Source").rglob("*.c"))
    includes = [generated / "Include", tinyengine / "TinyEngine/include", cmsis / "CMSIS/NN/Include"]
    includes += [cmsis / "CMSIS/Core/Include", cmsis / "CMSIS/DSP/Include"]
    with tempfile.TemporaryDirectory(dir=out.parent) as place:
        source, elf = Path(place) / "main.c", Path(place) / "program.elf"
        source.write_text(_MAIN % (*numbers, steps))
        bare_image.build([source, *sources], elf, chip=chip, includes=includes, flags=flags)
        end, code = ran(elf, chip)
        if (end, code) != (End.EXIT, 0):
            raise RuntimeError(f"{model}: {end.value} {code}: the output is more than {steps} steps off")
        elf.replace(out)


def _main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--board", required=True, help="a simulated STM32 of boards.yaml")
    parser.add_argument("--tinyengine", type=Path, required=True)
    parser.add_argument("--generated", type=Path, required=True, help="the folder `codegen`")
    parser.add_argument("--cmsis", type=Path, required=True, help="CMSIS_5 at the submodule's commit")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--flags", default=" ".join(DEFAULT_FLAGS))
    parser.add_argument("--steps", type=int, default=STEPS)
    given = parser.parse_args()
    chip = load_chip(load_boards().select([given.board])[0].chip)
    make(
        given.model, given.out.absolute(), chip=chip, tinyengine=given.tinyengine, generated=given.generated,
        cmsis=given.cmsis, flags=given.flags.split(), steps=given.steps,
    )  # fmt: skip
    print(f"{given.out}: its output is within {given.steps} steps of the reference's")
    return 0


if __name__ == "__main__":
    sys.exit(_main())
