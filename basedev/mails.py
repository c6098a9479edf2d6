"""A series of patches as `git format-patch` writes one, for `git am` and for review."""

from __future__ import annotations

import difflib
import re

from .patches import Read, Series, patched

NULL = "0" * 40


def mails(series: Series, read: Read, author: str, date: str) -> dict[str, bytes]:
    """One mail for each patch, by name of file, for the tree that `read` reads.

    Args:
        author: "A U Thor <author@example.com>".
        date: As in the head of a mail.

    Raises SetupError when the series can't be applied.
    """
    found: dict[str, bytes] = {}
    before: dict[str, bytes] = {}
    for number, patch in enumerate(series.patches, 1):
        # Anchors are those of the tree without any of the series, so the patches up to this one are applied to it.
        files = patched(Series(series.family, series.patches[:number]), read, marked=False)
        diff = b"".join(
            _diff(path, old, content)
            for path, content in sorted(files.items())
            if (old := before.get(path, read(path))) != content
        )
        before = files
        head = (
            f"From {NULL} Mon Sep 17 00:00:00 2001\nFrom: {author}\nDate: {date}\n"
            f"Subject: [PATCH {number}/{len(series.patches)}] {patch.subject}\n\n{patch.message}\n---\n\n"
        )
        name = re.sub(r"[^A-Za-z0-9]+", "-", patch.subject).strip("-")
        found[f"{number:04d}-{name}.patch"] = head.encode() + diff + b"-- \nbasedev\n\n"
    return found


def _diff(path: str, old: bytes | None, new: bytes) -> bytes:
    head = f"diff --git a/{path} b/{path}\n" + ("new file mode 100644\n" if old is None else "")
    names = (b"/dev/null" if old is None else f"a/{path}".encode(), f"b/{path}".encode())
    lines = difflib.diff_bytes(difflib.unified_diff, _lines(old or b""), _lines(new), *names, lineterm=b"\n")
    return head.encode() + b"".join(
        line if line.endswith(b"\n") else line + b"\n\\ No newline at end of file\n" for line in lines
    )


def _lines(content: bytes) -> list[bytes]:
    return re.findall(rb"[^\n]*\n|[^\n]+", content)
