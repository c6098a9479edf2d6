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
from .host_program import Kept
from .imagefile import ARCHIVE, link_image, waiting_writer, write_revision
from .spares import Writer

SECONDS = 8.0


@dataclass(frozen=True)
class Layer:
    """What was done to make an image of a revision."""

    linker: str
    timings: dict[str, float]
    """Seconds by step."""


MakeLayer = Callable[[Sequence[Step], Kept, Progress], Layer]


@contextmanager
def prepared(base: BaseImage, julia: Path, made: Path, spare: Writer | None = None) -> Iterator[MakeLayer]:
    """Starts what makes images on `base`, unless a server has (`spare`), and gives what evaluates the steps of a
    revision there, and links the image `made/sys.so`."""
    work = spare.directory if spare else made / "work"

    def make(steps: Sequence[Step], kept: Kept, progress: Progress) -> Layer:
        write_revision(work, steps, kept)
        begin = time.monotonic()
        progress("evaluating definitions, compiling and writing the heap", SECONDS)
        write()
        written = time.monotonic()
        progress("linking", 0.5)
        link_image(made / "sys.so", base.code, work / ARCHIVE, julia, work)
        timings = {"compile": written - begin, "link": time.monotonic() - written}
        return Layer(link.linker(), timings)

    if spare:
        write = spare.go_on
        yield make
        return
    work.mkdir()
    with waiting_writer(base.sysimage, base.code, julia, base.cpu_target, work) as write:
        yield make
