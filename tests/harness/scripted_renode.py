"""Stands in for Renode: a monitor on TCP that answers a script. Run as a program called `renode`; no test itself.

SCRIPTED_RENODE says how it behaves: ok, dies, deaf (never listens), mute (no prompt), refuses (the platform),
leaves (ends at the first command after the script), forgets (other bytes than were loaded), babbles (no number
where one belongs), hangs (no answer to `pause`), nopty.
"""

from __future__ import annotations

import os
import pty
import re
import socket
import sys
import time
from pathlib import Path

from elftools.elf.elffile import ELFFile

_GREETING = "\x1b[0mRenode, version 1.16.0.1 (0123abcd-202501010000)\r\n\r\n"


def _prompt(machine: str) -> str:
    return f"\x1b[33;1m({machine}) \x1b[0m"


def main() -> None:
    """Serves one connection."""
    mode = os.environ["SCRIPTED_RENODE"]
    Path("renode.pid").write_text(str(os.getpid()))
    if mode == "dies":
        sys.exit("Unhandled exception: no .NET runtime")
    if mode == "deaf":
        time.sleep(60)
    listener = socket.create_server(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])))
    connection, _ = listener.accept()
    stream = connection.makefile("rwb", buffering=0)
    machine = "monitor"
    stream.write(b"\xff\xfd\x1f\xff\xfb\x01\xff\xfb\x03" + _GREETING.encode())
    if mode == "mute":
        time.sleep(60)
    stream.write(_prompt(machine).encode())
    memory: dict[int, int] = {}
    masters = []
    for line in stream:
        text = line.decode().strip()
        answer = ""
        if text.startswith("include"):
            script = re.sub(r"\\ ", " ", text.partition("@")[2])
            if mode == "refuses":
                answer = (
                    f"There was an error executing command '{text}'\r\nError E04: Could not resolve type: "
                    "'Memory.MappedMemoy'.\r\n"
                )
            elif mode != "nopty":
                commands = Path(script).read_text()
                master, slave = pty.openpty()
                masters += [master, slave]
                found = re.search(r'CreateUartPtyTerminal "uart" "(.*)" true', commands)
                assert found is not None
                Path(found[1]).symlink_to(os.ttyname(slave))
                named = re.search(r'mach create "(.*)"', commands)
                assert named is not None
                machine = named[1]
        elif mode == "leaves":
            return
        elif text == "pause" and mode == "hangs":
            time.sleep(60)
        elif text.startswith("sysbus LoadELF"):
            with Path(re.sub(r"\\ ", " ", text.partition("@")[2])).open("rb") as elf:
                for segment in ELFFile(elf).iter_segments():
                    for n, byte in enumerate(segment.data() if segment["p_type"] == "PT_LOAD" else b""):
                        memory[segment["p_paddr"] + n] = byte
        elif text.startswith("sysbus ReadBytes"):
            base, count = (int(n, 0) for n in text.split()[2:])
            values = [memory.get(base + n, 0) ^ (mode == "forgets" and n == 7) for n in range(count)]
            answer = "[\r\n" + ", ".join(f"0x{v:02X}" for v in values) + "\r\n]\r\n"
        elif text == "sysbus.cpu ExecutedInstructions":
            answer = "nothing\r\n" if mode == "babbles" else "0x00000000000F4240\r\n"
        stream.write((text + "\r\n" + answer + _prompt(machine)).encode())


if __name__ == "__main__":
    main()
