"""Contents of a symbol that stand in a file behind what a linker made of the rest.

A linker copies all that it is given, and a heap of 160 MB takes it longer than the code. So it is given an object file
that has only room for the heap, which becomes a segment of its own afterwards: in the place of a note that this object
file has besides, whose header it gets.
"""

from __future__ import annotations

import os
import struct
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import NamedTuple

from .elf import ELF_HEADER_SIZE, SECTION_HEADER, SYMBOL, object_header, string_table, symbols
from .errors import InternalError
from .pieces import Range, Writer

PAGE = 4096

LOAD, NOTE = 1, 4
"""Types of segments."""

READ_WRITE = 6

PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")
"""Type, flags, offset, address, physical address, size in the file, size in memory, alignment."""

DYNAMIC_SYMBOLS = 11
"""The type of the section `.dynsym`."""


class _Segment(NamedTuple):
    type: int
    flags: int
    offset: int
    address: int
    physical: int
    size: int
    memory: int
    alignment: int


def write_room(path: Path, symbol: str, size: int) -> None:
    """Writes an object file with room of `size` bytes for a global symbol, at the beginning of a page."""
    note = struct.pack("<III", 4, 0, 1) + b"room"
    names = [b"", b".bss.room", b".note.room", b".note.GNU-stack", b".symtab", b".strtab", b".shstrtab"]
    name_at, name_table = string_table(names)
    symbol_at, symbol_names = string_table([b"", symbol.encode()])
    # local: the null symbol; global (info 0x11: STB_GLOBAL, STT_OBJECT), default visibility, section 1
    symbols = SYMBOL.pack(0, 0, 0, 0, 0, 0) + SYMBOL.pack(symbol_at[1], 0x11, 0, 1, 0, size)
    contents, places = b"", []
    for part in (note, symbols, symbol_names, name_table):
        contents += b"\0" * (-len(contents) % 8)
        places.append((ELF_HEADER_SIZE + len(contents), len(part)))
        contents += part
    contents += b"\0" * (-len(contents) % 8)
    progbits, symtab, strtab, nobits, alloc, write_alloc = 1, 2, 3, 8, 2, 3
    headers = [
        (0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
        (name_at[1], nobits, write_alloc, 0, ELF_HEADER_SIZE, size, 0, 0, PAGE, 0),
        (name_at[2], 7, alloc, 0, *places[0], 0, 0, 4, 0),
        (name_at[3], progbits, 0, 0, ELF_HEADER_SIZE, 0, 0, 0, 1, 0),
        (name_at[4], symtab, 0, 0, *places[1], 5, 1, 8, SYMBOL.size),
        (name_at[5], strtab, 0, 0, *places[2], 0, 0, 1, 0),
        (name_at[6], strtab, 0, 0, *places[3], 0, 0, 1, 0),
    ]
    header = object_header(ELF_HEADER_SIZE + len(contents), len(headers))
    path.write_bytes(header + contents + b"".join(SECTION_HEADER.pack(*one) for one in headers))


def fill_room(linked: Path, symbol: str, contents: Path, begin: int) -> None:
    """Gives the symbol that has room in a linked file its contents: those of a file from `begin` on, which is divisible
    by the size of a page. Where the linked file ends before that, it is put into that file, and both are one then.

    Raises InternalError when the linker laid it out in an unknown way.
    """
    size, end = contents.stat().st_size - begin, linked.stat().st_size
    if end <= begin:
        _copy(Range(linked, 0, end), contents, 0)
        contents.chmod(linked.stat().st_mode)
        linked.unlink()  # what takes the place of a file is written to disk by ext4 before
        contents.rename(linked)
    else:
        place = -(-end // PAGE) * PAGE
        _copy(Range(contents, begin, size), linked, place)
        begin = place
    _load(linked, symbol, begin, size)


def _copy(source: Range, target: Path, position: int) -> None:
    descriptor = os.open(target, os.O_WRONLY | os.O_CLOEXEC)
    try:
        with Writer(descriptor) as writer:
            writer.write(position, [source])
    finally:
        os.close(descriptor)


def _load(path: Path, symbol: str, offset: int, size: int) -> None:
    """Makes the part of a file that begins at `offset` the segment in which the symbol is."""
    with path.open("r+b") as file:
        head = file.read(PAGE)
        (begin,), (count,) = struct.unpack_from("<Q", head, 32), struct.unpack_from("<H", head, 56)
        segments = [_Segment(*PROGRAM_HEADER.unpack_from(head, begin + n * PROGRAM_HEADER.size)) for n in range(count)]
        address = _address(path, symbol)
        around = [one for one in segments if one.type == LOAD and one.address <= address < one.address + one.memory]
        notes = [one for one in segments if one.type == NOTE]
        if len(around) != 1 or not notes or around[0].address + around[0].size > address or address % PAGE:
            raise InternalError(f"the linker made no room for {symbol} that can be filled")
        segments.remove(notes[0])
        at = segments.index(around[0])
        segments[at] = around[0]._replace(memory=address - around[0].address)
        rest = around[0].address + around[0].memory - address
        own = _Segment(LOAD, READ_WRITE, offset, address, address, size, rest, PAGE)
        segments.insert(at + 1, own)  # by rising addresses, as a loader wants them
        file.seek(begin)
        file.write(b"".join(PROGRAM_HEADER.pack(*one) for one in segments))


def _address(path: Path, symbol: str) -> int:
    """Where a dynamic symbol is when the file is loaded at 0."""
    with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as data:
        for name, entry, _ in symbols(data, DYNAMIC_SYMBOLS):
            if name == symbol.encode():
                return entry[4]
    raise InternalError(f"the linker left out {symbol}")
