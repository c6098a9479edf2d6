"""A bare `@nospecialize` at top level holds for all methods that its module defines from there on.

It is a flag of the module while Julia is built (`jl_set_module_nospecialize`), which no image keeps: where a definition
is evaluated again, the flag has to be what it was there.
"""

from __future__ import annotations

import re
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

    def in_file(self, path: str) -> bool:
        """Whether a file may have such an annotation."""
        return path in self._sources.blobs and BARE.search(self._sources.contents[path]) is not None

    def hold_at(self, path: str, inside: tuple[str, ...], line: int) -> bool:
        """Whether a definition that begins there, in these modules of the file, is under a bare `@nospecialize`."""
        if self.in_file(path):
            for one in reversed(self._statements_of(path)):
                if one.line < line and one.inside == inside and (found := specializing(one.tree)) is not None:
                    return not found
        including = {} if inside else self._including()
        if path not in including:
            return False
        outer, line = including[path]
        if not self.in_file(outer):
            return self.hold_at(outer, (), line) if outer != path else False
        for one in self._statements_of(outer):
            if one.line == line and included(one.tree) is not None:
                return self.hold_at(outer, one.inside, line)
        return False
