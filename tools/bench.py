"""The benchmark: everything that is compared is measured in one run, on one machine, in alternation.

    tools/bench [--runs N] [--skip-full] [--markdown]

Edits are made in a checkout of the benchmark's own; images go to a cache directory of its own, so that each build
is made and none is found. The full rebuild is the three steps of Julia's own makefile with the stock binary, and
starts with nothing cached. Times of commands are those of the whole process, from its start to its exit.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markdown import Markdown

from basedev.link import linker
from basedev.newcheckout import make_checkout
from basedev.storage import Storage, cache_root

UTIL = "base/strings/util.jl"

EDITS: dict[str, tuple[str, str, str]] = {
    "new function": (UTIL, "", "\nbench_{n}(s::String) = s * s\n"),
    "`rot180(::AbstractMatrix)`": (
        "base/arraymath.jl",
        "function rot180(A::AbstractMatrix)\n",
        "function rot180(A::AbstractMatrix)\n    A === {n} && return A\n",
    ),
    "docstring of `chomp`": (UTIL, "Remove a single trailing newline", "Remove one trailing newline ({n})"),
    "`base64encode` (stdlib)": ("stdlib/Base64/src/encode.jl", "", '\nbase64encode(::Val{{{n}}}) = ""\n'),
    "`chomp(::String)`": (
        UTIL,
        "function chomp(s::String)\n",
        "function chomp(s::String)\n    ncodeunits(s) == -{n} && return SubString(s)\n",
    ),
}
"""File, what stands there ("" is its end), and what is put in its place, with a number that makes it new."""

MICRO = r"""
using Base: time_ns
function best(f, x; rounds = 60, calls = 200)
    f(x)
    minimum(1:rounds) do _
        begin_ns = time_ns()
        for _ in 1:calls; f(x); end
        (time_ns() - begin_ns) / calls
    end
end
numbers = [string(i) for i in 1:200]
words = split("the quick brown fox jumps over the lazy dog "^8)
for (name, f, x) in (
        ("parse(Int, s)", x -> (s = 0; for w in x; s += parse(Int, w); end; s), numbers),
        ("split(s)", x -> split(x, ' '), join(words, ' ')),
        ("sort!(copy(v))", x -> sort!(copy(x)), [mod(7919i, 1009) for i in 1:300]),
        ("Dict insert", x -> (d = Dict{String,Int}(); for w in x; d[w] = 1; end; d), numbers),
        ("join(v)", x -> join(x, ','), words),
        ("string(i)", x -> (n = 0; for i in x; n += ncodeunits(string(i)); end; n), 1:200),
        ("chomp(s), edited", x -> (n = 0; for w in x; n += ncodeunits(chomp(w)); end; n), numbers .* "\n"))
    println(name, '\t', best(f, x))
end
"""


@dataclass
class Measured:
    """Seconds of several runs of one thing."""

    seconds: list[float] = field(default_factory=list)
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> str:
        """The least and the most."""
        return f"{min(self.seconds):.2f}-{max(self.seconds):.2f}"


class Workplace:
    """A checkout and a cache of the benchmark's own. What basedev makes once (Julia, host, base image) is shared."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.cache = root / "cache"
        self.cache.mkdir(parents=True)
        for kind in ("julia", "hosts", "bases"):
            (cache_root() / kind).mkdir(parents=True, exist_ok=True)
            (self.cache / kind).symlink_to(cache_root() / kind)
        self.checkout = make_checkout(root / "julia", Storage()).path
        self.basedev("init")

    def basedev(self, *words: str) -> dict[str, Any]:
        """Runs a command with `--json`. Returns its object, with the seconds that the process took."""
        begin = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "basedev", "--json", *words],
            cwd=self.checkout,
            env={**os.environ, "BASEDEV_CACHE": str(self.cache)},
            capture_output=True,
            text=True,
            check=False,
        )
        seconds = time.monotonic() - begin
        if done.returncode:
            sys.exit(f"basedev {' '.join(words)} failed:\n{done.stderr}")
        return {**json.loads(done.stdout), "seconds": seconds}

    @contextmanager
    def edited(self, name: str, number: int) -> Iterator[None]:
        """The checkout with one of EDITS in it."""
        path, old, new = EDITS[name]
        file = self.checkout / path
        before = file.read_text()
        new = new.format(n=number)
        file.write_text(before.replace(old, new, 1) if old else before + new)
        try:
            yield
        finally:
            file.write_text(before)

    def julia(self, image: Path, code: str) -> str:
        """What a program prints on an image."""
        command = [str(self.checkout / "usr/bin/julia"), "-J", str(image), "--startup-file=no", "-e", code]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def measure_edits(place: Workplace, runs: int, say: Callable[[str], None]) -> dict[str, Measured]:
    """Command to published image, by edit; the edits take turns."""
    measured: dict[str, Measured] = {name: Measured() for name in EDITS}
    for run in range(runs):
        for name in EDITS:
            with place.edited(name, run + 2):
                built = place.basedev("build", "--no-full-rebuild")
            assert built["status"] == "built" and built["engine"] == "stock-1.5"
            measured[name].seconds.append(built["seconds"])
            measured[name].about = built
            say(f"{name}: {built['seconds']:.2f} s")
            shutil.rmtree(place.cache / "images")
    return measured


def measure_full(place: Workplace, say: Callable[[str], None]) -> Measured:
    """The full rebuild, once, from nothing."""
    say("the full rebuild, about four minutes ...")
    with place.edited("new function", 1):
        built = place.basedev("build", "--engine", "full")
    say(f"full rebuild: {built['seconds']:.0f} s")
    return Measured([built["seconds"]], built)


def measure_start(base: Path, chained: Path, place: Workplace, pairs: int) -> tuple[Measured, Measured]:
    """Start-up of Julia on two images, in alternation."""
    both = Measured(), Measured()
    for _ in range(pairs + 1):
        for measured, image in zip(both, (base, chained), strict=True):
            begin = time.monotonic()
            place.julia(image, "nothing")
            measured.seconds.append(time.monotonic() - begin)
    for measured in both:
        measured.seconds.pop(0)  # the files were not in memory yet
    return both


def measure_code(base: Path, chained: Path, place: Workplace, rounds: int) -> dict[str, tuple[float, float]]:
    """Nanoseconds of functions on two images: the best of several processes in alternation."""
    best: dict[str, list[float]] = {}
    for _ in range(rounds):
        for which, image in enumerate((base, chained)):
            for line in place.julia(image, MICRO).splitlines():
                name, nanoseconds = line.split("\t")
                times = best.setdefault(name, [float("inf"), float("inf")])
                times[which] = min(times[which], float(nanoseconds))
    return {name: (times[0], times[1]) for name, times in best.items()}


def machine() -> str:
    """A line on where this was measured."""
    cpu = next(
        (line.split(": ", 1)[1] for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.machine(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} cores ({cpu}), {memory:.0f} GiB, Julia 1.5.3, linker {linker()}"


def report(
    edits: dict[str, Measured],
    full: Measured | None,
    start: tuple[Measured, Measured],
    code: dict[str, tuple[float, float]],
) -> str:
    """The tables, in Markdown."""
    lines = [
        machine(),
        "",
        "| command to image | median s | least-most | invalidated | recompiled | faster than full |",
    ]
    lines.append("|---|---|---|---|---|---|")
    for name, one in edits.items():
        faster = f"{full.median / one.median:.0f} times" if full else "not measured"
        counts = f"{one.about['invalidated']} | {one.about['recompiled']}"
        lines.append(f"| {name} | {one.median:.2f} | {one.spread} | {counts} | {faster} |")
    if full:
        lines.append(f"| full rebuild | {full.median:.0f} | once | | | 1 |")
    peak = max(one.about["peak_memory"] for one in edits.values()) / 2**20
    tree = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**10
    base, chained = start
    lines += [
        "",
        f"Start-up of Julia: base image {base.median:.3f} s, chained image {chained.median:.3f} s, "
        f"ratio {chained.median / base.median:.3f} (medians of {len(base.seconds)} pairs).",
        "",
        f"Peak memory: {peak:.0f} MiB in the engine's host for the heaviest of these edits; "
        f"{tree:.0f} MiB in the largest process of all, the full rebuild included.",
        "",
        "| function | base ns | chained ns | ratio |",
        "|---|---|---|---|",
        *(f"| {name} | {a:.0f} | {b:.0f} | {b / a:.3f} |" for name, (a, b) in code.items()),
    ]
    return "\n".join(lines)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--runs", type=int, default=3, help="builds of each edit (default 3)")
    parser.add_argument("--skip-full", action="store_true", help="leave out the full rebuild (four minutes)")
    parser.add_argument("--markdown", action="store_true", help="print the tables as Markdown source")
    options = parser.parse_args()
    err = Console(stderr=True, highlight=False)
    root = cache_root() / f"bench-{os.getpid()}"
    try:
        place = Workplace(root)
        edits = measure_edits(place, options.runs, err.print)
        full = None if options.skip_full else measure_full(place, err.print)
        base = Path(place.basedev("build")["image"])
        with place.edited("`chomp(::String)`", 1):
            chained = Path(place.basedev("build", "--no-full-rebuild")["image"])
        err.print("start-up and run-time, in alternation ...")
        start = measure_start(base, chained, place, 20)
        code = measure_code(base, chained, place, 8)
        text = report(edits, full, start, code)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    if options.markdown:
        print(text)
    else:
        Console().print(Markdown(text))


if __name__ == "__main__":
    main()
