"""The sources of a commit, read from git: nothing needs to be checked out to make its image."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import git

from .checkout import Checkout
from .errors import SetupError, UsageError
from .newcheckout import GENERATED
from .patches import all_series, without_patches
from .repository import repository
from .sourcefiles import COMPILER
from .sources import Contents, Sources, blob_id, is_source

BUILT_FROM = re.compile(
    r"(?:src|cli|base)/|deps/(?!checksums/)|stdlib/[^/]+$|contrib/generate_precompile\.jl$"
    r"|(?:Make\.inc|sysimage\.mk|VERSION)$"
)
"""Files of which current Julia's makefile makes the runtime, what it generates into `base/`, and a system image; which
versions of standard libraries it fetches is in files in `stdlib/`."""


def commit_named(root: Path, name: str) -> str:
    """The id of the commit that a name, or anything else that git understands, stands for. Raises UsageError."""
    try:
        return str(repository(root).git.rev_parse("--verify", "--quiet", f"{name}^{{commit}}"))
    except git.GitError as error:
        raise UsageError(f"{name!r} is no commit of {root}") from error


class _Blobs:
    """Contents by path: those that other sources have too, of git's objects, and of files that git does not have."""

    def __init__(self, repo: git.Repo, blobs: dict[str, str], others: dict[str, bytes], like: Sources | None) -> None:
        self._repo, self._blobs, self._others, self._like = repo, blobs, others, like

    def __getitem__(self, path: str, /) -> bytes:
        if path in self._others:
            return self._others[path]
        if self._like and self._like.blobs.get(path) == self._blobs[path]:
            return self._like.contents[path]
        return bytes(git.Blob(self._repo, bytes.fromhex(self._blobs[path])).data_stream.read())


@dataclass(frozen=True)
class CommitCheckout(Checkout):
    """A checkout, with the sources of a commit in place of those that are checked out."""

    at: str

    @property
    def commit(self) -> str:
        """The commit."""
        return self.at

    @property
    def is_commit(self) -> bool:
        return True

    def sources(self, like: Sources | None = None) -> Sources:
        """Its sources, as they are in a tree in which it is checked out (links and filters of git apart). Contents that
        are also in `like` are taken from there."""
        repo = repository(self.tree)
        blobs = _blobs_of(repo, self.at)
        if self.is_patched and like:
            return self._built(repo, blobs, like)
        others = {f"base/{name}": self._generated(name) for name in GENERATED if f"base/{name}" not in blobs}
        contents: Contents = _Blobs(repo, blobs, others, like)
        return Sources({**blobs, **{path: blob_id(data) for path, data in others.items()}}, contents)

    def _generated(self, name: str) -> bytes:
        return Path(self.distribution.sources / "base" / name).read_bytes()

    def _built(self, repo: git.Repo, blobs: dict[str, str], like: Sources) -> Sources:
        """Its sources where `make` built the base image from `like`: what git does not have is that image's, as is a
        file that the patches had changed when it was made, and that is the same in both commits."""
        before, patched = _blobs_of(repo, self._ground), {path for series in all_series() for path in series.paths}
        kept = {path: blob for path, blob in like.blobs.items() if path not in before}
        same = {path: like.blobs[path] for path in patched & like.blobs.keys() if blobs.get(path) == before.get(path)}
        blobs = {**kept, **blobs, **same}
        return Sources(blobs, _Blobs(repo, blobs, {}, like))

    @property
    def _ground(self) -> str:
        """The commit that was checked out when current Julia's base image came to be the checkout's own.

        Raises SetupError when there is none, or it is gone.
        """
        commit = self.noted.get("commit")
        try:
            return commit_named(self.tree, str(commit))
        except UsageError as error:
            raise SetupError(f"{self.root} was built at {commit}, which is no commit there: build it anew") from error

    def unlike_base(self) -> str | None:
        """For current Julia, the file that is another than at the commit of the base image which `make` built, and not
        among the sources."""
        repo, ground = repository(self.tree), self._ground
        differing = repo.git.diff_tree("-r", "-z", "--name-only", "--no-renames", ground, self.at).split("\0")
        commits = [repo.commit(name) for name in (ground, self.at)]
        for path in differing:
            if BUILT_FROM.match(path) and not is_source(path):
                one, other = (without_patches(_contents(commit, path)) for commit in commits)
                if one != other:
                    return f"{path} is another than at {ground[:10]}, where Julia was built"
        return None


def _blobs_of(repo: git.Repo, commit: str) -> dict[str, str]:
    """The blob ids of a commit's sources by path."""
    blobs = {}
    for entry in repo.git.ls_tree("-r", "-z", "--full-tree", commit, "base", "stdlib", COMPILER).split("\0"):
        about, _, path = entry.partition("\t")
        if about.startswith("100") and is_source(path):
            blobs[path] = about.split()[2]
    return blobs


def _contents(commit: git.Commit, path: str) -> bytes | None:
    try:
        entry = commit.tree / path
    except KeyError:
        return None
    return bytes(entry.data_stream.read()) if isinstance(entry, git.Blob) else None
