"""The main job from nothing: a Julia, a checkout, its base image, three edits, Base's own tests, and what it took.

    tools/demo [DIRECTORY] [--no-full-rebuild]

DIRECTORY is where the checkout is made (default: a temporary one below the cache directory, removed afterwards). The
commands shown are those that a user types; their output is shown as it is. Images go to a cache directory of the
demonstration's own, removed afterwards, so that each is made and none is found.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.workplace import private_cache
from rich.console import Console
from rich.table import Table

from basedev.storage import cache_root

ROOT = Path(__file__).resolve().parent.parent
CONSOLE = Console(highlight=False, soft_wrap=True, markup=False)


@dataclass(frozen=True)
class Edit:
    """A text that stands once in a source file, what is put in its place, and a program that shows the difference."""

    name: str
    about: str
    path: str
    old: str
    new: str
    program: str


EDITS = (
    Edit(
        "new function",
        "a function that nothing calls yet",
        "base/strings/util.jl",
        "\n# starts with and ends with predicates\n",
        '\nshout(s::AbstractString) = uppercase(s) * "!"\n\n# starts with and ends with predicates\n',
        'println(Base.shout("it works"))',
    ),
    Edit(
        "stdlib method",
        "a method of a standard library",
        "stdlib/Base64/src/encode.jl",
        "base64encode(args...; context=nothing) =",
        'base64encode(::Nothing) = "nothing"\nbase64encode(args...; context=nothing) =',
        "using Base64; println(base64encode(nothing))",
    ),
    Edit(
        "chomp(::String)",
        "chomp(::String), on which 694 pieces of compiled code depend",
        "base/strings/util.jl",
        "function chomp(s::String)\n",
        'function chomp(s::String)\n    s == "hello" && return SubString("world")\n',
        'println(chomp("hello"))',
    ),
)


class Demo:
    """Runs commands in a checkout and remembers the seconds they took."""

    def __init__(self, checkout: Path, cache: Path) -> None:
        self.checkout = checkout
        self.environment = {**os.environ, "BASEDEV_CACHE": str(cache)}
        self.rows: list[tuple[str, float, dict[str, Any]]] = []

    def make_checkout(self) -> None:
        """Shows how a checkout is made."""
        shown = str(self.checkout).replace(str(Path.home()), "~", 1)
        self._run(f"tools/julia-checkout {shown}", [ROOT / "tools/julia-checkout", self.checkout], ROOT)
        CONSOLE.print(f"$ cd {shown}", style="bold")

    def basedev(self, *words: str) -> float:
        """Shows a command of basedev and its output. Returns its seconds; ends the demonstration when it fails."""
        return self._run(f"basedev {shlex.join(words)}", ["-m", "basedev", *words], self.checkout)

    def _run(self, shown: str, words: list[str | Path], cwd: Path) -> float:
        CONSOLE.print(f"$ {shown}", style="bold")
        begin = time.monotonic()
        done = subprocess.run([sys.executable, *words], cwd=cwd, env=self.environment, check=False)
        seconds = time.monotonic() - begin
        if done.returncode:
            sys.exit(f"the command failed with {done.returncode}")
        return seconds

    def edit(self, edit: Edit) -> None:
        """Makes an edit and shows it."""
        file = self.checkout / edit.path
        text = file.read_text()
        if text.count(edit.old) != 1 or edit.new in text:
            sys.exit(f"{file} is not as it was distributed: name another directory, or none")
        file.write_text(text.replace(edit.old, edit.new))
        CONSOLE.print(f"$ $EDITOR {edit.path}", style="bold")
        changes = difflib.unified_diff(text.splitlines(), file.read_text().splitlines(), n=1, lineterm="")
        for line in [*changes][2:]:
            CONSOLE.print(line, style={"+": "green", "-": "red"}.get(line[0], "dim"))

    def about(self) -> dict[str, Any]:
        """What basedev tells of the image for the present sources."""
        command = [sys.executable, "-m", "basedev", "--json", "build"]
        done = subprocess.run(command, cwd=self.checkout, env=self.environment, check=True, capture_output=True)
        return dict(json.loads(done.stdout))


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("directory", nargs="?", type=Path, help="where to make the checkout (default: temporary)")
    parser.add_argument("--no-full-rebuild", action="store_true", help="leave out the full rebuild (four minutes)")
    options = parser.parse_args()
    own = cache_root() / f"demo-{os.getpid()}"
    try:
        checkout = options.directory.absolute() if options.directory else own / "julia"
        run(Demo(checkout, private_cache(own)), with_full=not options.no_full_rebuild)
    finally:
        shutil.rmtree(own, ignore_errors=True)


def run(demo: Demo, *, with_full: bool) -> None:
    """The demonstration."""
    CONSOLE.rule("A Julia and a checkout of its sources")
    demo.make_checkout()
    CONSOLE.rule("The base image, once for a Julia (about a minute, if it is not there yet)")
    before = {*(cache_root() / "bases").iterdir()}
    seconds = demo.basedev("init")
    if {*(cache_root() / "bases").iterdir()} != before:
        demo.rows.append(("base image, once", seconds, {}))
    for edit in EDITS:
        CONSOLE.rule(f"An edit: {edit.about}")
        demo.edit(edit)
        demo.basedev("status")
        seconds = demo.basedev("build")
        demo.basedev("run", "--", "-e", edit.program)
        demo.rows.append((f"build: {edit.name}", seconds, demo.about()))
    CONSOLE.rule("Base's own tests on the image with all three edits")
    demo.basedev("test", "strings/basic", "strings/util")
    if with_full:
        CONSOLE.rule("For comparison, the full rebuild of the same sources, from nothing (about four minutes)")
        demo.rows.append(("full rebuild", demo.basedev("build", "--engine", "full"), {}))
    table(demo.rows, with_full=with_full)


def table(rows: list[tuple[str, float, dict[str, Any]]], *, with_full: bool) -> None:
    """What it took."""
    shown = Table("what", "seconds", "invalidated", "recompiled", *(["faster than full"] if with_full else []))
    full = rows[-1][1] if with_full else None
    for what, seconds, about in rows:
        counts = [str(about[key]) if about else "" for key in ("invalidated", "recompiled")]
        faster = f"{full / seconds:.0f} times" if full and about else ""
        shown.add_row(what, f"{seconds:.1f}", *counts, *([faster] if with_full else []))
    CONSOLE.rule("What it took; each image has the edits before it too")
    CONSOLE.print(shown, soft_wrap=False)
    if not with_full:
        CONSOLE.print("The full rebuild was left out, as asked: there is nothing to compare with.")


if __name__ == "__main__":
    main()
