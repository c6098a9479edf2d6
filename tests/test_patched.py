"""Chained images of current Julia, on a checkout that its own makefile built with the patches, if BASEDEV_MODERN_JULIA
names one. Nothing of it is built anew, and each edited file gets back its time too: `make` finds nothing to do."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from conftest import Bench, put_in_place, start, stop_servers, wait_until

from basedev.census import CensusEntry
from basedev.checkout import Checkout
from basedev.choice import FULL, image_id
from basedev.commits import CommitCheckout
from basedev.difference import FileDifference, Replacement
from basedev.elf import ImageSymbols, places
from basedev.engines.patched import imagefile
from basedev.engines.patched.baseimage import MAIN_OF_PARSER
from basedev.engines.patched.census import KeptCensus, runs
from basedev.engines.patched.host_program import Host
from basedev.engines.patched.hostimage import STATEMENTS, make_host_image
from basedev.engines.patched.limits import check_difference
from basedev.engines.patched.makefile import make
from basedev.engines.patched.runtime import OBJECTS, Runtime
from basedev.engines.patched.server import LOADED
from basedev.errors import NeedsFullRebuild, SetupError, UserCodeError
from basedev.places import suffix
from basedev.servers import Server, Servers
from basedev.sourcefiles import PARSER, roots_of
from basedev.sources import Sources
from basedev.storage import Storage, file_digest
from basedev.store import Store
from basedev.syntax import Literal, Statement, Tree
from basedev.workflows import testing
from basedev.workflows.build_patched import PatchedBuilder, not_loaded
from basedev.workflows.verify import compare, describe, native_difference

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
    made: list[Path] = field(default_factory=list)

    @property
    def image(self) -> Path:
        """What `make` built."""
        return self.root / self.checkout.sysimage

    @property
    def chomp(self) -> tuple[str, str]:
        """How a method begins that much of Base calls, and what it is called."""
        text = self.file(UTIL).read_text()
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

    def prepend(self, path: str, text: str) -> None:
        """Adds a text at the beginning of a source file."""
        self._keep(path)
        file = self.file(path)
        file.write_text(text + file.read_text())

    def create(self, path: str, text: str) -> None:
        """Makes a new source file."""
        places = [Path(root, path) for root in roots_of(os.fspath(self.root))]
        self.made.append(next(place for place in places if place.parent.is_dir()))
        self.made[-1].write_text(text)

    def delete(self, path: str) -> None:
        """Removes a source file."""
        self._keep(path)
        self.file(path).unlink()

    def library(self, name: str) -> str:
        """The directory of a standard library, which may have been fetched."""
        places = [Path(one, "stdlib") for one in roots_of(os.fspath(self.root))]
        [found] = [one for place in places for kind in (name, f"{name}-*") for one in place.glob(kind)]
        return f"stdlib/{found.name}"

    def parser(self, name: str) -> str:
        """A source file of the parser, in whatever directory of it."""
        [found] = (self.root / PARSER / "src").rglob(name)
        return os.fspath(found.relative_to(self.root))

    def git(self, *words: str) -> str:
        """What git prints."""
        return subprocess.run(
            ["git", *words], cwd=self.checkout.tree, capture_output=True, text=True, check=True
        ).stdout

    def _keep(self, path: str) -> None:
        file = self.file(path)
        self.before.setdefault(file, (file.read_bytes(), file.stat().st_mtime_ns))

    def restore(self) -> None:
        """Takes back all edits."""
        for file, (contents, written) in self.before.items():
            file.write_bytes(contents)
            os.utime(file, ns=(written, written))
        self.before.clear()
        for file in self.made:
            file.unlink()
        self.made.clear()


@pytest.fixture(scope="module")
def adopted_modern(storage: Storage) -> Modern:
    """A checkout of current Julia on which `basedev init` was run."""
    named = os.environ.get("BASEDEV_MODERN_JULIA")
    if not named or not (Path(named) / Checkout(Path(named)).sysimage).is_file():
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
    lines = modern.file(UTIL).read_text().splitlines()
    expected = [lines.index(start.rstrip()) + 1 for start in (chomp, "function lpad(")]
    assert modern.julia(built["image"], place) == " ".join(map(str, expected))
    assert "shout(s)" in modern.julia(built["image"], "print(@doc Base.shout)")
    contents = Path(built["image"]).read_bytes()
    assert not any(word in contents for word in (b"basedev", b"revision.jl", b"STEPS"))
    assert modern.json("build")["status"] == "present"


def test_deleted_method(modern: Modern) -> None:
    chomp, called = modern.chomp
    text = modern.file(UTIL).read_text()
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
    base = Store(modern.storage).find("bases", right["base_id"])
    assert base
    sources = Sources.read(modern.root).of_images(base.manifest["included"])
    full = image_id(FULL, file_digest(modern.image), sources.id)
    put_in_place(modern, right["image_id"], full)
    found = modern.json("verify")
    assert (found["status"], found["differences"], found["native"]) == ("verified", [], {"more": 0, "fewer": 0})
    assert found["facts"] > 170000 and found["engine"] == "patched"
    text = modern.file(UTIL).read_text()
    modern.edit(UTIL, 'SubString("world")', 'SubString("wrong")')
    modern.edit(UTIL, '("!", 3)', '("!", 4)')
    modern.edit(UTIL, '"""\n    shout(s)\n"""\n', "#\n#\n#\n")
    wrong = modern.chain()
    modern.file(UTIL).write_text(text)
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
    lines = [line.strip() for line in modern.file("base/irrationals.jl").read_text().splitlines()]
    code = "ccall(:jl_uncompress1_codeloc, NTuple{3,Int32}, (Any, Int), m.debuginfo.codelocs, 0)[1]"
    program = f"for T in (Float64, Float32); m = which(T, (typeof(pi),)); print(m.line, ' ', {code}, ' '); end"
    expected = [number for line in made for number in [lines.index(line) + 1] * 2]
    assert modern.julia(modern.chain()["image"], program).split() == list(map(str, expected))


QUOTED = """
function quoted(part, file)
    part isa LineNumberNode && part.file === Symbol(file) && print(part.line, ' ')
    part isa Expr && foreach(one -> quoted(one, file), part.args)
    part isa QuoteNode && quoted(part.value, file)
end
loop(name) = Expr(:macrocall, name, LineNumberNode(1), Meta.parse("for i in 1:2\\n i\\n end"))
"""
"""Prints the lines of a file in code."""


SHORT_FORM = "order::Ordering=Forward) =\n    partialsort!(v, k, ord(lt,by,rev,order))\n"


def test_lines_that_only_the_first_parser_gives(modern: Modern) -> None:
    """What Base is parsed with, until Julia's own parser is there, has another line for the body of such a method."""
    modern.edit("base/sort.jl", SHORT_FORM, SHORT_FORM.replace("k, ord", "identity(k), ord"))
    built = modern.chain()
    program = (
        "print([m.line for m in methods(partialsort!)], partialsort!([3, 1, 2], 2, rev = true), "
        "[m.line for m in methods(Core.kwcall, (Any, typeof(partialsort!), Vararg{Any}))])"
    )
    assert modern.julia(built["image"], program) == modern.julia(modern.image, program)


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("base/simdloop.jl", 'macroexpand(Main, loop(Symbol("@simd")))'),  # with native code, which has lines
        ("base/threadingconstructs.jl", 'macroexpand(Main, loop(:(Threads.var"@threads")))'),
    ],
)
def test_lines_in_quoted_code_that_moved(modern: Modern, path: str, code: str) -> None:
    program = f"{QUOTED}\nquoted({code}, {json.dumps(path.removeprefix('base/'))})"
    before = modern.julia(modern.image, program).split()
    modern.prepend(path, "#\n#\n")
    after = modern.julia(modern.chain()["image"], program).split()
    assert len(before) > 5
    assert after == [str(int(line) + 2) for line in before]


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


def test_macro_that_the_parser_uses(modern: Modern) -> None:
    file, begin, end = "base/deprecated.jl", ":($(esc(old)) = begin\n", "$(esc(new))\n              end)"
    modern.edit(file, begin, f"replace_linenums!({begin}")
    modern.edit(file, end, f"{end}, __source__)")
    place = "m = only(methods(Base.JuliaSyntax.haschildren)); print(readlines(string(m.file))[m.line])"
    assert modern.julia(modern.chain()["image"], place) == "@deprecate haschildren(x) !is_leaf(x) false"


SHOWS = "function show_unquoted(io::IO, ex::Expr, indent::Int, prec::Int, quote_level::Int = 0)\n"
"""What `@deprecate` runs for its message."""


def test_function_that_a_macro_runs_for_the_parser(modern: Modern) -> None:
    modern.edit("base/show.jl", SHOWS, SHOWS + '    ex == :(haschildren(x)) && return print(io, "edited")\n')
    told = {one["what"] for one in modern.json("status")["definitions"]["evaluated"]}
    assert {f"Base.show_unquoted(::IO, ::Expr{3 * ', ::Int64'})", "Base.JuliaSyntax.haschildren(::Any)"} <= told


def test_the_parser_itself(modern: Modern) -> None:
    kinds, api = modern.parser("kinds.jl"), modern.parser("parser_api.jl")
    modern.edit(kinds, "macro K_str(s)\n", "macro K_str(s)\n    s === :edited && return\n")
    modern.append(api, '\n"Is new."\nedited(k::Kind) = k == K"while"\n')
    built = modern.chain()
    assert built["changed_files"] == [kinds, api]
    place = 'm = only(methods(edited)); print(readlines(string(m.file))[m.line], edited(K"while"))'
    program = f'using Base.JuliaSyntax: edited, @K_str; {place}; print(Meta.parse("a + 1"), @doc edited)'
    told = modern.julia(built["image"], program)
    assert told.startswith('edited(k::Kind) = k == K"while"truea + 1') and "Is new." in told


def test_another_version_of_the_parser(modern: Modern) -> None:
    commit = (modern.root / PARSER).resolve().name.rpartition("-")[2]
    modern.edit("deps/JuliaSyntax.version", commit, commit[::-1])
    refusal = f"deps/JuliaSyntax.version names another commit than {modern.checkout.sysimage} was made with"
    assert refusal in modern.refusal()


def test_a_new_file_of_the_parser(modern: Modern) -> None:
    modern.create(f"{PARSER}/src/fresh.jl", "fresh(x) = 3x\n")
    modern.edit(MAIN_OF_PARSER, 'include("utils.jl")\n', 'include("utils.jl")\ninclude("fresh.jl")\n')
    assert f"{PARSER}/src/fresh.jl is new, and Julia does not record what its parser includes" in modern.refusal()


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
    before = modern.julia(modern.image, program.replace("s.most", "s.sem_size"))
    assert modern.julia(built["image"], program) == before


EXACT_NAME = "UV_PROCESS_WINDOWS_DISABLE_EXACT_NAME"
CPU_INFO = "UV_cpu_info_t"


def test_constants_and_types_that_are_gone(modern: Modern) -> None:
    modern.edit("base/cmd.jl", f"const {EXACT_NAME} = UInt32(1 << 7)\n", "")
    modern.edit("base/process.jl", EXACT_NAME, "UInt32(1 << 7)")
    text = modern.file("base/sysinfo.jl").read_text()
    modern.edit("base/sysinfo.jl", text, text.replace(CPU_INFO, "Processor"))
    built = modern.chain()
    told = {one["what"] for one in built["definitions"]["deleted"]}
    assert {f"constant {EXACT_NAME} of Base", f"struct {CPU_INFO} of Base.Sys"} <= told
    program = (
        f"gone = ((Base, :{EXACT_NAME}), (Base.Sys, :{CPU_INFO})); "
        "print([isdefined(m, name) || name in names(m; all = true) for (m, name) in gone] == [false, false], "
        "isempty(Sys.cpu_info()), Base.Sys.Processor, read(`echo here`, String))"
    )
    assert modern.julia(built["image"], program) == "truefalseBase.Sys.Processorhere\n"


def test_a_constant_that_is_gone_and_still_needed(modern: Modern) -> None:
    modern.edit("base/cmd.jl", f"const {EXACT_NAME} =", "const EXACT_NAME =")
    built = modern.chain()
    program = f"print(isdefined(Base, :{EXACT_NAME}), Base.EXACT_NAME); run(`true`)"
    command = [modern.checkout.julia, "-J", built["image"], "--startup-file=no", "-e", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "false128")
    assert f"UndefVarError: `{EXACT_NAME}` not defined in `Base`" in done.stderr


def test_what_is_taken_back_before_a_type_is_another(modern: Modern, tmp_path: Path) -> None:
    """Those methods that name it, since they are told by names; all others are there until what follows on them is."""
    modern.edit("base/lock.jl", SEMAPHORE, SEMAPHORE + "    most::Int\n")
    modern.edit("base/lock.jl", "new(sem_size, 0, Threads", "new(sem_size, sem_size, 0, Threads")
    addresses = "stdlib/Sockets/src/addrinfo.jl"
    text = modern.file(addresses).read_text()
    begin = text.index(SHOWN_ERROR)
    modern.edit(addresses, text[begin : text.index("\nend\n", begin) + 5], "")
    modern.edit(
        "base/sysimg.jl", "Evaluate an expression in the global scope", "Evaluate what is given in the global scope"
    )
    modern.json("revision", "export", "-o", str(tmp_path / "made.jl"))
    steps = [line for line in (tmp_path / "made.jl").read_text().splitlines() if line.startswith("#@ ")]
    kinds = [line.split()[1] for line in steps]
    named = [number for number, line in enumerate(steps) if kinds[number] == "delete" and "Base.Semaphore" in line]
    assert named and max(named) < kinds.index("unbind") < kinds.index("evaluate")
    [shown] = [number for number, line in enumerate(steps) if kinds[number] == "delete" and "DNSError" in line]
    evaluated = [number for number, kind in enumerate(kinds) if kind == "evaluate"]
    assert shown > evaluated[-1]
    assert "sysimg.jl" in steps[evaluated[-1]]


def test_struct_that_a_loop_defines_now(modern: Modern) -> None:
    text = modern.file("base/loading.jl").read_text()
    begin = text.index("struct SHA1\n")
    struct = text[begin : text.index("end\n", begin) + 4]
    loop = "for name in (:SHA1, :SHA2)\n    @eval struct $name\n        bytes::NTuple{20, UInt8}\n    end\nend\n"
    modern.edit("base/loading.jl", struct, loop)
    built = modern.chain()
    program = (
        "h = Base.SHA1(string(1, pad = 40)); print(h, Base.SHA2(h.bytes).bytes == h.bytes, length(methods(Base.SHA1)))"
    )
    before = modern.julia(modern.image, program.replace("Base.SHA2", "Base.SHA1"))
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
    lines = modern.file("base/errorshow.jl").read_text().splitlines()
    begin, end = "Experimental.register_error_hint(", ", MethodError)"
    expected = [
        one.removeprefix(begin).removesuffix(end) for one in lines if one.startswith(begin) and one.endswith(end)
    ]
    program = "all = Base.Experimental._hint_handlers; key = keytype(all) === Type ? MethodError : MethodError.name"
    program += "; for one in all[key]; println(nameof(one isa Tuple ? one[2] : one)); end"
    assert modern.julia(built["image"], program).split() == expected
    program = 'print(length(Base.Experimental._hint_handlers), sprint(showerror, MethodError(+, ("a", "b"))))'
    told = modern.julia(built["image"], program)
    assert told.startswith("3") and told.index("concatenation") < told.index("Hinted.")


LIMITED = """
most = 0
for method in Base.MethodList(Core.methodtable).ms, instance in Base.specializations(method)
    code = isdefined(instance, :cache) ? instance.cache : nothing
    while code !== nothing
        edges = isdefined(code, :edges) ? code.edges : Core.svec()
        for place in 1:length(edges)-1
            is_call = edges[place] isa Int && code.max_world == typemax(UInt)
            is_call && Base.unwrap_unionall(edges[place+1]).parameters[1] === typeof(lock) || continue
            global most = max(most, abs(edges[place]))
        end
        code = isdefined(code, :next) ? code.next : nothing
    end
end
print(most, ' ', typeof(lock).name.max_methods)
"""
"""Prints of how many methods a call of `lock` was inferred to be at most, and the limit."""


@pytest.mark.parametrize("limit", [1, 2])
def test_limits_of_methods(modern: Modern, limit: int) -> None:
    unlock = "unlock(::IO) = nothing\n"
    modern.edit("base/io.jl", unlock, f"{unlock}typeof(lock).name.max_methods = UInt8({limit})\n")
    most, before = map(int, modern.julia(modern.image, LIMITED).split())
    assert most > limit and before == 0
    most, limited = map(int, modern.julia(modern.chain()["image"], LIMITED).split())
    assert most <= limited == limit


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
    before = modern.julia(modern.image, program)
    assert modern.julia(modern.chain()["image"], program) == f"in {before}"


CARRIES = "    0x5a827999, 0x6ed9eba1,"
"""A constant of SHA-1."""
TRACE = "tr(x::Number) = x\n"
PARSED = "macro ip_str(str::String)\n    return parse(IPAddr, str)\n"
SHOWN_ERROR = "function show(io::IO, err::DNSError)\n"
ERROR_FIELDS = "    host::String\n    code::Int32\n"
FIRST_INCLUDE = 'include("IPAddr.jl")\n'


def test_standard_libraries_in_the_image(modern: Modern) -> None:
    sha, algebra = modern.library("SHA"), modern.library("LinearAlgebra")
    modern.edit(f"{sha}/src/constants.jl", CARRIES, CARRIES.replace("7999", "7998"))
    modern.edit(f"{algebra}/src/generic.jl", "function tr(A)\n", "function tr(A)\n    A === :edited && return 77\n")
    modern.edit(f"{algebra}/src/generic.jl", TRACE, f'{TRACE}"Shouted."\nshouted(; by=1) = by\nexport shouted\n')
    modern.edit(
        "stdlib/Sockets/src/IPAddr.jl", PARSED, PARSED.replace("parse(", ":(identity($(parse(", 1)[:-1] + ")))\n"
    )
    built = modern.chain()
    told = {(one["what"], one["change"]) for one in built["definitions"]["evaluated"]}
    assert {("constant K1 of SHA", "modified"), ("constant localhost of Sockets", "modified")} <= told
    program = (
        'using SHA, LinearAlgebra, Sockets; print(SHA.K1[1] % Int16, bytes2hex(sha1(UInt8[]))[1:4] == "da39", '
        'tr(:edited), tr([1 2; 3 4]), shouted(by=2), ip"1.2.3.4", @doc(LinearAlgebra.shouted).text[1])'
    )
    assert modern.julia(built["image"], program) == f"{0x7998}false77521.2.3.4Shouted."
    lines = modern.file(f"{algebra}/src/generic.jl").read_text().splitlines()
    program = "using LinearAlgebra; print(functionloc(tr, (Any,))[2], ' ', functionloc(norm, (Any,))[2])"
    places = [lines.index(one) + 1 for one in ("function tr(A)", "function norm(itr)")]
    assert modern.julia(built["image"], program) == " ".join(map(str, places))
    program = "using Sockets; print(Base.module_build_id(Sockets))"  # for what is precompiled
    assert modern.julia(built["image"], program) != modern.julia(modern.image, program)


def test_structs_and_new_files(modern: Modern) -> None:
    addresses = "stdlib/Sockets/src/addrinfo.jl"
    text = modern.file(addresses).read_text()
    begin = text.index(SHOWN_ERROR)
    modern.edit(addresses, text[begin : text.index("\nend\n", begin) + 5], "")
    modern.edit(addresses, ERROR_FIELDS, f"{ERROR_FIELDS}    more::Int\n    DNSError(h, c) = new(h, c, 7)\n")
    modern.edit("stdlib/Sockets/src/Sockets.jl", FIRST_INCLUDE, f'{FIRST_INCLUDE}include("new.jl")\n')
    modern.create("stdlib/Sockets/src/new.jl", '"New."\nadded(x) = x + 1\nconst ADDED = added(2)\n')
    modern.edit("base/threads.jl", 'include("locks-mt.jl")\n', 'include("locks-mt.jl")\ninclude("fresh.jl")\n')
    modern.create("base/fresh.jl", "fresh(x) = 3x\n")
    built = modern.chain()
    assert {"base/fresh.jl", "stdlib/Sockets/src/new.jl"} <= set(built["changed_files"])
    told = {(one["what"], one["change"]) for kind in ("evaluated", "deleted") for one in built["definitions"][kind]}
    assert {
        ("struct DNSError of Sockets", "modified"),
        ("Base.show(::IO, ::Sockets.DNSError)", "deleted"),
    } <= told
    program = 'using Sockets; print(Sockets.DNSError("a", 1).more, Sockets.ADDED, Base.Threads.fresh(2))'
    assert modern.julia(built["image"], program) == "736"
    names = modern.julia(built["image"], "foreach(one -> println(basename(one[2])), Base._included_files)").split()
    for before, new in (("IPAddr.jl", "new.jl"), ("locks-mt.jl", "fresh.jl")):
        assert names.index(new) == names.index(before) + 1


def test_a_file_that_is_gone(modern: Modern) -> None:
    algebra = modern.library("LinearAlgebra")
    path = f"{algebra}/src/bitarray.jl"
    modern.delete(path)
    assert f"{path} was deleted, and is included still" in modern.basedev("build").stderr
    modern.edit(f"{algebra}/src/LinearAlgebra.jl", 'include("bitarray.jl")\n', "")
    built = modern.chain()
    told = {one["what"] for one in built["definitions"]["deleted"]}
    assert path in built["changed_files"] and "LinearAlgebra.dot(::BitArray{1}, ::BitArray{1})" in told
    program = "using LinearAlgebra; print(dot(trues(3), trues(3)), which(dot, (BitVector, BitVector)).sig)"
    program += '; print(any(one -> endswith(one[2], "src/bitarray.jl"), Base._included_files))'
    assert modern.julia(built["image"], program) == "3Tuple{typeof(dot), AbstractArray, AbstractArray}false"


def test_standard_library_in_no_image(modern: Modern) -> None:
    """Each Julia loads it, and notices that what it has precompiled is of other sources."""
    path, begin = "stdlib/Base64/src/Base64.jl", "module Base64\n"
    loaded = modern.root / "usr/share/julia/stdlib"
    here = next(loaded.glob("*/Base64")).resolve() == modern.file("stdlib/Base64").resolve()
    for number in ("1", "2"):
        modern.edit(path, begin, f"{begin}edited() = {number}\n")
        built = modern.json("build", "--no-full-rebuild")
        assert (built["status"], built["changed_files"], built["ignored_files"]) == ("current", [], [path])
        assert (built["library_reason"] is None) is here
        if here:
            assert modern.julia(built["image"], "using Base64; print(Base64.edited())") == number
        said = modern.basedev("build").stderr
        assert f"{path} is in no image: " in said and "the sources are those of the base image" in said
        assert "nothing to build" in modern.basedev("status").stdout
        modern.restore()


def test_a_standard_library_that_julia_finds_elsewhere(tmp_path: Path) -> None:
    links = tmp_path / "usr/share/julia/stdlib/v1.12"
    for library in ("Here", "Elsewhere", f"Fetched-{40 * 'a'}"):
        (tmp_path / "stdlib" / library).mkdir(parents=True)
    links.mkdir(parents=True)
    (links / "Here").symlink_to(tmp_path / "stdlib/Here")
    (links / "Elsewhere").symlink_to(tmp_path / "stdlib/Here")
    (links / "Fetched").symlink_to(tmp_path / "stdlib" / f"Fetched-{40 * 'a'}")
    paths = [f"stdlib/{one}/src/a.jl" for one in ("Here", f"Fetched-{40 * 'a'}")]
    assert not_loaded(tmp_path, paths) is None
    reason = not_loaded(tmp_path, [*paths, "stdlib/Elsewhere/src/a.jl"])
    here, place = tmp_path / "stdlib/Here", "usr/share/julia/stdlib/v1.12/Elsewhere"
    assert reason == f"{place} leads to {here}, not to stdlib/Elsewhere: run make"


def test_tests_of_a_fetched_library_have_its_name(tmp_path: Path) -> None:
    assert testing.tests_for(["stdlib/SHA-4451e136/src/sha1.jl", "stdlib/Test/src/Test.jl"], tmp_path) == [
        "SHA",
        "Test",
    ]


def test_another_version_of_a_fetched_library(modern: Modern) -> None:
    commit = modern.library("SHA").rpartition("-")[2]
    modern.edit("stdlib/SHA.version", commit, commit[::-1])
    assert f"stdlib/SHA.version names another commit than {modern.checkout.sysimage} was made with" in modern.refusal()


def test_a_file_that_is_new_before_the_compiler_starts(modern: Modern) -> None:
    modern.create("base/fresh.jl", "fresh(x) = 3x\n")
    modern.edit("base/Base_compiler.jl", 'include("traits.jl")\n', 'include("fresh.jl")\ninclude("traits.jl")\n')
    assert "base/fresh.jl is new, and the compiler, which is started after it, would see it" in modern.refusal()


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
            "`close(closed_stream)` in base/logging/logging.jl:",
        ),
        ("base/strings/util.jl", "function lpad(\n", "const Pair = 1\n\0", "base/boot.jl is the Core module"),
        (
            "Compiler/src/bootstrap.jl",
            "    activate_codegen!()\n",
            "\0    nothing\n",
            "Compiler/src/bootstrap.jl compiles and starts Julia's compiler",
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
            "\0    handler = Returns(handler)\n",
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
            "stdlib/Sockets/src/Sockets.jl",
            FIRST_INCLUDE,
            "__init__() = nothing\n\0",
            "Sockets.__init__ is new: which modules have one is noted while Julia is built",
        ),
        ("stdlib/Sockets/Project.toml", 'name = "Sockets"\n', "\0# edited\n", "stdlib/Sockets/Project.toml changed"),
        (
            "base/logging/logging.jl",
            "struct LogLevel\n    level::Int32\n",
            "\0    more::Int32\n    LogLevel(level) = new(level, 0)\n",
            "@eval @doc in base/logging/logging.jl",
        ),
        (
            "base/strings/util.jl",
            "function lpad(\n",
            "const ENDED = ccall(:exit, Cvoid, (Cint,), 7)\n\0",
            "a Julia does not go on when what changed is evaluated in it: it exited with 7",
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
LIMIT = ("=", (".", LIMITED_NAME, Literal("q", "max_methods")), ("call", "UInt8", Literal("v", "Int64 1")))


@pytest.mark.parametrize(
    ("old", "new", "chained"),
    [
        (None, METHOD, True),
        (("let", ("=", "a", ("typed_vcat", "UInt8", "1")), ("block", ("global", "f"), METHOD)), None, True),
        (("let", ("block", "a", ("=", "b", ("call", "push!", "c", "1"))), ("block", METHOD)), None, False),
        (("let", ("block",), ("block", ("global", ("=", "a", "1")), METHOD)), None, False),
        (("export", "a", "b"), ("export", "b"), True),
        (TAKE, TAKE_BOTH, True),
        (TAKE_BOTH, TAKE, False),
        (None, ("import", (".", "Base", "a")), False),
        (("const", ("=", "a", "1")), ("const", ("=", "a", "2")), True),
        (("const", ("=", "a", "1")), ("const", ("=", "b", "2")), True),
        (("const", ("=", "a", ("call", "push!", "c", "1"))), None, False),
        (("abstract", "a"), None, True),
        (None, ("const", ("=", "a", "2")), True),
        (("macro", ("call", "m"), "x"), None, True),
        (("if", ("call", "==", "a", "b"), ("block", METHOD), ("block",)), None, True),
        (("if", ("call", "==", "a", "b"), ("block", TAKE)), None, False),
        (("if", ("call", "isdefined", "Main", "a"), ("block", METHOD)), None, False),
        (None, ("macrocall", "@deprecate", ("call", "f", "x"), ("call", "g", "x")), True),
        (None, ("call", "register", "handler"), False),
        (("macrocall", "@assert", "a"), ("macrocall", "@assert", ("call", "f", "b")), True),
        (None, ("macrocall", "@assert", ("call", "f!", "b")), False),
        (None, LIMIT, True),
        (LIMIT, None, True),
        (LIMIT, (*LIMIT[:2], ("call", "UInt8", Literal("v", "Int64 2"))), True),
        (None, (*LIMIT[:2], ("call", "UInt8", "n")), False),
        (None, ("call", (".", "Experimental", Literal("q", "register_error_hint")), "handler", "T"), True),
        (("struct", False, "A", ("block", METHOD)), ("struct", False, "A", ("block",)), True),
        (("struct", False, "A", ("block",)), ("struct", False, "B", ("block",)), True),
        (("struct", False, "A", ("block",)), None, True),
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


def after_background_build(modern: Modern) -> dict[str, Any]:
    """What is told of the last build in the background, when it has ended."""
    wait_until(lambda: (modern.json("hook", "status")["background"] or {"status": "running"})["status"] != "running")
    return dict(modern.json("hook", "status")["background"])


def test_impact_is_what_a_build_does(modern: Modern) -> None:
    chomp, called = modern.chomp
    modern.edit(UTIL, chomp, chomp + '    s == "hello\\n" && return SubString("world")\n')
    told = modern.json("impact")
    root, *callers = told["nodes"]
    assert (root["what"], root["path"], root["change"]) == (called, UTIL, "modified")
    assert [one["what"] for one in told["definitions"]["evaluated"]] == [called]
    assert all(0 <= one["callee"] < number for number, one in enumerate(callers, 1))
    assert root["branch"]["invalidated"] == sum(one["invalidated"] for one in told["nodes"]) == told["invalidated"] > 0
    assert told["changed"] == told["invalidated"] and told["no_cutoff_reason"] and told["elsewhere"] == []
    assert told["summary"].startswith(f"this edit invalidates {told['invalidated']} CodeInstances, all of which are")
    page = modern.storage.root / "impact.html"
    shown = modern.basedev("impact", "--depth", "1", "--html", str(page)).stdout
    assert f"{called} in strings/util.jl:" in shown and page.is_file()
    assert modern.basedev("impact", "--at-most", "1").returncode == 5
    assert modern.chain()["invalidated"] == told["recompiled"]


def test_impact_of_what_is_new_and_gone(modern: Modern) -> None:
    modern.append(UTIL, "\nendswith(a::SubString{String}, b::Any) = false\n")
    modern.append("base/path.jl", '\nisabspath(path::SubString{String}) = occursin(r"^/", path)\n')
    text = modern.file(UTIL).read_text()
    chomp, called = modern.chomp
    begin = text.index(chomp)
    modern.edit(UTIL, text[begin : text.index("\nend\n", begin) + 5], "")
    told = modern.json("impact")
    changes = {one["what"]: one for one in told["nodes"] if "change" in one}
    path = "Base.Filesystem.isabspath(::SubString{String})"
    assert (changes[called]["change"], changes[path]["change"]) == ("deleted", "added")
    assert {"what": path, "of": "Base.Filesystem.isabspath(::AbstractString)"} in changes[path]["overtaken"]
    ambiguous = [{one.partition(" in ")[0] for one in pair} for pair in told["ambiguities"]]
    ends = "Base.endswith(::SubString{String}, ::Any)", "Base.endswith(::AbstractString, ::AbstractString)"
    assert set(ends) in ambiguous
    modern.restore()
    modern.append("base/boot.jl", "\nconst Edited = 1\n")
    assert "base/boot.jl is the Core module" in modern.json("impact")["summary"]


def test_impact_of_commits(modern: Modern) -> None:
    chomp, called = modern.chomp
    first = modern.git("rev-parse", "HEAD").strip()
    harmless = committed(modern, first, "base/lock.jl", "Semaphore size must be > 0", "Semaphore size must be large")
    last = committed(modern, harmless, UTIL, chomp, chomp + '    s == "hello\\n" && return SubString("world")\n')
    told = modern.json("impact", "--compare", first, last)
    assert told["compared"] == [first, last] and set(told["changed_files"]) == {"base/lock.jl", UTIL}
    later = modern.json("impact", "--compare", harmless, last)
    assert later["changed_files"] == [UTIL] and [one["what"] for one in later["nodes"] if "change" in one] == [called]
    assert 0 < later["invalidated"] <= told["invalidated"]
    runtime = committed(modern, last, "src/gf.c", "#include <string.h>\n", "// edited\n#include <string.h>\n")
    assert "src/gf.c is another than at" in modern.json("impact", "--compare", first, runtime)["full_rebuild_reason"]


def test_a_revision_in_an_image_in_plain_julia_and_replayed(modern: Modern, tmp_path: Path) -> None:
    chomp, called = modern.chomp
    shout = '"""\n    shout(s)\n"""\nshout(s; by=LOUD) = string(s, by)\nconst LOUD = 7\n\n'
    modern.edit(UTIL, chomp, shout + chomp + '    s == "hello\\n" && return SubString("world")\n')
    addresses = "stdlib/Sockets/src/addrinfo.jl"
    text = modern.file(addresses).read_text()
    begin = text.index(SHOWN_ERROR)
    modern.edit(addresses, text[begin : text.index("\nend\n", begin) + 5], "")
    modern.edit("base/threads.jl", 'include("locks-mt.jl")\n', 'include("locks-mt.jl")\ninclude("fresh.jl")\n')
    modern.create("base/fresh.jl", "fresh(x) = 3x\n")
    file = tmp_path / "fix.jl"
    exported = modern.json("revision", "export", "-o", str(file))
    assert (exported["status"], exported["engine"]) == ("exported", "patched")
    assert called in modern.basedev("revision", "show", str(file)).stdout
    program = (
        'using Sockets; print(chomp("hello\\n"), Base.shout(1), Base.Threads.fresh(2), Sockets.DNSError("a", 1), '
        "functionloc(lpad, (String, Int))[2], @doc(Base.shout).text, "
        'findfirst(one -> endswith(one[2], "fresh.jl"), Base._included_files))'
    )
    run = ["run", "--replay", "--", "--startup-file=no", "-e", program]
    replayed = modern.basedev(*run)
    assert replayed.stdout.startswith('world176Sockets.DNSError("a", 1)'), replayed.stderr
    modern.restore()
    plain = [str(modern.checkout.julia), "--startup-file=no", "-L", str(file), "-e", program]
    assert subprocess.run(plain, capture_output=True, text=True, check=True).stdout == replayed.stdout
    applied = modern.json("revision", "apply", str(file))
    assert (applied["status"], applied["changed_files"]) == ("built", [UTIL, "base/threads.jl", addresses])
    assert modern.julia(applied["image"], program) == replayed.stdout
    assert modern.json("revision", "apply", str(file))["status"] == "present"
    file.write_text(file.read_text().replace("fresh(x) = 3x", "fresh(x::Edited) = 3x"))
    done = modern.basedev("revision", "apply", str(file))
    assert done.returncode == 1 and f"{file}: fresh.jl:1: a definition fails when it is evaluated" in done.stderr


def test_a_hook_and_the_julia_in_front(modern: Modern) -> None:
    if any(one["state"] != "absent" for one in modern.json("hook", "status")["hooks"]):
        pytest.skip("the checkout has hooks of its own")
    modern.append(UTIL, "\nshouted(s) = uppercase(s)\n")
    directory = modern.json("hook", "install")["directory"]
    try:
        subprocess.run([f"{directory}/post-commit"], cwd=modern.checkout.tree, env=modern.environment, check=True)
    finally:
        modern.basedev("hook", "remove")
    assert after_background_build(modern)["status"] == "built"
    assert modern.json("status")["status"] == "present"
    modern.basedev("shell-init", "bash")
    julia = [str(modern.storage.root / "shell/bin/julia"), "--startup-file=no", "-e"]

    def said(program: str) -> tuple[str, str]:
        done = subprocess.run(
            [*julia, program],
            cwd=modern.root / "test",
            env=modern.environment,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout, done.stderr

    assert said('print(Base.shouted("a"))') == ("A", "")
    modern.append(UTIL, "whispered(s) = lowercase(s)\n")
    assert said("print(isdefined(Base, :shouted))") == (
        "false",
        f"basedev: julia starts without your edits of {UTIL}: run basedev build\n",
    )
    image = modern.image
    time = image.stat().st_mtime_ns
    os.utime(image, ns=(time, time + 1000))
    try:
        assert f"make has made {modern.checkout.sysimage} anew" in said("")[1]
    finally:
        os.utime(image, ns=(time, time))


def test_what_happens_by_itself_does_not_run_make(modern: Modern) -> None:
    chomp, _ = modern.chomp
    modern.edit(UTIL, chomp, "const Pair = 1\n" + chomp)
    reason = "only make can build this, and it was not wanted (basedev build runs it): "
    reason += "base/boot.jl is the Core module"
    modern.basedev("build", "--background")
    told = after_background_build(modern)
    assert told["status"] == "failed" and reason in told["message"]
    assert reason in modern.basedev("status").stdout
    assert reason in Path(told["log"]).read_text()
    watched = modern.basedev("watch", "--once")
    assert watched.returncode == 3 and reason in watched.stdout + watched.stderr


def test_what_is_told_of_the_setup(modern: Modern) -> None:
    told = {(one["check"], one["state"], one["text"]) for one in modern.json("doctor")["findings"]}
    base = modern.json("init")["base_id"]
    assert ("base image", "ok", base) in told and ("Julia", "ok", "the patches are applied") in told
    assert [one["id"] for one in modern.json("images", "list")["images"] if one["present"]] == [base]
    modern.json("serve", "start")
    told = {(one["check"], one["state"], one["text"]) for one in modern.json("doctor")["findings"]}
    assert ("server", "ok", "that of this checkout's base image answers") in told


RUNTIME = ("src/jl_uv.c", "src/codegen.cpp")
"""A source of which nothing gets into an image, and one that all native code comes from."""


def test_an_edited_runtime_is_told(modern: Modern) -> None:
    """Neither is built in this test: that would leave another runtime."""
    modern.prepend(RUNTIME[0], "// edited\n")
    needed = f"src/jl_uv.c is newer than src/jl_uv{OBJECTS[suffix(modern.root)]}"
    assert needed in modern.refusal() and needed in modern.basedev("init").stderr
    plan = modern.json("status")
    assert (plan["status"], plan["runtime_reason"], plan["full_rebuild_reason"]) == ("current", needed, None)
    modern.basedev("build", "--background")
    assert needed in after_background_build(modern)["message"]
    modern.prepend(RUNTIME[1], "// edited\n")
    other = f"src/codegen.cpp is another than when {modern.checkout.sysimage} was made"
    assert other in modern.refusal() and other in modern.basedev("init").stderr
    plan = modern.json("status")
    assert (plan["status"], plan["runtime_reason"], plan["full_rebuild_reason"]) == ("rebuild", None, other)
    modern.restore()
    assert modern.json("status")["runtime_reason"] is None


def test_sources_that_make_generates(modern: Modern) -> None:
    modern.append("base/build_h.jl", "")  # where the checkout is, in one that was copied
    modern.append("base/version_git.jl", "\n")
    builder = PatchedBuilder(Checkout(modern.root), modern.storage, lambda step, seconds: None)
    with pytest.raises(SetupError, match="make generated sources anew"):
        builder.reference()
    generated = modern.file("base/version_git.jl")
    assert generated.read_bytes() == modern.before[generated][0]


def tree_of_runtime(root: Path) -> None:
    """A tree with sources of a runtime, their objects, and libraries, each newer than those before."""
    files = ["src/julia.h", "src/jl_uv.c", "src/codegen.cpp", "src/cgutils.cpp", "src/signals-unix.c", "cli/loader.h"]
    files += ["src/gc-mmtk.c", "src/ast.scm", "src/jl_uv.o", "src/codegen.o", "usr/lib/libjulia.so"]
    files += ["usr/lib/libjulia-internal.so", "usr/lib/libjulia-codegen.so"]
    for number, name in enumerate(files):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
        os.utime(root / name, ns=(0, 10**18 + number))


@pytest.mark.parametrize(
    ("path", "product"),
    [
        ("src/jl_uv.c", "src/jl_uv.o"),
        ("src/codegen.cpp", "src/codegen.o"),
        ("src/cgutils.cpp", "usr/lib/libjulia-codegen.so"),
        ("src/signals-unix.c", "usr/lib/libjulia-internal.so"),
        ("src/ast.scm", "usr/lib/libjulia-internal.so"),
        ("src/julia.h", "usr/lib/libjulia-codegen.so"),
        ("src/codegen.o", "usr/lib/libjulia-codegen.so"),
        ("cli/loader.h", "usr/lib/libjulia.so"),
        ("src/gc-mmtk.c", None),
    ],
)
def test_what_is_newer_than_what_is_made_of_it(tmp_path: Path, path: str, product: str | None) -> None:
    tree_of_runtime(tmp_path)
    assert Runtime(tmp_path).outdated() == []
    os.utime(tmp_path / path, ns=(0, 10**18 + 100))
    assert [(one.path, one.product) for one in Runtime(tmp_path).outdated()] == ([(path, product)] if product else [])


def test_which_sources_leave_an_image_as_it_is(tmp_path: Path) -> None:
    tree_of_runtime(tmp_path)
    before = Runtime(tmp_path).blobs
    for path in ("src/jl_uv.c", "src/signals-unix.c"):
        (tmp_path / path).write_text("edited")
    assert Runtime(tmp_path).edited(before) == []
    (tmp_path / "src/julia.h").write_text("edited")
    (tmp_path / "src/ast.scm").unlink()
    (tmp_path / "src/new.c").write_text("new")
    assert Runtime(tmp_path).edited(before) == ["src/ast.scm", "src/julia.h", "src/new.c"]


MAKEFILE = """\
julia-cli-release: ;
julia-src-release: ; @! grep wrong src/codegen.cpp
julia-sysimg-release: julia-src-release usr/lib/julia/sys.so
usr/lib/julia/sys.so: usr/lib/julia/basecompiler-o.a ; cat src/codegen.cpp >$@
usr/lib/julia/basecompiler-o.a: base/boot.jl ; touch $@
"""


def test_make_makes_an_image_anew_for_another_runtime(tmp_path: Path) -> None:
    for name in ("src/codegen.cpp", "base/boot.jl"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("first")
    (tmp_path / "usr/lib/julia").mkdir(parents=True)
    (tmp_path / "Makefile").write_text(MAKEFILE)
    image = tmp_path / "usr/lib/julia/sys.so"
    make(tmp_path)
    (tmp_path / "src/codegen.cpp").write_text("second")
    make(tmp_path)
    assert image.read_text() == "first"
    make(tmp_path, anew=True)
    assert image.read_text() == "second"
    (tmp_path / "src/codegen.cpp").write_text("wrong")
    with pytest.raises(UserCodeError, match="make can't build the runtime"):
        make(tmp_path, anew=True)
    assert image.read_text() == "second"


def committed(modern: Modern, parent: str, path: str, old: str, new: str) -> str:
    """A commit in which a text of a file is replaced; no branch has it, and neither index nor tree are touched."""
    index = {**modern.environment, "GIT_INDEX_FILE": str(modern.storage.root / "index")}
    index |= {f"GIT_{who}_{what}": "a" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}

    def git(*words: str, text: str | None = None) -> str:
        done = subprocess.run(
            ["git", *words], cwd=modern.checkout.tree, env=index, input=text, capture_output=True, text=True, check=True
        )
        return done.stdout

    before = git("show", f"{parent}:{path}")
    assert before.count(old) == 1
    blob = git("hash-object", "-w", "--stdin", text=before.replace(old, new)).strip()
    git("read-tree", parent)
    git("update-index", "--cacheinfo", f"100644,{blob},{path}")
    return git(
        "commit-tree", "-p", parent, "-m", f"{path}: {new.strip().splitlines()[-1]}", git("write-tree").strip()
    ).strip()


def test_bisection(modern: Modern) -> None:
    chomp, called = modern.chomp
    good = modern.git("rev-parse", "HEAD").strip()
    include = "#include <string.h>\n"
    harmless = committed(modern, good, "base/lock.jl", "Semaphore size must be > 0", "Semaphore size must be large")
    culprit = committed(modern, harmless, UTIL, chomp, chomp + '    s == "hello\\n" && return SubString("world")\n')
    runtime = committed(modern, culprit, "src/gf.c", include, "// edited\n" + include)
    back = committed(modern, runtime, "src/gf.c", "// edited\n" + include, include)
    compiler = committed(
        modern, back, "Compiler/src/bootstrap.jl", "function bootstrap!(", "f() = 1\nfunction bootstrap!("
    )
    last = committed(modern, compiler, "Compiler/src/bootstrap.jl", "f() = 1\nfunction boot", "function boot")
    words = ["bisect", "run", "--bad", last, "--good", good]
    here = 'realpath(joinpath(Sys.STDLIB, "Test")) == joinpath(pwd(), "stdlib/Test")'
    program = f'exit({here} ? chomp("hello\\n") != "hello" : 200)'
    done = modern.basedev("--json", *words, "--", "julia", "--startup-file=no", "-e", program)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [one["commit"] for one in found["culprits"]] == [culprit], done.stderr
    assert found["changed_files"] == [UTIL]
    assert [(one["what"], one["change"]) for one in found["definitions"]["evaluated"]] == [(called, "modified")]
    told = {one["commit"]: one["told"] for one in found["tests"]}
    assert told[good] == "the base image"
    for commit, reason in (
        (runtime, "it can't be chained: src/gf.c is another than at "),
        (compiler, "compiles and starts Julia's compiler"),
    ):
        if commit in told:
            assert reason in told[commit]
    refused = modern.basedev(*words, "--policy", "rebuild", "--", "true")
    assert refused.returncode == 2 and "--policy rebuild is for checkouts of Julia 1.5" in refused.stderr
    ends = modern.basedev("bisect", "run", "--bad", runtime, "--good", good, "--", "true")
    assert f"the bad commit {runtime[:10]} can't be tested: it can't be chained: src/gf.c is another" in ends.stderr
    stepped = modern.basedev("bisect", "step", "--", "julia", "-e", "exit(7)")
    assert stepped.returncode == 7, stepped.stderr


def test_commits_and_the_commit_that_was_built(tmp_path: Path) -> None:
    """In a repository that has little of Julia's."""
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@localhost", "-C", str(tmp_path)]

    def commit(files: dict[str, str]) -> str:
        for name, text in files.items():
            place = tmp_path / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text)
        subprocess.run([*git, "add", "-A"], check=True)
        subprocess.run([*git, "commit", "-qm", "edited", "--allow-empty"], check=True)
        return subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()

    subprocess.run([*git, "init", "-q"], check=True)
    inference, dates = "Compiler/src/typeinfer.jl", "stdlib/Dates/src/Dates.jl"
    files = {"VERSION": "1.12.5\n", ".gitignore": "usr\n*_h.jl\n", "test/a.jl": "", "src/gf.c": "c"}
    built = commit({**files, "base/Base.jl": "a", inference: "b", dates: "d"})
    (tmp_path / "base/pcre_h.jl").write_text("generated")
    (tmp_path / inference).write_text("b patched")
    tree = Checkout(tmp_path)
    tree.base_record.parent.mkdir(parents=True)
    tree.base_record.write_text(json.dumps({"base_id": "0", "commit": built}))
    base = tree.sources()
    (tmp_path / inference).write_text("b")
    edited = commit({"base/Base.jl": "edited", "test/a.jl": "edited"})
    sources = CommitCheckout(tmp_path, edited).sources(base)
    read = {path: sources.contents[path] for path in sources.blobs}
    assert read == {
        inference: b"b patched",
        "base/Base.jl": b"edited",
        "base/pcre_h.jl": b"generated",
        dates: b"d",
    }
    assert CommitCheckout(tmp_path, edited).unlike_base() is None
    compiler = CommitCheckout(tmp_path, commit({inference: "edited"}))
    assert compiler.sources(base).contents[inference] == b"edited"
    mark = "// basedev gf 01234567 {\nmore\n// basedev }\n"
    assert CommitCheckout(tmp_path, commit({"src/gf.c": mark + "c"})).unlike_base() is None
    runtime = CommitCheckout(tmp_path, commit({"src/gf.c": mark + "edited"}))
    assert runtime.unlike_base() == f"src/gf.c is another than at {built[:10]}, where Julia was built"
    fetched = CommitCheckout(tmp_path, commit({"src/gf.c": "c", "stdlib/Pkg.version": "edited"}))
    assert fetched.unlike_base() == f"stdlib/Pkg.version is another than at {built[:10]}, where Julia was built"


def shared_pages(image: Path, base: Path) -> float:
    """The part of the pages with the objects of a base image's heap that an image has in the same place of its own."""
    heaps = []
    for path in (image, base):
        symbols = ImageSymbols(path)
        with path.open("rb") as file:
            file.seek(symbols.place("jl_system_image_data"))
            heaps.append(file.read(symbols.number("jl_system_image_size")))
    objects = int.from_bytes(heaps[1][:8], "little")
    places = range(4096, objects - 4096, 4096)
    return sum(heaps[0][place : place + 4096] == heaps[1][place : place + 4096] for place in places) / len(places)


def test_the_heap_is_as_if_all_of_it_were_written(
    modern: Modern, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chomp, _ = modern.chomp
    modern.edit(
        UTIL, chomp, 'struct Loud\n    text::String\nend\n"""\n    Loud(1)\n"""\nLoud(x) = Loud("$(x)!")\n\n' + chomp
    )
    modern.edit(UTIL, chomp, chomp + '    s == "hello\\n" && return SubString("world")\n')
    modern.edit("base/gmp.jl", GMPZ, "Symbol(:__gmpz_, op === :gcd ? :lcm : op)")
    modern.append("base/env.jl", "\nconst LOUDEST = Dict(:a => [Loud(1)], :b => Loud[])\npublic LOUDEST\n")
    built = modern.chain()
    images = {"part": tmp_path / "part.so"}
    shutil.copyfile(built["image"], images["part"])
    assert modern.basedev("images", "rm", built["image_id"]).returncode == 0

    monkeypatch.setattr(imagefile, "OPTION", "--sysimage-native-code=chained-whole")
    builder = PatchedBuilder(Checkout(modern.root), modern.storage, lambda step, seconds: None)
    whole = builder.build(may_rebuild=False).image
    assert whole is not None
    images["whole"] = whole
    assert compare(*describe(builder, images)) == []
    assert native_difference(builder, *images.values()) == (0, 0)
    assert shared_pages(images["part"], builder.base.sysimage) > 0.5 > shared_pages(whole, builder.base.sysimage)
    program = 'print(chomp("hello\\n"), gcd(big(4), big(6)), Base.LOUDEST[:a][1].text)'
    assert {modern.julia(str(image), program) for image in images.values()} == {"world121!"}


SPLITTING = "function _splitdir_nodrive(a::String, b::String)\n"

PLACES = """
for (f, types) in ((splitdir, (String,)), (Base.Filesystem._splitdir_nodrive, (String, String)), (abspath, (String,)))
    code = Base.method_instance(f, types).cache
    while code.max_world != typemax(UInt) code = code.next end
    print(-(reinterpret.(Int, (pointer_from_objref(code), pointer_from_objref(Core.CodeInstance)))...), ' ')
end
"""
"""Prints where some results of inference are in an image."""


def test_early_cutoff(modern: Modern) -> None:
    """A function of many callers is compiled anew. Its callers are what they were, and come to it."""
    modern.edit("base/path.jl", SPLITTING, SPLITTING + '    b == "magic" && return "made", "otherwise"\n')
    built = modern.chain()
    assert built["no_cutoff_reason"] is None
    assert built["invalidated"] > built["reinferred"] > 0
    before = modern.julia(modern.image, PLACES).split()
    splitting, edited, absolute = modern.julia(built["image"], PLACES).split()
    assert [splitting, absolute] == [before[0], before[2]]
    assert edited != before[1]
    program = 'print(splitdir("magic"), basename("magic"), dirname("a/b"))'
    assert modern.julia(built["image"], program) == '("made", "otherwise")otherwisea'
    # They are ended with it, as ever.
    again = '@eval Base.Filesystem _splitdir_nodrive(::String, ::String) = ("defined", "again");'
    assert (
        modern.julia(built["image"], again + 'print(basename("magic"), splitdir("a/b"))') == 'again("defined", "again")'
    )

    # Nothing in the image comes out otherwise if it is inferred now, but for what did so before.
    unstable = []
    for image in (modern.image, Path(built["image"])):
        with Host(modern.checkout.julia, image) as host:
            unstable.append(set(host.unstable()))
    assert unstable[1] <= unstable[0]

    whole = modern.json("build", "--engine", "patched-no-cutoff")
    assert (whole["engine"], whole["reinferred"]) == ("patched-no-cutoff", None)
    assert modern.julia(whole["image"], program) == '("made", "otherwise")otherwisea'
    assert modern.julia(whole["image"], PLACES).split()[0] != before[0]


def test_several_new_shards(modern: Modern) -> None:
    """On machines with more processors, Julia makes several, in parallel."""
    modern.edit(UTIL, LPAD, LPAD + '    n == -1 && return "edited"\n')
    done = modern.basedev(
        *("--json", "build", "--no-full-rebuild", "--no-server", "--engine", "patched-no-cutoff"),
        environment={"JULIA_IMAGE_THREADS": "3"},
    )
    assert done.returncode == 0, done.stderr
    image = json.loads(done.stdout)["image"]
    tables = {b"jl_fvar_ptrs_%d" % shard for shard in range(4)}
    assert places(Path(image), tables).keys() == tables
    assert modern.julia(image, 'print(lpad("a", -1), lpad("b", 3), string(1.5), repr([1, 2]))') == "edited  b1.5[1, 2]"


# ---- Julia's compiler ----

THROWS = "    f === Intrinsics.cglobal && return Any\n"
"""Where the compiler tells what an intrinsic function may throw."""

MADE = """
swap(x) = Core.Intrinsics.bswap_int(x)
of_integer(one) = one.specTypes == Tuple{typeof(bswap),UInt64}
cached = only(filter(of_integer, collect(Base.specializations(which(bswap, (UInt64,)))))).cache
is_noted(known) = known[4] == open(Base._crc32c, joinpath(Sys.BINDIR, Base.DATAROOTDIR, known[2]))
print(Base.infer_effects(swap, (Int,)).nothrow, ' ', cached.exctype, ' ', bswap(UInt64(1)), ' ')
print(all(is_noted, Base._compiler_require_dependencies), ' ')
try replace("a", r"a" => SubstitutionString("\\\\")) catch error print(error.msg) end
"""

REPLACING = 'replace_err(repl) = error("Bad replacement'
"""What is called where characters are written too, of which the compiler that is edited so makes something else: what
calls both comes out alike, and is ended by the edit of this."""


EDITED_THROWS = THROWS + "    f === Intrinsics.bswap_int && return Any\n"


def test_impact_of_an_edited_compiler(modern: Modern) -> None:
    modern.edit("Compiler/src/tfuncs.jl", THROWS, EDITED_THROWS)
    told = modern.json("impact")
    [edited] = told["definitions"]["evaluated"]  # nothing that was only compiled while it was computed
    assert edited["what"].startswith("Base.Compiler.intrinsic_exct(")
    assert told["invalidated"] > 0 and "Julia's compiler uses what changed" in told["summary"]


def test_the_compiler(modern: Modern) -> None:
    """It is edited: it compiles what is compiled from then on, and the image has what it makes of all functions."""
    path = "Compiler/src/tfuncs.jl"
    modern.edit(path, THROWS, EDITED_THROWS)
    modern.edit("base/regex.jl", REPLACING, REPLACING.replace("Bad", "Another"))
    before = modern.julia(modern.image, MADE)
    assert before == "true Union{} 72057594037927936 false Bad replacement string: \\"
    built = modern.chain()
    assert built["reinferred"] > 10_000
    after = modern.julia(built["image"], MADE)
    assert after == "false Any 72057594037927936 true Another replacement string: \\"
    with Host(modern.checkout.julia, modern.image) as host:
        unstable = set(host.unstable())
    with Host(modern.checkout.julia, Path(built["image"])) as host:
        assert set(host.unstable()) <= unstable

    # One that fails is told.
    modern.edit(path, EDITED_THROWS, THROWS + '    error("edited")\n')
    assert "Julia's compiler fails after this edit: edited" in modern.refusal()


AT_WORK = """
import os, sys
from pathlib import Path
from basedev.engines.patched.host_program import start_host
running, _ = start_host(*map(Path, sys.argv[1:]), ["-e", "while true end"])
print(running.pid, flush=True)
os.kill(os.getpid(), 9)
"""
"""Starts a host that does not look at its streams, and is killed."""


def test_a_host_at_work_ends_with_basedev(modern: Modern) -> None:
    julia = [str(one) for one in (modern.checkout.julia, modern.image)]
    told = subprocess.run([sys.executable, "-c", AT_WORK, *julia], stdout=subprocess.PIPE, text=True, check=False)
    wait_until(lambda: not is_alive(int(told.stdout)))


# ---- the warm server ----


@pytest.fixture
def served(modern: Modern) -> Iterator[Modern]:
    """The checkout, without a server before and after."""
    stop_servers(modern.storage.root)
    yield modern
    stop_servers(modern.storage.root)


def server_with_spares(modern: Modern) -> Server:
    """Starts the server, and waits until two hosts and a writer have loaded what they wait with."""
    modern.json("serve", "start")

    def are_waiting() -> bool:
        spares = julias(only_server(modern))
        took = list(map(ticks, spares))
        time.sleep(0.5)
        return len(spares) == 3 and took == list(map(ticks, spares))

    wait_until(are_waiting)
    return only_server(modern)


def only_server(modern: Modern) -> Server:
    """The one server of the cache directory."""
    (server,) = Servers(modern.storage).running()
    return server


def words_of(pid: int) -> list[str]:
    """The command line of a process; empty if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except OSError:
        return []


def ticks(pid: int) -> tuple[str, ...]:
    """What the processors have worked for a process."""
    return tuple(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13])


def is_alive(pid: int) -> bool:
    """Whether a process has not ended."""
    return any(words_of(pid))


def julias(server: Server, option: str = "") -> list[int]:
    """Those of a server's spares that are Julias, with this text in their command line."""
    every = {pid: words_of(pid) for pid in server.spares}
    return [pid for pid, words in every.items() if words[0].endswith("bin/julia") and option in " ".join(words)]


def left_in_staging(modern: Modern) -> list[Path]:
    """What is being made, or was left."""
    return list((modern.storage.root / "staging").iterdir())


def leaf(modern: Modern, name: str) -> dict[str, Any]:
    """Builds an image with one more function, and asks that."""
    modern.append(UTIL, f'\n{name}() = "{name}"\n')
    built = modern.chain()
    assert modern.julia(built["image"], f"print(Base.{name}())") == name
    return built


def test_builds_start_a_server_and_use_it(served: Modern) -> None:
    assert leaf(served, "first")["server"] == "started"
    wait_until(lambda: len(only_server(served).spares) > 2)
    assert leaf(served, "second")["server"] == "used"
    wait_until(lambda: only_server(served).builds == 2)
    served.append(UTIL, "\nplanned() = 1\n")
    server = server_with_spares(served)
    [writer] = julias(server, "--output-o")
    assert served.json("status")["server"] == "used"
    assert writer in only_server(served).spares  # nothing was to be written
    assert served.json("build", "--no-server")["server"] == "off"
    assert served.json("build")["server"] is None  # nothing was asked of it


def test_it_is_in_nobodys_way_and_leaves_nothing(served: Modern) -> None:
    server = server_with_spares(served)
    assert 200 << 20 < server.memory < 1 << 30
    [base] = [one for one in served.json("images", "list")["images"] if one["id"] == server.base_id]
    assert not base["in_use"] and base["processes"] == []
    [stopped] = served.json("serve", "stop")["servers"]
    assert (stopped["pid"], stopped["spares"]) == (server.pid, list(server.spares))
    assert not any(map(is_alive, (server.pid, *server.spares)))
    assert left_in_staging(served) == [] and list((served.storage.root / "servers").iterdir()) == []


def test_spares_end_with_a_server_that_is_killed(served: Modern) -> None:
    server = server_with_spares(served)
    os.kill(server.pid, signal.SIGKILL)
    wait_until(lambda: not any(map(is_alive, server.spares)))
    assert leaf(served, "afterwards")["server"] == "started"
    served.json("serve", "stop")
    assert left_in_staging(served) == []


@pytest.mark.parametrize(("kind", "option"), [("writer", "--output-o"), ("host", "BasedevHost")])
def test_a_spare_that_is_killed_is_replaced(served: Modern, kind: str, option: str) -> None:
    server = server_with_spares(served)
    time.sleep(LOADED)  # one that ends before is not started again and again
    victim = julias(server, option)[0]
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: victim not in only_server(served).spares)
    assert only_server(served).pid == server_with_spares(served).pid == server.pid
    assert leaf(served, f"replaced_{kind}")["server"] == "used"


@pytest.mark.parametrize("victim", ["server", "writer", "host"])
def test_what_is_killed_in_the_midst_of_a_build(served: Modern, victim: str) -> None:
    server = server_with_spares(served)
    served.edit(UTIL, served.chomp[0], served.chomp[0] + f'    s == "{victim}\\n" && return SubString("y")\n')
    held = julias(server, "BasedevHost" if victim == "host" else "--output-o")[0]
    os.kill(held, signal.SIGSTOP)  # so that the build is in its midst for long enough
    build = start(served, "--json", "build", "--no-full-rebuild")
    wait_until(lambda: only_server(served).building == 1)
    os.kill(server.pid if victim == "server" else held, signal.SIGKILL)
    if victim == "server":
        os.kill(held, signal.SIGCONT)
    told = json.loads(build.communicate()[0])
    assert (build.returncode, told["status"]) == (0, "built")
    assert (told["server"] == "used") == (victim == "server")  # what works goes on without it
    assert served.julia(told["image"], rf'print(chomp("{victim}\n"))') == "y"


def test_a_build_that_is_killed_takes_what_works_for_it_along(served: Modern) -> None:
    server = server_with_spares(served)
    served.append(UTIL, "\nnever() = 1\n")
    os.kill(julias(server, "--output-o")[0], signal.SIGSTOP)
    build = start(served, "build")
    wait_until(lambda: only_server(served).building == 1)
    build.kill()
    build.communicate()
    wait_until(lambda: not any(map(is_alive, server.spares)))
    assert server_with_spares(served).pid == server.pid
    assert leaf(served, "ever")["server"] == "used"


def test_a_command_besides_a_build_has_processes_of_its_own(served: Modern) -> None:
    [writer] = julias(server_with_spares(served), "--output-o")
    served.append(UTIL, '\nboth() = "both"\n')
    os.kill(writer, signal.SIGSTOP)
    build = start(served, "--json", "build", "--no-full-rebuild")
    wait_until(lambda: only_server(served).building == 1)
    besides = served.json("status")
    assert (besides["status"], besides["server"]) == ("chain", "its programs are not ready yet")
    os.kill(writer, signal.SIGCONT)
    told = json.loads(build.communicate()[0])
    assert told["server"] == "used"
    assert served.julia(told["image"], "print(Base.both())") == "both"


def test_a_server_ends_when_the_runtime_is_another(served: Modern) -> None:
    library = next((served.root / "usr/lib").glob(f"lib{served.checkout.julia.name}.so.*.*.*"))
    server, before = server_with_spares(served), library.stat()
    os.utime(library, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    try:
        wait_until(lambda: not any(map(is_alive, (server.pid, *server.spares))))
        assert Servers(served.storage).running() == []
    finally:
        os.utime(library, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert leaf(served, "renewed")["server"] == "started"


def test_another_base_image_has_another_server(served: Modern) -> None:
    """As when `init` keeps what `make` has built while a server runs on what was there."""
    server, record = server_with_spares(served), served.checkout.base_record
    noted, store = record.read_text(), Store(served.storage)
    base = store.find("bases", server.base_id)
    assert base
    about = {key: value for key, value in base.manifest.items() if key not in ("schema", "entry", "files")}
    with served.storage.staging("copy") as made:
        own = shutil.ignore_patterns("manifest.json", "verified.json", "used")
        shutil.copytree(base.directory, made, copy_function=os.link, ignore=own, dirs_exist_ok=True)
        other = store.publish("bases", "f" * 20, made, about)
    try:
        record.write_text(json.dumps({**json.loads(noted), "base_id": other.id}))
        built = leaf(served, "other")
        assert (built["server"], built["base_id"]) == ("started", other.id)
        assert {one.base_id for one in Servers(served.storage).running()} == {server.base_id, other.id}
    finally:
        record.write_text(noted)
        stop_servers(served.storage.root)
        served.storage.discard(other.directory)


def test_spares_have_the_surroundings_of_builds(served: Modern) -> None:
    server_with_spares(served)
    late = "base/client.jl"  # it may use all of Base
    served.append(late, '\nconst told = get(ENV, "TELL", "nothing")\n')
    words = ("--json", "build", "--no-full-rebuild")
    done = json.loads(served.basedev(*words, environment={"TELL": "first"}).stdout)
    assert done["server"] == "its programs are not ready yet"
    assert served.julia(done["image"], "print(Base.told)") == "first"
    wait_until(lambda: len(only_server(served).spares) > 2 and only_server(served).building == 0)
    served.append(late, '\nconst told_by = get(ENV, "TELL", "nothing")\n')
    done = json.loads(served.basedev(*words, environment={"TELL": "first", "GIT_DIR": "x", "SHLVL": "7"}).stdout)
    assert done["server"] == "used"
    assert served.julia(done["image"], "print(Base.told_by)") == "first"


def test_a_warm_build_gives_what_a_cold_one_does(served: Modern, tmp_path: Path) -> None:
    chomp, _ = served.chomp
    served.edit(UTIL, chomp, '"""\n    loud(s)\n"""\nloud(s) = s * LOUD\nconst LOUD = "!"\n\n' + chomp)
    served.edit(UTIL, chomp, chomp + '    s == "hello\\n" && return SubString("world")\n')
    images = {}
    for flag in ("--no-server", "--server"):
        if flag == "--server":
            server_with_spares(served)
        built = served.json("build", "--no-full-rebuild", flag)
        images[built["server"]] = tmp_path / f"{built['server']}.so"
        shutil.copyfile(built["image"], images[built["server"]])
        assert served.basedev("images", "rm", built["image_id"]).returncode == 0
    assert list(images) == ["off", "used"]
    builder = PatchedBuilder(Checkout(served.root), served.storage, lambda step, seconds: None)
    assert compare(*describe(builder, images)) == []
    assert native_difference(builder, *images.values()) == (0, 0)
    assert {served.julia(image, r'print(chomp("hello\n"), Base.loud("a"))') for image in images.values()} == {"worlda!"}


def test_the_hosts_image_is_made_anew(modern: Modern, tmp_path: Path) -> None:
    """Making it leaves tables of the base image behind that nothing has any more, and that refer to what is no more."""
    base = PatchedBuilder(Checkout(modern.root), modern.storage, lambda step, seconds: None).base
    julia = modern.checkout.julia
    make_host_image(base.sysimage, base.code, base.cpu_target, julia, tmp_path)
    assert shared_pages(tmp_path / "host.so", base.sysimage) > 0.5
    with Host(julia, tmp_path / "host.so", has_program=True) as host:
        gave = host.census(STATEMENTS, tmp_path / "record")
    assert len(gave) == len(STATEMENTS)
    assert not [one for one in gave if one.startswith("error: ")]


def test_julias_own_tests(modern: Modern) -> None:
    modern.append(UTIL, "\nshouted(s) = uppercase(s)\n")
    built = modern.chain()
    assert modern.julia(built["image"], 'print(Base.shouted("a"))') == "A"
    done = modern.basedev("test", "strings/util")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCESS" in done.stdout
