"""What the statements of a base image's sources ran while Julia was built (`census.jl`)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from ...census import BUILDING, DOCS, Census, CensusEntry, census_of
from ...census import DOCUMENTING as DOCUMENTING_IN_ONE_MODULE
from ...errors import NeedsFullRebuild
from ...includes import SourceFile, evaluations
from ...revision import Evaluate
from ...syntax import Statement, Tree, computes, included, is_method, is_signature, mentions, name_of, only_defines
from ..kept import CensusEntries, keep_census

RECORD, ENTRIES, DOCUMENTED = "census.bin", "census.json", "documented.json"

STARTING = BUILDING | {"base/Base.jl", "base/Base_compiler.jl", "Compiler/src/bootstrap.jl"}
"""Files whose statements compile and load what others define, and begin what is ended when an image is written."""

FAILS = "0" * 16
"""In place of the digest of a statement that can't be evaluated again."""

DOCUMENTING = (
    'const documented = (@doc("a", of_a_method(x::Int)); @doc("a", of_a_function); @doc("a", Checked);'
    ' @doc("a", Core.@__doc__(of_a_mark(x::Int))); @doc("a", Core.@__doc__(of_a_later_mark(x::Int)), false);'
    " [get(Base.Docs.meta(m), Base.Docs.Binding(m, name), nothing)"
    " for m in (Base, Checked) for name in (:of_a_method, :of_a_function, :Checked, :of_a_mark, :of_a_later_mark)])"
)
"""As `revise.DOCUMENTING`. Here, a module has its docstring in itself."""

TIME = re.compile(r"(?:const )?\w+ = time_ns\(\)|push!\(_timings, .*_time_ns\(\)\)\)", re.DOTALL)
"""A statement that notes when Julia was built."""

NO_CODE = frozenset({"export", "public", "import", "using", "module", "global", ".", "tuple"})
"""Heads of statements that run no code of Julia's own."""


@dataclass(frozen=True)
class KeptCensus(Census):
    """The census of a base image."""

    computing: int
    """How many of its entries, the first ones, `revise` can evaluate again. What the others did is not known to be
    taken back."""

    files: Mapping[str, SourceFile]

    @classmethod
    def kept(cls, directory: Path, computing: int, files: Mapping[str, SourceFile]) -> KeptCensus:
        """The one that is in the directory of a base image."""
        return cls(directory / RECORD, CensusEntries(directory / ENTRIES), None, computing, files)

    def documenting(self) -> list[Evaluate]:
        """What documents all that has docstrings, without defining it."""
        return [Evaluate(*one) for one in json.loads(self.record.with_name(DOCUMENTED).read_text())]

    def evaluation(self, entry: CensusEntry) -> Evaluate:
        """How to evaluate a statement of it once more."""
        return entry.evaluation(self.files)

    def check_failing(self, numbers: Sequence[int], names: Set[str]) -> None:
        """Raises NeedsFullRebuild when a statement of which it is not known what it gives ran what changed, or has one
        of the edited names in it."""
        ran = set(numbers)
        word = re.compile("|".join(rf"(?<![\w!@]){re.escape(name)}(?![\w!])" for name in sorted(names)) or "(?!)")
        for number, entry in enumerate(self.entries):
            if entry.fails and (number in ran or word.search(entry.text)):
                raise NeedsFullRebuild(
                    f"{what(entry)} may have been computed with what changed, and can't be evaluated again"
                )


def what(entry: CensusEntry) -> str:
    """Names a statement: the beginning of its text, and where it stands."""
    words = " ".join(entry.text.split())
    return f"`{words[:47] + '...' if len(words) > 50 else words}` in {entry.path}:{entry.line}"


def statements_of(
    parsed: Mapping[str, list[Statement]], files: Mapping[str, SourceFile]
) -> tuple[list[tuple[str, int, Evaluate]], list[tuple[str, int, Evaluate]]]:
    """The statements for a census, each with its file and line: those that `revise` can evaluate again, and others."""
    computing = [
        one
        for one in census_of(parsed, files)
        if one[2].text != DOCUMENTING_IN_ONE_MODULE and not TIME.fullmatch(one[2].text)
    ]
    others: list[tuple[str, int, Evaluate]] = []
    if DOCS in files:
        others.append((DOCS, 0, Evaluate("Base", files[DOCS].name, 1, DOCUMENTING)))
    for path, file in files.items():
        if file.modules == ("Core",) or path in STARTING:
            continue
        for statement in parsed[path]:
            if not computes(statement) and runs(statement) and not TIME.fullmatch(statement.text):
                alone = statement.undocumented()
                steps = ((path, statement.line, step) for step in evaluations(file, alone, alone.text))
                (computing if only_defines(alone.tree) else others).extend(steps)
    return computing, others


def documenting(parsed: Mapping[str, list[Statement]], files: Mapping[str, SourceFile]) -> Iterator[Evaluate]:
    """How each statement that has a docstring, or docstrings in it, documents once more."""
    for path, file in files.items():
        for statement in parsed[path] if file.modules != ("Core",) else ():
            if statement.documentation is not None:
                yield from evaluations(file, statement, statement.only_documentation())
            elif mentions(statement.tree, "@doc") and not statement.is_module:
                yield from evaluations(file, statement, statement.text)


def runs(statement: Statement) -> bool:
    """Whether a statement that does not compute by its form (`computes`) runs code of Julia's own all the same."""
    tree = statement.tree
    if not isinstance(tree, tuple) or included(tree) is not None or statement.documentation is not None:
        return is_method(tree) and _computes_types(tree[1])
    if is_method(tree):
        return _computes_types(tree[1])
    if tree[0] == "call" and name_of(tree[1]) in ("include", "precompile"):
        return False  # what is included are statements of their own
    return tree[0] not in NO_CODE


def _computes_types(signature: Tree) -> bool:
    """Whether a method's signature has a type in it that is computed."""
    while isinstance(signature, tuple) and signature[0] == "where":
        if any(map(_calls, signature[2:])):
            return True
        signature = signature[1]
    if isinstance(signature, tuple) and signature[0] == "::" and len(signature) == 3:
        signature = signature[1]  # the type of what it returns is computed in its body
    if not is_signature(signature):
        return False
    return any(map(_calls, signature[1:]))


def _calls(tree: Tree) -> bool:
    if not isinstance(tree, tuple) or tree[:1] in (("quote",), ()):
        return False
    if tree[0] in ("kw", "=") and len(tree) > 1:
        return _calls(tree[1])
    if tree[0] == "call":
        return tree[1] != "typeof" or any(map(_calls, tree[2:]))
    return any(map(_calls, tree[1:]))


def keep(
    made: Path,
    computing: Sequence[tuple[str, int, Evaluate]],
    others: Sequence[tuple[str, int, Evaluate]],
    gave: Sequence[str],
    documenting: Iterable[Evaluate],
) -> None:
    """Writes the statements of a census, what they gave, and those that document into a new base image."""
    digests = [FAILS if one.startswith("error: ") else one for one in gave]
    keep_census(made / ENTRIES, [*computing, *others], digests)
    (made / DOCUMENTED).write_text(json.dumps([[one.module, one.file, one.line, one.text] for one in documenting]))
