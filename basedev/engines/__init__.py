"""One package per way of making an image: what differs between Julia families lives here only."""

from collections.abc import Callable

Progress = Callable[[str, float], None]
"""Called when a step begins, with its name and the seconds that it is expected to take."""
