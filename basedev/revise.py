"""Old and new sources -> a revision, or the reason why only a full rebuild is right.

What a statement defines is not guessed from its form: the old statements that are gone are evaluated once more in
a process that is thrown away, and the methods that this replaces are the ones that they had made. Whatever
`@eval` loop or macro made them, the difference between these and the methods of the new statements is
what has to be deleted.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from . import signatures
from .errors import NeedsFullRebuild, UserCodeError
from .revision import Definition, Delete, Evaluate, Move, Revision, Step
from .sources import ChangeSet, Sources
from .syntax import (
    Statement,
    contains,
    describe,
    documented,
    exported,
    may_define,
    only_adds_names,
    only_defines_methods,
    statements,
)

COMPILER = "Core.Compiler"

OldMethod = tuple[str, Statement, dict[str, Any]]
"""A method of the base image: its source file, the statement that defined it, and what the host tells of it."""


class Evaluator(Protocol):
    """A process on the base image (the engine's host)."""

    def parse(self, text: bytes) -> list[dict[str, Any]]:
        """The statements of a source text."""

    def trial(self, steps: Sequence[Step]) -> dict[str, Any]:
        """What evaluating the steps would do."""


@dataclass(frozen=True)
class SourceFile:
    """A file of the base image: the name it has there and the modules that include it."""

    name: str
    modules: tuple[str, ...]


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
    evaluator: Evaluator,
) -> Revision:
    """The revision from the sources of a base image to others.

    `files` are the files in the image by path. Raises
    UserCodeError when the new sources do not parse or fail to evaluate, NeedsFullRebuild with the reason when
    evaluating definitions would not give what a rebuild gives.
    """
    changes = ChangeSet.between(old, new)
    differences = _differences(changes, old, new, files, evaluator)  # before any reason: errors come first
    _check_files(changes, files)
    for path, difference in differences.items():
        _check_statements(path, files[path], difference)
    gone = [
        (path, statement, step)
        for path, difference in differences.items()
        for statement in difference.removed
        for step in _steps(files[path], statement, statement.text)
    ]
    evaluated = [
        (replacement, step)
        for path, difference in differences.items()
        for replacement in difference.evaluated
        for step in _steps(files[path], replacement.statement, replacement.text)
        if not (replacement.only_documentation and step.module.startswith(COMPILER))
    ]
    before = _methods_of_removed(gone, evaluator)
    after = evaluator.trial([step for _, step in evaluated]) if evaluated else {"defined": [], "names": []}
    _check_evaluation(after, evaluated)
    for method in after["defined"]:
        replaced = method["replaces"]
        if replaced and "#" not in method["name"] and method["signature"] not in before:
            raise _defined_twice(replaced)
    defined = {method["signature"] for method in after["defined"]}
    deleted = [methods for signature, methods in before.items() if signature not in defined]
    if deleted:
        _check_deleted(deleted, old, differences, files, evaluator)
    return Revision(
        (
            *(step for _, step in evaluated),
            *(Delete(method["module"], method["name"], method["signature"]) for _, _, method in deleted),
            *(Move(files[path].name, *move) for path in differences for move in _merge(differences[path].moves)),
        ),
        tuple(_definitions(evaluated, after, before, deleted)),
    )


def _check_statements(path: str, file: SourceFile, difference: FileDifference) -> None:
    """Raises NeedsFullRebuild unless the difference is one of methods and of documentation that stays or is new."""
    if file.modules == ("Core",) and (difference.removed or difference.evaluated):
        raise NeedsFullRebuild(f"{path} is the Core module, with which everything begins")
    if file.modules == (COMPILER,) and (difference.removed or difference.evaluated):
        raise NeedsFullRebuild(f"{path} is a part of Core.Compiler, by which everything is compiled")
    _reduce_exports(difference)
    defining = [replacement.statement for replacement in difference.evaluated if not replacement.only_documentation]
    gone = {describe(statement.tree) for statement in difference.removed}
    for statement in (*difference.removed, *defining):
        added = statement not in difference.removed and describe(statement.tree) not in gone
        chained = only_defines_methods(statement.tree) or exported(statement.tree) is not None
        if not chained and not (added and only_adds_names(statement.tree)):
            raise NeedsFullRebuild(f"{describe(statement.tree)} in {path}:{statement.line} can't be chained yet")
    kept = {(one.inside, documented(one.tree)) for one in defining if one.documentation is not None}
    for statement in difference.removed:
        if statement.documentation is not None and (statement.inside, documented(statement.tree)) not in kept:
            raise NeedsFullRebuild(f"the docstring of {describe(statement.tree)} in {path} is gone")


def _reduce_exports(difference: FileDifference) -> None:
    """Leaves of changed export statements what they export more; takes nothing back."""
    old, new = Counter[tuple[tuple[str, ...], str]](), Counter[tuple[tuple[str, ...], str]]()
    for statement in difference.removed:
        old.update((statement.inside, name) for name in exported(statement.tree) or ())
    for replacement in difference.evaluated:
        statement = replacement.statement
        new.update((statement.inside, name) for name in exported(statement.tree) or ())
    if old.keys() - new.keys():
        _, name = min(old.keys() - new.keys())
        raise NeedsFullRebuild(f"{name} is not exported any more: who uses the module has resolved the name")
    difference.removed = [one for one in difference.removed if exported(one.tree) is None]
    if not old:
        return
    reduced = []
    for replacement in difference.evaluated:
        statement = replacement.statement
        names = exported(statement.tree)
        if names is not None:
            more = sorted(name for name in names if (statement.inside, name) not in old)
            if not more:
                continue
            text = "export " + ", ".join(more)
            statement = replace(statement, text=text, tree=("export", *more))
        reduced.append(Replacement(replacement.path, statement, replacement.only_documentation))
    difference.evaluated = reduced


def _differences(
    changes: ChangeSet, old: Sources, new: Sources, files: Mapping[str, SourceFile], evaluator: Evaluator
) -> dict[str, FileDifference]:
    found = {}
    reasons: list[NeedsFullRebuild] = []
    order = {path: number for number, path in enumerate(files)}
    for path in sorted(changes.paths, key=lambda path: order.get(path, len(order))):
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


def _check_files(changes: ChangeSet, files: Mapping[str, SourceFile]) -> None:
    for path in changes.paths:
        if path.endswith("Project.toml"):
            raise NeedsFullRebuild(f"{path} changed: it tells which packages a standard library may load")
    for path in changes.deleted:
        if path in files:
            raise NeedsFullRebuild(f"{path} was deleted")


def _steps(file: SourceFile, statement: Statement, text: str) -> Iterator[Evaluate]:
    """The evaluation of a statement in each module that includes its file."""
    for module in file.modules:
        inside = _full_module(module, statement.inside)
        if module == COMPILER and statement.documentation is not None:
            # Core.Compiler has no documentation (its `@doc` leaves the definition alone)
            definition = statement.text[statement.definition_at :]
            yield Evaluate(inside, file.name, statement.definition_line, definition)
        else:
            yield Evaluate(inside, file.name, statement.line, text)


def _full_module(module: str, inside: tuple[str, ...]) -> str:
    """A module's full name. What a package's own file defines at top level is a root of its own, as is Base."""
    if inside and module in ("Base.__toplevel__", "Main"):
        return ".".join(inside)
    return ".".join((module, *inside))


def _methods_of_removed(gone: list[tuple[str, Statement, Evaluate]], evaluator: Evaluator) -> dict[str, OldMethod]:
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
            raise _defined_twice(replaced)
        methods[method["signature"]] = (path, statement, replaced)
    return methods


def _check_deleted(
    deleted: list[OldMethod],
    old: Sources,
    differences: Mapping[str, FileDifference],
    files: Mapping[str, SourceFile],
    evaluator: Evaluator,
) -> None:
    """Raises NeedsFullRebuild when a statement that stays defines a deleted method too: a rebuild would have that."""
    names = {method["name"].removesuffix("##kw") for _, _, method in deleted}
    others: list[Evaluate] = []
    for path, file in files.items():
        text = old.contents[path]
        if not any(name.encode() in text for name in names):
            continue
        gone = {statement.line for statement in differences[path].removed} if path in differences else set()
        for statement in statements(evaluator.parse(text), text, path):
            if statement.line in gone or not only_defines_methods(statement.tree):
                continue
            if any(may_define(statement.tree, name) for name in names):
                others += _steps(file, statement, statement.text)
    signatures_gone = {method["signature"] for _, _, method in deleted}
    for method in evaluator.trial(others)["defined"] if others else ():
        if method["signature"] in signatures_gone:
            raise _defined_twice(method)


def _defined_twice(method: Mapping[str, Any]) -> NeedsFullRebuild:
    return NeedsFullRebuild(
        f"{signatures.pretty(method['signature'])} is defined a second time, in {method['file']}:{method['line']}: "
        "which of the two holds depends on their order"
    )


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
        if name["module"].startswith(COMPILER) and name["kind"] == "global":
            continue  # inference counts in globals of its own
        if not name["new"] or name["kind"] == "module":
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
    deleted: list[OldMethod],
) -> Iterator[Definition]:
    for method in after["defined"]:
        replacement, step = evaluated[method["step"]]
        if "#" in method["name"] or step.module.startswith(COMPILER):
            continue  # a name of the compiler's making; a file that Core.Compiler shares is told as Base's
        what = signatures.pretty(method["signature"])
        change = "modified" if method["signature"] in before else "added"
        yield Definition(what, replacement.path, method["line"], change)
    for replacement, step in evaluated:
        tree, line = replacement.statement.tree, replacement.statement.line
        if not only_defines_methods(tree) and not replacement.only_documentation:
            if not step.module.startswith(COMPILER):
                yield Definition(f"{describe(tree)} of {step.module}", replacement.path, line, "added")
        elif replacement.only_documentation:
            what = f"{step.module}.{describe(replacement.statement.tree).removeprefix('method ')}"
            yield Definition(what, replacement.path, replacement.statement.line, "documented")
    for path, _, method in deleted:
        if "#" not in method["name"] and not method["module"].startswith(COMPILER):
            yield Definition(signatures.pretty(method["signature"]), path, method["line"], "deleted")
