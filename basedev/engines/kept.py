"""What base images of all engines have in common: in the store, and noted in the checkouts that work with them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..census import CensusEntry
from ..errors import SetupError
from ..includes import SourceFile
from ..revision import Evaluate
from ..sourcefiles import COMPILER, PARSER
from ..sources import Sources, Stored
from ..store import Entry

SOURCES = "sources"
"""The directory of a base image in which its sources are, at their paths in a checkout."""


@dataclass(frozen=True)
class KeptImage:
    """A base image in the store, with the sources that it was made from."""

    entry: Entry

    @property
    def id(self) -> str:
        """Its name in the store, which tells what it was made of."""
        return self.entry.id

    @property
    def sysimage(self) -> Path:
        """The image that `julia -J` runs."""
        return self.entry.file("base.so")

    @cached_property
    def sources(self) -> Sources:
        """Exactly the sources that it was made from."""
        return Sources(self.entry.manifest["sources"], Stored(self.entry.file(SOURCES)))

    @cached_property
    def files(self) -> dict[str, SourceFile]:
        """The source files that are in it, by path."""
        return files_of(self.entry.manifest["included"])


class CensusEntries(Sequence[CensusEntry]):
    """The statements of a census, read when one is asked for: most edits change nothing that they run."""

    def __init__(self, file: Path) -> None:
        self._file = file

    @cached_property
    def _all(self) -> list[CensusEntry]:
        return [CensusEntry(*one) for one in json.loads(self._file.read_text())]

    def __len__(self) -> int:
        return len(self._all)

    def __getitem__(self, number: Any) -> Any:
        return self._all[number]


def keep_census(file: Path, statements: Iterable[tuple[str, int, Evaluate]], gave: Iterable[str]) -> None:
    """Writes the statements of a census (path, line, evaluation), with the digest of what each gave."""
    entries = [
        (path, line, step.module, step.line, step.text, digest)
        for (path, line, step), digest in zip(statements, gave, strict=True)
    ]
    file.write_text(json.dumps(entries))


def keep_sources(made: Path, sources: Iterable[tuple[str, bytes]]) -> None:
    """Writes the sources (path, contents) of a base image that is being made."""
    for path, contents in sources:
        place = made / SOURCES / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(contents)


def directory_of_base(recorded: Iterable[tuple[str, str]]) -> str:
    """Where Julia recorded the files of Base to be, with a slash at its end."""
    [base] = [where.removesuffix("Base.jl") for _, where in recorded if where.endswith("/base/Base.jl")]
    return base


def included(
    recorded: Iterable[tuple[str, str]],
    path_of: Callable[[str], str],
    before: Callable[[str], Sequence[str]] = lambda path: (),
) -> dict[str, dict[str, Any]]:
    """What Julia recorded of the files that it included, each as (module, place), by their paths in a checkout.

    `path_of` gives the path for a place. `before` gives modules that include a path before those that were recorded.
    """
    found: dict[str, dict[str, Any]] = {}
    recorded = list(recorded)
    for module, where in recorded:
        path = path_of(where)
        # Methods of Base and its compiler tell their file relative to base/, others with the whole path.
        is_base = path.startswith("base/") and not path.startswith(f"{PARSER}/")
        name = path.removeprefix("base/") if is_base else where
        if path.startswith(f"{COMPILER}/"):
            name = where.removeprefix(directory_of_base(recorded))
        modules = found.setdefault(path, {"name": name, "modules": [*before(path)]})["modules"]
        if module not in modules:
            modules.append(module)
    return found


def files_of(about: Mapping[str, Any]) -> dict[str, SourceFile]:
    """What `included` found, which is in the manifest of a base image."""
    return {path: SourceFile(one["name"], tuple(one["modules"])) for path, one in about.items()}


def note_base(record: Path, base: KeptImage, **about: object) -> None:
    """Notes in a checkout's file `record` which base image is its own, with more about it.

    Raises SetupError when it can't be written.
    """
    temporary = record.with_suffix(f".{os.getpid()}")
    try:
        record.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps({"base_id": base.id, **about}))
        temporary.replace(record)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise SetupError(f"{record} can't be written ({error.strerror}): make usr/ writable and retry") from error
