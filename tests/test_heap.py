"""The heap as a difference from the base image's: the same as Julia's own serializer writes, and a sound one."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from conftest import Bench
from corpus import EDITS, MARK, apply, joined
from hypothesis import given
from hypothesis import strategies as st

from basedev.errors import InternalError
from basedev.heap_recipe import read_recipe
from basedev.pieces import Range

COMPARE = {"BASEDEV_HEAP": "compare"}
UTIL = "base/strings/util.jl"
TAKEN_OVER = '\nlpad(s::String, n::Int, p::Char) = "taken over"\n'
MANY_KINDS = (
    "\nbrandnew(x::Int; by=2) = by * x\n"
    "const PRIMES = [2, 3, 5, 7]\n"
    'const TABLE = Dict{Any,Any}(:a => [1, nothing], \'b\' => big(10)^30, nothing => "text", 3 => (1, "x"))\n'
    "const BY_IDENTITY = IdDict{Any,Any}(:one => 1, PRIMES => TABLE)\n"
    "const MAYBE = Union{Int8,Missing}[1, missing, 3]\n"
    "const NOWHERE = [C_NULL, Ptr{Cvoid}(17)]\n"
    'const PAIRS = [(1, "one"), (2, "two")]\n'
    "struct Brand{T} <: AbstractVector{T}\n    name::String\n    of::Vector{T}\nend\n"
    "size(b::Brand) = size(b.of)\ngetindex(b::Brand, i::Int) = b.of[i]\n"
    'const BRAND = Brand("b", Float32[1, 2, 3])\n'
    "macro thrice(x)\n    :(3 * $(esc(x)))\nend\n"
    "thrice(x) = @thrice x\n"
    "module Inner\nexport inner\ninner() = map(x -> x + 1, [1, 2])\nend\n"
    "using .Inner\n"
)
PROGRAM = (
    "using Base: brandnew, PRIMES, TABLE, BY_IDENTITY, MAYBE, NOWHERE, PAIRS, BRAND, thrice, inner\n"
    "GC.gc(true); GC.gc(false); GC.gc(true)\n"
    "println(brandnew(4), brandnew(4; by=3), sum(PRIMES), TABLE[:a], TABLE['b'], TABLE[nothing], TABLE[3])\n"
    "println(BY_IDENTITY[PRIMES] === TABLE, BY_IDENTITY[:one], MAYBE, NOWHERE, PAIRS, sum(BRAND), BRAND.name)\n"
    "println(thrice(5), inner())\n"
    "push!(PRIMES, 11); TABLE[:new] = 1; BY_IDENTITY[TABLE] = 2; push!(MAYBE, missing)\n"
    "GC.gc(true)\n"
    "println(PRIMES, length(TABLE), length(BY_IDENTITY), length(MAYBE))\n"
    "@eval Base laternew(x) = x\nprintln(Base.laternew(1))\n"
)
PRINTS = (
    "812"
    '17Union{Nothing, Int64}[1, nothing]1000000000000000000000000000000text(1, "x")\n'
    "true1Union{Missing, Int8}[1, missing, 3]Ptr{Nothing}[Ptr{Nothing} @0x0000000000000000, "
    'Ptr{Nothing} @0x0000000000000000][(1, "one"), (2, "two")]6.0b\n'
    "15[2, 3]\n[2, 3, 5, 7, 11]534\n1\n"
)
KINDS = (
    "twice the samples",  # __init__
    "rank with positional tolerance",  # a method is deleted
    "isinvolution",  # exported, with a docstring
    "docstring removed",
    "in-place median",  # an export is taken back
    "times counted down",  # a macro with its users
    "iterators of checksums",  # a module is used
    "base64 of addresses",  # a standard library's file
    "any branch",  # @enum
)
"""Edits of the corpus whose heaps differ from the base image's in different ways."""


def compared(bench: Bench, *words: str) -> str:
    """The image of the present sources; fails where Julia's serializer writes another heap of them."""
    built = bench.basedev("--json", "build", "--no-full-rebuild", *words, environment=COMPARE)
    assert built.returncode == 0, built.stderr
    told = json.loads(built.stdout)
    assert told["whole_heap_reason"] is None
    return str(told["image"])


def test_values_of_many_kinds(bench: Bench) -> None:
    bench.append(UTIL, MANY_KINDS)
    assert bench.julia(compared(bench), PROGRAM) == PRINTS


@pytest.mark.parametrize("engine", ["stock-1.5", "stock-1.5-no-cutoff"])
def test_code_is_compiled_anew(bench: Bench, engine: str) -> None:
    bench.append(UTIL, TAKEN_OVER)
    image = compared(bench, "--engine", engine)
    assert bench.julia(image, 'GC.gc(); print(lpad("a", 3), rpad("a", 3), "|")') == "taken overa  |"


def test_several_edits_at_once(bench: Bench) -> None:
    edits = [edit for edit in EDITS if edit.name in KINDS]
    assert [edit.name for edit in edits if edit.together] and len(edits) >= 8
    apply(bench.root, edits)
    bench.append(UTIL, TAKEN_OVER)
    program, prints = joined(edits)
    assert bench.julia(compared(bench), f"GC.gc(true)\n{program}").split(MARK)[1:] == prints


def test_packages_load_and_precompile(bench: Bench, tmp_path: Path) -> None:
    bench.append(UTIL, MANY_KINDS)
    image = compared(bench)
    (tmp_path / "Small/src").mkdir(parents=True)
    (tmp_path / "Small/src/Small.jl").write_text(
        "module Small\nusing LinearAlgebra\nsolved = [2.0 0; 0 4] \\ [2, 4]\nmine(x) = Base.brandnew(x; by=4)\nend\n"
    )
    code = f"push!(LOAD_PATH, {json.dumps(str(tmp_path))})\nusing Small\nprint(Small.solved, Small.mine(2))"
    assert bench.julia(image, code) == "[1.0, 1.0]8"  # precompiled now
    assert bench.julia(image, code) == "[1.0, 1.0]8"  # and read again


def test_heap_is_made_of_the_base_image(bench: Bench) -> None:
    bench.append(UTIL, "\nbrandnew(x) = 2x\n")
    assert bench.chain()["whole_heap_reason"] is None


def test_heap_can_be_written_as_a_whole(bench: Bench) -> None:
    bench.append(UTIL, "\nbrandnew(x) = 2x\n")
    done = bench.basedev("--json", "build", "--no-full-rebuild", environment={"BASEDEV_HEAP": "stock"})
    told = json.loads(done.stdout)
    assert told["whole_heap_reason"] == "BASEDEV_HEAP=stock"
    assert bench.julia(told["image"], "print(Base.brandnew(4))") == "8"


def test_more_names_than_there_is_room_for(bench: Bench) -> None:
    bench.append(UTIL, "".join(f"\nbrandnew{i}(x) = {i}x" for i in range(1, 4001)) + "\n")
    built = bench.chain()
    assert built["whole_heap_reason"] == "there is no room for more names in module Base"
    assert bench.julia(built["image"], "print(Base.brandnew3999(2))") == "7998"


def test_comparison_can_fail(bench: Bench) -> None:
    bench.append(UTIL, "\nbrandnew(x) = 2x\n")
    done = bench.basedev("build", "--no-full-rebuild", environment={"BASEDEV_HEAP": "damaged"})
    assert done.returncode == 4
    assert "the heap is not the one that Julia writes: root" in done.stderr
    assert "(Method) > part" in done.stderr


# ---- recipes ----


def copied(offset: int, length: int) -> bytes:
    """A record of a range of the base image's blob."""
    return struct.pack("<QQQ", 0, offset, length)


def literal(contents: bytes) -> bytes:
    """A record of other bytes."""
    return struct.pack("<QQQ", 1, 0, len(contents)) + contents


BLOB = Range(Path("base"), 4, 100)


def test_recipe(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe"
    recipe.write_bytes(copied(10, 5) + literal(b"new") + copied(0, 100))
    assert read_recipe(recipe, BLOB) == [Range(Path("base"), 14, 5), b"new", BLOB]


@pytest.mark.parametrize(
    ("contents", "fault"),
    [
        (copied(10, 91), "a range ends behind the base image's heap"),
        (copied(2**64 - 1, 1), "a range ends behind the base image's heap"),
        (literal(b"four")[:-1], "bytes are cut off"),
        (struct.pack("<QQQ", 1, 0, 2**63), "bytes are cut off"),
        (copied(0, 100) + copied(0, 1)[:-1], "a record is cut off"),
        (struct.pack("<QQQ", 2, 0, 1), "there are no records of kind 2 at 0"),
    ],
)
def test_recipe_of_another_shape(tmp_path: Path, contents: bytes, fault: str) -> None:
    recipe = tmp_path / "recipe"
    recipe.write_bytes(contents)
    with pytest.raises(InternalError, match=fault):
        read_recipe(recipe, BLOB)


@given(st.binary(max_size=200))
def test_any_bytes_as_a_recipe(tmp_path_factory: pytest.TempPathFactory, contents: bytes) -> None:
    recipe = tmp_path_factory.getbasetemp() / "any"
    recipe.write_bytes(contents)
    try:
        pieces = read_recipe(recipe, BLOB)
    except InternalError:
        return
    base = BLOB.offset
    assert contents == b"".join(
        copied(one.offset - base, one.length) if isinstance(one, Range) else literal(one) for one in pieces
    )
