"""The contract of the command line: exit codes, one JSON object, and Julia's own input, terminal and signals."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Bench

from basedev.checkout import Checkout
from basedev.engines.stock15.host_program import host_program
from basedev.storage import Storage, cache_root
from basedev.store import Store

KEYS = {
    *("status", "engine", "image", "image_id", "base_id", "sources_id", "full_rebuild_reason", "changed_files"),
    *("definitions", "invalidated", "recompiled", "timings", "errors"),
}
COMMANDS = ("init", "status", "build", "run", "test", "verify", "watch", "impact", "doctor", "completion")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(bench: Bench, command: str) -> None:
    done = bench.basedev(command, "--help")
    assert done.returncode == 0
    assert "example: basedev" in done.stdout


def test_json_is_one_object(bench: Bench) -> None:
    bench.append("base/strings/util.jl", "\ntold(s) = s\n")
    for words in (("status",), ("build",), ("build",), ("run", "--", "-e", "println(1)"), ("test", "strings/types")):
        done = bench.basedev("--json", *words)
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        assert told.keys() >= KEYS
        assert told["changed_files"] == ["base/strings/util.jl"]
    assert told["exit_code"] == 0
    assert json.loads(bench.basedev("init", "--json").stdout)["status"] == "ready"  # behind the command too
    assert bench.basedev("run", "--", "-e", "print(ARGS)", "x", "--json").stdout == '["x", "--json"]'


@pytest.mark.parametrize("command", ["status", "build", "run", "test"])
def test_json_tells_failures(bench: Bench, command: str) -> None:
    bench.append("base/strings/util.jl", "\ntold(s\n")
    done = bench.basedev("--json", command)
    assert done.returncode == 1
    told = json.loads(done.stdout)
    assert told.keys() >= KEYS
    assert told["status"] == "failed" and "syntax" in told["errors"][0]["message"]
    assert "told(s" in told["errors"][0]["detail"]
    assert (told["image"], told["image_id"], told["full_rebuild_reason"]) == (None, None, None)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["-C", "/", "init"], 2),
        (["-C", "/", "status"], 2),
        (["build", "--engine", "steam"], 2),
        (["test", "no/such/test"], 2),
        (["test"], 2),
        ([], 2),
    ],
)
def test_json_tells_errors_of_usage(bench: Bench, words: list[str], code: int) -> None:
    done = bench.basedev("--json", *words)
    assert done.returncode == code
    told = json.loads(done.stdout)
    assert told.keys() >= KEYS and told["status"] == "failed"
    (error,) = told["errors"]
    assert done.stderr.splitlines()[-1] == f"basedev: {error['message']}"


@pytest.mark.parametrize(
    ("said", "code", "told"),
    [
        ("host: nothing works", 4, "the engine's host failed: nothing works"),
        (
            "Internal error: encountered unexpected error in runtime:\nUndefVarError(var=:ntuple)\ntuple_tfunc at ...",
            1,
            "Julia's compiler, as it is edited, fails: UndefVarError(var=:ntuple)",
        ),
    ],
)
def test_a_defect_is_told_as_one(bench: Bench, tmp_path: Path, said: str, code: int, told: str) -> None:
    """A host that does not work, or runs a compiler that does not, in the place of the right one."""
    julia = Checkout(bench.root).distribution
    for kind in ("julia", "bases"):
        (tmp_path / kind).symlink_to(cache_root() / kind)
    broken = Storage(tmp_path)
    with broken.staging("host") as made:
        (made / "host").write_text(f"#!/bin/sh\ncat >&2 <<'.'\n{said}\n.\nexit 4\n")
        (made / "host").chmod(0o755)
        Store(broken).publish("hosts", host_program(julia, Storage(), print).parent.name, made, {})
    bench.append("base/strings/util.jl", "\ntold(s) = s\n")
    done = bench.basedev("--json", "build", "--no-full-rebuild", environment={"BASEDEV_CACHE": str(tmp_path)})
    assert done.returncode == code
    assert json.loads(done.stdout)["errors"][0]["message"] == told
    assert not (tmp_path / "images").exists() and list((tmp_path / "staging").iterdir()) == []


@pytest.mark.parametrize("words", [["status"], ["--json", "status"]])
def test_output_that_nobody_takes(bench: Bench, words: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    for output in (os.open("/dev/full", os.O_WRONLY), writing):
        command = bench.command(*words)
        done = subprocess.run(
            command, cwd=bench.root, env=bench.environment, stdout=output, stderr=subprocess.PIPE, text=True
        )
        os.close(output)
        assert done.returncode == 3
        assert done.stderr.startswith("basedev: the result can't be written to standard output: ")
        assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("words", [(), ("unknown",), ("build", "--engine", "steam"), ("test", "no/such/test")])
def test_usage_errors(bench: Bench, words: tuple[str, ...]) -> None:
    done = bench.basedev(*words)
    assert done.returncode == 2
    assert done.stderr.startswith("basedev: ") and done.stderr.count("\n") == 1


def test_exit_codes_pass_through(bench: Bench) -> None:
    assert bench.basedev("run", "--", "-e", "exit(17)").returncode == 17
    assert bench.basedev("run", "--", "-e", "error()").returncode == 1
    done = bench.basedev("--json", "run", "--", "-e", 'println("to julia"); exit(17)')
    assert (done.returncode, json.loads(done.stdout)["exit_code"]) == (17, 17)
    assert "to julia" in done.stderr


def test_no_signal_is_ignored(bench: Bench) -> None:
    """Python ignores some, which Julia must not inherit."""
    code = "run(`grep SigIgn /proc/self/status`)"
    stock = subprocess.run(
        [bench.root / "usr/bin/julia", "--startup-file=no", "-e", code], capture_output=True, text=True, check=True
    )
    assert bench.basedev("run", "--", "--startup-file=no", "-e", code).stdout == stock.stdout


def test_standard_input_is_julias(bench: Bench) -> None:
    done = bench.basedev("run", "--", "-e", "print(read(stdin, String))", stdin="through")
    assert done.stdout == "through"


def test_terminal_is_julias(bench: Bench) -> None:
    ours, julias = pty.openpty()
    process = subprocess.Popen(
        bench.command("run", "--", "-e", "print(isa(stdin, Base.TTY), isa(stdout, Base.TTY))"),
        cwd=bench.root,
        env=bench.environment,
        stdin=julias,
        stdout=julias,
        stderr=subprocess.DEVNULL,
    )
    assert process.wait() == 0
    assert os.read(ours, 100) == b"truetrue"


SLEEPER = (
    "ccall(:jl_exit_on_sigint, Cvoid, (Cint,), 0);"
    'try; println("ready"); sleep(60); catch e; print(typeof(e)); exit(3); end'
)


def until_noticed(interrupt: Callable[[], object], output: int) -> bytes:
    """Interrupts Julia until it says something, and returns that. It misses what comes just before it sleeps."""
    time.sleep(0.2)
    interrupt()
    while not select.select([output], [], [], 5)[0]:
        interrupt()
    return os.read(output, 1000)


def test_signals_are_julias(bench: Bench) -> None:
    process = subprocess.Popen(
        bench.command("run", "--", "-e", SLEEPER), cwd=bench.root, env=bench.environment, stdout=subprocess.PIPE
    )
    assert process.stdout and process.stdout.readline() == b"ready\n"
    said = until_noticed(lambda: process.send_signal(signal.SIGINT), process.stdout.fileno())
    assert said == b"InterruptException"
    assert process.wait() == 3


def test_termination_is_julias(bench: Bench) -> None:
    process = subprocess.Popen(
        bench.command("run", "--", "-e", "println(getpid()); sleep(60)"),
        cwd=bench.root,
        env=bench.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout and int(process.stdout.readline()) == process.pid  # nothing is between it and its caller
    process.terminate()
    assert process.wait() == 128 + signal.SIGTERM  # Julia's own way to end


def test_control_c_at_the_terminal_is_julias(bench: Bench) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(bench.root)
        command = bench.command("run", "--", "-e", SLEEPER)
        os.execve(command[0], command, bench.environment)
    settings = termios.tcgetattr(terminal)
    settings[3] &= ~termios.ECHO
    termios.tcsetattr(terminal, termios.TCSANOW, settings)
    said = b""
    while b"ready\r\n" not in said:
        said += os.read(terminal, 1000)
    said += until_noticed(lambda: os.write(terminal, b"\x03"), terminal)
    assert said == b"ready\r\nInterruptException"
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 3


def test_tests_of_changed_files_are_chosen(bench: Bench) -> None:
    bench.append("base/char.jl", "\nchosen(c::Char) = c\n")
    done = bench.basedev("test")
    assert done.returncode == 0, done.stderr
    assert "basedev: tests of the changed files: char" in done.stderr
    assert "SUCCESS" in done.stdout


def test_failing_tests_fail(bench: Bench) -> None:
    path = bench.root / "test/char.jl"
    path.write_text("using Test\n@test 1 == 2\n" + path.read_text())
    done = bench.basedev("test", "char")
    assert done.returncode == 1
    assert "1 == 2" in done.stdout + done.stderr
