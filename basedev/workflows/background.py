"""Builds in the background: for each checkout at most one at a time, of its newest state, with a log.

A request that comes while another state is being built ends that build: nobody waits for it any more, and on few cores
two builds together would make the new image later. Killing a build harms nothing (see `storage`). A request for the
state that is being built changes nothing.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..errors import BasedevError, UserCodeError
from ..storage import Storage, digest_of, disk_errors
from .build import Result

NICENESS = 10
"""As of `nice` without a number, with which the hook and the `julia` in front start it already."""

NOTED: dict[str, dict[str, Any]] = {
    "running": {"pid": int, "started": str, "began": float, "number": int, "sources_id": str},
    "last": {"status": str, "message": str, "sources_id": str, "time": float},
}
"""What is noted of the build that is running and of the last one, with the values' types."""

LOG_LIMIT = 64 * 1024
"""Bytes of the log that are kept, at most."""


class Background:
    """The background builds of one checkout."""

    def __init__(self, root: Path, storage: Storage) -> None:
        self._root = root
        self._storage = storage
        self._name = f"background-{digest_of(os.fsencode(root))[:20]}"
        self._directory = storage.root / "background" / self._name
        self._state = self._directory / "state.json"
        self.log = self._directory / "log.txt"

    def detach(self) -> bool:
        """Goes on in a process of its own, in which it returns True, with the log as its output; False in the caller.

        What git or a terminal gave to this process is left behind: its session, files, and variables.
        """
        with disk_errors("write the log"):
            self._storage.directory("background")
            self._directory.mkdir(exist_ok=True, mode=0o700)
            log = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        if os.fork():
            os.close(log)
            return False
        os.setsid()
        os.setpriority(os.PRIO_PROCESS, 0, max(NICENESS, os.getpriority(os.PRIO_PROCESS, 0)))
        null = os.open(os.devnull, os.O_RDONLY)
        for handle, place in ((null, 0), (log, 1), (log, 2)):
            os.dup2(handle, place)
        for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - only names
            if int(name) > 2:
                with suppress(OSError):
                    os.close(int(name))
        for name in [name for name in os.environ if name.startswith("GIT_")]:
            del os.environ[name]
        os.chdir(self._root)
        for number in (signal.SIGINT, signal.SIGTERM):  # a shell's `&` has the former ignored
            signal.signal(number, _interrupt)
        return True

    def run(self, present: Callable[[], str], build: Callable[[], Result]) -> Result | None:
        """Builds, unless that is under way, was tried before, or somebody asks for a newer state while this waits.

        `present` tells the id of the present sources. Raises what `build` raises.
        """
        number = self._request(present())
        if number is None:
            return None
        with self._storage.lock(self._name):
            with self._locked_state() as state:
                if state["number"] != number:
                    return None
                sources = present()
                about = {"pid": os.getpid(), "started": _started(os.getpid()), "began": time.time()}
                state["running"] = {**about, "number": number, "sources_id": sources}
            self._trim()
            print(f"--- {time.strftime('%Y-%m-%d %H:%M:%S')}", flush=True)
            told: dict[str, Any] = {"sources_id": sources, "status": "failed", "message": "interrupted"}
            try:
                result = build()
                while result.sources_id != sources:  # edited between having been told and read
                    sources, result = result.sources_id, build()
                told = {"status": result.status, "sources_id": sources, "image_id": result.image_id, "message": ""}
                return result
            except BasedevError as error:
                told["message"] = error.message
                told["status"] = "refused" if isinstance(error, UserCodeError) else "failed"
                raise
            except Exception as error:
                told["message"] = f"a defect of basedev: {error}"
                raise
            finally:
                self._trim()
                with self._locked_state() as state:
                    state.pop("running")
                    if state["number"] == number:
                        state["last"] = {**told, "time": time.time()}

    def report(self) -> dict[str, Any] | None:
        """What is known of the last background build: `status` ("running", "killed", "built", "present", "current",
        "refused": the sources are at fault, "failed"), `message`, `log`, and `time`, when it ended or, if it did not,
        began, in seconds since the epoch."""
        state = self._read()
        if running := state.get("running"):
            status = "running" if _started(running["pid"]) == running["started"] else "killed"
            return {"status": status, "message": "", "time": running["began"], "log": str(self.log)}
        return {**state["last"], "log": str(self.log)} if "last" in state else None

    def _request(self, sources: str) -> int | None:
        """The number of a request; None when there is nothing to do for it. An older build is ended."""
        with self._locked_state() as state:
            last, running = state.get("last", {}), state.get("running")
            if running is None:
                if last.get("status") == "refused" and last["sources_id"] == sources:
                    return None
            elif handle := _open(running):
                try:
                    if (running["number"], running["sources_id"]) == (state["number"], sources):
                        return None
                    signal.pidfd_send_signal(handle, signal.SIGTERM)
                finally:
                    os.close(handle)
            state["number"] += 1
            return int(state["number"])

    @contextmanager
    def _locked_state(self) -> Iterator[dict[str, Any]]:
        """What is noted, to be changed: the newest request's number, the build that is running, the last result."""
        with self._storage.lock(f"{self._name}-state"):
            state = self._read()
            yield state
            with disk_errors("note what is being built"):
                temporary = self._directory / "state.new"
                temporary.write_text(json.dumps(state))
                temporary.replace(self._state)

    def _read(self) -> dict[str, Any]:
        with suppress(OSError, ValueError, RecursionError):
            state = json.loads(self._state.read_text())
            if _has(state, number=int) and all(
                _has(state[key], **about) for key, about in NOTED.items() if key in state
            ):
                return dict(state)
        return {"number": 0}

    def _trim(self) -> None:
        """Leaves the end of the log if it has grown too long; others may have it open."""
        with self.log.open("r+b") as file:
            if file.seek(0, os.SEEK_END) > LOG_LIMIT:
                file.seek(-LOG_LIMIT // 2, os.SEEK_END)
                rest = file.read().partition(b"\n")[2]
                file.truncate(0)
                file.seek(0)
                file.write(rest)


def _has(noted: Any, **kinds: type) -> bool:
    return isinstance(noted, dict) and all(isinstance(noted.get(key), kind) for key, kind in kinds.items())


def _interrupt(number: int, frame: object) -> None:
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _started(pid: int) -> str | None:
    """When a process was started, in the kernel's ticks, which tells it from a later one with its number; None when it
    has ended."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state == "Z" else rest[18]


def _open(running: dict[str, Any]) -> int | None:
    """A handle on the process that is building, None when it has ended."""
    try:
        handle = os.pidfd_open(running["pid"])
    except OSError:
        return None
    if _started(running["pid"]) == running["started"]:
        return handle
    os.close(handle)
    return None
