"""`basedev run`: Julia on the image for the present sources, in place of basedev itself."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from ..checkout import Checkout
from ..process import die_with_parent, exit_code


def julia_command(checkout: Checkout, image: Path, arguments: Sequence[str]) -> list[str]:
    """The command that starts the checkout's Julia on an image."""
    return [str(checkout.julia), "-J", str(image), *arguments]


def become_julia(checkout: Checkout, image: Path, arguments: Sequence[str], cwd: Path | None = None) -> NoReturn:
    """Replaces this process by Julia, so that signals, the terminal and the exit code are Julia's own."""
    if cwd is not None:
        os.chdir(cwd)
    command = julia_command(checkout, image, arguments)
    for name in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, which a program inherits
        signal.signal(name, signal.SIG_DFL)
    os.execv(command[0], command)


def run_julia(checkout: Checkout, image: Path, arguments: Sequence[str], cwd: Path | None = None) -> int:
    """Runs Julia with its output on standard error. Returns its exit code (128 + n after signal n)."""
    command = julia_command(checkout, image, arguments)
    with subprocess.Popen(command, cwd=cwd, stdout=2, preexec_fn=die_with_parent) as running:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for Julia
        try:
            status = running.wait()
        finally:
            signal.signal(signal.SIGINT, before)
    return exit_code(status)
