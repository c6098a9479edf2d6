"""Jumps from native code that was compiled anew to the new code, for native code that stays and calls the old one."""

from __future__ import annotations

import struct
from mmap import ACCESS_READ, mmap
from pathlib import Path

from ...elf import symbols
from ...errors import InternalError

SYMBOLS = 2
"""The type of the section `.symtab`."""

JUMP = struct.Struct("<Bi")
"""x86-64's jump to a distance from its end, in bytes. Functions begin at 16 bytes, so there is room for it."""

NEAR = 0xE9


def write_jumps(image: Path, listed: Path) -> None:
    """Writes the jumps into a linked image. `listed` has, in each line, the numbers of two functions
    (`jlfv_<number>`), of which the second succeeds the first (`patches/common/chained.c`).

    Raises InternalError when the image lacks one of them.
    """
    pairs = [(int(old), int(new)) for old, new in map(str.split, listed.read_text().splitlines())]
    places = _places(image, {number for pair in pairs for number in pair})
    with image.open("r+b") as file:
        for old, new in pairs:
            (address, offset), (target, _) = places[old], places[new]
            file.seek(offset)
            file.write(JUMP.pack(NEAR, target - address - JUMP.size))


def _places(image: Path, numbers: set[int]) -> dict[int, tuple[int, int]]:
    """Of each function, its address and where it is in the file."""
    names = {b"jlfv_%d" % number: number for number in numbers}
    found = {}
    with image.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as data:
        for name, entry, section in symbols(data, SYMBOLS):
            if name in names:
                found[names[name]] = entry[4], entry[4] - section[3] + section[4]
    if len(found) < len(numbers):
        raise InternalError(f"the linker left out functions of {image}: {min(numbers - found.keys())}")
    return found
