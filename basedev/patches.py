"""Changes to Julia's runtime as files of our own and anchored insertions, which outlive the drift of Julia's sources.

A series (`patches/FAMILY/series.toml`; its form is described in `patches/README.md`) says of each insertion in which
file and function it goes, and which short expression it stands before or after. An anchor must stand there exactly
once, comments apart; where one does not, nothing is changed. What is inserted is marked, so that a tree tells by itself
what was done to it, and it can be undone byte for byte.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import tomli

from . import anchors
from .errors import InternalError, SetupError, UserCodeError

ROOTS = (Path(__file__).resolve().parent.parent / "patches", Path(sys.prefix, "share/basedev/patches"))
"""Where the series can be: in the repository, or where a package was installed."""

Read = Callable[[str], bytes | None]
"""The contents of a file of a tree by its path; None if there is none."""


@dataclass(frozen=True)
class Insertion:
    """A text to be put into a file of Julia's."""

    id: str
    path: str
    function: str | None
    """How the definition begins, up to some point behind the name, that has the anchor; None: the file has it."""
    anchor: str
    after: bool
    text: str
    """Whole lines, or part of a line."""
    having: str | None = None
    """A file of Julia's: only trees that have it get this."""
    lacking: str | None = None
    """A file of Julia's: only trees that don't have it get this."""

    @property
    def is_lines(self) -> bool:
        """Whether it stands in lines of its own."""
        return self.text.endswith("\n")


@dataclass(frozen=True)
class Patch:
    """What belongs together, and is one commit upstream."""

    subject: str
    message: str
    files: Mapping[str, bytes]
    """New files by path."""
    insertions: tuple[Insertion, ...]


@dataclass(frozen=True)
class Series:
    """All changes for a family of Julia's versions, in their order."""

    family: str
    """How `VERSION` begins in the trees that it is for: "1.12", "1.13"."""
    patches: tuple[Patch, ...]

    @cached_property
    def insertions(self) -> tuple[Insertion, ...]:
        """Those of all patches."""
        return tuple(insertion for patch in self.patches for insertion in patch.insertions)

    @cached_property
    def files(self) -> dict[str, bytes]:
        """Those of all patches."""
        return {path: content for patch in self.patches for path, content in patch.files.items()}

    @property
    def paths(self) -> tuple[str, ...]:
        """The files that are changed or added."""
        return tuple(dict.fromkeys([*self.files, *(insertion.path for insertion in self.insertions)]))

    @property
    def told_apart_by(self) -> frozenset[str]:
        """The files of Julia's by which trees of the family differ in what they get."""
        return frozenset(path for one in self.insertions for path in (one.having, one.lacking) if path)

    def is_for(self, version: str) -> bool:
        """Whether a tree with this `VERSION` is of its family."""
        return re.match(re.escape(self.family) + r"(?!\d)", version) is not None

    def of(self, read: Read) -> Series:
        """What of it is for a tree: the family's sources are not laid out alike in all commits."""
        there = {path: read(path) is not None for path in self.told_apart_by}

        def is_for_it(one: Insertion) -> bool:
            return (not one.having or there[one.having]) and (not one.lacking or not there[one.lacking])

        patches = (replace(patch, insertions=tuple(filter(is_for_it, patch.insertions))) for patch in self.patches)
        return replace(self, patches=tuple(patches))


@dataclass(frozen=True)
class Finding:
    """Why a series can't be applied to a file."""

    path: str
    id: str | None
    """The insertion, if it is about one."""
    problem: str

    def __str__(self) -> str:
        return f"{self.path}: {f'{self.id}: ' if self.id else ''}{self.problem}"


def load_series(directory: Path) -> Series:
    """Reads a series. Raises InternalError when it is not in the form that `patches/README.md` describes."""
    file = directory / "series.toml"
    try:
        about = tomli.loads(file.read_text())
        series = Series(about["family"], tuple(_patch(directory, table) for table in about["patch"]))
        if outside := [path for path in (*series.paths, *series.told_apart_by) if not _is_below(path)]:
            raise ValueError(f"{outside[0]} is no path in a tree")
        ids = [insertion.id for insertion in series.insertions]
        if twice := sorted({one for one in ids if ids.count(one) > 1}):
            raise ValueError(f"there are several insertions {', '.join(twice)}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InternalError(f"{file} is no series of patches: {error!r}") from error
    return series


def _is_below(path: str) -> bool:
    return not {"", ".", ".."} & {*path.split("/")} and "\0" not in path


def _patch(directory: Path, table: Mapping[str, Any]) -> Patch:
    files = {entry["path"]: (directory / entry["from"]).read_bytes() for entry in table.get("file", ())}
    insertions = tuple(map(_insertion, table.get("insertion", ())))
    return Patch(table["subject"], table["message"].strip(), files, insertions)


def _insertion(entry: Mapping[str, Any]) -> Insertion:
    after = "after" in entry
    anchor = entry["after" if after else "before"]
    where = (entry.get("having"), entry.get("lacking"))
    insertion = Insertion(entry["id"], entry["path"], entry.get("in"), anchor, after, entry["text"], *where)
    if unknown := entry.keys() - {"id", "path", "in", "before", "after", "text", "having", "lacking"}:
        raise ValueError(f"{insertion.id} has {', '.join(sorted(unknown))}")
    if after and "before" in entry:
        raise ValueError(f"{insertion.id} stands before and after something")
    if not anchor.strip() or (insertion.function is not None and not insertion.function.strip()):
        raise ValueError(f"{insertion.id} has an empty anchor")
    if not re.fullmatch(r"[\w-]+", insertion.id):
        raise ValueError(f"{insertion.id!r} is no name for an insertion")
    if "\n" in insertion.text and not insertion.is_lines:
        raise ValueError(f"{insertion.id} is neither whole lines nor part of one")
    return insertion


def root() -> Path:
    """Where the series are. Raises SetupError when they are nowhere."""
    found = next((root for root in ROOTS if root.exists()), None)
    if found is None:
        raise SetupError(f"the series of patches are neither in {ROOTS[0]} nor in {ROOTS[1]}: install basedev again")
    return found


def all_series() -> tuple[Series, ...]:
    """The series that there are."""
    return tuple(load_series(file.parent) for file in sorted(root().glob("*/series.toml")))


def series_for(read: Read, among: Iterable[Series] | None = None) -> Series:
    """The series for a tree by what its file `VERSION` says, and what of it is for that tree. Raises SetupError when
    there is none."""
    version = version_of(read)
    series = tuple(all_series() if among is None else among)
    for one in series:
        if one.is_for(version):
            return one.of(read)
    raise SetupError(f"there are no patches for Julia {version}, only for {', '.join(one.family for one in series)}")


# Marks. A part of a line stands between two comments, lines between two lines of comment, and a file of our own has one
# at its top. Each has a digest of what it is for.

_LINES = re.compile(
    r"(?://|#) basedev (?P<id>[\w-]+) (?P<digest>[0-9a-f]{8}) \{\n(?P<text>.*?)(?://|#) basedev \}\n", re.DOTALL
)
_PART = re.compile(
    r"(?:/\*|#=) basedev (?P<id>[\w-]+) (?P<digest>[0-9a-f]{8}) \{ (?:\*/|=#)(?P<text>[^\n]*?)"
    r"(?:/\*|#=) basedev \} (?:\*/|=#)"
)
_FILE = re.compile(r"(?://|#) basedev file (?P<digest>[0-9a-f]{8})\n")
_TRACE = re.compile(r"(?://|#|/\*|#=) ?basedev (?:\}|[\w-]+ [0-9a-f]{8})")


def _digest(text: str) -> str:
    return hashlib.sha256(_encoded(text)).hexdigest()[:8]


def _marked(insertion: Insertion) -> str:
    begin, end = f"basedev {insertion.id} {_digest(insertion.text)} {{", "basedev }"
    julia = anchors.is_julia(insertion.path)
    if insertion.is_lines:
        mark = "#" if julia else "//"
        return f"{mark} {begin}\n{insertion.text}{mark} {end}\n"
    left, right = ("#=", "=#") if julia else ("/*", "*/")
    return f"{left} {begin} {right}{insertion.text}{left} {end} {right}"


def _marked_file(path: str, content: bytes) -> bytes:
    mark = "#" if anchors.is_julia(path) else "//"
    return f"{mark} basedev file {_digest(_decoded(content))}\n".encode() + content


@dataclass(frozen=True)
class Applied:
    """What a file of a tree has of ours."""

    marks: frozenset[tuple[str, str]] = frozenset()
    """Insertions, or the whole file ("file"), each with the digest of its text."""
    problem: str | None = None
    """Why it can't be taken back, if so."""

    @property
    def is_ours(self) -> bool:
        """Whether all of the file is."""
        return any(id == "file" for id, _ in self.marks)


def _applied(content: bytes) -> Applied:
    text = _decoded(content)
    if match := _FILE.match(text):
        edited = _digest(text[match.end() :]) != match["digest"]
        return Applied(frozenset({("file", match["digest"])}), "it was edited" if edited else None)
    found = [*_LINES.finditer(text), *_PART.finditer(text)]
    marks = frozenset((match["id"], match["digest"]) for match in found)
    edited_ids = sorted(match["id"] for match in found if _digest(match["text"]) != match["digest"])
    if edited_ids:
        return Applied(marks, f"{', '.join(edited_ids)} was edited")
    return Applied(marks, "a mark was edited" if _TRACE.search(_unmarked(text)) else None)


def _unmarked(text: str) -> str:
    return _PART.sub("", _LINES.sub("", text))


def _expected(series: Series) -> dict[str, frozenset[tuple[str, str]]]:
    """The marks that the files of a series have when it is applied."""
    marks: dict[str, set[tuple[str, str]]] = {
        path: {("file", _digest(_decoded(content)))} for path, content in series.files.items()
    }
    for one in series.insertions:
        marks.setdefault(one.path, set()).add((one.id, _digest(one.text)))
    return {path: frozenset(those) for path, those in marks.items()}


def _decoded(content: bytes) -> str:
    return content.decode("utf-8", "surrogateescape")


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


# What is done to a tree.


def check(series: Series, read: Read) -> tuple[Finding, ...]:
    """Why a series can't be applied to a tree; empty if it can."""
    return _patched(series, read, marked=True)[1]


def patched(series: Series, read: Read, *, marked: bool) -> dict[str, bytes]:
    """The files that a series changes, as they are with it. Raises SetupError when it can't be applied."""
    files, findings = _patched(series, read, marked=marked)
    if findings:
        detail = "\n".join(map(str, findings))
        raise SetupError(f"the patches for Julia {series.family} can't be applied: {findings[0]}", detail)
    return files


def _patched(series: Series, read: Read, *, marked: bool) -> tuple[dict[str, bytes], tuple[Finding, ...]]:
    files: dict[str, bytes] = {}
    findings: list[Finding] = []
    for path, content in series.files.items():
        if (present := read(path)) is not None:
            ours = _applied(present).is_ours
            findings.append(Finding(path, None, "it was applied already" if ours else "there is a file of this name"))
        files[path] = _marked_file(path, content) if marked else content
    for path in dict.fromkeys(insertion.path for insertion in series.insertions):
        present = read(path)
        if present is None:
            findings.append(Finding(path, None, "there is no such file"))
            continue
        if (has := _applied(present)).marks or has.problem:
            findings.append(Finding(path, None, has.problem or "it was applied already"))
            continue
        text = _decoded(present)
        code = anchors.without_comments(text, path)
        places = []
        for insertion in (one for one in series.insertions if one.path == path):
            place = _place(text, code, insertion)
            if isinstance(place, str):
                findings.append(Finding(path, insertion.id, place))
            else:
                places.append((place, insertion))
        files[path] = _encoded(_inserted(text, places, marked=marked))
    return files, tuple(findings)


def _place(text: str, code: str, insertion: Insertion) -> int | str:
    """The offset in the text at which an insertion goes, or why it has none."""
    span = anchors.find(code, insertion.anchor, insertion.function, insertion.path)
    if isinstance(span, str):
        return span
    begin, end = span
    if not insertion.is_lines:
        return end if insertion.after else begin
    if insertion.after:
        newline = code.find("\n", end)
        if newline < 0 or code[end:newline].strip():
            return f"{insertion.anchor!r} is not at the end of a line"
        return newline + 1
    line = code.rfind("\n", 0, begin) + 1
    return f"{insertion.anchor!r} is not at the beginning of a line" if text[line:begin].strip() else line


def _inserted(text: str, places: Sequence[tuple[int, Insertion]], *, marked: bool) -> str:
    parts, done = [], 0
    for at, insertion in sorted(places, key=lambda place: place[0]):  # those at one place in the series' order
        parts += [text[done:at], _marked(insertion) if marked else insertion.text]
        done = at
    return "".join([*parts, text[done:]])


def tree_reader(root: Path) -> Read:
    """Reads the files of a working tree."""

    def read(path: str) -> bytes | None:
        try:
            return (root / path).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    return read


def version_of(read: Read) -> str:
    """What a tree's file `VERSION` says. Raises SetupError when it has none."""
    content = read("VERSION")
    if content is None:
        raise SetupError("there is no file VERSION: these are no sources of Julia")
    return _decoded(content).strip()


def in_tree(among: Iterable[Series], root: Path) -> dict[str, Applied]:
    """What a working tree has of ours, by path: in all files that any of the series is about."""
    read = tree_reader(root)
    paths = dict.fromkeys(path for series in among for path in series.paths)
    found = {path: _applied(content) for path in paths if (content := read(path)) is not None}
    return {path: has for path, has in found.items() if has.marks or has.problem}


def state(among: Sequence[Series], series: Series | None, root: Path) -> str:
    """Whether a series is applied to a working tree: "applied", "not applied", "edited" (what is ours in it), "other"
    (it is another version, or only a part)."""
    found = in_tree(among, root)
    if not found:
        return "not applied"
    if any(has.problem for has in found.values()):
        return "edited"
    present = {path: has.marks for path, has in found.items()}
    return "applied" if series is not None and present == _expected(series) else "other"


def apply(series: Series, root: Path) -> tuple[str, ...]:
    """Applies a series to a working tree: all of it or nothing. Returns the paths.

    Raises SetupError when it can't be applied, OSError when a file can't be written.
    """
    files = patched(series, tree_reader(root), marked=True)
    _write(root, files)
    return tuple(files)


def revert(among: Iterable[Series], root: Path) -> tuple[str, ...]:
    """Takes all that is ours out of a working tree, whichever version of a series it is of: all of it or nothing.
    Returns the paths.

    Raises UserCodeError when what is ours was edited.
    """
    found = in_tree(among, root)
    if problems := [f"{path}: {has.problem}" for path, has in found.items() if has.problem]:
        raise UserCodeError(f"the patches can't be reverted: {problems[0]}", "\n".join(problems))
    files = {path: without_patches((root / path).read_bytes()) for path in found}
    _write(root, files)
    return tuple(files)


def without_patches(content: bytes | None) -> bytes | None:
    """The contents of a file of a tree without what is ours in it; None where there is none of Julia's."""
    if content is None or _applied(content).is_ours:
        return None
    return _encoded(_unmarked(_decoded(content)))


def _write(root: Path, files: Mapping[str, bytes | None]) -> None:
    """Writes files (None: removes them). When one can't be written, those before it are put back."""
    for path in files:
        if not (root / path).parent.resolve().is_relative_to(root.resolve()):
            raise SetupError(f"{path} is not in {root}: a directory on its way is a link")
    read = tree_reader(root)
    before = {path: read(path) for path in files}
    done: list[str] = []
    try:
        for path, content in files.items():
            _replace(root / path, content)
            done.append(path)
    except BaseException:
        for path in done:
            _replace(root / path, before[path])
        raise


def _replace(path: Path, content: bytes | None) -> None:
    if content is None:
        path.unlink()
        return
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        new.write_bytes(content)
        if path.exists():
            new.chmod(path.stat().st_mode & 0o7777)
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)
