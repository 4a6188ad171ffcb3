"""The weights of each layer are found in the generated code, so that rules can choose among them."""

from __future__ import annotations

from harness.chips import load_chip
from harness.images.placement import layer_uses, most_missed, symbol_bytes
from tinyengine import zoo
from tinyengine.compile import CompileOptions, compile_graph
from tinyengine.kernels.catalogue import Target


def test_every_layer_with_weights_names_constants_of_its_own() -> None:
    for target in (Target.C, Target.M7):
        compiled = compile_graph(zoo.load("ds-cnn"), CompileOptions(target=target))
        uses = layer_uses(compiled)
        symbols = [symbol for use in uses for symbol in use.constants]
        assert len(set(symbols)) == len(symbols)
        assert sum(u.macs for u in uses if u.constants) == sum(layer.macs for layer in compiled.layers)
        text = compiled.sources.text("model_weights.c")
        assert all(f" {symbol}[" in text for symbol in symbols)


def test_weights_larger_than_the_cache_are_missed_most() -> None:
    compiled = compile_graph(zoo.load("resnet-8"), CompileOptions(target=Target.M7))
    sizes, chip = symbol_bytes(compiled.sources), load_chip("stm32f746")
    ranked = most_missed(chip, compiled)
    large = [sizes[s] > chip.caches.dcache_bytes * 3 // 4 for s in ranked]
    assert True in large and False in large and large == sorted(large, reverse=True)
    assert set(ranked) < {s for use in layer_uses(compiled) for s in use.constants}, "tables of additions are not"
