"""What base images of all engines have in common."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ..sources import Sources, Stored
from ..store import Entry


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
        return Sources(self.entry.manifest["sources"], Stored(self.entry.file("sources")))
