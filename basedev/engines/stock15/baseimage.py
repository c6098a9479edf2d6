"""The base image: the shipped system image's code and heap once more, in objects that can be linked again.

Every function and every slot for a value has a symbol there (see `host/layer.h`), so that a layer can refer to
them. It has native code for exactly what the shipped image has it for.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from ... import elf, syntax
from ...assemble import Contents, assemble
from ...census import Census, census_of
from ...debug_lines import make_index
from ...distribution import Distribution
from ...dwarf import UnknownDebugInfo
from ...elf import ELF_HEADER_SIZE
from ...errors import SetupError
from ...includes import COMPILER, SourceFile, includes_in
from ...link import ImageTables, libraries, link_image, only_generic_target
from ...pieces import Range
from ...places import DEPENDENCIES
from ...prelinked import Prelinked, library_names
from ...process import timed
from ...relocate import NeedsLinker
from ...sources import Sources, blob_id, library_sources
from ...storage import Storage, digest_of
from ...store import Store
from .. import Progress
from ..full import compiler_files
from ..kept import CensusEntries, KeptImage, files_of, included, keep_census, keep_sources
from .host_program import SOURCES, Host, host_program
from .parsed import Kept, keep, kept_version

CONTENTS = "14"
"""Another one when another thing is noted of a base image."""
CODE_OF_BASE = (
    *("image.cpp", "layer.cpp", "layer.h", "runtime.h", "census.cpp", "digest.cpp"),
    *("breakpoints.cpp", "dependencies.cpp", "inference.cpp", "blob.cpp", "room.cpp", "trees.cpp"),
)
"""The host's sources on which a base image depends."""

PARSED = "trees.bin"

SECONDS = {"host": 25.0, "code": 75.0, "lines": 7.0, "link": 1.0, "dependencies": 20.0, "census": 45.0}


@dataclass(frozen=True)
class BaseImage(KeptImage):
    """A base image in the store. Its id names the Julia, the sources and the way it was made."""

    @property
    def objects(self) -> list[Path]:
        """The object files with its native code."""
        return [self.entry.file(name) for name in self.entry.manifest["objects"]]

    @cached_property
    def prelinked(self) -> Prelinked:
        """The image as a ground to build on. Raises NeedsLinker when it is none."""
        if reason := self.entry.manifest["linker_reason"]:
            raise NeedsLinker(reason)
        return Prelinked.kept(self.entry.file("prelinked.json"), self.sysimage)

    def library_names(self) -> dict[str, tuple[str, str | None]]:
        """What code may refer to in the libraries that it was linked with, as `prelinked.library_names` gives it."""
        names: dict[str, tuple[str, str | None]] = json.loads(self.entry.file("libraries.json").read_text())
        return names

    @property
    def tables(self) -> ImageTables:
        """The sizes of its tables and the target that it was compiled for."""
        about = self.entry.manifest
        return ImageTables(about["fvars"], about["gvars"], bytes.fromhex(about["target"]))

    @property
    def debug_lines(self) -> Path:
        """Where the lines of its sources are in its debug information. Raises UnknownDebugInfo if that is not known."""
        if reason := self.entry.manifest["unknown_lines"]:
            raise UnknownDebugInfo(reason)
        return self.entry.file("lines.zip")

    @property
    def heap(self) -> Range:
        """Its serialized heap."""
        return Range(self.sysimage, *self.entry.manifest["heap"])

    @cached_property
    def files(self) -> dict[str, SourceFile]:
        """The source files that are in it, by path."""
        return _files(self.entry.manifest["included"], self.entry.manifest["compiler"])

    def files_of(self, recorded: list[tuple[str, str]], sources: Sources) -> dict[str, SourceFile]:
        """Those in an image that was chained on this one from `sources`, as Julia `recorded` them (`Host.facts`)."""
        compiler = frozenset(self.entry.manifest["compiler"])
        return _files(_included(recorded, set(sources.blobs), compiler), sorted(compiler))

    @cached_property
    def census(self) -> Census:
        """What its sources' statements run."""
        return Census(self.entry.file("census.bin"), CensusEntries(self.entry.file("census.json")), self.dependencies)

    @property
    def dependencies(self) -> Path:
        """The record of what its results of inference depend on, beyond the edges that Julia keeps."""
        return self.entry.file(DEPENDENCIES)

    @property
    def trees(self) -> Path:
        """What the parser makes of the statements of its census, for hosts that are to evaluate them."""
        return self.entry.file(PARSED)

    @cached_property
    def parsed(self) -> Kept:
        """The statements of its sources."""
        return Kept(self.entry.file("statements.zip"))


def shipped_sources(distribution: Distribution) -> dict[str, bytes]:
    """The sources of the shipped system image, by path in a checkout."""
    found = {}
    for path in sorted((distribution.sources / "base").rglob("*.jl")):
        found[path.relative_to(distribution.sources).as_posix()] = path.read_bytes()
    for library in sorted(distribution.standard_libraries.iterdir()):
        for name in library_sources(library):
            found[f"stdlib/{library.name}/{name}"] = (library / name).read_bytes()
    return found


def base_id(distribution: Distribution) -> str:
    """The id of the base image for a Julia."""
    parts = [
        CONTENTS,
        kept_version(),
        *(part for name in CODE_OF_BASE for part in (name, (SOURCES / name).read_bytes())),
    ]
    return digest_of(distribution.key, *parts)[:20]


def make_base_image(distribution: Distribution, storage: Storage, progress: Progress) -> BaseImage:
    """The base image for a Julia: from the store, or made now.

    Raises SetupError when something needed for it is missing.
    """
    store, name = Store(storage), base_id(distribution)
    waiting = "waiting for another basedev, which makes the base image"
    with storage.lock(f"base-{name}", waiting=lambda: progress(waiting, SECONDS["code"])):
        entry = store.find("bases", name)
        if entry is None:
            program = host_program(distribution, storage, lambda step: progress(step, SECONDS["host"]))
            with storage.staging(f"base-{name}") as made:
                about = _make(distribution, program, made, progress)
                entry = store.publish("bases", name, made, about)
    return BaseImage(entry)


def _make(distribution: Distribution, program: Path, made: Path, progress: Progress) -> dict[str, object]:
    shipped = distribution.libraries / "julia/sys.so"
    sources = shipped_sources(distribution)
    keep_sources(made, sources.items())
    compiler = compiler_files(made / "sources/base")
    target = only_generic_target(shipped)
    timings: dict[str, float] = {}
    with Host(program, shipped, distribution) as host:
        facts = host.facts()
        recorded = _included(facts["files"], set(sources), compiler)
        progress("generating the base image's native code anew", SECONDS["code"])
        with timed(timings, "code"):
            parts = host.rebase(made)
    progress("noting where line numbers are", SECONDS["lines"])
    unknown_lines = None
    with timed(timings, "lines"):
        try:
            make_index([Path(path) for path in parts["objects"]], made / "lines.zip")
        except UnknownDebugInfo as error:
            unknown_lines = str(error)
    progress("linking the base image", SECONDS["link"])
    tables = ImageTables(parts["fvars"], parts["gvars"], target)
    objects, heap, work = [Path(path) for path in parts["objects"]], Path(parts["heap"]), made / "work"
    work.mkdir()
    with timed(timings, "link"):
        linker_reason = _link(made, objects, heap, tables, distribution.libraries / "libjulia.so.1", work)
    shutil.rmtree(work)
    heap.unlink()
    progress("noting what results of inference depend on", SECONDS["dependencies"])
    with timed(timings, "dependencies"), Host(program, made / "base.so", distribution) as host:
        host.dependencies(made / DEPENDENCIES)
    progress("noting what the sources' statements run", SECONDS["census"])
    with timed(timings, "census"):
        _take_census(sources, _files(recorded, sorted(compiler)), distribution, program, made)
    return {
        "julia_version": facts["version"],
        "distribution": distribution.key,
        "native": facts["native"],
        "fvars": tables.fvars,
        "gvars": tables.gvars,
        "heap": _heap(made / "base.so"),
        "target": tables.target.hex(),
        "linker_reason": linker_reason,
        "objects": [path.name for path in objects],
        "unknown_lines": unknown_lines,
        "sources": {path: blob_id(contents) for path, contents in sources.items()},
        "included": recorded,
        "compiler": sorted(compiler),
        "timings": timings,
    }


def _link(
    made: Path, objects: Sequence[Path], heap: Path, tables: ImageTables, libjulia: Path, work: Path
) -> str | None:
    """Makes `base.so`, and with it what others need to be assembled from it. Returns why they can't be, if so."""
    image = made / "base.so"
    linked = work / "linked.so"
    link_image(linked, objects, None, tables, libjulia=libjulia, workdir=work)
    contents = Range(heap, ELF_HEADER_SIZE, heap.stat().st_size - ELF_HEADER_SIZE)
    try:
        ground = Prelinked.read(linked)
        names = library_names(libraries(libjulia))
        assemble(image, ground, Contents([contents], tables.fvars, tables.gvars), lambda: names).write(
            made / "prelinked.json"
        )
        (made / "libraries.json").write_text(json.dumps(names))
    except NeedsLinker as reason:
        link_image(image, objects, heap, tables, libjulia=libjulia, workdir=work)
        return f"the base image can't be built on: {reason}"
    return None


def _heap(image: Path) -> tuple[int, int]:
    """Where the serialized heap begins in an image's file, and its size."""
    symbols = elf.ImageSymbols(image)
    return symbols.place("jl_system_image_data"), symbols.number("jl_system_image_size")


def _take_census(
    sources: Mapping[str, bytes], files: Mapping[str, SourceFile], distribution: Distribution, program: Path, made: Path
) -> None:
    with Host(program, made / "base.so", distribution) as host:
        paths = list(files)
        texts = [sources[path] for path in paths]
        answers = zip(paths, texts, host.parse_all(texts), strict=True)
        parsed = {path: syntax.statements(answer, text, path) for path, text, answer in answers}
        includes = {path: own for path in paths if (own := includes_in(path, sources[path]))}
        keep(made / "statements.zip", parsed.items(), includes)
        statements = list(census_of(parsed, files))
        evaluations = [step for _, _, step in statements]
        gave = host.census(evaluations, made / "census.bin")
        host.keep_parsed(evaluations, made / PARSED)
    keep_census(made / "census.json", statements, gave)


def _files(recorded: Mapping[str, Any], compiler: Iterable[str]) -> dict[str, SourceFile]:
    files = files_of(recorded)
    for path in compiler:  # Julia does not record what Core and Core.Compiler include
        module = "Core" if path == "base/boot.jl" else COMPILER
        files.setdefault(path, SourceFile(path.removeprefix("base/"), (module,)))
    return files


def _included(
    recorded: Iterable[tuple[str, str]], paths: set[str], compiler: frozenset[str]
) -> dict[str, dict[str, Any]]:
    """What Julia recorded of the files it included, with the paths of the machine that built it made ours."""
    return included(
        recorded,
        lambda where: _in_tree(os.path.normpath(where), paths),
        lambda path: (COMPILER,) if path in compiler else (),
    )


def _in_tree(recorded: str, paths: set[str]) -> str:
    parts = PurePosixPath(recorded).parts
    for begin in range(len(parts)):
        rest = parts[begin:]
        if rest[0] == "stdlib" and len(rest) > 1 and rest[1].startswith("v"):
            rest = ("stdlib", *rest[2:])
        if "/".join(rest) in paths:
            return "/".join(rest)
    raise SetupError(f"the system image was built from {recorded}, which is not among the sources that came with it")
