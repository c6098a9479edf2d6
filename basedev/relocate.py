"""New object files laid out behind an image that is linked already, and relocated for their place there.

Does what a linker does with the output of LLVM 9 for x86-64, and no more: anything else is refused with its reason, and
left to a linker. Relocations, their formulas and limits: System V ABI, AMD64 supplement, table 4.9.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from .elf import LARGEST_ALIGNMENT, RELOCATION, SECTION_HEADER, SYMBOL

NONE, ABS64, PC32, PLT32, GLOB_DAT, RELATIVE, GOTPCREL, ABS32, PC64 = 0, 1, 2, 4, 6, 8, 9, 10, 24
GOTPCRELX, REX_GOTPCRELX = 41, 42
FROM_GOT = (GOTPCREL, GOTPCRELX, REX_GOTPCRELX)
"""Numbers of relocations, without R_X86_64_. LLVM 9 emits 64, PC32, PLT32 and GOTPCREL for code and data, 64 and 32 for
debug information; the newer assembler that tests use, GOTPCRELX too."""

PROGBITS, SYMTAB, STRTAB, RELA, NOBITS, X86_64_UNWIND = 1, 2, 3, 4, 8, 0x70000001
WRITE, ALLOC, EXECUTE, MERGE, STRINGS = 1, 2, 4, 0x10, 0x20
INFO_LINK, GROUP = 0x40, 0x200
UNDEFINED, COMMON = 0, 0xFFF2
LOCAL, GLOBAL, WEAK = 0, 1, 2
OBJECT, FUNCTION, SECTION, FILE = 1, 2, 3, 4

TEXT, RODATA, FRAMES, DATA, BSS = ".text", ".rodata", ".eh_frame", ".data", ".bss"
"""The groups of sections that are loaded. Debug information has one for each name."""

MOST_ZEROS = 1 << 28

STUB = b"\xff\x25"
"""`jmp *offset(%rip)`, before its offset; with padding, 16 bytes."""
STUB_SIZE, SLOT_SIZE = 16, 8

HEADER = struct.Struct("<16sHHIQQQIHHHHHH")


class NeedsLinker(Exception):
    """What only a linker can do. `str()` is the reason, one line."""


class Section(NamedTuple):
    """A section's header."""

    name: str
    type: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    info: int
    alignment: int
    entry_size: int


class Symbol(NamedTuple):
    """An entry of a symbol table."""

    name: str
    name_offset: int
    info: int
    other: int
    section: int
    value: int
    size: int

    @property
    def binding(self) -> int:
        """LOCAL, GLOBAL or WEAK."""
        return self.info >> 4

    @property
    def type(self) -> int:
        """OBJECT, FUNCTION, SECTION and others."""
        return self.info & 15


class ObjectFile:
    """A relocatable object file for x86-64.

    Raises NeedsLinker when it is none, or is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data = path.read_bytes()
        try:
            self._read()
        except (struct.error, IndexError, ValueError, OverflowError) as error:
            raise NeedsLinker(f"{path.name} is no whole object file ({error})") from error

    def _read(self) -> None:
        identity, kind, machine, _, _, _, headers, *_, entry_size, count, names = HEADER.unpack_from(self.data)
        if identity[:6] != b"\x7fELF\x02\x01" or (kind, machine) != (1, 62) or entry_size != SECTION_HEADER.size:
            raise NeedsLinker(f"{self.path.name} is no object file for x86-64")
        if headers + count * entry_size > len(self.data) or not count:
            raise ValueError("no section headers")
        raw = [SECTION_HEADER.unpack_from(self.data, headers + n * entry_size) for n in range(count)]
        for _, type_, _, _, offset, size, *_ in raw:
            if type_ != NOBITS and offset + size > len(self.data):
                raise ValueError("a section behind its end")
        name_table = self._bytes(raw[names][4], raw[names][5])
        self.sections = [Section(_string(name_table, one[0]), *one[1:]) for one in raw]
        self.symbols: list[Symbol] = []
        self.strings = b""
        for section in self.sections:
            if section.type == SYMTAB:
                self.strings = self.contents(self.sections[section.link])
                for name, info, other, at, value, size in SYMBOL.iter_unpack(self.contents(section)):
                    self.symbols.append(Symbol(_string(self.strings, name), name, info, other, at, value, size))

    def contents(self, section: Section) -> bytes:
        """The bytes of a section that has some."""
        return self._bytes(section.offset, section.size)

    def _bytes(self, offset: int, size: int) -> bytes:
        return self.data[offset : offset + size]

    def relocations(self) -> Iterator[tuple[int, bytes]]:
        """The numbers of sections and their relocations, 24 bytes each."""
        for section in self.sections:
            if section.type == RELA:
                if section.info >= len(self.sections) or section.size % RELOCATION.size:
                    raise NeedsLinker(f"{self.path.name}: relocations of no section")
                yield section.info, self.contents(section)


def _string(table: bytes, offset: int) -> str:
    return table[offset : table.index(b"\0", offset)].decode("utf-8", "surrogateescape")


@dataclass
class Group:
    """Sections of one kind, one behind the other."""

    flags: int
    members: list[tuple[int, int, int]] = field(default_factory=list)
    """(number of the object, number of its section, offset in the group)"""
    size: int = 0
    alignment: int = 1

    def add(self, unit: int, number: int, section: Section) -> None:
        """Adds a section at the end."""
        alignment = max(section.alignment, 1)
        offset = align(self.size, alignment)
        self.members.append((unit, number, offset))
        self.size, self.alignment = offset + section.size, max(self.alignment, alignment)


class DynamicRelocation(NamedTuple):
    """What the dynamic loader is to write at an address."""

    address: int
    type: int
    name: str | None
    """The imported symbol, if there is one."""
    addend: int


@dataclass(frozen=True)
class Relocated:
    """Objects' contents for the place that they were given."""

    groups: Mapping[str, bytes]
    """By the names of groups, without BSS."""
    stubs: bytes
    slots: bytes
    dynamic: Sequence[DynamicRelocation]


class Layout:
    """Objects laid out in groups, with what they need besides: slots for addresses (a GOT), and stubs for calls of what
    another library has (a PLT).

    Raises NeedsLinker when they have something that is not known here.
    """

    def __init__(
        self, objects: Sequence[ObjectFile], resolve: Callable[[str], int | None], imported: Callable[[str], bool]
    ) -> None:
        """`resolve` gives the address of a symbol that the image has, `imported` tells whether a library has it."""
        self.objects = objects
        self.groups: dict[str, Group] = {}
        self.slots: dict[str | tuple[int, int], int] = {}
        """What has a slot, by name or as (object, symbol), and the slot's number."""
        self.stubs: dict[str, int] = {}
        self.imports: list[str] = []
        """Names that other libraries have."""
        self.definitions: dict[str, tuple[int, Symbol]] = {}
        self._resolve = resolve
        self._absolute: dict[str, int] = {}
        self._writes = 0
        for unit, one in enumerate(objects):
            self._place(unit, one)
        self._find_names(imported)
        for unit, one in enumerate(objects):
            self._scan(unit, one)

    @property
    def dynamic_relocations(self) -> int:
        """How many relocations are left to the dynamic loader."""
        return self._writes + len(self.slots)

    @property
    def debug(self) -> list[str]:
        """The names of groups that are not loaded."""
        return [name for name, group in self.groups.items() if not group.flags & ALLOC]

    def group_of(self, unit: int, section: int) -> str | None:
        """The group that a section of an object is in."""
        return self._where.get((unit, section), (None,))[0]

    @property
    def frames(self) -> int:
        """How many functions have a description of their stack frames."""
        return len(self.frame_table({FRAMES: self._unrelocated_frames()}, {FRAMES: 0}))

    def frame_table(self, contents: Mapping[str, bytes], places: Mapping[str, int]) -> list[tuple[int, int]]:
        """What the search table of stack frames has, by address: see `frame_descriptions`."""
        found = []
        for unit, number, offset in self.groups[FRAMES].members if FRAMES in self.groups else ():
            part = contents[FRAMES][offset : offset + self.objects[unit].sections[number].size]
            found += frame_descriptions(part, places[FRAMES] + offset)
        return sorted(found)

    def symbol_value(self, unit: int, symbol: Symbol, places: Mapping[str, int]) -> int | None:
        """Where a symbol of an object is when the groups are at `places`; None for what is elsewhere."""
        found = self._where.get((unit, symbol.section))
        return None if found is None else places[found[0]] + found[1] + symbol.value

    def address(self, name: str, places: Mapping[str, int]) -> int:
        """Where a symbol is that an object defines. Raises NeedsLinker when none does."""
        found = self.definitions.get(name)
        value = self.symbol_value(*found, places) if found else None
        if value is None:
            raise NeedsLinker(f"no object has {name}")
        return value

    def relocate(self, places: Mapping[str, int], stubs_at: int, slots_at: int) -> Relocated:
        """The contents of groups at `places`: addresses, and for those that are not loaded, offsets in their section.

        Raises NeedsLinker when something is out of reach.
        """
        contents = {name: bytearray(group.size) for name, group in self.groups.items() if name != BSS}
        dynamic: list[DynamicRelocation] = []
        for unit, one in enumerate(self.objects):
            values = [self._value(unit, symbol, places) for symbol in one.symbols]
            for number, section in enumerate(one.sections):
                if (unit, number) in self._where and section.type != NOBITS:
                    name, offset = self._where[unit, number]
                    contents[name][offset : offset + section.size] = one.contents(section)
            for number, relocations in one.relocations():
                if (unit, number) in self._where:
                    self._apply(unit, number, relocations, values, contents, places, stubs_at, slots_at, dynamic)
        slots = bytearray(SLOT_SIZE * len(self.slots))
        for what, number in self.slots.items():
            at = slots_at + SLOT_SIZE * number
            if isinstance(what, str):
                value = self._address_of_name(what, places)
            else:
                value = self._value(what[0], self.objects[what[0]].symbols[what[1]], places)
            if value is None:
                if not isinstance(what, str) or what not in self.imports:
                    raise NeedsLinker(f"the address of {what}, which is left out")
                dynamic.append(DynamicRelocation(at, GLOB_DAT, what, 0))
            else:
                if not 0 <= value < 1 << 64:
                    raise NeedsLinker("an address out of reach")
                dynamic.append(DynamicRelocation(at, RELATIVE, None, value))
                struct.pack_into("<Q", slots, SLOT_SIZE * number, value)
        stubs = b""
        for number, name in enumerate(self.stubs):
            at = stubs_at + STUB_SIZE * number
            target = slots_at + SLOT_SIZE * self.slots[name]
            stubs += (STUB + _signed(target - (at + len(STUB) + 4))).ljust(STUB_SIZE, b"\xcc")
        assert len(dynamic) == self.dynamic_relocations
        return Relocated({name: bytes(made) for name, made in contents.items()}, stubs, bytes(slots), dynamic)

    def _unrelocated_frames(self) -> bytes:
        made = b""
        for unit, number, offset in self.groups[FRAMES].members if FRAMES in self.groups else ():
            one = self.objects[unit]
            made = made.ljust(offset, b"\0") + one.contents(one.sections[number])
        return made

    def _place(self, unit: int, one: ObjectFile) -> None:
        for number, section in enumerate(one.sections):
            name = _group_of(one, section)
            if name is not None and section.size:
                self.groups.setdefault(name, Group(section.flags & (ALLOC | WRITE | EXECUTE | MERGE | STRINGS)))
                self.groups[name].add(unit, number, section)

    def _find_names(self, imported: Callable[[str], bool]) -> None:
        self._where = {
            (unit, number): (name, offset)
            for name, group in self.groups.items()
            for unit, number, offset in group.members
        }
        for unit, one in enumerate(self.objects):
            for symbol in one.symbols[1:]:
                if symbol.section == COMMON or symbol.type not in (0, OBJECT, FUNCTION, SECTION, FILE):
                    raise NeedsLinker(f"{symbol.name} is a symbol of an unusual kind")
                if symbol.binding == LOCAL or symbol.section == UNDEFINED:
                    continue
                known = self.definitions.get(symbol.name)
                if known and WEAK not in (known[1].binding, symbol.binding):
                    raise NeedsLinker(f"{symbol.name} is defined twice")
                if not known or known[1].binding == WEAK:
                    self.definitions[symbol.name] = (unit, symbol)
        for one in self.objects:
            for symbol in one.symbols[1:]:
                name = symbol.name
                if symbol.section != UNDEFINED or name in self.definitions or name in self._absolute:
                    continue
                if (value := self._resolve(name)) is not None:
                    self._absolute[name] = value
                elif symbol.binding == GLOBAL and not symbol.other & 3 and name not in self.imports and imported(name):
                    self.imports.append(name)

    def _scan(self, unit: int, one: ObjectFile) -> None:
        """Finds out which slots and stubs are needed, and refuses what is not known."""
        outside = set(self.imports)
        for number, relocations in one.relocations():
            if (unit, number) not in self._where:
                continue
            if one.sections[number].type == NOBITS and relocations:
                raise NeedsLinker(f"{one.path.name} has a relocation where nothing is written")
            group = self.groups[self._where[unit, number][0]]
            for offset, info, _ in RELOCATION.iter_unpack(relocations):
                kind, index = info & 0xFFFFFFFF, info >> 32
                if index >= len(one.symbols):
                    raise NeedsLinker(f"{one.path.name} has a relocation for no symbol")
                symbol = one.symbols[index]
                if offset + (8 if kind in (ABS64, PC64) else 4) > one.sections[number].size and kind != NONE:
                    raise NeedsLinker(f"{one.path.name} has a relocation outside its section")
                elsewhere = symbol.section == UNDEFINED and symbol.name in outside
                if kind == NONE:
                    continue
                named = elsewhere or symbol.name in self.definitions or symbol.name in self._absolute
                if symbol.section == UNDEFINED and not named:
                    raise NeedsLinker(f"{symbol.name} is in no library that is known")
                if symbol.section != UNDEFINED and (unit, symbol.section) not in self._where:
                    raise NeedsLinker(f"a relocation for {symbol.name or 'a section'}, which is left out")
                if not group.flags & ALLOC:
                    if kind not in (ABS64, ABS32) or elsewhere:
                        raise NeedsLinker(f"debug information has a relocation of type {kind} for {symbol.name}")
                elif kind in FROM_GOT:
                    self._slot(unit, index, symbol)
                elif kind == ABS64:
                    if not group.flags & WRITE:
                        raise NeedsLinker(f"the address of {symbol.name} stands in what is read-only")
                    self._writes += 1
                elif kind not in (PC32, PLT32, PC64):
                    raise NeedsLinker(f"a relocation of type {kind}")
                elif elsewhere:
                    if kind != PLT32:
                        raise NeedsLinker(f"{symbol.name} of another library is read directly")
                    self.stubs.setdefault(symbol.name, len(self.stubs))
                    self._slot(unit, index, symbol)

    def _slot(self, unit: int, index: int, symbol: Symbol) -> None:
        key = (unit, index) if symbol.binding == LOCAL else symbol.name
        self.slots.setdefault(key, len(self.slots))

    def _value(self, unit: int, symbol: Symbol, places: Mapping[str, int]) -> int | None:
        if symbol.section == UNDEFINED or symbol.binding == WEAK:
            return self._address_of_name(symbol.name, places) if symbol.name not in self.imports else None
        return self.symbol_value(unit, symbol, places)

    def _address_of_name(self, name: str, places: Mapping[str, int]) -> int | None:
        if name in self.definitions:
            return self.symbol_value(*self.definitions[name], places)
        return self._absolute.get(name)

    def _apply(
        self,
        unit: int,
        number: int,
        relocations: bytes,
        values: Sequence[int | None],
        contents: Mapping[str, bytearray],
        places: Mapping[str, int],
        stubs_at: int,
        slots_at: int,
        dynamic: list[DynamicRelocation],
    ) -> None:
        one = self.objects[unit]
        name, begin = self._where[unit, number]
        made, at, loaded = contents[name], places[name], self.groups[name].flags & ALLOC
        for where, info, addend in RELOCATION.iter_unpack(relocations):
            kind, index = info & 0xFFFFFFFF, info >> 32
            if kind == NONE:
                continue
            offset, value = begin + where, values[index]
            if kind in FROM_GOT:
                symbol = one.symbols[index]
                key = (unit, index) if symbol.binding == LOCAL else symbol.name
                value = slots_at + SLOT_SIZE * self.slots[key]
                made[offset : offset + 4] = _signed(value + addend - (at + offset))
            elif kind == ABS64 and loaded and value is None and one.symbols[index].name in self.imports:
                dynamic.append(DynamicRelocation(at + offset, ABS64, one.symbols[index].name, addend))
            elif kind == PLT32 and value is None and one.symbols[index].name in self.stubs:
                value = stubs_at + STUB_SIZE * self.stubs[one.symbols[index].name]
                made[offset : offset + 4] = _signed(value + addend - (at + offset))
            elif value is None:
                raise NeedsLinker(f"a relocation for {one.symbols[index].name or 'a section'}, which is left out")
            elif kind == ABS64:
                if loaded:
                    dynamic.append(DynamicRelocation(at + offset, RELATIVE, None, value + addend))
                made[offset : offset + 8] = ((value + addend) & 0xFFFFFFFFFFFFFFFF).to_bytes(8, "little")
            elif kind == ABS32:
                if not 0 <= value + addend < 1 << 32:
                    raise NeedsLinker("a relocation out of reach")
                made[offset : offset + 4] = (value + addend).to_bytes(4, "little")
            elif kind == PC64:
                made[offset : offset + 8] = ((value + addend - (at + offset)) & 0xFFFFFFFFFFFFFFFF).to_bytes(
                    8, "little"
                )
            else:
                made[offset : offset + 4] = _signed(value + addend - (at + offset))


def _group_of(one: ObjectFile, section: Section) -> str | None:
    """The group that a section belongs to, None when it is left out."""
    if section.alignment > LARGEST_ALIGNMENT or section.alignment & (section.alignment - 1):
        raise NeedsLinker(f"{one.path.name} has a section {section.name} of unusual alignment")
    if section.type == NOBITS and section.size > MOST_ZEROS:
        raise NeedsLinker(f"{one.path.name} has a section {section.name} of unusual size")
    flags = section.flags & ~(MERGE | STRINGS | INFO_LINK)
    if section.type in (0, SYMTAB, STRTAB, RELA):
        return None
    if section.name == FRAMES and section.type in (PROGBITS, X86_64_UNWIND) and flags == ALLOC:
        return FRAMES
    if section.type == PROGBITS:
        if flags == 0 and section.name.startswith(".debug_"):
            return section.name
        if flags == 0 and section.name in (".comment", ".note.GNU-stack"):
            return None
        by_flags = {ALLOC: RODATA, ALLOC | EXECUTE: TEXT, ALLOC | WRITE: DATA}
        if flags in by_flags:
            return by_flags[flags]
    if section.type == NOBITS and flags == ALLOC | WRITE:
        return BSS
    if section.size == 0 and not section.flags & GROUP:
        return None
    raise NeedsLinker(f"{one.path.name} has a section {section.name} of an unusual kind")


def frame_descriptions(contents: bytes, address: int) -> list[tuple[int, int]]:
    """For each function that relocated `.eh_frame` contents describe, its address and that of its description (FDE).

    The format is that of the LSB's exception frames. Raises NeedsLinker when addresses are encoded in another way than
    as PC-relative 32 bits.
    """
    found: list[tuple[int, int]] = []
    position = 0
    try:
        while position < len(contents):
            length, kind = struct.unpack_from("<II", contents, position)
            if length in (0, 0xFFFFFFFF) or position + 4 + length > len(contents):
                raise NeedsLinker("descriptions of stack frames in an unusual form")
            if kind == 0:
                _check_encoding(contents[position + 8 : position + 4 + length])
            else:
                (begin,) = struct.unpack_from("<i", contents, position + 8)
                found.append((address + position + 8 + begin, address + position))
            position += 4 + length
    except (struct.error, IndexError, ValueError) as error:
        raise NeedsLinker("descriptions of stack frames that are cut short") from error
    return found


def _check_encoding(information: bytes) -> None:
    """`information` is what follows the zero in a CIE: version, augmentation, three numbers, data."""
    end = information.index(0, 1)
    augmentation, position = information[1:end], end + 1
    for _ in range(2):  # factors of code and data
        position = _after_number(information, position)
    position = _after_number(information, position) if information[0] > 1 else position + 1  # the return address
    if augmentation != b"zR" or information[_after_number(information, position)] != 0x1B:
        raise NeedsLinker("descriptions of stack frames in an unusual form")


def _after_number(contents: bytes, position: int) -> int:
    while contents[position] & 0x80:
        position += 1
    return position + 1


def align(position: int, alignment: int) -> int:
    """The next place divisible by `alignment`."""
    return -(-position // alignment) * alignment


def _signed(value: int) -> bytes:
    if not -(1 << 31) <= value < 1 << 31:
        raise NeedsLinker("a relocation out of reach")
    return value.to_bytes(4, "little", signed=True)
