"""The sources of an image: which files belong to it, and their identity.

A file's identity is the id that git gives its contents (a blob id), so that the two can be compared.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from .errors import SetupError
from .storage import digest_of


def blob_id(contents: bytes) -> str:
    """The id under which git stores these contents."""
    return hashlib.sha1(b"blob %d\0" % len(contents) + contents).hexdigest()


UNREAD = ("test", "docs")
"""Directories of a standard library that have nothing of an image."""


def library_sources(library: Path) -> Iterator[str]:
    """The files of a standard library that can be part of an image, relative to its directory: its
    `Project.toml` and all `.jl` files but those of its tests and documentation."""
    if (library / "Project.toml").is_file():
        yield "Project.toml"
    for path in sorted(library.rglob("*.jl")):
        relative = path.relative_to(library)
        if relative.parts[0] not in UNREAD and path.is_file():
            yield relative.as_posix()


def source_paths(root: Path) -> Iterator[str]:
    """The files of a tree that can be part of its image, relative to it: `base/**/*.jl`, and the standard
    libraries' sources. Dangling links, by which some editors mark a file that is being edited, are none."""
    for path in sorted((root / "base").rglob("*.jl")):
        if path.is_file():
            yield path.relative_to(root).as_posix()
    for library in sorted((root / "stdlib").iterdir()):
        for name in library_sources(library):
            yield f"stdlib/{library.name}/{name}"


def source_directories(root: Path) -> Iterator[Path]:
    """The directories of a tree in which `source_paths` may find files now or later, and those that lead there.

    Each is told before it is read, so that who watches it misses nothing that comes into it. Those that can't be
    read, or are gone meanwhile, have none below.
    """
    yield root
    base, libraries = root / "base", root / "stdlib"
    waiting = [libraries, base]
    while waiting:
        directory = waiting.pop()
        yield directory
        with suppress(OSError), os.scandir(directory) as entries:
            for entry in entries:
                if directory == libraries:
                    wanted = entry.is_dir()
                else:
                    unread = directory.parent == libraries and entry.name in UNREAD
                    wanted = not unread and entry.is_dir(follow_symlinks=False)
                if wanted:
                    waiting.append(directory / entry.name)


class Contents(Protocol):
    """Where the contents of files are found by path: in memory, or below a directory that does not change."""

    def __getitem__(self, path: str, /) -> bytes: ...


class Stored:
    """The files below a directory that nobody changes."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __getitem__(self, path: str, /) -> bytes:
        return (self.root / path).read_bytes()


@dataclass(frozen=True)
class Sources:
    """Source files by path relative to their tree, with their blob ids and contents."""

    blobs: Mapping[str, str]
    contents: Contents

    @classmethod
    def read(cls, root: Path) -> Sources:
        """The sources as they are in a tree now. A file that is edited later does not change them.

        Raises SetupError when a file can't be read.
        """
        contents = {}
        try:
            for path in source_paths(root):
                with suppress(FileNotFoundError):  # deleted since the directory was read
                    contents[path] = (root / path).read_bytes()
        except OSError as error:
            raise SetupError(f"{error.filename} can't be read ({error.strerror}): make it readable") from error
        return cls({path: blob_id(data) for path, data in contents.items()}, contents)

    @cached_property
    def id(self) -> str:
        """One id for all files with their contents."""
        return digest_of(*(part for path in sorted(self.blobs) for part in (path, self.blobs[path])))[:20]


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
