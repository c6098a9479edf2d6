"""Which checkouts were adopted, with the base image that each works with; noted in the cache directory.

What happens by itself (the `julia` in front, git's hooks) happens in these only: a note in the checkout, where a
repository can bring it along, is not enough. A checkout's record stands below `checkouts/` at the checkout's own path,
where a shell script finds it without help.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from .errors import SetupError
from .places import ADOPTED, ADOPTED_RECORD, BASE_RECORD, KINDS, SETTINGS
from .storage import Storage, file_digest


def remember(storage: Storage, checkout: Path, base_id: str, settings: str | None = None) -> None:
    """Notes the base image of a checkout (a real path), and `settings`, the digest of its file of settings if the user
    trusts that; None leaves it as it was noted. On a disk that can't be written, nothing is."""
    record = _record(storage, checkout)
    before = _read(record)
    about = {"checkout": os.fspath(checkout), "base_id": base_id, "settings": settings or before.get("settings")}
    if before != about:
        with suppress(OSError, SetupError), storage.staging("checkout") as made:
            (made / record.name).write_text(json.dumps(about))
            storage.directory(ADOPTED)
            record.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            (made / record.name).replace(record)


def is_adopted(storage: Storage, checkout: Path) -> bool:
    """Whether a checkout was adopted with this cache directory."""
    return bool(_read(_record(storage, checkout.resolve())))


def trusts_settings(storage: Storage, checkout: Path) -> bool:
    """Whether the user trusts a checkout's own settings as they are now."""
    trusted = _read(_record(storage, checkout.resolve())).get("settings")
    return trusted is not None and trusted == settings_digest(checkout)


def settings_digest(checkout: Path) -> str | None:
    """The digest of a checkout's own settings; None when there are none."""
    try:
        return file_digest(checkout / SETTINGS)
    except OSError:
        return None


def checkouts_by_base(storage: Storage) -> dict[str, list[Path]]:
    """The adopted checkouts that still exist, by their base images: one for each build, where both were adopted."""
    found: dict[str, list[Path]] = {}
    for adopted in sorted((storage.root / ADOPTED).rglob(ADOPTED_RECORD)):
        if about := _read(adopted):
            checkout = Path(about["checkout"])
            records = [checkout / BASE_RECORD.format(kind) for kind in KINDS]
            with suppress(OSError, ValueError):
                if there := [record for record in records if record.exists()]:
                    noted = [_json(record).get("base_id") for record in there if record.is_file()]
                    for base in sorted({about["base_id"], *(one for one in noted if isinstance(one, str))}):
                        found.setdefault(base, []).append(checkout)
    return found


def _record(storage: Storage, checkout: Path) -> Path:
    return storage.root / f"{ADOPTED}{checkout}" / ADOPTED_RECORD


def _read(record: Path) -> dict[str, Any]:
    """What is noted; empty if it can't be read."""
    about = _json(record)
    return about if all(isinstance(about.get(key), str) for key in ("checkout", "base_id")) else {}


def _json(file: Path) -> dict[str, Any]:
    try:
        about = json.loads(file.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return about if isinstance(about, dict) else {}
