"""The paper's table 2 in small: {two engines' memory} x {scaled networks, searched networks}, and its figure 13.

An engine is a judge of memory: what CMSIS-NN needs for a network, or what TinyEngine's plan takes. Under the same
limits, with as many samples shown in training, each quadrant ends with a network; what is compared is int8 top-1.

- scaled: of MobileNetV2's kind (kernel 3, expansion 6 throughout), the width and resolution with the most
  computation that fits; trained alone.
- searched: stage 1 chooses the space, a supernet is trained, evolution takes the most accurate that fits, and that
  is trained on. What the search itself cost is part of the budget here. The paper leaves it aside and trains every
  network alike; so the network that was found is also trained from nothing, as the scaled one is.

Half of a task's validation split judges in the search, the other half gives the figures here; the test split is
never read. Latency is no limit, as in that table. Nothing is measured on boards.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nas.accuracy import InheritedAccuracy, top1_of_scores
from nas.arch import Arch
from nas.costs import Cost, Costs, Limit, Value
from nas.data.task import ArraySamples, Samples, Task, everything
from nas.deploy import answers, int8_graph
from nas.errors import DataError
from nas.evolve import Search, Settings
from nas.judge import Judge, Need, fits
from nas.space import Skeleton, Space, layout
from nas.space_search import Samples as Judged
from nas.space_search import Verdict, choose
from nas.supernet import Network
from nas.train import Recipe, train_network, train_supernet

STAGE1_SAMPLES = 200
_SPLIT_SEED = 7
_BELOW_ALL = float("-inf")
"""In place of the accuracy of a network that does not fit: nobody asks for it."""
_FREE = Value(value=0.0, low=0.0, high=0.0, id="counted")


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What every quadrant may spend; equal where it counts, in samples shown.

    Args:
        supernet: its elastic phase shows every sample to `subnetworks` networks.
        tuning: of the searched network.
        population: networks that evolution keeps, and new ones each generation; of those that fit it asks for the
            accuracy.
    """

    supernet: Recipe
    tuning: Recipe
    population: int = 8
    generations: int = 4

    @property
    def shown(self) -> int:
        """How often each training sample is shown to some network."""
        own = self.supernet
        return own.largest_epochs + own.elastic_epochs * own.subnetworks + self.tuning.largest_epochs

    def alone(self, seed: int) -> Recipe:
        """The same for one network from nothing."""
        return replace(self.supernet, largest_epochs=self.shown, elastic_epochs=0, seed=seed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """A data set with limits.

    Args:
        task: the data for inputs of so many rows.
        spaces: what stage 1 chooses from; `scaled`: what S-MbV2 is chosen from.
        share: of a space's networks, that must surely fit; where no space has it, the one that fits most often is
            taken. A small one will do: evolution first draws many populations until enough fit, and a draw that
            does not costs a plan and no accuracy. A large one leaves narrow spaces only, whose mean network may
            compute less than the scaled one.
        limit: without what every firmware takes.
    """

    name: str
    task: Callable[[int], Task]
    spaces: tuple[Space, ...]
    scaled: tuple[Space, ...]
    share: float
    limit: Need
    budget: Budget


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Best accuracy so far (inherited weights, on the half that judges) after each generation; None: none fits."""

    evolution: tuple[float | None, ...]
    random: tuple[float | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One engine, one seed. Accuracies are shares, of int8; None where nothing fits.

    `scaled_need` and `searched_need` are as this engine counts. `alone_int8` is of the network that was searched
    for, trained from nothing.
    """

    study: str
    engine: str
    seed: int
    scaled: str | None
    scaled_need: Need | None
    scaled_int8: float | None
    space: str | None
    searched: str | None
    searched_need: Need | None
    searched_int8: float | None
    alone_int8: float | None
    curve: Curve | None


def outcome(
    study: Study, engine: Judge, seed: int, *, folder: Path, device: torch.device, tell: Callable[[str], None]
) -> Outcome:
    """Both quadrants of `engine`; remembered in `folder`, so that asking again costs nothing.

    Raises:
        DataError: the data cannot be read.
    """
    kept = tuple(field.name for field in fields(Outcome))
    settings = (study.spaces, study.scaled, study.share, study.limit, study.budget, STAGE1_SAMPLES)
    asked = (study.name, settings, engine.name, seed, kept)
    file = (
        folder / f"{study.name}-{engine.name}-{seed}-{hashlib.sha256(repr(asked).encode()).hexdigest()[:12]}.json"
    )
    if file.is_file():
        return _read(file)
    run = _Run(study, engine, seed, folder, device, tell)
    scaled, searched = run.scaled(), run.searched()
    found = Outcome(study=study.name, engine=engine.name, seed=seed, **scaled, **searched)
    folder.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(f".{os.getpid()}.part")
    part.write_text(json.dumps(asdict(found), indent=1))
    part.replace(file)
    return found


class _Run:
    """One engine and one seed."""

    def __init__(
        self,
        study: Study,
        engine: Judge,
        seed: int,
        folder: Path,
        device: torch.device,
        tell: Callable[[str], None],
    ) -> None:
        self._study, self._engine, self._seed = study, engine, seed
        self._folder, self._device, self._tell = folder, device, tell

    def scaled(self) -> dict[str, Any]:
        """The fields of `Outcome` that are about S-MbV2."""
        study = self._study
        known = [(space, mobilenet(space)) for space in study.scaled]
        fitting = [(s, a) for s, a in known if self._fits(s, a)]
        if not fitting:
            return {"scaled": None, "scaled_need": None, "scaled_int8": None}
        space, arch = max(fitting, key=lambda f: (layout(f[0].skeleton, f[1]).macs, f[0].name))
        share = self._alone(space, arch, halves(study.task(space.resolution)))
        self._tell(f"{study.name}, {self._engine.name}, seed {self._seed}: S-MbV2 {space.name} {share:.1%}")
        return {
            "scaled": space.name,
            "scaled_need": self._need(space.skeleton, arch),
            "scaled_int8": share,
        }

    def searched(self) -> dict[str, Any]:
        """The fields of `Outcome` that are about TinyNAS."""
        study, seed = self._study, self._seed
        chosen = self._space()
        if chosen is None:
            return dict.fromkeys(("space", "searched", "searched_need", "searched_int8", "alone_int8", "curve"))
        space, verdict = chosen
        judged = halves(study.task(space.resolution))
        recipe = replace(study.budget.supernet, seed=seed)
        supernet = train_supernet(
            space, judged.task, recipe, device=self._device, checkpoint=self._checkpoint(space, recipe)
        )
        inherited = InheritedAccuracy(supernet, judged.task, self._device, seed=seed)
        counted = Counted(self._engine, space.skeleton)
        evolution, best = self._evolve(space, inherited, counted, drawn=0)
        random_search, _ = self._evolve(
            space, inherited, counted, drawn=round(study.budget.population / verdict.share)
        )
        tuning = replace(study.budget.tuning, seed=seed)
        network = supernet.extract(best)
        train_network(
            network,
            judged.task,
            tuning,
            device=self._device,
            checkpoint=self._checkpoint(space, recipe, tuning, best),
        )
        share, alone = self._int8(network, judged), self._alone(space, best, judged)
        self._tell(
            f"{study.name}, {self._engine.name}, seed {seed}: TinyNAS {space.name} {share:.1%}, alone {alone:.1%}"
        )
        return {
            "space": space.name,
            "searched": best.encode(),
            "searched_need": self._need(space.skeleton, best),
            "searched_int8": share,
            "alone_int8": alone,
            "curve": Curve(evolution=evolution, random=random_search),
        }

    def _space(self) -> tuple[Space, Verdict] | None:
        """Stage 1; where no space surely fits often enough, the one that fits most often."""
        verdicts = [self._verdict(space) for space in self._study.spaces]
        chosen = choose(verdicts, share=self._study.share, near=0.0)
        chosen = chosen or max(verdicts, key=lambda v: (v.share, v.mean_macs))
        return next(((s, chosen) for s in self._study.spaces if s.name == chosen.space and chosen.fitting), None)

    def _verdict(self, space: Space) -> Verdict:
        rng = random.Random(f"{self._seed}/{space.name}")
        layouts = [layout(space.skeleton, space.sample(rng)) for _ in range(STAGE1_SAMPLES)]
        needs = [self._engine.need(each) for each in layouts]
        judged = Judged(
            space=space.name,
            judge=self._engine.name,
            macs=tuple(each.macs for each in layouts),
            sram_bytes=tuple(n.sram_bytes for n in needs),
            flash_bytes=tuple(n.flash_bytes for n in needs),
        )
        return Verdict.of(judged, self._study.limit)

    def _evolve(
        self, space: Space, inherited: InheritedAccuracy, counted: Counted, *, drawn: int
    ) -> tuple[tuple[float | None, ...], Arch]:
        """The best accuracy after each generation, and the best network.

        Args:
            drawn: 0 evolves; for a random search, draws of which a population fits.
        """
        study = self._study
        population = study.budget.population
        settings = Settings(
            population=population,
            parents=max(2, population // 3),
            crossed=0 if drawn else population // 2,
            mutated=0 if drawn else population - population // 2,
            drawn=drawn,
            generations=study.budget.generations,
            measured_a_generation=0,
            seed=self._seed,
        )
        limits = [
            Limit(board=self._engine.name, cost=cost, most=float(most))
            for cost, most in (
                (Cost.SRAM_BYTES, study.limit.sram_bytes),
                (Cost.FLASH_BYTES, study.limit.flash_bytes),
            )
        ]
        found = Search(
            space,
            limits,
            settings,
            accuracy=lambda archs: [
                inherited(a) if fits(counted.need(a), study.limit) else _BELOW_ALL for a in archs
            ],
            predict=counted,
            measure=counted,
        ).run()
        best: list[float | None] = []
        for generation in found.history:
            known = [b for b in (*best, generation.best) if b is not None]
            best.append(max(known, default=None))
        return tuple(best), found.front[0].arch

    def _alone(self, space: Space, arch: Arch, judged: Halves) -> float:
        """Int8 top-1 of `arch`, trained from nothing with the whole budget."""
        recipe = self._study.budget.alone(self._seed)
        torch.manual_seed(self._seed)
        network = Network(layout(space.skeleton, arch))
        checkpoint = self._checkpoint(space, recipe, arch)
        train_network(network, judged.task, recipe, device=self._device, checkpoint=checkpoint)
        return self._int8(network, judged)

    def _checkpoint(self, space: Space, *trained: object) -> Path:
        """Engines share it: training does not depend on them."""
        named = hashlib.sha256(repr((self._study.name, space, trained)).encode()).hexdigest()[:12]
        return self._folder / f"{self._study.name}-{space.name}-{self._seed}-{named}.pt"

    def _int8(self, network: Network, judged: Halves) -> float:
        graph = int8_graph(network, judged.task.train, name=self._study.name)
        return top1_of_scores(answers(graph, everything(judged.held)), judged.held.labels)

    def _fits(self, space: Space, arch: Arch) -> bool:
        return fits(self._need(space.skeleton, arch), self._study.limit)

    def _need(self, skeleton: Skeleton, arch: Arch) -> Need:
        return self._engine.need(layout(skeleton, arch))


class Counted:
    """A judge as predictor and as what is measured: its counts are certain, and made once a network."""

    def __init__(self, judge: Judge, skeleton: Skeleton) -> None:
        self._judge, self._skeleton = judge, skeleton
        self._needs: dict[Arch, Need] = {}

    def __call__(self, candidates: Sequence[Arch]) -> list[tuple[Costs, ...]]:
        return [(self._costs(a),) for a in candidates]

    def learn(self, measured: Sequence[Arch]) -> None:
        """There is nothing to learn."""

    def need(self, arch: Arch) -> Need:
        """What `arch` takes."""
        if arch not in self._needs:
            self._needs[arch] = self._judge.need(layout(self._skeleton, arch))
        return self._needs[arch]

    def _costs(self, arch: Arch) -> Costs:
        need = self.need(arch)
        sram, flash = (
            Value(value=float(b), low=float(b), high=float(b), id="counted")
            for b in (need.sram_bytes, need.flash_bytes)
        )
        return Costs(board=self._judge.name, latency_ms=_FREE, sram_bytes=sram, flash_bytes=flash)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Halves:
    """A task whose validation split has lost a half, and that half."""

    task: Task
    held: Samples


def halves(task: Task) -> Halves:
    """Divides the validation split, once and for all."""
    labels = task.validation.labels
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(labels))
    parts = [
        ArraySamples(inputs=task.validation.read(chosen), labels=labels[chosen])
        for chosen in (np.sort(order[::2]), np.sort(order[1::2]))
    ]

    def refuse() -> Samples:
        raise DataError("the test split is not read by this comparison", task.name)

    return Halves(task=replace(task, validation=parts[0], test=refuse), held=parts[1])


def mobilenet(space: Space) -> Arch:
    """MobileNetV2's kind in `space`: kernel 3, expansion 6, the least depth."""
    depth = min(space.depths)
    expand = max(space.expands)
    text = "/".join(".".join([f"{min(space.kernels)}e{expand}"] * depth) for _ in space.skeleton.stage_channels)
    return Arch.decode(f"r{space.resolution}-w{space.width_percent}:{text}")


def _read(file: Path) -> Outcome:
    document = json.loads(file.read_text())
    for name in ("scaled_need", "searched_need"):
        document[name] = None if document[name] is None else Need(*document[name])
    if document["curve"] is not None:
        document["curve"] = Curve(**{k: tuple(v) for k, v in document["curve"].items()})
    return Outcome(**document)
