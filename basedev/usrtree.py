"""A `usr/` over a source tree, as a source build of Julia has it.

Julia finds its own files by where its executable is, so a tree gets a `usr/bin/julia` of its own. Files
that are built are those of a prefix (see `distribution`), shared by hard links. Files that are
sources are the tree's: `usr/share/julia` leads back to it with relative symbolic links, as
upstream's build makes them, so that `@edit`, stack traces, `Sys.STDLIB` and the tests of the standard
libraries use the files that are being edited.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from .distribution import MULTIARCH, Distribution, Package
from .errors import SetupError, UsageError
from .places import NOTES

SCHEMA = 1
ORIGIN = f"{NOTES}/origin.json"


@dataclass(frozen=True)
class Origin:
    """Where a tree's `usr/` came from, as the file ORIGIN of the tree records it."""

    julia_version: str
    prefix: Path
    packages: tuple[Package, ...]
    commit: str | None
    """The git commit whose tree, with the generated files, the shipped system image was built from."""


def read_origin(tree: Path) -> Origin | None:
    """The origin of the tree's `usr/`; None if it has none that was laid out here."""
    try:
        data = json.loads((tree / ORIGIN).read_text())
        if data["schema"] != SCHEMA:
            raise SetupError(f"{tree / ORIGIN} was written by another version of basedev; remove usr/ and retry")
        packages = tuple(Package(**package) for package in data["packages"])
        return Origin(data["julia_version"], Path(data["prefix"]), packages, data["commit"])
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise SetupError(f"{tree / ORIGIN} can't be read; remove usr/ and retry") from error


def lay_out_usr(prefix: Path, tree: Path, *, commit: str | None = None) -> Path:
    """Makes `tree/usr` from a prefix and returns its path. It appears complete or not at all.

    `tree` has upstream's layout (`base/`, `stdlib/<Name>/`, `test/`); the standard libraries are those
    that it has now. `commit` is recorded as the origin of the shipped system image.
    Raises UsageError when there is a `usr/` already or `tree` holds no sources of Julia, SetupError when
    `prefix` holds no Julia.
    """
    if not ((tree / "base").is_dir() and (tree / "stdlib").is_dir()):
        raise UsageError(f"{tree} holds no sources of Julia: base/ or stdlib/ is missing")
    distribution = Distribution.load(prefix)
    usr = tree / "usr"
    with beside(usr) as made:
        _fill(distribution, tree, made, commit)
        try:
            made.rename(usr)
        except OSError as error:
            if usr.exists():
                raise UsageError(f"{usr} exists already; remove it to have it made anew") from error
            raise
    return usr


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A directory beside `path` to make it in; what is still there at the end is deleted.

    Its maker holds a lock on it. One without a lock was left by a process that was killed, and is
    deleted by the next one that makes the same thing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    start = f".{path.name}.partial-"
    for entry in list(path.parent.iterdir()):
        if entry.name.startswith(start):
            _sweep(entry)
    made = Path(tempfile.mkdtemp(prefix=start, dir=path.parent))
    handle = os.open(made, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        made.chmod(0o755)
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)
        os.close(handle)


def _sweep(stale: Path) -> None:
    try:
        if stale.is_symlink() or not stale.is_dir() or stale.stat().st_uid != os.getuid():
            return
        handle = os.open(stale, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(stale, ignore_errors=True)
    except BlockingIOError:
        pass
    finally:
        os.close(handle)


def _fill(distribution: Distribution, tree: Path, usr: Path, commit: str | None) -> None:
    built = distribution.prefix / "usr"
    # Not a symbolic link: Julia takes the real path of its executable for Sys.BINDIR.
    _share(built / "bin", usr / "bin")
    _share(built / "lib" / MULTIARCH, usr / "lib" / MULTIARCH)
    (usr / "include").mkdir()
    for entry in (built / "include").iterdir():
        (usr / "include" / entry.name).symlink_to(entry)

    share = usr / "share/julia"
    stdlib = share / "stdlib" / distribution.standard_libraries.name
    stdlib.mkdir(parents=True)
    _share(built / "share/julia", share, recursive=False)  # base.cache, julia-config.jl
    (share / "base").symlink_to("../../../base")
    (share / "test").symlink_to("../../../test")
    for entry in sorted((tree / "stdlib").iterdir()):
        if entry.is_dir():
            (stdlib / entry.name).symlink_to(f"../../../../../stdlib/{entry.name}")

    origin = {
        "schema": SCHEMA,
        "julia_version": distribution.version,
        "prefix": os.fspath(distribution.prefix),
        "packages": [asdict(package) for package in distribution.packages],
        "commit": commit,
    }
    record = usr / ORIGIN.removeprefix("usr/")
    record.parent.mkdir()
    record.write_text(json.dumps(origin, indent=1) + "\n")


def _share(source: Path, target: Path, *, recursive: bool = True) -> None:
    """Makes `target` hold the files of the directory `source`, by hard links where the disk is the same."""
    target.mkdir(parents=True, exist_ok=True)
    for entry in source.iterdir():
        place = target / entry.name
        if entry.is_symlink():
            place.symlink_to(entry.readlink())
        elif entry.is_dir():
            if recursive:
                _share(entry, place)
        else:
            try:
                os.link(entry, place)
            except OSError:  # another disk, one without hard links, or a file of another user's
                shutil.copy2(entry, place)
