"""What edits cost on a source checkout of current Julia that was built with the patches: from command to image.

    tools/bench-patched ~/julia
    tools/bench-patched ~/julia --runs 5 --edits leaf lpad --ways warm
    tools/bench-patched ~/julia --make

Cold is without a server; before a warm build, the server has some seconds to get ready, as between two saves.
Each edit has a number in it, so that each build is made and none is found. Edited files get their contents and times
back, so that the checkout's own make finds nothing to do. With --make, that builds the system image of the new function
once in the same run, a quarter of an hour, and the images that were there are put back.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmark.edits import Change, Edit, below
from benchmark.measure import machine
from benchmark.tables import table
from benchmark.workplace import edited

from basedev.engines.patched.makefile import make_aside

UTIL = "base/strings/util.jl"
LPAD = """function lpad(
    s::Union{AbstractChar,AbstractString},
    n::Integer,
    p::Union{AbstractChar,AbstractString}=' ',
)
"""
CHOMP = "function chomp(s::AbstractString)\n"
PRINT = "function print_to_string(xs...)\n"

TFUNCS = "Compiler/src/tfuncs.jl"
THROWS = "    f === Intrinsics.cglobal && return Any\n"

WAYS = ("cold", "warm")

PAUSE = 5.0
"""Seconds before a warm build."""

STEPS = ("revise", "infer", "compile", "link")

EDITS = {
    edit.name: edit
    for edit in (
        Edit("leaf", "new function", (Change(UTIL, "", "\nbench_{n}(s::String) = s * s\n"),)),
        Edit("docstring", "docstring", (Change(UTIL, "Remove a single trailing newline", "Remove one newline ({n})"),)),
        Edit("chomp", "`chomp(::AbstractString)`", below(UTIL, CHOMP, "    s === {n} && return s\n")),
        Edit("lpad", "`lpad`", below(UTIL, LPAD, '    n == -{n} && return ""\n')),
        Edit("compiler", "`intrinsic_exct` of the compiler", below(TFUNCS, THROWS, "    f === {n} && return Any\n")),
        Edit("print", "`print_to_string`", below("base/strings/io.jl", PRINT, '    xs === ({n},) && return "{n}"\n')),
    )
}


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--runs", type=int, default=3, metavar="N", help="builds of each edit (default 3)")
    parser.add_argument("--edits", nargs="+", choices=EDITS, default=list(EDITS), metavar="EDIT")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), metavar="WAY", help="cold, warm")
    parser.add_argument("--engine", default="patched", help="of basedev build: patched-no-cutoff goes by Julia's rule")
    parser.add_argument("--make", action="store_true", help="measure the checkout's own make too")
    arguments = parser.parse_args()
    root = arguments.checkout.resolve()
    ready = subprocess.run([sys.executable, "-m", "basedev", "-C", root, "init"], check=False)
    if ready.returncode:
        return ready.returncode
    for change in (one for name in arguments.edits for one in EDITS[name].changes if one.old):
        if (root / change.path).read_text().count(change.old) != 1:
            sys.exit(f"{change.path} has not exactly one {change.old!r}")
    version = (root / "VERSION").read_text().strip()
    print(f"{machine().rpartition(', Julia')[0]}, Julia {version}; median (least to most) of {arguments.runs}\n")
    make = _make(root) if arguments.make else None
    if "warm" in arguments.ways:
        _basedev(root, "serve", "start")
    rows = [_row(EDITS[name], way, root, arguments, make) for name in arguments.edits for way in arguments.ways]
    print(table(("edit", "way", "seconds", "make ÷", *STEPS, "invalidated"), rows))
    if make:
        print(f"\nIn the same run, `make` of the new function: {make:.0f} s, once.")
    return 0


def _make(root: Path) -> float:
    """Seconds that the checkout's own make takes."""
    edit = EDITS["leaf"]
    with edited(root, edit.numbered(1)), tempfile.TemporaryDirectory() as made:
        begin = time.monotonic()
        make_aside(root, [change.path for change in edit.changes], Path(made) / "sys.so")
        return time.monotonic() - begin


def _row(edit: Edit, way: str, root: Path, arguments: argparse.Namespace, make: float | None) -> list[str]:
    numbers = (time.time_ns() // 1_000_000 % 10**9 for _ in range(arguments.runs))
    built = [_build(edit, way, root, number, arguments.engine) for number in numbers]
    took = [one["seconds"] for one in built]
    spread = f"{statistics.median(took):.2f} ({min(took):.2f}\N{EN DASH}{max(took):.2f})"
    steps = [f"{statistics.median(one['timings'][step] for one in built):.2f}" for step in STEPS]
    ratio = f"{make / statistics.median(took):.0f}" if make else ""
    return [edit.title, way, spread, ratio, *steps, str(built[-1]["invalidated"])]


def _build(edit: Edit, way: str, root: Path, number: int, engine: str) -> dict[str, Any]:
    server = "--server" if way == "warm" else "--no-server"
    if way == "warm":
        time.sleep(PAUSE)
    with edited(root, edit.numbered(number)):
        begin = time.monotonic()
        built = _basedev(root, "build", "--no-full-rebuild", "--engine", engine, server)
        seconds = time.monotonic() - begin
    if built["status"] != "built":
        sys.exit(f"{edit.name}: the image was there before")
    if built["server"] != ("used" if way == "warm" else "off"):
        sys.exit(f"{edit.name}: the server was not used: {built['server']}")
    return {**built, "seconds": seconds}


def _basedev(root: Path, *words: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "basedev", "-C", str(root), "--json", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"basedev {' '.join(words)}: {done.stdout or done.stderr}")
    return dict(json.loads(done.stdout))


if __name__ == "__main__":
    sys.exit(main())
