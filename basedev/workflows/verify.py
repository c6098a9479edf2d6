"""`basedev verify`: the chained image and a full rebuild of the same sources, compared fact by fact.

A Julia program (`describe.jl`) runs on each image and writes what is in it: modules, names, values, types, methods
with their code and lines, docstrings. What one has and the other has not is a difference.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import process
from ..checkout import Checkout
from ..errors import InternalError, NeedsFullRebuild, SetupError
from ..signatures import pretty
from .build import ImageBuilder, Result
from .run import julia_command

DESCRIBE = Path(__file__).parent / "describe.jl"

KINDS = {
    "module": "module",
    "name": "name",
    "value": "value",
    "type": "type",
    "method": "method",
    "place": "place",
    "code": "lowered code",
    "lines": "line table",
    "first lines": "lines",
    "docstring": "docstring",
    "docstring line": "docstring's line",
    "docstring data": "docstring's data",
    "docstring order": "docstrings' order",
    "test": "tests",
}
"""Kinds of fact as `describe.jl` names them, in the order in which differences are told, and as they are told."""

IMPLIED = {
    "value": "name",
    "type": "name",
    "place": "method",
    "code": "method",
    "lines": "method",
    "first lines": "method",
    "docstring line": "docstring",
    "docstring data": "docstring",
    "docstring order": "docstring",
}
"""A thing that one image lacks differs in all kinds; it is told once, as this kind."""

MOVABLE = frozenset({"first lines", "docstring line"})
"""Kinds of fact that a chained image may have from the base image where an edit further up moved the source text."""

CONTEXT, WIDTH = 24, 100
"""Characters that are told of a description: before the first difference, and in all."""

SECONDS = 6.0
"""Expected of a description, with both images described at the same time."""

Facts = Counter[tuple[str, str, str]]
"""How often each (kind, what, description) occurs."""


@dataclass
class Verification:
    """What the comparison found."""

    status: str
    """"verified", "different", or "full": the sources can't be chained, so there is nothing to compare."""
    chained: Result | None = None
    rebuilt: Result | None = None
    full_rebuild_reason: str | None = None
    facts: int = 0
    """Facts of the full rebuild."""
    differences: list[str] = field(default_factory=list)
    moved: int = 0
    """Facts of source lines that are still the base image's, for text that the edit moved."""
    native_more: int = 0
    """Specializations with native code in the chained image only; legal, like `native_fewer`."""
    native_fewer: int = 0

    def to_json(self) -> dict[str, Any]:
        """The object that `--json` prints."""
        known = self.chained.to_json() if self.chained else {"full_rebuild_reason": self.full_rebuild_reason}
        return {
            **known,
            "status": self.status,
            "full_image": str(self.rebuilt.image) if self.rebuilt else None,
            "facts": self.facts,
            "differences": self.differences,
            "moved": self.moved,
            "native": {"more": self.native_more, "fewer": self.native_fewer},
        }


def verify(builder: ImageBuilder, tests: Sequence[str] = ()) -> Verification:
    """Compares the chained image of the present sources with the full rebuild, each from the store or made now.

    `tests` are names of the checkout's tests to run on both images. Raises what `Builder.build` does except
    NeedsFullRebuild, and InternalError when an image can't be described.
    """
    try:
        chained = builder.build(engine=builder.chained)
    except NeedsFullRebuild as reason:
        return Verification("full", full_rebuild_reason=str(reason))
    rebuilt = builder.reference()  # after that, so that what the checkout's own make builds can't get into both
    if chained.sources_id != rebuilt.sources_id:
        raise SetupError("the sources changed while they were built: run basedev verify again")
    assert chained.image is not None and rebuilt.image is not None
    ours, theirs = describe(builder, {"the chained image": chained.image, "the full rebuild": rebuilt.image})
    moved: Facts = Counter()
    if any(kind in MOVABLE for kind, _, _ in ours - theirs):
        (before,) = describe(builder, {"the base image": builder.base.sysimage})
        ours, theirs, moved = set_aside(ours, theirs, before)
    if tests:
        ours += outcomes(builder, chained.image, tests, "the chained image")
        theirs += outcomes(builder, rebuilt.image, tests, "the full rebuild")
    differences = compare(ours, theirs)
    more, fewer = native_difference(builder, chained.image, rebuilt.image)
    return Verification(
        "different" if differences else "verified",
        chained,
        rebuilt,
        facts=theirs.total(),
        differences=differences,
        moved=moved.total(),
        native_more=more,
        native_fewer=fewer,
    )


def describe(builder: ImageBuilder, images: Mapping[str, Path]) -> list[Facts]:
    """What is in some images, as `describe.jl` tells it; each has a name for messages. Raises InternalError."""
    builder.progress(f"describing {' and '.join(images)}", SECONDS)
    with builder.storage.staging("verify") as area:
        depot = area / "depot"  # the same for both, for it is a value in Base
        directories = [area / name.replace(" ", "-") for name in images]
        commands = []
        for directory, image in zip(directories, images.values(), strict=True):
            directory.mkdir()
            # from there, so that both have the same arguments
            command = julia_command(builder.checkout, image, ["--startup-file=no", str(DESCRIBE), "facts"])
            commands.append(["env", f"--chdir={directory}", *_undisturbed(command, depot)])
        try:
            process.run_all(commands)
        except InternalError as error:
            raise InternalError(f"{' or '.join(images)} can't be described: {error.message}", error.detail) from error
        return [
            read_facts((directory / "facts").read_text("utf-8", errors="surrogateescape")) for directory in directories
        ]


def set_aside(ours: Facts, theirs: Facts, before: Facts) -> tuple[Facts, Facts, Facts]:
    """Both images' facts without lines that are still those of the base image, and these.

    Native code and line tables of the base image are kept as they are, so that code tells the lines that it had in the
    base image although an edit further up in the file moved it. (Methods themselves tell their new lines.) Closures
    that macros make have lines of the user's file under the name of the macro's file, which nothing can tell apart.
    """
    stale: Facts = Counter()
    for fact, count in (ours - theirs).items():
        movable = fact[0] in MOVABLE or (fact[0] == "lines" and is_left_over(fact[1]))
        if movable and before[fact] >= count:
            stale[fact] = count
    wanted = Counter((kind, what) for kind, what, _ in stale.elements())
    replaced: Facts = Counter()
    for fact in (theirs - ours).elements():
        if wanted[fact[:2]]:
            wanted[fact[:2]] -= 1
            replaced[fact] += 1
    return ours - stale, theirs - replaced, stale


def _undisturbed(command: Sequence[str], depot: Path) -> list[str | Path]:
    """A command without what the user set for Julia in the environment."""
    return [*process.without_settings("JULIA_.*"), f"JULIA_DEPOT_PATH={depot}", *command]


def read_facts(text: str) -> Facts:
    """The facts in a description."""
    facts: Facts = Counter()
    for line in text.split("\n"):
        if line:
            kind, what, description = line.split("\t", 2)
            facts[kind, what, description] += 1
    return facts


def compare(ours: Facts, theirs: Facts) -> list[str]:
    """The differences between a chained image's facts and a full rebuild's, one a line, by kind."""
    found: dict[tuple[str, str], tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
    for side, only in enumerate((ours - theirs, theirs - ours)):
        for kind, what, description in only.elements():
            found[kind, what][side].append(description)
    for kind, what in list(found):
        if is_left_over(what) and not found[kind, what][1]:
            del found[kind, what]
    lacking = {(kind, what) for (kind, what), (here, there) in found.items() if len(here) != len(there)}
    lacking |= {(kind, re.sub(r"( in \S+) .*", r"\1", what)) for kind, what in lacking if kind == "docstring"}
    order = list(KINDS)
    return [
        _told(kind, what, sorted(here), sorted(there))
        for (kind, what), (here, there) in sorted(found.items(), key=lambda one: (order.index(one[0][0]), one[0][1]))
        if (IMPLIED.get(kind), what) not in lacking
    ]


def is_left_over(what: str) -> bool:
    """Whether a thing only in the chained image is of Julia's making, for a definition that was replaced.

    The function types of closures, generators and keywords keep their names there; nothing refers to them.
    """
    return re.search(r"#(?!@)", what) is not None


def _told(kind: str, what: str, here: list[str], there: list[str]) -> str:
    thing = f"{KINDS[kind]} {pretty(what) if what.startswith('Tuple{') else what}"
    if not here or not there:
        (some, *more), other = (here, "full rebuild") if here else (there, "chained image")
        count = f"{len(more) + 1} of them " if more else ""
        return f"{thing}: {count}missing in the {other} ({_around(some, 0)})"
    pairs = enumerate(zip(here[0], there[0], strict=False))
    begin = next((place for place, (ours, theirs) in pairs if ours != theirs), min(len(here[0]), len(there[0])))
    return f"{thing}: {_around(here[0], begin)} in the chained image, {_around(there[0], begin)} in the full rebuild"


def _around(text: str, place: int) -> str:
    begin = max(0, place - CONTEXT)
    part = text[begin : begin + WIDTH].strip()
    return f"{'...' if begin else ''}{part}{'...' if begin + WIDTH < len(text) else ''}" or "nothing"


def native_difference(builder: ImageBuilder, chained: Path, rebuilt: Path) -> tuple[int, int]:
    """How many specializations have native code in the chained image only, and how many in the full rebuild only.

    Names that Julia made count as the same whatever their numbers.
    """
    ours, theirs = (
        Counter(re.sub(r"#s?\d+", "#", signature) for signature in builder.native_signatures(image))
        for image in (chained, rebuilt)
    )
    return (ours - theirs).total(), (theirs - ours).total()


def outcomes(builder: ImageBuilder, image: Path, tests: Iterable[str], where: str) -> Facts:
    """How many of each test file's tests pass, fail, break and so on: facts of the kind "test"."""
    facts: Facts = Counter()
    checkout: Checkout = builder.checkout
    for name in tests:
        builder.progress(f"running the tests {name} on {where}", 30.0)
        command = julia_command(checkout, image, ["runtests.jl", name])
        with builder.storage.staging("verify") as area:
            log = area / "log.txt"
            try:
                process.run(_undisturbed(command, area / "depot"), cwd=checkout.tree / "test", log=log)
            except InternalError as error:  # tests failed, or Julia did
                ended = error.message
            else:
                ended = ""
            told = summary(log.read_text(errors="replace"))
        facts["test", name, told or ended or "no summary"] += 1
    return facts


def summary(output: str) -> str:
    """The counts of all tests from the last summary in the output of `test/runtests.jl`: "450 Pass, 4 Broken"."""
    lines = re.sub(r"\x1b\[[0-9;]*m", "", output).splitlines()
    found = ""
    for number, line in enumerate(lines):
        if not line.startswith("Test Summary:"):
            continue
        overall = next((later for later in lines[number + 1 :] if later.strip().startswith("Overall")), "")
        ends = {match.end(): match[0] for match in re.finditer(r"\w+", line) if match.start() > line.find("|")}
        counts = {match.end(): match[0] for match in re.finditer(r"\d+", overall)}
        # a column's numbers end where its title does; a zero may be left out
        found = ", ".join(f"{counts[end]} {title}" for end, title in ends.items() if end in counts) or found
    return found
