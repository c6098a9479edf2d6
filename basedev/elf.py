"""Reading what a system image's ELF file holds, and writing the one object file that needs no assembler.

Knows ELF and the symbols by which Julia's loader finds its tables; knows nothing of Julia's semantics.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

from .errors import SetupError

ELF_HEADER_SIZE = 64
"""Where the contents of a data object begin; also the alignment that the loader wants for them."""

_SECTION_HEADER = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")


class ImageSymbols:
    """The dynamic symbols of a system image and the bytes they stand for.

    Raises SetupError when the file is no ELF shared object, or has no such symbol.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def address(self, name: str) -> int:
        """Where the image has a symbol when it is loaded at 0."""
        return self._symbols[name][0] if name in self._symbols else self._missing(name)

    def size(self, name: str) -> int:
        """How many bytes a symbol stands for."""
        return self._symbols[name][1] if name in self._symbols else self._missing(name)

    def contents(self, name: str) -> bytes:
        """The bytes of a symbol with contents in the file, as long as its size says."""
        begin = self.offset(self.address(name))
        if begin is None:
            raise SetupError(f"{self.path}: {name} has no contents")
        with self.path.open("rb") as file:
            file.seek(begin)
            return file.read(self._symbols[name][1])

    def offset(self, address: int) -> int | None:
        """Where in the file the byte for an address is, None where there is none."""
        for begin, size, offset in self._segments:
            if begin <= address < begin + size:
                return offset + address - begin
        return None

    def _missing(self, name: str) -> int:
        raise SetupError(f"{self.path} has no symbol {name}: it is no system image of Julia 1.5")

    @cached_property
    def _segments(self) -> list[tuple[int, int, int]]:
        return self._read[1]

    @cached_property
    def _symbols(self) -> dict[str, tuple[int, int]]:
        return self._read[0]

    @cached_property
    def _read(self) -> tuple[dict[str, tuple[int, int]], list[tuple[int, int, int]]]:
        from elftools.common.exceptions import ELFError
        from elftools.elf.elffile import ELFFile
        from elftools.elf.sections import SymbolTableSection

        try:
            with self.path.open("rb") as file:
                elf = ELFFile(file)
                table = elf.get_section_by_name(".dynsym")
                if not isinstance(table, SymbolTableSection):
                    raise SetupError(f"{self.path} has no dynamic symbols: it is no system image")
                symbols = {one.name: (int(one["st_value"]), int(one["st_size"])) for one in table.iter_symbols()}
                loaded = [one.header for one in elf.iter_segments() if one["p_type"] == "PT_LOAD"]
        except (ELFError, OSError) as error:
            raise SetupError(f"{self.path} can't be read as a system image: {error}") from error
        return symbols, [(one["p_vaddr"], one["p_filesz"], one["p_offset"]) for one in loaded]


def finish_data_object(path: Path, symbol: str) -> None:
    """Makes an object file of a file whose first 64 bytes are free and whose rest is data.

    The data become a writable section, aligned to 64 bytes, and `symbol` a global object at its start. 127 MB
    need not go through an assembler for that.
    """
    size = path.stat().st_size - ELF_HEADER_SIZE
    names = [b"", b".data.jlimage", b".note.GNU-stack", b".symtab", b".strtab", b".shstrtab"]
    name_offsets, name_table = _string_table(names)
    symbol_offsets, symbol_names = _string_table([b"", symbol.encode()])
    # local: the null symbol; global (info 0x11: STB_GLOBAL, STT_OBJECT), default visibility, section 1
    symbols = _SYMBOL.pack(0, 0, 0, 0, 0, 0) + _SYMBOL.pack(symbol_offsets[1], 0x11, 0, 1, 0, size)

    position = ELF_HEADER_SIZE + size
    tail = b"\0" * (-position % 8)
    places = []
    for contents in (symbols, symbol_names, name_table):
        tail += b"\0" * (-(position + len(tail)) % 8)
        places.append((position + len(tail), len(contents)))
        tail += contents
    tail += b"\0" * (-(position + len(tail)) % 8)
    headers_at = position + len(tail)

    progbits, symtab, strtab, write_alloc = 1, 2, 3, 3
    headers = [
        (0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
        (name_offsets[1], progbits, write_alloc, 0, ELF_HEADER_SIZE, size, 0, 0, 64, 0),
        (name_offsets[2], progbits, 0, 0, position, 0, 0, 0, 1, 0),
        (name_offsets[3], symtab, 0, 0, *places[0], 4, 1, 8, _SYMBOL.size),
        (name_offsets[4], strtab, 0, 0, *places[1], 0, 0, 1, 0),
        (name_offsets[5], strtab, 0, 0, *places[2], 0, 0, 1, 0),
    ]
    tail += b"".join(_SECTION_HEADER.pack(*header) for header in headers)
    relocatable, x86_64 = 1, 62
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack(
        "<HHIQQQIHHHHHH",
        *(relocatable, x86_64, 1, 0, 0, headers_at, 0, ELF_HEADER_SIZE),
        *(0, 0, _SECTION_HEADER.size, len(headers), len(headers) - 1),
    )
    with path.open("r+b") as file:
        file.write(header)
        file.seek(position)
        file.write(tail)


def _string_table(strings: list[bytes]) -> tuple[list[int], bytes]:
    offsets, table = [], b""
    for string in strings:
        offsets.append(len(table))
        table += string + b"\0"
    return offsets, table


def redirect(image: Path, functions: Iterable[tuple[int, int]]) -> None:
    """Has calls of functions of an image come to others: a jump is written over the beginning of each.

    `functions` are pairs of numbers in the image's table of functions (fvars, counted from 1), from and to. A function
    begins at an address divisible by 16 (LLVM's alignment), so that a jump of five bytes has room in the smallest.
    """
    pairs = list(functions)
    if not pairs:
        return
    symbols = ImageSymbols(image)
    base = symbols.address("jl_sysimg_fvars_base")
    table = symbols.offset(symbols.address("jl_sysimg_fvars_offsets"))
    assert table is not None
    with image.open("r+b") as file:
        file.seek(table)
        (count,) = struct.unpack("<I", file.read(4))
        offsets = struct.unpack(f"<{count}i", file.read(4 * count))
        for old, new in pairs:
            begin, end = base + offsets[old - 1], base + offsets[new - 1]
            place = symbols.offset(begin)
            assert place is not None
            file.seek(place)
            file.write(b"\xe9" + struct.pack("<i", end - (begin + 5)))
