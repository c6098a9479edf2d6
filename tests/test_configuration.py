"""Settings: two files and the flags, which override each other in this order; mistakes are told."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from conftest import Bench

from basedev.config import ENGINES, Config, load_config
from basedev.errors import UsageError

FORBIDDEN = "only a full rebuild is right, and it was not wanted"


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory, for a user without settings."""
    monkeypatch.setenv("HOME", os.fspath(tmp_path / "home"))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    (tmp_path / "checkout").mkdir()
    return tmp_path / "checkout"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_defaults(checkout: Path) -> None:
    assert load_config(checkout) == load_config(None) == Config(engine="auto", full_rebuild=True)


def test_the_checkouts_file_overrides_the_users(checkout: Path) -> None:
    write(checkout.parent / "home/.config/basedev/config.toml", '[basedev]\nengine = "full"\nfull-rebuild = false\n')
    assert load_config(checkout) == Config(engine="full", full_rebuild=False)
    write(checkout / ".basedev.toml", '[basedev]\nengine = "stock-1.5"\n')
    assert load_config(checkout) == Config(engine="stock-1.5", full_rebuild=False)
    assert load_config(None) == Config(engine="full", full_rebuild=False)


def test_the_users_configuration_directory(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", os.fspath(checkout.parent / "xdg"))
    write(checkout.parent / "xdg/basedev/config.toml", "[basedev]\nfull-rebuild = false\n")
    assert load_config(checkout) == Config(full_rebuild=False)


@pytest.mark.parametrize("text", ["", "# nothing\n", "[basedev]\n"])
def test_an_empty_file_changes_nothing(checkout: Path, text: str) -> None:
    write(checkout / ".basedev.toml", text)
    assert load_config(checkout) == Config()


KNOWN = "engine, full-rebuild, budget, autobuild, server, server-idle, server-memory"

MISTAKES = {
    "[basedev]\nengin = 1\n": f"unknown key 'engin'; known are {KNOWN}",
    "[basedev]\nfull_rebuild = true\n": "unknown key 'full_rebuild'",
    "[basedev]\nengine = 1\n": "engine must be a str, not 1",
    "[basedev]\nfull-rebuild = 1\n": "full-rebuild must be a bool, not 1",
    '[basedev]\nengine = "steam"\n': f"engine must be one of {', '.join(ENGINES)}, not 'steam'",
    '[basedev]\nbudget = "much"\n': "budget: 'much' is no size, such as 20 GiB",
    "[basedev]\nbudget = 5\n": "budget must be a str, not 5",
    '[basedev]\nserver = "off"\n': "server must be a bool, not 'off'",
    "[basedev]\nserver-idle = 0\n": "server-idle must be from 1 to 10080 minutes, not 0",
    '[basedev]\nserver-memory = "all"\n': "server-memory: 'all' is no size, such as 20 GiB",
    "[other]\n": "only the table [basedev] is known, not other",
    'engine = "full"\n': "only the table [basedev] is known, not engine",
    "basedev = 1\n": "only the table [basedev] is known",
    "[basedev\n": "is no TOML file",
    "\udcff": "is no TOML file",
}


@pytest.mark.parametrize("text", MISTAKES)
def test_mistakes_are_told_with_the_file(checkout: Path, text: str) -> None:
    file = checkout / ".basedev.toml"
    file.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UsageError) as caught:
        load_config(checkout)
    assert caught.value.message.startswith(str(file)) and "\n" not in caught.value.message
    assert MISTAKES[text] in caught.value.message


def test_a_directory_is_no_file_of_settings(checkout: Path) -> None:
    (checkout / ".basedev.toml").mkdir()
    with pytest.raises(UsageError, match=r"\.basedev\.toml can't be read: Is a directory$"):
        load_config(checkout)


def test_a_mistake_ends_every_command(bench: Bench) -> None:
    (bench.root / ".basedev.toml").write_text("[basedev]\nspeed = 1\n")
    for command in ("init", "status", "build", "run", "test"):
        done = bench.basedev(command)
        assert done.returncode == 2
        assert done.stderr == f"basedev: {bench.root}/.basedev.toml: unknown key 'speed'; known are {KNOWN}\n"


def test_settings_and_flags_are_used(bench: Bench) -> None:
    (bench.root / ".basedev.toml").write_text("[basedev]\nfull-rebuild = false\n")
    bench.append("stdlib/Base64/Project.toml", "# edited\n")
    done = bench.basedev("build")
    assert done.returncode == 3
    assert done.stderr.startswith(f"basedev: {FORBIDDEN}: stdlib/Base64/Project.toml changed")
    assert done.stderr.count("\n") == 1
    (bench.root / ".basedev.toml").write_text('[basedev]\nengine = "full"\n')
    assert FORBIDDEN in bench.basedev("build", "--engine", "stock-1.5").stderr
    assert FORBIDDEN in bench.basedev("build", "--engine", "auto", "--no-full-rebuild").stderr
    done = bench.basedev("build", "--no-full-rebuild")
    assert (done.returncode, done.stderr) == (
        2,
        "basedev: the engine full rebuilds in full, which is forbidden (full-rebuild)\n",
    )
