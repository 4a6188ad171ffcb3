"""A bounds-checked reader of FlatBuffers tables for files that nobody has verified.

Every offset, table, vector and string is checked against the length of the file before it is followed; offsets
only ever lead forward, depth is bounded, and what may be read in all is limited, so that a small file whose
tables overlap cannot cost more than a large one. It knows the container, not what is in it: that is the
importer's business. Layout after the FlatBuffers internals document (flatbuffers.dev/internals).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tinyengine.errors import ModelFormatError

_MOST_DEPTH = 16
_READS_PER_BYTE = 8
_FREE_READS = 4_096
_MOST_READS = 4_000_000
_TABLE_COST = 4

Vector: TypeAlias = NDArray[Any]


class Scalar(Enum):
    """A scalar of the wire format; the value is its `struct` code."""

    INT8 = "<b"
    UINT8 = "<B"
    INT32 = "<i"
    UINT32 = "<I"
    UINT64 = "<Q"
    FLOAT32 = "<f"

    @property
    def size_bytes(self) -> int:
        return struct.calcsize(self.value)


class Reader:
    """A file and what may still be read of it."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self._reads_left = min(_READS_PER_BYTE * len(data) + _FREE_READS, _MOST_READS)

    def root(self, identifier: bytes, path: str) -> Table:
        """The root table of a file that carries `identifier` (four bytes at offset 4).

        Raises:
            ModelFormatError: too short, another identifier, or a root that leads outside.
        """
        if len(self.data) < 8:
            raise ModelFormatError(f"{len(self.data)} bytes are too few for a header", path)
        if self.data[4:8] != identifier:
            raise ModelFormatError(f"the identifier at byte 4 is not {identifier.decode()}", path)
        return Table.at(self, self._follow(0, path), path, depth=0)

    def spend(self, reads: int, path: str) -> None:
        """Counts `reads` elements towards the limit.

        Raises:
            ModelFormatError: more would be read than a file of this size can honestly hold.
        """
        if reads > self._reads_left:
            raise ModelFormatError("the tables of the file overlap beyond reason, or are too many", path)
        self._reads_left -= reads

    def unpack(self, kind: Scalar, position: int, path: str) -> float:
        """The scalar at `position`; integers come back as int."""
        if position < 0 or position + kind.size_bytes > len(self.data):
            raise ModelFormatError(f"a {kind.name.lower()} at byte {position} lies outside the file", path)
        value: float = struct.unpack_from(kind.value, self.data, position)[0]
        return value

    def integer(self, kind: Scalar, position: int, path: str) -> int:
        return int(self.unpack(kind, position, path))

    def _follow(self, position: int, path: str) -> int:
        offset = self.integer(Scalar.UINT32, position, path)
        if offset == 0 or position + offset > len(self.data) - 4:
            raise ModelFormatError(f"the offset at byte {position} leads outside the file", path)
        return position + offset

    def vector_at(self, position: int, element_bytes: int, path: str) -> tuple[int, int]:
        """(first byte, length) of the vector whose offset is stored at `position`, checked to lie in the file."""
        start = self._follow(position, path)
        length = self.integer(Scalar.UINT32, start, path)
        if length * element_bytes > len(self.data) - start - 4:
            raise ModelFormatError(f"a vector of {length} elements at byte {start} runs past the end", path)
        return start + 4, length


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A checked table. Fields are numbered as in the schema, from 0; an absent field answers with its default."""

    reader: Reader
    position: int
    inline_bytes: int
    vtable: int
    fields: int
    path: str
    depth: int

    @classmethod
    def at(cls, reader: Reader, position: int, path: str, *, depth: int) -> Table:
        """The table at byte `position`.

        Raises:
            ModelFormatError: it or its vtable lies outside the file, or tables nest too deep.
        """
        if depth > _MOST_DEPTH:
            raise ModelFormatError(f"tables nest more than {_MOST_DEPTH} deep", path)
        reader.spend(_TABLE_COST, path)
        vtable = position - reader.integer(Scalar.INT32, position, path)
        size = len(reader.data)
        if vtable < 0 or vtable > size - 4:
            raise ModelFormatError(f"the vtable of the table at byte {position} lies outside the file", path)
        vtable_bytes, inline_bytes = struct.unpack_from("<HH", reader.data, vtable)
        if vtable_bytes < 4 or vtable_bytes % 2 or vtable + vtable_bytes > size:
            raise ModelFormatError(f"the vtable at byte {vtable} has the impossible size {vtable_bytes}", path)
        if inline_bytes < 4 or position + inline_bytes > size:
            raise ModelFormatError(f"the table at byte {position} runs past the end", path)
        return cls(
            reader=reader,
            position=position,
            inline_bytes=inline_bytes,
            vtable=vtable,
            fields=(vtable_bytes - 4) // 2,
            path=path,
            depth=depth,
        )

    def integer(self, field: int, kind: Scalar, default: int = 0) -> int:
        """An integer field; a Boolean is a UINT8."""
        position = self._field(field, kind.size_bytes)
        return default if position is None else self.reader.integer(kind, position, self.path)

    def real(self, field: int, default: float = 0.0) -> float:
        """A float32 field.

        Raises:
            ModelFormatError: it is infinite or not a number.
        """
        position = self._field(field, Scalar.FLOAT32.size_bytes)
        value = default if position is None else self.reader.unpack(Scalar.FLOAT32, position, self.path)
        if not math.isfinite(value):
            raise ModelFormatError(f"field {field} is {value}", self.path)
        return value

    def table(self, field: int, name: str) -> Table | None:
        """The table a field leads to, or None."""
        position = self._field(field, 4)
        if position is None:
            return None
        path = f"{self.path}.{name}"
        return Table.at(self.reader, self.reader._follow(position, path), path, depth=self.depth + 1)

    def vector(self, field: int, dtype: str, name: str) -> Vector | None:
        """A vector of scalars, counted towards the read limit; `dtype` is NumPy's, little-endian. A view."""
        found = self._vector(field, np.dtype(dtype).itemsize, name)
        if found is None:
            return None
        start, length = found
        self.reader.spend(length, f"{self.path}.{name}")
        return np.frombuffer(self.reader.data, dtype=dtype, count=length, offset=start)

    def blob(self, field: int, name: str) -> memoryview | None:
        """A vector of bytes as a view on the file: it costs nothing, however large."""
        found = self._vector(field, 1, name)
        if found is None:
            return None
        start, length = found
        return memoryview(self.reader.data)[start : start + length]

    def string(self, field: int, name: str) -> str | None:
        """Text; bytes that are not UTF-8 are replaced, never refused: names carry no meaning."""
        found = self._vector(field, 1, name)
        if found is None:
            return None
        start, length = found
        self.reader.spend(length, f"{self.path}.{name}")
        return self.reader.data[start : start + length].decode("utf-8", errors="replace")

    def count(self, field: int, name: str) -> int:
        """How many elements a vector of tables has."""
        found = self._vector(field, 4, name)
        return 0 if found is None else found[1]

    def tables(self, field: int, name: str, *, most: int) -> Iterator[Table]:
        """The elements of a vector of tables, checked one by one as they are asked for.

        Raises:
            ModelFormatError: it has more than `most` elements, or one is broken.
        """
        found = self._vector(field, 4, name)
        if found is None:
            return
        start, length = found
        if length > most:
            raise ModelFormatError(f"{length} elements, the most that is read is {most}", f"{self.path}.{name}")
        for index in range(length):
            path = f"{self.path}.{name}[{index}]"
            yield Table.at(self.reader, self.reader._follow(start + 4 * index, path), path, depth=self.depth + 1)

    def element(self, field: int, name: str, index: int) -> Table:
        """One element of a vector of tables.

        Raises:
            ModelFormatError: no such element, or it is broken.
        """
        found = self._vector(field, 4, name)
        length = 0 if found is None else found[1]
        path = f"{self.path}.{name}[{index}]"
        if found is None or not 0 <= index < length:
            raise ModelFormatError(f"there are only {length} elements", path)
        position = self.reader._follow(found[0] + 4 * index, path)
        return Table.at(self.reader, position, path, depth=self.depth + 1)

    def _field(self, field: int, size_bytes: int) -> int | None:
        if field >= self.fields:
            return None
        (offset,) = struct.unpack_from("<H", self.reader.data, self.vtable + 4 + 2 * field)
        if offset == 0:
            return None
        if offset < 4 or offset + size_bytes > self.inline_bytes:
            raise ModelFormatError(f"field {field} lies outside its table", self.path)
        position: int = self.position + offset
        return position

    def _vector(self, field: int, element_bytes: int, name: str) -> tuple[int, int] | None:
        position = self._field(field, 4)
        if position is None:
            return None
        return self.reader.vector_at(position, element_bytes, f"{self.path}.{name}")
