"""One model made ready to be measured anywhere: graph, generated C, input and the output it must give.

Pure but for reading nothing: what a board does with it is the runner's business.
"""

from __future__ import annotations

import hashlib
import tokenize
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from harness.boards import Board
from harness.chips import load_chip
from harness.errors import ConfigError
from harness.images.placement import Placement, Rule, default_rule, placed
from harness.models import ModelSource
from tinyengine import reference
from tinyengine.arrange import Rung
from tinyengine.compile import Compiled, CompileOptions, compile_graph, ladder
from tinyengine.fixedpoint import Requant
from tinyengine.ir import DType, Graph, Quantize, Tensor
from tinyengine.kernels.catalogue import Target
from tinyengine.memory.patches import Grid
from tinyengine.schedule import Optimize, Sharing

if TYPE_CHECKING:
    from harness.tuning.record import Tuning

Values = NDArray[Any]
DEFAULT_SEED = 0
MAX_REPETITIONS = 64


class Kernels(StrEnum):
    """Which kernels a board is given."""

    AUTO = "auto"
    """The fastest for its core."""
    C = "c"
    """Portable C only."""
    TWINS = "twins"
    """The fastest, with plain C in place of generated text: who gives other bytes than `auto` is to blame."""

    def target(self, core: str) -> Target:
        """What to compile for on `core` ("cortex-m4", ...)."""
        return Target.C if self is Kernels.C else _TARGETS.get(core, Target.C)


class Memory(StrEnum):
    """Which memory system a simulated board has."""

    CHIP = "chip"
    """The chip's: wait states, flash accelerator, caches."""
    IDEAL = "ideal"
    """No access ever waits."""


_TARGETS = {"cortex-m4": Target.M4, "cortex-m7": Target.M7, "cortex-m55": Target.M55}


@dataclass(frozen=True, slots=True, kw_only=True)
class JobOptions:
    """What is measured and how often.

    Args:
        float_io: keep float32 boundaries on the device instead of converting on the host.
        layers: make the separate run with per-layer cycles.
        marks: make the two runs on painted memory that show how far arena and stack reach, and plan what less
            sharing would need.
        kernels: fast ones for the board's core, their twins in plain C, or portable ones.
        memory: of simulated boards; those of QEMU are always ideal, silicon is what it is.
        optimize, flash_limit_bytes, sram_limit_bytes, sharing, patches, fold_constants: as in CompileOptions.
        tuning: what was measured for this model on this kind of board.
        placement: what lies where, or the rule for that; None: what tuning found for these very sources, else the
            default rule.
    """

    repetitions: int = 5
    warmups: int = 1
    requant: Requant = Requant.EXACT
    float_io: bool = False
    layers: bool = True
    marks: bool = True
    kernels: Kernels = Kernels.AUTO
    memory: Memory = Memory.CHIP
    optimize: Optimize = Optimize.BALANCED
    flash_limit_bytes: int | None = None
    sram_limit_bytes: int | None = None
    sharing: Sharing = Sharing.PATCHES
    patches: Grid | None = None
    fold_constants: bool = True
    tuning: Tuning | None = None
    placement: Placement | Rule | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PreparedModel:
    """A compiled model with one input and the reference's output for it.

    `ladder()`: plans with less sharing, for pictures, planned when somebody first asks. `input_blob` and
    `expected_blob` are what goes over the wire: all inputs (outputs) in a row, C order, little-endian.
    """

    source: ModelSource
    graph: Graph
    compiled: Compiled
    inputs: tuple[Values, ...]
    expected: tuple[Values, ...]
    ladder: Callable[[], tuple[Rung, ...]] = tuple

    @property
    def input_blob(self) -> bytes:
        return to_blob(self.inputs)

    @property
    def expected_blob(self) -> bytes:
        return to_blob(self.expected)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Job:
    """One prepared model on one board."""

    board: Board
    model: PreparedModel
    options: JobOptions

    @property
    def has_measured_placement(self) -> bool:
        """Whether measuring has chosen what lies where."""
        return isinstance(self._wanted_placement, Placement)

    @property
    def placement(self) -> Placement:
        """What lies where."""
        wanted, compiled = self._wanted_placement, self.model.compiled
        if isinstance(wanted, Placement):
            return wanted
        limit = self.options.sram_limit_bytes
        return placed(wanted, load_chip(self.board.chip), compiled, sram_limit_bytes=limit)

    @property
    def _wanted_placement(self) -> Placement | Rule:
        if self.options.placement is not None:
            return self.options.placement
        found = None if self.options.tuning is None else self.options.tuning.placement
        if (
            found is not None
            and found.chosen is not None
            and found.sources_digest == self.model.compiled.sources.digest()
        ):
            return found.chosen
        return default_rule(self.options.optimize)


def prepare(
    source: ModelSource, options: JobOptions, given: Values | None = None, target: Target = Target.C
) -> PreparedModel:
    """Imports, compiles and computes the expected output.

    Args:
        given: the input, of one input's shape; None draws uniform int8 from ``numpy.random.default_rng(0)``.
        target: what the kernels may use.

    Raises:
        TinyEngineError: the model's fault. ConfigError: `given` does not fit the model.
    """
    graph = source.graph(float_io=options.float_io)
    inputs = default_inputs(graph) if given is None else (fit_input(graph, given, where=source.name),)
    expected = reference.run(graph, inputs, requant=options.requant)
    chosen = compile_options(options, target)
    return PreparedModel(
        source=source,
        graph=graph,
        compiled=compile_graph(graph, chosen),
        inputs=inputs,
        expected=tuple(expected),
        ladder=cache(partial(ladder, graph, chosen)),
    )


def prepare_compiled(source: ModelSource, graph: Graph, compiled: Compiled, options: JobOptions) -> PreparedModel:
    """As `prepare` with the default input, for what somebody else has compiled from the imported `graph`."""
    inputs = default_inputs(graph)
    expected = reference.run(graph, inputs, requant=options.requant)
    return PreparedModel(source=source, graph=graph, compiled=compiled, inputs=inputs, expected=tuple(expected))


def compile_options(options: JobOptions, target: Target) -> CompileOptions:
    """The part of the options that the compiler reads."""
    tuning = options.tuning
    # A record whose default was best changes nothing.
    used = None if tuning is None or tuning.measured is None else tuning
    limit, grid = options.sram_limit_bytes, options.patches
    return CompileOptions(
        requant=options.requant,
        target=target,
        optimize=options.optimize,
        flash_limit_bytes=options.flash_limit_bytes,
        sram_limit_bytes=used.sram_limit_bytes if used is not None and limit is None else limit,
        sharing=options.sharing,
        patches=used.patches if used is not None and grid is None else grid,
        fold_constants=options.fold_constants,
        measured=None if used is None else used.measured,
        twins=options.kernels is Kernels.TWINS,
    )


def default_inputs(graph: Graph) -> tuple[Values, ...]:
    """Uniform int8 over the whole range, from seed 0; a float input gets the reals those integers stand for."""
    rng = np.random.default_rng(DEFAULT_SEED)
    drawn: list[Values] = []
    for tensor_id in graph.inputs:
        tensor = graph.tensors[tensor_id]
        integers = rng.integers(-128, 128, size=tensor.shape, dtype=np.int8)
        if tensor.dtype is DType.FLOAT32:
            quantized = _quantized_form(graph, tensor_id)
            drawn.append(_dequantize(integers, quantized))
        else:
            drawn.append(integers.astype(tensor.dtype.value))
    return tuple(drawn)


def fit_input(graph: Graph, given: Values, *, where: str) -> Values:
    """`given` in the shape and type of the model's only input; floats are quantized for an int8 input.

    Raises:
        ConfigError: another shape or type, not finite, or the model has several inputs.
    """
    if len(graph.inputs) != 1:
        raise ConfigError(
            f"has {len(graph.inputs)} inputs, one array cannot feed them", file=where, field="--input"
        )
    tensor = graph.tensors[graph.inputs[0]]
    if tensor.shape not in (given.shape, (1, *given.shape)):
        raise ConfigError(
            f"needs an input of shape {tensor.shape}, not {given.shape}", file=where, field="--input"
        )
    shaped = given.reshape(tensor.shape)
    if shaped.dtype == np.dtype(tensor.dtype.value):
        return np.ascontiguousarray(shaped)
    if shaped.dtype.kind == "f" and np.isfinite(shaped).all():
        reals = shaped.astype(np.float32)
        if tensor.dtype is DType.FLOAT32:
            return np.ascontiguousarray(reals)
        if tensor.dtype is DType.INT8 and tensor.quant is not None:
            return np.ascontiguousarray(reference.quantize_float(reals, tensor.quant))
    raise ConfigError(
        f"needs finite float32 or {tensor.dtype.value} values, not {given.dtype}", file=where, field="--input"
    )


def read_input(file: Path) -> Values:
    """An array from a .npy file; pickles are refused.

    Raises:
        ConfigError: not such a file.
    """
    try:
        loaded = np.load(file, allow_pickle=False)
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror or error}", file=str(file), field="--input") from error
    except (ValueError, EOFError, MemoryError, RecursionError, tokenize.TokenError) as error:
        # The last three: headers that promise too much, or nest too deep, or end too early.
        raise ConfigError("is not a .npy file of numbers", file=str(file), field="--input") from error
    if not isinstance(loaded, np.ndarray):
        raise ConfigError(
            "is an .npz archive; one array in a .npy file is needed", file=str(file), field="--input"
        )
    return cast(Values, loaded)


def to_blob(arrays: Sequence[Values]) -> bytes:
    """All arrays one after the other, C order, little-endian."""
    return b"".join(a.astype(a.dtype.newbyteorder("<"), copy=False).tobytes() for a in arrays)


def from_blob(blob: bytes, graph: Graph) -> tuple[Values, ...]:
    """The graph's outputs from the bytes the board sent.

    Raises:
        ValueError: another number of bytes than the outputs have.
    """
    tensors = [graph.tensors[i] for i in graph.outputs]
    if len(blob) != sum(t.size_bytes for t in tensors):
        raise ValueError(f"{len(blob)} B are not the outputs' {sum(t.size_bytes for t in tensors)} B")
    out: list[Values] = []
    at = 0
    for tensor in tensors:
        part = blob[at : at + tensor.size_bytes]
        out.append(np.frombuffer(part, np.dtype(tensor.dtype.value).newbyteorder("<")).reshape(tensor.shape))
        at += tensor.size_bytes
    return tuple(out)


def sha256(blob: bytes) -> str:
    """Hex digest."""
    return hashlib.sha256(blob).hexdigest()


def _quantized_form(graph: Graph, tensor_id: int) -> Tensor:
    """The int8 tensor a float input is quantized to, if it is; else the input itself."""
    for node in graph.consumers(tensor_id):
        if isinstance(node.op, Quantize):
            return graph.tensors[node.outputs[0]]
    return graph.tensors[tensor_id]


def _dequantize(integers: Values, like: Tensor) -> Values:
    if like.quant is None:
        return (integers.astype(np.float32) / np.float32(128)).astype(np.float32)
    return reference.dequantize(integers, like.quant)
