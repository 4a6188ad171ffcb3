"""What a kernel is bound to for one layer: parameters for its template, tables, generated functions, and its name.

Values only. Layers with equal parameters share one C function, hence weights are never parameters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from tinyengine.fixedpoint import Requant
from tinyengine.ir import Array

PLACEHOLDER = "te_assembly"
"""Stands for the function's name in assembly text until codegen has chosen one."""


def code_bytes(text: str) -> int:
    """Of generated text, as if all instructions were wide: most are, and alignment makes the others so."""
    return 4 * sum(line.startswith("    ") and line[4:5] not in ("", ".", "@") for line in text.splitlines())


@dataclass(frozen=True, slots=True, kw_only=True)
class Assembly:
    """One generated function a driver calls.

    Args:
        role: the driver's name for it.
        label: what it is, for its final name: letters, digits, underscores.
        prototype: C declaration with `PLACEHOLDER` as the name.
        text: Thumb-2 with `PLACEHOLDER` as the name.
        twin: plain C of the same function; it needs stdint.h and string.h.
    """

    role: str
    label: str
    prototype: str
    text: str
    twin: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Table:
    """Constant data a function reads through a pointer; `role` is the C parameter's name."""

    role: str
    data: Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """Parameters, tables and generated functions of one layer, and what of the kernel's name follows from them.

    `parameters` is the dataclass that the kernel's template was written for.
    """

    parameters: object
    tables: tuple[Table, ...] = ()
    assembly: tuple[Assembly, ...] = ()
    requant: str = ""
    geometry: str = ""
    variant: str = ""


P = TypeVar("P")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Plan(Generic[P]):
    """A layer's driver literals, the functions it calls, the table they read; `variant` for the kernel's name."""

    parameters: P
    assembly: tuple[Assembly, ...]
    table: NDArray[np.uint32] | NDArray[np.uint16]
    variant: str = ""


def geometry(kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int] = (1, 1)) -> str:
    """The window in a kernel's name: 3x3s2, 10x4s2x1, 3x3s1d2."""

    def both(pair: tuple[int, int]) -> str:
        return str(pair[0]) if pair[0] == pair[1] else f"{pair[0]}x{pair[1]}"

    dilated = "" if dilation == (1, 1) else f"d{both(dilation)}"
    return f"{kernel[0]}x{kernel[1]}s{both(stride)}{dilated}"


def requant_word(mode: Requant) -> str:
    """The rounding in a kernel's name."""
    return {Requant.EXACT: "fx", Requant.SINGLE: "sr"}[mode]
