"""Chained images of current Julia, on a checkout that its own makefile built with the patches, if BASEDEV_MODERN_JULIA
names one. Nothing of it is built anew, and each edited file gets back its time too: `make` finds nothing to do."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from conftest import Bench, put_in_place

from basedev.census import CensusEntry
from basedev.choice import FULL, image_id
from basedev.difference import FileDifference, Replacement
from basedev.engines.patched.census import KeptCensus, runs
from basedev.engines.patched.limits import check_difference
from basedev.errors import NeedsFullRebuild
from basedev.storage import Storage, file_digest
from basedev.syntax import Literal, Statement, Tree

UTIL = "base/strings/util.jl"
CHOMPS = {
    "function chomp(s::String)\n": "Base.chomp(::String)",
    "@assume_effects :removable :foldable function chomp(s::Union{String, SubString{String}})\n": (
        "Base.chomp(::Union{SubString{String}, String})"
    ),
}
"""How a method begins that much of Base calls, in one version of Julia or another, and what it is called."""


@dataclass
class Modern(Bench):
    """A checkout whose edits are taken back."""

    before: dict[Path, tuple[bytes, int]] = field(default_factory=dict)

    @property
    def chomp(self) -> tuple[str, str]:
        """How a method begins that much of Base calls, and what it is called."""
        text = (self.root / UTIL).read_text()
        [found] = [one for one in CHOMPS.items() if one[0] in text]
        return found

    def edit(self, path: str, old: str, new: str) -> None:
        """Replaces a text that stands exactly once in a source file."""
        self._keep(path)
        super().edit(path, old, new)

    def append(self, path: str, text: str) -> None:
        """Adds a text at the end of a source file."""
        self._keep(path)
        super().append(path, text)

    def _keep(self, path: str) -> None:
        file = self.root / path
        self.before.setdefault(file, (file.read_bytes(), file.stat().st_mtime_ns))

    def restore(self) -> None:
        """Takes back all edits."""
        for file, (contents, time) in self.before.items():
            file.write_bytes(contents)
            os.utime(file, ns=(time, time))
        self.before.clear()


@pytest.fixture(scope="module")
def adopted_modern(storage: Storage) -> Modern:
    """A checkout of current Julia on which `basedev init` was run."""
    named = os.environ.get("BASEDEV_MODERN_JULIA")
    if not named or not (Path(named) / "usr/lib/julia/sys.so").is_file():
        pytest.skip("BASEDEV_MODERN_JULIA names no checkout of current Julia that was built with the patches")
    made = Modern(Path(named), storage)
    assert made.basedev("init").returncode == 0
    return made


@pytest.fixture
def modern(adopted_modern: Modern) -> Iterator[Modern]:
    """The checkout with its sources as they were, before and after."""
    yield adopted_modern
    adopted_modern.restore()


def test_changed_method_its_callers_and_what_is_new(modern: Modern) -> None:
    chomp, called = modern.chomp
    modern.edit(UTIL, chomp, '"""\n    shout(s)\n"""\nshout(s) = string(s, LOUD)\nconst LOUD = "!"\n\n' + chomp)
    modern.edit(UTIL, chomp, chomp + '    s == "hello\\n" && return SubString("world")\n')
    plan = modern.json("status")
    assert (plan["status"], plan["engine"]) == ("chain", "patched")
    built = modern.chain()
    assert (built["status"], built["engine"], built["changed_files"]) == ("built", "patched", [UTIL])
    told = {(one["what"], one["change"]) for one in built["definitions"]["evaluated"]}
    assert {(called, "modified"), ("Base.shout(::Any)", "added")} <= told
    assert built["invalidated"] > 0
    program = 'print(chomp("hello\\n"), readchomp(`echo hello`), Base.shout(1), length(Base.LOUD))'
    assert modern.julia(built["image"], program) == "worldworld1!1"
    place = "print(functionloc(chomp, (String,))[2], ' ', functionloc(lpad, (String, Int))[2])"
    lines = (modern.root / UTIL).read_text().splitlines()
    expected = [lines.index(start.rstrip()) + 1 for start in (chomp, "function lpad(")]
    assert modern.julia(built["image"], place) == " ".join(map(str, expected))
    assert "shout(s)" in modern.julia(built["image"], "print(@doc Base.shout)")
    contents = Path(built["image"]).read_bytes()
    assert not any(word in contents for word in (b"basedev", b"revision.jl", b"STEPS"))
    assert modern.json("build")["status"] == "present"


def test_deleted_method(modern: Modern) -> None:
    chomp, called = modern.chomp
    text = (modern.root / UTIL).read_text()
    begin = text.index(chomp)
    modern.edit(UTIL, text[begin : text.index("\nend\n", begin) + 5], "")
    built = modern.chain()
    assert [one["what"] for one in built["definitions"]["deleted"]] == [called]
    assert modern.julia(built["image"], 'print(length(methods(chomp)), chomp("a\\n"))') == "1a"


GMPZ = "Symbol(:__gmpz_, op)"
"""In what `@eval` loops in `base/gmp.jl` call for the name of each C function."""


def test_methods_that_were_made_with_an_edited_function(modern: Modern) -> None:
    modern.edit("base/gmp.jl", GMPZ, "Symbol(:__gmpz_, op === :gcd ? :lcm : op)")
    built = modern.chain()
    told = {one["what"] for one in built["definitions"]["evaluated"]}
    assert {"Base.GMP.MPZ.gmpz(::Symbol)", "Base.GMP.MPZ.gcd(::GMP.BigInt, ::GMP.BigInt)"} <= told
    assert modern.julia(built["image"], "print(gcd(big(4), big(6)))") == "12"


def test_what_is_computed_alike_stays(modern: Modern) -> None:
    modern.edit("base/gmp.jl", GMPZ, 'Symbol("__gmpz_", op)')
    plan = modern.json("status")
    assert [one["what"] for one in plan["definitions"]["evaluated"]] == ["Base.GMP.MPZ.gmpz(::Symbol)"]


def test_a_full_rebuild_that_differs_is_told(modern: Modern) -> None:
    """What `make` builds is put into the store beforehand: a quarter of an hour is too long for a test."""
    chomp, called = modern.chomp
    modern.edit(UTIL, chomp, chomp + '    s == "hello\\n" && return SubString("world")\n')
    modern.append(UTIL, '\nconst LOUD = ("!", 3)\n\n"""\n    shout(s)\n"""\nshout(s) = string(s, LOUD[1])\n')
    right = modern.chain()
    full = image_id(FULL, file_digest(modern.root / "usr/lib/julia/sys.so"), right["sources_id"])
    put_in_place(modern, right["image_id"], full)
    found = modern.json("verify")
    assert (found["status"], found["differences"], found["native"]) == ("verified", [], {"more": 0, "fewer": 0})
    assert found["facts"] > 170000 and found["engine"] == "patched"
    text = (modern.root / UTIL).read_text()
    modern.edit(UTIL, 'SubString("world")', 'SubString("wrong")')
    modern.edit(UTIL, '("!", 3)', '("!", 4)')
    modern.edit(UTIL, '"""\n    shout(s)\n"""\n', "#\n#\n#\n")
    wrong = modern.chain()
    (modern.root / UTIL).write_text(text)
    put_in_place(modern, wrong["image_id"], full)
    done = modern.basedev("--json", "verify")
    assert done.returncode == 4, done.stderr
    told = json.loads(done.stdout)
    value, code, doc = told["differences"]
    assert (told["status"], told["full_image"]) == ("different", str(modern.storage.root / "images" / full / "sys.so"))
    assert value.startswith("value Base.LOUD: ") and '("!", 4) in the full rebuild' in value
    assert code.startswith(f"lowered code {called}: ") and '"wrong"' in code.split(" in the chained image, ")[1]
    assert doc.startswith("docstring Base.shout in Base Tuple{Any}: missing in the full rebuild")


LPAD = """function lpad(
    s::Union{AbstractChar,AbstractString},
    n::Integer,
    p::Union{AbstractChar,AbstractString}=' ',
)
"""
"""How a method begins that the compiler prints with."""
ISVISIBLE = "function isvisible(sym::Symbol, parent::Module, from::Module)\n"
"""What prints calls it: also in code of the compiler that was compiled for the newest world, which does not compile."""
BUILD_ID = "function module_build_id(m::Module)\n"
"""Is run where Base.jl makes the modules known that are loaded."""
SEMAPHORE = "mutable struct Semaphore\n    sem_size::Int\n"


def test_constructors_and_what_does_not_compile(modern: Modern) -> None:
    modern.edit("base/lock.jl", "Semaphore size must be > 0", "Semaphore size must be large")
    modern.edit("base/version.jl", "    idents = eachsplit(s, '.')\n", '    idents = eachsplit(s, ".")\n')
    modern.edit(UTIL, LPAD, LPAD + '    n == 77 && return "edited"\n')
    modern.edit("base/show.jl", ISVISIBLE, ISVISIBLE + "    sym === :edited && return true\n")
    modern.edit("base/loading.jl", BUILD_ID, BUILD_ID + "    m === Main && return UInt128(77)\n")
    built = modern.chain()
    told = {one["what"] for one in built["definitions"]["evaluated"]}
    assert {"Base.Semaphore(::Any)", "Base.split_idents(::AbstractString)"} <= told
    program = 'try Base.Semaphore(0) catch e; print(e.msg) end; print(v"1.2-a.1".prerelease, lpad("a", 77))'
    program += "; print(Base.isvisible(:edited, Base, Main), Base.module_build_id(Main))"
    expected = 'Semaphore size must be large("a", 0x0000000000000001)editedtrue77'
    assert modern.julia(built["image"], program) == expected


IRRATIONAL = "        const $esym = Irrational{$qsym}()\n"
"""A line of what `@irrational` makes of each of its uses."""


def test_lines_of_what_an_edited_function_made(modern: Modern) -> None:
    modern.edit("base/irrationals.jl", "    esym = esc(sym)\n", "    # the name\n    esym = esc(sym)\n")
    modern.edit("base/irrationals.jl", IRRATIONAL, IRRATIONAL + "\n")
    made = ["Base.Float64(::Irrational{$qsym}) = v64", "Base.Float32(::Irrational{$qsym}) = v32"]
    lines = [line.strip() for line in (modern.root / "base/irrationals.jl").read_text().splitlines()]
    code = "ccall(:jl_uncompress1_codeloc, NTuple{3,Int32}, (Any, Int), m.debuginfo.codelocs, 0)[1]"
    program = f"for T in (Float64, Float32); m = which(T, (typeof(pi),)); print(m.line, ' ', {code}, ' '); end"
    expected = [number for line in made for number in [lines.index(line) + 1] * 2]
    assert modern.julia(modern.chain()["image"], program).split() == list(map(str, expected))


ENUM = "    blk.head = :toplevel\n    return blk\n"
"""How `@enum` ends, which LinearAlgebra uses."""


def test_macro_that_a_standard_library_uses(modern: Modern) -> None:
    modern.edit("base/Enums.jl", ENUM, ENUM.replace("blk\n", "Base.replace_linenums!(blk, __source__)\n"))
    modern.edit("base/strings/lazy.jl", "macro lazy_str(text)\n", "macro lazy_str(text)\n    text === 1 && return\n")
    built = modern.chain()
    assert "Base.typemin(::Type{TCSETATTR_FLAGS})" in {one["what"] for one in built["definitions"]["evaluated"]}
    program = "using LinearAlgebra; m = which(typemin, (Type{LinearAlgebra.BlasFlag.BlasFunction},))"
    program += "; print(readlines(string(m.file))[m.line], LinearAlgebra.BlasFlag.NONE, [1.0 2; 3 4] * [1.0, 1])"
    text = modern.julia(built["image"], program)
    assert text == "@enum BlasFunction SYRK HERK GEMM SYMM HEMM NONENONE[3.0, 7.0]"


def test_macros_imports_and_exports(modern: Modern) -> None:
    modern.edit(
        "base/cartesian.jl", "Expr(:escape, Expr(:ref, A, vars...))", "Expr(:escape, Expr(:ref, Any[A, vars...]...))"
    )
    modern.edit("base/gmp.jl", "binomial, cmp,", "binomial, bitrotate, cmp,")
    modern.edit("base/gmp.jl", "end # MPQ module\n", "end # MPQ module\n\nbitrotate(x::BigInt, k::Integer) = x << k\n")
    modern.edit("base/exports.jl", "    chomp,\n", "    chomp,\n    shouted,\n")
    modern.edit("base/public.jl", "    isexported,\n", "    isexported,\n    whispered,\n")
    modern.append(UTIL, "\nshouted(s) = uppercase(s)\nwhispered(s) = lowercase(s)\n")
    built = modern.chain()
    told = {(one["what"], one["change"]) for one in built["definitions"]["evaluated"]}
    assert ("macro nref of Base.Cartesian", "modified") in told
    program = 'print(shouted("a"), Base.ispublic(Base, :whispered), bitrotate(big(3), 1))'
    assert modern.julia(built["image"], program) == "Atrue6"


HINT = "Experimental.register_error_hint(string_concatenation_hint_handler, MethodError)\n"


def test_constants_that_get_another_value(modern: Modern) -> None:
    modern.edit("base/terminfo_data.jl", "cub1 wraps from column 0 to last column", "Edited.")
    modern.edit("base/terminfo_data.jl", 'NCURSES_VERSION = v"6.4.', 'NCURSES_VERSION = v"1.4.')
    built = modern.chain()
    told = {(one["what"], one["change"]) for one in built["definitions"]["evaluated"]}
    assert ("constant NCURSES_VERSION of Base", "modified") in told
    program = "print(Base.NCURSES_VERSION, Base.TERM_FLAGS[1].description)"
    assert modern.julia(built["image"], program) == "1.4.20230311Edited."


def test_struct_with_other_fields(modern: Modern) -> None:
    modern.edit("base/lock.jl", SEMAPHORE, SEMAPHORE + "    most::Int\n")
    modern.edit("base/lock.jl", "new(sem_size, 0, Threads", "new(sem_size, sem_size, 0, Threads")
    built = modern.chain()
    program = "s = Base.Semaphore(2); Base.acquire(s); print(s.most, s.curr_cnt, length(methods(Base.acquire)))"
    program += (
        "; Base.release(s); print(s.curr_cnt, Base.acquire(() -> s.curr_cnt, s), length(methods(Base.Semaphore)))"
    )
    before = modern.julia(modern.root / "usr/lib/julia/sys.so", program.replace("s.most", "s.sem_size"))
    assert modern.julia(built["image"], program) == before


def test_struct_that_a_loop_defines_now(modern: Modern) -> None:
    text = (modern.root / "base/loading.jl").read_text()
    begin = text.index("struct SHA1\n")
    struct = text[begin : text.index("end\n", begin) + 4]
    loop = "for name in (:SHA1, :SHA2)\n    @eval struct $name\n        bytes::NTuple{20, UInt8}\n    end\nend\n"
    modern.edit("base/loading.jl", struct, loop)
    built = modern.chain()
    program = (
        "h = Base.SHA1(string(1, pad = 40)); print(h, Base.SHA2(h.bytes).bytes == h.bytes, length(methods(Base.SHA1)))"
    )
    before = modern.julia(modern.root / "usr/lib/julia/sys.so", program.replace("Base.SHA2", "Base.SHA1"))
    assert modern.julia(built["image"], program) == before


def test_handlers_of_errors_stay_in_order(modern: Modern) -> None:
    modern.edit(
        "base/errorshow.jl",
        HINT,
        HINT
        + 'hinted(io, ex, types, kwargs) = print(io, "Hinted.")\n'
        + HINT.replace("string_concatenation_hint_handler", "hinted"),
    )
    built = modern.chain()
    lines = (modern.root / "base/errorshow.jl").read_text().splitlines()
    begin, end = "Experimental.register_error_hint(", ", MethodError)"
    expected = [
        one.removeprefix(begin).removesuffix(end) for one in lines if one.startswith(begin) and one.endswith(end)
    ]
    program = "for one in Base.Experimental._hint_handlers[MethodError]; println(nameof(one)); end"
    assert modern.julia(built["image"], program).split() == expected
    program = 'print(length(Base.Experimental._hint_handlers), sprint(showerror, MethodError(+, ("a", "b"))))'
    told = modern.julia(built["image"], program)
    assert told.startswith("3") and told.index("concatenation") < told.index("Hinted.")


LIMITED = """
count = 0
for method in Base.MethodList(Core.methodtable).ms, instance in Base.specializations(method)
    code = isdefined(instance, :cache) ? instance.cache : nothing
    while code !== nothing
        edges = isdefined(code, :edges) ? code.edges : Core.svec()
        for place in 1:length(edges)-1
            is_several = edges[place] isa Int && abs(edges[place]) > 1 && code.max_world == typemax(UInt)
            global count += is_several && Base.unwrap_unionall(edges[place+1]).parameters[1] === typeof(lock)
        end
        code = isdefined(code, :next) ? code.next : nothing
    end
end
print(count, (typeof(f).name.max_methods for f in (lock, unlock, eltype))...)
"""
"""Prints how many calls of `lock` were inferred to be of several methods, and limits."""


def test_limits_of_methods(modern: Modern) -> None:
    limits = "typeof(lock).name.max_methods = UInt8(1)\ntypeof(unlock).name.max_methods = UInt8(4)\n"
    modern.edit("base/io.jl", "unlock(::IO) = nothing\n", "unlock(::IO) = nothing\n" + limits)
    modern.edit("base/tuple.jl", "typeof(function eltype end).name.max_methods = UInt8(4)\n", "")
    base = modern.julia(modern.root / "usr/lib/julia/sys.so", LIMITED)
    assert base.endswith("004") and base != "0004"
    assert modern.julia(modern.chain()["image"], LIMITED) == "0140"


ID_DICT = "        d = IdDict{K,V}()\n        for (k,v) in itr; d[k] = v; end\n"
"""In a constructor. The compiler uses another one, which is defined anew with this."""
INDEXED = "indexed_iterate(a::Array, i::Int, state=1) ="
"""Is called by the compiler."""


def test_what_the_compiler_uses_with_the_same_code(modern: Modern) -> None:
    modern.edit("base/iddict.jl", ID_DICT, "        itr === () && return IdDict{K,V}(:edited => 1)\n" + ID_DICT)
    modern.edit("base/tuple.jl", INDEXED, INDEXED.replace("Array", "Union{Array,Memory}"))
    program = "method_of(T) = which(Base.indexed_iterate, (T, Int, Int)); print(IdDict{Any,Any}(()))"
    program += (
        "; print(method_of(Memory{Int}) == method_of(Vector{Int}), method_of(Vector{Int}) == method_of(BitVector))"
    )
    assert modern.julia(modern.chain()["image"], program) == "IdDict{Any, Any}(:edited => 1)truefalse"


SHOWN = "print(io, b.mod, '.', Base.isoperator(b.var) ? "


def test_what_documents_definitions_alike(modern: Modern) -> None:
    modern.edit("base/docs/bindings.jl", SHOWN, "print(io, \"in \", b.mod, '.', Base.isoperator(b.var) ? ")
    program = "print(Base.Docs.Binding(Base, :chomp), sprint(show, @doc(chomp))[1:20])"
    before = modern.julia(modern.root / "usr/lib/julia/sys.so", program)
    assert modern.julia(modern.chain()["image"], program) == f"in {before}"


def test_error_of_syntax(modern: Modern) -> None:
    modern.append(UTIL, "function broken(\n")
    done = modern.basedev("build")
    assert done.returncode == 1
    assert f"{UTIL}:" in done.stderr


@pytest.mark.parametrize(
    ("path", "old", "new", "reason"),
    [
        (
            "base/strings/string.jl",
            "const _string_n_override = 0x04ee",
            "const _string_n_override = 0x04ef",
            "compiler",
        ),
        ("base/strings/util.jl", "function lpad(\n", "const Pair = 1\n\0", "Pair is bound to something else"),
        (
            "Compiler/src/utilities.jl",
            "function count_const_size(",
            "function count_const_size(a, b, c) end\n\0",
            "compiler",
        ),
        (
            "base/array.jl",
            "function push!(a::Vector{T}, item) where T\n",
            "\0    a === nothing && return a\n",
            "compiler",
        ),
        (
            "base/task.jl",
            "    letargs = Any[]  # store the new gensymed arguments\n",
            "\0    push!(letargs, :(lifted = nothing))\n",
            "top-level if in base/Base.jl",
        ),
        (
            "base/experimental.jl",
            "function register_error_hint(@nospecialize(handler), @nospecialize(exct::Type))\n",
            "\0    handler === nothing && return nothing\n",
            "runs what changed, and what it did can't be taken back",
        ),
        (
            "base/loading.jl",
            "    loaded_modules[key] = m\n    end\n    nothing\n",
            "    loaded_modules[key] = Main\n    end\n    nothing\n",
            "`register_root_module(Core)` in base/loading.jl",
        ),
        (
            "base/docs/Docs.jl",
            "    str.data[:binding] = b\n",
            "\0    str.data[:more] = b\n",
            "what documents definitions changed",
        ),
        (
            "base/docs/Docs.jl",
            "function loaddocs(docs::Base.CoreDocs.DocLinkedList)\n",
            "\0    docs === 1 && return\n",
            "what documents definitions changed",
        ),
        (
            "base/logging/logging.jl",
            "struct LogLevel\n    level::Int32\n",
            "\0    more::Int32\n    LogLevel(level) = new(level, 0)\n",
            "LogLevel is not what it was, and",
        ),
    ],
)
def test_refusals(modern: Modern, path: str, old: str, new: str, reason: str) -> None:
    modern.edit(path, old, new.replace("\0", old))
    assert reason in modern.refusal()


def statement(tree: Tree, documentation: Tree | None = None) -> Statement:
    """A statement with this tree."""
    return Statement((), 1, 1, "", tree, documentation, 0)


@pytest.mark.parametrize(
    ("tree", "does"),
    [
        (("call", "register", "handler"), True),
        (("call", "include", Literal("s", "a.jl")), False),
        (("call", "precompile", "f"), False),
        (("macrocall", "@deprecate", ("call", "f", "x"), ("call", "g", "x")), True),
        (("export", "f"), False),
        (("=", ("call", "f", ("::", "x", "T")), ("call", "g", "x")), False),
        (("=", ("call", "f", ("::", "x", ("call", "typeof", "g"))), "x"), False),
        (("=", ("call", "f", ("::", "x", ("call", "kinds", "T"))), "x"), True),
        (("=", ("where", ("call", "f", "x"), ("<:", "T", ("call", "kinds"))), "x"), True),
        (("=", ("call", "f", ("kw", "x", ("call", "g"))), "x"), False),
    ],
)
def test_which_statements_run_something(tree: Tree, does: bool) -> None:
    assert runs(statement(tree)) is does
    if tree[0] == "call":
        assert not runs(statement(tree, Literal("s", "documents a call")))


TAKE = ("using", (":", (".", ".", "Base"), (".", "a")))
TAKE_BOTH = (*TAKE[:1], (*TAKE[1], (".", "b")))
METHOD = ("=", ("call", "f", "x"), "x")
LIMITED_NAME = (".", ("call", "typeof", "f"), Literal("q", "name"))
LIMIT = ("=", (".", LIMITED_NAME, Literal("q", "max_methods")), ("call", "UInt8", "1"))


@pytest.mark.parametrize(
    ("old", "new", "chained"),
    [
        (None, METHOD, True),
        (("export", "a", "b"), ("export", "b"), True),
        (TAKE, TAKE_BOTH, True),
        (TAKE_BOTH, TAKE, False),
        (None, ("import", (".", "Base", "a")), False),
        (("const", ("=", "a", "1")), ("const", ("=", "a", "2")), True),
        (("const", ("=", "a", "1")), ("const", ("=", "b", "2")), False),
        (LIMIT, None, True),
        (None, ("const", ("=", "a", "2")), True),
        (("macro", ("call", "m"), "x"), None, True),
        (("if", ("call", "==", "a", "b"), ("block", METHOD), ("block",)), None, True),
        (("if", ("call", "==", "a", "b"), ("block", TAKE)), None, False),
        (("if", ("call", "isdefined", "Main", "a"), ("block", METHOD)), None, False),
        (None, ("macrocall", "@deprecate", ("call", "f", "x"), ("call", "g", "x")), True),
        (None, ("call", "register", "handler"), False),
        (None, ("call", (".", "Experimental", Literal("q", "register_error_hint")), "handler", "T"), True),
        (("struct", False, "A", ("block", METHOD)), ("struct", False, "A", ("block",)), True),
        (("struct", False, "A", ("block",)), ("struct", False, "B", ("block",)), False),
        (("struct", False, "A", ("block",)), None, False),
        (("if", "a", ("block", ("const", ("=", "b", "1")))), ("if", "a", ("block", METHOD)), True),
        (("if", "a", ("block", ("const", ("=", "b", "1")))), ("if", "c", ("block", METHOD)), False),
        (("for", ("=", "a", "b"), ("block", ("=", "c", ("call", "Symbol", "a")), METHOD)), None, True),
        (("for", ("=", "a", "b"), ("block", ("=", "c", ("call", "push!", "d", "a")), METHOD)), None, False),
    ],
)
def test_differences_that_are_chained(old: Tree, new: Tree, chained: bool) -> None:
    difference = FileDifference(
        removed=[statement(old)] if old else [], evaluated=[Replacement("x.jl", statement(new))] if new else []
    )
    with nullcontext() if chained else pytest.raises(NeedsFullRebuild, match=r"in x\.jl:1"):
        check_difference("x.jl", difference)


def test_docstrings_of_what_is_not_defined_there_are_chained() -> None:
    signature, keyword = ("call", "all", "f", ("::", "AbstractArray")), ("macrocall", "@kw_str", Literal("s", "do"))
    documented = [statement(tree, Literal("s", "Tells.")) for tree in (signature, keyword)]
    replacements = [Replacement("x.jl", one) for one in documented]
    check_difference("x.jl", FileDifference(removed=documented, evaluated=replacements))


def test_statements_that_cannot_be_evaluated_again(tmp_path: Path) -> None:
    entries = [
        CensusEntry("base/a.jl", 3, "Base", 3, "const A = first_of(list)", "0" * 16),
        CensusEntry("base/a.jl", 4, "Base", 4, "const B = last_of(list)", "12" * 8),
    ]
    census = KeptCensus(tmp_path, entries, None, len(entries), {})
    census.check_failing([1], {"last_of", "first"})
    with pytest.raises(NeedsFullRebuild, match=r"`const A = .*` in base/a\.jl:3"):
        census.check_failing([0], set())
    with pytest.raises(NeedsFullRebuild, match=r"base/a\.jl:3"):
        census.check_failing([], {"first_of"})


def test_julias_own_tests(modern: Modern) -> None:
    modern.append(UTIL, "\nshouted(s) = uppercase(s)\n")
    built = modern.chain()
    assert modern.julia(built["image"], 'print(Base.shouted("a"))') == "A"
    done = modern.basedev("test", "strings/util")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCESS" in done.stdout
