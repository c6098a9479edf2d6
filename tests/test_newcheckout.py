"""A checkout to work on: laid out as upstream's, the same everywhere, never over what is there."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from git import Repo

from basedev import distribution, usrtree
from basedev.distribution import Distribution
from basedev.errors import UsageError
from basedev.newcheckout import GENERATED, NewCheckout, make_checkout
from basedev.storage import Storage

TOOL = Path(__file__).resolve().parent.parent / "tools/julia-checkout"


@pytest.fixture(scope="module")
def checkout(julia: Distribution, tmp_path_factory: pytest.TempPathFactory) -> NewCheckout:
    """One checkout for the tests that only look at it."""
    return make_checkout(tmp_path_factory.mktemp("checkouts") / "julia", Storage())


def run(checkout: NewCheckout, *words: str) -> str:
    command = [os.fspath(checkout.path / "usr/bin/julia"), "--startup-file=no", *words]
    return subprocess.run(command, cwd=checkout.path, check=True, capture_output=True, text=True).stdout


def test_layout_is_upstreams(checkout: NewCheckout) -> None:
    path = checkout.path
    assert checkout.done == "made"
    assert (path / "VERSION").read_text() == "1.5.3\n"
    for name in (
        "base/Base.jl",
        "stdlib/Random/src/Random.jl",
        "stdlib/Random/test/runtests.jl",
        "test/runtests.jl",
    ):
        assert (path / name).is_file()
    assert not (path / "stdlib/v1.5").exists()
    assert sorted(entry.name for entry in path.iterdir()) == sorted(
        [".git", ".gitignore", "VERSION", "base", "stdlib", "test", "usr"]
    )
    assert list(path.parent.iterdir()) == [path]


def test_git_sees_the_sources_and_nothing_else(checkout: NewCheckout) -> None:
    with Repo(checkout.path) as repo:
        assert repo.active_branch.name == "master"
        assert repo.head.commit.hexsha == checkout.commit
        assert repo.head.commit.parents == ()
        assert not repo.is_dirty(untracked_files=True)
        tracked = set(repo.git.ls_files().splitlines())
        ignored = set(repo.git.ls_files("--others", "--ignored", "--exclude-standard", "--directory").splitlines())
    assert ignored == {"usr/", *(f"base/{name}" for name in GENERATED)}
    assert tracked.isdisjoint(f"base/{name}" for name in GENERATED)
    for name in tracked - {".gitignore", "base/.gitignore", "VERSION"}:
        original = checkout.distribution.sources / re.sub("^stdlib/", "stdlib/v1.5/", name)
        assert original.read_bytes() == (checkout.path / name).read_bytes(), name


def test_sources_can_be_edited_without_harm_to_the_prefix(checkout: NewCheckout) -> None:
    for name in ("base/Base.jl", "base/build_h.jl", "test/runtests.jl"):
        file = checkout.path / name
        assert file.stat().st_mode & 0o200
        assert not file.samefile(checkout.distribution.sources / name)


def test_julia_takes_its_sources_from_the_checkout(checkout: NewCheckout) -> None:
    code = """
    using Random, Base64, InteractiveUtils
    println(Sys.BINDIR)
    println(Sys.STDLIB)
    println(abspath(Sys.BINDIR, Base.SYSCONFDIR))
    println(realpath(pathof(Random)))
    for (file, line) in (functionloc(chomp, (String,)), functionloc(base64encode, (String,)))
        println(realpath(file), " ", startswith(strip(readlines(file)[line]), r"function|base64encode"))
    end
    """
    path = os.fspath(checkout.path)
    assert run(checkout, "-e", code).splitlines() == [
        f"{path}/usr/bin",
        f"{path}/usr/share/julia/stdlib/v1.5",
        f"{path}/etc",
        f"{path}/stdlib/Random/src/Random.jl",
        f"{path}/base/strings/util.jl true",
        f"{path}/stdlib/Base64/src/encode.jl true",
    ]


def test_stack_traces_name_the_checkouts_files(checkout: NewCheckout) -> None:
    code = """
    trace = try; parse(Int, "x"); catch; stacktrace(catch_backtrace()); end
    frame = first(frame for frame in trace if frame.func === :tryparse_internal)
    print(realpath(Base.find_source_file(string(frame.file))))
    """
    assert run(checkout, "-e", code) == os.fspath(checkout.path / "base/parse.jl")


def test_julias_own_tests_run(checkout: NewCheckout) -> None:
    output = run(checkout, "test/runtests.jl", "UUIDs", "char")
    assert "SUCCESS" in output
    with Repo(checkout.path) as repo:
        assert not repo.is_dirty(untracked_files=True)


def test_usr_records_its_origin(checkout: NewCheckout) -> None:
    origin = usrtree.read_origin(checkout.path)
    assert origin is not None
    assert origin.julia_version == "1.5.3"
    assert origin.prefix == checkout.distribution.prefix
    assert origin.packages == checkout.distribution.packages
    assert origin.commit == checkout.commit


def test_usr_is_that_of_a_source_build(checkout: NewCheckout) -> None:
    usr = checkout.path / "usr"
    assert not (usr / "bin/julia").is_symlink()
    assert (usr / "share/julia/base").readlink() == Path("../../../base")
    assert (usr / "share/julia/stdlib/v1.5/Random").readlink() == Path("../../../../../stdlib/Random")
    assert (usr / "include/julia/julia.h").is_file()
    assert (usr / "share/julia/base.cache").is_file()
    dangling = [path for path in usr.rglob("*") if path.is_symlink() and not path.exists()]
    assert dangling == []


def test_commit_is_the_same_whatever_git_is_told(
    checkout: NewCheckout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    for name in ("pre-commit", "commit-msg", "post-checkout", "reference-transaction"):
        (hooks / name).write_text("#!/bin/sh\nexit 1\n")
        (hooks / name).chmod(0o755)
    template = tmp_path / "template"
    (template / "info").mkdir(parents=True)
    (template / "info/exclude").write_text("*.jl\n")
    (tmp_path / "ignore").write_text("*.md\n")
    (tmp_path / "attributes").write_text("*.jl text eol=crlf\n")
    (tmp_path / ".gitconfig").write_text(
        "[commit]\ngpgsign = true\n"
        f"[core]\nautocrlf = true\nhooksPath = {hooks}\nexcludesFile = {tmp_path}/ignore\n"
        f"attributesFile = {tmp_path}/attributes\nfileMode = false\n"
        f"[init]\ndefaultBranch = trunk\ntemplateDir = {template}\n"
        "[i18n]\ncommitEncoding = latin1\n[user]\nuseConfigOnly = true\n[gpg]\nprogram = false\n"
    )
    monkeypatch.setenv("BASEDEV_CACHE", os.fspath(Storage().root))
    monkeypatch.setenv("HOME", os.fspath(tmp_path))
    monkeypatch.setenv("GIT_DIR", os.fspath(tmp_path / "elsewhere.git"))
    monkeypatch.setenv("GIT_INDEX_FILE", os.fspath(tmp_path / "elsewhere.index"))
    monkeypatch.setenv("GIT_AUTHOR_NAME", "Somebody")
    monkeypatch.setenv("GIT_TEMPLATE_DIR", os.fspath(template))
    other = make_checkout(tmp_path / "other", Storage())
    assert other.commit == checkout.commit
    assert os.environ["GIT_AUTHOR_NAME"] == "Somebody"
    assert os.environ["HOME"] == os.fspath(tmp_path)
    for name in ("GIT_DIR", "GIT_INDEX_FILE", "GIT_AUTHOR_NAME"):
        monkeypatch.delenv(name)
    with Repo(other.path) as repo:
        assert repo.active_branch.name == "master"
        assert not repo.is_dirty(untracked_files=True)
        assert repo.head.commit.author.name == "basedev"


@pytest.mark.parametrize("there", ["file", "non-empty directory", "repository"])
def test_nothing_is_made_over_what_is_there(tmp_path: Path, there: str) -> None:
    path = tmp_path / "mine"
    if there == "file":
        path.write_text("precious")
    elif there == "repository":
        Repo.init(path).close()
    else:
        path.mkdir()
        (path / "notes").write_text("precious")
    before = sorted(path.rglob("*"))
    with pytest.raises(UsageError, match="nothing was changed") as caught:
        make_checkout(path, Storage(tmp_path / "unused cache"))
    assert "\n" not in caught.value.message
    assert sorted(path.rglob("*")) == before
    assert list(tmp_path.iterdir()) == [path]


def test_empty_directory_will_do(julia: Distribution, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert make_checkout(tmp_path / "empty", Storage()).done == "made"


def test_rerunning_does_nothing_and_needs_no_package_client(checkout: NewCheckout, tmp_path: Path) -> None:
    (tmp_path / "git").symlink_to(shutil.which("git") or "git")
    environment = {**os.environ, "PATH": os.fspath(tmp_path)}
    command = [sys.executable, os.fspath(TOOL), os.fspath(checkout.path)]
    before = (checkout.path / usrtree.ORIGIN).stat()
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    assert "nothing to do" in done.stdout
    assert done.stderr == ""
    assert (checkout.path / usrtree.ORIGIN).stat() == before


def test_lost_usr_comes_back_and_edits_stay(julia: Distribution, tmp_path: Path) -> None:
    made = make_checkout(tmp_path / "julia", Storage())
    (made.path / "base/char.jl").write_text("# edited\n")
    with Repo(made.path) as repo:
        repo.git.clean("-xdff")
    assert not (made.path / "usr").exists()
    again = make_checkout(made.path, Storage())
    assert again.done == "completed"
    assert (made.path / "base/char.jl").read_text() == "# edited\n"
    assert run(again, "-e", "print(VERSION)") == "1.5.3"
    assert all((made.path / "base" / name).is_file() for name in GENERATED)
    assert make_checkout(made.path, Storage()).done == "nothing"


def test_worktree_gets_a_usr_of_its_own(julia: Distribution, tmp_path: Path) -> None:
    made = make_checkout(tmp_path / "julia", Storage())
    with Repo(made.path) as repo:
        repo.git.worktree("add", "-b", "topic", os.fspath(tmp_path / "topic"))
    worktree = make_checkout(tmp_path / "topic", Storage())
    assert (worktree.done, worktree.commit) == ("completed", made.commit)
    assert run(worktree, "-e", "print(Sys.BINDIR)") == os.fspath(tmp_path / "topic/usr/bin")


def test_debris_of_a_killed_run_is_swept_and_work_under_way_is_not(julia: Distribution, tmp_path: Path) -> None:
    debris = tmp_path / ".julia.partial-debris"
    (debris / "base").mkdir(parents=True)
    busy = tmp_path / ".julia.partial-busy"
    busy.mkdir()
    handle = os.open(busy, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        make_checkout(tmp_path / "julia", Storage())
        assert not debris.exists()
        assert busy.exists()
    finally:
        os.close(handle)


def test_usr_over_a_snapshot_of_the_sources(julia: Distribution, tmp_path: Path) -> None:
    for name in ("base", "stdlib/Random", "stdlib/Mine"):
        (tmp_path / name).mkdir(parents=True)
    usr = usrtree.lay_out_usr(julia.prefix, tmp_path)
    assert sorted(entry.name for entry in (usr / "share/julia/stdlib/v1.5").iterdir()) == ["Mine", "Random"]
    with pytest.raises(UsageError, match="exists already"):
        usrtree.lay_out_usr(julia.prefix, tmp_path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["base", "stdlib", "usr"]


def test_usr_on_another_disk_is_a_copy(julia: Distribution, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    for name in ("base", "stdlib"):
        (tmp_path / name).mkdir()
    usr = usrtree.lay_out_usr(julia.prefix, tmp_path)
    library = Path("lib") / distribution.MULTIARCH / "libjulia.so.1.5"
    assert (usr / library).read_bytes() == (julia.prefix / "usr" / library).read_bytes()
    assert not (usr / library).samefile(julia.prefix / "usr" / library)
