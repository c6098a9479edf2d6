"""Spares: Julias that a server (`server.py`) has started for a build that is still to come, and hands over to it.

Those of a kind are a process group, which is killed as soon as nobody has the pipe to its leader. Who is given that,
with the ends of their streams, has the processes, and needs the server no more.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import TracebackType
from typing import Any

from ...checkout import Checkout
from ...process import PLACE, failed, start_watcher
from ...servers import LONGEST, PATIENCE, NoServer, Service, surroundings
from ...shim import LAUNCH
from ...storage import Stage, Storage
from ..conversation import HostFailed
from .baseimage import BaseImage
from .host_program import Streams, start_host
from .imagefile import waiting
from .surroundings import Variables, variables

HOSTS, WRITER = "hosts", "writer"

ALL, ASKING, PREPARE = b"w", b"h", b"p"
"""What a client begins with, before its surroundings: it makes an image; it only asks; it tells of one to come."""

WISHES: dict[bytes, tuple[str, ...]] = {ALL: (HOSTS, WRITER), ASKING: (HOSTS,), PREPARE: ()}
"""The kinds of spares that a client wants."""

FILES = {HOSTS: 1 + 2 * len(Streams._fields), WRITER: 5}
"""The descriptors of each kind: the pipe to the leader, and of each host its streams; or the writer's, and the guard of
its directory."""

TOLD_STATUS = '"$@" 3>&1 >&2; echo $?'
"""For sh: runs a program, and tells its exit status on standard output, which is not at its end before the program is
gone. (In a server, 3 is the lock.)"""

MODULES = tuple(Path(__file__).with_name(f"{name}.py") for name in ("server", "spares", "host_program", "imagefile"))
"""What a server does."""


@dataclass(frozen=True)
class Ground:
    """What spares are started on."""

    julia: Path
    image: Path
    code: Path
    host: Path
    target: str

    @property
    def files(self) -> tuple[Path, ...]:
        """Files that make them what they are."""
        libraries = self.julia.parent.parent / "lib"
        found = sorted(path for part in (libraries, libraries / "julia") for path in part.glob("*.so*"))
        return (self.julia, self.image, self.code, self.host, *MODULES, *filter(Path.is_file, found))


def service(base: BaseImage, checkout: Checkout) -> Service:
    """What a server on a base image runs."""
    ground = Ground(checkout.julia, base.sysimage, base.code, base.host, base.cpu_target)
    words = ("-c", LAUNCH.format("engines.patched.server"), str(PLACE))
    about = (str(getattr(ground, one.name)) for one in fields(ground))
    return Service(Path(sys.executable), (*words, *about), base.id, ground.files)


# ---- the server's end ----


@dataclass(frozen=True)
class Spare:
    """Processes of one kind that were started, and that nobody uses yet."""

    kind: str
    leader: subprocess.Popen[bytes]
    processes: tuple[subprocess.Popen[bytes], ...]
    files: tuple[int, ...]
    """What is handed over with them, but for the pipe to the leader."""
    stage: Stage | None = None
    begun: float = field(default_factory=time.monotonic)

    @property
    def is_live(self) -> bool:
        """Whether none of them has ended."""
        return all(one.poll() is None for one in (self.leader, *self.processes))

    def let_go(self) -> None:
        """Closes this process's ends of all, which another one may have."""
        assert self.leader.stdin is not None
        self.leader.stdin.close()
        for file in (*self.files, *([self.stage.guard] if self.stage else [])):
            os.close(file)

    def end(self) -> None:
        """Ends them. They are gone then."""
        with suppress(ProcessLookupError):
            os.killpg(self.leader.pid, signal.SIGKILL)
        for one in (self.leader, *self.processes):
            one.wait()
        if self.stage is None:
            return self.let_go()
        _, status, _ = self.files
        while os.read(status, 100):
            pass  # until that is gone which the wrapper had started
        guard = os.dup(self.stage.guard)
        self.let_go()
        return Stage(self.stage.path, guard).discard()


def start(kind: str, ground: Ground, storage: Storage, prepare: Callable[[], object], variables: Variables) -> Spare:
    """Starts spares with these variables; `prepare` is called in each before. Raises OSError, SubprocessError, or
    SetupError when the disk is full."""
    leader = start_watcher()

    def begin() -> None:
        os.setpgid(0, leader.pid)
        prepare()

    try:
        if kind == HOSTS:
            hosts = [start_host(ground.julia, ground.host, prepare=begin, variables=variables) for _ in range(2)]
            ends = tuple(end for _, streams in hosts for end in streams)
            return Spare(kind, leader, tuple(running for running, _ in hosts), ends)
        stage = storage.stage("spare")
        writer, ends = _start_writer(ground, stage.path, begin, variables)
        return Spare(kind, leader, (writer,), ends, stage)
    except BaseException:
        os.killpg(leader.pid, signal.SIGKILL)
        leader.wait()
        raise


def _start_writer(
    ground: Ground, work: Path, prepare: Callable[[], object], variables: Variables
) -> tuple[subprocess.Popen[bytes], tuple[int, ...]]:
    waits, goes_on = os.pipe()
    status, ended = os.pipe()
    command = waiting(ground.image, ground.code, ground.julia, ground.target, work, waits, rehearse=True)
    with tempfile.TemporaryFile() as log:
        running = subprocess.Popen(
            ["/bin/sh", "-c", TOLD_STATUS, "sh", *command],
            cwd=work,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=ended,
            stderr=log,
            pass_fds=[waits],
            preexec_fn=prepare,
        )
        os.close(waits)
        os.close(ended)
        return running, (goes_on, status, os.dup(log.fileno()))


def hand_over(spares: Sequence[Spare], connection: socket.socket) -> None:
    """Gives a client spares. Raises OSError when it is gone."""
    told, files = {}, []
    for one in spares:
        told[one.kind] = {"group": one.leader.pid, "place": str(one.stage.path) if one.stage else None}
        assert one.leader.stdin is not None
        files += [one.leader.stdin.fileno(), *one.files, *([one.stage.guard] if one.stage else [])]
    socket.send_fds(connection, [json.dumps(told).encode() + b"\n"], files)
    for one in spares:
        one.let_go()


# ---- the client's end ----


class Group:
    """Processes that were handed over."""

    def __init__(self, group: int, pipe: int) -> None:
        self._pipe = pipe
        own = os.getpriority(os.PRIO_PROCESS, 0)
        with suppress(ProcessLookupError):
            if os.getpriority(os.PRIO_PGRP, group) < own:
                os.setpriority(os.PRIO_PGRP, group, own)

    def end(self) -> None:
        """Ends them."""
        if self._pipe >= 0:
            os.close(self._pipe)
        self._pipe = -1


class Writer:
    """A Julia that waits for a revision in its directory, of which it writes an archive there (`imagefile.waiting`)."""

    def __init__(self, group: Group, place: str, files: Sequence[int]) -> None:
        self._group = group
        goes_on, status, log, guard = files
        self._stage = Stage(Path(place), guard)
        self._goes_on, self._status, self._log = os.fdopen(goes_on, "w"), os.fdopen(status), os.fdopen(log, "rb")

    @property
    def directory(self) -> Path:
        """Where it works."""
        return self._stage.path

    def go_on(self) -> None:
        """Lets it read the revision, and waits until it has ended. Raises HostFailed, SetupError when the disk is
        full."""
        self._goes_on.close()
        status = self._status.read().strip()
        if status != "0":
            self._log.seek(0)
            code = int(status) if status else -9
            output = self._log.read().decode(errors="replace")
            raise failed("julia", 128 - code if code > 128 else code, output, HostFailed)

    def end(self) -> None:
        """Ends it, and removes its directory."""
        self._group.end()
        self._goes_on.close()
        self._status.read()  # until it is gone
        for stream in (self._goes_on, self._status, self._log):
            stream.close()
        self._stage.discard()


class Spares:
    """What a server handed over. Use as a context manager: leaving it ends all."""

    def __init__(self, connection: socket.socket, told: Mapping[str, Mapping[str, Any]], files: Sequence[int]) -> None:
        self._connection = connection
        self._groups: dict[str, Group] = {}
        self.hosts: tuple[Streams, ...] = ()
        self.writer: Writer | None = None
        for kind, about in told.items():
            own, files = files[: FILES[kind]], files[FILES[kind] :]
            self._groups[kind] = group = Group(about["group"], own[0])
            if kind == HOSTS:
                self.hosts = Streams(*own[1:4]), Streams(*own[4:])
            else:
                self.writer = Writer(group, about["place"], own[1:])

    def __bool__(self) -> bool:
        return bool(self._groups)

    def end_hosts(self) -> None:
        """Ends those, which others have the streams of."""
        if HOSTS in self._groups:
            self._groups[HOSTS].end()

    def __enter__(self) -> Spares:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end_hosts()
        if self.writer:
            self.writer.end()
        self._connection.close()  # now the server starts others


def prepare(connection: socket.socket) -> None:
    """Tells a server that a client like this is to find spares."""
    with connection, suppress(OSError):  # then it has ended
        connection.sendall(PREPARE + surroundings(variables()))


def take(connection: socket.socket, wish: bytes, *, new: bool) -> Spares:
    """What a server has ready; it has nothing yet if it is new. Raises NoServer when it does not answer."""
    told: dict[str, dict[str, Any]] = {}
    files: list[int] = []
    try:
        connection.settimeout(PATIENCE)
        connection.sendall(wish + surroundings(variables()))
        if not new:
            text, files, _, _ = socket.recv_fds(connection, LONGEST, sum(FILES.values()), socket.MSG_CMSG_CLOEXEC)
            told = json.loads(text)
            if sum(FILES[kind] for kind in told) != len(files):
                raise ValueError
    except (OSError, ValueError, KeyError) as error:
        for file in files:
            os.close(file)
        connection.close()
        raise NoServer("it does not answer") from error
    return Spares(connection, told, files)
