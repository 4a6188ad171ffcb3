"""A training's state in one file, replaced as a whole after each epoch: what was killed goes on from the last one.

A checkpoint says of which training it is, and refuses to be taken for another's. What is trained, and how, is the
caller's business.
"""

from __future__ import annotations

import hashlib
import os
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nas.errors import CheckpointError


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """How far a training is: `epoch` epochs of `phase` are done.

    Args:
        optimizer: its state in torch's own form; None before the first epoch.
    """

    phase: str
    epoch: int
    optimizer: dict[str, Any] | None = None

    def resume(self, optimizer: torch.optim.Optimizer) -> None:
        """Gives the optimizer the state it had."""
        if self.epoch and self.optimizer is not None:
            optimizer.load_state_dict(self.optimizer)


class Checkpoint:
    """The state of one training.

    Args:
        identity: all that decides what comes out.
    """

    def __init__(self, file: Path, identity: str) -> None:
        self._file = file
        self._identity = hashlib.sha256(identity.encode()).hexdigest()

    def save(self, model: nn.Module, reached: Reached) -> None:
        """Replaces what was kept."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        draft = self._file.with_name(f"{self._file.name}.{os.getpid()}.draft")
        state = {
            "identity": self._identity,
            "phase": reached.phase,
            "epoch": reached.epoch,
            "model": _on_cpu(model.state_dict()),
            "optimizer": _on_cpu(reached.optimizer),
        }
        torch.save(state, draft)
        draft.replace(self._file)

    def load(self, model: nn.Module) -> Reached | None:
        """Puts the kept weights into `model`, wherever it is; None where nothing was kept.

        Raises:
            CheckpointError: the file is of another training, or is damaged.
        """
        if not self._file.exists():
            return None
        try:
            state = torch.load(self._file, map_location="cpu", weights_only=True)
            if state["identity"] != self._identity:
                raise CheckpointError(
                    "is of another space, data set or recipe; remove it or name another", str(self._file)
                )
            model.load_state_dict(state["model"])
            return Reached(phase=str(state["phase"]), epoch=int(state["epoch"]), optimizer=state["optimizer"])
        except (RuntimeError, EOFError, KeyError, ValueError, TypeError, pickle.UnpicklingError) as error:
            # torch's own words take six lines and advise to run whatever the file holds.
            raise CheckpointError("is damaged; remove it to start anew", str(self._file)) from error


def _on_cpu(state: Any) -> Any:
    """What a card trained goes on without one; read again, a card never holds it twice."""
    if isinstance(state, Tensor):
        return state.cpu()
    if isinstance(state, dict):
        return {key: _on_cpu(value) for key, value in state.items()}
    return [_on_cpu(value) for value in state] if isinstance(state, list) else state
