"""The runtime that a checkout's own makefile builds of C, C++ and Scheme: whether it is that of the present sources,
and whether these are what the system image was made with."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path

from ...places import built, suffix
from ...sourcefiles import roots_of
from ...stat_cache import identify

DIRECTORIES = ("src", "src/support", "src/flisp", "cli", "cli/trampolines")

KINDS = ("c", "cpp", "h", "inc", "scm", "S")

NO_SOURCES = re.compile(
    r"julia_version\.h|julia_flisp\.boot\.inc|jl_internal_funcs\.inc|bin2hex\.scm|(?:ccall|llvmcall).*"
    r"|.*mmtk.*|mach_.*|.*win(?:32|64).*|loader_win.*|trampolines_(?!x86_64).*"
)
"""Names of what is generated, of libraries that tests use, and of what is for other systems."""

LIBRARIES = ("usr/lib/libjulia-internal{}.so", "usr/lib/libjulia-codegen{}.so", "usr/lib/libjulia{}.so")
"""What is linked, in this order: the rest of the runtime, what has the code generator, and what loads them."""

OBJECTS = {"": ".o", "-debug": ".dbg.obj"}
"""How names of object files end, by the kind of the build."""

LEAVE_IMAGES = {
    **dict.fromkeys(
        ("src/signal-handling.c", "src/signals-unix.c", "src/safepoint.c"), "what signals do; the profiler"
    ),
    "src/scheduler.c": "which task a thread runs next; an image is made in one thread",
    "src/stackwalk.c": "backtraces, which are in no image",
    "src/jl_uv.c": "calls of libuv, which no constant of Base is computed with",
    **dict.fromkeys(("src/gc-debug.c", "src/gc-pages.c", "src/gc-stacks.c"), "where objects and stacks are in memory"),
    **dict.fromkeys(
        ("src/gc-heap-snapshot.cpp", "src/gc-alloc-profiler.cpp", "src/gc-page-profiler.c"),
        "what is written of the heap on demand",
    ),
    **dict.fromkeys(("src/coverage.cpp", "src/timing.c"), "counters and clocks"),
    **dict.fromkeys(("cli/loader_exe.c", "cli/loader_lib.c"), "the program, and what loads the libraries"),
}
"""Sources of which nothing gets into a system image, with the reason. Not so: `sys.c` (sizes and names that Base has in
constants), `gc-stock.c` (sizes of pools that native code has in it), and all headers."""


@dataclass(frozen=True)
class Outdated:
    """A source that is newer than what `make` builds of it."""

    path: str
    product: str

    def __str__(self) -> str:
        return f"{self.path} is newer than {self.product}"


class Runtime:
    """The runtime of one checkout at one time."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._files: dict[str, os.stat_result] = {}
        self._objects: dict[str, int] = {}
        self._linked = [built(root, name) for name in LIBRARIES]
        self._end = OBJECTS[suffix(root)]
        tree, *_ = where = roots_of(os.fspath(root))
        for place, directory in product(where, DIRECTORIES):
            if not (Path(place) / directory).is_dir():
                continue
            kinds = KINDS if place == tree else ()
            with os.scandir(f"{place}/{directory}") as entries:
                for entry in entries:
                    if entry.name.endswith(self._end) and place == where[-1]:
                        self._objects[f"{directory}/{entry.name.removesuffix(self._end)}"] = entry.stat().st_mtime_ns
                    elif (
                        entry.name.rpartition(".")[2] in kinds
                        and not NO_SOURCES.fullmatch(entry.name)
                        and entry.is_file()
                    ):
                        self._files[f"{directory}/{entry.name}"] = entry.stat()

    @cached_property
    def blobs(self) -> dict[str, str]:
        """The id of each source's contents. Raises OSError when one can't be read."""
        return identify(self._root, self._files, "runtime-cache.json").blobs

    def outdated(self) -> list[Outdated]:
        """The sources and object files that are newer than what is made of them, as `make` goes by. The library with
        the code generator is linked after that with the rest, whenever that is."""
        found = []
        internal, codegen, loader = self._linked
        linked = {product: self._time(product) for product in self._linked}
        for path, status in sorted(self._files.items()):
            stem, _, kind = path.rpartition(".")
            product = loader if path.startswith("cli/") else codegen if kind in ("cpp", "h") else internal
            made = linked[product]
            if kind in ("c", "cpp") and stem in self._objects:
                product, made = f"{stem}{self._end}", self._objects[stem]
            if status.st_mtime_ns > made:
                found.append(Outdated(path, product))
        for stem, time in self._objects.items():
            product = loader if stem.startswith("cli/") else codegen
            if time > linked[product]:
                found.append(Outdated(f"{stem}{self._end}", product))
        return found

    def edited(self, before: dict[str, str]) -> list[str]:
        """The sources that are others than those with the ids `before`, and of which something gets into an image."""
        paths = before.keys() | self.blobs.keys()
        return sorted(path for path in paths - LEAVE_IMAGES.keys() if before.get(path) != self.blobs.get(path))

    def _time(self, product: str) -> int:
        try:
            return (self._root / product).stat().st_mtime_ns
        except FileNotFoundError:
            return 0
