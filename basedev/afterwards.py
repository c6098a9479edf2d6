"""What can wait until an image is in use: its checksums, and that all images keep to the budget.

python -m basedev.afterwards DIRECTORY BYTES
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

from . import process
from .collection import Collection
from .errors import BasedevError
from .storage import Storage
from .store import Entry, Store


def start(entry: Entry, budget: int) -> None:
    """Does that for a new image in a process in the background. The images may have `budget` bytes together."""
    process.start_module("afterwards", entry.directory, str(budget))


def main() -> None:
    """The command. What goes wrong is nobody's concern: the image is as good without."""
    directory = Path(sys.argv[1])
    storage = Storage(directory.parent.parent)
    os.nice(10)
    with suppress(OSError, BasedevError):
        Store(storage).add_checksums(directory.parent.name, directory.name)
    with suppress(OSError, BasedevError):
        Collection(storage).collect(int(sys.argv[2]))


if __name__ == "__main__":
    main()
