"""Which constants and functions start-up copies into the chip's fastest memory, chosen by measuring.

A layer's weights, and each generated function, are items. Items of different layers are tried together, as many as
fit: what a layer gains is its item's. The items that gain most cycles a byte fill the memory. That choice, the
build's own and none at all are run whole; the fastest is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from harness.placement import LayerUse

_ALIGNMENT = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """Symbols that move together, the layers that read or run them, and bytes."""

    symbols: tuple[str, ...]
    layers: frozenset[int]
    size_bytes: int
    gain_cycles: int = 0

    @property
    def worth(self) -> float:
        """Cycles a byte."""
        return self.gain_cycles / self.size_bytes


def items(uses: Sequence[LayerUse], sizes: Mapping[str, int], room_bytes: int) -> tuple[Item, ...]:
    """Everything that fits and somebody uses.

    Args:
        sizes: of constants and functions, by symbol.
    """
    readers: dict[tuple[str, ...], set[int]] = {}
    for use in uses:
        if use.constants:
            readers.setdefault(use.constants, set()).add(use.index)
        for name in use.functions:
            readers.setdefault((name,), set()).add(use.index)
    found = (
        Item(symbols=symbols, layers=frozenset(layers), size_bytes=sum(_whole(sizes.get(s, 0)) for s in symbols))
        for symbols, layers in readers.items()
    )
    return tuple(i for i in found if 0 < i.size_bytes <= room_bytes)


def _whole(size_bytes: int) -> int:
    return -(-size_bytes // _ALIGNMENT) * _ALIGNMENT


def trials(found: Iterable[Item], room_bytes: int) -> tuple[tuple[Item, ...], ...]:
    """Items in groups that fit together and share no layer, the largest first."""
    groups: list[list[Item]] = []
    for item in sorted(found, key=lambda i: -i.size_bytes):
        for group in groups:
            fits = item.size_bytes + sum(i.size_bytes for i in group) <= room_bytes
            if fits and not any(item.layers & other.layers for other in group):
                group.append(item)
                break
        else:
            groups.append([item])
    return tuple(tuple(g) for g in groups)


def gains(group: Sequence[Item], before: Sequence[int], after: Sequence[int]) -> tuple[Item, ...]:
    """The items with what their layers gained.

    Args:
        before, after: cycles of each layer without and with the group.
    """
    return tuple(replace(i, gain_cycles=sum(before[n] - after[n] for n in i.layers)) for i in group)


def fill(found: Iterable[Item], room_bytes: int) -> tuple[str, ...]:
    """Symbols of the items that gain, the most cycles a byte first, as long as there is room."""
    chosen: list[str] = []
    for item in sorted(found, key=lambda i: (-i.worth, i.symbols)):
        if item.gain_cycles > 0 and item.size_bytes <= room_bytes:
            chosen += item.symbols
            room_bytes -= item.size_bytes
    return tuple(chosen)


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """Cycles of one choice: `hot` None is the build's own."""

    hot: tuple[str, ...] | None
    cycles: int
    layers: tuple[int, ...]


def place(
    uses: Sequence[LayerUse],
    sizes: Mapping[str, int],
    room_bytes: int,
    run: Callable[[tuple[str, ...] | None], Placed | None],
    observe: Callable[[int, int], None],
) -> tuple[Placed, ...]:
    """What was run whole, the fastest first: nothing hot, the build's choice, the measured one.

    Args:
        run: the network with these symbols hot; None where it failed.
        observe: told how many of how many trials are done.
    """
    bare = run(())
    if bare is None:
        return ()
    found = [bare]
    groups = trials(items(uses, sizes, room_bytes), room_bytes)
    measured: list[Item] = []
    for number, group in enumerate(groups):
        observe(number, len(groups))
        tried = run(tuple(s for item in group for s in item.symbols))
        if tried is not None:
            measured += gains(group, bare.layers, tried.layers)
    for hot in (None, fill(measured, room_bytes)):
        if hot != () and (one := run(hot)) is not None:
            found.append(one)
    # A later one must be faster to win: the build's own choice needs no record.
    return tuple(sorted(found, key=lambda p: (p.cycles, p.hot is not None, len(p.hot or ()))))
