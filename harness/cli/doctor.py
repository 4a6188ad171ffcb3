"""`tinyrack doctor`: what is missing on this machine and the command that installs it."""

from __future__ import annotations

from dataclasses import asdict

import typer
from rich.text import Text

from harness import doctor
from harness.cli.options import JsonOption
from harness.cli.output import console, write_json
from harness.errors import MissingTool


def command(json: JsonOption = None) -> None:
    """Check what this machine lacks.

    Exit code 3 when something that is needed is missing; each lack comes with the command that installs it.
    """
    checks = doctor.examine(doctor.Machine())
    ok = doctor.healthy(checks)
    if json is not None:
        write_json({"schema": "tinyrack.doctor/1", "ok": ok, "checks": [asdict(check) for check in checks]}, json)
    if json != "-":
        screen = console()
        width = max(len(check.name) for check in checks)
        for check in checks:
            word, style = (
                ("ok", "green") if check.ok else (("missing", "red") if check.needed else ("absent", "yellow"))
            )
            line = Text.assemble((f"{word:8}", style), f"{check.name:{width}}  ", (check.detail, "dim"))
            screen.say(line)
            if check.install is not None:
                # On a line of its own and never wrapped: it is there to be copied.
                screen.say(Text(f"        {check.install}", style="bold"))
    if not ok:
        raise typer.Exit(MissingTool.exit_code)
