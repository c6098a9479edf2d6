"""Warm servers: processes that have ready what a build begins with.

That of Julia 1.5 has a base image loaded, and forks for each client (`engines/stock15/host/serve.h`); that of current
Julia has programs started (`engines/patched/server.py`). There is one for each service, the files that it is of, and
rights of a process. Its socket is in a directory of the cache that only the user can enter. It holds a lock as long as
it lives, however it ends, so that a socket without it is a dead one's.
"""

from __future__ import annotations

import array
import fcntl
import json
import os
import resource
import select
import signal
import socket
import stat
import struct
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import SetupError
from .process import memory
from .storage import Storage, digest_of

SOCKET, LOCK, LOG = ".socket", ".lock", ".log"
"""A server's files, after its name."""

PATIENCE = 10.0
"""Seconds in which a server has to answer; it may have to load its image first."""

STARTING = 2.0
"""Seconds in which another process that starts a server makes its socket."""

WORK, STATE, READY = b"w", b"s", b"r"
"""What a client begins with; the answer to WORK (`host/serve.cpp`)."""

LISTENER_FILE, LOCK_FILE = 0, 3
"""What a server finds its socket and its lock at; between them is its log."""

RIGHTS = ("Uid", "Gid", "Groups", "CapEff", "NoNewPrivs", "Seccomp")
"""Lines of `/proc/self/status` that tell what a process may do."""

RESOURCES = range(resource.RLIMIT_CPU, 16)
"""All that Linux limits."""

NAMESPACES = ("mnt", "pid", "user")

TOLD = dict.fromkeys(("pid", "builds", "building", "idle", "seconds", "idle_limit", "memory_limit"), int)
"""What a server tells of itself."""

LONGEST = 1 << 16
"""Bytes of what it tells, at most."""

OFF = "BASEDEV_SERVER"
"""The variable of the environment that switches servers off with "0"."""

KEPT_VARIABLES = ("PATH", "HOME", "LANG", "LC_ALL")
"""Of the starter's environment. Each client brings its own."""


def allowed(configured: bool) -> bool:
    """Whether servers are to be used, where the configuration says `configured`."""
    return configured and os.environ.get(OFF) != "0"


class NoServer(Exception):
    """There is no server to be used. `str()` is the reason, one line."""


@dataclass(frozen=True)
class Service:
    """What a server runs."""

    program: Path
    arguments: tuple[str, ...]
    """After these come the server's socket and its limits, in seconds and bytes."""
    base_id: str
    files: tuple[Path, ...]
    """A server is of these as they are when it is started."""


@dataclass(frozen=True)
class Limits:
    """When a server ends by itself."""

    idle: int
    """Seconds without a client."""
    memory: int
    """Bytes that are resident after a client."""


@dataclass(frozen=True)
class Server:
    """What is known of a server that runs."""

    name: str
    pid: int
    base_id: str
    socket: Path
    builds: int
    """Clients that it has worked for."""
    building: int
    """Clients that it works for now."""
    idle: int
    """Seconds without a client."""
    seconds: int
    """Since it was started."""
    memory: int
    """Bytes of its own and of its spares, and their share of what they have in common with others; not those of what
    works for clients."""
    spares: tuple[int, ...]
    """Processes that it has started, and that nobody uses yet."""
    limits: Limits

    def to_json(self) -> dict[str, Any]:
        """What `--json` prints of it."""
        about = {key: value for key, value in vars(self).items() if key not in ("limits", "name")}
        limits = {"idle_limit": self.limits.idle, "memory_limit": self.limits.memory}
        return {**about, "socket": str(self.socket), "spares": list(self.spares), **limits}


class Servers:
    """The servers of a cache directory."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._directory = storage.root / "servers"

    def connect(self, service: Service, limits: Limits, *, start: bool = True) -> tuple[socket.socket, bool]:
        """A connection to the server of a service, and whether it was started for it.

        Raises NoServer when there is none, or none that can be trusted.
        """
        try:
            with self._opened() as directory:
                name = _name(service)
                until = time.monotonic() + STARTING
                started = False
                while time.monotonic() < until:
                    if connection := _connect(directory, name):
                        if not _is_lesser(connection):
                            return connection, started
                        connection.close()
                        self._end(directory, name)
                    elif not start:
                        raise NoServer("none is running")
                    with _lock(directory, name) as lock:
                        if lock is not None:
                            self._start(directory, lock, name, service, limits)
                            started = True
                    if lock is None:
                        time.sleep(0.01)
                raise NoServer("another one is being started or ended")
        except OSError as error:
            raise NoServer(f"{error.strerror or error}") from error

    def running(self) -> list[Server]:
        """The servers that run, in the order of their base images."""
        found = []
        with suppress(NoServer, OSError), self._opened(make=False) as directory:
            for name in _names(directory):
                with suppress(NoServer, OSError), _state(directory, name) as (about, _):
                    found.append(self._described(directory, name, about))
        return sorted(found, key=lambda one: (one.base_id, one.pid))

    def stop(self, *servers: Server) -> None:
        """Ends servers. What they have begun for clients goes on."""
        for server in servers:
            with suppress(NoServer, OSError), self._opened(make=False) as directory:
                self._end(directory, server.name)

    @staticmethod
    def _end(directory: int, name: str) -> None:
        with _state(directory, name) as (_, handle):
            for number in (signal.SIGTERM, signal.SIGKILL):
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(handle, number)
                if select.select([handle], [], [], STARTING)[0]:  # readable when the process has ended
                    break
        with _lock(directory, name) as lock:
            if lock is not None:
                _forget(directory, name)

    def sweep(self) -> None:
        """Removes the files of servers that are gone."""
        with suppress(NoServer, OSError), self._opened(make=False) as directory:
            for name in _names(directory):
                with suppress(OSError), _lock(directory, name) as lock:
                    if lock is not None:
                        _forget(directory, name)

    @contextmanager
    def _opened(self, *, make: bool = True) -> Iterator[int]:
        """The directory of sockets, which nobody else can enter."""
        if make:
            with suppress(SetupError):
                self._storage.directory("servers")
        handle = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            status = os.fstat(handle)
            if status.st_uid != os.geteuid() or status.st_mode & 0o077:
                raise NoServer(f"{self._directory} is not this user's alone")
            yield handle
        finally:
            os.close(handle)

    def _start(self, directory: int, lock: int, name: str, service: Service, limits: Limits) -> None:
        """Starts a server; clients can connect at once."""
        with ExitStack() as resources:
            with suppress(FileNotFoundError):
                os.unlink(name + SOCKET, dir_fd=directory)
            listener = resources.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            before = os.umask(0o177)
            try:
                listener.bind(f"/proc/self/fd/{directory}/{name}{SOCKET}")  # a path may have 107 bytes
            finally:
                os.umask(before)
            listener.listen(128)
            flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
            log = os.open(name + LOG, flags, 0o600, dir_fd=directory)
            resources.callback(os.close, log)
            os.ftruncate(lock, 0)
            os.pwrite(lock, json.dumps({"base_id": service.base_id}).encode(), 0)
            place = str(self._directory / (name + SOCKET))
            words = [str(service.program), *service.arguments, place, str(limits.idle), str(limits.memory)]
            # Not through `subprocess`, whose child would have the lock where it is here.
            own = [fcntl.fcntl(one, fcntl.F_DUPFD_CLOEXEC, 10) for one in (listener.fileno(), log, log, lock)]
            for one in own:
                resources.callback(os.close, one)
            actions = [(os.POSIX_SPAWN_DUP2, one, place) for place, one in enumerate(own)]
            environment = {key: os.environ[key] for key in KEPT_VARIABLES if key in os.environ}
            started = os.posix_spawn(service.program, words, environment, file_actions=actions)
            _, status = os.waitpid(started, 0)  # it goes on in a child
            if status:
                raise NoServer(f"it can't be started (status {status})")

    def _described(self, directory: int, name: str, about: Mapping[str, Any]) -> Server:
        noted = _object(_read(directory, name + LOCK), {"base_id": str})
        spares = tuple(filter(_is_process, about.get("spares", ())))
        return Server(
            name=name,
            pid=about["pid"],
            base_id=noted["base_id"],
            socket=self._directory / (name + SOCKET),
            builds=about["builds"],
            building=about["building"],
            idle=about["idle"],
            seconds=about["seconds"],
            memory=memory(about["pid"]) + sum(map(memory_of, spares)),
            spares=spares,
            limits=Limits(about["idle_limit"], about["memory_limit"]),
        )


def greet(connection: socket.socket, log: int) -> None:
    """Makes the server's new child what this process would have started: with its log, directory and surroundings.

    Raises OSError when the connection is broken.
    """
    here = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        files = array.array("i", (log, here))
        connection.sendmsg([WORK], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files)])
    finally:
        os.close(here)
    connection.sendall(surroundings(os.environb))


def surroundings(variables: Mapping[bytes, bytes]) -> bytes:
    """This process's priority, file mode mask and limits, with an environment, as servers read them."""
    mask = os.umask(0)
    os.umask(mask)
    every = {number: resource.getrlimit(number) for number in RESOURCES}
    limits = " ".join(f"{number}:{soft}:{hard}" for number, (soft, hard) in every.items()).encode()
    text = b"".join(b"%b=%b\0" % pair for pair in variables.items())
    niceness = os.getpriority(os.PRIO_PROCESS, 0)
    head = b"client %d %d %d %d\n" % (niceness, mask, len(limits), len(text))
    return head + limits + text


def _name(service: Service) -> str:
    """A server's name: what it runs, and what processes it may be used by."""
    parts = [str(service.program), *service.arguments]
    for path in service.files:
        status = path.stat()
        parts += [str(path), str(status.st_dev), str(status.st_ino), str(status.st_mtime_ns), str(status.st_size)]
    told = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    parts += [told.get(line, "").strip() for line in RIGHTS]
    root = Path("/").stat()
    parts += [f"{root.st_dev}:{root.st_ino}", *(str(Path(f"/proc/self/ns/{one}").readlink()) for one in NAMESPACES)]
    return digest_of(*parts)[:20]


def _names(directory: int) -> list[str]:
    return sorted(name[: -len(LOCK)] for name in os.listdir(directory) if name.endswith(LOCK))


def _connect(directory: int, name: str) -> socket.socket | None:
    """A connection to a server; None when there is none. Raises NoServer when it is not this user's."""
    try:
        status = os.stat(name + SOCKET, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None
    if not stat.S_ISSOCK(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise NoServer(f"{name}{SOCKET} is no socket of this user's alone")
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(PATIENCE)
        connection.connect(f"/proc/self/fd/{directory}/{name}{SOCKET}")
        if peer(connection)[1] != os.geteuid():
            raise NoServer("it is another user's")
    except (ConnectionRefusedError, FileNotFoundError):
        connection.close()
        return None
    except BaseException:
        connection.close()
        raise
    return connection


def peer(connection: socket.socket) -> tuple[int, int]:
    """The process and the user at the other end."""
    told = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, uid, _ = struct.unpack("3i", told)
    return pid, uid


def _is_lesser(connection: socket.socket) -> bool:
    """Whether the process at the other end has a lower priority or lower limits than this, and so have its children
    for good."""
    pid, _ = peer(connection)
    with suppress(OSError):
        if os.getpriority(os.PRIO_PROCESS, pid) > os.getpriority(os.PRIO_PROCESS, 0):
            return True
        for number in RESOURCES:
            (_, other), (_, own) = resource.prlimit(pid, number), resource.getrlimit(number)
            if other != own and other != resource.RLIM_INFINITY and (own == resource.RLIM_INFINITY or other < own):
                return True
    return False


@contextmanager
def _lock(directory: int, name: str) -> Iterator[int | None]:
    """The lock of a server, which holds it while it lives; None when it is taken."""
    while True:
        handle = os.open(name + LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=directory)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield None
                return
            if _is_at(handle, directory, name + LOCK):
                yield handle
                return
            # It was removed between being opened and being locked.
        finally:
            os.close(handle)


def _is_at(handle: int, directory: int, name: str) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(name, dir_fd=directory, follow_symlinks=False))
    except FileNotFoundError:
        return False


def _forget(directory: int, name: str) -> None:
    """Removes the files of a server that is gone. The caller has its lock."""
    for ending in (SOCKET, LOG, LOCK):
        with suppress(FileNotFoundError):
            os.unlink(name + ending, dir_fd=directory)


@contextmanager
def _state(directory: int, name: str) -> Iterator[tuple[dict[str, Any], int]]:
    """What a server tells of itself, and a handle on its process."""
    connection = _connect(directory, name)
    if connection is None:
        raise NoServer("none is running")
    with connection:
        pid, _ = peer(connection)
        handle = os.pidfd_open(pid)
        try:
            connection.sendall(STATE)
            with connection.makefile("rb") as answers:
                about = _object(answers.readline(LONGEST), TOLD)
            if about["pid"] != pid:  # it is the process of the handle, since it answered after that was opened
                raise NoServer("it does not answer")
            yield about, handle
        finally:
            os.close(handle)


def _is_process(number: object) -> bool:
    return isinstance(number, int) and number > 0


def memory_of(pid: int) -> int:
    """The proportional set size of a process, in bytes; 0 when it is gone."""
    with suppress(OSError):
        return memory(pid)
    return 0


def _read(directory: int, name: str) -> bytes:
    handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    with os.fdopen(handle, "rb") as file:
        return file.read(LONGEST)


def _object(text: bytes, keys: Mapping[str, type]) -> dict[str, Any]:
    """A JSON object that has these keys with values of these types. Raises NoServer when it is none."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not all(isinstance(found.get(key), kind) for key, kind in keys.items()):
        raise NoServer("it does not answer")
    return found
