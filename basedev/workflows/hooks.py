"""`basedev hook`: git hooks that have the image built in the background when the sources have changed.

A hook that exists stays what it is: it is moved aside, to a name beside its own, and run first, with the same
arguments, standard input and exit code. `remove` moves it back.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

import git

from ..checkout import Checkout
from ..errors import SetupError, UsageError
from ..places import BASE_RECORD, HOOKS, KINDS
from ..process import PLACE
from ..repository import repository
from ..shim import LAUNCH
from ..storage import digest_of

ASIDE = ".before-basedev"
"""What is added to the name of a hook that was there before."""

MARK = "# basedev hook: "
"""Begins the second line of a script, which tells a checksum of what follows."""

SCRIPT = """\
# Builds Julia's system image in the background: see `basedev hook --help`, which also removes this.
# What was here before is run first.
case $$0 in */*) hooks=$${0%/*} ;; *) hooks=. ;; esac
before=$$hooks/$name$aside status=0
if [ -x "$$before" ]; then
    # A shell's script is read by that shell, so that its $$0 is what it was: hook managers go by it.
    first=''
    { IFS= read -r first; } 2>/dev/null <"$$before"
    set -f
    case "$$first " in
    '#!'*[/\\ ]sh\\ * | '#!'*[/\\ ]bash\\ * | '#!'*[/\\ ]dash\\ *)
        # shellcheck disable=SC2086 - a program with its arguments
        $${first#'#!'} -c '. "$${0%/*}/$name$aside"' "$$hooks/$name" "$$@"
        ;;
    *) "$$before" "$$@" ;;
    esac
    status=$$?
fi
directory=$${GIT_DIR:-.git}
if ! [ -d "$$directory" ]; then directory=$$(git rev-parse --git-dir); fi
case $name:$${1-}:$${3-} in
post-checkout:*:0) exit "$$status" ;; # of files
post-rewrite:rebase:*) ;;             # its end
*) if [ -d "$$directory/rebase-merge" ] || [ -d "$$directory/rebase-apply" ]; then exit "$$status"; fi ;;
esac
for build in .$builds; do
    for kind in $kinds; do
        if [ "$${BASEDEV_HOOKS-}" != 0 ] && [ -f "$$build/$record" ] && [ -x $python ]; then
            nice $python -c $launch $package -C "$$build" build --background </dev/null >/dev/null 2>&1 &
            break
        fi
    done
done
exit "$$status"
"""


@dataclass(frozen=True)
class Hook:
    """One of git's hooks."""

    path: Path
    build: Path | None = None
    """The build directory that it is to be for too."""

    @property
    def aside(self) -> Path:
        """Where the hook is that was there before."""
        return self.path.with_name(self.path.name + ASIDE)

    @property
    def state(self) -> str:
        """ "absent", "installed", "edited" (was basedev's), "foreign", or "wrapped": a hook manager has moved basedev's
        elsewhere and runs it from there."""
        if not os.path.lexists(self.path):
            return "absent"
        if (own := _own(self.path)) is not None:
            return "installed" if own else "edited"
        others = self.path.parent.glob(f"{self.path.name}.*")
        return "wrapped" if any(_own(other) is not None for other in others) else "foreign"

    @property
    def unfinished(self) -> bool:
        """Whether an installation was interrupted: the hook has two names."""
        with suppress(FileNotFoundError):
            return os.path.samestat(self.path.lstat(), self.aside.lstat())
        return False

    @property
    def outdated(self) -> bool:
        """Whether it was installed by another basedev, for another Python, or only for other build directories, than
        this."""
        if self.state != "installed":
            return False
        text = self.path.read_text()
        return text != self._script(_made_directory(text))

    def refusal(self, *, removing: bool) -> str | None:
        """Why it can't be installed or removed, and what to do; None when it can."""
        kept = f"; what was there before basedev is in {self.aside}" if os.path.lexists(self.aside) else ""
        state = self.state
        if state == "edited":
            return f"{self.path} was edited after it was installed: move it away, with what you added, and retry{kept}"
        if state == "wrapped":
            return None if not removing else f"another program runs basedev's {self.path.name}: uninstall that first"
        if state == "foreign" and kept and not self.unfinished:
            return f"{self.path} was replaced after basedev's was installed: move one of both away and retry{kept}"
        return None

    def install(self, made_directory: bool) -> None:
        """Puts the script in place, which never lacks a hook meanwhile."""
        state = self.state
        if state == "wrapped":
            return
        if state == "foreign" and not self.unfinished:
            try:
                os.link(self.path, self.aside, follow_symlinks=False)
            except OSError:  # a disk without links
                self.path.rename(self.aside)
        if state == "installed":
            made_directory = _made_directory(self.path.read_text())
        text = self._script(made_directory)
        if state == "installed" and self.path.read_text() == text:
            return
        temporary = self.path.with_name(f".{self.path.name}-{os.getpid()}")
        try:
            temporary.write_text(text)
            temporary.chmod(0o755)
            temporary.replace(self.path)
        finally:
            temporary.unlink(missing_ok=True)

    def remove(self) -> None:
        """Puts back what was there before."""
        if self.unfinished:
            self.aside.unlink()
            return
        made_directory = False
        if self.state == "installed":
            made_directory = _made_directory(self.path.read_text())
            if not os.path.lexists(self.aside):
                self.path.unlink()
        if os.path.lexists(self.aside):
            self.aside.replace(self.path)
        elif made_directory:
            with suppress(OSError):  # others have put something there
                self.path.parent.rmdir()

    def _script(self, made_directory: bool) -> str:
        """What it is to be: for the build directories that it is for now, too."""
        builds = _builds(self.path.read_text()) if self.state == "installed" else []
        own = [] if self.build is None or str(self.build) in builds else [str(self.build)]
        return _script(self.path.name, made_directory, [*builds, *own])

    def to_json(self) -> dict[str, Any]:
        """What `hook status` tells of it."""
        before = str(self.aside) if os.path.lexists(self.aside) else None
        runs = os.access(self.aside, os.X_OK)
        return {"hook": self.path.name, "state": self.state, "before": before, "before_runs": runs}


class Hooks:
    """The hooks of the repository of a checkout.

    Raises SetupError when it is in none.
    """

    def __init__(self, checkout: Checkout, names: str | None = None) -> None:
        self._checkout = checkout
        chosen = HOOKS if names is None else tuple(filter(None, names.split(",")))
        if unknown := [name for name in chosen if name not in HOOKS]:
            raise UsageError(f"basedev has no hook {unknown[0]!r}; it has {', '.join(HOOKS)}")
        try:
            self._repository = repository(checkout.tree)
            self.directory = checkout.tree / str(self._repository.git.rev_parse("--git-path", "hooks"))
            self._common = checkout.tree / str(self._repository.git.rev_parse("--git-common-dir"))
        except (git.GitError, OSError, ValueError) as error:
            raise SetupError(f"{checkout.tree} is no git repository that can be used: {_first_line(error)}") from error
        build = None if checkout.tree == checkout.root else checkout.root
        self.hooks = [Hook(self.directory / name, build) for name in chosen]

    def install(self, *, force: bool = False) -> None:
        """Installs them all, or none. Does nothing where that is done already.

        Raises SetupError when one can't be installed, UsageError when their directory is not the repository's own,
        without `force`.
        """
        self._checkout.check_adopted()
        if os.path.lexists(self.directory) and not self.directory.is_dir():
            raise SetupError(f"git's hooks are switched off: core.hooksPath is {self.directory}, which is no directory")
        if not force and not self._is_own():
            raise UsageError(
                f"git's hooks are in {self.directory} (core.hooksPath), which other repositories or commits have in "
                "common with this: install them there with --force"
            )
        self._refuse(removing=False)
        made_directory = not self.directory.exists()
        if made_directory:
            self.directory.mkdir()
        for hook in self.hooks:
            hook.install(made_directory)

    def remove(self) -> None:
        """Puts back what was there before, everywhere or nowhere. Raises SetupError when that can't be done."""
        self._refuse(removing=True)
        for hook in self.hooks:
            hook.remove()

    def _refuse(self, *, removing: bool) -> None:
        if reasons := [reason for hook in self.hooks if (reason := hook.refusal(removing=removing))]:
            raise SetupError(reasons[0], "\n".join(reasons[1:]))

    def _is_own(self) -> bool:
        """Whether what is done in the directory of hooks concerns this repository only, and no commit."""
        real = self.directory.resolve()
        if real.is_relative_to(self._common.resolve()):
            return True
        if not real.is_relative_to(self._checkout.tree.resolve()):
            return False
        paths = [str(real / path.name) for hook in self.hooks for path in (hook.path, hook.aside)]
        return len(self._repository.ignored(*paths)) == len(paths)


def _script(name: str, made_directory: bool, builds: Iterable[str]) -> str:
    values = {
        "python": sys.executable,
        "package": str(PLACE),
        "launch": LAUNCH.format("__main__"),
    }
    quoted = {key: shlex.quote(value) for key, value in values.items()}
    others = "".join(f" {shlex.quote(one)}" for one in builds)
    names = {"record": BASE_RECORD.format("$kind"), "kinds": shlex.join(KINDS)}
    body = Template(SCRIPT).substitute(quoted, name=name, aside=ASIDE, builds=others, **names)
    about = "in a new directory" if made_directory else "1"
    return f"#!/bin/sh\n{MARK}{about}, {digest_of(about, body)[:20]}\n{body}"


def _own(path: Path) -> bool | None:
    """Whether a file is a hook of basedev's as it was written; None when it never was one."""
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return None
    _, _, rest = text.partition("\n")
    if path.is_symlink() or MARK not in text:
        return None
    mark, _, body = rest.partition("\n")
    about, _, checksum = mark.removeprefix(MARK).partition(", ")
    return text.startswith(f"#!/bin/sh\n{MARK}") and checksum == digest_of(about, body)[:20]


def _made_directory(text: str) -> bool:
    return text.startswith(f"#!/bin/sh\n{MARK}in a new directory")


def _builds(text: str) -> list[str]:
    """The build directories that a script is for, besides the work tree."""
    return shlex.split(text.partition("\nfor build in .")[2].partition("; do\n")[0])


def _first_line(error: Exception) -> str:
    said = str(getattr(error, "stderr", "") or error).strip().splitlines()
    return said[0] if said else type(error).__name__
