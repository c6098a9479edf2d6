"""Adopting a checkout of the unmodified Julia 1.5: which base image is its own, and that there is one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from ..adopted import remember
from ..checkout import Checkout
from ..engines import Progress
from ..engines.kept import note_base
from ..engines.stock15.baseimage import BaseImage, make_base_image
from ..errors import SetupError
from ..storage import Storage


def adopt(
    checkout: Checkout,
    storage: Storage,
    progress: Progress,
    settings: str | None = None,
    told: Callable[[str], None] = lambda _: None,
) -> BaseImage:
    """The checkout's base image, made now unless the cache has it, and noted as its own (`basedev init`).

    `settings` is the digest of the checkout's own settings, if the user trusts them. A worktree or clone of a checkout
    has no `usr/`, which git ignores: it gets one of the same Julia.
    Raises SetupError when the checkout's Julia is missing or unsuitable.
    """
    if not (checkout.root / "usr").exists():
        from ..newcheckout import complete_like_relatives

        if other := complete_like_relatives(checkout.root):
            told(f"{checkout.root} had no usr/: laid out with the Julia of {other}")
    checkout.julia  # noqa: B018 - a checkout without a program is refused first
    base = make_base_image(checkout.distribution, storage, progress)
    note_base(checkout.base_record, base)
    remember(storage, checkout.root.resolve(), base.id, settings)
    return base


def adopted_base(checkout: Checkout, storage: Storage, progress: Progress) -> BaseImage:
    """The base image of a checkout on which `init` was run. One that is missing, damaged, or made by another version
    of basedev is made again.

    Raises SetupError when `init` was never run.
    """
    distribution = checkout.distribution
    checkout.check_adopted()
    base = make_base_image(distribution, storage, progress)
    remember(storage, checkout.root.resolve(), base.id)
    with suppress(SetupError):  # in a checkout that can't be written, the julia of shell-init stays with the old one
        if base.id not in checkout.base_record.read_text():
            note_base(checkout.base_record, base)
    return base
