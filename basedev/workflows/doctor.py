"""`basedev doctor`: looks at everything that basedev depends on, and says of each finding what to do.

Nothing is repaired, and nothing is made that is missing.
"""

from __future__ import annotations

import errno
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from .. import __version__
from ..checkout import Checkout
from ..collection import Collection, on_disk
from ..config import Config, load_config
from ..distribution import Distribution, find
from ..engines.patched.baseimage import BaseImage, is_present
from ..engines.patched.host_program import Host as PatchedHost
from ..engines.patched.spares import service as patched_service
from ..engines.stock15.host_program import Host, compiled_host
from ..engines.stock15.host_program import service as stock_service
from ..errors import BasedevError, SetupError, UsageError
from ..link import LINKERS, linker
from ..pieces import shares_blocks
from ..places import settings_files
from ..servers import Limits, NoServer, Servers, Service, allowed
from ..sizes import age, counted, parse_size, size
from ..sources import source_directories
from ..storage import Storage
from ..store import KINDS, Store, read_manifest
from ..watching import SETTINGS, is_encodable
from .background import Background
from .build_patched import check_runtime
from .hooks import Hooks
from .images import base_of
from .patch import Patches

OK, WARNING, PROBLEM = "ok", "warning", "problem"
"""What a finding is: nothing; something that works, but not as well as it might; something that does not work."""

PACKAGES = {
    "GitPython": "3.1",
    "lief": "0.15",
    "pyelftools": "0.31",
    "pyinotify": "0.9.6",
    "rich": "13",
    "tomli": "2",
}
"""Python packages that basedev needs, with their least versions."""

VARIABLES = ("CACHE", "SERVER", "HOOKS", "SHIM", "HEAP", "LINK")
"""Of the environment that mean something to basedev, after `BASEDEV_`."""

FAST_LINKERS = ("mold", "lld")

ROOM = 1 << 30
"""Bytes of disk with which a base image and some images can be made."""

LEAST_FILES = 10000
"""That the disk must have room for."""

MEMORY = 1 << 30
"""Bytes of memory that an image of a heavy edit takes."""

NETWORK = ("nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "9p")
"""File systems whose locks and renaming may not be what is expected."""

SECONDS_TO_START = 30


@dataclass(frozen=True)
class Finding:
    """What was seen of one thing."""

    check: str
    state: str
    text: str
    remedy: str = ""
    """What to do about it."""


class Doctor:
    """Looks at a checkout (None: at none, for the reason that is told) and a cache directory."""

    def __init__(self, directory: Path, *, checksums: bool = False) -> None:
        """With `checksums`, those of all that is stored are computed anew."""
        self._directory = directory
        self._checksums = checksums

    def findings(self) -> Iterator[Finding]:
        """All of them, one after the other. A check that fails is a finding too."""
        checks: dict[str, Callable[[], Iterator[Finding]]] = {
            "basedev": self._itself,
            "Python packages": self._packages,
            "system": self._system,
            "git": self._git,
            "compiler": self._compiler,
            "linker": self._linker,
            "configuration": self._configuration,
            "environment": self._environment,
            "cache": self._cache,
            "disk": self._disk,
            "store": self._store,
            "locks": self._locks,
            "checkout": self._of_checkout,
            "Julia": self._julia,
            "base image": self._base,
            "engine": self._engine,
            "inotify": self._inotify,
            "hooks": self._hooks,
            "background": self._background,
            "server": self._server,
        }
        told = set()  # what one check tells is not told again by another
        for name, check in checks.items():
            for found in self._outcome(check):
                if found.state == OK or found.text not in told:
                    told.add(found.text)
                    yield replace(found, check=name)

    @staticmethod
    def _outcome(check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
        try:
            yield from check()
        except BasedevError as error:
            yield _problem(*_split(error.message))
        except ImportError as error:
            yield _problem(str(error).partition("\n")[0], "install git and the packages above")
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            mine = error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
            yield _problem(
                f"{where}{error.strerror or error}", "make it readable and writable" if mine else "repair or remove it"
            )
        except Exception as error:
            yield _problem(f"{type(error).__name__}: {error}", "a defect of basedev: please report it")

    # ---- what everything needs ----

    def _itself(self) -> Iterator[Finding]:
        yield _ok(f"{__version__}, Python {platform.python_version()} at {sys.executable}")

    def _packages(self) -> Iterator[Finding]:
        told = []
        for name, least in PACKAGES.items():
            try:
                version = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                yield _problem(f"{name} is not installed", f"{_pip()} install '{name}>={least}'")
                continue
            if _numbers(version) < _numbers(least):
                yield _problem(f"{name} is {version}, older than {least}", f"{_pip()} install -U '{name}>={least}'")
            told.append(f"{name} {version}")
        yield _ok(", ".join(told))

    def _system(self) -> Iterator[Finding]:
        if platform.system() != "Linux" or platform.machine() != "x86_64":
            yield _problem(f"{platform.system()} on {platform.machine()}", "use Linux on x86-64, a container for one")
            return
        about = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free, whole = (int(about[name].split()[0]) * 1024 for name in ("MemAvailable", "MemTotal"))
        processors = counted(os.cpu_count() or 1, "processor")
        text = f"Linux {platform.release()}, {processors}, {size(free)} of {size(whole)} memory free"
        yield _warning(text, f"end other programs: a heavy edit takes {size(MEMORY)}") if free < MEMORY else _ok(text)

    def _git(self) -> Iterator[Finding]:
        yield _version("git", "install the package git")

    def _compiler(self) -> Iterator[Finding]:
        """Needed for a base image and for the host; images are made without."""
        for program in ("g++", "as"):
            yield _version(program, f"install the package {'g++' if program == 'g++' else 'binutils'}")

    def _linker(self) -> Iterator[Finding]:
        name = linker()
        if name in FAST_LINKERS:
            yield _ok(name)
        else:
            yield _warning(
                f"{name}, which takes longer than others", f"install the package {LINKERS[0]} or {LINKERS[1]}"
            )

    def _configuration(self) -> Iterator[Finding]:
        root = self._checkout.root if self._checkout else None
        files = [path for path in settings_files(os.fspath(root) if root else None) if Path(path).exists()]
        try:
            load_config(root)
        except UsageError as error:
            yield _problem(error.message, "correct that file; docs/commands.md has all keys")
            return
        yield _ok(", ".join(files) or "the defaults")

    def _environment(self) -> Iterator[Finding]:
        told = sorted(name for name in os.environ if name.startswith("BASEDEV_"))
        for name in told:
            if name.removeprefix("BASEDEV_") not in VARIABLES:
                known = ", ".join(f"BASEDEV_{one}" for one in VARIABLES[:4])
                yield _warning(f"{name} means nothing to basedev", f"unset it; there are {known}")
        yield _ok(", ".join(f"{name}={os.environ[name]}" for name in told) or "nothing of basedev's is set")

    # ---- the checkout ----

    @cached_property
    def _checkout(self) -> Checkout | None:
        with suppress(UsageError):
            return Checkout.find(self._directory)
        return None

    @cached_property
    def _distribution(self) -> Distribution | None:
        """The checkout's Julia, where that can be used."""
        with suppress(BasedevError):  # which is told of Julia
            return self._checkout.distribution if self._checkout else None
        return None

    @property
    def _base_directory(self) -> Path | None:
        """Where the checkout's base image is, or would be."""
        name = ""
        with suppress(BasedevError):  # which is told of Julia
            name = base_of(self._checkout) if self._checkout else ""
        return self._storage.root / "bases" / name if name else None

    @property
    def _is_patched(self) -> bool:
        return self._checkout is not None and self._checkout.is_patched

    @cached_property
    def _config(self) -> Config:
        with suppress(UsageError):  # which is told of the configuration
            return load_config(self._checkout.root if self._checkout else None)
        return Config()

    @cached_property
    def _storage(self) -> Storage:
        return Storage()

    def _of_checkout(self) -> Iterator[Finding]:
        if self._checkout:
            root, tree, commit = self._checkout.root, self._checkout.tree, self._checkout.commit
            where = f"{root}, of {tree}" if tree != root else f"{root}"
            yield _ok(f"{where}, {f'at commit {commit[:10]}' if commit else 'in no git repository'}")
        elif self._directory != Path():
            Checkout.find(self._directory)
        else:
            yield _ok("not in one, so what belongs to one is not looked at")

    def _julia(self) -> Iterator[Finding]:
        if self._checkout is None:
            found = find(self._storage)
            none = "none was obtained yet: tools/julia-checkout does so"
            yield _ok(f"{found.version} in {found.prefix}" if found else none)
            return
        if self._is_patched:
            yield from self._built_julia(self._checkout)
            return
        program, version = self._checkout.julia, self._checkout.distribution.version
        said = _said(program, "--startup-file=no", "-e", "print(VERSION)")
        if said != version:
            yield _problem(
                f"{program} says {said!r} and not {version}",
                f"remove {program.parents[1]} and run tools/julia-checkout {self._checkout.root}",
            )
        else:
            yield _ok(f"{version} at {program}")

    @staticmethod
    def _built_julia(checkout: Checkout) -> Iterator[Finding]:
        """Of one that its own makefile builds."""
        program, version = checkout.julia, checkout.version or ""
        said = _said(program, "--startup-file=no", "-e", "print(VERSION)")
        if said.startswith(version):
            yield _ok(f"{said} at {program}")
        else:
            yield _problem(f"{program} says {said!r} and not {version}", "make")
        state, _ = Patches(checkout).status()
        if state == "applied":
            yield _ok("the patches are applied")
        else:
            yield _warning(f"the patches in the working tree: {state}", "basedev patch apply, then make")
        try:
            check_runtime(checkout)
        except SetupError as error:
            yield _warning(*_split(error.message))

    def _base(self) -> Iterator[Finding]:
        if self._checkout is None or (place := self._base_directory) is None:
            if self._is_patched:
                yield _warning("the checkout was not adopted yet", "basedev init")
            return
        wrong = self._wrong("bases", place.name)
        if not self._checkout.base_record.exists():
            yield _warning("the checkout was not adopted yet", "basedev init")
        elif wrong is None:
            yield _warning(f"{place.name} is not made yet", "basedev init makes it in a minute; so does the next build")
        elif wrong:
            yield _problem(f"{place.name}: {wrong}", "basedev images verify --repair, then basedev init")
        else:
            yield _ok(place.name)
            if self._is_patched and not is_present(self._checkout):
                yield _warning("make has made another system image since", "the next build keeps that, in two minutes")
            if reason := (read_manifest(place) or {}).get("linker_reason"):
                yield _warning(f"each image needs a linker: {reason}", "report it, with this machine's distribution")

    def _engine(self) -> Iterator[Finding]:
        """That the host runs on the base image tests that libjulia is that of the headers (`check_abi`), and that the
        image's tables are where they are looked for."""
        place, distribution = self._base_directory, self._distribution
        if self._checkout and self._is_patched:
            entry = Store(self._storage).find("bases", place.name) if place else None
            if entry and self._wrong("bases", entry.id) == "":
                with PatchedHost(self._checkout.julia, BaseImage(entry).host, has_program=True) as patched:
                    yield _ok(f"its host reads the base image, of Julia {patched.facts()['version']}")
            return
        if place is None or distribution is None or self._wrong("bases", place.name) != "":
            return
        program = compiled_host(distribution, self._storage)
        if program is None:
            yield _warning("its host is not compiled yet", "the next build does so, in half a minute")
            return
        with Host(program, place / "base.so", distribution) as host:
            functions = host.facts()["native"]
        yield _ok(f"its host fits this libjulia and reads the base image, which has {functions} functions")

    def _hooks(self) -> Iterator[Finding]:
        if self._checkout is None or self._checkout.commit is None:
            return
        hooks = Hooks(self._checkout)
        installed = []
        for hook in hooks.hooks:
            if reason := hook.refusal(removing=False):
                yield _warning(*_split(reason))
            elif hook.outdated:
                yield _warning(f"{hook.path} is of another basedev, Python or build directory", "basedev hook install")
            elif hook.state in ("installed", "wrapped"):
                installed.append(hook.path.name)
        if installed and not hooks.directory.is_dir():
            yield _warning(
                f"git's hooks are switched off: core.hooksPath is {hooks.directory}",
                "git config --unset core.hooksPath",
            )
        yield _ok(f"{', '.join(installed) or 'none'} installed in {hooks.directory}")

    def _background(self) -> Iterator[Finding]:
        if self._checkout is None:
            return
        told = Background(self._checkout.root, self._storage).report()
        if told and told["status"] in ("failed", "refused", "killed"):
            yield _warning(
                f"the last build {told['status']}: {told['message']}".removesuffix(": "), f"read {told['log']}"
            )
        elif told:
            yield _ok(f"the last build: {told['status']}")

    # ---- the machine ----

    def _inotify(self) -> Iterator[Finding]:
        import pyinotify

        limits = {name: int((SETTINGS / name).read_text()) for name in ("max_user_watches", "max_user_instances")}
        text = ", ".join(f"{name} {number}" for name, number in limits.items())
        wanted = len(list(source_directories(self._checkout.root))) if self._checkout else 0
        slower = "until then, basedev watch looks at all files every second"
        if self._checkout and not is_encodable(self._checkout.root):
            yield _warning("the checkout's path is not UTF-8", "move it: basedev watch looks at all files every second")
            return
        try:
            manager = pyinotify.WatchManager()
        except OSError:
            yield _warning(f"no instance is to be had: {text}", _setting("max_user_instances", limits, slower))
            return
        notifier = pyinotify.Notifier(manager)
        try:
            paths = [str(path) for path in source_directories(self._checkout.root)] if self._checkout else []
            added = manager.add_watch(paths, pyinotify.IN_CLOSE_WRITE, quiet=True)
        finally:
            notifier.stop()
        if failed := sum(descriptor < 0 for descriptor in added.values()):
            yield _warning(
                f"{failed} of {counted(wanted, 'directory', 'directories')} can't be watched: {text}",
                _setting("max_user_watches", limits, slower),
            )
        else:
            yield _ok(f"{counted(wanted, 'directory', 'directories')} to watch, {text}" if wanted else text)

    def _cache(self) -> Iterator[Finding]:
        root = self._storage.root
        if not root.exists():
            yield _ok(f"{root} is made when it is needed")
            return
        status = root.stat()
        if not root.is_dir():
            yield _problem(f"{root} is no directory", "set BASEDEV_CACHE to one")
            return
        if not os.access(root, os.R_OK | os.W_OK | os.X_OK):
            yield _problem(f"{root} can't be written", "make it yours, or set BASEDEV_CACHE to another directory")
        elif status.st_uid != os.geteuid():
            yield _warning(f"{root} belongs to another user", "set BASEDEV_CACHE to a directory of your own")
        elif status.st_mode & 0o002:
            yield _problem(f"others can write to {root}, and so have you run what they like", f"chmod go-w {root}")
        else:
            yield _ok(str(root))
        staging = root / "staging" if (root / "staging").exists() else root
        for place in filter(Path.exists, (root / kind for kind in KINDS)):
            if place.stat().st_dev != staging.stat().st_dev:
                remedy = "have both on one, so that what is finished gets to its place in one step"
                yield _problem(f"{place} is on another disk than {staging}", remedy)
        foreign = [path for kind in KINDS for path in (root / kind).glob("*") if path.lstat().st_uid != os.geteuid()]
        if foreign:
            many = counted(len(foreign), "entry", "entries")
            yield _warning(f"{many} of other users, as {foreign[0]}", "remove them as that user")

    def _disk(self) -> Iterator[Finding]:
        place = next(path for path in (self._storage.root, *self._storage.root.parents) if path.is_dir())
        kind, options = _file_system(place)
        free, nodes = shutil.disk_usage(place).free, os.statvfs(place)
        budget = parse_size(self._config.budget)
        used = on_disk(Collection(self._storage).items("images")) if self._storage.root.is_dir() else 0
        text = f"{size(free)} free ({kind}), images take {size(used)} of {size(budget)}"
        elsewhere = "set BASEDEV_CACHE to another disk"
        if free < ROOM:
            yield _problem(text, f"free some space (basedev images gc --budget SIZE), or {elsewhere}")
        elif free < budget - used:
            yield _warning(f"{text}, for which there is no room", "set budget in the configuration to less")
        else:
            yield _ok(text)
        if "ro" in options:
            yield _problem(f"{place} is read-only", elsewhere)
        if nodes.f_files and nodes.f_favail < LEAST_FILES:
            yield _problem(f"only {nodes.f_favail} more files can be made", f"remove files, or {elsewhere}")
        if kind in NETWORK:
            yield _warning(f"{place} is on a network ({kind}), where locks may not hold", elsewhere)
        elif kind == "tmpfs":
            yield _warning(f"{place} is in memory ({kind}): nothing is left after a restart", elsewhere)
        if place == self._storage.root and os.access(place, os.W_OK):
            with tempfile.TemporaryDirectory(dir=place, prefix=".doctor-") as area:
                shares = shares_blocks(Path(area))
            whole = "each image takes its whole size: copies share no blocks here"
            yield _ok("copies share blocks with what they are of" if shares else whole)

    # ---- what is in the cache ----

    def _wrong(self, kind: str, name: str) -> str | None:
        """What is wrong with an entry, empty if nothing is; None when there is none."""
        if not (self._storage.root / kind / name).exists():
            return None
        return "; ".join(Store(self._storage).examine(kind, name, checksums=self._checksums))

    def _store(self) -> Iterator[Finding]:
        if not self._storage.root.is_dir():
            return
        store = Store(self._storage)
        counts = {kind: store.names(kind) for kind in KINDS}
        damaged = [
            f"{kind}/{name}: {wrong}"
            for kind, names in counts.items()
            for name in names
            if (wrong := self._wrong(kind, name))
        ]
        for one in damaged:
            yield _problem(one, "basedev images verify --repair")
        how = "checksums" if self._checksums else "sizes; basedev doctor --checksums reads all"
        told = ", ".join(f"{len(names)} {kind}" for kind, names in counts.items() if names)
        yield _ok(f"{told or 'empty'} (by {how})")
        area = self._storage.root / "staging"
        if left := [path for path in area.glob("*") if path.suffix != ".lock" and not self._is_held(path)]:
            yield _warning(
                f"{counted(len(left), 'thing')} in {area} left by killed processes",
                "any command removes them, such as basedev images list",
            )

    @staticmethod
    def _is_held(path: Path) -> bool:
        import fcntl

        try:
            with Path(f"{path}.lock").open("rb") as guard:
                fcntl.flock(guard, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def _locks(self) -> Iterator[Finding]:
        held = self._storage.holders()
        for name, pid in held.items():
            command = ""
            with suppress(OSError):
                command = (
                    Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                )
            yield _ok(
                f"{name} is held by process {pid or 'of another container'}{f' ({command[:80]})' if command else ''}"
            )
        if not held:
            yield _ok("none is held")

    def _server(self) -> Iterator[Finding]:
        if not allowed(self._config.server):
            yield _warning("switched off", "set server = true, and unset BASEDEV_SERVER, to have builds faster")
        running = Servers(self._storage).running()
        known = Store(self._storage).names("bases") if running else []
        for one in running:
            text = (
                f"{one.pid} on the base image {one.base_id}: {counted(one.builds, 'build')},"
                f" idle for {age(one.idle)}, memory {size(one.memory)} (of {size(one.limits.memory)})"
            )
            if one.base_id not in known:
                yield _warning(f"{text}; that is gone", "basedev serve stop --all")
            elif one.memory > one.limits.memory:
                yield _warning(text, "basedev serve stop")
            else:
                yield _ok(text)
        if not running:
            yield _ok("none is running; a build starts it")
        place = self._base_directory
        if place and any(one.base_id == place.name for one in running):
            yield from self._served(place)

    def _service(self, base: Path) -> Service | None:
        """What a server on the checkout's base image runs, if it is known what that is."""
        if self._checkout and self._is_patched:
            entry = Store(self._storage).find("bases", base.name)
            return patched_service(BaseImage(entry), self._checkout) if entry else None
        assert self._distribution is not None
        program = compiled_host(self._distribution, self._storage)
        return stock_service(program, base / "base.so", self._distribution) if program else None

    def _served(self, base: Path) -> Iterator[Finding]:
        """Whether a server of the checkout's base image is this version's, and can be used."""
        service = self._service(base)
        if service is None:
            return
        try:
            connection, _ = Servers(self._storage).connect(service, Limits(60, MEMORY), start=False)
            connection.close()
            yield _ok("that of this checkout's base image answers")
        except NoServer as reason:
            yield _warning(
                f"that of this checkout's base image is not this version's, or can't be used: {reason}",
                "nothing: the next build starts another, and this one ends when it is idle",
            )


def _ok(text: str) -> Finding:
    return Finding("", OK, text)


def _warning(text: str, remedy: str) -> Finding:
    return Finding("", WARNING, text, remedy)


def _problem(text: str, remedy: str) -> Finding:
    return Finding("", PROBLEM, text, remedy)


def _split(message: str) -> tuple[str, str]:
    """A message into what is the matter and what to do: errors of basedev have both in a line."""
    for mark in (": ", "; "):
        text, found, remedy = message.rpartition(mark)
        if found:
            return text, remedy
    return message, ""


def _pip() -> str:
    return f"{sys.executable} -m pip"


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)][:3]


def _version(program: str, remedy: str) -> Finding:
    path = shutil.which(program)
    if path is None:
        return _problem(f"{program} is not installed", remedy)
    lines = _said(path, "--version").splitlines()
    return _ok(f"{lines[0]} at {path}") if lines else _problem(f"{path} does not run", remedy)


def _said(*command: str | Path) -> str:
    """What a program prints; nothing when it fails."""
    try:
        done = subprocess.run(command, capture_output=True, timeout=SECONDS_TO_START, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return "" if done.returncode else done.stdout.decode(errors="replace").strip()


def _setting(name: str, limits: dict[str, int], until: str) -> str:
    return f"sudo sysctl fs.inotify.{name}={max(2 * limits[name], 1024)}; {until}"


def _file_system(path: Path) -> tuple[str, list[str]]:
    """The type of the file system that a path is on, and its mount options."""
    real, best = os.path.realpath(path), ("", "unknown", "")
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind, options = line.split()[:4]
        where = where.encode().decode("unicode_escape")
        if (real == where or real.startswith(where.rstrip("/") + "/")) and len(where) >= len(best[0]):
            best = where, kind, options
    return best[1], best[2].split(",")
