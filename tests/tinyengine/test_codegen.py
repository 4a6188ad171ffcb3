"""What the generated text promises: the header's contract, determinism, sharing, harmless names, small frames."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.tinyengine.hostbuild import WARNINGS, Flavour, HostBatch, write
from tests.tinyengine.random_graphs import Builder, random_graph, random_inputs
from tinyengine import codegen, cost, reference
from tinyengine.compile import Compiled, CompileOptions, compile_graph
from tinyengine.errors import UnsupportedOp
from tinyengine.fixedpoint import Requant
from tinyengine.importers import tflite
from tinyengine.ir import (
    Add,
    AveragePool2D,
    Concatenation,
    Conv2D,
    DepthwiseConv2D,
    DType,
    Graph,
    Node,
    Padding,
    QuantParams,
    Relu,
    Reshape,
    Tensor,
)
from tinyengine.kernels import catalogue
from tinyengine.sources import SourceFile, Sources

QUANT = QuantParams(scales=(0.5,), zero_points=(-3,))


def compiled(graph: Graph, requant: Requant = Requant.EXACT) -> Compiled:
    return compile_graph(graph, CompileOptions(requant=requant))


def builder(seed: int = 0, name: str = "net") -> Builder:
    return Builder(rng=np.random.default_rng(seed), name=name)


def define(model: Compiled, name: str) -> int:
    found = re.search(rf"^#define {name} (\d+)u$", model.sources.text("model.h"), re.MULTILINE)
    assert found is not None, name
    return int(found[1])


def test_the_header_states_sizes_and_counts() -> None:
    b = builder()
    x, y = b.input((1, 2, 3, 4), QUANT), b.input((1, 2, 3, 4), QUANT)
    z = b.node(Concatenation(axis=3), (x, y), (1, 2, 3, 8), QUANT)
    model = compiled(b.graph((z, x)))
    assert [f.name for f in model.sources.files] == ["model.c", "model.h", "model_weights.c"]
    assert define(model, "TE_INPUT_COUNT") == 2
    assert define(model, "TE_OUTPUT_COUNT") == 2
    assert define(model, "TE_INPUT_BYTES") == 48
    assert define(model, "TE_OUTPUT_BYTES") == 48 + 24
    assert define(model, "TE_LAYER_COUNT") == len(model.layers) == 1
    assert define(model, "TE_ARENA_BYTES") == model.plan.arena_bytes == 96


def test_the_same_graph_gives_the_same_bytes_and_digest() -> None:
    first, second = compiled(random_graph(5)), compiled(random_graph(5))
    assert first.sources == second.sources
    assert first.sources.digest() == second.sources.digest()


def test_the_declared_digest_covers_everything_but_its_own_line() -> None:
    sources = compiled(random_graph(5)).sources
    bare = tuple(
        SourceFile(name=f.name, text=re.sub(r"#define TE_SOURCES_DIGEST .*\n", "", f.text)) for f in sources.files
    )
    assert codegen.declared_digest(sources) == Sources(files=bare).digest()
    assert codegen.declared_digest(compiled(random_graph(6)).sources) != codegen.declared_digest(sources)


def test_rounding_changes_the_digest() -> None:
    digests = {codegen.declared_digest(compiled(random_graph(5), mode).sources) for mode in Requant}
    assert len(digests) == 2


@pytest.mark.parametrize(
    "name",
    [
        "*/ int evil(void); /*",
        "a\\\nb",
        "??/",
        "x" * 10_000,
        "\x00\x1b[31m",
        "<script>",
        "ünïcode/層",
        "$(rm -rf ~)",
        "",
    ],
)
def test_a_hostile_name_stays_inside_its_comment(name: str) -> None:
    b = builder(name=name)
    x = b.input((1, 4), QUANT)
    y = b.relu(x)
    graph = b.graph((y,))
    hostile = replace(
        graph,
        tensors=tuple(replace(t, name=name) for t in graph.tensors),
        nodes=tuple(replace(n, name=name) for n in graph.nodes),
    )
    model = compiled(hostile)
    for f in model.sources.files:
        assert "evil(" not in f.text
        assert all(ord(c) < 127 and (c == "\n" or ord(c) >= 32) for c in f.text)
        assert max(len(line) for line in f.text.splitlines()) < 1000
    inputs = random_inputs(graph, 0)
    (run,) = HostBatch([model], Flavour.O0).run([(0, inputs)])
    assert run.outputs[0].tobytes() == reference.run(graph, inputs)[0].tobytes()
    assert re.fullmatch(r"[A-Za-z0-9_./:-]*", model.layers[0].name)
    assert re.fullmatch(r"[A-Za-z0-9_./:-]*", model.input_names[0])


def two_equal_layers() -> Graph:
    b = builder(3)
    x = b.input((1, 4, 4, 4), QUANT)
    for _ in range(2):
        w = b.constant(b.int8((4, 1, 1, 4), -127), QuantParams(scales=(0.01,) * 4, zero_points=(0,) * 4, axis=0))
        bias = b.constant(b.rng.integers(-99, 99, 4).astype(np.int32), None)
        x = b.node(Conv2D(stride=(1, 1)), (x, w, bias), (1, 4, 4, 4), QUANT)
    return b.graph((x,))


def test_layers_with_equal_literals_share_one_function() -> None:
    model = compiled(two_equal_layers())
    text = model.sources.text("model.c")
    assert len(model.layers) == 2
    assert len(re.findall(r"^static void te_conv2d", text, re.MULTILINE)) == 1


def test_equal_constants_are_stored_once() -> None:
    b = builder(3)
    x = b.input((1, 8), QUANT)
    data = np.arange(8, dtype=np.int8).reshape(1, 8)
    y = b.node(Add(), (x, b.constant(data, QUANT)), (1, 8), QUANT)
    z = b.node(Add(), (y, b.constant(data.copy(), QUANT)), (1, 8), QUANT)
    weights = compiled(b.graph((z,))).sources.text("model_weights.c")
    assert len(re.findall(r"^_Alignas", weights, re.MULTILINE)) == 1


def tensor(shape: tuple[int, ...], data: NDArray[np.generic] | None = None) -> Tensor:
    return Tensor(name="t", shape=shape, dtype=DType.INT8, quant=QUANT, data=data)


def edge_cases() -> dict[str, Graph]:
    """Graphs whose inputs and outputs meet in unusual ways."""
    constant = np.arange(6, dtype=np.int8).reshape(2, 3)
    reshape = Node(name="r", op=Reshape(), inputs=(0,), outputs=(1,), source_index=0)
    cases = {
        "an input is the output": Graph(name="a", tensors=(tensor((2, 3)),), nodes=(), inputs=(0,), outputs=(0,)),
        "a constant is the output": Graph(
            name="b", tensors=(tensor((2, 3)), tensor((2, 3), constant)), nodes=(), inputs=(0,), outputs=(1, 0)
        ),
        "a reshaped input is the output": Graph(
            name="c", tensors=(tensor((2, 3)), tensor((6,))), nodes=(reshape,), inputs=(0,), outputs=(1,)
        ),
        "a reshaped constant is the output": Graph(
            name="d",
            tensors=(tensor((2, 3), constant), tensor((6,)), tensor((4,))),
            nodes=(reshape,),
            inputs=(2,),
            outputs=(1,),
        ),
    }
    b = builder()
    x, unused = b.input((1, 5), QUANT), b.input((1, 7), QUANT)
    y = b.relu(x)
    z = b.node(Add(), (x, y), (1, 5), QUANT)
    b.relu(z)  # nobody reads this one
    cases["an output is read by later nodes, one input and one result by none"] = b.graph((y, z, unused))
    b = builder(1)
    x = b.input((1, 5), QUANT)
    y = b.node(Reshape(), (x,), (5, 1), QUANT)
    z = b.node(Relu(clamp=b.clamp(), rescale=False), (y,), (5, 1), QUANT)
    cases["a value under two names is input, output and operand"] = b.graph((x, y, z))
    return cases


@pytest.mark.parametrize("flavour", [Flavour.O2, Flavour.SANITIZED])
def test_unusual_inputs_and_outputs_keep_their_values(flavour: Flavour) -> None:
    cases = list(edge_cases().items())
    models = [compiled(g) for _, g in cases]
    requests = [(i, random_inputs(g, 1)) for i, (_, g) in enumerate(cases)]
    for (i, inputs), run in zip(requests, HostBatch(models, flavour).run(requests), strict=True):
        expected = reference.run(cases[i][1], inputs)
        assert [e.tobytes() for e in expected] == [o.tobytes() for o in run.outputs], cases[i][0]


def test_weights_that_are_computed_are_refused_by_name() -> None:
    graph = two_equal_layers()
    w = graph.nodes[0].inputs[1]
    tensors = tuple(replace(t, data=None, name="w") if i == w else t for i, t in enumerate(graph.tensors))
    with pytest.raises(UnsupportedOp, match="CONV_2D at index 0, tensor 'w'"):
        compiled(replace(graph, tensors=tensors, inputs=(*graph.inputs, w)))


def test_an_accumulator_that_could_overflow_is_refused() -> None:
    b = builder()
    x = b.input((1, 1, 1, 1), QUANT)
    w = b.constant(np.full((1, 1, 1, 1), 127, dtype=np.int8), QuantParams(scales=(1.0,), zero_points=(0,)))
    bias = b.constant(np.array([2**31 - 100], dtype=np.int32), None)
    y = b.node(Conv2D(stride=(1, 1)), (x, w, bias), (1, 1, 1, 1), QUANT)
    with pytest.raises(UnsupportedOp, match="over int32"):
        compiled(b.graph((y,)))


def test_an_average_over_padding_alone_is_refused() -> None:
    b = builder()
    x = b.input((1, 2, 2, 1), QUANT)
    op = AveragePool2D(kernel=(2, 2), stride=(1, 1), padding=Padding(top=2))
    with pytest.raises(UnsupportedOp, match="nothing to average"):
        compiled(b.graph((b.node(op, (x,), (1, 3, 1, 1), QUANT),)))


def test_a_large_model_compiles_in_seconds(shared_dir: Path) -> None:
    data = (shared_dir / "models" / "tinyengine_mcunet_vww.tflite").read_bytes()
    graph = tflite.load(data, name="mcunet")
    started = time.process_time()
    compiled(graph)
    assert time.process_time() - started < 5


# --- catalogue and cost ----------------------------------------------------------------------------------------


def test_kernel_names_follow_the_grammar() -> None:
    names = {s.kernel for seed in range(60) for s in compiled(random_graph(seed)).schedule.steps}
    grammar = re.compile(
        r"te_[a-z0-9]+(_s8|_f32_s8|_s8_f32)?(_fx|_sr)?(_\d+x\d+(s\d+(x\d+)?)?(d\d+(x\d+)?)?)?(_[a-z]+)?__c"
    )
    assert [n for n in names if not grammar.fullmatch(n)] == []


def test_every_kernel_has_its_template() -> None:
    folder = Path(catalogue.__file__).parent
    for spec in (*catalogue.CATALOGUE, catalogue.COPY):
        room = folder / "portable" if spec.target is catalogue.Target.C else folder
        assert (room / spec.template).is_file(), spec.stem


def test_macs_count_padding_nominally_but_not_as_executed() -> None:
    b = builder()
    x = b.input((1, 3, 3, 2), QUANT)
    w, bias, quant = b.weights((5, 3, 3, 2), 0, 18, x)
    around = Padding(top=1, bottom=1, left=1, right=1)
    y = b.node(Conv2D(stride=(1, 1), padding=around), (x, w, bias), (1, 3, 3, 5), quant)
    wd, bias_d, quant_d = b.weights((1, 3, 3, 5), 3, 9, y)
    z = b.node(DepthwiseConv2D(stride=(2, 2), padding=around), (y, wd, bias_d), (1, 2, 2, 5), quant_d)
    model = compiled(b.graph((z,)))
    inside = 7 * 7  # taps of three outputs at stride 1: 2 + 3 + 2, in both directions
    assert model.macs == 9 * 9 * 2 * 5 + 4 * 9 * 5
    assert model.macs_executed == inside * 2 * 5 + 16 * 5
    assert [layer.macs for layer in model.layers] == [810, 180]
    assert model.weights_bytes == 5 * 18 + 20 + 45 + 20
    assert all(cost.estimated_cycles(model.graph, n) > 0 for n in model.graph.nodes)


# --- the C compilers ---------------------------------------------------------------------------------------------

ARM = ("arm-none-eabi-gcc", "-mcpu=cortex-m4", "-mthumb", "-mfpu=fpv4-sp-d16", "-mfloat-abi=hard")
FRAMES_LIMIT_BYTES = 700
"""The deepest chain is te_invoke, a layer, a kernel and memcpy: under 1 kB together with the firmware's frames."""


def deepest_frames(folder: Path) -> int:
    """The largest kernel frame plus those of te_invoke and the largest layer, which is never called by it."""
    frames: dict[str, int] = {}
    for report in folder.glob("*.su"):
        for line in report.read_text().splitlines():
            where, size, _ = line.split("\t")
            frames[where.rsplit(":", 1)[1]] = int(size)
    kernels = max((v for k, v in frames.items() if "layer" not in k and "invoke" not in k), default=0)
    layers = max((v for k, v in frames.items() if "layer" in k), default=0)
    return kernels + layers + frames.get("te_invoke", 0)


def build_for_arm(model: Compiled, folder: Path, level: str) -> int:
    files = write(model.sources, folder)
    command: list[str | Path] = [*ARM, *WARNINGS, level, "-fstack-usage", "-c", *files]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[:3000]
    return deepest_frames(folder)


needs_arm = pytest.mark.skipif(shutil.which(ARM[0]) is None, reason=f"{ARM[0]} is not installed")


@needs_arm
@pytest.mark.parametrize("level", ["-O2", "-O3"])
def test_generated_c_builds_for_arm_without_warnings_in_small_frames(tmp_path: Path, level: str) -> None:
    for seed, mode in ((0, Requant.EXACT), (3, Requant.SINGLE), (18, Requant.EXACT), (24, Requant.SINGLE)):
        folder = tmp_path / f"{seed}"
        assert build_for_arm(compiled(random_graph(seed), mode), folder, level) <= FRAMES_LIMIT_BYTES


@needs_arm
@pytest.mark.parametrize("name", ["mlperf_vww_96_int8", "mlperf_pretrainedResnet_quant"])
def test_a_real_model_keeps_its_frames_small(shared_dir: Path, tmp_path: Path, name: str) -> None:
    graph = tflite.load((shared_dir / "models" / f"{name}.tflite").read_bytes(), name=name)
    assert build_for_arm(compiled(graph), tmp_path, "-O2") <= FRAMES_LIMIT_BYTES


def test_float_rescaling_refuses_to_build_where_the_compiler_may_fuse(tmp_path: Path) -> None:
    """GNU dialects let gcc turn a product and a sum into one rounding: other bytes, and nobody would notice."""
    files = write(compiled(two_equal_layers(), Requant.SINGLE).sources, tmp_path)
    command = ["gcc", "-c", "-o", os.devnull, str(files[0])]

    def builds(*options: str) -> bool:
        return subprocess.run([*command, *options], capture_output=True, timeout=60, check=False).returncode == 0

    assert builds("-std=c11")
    assert builds("-std=gnu11", "-ffp-contract=off", "-DTE_FP_CONTRACT_OFF")
    assert not builds("-std=gnu11")
    assert not builds("-std=c11", "-ffast-math")


# --- golden files ------------------------------------------------------------------------------------------------


def golden_graphs() -> dict[str, Graph]:
    """Small networks whose C is worth reading in a diff."""
    b = builder(11, "depthwise_separable")
    x = b.input((1, 5, 5, 3), QuantParams(scales=(0.05,), zero_points=(-4,)))
    around = Padding(top=1, bottom=1, left=1, right=1)
    wd, bias_d, quant_d = b.weights((1, 3, 3, 3), 3, 9, x)
    d = b.node(DepthwiseConv2D(stride=(1, 1), padding=around), (x, wd, bias_d), (1, 5, 5, 3), quant_d)
    wp, bias_p, quant_p = b.weights((5, 1, 1, 3), 0, 3, d)
    p = b.node(Conv2D(stride=(1, 1)), (d, wp, bias_p), (1, 5, 5, 5), quant_p)
    separable = b.graph((b.softmax(b.mean(p)),))
    b = builder(12, "residual")
    x = b.input((1, 4, 4, 2), QuantParams(scales=(0.05,), zero_points=(7,)))
    w, bias, quant = b.weights((2, 3, 3, 2), 0, 18, x)
    y = b.node(Conv2D(stride=(1, 1), padding=around), (x, w, bias), (1, 4, 4, 2), quant)
    residual = b.graph((b.elementwise(y, Add, x),))
    return {"depthwise_separable": separable, "residual": residual}


@pytest.mark.parametrize("mode", list(Requant))
@pytest.mark.parametrize("name", ["depthwise_separable", "residual"])
def test_generated_c_is_the_golden_file(name: str, mode: Requant, update_golden: bool) -> None:
    sources = compiled(golden_graphs()[name], mode).sources
    text = "".join(f"==== {f.name}\n{f.text}" for f in sources.files)
    path = Path(__file__).parent / "golden" / "c" / f"{name}_{mode.value}.txt"
    if update_golden:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert text == path.read_text(), (
        f"{path.name} differs; --update-golden rewrites it, the diff shows what changed"
    )
