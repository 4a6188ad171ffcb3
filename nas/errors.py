"""What a search can be refused for, with data and what would have worked."""

from __future__ import annotations


class NasError(Exception):
    """Root of all user-facing errors of the search; the command line prints it as one line.

    Most say that what was asked for cannot be used, hence the exit code of wrong usage.
    """

    exit_code = 2


class EncodingError(NasError):
    """Text that is no architecture, or an architecture that is not of the space."""

    def __init__(self, what: str, text: str) -> None:
        super().__init__(f"{text!r}: {what}")
        self.what, self.text = what, text


class Infeasible(NasError):
    """No network that was looked at meets every limit: an answer, if not the one that was hoped for.

    Args:
        constraint: the limit that the nearest one breaks most.
        nearest: the encoding of the network that misses by least.
        miss: by how much of the limit, 0.1 is 10 %.
    """

    exit_code = 1

    def __init__(self, constraint: str, nearest: str, miss: float) -> None:
        super().__init__(f"nothing meets {constraint}; {nearest} comes nearest, {miss:.1%} over; raise the limit")
        self.constraint, self.nearest, self.miss = constraint, nearest, miss


class DataError(NasError):
    """A data set that cannot be read as what it was said to be: what is wrong and where."""

    def __init__(self, what: str, where: str) -> None:
        super().__init__(f"{where}: {what}")
        self.what, self.where = what, where


class CheckpointError(NasError):
    """A checkpoint that training cannot go on from: why and which file."""

    def __init__(self, what: str, where: str) -> None:
        super().__init__(f"{where}: {what}")
        self.what, self.where = what, where


class LogError(NasError):
    """A search's log that cannot be used."""

    def __init__(self, what: str, where: str) -> None:
        super().__init__(f"{where}: {what}")
        self.what, self.where = what, where
