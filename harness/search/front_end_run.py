"""An audio front end on a board: whether it computes the integers it was trained with, and what it costs.

The generated C is flashed in the shape of a model, by the same firmware that times networks. It is no network's
row: what is known of it travels with the search that asked.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.attempt.deadlines import LEAST_INFERENCE_S, Deadlines
from harness.boards import Board
from harness.search.answers import conversation
from harness.station import Hardware
from nas.data.front_end import FrontEnd, Pcm

_CLIP_S = 60.0
"""A simulated board takes seconds for a clip, a real one milliseconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontEndRun:
    """What one board said.

    Args:
        cycles: the most that one clip took; `clips` were tried.
        samples_bytes, scratch_bytes: of SRAM, beside features that are the network's input; scratch may lie in the
            network's arena, which is not in use yet.
        flash_bytes: code and tables, without the firmware.
        build_digest: of the image.
    """

    board: str
    simulated: bool
    clips: int
    cycles: int
    clock_hz: int
    samples_bytes: int
    scratch_bytes: int
    stack_bytes: int
    flash_bytes: int
    bit_exact: bool
    build_digest: str

    @property
    def latency_ms(self) -> float:
        """At the board's own clock."""
        return 1e3 * self.cycles / self.clock_hz


def run(
    front_end: FrontEnd,
    clips: Sequence[Pcm],
    board: Board,
    *,
    hardware: Hardware,
    stop: threading.Event,
    rng: random.Random,
) -> FrontEndRun:
    """Features of `clips`, each of `front_end.samples` samples, by the board and compared with NumPy's.

    Raises:
        HarnessError: the image cannot be built, or the board is at fault. Interrupted: `stop` was set.
    """
    limits, exact = Deadlines(), True
    cycles: list[int] = []
    with conversation(board, front_end.program(), hardware=hardware, stop=stop, rng=rng, limits=limits) as talk:
        deadline_s = limits.run_s + LEAST_INFERENCE_S + _CLIP_S
        for clip in clips:
            talk.device.load_input(clip.astype("<i2").tobytes())
            cycles += talk.device.run_whole(warmups=0, repetitions=1, deadline_s=deadline_s).cycles
            got = np.frombuffer(talk.device.output(), dtype=np.int8)
            exact = exact and bool((got == front_end.features(clip).reshape(-1)).all())
        memory = talk.device.memory(deadline_s=2 * deadline_s)
    return FrontEndRun(
        board=board.name,
        simulated=board.simulated,
        clips=len(clips),
        cycles=max(cycles),
        clock_hz=talk.hello.clock_hz,
        samples_bytes=2 * front_end.samples,
        scratch_bytes=front_end.scratch_bytes,
        stack_bytes=memory.stack_bytes,
        flash_bytes=talk.image.model_flash_bytes,
        bit_exact=exact and memory.guard_intact,
        build_digest=talk.image.build_digest,
    )
