"""Git hooks: real git in a real checkout; other hooks stay as they were; builds in the background end right."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import Bench

from basedev.newcheckout import make_checkout
from basedev.storage import Storage

UTIL = "base/strings/util.jl"
NAMES = ("post-commit", "post-checkout", "post-merge", "post-rewrite")


@pytest.fixture(scope="module")
def repository(storage: Storage, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A checkout of this module's own, whose git repository is changed."""
    bench = Bench(make_checkout(tmp_path_factory.mktemp("hooks") / "julia", Storage()).path, storage)
    for key, value in (("user.name", "A"), ("user.email", "a@example.org"), ("commit.gpgsign", "false")):
        git(bench, "config", key, value)
    git(bench, "branch", "-M", "main")
    git(bench, "branch", "start")
    assert bench.basedev("init").returncode == 0
    return bench


@pytest.fixture
def own(repository: Bench) -> Iterator[Bench]:
    """The checkout with its first commit on `main` and without hooks, before and after."""
    yield repository
    subprocess.run(["git", "-C", str(repository.root), "rebase", "--abort"], capture_output=True)
    subprocess.run(["git", "-C", str(repository.root), "config", "--unset-all", "core.hooksPath"])
    directory = repository.root / ".git/hooks"
    if directory.is_symlink():
        directory.unlink()
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    settle(repository)
    git(repository, "checkout", "-q", "-f", "-B", "main", "start")
    git(repository, "clean", "-fdq")
    for kind in ("images", "background"):
        shutil.rmtree(repository.storage.root / kind, ignore_errors=True)


def git(bench: Bench, *words: str, cwd: Path | None = None, code: int = 0) -> str:
    """What git prints on both streams."""
    done = subprocess.run(
        ["git", *words], cwd=cwd or bench.root, env=bench.environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


def commit(bench: Bench, text: str, message: str = "edit") -> None:
    bench.append(UTIL, text)
    git(bench, "commit", "-qam", message)


def workers(bench: Bench) -> list[int]:
    """The background processes that build, or wait for their turn, and hooks that have yet to start one."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
            begins = any(b"hooks/post-" in word for word in words)
            if (begins or b"--background" in words) and str(bench.storage.root).encode() in (
                process / "environ"
            ).read_bytes():
                found.append(int(process.name))
        except OSError:
            continue
    return found


def settle(bench: Bench) -> None:
    """Waits until nothing is being built in the background, nor a while later: what a process is has no name while it
    becomes another program."""
    deadline, quiet = time.monotonic() + 100, 0
    while quiet < 5:
        assert time.monotonic() < deadline
        quiet = 0 if workers(bench) else quiet + 1
        time.sleep(0.05)


def logs(bench: Bench) -> str:
    return "".join(log.read_text() for log in (bench.storage.root / "background").glob("*/log.txt"))


def builds(bench: Bench) -> int:
    """How many builds have begun."""
    return logs(bench).count("--- ")


def hooks(bench: Bench, *words: str, code: int = 0) -> str:
    done = bench.basedev("hook", *words)
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


def snapshot(directory: Path) -> dict[str, tuple[int, bytes | str]]:
    """Everything in a directory: modes, contents, where links lead."""
    found: dict[str, tuple[int, bytes | str]] = {}
    for path in sorted(directory.iterdir()) if directory.exists() else ():
        contents = str(path.readlink()) if path.is_symlink() else path.read_bytes()
        found[path.name] = (stat.S_IMODE(path.lstat().st_mode), contents)
    return found


def write(path: Path, text: str, mode: int = 0o755) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def test_a_commit_is_built(own: Bench) -> None:
    hooks(own, "install")
    commit(own, "\nby_hook() = 1\n")
    settle(own)
    told = own.json("status")
    assert told["status"] == "present", logs(own)
    assert own.julia(told["image"], "print(Base.by_hook())") == "1"
    assert told["background"]["status"] == "built"
    assert f"Background build made image {told['image_id']}" in own.basedev("status").stdout
    assert f"Background build made image {told['image_id']}" in hooks(own, "status")
    git(own, "checkout", "-q", "HEAD~")
    git(own, "checkout", "-q", "-")
    settle(own)
    assert own.json("status")["background"]["status"] == "present"


def test_an_error_in_the_sources_is_told_and_not_tried_twice(own: Bench) -> None:
    hooks(own, "install")
    commit(own, "\nf(\n")
    settle(own)
    told = own.basedev("hook", "status").stdout
    assert "Background build failed: base/strings/util.jl:" in told
    git(own, "commit", "-q", "--amend", "-m", "the same sources")
    settle(own)
    assert builds(own) == 1


def test_a_rebase_is_built_once(own: Bench) -> None:
    for number in range(3):
        own.append("base/strings/io.jl", f"\nrebased{number}() = {number}\n")
        git(own, "commit", "-qam", f"commit {number}")
    git(own, "checkout", "-q", "-b", "other", "start")
    commit(own, "\nonto() = 1\n")
    git(own, "checkout", "-q", "main")
    hooks(own, "install")
    git(own, "rebase", "-q", "other")
    settle(own)
    assert builds(own) == 1
    image = own.json("status")["image"]
    assert own.julia(image, "print(Base.onto(), Base.rebased2())") == "12"


def test_files_taken_from_a_commit_are_not_built(own: Bench) -> None:
    hooks(own, "install")
    own.append(UTIL, "\nother() = 1\n")
    git(own, "checkout", "-q", "--", "base/array.jl")
    settle(own)
    assert logs(own) == ""


def test_a_merge_is_built(own: Bench) -> None:
    git(own, "checkout", "-q", "-b", "merged")
    commit(own, "\nmerged() = 1\n")
    git(own, "checkout", "-q", "main")
    hooks(own, "install", "--hooks", "post-merge")
    git(own, "merge", "-q", "merged")
    settle(own)
    assert own.json("status")["status"] == "present"


def test_the_worktree_in_which_it_happens_is_built(own: Bench, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    hooks(own, "install")
    git(own, "worktree", "add", "-q", "-b", "side", str(tree))
    settle(own)
    assert logs(own) == ""  # nobody adopted it
    make_checkout(tree, Storage())
    side = Bench(tree, own.storage)
    assert side.basedev("init").returncode == 0
    commit(side, "\nin_worktree() = 1\n")
    settle(own)
    assert side.json("status")["status"] == "present"
    assert own.json("status")["status"] == "current"
    assert own.json("hook", "status")["background"] is None
    assert side.json("hook", "status")["directory"] == own.json("hook", "status")["directory"]
    git(own, "worktree", "remove", "--force", str(tree))


TELLS = 'printf "%s\\n" "$0" "$#" "$@"; cat; exit 7\n'
"""What a hook of the tests does: it tells its name, its arguments and its input, and fails."""


def linked(path: Path) -> None:
    write(path.with_name("elsewhere"), f"#!/bin/sh\n{TELLS}")
    path.symlink_to("elsewhere")


CHAINED: dict[str, Callable[[Path], None]] = {
    "sh": lambda path: write(path, f"#!/bin/sh\n{TELLS}"),
    "sh -e": lambda path: write(path, f"#!/bin/sh -e\n{TELLS}", 0o700),
    "bash": lambda path: write(path, f"#! /usr/bin/env bash\n[[ a ]]\n{TELLS}", 0o775),
    "linked": linked,
    "python": lambda path: write(path, "#!/usr/bin/env python3\nimport sys\nsys.exit(sys.argv[1:])\n"),
    "no shebang": lambda path: write(path, "cat; exit $#\n"),
    "a program": lambda path: path.symlink_to("/bin/false"),
    "killed": lambda path: write(path, "#!/bin/sh\nkill $$\n"),
}


@pytest.mark.parametrize("kind", CHAINED)
def test_a_hook_that_exists_is_run_as_before(own: Bench, kind: str) -> None:
    """With its name, arguments, input and exit code."""
    CHAINED[kind](own.root / ".git/hooks/post-rewrite")

    def run() -> tuple[int, str, str]:
        script = '".git/hooks/post-rewrite" "$@"'  # as a shell and git do, also without a shebang
        done = subprocess.run(
            ["sh", "-c", script, "sh", "amend", "two  words", "*"],
            cwd=own.root,
            env={**own.environment, "BASEDEV_HOOKS": "0"},
            input="old new\n",
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr.replace("Terminated\n", "")

    alone = run()
    hooks(own, "install")
    assert run() == alone
    assert alone[0] != 0


def test_git_gives_a_hook_that_exists_what_it_gave_before(own: Bench, tmp_path: Path) -> None:
    for name in ("post-rewrite", "post-checkout"):
        write(own.root / f".git/hooks/{name}", f'#!/bin/sh\n{{ echo "$0" "$@"; cat; }} >>{tmp_path}/told\nexit 7\n')
    commit(own, "\nrewritten() = 1\n")
    before = git(own, "rev-parse", "HEAD").strip()
    hooks(own, "install")
    git(own, "commit", "-q", "--amend", "-m", "rewritten")
    after = git(own, "rev-parse", "HEAD").strip()
    git(own, "checkout", "-q", "-b", "another", code=1)
    assert (tmp_path / "told").read_text().splitlines() == [
        ".git/hooks/post-rewrite amend",
        f"{before} {after}",
        f".git/hooks/post-checkout {after} {after} 1",
    ]


def test_a_hook_that_git_does_not_run_is_not_run(own: Bench, tmp_path: Path) -> None:
    path = own.root / ".git/hooks/post-commit"
    write(path, f"#!/bin/sh\ntouch {tmp_path}/ran\n", 0o644)
    hooks(own, "install")
    assert "post-commit: installed, after post-commit.before-basedev (not executable, so not run)" in hooks(
        own, "status"
    )
    commit(own, "\nnot_run() = 1\n")
    assert not (tmp_path / "ran").exists()
    hooks(own, "remove")
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def program(path: Path) -> None:
    shutil.copy("/bin/true", path)


def not_text(path: Path) -> None:
    path.write_bytes(b"\xff\0\n\r\n")


BEFORE: dict[str, tuple[Callable[[Path], object], ...]] = {
    "nothing": (),
    "no directory": (lambda path: path.parent.rmdir(),),
    "scripts": (
        lambda path: write(path, "#!/bin/sh\nexit 0\n"),
        lambda path: write(path, "#!/bin/sh\n", 0o600),
        lambda path: write(path, "#!/bin/sh\n", 0o2755),
        lambda path: write(path.parent / "pre-commit", "#!/bin/sh\n"),
    ),
    "files": (program, lambda path: write(path, ""), not_text, lambda path: write(path, "exit 0", 0o111)),
    "links": (
        lambda path: path.symlink_to("../../there"),
        lambda path: path.symlink_to("../../README.md"),
        lambda path: path.symlink_to(path.name),
        lambda path: path.symlink_to("post-commit"),
    ),
}


@pytest.mark.parametrize("kind", BEFORE)
def test_removal_restores_what_was_there(own: Bench, kind: str) -> None:
    directory = own.root / ".git/hooks"
    for make, name in zip(BEFORE[kind], NAMES, strict=False):
        make(directory / name)
    before, existed = snapshot(directory), directory.exists()
    hooks(own, "install")
    installed = snapshot(directory)
    hooks(own, "install")
    assert snapshot(directory) == installed
    assert hooks(own, "status").count(": installed") == 4
    hooks(own, "remove", "--hooks", "post-merge,post-commit")
    for _ in range(2):
        hooks(own, "remove")
        assert (snapshot(directory), directory.exists()) == (before, existed)


def test_an_installation_that_was_interrupted(own: Bench) -> None:
    path = own.root / ".git/hooks/post-commit"
    write(path, "#!/bin/sh\n")
    before = snapshot(path.parent)
    for verb in (("remove",), ("install",)):
        os.link(path, f"{path}.before-basedev")
        hooks(own, *verb)
    assert path.read_text() != "#!/bin/sh\n"
    path.unlink()  # as after a rename that was the last thing done
    hooks(own, "remove")
    assert snapshot(path.parent) == before


def test_an_edited_hook_is_not_removed(own: Bench) -> None:
    path = own.root / ".git/hooks/post-commit"
    write(path, "#!/bin/sh\n# first\n")
    hooks(own, "install")
    with path.open("a") as file:
        file.write("echo mine\n")
    before = snapshot(path.parent)
    for verb in ("remove", "install"):
        told = hooks(own, verb, code=3)
        assert f"{path} was edited after it was installed: move it away, with what you added, and retry" in told
        assert f"what was there before basedev is in {path}.before-basedev" in told
        assert snapshot(path.parent) == before
    assert "post-commit: edited" in hooks(own, "status")
    path.rename(path.with_name("mine"))
    hooks(own, "remove")
    assert path.read_text() == "#!/bin/sh\n# first\n"


def test_a_hook_manager_that_replaces_the_hook(own: Bench) -> None:
    path = own.root / ".git/hooks/post-commit"
    write(path, "#!/bin/sh\n# first\n")
    hooks(own, "install")
    write(path, "#!/bin/sh\n# the manager's\n")
    for verb in ("remove", "install"):
        assert "was replaced after basedev's was installed" in hooks(own, verb, code=3)
    path.unlink()
    hooks(own, "remove")
    assert path.read_text() == "#!/bin/sh\n# first\n"


def test_a_hook_manager_that_wraps_the_hook(own: Bench, tmp_path: Path) -> None:
    """As pre-commit does: it moves what is there to a name of its own, and runs it from there."""
    path = own.root / ".git/hooks/post-commit"
    write(path, f"#!/bin/sh\necho $0 >>{tmp_path}/first\n")
    hooks(own, "install")
    path.rename(path.with_name("post-commit.legacy"))
    write(path, '#!/bin/sh\n"$0.legacy" "$@"\n')
    hooks(own, "install")
    assert "post-commit: run by another's" in hooks(own, "status")
    commit(own, "\nwrapped() = 1\n")
    settle(own)
    assert own.json("status")["status"] == "present"
    assert (tmp_path / "first").read_text() == ".git/hooks/post-commit\n"
    assert "uninstall that first" in hooks(own, "remove", code=3)
    path.with_name("post-commit.legacy").replace(path)
    hooks(own, "remove")
    assert (tmp_path / "first").name in path.read_text()


def test_hooks_of_a_manager_that_goes_by_its_name(own: Bench, tmp_path: Path) -> None:
    """As husky does: a directory in the work tree that git ignores, whose scripts look for others of their own name."""
    git(own, "config", "core.hooksPath", ".husky/_")
    write(own.root / ".husky/_/.gitignore", "*\n")
    write(own.root / ".husky/_/h", 'sh -e "$(dirname "$(dirname "$0")")/$(basename "$0")" "$@"\n')
    write(own.root / ".husky/_/post-commit", '#!/usr/bin/env sh\n. "$(dirname "$0")/h"\n')
    write(own.root / ".husky/post-commit", f"echo husky >{tmp_path}/ran\n")
    hooks(own, "install")
    commit(own, "\nhusky() = 1\n")
    settle(own)
    assert (tmp_path / "ran").read_text() == "husky\n"
    assert own.json("status")["status"] == "present"
    hooks(own, "remove")
    assert set(snapshot(own.root / ".husky/_")) == {".gitignore", "h", "post-commit"}


def test_shared_directories_of_hooks_need_force(own: Bench, tmp_path: Path) -> None:
    tracked = own.root / "githooks"
    tracked.mkdir()
    for path, setting in ((tmp_path, str(tmp_path)), (tracked, "githooks")):
        git(own, "config", "core.hooksPath", setting)
        told = hooks(own, "install", code=2)
        assert f"git's hooks are in {path} (core.hooksPath)" in told and "--force" in told
        assert list(path.iterdir()) == []
        hooks(own, "install", "--force")
        assert {one.name for one in path.iterdir()} == set(NAMES)
        hooks(own, "remove")
        assert list(path.iterdir()) == []
    own_hooks = own.root / ".git/hooks"
    own_hooks.rmdir()
    own_hooks.symlink_to(tracked)
    git(own, "config", "--unset", "core.hooksPath")
    assert "--force" in hooks(own, "install", code=2)
    own_hooks.unlink()
    git(own, "config", "core.hooksPath", "/dev/null")
    assert "git's hooks are switched off: core.hooksPath is /dev/null" in hooks(own, "install", code=3)


def test_hooks_of_all_repositories(own: Bench, tmp_path: Path) -> None:
    """A core.hooksPath of the user's; and what is installed there does nothing in other repositories."""
    home = tmp_path / "home"
    write(home / ".gitconfig", f"[core]\n\thooksPath = {tmp_path}/all\n")
    (tmp_path / "all").mkdir()
    environment = {"HOME": str(home), "XDG_CACHE_HOME": "", "GIT_CONFIG_GLOBAL": str(home / ".gitconfig")}
    assert own.basedev("hook", "install", environment=environment).returncode == 2
    assert own.basedev("hook", "install", "--force", environment=environment).returncode == 0
    other = tmp_path / "other"
    command = ["git", "-c", "user.name=A", "-c", "user.email=a@example.org", "-C", str(other)]
    subprocess.run(["git", "init", "-q", str(other)], check=True)
    ran = subprocess.run(
        [*command, "commit", "-q", "--allow-empty", "-m", "x"],
        env={**own.environment, **environment},
        capture_output=True,
        text=True,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert logs(own) == ""


def test_what_cannot_be_installed(own: Bench, tmp_path: Path) -> None:
    assert "basedev has no hook 'pre-push'; it has post-commit" in hooks(own, "install", "--hooks", "pre-push", code=2)
    record = own.root / "usr/share/basedev/base.json"
    kept = record.read_text()
    record.unlink()
    try:
        assert "has no base image yet: run basedev init" in hooks(own, "install", code=3)
    finally:
        record.write_text(kept)
    plain = tmp_path / "plain"
    for part in ("base/Base.jl", "stdlib/x"):
        write(plain / part, "")
    done = own.basedev("-C", str(plain), "hook", "status")
    assert (done.returncode, done.stderr.count("\n")) == (3, 1)
    assert "is no git repository that can be used" in done.stderr


def test_nothing_of_gits_is_left_in_the_build(own: Bench) -> None:
    """Neither variables nor open files."""
    hooks(own, "install")
    own.append(UTIL, "\napart() = 1\n")
    reading, writing = os.pipe()
    # A server's child has the variables of its client without having been started with them.
    environment = {**own.environment, "GIT_TRACE2": "0", "GIT_AUTHOR_NAME": "B", "BASEDEV_SERVER": "0"}
    subprocess.run(
        ["git", "commit", "-qam", "apart"], cwd=own.root, env=environment, pass_fds=[writing], check=True, timeout=60
    )
    pipe = os.fstat(writing).st_ino
    variables = b""
    while not variables:
        assert workers(own)
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if b"/host\0" in (process / "cmdline").read_bytes() and (process / "cwd").readlink() == own.root:
                    variables = (process / "environ").read_bytes()
    assert b"BASEDEV_CACHE=" in variables and b"\0GIT_" not in variables
    detached = [pid for pid in workers(own) if os.getsid(pid) == pid]  # the others are about to end
    assert detached
    for pid in detached:
        assert pipe not in [path.stat().st_ino for path in Path(f"/proc/{pid}/fd").iterdir() if path.exists()]
        assert os.getpriority(os.PRIO_PROCESS, pid) >= 10
    os.close(reading)
    os.close(writing)
    settle(own)


def test_the_newest_state_wins(own: Bench) -> None:
    hooks(own, "install")
    for number in range(6):
        commit(own, f"\nnewest{number}() = {number}\n")
        time.sleep(random.Random(number).uniform(0, 1.5))
    settle(own)
    told = own.json("status")
    assert told["status"] == "present" and told["background"]["image_id"] == told["image_id"], logs(own)
    assert own.julia(told["image"], "print(Base.newest5())") == "5"


def test_a_build_of_these_sources_is_not_begun_again(own: Bench) -> None:
    own.append(UTIL, "\nsame() = 1\n")
    for _ in range(3):
        assert own.basedev("build", "--background").returncode == 0
        time.sleep(0.5)
    settle(own)
    assert logs(own).count("chained in") == 1 and "interrupted" not in logs(own)


def test_killed_at_any_moment(own: Bench) -> None:
    """Ten times: the next build ends right, and nothing is left."""
    for seed in range(10):
        own.append(UTIL, f"\nkilled{seed}() = {seed}\n")
        own.basedev("build", "--background")
        time.sleep(random.Random(seed).uniform(0, 1.5))
        for pid in workers(own):
            os.kill(pid, signal.SIGKILL)
    settle(own)
    report = own.json("status")["background"]
    assert report is None or report["status"] in ("killed", "built", "present")
    assert own.basedev("build", "--background").returncode == 0
    settle(own)
    told = own.json("status")
    assert told["status"] == "present" and told["background"]["status"] in ("built", "present")
    assert own.julia(told["image"], "print(Base.killed9())") == "9"
    assert list((own.storage.root / "staging").iterdir()) == []


def test_the_log_is_bounded(own: Bench) -> None:
    own.append(UTIL, "\nlogged() = 1\n")
    own.basedev("build", "--background")
    settle(own)
    (log,) = (own.storage.root / "background").glob("*/log.txt")
    log.write_text("an old line\n" * 100_000)
    told = json.loads(own.basedev("--json", "build", "--background").stdout)
    assert (told["status"], told["log"]) == ("queued", str(log))
    settle(own)
    assert log.stat().st_size < 65_536
    assert log.read_text().startswith("an old line\n") and log.read_text().rstrip().endswith("sys.so")
