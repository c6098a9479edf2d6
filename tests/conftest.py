"""What the tests share: the real Julia, a checkout of it to edit, and the real command line.

Julia, the engine's host, the base image and bootstrapped compilers are in the user's cache directory, where they
are made once. The images that tests build go to a cache of the run's own beside them and are gone afterwards.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from basedev import distribution
from basedev.checkout import Checkout
from basedev.distribution import Distribution
from basedev.newcheckout import make_checkout
from basedev.servers import Servers
from basedev.sourcefiles import place_of, roots_of
from basedev.storage import Storage, cache_root
from basedev.store import Store

SHARED = ("julia", "hosts", "bases", "bootstrap")
"""Kinds of entry that are slow to make and the same for every run."""


SLOWEST = ("test_full_rebuild.py", "test_verify.py", "test_corpus.py")
"""Files whose tests take longest: with several processes, they begin with these."""


def pytest_configure() -> None:
    """Programs that tests start can be interrupted, also where a shell in the background ignores that."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The slowest files first, the others as they were."""
    items.sort(key=lambda item: SLOWEST.index(item.path.name) if item.path.name in SLOWEST else len(SLOWEST))


@pytest.fixture(scope="session")
def storage() -> Iterator[Storage]:
    """A cache directory of this run, which has what is slow to make in common with the user's."""
    root = cache_root() / f"test-run-{os.getpid()}"
    root.mkdir(parents=True)
    for kind in SHARED:
        (cache_root() / kind).mkdir(exist_ok=True)
        (root / kind).symlink_to(cache_root() / kind)
    yield Storage(root)
    stop_servers(root)
    shutil.rmtree(root)


def stop_servers(root: Path) -> None:
    """Ends the warm servers of a cache directory."""
    servers = Servers(Storage(root))
    servers.stop(*servers.running())


def unmount(place: Path) -> None:
    """Takes a disk away on which a cache directory was; a checksum may still be computed there."""
    stop_servers(place)
    until = time.monotonic() + 60
    while subprocess.run(["umount", place], check=time.monotonic() > until, capture_output=True).returncode:
        time.sleep(0.2)


@pytest.fixture(scope="session")
def julia() -> Distribution:
    """The Julia in this user's cache directory, obtained if it is not there."""
    return distribution.obtain(Storage())


@dataclass
class Bench:
    """A checkout to edit, and basedev as its user runs it."""

    root: Path
    storage: Storage

    @property
    def environment(self) -> dict[str, str]:
        """The environment that commands run in."""
        depot = str(self.storage.root / "depot")
        return {**os.environ, "BASEDEV_CACHE": str(self.storage.root), "JULIA_DEPOT_PATH": depot, "COLUMNS": "200"}

    @property
    def checkout(self) -> Checkout:
        """The checkout."""
        return Checkout(self.root)

    def file(self, path: str) -> Path:
        """Where a source file is."""
        return Path(place_of(path, roots_of(os.fspath(self.root))))

    def edit(self, path: str, old: str, new: str) -> None:
        """Replaces a text that stands exactly once in a source file."""
        file = self.file(path)
        text = file.read_text()
        assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {path}"
        file.write_text(text.replace(old, new))

    def append(self, path: str, text: str) -> None:
        """Adds a text at the end of a source file."""
        with self.file(path).open("a") as file:
            file.write(text)

    def command(self, *words: str) -> list[str]:
        """The command line."""
        return [sys.executable, "-m", "basedev", *words]

    def basedev(
        self, *words: str, environment: Mapping[str, str] | None = None, stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Runs the command line in the checkout."""
        return subprocess.run(
            self.command(*words),
            cwd=self.root,
            env={**self.environment, **(environment or {})},
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )

    def json(self, *words: str) -> dict[str, Any]:
        """The JSON object that a successful command prints."""
        done = self.basedev("--json", *words)
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout))

    def chain(self) -> dict[str, Any]:
        """Builds a chained image; fails where only a full rebuild would do."""
        return self.json("build", "--no-full-rebuild")

    def refusal(self) -> str:
        """Why the present sources can't be chained."""
        done = self.basedev("build", "--no-full-rebuild")
        assert done.returncode == 3, f"{done.returncode}: {done.stderr}"
        return done.stderr

    def julia(self, image: str | Path, code: str) -> str:
        """What a program prints on the stock Julia with an image, and nothing else loaded."""
        command = [str(self.checkout.julia), "-J", str(image), "--startup-file=no", "-e", code]
        done = subprocess.run(command, cwd=self.root, env=self.environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout


def put_in_place(bench: Bench, image: str, of: str) -> None:
    """Publishes a copy of an image under another name in the store, in the place of what has that name."""
    store = Store(bench.storage)
    here, there = store.find("images", image), store.find("images", of)
    assert here
    about = {key: value for key, value in (there or here).manifest.items() if key not in ("schema", "entry", "files")}
    with bench.storage.staging("copy") as made:
        shutil.copyfile(here.file("sys.so"), made / "sys.so")
        if there:
            bench.storage.discard(there.directory)
        store.publish("images", of, made, about)


def start(bench: Bench, *words: str) -> subprocess.Popen[str]:
    """A command in a process group of its own."""
    return subprocess.Popen(
        bench.command(*words),
        cwd=bench.root,
        env=bench.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_until(done: Callable[[], bool]) -> None:
    """Waits for something that comes, but not for ever."""
    deadline = time.monotonic() + 300
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def read_to_end(terminal: int) -> bytes:
    """What a program writes to a terminal until it closes it."""
    said = b""
    with suppress(OSError):  # the other end is closed
        while more := os.read(terminal, 1000):
            said += more
    return said


@pytest.fixture(scope="session")
def adopted(julia: Distribution, storage: Storage, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A checkout on which `basedev init` was run."""
    made = make_checkout(tmp_path_factory.mktemp("checkouts") / "julia", Storage())
    bench = Bench(made.path, storage)
    done = bench.basedev("init")
    assert done.returncode == 0, done.stderr
    return bench


@pytest.fixture
def bench(adopted: Bench) -> Iterator[Bench]:
    """The adopted checkout with its sources as they were, before and after; images are gone afterwards."""
    yield adopted
    clean(adopted)


@pytest.fixture
def own(adopted: Bench) -> Iterator[Bench]:
    """The adopted checkout with a store of the test's own, the base image included, to damage and to collect."""
    root = Path(tempfile.mkdtemp(prefix="own-", dir=adopted.storage.root))
    for kind in set(SHARED) - {"bases"}:
        (root / kind).symlink_to(adopted.storage.root / kind)
    base = adopted.json("init")["base_id"]
    shutil.copytree(adopted.storage.root / "bases" / base, root / "bases" / base)
    yield Bench(adopted.root, Storage(root))
    clean(adopted)
    stop_servers(root)
    shutil.rmtree(root, ignore_errors=True)  # a server that had not begun to answer may still write there


def clean(bench: Bench) -> None:
    """Takes back all edits and removes the images that were made of them."""
    git = ["git", "-C", str(bench.root)]
    subprocess.run([*git, "checkout", "-q", "--", "."], check=True)
    subprocess.run([*git, "clean", "-fdq"], check=True)
    for leftover in ("images", "revisions", "dependencies", "staging", "background"):
        shutil.rmtree(bench.storage.root / leftover, ignore_errors=True)
