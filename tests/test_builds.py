"""What `make` can build of current Julia, and where: made-up checkouts, of which nothing is run."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from conftest import Bench

from basedev import stat_cache
from basedev.adopted import remember
from basedev.checkout import Checkout
from basedev.collection import Collection
from basedev.engines.kept import KeptImage, note_base
from basedev.engines.patched.baseimage import make_base_image
from basedev.engines.patched.makefile import make
from basedev.engines.patched.runtime import Runtime
from basedev.errors import SetupError, UsageError
from basedev.places import BASE_RECORD, NOTES
from basedev.sourcefiles import PARSER, roots_of
from basedev.sources import Sources, source_directories
from basedev.storage import Storage
from basedev.store import Store
from basedev.watching import Watcher
from basedev.workflows.autoload import shell_code
from basedev.workflows.builders import initialise
from basedev.workflows.hooks import Hooks

IMAGE = """
.section .rodata
.globl jl_image_chainable, jl_dispatch_target_ids
.hidden jl_dispatch_target_ids
jl_image_chainable: .byte 1
jl_dispatch_target_ids: .long {targets}
.section .note.GNU-stack,"",@progbits
"""


def image_for(targets: int, path: Path) -> None:
    """Makes a shared object with what tells for how many processors a system image has code."""
    made = path.with_suffix(".o")
    subprocess.run(["as", "-o", made], input=IMAGE.format(targets=targets).encode(), check=True)
    subprocess.run(["gcc", "-shared", "-nostdlib", "-o", path, made], check=True)


def write(root: Path, **texts: str) -> None:
    """Writes files of these texts, which are called as their paths are."""
    for path, text in texts.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)


def built(root: Path) -> Checkout:
    """A checkout with what `make` builds at least."""
    write(root, **{"base/Base.jl": "", "stdlib/Here/Project.toml": "", "VERSION": "1.12.5\n"})
    write(root, **{"usr/lib/julia/sys-o.a": "!<arch>\n", "usr/bin/julia": ""})
    return Checkout(root)


@pytest.fixture
def build(tmp_path: Path) -> Checkout:
    """A build directory, whose sources were built too."""
    sources, build = tmp_path / "sources", tmp_path / "builds/one"
    built(sources)
    for path, ends in (("src/gf.c", "o"), ("base/version_git.jl", "jl"), ("stdlib/Fetched-a1/src/Fetched.jl", "jl")):
        write(sources, **{path: "there", f"{path.rpartition('.')[0]}.{ends}": "there"})
    for directory in ("", "/src", "/test"):
        text = f"# generated\nBUILDROOT={build}\ninclude {sources}{directory}/Makefile\n"
        write(build, **{f"{directory}/Makefile".lstrip("/"): text})
    write(build, **{"base/version_git.jl": "here", "stdlib/Fetched-a1/src/Fetched.jl": "here"})
    write(build, **{"deps/JuliaSyntax-b2/src/JuliaSyntax.jl": "here", "usr/bin/julia": "#!/bin/sh\necho $0 $*\n"})
    (build / "usr/bin/julia").chmod(0o755)
    (build / PARSER).symlink_to(build / "deps/JuliaSyntax-b2")
    return Checkout(build)


@pytest.mark.parametrize("targets", [1, 4])
def test_an_image_for_several_processors_is_refused(tmp_path: Path, targets: int) -> None:
    checkout, storage = built(tmp_path / "julia"), Storage(tmp_path / "cache")
    image_for(targets, checkout.root / checkout.sysimage)
    refused = f"has code for {targets} processors, .*: set JULIA_CPU_TARGET to one, as native, in Make.user, then make"
    with pytest.raises(SetupError, match=refused if targets > 1 else "sys-o.a has no native code"):
        make_base_image(checkout, storage, lambda step, seconds: None)


def test_a_build_directory_is_found_with_its_sources(build: Checkout, tmp_path: Path) -> None:
    for place in (build.root, build.root / "src", build.root / "usr/bin"):
        assert Checkout.find(place) == build
    assert (build.tree, build.version, build.is_patched) == (tmp_path / "sources", "1.12.5", True)
    own = Checkout.find(build.tree / "base")
    assert (own.root, own.tree) == (build.tree, build.tree)


def test_sources_are_in_both_directories(build: Checkout) -> None:
    sources = build.sources()
    contents = {path: sources.contents[path] for path in sources.blobs}
    generated = ("base/JuliaSyntax/src/JuliaSyntax.jl", "base/version_git.jl", "stdlib/Fetched-a1/src/Fetched.jl")
    assert contents == {"base/Base.jl": b"", "stdlib/Here/Project.toml": b""} | dict.fromkeys(generated, b"here")
    own = Sources.read(build.tree)
    assert own.contents["base/version_git.jl"] == b"there" and generated[0] not in own.blobs
    watched = set(source_directories(build.root))
    assert {build.tree / "base", build.root / "base", build.root / "stdlib/Fetched-a1/src"} < watched


def test_an_edit_in_the_sources_is_noticed(build: Checkout) -> None:
    with Watcher(build.root, print) as watcher:
        write(build.tree, **{"base/Base.jl": "edited"})
        assert any(watcher.settled(1.0) for _ in range(100))
    assert build.sources().contents["base/Base.jl"] == b"edited"


def test_notes_of_a_build_directory_are_its_own(build: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stat_cache, "is_settled", lambda status, now: True)
    for root in (build.root, build.tree):
        (root / NOTES).mkdir(parents=True)
    build.sources()
    assert [path.name for path in (build.root / NOTES).iterdir()] == ["stat-cache.json"]
    assert not list((build.tree / NOTES).iterdir())


def test_objects_are_in_the_build_directory(build: Checkout) -> None:
    assert [one.path for one in Runtime(build.root).outdated()] == ["src/gf.c"]  # no library
    write(build.root, **{"usr/lib/libjulia-codegen.so": "", "src/gf.o": ""})
    os.utime(build.tree / "src/gf.c", (1, 1))
    os.utime(build.root / "src/gf.o", (2, 2))
    assert Runtime(build.root).outdated() == []
    os.utime(build.tree / "src/gf.c", (3, 3))
    assert [str(one) for one in Runtime(build.root).outdated()] == ["src/gf.c is newer than src/gf.o"]
    assert set(Runtime(build.root).blobs) == {"src/gf.c"}


def test_sources_that_were_built_elsewhere_only(build: Checkout) -> None:
    (build.tree / "usr/bin/julia").unlink()
    told = f"{build.tree} has no usr/.*: build it with make, or name its build directory with -C"
    with pytest.raises(SetupError, match=told):
        _ = Checkout(build.tree).julia
    with pytest.raises(SetupError, match=told):
        make_base_image(Checkout(build.tree), Storage(build.tree / "cache"), lambda step, seconds: None)


def test_a_build_directory_that_was_moved_is_refused(build: Checkout) -> None:
    moved = build.root.rename(build.root.with_name("two"))
    with pytest.raises(UsageError, match=f"{moved} was made to be {build.root}, where make builds: move it back, or"):
        Checkout.find(moved / "usr")


def test_hooks_are_for_each_build_directory_that_asked(build: Checkout) -> None:
    subprocess.run(["git", "init", "-q", build.tree], check=True)
    own, other = Checkout(build.tree), Checkout(build.root.with_name("o'ther"))
    write(other.root, Makefile=(build.root / "Makefile").read_text())
    for one in (own, build, other):
        write(one.root, **{BASE_RECORD.format(""): "{}"})
        Hooks(one).install()
        assert not any(hook.outdated for hook in Hooks(one).hooks)
    hook = Hooks(own).hooks[0]
    assert not hook.outdated and hook.state == "installed"
    assert f"\nfor build in . {build.root} '{other.root.parent}/o'\"'\"'ther'; do\n" in hook.path.read_text()
    subprocess.run(["sh", "-n", hook.path], check=True)
    Hooks(build).remove()
    assert hook.state == "absent"


def test_the_julia_in_front_starts_in_a_build_directory(build: Checkout, tmp_path: Path) -> None:
    storage = Storage(tmp_path / "cache")
    with storage.staging("base") as made:
        (made / "base.so").touch()
        about = {"sources": dict(build.sources().blobs), "included": ["base/Base.jl"]}
        base = Store(storage).publish("bases", "basebasebasebasebase", made, about)
    write(build.root, **{BASE_RECORD.format(""): '{"base_id": "basebasebasebasebase"}'})
    remember(storage, build.root, base.id)
    shell_code("bash", storage)
    bench = Bench(build.root, storage)

    def started(directory: Path) -> tuple[str, str]:
        command = [str(storage.root / "shell/bin/julia"), "-e", "0"]
        done = subprocess.run(
            command, cwd=directory, env=bench.environment, capture_output=True, text=True, check=False
        )
        return done.stdout, done.stderr

    program = f"{build.root}/usr/bin/julia -J {base.file('base.so')} -e 0\n"
    assert started(build.root / "test") == (program, "")
    (build.root / "usr/bin/julia").rename(build.root / "usr/bin/julia-debug")
    (build.root / BASE_RECORD.format("")).rename(build.root / BASE_RECORD.format("-debug"))
    write(build.root, **{"usr/lib/julia/sys-debug.so": ""})
    assert started(build.root)[0] == program.replace("julia -J", "julia-debug -J")
    write(build.tree, **{"base/Base.jl": "edited"})
    assert started(build.root) == (
        program.replace("julia -J", "julia-debug -J"),
        "basedev: julia starts without your edits of base/Base.jl: run basedev build\n",
    )
    assert started(build.tree)[0] != program


def test_a_debug_build_is_used_where_it_is_the_only_one_or_asked_for(tmp_path: Path) -> None:
    checkout = built(tmp_path)
    with pytest.raises(SetupError, match=r"has no usr/bin/julia-debug: make debug builds it"):
        checkout.use(debug=True)
    write(tmp_path, **{"usr/bin/julia-debug": "", "usr/lib/julia/sys-debug.so": ""})

    def used() -> tuple[str, str]:
        return checkout.julia.name, checkout.sysimage

    release = "julia", "usr/lib/julia/sys.so"
    debug = "julia-debug", "usr/lib/julia/sys-debug.so"
    assert used() == debug
    write(tmp_path, **{"usr/lib/julia/sys.so": ""})
    assert used() == release
    checkout.use(debug=True)
    assert used() == debug
    checkout.use(debug=False)
    assert used() == release


def test_base_images_of_both_builds_stay(tmp_path: Path) -> None:
    storage, checkout = Storage(tmp_path / "cache"), built(tmp_path / "julia")
    for kind, name in (("", "release"), ("-debug", "debug")):
        with storage.staging("base") as made:
            note_base(
                checkout.root / BASE_RECORD.format(kind), KeptImage(Store(storage).publish("bases", name, made, {}))
            )
        remember(storage, checkout.root, name)
    with storage.staging("base") as made:
        Store(storage).publish("bases", "other", made, {})
    collected = Collection(storage).collect(0, bases=True)
    assert [item.id for item in collected.removed] == ["other"]


def test_a_julia_of_a_distribution_has_no_debug_build(tmp_path: Path) -> None:
    write(tmp_path, VERSION="1.5.3")
    with pytest.raises(UsageError, match="--debug is for a Julia that its own makefile builds"):
        initialise(Checkout(tmp_path), Storage(tmp_path / "cache"), lambda step, seconds: None, debug=True)


def test_the_runtime_of_a_debug_build(tmp_path: Path) -> None:
    libraries = [f"usr/lib/libjulia{name}-debug.so" for name in ("-internal", "-codegen", "")]
    names = ["src/gf.c", "src/gf.o", "src/gf.dbg.obj", *libraries, "usr/lib/julia/sys-debug.so"]
    for number, name in enumerate(names):
        write(tmp_path, **{name: name})
        os.utime(tmp_path / name, (0, number))
    assert Runtime(tmp_path).outdated() == []
    os.utime(tmp_path / "src/gf.c", (0, 100))
    assert [str(one) for one in Runtime(tmp_path).outdated()] == ["src/gf.c is newer than src/gf.dbg.obj"]


MAKEFILE = """\
julia-src-debug: ; echo src >>made
julia-cli-debug: ; echo cli >>made
julia-sysimg-debug: ; echo sysimg >>made
"""


def test_make_is_asked_for_a_debug_build(tmp_path: Path) -> None:
    first = "usr/lib/julia/basecompiler-debug-o.a"
    write(tmp_path, **{"Makefile": MAKEFILE, "usr/lib/julia/sys-debug.so": "", first: ""})
    make(tmp_path, anew=True)
    assert (tmp_path / "made").read_text().split() == ["src", "cli", "sysimg"]
    assert (tmp_path / first).stat().st_mtime == 0


def test_what_is_called_makefile_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "Makefile")
    assert roots_of(str(tmp_path)) == (str(tmp_path),)
    (tmp_path / "Makefile").unlink()
    (tmp_path / "Makefile").symlink_to("/dev/zero")
    assert roots_of(str(tmp_path)) == (str(tmp_path),)
