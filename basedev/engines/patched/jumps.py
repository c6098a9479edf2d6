"""Jumps from native code that was compiled anew to the new code, for native code that stays and calls the old one."""

from __future__ import annotations

import struct
from pathlib import Path

from ...elf import places
from ...errors import InternalError

JUMP = struct.Struct("<Bi")
"""x86-64's jump to a distance from its end, in bytes. Functions begin at 16 bytes, so there is room for it."""

NEAR = 0xE9


def write_jumps(image: Path, listed: Path) -> None:
    """Writes the jumps into a linked image. `listed` has, in each line, the numbers of two functions
    (`jlfv_<number>`), of which the second succeeds the first (`patches/common/chained.c`).

    Raises InternalError when the image lacks one of them.
    """
    numbers = (map(int, line.split()) for line in listed.read_text().splitlines())
    pairs = [(b"jlfv_%d" % old, b"jlfv_%d" % new) for old, new in numbers]
    names = {name for pair in pairs for name in pair}
    found = places(image, names)
    if left_out := names - found.keys():
        raise InternalError(f"the linker left out functions of {image}: {min(left_out).decode()}")
    with image.open("r+b") as file:
        for old, new in pairs:
            (address, offset), (target, _) = found[old], found[new]
            file.seek(offset)
            file.write(JUMP.pack(NEAR, target - address - JUMP.size))
