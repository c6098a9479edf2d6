"""Base images and images on disk: named by what they were made from, whole, and checked before they are used."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import SetupError
from .holds import Hold
from .storage import Storage, digest_of, disk_errors, file_digest

SCHEMA = 1

KINDS = ("images", "bases", "revisions", "dependencies", "inferred", "hosts", "bootstrap")
"""Everything that is kept in stores."""

MANIFEST, VERIFIED, USED, PINNED = "manifest.json", "verified.json", "used", "pinned"
"""Files of an entry besides those that the manifest lists: the sizes and times at the last check; one whose time of
change is that of the last use; one that keeps the entry from being collected."""

TRIES = 100
"""To get hold of an entry that others collect and make at the same time."""


@dataclass(frozen=True)
class Entry:
    """A directory of the store with a manifest that tells what is in it."""

    directory: Path
    manifest: Mapping[str, Any]
    hold: Hold | None = field(default=None, compare=False, repr=False)
    """Keeps it from being collected while this object lives."""

    @property
    def id(self) -> str:
        """Its name in the store."""
        return self.directory.name

    def file(self, name: str) -> Path:
        """One of the files that its manifest lists."""
        return self.directory / name


class Store:
    """The base images (`bases`) and images (`images`) of a cache directory."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    def find(self, kind: str, name: str) -> Entry | None:
        """The entry of this name, if there is one that is whole; now is its last use. A damaged one is removed.

        It stays where it is while the result lives. A file's checksum is computed again only when its size or
        time of change differ from those at the last check, as git does for its index.
        """
        directory = self.storage.own(kind) / name
        for _ in range(TRIES):
            hold = Hold.take(directory)
            if hold is not None:
                break
            if not directory.exists():
                return None
            # It was taken away, and another stands there already; or it can't be opened, and is none then.
        manifest = read_manifest(directory)
        if manifest is not None and self._is_whole(directory, manifest["files"]):
            with suppress(OSError):  # on a disk that is full or read-only
                (directory / USED).touch()
            return Entry(directory, manifest, hold)
        self.storage.discard(directory)
        return None

    def examine(self, kind: str, name: str, *, checksums: bool = True) -> list[str]:
        """What is wrong with an entry, by default with all its checksums computed anew; nothing is changed."""
        directory = self.storage.root / kind / name
        hold = Hold.take(directory)
        if hold is None and not os.path.lexists(directory):
            return []  # collected meanwhile
        manifest = read_manifest(directory)
        if manifest is None:
            return ["its manifest is missing, damaged, or of another version of basedev"]
        wrong = []
        for file, expected in manifest["files"].items():
            try:
                if (directory / file).stat().st_size != expected["size"]:
                    wrong.append(f"{file} has another size")
                elif checksums and expected["sha256"] not in (None, file_digest(directory / file)):
                    wrong.append(f"{file} has another checksum")
            except OSError as error:
                wrong.append(f"{file} can't be read ({error.strerror})")
        known = {*manifest["files"], MANIFEST, VERIFIED, USED, PINNED}
        for path in sorted(directory.rglob("*")):
            file = path.relative_to(directory).as_posix()
            if not path.is_dir() and file not in known and not file.startswith((f".{VERIFIED}-", f".{MANIFEST}-")):
                wrong.append(f"{file} does not belong to it")
        return wrong

    def names(self, kind: str) -> list[str]:
        """The entries of one kind, whole or not."""
        try:
            return sorted(path.name for path in (self.storage.root / kind).iterdir())
        except FileNotFoundError:
            return []

    def pin(self, kind: str, name: str, pinned: bool) -> bool:
        """Keeps an entry from being collected, or no longer. Returns False when it is gone."""
        directory = self.storage.root / kind / name
        hold = Hold.take(directory)
        if hold is None:
            return False
        with disk_errors(f"{'pin' if pinned else 'unpin'} {name}"):
            if pinned:
                (directory / PINNED).touch()
            else:
                (directory / PINNED).unlink(missing_ok=True)
        return True

    def publish(
        self, kind: str, name: str, made: Path, about: Mapping[str, Any], *, checksums_later: bool = False
    ) -> Entry:
        """Adds a directory that was made in `storage.staging`; all files in it become part of the entry.

        With `checksums_later`, those of its files are left to `add_checksums`. Until then, a file is taken for damaged
        when its size or time of change differ.
        """
        files = {
            path.relative_to(made).as_posix(): {
                "sha256": None if checksums_later else file_digest(path),
                "size": path.stat().st_size,
            }
            for path in sorted(made.rglob("*"))
            if path.is_file()
        }
        manifest = {"schema": SCHEMA, "entry": f"{kind}/{name}", "created": time.time(), **about, "files": files}
        _write_manifest(made / MANIFEST, manifest)
        for path in made.rglob("*"):
            if path.is_file() and path.name != MANIFEST:
                path.chmod(path.stat().st_mode & 0o555)
        (made / VERIFIED).write_text(json.dumps(_stats(made, files)))
        with Hold.take(made) or nullcontext():  # goes with the directory to its place: nobody collects it there
            while True:
                self.storage.publish(made, self.storage.root / kind / name)
                if entry := self.find(kind, name):
                    return entry
                if not made.exists():
                    raise SetupError(f"{kind}/{name} was damaged while it was written; is the disk all right?")
                # Another stood there, and was damaged or is collected now.

    def add_checksums(self, kind: str, name: str) -> None:
        """Computes the checksums that an entry's manifest does not have yet."""
        directory = self.storage.root / kind / name
        manifest = read_manifest(directory)
        if manifest is None or not self._is_whole(directory, manifest["files"]):
            return
        for file, about in manifest["files"].items():
            about["sha256"] = about["sha256"] or file_digest(directory / file)
        now = read_manifest(directory)
        if now is None or now["created"] != manifest["created"]:
            return  # it was removed meanwhile, and perhaps made anew
        temporary = directory / f".{MANIFEST}-{os.getpid()}"
        try:
            _write_manifest(temporary, manifest)
            temporary.replace(directory / MANIFEST)
        except OSError:  # the disk is full, or the entry was removed
            temporary.unlink(missing_ok=True)
            raise

    @staticmethod
    def _is_whole(directory: Path, files: Mapping[str, Any]) -> bool:
        try:
            now = _stats(directory, files)
            seen = json.loads((directory / VERIFIED).read_text())
        except FileNotFoundError:
            if not directory.exists() or any(not (directory / name).exists() for name in files):
                return False
            seen = {}
        except (OSError, ValueError, RecursionError):
            return False
        if now == seen:
            return True
        for name, expected in files.items():
            path = directory / name
            if path.stat().st_size != expected["size"] or file_digest(path) != expected["sha256"]:
                return False
        temporary = directory / f".{VERIFIED}-{os.getpid()}"
        with suppress(OSError):  # on a disk that is full or read-only, it is checked again the next time
            temporary.write_text(json.dumps(now))
            temporary.replace(directory / VERIFIED)
        return True


def read_manifest(directory: Path) -> dict[str, Any] | None:
    """An entry's manifest if it is one of this version, undamaged, and of the entry in whose place it stands."""
    try:
        manifest = json.loads((directory / MANIFEST).read_text())
    except (OSError, ValueError, RecursionError):
        return None
    whole = (
        isinstance(manifest, dict)
        and manifest.get("schema") == SCHEMA
        and manifest.get("entry") == f"{directory.parent.name}/{directory.name}"
        and manifest.pop("checksum", None) == checksum(manifest)
        and _lists_files(manifest.get("files"))
    )
    return manifest if whole else None


def _lists_files(files: Any) -> bool:
    """Whether these are files below a directory, with their sizes and checksums."""
    return isinstance(files, dict) and all(
        isinstance(about, dict)
        and isinstance(about.get("size"), int)
        and isinstance(about.get("sha256", 0), str | None)
        and not {"", ".", ".."} & {*name.split("/")}
        and "\0" not in name
        for name, about in files.items()
    )


def _write_manifest(path: Path, manifest: Mapping[str, Any]) -> None:
    path.write_text(json.dumps({**manifest, "checksum": checksum(manifest)}, indent=1))
    path.chmod(path.stat().st_mode & 0o555)


def checksum(manifest: Mapping[str, Any]) -> str:
    """What a manifest has of itself, to tell damage."""
    return digest_of(json.dumps(manifest, sort_keys=True))


def _stats(directory: Path, files: Mapping[str, Any]) -> dict[str, list[int]]:
    stats = {}
    for name in files:
        status = (directory / name).stat()
        stats[name] = [status.st_size, status.st_mtime_ns, status.st_ctime_ns]
    return stats
