"""The statements of a base image's sources, kept with it: Julia's parser takes longer than all else that is asked of
unchanged text.

They are pickled, each file by itself. Another version of the modules that make them reads the text anew.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path

from ... import syntax
from ...storage import digest_of
from ...syntax import Statement

VERSION, INCLUDES = "version", "includes"


def kept_version() -> str:
    """Of how statements are told and kept: kept by another, they are not read."""
    host = Path(__file__).parent / "host/syntax.cpp"
    return digest_of(Path(syntax.__file__).read_bytes(), host.read_bytes())


def keep(
    file: Path, statements: Iterable[tuple[str, list[Statement]]], includes: Mapping[str, list[tuple[str, int]]]
) -> None:
    """Writes the statements of files, and what they include, by path in the tree."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr(VERSION, kept_version())
        archive.writestr(INCLUDES, pickle.dumps(dict(includes), pickle.HIGHEST_PROTOCOL))
        for path, own in statements:
            archive.writestr(path, pickle.dumps(own, pickle.HIGHEST_PROTOCOL))


class Kept:
    """What `keep` wrote."""

    def __init__(self, file: Path) -> None:
        self._file = file

    @cached_property
    def _archive(self) -> zipfile.ZipFile | None:
        archive = zipfile.ZipFile(self._file)
        return archive if archive.read(VERSION).decode() == kept_version() else None

    def statements(self, path: str) -> list[Statement] | None:
        """The statements of a file; None where they have to be read from its text."""
        if self._archive is None or path not in self._archive.NameToInfo:
            return None
        found: list[Statement] = pickle.loads(self._archive.read(path))
        return found

    def includes(self) -> dict[str, list[tuple[str, int]]] | None:
        """The files that each includes, with the lines; None where that has to be read from its text."""
        if self._archive is None:
            return None
        found: dict[str, list[tuple[str, int]]] = pickle.loads(self._archive.read(INCLUDES))
        return found
