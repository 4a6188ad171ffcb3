"""A watched data access inside an IT block must not make the next block conditional."""

from __future__ import annotations

import pytest

from harness.chips import load_chip

uc = pytest.importorskip("unicorn")

# cmp r4, r4; itt eq; ldreq r0, [r1]; streq r0, [r1, #4]; cmp r4, #1; b next; next: movs r3, #1; b .
_PROGRAM = bytes.fromhex("a442 04bf 0868 4860 012c ffe7 0123 fee7".replace(" ", ""))


@pytest.mark.parametrize(
    ("chip", "base"), [("stm32h743", 0x24000000), ("stm32f746", 0x20010000), ("stm32f412", 0x08001000)]
)
def test_the_block_after_a_conditional_access_runs(chip: str, base: int) -> None:
    from unicorn import arm_const

    from harness.sim import native
    from harness.sim.memory_model import chip_memory

    engine = uc.Uc(uc.UC_ARCH_ARM, uc.UC_MODE_THUMB | uc.UC_MODE_MCLASS)
    part = load_chip(chip)
    engine.ctl_set_cpu_model(
        arm_const.UC_CPU_ARM_CORTEX_M7 if part.core == "cortex-m7" else arm_const.UC_CPU_ARM_CORTEX_M4
    )
    for memory in part.memories:
        engine.mem_map(memory.base, memory.bytes)
    engine.mem_write(0x08000000, _PROGRAM)
    timing = native.NativeCore(engine, core=part.emulated_core, memory=chip_memory(part, "chip"))
    timing.set_wait_states(part.clock.wait_states)
    timing.set_caches(True, True)
    engine.reg_write(arm_const.UC_ARM_REG_R1, base)
    timing.begin_slice(50)
    engine.emu_start(0x08000001, 0)
    assert engine.reg_read(arm_const.UC_ARM_REG_R3) == 1
