"""A Julia to work on, from Debian's archive, without changing the system.

Debian bullseye ships Julia 1.5.3 with everything that work on Base needs: the program, the headers,
the whole of `base/`, `stdlib/` and `test/`. Debian's own package client downloads the packages and
checks their signatures and hashes, with lists, cache and status of its own in the cache directory, so
that neither root nor a change to the system's package sources is needed. What is unpacked of them is
a *prefix*, `<cache>/julia/<key>`: `usr/` as the packages lay it out, and `manifest.json`.

Two things differ from an installation by Debian:

- Every library that Julia loads, apart from the C and C++ runtimes, comes from bullseye too and stands
  beside libjulia (`PACKAGES`). Above all libunwind: with 1.6 an exception that passes through
  JIT-compiled frames crashes.
- The ELF files' search path is of the kind DT_RPATH instead of DT_RUNPATH. ld.so(8): a DT_RUNPATH
  serves only the file's own dependencies and comes after LD_LIBRARY_PATH; a DT_RPATH serves the
  dependencies of dependencies too, and comes first. So the paths that julia and libjulia have already
  are enough to find every library in the prefix and none of the system's, without an environment
  variable that programs started by Julia would inherit. It is a change of one byte in place; nothing
  in the files moves.

The prefix's files stay as they are for good: checkouts share them by hard links.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from .errors import InternalError, SetupError
from .process import run
from .storage import Storage, digest_of, file_digest

Tell = Callable[[str], None]
"""Called when a step begins, with what is done in it."""

SUITE = "bullseye"
JULIA_VERSION = "1.5.3"
MULTIARCH = "x86_64-linux-gnu"
LAYOUT = 1
"""To be raised when a prefix is made in another way from the same packages."""

HEADER_PACKAGES = ("libjulia-dev", "llvm-9-dev")
PACKAGES = (
    "julia",
    "julia-common",
    "libjulia1",
    *HEADER_PACKAGES,
    # What libjulia, LLVM and the standard libraries load, and what those load in turn.
    "libbsd0",
    "libcom-err2",
    "libdsfmt-19937-1",
    "libedit2",
    "libffi7",
    "libgcrypt20",
    "libgfortran5",
    "libgit2-1.1",
    "libgmp10",
    "libgpg-error0",
    "libgssapi-krb5-2",
    "libhttp-parser2.9",
    "libk5crypto3",
    "libkeyutils1",
    "libkrb5-3",
    "libkrb5support0",
    "libllvm9",
    "liblzma5",
    "libmbedcrypto3",
    "libmbedtls12",
    "libmbedx509-0",
    "libmd0",
    "libmpfr6",
    "libopenlibm3",
    "libpcre2-8-0",
    "libpcre3",
    "libquadmath0",
    "libssh2-1",
    "libtinfo6",
    "libunwind8",
    "libutf8proc2",
    "libz3-4",
    "zlib1g",
)

SMOKE_TEST = """
f(n) = n == 0 ? throw(KeyError(:thrown)) : f(n - 1)
message = try; Base.invokelatest(f, 3); catch e; sprint(showerror, e, catch_backtrace()); end
occursin("KeyError", message) || error("exceptions do not work")
using LinearAlgebra, LibGit2, SparseArrays, SuiteSparse, Random
A = [2.0 1.0; 1.0 3.0]
inv(A) * A ≈ I && lu(sparse(A)) \\ [3.0, 4.0] ≈ [1.0, 1.0] || error("linear algebra does not work")
LibGit2.version(); BigFloat(pi)^2; occursin(r"a+", "aa"); rand(Random.MersenneTwister(1))
print(VERSION)
"""


@dataclass(frozen=True)
class Package:
    """One of the Debian packages that a prefix was made of; `sha256` is that of its file."""

    name: str
    version: str
    architecture: str
    sha256: str


@dataclass(frozen=True)
class Distribution:
    """A Julia prefix in the cache directory."""

    prefix: Path
    version: str
    packages: tuple[Package, ...]

    @property
    def key(self) -> str:
        """The name of the prefix among the prefixes of the cache directory."""
        return self.prefix.name

    @property
    def julia(self) -> Path:
        """The program, which finds its libraries and the pristine sources in the prefix."""
        return self.prefix / "usr/bin/julia"

    @property
    def libraries(self) -> Path:
        """Where libjulia and libLLVM are; `julia/` below it holds Julia's private libraries and sys.so."""
        return self.prefix / "usr/lib" / MULTIARCH

    @property
    def include(self) -> Path:
        """The headers: `julia/`, `llvm-9/`, `llvm-c-9/`."""
        return self.prefix / "usr/include"

    @property
    def sources(self) -> Path:
        """The pristine `base/`, `stdlib/v1.5/` and `test/`, generated files included."""
        return self.prefix / "usr/share/julia"

    @property
    def standard_libraries(self) -> Path:
        """Where it looks for the packages that come with it."""
        version = ".".join(self.version.split(".")[:2])
        return self.sources / "stdlib" / f"v{version}"

    @classmethod
    def load(cls, prefix: Path) -> Distribution:
        """The prefix in that directory. Raises SetupError when there is none that this version can read."""
        try:
            data = json.loads((prefix / "manifest.json").read_text())
            packages = tuple(Package(**package) for package in data["packages"])
            return cls(prefix, str(data["julia_version"]), packages)
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise SetupError(f"{prefix} holds no Julia that basedev can read; remove it to get it anew") from error


def prefix_key() -> str:
    """The name of the prefix that this version makes, from the packages and how they are laid out."""
    return f"{JULIA_VERSION}-{digest_of(str(LAYOUT), SUITE, *PACKAGES)[:16]}"


def find(storage: Storage) -> Distribution | None:
    """The Julia obtained earlier, if there is one."""
    prefix = storage.root / "julia" / prefix_key()
    return Distribution.load(prefix) if (prefix / "manifest.json").is_file() else None


def obtain(storage: Storage, progress: Tell = lambda _: None) -> Distribution:
    """The Julia in the cache directory, downloaded if it is not there yet.

    Of several processes that want it at the same time one downloads it, the others wait.
    Raises SetupError when this system can't provide or run it.
    """
    if found := find(storage):
        return found
    _check_system()
    with storage.lock("julia"):
        if found := find(storage):
            return found
        with storage.staging("julia") as area:
            made = _make(area, progress)
            place = storage.directory("julia") / prefix_key()
            storage.publish(made, place)
    return Distribution.load(place)


def built_from(distribution: Distribution) -> dict[str, bytes]:
    """The texts that the distribution's system image was built from, by path relative to `sources`.

    Read from `base.cache`, where Julia's build leaves them: (Int32 length, path, UInt64 length, text)
    in the machine's byte order, closed by a zero (`_read_dependency_src` in base/loading.jl). The paths
    are those of the machine that built it.
    """
    data = (distribution.sources / "base.cache").read_bytes()
    texts: dict[str, bytes] = {}
    position = 0
    while length := int.from_bytes(data[position : position + 4], "little"):
        position += 4
        path = data[position : position + length].decode()
        position += length
        size = int.from_bytes(data[position : position + 8], "little")
        position += 8
        found = re.search(r"/(?:usr/share/julia/(stdlib/.*)|(base/.*))", path)
        if not found:
            raise InternalError(f"base.cache names a source outside base/ and stdlib/: {path}")
        texts[os.path.normpath(found[1] or found[2])] = data[position : position + size]
        position += size
    return texts


def check_shipped_sources(distribution: Distribution) -> None:
    """Raises SetupError unless the packaged sources are those of the packaged system image."""
    for path, text in built_from(distribution).items():
        file = distribution.sources / path
        if not file.is_file() or file.read_bytes() != text:
            raise SetupError(f"the packages' {path} is not the file that their system image was built from")


def _check_system() -> None:
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        raise SetupError(f"Julia {JULIA_VERSION} for basedev needs Linux on x86-64, for example in a container")
    for program in ("apt-get", "dpkg-deb"):
        if shutil.which(program) is None:
            raise SetupError(
                f"{program} is not installed: Julia {JULIA_VERSION} comes from Debian's archive through its"
                " package client; run this on Debian, or in a Debian container"
            )


def _make(area: Path, progress: Tell) -> Path:
    from . import apt  # with what it takes to read addresses

    client = apt.Client(area / "apt", SUITE)
    progress(f"asking Debian's archive for Julia {JULIA_VERSION} (suite {SUITE})")
    offers = client.offers(PACKAGES)
    julia = next(offer.version for offer in offers if offer.name == "julia")
    if not re.match(rf"(\d+:)?{re.escape(JULIA_VERSION)}(\+dfsg\d*)?-", julia):
        raise SetupError(f"Debian's archive offers Julia {julia} in {SUITE}; basedev needs {JULIA_VERSION}")
    megabytes = round(sum(offer.size for offer in offers) / 1e6)
    progress(f"downloading {len(offers)} packages, {megabytes} MB")
    files = client.download(PACKAGES)
    packages = [
        Package(offer.name, offer.version, offer.architecture, file_digest(files[offer.name])) for offer in offers
    ]
    progress("unpacking them")
    prefix = area / "prefix"
    _unpack([files[offer.name] for offer in offers], area / "unpacked", prefix)
    _settle_search_paths(prefix)
    manifest = {
        "schema": 1,
        "julia_version": JULIA_VERSION,
        "suite": SUITE,
        "packages": [asdict(package) for package in sorted(packages, key=lambda package: package.name)],
    }
    (prefix / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    _protect(prefix)
    progress("trying it")
    made = Distribution.load(prefix)
    _try(made)
    check_shipped_sources(made)
    return prefix


def _unpack(files: Iterable[Path], area: Path, prefix: Path) -> None:
    """Unpacks packages and moves what basedev needs of them, with their licences, to `prefix`."""
    area.mkdir()
    for file in files:
        run(["dpkg-deb", "--extract", file, area])
    libraries = prefix / "usr/lib" / MULTIARCH
    moves = {
        "usr/bin/julia": prefix / "usr/bin/julia",
        "usr/include": prefix / "usr/include",
        "usr/share/julia": prefix / "usr/share/julia",
        f"usr/lib/{MULTIARCH}": libraries,
        **{
            str(path.relative_to(area)): prefix / "usr/share/doc" / path.parent.name / "copyright"
            for path in area.glob("usr/share/doc/*/copyright")
        },
    }
    for source, target in moves.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        (area / source).rename(target)
    # Some packages still install to /lib, where the system needed them before /usr was there.
    for path in (area / "lib" / MULTIARCH).iterdir():
        path.rename(libraries / path.name)
    for path in libraries.rglob("*"):
        if path.is_symlink() and not path.exists():
            path.unlink()


def _elf_files(directory: Path) -> Iterator[Path]:
    for path in sorted(directory.rglob("*")):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                if file.read(4) == b"\x7fELF":
                    yield path


def _settle_search_paths(prefix: Path) -> None:
    """Turns each DT_RUNPATH into a DT_RPATH (why: see the module's text), in place.

    libLLVM's own path is wrong for where the file stands (`$ORIGIN/../lib`): cut after `$ORIGIN`, it is
    right, and names that share the rest of the string are unharmed.
    """
    from elftools.elf.dynamic import DynamicSection
    from elftools.elf.elffile import ELFFile
    from elftools.elf.sections import StringTableSection

    dt_rpath = (15).to_bytes(8, "little")
    wrong, right = b"$ORIGIN/../lib\0", b"$ORIGIN\0"
    for path in (prefix / "usr/bin/julia", *_elf_files(prefix / "usr/lib" / MULTIARCH)):
        with path.open("r+b") as file:
            elf = ELFFile(file)
            dynamic = elf.get_section_by_name(".dynamic")
            strings = elf.get_section_by_name(".dynstr")
            if not isinstance(dynamic, DynamicSection) or not isinstance(strings, StringTableSection):
                continue
            for number, tag in enumerate(dynamic.iter_tags()):
                if tag.entry.d_tag != "DT_RUNPATH":
                    continue
                file.seek(dynamic["sh_offset"] + number * dynamic["sh_entsize"])
                file.write(dt_rpath)
                start = strings["sh_offset"] + tag.entry.d_val
                file.seek(start)
                if path.name.startswith("libLLVM") and file.read(len(wrong)) == wrong:
                    file.seek(start)
                    file.write(right)


def _protect(prefix: Path) -> None:
    """Makes all files read-only: a checkout that shares one must not change it for the others."""
    for path in prefix.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(path.stat().st_mode & 0o555)


def _try(distribution: Distribution) -> None:
    """Runs Julia once through what depends on the libraries. Raises SetupError if it does not work here."""
    command: list[str | Path] = [
        distribution.julia,
        "--startup-file=no",
        "--history-file=no",
        "-e",
        SMOKE_TEST,
    ]
    try:
        printed = run(command, env={"JULIA_LOAD_PATH": "@stdlib"})
    except InternalError as error:
        raise SetupError("the downloaded Julia does not work on this system", error.detail) from error
    if printed != JULIA_VERSION:
        raise SetupError(f"the downloaded Julia is not {JULIA_VERSION}", printed)
