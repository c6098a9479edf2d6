"""A revision on a base image -> an image: the stock-1.5 engine's own part of a build."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ... import elf
from ...errors import UserCodeError
from ...heap_recipe import read_recipe, write_blob
from ...link import ImageTables, link_image
from ...revision import Evaluate, Revision, Step
from .baseimage import BaseImage
from .host_program import Host

Progress = Callable[[str, float], None]

SECONDS_FOR_HEAP = 1.8
SECONDS_PER_INVALIDATED = 0.013
"""Of Julia's own rule, with or without native code: 694 took 10 s, 3,687 took 31 s, 5,174 took 48 s."""


@dataclass(frozen=True)
class Layer:
    """What was done to make an image of a revision."""

    invalidated: int
    """CodeInstances that Julia's own rule ended."""
    reinferred: int
    """Calls of inference."""
    no_cutoff_reason: str | None
    """Why all of those were compiled anew although less might do, if so."""
    recompiled: int
    """CodeInstances with new native code."""
    new_code_reason: str | None
    """Why no native code of the base image could be kept, if none was."""
    whole_heap_reason: str | None
    """Why the heap was written as a whole, if not as a difference from the base image's."""
    peak_memory: int
    """Of the host, in bytes."""
    timings: dict[str, float]
    """Seconds by step."""


def check(answer: dict[str, Any], steps: Sequence[Step] = ()) -> None:
    """Raises UserCodeError when the host answers that evaluating one of `steps` failed."""
    for error in answer.get("errors", ()):
        step = steps[error["step"]] if steps else None
        place = f"{step.file}:{step.line}: " if isinstance(step, Evaluate) else ""
        raise UserCodeError(f"{place}a definition fails when it is evaluated", error["message"])


def make_layer(
    base: BaseImage,
    revision: Revision,
    host: Host,
    made: Path,
    libjulia: Path,
    progress: Progress,
    *,
    cutoff: bool = True,
) -> Layer:
    """Evaluates a revision in `host`, which runs on `base`, and links the image `made/sys.so`.

    Without `cutoff`, all that Julia's own rule invalidates is compiled anew.

    Raises UserCodeError when a definition fails.
    """
    work = made / "work"
    work.mkdir()
    progress("evaluating definitions", 0.2)
    begin = time.monotonic()
    applied = host.apply(revision.steps)
    check(applied, revision.steps)
    evaluated = time.monotonic()
    invalidated = applied["invalidated"]
    expected = SECONDS_FOR_HEAP + SECONDS_PER_INVALIDATED * invalidated
    progress(f"compiling what the edit invalidated ({invalidated} CodeInstances)", expected)
    parts = host.compile(work, base.dependencies if cutoff else None)
    check(parts)
    compiled = time.monotonic()
    progress("linking", 0.7)
    tables = ImageTables(parts["fvars"], parts["gvars"], base.tables.target)
    kept = () if parts["new_code_reason"] else base.objects
    objects = [*kept, *map(Path, parts["objects"])]
    heap = Path(parts["heap"])
    if not parts["whole_heap_reason"]:
        heap = _assembled(heap, base)
    link_image(made / "sys.so", objects, heap, tables, libjulia=libjulia, workdir=work)
    elf.redirect(made / "sys.so", parts["replaced"])
    linked = time.monotonic()
    inner = parts["timings"]
    return Layer(
        invalidated=invalidated,
        reinferred=parts["inferred"],
        no_cutoff_reason=parts["no_cutoff_reason"] or None,
        recompiled=parts.get("recompiled", 0),
        new_code_reason=parts["new_code_reason"] or None,
        whole_heap_reason=parts["whole_heap_reason"] or None,
        peak_memory=parts["peak_kib"] * 1024,
        timings={
            "evaluate": evaluated - begin,
            "check": inner["check"],
            "infer": inner["infer"],
            "generate": inner.get("generate", 0.0),
            "heap": inner["heap"] + inner["write heap"],
            "emit": inner["emit"],
            "link": linked - compiled,
        },
    )


def _assembled(recipe: Path, base: BaseImage) -> Path:
    """The heap that a recipe tells of, as `link_image` wants it."""
    heap = recipe.with_suffix(".o")
    pieces = read_recipe(recipe, base.heap.size)
    with heap.open("wb") as file:
        file.write(bytes(elf.ELF_HEADER_SIZE))
        write_blob(pieces, base.heap, file)
    return heap
