"""Which checkouts were adopted, and the base image that each of them works with; noted in the cache directory."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from .errors import SetupError
from .places import BASE_RECORD
from .storage import Storage, digest_of

DIRECTORY = "checkouts"


def remember(storage: Storage, checkout: Path, base_id: str) -> None:
    """Notes the base image of a checkout, if it is not noted yet. On a disk that can't be written, nothing is."""
    record = storage.root / DIRECTORY / f"{digest_of(str(checkout))[:20]}.json"
    text = json.dumps({"checkout": str(checkout), "base_id": base_id})
    with suppress(OSError, SetupError):
        if not record.exists() or record.read_text() != text:
            with storage.staging("checkout") as made:
                (made / record.name).write_text(text)
                storage.directory(DIRECTORY)
                (made / record.name).replace(record)


def checkouts_by_base(storage: Storage) -> dict[str, list[Path]]:
    """The adopted checkouts that still exist, by their base images."""
    found: dict[str, list[Path]] = {}
    for record in sorted((storage.root / DIRECTORY).glob("*.json")):
        with suppress(OSError, ValueError, KeyError, TypeError):
            about = json.loads(record.read_text())
            checkout = Path(about["checkout"])
            if (checkout / BASE_RECORD).exists():
                found.setdefault(about["base_id"], []).append(checkout)
    return found
