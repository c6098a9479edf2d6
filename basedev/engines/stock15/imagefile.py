"""The file of an image, from native code old and new and a heap: assembled, or linked where that is not enough."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ... import elf
from ...assemble import Contents, assemble
from ...heap_recipe import read_recipe
from ...link import ImageTables, link_image, linker
from ...pieces import Piece, Range, Writer
from ...relocate import NeedsLinker
from ...storage import disk_errors
from .baseimage import BaseImage

FORCED = "BASEDEV_LINK"
"""Environment variable for developers: with the value `linker`, nothing is assembled."""


@dataclass(frozen=True)
class Made:
    """How an image's file was made."""

    linker: str
    """The linker's name, or "none"."""
    linker_reason: str | None
    """Why one was needed, if so."""


def make_image(output: Path, base: BaseImage, parts: Mapping[str, Any], libjulia: Path, work: Path) -> Made:
    """Makes a copy of the base image, `output`, the image of what the host made (`parts`, its answer to `compile`).

    Raises InternalError when that is not possible, SetupError when the disk is full; nothing is left at `output`.
    """
    objects = [Path(path) for path in parts["objects"]]
    heap = _heap(base, parts)
    try:
        if os.environ.get(FORCED) == "linker":
            raise NeedsLinker(f"{FORCED} says so")
        if parts["new_code_reason"]:
            raise NeedsLinker("no native code of the base image is kept")
        new = Contents(heap, parts["fvars"], parts["gvars"], objects, parts["replaced"])
        with disk_errors("write the image"):
            assemble(output, base.prelinked, new, base.library_names, copied=True)
        return Made("none", None)
    except NeedsLinker as reason:
        output.unlink(missing_ok=True)  # the linker needs the room on the disk
        tables = ImageTables(parts["fvars"], parts["gvars"], base.tables.target)
        kept = [] if parts["new_code_reason"] else base.objects
        whole = Path(parts["heap"])
        if not parts["whole_heap_reason"]:
            whole = work / "whole.o"
            with disk_errors("write the heap"), whole.open("wb") as file, Writer(file.fileno()) as writer:
                writer.write(elf.ELF_HEADER_SIZE, heap)
        link_image(output, [*kept, *objects], whole, tables, libjulia=libjulia, workdir=work)
        elf.redirect(output, parts["replaced"])
        return Made(linker(), str(reason))


def _heap(base: BaseImage, parts: Mapping[str, Any]) -> list[Piece]:
    """The heap that the host wrote: a recipe, or all of it behind room for a header."""
    written = Path(parts["heap"])
    if not parts["whole_heap_reason"]:
        return read_recipe(written, base.heap)
    return [Range(written, elf.ELF_HEADER_SIZE, written.stat().st_size - elf.ELF_HEADER_SIZE)]
