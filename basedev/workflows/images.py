"""`basedev images`: what is in the store, told in the words of checkouts and commits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checkout import Checkout
from ..collection import BASES, IMAGES, Collected, Collection, Item, on_disk
from ..engines.stock15.baseimage import base_id
from ..errors import BasedevError
from ..sources import sources_id
from ..storage import Storage


@dataclass(frozen=True)
class Told:
    """An image or base image with what there is to say of it."""

    item: Item
    in_use: bool
    processes: tuple[int, ...]
    """Those that run on it, as far as this user can see."""
    present: bool
    """Whether it is of the present sources of the checkout that the command is in."""
    checkouts: tuple[Path, ...]
    """Of a base image: the adopted checkouts that need it."""

    @property
    def engine(self) -> str:
        """How it was made."""
        return "base" if self.item.kind == BASES else str(self.item.manifest.get("engine", "damaged"))

    @property
    def commit(self) -> str | None:
        """What was checked out when it was made."""
        commit = self.item.manifest.get("commit")
        return str(commit) if commit else None

    @property
    def checkout(self) -> str | None:
        """Where its sources were."""
        checkout = self.item.manifest.get("checkout")
        return str(checkout) if checkout else None

    def to_json(self) -> dict[str, Any]:
        """The object that `--json` prints of it."""
        about = self.item.manifest
        return {
            "id": self.item.id,
            "kind": "base" if self.item.kind == BASES else "image",
            "engine": about.get("engine"),
            "image": str(self.item.sysimage),
            "size": self.item.size,
            "frees": self.item.frees,
            "created": about.get("created"),
            "used": self.item.used,
            "pinned": self.item.pinned,
            "in_use": self.in_use,
            "processes": list(self.processes),
            "present": self.present,
            "commit": self.commit,
            "checkout": self.checkout,
            "checkouts": list(map(str, self.checkouts)),
            "base_id": about.get("base_id"),
            "sources_id": about.get("sources_id"),
            "changed_files": about.get("changed_files", []),
            "damaged": not about,
        }


class Images:
    """The images in the cache directory, seen from a checkout (None: from none)."""

    def __init__(self, checkout: Checkout | None, storage: Storage, budget: int) -> None:
        self.checkout = checkout
        self.collection = Collection(storage)
        self.budget = budget

    def all(self) -> list[Told]:
        """All of them, the last used first."""
        present = self._present()
        return [self._told(item, present) for item in self.collection.items()]

    def one(self, start: str) -> Told:
        """The one whose id begins so. Raises UsageError."""
        return self._told(self.collection.find(start), self._present())

    def pin(self, start: str, pinned: bool) -> Item:
        """Keeps one from being collected, or no longer. Raises UsageError."""
        item = self.collection.find(start)
        if not self.collection.store.pin(item.kind, item.id, pinned):
            return self.collection.find(item.id)  # it is gone, which is an error
        return item

    def remove(self, start: str, *, force: bool) -> Item:
        """Removes one. Raises UsageError when it must stay."""
        item = self.collection.find(start)
        self.collection.remove(item, force=force)
        return item

    def collect(self, *, budget: int | None, bases: bool, dry_run: bool) -> Collected:
        """Removes what the budget (None: that of the configuration) has no room for."""
        return self.collection.collect(self.budget if budget is None else budget, bases=bases, dry_run=dry_run)

    def damaged(self, *, repair: bool) -> dict[str, list[str]]:
        """What is wrong in the store, by entry; with `repair`, these entries are removed."""
        found = self.collection.damaged()
        for entry in found if repair else ():
            self.collection.storage.discard(self.collection.storage.root / entry)
        return found

    def totals(self, images: list[Told]) -> dict[str, int]:
        """Bytes on disk: of all images, of all base images, and what the images may need."""
        return {kind: on_disk([told.item for told in images if told.item.kind == kind]) for kind in (IMAGES, BASES)} | {
            "budget": self.budget
        }

    def _told(self, item: Item, present: set[str]) -> Told:
        return Told(
            item,
            in_use=self.collection.in_use(item),
            processes=tuple(self.collection.processes(item)),
            present=_made_from(item) == present,
            checkouts=tuple(self.collection.adopted.get(item.id, ())),
        )

    def _present(self) -> set[str]:
        """The ids of the present sources and of the base image for them."""
        if self.checkout is None:
            return set()
        try:
            return {self.checkout.sources().id, base_of(self.checkout)}
        except BasedevError:  # the store can be told without
            return set()


def base_of(checkout: Checkout) -> str:
    """The name of a checkout's base image, whether it is there or not; empty if `make` built the checkout's Julia, and
    `init` was never run. Raises SetupError when its Julia is missing or unsuitable."""
    if checkout.is_patched:
        return str(checkout.noted.get("base_id", ""))
    return base_id(checkout.distribution)


def _made_from(item: Item) -> set[str]:
    """The ids of an image's sources and base image."""
    about = item.manifest
    if item.kind == BASES:
        return {sources_id(about.get("sources", {})), item.id}
    return {about.get("sources_id", ""), about.get("base_id", "")}
