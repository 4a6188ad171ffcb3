"""Judges a plan: carries the graph out over the arena's bytes and refuses what would destroy a value still needed.

Independent of lifetimes.py, planner.py and kernels/overlap.py by intention. Each byte of the arena has an owner,
the value last written to it. Every kernel's accesses are listed in the order its driver makes them, from the
driver's own parameters, and each read must find its value. Of a kernel not known here, all reads and writes are
taken to happen at any time. A second pass takes the plan's own lifetimes at their word, because figures and
pictures are made from them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from tinyengine.errors import PlanError
from tinyengine.ir import Add, Crop, Graph, Node, Paste, Reshape, Shape, Transpose
from tinyengine.kernels.binding import Binding
from tinyengine.kernels.dsp.add import AddParameters as TableAddParameters
from tinyengine.kernels.dsp.chain import ChainParameters
from tinyengine.kernels.dsp.convolution import ConvolutionParameters
from tinyengine.kernels.dsp.dense import DenseParameters
from tinyengine.kernels.dsp.depthwise import DepthwiseParameters as PlaneParameters
from tinyengine.kernels.dsp.pointwise import PointwiseParameters
from tinyengine.kernels.dsp.winograd import WinogradParameters
from tinyengine.kernels.mve.add import GROUP, VectorAddParameters
from tinyengine.kernels.mve.convolution import VectorConvolutionParameters
from tinyengine.kernels.mve.depthwise import VectorDepthwiseParameters
from tinyengine.kernels.patches import PatchCall, PatchParameters
from tinyengine.kernels.portable.elementwise import AddParameters, LookupParameters, MulParameters
from tinyengine.kernels.portable.moves import CropParameters
from tinyengine.kernels.portable.products import DepthwiseParameters, MatrixParameters
from tinyengine.kernels.portable.reductions import PoolParameters
from tinyengine.memory import patch_checker
from tinyengine.memory.plan import BufferKind, MemoryPlan, Placement

_Bytes: TypeAlias = NDArray[np.int64] | slice
_NOBODY = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class _Phase:
    """Accesses without a read after a write: `reads` of the first operand, then `writes` of the output.

    `mixed`: in any order, so that what is read must also be there after the writes.
    """

    reads: _Bytes
    writes: _Bytes
    mixed: bool = False
    operand: int = 0


def _pointwise(p: PointwiseParameters) -> Iterator[_Phase]:
    pixel = 0
    for band in p.bands:
        for _ in range(band.count):
            last = pixel + band.pixels
            yield _Phase(
                reads=slice(pixel * p.depth, last * p.depth), writes=slice(pixel * p.channels, last * p.channels)
            )
            pixel = last


def _matrix(p: MatrixParameters) -> Iterator[_Phase]:
    """Bands of rows, each copied before its outputs are written."""
    for start in range(0, p.rows, p.band):
        stop = min(start + p.band, p.rows)
        yield _Phase(
            reads=slice(start * p.reduction, stop * p.reduction),
            writes=slice(start * p.channels, stop * p.channels),
        )


def _convolution(p: ConvolutionParameters | WinogradParameters) -> Iterator[_Phase]:
    row = p.width * p.depth
    row_step = p.row_step if isinstance(p, ConvolutionParameters) else 1
    for n in range(p.batch):
        x, y = n * p.in_bytes, n * p.out_bytes
        for oy in range(0, p.out_height, p.band):
            rows = min(p.band, p.out_height - oy)
            first = oy * row_step - p.before
            last = min(first + (rows - 1) * row_step + p.row_extent, p.height)
            first = min(max(first, 0), p.height)
            yield _Phase(
                reads=slice(x + first * row, x + max(first, last) * row),
                writes=slice(y + oy * p.out_row_bytes, y + (oy + rows) * p.out_row_bytes),
            )


def _planes(p: PlaneParameters) -> Iterator[_Phase]:
    """Groups of four channels, bands within a group; each row of a group is read once. Rows may be columns."""
    into = np.arange(p.in_bytes, dtype=np.int64)
    out = np.arange(p.out_bytes, dtype=np.int64)
    in_row, out_row = _line_of(into, p.in_row_bytes, p.height), _line_of(out, p.out_row_bytes, p.out_height)
    for n in range(p.batch):
        for c in range(0, p.channels, 4):
            mine = into[into % p.channels // 4 == c // 4]
            made = out[out % p.channels // 4 == c // 4]
            next_row = 0
            for oy in range(0, p.out_height, p.band):
                rows = min(p.band, p.out_height - oy)
                last = p.height
                if p.band < p.out_height:
                    last = min(p.height, (oy + rows - 1) * p.row_step + p.kernel_rows - p.before)
                lines, out_lines = in_row[mine], out_row[made]
                yield _Phase(
                    reads=n * p.in_bytes + mine[(lines >= next_row) & (lines < last)],
                    writes=n * p.out_bytes + made[(out_lines >= oy) & (out_lines < oy + rows)],
                )
                next_row = max(next_row, last)


def _line_of(offsets: NDArray[np.int64], line_bytes: int, lines: int) -> NDArray[np.int64]:
    """The line each byte of a map lies on, for lines that are rows (long steps) or columns (short steps)."""
    upright = line_bytes * lines == offsets.size
    return offsets // line_bytes if upright else offsets % (line_bytes * lines) // line_bytes


def _dense(p: DenseParameters) -> Iterator[_Phase]:
    for n in range(p.rows):
        yield _Phase(
            reads=slice(n * p.depth, (n + 1) * p.depth), writes=slice(n * p.channels, (n + 1) * p.channels)
        )


def _rows(p: DepthwiseParameters | PoolParameters) -> Iterator[_Phase]:
    """Row by row of outputs, in turns within a row."""
    if isinstance(p, PoolParameters):
        row, out_row = p.x.size * p.channels, p.x.out * p.channels
    else:
        row, out_row = p.x.size * p.in_channels, p.x.out * p.in_channels * p.multiplier
    for n in range(p.batch):
        for oy in range(p.y.out):
            taps = [oy * p.y.stride - p.y.before + k * p.y.dilation for k in range(p.y.kernel)]
            inside = [t for t in taps if 0 <= t < p.y.size] or [0]
            start, out = n * p.y.size, n * p.y.out + oy
            yield _Phase(
                reads=slice((start + inside[0]) * row, (start + inside[-1] + 1) * row),
                writes=slice(out * out_row, (out + 1) * out_row),
                mixed=True,
            )


def _crop(p: CropParameters) -> Iterator[_Phase]:
    """Row by row, each as if it were read whole before it is written."""
    for r in range(p.rows):
        first, out = p.in_offset + r * p.in_row_bytes, p.out_offset + r * p.out_row_bytes
        yield _Phase(reads=slice(first, first + p.run), writes=slice(out, out + p.run))


def _vector_convolution(p: VectorConvolutionParameters) -> Iterator[_Phase]:
    """Tiles of pixels, which are read again for every channel; bands of rows where scratch holds them."""
    channels = p.out_row_bytes // p.out_width
    if p.source == "PIXELS":
        for call in p.calls:
            for tile in range(call.tiles):
                read, made = (n * p.tile_pixels for n in (p.depth, channels))
                x, y = call.x_bytes + tile * read, call.out_bytes + tile * made
                yield _Phase(reads=slice(x, x + read), writes=slice(y, y + made), mixed=True)
        return
    for n in range(p.batch):
        x, y = n * p.height * p.row_bytes, n * p.out_height * p.out_row_bytes
        for start in range(0, p.out_height, p.band):
            end = min(start + p.band, p.out_height)
            first = start * p.stride - p.pads[0]
            last = min((end - 1) * p.stride - p.pads[0] + p.extent, p.height)
            first = min(max(first, 0), p.height)
            yield _Phase(
                reads=slice(x + first * p.row_bytes, x + max(first, last) * p.row_bytes),
                writes=slice(y + start * p.out_row_bytes, y + end * p.out_row_bytes),
                mixed=p.source == "MAP",
            )


def _vector_planes(p: VectorDepthwiseParameters) -> Iterator[_Phase]:
    """Channel by channel: all of one is read before any of it is written."""
    into, out = (np.arange(n, dtype=np.int64) for n in (p.in_bytes, p.out_bytes))
    for n in range(p.batch):
        for c in range(p.channels):
            yield _Phase(
                reads=n * p.in_bytes + into[c :: p.channels], writes=n * p.out_bytes + out[c :: p.channels]
            )


_NOTHING = slice(0, 0)


def _chain(p: ChainParameters) -> Iterator[_Phase]:
    """Follows rows through all links; fails where a line buffer would lose or lack a row."""
    held = [range(0) for _ in p.links]  # rows of each link's output that exist
    while held[-1].stop < p.links[-1].rows.out_height:
        goal = [0] * len(p.links)
        goal[-1] = min(held[-1].stop + p.band, p.links[-1].rows.out_height)
        for i in reversed(range(len(p.links) - 1)):
            r = p.links[i + 1].rows
            goal[i] = max(held[i].stop, min(r.height, (goal[i + 1] - 1) * r.step - r.before + r.extent))
        operand = 0
        for i, link in enumerate(p.links):
            r, made = link.rows, range(held[i].stop, goal[i])
            if i + 1 < len(p.links):
                n = p.links[i + 1].rows
                oldest = min(max(0, held[i + 1].stop * n.step - n.before), held[i].stop)
                held[i] = range(max(oldest, held[i].start), goal[i])
                if len(held[i]) * r.out_row_bytes > link.line_bytes:
                    raise PlanError(f"a line buffer of {link.line_bytes} bytes is to hold {len(held[i])} rows")
            else:
                held[i] = range(goal[i])
            operand += link.kind == "add"
            if not made:
                continue
            first = max(0, made.start * r.step - r.before)
            last = min(r.height, (made.stop - 1) * r.step - r.before + r.extent)
            if i == 0:
                yield _Phase(reads=slice(first * r.row_bytes, max(first, last) * r.row_bytes), writes=_NOTHING)
            elif first < last and not (held[i - 1].start <= first and last <= held[i - 1].stop):
                raise PlanError(f"rows {first} to {last} are read, {held[i - 1]} are there")
            out = slice(made.start * r.out_row_bytes, made.stop * r.out_row_bytes)
            final = out if i + 1 == len(p.links) else _NOTHING
            if link.kind == "add":
                # Words are read before the word at their place, or below it, is written.
                yield _Phase(reads=out, writes=_NOTHING, operand=operand)
                for start in range(final.start, final.stop, r.out_row_bytes):
                    row = slice(start, start + r.out_row_bytes)
                    yield _Phase(reads=row, writes=row, operand=operand)
            else:
                yield _Phase(reads=_NOTHING, writes=final)


def _phases(p: object) -> Iterator[_Phase] | None:
    """The accesses of a kernel whose order is known."""
    if isinstance(p, PointwiseParameters):
        return _pointwise(p)
    if isinstance(p, ConvolutionParameters | WinogradParameters):
        return _convolution(p)
    if isinstance(p, PlaneParameters):
        return _planes(p)
    if isinstance(p, DenseParameters):
        return _dense(p)
    if isinstance(p, VectorConvolutionParameters):
        return _vector_convolution(p)
    if isinstance(p, VectorDepthwiseParameters):
        return _vector_planes(p)
    if isinstance(p, ChainParameters):
        return _chain(p)
    if isinstance(p, DepthwiseParameters | PoolParameters):
        return _rows(p)
    if isinstance(p, CropParameters):
        return _crop(p)
    if isinstance(p, MatrixParameters) and p.band:
        return _matrix(p)
    return None


def _element_group(p: object) -> int:
    """Elements an elementwise kernel reads before it writes them; 0 for all other kernels."""
    if isinstance(p, TableAddParameters):
        return 4
    if isinstance(p, VectorAddParameters):
        return GROUP
    return 1 if isinstance(p, AddParameters | MulParameters | LookupParameters) else 0


def _fused(nodes: Sequence[Node]) -> Node:
    """One node for a chain: reads the first link's input, then adds' other operands; writes the last output.

    Raises:
        PlanError: a value inside the chain is not what the next link reads.
    """
    value, inputs = nodes[0].outputs[0], [nodes[0].inputs[0]]
    for node in nodes[1:]:
        if value not in node.inputs:
            raise PlanError(f"tensor {value} inside a fused step is not what its next node reads")
        if isinstance(node.op, Add):
            inputs.append(node.inputs[1] if node.inputs[0] == value else node.inputs[0])
        value = node.outputs[0]
    return replace(nodes[-1], inputs=tuple(inputs), outputs=(value,))


@dataclass(slots=True)
class _Arena:
    """Owner of each byte."""

    owner: NDArray[np.int32]

    def write(self, place: Placement, who: int, which: _Bytes = slice(None)) -> None:
        self.owner[place.offset : place.end][which] = who

    def holds(self, place: Placement, who: int, which: _Bytes = slice(None)) -> bool:
        return bool((self.owner[place.offset : place.end][which] == who).all())


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Within:
    """The step a patch is a part of, and where it reads and writes there."""

    run: _Run
    arena: _Arena
    owners: int
    call: PatchCall
    written: NDArray[np.bool_]
    source: int
    step: int


def _rectangle(shape: Shape, small: Shape, element_bytes: int) -> NDArray[np.int64]:
    """The bytes of a window at the top left of a map."""
    pixel = shape[3] * element_bytes
    rows = np.arange(small[1], dtype=np.int64)[:, None] * shape[2] * pixel
    return (rows + np.arange(small[2] * pixel, dtype=np.int64)).reshape(-1)


def check(plan: MemoryPlan, graph: Graph, bindings: Sequence[Binding | None] = ()) -> None:
    """Accepts a plan under which every step finds its inputs and every output survives to the end.

    Args:
        bindings: the kernel of each step, with the parameters its driver is printed from; without them all reads
            and writes of a step may happen at any time.

    Raises:
        PlanError: the first violation found.
    """
    placements = {p.buffer.key: p for p in plan.placements}
    if len(placements) != len(plan.placements):
        raise PlanError("two placements share one key")
    _check_layout(plan)
    _check_overlaps(plan)
    _Run(plan, graph, bindings, placements).check()


def _check_layout(plan: MemoryPlan) -> None:
    end = 0
    for p in plan.placements:
        if p.offset < 0 or p.offset % p.buffer.alignment:
            raise PlanError(f"buffer {p.buffer.key} at offset {p.offset} breaks alignment {p.buffer.alignment}")
        end = max(end, p.end)
    if end != plan.arena_bytes:
        raise PlanError(f"the plan states {plan.arena_bytes} bytes, its last byte used makes {end}")
    if plan.arena_bytes < plan.lower_bound_bytes:
        raise PlanError(f"{plan.arena_bytes} bytes is under the lower bound of {plan.lower_bound_bytes}")


def _check_overlaps(plan: MemoryPlan) -> None:
    """Two placements with a step in common share no byte, unless the plan says that a kernel lets them."""
    leave = {frozenset((o.source, o.target)) for o in plan.overlaps}
    by_offset = sorted(plan.placements, key=lambda p: p.offset)
    open_below: list[Placement] = []
    for p in by_offset:
        open_below = [q for q in open_below if q.end > p.offset]
        for q in open_below:
            shared = min(q.buffer.last, p.buffer.last) - max(q.buffer.first, p.buffer.first) + 1
            if shared > 1 or (shared == 1 and frozenset((p.buffer.key, q.buffer.key)) not in leave):
                raise PlanError(f"buffers {q.buffer.key} and {p.buffer.key} overlap and live at the same step")
        open_below.append(p)


class _Run:
    """One inference without arithmetic."""

    def __init__(
        self,
        plan: MemoryPlan,
        graph: Graph,
        bindings: Sequence[Binding | None],
        placements: dict[str, Placement],
        within: _Within | None = None,
    ) -> None:
        self._plan = plan
        self._graph = graph
        self._bindings = bindings
        self._placements = placements
        self._within = within
        self._arena = (
            _Arena(np.full(plan.arena_bytes, _NOBODY, dtype=np.int32)) if within is None else within.arena
        )
        self._owners = 0 if within is None else within.owners
        self._home: dict[int, int | None] = {}  # tensor -> tensor whose placement holds it, None for constants

    def _place(self, tensor: int) -> Placement:
        p = self._placements.get(f"t{tensor}")
        if p is None:
            raise PlanError(f"tensor {tensor} has no place in the arena")
        if p.buffer.size_bytes != self._graph.tensors[tensor].size_bytes:
            raise PlanError(
                f"tensor {tensor} has {self._graph.tensors[tensor].size_bytes} bytes, its place another size"
            )
        return p

    def _owner_of(self, tensor: int) -> int | None:
        return self._home.get(tensor, None if self._graph.tensors[tensor].is_constant else tensor)

    def _store(self, tensor: int) -> None:
        self._arena.write(self._place(tensor), self._owners + tensor)
        self._home[tensor] = tensor

    def _demand(self, tensor: int, who: str, which: _Bytes = slice(None)) -> None:
        owner = self._owner_of(tensor)
        if owner is not None and not self._arena.holds(self._place(owner), self._owners + owner, which):
            raise PlanError(f"{who} needs tensor {tensor}, whose bytes are no longer (or not yet) there")

    def check(self) -> None:
        """All of a network: inputs, steps, outputs."""
        for tensor in self._graph.inputs:
            self._store(tensor)
        for tensor in self._graph.inputs:
            self._demand(tensor, "the start")
        step = self.steps()
        for tensor in dict.fromkeys(self._graph.outputs):
            if self._owner_of(tensor) is None:
                self._store(tensor)  # a constant output is copied after the last node
                step += 1
        self._ends_after(step)
        for tensor in self._graph.outputs:
            self._demand(tensor, "the end")

    def _ends_after(self, step: int) -> None:
        if step != len(self._plan.steps):
            raise PlanError(f"the graph has {step} steps, the plan {len(self._plan.steps)}")
        known = {f"s{i}" for i in range(step)}
        for p in self._plan.placements:
            if p.buffer.kind is BufferKind.SCRATCH and p.buffer.key not in known:
                raise PlanError(f"scratch {p.buffer.key} belongs to no step")

    def steps(self) -> int:
        """Carries the nodes out and counts the steps."""
        graph, plan = self._graph, self._plan
        step = fused = 0
        for position, node in enumerate(graph.nodes):
            if fused:
                fused -= 1
                continue
            out = node.outputs[0]
            if isinstance(node.op, Reshape | Transpose) and f"t{out}" not in self._placements:
                self._home[out] = self._owner_of(node.inputs[0])
                continue
            if step >= len(plan.steps):
                raise PlanError(f"the graph has more steps than the plan's {len(plan.steps)}")
            binding = self._bindings[step] if step < len(self._bindings) else None
            parameters = binding.parameters if binding is not None else None
            if isinstance(parameters, ChainParameters):
                fused = len(parameters.links) - 1
            nodes = graph.nodes[position : position + fused + 1]
            if isinstance(parameters, PatchParameters):
                fused = len(parameters.nodes) - 1
                if graph.nodes[position : position + fused + 1] != parameters.nodes:
                    raise PlanError(f"step {step} computes other nodes in patches than the graph has there")
                self._patches(step, parameters)
            elif self._within is not None and isinstance(node.op, Crop) and node.inputs[0] == self._within.source:
                self._window(step, node, self._within)
            elif self._within is not None and isinstance(node.op, Paste):
                self._tile(step, node, self._within)
            else:
                self._step(step, _fused(nodes) if fused else node)
            step += 1
        return step

    def _patches(self, step: int, p: PatchParameters) -> None:
        """Patch after patch in the step's scratch, each with a plan of its own."""
        patch_checker.check_geometry(self._graph, p)
        scratch = self._placements[f"s{step}"]
        for kind in p.kinds:
            if kind.plan.arena_bytes > scratch.buffer.size_bytes:
                raise PlanError(f"step {step}: a patch needs {kind.plan.arena_bytes} bytes of scratch")
            _check_layout(kind.plan)
            _check_overlaps(kind.plan)
        self._demand(p.source, f"step {step}")
        self._home[p.target] = p.target
        written = np.zeros(self._place(p.target).buffer.size_bytes, dtype=np.bool_)
        owners = self._scratch(len(self._plan.steps))
        for call in p.calls:
            self._arena.write(scratch, self._scratch(step))
            kind = p.kinds[call.kind]
            places = {q.buffer.key: replace(q, offset=scratch.offset + q.offset) for q in kind.plan.placements}
            within = _Within(
                run=self, arena=self._arena, owners=owners, call=call, written=written, source=p.source, step=step
            )
            patch = _Run(kind.plan, kind.graph, kind.bindings, places, within)
            patch._ends_after(patch.steps())
        if not written.all():
            raise PlanError(f"step {step} leaves bytes of its output unwritten")
        self._demand(p.target, f"the end of step {step}")

    def read_outside(self, tensor: int, which: NDArray[np.int64], step: int) -> None:
        """A patch of `step` reads these bytes of a value."""
        if which[-1] >= self._place(tensor).buffer.size_bytes:
            raise PlanError(f"step {step} reads beyond tensor {tensor}")
        self._demand(tensor, f"a patch of step {step}", which)

    def write_outside(self, tensor: int, which: NDArray[np.int64], step: int) -> None:
        """A patch of `step` writes these bytes of a value."""
        if which[-1] >= self._place(tensor).buffer.size_bytes:
            raise PlanError(f"step {step} writes beyond tensor {tensor}")
        self._arena.write(self._place(tensor), self._owners + tensor, which)

    def _window(self, step: int, node: Node, within: _Within) -> None:
        """A crop of what lies outside: read at any time of the step."""
        shape, small = (self._graph.tensors[t].shape for t in (node.inputs[0], node.outputs[0]))
        size = self._graph.tensors[node.inputs[0]].dtype.size_bytes
        read = within.call.source_bytes + _rectangle(shape, small, size)
        within.run.read_outside(within.source, read, within.step)
        self._store(node.outputs[0])
        within.run.read_outside(within.source, read, within.step)
        self._demand(node.outputs[0], f"the end of step {step}")

    def _tile(self, step: int, node: Node, within: _Within) -> None:
        """A paste into what lies outside."""
        shape, small = (self._graph.tensors[t].shape for t in (node.outputs[0], node.inputs[0]))
        size = self._graph.tensors[node.inputs[0]].dtype.size_bytes
        written = within.call.target_bytes + _rectangle(shape, small, size)
        self._demand(node.inputs[0], f"step {step}")
        within.run.write_outside(node.outputs[0], written, within.step)
        within.written[written] = True
        self._demand(node.inputs[0], f"the end of step {step}")

    def _step(self, step: int, node: Node) -> None:
        for tensor in node.inputs:
            self._demand(tensor, f"step {step}")
        binding = self._bindings[step] if step < len(self._bindings) else None
        scratch = self._placements.get(f"s{step}")
        group = _element_group(binding.parameters) if binding is not None else 0
        phases = _phases(binding.parameters) if binding is not None else None
        if len(node.outputs) == 1 and group:
            self._elements(step, node, group)
        elif len(node.outputs) == 1 and phases is not None:
            self._in_order(step, node, phases, scratch)
        else:
            self._any_order(step, node, scratch)

    def _any_order(self, step: int, node: Node, scratch: Placement | None) -> None:
        """Inputs are read until the step's last byte is written: they must survive its writes."""
        if scratch is not None:
            self._arena.write(scratch, self._scratch(step))
        for tensor in node.outputs:
            self._store(tensor)
        for tensor in (*node.inputs, *node.outputs):
            self._demand(tensor, f"the end of step {step}")
        if scratch is not None and not self._arena.holds(scratch, self._scratch(step)):
            raise PlanError(f"the scratch of step {step} is overwritten by its output")

    def _scratch(self, step: int) -> int:
        """An owner no tensor has."""
        return self._owners + len(self._graph.tensors) + step

    def _elements(self, step: int, node: Node, group: int) -> None:
        """An output element may take the place of one that was read in the same group or before."""
        out = self._place(node.outputs[0])
        written = np.arange(out.buffer.size_bytes)
        for tensor in dict.fromkeys(node.inputs):
            owner = self._owner_of(tensor)
            if owner is None:
                continue
            p = self._place(owner)
            if p.offset < out.end and out.offset < p.end:
                hit = written + out.offset - p.offset
                inside = (hit >= 0) & (hit < p.buffer.size_bytes)
                same_size = p.buffer.size_bytes == out.buffer.size_bytes
                if not same_size or (written[inside] // group < hit[inside] // group).any():
                    raise PlanError(f"step {step} overwrites elements of tensor {tensor} before it reads them")
        self._store(node.outputs[0])

    def _in_order(self, step: int, node: Node, phases: Iterator[_Phase], scratch: Placement | None) -> None:
        target = node.outputs[0]
        out, who = self._place(target), f"step {step}"
        written = np.zeros(out.buffer.size_bytes, dtype=np.bool_)
        for phase in phases:
            if scratch is not None:
                self._arena.write(scratch, self._scratch(step))
            source = node.inputs[phase.operand]
            self._demand(source, who, phase.reads)
            self._arena.write(out, self._owners + target, phase.writes)
            written[phase.writes] = True
            if phase.mixed:
                self._demand(source, who, phase.reads)
            if scratch is not None and not self._arena.holds(scratch, self._scratch(step)):
                raise PlanError(f"the scratch of step {step} is overwritten by its output")
        if not written.all():
            raise PlanError(f"step {step} leaves bytes of its output unwritten")
        self._home[target] = target
        self._demand(target, f"the end of step {step}")
