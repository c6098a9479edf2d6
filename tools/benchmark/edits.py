"""The edits that the benchmark makes.

Each has a number in it, so that no two are the same and none is found in a store.
"""

from __future__ import annotations

from dataclasses import dataclass

UTIL = "base/strings/util.jl"

BASE_FILES = tuple(
    f"base/{name}.jl"
    for name in (
        *("set", "dict", "char", "io", "iobuffer", "intfuncs", "parse", "regex", "reduce", "reducedim", "arraymath"),
        *("abstractarraymath", "accumulate", "complex", "rational", "float", "subarray", "ntuple", "hashing", "div"),
        *("strings/basic", "strings/string", "strings/substring", "strings/util", "strings/io", "strings/search"),
        *("arrayshow", "errorshow", "methodshow", "summarysize", "combinatorics", "floatfuncs", "irrationals"),
        *("task", "channels", "lock", "condition", "stream", "process", "cmd", "env", "version", "util", "uuid"),
        *("deepcopy", "missing", "some", "views", "iostream", "shell"),
    )
)
"""Fifty files of Base that end in Base's own module and that Core.Compiler does not include."""


@dataclass(frozen=True)
class Change:
    """A text that stands in a source file, and what is put in its place."""

    path: str
    old: str
    """"" is the end of the file."""
    new: str


@dataclass(frozen=True)
class Edit:
    """Changes that are saved together; `{n}` in a new text is a number that makes it new."""

    name: str
    """For the command line."""
    title: str
    """For tables, in Markdown."""
    changes: tuple[Change, ...]
    heavy: bool = False
    """Takes long with Julia's own rule, so that rule is measured once."""
    anew: bool = False
    """All native code is made anew, in minutes: measured once, and without Julia's own rule, which is the same then."""

    def numbered(self, number: int) -> tuple[Change, ...]:
        """The changes with a number in them."""
        return tuple(Change(one.path, one.old, one.new.format(n=number)) for one in self.changes)


def _prepended(path: str, line: str, new: str) -> tuple[Change, ...]:
    """A text put before a line."""
    return (Change(path, line, new + line),)


def below(path: str, line: str, new: str) -> tuple[Change, ...]:
    """A text put behind a line."""
    return (Change(path, line, line.replace("{", "{{").replace("}", "}}") + new),)


CHOMP = "function chomp(s::String)\n"
LPAD = "    m = signed(n) - length(s)\n"

EDITS = (
    Edit("none", "a comment", _prepended(UTIL, CHOMP, "# bench {n}\n")),
    Edit("leaf", "new function", (Change(UTIL, "", "\nbench_{n}(s::String) = s * s\n"),)),
    Edit(
        "docstring",
        "docstring of `chomp`",
        (Change(UTIL, "Remove a single trailing newline", "Remove one trailing newline ({n})"),),
    ),
    Edit(
        "stdlib",
        "`base64encode` (stdlib)",
        (Change("stdlib/Base64/src/encode.jl", "", '\nbase64encode(::Val{{{n}}}) = ""\n'),),
    ),
    Edit(
        "20-files",
        "20 files at once",
        tuple(Change(path, "", f"\nbench_{{n}}_{place}(x) = x\n") for place, path in enumerate(BASE_FILES[:20])),
    ),
    Edit("lpad", "`lpad`", _prepended(UTIL, LPAD, '    n == -{n} && return ""\n')),
    Edit(
        "chomp",
        "`chomp(::String)`",
        below(UTIL, CHOMP, "    ncodeunits(s) == -{n} && return SubString(s)\n"),
    ),
    Edit(
        "ispow2",
        "`ispow2`",
        (
            Change(
                "base/intfuncs.jl",
                "ispow2(x::Integer) = x > 0 &&",
                "ispow2(x::Integer) = x > 0 && x != -{n} &&",
            ),
        ),
        heavy=True,
    ),
    Edit(
        "getindex",
        "`getindex(::String, ::Int)`",
        below(
            "base/strings/string.jl",
            "@propagate_inbounds function getindex(s::String, i::Int)\n",
            "    i == -{n} && throw(BoundsError(s, i))\n",
        ),
        heavy=True,
    ),
    Edit(
        "iterate",
        "`iterate(::String, ::Int)`",
        below(
            "base/strings/string.jl",
            "@propagate_inbounds function iterate(s::String, i::Int=firstindex(s))\n",
            "    i == -{n} && return nothing\n",
        ),
        heavy=True,
    ),
    Edit(
        "print_to_string",
        "`print_to_string`",
        (
            Change(
                "base/strings/io.jl",
                'function print_to_string(xs...)\n    if isempty(xs)\n        return ""\n    end\n    siz::Int = 0\n',
                'function print_to_string(xs...)\n    if isempty(xs)\n        return ""\n    end\n    siz::Int = {n}\n',
            ),
        ),
        heavy=True,
    ),
    Edit(
        "compiler",
        "a function of Core.Compiler",
        below(
            "base/compiler/utilities.jl",
            "function quoted(@nospecialize(x))\n",
            "    x === -{n} && return x\n",
        ),
        heavy=True,
        anew=True,
    ),
)

BY_NAME = {edit.name: edit for edit in EDITS}
LIGHT = tuple(edit.name for edit in EDITS if not edit.heavy)
LEAF = BY_NAME["leaf"]

STEPS = ("leaf", "lpad", "chomp")
"""The edits whose time is told step by step."""

SAME_CODE = (
    Change(UTIL, LPAD, "    m = signed(n) - length(s) + 0\n"),
    Change(UTIL, f"{CHOMP}    i = lastindex(s)\n", f"{CHOMP}    i = lastindex(s) + 0\n"),
)
"""Edits that make other code for Julia and none for the machine, to compare the speed of what is compiled anew."""


def definitions(count: int, number: int) -> tuple[Change, ...]:
    """So many new functions, that compile nothing, in as many files as there are."""
    texts: dict[str, list[str]] = {}
    for place in range(count):
        path = BASE_FILES[place % len(BASE_FILES)]
        texts.setdefault(path, []).append(f"bench_{number}_{place}(x::Val{{{place}}}) = x\n")
    return tuple(Change(path, "", "\n" + "".join(lines)) for path, lines in texts.items())


def body(number: int) -> tuple[Change, ...]:
    """A function of which each number gives another body."""
    return (Change(UTIL, "", f'\nbench_body(s::String) = s * s * "{number}"\n'),)
