"""What was computed while Julia was built, statement by statement, and which of it an edit changes.

A *census* of a base image has, for each statement that binds a value or expands a macro, a digest of what it gives, and
in the host's record what it ran. What an edit reaches is evaluated once more, and its digest compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from .difference import FileDifference
from .evaluator import Evaluator
from .includes import SourceFile, evaluations
from .revision import Evaluate, Move, Step
from .syntax import Statement, computes

MACHINERY_OF_DOCS = "base/docs/"
DOCS = "base/docs/Docs.jl"
DOCUMENTING = (
    'const documented = (@doc("a", of_a_method(x::Int)); @doc("a", of_a_function); @doc("a", Base); @doc("a", Checked);'
    ' @doc("a", Core.@__doc__(of_a_mark(x::Int))); @doc("a", Core.@__doc__(of_a_later_mark(x::Int)), false);'
    " [Base.Docs.meta(Base)[Base.Docs.Binding(Base, name)]"
    " for name in (:of_a_method, :of_a_function, :Base, :Checked, :of_a_mark, :of_a_later_mark)])"
)
"""A statement for a census: its value is what becomes of docstrings of methods, functions, modules, and what macros
mark in their results. Others are evaluated without theirs. Names that nothing else documents."""

DOCUMENTS_OTHERWISE = "what documents definitions changed, and with it the docstrings of all that there are"

BUILDING = frozenset({"base/sysimg.jl", "base/compiler/bootstrap.jl"})
"""Files whose statements compile and load what others define."""

WORTH_ASKING_THE_IMAGE = 60
"""Statements: on the image, where they run native code, each takes a third of the time, but a process has to start."""

FEW = 8
"""Changed statements, after which other statements mostly give what they gave."""

MOST_IMAGES = 3
"""Made to be asked, one after another, of which each gave something else than was expected of it."""


class CensusEntry(NamedTuple):
    """A statement of the base image's sources that computes something, in one of the modules that include its file."""

    path: str
    line: int
    """Where the statement begins."""
    module: str
    text_line: int
    text: str
    """What to evaluate, without a docstring, and on which line it begins."""
    digest: str
    """Of what it gives on the base image."""

    @property
    def fails(self) -> bool:
        """Whether it can only be evaluated while Julia is built."""
        return not self.digest.strip("0")

    def evaluation(self, files: Mapping[str, SourceFile]) -> Evaluate:
        """How to evaluate it once more."""
        return Evaluate(self.module, files[self.path].name, self.text_line, self.text)


@dataclass(frozen=True)
class Census:
    """What the statements of the base image's sources run while they are evaluated."""

    record: Path
    """The host's own."""
    entries: Sequence[CensusEntry]
    dependencies: Path | None
    """The base image's record, to look at what the steps really change; without one, at all that Julia invalidates."""


@dataclass
class Question:
    """What an image is asked when it is made: whether unchanged statements give there what they gave.

    That is cheaper where few changed statements reach many: on an image they run native code. `revise` says which
    statements are `left`, and whoever makes the image evaluates them there and notes the `answer`.
    """

    left: list[tuple[CensusEntry, Evaluate]] = field(default_factory=list)
    """With how each is evaluated, from where it is now."""
    otherwise: set[CensusEntry] = field(default_factory=set)
    """Those that gave something else on an image, which `revise` is to look at."""
    images: int = 0
    """That gave an answer which was not expected."""

    def leave(
        self, entries: Sequence[CensusEntry], files: Mapping[str, SourceFile], differences: Mapping[str, FileDifference]
    ) -> Sequence[CensusEntry]:
        """Which of some statements are to be looked at now; the others are left to be asked."""
        looked_at = [entry for entry in entries if entry in self.otherwise]
        asked = [entry for entry in entries if entry not in self.otherwise]
        self.left = []
        changed = sum(len(difference.evaluated) for difference in differences.values()) - len(self.otherwise)
        if changed > FEW or len(asked) < WORTH_ASKING_THE_IMAGE or self.images >= MOST_IMAGES:
            return entries
        now = {
            (path, old.line, old.undocumented().text): new.undocumented()
            for path, difference in differences.items()
            for old, new in difference.unchanged
        }
        for entry in asked:
            statement = entry.evaluation(files)
            if new := now.get((entry.path, entry.line, entry.text)):
                statement = replace(statement, line=new.line, text=new.text)
            self.left.append((entry, statement))
        return looked_at

    def answer(self, digests: Sequence[str]) -> bool:
        """Whether statements gave on an image what they gave before; which did not is kept."""
        other = {entry for (entry, _), digest in zip(self.left, digests, strict=True) if digest != entry.digest}
        self.otherwise |= other
        self.images += bool(other)
        return not other


def census_of(
    parsed: Mapping[str, list[Statement]], files: Mapping[str, SourceFile]
) -> Iterator[tuple[str, int, Evaluate]]:
    """The statements for a census, each with its file and line.

    What builds Julia, rather than to define something, is not evaluated again.
    """
    if DOCS in files:
        yield DOCS, 0, Evaluate("Base", files[DOCS].name, 1, DOCUMENTING)
    for path, file in files.items():
        if file.modules == ("Core",) or path in BUILDING:
            continue
        for statement in parsed[path]:
            if computes(statement):
                alone = statement.undocumented()
                for step in evaluations(file, alone, alone.text):
                    yield path, statement.line, step


def compared(
    evaluator: Evaluator, steps: Sequence[Step], entries: Sequence[CensusEntry], files: Mapping[str, SourceFile]
) -> Iterator[tuple[CensusEntry, tuple[str, str, str]]]:
    """What statements that do not give the same as on the base image give before the steps, once more, and after."""
    # Lines that moved make no difference: they are put right in what there is.
    steps = [step for step in steps if not isinstance(step, Move)]
    statements = [entry.evaluation(files) for entry in entries]
    results = evaluator.results(steps, statements) if entries else []
    other = [number for number, entry in enumerate(entries) if results[number] != entry.digest]
    if other:
        answers = evaluator.compare(steps, [statements[number] for number in other])
        yield from zip((entries[number] for number in other), answers, strict=True)


def documents_otherwise(
    evaluator: Evaluator,
    census: Census,
    steps: Sequence[Step],
    files: Mapping[str, SourceFile],
    differences: Mapping[str, FileDifference],
) -> bool:
    """Whether documenting runs what changed in the files of its machinery: in which cases it does something else is
    hard to tell."""
    if not any(
        path.startswith(MACHINERY_OF_DOCS)
        and (difference.removed or not all(one.only_documentation for one in difference.evaluated))
        for path, difference in differences.items()
    ):
        return False
    names = {file.name for path, file in files.items() if path.startswith(MACHINERY_OF_DOCS)}
    own = [step for step in steps if isinstance(step, Evaluate) and step.file in names]
    answer = evaluator.computed(own, census.record, census.dependencies)
    return bool(answer["errors"]) or any(census.entries[one].text == DOCUMENTING for one in answer["computed"])
