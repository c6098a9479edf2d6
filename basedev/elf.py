"""Reading what a system image's ELF file holds, and writing the one object file that needs no assembler.

Knows ELF and the symbols by which Julia's loader finds its tables; knows nothing of Julia's semantics.
"""

from __future__ import annotations

import struct
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

    def contents(self, name: str) -> bytes:
        """The bytes of a symbol with contents in the file, as long as its size says."""
        from elftools.common.exceptions import ELFError
        from elftools.elf.elffile import ELFFile
        from elftools.elf.sections import SymbolTableSection

        try:
            with self.path.open("rb") as file:
                elf = ELFFile(file)
                table = elf.get_section_by_name(".dynsym")
                if not isinstance(table, SymbolTableSection):
                    raise SetupError(f"{self.path} has no dynamic symbols: it is no system image")
                found = table.get_symbol_by_name(name)
                if not found:
                    raise SetupError(f"{self.path} has no symbol {name}: it is no system image of Julia 1.5")
                symbol = found[0]
                for segment in elf.iter_segments():
                    begin = int(segment["p_vaddr"])
                    if segment["p_type"] == "PT_LOAD" and begin <= symbol["st_value"] < begin + segment["p_filesz"]:
                        file.seek(segment["p_offset"] + symbol["st_value"] - begin)
                        return file.read(symbol["st_size"])
        except (ELFError, OSError) as error:
            raise SetupError(f"{self.path} can't be read as a system image: {error}") from error
        raise SetupError(f"{self.path}: {name} has no contents")


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
