"""Sizes, ages and counts as people write them."""

from __future__ import annotations

import re

WORTH_SHOWING = 2.0
"""Seconds: without a terminal, only steps that take longer are told."""

LARGEST = 1 << 63
"""Sizes are below that."""

UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
AGES = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"), (1.0, "s"))


def parse_size(text: str) -> int:
    """Bytes: "20 GiB", "500M", "1.5 TB". A unit without `i` counts in thousands if it ends in `B`, else as with `i`.

    Raises ValueError when it is no size.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)(B?)\s*", text, re.IGNORECASE | re.ASCII)
    if not match or (match[3] and not match[2]):
        raise ValueError(f"{text!r} is no size, such as 20 GiB")
    thousand = 1000 if match[4] and not match[3] else 1024
    number = float(match[1]) * thousand ** "_kmgt".index(match[2].lower() or "_")
    if number >= LARGEST:
        raise ValueError(f"{text[:20]} is more than any disk or memory has")
    return int(number)


def size(count: int) -> str:
    """Bytes in words: three digits at most before a unit."""
    value, unit = float(count), 0
    while value >= 999.5 and unit < len(UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{value:.1f} {UNITS[unit]}" if unit and value < 9.95 else f"{value:.0f} {UNITS[unit]}"


def age(seconds: float) -> str:
    """A time span in its largest unit."""
    for length, unit in AGES:
        if seconds >= length:
            return f"{seconds // length:.0f} {unit}"
    return "0 s"


def counted(number: int, one: str, more: str = "") -> str:
    """A number of things: "1 image", "2 images"; `more` is the plural where it is another."""
    return f"{number} {one if number == 1 else more or f'{one}s'}"


def effect(invalidated: int | None, recompiled: int | None) -> str:
    """What an edit did to compiled code, in words; what is not known is left out."""
    numbers = {"invalidated": invalidated, "recompiled": recompiled}
    return ", ".join(f"{number} {what}" for what, number in numbers.items() if number is not None)
