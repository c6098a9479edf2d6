"""The checkout's own makefile: a system image of the present sources, in its place or only to look at."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ... import process
from ...errors import InternalError, SetupError, UserCodeError
from ...places import NOTES, SYSIMAGE, built, suffix
from ...sourcefiles import PARSER, place_of, roots_of
from .baseimage import LOADED

TARGET = "julia-sysimg"

RUNTIME_TARGETS = ("julia-src", "julia-cli")

FIRST = "usr/lib/julia/basecompiler{}-o.a"
"""What it makes first of a system image, with all else after that."""

PRODUCTS = ("basecompiler*", "sysbase*", "sys.*", "sys-*")
"""What it makes, in `usr/lib/julia` (`sysimage.mk`)."""

BEFORE = f"{NOTES}/before"
"""Where that is meanwhile which was made before."""


def make(root: Path, *, anew: bool = False) -> None:
    """Makes the system image in its place; with `anew`, also where no source of it changed, because the runtime did,
    on which it does not depend for `make`. Raises what `process.run` does."""
    if anew:
        make_runtime(root)  # an error in it leaves the image as it is
        with suppress(FileNotFoundError):
            os.utime(root / built(root, FIRST), (0, 0))
    process.run(["make", "-C", root, _target(root, TARGET)])


def make_runtime(root: Path) -> None:
    """Makes the runtime of its present sources, and leaves the system image as it is.

    Raises UserCodeError when they do not compile.
    """
    try:
        process.run(["make", "-C", root, *(_target(root, one) for one in RUNTIME_TARGETS)])
    except InternalError as error:
        raise UserCodeError(f"make can't build the runtime of {root}", error.detail) from error


def make_generated(root: Path) -> None:
    """Makes those sources anew that it generates, as from the checkout's commit and place, which it would do before a
    system image. Raises what `process.run` does."""
    process.run(["make", "-C", root / "base"])


def make_aside(root: Path, changed: Iterable[str], made: Path) -> None:
    """Makes the system image `made`, and puts back what was in the checkout, with its times.

    `changed` are paths of the sources that are to be in it and are not in the one that is there. Raises SetupError
    where `make` does not see that they changed, and what `process.run` does.
    """
    loaded, where = built(root, LOADED), roots_of(os.fspath(root))
    for path in changed:
        seen = "base/Base.jl" if path.startswith(f"{PARSER}/") else path
        if Path(place_of(seen, where)).stat().st_mtime_ns <= (root / loaded).stat().st_mtime_ns:
            raise SetupError(
                f"{path} changed, and {seen} is older than {loaded}, so that make does not see it: "
                f"touch {seen}, and retry"
            )
    with _put_back(root):
        make(root)
        shutil.copyfile(root / built(root, SYSIMAGE), made)


@contextmanager
def _put_back(root: Path) -> Iterator[None]:
    """Keeps what was made before by links: each program of `make` writes a new file, which then gets the name."""
    place, before = (root / SYSIMAGE).parent, root / BEFORE
    shutil.rmtree(before, ignore_errors=True)  # of a process that was killed
    before.mkdir(parents=True)
    kept = {}
    for path in {path for pattern in PRODUCTS for path in place.glob(pattern)}:
        if path.is_file() and not path.is_symlink():
            os.link(path, before / path.name)
            kept[path.name] = _stamp(path)
    try:
        yield
    finally:
        written = [name for name, stamp in kept.items() if _stamp(before / name) != stamp]
        for name in kept:
            (before / name).replace(place / name)
        shutil.rmtree(before)
        if written:
            raise SetupError(
                f"make wrote into {place / written[0]}, and did not replace it: run make, then basedev init"
            )


def _target(root: Path, target: str) -> str:
    return f"{target}{suffix(root) or '-release'}"


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns
