"""Noticing that sources were saved: inotify where it can be had, else a look at all files every second.

What an event says is not relied on. It only tells that something happened, and where nothing more comes for a moment,
that it is over (*settled*): then the sources are read as they are. So renames, temporary files, moved directories and
events that were lost (a queue that was full) need no cases of their own. When directories came or went, all are
gone through again; the kernel knows those that it watches already.
"""

from __future__ import annotations

import errno
import logging
import os
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from .errors import SetupError
from .sourcefiles import roots_of, signature, source_files
from .sources import Sources, source_directories

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of asyncore, which it imports and which is not used here
    import pyinotify

pyinotify.log.setLevel(logging.CRITICAL)  # it prints what is handled here

QUIET = 0.15
"""Seconds without an event after which what was saved is complete."""

BOUND = 1.0
"""Seconds after which events that go on are looked into: do they change sources?"""

RESCAN = 1.0
"""Seconds between two looks at all files where inotify can't be had."""

EVENTS = (
    pyinotify.IN_MODIFY
    | pyinotify.IN_CLOSE_WRITE
    | pyinotify.IN_ATTRIB
    | pyinotify.IN_CREATE
    | pyinotify.IN_DELETE
    | pyinotify.IN_MOVED_FROM
    | pyinotify.IN_MOVED_TO
    | pyinotify.IN_DELETE_SELF
    | pyinotify.IN_MOVE_SELF
    | pyinotify.IN_ONLYDIR
)

LOST = pyinotify.IN_Q_OVERFLOW | pyinotify.IN_UNMOUNT | pyinotify.IN_DELETE_SELF | pyinotify.IN_MOVE_SELF
"""Events after which it is not known what is watched."""

SETTINGS = Path("/proc/sys/fs/inotify")


REGULARLY = "all files are looked at every second instead"
"""What is done without inotify."""


def is_encodable(root: Path) -> bool:
    """Whether pyinotify can watch the sources of a tree: it takes names that are UTF-8."""
    return all(os.fsencode(one) == one.encode(errors="replace") for one in roots_of(os.fspath(root)))


class _Limit(Exception):
    """A limit of inotify is reached: the name of the setting."""


def _signatures(root: Path) -> dict[str, tuple[int, ...]]:
    """What tells without reading them that sources have changed."""
    with suppress(OSError):  # `base` or `stdlib` may be away for a moment
        return {path: signature(status) for path, status in source_files(os.fspath(root)).items()}
    return {}


class _Inotify:
    """Events of all directories that have sources. Raises _Limit when there can't be any."""

    def __init__(self, root: Path) -> None:
        self._root = root
        try:
            self._manager = pyinotify.WatchManager()
        except OSError as error:  # it has the errno in its text only
            raise _Limit("max_user_instances") from error
        self._notifier = pyinotify.Notifier(self._manager, self._take)
        self._notifier.coalesce_events()
        self._happened = self._lost = False
        try:
            self._watch()
        except _Limit:
            self.close()
            raise

    def close(self) -> None:
        self._notifier.stop()

    def wait(self, seconds: float) -> bool:
        """Waits at most this long for something to happen; whether it did."""
        if not self._notifier.check_events(timeout=int(seconds * 1000)):
            return False
        self._happened = False
        try:
            self._notifier.read_events()
        except UnicodeDecodeError:  # a name that is not UTF-8, and with it all that was read
            self._happened = self._lost = True
        self._notifier.process_events()
        if self._lost:
            self._lost = False
            self._watch()
        return self._happened

    def _take(self, event: pyinotify.Event) -> None:
        if event.mask & LOST:
            self._happened = self._lost = True
        elif event.mask & pyinotify.IN_IGNORED:
            pass
        elif event.path in self._roots:
            if event.name in ("base", "stdlib"):
                self._happened = self._lost = True
        elif event.dir:
            self._happened = self._lost = True
        elif event.name.endswith(".jl") or event.name == "Project.toml":
            self._happened = True

    def _watch(self) -> None:
        """Watches what is to be watched now, and nothing else."""
        wanted = set()
        self._roots = roots_of(os.fspath(self._root))
        for directory in source_directories(self._root):
            try:
                added = self._manager.add_watch(str(directory), EVENTS, quiet=False)
            except pyinotify.WatchManagerError as error:
                if errno.errorcode[errno.ENOSPC] in str(error):
                    raise _Limit("max_user_watches") from error
                continue  # gone meanwhile, or unreadable
            except UnicodeEncodeError:
                continue
            wanted.update(added.values())
        for number in set(self._manager.watches) - wanted:
            self._manager.rm_watch(number)


class _Rescan:
    """Looks at all files now and then."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._seen = _signatures(root)
        self._next = time.monotonic() + RESCAN

    def close(self) -> None:
        pass

    def wait(self, seconds: float) -> bool:
        """Waits at most this long for something to change; whether it did."""
        remaining = self._next - time.monotonic()
        time.sleep(max(0.0, min(seconds, remaining)))
        if seconds < remaining:
            return False
        seen, self._seen = self._seen, _signatures(self._root)
        changed = seen != self._seen
        self._next = time.monotonic() + (QUIET / 2 if changed else RESCAN)
        return changed


class Watcher:
    """Tells when the sources of a tree may have changed and are complete. Use it in a `with` statement.

    `message` gets the one line that is to be told when inotify can't be had.
    """

    def __init__(self, root: Path, message: Callable[[str], None]) -> None:
        self._root = root
        self._message = message
        self._begin: float | None = None
        self._last = 0.0
        self._seen: str | None = None
        """The id of the sources in a batch that goes on."""
        self._events: _Inotify | _Rescan
        try:
            if not is_encodable(root):
                message(f"a path that is not UTF-8 can't be watched, so {REGULARLY}")
            self._events = _Inotify(root) if is_encodable(root) else _Rescan(root)
        except _Limit as limit:
            self._events = self._without_inotify(limit)

    @property
    def begun(self) -> bool:
        """Whether something has changed, and is not known to be complete yet."""
        return self._begin is not None

    def settled(self, patience: float) -> bool:
        """Waits at most `patience` seconds for a batch of changes to be complete; whether one is.

        It is when nothing happened for QUIET. Events that go on for longer than BOUND without changing a source
        end a batch too; while sources do change, who writes them is not ready.
        """
        if self._begin is not None:
            patience = min(patience, QUIET)
        try:
            happened = self._events.wait(patience)
        except _Limit as limit:  # new directories were too many
            self._events.close()
            self._events = self._without_inotify(limit)
            happened = True
        now = time.monotonic()
        if happened:
            self._last = now
            if self._begin is None:
                self._begin, self._seen = now, None
        if self._begin is None:
            return False
        if now - self._last >= QUIET:
            self._begin = None
            return True
        if now - self._begin >= BOUND:
            seen, self._seen = self._seen, self._id()
            self._begin = None if seen == self._seen else now
        return self._begin is None

    def _id(self) -> str:
        try:
            return Sources.read(self._root).id
        except SetupError:  # in the middle of something
            return ""

    def close(self) -> None:
        """Ends watching."""
        self._events.close()

    def __enter__(self) -> Watcher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _without_inotify(self, limit: _Limit) -> _Rescan:
        setting = str(limit)
        try:
            value = int((SETTINGS / setting).read_text())
            remedy = f"it is {value}; raise it with: sudo sysctl fs.inotify.{setting}={2 * value}"
        except (OSError, ValueError):
            remedy = f"raise it with: sudo sysctl fs.inotify.{setting}=65536"
        self._message(f"inotify's limit {setting} is reached, so {REGULARLY} ({remedy})")
        return _Rescan(self._root)
