"""A revision on a base image -> an image: the patched engine's own part of a build."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ... import link
from ...revision import Step
from .. import Progress
from .baseimage import BaseImage
from .imagefile import RUN, link_image, program, write_archive

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
    write_archive(base.sysimage, julia, base.cpu_target, archive, RUN, [revision], work)
    written = time.monotonic()
    progress("linking", 0.5)
    link_image(made / "sys.so", base.code, archive, julia, work)
    timings = {"compile": written - begin, "link": time.monotonic() - written}
    return Layer(link.linker(), timings)
