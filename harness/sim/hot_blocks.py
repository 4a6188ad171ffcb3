"""The blocks in which generated kernels spend their cycles, priced by the timing model and by llvm-mca.

llvm-mca reads LLVM's scheduling model of the core and knows nothing of branches, banks or the store buffer: it is
a second opinion on straight-line code, not a reference.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness import paths
from harness.chips import EmulatedCore, load_chip
from harness.images.build import build
from harness.images.placement import Rule, placed
from harness.images.plan import BuildPlan
from harness.images.toolchain import find_toolchain
from harness.job import Kernels
from harness.sim.bare import BareMachine
from harness.sim.native import loop_cycles
from tinyengine import zoo
from tinyengine.compile import CompileOptions, compile_graph

MODELS = ("zoo:ds-cnn", "zoo:mobilenetv2-w0.35-r64", "zoo:resnet-8", "zoo:ad-autoencoder")
"""Of the zoo, so that they are everywhere; MLPerf Tiny's four kinds: keywords, persons, objects, anomalies."""
_CHIPS: dict[EmulatedCore, str] = {"cortex-m4": "stm32f412", "cortex-m7": "stm32h743"}
_TRIPLE = "thumbv7em-none-eabihf"
_ROUNDS = 200
_TIMEOUT_S = 60.0
_BLOCKS = 6
_LEAST_INSTRUCTIONS = 8
_LINE = re.compile(r"^\s*[0-9a-f]+:\t(?P<text>.+)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class HotBlock:
    """One block and what the two models make of it, in cycles a round.

    Args:
        share: of the model's cycles that are spent in it, by the timing model.
        llvm_mca: None when llvm-mca is not installed or cannot take the block; `note` says which.
    """

    core: EmulatedCore
    model: str
    name: str
    instructions: int
    share: float
    modelled: float
    llvm_mca: float | None
    note: str

    @property
    def ratio(self) -> float | None:
        """Modelled over llvm-mca."""
        return None if not self.llvm_mca else self.modelled / self.llvm_mca


def find_llvm_mca() -> str | None:
    """The program, by whichever of its names it is installed."""
    names = ("llvm-mca", *(f"llvm-mca-{version}" for version in range(20, 12, -1)))
    return next((found for name in names if (found := shutil.which(name))), None)


def hottest(core: EmulatedCore, model: str, *, count: int = _BLOCKS) -> tuple[HotBlock, ...]:
    """The `count` blocks that take most cycles of one inference of a zoo model with the fast kernels of the core.

    Raises:
        MissingTool: no arm-none-eabi-gcc, or no C compiler for the timing library.
    """
    chip, toolchain = load_chip(_CHIPS[core]), find_toolchain()
    graph = zoo.load(model.removeprefix("zoo:"))
    compiled = compile_graph(graph, CompileOptions(target=Kernels.AUTO.target(core)))
    placement = placed(Rule.DEFAULT, chip, compiled)
    plan = BuildPlan.of_chip(chip, compiled.sources, toolchain=toolchain, placement=placement)
    image = build(plan, cache_dir=paths.cache_dir())
    with BareMachine(image.elf, core=core) as machine:
        values = np.random.default_rng(0).integers(0, 256, compiled.plan.arena_bytes, dtype=np.uint8)
        return price(
            machine, image.elf, core=core, model=model, entry="te_invoke", arena=machine.symbols["tr_arena"],
            content=values.tobytes(), count=count,
        )[0]  # fmt: skip


def price(
    machine: BareMachine,
    elf: Path,
    *,
    core: EmulatedCore,
    model: str,
    entry: str,
    arena: int,
    content: bytes,
    count: int,
) -> tuple[tuple[HotBlock, ...], int]:
    """Calls `entry` with the arena and prices the blocks that take most cycles.

    Args:
        model: for the report.
        content: of the arena before the call.

    Returns:
        The blocks, and the cycles of the whole call.
    """
    from unicorn import unicorn_const

    seen: Counter[tuple[int, int]] = Counter()

    def on_block(_uc: object, address: int, size: int, _data: object) -> None:
        seen[address, size] += 1

    machine.uc.mem_write(arena, content)
    hook = machine.uc.hook_add(unicorn_const.UC_HOOK_BLOCK, on_block)
    total = machine.call(entry, arena)
    machine.uc.hook_del(hook)
    code = {(pc, size): bytes(machine.uc.mem_read(pc, size)) for pc, size in seen}
    names = _names(machine.symbols)
    priced = [(times * loop_cycles(code[at], at[0], core=core), at) for at, times in seen.items() if at[1] >= 16]
    priced.sort(key=lambda one: (-one[0], one[1]))
    out: list[HotBlock] = []
    for cycles, (pc, size) in priced:
        if len(out) == count:
            break
        lines = _disassemble(elf, pc, size)
        if len(lines) < _LEAST_INSTRUCTIONS:
            continue
        modelled = loop_cycles(code[pc, size], pc, core=core)
        other, note = _ask_llvm_mca(core, lines)
        out.append(
            HotBlock(
                core=core, model=model, name=names(pc), instructions=len(lines), share=cycles / total,
                modelled=modelled, llvm_mca=other, note=note,
            )
        )  # fmt: skip
    return tuple(out), total


def _names(symbols: dict[str, int]) -> _Namer:
    return _Namer(sorted((at, name) for name, at in symbols.items() if name.startswith("te_")))


class _Namer:
    """Function and offset of an address."""

    def __init__(self, functions: Sequence[tuple[int, str]]) -> None:
        self._functions = functions

    def __call__(self, pc: int) -> str:
        at, name = max((f for f in self._functions if f[0] <= pc), default=(0, "?"))
        return f"{name}+{pc - at:#x}"


def _disassemble(elf: Path, pc: int, size: int) -> list[str]:
    done = subprocess.run(
        [
            "arm-none-eabi-objdump", "-d", "--no-show-raw-insn", f"--start-address={pc:#x}",
            f"--stop-address={pc + size:#x}", str(elf),
        ],
        capture_output=True, text=True, timeout=_TIMEOUT_S, check=True,
    )  # fmt: skip
    return [found["text"].strip() for line in done.stdout.splitlines() if (found := _LINE.match(line))]


def _as_source(line: str) -> str:
    """objdump's line as llvm's assembler takes it; addresses of branches and literals do not matter here."""
    text = re.split(r"\s+[;@]", line)[0].strip()
    name, _, rest = text.partition("\t")
    if re.fullmatch(r"(b|b[a-z]{2}|cbn?z)(\.[nw])?", name) and name.split(".")[0] not in ("bx", "bic", "bfi"):
        register = rest.split(",")[0] + ", " if name.startswith("cb") else ""
        return f"{name}\t{register}1f"
    if name.split(".")[0] == "bl":
        return f"{name}\t1f"
    if "]" in rest and ("]!" in rest or "]," in rest):
        # llvm-mca 14 falls over the wide spelling of a load with write-back, and there is no narrow one.
        name = name.removesuffix(".w")
    return f"{name}\t{rest}"


def _ask_llvm_mca(core: EmulatedCore, lines: Sequence[str]) -> tuple[float | None, str]:
    """Cycles a round, or None and why not."""
    program = find_llvm_mca()
    if program is None:
        return None, "llvm-mca is not installed (apt install llvm)"
    if any(re.match(r"it[te]*\t", line) for line in lines):
        return None, "IT blocks are beyond llvm-mca"
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "block.s"
        source.write_text(".syntax unified\n.thumb\n" + "\n".join(map(_as_source, lines)) + "\n1:\n")
        command = [program, f"--mtriple={_TRIPLE}", f"-mcpu={core}", "--json"]
        command += ["--instruction-info=0", "--resource-pressure=0", "--summary-view"]
        rounds = []
        for count in (_ROUNDS, 2 * _ROUNDS):
            done = subprocess.run(
                [*command, f"-iterations={count}", str(source)],
                capture_output=True, text=True, timeout=_TIMEOUT_S, check=False,
            )  # fmt: skip
            if done.returncode != 0:
                reason = next((line for line in done.stderr.splitlines() if "error:" in line), "it crashed")
                return None, f"llvm-mca: {reason.split('error:')[-1].strip()}"
            rounds.append(_total_cycles(done.stdout))
    return (rounds[1] - rounds[0]) / _ROUNDS, ""


def _total_cycles(document: str) -> int:
    parsed = json.loads(document[document.index("{") :])
    summary = parsed.get("SummaryView") or parsed["CodeRegions"][0]["SummaryView"]
    return int(summary["TotalCycles"])
