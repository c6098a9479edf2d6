"""The main job from nothing: a Julia, a checkout, its base image, three edits, Base's own tests, and what it took.

    tools/demo [DIRECTORY] [--no-full-rebuild]

DIRECTORY is where the checkout is made (default: a temporary one, removed afterwards). The commands shown are those
that a user types; their output is shown as it is.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
CONSOLE = Console(highlight=False, soft_wrap=True)

EDITS = (
    (
        "new function",
        "a function that nothing calls yet",
        "base/strings/util.jl",
        "\n# starts with and ends with predicates\n",
        '\nshout(s::AbstractString) = uppercase(s) * "!"\n',
        'println(Base.shout("it works"))',
    ),
    (
        "stdlib method",
        "a method of a standard library",
        "stdlib/Base64/src/encode.jl",
        "base64encode(args...; context=nothing) =",
        'base64encode(::Nothing) = "nothing"\nbase64encode(args...; context=nothing) =',
        "using Base64; println(base64encode(nothing))",
    ),
    (
        "chomp(::String)",
        "chomp(::String), which 694 compiled functions depend on",
        "base/strings/util.jl",
        "function chomp(s::String)\n",
        'function chomp(s::String)\n    s == "hello" && return SubString("world")\n',
        'println(chomp("hello"))',
    ),
)


class Demo:
    """Runs commands in a checkout and remembers the seconds they took."""

    def __init__(self, checkout: Path) -> None:
        self.checkout = checkout
        self.rows: list[tuple[str, float, dict[str, Any]]] = []

    def show(self, *words: str | Path, cwd: Path | None = None) -> float:
        """Shows a command and its output. Ends the demonstration when it fails."""
        CONSOLE.print(f"[bold]$ {shlex.join(self._shown(word) for word in words)}[/]")
        begin = time.monotonic()
        done = subprocess.run([os.fspath(word) for word in words], cwd=cwd, check=False)
        seconds = time.monotonic() - begin
        if done.returncode:
            sys.exit(f"the command failed with {done.returncode}")
        return seconds

    def basedev(self, *words: str) -> float:
        """Shows a command of basedev."""
        CONSOLE.print(f"[bold]$ basedev {shlex.join(words)}[/]")
        begin = time.monotonic()
        done = subprocess.run([sys.executable, "-m", "basedev", *words], cwd=self.checkout, check=False)
        seconds = time.monotonic() - begin
        if done.returncode:
            sys.exit(f"the command failed with {done.returncode}")
        return seconds

    def about(self) -> dict[str, Any]:
        """What basedev tells of the image for the present sources."""
        command = [sys.executable, "-m", "basedev", "--json", "build"]
        return dict(json.loads(subprocess.run(command, cwd=self.checkout, check=True, capture_output=True).stdout))

    @staticmethod
    def _shown(word: str | Path) -> str:
        return os.path.relpath(word) if isinstance(word, Path) else word


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("directory", nargs="?", type=Path, help="where to make the checkout (default: temporary)")
    parser.add_argument("--no-full-rebuild", action="store_true", help="leave out the full rebuild (four minutes)")
    options = parser.parse_args()
    if options.directory:
        run(Demo(options.directory.absolute()), with_full=not options.no_full_rebuild)
        return
    with tempfile.TemporaryDirectory(prefix="basedev-demo-") as temporary:
        run(Demo(Path(temporary) / "julia"), with_full=not options.no_full_rebuild)


def run(demo: Demo, *, with_full: bool) -> None:
    """The demonstration."""
    CONSOLE.rule("A Julia and a checkout of its sources")
    demo.show(sys.executable, ROOT / "tools/julia-checkout", demo.checkout)
    CONSOLE.rule("The base image, once for a Julia (about a minute)")
    demo.rows.append(("base image, once", demo.basedev("init"), {}))
    for short, what, path, old, new, code in EDITS:
        CONSOLE.rule(f"An edit: {what}")
        file = demo.checkout / path
        text = file.read_text()
        if text.count(old) != 1:
            sys.exit(f"{file} is not as it was distributed: name another directory, or none")
        file.write_text(text.replace(old, new))
        demo.basedev("status")
        seconds = demo.basedev("build")
        demo.basedev("run", "--", "-e", code)
        demo.rows.append((f"build: {short}", seconds, demo.about()))
    CONSOLE.rule("Base's own tests on the image with all three edits")
    demo.basedev("test", "strings/basic", "strings/util")
    if with_full:
        CONSOLE.rule("For comparison, the full rebuild of the same sources (about four minutes)")
        demo.rows.append(("full rebuild", demo.basedev("build", "--engine", "full"), {}))
    table(demo.rows, with_full=with_full)


def table(rows: list[tuple[str, float, dict[str, Any]]], *, with_full: bool) -> None:
    """What it took."""
    shown = Table("what", "seconds", "invalidated", "recompiled", "faster than full")
    full = rows[-1][1] if with_full else None
    for what, seconds, about in rows:
        counts = [str(about[key]) if about else "" for key in ("invalidated", "recompiled")]
        faster = f"{full / seconds:.0f} times" if full and about else ""
        shown.add_row(what, f"{seconds:.1f}", *counts, faster)
    CONSOLE.print(shown, soft_wrap=False)
    if not with_full:
        CONSOLE.print("The full rebuild was left out, as asked: nothing to compare with.")


if __name__ == "__main__":
    main()
