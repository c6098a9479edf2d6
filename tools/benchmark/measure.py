"""The measurements. What is compared is measured in alternation, in one run."""

from __future__ import annotations

import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from basedev.distribution import JULIA_VERSION, MULTIARCH
from basedev.link import linker

from .edits import BASE_FILES, LEAF, SAME_CODE, STEPS, Change, Edit, body, definitions
from .workplace import Workplace

Say = Callable[[str], None]

FULL, REDUMP, BEFORE, JULIA, COLD, WARM = "full", "redump", "before", "julia", "cold", "warm"
"""The ways to an image: a full rebuild; a dump of all that the image has, and what was evaluated (stock Julia);
basedev at an earlier commit; what Julia's own rule invalidates chained; what early cutoff leaves of that, without and
with a warm server. All but the last without a server."""

ARGUMENTS = {
    FULL: ("--engine", "full"),
    BEFORE: ("--no-full-rebuild",),
    JULIA: ("--engine", "stock-1.5-no-cutoff"),
    COLD: ("--engine", "stock-1.5"),
    WARM: ("--engine", "stock-1.5"),
}
"""Of `basedev build`."""

CLOSE, SPARSE = 0.02, 0.5
"""Seconds between two looks at memory: where time is not counted, and where it is."""

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
    """One thing, done several times."""

    seconds: list[float] = field(default_factory=list)
    about: dict[str, Any] = field(default_factory=dict)
    """What `--json` told of the last time."""
    timings: list[dict[str, float]] = field(default_factory=list)
    memory: dict[str, int] = field(default_factory=dict)
    """Bytes: of the `largest` process, and of `all` processes of the command together, a server and its children
    included."""
    image: int = 0
    """Bytes of the image file."""

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> str:
        """The least and the most."""
        return f"{min(self.seconds):.2f}-{max(self.seconds):.2f}" if len(self.seconds) > 1 else "once"

    def step(self, name: str) -> float:
        """The median seconds of one step."""
        return statistics.median(one.get(name, 0.0) for one in self.timings)

    def add(self, built: dict[str, Any]) -> None:
        """One more time."""
        self.seconds.append(built["seconds"])
        self.timings.append(built.get("timings", {}))
        self.about = built
        self.image = built.get("image_size", 0)

    def add_memory(self, built: dict[str, Any]) -> None:
        """What a command had that was looked at."""
        self.memory = {"largest": built["largest"], "all": built["all"]}


@dataclass
class Growth:
    """What a number of new functions costs."""

    count: int
    files: int
    ways: dict[str, Measured] = field(default_factory=dict)


@dataclass
class Successive:
    """One edit after another with one warm server: an element for each."""

    seconds: list[float] = field(default_factory=list)
    images: list[int] = field(default_factory=list)
    """Bytes of the image file."""
    server: list[int] = field(default_factory=list)
    """Resident bytes of the warm server after the build."""


@dataclass
class Results:
    """All that was measured in a run; what was not is None or empty."""

    machine: str
    load: float
    """Before the run: of other programs."""
    runs: int
    before: str = ""
    """The commit of the way BEFORE, if that was measured."""
    ways: dict[str, dict[str, Measured]] = field(default_factory=dict)
    """By name of an edit and way."""
    full: Measured | None = None
    redump: Measured | None = None
    watch: Measured | None = None
    """From saving a new function to the line of `basedev watch` that it is built, with a warm server."""
    start: dict[str, list[float]] = field(default_factory=dict)
    """Seconds of a Julia that does nothing, on the "base" and on a "chained" image."""
    code: dict[str, list[float]] = field(default_factory=dict)
    """Nanoseconds of functions on the base image and on a chained one."""
    switch: dict[str, list[float]] = field(default_factory=dict)
    """Seconds from `git switch` to the end of `basedev run`, and of that Julia "alone"."""
    growth: list[Growth] = field(default_factory=list)
    successive: Successive | None = None

    @staticmethod
    def from_json(told: dict[str, Any]) -> Results:
        """What `dataclasses.asdict` made an object of."""

        def measured(one: dict[str, Any] | None) -> Measured | None:
            return Measured(**one) if one else None

        def all_of(ways: dict[str, Any]) -> dict[str, Measured]:
            return {way: Measured(**one) for way, one in ways.items()}

        return Results(
            **{
                **told,
                "ways": {name: all_of(ways) for name, ways in told["ways"].items()},
                **{name: measured(told[name]) for name in ("full", "redump", "watch")},
                "growth": [Growth(one["count"], one["files"], all_of(one["ways"])) for one in told["growth"]],
                "successive": Successive(**told["successive"]) if told["successive"] else None,
            }
        )


class Measuring:
    """Measures at a workplace. `before` is one with another version of basedev, if that is to be measured too."""

    def __init__(self, place: Workplace, before: Workplace | None, say: Say) -> None:
        self._place = place
        self._before = before
        self._say = say
        self._number = 1

    def _next(self) -> int:
        """A number that no edit had yet."""
        self._number += 1
        return self._number

    def _build(self, changes: tuple[Change, ...], way: str, watch: float = 0.0) -> dict[str, Any]:
        """One image, made and forgotten."""
        place = self._before if way == BEFORE and self._before else self._place
        with place.edited(changes):
            built = place.basedev("build", *ARGUMENTS[way], server=way == WARM, watch=watch)
        if built["base_id"] != place.base_id:
            sys.exit("basedev itself was changed meanwhile: measure again")
        assert built["status"] == "built", built
        assert way != WARM or built["server"] == "used", built["server"]
        built["image_size"] = Path(built["image"]).stat().st_size
        place.forget_images()
        return built

    def ways(self, edits: Sequence[Edit], runs: int, ways: Iterable[str]) -> dict[str, dict[str, Measured]]:
        """Command to published image. Edits take turns, and for each edit its ways.

        There is a first round in which memory is measured, which takes time itself, so that it does not count. What
        is done only once is looked at seldom then, and counts.
        """
        measured: dict[str, dict[str, Measured]] = {edit.name: {} for edit in edits}
        for run in range(runs + 1):
            for edit in edits:
                self._place.start_server()  # it ends when nobody needs it for long
                for way in ways:
                    if (way == BEFORE and edit.name not in STEPS) or (way == JULIA and edit.anew):
                        continue
                    once = edit.anew or (edit.heavy and way == JULIA)
                    if once and run:
                        continue
                    one = measured[edit.name].setdefault(way, Measured())
                    watch = (SPARSE if once else CLOSE) if not run else 0.0
                    built = self._build(edit.numbered(self._next()), way, watch)
                    if not run:
                        one.add_memory(built)
                    if run or once:
                        one.add(built)
                        self._say(f"{edit.name}, {way}: {built['seconds']:.2f} s")
                    else:
                        self._say(f"{edit.name}, {way}: {built['all'] >> 20} MiB")
        return measured

    def full(self) -> Measured:
        """The full rebuild of a new function, once, from nothing."""
        self._say("the full rebuild, about four minutes ...")
        return self._once(self._build(LEAF.numbered(self._next()), FULL, SPARSE))

    def redump(self) -> Measured:
        """A new function without chaining, once: the stock Julia evaluates it and writes out the whole image, with
        native code made anew of all that had some."""
        self._say("the re-dump, about three minutes ...")
        place = self._place
        revision, archive, image = (place.root / name for name in ("edit.jl", "redump.a", "redump.so"))
        with place.edited(LEAF.numbered(self._next())):
            place.basedev("revision", "export", "-o", str(revision))
        julia = place.checkout / "usr/bin/julia"
        dump = [
            *(str(julia), "-O2", "-C", "generic", "--startup-file=no", "-J", self._base_image()),
            *("--output-o", str(archive), "-e", f'include("{revision}")'),
        ]
        link = [
            *("gcc", "-shared", f"-fuse-ld={linker()}", "-o", str(image)),
            *("-Wl,--whole-archive", str(archive), "-Wl,--no-whole-archive"),
            str(julia.resolve().parent.parent / "lib" / MULTIARCH / "libjulia.so.1"),
        ]
        done = place.timed(["sh", "-ec", f"{shlex.join(dump)} >&2\n{shlex.join(link)}"], watch=SPARSE)
        done["image_size"] = image.stat().st_size
        archive.unlink()
        image.unlink()
        return self._once(done)

    def _once(self, done: dict[str, Any]) -> Measured:
        measured = Measured()
        measured.add(done)
        measured.add_memory(done)
        self._say(f"{done['seconds']:.0f} s")
        return measured

    def _base_image(self) -> str:
        return str(self._place.basedev("build")["image"])

    def watch(self, times: int) -> Measured:
        """From saving to the line that it is built."""
        self._say("basedev watch ...")
        self._place.start_server()
        measured = Measured()
        running = subprocess.Popen(
            self._place.command("watch", "--no-full-rebuild"),
            cwd=self._place.checkout,
            env=self._place.environment(server=True),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        try:
            assert running.stdout
            watching, current = (json.loads(running.stdout.readline()) for _ in range(2))
            assert (watching["status"], current["status"]) == ("watching", "current")
            for _ in range(times + 1):
                with self._place.edited(LEAF.numbered(self._next())):
                    saved = time.monotonic()
                    built = json.loads(running.stdout.readline())
                    measured.add({**built, "seconds": time.monotonic() - saved})
                assert json.loads(running.stdout.readline())["status"] == "current"  # it was saved as it was
        finally:
            running.terminate()
            running.wait()
        self._place.forget_images()
        measured.seconds.pop(0)
        return measured

    def images(self) -> tuple[Path, Path]:
        """The base image, and a chained one with other code that does the same."""
        with self._place.edited(SAME_CODE):
            chained = Path(self._place.basedev("build", "--no-full-rebuild")["image"])
        return Path(self._base_image()), chained

    def start(self, base: Path, chained: Path, pairs: int) -> dict[str, list[float]]:
        """Start-up of Julia on two images, in alternation."""
        self._say("start-up ...")
        both: dict[str, list[float]] = {"base": [], "chained": []}
        for _ in range(pairs + 1):
            for seconds, image in zip(both.values(), (base, chained), strict=True):
                begin = time.monotonic()
                self._place.julia(image, "nothing")
                seconds.append(time.monotonic() - begin)
        for seconds in both.values():
            seconds.pop(0)  # the files were not in memory yet
        return both

    def code(self, base: Path, chained: Path, rounds: int) -> dict[str, list[float]]:
        """The best of processes in alternation, in nanoseconds: whatever else a machine does only makes code slower."""
        self._say("run-time ...")
        measured: dict[str, tuple[list[float], list[float]]] = {}
        for _ in range(rounds):
            for which, image in enumerate((base, chained)):
                for line in self._place.julia(image, MICRO).splitlines():
                    name, nanoseconds = line.split("\t")
                    measured.setdefault(name, ([], []))[which].append(float(nanoseconds))
        return {name: [min(one) for one in both] for name, both in measured.items()}

    def switch(self, switches: int) -> dict[str, list[float]]:
        """From `git switch` to the end of a Julia that does nothing, where both branches were built before; beside it
        that Julia alone."""
        self._say("git switch ...")
        place = self._place
        git = ["git", "-C", str(place.checkout), "-c", "user.name=bench", "-c", "user.email=bench@localhost"]
        asked = subprocess.run([*git, "branch", "--show-current"], check=True, capture_output=True, text=True)
        main = asked.stdout.strip()
        subprocess.run([*git, "switch", "-qc", "topic"], check=True)
        images = {}
        for branch, path in (("topic", "base/sort.jl"), (main, "base/set.jl")):
            subprocess.run([*git, "switch", "-q", branch], check=True)
            with (place.checkout / path).open("a") as file:
                file.write(f'\nbench_branch() = "{path}"\n')
            subprocess.run([*git, "commit", "-qam", "bench"], check=True)
            images[branch] = Path(place.basedev("build", "--no-full-rebuild")["image"])
        measured: dict[str, list[float]] = {"run": [], "alone": []}
        for number in range(switches + 1):
            branch = ("topic", main)[number % 2]
            begin = time.monotonic()
            subprocess.run([*git, "switch", "-q", branch], check=True)
            place.basedev("run", "--", "--startup-file=no", "-e", "nothing")
            measured["run"].append(time.monotonic() - begin)
            begin = time.monotonic()
            place.julia(images[branch], "nothing")
            measured["alone"].append(time.monotonic() - begin)
        for seconds in measured.values():
            seconds.pop(0)
        return measured

    def growth(self, counts: Sequence[int], runs: int) -> list[Growth]:
        """New functions that compile nothing, by their number, in turns."""
        measured = [Growth(count, min(count, len(BASE_FILES))) for count in counts]
        for run in range(runs + 1):
            for one in measured:
                self._place.start_server()
                for way in (COLD, WARM):
                    built = self._build(definitions(one.count, self._next()), way, 0.0 if run else CLOSE)
                    kept = one.ways.setdefault(way, Measured())
                    if run:
                        kept.add(built)
                        self._say(f"{one.count} definitions, {way}: {built['seconds']:.2f} s")
                    else:
                        kept.add_memory(built)
        return measured

    def successive(self, times: int) -> Successive:
        """The same function with one body after another."""
        measured = Successive()
        self._place.start_server()
        for number in range(times):
            built = self._build(body(self._next()), WARM)
            measured.seconds.append(built["seconds"])
            measured.images.append(built["image_size"])
            measured.server.append(self._place.server_memory())
            if number % 20 == 19:
                self._say(f"{number + 1} successive edits, the last in {built['seconds']:.2f} s")
        return measured


def machine() -> str:
    """A line on where this is measured."""
    cpu = next(
        (line.split(": ", 1)[1] for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.machine(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} cores ({cpu}), {memory:.0f} GiB, Julia {JULIA_VERSION}, linker {linker()}"
