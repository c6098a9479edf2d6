"""The files of an image: in which modules each is evaluated, and which file includes which, where."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from .errors import NeedsFullRebuild
from .revision import Evaluate
from .sources import Sources
from .syntax import Statement

COMPILER = "Core.Compiler"

INCLUDE = re.compile(rb'^[ \t]*include\("([^"$]+)"\)', re.MULTILINE)


@dataclass(frozen=True)
class SourceFile:
    """A file of the base image: the name it has there and the modules that include it."""

    name: str
    modules: tuple[str, ...]


class Parsed(Protocol):
    """Statements of a base image's sources that were read before."""

    def statements(self, path: str) -> list[Statement] | None:
        """The statements of a file; None where they have to be read from its text."""

    def includes(self) -> Mapping[str, list[tuple[str, int]]] | None:
        """What `includes_in` tells of each file that includes others; None where it has to be asked."""


class Includes:
    """Which file of an image includes which, in old and new sources. `files` may come to have more."""

    def __init__(self, old: Sources, new: Sources, files: Mapping[str, SourceFile], kept: Parsed | None) -> None:
        self._old, self._new, self._files, self._kept = old, new, files, kept

    @cached_property
    def now(self) -> dict[str, tuple[str, int]]:
        """For each file that another of the new sources includes by its name: that one, and the line there."""
        return self._of(self._new)

    @cached_property
    def before(self) -> dict[str, tuple[str, int]]:
        """The same of the old sources."""
        return self._of(self._old)

    @cached_property
    def places(self) -> dict[str, tuple[int, ...]]:
        """Where the new files stand in the order of evaluation: where the including file does, and the line there."""
        order = {path: number for number, path in enumerate(self._files)}
        places: dict[str, tuple[int, ...]] = {}
        for file in self._files:
            path, seen = file, {file}
            where: list[int] = []
            while path in self.now and self.now[path][0] not in seen:
                path, number = self.now[path]
                seen.add(path)
                where.insert(0, number)
            places[file] = (-1 if self._files[path].modules == ("Core",) else order[path], *where)
        return places

    def named(self, path: str, name: str) -> str:
        """The file that a new or former `include` in the file `path` names. Raises NeedsFullRebuild when two can be
        meant."""
        targets = _may_name(path, _beside(path, name))
        if len(targets) == 1:
            return targets[0]
        for other, _ in includes_in(path, self._old.contents[path]) if path in self._old.blobs else ():
            for known, target in zip(_may_name(path, other), targets, strict=True):
                if known in self._files:
                    return target
        raise NeedsFullRebuild(f"whether {path} names {name} from beside it or from base can't be told")

    def _of(self, sources: Sources) -> dict[str, tuple[str, int]]:
        known = self._kept.includes() if self._kept is not None else None
        including: dict[str, tuple[str, int]] = {}
        for path in self._files:
            if known is not None and path in sources.blobs and sources.blobs[path] == self._old.blobs.get(path):
                own = known.get(path, [])
            else:
                own = includes_in(path, sources.contents[path]) if path in sources.blobs else []
            for beside, line in own:
                targets = _may_name(path, beside)
                including.setdefault(next((one for one in targets if one in self._files), beside), (path, line))
        return including


def includes_in(path: str, text: bytes) -> list[tuple[str, int]]:
    """The files that a file's text includes by their names, each with the line."""
    if b'include("' not in text:
        return []
    return [
        (_beside(path, found[1].decode("utf-8", "surrogateescape")), text.count(b"\n", 0, found.start(1)) + 1)
        for found in INCLUDE.finditer(text)
    ]


def evaluations(file: SourceFile, statement: Statement, text: str) -> Iterator[Evaluate]:
    """The evaluation of a statement in each module that includes its file."""
    for module in file.modules:
        inside = full_module(module, statement.inside)
        if statement.is_module and statement.documentation is not None and text != statement.text:
            # a package's own module is bound nowhere but in itself
            inside = full_module(module, (*statement.inside, statement.tree[2]))
        if module == COMPILER and statement.documentation is not None:
            # Core.Compiler has no documentation (its `@doc` leaves the definition alone)
            alone = statement.undocumented()
            yield Evaluate(inside, file.name, alone.line, alone.text)
        else:
            yield Evaluate(inside, file.name, statement.line, text)


def full_module(module: str, inside: tuple[str, ...]) -> str:
    """A module's full name. What a package's own file defines at top level is a root of its own, as is Base."""
    if inside and module in ("Base.__toplevel__", "Main"):
        return ".".join(inside)
    return ".".join((module, *inside))


def _beside(path: str, name: str) -> str:
    """The file that an `include` in the file `path` names if names are relative to it."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(path), name))


def _may_name(path: str, beside: str) -> list[str]:
    """The files that an `include` in the file `path` may name: the one beside it or, since Base's first files are
    named from where it is built (base/Base.jl, above `SOURCE_PATH`), one in `base`."""
    of_base = posixpath.normpath(posixpath.join("base", posixpath.relpath(beside, posixpath.dirname(path))))
    return [beside] if beside == of_base or not path.startswith("base/") else [beside, of_base]
