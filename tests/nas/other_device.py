"""A device of torch's that is not the CPU, for machines without a card: tensors in our memory that nothing of the
CPU's may meet unless it is moved, as on a card. Each operation is computed by the CPU, so results are the CPU's.

torch knows one such device a process, for good: import this in a process of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "elsewhere"
_MOVES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
"""What may have a part on each side."""


class Elsewhere(Tensor):
    """A tensor there; `here` is where its values really are."""

    here: Tensor

    @staticmethod
    def __new__(cls, here: Tensor) -> Elsewhere:
        made: Elsewhere = Tensor._make_wrapper_subclass(
            cls,
            here.size(),
            strides=here.stride(),
            storage_offset=here.storage_offset(),
            dtype=here.dtype,
            device=torch.device(NAME, 0),
        )
        made.here = here
        return made

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch's stub forgets that it is a class's
        cls, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[Any, Any] | None = None
    ) -> Any:
        return _computed(func, args, kwargs or {})


def _computed(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    tensors = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    # A scalar of the CPU may meet a card's tensors, too.
    if func not in _MOVES and any(x.dim() and not isinstance(x, Elsewhere) for x in tensors):
        raise RuntimeError(f"{func}: a tensor of the CPU among those on {NAME}")
    leaves = "device" in kwargs and torch.device(kwargs["device"]).type != NAME
    if "device" in kwargs:
        kwargs = {**kwargs, "device": "cpu"}
    found = func(*_here(args), **_here(kwargs))
    if leaves:
        return found
    # An operation that writes into its argument gives that one back, not another with the same values.
    given = {id(x.here): x for x in tensors if isinstance(x, Elsewhere)}
    return pytree.tree_map_only(Tensor, lambda x: given[id(x)] if id(x) in given else Elsewhere(x), found)


def _here(values: Any) -> Any:
    return pytree.tree_map_only(Elsewhere, lambda x: x.here, values)


def set_up() -> torch.device:
    """Makes the device known to torch."""
    _setup_privateuseone_for_python_backend(NAME)

    def empty(size: Any, **options: Any) -> Tensor:
        return Elsewhere(torch.empty(size, **{**options, "device": "cpu"}))

    def empty_strided(size: Any, stride: Any, **options: Any) -> Tensor:
        return Elsewhere(torch.empty_strided(size, stride, **{**options, "device": "cpu"}))

    _OPERATORS.impl("empty.memory_format", empty, "PrivateUse1")  # type: ignore[no-untyped-call]
    _OPERATORS.impl("empty_strided", empty_strided, "PrivateUse1")  # type: ignore[no-untyped-call]
    return torch.device(NAME, 0)


_OPERATORS = torch.library.Library("aten", "IMPL")  # type: ignore[no-untyped-call]
"""torch forgets what was added when it goes."""
