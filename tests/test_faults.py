"""Several builds at once, and builds that are interrupted at any moment."""

from __future__ import annotations

import json
import os
import pty
import random
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import Bench, read_to_end, start, wait_until

from basedev.storage import cache_root

UTIL = "base/strings/util.jl"


def helpers_of(bench: Bench) -> list[str]:
    """Programs that work in this run's checkout, as all do that basedev starts: the host, compilers and linkers."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            if (process / "cwd").readlink() == bench.root:
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return found


def has_begun(bench: Bench, build: subprocess.Popen[str]) -> bool:
    """Whether a command has opened something of the cache, or has ended."""
    with suppress(OSError):
        files = [file.readlink() for file in Path(f"/proc/{build.pid}/fd").iterdir()]
        return build.poll() is not None or any(file.is_relative_to(bench.storage.root) for file in files)
    return build.poll() is not None


def assert_clean(bench: Bench) -> None:
    """No process is left, the next build succeeds, and nothing but whole entries is in the store."""
    wait_until(lambda: not helpers_of(bench))
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
    wait_until(lambda: has_begun(bench, build))  # Python itself, which starts before, ends as it likes
    time.sleep(random.Random(100 + seed).uniform(0.0, 1.0))
    os.killpg(build.pid, signal.SIGINT)
    shown, told = build.communicate()
    if build.returncode == -signal.SIGINT:  # Python itself, which ends after it
        assert shown.endswith("/sys.so\n")
    else:
        assert build.returncode in (0, 130)  # it may have been done already
    if build.returncode == 130:
        assert told.splitlines()[-1] == "basedev: interrupted; nothing was changed"
        assert "Traceback" not in told
    assert_clean(bench)


LINKING = "collect2"
"""What gcc starts, and what starts the linker in turn: a killed gcc alone would leave it running."""


@pytest.mark.parametrize("interruption", [signal.SIGKILL, signal.SIGINT])
def test_stopped_while_linking(bench: Bench, interruption: signal.Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only basedev itself gets the signal."""
    monkeypatch.setenv("BASEDEV_LINK", "linker")
    bench.append(UTIL, '\nlast_word() = "done"\n')
    build = start(bench, "build")
    wait_until(lambda: any(LINKING in words for words in helpers_of(bench)))
    build.send_signal(interruption)
    build.communicate()
    assert build.returncode == (130 if interruption == signal.SIGINT else -signal.SIGKILL)
    assert_clean(bench)


@pytest.mark.parametrize("interruption", [signal.SIGKILL, signal.SIGINT])
def test_stopped_while_the_host_is_compiled(bench: Bench, tmp_path: Path, interruption: signal.Signals) -> None:
    for kind in ("julia", "bases"):
        (tmp_path / kind).symlink_to(cache_root() / kind)
    bench.append(UTIL, '\nlast_word() = "done"\n')
    build = subprocess.Popen(
        bench.command("build"),
        cwd=bench.root,
        env={**bench.environment, "BASEDEV_CACHE": str(tmp_path)},
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: any("cc1plus" in words for words in helpers_of(bench)))
    build.send_signal(interruption)
    _, told = build.communicate()
    wait_until(lambda: not helpers_of(bench))
    if interruption == signal.SIGINT:
        assert build.returncode == 130
        assert told.splitlines()[-1] == "basedev: interrupted; nothing was changed"
        assert list((tmp_path / "staging").iterdir()) == []
    assert not (tmp_path / "hosts").exists()


def test_control_c_at_a_terminal(bench: Bench) -> None:
    bench.append(UTIL, '\nlast_word() = "done"\n')
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(bench.root)
        command = bench.command("build")
        os.execve(command[0], command, {**bench.environment, "TERM": "xterm"})
    staging = bench.storage.root / "staging"
    wait_until(lambda: staging.exists() and any(staging.glob("image-*/work")))
    os.write(terminal, b"\x03")
    said = read_to_end(terminal)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 130
    assert said.endswith(b"basedev: interrupted; nothing was changed\r\n")
    assert b"Traceback" not in said
    assert_clean(bench)


def test_interruption_as_an_object(bench: Bench) -> None:
    bench.append(UTIL, '\nlast_word() = "done"\n')
    build = start(bench, "--json", "build")
    wait_until(lambda: any("/host " in words for words in helpers_of(bench)))
    build.send_signal(signal.SIGINT)
    told = json.loads(build.communicate()[0])
    assert build.returncode == 130
    assert told["status"] == "interrupted" and told["image"] is None


def test_the_one_that_waits_goes_on_when_the_other_is_killed(bench: Bench) -> None:
    bench.append(UTIL, '\nlast_word() = "done"\n')
    first = start(bench, "build")
    staging = bench.storage.root / "staging"
    wait_until(lambda: staging.exists() and any(staging.glob("image-*/work")))
    first.send_signal(signal.SIGSTOP)
    second = start(bench, "build")
    assert second.stderr and "waiting for another basedev" in second.stderr.readline()
    first.kill()
    first.communicate()
    second.communicate()
    assert second.returncode == 0
    assert_clean(bench)
