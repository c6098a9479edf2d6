"""A revision on a base image -> an image: Julia evaluates it, and writes what is new with the heap (`chain.jl`)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ... import link, process
from ...errors import NeedsFullRebuild
from ...revision import Delete, Evaluate, Move, Step, Undocument, Unlog
from .. import Progress
from .baseimage import BaseImage

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

SECONDS = 8.0


@dataclass(frozen=True)
class Layer:
    """What was done to make an image of a revision."""

    linker: str
    timings: dict[str, float]
    """Seconds by step."""


def make_layer(base: BaseImage, steps: Sequence[Step], julia: Path, made: Path, progress: Progress) -> Layer:
    """Evaluates the steps of a revision on `base`, and links the image `made/sys.so`."""
    work = made / "work"
    work.mkdir()
    revision, archive = work / "revision.jl", work / "new.a"
    revision.write_bytes(program(steps).encode("utf-8", "surrogateescape"))
    begin = time.monotonic()
    progress("evaluating definitions, compiling and writing the heap", SECONDS)
    options = ["-C", base.cpu_target, "-O3", "--startup-file=no", "--history-file=no", "--warn-overwrite=no"]
    command: list[str | Path] = [
        julia,
        "-J",
        base.sysimage,
        OPTION,
        "--output-o",
        archive,
        *options,
        "-e",
        RUN,
        revision,
    ]
    process.run([*process.without_settings("JULIA_"), *command], cwd=work)
    written = time.monotonic()
    progress("linking", 0.5)
    link_image(made / "sys.so", base.code, archive, julia, work)
    timings = {"compile": written - begin, "link": time.monotonic() - written}
    return Layer(link.linker(), timings)


def link_image(output: Path, code: Path, archive: Path, julia: Path, work: Path) -> None:
    """Links an image from the base image's native code and what Julia wrote."""
    libraries = julia.parent.parent / "lib"
    command: list[str | Path] = ["gcc", "-shared", f"-fuse-ld={link.linker()}", "-Wl,--build-id=none", "-o", output]
    command += ["-Wl,--whole-archive", archive, "-Wl,--no-whole-archive", code]
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
