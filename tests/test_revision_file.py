"""Revisions as files: they read back as they were written, and do the same in a plain Julia as in an image."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import Bench
from hypothesis import given
from hypothesis import strategies as st

from basedev.errors import UsageError
from basedev.revision import (
    Definition,
    Delete,
    Evaluate,
    Exclude,
    Include,
    Move,
    Revision,
    Step,
    Unbind,
    Undocument,
    Unexport,
    Unlog,
)
from basedev.serialized import ChangedFile, Provenance, read, write

# --- the text ---------------------------------------------------------------------------------------------------

PIECES = (
    "\n",
    "\r\n",
    "\t",
    " ",
    "end",
    "#@ end",
    "#@ complete",
    "#@ steps",
    "#| ",
    "=#",
    '"""',
    "\\",
    '"',
    "é∈",
    "\0",
)

from_a_file = st.binary(max_size=20).map(lambda data: data.decode("utf-8", "surrogateescape"))
texts = st.lists(st.sampled_from(PIECES) | from_a_file).map(
    # bytes that stand side by side may be a character together
    lambda parts: "".join(parts).encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
)
numbers = st.integers(-999_999_999, 999_999_999)
ids = st.text("0123456789abcdef", min_size=1)
steps = st.one_of(
    st.builds(Evaluate, texts, texts, numbers, texts),
    st.builds(Delete, texts, texts, texts),
    st.builds(Move, texts, numbers, numbers, numbers),
    st.builds(Undocument, texts, texts, numbers, numbers),
    st.builds(Unlog, texts, numbers, numbers),
    st.builds(Include, texts, texts, texts),
    st.builds(Exclude, texts, texts),
    st.builds(Unbind, texts, texts),
    st.builds(Unexport, texts, texts),
)
changes = st.sampled_from(("added", "modified", "deleted", "documented"))
definitions = st.builds(Definition, texts, texts, numbers, changes)
revisions = st.builds(Revision, st.lists(steps, max_size=5).map(tuple), st.lists(definitions, max_size=3).map(tuple))
files = st.builds(ChangedFile, texts, st.none() | ids, st.none() | ids)
provenances = st.builds(Provenance, texts, texts, texts, st.none() | ids, texts, st.lists(files, max_size=3).map(tuple))


@given(revisions, provenances, st.booleans())
def test_round_trip(revision: Revision, provenance: Provenance, literal: bool) -> None:
    text = write(revision, provenance, lambda _: literal)
    assert read(text) == (revision, provenance)
    assert text.encode("utf-8").decode("utf-8") == text
    assert "\r" not in text and "\0" not in text


SOME = Provenance("0.1.0", "1.5.3", "0123456789", None, "abcdef", (ChangedFile("base/a.jl", "01", "02"),))
TWO_STEPS = Revision(
    (Evaluate("Base", "a.jl", 3, "f() = 1"), Delete("Base", "g", "Tuple{typeof(Base.g), Int64}")),
    (Definition("Base.f()", "base/a.jl", 3, "modified"),),
)


def test_a_text_stands_as_it_is() -> None:
    lines = write(TWO_STEPS, SOME).splitlines()
    assert lines[0] == "# basedev revision 1"
    at = lines.index("#@ evaluate Base a.jl:3")
    assert lines[at : at + 5] == [
        "#@ evaluate Base a.jl:3",
        "f() = 1",
        "#@ end",
        "",
        '#@ delete Base g "Tuple{typeof(Base.g), Int64}"',
    ]
    assert "#@ definition modified base/a.jl:3 Base.f()" in lines


def test_every_cut_is_noticed() -> None:
    lines = write(TWO_STEPS, SOME).splitlines()
    for kept in range(len(lines)):
        with pytest.raises(UsageError, match=r"^fix\.jl:\d+: .*: .*export"):
            read("\n".join(lines[:kept]), "fix.jl")


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("# basedev revision 1", "# basedev revision 2", "fix.jl:1: version 2 of the format is not known"),
        ("# basedev revision 1", "f() = 1", "fix.jl:1: this is no revision"),
        ("#@ delete Base g", "#@ transmogrify Base g", "a step transmogrify is not known: use a newer basedev"),
        ("#@ delete Base g", "#@ delete g", "3 words are expected after the first, and there are 2"),
        ("#@ evaluate Base a.jl:3", "#@ evaluate Base a.jl:x", "'x' is no number"),
        ("#@ evaluate Base a.jl:3", '#@ evaluate "Base a.jl:3', "this marker line can't be read"),
        ("#@ end", "", "a text without an end before the next step"),
        ("#@ julia 1.5.3\n", "", "the line '#@ julia' is missing"),
        ("#@ julia 1.5.3", "#@ mood good", "mood is not known"),
        ("#@ definition modified", "#@ definition loved", "loved is no change that is known"),
    ],
)
def test_bad_text(old: str, new: str, told: str) -> None:
    text = write(TWO_STEPS, SOME)
    assert old in text
    with pytest.raises(UsageError) as raised:
        read(text.replace(old, new), "fix.jl")
    message = raised.value.message
    assert told in message and message.startswith("fix.jl:") and "\n" not in message


def test_remarks_are_allowed() -> None:
    text = write(TWO_STEPS, SOME).replace("#@ delete", "# nobody needs it\n\n#@ delete")
    assert read(text) == (TWO_STEPS, SOME)


# --- in Julia ---------------------------------------------------------------------------------------------------

EVERYTHING = r"""
where_all(io) = for name in sort(names(Base; all=true))
    isdefined(Base, name) && getfield(Base, name) isa Function || continue
    occursin('#', string(name)) && continue
    foreach(m -> println(io, m.sig, ' ', m.file, ':', m.line), methods(getfield(Base, name)))
end
documented(io) = for one in sort!([string(binding, ' ', signature, ' ', text.data[:path], ':', text.data[:linenumber])
        for m in Base.Docs.modules for (binding, all) in Base.Docs.meta(m) if all isa Base.Docs.MultiDoc
        for (signature, text) in all.docs])
    println(io, one)
end
where_all(stdout)
documented(stdout)
println(names(Base))
"""

USE = r"""
print(names(Main; all=true), x -> x, ARGS)
print(chomp("b\n"), Base.louder("a"), Base.louder("a"; mark='?'), Base.twice("t"), Base.@shouted(3))
print(hasmethod(hex2bytes, Tuple{SubString{String}}), Base.Docs.doc(chomp), Base.Docs.doc(Base.louder), louder)
using Base64
print(base64encode(nothing), methods(base64encode), reverse!([1], 1, -77), Core.Compiler.reverse!([1], 1, -77),
      [only(methods(m.reverse!, (Vector{Int}, Int, Int))).line for m in (Base, Core.Compiler)])
try chomp("x") catch; print(stacktrace(catch_backtrace())[2]) end
"""


def edit(bench: Bench) -> None:
    """Edits of many kinds."""
    util = "base/strings/util.jl"
    bench.edit(
        util,
        "function chomp(s::String)\n    i = lastindex(s)",
        'function chomp(s::String)\n    s == "x" && error("edited")\n    i = lastindex(s)',
    )
    bench.edit(util, "hex2bytes(s::AbstractString) = hex2bytes(String(s))\n", "")
    bench.edit(util, "Remove a single trailing newline from a string.", "Edited documentation.")
    bench.append(
        util,
        '\n"""\n    louder(s; mark)\n\nUpper case.\n"""\nlouder(s::String; mark::Char=\'!\') = uppercase(s) * mark\n'
        "\nfor (name, n) in ((:twice, 2), (:thrice, 3))\n    @eval $name(s::AbstractString) = s^$n\nend\n"
        "\nmacro shouted(x)\n    return :(string($(esc(x)), '!'))\nend\n"
        "\nexport louder\n",
    )
    bench.append("stdlib/Base64/src/encode.jl", '\nbase64encode(::Nothing) = "nothing"\n')
    head = "function reverse!(v::AbstractVector, s=first(LinearIndices(v)), n=last(LinearIndices(v)))\n"
    bench.edit("base/array.jl", head, head + '    n == -77 && return "edited"\n')  # a part of Core.Compiler too


def plain_julia(bench: Bench, home: Path, *arguments: str) -> str:
    """What a program prints on the base image, by a Julia that knows nothing of basedev."""
    base = json.loads((bench.root / "usr/share/basedev/base.json").read_text())["base_id"]
    image = bench.storage.root / "bases" / base / "base.so"
    command = [str(bench.root / "usr/bin/julia"), "-J", str(image), "--startup-file=no", *arguments]
    clean = {"HOME": str(home), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, cwd=home, env=clean, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_same_in_plain_julia_in_an_image_and_replayed(bench: Bench, tmp_path: Path) -> None:
    edit(bench)
    file = tmp_path / "fix.jl"
    assert bench.basedev("revision", "export", "-o", str(file)).stdout == f"{file}\n"
    use = tmp_path / "use.jl"
    use.write_text(USE + EVERYTHING)

    built = bench.json("build", "--no-full-rebuild")
    expected = bench.basedev("run", "--", "--startup-file=no", str(use), "word").stdout
    assert 'Base :Core :Main]#1["word"]bA!A?tt3!false' in expected.replace(", :", " :")
    assert "Edited documentation." in expected and "Upper case." in expected
    assert "chomp(::String) at util.jl:193" in expected

    assert plain_julia(bench, tmp_path, "-L", str(file), str(use), "word") == expected
    included = plain_julia(bench, tmp_path, "-e", f'include("{file}"); include("{use}")', "word")
    assert included.replace("#3", "#1") == expected

    replayed = bench.basedev("run", "--replay", "--", "--startup-file=no", str(use), "word")
    assert (replayed.stdout, replayed.stderr, replayed.returncode) == (expected, "", 0)

    # the file alone makes the image: the sources are those of the base image again
    subprocess.run(["git", "-C", str(bench.root), "checkout", "-q", "--", "."], check=True)
    applied = bench.json("revision", "apply", str(file))
    assert applied["status"] == "built" and applied["image_id"] != built["image_id"]
    assert applied["definitions"] == built["definitions"]
    assert applied["sources_id"] == built["sources_id"]
    command = [str(bench.root / "usr/bin/julia"), "-J", applied["image"], "--startup-file=no", str(use), "word"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == expected
    assert bench.json("revision", "apply", str(file))["status"] == "present"
    assert bench.json("status")["status"] == "current"


ALL_KINDS: tuple[Step, ...] = (
    Evaluate("Base", "strings/util.jl", 3000, "export shiny, dull"),
    Evaluate("Base", "strings/util.jl", 3001, "for f in (:shiny, :dull)\n    @eval $f(x) = (x, $(QuoteNode(f)))\nend"),
    Evaluate("Base", "strings/util.jl", 3004, "import .Iterators: take"),
    Evaluate("Base", "strings/util.jl", 3005, '"""\nold\r\n"""\ncrlf() = """a\r\nb"""'),
    Evaluate("Base", "strings/util.jl", 3010, '#@ end\nmarked() = """\n#@ complete\n#| =# end"""'),
    Evaluate("Base", "strings/util.jl", 3020, 'module Inner\nexport thing\n"a doc"\nthing(x) = x\nend'),
    Evaluate("Base", "strings/util.jl", 3030, "macro later(x)\n    x\nend"),
    Evaluate("Base", "strings/util.jl", 3033, 'tabs() = "\t=#" #= end =#; uses() = @later 5  # no end'),
    Evaluate("Base", "strings/util.jl", 3034, "struct Thing{T} <: Real; x::T end"),
    Undocument("Base", "strings/util.jl", 141, 141),
    Unbind("Base", "chop"),
    Unexport("Base", "rstrip"),
    Delete("Base", "hex2bytes", "Tuple{typeof(Base.hex2bytes), AbstractString}"),
    Move("strings/util.jl", 174, 191, 10000),
    Move("strings/util.jl", 10174, 10191, 5),  # in lines of the base image nothing is there
)


def test_every_kind_of_step_in_plain_julia(bench: Bench, tmp_path: Path) -> None:
    file = tmp_path / "fix.jl"
    file.write_text(write(Revision(ALL_KINDS, ()), SOME))
    told = plain_julia(
        *(bench, tmp_path, "-L", str(file), "-e"),
        "println(shiny(1), dull(2), Base.take(1:3, 1), Base.marked(), Base.Inner.thing(3), Base.uses(), Base.tabs());"
        'println(Base.crlf() == "a\\nb", Base.Thing(3).x, isdefined(Base, :chop), :rstrip in names(Base));'
        'println(Base.rstrip("b "), hasmethod(hex2bytes, Tuple{SubString{String}}));'
        "for f in (shiny, Base.crlf, Base.marked, Base.Inner.thing, Base.uses) println(first(methods(f)).line) end;"
        "println(which(chomp, Tuple{AbstractString}).line, ' ', which(chomp, Tuple{String}).line);"
        "println(Base.Docs.Binding(Base, :chop) in keys(Base.Docs.meta(Base)))",
    )
    assert told.splitlines() == [
        "(1, :shiny)(2, :dull)" + "Base.Iterators.Take{UnitRange{Int64}}(1:3, 1)#@ complete",
        "#| =# end35\t=#",
        "true3falsefalse",
        "bfalse",
        *("3002", "3008", "3011", "3023", "3033"),
        "10185 192",
        "false",
    ]


def test_a_failing_step_tells_its_place(bench: Bench, tmp_path: Path) -> None:
    base_id = bench.json("status")["base_id"]
    failing = Revision((Evaluate("Base", "strings/util.jl", 800, "f(x::NoSuchType) = 1"),), ())
    file = tmp_path / "fix.jl"
    file.write_text(write(failing, replace(SOME, base=base_id)))
    done = bench.basedev("revision", "apply", str(file))
    assert done.returncode == 1
    assert f"{file}: strings/util.jl:800: a definition fails when it is evaluated" in done.stderr
    assert "NoSuchType not defined" in done.stderr
    assert not list((bench.storage.root / "images").glob("*"))
    with pytest.raises(AssertionError, match=r"(?s)NoSuchType not defined.*strings/util.jl:800.*fix.jl:\d+"):
        plain_julia(bench, tmp_path, "-L", str(file), "-e", "0")


def test_replay_leaves_arguments_alone(bench: Bench) -> None:
    bench.append("base/strings/util.jl", "\nlouder(s) = uppercase(s)\n")
    plain = ("run", "--replay", "--", "--startup-file=no")
    assert bench.basedev(*plain, "-e", 'print(Base.louder("e"), ARGS)', "x").stdout == 'E["x"]'
    assert bench.basedev(*plain, stdin='print(Base.louder("in"), isinteractive())').stdout == "INfalse"
    program = 'using Distributed; print(fetch(@spawnat 2 Base.louder("worker")))'
    assert bench.basedev(*plain, "-p", "1", "-e", program).stdout == "WORKER"
    assert bench.basedev(*plain, "-e", "exit(7)").returncode == 7
    told = bench.json("run", "--replay", "--", "--startup-file=no", "-e", "0")
    assert told["status"] == "replayed" and told["exit_code"] == 0 and told["definitions"]["evaluated"]
    assert not (bench.storage.root / "images").exists()


def test_replay_without_changes(bench: Bench) -> None:
    program = "print(Base.JLOptions().commands == C_NULL, names(Main; all=true))"
    assert bench.basedev("run", "--replay", "--", "-e", program).stdout == "false[:Base, :Core, :Main]"


def test_what_needs_a_full_rebuild_has_no_revision(bench: Bench) -> None:
    bench.edit("base/version.jl", "const VInt = UInt32", "const VInt = UInt64")
    for words in (("run", "--replay", "--", "-e", "0"), ("revision", "export"), ("revision", "show")):
        done = bench.basedev(*words)
        assert done.returncode == 3 and done.stdout == ""
        assert "no revision leads to these sources, only a full rebuild (basedev build): " in done.stderr


def test_export_overwrites_nothing(bench: Bench, tmp_path: Path) -> None:
    bench.append("base/strings/util.jl", "\nlouder(s) = uppercase(s)\n")
    file = tmp_path / "fix.jl"
    file.write_text("mine")
    done = bench.basedev("revision", "export", "-o", str(file))
    assert done.returncode == 2 and "add --force" in done.stderr and file.read_text() == "mine"
    assert bench.basedev("revision", "export", "-o", str(file), "--force").returncode == 0
    assert bench.basedev("revision", "export").stdout == file.read_text()
    assert list(tmp_path.iterdir()) == [file]
    done = bench.basedev("revision", "export", "-o", str(tmp_path / "nowhere/fix.jl"))
    assert done.returncode == 3 and "nowhere" in done.stderr


def test_show(bench: Bench, tmp_path: Path) -> None:
    bench.append("base/strings/util.jl", "\nlouder(s) = uppercase(s)\n")
    file = tmp_path / "fix.jl"
    assert bench.basedev("revision", "export", "-o", str(file)).returncode == 0
    shown = bench.basedev("revision", "show").stdout
    assert "base/strings/util.jl" in shown and "Base.louder(::Any) in strings/util.jl:706 added" in shown
    assert "Steps: 1 evaluate" in shown
    subprocess.run(["git", "-C", str(bench.root), "checkout", "-q", "--", "."], check=True)
    assert bench.basedev("revision", "show", str(file)).stdout == shown
    assert bench.json("revision", "show", str(file))["steps"] == {"evaluate": 1}
    assert "No steps" in bench.basedev("revision", "show").stdout


def test_apply_refuses_what_is_not_for_its_base_image(bench: Bench, tmp_path: Path) -> None:
    file = tmp_path / "fix.jl"
    file.write_text(write(TWO_STEPS, SOME))
    done = bench.basedev("revision", "apply", str(file))
    assert done.returncode == 2 and "is a revision of the base image 0123456789" in done.stderr
    assert bench.basedev("revision", "apply", str(tmp_path / "none.jl")).returncode == 2
    assert bench.basedev("revision", "apply", str(bench.root / "base/Base.jl")).returncode == 2
