"""Several builds at once, and builds that are interrupted at any moment."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
from conftest import Bench

UTIL = "base/strings/util.jl"


def start(bench: Bench, *words: str) -> subprocess.Popen[str]:
    """A command in a process group of its own."""
    return subprocess.Popen(
        bench.command(*words),
        cwd=bench.root,
        env=bench.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def helpers_of(bench: Bench) -> list[str]:
    """Programs that work in this run's cache directory."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
            directory = (process / "cwd").readlink()
            state = (process / "status").read_text().split("State:")[1].split("\n")[0] + (process / "wchan").read_text()
        except OSError:
            continue
        if words[0].endswith(b"/host") and directory == bench.root:
            found.append(b" ".join(words).decode(errors="replace") + state)
    return found


def assert_clean(bench: Bench) -> None:
    """No process is left, the next build succeeds, and nothing but whole entries is in the store."""
    deadline = time.monotonic() + 20
    while helpers_of(bench) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert helpers_of(bench) == []
    built = bench.chain()
    assert bench.julia(built["image"], "print(Base.last_word())") == "done"
    assert list((bench.storage.root / "staging").iterdir()) == []
    for entry in (bench.storage.root / "images").iterdir():
        manifest = json.loads((entry / "manifest.json").read_text())
        assert {name: about["size"] for name, about in manifest["files"].items()} == {
            "sys.so": (entry / "sys.so").stat().st_size
        }


def test_two_builds_at_once(bench: Bench) -> None:
    bench.append(UTIL, "\nat_once() = 1\n")
    both = [start(bench, "--json", "build") for _ in range(2)]
    results = [json.loads(process.communicate()[0]) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted(result["status"] for result in results) == ["built", "present"]
    assert results[0]["image_id"] == results[1]["image_id"]
    assert len(list((bench.storage.root / "images").iterdir())) == 1


@pytest.mark.parametrize("seed", range(5))
def test_killed_at_any_moment(bench: Bench, seed: int) -> None:
    bench.append(UTIL, '\nlast_word() = "done"\n')
    build = start(bench, "build")
    time.sleep(random.Random(seed).uniform(0.1, 2.0))
    build.kill()
    build.communicate()
    assert_clean(bench)


@pytest.mark.parametrize("seed", range(3))
def test_interrupted_at_any_moment(bench: Bench, seed: int) -> None:
    bench.append(UTIL, '\nlast_word() = "done"\n')
    build = start(bench, "build")
    time.sleep(random.Random(100 + seed).uniform(0.4, 1.5))
    os.killpg(build.pid, signal.SIGINT)
    _, told = build.communicate()
    assert build.returncode in (0, 130)  # it may have been done already
    if build.returncode:
        assert told.splitlines()[-1] == "basedev: interrupted; nothing was changed"
        assert "Traceback" not in told
    assert_clean(bench)
