"""Writing an image: Julia evaluates the steps of a revision and writes what is new with the heap (`chain.jl`), and the
linker joins that with the base image's native code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ... import link, process
from ...elf import finish_data_object
from ...errors import NeedsFullRebuild, SetupError
from ...revision import Delete, Evaluate, Move, Step, Unbind, Undocument, Unlog

SCRIPT = Path(__file__).with_name("chain.jl")

OPTION = "--sysimage-native-code=chained"

RUN = """\
let m = Core.Module(:Chain, false, false)
    Core.eval(m, Expr(:const, Expr(:(=), :Core, Core)))
    Core.eval(m, Expr(:const, Expr(:(=), :Base, Base)))
    Base.include(m, ARGS[1])
end
"""

ROOTS = """\
const ROOTS = Core.Module(:Roots, false, true)
Core.eval(ROOTS, Core.Expr(:const, Core.Expr(:(=), :Compiler, Base.Compiler)))
for m in Base.loaded_modules_array()
    Core.eval(ROOTS, Core.Expr(:const, Core.Expr(:(=), Base.nameof(m), m)))
end
"""
"""Names the modules that are in no other one, as signatures and steps do."""


def write_archive(
    image: Path, julia: Path, target: str, archive: Path, run: str, arguments: Sequence[Path], work: Path
) -> None:
    """Has Julia run a program on an image, and write an archive of what is to be linked to the image's native code, and
    the heap beside it (`patches/common/chained_codegen.h`)."""
    options = ["-C", target, "-O3", "--startup-file=no", "--history-file=no", "--warn-overwrite=no"]
    command: list[str | Path] = [julia, "-J", image, OPTION, "--output-o", archive, *options, "-e", run, *arguments]
    process.run([*process.without_settings("JULIA_"), *command], cwd=work)


def link_image(output: Path, code: Path, archive: Path, julia: Path, work: Path) -> None:
    """Links an image from the base image's code and what Julia wrote. Raises SetupError when that has no heap."""
    libraries = julia.parent.parent / "lib"
    command: list[str | Path] = ["gcc", "-shared", f"-fuse-ld={link.linker()}", "-Wl,--build-id=none", "-o", output]
    heap = archive.with_name(f"{archive.name}.heap")
    if not heap.is_file():
        raise SetupError(
            f"{julia} was built with other patches than this basedev has: run basedev patch apply, then make"
        )
    finish_data_object(heap, "jl_system_image_data")
    command += ["-Wl,--whole-archive", archive, "-Wl,--no-whole-archive", code, heap]
    command += [f"-L{libraries}/julia", f"-L{libraries}", "-ljulia-internal", "-ljulia"]
    process.run(command, env={"TMPDIR": str(work)})


def program(steps: Sequence[Step]) -> str:
    """A revision as a program that performs it, to be evaluated in a module without names."""
    lines = [ROOTS, "const STEPS = Core.Any["]
    lines += [f"    ({', '.join(words)})," for words in map(_words, steps) if words]
    return "\n".join([*lines, "]", "", SCRIPT.read_text()])


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
