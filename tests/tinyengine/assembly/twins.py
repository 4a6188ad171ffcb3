"""Calls one generated function and its plain C twin with the same bytes: on emulated cores, on the host."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tests.tinyengine.assembly.rig import PAINT, Rig
from tests.tinyengine.hostbuild import WARNINGS, Flavour
from tinyengine.kernels.assembly.declaration import Literals
from tinyengine.kernels.assembly.functions import Function
from tinyengine.kernels.assembly.scheduler import Core
from tinyengine.kernels.binding import PLACEHOLDER

_DRIVER = """#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
static void *room(uint32_t bytes)
{
    void *p = malloc(bytes);
    if (!p) exit(3);
    return memset(p, @PAINT@, bytes);
}
static void *given(uint32_t bytes)
{
    void *p = room(bytes);
    if (fread(p, 1, bytes, stdin) != bytes) exit(3);
    return p;
}
static void taken(void *p, uint32_t bytes)
{
    fwrite(p, 1, bytes, stdout);
    free(p);
}
@CALLERS@
int main(void)
{
    @CALLS@
    return 0;
}
"""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Room:
    """Memory a function writes.

    Args:
        like: its shape and type.
        wanted: what NumPy says it holds then; None where only core and host are compared.
    """

    like: NDArray[Any]
    wanted: NDArray[Any] | None = None


Argument: TypeAlias = NDArray[Any] | Room | int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Case:
    """One function and a call of it."""

    function: Function[Any]
    literals: Literals
    arguments: tuple[Argument, ...]

    @property
    def key(self) -> tuple[Function[Any], Literals]:
        return self.function, self.literals

    @property
    def rooms(self) -> list[Room]:
        return [a for a in self.arguments if isinstance(a, Room)]


def compare(cases: Sequence[Case], folder: Path) -> None:
    """Bytes the functions may write: on every core, on the host under sanitizers and, where given, by NumPy."""
    # Some functions are called more than once.
    names = {key: f"k{n}" for n, key in enumerate(dict.fromkeys(case.key for case in cases))}
    expected = _on_host(cases, names, folder)
    for core in Core:
        text = "".join(function.render(name, of, core, "") for (function, of), name in names.items())
        rig = Rig(core=core, text=text, folder=folder)
        for case, rooms in zip(cases, expected, strict=True):
            rig.forget()
            values = [_placed(rig, argument) for argument in case.arguments]
            rig.call(names[case.key], *values)
            at = [v for v, a in zip(values, case.arguments, strict=True) if isinstance(a, Room)]
            where = f"{core} {case.literals}: {case.function.plain(case.literals)}"
            for address, room, host in zip(at, case.rooms, rooms, strict=True):
                np.testing.assert_array_equal(rig.read(address, room.like), host, err_msg=where)
                if room.wanted is not None:
                    np.testing.assert_array_equal(host, room.wanted, err_msg=where)


def _on_host(
    cases: Sequence[Case], names: Mapping[tuple[Function[Any], Literals], str], folder: Path
) -> list[list[NDArray[Any]]]:
    """What the twins leave in each case's rooms."""
    twins = [function.plain(literals).replace(PLACEHOLDER, name) for (function, literals), name in names.items()]
    callers = [_caller(n, case, names[case.key]) for n, case in enumerate(cases)]
    driver = _DRIVER.replace("@PAINT@", str(PAINT)).replace("@CALLERS@", "\n".join([*twins, *callers]))
    (folder / "twins.c").write_text(driver.replace("@CALLS@", " ".join(f"call{n}();" for n in range(len(cases)))))
    options = ("gcc", *WARNINGS, *Flavour.SANITIZED.value)
    subprocess.run([*options, "twins.c", "-o", "twins"], cwd=folder, check=True)
    given = b"".join(a.tobytes() for case in cases for a in case.arguments if isinstance(a, np.ndarray))
    run = subprocess.run(["./twins"], cwd=folder, check=True, input=given, capture_output=True, timeout=60)
    found: list[list[NDArray[Any]]] = []
    at = 0
    for case in cases:
        found.append([])
        for room in case.rooms:
            held = np.frombuffer(run.stdout, room.like.dtype, room.like.size, at)
            found[-1].append(held.reshape(room.like.shape))
            at += room.like.nbytes
    assert at == len(run.stdout)
    return found


def _caller(n: int, case: Case, name: str) -> str:
    lines, values, ends = [], [], []
    for k, argument in enumerate(case.arguments):
        if isinstance(argument, int):
            values.append(f"{argument}u")
            continue
        values.append(f"a{k}")
        size = argument.like.nbytes if isinstance(argument, Room) else argument.nbytes
        lines.append(f"    void *a{k} = {'room' if isinstance(argument, Room) else 'given'}({size});")
        ends.append(f"    taken(a{k}, {size});" if isinstance(argument, Room) else f"    free(a{k});")
    return "\n".join([f"static void call{n}(void)", "{", *lines, f"    {name}({', '.join(values)});", *ends, "}"])


def _placed(rig: Rig, argument: Argument) -> int:
    if isinstance(argument, int):
        return argument
    return rig.room(argument.like) if isinstance(argument, Room) else rig.place(argument)
