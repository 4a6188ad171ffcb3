"""A network as calls of Arm's CMSIS-NN, without an interpreter: the least that its users pay.

`python -m tests.benchmarks.peers.cmsis_nn MODEL --board B --cmsis-nn DIR --cmsis DIR --out ELF`, with DIR the
user's checkouts of ARM-software/CMSIS-NN and CMSIS_5 (or 6). Nothing of them is in this project. The program
checks its output against the reference interpreter, every call, byte for byte.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness.boards_file import load_boards
from harness.chips import Chip, load_chip
from harness.job import default_inputs
from harness.models import resolve
from harness.sim.execution import End, Limits
from harness.sim.profile import run_elf
from harness.sim.wiring import Wiring
from tests.benchmarks.peers import bare_image
from tinyengine import lowering, reference
from tinyengine.fixedpoint import quantize_multiplier
from tinyengine.ir import (
    Add,
    AveragePool2D,
    Clamp,
    Conv2D,
    DepthwiseConv2D,
    FullyConnected,
    Graph,
    Mean,
    Node,
    Pad,
    Reshape,
    Softmax,
    Transpose,
    op_name,
)

DEFAULT_FLAGS = ("-Ofast",)
"""What CMSIS-NN's own CMake file takes."""
_SCRATCH_UNIT = 16
_LIMIT_S = 300.0
_ALIGN = 16


class _Writer:
    """C text of one network. Buffers are placed by first fit over their lifetimes."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.constants: list[str] = []
        self.calls: list[str] = []
        self.sizes: list[str] = []
        self._aliases: dict[int, int] = {}
        for node in graph.nodes:
            if isinstance(node.op, Reshape):
                self._aliases[node.outputs[0]] = node.inputs[0]
        self.offsets, self.arena_bytes = _places(graph, self._root)
        for number, node in enumerate(graph.nodes):
            self._call(number, node)

    def _root(self, tensor: int) -> int:
        while tensor in self._aliases:
            tensor = self._aliases[tensor]
        return tensor

    def at(self, tensor: int) -> str:
        return f"(arena + {self.offsets[self._root(tensor)]})"

    def _array(self, name: str, kind: str, values: Sequence[int]) -> str:
        self.constants.append(f"static const {kind} {name}[{len(values)}] = {{{','.join(map(str, values))}}};")
        return name

    def _weights(self, number: int, node: Node) -> tuple[str, str]:
        tensors = self.graph.tensors
        data = tensors[node.inputs[1]].data
        assert data is not None
        weights = self._array(f"w{number}", "int8_t", [int(v) for v in data.ravel()])
        bias = "NULL"
        if len(node.inputs) > 2 and (held := tensors[node.inputs[2]].data) is not None:
            bias = self._array(f"b{number}", "int32_t", [int(v) for v in held.ravel()])
        return weights, bias

    def _call(self, number: int, node: Node) -> None:
        match node.op:
            case Conv2D() | DepthwiseConv2D():
                self._convolution(number, node, node.op)
            case FullyConnected(clamp=clamp):
                self._dense(number, node, clamp)
            case Add(clamp=clamp):
                p = lowering.add_parameters(self.graph, node)
                a, b, out = p.multiplier_a, p.multiplier_b, p.multiplier_out
                size = self.graph.tensors[node.outputs[0]].elements
                self._check(
                    f"arm_elementwise_add_s8({self.at(node.inputs[0])}, {self.at(node.inputs[1])}, "
                    f"{-p.zero_point_a}, {a.multiplier}, {a.shift}, {-p.zero_point_b}, {b.multiplier}, {b.shift}, "
                    f"{p.left_shift}, {self.at(node.outputs[0])}, {p.zero_point_out}, {out.multiplier}, "
                    f"{out.shift}, {clamp.low}, {clamp.high}, {size})"
                )
            case AveragePool2D() as op:
                self._pool(number, node, op)
            case Softmax(beta=beta):
                self._softmax(node, beta)
            case Pad() as op:
                self._pad(node, op)
            case Mean() as op:
                self._mean(node, op)
            case Transpose(permutation=order):
                self._transpose(node, order)
            case Reshape():
                pass
            case _:
                raise ValueError(f"{op_name(node.op)} is not written here")

    def _shape(self, tensor: int) -> tuple[int, ...]:
        shape = self.graph.tensors[tensor].shape
        return (1,) * (4 - len(shape)) + shape

    def _dims(self, number: int, kind: str, shape: Sequence[int]) -> str:
        name = f"d{number}{kind}"
        self.constants.append(f"static const cmsis_nn_dims {name} = {{{','.join(map(str, shape))}}};")
        return name

    def _check(self, call: str) -> None:
        self.calls.append(f"if ({call} != ARM_CMSIS_NN_SUCCESS) failed = 1;")

    def _zero_points(self, node: Node) -> tuple[int, int]:
        x, y = (lowering.quant_params(self.graph.tensors[t]) for t in (node.inputs[0], node.outputs[0]))
        return x.zero_point, y.zero_point

    def _multipliers(self, number: int, node: Node, count: int) -> str:
        found = lowering.conv_multipliers(self.graph, node)
        found = found * count if len(found) == 1 else found
        m = self._array(f"m{number}", "int32_t", [one.multiplier for one in found])
        s = self._array(f"s{number}", "int32_t", [one.shift for one in found])
        name = f"q{number}"
        self.constants.append(
            f"static const cmsis_nn_per_channel_quant_params {name} = {{(int32_t *){m}, (int32_t *){s}}};"
        )
        return name

    def _convolution(self, number: int, node: Node, op: Conv2D | DepthwiseConv2D) -> None:
        weights, bias = self._weights(number, node)
        shape_in, shape_out = self._shape(node.inputs[0]), self._shape(node.outputs[0])
        kernel = self.graph.tensors[node.inputs[1]].shape
        zero_in, zero_out = self._zero_points(node)
        depthwise = isinstance(op, DepthwiseConv2D)
        multiplier = f"{op.multiplier}," if isinstance(op, DepthwiseConv2D) else ""
        kind = "dw_conv" if depthwise else "conv"
        self.constants.append(
            f"static const cmsis_nn_{kind}_params p{number} = {{{-zero_in},{zero_out},{multiplier}"
            f"{{{op.stride[1]},{op.stride[0]}}},{{{op.padding.left},{op.padding.top}}},"
            f"{{{op.dilation[1]},{op.dilation[0]}}},{{{op.clamp.low},{op.clamp.high}}}}};"
        )
        quant = self._multipliers(number, node, shape_out[3])
        i, f, o = (self._dims(number, k, s) for k, s in (("i", shape_in), ("f", kernel), ("o", shape_out)))
        b = self._dims(number, "b", (1, 1, 1, shape_out[3]))
        function = "arm_depthwise_conv_wrapper_s8" if depthwise else "arm_convolve_wrapper_s8"
        self.sizes.append(f"{function}_get_buffer_size(&p{number}, &{i}, &{f}, &{o})")
        self._check(
            f"{function}(&context, &p{number}, &{quant}, &{i}, {self.at(node.inputs[0])}, &{f}, {weights}, &{b}, "
            f"{bias}, &{o}, {self.at(node.outputs[0])})"
        )

    def _dense(self, number: int, node: Node, clamp: Clamp) -> None:
        weights, bias = self._weights(number, node)
        rows, columns = self.graph.tensors[node.inputs[1]].shape
        zero_in, zero_out = self._zero_points(node)
        self.constants.append(
            f"static const cmsis_nn_fc_params p{number} = "
            f"{{{-zero_in},0,{zero_out},{{{clamp.low},{clamp.high}}}}};"
        )
        found = lowering.conv_multipliers(self.graph, node)
        batches = self.graph.tensors[node.inputs[0]].elements // columns
        if len(set(found)) == 1:
            self.constants.append(
                f"static const cmsis_nn_per_tensor_quant_params q{number} = "
                f"{{{found[0].multiplier},{found[0].shift}}};"
            )
            quant, function = f"q{number}", "arm_fully_connected_s8"
        else:
            quant, function = self._multipliers(number, node, rows), "arm_fully_connected_per_channel_s8"
        i = self._dims(number, "i", (batches, 1, 1, columns))
        f = self._dims(number, "f", (columns, 1, 1, rows))
        b = self._dims(number, "b", (1, 1, 1, rows))
        o = self._dims(number, "o", (batches, 1, 1, rows))
        self.sizes.append(f"arm_fully_connected_s8_get_buffer_size(&{f})")
        self._check(
            f"{function}(&context, &p{number}, &{quant}, &{i}, {self.at(node.inputs[0])}, &{f}, {weights}, &{b}, "
            f"{bias}, &{o}, {self.at(node.outputs[0])})"
        )

    def _pool(self, number: int, node: Node, op: AveragePool2D) -> None:
        shape_in, shape_out = self._shape(node.inputs[0]), self._shape(node.outputs[0])
        self.constants.append(
            f"static const cmsis_nn_pool_params p{number} = {{{{{op.stride[1]},{op.stride[0]}}},"
            f"{{{op.padding.left},{op.padding.top}}},{{{op.clamp.low},{op.clamp.high}}}}};"
        )
        i, o = self._dims(number, "i", shape_in), self._dims(number, "o", shape_out)
        f = self._dims(number, "f", (1, *op.kernel, 1))
        self.sizes.append(f"arm_avgpool_s8_get_buffer_size({shape_out[2]}, {shape_in[3]})")
        self._check(
            f"arm_avgpool_s8(&context, &p{number}, &{i}, {self.at(node.inputs[0])}, &{f}, &{o}, "
            f"{self.at(node.outputs[0])})"
        )

    def _softmax(self, node: Node, beta: float) -> None:
        """Scaling as TFLite Micro prepares it: 5 integer bits."""
        tensor = self.graph.tensors[node.inputs[0]]
        real = min(beta * lowering.quant_params(tensor).scale * (1 << 26), (1 << 31) - 1.0)
        m = quantize_multiplier(real)
        radius = math.floor(31 * (1 << 26) / (1 << m.shift))
        row = tensor.shape[-1]
        self.calls.append(
            f"arm_softmax_s8({self.at(node.inputs[0])}, {tensor.elements // row}, {row}, {m.multiplier}, "
            f"{m.shift}, {-radius}, {self.at(node.outputs[0])});"
        )

    def _pad(self, node: Node, op: Pad) -> None:
        """Rows copied into a filled map: CMSIS-NN has a function for it since 2024 only."""
        (_, _, width, channels), (_, _, wide, _) = self._shape(node.inputs[0]), self._shape(node.outputs[0])
        rows = self._shape(node.inputs[0])[1]
        (_, _), (top, _), (left, _), (_, _) = op.paddings
        x, y = self.at(node.inputs[0]), self.at(node.outputs[0])
        self.calls.append(
            f"memset({y}, {op.value}, {self.graph.tensors[node.outputs[0]].elements}); "
            f"for (int row = 0; row < {rows}; row++) memcpy({y} + ((row + {top}) * {wide} + {left}) * {channels}, "
            f"{x} + row * {width * channels}, {width * channels});"
        )

    def _mean(self, node: Node, op: Mean) -> None:
        """CMSIS-NN has none; TFLite Micro's formula in plain C."""
        shape = self.graph.tensors[node.inputs[0]].shape
        p = lowering.mean_parameters(self.graph, node)
        kept = [d for d in range(len(shape)) if d not in op.axes]
        strides = [math.prod(shape[d + 1 :]) for d in range(len(shape))]
        x, y = self.at(node.inputs[0]), self.at(node.outputs[0])
        lines, opened = ["{ int8_t *to = " + y + ";"], 0
        index = []
        for d in kept:
            lines.append(f"for (int i{d} = 0; i{d} < {shape[d]}; i{d}++) {{")
            index.append(f"i{d} * {strides[d]}")
            opened += 1
        lines.append("int32_t sum = 0;")
        for d in op.axes:
            lines.append(f"for (int i{d} = 0; i{d} < {shape[d]}; i{d}++)")
            index.append(f"i{d} * {strides[d]}")
        lines.append(f"sum += {x}[{' + '.join(index)}];")
        lines.append(
            f"int32_t v = arm_nn_requantize(sum - {p.count * p.zero_point_in}, {p.multiplier.multiplier}, "
            f"{p.multiplier.shift}) + {p.zero_point_out};"
        )
        lines.append("*to++ = (int8_t)(v < -128 ? -128 : v > 127 ? 127 : v);" + "}" * opened + "}")
        self.calls.append("\n    ".join(lines))

    def _transpose(self, node: Node, order: tuple[int, ...]) -> None:
        shape = self.graph.tensors[node.inputs[0]].shape
        strides = [math.prod(shape[d + 1 :]) for d in range(len(shape))]
        loops = "".join(f"for (int i{n} = 0; i{n} < {shape[d]}; i{n}++) " for n, d in enumerate(order))
        index = " + ".join(f"i{n} * {strides[d]}" for n, d in enumerate(order))
        self.calls.append(
            f"{{ int8_t *to = {self.at(node.outputs[0])}; {loops}*to++ = {self.at(node.inputs[0])}[{index}]; }}"
        )

    def text(self, values: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> str:
        """The whole file, without the scratch buffer, whose size the library knows."""
        inputs, outputs = self.graph.inputs, self.graph.outputs
        given = self._array("given", "int8_t", [int(v) for v in values.ravel()])
        right = self._array("right", "int8_t", [int(v) for v in expected.ravel()])
        sizes = "\n    ".join(f"size = {one}; if (size > most) most = size;" for one in self.sizes)
        calls = "\n    ".join(self.calls)
        constants = "\n".join(self.constants)
        return f"""#include <string.h>
#include "arm_nnfunctions.h"
#include "arm_nnsupportfunctions.h"
static int8_t arena[{self.arena_bytes}] __attribute__((aligned(16)));
extern int8_t scratch[];
extern const int32_t scratch_bytes;
static const cmsis_nn_context context = {{scratch, 0}};
static int failed;
{constants}
int prepare(void)
{{
    int32_t size, most = 0;
    {sizes}
    memcpy({self.at(inputs[0])}, {given}, sizeof {given});
    return most > scratch_bytes ? 2 + (most + {_SCRATCH_UNIT - 1}) / {_SCRATCH_UNIT} : 0;
}}
__attribute__((noinline)) void invoke(void)
{{
    {calls}
}}
int check(void) {{ return !failed && memcmp({self.at(outputs[0])}, {right}, sizeof {right}) == 0; }}
"""


def _places(graph: Graph, root: Any) -> tuple[dict[int, int], int]:
    """Offset of each activation, largest first, so that no two that live at once overlap; and the total."""
    lives: dict[int, list[int]] = {root(t): [0, 0] for t in graph.inputs}
    for step, node in enumerate(graph.nodes):
        for tensor in (*node.inputs, *node.outputs):
            if not graph.tensors[tensor].is_constant:
                life = lives.setdefault(root(tensor), [step, step])
                life[1] = step
    for tensor in graph.outputs:
        lives[root(tensor)][1] = len(graph.nodes)
    placed: list[tuple[int, int, list[int]]] = []
    offsets = {}
    for tensor in sorted(lives, key=lambda t: -graph.tensors[t].size_bytes):
        size = -(-graph.tensors[tensor].size_bytes // _ALIGN) * _ALIGN
        life, offset = lives[tensor], 0
        for start, end, other in sorted(placed):
            if other[0] <= life[1] and life[0] <= other[1] and offset + size > start and offset < end:
                offset = end
        offsets[tensor] = offset
        placed.append((offset, offset + size, life))
    return offsets, max(end for _, end, _ in placed)


def library(cmsis_nn: Path) -> list[Path]:
    """The library's int8 sources; the linker drops what is not called."""
    found = sorted(
        p for p in (cmsis_nn / "Source").rglob("*.c") if not p.stem.endswith(("_f16", "_f32", "_flt"))
        and "LSTM" not in p.parts[-2] and "lstm" not in p.stem and "Bindings" not in p.parts[-2]
    )  # fmt: skip
    if not found:
        raise SystemExit(
            f"{cmsis_nn}: there is no Source/*.c in it; it should be a checkout of ARM-software/CMSIS-NN"
        )
    return found


def make(
    model: str, out: Path, *, chip: Chip, cmsis_nn: Path, cmsis: Path, flags: Sequence[str] = DEFAULT_FLAGS
) -> None:
    """Writes the program for a model, builds it twice (the first asks how much scratch is needed) and runs it.

    Raises:
        RuntimeError: it does not compile, or its output is not the reference's.
    """
    graph = resolve(model).graph(float_io=False)
    inputs = default_inputs(graph)
    (expected,) = reference.run(graph, inputs)
    writer = _Writer(graph)
    core = next((p for p in (cmsis / "CMSIS/Core/Include", cmsis) if (p / "cmsis_gcc.h").exists()), cmsis)
    includes = [cmsis_nn / "Include", core, cmsis / "CMSIS/DSP/Include"]
    with tempfile.TemporaryDirectory(dir=out.parent) as place:
        folder = Path(place)
        source, scratch, elf = folder / "network.c", folder / "scratch.c", folder / "program.elf"
        source.write_text(writer.text(np.asarray(inputs[0]), np.asarray(expected)))
        size = _SCRATCH_UNIT
        for _ in range(2):
            scratch.write_text(
                f"#include <stdint.h>\nint8_t scratch[{size}] __attribute__((aligned(16)));\n"
                f"const int32_t scratch_bytes = {size};\n"
            )
            bare_image.build([source, scratch, *library(cmsis_nn)], elf, chip=chip, includes=includes, flags=flags)
            end, code = ran(elf, chip)
            if end is End.EXIT and code in (0, 1):
                break
            size = _SCRATCH_UNIT * ((code or 0) - 2)
        if (end, code) != (End.EXIT, 0):
            raise RuntimeError(f"{model}: {end.value} {code}: the output is not the reference's")
        elf.replace(out)


def ran(elf: Path, chip: Chip) -> tuple[End, int | None]:
    """How the program ended on a simulated chip."""
    done = run_elf(
        elf, board=chip.name, chip_name=chip.name, wiring=Wiring(), memory_model="ideal",
        limits=Limits(wall_s=_LIMIT_S), transmit=lambda data: print(data.decode(errors="replace"), end=""),
    )  # fmt: skip
    if done.fault is not None:
        raise RuntimeError(f"{elf}: {done.fault.what} at {done.fault.address:#010x} in {done.fault.function}")
    return done.end, done.exit_code


def _main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--board", required=True, help="a simulated STM32 of boards.yaml")
    parser.add_argument("--cmsis-nn", type=Path, required=True)
    parser.add_argument("--cmsis", type=Path, required=True, help="a checkout of CMSIS_5 or CMSIS_6")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--flags", default=" ".join(DEFAULT_FLAGS))
    given = parser.parse_args()
    chip = load_chip(load_boards().select([given.board])[0].chip)
    make(
        given.model, given.out.absolute(), chip=chip, cmsis_nn=given.cmsis_nn, cmsis=given.cmsis,
        flags=given.flags.split(),
    )  # fmt: skip
    print(f"{given.out}: its output is the reference's, byte for byte")
    return 0


if __name__ == "__main__":
    sys.exit(_main())
