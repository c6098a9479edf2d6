"""Base images and images on disk: named by what they were made from, whole, and checked before they are used."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import SetupError
from .storage import Storage, digest_of, file_digest

SCHEMA = 1


@dataclass(frozen=True)
class Entry:
    """A directory of the store with a manifest that tells what is in it."""

    directory: Path
    manifest: Mapping[str, Any]

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
        """The entry of this name, if there is one that is whole. A damaged one is removed.

        A file's checksum is computed again only when its size or time of change differ from those at
        the last check, as git does for its index.
        """
        directory = self.storage.root / kind / name
        try:
            manifest = json.loads((directory / "manifest.json").read_text())
        except FileNotFoundError:
            manifest = None
            if not directory.exists():
                return None
        except (OSError, ValueError):
            manifest = None
        if _is_manifest_of(manifest, kind, name) and self._is_whole(directory, manifest["files"]):
            return Entry(directory, manifest)
        self.storage.discard(directory)
        return None

    def publish(self, kind: str, name: str, made: Path, about: Mapping[str, Any]) -> Entry:
        """Adds a directory that was made in `storage.staging`; all files in it become part of the entry."""
        files = {
            path.relative_to(made).as_posix(): {"sha256": file_digest(path), "size": path.stat().st_size}
            for path in sorted(made.rglob("*"))
            if path.is_file()
        }
        manifest = {"schema": SCHEMA, "entry": f"{kind}/{name}", "created": time.time(), **about, "files": files}
        manifest["checksum"] = _checksum(manifest)
        (made / "manifest.json").write_text(json.dumps(manifest, indent=1))
        for path in made.rglob("*"):
            if path.is_file():
                path.chmod(path.stat().st_mode & 0o555)
        (made / "verified.json").write_text(json.dumps(_stats(made, files)))
        self.storage.publish(made, self.storage.root / kind / name)
        entry = self.find(kind, name)
        if entry is None:
            raise SetupError(f"{kind}/{name} was damaged while it was written; is the disk all right?")
        return entry

    @staticmethod
    def _is_whole(directory: Path, files: Mapping[str, Any]) -> bool:
        try:
            now = _stats(directory, files)
            seen = json.loads((directory / "verified.json").read_text())
        except FileNotFoundError:
            if not directory.exists() or any(not (directory / name).exists() for name in files):
                return False
            seen = {}
        except (OSError, ValueError):
            return False
        if now == seen:
            return True
        for name, expected in files.items():
            path = directory / name
            if path.stat().st_size != expected["size"] or file_digest(path) != expected["sha256"]:
                return False
        temporary = directory / f".verified-{os.getpid()}"
        with suppress(OSError):  # on a disk that is full or read-only, it is checked again the next time
            temporary.write_text(json.dumps(now))
            temporary.replace(directory / "verified.json")
        return True


def _is_manifest_of(manifest: Any, kind: str, name: str) -> bool:
    """Whether a manifest is one of this version, undamaged, and of the entry in whose place it stands."""
    return (
        isinstance(manifest, dict)
        and manifest.get("schema") == SCHEMA
        and manifest.get("entry") == f"{kind}/{name}"
        and manifest.pop("checksum", None) == _checksum(manifest)
    )


def _checksum(manifest: Mapping[str, Any]) -> str:
    return digest_of(json.dumps(manifest, sort_keys=True))


def _stats(directory: Path, files: Mapping[str, Any]) -> dict[str, list[int]]:
    stats = {}
    for name in files:
        status = (directory / name).stat()
        stats[name] = [status.st_size, status.st_mtime_ns, status.st_ctime_ns]
    return stats
