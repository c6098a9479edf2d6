"""The cache directory and the store in it: whole entries or none, whatever happens to the processes and the disk."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from basedev import process
from basedev.errors import InternalError, SetupError
from basedev.storage import Storage, cache_root, digest_of, disk_errors, file_digest
from basedev.store import Entry, Store, checksum, read_manifest

FORKING = multiprocessing.get_context("fork")
NOBODY = 65534

NAMES = st.text("abcdefghij", min_size=1, max_size=6)
FILES = st.dictionaries(NAMES, st.binary(max_size=300), min_size=1, max_size=4)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(tmp_path / "cache")


@contextmanager
def an_area() -> Iterator[Storage]:
    """A cache directory for one example."""
    with tempfile.TemporaryDirectory() as directory:
        yield Storage(Path(directory))


def publish(storage: Storage, name: str, files: dict[str, bytes], **about: object) -> Entry:
    with storage.staging("thing") as made:
        for path, contents in files.items():
            (made / path).parent.mkdir(parents=True, exist_ok=True)
            (made / path).write_bytes(contents)
        return Store(storage).publish("things", name, made, about)


def staged(storage: Storage) -> list[str]:
    return sorted(path.name for path in (storage.root / "staging").iterdir())


def overwrite(file: Path, contents: bytes) -> None:
    file.chmod(0o644)
    file.write_bytes(contents)


@contextmanager
def without_root(directory: Path) -> Iterator[None]:
    """The body has no more rights than an ordinary user, who may enter `directory`."""
    if os.geteuid() != 0:
        yield
        return
    for path in (directory, *directory.parents[:-1]):
        if path.owner() == "root" and path != Path("/tmp"):
            path.chmod(path.stat().st_mode | 0o055)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


# ---- entries ----


@settings(max_examples=25, deadline=None)
@given(files=FILES, about=st.dictionaries(st.text("xyz", min_size=1), st.integers() | st.text()))
def test_what_is_published_is_found(files: dict[str, bytes], about: dict[str, object]) -> None:
    with an_area() as storage:
        publish(storage, "one", files, **about)
        found = Store(storage).find("things", "one")
        assert found is not None and found.id == "one"
        assert {name: found.file(name).read_bytes() for name in found.manifest["files"]} == files
        assert about.items() <= found.manifest.items()
        assert staged(storage) == []


def test_checksums_can_come_later(storage: Storage) -> None:
    store = Store(storage)
    with storage.staging("thing") as made:
        (made / "file").write_bytes(b"contents")
        entry = store.publish("things", "one", made, {}, checksums_later=True)
    assert entry.manifest["files"]["file"]["sha256"] is None
    store.add_checksums("things", "one")
    manifest = read_manifest(entry.directory)
    assert manifest is not None and manifest["files"]["file"]["sha256"] == file_digest(entry.file("file"))
    assert store.find("things", "one") is not None and store.examine("things", "one") == []
    overwrite(entry.file("file"), b"CONTENTS")
    assert store.examine("things", "one") == ["file has another checksum"]


def test_what_has_no_checksum_yet_is_as_it_was_written(storage: Storage) -> None:
    entry = publish(storage, "one", {"file": b"contents"})
    manifest = {**entry.manifest, "files": {"file": {"sha256": None, "size": 8}}}
    overwrite(entry.file("manifest.json"), json.dumps({**manifest, "checksum": checksum(manifest)}).encode())
    assert Store(storage).find("things", "one") is not None
    overwrite(entry.file("file"), b"CONTENTS")
    Store(storage).add_checksums("things", "one")
    assert json.loads(entry.file("manifest.json").read_text())["files"]["file"]["sha256"] is None
    assert Store(storage).find("things", "one") is None


@settings(max_examples=40, deadline=None)
@given(
    files=FILES,
    chosen=st.integers(0, 4),
    place=st.floats(0, 1, exclude_max=True),
    flipped=st.integers(0, 7) | st.none(),
)
def test_damage_to_any_byte_is_found_and_the_entry_removed(
    files: dict[str, bytes], chosen: int, place: float, flipped: int | None
) -> None:
    """A flipped bit or a truncated file; also in the manifest, which holds the checksums."""
    with an_area() as storage:
        directory = publish(storage, "one", files, about="it").directory
        names = [name for name in (*sorted(files), "manifest.json") if (directory / name).stat().st_size]
        file = directory / names[chosen % len(names)]
        contents = bytearray(file.read_bytes())
        at = int(place * len(contents))
        if flipped is None:
            del contents[at:]
        else:
            contents[at] ^= 1 << flipped
        unchanged = file.name == "manifest.json" and _same_json(file.read_bytes(), bytes(contents))
        overwrite(file, bytes(contents))
        assert (Store(storage).find("things", "one") is not None) == unchanged
        assert directory.exists() == unchanged
        assert staged(storage) == []


def _same_json(one: bytes, other: bytes) -> bool:
    """Damage to white space between words is none."""
    try:
        return bool(json.loads(one) == json.loads(other))
    except ValueError:
        return False


@pytest.mark.parametrize("lost", ["payload", "manifest.json"])
def test_an_entry_without_one_of_its_files_is_removed(storage: Storage, lost: str) -> None:
    directory = publish(storage, "one", {"payload": b"x"}).directory
    (directory / lost).unlink()
    assert Store(storage).find("things", "one") is None
    assert not directory.exists()


def test_an_entry_in_the_place_of_another_is_removed(storage: Storage) -> None:
    """A base image of other sources must not pass for the one of this name."""
    directory = publish(storage, "one", {"payload": b"x"}).directory
    other = directory.with_name("other")
    shutil.copytree(directory, other, copy_function=shutil.copy2)
    assert Store(storage).find("things", "other") is None
    assert not other.exists()
    assert Store(storage).find("things", "one") is not None


def test_an_entry_of_another_version_is_made_again(storage: Storage) -> None:
    directory = publish(storage, "one", {"payload": b"x"}).directory
    about = json.loads((directory / "manifest.json").read_text())
    overwrite(directory / "manifest.json", json.dumps({**about, "schema": 0}).encode())
    assert Store(storage).find("things", "one") is None


def test_damage_that_happened_before_the_last_check_is_found_without_the_record_of_it(storage: Storage) -> None:
    directory = publish(storage, "one", {"payload": b"right"}).directory
    overwrite(directory / "payload", b"wrong")
    (directory / "verified.json").unlink()
    assert Store(storage).find("things", "one") is None


def test_a_copied_or_touched_entry_is_checked_and_kept(storage: Storage) -> None:
    directory = publish(storage, "one", {"payload": b"x"}).directory
    os.utime(directory / "payload", ns=(1, 1))
    for record in (None, "[", "[]", "null"):
        if record is not None:
            overwrite(directory / "verified.json", record.encode())
        found = Store(storage).find("things", "one")
        if record == "[":
            assert found is None  # not readable: made again rather than trusted
            publish(storage, "one", {"payload": b"x"})
        else:
            assert found is not None


def test_files_of_an_entry_are_read_only_and_stay_executable(storage: Storage) -> None:
    with storage.staging("thing") as made:
        for name, mode in (("program", 0o755), ("data", 0o644)):
            (made / name).write_text("x")
            (made / name).chmod(mode)
        entry = Store(storage).publish("things", "one", made, {})
    assert entry.file("program").stat().st_mode & 0o777 == 0o555
    assert entry.file("data").stat().st_mode & 0o777 == 0o444


def test_an_entry_that_stands_there_stays(storage: Storage) -> None:
    """Who used it goes on using the same files."""
    first = publish(storage, "one", {"payload": b"first"})
    inode = first.file("payload").stat().st_ino
    second = publish(storage, "one", {"payload": b"second"})
    assert second.file("payload").read_bytes() == b"first"
    assert second.file("payload").stat().st_ino == inode
    assert staged(storage) == []


def test_of_two_that_discard_one_entry_none_fails(storage: Storage) -> None:
    directory = publish(storage, "one", {"payload": b"x"}).directory
    storage.discard(directory)
    storage.discard(directory)
    assert not directory.exists() and staged(storage) == []


# ---- staging and locks ----


def test_a_failure_leaves_nothing(storage: Storage) -> None:
    with pytest.raises(ZeroDivisionError), storage.staging("thing") as made:
        (made / "half").write_text("x")
        raise ZeroDivisionError
    assert staged(storage) == []


def _in_a_process(storage: Storage, work: Callable[[Path], None]) -> int:
    def body() -> None:
        with storage.staging("thing") as made:
            work(made)

    child = FORKING.Process(target=body)
    child.start()
    child.join()
    assert child.exitcode is not None
    return child.exitcode


def _die(made: Path) -> None:
    (made / "half").write_text("x")
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("sweep", ["sweep", "staging"])
def test_what_a_killed_process_leaves_is_deleted_by_the_next(storage: Storage, sweep: str) -> None:
    assert _in_a_process(storage, _die) == -signal.SIGKILL
    assert len(staged(storage)) == 2
    if sweep == "sweep":
        storage.sweep()
    else:
        with storage.staging("next") as made:
            assert staged(storage) == [made.name, f"{made.name}.lock"]
    assert staged(storage) == []


def test_what_a_straggler_wrote_into_a_deleted_directory_is_deleted(storage: Storage) -> None:
    (storage.directory("staging") / "image-1-00000000").mkdir()
    (storage.directory("staging") / "image-1-00000000/sys.so").write_text("x")
    storage.sweep()
    assert staged(storage) == []


def test_work_under_way_is_not_swept(storage: Storage) -> None:
    with storage.staging("mine") as mine:
        (mine / "file").write_text("x")
        assert _in_a_process(storage, lambda made: None) == 0
        storage.sweep()
        assert (mine / "file").read_text() == "x"


def test_a_lock_keeps_others_out_and_tells_them_that_they_wait(storage: Storage) -> None:
    order: list[str] = []
    waiting = threading.Event()

    def second() -> None:
        with storage.lock("it", waiting=waiting.set):
            order.append("second")

    with storage.lock("it"):
        thread = threading.Thread(target=second)
        thread.start()
        assert waiting.wait(30)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_a_killed_holder_loses_its_lock(storage: Storage) -> None:
    def hold() -> None:
        with storage.lock("it"):
            os.kill(os.getpid(), signal.SIGKILL)

    child = FORKING.Process(target=hold)
    child.start()
    child.join()
    told: list[str] = []
    with storage.lock("it", waiting=lambda: told.append("waiting")):
        assert told == []


# ---- places and disks ----


def test_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", os.fspath(tmp_path))
    for name in ("BASEDEV_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert cache_root() == tmp_path / ".cache/basedev"
    monkeypatch.setenv("XDG_CACHE_HOME", os.fspath(tmp_path / "xdg"))
    assert cache_root() == tmp_path / "xdg/basedev"
    monkeypatch.setenv("BASEDEV_CACHE", os.fspath(tmp_path / "own"))
    assert cache_root() == tmp_path / "own"


@pytest.mark.parametrize("place", ["a file", "a file/below"])
def test_a_cache_directory_that_can_be_none(tmp_path: Path, place: str) -> None:
    (tmp_path / "a file").touch()
    with pytest.raises(SetupError, match=r"can't be the cache directory.*BASEDEV_CACHE") as caught:
        Storage(tmp_path / place).directory("images")
    assert "\n" not in caught.value.message and caught.value.exit_code == 3


def test_a_cache_directory_of_another_user(tmp_path: Path) -> None:
    root = tmp_path / "cache"
    root.mkdir(mode=0o555)
    with without_root(root), pytest.raises(SetupError, match="permission denied; set BASEDEV_CACHE"):
        Storage(root).directory("images")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EFBIG, errno.EIO])
def test_errors_of_the_disk_name_the_file_and_the_remedy(number: int) -> None:
    with pytest.raises(SetupError, match=r"cannot write it \(some/file\): .*BASEDEV_CACHE"), disk_errors("write it"):
        raise OSError(number, os.strerror(number), "some/file")


def test_other_errors_are_not_blamed_on_the_disk() -> None:
    with pytest.raises(FileNotFoundError), disk_errors("write it"):
        Path("/nonexistent/file").read_text()


def test_a_really_full_device(storage: Storage) -> None:
    with pytest.raises(SetupError, match="the disk is full"), storage.staging("thing"):
        Path("/dev/full").write_text("x" * 100)
    assert staged(storage) == []


@given(one=st.lists(st.binary(max_size=5), max_size=4), other=st.lists(st.binary(max_size=5), max_size=4))
def test_no_two_lists_have_the_same_digest(one: list[bytes], other: list[bytes]) -> None:
    assert (digest_of(*one) == digest_of(*other)) == (one == other)


def test_digest_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    assert file_digest(tmp_path / "file") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


# ---- programs ----


def test_output_of_a_program_and_its_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("before\n")
    script = "echo out; echo $WORD >&2; pwd"
    said = process.run(["sh", "-c", script], cwd=tmp_path, env={"WORD": "word"}, log=log)
    assert said == f"out\nword\n{tmp_path}\n"
    assert log.read_text() == f"before\n{said}"


def test_a_program_that_fails(tmp_path: Path) -> None:
    with pytest.raises(InternalError, match="sh exited with 3") as caught:
        process.run(["sh", "-c", "echo why; exit 3"])
    assert caught.value.detail == "why"
    with pytest.raises(InternalError, match=r"killed by signal 9.*memory"):
        process.run(["sh", "-c", "kill -9 $$"])


def test_programs_at_a_time(tmp_path: Path) -> None:
    process.run_all((["sh", "-c", f"echo $WORD >{tmp_path}/{number}"] for number in range(20)), env={"WORD": "word"})
    assert [(tmp_path / str(number)).read_text() for number in range(20)] == ["word\n"] * 20


def test_others_end_when_one_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    pids = tmp_path / "pids"
    failing = ["sh", "-c", f"until [ $(wc -l <{pids}) = 2 ]; do sleep 0.01; done 2>/dev/null; echo why; exit 3"]
    with pytest.raises(InternalError, match="sh exited with 3") as caught:
        process.run_all([_lasting(pids), failing, ["touch", str(tmp_path / "late")]])
    assert caught.value.detail == "why"
    _wait_for_the_end_of(pids)
    assert not (tmp_path / "late").exists()


@pytest.mark.parametrize("program", ["as", "gcc", "g++"])
def test_a_program_that_is_missing_is_named_with_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    monkeypatch.setenv("PATH", os.fspath(tmp_path))
    with pytest.raises(SetupError, match=rf"^{program.replace('+', '[+]')} can't be run: .*: install the package "):
        process.run([program])


def test_a_program_without_room_on_the_disk() -> None:
    with pytest.raises(SetupError, match=r"^the disk is full \(cp: .*No space left on device\): .*BASEDEV_CACHE"):
        process.run(["cp", "/etc/passwd", "/dev/full"], env={"LC_ALL": "C"})
    with pytest.raises(SetupError, match="the disk is full"):
        process.run(["sh", "-c", "ulimit -c 0; kill -XFSZ $$"])


def test_what_a_program_started_ends_with_it_when_it_is_interrupted(tmp_path: Path) -> None:
    pids = tmp_path / "pids"

    def interrupt() -> None:
        _wait_for_two(pids)
        os.kill(os.getpid(), signal.SIGINT)

    for run in (lambda: process.run(_lasting(pids)), lambda: process.run_all([_lasting(pids)])):
        threading.Thread(target=interrupt).start()
        with pytest.raises(KeyboardInterrupt):
            run()
        _wait_for_the_end_of(pids)
        pids.unlink()


def test_what_a_program_started_ends_with_a_killed_basedev(tmp_path: Path) -> None:
    pids = tmp_path / "pids"

    def work() -> None:
        process.run(_lasting(pids))

    child = FORKING.Process(target=work)
    child.start()
    _wait_for_two(pids)
    child.kill()
    child.join()
    _wait_for_the_end_of(pids)


def _lasting(pids: Path) -> list[str]:
    """A program that starts another, notes both in a file, and does not end by itself."""
    return ["sh", "-c", f"sleep 1000 & echo $! >> {pids}; echo $$ >> {pids}; wait"]


def _wait_for_two(pids: Path) -> None:
    _wait_until(lambda: pids.exists() and len(pids.read_text().split()) == 2)


def _wait_for_the_end_of(pids: Path) -> None:
    """Until each process is gone or waits to be reaped."""

    def ended(pid: str) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
        except (FileNotFoundError, ProcessLookupError):
            return True

    _wait_until(lambda: all(ended(pid) for pid in pids.read_text().split()))


def _wait_until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.005)
