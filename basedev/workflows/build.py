"""`basedev build`: the image for the present sources, from the store or made now; and what `status` tells of it."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from socket import socket
from typing import Any, Protocol, TypeVar

from .. import afterwards
from ..aside import Aside
from ..census import Question
from ..checkout import Checkout
from ..choice import CHAINED as CHAINED
from ..choice import CHAINED_WITHOUT_CUTOFF, image_id
from ..choice import FULL as FULL
from ..choice import PATCHED as PATCHED
from ..config import load_config
from ..engines import Progress, full
from ..engines.conversation import HostFailed
from ..engines.stock15.baseimage import BaseImage
from ..engines.stock15.host_program import Host, host_program, service
from ..engines.stock15.layer import Layer, NeedsJuliasRule, check, make_layer
from ..errors import InternalError, NeedsFullRebuild, UsageError
from ..holds import Hold
from ..includes import SourceFile
from ..process import timed
from ..revise import revise
from ..revision import Definition, Revision, as_json
from ..servers import Limits, NoServer, Servers, Service, allowed
from ..sizes import parse_size
from ..sources import ChangeSet, Sources, library_of
from ..storage import Storage
from ..store import Entry, Store
from .adopting import adopted_base

T = TypeVar("T")

NOTHING_KNOWN: dict[str, Any] = {
    **dict.fromkeys(("status", "engine", "image", "image_id", "base_id", "sources_id", "full_rebuild_reason")),
    **{"changed_files": [], "ignored_files": [], "definitions": {"evaluated": [], "deleted": []}},
    **dict.fromkeys(("runtime_reason", "library_reason", "new_code_reason", "old_lines_reason", "no_cutoff_reason")),
    **dict.fromkeys(("whole_heap_reason", "linker_reason")),
    **dict.fromkeys(("linker", "invalidated", "reinferred", "recompiled", "peak_memory", "server")),
    **{"timings": {}, "errors": []},
}
"""The keys of the object that `--json` prints, with their values where a command does not come to know them."""

NOT_KEPT = ("image", "image_id", "status", "runtime_reason", "library_reason", "server", "errors")
"""Those that an image's manifest does not have."""


@dataclass
class Result:
    """What is known of the image for some sources: found, planned or built."""

    status: str
    """"current" (the sources are the base image's), "present", "built", or for a plan "chain" or "rebuild"."""
    engine: str
    base_id: str
    sources_id: str
    image: Path | None = None
    image_id: str | None = None
    full_rebuild_reason: str | None = None
    runtime_reason: str | None = None
    """Why `make` builds, or built, the runtime anew before anything else, if so."""
    new_code_reason: str | None = None
    """Why a chained image keeps no native code of the base image, if it keeps none."""
    old_lines_reason: str | None = None
    """Why stack traces of kept native code name lines of the base image, if they do."""
    changed_files: tuple[str, ...] = ()
    ignored_files: tuple[str, ...] = ()
    """Changed files that are in no image."""
    library_reason: str | None = None
    """Why Julia does not load an edited standard library that is in no image, if so."""
    definitions: tuple[Definition, ...] = ()
    invalidated: int | None = None
    reinferred: int | None = None
    """Calls of inference for those."""
    no_cutoff_reason: str | None = None
    """Why all that Julia invalidated is compiled anew although less might do, if so."""
    recompiled: int | None = None
    linker: str | None = None
    """What linked the image, "none" if it was put together without one."""
    linker_reason: str | None = None
    """Why a linker was needed for a chained image, if so."""
    whole_heap_reason: str | None = None
    """Why all of the heap was written, and not what is different from the base image's, if so."""
    peak_memory: int | None = None
    server: str | None = None
    """Whether a warm server was "used" or "started" for it, "off", or why there was none."""
    timings: dict[str, float] = field(default_factory=dict)
    hold: Hold | None = None
    """Keeps the image from being collected while this object lives, and a Julia that this process becomes."""

    def define(self, definitions: tuple[Definition, ...]) -> None:
        """Tells what a revision changes. A new file that defines something is in the image."""
        self.definitions = definitions
        come = {one.path for one in definitions}.intersection(self.ignored_files)
        self.changed_files = tuple(sorted({*self.changed_files, *come}))
        self.ignored_files = tuple(path for path in self.ignored_files if path not in come)

    @property
    def loaded_files(self) -> tuple[str, ...]:
        """Changed files of standard libraries that are in no image: each Julia loads them from the checkout."""
        return tuple(path for path in self.ignored_files if library_of(path))

    def take(self, layer: Layer) -> None:
        """Tells what was done to make a chained image."""
        self.timings.update(layer.timings)
        self.invalidated, self.reinferred, self.recompiled = layer.invalidated, layer.reinferred, layer.recompiled
        self.no_cutoff_reason, self.new_code_reason = layer.no_cutoff_reason, layer.new_code_reason
        self.old_lines_reason = layer.old_lines_reason
        self.linker, self.linker_reason = layer.linker, layer.linker_reason
        self.whole_heap_reason = layer.whole_heap_reason
        self.peak_memory = layer.peak_memory

    def to_json(self) -> dict[str, Any]:
        """The object that `--json` prints."""
        return {
            "status": self.status,
            "engine": self.engine,
            "image": str(self.image) if self.image else None,
            "image_id": self.image_id,
            "base_id": self.base_id,
            "sources_id": self.sources_id,
            "full_rebuild_reason": self.full_rebuild_reason,
            "runtime_reason": self.runtime_reason,
            "new_code_reason": self.new_code_reason,
            "old_lines_reason": self.old_lines_reason,
            "changed_files": list(self.changed_files),
            "ignored_files": list(self.ignored_files),
            "library_reason": self.library_reason,
            "definitions": as_json(self.definitions),
            "no_cutoff_reason": self.no_cutoff_reason,
            "invalidated": self.invalidated,
            "reinferred": self.reinferred,
            "recompiled": self.recompiled,
            "linker": self.linker,
            "linker_reason": self.linker_reason,
            "whole_heap_reason": self.whole_heap_reason,
            "peak_memory": self.peak_memory,
            "server": self.server,
            "timings": {step: round(seconds, 4) for step, seconds in self.timings.items()},
            "errors": [],
        }


class OtherResults(Exception):
    """What was computed while Julia was built comes out otherwise in an image that was made; it must not be used."""


class Base(Protocol):
    """A base image of an engine."""

    @property
    def id(self) -> str:
        """Its name."""

    @property
    def entry(self) -> Entry:
        """It in the store."""

    @property
    def sysimage(self) -> Path:
        """The image that `julia -J` runs."""

    @property
    def sources(self) -> Sources:
        """What it was made from."""

    @property
    def files(self) -> dict[str, SourceFile]:
        """The source files that are in it, by path."""


class ImageBuilder(ABC):
    """Makes images for one checkout with one engine."""

    base: Base
    chained: str
    """The engine's name."""
    engines: tuple[str, ...]
    """The names of engines that the checkout's images can be made with."""

    def __init__(self, checkout: Checkout, storage: Storage, progress: Progress, *, server: bool | None = None) -> None:
        """`server` tells whether a warm server may be used, by default what the configuration says."""
        self.checkout = checkout
        self.storage = storage
        self.store = Store(storage)
        self.progress = progress
        self._may_be_served = server
        self.server: str | None = None
        """What came of it the last time that a server was looked for (`Result.server`)."""

    @property
    @abstractmethod
    def _service(self) -> Service:
        """What a server on the base image runs."""

    @abstractmethod
    def _rehearse(self, sources: Sources, result: Result) -> None:
        """Adds to the result what an image of the sources would come to. Raises NeedsFullRebuild."""

    @abstractmethod
    def _chain(self, sources: Sources, result: Result, engine: str) -> None:
        """Makes an image of the sources on the base image. Raises NeedsFullRebuild."""

    @abstractmethod
    def _rebuild(self, sources: Sources, result: Result) -> None:
        """Makes an image of the sources anew."""

    @abstractmethod
    def native_signatures(self, image: Path) -> list[str]:
        """The argument types of everything with native code in an image of the checkout's Julia."""

    @abstractmethod
    def parse_all(self, texts: Sequence[bytes]) -> list[list[dict[str, Any]]]:
        """The statements of several source texts, as Julia reads them. Raises UserCodeError for one that it can't."""

    @abstractmethod
    def _image_id(self, sources: Sources, engine: str) -> str:
        """The name of an image in the store."""

    def served(self) -> socket | None:
        """A connection to the server on the base image, which is started when it does not run; None when there is
        none to be had."""
        config = load_config(self.checkout.root)
        if not (allowed(config.server) if self._may_be_served is None else self._may_be_served):
            self.server = "off"
            return None
        limits = Limits(60 * config.server_idle, parse_size(config.server_memory))
        try:
            connection, new = Servers(self.storage).connect(self._service, limits)
        except NoServer as reason:
            self.server = str(reason)
            return None
        self.server = "started" if new else "used"
        return connection

    def start_server(self) -> None:
        """Has the server on the base image run, if there is one to be had."""
        if connection := self.served():
            connection.close()

    def plan(self) -> Result:
        """What `build` would do for the present sources, without doing it.

        Raises UserCodeError when they do not parse or evaluate.
        """
        sources = self.checkout.sources(self.base.sources)
        result, found = self._look_up(sources)
        if result.status == "current":
            return result
        try:
            self._rehearse(sources, result)
        except NeedsFullRebuild as reason:
            result.full_rebuild_reason = str(reason)
        if not found:
            result.status = "rebuild" if result.full_rebuild_reason else "chain"
            result.engine = FULL if result.full_rebuild_reason else self.chained
        return result

    def build(self, *, engine: str | None = None, may_rebuild: bool = True) -> Result:
        """The image for the present sources. `engine` forces one; by default the faster that is right, and without
        `may_rebuild` one that is there or can be chained.

        Raises UserCodeError when the sources do not parse or evaluate, SetupError or InternalError when the image
        can't be made; nothing is published then. With a forced engine that can't make it, or where a full rebuild
        is needed and may not be made, raises NeedsFullRebuild.
        """
        if engine and engine not in self.engines:
            raise UsageError(f"engine {engine} is not for this checkout: it can have {', '.join(self.engines)}")
        begin = time.monotonic()
        sources = self.checkout.sources(self.base.sources)
        result, found = self._look_up(sources, engine)
        if found:
            return result
        with self._making(self._id_in_images(sources)):
            result, found = self._look_up(sources, engine)  # another process may have built it meanwhile
            if found:
                return result
            if engine == FULL:
                self._rebuild(sources, result)
            else:
                try:
                    self._chain(sources, result, engine or self.chained)
                except (NeedsFullRebuild, InternalError) as reason:
                    if engine or not may_rebuild:
                        raise
                    result.full_rebuild_reason = (
                        str(reason) if isinstance(reason, NeedsFullRebuild) else f"defect: {reason}"
                    )
                    self._rebuild(sources, result)
        result.status = "built"
        result.timings["total"] = time.monotonic() - begin
        return result

    def reference(self) -> Result:
        """A full rebuild of the present sources, from the store or made now, for `verify`. Raises what `build` does."""
        return self.build(engine=FULL)

    def _making(self, name: str) -> AbstractContextManager[None]:
        """The lock under which an image is made. Progress tells when it has to be waited for."""
        waiting = "waiting for another basedev, which makes this image"
        return self.storage.lock(f"image-{name}", waiting=lambda: self.progress(waiting, 5.0))

    def _look_up(self, sources: Sources, engine: str | None = None) -> tuple[Result, bool]:
        result = self._differing(sources)
        if engine is None and self._id_in_images(sources) == self._id_in_images(self.base.sources):
            self._describe_base(result)
            return result, True
        for candidate in (engine,) if engine else (self.chained, FULL):
            entry = self.store.find("images", self._image_id(sources, candidate))
            if entry:
                self._describe(result, entry)
                result.status = "present"
                return result, True
        return result, False

    def _differing(self, sources: Sources) -> Result:
        """How the sources differ from the base image's."""
        changes = ChangeSet.between(self.base.sources, sources)
        files, libraries = self.base.files, set(map(library_of, self.base.files))
        changed = tuple(
            path
            for path in changes.paths
            if path in files or (path.endswith(".toml") and library_of(path) in libraries)
        )
        return Result(
            status="chain",
            engine=self.chained,
            base_id=self.base.id,
            sources_id=sources.id,
            changed_files=changed,
            ignored_files=tuple(path for path in changes.paths if path not in changed),
        )

    def _id_in_images(self, sources: Sources) -> str:
        """The id of those sources that can be in an image."""
        return sources.of_images(self.base.files).id

    def _publish(self, name: str, sysimage: Path, result: Result, commit: str | None) -> None:
        begin = time.monotonic()
        with self.storage.staging("publish") as made:
            sysimage.rename(made / "sys.so")
            about = {
                **{key: value for key, value in result.to_json().items() if key not in NOT_KEPT},
                "julia_version": self.base.entry.manifest["julia_version"],
                "commit": commit,
                "checkout": str(self.checkout.root.resolve()),
            }
            entry = self.store.publish("images", name, made, about, checksums_later=True)
        result.timings["publish"] = time.monotonic() - begin
        self._describe(result, entry)
        afterwards.start(entry, parse_size(load_config(self.checkout.root).budget))

    def _describe_base(self, result: Result) -> None:
        result.status, result.image, result.image_id = "current", self.base.sysimage, self.base.id
        result.hold = self.base.entry.hold

    @staticmethod
    def _describe(result: Result, entry: Entry) -> None:
        about = entry.manifest
        result.image, result.image_id, result.engine = entry.file("sys.so"), entry.id, about["engine"]
        result.hold = entry.hold
        result.full_rebuild_reason, result.new_code_reason = about["full_rebuild_reason"], about["new_code_reason"]
        result.old_lines_reason = about["old_lines_reason"]
        definitions = (*about["definitions"]["evaluated"], *about["definitions"]["deleted"])
        result.define(tuple(Definition(**one) for one in definitions))
        result.invalidated, result.recompiled = about["invalidated"], about["recompiled"]


class Builder(ImageBuilder):
    """Makes images for a checkout of the unmodified Julia 1.5."""

    base: BaseImage
    chained = CHAINED
    engines = (CHAINED, CHAINED_WITHOUT_CUTOFF, FULL)

    def __init__(self, checkout: Checkout, storage: Storage, progress: Progress, *, server: bool | None = None) -> None:
        super().__init__(checkout, storage, progress, server=server)
        self.base = adopted_base(checkout, storage, progress)

    def _image_id(self, sources: Sources, engine: str) -> str:
        """A chained image depends on its base; a full one on the Julia only."""
        ground = self.checkout.distribution.key if engine == FULL else self.base.id
        return image_id(engine, ground, self._id_in_images(sources))

    def _rehearse(self, sources: Sources, result: Result) -> None:
        def rehearse(host: Host) -> None:
            revision = self._revise(sources, host)
            result.define(revision.definitions)
            rehearsed = host.rehearse(revision.steps)
            check(rehearsed)
            result.new_code_reason = rehearsed["new_code_reason"] or None

        try:
            self.with_host(rehearse)
        finally:
            result.server = self.server

    def native_signatures(self, image: Path) -> list[str]:
        with self._host(image) as host:
            return host.native_signatures()

    def parse_all(self, texts: Sequence[bytes]) -> list[list[dict[str, Any]]]:
        return self.with_host(lambda host: host.parse_all(texts))

    def with_host(self, work: Callable[[Host], T]) -> T:
        """What `work` returns, which gets a host on the base image. When a server's host fails, it is done again with
        an ordinary one."""
        if served := self.served():
            try:
                with self._host(self.base.sysimage, served) as host:
                    return work(host)
            except HostFailed as error:
                self.server = str(error)
        with self._host(self.base.sysimage) as host:
            return work(host)

    @property
    def _service(self) -> Service:
        return service(self._program, self.base.sysimage, self.checkout.distribution)

    def _host(self, image: Path, served: socket | None = None) -> Host:
        return Host(self._program, image, self.checkout.distribution, served)

    @property
    def _program(self) -> Path:
        return host_program(self.checkout.distribution, self.storage, lambda step: self.progress(step, 25.0))

    def _revise(self, sources: Sources, host: Host, question: Question | None = None) -> Revision:
        base = self.base
        return revise(base.sources, sources, base.files, host, base.census, base.parsed, question)

    def _check_results(self, image: Path, question: Question) -> None:
        """Raises OtherResults when statements that the edit left as they are give something else on an image."""
        with Host(self._program, image, self.checkout.distribution, parsed=self.base.trees) as host:
            answer = host.results([], [statement for _, statement in question.left])
        if not question.answer(answer):
            raise OtherResults

    def _chain(self, sources: Sources, result: Result, engine: str) -> None:
        begin = time.monotonic()
        self.progress("comparing definitions", 0.5)

        def chain(host: Host, no_cutoff_reason: str | None) -> None:
            with self.storage.staging("image") as made, Aside(lambda: self.checkout.commit) as commit:
                cutoff = engine != CHAINED_WITHOUT_CUTOFF and no_cutoff_reason is None
                revision = self._revise(sources, host, question if cutoff else None)
                libjulia = self.checkout.distribution.libraries / "libjulia.so.1"
                layer = make_layer(self.base, revision, host, made, libjulia, self.progress, cutoff=cutoff)
                result.engine, result.server = engine, self.server
                result.define(revision.definitions)
                result.timings["revise"] = time.monotonic() - begin - sum(layer.timings.values())
                result.take(layer)
                result.no_cutoff_reason = result.no_cutoff_reason or no_cutoff_reason
                if question.left and cutoff:
                    self.progress(f"evaluating what ran the edited code ({len(question.left)} statements)", 1.0)
                    with timed(result.timings, "results"):
                        self._check_results(made / "sys.so", question)
                self._publish(self._image_id(sources, engine), made / "sys.so", result, commit.result())

        why: str | None = None
        question = Question()
        while True:
            try:
                return self.with_host(partial(chain, no_cutoff_reason=why))
            except NeedsJuliasRule as reason:
                why = str(reason)
            except OtherResults:
                self.progress("comparing definitions, with what gave something else", 1.0)

    def _rebuild(self, sources: Sources, result: Result) -> None:
        begin = time.monotonic()
        commit = self.checkout.commit
        result.engine = FULL
        signatures = self.native_signatures(self.base.sysimage)
        with self.storage.staging("rebuild") as work:
            tree = work / "tree"
            full.snapshot(self.checkout.root, self.checkout.distribution.prefix, tree)
            output = work / "output"
            output.mkdir()
            made = full.rebuild(
                tree,
                tree / "usr/bin/julia",
                signatures,
                self.storage,
                output,
                progress=self.progress,
                log=work / "log.txt",
            )
            result.timings["rebuild"] = time.monotonic() - begin
            # The sources may have changed between being read and being copied.
            sources = Sources.read(tree)
            result.sources_id = sources.id
            self._publish(self._image_id(sources, FULL), made, result, commit)
