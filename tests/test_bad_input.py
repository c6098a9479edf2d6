"""Bad input: a clear line with the remedy, a non-zero exit, nothing published, nothing lost."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import SHARED, Bench, unmount, wait_until
from test_storage import without_root

from basedev.errors import SetupError
from basedev.link import LINKERS
from basedev.sources import Sources
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


@pytest.mark.parametrize(
    ("text", "told", "column"),
    [
        (b'broken(x) = "\xff\xfe"\n', "syntax: invalid UTF-8 sequence", 10),
        (b"broken(x) = 1 \0 2\n", "syntax: invalid character", 12),
        (b"function broken(\n\n", "syntax: incomplete: premature end of input", 1),
        (b"#= never closed\nmissing() = 1\n", "unterminated multi-line comment #= ... =#", 1),
    ],
)
def test_texts_that_are_none(bench: Bench, text: bytes, told: str, column: int) -> None:
    with (bench.root / UTIL).open("ab") as file:
        line = (bench.root / UTIL).read_text().count("\n") + 1
        file.write(text)
    done = bench.basedev("build")
    assert done.returncode == 1
    first, _, mark = done.stderr.rstrip("\n").split("\n")
    assert first.startswith(f"basedev: {UTIL}:{line}:") and told in first
    assert mark.strip() == "^" and mark.index("^") >= len(f"{line} | ") + column - 1
    assert images(bench) == set()


def test_the_last_good_image_stays(bench: Bench) -> None:
    bench.append(UTIL, NEW_FUNCTION)
    good = bench.chain()
    for text in ("broken(\n", "broken(x::ThisTypeDoesNotExist) = x\n"):
        bench.edit(UTIL, NEW_FUNCTION, NEW_FUNCTION + text)
        assert bench.basedev("build").returncode == 1
        bench.edit(UTIL, NEW_FUNCTION + text, NEW_FUNCTION)
    assert bench.julia(good["image"], 'print(Base.harmless("a"))') == "a"
    again = bench.chain()
    assert (again["status"], again["image"]) == ("present", good["image"])


def test_error_at_evaluation(bench: Bench) -> None:
    bench.append(UTIL, "takes_nothing_known(x::ThisTypeDoesNotExist) = x\n")
    done = bench.basedev("build")
    assert done.returncode == 1
    first, *detail = done.stderr.splitlines()
    line = (bench.root / UTIL).read_text().count("\n")
    assert first == f"basedev: {UTIL}:{line}: method takes_nothing_known fails when it is evaluated"
    assert "UndefVarError: ThisTypeDoesNotExist not defined" in "\n".join(detail)
    assert "Traceback" not in done.stderr
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


def test_another_julia_in_its_place(bench: Bench) -> None:
    library = bench.root / "usr/lib/x86_64-linux-gnu/libjulia.so.1"
    real = library.resolve()
    kept = real.with_suffix(".kept")
    real.rename(kept)
    try:
        real.write_text("another")
        done = bench.basedev("build")
    finally:
        kept.replace(real)
    assert done.returncode == 3
    assert f"{library} is not that of Julia 1.5.3" in done.stderr and done.stderr.count("\n") == 1


def test_editors_leave_marks(bench: Bench) -> None:
    """Links that lead nowhere, by which editors lock a file, and what else is called `.jl` without being a source."""
    (bench.root / "base/strings/.#util.jl").symlink_to("someone@somewhere.1234")
    (bench.root / "base/a directory.jl").mkdir()
    told = bench.json("status")
    assert (told["status"], told["changed_files"]) == ("current", [])


def test_source_that_cannot_be_read() -> None:
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        (root / "base").mkdir()
        (root / "stdlib").mkdir()
        (root / "base/secret.jl").touch(mode=0o000)
        with without_root(root), pytest.raises(SetupError, match=r"base/secret\.jl can't be read") as caught:
            Sources.read(root)
    assert "BASEDEV_CACHE" not in caught.value.message


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


PROGRAMS = {"g++": "g++", "as": "binutils", "gcc": "gcc", "ld.bfd": "binutils", "git": "git"}


def only(directory: Path, *programs: str) -> str:
    """A PATH on which these are all."""
    directory.mkdir()
    for name in programs:
        found = shutil.which(name)
        assert found
        (directory / name).symlink_to(found)
    return str(directory)


@pytest.mark.parametrize("missing", PROGRAMS)
def test_missing_programs(bench: Bench, tmp_path: Path, missing: str) -> None:
    for kind in SHARED:
        if not (kind == "hosts" and missing == "g++"):
            (tmp_path / kind).symlink_to(cache_root() / kind)
    path = only(tmp_path / "bin", *PROGRAMS.keys() - {missing})
    bench.append(UTIL, NEW_FUNCTION)
    environment = {"PATH": path, "BASEDEV_CACHE": str(tmp_path), "BASEDEV_LINK": "linker", "BASEDEV_SERVER": "0"}
    done = bench.basedev("build", environment=environment)
    assert done.returncode == 3
    error = done.stderr.splitlines()[-1]
    if missing == "git":  # the package that reads repositories fails to load without it
        assert error.startswith("basedev: git or a Python package that basedev needs is not installed: ")
    else:
        assert f"install the package {PROGRAMS[missing]}" in error
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "images").exists()


def test_no_linker_is_needed(bench: Bench, tmp_path: Path) -> None:
    path = only(tmp_path / "bin", "git")
    bench.append(UTIL, NEW_FUNCTION)
    done = bench.basedev("--json", "build", environment={"PATH": path})
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["linker"] == "none"


def test_damaged_base_image_is_made_again(own: Bench) -> None:
    damaged = next(own.storage.root.glob("bases/*/base.0.o"))
    size = damaged.stat().st_size
    damaged.chmod(0o644)
    os.truncate(damaged, size // 2)
    own.append(UTIL, NEW_FUNCTION)
    image = own.json("build")["image"]
    assert damaged.stat().st_size > size // 2
    assert own.julia(image, 'print(Base.harmless("a"))') == "a"


def test_damaged_image_is_made_again(bench: Bench) -> None:
    bench.append(UTIL, NEW_FUNCTION)
    image = Path(bench.chain()["image"])
    manifest = image.parent / "manifest.json"
    wait_until(lambda: all(about["sha256"] for about in json.loads(manifest.read_text())["files"].values()))
    image.chmod(0o644)
    with image.open("r+b") as file:
        file.seek(image.stat().st_size // 2)
        file.write(b"damage")
    again = bench.chain()
    assert (again["status"], again["image"]) == ("built", str(image))
    assert bench.julia(image, 'print(Base.harmless("a"))') == "a"


@pytest.fixture(params=["100m"])
def small_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A cache directory on a small disk."""
    if os.geteuid():
        pytest.skip("only root can mount a small disk")
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={request.param}", "tmpfs", tmp_path], check=True)
    for kind in SHARED:
        (tmp_path / kind).symlink_to(cache_root() / kind)
    yield tmp_path
    unmount(tmp_path)


@pytest.mark.parametrize("linker", [f"ld.{name}" for name in LINKERS if shutil.which(f"ld.{name}")])
@pytest.mark.parametrize("small_disk", ["200m"], indirect=True)
def test_no_room_for_what_the_linker_writes(
    bench: Bench, small_disk: Path, tmp_path_factory: pytest.TempPathFactory, linker: str
) -> None:
    path = only(tmp_path_factory.mktemp("linker") / "bin", "git", "as", "gcc", linker)
    bench.append(UTIL, NEW_FUNCTION)
    environment = {"PATH": path, "BASEDEV_CACHE": str(small_disk), "BASEDEV_LINK": "linker"}
    done = bench.basedev("build", environment=environment)
    assert done.returncode == 3, done.stderr
    assert done.stderr.splitlines()[-1].startswith("basedev: the disk is full (")
    assert "BASEDEV_CACHE" in done.stderr.splitlines()[-1]
    assert not list(small_disk.glob("images/*")) and not list(small_disk.glob("staging/*"))


@pytest.mark.parametrize("heap", ["difference", "stock"])
def test_files_that_may_not_be_so_large(bench: Bench, heap: str) -> None:
    """As the image is, and the heap if all of it is written."""
    limit = 50 << 20
    bench.append(UTIL, NEW_FUNCTION)
    done = subprocess.run(
        bench.command("build"),
        cwd=bench.root,
        env={**bench.environment, "BASEDEV_HEAP": heap},
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert done.returncode == 3, done.stderr
    assert "BASEDEV_CACHE" in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr
    assert images(bench) == set()
    assert list((bench.storage.root / "staging").iterdir()) == []


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
    assert "read-only" in done.stderr and "BASEDEV_CACHE" in done.stderr and done.stderr.count("\n") == 1


def test_a_file_in_the_place_of_the_cache(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for command in ("init", "status", "build", "run", "test"):
        done = bench.basedev(command, environment={"BASEDEV_CACHE": str(tmp_path / "file")})
        assert done.returncode == 3
        assert "can't be the cache directory" in done.stderr and done.stderr.count("\n") == 1


def test_user_files_stay_as_they_are(bench: Bench) -> None:
    bench.append(UTIL, NEW_FUNCTION)
    before = subprocess.run(["git", "-C", bench.root, "status", "--porcelain"], capture_output=True, check=True).stdout
    text = (bench.root / UTIL).read_bytes()
    bench.chain()
    assert bench.basedev("run", "--", "-e", "nothing").returncode == 0
    after = subprocess.run(["git", "-C", bench.root, "status", "--porcelain"], capture_output=True, check=True).stdout
    assert (before, text) == (after, (bench.root / UTIL).read_bytes())
