"""Which differences this engine chains; the others are a full rebuild, with the reason."""

from __future__ import annotations

from ...difference import FileDifference
from ...errors import NeedsFullRebuild
from ...includes import SourceFile
from ...sources import ChangeSet
from ...syntax import Statement, describe, exported, only_defines, only_defines_methods


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
    """Raises NeedsFullRebuild for a statement that is gone and did more than to define methods and to export names, or
    for a new one that does more than to define."""
    for statement in difference.removed:
        if not (only_defines_methods(statement.tree) or exported(statement.tree) is not None):
            raise NeedsFullRebuild(f"{_place(path, statement)} changed, and is not followed on this Julia yet")
    for replacement in difference.evaluated:
        statement = replacement.statement
        if not (replacement.only_documentation or only_defines(statement.tree)):
            raise NeedsFullRebuild(f"{_place(path, statement)} is new, and is not followed on this Julia yet")


def _place(path: str, statement: Statement) -> str:
    return f"{describe(statement.tree)} in {path}:{statement.line}"
