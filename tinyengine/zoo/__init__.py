"""Networks defined in code, for those without a model file: ``zoo:NAME`` on the command line.

They are synthetic: seeded weights, not trained, so their accuracy is meaningless; their shapes, and with them
cycles and memory, are those of the networks that they are named after.
"""

from __future__ import annotations

from functools import cache

from tinyengine.errors import ModelFormatError
from tinyengine.ir import Graph
from tinyengine.quantize import quantize
from tinyengine.zoo import ad_autoencoder, ds_cnn, mcunet_vww1, mobilenetv2, resnet_8

LABEL = "synthetic: seeded weights, not trained; accuracy is meaningless"
"""To be shown wherever a figure of such a network is."""

_GROW = {
    "mobilenetv2-w0.35-r64": mobilenetv2.grow,
    "mcunet-vww1": mcunet_vww1.grow,
    "ds-cnn": ds_cnn.grow,
    "resnet-8": resnet_8.grow,
    "ad-autoencoder": ad_autoencoder.grow,
}


def names() -> tuple[str, ...]:
    """All networks, without the ``zoo:`` in front."""
    return tuple(_GROW)


@cache
def load(name: str) -> Graph:
    """The quantized network `name`; the same bytes on every machine.

    Raises:
        ModelFormatError: there is none of that name.
    """
    if name not in _GROW:
        raise ModelFormatError(f"no such network in the zoo; there are {', '.join(names())}", f"zoo:{name}")
    net, calibration = _GROW[name]()
    return quantize(net, calibration)
