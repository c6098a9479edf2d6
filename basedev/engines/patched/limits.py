"""Which differences this engine chains; the others are a full rebuild, with the reason."""

from __future__ import annotations

from collections.abc import Mapping

from ...difference import FileDifference
from ...errors import NeedsFullRebuild
from ...includes import Includes, SourceFile
from ...sourcefiles import PARSER
from ...sources import ChangeSet, Sources
from ...syntax import (
    Statement,
    Tree,
    asserts,
    describe,
    exported,
    limits_methods,
    name_of,
    only_defines,
    only_defines_methods,
    registers,
)

STARTS_COMPILER = "base/Base_compiler.jl"
"""The file that includes what the compiler runs, and starts it."""

BOOTSTRAP = "Compiler/src/bootstrap.jl"

NOWHERE = SourceFile("", ())
"""A file of which nothing has to be known but its path."""


def check(old: Sources, new: Sources, files: Mapping[str, SourceFile]) -> None:
    """Raises NeedsFullRebuild when a file changed of which nothing is chained."""
    changes = ChangeSet.between(old, new)
    for path in changes.paths:
        if path == BOOTSTRAP:
            raise NeedsFullRebuild(f"{path} compiles and starts Julia's compiler")
    added = dict.fromkeys(changes.added, NOWHERE)
    including = Includes(old, new, {**files, **added}, None).now if added else {}
    for path in added:
        if path.startswith(f"{PARSER}/") and path in including:
            raise NeedsFullRebuild(f"{path} is new, and Julia does not record what its parser includes")
        place = path
        while place in including:
            place, _ = including[place]
            if place == STARTS_COMPILER:
                raise NeedsFullRebuild(f"{path} is new, and the compiler, which is started after it, would see it")


def check_difference(path: str, difference: FileDifference) -> None:
    """Raises NeedsFullRebuild for a statement that is gone and did more than to define methods, types and constants, to
    document, to export names, to register handlers, to assert, to limit what inference looks at, and to import what
    others import now, or for a new one that does more than to define, to document, to register, to assert or to
    limit."""
    now = [replacement.statement for replacement in difference.evaluated]
    imports = {one for statement in now for one in _imported(statement)}
    kept = {one for statement in now if (one := _condition(statement))}
    for statement in difference.removed:
        names = _imported(statement)
        if not (
            only_defines_methods(statement.tree)
            or exported(statement.tree) is not None
            or imports >= names != set()
            or _binds(statement)
            or _condition(statement) in kept
            or registers(statement.tree)
            or limits_methods(statement.tree)
            or asserts(statement.tree)
            or _only_documents(statement)
        ):
            raise NeedsFullRebuild(f"{_place(path, statement)} changed, and is not followed on this Julia yet")
    for replacement in difference.evaluated:
        statement = replacement.statement
        unnamed = any(
            not one[2] and one[1] == "import" for one in _imported(statement)
        )  # it is not seen what it imports
        defines = (
            replacement.only_documentation
            or only_defines(statement.tree)
            or registers(statement.tree)
            or _only_documents(statement)
        )
        if unnamed or not defines:
            raise NeedsFullRebuild(f"{_place(path, statement)} is new, and is not followed on this Julia yet")


def _binds(statement: Statement) -> bool:
    """Whether all that a statement does is to bind a type or constant to a name, which can be unbound."""
    tree = statement.tree
    return isinstance(tree, tuple) and tree[:1] in (("struct",), ("abstract",), ("const",)) and only_defines(tree)


def _condition(statement: Statement) -> Tree:
    """Under what condition, and where, a statement defines something that has to be defined there again; nothing for
    others."""
    tree = statement.tree
    if not isinstance(tree, tuple) or tree[:1] != ("if",) or not only_defines(tree):
        return None
    return (statement.inside, tree[1])


def _only_documents(statement: Statement) -> bool:
    """Whether a statement gives a docstring to a signature or a keyword, and does nothing else."""
    tree = statement.tree
    if statement.documentation is None or not isinstance(tree, tuple) or not tree:
        return False
    return tree[0] == "call" or (tree[0] == "macrocall" and name_of(tree[1]) == "@kw_str")


def _imported(statement: Statement) -> set[Tree]:
    """What a statement imports, and into which module of its file; nothing for others."""
    tree = statement.tree
    if not isinstance(tree, tuple) or tree[0] not in ("import", "using"):
        return set()
    found: set[Tree] = set()
    for part in tree[1:]:
        names = part[2:] if part[0] == ":" else [part]
        found |= {(statement.inside, tree[0], part[0] == ":" and part[1], name) for name in names}
    return found


def _place(path: str, statement: Statement) -> str:
    return f"{describe(statement.tree)} in {path}:{statement.line}"
