"""`basedev`, and `python -m basedev`."""

from __future__ import annotations

import sys

from .errors import SetupError, exit_code


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
        return exit_code(SetupError.exit_code, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
