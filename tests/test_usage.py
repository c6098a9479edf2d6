"""The man page and the shells' completions have the commands that there are."""

from __future__ import annotations

import os
import pty
import re
import select
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import Bench

from basedev import completion, usage
from basedev.arguments import parser_of_arguments

ROOT = Path(__file__).parent.parent

WANTED = {
    "basedev imp": ["impact"],
    "basedev -C /tmp images v": ["verify"],
    "basedev build --eng": ["--engine"],
    "basedev build --engine stock": ["stock-1.5", "stock-1.5-no-cutoff"],
    "basedev impact --sort c": ["changed", "cost"],
    "basedev bisect run --policy r": ["rebuild"],
    "basedev hook inst": ["install"],
}
"""What is typed, and what it can become."""


def written(shell: str, place: Path) -> Path:
    """The code for a shell in a file."""
    file = place / f"completion.{shell}"
    file.write_text(completion.code(shell, usage.read(parser_of_arguments())))
    return file


def needed(program: str) -> str:
    """A program that not every machine has."""
    path = shutil.which(program)
    if path is None:
        pytest.skip(f"{program} is not installed here")
    return path


def test_every_command_is_among_them() -> None:
    root = usage.read(parser_of_arguments())
    called = {" ".join(one.words) for one in root.all()}
    assert {"basedev impact", "basedev doctor", "basedev images verify", "basedev bisect run"} <= called
    assert all(one.help and (one.example or one is root) for one in root.all())
    for shell in completion.WRITERS:
        code = completion.code(shell, root)
        assert all(one.words[-1] in code for one in root.all())


def test_command_prints_the_code(bench: Bench, tmp_path: Path) -> None:
    assert bench.basedev("completion", "bash").stdout == written("bash", tmp_path).read_text()
    assert bench.basedev("completion", "tcsh").returncode == 2


def test_bash(tmp_path: Path) -> None:
    calls = "".join(
        f"COMP_WORDS=({shlex.join(typed.split())}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _basedev; "
        'echo "${COMPREPLY[*]}"\n'
        for typed in WANTED
    )
    script = f"set -u; . {shlex.quote(str(written('bash', tmp_path)))}\n{calls}"
    done = subprocess.run(["bash", "--norc", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [" ".join(words) for words in WANTED.values()]


def test_fish(tmp_path: Path) -> None:
    fish, file = needed("fish"), written("fish", tmp_path)
    for typed, words in WANTED.items():
        script = f"source {shlex.quote(str(file))}; complete -C {shlex.quote(typed)}"
        environment = {**os.environ, "HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
        done = subprocess.run([fish, "-c", script], capture_output=True, text=True, check=True, env=environment)
        assert sorted(line.split("\t")[0] for line in done.stdout.splitlines()) == words


def test_zsh(tmp_path: Path) -> None:
    zsh, file = needed("zsh"), written("zsh", tmp_path)
    pid, terminal = pty.fork()
    if not pid:
        os.environ.update(TERM="dumb", PS1="", HOME=str(tmp_path))
        os.execv(zsh, [zsh, "-f", "-i"])

    def answered(text: str, wanted: str) -> str:
        os.write(terminal, text.encode())
        said, until = "", time.monotonic() + 60
        while wanted not in said and time.monotonic() < until:
            if select.select([terminal], [], [], 1)[0]:
                said += os.read(terminal, 1000).decode(errors="replace")
        return said

    try:
        answered(f"autoload -Uz compinit; compinit -u -D; . {shlex.quote(str(file))}; echo re''ady\n", "ready")
        for typed, words in WANTED.items():
            if len(words) == 1:
                said = answered(f"{typed}\t", f"{words[0]} ")
                assert f"{words[0]} " in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said), said
                os.write(terminal, b"\x15")
    finally:
        os.write(terminal, b"\x15exit\n")
        os.close(terminal)
        os.waitpid(pid, 0)


def test_man_page_is_up_to_date() -> None:
    done = subprocess.run([sys.executable, ROOT / "tools/manual.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_man_page_is_well_formed() -> None:
    groff = needed("groff")
    done = subprocess.run(
        [groff, "-ww", "-man", "-Tutf8", "-P-cbou", ROOT / "man/basedev.1"], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    assert "basedev images verify [OPTIONS]" in done.stdout and "--at-most N" in done.stdout
