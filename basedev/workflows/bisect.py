"""`basedev bisect`: the first commit on whose image a command fails, found in a worktree of basedev's own.

What is known is kept in a journal, so that a run that was interrupted, however that happened, goes on where it was. A
failure of basedev itself says nothing about a commit: it ends the run.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import git

from ..bisection import Choice, Graph
from ..checkout import Checkout
from ..choice import CHAINED_WITHOUT_CUTOFF
from ..commits import CommitCheckout, commit_named
from ..config import Config
from ..engines import Progress
from ..errors import NeedsFullRebuild, SetupError, UsageError, UserCodeError
from ..process import die_with_parent, exit_code
from ..repository import repository
from ..revision import Definition, as_json
from ..sizes import counted
from ..storage import Storage, digest_of, disk_errors
from ..syntax import statements
from ..worktree import Worktree
from .adopting import adopt
from .ahead import Ahead
from .build import CHAINED, FULL, ImageBuilder, Result
from .builders import builder_for

SKIP, ABORT = 125, 128
"""Exit codes of a command, as `git bisect run` has them: can't be tested; from here on, tells nothing."""

LOCAL_ENVIRONMENT = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_COMMON_DIR", "GIT_NAMESPACE")
"""By these, git takes another repository or tree for that of the current directory."""

SCHEMA = 1
SHORT = 10

Verdict = Literal["good", "bad", "skip"]
Steps = Callable[[], AbstractContextManager[Progress]]
"""Makes a display for the steps of one build."""


class Untestable(Exception):
    """A commit of which no image is made. `str()` is the reason, one line."""


@dataclass(frozen=True)
class Test:
    """What came of one commit."""

    commit: str
    verdict: Verdict
    told: str
    """How its image came about, or why there is none."""
    build: float = 0.0
    """Seconds until the image was there."""
    test: float = 0.0
    """Seconds that the command ran."""
    exit_code: int | None = None


@dataclass
class Record:
    """A bisection: what was asked for, and what is known. Its journal is this as JSON."""

    bad: str
    good: list[str]
    first_parent: bool
    policy: str
    check: bool
    command: list[str]
    tests: list[Test] = field(default_factory=list)
    culprits: list[str] = field(default_factory=list)
    """In the end: the first bad commit, or all that it may be."""

    @property
    def request(self) -> tuple[object, ...]:
        """What was asked for."""
        return self.bad, self.good, self.first_parent, self.policy, self.check, self.command

    @property
    def seconds(self) -> float:
        """What all tests took."""
        return sum(one.build + one.test for one in self.tests)

    def verdict(self, commit: str) -> Test | None:
        """What came of a commit, if it was tested."""
        return next((one for one in self.tests if one.commit == commit), None)

    def choose(self, graph: Graph, also: Mapping[str, Verdict] = MappingProxyType({})) -> Choice:
        """What to do next, if commits had the verdicts `also` besides those that are known."""
        known = {**{one.commit: one.verdict for one in self.tests}, **also}
        bad = [commit for commit, verdict in known.items() if verdict == "bad"]
        good = [commit for commit, verdict in known.items() if verdict == "good"]
        skipped = {commit for commit, verdict in known.items() if verdict == "skip"}
        return graph.choose((self.bad, *bad)[-1], [*self.good, *good], skipped)

    def log(self, repo: git.Repo) -> str:
        """It as `git bisect log` would tell it, for `git bisect replay`."""

        def line(what: str, commit: str) -> str:
            return f"# {what}: [{commit}] {repo.commit(commit).summary!s}"

        start = ["--first-parent"] if self.first_parent else []
        lines = [line("bad", self.bad), *(line("good", commit) for commit in self.good)]
        lines.append(shlex.join(["git", "bisect", "start", *start, self.bad, *self.good]))
        for one in self.tests:
            if one.commit not in (self.bad, *self.good):
                lines += [line(one.verdict, one.commit), f"git bisect {one.verdict} {one.commit}"]
        what = "first bad commit" if len(self.culprits) == 1 else "possible first bad commit"
        return "\n".join([*lines, *(line(what, commit) for commit in self.culprits)])


@dataclass(frozen=True)
class CommitInfo:
    """A commit as a person knows it."""

    commit: str
    author: str
    date: str
    subject: str

    @classmethod
    def of(cls, repo: git.Repo, commit: str) -> CommitInfo:
        """What git tells of a commit."""
        found = repo.commit(commit)
        author = f"{found.author.name} <{found.author.email}>"
        return cls(commit, author, found.authored_datetime.isoformat(" "), str(found.summary))


@dataclass(frozen=True)
class Outcome:
    """What a bisection found."""

    record: Record
    log: str
    culprits: tuple[CommitInfo, ...]
    files: tuple[str, ...]
    """Those that the culprit changed."""
    definitions: tuple[Definition, ...] | None
    """Those that are something else in the culprit than in its parent; None where that can't be told."""

    @property
    def status(self) -> str:
        """ "found", or "open" where skipped commits hide the culprit."""
        return "found" if len(self.culprits) == 1 else "open"

    def to_json(self) -> dict[str, Any]:
        """The object that `--json` prints, with `definitions` of the culprit's own."""
        return {
            "status": self.status,
            "culprits": [vars(one) for one in self.culprits],
            "changed_files": list(self.files),
            "definitions": as_json(self.definitions or ()),
            "tests": [asdict(one) for one in self.record.tests],
            "seconds": round(self.record.seconds, 2),
            "log": self.log,
        }


@dataclass(frozen=True)
class State:
    """What `status` tells."""

    status: str
    """"none", "running", "interrupted", or that of the outcome."""
    record: Record | None = None
    log: str = ""

    def to_json(self) -> dict[str, Any]:
        """The object that `--json` prints."""
        told: dict[str, Any] = {"status": self.status, "log": self.log}
        if self.record:
            told |= {"tests": [asdict(one) for one in self.record.tests], "culprits": self.record.culprits}
        return told


class Bisector:
    """Bisections of one checkout's repository, of which there is one at a time."""

    def __init__(
        self, checkout: Checkout, storage: Storage, config: Config, steps: Steps, tell: Callable[[str], None]
    ) -> None:
        for name in LOCAL_ENVIRONMENT:
            os.environ.pop(name, None)
        try:
            self._repo = repository(checkout.tree)
        except git.GitError as error:
            raise UsageError(f"{checkout.tree} is no git repository: there are no commits to bisect") from error
        self.checkout, self.storage, self.config = checkout, storage, config
        self._steps, self._tell = steps, tell
        self._name = digest_of(os.fspath(checkout.root.resolve()))[:20]
        self._place = storage.root / "bisections" / self._name
        self._ahead: Ahead | None = None

    def asked(
        self, bad: str, good: Sequence[str], command: Sequence[str], *, first_parent: bool, policy: str, check: bool
    ) -> Record:
        """A bisection with nothing known. Raises UsageError when a commit is none, or the policy is not for this."""
        _check_policy(self.checkout, policy)
        words = [self._placed(word) if "/" in word or number else word for number, word in enumerate(command)]
        return Record(self._commit(bad), [self._commit(one) for one in good], first_parent, policy, check, words)

    def run(self, asked: Record | None) -> Outcome:
        """Finds the first bad commit, or goes on with what was interrupted, which is all to do without `asked`.

        Raises UsageError when an end is not what it was named, SetupError or InternalError when the tool or the
        command failed in a way that tells nothing of the commit; then it may be run again.
        """
        with self._alone():
            record = self._begun(asked)
            with self._steps() as progress:
                builder_for(self.checkout, self.storage, progress)
            bases = self._merge_bases(record)
            words = ["--topo-order", "--parents", *(["--first-parent"] if record.first_parent else [])]
            graph = Graph.read(
                self._repo.git.rev_list(*words, record.bad, "--not", *record.good), first_parent=record.first_parent
            )
            self._save(record)
            try:
                with Worktree.of(self.checkout, self._place / "basedev-bisect") as tree:
                    self._check_ends(record, bases, graph, tree)
                    culprits = self._narrow(record, graph, tree)
            except KeyboardInterrupt:
                self._tell("what is known is kept: go on with basedev bisect run --resume")
                raise
            finally:
                self._end_ahead()
            record.culprits = list(culprits)
            self._save(record)
        return self._outcome(record)

    def status(self) -> State:
        """Where the bisection stands, or how the last one ended."""
        record = self._load()
        if record is None:
            return State("none")
        log = record.log(self._repo)
        if record.culprits:
            return State("found" if len(record.culprits) == 1 else "open", record, log=log)
        try:
            with self._alone():
                return State("interrupted", record, log=log)
        except UsageError:
            return State("running", record, log=log)

    def abort(self) -> bool:
        """Forgets the bisection and what is left of it. Returns whether there was one."""
        with self._alone():
            if not self._place.exists():
                return False
            self._forget()
            return True

    @contextmanager
    def _alone(self) -> Iterator[None]:
        def running() -> None:
            raise UsageError(
                f"a bisection of {self.checkout.root} is under way: end it first, with Ctrl-C where it runs"
            )

        with self.storage.lock(f"bisect-{self._name}", waiting=running):
            yield

    def _placed(self, word: str) -> str:
        """A word of the command: a file that git does not have, and so no worktree has, by its full path."""
        path = Path.cwd() / word
        if Path(word).is_absolute() or not path.is_file():
            return word
        root = self.checkout.tree.resolve()
        if root in path.resolve().parents and self._repo.git.ls_files("--", os.fspath(path.resolve())):
            return word
        return os.fspath(path)

    def _commit(self, name: str) -> str:
        return commit_named(self.checkout.tree, name)

    # The journal

    def _begun(self, asked: Record | None) -> Record:
        """The record to go on with. Raises UsageError when there is none, or one of something else."""
        before = self._load()
        if before and not before.culprits:
            if asked is None or asked.request == before.request:
                self._tell(f"going on with what {len(before.tests)} tests told")
                return before
            if before.tests:
                raise UsageError(
                    f"a bisection up to {before.bad[:SHORT]} was interrupted: go on with basedev bisect run --resume, "
                    "or forget it with basedev bisect abort"
                )
        if asked is None:
            raise UsageError("no bisection was interrupted: name the commits with --bad and --good")
        return asked

    def _load(self) -> Record | None:
        try:
            data = json.loads((self._place / "journal.json").read_text())
            if data.pop("schema") != SCHEMA:
                raise ValueError
            return Record(**{**data, "tests": [Test(**one) for one in data["tests"]]})
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise SetupError(f"{self._place} can't be read: forget it with basedev bisect abort") from error

    def _save(self, record: Record) -> None:
        self.storage.directory("bisections")
        journal = self._place / "journal.json"
        with disk_errors("write the bisection's journal"):
            self._place.mkdir(exist_ok=True, mode=0o700)
            with journal.with_suffix(".new").open("w") as file:
                json.dump({"schema": SCHEMA, **asdict(record)}, file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            journal.with_suffix(".new").replace(journal)

    def _forget(self) -> None:
        Worktree(self.checkout, self._place / "basedev-bisect").remove()
        with disk_errors("remove the bisection's journal"):
            shutil.rmtree(self._place)

    # The search

    def _merge_bases(self, record: Record) -> list[str]:
        """Where good commits that are not in the bad one's history left it: they must be good too."""
        bases: dict[str, None] = {}
        for good in record.good:
            found = self._repo.merge_base(record.bad, good, "--all")
            these = [str(one.hexsha) for one in found if one is not None]
            if not these:
                raise UsageError(f"{good[:SHORT]} and {record.bad[:SHORT]} have no history in common")
            if record.bad in these:
                raise UsageError(
                    f"the good commit {good[:SHORT]} is not before the bad one, {record.bad[:SHORT]}: exchange them, "
                    "and let the command fail where what is sought is there"
                )
            bases.update(dict.fromkeys(one for one in these if one != good))
        return list(bases)

    def _check_ends(self, record: Record, bases: Sequence[str], graph: Graph, tree: Worktree) -> None:
        ends: list[tuple[str, Verdict]] = []
        if record.check:
            ends = [*((commit, "good") for commit in record.good), (record.bad, "bad")]
        ends += [(base, "good") for base in bases if (base, "good") not in ends]
        first = record.choose(graph).commit
        order = [*(commit for commit, _ in ends), *([first] if first else [])]
        for number, (commit, expected) in enumerate(ends):
            name = "merge base" if commit in bases else expected
            test = record.verdict(commit)
            if test is None:
                self._tell(f"checking the {name} commit {self._named(commit)}")
                test = self._test(record, commit, order[number + 1 :], tree)
            if test.verdict == expected:
                continue
            if test.verdict == "skip" and commit in bases:
                self._tell(f"the merge base can't be tested; it is taken for good: {test.told}")
                continue
            self._forget_journal()
            if test.verdict == "skip":
                raise UsageError(
                    f"the {name} commit {commit[:SHORT]} can't be tested: {test.told}; name another, or add --no-check"
                )
            what = "succeeds" if test.verdict == "good" else f"fails (exit code {test.exit_code})"
            mended = ": what is sought was mended there" if commit in bases else ""
            raise UsageError(f"the {name} commit {commit[:SHORT]} is {test.verdict}: the command {what}{mended}")

    def _forget_journal(self) -> None:
        """So that the next run, with what was wrong mended, tests again."""
        with disk_errors("remove the bisection's journal"):
            (self._place / "journal.json").unlink()

    def _narrow(self, record: Record, graph: Graph, tree: Worktree) -> tuple[str, ...]:
        while (choice := record.choose(graph)).commit:
            commit = choice.commit
            mean = record.seconds / len(record.tests) if record.tests else 0.0
            expected = f", {mean * (choice.steps + 1):.0f} s" if mean else ""
            steps = f"about {counted(choice.steps + 1, 'test')}{expected}"
            self._tell(f"{counted(choice.left, 'commit')} left, {steps}: {self._named(commit)}")
            verdicts: tuple[Verdict, ...] = ("good", "bad")
            after = [record.choose(graph, {commit: verdict}).commit for verdict in verdicts]
            self._test(record, commit, [one for one in after if one], tree)
        return choice.culprits

    def _test(self, record: Record, commit: str, upcoming: Sequence[str], tree: Worktree) -> Test:
        """Tests a commit, while images of those that may be next are made. Its verdict is in the journal then."""
        begin = time.monotonic()
        try:
            result = self._image(record, commit, upcoming, tree)
        except Untestable as reason:
            test = Test(commit, "skip", str(reason), build=time.monotonic() - begin)
            self._tell(f"{commit[:SHORT]} is skipped: {test.told}")
        else:
            ready = time.monotonic()
            assert result.image is not None
            code = run_command(record.command, tree.checkout, result.image, self.storage, commit, output=2)
            end = time.monotonic()
            if code >= ABORT:
                raise SetupError(
                    f"the command exited with {code} at {commit[:SHORT]}, which ends the run: mend it and go on with "
                    "basedev bisect run --resume"
                )
            verdict: Verdict = "good" if code == 0 else "skip" if code == SKIP else "bad"
            test = Test(commit, verdict, _how(result), ready - begin, end - ready, code)
            times = f"{test.told} after {test.build:.1f} s, tested in {test.test:.1f} s"
            self._tell(f"{commit[:SHORT]} is {'skipped by the command' if code == SKIP else verdict}: {times}")
        record.tests.append(test)
        self._save(record)
        return test

    def _image(self, record: Record, commit: str, upcoming: Sequence[str], tree: Worktree) -> Result:
        before, self._ahead = self._ahead, None
        try:
            if before and not before.is_making(commit):
                before.end()
                before = None
            missing = [one for one in upcoming if record.verdict(one) is None][:2]
            if missing:
                self._ahead = Ahead(self.checkout, self.storage, missing)
            tree.check_out(commit)
            if self.checkout.is_patched:
                tree.complete_built()
                at = CommitCheckout(self.checkout.root, commit)
                return make_image(at, self.storage, self.config, record.policy, self._steps)
            distribution = self.checkout.distribution
            if not tree.checkout.has_sources:
                raise Untestable("it has no sources of Julia")
            version = tree.checkout.version or "of no known version"
            if version != distribution.version:
                raise Untestable(f"it is Julia {version}, and the base image is Julia {distribution.version}")
            tree.complete(distribution)
            return make_image(tree.checkout, self.storage, self.config, record.policy, self._steps)
        finally:
            if before:
                before.end()

    def _end_ahead(self) -> None:
        if self._ahead:
            self._ahead.end()
            self._ahead = None

    def _named(self, commit: str) -> str:
        return f"{commit[:SHORT]} {self._repo.commit(commit).summary!s}"

    # The result

    def _outcome(self, record: Record) -> Outcome:
        culprits = tuple(CommitInfo.of(self._repo, commit) for commit in record.culprits)
        files: tuple[str, ...] = ()
        definitions: tuple[Definition, ...] | None = None
        if len(culprits) == 1:
            culprit = self._repo.commit(culprits[0].commit)
            parent = culprit.parents[0]
            differing = self._repo.git.diff_tree("-r", "-z", "--name-only", "--no-renames", parent, culprit)
            files = tuple(path for path in differing.split("\0") if path)
            with self._steps() as progress:
                both = [
                    builder_for(CommitCheckout(self.checkout.root, one.hexsha), self.storage, progress)
                    for one in (parent, culprit)
                ]
                try:
                    definitions = tuple(_changed(*map(_states, both)))
                except (NeedsFullRebuild, UserCodeError):
                    definitions = None
        return Outcome(record, record.log(self._repo), culprits, files, definitions)


def step(
    checkout: Checkout,
    storage: Storage,
    config: Config,
    policy: str,
    command: Sequence[str],
    steps: Steps,
    tell: Callable[[str], None],
) -> int:
    """Tests the present sources for `git bisect run`; returns the exit code for it.

    Raises UsageError, SetupError or InternalError when nothing was found out.
    """
    _check_policy(checkout, policy)
    try:
        commit = checkout.commit if checkout.is_patched else None
        if commit and (reason := CommitCheckout(checkout.root, commit).unlike_base()):
            raise Untestable(f"it can't be chained: {reason}")
        result = make_image(checkout, storage, config, policy, steps)
    except Untestable as reason:
        tell(f"skipped: {reason}")
        return SKIP
    assert result.image is not None
    return run_command(command, checkout, result.image, storage, checkout.commit or "")


def _check_policy(checkout: Checkout, policy: str) -> None:
    if checkout.is_patched and policy == "rebuild":
        raise UsageError(
            "--policy rebuild is for checkouts of Julia 1.5, since make would build in your tree:"
            " leave it out, and commits that can't be chained are skipped"
        )


def make_image(checkout: Checkout, storage: Storage, config: Config, policy: str, steps: Steps) -> Result:
    """The image for a checkout's present sources. Raises Untestable when it is the sources that stand in the way, or
    the policy."""
    allowed = not checkout.is_patched and config.full_rebuild and config.engine not in (CHAINED, CHAINED_WITHOUT_CUTOFF)
    may_rebuild = policy == "rebuild" or (policy == "chain" and allowed)
    engine = FULL if config.engine == FULL and may_rebuild else None
    with steps() as progress:
        if not checkout.is_patched and not checkout.base_record.exists():
            adopt(checkout, storage, progress)
        try:
            return builder_for(checkout, storage, progress).build(engine=engine, may_rebuild=may_rebuild)
        except UserCodeError as error:
            raise Untestable(f"it does not build: {error.message}") from error
        except NeedsFullRebuild as reason:
            raise Untestable(f"it can't be chained: {reason}") from reason


def run_command(
    command: Sequence[str],
    checkout: Checkout,
    image: Path,
    storage: Storage,
    commit: str,
    *,
    output: int | None = None,
) -> int:
    """Runs a command in a checkout, where `julia` starts on the image, and returns its exit code (128 + n after signal
    n). What it prints goes to the file descriptor `output`.

    Raises UsageError when it can't be started.
    """
    with storage.staging("bisect") as made:
        shim = made / "julia"
        words = shlex.join([str(checkout.julia), "-J", str(image)])
        shim.write_text(f'#!/bin/sh\nexec {words} "$@"\n', errors="surrogateescape")
        shim.chmod(0o755)
        environment = {
            **os.environ,
            "PATH": f"{made}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "BASEDEV_IMAGE": str(image),
            "BASEDEV_JULIA": str(checkout.julia),
            "BASEDEV_COMMIT": commit,
        }
        program = shutil.which(command[0], path=environment["PATH"]) if "/" not in command[0] else command[0]
        try:
            running = subprocess.Popen(
                [program or command[0], *command[1:]],
                cwd=checkout.tree,
                env=environment,
                stdout=output,
                preexec_fn=die_with_parent,
            )
        except OSError as error:
            raise UsageError(f"the command can't be run: {command[0]}: {error.strerror}") from error
        try:
            status = running.wait()
        except BaseException:  # Ctrl-C, which it got too
            running.kill()
            running.wait()
            raise
    return exit_code(status)


def _how(result: Result) -> str:
    if result.status == "built":
        return "rebuilt in full" if result.engine == FULL else "chained"
    return "the base image" if result.status == "current" else "image there"


Key = tuple[str, str, bool]
"""What a definition is called, its file, and whether it is the documentation only."""


def _states(builder: ImageBuilder) -> dict[Key, tuple[Definition, object]]:
    """What the definitions of a commit are, as far as they are not those of the base image: each of them, with what is
    equal when it means the same in another commit.

    Raises UserCodeError when the sources do not parse or evaluate, NeedsFullRebuild when nothing is known of them.
    """
    plan = builder.plan()
    if plan.full_rebuild_reason and not plan.definitions:
        raise NeedsFullRebuild(plan.full_rebuild_reason)
    contents = builder.checkout.sources(builder.base.sources).contents
    paths = sorted({one.path for one in plan.definitions if one.change != "deleted"})
    texts = [contents[path] for path in paths]
    parsed = builder.parse_all(texts)
    read = {path: statements(tree, text, path) for path, tree, text in zip(paths, parsed, texts, strict=True)}
    found: dict[Key, tuple[Definition, object]] = {}
    for one in plan.definitions:
        state: object = one.change
        if one.change != "deleted" and not one.what.startswith("export "):
            around = [each for each in read[one.path] if each.line <= one.line <= each.last_line]
            documented = one.change == "documented"
            state = [(each.documentation if documented else each.tree) for each in around]
        # Julia numbers the names that it makes anew in each session
        found[re.sub(r"#\w*\d", "#", one.what), one.path, one.change == "documented"] = one, state
    return found


def _changed(
    before: dict[Key, tuple[Definition, object]], after: dict[Key, tuple[Definition, object]]
) -> Iterator[Definition]:
    """What leads from one commit's definitions to another's, both known by how they differ from the base image's."""
    for key in sorted(before.keys() | after.keys()):
        old, new = before.get(key), after.get(key)
        if old and new and old[1] == new[1]:
            continue
        one, _ = new or before[key]
        was_there = old[0].change != "deleted" if old else one.change != "added"
        is_there = new[0].change != "deleted" if new else one.change != "added"
        change = one.change
        if change != "documented":
            change = "modified" if was_there and is_there else "added" if is_there else "deleted"
        yield Definition(one.what, one.path, one.line, change)
