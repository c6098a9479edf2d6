"""What makes the images of a checkout: the engine for its Julia."""

from __future__ import annotations

from collections.abc import Callable

from ..adopted import settings_digest
from ..checkout import Checkout
from ..engines import Progress
from ..errors import UsageError
from ..storage import Storage
from .adopting import adopt
from .build import Base, Builder, ImageBuilder


def initialise(
    checkout: Checkout,
    storage: Storage,
    progress: Progress,
    told: Callable[[str], None] = lambda _: None,
    *,
    trust: bool = False,
    debug: bool | None = None,
) -> Base:
    """`basedev init`: the checkout's base image, made now unless the cache has it.

    With `trust`, the checkout's own settings, as they are now, may have builds started by themselves. `debug` is
    whether the debug build is to be used from now on; None leaves that as it is.
    Raises SetupError when the checkout's Julia is missing, unsuitable, or not that of its sources.
    """
    settings = settings_digest(checkout.root) if trust else None
    if checkout.is_patched:
        from . import build_patched

        if debug is not None:
            checkout.use(debug=debug)
        base = build_patched.adopt(checkout, storage, progress, settings)
        build_patched.check_runtime(checkout)
        return base
    if debug:
        raise UsageError(f"{checkout.root} has no debug build: --debug is for a Julia that its own makefile builds")
    return adopt(checkout, storage, progress, settings, told)


def builder_for(
    checkout: Checkout, storage: Storage, progress: Progress, *, server: bool | None = None
) -> ImageBuilder:
    """The builder for a checkout that was adopted. Raises SetupError when it was not."""
    if checkout.is_patched:
        from .build_patched import PatchedBuilder

        return PatchedBuilder(checkout, storage, progress, server=server)
    return Builder(checkout, storage, progress, server=server)
