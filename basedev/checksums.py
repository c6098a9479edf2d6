"""The process in the background that computes the checksums of an entry of the store (`Store.publish`).

python -m basedev.checksums DIRECTORY
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

from .errors import BasedevError
from .storage import Storage
from .store import Store


def main() -> None:
    """The command. What goes wrong is nobody's concern: the entry is as good without."""
    directory = Path(sys.argv[1])
    os.nice(10)
    with suppress(OSError, BasedevError):
        Store(Storage(directory.parent.parent)).add_checksums(directory.parent.name, directory.name)


if __name__ == "__main__":
    main()
