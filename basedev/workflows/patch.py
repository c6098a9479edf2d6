"""`basedev patch`: the changes to Julia's runtime that chained images of current Julia need."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from email.utils import formatdate
from functools import cached_property
from pathlib import Path
from typing import Any

import git

from .. import patches
from ..checkout import Checkout
from ..errors import SetupError, UsageError
from ..mails import mails
from ..patches import Finding, Read, Series
from ..repository import repository


@dataclass(frozen=True)
class Checked:
    """Whether the patches can be applied to a tree."""

    revision: str | None
    """The commit; None for the working tree."""
    family: str | None
    """The series that was tried; None if there is none for this version of Julia."""
    findings: tuple[Finding, ...]

    @property
    def fits(self) -> bool:
        """Whether each insertion has its place."""
        return not self.findings

    def to_json(self) -> dict[str, Any]:
        """The object that `--json` prints of it."""
        problems = [vars(finding) for finding in self.findings]
        return {"revision": self.revision, "family": self.family, "fits": self.fits, "problems": problems}


class Patches:
    """The patches and a checkout."""

    def __init__(self, checkout: Checkout) -> None:
        self.root = checkout.tree
        self.series = patches.all_series()

    @cached_property
    def present(self) -> Series:
        """The series for the working tree. Raises SetupError when there is none."""
        return patches.series_for(patches.tree_reader(self.root), self.series)

    def check(self, revisions: Sequence[str]) -> Iterator[Checked]:
        """Whether the patches can be applied to these revisions (`A..B` are several), or to the working tree.

        Raises UsageError when git does not know one.
        """
        if not revisions:
            yield self._checked(None, patches.tree_reader(self.root))
            return
        known: dict[tuple[str | None, ...], Checked] = {}  # most commits leave alone what the patches are about
        named = (path for series in self.series for path in (*series.paths, *series.told_apart_by))
        paths = ("VERSION", *dict.fromkeys(named))
        for commit in _commits(self._repository(), revisions):
            blobs = tuple(blob.hexsha if (blob := _blob(commit, path)) else None for path in paths)
            if blobs not in known:
                known[blobs] = self._checked(None, _commit_reader(commit))
            yield replace(known[blobs], revision=commit.hexsha)

    def _checked(self, revision: str | None, read: Read) -> Checked:
        """Tries the series for a tree."""
        try:
            series = patches.series_for(read, self.series)
        except SetupError as error:
            return Checked(revision, None, (Finding("VERSION", None, error.message),))
        return Checked(revision, series.family, patches.check(series, read))

    def apply(self) -> tuple[str, ...]:
        """Applies them to the working tree; returns the paths. Raises SetupError when they can't be applied."""
        return patches.apply(self.present, self.root)

    def revert(self) -> tuple[str, ...]:
        """Takes them out of the working tree; returns the paths. Raises UserCodeError when they were edited there."""
        return patches.revert(self.series, self.root)

    def status(self) -> tuple[str, dict[str, patches.Applied]]:
        """The state of the working tree (`patches.state`), and what it has of the patches by path."""
        read = patches.tree_reader(self.root)
        version = patches.version_of(read)
        series = next((one.of(read) for one in self.series if one.is_for(version)), None)
        return patches.state(self.series, series, self.root), patches.in_tree(self.series, self.root)

    def export(self, directory: Path) -> tuple[Path, ...]:
        """Writes them to a directory as patches for git, for the tree without them. Returns the files.

        Raises SetupError when they can't be applied, UsageError when there are such files already.
        """
        repository = self._repository()
        head = _commit_reader(repository.head.commit)
        series = patches.series_for(head, self.series)
        actor = git.Actor.author(repository.config_reader())
        author = f"{actor.name or 'unknown'} <{actor.email or 'unknown'}>"
        written = mails(series, head, author, formatdate(localtime=True))
        directory.mkdir(parents=True, exist_ok=True)
        if there := sorted(name for name in written if (directory / name).exists()):
            raise UsageError(f"{directory / there[0]} is there already: name another directory with -o")
        for name, content in written.items():
            (directory / name).write_bytes(content)
        return tuple(directory / name for name in written)

    def _repository(self) -> git.Repo:
        try:
            return repository(self.root)
        except git.GitError as error:
            raise UsageError(f"{self.root} is no git repository") from error


def _commits(repository: git.Repo, revisions: Sequence[str]) -> Iterator[git.Commit]:
    for revision in revisions:
        try:
            if ".." in revision:
                yield from repository.iter_commits(revision)
            else:
                yield repository.commit(revision)
        except (git.GitError, git.exc.ODBError, ValueError) as error:
            raise UsageError(f"git knows no {revision} in {repository.working_dir}") from error


def _commit_reader(commit: git.Commit) -> Read:
    def read(path: str) -> bytes | None:
        blob = _blob(commit, path)
        return bytes(blob.data_stream.read()) if blob else None

    return read


def _blob(commit: git.Commit, path: str) -> git.Blob | None:
    try:
        entry = commit.tree / path
    except KeyError:
        return None
    return entry if isinstance(entry, git.Blob) else None
