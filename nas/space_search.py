"""Stage 1 (MCUNet, section 3.1): which of the spaces holds the best networks that fit, without training any.

Of each space some sub-networks are drawn and judged. Among those that fit, more computation means more accuracy,
so the space with the highest mean of it wins. That rule alone can pick a space of which nearly nothing fits, where
an evolution would find few candidates; so a least share of a space must fit, beyond doubt.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import pairwise
from math import sqrt
from multiprocessing import get_context
from pathlib import Path
from typing import Self, TypeAlias

from nas.judge import Judge, Need, PaperCost, RealPlan
from nas.space import Size, Skeleton, Space, layout
from tinyengine.kernels.catalogue import Target

LEAST_SHARE = 0.75
"""Of a space's sub-networks, that must fit; see README.md for what the choice hangs on."""
NEAR = 0.07
"""By how much less computation spaces are still as good as the first: resolutions come in steps of 16 rows, the
smallest of which (208 to 224) takes 14 % of the computation away. Less than half of that is decided by how close a
limit happens to lie to a step."""
NOTHING = Need(sram_bytes=0, flash_bytes=0)
_Z = 1.6449
"""One-sided 95 %."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """Sub-networks of one space as one judge sees them, one entry each."""

    space: str
    judge: str
    macs: tuple[int, ...]
    sram_bytes: tuple[int, ...]
    flash_bytes: tuple[int, ...]

    def fitting(self, limit: Need) -> tuple[int, ...]:
        """Indexes of those within the limits."""
        needs = enumerate(zip(self.sram_bytes, self.flash_bytes, strict=True))
        return tuple(i for i, (s, f) in needs if s <= limit.sram_bytes and f <= limit.flash_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A space under limits.

    Args:
        share: of the samples that fit; `least_share` is its lower confidence bound.
        mean_macs, mean_sram_bytes: of those that fit; 0 where none does.
    """

    space: str
    samples: int
    fitting: int
    share: float
    least_share: float
    mean_macs: float
    mean_sram_bytes: float

    @classmethod
    def of(cls, samples: Samples, limit: Need) -> Self:
        found, drawn = samples.fitting(limit), len(samples.macs)
        return cls(
            space=samples.space,
            samples=drawn,
            fitting=len(found),
            share=len(found) / drawn,
            least_share=least_share(len(found), drawn),
            mean_macs=sum(samples.macs[i] for i in found) / max(1, len(found)),
            mean_sram_bytes=sum(samples.sram_bytes[i] for i in found) / max(1, len(found)),
        )


def least_share(fitting: int, drawn: int) -> float:
    """Lower bound of the share that fits, right 95 times in 100 (Wilson's score interval, one-sided)."""
    p, z2 = fitting / drawn, _Z * _Z
    centre = p + z2 / (2 * drawn)
    spread = _Z * sqrt(p * (1 - p) / drawn + z2 / (4 * drawn * drawn))
    return max(0.0, (centre - spread) / (1 + z2 / drawn))


def choose(verdicts: Iterable[Verdict], *, share: float = LEAST_SHARE, near: float = NEAR) -> Verdict | None:
    """The space with the highest mean among those of which surely `share` fits; None where there is none.

    Of those with at most `near`, a share, less computation it is the one whose networks need the least SRAM. With
    0 for both this is the paper's rule.
    """
    fine = [v for v in verdicts if v.fitting and v.least_share >= share]
    most = max((v.mean_macs for v in fine), default=0.0)
    as_good = [v for v in fine if v.mean_macs >= most * (1 - near)]
    return min(as_good, key=lambda v: (v.mean_sram_bytes, -v.mean_macs, v.space), default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is to be judged.

    Args:
        samples: a space.
        target: the board's kernels, for the real plan.
        most: needs beyond it may be answered roughly.
        code: digest of what decides needs, so that samples of older code are not taken for today's.
    """

    spaces: tuple[Space, ...]
    samples: int
    seed: int
    target: Target
    most: Need
    code: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """The samples of one space, by both judges."""

    paper: Samples
    real: Samples


def judge_all(
    request: Request, *, folder: Path, processes: int, tell: Callable[[int, int], None]
) -> tuple[Judged, ...]:
    """All spaces of the request, in their order.

    A space that was judged before is read from `folder`; each is written there when done, so that a run that was
    killed goes on.

    Args:
        tell: called with how many spaces of how many are done.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{_digest(request, space)}.json" for space in request.spaces]
    done: dict[int, Judged] = {}
    for index, file in enumerate(files):
        found = _read(file)
        if found is not None:
            done[index] = found
    tell(len(done), len(files))
    # Layers of one width have the same weights, which are analysed once a process; of wide networks few fit.
    todo = sorted((i for i in range(len(files)) if i not in done), key=lambda i: request.spaces[i].width_percent)
    for index, judged in _judge_some(request, todo, processes):
        _write(files[index], judged)
        done[index] = judged
        tell(len(done), len(files))
    return tuple(done[i] for i in range(len(files)))


def _judge_some(request: Request, todo: Sequence[int], processes: int) -> Iterator[tuple[int, Judged]]:
    if processes <= 1 or len(todo) <= 1:
        for index in todo:
            yield index, judge_space(request, request.spaces[index])
        return
    with ProcessPoolExecutor(max_workers=processes, mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(judge_space, request, request.spaces[i]): i for i in todo}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def judge_space(request: Request, space: Space) -> Judged:
    """The samples of one space; the same ones whatever else is judged."""
    rng = random.Random(f"{request.seed}/{space.name}")
    layouts = [layout(space.skeleton, space.sample(rng)) for _ in range(request.samples)]
    macs = tuple(each.macs for each in layouts)

    def seen_by(judge: Judge) -> Samples:
        needs = [judge.need(each) for each in layouts]
        return Samples(
            space=space.name,
            judge=judge.name,
            macs=macs,
            sram_bytes=tuple(n.sram_bytes for n in needs),
            flash_bytes=tuple(n.flash_bytes for n in needs),
        )

    return Judged(paper=seen_by(PaperCost()), real=seen_by(_real(request.target, request.most)))


@lru_cache(maxsize=4)
def _real(target: Target, most: Need) -> RealPlan:
    """One a process: it remembers what it has priced."""
    return RealPlan(target, most=most)


def _digest(request: Request, space: Space) -> str:
    asked = (asdict(space), request.samples, request.seed, request.target.value, request.most, request.code)
    return hashlib.sha256(repr(asked).encode()).hexdigest()


def _read(file: Path) -> Judged | None:
    """What was written; None where nothing whole was."""
    try:
        document = json.loads(file.read_text())
        return Judged(paper=_samples(document["paper"]), real=_samples(document["real"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _samples(document: dict[str, list[int]]) -> Samples:
    return Samples(
        space=str(document["space"]),
        judge=str(document["judge"]),
        macs=tuple(map(int, document["macs"])),
        sram_bytes=tuple(map(int, document["sram_bytes"])),
        flash_bytes=tuple(map(int, document["flash_bytes"])),
    )


def _write(file: Path, judged: Judged) -> None:
    part = file.with_suffix(f".{os.getpid()}.part")
    part.write_text(json.dumps(asdict(judged)))
    part.replace(file)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The space chosen under limits; None where nothing fits often enough."""

    sram_kib: int
    flash_kib: int
    winner: Verdict | None


FIGURE_12_SRAM_KIB = (192, 256, 320, 384, 448, 512)
FIGURE_12_FLASH_KIB = (512, 1024, 1536, 2048)


def choices(
    samples: Sequence[Samples], *, share: float = LEAST_SHARE, near: float = NEAR, firmware: Need = NOTHING
) -> tuple[Choice, ...]:
    """The paper's figure 12: the choice over SRAM and flash, of which the firmware takes its part."""

    def winner(sram_kib: int, flash_kib: int) -> Verdict | None:
        limit = Need(sram_bytes=sram_kib << 10, flash_bytes=flash_kib << 10).without(firmware)
        return choose((Verdict.of(s, limit) for s in samples), share=share, near=near)

    return tuple(
        Choice(sram_kib=sram, flash_kib=flash, winner=winner(sram, flash))
        for flash in FIGURE_12_FLASH_KIB
        for sram in FIGURE_12_SRAM_KIB
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One of figure 12's two rules: of how many steps from a cell to the next it holds, and where it does not."""

    says: str
    steps: int
    broken: tuple[str, ...]

    @property
    def lines(self) -> tuple[str, ...]:
        """In how many steps it holds, and each in which it does not."""
        kept = f"{self.says}: in {self.steps - len(self.broken)} of {self.steps} steps"
        return kept, *(f"not {step}" for step in self.broken)


def rules(grid: Sequence[Choice]) -> tuple[Rule, Rule]:
    """Whether figure 12's rules hold; steps from or to a cell without a choice do not count."""
    chosen = {(c.sram_kib, c.flash_kib): c.winner.space for c in grid if c.winner is not None}
    more_sram = [((a, f), (b, f)) for f in FIGURE_12_FLASH_KIB for a, b in pairwise(FIGURE_12_SRAM_KIB)]
    more_flash = [((s, a), (s, b)) for s in FIGURE_12_SRAM_KIB for a, b in pairwise(FIGURE_12_FLASH_KIB)]

    def rule(says: str, steps: Sequence[tuple[_Cell, _Cell]], keeps: Callable[[Size, Size], bool]) -> Rule:
        known = [(chosen[a], chosen[b], b) for a, b in steps if a in chosen and b in chosen]
        broken = tuple(
            f"{old} to {new} at {sram} kB/{flash} kB"
            for old, new, (sram, flash) in known
            if not keeps(Size.named(old), Size.named(new))
        )
        return Rule(says=says, steps=len(known), broken=broken)

    return (
        rule(
            "more SRAM raises the resolution at the same width",
            more_sram,
            lambda a, b: a.width_percent == b.width_percent and a.resolution <= b.resolution,
        ),
        rule(
            "more flash widens and lowers the resolution",
            more_flash,
            lambda a, b: a.width_percent <= b.width_percent and a.resolution >= b.resolution,
        ),
    )


_Cell: TypeAlias = tuple[int, int]
"""kB of SRAM and of flash."""


def spaces_of(skeleton: Skeleton, resolutions: Sequence[int], widths_percent: Sequence[int]) -> tuple[Space, ...]:
    """Any grid of spaces, by width and resolution."""
    return tuple(
        Space(skeleton=skeleton, width_percent=w, resolution=r) for w in widths_percent for r in resolutions
    )
