"""What can go wrong, in one place: each error knows the exit code that the command line gives it.

A message names the thing and the remedy in one line; longer material (Julia's own
message, a compiler's output) goes into `detail`.
"""

from __future__ import annotations

from collections.abc import Sequence


class BasedevError(Exception):
    """An error that is explained to the user in one line.

    `detail` is shown below the line as it is, and may have many lines.
    """

    exit_code = 4

    def __init__(self, message: str, detail: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail


class UserCodeError(BasedevError):
    """The edited sources are at fault: they do not parse, or a definition fails when evaluated."""

    exit_code = 1


class UsageError(BasedevError):
    """The command line or the configuration can't be understood."""

    exit_code = 2


class SetupError(BasedevError):
    """Something basedev needs is missing or unsuitable: a Julia, a base image, a compiler, disk space."""

    exit_code = 3


class InternalError(BasedevError):
    """A step failed that should not fail: a defect of basedev, or of what it drives."""

    exit_code = 4


class OutputError(OSError):
    """Standard output can't be written."""


class NeedsFullRebuild(Exception):
    """A change that can't be chained with the same result as a full rebuild. `str()` is the reason, one line.

    Control flow rather than a failure: the build workflow answers it with a full rebuild.
    """


def exit_code(code: int, words: Sequence[str]) -> int:
    """The exit code for an error of basedev itself, of a command line and with the code `code`.

    `git bisect run` takes 1 to 127 for what is to be said of a commit, and ends with 128.
    """
    mine = list(words[: words.index("--")] if "--" in words else words)
    names = [word for before, word in zip(["", *mine], mine, strict=False) if before != "-C" and word[:1] != "-"]
    if names[:2] == ["bisect", "step"] or (names[:2] == ["bisect", "run"] and code != UsageError.exit_code):
        return 128
    return code
