"""A checkout, a cache and a warm server of the benchmark's own, and what commands take there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

from basedev.newcheckout import make_checkout
from basedev.process import descendants, memory
from basedev.storage import Storage, cache_root

from .edits import Change


class MemoryWatch(threading.Thread):
    """The most memory that processes and their descendants have together at one time.

    Memory that processes share is counted once: the sum is of their proportional set sizes (PSS).
    """

    def __init__(self, processes: list[int], interval: float) -> None:
        super().__init__(daemon=True)
        self.peak = 0
        self._processes = processes
        self._interval = interval
        self._over = threading.Event()

    def run(self) -> None:
        """Looks again and again until `stop`."""
        while not self._over.wait(self._interval):
            family = {*self._processes, *descendants(*self._processes)}
            self.peak = max(self.peak, sum(map(_memory, family)))

    def stop(self) -> int:
        """Ends the watch and returns the peak in bytes."""
        self._over.set()
        self.join()
        return self.peak


def _memory(pid: int) -> int:
    with suppress(OSError):  # it is gone
        return memory(pid)
    return 0


def private_cache(root: Path) -> Path:
    """A cache directory in `root` that has in common with the user's what is made once: Julia, host, base image."""
    cache = root / "cache"
    cache.mkdir(parents=True)
    for kind in ("julia", "hosts", "bases"):
        (cache_root() / kind).mkdir(parents=True, exist_ok=True)
        (cache / kind).symlink_to(cache_root() / kind)
    return cache


class Workplace:
    """Where all is measured. `code` is the directory of the basedev that is run.

    Use as a context manager, which ends the warm server and removes everything.
    """

    def __init__(self, root: Path, code: Path) -> None:
        self.root = root
        self.code = code
        self.cache = private_cache(root)
        self.checkout = make_checkout(root / "julia", Storage()).path
        self._server: list[int] = []
        self.base_id = self.basedev("init")["base_id"]

    def __enter__(self) -> Workplace:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(SystemExit):
            self.stop_server()
        shutil.rmtree(self.root, ignore_errors=True)

    def environment(self, *, server: bool = False) -> dict[str, str]:
        """What commands run in: Python keeps compiled modules, as for whoever does not forbid it."""
        users = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        depot = str(self.root / "depot")
        own = {"BASEDEV_CACHE": str(self.cache), "BASEDEV_SERVER": str(int(server)), "JULIA_DEPOT_PATH": depot}
        return {**users, **own, "PYTHONPATH": str(self.code)}

    def command(self, *words: str) -> list[str]:
        """A command line of basedev with `--json`."""
        return [sys.executable, "-m", "basedev", "--json", *words]

    def basedev(self, *words: str, server: bool = False, watch: float = 0.0) -> dict[str, Any]:
        """Runs a command with `--json`. Returns its object, with the `seconds` that the process took and the size of
        the `largest` process (bytes), and, if it is looked at every `watch` seconds, that of `all` together."""
        return self.timed(self.command(*words), server=server, watch=watch)

    def timed(self, command: list[str], *, server: bool = False, watch: float = 0.0) -> dict[str, Any]:
        """The same of any program, which may print an object."""
        with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as messages:
            begin = time.monotonic()
            running = subprocess.Popen(
                command,
                cwd=self.checkout,
                env=self.environment(server=server),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=messages,
            )
            # A server's children are not this process's.
            memory = MemoryWatch([running.pid, *(self._server if server else ())], watch)
            if watch:
                memory.start()
            # Not wait(): the kernel tells with the exit status what this process and those it waited for had.
            _, status, usage = os.wait4(running.pid, 0)
            seconds = time.monotonic() - begin
            running.returncode = os.waitstatus_to_exitcode(status)
            peak = memory.stop() if watch else 0
            output.seek(0)
            messages.seek(0)
            if running.returncode:
                sys.exit(f"{' '.join(command)} failed:\n{messages.read()}")
            told = json.loads(output.read() or "{}")
        return {**told, "seconds": seconds, "largest": usage.ru_maxrss << 10, "all": peak}

    def start_server(self) -> None:
        """Starts the warm server, unless it runs."""
        told = self.basedev("serve", "start", server=True)
        self._server = [one["pid"] for one in told["servers"]]

    def stop_server(self) -> None:
        """Ends it, if it runs."""
        self.basedev("serve", "stop", "--all", server=True)

    def server_memory(self) -> int:
        """Resident bytes of the warm server, whoever else has them. It has to be the one that was started."""
        (server,) = self._server
        pages = int(Path(f"/proc/{server}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def edited(self, changes: tuple[Change, ...]) -> AbstractContextManager[None]:
        """The checkout with changes in it."""
        return edited(self.checkout, changes)

    def julia_command(self, image: Path, *words: str) -> list[str]:
        """Julia on an image, and nothing else loaded."""
        return [str(self.checkout / "usr/bin/julia"), "-J", str(image), "--startup-file=no", *words]

    def julia(self, image: Path, code: str) -> str:
        """What a program prints on an image."""
        return subprocess.run(
            self.julia_command(image, "-e", code),
            check=True,
            capture_output=True,
            text=True,
            env=self.environment(),
        ).stdout

    def forget_images(self) -> None:
        """Removes what was built."""
        shutil.rmtree(self.cache / "images", ignore_errors=True)


@contextmanager
def edited(root: Path, changes: tuple[Change, ...]) -> Iterator[None]:
    """A checkout with changes in it; its files get back their times too."""
    before = {file: (file.read_bytes(), file.stat()) for file in {root / one.path for one in changes}}
    try:
        for one in changes:
            text = (root / one.path).read_text()
            assert one.old in text, f"{one.old!r} does not stand in {one.path}"
            (root / one.path).write_text(text.replace(one.old, one.new, 1) if one.old else text + one.new)
        yield
    finally:
        for file, (contents, status) in before.items():
            file.write_bytes(contents)
            os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
