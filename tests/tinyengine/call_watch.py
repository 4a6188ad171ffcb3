"""Watches every call of a generated function on Unicorn's core: what it must keep, it keeps.

A layer's C saves some registers itself, which hides that a kernel changes them; another compiler saves others.
"""

from __future__ import annotations

import itertools
import re
import struct
from collections import Counter
from collections.abc import Iterable, Mapping

from unicorn import arm_const
from unicorn.unicorn import Uc
from unicorn.unicorn_const import UC_HOOK_CODE

KEPT = [getattr(arm_const, f"UC_ARM_REG_{name}") for name in ("SP", *(f"R{n}" for n in range(4, 12)))]
KEPT += [getattr(arm_const, f"UC_ARM_REG_S{n}") for n in range(16, 32)]
NAMES = ["sp", *(f"r{n}" for n in range(4, 12)), *(f"s{n}" for n in range(16, 32))]
_GENERATED = re.compile(r".*__m[47]_\d+$")


class CallWatch:
    """All calls of generated functions in one image.

    Args:
        symbols: addresses by name.
        base, text: the image's code, searched for the calls.
    """

    def __init__(self, uc: Uc, symbols: Mapping[str, int], base: int, text: bytes) -> None:
        self.calls: Counter[str] = Counter()
        self.complaint = ""
        self._uc = uc
        self._names = {a & ~1: name for name, a in symbols.items() if _GENERATED.match(name)}
        self._open: tuple[str, int, list[int]] | None = None
        for address in self._names:
            uc.hook_add(UC_HOOK_CODE, self._enter, begin=address, end=address)
        for address in {site + 4 for site, target in _calls(base, text) if target in self._names}:
            uc.hook_add(UC_HOOK_CODE, self._leave, begin=address, end=address)

    def _read(self) -> list[int]:
        return [self._uc.reg_read(r) for r in KEPT]

    def _enter(self, _uc: Uc, address: int, _size: int, _data: object) -> None:
        name = self._names[address]
        self.calls[name] += 1
        self._open = (name, self._uc.reg_read(arm_const.UC_ARM_REG_LR) & ~1, self._read())

    def _leave(self, _uc: Uc, address: int, _size: int, _data: object) -> None:
        if self._open is None or self._open[1] != address:
            return
        name, _, before = self._open
        self._open = None
        changed = [n for n, a, b in zip(NAMES, before, self._read(), strict=True) if a != b]
        if changed:
            self.complaint = f"{name} does not keep {', '.join(changed)}"
            self._uc.emu_stop()


def _calls(base: int, text: bytes) -> Iterable[tuple[int, int]]:
    """Addresses of all that reads as a BL, with its target (Armv7-M ARM, A7.7.18, encoding T1)."""
    halves = struct.unpack(f"<{len(text) // 2}H", text[: len(text) // 2 * 2])
    for n, (first, second) in enumerate(itertools.pairwise(halves)):
        if first & 0xF800 != 0xF000 or second & 0xD000 != 0xD000:
            continue
        sign = first >> 10 & 1
        i1, i2 = (~((second >> 13 & 1) ^ sign) & 1), (~((second >> 11 & 1) ^ sign) & 1)
        offset = sign << 24 | i1 << 23 | i2 << 22 | (first & 0x3FF) << 12 | (second & 0x7FF) << 1
        site = base + 2 * n
        yield site, site + 4 + offset - (sign << 25)
