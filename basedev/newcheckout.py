"""A checkout of Julia's sources, made from a Julia in the cache directory.

It is a git repository with upstream's layout and one commit, the same on every machine, whose sources
are those that the distribution's system image was built from; with a `usr/` that git ignores (see
`usrtree`). The files that upstream's build generates into `base/` are there and ignored too.

The repository's own configuration remembers what it was made from (`basedev.prefix`,
`basedev.commit`). A worktree of it, or a checkout that lost its `usr/` to `git clean`, is completed
from that.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from git import GitError

from . import distribution, usrtree
from .distribution import Distribution, Tell
from .errors import SetupError, UsageError
from .repository import new_repository, repository
from .storage import Storage
from .usrtree import Origin

BRANCH = "master"
PERSON = "basedev", "basedev@localhost"
DATE = "1608768000 +0000"
"""Of the commit: 24 December 2020, when the packages were built."""

GENERATED = (
    "build_h.jl",
    "errno_h.jl",
    "file_constants.jl",
    "pcre_h.jl",
    "uv_constants.jl",
    "version_git.jl",
)
"""The files in `base/` that upstream's build generates and upstream's `base/.gitignore` names."""

IGNORED = """\
/usr
/.usr.partial-*

*.a
*.bc
*.dylib
*.dll
*.ji
*.o
*.so
*.so.*

*.cov
*.mem
.DS_Store
*~
.*.sw?
"""


@dataclass(frozen=True)
class NewCheckout:
    """A checkout that stands complete. `commit` is its first commit."""

    path: Path
    commit: str
    distribution: Distribution
    done: Literal["made", "completed", "nothing"]
    """What had to be done: all of it, only what was missing, or nothing."""


def make_checkout(path: Path, storage: Storage, progress: Tell = lambda _: None) -> NewCheckout:
    """Makes a checkout at `path`, which must not exist or be an empty directory.

    One that stands there already is completed if something is missing, and is otherwise left alone.
    Raises UsageError when anything else is there (nothing is touched then), SetupError when there
    is no Julia to be had.
    """
    path = path.resolve()
    _check_place(path)
    if (record := _record(path)) is not None:
        return _complete(path, record, storage, progress)
    source = distribution.obtain(storage, progress)
    progress("making the checkout")
    with _errors_in(path), usrtree.beside(path) as made:
        copy_sources(source, made)
        commit = _commit_all(made, source)
        usrtree.lay_out_usr(source.prefix, made, commit=commit)
        made.rename(path)
    return NewCheckout(path, commit, source, "made")


@contextmanager
def _errors_in(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SetupError(f"cannot make the checkout {path}: {error.strerror or error}") from error


def copy_sources(source: Distribution, tree: Path) -> None:
    """Copies a distribution's pristine sources to the empty directory `tree`, in upstream's layout."""
    for origin, name in (
        (source.sources / "base", "base"),
        (source.standard_libraries, "stdlib"),
        (source.sources / "test", "test"),
    ):
        shutil.copytree(origin, tree / name, symlinks=True, copy_function=_copy)
    (tree / "VERSION").write_text(source.version + "\n")


def add_generated(source: Distribution, tree: Path) -> None:
    """Copies those of the generated files, which git ignores, that `tree` lacks."""
    for name in GENERATED:
        if not (tree / "base" / name).exists():
            _copy(os.fspath(source.sources / "base" / name), os.fspath(tree / "base" / name))


def _copy(origin: str, place: str) -> str:
    """Copies a file's bytes and whether it is executable, but not that it is read-only."""
    shutil.copyfile(origin, place, follow_symlinks=False)
    if not Path(place).is_symlink() and os.access(origin, os.X_OK):
        Path(place).chmod(Path(place).stat().st_mode | 0o111)
    return place


@dataclass(frozen=True)
class _Record:
    """What a repository remembers of its making."""

    prefix: str
    commit: str


def _record(path: Path) -> _Record | None:
    if not (path / ".git").exists():
        return None
    try:
        with repository(path) as repo, repo.config_reader("repository") as config:
            if not config.has_section("basedev"):
                return None
            return _Record(str(config.get("basedev", "prefix")), str(config.get("basedev", "commit")))
    except GitError:
        return None


def _check_place(path: Path) -> None:
    if path == Path.cwd() and not any(path.iterdir()):
        raise UsageError(f"{path} is the current directory; name one that is to be made")
    if not path.exists():
        return
    if not path.is_dir():
        raise UsageError(f"{path} exists and is no directory; nothing was changed")
    if any(path.iterdir()) and _record(path) is None:
        raise UsageError(f"{path} is not empty and no checkout of basedev's; nothing was changed")


def _complete(path: Path, record: _Record, storage: Storage, progress: Tell) -> NewCheckout:
    base = path / "base"
    if not base.is_dir():
        raise UsageError(f"{path} has no base/ at present; check out a commit with Julia's sources first")
    origin = usrtree.read_origin(path)
    source = _source_of(path, record, origin, storage, progress)
    missing = [name for name in GENERATED if not (base / name).exists()]
    outdated = origin is None or origin.prefix != source.prefix
    if not missing and not outdated:
        return NewCheckout(path, record.commit, source, "nothing")
    progress("completing the checkout")
    with _errors_in(path):
        if origin is not None and outdated:
            shutil.rmtree(path / "usr")
        add_generated(source, path)
        if outdated:
            usrtree.lay_out_usr(source.prefix, path, commit=record.commit)
    return NewCheckout(path, record.commit, source, "completed")


def complete_like_relatives(path: Path) -> Path | None:
    """Gives a checkout without a `usr/` the Julia of one that shares its repository, or that it was cloned from.

    Returns that other checkout; None when there is none with a `usr/` that was laid out here. Raises SetupError when
    it can't be written, or its Julia is gone.
    """
    if (path / "usr").exists():
        return None
    for other in _relatives(path):
        if (origin := usrtree.read_origin(other)) is not None:
            source = Distribution.load(origin.prefix)
            with _errors_in(path):
                add_generated(source, path)
                usrtree.lay_out_usr(source.prefix, path, commit=origin.commit)
            return other
    return None


def _relatives(path: Path) -> Iterator[Path]:
    """The other worktrees of a checkout's repository, the main one first; those that it was cloned from on this
    machine."""
    try:
        with repository(path) as repo:
            listed = repo.git.worktree("list", "--porcelain").splitlines()
            places = [line.removeprefix("worktree ") for line in listed if line.startswith("worktree ")]
            places += [url.removeprefix("file://") for remote in repo.remotes for url in remote.urls]
    except (GitError, OSError, ValueError):
        return
    for place in map(Path, places):
        if place.is_absolute() and place.is_dir() and place.resolve() != path.resolve():
            yield place


def _source_of(path: Path, record: _Record, origin: Origin | None, storage: Storage, progress: Tell) -> Distribution:
    """The Julia that a checkout was made from: the one that its `usr/` shares files with, else its like."""
    places = [storage.root / "julia" / record.prefix]
    if origin is not None:
        places.insert(0, origin.prefix)
    for place in places:
        if (place / "manifest.json").is_file():
            return Distribution.load(place)
    if record.prefix != distribution.prefix_key():
        raise UsageError(f"{path} was made from a Julia that is gone ({record.prefix}); make a new checkout")
    return distribution.obtain(storage, progress)


def _commit_all(tree: Path, source: Distribution) -> str:
    """Makes `tree` a repository with all of it in one commit, and returns the commit's id."""
    (tree / ".gitignore").write_text(IGNORED)
    (tree / "base/.gitignore").write_text("".join(f"/{name}\n" for name in GENERATED))
    try:
        with _git_of_no_one(), new_repository(tree, BRANCH) as repo:
            with repo.config_writer() as config:
                # The line ends are part of the sources, whatever this user has git do with other files.
                config.set_value("core", "autocrlf", "false")
            repo.git.add("--all")
            # Not `git commit`, which signs, runs hooks and re-encodes as it is configured.
            message = f"Julia {source.version}, as distributed"
            commit = str(repo.git.commit_tree(repo.git.write_tree(), "-m", message))
            repo.git.update_ref(f"refs/heads/{BRANCH}", commit, "-m", message)
            with repo.config_writer() as config:
                config.set_value("basedev", "prefix", source.key)
                config.set_value("basedev", "commit", commit)
    except GitError as error:
        raise SetupError("git could not make the checkout's first commit", str(error)) from error
    return commit


@contextmanager
def _git_of_no_one() -> Iterator[None]:
    """Lets git work without the user's and the system's configuration, templates and environment.

    For the time being only, for this whole process: GitPython hands the process's environment to git.
    """
    name, email = PERSON
    added = {
        # Older gits know no GIT_CONFIG_GLOBAL; the user's ignore and attribute files lie there too.
        "HOME": os.devnull,
        "XDG_CONFIG_HOME": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_DEFAULT_HASH": "sha1",
        **{f"GIT_{role}_NAME": name for role in ("AUTHOR", "COMMITTER")},
        **{f"GIT_{role}_EMAIL": email for role in ("AUTHOR", "COMMITTER")},
        **{f"GIT_{role}_DATE": DATE for role in ("AUTHOR", "COMMITTER")},
    }
    saved = {key: value for key, value in os.environ.items() if key.startswith("GIT_") or key in added}
    for key in saved:
        del os.environ[key]
    os.environ.update(added)
    try:
        yield
    finally:
        for key in added:
            del os.environ[key]
        os.environ.update(saved)
