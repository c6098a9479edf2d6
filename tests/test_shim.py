"""The `julia` in front: it starts the image of the present sources or warns; elsewhere nothing changes."""

from __future__ import annotations

import fcntl
import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import Bench

from basedev import sourcefiles

UTIL = "base/strings/util.jl"
IMAGE = "print(unsafe_string(Base.JLOptions().image_file))"
RESTED = sourcefiles.SETTLED / 1e9 + 0.1

NEXT = """\
#!/bin/sh
env
printf '%s\\n' "$@"
cat
exit 5
"""
"""The next julia on the PATH: it tells what it was given."""


@dataclass
class Front:
    """A shell with the `julia` in front, in an adopted checkout."""

    bench: Bench
    bin: Path
    others: Path
    """A directory on the PATH with another julia."""

    @property
    def environment(self) -> dict[str, str]:
        path = f"{self.bin}:{self.others}:{os.environ['PATH']}"
        return {**self.bench.environment, "PATH": path, "XDG_CONFIG_HOME": str(self.others)}

    def run(self, *words: str, cwd: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["/bin/sh", "-c", 'exec julia "$@"', "sh", *words],
            cwd=cwd or self.bench.root,
            env={**self.environment, **variables},
            input="input\n",
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def image(self) -> tuple[str, str]:
        """The image that is started, and the warning."""
        done = self.run("--startup-file=no", "-e", IMAGE)
        assert done.returncode == 0, done.stderr
        return done.stdout, done.stderr

    def twice(self) -> tuple[str, str]:
        """The same, at first without and then with what is noted of it."""
        first = self.image()
        time.sleep(RESTED)
        assert self.image() == first and self.image() == first
        return first


@pytest.fixture
def front(bench: Bench, tmp_path: Path) -> Iterator[Front]:
    done = bench.basedev("shell-init", "bash")
    assert done.returncode == 0, done.stderr
    (tmp_path / "julia").write_text(NEXT)
    (tmp_path / "julia").chmod(0o755)
    yield Front(bench, bench.storage.root / "shell/bin", tmp_path)
    for note in ("julia.txt", "stat-cache.json"):
        path = bench.root / "usr/share/basedev" / note
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def base_of(bench: Bench) -> str:
    """As Julia tells it."""
    return str((bench.storage.root / "bases" / bench.json("status")["base_id"] / "base.so").resolve())


WARNING = "basedev: julia starts without your edits of base/strings/util.jl: run basedev build\n"


def test_the_image_of_the_present_sources(front: Front) -> None:
    bench, base = front.bench, base_of(front.bench)
    assert front.twice() == (base, "")
    bench.append(UTIL, "\nfront() = 1\n")
    assert front.image() == (base, WARNING)
    first = bench.chain()["image"]
    assert front.twice() == (first, "")
    bench.append("base/array.jl", "\n")
    for number in range(2):
        bench.append(f"stdlib/Dates/src/new{number}.jl", "\n")
    _, told = front.image()
    assert "your edits of base/array.jl, base/strings/util.jl and 2 more: run" in told
    for number in range(2):
        (bench.root / f"stdlib/Dates/src/new{number}.jl").unlink()
    subprocess.run(["git", "-C", str(bench.root), "checkout", "-q", "base/array.jl"], check=True)
    assert front.image() == (first, "")
    subprocess.run(["git", "-C", str(bench.root), "checkout", "-q", "."], check=True)
    assert front.image() == (base, "")
    assert front.run("-e", IMAGE, cwd=bench.root / "test/strings").stdout == base


def hidden_edit(front: Front, image: Path) -> None:
    """Of the same size and time."""
    path = front.bench.root / UTIL
    before = path.stat()
    path.write_text(path.read_text().replace("stale() = 1", "stale() = 2"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def undone_by_rename(front: Front, image: Path) -> None:
    path = front.bench.root / UTIL
    other = path.with_suffix(".other")
    other.write_text(path.read_text().replace("stale() = 1", "stale() = 2"))
    other.replace(path)


def damaged(front: Front, image: Path) -> None:
    image.chmod(0o644)
    with image.open("r+b") as file:
        file.truncate(1000)


STALE: tuple[Callable[[Front, Path], object], ...] = (
    hidden_edit,
    undone_by_rename,
    damaged,
    lambda front, image: shutil.rmtree(image.parent),
    lambda front, image: image.unlink(),
    lambda front, image: front.bench.append("stdlib/Dates/src/Dates.jl", " "),
    lambda front, image: (front.bench.root / "base/new.jl").write_text(""),
    lambda front, image: (front.bench.root / "base/version.jl").unlink(),
)


def test_an_image_that_is_no_longer_right_is_not_started(front: Front) -> None:
    base = base_of(front.bench)
    for change in STALE:
        front.bench.append(UTIL, "\nstale() = 1\n")
        image = Path(front.bench.chain()["image"])
        time.sleep(RESTED)
        assert front.image() == front.image() == (str(image), "")
        change(front, image)
        started, told = front.image()
        assert started == base, change
        assert told.startswith("basedev: julia starts without your edits of "), change
        subprocess.run(["git", "-C", str(front.bench.root), "checkout", "-q", "."], check=True)
        (front.bench.root / "base/new.jl").unlink(missing_ok=True)


def test_what_is_noted_is_of_no_effect_when_it_is_damaged(front: Front) -> None:
    base = base_of(front.bench)
    front.bench.append(UTIL, "\nnoted() = 1\n")
    image = front.bench.chain()["image"]
    assert front.twice() == (image, "")
    note = front.bench.root / "usr/share/basedev/julia.txt"
    whole = note.read_bytes()
    for damage in (b"", whole[:100], whole[:-1], b"\xff" + whole, whole.replace(image.encode(), b"/nowhere", 1)):
        note.write_bytes(damage)
        assert front.image() == (image, "")
        assert note.read_bytes() == whole
    note.write_bytes(whole.replace(image.encode(), base.encode(), 1))
    assert front.image() == (image, "")


def test_a_tree_that_cannot_be_written(front: Front) -> None:
    notes = front.bench.root / "usr/share/basedev"
    for name in ("julia.txt", "stat-cache.json"):
        (notes / name).unlink(missing_ok=True)
        (notes / name).mkdir()
        (notes / name / "full").touch()
    front.bench.append(UTIL, "\nunwritten() = 1\n")
    base = base_of(front.bench)
    assert front.twice() == (base, WARNING)
    image = front.bench.chain()["image"]
    assert front.twice() == (image, "")


def test_without_a_base_image(front: Front) -> None:
    record = front.bench.root / "usr/share/basedev/base.json"
    kept = record.read_text()
    try:
        for text, reason in (("{}", "can't be read"), ('{"base_id": "gone"}', "is gone")):
            record.write_text(text)
            done = front.run("-e", "print(VERSION)")
            assert (done.returncode, done.stdout) == (0, "1.5.3")
            assert reason in done.stderr and done.stderr.endswith(": run basedev init\n")
            assert done.stderr.count("\n") == 1
    finally:
        record.write_text(kept)


def test_elsewhere_it_is_the_next_julia(front: Front, tmp_path: Path) -> None:
    expected = subprocess.run(
        [str(tmp_path / "julia"), "a  b", "", "*"],
        cwd="/",
        env={**front.environment, "PWD": "/"},
        input="input\n",
        capture_output=True,
        text=True,
    )
    assert expected.returncode == 5 and expected.stdout.endswith("a  b\n\n*\ninput\n")
    inside = front.bench.root
    cases: list[tuple[Path, dict[str, str], list[str]]] = [
        (Path("/"), {}, []),
        (inside, {"BASEDEV_SHIM": "0"}, []),
        (inside, {}, ["-J", "x"]),
        (inside, {}, ["-q", "-Jx"]),
        (inside, {}, ["-e", "1", "--sysimage=x"]),
    ]

    def lines(text: str) -> list[str]:
        """Without the variables in which shells differ."""
        return sorted(line for line in text.splitlines() if not line.startswith(("PWD=", "OLDPWD=", "_=", "SHLVL=")))

    for cwd, variables, words in cases:
        done = front.run(*words, "a  b", "", "*", cwd=cwd, **variables)
        more = [*words, *(f"{name}={value}" for name, value in variables.items())]
        assert lines(done.stdout) == sorted([*lines(expected.stdout), *more])
        assert (done.returncode, done.stderr) == (5, "")
    script = tmp_path / "script.jl"
    script.write_text("print(ARGS)")
    for words in (["--sysimage-native-code=yes"], ["-q", "-O3"], ["-C", "generic"], ["--"]):
        assert front.run(*words, str(script), "-J", "y").stdout == '["-J", "y"]'


def test_nothing_else_on_the_path(front: Front, tmp_path: Path) -> None:
    (tmp_path / "julia").unlink()
    second = tmp_path / "second"
    second.mkdir()
    shutil.copy(front.bin / "julia", second / "julia")
    for path in (f"{front.bin}:/usr/bin:/bin", f"{front.bin}:{second}:{front.bin}:{second}:/usr/bin:/bin"):
        done = front.run("-v", cwd=Path("/"), PATH=path)
        assert done.returncode == 127
        assert done.stderr == "julia: there is no other julia on the PATH than basedev's\n"
    (tmp_path / "julia").write_text(NEXT)
    (tmp_path / "julia").chmod(0o755)
    for path in (f"{second}:{front.bin}:{tmp_path}:/bin", f"{tmp_path}:{front.bin}:/usr/bin:/bin"):
        assert subprocess.run([front.bin / "julia"], cwd="/", env={"PATH": path}, input=b"").returncode == 5


def test_julia_is_given_what_it_would_be_given_without(front: Front) -> None:
    """Its input, exit code, arguments; no variable, signal or open file of Python's."""
    script = front.others / "script.jl"
    script.write_text(
        "#!/usr/bin/env julia\n"
        'println(ARGS, readline(), get(ENV, "LC_CTYPE", "unset"), Base.JLOptions().quiet)\n'
        'println(filter(startswith("SigIgn"), readlines("/proc/self/status")))\n'
        "exit(3)\n"
    )
    script.chmod(0o755)
    julia = str(front.bench.root / "usr/bin/julia")
    for locale in ({}, {"LC_CTYPE": "C"}, {"LC_ALL": "C"}, {"LC_CTYPE": ""}):
        ran = []
        for path in (str(front.bin), str(Path(julia).parent)):
            environment = {"PATH": f"{path}:/usr/bin:/bin", "BASEDEV_CACHE": str(front.bench.storage.root), **locale}
            ran.append(
                subprocess.run(
                    [script, "a  b", "-J"], cwd=front.bench.root, env=environment, input=b"in\n", capture_output=True
                )
            )
        assert (ran[0].returncode, ran[0].stdout, ran[0].stderr) == (3, ran[1].stdout, b"")


def test_an_image_in_use_is_held(front: Front) -> None:
    """As long as Julia runs, nobody gets the lock under which an image is taken away."""
    front.bench.append(UTIL, "\nheld() = 1\n")
    image = Path(front.bench.chain()["image"])
    with subprocess.Popen(
        [front.bin / "julia", "-e", "println(1); readline()"],
        cwd=front.bench.root,
        env=front.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as running:
        assert running.stdin and running.stdout and running.stdout.readline() == b"1\n"
        handle = os.open(image.parent, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        running.stdin.close()
        running.wait()
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(handle)


def test_a_build_in_the_background_if_that_is_wanted(front: Front) -> None:
    bench = front.bench
    bench.append(UTIL, "\nautomatic() = 1\n")
    (bench.root / ".basedev.toml").write_text("[basedev]\nautobuild = false # not true\n")
    assert front.image()[1] == WARNING
    assert not (bench.storage.root / "background").exists()
    (front.others / "basedev").mkdir()
    (front.others / "basedev/config.toml").write_text("[basedev]\nautobuild = true\n")
    assert front.image()[1] == WARNING
    (bench.root / ".basedev.toml").unlink()
    base, told = front.image()
    assert told == WARNING.replace("run basedev build", "they are being built in the background")
    deadline = time.monotonic() + 60
    while (bench.json("status").get("background") or {}).get("status") != "built":
        assert time.monotonic() < deadline
        time.sleep(0.1)
    image, told = front.image()
    assert (image, told) == (bench.json("status")["image"], "")
    assert image != base
    shutil.rmtree(bench.storage.root / "background")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_code_for_a_shell(front: Front, tmp_path: Path, shell: str) -> None:
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    cache = tmp_path / 'it\'s a "cache" $HOME'
    cache.mkdir()
    for kind in ("bases", "checkouts"):
        (cache / kind).symlink_to(front.bench.storage.root / kind)
    environment = {"BASEDEV_CACHE": str(cache)}
    code = front.bench.basedev("shell-init", shell, environment=environment).stdout
    start = tmp_path / "start"
    start.write_text(code * 2)
    for words in ("command -v julia", "julia -e 'print(1 + 1)'", "echo $PATH"):
        done = subprocess.run(
            [shell, "-c", f". {shlex.quote(str(start))}; {words}"],
            cwd=front.bench.root,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        if words.startswith("echo"):
            assert done.stdout.count(str(cache)) == 1
        else:
            assert done.stdout.strip() in (str(cache / "shell/bin/julia"), "2")


def test_the_shell_is_named_or_known(front: Front) -> None:
    for name, code in (("/bin/bash", 0), ("/usr/bin/fish", 0), ("/bin/dash", 2), ("", 2)):
        done = front.bench.basedev("shell-init", environment={"SHELL": name})
        assert done.returncode == code
        if code:
            assert done.stderr.startswith("basedev: the shell is none of bash, zsh, fish")
    assert front.bench.json("shell-init", "fish")["code"].startswith("# basedev")
    assert (
        "can't be on a PATH"
        in front.bench.basedev("shell-init", "bash", environment={"BASEDEV_CACHE": f"{front.others}/a:b"}).stderr
    )
