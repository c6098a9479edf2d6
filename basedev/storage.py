"""The cache directory: where it is, how something gets into it whole or not at all, and who may write when.

Everything made by basedev lives below one directory, `$BASEDEV_CACHE`, else
`$XDG_CACHE_HOME/basedev`, else `~/.cache/basedev`. An entry is a directory named by
what it was made from. It is made in `staging/` and renamed into place, so that another process
sees it complete or not at all. Locks are `flock` locks, which the kernel releases
when their holder dies, however it dies.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import SetupError

CHUNK = 1 << 20


def cache_root() -> Path:
    """The cache directory of this user. It need not exist yet."""
    if chosen := os.environ.get("BASEDEV_CACHE"):
        return Path(chosen).absolute()
    if xdg := os.environ.get("XDG_CACHE_HOME"):
        return Path(xdg).absolute() / "basedev"
    try:
        return Path.home().absolute() / ".cache/basedev"
    except RuntimeError as error:
        raise SetupError("there is no home directory for the cache; set BASEDEV_CACHE to a directory") from error


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def digest_of(*parts: str | bytes) -> str:
    """SHA-256 over parts, each preceded by its length so that no two lists of parts read alike."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode(errors="surrogateescape") if isinstance(part, str) else part  # as paths have them
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


@contextmanager
def disk_errors(doing: str) -> Iterator[None]:
    """Turns the system's errors about the cache directory's disk into one line that says what to do."""
    try:
        yield
    except OSError as error:
        remedies = {
            errno.ENOSPC: "the disk is full; free some space, or set BASEDEV_CACHE to a directory on another",
            errno.EDQUOT: "the disk quota is used up; free some space, or set BASEDEV_CACHE to another disk",
            errno.EFBIG: "the file is larger than is allowed; raise the limit (ulimit -f) or set BASEDEV_CACHE to"
            " another disk",
            errno.EIO: "the disk has an error; set BASEDEV_CACHE to a directory on another",
            errno.EROFS: "the disk is read-only; set BASEDEV_CACHE to a directory that can be written",
            errno.EACCES: "permission denied; set BASEDEV_CACHE to a directory of your own",
            errno.EPERM: "not permitted; set BASEDEV_CACHE to a directory of your own",
        }
        remedy = remedies.get(error.errno or 0)
        if remedy is None:
            raise
        where = f" ({error.filename})" if error.filename else ""
        raise SetupError(f"cannot {doing}{where}: {remedy}") from error


class Stage:
    """A directory to make something in. It is known from debris as long as a process has its guard."""

    def __init__(self, path: Path, guard: int) -> None:
        self.path = path
        self.guard = guard
        """A descriptor of a file with a lock; another process that is given it has the directory too."""

    def discard(self) -> None:
        """Deletes what is left of it."""
        shutil.rmtree(self.path, ignore_errors=True)
        Path(f"{self.path}.lock").unlink(missing_ok=True)
        os.close(self.guard)


class Storage:
    """The directory tree that holds everything basedev makes."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = (root or cache_root()).absolute()

    def directory(self, kind: str) -> Path:
        """The directory of one kind of entry (`images`, `bases`, ...), made if missing."""
        path = self.root / kind
        with disk_errors("use the cache directory"):
            try:
                self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
                path.mkdir(exist_ok=True, mode=0o700)
            except (FileExistsError, FileNotFoundError, NotADirectoryError) as error:
                raise SetupError(
                    f"{self.root} can't be the cache directory ({error.strerror}); set BASEDEV_CACHE to a directory"
                ) from error
        return self.own(kind)

    def own(self, kind: str) -> Path:
        """The directory of one kind of entry, if it is there; nobody else can write to it.

        Raises SetupError when somebody else has it or can write to it: what is in it is run.
        """
        path = self.root / kind
        with suppress(FileNotFoundError, NotADirectoryError):
            status = path.stat()
            if status.st_mode & 0o022 or (os.geteuid() and status.st_uid not in {os.geteuid(), 0}):
                raise SetupError(
                    f"others can write to {path}: chmod -R go-w it, or set BASEDEV_CACHE to a directory of your own"
                )
        return path

    @contextmanager
    def lock(self, name: str, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Holds the exclusive lock `name`. When another process has it, calls `waiting` and waits for it."""
        with disk_errors("lock the cache directory"):
            handle = os.open(self.directory("locks") / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                waiting()
                fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    @contextmanager
    def staging(self, label: str) -> Iterator[Path]:
        """An empty directory to make something in; whatever is left of it afterwards is deleted."""
        stage = self.stage(label)
        try:
            with disk_errors(f"write {label}"):
                yield stage.path
        finally:
            stage.discard()

    def stage(self, label: str) -> Stage:
        """An empty directory to make something in, which its user is to discard.

        A process that was killed leaves its directory behind. Its lock is gone with it, which is
        how the next call knows the debris from work under way.
        """
        area = self.directory("staging")
        with self.lock("staging"), disk_errors("write to the cache directory"):
            self._sweep(area)
            path = area / f"{label}-{os.getpid()}-{os.urandom(4).hex()}"
            guard = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(guard, fcntl.LOCK_EX)
            path.mkdir(mode=0o700)
        return Stage(path, guard)

    def publish(self, made: Path, place: Path) -> None:
        """Moves a finished directory to its place, in one step. An entry that stands there already stays."""
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            made.rename(place)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise

    def discard(self, place: Path) -> None:
        """Removes an entry so that nobody sees it half removed."""
        with self.staging("discarded") as grave, suppress(FileNotFoundError):  # another process may be faster
            place.rename(grave / place.name)

    def sweep(self) -> int:
        """Deletes what killed processes left, and tells how many things. Every use of `staging` does so first."""
        with self.lock("staging"):
            return self._sweep(self.directory("staging"))

    def holders(self) -> dict[str, int]:
        """The locks that are held, each with the process that has it (0: one that can't be seen from here)."""
        held = {}
        for path in sorted((self.root / "locks").glob("*")):
            about = path.stat()
            place = f"{os.major(about.st_dev):02x}:{os.minor(about.st_dev):02x}:{about.st_ino}"
            for line in Path("/proc/locks").read_text().splitlines():
                words = line.split()
                if "->" not in words and words[1] == "FLOCK" and words[5] == place:
                    held[path.name] = max(0, int(words[4]))
        return held

    @staticmethod
    def _sweep(area: Path) -> int:
        """Deletes what no living process holds. The caller has the lock under which directories get their guards."""
        swept = 0
        for guard in area.glob("*.lock"):
            try:
                handle = os.open(guard, os.O_RDWR | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            else:
                shutil.rmtree(guard.with_suffix(""), ignore_errors=True)
                swept += 1
                guard.unlink(missing_ok=True)
            finally:
                os.close(handle)
        for left in area.iterdir():
            # a program that outlived its basedev for a moment may have written while it was deleted
            if left.suffix != ".lock" and not Path(f"{left}.lock").exists():
                shutil.rmtree(left, ignore_errors=True)
                swept += 1
        return swept
