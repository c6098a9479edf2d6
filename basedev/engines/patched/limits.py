"""Which differences this engine chains; the others are a full rebuild, with the reason."""

from __future__ import annotations

from ...difference import FileDifference
from ...errors import NeedsFullRebuild
from ...includes import SourceFile
from ...sources import ChangeSet
from ...syntax import Statement, Tree, describe, exported, only_defines, only_defines_methods


def check(changes: ChangeSet, files: dict[str, SourceFile]) -> None:
    """Raises NeedsFullRebuild when a file changed of which nothing is chained."""
    for path in changes.paths:
        if path.startswith("Compiler/"):
            raise NeedsFullRebuild(f"{path} is Julia's compiler, which compiled everything")
        if path in files and not path.startswith("base/"):
            raise NeedsFullRebuild(f"{path} is no source of Base: only those are chained on this Julia yet")
    for path in changes.deleted:
        if path in files:
            raise NeedsFullRebuild(f"{path} is gone")


def check_difference(path: str, difference: FileDifference) -> None:
    """Raises NeedsFullRebuild for a statement that is gone and did more than to define methods, to export names and to
    import what others import now, or for a new one that does more than to define."""
    imports = {one for replacement in difference.evaluated for one in _imported(replacement.statement)}
    for statement in difference.removed:
        names = _imported(statement)
        if not (
            only_defines_methods(statement.tree) or exported(statement.tree) is not None or imports >= names != set()
        ):
            raise NeedsFullRebuild(f"{_place(path, statement)} changed, and is not followed on this Julia yet")
    for replacement in difference.evaluated:
        statement = replacement.statement
        unnamed = any(
            not one[2] and one[1] == "import" for one in _imported(statement)
        )  # it is not seen what it imports
        if unnamed or not (replacement.only_documentation or only_defines(statement.tree)):
            raise NeedsFullRebuild(f"{_place(path, statement)} is new, and is not followed on this Julia yet")


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
