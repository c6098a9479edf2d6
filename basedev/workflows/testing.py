"""`basedev test`: the checkout's own tests on the image for the present sources."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ..errors import UsageError

TESTS_OF = {
    "abstractarraymath": ("abstractarray", "arrayops"),
    "abstractdict": ("dict",),
    "abstractset": ("sets",),
    "accumulate": ("reduce", "arrayops"),
    "array": ("arrayops", "abstractarray"),
    "arraymath": ("arrayops",),
    "arrayshow": ("show",),
    "bool": ("numbers",),
    "client": ("client", "cmdlineargs"),
    "cmd": ("spawn",),
    "div": ("int", "numbers"),
    "error": ("error", "exceptions"),
    "essentials": ("core", "reflection"),
    "float": ("numbers", "float16", "floatfuncs"),
    "gcutils": ("misc",),
    "generator": ("functional", "iterators"),
    "hashing2": ("hashing",),
    "iddict": ("dict",),
    "idset": ("sets",),
    "indices": ("abstractarray", "arrayops"),
    "int": ("int", "numbers"),
    "io": ("read", "iobuffer"),
    "methodshow": ("show",),
    "multidimensional": ("subarray", "arrayops"),
    "number": ("numbers",),
    "pair": ("tuple", "dict"),
    "process": ("spawn",),
    "promotion": ("core", "numbers"),
    "range": ("ranges",),
    "refvalue": ("core",),
    "regex": ("regex",),
    "reshapedarray": ("arrayops",),
    "set": ("sets",),
    "sort": ("sorting",),
    "stream": ("read", "spawn"),
    "task": ("channels", "worlds"),
    "twiceprecision": ("ranges",),
    "util": ("misc",),
    "weakkeydict": ("dict",),
    "strings/string": ("strings/basic", "strings/util"),
    "strings/substring": ("strings/types", "strings/basic"),
    "strings/unicode": ("unicode/utf8", "strings/basic"),
    "strings/strings": ("strings/basic",),
    "strings/search": ("strings/search",),
}
"""Test files of a source file of Base (both without `.jl`) where they do not have the same name."""

FALLBACK = ("core", "misc")
"""For a source file of Base without tests of its own."""


def tests_for(paths: Iterable[str], test_directory: Path) -> list[str]:
    """The names of the tests that belong to changed source files, as `test/runtests.jl` takes them.

    A source file's tests are those of the same name, or those that TESTS_OF tells; a file in a subdirectory
    without either has those of the directory. A standard library's are its own.
    """
    chosen: dict[str, None] = {}
    for path in paths:
        first, *rest = path.split("/")
        if first == "stdlib" and rest:
            chosen[rest[0].partition("-")[0]] = None  # a fetched one has its commit behind its name
            continue
        name = "/".join(rest).removesuffix(".jl")
        found = [test for test in TESTS_OF.get(name, (name,)) if _exists(test, test_directory)]
        if not found and "/" in name:
            directory = name.rsplit("/", 1)[0]
            found = sorted(f"{directory}/{file.stem}" for file in (test_directory / directory).glob("*.jl")) or [
                test for test in (directory,) if _exists(test, test_directory)
            ]
        chosen.update(dict.fromkeys(found or FALLBACK))
    return list(chosen)


def _exists(name: str, test_directory: Path) -> bool:
    return (test_directory / f"{name}.jl").is_file()


def check_names(names: Iterable[str], root: Path) -> None:
    """Raises UsageError when a test of this name is not in the checkout."""
    for name in names:
        plain = name.lstrip("-")
        if name.startswith("--") or plain in GROUPS:
            continue
        if not (
            _exists(plain, root / "test")
            or (root / "test" / plain).is_dir()
            or (root / "stdlib" / plain.split("/")[0] / "test").is_dir()
        ):
            raise UsageError(f"there is no test {plain!r} in {root / 'test'} and no standard library of that name")


GROUPS = frozenset(
    {"all", "skip", "unicode", "strings", "sparse", "linalg", "random", "stdlib", "subarray", "compiler"}
)
"""Names of several tests together (`test/choosetests.jl`)."""
