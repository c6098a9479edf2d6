"""What was measured, as a picture: a row for each edit, a mark for each way, seconds on a logarithmic axis."""

from __future__ import annotations

from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter

from .edits import BY_NAME
from .measure import COLD, FULL, JULIA, REDUMP, WARM, Results
from .tables import TITLES

MARKS = {JULIA: ("s", "#b35806"), COLD: ("o", "#4393c3"), WARM: ("D", "#053061")}
"""Form and colour: each way can be told by either."""
LINES = {FULL: ("-", "#b2182b"), REDUMP: ("--", "#d6604d")}
"""Of what takes the same for every edit and was measured once."""
TICKS = (0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500)

STABLE = {"svg.fonttype": "none", "svg.hashsalt": "basedev", "font.family": ["sans-serif"], "font.size": 11.0}
"""Text stays text, and the same numbers give the same file."""


def draw(results: Results, file: Path) -> None:
    """Writes the picture as SVG. Its ground is white, so that it can be read on a page of any colour."""
    edits = list(results.ways)
    with matplotlib.rc_context(STABLE):
        figure = Figure(figsize=(9.5, 1.6 + 0.4 * len(edits)), layout="constrained")
        axes = figure.add_subplot()
        for way, (mark, colour) in MARKS.items():
            rows = [
                (row, results.ways[name][way].median) for row, name in enumerate(edits) if way in results.ways[name]
            ]
            places, seconds = [row for row, _ in rows], [median for _, median in rows]
            axes.plot(seconds, places, mark, color=colour, markersize=8, zorder=3, label=TITLES[way])
        for row, name in enumerate(edits):
            measured = results.ways[name]
            medians = {way: measured[way].median for way in MARKS if way in measured}
            axes.plot([min(medians.values()), max(medians.values())], [row, row], color="#d0d0d0", zorder=1)
            warm = medians[WARM]
            told = f"{warm:.0f} s" if warm >= 10 else f"{warm:.2g} s"
            axes.annotate(told, (warm, row), xytext=(-9, 0), textcoords="offset points", ha="right", va="center")
        for way, one in ((REDUMP, results.redump), (FULL, results.full)):
            if one:
                style, colour = LINES[way]
                label = f"{TITLES[way]}, {one.median:.0f} s"
                axes.axvline(one.median, linestyle=style, color=colour, zorder=2, label=label)
        axes.set_xscale("log")
        most = max(seconds for ways in results.ways.values() for one in ways.values() for seconds in one.seconds)
        whole = [one.median for one in (results.full, results.redump) if one]
        least = min(one.median for ways in results.ways.values() for one in ways.values())
        axes.set_xlim(least / 2, max([most, *whole]) * 1.3)
        axes.xaxis.set_major_locator(FixedLocator(TICKS))
        axes.xaxis.set_minor_locator(FixedLocator([]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.set_xlabel("seconds from command to image (logarithmic)")
        axes.set_yticks(range(len(edits)), [BY_NAME[name].title.replace("`", "") for name in edits])
        axes.invert_yaxis()
        axes.grid(axis="x", color="#ececec")
        axes.set_axisbelow(True)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        axes.tick_params(axis="y", length=0)
        figure.legend(loc="outside upper left", ncols=3, frameon=False)
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
