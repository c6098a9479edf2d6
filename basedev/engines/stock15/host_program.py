"""The C++ host: compiled at first use, cached by content, and spoken to through its pipes or its server's socket.

The requests and answers are described at the top of `host/main.cpp`.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from ... import process
from ...distribution import Distribution
from ...errors import InternalError, SetupError
from ...places import DEPENDENCIES
from ...revision import Evaluate, Move, Step
from ...servers import PATIENCE, READY, Service, greet
from ...storage import Storage, digest_of
from ...store import Store
from ..conversation import BROKEN, HostFailed, exchange, failure
from ..requests import encode, text_bytes

SOURCES = Path(__file__).parent / "host"
FLAGS = (
    *("-std=c++14", "-O1", "-fno-exceptions", "-fno-rtti", "-D_GNU_SOURCE"),
    *("-D__STDC_CONSTANT_MACROS", "-D__STDC_FORMAT_MACROS", "-D__STDC_LIMIT_MACROS"),
)


def host_program(distribution: Distribution, storage: Storage, progress: Callable[[str], None]) -> Path:
    """The compiled host for this Julia. Compiles it (half a minute) unless the cache has it.

    Raises SetupError when there is no C++ compiler, InternalError when it rejects the sources.
    """
    sources = sorted(SOURCES.glob("*.cpp"))
    if program := compiled_host(distribution, storage):
        return program
    store, key = Store(storage), _key(distribution)
    with storage.lock(f"host-{key}"):
        entry = store.find("hosts", key)  # another process may have made it meanwhile
        if entry is None:
            compiler = shutil.which("g++")
            if compiler is None:
                raise SetupError("there is no C++ compiler (g++): install the package g++ and retry")
            progress("compiling the engine's host")
            with storage.staging("host") as made:
                _compile(compiler, sources, distribution, made)
                entry = store.publish("hosts", key, made, {"distribution": distribution.key})
    return entry.file("host")


def compiled_host(distribution: Distribution, storage: Storage) -> Path | None:
    """The compiled host for this Julia, if the cache has it."""
    entry = Store(storage).find("hosts", _key(distribution))
    return entry.file("host") if entry else None


def service(program: Path, image: Path, distribution: Distribution) -> Service:
    """What a server on a base image runs."""
    words = ("--serve", str(image), str(distribution.standard_libraries), str(image.parent / DEPENDENCIES))
    return Service(program, words, image.parent.name, (program, image))


def _key(distribution: Distribution) -> str:
    sources = (part for path in sorted(SOURCES.iterdir()) for part in (path.name, path.read_bytes()))
    return digest_of(distribution.key, *FLAGS, *sources)[:20]


def _compile(compiler: str, sources: Sequence[Path], distribution: Distribution, made: Path) -> None:
    include, libraries = distribution.include, distribution.libraries
    includes: list[str | Path] = [
        "-I",
        include / "julia",
        "-isystem",
        include / "llvm-9",
        "-isystem",
        include / "llvm-c-9",
    ]

    temporary = {"TMPDIR": str(made)}  # where nothing is left behind by one that is killed

    objects = [made / f"{source.stem}.o" for source in sources]
    process.run_all(
        (
            [compiler, *FLAGS, *includes, "-c", source, "-o", compiled]
            for source, compiled in zip(sources, objects, strict=True)
        ),
        env=temporary,
    )
    command: list[str | Path] = [compiler, "-rdynamic", "-o", made / "host", *objects]
    command += [libraries / "libjulia.so.1", libraries / "libLLVM-9.so.1", "-ldl", f"-Wl,-rpath,{libraries}"]
    command += [f"-Wl,-rpath-link,{libraries}", "-Wl,--allow-shlib-undefined"]
    process.run(command, env=temporary)
    for leftover in objects:
        leftover.unlink()


class _Own:
    """A host started for this process."""

    failure: type[InternalError] = InternalError

    def __init__(self, program: Path, image: Path, distribution: Distribution, parsed: Path | None, log: int) -> None:
        self._process = subprocess.Popen(
            [program, image, str(os.getpid()), distribution.standard_libraries, *([parsed] if parsed else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,  # Ctrl-C is for basedev, which ends the host
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self.requests, self.answers = self._process.stdin, self._process.stdout

    def ready(self) -> None:
        """Returns when it can be asked."""

    def how_it_ended(self) -> int | None:
        """Its exit status, once it has ended; None where that can't be known."""
        return self._process.wait()

    def end(self, *, waiting: bool) -> None:
        """Ends it; it is gone then."""
        self._process.kill()
        self._process.wait()
        for stream in (self.requests, self.answers):
            with suppress(BrokenPipeError):
                stream.close()


class _Served:
    """A host that a warm server made for this process."""

    failure: type[InternalError] = HostFailed

    def __init__(self, connection: socket.socket, log: int) -> None:
        self._connection = connection
        self._waiting = True
        self.requests, self.answers = connection.makefile("wb"), connection.makefile("rb")
        with suppress(OSError):  # then it is not ready either
            greet(connection, log)

    def ready(self) -> None:
        """Returns when it can be asked. Raises OSError when it does not come to that."""
        if self._waiting:
            if self.answers.read(1) != READY:
                raise BrokenPipeError
            self._connection.settimeout(None)
            self._waiting = False

    def how_it_ended(self) -> int | None:
        """Its exit status is its server's to know."""
        return None

    def end(self, *, waiting: bool) -> None:
        """Ends it. With `waiting`, it is gone then, and what it was writing is written."""
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_WR)  # which kills it
            self._connection.settimeout(PATIENCE)
            while waiting and self._connection.recv(1 << 16):
                pass
        for stream in (self.requests, self.answers, self._connection):
            with suppress(OSError):
                stream.close()


class Host:
    """A running host on one image. Use as a context manager: leaving it ends the process."""

    unexports = True
    unbinds_last = False

    def __init__(
        self,
        program: Path,
        image: Path,
        distribution: Distribution,
        served: socket.socket | None = None,
        *,
        parsed: Path | None = None,
    ) -> None:
        """With `served`, a connection to the image's server, the host is a child of that. An own one takes what
        `keep_parsed` wrote."""
        # Not the terminal: the runtime makes its streams non-blocking.
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the host
        log = self._log.fileno()
        self._process = _Served(served, log) if served else _Own(program, image, distribution, parsed, log)
        self._evaluated: tuple[Sequence[Step], dict[str, Any]] | None = None
        """Steps that the host has evaluated, and its answer; it can still go back."""

    def __enter__(self) -> Host:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.end(waiting=kind is not None)
        self._log.close()

    def facts(self) -> dict[str, Any]:
        """Version, sizes of the image's tables, and the (module, path) of each source file in it."""
        return dict(self._ask(b"facts\n"))

    def parse(self, text: bytes) -> list[dict[str, Any]]:
        """The statements of a source text, as `host/syntax.h` describes them."""
        return self.parse_all([text])[0]

    def parse_all(self, texts: Sequence[bytes], *, check: bool = True) -> list[list[dict[str, Any]]]:
        """The statements of several source texts, of many in two processes.

        With `check`, each is read as a whole too, to see that no statement got lost: that was done for the sources of
        the base image when it was made.
        """
        numbered = (part for text in texts for part in (b"%d %d\n" % (len(text), check), text))
        parts = self._ask(b"parse %d\n" % len(texts), *numbered)
        return [parts[number % len(parts)][number // len(parts)] for number in range(len(texts))]

    def users(self, module: str, name: str) -> dict[str, Any]:
        """Who uses a name of a module, as `host/bindings.h` describes it."""
        whose, what = text_bytes(module), text_bytes(name)
        return dict(self._ask(b"users %d %d\n" % (len(whose), len(what)), whose, what))

    def native_signatures(self) -> list[str]:
        """The argument types of everything with native code in the image."""
        return list(self._ask(b"native\n"))

    def trial(self, steps: Sequence[Step]) -> dict[str, Any]:
        """What evaluating the steps does, found out in a process that is thrown away."""
        return dict(self._ask(b"trial %d\n" % len(steps), *encode(steps)))

    def rehearse(self, steps: Sequence[Step]) -> dict[str, Any]:
        """What `trial` answers, and why no native code of the image can be kept (`new_code_reason`), if it can't."""
        if self._evaluated and self._evaluated[0] == steps:
            return self._evaluated[1]
        return dict(self._ask(b"rehearse %d\n" % len(steps), *encode(steps)))

    def census(self, statements: Sequence[Evaluate], record: Path) -> list[str]:
        """Writes to `record` what evaluating each of the statements runs. Returns a digest of what each gives, zeros
        of one that fails."""
        path = os.fsencode(record)
        return list(self._ask(b"census %d %d\n" % (len(path), len(statements)), path, *encode(statements)))

    def keep_parsed(self, statements: Sequence[Evaluate], file: Path) -> None:
        """Writes to `file` what the parser makes of the statements, for hosts that are to evaluate them."""
        path = os.fsencode(file)
        self._ask(b"parsed %d %d\n" % (len(path), len(statements)), path, *encode(statements))

    def computed(self, steps: Sequence[Step], record: Path | None, dependencies: Path | None) -> dict[str, Any]:
        """What `trial` answers; as `computed` also the numbers of the statements of a census that ran what the
        steps change. With a record of dependencies, what they change is found by early cutoff."""
        paths = [os.fsencode(path) if path else b"" for path in (record, dependencies)]
        answer = dict(self._ask(b"computed %d %d %d\n" % (*map(len, paths), len(steps)), *paths, *encode(steps)))
        self._evaluated = steps, answer
        return answer

    def results(self, steps: Sequence[Step], statements: Sequence[Evaluate]) -> list[str]:
        """What each statement gives after the steps: a digest, or "error: " and the message."""
        # Where they have been evaluated, lines that moved make no difference.
        if self._evaluated and [step for step in self._evaluated[0] if not isinstance(step, Move)] == list(steps):
            parts = self._request(b"gave %d\n" % len(statements), *encode(statements))
        else:
            head = b"results %d %d\n" % (len(steps), len(statements))
            parts = self._ask(head, *encode(steps), *encode(statements))
        return [one or other for one, other in zip(*parts, strict=True)]

    def compare(self, steps: Sequence[Step], statements: Sequence[Evaluate]) -> list[tuple[str, str, str]]:
        """What each statement gives before the steps, once more, and after: a digest, or "error: " and the message."""
        head = b"compare %d %d\n" % (len(steps), len(statements))
        return list(zip(*self._ask(head, *encode(steps), *encode(statements)), strict=True))

    def apply(self, steps: Sequence[Step]) -> dict[str, Any]:
        """Evaluates the steps in the host, unless `computed` just did. Answers as `trial` does."""
        if self._evaluated and self._evaluated[0] == steps:
            _, answer = self._evaluated
            self._decide(b"keep\n")
            return answer
        return dict(self._ask(b"apply %d\n" % len(steps), *encode(steps)))

    def impact(self, steps: Sequence[Step], dependencies: Path | None) -> dict[str, Any]:
        """What `trial` answers, and what the steps invalidate, as `host/impact.h` describes it. Without a record of
        dependencies, nothing of what Julia ended is made valid again."""
        path = os.fsencode(dependencies) if dependencies else b""
        return dict(self._ask(b"impact %d %d\n" % (len(path), len(steps)), path, *encode(steps)))

    def go_back(self) -> None:
        """Undoes what `computed` evaluated."""
        self._decide(b"drop\n")

    def compile(self, directory: Path, dependencies: Path | None) -> dict[str, Any]:
        """Writes the layer for what was applied: objects and heap. With a record of dependencies, by early cutoff."""
        made, record = os.fsencode(directory), os.fsencode(dependencies) if dependencies else b""
        return dict(self._ask(b"compile %d %d\n" % (len(made), len(record)), made, record))

    def dependencies(self, record: Path) -> set[str]:
        """Writes to `record` what results of inference in the image depend on, beyond Julia's own edges.

        Returns the argument types of those that come out otherwise when they are inferred once more, alone.
        """
        return set(self._write(b"dependencies", record)["unstable"])

    def rebase(self, directory: Path) -> dict[str, Any]:
        """Writes all native code and the heap of the image anew: the parts of a base image."""
        return self._write(b"rebase", directory)

    def _write(self, verb: bytes, place: Path) -> dict[str, Any]:
        path = os.fsencode(place)
        return dict(self._ask(b"%s %d\n" % (verb, len(path)), path))

    def _decide(self, what: bytes) -> None:
        """Has the host keep what it has evaluated, or go back."""
        if self._evaluated:
            self._evaluated = None
            with suppress(OSError):  # then it does not answer the next request
                self._process.requests.write(what)
                self._process.requests.flush()

    def _ask(self, *parts: bytes) -> Any:
        self.go_back()
        return self._request(*parts)

    def _request(self, *parts: bytes) -> Any:
        try:
            self._process.ready()
            return exchange(self._process.requests, self._process.answers, parts)
        except BROKEN as error:
            raise failure(self._log, self._process.how_it_ended(), self._process.failure) from error
