"""What a damaged frame tells, and that every fault class has its one line of advice."""

from __future__ import annotations

import random

import pytest

from harness.diagnosis import ADVICE, damage
from harness.errors import FaultClass

FRAME = random.Random(1).randbytes(120)


def test_every_class_has_one_line_of_advice() -> None:
    assert set(ADVICE) == set(FaultClass)
    assert all("\n" not in words and len(words) < 100 for words in ADVICE.values())


@pytest.mark.parametrize(
    ("piece", "fault"),
    [
        (FRAME[:50] + FRAME[51:], FaultClass.UART_BYTES_LOST),
        (FRAME[:10] + FRAME[11:90] + FRAME[91:], FaultClass.UART_BYTES_LOST),
        (FRAME[:50] + bytes((FRAME[50] ^ 8,)) + FRAME[51:], FaultClass.UART_BYTES_FLIPPED),
        (FRAME[:50] + b"\0" + FRAME[51:], FaultClass.UART_BYTES_FLIPPED),
        (FRAME[:51] + FRAME[50:], FaultClass.UART_BYTES_DUPLICATED),
        (FRAME[:20], None),
        (random.Random(2).randbytes(120), None),
        (b"", None),
    ],
)
def test_damage_is_known_by_the_same_frame_when_it_comes_sound(piece: bytes, fault: FaultClass | None) -> None:
    assert damage(piece, FRAME) is fault
