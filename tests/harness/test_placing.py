"""Which weights and functions go into which memory, chosen from what a made-up board gains by them."""

from __future__ import annotations

from harness.chips import Names
from harness.images.placement import Copy, LayerUse, Placement
from harness.tuning import placing
from harness.tuning.placing import Room


def use(index: int, constants: str, functions: str) -> LayerUse:
    return LayerUse(index=index, macs=1, constants=tuple(constants.split()), functions=tuple(functions.split()))


USES = (use(0, "t0", "f"), use(1, "t1 t2", "f g"), use(2, "big", "g"))
SIZES = {"t0": 100, "t1": 40, "t2": 10, "f": 64, "g": 30, "big": 900}


def rooms(itcm: int, sram: int = 0) -> tuple[Room, ...]:
    return (
        Room(memory=("itcm",), bytes=itcm, tier=0, is_sram=False),
        Room(memory=("sram1",), bytes=sram, tier=1, is_sram=True),
    )


def test_items_are_weights_of_a_layer_and_functions_that_fit() -> None:
    wanted = placing.items(USES, SIZES)
    assert {i.symbols: (i.layers, i.size_bytes, i.is_code) for i in wanted} == {
        ("t0",): (frozenset({0}), 112, False),
        ("t1", "t2"): (frozenset({1}), 64, False),
        ("big",): (frozenset({2}), 912, False),
        ("f",): (frozenset({0, 1}), 64, True),
        ("g",): (frozenset({1, 2}), 32, True),
    }
    for tier, symbols in ((0, {"t0", "t1", "t2", "f", "g"}), (1, {"t0", "t1", "t2", "big"})):
        groups = placing.trials(wanted, rooms(500, 1000), tier)
        for group in groups:
            tried = list(group.items)
            assert sum(i.size_bytes for i in tried) <= (500, 1000)[tier]
            assert sum(len(i.layers) for i in tried) == len(frozenset().union(*(i.layers for i in tried)))
        assert {s for g in groups for i in g.items for s in i.symbols} == symbols


class MadeUpBoard:
    """f saves 500 cycles, t0 200, big in SRAM 90; g costs 100, and so does an arena in SRAM."""

    def __init__(self) -> None:
        self.saved = {"f": {0: 200, 1: 300}, "t0": {0: 200}, "g": {1: -50, 2: -50}, "big": {2: 90}}
        self.asked: list[Placement] = []

    def run(self, name: str, placement: Placement) -> placing.Placed:
        self.asked.append(placement)
        layers = [1000, 1000, 1000 + (100 if placement.arena else 0)]
        for symbol in (s for copy in placement.copies for s in copy.symbols):
            for layer, cycles in self.saved.get(symbol, {}).items():
                layers[layer] -= cycles
        in_sram = [s for copy in placement.copies if copy.memory != ("itcm",) for s in copy.symbols]
        return placing.Placed(
            name=name,
            placement=placement,
            cycles=sum(layers),
            layers=tuple(layers),
            sram_bytes=sum(SIZES[s] for s in in_sram),
        )

    def place(
        self, free: dict[Names | None, tuple[Room, ...]], *, saves_sram: bool = False
    ) -> tuple[placing.Placed, ...]:
        rules = {"default": Placement(copies=(Copy(memory=("itcm",), symbols=("t0",)),))}
        return placing.place(USES, SIZES, free, rules, self.run, lambda *_: None, saves_sram=saves_sram)


def test_fast_memory_takes_what_gains_most_a_byte() -> None:
    board = MadeUpBoard()
    found = board.place({None: rooms(200, 1000)})
    assert [(p.name, p.cycles) for p in found] == [("measured", 2210), ("default", 2800), ("flash", 3000)]
    assert found[0].placement.copies == (
        Copy(memory=("itcm",), symbols=("f", "t0")),
        Copy(memory=("sram1",), symbols=("big",)),
    )
    assert board.asked[0] == Placement()


def test_small_things_do_not_take_the_room_of_a_large_one_that_gains_more() -> None:
    def gain(name: str, size: int, cycles: int) -> placing.Gain:
        item = placing.Item(symbols=(name,), layers=frozenset({0}), size_bytes=size)
        return placing.Gain(item=item, tier=0, cycles=cycles)

    large, small, tiny = gain("large", 96, 900), gain("small", 32, 400), gain("tiny", 16, 150)
    chosen = placing.fill([small, large, tiny], rooms(112))
    assert {i.symbols for i in chosen.items} == {("large",), ("tiny",)}
    assert {i.symbols for i in placing.fill([small, large, tiny], rooms(64)).items} == {("small",), ("tiny",)}


def test_sram_is_given_for_cycles_that_are_worth_it_only() -> None:
    board = MadeUpBoard()
    board.saved["big"] = {2: 80}
    free: dict[Names | None, tuple[Room, ...]] = {None: rooms(70, 2000)}
    fast, saving = board.place(free)[0], board.place(free, saves_sram=True)[0]
    assert (fast.name, fast.cycles, fast.sram_bytes) == ("measured", 2220, 1000)
    assert (saving.name, saving.cycles, saving.sram_bytes) == ("lean", 2300, 100), "big's 80 cycles are below 4 %"
    board.saved["big"] = {2: 400}
    dear = board.place(free, saves_sram=True)[0]
    assert (dear.cycles, dear.sram_bytes) == (1900, 1000), "what costs more than 5 % stays"


def test_sram_is_saved_by_what_was_run_and_never_slower_than_the_default() -> None:
    def best(*runs: tuple[str, int, int], saves_sram: bool = True) -> str:
        found = [
            placing.Placed(name=name, placement=Placement(), cycles=cycles, layers=(), sram_bytes=size)
            for name, cycles, size in runs
        ]
        return placing.ranked(found, saves_sram=saves_sram)[0].name

    default, fast = ("default", 1049, 0), ("measured", 1000, 900)
    assert best(default, fast) == "default"
    assert best(default, fast, saves_sram=False) == "measured"
    assert best(("default", 1060, 0), fast, ("lean", 1050, 500)) == "lean"
    assert best(("default", 1060, 0), fast, ("lean", 1051, 500)) == "measured"
    assert best(("default", 1020, 400), fast, ("lean", 1030, 0)) == "default"
    assert best(default, fast, ("lean", 1010, 0)) == "lean"


def test_weights_that_code_leaves_no_room_go_to_slower_memory() -> None:
    found = MadeUpBoard().place({None: rooms(100, 2000)})[0].placement
    assert {c.memory[0]: set(c.symbols) for c in found.copies} == {"itcm": {"f"}, "sram1": {"t0", "big"}}


def test_an_arena_elsewhere_is_taken_only_if_the_network_is_faster() -> None:
    board = MadeUpBoard()
    found = board.place({None: rooms(70), ("sram1",): rooms(200)})
    assert {p.name: p.cycles for p in found}["measured+sram1"] == 2400
    assert found[0].name == "measured+sram1", "2,500 with less room, where f alone fits"
    board.saved["t0"] = {0: 60}
    assert board.place({None: rooms(70), ("sram1",): rooms(200)})[0].name == "measured"


def test_a_rule_that_is_as_good_needs_no_record() -> None:
    board = MadeUpBoard()
    board.saved.clear()
    assert board.place({None: rooms(200)})[0].name == "default"


def test_a_board_that_fails_places_nothing() -> None:
    free: dict[Names | None, tuple[Room, ...]] = {None: rooms(200)}
    assert placing.place(USES, SIZES, free, {}, lambda *_: None, lambda *_: None, saves_sram=True) == ()
