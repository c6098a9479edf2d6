"""Who uses an entry of the store: locks that end with the processes that hold them, and images that run.

A hold is a shared `flock` lock on the entry's directory. Programs that a process becomes by `exec` inherit it, so that
the kernel ends it however they die. A Julia that was started by hand holds nothing; it is known by its mapped files.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class Hold:
    """Keeps an entry where it is for as long as this object, and a program that this process has become, live."""

    def __init__(self, handle: int) -> None:
        self._handle = handle

    def __enter__(self) -> Hold:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Ends it, in this process."""
        if self._handle >= 0:
            os.close(self._handle)
        self._handle = -1

    @classmethod
    def take(cls, directory: Path) -> Hold | None:
        """A hold on the entry that is there now; None when there is none, or none that can be opened."""
        while True:
            try:
                hold = cls(os.open(directory, os.O_RDONLY | os.O_DIRECTORY))
            except OSError:
                return None
            with suppress(OSError):  # without such locks on this disk, nobody gets the one for taking an entry away
                fcntl.flock(hold._handle, fcntl.LOCK_SH)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(hold._handle), directory.stat()):
                    os.set_inheritable(hold._handle, True)  # by exec; `subprocess` closes it all the same
                    return hold
            # It was taken away between being opened and being locked; another may stand there.


@contextmanager
def unheld(directory: Path) -> Iterator[bool]:
    """Whether nobody holds an entry. Until the end of the block, nobody gets a hold on it then."""
    try:
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        yield False
        return
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True
    finally:
        os.close(handle)


def running(names: tuple[str, ...]) -> dict[int, list[int]]:
    """The processes that have files of these names mapped, by the files' inodes.

    Those of other users are not seen, unless this is root. A file system that tells other inodes there than
    `stat` does (overlayfs on old kernels) is known by the path.
    """
    found: dict[int, list[int]] = {}
    for maps in Path("/proc").glob("[0-9]*/maps"):
        try:
            text = maps.read_text(errors="surrogateescape")
        except OSError:  # gone, or another user's
            continue
        inodes = set()
        for line in text.splitlines():
            if line.endswith(tuple(f"/{name}" for name in names)):
                *_, inode, path = line.split(None, 5)
                inodes.add(int(inode))
                with suppress(OSError):
                    inodes.add(Path(path).stat().st_ino)
        for one in inodes:
            found.setdefault(one, []).append(int(maps.parent.name))
    return found
