"""The difference between two texts of a source file, in statements."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from typing import Any

from .syntax import Statement, depends_on_place, describe

LineMove = tuple[int, int, int]
"""First and last line in the old text, and by how many lines what stands there is further down."""


@dataclass(frozen=True)
class Replacement:
    """A statement that is new in a file, or whose documentation is."""

    path: str
    statement: Statement
    only_documentation: bool = False

    @property
    def text(self) -> str:
        """What to evaluate."""
        return self.statement.only_documentation() if self.only_documentation else self.statement.text


@dataclass
class FileDifference:
    """What differs between two texts of one file."""

    removed: list[Statement] = field(default_factory=list)
    evaluated: list[Replacement] = field(default_factory=list)
    undocumented: list[Statement] = field(default_factory=list)
    """Old statements that stay, with another docstring or none."""
    unchanged: list[tuple[Statement, Statement]] = field(default_factory=list)
    """Old and new form of those that mean the same."""

    def evaluate_again(self, path: str, old: Statement) -> bool:
        """Takes an unchanged statement for a changed one. Returns whether it was an unchanged one."""
        for pair in self.unchanged:
            if pair[0] is old:
                self.unchanged.remove(pair)
                self.removed.append(old)
                if old in self.undocumented:
                    self.undocumented.remove(old)
                self.evaluated = [one for one in self.evaluated if one.statement is not pair[1]]
                self.evaluated.append(Replacement(path, pair[1]))
                return True
        return False


def compare(path: str, old: list[Statement], new: list[Statement]) -> FileDifference:
    """The difference between two texts, independent of comments, white space and the order of statements."""
    waiting: dict[Any, list[Statement]] = defaultdict(list)
    for statement in old:
        waiting[statement.inside, statement.tree].append(statement)
    difference = FileDifference()
    for statement in new:
        same = waiting[statement.inside, statement.tree]
        if not same:
            difference.evaluated.append(Replacement(path, statement))
            continue
        before = same.pop(0)
        if before.definition_line != statement.definition_line and depends_on_place(statement.tree):
            difference.removed.append(before)
            difference.evaluated.append(Replacement(path, statement))
            continue
        difference.unchanged.append((before, statement))
        if before.documentation != statement.documentation:
            if before.documentation is not None:
                difference.undocumented.append(before)
            if statement.documentation is not None:
                difference.evaluated.append(Replacement(path, statement, only_documentation=True))
    difference.removed += (statement for rest in waiting.values() for statement in rest)
    for statement in _torn(difference.unchanged):
        difference.evaluate_again(path, statement)
    return difference


def _places(before: Statement, now: Statement) -> Iterator[tuple[int, int]]:
    """The old lines that methods and the docstring of an unchanged statement have, and by how much they moved."""
    if len(before.method_lines) == len(now.method_lines):
        for old, new in zip(before.method_lines, now.method_lines, strict=True):
            yield old, new - old
    if before.documentation is not None:
        yield before.line, now.line - before.line


def _torn(unchanged: Iterable[tuple[Statement, Statement]]) -> list[Statement]:
    """Old statements with what stood on one line with something else, and moved to another line than that."""
    shifts: dict[int, int] = {}
    torn = []
    for before, now in unchanged:
        places = list(_places(before, now))
        if all(shift == dict(places)[line] == shifts.get(line, shift) for line, shift in places):
            shifts.update(places)
        else:
            torn.append(before)
    return torn


def line_moves(difference: FileDifference) -> list[LineMove]:
    """How lines moved, neighbouring ones that moved alike together: those of statements that mean the same, and those
    that an edit left as they were, for what a macro or function had made of them may stay."""
    pairs = difference.unchanged
    lines: dict[int, int] = {}
    for before, now in pairs:
        for line, shift in _places(before, now):
            lines.setdefault(line, shift)
    for before, now in pairs:
        lines.setdefault(before.definition_line, now.definition_line - before.definition_line)
        lines.setdefault(before.line, now.line - before.line)
        if len(before.lines) == len(now.lines):
            for old, new in zip(before.lines, now.lines, strict=True):
                lines.setdefault(old, new - old)
        lines.setdefault(before.last_line, now.last_line - before.last_line)
    for before, now in _edited(difference):
        texts = before.text.split("\n"), now.text.split("\n")
        for old, new, count in SequenceMatcher(None, texts[0], texts[1], autojunk=False).get_matching_blocks():
            for line in range(before.line + old, before.line + old + count):
                lines.setdefault(line, now.line + new - before.line - old)
    return list(_ranges(sorted(lines.items())))


def _edited(difference: FileDifference) -> Iterator[tuple[Statement, Statement]]:
    """Old and new form of statements that changed, as far as their first words tell which of them belong together."""
    waiting = defaultdict(list)
    for statement in difference.removed:
        waiting[statement.inside, describe(statement.tree)].append(statement)
    for replacement in difference.evaluated:
        now = replacement.statement
        if (old := waiting[now.inside, describe(now.tree)]) and not replacement.only_documentation:
            yield old.pop(0), now


def _ranges(lines: list[tuple[int, int]]) -> Iterator[LineMove]:
    first = last = by = 0
    for line, shift in lines:
        if by and shift == by:
            last = line
            continue
        if by:
            yield (first, max(last, line - 1) if shift == 0 else last, by)
        first = last = line
        by = shift
    if by:
        yield (first, last, by)
