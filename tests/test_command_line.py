"""The contract of the command line: exit codes, one JSON object, configuration, and Julia's own input and signals."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import time
from pathlib import Path

import pytest
from conftest import Bench

from basedev.config import Config, load_config
from basedev.errors import UsageError

KEYS = {
    *("status", "engine", "image", "image_id", "base_id", "sources_id", "full_rebuild_reason", "changed_files"),
    *("definitions", "invalidated", "recompiled", "timings", "errors"),
}
COMMANDS = ("init", "status", "build", "run", "test")


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
    assert json.loads(bench.basedev("--json", "init").stdout)["status"] == "ready"


def test_json_tells_failures(bench: Bench) -> None:
    bench.append("base/strings/util.jl", "\ntold(s\n")
    done = bench.basedev("--json", "build")
    assert done.returncode == 1
    told = json.loads(done.stdout)
    assert told["status"] == "failed" and "syntax" in told["errors"][0]["message"]


@pytest.mark.parametrize("words", [(), ("unknown",), ("build", "--engine", "steam"), ("test", "no/such/test")])
def test_usage_errors(bench: Bench, words: tuple[str, ...]) -> None:
    done = bench.basedev(*words)
    assert done.returncode == 2
    assert done.stderr.startswith("basedev: ") and done.stderr.count("\n") == 1


def test_exit_codes_pass_through(bench: Bench) -> None:
    assert bench.basedev("run", "--", "-e", "exit(17)").returncode == 17
    assert bench.basedev("run", "--", "-e", "error()").returncode == 1


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


def test_signals_are_julias(bench: Bench) -> None:
    code = 'println("ready"); try; sleep(60); catch e; print(e isa InterruptException); exit(3); end'
    catch = "ccall(:jl_exit_on_sigint, Cvoid, (Cint,), 0); " + code
    process = subprocess.Popen(
        bench.command("run", "--", "-e", catch),
        cwd=bench.root,
        env=bench.environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout and process.stdout.readline() == "ready\n"
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    assert process.communicate()[0] == "true"
    assert process.returncode == 3


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


def test_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    assert load_config(tmp_path) == Config()
    (tmp_path / "home/basedev").mkdir(parents=True)
    (tmp_path / "home/basedev/config.toml").write_text('[basedev]\nengine = "full"\nfull-rebuild = false\n')
    (tmp_path / ".basedev.toml").write_text('[basedev]\nengine = "stock-1.5"\n')
    assert load_config(tmp_path) == Config(engine="stock-1.5", full_rebuild=False)
    for text in (
        "[basedev]\nengin = 1\n",
        "[basedev]\nengine = 1\n",
        "[other]\n",
        "[basedev\n",
        '[basedev]\nengine = "x"',
    ):
        (tmp_path / ".basedev.toml").write_text(text)
        with pytest.raises(UsageError, match=r"\.basedev\.toml"):
            load_config(tmp_path)


def test_configuration_is_used(bench: Bench) -> None:
    (bench.root / ".basedev.toml").write_text("[basedev]\nfull-rebuild = false\n")
    bench.edit("base/version.jl", "const VInt = UInt32", "const VInt = UInt64")
    done = bench.basedev("build")
    assert done.returncode == 3
    assert "constant VInt" in done.stderr
