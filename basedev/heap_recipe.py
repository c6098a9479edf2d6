"""A new heap told by what it has of the base image's: the file that the engine's host writes (`host/recipe.h`).

Records follow each other: kind, offset and length, little-endian numbers of 64 bits. Kind 0 is a range of the base
image's blob, kind 1 (at 0) is so many bytes that stand behind the record.
"""

from __future__ import annotations

import struct
from pathlib import Path

from .errors import InternalError
from .pieces import Piece, Range

_RECORD = struct.Struct("<QQQ")
_COPIED, _LITERAL = 0, 1


def read_recipe(path: Path, base: Range) -> list[Piece]:
    """The pieces of the new blob, in order, where `base` is the base image's.

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
            if offset + length > base.length:
                raise InternalError(f"{path}: a range ends behind the base image's heap")
            pieces.append(Range(base.path, base.offset + offset, length))
        elif kind == _LITERAL and not offset:
            if at + length > len(recipe):
                raise InternalError(f"{path}: bytes are cut off")
            pieces.append(recipe[at : at + length])
            at += length
        else:
            raise InternalError(f"{path}: there are no records of kind {kind} at {offset}")
    return pieces
