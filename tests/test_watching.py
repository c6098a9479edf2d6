"""What is noticed of saved sources: each way of saving, events that are lost, limits that are reached."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from basedev.sourcefiles import PARSER
from basedev.sources import Sources, source_directories, source_paths
from basedev.watching import Watcher


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small tree of Julia's shape."""
    root = tmp_path / "julia"
    for directory in ("base/strings", "stdlib/Base64/src", "stdlib/Base64/test", "stdlib/Dates/docs", "test", "usr"):
        (root / directory).mkdir(parents=True)
    for file in ("base/Base.jl", "base/strings/util.jl", "stdlib/Base64/src/Base64.jl", "stdlib/Base64/Project.toml"):
        (root / file).write_text("old() = 1\n")
    (root / "stdlib/Base64/test/runtests.jl").write_text("old() = 1\n")
    return root


Watching = tuple[Watcher, list[str]]


@pytest.fixture
def watching(tree: Path) -> Iterator[Watching]:
    """A watcher of the tree, and what it tells."""
    told: list[str] = []
    with Watcher(tree, told.append) as watcher:
        yield watcher, told


def settles(watcher: Watcher, seconds: float = 20) -> bool:
    """Whether a batch is complete within some seconds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if watcher.settled(0.05):
            return True
    return False


UTIL = "base/strings/util.jl"


def in_place(root: Path) -> None:
    """nano, and vim with backupcopy=yes."""
    (root / UTIL).write_text("new() = 1\n")


def vim(root: Path) -> None:
    """Tries whether it may write there, keeps a swap file, moves the old file away, writes a new one."""
    file = root / UTIL
    swap = file.with_name(".util.jl.swp")
    swap.write_bytes(b"b0VIM")
    probe = file.with_name("4913")
    probe.touch()
    probe.unlink()
    backup = file.with_name("util.jl~")
    file.rename(backup)
    file.write_text("new() = 1\n")
    file.chmod(0o644)
    backup.unlink()
    swap.unlink()


def emacs(root: Path) -> None:
    """A dangling link as a lock, an autosave, and the new text in place of the one that became the backup."""
    file = root / UTIL
    lock = file.with_name(".#util.jl")
    lock.symlink_to("me@here.1234:1700000000")
    autosave = file.with_name("#util.jl#")
    autosave.write_text("new() = 1\n")
    file.rename(file.with_name("util.jl~"))
    file.write_text("new() = 1\n")
    autosave.unlink()
    lock.unlink()


def rename_over(root: Path) -> None:
    """VS Code's atomic save, `sed -i`, JetBrains."""
    temporary = root / "base/strings/util.jl.tmp-1234"
    temporary.write_text("new() = 1\n")
    temporary.replace(root / UTIL)


def from_elsewhere(root: Path) -> None:
    """A file that was written where nobody looks."""
    temporary = root / "usr/new"
    temporary.write_text("new() = 1\n")
    temporary.replace(root / UTIL)


def hard_link(root: Path) -> None:
    temporary = root / "usr/new"
    temporary.write_text("new() = 1\n")
    (root / UTIL).unlink()
    os.link(temporary, root / UTIL)


def new_directories(root: Path) -> None:
    """Files that are there before a watch can be."""
    (root / "base/one/two/three").mkdir(parents=True)
    (root / "base/one/two/three/deep.jl").write_text("deep() = 1\n")


def moved_directory(root: Path) -> None:
    (root / "base/strings").rename(root / "base/words")


def moved_in(root: Path) -> None:
    (root / "usr/fresh/inner").mkdir(parents=True)
    (root / "usr/fresh/inner/deep.jl").write_text("deep() = 1\n")
    (root / "usr/fresh").rename(root / "base/fresh")


def moved_out(root: Path) -> None:
    (root / "base/strings").rename(root / "usr/strings")


def new_library(root: Path) -> None:
    (root / "stdlib/New/src").mkdir(parents=True)
    (root / "stdlib/New/src/New.jl").write_text("module New end\n")


def other_base(root: Path) -> None:
    (root / "base").rename(root / "usr/base")
    shutil.copytree(root / "usr/base", root / "base")
    (root / UTIL).write_text("new() = 1\n")


SAVES: list[Callable[[Path], None]] = [
    *(in_place, vim, emacs, rename_over, from_elsewhere, hard_link),
    *(new_directories, moved_directory, moved_in, moved_out, new_library, other_base),
]


@pytest.mark.parametrize("save", SAVES, ids=lambda save: str(save.__name__))
def test_ways_of_saving(tree: Path, watching: Watching, save: Callable[[Path], None]) -> None:
    """The way of saving is noticed once; and afterwards every directory that is there now is watched."""
    watcher, _ = watching
    before = Sources.read(tree).id
    save(tree)
    assert settles(watcher)
    assert Sources.read(tree).id != before
    assert not settles(watcher, 0.5)
    for directory in source_directories(tree):
        if "base" in directory.relative_to(tree).parts:
            (directory / "after.jl").write_text("after() = 1\n")
            assert settles(watcher), f"{directory} is not watched"


def test_what_is_no_source(tree: Path, watching: Watching) -> None:
    watcher, _ = watching
    (tree / "stdlib/Base64/test/runtests.jl").write_text("new() = 1\n")
    (tree / "stdlib/Dates/docs/make.jl").write_text("new() = 1\n")
    (tree / "test/strings.jl").write_text("new() = 1\n")
    (tree / "base/.util.jl.swp").write_text("new")
    (tree / "usr/share").mkdir()
    assert not settles(watcher, 0.5)
    (tree / "stdlib/Base64/Project.toml").write_text("new\n")
    assert settles(watcher)


def test_the_parser_to_which_a_link_leads(tmp_path: Path) -> None:
    for directory in ("base", "stdlib", "deps/parser/src", "deps/parser/test"):
        (tmp_path / directory).mkdir(parents=True)
    (tmp_path / PARSER).symlink_to(tmp_path / "deps/parser")
    for name in ("src/a.jl", "test/b.jl"):
        (tmp_path / PARSER / name).touch()
    assert source_paths(tmp_path) == [f"{PARSER}/src/a.jl"]
    assert tmp_path / PARSER / "src" in set(source_directories(tmp_path))


def test_events_outside_of_a_directory_that_was_moved_away(tree: Path, watching: Watching) -> None:
    watcher, _ = watching
    moved_out(tree)
    assert settles(watcher)
    (tree / "usr/strings/util.jl").write_text("new() = 1\n")
    assert not settles(watcher, 0.5)


def test_names_that_are_no_text(tree: Path, watching: Watching) -> None:
    watcher, told = watching
    (tree / os.fsdecode(b"base/caf\xe9.txt")).touch()
    settles(watcher, 0.5)
    in_place(tree)
    assert settles(watcher)
    assert told == []


def test_save_all_is_one_batch(tree: Path, watching: Watching) -> None:
    watcher, _ = watching
    for number in range(20):
        (tree / f"base/file{number}.jl").write_text("new() = 1\n")
    assert settles(watcher)
    assert not settles(watcher, 0.5)


@pytest.mark.parametrize(("command", "complete"), [("touch", True), ("echo >>", False)])
def test_saving_without_end(tree: Path, watching: Watching, command: str, complete: bool) -> None:
    """Events that change no source do not count; who goes on changing one is not ready."""
    watcher, _ = watching
    saver = subprocess.Popen(["sh", "-c", f"while :; do {command} {UTIL}; sleep 0.02; done"], cwd=tree)
    try:
        assert settles(watcher, 4) == complete
    finally:
        saver.kill()
        saver.wait()
    assert complete or settles(watcher)


def test_more_events_than_the_queue_holds(tree: Path, watching: Watching) -> None:
    """Nobody reads while they come. Among those that are lost is a new directory."""
    watcher, told = watching
    for number in range(int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())):
        (tree / f"base/{number % 2}.jl").touch()
    (tree / "base/late").mkdir()
    assert settles(watcher, 60)
    (tree / "base/late/late.jl").write_text("late() = 1\n")
    assert settles(watcher)
    assert told == []


def test_git_checkout_of_500_files(tree: Path, watching: Watching) -> None:
    watcher, _ = watching
    git = ["git", "-C", str(tree), "-c", "user.name=me", "-c", "user.email=me@here"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "one"], ["branch", "one"]):
        subprocess.run([*git, *words], check=True)
    for number in range(500):
        file = tree / f"base/{number % 25}/{number}.jl"
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"f{number}() = 1\n")
    for words in (["add", "-A"], ["commit", "-qm", "two"]):
        subprocess.run([*git, *words], check=True)
    assert settles(watcher)
    subprocess.run([*git, "checkout", "-q", "one"], check=True)
    assert settles(watcher)
    assert len(Sources.read(tree).blobs) == 4
    subprocess.run([*git, "checkout", "-q", "-"], check=True)
    assert settles(watcher)
    (tree / "base/24/499.jl").write_text("new() = 1\n")
    assert settles(watcher)


def test_limit_of_instances(tree: Path) -> None:
    """All that this user may have are taken; there is nothing left but to look."""
    told: list[str] = []
    with ExitStack() as taken:
        while not told:
            watcher = taken.enter_context(Watcher(tree, told.append))
        (line,) = told
        assert "max_user_instances" in line and "sudo sysctl fs.inotify.max_user_instances=" in line
        for save in (in_place, new_directories, moved_directory):
            save(tree)
            assert settles(watcher)
        assert not settles(watcher, 2.5)


LIMITED = """
import sys
from pathlib import Path
from basedev.watching import Watcher
root = Path(sys.argv[1])
watcher = Watcher(root, print)
for directory in range(20):
    (root / f"base/{directory}").mkdir()
while not watcher.settled(0.05):
    pass
(root / "base/19/new.jl").touch()
while not watcher.settled(0.05):
    pass
print("settled")
"""


def test_limit_of_watches(tree: Path) -> None:
    """A user namespace has a limit of its own. The first directories can be watched, not all new ones."""
    limited = ["unshare", "--user", "--map-root-user", "sh", "-c"]
    lower = "echo 15 >/proc/sys/user/max_inotify_watches"
    if subprocess.run([*limited, lower], check=False, capture_output=True).returncode:
        pytest.skip("user namespaces are not allowed here")
    words = [*limited, f'{lower}; exec "$@"', "sh", sys.executable, "-c", LIMITED, str(tree)]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60)
    line, end = done.stdout.splitlines()
    assert "max_user_watches" in line and "sudo sysctl fs.inotify.max_user_watches=" in line
    assert end == "settled" and done.stderr == ""


def test_a_reader_that_was_stopped(tree: Path) -> None:
    """Stopped with more events than the queue holds, it finds out afterwards."""
    code = (
        "import sys; from pathlib import Path; from basedev.watching import Watcher\n"
        "watcher = Watcher(Path(sys.argv[1]), print)\n"
        "print('ready', flush=True)\n"
        "while not watcher.settled(0.05): pass\n"
        "print('settled', flush=True)\n"
    )
    reader = subprocess.Popen([sys.executable, "-c", code, str(tree)], stdout=subprocess.PIPE, text=True)
    assert reader.stdout and reader.stdout.readline() == "ready\n"
    reader.send_signal(signal.SIGSTOP)
    for number in range(int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())):
        (tree / f"base/{number % 2}.txt").touch()
    in_place(tree)
    reader.send_signal(signal.SIGCONT)
    assert reader.communicate()[0] == "settled\n"
