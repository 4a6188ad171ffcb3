"""What was predicted of a network before boards were asked, beside what they said.

A predictor that is listened to: a search with it takes the same way as without. The pairs are for people and for
judging predictions: each was made by what was known at the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nas.arch import Arch
from nas.costs import Costs
from nas.known import MeasureArchs, Predict


@dataclass(frozen=True, slots=True, kw_only=True)
class Foretold:
    """One network on one board.

    Args:
        known: networks that had been measured when it was predicted.
    """

    arch: Arch
    known: int
    predicted: Costs
    measured: Costs


class Traced:
    """`Predict` that passes everything on and keeps what was foretold."""

    def __init__(self, predict: Predict, measured: MeasureArchs) -> None:
        """`measured` tells the answers that `predict` is about to learn from; they are there already."""
        self._predict, self._measured = predict, measured
        self._known = 0
        self.foretold: list[Foretold] = []

    def __call__(self, candidates: Sequence[Arch]) -> list[tuple[Costs, ...]]:
        return self._predict(candidates)

    def learn(self, measured: Sequence[Arch]) -> None:
        before = self._predict(measured)
        self._predict.learn(measured)
        for arch, predicted, said in zip(measured, before, self._measured(measured), strict=True):
            self.foretold += [
                Foretold(arch=arch, known=self._known, predicted=p, measured=m)
                for p, m in zip(predicted, said, strict=True)
                if m.failure is None
            ]
        self._known += len(measured)
