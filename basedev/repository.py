"""Opening a git repository whatever its path is: GitPython puts the values of variables into paths with a `$`."""

from __future__ import annotations

import os
from pathlib import Path

import git


class _Git(git.Git):
    def __init__(self, working_dir: str | os.PathLike[str] | None = None) -> None:
        super().__init__(working_dir)
        self._working_dir = None if working_dir is None else os.fspath(working_dir)


class _Repository(git.Repo):
    GitCommandWrapperType = _Git


def repository(root: Path) -> git.Repo:
    """The repository of a work tree. Raises git.GitError, OSError or ValueError when it can't be opened."""
    return _Repository(root, expand_vars=False)


def new_repository(root: Path, branch: str) -> git.Repo:
    """Makes a directory a repository with a branch to be born. Raises git.GitError."""
    _Git(root).init("--quiet", f"--initial-branch={branch}")
    return repository(root)
