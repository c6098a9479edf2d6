"""The line numbers of native code that is kept while its source text moves: where they are, and what they become.

The index of a base image holds, for each source file, its lines in the debug information with their places (`dwarf`).
An image that begins with the base image's objects has them at the same places of its sections.
"""

from __future__ import annotations

import mmap
import struct
import zipfile
import zlib
from array import array
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from .dwarf import (
    ADVANCE_WIDTH,
    LAST_LINE,
    WORD_WIDTH,
    Lines,
    LinesByFile,
    UnknownDebugInfo,
    decode_advance,
    encode_advance,
    fix_object,
)
from .elf import section_places
from .revision import Move

Patch = tuple[int, bytes]
"""A place in a file, and the bytes that belong there."""

MOST_DEFLATED = 1032
"""Bytes that a byte of zlib's can stand for."""

_COUNTS = struct.Struct("<3I")
_OPCODE = b"\x03"
"""DW_LNS_advance_line, which stands before an advance."""


def make_index(objects: Iterable[Path], index: Path) -> None:
    """Brings objects into the form that can be corrected, and writes the index of an image that begins with them.

    Raises UnknownDebugInfo when one of them can't be.
    """
    found: LinesByFile = defaultdict(Lines)
    places = (0, 0)
    for path in objects:
        places = fix_object(path, places, found)
    with zipfile.ZipFile(index, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, lines in found.items():
            kinds = [sorted(kind) for kind in (lines.after, lines.before, lines.words)]
            numbers = [array("I", column) for kind in kinds for column in zip(*kind, strict=True)]
            archive.writestr(name, _COUNTS.pack(*map(len, kinds)) + b"".join(one.tobytes() for one in numbers))


def patches(image: Path, index: Path, moves: Sequence[Move]) -> list[Patch]:
    """What to write over an image that begins with the objects of an index for their code to have its present lines.

    Raises UnknownDebugInfo when that can't be told.
    """
    if not moves:
        return []
    advances: dict[int, int] = defaultdict(int)
    words: list[tuple[int, int, int]] = []
    for name, columns in _indexed(index, {move.file for move in moves}):
        after, before, own = _columns(columns)
        for move in (move for move in moves if move.file == name):
            for place in _within(after, move):
                advances[place] += move.by
            for place in _within(before, move):
                advances[place] -= move.by
            words += ((place, line, line + move.by) for line, place in _lines_within(own, move))
    with image.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return list(_advances(data, advances)) + list(_words(data, words))


def correct(image: Path, index: Path, moves: Sequence[Move]) -> None:
    """Gives the code of an image that begins with the objects of an index its present lines.

    Raises UnknownDebugInfo, and leaves the image as it was, when that can't be told.
    """
    changes = patches(image, index, moves)
    if changes:
        with image.open("r+b") as file, mmap.mmap(file.fileno(), 0) as data:
            for place, contents in changes:
                data[place : place + len(contents)] = contents


def _indexed(index: Path, names: set[str]) -> list[tuple[str, bytes]]:
    """What an index has of some files."""
    try:
        with zipfile.ZipFile(index) as archive:
            members = [archive.NameToInfo[name] for name in sorted(names & set(archive.NameToInfo))]
            most = MOST_DEFLATED * index.stat().st_size
            if any(max(one.compress_size, one.file_size) > most for one in members):
                raise ValueError("a file in it is larger than it can be")
            return [(one.filename, archive.read(one)) for one in members]
    except (OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise UnknownDebugInfo(f"the index of lines can't be read ({error})") from error


Column = tuple["array[int]", "array[int]"]


def _columns(data: bytes) -> Iterator[Column]:
    at = _COUNTS.size
    if len(data) < at or len(data) != at + 8 * sum(_COUNTS.unpack_from(data)):
        raise UnknownDebugInfo("the index of lines can't be read (it is cut off)")
    for count in _COUNTS.unpack_from(data):
        pair = []
        for _ in range(2):
            pair.append(array("I", data[at : at + 4 * count]))
            at += 4 * count
        yield pair[0], pair[1]


def _range(lines: array[int], move: Move) -> slice:
    return slice(bisect_left(lines, move.first), bisect_right(lines, move.last))


def _within(column: Column, move: Move) -> array[int]:
    return column[1][_range(column[0], move)]


def _lines_within(column: Column, move: Move) -> Iterator[tuple[int, int]]:
    those = _range(column[0], move)
    return zip(column[0][those], column[1][those], strict=True)


def _section(data: mmap.mmap, name: str) -> tuple[int, int]:
    try:
        return section_places(data)[name]
    except (KeyError, IndexError, ValueError, OverflowError, struct.error) as error:
        raise UnknownDebugInfo(f"the image has no {name}") from error


def _advances(data: mmap.mmap, advances: dict[int, int]) -> Iterator[Patch]:
    begin, end = _section(data, ".debug_line")
    for place, by in advances.items():
        at = begin + place
        if not by:
            continue
        if at + ADVANCE_WIDTH > end or data[at - 1 : at] != _OPCODE:
            raise UnknownDebugInfo("the image has other line numbers than its base image")
        yield at, encode_advance(decode_advance(data[at : at + ADVANCE_WIDTH]) + by)


def _words(data: mmap.mmap, words: list[tuple[int, int, int]]) -> Iterator[Patch]:
    begin, end = _section(data, ".debug_info")
    for place, old, new in words:
        at = begin + place
        if at + WORD_WIDTH > end or data[at : at + WORD_WIDTH] != old.to_bytes(WORD_WIDTH, "little"):
            raise UnknownDebugInfo("the image has other line numbers than its base image")
        if not 0 < new <= LAST_LINE:
            raise UnknownDebugInfo(f"line {new} has no room")
        yield at, new.to_bytes(WORD_WIDTH, "little")
