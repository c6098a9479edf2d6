"""A Julia checkout: where its sources, its Julia and its tests are."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from . import usrtree
from .distribution import JULIA_VERSION, MULTIARCH, Distribution
from .errors import SetupError, UsageError
from .places import BASE_RECORD, DEBUG, NOTES, PROGRAM, SYSIMAGE, built
from .sourcefiles import named_by_makefile, roots_of
from .sources import Sources

PATCHED_FAMILIES = ("1.12", "1.13")
"""How versions begin that are built from their sources, with patches (`patches/`)."""

BUILD_IT = "build it with make, or name its build directory with -C"


@dataclass(frozen=True)
class Checkout:
    """A directory with Julia's sources as upstream lays them out, and a `usr/` with a Julia for them; or a build
    directory (`make O=... configure`), which has the latter for sources elsewhere."""

    root: Path
    """Where `usr/` is."""

    @classmethod
    def find(cls, start: Path) -> Checkout:
        """The checkout that `start` is in. Raises UsageError when it is in none."""
        start = start.absolute()
        if not start.is_dir():
            raise UsageError(f"{start} is no directory: name a Julia checkout with -C")
        for directory in (start, *start.parents):
            if (found := cls(directory)).has_sources:
                found.check_place()
                return found
        raise UsageError(
            f"{start} is not in a Julia checkout (no base/Base.jl here or above): "
            "make one with tools/julia-checkout, or name one with -C"
        )

    @cached_property
    def tree(self) -> Path:
        """Where its sources are, and its tests: the work tree of git."""
        return Path(roots_of(os.fspath(self.root))[0])

    def check_place(self) -> None:
        """Raises UsageError for a build directory that was moved: `make` builds where it was."""
        named = named_by_makefile(os.fspath(self.root))
        if named and not _is_same(self.root, Path(named[0])):
            raise UsageError(
                f"{self.root} was made to be {named[0]}, where make builds: move it back, "
                f"or make another with make -C {named[1]} O=DIRECTORY configure"
            )

    @property
    def has_sources(self) -> bool:
        """Whether there are sources of Julia now, as far as can be told at a glance."""
        return (self.tree / "base/Base.jl").is_file() and (self.tree / "stdlib").is_dir()

    @property
    def julia(self) -> Path:
        """The program. Raises SetupError when the checkout has none."""
        program = built(self.root, PROGRAM)
        if not (self.root / program).is_file():
            raise SetupError(f"{self.root} has no {program}: {self._remedy}")
        return self.root / program

    @property
    def sysimage(self) -> str:
        """The path of the system image that its makefile builds."""
        return built(self.root, SYSIMAGE)

    def use(self, *, debug: bool) -> None:
        """Has the debug build used from now on, or the other one. Raises SetupError when there is none."""
        kind = "-debug" if debug else ""
        for what in (PROGRAM, SYSIMAGE):
            if not (self.root / what.format(kind)).is_file():
                raise SetupError(f"{self.root} has no {what.format(kind)}: make {kind[1:] or 'release'} builds it")
        (self.root / NOTES).mkdir(parents=True, exist_ok=True)
        if debug:
            (self.root / DEBUG).touch()
        else:
            (self.root / DEBUG).unlink(missing_ok=True)

    @property
    def _remedy(self) -> str:
        if self.is_patched:
            return BUILD_IT
        return f"remove its usr/, if there is one, and run tools/julia-checkout {self.root}"

    @property
    def version(self) -> str | None:
        """What the file `VERSION` says; None without one."""
        try:
            return (self.tree / "VERSION").read_text(errors="replace").strip().partition("\n")[0]
        except OSError:
            return None

    @property
    def is_patched(self) -> bool:
        """Whether it is of a Julia that its own makefile builds, with the changes of `patches/`."""
        return any(re.match(rf"{re.escape(family)}(?!\d)", self.version or "") for family in PATCHED_FAMILIES)

    @property
    def is_commit(self) -> bool:
        """Whether its sources are a commit's (`CommitCheckout`)."""
        return False

    def unlike_base(self) -> str | None:
        """Why an image of its sources can't be chained on the base image, for what is not among them; None if it
        can be."""
        return None

    @cached_property
    def distribution(self) -> Distribution:
        """The Julia that `usr/` was made from.

        Raises SetupError when it is missing, or is another than this version of basedev knows.
        """
        written = self.version or "of no known version (there is no file VERSION)"
        if self.is_patched:
            only = f"this command is for checkouts of Julia {JULIA_VERSION} yet"
            raise SetupError(f"{self.root} is Julia {written}: {only}")
        origin = usrtree.read_origin(self.root) if written == JULIA_VERSION else None
        version = origin.julia_version if origin else written
        if version != JULIA_VERSION:
            raise SetupError(
                f"{self.root} is Julia {version}; this engine is for Julia {JULIA_VERSION}: "
                "make a checkout of that with tools/julia-checkout"
            )
        if origin is None:
            raise SetupError(
                f"{self.root} has no Julia that basedev knows (usr/share/basedev/origin.json is missing): "
                f"{self._remedy}"
            )
        if not origin.prefix.is_dir():
            raise SetupError(f"{origin.prefix} is gone: {self._remedy} to get it again")
        if not self._is_own(origin.prefix):
            raise SetupError(f"{self.root / usrtree.ORIGIN} was not written here: {self._remedy}")
        distribution = Distribution.load(origin.prefix)
        for name in ("bin/julia", f"lib/{MULTIARCH}/libjulia.so.1"):
            if not _same_size(self.root / "usr" / name, distribution.prefix / "usr" / name):
                raise SetupError(f"{self.root / 'usr' / name} is not that of Julia {JULIA_VERSION}: {self._remedy}")
        return distribution

    def _is_own(self, prefix: Path) -> bool:
        """Whether the Julia and the notes are this user's, not something that came with the checkout."""
        root, real = self.root.resolve(), prefix.resolve()
        return (
            (self.root / usrtree.ORIGIN).parent.resolve().is_relative_to(root)
            and not real.is_relative_to(root)
            and real.stat().st_uid in {0, os.geteuid()}
        )

    def check_adopted(self) -> None:
        """Raises SetupError when `init` was never run."""
        if not self.base_record.exists():
            raise SetupError(f"{self.root} has no base image yet: run basedev init")

    @property
    def noted(self) -> dict[str, Any]:
        """What `init` noted of the base image, with its name in `base_id`; empty if it can't be read."""
        try:
            about = json.loads(self.base_record.read_text())
        except (OSError, ValueError, RecursionError):
            return {}
        return about if isinstance(about, dict) and isinstance(about.get("base_id"), str) else {}

    def sources(self, like: Sources | None = None) -> Sources:
        """The sources as they are now; contents that are also in `like` are taken from there."""
        return Sources.read(self.root, like)

    @property
    def commit(self) -> str | None:
        """The commit that is checked out; None outside git or before the first commit."""
        import git  # takes longer to load than all else that `run` needs

        from .repository import repository

        try:
            return str(repository(self.tree).head.commit.hexsha)
        except (git.GitError, OSError, ValueError):
            return None

    @property
    def base_record(self) -> Path:
        """Where `init` notes the base image of this checkout; git ignores `usr/`."""
        return self.root / built(self.root, BASE_RECORD)


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False


def _same_size(one: Path, other: Path) -> bool:
    try:
        return one.stat().st_size == other.stat().st_size
    except OSError:
        return False
