"""The weights of each layer are found in the generated code, so that a build can choose among them."""

from __future__ import annotations

from harness.placement import weight_uses
from tinyengine import zoo
from tinyengine.compile import CompileOptions, compile_graph
from tinyengine.kernels.catalogue import Target


def test_every_layer_with_weights_names_a_constant_of_its_own() -> None:
    for target in (Target.C, Target.M7):
        compiled = compile_graph(zoo.load("ds-cnn"), CompileOptions(target=target))
        uses = weight_uses(compiled)
        found = [use for use in uses if use.macs]
        assert len({use.symbol for use in uses}) == len(uses)
        assert sum(use.macs for use in found) == sum(layer.macs for layer in compiled.layers)
        text = compiled.sources.text("model_weights.c")
        assert all(f" {use.symbol}[" in text for use in uses)
