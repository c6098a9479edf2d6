"""What a repository brings along runs nothing by itself; what is basedev's own is its user's alone; odd paths work."""

from __future__ import annotations

import json
import os
import pty
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import SHARED, Bench, stop_servers

from basedev.config import load_config
from basedev.errors import SetupError, UsageError
from basedev.newcheckout import make_checkout
from basedev.patches import Insertion, Patch, Series, apply
from basedev.storage import Storage, cache_root
from basedev.usrtree import ORIGIN

UTIL = "base/strings/util.jl"
HERE = Path(__file__).parent.parent

ODD = '-it\'s "a"\nb é $HOME `id` \\ *%\udcff'
"""A leading dash, quotes, a newline, spaces, what a shell or a format string would take up, and no UTF-8."""


def basedev(bench: Bench, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """As the installed program, which finds nothing in the directory that it is started in."""
    program = "import sys; sys.path[:] = filter(None, sys.path); from basedev.cli import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", program, *words],
        cwd=cwd,
        env={**bench.environment, "PYTHONPATH": os.fspath(HERE)},
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",
        check=False,
    )


def julia_in_front(bench: Bench, cwd: Path, *words: str, path: Path) -> subprocess.CompletedProcess[str]:
    """The `julia` of `basedev shell-init`."""
    environment = {**bench.environment, "PATH": f"{bench.storage.root}/shell/bin:{path}:{os.environ['PATH']}"}
    command = ["/bin/sh", "-c", 'exec julia "$@"', "sh", *words]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, encoding="utf-8", check=False)


@pytest.fixture
def hostile(bench: Bench, tmp_path: Path) -> Path:
    """A clone of a repository that looks as if it had been adopted; all that it brings writes `ran`."""
    root = tmp_path / "hostile"
    for directory in ("base", "stdlib", "usr/bin", "usr/share/basedev"):
        (root / directory).mkdir(parents=True)
    (root / "base/Base.jl").touch()
    for name in ("VERSION", ORIGIN, "usr/share/basedev/base.json"):
        shutil.copy(bench.root / name, root / name)
    size = (bench.root / "usr/bin/julia").stat().st_size
    (root / "usr/bin/julia").write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n".ljust(size))
    (root / "usr/bin/julia").chmod(0o755)
    (root / ".basedev.toml").write_text("[basedev]\nautobuild = true\n")
    for module in ("json", "git", "tomli", "basedev", "rich", "sitecustomize"):
        (root / f"{module}.py").write_text(f"open({os.fspath(tmp_path / 'ran')!r}, 'w')\n")
    return root


def test_what_a_clone_brings_is_not_run(bench: Bench, hostile: Path, tmp_path: Path) -> None:
    (tmp_path / "julia").write_text("#!/bin/sh\necho the next julia\n")
    (tmp_path / "julia").chmod(0o755)
    assert bench.basedev("shell-init", "bash").returncode == 0
    assert julia_in_front(bench, hostile, "-e", "1", path=tmp_path).stdout == "the next julia\n"
    done = basedev(bench, "build", "--background", cwd=hostile)
    assert (done.returncode, done.stderr) == (3, f"basedev: {hostile} was not adopted by you: run basedev init\n")
    for words in (["images", "list"], ["hook", "status"], ["doctor"], ["serve", "status", "--all"]):
        basedev(bench, *words, cwd=hostile)
    assert not (tmp_path / "ran").exists()


def test_a_julia_that_came_with_the_checkout_is_refused(bench: Bench, hostile: Path, tmp_path: Path) -> None:
    origin = json.loads((hostile / ORIGIN).read_text())
    (hostile / "own").mkdir()
    (hostile / ORIGIN).write_text(json.dumps({**origin, "prefix": os.fspath(hostile / "own")}))
    for command in ("init", "status", "build"):
        done = basedev(bench, command, cwd=hostile)
        assert done.returncode == 3 and done.stderr.count("\n") == 1
        assert f"{hostile / ORIGIN} was not written here: remove its usr/" in done.stderr
    (hostile / ORIGIN).write_text(json.dumps(origin))
    shutil.move(hostile / "usr/share/basedev", tmp_path / "elsewhere")
    (hostile / "usr/share/basedev").symlink_to(tmp_path / "elsewhere")
    before = sorted((tmp_path / "elsewhere").iterdir())
    assert "was not written here" in basedev(bench, "init", cwd=hostile).stderr
    assert sorted((tmp_path / "elsewhere").iterdir()) == before and not (tmp_path / "ran").exists()


def test_modules_in_a_checkout_are_not_loaded(bench: Bench, tmp_path: Path) -> None:
    """By what watch, hooks and the julia in front start."""
    for module in ("json", "git", "basedev", "rich"):
        (bench.root / f"{module}.py").write_text(f"open({os.fspath(tmp_path / 'ran')!r}, 'w')\n")
    bench.append(UTIL, "\nsafe() = 1\n")
    done = basedev(bench, "watch", "--once", cwd=bench.root)
    assert done.returncode == 0 and "built: chained" in done.stdout + done.stderr
    assert not (tmp_path / "ran").exists()


def test_settings_start_builds_only_if_they_are_trusted(bench: Bench, tmp_path: Path) -> None:
    assert bench.basedev("shell-init", "bash").returncode == 0
    bench.append(UTIL, "\nautomatic() = 1\n")
    own = bench.root / ".basedev.toml"
    own.write_text("[basedev]\nautobuild = true\n")

    def told() -> str:
        return julia_in_front(bench, bench.root, "--startup-file=no", "-e", "1", path=tmp_path).stderr

    asks = "run basedev build (read .basedev.toml: after basedev init --trust, it has builds start by themselves)\n"
    assert told().endswith(asks)
    assert not (bench.storage.root / "background").exists()
    assert bench.basedev("init", "--trust").returncode == 0
    bench.json("status")  # notes the checkout once more, which leaves trust as it is
    assert told().endswith("they are being built in the background\n")
    own.write_text("[basedev]\nautobuild = true\nfull-rebuild = true\n")  # another text, such as another commit's
    until = time.monotonic() + 60
    while (bench.json("status").get("background") or {}).get("status") != "built":
        assert time.monotonic() < until
        time.sleep(0.1)
    bench.append(UTIL, "\nautomatic2() = 1\n")
    assert told().endswith(asks)


def test_names_do_not_steer_the_terminal(bench: Bench) -> None:
    (bench.root / "base/\x1b]0;title\x07.jl").write_text("named() = 1\n")
    ours, terminal = pty.openpty()
    command = bench.command("status")
    with subprocess.Popen(command, cwd=bench.root, env=bench.environment, stdout=terminal, stderr=terminal) as running:
        os.close(terminal)
        said = b""
        with suppress(OSError):  # when nobody has the terminal any more
            while part := os.read(ours, 1 << 16):
                said += part
    os.close(ours)
    assert running.returncode == 0, said
    assert b"\x1b]" not in said and b"\x07" not in said and b"base/\\x1b]0;title" in said


def test_settings_that_are_no_file(tmp_path: Path) -> None:
    path = tmp_path / ".basedev.toml"
    path.symlink_to("/dev/zero")
    with pytest.raises(UsageError, match="more than 65536 bytes"):
        load_config(tmp_path)
    path.unlink()
    os.mkfifo(path)
    load_config(tmp_path)  # nobody writes to it: empty, and not waited for


def test_patches_do_not_leave_the_tree(tmp_path: Path) -> None:
    tree, outside = tmp_path / "tree", tmp_path / "outside"
    tree.mkdir()
    outside.mkdir()
    (outside / "a.c").write_text("int f;\n")
    (tree / "src").symlink_to(outside)
    insertion = Insertion("one", "src/a.c", None, "int f;", True, "int g;\n")
    series = Series("1.12", (Patch("One", "", {}, (insertion,)),))
    with pytest.raises(SetupError, match="a directory on its way is a link"):
        apply(series, tree)
    assert (outside / "a.c").read_text() == "int f;\n"


def test_what_is_stored_is_the_users_alone(bench: Bench, tmp_path: Path) -> None:
    done = bench.basedev("images", "list", environment={"BASEDEV_CACHE": os.fspath(tmp_path / "new")})
    assert done.returncode == 0, done.stderr
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700
    bench.append(UTIL, "\nalone() = 1\n")
    bench.chain()
    for kind in ("images", "locks", "staging", "checkouts", "servers"):
        directory = bench.storage.root / kind
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700, kind
    for path in (bench.storage.root / "locks").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


@pytest.mark.parametrize("mode", [0o777, 0o770])
def test_a_store_that_others_can_write_to_is_not_used(bench: Bench, mode: int) -> None:
    images = bench.storage.root / "images"
    images.mkdir(exist_ok=True)
    images.chmod(mode)
    try:
        bench.append(UTIL, "\nothers() = 1\n")
        done = bench.basedev("build")
    finally:
        images.chmod(0o700)
    assert done.returncode == 3
    assert done.stderr.splitlines()[-1].startswith(f"basedev: others can write to {images}: chmod")


def test_images_are_checked_before_use(bench: Bench) -> None:
    """Of the same size, with the time of change set back."""
    bench.append(UTIL, "\nchecked() = 1\n")
    image = Path(bench.chain()["image"])
    before, contents = image.stat(), image.read_bytes()
    image.chmod(0o644)
    image.write_bytes(contents[:-1] + bytes([contents[-1] ^ 1]))
    os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert bench.json("build")["status"] == "built"


@pytest.fixture
def odd(bench: Bench, tmp_path: Path) -> Iterator[Bench]:
    """A checkout and a cache directory with odd paths."""
    cache = tmp_path / f"cache{ODD}"
    cache.mkdir(mode=0o700)
    for kind in SHARED:
        (cache / kind).symlink_to(cache_root() / kind)
    made = make_checkout(tmp_path / ODD, Storage())
    yield Bench(made.path, Storage(cache))
    stop_servers(cache)


def test_odd_paths(odd: Bench) -> None:
    def run(*words: str) -> str:
        done = basedev(odd, *words, cwd=odd.root)
        assert done.returncode == 0, (words, done.stderr)
        return done.stdout

    git = ["git", "-C", os.fspath(odd.root), "-c", "user.name=A", "-c", "user.email=a@example.com"]
    run("init")
    run("hook", "install")
    odd.append(UTIL, "\nodd() = 42\n")
    assert "built" in json.loads(run("--json", "build"))["status"]
    assert run("run", "--", "-e", "print(Base.odd())") == "42"
    run("watch", "--once", "--exec", ": >ran-'by watch'")
    assert (odd.root / "ran-by watch").exists()
    subprocess.run([*git, "commit", "-qam", "odd"], env=odd.environment, check=True)
    until = time.monotonic() + 60
    while (json.loads(run("--json", "hook", "status"))["background"] or {}).get("status") not in ("built", "present"):
        assert time.monotonic() < until
        time.sleep(0.1)
    assert basedev(odd, "-C", f"./{ODD}", "status", cwd=odd.root.parent).returncode == 0
    testing = ("--", "julia", "-e", "exit(isdefined(Base, :odd))")
    assert "is the first bad commit" in run("bisect", "run", "--bad", "HEAD", "--good", "HEAD~1", *testing)
