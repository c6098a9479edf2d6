"""Blob ids of a tree's source files: noted, so that only files that `stat` tells to be others need be read again.

As git's index does: a file whose size, times and inode are those that it had when it was read has the same contents.
A file that was changed just before it was read is not noted, because it may be changed again without looking different.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .places import NOTES
from .sourcefiles import is_settled, place_of, roots_of, signature, source_files
from .storage import digest_of

SCHEMA = 1


@dataclass(frozen=True)
class Identified:
    """The source files of a tree at one time."""

    blobs: dict[str, str]
    """The id of each file's contents."""
    contents: dict[str, bytes]
    """Of the files that had to be read."""
    files: dict[str, os.stat_result]
    settled: bool
    """Whether files that look as in `files` later have the same contents."""


def blob_id(contents: bytes) -> str:
    """The id under which git stores these contents."""
    return hashlib.sha1(b"blob %d\0" % len(contents) + contents).hexdigest()


def identify(root: Path, files: dict[str, os.stat_result] | None = None, name: str = "stat-cache.json") -> Identified:
    """The blob ids of a tree's source files, or of others, as they are now.

    What it learns is noted in the tree for the next time, in a file of this name, unless it can't be written. Raises
    OSError when a file can't be read.
    """
    now = time.time_ns()
    files = source_files(os.fspath(root)) if files is None else files
    where = roots_of(os.fspath(root))
    cache = root / NOTES / name
    known = _read(cache)
    noted: dict[str, list[Any]] = {}
    blobs, contents = {}, {}
    for path, status in files.items():
        entry: list[Any] = [*signature(status), None]
        before = known.get(path)
        if before is not None and before[:-1] == entry[:-1]:
            noted[path], blobs[path] = before, before[-1]
            continue
        with suppress(FileNotFoundError), Path(place_of(path, where)).open("rb") as file:
            contents[path] = file.read()
            blobs[path] = entry[-1] = blob_id(contents[path])
            if is_settled(status, now) and signature(os.fstat(file.fileno())) == signature(status):
                noted[path] = entry
    if noted != known:
        _write(cache, noted)
    return Identified(blobs, contents, files, settled=noted.keys() == files.keys())


def write_whole(path: Path, data: bytes) -> bool:
    """Writes a file that can be done without, so that nobody sees a half. Returns False when it can't be written."""
    temporary = path.with_name(f".{path.name}-{os.getpid()}-{os.urandom(4).hex()}")
    try:
        try:
            temporary.write_bytes(data)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError:
        return False
    return True


def _read(cache: Path) -> dict[str, list[Any]]:
    try:
        checksum, _, text = cache.read_text().partition("\n")
        if checksum == digest_of(text):
            data = json.loads(text)
            if data["schema"] == SCHEMA and all(map(_is_entry, data["files"].values())):
                return dict(data["files"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    return {}


def _is_entry(entry: object) -> bool:
    return isinstance(entry, list) and len(entry) == 5 and isinstance(entry[-1], str)


def _write(cache: Path, files: Mapping[str, list[Any]]) -> None:
    text = json.dumps({"schema": SCHEMA, "files": files})
    write_whole(cache, f"{digest_of(text)}\n{text}".encode())
