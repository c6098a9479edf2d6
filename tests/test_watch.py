"""`basedev watch` on a real checkout: saves, errors, tests, hooks, and every way to end it."""

from __future__ import annotations

import json
import os
import pty
import random
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import Bench, wait_until
from test_command_line import KEYS
from test_faults import assert_clean, helpers_of

UTIL = "base/strings/util.jl"


class Watching:
    """A `basedev --json watch` under way."""

    def __init__(self, bench: Bench, messages: Path, *words: str) -> None:
        self.messages = messages
        with messages.open("w") as errors:
            self.process = subprocess.Popen(
                bench.command("--json", "watch", *words),
                cwd=bench.root,
                env={**bench.environment, "JULIA_CPU_THREADS": "1"},  # no workers for tests, which take long to start
                stdout=subprocess.PIPE,
                stderr=errors,
                bufsize=0,  # what is read ahead, `select` does not see
            )

    def next(self, seconds: float = 120) -> dict[str, Any]:
        """Its next object."""
        assert self.process.stdout
        assert not self.quiet(seconds), self.messages.read_text()
        line = self.process.stdout.readline()
        assert line, self.messages.read_text()
        return dict(json.loads(line))

    def quiet(self, seconds: float = 1.5) -> bool:
        """Whether it has nothing to tell for a while."""
        assert self.process.stdout
        return not select.select([self.process.stdout], [], [], seconds)[0]

    def end(self, how: signal.Signals = signal.SIGINT) -> int:
        """Ends it and returns its exit code."""
        self.process.send_signal(how)
        self.process.communicate(timeout=30)
        return self.process.returncode


@contextmanager
def watch(bench: Bench, tmp_path: Path, *words: str) -> Iterator[Watching]:
    """A watch that has told what there is at its start."""
    watching = Watching(bench, tmp_path / "messages", *words)
    try:
        assert watching.next()["status"] == "watching"
        yield watching
    finally:
        if watching.process.poll() is None:
            watching.end()
        wait_until(lambda: not helpers_of(bench))


def images(bench: Bench) -> list[str]:
    directory = bench.storage.root / "images"
    return [path.name for path in directory.iterdir()] if directory.exists() else []


def test_saves_errors_and_the_way_back(bench: Bench, tmp_path: Path) -> None:
    bench.append(UTIL, '\nlast_word() = "first"\n')
    with watch(bench, tmp_path) as watching:
        first = watching.next()  # what is not built at the start is
        assert first.keys() >= KEYS
        assert first["status"] == "built"
        assert [one["what"] for one in first["definitions"]["evaluated"]] == ["Base.last_word()"]

        (bench.root / UTIL).touch()
        assert watching.quiet()

        bench.append("base/array.jl", "\nf(\n")
        failed = watching.next()
        assert failed["status"] == "failed"
        assert failed["errors"][0]["message"].startswith("base/array.jl:2569:2: syntax: incomplete")

        subprocess.run(["git", "checkout", "-q", "--", "base/array.jl"], cwd=bench.root, check=True)
        again = watching.next()
        assert (again["status"], again["image_id"]) == ("present", first["image_id"])

        bench.edit(UTIL, '"first"', '"second"')
        second = watching.next()
        assert second["status"] == "built"
        assert bench.julia(second["image"], "print(Base.last_word())") == "second"

        subprocess.run(["git", "checkout", "-q", "--", "."], cwd=bench.root, check=True)
        assert watching.next()["status"] == "current"
        assert watching.end() == 130


def test_a_newer_save_cancels_the_build(bench: Bench, tmp_path: Path) -> None:
    with watch(bench, tmp_path) as watching:
        assert watching.next()["status"] == "current"
        getindex = "@propagate_inbounds function getindex(s::String, i::Int)\n"
        bench.edit(
            "base/strings/string.jl", getindex, f"{getindex}    i == -77 && throw(BoundsError(s, i))\n"
        )  # seconds
        bench.append(UTIL, '\nlast_word() = "cancelled"\n')
        # It can have begun before saving is over, and what is saved until then is part of the same.
        wait_until(lambda: "saved" in watching.messages.read_text())
        wait_until(lambda: any((bench.storage.root / "staging").glob("image-*")))
        bench.edit(UTIL, '"cancelled"', '"done"')
        built = watching.next()
        assert images(bench) == [built["image_id"]]
        assert list((bench.storage.root / "staging").iterdir()) == []
        assert "what was under way is cancelled" in watching.messages.read_text()
    assert_clean(bench)


def test_200_saves_in_20_seconds(bench: Bench, tmp_path: Path) -> None:
    """They are few builds, more than one only where saving stood still for a while, and leave the last state."""
    original = (bench.root / UTIL).read_text()
    with watch(bench, tmp_path) as watching:
        assert watching.next()["status"] == "current"
        for number in range(200):
            temporary = bench.root / "usr/new"
            temporary.write_text(f"{original}\nlast_word() = {number}\n")
            temporary.replace(bench.root / UTIL)
            time.sleep(0.1)
        told, word = [], ""
        while word != "199":
            told.append(watching.next())
            assert told[-1]["status"] == "built"
            word = bench.julia(told[-1]["image"], "print(Base.last_word())")
        assert watching.quiet()
        assert len(told) < 20
        known = {built["image_id"] for built in told}
        assert known <= set(images(bench))
        assert len(images(bench)) <= 2 * len(told)  # each batch may begin with a build that comes to its end too early


def test_git_checkout_of_500_files(bench: Bench, tmp_path: Path) -> None:
    git = ["git", "-c", "user.name=me", "-c", "user.email=me@here"]

    def run(*words: str) -> str:
        return subprocess.run([*git, *words], cwd=bench.root, check=True, capture_output=True, text=True).stdout.strip()

    before = run("rev-parse", "--abbrev-ref", "HEAD")
    files = [path for path in run("ls-files").splitlines() if path.endswith(".jl") and path != "base/boot.jl"][:499]
    run("checkout", "-qb", "many")
    try:
        for path in files:
            bench.append(path, "\n# many\n")
        bench.append(UTIL, '\nlast_word() = "many"\n')
        run("commit", "-qam", "many")
        run("checkout", "-q", before)
        with watch(bench, tmp_path) as watching:
            assert watching.next()["status"] == "current"
            run("checkout", "-q", "many")
            built = watching.next()
            assert built["status"] == "built" and len(built["changed_files"]) > 300, built
            assert bench.julia(built["image"], "print(Base.last_word())") == "many"
            run("checkout", "-q", before)
            assert watching.next()["status"] == "current"
            assert images(bench) == [built["image_id"]]
    finally:
        run("checkout", "-qf", before)
        run("branch", "-qD", "many")


def test_tests_run_failures_first(bench: Bench, tmp_path: Path) -> None:
    for name, truth in (("quick_one", "true"), ("quick_two", "false")):
        (bench.root / f"test/{name}.jl").write_text(f"using Test\n@test {truth}\n")
    with watch(bench, tmp_path, "--test", "quick_one", "quick_two") as watching:
        assert watching.next()["status"] == "current"
        tested = watching.next()
        assert tested["status"] == "tested"
        assert tested["tests"]["names"] == ["quick_one", "quick_two"]
        assert tested["tests"]["failed"] == ["quick_two"]
        assert "quick_two.jl:2" in tested["errors"][0]["detail"]
        (bench.root / "test/quick_two.jl").write_text("using Test\n@test Base.last_word() == 1\n")
        bench.append(UTIL, "\nlast_word() = 1\n")
        assert watching.next()["status"] == "built"
        tested = watching.next()
        assert tested["tests"]["names"] == ["quick_two", "quick_one"]
        assert tested["tests"]["failed"] == tested["errors"] == []
        told = watching.messages.read_text()
        assert "basedev: testing what failed: quick_two\nbasedev: testing: quick_one\n" in told


def test_a_newer_save_cancels_the_tests(bench: Bench, tmp_path: Path) -> None:
    (bench.root / "test/quick_one.jl").write_text('using Test\nBase.last_word() == "sleep" && sleep(600)\n@test true\n')
    bench.append(UTIL, '\nlast_word() = "sleep"\n')
    with watch(bench, tmp_path, "--test", "quick_one") as watching:
        assert watching.next()["status"] == "built"
        wait_until(lambda: any("runtests.jl" in words for words in _programs(bench)))
        bench.edit(UTIL, '"sleep"', '"run"')
        assert watching.next()["status"] == "built"
        assert len([words for words in _programs(bench) if "runtests.jl" in words]) <= 1
        assert watching.next()["tests"]["failed"] == []


def _programs(bench: Bench) -> list[str]:
    """The command lines of all that runs with this run's cache."""
    marker = f"BASEDEV_CACHE={bench.storage.root}".encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if marker in (process / "environ").read_bytes().split(b"\0"):
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return found


def test_once_with_tests_of_the_changed_files(bench: Bench) -> None:
    bench.append("base/char.jl", "\nchosen(c::Char) = c\n")
    done = bench.basedev("watch", "--once", "--test", "--exec", "echo $BASEDEV_STATUS")
    assert done.returncode == 0, done.stderr
    assert "basedev: testing: char\n" in done.stderr
    assert "basedev: --exec: built\n" in done.stderr and "basedev: --exec: passed\n" in done.stderr
    built, tested = done.stdout.splitlines()
    assert " built: chained in " in built and built.endswith("/sys.so")
    assert " passed: tests passed in " in tested and tested.endswith(": char")


def test_once_with_an_error(bench: Bench) -> None:
    bench.append(UTIL, "\nf(\n")
    done = bench.basedev("watch", "--once", "--exec", "echo $BASEDEV_STATUS")
    assert done.returncode == 1
    line, *place = done.stdout.splitlines()
    assert " failed: base/strings/util.jl:" in line and any("f(" in line for line in place)
    assert "basedev: --exec: failed\n" in done.stderr


HOOK = 'echo "$BASEDEV_STATUS|$BASEDEV_IMAGE|$BASEDEV_MESSAGE|$BASEDEV_SECONDS" >>told; echo heard; exit 7'


def test_the_hook(bench: Bench, tmp_path: Path) -> None:
    told = bench.root / "told"
    with watch(bench, tmp_path, "--no-full-rebuild", "--exec", HOOK) as watching:
        first = watching.next()
        wait_until(lambda: "exited with 7" in watching.messages.read_text())
        assert "basedev: --exec: heard\n" in watching.messages.read_text()
        (bench.root / UTIL).write_text("f(")
        watching.next()
        wait_until(lambda: len(told.read_text().splitlines()) == 2)
        subprocess.run(["git", "checkout", "-q", "--", "."], cwd=bench.root, check=True)
        watching.next()
        wait_until(lambda: len(told.read_text().splitlines()) == 3)
        bench.append("base/boot.jl", "\nconst last_word = 1\n")
        refused = watching.next()
        assert refused["errors"][0]["message"].startswith("only a full rebuild is right, and it was not wanted: ")
        wait_until(lambda: len(told.read_text().splitlines()) == 4)
        bench.edit("base/boot.jl", "\nconst last_word = 1\n", "")
        bench.append(UTIL, "\nlast_word() = 1\n")
        built = watching.next()
        wait_until(lambda: len(told.read_text().splitlines()) == 5)
    results = [line.split("|") for line in told.read_text().splitlines()]
    assert [result[0] for result in results] == ["current", "failed", "current", "error", "built"]
    assert [result[1] for result in results] == [first["image"], "", first["image"], "", built["image"]]
    assert "syntax" in results[1][2] and "full rebuild" in results[3][2] and results[4][2].startswith("chained in ")
    assert all(float(result[3]) > 0 for result in results)


def test_a_hook_that_does_not_end(bench: Bench, tmp_path: Path) -> None:
    """It holds nothing up, and ends with the watch."""
    with watch(bench, tmp_path, "--exec", "sleep 600") as watching:
        watching.next()
        bench.append(UTIL, "\nlast_word() = 1\n")
        assert watching.next()["status"] == "built"
        assert any("sleep 600" in words for words in helpers_of(bench))
        assert watching.end() == 130


def test_no_such_test(bench: Bench) -> None:
    done = bench.basedev("watch", "--test", "no/such/test")
    assert done.returncode == 2 and "no/such/test" in done.stderr


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_the_end_while_it_builds(bench: Bench, tmp_path: Path, how: signal.Signals) -> None:
    bench.append(UTIL, '\nlast_word() = "done"\n')
    with watch(bench, tmp_path) as watching:
        wait_until(lambda: any("/host " in words for words in helpers_of(bench)))
        assert watching.end(how) == 130
        assert helpers_of(bench) == []
        assert watching.messages.read_text().endswith("basedev: interrupted; nothing was changed\n")
    assert_clean(bench)


def test_killed_at_random_moments(bench: Bench, tmp_path: Path) -> None:
    """Its build ends with it; the store is whole."""
    moment = random.Random(4)
    bench.append(UTIL, '\nlast_word() = "done"\n')
    for number in range(10):
        with watch(bench, tmp_path) as watching:
            time.sleep(moment.uniform(0.0, 2.5))
            bench.append(UTIL, f"\nword{number}() = 1\n")
            time.sleep(moment.uniform(0.0, 0.5))
            assert watching.end(signal.SIGKILL) == -signal.SIGKILL
    assert_clean(bench)


def test_the_checkout_goes_away(bench: Bench, tmp_path: Path) -> None:
    away = bench.root.with_name("away")
    with watch(bench, tmp_path) as watching:
        watching.next()
        bench.root.rename(away)
        try:
            last = watching.next()
            assert watching.process.wait(30) == 3
        finally:
            away.rename(bench.root)
    assert last["errors"][0]["message"] == f"{bench.root} is gone: the watch has ended"


def test_the_display(bench: Bench) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(bench.root)
        command = bench.command("watch")
        os.execve(command[0], command, {**bench.environment, "TERM": "xterm", "COLUMNS": "60"})
    said = ""

    def until(text: str) -> None:
        nonlocal said
        while text not in said:
            assert select.select([terminal], [], [], 60)[0], said
            said += os.read(terminal, 10000).decode()

    until("the sources are those of the base image")
    bench.append(UTIL, "\nlast_word() = 1\n")
    until("building")
    until("chained in ")
    until("Base.last_word()")
    os.write(terminal, b"\x03")
    until("basedev: interrupted; nothing was changed")
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 130
    assert "Traceback" not in said
