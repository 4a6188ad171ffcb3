"""YAML files of users: the data and the line of every field, so that an error can name where it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import SafeConstructor

from harness.errors import ConfigError

FILE_LIMIT_BYTES = 1 << 20
NODE_LIMIT = 10_000
"""A YAML alias can repeat a subtree for ever in a few bytes; no file of ours has so many entries."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinedYaml:
    """A file's data, and the line of each path of keys in it."""

    file: Path
    data: Any
    lines: dict[tuple[str, ...], int]

    def error(self, path: tuple[str, ...], what: str) -> ConfigError:
        """An error at `path`, less the parts the file does not have (pydantic names union members)."""
        known: tuple[str, ...] = ()
        for part in path:
            if (*known, part) in self.lines:
                known = (*known, part)
        return ConfigError(what, file=str(self.file), line=self.lines.get(known), field=".".join(known) or None)


def read_yaml(file: Path) -> LinedYaml:
    """The file's content.

    Raises:
        ConfigError: it cannot be read, is too large, is no YAML, or says something twice.
    """
    text = _text(file)
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        lines = dict(_walk(node, (), str(file), iter(range(NODE_LIMIT)))) if node is not None else {}
        return LinedYaml(file=file, data=yaml.safe_load(text), lines=lines)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        raise ConfigError(
            error.problem or "is not YAML", file=str(file), line=mark.line + 1 if mark else None
        ) from error
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"is not YAML: {str(error).splitlines()[0]}", file=str(file)) from error


def _text(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            raw = stream.read(FILE_LIMIT_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", file=str(file)) from error
    if len(raw) > FILE_LIMIT_BYTES:
        raise ConfigError("is larger than 1 MB", file=str(file))
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError("is not UTF-8 text", file=str(file)) from error


def _walk(
    node: yaml.Node, path: tuple[str, ...], file: str, budget: Iterator[int]
) -> Iterator[tuple[tuple[str, ...], int]]:
    """(path, line) of every node; refuses repeated keys, which YAML loaders silently overwrite."""
    if next(budget, None) is None:
        raise ConfigError(f"has more than {NODE_LIMIT:,} entries", file=file)
    yield path, node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            name = str(key.value) if isinstance(key, yaml.ScalarNode) else "?"
            if name in seen:
                field = ".".join((*path, name))
                raise ConfigError("appears twice", file=file, line=key.start_mark.line + 1, field=field)
            seen.add(name)
            if isinstance(key, yaml.ScalarNode):
                _check_scalar(key, (*path, name), file)
            yield from _walk(value, (*path, name), file, budget)
            yield (*path, name), key.start_mark.line + 1
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from _walk(value, (*path, str(index)), file, budget)
    else:
        _check_scalar(node, path, file)


def _check_scalar(node: yaml.Node, path: tuple[str, ...], file: str) -> None:
    """Refuses what looks like a date or a number and is none: PyYAML lets these failures through, lineless."""
    if node.tag not in SafeConstructor.yaml_constructors:
        return  # `<<` and `=` as keys; as values, and any other tag, the loader refuses them, with the line
    try:
        SafeConstructor().construct_object(node)
    except (ValueError, AttributeError, LookupError) as error:
        kind = node.tag.rpartition(":")[2]
        what = f"{node.value[:40]!r} reads as a {kind} and is none; text needs quotes"
        field = ".".join(path) or None
        raise ConfigError(what, file=file, line=node.start_mark.line + 1, field=field) from error
