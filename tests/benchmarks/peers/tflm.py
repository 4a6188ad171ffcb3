"""A network under TensorFlow Lite Micro's interpreter with CMSIS-NN kernels, built for a simulated STM32.

`python -m tests.benchmarks.peers.tflm MODEL --board B --tflm DIR --cmsis-nn DIR --cmsis DIR --third-party DIR
--out ELF`: the user's checkouts of tensorflow/tflite-micro, CMSIS-NN and CMSIS_5 (or 6), and a folder that holds
`flatbuffers` (of the version that TFLM names), `gemmlowp` and `ruy`. The arena is as large as the interpreter says
it is. The program checks its output against the reference interpreter, every call, byte for byte.
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
from tests.benchmarks.peers import bare_image, cmsis_nn
from tinyengine import reference
from tinyengine.ir import Graph, op_name

DEFAULT_FLAGS = ("-O2",)
"""What TFLM's makefile takes for kernels."""
_CPP = ("-std=c++17", "-fno-rtti", "-fno-exceptions", "-fno-threadsafe-statics", "-fno-use-cxa-atexit")
_DEFINES = ("-DTF_LITE_STATIC_MEMORY", "-DTF_LITE_STRIP_ERROR_STRINGS", "-DTF_LITE_DISABLE_X86_NEON", "-DCMSIS_NN")
_UNIT = 16
_SLACK_BYTES = (64, 512, 2048, 8192)
"""Beyond what it uses in the end: it needs more while it plans. The first that suffices is taken."""
_OPERATORS = {
    "CONV_2D": "AddConv2D", "DEPTHWISE_CONV_2D": "AddDepthwiseConv2D", "FULLY_CONNECTED": "AddFullyConnected",
    "ADD": "AddAdd", "AVERAGE_POOL_2D": "AddAveragePool2D", "RESHAPE": "AddReshape", "SOFTMAX": "AddSoftmax",
    "PAD": "AddPad", "MEAN": "AddMean", "TRANSPOSE": "AddTranspose",
}  # fmt: skip
_KERNELS = ("add", "conv", "depthwise_conv", "fully_connected", "pad", "pooling", "softmax", "transpose")
_COMMON = (*_KERNELS, "reduce", "reshape", "decompress")
_MAIN = """#include <string.h>
#include "tensorflow/lite/micro/micro_interpreter.h"
#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"
#include "tensorflow/lite/schema/schema_generated.h"
alignas(16) static const unsigned char model[] = {%(model)s};
static const signed char given[] = {%(given)s}, right[] = {%(right)s};
alignas(16) static unsigned char arena[%(arena)d];
static tflite::MicroInterpreter *interpreter;
static bool failed;
extern "C" int prepare(void);
extern "C" int check(void);
extern "C" void invoke(void);
extern "C" int prepare(void)
{
    if (interpreter == nullptr) {
        static tflite::MicroMutableOpResolver<%(count)d> resolver;
        %(adds)s
        static tflite::MicroInterpreter made(tflite::GetModel(model), resolver, arena, sizeof arena);
        if (made.AllocateTensors() != kTfLiteOk) return 2;
        interpreter = &made;
        if (%(ask)d) return 3 + (int)((made.arena_used_bytes() + %(unit)d - 1) / %(unit)d);
    }
    memcpy(interpreter->input(0)->data.int8, given, sizeof given);
    return 0;
}
extern "C" __attribute__((noinline)) void invoke(void) { failed = interpreter->Invoke() != kTfLiteOk; }
extern "C" int check(void)
{
    return !failed && memcmp(interpreter->output(0)->data.int8, right, sizeof right) == 0;
}
namespace tflite { void InitializeTarget() {} uint32_t ticks_per_second() { return 0; }
uint32_t GetCurrentTimeTicks() { return 0; } }
extern "C" { void *__dso_handle; void DebugLog(const char *, va_list) {}
int DebugVsnprintf(char *, size_t, const char *, va_list) { return 0; } }
"""


def sources(tflm: Path) -> list[Path]:
    """What the networks here need; the linker drops the rest."""
    lite = tflm / "tensorflow/lite"
    micro = lite / "micro"
    skipped = ("_test", "test_helper", "mock_", "fake_", "debug_log", "micro_time", "system_setup", "recording_")
    found = [p for p in sorted(micro.glob("*.cc")) if not any(word in p.name for word in skipped)]
    for folder in ("arena_allocator", "memory_planner", "tflite_bridge"):
        found += [p for p in sorted((micro / folder).glob("*.cc")) if "_test" not in p.name]
    found += [micro / "kernels" / f"{name}_common.cc" for name in _COMMON]
    found += [
        micro / "kernels" / f"{name}.cc" for name in ("kernel_util", "micro_tensor_utils", "reduce", "reshape")
    ]
    found += [micro / "kernels/cmsis_nn" / f"{name}.cc" for name in _KERNELS]
    for folder in ("core/api", "core/c", "kernels/internal"):
        found += [p for p in sorted((lite / folder).glob("*.cc")) if "_test" not in p.name]
    found += [lite / "kernels/kernel_util.cc", *sorted(lite.glob("*.cc"))]
    found += [tflm / "tensorflow/compiler/mlir/lite/schema/schema_utils.cc"]
    return [p for p in found if p.exists()]


def _text(graph: Graph, model: bytes, given: Sequence[int], right: Sequence[int], *, arena: int, ask: bool) -> str:
    names = sorted({op_name(node.op) for node in graph.nodes})
    return _MAIN % {
        "model": ",".join(map(str, model)),
        "given": ",".join(map(str, given)),
        "right": ",".join(map(str, right)),
        "arena": arena,
        "count": len(names),
        "adds": " ".join(f"resolver.{_OPERATORS[name]}();" for name in names),
        "ask": ask,
        "unit": _UNIT,
    }


def make(
    model: str, out: Path, *, chip: Chip, tflm: Path, nn: Path, cmsis: Path, third_party: Path,
    flags: Sequence[str] = DEFAULT_FLAGS,
) -> None:  # fmt: skip
    """Builds the program with all of the RAM for an arena, then with what it used, and runs it.

    Raises:
        RuntimeError: it does not compile, or its output is not the reference's.
    """
    source = resolve(model)
    graph = source.graph(float_io=False)
    if source.data is None:
        raise RuntimeError(f"{model} is no .tflite file")
    inputs = default_inputs(graph)
    (expected,) = reference.run(graph, inputs)
    given, right = ([int(v) for v in np.asarray(values).ravel()] for values in (inputs[0], expected))
    core = next((p for p in (cmsis / "CMSIS/Core/Include", cmsis) if (p / "cmsis_gcc.h").exists()), cmsis)
    parts = {"flatbuffers": "flatbuffers/include", "gemmlowp": "gemmlowp", "ruy": "ruy"}
    includes = [tflm, nn, nn / "Include", core, *(third_party / part for part in parts.values())]
    with tempfile.TemporaryDirectory(dir=out.parent) as place:
        main, elf = Path(place) / "main.cc", Path(place) / "program.elf"
        arena = bare_image.ram(chip)[1] - bare_image.STACK_BYTES - (8 << 10)
        used = 0
        for slack in (None, *_SLACK_BYTES):
            if slack is not None:
                arena = used + slack
            main.write_text(_text(graph, source.data, given, right, arena=arena, ask=slack is None))
            bare_image.build(
                [main, *sources(tflm), *cmsis_nn.library(nn)], elf, chip=chip, includes=includes,
                flags=[*_DEFINES, *flags], cpp_flags=_CPP,
            )  # fmt: skip
            end, code = cmsis_nn.ran(elf, chip)
            if slack is None:
                if not code or code < 3:
                    raise RuntimeError(f"{model}: {end.value} {code}: the interpreter does not take it")
                used = _UNIT * (code - 3)
            elif code != 2:
                break
        if (end, code) != (End.EXIT, 0):
            raise RuntimeError(f"{model}: {end.value} {code}: the output is not the reference's")
        elf.replace(out)


def _main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--board", required=True, help="a simulated STM32 of boards.yaml")
    parser.add_argument("--tflm", type=Path, required=True)
    parser.add_argument("--cmsis-nn", type=Path, required=True)
    parser.add_argument("--cmsis", type=Path, required=True, help="a checkout of CMSIS_5 or CMSIS_6")
    parser.add_argument("--third-party", type=Path, required=True, help="a folder with flatbuffers, gemmlowp, ruy")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--flags", default=" ".join(DEFAULT_FLAGS))
    given = parser.parse_args()
    chip = load_chip(load_boards().select([given.board])[0].chip)
    make(
        given.model, given.out.absolute(), chip=chip, tflm=given.tflm, nn=given.cmsis_nn, cmsis=given.cmsis,
        third_party=given.third_party, flags=given.flags.split(),
    )  # fmt: skip
    print(f"{given.out}: its output is the reference's, byte for byte")
    return 0


if __name__ == "__main__":
    sys.exit(_main())
