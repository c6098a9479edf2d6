"""Bisection: the choice of commits is git's; the culprit is found in a long history, whatever comes in between."""

from __future__ import annotations

import json
import os
import random
import shlex
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import corpus
import pytest
from conftest import SHARED, Bench, wait_until

from basedev.bisection import Graph
from basedev.checkout import Checkout
from basedev.commits import CommitCheckout
from basedev.distribution import Distribution
from basedev.newcheckout import make_checkout
from basedev.storage import Storage

NOBODY = {
    f"GIT_{role}_{what}": value
    for role in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "A. Nobody"), ("EMAIL", "nobody@localhost"), ("DATE", "1700000000 +0000"))
}
ARRAYMATH, UTIL, SORT = "base/arraymath.jl", "base/strings/util.jl", "base/sort.jl"
CHECK = "exit(rot180([1 2; 3 4]) != [4 3; 2 1])"


def git(root: Path, *words: str, stdin: str | None = None, code: int = 0) -> str:
    """What git prints."""
    done = subprocess.run(
        ["git", "-C", root, *words], env={**os.environ, **NOBODY}, input=stdin, capture_output=True, text=True
    )
    assert done.returncode == code, f"{words}: {done.stderr}"
    return done.stdout.strip()


# The choice


def graph(root: Path, seed: int, number: int) -> list[str]:
    """Makes a repository with commits that branch and merge at random; all of them, the first one first."""
    chance = random.Random(seed)
    git(root, "init", "--quiet", "--initial-branch", "last")
    stream = []
    for mark in range(1, number + 1):
        parents = [mark - 1 if chance.random() < 0.8 else chance.randrange(max(1, mark - 6), mark)] if mark > 1 else []
        if mark > 4 and chance.random() < 0.25:
            parents = list(dict.fromkeys([*parents, chance.randrange(mark - 4, mark)]))
        stream.append(f"commit refs/heads/last\nmark :{mark}\ncommitter N <n@n> {mark} +0000\ndata 1\nx\n")
        stream += [f"{'merge' if at else 'from'} :{parent}\n" for at, parent in enumerate(parents)]
    marks = root / "marks"
    git(root, "fast-import", "--quiet", "--force", f"--export-marks={marks}", stdin="".join(stream))
    return [
        line.split()[1] for line in sorted(marks.read_text().splitlines(), key=lambda line: int(line[1:].split()[0]))
    ]


@pytest.mark.parametrize("seed", range(12))
def test_choices_are_those_of_git(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    first, *_, bad = graph(tmp_path, seed, 60)
    options = ["--first-parent"] if seed % 3 == 0 else []
    mine = Graph.read(
        git(tmp_path, "rev-list", "--topo-order", "--parents", *options, bad, "--not", first),
        first_parent=bool(options),
    )
    said = git(tmp_path, "bisect", "start", "--no-checkout", *options, bad, first)
    good, skipped = [first], set[str]()

    def halving(commit: str) -> int:
        contained, total = (
            int(git(tmp_path, "rev-list", "--count", *options, one, "--not", *good)) for one in (commit, bad)
        )
        return min(contained, total - contained)

    while (choice := mine.choose(bad, good, skipped)).commit:
        theirs = git(tmp_path, "rev-parse", "BISECT_HEAD")
        if skipped:
            assert choice.commit == theirs
        else:  # of equals, git takes the one that it finds first
            assert halving(choice.commit) == halving(theirs)
        if choice.commit == theirs and not skipped:
            assert f"Bisecting: {choice.left} revision" in said and f"roughly {choice.steps} step" in said
        verdict = chance.choice(["good", "bad", "skip"] if seed % 2 else ["good", "bad"])
        done = subprocess.run(["git", "-C", tmp_path, "bisect", verdict], capture_output=True, text=True)
        said = done.stdout
        if verdict == "bad":
            bad = theirs
        elif verdict == "good":
            good.append(theirs)
        else:
            skipped.add(theirs)
    if len(choice.culprits) == 1:
        assert f"{choice.culprits[0]} is the first bad commit" in said
    else:
        possible = [line for line in said.splitlines() if len(line) == 40]
        assert set(possible) == set(choice.culprits)


# A long history


@dataclass
class History:
    """A checkout with a long history on the branch `history`, while `master` is checked out."""

    bench: Bench
    commits: dict[str, str]
    """By the name of what was done."""

    @property
    def root(self) -> Path:
        """The checkout."""
        return self.bench.root

    def state(self) -> dict[str, object]:
        """All that belongs to the user: git's own files but its objects, and what git tells of them."""
        told = {
            " ".join(words): git(self.root, *words)
            for words in (["status", "--porcelain"], ["for-each-ref"], ["worktree", "list"], ["stash", "list"])
        }
        files = {
            path.relative_to(self.root).as_posix(): path.read_bytes()
            for path in (self.root / ".git").rglob("*")
            if path.is_file() and "objects" not in path.parts
        }
        return {**told, **files, "edited": (self.root / SORT).read_bytes()}

    def run(self, *words: str, code: int = 0) -> dict[str, Any]:
        """The object that `basedev bisect` prints."""
        done = self.bench.basedev("--json", "bisect", *words)
        assert done.returncode == code, done.stderr
        return dict(json.loads(done.stdout))


CULPRIT = 44
NUMBER = 70


@pytest.fixture(scope="module")
def history(julia: Distribution, storage: Storage, tmp_path_factory: pytest.TempPathFactory) -> History:
    """Seventy commits: edits of the corpus, comments, documentation, and some that do not build or can't be chained."""
    root = make_checkout(tmp_path_factory.mktemp("history") / "julia", Storage()).path
    bench = Bench(root, storage)
    names = ["norm of -Inf", "bswap of", "rank with", "julian", "limit of", "headers of", "keys of", "names of UUIDs"]
    names += ["flags told", "epoch given", "days of epoch", "count of bytes", "directories of"]
    edits = [edit for name in names for edit in corpus.EDITS if edit.name.startswith(name) and edit.together]
    assert len(edits) == len(names)
    commits: dict[str, str] = {}

    def commit(name: str, *words: str) -> None:
        git(root, "add", "--all")
        git(root, "commit", "--quiet", *words, "-m", name)
        commits[name] = git(root, "rev-parse", "HEAD")

    core = (root / "base/boot.jl").read_text()
    half, more, whole = "\nfunction unfinished(\n", "\nfunction unfinished(x\n", ""
    special: dict[int, tuple[str, Callable[[], object]]] = {
        34: ("another Core", lambda: corpus.apply(root, [one for one in corpus.EDITS if one.name == "Core"])),
        35: ("Core as it was", lambda: (root / "base/boot.jl").write_text(core)),
        CULPRIT: ("turn faster", lambda: bench.edit(ARRAYMATH, "B[m-i,n-j] = A[i,j]", "B[m-i,j] = A[i,j]")),
    }
    for number in (18, CULPRIT - 4, CULPRIT + 1, 53):
        special[number] = (f"half {number}", lambda: bench.append(UTIL, half))
        special[number + 1] = (f"more {number}", lambda: bench.edit(UTIL, half, more))
        special[number + 2] = (f"whole {number}", lambda: bench.edit(UTIL, more, whole))
    git(root, "checkout", "--quiet", "-b", "history")
    for number in range(1, NUMBER + 1):
        if number == 12:
            git(root, "checkout", "--quiet", "-b", "side", "HEAD~3")
            (root / "NEWS").write_text("news\n")
            commit("beside")
            git(root, "checkout", "--quiet", "history")
            git(root, "merge", "--quiet", "--no-ff", "-m", "merged", "side")
        if number in special:
            name, change = special[number]
            change()
        elif number % 4 == 0 and edits:
            edit = edits.pop()
            name = edit.name
            corpus.apply(root, [edit])
        elif number % 2:
            name = f"comment {number}"
            bench.append(SORT, f"# comment {number}\n")
        else:
            name = f"documentation {number}"
            bench.append(ARRAYMATH, f'\n"""\n    documented{number}()\n"""\nfunction documented{number} end\n')
        commit(name)
    assert not edits
    git(root, "checkout", "--quiet", "master")
    done = bench.basedev("init")
    assert done.returncode == 0, done.stderr
    bench.append(SORT, "# an edit under way\n")
    hook = root / ".git/hooks/post-checkout"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\ntouch {shlex.quote(str(root / 'hook-ran'))}\n")
    hook.chmod(0o755)
    return History(bench, commits)


def ends(*more: str) -> list[str]:
    """What every run over the whole history is given."""
    return ["run", "--bad", "history", "--good", "master", "--policy", "skip", *more]


def test_culprit_is_found_and_nothing_else_touched(history: History) -> None:
    before = history.state()
    found = history.run(*ends(), "--", "julia", "-e", CHECK)
    assert history.state() == before
    assert not (history.root / "hook-ran").exists()
    assert list((history.bench.storage.root / "staging").iterdir()) == []
    culprit = history.commits["turn faster"]
    assert found["status"] == "found"
    assert [one["commit"] for one in found["culprits"]] == [culprit]
    assert found["culprits"][0]["author"] == "A. Nobody <nobody@localhost>"
    assert found["culprits"][0]["subject"] == "turn faster"
    assert found["changed_files"] == [ARRAYMATH]
    told = [(one["what"], one["change"]) for one in found["definitions"]["evaluated"]]
    assert told == [("Base.rot180(::AbstractArray{T, 2} where T)", "modified")]
    assert found["definitions"]["deleted"] == []
    skipped = [one["told"] for one in found["tests"] if one["verdict"] == "skip"]
    assert any("it does not build: base/strings/util.jl:" in reason for reason in skipped)
    assert any("it can't be chained: base/boot.jl is the Core module" in reason for reason in skipped)
    assert len(found["tests"]) < 16
    assert f"git bisect bad {culprit}" in found["log"]
    state = history.run("status")
    assert (state["status"], state["culprits"], state["log"]) == ("found", [culprit], found["log"])


def test_killed_and_resumed(history: History, tmp_path: Path) -> None:
    before, log = history.state(), tmp_path / "log"
    script = f'echo $BASEDEV_COMMIT >>{log}; test $(wc -l <{log}) != 5 || sleep 1000; exec julia -e "$0"'
    asked = ends("--", "sh", "-c", script, CHECK)
    with subprocess.Popen(
        history.bench.command("bisect", *asked), cwd=history.root, env=history.bench.environment
    ) as running:
        try:
            wait_until(lambda: log.exists() and log.read_text().count("\n") == 5)
            assert history.run("status")["status"] == "running"
            assert "is under way: end it first" in history.run(*asked, code=2)["errors"][0]["message"]
        finally:
            running.kill()
    state = history.run("status")
    assert state["status"] == "interrupted"
    assert [one["commit"] for one in state["tests"] if one["exit_code"] is not None] == log.read_text().split()[:-1]
    other = history.run(*ends("--", "false"), code=2)
    assert "go on with basedev bisect run --resume" in other["errors"][0]["message"]
    found = history.run("run", "--resume")
    assert [one["commit"] for one in found["culprits"]] == [history.commits["turn faster"]]
    tested = log.read_text().split()
    assert len(set(tested)) == len(tested) - 1  # all once but the one that was under way
    assert history.state() == before


def test_aborted(history: History) -> None:
    before = history.state()
    with subprocess.Popen(
        history.bench.command("bisect", *ends("--", "sh", "-c", "julia -e 'exit(1)'; echo told; sleep 1000")),
        cwd=history.root,
        env=history.bench.environment,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stderr and any(line == "told\n" for line in running.stderr)
        running.kill()
    assert str(history.bench.storage.root) in git(history.root, "worktree", "list")
    assert history.run("abort")["status"] == "aborted"
    assert history.state() == before
    assert history.run("status")["status"] == "none"
    assert history.run("abort")["status"] == "none"
    assert "no bisection was interrupted" in history.run("run", "--resume", code=2)["errors"][0]["message"]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["false"], "is bad: the command fails (exit code 1)"),
        (["true"], "is good: the command succeeds"),
        (["no-such-program"], "the command can't be run: no-such-program"),
    ],
)
def test_wrong_ends_are_told_at_once(history: History, command: list[str], message: str) -> None:
    before = history.state()
    told = history.run(*ends("--", *command), code=2)
    assert message in told["errors"][0]["message"]
    assert history.state() == before
    swapped = history.run("run", "--bad", "master", "--good", "history", "--", *command, code=2)
    assert "exchange them" in swapped["errors"][0]["message"]


def test_skipped_commits_hide_the_culprit(history: History, tmp_path: Path) -> None:
    """A script that git does not have is found, whatever is checked out."""
    names = [f"half {CULPRIT - 4}", f"more {CULPRIT - 4}", f"whole {CULPRIT - 4}"]
    hidden = [history.commits[name] for name in names]
    script = history.root / "check.sh"
    script.write_text(
        f"case $BASEDEV_COMMIT in {git(history.root, 'rev-parse', f'{hidden[0]}~1')}) exit 0;; esac\nexit 9"
    )
    found = history.run("run", "--bad", hidden[2], "--good", f"{hidden[0]}~1", "--", "sh", "check.sh", code=1)
    script.unlink()
    assert found["status"] == "open"
    assert [one["commit"] for one in found["culprits"]] == hidden
    assert "# possible first bad commit" in found["log"]


def test_failure_of_the_tool_is_no_verdict(history: History, tmp_path: Path) -> None:
    """The store's directory is spoilt by the first test: the next image can't be kept."""
    for kind in SHARED:
        (tmp_path / kind).symlink_to(history.bench.storage.root / kind)
    images, before = tmp_path / "images", history.state()
    script = f"test -e {tmp_path}/once || {{ touch {tmp_path}/once; rm -rf {images}; touch {images}; exit 0; }}; exit 3"
    words = ["run", "--bad", history.commits["comment 3"], "--good", "master"]
    private = {"BASEDEV_CACHE": str(tmp_path)}
    done = history.bench.basedev("bisect", *words, "--", "sh", "-c", script, environment=private)
    assert done.returncode == 128, done.stderr
    assert str(images) in done.stderr
    state = json.loads(history.bench.basedev("--json", "bisect", "status", environment=private).stdout)
    assert (state["status"], [one["verdict"] for one in state["tests"]]) == ("interrupted", ["good"])
    images.unlink()
    done = history.bench.basedev("--json", "bisect", "run", "--resume", environment=private)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["culprits"][0]["subject"] == "comment 1"
    assert history.state() == before
    shutil.rmtree(images)
    images.touch()
    history.bench.append(UTIL, "\nspoilt() = 1\n")
    for words in (["step", "--", "true"], ["step"], ["step", "--policy", "any", "--", "true"]):
        done = history.bench.basedev("bisect", *words, environment=private)
        assert done.returncode == 128, done.stderr
    history.bench.edit(UTIL, "\nspoilt() = 1\n", "")


def test_command_that_ends_the_run(history: History) -> None:
    done = history.run(*ends("--", "sh", "-c", "exit 200"), code=128)
    assert "the command exited with 200" in done["errors"][0]["message"]
    assert history.run("status")["tests"] == []
    history.run("abort")


def test_step_under_git(history: History, tmp_path: Path) -> None:
    """In a worktree of the user's, with git's own bisection."""
    root = tmp_path / "julia"
    git(history.root, "-c", "core.hooksPath=/dev/null", "worktree", "add", "--quiet", str(root), "history")
    make_checkout(root, Storage())
    bench = Bench(root, history.bench.storage)
    assert bench.basedev("init").returncode == 0
    head = git(root, "rev-parse", "HEAD")
    assert CommitCheckout(history.root, head).sources().blobs == Checkout(root).sources().blobs
    git(root, "-c", "core.hooksPath=/dev/null", "bisect", "start", "history", f"{history.commits['turn faster']}~6")
    step = bench.command("bisect", "step", "--policy", "skip", "--", "julia", "-e", CHECK)
    done = subprocess.run(
        ["git", "-c", "core.hooksPath=/dev/null", "bisect", "run", *step],
        cwd=root,
        env=bench.environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert f"{history.commits['turn faster']} is the first bad commit" in done.stdout
    assert "basedev: skipped: it does not build" in done.stderr
    git(root, "bisect", "reset")
    git(history.root, "worktree", "remove", "--force", str(root))
