"""Running other programs: quietly, with a log, and never outliving basedev.

A program and all that it starts in turn (a compiler driver's linker) are a process group of their own. It is killed
when basedev is interrupted, and by a watcher when basedev itself is killed. Output is kept for the message in case of
failure.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO

from .errors import InternalError, SetupError

INTERRUPTIONS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals by which a person, or the end of a terminal, asks a program to end."""

PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)

PACKAGES = {
    **dict.fromkeys(("ar", "as", "ld", "objcopy"), "binutils"),
    **{name: name for name in ("gcc", "g++", "git", "make")},
}
"""Where programs come from that a small system may lack."""

PLACE = Path(__file__).absolute().parents[1]
"""The directory in which Python finds this package."""

WATCHER = "read -r end; kill -9 0"
"""For sh: its standard input is a pipe that ends when basedev is gone."""

FULL_DISK = (
    *("No space left on device", "Disk quota exceeded", "File too large", "File size limit exceeded", "Disk full?"),
    "ld terminated with signal 7 ",  # lld, writing through a mapping
)
"""What programs say when there is no room for what they write."""


def die_with_parent() -> None:
    """For `preexec_fn`: asks the kernel to kill this child when its parent is gone."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def run(
    command: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    log: Path | None = None,
) -> str:
    """Runs a program to its end and returns what it printed (both streams).

    `env` is added to the environment. With `log`, the output is appended there as it comes.
    Raises SetupError when the program does not exist or the disk is full, InternalError when it fails in another
    way, with the end of its output as detail.
    """
    with started(command, cwd=cwd, env=env, log=log) as wait:
        return wait()


@contextmanager
def started(
    command: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    log: Path | None = None,
    pass_fds: Sequence[int] = (),
) -> Iterator[Callable[[], str]]:
    """Starts a program, and gives what does the rest of `run`. Leaving it ends the program, with all that it started.

    It gets the file descriptors `pass_fds`, under their numbers.
    """
    words = [os.fspath(word) for word in command]
    with log.open("a+b") if log else tempfile.TemporaryFile() as file, _watched_group() as group:
        begin = file.seek(0, os.SEEK_END)
        running = _start(words, cwd, env, file, group, pass_fds)

        def wait() -> str:
            status = running.wait()
            file.seek(begin)
            output = file.read().decode(errors="replace")
            if status:
                raise failed(words[0], status, output)
            return output

        try:
            yield wait
        finally:
            if running.poll() is None:
                os.killpg(group, signal.SIGKILL)
                running.wait()


def run_all(commands: Iterable[Sequence[str | Path]], *, env: Mapping[str, str] | None = None) -> None:
    """Runs programs to their ends, as many at a time as there are processors.

    `env` is added to the environment. When one fails, or basedev is interrupted, all are ended.
    Raises what `run` does.
    """
    # In one thread: Python's locks do not survive an interruption at every moment, and a fork in a thread is none of
    # those that are safe.
    waiting = deque([os.fspath(word) for word in command] for command in commands)
    running: dict[int, tuple[subprocess.Popen[bytes], IO[bytes], str]] = {}
    with ExitStack() as files, _watched_group() as group:
        try:
            while waiting or running:
                if waiting and len(running) < (os.cpu_count() or 1):
                    words = waiting.popleft()
                    log = files.enter_context(tempfile.TemporaryFile())
                    started = _start(words, None, env, log, group)
                    running[started.pid] = started, log, words[0]
                    continue
                ended = os.waitid(os.P_PGID, group, os.WEXITED | os.WNOWAIT)
                assert ended is not None  # as nothing says that it is not to wait
                done, output, program = running.pop(ended.si_pid)
                if status := done.wait():
                    output.seek(0)
                    raise failed(program, status, output.read().decode(errors="replace"))
        except BaseException:
            os.killpg(group, signal.SIGKILL)
            for one, _, _ in running.values():
                one.wait()
            raise


def without_settings(pattern: str) -> list[str]:
    """What a command begins with that is not to see the environment's variables with such names."""
    return ["env", *(word for name in sorted(os.environ) if re.fullmatch(pattern, name) for word in ("-u", name))]


def start_module(name: str, *words: str | Path) -> None:
    """Starts a module of this package as a program that goes on when basedev ends, and that nobody waits for."""
    running = subprocess.Popen(
        [sys.executable, "-m", f"{__package__}.{name}", *words],
        cwd=PLACE,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    running.returncode = 0  # not asked for: its end is the system's affair


class Background:
    """A program that runs while basedev does something else; it never outlives basedev.

    Use it in a `with` statement, or call `end`. Its two streams are kept. One that is `held` waits for a line on its
    standard input, which `let_go` writes. Raises OSError when it can't be started.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        held: bool = False,
    ) -> None:
        self.began = time.monotonic()
        with ExitStack() as resources:
            self._streams = [resources.enter_context(tempfile.TemporaryFile()) for _ in range(2)]
            group = resources.enter_context(_watched_group())

            def prepare() -> None:
                os.setpgid(0, group)
                signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's `&` has it ignored

            self._process = subprocess.Popen(
                [os.fspath(word) for word in command],
                cwd=cwd,
                env={**os.environ, **env} if env else None,
                stdin=subprocess.PIPE if held else subprocess.DEVNULL,
                stdout=self._streams[0],
                stderr=self._streams[1],
                preexec_fn=prepare,
            )
            self._resources = resources.pop_all()

    def let_go(self) -> None:
        """Lets it begin if it was held."""
        self.began = time.monotonic()
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended: its status tells
            self._process.stdin.write(b"\n")
            self._process.stdin.close()

    @property
    def status(self) -> int | None:
        """Its exit status (-n after signal n), None while it runs."""
        return self._process.poll()

    @property
    def output(self) -> str:
        """What it has printed on standard output until now."""
        return self._said(0)

    @property
    def errors(self) -> str:
        """What it has printed on standard error until now."""
        return self._said(1)

    def end(self, gently: signal.Signals = signal.SIGINT, grace: float = 2.0) -> None:
        """Ends it if it still runs: with a signal that lets it clean up, then by force, with all that it started.

        `grace` is in seconds. What it printed can't be read any more.
        """
        if self._process.poll() is None:
            family = descendants(self._process.pid)
            self._process.send_signal(gently)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(grace)
            if self._process.poll() is None:
                family |= descendants(self._process.pid)
                self._process.kill()
                self._process.wait()
            for pid in family:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        if self._process.stdin is not None:
            with suppress(BrokenPipeError):
                self._process.stdin.close()
        self._resources.close()

    def __enter__(self) -> Background:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def _said(self, stream: int) -> str:
        file = self._streams[stream]
        # not by its position, which the program has in common with this process
        return os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0).decode(errors="replace")


def descendants(*pids: int) -> set[int]:
    """All processes that some processes have started, and those have, in whatever process group they are."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parent = int(stat.read_bytes().rpartition(b")")[2].split()[1])
            children.setdefault(parent, []).append(int(stat.parent.name))
    found: set[int] = set()
    fresh = [*pids]
    while fresh:
        fresh = [child for parent in fresh for child in children.get(parent, ()) if child not in found]
        found.update(fresh)
    return found


def memory(pid: int) -> int:
    """The proportional set size of a process, in bytes: what it shares with others counts in parts. Raises OSError when
    it is gone, or another user's."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def full_disk(output: str, status: int = 0) -> SetupError | None:
    """The error for a program's failure when a full disk is its reason."""
    said = [line for line in output.splitlines() if any(text in line for text in FULL_DISK)]
    if status == -signal.SIGXFSZ:
        said.append("File too large")
    remedy = "free some space, or set BASEDEV_CACHE to a directory on another"
    return SetupError(f"the disk is full ({said[-1].strip()}): {remedy}") if said else None


def how_it_ended(status: int) -> str:
    """An exit status in words."""
    if status != -signal.SIGKILL:
        return f"was killed by signal {-status}" if status < 0 else f"exited with {status}"
    return "was killed by signal 9 (is there enough memory?)"


def exit_code(status: int) -> int:
    """An exit status as a shell has it: 128 + n after signal n."""
    return status if status >= 0 else 128 - status


def _start(
    words: list[str],
    cwd: Path | None,
    env: Mapping[str, str] | None,
    output: IO[bytes],
    group: int,
    pass_fds: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Starts a program as one of a watched group."""
    try:
        return subprocess.Popen(
            words,
            cwd=cwd,
            env={**os.environ, **env} if env else None,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            preexec_fn=lambda: os.setpgid(0, group),
            pass_fds=pass_fds,
        )
    except (FileNotFoundError, PermissionError) as error:
        if error.filename != words[0]:
            raise
        package = PACKAGES.get(Path(words[0]).name)
        remedy = f": install the package {package} and retry" if package else ""
        raise SetupError(f"{words[0]} can't be run: {error.strerror}{remedy}") from error


def start_watcher() -> subprocess.Popen[bytes]:
    """The leader of a new process group, which is killed as soon as nobody has the other end of its standard input."""
    return subprocess.Popen(
        ["/bin/sh", "-c", WATCHER],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=os.setpgrp,
    )


@contextmanager
def _watched_group() -> Iterator[int]:
    """A process group that is killed as soon as this process is gone. Its leader is what watches."""
    watcher = start_watcher()
    try:
        yield watcher.pid
    except BaseException:
        os.killpg(watcher.pid, signal.SIGKILL)  # what an interruption left that came before anyone waited for it
        raise
    finally:
        watcher.kill()
        watcher.wait()
        assert watcher.stdin is not None
        watcher.stdin.close()


def failed(
    program: str, status: int, output: str, kind: type[InternalError] = InternalError
) -> SetupError | InternalError:
    """The error for a program that ended with this status, of which `kind` is one, with the end of its output."""
    tail = "\n".join(output.splitlines()[-30:])
    return full_disk(output, status) or kind(f"{Path(program).name} {how_it_ended(status)}", tail)


@contextmanager
def timed(timings: dict[str, float], step: str) -> Iterator[None]:
    """Notes in `timings` how many seconds a block takes."""
    begin = time.monotonic()
    try:
        yield
    finally:
        timings[step] = time.monotonic() - begin
