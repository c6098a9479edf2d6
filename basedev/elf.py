"""Reading what a system image's ELF file holds, and writing the one object file that needs no assembler.

Knows ELF and the symbols by which Julia's loader finds its tables; knows nothing of Julia's semantics.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import cached_property
from mmap import ACCESS_READ, mmap
from pathlib import Path

from .errors import SetupError

ELF_HEADER_SIZE = 64
"""Where the contents of a data object begin; also the alignment that the loader wants for them."""

LARGEST_ALIGNMENT = 4096
"""That of a page."""

SYMBOLS = 2
"""The type of the section `.symtab`."""

SECTION_HEADER = struct.Struct("<IIQQQQIIQQ")
SYMBOL = struct.Struct("<IBBHQQ")
RELOCATION = struct.Struct("<QQq")


class ImageSymbols:
    """The dynamic symbols of a system image and the bytes they stand for.

    Raises SetupError when the file is no ELF shared object, or has no such symbol.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def address(self, name: str) -> int:
        """Where the image has a symbol when it is loaded at 0."""
        return self._symbols[name][0] if name in self._symbols else self._missing(name)

    def has(self, name: str) -> bool:
        """Whether the image has a symbol."""
        return name in self._symbols

    def number(self, name: str) -> int:
        """The number of 64 bits at a symbol."""
        return int.from_bytes(self._read_at(self.place(name), 8), "little")

    def contents(self, name: str) -> bytes:
        """The bytes of a symbol with contents in the file, as long as its size says."""
        return self._read_at(self.place(name), self._symbols[name][1])

    def place(self, name: str) -> int:
        """Where in the file the contents of a symbol begin."""
        begin = self.offset(self.address(name))
        if begin is None or begin >= self.path.stat().st_size:
            raise SetupError(f"{self.path}: {name} has no contents")
        return begin

    def _read_at(self, begin: int, size: int) -> bytes:
        with self.path.open("rb") as file:
            file.seek(begin)
            return file.read(min(size, self.path.stat().st_size))

    def offset(self, address: int) -> int | None:
        """Where in the file the byte for an address is, None where there is none."""
        for begin, size, offset in self._segments:
            if begin <= address < begin + size:
                return offset + address - begin
        return None

    def _missing(self, name: str) -> int:
        raise SetupError(f"{self.path} has no symbol {name}; is it a system image?")

    @cached_property
    def _segments(self) -> list[tuple[int, int, int]]:
        return self._read[1]

    @cached_property
    def _symbols(self) -> dict[str, tuple[int, int]]:
        return self._read[0]

    @cached_property
    def _read(self) -> tuple[dict[str, tuple[int, int]], list[tuple[int, int, int]]]:
        from elftools.elf.elffile import ELFFile
        from elftools.elf.sections import SymbolTableSection

        try:
            with self.path.open("rb") as file:
                elf = ELFFile(file)
                table = elf.get_section_by_name(".dynsym")
                if not isinstance(table, SymbolTableSection):
                    raise ValueError("it has no dynamic symbols")
                symbols = {one.name: (int(one["st_value"]), int(one["st_size"])) for one in table.iter_symbols()}
                loaded = [one.header for one in elf.iter_segments() if one["p_type"] == "PT_LOAD"]
        except Exception as error:  # pyelftools checks little of what it reads
            raise SetupError(f"{self.path} can't be read as a system image: {error}") from error
        return symbols, [(one["p_vaddr"], one["p_filesz"], one["p_offset"]) for one in loaded]


def finish_data_object(path: Path, symbol: str) -> None:
    """Makes an object file of a file whose first 64 bytes are free and whose rest is data.

    The data become a writable section, aligned to 64 bytes, and `symbol` a global object at its start. 127 MB
    need not go through an assembler for that.
    """
    size = path.stat().st_size - ELF_HEADER_SIZE
    names = [b"", b".data.jlimage", b".note.GNU-stack", b".symtab", b".strtab", b".shstrtab"]
    name_offsets, name_table = string_table(names)
    symbol_offsets, symbol_names = string_table([b"", symbol.encode()])
    # local: the null symbol; global (info 0x11: STB_GLOBAL, STT_OBJECT), default visibility, section 1
    symbols = SYMBOL.pack(0, 0, 0, 0, 0, 0) + SYMBOL.pack(symbol_offsets[1], 0x11, 0, 1, 0, size)

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
        (name_offsets[3], symtab, 0, 0, *places[0], 4, 1, 8, SYMBOL.size),
        (name_offsets[4], strtab, 0, 0, *places[1], 0, 0, 1, 0),
        (name_offsets[5], strtab, 0, 0, *places[2], 0, 0, 1, 0),
    ]
    tail += b"".join(SECTION_HEADER.pack(*header) for header in headers)
    with path.open("r+b") as file:
        file.write(object_header(headers_at, len(headers)))
        file.seek(position)
        file.write(tail)


def symbols(data: mmap | bytes, kind: int) -> Iterator[tuple[bytes, tuple[int, ...], tuple[int, ...]]]:
    """Of each symbol in the table that is a section of type `kind`, as far as the file has one: its name, the entry
    (`SYMBOL`), and the header of the section that it is in, that of the first where it is in none."""
    headers = section_headers(data)
    table = next((one for one in headers if one[1] == kind), None)
    if table is None:
        return
    names = headers[table[6]]
    strings = data[names[4] : names[4] + names[5]]
    for entry in SYMBOL.iter_unpack(data[table[4] : table[4] + table[5]]):
        section = headers[entry[3]] if entry[3] < len(headers) else headers[0]
        yield strings[entry[0] : strings.index(b"\0", entry[0])], entry, section


def places(image: Path, names: Collection[bytes]) -> dict[bytes, tuple[int, int]]:
    """Of those of these symbols that an image's `.symtab` has: the address, and where it is in the file.

    Raises ValueError or struct.error when it is no 64-bit ELF file.
    """
    with image.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as data:
        return {
            name: (entry[4], entry[4] - section[3] + section[4])
            for name, entry, section in symbols(data, SYMBOLS)
            if name in names
        }


def object_header(headers_at: int, count: int) -> bytes:
    """Of an object file that has so many section headers there, the last of them for the sections' names."""
    relocatable, x86_64 = 1, 62
    return b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack(
        "<HHIQQQIHHHHHH",
        *(relocatable, x86_64, 1, 0, 0, headers_at, 0, ELF_HEADER_SIZE),
        *(0, 0, SECTION_HEADER.size, count, count - 1),
    )


def string_table(strings: list[bytes]) -> tuple[list[int], bytes]:
    """Where each string begins in a table of strings, and that table."""
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
    table = symbols.place("jl_sysimg_fvars_offsets")
    with image.open("r+b") as file:
        file.seek(table)
        (count,) = struct.unpack("<I", file.read(4))
        offsets = struct.unpack(f"<{count}i", file.read(4 * count))
        for old, new in pairs:
            begin, end = base + offsets[old - 1], base + offsets[new - 1]
            place = symbols.offset(begin)
            assert place is not None
            file.seek(place)
            file.write(jump(begin, end))


def jump(begin: int, end: int) -> bytes:
    """The instruction at the address `begin` that goes on at `end`."""
    return b"\xe9" + struct.pack("<i", end - (begin + 5))


class RelocatableObject:
    """An object file whose sections can be given other contents. All of it is read; `write` writes it.

    Raises ValueError, KeyError or struct.error when it is none.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._data = path.read_bytes()
        self._headers = section_headers(self._data)
        self._new: dict[int, bytes] = {}
        names = self._contents_at(struct.unpack_from("<H", self._data, 62)[0])
        self._number = {names[one[0] : names.index(0, one[0])].decode(): n for n, one in enumerate(self._headers)}

    def has(self, name: str) -> bool:
        """Whether there is such a section."""
        return name in self._number

    def contents(self, name: str) -> bytes:
        """The bytes of a section."""
        return self._contents_at(self._number[name])

    def set_contents(self, name: str, contents: bytes) -> None:
        """Other bytes for a section."""
        self._new[self._number[name]] = contents

    def relocated(self, prefix: str) -> list[str]:
        """The sections whose names begin so and that have relocations."""
        return [name for name in self._number if name.startswith(prefix) and f".rela{name}" in self._number]

    def relocations(self, name: str) -> Iterator[tuple[int, str, int]]:
        """The relocations of a section: their place, the section that they lead to if they name that itself, else
        "", and the place there."""
        sections = self._symbol_sections
        for offset, info, addend in RELOCATION.iter_unpack(self.contents(f".rela{name}")):
            yield offset, sections.get(info >> 32, ""), addend

    def move_relocations(self, name: str, moved: Mapping[str, Callable[[int], int]]) -> None:
        """Adjusts the relocations of a section to what moved: `moved` tells for sections where a place is now."""
        sections, own = self._symbol_sections, moved.get(name)
        out = bytearray()
        for offset, info, addend in RELOCATION.iter_unpack(self.contents(f".rela{name}")):
            target = moved.get(sections.get(info >> 32, ""))
            out += RELOCATION.pack(own(offset) if own else offset, info, target(addend) if target else addend)
        self.set_contents(f".rela{name}", bytes(out))

    def write(self) -> None:
        """Writes the file with its new contents."""
        out = bytearray(self._data[:ELF_HEADER_SIZE])
        headers = list(self._headers)
        no_bits = 8
        for n in sorted(range(1, len(headers)), key=lambda n: headers[n][4]):
            header = list(headers[n])
            if header[8] > LARGEST_ALIGNMENT:
                raise ValueError("a section of unusual alignment")
            contents = b"" if header[1] == no_bits else self._contents_at(n)
            out += b"\0" * (-len(out) % max(header[8], 1))
            header[4] = len(out)
            if header[1] != no_bits:
                header[5] = len(contents)
            out += contents
            headers[n] = tuple(header)
        out += b"\0" * (-len(out) % 8)
        struct.pack_into("<Q", out, 40, len(out))
        out += b"".join(SECTION_HEADER.pack(*header) for header in headers)
        self.path.write_bytes(out)

    def _contents_at(self, number: int) -> bytes:
        header = self._headers[number]
        return self._new.get(number, self._data[header[4] : header[4] + header[5]])

    @cached_property
    def _symbol_sections(self) -> dict[int, str]:
        names = {number: name for name, number in self._number.items()}
        symbols = enumerate(SYMBOL.iter_unpack(self.contents(".symtab")))
        of_a_section = 3
        return {n: names[one[3]] for n, one in symbols if one[1] & 0xF == of_a_section}


def section_headers(data: bytes | mmap) -> list[tuple[int, ...]]:
    """The section headers of a 64-bit ELF file: name, type, flags, address, offset, size, link, info, alignment, size
    of an entry."""
    if data[:6] != b"\x7fELF\x02\x01":
        raise ValueError("no 64-bit ELF file")
    (begin,), (count,) = struct.unpack_from("<Q", data, 40), struct.unpack_from("<H", data, 60)
    return list(SECTION_HEADER.iter_unpack(data[begin : begin + count * SECTION_HEADER.size]))


def section_places(data: bytes | mmap) -> dict[str, tuple[int, int]]:
    """Where the sections of an ELF file begin and end in it, by name."""
    headers = section_headers(data)
    names = headers[struct.unpack_from("<H", data, 62)[0]][4]
    found = {}
    for header in headers:
        begin = names + header[0]
        found[data[begin : data.find(b"\0", begin)].decode()] = header[4], header[4] + header[5]
    return found
