"""What is in the store and what it costs on disk; what of it may go, and in which order.

An image can be made again from its sources, so it is removed when the images need more room than the budget
allows: those first that were not used for longest. An image in use, a pinned one, and the base image of an adopted
checkout stay.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from .adopted import checkouts_by_base
from .errors import UsageError
from .holds import running, unheld
from .servers import Servers
from .storage import Storage
from .store import KINDS, PINNED, USED, Store, read_manifest

IMAGES, BASES = "images", "bases"
SYSIMAGES = {IMAGES: "sys.so", BASES: "base.so"}
"""The kinds of entry that can be told, pinned and removed one by one, with the file that Julia runs."""

SHORTEST = 10
"""Characters of an id that are shown at least."""

Inode = tuple[int, int]


@dataclass(frozen=True)
class Item:
    """An image or base image in the store, whole or not."""

    kind: str
    directory: Path
    manifest: Mapping[str, Any]
    """Empty when it can't be read."""
    files: Mapping[Inode, tuple[int, int, bool]]
    """Bytes, bytes on disk, and whether no other directory has the file too, by device and inode."""
    used: float
    """Of the last use, or of its making: seconds since the epoch."""
    pinned: bool

    @property
    def id(self) -> str:
        """Its name in the store."""
        return self.directory.name

    @property
    def sysimage(self) -> Path:
        """What Julia runs."""
        return self.directory / SYSIMAGES[self.kind]

    @property
    def size(self) -> int:
        """Bytes of its files."""
        return sum(count for count, _, _ in self.files.values())

    @property
    def frees(self) -> int:
        """Bytes on disk that its removal frees: those of files that only it has."""
        return sum(blocks for _, blocks, own in self.files.values() if own)


def on_disk(items: Sequence[Item]) -> int:
    """Bytes on disk of some entries together; a file that several have by hard links counts once."""
    return sum({inode: blocks for item in items for inode, (_, blocks, _) in item.files.items()}.values())


@dataclass
class Collected:
    """What a collection removed, or would remove."""

    budget: int
    removed: list[Item] = field(default_factory=list)
    freed: int = 0
    """Bytes on disk."""
    left: int = 0
    """Bytes on disk that the images still need."""
    kept: list[Item] = field(default_factory=list)
    """Images that should have gone, and are in use or pinned."""


class Collection:
    """The images and base images of a cache directory."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.store = Store(storage)
        self._servers = Servers(storage)

    def items(self, *kinds: str) -> list[Item]:
        """The entries of some kinds, by default all that can be told one by one; the last used first."""
        found = [self._item(kind, name) for kind in kinds or SYSIMAGES for name in self.store.names(kind)]
        return sorted((item for item in found if item), key=lambda item: (-item.used, item.id))

    def find(self, start: str) -> Item:
        """The entry whose id begins so. Raises UsageError when there is none, or more than one."""
        found = [item for item in self.items() if start and item.id.startswith(start)]
        if not found:
            raise UsageError(f"there is no image {start!r}: basedev images list tells those that there are")
        if len(found) > 1 and not any(item.id == start for item in found):
            raise UsageError(f"{start!r} begins several ids ({', '.join(item.id for item in found)}): write more of it")
        return next((item for item in found if item.id == start), found[0])

    @cached_property
    def adopted(self) -> dict[str, list[Path]]:
        """The adopted checkouts that still exist, by their base images."""
        return checkouts_by_base(self.storage)

    @cached_property
    def _running(self) -> dict[int, list[int]]:
        found = running(tuple(SYSIMAGES.values()))
        servers = {pid for one in self._servers.running() for pid in (one.pid, *one.spares)} if found else set()
        return {inode: [pid for pid in pids if pid not in servers] for inode, pids in found.items()}

    def processes(self, item: Item) -> list[int]:
        """The processes that run on it, as far as this user can see; an idle server is none of them."""
        try:
            return sorted(self._running.get(item.sysimage.stat().st_ino, ()))
        except OSError:
            return []

    def in_use(self, item: Item) -> bool:
        """Whether a process holds it or runs on it."""
        if self.processes(item):
            return True
        with unheld(item.directory) as free:
            return not free and item.directory.exists()

    def remove(self, item: Item, *, force: bool = False) -> None:
        """Removes an entry.

        Raises UsageError when it is in use; without `force`, also when it is pinned or a base image that a checkout
        needs.
        """
        if not force and (why := self._protected(item)):
            raise UsageError(f"{item.id} {why}: add --force to remove it all the same")
        if not self._take_away(item, force=force):
            who = ", ".join(map(str, self.processes(item)))
            raise UsageError(f"{item.id} is in use{f' by process {who}' if who else ''}: end that first")

    def collect(self, budget: int, *, bases: bool = False, dry_run: bool = False) -> Collected:
        """Removes images until those left need `budget` bytes on disk at most, or none may go.

        With `bases`, removes base images of no adopted checkout too. With `dry_run`, only tells what would go.
        """
        done = Collected(budget)
        with self.storage.lock("collection"):
            images = self.items(IMAGES)
            done.left = on_disk(images)
            unused = [item for item in self.items(BASES) if item.id not in self.adopted] if bases else []
            for item in [*unused, *reversed(images)]:
                if item.kind == IMAGES and done.left <= budget:
                    break
                if item.pinned or (self.in_use(item) if dry_run else not self._take_away(item)):
                    done.kept.append(item)
                    continue
                done.removed.append(item)
                left = on_disk([one for one in images if one not in done.removed])
                done.freed += done.left - left if item.kind == IMAGES else item.frees
                done.left = left
        return done

    def _protected(self, item: Item) -> str | None:
        if item.pinned:
            return "is pinned"
        if item.kind == BASES and (checkouts := self.adopted.get(item.id)):
            return f"is the base image of {', '.join(map(str, checkouts))}"
        return None

    def _take_away(self, item: Item, *, force: bool = False) -> bool:
        """Removes an entry unless somebody uses it, or came to need it since it was looked at."""
        self.__dict__.pop("_running", None)  # as it is now
        with unheld(item.directory) as free:
            if not free:
                return not item.directory.exists()  # another process may be faster
            if self.processes(item):
                return False
            if not force and ((item.directory / PINNED).exists() or item.id in checkouts_by_base(self.storage)):
                return False
            if item.kind == BASES:
                self._servers.stop(*(one for one in self._servers.running() if one.base_id == item.id))
            self.storage.discard(item.directory)
        return True

    def damaged(self) -> dict[str, list[str]]:
        """What is wrong in the store, by entry (`kind/name`)."""
        entries = [(kind, name) for kind in KINDS for name in self.store.names(kind)]
        found = {f"{kind}/{name}": self.store.examine(kind, name) for kind, name in entries}
        return {entry: wrong for entry, wrong in found.items() if wrong}

    def _item(self, kind: str, name: str) -> Item | None:
        directory = self.storage.root / kind / name
        try:
            paths = [path for path in directory.rglob("*") if path.is_file()]
            stats = [path.stat() for path in paths]
            made = directory.stat().st_mtime
        except FileNotFoundError:  # collected meanwhile
            return None
        times = Counter((status.st_dev, status.st_ino) for status in stats)
        files = {
            (one.st_dev, one.st_ino): (one.st_size, one.st_blocks * 512, one.st_nlink == times[one.st_dev, one.st_ino])
            for one in stats
        }
        manifest = read_manifest(directory) or {}
        try:
            used = (directory / USED).stat().st_mtime
        except OSError:
            used = manifest.get("created", made)
        return Item(kind, directory, manifest, files, used, (directory / PINNED).exists())


def shortest(ids: Sequence[str]) -> int:
    """How many characters of some ids tell them apart, at least SHORTEST."""
    length = SHORTEST
    while len({one[:length] for one in ids}) < len(set(ids)):
        length += 1
    return length


def seconds_since(moment: float) -> float:
    """Seconds from a time to now, never negative."""
    return max(0.0, time.time() - moment)
