"""Limits as the command line has them, `30` for every board or `f412-sim=60` for one; nothing is searched here."""

from __future__ import annotations

from collections.abc import Sequence

from harness.errors import ConfigError
from nas.costs import Cost, Limit

_KIB = 1024.0


def limits(
    boards: Sequence[str],
    *,
    latency_ms: Sequence[str] = (),
    sram_kb: Sequence[str] = (),
    flash_kb: Sequence[str] = (),
) -> tuple[Limit, ...]:
    """Board by board; what is said of one board counts there instead of what is said of all.

    Raises:
        ConfigError: text that is no limit, of a board that is not searched for, or said twice.
    """
    given = (
        (Cost.LATENCY_MS, 1.0, _by_board("--latency-ms", latency_ms, boards)),
        (Cost.SRAM_BYTES, _KIB, _by_board("--sram-kb", sram_kb, boards)),
        (Cost.FLASH_BYTES, _KIB, _by_board("--flash-kb", flash_kb, boards)),
    )
    return tuple(
        Limit(board=board, cost=cost, most=found[board] * unit)
        for board in boards
        for cost, unit, found in given
        if board in found
    )


def _by_board(option: str, texts: Sequence[str], boards: Sequence[str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for text in texts:
        board, _, number = text.rpartition("=")
        try:
            value = float(number)
        except ValueError:
            raise ConfigError(f"{text} is no limit; one is 30, or f412-sim=60", file=option) from None
        if not 0 < value < 1e9:
            raise ConfigError(f"{number} is no limit", file=option)
        if board and board not in boards:
            raise ConfigError(f"no board {board!r} is searched for; there are {', '.join(boards)}", file=option)
        if board in found:
            raise ConfigError(f"{text} is a second limit of {board or 'all boards'}", file=option)
        found[board] = value
    for_all = found.pop("", None)
    return found if for_all is None else {board: found.get(board, for_all) for board in boards}
