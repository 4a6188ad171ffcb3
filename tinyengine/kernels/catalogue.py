"""The only list of kernels: which operators each serves, with which tiles, from which template, at what cost.

A kernel's name is ``te_<op>_<dtype>[_<requant>][_<geometry>][_<variant>]__<isa>``. Entries are tried in order, so
fast kernels for a target come before the plain C that is always there. Choosing a tile is schedule.py's business,
text is codegen.py's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from tinyengine.costs import Price, Work
from tinyengine.errors import UnsupportedOp
from tinyengine.fixedpoint import Requant
from tinyengine.ir import (
    Add,
    AveragePool2D,
    Concatenation,
    Conv2D,
    Crop,
    DepthwiseConv2D,
    Dequantize,
    DType,
    FullyConnected,
    Graph,
    Logistic,
    MaxPool2D,
    Mean,
    Mul,
    Node,
    Pad,
    Paste,
    Quantize,
    Relu,
    Softmax,
    Transpose,
    op_name,
)
from tinyengine.kernels import overlap
from tinyengine.kernels.assembly.scheduler import Core
from tinyengine.kernels.binding import Binding, Table, requant_word
from tinyengine.kernels.dsp import binders as dsp
from tinyengine.kernels.dsp.binders import ThumbFamily
from tinyengine.kernels.dsp.chain import Chain, Chains
from tinyengine.kernels.family import Family
from tinyengine.kernels.mve import binders as mve
from tinyengine.kernels.portable import bands, elementwise, moves, products, reductions
from tinyengine.kernels.tiling import Tile
from tinyengine.memory.plan import Rolling

Binder: TypeAlias = Callable[[Graph, Node, Requant, Tile], Binding]
Predicate: TypeAlias = Callable[[Graph, Node], bool]


class Target(Enum):
    """What the kernels may use: portable C, the DSP extension with text scheduled for one core, or Helium."""

    C = "c"
    M4 = "m4"
    M7 = "m7"
    M55 = "m55"

    @property
    def isa(self) -> str:
        """The suffix of kernel names."""
        return {Target.C: "c", Target.M55: "mve"}.get(self, "dsp")


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelSpec:
    """One way to compute an operator.

    Args:
        stem: operator and element type in the kernel's name.
        operator: the IR operator it computes.
        template: file of this folder, of a portable kernel in portable/.
        bind: literals and tables of one node.
        accepts: constraints beyond the operator's type.
        tiles: candidates for a node, fastest first; the scheduler takes the first whose working memory is free.
        scratch_bytes: working memory in the arena for a node and a tile.
        price: what a node with a tile costs, where the scheduler has ways to compare; None for the last resort.
        work: what stands behind the price, in the counts of the cost table.
        operands: names of the input pointers; none means any number of inputs, x0, x1 ...
        operation: what a template shared by several operators is to do.
        target: what it needs.
        requants: roundings it can do.
        rolling: for each activation input, how the output may share bytes with it; none may where it is empty.
    """

    stem: str
    operator: type
    template: str
    bind: Binder
    accepts: Predicate = lambda graph, node: True  # noqa: ARG005
    tiles: Callable[[Graph, Node], tuple[Tile, ...]] = lambda graph, node: (Tile(),)  # noqa: ARG005
    scratch_bytes: Callable[[Graph, Node, Tile], int] = lambda graph, node, tile: 0  # noqa: ARG005
    price: Callable[[Graph, Node, Tile], Price] | None = None
    work: Callable[[Graph, Node, Tile], Work] | None = None
    operands: tuple[str, ...] = ("x",)
    operation: str = ""
    target: Target = Target.C
    requants: frozenset[Requant] = frozenset(Requant)
    rolling: Callable[[Graph, Node, Tile], tuple[Rolling, ...]] = lambda graph, node, tile: ()  # noqa: ARG005

    @property
    def family(self) -> str:
        """Its name in the cost table: the template's."""
        return self.template.removesuffix(".c.j2").removeprefix("dsp/")

    def name(self, binding: Binding) -> str:
        """The kernel's name with everything the grammar asks for."""
        parts = (self.stem, binding.requant, binding.geometry, binding.variant)
        return f"te_{'_'.join(p for p in parts if p)}__{self.target.isa}"


def _pointwise(graph: Graph, node: Node) -> bool:
    return isinstance(node.op, Conv2D) and _is_int8(graph, node) and products.is_pointwise(graph, node)


def _is_int8(graph: Graph, node: Node) -> bool:
    return all(graph.tensors[t].dtype is DType.INT8 for t in (node.inputs[0], node.outputs[0]))


def _from_float(graph: Graph, node: Node) -> bool:
    types = tuple(graph.tensors[t].dtype for t in (node.inputs[0], node.outputs[0]))
    return types == (DType.FLOAT32, DType.INT8)


def _to_float(graph: Graph, node: Node) -> bool:
    types = tuple(graph.tensors[t].dtype for t in (node.inputs[0], node.outputs[0]))
    return types == (DType.INT8, DType.FLOAT32)


def _fixed(tile: Tile) -> Callable[[Graph, Node], tuple[Tile, ...]]:
    return lambda graph, node: (tile,)  # noqa: ARG005


def _by_rows(graph: Graph, node: Node, tile: Tile) -> tuple[Rolling, ...]:  # noqa: ARG001
    return overlap.rolling_window(graph, node)


def _by_window(graph: Graph, node: Node, tile: Tile) -> tuple[Rolling, ...]:  # noqa: ARG001
    return overlap.rolling_crop(graph, node)


def _by_elements(graph: Graph, node: Node, tile: Tile) -> tuple[Rolling, ...]:  # noqa: ARG001
    return overlap.rolling_elementwise(graph, node)


_MATRIX_TILES = _fixed(Tile(pixels=2, channels=4))
# More accumulators spill inside a window's loops: ResNet-8 takes 34 M instructions with 2x2 and 39 M with 2x4.
_WINDOW_TILES = _fixed(Tile(pixels=2, channels=2))
_DEPTHWISE_TILES = _fixed(Tile(pixels=2))
_BANDED: tuple[KernelSpec, ...] = (
    KernelSpec(
        stem="conv2d_s8",
        operator=Conv2D,
        template="matrix.c.j2",
        bind=products.matrix,
        accepts=_pointwise,
        tiles=bands.tiles,
        scratch_bytes=bands.scratch_bytes,
        price=bands.price,
        rolling=bands.rolling,
    ),
)
"""Portable kernels whose outputs run into their inputs, for some working memory; where all are portable."""

_PORTABLE: tuple[KernelSpec, ...] = (
    KernelSpec(
        stem="conv2d_s8",
        operator=Conv2D,
        template="matrix.c.j2",
        bind=products.matrix,
        accepts=_pointwise,
        tiles=_MATRIX_TILES,
    ),
    KernelSpec(
        stem="conv2d_s8",
        operator=Conv2D,
        template="conv2d.c.j2",
        bind=products.convolution,
        accepts=_is_int8,
        tiles=_WINDOW_TILES,
    ),
    KernelSpec(
        stem="dwconv2d_s8",
        operator=DepthwiseConv2D,
        template="depthwise.c.j2",
        bind=products.depthwise,
        accepts=_is_int8,
        tiles=_DEPTHWISE_TILES,
        rolling=_by_rows,
    ),
    KernelSpec(
        stem="fc_s8",
        operator=FullyConnected,
        template="matrix.c.j2",
        bind=products.matrix,
        accepts=_is_int8,
        tiles=_MATRIX_TILES,
    ),
    KernelSpec(
        stem="add_s8",
        operator=Add,
        template="elementwise.c.j2",
        bind=elementwise.add,
        accepts=_is_int8,
        operands=("a", "b"),
        operation="add",
        rolling=_by_elements,
    ),
    KernelSpec(
        stem="mul_s8",
        operator=Mul,
        template="elementwise.c.j2",
        bind=elementwise.mul,
        accepts=_is_int8,
        operands=("a", "b"),
        operation="mul",
        rolling=_by_elements,
    ),
    KernelSpec(
        stem="avgpool2d_s8",
        operator=AveragePool2D,
        template="pool.c.j2",
        bind=reductions.pool,
        accepts=_is_int8,
        operation="average",
        rolling=_by_rows,
    ),
    KernelSpec(
        stem="maxpool2d_s8",
        operator=MaxPool2D,
        template="pool.c.j2",
        bind=reductions.pool,
        accepts=_is_int8,
        operation="max",
        rolling=_by_rows,
    ),
    KernelSpec(stem="mean_s8", operator=Mean, template="mean.c.j2", bind=reductions.mean, accepts=_is_int8),
    KernelSpec(stem="pad_s8", operator=Pad, template="pad.c.j2", bind=moves.pad, accepts=_is_int8),
    KernelSpec(stem="crop", operator=Crop, template="crop.c.j2", bind=moves.crop, rolling=_by_window),
    KernelSpec(stem="paste", operator=Paste, template="crop.c.j2", bind=moves.crop),
    KernelSpec(stem="transpose", operator=Transpose, template="transpose.c.j2", bind=moves.transpose),
    KernelSpec(
        stem="concat",
        operator=Concatenation,
        template="concatenation.c.j2",
        bind=moves.concatenation,
        operands=(),
    ),
    KernelSpec(
        stem="softmax_s8",
        operator=Softmax,
        template="softmax.c.j2",
        bind=reductions.softmax,
        accepts=_is_int8,
    ),
    KernelSpec(
        stem="logistic_s8",
        operator=Logistic,
        template="lookup.c.j2",
        bind=elementwise.lookup,
        accepts=_is_int8,
        rolling=_by_elements,
    ),
    KernelSpec(
        stem="relu_s8",
        operator=Relu,
        template="lookup.c.j2",
        bind=elementwise.lookup,
        accepts=_is_int8,
        rolling=_by_elements,
    ),
    KernelSpec(
        stem="quantize_s8",
        operator=Quantize,
        template="lookup.c.j2",
        bind=elementwise.lookup,
        accepts=_is_int8,
        rolling=_by_elements,
    ),
    KernelSpec(
        stem="quantize_f32_s8",
        operator=Quantize,
        template="quantize.c.j2",
        bind=elementwise.quantize_float,
        accepts=_from_float,
    ),
    KernelSpec(
        stem="dequantize_s8_f32",
        operator=Dequantize,
        template="dequantize.c.j2",
        bind=elementwise.dequantize,
        accepts=_to_float,
    ),
)


_GENERATED: tuple[tuple[str, type, str], ...] = (
    ("conv2d_s8", Conv2D, "pointwise"),
    ("conv2d_s8", Conv2D, "winograd"),
    ("conv2d_s8", Conv2D, "convolution"),
    ("dwconv2d_s8", DepthwiseConv2D, "depthwise"),
    ("fc_s8", FullyConnected, "dense"),
    ("add_s8", Add, "add"),
    ("avgpool2d_s8", AveragePool2D, "pool"),
    ("mean_s8", Mean, "mean"),
)
"""Stem, operator and family; a target has some of the families. What they refuse the portable kernels take."""


def _generated(target: Target, families: Mapping[str, Family], requant: Requant) -> tuple[KernelSpec, ...]:
    """The families of one target and rounding."""
    return tuple(
        _spec(stem, operator, families[name], target, requant)
        for stem, operator, name in _GENERATED
        if name in families
    )


def _spec(stem: str, operator: type, family: Family, target: Target, requant: Requant) -> KernelSpec:
    is_add = operator is Add

    def rolling(graph: Graph, node: Node, tile: Tile) -> tuple[Rolling, ...]:
        if is_add:
            return overlap.rolling_elementwise(graph, node)
        first = overlap.rolling_family(family.name, family.layer(graph, node), tile.band)
        return (first,) if first is not None else ()

    return KernelSpec(
        stem=stem,
        operator=operator,
        template=f"{target.isa}/{family.name}.c.j2",
        bind=family.bind,
        accepts=lambda graph, node: _is_int8(graph, node) and family.accepts(graph, node),
        tiles=family.tiles,
        scratch_bytes=family.scratch_bytes,
        price=family.price,
        work=family.work if isinstance(family, ThumbFamily) else None,
        rolling=rolling,
        operands=("a", "b") if is_add else ("x",),
        target=target,
        requants=frozenset({requant}),
    )


CATALOGUE: tuple[KernelSpec, ...] = (
    *(spec for requant in Requant for spec in _generated(Target.M55, mve.families(requant), requant)),
    *(
        spec
        for target, core in ((Target.M4, Core.M4), (Target.M7, Core.M7))
        for requant in Requant
        for spec in _generated(target, dsp.families(core, requant), requant)
    ),
    *_PORTABLE,
)

_CHAINS = {Target.M4: Chains(Core.M4), Target.M7: Chains(Core.M7)}


def chains(target: Target) -> Chains | None:
    """What fuses layers into one step; None for portable C, which does not."""
    return _CHAINS.get(target)


def chain_spec(chain: Chain, target: Target) -> KernelSpec:
    """The kernel of a fused step; it serves no single operator, so it is not searched for."""
    others = [i for i, layer in enumerate(chain.layers) if layer.kind == "add"]
    return KernelSpec(
        stem="chain_s8",
        operator=type(None),
        template="dsp/chain.c.j2",
        bind=moves.copy,
        operands=("input", *(f"residual{i}" for i in others)),
        target=target,
    )


def bind_chain(chain: Chain, band: int, target: Target, requant: Requant) -> Binding:
    """Parameters, tables and functions of a fused step."""
    bound = _CHAINS[target].bind(chain, band)
    return Binding(
        parameters=bound.parameters,
        tables=tuple(Table(role=f"table{i}", data=data) for i, data in enumerate(bound.tables)),
        requant=requant_word(requant),
        geometry="_".join(layer.geometry for layer in chain.layers),
        assembly=bound.assembly,
    )


COPY = KernelSpec(stem="copy", operator=type(None), template="copy.c.j2", bind=moves.copy)
"""What fills an output that is a constant; it serves no operator, so it is not searched for."""


def patches_spec(target: Target) -> KernelSpec:
    """The driver of a stage in patches; it serves no single operator, so it is not searched for."""
    return KernelSpec(stem="patches", operator=type(None), template="patches.c.j2", bind=moves.copy, target=target)


def candidates(graph: Graph, node: Node, requant: Requant, target: Target) -> tuple[KernelSpec, ...]:
    """Kernels that can compute the node on `target` with this rounding, preferred first.

    Raises:
        UnsupportedOp: none can.
    """
    allowed = (target, Target.C)
    catalogue = (*_BANDED, *CATALOGUE) if target is Target.C else CATALOGUE
    found = tuple(
        spec
        for spec in catalogue
        if spec.target in allowed
        and isinstance(node.op, spec.operator)
        and requant in spec.requants
        and spec.accepts(graph, node)
    )
    if not found:
        tensor = graph.tensors[node.inputs[0]]
        raise UnsupportedOp(
            op_name(node.op),
            node.source_index,
            tensor.name,
            f"no kernel takes {tensor.dtype.value} here; int8 activations would do",
        )
    return found
