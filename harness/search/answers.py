"""What one board answers to many inputs: accuracy measured where the network will live.

The image is built, flashed and verified as for a measurement, and the hello proves that it runs. Then inputs go in
and outputs come out, one inference each. Cycles are the runner's business, and whether an answer is right the
caller's.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness import paths, rack
from harness.attempt.checks import check_flash, check_hello
from harness.attempt.deadlines import Deadlines, inference_limit_s
from harness.boards import Board
from harness.cable.device import Device
from harness.cable.messages import Hello
from harness.images.build import build
from harness.images.image import Image
from harness.images.placement import PLAIN, Placement
from harness.images.plan import BuildPlan
from harness.images.toolchain import find_toolchain
from harness.job import Job, from_blob, to_blob
from harness.station import Hardware
from tinyengine.sources import Sources

LEASE_WAIT_S = 600.0


def answers(
    job: Job,
    inputs: Sequence[NDArray[np.int8]],
    *,
    hardware: Hardware,
    stop: threading.Event,
    rng: random.Random,
    tell: Callable[[int], None] = lambda _: None,
    deadlines: Deadlines | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> NDArray[np.int8]:
    """(count, values): the network's output for each input, computed by the board.

    Args:
        job: a network with one int8 input and one int8 output.
        inputs: each of the input's shape or without its leading 1.
        tell: is told how many are done.

    Raises:
        HarnessError: the image cannot be built, or the board is at fault. Interrupted: `stop` was set.
    """
    limits, found = deadlines or Deadlines(), list[NDArray[np.int8]]()
    with conversation(
        job.board,
        job.model.compiled.sources,
        job.placement,
        hardware=hardware,
        stop=stop,
        rng=rng,
        limits=limits,
        clock=clock,
    ) as talk:
        deadline_s = limits.run_s + inference_limit_s(job)
        for count, values in enumerate(inputs, start=1):
            talk.device.load_input(to_blob([values]))
            talk.device.run_whole(warmups=0, repetitions=1, deadline_s=deadline_s)
            (output,) = from_blob(talk.device.output(), job.model.graph)
            found.append(output.reshape(-1).astype(np.int8))
            tell(count)
    return np.stack(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """A board that runs the image it was given, and said so."""

    device: Device
    hello: Hello
    image: Image


@contextmanager
def conversation(
    board: Board,
    sources: Sources,
    placement: Placement = PLAIN,
    *,
    hardware: Hardware,
    stop: threading.Event,
    rng: random.Random,
    limits: Deadlines,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Conversation]:
    """Builds, flashes and greets; the board is leased until the end.

    Raises:
        HarnessError: the image cannot be built, or the board is at fault. Interrupted: `stop` was set.
    """
    plan = BuildPlan.of_board(board, sources, toolchain=find_toolchain(), placement=placement)
    image = build(plan, cache_dir=paths.cache_dir())
    with (
        rack.lease(board, timeout_s=LEASE_WAIT_S, clock=clock, stop=stop),
        closing(hardware.probe(board)) as probe,
        closing(hardware.link(board)) as link,
    ):
        report = probe.flash(image.elf, timeout_s=limits.flash_limit_s(image.flash_bytes))
        check_flash(report, board=board)
        link.discard_input()
        probe.reset_and_run(timeout_s=limits.reset_s)
        device = Device(link, board=board.name, clock=clock, timing=limits.talk)
        hello = device.hello(rng.getrandbits(63))
        check_hello(hello, chip=plan.chip, image=image, board=board)
        yield Conversation(device=device, hello=hello, image=image)
