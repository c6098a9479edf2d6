"""What `watch` shows: one compact display that changes in place at a terminal, else a line for each event, or an object
a line for programs."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

from rich.console import Console, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from .console import one_line
from .terminal import STYLES, Terminal
from .workflows.watch import Built, Outcome

MOST = 8
"""Definitions that the display shows."""

MOST_LINES = 12
"""Lines of an error, or of failures of tests, that the display shows."""

REFRESH = 0.25
"""Seconds between two refreshments of the display."""

LOOK = {"built": "green", "current": "green", "failed": "red", "error": "red"}


def display_for(terminal: Terminal) -> Lines:
    """The one that suits standard output. Use it in a `with` statement."""
    if terminal.as_json:
        return Objects(terminal)
    return Panel(terminal) if terminal.out.is_terminal and not terminal.out.is_dumb_terminal else Lines(terminal)


class Lines:
    """A line for each event: results on standard output, the rest on standard error."""

    def __init__(self, terminal: Terminal) -> None:
        self.terminal = terminal

    def __enter__(self) -> Lines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def watching(self, root: Path) -> None:
        """See `watch.Display`, for all of these."""
        self.message(f"watching the sources of {root}")

    def message(self, text: str) -> None:
        self.terminal.message(text)

    def building(self, changed: Sequence[str], *, instead: bool) -> None:
        if changed:
            self.message(f"saved: {_some(changed)}{' (what was under way is cancelled)' if instead else ''}")

    def built(self, built: Built) -> None:
        if built.told["new_code_reason"]:
            self.message(f"all native code anew: {built.told['new_code_reason']}")
        where = f": {built.told['image']}" if built.told["image"] else ""
        self._result(built.status, f"{built.summary}{where}", built.detail)

    def testing(self, names: Sequence[str], *, again: bool) -> None:
        self.message(f"testing{' what failed' if again else ''}: {' '.join(names)}")

    def tested(self, outcome: Outcome, image: str) -> None:
        self._result("failed" if outcome.failed else "passed", outcome.summary, outcome.detail)

    def tick(self, step: str) -> None:
        pass

    def _result(self, status: str, line: str, detail: str) -> None:
        self.terminal.out.print(escape(f"{time.strftime('%H:%M:%S')} {status}: {line}"))
        if detail:
            self.terminal.out.print(escape(detail))


class Objects(Lines):
    """A JSON object a line."""

    def watching(self, root: Path) -> None:
        self.terminal.json({"status": "watching"})

    def built(self, built: Built) -> None:
        self.terminal.json(built.told)

    def tested(self, outcome: Outcome, image: str) -> None:
        tests = {"names": outcome.names, "failed": outcome.failed, "seconds": round(outcome.seconds, 4)}
        error = {"message": outcome.summary, "detail": outcome.detail, "kind": "UserCodeError"}
        errors = [error] if outcome.failed else []
        self.terminal.json({"status": "tested", "image": image, "tests": tests, "errors": errors})


class Panel(Lines):
    """A compact display of the present state, below what was said before."""

    def __init__(self, terminal: Terminal) -> None:
        super().__init__(terminal)
        self._live = Live(
            console=Console(highlight=False),
            auto_refresh=False,  # no thread: programs are started while it is shown
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._root = ""
        self._doing = ""
        """What is under way, empty: nothing."""
        self._step = ""
        self._since = self._shown = 0.0
        self._saved: Sequence[str] = ()
        self._built: Built | None = None
        self._tests: Outcome | None = None
        self._stale = False
        """Whether results are those of an earlier state."""

    def __enter__(self) -> Panel:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._doing = "ended"
        self._live.update(self._picture(), refresh=True)
        self._live.stop()

    def watching(self, root: Path) -> None:
        self._root = str(root)

    def message(self, text: str) -> None:
        self._live.console.print(f"basedev: {escape(text)}")

    def building(self, changed: Sequence[str], *, instead: bool) -> None:
        self._begin("building")
        self._saved, self._stale = changed, True

    def built(self, built: Built) -> None:
        self._begin("")
        self._built, self._stale = built, False
        self._tests = None

    def testing(self, names: Sequence[str], *, again: bool) -> None:
        self._begin("testing", f"{'what failed: ' if again else ''}{' '.join(names)}")

    def tested(self, outcome: Outcome, image: str) -> None:
        self._begin("")
        self._tests = outcome

    def tick(self, step: str) -> None:
        self._step = step or self._step
        if time.monotonic() - self._shown >= REFRESH:
            self._show()

    def _begin(self, doing: str, step: str = "") -> None:
        self._doing, self._step, self._since, self._shown = doing, step, time.monotonic(), 0.0

    def _show(self) -> None:
        self._shown = time.monotonic()
        self._live.update(self._picture(), refresh=True)

    def _picture(self) -> RenderableType:
        table = Table.grid(padding=(0, 1, 0, 0))
        table.add_column(width=8, style="dim", no_wrap=True)
        table.add_column(overflow="fold")
        if not self._doing or self._doing == "ended":
            word = "watched" if self._doing else Text("watching", "not dim bold green")
            table.add_row(word, one_line(self._root))
        else:
            seconds = f"{time.monotonic() - self._since:.0f} s  "
            table.add_row(Text(self._doing, "not dim bold yellow"), one_line(seconds, (self._step, "dim")))
        if self._saved:
            table.add_row("saved", one_line(_some(self._saved)))
        style = "dim" if self._stale else ""
        if self._built:
            for label, body in self._about(self._built):
                table.add_row(label, body, style=style)
        if self._tests:
            look = "red" if self._tests.failed else "green"
            table.add_row("tests", Text(self._tests.summary.removeprefix("tests "), look), style=style)
            for line in self._detail(self._tests.detail):
                table.add_row("", line, style=style)
        return table

    def _about(self, built: Built) -> Iterator[tuple[str, Text]]:
        told = built.told
        yield built.status, Text(built.summary, LOOK[built.status])
        for line in self._detail(built.detail):
            yield "", line
        definitions = [*told["definitions"]["evaluated"], *told["definitions"]["deleted"]]
        for one in definitions[:MOST]:
            change = (f"{one['change']:11}", STYLES[one["change"]])
            yield "", one_line(change, (one["what"], "bold"), (f" {Path(one['path']).name}:{one['line']}", "dim"))
        if len(definitions) > MOST:
            yield "", Text(f"... and {len(definitions) - MOST} more")
        if told["new_code_reason"]:
            yield "because", Text(f"all native code is new: {told['new_code_reason']}")
        steps = [f"{step} {seconds:.1f}" for step, seconds in told["timings"].items() if seconds >= 0.05]
        if steps:
            yield "seconds", Text(", ".join(steps))
        if told["image_id"] and told["image_id"] not in built.summary:
            yield "image", Text(told["image_id"])

    def _detail(self, text: str) -> Iterator[Text]:
        lines = text.replace(f"{self._root}/", "").splitlines()
        yield from map(one_line, lines[:MOST_LINES])
        if len(lines) > MOST_LINES:
            yield Text(f"... and {len(lines) - MOST_LINES} lines more")


def _some(names: Sequence[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"
