"""What a search knows of networks: accuracies, and costs that are predicted until boards have measured them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from nas.arch import Arch
from nas.costs import Costs, Member
from nas.errors import LogError
from nas.search_log import SearchLog


class Predict(Protocol):
    """Costs of networks nobody has measured; learns when told."""

    def __call__(self, candidates: Sequence[Arch]) -> list[tuple[Costs, ...]]:
        """For each candidate its costs, one entry a board."""
        ...

    def learn(self, measured: Sequence[Arch]) -> None:
        """Boards have figures for these. After a restart they are told again, in the same order.

        What failed is not among them: asked once more a board may do better, and a restarted search would differ.
        """
        ...


MeasureArchs = Callable[[Sequence[Arch]], list[tuple[Costs, ...]]]
Accuracy = Callable[[Sequence[Arch]], list[float]]


class Known:
    """The networks that were looked at. A measured value replaces its prediction for good."""

    def __init__(self, log: SearchLog, *, accuracy: Accuracy, predict: Predict, measure: MeasureArchs) -> None:
        """`log` has answers of a search that was killed, and takes all new ones."""
        self._log = log
        self._accuracy, self._predict, self._measure = accuracy, predict, measure
        self._members: dict[Arch, Member] = {}
        self._measured: dict[Arch, tuple[Costs, ...]] = {}
        self._measurements = 0

    def __contains__(self, arch: Arch) -> bool:
        return arch in self._members

    @property
    def everyone(self) -> list[Member]:
        """In the order in which they became known."""
        return list(self._members.values())

    @property
    def asked(self) -> int:
        """Networks that boards were asked about."""
        return len(self._measured)

    @property
    def measurements(self) -> int:
        """Those times boards."""
        return self._measurements

    def members(self, archs: Sequence[Arch]) -> list[Member]:
        """Members for architectures, known ones as they are known; the others become known."""
        new = list(dict.fromkeys(a for a in archs if a not in self._members))
        if new:
            missing = [a for a in new if self._log.accuracy(a) is None]
            for a, value in zip(missing, self._accuracy(missing) if missing else [], strict=True):
                self._log.keep_accuracy(a, value)
            for a, costs in zip(new, self._predict(new), strict=True):
                self._members[a] = Member(
                    arch=a, accuracy=self._log.accuracy(a) or 0.0, costs=self._measured.get(a, costs)
                )
        return [self._members[a] for a in archs]

    def measure(self, archs: Sequence[Arch]) -> None:
        """Boards say what these take, once each; the predictor learns, and all others are predicted anew."""
        asked = [a for a in dict.fromkeys(archs) if a not in self._measured]
        if not asked:
            return
        missing = [a for a in asked if self._log.costs(a) is None]
        for a, costs in zip(missing, self._measure(missing) if missing else [], strict=True):
            self._log.keep_costs(a, costs)
        for a in asked:
            answer = self._log.costs(a)
            if answer is None:
                raise LogError("lost a measurement that was just written", a.encode())
            self._measured[a] = answer
            self._measurements += len(answer)
        self._predict.learn([a for a in asked if all(c.failure is None for c in self._measured[a])])
        again = list(self._members)
        for a, predicted in zip(again, self._predict(again), strict=True):
            self._members[a] = Member(
                arch=a, accuracy=self._members[a].accuracy, costs=self._measured.get(a, predicted)
            )
