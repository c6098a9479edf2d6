"""Line numbers of native code that is kept while its source text moves."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path

import pytest
from conftest import Bench
from hypothesis import given
from hypothesis import strategies as st

from basedev import debug_lines
from basedev.dwarf import (
    ADVANCE_WIDTH,
    LAST_LINE,
    LinesByFile,
    UnknownDebugInfo,
    decode_advance,
    encode_advance,
    fix_object,
)
from basedev.dwarf import Lines as LinesOfFile
from basedev.revision import Move

ADVANCES = st.integers(-(1 << 20), (1 << 20) - 1)

SOURCES = {
    "one.c": """
#line 90 "near.h"
static inline __attribute__((always_inline)) int twice(volatile int *x) {
    *x += 1;
    return *x * 2;
}
#line 240 "one.c"
int first(volatile int *x) {
    int sum = twice(x);
    for (int i = 0; i < 9; i++)
        sum += twice(x) + *x;
    return sum;
}
#line 3000 "one.c"
int second(volatile int *x) { return twice(x) + first(x); }
""",
    "two.c": """
#line 100 "near.h"
static inline __attribute__((always_inline)) int thrice(volatile int *x) {
    *x -= 1;
    return *x * 3;
}
#line 10 "two.c"
int third(volatile int *x) {
    return thrice(x) - 5;
}
""",
}
"""C, whose compiler and assembler write the same debug information as LLVM, and other forms of it."""

Row = tuple[str, int, str]
"""File, line and address of a row of a table of lines."""


@given(ADVANCES)
def test_an_advance_has_always_the_same_width(number: int) -> None:
    encoded = encode_advance(number)
    assert len(encoded) == ADVANCE_WIDTH and decode_advance(encoded) == number
    # as the standard has it (DWARF 4, section 7.6)
    value = sum((byte & 0x7F) << 7 * n for n, byte in enumerate(encoded))
    assert value - (1 << 7 * ADVANCE_WIDTH) * (encoded[-1] >> 6 & 1) == number
    assert [byte >> 7 for byte in encoded] == [1] * (ADVANCE_WIDTH - 1) + [0]


@pytest.mark.parametrize("number", [1 << 20, -(1 << 20) - 1])
def test_an_advance_without_room_is_told(number: int) -> None:
    with pytest.raises(UnknownDebugInfo, match="apart"):
        encode_advance(number)


def compiled(directory: Path, *, flags: tuple[str, ...] = ("-gdwarf-4",)) -> list[Path]:
    """The object files of SOURCES."""
    objects = []
    for name, text in SOURCES.items():
        (directory / name).write_text(text)
        output = directory / f"{name}.o"
        subprocess.run(["gcc", "-O2", "-fPIC", *flags, "-c", name, "-o", output], cwd=directory, check=True)
        objects.append(output)
    return objects


def linked(objects: list[Path]) -> Path:
    """A shared object of them."""
    output = objects[0].parent / "linked.so"
    subprocess.run(["gcc", "-shared", *objects, "-nostdlib", "-o", output], check=True)
    return output


def rows(file: Path) -> list[Row]:
    """The rows of a file's tables of lines, as readelf decodes them."""
    command = ["readelf", "-W", "--debug-dump=decodedline", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert not done.stderr
    found = re.findall(r"^(\S+) +(\d+|-) +(0x[0-9a-f]+|0)\b.*$", done.stdout, re.MULTILINE)
    assert len(found) > 20
    return [(name, 0 if line == "-" else int(line), address) for name, line, address in found]


def inlining(file: Path) -> str:
    """What addr2line says of each row's address: the functions there, inlined ones included, with their lines."""
    addresses = sorted({address for _, _, address in rows(file)})
    command = ["addr2line", "-afis", "-e", str(file), *addresses]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def entries(file: Path) -> list[str]:
    """The entries of a file's debug information, without their places and the sizes of numbers."""
    command = ["readelf", "-W", "--debug-dump=info", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert not done.stderr
    text = re.sub(r"<[0-9a-f]+>|<0x[0-9a-f]+>|\(data[124]\) ", "", done.stdout)
    return [line for line in text.splitlines() if not re.search(r"Length:|@ offset|stmt_list|indexed", line)]


def test_fixed_form_says_the_same(tmp_path: Path) -> None:
    objects = compiled(tmp_path)
    before = linked(objects).rename(tmp_path / "before.so")
    debug_lines.make_index(objects, tmp_path / "index")
    after = linked(objects)
    assert rows(after) == rows(before)
    assert inlining(after) == inlining(before)
    assert entries(after) == entries(before)
    assert "twice" in inlining(after)


def moved(text: str, shift: Callable[[str, int], int]) -> str:
    """What addr2line says, with other lines."""

    def line(found: re.Match[str]) -> str:
        return f"{found[1]}:{int(found[2]) + shift(found[1], int(found[2]))}"

    return re.sub(r"(\w+\.[ch]):(\d+)", line, text)


@pytest.mark.parametrize(
    "moves",
    [
        [Move("near.h", 90, 93, 400)],
        [Move("one.c", 1, 244, -239), Move("one.c", 245, 5000, 1)],
        [Move("one.c", 242, 242, 7), Move("two.c", 1, 20, 60000), Move("near.h", 1, 1000, -80)],
        [],
    ],
    ids=["inlined", "up and down", "three files", "none"],
)
def test_moved_lines(tmp_path: Path, moves: list[Move]) -> None:
    objects = compiled(tmp_path)
    debug_lines.make_index(objects, tmp_path / "index")
    image = linked(objects)
    names = {name.rpartition("/")[2]: name for name in index_of(objects, tmp_path)}

    def shift(name: str, line: int) -> int:
        return sum(one.by for one in moves if one.file == name and one.first <= line <= one.last)

    rows_before, before, size = rows(image), inlining(image), image.stat().st_size
    debug_lines.correct(
        image, tmp_path / "index", [Move(names[one.file], one.first, one.last, one.by) for one in moves]
    )
    # the last row of a function has the line of the one before
    assert rows(image) == [(name, line and line + shift(name, line), address) for name, line, address in rows_before]
    assert inlining(image) == moved(before, shift)
    assert (inlining(image) != before) == bool(moves)
    assert image.stat().st_size == size


def index_of(objects: list[Path], directory: Path) -> LinesByFile:
    """What `fix_object` finds in objects; they stay as they are."""
    found: LinesByFile = defaultdict(LinesOfFile)
    for path in objects:
        shutil.copyfile(path, directory / "copy.o")
        fix_object(directory / "copy.o", (0, 0), found)
    return found


def test_a_line_without_room_changes_nothing(tmp_path: Path) -> None:
    objects = compiled(tmp_path)
    debug_lines.make_index(objects, tmp_path / "index")
    image = linked(objects)
    before = image.read_bytes()
    for by in (LAST_LINE, -9999):
        with pytest.raises(UnknownDebugInfo, match="no room"):
            debug_lines.correct(image, tmp_path / "index", [Move("two.c", 1, 9999, by)])
    assert image.read_bytes() == before


def test_another_image_is_told(tmp_path: Path) -> None:
    objects = compiled(tmp_path)
    debug_lines.make_index(objects, tmp_path / "index")
    image = linked(objects[::-1])
    before = image.read_bytes()
    with pytest.raises(UnknownDebugInfo, match="other line numbers"):
        debug_lines.correct(image, tmp_path / "index", [Move("one.c", 1, 9999, 1)])
    assert image.read_bytes() == before


@pytest.mark.parametrize("flags", [("-gdwarf-5",), ("-g0",)])
def test_other_debug_information_is_told(tmp_path: Path, flags: tuple[str, ...]) -> None:
    objects = compiled(tmp_path, flags=flags)
    before = [path.read_bytes() for path in objects]
    with pytest.raises(UnknownDebugInfo):
        debug_lines.make_index(objects, tmp_path / "index")
    assert [path.read_bytes() for path in objects] == before


TRACES = """
using REPL
const tasks = [
    () -> hex2bytes("zz"), () -> Dict{Symbol,Any}()[:a], () -> parse(Int, "x"), () -> rpad("a", typemax(Int)),
    () -> REPL.LineEdit.match_input(Dict{Char,Any}('a' => 1), nothing, IOBuffer("a")), () -> [1, 2][3],
    () -> sqrt(-1.0), () -> IOBuffer("") |> io -> read(io, Char), () -> pop!(Dict{Any,Any}(), 1), () -> error("here"),
]
inlined_now(d) = d[:a]
push!(tasks, () -> inlined_now(Dict{Symbol,Int}()))
tell(where, frame) = println(where, '\\t', frame.func, '\\t', frame.file, '\\t', frame.line, '\\t', frame.inlined)
for (n, task) in enumerate(tasks)
    trace = try task(); [] catch; stacktrace(catch_backtrace()) end
    for frame in trace
        frame.file === :none && break
        frame.from_c || tell("trace $n", frame)
    end
end
function natives(f)
    found = []
    for method in methods(f), n in 1:length(method.specializations)
        isassigned(method.specializations, n) || continue
        instance = method.specializations[n]
        instance isa Core.MethodInstance && isdefined(instance, :cache) && push!(found, instance.cache)
    end
    sort!([(string(one.def), one.specptr) for one in found if one.specptr != C_NULL])
end
for f in (startswith, chop, chomp, lpad, split, hex2bytes, Base.rehash!, getindex, delete!,
          REPL.REPLCompletions.complete_symbol, REPL.REPLCompletions.completions, Core.Compiler.abstract_call,
          Core.Compiler.abstract_call_gf_by_type)
    for (name, place) in natives(f)[1:min(end, 8)], offset in 1:40:201, frame in StackTraces.lookup(place + offset)
        frame.from_c || tell("$name + $offset", frame)
    end
end
"""
"""Prints frames of stack traces of errors, and of what is at places of kept native code."""

EDITED = {
    "base/strings/util.jl": "strings/util.jl",
    "base/dict.jl": "dict.jl",
    "base/compiler/abstractinterpretation.jl": "compiler/abstractinterpretation.jl",
    "stdlib/REPL/src/REPLCompletions.jl": "REPL/src/REPLCompletions.jl",
}


@dataclass(frozen=True)
class Frame:
    """A line that TRACES prints."""

    where: str
    function: str
    file: str
    line: int
    inlined: str

    @property
    def path(self) -> str | None:
        """The edited file that it names, if it is one."""
        for path, name in EDITED.items():
            if self.file.removeprefix("./") == name or self.file.endswith("/stdlib/v1.5/" + name):
                return path
        return None


@pytest.fixture
def base_image(bench: Bench) -> Path:
    """The image for sources that are not edited."""
    told = bench.json("build")
    assert told["status"] == "current"
    return Path(told["image"])


def frames(bench: Bench, image: str | Path) -> list[Frame]:
    found = []
    for line in bench.julia(image, TRACES).splitlines():
        where, function, file, number, inlined = line.split("\t")
        found.append(Frame(where, function, file, int(number), inlined))
    return found


def image_rows(image: Path) -> Iterator[tuple[str, int]]:
    """File and line of all rows of an image's tables of lines."""
    command = ["readelf", "-W", "--debug-dump=decodedline", str(image)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    name = ""
    for found in re.finditer(r"^(?:(?:CU: )?(\S+):(?:\[\+\+\])?|\S+ +(\d+) +0x[0-9a-f]+.*)$", text, re.MULTILINE):
        if found[1]:
            name = found[1].removeprefix("./")
        else:
            yield name, int(found[2])


def test_stack_traces_of_kept_code_name_present_lines(bench: Bench, base_image: Path) -> None:
    before = {path: (bench.root / path).read_text().splitlines() for path in EDITED}
    insert(bench, "base/strings/util.jl", "# This file is a part of Julia", None)
    insert(bench, "base/strings/util.jl", "function chomp(s::String)", "# one line\n# another\n")
    insert(bench, "base/strings/util.jl", "hex2bytes(s::AbstractString)", "# above it\n" * 5)
    insert(bench, "base/dict.jl", "# This file is a part of Julia", "#\n" * 300)
    insert(bench, "base/dict.jl", "function setindex!(", "\n\n")
    insert(bench, "base/compiler/abstractinterpretation.jl", "# This file is a part of Julia", "# compiler\n")
    insert(bench, "stdlib/REPL/src/REPLCompletions.jl", "# This file is a part of Julia", "# library\n" * 4)
    after = {path: (bench.root / path).read_text().splitlines() for path in EDITED}
    built = bench.chain()
    assert built["definitions"] == {"evaluated": [], "deleted": []} and built["old_lines_reason"] is None

    old, new = frames(bench, base_image), frames(bench, built["image"])
    assert [(one.where, one.function, one.file, one.inlined) for one in new] == [
        (one.where, one.function, one.file, one.inlined) for one in old
    ]
    seen, shifts = set(), set()
    for was, now in zip(old, new, strict=True):
        path = now.path
        if path is None or was.line == 0:
            assert now.line == was.line, now
            continue
        assert after[path][now.line - 1] == before[path][was.line - 1], (was, now)
        seen.add((path, now.inlined))
        shifts.add((path, now.line - was.line))
    assert {path for path, _ in seen} == set(EDITED)
    assert ("base/dict.jl", "true") in seen and ("base/strings/util.jl", "true") in seen
    assert {by for path, by in shifts if path == "base/strings/util.jl"} == {-1, 1, 6}
    assert {by for path, by in shifts if path == "base/dict.jl"} == {300, 302}
    assert source_of(new, "trace 1", after, "hex2bytes!") and source_of(new, "trace 2", after, "KeyError")

    # everywhere in the image
    places = {}
    for path, name in EDITED.items():
        matching = SequenceMatcher(None, before[path], after[path], autojunk=False).get_matching_blocks()
        lines = {block.a + n + 1: block.b + n + 1 for block in matching for n in range(block.size)}
        places[name] = lines
    expected = []
    for name, line in image_rows(base_image):
        known = places.get(name) or places.get(name.partition("/stdlib/v1.5/")[2])
        expected.append((name, known[line] if known and line else line))
    assert list(image_rows(Path(built["image"]))) == expected


def source_of(found: list[Frame], where: str, sources: dict[str, list[str]], text: str) -> bool:
    """Whether a frame of a trace names a line of an edited file with this text."""
    return any(one.where == where and one.path and text in sources[one.path][one.line - 1] for one in found)


def insert(bench: Bench, path: str, before: str, lines: str | None) -> None:
    """Puts lines before the first that begins so, or takes that line out."""
    file = bench.root / path
    text = file.read_text().splitlines(keepends=True)
    at = next(n for n, line in enumerate(text) if line.startswith(before))
    text[at : at + 1] = [] if lines is None else [lines, text[at]]
    file.write_text("".join(text))


def test_what_is_compiled_anew_names_present_lines_of_what_it_has_inlined(bench: Bench, base_image: Path) -> None:
    """Also where only the inferred code of that is kept."""
    insert(bench, "base/dict.jl", "# This file is a part of Julia", "# one line\n" * 7)
    insert(bench, "base/strings/util.jl", "    if i < 1 || codeunit(s,i) != 0x0a", "    i == -9 && return s\n")
    built = bench.chain()
    program = """
        look(d, k) = (isempty(d), length(d), haskey(d, k), get(d, k, nothing), iterate(d))
        for T in (Symbol, Any), V in (Symbol, Any)
            code, _ = only(code_typed(look, (Dict{T,V}, T); debuginfo = :source))
            foreach(one -> println(one.method, '\\t', one.file, '\\t', one.line), code.linetable)
        end
    """

    def of_dictionaries(image: str | Path) -> list[tuple[str, int]]:
        lines = [line.split("\t") for line in bench.julia(image, program).splitlines()]
        return [(one[0], int(one[2])) for one in lines if one[1] == "dict.jl"]

    was = of_dictionaries(base_image)
    assert was and of_dictionaries(built["image"]) == [(function, line + 7) for function, line in was]
