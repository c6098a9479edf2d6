"""`basedev init`: adopts a checkout and sees that its base image exists."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from ..adopted import remember, settings_digest
from ..checkout import Checkout
from ..engines import Progress
from ..engines.stock15.baseimage import BaseImage, make_base_image, record_base
from ..errors import SetupError
from ..storage import Storage


def initialise(
    checkout: Checkout,
    storage: Storage,
    progress: Progress,
    told: Callable[[str], None] = lambda _: None,
    *,
    trust: bool = False,
) -> BaseImage:
    """The checkout's base image, made now unless the cache has it.

    With `trust`, the checkout's own settings, as they are now, may have builds started by themselves. A worktree or
    clone of a checkout has no `usr/`, which git ignores: it gets one of the same Julia.
    Raises SetupError when the checkout's Julia is missing or unsuitable.
    """
    if not (checkout.root / "usr").exists():
        from ..newcheckout import complete_like_relatives

        if other := complete_like_relatives(checkout.root):
            told(f"{checkout.root} had no usr/: laid out with the Julia of {other}")
    checkout.julia  # noqa: B018 - a checkout without a program is refused first
    base = make_base_image(checkout.distribution, storage, progress)
    record_base(checkout.base_record, base)
    remember(storage, checkout.root.resolve(), base.id, settings_digest(checkout.root) if trust else None)
    return base


def adopted_base(checkout: Checkout, storage: Storage, progress: Progress) -> BaseImage:
    """The base image of a checkout on which `init` was run. One that is missing, damaged, or made by another version
    of basedev is made again.

    Raises SetupError when `init` was never run.
    """
    distribution = checkout.distribution
    if not checkout.base_record.exists():
        raise SetupError(f"{checkout.root} has no base image yet: run basedev init")
    base = make_base_image(distribution, storage, progress)
    remember(storage, checkout.root.resolve(), base.id)
    with suppress(SetupError):  # in a checkout that can't be written, the julia of shell-init stays with the old one
        if base.id not in checkout.base_record.read_text():
            record_base(checkout.base_record, base)
    return base
