"""What the Julias that make images see of the environment, whether a build starts them or its server did."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

NOT_SEEN = "JULIA_(?!IMAGE_THREADS$|CPU_THREADS$).*|BASEDEV_.*|GIT_.*|_|PWD|OLDPWD|SHLVL"
"""Names of variables that they are not given: settings of Julia, but for how many threads compile, and of basedev, and
what git and shells tell of what they do."""


Variables = Mapping[bytes, bytes]


def variables() -> Variables:
    """What they are given."""
    return {name: value for name, value in os.environb.items() if not re.fullmatch(NOT_SEEN, os.fsdecode(name))}
