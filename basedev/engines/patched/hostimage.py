"""The host's image: a base image that has `host.jl` in it, compiled. A Julia that reads that program takes seconds
until it answers, most of them in its compiler."""

from __future__ import annotations

import shutil
from pathlib import Path

from ...revision import Delete, Evaluate
from ..requests import encode
from .host_program import SCRIPT
from .imagefile import ARCHIVE, RUN, link_image, program, write_archive

NAME = "host.so"

STATEMENTS = (
    Evaluate("Main", "rehearsal.jl", 1, '"Documented."\nbasedev_rehearsal(x::Int) = x'),
    Evaluate("Main", "rehearsal.jl", 3, "basedev_rehearsal(x::Int; by = 1) = x + by\nexport basedev_rehearsal"),
    Evaluate("Main", "rehearsal.jl", 5, "for one in (:a, :b) @eval $(Symbol(:basedev_, one))(x::Int) = x end"),
    Evaluate(
        "Main", "rehearsal.jl", 6, 'const basedev_rehearsed = (Dict(1 => r"a"), [2.0], Base.GMP.BigInt(1), x -> 1)'
    ),
)
"""What a host does in a rehearsal, when its image is made."""

DELETED = Delete("Main", "basedev_rehearsal", "Tuple{typeof(Main.basedev_rehearsal), Core.Int64}")

REHEARSE = "Base.include(Main, ARGS[2]); Base.invokelatest(Main.BasedevHost.rehearse, ARGS[3]);"


def make_host_image(base: Path, code: Path, target: str, julia: Path, made: Path) -> None:
    """Makes `made/host.so` of a base image and the object file of its native code, for `julia -C target`."""
    work = made / "host"
    work.mkdir()
    (work / "rehearsal").write_bytes(_requests(work / "census"))
    (work / "nothing.jl").write_text(program([]))
    arguments = [work / "nothing.jl", SCRIPT, work / "rehearsal"]
    write_archive(base, code, julia, target, work / ARCHIVE, REHEARSE + RUN, arguments, work)
    link_image(made / NAME, code, work / ARCHIVE, julia, work)
    shutil.rmtree(work)


def _requests(census: Path) -> bytes:
    text = b"\n".join(one.text.encode() for one in STATEMENTS)
    path = bytes(census)
    steps = (*STATEMENTS, DELETED)
    return b"".join(
        (
            *(b"facts\n", b"parse 1\n%d\n" % len(text), text),
            *(b"census %d %d\n" % (len(path), len(STATEMENTS)), path, *encode(STATEMENTS)),
            *(b"impact %d\n" % len(STATEMENTS), *encode(STATEMENTS)),
            *(b"trial %d\n" % len(steps), *encode(steps)),
            *(b"affected %d\n" % len(path), path),
            *(b"results %d\n" % len(STATEMENTS), *encode(STATEMENTS)),
            b"kept\n",
        )
    )
