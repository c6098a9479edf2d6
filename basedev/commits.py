"""The sources of a commit, read from git: nothing needs to be checked out to make its image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import git

from .checkout import Checkout
from .errors import UsageError
from .newcheckout import GENERATED
from .repository import repository
from .sources import Contents, Sources, blob_id, is_source


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

    def sources(self, like: Sources | None = None) -> Sources:
        """Its sources, as they are in a tree in which it is checked out (links and filters of git apart). Contents that
        are also in `like` are taken from there."""
        repo = repository(self.root)
        blobs = {}
        for entry in repo.git.ls_tree("-r", "-z", "--full-tree", self.at, "base", "stdlib").split("\0"):
            about, _, path = entry.partition("\t")
            if about.startswith("100") and is_source(path):
                blobs[path] = about.split()[2]
        others = {f"base/{name}": self._generated(name) for name in GENERATED if f"base/{name}" not in blobs}
        contents: Contents = _Blobs(repo, blobs, others, like)
        return Sources({**blobs, **{path: blob_id(data) for path, data in others.items()}}, contents)

    def _generated(self, name: str) -> bytes:
        return Path(self.distribution.sources / "base" / name).read_bytes()
