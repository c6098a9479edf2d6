"""The store under load: builds at once, killed builders, full disks, and collection while images are being used."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import SHARED, Bench, start, unmount

from basedev.collection import Collection
from basedev.errors import SetupError
from basedev.newcheckout import make_checkout
from basedev.storage import Storage
from basedev.store import Store

UTIL = "base/strings/util.jl"
FORKING = multiprocessing.get_context("fork")


def there(bench: Bench) -> set[str]:
    return {path.name for path in (bench.storage.root / "images").glob("*")}


def whole(bench: Bench) -> None:
    """Everything in the store is as it should be, and nothing is left over."""
    done = bench.basedev("images", "verify")
    assert done.returncode == 0, done.stdout + done.stderr
    assert list((bench.storage.root / "staging").iterdir()) == []


def test_ten_builds_at_once(own: Bench, tmp_path: Path) -> None:
    """Five of one state and five of others, each of these in a checkout of its own."""
    own.append(UTIL, "\nten() = 0\n")
    builds = [start(own, "--json", "build") for _ in range(5)]
    others = [Bench(make_checkout(tmp_path / f"{number}", Storage()).path, own.storage) for number in range(1, 6)]
    for number, other in enumerate(others, 1):
        assert other.basedev("init").returncode == 0
        other.append(UTIL, f"\nten() = {number}\n")
    builds += [start(other, "--json", "build") for other in others]
    told = [json.loads(build.communicate()[0]) for build in builds]
    assert [build.returncode for build in builds] == [0] * 10
    assert sorted(one["status"] for one in told[:5]) == ["built", *["present"] * 4]
    assert [one["status"] for one in told[5:]] == ["built"] * 5
    ids = [one["image_id"] for one in told]
    assert len(set(ids[:5])) == 1 and len(set(ids)) == 6 and there(own) == set(ids)
    for number, one in enumerate(told[4:]):
        assert own.julia(one["image"], "print(Base.ten())") == str(number)
    whole(own)


def test_killed_thirty_times(own: Bench) -> None:
    """The whole process group of the builder, as by the kernel when memory is short; each time another state."""
    seed = 2026
    print(f"seed {seed}")
    moments = random.Random(seed)
    own.append(UTIL, "\nkilled() = -1\n")
    begin = time.monotonic()
    own.chain()
    length = time.monotonic() - begin
    for number in range(30):
        own.edit(UTIL, f"killed() = {number - 1}", f"killed() = {number}")
        build = start(own, "build")
        time.sleep(moments.uniform(0, length))
        os.killpg(build.pid, signal.SIGKILL)
        build.communicate()
        own.storage.sweep()
        assert Collection(own.storage).damaged() == {}
        Collection(own.storage).collect(0)
    whole(own)
    built = own.chain()
    assert own.julia(built["image"], "print(Base.killed())") == "29"
    assert there(own) == {built["image_id"]}


# ---- full disks ----


def test_no_room_for_the_manifest(tmp_path: Path) -> None:
    """The image itself was written already. Other processes may use the store meanwhile."""
    storage = Storage(tmp_path)
    store = Store(storage)
    publish(storage, "one", b"first")

    def limited() -> None:
        with pytest.raises(SetupError, match="the file is larger than is allowed"), storage.staging("image") as made:
            (made / "sys.so").write_bytes(b"second")
            resource.setrlimit(resource.RLIMIT_FSIZE, (20, 20))
            store.publish("images", "two", made, {})

    child = FORKING.Process(target=limited)
    child.start()
    child.join()
    assert child.exitcode == 0
    assert store.names("images") == ["one"] and Collection(storage).damaged() == {}
    assert list((tmp_path / "staging").iterdir()) == []
    assert publish(storage, "two", b"second") == b"second"


@pytest.fixture
def disk(adopted: Bench, tmp_path: Path) -> Iterator[Bench]:
    """The checkout with its cache directory on a disk of its own."""
    if os.geteuid():
        pytest.skip("only root can mount a small disk")
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600m", "tmpfs", place], check=True)
    for kind in SHARED:
        (place / kind).symlink_to(adopted.storage.root / kind)
    yield Bench(adopted.root, Storage(place))
    unmount(place)


def test_a_disk_that_is_full_loses_no_image(bench: Bench, disk: Bench) -> None:
    bench.append(UTIL, "\nroom() = 1\n")
    first = disk.chain()
    root = disk.storage.root
    with (root / "filler").open("wb") as filler:
        os.posix_fallocate(filler.fileno(), 0, shutil.disk_usage(root).free - (100 << 20))
    bench.edit(UTIL, "room() = 1", "room() = 2")
    done = disk.basedev("build")
    assert done.returncode == 3 and "disk" in done.stderr.splitlines()[-1] and "BASEDEV_CACHE" in done.stderr
    assert there(disk) == {first["image_id"]} and list((root / "staging").iterdir()) == []
    bench.edit(UTIL, "room() = 2", "room() = 1")
    again = disk.chain()
    assert (again["status"], again["image_id"]) == ("present", first["image_id"])
    assert disk.julia(first["image"], "print(Base.room())") == "1"
    (root / "filler").unlink()
    bench.edit(UTIL, "room() = 1", "room() = 2")
    assert disk.chain()["status"] == "built"


def test_a_disk_without_any_room_is_read(bench: Bench, disk: Bench) -> None:
    """Images are found, listed and run; nothing can be noted. Collection, which needs no room, makes some."""
    bench.append(UTIL, "\nroom() = 1\n")
    built = disk.chain()
    root = disk.storage.root
    with (root / "filler").open("wb") as filler:
        os.posix_fallocate(filler.fileno(), 0, shutil.disk_usage(root).free)
    assert disk.basedev("run", "--", "-e", "print(Base.room())").stdout == "1"
    assert [one["present"] for one in disk.json("images", "list")["images"] if one["kind"] == "image"] == [True]
    assert disk.json("images", "gc", "--budget", "0")["collected"] == [built["image_id"]]


# ---- collection while images are being used ----


def publish(storage: Storage, name: str, contents: bytes) -> bytes:
    with storage.staging("image") as made:
        (made / "sys.so").write_bytes(contents)
        return Store(storage).publish("images", name, made, {}).file("sys.so").read_bytes()


def test_what_was_found_stays_while_it_is_held(tmp_path: Path) -> None:
    """Four processes find and make entries of three names for some seconds, and look at what they hold a moment later,
    while everything is collected all the time."""
    storage = Storage(tmp_path)
    end = time.monotonic() + 3

    def use(seed: int) -> None:
        names = random.Random(seed)
        found = 0
        while time.monotonic() < end:
            name = names.choice("abc")
            entry = Store(storage).find("images", name)
            if entry is None:
                publish(storage, name, name.encode())
                continue
            found += 1
            time.sleep(names.uniform(0, 0.01))
            assert entry.file("sys.so").read_text() == name
        assert found

    users = [FORKING.Process(target=use, args=(seed,)) for seed in range(4)]
    for user in users:
        user.start()
    removed = 0
    while any(user.is_alive() for user in users):
        removed += len(Collection(storage).collect(0).removed)
    for user in users:
        user.join()
    assert [user.exitcode for user in users] == [0] * 4
    assert removed
    assert Collection(storage).damaged() == {} and list((tmp_path / "staging").iterdir()) == []


def test_a_run_survives_collection_at_any_moment(own: Bench) -> None:
    """An image that was taken just before is made once more; one that was found is there for Julia, and the workers
    that it starts later."""
    own.append(UTIL, "\nraced() = 42\n")
    own.chain()
    code = "using Distributed; sleep(0.2); addprocs(1); print(@fetchfrom 2 Base.raced())"
    done = threading.Event()
    removed = []

    def collect() -> None:
        while not done.is_set():
            removed.extend(Collection(own.storage).collect(0).removed)
            time.sleep(0.02)

    collector = threading.Thread(target=collect)
    collector.start()
    try:
        for _ in range(2):
            run = own.basedev("run", "--", "-e", code)
            assert (run.returncode, run.stdout) == (0, "42"), run.stderr
    finally:
        done.set()
        collector.join()
    assert removed
    whole(own)
