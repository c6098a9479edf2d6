"""Asking a host: a request goes to it as it is, an answer comes as a line with the number of its bytes, and JSON.

What else a host prints is in its log, and is told when it comes to an end.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import pairwise
from typing import IO, Any

from ..errors import InternalError, SetupError, UserCodeError
from ..process import full_disk, how_it_ended

BROKEN = (BrokenPipeError, ConnectionResetError, TimeoutError)
"""What it is when a host ends, or its connection does, in place of an answer."""

FIRST, LAST = slice(40), slice(-30, None)
"""Lines of a log that are told."""

OWN_ERROR = "Internal error: encountered unexpected error in runtime:"
"""What the runtime prints above an error in Julia's compiler (src/gf.c)."""


class HostFailed(InternalError):
    """A host that a server had made ready came to its end: an ordinary one may do."""


def exchange(requests: IO[bytes], answers: IO[bytes], parts: Iterable[bytes]) -> Any:
    """The answer to a request that is sent in parts. Raises one of BROKEN when there is none."""
    for part in parts:
        requests.write(part)
    requests.flush()
    head = answers.readline().strip()
    answer = answers.read(int(head)) if head.isdigit() else b""
    if not answer or len(answer) != int(head):
        raise BrokenPipeError
    return json.loads(answer.decode("utf-8", "surrogateescape"))


def failure(
    log: IO[bytes], status: int | None, kind: type[InternalError] = InternalError, told: slice = LAST
) -> InternalError | SetupError | UserCodeError:
    """The error for a host that ended with this status (None: it is not known), of which `kind` is one."""
    log.seek(0)
    lines = log.read().decode(errors="replace").splitlines()
    said = [line.removeprefix("host: ") for line in lines if line.startswith("host: ")]
    if full := full_disk("\n".join(said or lines), status or 0):
        return full
    for number, (line, error) in enumerate(pairwise(lines)):
        if line == OWN_ERROR and not said:
            return UserCodeError(f"Julia's compiler, as it is edited, fails: {error}", "\n".join(lines[number:][FIRST]))
    what = said[-1] if said else "it ended" if status is None else f"it {how_it_ended(status)}"
    return kind(f"the engine's host failed: {what}", "\n".join(lines[told]))
