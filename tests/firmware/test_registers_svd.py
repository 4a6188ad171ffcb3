"""Every register address and field that the firmware uses, against ST's SVD files and Arm's documents."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from harness import paths
from harness.chips import chip_names, load_chip, machine_names
from tests.firmware.svd import Svd, mask_of

SVD_FILES = {
    "stm32f412": "STM32F412.svd.xz",
    "stm32f746": "STM32F7x6.svd.xz",
    "stm32f765": "STM32F765.svd.xz",
    "stm32h743": "STM32H743x.svd.xz",
}

# Names that ST's files spell differently.
PERIPHERALS = {
    "stm32f412": {"DBGMCU": "DBG", "USART": "USART3", "GPIO": "GPIOD"},
    "stm32f746": {"DBGMCU": "DBG", "USART": "USART3", "GPIO": "GPIOD"},
    "stm32f765": {"DBGMCU": "DBG", "USART": "USART3", "GPIO": "GPIOD"},
    "stm32h743": {"FLASH": "Flash", "USART": "USART3", "GPIO": "GPIOD"},
}
REGISTERS = {
    **{(chip, "DBGMCU", "IDCODE"): "DBGMCU_IDCODE" for chip in ("stm32f412", "stm32f746", "stm32f765")},
    **{(chip, "GPIO", "OSPEEDR"): "GPIOB_OSPEEDR" for chip in ("stm32f746", "stm32f765")},
    ("stm32h743", "AXI", "TARG7_FN_MOD"): "AXI_TARG7_FN_MOD",
}
# What the files lack or have wrong, with the place in the reference manual that settles it.
NOT_IN_SVD = {
    # RM0433 rev 8, 60.5.8: DBGMCU_IDC at 0x5C001000, DEV_ID 11:0, REV_ID 31:16. The file has no DBGMCU.
    ("stm32h743", "DBGMCU_IDC"): 0x5C001000,
    ("stm32h743", "DBGMCU_IDC_DEV_ID"): 0x00000FFF,
    ("stm32h743", "DBGMCU_IDC_REV_ID"): 0xFFFF0000,
}
WIDER_IN_SVD = {
    # RM0433 rev 8, 12.4.4: SYSCFG_PWRCR has one bit, ODEN (bit 0); the file gives it four.
    ("stm32h743", "SYSCFG_PWRCR_ODEN"): (0x1, 0xF),
}

# Reset values that the firmware relies on because it never writes the field.
RESET = {
    # Kernel clock of USARTs = bus clock; timers' prescaler (TIMPRE) = 0. HSIDIV = 1.
    "stm32h743": [
        ("RCC", "D2CCIP2R", "USART234578SRC", 0), ("RCC", "D2CCIP2R", "USART16SRC", 0),
        ("RCC", "CFGR", "TIMPRE", 0), ("RCC", "CR", "HSIDIV", 0), ("RCC", "D1CFGR", "D1CPRE", 0),
    ],
    "stm32f746": [("RCC", "DKCFGR1", "TIMPRE", 0), ("RCC", "CFGR", "SW", 0)],
    "stm32f765": [("RCC", "DKCFGR1", "TIMPRE", 0), ("RCC", "CFGR", "SW", 0)],
    "stm32f412": [("RCC", "CFGR", "SW", 0), ("FLASH", "ACR", "ICEN", 0), ("FLASH", "ACR", "DCEN", 0)],
}  # fmt: skip
# RCC_DCKCFGR2's USART fields are not above: the F7 files give 0x20003000 where RM0385 and RM0410 (5.3.26) say 0.

# Arm: DDI 0403E.e (ARMv7-M ARM), DDI 0489F (Cortex-M7 TRM). Address or field mask, with the section.
CORE = {
    "DWT_CTRL": (0xE0001000, "DDI 0403E.e C1.8.7"),
    "DWT_CTRL_CYCCNTENA": (1 << 0, "DDI 0403E.e C1.8.7"),
    "DWT_CYCCNT": (0xE0001004, "DDI 0403E.e C1.8.8"),
    "DWT_LAR": (0xE0001FB0, "DDI 0403E.e D1.2.3, DDI 0489F 11.4"),
    "DWT_LAR_KEY": (0xC5ACCE55, "DDI 0403E.e D1.2.3"),
    "DCB_DEMCR": (0xE000EDFC, "DDI 0403E.e C1.6.5"),
    "DCB_DEMCR_TRCENA": (1 << 24, "DDI 0403E.e C1.6.5"),
    "SCB_CPUID": (0xE000ED00, "DDI 0403E.e B3.2.3"),
    "SCB_VTOR": (0xE000ED08, "DDI 0403E.e B3.2.5"),
    "SCB_CCR": (0xE000ED14, "DDI 0403E.e B3.2.8"),
    "SCB_CCR_DC": (1 << 16, "DDI 0403E.e B3.2.8"),
    "SCB_CCR_IC": (1 << 17, "DDI 0403E.e B3.2.8"),
    "SCB_CCR_LOB": (1 << 19, "DDI 0553B, CCR: Armv8.1-M alone"),
    "SCB_CFSR": (0xE000ED28, "DDI 0403E.e B3.2.15"),
    "SCB_HFSR": (0xE000ED2C, "DDI 0403E.e B3.2.16"),
    "SCB_MMFAR": (0xE000ED34, "DDI 0403E.e B3.2.17"),
    "SCB_BFAR": (0xE000ED38, "DDI 0403E.e B3.2.18"),
    "SCB_CPACR": (0xE000ED88, "DDI 0403E.e B3.2.20"),
    "SCB_CPACR_CP10": (3 << 20, "DDI 0403E.e B3.2.20"),
    "SCB_CPACR_CP11": (3 << 22, "DDI 0403E.e B3.2.20"),
    "SCB_CCSIDR": (0xE000ED80, "DDI 0403E.e B4.8.4"),
    "SCB_CCSIDR_ASSOCIATIVITY": (0x3FF << 3, "DDI 0403E.e B4.8.4"),
    "SCB_CCSIDR_NUMSETS": (0x7FFF << 13, "DDI 0403E.e B4.8.4"),
    "SCB_CSSELR": (0xE000ED84, "DDI 0403E.e B4.8.3"),
    "SCB_ICIALLU": (0xE000EF50, "DDI 0403E.e B2.2.7"),
    "SCB_DCISW": (0xE000EF60, "DDI 0403E.e B2.2.7"),
    "MPU_CTRL": (0xE000ED94, "DDI 0403E.e B3.5.5"),
    "MPU_CTRL_ENABLE": (1 << 0, "DDI 0403E.e B3.5.5"),
    "MPU_CTRL_PRIVDEFENA": (1 << 2, "DDI 0403E.e B3.5.5"),
    "MPU_RNR": (0xE000ED98, "DDI 0403E.e B3.5.6"),
    "MPU_RBAR": (0xE000ED9C, "DDI 0403E.e B3.5.7"),
    "MPU_RASR": (0xE000EDA0, "DDI 0403E.e B3.5.8"),
    "MPU_RASR_ENABLE": (1 << 0, "DDI 0403E.e B3.5.8"),
    "MPU_RASR_SIZE": (0x1F << 1, "DDI 0403E.e B3.5.8"),
    "MPU_RASR_SRD": (0xFF << 8, "DDI 0403E.e B3.5.8"),
    "MPU_RASR_XN": (1 << 28, "DDI 0403E.e B3.5.8"),
}
# What these files repeat of the core must agree with that table.
CORE_IN_SVD = {
    "SCB_CPUID": ("SCB", "CPUID"), "SCB_VTOR": ("SCB", "VTOR"), "SCB_CCR": ("SCB", "CCR"),
    "SCB_HFSR": ("SCB", "HFSR"), "SCB_BFAR": ("SCB", "BFAR"), "SCB_CPACR": ("FPU_CPACR", "CPACR"),
    "MPU_CTRL": ("MPU", "MPU_CTRL"), "MPU_RNR": ("MPU", "MPU_RNR"), "MPU_RBAR": ("MPU", "MPU_RBAR"),
    "MPU_RASR": ("MPU", "MPU_RASR"),
}  # fmt: skip


def definitions(header: str, *folders: Path) -> dict[str, int | tuple[int, int]]:
    """Registers (addresses) and fields (position, width) that a header defines, through the preprocessor."""
    command = ["gcc", "-E", "-dM", *(f"-I{folder}" for folder in folders), "-"]
    text = subprocess.run(
        command, input=f'#include "{header}"\n', capture_output=True, text=True, timeout=60, check=True
    ).stdout
    found: dict[str, int | tuple[int, int]] = {}
    for name, value in re.findall(r"^#define ([A-Z0-9]+_\w+) (.+)$", text, re.MULTILINE):
        if number := re.fullmatch(r"(0x[0-9A-Fa-f]+)u", value):
            found[name] = int(number[1], 16)
        elif pair := re.fullmatch(r"(\d+), (\d+)", value):
            found[name] = int(pair[1]), int(pair[2])
    return found


def chip_definitions(chip: str) -> dict[str, int | tuple[int, int]]:
    root = paths.firmware_dir()
    folder = root / "chips" / load_chip(chip).firmware.registers
    return definitions("chip_registers.h", folder, root / "drivers")


def mask(field: tuple[int, int]) -> int:
    return ((1 << field[1]) - 1) << field[0]


@pytest.mark.parametrize("chip", chip_names())
def test_every_address_and_field_is_where_the_svd_has_it(chip: str, shared_dir: Path) -> None:
    svd = Svd(shared_dir / "svd" / SVD_FILES[chip])
    checked = 0
    known = chip_definitions(chip)
    registers: dict[str, tuple[str, str]] = {}
    for name, value in known.items():
        if isinstance(value, int) and (chip, name) in NOT_IN_SVD:
            assert value == NOT_IN_SVD[chip, name]
            registers[name] = ("", "")
        elif isinstance(value, int) and name.endswith("_BASE"):
            assert value == svd.base(name.removesuffix("_BASE")), name
        elif name == "GPIO_STRIDE":
            for i, port in enumerate("ABCDEFGH"):
                base = known["GPIOA_BASE"]
                assert isinstance(base, int)
                assert svd.base(f"GPIO{port}") == base + i * 0x400
        elif isinstance(value, int):
            ours, _, register = name.partition("_")
            offset = register.startswith("OFFSET_")
            register = register.removeprefix("OFFSET_")
            peripheral = PERIPHERALS[chip].get(ours, ours)
            entry = svd.register(peripheral, REGISTERS.get((chip, ours, register), register))
            assert entry is not None, f"{chip} has no {peripheral}.{register}"
            assert entry.address == value + (svd.base(peripheral) if offset else 0), name
            registers[f"{ours}_{register}"] = (peripheral, REGISTERS.get((chip, ours, register), register))
        else:
            continue
        checked += 1
    for name, value in known.items():
        if isinstance(value, int):
            continue
        if (chip, name) in NOT_IN_SVD:
            assert mask(value) == NOT_IN_SVD[chip, name]
            continue
        owner = max((r for r in registers if name.startswith(r + "_")), key=len)
        entry = svd.register(*registers[owner])
        assert entry is not None
        theirs = mask_of(entry, name.removeprefix(owner + "_"))
        if (chip, name) in WIDER_IN_SVD:
            assert (mask(value), theirs) == WIDER_IN_SVD[chip, name]
        else:
            assert theirs == mask(value), f"{chip} {name}: {theirs} is not {mask(value)}"
        checked += 1
    assert checked > 60


@pytest.mark.parametrize("chip", chip_names())
def test_reset_values_that_are_relied_on_are_the_svds(chip: str, shared_dir: Path) -> None:
    svd = Svd(shared_dir / "svd" / SVD_FILES[chip])
    for peripheral, register, field, value in RESET[chip]:
        entry = svd.register(PERIPHERALS[chip].get(peripheral, peripheral), register)
        assert entry is not None
        where = mask_of(entry, field)
        assert where is not None, (register, field)
        assert entry.reset & where == value, (register, field)


def test_core_registers_are_arms() -> None:
    root = paths.firmware_dir()
    ours = definitions("core_registers.h", root / "drivers")
    assert set(ours) == set(CORE)
    for name, value in ours.items():
        assert (value if isinstance(value, int) else mask(value)) == CORE[name][0], name


@pytest.mark.parametrize("chip", chip_names())
def test_core_registers_agree_with_the_svd_where_it_has_them(chip: str, shared_dir: Path) -> None:
    svd = Svd(shared_dir / "svd" / SVD_FILES[chip])
    for name, (peripheral, register) in CORE_IN_SVD.items():
        entry = svd.register(peripheral, register)
        assert entry is not None, name
        assert entry.address == CORE[name][0], name


def test_every_register_header_belongs_to_a_chip() -> None:
    used = {load_chip(name).firmware.registers for name in (*chip_names(), *machine_names())}
    assert used == {p.parent.name for p in (paths.firmware_dir() / "chips").glob("*/chip_registers.h")}


def test_no_register_address_stands_outside_the_headers() -> None:
    """An address written into a driver would escape the checks above."""
    for file in (paths.firmware_dir()).rglob("*.[cS]"):
        for literal in re.findall(r"0x[0-9A-F]{8}u?\b", file.read_text()):
            value = int(literal.rstrip("u"), 16)
            if 0x40000000 <= value < 0x60000000 or value >= 0xE0000000:
                assert file.name == "crc32.c" or "FFFFFF" in literal, (file, literal)
