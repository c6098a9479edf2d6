"""The warm server: builds use it without being told, and are none the worse when it is not there or comes to grief."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from conftest import Bench, start, stop_servers, wait_until
from test_faults import assert_clean

from basedev.servers import Limits, Server, Servers, Service, greet

UTIL = "base/strings/util.jl"


@pytest.fixture
def cold(bench: Bench) -> Iterator[Bench]:
    """The adopted checkout, without a server before and after."""
    stop_servers(bench.storage.root)
    yield bench
    stop_servers(bench.storage.root)


def servers(bench: Bench) -> list[dict[str, Any]]:
    """What `serve status` tells."""
    return list(bench.json("serve", "status", "--all")["servers"])


def only_server(bench: Bench) -> Server:
    """The one server of the bench's cache directory."""
    (server,) = Servers(bench.storage).running()
    return server


def leaf(bench: Bench, name: str) -> dict[str, Any]:
    """Builds an image with one more function."""
    bench.append(UTIL, f'\n{name}() = "{name}"\n')
    return bench.chain()


def is_alive(pid: int) -> bool:
    """Whether a process has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def hosts_of(server: Server) -> list[int]:
    """The processes that a server has forked and that have not ended."""
    found = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    return [int(pid) for pid in found if is_alive(int(pid))]


def test_builds_start_and_use_one(cold: Bench) -> None:
    first = leaf(cold, "one")
    server = only_server(cold)
    second = leaf(cold, "two")
    assert (first["server"], second["server"]) == ("started", "used")
    assert cold.julia(second["image"], "print(Base.one(), Base.two())") == "onetwo"
    (told,) = servers(cold)
    assert (told["pid"], told["base_id"]) == (server.pid, second["base_id"])
    assert Path(told["socket"]).is_socket()
    wait_until(lambda: only_server(cold).builds == 2)
    assert cold.json("build")["server"] is None  # nothing was asked of it


def test_status_uses_it_too(cold: Bench) -> None:
    cold.append(UTIL, "\nplanned() = 1\n")
    assert [cold.json("status")["server"] for _ in range(2)] == ["started", "used"]


def test_watch_uses_it(cold: Bench) -> None:
    pid = cold.json("serve", "start")["servers"][0]["pid"]
    cold.append(UTIL, "\nseen() = 1\n")
    assert cold.basedev("watch", "--once").returncode == 0
    wait_until(lambda: only_server(cold).builds == 1)
    assert only_server(cold).pid == pid


def test_builds_in_the_background_use_it_at_their_priority(cold: Bench) -> None:
    """As hooks start them."""
    pid = cold.json("serve", "start")["servers"][0]["pid"]
    cold.append(UTIL, "\nbehind() = 1\n")
    assert cold.basedev("build", "--background").returncode == 0
    found: list[int] = []

    def is_low() -> bool:
        with suppress(ProcessLookupError):
            found.extend(os.getpriority(os.PRIO_PROCESS, host) for host in hosts_of(only_server(cold)))
        return any(priority >= 10 for priority in found)

    wait_until(is_low)
    wait_until(lambda: cold.json("status")["background"]["status"] == "built")
    assert os.getpriority(os.PRIO_PROCESS, pid) == 0


def test_one_of_low_priority_is_replaced(cold: Bench) -> None:
    done = subprocess.run(["nice", *cold.command("serve", "start")], cwd=cold.root, env=cold.environment, check=False)
    assert done.returncode == 0
    low = only_server(cold)
    assert os.getpriority(os.PRIO_PROCESS, low.pid) == 10
    assert leaf(cold, "preferred")["server"] == "started"
    assert os.getpriority(os.PRIO_PROCESS, only_server(cold).pid) == 0
    assert not is_alive(low.pid)


def test_start_status_stop(cold: Bench) -> None:
    assert "no server is running" in cold.basedev("serve", "status").stderr
    first = cold.json("serve", "start")["servers"]
    again = cold.json("serve", "start")["servers"]
    assert first[0]["pid"] == again[0]["pid"] == servers(cold)[0]["pid"]
    assert first[0]["builds"] == 0
    assert 50 << 20 < first[0]["memory"] < first[0]["memory_limit"] == 1 << 30
    assert first[0]["idle_limit"] == 15 * 60
    said = cold.basedev("serve", "status").stdout
    assert re.fullmatch(
        rf"server {first[0]['pid']} on the base image \w+: 0 builds in \d+ s, idle for \d+ s \(of 15 min\),"
        r" memory \d+ MiB \(of 1.0 GiB\)\n",
        said,
    )
    assert [one["pid"] for one in cold.json("serve", "stop")["servers"]] == [first[0]["pid"]]
    assert not is_alive(first[0]["pid"])
    assert servers(cold) == [] and list((cold.storage.root / "servers").iterdir()) == []


@pytest.mark.parametrize("how", ["flag", "configuration", "environment"])
def test_turned_off(cold: Bench, how: str) -> None:
    cold.append(UTIL, "\nalone() = 1\n")
    if how == "configuration":
        (cold.root / ".basedev.toml").write_text("[basedev]\nserver = false\n")
    environment = {"BASEDEV_SERVER": "0"} if how == "environment" else {}
    done = cold.basedev("--json", "build", *(["--no-server"] if how == "flag" else []), environment=environment)
    assert json.loads(done.stdout)["server"] == "off"
    assert servers(cold) == []


def test_a_flag_turns_it_on(cold: Bench) -> None:
    (cold.root / ".basedev.toml").write_text("[basedev]\nserver = false\n")
    cold.append(UTIL, "\ntogether() = 1\n")
    assert cold.json("build", "--server")["server"] == "started"


@pytest.mark.parametrize("victim", ["server", "host", "both"])
def test_killed_in_the_midst_of_a_build(cold: Bench, victim: str) -> None:
    cold.json("serve", "start")
    server = only_server(cold)
    wait_until(lambda: not hosts_of(server))  # that of the command before
    cold.append(UTIL, '\nlast_word() = "done"\n')
    # a central one, for which the host has work for seconds
    cold.edit(UTIL, "function chomp(s::String)\n", 'function chomp(s::String)\n    s == "x" && return SubString("y")\n')
    build = start(cold, "--json", "build")
    wait_until(lambda: bool(hosts_of(server)))
    hosts = hosts_of(server)
    for pid in {"server": [server.pid], "host": hosts, "both": [server.pid, *hosts]}[victim]:
        os.kill(pid, signal.SIGKILL)
    told = json.loads(build.communicate()[0])
    assert (build.returncode, told["status"]) == (0, "built")
    assert (told["server"] == "used") == (victim == "server")  # who works goes on without the server
    assert cold.julia(told["image"], "print(Base.last_word())") == "done"
    assert leaf(cold, "afterwards")["server"] == ("used" if victim == "host" else "started")


def test_a_build_that_is_killed_takes_its_host_along(cold: Bench) -> None:
    cold.json("serve", "start")
    server = only_server(cold)
    wait_until(lambda: not hosts_of(server))
    cold.append(UTIL, '\nlast_word() = "done"\n')
    build = start(cold, "build")
    wait_until(lambda: bool(hosts_of(server)))
    build.kill()
    build.communicate()
    wait_until(lambda: not hosts_of(server))
    assert_clean(cold)
    assert only_server(cold).pid == server.pid


def test_one_that_is_stopped_does_not_hold_builds_up_for_ever(cold: Bench) -> None:
    cold.json("serve", "start")
    server = only_server(cold)
    os.kill(server.pid, signal.SIGSTOP)
    try:
        told = leaf(cold, "stopped")
    finally:
        os.kill(server.pid, signal.SIGKILL)
    assert told["server"].startswith("the engine's host failed")


def test_ten_builds_at_once_start_one(cold: Bench) -> None:
    cold.append(UTIL, "\ntogether() = 1\n")
    # each of an image of its own
    engines = ["auto", "stock-1.5-no-cutoff"]
    every = [start(cold, "--json", "build", "--engine", engines[number % 2]) for number in range(4)]
    every += [start(cold, "--json", "status") for _ in range(6)]
    told = [json.loads(process.communicate()[0]) for process in every]
    assert all(process.returncode == 0 for process in every)
    assert [one["server"] for one in told].count("started") == 1
    assert {one["server"] for one in told} <= {"started", "used", None}
    assert len(servers(cold)) == 1


def test_ends_when_it_is_idle(cold: Bench) -> None:
    """The configuration counts minutes: the server itself is told less."""
    server = _started_with(cold, idle=2, memory=1 << 30)
    wait_until(lambda: not is_alive(server.pid))
    assert Servers(cold.storage).running() == []
    assert leaf(cold, "rested")["server"] == "started"


def test_ends_after_a_build_when_it_needs_too_much_memory(cold: Bench) -> None:
    server = _started_with(cold, idle=600, memory=1 << 20)
    assert leaf(cold, "heavy")["server"] == "used"
    wait_until(lambda: not is_alive(server.pid))
    assert leaf(cold, "heavier")["server"] == "started"


def _started_with(bench: Bench, *, idle: int, memory: int) -> Server:
    """The server that builds will find, with other limits."""
    bench.json("serve", "start")
    server = only_server(bench)
    words = Path(f"/proc/{server.pid}/cmdline").read_text().split("\0")
    program, image = Path(words[0]), Path(words[2])
    every = Servers(bench.storage)
    every.stop(server)
    service = Service(program, tuple(words[1:5]), server.base_id, (program, image))
    connection, new = every.connect(service, Limits(idle, memory))
    connection.close()
    assert new
    return only_server(bench)


def test_its_memory_stays_flat(cold: Bench) -> None:
    cold.json("serve", "start")
    cold.append(UTIL, "\nflat() = 0\n")
    cold.json("status")

    def private() -> int:
        """Bytes that are the server's alone while no child has them in common with it."""
        server = only_server(cold)
        wait_until(lambda: not hosts_of(server))
        text = Path(f"/proc/{server.pid}/smaps_rollup").read_text()
        return sum(int(line.split()[1]) << 10 for line in text.splitlines() if line.startswith("Private_Dirty"))

    before = private()
    for number in range(20):
        cold.edit(UTIL, f"flat() = {number}\n", f"flat() = {number + 1}\n")
        assert cold.json("status")["server"] == "used"
    wait_until(lambda: only_server(cold).builds == 21)  # the last one is counted when it has ended
    assert private() - before < 2 << 20


def test_images_are_those_of_an_ordinary_host(cold: Bench) -> None:
    """Byte for byte, where objects have the same addresses in each process (`setarch -R`): their order in an image
    depends on these."""
    cold.edit(UTIL, "function chomp(s::AbstractString)", "function chomp(text::AbstractString, s = text)")
    cold.append(UTIL, "\nsame(x) = (sum(sin, x), string(x))\n")
    images, served = [], []
    for flag in ("--no-server", "--server", "--server"):
        command = ["setarch", "-R", *cold.command("--json", "build", flag)]
        done = subprocess.run(command, cwd=cold.root, env=cold.environment, stdout=subprocess.PIPE, check=True)
        built = json.loads(done.stdout)
        images.append(Path(built["image"]).read_bytes())
        served.append(built["server"])
        shutil.rmtree(Path(built["image"]).parent)
    assert served == ["off", "started", "used"]
    assert images[0] == images[1] == images[2]


def test_only_its_user_can_reach_it(cold: Bench) -> None:
    cold.json("serve", "start")
    directory = cold.storage.root / "servers"
    assert directory.stat().st_mode & 0o777 == 0o700
    for path in directory.iterdir():
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.stat().st_uid == os.geteuid()


def put_symlink_to_directory(directory: Path, place: Path) -> None:
    directory.rename(directory.with_name("elsewhere"))
    directory.symlink_to(directory.with_name("elsewhere"))


def open_directory(directory: Path, place: Path) -> None:
    directory.chmod(0o755)


def put_symlink_to_socket(directory: Path, place: Path) -> None:
    place.rename(place.with_name("elsewhere"))
    place.symlink_to("elsewhere")


def open_socket(directory: Path, place: Path) -> None:
    place.chmod(0o666)


def put_file(directory: Path, place: Path) -> None:
    place.unlink()
    place.touch()


def give_socket_away(directory: Path, place: Path) -> None:
    if os.geteuid():
        pytest.skip("only root can give files away")
    os.chown(place, 65534, -1)


def give_directory_away(directory: Path, place: Path) -> None:
    if os.geteuid():
        pytest.skip("only root can give files away")
    os.chown(directory, 65534, -1)


def listen_as_another(directory: Path, place: Path) -> None:
    """The socket is this user's, who listens is not."""
    if os.geteuid():
        pytest.skip("only root can become another user")
    place.unlink()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"/proc/self/fd/{os.open(directory, os.O_RDONLY)}/{place.name}")
        place.chmod(0o600)
        child = os.fork()
        if not child:
            os.setuid(65534)
            listener.listen()
            os._exit(0)
        os.waitpid(child, 0)
        LISTENERS.append(socket.socket(fileno=os.dup(listener.fileno())))


LISTENERS: list[socket.socket] = []


@pytest.mark.parametrize(
    "spoil",
    [
        put_symlink_to_directory,
        open_directory,
        put_symlink_to_socket,
        open_socket,
        put_file,
        give_socket_away,
        give_directory_away,
        listen_as_another,
    ],
)
def test_what_is_not_its_users_own_is_not_used(cold: Bench, spoil: Callable[[Path, Path], None]) -> None:
    cold.json("serve", "start")
    directory = cold.storage.root / "servers"
    server = only_server(cold)
    spoil(directory, server.socket)
    try:
        told = leaf(cold, "careful")
        assert told["server"] not in ("used", "started", "off")
        assert cold.julia(told["image"], "print(Base.careful())") == "careful"
    finally:
        while LISTENERS:
            LISTENERS.pop().close()
        with suppress(ProcessLookupError):
            os.kill(server.pid, signal.SIGKILL)
        if directory.is_symlink():
            directory.unlink()
            directory.with_name("elsewhere").rename(directory)
        shutil.rmtree(directory)


def test_nonsense_does_not_hurt_it(cold: Bench) -> None:
    cold.json("serve", "start")
    server = only_server(cold)
    for sent in (b"", b"x", b"w", b"w" + bytes(1000), b"s" * 100, b"client 1 2 3\n", os.urandom(5000)):
        connection = _connected(server)
        with suppress(OSError):
            connection.sendall(sent)
        connection.close()
    waiting = [_connected(server) for _ in range(50)]  # and never says anything
    assert leaf(cold, "unhurt")["server"] == "used"
    for connection in waiting:
        connection.close()
    assert only_server(cold).pid == server.pid


def test_requests_that_no_host_understands_end_that_host_only(cold: Bench) -> None:
    cold.json("serve", "start")
    server = only_server(cold)
    for request in (b"nonsense 1\n", b"trial 1\nevaluate 1 -5 x\n", b"apply 99999999999\n", b"compile 3 0\nabc"):
        connection = _connected(server)
        with (cold.storage.root / "log").open("w") as log:
            greet(connection, log.fileno())
        with suppress(ConnectionError):  # it ends with what it has not read
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(1000):
                pass
        connection.close()
    assert leaf(cold, "unhurt")["server"] == "used"
    assert only_server(cold).pid == server.pid


def _connected(server: Server) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    directory = os.open(server.socket.parent, os.O_RDONLY)
    connection.connect(f"/proc/self/fd/{directory}/{server.socket.name}")
    os.close(directory)
    return connection


def test_it_has_nothing_of_its_starter(cold: Bench, tmp_path: Path) -> None:
    held = (tmp_path / "held").open("w")
    ends = os.pipe()
    inodes = [os.fstat(end).st_ino for end in ends]
    started = subprocess.run(
        cold.command("serve", "start"),
        cwd=cold.root,
        env={**cold.environment, "SECRET": "1", "JULIA_NUM_THREADS": "2"},
        pass_fds=[held.fileno(), *ends],
        check=False,
    )
    assert started.returncode == 0
    server = only_server(cold)
    process = Path(f"/proc/{server.pid}")
    files = [str(file.readlink()) for file in (process / "fd").iterdir()]
    assert str(held.name) not in files
    assert not [file for file in files if any(f"pipe:[{inode}]" == file for inode in inodes)]
    allowed = ("/dev/null", "anon_inode:", "pipe:", "socket:", f"/proc/{server.pid}/mem", str(server.socket)[:-6])
    assert not [file for file in files if not file.startswith(allowed)]
    assert len([file for file in files if file.startswith("socket:")]) == 1
    assert (process / "cwd").readlink() == Path("/")
    variables = (process / "environ").read_bytes()
    assert b"SECRET" not in variables and b"JULIA_" not in variables
    assert os.getsid(server.pid) != os.getsid(0)
    for end in ends:
        os.close(end)
    held.close()


def test_code_is_evaluated_as_the_client_would(cold: Bench) -> None:
    """Environment and directory are its own, not the server's."""
    cold.json("serve", "start")
    late = "base/client.jl"  # it may use all of Base
    cold.append(
        late, '\nconst told = ENV["TELL"]\nconst here = ccall(:getenv, Cstring, (Cstring,), "TELL") != C_NULL\n'
    )
    cold.append(late, "const where = pwd()\n")
    done = cold.basedev("--json", "build", "--engine", "stock-1.5", environment={"TELL": "client"})
    told = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    assert told["server"] == "used"
    assert cold.julia(told["image"], "print(Base.told, Base.here, Base.where)") == f"clienttrue{cold.root}"


def test_it_ends_with_its_cache_directory(cold: Bench, own: Bench) -> None:
    assert leaf(own, "vanishing")["server"] == "started"
    server = only_server(own)
    shutil.rmtree(own.storage.root / "servers")
    wait_until(lambda: not is_alive(server.pid))
    assert leaf(own, "again")["server"] == "started"


def test_it_ends_with_its_base_image(cold: Bench, own: Bench) -> None:
    base = Path(own.json("serve", "start")["servers"][0]["base_id"])
    server = only_server(own)
    shutil.rmtree(own.storage.root / "bases" / base)
    wait_until(lambda: not is_alive(server.pid))


def test_removing_its_base_image_ends_it(cold: Bench, own: Bench) -> None:
    base = own.json("serve", "start")["servers"][0]["base_id"]
    server = only_server(own)
    (told,) = [one for one in own.json("images", "list")["images"] if one["id"] == base]
    assert not told["in_use"] and told["processes"] == []  # an idle server keeps nobody from it
    assert own.basedev("images", "rm", "--force", base).returncode == 0
    assert not is_alive(server.pid)
    assert not (own.storage.root / "bases" / base).exists()


def test_another_base_image_has_another(cold: Bench, own: Bench) -> None:
    """The store of `own` has a copy of the base image."""
    cold.json("serve", "start")
    assert leaf(own, "apart")["server"] == "started"
    assert only_server(cold).pid != only_server(own).pid


def test_errors_of_the_edited_sources_are_told_as_ever(cold: Bench) -> None:
    cold.json("serve", "start")
    cold.append(UTIL, "\nconst wrong = undefined_name\n")
    done = cold.basedev("build")
    assert done.returncode == 1 and "undefined_name" in done.stderr
    wait_until(lambda: not hosts_of(only_server(cold)))
