"""The serialized form of a revision: one Julia source file to read, to keep, to send, and to `include`.

`docs/revision-file.md` describes it. Marker lines (`#@ ...`) carry what is no Julia code. The texts to evaluate stand
between them as they are, where an editor shows them as Julia; one that can't stand there, because it would not be
read back byte for byte, stands in comment lines (`#| ...`) with escapes. The loader in front of them (`loader.jl`)
reads its own file and performs the steps with nothing but Julia itself.

A new kind of step needs its class in `revision.Step` and a method of `perform` in the loader, and nothing here: a
marker line has the class's name and its fields in order.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from . import __version__
from .errors import UsageError
from .revision import Definition, Revision, Step

FORMAT = 1
HEADER = "# basedev revision"
LOADER = Path(__file__).with_name("loader.jl")
BEGIN, END = "@static if false  # parsed for who reads this file, never evaluated: the loader reads the texts", "end"

KINDS: dict[str, Any] = {kind.__name__.lower(): kind for kind in typing.get_args(Step)}

AGAIN = "export the revision again (basedev revision export)"


@dataclass(frozen=True)
class ChangedFile:
    """A source file that differs, with the ids that git gives its contents; None where there is no file."""

    path: str
    old: str | None
    new: str | None


@dataclass(frozen=True)
class Provenance:
    """Where a revision comes from."""

    basedev: str
    julia: str
    base: str
    """The id of the base image that it is for."""
    commit: str | None
    """The commit that was checked out; the sources may differ from it."""
    sources: str
    """The id of the sources that it leads to."""
    files: tuple[ChangedFile, ...] = ()


def everywhere(text: str) -> bool:
    """Takes a text for a whole statement, as those of a revision are."""
    return True


def write(revision: Revision, provenance: Provenance, stands: Callable[[str], bool] = everywhere) -> str:
    """A revision as the text of a file. `stands` tells whether a text can be parsed inside an `if` block."""
    about = provenance
    lines = [
        f"{HEADER} {FORMAT}",
        "#",
        "# What Julia's own definitions are to become, from those of a base image. `basedev revision apply` makes an",
        "# image of it; a plain Julia of that version takes it at start-up (julia -L FILE), or by include, once.",
        "#",
        _marker("basedev", about.basedev),
        _marker("julia", about.julia),
        _marker("base", about.base),
        *([_marker("commit", about.commit)] if about.commit else []),
        _marker("sources", about.sources),
        *(_marker("file", one.path, one.old or "-", one.new or "-") for one in about.files),
        *(_marker("definition", one.change, f"{one.path}:{one.line}", one.what) for one in revision.definitions),
        "",
        *LOADER.read_text().splitlines(),
        "",
        BEGIN,
        "#@ steps",
    ]
    for step in revision.steps:
        lines += ["", *_step_lines(step, stands)]
    lines += ["", "#@ complete", END, ""]
    return "\n".join(lines)


def read(text: str, file: str = "the revision") -> tuple[Revision, Provenance]:
    """A revision from the text of a file. `file` is the file's name in messages.

    Raises UsageError when it is of another version, cut off, or has a step that is not known.
    """
    return _Reader(text, file).read()


def _step_lines(step: Step, stands: Callable[[str], bool]) -> Iterator[str]:
    words: list[str] = []
    body: str | None = None
    for field in fields(step):
        value = getattr(step, field.name)
        if field.name == "text":
            body = value
        elif field.name == "line":
            words[-1] += f":{value}"  # as editors and Julia itself write a place
        else:
            words.append(str(value))
    yield _marker(type(step).__name__.lower(), *words)
    if body is not None:
        literal = _is_plain(body) and stands(body)
        yield from (line if literal else "#| " + _escaped(line, "\t") for line in body.split("\n"))
        yield "#@ end"


def _is_plain(text: str) -> bool:
    """Whether a text reads back as it is: valid UTF-8 without control characters, and without lines like markers."""
    if re.search(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]", text):
        return False
    return not any(line.startswith(("#@", "#|")) for line in text.split("\n"))


def _escaped(text: str, kept: str = "", also: str = "\\") -> str:
    return "".join(
        f"\\{one}"
        if one in also
        else one
        if one.isprintable() or one in kept
        else "".join(f"\\x{byte:02x}" for byte in _encode(one))
        for one in text
    )


def _encode(text: str) -> bytes:
    # Other surrogates than those of `surrogateescape` are in no text that was read from a file.
    return text.encode("utf-8", "surrogateescape")


def _unescaped(text: str) -> str:
    data = re.sub(
        rb"\\(?:x([0-9a-f]{2})|(.))",
        lambda found: bytes([int(found[1], 16)]) if found[1] else found[2],
        _encode(text),
    )
    return data.decode("utf-8", "surrogateescape")


def _marker(*words: str) -> str:
    return "#@ " + " ".join(map(_word, words))


def _word(text: str) -> str:
    if text and text.isprintable() and not re.search(r'[ "\\]', text):
        return text
    return '"' + _escaped(text, also='\\"') + '"'


class _Reader:
    def __init__(self, text: str, file: str) -> None:
        self.file = file
        self.lines = text.split("\n")
        self.at = 0  # the line that was read last, counted from 1

    def error(self, what: str, remedy: str = AGAIN) -> UsageError:
        return UsageError(f"{self.file}:{self.at}: {what}: {remedy}")

    def next(self) -> str:
        if self.at == len(self.lines):
            raise self.error("the revision is cut off")
        self.at += 1
        return self.lines[self.at - 1]

    def read(self) -> tuple[Revision, Provenance]:
        version = re.fullmatch(rf"{HEADER} (\d+)", self.next())
        if version is None:
            raise self.error("this is no revision", "name a file that basedev revision export wrote")
        if int(version[1]) != FORMAT:
            remedy = f"use a basedev that knows it (this is {__version__}), or {AGAIN}"
            raise self.error(f"version {version[1]} of the format is not known", remedy)
        about: dict[str, str] = {}
        files: list[ChangedFile] = []
        definitions: list[Definition] = []
        while (line := self.next()) != "#@ steps":
            if not line.startswith("#@ "):
                continue  # a comment, or the loader
            key, *words = self.words(line)
            if key == "file":
                path, old, new = self.counted(words, 3)
                files.append(ChangedFile(path, *(None if blob == "-" else blob for blob in (old, new))))
            elif key == "definition":
                change, place, what = self.counted(words, 3)
                if change not in ("added", "modified", "deleted", "documented"):
                    raise self.error(f"{change} is no change that is known")
                path, number = self.place(place)
                definitions.append(Definition(what, path, number, change))
            elif key in ("basedev", "julia", "base", "commit", "sources"):
                (about[key],) = self.counted(words, 1)
            else:
                raise self.error(f"{key} is not known")
        missing = [key for key in ("basedev", "julia", "base", "sources") if key not in about]
        if missing:
            raise self.error(f"the line '#@ {missing[0]}' is missing")
        steps = tuple(self.steps())
        if self.next() != END:
            raise self.error("the revision is cut off")
        provenance = Provenance(
            about["basedev"], about["julia"], about["base"], about.get("commit"), about["sources"], tuple(files)
        )
        return Revision(steps, tuple(definitions)), provenance

    def steps(self) -> Iterator[Step]:
        while (line := self.next()) != "#@ complete":
            if line.startswith("#@ "):
                yield self.step(*self.words(line))
            elif line.strip() and not line.startswith("# "):  # a reader may leave remarks
                raise self.error("a text outside a step")

    def step(self, name: str, *words: str) -> Step:
        kind = KINDS.get(name)
        if kind is None:
            raise self.error(f"a step {name} is not known", f"use a newer basedev (this is {__version__}), or {AGAIN}")
        values: dict[str, Any] = {}
        names = [field.name for field in fields(kind) if field.name not in ("line", "text")]
        types = typing.get_type_hints(kind)
        for field, word in zip(names, self.counted(words, len(names)), strict=True):
            values[field] = self.number(word) if types[field] is int else word
            if "line" in types and field == "file":
                values["file"], values["line"] = self.place(word)
        if "text" in types:
            values["text"] = self.body()
        step: Step = kind(**values)
        return step

    def body(self) -> str:
        lines = []
        while (line := self.next()) != "#@ end":
            if line.startswith("#@"):
                raise self.error("a text without an end before the next step")
            lines.append(_unescaped(line[3:]) if line.startswith("#|") else line)
        return "\n".join(lines)

    def words(self, line: str) -> list[str]:
        if not re.fullmatch(r'#@(?: (?:"(?:[^"\\]|\\.)*"|[^ "]+))+', line):
            raise self.error("this marker line can't be read")
        return [
            word if quoted is None else _unescaped(quoted)
            for quoted, word in (found.groups() for found in re.finditer(r'"((?:[^"\\]|\\.)*)"|([^ "]+)', line[3:]))
        ]

    def counted(self, words: Sequence[str], number: int) -> Sequence[str]:
        if len(words) != number:
            raise self.error(f"{number} words are expected after the first, and there are {len(words)}")
        return words

    def place(self, text: str) -> tuple[str, int]:
        path, _, number = text.rpartition(":")
        return path, self.number(number)

    def number(self, text: str) -> int:
        if not re.fullmatch(r"-?[0-9]{1,18}", text):
            raise self.error(f"{text!r} is no number")
        return int(text)
