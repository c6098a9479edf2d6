"""Contents behind what a linker made, with each linker that is installed, loaded by the system's own loader."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest

from basedev.behind import PAGE, fill_room, write_room
from basedev.elf import ImageSymbols
from basedev.errors import InternalError
from basedev.link import LINKERS

SOURCE = """
extern char stored[];
static char before[5000], after[9000];
const char *pointer = stored;
char *zeros(int last) { return last ? after : before; }
int sum(int count) { int all = 0; for (int i = 0; i < count; i++) all += stored[i]; return all; }
char first(void) { return *pointer; }
"""

CONTENTS = bytes(range(1, 101)) * 1234
"""Which end in the middle of a page."""

INSTALLED = [name for name in LINKERS if shutil.which(f"ld.{name}")]


def link(tmp_path: Path, linker: str) -> Path:
    """A shared object with room for `stored`."""
    (tmp_path / "code.c").write_text(SOURCE)
    write_room(tmp_path / "room.o", "stored", len(CONTENTS))
    output = tmp_path / "linked.so"
    sources = tmp_path / "code.c", tmp_path / "room.o"
    subprocess.run(["gcc", "-shared", "-fPIC", f"-fuse-ld={linker}", "-o", output, *sources], check=True)
    return output


def store(tmp_path: Path, begin: int) -> Path:
    """A file with the contents from `begin` on."""
    path = tmp_path / "stored"
    with path.open("wb") as file:
        file.seek(begin)
        file.write(CONTENTS)
    return path


@pytest.mark.parametrize("begin", [PAGE, 64 * PAGE])
@pytest.mark.parametrize("linker", INSTALLED)
def test_contents_are_where_the_symbol_is(tmp_path: Path, linker: str, begin: int) -> None:
    linked = link(tmp_path, linker)
    size = linked.stat().st_size
    assert PAGE < size < 64 * PAGE
    fill_room(linked, "stored", store(tmp_path, begin), begin)
    assert ImageSymbols(linked).place("stored") == max(begin, -(-size // PAGE) * PAGE)
    assert linked.read_bytes().endswith(CONTENTS)
    assert linked.stat().st_mode & 0o100

    loaded = ctypes.CDLL(str(linked))
    assert loaded.sum(len(CONTENTS)) == sum(CONTENTS)
    assert loaded.first() == CONTENTS[0]
    zeros = ctypes.CFUNCTYPE(ctypes.POINTER(ctypes.c_char), ctypes.c_int)(("zeros", loaded))
    assert not any(zeros(0)[:5000]) and not any(zeros(1)[:9000])
    stored = (ctypes.c_char * len(CONTENTS)).in_dll(loaded, "stored")
    stored[0] = b"\0"  # it can be written to, by this process only
    assert loaded.first() == 0 and CONTENTS in linked.read_bytes()


@pytest.mark.parametrize("symbol", ["stored", "missing"])
def test_what_has_no_room_is_refused(tmp_path: Path, symbol: str) -> None:
    (tmp_path / "code.c").write_text("char stored[100000] = {1};")
    linked = tmp_path / "linked.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", linked, tmp_path / "code.c"], check=True)
    with pytest.raises(InternalError, match=rf"\b{symbol}\b"):
        fill_room(linked, symbol, store(tmp_path, PAGE), PAGE)
