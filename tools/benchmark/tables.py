"""What was measured, as tables in Markdown, and their places in the documents."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from .edits import BY_NAME, LIGHT, STEPS
from .measure import BEFORE, COLD, FULL, JULIA, REDUMP, WARM, Measured, Results

TITLES = {
    FULL: "full rebuild",
    REDUMP: "re-dump, not chained",
    BEFORE: "basedev before",
    JULIA: "Julia's rule chained",
    COLD: "basedev, cold",
    WARM: "basedev, warm",
}
"""What the ways are called."""

SIDES = (JULIA, COLD, WARM)
"""The ways of which each edit has a time of its own."""

MIB = 1 << 20


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose first column is of words, the others of numbers."""
    lines = [f"| {' | '.join(head)} |", "|---|" + "--:|" * (len(head) - 1)]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows])


def ways(results: Results) -> str:
    """Each edit by each way, beside the full rebuild."""
    rows = []
    for name, measured in results.ways.items():
        warm = measured.get(WARM)
        rows.append(
            [
                BY_NAME[name].title,
                *(_seconds(measured.get(way)) for way in SIDES),
                _ratio(results.full, warm),
                _ratio(results.redump, warm),
                _ratio(measured.get(JULIA), warm),
                _ratio(measured.get(COLD), warm),
            ]
        )
    head = ["edit", *(f"{TITLES[way]}, s" for way in SIDES), "full ÷ warm", "re-dump ÷ warm"]
    runs = f"medians of {results.runs} runs (in brackets the least and the most)" if results.runs > 1 else "one run"
    lines = [
        f"{results.machine}; {runs}.",
        "",
        table([*head, "Julia's rule ÷ warm", "cold ÷ warm"], rows),
    ]
    whole = [(TITLES[way], one) for way, one in ((FULL, results.full), (REDUMP, results.redump)) if one]
    if whole:
        told = " and ".join(f"{title} **{one.median:.0f} s**" for title, one in whole)
        lines += ["", f"In the same run, of the new function: {told}, once each."]
    if results.watch:
        lines += [
            "",
            "From saving a new function to `basedev watch` telling that it is built, warm: "
            f"{_seconds(results.watch)} s.",
        ]
    if results.load > 0.5:
        lines += ["", f"Other programs were running (load {results.load:.1f})."]
    return "\n".join(lines)


def _seconds(measured: Measured | None) -> str:
    return f"{measured.median:.2f} ({measured.spread})" if measured and measured.seconds else ""


def _ratio(one: Measured | None, other: Measured | None) -> str:
    if not (one and other and one.seconds and other.seconds):
        return ""
    ratio = one.median / other.median
    return f"{ratio:.0f}" if ratio >= 10 else f"{ratio:.1f}"


def work(results: Results) -> str:
    """What was to be compiled for each edit, and what memory that took."""
    rows = []
    for name, measured in results.ways.items():
        cold = measured[COLD]
        counts = [str(cold.about.get(key)) for key in ("invalidated", "reinferred", "recompiled")]
        memory = [f"{one.memory['all'] // MIB}" if one else "" for one in map(measured.get, SIDES)]
        rows.append([BY_NAME[name].title, *counts, *memory, f"{cold.image / 1e6:.1f}"])
    memory_head = [f"{TITLES[way]}, MiB" for way in SIDES]
    lines = [table(["edit", "invalidated", "inferred", "compiled", *memory_head, "image, MB"], rows)]
    told = [
        f"{TITLES[way]} {one.memory['all'] // MIB} MiB"
        for way, one in ((FULL, results.full), (REDUMP, results.redump))
        if one
    ]
    if told:
        lines += ["", f"Beside that: {', '.join(told)}."]
    return "\n".join(lines)


def result(results: Results) -> str:
    """Start-up and speed of what was made, and finding what was made before."""
    start = {image: statistics.median(seconds) for image, seconds in results.start.items()}
    switch = {which: statistics.median(seconds) for which, seconds in results.switch.items()}
    rows = [[name, f"{a:.0f}", f"{b:.0f}", f"{b / a:.3f}"] for name, (a, b) in results.code.items()]
    return "\n".join(
        [
            f"Start-up of Julia: {start['base']:.3f} s on the base image, {start['chained']:.3f} s on the chained "
            f"image, ratio {start['chained'] / start['base']:.3f} (medians of {len(results.start['base'])} pairs).",
            "",
            f"From `git switch` to a Julia that has ended, by `basedev run` on a branch that was built before: "
            f"{switch['run']:.2f} s, of which that Julia alone is {switch['alone']:.2f} s (medians of "
            f"{len(results.switch['run'])}).",
            "",
            "The speed of code, of functions that kept theirs and of two that were compiled anew from an edited source "
            "that means the same (the best of 16 processes on each):",
            "",
            table(["function", "base image, ns", "chained image, ns", "ratio"], rows),
        ]
    )


def steps(results: Results) -> str:
    """Where the time of some edits goes, in seconds, by each way."""
    parts = []
    for name in STEPS:
        ways = {way: one for way, one in results.ways[name].items() if way in (BEFORE, *SIDES)}
        named = list(dict.fromkeys(step for one in ways.values() for step in one.timings[-1]))
        named.remove("total")
        rows = [[step, *(f"{one.step(step):.2f}" for one in ways.values())] for step in named]
        rest = (one.median - sum(map(one.step, named)) for one in ways.values())
        rows.append(["the rest", *(f"{seconds:.2f}" for seconds in rest)])
        rows.append(["the command", *(f"{one.median:.2f}" for one in ways.values())])
        titles = [f"basedev at {results.before}" if way == BEFORE else TITLES[way] for way in ways]
        parts.append(table([f"step, {BY_NAME[name].title}", *titles], rows))
    return "\n\n".join(parts)


GROUPS = {
    "ready": ("revise", "evaluate", "check"),
    "code": ("infer", "generate", "emit"),
    "heap": ("heap",),
    "image": ("link", "publish"),
}
"""Steps that were lowered together."""

RECORDED_AT = "78aec2e"
RECORDED: dict[str, dict[str, float]] = {
    "leaf": {
        **{"revise": 0.30, "evaluate": 0.05, "check": 0.02, "infer": 0.02, "generate": 0.0},
        **{"heap": 1.19, "emit": 0.0, "link": 0.44, "publish": 0.11},
    },
    "lpad": {
        **{"revise": 0.39, "evaluate": 0.07, "check": 0.02, "infer": 0.56, "generate": 0.14},
        **{"heap": 2.11, "emit": 0.0, "link": 0.23, "publish": 0.10},
    },
    "chomp": {
        **{"revise": 0.36, "evaluate": 0.07, "check": 0.02, "infer": 3.22, "generate": 0.66},
        **{"heap": 2.41, "emit": 3.51, "link": 0.45, "publish": 0.11},
    },
}
"""What steps took before any was lowered, as that commit has it: for runs that do not measure it themselves."""


def lowered(group: str, results: Results) -> str:
    """What some steps took before and take now, together, in seconds."""
    rows = []
    for name in STEPS:
        measured = results.ways[name]
        if BEFORE in measured:
            before = sum(map(measured[BEFORE].step, GROUPS[group]))
        else:
            before = sum(RECORDED[name][step] for step in GROUPS[group])
        now = (sum(map(measured[way].step, GROUPS[group])) for way in SIDES)
        rows.append([BY_NAME[name].title, *(f"{seconds:.2f}" for seconds in (before, *now))])
    at = f"at {results.before}" if results.before else f"at {RECORDED_AT}, as recorded"
    return table([" + ".join(GROUPS[group]), at, *(TITLES[way] for way in SIDES)], rows)


def growth(results: Results) -> str:
    """What more definitions cost."""
    rows = []
    for one in results.growth:
        both = [one.ways[way] for way in (COLD, WARM)]
        memory = [f"{measured.memory['all'] // MIB}" for measured in both]
        revise = f"{both[1].step('revise'):.2f}"
        row = [str(one.count), str(one.files), *map(_seconds, both), revise, *memory, f"{both[1].image / 1e6:.2f}"]
        rows.append(row)
    head = ["new functions", "files", "cold, s", "warm, s", "of that revise, s", "cold, MiB", "warm, MiB", "image, MB"]
    return table(head, rows)


def successive(results: Results) -> str:
    """Whether anything grows from edit to edit."""
    told = results.successive
    assert told
    columns: list[tuple[str, Sequence[float], Callable[[float], str]]] = [
        ("from command to image, s", told.seconds, lambda seconds: f"{seconds:.2f}"),
        ("image, MB", told.images, lambda size: f"{size / 1e6:.2f}"),
        ("server, resident, MiB", told.server, lambda size: f"{size / MIB:.1f}"),
    ]
    rows = []
    for title, all_of, shown in columns:
        values = (all_of[0], all_of[-1], min(all_of), statistics.median(all_of), max(all_of))
        rows.append([title, *map(shown, values)])
    return table([f"{len(told.seconds)} edits", "first", "last", "least", "median", "most"], rows)


PERFORMANCE = "docs/performance.md"
PICTURE = "docs/benchmark.svg"
TABLES: dict[str, tuple[str, Callable[[Results], str]]] = {
    "ways": ("README.md", ways),
    "result": ("README.md", result),
    "steps": (PERFORMANCE, steps),
    **{group: (PERFORMANCE, partial(lowered, group)) for group in GROUPS},
    "work": (PERFORMANCE, work),
    "growth": (PERFORMANCE, growth),
    "successive": (PERFORMANCE, successive),
}
"""The document in which each table stands, and what makes it."""


def missing(results: Results) -> dict[str, str]:
    """What keeps tables from being written to the documents: what was not measured, by the table's name."""
    lacking = {}
    if not (results.ways.keys() >= set(LIGHT) and results.full and results.redump and results.watch):
        lacking["ways"] = lacking["work"] = f"the edits {', '.join(LIGHT)}, the full rebuild, the re-dump and watch"
    if not results.ways.keys() >= set(STEPS):
        lacking |= dict.fromkeys(("steps", *GROUPS), f"the edits {', '.join(STEPS)}")
    if not (results.start and results.code and results.switch):
        lacking["result"] = "start-up, run-time and git switch"
    if not results.growth:
        lacking["growth"] = "growth"
    if not results.successive:
        lacking["successive"] = "successive edits"
    return lacking


def shown(results: Results) -> str:
    """All tables of which something was measured."""
    parts = []
    lacking = missing(results)
    if results.ways:
        parts += [("From command to image", ways(results)), ("What that took", work(results))]
    for name, title in (
        ("steps", "Where the time goes, in seconds"),
        ("result", "What was made"),
        ("growth", "With the number of definitions"),
        ("successive", "From edit to edit"),
    ):
        if name not in lacking:
            parts.append((title, TABLES[name][1](results)))
    return "\n\n".join(f"{title}:\n\n{text}" for title, text in parts)


def update(root: Path, results: Results) -> dict[str, str]:
    """Writes tables to the documents below a directory, each between two comments. Returns those that were not, and
    what of them was not measured: they stay as they were."""
    lacking = missing(results)
    for name, (place, make) in TABLES.items():
        if name in lacking:
            continue
        text = make(results)
        if name == "ways":
            text = f"![Seconds from command to image, by edit and way]({PICTURE})\n\n{text}"
        file = root / place
        begin, end = f"<!-- measured: {name} -->\n", "<!-- end -->\n"
        before, found, rest = file.read_text().partition(begin)
        assert found, f"{place} has no place for what was measured of {name}"
        file.write_text(before + begin + text + "\n" + end + rest.partition(end)[2])
    return lacking
