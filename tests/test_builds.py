"""What `make` can build of current Julia, and where: made-up checkouts, of which nothing is run."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from basedev.checkout import Checkout
from basedev.engines.patched.baseimage import make_base_image
from basedev.errors import SetupError
from basedev.places import SYSIMAGE
from basedev.storage import Storage

IMAGE = """
.section .rodata
.globl jl_image_chainable, jl_dispatch_target_ids
.hidden jl_dispatch_target_ids
jl_image_chainable: .byte 1
jl_dispatch_target_ids: .long {targets}
.section .note.GNU-stack,"",@progbits
"""


def image_for(targets: int, path: Path) -> None:
    """Makes a shared object with what tells for how many processors a system image has code."""
    made = path.with_suffix(".o")
    subprocess.run(["as", "-o", made], input=IMAGE.format(targets=targets).encode(), check=True)
    subprocess.run(["gcc", "-shared", "-nostdlib", "-o", path, made], check=True)


def built(root: Path) -> Checkout:
    """A checkout with what `make` builds at least."""
    for name in ("base/Base.jl", "stdlib/Here/Project.toml", "usr/lib/julia/sys-o.a", "usr/bin/julia"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    (root / "usr/lib/julia/sys-o.a").write_text("!<arch>\n")
    (root / "VERSION").write_text("1.12.5\n")
    return Checkout(root)


@pytest.mark.parametrize("targets", [1, 4])
def test_an_image_for_several_processors_is_refused(tmp_path: Path, targets: int) -> None:
    checkout, storage = built(tmp_path / "julia"), Storage(tmp_path / "cache")
    image_for(targets, checkout.root / SYSIMAGE)
    refused = f"has code for {targets} processors, .*: set JULIA_CPU_TARGET to one, as native, in Make.user, then make"
    with pytest.raises(SetupError, match=refused if targets > 1 else "sys-o.a has no native code"):
        make_base_image(checkout, storage, lambda step, seconds: None)
