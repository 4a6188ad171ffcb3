"""The file a search goes on from: every accuracy and every measurement, as it came."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

from nas.arch import Arch
from nas.costs import Costs, Value
from nas.errors import LogError


class SearchLog:
    """Lines of JSON: what was asked, then each accuracy and measurement as it came; a torn last one is dropped."""

    def __init__(self, file: Path | None, request: str) -> None:
        self._file = file
        self._accuracy: dict[str, float] = {}
        self._costs: dict[str, tuple[Costs, ...]] = {}
        if file is None:
            return
        if file.exists():
            self._load(file, request)
        else:
            file.parent.mkdir(parents=True, exist_ok=True)
            self._write({"request": request})

    def _load(self, file: Path, request: str) -> None:
        text = file.read_bytes()
        whole = text[: text.rfind(b"\n") + 1]
        if whole != text:
            with file.open("r+b") as stream:
                stream.truncate(len(whole))
        try:
            lines = [json.loads(line) for line in whole.splitlines()]
            if lines and lines[0].get("request") != request:
                raise LogError("is of another search; choose another file, or the same settings", str(file))
            for line in lines[1:]:
                if "accuracy" in line:
                    self._accuracy[line["arch"]] = float(line["accuracy"])
                else:
                    self._costs[line["arch"]] = tuple(_costs(c) for c in line["costs"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise LogError(f"is no log of a search ({error})", str(file)) from error
        if not lines:
            self._write({"request": request})

    def accuracy(self, arch: Arch) -> float | None:
        return self._accuracy.get(arch.encode())

    def costs(self, arch: Arch) -> tuple[Costs, ...] | None:
        return self._costs.get(arch.encode())

    def keep_accuracy(self, arch: Arch, value: float) -> None:
        self._accuracy[arch.encode()] = value
        self._write({"arch": arch.encode(), "accuracy": value})

    def keep_costs(self, arch: Arch, costs: tuple[Costs, ...]) -> None:
        self._costs[arch.encode()] = costs
        self._write({"arch": arch.encode(), "costs": [asdict(c) for c in costs]})

    def _write(self, line: dict[str, object]) -> None:
        if self._file is None:
            return
        with self._file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")
            stream.flush()
            os.fsync(stream.fileno())


def _costs(document: dict[str, dict[str, float | str | None] | str | None]) -> Costs:
    def value(name: str) -> Value | None:
        found = document[name]
        if not isinstance(found, dict):
            return None
        numbers = [float(str(found[key])) for key in ("value", "low", "high")]
        own = found["id"]
        return Value(value=numbers[0], low=numbers[1], high=numbers[2], id=None if own is None else str(own))

    latency, sram, flash = value("latency_ms"), value("sram_bytes"), value("flash_bytes")
    if latency is None or sram is None or flash is None:
        raise ValueError("a cost is missing")
    failure = document["failure"]
    return Costs(
        board=str(document["board"]),
        latency_ms=latency,
        sram_bytes=sram,
        flash_bytes=flash,
        energy_joules=value("energy_joules"),
        failure=None if failure is None else str(failure),
    )
