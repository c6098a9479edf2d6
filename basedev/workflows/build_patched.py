"""`basedev build` and `status` for a source checkout of current Julia."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..adopted import remember
from ..checkout import Checkout
from ..choice import image_id
from ..commits import CommitCheckout
from ..difference import compare
from ..engines import Progress
from ..engines.patched.baseimage import BaseImage, make_base_image, record_base
from ..engines.patched.host_program import Host
from ..engines.patched.layer import make_layer
from ..engines.patched.limits import check, check_difference
from ..engines.patched.makefile import make, make_aside
from ..errors import NeedsFullRebuild, SetupError
from ..revise import revise
from ..revision import Move, Revision
from ..sources import ChangeSet, Sources
from ..storage import Storage
from ..syntax import statements
from .build import FULL, PATCHED, ImageBuilder, Result

OLD_LINES = "not corrected for this Julia yet"

MAKE = 1030.0
"""Seconds that `make` takes after an edit of Base, on two cores."""


def adopt(checkout: Checkout, storage: Storage, progress: Progress, settings: str | None = None) -> BaseImage:
    """Takes what `make` built for the checkout's base image (`basedev init`).

    `settings` is the digest of the checkout's own settings, if the user trusts them.

    Raises SetupError when it can't be chained, or when sources changed since.
    """
    base = make_base_image(checkout, storage, progress)
    record_base(checkout, base)
    remember(storage, checkout.root.resolve(), base.id, settings)
    return base


class PatchedBuilder(ImageBuilder):
    """Makes images for a checkout that its own makefile builds."""

    base: BaseImage
    chained = PATCHED
    engines = (PATCHED, FULL)

    def __init__(self, checkout: Checkout, storage: Storage, progress: Progress) -> None:
        super().__init__(checkout, storage, progress)
        checkout.check_adopted()
        self.base = adopt(checkout, storage, progress)

    def plan(self) -> Result:
        self._check_commit()
        return super().plan()

    def build(self, *, engine: str | None = None, may_rebuild: bool = True) -> Result:
        self._check_commit()
        return super().build(engine=engine, may_rebuild=may_rebuild)

    def _check_commit(self) -> None:
        """Raises NeedsFullRebuild when the checkout's Julia is not that of the commit whose image is to be made."""
        if isinstance(self.checkout, CommitCheckout) and (reason := self.checkout.unlike_base()):
            raise NeedsFullRebuild(reason)

    def _image_id(self, sources: Sources, engine: str) -> str:
        """A chained image depends on its base and what is noted of it; a full one on the Julia only."""
        ground = self.base.entry.manifest["files"]["base.so"]["sha256"] if engine == FULL else self.base.id
        return image_id(engine, ground, sources.id)

    def _rehearse(self, sources: Sources, result: Result) -> None:
        with self._host() as host:
            result.definitions = self._revise(sources, host).definitions

    def _chain(self, sources: Sources, result: Result, engine: str) -> None:
        begin = time.monotonic()
        commit = self.checkout.commit
        self.progress("comparing definitions", 3.0)
        with self._host() as host:
            revision = self._revise(sources, host)
            result.invalidated = host.invalidated
        revised = time.monotonic()
        with self.storage.staging("image") as made:
            layer = make_layer(self.base, revision.steps, self.checkout.julia, made, self.progress)
            result.engine, result.definitions = engine, revision.definitions
            result.linker = layer.linker
            if any(isinstance(step, Move) for step in revision.steps):
                result.old_lines_reason = OLD_LINES
            result.timings = {"revise": revised - begin, **layer.timings}
            self._publish(self._image_id(sources, engine), made / "sys.so", result, commit)

    def _rebuild(self, sources: Sources, result: Result) -> None:
        """The checkout's own `make`; what it builds is the base image from then on."""
        begin = time.monotonic()
        self.progress("make", MAKE)
        make(self.checkout.root)
        self.base = adopt(self.checkout, self.storage, self.progress)
        result.timings["rebuild"] = time.monotonic() - begin
        result.base_id, result.sources_id = self.base.id, self.base.sources.id
        self._describe_base(result)
        result.engine = FULL

    def reference(self) -> Result:
        """What `make` builds of the present sources, which leaves the checkout as it was."""
        sources = self.checkout.sources(self.base.sources)
        with self._making(sources.id):
            result, found = self._look_up(sources, FULL)
            if not found:
                self._make_aside(sources, result)
        return result

    def _make_aside(self, sources: Sources, result: Result) -> None:
        begin = time.monotonic()
        commit = self.checkout.commit
        self.progress("the checkout's own make, of the same sources (a quarter of an hour)", MAKE)
        with self.storage.staging("make") as made:
            changes = ChangeSet.between(self.base.sources, sources)
            changed = [path for path in changes.paths if path in self.base.files and path not in changes.deleted]
            make_aside(self.checkout.root, changed, made / "sys.so")
            if self.checkout.sources(sources).id != sources.id:
                raise SetupError("the sources changed while make read them: run basedev verify again")
            result.engine, result.status = FULL, "built"
            result.timings["rebuild"] = time.monotonic() - begin
            self._publish(self._image_id(sources, FULL), made / "sys.so", result, commit)

    def native_signatures(self, image: Path) -> list[str]:
        """The argument types of everything with native code in an image of this Julia."""
        with Host(self.checkout.julia, image) as host:
            return host.native_signatures()

    def parse_all(self, texts: Sequence[bytes]) -> list[list[dict[str, Any]]]:
        with self._host() as host:
            return host.parse_all(texts)

    def _host(self) -> Host:
        return Host(self.checkout.julia, self.base.host, self.base.census, has_program=True)

    def _revise(self, sources: Sources, host: Host) -> Revision:
        old, files = self.base.sources, self.base.files
        changes = ChangeSet.between(old, sources)
        check(changes, files)
        for path in changes.modified:
            if path in files:
                texts = [one.contents[path] for one in (old, sources)]
                before, now = (
                    statements(parsed, text, path) for parsed, text in zip(host.parse_all(texts), texts, strict=True)
                )
                check_difference(path, compare(path, before, now))
        return revise(old, sources, files, host, self.base.census)
