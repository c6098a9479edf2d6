"""A system image made anew from sources: right for every change, in minutes.

The steps are those of Julia's own `sysimage.mk` (1.5.3), with the stock binary: the compiler compiles its own
sources, loads Base and the standard libraries, and writes native code. What the first two make depends on the
sources only, so it is kept in the cache directory (`bootstrap/`) by their content: an interrupted rebuild
goes on after the last step that it finished, and an edit outside the compiler leaves out the first.

The image remembers the path of the snapshot that it was made from, as the shipped image remembers that of the
machine it was built on; with a result from the cache, it is the earlier snapshot's. Julia replaces it by the
paths of the running Julia where it shows one (`fixup_stdlib_path`, base/methodshow.jl).
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .. import link, process, usrtree
from ..distribution import MULTIARCH
from ..errors import InternalError, SetupError, UsageError, UserCodeError
from ..sources import source_paths
from ..storage import Storage, digest_of, file_digest
from ..store import Store
from . import Progress

KIND = "bootstrap"
"""The kind of entry in the store that the results of the first two steps are."""

RECIPE = "1"
"""To be raised when a step makes something else from the same sources by the same command."""

SPACE = 600 << 20
"""Bytes that a rebuild wants free on the disk: an archive takes 174 MB, the image 154 MB, the `.ji` files 100 MB."""

TARGET = ("-C", "generic")

COMPILER_COMMAND = ("-g0", "-O0", "compiler/compiler.jl")
LIBRARIES_COMMAND = ("-g1", "-O0", "--warn-overwrite=yes", "sysimg.jl", "../base/")
CODE_OPTIONS = ("-O3", "--warn-overwrite=yes")


@dataclass(frozen=True)
class Step:
    """A step as it is announced: its name, and the seconds that it took when it was measured."""

    name: str
    expected_seconds: float


# Measured for unchanged sources and 11,000 signatures, one core each and little beside them; peak memory 250, 920 and
# 2,500 MB.
COMPILER = Step("bootstrapping the compiler", 45.0)
LIBRARIES = Step("loading Base and the standard libraries", 60.0)
CODE = Step("generating native code", 130.0)
LINK = Step("linking the image", 1.0)

# The place of upstream's contrib/generate_precompile.jl. Compiled code of the script's would be recorded as a
# caller of Base's methods, which would keep it, its module and its path in the image. Hence the method that calls
# nothing, and the loop that is interpreted because its block defines a method (`jl_toplevel_eval_flex`,
# src/toplevel.c). `precompile(T)` in place of the method would be compiled anew for each T. At the end stands what
# sysimg.jl leaves behind; the processing of options set PROGRAM_FILE.
SCRIPT = """\
@eval Module() begin
    hint(@nospecialize(types)) = ccall(:jl_compile_hint, Int32, (Any,), types)
    for id in keys(Base.loaded_modules)
        name = Symbol(id.name)
        isdefined(@__MODULE__, name) && continue
        Core.eval(@__MODULE__, Expr(:const, Expr(:(=), name, Base.loaded_modules[id])))
    end
    skipped = open(Base.ARGS[2], "w")
    for signature in readlines(Base.ARGS[1])
        done = try
            hint(Core.eval(@__MODULE__, Meta.parse(signature))) == 1
        catch
            false
        end
        done || write(skipped, signature, '\\n')
    end
    close(skipped)
    Core.eval(Base, :(global PROGRAM_FILE = ""))
    empty!(Core.ARGS)
    empty!(Base.ARGS)
    empty!(LOAD_PATH)
    empty!(DEPOT_PATH)
end
"""

# Parses one file, and prints what is wrong with it.
SYNTAX_CHECK = """\
parsed = Base.parse_input_line(read(ARGS[1], String); filename = ARGS[1])
for statement in (Meta.isexpr(parsed, :toplevel) ? parsed.args : [parsed])
    if Meta.isexpr(statement, (:error, :incomplete))
        print("syntax: ", first(statement.args))
        break
    end
end
"""

_INCLUDE = re.compile(r'\binclude\("([^"$\\]+)"\)')


def compiler_sources(base: Path) -> frozenset[str]:
    """The files that the compiler is bootstrapped from, by path in the tree (`base/essentials.jl`).

    They are those of Core.Compiler and, as upstream's sysimage.mk has it, everything in `compiler/`.
    """
    directory = (path.relative_to(base).as_posix() for path in (base / "compiler").rglob("*.jl"))
    return _with_included(base, ["boot.jl", *directory])


def compiler_files(base: Path) -> frozenset[str]:
    """The files that Core and Core.Compiler include, by path in the tree: what `boot.jl` and `compiler/compiler.jl`
    include with literal paths, which are relative to `base/`."""
    return _with_included(base, ["boot.jl", "compiler/compiler.jl"])


def _with_included(base: Path, todo: list[str]) -> frozenset[str]:
    found: set[str] = set()
    while todo:
        name = todo.pop()
        if name in found or not (base / name).is_file():
            continue
        found.add(name)
        for line in (base / name).read_text(errors="replace").splitlines():
            todo += _INCLUDE.findall(line.partition("#")[0])
    return frozenset(f"base/{name}" for name in found)


def snapshot(root: Path, prefix: Path, destination: Path) -> None:
    """Copies a checkout's sources to `destination` and lays a `usr/` over them, so that edits do not disturb.

    Tests and documentation stay behind. Raises UsageError when `root` holds no sources of Julia, SetupError when
    `prefix` holds no Julia.
    """
    base, stdlib = root / "base", root / "stdlib"
    if not (base.is_dir() and stdlib.is_dir()):
        raise UsageError(f"{root} holds no sources of Julia: base/ or stdlib/ is missing")

    def ignore(directory: str, names: list[str]) -> list[str]:
        return [name for name in names if name in ("test", "docs")] if Path(directory).parent == stdlib else []

    for source in (base, stdlib):
        # Dangling links are editors' locks.
        shutil.copytree(
            source,
            destination / source.name,
            ignore=ignore,
            ignore_dangling_symlinks=True,
            copy_function=shutil.copyfile,
        )
    if (root / "VERSION").is_file():
        shutil.copyfile(root / "VERSION", destination / "VERSION")
    usrtree.lay_out_usr(prefix, destination)


def step_keys(tree: Path, julia: Path) -> tuple[str, str]:
    """Names `corecompiler.ji` and `sys.ji` by all that they depend on: Julia, commands, and source files."""
    version = tree / "VERSION"
    parts = [RECIPE, file_digest(julia), file_digest(_libjulia(julia)), *TARGET, *COMPILER_COMMAND]
    parts.append(version.read_text() if version.is_file() else "")
    for path in sorted(compiler_sources(tree / "base")):
        parts += [path, file_digest(tree / path)]
    compiler = digest_of(*parts)[:20]
    parts = [compiler, *LIBRARIES_COMMAND]
    for path in source_paths(tree):
        parts += [path, file_digest(tree / path)]
    return compiler, digest_of(*parts)[:20]


def rebuild(
    tree: Path,
    julia: Path,
    signatures: Sequence[str],
    storage: Storage,
    workdir: Path,
    *,
    progress: Progress,
    log: Path,
    timings: dict[str, float] | None = None,
) -> Path:
    """Makes the system image of a snapshot and returns its path, `workdir/sys.so`.

    Args:
        tree: What `snapshot` made; nothing is written there.
        julia: The program to do it with, in a `usr/` of its own.
        signatures: Argument types, as Julia prints them (`Tuple{typeof(Base.chomp), String}`), of functions that
            shall have native code. Those that mean nothing in these sources, or for which there is no single
            method, are left out and listed in `workdir/skipped.txt`.
        progress: Called when a step begins, with its name and expected seconds.
        log: All output of the programs is appended to it.
        timings: Gets the seconds of each step that was not found in the cache.

    Raises UserCodeError when the sources fail to load, SetupError when the disk is full, InternalError when a
    step fails in another way.
    """
    _check_space(storage.directory("staging"))
    _check_space(workdir)
    rebuilding = _Rebuilding(tree, julia, storage, workdir, progress, log, {} if timings is None else timings)
    compiler_key, libraries_key = step_keys(tree, julia)
    libraries = rebuilding.kept(
        LIBRARIES,
        libraries_key,
        "sys.ji",
        lambda: (
            "--sysimage",
            rebuilding.kept(COMPILER, compiler_key, "corecompiler.ji", lambda: COMPILER_COMMAND),
            *LIBRARIES_COMMAND,
        ),
    )
    return rebuilding.image(libraries, signatures)


@dataclass(frozen=True)
class _Rebuilding:
    """One rebuild under way; the parameters are those of `rebuild`."""

    tree: Path
    julia: Path
    storage: Storage
    workdir: Path
    progress: Progress
    log: Path
    timings: dict[str, float]

    def kept(self, step: Step, key: str, name: str, command: Callable[[], Sequence[str | Path]]) -> Path:
        """The serialized image of a step: from the cache, or made by the command now."""
        store = Store(self.storage)
        if entry := store.find(KIND, key):
            return entry.file(name)
        words = command()  # makes what the step needs, with its lock released before this one is taken
        with self.storage.lock(f"{KIND}-{key}"):
            entry = store.find(KIND, key)  # another process may have made it meanwhile
            if entry is None:
                with self.storage.staging(KIND) as made:
                    self._julia(step, "--output-ji", made / name, *words)
                    entry = store.publish(KIND, key, made, {"made": step.name})
        return entry.file(name)

    def image(self, libraries: Path, signatures: Sequence[str]) -> Path:
        """Native code and heap, linked."""
        script, asked, skipped = (self.workdir / name for name in ("native.jl", "signatures.txt", "skipped.txt"))
        script.write_text(SCRIPT)
        asked.write_text("".join(f"{evaluable(signature)}\n" for signature in signatures))
        archive, image = self.workdir / "sys-o.a", self.workdir / "sys.so"
        words = ("--output-o", archive, *CODE_OPTIONS, "--sysimage", libraries, script, asked, skipped)
        self._julia(CODE, *words)
        self.progress(LINK.name, LINK.expected_seconds)
        with process.timed(self.timings, LINK.name):
            process.run(
                [
                    *("gcc", "-shared", f"-fuse-ld={link.linker()}", "-Wl,--build-id=none", "-o", image),
                    *("-Wl,--whole-archive", archive, "-Wl,--no-whole-archive", _libjulia(self.julia)),
                ],
                log=self.log,
            )
        for path in (archive, script, asked):
            path.unlink()
        return image

    def _julia(self, step: Step, *words: str | Path) -> None:
        self.progress(step.name, step.expected_seconds)
        begin = self.log.stat().st_size if self.log.exists() else 0
        command = [*self._program(), *TARGET, "--startup-file=no", *words]
        try:
            with process.timed(self.timings, step.name):
                process.run(command, cwd=self.tree / "base", log=self.log)
        except InternalError as error:
            with self.log.open("rb") as file:
                file.seek(begin)
                output = file.read().decode(errors="replace")
            raise self._failure(step, output, error) from error

    def _program(self) -> list[str | Path]:
        """Julia without what the user set for it in the environment, and without the user's packages."""
        bindir, depot = self.tree / "usr/bin", self.workdir / "depot"
        return [
            *process.without_settings("JULIA_.*"),
            f"JULIA_BINDIR={bindir}",
            f"JULIA_DEPOT_PATH={depot}",
            self.julia,
        ]

    def _failure(self, step: Step, output: str, error: InternalError) -> InternalError | UserCodeError:
        said = failure_of_sources(output, self.tree) if "killed by signal" not in error.message else None
        if said is None:
            return InternalError(f"{step.name} failed: {error.message.replace('env', 'julia', 1)}", error.detail)
        place, what, detail = said
        if not what:
            # Early on, Julia can't print the error. Most often it is one of syntax, which any Julia can tell.
            file = self.tree / place.partition(":")[0]
            check = [*self._program(), "--startup-file=no", "-e", SYNTAX_CHECK, file]
            what = process.run(check).strip() or "an error that Julia can't print yet"
        return UserCodeError(f"{place}: {what}", detail)


def evaluable(signature: str) -> str:
    """A signature as `jl_static_show` prints it (src/rtutils.c), in words that evaluate to it.

    It prints a Char's bits as if they were its code point, and a Symbol's text without escapes.
    """
    signature = re.sub(r"\bChar\((0x[0-9a-f]{8})\)", r"reinterpret(Char, \1)", signature)
    return re.sub(r'\bSymbol\("(.*?)"\)', lambda match: re.sub(r"[\\$]", r"\\\g<0>", match[0]), signature)


_LOAD_ERROR = re.compile(r'LoadError\((?:at )?"([^"]+)"(?: line |, )(\d+)(?:: |, )')
_FRAME = re.compile(r" at ((?:base|stdlib)/\S+\.jl:\d+)")
_SOURCE = re.compile(r"(?<![\w./-])(?:\./)?([\w-][\w./-]*\.jl)\b")


def failure_of_sources(output: str, tree: Path) -> tuple[str, str, str] | None:
    """Where and why loading the sources failed, and the whole message, from a failed Julia's output.

    The place is `base/error.jl:12`. While Base is not complete yet, Julia may be unable to say why: then the
    reason is empty. None if the output does not tell of a Julia exception in the tree's sources.
    """
    begin = re.search(r"^(?:error during bootstrap:|fatal: error thrown|ERROR: )", output, re.MULTILINE)
    if begin is None:
        return None
    lines = output[begin.start() :].splitlines()
    # Without debug symbols, the runtime's own frames have no names.
    message = _in_terms_of_tree("\n".join(line for line in lines if "unknown function (ip:" not in line), tree)
    if nested := list(_LOAD_ERROR.finditer(message)):
        inner = nested[-1]
        place = f"{inner[1]}:{inner[2]}"
        what = message[inner.end() :].partition("\n")[0].strip()
        what = what.removesuffix(")" * len(nested))
        if plain := re.fullmatch(r'ErrorException\("(.*)"\)', what):
            what = plain[1]
    elif frame := _FRAME.search(message):
        place, what = frame[1], message.partition("\n")[0].partition("ERROR: ")[2]
    else:
        return None
    return (place, what, message.strip()) if place.startswith(("base/", "stdlib/")) else None


def _in_terms_of_tree(text: str, tree: Path) -> str:
    for root in (tree, tree.resolve()):
        libraries = rf"{re.escape(str(root))}/usr/(?:bin/\.\./)?share/julia/stdlib/v[\d.]+/"
        text = re.sub(libraries, "stdlib/", text).replace(f"{root}/", "")
    text = text.replace("../base/", "base/")

    def found(match: re.Match[str]) -> str:
        return f"base/{match[1]}" if (tree / "base" / match[1]).is_file() else match[0]

    return _SOURCE.sub(found, text)


def _check_space(directory: Path) -> None:
    # Julia does not notice that a .ji file could not be written in full.
    if (free := shutil.disk_usage(directory).free) < SPACE:
        raise SetupError(
            f"a full rebuild wants {SPACE >> 20} MB on the disk of {directory}, which has {free >> 20} MB; "
            "free some space, or set BASEDEV_CACHE to a directory on another disk"
        )


def _libjulia(julia: Path) -> Path:
    return julia.parent.parent / "lib" / MULTIARCH / "libjulia.so.1"
