"""What revising asks of a process on the base image, the host of an engine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from .revision import Evaluate, Step


class Evaluator(Protocol):
    """A process on the base image (the engine's host)."""

    @property
    def unexports(self) -> bool:
        """Whether the engine can take back exports."""

    @property
    def unbinds_last(self) -> bool:
        """Whether the engine unbinds names behind all other steps, unless these bind them again."""

    def parse_all(self, texts: Sequence[bytes], *, check: bool = True) -> list[list[dict[str, Any]]]:
        """The statements of source texts; `check` makes sure that none gets lost."""

    def trial(self, steps: Sequence[Step]) -> dict[str, Any]:
        """What evaluating the steps would do."""

    def users(self, module: str, name: str) -> dict[str, Any]:
        """The modules in which a name stands for this module's binding, and the methods that use it."""

    def computed(self, steps: Sequence[Step], record: Path | None, dependencies: Path | None) -> dict[str, Any]:
        """What `trial` tells, and the numbers of the statements of a census that ran what the steps change."""

    def results(self, steps: Sequence[Step], statements: Sequence[Evaluate]) -> list[str]:
        """What each statement gives after the steps."""

    def compare(self, steps: Sequence[Step], statements: Sequence[Evaluate]) -> list[tuple[str, str, str]]:
        """What each statement gives before the steps, once more, and after."""
