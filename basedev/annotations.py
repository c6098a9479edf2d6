"""A bare `@nospecialize` at top level holds for all methods that its module defines from there on.

It is a flag of the module (`jl_set_module_nospecialize`), which an image has as it was at the module's end: where a
definition is evaluated again, the flag has to be what it was there.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping

from .sources import Sources
from .syntax import Statement, included, specializing

BARE = re.compile(rb"^[ \t]*@(?:no)?specialize[ \t]*(?:#.*)?$", re.MULTILINE)


class Annotations:
    """Where the methods of some sources are not to be specialized.

    `including` tells for a file in which file and line it is included.
    """

    def __init__(
        self,
        sources: Sources,
        statements_of: Callable[[str], list[Statement]],
        including: Callable[[], Mapping[str, tuple[str, int]]],
    ) -> None:
        self._sources = sources
        self._statements_of = statements_of
        self._including = including
        self._found: dict[str, bool] = {}
        """Whether a file may have an annotation, where that was asked."""

    def in_file(self, path: str) -> bool:
        """Whether a file may have such an annotation."""
        if path not in self._found:
            text = self._sources.contents[path] if path in self._sources.blobs else b""
            self._found[path] = BARE.search(text) is not None
        return self._found[path]

    def wrapped(self, path: str, inside: tuple[str, ...], line: int, text: str) -> tuple[str, int]:
        """The text of a definition that begins there, in these modules of the file, with annotations around it where
        the flag of its module is another one. Returns also on which line the text begins then."""
        chain = [path]
        while not inside and chain[-1] in self._including() and len(chain) <= len(self._including()):
            chain.append(self._including()[chain[-1]][0])
        if not any(map(self.in_file, chain)):
            return text, line
        here, at_end = self.hold_at(path, inside, line), self.hold_at(*self._module_of(path, inside), sys.maxsize)
        if here == at_end:
            return text, line
        words = {True: "@nospecialize", False: "@specialize"}
        return f"{words[here]}\n{text}\n{words[at_end]}", line - 1

    def hold_at(self, path: str, inside: tuple[str, ...], line: int) -> bool:
        """Whether a definition that begins there, in these modules of the file, is under a bare `@nospecialize`."""
        if self.in_file(path):
            for one in reversed(self._statements_of(path)):
                if one.line < line and one.inside == inside and (found := specializing(one.tree)) is not None:
                    return not found
        outer = None if inside else self._outside(path)
        return self.hold_at(*outer) if outer else False

    def _outside(self, path: str) -> tuple[str, tuple[str, ...], int] | None:
        """Where a file is included: the other file, the modules there, the line."""
        if path not in self._including():
            return None
        outer, line = self._including()[path]
        inside = (
            one.inside for one in self._statements_of(outer) if one.line == line and included(one.tree) is not None
        )
        return outer, next(inside, ()), line

    def _module_of(self, path: str, inside: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
        """The file, and the modules in it, in which the module of a file's definitions begins."""
        outer = None if inside else self._outside(path)
        return self._module_of(*outer[:2]) if outer else (path, inside)
