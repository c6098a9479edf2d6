"""The file of an image, from native code old and new and a heap: assembled, or linked where that is not enough."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ... import elf
from ...assemble import Contents, assemble
from ...link import ImageTables, link_image, linker
from ...pieces import Range
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
    """Writes the image of what the host made (`parts`, its answer to `compile`).

    Raises InternalError when that is not possible, SetupError when the disk is full; nothing is left at `output`.
    """
    heap, objects = Path(parts["heap"]), [Path(path) for path in parts["objects"]]
    try:
        if os.environ.get(FORCED) == "linker":
            raise NeedsLinker(f"{FORCED} says so")
        if parts["new_code_reason"]:
            raise NeedsLinker("no native code of the base image is kept")
        contents = Range(heap, elf.ELF_HEADER_SIZE, heap.stat().st_size - elf.ELF_HEADER_SIZE)
        new = Contents([contents], parts["fvars"], parts["gvars"], objects, parts["replaced"])
        with disk_errors("write the image"):
            assemble(output, base.prelinked, new, base.library_names)
        return Made("none", None)
    except NeedsLinker as reason:
        tables = ImageTables(parts["fvars"], parts["gvars"], base.tables.target)
        kept = [] if parts["new_code_reason"] else base.objects
        link_image(output, [*kept, *objects], heap, tables, libjulia=libjulia, workdir=work)
        elf.redirect(output, parts["replaced"])
        return Made(linker(), str(reason))
