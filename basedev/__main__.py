"""`basedev`, and `python -m basedev`."""

from __future__ import annotations

import sys


def main() -> int:
    """Runs the command line; before that, what can go wrong while it is loaded. Returns the exit code."""
    try:
        from .cli import main as command_line

        return command_line()
    except KeyboardInterrupt:
        print("basedev: interrupted; nothing was changed", file=sys.stderr)
        return 130
    except ImportError as error:
        reason = str(error).splitlines()[0]
        print(f"basedev: git or a Python package that basedev needs is not installed: {reason}", file=sys.stderr)
        return 3


if __name__ == "__main__":
    sys.exit(main())
