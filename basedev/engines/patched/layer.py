"""A revision on a base image -> an image: the patched engine's own part of a build."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ... import link
from ...revision import Step
from .. import Progress
from .baseimage import BaseImage
from .imagefile import link_image, program, waiting_writer

SECONDS = 8.0


@dataclass(frozen=True)
class Layer:
    """What was done to make an image of a revision."""

    linker: str
    timings: dict[str, float]
    """Seconds by step."""


@contextmanager
def prepared(base: BaseImage, julia: Path, made: Path) -> Iterator[Callable[[Sequence[Step], Progress], Layer]]:
    """Starts what makes images on `base`, and gives what evaluates the steps of a revision there, and links the image
    `made/sys.so`."""
    work = made / "work"
    work.mkdir()
    revision, archive = work / "revision.jl", work / "new.a"

    def make(steps: Sequence[Step], progress: Progress) -> Layer:
        revision.write_bytes(program(steps).encode("utf-8", "surrogateescape"))
        begin = time.monotonic()
        progress("evaluating definitions, compiling and writing the heap", SECONDS)
        write()
        written = time.monotonic()
        progress("linking", 0.5)
        link_image(made / "sys.so", base.code, archive, julia, work)
        timings = {"compile": written - begin, "link": time.monotonic() - written}
        return Layer(link.linker(), timings)

    with waiting_writer(base.sysimage, base.code, julia, base.cpu_target, archive, revision, work) as write:
        yield make
