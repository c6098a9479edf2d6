"""A git worktree of basedev's own, to check out commits in: the user's tree, index and refs stay as they are."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from git import GitCommandError, GitError

from .checkout import Checkout
from .distribution import Distribution
from .errors import SetupError
from .newcheckout import GENERATED, add_generated
from .places import DEBUG, NOTES
from .repository import repository
from .sourcefiles import COMPILER
from .usrtree import lay_out_usr, read_origin

OPTIONS = (
    *("-c", f"core.hooksPath={os.devnull}"),  # the user's hooks are for the user's tree
    *("-c", "core.fsmonitor=false"),
    *("-c", "submodule.recurse=false"),
)


class Worktree:
    """A worktree of a checkout's repository, with a `usr/` of the same Julia."""

    def __init__(self, checkout: Checkout, place: Path) -> None:
        self._origin = checkout
        self.checkout = Checkout(place)

    @classmethod
    @contextmanager
    def of(cls, checkout: Checkout, place: Path) -> Iterator[Worktree]:
        """A worktree at `place` for the time being. One that a killed process left there is removed first.

        Raises SetupError when git can't make it.
        """
        tree = cls(checkout, place)
        tree.remove()
        try:
            tree._git(checkout.tree, "worktree", "add", "--quiet", "--detach", "--no-checkout", os.fspath(place))
            yield tree
        finally:
            tree.remove()

    def check_out(self, commit: str) -> None:
        """Makes the tree that of a commit; what a program left in it is deleted, `usr/` is kept.

        Raises SetupError when git can't do it.
        """
        root = self.checkout.root
        kept = ["/usr", *(f"/base/{name}" for name in GENERATED)]
        self._git(root, "checkout", "--quiet", "--force", "--detach", commit)
        self._git(root, "clean", "--quiet", "-ffd", *(f"--exclude={name}" for name in kept))

    def complete(self, distribution: Distribution) -> None:
        """Adds what git does not have: the generated sources, and a `usr/` with the standard libraries of the tree."""
        root = self.checkout.root
        add_generated(distribution, root)
        libraries = {entry.name for entry in (root / "stdlib").iterdir() if entry.is_dir()}
        with suppress(StopIteration, FileNotFoundError):
            linked = next((root / "usr/share/julia/stdlib").iterdir())
            if {entry.name for entry in linked.iterdir()} == libraries:
                return
        if (root / "usr").exists():
            shutil.rmtree(root / "usr")
        origin = read_origin(self._origin.root)
        lay_out_usr(distribution.prefix, root, commit=origin.commit if origin else None)

    def complete_built(self) -> None:
        """Adds a `usr/` with the program and the runtime that `make` built in the checkout, and the standard libraries
        of the tree; those that git does not have are the checkout's."""
        root, built = self.checkout.root, self._origin.root.resolve() / "usr"
        usr = root / "usr"
        if usr.exists():
            shutil.rmtree(usr)
        for own in ("bin", "lib", NOTES.removeprefix("usr/")):
            (usr / own).mkdir(parents=True)
        # Julia finds all else from where these really are.
        shutil.copy2(self._origin.julia, usr / "bin")
        for library in (built / "lib").glob(f"lib{self._origin.julia.name}.so*"):
            shutil.copy2(library, usr / "lib", follow_symlinks=False)
        if (built.parent / DEBUG).exists():
            (root / DEBUG).touch()
        data = usr / "share/julia"
        for libraries in (built / "share/julia/stdlib").iterdir():
            (data / "stdlib" / libraries.name).mkdir(parents=True)
            for library in libraries.iterdir():
                sources = root / "stdlib" / library.name
                place = data / "stdlib" / libraries.name / library.name
                place.symlink_to(sources if sources.is_dir() else library.resolve())
        for name in ("base", "test", COMPILER):
            (data / name).symlink_to(root / name)
        for directory in ("", "bin", "lib", "share", "share/julia"):
            for entry in (built / directory).iterdir():
                if not os.path.lexists(usr / directory / entry.name):
                    (usr / directory / entry.name).symlink_to(entry)

    def remove(self) -> None:
        """Deletes the worktree, and what git notes of it."""
        place = self.checkout.root
        if os.fspath(place) in self._list():
            with suppress(SetupError):
                self._git(self._origin.tree, "worktree", "remove", "--force", "--force", os.fspath(place))
        shutil.rmtree(place, ignore_errors=True)

    def _list(self) -> list[str]:
        listed = self._git(self._origin.tree, "worktree", "list", "--porcelain")
        return [line.removeprefix("worktree ") for line in listed.splitlines() if line.startswith("worktree ")]

    @staticmethod
    def _git(root: Path, *words: str) -> str:
        try:
            return str(repository(root).git.execute(["git", *OPTIONS, *words]))
        except GitCommandError as error:
            said = str(error.stderr).strip().removeprefix("stderr:").strip().strip("'").strip()
            raise SetupError(f"git {words[0]} failed in {root}", said) from error
        except (GitError, OSError) as error:
            raise SetupError(f"git {words[0]} failed in {root}: {error}") from error
