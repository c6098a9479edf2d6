"""A linked image as a ground to build on: what has to be known of it so that no linker is needed for what is added.

It is found out once, when the base image is made, and kept with it. All that is loaded of such an image stays at its
place in memory and in the file; what grows (symbols, relocations, tables, the heap) is written anew behind it.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import IO, Any, NamedTuple

from .elf import RELOCATION, SYMBOL
from .pieces import Piece, Range
from .relocate import ALLOC, NOBITS, UNDEFINED, NeedsLinker, Section, Symbol, align

LOAD, PROGRAM_HEADERS, FRAME_HEADER = 1, 6, 0x6474E550
"""Types of segments."""
READABLE, WRITABLE, EXECUTABLE = 4, 2, 1

DT_NEEDED = 1

PAGE = 4096

ROOM_FOR_SLOTS = 1 << 24
"""Bytes of address space behind the image that new slots for values may take: two million, on no disk."""

FRAME_TABLE = struct.Struct("<BBBBiI")
"""`.eh_frame_hdr` before its table: version, three encodings, where `.eh_frame` is, how many entries."""
FRAME_ENCODINGS = (1, 0x1B, 0x03, 0x3B)
"""PC-relative, unsigned, relative to the header; 32 bits each: what all linkers write (LSB, exception frames)."""

NEEDED_FILE, NEEDED_NAME = struct.Struct("<HHIII"), struct.Struct("<IHHII")


class Segment(NamedTuple):
    """A program header. The physical address is not kept: it is the same."""

    type: int
    flags: int
    offset: int
    address: int
    size: int
    memory: int
    alignment: int


class NeededVersion(NamedTuple):
    """A version of another library's symbols."""

    file: str
    name: str
    flags: int
    number: int
    """By which symbols refer to it."""


@dataclass(frozen=True)
class Prelinked:
    """A linked image.

    `read` raises NeedsLinker when it is laid out in a way that can't be built on.
    """

    path: Path
    sections: tuple[Section, ...]
    """Those that are not loaded may lie elsewhere in `path` than a linker had put them."""
    segments: tuple[Segment, ...]
    dynamic: tuple[tuple[int, int], ...]
    """Tags and values of the dynamic section."""
    symbols: tuple[Symbol, ...]
    """Of `.dynsym`."""
    versions: tuple[int, ...]
    """Of each of those symbols."""
    needed: tuple[NeededVersion, ...]
    libraries: tuple[str, ...]
    """Names of those that are loaded with it."""
    globals: tuple[Symbol, ...]
    """Of `.symtab`, behind the local ones."""
    frames: Piece
    """The search table of stack frames, relative to `frames_address`."""

    @classmethod
    def read(cls, path: Path) -> Prelinked:
        """Finds out what there is to know of a linker's output."""
        try:
            return cls._read(path)
        except NeedsLinker:
            raise
        except Exception as error:  # pyelftools checks little of what it reads
            raise NeedsLinker(f"{path.name} can't be read ({error})") from error

    @classmethod
    def _read(cls, path: Path) -> Prelinked:
        from elftools.elf.elffile import ELFFile

        with path.open("rb") as file:
            elf = ELFFile(file)
            sections = tuple(_section(one.name, one.header) for one in elf.iter_sections())
            segments = tuple(_segment(one) for one in _program_headers(elf))
            data = {
                section.name: _contents(file, section)
                for section in sections
                if section.type != NOBITS and section.size < ROOM_FOR_SLOTS
            }
        if missing := {".dynamic", ".dynsym", ".dynstr", ".gnu.hash", ".rela.dyn", ".eh_frame_hdr", ".symtab"} - {
            *data
        }:
            raise NeedsLinker(f"{path.name} has no section {min(missing)}")
        if ".hash" in data or ".gnu.version" not in data:
            raise NeedsLinker(f"{path.name} has an unusual symbol table")
        dynamic = tuple((tag, value) for tag, value in struct.iter_unpack("<QQ", data[".dynamic"]))
        (symtab,) = [one for one in sections if one.name == ".symtab"]
        made = cls(
            path=path,
            sections=sections,
            segments=segments,
            dynamic=dynamic,
            symbols=_symbols(data[".dynsym"], data[".dynstr"]),
            versions=tuple(word for (word,) in struct.iter_unpack("<H", data[".gnu.version"])),
            needed=tuple(_needed(data.get(".gnu.version_r", b""), data[".dynstr"])),
            libraries=tuple(_string(data[".dynstr"], value) for tag, value in dynamic if tag == DT_NEEDED),
            globals=_symbols(data[".symtab"][symtab.info * SYMBOL.size :], data[".strtab"]),
            frames=b"",
        )
        made._check(data.get(".rela.plt", b""), struct.unpack_from("<I", data[".gnu.hash"], 4)[0])
        moved = made.section(".eh_frame_hdr").address - made.frames_address
        return replace(made, frames=_moved_table(data[".eh_frame_hdr"], moved))

    @property
    def data(self) -> Segment:
        """The segment that is last in memory; slots for new values come behind it."""
        return [one for one in self.segments if one.type == LOAD][-1]

    @property
    def slots_address(self) -> int:
        """Where slots for new values begin in memory."""
        return align(self.data.address + self.data.memory, 8)

    @property
    def frames_address(self) -> int:
        """Where everything else that is new begins in memory, first of all the search table of stack frames."""
        return align(self.slots_address + ROOM_FOR_SLOTS, PAGE)

    @property
    def loaded_end(self) -> int:
        """Where in the file that ends which is loaded."""
        return max(one.offset + one.size for one in self.segments if one.type == LOAD)

    @cached_property
    def exports(self) -> Mapping[str, int]:
        """Addresses of the symbols that the loader finds."""
        return {one.name: one.value for one in self.symbols if one.section != UNDEFINED}

    @cached_property
    def imports(self) -> frozenset[str]:
        """Names that it has from other libraries."""
        return frozenset(one.name for one in self.symbols if one.section == UNDEFINED and one.name)

    @property
    def hashed_from(self) -> int:
        """How many symbols come before the first that others can find."""
        return next((n for n, one in enumerate(self.symbols) if n and one.section != UNDEFINED), len(self.symbols))

    def section(self, name: str) -> Section:
        """A section that is there."""
        return next(one for one in self.sections if one.name == name)

    def offset(self, address: int) -> int:
        """Where in the file the byte for an address is. Raises NeedsLinker where there is none."""
        for one in self.segments:
            if one.type == LOAD and one.address <= address < one.address + one.size:
                return one.offset + address - one.address
        raise NeedsLinker(f"nothing in {self.path.name} is loaded at {address:#x}")

    def range(self, address: int, length: int) -> Range:
        """What is loaded at an address."""
        return Range(self.path, self.offset(address), length)

    def write(self, path: Path) -> None:
        """Keeps it, all but the image itself."""
        assert isinstance(self.frames, Range)
        words = {name: value for name, value in vars(self).items() if name in self.__dataclass_fields__}
        words.update(path=None, frames=(self.frames.offset, self.frames.length))
        path.write_text(json.dumps(words))

    @classmethod
    def kept(cls, path: Path, image: Path) -> Prelinked:
        """What `write` kept, for the image at its place."""
        words = json.loads(path.read_text())
        return cls(
            path=image,
            sections=tuple(Section(*one) for one in words["sections"]),
            segments=tuple(Segment(*one) for one in words["segments"]),
            dynamic=tuple((tag, value) for tag, value in words["dynamic"]),
            symbols=tuple(Symbol(*one) for one in words["symbols"]),
            versions=tuple(words["versions"]),
            needed=tuple(NeededVersion(*one) for one in words["needed"]),
            libraries=tuple(words["libraries"]),
            globals=tuple(Symbol(*one) for one in words["globals"]),
            frames=Range(image, *words["frames"]),
        )

    def _check(self, plt: bytes, hashed: int) -> None:
        """`hashed` is the first symbol of the hash table."""
        loaded = [one for one in self.segments if one.type == LOAD]
        if not loaded or loaded != sorted(loaded, key=lambda one: one.address) or not self.data.flags & WRITABLE:
            raise NeedsLinker(f"{self.path.name} has its segments in an unusual order")
        first = self.hashed_from
        if hashed != first or any(one.section == UNDEFINED for one in self.symbols[first:]):
            raise NeedsLinker(f"{self.path.name} has its symbols in an unusual order")
        if any(info >> 32 >= first for _, info, _ in RELOCATION.iter_unpack(plt)):
            raise NeedsLinker(f"{self.path.name} calls its own functions by name")
        placed = [one for one in self.sections if not one.flags & ALLOC and one.type not in (0, NOBITS)]
        if any(one.offset < self.loaded_end for one in placed if one.size):
            raise NeedsLinker(f"{self.path.name} has what is not loaded before what is")


def library_names(libraries: Iterable[Path]) -> dict[str, tuple[str, str | None]]:
    """What libraries offer a linker: for each name, the library (its DT_SONAME) and the version to ask it for.

    Of several libraries with a name, the first has it. Raises NeedsLinker when one can't be read.
    """
    found: dict[str, tuple[str, str | None]] = {}
    for path in libraries:
        try:
            _add_names(found, path)
        except Exception as error:  # pyelftools checks little of what it reads
            raise NeedsLinker(f"the library {path.name} can't be read ({error})") from error
    return found


def _add_names(found: dict[str, tuple[str, str | None]], path: Path) -> None:
    from elftools.elf.elffile import ELFFile

    with path.open("rb") as file:
        elf: Any = ELFFile(file)
        dynamic = elf.get_section_by_name(".dynamic")
        (name,) = [tag.soname for tag in dynamic.iter_tags("DT_SONAME")]
        versions, definitions = elf.get_section_by_name(".gnu.version"), elf.get_section_by_name(".gnu.version_d")
        names = {}
        for version, auxiliary in definitions.iter_versions() if definitions else ():
            names[version["vd_ndx"]] = next(auxiliary).name
        for number, symbol in enumerate(elf.get_section_by_name(".dynsym").iter_symbols()):
            if symbol["st_shndx"] == "SHN_UNDEF" or symbol["st_info"]["bind"] not in ("STB_GLOBAL", "STB_WEAK"):
                continue
            if symbol["st_info"]["type"] == "STT_TLS":
                continue
            index: Any = versions.get_symbol(number)["ndx"] if versions else 1
            index = {"VER_NDX_LOCAL": 0, "VER_NDX_GLOBAL": 1}.get(index, index)
            if index and not index & 0x8000:  # neither local nor an old version
                found.setdefault(symbol.name, (name, names[index] if index > 1 else None))


def _program_headers(elf: Any) -> Iterable[Mapping[str, int]]:
    """With types as numbers, which pyelftools gives as names."""
    from elftools.elf.enums import ENUM_P_TYPE_BASE

    for one in elf.iter_segments():
        yield {**one.header, "p_type": ENUM_P_TYPE_BASE.get(one["p_type"], one["p_type"])}


def _segment(header: Mapping[str, int]) -> Segment:
    names = ("p_type", "p_flags", "p_offset", "p_vaddr", "p_filesz", "p_memsz", "p_align")
    return Segment(*(int(header[name]) for name in names))


def _section(name: str, header: Mapping[str, Any]) -> Section:
    from elftools.elf.enums import ENUM_SH_TYPE_AMD64

    names = ("flags", "addr", "offset", "size", "link", "info", "addralign", "entsize")
    type_ = ENUM_SH_TYPE_AMD64.get(header["sh_type"], header["sh_type"])
    return Section(name, int(type_), *(int(header[f"sh_{one}"]) for one in names))


def _contents(file: IO[bytes], section: Section) -> bytes:
    file.seek(section.offset)
    return file.read(section.size)


def _symbols(table: bytes, strings: bytes) -> tuple[Symbol, ...]:
    return tuple(
        Symbol(_string(strings, name), name, info, other, at, value, size)
        for name, info, other, at, value, size in SYMBOL.iter_unpack(table)
    )


def _needed(table: bytes, strings: bytes) -> Iterable[NeededVersion]:
    file_at, more = 0, bool(table)
    while more:
        _, count, file, first, following = NEEDED_FILE.unpack_from(table, file_at)
        at = file_at + first
        for _ in range(count):
            _, flags, index, name, step = NEEDED_NAME.unpack_from(table, at)
            yield NeededVersion(_string(strings, file), _string(strings, name), flags, index)
            at += step
        file_at, more = file_at + following, following > 0


def _string(table: bytes, offset: int) -> str:
    return table[offset : table.index(b"\0", offset)].decode()


def _moved_table(header: bytes, by: int) -> bytes:
    """The search table of `.eh_frame_hdr` for a header that stands elsewhere."""
    *encodings, _, count = FRAME_TABLE.unpack_from(header)
    words = struct.unpack_from(f"<{2 * count}i", header, FRAME_TABLE.size)
    if tuple(encodings) != FRAME_ENCODINGS or list(words[::2]) != sorted(words[::2]):
        raise NeedsLinker("the search table of stack frames has an unusual form")
    return struct.pack(f"<{2 * count}i", *(word + by for word in words))
