"""What the `julia` in front of Julia does in an adopted checkout: it becomes Julia on the image of the present sources.

It is started as `python -I -S`, and loads nothing slow when nothing has changed since the last start: what was chosen
then is noted with what `stat` tells of all source files. When a file's status is another, it is read, and the image of
the sources looked up. Nothing is noted that is not certain, and what does not fit the present state is of no effect.
"""

from __future__ import annotations

import fcntl
import os
import sys
import time

from .places import BASE_RECORD, NOTES, PROGRAM, SETTINGS, SYSIMAGE, built, settings_files
from .sourcefiles import is_settled, signature, source_files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

FORMAT = "basedev julia 1"
SHOWN = 2
"""Changed files that are named in the warning."""

LAUNCH = (
    "import sys; sys.path[:] = [sys.argv.pop(1), *filter(None, sys.path)]; "
    "from basedev.{} import main; sys.exit(main())"
)
"""A Python program that runs a module of the basedev whose directory is its first argument, installed or not."""


class _Start:
    """An image that Julia can be started on."""

    def __init__(self, image: str, changed: list[str]) -> None:
        self.image = image
        self.changed = changed
        """Files whose edits are not in the image."""


def main() -> NoReturn:
    """Becomes Julia. Arguments: the checkout, `=` and LC_CTYPE as it was (or nothing), and those for Julia."""
    root, locale, *arguments = sys.argv[1:]
    # Python sets the former in the C locale, and ignores the latter; a program that it becomes inherits both.
    os.environ.pop("LC_CTYPE", None)
    if locale:
        os.environ["LC_CTYPE"] = locale[1:]
    signals = __import__("_signal")  # `signal` takes longer to load
    for number in (signals.SIGPIPE, signals.SIGXFSZ):
        signals.signal(number, signals.SIG_DFL)
    words = [f"{root}/{built(root, PROGRAM)}"]
    try:
        start = _noted(root) or _chosen(root)
    except Exception as error:
        _say(f"julia starts without your edits: {str(error).splitlines()[0] if str(error) else type(error).__name__}")
    else:
        words += ["-J", start.image]
        if start.changed:
            named = ", ".join(start.changed[:SHOWN])
            more = f" and {len(start.changed) - SHOWN} more" if len(start.changed) > SHOWN else ""
            _say(f"julia starts without your edits of {named}{more}: {_build(root)}")
    os.execv(words[0], words + arguments)


def _say(text: str) -> None:
    line = f"basedev: {text}\n".encode(errors="backslashreplace")
    try:
        os.write(2, line)
    except OSError:
        pass


def _noted(root: str) -> _Start | None:
    """What was chosen at an earlier start, if everything is as it was then."""
    try:
        with open(_record(root), "rb") as file:
            fields = os.fsdecode(file.read()).split("\0", 5)
        if len(fields) != 6 or fields[0] != FORMAT or fields[5] != _situation(root, source_files(root)):
            return None
    except OSError:
        return None
    _, image, status, places, changed, _ = fields
    if any(os.path.lexists(place) for place in places.split("\n")) or not _hold(image, status):
        return None
    try:
        os.utime(f"{os.path.dirname(image)}/used")  # as `Store.find` does
    except OSError:
        pass
    return _Start(image, changed.split("\n") if changed else [])


def _chosen(root: str) -> _Start:
    """The image of the present sources, else the base image; noted if that holds for later."""
    from pathlib import Path

    from .choice import choose
    from .storage import Storage

    now = time.time_ns()
    base = f"{root}/{built(root, BASE_RECORD)}"
    settled = is_settled(os.stat(base), now)
    for _ in range(3):
        choice = choose(Path(root), Storage())
        start = _Start(os.fspath(choice.image or choice.base), [] if choice.image else list(choice.changed))
        if not _hold(start.image):
            continue  # collected between being found and being held
        if settled and choice.identified.settled:
            places = [] if choice.image else map(os.fspath, choice.places)
            situation = _situation(root, choice.identified.files)
            lines = ("\n".join(places), "\n".join(start.changed), situation)
            _write(_record(root), "\0".join((FORMAT, start.image, str(signature(os.stat(start.image))), *lines)))
        return start
    raise OSError(f"{start.image} can't be opened")


def _record(root: str) -> str:
    return f"{root}/{NOTES}/julia.txt"


def _situation(root: str, files: dict[str, os.stat_result]) -> str:
    """All that a choice depends on, except for the images themselves."""
    chosen = ("BASEDEV_CACHE", "XDG_CACHE_HOME", "HOME")
    lines = [os.path.abspath(os.environ.get(name) or "/") for name in chosen]
    lines.append(str(signature(os.stat(f"{root}/{built(root, BASE_RECORD)}"))))
    if os.path.exists(sysimage := f"{root}/{built(root, SYSIMAGE)}"):
        lines.append(str(signature(os.stat(sysimage))))
    lines.extend(f"{path} {signature(status)}" for path, status in files.items())
    return "\n".join(lines)


def _hold(image: str, status: str | None = None) -> bool:
    """Keeps an image from being collected while this process, or the Julia that it becomes, lives. Returns False when
    it is gone, or no longer has this status."""
    try:
        handle = os.open(os.path.dirname(image), os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(handle, fcntl.LOCK_SH)
        except OSError:
            pass  # a disk without locks
        now = os.stat(image)
    except OSError:
        return False
    os.set_inheritable(handle, True)
    return status is None or status == str(signature(now))


def _write(path: str, text: str) -> None:
    from pathlib import Path

    from .stat_cache import write_whole

    write_whole(Path(path), os.fsencode(text))


def _build(root: str) -> str:
    """Starts the build of the present sources in the background, if the settings want it. Returns what is told."""
    wanted, by = False, ""
    for path in settings_files(root):
        try:
            with open(path, "rb") as file:
                lines = file.read().splitlines()
        except OSError:
            continue
        for line in lines:  # a parser of TOML is not there, and would take too long
            key, _, value = line.partition(b"#")[0].partition(b"=")
            if key.rpartition(b".")[2].strip(b" \t\"'") == b"autobuild":
                wanted = value.strip() == b"true"
                by = path
    if not wanted:
        return "run basedev build"
    if by == f"{root}/{SETTINGS}" and not _trusts_settings(root):
        return f"run basedev build (read {SETTINGS}: after basedev init --trust, it has builds start by themselves)"
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    command = [sys.executable, "-c", LAUNCH.format("__main__"), package, "-C", root, "build", "--background"]
    words = ["/bin/sh", "-c", 'nice "$@" </dev/null >/dev/null 2>&1 &', "sh", *command]
    os.waitpid(os.posix_spawn(words[0], words, os.environ), 0)
    return "they are being built in the background"


def _trusts_settings(root: str) -> bool:
    from pathlib import Path

    from .adopted import trusts_settings
    from .storage import Storage

    return trusts_settings(Storage(), Path(root))
