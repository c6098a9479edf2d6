"""Debug information of native code in a form whose line numbers can be changed in place.

LLVM writes each line number in as few bytes as it takes (DWARF 4, sections 6.2 and 7.5). In fixed form, a line of
`.debug_info` has two bytes, and a row of `.debug_line` whose line can come to differ by something else from that of
the row before it has an opcode of its own for that, with three bytes. Rows, addresses and names stay what they were.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path

from .elf import RelocatableObject

ADVANCE_WIDTH = 3
WORD_WIDTH = 2
LAST_LINE = (1 << 8 * WORD_WIDTH) - 1
_NO_LINE = (1 << 32) - 1

_COPY, _ADVANCE_PC, _ADVANCE_LINE, _SET_FILE = 1, 2, 3, 4
_SET_COLUMN, _FIXED_ADVANCE_PC, _SET_ISA = 5, 9, 12
_END_SEQUENCE, _SET_ADDRESS, _SET_DISCRIMINATOR = 1, 2, 4
_DATA2 = 0x05
_SIZES = {0x01: 8, 0x05: 2, 0x06: 4, 0x07: 8, 0x0B: 1, 0x0C: 1, 0x0E: 4, 0x10: 4, 0x11: 1, 0x12: 2, 0x13: 4, 0x14: 8}
_SIZES |= {0x17: 4, 0x19: 0, 0x20: 8}
"""Of forms with a fixed size, in 32-bit DWARF 4 for 64-bit addresses."""
_UDATA, _SDATA, _STRING, _BLOCK1, _BLOCK, _EXPRLOC, _REF4 = 0x0F, 0x0D, 0x08, 0x0A, 0x09, 0x18, 0x13
_FILES = (0x3A, 0x58)
"""DW_AT_decl_file, DW_AT_call_file."""
_LINES = (0x3B, 0x59)
"""DW_AT_decl_line, DW_AT_call_line."""
_STMT_LIST = 0x10
_NAMES = (".debug_gnu_pubnames", ".debug_gnu_pubtypes", ".debug_pubnames", ".debug_pubtypes")


class UnknownDebugInfo(Exception):
    """Debug information of another kind than this module knows. `str()` says what."""


@dataclass
class Lines:
    """Where the line numbers of one source file are."""

    after: list[tuple[int, int]] = field(default_factory=list)
    """(line, place of an advance in `.debug_line`): of the row that it leads to."""
    before: list[tuple[int, int]] = field(default_factory=list)
    """Likewise, of the row that it leads from."""
    words: list[tuple[int, int]] = field(default_factory=list)
    """(line, its place in `.debug_info`)."""


LinesByFile = defaultdict[str, Lines]
"""By the name that methods have of their file."""


def encode_advance(by: int) -> bytes:
    """A signed LEB128 of ADVANCE_WIDTH bytes. Raises UnknownDebugInfo for a number that has no room in it."""
    if not -(1 << 20) <= by < 1 << 20:
        raise UnknownDebugInfo(f"lines {by} apart")
    return bytes((by & 0x7F | 0x80, by >> 7 & 0x7F | 0x80, by >> 14 & 0x7F))


def decode_advance(data: bytes) -> int:
    """What `encode_advance` was given. Raises UnknownDebugInfo for other bytes."""
    if len(data) != ADVANCE_WIDTH or not data[0] & data[1] & 0x80 or data[2] & 0x80:
        raise UnknownDebugInfo("an advance of the line that is not in fixed form")
    number = data[0] & 0x7F | (data[1] & 0x7F) << 7 | data[2] << 14
    return number - (1 << 21) if number & 1 << 20 else number


def _uleb(data: bytes | bytearray, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = data[at]
        number |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return number, at


def _sleb(data: bytes, at: int) -> tuple[int, int]:
    number, end = _uleb(data, at)
    bits = 7 * (end - at)
    return (number - (1 << bits) if data[end - 1] & 0x40 else number), end


def _string(data: bytes, at: int) -> tuple[str, int]:
    end = data.index(0, at)
    return data[at:end].decode(errors="surrogateescape"), end + 1


def _word(data: bytes | bytearray, at: int, size: int = 4) -> int:
    return int.from_bytes(data[at : at + size], "little")


def _line(number: int) -> int:
    """A line number; 0, which is none, for what Julia wrote as -1."""
    return 0 if number in (-1, _NO_LINE) else number


def fix_object(path: Path, places: tuple[int, int], found: LinesByFile) -> tuple[int, int]:
    """Brings the debug information of an object file into fixed form, and adds to `found` where its lines are.

    `places` are where its parts of `.debug_line` and `.debug_info` will begin in the linked image; returns where
    they end there. Lists of names for debuggers, of no use in the runtime, are left out, as they tell of places.

    Raises UnknownDebugInfo, and leaves the file as it was, when it can't be brought into that form.
    """
    try:
        elf = RelocatableObject(path)
        if not elf.has(".debug_line") or not elf.has(".debug_info"):
            raise UnknownDebugInfo(f"{path.name} has no line numbers")
        table = _LineSection(elf.contents(".debug_line"), places[0], found)
        entries = _InfoSection(elf, table, places[1], found)
        for name in _NAMES:
            if elf.has(name):
                elf.set_contents(name, b"")
                elf.set_contents(f".rela{name}", b"")
        targets: dict[str, Callable[[int], int]] = {".debug_line": table.moved, ".debug_info": entries.moved}
        for section in elf.relocated(".debug_"):
            elf.move_relocations(section, targets)
        elf.set_contents(".debug_abbrev", bytes(entries.abbreviations))
        elf.set_contents(".debug_line", bytes(table.data))
        elf.set_contents(".debug_info", bytes(entries.data))
        elf.write()
    except (IndexError, ValueError, KeyError, OverflowError, struct.error) as error:
        raise UnknownDebugInfo(f"the debug information of {path.name} can't be read ({error!r})") from error
    return places[0] + len(table.data), places[1] + len(entries.data)


class _LineSection:
    """`.debug_line` of an object in fixed form."""

    def __init__(self, old: bytes, place: int, found: LinesByFile) -> None:
        self.data = bytearray()
        self.files: dict[int, list[str]] = {}
        """The names in a table of lines, by where it was; the first is number 1."""
        self._old, self._place, self._found = old, place, found
        self._moved: dict[int, int] = {}
        at = 0
        while at < len(old):
            at = self._unit(at)

    def moved(self, place: int) -> int:
        """Where now is what other sections refer to, or an address for the linker to fill in. Raises KeyError."""
        return self._moved[place]

    def _unit(self, begin: int) -> int:
        old, new = self._old, self.data
        length, version = _word(old, begin), _word(old, begin + 4, 2)
        if length >= 0xFFFFFFF0 or version != 4:
            raise UnknownDebugInfo(f"a table of lines of DWARF {version}")
        end, program = begin + 4 + length, begin + 10 + _word(old, begin + 6)
        instruction, operations, _, base, span, first_special = old[begin + 10 : begin + 16]
        if (instruction, operations, first_special) != (1, 1, 13) or not span:
            raise UnknownDebugInfo("a table of lines in another form")
        self.files[begin] = names = list(_file_names(old, begin + 16 + first_special - 1))
        start = self._moved[begin] = len(new)
        new += old[begin:program]
        self._program(program, end, [self._found[name] for name in names], (base ^ 0x80) - 0x80, span)
        new[start : start + 4] = (len(new) - start - 4).to_bytes(4, "little")
        return end

    def _program(self, at: int, end: int, files: list[Lines], base: int, span: int) -> None:
        old, new, place = self._old, self.data, self._place
        file, line, known = 1, 1, 1
        """The registers, and the line as what was written so far has it."""
        row_file = 0
        """The file of the row before, 0 where there is none."""
        while at < end:
            opcode = old[at]
            if opcode == _ADVANCE_LINE:
                by, at = _sleb(old, at + 1)
                line += by
            elif opcode >= 13 or opcode == _COPY:
                advance = 0
                if opcode >= 13:
                    advance, by = divmod(opcode - 13, span)
                    line += base + by
                told = _line(line)
                if told != known or (row_file != file and (told or known)):
                    new.append(_ADVANCE_LINE)
                    if told > 0:
                        files[file - 1].after.append((told, place + len(new)))
                    if row_file and known > 0:
                        files[row_file - 1].before.append((known, place + len(new)))
                    new += encode_advance(told - known)
                if opcode == _COPY:
                    new.append(_COPY)
                elif (same_line := 13 + advance * span - base) < 256:
                    new.append(same_line)
                else:
                    new += bytes((_ADVANCE_PC, advance, _COPY))
                at += 1
                row_file, known = file, told
            elif opcode == 0:
                length, next_at = _uleb(old, at + 1)
                code, next_at = old[next_at], next_at + length
                if code == _END_SEQUENCE:
                    if _line(line) != known:
                        raise UnknownDebugInfo("a line number at the end of a function's lines")
                    file, line, known, row_file = 1, 1, 1, 0
                elif code == _SET_ADDRESS:
                    self._moved[next_at - 8] = len(new) + next_at - 8 - at
                elif code != _SET_DISCRIMINATOR:
                    raise UnknownDebugInfo(f"extended opcode {code} in a table of lines")
                new += old[at:next_at]
                at = next_at
            else:
                next_at = at + 1
                if opcode == _SET_FILE:
                    file, next_at = _uleb(old, next_at)
                elif opcode == _FIXED_ADVANCE_PC:
                    next_at += 2
                elif opcode in (_ADVANCE_PC, _SET_COLUMN, _SET_ISA):
                    next_at = _uleb(old, next_at)[1]
                new += old[at:next_at]
                at = next_at


def _file_names(data: bytes, at: int) -> Iterator[str]:
    directories = [""]
    while data[at]:
        name, at = _string(data, at)
        directories.append(name + "/")
    at += 1
    while data[at]:
        name, at = _string(data, at)
        directory, at = _uleb(data, at)
        at = _uleb(data, _uleb(data, at)[1])[1]
        yield directories[directory] + name


class _Moved:
    """Where bytes of a section are after others were put in or taken out before them."""

    def __init__(self, growth: list[tuple[int, int]]) -> None:
        self._from = [place for place, _ in growth]
        self._by = [0, *accumulate(by for _, by in growth)]

    def __call__(self, place: int) -> int:
        return place + self._by[bisect_right(self._from, place)]


class _InfoSection:
    """`.debug_info` and `.debug_abbrev` of an object in fixed form."""

    def __init__(self, elf: RelocatableObject, table: _LineSection, place: int, found: LinesByFile) -> None:
        self.abbreviations = bytearray(elf.contents(".debug_abbrev"))
        self._plans = self._read_abbreviations()
        self.data = bytearray()
        self._old, self._place, self._found = elf.contents(".debug_info"), place, found
        self._growth: list[tuple[int, int]] = []
        self._references: list[tuple[int, int]] = []
        """The places of references to other entries of a unit, with the unit's."""
        self._tables: dict[int, int] = {}
        """The place of a table of lines, by where that is told."""
        for offset, section, addend in elf.relocations(".debug_info"):
            if section == ".debug_line":
                self._tables[offset] = addend
            elif section == ".debug_abbrev" and addend:
                raise UnknownDebugInfo("several tables of abbreviations")
        at = 0
        while at < len(self._old):
            at = self._unit(at, table)
        self.moved = _Moved(self._growth)
        for reference, unit in self._references:
            target = self.moved(unit + _word(self._old, reference)) - self.moved(unit)
            now = self.moved(reference)
            self.data[now : now + 4] = target.to_bytes(4, "little")

    def _read_abbreviations(self) -> dict[int, list[tuple[int, int]]]:
        """What is to be done with an entry, by abbreviation: pairs of attribute and form, or 0 and the size of
        what has a fixed one.

        Gives lines their fixed form in the table.
        """
        data, at = self.abbreviations, 0
        plans: dict[int, list[tuple[int, int]]] = {}
        while data[at]:
            code, at = _uleb(data, at)
            _, at = _uleb(data, at)
            at += 1
            plan: list[tuple[int, int]] = []
            while True:
                attribute, at = _uleb(data, at)
                form_at = at
                form, at = _uleb(data, at)
                if not attribute and not form:
                    break
                if attribute in _LINES and form in (0x0B, 0x05, 0x06, _UDATA):
                    data[form_at] = _DATA2
                elif attribute in _LINES:
                    raise UnknownDebugInfo(f"a line number in form {form:#x}")
                if attribute not in (*_LINES, *_FILES, _STMT_LIST) and form in _SIZES and form != _REF4:
                    if plan and plan[-1][0] == 0:
                        plan[-1] = (0, plan[-1][1] + _SIZES[form])
                    else:
                        plan.append((0, _SIZES[form]))
                else:
                    plan.append((attribute, form))
            plans[code] = plan
        return plans

    def _unit(self, begin: int, table: _LineSection) -> int:
        old, new, growth, plans = self._old, self.data, self._growth, self._plans
        length, version = _word(old, begin), _word(old, begin + 4, 2)
        if length >= 0xFFFFFFF0 or version != 4:
            raise UnknownDebugInfo(f"a compilation unit of DWARF {version}")
        end, at = begin + 4 + length, begin + 11
        start, copied = len(new), begin
        files: list[Lines] = []
        while at < end:
            code, at = _uleb(old, at) if old[at] >= 0x80 else (old[at], at + 1)
            if not code:
                continue
            file = 0
            for attribute, form in plans[code]:
                if attribute == 0:
                    at += form
                elif attribute in _LINES:
                    line, next_at = _number(old, at, form)
                    line = _line(line)
                    if line > LAST_LINE:
                        raise UnknownDebugInfo(f"line {line}")
                    new += old[copied:at]
                    if file and line:
                        files[file - 1].words.append((line, self._place + len(new)))
                    new += line.to_bytes(WORD_WIDTH, "little")
                    if next_at - at != WORD_WIDTH:
                        growth.append((next_at, WORD_WIDTH - (next_at - at)))
                    copied = at = next_at
                elif attribute in _FILES:
                    file, at = _number(old, at, form)
                elif attribute == _STMT_LIST:
                    files = [self._found[name] for name in table.files[self._tables[at]]]
                    at += 4
                elif form == _REF4:
                    self._references.append((at, begin))
                    at += 4
                else:
                    at = _skip(old, at, form)
        if at != end:
            raise UnknownDebugInfo("a compilation unit of another size")
        new += old[copied:end]
        new[start : start + 4] = (len(new) - start - 4).to_bytes(4, "little")
        return end


def _number(data: bytes, at: int, form: int) -> tuple[int, int]:
    if form == _UDATA:
        return _uleb(data, at)
    size = _SIZES[form]
    return _word(data, at, size), at + size


def _skip(data: bytes, at: int, form: int) -> int:
    if form in _SIZES:
        return at + _SIZES[form]
    if form in (_UDATA, _SDATA):
        return _uleb(data, at)[1]
    if form == _STRING:
        return data.index(0, at) + 1
    if form == _BLOCK1:
        return at + 1 + data[at]
    if form in (_BLOCK, _EXPRLOC):
        size, at = _uleb(data, at)
        return at + size
    raise UnknownDebugInfo(f"an attribute in form {form:#x}")
