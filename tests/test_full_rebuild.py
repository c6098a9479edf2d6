"""The ordinary full rebuild: what it depends on, how it fails, and that its image is what the sources say."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import wait_until

from basedev import usrtree
from basedev.distribution import Distribution
from basedev.engines import full
from basedev.errors import SetupError, UsageError, UserCodeError
from basedev.newcheckout import copy_sources
from basedev.storage import Storage

SIGNATURES = (
    "Tuple{typeof(Base.chop), String}",
    'Tuple{Base.var"#chop##kw", NamedTuple{(:head,), Tuple{Int64}}, typeof(Base.chop), String}',
    "Tuple{typeof(LinearAlgebra.det), Array{Float64, 2}}",
    "Tuple{Type{Dates.DatePart{Char(0x59000000)}}, Int64, Bool}",
    "Tuple{typeof(Base.nosuchthing), String}",
    "Tuple{typeof(Base.chop), Array{Float64, 2}}",
    "Tuple{not a signature",
)
"""For three of them there is nothing to compile."""

LEFT_OUT = set(SIGNATURES[-3:])


@dataclass(frozen=True)
class FullImage:
    """A full rebuild of edited sources."""

    tree: Path
    image: Path
    log: Path
    skipped: set[str]
    steps: list[str]
    timings: dict[str, float]


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert text.count(old) == 1
    file.write_text(text.replace(old, new))


def append(file: Path, text: str) -> None:
    file.write_text(file.read_text() + text)


def rebuild(tree: Path, storage: Storage, workdir: Path) -> Path:
    workdir.mkdir()
    return full.rebuild(
        tree,
        tree / "usr/bin/julia",
        SIGNATURES,
        storage,
        workdir,
        progress=lambda step, seconds: None,
        log=workdir / "log.txt",
    )


@pytest.fixture(scope="module")
def pristine(julia: Distribution, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The distribution's sources, laid out as in a checkout, to be looked at only."""
    root = tmp_path_factory.mktemp("sources") / "julia"
    root.mkdir()
    copy_sources(julia, root)
    return root


@pytest.fixture
def tree(julia: Distribution, pristine: Path, tmp_path: Path) -> Path:
    """A snapshot of the distribution's sources for a test to edit."""
    full.snapshot(pristine, julia.prefix, tmp_path / "tree")
    return tmp_path / "tree"


@pytest.fixture(scope="session")
def full_image(julia: Distribution, tmp_path_factory: pytest.TempPathFactory) -> FullImage:
    """An image of edited sources. Takes minutes, fewer when the first steps' results are in the cache."""
    area = tmp_path_factory.mktemp("full")
    root, tree, workdir = area / "checkout", area / "tree", area / "work"
    root.mkdir()
    workdir.mkdir()
    copy_sources(julia, root)
    edit(root / "base/strings/util.jl", "head::Integer = 0, tail::Integer = 1)\n    if", "head = 0, tail = 2)\n    if")
    edit(root / "base/compiler/validation.jl", "InvalidCodeError(kind, nothing)", "InvalidCodeError(kind, :edited)")
    full.snapshot(root, julia.prefix, tree)
    steps: list[str] = []
    timings: dict[str, float] = {}
    image = full.rebuild(
        tree,
        tree / "usr/bin/julia",
        SIGNATURES,
        Storage(),
        workdir,
        progress=lambda step, seconds: steps.append(step),
        log=workdir / "log.txt",
        timings=timings,
    )
    skipped = set((workdir / "skipped.txt").read_text().splitlines())
    return FullImage(tree, image, workdir / "log.txt", skipped, steps, timings)


def julia_of(tree: Path, program: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [os.fspath(tree / "usr/bin/julia"), "--startup-file=no", *options, "-e", program]
    return subprocess.run(command, check=True, capture_output=True, text=True)


def run(made: FullImage, program: str, *options: str) -> subprocess.CompletedProcess[str]:
    return julia_of(made.tree, program, "-J", os.fspath(made.image), *options)


def test_compiler_sources(pristine: Path) -> None:
    found = full.compiler_sources(pristine / "base")
    assert {
        "base/boot.jl",
        "base/essentials.jl",
        "base/docs/core.jl",
        "base/compiler/compiler.jl",
        "base/compiler/ssair/ir.jl",
    } <= found
    assert found.isdisjoint({"base/strings/util.jl", "base/Base.jl", "base/sysimg.jl", "base/dict.jl"})
    assert all((pristine / path).is_file() for path in found)


def test_compiler_sources_follow_includes(tree: Path) -> None:
    append(tree / "base/sort.jl", 'include("dict.jl")  # which includes nothing\n# include("version.jl")\n')
    found = full.compiler_sources(tree / "base")
    assert "base/dict.jl" in found
    assert "base/version.jl" not in found


def test_snapshot_is_a_julia_of_its_own(tree: Path, pristine: Path) -> None:
    assert (tree / "base/Base.jl").read_bytes() == (pristine / "base/Base.jl").read_bytes()
    assert (tree / "base/build_h.jl").is_file()
    assert (tree / "stdlib/Pkg/src/Pkg.jl").is_file()
    assert not (tree / "stdlib/Pkg/test").exists()
    assert not (tree / "test").exists()
    program = "print(Sys.BINDIR, '\\n', realpath(joinpath(Sys.STDLIB, \"Pkg\")))"
    assert julia_of(tree, program).stdout.splitlines() == [os.fspath(tree / "usr/bin"), os.fspath(tree / "stdlib/Pkg")]


def test_snapshot_is_not_disturbed_by_edits_nor_editors(julia: Distribution, tree: Path, tmp_path: Path) -> None:
    (tree / "base/.#dict.jl").symlink_to("user@host.1234")
    shutil.rmtree(tree / "usr")
    full.snapshot(tree, julia.prefix, tmp_path / "copy")
    before = (tmp_path / "copy/base/dict.jl").read_bytes()
    append(tree / "base/dict.jl", "edited()\n")
    assert (tmp_path / "copy/base/dict.jl").read_bytes() == before
    assert not (tmp_path / "copy/base/.#dict.jl").is_symlink()


def test_snapshot_of_something_else(julia: Distribution, tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    with pytest.raises(UsageError, match="no sources of Julia"):
        full.snapshot(tmp_path, julia.prefix, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_keys_change_with_what_they_stand_for(tree: Path) -> None:
    julia = tree / "usr/bin/julia"
    before = full.step_keys(tree, julia)
    assert full.step_keys(tree, julia) == before

    (tree / "base/Makefile").write_text("all:\n")
    (tree / "stdlib/Random/docs").mkdir()
    (tree / "stdlib/Random/docs/make.jl").write_text("make()\n")
    assert full.step_keys(tree, julia) == before

    append(tree / "base/strings/util.jl", "# more\n")
    base = full.step_keys(tree, julia)
    assert base[0] == before[0] and base[1] != before[1]

    append(tree / "stdlib/Random/src/Random.jl", "# more\n")
    library = full.step_keys(tree, julia)
    assert library[0] == before[0] and library[1] != base[1]

    append(tree / "base/compiler/ssair/ir.jl", "# more\n")
    compiler = full.step_keys(tree, julia)
    assert compiler[0] != before[0] and compiler[1] != library[1]


def test_syntax_error_in_the_compiler(tree: Path, tmp_path: Path) -> None:
    append(tree / "base/compiler/typeutils.jl", "function unfinished(\n")
    storage = Storage(tmp_path / "cache")
    with pytest.raises(UserCodeError) as caught:
        rebuild(tree, storage, tmp_path / "work")
    lines = (tree / "base/compiler/typeutils.jl").read_text().count("\n")
    assert caught.value.message == f"base/compiler/typeutils.jl:{lines}: syntax: incomplete: premature end of input"
    assert "base/compiler/compiler.jl" in caught.value.detail
    assert os.fspath(tree) not in caught.value.detail.replace(os.fspath(tree / "usr"), "")
    assert list((tmp_path / "cache/staging").iterdir()) == []
    assert not (tmp_path / "cache/bootstrap").exists()


def test_exception_in_the_compiler(tree: Path, tmp_path: Path) -> None:
    append(tree / "base/essentials.jl", "nosuchthing(1)\n")
    with pytest.raises(UserCodeError, match=r"^base/essentials.jl:\d+: UndefVarError\(.*:nosuchthing\)$"):
        rebuild(tree, Storage(tmp_path / "cache"), tmp_path / "work")


def test_errors_while_base_is_loaded(tree: Path, tmp_path: Path) -> None:
    """The unchanged compiler is in the cache after the first time."""
    util = tree / "base/strings/util.jl"
    text = util.read_text()
    append(util, "function unfinished(\n")
    with pytest.raises(UserCodeError, match=r"^base/strings/util.jl:\d+: syntax: incomplete: premature end of input"):
        rebuild(tree, Storage(), tmp_path / "work")
    util.write_text(text + "nosuchthing(1)\n")
    with pytest.raises(UserCodeError, match=r"^base/strings/util.jl:\d+: an error that Julia can't print") as caught:
        rebuild(tree, Storage(), tmp_path / "again")
    assert "jl_undefined_var_error" in caught.value.detail


def test_a_failure_that_julia_does_not_explain(tmp_path: Path) -> None:
    """As it prints one while Base is being loaded."""
    (tmp_path / "base/strings").mkdir(parents=True)
    for name in ("boot.jl", "strings/util.jl", "Base.jl"):
        (tmp_path / "base" / name).touch()
    output = f"""\
strings/strings.jl
error during bootstrap:

jl_throw at {tmp_path}/usr/bin/../lib/libjulia.so.1 (unknown line)
unknown function (ip: 0x7fb56ded3827)
top-level scope at strings/util.jl:705
include at ./boot.jl:329 [inlined]
top-level scope at Base.jl:177
"""
    said = full.failure_of_sources(output, tmp_path)
    assert said is not None
    place, what, detail = said
    assert (place, what) == ("base/strings/util.jl:705", "")
    assert detail.splitlines()[-3:] == [
        "top-level scope at base/strings/util.jl:705",
        "include at base/boot.jl:329 [inlined]",
        "top-level scope at base/Base.jl:177",
    ]


def test_an_exception_in_a_standard_library(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base/sysimg.jl").touch()
    library = tmp_path / "usr/share/julia/stdlib/v1.5/Random/src"
    output = f"""\
error during bootstrap:
LoadError("sysimg.jl", 16, LoadError("{library}/RNGs.jl", 659, UndefVarError(:nosuchthing)))
"""
    said = full.failure_of_sources(output, tmp_path)
    assert said is not None
    assert said[:2] == ("stdlib/Random/src/RNGs.jl:659", "UndefVarError(:nosuchthing)")
    assert 'LoadError("base/sysimg.jl", 16, ' in said[2]


@pytest.mark.parametrize("output", ["", "Killed", "signal (11): Segmentation fault\nin expression at a.jl:1"])
def test_a_crash_is_not_blamed_on_the_sources(output: str, tmp_path: Path) -> None:
    assert full.failure_of_sources(output, tmp_path) is None


def test_a_full_disk_is_told_before_the_work(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(full, "SPACE", 1 << 60)
    with pytest.raises(SetupError, match="BASEDEV_CACHE"):
        rebuild(tree, Storage(tmp_path / "cache"), tmp_path / "work")


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_rebuild_leaves_nothing_behind(end: signal.Signals, tree: Path, tmp_path: Path) -> None:
    program = f"""\
from pathlib import Path
from basedev.engines import full
from basedev.storage import Storage
tree, work = Path({os.fspath(tree)!r}), Path({os.fspath(tmp_path)!r})
full.rebuild(tree, tree / "usr/bin/julia", [], Storage(work / "cache"), work, progress=print, log=work / "log.txt")
"""
    rebuilding = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    wait_until(lambda: bool(julias(tree)))
    rebuilding.send_signal(end)
    rebuilding.wait(timeout=20)
    wait_until(lambda: not julias(tree))
    storage = Storage(tmp_path / "cache")
    with storage.staging("next") as area:
        assert {path.name for path in area.parent.iterdir()} == {area.name, f"{area.name}.lock"}
    assert not (storage.root / full.KIND).exists()


def julias(tree: Path) -> list[str]:
    """The process ids of the Julia programs that run from a tree."""
    found = []
    for link in Path("/proc").glob("[0-9]*/exe"):
        with suppress(OSError):
            if link.readlink() == tree / "usr/bin/julia":
                found.append(link.parent.name)
    return found


def test_signatures_as_julia_reads_them() -> None:
    assert full.evaluable("Tuple{typeof(Base.chop), String}") == "Tuple{typeof(Base.chop), String}"
    assert full.evaluable("Base.Val{Char(0x59000000)}") == "Base.Val{reinterpret(Char, 0x59000000)}"
    assert full.evaluable(r'F{Symbol("mm\THH:$x"), Symbol("a\\")}') == r'F{Symbol("mm\\THH:\$x"), Symbol("a\\\\")}'


def test_image_behaves_as_edited(full_image: FullImage) -> None:
    assert run(full_image, 'print(chop("basedev"))').stdout == "based"
    assert run(full_image, 'print(Core.Compiler.InvalidCodeError("kind").meta)').stdout == "edited"
    assert run(full_image, "using LinearAlgebra, Random, Pkg, Dates; print(det([1.0 2; 3 4]))").stdout == "-2.0"


def test_image_has_native_code_as_asked(full_image: FullImage) -> None:
    assert full_image.skipped == LEFT_OUT
    program = 'chop("basedev"); chop("basedev", head=1); println(1 // 3)'
    compiled = run(full_image, program, "--trace-compile=stderr").stderr
    assert "precompile" in compiled  # there is always something
    assert "chop" not in compiled


def test_image_bears_no_trace_of_its_making(full_image: FullImage) -> None:
    said = run(full_image, "print(names(Main, all=true), '\\n', length(Base._included_files))")
    stock = julia_of(full_image.tree, "print(names(Main, all=true))")
    assert said.stdout.splitlines() == [stock.stdout, "369"]
    heap = full_image.image.read_bytes()
    for name in (b"native.jl", b"signatures.txt", b"skipped.txt", b"nosuchthing"):
        assert name not in heap


def test_nothing_is_written_to_the_snapshot(full_image: FullImage) -> None:
    assert not [path for path in (full_image.tree / "base").rglob("*") if path.suffix not in (".jl", "")]
    assert sorted(path.name for path in full_image.tree.iterdir()) == ["VERSION", "base", "stdlib", "usr"]
    assert {path.name for path in full_image.image.parent.iterdir()} <= {"sys.so", "log.txt", "skipped.txt", "depot"}


def test_second_rebuild_goes_on_after_the_last_finished_step(full_image: FullImage, tmp_path: Path) -> None:
    """Its first two steps are in the cache now; what remains is stopped at its beginning."""

    class StoppedError(Exception):
        pass

    def stop(step: str, seconds: float) -> None:
        raise StoppedError(step)

    with pytest.raises(StoppedError, match=full.CODE.name):
        full.rebuild(
            full_image.tree,
            full_image.tree / "usr/bin/julia",
            SIGNATURES,
            Storage(),
            tmp_path,
            progress=stop,
            log=tmp_path / "log.txt",
        )


def test_usr_of_a_snapshot_tells_its_origin(julia: Distribution, tree: Path) -> None:
    origin = usrtree.read_origin(tree)
    assert origin is not None and origin.prefix == julia.prefix
