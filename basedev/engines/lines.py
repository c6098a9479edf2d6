"""The lines of native code that an image has from its base image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from .. import debug_lines
from ..dwarf import UnknownDebugInfo
from ..revision import Move, Step


class Indexed(Protocol):
    """A base image of which is known where the lines are."""

    @property
    def debug_lines(self) -> Path:
        """The index of its lines. Raises UnknownDebugInfo if there is none."""


def correct_lines(image: Path, base: Indexed, steps: Sequence[Step]) -> str | None:
    """Gives native code of `base` in an image its present lines. Returns the reason if it can't be done."""
    try:
        debug_lines.correct(image, base.debug_lines, [step for step in steps if isinstance(step, Move)])
    except UnknownDebugInfo as error:
        return str(error)
    return None
