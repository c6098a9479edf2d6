"""`basedev run`: Julia on the image for the present sources, in place of basedev itself."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from ..checkout import Checkout


def julia_command(checkout: Checkout, image: Path, arguments: Sequence[str]) -> list[str]:
    """The command that starts the checkout's Julia on an image."""
    return [str(checkout.julia), "-J", str(image), *arguments]


def become_julia(checkout: Checkout, image: Path, arguments: Sequence[str], cwd: Path | None = None) -> NoReturn:
    """Replaces this process by Julia, so that signals, the terminal and the exit code are Julia's own."""
    if cwd is not None:
        os.chdir(cwd)
    command = julia_command(checkout, image, arguments)
    os.execv(command[0], command)


def run_julia(checkout: Checkout, image: Path, arguments: Sequence[str], cwd: Path | None = None) -> int:
    """Runs Julia with its output on standard error. Returns its exit code (128 + n after signal n)."""
    done = subprocess.run(julia_command(checkout, image, arguments), cwd=cwd, stdout=2, check=False)
    return done.returncode if done.returncode >= 0 else 128 - done.returncode
