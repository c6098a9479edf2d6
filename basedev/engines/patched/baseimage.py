"""The base image: the system image that a checkout's own makefile built, kept with what is linked into chained ones."""

from __future__ import annotations

import os
import posixpath
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ... import process, syntax
from ...checkout import BUILD_IT, Checkout
from ...choice import stamp
from ...elf import ImageSymbols, places
from ...errors import SetupError
from ...includes import SourceFile, full_module
from ...places import SYSIMAGE, built
from ...sourcefiles import PARSER, place_of, roots_of, source_files
from ...sources import Sources
from ...storage import Storage, digest_of, file_digest
from ...store import Store
from .. import Progress
from ..kept import KeptImage, directory_of_base, files_of, included, keep_sources, note_base
from .census import RECORD, KeptCensus, documenting, keep, statements_of
from .host_program import SCRIPT, Host
from .hostimage import NAME, make_host_image
from .runtime import Runtime

CONTENTS = "10"
"""Another one when another thing is noted of a base image."""

ARCHIVE = "usr/lib/julia/sys{}-o.a"

LOADED = "usr/lib/julia/sysbase{}-o.a"
"""What `make` makes by loading all sources, and anew where one of them is newer (`sysimage.mk`)."""

HOST = ("host.jl", "census.jl", "cutoff.jl", "anew.jl", "impact.jl")
"""What the host's image has in it, and takes the census: its digests are compared with those that it gives later."""

PROGRAM = tuple(SCRIPT.with_name(name) for name in (*HOST, "chain.jl"))
"""The base image is another one with each change of these: also of what writes images on it, so that those of
before are not found any more."""

BOOT = "base/boot.jl"
"""What defines Core, which Julia does not record."""

MAIN_OF_PARSER = f"{PARSER}/src/JuliaSyntax.jl"
"""What includes the parser's files, which Julia does not record either."""

LIBRARIES = "Base.__toplevel__"
"""The module that includes standard libraries."""

BUILDING = "Main"
"""The module of `sysimg.jl`, which Julia records first, and which has Base included before it defines anything."""

CODE = "code.o"

SHARED = ("jlfv_*", "jl_fvar_*", "jl_gvar_*", "jl_clone_*")
"""Symbols of a shard to which others refer. Those by which the shards of one image refer to each other are numbered in
each process that writes some, so that others may have the same."""

CHAINABLE = "jl_image_chainable"
"""The symbol of an image that was made by a Julia with the patches."""

TARGETS = b"jl_dispatch_target_ids"
"""The symbol of what an image has code for, which begins with how many processors these are, in 32 bits."""

ADOPTING = 60.0
"""Seconds."""


@dataclass(frozen=True)
class BaseImage(KeptImage):
    """A base image in the store. Its id names the system image by its contents."""

    @property
    def code(self) -> Path:
        """The object file with all its native code."""
        return self.entry.file(CODE)

    @property
    def host(self) -> Path:
        """It with the host's program in it."""
        return self.entry.file(NAME)

    @cached_property
    def census(self) -> KeptCensus:
        """What its sources' statements run."""
        return KeptCensus.kept(self.entry.directory, self.entry.manifest["computing"], self.files)

    @property
    def cpu_target(self) -> str:
        """What it was compiled for, as `julia -C` takes it."""
        return str(self.entry.manifest["cpu_target"])


def make_base_image(checkout: Checkout, storage: Storage, progress: Progress) -> BaseImage:
    """The base image for what `make` built in a checkout: from the store, or kept there now.

    Raises SetupError when there is none, when it can't be chained, or when sources changed since.
    """
    image = checkout.root / checkout.sysimage
    if not image.is_file():
        raise SetupError(f"{checkout.root} has no {checkout.sysimage}: {BUILD_IT}")
    if known := _noted(checkout, image):
        entry = Store(storage).find("bases", known)
        if entry:
            return BaseImage(entry)
    _present_runtime(checkout)
    progress("keeping the system image that make built", ADOPTING)
    before = _stamp(image)
    name = digest_of(_version(), file_digest(image))[:20]
    with storage.lock(f"base-{name}"):
        entry = Store(storage).find("bases", name)
        if entry is None:
            _check(checkout, image)
            _check_times(checkout, ())  # of most files before it takes long
            archive = checkout.root / built(checkout.root, ARCHIVE)
            linked = _stamp(archive)
            with storage.staging(f"base-{name}") as made:
                about = _make(checkout, made)
                if (before, linked) != (_stamp(image), _stamp(archive)):
                    raise SetupError(
                        f"{checkout.sysimage} was made anew meanwhile: wait until make has ended, and retry"
                    )
                _check_times(checkout, about["included"])
                entry = Store(storage).publish("bases", name, made, about)
    return BaseImage(entry)


def files_in(recorded: Sequence[tuple[str, str]], known: Mapping[str, SourceFile]) -> dict[str, SourceFile]:
    """The files in an image that was chained on one with the files `known`, by path, from what Julia recorded of them
    as (module, place). A new one is where those beside it are."""
    base = directory_of_base(recorded)
    paths = {file.name: path for path, file in known.items()}
    directories = {posixpath.dirname(name): posixpath.dirname(path) for name, path in paths.items()}

    def path_of(where: str) -> str:
        name = where.removeprefix(base)
        directory, _, last = name.rpartition("/")
        return paths.get(name) or f"{directories.get(directory, f'base/{directory}')}/{last}"

    parser = {path: file for path, file in known.items() if path.startswith(f"{PARSER}/")}
    return {**files_of(included([("Core", f"{base}boot.jl"), *recorded], path_of)), **parser}


def record_base(checkout: Checkout, base: BaseImage) -> None:
    """Notes in a checkout which base image is its own, how to see that it still is, and at which commit and with which
    sources of the runtime it came to be so. Raises SetupError."""
    before, of = checkout.noted, _stamp(checkout.root / checkout.sysimage)
    if before.get("of", [])[1:] == of[1:] and {"commit", "runtime"} <= before.keys():  # by another basedev perhaps
        about = {"of": of, "commit": before["commit"], "runtime": before["runtime"]}
    else:
        about = {"of": of, "commit": Checkout(checkout.root).commit, "runtime": _present_runtime(checkout).blobs}
    if before != {"base_id": base.id, **about}:
        note_base(checkout.base_record, base, **about)


def _present_runtime(checkout: Checkout) -> Runtime:
    """The runtime, of which the sources are taken for what the system image was made with. Raises SetupError where it
    is not that of its sources."""
    runtime = Runtime(checkout.root)
    if outdated := runtime.outdated():
        known = f"so that it is known what {checkout.sysimage} was made with"
        raise SetupError(f"{outdated[0]}: run make first, {known}")
    return runtime


def is_present(checkout: Checkout) -> bool:
    """Whether the base image that was noted is that of the system image which is there now."""
    try:
        return _noted(checkout, checkout.root / checkout.sysimage) is not None
    except OSError:
        return False


def _version() -> str:
    """Of what is noted of a base image."""
    return digest_of(CONTENTS, *(path.read_bytes() for path in PROGRAM))


def _noted(checkout: Checkout, image: Path) -> str | None:
    """The id that was noted for the checkout's system image, if it has not changed since."""
    about = checkout.noted
    return str(about["base_id"]) if about.get("of") == _stamp(image) else None


def _stamp(image: Path) -> list[object]:
    return [_version(), *stamp(image)]


def _check(checkout: Checkout, image: Path) -> None:
    if not (checkout.root / (archive := built(checkout.root, ARCHIVE))).is_file():
        raise SetupError(
            f"{checkout.root} has no {archive}, from which {checkout.sysimage} was linked: build it with make"
        )
    if not ImageSymbols(image).has(CHAINABLE):
        raise SetupError(f"{image} can't be chained: run basedev patch apply, then make")
    if (targets := _targets(image)) != 1:
        raise SetupError(
            f"{image} has code for {targets} processors, of which one can be chained: "
            "set JULIA_CPU_TARGET to one, as native, in Make.user, then make"
        )


def _targets(image: Path) -> int:
    """For how many processors an image has code; 1 if it has no names of what is in it, where Julia refuses later."""
    found = places(image, {TARGETS})
    if not found:
        return 1
    with image.open("rb") as file:
        file.seek(found[TARGETS][1])
        return int.from_bytes(file.read(4), "little")


def _check_times(checkout: Checkout, in_image: Collection[str]) -> None:
    """Raises SetupError when a source file may be another than the image was built from. They have been read before, so
    that none is saved unseen."""
    where, sysimage = roots_of(os.fspath(checkout.root)), checkout.sysimage
    if gone := [path for path in in_image if not Path(place_of(path, where)).is_file()]:
        raise SetupError(f"{gone[0]} is gone, and {sysimage} was built from it: run make first")
    parts = [checkout.root / name for name in (sysimage, built(checkout.root, LOADED))]
    oldest = min(part.stat().st_mtime_ns for part in parts if part.exists())
    for path, status in source_files(os.fspath(checkout.root)).items():
        if status.st_mtime_ns > oldest and (path in in_image or not path.startswith("stdlib/")):
            raise SetupError(f"{path} is newer than {sysimage}: run make first, so that it is known what is in it")


def _make(checkout: Checkout, made: Path) -> dict[str, Any]:
    shutil.copyfile(checkout.root / checkout.sysimage, made / "base.so")
    sources = Sources.read(checkout.root)
    keep_sources(made, ((path, sources.contents[path]) for path in sources.blobs))
    _join_code(checkout.root / built(checkout.root, ARCHIVE), made)
    target = _cpu_target(checkout.root)
    make_host_image(made / "base.so", made / CODE, target, checkout.julia, made)
    with Host(checkout.julia, made / NAME, has_program=True) as host:
        facts = host.facts()
        files = [("Core", str(checkout.tree / BOOT)), *_in_order(checkout.root, facts, host)]
        recorded = included(files, _path_in(checkout.root))
        computing = _take_census(sources, recorded, host, made)
    return {
        "julia_version": facts["version"],
        "cpu_target": target,
        "sources": dict(sources.blobs),
        "included": recorded,
        "computing": computing,
    }


def _in_order(root: Path, facts: dict[str, Any], host: Host) -> Iterator[tuple[str, str]]:
    """What Julia recorded of the files in the image, with those of the parser where it includes them: before what
    follows on Base, which is `sysimg.jl` and the standard libraries. Raises SetupError when the parser that is in the
    image is not the checkout's."""
    hook = Path(facts["parser"])
    sources = next((one for one in hook.parents if one.name == "src"), hook.parent)
    main = sources / posixpath.basename(MAIN_OF_PARSER)
    if not main.is_file() or _path_in(root)(str(main)) != MAIN_OF_PARSER:
        raise SetupError(
            f"{built(root, SYSIMAGE)} has the parser of {main}, which is not {root / MAIN_OF_PARSER}: "
            "build it here with make"
        )
    files = [(module, where) for module, where in facts["files"] if module != BUILDING]
    libraries = next((number for number, (module, _) in enumerate(files) if module == LIBRARIES), len(files))
    yield from files[:libraries]
    yield from _including("Base", main, host)
    yield from ((module, where) for module, where in facts["files"] if module == BUILDING)
    yield from files[libraries:]


def _including(module: str, place: Path, host: Host) -> Iterator[tuple[str, str]]:
    """A file and those that it includes, in the order in which they are begun, with the modules."""
    yield module, str(place)
    text = place.read_bytes()
    for statement in syntax.statements(host.parse_all([text])[0], text, str(place)):
        if name := syntax.included(statement.tree):
            yield from _including(full_module(module, statement.inside), place.parent / name, host)


def _take_census(sources: Sources, recorded: dict[str, Any], host: Host, made: Path) -> int:
    """Notes what the statements of the sources run. Returns how many of them can be evaluated again."""
    files = files_of(recorded)
    texts = [sources.contents[path] for path in files]
    answers = zip(files, texts, host.parse_all(texts), strict=True)
    parsed = {path: syntax.statements(answer, text, path) for path, text, answer in answers}
    computing, others = statements_of(parsed, files)
    gave = host.census([step for _, _, step in (*computing, *others)], made / RECORD)
    keep(made, computing, others, gave, documenting(parsed, files))
    return len(computing)


def _join_code(archive: Path, made: Path) -> None:
    """Makes one object file of an archive's shards, with no other symbols than those for new shards."""
    work = made / "work"
    work.mkdir()
    process.run(["ar", "x", archive], cwd=work)
    shards = sorted(work.glob("text#*.o"))
    if not shards:
        raise SetupError(f"{archive} has no native code: build it with make")
    process.run(["ld", "-r", "-o", work / CODE, *shards])
    kept = [f"--keep-global-symbol={name}" for name in SHARED]
    process.run(["objcopy", "--wildcard", *kept, work / CODE, made / CODE])
    shutil.rmtree(work)


def _cpu_target(root: Path) -> str:
    said = process.run(["make", "-s", "-C", root, "print-JULIA_CPU_TARGET"])
    return said.strip().partition("=")[2]


def _path_in(root: Path) -> Callable[[str], str]:
    """Gives the path in a checkout for a place that Julia recorded. Raises SetupError for one elsewhere."""
    where = [Path(one).resolve() for one in roots_of(os.fspath(root))]
    parser, sysimage = (root / PARSER).resolve(), built(root, SYSIMAGE)

    def path_of(recorded: str) -> str:
        place = Path(recorded).resolve()
        within = [directory for directory in where if place.is_relative_to(directory)]
        if not within:
            raise SetupError(f"{sysimage} was built from {recorded}, which is not in {root}: build it here with make")
        if place.is_relative_to(parser):
            return f"{PARSER}/{place.relative_to(parser).as_posix()}"
        return place.relative_to(max(within, key=lambda directory: len(directory.parts))).as_posix()

    return path_of
