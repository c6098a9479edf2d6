"""`basedev images`: what it tells, the budget, and what must not be taken; the store as worktrees share it."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import Bench, read_to_end, wait_until

from basedev.collection import Collection
from basedev.holds import unheld
from basedev.sizes import age, parse_size, size
from basedev.storage import Storage
from basedev.store import USED, Store

UTIL = "base/strings/util.jl"
RUNS = "println(1); flush(stdout); readline()"
"""A program that tells that it runs, and ends with its standard input."""


def make(bench: Bench, name: str, *, used: float, count: int = 100_000, **about: object) -> str:
    """Publishes a small entry that was used last some seconds after the epoch. It is no image that Julia could run."""
    with bench.storage.staging("image") as made:
        (made / "sys.so").write_bytes(os.urandom(count))
        entry = Store(bench.storage).publish("images", name, made, {"engine": "stock-1.5", **about})
    os.utime(entry.directory / USED, (used, used))
    return entry.id


def there(bench: Bench) -> set[str]:
    return {path.name for path in (bench.storage.root / "images").iterdir()}


def listed(bench: Bench) -> dict[str, dict[str, Any]]:
    return {one["id"]: one for one in bench.json("images", "list")["images"]}


def start(bench: Bench, *command: str | Path) -> subprocess.Popen[str]:
    """Starts a Julia with RUNS, and waits until it runs."""
    running = subprocess.Popen(
        [*command, "--startup-file=no", "-e", RUNS],
        cwd=bench.root,
        env=bench.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert running.stdout and running.stdout.readline() == "1\n"
    return running


# ---- what is told ----


@pytest.mark.parametrize(
    ("text", "count"),
    [("20 GiB", 20 << 30), ("1.5M", 3 << 19), ("2kb", 2000), ("7", 7), ("0 B", 0), (" 1 TiB ", 1 << 40)],
)
def test_sizes_are_read(text: str, count: int) -> None:
    assert parse_size(text) == count


@pytest.mark.parametrize("text", ["", "GiB", "-1", "1 PB", "1e3", "3 iB", "\u0661"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="is no size, such as 20 GiB"):
        parse_size(text)


def test_sizes_and_ages_in_words() -> None:
    counts = (0, 999, 1000, 1 << 20, 147 << 20, 10 << 30, 1 << 50)
    assert [size(count) for count in counts] == ["0 B", "999 B", "1.0 KiB", "1.0 MiB", "147 MiB", "10 GiB", "1024 TiB"]
    assert [age(seconds) for seconds in (0.5, 59, 60, 7200, 86400 * 400)] == ["0 s", "59 s", "1 min", "2 h", "400 d"]


def test_an_image_is_listed_and_shown(own: Bench) -> None:
    own.append(UTIL, "\nlisted() = 1\n")
    built = own.chain()
    about = listed(own)[built["image_id"]]
    file = Path(built["image"])
    assert about["size"] >= file.stat().st_size and about["frees"] >= file.stat().st_blocks * 512
    assert (about["present"], about["in_use"], about["pinned"], about["processes"]) == (True, False, False, [])
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=own.root, capture_output=True, text=True, check=True)
    assert about["commit"] == commit.stdout.strip() and about["checkout"] == str(own.root.resolve())
    assert about["changed_files"] == [UTIL]
    base = listed(own)[built["base_id"]]
    assert (base["kind"], base["present"], base["checkouts"]) == ("base", False, [str(own.root.resolve())])

    lines = own.basedev("images", "list").stdout.splitlines()
    assert len(lines) == 3
    (line,) = (line for line in lines if line.startswith("*"))
    assert built["image_id"][:10] in line and about["commit"][:10] in line and line.endswith("strings/util.jl")
    shown = own.basedev("images", "show", built["image_id"][:6]).stdout
    for text in (str(file), built["base_id"], built["sources_id"], about["commit"], "Base.listed() in strings/util.jl"):
        assert text in shown
    told = own.json("images", "show", built["image_id"])
    assert (told["definitions"], told["invalidated"]) == (built["definitions"], 0)

    own.edit(UTIL, "\nlisted() = 1\n", "")
    now = listed(own)
    assert [one for one in now if now[one]["present"]] == [built["base_id"]]


def test_a_narrow_terminal(own: Bench) -> None:
    name = make(own, "a" * 20, used=100, checkout="/home/me/julia", changed_files=[f"base/{'long' * 30}.jl"])
    for columns in (30, 60, 100):
        pid, terminal = pty.fork()
        if pid == 0:
            os.chdir(own.root)
            command = own.command("images", "list")
            os.execve(command[0], command, {**own.environment, "TERM": "xterm", "COLUMNS": str(columns)})
        said = read_to_end(terminal)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        rows = said.decode().splitlines()[:-1]  # the last is a message, which the terminal wraps
        assert any(name[:10] in row for row in rows)
        assert max(map(len, rows)) <= columns


def test_sizes_of_hard_links_are_told_once(own: Bench) -> None:
    one, other = make(own, "a" * 20, used=100, count=1_000_000), make(own, "b" * 20, used=200, count=10)
    images = own.storage.root / "images"
    alone = own.json("images", "list")["on_disk"]["images"]
    (images / other / "sys.so").unlink()
    os.link(images / one / "sys.so", images / other / "sys.so")
    assert own.json("images", "list")["on_disk"]["images"] <= alone
    found = listed(own)
    assert min(found[one]["size"], found[other]["size"]) >= 1_000_000
    assert max(found[one]["frees"], found[other]["frees"]) < 1_000_000


def test_ids_may_be_abbreviated(own: Bench) -> None:
    make(own, "p1" * 10, used=100)
    make(own, "p2" * 10, used=200)
    assert own.json("images", "pin", "p1")["images"] == ["p1" * 10]
    for start, wrong in (("p", "begins several ids"), ("zz", "there is no image 'zz'"), ("", "there is no image ''")):
        done = own.basedev("images", "rm", start)
        assert done.returncode == 2 and wrong in done.stderr and done.stderr.count("\n") == 1
    assert own.basedev("images", "rm", "p2", "zz").returncode == 2  # all or none
    assert there(own) == {"p1" * 10, "p2" * 10}


def test_images_are_told_outside_of_a_checkout(own: Bench, tmp_path: Path) -> None:
    make(own, "a" * 20, used=100)
    command = own.command("--json", "images", "list")
    done = subprocess.run(command, cwd=tmp_path, env=own.environment, capture_output=True, text=True, check=True)
    assert "a" * 20 in [one["id"] for one in json.loads(done.stdout)["images"]]


# ---- what goes, and what stays ----


def test_those_used_longest_ago_go_first(own: Bench) -> None:
    for number, used in enumerate((300.0, 100.0, 500.0, 200.0, 400.0)):
        make(own, f"{number}" * 20, used=used)
    planned = own.json("images", "gc", "--budget", "350 kB", "--dry-run")
    assert (planned["status"], planned["collected"]) == ("planned", ["1" * 20, "3" * 20])
    assert len(there(own)) == 5
    done = own.json("images", "gc", "--budget", "350 kB")
    assert (done["collected"], done["freed"], done["left"]) == tuple(
        planned[key] for key in ("collected", "freed", "left")
    )
    assert there(own) == {"0" * 20, "2" * 20, "4" * 20}
    Store(own.storage).find("images", "0" * 20)  # used now
    own.json("images", "gc", "--budget", "250 kB")
    assert there(own) == {"0" * 20, "2" * 20}


def test_pinned_images_stay(own: Bench) -> None:
    make(own, "p" * 20, used=100)
    make(own, "q" * 20, used=200)
    assert own.basedev("images", "pin", "p").returncode == 0
    done = own.json("images", "gc", "--budget", "0")
    assert (done["collected"], done["kept"], there(own)) == (["q" * 20], ["p" * 20], {"p" * 20})
    refused = own.basedev("images", "rm", "p")
    assert (
        refused.returncode == 2
        and refused.stderr == f"basedev: {'p' * 20} is pinned: add --force to remove it all the same\n"
    )
    assert own.basedev("images", "unpin", "p").returncode == 0
    assert own.basedev("images", "rm", "p").returncode == 0
    assert there(own) == set()


def test_the_base_image_of_a_checkout_stays(own: Bench) -> None:
    base = own.json("init")["base_id"]
    with own.storage.staging("base") as made:
        (made / "base.so").write_text("x")
        Store(own.storage).publish("bases", "f" * 20, made, {})
    make(own, "a" * 20, used=100)
    assert own.json("images", "gc", "--budget", "0")["collected"] == ["a" * 20]
    assert own.basedev("images", "rm", base).returncode == 2
    assert own.json("images", "gc", "--bases")["collected"] == ["f" * 20]
    assert [path.name for path in (own.storage.root / "bases").iterdir()] == [base]
    assert Collection(Storage(own.storage.root)).adopted == {base: [own.root.resolve()]}


@pytest.mark.parametrize("how", ["run", "by hand"])
def test_an_image_on_which_a_julia_runs_stays(own: Bench, how: str) -> None:
    own.append(UTIL, "\nin_use() = 1\n")
    built = own.chain()
    image, name = built["image"], built["image_id"]
    by_hand = (own.root / "usr/bin/julia", "-J", image)
    running = start(own, *by_hand) if how == "by hand" else start(own, *own.command("run", "--"))
    try:
        about = listed(own)[name]
        assert about["in_use"] and about["processes"] == [running.pid]
        with unheld(Path(image).parent) as free:
            assert free == (how == "by hand")
        assert own.json("images", "gc", "--budget", "0")["kept"] == [name]
        done = own.basedev("images", "rm", "--force", name)
        assert (
            done.returncode == 2
            and done.stderr == f"basedev: {name} is in use by process {running.pid}: end that first\n"
        )
        assert Path(image).exists()
    finally:
        running.send_signal(signal.SIGKILL)
        running.communicate()
    assert own.json("images", "gc", "--budget", "0")["collected"] == [name]


def test_a_new_image_makes_room_for_itself(own: Bench) -> None:
    (own.root / ".basedev.toml").write_text('[basedev]\nbudget = "200 MiB"\n')
    own.append(UTIL, "\nsmall() = 1\n")
    first = own.chain()
    own.edit(UTIL, "small() = 1", "small() = 2")
    second = own.basedev("build")
    assert second.returncode == 0
    wait_until(lambda: first["image_id"] not in there(own))
    assert there(own) == {own.json("build")["image_id"]}
    own.edit(UTIL, "small() = 2", "small() = 1")
    (own.root / ".basedev.toml").write_text('[basedev]\nbudget = "1 MiB"\n')
    third = own.chain()
    wait_until(lambda: there(own) == {third["image_id"]})  # the newest is there to be used
    (own.root / ".basedev.toml").write_text('[basedev]\nbudget = "a lot"\n')
    done = own.basedev("build")
    assert done.returncode == 2 and "budget: 'a lot' is no size" in done.stderr


# ---- what is damaged ----


def test_damage_is_told_and_repaired(own: Bench) -> None:
    names = ["a" * 20, "b" * 20, "c" * 20, "d" * 20]
    for name in names:
        make(own, name, used=100)
    assert own.json("images", "verify")["status"] == "whole"
    entries = [own.storage.root / "images" / name for name in names]
    for path in (entries[0] / "sys.so", entries[1] / "manifest.json"):
        path.chmod(0o644)
    status = (entries[0] / "sys.so").stat()
    with (entries[0] / "sys.so").open("r+b") as file:
        file.write(b"damage")
    os.utime(entries[0] / "sys.so", ns=(status.st_atime_ns, status.st_mtime_ns))
    (entries[1] / "manifest.json").write_text("{")
    (entries[2] / "strange").touch()
    done = own.basedev("images", "verify")
    assert done.returncode == 3
    assert done.stdout.splitlines() == [
        f"images/{names[0]}: sys.so has another checksum",
        f"images/{names[1]}: its manifest is missing, damaged, or of another version of basedev",
        f"images/{names[2]}: strange does not belong to it",
    ]
    assert listed(own)[names[1]]["damaged"]
    told = json.loads(own.basedev("--json", "images", "verify").stdout)
    assert told["status"] == "damaged" and len(told["damaged"]) == 3 and told["errors"]
    assert own.json("images", "verify", "--repair")["status"] == "repaired"
    assert there(own) == {names[3]}
    assert own.json("images", "verify")["status"] == "whole"


# ---- several checkouts ----


def test_worktrees_and_clones_share_the_store(own: Bench, tmp_path: Path) -> None:
    own.append(UTIL, "\nshared_by_all() = 1\n")
    built = own.chain()
    git = ["git", "-C", str(own.root)]
    subprocess.run([*git, "worktree", "add", "-q", "--detach", str(tmp_path / "worktree")], check=True)
    try:
        subprocess.run(["git", "clone", "-q", str(own.root), str(tmp_path / "clone")], check=True)
        for name in ("worktree", "clone"):
            other = Bench(tmp_path / name, own.storage)
            assert other.basedev("build").returncode == 3
            done = other.basedev("init")
            assert done.returncode == 0
            assert f"{other.root} had no usr/: laid out with the Julia of {own.root.resolve()}\n" in done.stderr
            assert "had no usr/" not in other.basedev("init").stderr
            shutil.copy(own.root / UTIL, other.root / UTIL)
            found = other.json("build")
            assert (found["status"], found["image_id"]) == ("present", built["image_id"])
            assert other.basedev("run", "--", "-e", "print(Base.shared_by_all(), Sys.BINDIR)").stdout == (
                f"1{other.root}/usr/bin"
            )
            changed = subprocess.run(
                ["git", "status", "-s"], cwd=other.root, capture_output=True, text=True, check=True
            )
            assert changed.stdout == f" M {UTIL}\n"
        assert sorted(listed(own)[built["base_id"]]["checkouts"]) == sorted(
            str(path.resolve()) for path in (own.root, tmp_path / "clone", tmp_path / "worktree")
        )
    finally:
        subprocess.run([*git, "worktree", "remove", "--force", str(tmp_path / "worktree")], check=True)


def test_a_branch_that_is_switched_back_to_is_not_built_again(own: Bench) -> None:
    def git(*words: str) -> None:
        named = ["-c", "user.name=A", "-c", "user.email=a@b.c", "-c", "commit.gpgSign=false"]
        subprocess.run(["git", *named, *words], cwd=own.root, check=True, capture_output=True)

    git("branch", "before")
    try:
        ids = {}
        for branch in ("one", "two"):
            git("switch", "-c", branch, "before")
            own.append(UTIL, f'\nbranch() = "{branch}"\n')
            git("commit", "-qam", branch)
            ids[branch] = own.chain()["image_id"]
        for branch in ("one", "two", "one"):
            git("switch", branch)
            assert own.basedev("run", "--", "-e", "print(Base.branch())").stdout == branch
        git("switch", "before")
        assert (own.json("build")["status"], there(own)) == ("current", set(ids.values()))
    finally:
        git("switch", "-f", "master")
        git("branch", "-D", "before", "one", "two")
