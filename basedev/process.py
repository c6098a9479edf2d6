"""Running other programs: quietly, with a log, and never outliving basedev.

Children get SIGKILL from the kernel when basedev dies (PR_SET_PDEATHSIG), so that a killed build
leaves nothing running. Output is kept for the message in case of failure.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from .errors import InternalError, SetupError

PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


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
    Raises SetupError when the program does not exist, InternalError when it fails, with the end
    of its output as detail.
    """
    words = [os.fspath(word) for word in command]
    merged = {**os.environ, **env} if env else None
    try:
        if log is None:
            done = subprocess.run(
                words,
                cwd=cwd,
                env=merged,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                preexec_fn=die_with_parent,
                check=False,
            )
            output = done.stdout.decode(errors="replace")
        else:
            with log.open("ab") as file:
                begin = file.tell()
                done = subprocess.run(
                    words,
                    cwd=cwd,
                    env=merged,
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=file,
                    preexec_fn=die_with_parent,
                    check=False,
                )
            with log.open("rb") as file:
                file.seek(begin)
                output = file.read().decode(errors="replace")
    except FileNotFoundError as error:
        raise SetupError(f"{words[0]} is not installed or not found") from error
    if done.returncode:
        how = f"was killed by signal {-done.returncode}" if done.returncode < 0 else f"exited with {done.returncode}"
        tail = "\n".join(output.splitlines()[-30:])
        raise InternalError(f"{Path(words[0]).name} {how}", tail)
    return output


@contextmanager
def timed(timings: dict[str, float], step: str) -> Iterator[None]:
    """Adds the seconds that a block takes to `timings`."""
    begin = time.monotonic()
    try:
        yield
    finally:
        timings[step] = time.monotonic() - begin
