"""The host: Julia on a base image with `host.jl`, which answers questions about sources and definitions."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import tempfile
from array import array
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from ...census import DOCUMENTS_OTHERWISE, MACHINERY_OF_DOCS
from ...errors import InternalError, NeedsFullRebuild
from ...process import die_with_parent, how_it_ended, without_settings
from ...revision import Delete, Evaluate, Step, Unbind
from ...signatures import pretty
from ..conversation import BROKEN, FIRST, HostFailed, exchange, failure
from ..requests import encode
from .census import DOCUMENTING, KeptCensus, what
from .surroundings import NOT_SEEN, Variables

SCRIPT = Path(__file__).with_name("host.jl")

GENERATES = " generates"
"""What `census.jl` marks the result of a statement with that defines a generated method."""

INIT = "__init__"
"""What Julia calls of each module when it starts."""

IN_THE_WAY = ("it is already declared", "conflicts with an existing")
"""What Julia says where a name is exported that was public, or imported where it was bound."""

TRIALS = 4
"""Processes that are kept for further questions about the steps that each has performed: more than a round of revising
asks. Each takes some 0.4 GB of memory."""

FATAL = "fatal: error thrown"
"""What Julia prints above an error that nothing catches."""


class Streams(NamedTuple):
    """The ends of a host's streams that are for who asks it: file descriptors."""

    requests: int
    answers: int
    log: int


def _apart() -> None:
    """For `preexec_fn`: Ctrl-C is for basedev, which ends this child, and one that is at work ends with basedev."""
    os.setsid()
    die_with_parent()


def start_host(
    julia: Path,
    image: Path,
    program: Sequence[str | Path] = (),
    *,
    prepare: Callable[[], object] = _apart,
    variables: Variables | None = None,
) -> tuple[subprocess.Popen[bytes], Streams]:
    """Starts a Julia that runs `host.jl`, which is `program` or in the image, by default with this process's variables.
    `prepare` is called in it before."""
    # Its own standard streams are for what evaluated code prints.
    with tempfile.TemporaryFile() as log:
        asked, requests = os.pipe()
        answers, answered = os.pipe()
        command: list[str | Path] = [*without_settings(NOT_SEEN), julia, "-J", image]
        command += ["--startup-file=no", "--history-file=no", "-O1", *program, "-e", f"BasedevHost.serve({answered})"]
        try:
            running = subprocess.Popen(
                command,
                cwd="/",
                env=variables,
                stdin=asked,
                stdout=log,
                stderr=log,
                pass_fds=[answered],
                preexec_fn=prepare,
            )
        finally:
            os.close(asked)
            os.close(answered)
        return running, Streams(requests, answers, os.dup(log.fileno()))


class _Process:
    """A host, of which `running` is None if it is a server's child."""

    def __init__(self, running: subprocess.Popen[bytes] | None, streams: Streams) -> None:
        self._running = running
        self._requests, self._answers = os.fdopen(streams.requests, "wb"), os.fdopen(streams.answers, "rb")
        self._log = os.fdopen(streams.log, "rb")
        self.has_steps = False
        """Whether it was asked to perform steps, of which it can come to an end."""

    def ask(self, *parts: bytes) -> Any:
        """Its answer to a request.

        When it ends instead, raises NeedsFullRebuild if that may be for steps, SetupError when the disk is full, and
        InternalError otherwise.
        """
        try:
            return exchange(self._requests, self._answers, parts)
        except BROKEN as error:
            if self._running is None:
                raise failure(self._log, None, HostFailed, FIRST) from error
            failed = failure(self._log, status := self._running.wait(), told=FIRST)
            if self.has_steps and type(failed) is InternalError and status != -signal.SIGKILL:
                raise NeedsFullRebuild(
                    f"a Julia does not go on when what changed is evaluated in it: {_last_words(failed, status)}"
                ) from error
            raise failed from error

    def end(self) -> None:
        """Ends it, unless that is the affair of who has its process group."""
        if self._running is not None:
            self._running.kill()
            self._running.wait()
        for stream in (self._requests, self._answers, self._log):
            with suppress(BrokenPipeError):
                stream.close()


def _last_words(failed: InternalError, status: int) -> str:
    """The error that ended a Julia, as far as it told it."""
    lines = failed.detail.splitlines()
    return next((line for before, line in pairwise(lines) if before.startswith(FATAL)), f"it {how_it_ended(status)}")


def _edits_docs(steps: Sequence[Step]) -> bool:
    return any(isinstance(step, Evaluate) and f"base/{step.file}".startswith(MACHINERY_OF_DOCS) for step in steps)


def _documents_once(method: dict[str, Any]) -> bool:
    """Whether a method keeps docstrings while Julia is built, until it can document, or begins a module's."""
    return method["file"] == "docs/core.jl" or (method["module"], method["name"]) in (
        ("Base.Docs", "loaddocs"),
        ("Base.Docs", "initmeta"),
    )


def _text_of(step: Step) -> tuple[str, str, str] | None:
    """What tells a statement from others, wherever its lines are."""
    return (step.module, step.file, step.text) if isinstance(step, Evaluate) else None


def _bound_otherwise(answer: dict[str, Any]) -> set[tuple[str, str]]:
    """The names, with their modules, that a trial bound to something else than before."""
    kinds = ("constant", "type", "function")
    return {(one["module"], one["name"]) for one in answer["names"] if one["kind"] in kinds and not one["new"]}


def _about_name(request: str, module: str, name: str) -> tuple[bytes, bytes, bytes]:
    words = module.encode(), name.encode()
    return f"{request} {len(words[0])} {len(words[1])}\n".encode(), *words


def defining(steps: Sequence[Step]) -> list[Step]:
    """Those of a revision's steps that a host performs: what it tells of steps by their numbers are these."""
    return [step for step in steps if isinstance(step, Evaluate | Delete | Unbind)]


LIMITING = re.compile(r"(.*\.max_methods)\s*=\s*UInt8\((\d+)\)")
"""Says how many methods of a function inference may look at; 0: as many as of others."""


def _limits(steps: Sequence[Step]) -> dict[str, str]:
    """Functions, as the steps name the fields with the numbers, and how many of their methods inference may look at."""
    found = (LIMITING.match(step.text) for step in steps if isinstance(step, Evaluate))
    return {one[1]: one[2] for one in found if one}


def _limited(steps: Sequence[Step]) -> str | None:
    """Why any code may come out otherwise after steps that leave the compiler as it is, if so. Where inference may look
    at one method only, edges tell what was inferred with more; of other numbers, code that gave up does not tell that
    it did."""
    other = (one for one, number in _limits(steps).items() if number != "1")
    return next((f"inference may look at another number of methods ({one})" for one in other), None)


@dataclass(frozen=True)
class Kept:
    """What early cutoff found (`cutoff.jl`). A CodeInstance is its distance in bytes from the type CodeInstance, in the
    heap of the base image, and the hash of its arguments' types."""

    code: Sequence[tuple[int, int, int, bool]] = ()
    """Each CodeInstance that stays valid, its effects, and whether an edge of it is to be replaced."""
    succeeded: Sequence[tuple[int, int]] = ()
    """CodeInstances of which native code has to come to what took their place."""
    generated: Sequence[tuple[int, int]] = ()
    """MethodInstances of generated methods that are defined again: what they generate now is found out before anything
    stays valid."""
    ended: Sequence[tuple[int, int]] = ()
    """CodeInstances that the edited compiler makes otherwise, and Julia does not end."""
    is_compilers: bool = False
    """Whether what compiles is another from now on."""
    inferred: int | None = None
    """How many were inferred anew for that; None where it was not asked."""
    no_cutoff_reason: str | None = None

    def encoded(self) -> bytes:
        """For the program that writes an image (`chain.jl`): the lengths of four lists of numbers, whether there is
        another compiler, and the lists."""
        parts = (self.generated, self.code, self.succeeded, self.ended)
        lists = [[int(one) for entry in part for one in entry] for part in parts]
        numbers = [*map(len, lists), int(self.is_compilers), *(one for part in lists for one in part)]
        return array("q", numbers).tobytes()


class Host:
    """Answers what `revise` asks about one image. Use as a context manager: leaving it ends all its processes."""

    unexports = False
    """An export is a part of the binding, in each world, and other modules have it resolved."""
    unbinds_last = True

    def __init__(
        self,
        julia: Path,
        image: Path,
        census: KeptCensus | None = None,
        *,
        has_program: bool = False,
        spares: Sequence[Streams] = (),
        end_spares: Callable[[], object] | None = None,
    ) -> None:
        """`has_program` tells that the image has the host's program in it (`hostimage.py`). `spares` are those of two
        hosts on it which a server has started, and `end_spares` ends."""
        self._julia, self._image, self._census = julia, image, census
        self._program: list[str | Path] = [] if has_program else ["-L", SCRIPT]
        self._end_spares = end_spares
        self._all = [_Process(None, streams) for streams in spares] or [self._start(), self._start()]
        self._asked = self._all[0]
        """What evaluates nothing."""
        self._next: _Process | None = self._all[1]
        """Started before it is needed."""
        self.invalidated = 0
        """How many MethodInstances had code that the steps end which `computed` was asked about last."""
        self.anew_reason: str | None = None
        """Why any code may come out otherwise, if so: they change what Julia's compiler uses, a method of its own, or
        how much it looks at."""
        self._parsed: dict[bytes, list[dict[str, Any]]] = {}
        self._alike: set[tuple[str, str, str] | None] = set()
        """Statements that define generated methods, whose generators run what changed and give the same."""
        self._trials: list[tuple[list[Step], dict[str, Any], _Process]] = []

    def __enter__(self) -> Host:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._end_spares:
            self._end_spares()
        for one in self._all:
            one.end()

    def _start(self) -> _Process:
        return _Process(*start_host(self._julia, self._image, self._program))

    def _fresh(self) -> _Process:
        """A process that has evaluated nothing yet, and may."""
        if self._next is None:
            self._all.append(self._start())
            return self._all[-1]
        fresh, self._next = self._next, None
        return fresh

    def facts(self) -> dict[str, Any]:
        """Version, the (module, path) of each source file in the image that Julia recorded, and one of its parser."""
        return dict(self._asked.ask(b"facts\n"))

    def native_signatures(self) -> list[str]:
        """The argument types of everything with native code in the image."""
        return list(self._asked.ask(b"native\n"))

    def unstable(self) -> list[str]:
        """The argument types of what has native code and comes out otherwise when it is inferred once more."""
        return list(self._asked.ask(b"unstable\n"))

    def parse_all(self, texts: Sequence[bytes], *, check: bool = True) -> list[list[dict[str, Any]]]:
        """The statements of several source texts; each is read as a whole too, to see that none got lost."""
        unknown = [text for text in dict.fromkeys(texts) if text not in self._parsed]
        if unknown:
            numbered = (part for text in unknown for part in (b"%d\n" % len(text), text))
            self._parsed.update(zip(unknown, self._asked.ask(b"parse %d\n" % len(unknown), *numbered), strict=True))
        return [self._parsed[text] for text in texts]

    def checksum(self, text: bytes) -> int:
        """The CRC-32c of a text."""
        return int(self._asked.ask(b"checksum %d\n" % len(text), text))

    def census(self, statements: Sequence[Evaluate], record: Path) -> list[str]:
        """Writes to `record` what evaluating each of the statements runs. Returns a digest of what each gives, or
        "error: " and the message."""
        path = os.fsencode(record)
        return list(self._fresh().ask(b"census %d %d\n" % (len(path), len(statements)), path, *encode(statements)))

    def trial(self, steps: Sequence[Step]) -> dict[str, Any]:
        """What evaluating the steps does, found out in a process that is thrown away.

        Raises NeedsFullRebuild where only a Julia without the old definitions can evaluate them.
        """
        answer = dict(self._trial(defining(steps))[0])
        for error in answer["errors"]:
            if any(words in error["message"] for words in IN_THE_WAY):
                raise NeedsFullRebuild(error["message"].splitlines()[0])
        return answer

    def impact(self, steps: Sequence[Step]) -> dict[str, Any]:
        """What `trial` tells, and what the steps invalidate, as `impact.jl` describes it."""
        steps, process = defining(steps), self._fresh()
        process.has_steps = True
        return dict(process.ask(b"impact %d\n" % len(steps), *encode(steps)))

    def _trial(self, steps: list[Step]) -> tuple[dict[str, Any], _Process]:
        """What evaluating the steps does, and the process that did it."""
        for tried, answer, process in self._trials:
            if tried == steps:
                return answer, process
        process = self._fresh()
        alike = (str(number) for number, step in enumerate(steps) if _text_of(step) in self._alike)
        process.has_steps = True
        answer = dict(process.ask(f"trial {' '.join([str(len(steps)), *alike])}\n".encode(), *encode(steps)))
        self._trials.append((steps, answer, process))
        for _, _, one in self._trials[:-TRIALS]:
            one.end()
            self._all.remove(one)
        del self._trials[:-TRIALS]
        return answer, process

    def computed(self, steps: Sequence[Step], record: Path | None, dependencies: Path | None) -> dict[str, Any]:
        """What `trial` tells of the steps, and the numbers of the statements of the census that ran what they change.

        Raises NeedsFullRebuild where it is not known whether these give the same, or how to take back what they did.
        """
        steps = defining(steps)
        answer, process = self._trial(steps)
        if answer["errors"]:
            said = answer["errors"][0]["message"].splitlines()[0]
            raise NeedsFullRebuild(f"a definition can't be taken back: {said}")
        if fresh := [one["module"] for one in answer["defined"] if one["name"] == INIT and not one["replaces"]]:
            raise NeedsFullRebuild(f"{fresh[0]}.{INIT} is new: which modules have one is noted while Julia is built")
        seen = min(map(pretty, process.ask(b"compiler\n")), default=None)
        self.anew_reason = f"Julia's compiler uses what changed (in {seen})" if seen else _limited(steps)
        self._check_left(process, steps, answer)
        self.invalidated = answer["invalidated"]
        if record is None or self._census is None:
            return {**answer, "computed": [], "never_generated": []}
        path = os.fsencode(record)
        ran = dict(process.ask(b"affected %d\n" % len(path), path))
        edited = {one["name"] for one in answer["defined"] if one["replaces"]}
        edited |= {step.name for step in steps if isinstance(step, Delete)}
        self._census.check_failing(ran["computed"], edited)
        if any(_documents_once(one) for one in answer["defined"]):
            raise NeedsFullRebuild(DOCUMENTS_OTHERWISE)
        self._check_others(self._census, process, steps, ran["computed"])
        return {**answer, **ran, "computed": [one for one in ran["computed"] if one < self._census.computing]}

    def _check_others(self, census: KeptCensus, process: _Process, steps: Sequence[Step], ran: Sequence[int]) -> None:
        """Raises NeedsFullRebuild when a statement that can't be taken back gives something else."""
        entries = [census.entries[number] for number in ran if number >= census.computing]
        if any(entry.text == DOCUMENTING for entry in entries) and _edits_docs(steps):
            self._check_documented(census, process)
        gave = self._results(process, list(map(census.evaluation, entries)))
        other = [(entry, digest) for entry, digest in zip(entries, gave, strict=True) if digest != entry.digest]
        before, again = self._twice_before(list(map(census.evaluation, (entry for entry, _ in other))))
        for (entry, after), one, two in zip(other, before, again, strict=True):
            if not one == two == after:
                raise NeedsFullRebuild(
                    DOCUMENTS_OTHERWISE
                    if entry.text == DOCUMENTING
                    else f"{what(entry)} runs what changed, and what it did can't be taken back"
                )

    def _check_documented(self, census: KeptCensus, process: _Process) -> None:
        """Raises NeedsFullRebuild when what has docstrings has others than before if it is documented once more."""
        statements = census.documenting()
        request = (b"documented %d\n" % len(statements), *encode(statements))
        if self._fresh().ask(*request) != process.ask(*request):
            raise NeedsFullRebuild(DOCUMENTS_OTHERWISE)

    def _twice_before(self, statements: Sequence[Evaluate]) -> tuple[list[str], list[str]]:
        """What each statement gives without any steps, and once more."""
        fresh = self._fresh() if statements else self._asked
        return self._results(fresh, statements), self._results(fresh, statements)

    @staticmethod
    def _results(process: _Process, statements: Sequence[Evaluate]) -> list[str]:
        return list(process.ask(b"results %d\n" % len(statements), *encode(statements))) if statements else []

    def users(self, module: str, name: str) -> dict[str, Any]:
        """The modules in which a name stands for the same. Users of a macro are found by what they give."""
        if name.startswith("@"):
            return {"modules": [], "methods": [], "objects": False}
        return {"modules": self._asked.ask(*_about_name("users", module, name)), "methods": [], "objects": False}

    def _check_left(self, process: _Process, steps: Sequence[Step], answer: dict[str, Any]) -> None:
        """Raises NeedsFullRebuild when something of the image has what a name was bound to before."""
        unbound = {(step.module, step.name) for step in steps if isinstance(step, Unbind)}
        for module, name in sorted(_bound_otherwise(answer) | unbound):
            if left := process.ask(*_about_name("left", module, name)):
                one = min(pretty(one) if one.startswith("Tuple{") else one for one in left)
                raise NeedsFullRebuild(f"{module}.{name} is not what it was, and {one} has that")

    def kept(self, steps: Sequence[Step]) -> Kept:
        """What stays valid of the code that the steps end. To be asked last."""
        if _limits(steps):
            return Kept(no_cutoff_reason="inference may look at fewer methods")
        answer = self._trial(defining(steps))[1].ask(b"kept\n")
        return Kept(
            code=answer["kept"],
            succeeded=answer["succeeded"],
            generated=answer["generated"],
            inferred=answer["inferred"],
            no_cutoff_reason=answer["reason"],
        )

    def infer_anew(self, record: Path, steps: Sequence[Step] = ()) -> str | None:
        """Notes in a file what all code of the base image comes out as when its compiler infers it once more: after the
        steps, by the edited one. Returns the message when it fails."""
        process = self._trial(defining(steps))[1] if steps else self._fresh()
        path = os.fsencode(record)
        said = process.ask(b"anew %d\n" % len(path), path)
        return None if said is None else str(said).splitlines()[0]

    def kept_by_compiler(self, steps: Sequence[Step], record: Path) -> Kept:
        """What the edited compiler makes otherwise than `infer_anew` noted without steps. To be asked last, after that
        of the steps."""
        path = os.fsencode(record)
        answer = self._trial(defining(steps))[1].ask(b"kept_anew %d\n" % len(path), path)
        return Kept(
            code=answer["kept"],
            succeeded=answer["succeeded"],
            ended=answer["ended"],
            is_compilers=True,
            inferred=answer["inferred"],
        )

    def results(self, steps: Sequence[Step], statements: Sequence[Evaluate]) -> list[str]:
        """What each statement gives after the steps: a digest, or "error: " and the message."""
        return self._results(self._trial(defining(steps))[1], statements)

    def compare(self, steps: Sequence[Step], statements: Sequence[Evaluate]) -> list[tuple[str, str, str]]:
        """What each statement gives before the steps, once more, and after.

        Raises NeedsFullRebuild for one that does not give the same twice.
        """
        before, again = self._twice_before(statements)
        for statement, one, other in zip(statements, before, again, strict=True):
            if one != other or one.startswith("error: "):
                raise NeedsFullRebuild(
                    f"what {statement.file}:{statement.line} gives with what changed can't be told:"
                    " it gives something else each time"
                )
        after = self.results(steps, statements)
        self._alike |= {
            _text_of(statement)
            for statement, one, other in zip(statements, before, after, strict=True)
            if other == one + GENERATES
        }
        return list(zip(before, again, after, strict=True))
