"""A linked image + new object files + a heap -> a system image, without a linker.

What is loaded of the linked image is copied to the same place, in the file and in memory. Behind it come new segments:
one that is read only (symbols, relocations, tables, constants), new code, new data, and the heap. What is not loaded
(symbols for debuggers, debug information) comes last, old and new together. `docs/assembly.md` has the picture, and
says why this is what a linker makes.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from . import relocate
from .elf import RELOCATION, SECTION_HEADER, SYMBOL, jump
from .pieces import Piece, Range, Writer, size
from .prelinked import (
    EXECUTABLE,
    FRAME_ENCODINGS,
    FRAME_HEADER,
    FRAME_TABLE,
    LOAD,
    NEEDED_FILE,
    NEEDED_NAME,
    PAGE,
    PROGRAM_HEADERS,
    READABLE,
    ROOM_FOR_SLOTS,
    WRITABLE,
    NeededVersion,
    Prelinked,
    Segment,
)
from .relocate import (
    ALLOC,
    BSS,
    DATA,
    EXECUTE,
    FRAMES,
    HEADER,
    MERGE,
    NOBITS,
    PROGBITS,
    RODATA,
    SLOT_SIZE,
    STUB_SIZE,
    TEXT,
    WRITE,
    Layout,
    NeedsLinker,
    ObjectFile,
    Section,
    Symbol,
    align,
)

MOST_NEW_SEGMENTS = 4
LOADED = ALLOC | WRITE | EXECUTE
"""Flags of sections that matter to the loader."""

PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")
DT_STRTAB, DT_SYMTAB, DT_RELA, DT_RELASZ, DT_STRSZ = 5, 6, 7, 8, 10
DT_GNU_HASH, DT_VERSYM, DT_VERNEED, DT_VERNEEDNUM = 0x6FFFFEF5, 0x6FFFFFF0, 0x6FFFFFFE, 0x6FFFFFFF

HEAP, FUNCTIONS, VALUES = "jl_system_image_data", "jl_sysimg_fvars_offsets", "jl_sysimg_gvars_offsets"

LibraryNames = Callable[[], Mapping[str, Sequence[str | None]]]
"""Gives for each name that a library offers the library's name and the version (see `prelinked.library_names`)."""


@dataclass(frozen=True)
class Contents:
    """What an image is to have besides what is linked already."""

    heap: Sequence[Piece]
    fvars: int
    gvars: int
    """The sizes of its tables, old and new entries together."""
    objects: Sequence[Path] = ()
    replaced: Sequence[tuple[int, int]] = ()
    """Functions that are called where other ones are: numbers in the table of functions, from 1 (see `elf.jump`)."""


def assemble(
    output: Path, base: Prelinked, contents: Contents, library_names: LibraryNames, *, copied: bool = False
) -> Prelinked:
    """Writes a system image. Returns what is known of it as a ground for others: what `base` was, in the new file.

    With `copied`, `output` has all that the base's file has already.

    Raises NeedsLinker when the objects have something that is left to a linker; nothing is written then. Raises OSError
    when the image can't be written, and InternalError when a range of a file is not there; `output` does not stay.
    """
    try:
        assembly = _Assembly(base, contents, library_names)
    except struct.error as error:  # only in damaged objects
        raise NeedsLinker("an address out of reach") from error
    written = 0 if copied else os.O_TRUNC
    descriptor = os.open(output, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | written, 0o777)
    try:
        with Writer(descriptor, base.path if copied else None) as writer:
            ends = [(position, writer.write(position, pieces)) for position, pieces in assembly.writes]
            writer.leave_only(ends)
    except BaseException:
        with suppress(OSError):
            output.unlink()
        raise
    finally:
        os.close(descriptor)
    return assembly.as_base(output)


@dataclass
class _Region:
    """A new segment: a place in the file and in memory, both at the beginning of a page, that is given out."""

    flags: int
    offset: int
    address: int
    used: int = 0

    def take(self, length: int, alignment: int = 8) -> int:
        """Room for contents; returns their address."""
        begin = align(self.used, alignment)
        self.used = begin + length
        return self.address + begin

    def after(self, flags: int) -> _Region:
        """The next segment."""
        return _Region(flags, align(self.offset + self.used, PAGE), align(self.address + self.used, PAGE))


class _Strings:
    """What is added to a string table."""

    def __init__(self, begin: int) -> None:
        self.begin = begin
        self.contents = b""

    def add(self, string: str) -> int:
        """Where a new string begins in the whole table."""
        begin = self.begin + len(self.contents)
        self.contents += string.encode() + b"\0"
        return begin


class _Assembly:
    """Everything about one new image, found out before anything is written."""

    def __init__(self, base: Prelinked, contents: Contents, library_names: LibraryNames) -> None:
        self.base = base
        self.contents = contents
        self.library_names = library_names
        self.fvars, self.gvars = (self._count(name) for name in (FUNCTIONS, VALUES))
        if 8 * (contents.gvars - self.gvars) > ROOM_FOR_SLOTS:
            raise NeedsLinker("there are more new slots for values than there is room for")
        self.objects = [ObjectFile(path) for path in contents.objects]
        self.layout = Layout(self.objects, self._resolve, self._imported)
        self.imports = [name for name in self.layout.imports if name not in base.imports]
        self._choose_versions()
        self.regions = [_Region(READABLE, align(base.loaded_end, PAGE), base.frames_address)]
        self.sections = list(base.sections)
        """The headers of the image's sections: the base's in their order, and behind them what is new."""
        self.writes: list[tuple[int, Sequence[Piece]]] = [(0, [Range(base.path, 0, base.loaded_end)])]
        """What the file has where, in the order in which it is to be written."""
        self._place()
        self.relocated = self.layout.relocate(self.places, self.stubs_at, self.slots_at)
        self._fill_tables()
        self._fill_symbols()
        self._fill_code()
        self._fill_unloaded()
        self._fill_headers()

    def as_base(self, output: Path) -> Prelinked:
        """What is known of the linked image, which is in the new file too."""
        table = Range(output, self.regions[0].offset + FRAME_TABLE.size, size([self.base.frames]))
        headers = zip(self.base.sections, self.sections, strict=False)
        sections = tuple(old if old.flags & ALLOC else new for old, new in headers)
        return replace(self.base, path=output, sections=sections, frames=table)

    # ---- names ----

    def _count(self, table: str) -> int:
        (count,) = struct.unpack("<I", self._read(self.base.exports[table], 4))
        return int(count)

    def _read(self, address: int, length: int) -> bytes:
        with self.base.path.open("rb") as file:
            file.seek(self.base.offset(address))
            return file.read(length)

    @cached_property
    def _old_functions(self) -> Sequence[int]:
        exports = self.base.exports
        offsets = struct.unpack(f"<{self.fvars}i", self._read(exports[FUNCTIONS] + 4, 4 * self.fvars))
        return [exports["jl_sysimg_fvars_base"] + offset for offset in offsets]

    def _function(self, number: int) -> int:
        """The address of a function of the image's table."""
        if number <= self.fvars:
            return self._old_functions[number - 1]
        return self.layout.address(f"jlf_{number}", self.places)

    def _slot(self, number: int) -> int:
        """The address of a slot for a value: old ones where they were, new ones behind all that is loaded."""
        if number <= self.gvars:
            return self.base.exports["jl_sysimg_gvars_base"] + 8 * (number - 1)
        return self.base.slots_address + 8 * (number - 1 - self.gvars)

    def _resolve(self, name: str) -> int | None:
        """The address of what the code of one layer may refer to in another: see `host/layer.h`."""
        kind, _, rest = name.partition("_")
        if kind == "jlp":
            return self.base.exports.get(rest)
        if kind in ("jlf", "jlg") and rest.isdecimal():
            number = int(rest)
            if kind == "jlf" and 1 <= number <= self.fvars:
                return self._old_functions[number - 1]
            if kind == "jlg" and 1 <= number <= self.contents.gvars:
                return self._slot(number)
        return None

    def _imported(self, name: str) -> bool:
        return name in self.base.imports or self.library_names().get(name, [None])[0] in self.base.libraries

    def _choose_versions(self) -> None:
        """The versions of what is imported, and the strings that the symbol table needs for all that."""
        self.strings = _Strings(self.base.section(".dynstr").size)
        needed = list(self.base.needed)
        self.import_versions: list[int] = []
        for name in self.imports:
            library, version = self.library_names()[name]
            index = 1  # of no version
            if library is not None and version is not None:
                known = (one.number for one in needed if (one.file, one.name) == (library, version))
                index = next(known, 1 + max((one.number for one in needed), default=1))
                if all(one.number != index for one in needed):
                    needed.append(NeededVersion(library, version, 0, index))
            self.import_versions.append(index)
        self.import_names = [self.strings.add(name) for name in self.imports]
        self.needed = b""
        files = list(dict.fromkeys(one.file for one in needed))
        self.needed_files = len(files)
        for file in files:
            names = [one for one in needed if one.file == file]
            following = 0 if file == files[-1] else NEEDED_FILE.size + len(names) * NEEDED_NAME.size
            self.needed += NEEDED_FILE.pack(1, len(names), self.strings.add(file), NEEDED_FILE.size, following)
            for one in names:
                following = 0 if one is names[-1] else NEEDED_NAME.size
                name_at = self.strings.add(one.name)
                self.needed += NEEDED_NAME.pack(_hash(one.name), one.flags, one.number, name_at, following)

    # ---- places ----

    def _place(self) -> None:
        base, layout, contents = self.base, self.layout, self.contents
        self._move(".eh_frame_hdr", FRAME_TABLE.size + size([base.frames]) + 8 * layout.frames)
        self.headers_at = self.regions[0].take(PROGRAM_HEADER.size * (len(base.segments) + MOST_NEW_SEGMENTS))
        count = len(base.symbols) + len(self.imports)
        self._move(".gnu.hash", base.section(".gnu.hash").size)
        self._move(".dynsym", SYMBOL.size * count)
        self._move(".dynstr", base.section(".dynstr").size + len(self.strings.contents))
        self._move(".gnu.version", 2 * count)
        self._move(".gnu.version_r", len(self.needed))
        self._move(".rela.dyn", base.section(".rela.dyn").size + RELOCATION.size * layout.dynamic_relocations)
        self.places: dict[str, int] = {}
        self.functions_at = self._add(".layer.fvars", ALLOC, 4 + 4 * contents.fvars, 16)
        self.values_at = self._add(".layer.gvars", ALLOC, 4 + 4 * contents.gvars, 16)
        self._add_groups(RODATA, FRAMES)
        self.stubs_at = self.slots_at = 0
        if TEXT in layout.groups:
            self.regions.append(self.regions[-1].after(READABLE | EXECUTABLE))
            if layout.stubs:
                self.stubs_at = self._add(".layer.plt", ALLOC | EXECUTE, STUB_SIZE * len(layout.stubs), 16)
            self._add_groups(TEXT)
        if layout.slots or DATA in layout.groups or BSS in layout.groups:
            self.regions.append(self.regions[-1].after(READABLE | WRITABLE))
            if layout.slots:
                self.slots_at = self._add(".layer.got", ALLOC | WRITE, SLOT_SIZE * len(layout.slots), 8)
            self._add_groups(DATA, BSS)  # the zeros are a hole in the file
        self.regions.append(self.regions[-1].after(READABLE | WRITABLE))
        self.heap_at = self._add(".layer.heap", ALLOC | WRITE, size(contents.heap), PAGE)
        for name in layout.debug:
            self.places[name] = next((one.size for one in base.sections if one.name == name), 0)

    def _move(self, name: str, length: int) -> None:
        """Gives a section of the base image a new place."""
        address = self.regions[-1].take(length)
        self._change(name, address=address, offset=self._offset(address), size=length)

    def _add(self, name: str, flags: int, length: int, alignment: int) -> int:
        """Gives something new a place in memory and a section header; returns its address."""
        address = self.regions[-1].take(length, alignment)
        offset = self._offset(address)
        self.sections.append(Section(name, PROGBITS, flags, address, offset, length, 0, 0, alignment, 0))
        return address

    def _add_groups(self, *names: str) -> None:
        for name in names:
            if group := self.layout.groups.get(name):
                self.places[name] = self._add(f".layer{name}", group.flags & LOADED, group.size, group.alignment)

    def _offset(self, address: int) -> int:
        region = next(one for one in reversed(self.regions) if one.address <= address)
        return region.offset + address - region.address

    def _number(self, name: str) -> int:
        return next(n for n, one in enumerate(self.sections) if one.name == name)

    def _change(self, name: str, **fields: Any) -> None:
        number = self._number(name)
        self.sections[number] = self.sections[number]._replace(**fields)

    # ---- contents ----

    def _put(self, address: int, *pieces: Piece) -> None:
        self.writes.append((self._offset(address), pieces))

    def _patch(self, address: int, contents: bytes) -> None:
        """Changes what was copied from the base image."""
        self.writes.append((self.base.offset(address), [contents]))

    def _fill_tables(self) -> None:
        base, contents, exports = self.base, self.contents, self.base.exports
        new = [self._function(number) for number in range(self.fvars + 1, contents.fvars + 1)]
        offsets = [address - exports["jl_sysimg_fvars_base"] for address in new]
        old = base.range(exports[FUNCTIONS] + 4, 4 * self.fvars)
        self._put(self.functions_at, struct.pack("<I", contents.fvars), old, _offsets(offsets))
        first = exports["jl_sysimg_gvars_base"]
        offsets = [self._slot(number) - first for number in range(self.gvars + 1, contents.gvars + 1)]
        old = base.range(exports[VALUES] + 4, 4 * self.gvars)
        self._put(self.values_at, struct.pack("<I", contents.gvars), old, _offsets(offsets))
        self._patch(exports["jl_system_image_size"], struct.pack("<Q", size(contents.heap)))
        for old_number, new_number in contents.replaced:
            begin = self._function(old_number)
            self._patch(begin, jump(begin, self._function(new_number)))
        self._put(self.heap_at, *contents.heap)

    def _fill_symbols(self) -> None:
        base, first = self.base, self.base.hashed_from
        header_at = self.sections[self._number(".eh_frame_hdr")].address
        frames_at = base.section(FRAMES).address
        count = size([base.frames]) // 8 + self.layout.frames
        new_frames = self.layout.frame_table(self.relocated.groups, self.places)
        self._put(
            header_at,
            FRAME_TABLE.pack(*FRAME_ENCODINGS, frames_at - (header_at + 4), count),
            base.frames,
            _offsets([address - header_at for frame in new_frames for address in frame]),
        )
        imports = [
            Symbol(name, at, relocate.GLOBAL << 4, 0, relocate.UNDEFINED, 0, 0)
            for name, at in zip(self.imports, self.import_names, strict=True)
        ]
        symbols = [*base.symbols[:first], *imports, *map(self._present, base.symbols[first:])]
        versions = [*base.versions[:first], *self.import_versions, *base.versions[first:]]
        self._put_section(".dynsym", b"".join(map(_symbol, symbols)))
        self._put_section(".dynstr", self._old(".dynstr"), self.strings.contents)
        self._put_section(".gnu.version", struct.pack(f"<{len(versions)}H", *versions))
        self._put_section(".gnu.version_r", self.needed)
        self._change(".gnu.version_r", info=self.needed_files)
        self._put_section(".gnu.hash", _moved_hash(self._bytes(".gnu.hash"), len(imports)))
        numbers = {symbol.name: number for number, symbol in enumerate(symbols)}
        old = b"".join(
            RELOCATION.pack(at, info + (len(imports) << 32 if info >> 32 >= first else 0), addend)
            for at, info, addend in RELOCATION.iter_unpack(self._bytes(".rela.dyn"))
        )
        new = b"".join(
            RELOCATION.pack(one.address, one.type | (numbers[one.name] << 32 if one.name else 0), one.addend)
            for one in self.relocated.dynamic
        )
        self._put_section(".rela.dyn", old, new)

    def _present(self, symbol: Symbol) -> Symbol:
        """A symbol of the base image as it is now."""
        moved = {HEAP: (".layer.heap", self.heap_at), FUNCTIONS: (".layer.fvars", self.functions_at)}
        moved[VALUES] = (".layer.gvars", self.values_at)
        if symbol.name not in moved or symbol.section == relocate.UNDEFINED:
            return symbol
        section, value = moved[symbol.name]
        length = self.sections[self._number(section)].size if symbol.size else 0
        return symbol._replace(section=self._number(section), value=value, size=length)

    def _fill_code(self) -> None:
        for name, address in self.places.items():
            if name in self.relocated.groups and self.layout.groups[name].flags & ALLOC:
                self._put(address, self.relocated.groups[name])
        if self.relocated.stubs:
            self._put(self.stubs_at, self.relocated.stubs)
        if self.relocated.slots:
            self._put(self.slots_at, self.relocated.slots)

    def _fill_unloaded(self) -> None:
        """What debuggers and stack traces read. Each section begins with a page, to be shared between files."""
        symtab = self.base.section(".symtab")
        local = symtab.info * SYMBOL.size
        strings = self.base.section(".strtab").size
        new: list[bytes] = []
        for unit, one in enumerate(self.objects):
            new += self._symbols_of(unit, one, strings)
            strings += len(one.strings)
        fresh: dict[str, list[Piece]] = {
            ".symtab": [
                Range(self.base.path, symtab.offset, local),
                *new,
                b"".join(_symbol(self._present(one)) for one in self.base.globals),
            ],
            ".strtab": [self._old(".strtab"), *(one.strings for one in self.objects)],
        }
        self._change(".symtab", info=symtab.info + len(new))
        for name in self.layout.debug:
            if all(one.name != name for one in self.sections):
                flags = self.layout.groups[name].flags
                self.sections.append(Section(name, PROGBITS, flags, 0, 0, 0, 0, 0, 1, int(bool(flags & MERGE))))
                fresh[name] = [self.relocated.groups[name]]
            else:
                fresh[name] = [self._old(name), self.relocated.groups[name]]
        names = _Strings(self.base.section(".shstrtab").size)
        self.section_names = [names.add(one.name) for one in self.sections[len(self.base.sections) :]]
        fresh[".shstrtab"] = [self._old(".shstrtab"), names.contents]
        last = self.regions[-1]
        position = last.offset + last.used
        for number, section in enumerate(self.sections):
            if section.flags & ALLOC or section.type in (0, NOBITS):
                continue
            pieces = fresh.get(section.name) or [Range(self.base.path, section.offset, section.size)]
            position = align(position, PAGE)
            self.sections[number] = section._replace(offset=position, size=size(pieces))
            self.writes.append((position, pieces))
            position += size(pieces)
        self.section_headers_at = align(position, 8)

    def _symbols_of(self, unit: int, one: ObjectFile, strings: int) -> list[bytes]:
        """Entries for the symbols of an object, as local ones: nobody else refers to them."""
        found = []
        for symbol in one.symbols[1:]:
            place = self.layout.group_of(unit, symbol.section)
            if place is None or place not in self.places or not self.layout.groups[place].flags & ALLOC:
                continue
            if symbol.type in (relocate.SECTION, relocate.FILE):
                continue
            value = self.layout.symbol_value(unit, symbol, self.places)
            assert value is not None
            number = self._number(f".layer{place}")
            placed = (symbol.name_offset + strings, symbol.type, symbol.other, number, value, symbol.size)
            found.append(SYMBOL.pack(*placed))
        return found

    def _fill_headers(self) -> None:
        base = self.base
        slots = base.slots_address + 8 * (self.contents.gvars - self.gvars)
        bss = base.section(".bss")
        if bss.address + bss.size == base.data.address + base.data.memory:
            self._change(".bss", size=slots - bss.address)
        segments: list[Segment] = []
        frame_header = self.sections[self._number(".eh_frame_hdr")]
        count = len(base.segments) + len(self.regions)
        for one in base.segments:
            if one.type == PROGRAM_HEADERS:
                length = PROGRAM_HEADER.size * count
                one = one._replace(offset=self._offset(self.headers_at), address=self.headers_at)
                one = one._replace(size=length, memory=length)
            elif one.type == FRAME_HEADER:
                one = one._replace(offset=frame_header.offset, address=frame_header.address)
                one = one._replace(size=frame_header.size, memory=frame_header.size)
            is_last = one == base.data
            segments.append(one._replace(memory=slots - one.address) if is_last else one)
            if is_last:
                segments += [
                    Segment(LOAD, new.flags, new.offset, new.address, new.used, new.used, PAGE) for new in self.regions
                ]
        self._put(self.headers_at, b"".join(map(_program_header, segments)))
        dynamic = b"".join(struct.pack("<QQ", tag, self._dynamic_value(tag, value)) for tag, value in base.dynamic)
        self._patch(base.section(".dynamic").address, dynamic)
        names = [*self._old_section_names(), *self.section_names]
        headers = [SECTION_HEADER.pack(name, *section[1:]) for name, section in zip(names, self.sections, strict=True)]
        self.writes.append((self.section_headers_at, headers))
        with base.path.open("rb") as file:
            words = list(HEADER.unpack(file.read(HEADER.size)))
        words[5], words[6] = self._offset(self.headers_at), self.section_headers_at
        words[10], words[12] = len(segments), len(headers)
        self.writes.append((0, [HEADER.pack(*words)]))

    def _dynamic_value(self, tag: int, value: int) -> int:
        by_address = {
            DT_GNU_HASH: ".gnu.hash",
            DT_SYMTAB: ".dynsym",
            DT_STRTAB: ".dynstr",
            DT_VERSYM: ".gnu.version",
            DT_VERNEED: ".gnu.version_r",
            DT_RELA: ".rela.dyn",
        }
        by_size = {DT_STRSZ: ".dynstr", DT_RELASZ: ".rela.dyn"}
        if tag in by_address:
            return self.sections[self._number(by_address[tag])].address
        if tag in by_size:
            return self.sections[self._number(by_size[tag])].size
        return self.needed_files if tag == DT_VERNEEDNUM else value

    def _old_section_names(self) -> list[int]:
        section = self.base.section(".shstrtab")
        with self.base.path.open("rb") as file:
            file.seek(section.offset)
            table = file.read(section.size)
        return [table.index(one.name.encode() + b"\0") for one in self.base.sections]

    def _old(self, name: str) -> Range:
        section = self.base.section(name)
        return Range(self.base.path, section.offset, section.size)

    def _bytes(self, name: str) -> bytes:
        section = self.base.section(name)
        return self._read(section.address, section.size)

    def _put_section(self, name: str, *pieces: Piece) -> None:
        self._put(self.sections[self._number(name)].address, *pieces)


def _offsets(values: Sequence[int]) -> bytes:
    return struct.pack(f"<{len(values)}i", *values)


def _symbol(symbol: Symbol) -> bytes:
    return SYMBOL.pack(*symbol[1:])


def _program_header(one: Segment) -> bytes:
    addresses = (one.address, one.address)
    return PROGRAM_HEADER.pack(one.type, one.flags, one.offset, *addresses, one.size, one.memory, one.alignment)


def _moved_hash(table: bytes, by: int) -> bytes:
    """A GNU hash table for the same symbols with numbers that are higher.

    It has four words (buckets, the first symbol in it, words of the filter, shift), the filter, the buckets with the
    number of each chain's first symbol, and the chains.
    """
    buckets, first, words, shift = struct.unpack_from("<4I", table)
    begin = 16 + 8 * words
    end = begin + 4 * buckets
    numbers = [number + by if number else 0 for number in struct.unpack_from(f"<{buckets}I", table, begin)]
    head = struct.pack("<4I", buckets, first + by, words, shift)
    return head + table[16:begin] + struct.pack(f"<{buckets}I", *numbers) + table[end:]


def _hash(name: str) -> int:
    """The hash of a version's name (System V ABI)."""
    value = 0
    for byte in name.encode():
        value = (value << 4) + byte
        high = value & 0xF0000000
        value = (value ^ high >> 24) & ~high
    return value & 0xFFFFFFFF
