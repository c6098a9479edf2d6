"""Old and new sources -> a revision, or the reason why only a full rebuild is right.

What a statement defines is not guessed from its form: the old statements that are gone are evaluated once more in
a process that is thrown away, and the methods that this replaces are the ones that they had made. Whatever
`@eval` loop or macro made them, the difference between these and the methods of the new statements is
what has to be deleted.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from . import signatures
from .errors import NeedsFullRebuild, UserCodeError
from .revision import Definition, Delete, Evaluate, Move, Revision, Step
from .sources import ChangeSet, Sources
from .syntax import Statement, contains, describe, only_defines_methods, statements


class Evaluator(Protocol):
    """A process on the base image (the engine's host)."""

    def parse(self, text: bytes) -> list[dict[str, Any]]:
        """The statements of a source text."""

    def trial(self, steps: list[Step]) -> dict[str, Any]:
        """What evaluating the steps would do."""


@dataclass(frozen=True)
class SourceFile:
    """A file of the base image: the name it has there and the modules that include it."""

    name: str
    modules: tuple[str, ...]


@dataclass(frozen=True)
class Replacement:
    """A statement that is new in a file, and the old ones of the same name that it stands for, if any."""

    path: str
    statement: Statement
    only_documentation: bool = False


@dataclass
class FileDifference:
    """What differs between two texts of one file."""

    removed: list[Statement]
    evaluated: list[Replacement]
    moves: list[tuple[int, int, int]]
    """First and last line in the old text, and by how much the statements there moved."""


def compare(path: str, old: list[Statement], new: list[Statement]) -> FileDifference:
    """The difference between two texts, independent of comments, white space and the order of statements."""
    waiting: dict[Any, list[Statement]] = defaultdict(list)
    for statement in old:
        waiting[statement.inside, statement.tree].append(statement)
    difference = FileDifference([], [], [])
    for statement in new:
        same = waiting[statement.inside, statement.tree]
        if not same:
            difference.evaluated.append(Replacement(path, statement))
            continue
        before = same.pop(0)
        if before.documentation != statement.documentation:
            if statement.documentation is None:
                raise NeedsFullRebuild(f"the docstring of {describe(statement.tree)} in {path} was removed")
            difference.evaluated.append(Replacement(path, statement, only_documentation=True))
        by = statement.definition_line - before.definition_line
        if by and contains(statement.tree, "@__LINE__"):
            raise NeedsFullRebuild(f"{describe(statement.tree)} in {path} uses @__LINE__ and moved")
        if by:
            difference.moves.append((before.definition_line, before.last_line, by))
    difference.removed = sorted((s for rest in waiting.values() for s in rest), key=lambda s: s.line)
    return difference


def revise(
    old: Sources,
    new: Sources,
    files: Mapping[str, SourceFile],
    compiler_files: frozenset[str],
    evaluator: Evaluator,
) -> Revision:
    """The revision from the sources of a base image to others.

    `files` are the files in the image by path, `compiler_files` those that Core.Compiler is made of. Raises
    UserCodeError when the new sources do not parse or fail to evaluate, NeedsFullRebuild with the reason when
    evaluating definitions would not give what a rebuild gives.
    """
    changes = ChangeSet.between(old, new)
    differences = _differences(changes, old, new, files, evaluator)  # before any reason: errors come first
    _check_files(changes, files, compiler_files)
    for path, difference in differences.items():
        for statement in (
            *difference.removed,
            *(r.statement for r in difference.evaluated if not r.only_documentation),
        ):
            if not only_defines_methods(statement.tree):
                raise NeedsFullRebuild(f"{describe(statement.tree)} in {path}:{statement.line} can't be chained yet")

    gone = [
        (path, statement, step)
        for path, difference in differences.items()
        for statement in difference.removed
        for step in _steps(files[path], path, statement, statement.text)
    ]
    evaluated = [
        (replacement, step)
        for path, difference in differences.items()
        for replacement in difference.evaluated
        for step in _steps(
            files[path],
            path,
            replacement.statement,
            replacement.statement.only_documentation()
            if replacement.only_documentation
            else replacement.statement.text,
        )
        # Core.Compiler has no documentation (its `@doc` leaves the definition alone)
        if not (replacement.only_documentation and step.module == "Core.Compiler")
    ]
    before = _methods_of_removed(gone, files, evaluator)
    after = evaluator.trial([step for _, step in evaluated]) if evaluated else {"defined": [], "names": []}
    _check_evaluation(after, evaluated)

    defined = {method["signature"]: method for method in after["defined"]}
    for method in after["defined"]:
        replaced = method["replaces"]
        if replaced and "#" not in method["name"] and method["signature"] not in before:
            raise NeedsFullRebuild(
                f"{signatures.pretty(method['signature'])} is defined a second time, in "
                f"{replaced['file']}:{replaced['line']}: which of the two holds depends on their order"
            )
    deleted = [
        (path, statement, method) for signature, (path, statement, method) in before.items() if signature not in defined
    ]
    deletes = [Delete(m["module"], m["name"], m["signature"]) for _, _, m in deleted]
    for path, statement, method in deleted:
        if statement.documentation is not None:
            raise NeedsFullRebuild(f"{signatures.pretty(method['signature'])} in {path} was deleted with its docstring")
    moves = [
        Move(files[path].name, *move) for path, difference in differences.items() for move in _merge(difference.moves)
    ]
    return Revision(
        (*(step for _, step in evaluated), *deletes, *moves),
        tuple(_definitions(evaluated, after, before, deleted)),
    )


def _differences(
    changes: ChangeSet, old: Sources, new: Sources, files: Mapping[str, SourceFile], evaluator: Evaluator
) -> dict[str, FileDifference]:
    found = {}
    reasons: list[NeedsFullRebuild] = []
    for path in changes.paths:
        if not path.endswith(".jl"):
            continue
        texts = [sources.contents[path] if path in sources.blobs else b"" for sources in (old, new)]
        before, after = (statements(evaluator.parse(text), text, path) for text in texts)
        if path in changes.modified and path in files:
            try:
                found[path] = compare(path, before, after)
            except NeedsFullRebuild as reason:
                reasons.append(reason)
    if reasons:
        raise reasons[0]
    return found


def _check_files(changes: ChangeSet, files: Mapping[str, SourceFile], compiler_files: frozenset[str]) -> None:
    for path in changes.paths:
        if path in compiler_files and path not in files:
            raise NeedsFullRebuild(f"{path} is a part of Core.Compiler, by which everything is compiled")
        if path == "base/boot.jl":
            raise NeedsFullRebuild("base/boot.jl is the Core module, with which everything begins")
        if path.endswith("Project.toml"):
            raise NeedsFullRebuild(f"{path} changed: it tells which packages a standard library may load")
    for path in changes.deleted:
        if path in files:
            raise NeedsFullRebuild(f"{path} was deleted")


def _steps(file: SourceFile, path: str, statement: Statement, text: str) -> Iterator[Evaluate]:
    for module in file.modules:
        line = statement.line
        if module == "Core.Compiler" and statement.documentation is not None:
            text, line = statement.text[statement.definition_at :], statement.definition_line
        yield Evaluate(_full_module(module, statement.inside), file.name, line, text)


def _full_module(module: str, inside: tuple[str, ...]) -> str:
    """A module's full name. What a package's own file defines at top level is a root of its own, as is Base."""
    if inside and module in ("Base.__toplevel__", "Main"):
        return ".".join(inside)
    return ".".join((module, *inside))


def _methods_of_removed(
    gone: list[tuple[str, Statement, Evaluate]], files: Mapping[str, SourceFile], evaluator: Evaluator
) -> dict[str, tuple[str, Statement, dict[str, Any]]]:
    """By signature: the methods of the base image that statements which are gone had defined."""
    if not gone:
        return {}
    result = evaluator.trial([step for _, _, step in gone])
    for error in result["errors"]:
        path, statement, _ = gone[error["step"]]
        raise NeedsFullRebuild(f"{describe(statement.tree)} in {path} can only be evaluated while Julia is built")
    _check_names(result["names"], gone[0][0])
    methods = {}
    for method in result["defined"]:
        path, statement, step = gone[method["step"]]
        replaced = method["replaces"]
        if replaced is None or ("#" in method["name"] and not method["name"].endswith("##kw")):
            continue  # a name that the compiler made: the old one is not found again under it
        if replaced["file"] == step.file and not statement.line <= replaced["line"] <= statement.last_line:
            raise NeedsFullRebuild(
                f"{signatures.pretty(method['signature'])} is defined a second time, in "
                f"{replaced['file']}:{replaced['line']}: which of the two holds depends on their order"
            )
        methods[method["signature"]] = (path, statement, replaced)
    return methods


def _check_evaluation(result: dict[str, Any], evaluated: list[tuple[Replacement, Evaluate]]) -> None:
    for error in result.get("errors", ()):
        replacement, _ = evaluated[error["step"]]
        statement = replacement.statement
        raise UserCodeError(
            f"{replacement.path}:{statement.line}: {describe(statement.tree)} fails when it is evaluated",
            error["message"],
        )
    if evaluated:
        _check_names(result["names"], evaluated[0][0].path)


def _check_names(names: list[dict[str, Any]], path: str) -> None:
    for name in names:
        if name["module"].startswith("Core.Compiler") and name["kind"] == "global":
            continue  # inference counts in globals of its own
        if not (name["kind"] == "function" and name["new"]):
            raise NeedsFullRebuild(f"{path} changes the {name['kind']} {name['module']}.{name['name']}")


def _merge(moves: list[tuple[int, int, int]]) -> Iterator[tuple[int, int, int]]:
    """Neighbouring ranges that moved by the same number of lines, as one."""
    current: tuple[int, int, int] | None = None
    for first, last, by in sorted(moves):
        if current and current[2] == by:
            current = (current[0], last, by)
            continue
        if current:
            yield current
        current = (first, last, by)
    if current:
        yield current


def _definitions(
    evaluated: list[tuple[Replacement, Evaluate]],
    after: dict[str, Any],
    before: Mapping[str, Any],
    deleted: list[tuple[str, Statement, dict[str, Any]]],
) -> Iterator[Definition]:
    seen: Counter[tuple[str, str]] = Counter()
    for method in after["defined"]:
        if "#" in method["name"]:
            continue
        replacement, step = evaluated[method["step"]]
        what = signatures.pretty(method["signature"])
        change = "modified" if method["signature"] in before else "added"
        seen[replacement.path, replacement.statement.text] += 1
        yield Definition(what, replacement.path, method["line"], change)
    for replacement, step in evaluated:
        if replacement.only_documentation:
            what = f"{step.module}.{describe(replacement.statement.tree).removeprefix('method ')}"
            yield Definition(what, replacement.path, replacement.statement.line, "documented")
    for path, _, method in deleted:
        if "#" not in method["name"]:
            yield Definition(signatures.pretty(method["signature"]), path, method["line"], "deleted")
