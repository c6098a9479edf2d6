"""`basedev init`: adopts a checkout and sees that its base image exists."""

from __future__ import annotations

import json

from ..checkout import Checkout
from ..engines.stock15.baseimage import BaseImage, Progress, make_base_image, record_base
from ..errors import SetupError
from ..storage import Storage
from ..store import Store


def initialise(checkout: Checkout, storage: Storage, progress: Progress) -> BaseImage:
    """The checkout's base image, made now unless the cache has it.

    Raises SetupError when the checkout's Julia is missing or unsuitable.
    """
    checkout.julia  # noqa: B018 - a checkout without a program is refused first
    base = make_base_image(checkout.distribution, storage, progress)
    record_base(checkout.base_record, base)
    return base


def adopted_base(checkout: Checkout, storage: Storage, progress: Progress) -> BaseImage:
    """The base image of a checkout on which `init` was run. One that is missing or damaged is made again.

    Raises SetupError when `init` was never run.
    """
    distribution = checkout.distribution
    try:
        recorded = json.loads(checkout.base_record.read_text())["base_id"]
    except (OSError, ValueError, KeyError, TypeError):
        raise SetupError(f"{checkout.root} has no base image yet: run basedev init") from None
    entry = Store(storage).find("bases", recorded)
    if entry is not None and entry.manifest["distribution"] == distribution.key:
        return BaseImage(entry)
    return initialise(checkout, storage, progress)
