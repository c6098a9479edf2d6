"""A corpus of edits as contributors make them to Base, the standard libraries and the compiler, of many kinds.

Each is small, and made to code on which little other compiled code depends, so that an image of it is made in
seconds. What is expected is what a full rebuild of the edited sources gives. All edits that are `together` can be made
to one checkout at the same time.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

CHAINED = ""
"""The outcome of an edit that an image is chained for."""


@dataclass(frozen=True)
class Change:
    """A change of one file: `old` stands exactly once in it and `new` is put in its place.

    With an empty `old`, `new` is added at the end of the file, which is made if it is not there; `new` is None for a
    file that is deleted.
    """

    path: str
    old: str
    new: str | None

    def applied(self, text: str | None) -> str | None:
        """The text of the file after the change, where None is no file. Raises ValueError when it does not fit."""
        if self.new is None:
            return None
        if not self.old:
            return (text or "") + self.new
        if text is None or text.count(self.old) != 1:
            raise ValueError(f"{self.old!r} does not stand exactly once in {self.path}")
        return text.replace(self.old, self.new)


def append(path: str, text: str) -> Change:
    """Text at the end of a file, or a new file."""
    return Change(path, "", text)


def delete(path: str) -> Change:
    """A file that is not there any more."""
    return Change(path, "", None)


@dataclass(frozen=True)
class Edit:
    """An edit, what is to come of it, and how that shows."""

    name: str
    kind: str
    changes: tuple[Change, ...]
    outcome: str = CHAINED
    """A part of the reason for a full rebuild."""
    check: str = ""
    """A Julia program that is run on the image."""
    prints: str = ""
    """What the program prints."""
    new_code: bool = False
    """Whether all native code has to be made anew, which takes minutes: then only the plan is looked at."""
    alone: bool = False
    """Whether it can't be made together with other edits."""
    defect: str = ""
    """What basedev does wrong with it, as far as is known."""

    @property
    def together(self) -> bool:
        """Whether it can stand in one image with others."""
        return self.outcome == CHAINED and not (self.new_code or self.alone or self.defect)


def apply(root: Path, edits: Iterable[Edit]) -> None:
    """Makes edits to a checkout."""
    for edit in edits:
        for change in edit.changes:
            file = root / change.path
            text = change.applied(file.read_text() if file.is_file() else None)
            if text is None:
                file.unlink()
            else:
                file.write_text(text)


MARK = "\0"
"""What stands between the outputs of programs that are run as one."""


def joined(edits: Sequence[Edit]) -> tuple[str, list[str]]:
    """One program that runs the checks of edits, each after MARK, and what they print."""
    program = "\n".join(f'print("\\0")\n{edit.check}' for edit in edits)
    return program, [edit.prints for edit in edits]


def chosen(seed: int, number: int) -> list[Edit]:
    """Some of the edits that can stand together, none of which changes what the compiler is made of."""
    candidates = [
        edit
        for edit in EDITS
        if edit.together and not any(change.path in SHARED_WITH_COMPILER for change in edit.changes)
    ]
    return random.Random(seed).sample(candidates, number)


SHARED_WITH_COMPILER = frozenset({"base/iterators.jl", "base/error.jl"})
"""Files of the compiler that edits change: a full rebuild bootstraps the compiler then, which takes minutes more."""

UTIL = "base/strings/util.jl"
TIMING = "base/timing.jl"
GENERIC = "stdlib/LinearAlgebra/src/generic.jl"
UNIFORM = "stdlib/LinearAlgebra/src/uniformscaling.jl"
ADJUSTERS = "stdlib/Dates/src/adjusters.jl"
CONVERSIONS = "stdlib/Dates/src/conversions.jl"
ROUNDING = "stdlib/Dates/src/rounding.jl"
MENUS = "stdlib/REPL/src/TerminalMenus"

RENAMED = (
    Change(
        "stdlib/Base64/src/Base64.jl",
        "Base.Multimedia._textrepr(m, x, context) : _binstringmime(m, x, context)",
        "Base.Multimedia._textrepr(m, x, context) : encoded_mime(m, x, context)",
    ),
    Change(
        "stdlib/Base64/src/Base64.jl",
        "_binstringmime(m::MIME, x, context) = B",
        "encoded_mime(m::MIME, x, context) = B",
    ),
    Change(
        "stdlib/Base64/src/Base64.jl",
        "_binstringmime(m::MIME, x::Vector{UInt8}, context)",
        "encoded_mime(m::MIME, x::Vector{UInt8}, context)",
    ),
)

METHODS = (
    Edit(
        "count of bytes below zero",
        "bug fix in a method",
        (Change(TIMING, "    if value == 0 || value == 1\n", "    if value <= 1\n"),),
        check="print(Base.format_bytes(-5))",
        prints="-5 bytes",
    ),
    Edit(
        "isperm without xor",
        "performance rewrite of a loop",
        (
            Change(
                "base/combinatorics.jl",
                "        (0 < a <= n) && (used[a] ⊻= true) || return false\n",
                "        (0 < a <= n) && !used[a] || return false\n        @inbounds used[a] = true\n",
            ),
        ),
        check='print(isperm([2, 1, 3]), isperm([1, 1]), occursin("⊻", string(code_lowered(Base._isperm)[1])))',
        prints="truefalsefalse",
    ),
    Edit(
        "norm of -Inf without an iterator's state",
        "performance rewrite of a loop",
        (
            Change(
                GENERIC,
                """
function generic_normMinusInf(x)
    (v, s) = iterate(x)::Tuple
    minabs = norm(v)
    while true
        y = iterate(x, s)
        y === nothing && break
        (v, s) = y
        vnorm = norm(v)
        minabs = ifelse(isnan(minabs) | (minabs < vnorm), minabs, vnorm)
    end
    return float(minabs)
end
""",
                """
function generic_normMinusInf(x)
    minabs = norm(first(x))
    for v in Iterators.drop(x, 1)
        vnorm = norm(v)
        minabs = ifelse(isnan(minabs) | (minabs < vnorm), minabs, vnorm)
    end
    return float(minabs)
end
""",
            ),
        ),
        check="using LinearAlgebra; print(norm([3, -2, 5], -Inf), LinearAlgebra.generic_normMinusInf([2, NaN]))",
        prints="2.0NaN",
    ),
    Edit(
        "bswap of views",
        "relaxed signature",
        (
            Change(
                "stdlib/SHA/src/base_functions.jl",
                "bswap!(x::Vector{<:Integer}) = map!(bswap, x, x)",
                "bswap!(x::AbstractVector{<:Integer}) = map!(bswap, x, x)",
            ),
        ),
        check="import SHA; print(SHA.bswap!(view([0x0102, 0x0304], 1:2)), length(methods(SHA.bswap!)))",
        prints="UInt16[0x0201, 0x0403]1",
    ),
    Edit(
        "isassigned of code points only",
        "restricted signature, documented",
        (
            Change(
                "stdlib/Unicode/src/Unicode.jl",
                "isassigned(c) = Base.Unicode.isassigned(c)",
                "isassigned(c::Union{Integer,AbstractChar}) = Base.Unicode.isassigned(c)",
            ),
        ),
        check="using Unicode; print(hasmethod(Unicode.isassigned, (String,)), Unicode.isassigned('x'),"
        ' length(collect(eachmatch(r"Returns", string(Base.Docs.doc(Unicode.isassigned))))))',
        prints="falsetrue1",
    ),
    Edit(
        "unix time in digits",
        "new keyword argument with default",
        (
            Change(
                CONVERSIONS,
                "datetime2unix(dt::DateTime) = (value(dt) - UNIXEPOCH) / 1000.0",
                "datetime2unix(dt::DateTime; digits::Integer=3) =\n"
                "    round((value(dt) - UNIXEPOCH) / 1000.0, digits=digits)",
            ),
        ),
        check="using Dates; t = DateTime(1970, 1, 1, 0, 0, 1, 567); print(datetime2unix(t), '|', datetime2unix(t,"
        " digits=1))",
        prints="1.567|1.6",
    ),
    Edit(
        "empty compound period is zero",
        "new method of another module's function",
        (
            Change(
                "stdlib/Dates/src/periods.jl",
                "Base.show(io::IO,x::CompoundPeriod) = print(io, string(x))\n",
                "Base.show(io::IO,x::CompoundPeriod) = print(io, string(x))\n"
                "Base.iszero(x::CompoundPeriod) = isempty(x.periods)\n",
            ),
        ),
        check="using Dates; print(iszero(Dates.CompoundPeriod()), iszero(Day(1) + Hour(1)))",
        prints="truefalse",
    ),
    Edit(
        "binary mime helper",
        "renamed internal helper with its callers",
        RENAMED,
        check='using Base64; print(stringmime("image/png", UInt8[1]), isdefined(Base64, :_binstringmime),'
        " length(methods(Base64.encoded_mime)))",
        prints="AQ==false2",
        alone=True,  # see below
    ),
    Edit(
        "binary mime helper, and units of bytes",
        "renamed internal helper beside a changed constant",
        (
            *RENAMED,
            Change(TIMING, 'const _mem_units = ["byte", "KiB",', 'const _mem_units = ["byte", "kiB",'),
        ),
        check="using Base64; print(isdefined(Base64, :_binstringmime), Base.format_bytes(2048))",
        prints="false2.000 kiB",
    ),
    Edit(
        "rank with positional tolerance",
        "deleted deprecated method",
        (
            Change(
                "stdlib/LinearAlgebra/src/deprecated.jl", "rank(A::AbstractMatrix, tol::Real) = rank(A,rtol=tol)\n", ""
            ),
        ),
        check="using LinearAlgebra; print(hasmethod(rank, (Matrix{Float64}, Float64)), rank([1 0; 0 0]))",
        prints="false1",
    ),
    Edit(
        "remainder of uniform scaling",
        "operator method",
        (
            Change(
                UNIFORM,
                "imag(J::UniformScaling) = UniformScaling(imag(J.λ))\n",
                "imag(J::UniformScaling) = UniformScaling(imag(J.λ))\n"
                "Base.:%(J::UniformScaling, n::Number) = UniformScaling(J.λ % n)\n",
            ),
        ),
        check="using LinearAlgebra; print((7I % 4).λ)",
        prints="3",
    ),
    Edit(
        "uniform scaling called",
        "callable object",
        (
            Change(
                UNIFORM,
                "(I::UniformScaling)(n::Integer) = Diagonal(fill(I.λ, n))",
                "function (I::UniformScaling)(n::Integer)\n"
                '    n < 0 && throw(ArgumentError("size can\'t be negative"))\n'
                "    Diagonal(fill(I.λ, n))\nend",
            ),
        ),
        check="using LinearAlgebra; print(try I(-1) catch err; err.msg end, size(I(3)))",
        prints="size can't be negative(3, 3)",
    ),
    Edit(
        "IPv4 out of range",
        "inner constructor",
        (
            Change(
                "stdlib/Sockets/src/IPAddr.jl",
                'field out of range (must be 0-255)"))\n        end\n        IPv4(UInt8(a)',
                'field $((a, b, c, d)) is out of range (must be 0-255)"))\n        end\n        IPv4(UInt8(a)',
            ),
        ),
        check='using Sockets; print(try IPv4(1, 2, 3, 256) catch err; err.msg end, ip"1.2.3.4")',
        prints="IPv4 field (1, 2, 3, 256) is out of range (must be 0-255)1.2.3.4",
    ),
    Edit(
        "UUID of two numbers",
        "outer constructor",
        (
            Change(
                "base/uuid.jl",
                "UUID(u::NTuple{2, UInt64}) =",
                "UUID(high::UInt64, low::UInt64) = UUID((high, low))\nUUID(u::NTuple{2, UInt64}) =",
            ),
        ),
        check="print(Base.UUID(UInt64(1), UInt64(2)))",
        prints="00000000-0000-0001-0000-000000000002",
    ),
    Edit(
        "fold's length",
        "method with optionally generated code",
        (
            Change(
                "base/combinatorics.jl",
                "    @assert N::Integer > 0\n",
                '    N::Integer > 0 || throw(ArgumentError("nothing to fold"))\n',
            ),
        ),
        check="print(Base._foldoneto(+, 0, Val(3)), try Base._foldoneto(+, 0, Val(0)) catch err; err.msg end,"
        " isperm((2, 3, 1)))",
        prints="6nothing to foldtrue",
    ),
    Edit(
        "sampler of short tuples",
        "generated function",
        (
            Change(
                "stdlib/Random/src/generation.jl",
                "@generated function rand(rng::AbstractRNG, sp::SamplerSimple{T}) where T<:Tuple\n",
                "@generated function rand(rng::AbstractRNG, sp::SamplerSimple{T}) where T<:Tuple\n"
                "    isempty(fieldnames(T)) && return :(sp.data)\n",
            ),
        ),
        check="using Random; s = Random.SamplerSimple{Tuple{},Tuple{},Tuple{}}((), ());"
        " print(rand(MersenneTwister(1), s))",
        prints="()",
    ),
    Edit(
        "julian days, called",
        "@noinline added",
        (
            Change(
                CONVERSIONS,
                "datetime2julian(dt::DateTime) =",
                "@noinline datetime2julian(dt::DateTime) =",
            ),
        ),
        check="using Dates; m = which(datetime2julian, (DateTime,)); print(datetime2julian(DateTime(2000, 1, 1, 12)),"
        " any(e -> Meta.isexpr(e, :meta) && :noinline in e.args, Base.uncompressed_ast(m).code))",
        prints="2.451545e6true",
    ),
    Edit(
        "days of epoch, inlined",
        "@inline added",
        (Change(ROUNDING, "date2epochdays(dt::Date) =", "@inline date2epochdays(dt::Date) ="),),
        check="using Dates; print(Dates.date2epochdays(Date(0)),"
        " Base.uncompressed_ast(which(Dates.date2epochdays, (Date,))).inlineable)",
        prints="0true",
    ),
    Edit(
        "epoch given",
        "default argument added",
        (
            Change(
                ROUNDING,
                "epochdays2date(i) = Date(UTD(DATEEPOCH + Int64(i)))",
                "epochdays2date(i, epoch=DATEEPOCH) = Date(UTD(epoch + Int64(i)))",
            ),
        ),
        check="using Dates; print(Dates.epochdays2date(3), '|', Dates.epochdays2date(3, 0), '|',"
        " length(methods(Dates.epochdays2date)))",
        prints="0000-01-04|0001-01-03|2",
    ),
    Edit(
        "permutations of machine integers",
        "method with where changed",
        (
            Change(
                "stdlib/Random/src/misc.jl",
                "randperm(r::AbstractRNG, n::T) where {T <: Integer} =",
                "randperm(r::AbstractRNG, n::T) where {T <: Base.BitInteger} =",
            ),
        ),
        check="using Random; r = MersenneTwister(1); print(hasmethod(randperm, (typeof(r), BigInt)),"
        " sort(randperm(r, 3)))",
        prints="false[1, 2, 3]",
    ),
    Edit(
        "prompt strips",
        "keyword function",
        (Change("base/util.jl", "    uinput = chomp(uinput)\n", "    uinput = strip(uinput)\n"),),
        check='print(Base.prompt(IOBuffer(" \\n"), devnull, "q", default="d"), Base.prompt(IOBuffer(" x\\n"),'
        ' devnull, "q"))',
        prints="dx",
    ),
    Edit(
        "supertypes as types",
        "keyword argument added to a recursive function",
        (
            Change(
                "stdlib/InteractiveUtils/src/InteractiveUtils.jl",
                "function supertypes(T::Type)\n    S = supertype(T)",
                "function supertypes(T::Type; last=Any)\n    T === last && return (T,)\n    S = supertype(T)",
            ),
            Change(
                "stdlib/InteractiveUtils/src/InteractiveUtils.jl",
                "(T, supertypes(S)...)",
                "(T, supertypes(S; last=last)...)",
            ),
        ),
        check="using InteractiveUtils; print(supertypes(Int, last=Integer), supertypes(Integer))",
        prints="(Int64, Signed, Integer)(Integer, Real, Number, Any)",
    ),
    Edit(
        "user's home abbreviated once",
        "method in conditional top-level code",
        (Change("base/path.jl", "    if path == home\n", "    if path == home || path == home * '/'\n"),),
        check='print(Base.contractuser(homedir() * "/"), Base.contractuser("/x"))',
        prints="~/x",
    ),
    Edit(
        "other system's branch",
        "conditional top-level code that is not evaluated",
        (
            Change(
                "base/download.jl",
                "System32\\\\WindowsPowerShell\\\\v1.0\\\\powershell.exe",
                "System32\\\\PowerShell\\\\powershell.exe",
            ),
        ),
        check="print(isdefined(Base, :download_powershell))",
        prints="false",
    ),
    Edit(
        "UUID with braces",
        "method in a let block",
        (Change("base/uuid.jl", "        s = lowercase(s)\n", "        s = lowercase(strip(s, ['{', '}']))\n"),),
        check='print(Base.UUID("{00000000-0000-0001-0000-00000000000A}"))',
        prints="00000000-0000-0001-0000-00000000000a",
    ),
    Edit(
        "frames of modules",
        "nested module of Base",
        (
            Change(
                "base/stacktraces.jl",
                "\nis_top_level_frame(f::StackFrame) =",
                "\nremove_frames!(stack::StackTrace, modules::Vector{Module}) =\n"
                "    foldl(remove_frames!, modules; init=stack)\n\nis_top_level_frame(f::StackFrame) =",
            ),
        ),
        check="print(length(StackTraces.remove_frames!([StackTraces.UNKNOWN], [Base])))",
        prints="1",
    ),
    Edit(
        "include of symbols",
        "baremodule",
        (
            Change(
                "base/client.jl",
                "eval(x) = Core.eval(Main, x)\nend\n",
                "eval(x) = Core.eval(Main, x)\neval(x, ::Core.Nothing) = nothing\nend\n",
            ),
        ),
        check="print(Base.MainInclude.eval(1, nothing), Base.MainInclude.eval(:(1 + 1)))",
        prints="nothing2",
    ),
    Edit(
        "promised width",
        "method of a submodule of a standard library",
        (
            Change(
                "stdlib/LinearAlgebra/src/blas.jl",
                "\nfunction check()\n",
                "\nis_64bit() = BlasInt === Int64\nfunction check()\n",
            ),
        ),
        check="using LinearAlgebra; print(LinearAlgebra.BLAS.is_64bit() === (LinearAlgebra.BlasInt === Int64))",
        prints="true",
    ),
    Edit(
        "tests specialized",
        "bare @nospecialize taken away",
        (Change("stdlib/Test/src/Test.jl", "type specialization\n@nospecialize\n", "type specialization\n"),),
        check="using Test; print(which(Test.test_expr!, (Any, Any)).nospecialize, (@test 1 == 1) isa Test.Pass)",
        prints="0true",
    ),
    Edit(
        "no text of texts",
        "method in a file that is included under a bare @nospecialize",
        (
            Change(
                "base/docs/utils.jl",
                "function catdoc(xs::Text...)\n",
                "catdoc(x::Text, ::HTML) = x\nfunction catdoc(xs::Text...)\n",
            ),
        ),
        check="D = Base.Docs; print(which(D.catdoc, (Text, HTML)).nospecialize, D.catdoc(Text(3), HTML(4)).content)",
        prints="-13",
    ),
    Edit(
        "missing parts",
        "Test",
        (
            Change(
                "stdlib/Test/src/Test.jl",
                "contains_warn(output, s::Function) = s(output)\n",
                "contains_warn(output, s::Function) = s(output)\ncontains_warn(output, ::Nothing) = isempty(output)\n",
            ),
        ),
        check='using Test; print(Test.contains_warn("", nothing), Test.contains_warn("a", r"a"))',
        prints="truetrue",
    ),
    Edit(
        "exception's index",
        "LinearAlgebra",
        (
            Change(
                "stdlib/LinearAlgebra/src/exceptions.jl",
                '    print(io, "; Cholesky factorization failed.")',
                '    print(io, "; Cholesky factorization failed at ", ex.info, ".")',
            ),
        ),
        check="using LinearAlgebra; print(sprint(showerror, PosDefException(2)))",
        prints="PosDefException: matrix is not positive definite; Cholesky factorization failed at 2.",
    ),
    Edit(
        "limit of strings",
        "Printf",
        (
            Change(
                "stdlib/Printf/src/Printf.jl",
                "    prec >= sizeof(s) && return s\n",
                '    prec >= sizeof(s) && return s\n    prec <= 0 && return ""\n',
            ),
        ),
        check='using Printf; print(repr(Printf._limit("abc", 0)), Printf._limit("abc", 2), @sprintf("%.2s", "xyz"))',
        prints='""abxy',
    ),
    Edit(
        "headers of Markdown",
        "Markdown",
        (Change("stdlib/Markdown/src/render/plain.jl", '    print(io, "#"^l*" ")\n', '    print(io, "#"^l, "  ")\n'),),
        check='using Markdown; print(Markdown.plain(Markdown.parse("## a")))',
        prints="##  a\n",
    ),
    Edit(
        "directories of any string",
        "Pkg",
        (
            Change(
                "stdlib/Pkg/src/utils.jl",
                "function casesensitive_isdir(dir::String)\n",
                "casesensitive_isdir(dir::AbstractString) = casesensitive_isdir(String(dir))\n"
                "function casesensitive_isdir(dir::String)\n",
            ),
        ),
        check='import Pkg; print(Pkg.casesensitive_isdir(SubString("/tmp")))',
        prints="true",
    ),
    Edit(
        "sparse vectors of nothing",
        "SparseArrays",
        (
            Change(
                "stdlib/SparseArrays/src/sparsevector.jl",
                "spzeros(len::Integer) = spzeros(Float64, len)",
                'spzeros(len::Integer) = len < 0 ? throw(ArgumentError("length $len")) : spzeros(Float64, len)',
            ),
        ),
        check="using SparseArrays; print(length(spzeros(3)), try spzeros(-1) catch err; err.msg end)",
        prints="3length -1",
    ),
    Edit(
        "keys of terminals",
        "REPL",
        (
            Change(
                f"{MENUS}/util.jl",
                "readKey(stream::IO=stdin) = UInt32(_readKey(stream))",
                "readKey(stream::IO=stdin) = UInt32(_readKey(stream))::UInt32",
            ),
        ),
        check='import REPL; print(REPL.TerminalMenus.readKey(IOBuffer("a")))',
        prints="97",
    ),
    Edit(
        "workers of a pool as a set",
        "Distributed",
        (
            Change(
                "stdlib/Distributed/src/workerpool.jl",
                "wp_local_length(pool::AbstractWorkerPool) = length(pool.workers)",
                "wp_local_length(pool::AbstractWorkerPool) = length(pool.workers)::Int\n"
                "wp_local_isempty(pool::AbstractWorkerPool) = wp_local_length(pool) == 0",
            ),
        ),
        check="using Distributed; print(Distributed.wp_local_isempty(WorkerPool([1])))",
        prints="false",
    ),
    Edit(
        "file events with and",
        "imported operator extended",
        (
            Change(
                "stdlib/FileWatching/src/FileWatching.jl",
                "    preserve_handle, unpreserve_handle, isreadable, iswritable, |\n",
                "    preserve_handle, unpreserve_handle, isreadable, iswritable, |, &\n",
            ),
            Change(
                "stdlib/FileWatching/src/FileWatching.jl",
                "\nstruct FDEvent\n",
                "\n(&)(a::FileEvent, b::FileEvent) =\n"
                "    FileEvent(a.renamed & b.renamed, a.changed & b.changed, a.timedout & b.timedout)\n"
                "\nstruct FDEvent\n",
            ),
        ),
        check="using FileWatching: FileEvent; print((FileEvent(3) & FileEvent(1)).renamed, FileEvent(3).changed)",
        prints="truetrue",
    ),
    Edit(
        "key missing from a weak dictionary",
        "method whose arguments are named anew",
        (
            Change(
                "base/weakkeydict.jl",
                "isempty(wkh::WeakKeyDict) = isempty(wkh.ht)",
                "isempty(dict::WeakKeyDict) = isempty(dict.ht)",
            ),
        ),
        check="print(isempty(WeakKeyDict()), Base.method_argnames(which(isempty, (WeakKeyDict,)))[2])",
        prints="truedict",
    ),
    Edit(
        "repeated not at all",
        "file shared by Base and Core.Compiler",
        (
            Change(
                "base/iterators.jl",
                "repeated(x, n::Integer) = take(repeated(x), Int(n))",
                "repeated(x, n::Integer) = take(repeated(x), ifelse(n < 0, 0, Int(n)))",
            ),
        ),
        check="print(length(Iterators.repeated(1, -1)), Core.Compiler.Iterators.repeated(1, -1).n)",
        prints="00",
    ),
)

NAMES = (
    Edit(
        "isinvolution",
        "new exported function with docstring",
        (
            Change(
                "base/combinatorics.jl",
                "# swap columns i and j of a, in-place\n",
                '"""\n    isinvolution(p) -> Bool\n\nWhether the permutation `p` is its own inverse.\n"""\n'
                "isinvolution(p::AbstractVector) = isperm(p) && all(i -> p[p[i]] == i, eachindex(p))\n\n"
                "# swap columns i and j of a, in-place\n",
            ),
            Change("base/exports.jl", "    isperm,\n", "    isinvolution,\n    isperm,\n"),
        ),
        check='print(isinvolution([2, 1]), isinvolution([2, 3, 1]), occursin("own inverse",'
        " string(Base.Docs.doc(isinvolution))))",
        prints="truefalsetrue",
    ),
    Edit(
        "units of counts",
        "constant that other methods use",
        (
            Change(
                TIMING,
                'const _cnt_units = ["", " k", " M", " G", " T", " P"]',
                'const _cnt_units = ["", " K", " M", " G", " T", " P"]',
            ),
        ),
        check="Base.time_print(1e9, 0, 0, 5000)",
        prints="  1.000000 seconds (5.00 K allocations: 0 bytes)",
    ),
    Edit(
        "names of UUIDs",
        "new constant that is computed",
        (
            Change(
                "stdlib/UUIDs/src/UUIDs.jl",
                "\nconst namespace_x500 =",
                "\nconst namespaces = Dict(:dns => namespace_dns, :url => namespace_url)\nconst namespace_x500 =",
            ),
        ),
        check="using UUIDs; print(UUIDs.namespaces[:url] == UUIDs.namespace_url, isconst(UUIDs, :namespaces))",
        prints="truetrue",
    ),
    Edit(
        "months convertible",
        "type alias that signatures use",
        (
            Change(
                ROUNDING,
                "const ConvertiblePeriod = Union{TimePeriod, Week, Day}",
                "const ConvertiblePeriod = Union{TimePeriod, Week, Day, Month}",
            ),
        ),
        check="using Dates; print(floor(Month(5), Month(3)), '|', floor(Day(16), Week))",
        prints="3 months|2 weeks",
    ),
    Edit(
        "stopwatch",
        "new struct with constructors",
        (
            append(
                TIMING,
                """
mutable struct Stopwatch
    started::UInt64
    laps::Vector{Float64}
    Stopwatch(started=time_ns()) = new(started, Float64[])
end
Stopwatch(other::Stopwatch) = Stopwatch(other.started)
lap!(watch::Stopwatch) = push!(watch.laps, (time_ns() - watch.started) / 1e9)
""",
            ),
        ),
        check="w = Base.Stopwatch(); Base.lap!(w); print(length(w.laps), Base.Stopwatch(w).started == w.started)",
        prints="1true",
    ),
    Edit(
        "rank of what is deficient",
        "struct field added",
        (
            Change(
                "stdlib/LinearAlgebra/src/exceptions.jl",
                "struct RankDeficientException <: Exception\n    info::BlasInt\nend\n",
                "struct RankDeficientException <: Exception\n    info::BlasInt\n    rank::BlasInt\nend\n"
                "RankDeficientException(info) = RankDeficientException(info, -1)\n",
            ),
        ),
        check="using LinearAlgebra; x = RankDeficientException(3); print(x.info, x.rank,"
        " try LinearAlgebra.chkfullrank(cholesky([1.0 1; 1 1], Val(true), check=false)) catch err; err.rank end)",
        prints="3-1-1",
    ),
    Edit(
        "execution results are results",
        "abstract type's supertype",
        (
            Change(
                "stdlib/Test/src/Test.jl",
                "abstract type ExecutionResult end",
                "abstract type ExecutionResult <: Result end",
            ),
        ),
        check="using Test; print(Test.Returned <: Test.Result, (@test 1 == 1) isa Test.Pass)",
        prints="truetrue",
    ),
    Edit(
        "times counted down",
        "macro with its users",
        (
            Change(
                "stdlib/Markdown/src/parse/util.jl",
                "        for i = 1:$(esc(n))\n",
                "        for _ = $(esc(n)):-1:1\n",
            ),
        ),
        check='using Markdown; print(Markdown.plain(Markdown.parse("* a\\n* b")))',
        prints="  * a\n  * b\n",
    ),
    Edit(
        "swap",
        "new macro",
        (
            append(
                "base/util.jl",
                '\n"""\n    @swap!(a, b)\n\nExchanges two variables.\n"""\n'
                "macro swap!(a, b)\n    :(($(esc(a)), $(esc(b))) = ($(esc(b)), $(esc(a))))\nend\n",
            ),
        ),
        check='a, b = 1, 2; Base.@swap!(a, b); print(a, b, occursin("Exchanges", string(@doc Base.@swap!)))',
        prints="21true",
    ),
    Edit(
        "default group of logs",
        "@eval loop extended",
        (Change("stdlib/Logging/src/Logging.jl", "    :SimpleLogger]\n", "    :SimpleLogger,\n    :default_group]\n"),),
        check='using Logging; print(Logging.default_group("a/b.jl"), Logging.Info, isconst(Logging, :default_group))',
        prints="bInfotrue",
    ),
    Edit(
        "profile knows top level",
        "import list extended",
        (
            Change(
                "stdlib/Profile/src/Profile.jl",
                "import Base.StackTraces: lookup, UNKNOWN, show_spec_linfo, StackFrame\n",
                "import Base.StackTraces: lookup, UNKNOWN, show_spec_linfo, StackFrame, is_top_level_frame\n",
            ),
        ),
        check="using Profile; print(Profile.is_top_level_frame === StackTraces.is_top_level_frame)",
        prints="true",
    ),
    Edit(
        "broadcast of dates",
        "unused import removed",
        (Change("stdlib/Dates/src/Dates.jl", ", /, %, broadcast\n", ", /, %\n"),),
        check="using Dates; print(Dates.broadcast === broadcast, Day(3) % Day(2))",
        prints="true1 day",
    ),
    Edit(
        "iterators of checksums",
        "`using` added",
        (
            Change(
                "stdlib/CRC32c/src/CRC32c.jl",
                "import Base.FastContiguousSubArray\n",
                "import Base.FastContiguousSubArray\nusing Base.Iterators\n",
            ),
        ),
        check='using CRC32c; print(CRC32c.partition === Iterators.partition, crc32c("a"))',
        prints="true3251651376",
    ),
    Edit(
        "twelve hours of formats",
        "method with which a constant of another type was computed",
        (
            Change(
                "stdlib/Dates/src/io.jl",
                "        letter = f[m.offset]\n",
                "        letter = f[m.offset] == 'H' ? 'I' : f[m.offset]\n",
            ),
        ),
        check="using Dates; print(Dates.ISOTimeFormat)",
        prints='dateformat"II:MM:SS.s"',
    ),
    Edit(
        "remark in an expression",
        "method with which a constant was computed that is the same but for a text",
        (
            Change(
                "base/regex.jl",
                "Regex(pattern::AbstractString) = Regex(pattern, DEFAULT_COMPILER_OPTS, DEFAULT_MATCH_OPTS)",
                'Regex(pattern::AbstractString) = Regex(pattern * (endswith(pattern, "(/+)([^/]*)\\$") ? "(?#p)" : ""),'
                " DEFAULT_COMPILER_OPTS, DEFAULT_MATCH_OPTS)",
            ),
        ),
        check='print(Base.Filesystem.path_dir_splitter.pattern[end-4:end], splitdir("a/b"))',
        prints='(?#p)("a", "b")',
        alone=True,
    ),
    Edit(
        "one more escape sequence",
        "constant into which others were merged when it was made",
        (
            Change(
                "stdlib/REPL/src/LineEdit.jl",
                '        "\\e[6**" => nothing,\n',
                '        "\\e[6**" => nothing,\n        "\\e[9**" => nothing,\n',
            ),
        ),
        check='using REPL; const L = REPL.LineEdit; print(haskey(L.escape_defaults, "\\e[9**"),'
        " haskey(L.default_keymap_dict['\\e']['['], '9'))",
        prints="truetrue",
    ),
    Edit(
        "selected iterators of encodings",
        "`using` of names added, and a method that needs it",
        (
            Change(
                "stdlib/Base64/src/Base64.jl",
                "using Base: require_one_based_indexing\n",
                "using Base: require_one_based_indexing\nusing Base.Iterators: partition\n",
            ),
            Change(
                "stdlib/Base64/src/Base64.jl",
                'include("decode.jl")\n',
                'include("decode.jl")\n\nwrapped(text, width) = join(map(join, partition(text, width)), "\\n")\n',
            ),
        ),
        check='using Base64; print(Base64.wrapped("abcde", 2))',
        prints="ab\ncd\ne",
    ),
    Edit(
        "in-place median",
        "export removed",
        (Change("stdlib/Statistics/src/Statistics.jl", "    median!, median, middle,", "    median, middle,"),),
        check="using Statistics; print(isdefined(Main, :median!), Statistics.median!([1, 2, 3]))",
        prints="false2.0",
    ),
    Edit(
        "no random bytes of another system",
        "export removed of a name that is never defined",
        (
            Change(
                "stdlib/Random/src/DSFMT.jl",
                "dsfmt_fill_array_close1_open2!,\n       win32_SystemFunction036!\n",
                "dsfmt_fill_array_close1_open2!\n",
            ),
        ),
        check='using Random; print(Base.isexported(Random.DSFMT, Symbol("win32_SystemFunction036!")))',
        prints="false",
    ),
    Edit(
        "base64 of addresses",
        "new file with its include and export",
        (
            append(
                "stdlib/Base64/src/url.jl",
                "# This file is a part of Julia. License is MIT: https://julialang.org/license\n\n"
                '"""\n    base64urlencode(args...)\n\nLike [`base64encode`](@ref), for addresses.\n"""\n'
                "base64urlencode(args...) =\n"
                "    map(c -> get(URL_CHARACTERS, c, c), base64encode(args...))\n"
                "const URL_CHARACTERS = Dict('+' => '-', '/' => '_')\n",
            ),
            Change(
                "stdlib/Base64/src/Base64.jl", 'include("encode.jl")\n', 'include("encode.jl")\ninclude("url.jl")\n'
            ),
            Change("stdlib/Base64/src/Base64.jl", "    base64decode,\n", "    base64decode,\n    base64urlencode,\n"),
        ),
        check="using Base64; print(base64urlencode([0xfb, 0xff]), ' ', basename(string(which(base64urlencode,"
        " ()).file)))",
        prints="-_8= url.jl",
    ),
    Edit(
        "strings that shout",
        "new file of a directory of Base, included by a name relative to `base`",
        (
            append("base/strings/shout.jl", "shout(s::AbstractString) = string(uppercase(s), '!')\n"),
            Change(
                "base/strings/strings.jl",
                'include("strings/io.jl")\n',
                'include("strings/io.jl")\ninclude("strings/shout.jl")\n',
            ),
        ),
        check="print(Base.shout(\"é\"), ' ', which(Base.shout, (String,)).file)",
        prints="É! strings/shout.jl",
    ),
    Edit(
        "digits of Ryu in a file of their own",
        "new file of a directory of Base, included by a name relative to it",
        (
            append("base/ryu/digits.jl", "significant(x) = count(isdigit, split(string(x), 'e')[1])\n"),
            Change("base/ryu/Ryu.jl", 'include("exp.jl")\n', 'include("exp.jl")\ninclude("digits.jl")\n'),
        ),
        check="print(Base.Ryu.significant(1.25e100))",
        prints="3",
    ),
    Edit(
        "deprecated arithmetic of dates",
        "file and its include removed",
        (
            delete("stdlib/Dates/src/deprecated.jl"),
            Change("stdlib/Dates/src/Dates.jl", 'include("deprecated.jl")\n', ""),
        ),
        check="using Dates; print(applicable(-, [DateTime(1)], DateTime(1)), [Day(3)] .- Day(1))",
        prints="false[Day(2)]",
    ),
    Edit(
        "truncation to hours",
        "definition moved to another file",
        (
            Change(ADJUSTERS, "Base.trunc(t::Time, p::Type{Hour}) = Time(Hour(t))\n", ""),
            append(ROUNDING, "\nBase.trunc(t::Time, p::Type{Hour}) = Time(Hour(t))\n"),
        ),
        check="using Dates; print(trunc(Time(3, 4), Hour), basename(string(which(trunc, (Time, Type{Hour})).file)))",
        prints="03:00:00rounding.jl",
    ),
    Edit(
        "truncations in order",
        "definitions in another order",
        (
            Change(
                ADJUSTERS,
                "Base.trunc(dt::DateTime, p::Type{Minute}) = dt - Second(dt) - Millisecond(dt)\n"
                "Base.trunc(dt::DateTime, p::Type{Second}) = dt - Millisecond(dt)\n",
                "Base.trunc(dt::DateTime, p::Type{Second}) = dt - Millisecond(dt)\n"
                "Base.trunc(dt::DateTime, p::Type{Minute}) = dt - Second(dt) - Millisecond(dt)\n",
            ),
        ),
        check="using Dates; l(T) = which(trunc, (DateTime, Type{T})).line; print(l(Minute) - l(Second),"
        " l(Millisecond) - l(Minute))",
        prints="11",
    ),
    Edit(
        "words about the environment",
        "comment and white space only",
        (
            Change("base/env.jl", "## ENV: hash interface ##\n\n", "\n## The environment is a dictionary ##\n\n\n"),
            Change("base/env.jl", "        val == C_NULL ?", "        val  ==  C_NULL ?"),
        ),
        check='print(withenv(() -> ENV["CORPUS"], "CORPUS" => "here"))',
        prints="here",
    ),
    Edit(
        "lines of UUIDs",
        "moved lines",
        (
            Change(
                "stdlib/UUIDs/src/UUIDs.jl",
                "\nimport SHA\n",
                "\n# for uuid5\n# of names\nimport SHA\n",
            ),
        ),
        check="using UUIDs; file, line = functionloc(uuid_version, (UUID,)); print(readlines(file)[line])",
        prints="uuid_version(u::UUID) = Int((u.value >> 76) & 0xf)",
    ),
    Edit(
        "lines of macros for tasks",
        "moved lines",
        (Change("base/task.jl", "    CompositeException\n\nWrap a", "    CompositeException\n\nMany.\n\nWrap a"),),
        # In a function that a macro was used in, and in a closure that a macro made of `(sleep(timeout_s); close(fm))`,
        # whose line Julia takes for one of the macro's file.
        check="using Distributed, FileWatching; lines(m) = [line.line for line in Base.uncompressed_ast(m).linetable"
        ' if line.file === Symbol("task.jl")]; closures = filter(n -> startswith(string(n), "#") &&'
        " getfield(FileWatching, n) isa Type, names(FileWatching, all=true)); methods_of(n) ="
        " Base.MethodList(Base.unwrap_unionall(getfield(FileWatching, n)).name.mt);"
        " print(maximum(lines(first(methods(Distributed._require_callback)))) -"
        ' first(methods(Base.var"@sync_add")).line, " ",'
        " maximum(l for n in closures for m in methods_of(n) for l in lines(m)))",
        prints="5 788",
    ),
    Edit(
        "twice the samples",
        "__init__ in conditional top-level code",
        (
            Change(
                "stdlib/Profile/src/Profile.jl",
                "__init__() = init(1_000_000, 0.001)",
                "__init__() = init(2_000_000, 0.001)",
            ),
        ),
        check="using Profile; print(Profile.init()[1])",
        prints="2000000",
    ),
    Edit(
        "bytes of small numbers",
        "precompile statement",
        (append(TIMING, "\nprecompile(Tuple{typeof(format_bytes), Int32})\n"),),
        check="print(Base.format_bytes(Int32(3)))",
        prints="3 bytes",
    ),
    Edit(
        "no lines shown yet",
        "`global` with another value",
        (
            Change(
                "base/errorshow.jl",
                "global LAST_SHOWN_LINE_INFOS = Tuple{String, Int}[]",
                'global LAST_SHOWN_LINE_INFOS = Tuple{String, Int}[("corpus", 1)]',
            ),
        ),
        check="print(Base.LAST_SHOWN_LINE_INFOS)",
        prints='[("corpus", 1)]',
    ),
    Edit(
        "total of allocations",
        "@deprecate added",
        (
            Change(
                "base/deprecated.jl",
                "# END 1.5 deprecations\n",
                "@deprecate gc_total_allocations(n::GC_Num) gc_total_bytes(n) false\n\n# END 1.5 deprecations\n",
            ),
        ),
        check="print(Base.gc_total_allocations(Base.gc_num()) > 0, Base.isexported(Base, :gc_total_allocations))",
        prints="truefalse",
    ),
    Edit(
        "any branch",
        "@enum with another member",
        (
            Change(
                "stdlib/LibGit2/src/consts.jl",
                "@enum(GIT_BRANCH, BRANCH_LOCAL = 1, BRANCH_REMOTE = 2)",
                "@enum(GIT_BRANCH, BRANCH_LOCAL = 1, BRANCH_REMOTE = 2, BRANCH_ALL = 3)",
            ),
        ),
        check="using LibGit2; print(instances(LibGit2.Consts.GIT_BRANCH))",
        prints="(LibGit2.Consts.BRANCH_LOCAL, LibGit2.Consts.BRANCH_REMOTE, LibGit2.Consts.BRANCH_ALL)",
    ),
    Edit(
        "key that inserts",
        "@enum with another member, which other methods use",
        (Change(f"{MENUS}/util.jl", "    PAGE_DOWN)\n", "    PAGE_DOWN,\n    INSERT_KEY)\n"),),
        check="import REPL; T = REPL.TerminalMenus; print(instances(T.Key)[end], T.ARROW_LEFT isa T.Key,"
        ' T._readKey(IOBuffer("\\x16")))',
        prints="INSERT_KEYtruePAGE_DOWN",
    ),
    Edit(
        "progress from one",
        "default of a @kwdef struct",
        (
            Change(
                "stdlib/LibGit2/src/types.jl",
                "    indexed_objects::Cuint  = Cuint(0)\n",
                "    indexed_objects::Cuint  = Cuint(1)\n",
            ),
        ),
        check="using LibGit2; print(LibGit2.TransferProgress().indexed_objects,"
        " LibGit2.TransferProgress().local_objects)",
        prints="10",
    ),
    Edit(
        "golden constant",
        "@irrational added",
        (
            Change(
                "base/mathconstants.jl",
                "Base.@irrational catalan ",
                "Base.@irrational silver   2.41421356237309504880  1+sqrt(big(2))\nBase.@irrational catalan ",
            ),
        ),
        check="print(Base.MathConstants.silver, '|', float(Base.MathConstants.silver))",
        prints="silver|2.414213562373095",
    ),
    Edit(
        "prompt without default",
        "keyword argument removed",
        (
            Change(
                "base/util.jl",
                'prompt(message::AbstractString; default::AbstractString="") ='
                " prompt(stdin, stdout, message, default=default)",
                "prompt(message::AbstractString) = prompt(stdin, stdout, message)",
            ),
        ),
        check="print(hasmethod(Base.prompt, (String,), (:default,)), hasmethod(Base.prompt, (String,)))",
        prints="falsetrue",
    ),
    Edit(
        "summary of processors somewhere",
        "default argument removed",
        (
            Change(
                "base/sysinfo.jl",
                "function cpu_summary(io::IO=stdout, cpu::",
                "function cpu_summary(io::IO, cpu::",
            ),
        ),
        check="print(length(methods(Sys.cpu_summary)), hasmethod(Sys.cpu_summary, ()))",
        prints="2false",
    ),
    Edit(
        "isimmutable of each type",
        "@nospecialize removed",
        (
            Change(
                "base/deprecated.jl",
                "isimmutable(@nospecialize(x)) = !ismutable(x)",
                "isimmutable(x) = !ismutable(x)",
            ),
        ),
        check="print(which(isimmutable, (Any,)).nospecialize, isimmutable(1))",
        prints="0true",
    ),
    Edit(
        "spans",
        "new nested module that is used",
        (
            append(
                "base/util.jl",
                '\n"Lengths of ranges."\nmodule Spans\nexport span\nspan(r) = last(r) - first(r)\nend\nusing .Spans\n',
            ),
        ),
        check='print(Base.span(2:5), parentmodule(Base.Spans), occursin("Lengths", string(Base.Docs.doc(Base.Spans))))',
        prints="3Basetrue",
    ),
    Edit(
        "elements of generic sets",
        "struct's parameter renamed",
        (
            Change(
                "stdlib/Test/src/Test.jl",
                "struct GenericSet{T} <: AbstractSet{T}\n    s::AbstractSet{T}",
                "struct GenericSet{E} <: AbstractSet{E}\n    s::AbstractSet{E}",
            ),
        ),
        check="using Test; print(Test.GenericSet.var.name, Test.GenericSet(Set([1])) isa AbstractSet{Int})",
        prints="Etrue",
    ),
)

DOCUMENTATION = (
    Edit(
        "head of a package told",
        "docstring reworded in a file that includes one with another of the same name",
        (
            Change(
                "stdlib/LibGit2/src/LibGit2.jl",
                "Return current HEAD [`GitHash`](@ref) of\nthe `pkg` repo as a string.\n",
                "Return the present HEAD [`GitHash`](@ref) of\nthe `pkg` repo as a string.\n",
            ),
        ),
        check="using LibGit2; print(Base.Docs.meta(LibGit2)[Base.Docs.Binding(LibGit2, :head)].order)",
        prints="Type[Tuple{GitRepo}, Tuple{AbstractString}]",
    ),
    Edit(
        "retry told",
        "docstring reworded",
        (
            Change(
                "base/error.jl",
                "Return an anonymous function that calls function `f`.",
                "Return a function that calls function `f`.",
            ),
        ),
        check='d = string(Base.Docs.doc(retry)); print(occursin("Return a function", d), occursin("anonymous", d))',
        prints="truefalse",
    ),
    Edit(
        "collector's time told",
        "docstring added",
        (
            Change(
                TIMING,
                "# total time spend in garbage collection, in nanoseconds\n",
                '"""\n    Base.gc_time_ns()\n\nTotal time spent in garbage collection, in nanoseconds.\n"""\n',
            ),
        ),
        check='print(occursin("Total time", string(Base.Docs.doc(Base.gc_time_ns))), Base.gc_time_ns() isa UInt64)',
        prints="truetrue",
    ),
    Edit(
        "zero pivot untold",
        "docstring removed",
        (
            Change(
                "stdlib/LinearAlgebra/src/exceptions.jl",
                '''
"""
    ZeroPivotException <: Exception

Exception thrown when a matrix factorization/solve encounters a zero in a pivot (diagonal)
position and cannot proceed.  This may *not* mean that the matrix is singular:
it may be fruitful to switch to a diffent factorization such as pivoted LU
that can re-order variables to eliminate spurious zero pivots.
The `info` field indicates the location of (one of) the zero pivot(s).
"""
''',
                "\n",
            ),
        ),
        check='using LinearAlgebra; print(occursin("No documentation", string(Base.Docs.doc(ZeroPivotException))))',
        prints="true",
    ),
    Edit(
        "export told",
        "documentation of a keyword",
        (
            Change(
                "base/docs/basedocs.jl",
                "`export` is used within modules to tell Julia which functions should be\n",
                "`export` is used within modules to tell Julia which names should be\n",
            ),
        ),
        check='print(occursin("which names", string(Base.Docs.parsedoc(Base.Docs.keywords[:export]))))',
        prints="true",
    ),
    Edit(
        "identifiers told",
        "module's docstring",
        (
            Change(
                "stdlib/UUIDs/src/UUIDs.jl",
                "This module provides universally unique identifiers (UUIDs),",
                "This module makes universally unique identifiers (UUIDs),",
            ),
        ),
        check='using UUIDs; print(occursin("module makes", string(Base.Docs.doc(UUIDs))))',
        prints="true",
    ),
    Edit(
        "flags told",
        "docstring of several names",
        (
            Change(
                "stdlib/Libdl/src/Libdl.jl",
                "Enum constant for [`dlopen`](@ref). See your",
                "Flag for [`dlopen`](@ref). See your",
            ),
        ),
        check='using Libdl; print(occursin("Flag for", string(Base.Docs.doc(Base.Docs.Binding(Libdl, :RTLD_NOW)))))',
        prints="true",
    ),
    Edit(
        "download hooks told",
        "docstring of a constant added",
        (
            Change(
                "base/download.jl",
                "const DOWNLOAD_HOOKS = Callable[]\n",
                '"What is called with an address before it is fetched."\nconst DOWNLOAD_HOOKS = Callable[]\n',
            ),
        ),
        check='print(occursin("before it is", string(@doc Base.DOWNLOAD_HOOKS)), Base.DOWNLOAD_HOOKS)',
        prints="trueUnion{Function, Type}[]",
    ),
    Edit(
        "padded when there is padding",
        "method that calls what is defined later",
        (append("base/strings/basic.jl", "\npadded(s::AbstractString, n::Int=3) = lpad(s, n)\n"),),
        check='print(Base.padded("1"))',
        prints="  1",
    ),
    Edit(
        "hashes told",
        "module's first docstring",
        (Change("stdlib/SHA/src/SHA.jl", "\nmodule SHA\n", '\n"""\nSecure hashes.\n"""\nmodule SHA\n'),),
        check="import SHA, Mmap; place(m) = findfirst(==(m), Base.Docs.modules);"
        " print(place(SHA) < place(Mmap), first(methods(SHA.eval)).line)",
        prints="true6",
    ),
    Edit(
        "using told at length",
        "docstrings of keywords moved",
        (
            Change(
                "base/docs/basedocs.jl",
                "the name `foo`), whether they are `export`ed or not.\n",
                "the name `foo`), whether they are `export`ed or not.\n\nA second name is `using Foo: foo as bar`.\n",
            ),
        ),
        check="print(Base.Docs.keywords[:quote].data[:linenumber])",
        prints="393",
    ),
)

REFUSED = (
    Edit(
        "finalizer of weak keys",
        "closure in a constructor with which constants of other modules were computed",
        (
            Change(
                "base/weakkeydict.jl",
                "            if islocked(t)\n",
                "            k === :never && return nothing\n            if islocked(t)\n",
            ),
        ),
        outcome="was filled after it was bound",
    ),
    Edit(
        "docstrings that know more",
        "function that stores docstrings",
        (
            Change(
                "base/docs/Docs.jl",
                "    str.data[:typesig] = sig\n    return b\n",
                "    str.data[:typesig] = sig\n    str.data[:known] = true\n    return b\n",
            ),
        ),
        "what documents definitions changed",
    ),
    Edit(
        "docstrings of some modules elsewhere",
        "function that stores docstrings, in a case that few definitions are",
        (
            Change(
                "base/docs/Docs.jl",
                "    m = get!(meta(__module__), b, MultiDoc())\n",
                "    defined(b) && resolve(b) === Base.Ryu && initmeta((__module__ = Base.Ryu))\n"
                "    m = get!(meta(__module__), b, MultiDoc())\n",
            ),
        ),
        "what documents definitions changed",
    ),
    Edit(
        "docstrings in one piece",
        "function that makes docstrings of text",
        (
            Change(
                "base/docs/Docs.jl",
                "_docstr(vec::Core.SimpleVector, data) = DocStr(vec,            nothing, data)",
                '_docstr(vec::Core.SimpleVector, data) = DocStr(Core.svec(vec..., "\\n"), nothing, data)',
            ),
        ),
        "what documents definitions changed",
    ),
    Edit(
        "docstrings of macros' definitions that tell their place",
        "function that documents what macros mark",
        (
            Change(
                "base/docs/Docs.jl",
                'each.args = [Symbol("@doc"), nothing, meta, ',
                'each.args = [Symbol("@doc"), LineNumberNode(1, :marked), meta, ',
            ),
        ),
        "what documents definitions changed",
    ),
    Edit(
        "padded before there is padding",
        "constant computed with a function that is defined later",
        (append("base/strings/basic.jl", '\nconst PADDED = lpad("1", 3)\n'),),
        "constant PADDED in base/strings/basic.jl:755 needs lpad, which comes only later, in base/strings/util.jl:",
    ),
    Edit(
        "matches before there are regexes",
        "signature with a type that is defined later",
        (append("base/strings/basic.jl", "\nmatches(s::String, r::Regex) = occursin(r, s)\n"),),
        "method matches in base/strings/basic.jl:755 needs Regex, which comes only later, in base/regex.jl:",
    ),
    Edit(
        "timed before there is a stopwatch",
        "macro used that is defined later",
        (append("base/strings/basic.jl", "\ntimed(s::String) = @elapsed length(s)\n"),),
        "method timed in base/strings/basic.jl:755 needs @elapsed, which comes only later, in base/timing.jl:",
    ),
    Edit(
        "back off not so long",
        "struct field added, and compiled code has objects",
        (
            Change("base/error.jl", "    jitter::Float64\n\n", "    jitter::Float64\n    calls::Int\n\n"),
            Change(
                "base/error.jl",
                "        new(n, first_delay, max_delay, factor, jitter)",
                "        new(n, first_delay, max_delay, factor, jitter, 0)",
            ),
        ),
        "Base.ExponentialBackOff is another type, and the base image has objects",
    ),
    Edit(
        "fields of dates told",
        "docstrings made by an @eval loop",
        (
            Change(
                "stdlib/Dates/src/accessors.jl",
                "        The $($name) of a `Date` or `DateTime` as an [`Int64`](@ref).\n"
                '        """ $func(dt::TimeType)\n    end\nend\n\n"""\n    week(',
                "        The $($name) of any date as an [`Int64`](@ref).\n"
                '        """ $func(dt::TimeType)\n    end\nend\n\n"""\n    week(',
            ),
        ),
        check='using Dates; print(occursin("of any date", string(Base.Docs.doc(Dates.year))))',
        prints="true",
    ),
    Edit(
        "menus in Unicode",
        "top-level call",
        (Change(f"{MENUS}/config.jl", "config(charset=:ascii, scroll", "config(charset=:unicode, scroll"),),
        "what it did can't be taken back",
    ),
    Edit(
        "table of factorials",
        "constant that is filled after it was bound",
        (Change("base/combinatorics.jl", "Vector{Int64}(undef, 20)", "Vector{Int64}(undef, 21)"),),
        "Base._fact_table64 was filled after it was bound",
    ),
    Edit(
        "factorial of one",
        "top-level assignment to an element",
        (Change("base/combinatorics.jl", "_fact_table128[1] = 1\n", "_fact_table128[1] = 2\n"),),
        "_fact_table128",
    ),
    Edit(
        "settings of menus",
        "variable that a call fills",
        (Change(f"{MENUS}/config.jl", "\nCONFIG = Dict()\n", "\nCONFIG = Dict{Symbol,Any}()\n"),),
        "CONFIG",
    ),
    Edit(
        "dependency of Base64",
        "Project.toml",
        (append("stdlib/Base64/Project.toml", '\n[compat]\njulia = "1"\n'),),
        "stdlib/Base64/Project.toml changed",
    ),
    Edit(
        "Core",
        "boot.jl",
        (
            Change(
                "base/boot.jl",
                "struct DivideError         <: Exception end",
                "struct DivideError <: Exception end # x\nstruct DivideError2 <: Exception end",
            ),
        ),
        "base/boot.jl is the Core module",
    ),
    Edit(
        "pairs of equals",
        "struct of which the image has objects",
        (Change("base/pair.jl", "struct Pair{A, B}\n", "struct Pair{A, B} <: Function\n"),),
        "Pair",
    ),
    Edit(
        "another logging",
        "module renamed",
        (Change("stdlib/Logging/src/Logging.jl", "module Logging\n", "module Loggings\n"),),
        "stdlib/Logging/src/Logging.jl:3 is gone",
    ),
    Edit(
        "names in lower case too",
        "method that computed a constant",
        (
            Change(
                "stdlib/Dates/src/query.jl",
                "        result[lowercase(name)] = i\n",
                "        result[lowercase(name)] = -i\n",
            ),
        ),
        check='using Dates; print(Dates.ENGLISH.month_value["january"])',
        prints="-1",
    ),
    Edit(
        "chop twice",
        "method that is defined twice",
        (append(UTIL, "\nchomp(s::String) = SubString(s)\n"),),
        "defined a second time",
    ),
    Edit(
        "isperm for Base only",
        "export that another module uses",
        (Change("base/exports.jl", "    isperm,\n", ""),),
        "Base.isperm is not exported any more",
    ),
)

UTC_NOW = '''\
"""
    now(::Type{UTC}) -> DateTime

Return a `DateTime` corresponding to the user's system time as UTC/GMT.
"""
now(::Type{UTC}) = unix2datetime(time())

'''

STALE = (
    Edit(
        "defaults of keywords are kept as they are",
        "function that a macro calls",
        (
            Change(
                "base/util.jl",
                "Expr(:kw, var, esc(defexpr))",
                "Expr(:kw, var, :(identity($(esc(defexpr)))))",
            ),
        ),
        check='using LibGit2; print(occursin("identity", string(code_lowered(LibGit2.TransferProgress, ())[1])))',
        prints="true",
    ),
    Edit(
        "formats without letters",
        "function that a generated function's generator calls",
        (
            Change(
                "stdlib/Dates/src/parse.jl",
                "    letters = sizehint!(Char[], length(directives))\n",
                "    letters = sizehint!(Char[], length(directives))\n"
                '    length(directives) == 5 && error("not so long")\n',
            ),
        ),
        check='using Dates; print(try Date("2000-01-01") catch err; err.msg end)',
        prints="not so long",
    ),
    Edit(
        "now, universal first",
        "documented methods of one function in another order",
        (
            Change(CONVERSIONS, UTC_NOW, ""),
            Change(CONVERSIONS, '"""\n    now() -> DateTime\n', UTC_NOW + '"""\n    now() -> DateTime\n'),
        ),
        check="using Dates; print(Base.Docs.meta(Dates)[Base.Docs.Binding(Dates, :now)].order)",
        prints="Type[Tuple{Type{UTC}}, Tuple{}]",
    ),
)

COMPILER = (
    Edit(
        "search in the compiler",
        "Core.Compiler function",
        (
            Change(
                "base/compiler/utilities.jl",
                "        f(x) || return false\n",
                "        f(x) === true || return false\n",
            ),
        ),
        new_code=True,
    ),
    Edit(
        "rational pi with tolerance",
        "@pure method",
        (
            Change(
                "base/irrationals.jl",
                "@pure function rationalize(::Type{T}, x::AbstractIrrational; tol::Real=0) where T\n",
                "@pure function rationalize(::Type{T}, x::AbstractIrrational; tol::Real=0) where T\n"
                '    tol < 0 && throw(ArgumentError("negative tolerance"))\n',
            ),
        ),
        check="print(try rationalize(Int, pi, tol=-1) catch err; err.msg end, rationalize(Int8, pi))",
        prints="negative tolerance22//7",
    ),
)

EDITS = METHODS + NAMES + DOCUMENTATION + STALE + REFUSED + COMPILER
