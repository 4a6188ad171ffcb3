"""The scheduler moves instructions, never meaning: each read sees the write it saw before."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from tinyengine.kernels.assembly.emitter import Emitter
from tinyengine.kernels.assembly.instruction import FLAGS, Instruction, Kind
from tinyengine.kernels.assembly.scheduler import Core, schedule

_REGISTERS = ("r0", "r1", "r2", "r3", "s0", FLAGS)
_KINDS = [k for k in Kind if k is not Kind.FIXED]
_ORDERED = (Kind.STORE, Kind.BRANCH)


@st.composite
def regions(draw: st.DrawFn) -> list[Instruction]:
    found = []
    some = st.frozensets(st.sampled_from(_REGISTERS), max_size=3)
    for index in range(draw(st.integers(0, 70))):
        kind = draw(st.sampled_from(_KINDS))
        reads = draw(some)
        writes = frozenset() if kind in _ORDERED else draw(st.frozensets(st.sampled_from(_REGISTERS), max_size=2))
        accumulator = next(iter(sorted(reads)), None) if kind is Kind.MULTIPLY else None
        address = frozenset(sorted(reads)[:1]) if kind in (Kind.LOAD, Kind.STORE) else frozenset[str]()
        found.append(
            Instruction(
                text=f"op{index} a, b, c, d",
                kind=kind,
                writes=writes,
                reads=reads,
                accumulator=accumulator,
                address=address,
                bank=draw(st.integers(0, 1)),
            )
        )
    return found


def meaning(region: list[Instruction]) -> tuple[dict[str, dict[str, str]], dict[str, str], list[str]]:
    """Which write each read sees, which write each register ends with, and the order of stores and branches."""
    writer = dict.fromkeys(_REGISTERS, "entry")
    seen = {}
    for each in region:
        seen[each.text] = {r: writer[r] for r in each.reads}
        writer.update(dict.fromkeys(each.writes, each.text))
    return seen, writer, [i.text for i in region if i.kind in _ORDERED]


@given(regions(), st.sampled_from(Core))
@settings(max_examples=80, deadline=None)
def test_every_hazard_of_any_region_is_respected(region: list[Instruction], core: Core) -> None:
    found = schedule(region, core)
    assert Counter(i.text for i in found) == Counter(i.text for i in region)
    assert meaning(found) == meaning(region)


def test_the_m4_keeps_the_order_its_author_wrote() -> None:
    e = Emitter(Core.M4)
    with e.scheduled():
        e.ldr("r2", "r0", 0)
        e.multiply("smlad", "r3", "r2", "r4", "r3")
        e.ldr("r5", "r0", 4)
    assert [i.text.split()[0] for i in e._done] == ["ldr", "smlad", "ldr"]


def test_the_m7_fills_the_load_delay_with_other_work() -> None:
    e = Emitter(Core.M7)
    with e.scheduled():
        for n in range(4):
            e.ldr(f"r{2 + n}", "r0", 4 * n)
            e.multiply("smlad", f"r{6 + n}", f"r{2 + n}", "r1", f"r{6 + n}")
    first = [i.text.split()[0] for i in e._done][:3]
    assert first == ["ldr", "ldr", "ldr"]
