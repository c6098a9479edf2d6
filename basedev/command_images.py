"""The face of `basedev images`: its arguments, and what it prints."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .collection import BASES, Item, seconds_since, shortest
from .errors import SetupError
from .revision import place
from .sizes import age, counted, effect, parse_size, size
from .terminal import Terminal, fitted

if TYPE_CHECKING:
    from .workflows.images import Images, Told

Verb = Callable[[str, str, str], argparse.ArgumentParser]


FILES_SHOWN = 3
"""Changed files that `images list` names for an image."""


def add_verbs(verb: Verb) -> None:
    """Adds the verbs; `verb` makes a parser from a name, a line of help and an example."""
    verb("list", "the images in the cache directory", "basedev images list")
    show = verb("show", "all that is known of an image", "basedev images show 4ba44e")
    show.add_argument("id", metavar="ID", help="the beginning of its id will do")
    for name, help in (("pin", "keep images from being collected"), ("unpin", "let images be collected again")):
        verb(name, help, f"basedev images {name} 4ba44e").add_argument("id", nargs="+", metavar="ID")
    gc = verb("gc", "remove the images used longest ago until the others keep to the budget", "basedev images gc")
    gc.add_argument("--budget", type=_size, metavar="SIZE", help="such as 5GiB (default: that of the configuration)")
    gc.add_argument("--bases", action="store_true", help="also remove base images that no adopted checkout needs")
    gc.add_argument("--dry-run", action="store_true", help="only tell what would be removed")
    rm = verb("rm", "remove images", "basedev images rm 4ba44e")
    rm.add_argument("id", nargs="+", metavar="ID")
    rm.add_argument("--force", action="store_true", help="also pinned ones, and base images that a checkout needs")
    verify = verb("verify", "check all that is in the cache directory's stores", "basedev images verify")
    verify.add_argument("--repair", action="store_true", help="remove what is damaged")


def _size(text: str) -> int:
    try:
        return parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def run(images: Images, options: argparse.Namespace, leftovers: int, terminal: Terminal) -> int:
    """Does what the verb says and returns the exit code. `leftovers` were found in `staging`, and deleted."""
    if options.verb == "list":
        _list(images, terminal)
    elif options.verb == "show":
        _show(images.one(options.id), terminal)
    elif options.verb in ("pin", "unpin"):
        items = [images.pin(start, options.verb == "pin") for start in options.id]
        _done(f"{options.verb}ned", items, terminal)
    elif options.verb == "rm":
        for start in options.id:
            images.collection.find(start)  # all or, where one is misspelt, none
        _done("removed", [images.remove(start, force=options.force) for start in options.id], terminal)
    elif options.verb == "gc":
        _collect(images, options, terminal)
    else:
        return _verify(images, options.repair, leftovers, terminal)
    return 0


def _done(status: str, items: list[Item], terminal: Terminal) -> None:
    if terminal.as_json:
        return terminal.json({"status": status, "images": [item.id for item in items]})
    for item in items:
        terminal.message(f"{status} {item.id}")
    return None


def _list(images: Images, terminal: Terminal) -> None:
    found = images.all()
    totals = images.totals(found)
    if terminal.as_json:
        return terminal.json({"status": "listed", "images": [told.to_json() for told in found], "on_disk": totals})
    length = shortest([told.item.id for told in found])
    rows = [
        ("", "IMAGE", "SIZE", "USED", "STATE", "ENGINE", "COMMIT", "MADE", "FOR"),
        *(_row(told, length) for told in found),
    ]
    if found:
        for line in fitted(rows, terminal.width, order=(0, 1, 3, 2, 4, 6, 8, 5, 7)):
            terminal.result(line)
    bases = sum(told.item.kind == BASES for told in found)
    spare = [told for told in found if told.item.kind == BASES and not told.checkouts and not told.in_use]
    terminal.message(
        f"{counted(len(found) - bases, 'image')}: {size(totals['images'])} of {size(images.budget)};"
        f" {counted(bases, 'base image')}: {size(totals['bases'])}"
        + (f", {len(spare)} needed by no checkout (basedev images gc --bases)" if spare else "")
    )
    return None


def _row(told: Told, length: int) -> tuple[str, ...]:
    item = told.item
    states = {"damaged": not item.manifest, "pinned": item.pinned, "in use": told.in_use, "needed": told.checkouts}
    files = item.manifest.get("changed_files", ()) if item.kind != BASES else ()
    names = ", ".join(file.removeprefix("base/") for file in files[:FILES_SHOWN])
    names += f" and {len(files) - FILES_SHOWN} more" if len(files) > FILES_SHOWN else ""
    created = item.manifest.get("created")
    place = told.checkout or ", ".join(map(str, told.checkouts))
    cost = size(item.size) if item.frees * 10 > item.size * 9 else f"{size(item.size)} ({size(item.frees)})"
    return (
        "*" if told.present else "",
        item.id[:length],
        cost,
        age(seconds_since(item.used)),
        ", ".join(state for state, holds in states.items() if holds) or "-",
        told.engine,
        told.commit[:10] if told.commit else "-",
        age(seconds_since(created)) if created else "-",
        f"{place}: {names}" if place and names else place or names or "-",
    )


def _show(told: Told, terminal: Terminal) -> None:
    item, about = told.item, told.item.manifest
    if terminal.as_json:
        return terminal.json(
            {"status": "shown", **_known(about), **told.to_json(), "image_id": item.id, "engine": about.get("engine")}
        )
    states = [word for word, holds in (("pinned", item.pinned), ("in use", told.in_use)) if holds]
    if told.processes:
        states.append(f"by process {', '.join(map(str, told.processes))}")
    lines: list[tuple[str, str | None]] = [
        ("base image" if item.kind == BASES else "image", item.id),
        ("file", str(item.sysimage)),
        ("state", ", ".join(states) or None),
        ("", "of the present sources" if told.present else None),
        ("", "damaged: its manifest can't be read" if not about else None),
        ("size", f"{size(item.size)}; its removal frees {size(item.frees)} of disk"),
        ("last used", f"{age(seconds_since(item.used))} ago"),
        ("made", f"{_moment(about['created'])}, {age(seconds_since(about['created']))} ago" if about else None),
        ("engine", about.get("engine")),
        ("Julia", about.get("julia_version")),
        ("base image", about.get("base_id")),
        ("checkout", told.checkout),
        ("commit", told.commit),
        ("sources", about.get("sources_id")),
        ("full rebuild", about.get("full_rebuild_reason")),
        ("native code", about.get("new_code_reason") and f"all anew: {about['new_code_reason']}"),
        ("needed by", ", ".join(map(str, told.checkouts)) or None),
    ]
    if about.get("invalidated") is not None:
        lines.append(("CodeInstances", effect(about["invalidated"], about["recompiled"])))
    if about.get("peak_memory"):
        lines.append(("memory", size(about["peak_memory"])))
    if timings := about.get("timings"):
        lines.append(("seconds", ", ".join(f"{step} {seconds:.2f}" for step, seconds in timings.items())))
    for name, value in lines:
        if value:
            terminal.result(f"{name:<14}{value}")
    known = _known(about)
    for path in known["changed_files"]:
        terminal.result(f"  {path}")
    for one in (*known["definitions"]["evaluated"], *known["definitions"]["deleted"]):
        terminal.result(f"  {one['what']} in {place(one['path'], one['line'])} {one['change']}")
    return None


def _known(about: Any) -> dict[str, Any]:
    keys = ("full_rebuild_reason", "new_code_reason", "ignored_files", "invalidated", "recompiled", "peak_memory")
    return {
        **{key: about[key] for key in (*keys, "timings", "julia_version") if key in about},
        "changed_files": about.get("changed_files", []),
        "definitions": about.get("definitions", {"evaluated": [], "deleted": []}),
    }


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def _collect(images: Images, options: argparse.Namespace, terminal: Terminal) -> None:
    done = images.collect(budget=options.budget, bases=options.bases, dry_run=options.dry_run)
    if terminal.as_json:
        return terminal.json(
            {
                "status": "planned" if options.dry_run else "collected",
                "collected": [item.id for item in done.removed],
                "kept": [item.id for item in done.kept],
                "freed": done.freed,
                "left": done.left,
                "budget": done.budget,
            }
        )
    for item in done.removed:
        terminal.result(f"{item.id}  {size(item.frees)}  last used {age(seconds_since(item.used))} ago")
    terminal.message(
        f"{'would remove' if options.dry_run else 'removed'} {counted(len(done.removed), 'image')}, {size(done.freed)};"
        f" those left take {size(done.left)} of {size(done.budget)}"
        + (f", {len(done.kept)} of them in use or pinned" if done.kept and done.left > done.budget else "")
    )
    return None


def _verify(images: Images, repair: bool, leftovers: int, terminal: Terminal) -> int:
    found = images.damaged(repair=repair)
    told = [{"entry": entry, "wrong": wrong} for entry, wrong in found.items()]
    if not terminal.as_json:
        for entry, wrong in found.items():
            terminal.result(f"{entry}: {'; '.join(wrong)}")
        if leftovers:
            terminal.message(f"deleted {counted(leftovers, 'thing')} that killed processes had left")
    if not found or repair:
        if terminal.as_json:
            terminal.json({"status": "repaired" if found else "whole", "damaged": told, "leftovers": leftovers})
        else:
            terminal.message(f"removed {counted(len(found), 'entry', 'entries')}" if found else "all entries are whole")
        return 0
    error = SetupError(
        f"damaged: {counted(len(found), 'entry', 'entries')}; basedev images verify --repair removes them"
    )
    if terminal.as_json:
        said = {"message": error.message, "detail": "\n".join(found), "kind": "SetupError"}
        terminal.json({"status": "damaged", "damaged": told, "leftovers": leftovers, "errors": [said]})
    terminal.message(error.message)
    return error.exit_code
