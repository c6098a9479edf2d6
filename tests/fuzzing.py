"""What reads our own formats, as targets for spoilt input: `tests/test_fuzz.py` and `tools/fuzz` try them.

A target spoils a good example of a format and has it read. The reader may refuse it in the way that its docstring says:
any other exception is a defect, as is a hang, or memory that grows out of proportion (`tools/fuzz` limits both).
"""

from __future__ import annotations

import copy
import json
import os
import random
import shutil
import socket
import subprocess
import tempfile
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from basedev import adopted, elf, stat_cache, usrtree
from basedev.config import load_config
from basedev.debug_lines import make_index, patches
from basedev.dwarf import Lines, UnknownDebugInfo, fix_object
from basedev.errors import InternalError, SetupError, UsageError, UserCodeError
from basedev.heap_recipe import read_recipe
from basedev.mails import mails
from basedev.patches import apply, load_series, revert, tree_reader
from basedev.pieces import Range, size
from basedev.prelinked import Prelinked, library_names
from basedev.relocate import FRAMES, Layout, NeedsLinker, ObjectFile
from basedev.revision import Definition, Delete, Evaluate, Move, Revision, Unexport
from basedev.serialized import ChangedFile, Provenance, read, write
from basedev.servers import Servers
from basedev.storage import Storage, digest_of
from basedev.store import MANIFEST, SCHEMA, VERIFIED, Store, checksum
from basedev.workflows.background import Background

Edit = tuple[int, int, bytes]
"""What is done to an example: the number of a way, a place (taken modulo the length), bytes."""

NUMBERS = [0, 1, 2, 8, 0x7F, 0x80, 0xFF, 0xFFFF, 1 << 20, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 63, (1 << 64) - 1]
WORDS = [
    b'"',
    b"\\",
    b"\n",
    b"#@ ",
    b"#|",
    b"[" * 2000,
    b"]",
    b"{",
    b"}",
    b"=",
    b"null",
    b"1e999",
    b"-1",
    b"\0",
    b"\xff",
]
WAYS = 8

VALUES: list[Any] = [None, True, 0, -1, 1 << 70, 1.5, "", "a", "../../x", "\0", "\ud800", [], [[]], {}, {"a": 1}]
"""What takes the place of a part of a JSON document."""


@dataclass(frozen=True)
class Target:
    """One format, with what reads it."""

    examples: Callable[[Path], list[bytes]]
    """Good ones, made in a directory."""
    read: Callable[[bytes, Sequence[Edit], Path], None]
    """Makes edits to one, and reads it, in a directory that is its own."""
    refusals: tuple[type[Exception], ...]
    """How a reader may refuse."""
    share: int = 1
    """Of the inputs for all targets: more where one takes less time."""


def spoilt(example: bytes, edits: Sequence[Edit]) -> bytes:
    """An example with edits made to it."""
    data = bytearray(example)
    for way, place, contents in edits:
        at, number = place % (len(data) + 1), int.from_bytes(contents, "little")
        if way == 0:
            data[at : at + len(contents)] = contents
        elif way == 1:
            data[at:at] = contents
        elif way == 2:
            del data[at : at + 1 + number % 64]
        elif way == 3:  # a part of it once more
            begin = number % (len(data) + 1)
            data[at:at] = data[begin : begin + 1 + number % 97]
        elif way == 4 and number % 4 == 0:
            del data[at:]
        elif way == 5:
            width = (1, 2, 4, 8)[number % 4]
            at -= at % width
            data[at : at + width] = (NUMBERS[number // 4 % len(NUMBERS)] & ((1 << 8 * width) - 1)).to_bytes(
                width, "little"
            )
        elif way == 6:
            data[at:at] = WORDS[number % len(WORDS)]
        elif data[at:]:
            data[at] ^= 1 << number % 8
    return bytes(data)


def random_edits(chance: random.Random) -> list[Edit]:
    """Some edits."""
    return [
        (chance.randrange(WAYS), chance.getrandbits(32), chance.randbytes(chance.randint(1, 8)))
        for _ in range(chance.choice((1, 1, 2, 3, 6)))
    ]


@contextmanager
def in_memory() -> Iterator[Path]:
    """A directory in memory if that can be had: many files are written."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as directory:
        yield Path(directory)


def spoilt_document(text: bytes, edits: Sequence[Edit]) -> Any:
    """A JSON document with others in the place of some of its parts."""
    document = [json.loads(text)]
    for _, place, contents in edits:
        node: Any = document
        number = int.from_bytes(contents, "little") + place
        while True:
            keys = list(node) if isinstance(node, dict) else range(len(node))
            key = keys[number % len(keys)]
            number //= len(keys)
            if not (isinstance(node[key], (dict, list)) and node[key]) or number % 3 == 0:
                break
            node = node[key]
        node[key] = copy.deepcopy(VALUES[number % len(VALUES)])
    return document[0]


# ---- texts ----


def _revisions(directory: Path) -> list[bytes]:
    steps = (
        Evaluate("Base", "strings/util.jl", 7, 'f(x) = "#@ end"\n#= é =#'),
        Evaluate("Core.Compiler", "a b\n.jl", 1, "#| \0 g() = 1\\"),
        Delete("Base", "f", "Tuple{typeof(f), Any}"),
        Move("array.jl", 3, 9, -2),
        Unexport("Base", 'odd "name"'),
    )
    about = Provenance("0.1.0", "1.5.3", "820f31def", "e226ed9", "91f89715", (ChangedFile("base/a.jl", None, "1b"),))
    revision = Revision(steps, (Definition("Base.f(::Any)", "strings/util.jl", 7, "added"),))
    text = write(revision, about).encode("utf-8", "surrogateescape")
    begin, end = text.index(b"\n\n"), text.index(b"\n@static if false")
    return [text[:begin] + text[end:]]  # without the loader, of which the reader takes no notice


def _read_revision(data: bytes, directory: Path) -> None:
    text = data.decode("utf-8", "surrogateescape")
    revision, about = read(text)
    assert read(write(revision, about)) == (revision, about)


def _settings(directory: Path) -> list[bytes]:
    return [
        b'[basedev]\nengine = "auto"\nfull-rebuild = true\nbudget = "1.5 GiB"\nserver-idle = 15 # minutes\n'
        b'server = false\nserver-memory = "500M"\n',
        b'basedev = {engine = "full", budget = "9 TB"}\n',
    ]


def _read_settings(data: bytes, directory: Path) -> None:
    (directory / ".basedev.toml").write_bytes(data)
    load_config(directory)


_SERIES = b'''
family = "1.12"

[[patch]]
subject = "An option"
message = """
What it does.
"""

[[patch.file]]
path = "src/new.c"
from = "new.c"

[[patch.insertion]]
id = "declaration"
path = "src/old.c"
after = "#include <a.h>"
text = """
#include "new.h"
"""

[[patch.insertion]]
id = "part"
path = "src/old.c"
in = "int f("
before = "x + 1"
text = "2 * "
'''

_PATCHED = b'#include <a.h>\n/* x + 1 */\nint f(int x)\n{\n    return x + 1; // "f(\n}\n'


def _read_series(data: bytes, directory: Path) -> None:
    tree = directory / "tree"
    (tree / "src").mkdir(parents=True, exist_ok=True)
    (tree / "src/old.c").write_bytes(_PATCHED)
    (tree / "src/new.c").unlink(missing_ok=True)
    (directory / "new.c").write_bytes(b"int g;\n")
    (directory / "series.toml").write_bytes(data)
    series = load_series(directory)
    assert all(mails(series, tree_reader(tree), "A <a@example.com>", "Thu, 1 Jan 1970 00:00:00 +0000").values())
    apply(series, tree)
    revert([series], tree)
    assert (tree / "src/old.c").read_bytes() == _PATCHED


def _read_patched(data: bytes, directory: Path) -> None:
    """A file of Julia's with what was inserted, which somebody edited."""
    tree = directory / "tree"
    (tree / "src").mkdir(parents=True, exist_ok=True)
    (directory / "new.c").write_bytes(b"int g;\n")
    (directory / "series.toml").write_bytes(_SERIES)
    series = load_series(directory)
    (tree / "src/new.c").unlink(missing_ok=True)
    (tree / "src/old.c").write_bytes(data)
    revert([series], tree)
    apply(series, tree)


def _patched(directory: Path) -> list[bytes]:
    _read_patched(_PATCHED, directory)
    return [(directory / "tree/src/old.c").read_bytes(), _PATCHED]


# ---- records: JSON ----


def _manifests(directory: Path) -> list[bytes]:
    files = {"sys.so": {"sha256": None, "size": 5}, "a/b": {"sha256": "0" * 64, "size": 0}}
    about = {"schema": SCHEMA, "entry": "images/0123", "created": 1.5, "sources": {"base/a.jl": "1b"}, "files": files}
    return [json.dumps(about).encode()]


def _read_manifest(example: bytes, edits: Sequence[Edit], directory: Path) -> None:
    """The record of an entry, spoilt before its checksum was computed or after."""
    entry = directory / "images/0123"
    (entry / "a").mkdir(parents=True, exist_ok=True)
    for name in ("sys.so", "a/b"):
        (entry / name).write_bytes(b"12345" if name == "sys.so" else b"")
    document = spoilt_document(example, edits)
    if isinstance(document, dict):
        document["checksum"] = checksum(document)
    text = json.dumps(document).encode()
    if edits and edits[0][1] % 3 == 0:
        text = spoilt(text, edits)
    (entry / MANIFEST).write_bytes(text)
    (entry / VERIFIED).write_bytes(spoilt(b'{"sys.so": [5, 1, 1], "a/b": [0, 1, 1]}', edits))
    store = Store(Storage(directory))
    store.examine("images", "0123")
    store.find("images", "0123")


def _notes(directory: Path) -> list[bytes]:
    package = {"name": "julia", "version": "1.5.3", "architecture": "amd64", "sha256": "0"}
    origin = {"schema": 1, "julia_version": "1.5.3", "prefix": "/p", "packages": [package], "commit": None}
    stat = {"schema": 1, "files": {"base/a.jl": [1, 2, 3, 4, "1b"]}}
    running = {"pid": 1 << 22, "started": "7", "began": 1.5, "number": 3, "sources_id": "1"}
    last = {"status": "built", "message": "", "sources_id": "0", "image_id": "1", "time": 2.5}
    known = {"checkout": str(directory), "base_id": "820f"}
    return [json.dumps([origin, stat, {"number": 3, "running": running, "last": last}, known]).encode()]


def _read_notes(example: bytes, edits: Sequence[Edit], directory: Path) -> None:
    """What basedev notes in a checkout and of one: where its Julia came from, what files looked like, builds in the
    background, that it was adopted."""
    document = spoilt_document(example, edits)
    parts = document if isinstance(document, list) else []
    texts = [json.dumps(part).encode() for part in [*parts, None, None, None, None]][:4]
    if edits and edits[0][1] % 3 == 0:
        texts = [spoilt(text, edits) for text in texts]
    notes = directory / "usr/share/basedev"
    notes.mkdir(parents=True, exist_ok=True)
    (notes / "origin.json").write_bytes(texts[0])
    (notes / "stat-cache.json").write_bytes(f"{digest_of(texts[1])}\n".encode() + texts[1])
    for name in ("base", "stdlib"):
        (directory / name).mkdir(exist_ok=True)
    (directory / "base/a.jl").write_bytes(b"")
    stat_cache.identify(directory)
    storage = Storage(directory / "cache")
    background = Background(directory, storage)
    background.log.parent.mkdir(parents=True, exist_ok=True)
    background.log.with_name("state.json").write_bytes(texts[2])
    background.report()
    adopted.remember(storage, directory, "820f")
    for record in (directory / "cache/checkouts").rglob("*.json"):
        record.write_bytes(texts[3])
    adopted.checkouts_by_base(storage)
    usrtree.read_origin(directory)


# ---- what servers say ----


_STATE = {"pid": 0, "builds": 4, "building": 0, "idle": 12, "seconds": 180, "idle_limit": 900, "memory_limit": 1 << 30}


def _states(directory: Path) -> list[bytes]:
    return [json.dumps([{**_STATE, "pid": os.getpid()}, {"base_id": "820f"}]).encode()]


def _read_state(example: bytes, edits: Sequence[Edit], directory: Path) -> None:
    """What a server answers when it is asked for its state, and what its lock says."""
    document = spoilt_document(example, edits)
    parts = document if isinstance(document, list) else []
    answer, lock = [json.dumps(part).encode() for part in [*parts, None, None]][:2]
    if edits and edits[0][1] % 3 == 0:
        answer, lock = spoilt(answer, edits), spoilt(lock, edits)
    servers = directory / "servers"
    servers.mkdir(mode=0o700, exist_ok=True)
    (servers / "one.lock").write_bytes(lock)
    place = servers / "one.socket"
    place.unlink(missing_ok=True)

    def answers() -> None:
        connection, _ = listener.accept()
        with connection, suppress(OSError):
            connection.recv(1)
            connection.sendall(answer + b"\n")

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place))
        place.chmod(0o600)
        listener.listen(1)
        server = threading.Thread(target=answers)
        server.start()
        found = Servers(Storage(directory)).running()
        server.join()
    assert edits or [one.builds for one in found] == [4]


# ---- binaries ----

_CODE = """
extern int puts(const char *);
static int twice(int x) { return 2 * x; }
int numbers[3] = {1, 2, 3};
static const char *const names[] = {"one", "two"};
int called(int x) { int y = twice(x) + numbers[x]; puts(names[x & 1]); return y + 1; }
"""
"""C, whose compiler and assembler write what LLVM does too."""


def _object(directory: Path) -> Path:
    made = directory / "code.o"
    command = ["gcc", "-c", "-O1", "-gdwarf-4", "-fPIC", "-fno-stack-protector", "-x", "c", "-", "-o", str(made)]
    subprocess.run(command, input=_CODE.encode(), check=True)
    return made


def _objects(directory: Path) -> list[bytes]:
    return [_object(directory).read_bytes()]


def _libraries(directory: Path) -> list[bytes]:
    library = directory / "library.so"
    options = ["-shared", "-nostartfiles", "-Wl,--hash-style=gnu,--eh-frame-hdr,-soname,library.so"]
    subprocess.run(["gcc", *options, os.fspath(_object(directory)), "-o", os.fspath(library)], check=True)
    return [library.read_bytes()]


def _read_symbols(data: bytes, directory: Path) -> None:
    image = directory / "image.so"
    image.write_bytes(data)
    symbols = elf.ImageSymbols(image)
    symbols.address("called")
    symbols.number("numbers")
    symbols.contents("numbers")


def _read_object(data: bytes, directory: Path) -> None:
    """Lays it out, and relocates it."""
    path = directory / "code.o"
    path.write_bytes(data)
    layout = Layout([ObjectFile(path)], {"jlf_1": 64}.get, {"puts"}.__contains__)
    places = {name: number << 12 for number, name in enumerate(layout.groups)}
    contents = layout.relocate(places, 1 << 20, 1 << 21).groups
    assert layout.frames == len(layout.frame_table(contents, places) if FRAMES in places else [])


def _read_library(data: bytes, directory: Path) -> None:
    path = directory / "library.so"
    path.write_bytes(data)
    image = Prelinked.read(path)
    assert image.exports.keys() | image.imports | {image.slots_address, image.loaded_end, image.hashed_from}


def _read_needed(data: bytes, directory: Path) -> None:
    path = directory / "library.so"
    path.write_bytes(data)
    library_names([path])


def _read_lines(data: bytes, directory: Path) -> None:
    path = directory / "code.o"
    path.write_bytes(data)
    fix_object(path, (0, 0), defaultdict(Lines))


def _indexes(directory: Path) -> list[bytes]:
    made, index = _object(directory), directory / "lines.zip"
    make_index([made], index)
    shutil.copy(made, directory / "base.o")
    return [index.read_bytes(), made.read_bytes()]


def _read_index(data: bytes, directory: Path) -> None:
    """The index of an image's lines, or the image."""
    index, image = directory / "lines.zip", directory / "base.o"
    if not image.exists():
        _indexes(directory)
    before = {path: path.read_bytes() for path in (index, image)}
    spoilt_one = image if data[:2] == b"\x7fE" else index
    spoilt_one.write_bytes(data)
    try:
        patches(image, index, [Move("<stdin>", 1, 1 << 20, 3)])
    finally:
        spoilt_one.write_bytes(before[spoilt_one])


def _recipes(directory: Path) -> list[bytes]:
    words = [(0, 0, 4096), (1, 0, 8), b"8 bytes.", (0, 4100, 60), (1, 0, 0)]
    return [b"".join(one if isinstance(one, bytes) else elf.RELOCATION.pack(*one) for one in words)]


def _read_recipe(data: bytes, directory: Path) -> None:
    path = directory / "recipe"
    path.write_bytes(data)
    pieces = read_recipe(path, Range(path, 0, 8192))
    assert size(pieces) <= 8192 * len(data)


def _of_bytes(reader: Callable[[bytes, Path], None]) -> Callable[[bytes, Sequence[Edit], Path], None]:
    return lambda example, edits, directory: reader(spoilt(example, edits), directory)


TARGETS = {
    "revision": Target(_revisions, _of_bytes(_read_revision), (UsageError,), 4),
    "settings": Target(_settings, _of_bytes(_read_settings), (UsageError,), 12),
    "series": Target(lambda _: [_SERIES], _of_bytes(_read_series), (InternalError, SetupError, OSError), 10),
    "patched": Target(_patched, _of_bytes(_read_patched), (SetupError, UserCodeError), 3),
    "manifest": Target(_manifests, _read_manifest, (), 2),
    "notes": Target(_notes, _read_notes, (SetupError,)),
    "server": Target(_states, _read_state, (), 3),
    "symbols": Target(_libraries, _of_bytes(_read_symbols), (SetupError,)),
    "object": Target(_objects, _of_bytes(_read_object), (NeedsLinker,), 20),
    "prelinked": Target(_libraries, _of_bytes(_read_library), (NeedsLinker,)),
    "library": Target(_libraries, _of_bytes(_read_needed), (NeedsLinker,)),
    "lines": Target(_objects, _of_bytes(_read_lines), (UnknownDebugInfo,), 20),
    "line index": Target(_indexes, _of_bytes(_read_index), (UnknownDebugInfo,), 12),
    "recipe": Target(_recipes, _of_bytes(_read_recipe), (InternalError,), 10),
}
"""By the name of the format."""
