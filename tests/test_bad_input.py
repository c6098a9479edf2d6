"""Bad input: a clear line with the remedy, a non-zero exit, nothing published, nothing lost."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import SHARED, Bench

from basedev.checkout import Checkout
from basedev.engines.stock15.baseimage import base_id
from basedev.storage import cache_root

UTIL = "base/strings/util.jl"
NEW_FUNCTION = "\nharmless(s::String) = s\n"


def images(bench: Bench) -> set[str]:
    """The images in the store."""
    directory = bench.storage.root / "images"
    return {entry.name for entry in directory.iterdir()} if directory.exists() else set()


def test_syntax_error(bench: Bench) -> None:
    bench.append(UTIL, NEW_FUNCTION)
    good = bench.chain()
    bench.append(UTIL, "broken(x) = (x + 1))\n")
    line = (bench.root / UTIL).read_text().count("\n")
    for command in ("build", "status", "run"):
        done = bench.basedev(command)
        assert done.returncode == 1
        first, source, mark = done.stderr.rstrip("\n").split("\n")
        assert first.startswith(f"basedev: {UTIL}:{line}:")
        assert 'syntax: unexpected ")"' in first or "extra token" in first
        assert source == f"{line} | broken(x) = (x + 1))"
        assert mark.strip() == "^" and source[mark.index("^")] == ")"
        assert done.stdout == ""
    assert images(bench) == {good["image_id"]}


def test_error_at_evaluation(bench: Bench) -> None:
    bench.append(UTIL, "takes_nothing_known(x::ThisTypeDoesNotExist) = x\n")
    done = bench.basedev("build")
    assert done.returncode == 1
    assert f"{UTIL}:" in done.stderr and "UndefVarError: ThisTypeDoesNotExist not defined" in done.stderr
    assert images(bench) == set()


def test_not_a_checkout(bench: Bench, tmp_path: Path) -> None:
    for directory in (tmp_path, tmp_path / "nowhere"):
        done = bench.basedev("-C", str(directory), "status")
        assert done.returncode == 2
        assert "Traceback" not in done.stderr and done.stderr.count("\n") == 1
        assert str(directory) in done.stderr


def test_checkout_without_julia(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "stdlib").mkdir()
    (tmp_path / "base/Base.jl").touch()
    (tmp_path / "VERSION").write_text("1.5.3\n")
    done = bench.basedev("-C", str(tmp_path), "init")
    assert done.returncode == 3
    assert "julia-checkout" in done.stderr and done.stderr.count("\n") == 1


def test_another_julia(bench: Bench) -> None:
    (bench.root / "VERSION").write_text("1.6.0\n")
    done = bench.basedev("build")
    assert done.returncode == 3
    assert "is Julia 1.6.0" in done.stderr and done.stderr.count("\n") == 1


def test_no_base_image_yet(bench: Bench) -> None:
    record = bench.root / "usr/share/basedev/base.json"
    before = record.read_text()
    record.unlink()
    try:
        done = bench.basedev("build")
    finally:
        record.write_text(before)
    assert done.returncode == 3
    assert done.stderr == f"basedev: {bench.root} has no base image yet: run basedev init\n"


def test_no_compiler(bench: Bench, tmp_path: Path) -> None:
    for kind in ("julia", "bases"):
        (tmp_path / kind).symlink_to(cache_root() / kind)
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("git", "as", "ld", "gcc"):
        found = shutil.which(name)
        assert found
        (programs / name).symlink_to(found)
    bench.append(UTIL, NEW_FUNCTION)
    done = bench.basedev("build", environment={"PATH": str(programs), "BASEDEV_CACHE": str(tmp_path)})
    assert done.returncode == 3
    assert "install the package g++" in done.stderr


@pytest.fixture
def own_base(bench: Bench) -> Iterator[Path]:
    """A cache directory with a copy of the base image, to be damaged."""
    root = bench.storage.root / "own"
    root.mkdir()
    name = base_id(Checkout(bench.root).distribution)
    for kind in SHARED:
        if kind == "bases":
            shutil.copytree(cache_root() / kind / name, root / kind / name)
        else:
            (root / kind).symlink_to(cache_root() / kind)
    yield root
    shutil.rmtree(root)


def test_damaged_base_image_is_made_again(bench: Bench, own_base: Path) -> None:
    damaged = next(own_base.glob("bases/*/base.0.o"))
    size = damaged.stat().st_size
    damaged.chmod(0o644)
    os.truncate(damaged, size // 2)
    bench.append(UTIL, NEW_FUNCTION)
    done = bench.basedev("--json", "build", environment={"BASEDEV_CACHE": str(own_base)})
    assert done.returncode == 0, done.stderr
    assert damaged.stat().st_size > size // 2
    assert bench.julia(json.loads(done.stdout)["image"], 'print(Base.harmless("a"))') == "a"


@pytest.fixture
def small_disk(bench: Bench, tmp_path: Path) -> Iterator[Path]:
    """A cache directory on a disk of 100 MB."""
    if os.geteuid():
        pytest.skip("only root can mount a small disk")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100m", "tmpfs", tmp_path], check=True)
    for kind in SHARED:
        (tmp_path / kind).symlink_to(cache_root() / kind)
    yield tmp_path
    subprocess.run(["umount", tmp_path], check=True)


def test_full_disk(bench: Bench, small_disk: Path) -> None:
    bench.append(UTIL, NEW_FUNCTION)
    done = bench.basedev("build", environment={"BASEDEV_CACHE": str(small_disk)})
    assert done.returncode == 3, done.stderr
    assert re.search(r"No space left on device|the disk is full", done.stderr)
    assert "BASEDEV_CACHE" in done.stderr and "Traceback" not in done.stderr
    assert not list(small_disk.glob("images/*")) and not list(small_disk.glob("staging/*"))
    assert bench.chain()["status"] == "built"  # elsewhere it goes on as if nothing had been


def test_read_only_disk(bench: Bench, small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    bench.append(UTIL, NEW_FUNCTION)
    done = bench.basedev("build", environment={"BASEDEV_CACHE": str(small_disk)})
    assert done.returncode == 3, done.stderr
    assert "read-only" in done.stderr and "BASEDEV_CACHE" in done.stderr and "Traceback" not in done.stderr


def test_user_files_stay_as_they_are(bench: Bench) -> None:
    bench.append(UTIL, NEW_FUNCTION)
    before = subprocess.run(["git", "-C", bench.root, "status", "--porcelain"], capture_output=True, check=True).stdout
    text = (bench.root / UTIL).read_bytes()
    bench.chain()
    assert bench.basedev("run", "--", "-e", "nothing").returncode == 0
    after = subprocess.run(["git", "-C", bench.root, "status", "--porcelain"], capture_output=True, check=True).stdout
    assert (before, text) == (after, (bench.root / UTIL).read_bytes())
