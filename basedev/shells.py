"""The shells for which code is written, and the words of the one that `shlex` does not know."""

from __future__ import annotations

SHELLS = ("bash", "zsh", "fish")


def fish_word(text: str) -> str:
    """A text as one word for fish."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
