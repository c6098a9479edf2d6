"""The commands in README and docs: those in blocks are run as they stand there, or read by the real parser."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import Bench

from basedev import usage
from basedev.arguments import parser_of_arguments

ROOT = Path(__file__).parent.parent
TEXTS = ("README.md", "CONTRIBUTING.md", "patches/README.md")
FILES = [*(ROOT / name for name in TEXTS), *sorted((ROOT / "docs").glob("*.md"))]

MINUTES = "takes minutes"
FOR_EVER = "goes on until it is interrupted: tests/test_watch.py"
OTHER_TREE = "needs a checkout of current Julia: tests/test_patches.py"
SEARCH = "needs a history with a culprit: tests/test_bisect.py"

ONLY_READ = {
    "basedev test": f"{MINUTES}: tests/test_command_line.py",
    "basedev verify": f"{MINUTES}: tests/test_verify.py",
    "basedev watch": FOR_EVER,
    "basedev --json watch": FOR_EVER,
    "basedev bisect": SEARCH,
    "basedev -C ~/julia patch": OTHER_TREE,
    "basedev patch": OTHER_TREE,
    "basedev revision apply other.jl": "needs a revision of another base image: tests/test_revision_file.py",
    "basedev images verify": "reads all base images of this user's cache: tests/test_images.py",
    "basedev images show b949": "names an image of another machine: tests/test_images.py",
}
"""Beginnings of commands that are not run, with the reason; their arguments are read."""

OTHERS = ("$EDITOR", "git", "echo", "julia", "tools/julia-checkout", "cd", "eval", "tools/fuzz")
"""Programs besides basedev that commands in the docs begin with."""

CHOMP = "function chomp(s::String)\n"
WORLD = f'{CHOMP}    s == "hello" && return SubString("world")\n'
ADDED = """
shout(s::AbstractString) = uppercase(s) * "!"
louder(s::String; mark::Char='!') = uppercase(s) * mark
"""
"""What the docs' checkouts have in addition."""


@dataclass(frozen=True)
class Shown:
    """A command in a block of a document, and what is printed below it."""

    place: str
    command: str
    output: str

    @property
    def basedev(self) -> list[str]:
        """The words of basedev's own part of it, without a shell's."""
        lexer = shlex.shlex(self.command.replace("2>&1", ""), posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words = list(lexer)
        while words and words[0] != "basedev":
            words = words[1:]
        end = next((n for n, word in enumerate(words) if set(word) <= set("|&;<>()")), len(words))
        return words[:end]

    @property
    def reason(self) -> str | None:
        """Why it is not run, if it is not."""
        return next((why for begin, why in ONLY_READ.items() if f"{self.command} ".startswith(f"{begin} ")), None)


def _shown() -> Iterator[Shown]:
    for path in FILES:
        for block in re.finditer(r"^```\w*\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE):
            for match in re.finditer(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block[1], re.MULTILINE):
                yield Shown(path.name, match[1], match[2])


SHOWN = list(_shown())


def test_the_docs_are_found() -> None:
    assert len(SHOWN) > 50
    assert {one.place for one in SHOWN} >= {"README.md", "commands.md", "concepts.md", "hooks.md", "images.md"}
    for begin in ONLY_READ:
        assert any(one.reason == ONLY_READ[begin] and one.command.startswith(begin) for one in SHOWN), begin


@pytest.mark.parametrize("place", sorted({one.place for one in SHOWN}))
def test_commands_are_such(place: str) -> None:
    """Every one is one of basedev's that its own parser takes, or a program that is known here."""
    for one in SHOWN:
        if one.place == place and (words := one.basedev):
            parser_of_arguments().parse_args(words[1:])
        elif one.place == place:
            assert one.command.startswith(OTHERS), one.command


def test_commands_in_the_text_exist() -> None:
    """Their names and options, as in `basedev images gc [--budget SIZE]`."""
    commands = {one.words[1:]: one for one in usage.read(parser_of_arguments()).all()}
    for path in FILES:
        for match in re.finditer(r"`basedev ((?:-C \S+ |--json )*)([a-z][^`\n]*)`", path.read_text()):
            words = re.findall(r"--?[a-z][a-z-]*|[a-z][a-z-]*", match[2].partition(" -- ")[0])
            name = next((tuple(words[:n]) for n in (2, 1) if tuple(words[:n]) in commands), None)
            assert name, (path.name, match[0])
            options = [option for one in commands[name[:1]].all() for option in one.options]
            known = {flag for option in options for flag in option.names}
            for flag in words:
                assert not flag.startswith("--") or flag in known, (path.name, match[0])


def test_links_lead_to_documents_and_headings() -> None:
    for path in FILES:
        for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", path.read_text()):
            name, _, heading = link.partition("#")
            target = path.parent / name if name else path
            assert target.exists(), (path.name, link)
            titles = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE) if heading else [""]
            assert heading in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}, (
                path.name,
                link,
            )


def test_modules_are_where_contributing_tells_and_import_from_upstream() -> None:
    """Each in a row of the table; what it imports when it is loaded is in that row or above."""
    table = (ROOT / "CONTRIBUTING.md").read_text().partition("## Where things are")[2].partition("\n## ")[0]
    rows = [re.findall(r"`([\w/]+)`", line.split("|")[1]) for line in table.splitlines() if line.startswith("| `")]
    places = {ROOT / "basedev" / name: number for number, names in enumerate(rows) for name in names}
    modules = {path.with_suffix("") for path in (ROOT / "basedev").rglob("*.py") if not path.name.startswith("__")}

    def row(module: Path) -> int:
        return next(places[one] for one in (module, module.parent, module.parent.parent) if one in places)

    for module in modules:
        for found in re.finditer(
            r"^from (\.+)([\w.]*) import (.*)$", module.with_suffix(".py").read_text(), re.MULTILINE
        ):
            package = module.parents[len(found[1]) - 1].joinpath(*filter(None, found[2].split(".")))
            for used in modules & {package, *(package / name for name in re.findall(r"\w+", found[3]))}:
                assert row(used) <= row(module), (module.name, used.name)


def test_commands_do_what_is_shown(bench: Bench, tmp_path: Path) -> None:
    """Each once, in the order of the docs, in one checkout with the edit that they are about."""
    bench.edit("base/strings/util.jl", CHOMP, WORLD)
    bench.append("base/strings/util.jl", ADDED)
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "basedev").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m basedev "$@"\n')
    (programs / "basedev").chmod(0o755)
    (programs / "jq").write_text("#!/bin/sh\nexec cat\n")  # not every machine has it
    (programs / "jq").chmod(0o755)
    (tmp_path / "julia").symlink_to(bench.root)
    environment = {**bench.environment, "PATH": f"{programs}:{os.environ['PATH']}", "HOME": os.fspath(tmp_path)}
    environment |= {"PYTHONPATH": os.fspath(ROOT), "XDG_CONFIG_HOME": os.fspath(tmp_path)}
    done = set()
    for one in SHOWN:
        if not one.basedev or one.reason or one.command in done or "cd " in one.command or "git " in one.command:
            continue
        done.add(one.command)
        ran = subprocess.run(
            ["bash", "-c", one.command],
            cwd=bench.root,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        expected = int(found[1]) if (found := re.search(r"exit\((\d+)\)", one.command)) else 0
        assert ran.returncode == expected, (one, ran.stderr)
        if " run " in one.command:
            assert ran.stdout == one.output, one
    assert len(done) > 20
    assert bench.basedev("hook", "status").stdout.count("absent") == 4
