"""How the terminal is drawn on with `rich`, which takes long to load: only for what is really shown."""

from __future__ import annotations

import errno
import os
import re
import signal
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.segment import Segment
from rich.text import Text

from .errors import OutputError
from .sizes import WORTH_SHOWING

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""Characters that a terminal obeys, but for the tabulator and the end of a line."""

INTERVAL = 0.1
"""Between two drawings of the step under way, in seconds."""


class Lines(Console):
    """A console that prints whole lines, and raises OutputError when it can't."""

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, highlight=False, soft_wrap=True)

    def print(self, *objects: Any, **options: Any) -> None:
        """As it is, but that an error of the system is an OutputError."""
        try:
            super().print(*objects, **options)
        except OSError as error:
            raise OutputError(*error.args) from error

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """As it is, but that what a file or a definition is called can't steer the terminal."""
        for segment in super().render(renderable, options):
            if self.is_terminal and not segment.control and CONTROL.search(segment.text):
                yield Segment(CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", segment.text), segment.style)
            else:
                yield segment

    def on_broken_pipe(self) -> None:
        """An error like others, rather than a silent exit with the code for errors of the user's code."""
        raise OutputError(errno.EPIPE, os.strerror(errno.EPIPE))


def one_line(*parts: str | tuple[str, str], style: str = "") -> Text:
    """A text that stays on one line: of one that is too long, the end is left out. Parts may have styles."""
    return Text.assemble(*parts, style=style, no_wrap=True, overflow="ellipsis")


class _Times(ProgressColumn):
    """Elapsed and expected time of a step."""

    def render(self, task: Task) -> Text:
        elapsed = task.elapsed or 0.0
        expected = task.fields["expected"]
        return Text(f"{elapsed:.0f} s of about {expected:.0f} s" if expected >= WORTH_SHOWING else f"{elapsed:.1f} s")


class StepBar(Progress):
    """The line that shows the step under way. An alarm draws it anew: processes are forked while it is shown, for which
    there should be one thread."""

    def __init__(self, console: Console) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), _Times())
        super().__init__(*columns, console=console, transient=True, auto_refresh=False)
        self._drawing = False

    def start(self) -> None:
        """Shows it, if it is not shown."""
        super().start()
        signal.signal(signal.SIGALRM, self._draw)
        signal.setitimer(signal.ITIMER_REAL, INTERVAL, INTERVAL)

    def stop(self) -> None:
        """Takes it away, if it is shown."""
        signal.setitimer(signal.ITIMER_REAL, 0)
        super().stop()

    def refresh(self) -> None:
        """As it is, but not while it is at it: an alarm may come in the middle."""
        if not self._drawing:
            self._drawing = True
            try:
                super().refresh()
            finally:
                self._drawing = False

    def _draw(self, *_: object) -> None:
        # A terminal that is gone is noticed by who has a result to print; a message that is being printed comes first.
        with suppress(OSError, RuntimeError):
            self.refresh()
