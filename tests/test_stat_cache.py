"""Blob ids that are noted: they are always those of the present contents, whatever is done to a file."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Bench

from basedev import sourcefiles
from basedev.sources import Sources
from basedev.stat_cache import blob_id, identify

CACHE = "usr/share/basedev/stat-cache.json"
RESTED = sourcefiles.SETTLED / 1e9 + 0.1
"""Seconds after which a file is noted."""


@pytest.fixture(scope="module")
def rested(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Small trees, one for each test, that have rested together."""
    trees = [tmp_path_factory.mktemp("tree") for _ in range(12)]
    for tree in trees:
        for number in range(20):
            write(tree / f"base/{number}.jl", f"value = {number:04}\n")
        write(tree / "stdlib/Dates/Project.toml", "name = 1\n")
        write(tree / "stdlib/Dates/src/Dates.jl", "module Dates end\n")
        write(tree / "stdlib/Dates/test/runtests.jl", "in no image\n")
        write(tree / CACHE, "")
    time.sleep(RESTED)
    return trees


@pytest.fixture
def tree(rested: list[Path]) -> Path:
    """A small tree with everything noted."""
    found = identify(tree := rested.pop())
    assert len(found.contents) == 22 and found.settled
    return tree


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def assert_right(root: Path) -> None:
    """What is identified is what is there, read without any cache."""
    found = identify(root)
    paths = {*(root / "base").rglob("*.jl"), *(root / "stdlib").glob("*/src/*.jl"), *(root / "stdlib").glob("*/*.toml")}
    real = {path.relative_to(root).as_posix(): blob_id(path.read_bytes()) for path in paths if path.is_file()}
    assert found.blobs == real
    assert found.files.keys() == real.keys()


def restore_times(path: Path, before: os.stat_result) -> None:
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def same_size_same_time(path: Path) -> None:
    before = path.stat()
    path.write_text(path.read_text().replace("0", "9"))
    restore_times(path, before)
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def replaced_by_rename(path: Path) -> None:
    before = path.stat()
    other = path.with_suffix(".new")
    other.write_text(path.read_text().replace("0", "8"))
    restore_times(other, before)
    other.replace(path)


def replaced_by_an_older_file(path: Path) -> None:
    """As after the clock was set back: the new file has earlier times than the old one."""
    before = path.stat()
    path.write_text(path.read_text().replace("0", "7"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns - 10**12))


def with_a_time_to_come(path: Path) -> None:
    """As before the clock was set back."""
    path.write_text(path.read_text().replace("0", "6"))
    os.utime(path, ns=(time.time_ns() + 10**12,) * 2)


def exchanged_with_another(path: Path) -> None:
    other = path.with_name(f"1{path.name}")
    spare = path.with_suffix(".spare")
    path.rename(spare)
    other.rename(path)
    spare.rename(other)


def linked_to_another(path: Path) -> None:
    path.unlink()
    path.symlink_to("19.jl")


def linked_to_what_is_not_there(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def made_a_directory(path: Path) -> None:
    path.unlink()
    write(path / "inner.jl", "x\n")


CHANGES: tuple[Callable[[Path], None], ...] = (
    same_size_same_time,
    replaced_by_rename,
    replaced_by_an_older_file,
    with_a_time_to_come,
    exchanged_with_another,
    linked_to_another,
    linked_to_what_is_not_there,
    made_a_directory,
    Path.unlink,
)


def test_every_change_is_seen(tree: Path) -> None:
    for number, change in enumerate(CHANGES):
        change(tree / f"base/{number}.jl")
        assert_right(tree)
    assert len(identify(tree).blobs) == 20  # a link and a deleted file less
    time.sleep(RESTED)
    found = identify(tree)
    assert not found.settled  # a time to come may come
    assert_right(tree)
    assert identify(tree).contents.keys() == {"base/3.jl"}


def test_what_was_just_changed_is_read_again(tree: Path) -> None:
    """Two edits within one tick of the clock look the same, except for what is in the file."""
    path = tree / "base/0.jl"
    for number in range(200):
        path.write_text(f"value = {number:04}\n")
        assert identify(tree).blobs["base/0.jl"] == blob_id(path.read_bytes())
    assert identify(tree).contents.keys() == {"base/0.jl"}
    time.sleep(RESTED)
    assert identify(tree).settled
    assert identify(tree).contents == {}


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: b"",
        lambda text: text[: len(text) // 2],
        lambda text: text.replace(b"0", b"1", 40),
        lambda text: b"\xff" + text,
        lambda text: b"x\n{}",
        lambda text: text.partition(b"\n")[2],
    ],
)
def test_a_damaged_cache_is_ignored(tree: Path, damage: Callable[[bytes], bytes]) -> None:
    cache = tree / CACHE
    whole = cache.read_bytes()
    cache.write_bytes(damage(whole))
    assert_right(tree)
    assert cache.read_bytes() == whole


def test_another_trees_cache_is_of_no_use(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other") / "tree"
    shutil.copytree(tree, other, symlinks=True)  # with the times of the files
    (other / "base/0.jl").write_text("value = 9999\n")
    assert len(identify(other).contents) == 22
    assert_right(other)


def test_a_cache_that_cannot_be_written_is_no_failure(tree: Path) -> None:
    (tree / CACHE).unlink()
    (tree / CACHE).mkdir()
    assert_right(tree)
    shutil.rmtree(tree / "usr")
    assert_right(tree)
    assert not (tree / "usr").exists()


def test_sources_do_not_change_when_a_file_is_edited_later(tree: Path) -> None:
    first = Sources.read(tree)
    (tree / "base/0.jl").write_text("edited\n")
    second = Sources.read(tree, first)
    (tree / "base/0.jl").write_text("again\n")
    (tree / "base/1.jl").unlink()
    assert first.contents["base/0.jl"] == b"value = 0000\n"
    assert (second.contents["base/0.jl"], second.contents["base/1.jl"]) == (b"edited\n", b"value = 0001\n")
    for sources in (first, second):
        assert {path: blob_id(sources.contents[path]) for path in sources.blobs} == sources.blobs


def test_names_of_any_bytes(tree: Path) -> None:
    for name in (b"\xff.jl", b"a b\n.jl", "\u00e4.jl".encode()):
        Path(os.fsdecode(os.fsencode(tree) + b"/base/" + name)).write_text(repr(name))
    time.sleep(RESTED)
    assert len(identify(tree).contents) == 3
    assert identify(tree).contents == {}
    assert_right(tree)


def test_commands_see_an_edit_that_hides(bench: Bench) -> None:
    """The same size and time of change, and the cache written between."""
    bench.append("base/strings/util.jl", "\nhidden() = 1\n")
    time.sleep(RESTED)
    first = bench.json("status")
    path = bench.root / "base/strings/util.jl"
    before = path.stat()
    path.write_text(path.read_text().replace("hidden() = 1", "hidden() = 2"))
    restore_times(path, before)
    second = bench.json("status")
    assert first["sources_id"] != second["sources_id"]
    assert bench.julia(bench.chain()["image"], "print(Base.hidden())") == "2"
