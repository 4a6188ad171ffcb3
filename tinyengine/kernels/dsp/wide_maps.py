"""Widening of int8 maps to int16 before matrix kernels: the order bytes then lie in, and how many there are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tinyengine.kernels.assembly import functions, widen
from tinyengine.kernels.assembly.scheduler import Core
from tinyengine.kernels.assembly.widen import Order, Widen
from tinyengine.kernels.binding import Assembly


def order_of(channels: int) -> Order:
    """How activations are widened: split where every pixel starts a word."""
    return Order.SPLIT if channels % 4 == 0 else Order.KEPT


def reorder(weights: NDArray[np.int64], order: Order) -> NDArray[np.int64]:
    """Weights with the last axis (input channels) in the order widened activations lie."""
    if order is Order.KEPT:
        return weights
    depth = weights.shape[-1]
    index = np.arange(depth).reshape(-1, 4)[:, list(order.value)].reshape(-1)
    return weights[..., index]


def widen_assembly(order: Order, core: Core) -> Assembly:
    """The widening of contiguous bytes."""
    return functions.WIDEN.assembly(
        Widen(order=order),
        core,
        role="widen",
        label=f"widen_{order.name.lower()}",
        comment=f"int8 to int16, 16 bytes a group; order of four: {order.value}",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Widening:
    """`elements` contiguous bytes: whole groups by the kernel, the rest by the driver.

    `split` tells the order of four; then the rest is a multiple of 4.
    """

    elements: int
    split: bool

    @property
    def groups(self) -> int:
        return self.elements // widen.WIDEN_GROUP_BYTES

    @property
    def done(self) -> int:
        """Elements the groups cover."""
        return self.groups * widen.WIDEN_GROUP_BYTES
