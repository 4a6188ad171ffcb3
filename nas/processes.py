"""Which device trains, and whether this process trains alone or as one of several that torchrun started."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch

# Its functions' defaults keep whatever group exists when it is first imported, and making an optimizer imports it.
# A group that is kept is never destroyed; its threads abort the process at exit, in most runs (torch 2.13, gloo).
import torch.distributed.nn
from torch import distributed

from nas.errors import NasError

DEVICES = ("auto", "cpu", "cuda")
MEETING_TIMEOUT = timedelta(minutes=30)
"""Longest that one process waits for the others: they may decode a large data set first."""


class DeviceError(NasError):
    """A device or a group of processes that cannot be had: what is missing and what would work."""


def pick_device(name: str) -> torch.device:
    """The device of that name; of several graphics cards the one with this process's local rank.

    Raises:
        DeviceError: there is none.
    """
    if name not in DEVICES:
        raise DeviceError(f"--device: no {name!r}; there are {', '.join(DEVICES)}")
    usable = torch.cuda.is_available()
    if name == "cuda" and not usable:
        how = "this torch was built without CUDA" if torch.version.cuda is None else "torch finds no usable card"
        raise DeviceError(f"--device cuda: {how}; leave it out to train on the CPU")
    if name == "cpu" or not usable:
        return torch.device("cpu")
    rank, cards = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if rank >= cards:
        raise DeviceError(f"--device cuda: process {rank} of this machine has no card, there are {cards}")
    return torch.device("cuda", rank)


@contextmanager
def together(device: torch.device) -> Iterator[int]:
    """This process's rank, inside torchrun's group of processes; 0, outside of one.

    Raises:
        DeviceError: torchrun's variables are incomplete, or the processes did not meet.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) <= 1:
        yield 0
        return
    try:
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=MEETING_TIMEOUT)
    except (ValueError, RuntimeError) as error:
        raise DeviceError(f"several processes cannot train together: {error}") from error
    try:
        yield distributed.get_rank()
    finally:
        distributed.destroy_process_group()
