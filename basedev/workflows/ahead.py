"""Images of commits that may be wanted next, made ahead by a process of its own at the lowest priority.

A commit that can't be chained, or does not build, is left to whoever wants its image. The store's locks let one that
wants the image which is being made wait for it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ..checkout import Checkout
from ..commits import CommitCheckout
from ..errors import BasedevError, NeedsFullRebuild
from ..process import PLACE, die_with_parent
from ..storage import Storage
from .builders import builder_for

PATIENCE = 5.0
"""Seconds that a process has to clean up."""


class Ahead:
    """A process that makes the images of commits, one after the other."""

    def __init__(self, checkout: Checkout, storage: Storage, commits: Sequence[str]) -> None:
        self._said = ""
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, checkout.root, *commits],
            env={**os.environ, "BASEDEV_CACHE": str(storage.root)},
            cwd=PLACE,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for basedev, which ends it
            preexec_fn=_lowly,
        )
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdout.fileno(), False)

    def is_making(self, commit: str) -> bool:
        """Whether the image of this commit is under way."""
        assert self._process.stdout is not None
        with suppress(BlockingIOError):
            while more := os.read(self._process.stdout.fileno(), 4096):
                self._said += more.decode()
        return self._process.poll() is None and self._said.split()[-1:] == [commit]

    def end(self) -> None:
        """Ends the process, and with it what it is making."""
        self._process.terminate()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


def _lowly() -> None:
    die_with_parent()
    os.nice(19)


def main(root: str, *commits: str) -> None:
    """What the process does: makes the images, and tells which it begins with."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # cleaned up after, as after Ctrl-C
    storage = Storage()
    for commit in commits:
        print(commit, flush=True)
        with suppress(BasedevError, NeedsFullRebuild):
            builder_for(CommitCheckout(Path(root), commit), storage, lambda step, seconds: None).build(
                may_rebuild=False
            )


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main(*sys.argv[1:])
