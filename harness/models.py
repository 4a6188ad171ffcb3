"""The MODEL argument: a path to a .tflite file or `zoo:NAME`, as a source with a name and a digest.

Importing and compiling are not done here: a file that turns out to be no model is a row, not a usage error.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.errors import ConfigError
from tinyengine import zoo
from tinyengine.errors import TinyEngineError
from tinyengine.importers import tflite
from tinyengine.ir import Graph

ZOO_PREFIX = "zoo:"
FILE_LIMIT_BYTES = 1 << 28
"""No microcontroller holds a model near this size; reading more would only fill memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """One model as asked for.

    Args:
        name: for rows, file names and tables: letters, digits and ``._-``, with ``zoo:`` in front of our own.
        origin: a file, or a network defined in code (synthetic weights).
        sha256: of the file, or of the zoo graph's content.
        data: the file's bytes; None for the zoo.
    """

    argument: str
    name: str
    origin: Literal["tflite", "zoo"]
    sha256: str
    data: bytes | None

    def graph(self, *, float_io: bool) -> Graph:
        """The imported graph.

        Raises:
            ModelFormatError, UnsupportedOp: the file's fault; the file is named in a note.
        """
        if self.data is None:
            return zoo.load(self.name.removeprefix(ZOO_PREFIX))
        try:
            return tflite.load(self.data, name=self.name, float_io=float_io)
        except TinyEngineError as error:
            error.add_note(self.argument)
            raise


def resolve(argument: str) -> ModelSource:
    """The model that `argument` names.

    Raises:
        ConfigError: there is no such file or zoo network.
    """
    if argument.startswith(ZOO_PREFIX):
        name = argument.removeprefix(ZOO_PREFIX)
        if name not in zoo.names():
            there = ", ".join(ZOO_PREFIX + each for each in zoo.names())
            raise ConfigError(f"no such network in the zoo; there are {there}", file=argument)
        return ModelSource(
            argument=argument, name=argument, origin="zoo", sha256=zoo.load(name).digest(), data=None
        )
    path = Path(argument)
    try:
        with path.open("rb") as stream:
            # What says that it is too large is not read; what does not say how large it is, only so far.
            too_large = os.fstat(stream.fileno()).st_size > FILE_LIMIT_BYTES
            data = b"" if too_large else stream.read(FILE_LIMIT_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", file=argument) from error
    if too_large or len(data) > FILE_LIMIT_BYTES:
        raise ConfigError(f"is larger than {FILE_LIMIT_BYTES >> 20} MB", file=argument)
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", path.stem)[:64] or "model"
    return ModelSource(
        argument=argument, name=name, origin="tflite", sha256=hashlib.sha256(data).hexdigest(), data=data
    )


def resolve_all(arguments: Sequence[str]) -> tuple[ModelSource, ...]:
    """All models; the same one twice counts once.

    Raises:
        ConfigError: one cannot be read, or two different ones have the same name.
    """
    found: dict[str, ModelSource] = {}
    for argument in arguments:
        source = resolve(argument)
        other = found.setdefault(source.name, source)
        if other.sha256 != source.sha256:
            raise ConfigError(f"has the name of {other.argument} but another content; rename one", file=argument)
    return tuple(found.values())
