"""What evolution asks, answered: costs of networks nobody has run, and of those that boards have.

A candidate is compiled with noise for weights, for its memory plan and its steps; each board has a latency model,
fitted to the layers measured so far. Before anything was measured the compiler's own estimate stands in, with an
interval wide enough to send the boards what is near a limit.

Trained networks have channels that never change, which the compiler removes and noise has not; networks of one
supernet share most of them. The ratio of what measured ones took to what is foretold of their plans corrects the
others; a ratio, so that a network far smaller than those is not corrected below nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import exp, log
from statistics import median

from nas import network, steps
from nas.arch import Arch
from nas.costs import Costs, Value
from nas.latency_model import LatencyModel, Observation, fit, reach_of_few
from nas.measure import Candidate, LayerCycles, Measure, Measured, Unmeasured
from nas.network import Weights
from nas.space import Space, layout
from nas.steps import StepShape
from tinyengine.compile import CompileOptions, compile_graph
from tinyengine.kernels.catalogue import Target

_BLIND = 2.0
"""The compiler's estimate is right within this factor."""
_CORRECTING = 3
"""Measured networks from which on they correct what is foretold of plans."""
_CONFIDENCE = 0.9
"""Of intervals."""
_LOST = Value(value=float("1e12"), low=float("1e12"), high=float("1e12"))
"""Of a network that a board cannot run: beyond every limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardFacts:
    """What a prediction needs to know of a board.

    Args:
        firmware_sram_bytes, firmware_flash_bytes: what the firmware takes beside the network, roughly; measured
            networks correct it.
    """

    name: str
    target: Target
    clock_hz: int
    firmware_sram_bytes: int = 2048
    firmware_flash_bytes: int = 12288


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """A compiled candidate: its steps, and what the network itself takes."""

    steps: tuple[StepShape, ...]
    arena_bytes: int
    flash_bytes: int


class Guide:
    """`nas.known.Predict`, and the measuring function that it learns from."""

    def __init__(
        self,
        space: Space,
        boards: Sequence[BoardFacts],
        candidate: Callable[[Arch], Candidate],
        measure: Measure,
    ) -> None:
        """Args:
        candidate: the trained network of an architecture, as it would be deployed.
        measure: asks the boards of `boards`, in that order.
        """
        self._space, self._boards = space, tuple(boards)
        self._candidate, self._measure = candidate, measure
        self._plans: dict[tuple[Arch, Target], _Plan] = {}
        self._seen: dict[str, list[Observation]] = {b.name: [] for b in boards}
        self._beside: dict[str, list[tuple[int, int]]] = {b.name: [] for b in boards}
        self._ran: dict[str, list[tuple[_Plan, int]]] = {b.name: [] for b in boards}
        self._watts: dict[str, list[float]] = {b.name: [] for b in boards}
        self._models: dict[str, LatencyModel] = {}
        self._corrections: dict[str, _Correction] = {}
        self._answers: dict[Arch, tuple[Measured | Unmeasured, ...]] = {}

    def __call__(self, candidates: Sequence[Arch]) -> list[tuple[Costs, ...]]:
        """For each candidate its predicted costs, one entry a board."""
        return [tuple(self._predicted(a, b) for b in self._boards) for a in candidates]

    def learn(self, measured: Sequence[Arch]) -> None:
        """Fits each board's model to these too. What was measured before a restart is asked for again: `measure`
        remembers it, layers included."""
        self._have_asked(measured)
        for arch in measured:
            for board, answer in zip(self._boards, self._answers[arch], strict=True):
                self._note(arch, board, answer)
        self._models = {name: fit(seen, confidence=_CONFIDENCE) for name, seen in self._seen.items() if seen}
        self._corrections = {name: _correction(m, self._ran[name]) for name, m in self._models.items()}

    def ask(self, candidates: Sequence[Arch]) -> list[tuple[Costs, ...]]:
        """For each candidate its measured costs, one entry a board."""
        self._have_asked(candidates)
        return [
            tuple(_costs(b, m) for b, m in zip(self._boards, self._answers[a], strict=True)) for a in candidates
        ]

    def _have_asked(self, archs: Sequence[Arch]) -> None:
        missing = [a for a in dict.fromkeys(archs) if a not in self._answers]
        if missing:
            asked = self._measure([self._candidate(a) for a in missing])
            self._answers.update(zip(missing, asked, strict=True))

    def _predicted(self, arch: Arch, board: BoardFacts) -> Costs:
        plan, model = self._plan(arch, board.target), self._models.get(board.name)
        if model is None:
            middle = sum(s.causes[0] for s in plan.steps)
            low, high = middle / _BLIND, middle * _BLIND
        else:
            found, correction = model.predict(plan.steps), self._corrections[board.name]
            middle = found.cycles * correction.factor
            low, high = found.low * correction.low, found.high * correction.high
        to_ms = 1e3 / board.clock_hz
        latency = Value(value=middle * to_ms, low=low * to_ms, high=high * to_ms)
        sram, flash = self._firmware(board)
        return Costs(
            board=board.name,
            latency_ms=latency,
            sram_bytes=_near(plan.arena_bytes + sram),
            flash_bytes=_near(plan.flash_bytes + flash),
            energy_joules=_energy(latency, self._watts[board.name]),
        )

    def _firmware(self, board: BoardFacts) -> tuple[int, int]:
        beside = self._beside[board.name]
        if not beside:
            return board.firmware_sram_bytes, board.firmware_flash_bytes
        middle = len(beside) // 2
        return sorted(s for s, _ in beside)[middle], sorted(f for _, f in beside)[middle]

    def _note(self, arch: Arch, board: BoardFacts, answer: Measured | Unmeasured) -> None:
        if isinstance(answer, Unmeasured):
            return
        plan = self._plan(arch, board.target)
        self._beside[board.name].append(
            (answer.sram_bytes - plan.arena_bytes, answer.flash_bytes - plan.flash_bytes)
        )
        self._ran[board.name].append((plan, answer.cycles))
        if answer.energy_joules is not None:
            self._watts[board.name].append(1e3 * answer.energy_joules / answer.latency_ms)
        # A trained network may be compiled to other steps than noise is; then its own are what was measured.
        ran = plan.steps
        if not _alike(ran, answer.layers):
            ran = steps.of(compile_graph(self._candidate(arch).graph, CompileOptions(target=board.target)))
        if _alike(ran, answer.layers):
            self._seen[board.name].append(
                Observation(
                    steps=ran,
                    step_cycles=tuple(layer.cycles for layer in answer.layers),
                    cycles=answer.cycles,
                )
            )

    def _plan(self, arch: Arch, target: Target) -> _Plan:
        if (arch, target) not in self._plans:
            graph = network.graph(layout(self._space.skeleton, arch), Weights.SEEDED)
            # Noise has channels that never change, as trained networks do not; they stay.
            compiled = compile_graph(graph, CompileOptions(target=target, fold_constants=False))
            self._plans[arch, target] = _Plan(
                steps=steps.of(compiled), arena_bytes=compiled.plan.arena_bytes, flash_bytes=compiled.weights_bytes
            )
        return self._plans[arch, target]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Correction:
    """What networks take, over what is foretold of their plans (mostly below 1), and its interval."""

    factor: float = 1.0
    low: float = 1.0
    high: float = 1.0


def _correction(model: LatencyModel, ran: Sequence[tuple[_Plan, int]]) -> _Correction:
    """The median; its interval is of errors of networks left out, as those of the latency model are."""
    if len(ran) < _CORRECTING:
        return _Correction()
    ratios = [log(cycles / model.predict(plan.steps).cycles) for plan, cycles in ran]
    errors = [abs(own - median(ratios[:i] + ratios[i + 1 :])) for i, own in enumerate(ratios)]
    middle, reach = median(ratios), reach_of_few(errors, _CONFIDENCE)
    return _Correction(factor=exp(middle), low=exp(middle - reach), high=exp(middle + reach))


def _costs(board: BoardFacts, answer: Measured | Unmeasured) -> Costs:
    if isinstance(answer, Unmeasured) or not answer.bit_exact:
        words = answer.reason if isinstance(answer, Unmeasured) else "its output is not the reference's"
        return Costs(board=board.name, latency_ms=_LOST, sram_bytes=_LOST, flash_bytes=_LOST, failure=words)

    def value(number: float) -> Value:
        return Value(value=number, low=number, high=number, id=answer.id)

    return Costs(
        board=board.name,
        latency_ms=value(answer.latency_ms),
        sram_bytes=value(answer.sram_bytes),
        flash_bytes=value(answer.flash_bytes),
        energy_joules=None if answer.energy_joules is None else value(answer.energy_joules),
    )


def _energy(latency: Value, watts: Sequence[float]) -> Value | None:
    """Of networks that draw what measured ones drew; None where no meter has said anything."""
    if not watts:
        return None
    return Value(
        value=median(watts) * latency.value / 1e3,
        low=min(watts) * latency.low / 1e3,
        high=max(watts) * latency.high / 1e3,
    )


def _near(number: float) -> Value:
    return Value(value=number, low=0.97 * number, high=1.03 * number)


def _alike(planned: Sequence[StepShape], layers: Sequence[LayerCycles]) -> bool:
    """Whether the board ran the steps that were planned."""
    return len(planned) == len(layers) and all(
        s.kind in {"chain", layer.kernel} for s, layer in zip(planned, layers, strict=True)
    )
