"""What `watch` shows: one compact display that changes in place at a terminal, else a line for each event, or an object
a line for programs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.text import Text

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
        self._begin(f"testing {'what failed: ' if again else ''}{' '.join(names)}")

    def tested(self, outcome: Outcome, image: str) -> None:
        self._begin("")
        self._tests = outcome

    def tick(self, step: str) -> None:
        self._step = step
        if time.monotonic() - self._shown >= REFRESH:
            self._show()

    def _begin(self, doing: str) -> None:
        self._doing, self._step, self._since, self._shown = doing, "", time.monotonic(), 0.0

    def _show(self) -> None:
        self._shown = time.monotonic()
        self._live.update(self._picture(), refresh=True)

    def _picture(self) -> RenderableType:
        lines = [self._state()]
        if self._saved:
            lines.append(_line(("saved   ", "dim"), _some(self._saved)))
        if self._built:
            lines += self._about(self._built)
        if self._tests:
            look = "red" if self._tests.failed else "green"
            lines.append(_line(("tests   ", "dim"), (self._tests.summary.removeprefix("tests "), look)))
            lines += _detail(self._tests.detail)
        if self._stale:
            for line in lines[2 if self._saved else 1 :]:
                line.stylize("dim")
        return Group(*lines)

    def _state(self) -> Text:
        if self._doing == "ended":
            return _line(("watched ", "dim"), self._root)
        if not self._doing:
            return _line(("watching", "bold green"), f" {self._root}")
        seconds = f" {time.monotonic() - self._since:.0f} s"
        return _line((self._doing, "bold yellow"), seconds, (f"  {self._step}" if self._step else "", "dim"))

    @staticmethod
    def _about(built: Built) -> list[Text]:
        told = built.told
        line = (built.summary, LOOK[built.status])
        if built.code:
            return [Text.assemble((f"{built.status:8}", "dim"), line), *_detail(built.detail)]
        lines = [_line((f"{built.status:8}", "dim"), line)]
        definitions = [*told["definitions"]["evaluated"], *told["definitions"]["deleted"]]
        lines += [_definition(one) for one in definitions[:MOST]]
        if len(definitions) > MOST:
            lines.append(_line(f"        ... and {len(definitions) - MOST} more"))
        for key, what in (("new_code_reason", "all native code anew"), ("full_rebuild_reason", "full rebuild")):
            if told[key]:
                lines.append(_line(("because ", "dim"), f"{what}: {told[key]}"))
        steps = [f"{step} {seconds:.1f}" for step, seconds in told["timings"].items() if seconds >= 0.05]
        if steps:
            lines.append(_line(("seconds ", "dim"), "  ".join(steps)))
        if told["image_id"]:
            lines.append(_line(("image   ", "dim"), told["image_id"]))
        return lines


def _line(*parts: str | tuple[str, str]) -> Text:
    """A text that stays on one line."""
    return Text.assemble(*parts, no_wrap=True, overflow="ellipsis")


def _definition(one: dict[str, Any]) -> Text:
    change = f"{one['change']:11}"
    where = f" {Path(one['path']).name}:{one['line']}"
    return _line("        ", (change, STYLES[one["change"]]), (one["what"], "bold"), (where, "dim"))


def _detail(text: str) -> list[Text]:
    lines = text.splitlines()
    shown = [_line(f"        {line}") for line in lines[:MOST_LINES]]
    return [*shown, _line(f"        ... and {len(lines) - MOST_LINES} lines more")] if lines[MOST_LINES:] else shown


def _some(names: Sequence[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"
