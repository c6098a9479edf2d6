"""Which image is that of a checkout's present sources, found without what making one needs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from .errors import SetupError
from .places import BASE_RECORD, SYSIMAGE, built
from .sources import ChangeSet, Sources
from .stat_cache import Identified, identify
from .storage import Storage, digest_of
from .store import Store

CHAINED = "stock-1.5"
CHAINED_WITHOUT_CUTOFF = "stock-1.5-no-cutoff"
PATCHED = "patched"
PATCHED_WITHOUT_CUTOFF = "patched-no-cutoff"
FULL = "full"


def image_id(engine: str, ground: str, sources: str) -> str:
    """The name of an image. `ground` is the id of the base image for a chained one, the Julia's key for a full one."""
    return digest_of(engine, ground, sources)[:20]


def stamp(image: Path) -> list[int]:
    """What tells a system image that `make` made from others at its place. Raises OSError."""
    status = image.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ino]


@dataclass(frozen=True)
class Choice:
    """The images of a checkout at one time."""

    image: Path | None
    """That of the present sources; None when it was not made."""
    base: Path
    places: tuple[Path, ...]
    """Where an image of the present sources is as soon as it is made."""
    changed: tuple[str, ...]
    """Files that differ from those of the base image, and can be in one."""
    identified: Identified


def choose(root: Path, storage: Storage) -> Choice:
    """The image of the present sources of an adopted checkout.

    Raises SetupError when the base image is gone, or is another one by now, OSError when a source file can't be read.
    """
    store = Store(storage)
    try:
        noted = json.loads((record := root / built(root, BASE_RECORD)).read_text())
        name, made = noted["base_id"], noted.get("of", [])[1:]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise SetupError(f"{record} can't be read: run basedev init") from error
    if made and made != stamp(root / built(root, SYSIMAGE)):
        raise SetupError(f"make has made {built(root, SYSIMAGE)} anew, which is not kept yet: run basedev init")
    base = store.find("bases", name)
    if base is None:
        raise SetupError(f"the base image of {root} is gone: run basedev init")
    about, sysimage = base.manifest, base.file("base.so")
    found = identify(root)
    contents: dict[str, bytes] = {}
    before, now = (Sources(blobs, contents).of_images(about["included"]) for blobs in (about["sources"], found.blobs))
    changed = ChangeSet.between(before, now).paths
    if not changed:
        return Choice(sysimage, sysimage, (), changed, found)
    if "distribution" in about:
        grounds = {CHAINED: base.id, FULL: about["distribution"]}
    else:
        grounds = {PATCHED: base.id, FULL: about["files"]["base.so"]["sha256"]}
    ids = [image_id(engine, ground, now.id) for engine, ground in grounds.items()]
    entry = next(filter(None, (store.find("images", one) for one in ids)), None)
    places = tuple(storage.root / "images" / one for one in ids)
    return Choice(entry.file("sys.so") if entry else None, sysimage, places, changed, found)
