"""What makes the images of a checkout: the engine for its Julia."""

from __future__ import annotations

from collections.abc import Callable

from ..adopted import settings_digest
from ..checkout import Checkout
from ..engines import Progress
from ..storage import Storage
from . import initialise as stock15
from .build import Base, Builder, ImageBuilder


def initialise(
    checkout: Checkout,
    storage: Storage,
    progress: Progress,
    told: Callable[[str], None] = lambda _: None,
    *,
    trust: bool = False,
) -> Base:
    """`basedev init`: the checkout's base image, made now unless the cache has it.

    With `trust`, the checkout's own settings, as they are now, may have builds started by themselves.
    Raises SetupError when the checkout's Julia is missing or unsuitable.
    """
    if checkout.is_patched:
        from .build_patched import adopt

        return adopt(checkout, storage, progress, settings_digest(checkout.root) if trust else None)
    return stock15.initialise(checkout, storage, progress, told, trust=trust)


def builder_for(
    checkout: Checkout, storage: Storage, progress: Progress, *, server: bool | None = None
) -> ImageBuilder:
    """The builder for a checkout that was adopted. Raises SetupError when it was not."""
    if checkout.is_patched:
        from .build_patched import PatchedBuilder

        return PatchedBuilder(checkout, storage, progress)
    return Builder(checkout, storage, progress, server=server)
