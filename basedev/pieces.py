"""Contents of files put together from ranges of other files and literal bytes, without reading what is copied."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import TracebackType

from .errors import InternalError

BLOCK = 4096
"""A range whose place in both files is divisible by this can be shared by file systems that copy on write."""

WORTH_SPLITTING = 16 * BLOCK
"""Shorter ranges are copied in one go, at whatever place."""

NOT_HERE = {errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM}
"""What copy_file_range answers when these two files can't be copied in that way."""


CLONE = 0x40049409
"""FICLONE, which makes a file one that shares all blocks with another."""


def shares_blocks(area: Path) -> bool:
    """Whether a file system can have copies share blocks with what they are of. Leaves two small files in `area`."""
    with (area / "whole").open("wb+") as whole, (area / "copy").open("wb+") as copy:
        whole.write(bytes(BLOCK))
        whole.flush()
        try:
            fcntl.ioctl(copy, CLONE, whole.fileno())
        except OSError:
            return False
    return True


@dataclass(frozen=True)
class Range:
    """Bytes of a file."""

    path: Path
    offset: int
    length: int


Piece = bytes | Range


def size(pieces: Iterable[Piece]) -> int:
    """The bytes that pieces have together."""
    return sum(len(piece) if isinstance(piece, bytes) else piece.length for piece in pieces)


class Writer:
    """A file that is written in pieces at any place. Closes its sources when its `with` statement ends.

    `output` is a descriptor, and stays open. It may be a copy of the file `same`, whose contents need not be written
    where they are. Raises OSError when the output can't be written (a full disk) or a source can't be opened.
    """

    def __init__(self, output: int, same: Path | None = None) -> None:
        self.output = output
        self._same = same
        self._sources: dict[Path, int] = {}
        self._resources = ExitStack()
        self._share = True

    def write(self, position: int, pieces: Sequence[Piece]) -> int:
        """Writes pieces one after the other from `position` on; returns where they end.

        Raises InternalError when a range is not in its file.
        """
        for piece in pieces:
            if isinstance(piece, bytes):
                self._literal(position, piece)
                position += len(piece)
            else:
                if piece.path == self._same and piece.offset == position:
                    position += piece.length
                    continue
                for part in _at_blocks(piece, position):
                    self._copy(position, part)
                    position += part.length
        return position

    def leave_only(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Ends the file where the last of the ranges does, with nothing but zeros between them (begin, end)."""
        end = 0
        for begin, until in sorted(ranges):
            if end < begin:
                self._literal(end, bytes(begin - end))
            end = max(end, until)
        os.ftruncate(self.output, end)

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._resources.close()

    def _literal(self, position: int, contents: bytes) -> None:
        view = memoryview(contents)
        while view:
            done = os.pwrite(self.output, view, position)
            view, position = view[done:], position + done

    def _copy(self, position: int, piece: Range) -> None:
        source, offset, left = self._source(piece.path), piece.offset, piece.length
        while left:
            done = self._copy_some(source, offset, left, position)
            if not done:
                raise InternalError(f"{piece.path} ends at {offset}, in the middle of what is copied from it")
            offset, position, left = offset + done, position + done, left - done

    def _copy_some(self, source: int, offset: int, count: int, position: int) -> int:
        if self._share:
            try:
                return os.copy_file_range(source, self.output, count, offset, position)
            except OSError as error:
                if error.errno not in NOT_HERE:
                    raise
                self._share = False
        os.lseek(self.output, position, os.SEEK_SET)
        return os.sendfile(self.output, source, offset, count)

    def _source(self, path: Path) -> int:
        if path not in self._sources:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            self._resources.callback(os.close, descriptor)
            self._sources[path] = descriptor
        return self._sources[path]


def copy(source: Path, target: Path) -> None:
    """Makes a new file with the same contents, which anybody may run. Raises OSError."""
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o777)
    try:
        with Writer(descriptor) as writer:
            writer.write(0, [Range(source, 0, source.stat().st_size)])
    finally:
        os.close(descriptor)


def _at_blocks(piece: Range, position: int) -> list[Range]:
    """A range in parts, so that all whole blocks of it are one that can be shared, if it lies right for that."""
    end = piece.offset + piece.length
    first, last = -(-piece.offset // BLOCK) * BLOCK, end // BLOCK * BLOCK
    if piece.length < WORTH_SPLITTING or (piece.offset - position) % BLOCK:
        return [piece]
    places = [piece.offset, first, last, end]
    return [Range(piece.path, begin, until - begin) for begin, until in pairwise(places) if until > begin]
