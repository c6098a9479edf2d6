"""What is wrong is found, with what to do about it; and where nothing is, nothing is said to be."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import tomli
from conftest import Bench

from basedev.storage import Storage
from basedev.workflows.doctor import PACKAGES, Doctor, Finding

ROOT = Path(__file__).parent.parent


def examine(bench: Bench, *words: str, environment: Mapping[str, str] | None = None) -> tuple[int, list[Finding]]:
    """The exit code and the findings of the command."""
    done = bench.basedev("--json", "doctor", *words, environment=environment)
    told = json.loads(done.stdout)
    assert told["status"] in ("ok", "warning", "problem"), done.stderr
    return done.returncode, [Finding(**one) for one in told["findings"]]


def bad(findings: list[Finding]) -> dict[str, Finding]:
    """What is not all right, by check."""
    found = {one.check: one for one in findings if one.state != "ok"}
    assert all(one.text and one.remedy for one in found.values())
    return found


def test_nothing_is_wrong(bench: Bench) -> None:
    code, findings = examine(bench)
    assert code == 0 and not [one for one in findings if one.state == "problem"]
    assert {"system", "compiler", "linker", "cache", "disk", "store", "Julia", "base image", "engine", "inotify"} <= {
        one.check for one in findings
    }
    lines = bench.basedev("doctor").stdout.splitlines()
    assert f"ok       Julia: 1.5.3 at {bench.root}/usr/bin/julia" in lines


def test_outside_a_checkout(bench: Bench, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "basedev", "doctor"]
    done = subprocess.run(command, cwd=tmp_path, env=bench.environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "ok       checkout: not in one" in done.stdout
    named = bench.basedev("-C", str(tmp_path), "doctor")
    assert named.returncode == 1 and "problem  checkout:" in named.stdout and "tools/julia-checkout" in named.stdout


def test_settings(bench: Bench) -> None:
    (bench.root / ".basedev.toml").write_text("[basedev]\nserver-idle = 0\n")
    code, findings = examine(bench, environment={"BASEDEV_SEVER": "0", "BASEDEV_SERVER": "0"})
    found = bad(findings)
    assert code == 1
    assert "server-idle must be from 1 to" in found["configuration"].text
    assert "BASEDEV_SEVER means nothing" in found["environment"].text and found["environment"].state == "warning"
    assert "switched off" in found["server"].text
    assert any(one.check == "engine" and one.state == "ok" for one in findings)


def test_programs_that_are_missing(bench: Bench, tmp_path: Path) -> None:
    for program in ("git", "as"):
        (tmp_path / program).symlink_to(str(shutil.which(program)))
    code, findings = examine(bench, environment={"PATH": str(tmp_path)})
    assert code == 1
    found = bad(findings)
    assert found["compiler"] == Finding("compiler", "problem", "g++ is not installed", "install the package g++")
    assert "no linker found" in found["linker"].text + found["linker"].remedy


def test_damage_is_repaired_as_it_is_told(own: Bench) -> None:
    (base,) = (own.storage.root / "bases").iterdir()
    record = base / "census.json"
    record.chmod(0o644)
    text = record.read_text()
    record.write_text(text[:-1])
    (own.storage.root / "staging" / "image-1-left").mkdir(parents=True)
    code, findings = examine(own)
    found = bad(findings)
    assert code == 1 and "census.json" in found["base image"].text
    left = [one for one in findings if one.check == "store" and one.state == "warning"]
    assert len(left) == 1 and "1 thing in " in left[0].text
    assert "basedev images verify --repair" in found["base image"].remedy
    record.write_text(text[:-1] + " ")
    assert "base image" not in bad(examine(own)[1])  # of the same size
    code, findings = examine(own, "--checksums")
    assert code == 1 and "census.json has another checksum" in bad(findings)["base image"].text
    assert own.basedev("images", "verify", "--repair").returncode == 0
    code, findings = examine(own)
    assert code == 0 and "is not made yet" in bad(findings)["base image"].text


def test_a_cache_that_others_can_write(own: Bench) -> None:
    own.storage.root.chmod(0o777)
    code, findings = examine(own)
    assert code == 1
    assert bad(findings)["cache"].remedy == f"chmod go-w {own.storage.root}"


def test_a_cache_that_is_none(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "cache").touch()
    code, findings = examine(bench, environment={"BASEDEV_CACHE": str(tmp_path / "cache")})
    found = [one for one in findings if one.state == "problem"]
    assert code == 1
    assert found == [Finding("cache", "problem", f"{tmp_path / 'cache'} is no directory", "set BASEDEV_CACHE to one")]


def test_locks_and_hooks(bench: Bench) -> None:
    bench.json("hook", "install")
    hook = bench.root / ".git/hooks/post-commit"
    held = bench.storage.root / "locks" / "image-of-another"
    with held.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        hook.write_text(hook.read_text() + "echo more\n")
        code, findings = examine(bench)
        assert any(f"{held.name} is held by process {os.getpid()}" in one.text for one in findings)
    held.unlink()
    assert code == 0 and "was edited after it was installed" in bad(findings)["hooks"].text
    hook.unlink()
    assert any(one.check == "hooks" and "post-merge" in one.text for one in examine(bench)[1])
    bench.json("hook", "remove")


def test_a_checkout_without_a_julia(tmp_path: Path, storage: Storage) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base/Base.jl").touch()
    (tmp_path / "stdlib").mkdir()
    bench = Bench(tmp_path, storage)
    code, findings = examine(bench)
    found = bad(findings)
    assert code == 1 and list(found) == ["Julia"]
    assert "has no usr/bin/julia" in found["Julia"].text and "tools/julia-checkout" in found["Julia"].remedy


def test_a_check_that_fails_is_a_finding() -> None:
    class Broken(Doctor):
        def _packages(self) -> None:  # type: ignore[override]
            raise ValueError("of no use")

    found = [one for one in Broken(Path()).findings() if one.check == "Python packages"]
    assert found == [
        Finding("Python packages", "problem", "ValueError: of no use", "a defect of basedev: please report it")
    ]


def test_packages_are_those_that_are_installed_with_it() -> None:
    wanted = tomli.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    plain = [one for one in wanted if ";" not in one]
    assert dict(one.split(">=") for one in plain) == PACKAGES
