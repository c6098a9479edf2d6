"""Writing an image: Julia evaluates the steps of a revision and writes what is new with the heap (`chain.jl`), and the
linker joins that with the base image's native code."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ... import link, process
from ...behind import PAGE, fill_room, write_room
from ...errors import NeedsFullRebuild, SetupError
from ...revision import Contents, Delete, Evaluate, Exclude, Include, Move, Step, Unbind, Undocument, Unlog
from .host_program import Kept
from .jumps import write_jumps
from .surroundings import NOT_SEEN

SCRIPT = Path(__file__).with_name("chain.jl")

OPTION = "--sysimage-native-code=chained"

REVISION, ARCHIVE = "revision.jl", "new.a"
"""Where a build has what is evaluated, and what comes of it."""

HEAP = "jl_system_image_data"
"""The symbol of the heap."""

WAIT = "Base.eof(Base.fdio(Base.parse(Base.Int, ARGS[2])));"
"""Until the other end of the pipe is closed."""

RUN = """\
let m = Core.Module(:Chain, false, false)
    Core.eval(m, Expr(:const, Expr(:(=), :Core, Core)))
    Core.eval(m, Expr(:const, Expr(:(=), :Base, Base)))
    Base.include(m, ARGS[1])
end
"""

REHEARSE = f"""\
let arguments = Base.copy(ARGS)
    {RUN.replace("ARGS[1]", "ARGS[3]")}
    Base.append!(ARGS, arguments)
end
"""
"""What a revision without steps does, so that what each one needs is compiled, and in memory."""

ROOTS = """\
const ROOTS = Core.Module(:Roots, false, true)
Core.eval(ROOTS, Core.Expr(:const, Core.Expr(:(=), :Compiler, Base.Compiler)))
for m in Base.loaded_modules_array()
    Core.eval(ROOTS, Core.Expr(:const, Core.Expr(:(=), Base.nameof(m), m)))
end
"""
"""Names the modules that are in no other one, as signatures and steps do."""


def write_archive(
    image: Path, code: Path, julia: Path, target: str, archive: Path, run: str, arguments: Sequence[Path], work: Path
) -> None:
    """Has Julia run a program on an image, and write an archive of what is to be linked to the image's native code, and
    the heap beside it (`patches/common/chained_codegen.h`)."""
    _begin_heap(archive, code)
    process.run(_command(image, julia, target, archive, run, arguments), cwd=work)


def waiting(
    image: Path, code: Path, julia: Path, target: str, work: Path, descriptor: int, *, rehearse: bool = False
) -> list[str | Path]:
    """What starts a Julia that writes `work/ARCHIVE` of what `work/REVISION` makes, once the other end of a pipe is
    closed. With `rehearse`, it has done before what it does for any revision."""
    _begin_heap(work / ARCHIVE, code)
    arguments = [work / REVISION, Path(str(descriptor))]
    if not rehearse:
        return _command(image, julia, target, work / ARCHIVE, WAIT + RUN, arguments)
    rehearsal = work / "rehearsal.jl"
    rehearsal.write_text(program([], _kept(work, Kept())))
    return _command(image, julia, target, work / ARCHIVE, REHEARSE + WAIT + RUN, [*arguments, rehearsal])


@contextmanager
def waiting_writer(image: Path, code: Path, julia: Path, target: str, work: Path) -> Iterator[Callable[[], None]]:
    """Starts such a Julia, and gives what lets it read the revision, and waits until it has ended."""
    reading, writing = os.pipe()
    with os.fdopen(reading), os.fdopen(writing, "w") as signal:
        command = waiting(image, code, julia, target, work, reading)
        with process.started(command, cwd=work, pass_fds=[reading]) as wait:

            def go_on() -> None:
                signal.close()
                wait()

            yield go_on


def _command(
    image: Path, julia: Path, target: str, archive: Path, run: str, arguments: Sequence[Path]
) -> list[str | Path]:
    level = "-O0" if julia.name.endswith("-debug") else "-O3"  # as `make` does
    options = ["-C", target, level, "--startup-file=no", "--history-file=no", "--warn-overwrite=no"]
    command: list[str | Path] = [julia, "-J", image, OPTION, "--output-o", archive, *options, "-e", run, *arguments]
    return [*process.without_settings(NOT_SEEN), *command]


def link_image(output: Path, code: Path, archive: Path, julia: Path, work: Path) -> None:
    """Links an image from the base image's code and what Julia wrote. Raises SetupError when that has no heap."""
    libraries = julia.parent.parent / "lib"
    command: list[str | Path] = ["gcc", "-shared", f"-fuse-ld={link.linker()}", "-Wl,--build-id=none", "-o", output]
    heap, begin = _heap(archive), _heap_begins(code)
    size = heap.stat().st_size - begin
    if size <= 0:
        raise SetupError(
            f"{julia} was built with other patches than this basedev has: run basedev patch apply, then make"
        )
    write_room(work / "room.o", HEAP, size)
    command += ["-Wl,--whole-archive", archive, "-Wl,--no-whole-archive", code, work / "room.o"]
    kind = julia.name.removeprefix("julia")
    command += [f"-L{libraries}/julia", f"-L{libraries}", f"-ljulia-internal{kind}", f"-ljulia{kind}"]
    process.run(command, env={"TMPDIR": str(work)})
    if (jumps := archive.with_name(f"{archive.name}.jumps")).exists():
        write_jumps(output, jumps)
    fill_room(output, HEAP, heap, begin)


def _heap(archive: Path) -> Path:
    """The file to which Julia adds the heap, and which becomes the image."""
    return archive.with_name(f"{archive.name}.image")


def _heap_begins(code: Path) -> int:
    """Where in that file the heap begins: behind room for what is linked, which is smaller than its object file, since
    that has relocations. What is left of it takes no room on disk."""
    return (code.stat().st_size // PAGE + 1) * PAGE


def _begin_heap(archive: Path, code: Path) -> None:
    with _heap(archive).open("wb") as file:
        file.truncate(_heap_begins(code))


def write_revision(work: Path, steps: Sequence[Step], kept: Kept) -> None:
    """Writes what is to be evaluated, and what stays valid, to where a writer reads it."""
    (work / REVISION).write_bytes(program(steps, _kept(work, kept)).encode("utf-8", "surrogateescape"))


def _kept(work: Path, kept: Kept) -> Path:
    file = work / "kept"
    file.write_bytes(kept.encoded())
    return file


def program(steps: Sequence[Step], kept: Path | None = None) -> str:
    """A revision as a program that performs it, to be evaluated in a module without names. `kept` is a file with what
    early cutoff keeps (`Kept`)."""
    lines = [ROOTS, "const STEPS = Core.Any["]
    lines += [f"    ({', '.join(words)})," for words in map(_words, steps) if words]
    lines += ["]", f"const KEPT = {f'Base.read({literal(os.fspath(kept))})' if kept else 'Base.fill(0, 5)'}"]
    return "\n".join([*lines, "", SCRIPT.read_text()])


def _words(step: Step) -> list[str]:
    if isinstance(step, Evaluate):
        return [":evaluate", _module(step.module), literal(step.file), str(step.line), literal(step.text)]
    if isinstance(step, Delete):
        return [":delete", f"Core.eval(ROOTS, {_parsed(step.signature)})"]
    if isinstance(step, Move):
        return [":move", f"Core.Symbol({literal(step.file)})", str(step.first), str(step.last), str(step.by)]
    if isinstance(step, Undocument):
        return [":undocument", _module(step.module), literal(step.file), str(step.first), str(step.last)]
    if isinstance(step, Unbind):
        return [":unbind", _module(step.module), f"Core.Symbol({literal(step.name)})"]
    if isinstance(step, Include):
        return [":include", _module(step.module), literal(step.file), literal(step.after)]
    if isinstance(step, Contents):
        return [":contents", literal(step.file), str(step.size), str(step.checksum)]
    if isinstance(step, Exclude):
        return [":exclude", _module(step.module), literal(step.file)]
    if isinstance(step, Unlog):
        return []  # a message gets another id than in a rebuild
    raise NeedsFullRebuild(f"{type(step).__name__.lower()} is no step of a revision on this Julia yet")


def _module(name: str) -> str:
    return f"Core.eval(ROOTS, {_parsed(name)})"


def _parsed(text: str) -> str:
    return f"Base.Meta.parse({literal(text)})"


def literal(text: str) -> str:
    """A text of sources as a literal of Julia's; bytes that are no UTF-8 become escapes."""
    return '"' + "".join(map(_escaped, text)) + '"'


def _escaped(character: str) -> str:
    if character in '"\\$':
        return f"\\{character}"
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character if character.isprintable() or character == "\n" else f"\\U{ord(character):08x}"
