"""The benchmark: everything that is compared is measured in one run, on one machine, in alternation.

    tools/bench                             # the light edits, start-up and run-time, the full rebuild: ten minutes
    tools/bench --skip-full --runs 1        # whether a change made something slower, and in which step: three minutes
    tools/bench --all --update              # everything, into the documents: most of an hour

Edits are made in a checkout of the benchmark's own; images go to a cache directory of its own, and each edit has a
number in it, so that each build is made and none is found. The full rebuild is the three steps of Julia's own makefile
with the stock binary, and starts with nothing cached. Times of commands are those of the whole process, from its start
to its exit. "Cold" is without a warm server; the files are in the kernel's memory either way. Each edit is built once
more than is counted: that first time, memory is measured instead, which takes time itself.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from benchmark import tables
from benchmark.edits import BY_NAME, LIGHT, STEPS
from benchmark.measure import BEFORE, COLD, JULIA, WARM, Measuring, Results, machine
from benchmark.plot import draw
from benchmark.workplace import Workplace
from rich.console import Console
from rich.markdown import Markdown

from basedev.storage import cache_root

ROOT = Path(__file__).resolve().parent.parent

QUICK = ("edits", "result", "watch")
PARTS = (*QUICK, "growth", "successive")
"""What is measured unless something else is asked for; all that can be."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--runs", type=int, default=3, metavar="N", help="builds of each edit (default 3)")
    add(
        "--edits", nargs="+", metavar="EDIT", help=f"some of {', '.join(BY_NAME)}; or all (default: {', '.join(LIGHT)})"
    )
    add(
        "--only",
        nargs="+",
        choices=PARTS,
        metavar="PART",
        help=f"some of {', '.join(PARTS)} (default: {', '.join(QUICK)})",
    )
    add("--all", action="store_true", help="all edits and all parts")
    add("--skip-full", action="store_true", help="leave out the full rebuild and the re-dump (seven minutes)")
    add("--growth", type=int, nargs="+", default=(1, 10, 100, 1000), metavar="N", help="numbers of definitions")
    add("--successive", type=int, default=200, metavar="N", help="successive edits (default 200)")
    add("--before", metavar="COMMIT", help=f"measure basedev of this commit too, beside it, of {', '.join(STEPS)}")
    add("--markdown", action="store_true", help="print the tables as Markdown source")
    add("--json", type=Path, metavar="FILE", help="write all that was measured to a file")
    add("--from", dest="source", type=Path, metavar="FILE", help="measure nothing, show what --json wrote")
    add(
        "--update",
        type=Path,
        nargs="?",
        const=ROOT,
        metavar="DIR",
        help="write tables and picture to README.md and docs/ (of DIR); what was not measured in full stays as it is",
    )
    return parser


def measure(options: argparse.Namespace, say: Callable[[str], None], keep: Callable[[Results], None]) -> Results:
    """Does what was asked for. What there is after each long part is handed to `keep`."""
    chosen = options.edits or (["all"] if options.all else LIGHT)
    edits = [edit for name, edit in BY_NAME.items() if name in chosen or "all" in chosen]
    parts = options.only or (PARTS if options.all else QUICK)
    results = Results(machine(), os.getloadavg()[0], options.runs, options.before or "")
    if results.load > 0.5:
        say(f"other programs are running (load {results.load:.1f}): expect longer times than on a quiet machine")
    root = cache_root() / f"bench-{os.getpid()}"
    with ExitStack() as stack:
        place = stack.enter_context(Workplace(root, ROOT))
        before = None
        if options.before:
            archive = root / "before.tar"
            git = ["git", "-C", str(ROOT), "archive", "-o", str(archive), options.before, "basedev"]
            subprocess.run(git, check=True)
            shutil.unpack_archive(archive, root / "before")
            before = stack.enter_context(Workplace(root / "older", root / "before"))
        measuring = Measuring(place, before, say)
        if "edits" in parts:
            results.ways = measuring.ways(edits, options.runs, (*((BEFORE,) if before else ()), JULIA, COLD, WARM))
            keep(results)
            if not options.skip_full:
                results.full, results.redump = measuring.full(), measuring.redump()
                keep(results)
        if "watch" in parts:
            results.watch = measuring.watch(options.runs)
        if "growth" in parts:
            results.growth = measuring.growth(options.growth, options.runs)
            keep(results)
        if "successive" in parts:
            results.successive = measuring.successive(options.successive)
            keep(results)
        if "result" in parts:
            base, chained = measuring.images()
            results.start = measuring.start(base, chained, 20)
            results.code = measuring.code(base, chained, 16)
            results.switch = measuring.switch(10)  # it makes commits: nothing else comes after it
    keep(results)
    return results


def main() -> None:
    """The command."""
    parser = _parser()
    options = parser.parse_args()
    if unknown := set(options.edits or ()) - {"all", *BY_NAME}:
        parser.error(f"there are no edits {', '.join(sorted(unknown))}; there are {', '.join(BY_NAME)}")
    if options.runs < 1:
        parser.error("--runs is 1 or more")
    for number in (signal.SIGINT, signal.SIGTERM):  # so that all is put away
        signal.signal(number, signal.default_int_handler)
    err = Console(stderr=True, highlight=False, markup=False)

    def keep(results: Results) -> None:
        if options.json:
            options.json.write_text(json.dumps(asdict(results), indent=1) + "\n")

    if options.source:
        results = Results.from_json(json.loads(options.source.read_text()))
    else:
        results = measure(options, err.print, keep)
    if options.update:
        lacking = tables.update(options.update, results)
        for name, what in lacking.items():
            err.print(f"the table {name} stays as it was: it wants {what}")
        if "ways" not in lacking:
            draw(results, options.update / tables.PICTURE)
    text = tables.shown(results)
    if options.markdown:
        print(text)
    else:
        Console().print(Markdown(text))


if __name__ == "__main__":
    main()
