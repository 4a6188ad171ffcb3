"""What all ways to search share: a space, a supernet's accuracies, a simulated board; each answer is made once.

Photographs (the subset of CIFAR-10 in ../shared/data) at 24 x 24 pixels and a supernet of three elastic stages. On
handwritten digits accuracies say nothing of a network's size (correlation with multiply-accumulates 0.04 over 40
drawn networks); here they say a little (0.20 over 30, and 3.5 points from the smallest to the largest). Longer
training was not to be had, and a supernet of two minutes tells sizes apart poorly.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

from nas.arch import Arch
from nas.measure import Candidate
from nas.space import Space, layout
from tests.benchmarks.bench_rows import CHECKOUT, NotMeasured

BOARD = "f746-sim"
FOLDER = CHECKOUT / "results" / "search-comparison"
_PHOTOGRAPHS = CHECKOUT.parent / "shared" / "data" / "cifar10_jpeg_subset"
_SIDE = 24
_EVERY = 2
"""Of the training samples, one in so many is trained on."""


def space() -> Space:
    """That of handwritten digits, for pictures in colour."""
    from nas.setups import DIGITS

    skeleton = replace(DIGITS.space.skeleton, input_channels=3)
    return replace(DIGITS.space, skeleton=skeleton, resolution=_SIDE)


class Ground:
    """Accuracies are shares of 1,500 validation samples; `facts` and `measure` are about the board."""

    def __init__(self) -> None:
        import torch

        from harness.boards_file import load_boards
        from harness.chips import load_chip
        from harness.job import JobOptions
        from harness.measure import BoardMeasure
        from harness.store import Store
        from nas.accuracy import InheritedAccuracy
        from nas.data import images
        from nas.data.task import ArraySamples
        from nas.guide import BoardFacts
        from nas.setups import DIGITS
        from nas.train import train_supernet

        if not _PHOTOGRAPHS.is_dir():
            raise NotMeasured(f"there are no data in {_PHOTOGRAPHS}")
        FOLDER.mkdir(parents=True, exist_ok=True)
        torch.set_num_threads(1)
        self.space = space()
        train, test = (next(_PHOTOGRAPHS.glob(f"{split}*.tar")) for split in ("train", "test"))
        whole = images.archives(train, test, side=_SIDE, validation_share=0.1)
        assert isinstance(whole.train, ArraySamples)
        few = ArraySamples(inputs=whole.train.inputs[::_EVERY], labels=whole.train.labels[::_EVERY])
        task = replace(whole, train=few)
        recipe = replace(DIGITS.recipe, largest_epochs=4, elastic_epochs=10)
        device = torch.device("cpu")
        supernet = train_supernet(self.space, task, recipe, device=device, checkpoint=FOLDER / "supernet.pt")
        self._judge = InheritedAccuracy(supernet, task, device)
        weights = b"".join(t.numpy().tobytes() for t in supernet.state_dict().values())
        self._file = FOLDER / f"accuracies-{hashlib.sha256(weights).hexdigest()[:16]}.json"
        self._accuracies: dict[str, float] = json.loads(self._file.read_text()) if self._file.exists() else {}
        board = load_boards().select([BOARD])[0]
        options = JobOptions(repetitions=1, warmups=0, marks=False)
        chip = load_chip(board.chip)
        self.facts = BoardFacts(name=BOARD, target=options.kernels.target(chip.core), clock_hz=chip.clock.rated_hz)
        self.measure = BoardMeasure(
            [board],
            store=Store.open(str(FOLDER), now=time.time),
            options=options,
            stop=threading.Event(),
        )

    def accuracies(self, archs: Sequence[Arch]) -> list[float]:
        """One a network."""
        missing = [a for a in archs if a.encode() not in self._accuracies]
        for arch in missing:
            self._accuracies[arch.encode()] = self._judge(arch)
        if missing:
            self._file.write_text(json.dumps(self._accuracies))
        return [self._accuracies[a.encode()] for a in archs]

    def candidate(self, arch: Arch) -> Candidate:
        """The network with noise for weights: its cycles are the trained one's."""
        from nas import network
        from nas.network import Weights

        graph = network.graph(layout(self.space.skeleton, arch), Weights.SEEDED)
        return Candidate(name=arch.digest()[:12], graph=graph)

    def macs(self, arch: Arch) -> int:
        """Multiply-accumulates by the textbook."""
        return layout(self.space.skeleton, arch).macs


@cache
def ground() -> Ground:
    """The one that all benchmarks of a process share."""
    return Ground()
