"""The benchmark: everything that is compared is measured in one run, on one machine, in alternation.

    tools/bench [--runs N] [--skip-full] [--markdown] [--update] [--json FILE]

Edits are made in a checkout of the benchmark's own; images go to a cache directory of its own, so that each build
is made and none is found. The full rebuild is the three steps of Julia's own makefile with the stock binary, and
starts with nothing cached. Times of commands are those of the whole process, from its start to its exit. Each edit
is built once more than is counted: that first time, memory is measured instead, which takes time itself.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markdown import Markdown

from basedev.distribution import JULIA_VERSION
from basedev.link import linker
from basedev.newcheckout import make_checkout
from basedev.storage import Storage, cache_root

UTIL = "base/strings/util.jl"
CHOMP = "`chomp(::String)`"
LPAD = "`lpad`"

EDITS: dict[str, tuple[str, str, str]] = {
    "new function": (UTIL, "", "\nbench_{n}(s::String) = s * s\n"),
    "`rot180(::AbstractMatrix)`": (
        "base/arraymath.jl",
        "function rot180(A::AbstractMatrix)\n",
        "function rot180(A::AbstractMatrix)\n    A === {n} && return A\n",
    ),
    "docstring of `chomp`": (UTIL, "Remove a single trailing newline", "Remove one trailing newline ({n})"),
    "`base64encode` (stdlib)": ("stdlib/Base64/src/encode.jl", "", '\nbase64encode(::Val{{{n}}}) = ""\n'),
    LPAD: (
        UTIL,
        "    m = signed(n) - length(s)\n",
        '    n == -{n} && return ""\n    m = signed(n) - length(s)\n',
    ),
    CHOMP: (
        UTIL,
        "function chomp(s::String)\n",
        "function chomp(s::String)\n    ncodeunits(s) == -{n} && return SubString(s)\n",
    ),
}
"""File, what stands there ("" is its end), and what is put in its place, with a number that makes it new."""

SAME_CODE: dict[str, tuple[str, str, str]] = {
    LPAD: (UTIL, "    m = signed(n) - length(s)\n", "    m = signed(n) - length(s) + 0\n"),
    CHOMP: (
        UTIL,
        "function chomp(s::String)\n    i = lastindex(s)\n",
        "function chomp(s::String)\n    i = lastindex(s) + 0\n",
    ),
}
"""Edits that make other code for Julia and none for the machine, to compare the speed of what is compiled anew."""

STEPS = ("new function", LPAD, CHOMP)
"""The edits whose time is told step by step."""

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = {"numbers": ROOT / "README.md", "steps": ROOT / "docs/how-it-works.md"}
"""Where tables stand that were measured."""

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
        ("chomp(s), edited", x -> (n = 0; for w in x; n += ncodeunits(chomp(w)); end; n), numbers .* "\n"),
        ("lpad(s, 5), edited", x -> (n = 0; for w in x; n += ncodeunits(lpad(w, 5)); end; n), numbers))
    println(name, '\t', best(f, x))
end
"""


@dataclass
class Measured:
    """Seconds of several runs of one thing."""

    seconds: list[float] = field(default_factory=list)
    about: dict[str, Any] = field(default_factory=dict)
    """What `--json` told of the last run."""
    timings: list[dict[str, float]] = field(default_factory=list)
    memory: dict[str, int] = field(default_factory=dict)
    """Bytes: of the engine's host, of the largest process, and of all processes of the command together."""

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> str:
        """The least and the most."""
        return f"{min(self.seconds):.2f}-{max(self.seconds):.2f}"

    def step(self, name: str) -> float:
        """The median seconds of one step."""
        return statistics.median(one[name] for one in self.timings)

    def add(self, built: dict[str, Any]) -> None:
        """One more run."""
        self.seconds.append(built["seconds"])
        self.timings.append(built["timings"])
        self.about = built


class MemoryWatch(threading.Thread):
    """The most memory that a process and its descendants have together at one time.

    Memory that processes share is counted once: the sum is of their proportional set sizes (PSS).
    """

    def __init__(self, process: int) -> None:
        super().__init__(daemon=True)
        self.peak = 0
        self._process = process
        self._over = threading.Event()

    def run(self) -> None:
        """Looks again and again until `stop`."""
        while not self._over.wait(0.02):
            self.peak = max(self.peak, sum(map(_proportional_set_size, _family(self._process))))

    def stop(self) -> int:
        """Ends the watch and returns the peak in bytes."""
        self._over.set()
        self.join()
        return self.peak


def _family(ancestor: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            with suppress(OSError):
                parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(process.name))
    family = [ancestor]
    for one in family:
        family += children.get(one, [])
    return family


def _proportional_set_size(process: int) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) << 10
    return 0


def private_cache(root: Path) -> Path:
    """A cache directory in `root` that has in common with the user's what is made once: Julia, host, base image."""
    cache = root / "cache"
    cache.mkdir(parents=True)
    for kind in ("julia", "hosts", "bases"):
        (cache_root() / kind).mkdir(parents=True, exist_ok=True)
        (cache / kind).symlink_to(cache_root() / kind)
    return cache


class Workplace:
    """A checkout and a cache of the benchmark's own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.cache = private_cache(root)
        self.checkout = make_checkout(root / "julia", Storage()).path
        self.base_id = self.basedev("init")["base_id"]

    def basedev(self, *words: str, watch: bool = False) -> dict[str, Any]:
        """Runs a command with `--json`. Returns its object, with the `seconds` that the process took, the size of the
        `largest` process, and, if it is to be watched, that of `all` together (bytes)."""
        with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as messages:
            begin = time.monotonic()
            running = subprocess.Popen(
                [sys.executable, "-m", "basedev", "--json", *words],
                cwd=self.checkout,
                env={**os.environ, "BASEDEV_CACHE": str(self.cache)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=messages,
            )
            memory = MemoryWatch(running.pid)
            if watch:
                memory.start()
            # Not wait(): the kernel tells with the exit status what this process and those it waited for had.
            _, status, usage = os.wait4(running.pid, 0)
            seconds = time.monotonic() - begin
            running.returncode = os.waitstatus_to_exitcode(status)
            peak = memory.stop() if watch else 0
            output.seek(0)
            messages.seek(0)
            if running.returncode:
                sys.exit(f"basedev {' '.join(words)} failed:\n{messages.read()}")
            told = json.loads(output.read())
        return {**told, "seconds": seconds, "largest": usage.ru_maxrss << 10, "all": peak}

    @contextmanager
    def edited(self, *edits: tuple[str, str, str], number: int = 1) -> Iterator[None]:
        """The checkout with some edits in it."""
        files = {self.checkout / path for path, _, _ in edits}
        before = {file: file.read_text() for file in files}
        try:
            for path, old, new in edits:
                file, new = self.checkout / path, new.format(n=number)
                text = file.read_text()
                assert old in text
                file.write_text(text.replace(old, new, 1) if old else text + new)
            yield
        finally:
            for file, text in before.items():
                file.write_text(text)

    def julia(self, image: Path, code: str) -> str:
        """What a program prints on an image."""
        command = [str(self.checkout / "usr/bin/julia"), "-J", str(image), "--startup-file=no", "-e", code]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def measure_edits(place: Workplace, runs: int, say: Callable[[str], None]) -> dict[str, Measured]:
    """Command to published image, by edit; the edits take turns."""
    measured: dict[str, Measured] = {name: Measured() for name in EDITS}
    for run in range(runs + 1):
        for name, one in measured.items():
            with place.edited(EDITS[name], number=run + 2):
                built = place.basedev("build", "--no-full-rebuild", watch=run == 0)
            assert built["status"] == "built" and built["engine"] == "stock-1.5"
            if built["base_id"] != place.base_id:
                sys.exit("basedev itself was changed meanwhile: measure again")
            shutil.rmtree(place.cache / "images")
            if run:
                one.add(built)
                say(f"{name}: {built['seconds']:.2f} s")
            else:
                one.memory = {"host": built["peak_memory"], "largest": built["largest"], "all": built["all"]}
                say(f"{name}: {one.memory['all'] >> 20} MiB")
    return measured


def measure_full(place: Workplace, say: Callable[[str], None]) -> Measured:
    """The full rebuild, once, from nothing."""
    say("the full rebuild, about four minutes ...")
    full = Measured()
    with place.edited(EDITS["new function"]):
        built = place.basedev("build", "--engine", "full")
    say(f"full rebuild: {built['seconds']:.0f} s")
    full.add(built)
    full.memory = {"largest": built["largest"]}
    return full


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


def measure_switch(place: Workplace, switches: int) -> tuple[Measured, Measured]:
    """From `git switch` to the end of a Julia that does nothing, where both branches were built before; beside it that
    Julia alone."""
    git = ["git", "-C", str(place.checkout), "-c", "user.name=bench", "-c", "user.email=bench@localhost"]
    main = subprocess.run([*git, "branch", "--show-current"], check=True, capture_output=True, text=True).stdout.strip()
    subprocess.run([*git, "switch", "-qc", "topic"], check=True)
    images = {}
    for branch, path in (("topic", "base/sort.jl"), (main, "base/set.jl")):
        subprocess.run([*git, "switch", "-q", branch], check=True)
        with (place.checkout / path).open("a") as file:
            file.write(f"\nbench_branch() = {path!r}\n".replace("'", '"'))
        subprocess.run([*git, "commit", "-qam", "bench"], check=True)
        images[branch] = Path(place.basedev("build", "--no-full-rebuild")["image"])
    switched, alone = Measured(), Measured()
    for number in range(switches + 1):
        branch = ("topic", main)[number % 2]
        begin = time.monotonic()
        subprocess.run([*git, "switch", "-q", branch], check=True)
        place.basedev("run", "--", "--startup-file=no", "-e", "nothing")
        switched.seconds.append(time.monotonic() - begin)
        begin = time.monotonic()
        place.julia(images[branch], "nothing")
        alone.seconds.append(time.monotonic() - begin)
    for measured in (switched, alone):
        measured.seconds.pop(0)
    return switched, alone


def measure_code(base: Path, chained: Path, place: Workplace, rounds: int) -> dict[str, tuple[float, float]]:
    """Nanoseconds of functions on two images: the medians of processes in alternation, each of which tells its best."""
    measured: dict[str, tuple[list[float], list[float]]] = {}
    for _ in range(rounds):
        for which, image in enumerate((base, chained)):
            for line in place.julia(image, MICRO).splitlines():
                name, nanoseconds = line.split("\t")
                measured.setdefault(name, ([], []))[which].append(float(nanoseconds))
    return {name: (statistics.median(a), statistics.median(b)) for name, (a, b) in measured.items()}


def machine() -> str:
    """A line on where this was measured."""
    cpu = next(
        (line.split(": ", 1)[1] for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.machine(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} cores ({cpu}), {memory:.0f} GiB, Julia {JULIA_VERSION}, linker {linker()}"


def report(
    edits: dict[str, Measured],
    full: Measured | None,
    start: tuple[Measured, Measured],
    switch: tuple[Measured, Measured],
    code: dict[str, tuple[float, float]],
) -> str:
    """The tables, in Markdown."""
    runs = len(next(iter(edits.values())).seconds)
    lines = [
        f"{machine()}; medians of {runs} runs.",
        "",
        "| command to image | s | least-most | faster than full | invalidated | recompiled | memory, MiB |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for name, one in edits.items():
        faster = f"{full.median / one.median:.0f} times" if full else "not measured"
        counts = f"{one.about['invalidated']} | {one.about['recompiled']} | {one.memory['all'] >> 20}"
        lines.append(f"| {name} | {one.median:.2f} | {one.spread} | {faster} | {counts} |")
    if full:
        lines.append(f"| full rebuild | {full.median:.0f} | once | | | | {full.memory['largest'] >> 20} |")
    base, chained = start
    lines += [
        "",
        "Memory is the peak of all processes of the command together"
        + (", for the full rebuild that of its largest process." if full else "."),
        "",
        f"Start-up of Julia: {base.median:.3f} s on the base image, {chained.median:.3f} s on the chained image, "
        f"ratio {chained.median / base.median:.3f} (medians of {len(base.seconds)} pairs).",
        "",
        f"From `git switch` to a Julia that has ended, by `basedev run` on a branch that was built before: "
        f"{switch[0].median:.2f} s, of which that Julia alone is {switch[1].median:.2f} s (medians of "
        f"{len(switch[0].seconds)}).",
        "",
        "The speed of code, of functions that kept theirs and of two that were compiled anew from an edited source "
        "that means the same:",
        "",
        "| function | base image, ns | chained image, ns | ratio |",
        "|---|--:|--:|--:|",
        *(f"| {name} | {a:.0f} | {b:.0f} | {b / a:.3f} |" for name, (a, b) in code.items()),
    ]
    return "\n".join(lines)


def steps(edits: dict[str, Measured]) -> str:
    """Where the time of some edits goes, in Markdown."""
    shown = [edits[name] for name in STEPS]
    named = [step for step in shown[0].timings[0] if step != "total"]
    rows = [(step, [one.step(step) for one in shown]) for step in named]
    rows.append(("the rest", [one.median - sum(map(one.step, named)) for one in shown]))
    rows.append(("the command", [one.median for one in shown]))
    lines = [f"| step | {' | '.join(STEPS)} |", "|---|" + "--:|" * len(STEPS)]
    lines += [f"| {step} | {' | '.join(f'{seconds:.2f}' for seconds in row)} |" for step, row in rows]
    return "\n".join(lines)


def update(file: Path, name: str, text: str) -> None:
    """Replaces what was measured in a document, which stands between two comments."""
    begin, end = f"<!-- measured: {name} -->\n", "<!-- end -->\n"
    before, _, rest = file.read_text().partition(begin)
    file.write_text(before + begin + text + "\n" + end + rest.partition(end)[2])


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--runs", type=int, default=3, help="builds of each edit (default 3)")
    parser.add_argument("--skip-full", action="store_true", help="leave out the full rebuild (four minutes)")
    parser.add_argument("--markdown", action="store_true", help="print the tables as Markdown source")
    parser.add_argument("--update", action="store_true", help="write the tables into README.md and docs/")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all that was measured to a file")
    options = parser.parse_args()
    if options.update and options.skip_full:
        parser.error("README.md compares with the full rebuild: --update can't do with --skip-full")
    err = Console(stderr=True, highlight=False)
    load = os.getloadavg()[0]
    if load > 0.5:
        err.print(f"other programs are running (load {load:.1f}): expect longer times than on a quiet machine")
    root = cache_root() / f"bench-{os.getpid()}"
    try:
        place = Workplace(root)
        edits = measure_edits(place, options.runs, err.print)
        full = None if options.skip_full else measure_full(place, err.print)
        base = Path(place.basedev("build")["image"])
        with place.edited(*SAME_CODE.values()):
            chained = Path(place.basedev("build", "--no-full-rebuild")["image"])
        err.print("start-up and run-time, in alternation ...")
        start = measure_start(base, chained, place, 20)
        code = measure_code(base, chained, place, 16)
        switch = measure_switch(place, 10)
        tables = {"numbers": report(edits, full, start, switch, code), "steps": steps(edits)}
    finally:
        shutil.rmtree(root, ignore_errors=True)
    if options.json:
        measured = {
            "machine": machine(),
            "load_before": load,
            "edits": {name: asdict(one) for name, one in edits.items()},
            "full": asdict(full) if full else None,
            "start": {"base": start[0].seconds, "chained": start[1].seconds},
            "switch": {"git switch to run": switch[0].seconds, "julia alone": switch[1].seconds},
            "code": {name: {"base": a, "chained": b} for name, (a, b) in code.items()},
        }
        options.json.write_text(json.dumps(measured, indent=1) + "\n")
    if options.update:
        for name, file in DOCUMENTS.items():
            update(file, name, tables[name])
    text = f"{tables['numbers']}\n\nWhere the time goes, in seconds:\n\n{tables['steps']}"
    if options.markdown:
        print(text)
    else:
        Console().print(Markdown(text))


if __name__ == "__main__":
    main()
