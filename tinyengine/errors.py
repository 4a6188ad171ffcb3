"""Every way a model can be refused. One root, data attached, and what would have worked."""

from __future__ import annotations


class TinyEngineError(Exception):
    """Root of all user-facing errors of the compiler; the command line prints it as one line."""


class ModelFormatError(TinyEngineError):
    """The file is not a well-formed model: what is broken and where (byte offset or field path)."""

    def __init__(self, what: str, where: str) -> None:
        super().__init__(f"{where}: {what}")
        self.what = what
        self.where = where


class UnsupportedOp(TinyEngineError):
    """The model is well-formed but holds an operator, or a form of one, that is not compiled.

    Args:
        op: operator name in the model's own vocabulary, e.g. ``HARD_SWISH``.
        index: position of the operator in the source model.
        tensor: the (sanitised) tensor that shows the problem.
        reason: why, and what would work.
    """

    def __init__(self, op: str, index: int, tensor: str, reason: str) -> None:
        super().__init__(f"operator {op} at index {index}, tensor {tensor!r}: {reason}")
        self.op = op
        self.index = index
        self.tensor = tensor
        self.reason = reason


class PlanError(TinyEngineError):
    """A memory plan that cannot be made or that failed its check."""


class ArenaLimit(PlanError):
    """No arrangement needs as little memory as was asked for: what the smallest one found takes."""

    def __init__(self, needed_bytes: int, limit_bytes: int) -> None:
        super().__init__(f"the smallest arena found takes {needed_bytes:,} bytes, the limit is {limit_bytes:,}")
        self.needed_bytes = needed_bytes
        self.limit_bytes = limit_bytes
