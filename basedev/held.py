"""`basedev` as a program that has loaded its code and waits to be let go, by a line on its standard input."""

from __future__ import annotations

import sys
from contextlib import suppress

from .__main__ import main as command_line


def main() -> int:
    """Loads the command line, waits, and runs it. Returns the exit code; 0 when standard input ends without a line."""
    with suppress(ImportError):  # which the command line explains
        from . import cli  # noqa: F401 - what takes time
    try:
        return command_line() if sys.stdin.readline() else 0
    except KeyboardInterrupt:
        return 130
