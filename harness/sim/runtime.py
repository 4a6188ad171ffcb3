"""Where a board server's socket, port, flash and lock are, and how they are opened whatever the path's length."""

from __future__ import annotations

import fcntl
import os
import re
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")


def root() -> Path:
    """`TINYRACK_RUNTIME_DIR`, else XDG_RUNTIME_DIR/tinyrack, else a private folder among the temporary files."""
    if override := os.environ.get("TINYRACK_RUNTIME_DIR"):
        return Path(override)
    if (xdg := os.environ.get("XDG_RUNTIME_DIR")) and Path(xdg).is_dir() and os.access(xdg, os.W_OK):
        return Path(xdg) / "tinyrack"
    return Path(tempfile.gettempdir()) / f"tinyrack-{os.getuid()}"


def board_folder(board: str) -> Path:
    """The board's folder, created; refuses names that are not names and folders of other users.

    Raises:
        ValueError: not a board name. PermissionError: somebody else's folder.
    """
    if not _NAME.fullmatch(board):
        raise ValueError(f"not a board name: {board!r}")
    top = root()
    top.mkdir(mode=0o700, parents=True, exist_ok=True)
    owner = top.stat().st_uid
    if owner != os.getuid():
        raise PermissionError(f"{top} belongs to user {owner}; set TINYRACK_RUNTIME_DIR to a folder of your own")
    folder = top / board
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def try_lock(folder: Path) -> int | None:
    """The board's lock as an open file; None when another process has it. The kernel frees it with the process."""
    fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd


@contextmanager
def _socket_path(folder: Path) -> Iterator[str]:
    """A name for the socket that fits into sockaddr_un, however deep the folder is."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/socket"
    finally:
        os.close(fd)


def listen(folder: Path) -> socket.socket:
    """A listening socket; a stale one is replaced. Only for the holder of the lock."""
    (folder / "socket").unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with _socket_path(folder) as path:
        listener.bind(path)
    (folder / "socket").chmod(0o600)
    listener.listen(8)
    listener.setblocking(False)
    return listener


def connect(folder: Path, *, timeout_s: float) -> socket.socket | None:
    """A connection to the board's server; None when none listens."""
    if not folder.is_dir():
        return None
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(timeout_s)
    try:
        with _socket_path(folder) as path:
            connection.connect(path)
    except (FileNotFoundError, ConnectionRefusedError):
        connection.close()
        return None
    except OSError:
        connection.close()
        raise
    return connection


def child_environment() -> dict[str, str]:
    """Of a child that imports `harness`, whatever its working folder is, and finds the same boards."""
    ours = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join((ours, *filter(None, [os.environ.get("PYTHONPATH")])))
    return {**os.environ, "PYTHONPATH": path, "TINYRACK_RUNTIME_DIR": str(root())}
