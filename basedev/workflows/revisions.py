"""`basedev revision` and `basedev run --replay`: revisions as files, and what is made from them."""

from __future__ import annotations

import os
import time
from abc import abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .. import __version__
from ..checkout import Checkout
from ..distribution import JULIA_VERSION
from ..engines import Progress
from ..engines.stock15.host_program import Host
from ..engines.stock15.layer import check, make_layer
from ..errors import SetupError, UsageError, UserCodeError
from ..revision import Evaluate, Revision
from ..serialized import LOADER, ChangedFile, Provenance, read, write
from ..sources import ChangeSet, Sources
from ..storage import Storage, digest_of
from .build import CHAINED, PATCHED, Builder, ImageBuilder, Result

REVISION = "revision.jl"

Standing = Callable[[str], bool]
"""Tells whether a text can be parsed inside an `if` block."""


@dataclass(frozen=True)
class Exported:
    """A revision with where it comes from, and as the text of a file."""

    revision: Revision
    provenance: Provenance
    text: str

    def result(self, status: str) -> Result:
        """What a command tells of it."""
        about = self.provenance
        return Result(
            status=status,
            engine=CHAINED if about.julia == JULIA_VERSION else PATCHED,
            base_id=about.base,
            sources_id=about.sources,
            changed_files=tuple(one.path for one in about.files),
            definitions=self.revision.definitions,
        )


def load(file: Path) -> Exported:
    """The revision in a file. Raises UsageError when it can't be read or is none."""
    try:
        text = file.read_bytes().decode("utf-8", "surrogateescape")
    except OSError as error:
        raise UsageError(f"{file} can't be read ({error.strerror}): name a file of basedev revision export") from error
    return Exported(*read(text, str(file)), text)


def save(text: str, file: Path, *, force: bool) -> None:
    """Writes a revision's file whole or not at all, and over another one only when it is forced.

    Raises UsageError when there is one, SetupError when it can't be written.
    """
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        try:
            temporary.write_bytes(text.encode("utf-8"))
            if force:
                temporary.replace(file)
            else:
                _place(temporary, file)
        finally:
            with suppress(OSError):
                temporary.unlink()
    except FileExistsError as error:
        raise UsageError(f"{file} is there already: name another file, or add --force to overwrite it") from error
    except OSError as error:
        raise SetupError(f"{file} can't be written ({error.strerror}): name another place with -o") from error


def _place(made: Path, file: Path) -> None:
    """Gives a finished file its name. Raises FileExistsError when another has it."""
    try:
        os.link(made, file)  # unlike a renaming, never in the place of another file
    except FileExistsError:
        raise
    except OSError:  # this file system has no links
        if file.exists():
            raise FileExistsError from None
        made.replace(file)


class Reviser(ImageBuilder):
    """What is done with revisions of one checkout."""

    @abstractmethod
    def _found(self, sources: Sources) -> tuple[Revision, Standing]:
        """The revision to sources, and what is known of its texts."""

    @abstractmethod
    def _make(self, revision: Revision, name: str, result: Result, commit: str | None) -> None:
        """Publishes the image of a revision under a name."""

    def export(self) -> Exported:
        """The revision from the base image to the present sources.

        Raises UserCodeError when they do not parse or evaluate, NeedsFullRebuild when no revision leads to what a
        rebuild would give.
        """
        return self._export(self.checkout.sources(self.base.sources))

    def _export(self, sources: Sources) -> Exported:
        self.progress("comparing definitions", 0.5)
        changes = ChangeSet.between(self.base.sources, sources)
        old, new = self.base.sources.blobs, sources.blobs
        provenance = Provenance(
            basedev=__version__,
            julia=self.base.entry.manifest["julia_version"],
            base=self.base.id,
            commit=self.checkout.commit,
            sources=sources.id,
            files=tuple(
                ChangedFile(path, old.get(path), new.get(path)) for path in changes.paths if path in self.base.files
            ),
        )
        if not changes.paths:
            revision = Revision((), ())
            return Exported(revision, provenance, write(revision, provenance))
        revision, stands = self._found(sources)
        return Exported(revision, provenance, write(revision, provenance, stands))

    def apply(self, file: Path) -> Result:
        """The image of the revision in a file, from the store or made now. The checkout's sources do not matter.

        Raises UsageError when it is no revision or one for another base image, UserCodeError when a definition
        fails, NeedsFullRebuild when what it reaches can't be chained.
        """
        begin = time.monotonic()
        given = load(file)
        if given.provenance.base != self.base.id:
            raise UsageError(
                f"{file} is a revision of the base image {given.provenance.base} (Julia {given.provenance.julia}, "
                f"basedev {given.provenance.basedev}), and that of {self.checkout.root} is {self.base.id}: "
                "export it again from sources with this base image"
            )
        result = given.result("present")
        if not given.revision.steps:
            self._describe_base(result)
            return result
        name = digest_of("revision", self.base.id, given.text.encode("utf-8", "surrogateescape"))[:20]
        with self._making(name):
            if entry := self.store.find("images", name):
                self._describe(result, entry)
                return result
            try:
                self._make(given.revision, name, result, given.provenance.commit)
            except UserCodeError as error:
                raise UserCodeError(f"{file}: {error.message}", error.detail) from error
        result.status = "built"
        result.timings["total"] = time.monotonic() - begin
        return result

    def replay(self) -> tuple[Result, Path | None]:
        """The base image, and the file that makes its definitions those of the present sources; None without any.

        Raises as `export` does.
        """
        sources = self.checkout.sources(self.base.sources)
        name = digest_of("replay", self.base.id, sources.id, __version__, LOADER.read_bytes())[:20]
        if not (entry := self.store.find("revisions", name)):
            exported = self._export(sources)
            with self.storage.staging("revision") as made:
                (made / REVISION).write_bytes(exported.text.encode("utf-8"))
                entry = self.store.publish("revisions", name, made, {"base_id": self.base.id})
        file = entry.file(REVISION)
        found = load(file)
        result = found.result("replayed")
        result = replace(result, image=self.base.sysimage, image_id=self.base.id, hold=self.base.entry.hold)
        return result, file if found.revision.steps else None


class StockReviser(Reviser, Builder):
    """Of a checkout of the unmodified Julia 1.5."""

    def _found(self, sources: Sources) -> tuple[Revision, Standing]:
        def find(host: Host) -> tuple[Revision, Standing]:
            revision = self._revise(sources, host)
            check(host.rehearse(revision.steps), revision.steps)
            return revision, standing(revision, host.parse_all)

        return self.with_host(find)

    def _make(self, revision: Revision, name: str, result: Result, commit: str | None) -> None:
        def make(host: Host) -> None:
            with self.storage.staging("image") as made:
                libjulia = self.checkout.distribution.libraries / "libjulia.so.1"
                layer = make_layer(self.base, revision, host, made, libjulia, self.progress)
                result.server = self.server
                result.take(layer)
                self._publish(name, made / "sys.so", result, commit)

        self.with_host(make)


def reviser_for(checkout: Checkout, storage: Storage, progress: Progress) -> Reviser:
    """That of a checkout that was adopted. Raises SetupError when it was not."""
    if checkout.is_patched:
        from .revisions_patched import PatchedReviser

        return PatchedReviser(checkout, storage, progress)
    return StockReviser(checkout, storage, progress)


def standing(revision: Revision, parse_all: Callable[[Sequence[bytes]], list[list[dict[str, Any]]]]) -> Standing:
    """What tells of a revision's texts whether Julia's parser takes them inside an `if` block for a part of it."""
    texts = [step.text for step in revision.steps if isinstance(step, Evaluate)]
    within = [f"if false\n{text}\nend".encode("utf-8", "surrogateescape") for text in texts]
    parsed = zip(texts, parse_all(within) if within else (), strict=True)
    return {text for text, found in parsed if len(found) == 1 and "error" not in found[0]}.__contains__
