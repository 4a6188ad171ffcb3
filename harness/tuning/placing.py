"""Which constants and functions start-up copies into which memory, and where the arena lies, chosen by measuring.

A layer's weights, and each generated function, are items. Items of different layers are tried together, as many
as fit, in each tier of memories that are equally fast: what a layer gains is its item's. The items that gain
most fill the memories, the fastest first, once for each place of the arena. These choices and the rules'
own are run whole. The fastest is taken; where SRAM is to be saved, the one with the fewest bytes of copies in SRAM
among those that take at most MOST_SLOWER times its cycles, and no more than the default: as `balanced` chooses
arenas.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from harness.chips import Names
from harness.images.placement import Copy, LayerUse, Placement, whole
from tinyengine.schedule import MOST_SLOWER, SLOWEST_BALANCED


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What one memory has left for copies.

    Args:
        tier: memories of one tier are equally fast; 0 is the fastest.
        is_sram: where arenas could lie as well; it holds no code.
    """

    memory: Names
    bytes: int
    tier: int
    is_sram: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """Symbols that move together, the layers that read or run them, and bytes."""

    symbols: tuple[str, ...]
    layers: frozenset[int]
    size_bytes: int
    is_code: bool = False


def items(uses: Sequence[LayerUse], sizes: Mapping[str, int]) -> tuple[Item, ...]:
    """Everything that somebody uses.

    Args:
        sizes: of constants and functions, by symbol.
    """
    readers: dict[tuple[tuple[str, ...], bool], set[int]] = {}
    for use in uses:
        if use.constants:
            readers.setdefault((use.constants, False), set()).add(use.index)
        for name in use.functions:
            readers.setdefault(((name,), True), set()).add(use.index)
    found = (
        Item(
            symbols=symbols,
            layers=frozenset(layers),
            size_bytes=sum(whole(sizes.get(s, 0)) for s in symbols),
            is_code=is_code,
        )
        for (symbols, is_code), layers in readers.items()
    )
    return tuple(i for i in found if i.size_bytes)


@dataclass(slots=True)
class Choice:
    """Items in the rooms they were given, while there is some."""

    rooms: tuple[Room, ...]
    taken: dict[Names, list[Item]] = field(default_factory=dict)

    def add(self, item: Item, tier: int) -> bool:
        """Puts an item into the tier's first memory that has room for it."""
        for room in self.rooms:
            inside = self.taken.setdefault(room.memory, [])
            free = room.bytes - sum(i.size_bytes for i in inside)
            if room.tier == tier and item.size_bytes <= free and not (room.is_sram and item.is_code):
                inside.append(item)
                return True
        return False

    @property
    def items(self) -> Iterator[Item]:
        return (item for inside in self.taken.values() for item in inside)

    def placement(self, arena: Names | None) -> Placement:
        """As the build wants it."""
        copies = (
            Copy(memory=memory, symbols=tuple(s for item in inside for s in item.symbols))
            for memory, inside in self.taken.items()
            if inside
        )
        return Placement(arena=arena, copies=tuple(copies))


def trials(found: Iterable[Item], rooms: tuple[Room, ...], tier: int) -> tuple[Choice, ...]:
    """Items in groups that fit the tier together and share no layer, the largest first."""
    groups: list[Choice] = []
    for item in sorted(found, key=lambda i: -i.size_bytes):
        for group in groups:
            if not any(item.layers & other.layers for other in group.items) and group.add(item, tier):
                break
        else:
            alone = Choice(rooms=rooms)
            if alone.add(item, tier):
                groups.append(alone)
    return tuple(groups)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """What an item gains in a tier."""

    item: Item
    tier: int
    cycles: int

    @property
    def worth(self) -> float:
        """Cycles a byte."""
        return self.cycles / self.item.size_bytes


def gains(group: Choice, tier: int, before: Sequence[int], after: Sequence[int]) -> list[Gain]:
    """What each of the items gained.

    Args:
        before, after: cycles of each layer without and with the group.
    """
    return [
        Gain(item=item, tier=tier, cycles=sum(before[n] - after[n] for n in item.layers)) for item in group.items
    ]


def fill(measured: Iterable[Gain], rooms: tuple[Room, ...]) -> Choice:
    """The items that gain, the fastest tier first, as long as there is room.

    What gains most a byte may leave no room for what is large: taken by cycles a byte, then by cycles; the choice
    that gains more wins.
    """
    useful = [g for g in measured if g.cycles > 0]
    by_worth = sorted(useful, key=lambda g: (g.tier, -g.worth, g.item.symbols))
    by_gain = sorted(useful, key=lambda g: (g.tier, -g.cycles, g.item.symbols))
    return max((_filled(order, rooms) for order in (by_worth, by_gain)), key=lambda found: found[0])[1]


def _filled(order: Iterable[Gain], rooms: tuple[Room, ...]) -> tuple[int, Choice]:
    """Cycles gained by what found room, and where it is."""
    chosen, done, cycles = Choice(rooms=rooms), set[Item](), 0
    for gain in order:
        if gain.item not in done and chosen.add(gain.item, gain.tier):
            done.add(gain.item)
            cycles += gain.cycles
    return cycles, chosen


def lean(chosen: Choice, measured: Iterable[Gain], bare_cycles: int) -> Choice:
    """The same with less in SRAM: what gains least a byte goes, as far as SLOWEST_BALANCED allows.

    Args:
        bare_cycles: of the network with nothing copied.
    """
    by = {(g.item, g.tier): g for g in measured}
    inside = [(r, by[item, r.tier]) for r in chosen.rooms for item in chosen.taken.get(r.memory, ())]
    left = (SLOWEST_BALANCED - 1) * (bare_cycles - sum(gain.cycles for _, gain in inside))
    leaving: set[Item] = set()
    for gain in sorted((g for r, g in inside if r.is_sram), key=lambda g: (g.worth, g.item.symbols)):
        if gain.cycles <= left:
            leaving.add(gain.item)
            left -= gain.cycles
    kept = {memory: [i for i in found if i not in leaving] for memory, found in chosen.taken.items()}
    return Choice(rooms=chosen.rooms, taken=kept)


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """Cycles of one placement, and what it copies into SRAM; `name` for people."""

    name: str
    placement: Placement
    cycles: int
    layers: tuple[int, ...]
    sram_bytes: int


BARE = "flash"
DEFAULT = "default"
_MEASURED = "measured"
_LEAN = "lean"


def place(
    uses: Sequence[LayerUse],
    sizes: Mapping[str, int],
    rooms: Mapping[Names | None, tuple[Room, ...]],
    rules: Mapping[str, Placement],
    run: Callable[[str, Placement], Placed | None],
    observe: Callable[[int, int], None],
    *,
    saves_sram: bool,
) -> tuple[Placed, ...]:
    """What was run whole, the best first: the rules' placements and the measured ones.

    Args:
        rooms: for each place of the arena; None is the first that fits.
        rules: placements by name, `default` among them.
        run: the network placed so; None where it failed.
        observe: told how many of how many trials are done.
        saves_sram: copies into SRAM are to be worth their bytes.
    """
    found: list[Placed] = []
    asked: set[Placement] = set()
    measured: dict[tuple[Item, int], Gain] = {}
    wanted = items(uses, sizes)
    choices = dict(rules)
    for arena, free in rooms.items():
        plain = Placement(arena=arena)
        asked.add(plain)
        bare = run(DEFAULT if rules.get(DEFAULT) == plain else _name(BARE, arena), plain)
        if bare is None and not found:
            return ()  # a board that fails is not worth more attempts
        if bare is None:
            continue
        found.append(bare)
        groups = [
            (tier, group)
            for tier in sorted({room.tier for room in free})
            for group in trials([i for i in wanted if (i, tier) not in measured], free, tier)
        ]
        for number, (tier, group) in enumerate(groups):
            observe(number, len(groups))
            tried = run("trial", group.placement(arena))
            if tried is not None:
                measured |= {(g.item, tier): g for g in gains(group, tier, bare.layers, tried.layers)}
        filled = fill(measured.values(), free)
        choices[_name(_MEASURED, arena)] = filled.placement(arena)
        if saves_sram:
            choices[_name(_LEAN, arena)] = lean(filled, measured.values(), bare.cycles).placement(arena)
    for name, placement in choices.items():
        if placement not in asked and (one := run(name, placement)) is not None:
            found.append(one)
        asked.add(placement)
    return ranked(found, saves_sram=saves_sram)


def ranked(found: Sequence[Placed], *, saves_sram: bool) -> tuple[Placed, ...]:
    """The best first. Another must be better than the default to come before it: the default needs no record."""
    slowest = (MOST_SLOWER if saves_sram else 1.0) * min((p.cycles for p in found), default=0)
    slowest = min([slowest, *(p.cycles for p in found if p.name == DEFAULT)])

    def order(one: Placed) -> tuple[float, ...]:
        price = one.sram_bytes if saves_sram else 0
        return (one.cycles > slowest, price, one.cycles, one.name != DEFAULT, one.sram_bytes)

    return tuple(sorted(found, key=order))


def _name(kind: str, arena: Names | None) -> str:
    return "+".join((kind, *(arena or ())))
