"""Early cutoff: what it keeps is what inference would give again, and Julia's own rule gives no other behaviour."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Bench, clean
from corpus import EDITS, MARK, apply, joined

from basedev.checkout import Checkout
from basedev.choice import CHAINED, CHAINED_WITHOUT_CUTOFF
from basedev.distribution import Distribution
from basedev.engines.stock15.host_program import Host, host_program
from basedev.engines.stock15.layer import make_layer
from basedev.revision import Evaluate, Revision
from basedev.storage import Storage
from basedev.workflows.build import Builder


def quiet(step: str, seconds: float) -> None:
    """Progress that nobody watches."""


def unstable(julia: Distribution, storage: Storage, image: str | Path, scratch: Path) -> set[str]:
    """Those results of an image that come out otherwise when they are inferred once more."""
    program = host_program(julia, storage, lambda step: None)
    with Host(program, Path(image), julia) as host:
        return host.dependencies(scratch / "record")


@pytest.fixture(scope="module")
def unstable_in_base(
    julia: Distribution, adopted: Bench, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[set[str]]:
    image = adopted.json("build")["image"]
    yield unstable(julia, adopted.storage, image, tmp_path_factory.mktemp("base"))
    clean(adopted)


def edit_behind_constants(bench: Bench) -> None:
    """What `open_flags` gives is another for the constants that `IOBuffer()` calls it with, and of the same type.

    `IOBuffer` itself, which passes on what it is called with, comes out the same.
    """
    bench.edit(
        "base/io.jl", "append   === nothing && (append   = false)", "append   === nothing && (append   = read & write)"
    )


def edit_what_is_inlined(bench: Bench) -> None:
    """Inlined into thousands, all of which stay as they are but for eleven."""
    bench.edit("base/intfuncs.jl", "ispow2(x::Integer) = x > 0 &&", "ispow2(x::Integer) = x >= 1 &&")


def edit_many(bench: Bench) -> None:
    """Edits of many kinds that move no line, so that what is kept can be compared byte by byte."""
    util = "base/strings/util.jl"
    bench.edit(
        util,
        "function chomp(s::String)\n    i = lastindex(s)",
        'function chomp(s::String)\n    s == "x" && return SubString("edited"); i = lastindex(s)',
    )
    bench.edit(util, "hex2bytes(s::AbstractString) = hex2bytes(String(s))\n", "\n")
    bench.append(util, '\nlpad(s::String, n::Int, p::Char) = "taken over"\n')
    # one of a circle of functions that show each other's parts
    bench.edit(
        "base/show.jl",
        "    print(io, op)\n    show_list(io, items,",
        "    print(io, op); flush(io)\n    show_list(io, items,",
    )
    # what was not there when its callers asked for it
    bench.append("base/strings/basic.jl", "\nisless(a::String, b::Symbol) = isless(a, String(b))\n")
    # another type than before: callers are called in another way
    bench.edit(
        "base/strings/basic.jl",
        "isless(a::Symbol, b::Symbol) = cmp(a, b) < 0",
        "isless(a::Symbol, b::Symbol) = a === b ? missing : cmp(a, b) < 0",
    )


@pytest.mark.parametrize(
    ("edit", "kept_for_each_compiled", "program", "shown"),
    [
        (
            edit_many,
            10,
            'print(chomp("x"), lpad("a", 3), hasmethod(hex2bytes, Tuple{AbstractString}), '
            "repr(:(f(x, y) + [1 2; 3 4])), isless(:a, :a), isless(:a, :b), sort([:c, :a, :b]))",
            "editedtaken overfalse:(f(x, y) + [1 2; 3 4])missingtrue[:a, :b, :c]",
        ),
        (edit_what_is_inlined, 20, "print(ispow2(8), ispow2(7))", "truefalse"),
    ],
)
def test_what_is_kept_would_come_out_again(
    bench: Bench,
    julia: Distribution,
    unstable_in_base: set[str],
    tmp_path: Path,
    edit: Callable[[Bench], None],
    kept_for_each_compiled: int,
    program: str,
    shown: str,
) -> None:
    edit(bench)
    built = bench.chain()
    assert built["no_cutoff_reason"] is None
    assert built["invalidated"] > kept_for_each_compiled * built["recompiled"]
    other = unstable(julia, bench.storage, built["image"], tmp_path) - unstable_in_base
    if other:  # a few depend on where objects are in memory, and come out otherwise only now and then
        other &= unstable(julia, bench.storage, built["image"], tmp_path)
    assert not other
    assert bench.julia(built["image"], program) == shown


def test_what_is_found_for_constants(bench: Bench) -> None:
    edit_behind_constants(bench)
    built = bench.chain()
    program = 'print(IOBuffer().append, PipeBuffer().append, IOBuffer("abc").append)'
    assert bench.julia(built["image"], program) == "truetruefalse"


OTHER_CHOMP = (
    "function chomp(s::String)\n",
    'function chomp(s::String)\n    s == "yes!" && return SubString(s, 1, 3)\n',
)


def test_native_code_that_is_kept_comes_to_the_method_that_replaced_another(bench: Bench) -> None:
    """Callers of a replaced method are as they were, and known to depend on the new one."""
    bench.edit("base/strings/util.jl", *OTHER_CHOMP)
    built = bench.chain()
    assert built["recompiled"] < 5 < built["invalidated"]
    program = """
        ask(answer) = Base.prompt(IOBuffer(answer), devnull, "")
        print(repr(ask("yes!")), repr(ask("yes\\n")))
        @eval Base chomp(s::String) = SubString("other")
        print(repr(ask("yes!")))
    """
    assert bench.julia(built["image"], program) == '"yes""yes""other"'


def test_generators_run_with_all_that_changed(bench: Bench) -> None:
    """Native code that is kept calls what was compiled before the edit, as long as it is not in an image."""
    util = "base/strings/util.jl"
    bench.edit(util, *OTHER_CHOMP)
    bench.edit(util, "    r == 0 ? string(p^q, s) :", "    m == 77 ? told(1) : r == 0 ? string(p^q, s) :")
    bench.append(util, '\n@generated told(x) = Base.prompt(IOBuffer("yes!"), devnull, "")\n')
    built = bench.chain()
    assert bench.julia(built["image"], 'print(lpad("", 77))') == "yes"


def test_what_is_kept_wrongly_is_found(
    bench: Bench, julia: Distribution, unstable_in_base: set[str], tmp_path: Path
) -> None:
    # A constant is folded into the code that uses it, of which there is no record: this must come from `revise`, which
    # is left out here.
    builder = Builder(Checkout(bench.root), bench.storage, quiet)
    forged = Revision((Evaluate("Base.Filesystem", "file.jl", 1, "const JL_O_CREAT = 0x0048"),), ())
    libjulia = julia.libraries / "libjulia.so.1"
    with Host(host_program(julia, bench.storage, lambda step: None), builder.base.sysimage, julia) as host:
        make_layer(builder.base, forged, host, tmp_path, libjulia, quiet)
    found = unstable(julia, bench.storage, tmp_path / "sys.so", tmp_path) - unstable_in_base
    assert "Tuple{typeof(Base.Filesystem.touch), String}" in found


def test_both_ways_agree_on_the_corpus(bench: Bench) -> None:
    edits = [edit for edit in EDITS if edit.together]
    apply(bench.root, edits)
    program, prints = joined(edits)
    for engine in (CHAINED, CHAINED_WITHOUT_CUTOFF):
        built = bench.json("build", "--no-full-rebuild", "--engine", engine)
        assert built["engine"] == engine
        assert bench.julia(built["image"], program).split(MARK)[1:] == prints
