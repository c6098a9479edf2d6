"""What a statement has to find when it is evaluated, and what it binds: an image is edited in any order, while Julia is
built from its first statement to its last.

Both are told from the form of the text: in doubt a name is bound, and is not needed.
"""

from __future__ import annotations

from collections.abc import Iterator

from .syntax import WRAPPING_MACROS, Statement, Tree, is_definition, is_signature, mentions, name_of

NAMES_OF_SYNTAX = frozenset({"begin", "end", ":", "...", "_", "ccall", "cglobal", "new"})
TRANSPARENT_MACROS = WRAPPING_MACROS - {"@eval"}
"""Macros around a definition that stands there as it is evaluated."""

LATE = ("->", "do", "quote", "function", "macro", "export", "public", "import", "using", "module", "meta", "inert")
"""Heads of what is not evaluated with the statement that it stands in, or names nothing that must be there."""


def needed(statement: Statement) -> frozenset[str]:
    """The names that must be bound when a statement is evaluated; those of macros with their `@`.

    The body of a function needs its macros only, a signature the types in it. What is documented without being
    defined needs nothing.
    """
    tree = statement.tree
    if statement.documentation is not None and not is_definition(tree):
        return frozenset()
    return frozenset({*_evaluated(tree), *_macros(tree)} - {*_bound_within(tree)} - NAMES_OF_SYNTAX)


def may_bind(tree: Tree, name: str) -> bool:
    """Whether a statement may bind a name, which is a macro's with its `@`."""
    if not isinstance(tree, tuple) or not tree:
        return False
    head = tree[0]
    if head in ("const", "global"):
        return any(may_bind(part, name) or part == name for part in tree[1:])
    if head in ("function", "=", "struct", "abstract", "primitive"):
        return name in _leaves(tree[2] if head == "struct" else tree[1])
    if head == "macro":
        return name.removeprefix("@") in _leaves(tree[1])
    if head in ("export", "public", "call", "module"):
        return bool(head == "module" and tree[2] == name)
    if head == "macrocall" and name_of(tree[1]) in TRANSPARENT_MACROS:
        return may_bind(tree[-1], name)
    if head in ("block", "toplevel", "if", "elseif", "&&", "||", "let"):
        return any(may_bind(part, name) for part in tree[1:])
    return mentions(tree, name) or mentions(tree, name.removeprefix("@"))


def _evaluated(tree: Tree) -> Iterator[str]:
    if isinstance(tree, str):
        yield tree
        return
    if not isinstance(tree, tuple) or not tree:
        return
    head, parts = tree[0], tree[1:]
    if head == "function" or (head == "=" and is_signature(tree[1])):
        yield from _signature(tree[1])
    elif head in ("=", "kw"):
        yield from _evaluated(tree[-1])
    elif head == "macrocall":
        if name_of(tree[1]) in TRANSPARENT_MACROS:
            yield from _evaluated(tree[-1])
    elif head in ("struct", "abstract", "primitive"):
        for part in parts:
            yield from _types(part)
    elif head == ".":
        yield from _evaluated(tree[1])
    elif head not in LATE:
        for part in parts:
            yield from _evaluated(part)


def _signature(tree: Tree) -> Iterator[str]:
    """Of a method's signature: the types of its arguments, and what its function is a part of."""
    if not isinstance(tree, tuple) or not tree:
        return
    if tree[0] == "where":
        yield from _signature(tree[1])
        for part in tree[2:]:
            yield from _types(part)
    elif tree[0] == "::" and len(tree) == 3:
        yield from _signature(tree[1])
    elif tree[0] == "call":
        if isinstance(tree[1], tuple):
            yield from _types(tree[1]) if tree[1][:1] == ("::",) else _evaluated(tree[1])
        for argument in tree[2:]:
            yield from _types(argument)


def _types(tree: Tree) -> Iterator[str]:
    """Of an argument, a field, or a type parameter: the types that it names."""
    if not isinstance(tree, tuple) or not tree:
        return
    head = tree[0]
    if head == "::":
        yield from _evaluated(tree[-1])
    elif head in ("<:", ">:"):
        yield from _evaluated(tree[-1])
        if isinstance(tree[1], tuple):
            yield from _types(tree[1])
    elif head in ("kw", "=", "..."):
        yield from _types(tree[1])
    elif head in ("parameters", "block", "curly"):
        for part in tree[1:]:
            yield from _types(part)


def _macros(tree: Tree) -> Iterator[str]:
    """The macros that are called in it, quoted code and what other macros are given aside."""
    if not isinstance(tree, tuple) or not tree or tree[0] == "quote":
        return
    if tree[0] == "macrocall":
        if isinstance(tree[1], str):
            yield tree[1]
        if name_of(tree[1]) not in TRANSPARENT_MACROS:
            return
    for part in tree[1:]:
        yield from _macros(part)


def _bound_within(tree: Tree) -> Iterator[str]:
    """Names that are bound anywhere in it: type variables, local variables, and what it defines."""
    if not isinstance(tree, tuple) or not tree:
        return
    head = tree[0]
    if head == "where":
        for part in tree[2:]:
            yield from _leaves(part)
    elif head in ("=", "for", "let", "local", "global", "const", "function", "struct", "abstract", "primitive", "->"):
        yield from _leaves(tree[2] if head == "struct" else tree[1])
    for part in tree[1:]:
        yield from _bound_within(part)


def _leaves(tree: Tree) -> Iterator[str]:
    """Names on the left of an assignment, of type variables, of what is defined."""
    if isinstance(tree, str):
        yield tree
    elif isinstance(tree, tuple) and tree:
        if tree[0] in ("tuple", "block", "local", "global", "const", "curly", "comparison"):
            for part in tree[1:]:
                yield from _leaves(part)
        elif tree[0] in ("=", "<:", ">:", "::", "where", "call"):
            for part in tree[1:2]:
                yield from _leaves(part)
