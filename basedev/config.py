"""Settings from `.basedev.toml` at the checkout's root and from the user's own file.

Both hold a table `[basedev]`. The checkout's file overrides the user's, and a flag overrides both. A key that is
not known is an error, so that a misspelt one is not silently without effect.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, fields, replace
from pathlib import Path

import tomli

from .errors import UsageError
from .places import open_at_once, settings_files
from .sizes import parse_size

ENGINES = ("auto", "stock-1.5", "stock-1.5-no-cutoff", "patched", "patched-no-cutoff", "full")

POLICIES = ("chain", "rebuild", "skip")
"""Where a commit can't be chained: what the configuration says (rebuild, or skip it), rebuild in full, or skip it."""


LARGEST = 1 << 16
"""Bytes of a file of settings. A link in a checkout can lead to /dev/zero."""

MOST_MINUTES = 7 * 24 * 60
"""For which a server may wait."""


@dataclass(frozen=True)
class Config:
    """The settings with their defaults."""

    engine: str = "auto"
    """How images are made: "auto" takes the fastest way that is right; "stock-1.5" chains or fails;
    "stock-1.5-no-cutoff" does too, and compiles all that Julia's own rule invalidates; "patched" and
    "patched-no-cutoff" are the same for a source checkout; "full" always rebuilds."""
    full_rebuild: bool = True
    """Whether a build that can't be chained may take minutes for a full rebuild; otherwise it fails with the
    reason."""
    budget: str = "10 GiB"
    """How much disk images may take before those that were not used for longest are removed."""
    autobuild: bool = False
    """Whether the `julia` of `basedev shell-init` starts a build in the background when there is no image."""
    server: bool = True
    """Whether builds use a warm server, and start it."""
    server_idle: int = 15
    """Minutes without a build after which a server ends."""
    server_memory: str = "1 GiB"
    """Memory that a server may need; it ends after a build when it is above that."""


def load_config(root: Path | None) -> Config:
    """The settings for a checkout (None: the user's only). Raises UsageError when a file is wrong."""
    config = Config()
    for path in settings_files(os.fspath(root) if root else None):
        config = _merge(config, Path(path))
    return config


def _merge(config: Config, path: Path) -> Config:
    try:
        with open(path, "rb", opener=open_at_once) as file:
            text = file.read(LARGEST + 1)
        if len(text) > LARGEST:
            raise UsageError(f"{path} is no file of settings: it has more than {LARGEST} bytes")
        data = tomli.loads(text.decode())
    except FileNotFoundError:
        return config
    except OSError as error:
        raise UsageError(f"{path} can't be read: {error.strerror}") from error
    except (tomli.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{path} is no TOML file: {error}") from error
    known = {field.name.replace("_", "-"): field for field in fields(Config)}
    table = data.pop("basedev", {})
    if data or not isinstance(table, dict):
        raise UsageError(f"{path}: only the table [basedev] is known, not {', '.join(data) or 'a value'}")
    for key, value in table.items():
        field = known.get(key)
        if field is None:
            raise UsageError(f"{path}: unknown key {key!r}; known are {', '.join(known)}")
        expected = type(getattr(config, field.name))
        if type(value) is not expected:
            raise UsageError(f"{path}: {key} must be a {expected.__name__}, not {value!r}")
        config = replace(config, **{field.name: value})
    if config.engine not in ENGINES:
        raise UsageError(f"{path}: engine must be one of {', '.join(ENGINES)}, not {config.engine!r}")
    for key, value in (("budget", config.budget), ("server-memory", config.server_memory)):
        try:
            parse_size(value)
        except ValueError as error:
            raise UsageError(f"{path}: {key}: {error}") from error
    if not 1 <= config.server_idle <= MOST_MINUTES:
        raise UsageError(f"{path}: server-idle must be from 1 to {MOST_MINUTES} minutes, not {config.server_idle}")
    return config
