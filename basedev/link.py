"""Object files -> a plain system image that the stock loader takes.

An image of Julia 1.5 is a shared object with exported tables (`src/staticdata.c`, `src/processor.cpp` of
Julia 1.5.3): offsets of its functions (fvars) and of the slots for values that its code refers to (gvars),
the targets it was compiled for, and the serialized heap. Here the tables are one small object of their own, in
which the linker fills in the offsets, so that native code may come from any number of objects.
"""

from __future__ import annotations

import shutil
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from . import elf, process
from .errors import InternalError, SetupError

LINKERS = ("mold", "lld", "gold", "bfd")
"""In the order of their speed on a 180 MB image; whatever is installed is used."""

LIBRARIES = {"m": "libm.so.6", "c": "libc.so.6", "gcc_s": "libgcc_s.so.1"}
"""What images are linked with besides libjulia, as `-l` takes it, and the files that have it."""

UNIQUE_MARGIN = 1 << 24
"""Names that the JIT makes start behind those of the image (jl_globalUnique), whatever layers added."""


@dataclass(frozen=True)
class ImageTables:
    """What is in an image besides code and heap."""

    fvars: int
    gvars: int
    target: bytes
    """Contents of jl_dispatch_target_ids for the one target that the code was compiled for."""


def only_generic_target(image: Path) -> bytes:
    """The first target of a distribution's image, as the only one.

    The record is: how many; for each its flags, the number of feature words, features on, features off, its
    name and extra features, both preceded by their length (`serialize_target_data`, src/processor.cpp).
    """
    data = elf.ImageSymbols(image).contents("jl_dispatch_target_ids")
    (words,) = struct.unpack_from("<I", data, 8)
    end = 12 + 8 * words
    for _ in ("name", "extra features"):
        (length,) = struct.unpack_from("<I", data, end)
        end += 4 + length
    return struct.pack("<I", 1) + data[4:end]


def write_tables(path: Path, tables: ImageTables, heap_size: int | None) -> None:
    """Writes the assembly source of the tables' object. Without a heap, there is a place of no size in its stead.

    An entry of a table is an offset of 32 bits from the table's own start, which is what an ordinary PC-relative
    relocation gives.
    """
    lines = [
        ".data",
        ".balign 16",
        ".globl jl_sysimg_fvars_base, jl_sysimg_fvars_offsets",
        "jl_sysimg_fvars_base:",
        "jl_sysimg_fvars_offsets:",
        f".long {tables.fvars}",
    ]
    lines += [f".hidden jlf_{n}\n.long jlf_{n}-jl_sysimg_fvars_base" for n in range(1, tables.fvars + 1)]
    lines += [
        ".section .rodata",
        ".balign 16",
        ".globl jl_sysimg_gvars_offsets",
        "jl_sysimg_gvars_offsets:",
        f".long {tables.gvars}",
        f".set offset, 0\n.rept {tables.gvars}\n.long offset\n.set offset, offset+8\n.endr",
        ".bss",
        ".balign 16",
        ".globl jl_sysimg_gvars_base, jl_get_ptls_states_slot, jl_tls_offset",
        "jl_sysimg_gvars_base:",
        f".skip {8 * tables.gvars}",
        ".globl jlp_jl_get_ptls_states_slot, jlp_jl_tls_offset",
        ".hidden jlp_jl_get_ptls_states_slot, jlp_jl_tls_offset",
        "jl_get_ptls_states_slot:\njlp_jl_get_ptls_states_slot: .skip 8",
        "jl_tls_offset:\njlp_jl_tls_offset: .skip 8",
    ]
    lines += [
        f".globl jlg_{n}\n.hidden jlg_{n}\n.set jlg_{n}, jl_sysimg_gvars_base+{8 * (n - 1)}"
        for n in range(1, tables.gvars + 1)
    ]
    lines += [
        ".section .data.rel.ro",
        ".balign 8",
        ".globl jl_RTLD_DEFAULT_handle_pointer",
        "jl_RTLD_DEFAULT_handle_pointer: .quad jl_RTLD_DEFAULT_handle",
        ".section .rodata",
        ".balign 16",
        ".globl jl_system_image_size, jl_globalUnique, jl_dispatch_target_ids",
        ".globl jl_dispatch_reloc_slots, jl_dispatch_fvars_idxs, jl_dispatch_fvars_offsets",
        f"jl_system_image_size: .quad {heap_size or 0}",
        f"jl_globalUnique: .quad {UNIQUE_MARGIN}",
        "jl_dispatch_reloc_slots: .long 0",
        "jl_dispatch_fvars_idxs: .long 0x80000000",  # everything is compiled for the first target
        "jl_dispatch_fvars_offsets: .long 0",
        "jl_dispatch_target_ids:",
        ".byte " + ",".join(map(str, tables.target)),
        '.section .note.GNU-stack,"",@progbits',
    ]
    if heap_size is None:
        lines += [".data", ".globl jl_system_image_data", "jl_system_image_data:"]
    path.write_text("\n".join(lines) + "\n")


@cache
def linker() -> str:
    """The fastest linker on this machine, by the name that `-fuse-ld=` takes. Raises SetupError if none."""
    for name in LINKERS:
        if shutil.which(f"ld.{name}"):
            return name
    raise SetupError("no linker found; install the package binutils (or, faster, mold or lld)")


def libraries(libjulia: Path) -> list[Path]:
    """The files of the libraries that images are linked with, in the order in which names are looked for."""
    found = [libjulia]
    for name in LIBRARIES.values():
        path = Path(process.run(["gcc", f"-print-file-name={name}"]).strip())
        if path.is_absolute():  # otherwise gcc does not know it
            found.append(path)
    return found


def link_image(
    output: Path,
    objects: Sequence[Path],
    heap: Path | None,
    tables: ImageTables,
    *,
    libjulia: Path,
    workdir: Path,
) -> None:
    """Links native code, heap and tables to a system image.

    `heap` is a file as `elf.finish_data_object` wants it and is changed to an object file. Without one, the result is
    what `assemble` adds a heap to. Raises InternalError when the linker fails.
    """
    heap_size = None
    if heap is not None:
        heap_size = heap.stat().st_size - elf.ELF_HEADER_SIZE
        elf.finish_data_object(heap, "jl_system_image_data")
    source, tables_object = workdir / "tables.s", workdir / "tables.o"
    write_tables(source, tables, heap_size)
    temporary = {"TMPDIR": str(workdir)}  # where nothing is left behind by one that is killed
    process.run(["as", source, "-o", tables_object], env=temporary)
    exports = workdir / "exports.map"
    exports.write_text("{ global: jl_*; local: *; };\n")
    command: list[str | Path] = ["gcc", "-shared", "-nostdlib", f"-fuse-ld={linker()}"]
    command += [f"-Wl,--version-script={exports}", "-Wl,-z,noexecstack", "-Wl,--build-id=none", "-o", output]
    command += ["-Wl,--hash-style=gnu", "-Wl,--eh-frame-hdr"]
    command += [*objects, tables_object, *([heap] if heap else []), libjulia, *(f"-l{name}" for name in LIBRARIES)]
    process.run(command, env=temporary)
    if not output.exists():
        raise InternalError(f"the linker made no {output.name}")
