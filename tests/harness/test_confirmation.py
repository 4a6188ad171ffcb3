"""`tinyrack sim confirm`: the same image on two engines, the same cycles and the same bytes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from harness import chips, host, paths
from harness.cli.main import main
from harness.errors import BoardTimeout, ConfigError, MissingTool
from harness.images.build import build
from harness.images.placement import Rule, placed
from harness.images.plan import BuildPlan
from harness.images.toolchain import find_toolchain
from harness.job import Kernels
from harness.sim import hot_blocks
from harness.sim.confirmation import confirm
from harness.sim.emulators import qemu
from tinyengine import zoo
from tinyengine.compile import CompileOptions, compile_graph

pytestmark = [
    pytest.mark.skipif(not host.can_simulate(), reason="simulated boards run on Linux only"),
    pytest.mark.skipif(shutil.which(qemu.QEMU) is None, reason=f"QEMU ABSENT: install it with {qemu.INSTALL}"),
]


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINYRACK_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.delenv("TINYRACK_BOARDS", raising=False)


def image(chip_name: str, rule: Rule = Rule.FLASH) -> Path:
    """The firmware with a small network, as `bench` builds it with that placement."""
    chip = chips.load_chip(chip_name)
    try:
        toolchain = find_toolchain()
    except MissingTool as e:
        pytest.skip(f"TOOLCHAIN ABSENT: {e}")
    compiled = compile_graph(zoo.load("ds-cnn"), CompileOptions(target=Kernels.AUTO.target(chip.core)))
    placement = placed(rule, chip, compiled)
    plan = BuildPlan.of_chip(chip, compiled.sources, toolchain=toolchain, placement=placement)
    return build(plan, cache_dir=paths.cache_dir()).elf


@pytest.mark.parametrize("chip", ["stm32f412", "mps2-an500"])
def test_both_engines_come_to_the_same_cycles_and_bytes(chip: str) -> None:
    found = confirm(image(chip), chips.load_chip(chip), blocks=2)
    assert found.same_arena
    assert found.arena_bytes > 1000
    assert found.cycles > 100_000
    # The call itself is a few cycles; the engines' blocks differ by less.
    assert abs(found.difference_percent) < 0.1
    assert found.qemu_instructions > 0.4 * found.qemu_cycles
    assert len(found.hot_blocks) == 2
    if hot_blocks.find_llvm_mca() is not None:
        assert all(block.ratio is not None for block in found.hot_blocks)


def test_an_image_that_qemu_has_no_memory_for_is_refused_in_one_line() -> None:
    with pytest.raises(ConfigError, match=r"has .* B at .*; QEMU's netduinoplus2 has memory at 0x8000000"):
        confirm(image("mps2-an500"), chips.load_chip("stm32f412"))


def test_a_program_of_others_is_refused(tmp_path: Path) -> None:
    import subprocess

    elf = tmp_path / "other.elf"
    (tmp_path / "p.S").write_text(".globl _start\n_start: b .\n")
    subprocess.run(
        [find_toolchain().gcc, "-nostdlib", "-Wl,-Ttext=0x08000000", tmp_path / "p.S", "-o", elf],
        check=True, timeout=60,
    )  # fmt: skip
    with pytest.raises(ConfigError, match="has no symbol te_invoke; `tinyrack bench --save` keeps images of ours"):
        confirm(elf, chips.load_chip("stm32f412"))


def test_an_inference_that_does_not_end_has_a_deadline() -> None:
    with pytest.raises(BoardTimeout, match="gave no answer within"):
        confirm(image("stm32f412"), chips.load_chip("stm32f412"), blocks=0, limit_s=1e-6)


def test_the_command_says_both_and_exits_by_the_difference(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(
            ["sim", "confirm", str(image("stm32f412")), "--board", "f412-sim", "--blocks", "1", "--json",
             str(tmp_path / "c.json")]
        )  # fmt: skip
    assert ended.value.code in (None, 0)
    document = json.loads((tmp_path / "c.json").read_text())
    assert document["same_arena"] is True
    assert abs(document["difference_percent"]) < 0.1
    assert {"ratio", "llvm_mca", "modelled"} <= set(document["hot_blocks"][0])
    out = capsys.readouterr().out
    assert "QEMU (netduinoplus2)" in out and "of the arena are the same" in out


def test_a_default_image_of_an_m7_is_refused_with_the_command_that_keeps_one_that_fits() -> None:
    with pytest.raises(
        ConfigError, match=r"if these are copies .* --placement flash --save DIR` keeps an image without"
    ):
        confirm(image("stm32f746", Rule.DEFAULT), chips.load_chip("stm32f746"))
