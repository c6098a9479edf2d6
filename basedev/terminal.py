"""What the user sees: results on standard output; progress, messages and errors on standard error."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from .errors import BasedevError, OutputError
from .revision import Definition, place
from .signatures import brief
from .sizes import WORTH_SHOWING, age, counted, effect, size
from .workflows.build import NOTHING_KNOWN, Result

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

    from .console import StepBar
    from .patches import Applied
    from .servers import Server
    from .workflows.bisect import Outcome, State
    from .workflows.doctor import Finding
    from .workflows.hooks import Hooks
    from .workflows.patch import Checked
    from .workflows.revisions import Exported
    from .workflows.verify import Verification

UNEQUAL = "a defect of basedev: the chained image differs from the full rebuild; please report it with the edit"

STYLES = {"added": "green", "modified": "yellow", "deleted": "red", "documented": "cyan"}


def escape(text: str) -> str:
    """A text that is no markup of rich's."""
    from rich.markup import escape

    return escape(text)


def fitted(rows: list[tuple[str, ...]], width: int | None, order: tuple[int, ...]) -> list[str]:
    """Rows as lines of aligned columns. Of those that are wider than the terminal, the columns that come last in
    `order` are left out, and the last is cut. None: no limit."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    shown: list[int] = []
    for column in order:
        least = min(widths[column], 16)  # of the one that is cut
        if width is None or sum(widths[one] + 2 for one in shown) + least <= width:
            shown.append(column)
    shown.sort()
    lines = ["  ".join(row[one].ljust(widths[one]) for one in shown).rstrip() for row in rows]
    return [line if width is None or len(line) <= width else f"{line[: width - 3]}..." for line in lines]


class Steps:
    """A display of the step under way. Call it with a step's name and the seconds it is expected to take."""

    def __init__(self, console: Callable[[], Console]) -> None:
        self._console = console
        self._live: StepBar | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Steps:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def __call__(self, step: str, expected: float) -> None:
        if expected < WORTH_SHOWING and not sys.stderr.isatty():
            return
        from .console import StepBar

        console = self._console()
        if not console.is_terminal:
            console.print(f"basedev: {escape(step)} (about {expected:.0f} s)", highlight=False)
            return
        if not self._live:
            self._live = StepBar(console)
        self._live.start()
        if self._task is not None:
            self._live.remove_task(self._task)
        self._task = self._live.add_task(escape(step), total=None, expected=expected)


class Terminal:
    """Prints for people, or one JSON object for programs."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json

    @cached_property
    def out(self) -> Console:
        """Standard output."""
        from .console import Lines

        return Lines()

    @cached_property
    def err(self) -> Console:
        """Standard error."""
        from .console import Lines

        return Lines(stderr=True)

    @property
    def width(self) -> int | None:
        """Characters in a line of standard output; None where that is no terminal."""
        return shutil.get_terminal_size().columns if sys.stdout.isatty() else None

    def steps(self) -> Steps:
        """A display of steps, for use in a `with` statement."""
        return Steps(lambda: self.err)

    def message(self, text: str) -> None:
        """A line for the user that is no result."""
        self.err.print(f"basedev: {escape(text)}")

    def result(self, line: str) -> None:
        """A line of the result, as it is."""
        self.out.print(escape(line))

    def json(self, value: dict[str, Any]) -> None:
        """The one object on standard output, with all keys that every command has."""
        try:
            sys.stdout.write(json.dumps({**NOTHING_KNOWN, **value}) + "\n")
            sys.stdout.flush()
        except OSError as error:
            raise OutputError(*error.args) from error

    def interrupted(self) -> None:
        """What remains to be said after Ctrl-C."""
        text = "interrupted; nothing was changed"
        if self.as_json:
            told = {"message": text, "detail": "", "kind": "KeyboardInterrupt"}
            self.json({"status": "interrupted", "errors": [told]})
        self.message(text)

    def error(self, error: BasedevError) -> None:
        """An error in one line, its detail below."""
        if self.as_json:
            told = {"message": error.message, "detail": error.detail, "kind": type(error).__name__}
            with suppress(OutputError):
                self.json({"status": "failed", "errors": [told]})
        self.err.print(f"[bold red]basedev:[/] {escape(error.message)}")
        if error.detail:
            self.err.print(escape(error.detail))

    def code(self, text: str) -> None:
        """Code for a shell, as it is."""
        if self.as_json:
            return self.json({"status": "ready", "code": text})
        return self.out.print(text, end="", markup=False)

    def hooks(self, hooks: Hooks, background: Mapping[str, Any] | None) -> None:
        """The state of each hook, and of the last background build."""
        told = [hook.to_json() for hook in hooks.hooks]
        if self.as_json:
            return self.json(
                {"status": "shown", "directory": str(hooks.directory), "hooks": told, "background": background}
            )
        self.out.print(escape(f"Hooks in {hooks.directory}:"))
        for one in told:
            state = {"foreign": "another's", "wrapped": "run by another's"}.get(one["state"], one["state"])
            before = f", after {Path(one['before']).name}" if one["before"] else ""
            idle = " (not executable, so not run)" if one["before"] and not one["before_runs"] else ""
            self.out.print(escape(f"  {one['hook']}: {state}{before}{idle}"))
        self.background(background)
        return None

    def queued(self, log: Path) -> None:
        """That a build was started in the background."""
        if self.as_json:
            self.json({"status": "queued", "log": str(log)})
        else:
            self.message(f"building in the background; log: {log}")

    def background(self, told: Mapping[str, Any] | None) -> None:
        """One line of what came of the last build in the background."""
        if told is None:
            return
        running = told["status"] == "running"
        ago = time.time() - told["time"]
        what = {
            "running": "under way",
            "killed": "killed",
            "built": f"made image {told.get('image_id')}",
            "present": f"found image {told.get('image_id')}",
            "current": "found the sources of the base image",
        }.get(told["status"], f"failed: {told['message']}")
        since = f"for {ago:.0f} s" if running else f"{ago:.0f} s ago" if ago < 120 else f"{ago / 60:.0f} minutes ago"
        self.out.print(escape(f"Background build {what}, {since} (log: {told['log']})"))

    def status(self, result: Result, background: Mapping[str, Any] | None = None) -> None:
        """Files and definitions that differ from the base image, and what `build` would do."""
        if self.as_json:
            return self.json({**result.to_json(), "background": background})
        self.background(background)
        out = self.out
        if result.runtime_reason:
            out.print(f"make would build the runtime first: {escape(result.runtime_reason)}")
        if result.status == "current" and not result.ignored_files:
            return out.print("The sources are those of the base image; nothing to build.")
        if result.changed_files or result.ignored_files:
            out.print(f"Changed since the base image {result.base_id}:")
        for path in result.changed_files:
            out.print(f"  {escape(path)}")
        for path in result.ignored_files:
            out.print(f"  [dim]{escape(path)} (in no image)[/]")
        if result.library_reason:
            out.print(f"Julia does not load what was edited: {escape(result.library_reason)}")
        if result.status == "current":
            return out.print("In the base image is what is in the sources; nothing to build.")
        self._definitions(out, result.definitions)
        if result.full_rebuild_reason:
            out.print(f"A full rebuild is needed: {escape(result.full_rebuild_reason)}")
        if result.new_code_reason:
            out.print(f"All native code has to be made anew, in minutes: {escape(result.new_code_reason)}")
        if result.status == "present":
            out.print(f"The image for these sources exists: {escape(str(result.image))}")
        elif not result.full_rebuild_reason:
            out.print("[bold]basedev build[/] would chain an image on the base image.")
        return None

    def built(self, result: Result) -> None:
        """The image for the present sources and how it came about."""
        if self.as_json:
            return self.json(result.to_json())
        if result.full_rebuild_reason:
            self.message(f"full rebuild: {result.full_rebuild_reason}")
        if result.runtime_reason:
            self.message(f"make built the runtime: {result.runtime_reason}")
        if result.new_code_reason:
            self.message(f"all native code anew: {result.new_code_reason}")
        if result.old_lines_reason:
            self.message(f"stack traces of kept code name lines of the base image: {result.old_lines_reason}")
        if result.loaded_files:
            first, *more = result.loaded_files
            named = f"{first} and {len(more)} more are" if more else f"{first} is"
            why = result.library_reason or "each Julia loads that from the sources"
            self.message(f"{named} in no image: {why}")
        if result.status == "current":
            self.message("the sources are those of the base image")
        elif result.status == "present":
            self.message(f"image {result.image_id} is there already")
        else:
            self._definitions(self.err, result.definitions)
            chained = result.engine != "full"
            counts = f": {effect(result.invalidated, result.recompiled)}" if chained else ""
            seconds = result.timings["total"]
            self.message(f"{'chained' if chained else 'rebuilt'} in {seconds:.1f} s{counts}")
        self.out.print(escape(str(result.image)))
        return None

    def revision(self, exported: Exported) -> None:
        """What a revision does, and where it comes from."""
        steps = Counter(type(step).__name__.lower() for step in exported.revision.steps)
        about = exported.provenance
        if self.as_json:
            told = {"commit": about.commit, "steps": dict(steps)}
            return self.json({**exported.result("shown").to_json(), **told})
        out = self.out
        at = f", at commit {about.commit[:12]}" if about.commit else ""
        out.print(f"Revision of the base image {escape(about.base)} (Julia {escape(about.julia)}){escape(at)}:")
        for file in about.files:
            out.print(f"  {escape(file.path)}")
        self._definitions(out, exported.revision.definitions)
        counts = ", ".join(f"{number} {kind}" for kind, number in steps.items())
        out.print(f"Steps: {counts}" if steps else "No steps: these are the definitions of the base image.")
        return None

    def exported(self, exported: Exported, file: Path | None) -> None:
        """The text of a revision on standard output, or that it is in a file."""
        if self.as_json:
            return self.json({**exported.result("exported").to_json(), "file": str(file)})
        if file:
            self.message(f"{len(exported.revision.steps)} steps to {len(exported.revision.definitions)} definitions")
            return self.out.print(escape(str(file)))
        try:
            sys.stdout.flush()
            sys.stdout.buffer.write(exported.text.encode("utf-8"))
            sys.stdout.buffer.flush()
        except OSError as error:
            raise OutputError(*error.args) from error
        return None

    def verified(self, found: Verification, most: int) -> None:
        """Whether a chained image equals the full rebuild. Of differences, `most` are told."""
        if self.as_json:
            told = {"message": UNEQUAL, "detail": "\n".join(found.differences), "kind": "InternalError"}
            self.json({**found.to_json(), "errors": [told] if found.differences else []})
        if found.status == "full":
            if not self.as_json:
                self.message(f"nothing to compare: the sources can't be chained: {found.full_rebuild_reason}")
            return
        self.message(
            f"native code: {found.native_more} functions more, {found.native_fewer} fewer than the full rebuild"
        )
        if found.moved:
            self.message(f"{found.moved} line numbers are the base image's, of code and docstrings that the edit moved")
        if not found.differences:
            self.message(f"verified: the chained image equals the full rebuild ({found.facts} facts compared)")
            return
        if not self.as_json:
            for difference in found.differences[:most]:
                self.out.print(escape(difference))
            if (more := len(found.differences) - most) > 0:
                self.out.print(f"... and {more} more")
        self.err.print(f"[bold red]basedev:[/] {UNEQUAL} ({len(found.differences)} of {found.facts} facts)")

    def bisected(self, outcome: Outcome) -> None:
        """The first bad commit, and what it changed."""
        if self.as_json:
            return self.json({**outcome.to_json(), "errors": []})
        out = self.out
        self.message(f"{len(outcome.record.tests)} tests in {outcome.record.seconds:.1f} s")
        if outcome.status == "open":
            out.print("Commits that can't be tested hide the first bad commit. It is one of these:")
        for one in outcome.culprits:
            if outcome.status == "open":
                out.print(f"  {one.commit} {escape(one.subject)}")
                continue
            out.print(f"[bold]{one.commit}[/] is the first bad commit")
            out.print(f"Author: {escape(one.author)}\nDate:   {one.date}\n\n    {escape(one.subject)}\n")
        for path in outcome.files:
            out.print(f"  {escape(path)}")
        self._definitions(out, outcome.definitions or ())
        return None

    def bisection(self, state: State) -> None:
        """Where a bisection stands."""
        if self.as_json:
            return self.json({**state.to_json(), "errors": []})
        words = {
            "none": "no bisection",
            "running": "a bisection is under way",
            "interrupted": "a bisection was interrupted: go on with basedev bisect run --resume",
            "found": "the last bisection found the first bad commit",
            "open": "skipped commits hide what the last bisection sought",
        }
        self.message(words[state.status])
        if state.log:
            self.out.print(escape(state.log))
        return None

    def servers(self, status: str, servers: Sequence[Server]) -> None:
        """The warm servers that were started, stopped or found."""
        if self.as_json:
            return self.json({"status": status, "servers": [one.to_json() for one in servers], "errors": []})
        if not servers:
            return self.message("no server is running")
        for one in servers:
            busy = f"{counted(one.building, 'build')} under way" if one.building else f"idle for {age(one.idle)}"
            self.out.print(
                f"{'' if status == 'shown' else f'{status}: '}server {one.pid} on the base image {escape(one.base_id)}:"
                f" {counted(one.builds, 'build')} in {age(one.seconds)}, {busy} (of {age(one.limits.idle)}),"
                f" memory {size(one.memory)} (of {size(one.limits.memory)})"
            )
        return None

    def aborted(self, was_there: bool) -> None:
        """That a bisection was forgotten, or that there was none."""
        if self.as_json:
            return self.json({"status": "aborted" if was_there else "none", "errors": []})
        return self.message("the bisection is forgotten" if was_there else "there is no bisection")

    def patches_checked(self, checked: Iterable[Checked]) -> bool:
        """To which trees the patches can be applied. Returns whether to all."""
        trees = []
        for one in checked:
            trees.append(one)
            if self.as_json:
                continue
            name = one.revision[:10] if one.revision else "the files here"
            self.out.print(escape(f"{name}: {'fits ' + str(one.family) if one.fits else 'does not fit'}"))
            for finding in one.findings:
                self.out.print(escape(f"  {finding}"))
        fit = all(one.fits for one in trees)
        if self.as_json:
            self.json({"status": "fits" if fit else "does not fit", "trees": [one.to_json() for one in trees]})
        return fit

    def patches_done(self, what: str, files: Sequence[str]) -> None:
        """The files that were changed or written."""
        if self.as_json:
            return self.json({"status": what, "files": list(files)})
        if not files:
            return self.message("there is nothing of the patches in this tree")
        for file in files:
            self.out.print(escape(file))
        return None

    def patches_status(self, state: str, found: Mapping[str, Applied]) -> None:
        """What a tree has of the patches."""
        if self.as_json:
            files = [
                {"path": path, "insertions": sorted(id for id, _ in has.marks), "problem": has.problem}
                for path, has in found.items()
            ]
            return self.json({"status": state, "files": files})
        words = {
            "other": "another version of them is applied, or a part: basedev patch revert, then apply",
            "edited": "applied, and edited since",
        }
        self.out.print(f"Patches: {words.get(state, state)}")
        for path, has in found.items():
            many = counted(len(has.marks), "insertion")
            self.out.print(escape(f"  {path}: {has.problem or ('all of it' if has.is_ours else many)}"))
        return None

    def findings(self, findings: Iterable[Finding]) -> set[str]:
        """What `doctor` finds, each as soon as it is found. Returns the states that were among them."""
        told = []
        styles = {"ok": "green", "warning": "yellow", "problem": "bold red"}
        for one in findings:
            told.append(one)
            if self.as_json:
                continue
            self.out.print(f"[{styles[one.state]}]{one.state:<8}[/] {one.check}: {escape(one.text)}")
            if one.remedy:
                self.out.print(f"{'':<8} [bold]to do:[/] {escape(one.remedy)}")
        states = Counter(one.state for one in told)
        if self.as_json:
            status = next(state for state in ("problem", "warning", "ok") if states[state] or state == "ok")
            self.json({"status": status, "findings": [vars(one) for one in told]})
        else:
            known = [counted(states[state], state) for state in ("problem", "warning") if states[state]]
            self.message(", ".join(known) or "all is well")
        return set(states)

    @staticmethod
    def _definitions(console: Console, definitions: tuple[Definition, ...]) -> None:
        for one in definitions:
            style = STYLES[one.change]
            what, where = escape(brief(one.what)), escape(place(one.path, one.line))
            console.print(f"  [bold]{what}[/] in {where} [{style}]{one.change}[/]")
