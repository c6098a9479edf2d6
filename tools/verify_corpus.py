"""Compares chained images of the corpus of edits (tests/corpus.py) with full rebuilds of the same sources.

    tools/verify-corpus [--batches N] [--list] [NAMES]

All edits that can stand together are made to one checkout, and `basedev verify` makes both images of it and compares
them: a quarter of an hour on two cores, most of it for the full rebuild. With NAMES (parts of edits' names) only
these are made. With more batches there are more full rebuilds, and a difference is nearer to its edit. The checkout and
the images are in a directory of its own, which is removed afterwards; bootstrapped compilers are kept.

Exits with 1 when a batch can't be chained, when its images differ, or when the check of an edit prints another text.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.workplace import private_cache
from corpus import EDITS, MARK, Edit, apply, joined
from rich.console import Console
from rich.table import Table

from basedev.newcheckout import make_checkout
from basedev.storage import Storage, cache_root

CONSOLE = Console(highlight=False, markup=False)


@dataclass
class Verified:
    """What came of a batch."""

    edits: Sequence[Edit]
    about: dict[str, Any]
    """What `basedev --json verify` told."""
    seconds: float
    wrong: dict[str, str]
    """What was wrong about an edit's own check, by its name."""

    @property
    def result(self) -> str:
        """In a few words."""
        if self.about["status"] == "verified":
            return f"equal ({self.about['facts']} facts)"
        if self.about["status"] == "different":
            return f"{len(self.about['differences'])} differences"
        return str(self.about.get("full_rebuild_reason") or self.about["errors"][0]["message"])

    @property
    def good(self) -> bool:
        """Whether all is as it should be."""
        return self.about["status"] == "verified" and not self.wrong


class Workplace:
    """A checkout and a cache of this run's own."""

    def __init__(self, root: Path) -> None:
        self.cache = private_cache(root)
        (cache_root() / "bootstrap").mkdir(parents=True, exist_ok=True)
        (self.cache / "bootstrap").symlink_to(cache_root() / "bootstrap")
        self.environment = {
            **os.environ,
            "BASEDEV_CACHE": str(self.cache),
            "JULIA_DEPOT_PATH": str(root / "depot"),
        }
        self.checkout = make_checkout(root / "julia", Storage()).path
        self.basedev("init")

    def basedev(self, *words: str) -> dict[str, Any]:
        """Runs a command with `--json`. Returns its object, whether it succeeded or not."""
        command = [sys.executable, "-m", "basedev", "--json", *words]
        done = subprocess.run(command, cwd=self.checkout, env=self.environment, check=False, stdout=subprocess.PIPE)
        return dict(json.loads(done.stdout))

    def verify(self, edits: Sequence[Edit]) -> Verified:
        """Makes the edits and verifies the images of them."""
        begin = time.monotonic()
        subprocess.run(["git", "checkout", "-q", "--", "."], cwd=self.checkout, check=True)
        subprocess.run(["git", "clean", "-fdq"], cwd=self.checkout, check=True)
        apply(self.checkout, edits)
        about = self.basedev("verify", "--max", "1000")
        images = [about.get("image"), about.get("full_image")]
        wrong: dict[str, str] = {}
        for where, image in zip(("chained", "full"), images, strict=True):
            if image and about["status"] in ("verified", "different"):
                wrong |= self._check(edits, image, where)
        shutil.rmtree(self.cache / "images", ignore_errors=True)
        return Verified(edits, about, time.monotonic() - begin, wrong)

    def _check(self, edits: Sequence[Edit], image: str, where: str) -> dict[str, str]:
        program, prints = joined(edits)
        command = [str(self.checkout / "usr/bin/julia"), "-J", image, "--startup-file=no", "-e", program]
        done = subprocess.run(
            command, cwd=self.checkout, env=self.environment, check=False, capture_output=True, text=True
        )
        shown = done.stdout.split(MARK)[1:]
        shown += [done.stderr] * (len(edits) - len(shown))
        return {
            edit.name: f"prints {is_!r} on the {where} image, not {said!r}"
            for edit, is_, said in zip(edits, shown, prints, strict=True)
            if is_ != said
        }


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="a part of an edit's name")
    parser.add_argument("--batches", type=int, default=1, metavar="N", help="how many checkouts to spread them over")
    parser.add_argument("--list", action="store_true", help="only tell which edits there are")
    options = parser.parse_args()
    names = options.names or [""]
    edits = [edit for edit in EDITS if edit.together and any(name in edit.name for name in names)]
    if not edits or options.batches < 1:
        parser.error("no edit that is chained has such a name" if not edits else "at least one batch is needed")
    if options.list:
        for edit in edits:
            CONSOLE.print(f"{edit.name}: {edit.kind}")
        return 0
    own = cache_root() / f"verify-corpus-{os.getpid()}"
    try:
        workplace = Workplace(own)
        batches = [edits[first :: options.batches] for first in range(min(options.batches, len(edits)))]
        results = [workplace.verify(batch) for batch in batches]
    finally:
        shutil.rmtree(own, ignore_errors=True)
    show(results)
    return 0 if all(one.good for one in results) else 1


def show(results: Sequence[Verified]) -> None:
    """A table of the edits and what came of them, and the differences."""
    table = Table("edit", "kind", "its check", "chained and full image")
    for number, one in enumerate(results, 1):
        for edit in one.edits:
            table.add_row(
                edit.name, edit.kind, one.wrong.get(edit.name, "as expected"), f"batch {number}: {one.result}"
            )
        table.add_section()
    CONSOLE.print(table)
    for number, one in enumerate(results, 1):
        CONSOLE.print(f"batch {number}: {len(one.edits)} edits, {one.seconds:.0f} s: {one.result}")
        for difference in one.about.get("differences", ()):
            CONSOLE.print(f"  {difference}", soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
