"""Gives spoilt input to what reads our own formats (tests/fuzzing.py), and tells what does more than refuse it.

    tools/fuzz [-n INPUTS] [--seconds S] [--seed SEED] [TARGET ...]

INPUTS are for all targets together (default: 100000), more of them for those that take less time. A target ends earlier
after S seconds. Input is made from SEED (default: 0) and the number of the input, so that a failure can be had again:

    tools/fuzz --seed 0 --only 4711 settings

An input that takes longer than ten seconds has made its reader hang; one that needs more than 1 GiB fails with a
MemoryError. The real warm server is a target of its own, `--host CHECKOUT`: bytes are sent to that of an adopted
checkout, which must go on answering (some hundred a second; INPUTS are its own).

Exits with 1 when something failed.
"""

from __future__ import annotations

import argparse
import random
import resource
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections import Counter
from contextlib import suppress
from pathlib import Path
from types import FrameType

from fuzzing import TARGETS, Target, in_memory, random_edits, spoilt

from basedev.checkout import Checkout
from basedev.servers import greet
from basedev.storage import Storage
from basedev.workflows.serve import start

PATIENCE = 10.0
"""Seconds for one input."""

MEMORY = 1 << 30
"""Bytes that may be allocated besides those of the start."""

SHOWN = 5
"""Different failures that are told of a target."""


class Hang(BaseException):
    """An input took too long. No reader may catch it."""


def main() -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog="tools/fuzz", description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("-n", dest="inputs", type=int, default=100_000, help="for all targets together")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="for each target, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, metavar="NUMBER", help="this input alone, its failure as it is")
    parser.add_argument("--host", type=Path, metavar="CHECKOUT", help="fuzz its warm server")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"some of: {', '.join(TARGETS)}")
    options = parser.parse_args()
    if unknown := set(options.targets) - {*TARGETS}:
        parser.error(f"there is no target {min(unknown)}")
    if options.host:
        return _fuzz_host(options.host, options.inputs, options.seed)
    names = options.targets or list(TARGETS)
    signal.signal(signal.SIGALRM, _hang)
    with Path("/proc/self/statm").open() as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))
    shares = sum(TARGETS[name].share for name in names)
    failed = False
    for name in names:
        with in_memory() as directory:
            share = options.inputs * TARGETS[name].share // shares
            numbers = [options.only] if options.only is not None else range(share)
            failed |= _fuzz(name, TARGETS[name], directory, numbers, options)
    return failed


def _fuzz(name: str, target: Target, directory: Path, numbers: range | list[int], options: argparse.Namespace) -> bool:
    """Tries one target; whether it failed."""
    examples = target.examples(directory)
    failures: Counter[str] = Counter()
    first: dict[str, int] = {}
    began, done, read, slowest = time.monotonic(), 0, 0, 0.0
    for number in numbers:
        chance = random.Random(f"{options.seed} {name} {number}")
        example, edits = chance.choice(examples), random_edits(chance)
        at = time.monotonic()
        if at - began > options.seconds:
            break
        signal.setitimer(signal.ITIMER_REAL, PATIENCE)
        try:
            target.read(example, edits, directory)
            read += 1
        except target.refusals:
            pass
        except (Exception, Hang) as error:
            if options.only is not None:
                raise
            failures[what := _what(error)] += 1
            first.setdefault(what, number)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        done += 1
        slowest = max(slowest, time.monotonic() - at)
    seconds = time.monotonic() - began
    told = f"{done} inputs in {seconds:.0f} s, {read} read, {done - read - failures.total()} refused"
    print(f"{name}: {told}, {failures.total()} failed; slowest {slowest:.2f} s", flush=True)
    for what, count in failures.most_common(SHOWN):
        print(f"  {count} times, first --seed {options.seed} --only {first[what]} '{name}': {what}", flush=True)
    return bool(failures)


def _what(error: BaseException) -> str:
    """A failure, without what differs from one input to the next."""
    frames = [one for one in traceback.extract_tb(error.__traceback__) if "/basedev/" in one.filename]
    where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{where}: {str(error)[:80]!r}"


def _hang(number: int, frame: FrameType | None) -> None:
    raise Hang


def _silent(step: str, seconds: float) -> None:
    pass


REQUESTS = [
    b"",
    b"w",
    b"s",
    b"client 0 18 20 8\n0:-1:-1 1:-1:-1 2:-1HOME=/x\0",
    b"apply 1\nevaluate 1 4 15 8\nBasestrings/util.jlf(x) = 2x",
    b"trial 1\nevaluate 1 4 1 8\nBase\nf(x) = 2",
    b"parse 1 8\nf(x) = 2",
    b"compile 3 0\n",
]
"""What a client says to a server and to its child."""


def _fuzz_host(root: Path, inputs: int, seed: int) -> int:
    """Sends spoilt requests to the warm server of a checkout, which must stay the same and answer."""
    checkout, storage = Checkout.find(root), Storage()
    server = start(checkout, storage, _silent)
    began, answered = time.monotonic(), 0
    with tempfile.TemporaryFile() as log:
        for number in range(inputs):
            chance = random.Random(f"{seed} host {number}")
            with socket.socket(socket.AF_UNIX) as connection, suppress(ConnectionError, TimeoutError):
                connection.settimeout(PATIENCE)
                connection.connect(str(server.socket))
                if greeted := number % 8 == 0:
                    greet(connection, log.fileno())
                connection.sendall(spoilt(chance.choice(REQUESTS), random_edits(chance)))
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(1 << 16):
                    answered += not greeted
            log.truncate(0)
    now = start(checkout, storage, _silent)
    seconds = time.monotonic() - began
    print(f"host: {inputs} inputs in {seconds:.0f} s, {answered} answered; the server has {now.memory >> 20} MiB")
    if now.pid != server.pid:
        print(f"the server {server.pid} is gone")
    return now.pid != server.pid


if __name__ == "__main__":
    sys.exit(main())
