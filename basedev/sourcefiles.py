"""Which files of a tree belong to its image, and what `stat` tells of them.

The `julia` in front of Julia needs this at every start, so that nothing slow is imported here, and paths are strings.
"""

from __future__ import annotations

import errno
import os
import stat

from .places import open_at_once

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

COMPILER = "Compiler"
"""The directory that current Julia's compiler has for itself."""

PARSER = "base/JuliaSyntax"
"""A link to where current Julia's makefile fetched its parser, of which `src` is in Base."""

NO_SOURCES = ("test", "docs")
"""Directories of a standard library that are in no image."""

ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
"""A link that leads nowhere, by which some editors mark a file that is being edited; or what was deleted meanwhile."""

LONGEST = 1 << 13
"""Bytes of a line that names a directory. A link can lead to /dev/zero."""

SETTLED = 2_000_000_000
"""Nanoseconds. A file can change twice in one tick of its file system's clock and look the same; one that has rested
for longer than any clock's tick has not. Clocks of file servers that are slow by less do no harm either."""


def named_by_makefile(root: str) -> tuple[str, str] | None:
    """Of a build directory (`make O=... configure`): where it was made, and the sources that it is of; None for other
    directories."""
    try:
        with open(f"{root}/Makefile", "rb", opener=open_at_once) as file:
            _, build, sources, more = (file.readline(LONGEST) for _ in range(4))
    except OSError:
        return None
    if more or not build.startswith(b"BUILDROOT=") or not sources.startswith(b"include "):
        return None
    return os.fsdecode(build[10:].rstrip()), os.path.dirname(os.fsdecode(sources[8:].rstrip()))


def roots_of(root: str) -> tuple[str, ...]:
    """Where the sources of a tree are: there, or, of a build directory, in the one that it is of, and, where `make`
    generates or fetches them, in itself. What is in the latter counts."""
    named = named_by_makefile(root)
    return (named[1], root) if named else (root,)


def place_of(path: str, where: Sequence[str]) -> str:
    """Where a file of a tree is that has its sources in the directories `where`."""
    *others, own = [f"{directory}/{path}" for directory in where]
    return next((place for place in others if not os.path.lexists(own)), own)


def source_files(root: str) -> dict[str, os.stat_result]:
    """The files of a tree that can be part of its image, by path relative to it: `base/**/*.jl`, and the sources
    of the parser, the compiler and the standard libraries. Raises OSError when a directory can't be read."""
    found: dict[str, os.stat_result] = {}
    for directory in roots_of(root):
        found.update(_julia_files(f"{directory}/base", "base/"))
        for library in os.listdir(f"{directory}/stdlib"):
            found.update(library_files(f"{directory}/stdlib/{library}", f"stdlib/{library}/"))
        found.update(library_files(f"{directory}/{COMPILER}", f"{COMPILER}/"))
    found.update(_julia_files(f"{root}/{PARSER}/src", f"{PARSER}/src/"))
    return dict(sorted(found.items()))


def library_files(library: str, prefix: str = "") -> Iterator[tuple[str, os.stat_result]]:
    """The files of a standard library that can be part of an image: its `Project.toml` and all `.jl` files but those
    of its tests and documentation."""
    if (project := _file(f"{library}/Project.toml")) is not None:
        yield f"{prefix}Project.toml", project
    yield from _julia_files(library, prefix, NO_SOURCES)


def signature(status: os.stat_result) -> tuple[int, int, int, int]:
    """What changes with a file's contents. The time of the last change of the inode can't be set back by a program."""
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def is_settled(status: os.stat_result, now: int) -> bool:
    """Whether a file with this signature had these contents at `now` (nanoseconds) and can't get others unseen."""
    return max(status.st_mtime_ns, status.st_ctime_ns) + SETTLED < now


def _julia_files(
    directory: str, prefix: str, leaving_out: Collection[str] = ()
) -> Iterator[tuple[str, os.stat_result]]:
    try:
        entries = os.scandir(directory)
    except OSError as error:
        if error.errno not in ABSENT:
            raise
        return
    with entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                if entry.name not in leaving_out:
                    yield from _julia_files(entry.path, f"{prefix}{entry.name}/")
            elif entry.name.endswith(".jl") and (status := _file(entry.path)) is not None:
                yield prefix + entry.name, status


def _file(path: str) -> os.stat_result | None:
    try:
        status = os.stat(path)
    except OSError as error:
        if error.errno not in ABSENT:
            raise
        return None
    return status if stat.S_ISREG(status.st_mode) else None
