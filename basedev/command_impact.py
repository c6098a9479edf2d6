"""The face of `basedev impact`: its arguments, and what it prints."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import SetupError
from .impact import SORTS, Change, Counts, Impact, Node
from .revision import place
from .signatures import brief
from .sizes import counted, size
from .terminal import STYLES, Terminal, escape, fitted

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

TOO_MUCH = 5
"""The exit code where more is invalidated than is allowed."""

MOST = 8
"""Lines of a list."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.add_argument("--compare", nargs=2, metavar=("A", "B"), help="what leads from one commit to another")
    parser.add_argument("--sort", choices=SORTS, default="invalidated", help="order of branches (default: invalidated)")
    parser.add_argument("--depth", type=count, default=2, metavar="N", help="levels of callers to show (default: 2)")
    parser.add_argument("--width", type=count, default=6, metavar="N", help="callers of one to show (default: 6)")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write all of it as a page for a browser")
    parser.add_argument("--at-most", type=count, metavar="N", help="exit with 5 if more CodeInstances are invalidated")
    parser.add_argument("--at-most-changed", type=count, metavar="N", help="exit with 5 if more really change")
    parser.add_argument(
        "--server", action=argparse.BooleanOptionalAction, help="use a warm server, and start it (default: use)"
    )


def count(text: str) -> int:
    """A number of things, as an argument."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no count")
    return int(text)


def show(impact: Impact, options: argparse.Namespace, terminal: Terminal) -> int:
    """Prints what there is to tell, writes the page, and returns the exit code."""
    if options.html:
        from .impact_page import page

        try:
            options.html.write_text(page(impact), encoding="utf-8")
        except OSError as error:
            raise SetupError(f"{options.html} can't be written ({error.strerror}): name another file") from error
    excess = _excess(impact, options)
    if terminal.as_json:
        told = [{"message": excess, "detail": "", "kind": "Excess"}] if excess else []
        file = str(options.html) if options.html else None
        terminal.json({**impact.to_json(), "file": file, "errors": told})
    else:
        _tell(impact, options, terminal)
        if options.html:
            terminal.out.print(escape(str(options.html)))
    if excess:
        terminal.message(excess)
    return TOO_MUCH if excess else 0


def _excess(impact: Impact, options: argparse.Namespace) -> str | None:
    """In what a limit is exceeded; None if it is not."""
    limits = (
        (options.at_most, impact.total.invalidated, "invalidated"),
        (options.at_most_changed, impact.total.changed, "changed"),
    )
    for limit, number, what in limits:
        if limit is None:
            continue
        if impact.everything:
            return f"more than the {limit} that may be {what}: {impact.everything}"
        if number > limit:
            return f"{counted(number, 'CodeInstance')} {what}, and {limit} may be"
    return None


def _tell(impact: Impact, options: argparse.Namespace, terminal: Terminal) -> None:
    out, total = terminal.out, impact.total
    out.print(f"[bold]{escape(impact.summary)}[/]")
    if total.invalidated and not impact.everything:
        functions = counted(impact.recompiled, "function")
        out.print(f"{functions} compiled anew; {total.native} of what is invalidated had native code")
    for one in impact.definitions if not impact.changes else ():
        out.print(escape(f"  {one.what} in {place(one.path, one.line)} {one.change}"))
    begun = sorted((change for change in impact.changes if change.branch.invalidated), key=SORTS[options.sort])
    if begun:
        out.print()
    for change in begun:
        _show_tree(change, options, out)
    if any(node.own.changed for node in impact.nodes()) and not impact.everything:
        out.print("[dim]9 (2): 9 are invalidated through it, 2 really change; *: it really changes itself[/]")
    methods = [(one.counts, f"{brief(one.what)} in {place(one.path, one.line)}") for one in impact.methods()]
    _table("Methods that lose specializations", methods, terminal)
    _table("Modules", list(zip(impact.modules().values(), impact.modules(), strict=True)), terminal)
    _table("Most costly branches", [(one.branch, _name(one)) for one in impact.branches()], terminal)
    overtaken = [
        f"{brief(what)} of {brief(of)}, by {brief(change.what)}"
        for change in impact.changes
        for what, of in change.overtaken
    ]
    _list("Specializations whose calls go to a new method", overtaken, out)
    _list("New ambiguities", [f"{one} and {other}" for one, other in impact.ambiguities], out)
    _list("New overwrites", impact.overwrites, out)
    _list("Invalidated for no call that is known", [brief(what) for what in impact.elsewhere], out)


def _name(node: Node) -> str:
    return f"{brief(node.what)} in {place(node.path, node.line)}"


def _table(title: str, rows: Sequence[tuple[Counts, str]], terminal: Terminal) -> None:
    """What loses most, with the code that is invalidated."""
    if not rows:
        return
    told = [(str(counts.invalidated), str(counts.changed), size(counts.size), what) for counts, what in rows[:MOST]]
    lines = fitted([("INVALIDATED", "CHANGE", "CODE", ""), *told], terminal.width, (0, 1, 2, 3))
    terminal.out.print(f"\n[bold]{title}[/]")
    for line in lines:
        terminal.result(f"  {line}")
    _more(len(rows), terminal.out)


def _list(title: str, lines: Sequence[str], out: Console) -> None:
    if not lines:
        return
    out.print(f"\n[bold]{title}[/]")
    for line in lines[:MOST]:
        out.print(escape(f"  {line}"))
    _more(len(lines), out)


def _more(number: int, out: Console) -> None:
    if number > MOST:
        out.print(f"  [dim]... and {number - MOST} more[/]")


def _show_tree(change: Change, options: argparse.Namespace, out: Console) -> None:
    """The callers of a changed definition; without a terminal as indented lines."""
    lines = _lines(change, options, 0)
    if not out.is_terminal:
        for depth, label in lines:
            out.print("  " * depth + label.plain, markup=False)
        return
    from rich.tree import Tree

    tree = Tree(next(lines)[1], guide_style="dim")
    branches = [tree]
    for depth, label in lines:
        del branches[depth:]
        branches.append(branches[-1].add(label))
    out.print(tree, soft_wrap=False)


def _lines(node: Node, options: argparse.Namespace, depth: int) -> Iterator[tuple[int, Text]]:
    """A node and those that it shows below, each with its level."""
    yield depth, _label(node)
    callers = sorted(node.callers, key=SORTS[options.sort]) if depth < options.depth else []
    for caller in callers[: options.width]:
        yield from _lines(caller, options, depth + 1)
    if rest := callers[options.width :]:
        those = sum((caller.branch for caller in rest), Counts())
        yield depth + 1, _text(f"{_both(those)} through {counted(len(rest), 'caller')} more", style="dim")


def _label(node: Node) -> Text:
    if isinstance(node, Change):
        counts = (f": {node.branch.invalidated} invalidated, {node.branch.changed} change", "")
        return _text((_name(node), "bold"), (f" {node.kind}", STYLES[node.kind]), counts)
    mark = ("* ", "yellow") if node.own.changed else ""
    inlined = "" if node.own.invalidated else (" (inlined)", "dim")
    what = (brief(node.what), "" if node.own.changed else "dim")
    return _text(f"{_both(node.branch)} ", mark, what, (f" in {place(node.path, node.line)}", "dim"), inlined)


def _both(counts: Counts) -> str:
    return f"{counts.invalidated} ({counts.changed})"


def _text(*parts: str | tuple[str, str], style: str = "") -> Text:
    from .console import one_line

    return one_line(*parts, style=style)
