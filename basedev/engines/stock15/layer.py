"""A revision on a base image -> an image: the stock-1.5 engine's own part of a build."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...aside import Aside
from ...errors import UserCodeError
from ...pieces import copy
from ...revision import Evaluate, Revision, Step
from ...storage import disk_errors
from .. import Progress
from ..lines import correct_lines
from .baseimage import BaseImage
from .host_program import Host
from .imagefile import make_image

SECONDS_FOR_HEAP = 0.2
SECONDS_PER_INVALIDATED = 0.001
"""By Julia's own rule, of which early cutoff leaves few: those of 3,687 took 3 s to compile."""
SECONDS_WITHOUT_CUTOFF = 0.013
"""For each: 694 took 10 s, 3,687 took 31 s, 5,174 took 48 s."""


class NeedsJuliasRule(Exception):
    """Early cutoff must not be used for an edit; the message tells why."""


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
    old_lines_reason: str | None
    """Why native code that was kept names the lines of the base image in stack traces, if it does."""
    linker: str
    """What linked the image, or "none"."""
    linker_reason: str | None
    """Why one was needed, if so."""
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

    Raises UserCodeError when a definition fails, NeedsJuliasRule when all has to be done again without `cutoff`.
    """
    work = made / "work"
    work.mkdir()
    progress("evaluating definitions", 0.2)
    if not cutoff:
        host.go_back()  # what it has evaluated, it has cut off
    applied = host.apply(revision.steps)
    check(applied, revision.steps)
    invalidated = applied["invalidated"]
    expected = SECONDS_FOR_HEAP + (SECONDS_PER_INVALIDATED if cutoff else SECONDS_WITHOUT_CUTOFF) * invalidated
    progress(f"compiling what the edit invalidated ({invalidated} CodeInstances)", expected)
    with Aside(lambda: copy(base.sysimage, made / "sys.so")) as ground:
        parts = host.compile(work, base.dependencies if cutoff else None)
        check(parts)
        if reason := parts.get("needs_julias_rule"):
            raise NeedsJuliasRule(reason)
        compiled = time.monotonic()
        progress("linking", 0.1)
        with disk_errors("write the image"):
            ground.result()
    image = make_image(made / "sys.so", base, parts, libjulia, work)
    old_lines_reason = None if parts["new_code_reason"] else correct_lines(made / "sys.so", base, revision.steps)
    linked = time.monotonic()
    inner = parts["timings"]
    return Layer(
        invalidated=invalidated,
        reinferred=parts["inferred"],
        no_cutoff_reason=parts["no_cutoff_reason"] or None,
        recompiled=parts.get("recompiled", 0),
        new_code_reason=parts["new_code_reason"] or None,
        old_lines_reason=old_lines_reason,
        linker=image.linker,
        linker_reason=image.linker_reason,
        whole_heap_reason=parts["whole_heap_reason"] or None,
        peak_memory=parts["peak_kib"] * 1024,
        timings={
            "evaluate": inner["evaluate"],
            "check": inner["check"],
            "infer": inner["infer"],
            "generate": inner.get("generate", 0.0),
            "heap": inner["heap"] + inner["write heap"],
            "emit": inner["emit"],
            "link": linked - compiled,
        },
    )
