"""Where basedev's own files are, for what may not load anything slow: paths are strings."""

from __future__ import annotations

import os

NOTES = "usr/share/basedev"
"""What basedev notes in a tree; git ignores `usr/`."""

KINDS = ("", "-debug")
"""What names of builds of current Julia end with, and of what is noted of them: `built` fills that in."""

BASE_RECORD = f"{NOTES}/base{{}}.json"
"""Where `init` notes the base image of a checkout, and so that it was adopted."""

PROGRAM, SYSIMAGE = "usr/bin/julia{}", "usr/lib/julia/sys{}.so"
"""What a checkout's own makefile builds."""

DEBUG = f"{NOTES}/debug"
"""Is in a checkout of which the debug build was asked for."""

ADOPTED = "checkouts"
"""Where the cache directory has the records of adopted checkouts, each below it at the checkout's own path."""

ADOPTED_RECORD = "adopted.json"

SETTINGS = ".basedev.toml"
"""A checkout's own settings."""

DEPENDENCIES = "dependencies.bin"
"""Beside a base image: what its results of inference depend on, beyond the edges that Julia keeps."""

HOOKS = ("post-commit", "post-checkout", "post-merge", "post-rewrite")
"""The hooks of git that can start builds."""


def open_at_once(path: str, flags: int) -> int:
    """Opens a file without waiting for the other end of a pipe."""
    return os.open(path, flags | os.O_NONBLOCK)


def suffix(root: str | os.PathLike[str]) -> str:
    """The kind of a checkout's build: "-debug" where that was asked for, or there is no other."""
    release, debug = (os.path.exists(f"{root}/{SYSIMAGE.format(kind)}") for kind in KINDS)
    return "-debug" if os.path.exists(f"{root}/{DEBUG}") or (debug and not release) else ""


def built(root: str | os.PathLike[str], what: str) -> str:
    """Where in a checkout something of its build is."""
    return what.format(suffix(root))


def settings_files(root: str | None) -> tuple[str, ...]:
    """The files with settings for a checkout (None: the user's only); the later ones override the earlier."""
    home = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    user = f"{home}/basedev/config.toml"
    return (user, f"{root}/{SETTINGS}") if root else (user,)
