"""`basedev impact`: what an edit invalidates, and through which calls, before anything is compiled."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from ..census import Census
from ..checkout import Checkout
from ..commits import CommitCheckout, commit_named
from ..engines import Progress
from ..engines.stock15.baseimage import BaseImage
from ..engines.stock15.host_program import Host
from ..engines.stock15.layer import check
from ..errors import NeedsFullRebuild, SetupError
from ..impact import Impact, read
from ..includes import Parsed, SourceFile
from ..places import DEPENDENCIES
from ..revise import DefinedTwice, revise
from ..revision import Revision, Step, place
from ..signatures import pretty
from ..sources import ChangeSet, Sources
from ..storage import Storage, digest_of
from ..syntax import Statement
from .build import CHAINED, Base, Builder

SECONDS_FOR_RECORD = 25.0


class Impacts(Protocol):
    """Tells what edits of one checkout invalidate."""

    @property
    def base(self) -> Base:
        """The checkout's base image."""

    def present(self) -> Impact:
        """Of the checkout's sources, on the base image.

        Raises UserCodeError when they do not parse or evaluate.
        """

    def against(self, after: Checkout) -> Impact:
        """Of other sources, on the chained image of the checkout's, which is made unless it is there.

        Raises SetupError when that can't be chained, UserCodeError when sources do not parse or evaluate.
        """


def impacts_for(checkout: Checkout, storage: Storage, progress: Progress, *, server: bool | None) -> Impacts:
    """Those of a checkout that was adopted. Raises SetupError when it was not."""
    if checkout.is_patched:
        from .impact_patched import PatchedImpacts

        return PatchedImpacts(checkout, storage, progress, server=server)
    return StockImpacts(checkout, storage, progress, server=server)


def followed(
    find: Callable[[], Revision], impact: Callable[[Sequence[Step]], dict[str, Any]], files: Mapping[str, SourceFile]
) -> dict[str, Any]:
    """What the revision does that `find` finds, as fields of Impact. `impact` tells what the steps invalidate, `files`
    are those in the image."""
    paths = {file.name: path for path, file in files.items()}
    try:
        revision = find()
    except DefinedTwice as reason:
        about = reason.method
        where = place(paths.get(about["file"], about["file"]), about["line"])
        return {
            "full_rebuild_reason": str(reason),
            "overwrites": [f"{pretty(about['signature'])} in {where}"],
        }
    except NeedsFullRebuild as reason:
        return {"full_rebuild_reason": str(reason)}
    return {"definitions": revision.definitions, **read(impact(revision.steps), paths)}


def told(base: Base, old: Sources, new: Sources, found: Mapping[str, Any]) -> Impact:
    """What was found of the step between sources, of which `base` is the base image."""
    changed = tuple(path for path in ChangeSet.between(old, new).paths if path in base.files)
    return Impact(base.id, new.id, changed_files=changed, **found)


class StockImpacts(Builder):
    """Of checkouts of the unmodified Julia 1.5."""

    def present(self) -> Impact:
        base, sources = self.base, self.checkout.sources(self.base.sources)
        if sources.id == base.sources.id:
            return self._told(sources, sources, {})
        self.progress("comparing definitions", 0.5)

        def follow(host: Host) -> dict[str, Any]:
            ground = base.sources, base.files, base.dependencies, base.census, base.parsed
            return self._follow(host, sources, *ground)

        return self._told(base.sources, sources, self.with_host(follow))

    def against(self, after: Checkout) -> Impact:
        base, old, new = self.base, self.checkout.sources(self.base.sources), after.sources(self.base.sources)
        if old.id == new.id:
            return self._told(old, new, {})
        try:
            image = self.build(engine=CHAINED).image
        except NeedsFullRebuild as reason:
            raise SetupError(f"what is compared with needs an image that is chained: {reason}") from reason
        assert image is not None
        record = self._record(image)
        self.progress("comparing definitions", 1.0)
        with Host(self._program, image, self.checkout.distribution) as host:
            files = base.files_of([(module, path) for module, path in host.facts()["files"]], old)
            found = self._follow(host, new, old, files, record, None, _Unchanged(base, old))
        return self._told(old, new, found)

    def _record(self, image: Path) -> Path:
        """What results of inference in a chained image depend on; noted for this very file, unless it was before."""
        about = image.stat()
        name = digest_of("dependencies", str(image.parent.name), str(about.st_mtime_ns), str(about.st_ino))[:20]
        with self.storage.lock(f"dependencies-{name}"):
            if not (entry := self.store.find("dependencies", name)):
                self.progress("noting what results of inference depend on", SECONDS_FOR_RECORD)
                with (
                    self.storage.staging("dependencies") as made,
                    Host(self._program, image, self.checkout.distribution) as host,
                ):
                    host.dependencies(made / DEPENDENCIES)
                    entry = self.store.publish("dependencies", name, made, {"image_id": image.parent.name})
        return entry.file(DEPENDENCIES)

    def _follow(
        self,
        host: Host,
        new: Sources,
        old: Sources,
        files: Mapping[str, SourceFile],
        dependencies: Path,
        census: Census | None,
        parsed: Parsed,
    ) -> dict[str, Any]:
        """What leads from the old sources, of which `host` has an image, to the new, as fields of Impact."""

        def impact(steps: Sequence[Step]) -> dict[str, Any]:
            self.progress("following what the edit invalidates", 1.0)
            answer = host.impact(steps, dependencies)
            check(answer, steps)
            return answer

        return followed(lambda: revise(old, new, files, host, census, parsed), impact, files)

    def _told(self, old: Sources, new: Sources, found: Mapping[str, Any]) -> Impact:
        return told(self.base, old, new, {**found, "server": self.server})


class _Unchanged:
    """The statements of a base image's sources that others have too."""

    def __init__(self, base: BaseImage, sources: Sources) -> None:
        self._base, self._sources = base, sources

    def statements(self, path: str) -> list[Statement] | None:
        same = self._sources.blobs.get(path) == self._base.sources.blobs.get(path)
        return self._base.parsed.statements(path) if same else None

    def includes(self) -> None:
        """They may be others in the files that differ."""


def compare(
    checkout: Checkout, storage: Storage, progress: Progress, commits: tuple[str, str], *, server: bool | None
) -> Impact:
    """What the step from one commit to another invalidates. Raises as `Impacts.against` does, and UsageError when one
    is no commit."""
    before, after = (CommitCheckout(checkout.root, commit_named(checkout.tree, name)) for name in commits)
    first = impacts_for(before, storage, progress, server=server)
    if before.sources(first.base.sources).id == first.base.sources.id:
        found = impacts_for(after, storage, progress, server=server).present()
    else:
        found = first.against(after)
    return replace(found, compared=(before.at, after.at))
