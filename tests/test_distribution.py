"""Julia from Debian's archive: the real package client, the real Julia."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import git
import pytest

from basedev import apt, distribution
from basedev.distribution import Distribution
from basedev.errors import SetupError
from basedev.storage import Storage, file_digest

ROOT = Path(__file__).resolve().parent.parent
TOOL = ROOT / "tools/julia-checkout"


def evaluate(julia: Distribution, code: str, **environment: str) -> str:
    command = [os.fspath(julia.julia), "--startup-file=no", "-e", code]
    return subprocess.run(command, env={**os.environ, **environment}, check=True, capture_output=True, text=True).stdout


def apt_configuration(path: Path, sources: str) -> None:
    """Writes a configuration after which apt takes `sources` for all that the system has."""
    (path / "sources.list").write_text(sources)
    (path / "lists").mkdir()
    (path / "apt.conf").write_text(
        f'Dir::Etc::sourcelist "{path}/sources.list";\n'
        'Dir::Etc::sourceparts "/dev/null";\n'
        f'Dir::State::lists "{path}/lists/";\n'
    )


def test_prefix_is_the_version_that_basedev_knows(julia: Distribution) -> None:
    assert evaluate(julia, "print(VERSION)") == julia.version == "1.5.3"
    packages = {package.name: package for package in julia.packages}
    assert set(packages) == set(distribution.PACKAGES)
    assert packages["libunwind8"].version.startswith("1.3.2")
    assert all(len(package.sha256) == 64 for package in julia.packages)


def test_prefix_holds_the_headers_and_no_debris(julia: Distribution) -> None:
    assert (julia.include / "julia/julia.h").is_file()
    assert (julia.include / "llvm-9/llvm/IR/Module.h").is_file()
    assert (julia.include / "llvm-c-9/llvm-c/Core.h").is_file()
    assert {entry.name for entry in julia.prefix.iterdir()} == {"usr", "manifest.json"}
    leftovers = [path for path in julia.prefix.rglob("*") if path.suffix in (".deb", ".a")]
    assert leftovers == []
    dangling = [path for path in julia.prefix.rglob("*") if path.is_symlink() and not path.exists()]
    assert dangling == []


def test_files_that_checkouts_share_are_read_only(julia: Distribution) -> None:
    files = [path for path in (julia.prefix / "usr").rglob("*") if path.is_file() and not path.is_symlink()]
    assert [path for path in files if path.stat().st_mode & 0o222] == []


def test_no_library_of_the_systems_is_mixed_in(julia: Distribution) -> None:
    """Loads every library of the prefix as Julia would, although LD_LIBRARY_PATH names the system's."""
    code = """
    using Libdl
    for dir in (ARGS[1], joinpath(ARGS[1], "julia")), file in readdir(dir, join=true)
        occursin(".so", file) && dlopen(file)
    end
    for path in unique(last.(split.(readlines("/proc/self/maps"))))
        occursin(".so", path) && println(path)
    end
    """
    command = [os.fspath(julia.julia), "--startup-file=no", "-e", code, os.fspath(julia.libraries)]
    environment = {**os.environ, "LD_LIBRARY_PATH": f"/usr/lib/{distribution.MULTIARCH}"}
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    foreign = {
        Path(line).name.split(".so")[0]
        for line in done.stdout.splitlines()
        if not line.startswith(os.fspath(julia.prefix))
    }
    runtime = {"libc", "libm", "libdl", "librt", "libpthread", "libresolv", "libstdc++", "libgcc_s"}
    assert foreign - runtime == {"ld-linux-x86-64"}


def test_exceptions_pass_through_compiled_code(julia: Distribution) -> None:
    """This is what crashes with libunwind 1.6."""
    code = """
    @noinline thrower(n) = n == 0 ? throw(DomainError(n, "deep")) : thrower(n - 1) + 1
    caught = 0
    for n in 1:100
        try; Base.invokelatest(thrower, n); catch e; global caught += e isa DomainError; end
    end
    trace = try; thrower(20); catch; stacktrace(catch_backtrace()); end
    print(caught, " ", count(frame -> frame.func === :thrower, trace))
    """
    assert evaluate(julia, code) == "100 21"


def test_sources_are_those_of_the_shipped_image(julia: Distribution) -> None:
    texts = distribution.built_from(julia)
    assert len(texts) == 369
    assert {"base/strings/util.jl", "base/build_h.jl", "stdlib/v1.5/Random/src/Random.jl"} <= set(texts)
    distribution.check_shipped_sources(julia)


def test_once_obtained_no_package_client_is_needed(julia: Distribution, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert distribution.obtain(Storage()) == julia


def test_missing_package_client_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.fspath(tmp_path))
    with pytest.raises(SetupError, match=r"apt-get is not installed.*Debian container") as caught:
        distribution.obtain(Storage(tmp_path / "cache"))
    assert "\n" not in caught.value.message


def test_a_system_without_debian_sources_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    apt_configuration(tmp_path, "")
    monkeypatch.setenv("APT_CONFIG", os.fspath(tmp_path / "apt.conf"))
    with pytest.raises(SetupError, match="none of this system's package sources is a Debian archive"):
        distribution.obtain(Storage(tmp_path / "cache"))


def test_unreachable_archive_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    apt_configuration(tmp_path, "deb [trusted=yes] http://localhost:9/debian stable main\n")
    monkeypatch.setenv("APT_CONFIG", os.fspath(tmp_path / "apt.conf"))
    monkeypatch.setenv("no_proxy", "localhost")
    storage = Storage(tmp_path / "cache")
    with pytest.raises(SetupError, match=r"apt-get could not get the package list.*localhost:9") as caught:
        distribution.obtain(storage)
    assert "\n" not in caught.value.message
    assert list(storage.directory("staging").iterdir()) == []
    assert distribution.find(storage) is None


def test_archive_with_another_julia_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real archive, on disk, whose packages have the right names and a wrong version."""
    monkeypatch.setenv("APT_CONFIG", os.fspath(local_archive(tmp_path, julia="1.6.0-1")))
    with pytest.raises(SetupError, match=r"offers Julia 1\.6\.0-1 in bullseye; basedev needs 1\.5\.3"):
        distribution.obtain(Storage(tmp_path / "cache"))


def test_archive_without_a_package_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APT_CONFIG", os.fspath(local_archive(tmp_path, julia=None)))
    with pytest.raises(SetupError, match=r"Unable to locate package julia$"):
        distribution.obtain(Storage(tmp_path / "cache"))


def local_archive(path: Path, julia: str | None) -> Path:
    """Makes a Debian archive's suite in a directory, and an apt configuration that names it."""
    versions = dict.fromkeys(distribution.PACKAGES, "1.0-1")
    if julia is None:
        del versions["julia"]
    else:
        versions["julia"] = julia
    suite = path / "archive/dists/bullseye"
    listing = suite / "main/binary-amd64/Packages"
    listing.parent.mkdir(parents=True)
    listing.write_text(
        "".join(
            f"Package: {name}\nVersion: {version}\nArchitecture: amd64\nMaintainer: Nobody\n"
            f"Filename: pool/{name}.deb\nSize: 1\nSHA256: {'0' * 64}\nDescription: none\n\n"
            for name, version in versions.items()
        )
    )
    (suite / "Release").write_text(
        "Origin: Debian\nLabel: Debian\nSuite: oldstable\nCodename: bullseye\n"
        "Date: Sat, 01 Jan 2022 00:00:00 UTC\nArchitectures: amd64\nComponents: main\nSHA256:\n"
        f" {file_digest(listing)} {listing.stat().st_size} main/binary-amd64/Packages\n"
    )
    apt_configuration(path, f"deb [trusted=yes] file:{path}/archive stable main\n")
    with (path / "apt.conf").open("a") as file:
        # Our own source list carries keys, but no leave to do without.
        file.write('Acquire::AllowInsecureRepositories "1";\nAPT::Get::AllowUnauthenticated "1";\n')
    return path / "apt.conf"


@pytest.mark.parametrize(
    ("name", "text", "entry", "expected"),
    [
        ("a.list", "# x\ndeb [arch=amd64 signed-by=/k.gpg] http://a b main\n", 2, "/k.gpg"),
        ("b.list", "deb http://a b main\n", 1, ""),
        (
            "c.sources",
            "Types: deb\nSigned-By: /one.gpg\n\n\nTypes: deb\nsigned-by: /two.gpg\n",
            2,
            "/two.gpg",
        ),
        ("d.sources", "Types: deb\n# Signed-By: /no.gpg\nSuites: a\n", 1, ""),
        (
            "e.sources",
            "Types: deb\nSigned-By:\n -----BEGIN\n .\n abc\nSuites: x\n",
            1,
            "\n -----BEGIN\n .\n abc",
        ),
    ],
)
def test_the_systems_key_for_the_archive_is_used(
    tmp_path: Path, name: str, text: str, entry: int, expected: str
) -> None:
    (tmp_path / name).write_text(text)
    assert apt._signed_by(f"{tmp_path / name}:{entry}") == expected


def interpreter_for_anyone() -> str | None:
    """A Python that users without rights to this one's directories can run too."""
    drop = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    for candidate in ("/usr/bin/python3", sys.executable):
        tried = subprocess.run(["env", *drop, candidate, "-c", "pass"], capture_output=True)
        if tried.returncode == 0:
            return candidate
    return None


@pytest.mark.skipif(os.getuid() != 0, reason="an ordinary user runs all these tests without root anyway")
def test_obtained_without_root_or_traces_in_the_system(tmp_path_factory: pytest.TempPathFactory) -> None:
    python = interpreter_for_anyone()
    if python is None:
        pytest.skip("no Python that another user can run")
    home = Path(tmp_path_factory.mktemp("home"))
    for directory in (home, *(one for one in home.parents if "pytest-of-" in os.fspath(one))):
        directory.chmod(0o755)
    os.chown(home, 65534, 65534)
    # Copied, since that user may have no right to the directories of this one.
    site = Path(git.__file__).parent.parent
    packages = [*(site / name for name in ("git", "gitdb", "smmap", "elftools")), ROOT / "basedev", TOOL.parent]
    for package in packages:
        shutil.copytree(package, home / "packages" / package.name)
    tool = os.fspath(home / "packages/tools/julia-checkout")
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": os.fspath(home),
        "PYTHONPATH": os.fspath(home / "packages"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    watched = [Path(p) for p in ("/var/lib/apt/lists", "/var/cache/apt", "/var/lib/dpkg", "/etc/apt")]
    before = [path.stat().st_mtime_ns for path in watched]
    command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", python, tool]
    done = subprocess.run([*command, "julia"], cwd=home, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert [path.stat().st_mtime_ns for path in watched] == before
    manifests = list((home / ".cache/basedev/julia").glob("*/manifest.json"))
    assert [json.loads(path.read_text())["julia_version"] for path in manifests] == ["1.5.3"]
    assert (home / "julia/usr/bin/julia").exists()
