"""The registers of an emulated core: as the engine holds them, and as a debugger numbers them (DCRSR.REGSEL)."""

from __future__ import annotations

from typing import Any

from unicorn import arm_const as arm

GENERAL = (
    arm.UC_ARM_REG_R0, arm.UC_ARM_REG_R1, arm.UC_ARM_REG_R2, arm.UC_ARM_REG_R3, arm.UC_ARM_REG_R4,
    arm.UC_ARM_REG_R5, arm.UC_ARM_REG_R6, arm.UC_ARM_REG_R7, arm.UC_ARM_REG_R8, arm.UC_ARM_REG_R9,
    arm.UC_ARM_REG_R10, arm.UC_ARM_REG_R11, arm.UC_ARM_REG_R12,
)  # fmt: skip


XPSR_T = 1 << 24


class Registers:
    """Registers of one engine. `pc` is ours: the engine's own is not valid between slices."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self.pc = 0

    def get(self, register: int) -> int:
        """A register by the engine's number."""
        return int(self._engine.reg_read(register)) & 0xFFFF_FFFF

    def set(self, register: int, value: int) -> None:
        """Sets a register by the engine's number."""
        self._engine.reg_write(register, value)

    @property
    def exception(self) -> int:
        """Number of the exception being handled; 0 in thread mode."""
        return self.get(arm.UC_ARM_REG_XPSR) & 0x1FF

    def reset(self, *, sp: int, entry: int) -> None:
        """As after a reset."""
        for register in GENERAL:
            self.set(register, 0)
        self.set(arm.UC_ARM_REG_XPSR, XPSR_T)
        for register in (arm.UC_ARM_REG_CONTROL, arm.UC_ARM_REG_PRIMASK, arm.UC_ARM_REG_BASEPRI,
                         arm.UC_ARM_REG_FAULTMASK, arm.UC_ARM_REG_PSP):  # fmt: skip
            self.set(register, 0)
        self.set(arm.UC_ARM_REG_SP, sp & ~3)
        self.set(arm.UC_ARM_REG_LR, 0xFFFF_FFFF)
        self.pc = entry & ~1

    def read(self, selector: int) -> int:
        """A core register by REGSEL (DDI 0403, C1.6.3)."""
        if selector == 15:
            return self.pc
        if selector == 20:
            return self._special()
        register = _selected(selector)
        return 0 if register is None else self.get(register)

    def write(self, selector: int, value: int) -> None:
        """Sets a core register by REGSEL."""
        if selector == 15:
            self.pc = value & ~1
        elif selector == 20:
            self._set_special(value)
        elif (register := _selected(selector)) is not None:
            if register == arm.UC_ARM_REG_XPSR:
                value |= XPSR_T
            self.set(register, value)

    def _special(self) -> int:
        control = self.get(arm.UC_ARM_REG_CONTROL) & 3
        fault, base = self.get(arm.UC_ARM_REG_FAULTMASK) & 1, self.get(arm.UC_ARM_REG_BASEPRI) & 0xFF
        return control << 24 | fault << 16 | base << 8 | (self.get(arm.UC_ARM_REG_PRIMASK) & 1)

    def _set_special(self, value: int) -> None:
        self.set(arm.UC_ARM_REG_PRIMASK, value & 1)
        self.set(arm.UC_ARM_REG_BASEPRI, value >> 8 & 0xFF)
        self.set(arm.UC_ARM_REG_FAULTMASK, value >> 16 & 1)
        self.set(arm.UC_ARM_REG_CONTROL, value >> 24 & 3)


def _selected(selector: int) -> int | None:
    """The engine's register for a REGSEL; None for those without one."""
    if selector < 13:
        return GENERAL[selector]
    if 64 <= selector < 96:
        return int(arm.UC_ARM_REG_S0) + selector - 64
    named = {
        13: arm.UC_ARM_REG_SP, 14: arm.UC_ARM_REG_LR, 16: arm.UC_ARM_REG_XPSR, 17: arm.UC_ARM_REG_MSP,
        18: arm.UC_ARM_REG_PSP, 33: arm.UC_ARM_REG_FPSCR,
    }  # fmt: skip
    found = named.get(selector)
    return None if found is None else int(found)
