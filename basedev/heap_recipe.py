"""A new heap told by what it has of the base image's: the file that the engine's host writes (`host/recipe.h`).

Records follow each other: kind, offset and length, little-endian numbers of 64 bits. Kind 0 is a range of the base
image's blob, kind 1 (at 0) is so many bytes that stand behind the record.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from .errors import InternalError

_RECORD = struct.Struct("<QQQ")
_COPIED, _LITERAL = 0, 1


@dataclass(frozen=True)
class Blob:
    """Where the base image's heap is in its file, in bytes."""

    image: Path
    offset: int
    size: int


@dataclass(frozen=True)
class Copied:
    """A range of the base image's blob."""

    offset: int
    length: int


Piece = Copied | bytes


def read_recipe(path: Path, base_size: int) -> list[Piece]:
    """The pieces of the new blob, in order.

    Raises InternalError when the file is not what the host writes for a base blob of this size.
    """
    recipe = path.read_bytes()
    pieces: list[Piece] = []
    at = 0
    while at < len(recipe):
        if at + _RECORD.size > len(recipe):
            raise InternalError(f"{path}: a record is cut off")
        kind, offset, length = _RECORD.unpack_from(recipe, at)
        at += _RECORD.size
        if kind == _COPIED:
            if offset + length > base_size:
                raise InternalError(f"{path}: a range ends behind the base image's heap")
            pieces.append(Copied(offset, length))
        elif kind == _LITERAL and not offset:
            if at + length > len(recipe):
                raise InternalError(f"{path}: bytes are cut off")
            pieces.append(recipe[at : at + length])
            at += length
        else:
            raise InternalError(f"{path}: there are no records of kind {kind} at {offset}")
    return pieces


def write_blob(pieces: list[Piece], base: Blob, output: BinaryIO) -> None:
    """Appends the new blob to a file."""
    with base.image.open("rb") as image:
        for piece in pieces:
            if isinstance(piece, bytes):
                output.write(piece)
                continue
            image.seek(base.offset + piece.offset)
            for part in _parts(image, piece.length):
                output.write(part)


def _parts(file: BinaryIO, length: int) -> Iterator[bytes]:
    while length:
        part = file.read(min(length, 1 << 20))
        if not part:
            raise InternalError("the base image's file is cut off")
        length -= len(part)
        yield part
