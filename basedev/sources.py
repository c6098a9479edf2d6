"""The sources of an image: which files belong to it, and their identity.

A file's identity is the id that git gives its contents (a blob id), so that the two can be compared.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from .errors import SetupError
from .sourcefiles import COMPILER, NO_SOURCES, PARSER, library_files, place_of, roots_of, source_files
from .stat_cache import blob_id as blob_id
from .stat_cache import identify
from .storage import digest_of


def library_sources(library: Path) -> list[str]:
    """The files of a standard library that can be part of an image, relative to its directory."""
    return sorted(path for path, _ in library_files(os.fspath(library)))


def source_paths(root: Path) -> list[str]:
    """The files of a tree that can be part of its image, relative to it."""
    return list(source_files(os.fspath(root)))


def is_source(path: str) -> bool:
    """Whether `source_paths` tells of a file at this path of a tree."""
    first, *rest = path.split("/")
    if first == "base":
        return bool(rest) and path.endswith(".jl")
    if first == "stdlib":
        rest = rest[1:]
    elif first != COMPILER:
        return False
    return bool(rest) and (rest == ["Project.toml"] or (path.endswith(".jl") and rest[0] not in NO_SOURCES))


def source_directories(root: Path) -> Iterator[Path]:
    """The directories of a tree in which `source_paths` may find files now or later, and those that lead there.

    Each is told before it is read, so that who watches it misses nothing that comes into it. Those that can't be
    read, or are gone meanwhile, have none below.
    """
    where = [Path(one) for one in roots_of(os.fspath(root))]
    yield from where
    libraries, compilers = [one / "stdlib" for one in where], [one / COMPILER for one in where]
    optional = [*compilers, root / PARSER / "src"]
    waiting = [*libraries, *(one / "base" for one in where), *(path for path in optional if path.is_dir())]
    while waiting:
        directory = waiting.pop()
        yield directory
        with suppress(OSError), os.scandir(directory) as entries:
            for entry in entries:
                if directory in libraries:
                    wanted = entry.is_dir()
                else:
                    is_library = directory.parent in libraries or directory in compilers
                    unread = is_library and entry.name in NO_SOURCES
                    wanted = not unread and entry.is_dir(follow_symlinks=False)
                if wanted:
                    waiting.append(directory / entry.name)


def library_of(path: str) -> str:
    """The directory in `stdlib` in which a file is; empty for files elsewhere."""
    first, _, rest = path.partition("/")
    return rest.partition("/")[0] if first == "stdlib" else ""


def of_images(blobs: Mapping[str, str], included: Collection[str]) -> dict[str, str]:
    """Those of a tree's files, with their blob ids, that can be in an image beside the files `included`: all but those
    of standard libraries of which that has none, and which each Julia loads from their sources."""
    libraries = {"", *map(library_of, included)}
    return {path: blob for path, blob in blobs.items() if library_of(path) in libraries}


class Contents(Protocol):
    """Where the contents of files are found by path: in memory, or below a directory that does not change."""

    def __getitem__(self, path: str, /) -> bytes: ...


class Stored:
    """The files below a directory that nobody changes."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __getitem__(self, path: str, /) -> bytes:
        return (self.root / path).read_bytes()


class _Layered:
    """Contents of which some are in memory."""

    def __init__(self, own: Mapping[str, bytes], below: Contents) -> None:
        self._own, self._below = own, below

    def __getitem__(self, path: str, /) -> bytes:
        own = self._own.get(path)
        return self._below[path] if own is None else own


@dataclass(frozen=True)
class Sources:
    """Source files by path relative to their tree, with their blob ids and contents."""

    blobs: Mapping[str, str]
    contents: Contents

    @classmethod
    def read(cls, root: Path, like: Sources | None = None) -> Sources:
        """The sources as they are in a tree now. A file that is edited later does not change them.

        Contents that are also in `like` are taken from there, so that few files have to be read.
        Raises SetupError when a file can't be read.
        """
        try:
            found = identify(root)
            blobs, contents, where = found.blobs, found.contents, roots_of(os.fspath(root))
            for path in blobs.keys() - contents.keys():
                if like is None or like.blobs.get(path) != blobs[path]:
                    try:
                        contents[path] = Path(place_of(path, where)).read_bytes()
                        blobs[path] = blob_id(contents[path])  # it may have been edited since it was identified
                    except FileNotFoundError:
                        del blobs[path]
        except OSError as error:
            raise SetupError(f"{error.filename} can't be read ({error.strerror}): make it readable") from error
        return cls(blobs, _Layered(contents, like.contents) if like else contents)

    def of_images(self, included: Collection[str]) -> Sources:
        """Those that can be in an image beside the files `included`."""
        return Sources(of_images(self.blobs, included), self.contents)

    @cached_property
    def id(self) -> str:
        """One id for all files with their contents."""
        return sources_id(self.blobs)


def sources_id(blobs: Mapping[str, str]) -> str:
    """One id for files with these blob ids."""
    return digest_of(*(part for path in sorted(blobs) for part in (path, blobs[path])))[:20]


@dataclass(frozen=True)
class ChangeSet:
    """Files that differ between the sources of a base image and others."""

    added: tuple[str, ...]
    modified: tuple[str, ...]
    deleted: tuple[str, ...]

    @classmethod
    def between(cls, old: Sources, new: Sources) -> ChangeSet:
        """What leads from `old` to `new`."""
        before, after = old.blobs, new.blobs
        return cls(
            tuple(sorted(after.keys() - before.keys())),
            tuple(sorted(path for path in before.keys() & after.keys() if before[path] != after[path])),
            tuple(sorted(before.keys() - after.keys())),
        )

    @property
    def paths(self) -> tuple[str, ...]:
        """All files of the change set."""
        return tuple(sorted((*self.added, *self.modified, *self.deleted)))
