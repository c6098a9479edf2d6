"""`basedev watch`: an image, and the outcome of the tests, for each state of the sources that is saved.

Nothing is built in this process. Each build is a `basedev build` of its own, which a newer save ends; so a watcher
that runs for days neither grows nor keeps what a failed build left in memory. The next one is loaded before it is
needed, and begins with the first sign of a save: mostly that was all, and while that is waited for it gets on.
"""

from __future__ import annotations

import json
import re
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from ..checkout import Checkout
from ..errors import SetupError, UserCodeError
from ..process import INTERRUPTIONS, PLACE, Background, how_it_ended
from ..shim import LAUNCH
from ..sizes import effect
from ..sources import ChangeSet, Sources, library_of
from ..watching import Watcher
from .build import NOTHING_KNOWN
from .run import julia_command
from .testing import tests_for

HELD_COMMAND = (sys.executable, "-c", LAUNCH.format("held"), str(PLACE))
"""What starts basedev again, installed or not, and with nothing of the directory in which it is started."""

TICK = 0.02
"""Seconds between two looks at programs that run."""

IDLE = 5.0
"""Seconds for which nothing but an event is waited for when no program runs."""

STARTED = re.compile(r"^(\S+?) *\(\d+\) *\| *started at ", re.MULTILINE)
PASSED = re.compile(r"^(\S+?) *\(\d+\) *\| *[\d.]+ *\|", re.MULTILINE)
"""What `test/runtests.jl` prints of a test; where an edit of `lpad` is tried, its columns are not in line."""
FAILURES = "\nError in testset "
"""Where `test/runtests.jl` begins to tell of failures in full."""


@dataclass(frozen=True)
class Outcome:
    """What came of a run of tests."""

    names: tuple[str, ...]
    """What was run, as it was asked for."""
    failed: tuple[str, ...]
    seconds: float
    detail: str = ""
    """The failures, as Julia tells them."""

    @property
    def summary(self) -> str:
        """One line."""
        how = f"failed in {self.seconds:.1f} s: {' '.join(self.failed)}" if self.failed else None
        return f"tests {how or f'passed in {self.seconds:.1f} s: ' + ' '.join(self.names)}"

    def __add__(self, later: Outcome) -> Outcome:
        detail = "\n".join(text for text in (self.detail, later.detail) if text)
        failed = tuple(dict.fromkeys((*self.failed, *later.failed)))
        return Outcome((*self.names, *later.names), failed, self.seconds + later.seconds, detail)


@dataclass(frozen=True)
class Built:
    """What came of a build."""

    told: dict[str, Any]
    """The object that `basedev --json build` printed."""
    code: int
    """Its exit code."""
    seconds: float

    @property
    def status(self) -> str:
        """ "built" (now or before), "current" (nothing differs from the base image), "failed" (the edited sources
        are at fault), or "error" (anything else)."""
        if self.code:
            return "failed" if self.code == UserCodeError.exit_code else "error"
        return "current" if self.told["status"] == "current" else "built"

    @property
    def summary(self) -> str:
        """One line."""
        told = self.told
        if self.code:
            return str(told["errors"][0]["message"])
        if told["status"] == "current":
            return "the sources are those of the base image"
        if told["status"] == "present":
            return f"image {told['image_id']} is there already"
        if told["engine"] == "full":
            return f"rebuilt in {self.seconds:.1f} s: {told['full_rebuild_reason'] or 'as was asked'}"
        return f"chained in {self.seconds:.1f} s: {effect(told['invalidated'], told['recompiled'])}"

    @property
    def detail(self) -> str:
        """What stands below the line, if anything does."""
        return str(self.told["errors"][0]["detail"]) if self.code else ""


class Display(Protocol):
    """What the user sees."""

    def watching(self, root: Path) -> None:
        """The watch begins."""

    def message(self, text: str) -> None:
        """One line besides."""

    def building(self, changed: Sequence[str], *, instead: bool) -> None:
        """A build begins, for these saved files (none: at the start); `instead` of one that was under way."""

    def built(self, built: Built) -> None:
        """It came to its end."""

    def testing(self, names: Sequence[str], *, again: bool) -> None:
        """Tests begin; `again` are those that failed the last time, which run first."""

    def tested(self, outcome: Outcome, image: str) -> None:
        """All tests came to their end."""

    def tick(self, step: str) -> None:
        """Time goes by; `step` is what the program under way last said that it does."""


@dataclass
class Watch:
    """The watch of one checkout."""

    checkout: Checkout
    display: Display
    options: Sequence[str] = ()
    """For `basedev build`."""
    tests: Sequence[str] | None = None
    """Those to run after each build, empty: those of the changed files; None: no tests."""
    hook: str | None = None
    """A command for sh, to be run after each result."""
    once: bool = False
    """Whether to end after the first result."""

    _sources: Sources | None = None
    _id: str | None = None
    """Of the sources that are being built, or were last."""
    _image: str = ""
    _held: Background | None = None
    """A build that is loaded, and has not begun."""
    _ahead: tuple[str, Background] | None = None
    """A build that began with the first sign of a save, and the id of the sources at that time."""
    _build: Background | None = None
    _testing: Background | None = None
    _queue: list[tuple[str, ...]] = field(default_factory=list)
    """Tests to run, each group in a Julia of its own; the first is under way."""
    _outcome: Outcome | None = None
    _failing: tuple[str, ...] = ()
    """Tests that failed when they were last run."""
    _hook: Background | None = None
    _waiting: dict[str, str] | None = None
    """The environment of the hook for a result that came while it still ran."""
    _code: int | None = None
    """The exit code for the last result."""

    def run(self) -> int:
        """Watches until it is interrupted (KeyboardInterrupt; SIGTERM and SIGHUP too), or, with `once`, has a result,
        whose exit code it returns.

        Raises SetupError when the checkout is gone.
        """
        before = {name: signal.signal(name, _interrupt) for name in INTERRUPTIONS}
        try:
            with Watcher(self.checkout.root, self.display.message) as watcher:
                self._sources = self._read()
                self._id = self._sources.id if self._sources else None
                self.display.watching(self.checkout.root)
                self._start_build(())
                while not (self.once and self._code is not None and not self._busy):
                    begun = watcher.begun
                    if watcher.settled(TICK if self._busy else IDLE):
                        self._look()
                    elif watcher.begun and not begun:
                        self._begin_ahead()
                    self._collect()
            return self._code or 0
        finally:
            for name in before:
                signal.signal(name, signal.SIG_IGN)  # it ends now, and once
            self._cancel()
            self._end_ahead()
            if self._held:
                self._held.end()
            if self._hook:
                self._hook.end(grace=0.2)
            for name, handler in before.items():
                signal.signal(name, handler)

    @property
    def _busy(self) -> bool:
        return bool(self._ahead or self._build or self._testing or self._hook)

    def _read(self) -> Sources | None:
        try:
            return self.checkout.sources()
        except SetupError as error:
            if not self.checkout.root.is_dir():
                raise SetupError(f"{self.checkout.root} is gone: the watch has ended") from error
            self.display.message(error.message)
            return None

    def _look(self) -> None:
        """Builds what was saved, if it is something new."""
        sources = self._read()
        if sources is None or sources.id == self._id:
            self._end_ahead()
            return
        changed = ChangeSet.between(self._sources, sources).paths if self._sources else ()
        self._sources, self._id = sources, sources.id
        self._start_build(changed)

    def _start_build(self, changed: Sequence[str]) -> None:
        instead = self._cancel()
        self.display.building(changed, instead=instead)
        if self._ahead and self._ahead[0] == self._id:
            self._build, self._ahead = self._ahead[1], None
        else:
            self._end_ahead()
            self._build = self._begin()

    def _begin(self) -> Background:
        build, self._held = self._held or self._hold(), None
        build.let_go()
        return build

    def _hold(self) -> Background:
        root = self.checkout.root
        command = [*HELD_COMMAND, "-C", str(root), "--json", "build", *self.options]
        return Background(command, cwd=root, held=True)

    def _begin_ahead(self) -> None:
        """Builds what is there after the first sign of a save, unless something is under way still."""
        if self._busy:
            return
        with suppress(SetupError):  # in the middle of something
            sources = self.checkout.sources()
            if sources.id != self._id:
                self._ahead = sources.id, self._begin()

    def _end_ahead(self) -> None:
        if self._ahead:
            self._ahead[1].end()
        self._ahead = None

    def _cancel(self) -> bool:
        """Ends the build or the tests under way; whether there were any."""
        instead = bool(self._build or self._testing)
        if self._build:
            self._build.end()
        if self._testing:
            self._testing.end(signal.SIGTERM, grace=0.5)
        self._build, self._testing, self._queue = None, None, []
        return instead

    def _collect(self) -> None:
        """Goes on from programs that have ended."""
        if self._hook and self._hook.status is not None:
            self._end_hook(self._hook, self._hook.status)
        if self._build and self._build.status is not None:
            self._end_build(self._build, self._build.status)
        if self._testing and self._testing.status is not None:
            self._end_tests(self._testing, self._testing.status)
        under_way = self._build.errors if self._build else ""
        self.display.tick(under_way.strip().rpartition("\n")[2].removeprefix("basedev: "))

    def _end_build(self, build: Background, status: int) -> None:
        seconds = time.monotonic() - build.began
        try:
            told = json.loads(build.output)
        except ValueError:
            error = {"message": f"the build {how_it_ended(status)}", "detail": build.errors, "kind": "InternalError"}
            told = {**NOTHING_KNOWN, "status": "failed", "errors": [error]}
            status = status or 4
        build.end()
        self._build = None
        if not self.once:
            self._held = self._held or self._hold()
        built = Built(told, status, seconds)
        saved, self._id = self._id, told["sources_id"] or self._id
        self._image = told["image"] or ""
        self._code = status
        self.display.built(built)
        self._start_hook(built.status, built.summary, seconds)
        if self._id != saved:  # it read what was saved just after it had begun, or was there only in between
            self._look()
        if self.tests is not None and not status and not self._build:
            self._start_tests([*told["changed_files"], *filter(library_of, told["ignored_files"])])

    def _start_tests(self, changed_files: Sequence[str]) -> None:
        names = tuple(self.tests or tests_for(changed_files, self.checkout.tree / "test"))
        first = tuple(name for name in names if name in self._failing)
        rest = tuple(name for name in names if name not in first)
        self._queue = [group for group in (first, rest) if group]
        self._outcome = None
        self._next_tests()

    def _next_tests(self) -> None:
        if self._queue:
            names = self._queue[0]
            self.display.testing(names, again=names[0] in self._failing)
            try:
                command = julia_command(self.checkout, Path(self._image), ["runtests.jl", *names])
                self._testing = Background(command, cwd=self.checkout.tree / "test")
            except (SetupError, OSError) as error:
                self._queue = []
                self.display.message(f"tests can't be run: {error}")

    def _end_tests(self, testing: Background, status: int) -> None:
        outcome = _outcome(self._queue.pop(0), status, testing, time.monotonic() - testing.began)
        testing.end()
        self._testing = None
        self._outcome = self._outcome + outcome if self._outcome else outcome
        if self._queue:
            if outcome.failed:
                self.display.message(f"still failing: {' '.join(outcome.failed)}")
            return self._next_tests()
        total = self._outcome
        self._failing = total.failed
        self._code = UserCodeError.exit_code if total.failed else 0
        self.display.tested(total, self._image)
        return self._start_hook("failed" if total.failed else "passed", total.summary, total.seconds)

    def _start_hook(self, status: str, message: str, seconds: float) -> None:
        if not self.hook:
            return
        about = {"STATUS": status, "IMAGE": self._image, "MESSAGE": message, "SECONDS": f"{seconds:.3f}"}
        environment = {f"BASEDEV_{name}": value for name, value in about.items()}
        if self._hook:
            self._waiting = environment  # only the newest: one that never ends must not pile them up
        else:
            self._hook = Background(["/bin/sh", "-c", self.hook], cwd=self.checkout.root, env=environment)

    def _end_hook(self, hook: Background, status: int) -> None:
        for text in (hook.output, hook.errors):
            for line in text.splitlines():
                self.display.message(f"--exec: {line}")
        if status:
            self.display.message(f"the command of --exec {how_it_ended(status)}")
        hook.end()
        self._hook = None
        environment, self._waiting = self._waiting, None
        if environment and self.hook:
            self._hook = Background(["/bin/sh", "-c", self.hook], cwd=self.checkout.root, env=environment)


def _outcome(names: tuple[str, ...], status: int, testing: Background, seconds: float) -> Outcome:
    """Reads the output of `test/runtests.jl`."""
    if not status:
        return Outcome(names, (), seconds)
    output = re.sub(r"\x1b\[[\d;]*m", "", testing.output)
    passed = set(PASSED.findall(output))
    failed = tuple(name for name in dict.fromkeys(STARTED.findall(output)) if name not in passed)
    _, found, failures = output.partition(FAILURES)
    if not found:  # Julia itself came to grief
        failures = "\n".join((output + testing.errors).splitlines()[-20:])
    return Outcome(names, failed or names, seconds, (found + failures).strip("\n"))


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
