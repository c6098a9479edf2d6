"""The warm server of a base image of current Julia: it has spares ready (`spares.py`), hands them over to the next
build, and starts others when that has ended.

basedev.engines.patched.server JULIA IMAGE CODE HOST TARGET SOCKET SECONDS BYTES
"""

from __future__ import annotations

import fcntl
import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ...errors import BasedevError
from ...process import descendants
from ...servers import LISTENER_FILE, LOCK_FILE, STATE, Limits, memory_of, peer
from ...storage import Storage
from .spares import FILES, PREPARE, WISHES, Ground, Spare, hand_over, start
from .surroundings import Variables

TICK = 1.0
"""Seconds between looks at what may end the server."""

LOADED = 5.0
"""Seconds after which spares have loaded what they wait with."""

LONGEST = 1 << 23
"""Bytes of a client's surroundings, at most."""

BACKLOG = 128
"""Clients that wait to be accepted."""


@dataclass(frozen=True)
class Surroundings:
    """What a client's processes have of it, besides its priority."""

    mask: int
    limits: tuple[tuple[int, int, int], ...]
    """Each resource, and its soft and hard limit."""
    variables: Variables

    @classmethod
    def read(cls, text: bytes) -> Surroundings | None:
        """What a client tells (`servers.surroundings`); None while it is not whole. Raises ValueError when it is
        nothing of the kind."""
        head, newline, rest = text.partition(b"\n")
        if not newline:
            return None
        word, _, mask, *lengths = head.split()
        limits, variables = map(int, lengths)
        if word != b"client" or not 0 <= limits + variables <= LONGEST:
            raise ValueError
        if len(rest) < limits + variables:
            return None
        each = (one.split(b":") for one in rest[:limits].split())
        pairs = (one.partition(b"=") for one in rest[limits : limits + variables].split(b"\0") if one)
        return cls(
            int(mask),
            tuple((int(number), int(soft), int(hard)) for number, soft, hard in each),
            {name: value for name, _, value in pairs},
        )

    def enter(self) -> None:
        """Makes them this process's, but for the variables."""
        os.umask(self.mask)
        for number, soft, hard in self.limits:
            resource.setrlimit(number, (soft, hard))


@dataclass
class _Client:
    connection: socket.socket
    said: bytes = b""
    is_served: bool = False
    builds: bool = False


@dataclass
class Server:
    """The server of one base image."""

    listener: socket.socket
    ground: Ground
    place: Path
    """Its socket."""
    limits: Limits

    _started: float = field(default_factory=time.monotonic)
    _last: float = field(default_factory=time.monotonic)
    """When a build ended."""
    _builds: int = 0
    _clients: dict[int, _Client] = field(default_factory=dict)
    _surroundings: Surroundings | None = None
    """Those of the last client."""
    _spares: dict[str, Spare] = field(default_factory=dict)
    _of: Surroundings | None = None
    """What the spares have."""
    _is_weighed: bool = False
    """Whether it is known what memory the spares need."""
    _handed_over: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def run(self) -> None:
        """Serves until it is idle for too long, needs too much memory, or is of no use any more."""
        of = self._of_files()
        poll = select.poll()
        poll.register(self.listener, select.POLLIN)
        try:
            while not self._is_over(of):
                for handle, _ in poll.poll(TICK * 1000):
                    if handle == self.listener.fileno():
                        self._accept(poll)
                    else:
                        self._hear(poll, self._clients[handle])
                self._handed_over = [one for one in self._handed_over if one.poll() is None]
                if not self._building:
                    self._renew()
        finally:
            self._end_spares()

    def _of_files(self) -> list[tuple[int, ...]] | None:
        """What tells the files that it is of from others; None when one is gone."""
        try:
            found = [path.stat() for path in self.ground.files]
            found.append(self.place.lstat())
        except OSError:
            return None
        return [(one.st_dev, one.st_ino, one.st_mtime_ns, one.st_size) for one in found]

    def _is_over(self, of: list[tuple[int, ...]] | None) -> bool:
        if of is None or self._of_files() != of:
            return True
        now = time.monotonic()
        is_over = not self._building and now - self._last >= self.limits.idle
        if self._spares and not self._is_weighed and now - max(one.begun for one in self._spares.values()) >= LOADED:
            self._is_weighed = True
            is_over = is_over or sum(map(memory_of, (os.getpid(), *self._pids))) > self.limits.memory
        if is_over:
            self.place.unlink()  # while it has the lock, so that it is its own
        return is_over

    def _accept(self, poll: select.poll) -> None:
        with suppress(OSError):
            connection, _ = self.listener.accept()
            if peer(connection)[1] != os.geteuid():
                connection.close()
                return
            connection.setblocking(False)
            self._clients[connection.fileno()] = _Client(connection)
            poll.register(connection, select.POLLIN)

    def _hear(self, poll: select.poll, client: _Client) -> None:
        try:
            said = client.connection.recv(1 << 16)
            client.said += said
            if said and not client.is_served:
                self._serve(client)
            if said and len(client.said) <= LONGEST:
                return
        except BlockingIOError:
            return
        except (OSError, ValueError):
            pass
        poll.unregister(client.connection)
        del self._clients[client.connection.fileno()]
        client.connection.close()
        if client.builds:
            self._builds += 1
            self._last = time.monotonic()

    def _serve(self, client: _Client) -> None:
        """Answers a client, once it has said all. Raises OSError when it is gone, ValueError when it is none."""
        wish = client.said[:1]
        if wish == STATE:
            client.is_served = True
            client.connection.send(json.dumps(self._state()).encode() + b"\n")
            return
        if wish not in WISHES:
            raise ValueError
        surroundings = Surroundings.read(client.said[1:])
        if surroundings is None:
            return
        client.is_served = True
        client.said = b""
        self._surroundings = surroundings
        if wish == PREPARE:
            return
        client.builds = True
        found = [self._spares.pop(kind) for kind in WISHES[wish] if self._has(kind)]
        self._handed_over += [process for one in found for process in (one.leader, *one.processes)]
        try:
            hand_over(found, client.connection)
        except OSError:
            for one in found:
                one.end()
            raise

    def _state(self) -> dict[str, object]:
        now, building = time.monotonic(), self._building
        return {
            "pid": os.getpid(),
            "builds": self._builds,
            "building": building,
            "idle": 0 if building else int(now - self._last),
            "seconds": int(now - self._started),
            "idle_limit": self.limits.idle,
            "memory_limit": self.limits.memory,
            "spares": self._pids,
        }

    @property
    def _building(self) -> int:
        return sum(one.builds for one in self._clients.values())

    @property
    def _pids(self) -> list[int]:
        started = {one.pid for spare in self._spares.values() for one in (spare.leader, *spare.processes)}
        return sorted(started | descendants(*started))

    def _has(self, kind: str) -> bool:
        """Whether there is a spare that fits the last client."""
        return kind in self._spares and self._of == self._surroundings and self._spares[kind].is_live

    def _renew(self) -> None:
        """Starts the spares that the next client will want, unless they are there. What can't be started, or ends
        before it is loaded, is tried again after the next client."""
        missing = [kind for kind in FILES if not self._has(kind)]
        if self._surroundings is None or not missing:
            return
        self._of, self._is_weighed = self._surroundings, False
        storage = Storage(self.ground.image.parents[2])
        for kind in missing:
            old = self._spares.pop(kind, None)
            if old and self._end_early(old):
                self._surroundings = None
                return
            try:
                self._spares[kind] = start(kind, self.ground, storage, self._of.enter, self._of.variables)
            except (OSError, subprocess.SubprocessError, BasedevError) as error:
                print(error, file=sys.stderr, flush=True)
                self._surroundings = None
                return

    @staticmethod
    def _end_early(spare: Spare) -> bool:
        """Ends a spare, and tells whether it had ended by itself before it was loaded."""
        is_early = not spare.is_live and time.monotonic() - spare.begun < LOADED
        spare.end()
        return is_early

    def _end_spares(self) -> None:
        for one in self._spares.values():
            one.end()
        self._spares.clear()


def main() -> int:
    """The command. Returns at once, and goes on in a child, to which clients can connect then."""
    os.closerange(LOCK_FILE + 1, os.sysconf("SC_OPEN_MAX"))
    goes_on, told = os.pipe()
    if os.fork():
        os.close(told)
        os.read(goes_on, 1)
        os._exit(0)
    os.close(goes_on)
    os.setsid()
    os.umask(0o077)
    os.chdir("/")
    os.set_inheritable(LOCK_FILE, False)
    listener = socket.socket(fileno=fcntl.fcntl(LISTENER_FILE, fcntl.F_DUPFD_CLOEXEC, LOCK_FILE))
    listener.listen(BACKLOG)  # once more, so that clients are told of this process, not of the one that made the socket
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, LISTENER_FILE)
    os.close(nothing)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit())
    os.close(told)
    julia, image, code, host, target, place, seconds, size = sys.argv[1:]
    ground = Ground(Path(julia), Path(image), Path(code), Path(host), target)
    Server(listener, ground, Path(place), Limits(int(seconds), int(size))).run()
    return 0
