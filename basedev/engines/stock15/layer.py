"""A revision on a base image -> an image: the stock-1.5 engine's own part of a build."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ...errors import NeedsFullRebuild, UserCodeError
from ...link import ImageTables, link_image
from ...revision import Revision
from .baseimage import BaseImage
from .host_program import Host

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Layer:
    """What was done to make an image of a revision."""

    invalidated: int
    """CodeInstances that Julia's own rule ended."""
    recompiled: int
    """CodeInstances with new native code."""
    peak_memory: int
    """Of the host, in bytes."""
    timings: dict[str, float]
    """Seconds by step."""


def make_layer(
    base: BaseImage, revision: Revision, host: Host, made: Path, libjulia: Path, progress: Progress
) -> Layer:
    """Evaluates a revision in `host`, which runs on `base`, and links the image `made/sys.so`.

    Raises NeedsFullRebuild when the revision reaches what only a full rebuild can redo, UserCodeError when
    a definition fails.
    """
    work = made / "work"
    work.mkdir()
    progress("evaluating definitions", 0.2)
    begin = time.monotonic()
    applied = host.apply(revision.steps)
    for error in applied["errors"]:
        raise UserCodeError("a definition fails when it is evaluated", error["message"])
    if applied["emptied"]:
        raise NeedsFullRebuild(f"{applied['emptied'][0]} has no methods left: a rebuild would not have the name")
    evaluated = time.monotonic()
    progress("compiling what the edit invalidated", 3.0)
    parts = host.compile(work)
    if parts["obstacles"]:
        raise NeedsFullRebuild(parts["obstacles"][0])
    compiled = time.monotonic()
    progress("linking", 0.7)
    tables = ImageTables(parts["fvars"], parts["gvars"], base.tables.target)
    objects = [*base.objects, *map(Path, parts["objects"])]
    link_image(made / "sys.so", objects, Path(parts["heap"]), tables, libjulia=libjulia, workdir=work)
    linked = time.monotonic()
    inner = parts["timings"]
    return Layer(
        invalidated=parts["invalidated"],
        recompiled=parts.get("recompiled", 0),
        peak_memory=parts["peak_kib"] * 1024,
        timings={
            "evaluate": evaluated - begin,
            "infer": inner["infer"],
            "generate": inner.get("generate", 0.0),
            "heap": inner["heap"] + inner["write heap"],
            "emit": inner["emit"],
            "link": linked - compiled,
        },
    )
