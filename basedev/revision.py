"""A revision: the ordered steps that lead from a base image's definitions to those of other sources."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Evaluate:
    """Evaluate `text` at top level of `module`, as if it stood at `line` of `file`.

    `file` is the name under which the base image knows the source file (`Method.file`).
    """

    module: str
    file: str
    line: int
    text: str


@dataclass(frozen=True)
class Delete:
    """End the method of this signature (a type, as Julia prints it with full module names)."""

    module: str
    name: str
    signature: str


@dataclass(frozen=True)
class Move:
    """Methods that the base image has in lines `first` to `last` of `file` are `by` lines further down."""

    file: str
    first: int
    last: int
    by: int


@dataclass(frozen=True)
class Undocument:
    """Forget the docstrings that stand in lines `first` to `last` of `file` in the base image."""

    module: str
    file: str
    first: int
    last: int


@dataclass(frozen=True)
class Unlog:
    """Log messages in methods that the base image has in lines `first` to `last` of `file` are gone, so that their ids
    can be given again (`Base.CoreLogging.log_record_id` makes each another one)."""

    file: str
    first: int
    last: int


@dataclass(frozen=True)
class Include:
    """`module` includes `file`, right after the file `after` (`Base._included_files` has them in this order)."""

    module: str
    file: str
    after: str


@dataclass(frozen=True)
class Contents:
    """`file`, of Julia's compiler, has so many bytes, with this CRC-32c (`Base._compiler_require_dependencies`)."""

    file: str
    size: int
    checksum: int


@dataclass(frozen=True)
class Exclude:
    """`module` does not include `file` any more."""

    module: str
    file: str


@dataclass(frozen=True)
class Unbind:
    """`module` has no `name` any more: what is bound to it is another object from now on, or nothing."""

    module: str
    name: str


@dataclass(frozen=True)
class Unexport:
    """`module` does not export `name` any more."""

    module: str
    name: str


Step = Evaluate | Delete | Move | Undocument | Unlog | Include | Exclude | Contents | Unbind | Unexport


@dataclass(frozen=True)
class Definition:
    """What a revision does to one method or name, in the words of the field."""

    what: str
    """`Base.chomp(::String)`, or a name with what it is."""
    path: str
    """The source file, relative to the checkout."""
    line: int
    change: str
    """"added", "modified", "deleted" or "documented"."""


def place(path: str, line: int) -> str:
    """A line of a source file, as people write it: `strings/util.jl:192` of `base/strings/util.jl`."""
    return f"{path.removeprefix('base/')}:{line}"


def as_json(definitions: Iterable[Definition]) -> dict[str, list[dict[str, Any]]]:
    """Definitions as `--json` has them: those that are evaluated, and those that are gone."""
    found: dict[str, list[dict[str, Any]]] = {"evaluated": [], "deleted": []}
    for one in definitions:
        found["deleted" if one.change == "deleted" else "evaluated"].append(vars(one))
    return found


@dataclass(frozen=True)
class Revision:
    """Steps in the order in which they are to be done, and the definitions that they change."""

    steps: tuple[Step, ...]
    definitions: tuple[Definition, ...]
