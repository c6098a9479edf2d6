"""Files put together from ranges of others."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from basedev.errors import InternalError
from basedev.pieces import BLOCK, WORTH_SPLITTING, Piece, Range, Writer, size

SOURCE = os.urandom(3 * WORTH_SPLITTING + 100)

literals = st.binary(max_size=100)
places = st.one_of(st.integers(0, len(SOURCE)), st.sampled_from([n * BLOCK for n in range(len(SOURCE) // BLOCK)]))
ranges = st.tuples(places, places).map(lambda ends: (min(ends), max(ends) - min(ends)))


def written(directory: Path, position: int, pieces: list[Piece]) -> bytes:
    output = directory / "output"
    descriptor = os.open(output, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    try:
        with Writer(descriptor) as writer:
            assert writer.write(position, pieces) == position + size(pieces)
    finally:
        os.close(descriptor)
    return output.read_bytes()


def check(sources: Path, directory: Path, position: int, parts: list[bytes | tuple[int, int]]) -> None:
    source = sources / "source"
    source.write_bytes(SOURCE)
    pieces = [part if isinstance(part, bytes) else Range(source, *part) for part in parts]
    expected = b"".join(part if isinstance(part, bytes) else SOURCE[part[0] : sum(part)] for part in parts)
    made = written(directory, position, pieces)
    assert made[position:] == expected
    assert not any(made[:position]) and len(made) == (position + len(expected) if expected else 0)


@settings(max_examples=100, deadline=None)
@given(position=st.integers(0, 2 * BLOCK), parts=st.lists(st.one_of(literals, ranges), max_size=6))
def test_pieces_are_written_one_after_the_other(position: int, parts: list[bytes | tuple[int, int]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        check(Path(directory), Path(directory), position, parts)


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="there is no second file system here")
def test_between_file_systems(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as elsewhere:
        check(Path(elsewhere), tmp_path, 17, [(0, len(SOURCE)), b"between", (BLOCK, 5), (5, WORTH_SPLITTING)])
        check(tmp_path, Path(elsewhere), BLOCK, [(0, len(SOURCE)), b"", (BLOCK, WORTH_SPLITTING)])


def test_a_source_that_is_too_short(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(SOURCE)
    with pytest.raises(InternalError, match=f"source ends at {len(SOURCE)}, in the middle of what is copied from it"):
        written(tmp_path, 0, [Range(source, 10, len(SOURCE))])
