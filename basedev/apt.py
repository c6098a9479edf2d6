"""Debian's package client, used without touching the system's package sources and without being root.

The address of the archive and its keyring are those that the system is configured to use; only the suite is chosen.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from .errors import InternalError, SetupError
from .process import run

APT_CONFIGURATION = """\
// Read after the system's configuration, whose proxies and credentials stay in force.
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear APT::Default-Release;
#clear APT::Architectures;
APT::Architecture "amd64";
APT::Architectures { "amd64"; };
// All that is written belongs to this user: there is nothing to protect by changing to another.
APT::Sandbox::User "root";
// Without it, `update` reports a server that can't be reached as success.
APT::Update::Error-Mode "any";
Acquire::Languages "none";
Acquire::Retries "2";
"""

NO_ARCHIVE = (
    "none of this system's package sources is a Debian archive with the component main; add Debian's to"
    " /etc/apt/sources.list.d, or run this in a Debian container"
)


@dataclass(frozen=True)
class Archive:
    """A Debian archive that the system is configured to use, as apt tells it."""

    uri: str
    origin: str
    signed_by: str
    """A keyring's path, a key's fingerprint or a whole key; "" leaves it to apt's trusted keys."""


@dataclass(frozen=True)
class Offer:
    """A package file that the archive offers; `size` in bytes."""

    name: str
    version: str
    architecture: str
    size: int


class Client:
    """Debian's package client with sources, lists, cache and status of its own below one directory."""

    def __init__(self, home: Path, suite: str) -> None:
        self.home = home
        self.suite = suite
        for name in ("lists/partial", "cache/archives/partial", "debs", "etc"):
            (home / name).mkdir(parents=True)
        (home / "status").touch()
        (home / "apt.conf").write_text(APT_CONFIGURATION)

    def offers(self, packages: Sequence[str]) -> list[Offer]:
        """Fetches the suite's package list from the system's archive and looks up the packages there.

        Raises SetupError when no archive has it, or it has not all of them.
        """
        failures: list[SetupError] = []
        for archive in debian_archives():
            self._use(archive)
            try:
                self._run("get the package list", "update")
                origins = self._run("read the package list", "indextargets", "--format", "$(ORIGIN)")
                if "Debian" in origins.split():
                    return self._offers(packages)
            except SetupError as error:
                failures.append(error)
        raise failures[0] if failures else SetupError(NO_ARCHIVE)

    def _offers(self, packages: Sequence[str]) -> list[Offer]:
        listing = self._run("find the packages", "download", "--print-uris", *packages)
        offers = []
        for match in re.finditer(r"^'[^']*' (\S+)_(\S+)_(\S+)\.deb (\d+)", listing, re.MULTILINE):
            name, version, architecture, size = match.groups()
            offers.append(Offer(name, unquote(version), architecture, int(size)))
        if missing := set(packages) - {offer.name for offer in offers}:
            raise SetupError(f"Debian's archive offers no {', '.join(sorted(missing))} in {self.suite}")
        return offers

    def download(self, packages: Sequence[str]) -> dict[str, Path]:
        """The files of the packages, by package name. apt checks each against the hash in the signed list."""
        debs = self.home / "debs"
        self._run("download the packages", "download", *packages, cwd=debs)
        return {path.name.split("_")[0]: path for path in debs.glob("*.deb")}

    def _use(self, archive: Archive) -> None:
        lines = [
            "Types: deb",
            f"URIs: {archive.uri}",
            f"Suites: {self.suite}",
            "Components: main",
            "Architectures: amd64",
            "Targets: Packages",
        ]
        if archive.signed_by:
            lines.append(f"Signed-By: {archive.signed_by}")
        # apt reads a list whose name ends so in the deb822 format, which can hold a whole key.
        (self.home / "etc/debian.sources").write_text("\n".join(lines) + "\n")

    def _run(self, doing: str, *words: str, cwd: Path | None = None) -> str:
        home = self.home
        settings = {
            "Dir::State": home,
            "Dir::State::lists": home / "lists",
            "Dir::State::status": home / "status",
            "Dir::Cache": home / "cache",
            "Dir::Cache::archives": home / "cache/archives",
            "Dir::Etc::sourcelist": home / "etc/debian.sources",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::Etc::preferences": "/dev/null",
            "Dir::Etc::preferencesparts": "/dev/null",
        }
        options = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
        command: list[str | Path] = ["apt-get", "-q", "-c", home / "apt.conf", *options, *words]
        try:
            return run(command, cwd=cwd or home, env={"LC_ALL": "C"})
        except InternalError as error:
            reasons = [line[3:] for line in error.detail.splitlines() if line.startswith(("E: ", "W: "))]
            reason = reasons[0] if reasons else error.message
            raise SetupError(f"apt-get could not {doing} from Debian's archive: {reason}", error.detail) from error


def debian_archives() -> list[Archive]:
    """The archives among the system's package sources that are Debian's, or may be if apt can't tell.

    apt is asked, since it knows all the forms that sources are written in. It knows the origin of an
    archive only when the system has its lists. A fresh container has none: then each source with a
    component main, whose origin is not known to be another, is worth a try.
    """
    known = _index_targets()
    if debian := [archive for archive in known if archive.origin == "Debian"]:
        return debian
    others = {archive.uri for archive in known if archive.origin}
    if unknown := [archive for archive in _index_targets("--no-release-info") if archive.uri not in others]:
        return unknown
    raise SetupError(NO_ARCHIVE)


def _index_targets(*options: str) -> list[Archive]:
    """The system's package sources with a component main, without security updates and the like."""
    fields = ("ORIGIN", "LABEL", "COMPONENT", "CREATED_BY", "SOURCESENTRY", "REPO_URI")
    form = "\t".join(f"$({field})" for field in fields)
    try:
        listing = run(["apt-get", "indextargets", *options, "--format", form], env={"LC_ALL": "C"})
    except InternalError as error:
        raise SetupError("apt-get can't read this system's package sources", error.detail) from error
    archives: list[Archive] = []
    for line in listing.splitlines():
        values = line.split("\t")
        if len(values) != len(fields):  # a warning
            continue
        # apt leaves the name of what it does not know.
        origin, label, component, creator, entry, uri = ("" if "$(" in value else value for value in values)
        if component == "main" and creator == "Packages" and origin == label and not uri.startswith("cdrom:"):
            archives.append(Archive(uri, origin, _signed_by(entry)))
    return list(dict.fromkeys(archives))


def _signed_by(entry: str) -> str:
    """The value of Signed-By of a package source; "" if it has none.

    `entry` is apt's name for the source: `file:n`, the n-th stanza of a `.sources` file or the n-th line
    of another (sources.list(5)).
    """
    name, _, number = entry.rpartition(":")
    try:
        text = Path(name).read_text()
        index = int(number) - 1
    except (OSError, ValueError):
        return ""
    if name.endswith(".sources"):
        text = re.sub(r"^#.*\n?", "", text, flags=re.MULTILINE)
        stanzas = [stanza for stanza in re.split(r"\n[ \t]*\n", text.strip()) if stanza.strip()]
        if not 0 <= index < len(stanzas):
            return ""
        found = re.search(r"^signed-by:[ \t]*(.*(?:\n[ \t].*)*)", stanzas[index], re.IGNORECASE | re.MULTILINE)
    else:
        lines = text.splitlines()
        if not 0 <= index < len(lines):
            return ""
        found = re.search(r"\[[^]]*\bsigned-by=([^]\s]+)", lines[index], re.IGNORECASE)
    return found[1].rstrip() if found else ""
