"""`basedev build` and `status` for a source checkout of current Julia."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ..adopted import remember
from ..aside import Aside
from ..checkout import Checkout
from ..choice import PATCHED_WITHOUT_CUTOFF, image_id
from ..engines import Progress
from ..engines.conversation import HostFailed
from ..engines.patched.baseimage import BaseImage, make_base_image, record_base
from ..engines.patched.host_program import Host, Kept
from ..engines.patched.layer import MakeLayer, prepared
from ..engines.patched.limits import check, check_difference
from ..engines.patched.makefile import make, make_aside, make_generated, make_runtime
from ..engines.patched.runtime import Runtime
from ..engines.patched.spares import ALL, ASKING, Spares, prepare, service, take
from ..errors import InternalError, NeedsFullRebuild, SetupError
from ..revise import revise
from ..revision import Contents, Move, Revision
from ..servers import NoServer, Service
from ..sourcefiles import COMPILER, PARSER, place_of, roots_of
from ..sources import ChangeSet, Sources, library_of
from ..storage import Storage, digest_of
from ..store import Store
from .build import FULL, PATCHED, ImageBuilder, Result, T

MAKE = 1030.0
"""Seconds that `make` takes after an edit of Base, on two cores."""

INFER = 90.0
"""Seconds that it takes to infer all code of an image, on two cores."""

INFERRED = "inferred.bin"

MAKE_RUNTIME = 30.0
"""Seconds that it takes after an edit of a source of the runtime."""


def adopt(checkout: Checkout, storage: Storage, progress: Progress, settings: str | None = None) -> BaseImage:
    """Takes what `make` built for the checkout's base image (`basedev init`).

    `settings` is the digest of the checkout's own settings, if the user trusts them.

    Raises SetupError when it can't be chained, or when sources changed since.
    """
    base = make_base_image(checkout, storage, progress)
    record_base(checkout, base)
    remember(storage, checkout.root.resolve(), base.id, settings)
    return base


def other_runtime(checkout: Checkout) -> str | None:
    """Why the base image is not one of the checkout's runtime, if so: a source of that is another than it was then."""
    runtime = Runtime(checkout.root)
    before = checkout.noted.get("runtime")
    edited = runtime.edited(before) if before else []
    if checkout.is_commit:  # what is edited meanwhile, and not built, is not in its runtime
        unbuilt = {one.path for one in runtime.outdated()}
        edited = [path for path in edited if path not in unbuilt]
    return f"{edited[0]} is another than when {checkout.sysimage} was made" if edited else None


def old_lines(revision: Revision) -> str | None:
    """Why stack traces of kept native code name lines of the base image, if they do."""
    moves = any(isinstance(step, Move) for step in revision.steps)
    return "not corrected for this Julia yet" if moves else None


def other_version(checkout: Checkout, files: Iterable[str]) -> str | None:
    """Why the base image has another version of the parser or a fetched standard library than the checkout asks for, if
    so. `files` are those in the image."""
    fetched = [("deps", (checkout.root / PARSER).resolve().name)]
    fetched += [("stdlib", library) for library in sorted(set(map(library_of, files)))]
    for directory, library in fetched:
        name, _, commit = library.partition("-")
        version = Path(directory, f"{name}.version")
        if commit and (place := checkout.tree / version).is_file() and commit not in place.read_text(errors="replace"):
            return f"{version} names another commit than {checkout.sysimage} was made with"
    return None


def check_runtime(checkout: Checkout) -> None:
    """Raises SetupError when `make` has to build the runtime anew."""
    reason = other_runtime(checkout) or next(map(str, Runtime(checkout.root).outdated()), None)
    if reason:
        raise SetupError(f"{reason}: run basedev build, which has make build what is needed")


def not_loaded(root: Path, paths: Iterable[str]) -> str | None:
    """Why Julia does not load one of these files of standard libraries, if so: its `usr/` has others."""
    where = roots_of(os.fspath(root))
    for library in dict.fromkeys(map(library_of, paths)):
        name = library.partition("-")[0]
        for place in (root / "usr/share/julia/stdlib").glob(f"*/{name}"):
            if place.resolve() != Path(place_of(f"stdlib/{library}", where)).resolve():
                return f"{place.relative_to(root)} leads to {place.resolve()}, not to stdlib/{library}: run make"
    return None


class PatchedBuilder(ImageBuilder):
    """Makes images for a checkout that its own makefile builds."""

    base: BaseImage
    chained = PATCHED
    engines = (PATCHED, PATCHED_WITHOUT_CUTOFF, FULL)

    def __init__(self, checkout: Checkout, storage: Storage, progress: Progress, *, server: bool | None = None) -> None:
        super().__init__(checkout, storage, progress, server=server)
        checkout.check_adopted()
        self.base = adopt(checkout, storage, progress)

    def plan(self) -> Result:
        result = super().plan()
        if not result.full_rebuild_reason and (outdated := Runtime(self.checkout.root).outdated()):
            result.runtime_reason = str(outdated[0])
        return result

    def build(self, *, engine: str | None = None, may_rebuild: bool = True) -> Result:
        reason = None if self.checkout.is_commit else self._renew_runtime(may_rebuild)
        result = super().build(engine=engine, may_rebuild=may_rebuild)
        result.runtime_reason = reason
        return result

    def _renew_runtime(self, may_make: bool) -> str | None:
        """Has `make` build the runtime anew, if that leaves the system image what it is, and tells why. Raises
        NeedsFullRebuild when that may not be done."""
        root = self.checkout.root
        outdated = Runtime(root).outdated()
        if not outdated or self._other_ground():
            return None
        if not may_make:
            raise NeedsFullRebuild(str(outdated[0]))
        self.progress(f"make, for the runtime: {outdated[0]}", MAKE_RUNTIME)
        with self.storage.lock(f"make-{digest_of(os.fspath(root.resolve()))[:20]}"):
            make_runtime(root)
        if left := Runtime(root).outdated():
            raise SetupError(f"{left[0]}, and make does not build that anew: touch what includes it, and retry")
        return str(outdated[0])

    def _other_ground(self) -> str | None:
        """Why nothing can be chained on the base image, whatever the sources: it was not made with their runtime."""
        return self.checkout.unlike_base() or other_runtime(self.checkout) or self._other_version()

    def _other_version(self) -> str | None:
        is_commit = self.checkout.is_commit  # what git tells of it includes this
        return None if is_commit else other_version(self.checkout, self.base.files)

    def _differing(self, sources: Sources) -> Result:
        result = super()._differing(sources)
        if not self.checkout.is_commit:
            result.library_reason = not_loaded(self.checkout.root, result.loaded_files)
        return result

    def _look_up(self, sources: Sources, engine: str | None = None) -> tuple[Result, bool]:
        self.base = adopt(self.checkout, self.storage, self.progress)  # another process may have had make build it
        if self._other_ground():
            return self._differing(sources), False
        return super()._look_up(sources, engine)

    def _image_id(self, sources: Sources, engine: str) -> str:
        """A chained image depends on its base and what is noted of it; a full one on the Julia only."""
        ground = self.base.entry.manifest["files"]["base.so"]["sha256"] if engine == FULL else self.base.id
        return image_id(engine, ground, self._id_in_images(sources))

    def _check_ground(self) -> None:
        if reason := self._other_ground():
            raise NeedsFullRebuild(reason)

    def _rehearse(self, sources: Sources, result: Result) -> None:
        self._check_ground()
        try:
            result.define(self.with_host(lambda host: self._revise(sources, host)).definitions)
        finally:
            result.server = self.server

    def _chain(self, sources: Sources, result: Result, engine: str) -> None:
        try:
            self._chain_once(sources, result, engine, None if engine == PATCHED else Kept())
        except InternalError as error:
            if not result.reinferred:
                raise
            self._chain_once(sources, result, engine, Kept(no_cutoff_reason=f"defect: {error}"))

    def _chain_once(self, sources: Sources, result: Result, engine: str, kept: Kept | None) -> None:
        self.progress("comparing definitions", 3.0)
        name, find = self._image_id(sources, engine), partial(self._revise, sources)
        result.engine = engine
        self._make_chained(name, result, find, lambda: self.checkout.commit, kept)

    def _make_chained(
        self,
        name: str,
        result: Result,
        find: Callable[[Host], Revision],
        commit: Callable[[], str | None],
        kept: Kept | None = None,
    ) -> None:
        """Publishes the image `name` of the revision that `find` finds and tries. `kept` is what stays valid of what
        Julia invalidates, where that is not to be found out."""
        self._check_ground()
        begin = time.monotonic()

        def make(spares: Spares | None) -> None:
            with self._making_layer(spares) as (made, make_layer), Aside(commit) as at:
                with self._host(spares) as host:
                    revision = find(host)
                    result.invalidated = host.invalidated
                    revised = time.monotonic()
                    left = kept
                    if left is None or host.anew_reason is not None:
                        left = self._cut_off(host, revision, result.invalidated)
                result.reinferred, result.no_cutoff_reason = left.inferred, left.no_cutoff_reason
                inferred = time.monotonic()
                layer = make_layer(revision.steps, left, self.progress)
                result.define(revision.definitions)
                result.linker, result.server, result.old_lines_reason = layer.linker, self.server, old_lines(revision)
                result.timings = {"revise": revised - begin, "infer": inferred - revised, **layer.timings}
                self._publish(name, made / "sys.so", result, at.result())

        self._with_spares(ALL, make)

    def _cut_off(self, host: Host, revision: Revision, invalidated: int) -> Kept:
        """What stays valid of what a revision invalidates, or of all if it changes Julia's compiler.

        Raises NeedsFullRebuild when that fails.
        """
        if host.anew_reason is None:
            return host.kept(revision.steps) if invalidated else Kept(inferred=0)
        self.progress(f"{host.anew_reason}: inferring all code anew", INFER)
        with self.storage.staging("anew") as made, Aside(self._inferred) as before:
            said = host.infer_anew(made / INFERRED, revision.steps)
            if said is not None:
                raise NeedsFullRebuild(f"Julia's compiler fails after this edit: {said}")
            return host.kept_by_compiler(revision.steps, before.result())

    def _inferred(self) -> Path:
        """What the code of the base image comes out as when its compiler infers it once more; noted when it is first
        asked for."""
        store, name = Store(self.storage), self.base.id
        with self.storage.lock(f"inferred-{name}"):
            if not (entry := store.find("inferred", name)):
                with self.storage.staging("inferred") as made, self._host(None) as host:
                    if said := host.infer_anew(made / INFERRED):
                        raise InternalError(f"the base image's compiler fails: {said}")
                    entry = store.publish("inferred", name, made, {"base_id": name})
        return entry.file(INFERRED)

    def _rebuild(self, sources: Sources, result: Result) -> None:
        """The checkout's own `make`; what it builds is the base image from then on."""
        begin = time.monotonic()
        self.progress("make", MAKE)
        seen = [path for path in result.changed_files if path.endswith(".jl") and not path.startswith(f"{PARSER}/")]
        unseen = len(seen) < len(result.changed_files)  # by make
        make(self.checkout.root, anew=unseen or self._other_ground() is not None)
        self.base = adopt(self.checkout, self.storage, self.progress)
        result.timings["rebuild"] = time.monotonic() - begin
        result.base_id, result.sources_id = self.base.id, self.base.sources.id
        self._describe_base(result)
        result.engine = FULL

    def reference(self) -> Result:
        """What `make` builds of the present sources, which leaves the checkout as it was."""
        sources = self.checkout.sources(self.base.sources)
        with self._making(self._id_in_images(sources)):
            result, found = self._look_up(sources, FULL)
            if not found:
                self._make_aside(sources, result)
        return result

    def _make_aside(self, sources: Sources, result: Result) -> None:
        begin = time.monotonic()
        commit = self.checkout.commit
        make_generated(self.checkout.root)
        if self.checkout.sources(sources).id != sources.id:
            raise SetupError("make generated sources anew, as for another commit or place: run basedev verify again")
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
        return self.with_host(lambda host: host.parse_all(texts))

    def with_host(self, work: Callable[[Host], T]) -> T:
        """What `work` returns, which gets a host on the base image. When a server's host fails, it is done again with
        an ordinary one."""

        def on_host(spares: Spares | None) -> T:
            with self._host(spares) as host:
                return work(host)

        return self._with_spares(ASKING, on_host)

    @property
    def _service(self) -> Service:
        return service(self.base, self.checkout)

    def start_server(self) -> None:
        if connection := self.served():
            prepare(connection)

    def _with_spares(self, wish: bytes, work: Callable[[Spares | None], T]) -> T:
        """What `work` returns, which gets what a server has ready, if there is one. When that fails, it is done again
        without."""
        if connection := self.served():
            try:
                with take(connection, wish, new=self.server == "started") as spares:
                    if not spares and self.server == "used":
                        self.server = "its programs are not ready yet"
                    return work(spares)
            except (HostFailed, NoServer) as error:
                self.server = str(error)
        return work(None)

    def _host(self, spares: Spares | None) -> Host:
        ready, end = (spares.hosts, spares.end_hosts) if spares else ((), None)
        return Host(
            self.checkout.julia, self.base.host, self.base.census, has_program=True, spares=ready, end_spares=end
        )

    @contextmanager
    def _making_layer(self, spares: Spares | None) -> Iterator[tuple[Path, MakeLayer]]:
        """A directory in which an image can be made, and what does so there."""
        writer = spares.writer if spares else None
        with self.storage.staging("image") as made, prepared(self.base, self.checkout.julia, made, writer) as make:
            yield made, make

    def _revise(self, sources: Sources, host: Host) -> Revision:
        files = self.base.files
        old, new = (one.of_images(files) for one in (self.base.sources, sources))
        check(old, new, files)
        revision = revise(old, new, files, host, self.base.census, check=check_difference)
        compilers = [
            path for path in ChangeSet.between(old, new).paths if path in files and path.startswith(f"{COMPILER}/")
        ]
        texts = {files[path].name: new.contents[path] for path in compilers if path in new.blobs}
        contents = [Contents(name, len(text), host.checksum(text)) for name, text in texts.items()]
        return replace(revision, steps=(*revision.steps, *contents))
