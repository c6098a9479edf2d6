"""Edits of every kind that the engine chains: the image behaves as edited, and says what was done."""

from __future__ import annotations

from conftest import Bench

GETINDEX = "    between(b, 0x80, 0xf7) || return reinterpret(Char, u)\n    return getindex_continued"
"""In a method that hundreds of statements ran while Julia was built."""


def changes(result: dict[str, object]) -> set[tuple[str, str]]:
    """What happened to which definition."""
    told = result["definitions"]
    assert isinstance(told, dict)
    return {(one["what"], one["change"]) for kind in told.values() for one in kind}


def test_modified_method(bench: Bench) -> None:
    bench.edit(
        "base/strings/util.jl",
        "function chomp(s::String)\n    i = lastindex(s)",
        'function chomp(s::String)\n    s == "x" && return SubString("edited")\n    i = lastindex(s)',
    )
    built = bench.chain()
    assert changes(built) == {("Base.chomp(::String)", "modified")}
    assert built["engine"] == "stock-1.5"
    assert built["invalidated"] > 600  # callers of chomp, by Julia's own rule
    assert 0 < built["recompiled"] < 10  # what it calls newly, and itself
    assert bench.julia(built["image"], 'print(chomp("x"), chomp("line\\n"), strip(" a "))') == "editedlinea"


def test_inlined_callee_of_native_code(bench: Bench) -> None:
    # `isdigit` is inlined into its callers: their old code must not be used any more
    bench.edit(
        "base/strings/unicode.jl",
        "isdigit(c::AbstractChar) = (c >= '0') & (c <= '9')",
        "isdigit(c::AbstractChar) = ((c >= '0') & (c <= '9')) | (c == 'x')",
    )
    built = bench.chain()
    assert built["invalidated"] > 100 > built["recompiled"] > 10
    assert bench.julia(built["image"], "print(isdigit('x'), all(isdigit, \"12x\"), isdigit('y'))") == "truetruefalse"


def test_added_methods_and_functions(bench: Bench) -> None:
    bench.append(
        "base/strings/util.jl",
        "\nchomp(s::SubString{String}, n::Int) = n == 0 ? s : chomp(chomp(s), n - 1)\n"
        "quoted(s::AbstractString; with::Char='*') = string(with, s, with)\n",
    )
    built = bench.chain()
    assert changes(built) == {
        ("Base.chomp(::SubString{String}, ::Int64)", "added"),
        ("Base.quoted(::AbstractString)", "added"),
    }
    code = 'print(chomp(SubString("a\\n\\n"), 2), Base.quoted("q"), Base.quoted("q"; with=\'-\'))'
    assert bench.julia(built["image"], code) == "a*q*-q-"


def test_more_specific_method_takes_over(bench: Bench) -> None:
    # calls that native code makes of the general method must reach the new one
    bench.append("base/strings/util.jl", '\nlpad(s::String, n::Int, p::Char) = "taken over"\n')
    built = bench.chain()
    assert bench.julia(built["image"], 'print(lpad("a", 3, ), lpad("a", 3))') == "taken overtaken over"


def test_deleted_method(bench: Bench) -> None:
    bench.edit("base/strings/util.jl", "hex2bytes(s::AbstractString) = hex2bytes(String(s))\n", "")
    built = bench.chain()
    assert changes(built) == {("Base.hex2bytes(::AbstractString)", "deleted")}
    code = 'print(hex2bytes("61"), hasmethod(hex2bytes, Tuple{SubString{String}}), length(methods(hex2bytes)))'
    assert bench.julia(built["image"], code) == "UInt8[0x61]false1"


def test_changed_signature_ends_the_old_method(bench: Bench) -> None:
    bench.edit(
        "base/strings/util.jl",
        "hex2bytes(s::AbstractString) = hex2bytes(String(s))",
        "hex2bytes(s::SubString) = hex2bytes(String(s))",
    )
    built = bench.chain()
    kinds = sorted(kind for _, kind in changes(built))
    assert kinds == ["added", "deleted"]
    code = "print(hasmethod(hex2bytes, Tuple{SubString{String}}), hasmethod(hex2bytes, Tuple{AbstractString}))"
    assert bench.julia(built["image"], code) == "truefalse"


def test_eval_loop(bench: Bench) -> None:
    bench.append(
        "base/strings/util.jl",
        "\nfor (name, n) in ((:twice, 2), (:thrice, 3))\n    @eval $name(s::AbstractString) = s^$n\nend\n",
    )
    built = bench.chain()
    assert {what for what, _ in changes(built)} == {"Base.twice(::AbstractString)", "Base.thrice(::AbstractString)"}
    assert bench.julia(built["image"], 'print(Base.twice("a"), Base.thrice("b"))') == "aabbb"


def test_docstrings(bench: Bench) -> None:
    bench.edit("base/strings/util.jl", "Remove a single trailing newline from a string.", "Edited documentation.")
    bench.append("base/strings/util.jl", '\n"""\n    louder(s)\n\nUpper case.\n"""\nlouder(s::String) = uppercase(s)\n')
    built = bench.chain()
    assert built["recompiled"] == 0 or built["invalidated"] == 0  # documenting is not defining
    shown = bench.julia(built["image"], "print(Base.Docs.doc(chomp), Base.Docs.doc(Base.louder))")
    assert "Edited documentation." in shown and "Upper case." in shown and "single trailing" not in shown


def test_keyword_method(bench: Bench) -> None:
    bench.edit(
        "base/strings/util.jl",
        "function split(str::T, splitter;",
        "function split(str::T, splitter::Missing; limit::Integer=0, keepempty::Bool=true) where {T<:AbstractString}\n"
        '    ["split", string(limit)]\nend\n\nfunction split(str::T, splitter;',
    )
    built = bench.chain()
    assert bench.julia(built["image"], 'print(split("a,b", missing; limit=7), split("a,b", ","))') == (
        '["split", "7"]SubString{String}["a", "b"]'
    )


def test_file_with_several_modules(bench: Bench) -> None:
    bench.edit(
        "base/meta.jl",
        "isexpr(@nospecialize(ex), head::Symbol) = isa(ex, Expr) && ex.head === head",
        "isexpr(@nospecialize(ex), head::Symbol) = head === :edited || isa(ex, Expr) && ex.head === head",
    )
    built = bench.chain()
    assert {what.split("(")[0] for what, _ in changes(built)} == {"Base.Meta.isexpr"}
    assert bench.julia(built["image"], "print(Meta.isexpr(1, :edited))") == "true"


def test_standard_library(bench: Bench) -> None:
    bench.append("stdlib/Base64/src/encode.jl", '\nbase64encode(::Nothing) = "nothing"\n')
    built = bench.chain()
    assert changes(built) == {("Base64.base64encode(::Nothing)", "added")}
    assert bench.julia(built["image"], 'using Base64; print(base64encode(nothing), base64encode("a"))') == "nothingYQ=="


def test_moved_methods_know_their_lines(bench: Bench) -> None:
    path = bench.root / "base/strings/util.jl"
    path.write_text("# one line more\n" + path.read_text())
    built = bench.chain()
    assert built["definitions"] == {"evaluated": [], "deleted": []}
    line = 1 + path.read_text().split("function chomp(s::String)")[0].count("\n")
    assert bench.julia(built["image"], "print(which(chomp, (String,)).line)") == str(line)


def test_new_names(bench: Bench) -> None:
    bench.append(
        "base/strings/util.jl",
        """
const ROUND_BRACKETS = ("(", ")")
abstract type Bracketed end
struct Quoted{T<:AbstractString} <: Bracketed
    text::T
    Quoted(text::T) where {T} = new{T}(ROUND_BRACKETS[1] * text * ROUND_BRACKETS[2])
end
macro quoted_string(text)
    :(Quoted($(esc(text))).text)
end
quoted_name(x) = @quoted_string(string(x))
""",
    )
    bench.edit("base/exports.jl", "    chomp,\n", "    chomp,\n    quoted_name,\n")
    built = bench.chain()
    added = {what for what, change in changes(built) if change == "added"}
    assert {"constant ROUND_BRACKETS of Base", "struct Quoted of Base", "export quoted_name of Base"} <= added
    code = (
        'print(quoted_name(1), Base.Quoted("a") isa Base.Bracketed, isconst(Base, :ROUND_BRACKETS),'
        " Base.isexported(Base, :quoted_name), Base.isexported(Base, :chomp), Base.isexported(Base, :Quoted))"
    )
    assert bench.julia(built["image"], code) == "(1)truetruetruetruefalse"


def test_file_shared_with_the_compiler(bench: Bench) -> None:
    # array.jl is a part of Core.Compiler too, which does not use `reverse!`
    head = "function reverse!(v::AbstractVector, s=first(LinearIndices(v)), n=last(LinearIndices(v)))\n"
    bench.edit("base/array.jl", head, head + '    n == -77 && return "edited"\n')
    line = 1 + (bench.root / "base/array.jl").read_text().split(head)[0].count("\n")
    built = bench.chain()
    assert all(what.startswith("Base.reverse!(") for what, _ in changes(built))
    code = (
        "print(reverse!([1], 1, -77), Core.Compiler.reverse!([1], 1, -77), reverse!([1, 2]),"
        " [only(methods(m.reverse!, (Vector{Int}, Int, Int))).line for m in (Base, Core.Compiler)])"
    )
    assert bench.julia(built["image"], code) == f"editededited[2, 1]Int32[{line}, {line}]"


def test_constant_that_comes_out_otherwise_with_a_method_that_many_run(bench: Bench) -> None:
    # so many statements that the image is asked for what they give, and not used for its answer
    bench.edit(
        "base/strings/string.jl",
        GETINDEX,
        "    i == 1 && s == \"HH:MM:SS.s\" && return 'I'\n" + GETINDEX,
    )
    built = bench.chain()
    assert ("constant ISOTimeFormat of Dates", "modified") in changes(built)
    assert bench.julia(built["image"], "using Dates; print(Dates.ISOTimeFormat)") == 'dateformat"II:MM:SS.s"'


def test_image_is_asked_for_what_many_statements_give(bench: Bench) -> None:
    bench.edit(
        "base/strings/string.jl",
        GETINDEX,
        "    u == 0x01000000 && return 'q'\n" + GETINDEX,
    )
    built = bench.chain()
    assert "results" in built["timings"]
    assert bench.julia(built["image"], 'print("\\x01a"[1])') == "q"
