# ruff: noqa: E501  # a rule and its replacement read best on one line
"""Deleting any rule of the timing model makes a micro-case fail; each is taken out in a copy of the library."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.sim import native
from harness.sim.micro_cases import load_cases, run_cases

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("arm-none-eabi-as") is None, reason="NO ARM ASSEMBLER: apt install binutils-arm-none-eabi"
    ),
]
M4, M7 = "cortex_m4.c", "cortex_m7.c"
RULES = {
    "M4 address stall": (M4, "if (i->address & produced) cycles += 1;", ""),
    "M4 FP result late": (M4, "if (i->fp_reads & fp_late) cycles += 1;", ""),
    "M4 loads overlap": (M4, "const int follows = load_open && !straddles", "const int follows = 0 && !straddles"),
    "M4 loaded address": (M4, "!(i->address & loaded) &&\n", "1 &&\n"),
    "M4 split load": (M4, "const int straddles = i->size == 4 && (i->pc & 2u);", "const int straddles = 0;"),
    "M4 chained base": (M4, "pipe->u.m4.chain_base = i->base;", ""),
    "M4 register-offset store": (M4, "if ((i->traits & TR_REGISTER_OFFSET) || is_fp)", "if (is_fp)"),
    "M4 FP store": (M4, "if ((i->traits & TR_REGISTER_OFFSET) || is_fp)", "if (i->traits & TR_REGISTER_OFFSET)"),
    "M4 multiple": (M4, "cycles += i->count;", ""),
    "M4 table branch": (M4, "cycles += 2; /* two for the load", "/* two for the load"),
    "M4 folded IT": (M4, "if (narrow) cycles -= 1;", ""),
    "M4 FP multiply-accumulate": (M4, "cycles += FP_MAC_CYCLES - 1;", ""),
    "M4 FP divide": (M4, "cycles += FP_DIVIDE_CYCLES - 1;", ""),
    "M4 refill": (M4, "BRANCH_REFILL_CYCLES = 2,", "BRANCH_REFILL_CYCLES = 1,"),
    "M4 split refill": (M4, "BRANCH_REFILL_SPLIT_CYCLES = 3,", "BRANCH_REFILL_SPLIT_CYCLES = 2,"),
    "M4 refill after a load": (M4, "LOADED_BRANCH_REFILL_CYCLES = 3,", "LOADED_BRANCH_REFILL_CYCLES = 2,"),
    "M4 division": (M4, "return DIVIDE_MIN_CYCLES + (quotient_bits", "return 0 * (quotient_bits"),
    "M7 dual issue": (M7, "pipe->u.m7.slot_open = !(flags & ISSUE_ALONE);", "pipe->u.m7.slot_open = 0;"),
    "M7 early ALU": (M7, "if (runs_early(i, pipe, pipe->u.m7.older, is_younger))", "if (0)"),
    "M7 shifted pair": (M7, "ISSUE_MULTIPLY | ISSUE_SHIFTED | ISSUE_BRANCH", "ISSUE_MULTIPLY | ISSUE_BRANCH"),
    "M7 store pair": (M7, "(ISSUE_STORE | ISSUE_MULTIPLY", "(ISSUE_MULTIPLY"),
    "M7 multiply pair": (M7, "(ISSUE_STORE | ISSUE_MULTIPLY", "(ISSUE_STORE"),
    "M7 FP pair": (M7, "ISSUE_BRANCH | ISSUE_FP | ISSUE_FP_CONSTANT", "ISSUE_BRANCH | ISSUE_FP_CONSTANT"),
    "M7 bit-field slot": (M7, "if (younger & ISSUE_BITFIELD) return 0;", ""),
    "M7 multiply and store": (M7, "if ((older & ISSUE_MULTIPLY && younger & ISSUE_STORE)", "if ((0)"),
    "M7 bit-field and shifted": (M7, "if (older & ISSUE_EARLY_SHIFTER && younger & ISSUE_SHIFTED) return 0;", ""),
    "M7 FP accumulate and move": (M7, "if ((older | younger) & ISSUE_FP_MAC && (older | younger) & ISSUE_FP_MOVE)", "if (0)"),
    "M7 banks": (M7, "return bank != pipe->u.m7.older_bank;", "return 1;"),
    "M7 alone": (M7, "if ((older | younger) & ISSUE_ALONE) return 0;", ""),
    "M7 shifter reads early": (M7, "else if (i->shifted & bit) raise_to(&wait, wait_of(pipe->u.m7.early[r], STAGE_EARLY));", ""),
    "M7 addresses read early": (M7, "if (i->address & bit) raise_to(&wait, wait_of(pipe->u.m7.early[r], STAGE_EARLY));", "if (0) ;"),
    "M7 accumulators read late": (M7, "STAGE_ACCUMULATE = 2,", "STAGE_ACCUMULATE = 1,"),
    "M7 stores read late": (M7, "STAGE_STORE = 3,", "STAGE_STORE = 1,"),
    "M7 load to multiply": (M7, "else if (multiplies || i->shifted)", "else if (0)"),
    "M7 byte loads": (M7, "else set_registers(pipe, core_writes & ~based, 3, 3, 3);", "else set_registers(pipe, core_writes & ~based, 2, 2, 3);"),
    "M7 multiply latency": (M7, "case TR_OP_MUL: case TR_OP_LMUL: case TR_OP_MAC16:\n        set_registers(pipe, core_writes, 3, 3, 3);", "case TR_OP_MUL: case TR_OP_LMUL: case TR_OP_MAC16:\n        set_registers(pipe, core_writes, 2, 2, 2);"),
    "M7 REV": (M7, "if (i->traits & TR_REVERSE) set_registers(pipe, core_writes, 1, 2, 1);\n        else if", "if"),
    "M7 saturation": (M7, "else if (i->traits & TR_SATURATES) set_registers(pipe, core_writes, 3, 3, 3);", ""),
    "M7 extend to address": (M7, "else set_registers(pipe, core_writes, 2, 2, 2);\n        break;\n    case TR_OP_MUL", "else set_registers(pipe, core_writes, 1, 1, 1);\n        break;\n    case TR_OP_MUL"),
    "M7 base update": (M7, "set_registers(pipe, based, 1, 1, 1);\n        set_fp(pipe, i->fp_writes, 1,", "set_registers(pipe, based, 2, 2, 2);\n        set_fp(pipe, i->fp_writes, 1,"),
    "M7 multiple": (M7, "busy = (i->count + 1u) / 2u;", "busy = i->count;"),
    "M7 store buffer": (M7, "NARROW_STORE_FIFTHS = 12,", "NARROW_STORE_FIFTHS = 5,"),
    "M7 store buffer, same bank": (M7, "NARROW_SAME_BANK_FIFTHS = 20,", "NARROW_SAME_BANK_FIFTHS = 12,"),
    "M7 store buffer, other bank": (M7, "NARROW_OTHER_BANK_FIFTHS = 10,", "NARROW_OTHER_BANK_FIFTHS = 12,"),
    "M7 misprediction": (M7, "MISPREDICT_CYCLES = 8,", "MISPREDICT_CYCLES = 6,"),
    "M7 early flags": (M7, "MISPREDICT_FLAGS_READY_CYCLES = 6,", "MISPREDICT_FLAGS_READY_CYCLES = 8,"),
    "M7 FP latency": (M7, "FP_ALU_LATENCY = 3,", "FP_ALU_LATENCY = 2,"),
    "M7 FP MAC latency": (M7, "FP_MAC_LATENCY = 5,", "FP_MAC_LATENCY = 4,"),
    "M7 FP MAC accumulator": (M7, "FP_MAC_ACCUMULATE_LATENCY = 3,", "FP_MAC_ACCUMULATE_LATENCY = 4,"),
    "M7 FP divide": (M7, "FP_DIVIDE_CYCLES = 16,", "FP_DIVIDE_CYCLES = 15,"),
    "M7 FP square root": (M7, "FP_SQRT_CYCLES = 14,", "FP_SQRT_CYCLES = 13,"),
}  # fmt: skip


@pytest.fixture
def library_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Sources of the library that a test may change; the changed library is used in this test only."""
    copy = tmp_path / "timing"
    shutil.copytree(native._SOURCES, copy)
    monkeypatch.setattr(native, "_SOURCES", copy)
    monkeypatch.setenv("TINYRACK_CACHE_DIR", str(tmp_path / "cache"))
    native._library.cache_clear()
    yield copy
    native._library.cache_clear()


@pytest.mark.parametrize("rule", RULES)
def test_deleting_the_rule_makes_a_micro_case_fail(rule: str, library_copy: Path) -> None:
    name, old, new = RULES[rule]
    source = library_copy / name
    text = source.read_text()
    assert old in text, "the rule has moved: adapt this table"
    source.write_text(text.replace(old, new))
    core = "cortex-m4" if name == M4 else "cortex-m7"
    assert any(not result.ok for result in run_cases([c for c in load_cases() if c.core == core]))
