"""The command line: a thin skin over the workflows. Parses arguments, prints, and maps errors to exit codes.

Exit codes: 0 done; 1 the edited sources are at fault, or tests failed; 2 usage; 3 something needed is missing;
4 a defect; 5 an edit invalidates more than is allowed (`impact`).
"""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from . import __version__
from .adopted import is_adopted
from .checkout import Checkout
from .command_images import add_verbs
from .command_impact import add_arguments, count
from .config import ENGINES, POLICIES, Config, load_config
from .errors import (
    BasedevError,
    InternalError,
    NeedsFullRebuild,
    OutputError,
    SetupError,
    UsageError,
    UserCodeError,
    exit_code,
)
from .places import HOOKS
from .shells import SHELLS
from .sizes import parse_size
from .storage import Storage
from .terminal import Terminal
from .workflows.autoload import shell_code
from .workflows.background import Background
from .workflows.build import FULL, Builder, Result
from .workflows.builders import builder_for, initialise
from .workflows.run import become_julia, run_julia
from .workflows.testing import check_names, tests_for

INTERRUPTED = 130


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        hint = " (those for julia come after --)" if message.startswith("unrecognized arguments") else ""
        raise UsageError(f"{message}{hint}; see {self.prog} --help")


def _verbs(parser: argparse.ArgumentParser) -> Callable[[str, str, str], argparse.ArgumentParser]:
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True, parser_class=_Parser)

    def verb(name: str, help: str, example: str) -> argparse.ArgumentParser:
        description = help[0].upper() + help[1:] + "."
        return verbs.add_parser(name, help=help, description=description, epilog=f"example: {example}")

    return verb


def parser_of_arguments() -> argparse.ArgumentParser:
    """What reads the command line."""
    parser = _Parser(
        prog="basedev",
        description="An edit of Julia's Base in a runnable system image, in seconds.",
        epilog="example: basedev -C ~/julia build",
    )
    parser.add_argument("-C", dest="directory", metavar="DIR", type=Path, default=Path(), help="work in this checkout")
    parser.add_argument("--json", action="store_true", help="print one JSON object on standard output")
    parser.add_argument("--version", action="version", version=f"basedev {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=_Parser)

    def command(name: str, help: str, example: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name,
            help=help,
            description=help[0].upper() + help[1:] + ".",
            epilog=f"example: {example}",
        )

    def making(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--engine", choices=ENGINES, help="how to make the image (default: auto)")
        parser.add_argument(
            "--full-rebuild",
            action=argparse.BooleanOptionalAction,
            help="rebuild in full, in minutes, where nothing else is right, or fail with the reason (default: rebuild)",
        )

        parser.add_argument(
            "--server",
            action=argparse.BooleanOptionalAction,
            help="use a warm server, and start it (default: use)",
        )

    init = command("init", "adopt a checkout and make its base image, once", "basedev -C ~/julia init")
    trust = "let the checkout's own .basedev.toml, as it is now, have builds start by themselves (autobuild)"
    init.add_argument("--trust", action="store_true", help=trust)
    command("status", "what differs from the base image, and what build would do", "basedev status")
    build = command("build", "make the image for the present sources", "basedev build")
    making(build)
    build.add_argument("--background", action="store_true", help="return at once; status tells what came of it")
    run = command("run", "start julia on the image for the present sources", "basedev run -- -e 'versioninfo()'")
    making(run)
    run.add_argument("--replay", action="store_true", help="load the revision at start-up instead of making an image")
    run.add_argument("arguments", nargs="*", metavar="ARG", help="arguments for julia, after --")
    test = command("test", "run the checkout's own tests on the image", "basedev test strings/basic dict")
    making(test)
    test.add_argument("names", nargs="*", metavar="NAME", help="tests; without, those of the changed files")
    impact = "what an edit invalidates and through which calls, before anything is compiled"
    add_arguments(command("impact", impact, "basedev impact --compare master HEAD --html impact.html"))
    watch = command("watch", "build in the background whenever sources are saved", "basedev watch --test strings/basic")
    making(watch)
    watch.add_argument(
        "--test", nargs="*", metavar="NAME", help="run these tests after each build; without names, the changed files'"
    )
    watch.add_argument("--exec", dest="hook", metavar="COMMAND", help="run this with sh after each result")
    watch.add_argument("--once", action="store_true", help="end after the first result")
    revision = command("revision", "the revision from the base image as a file", "basedev revision export -o fix.jl")
    verb = _verbs(revision)
    show = verb("show", "what a revision does, and where it comes from", "basedev revision show fix.jl")
    show.add_argument("file", nargs="?", metavar="FILE", type=Path, help="without, that of the present sources")
    export = verb("export", "write the revision to the present sources", "basedev revision export -o fix.jl")
    export.add_argument("-o", dest="output", metavar="FILE", type=Path, help="write there, not to standard output")
    export.add_argument("--force", action="store_true", help="overwrite FILE if it is there")
    apply = verb("apply", "make the image of a revision in a file", "basedev revision apply fix.jl")
    apply.add_argument("file", metavar="FILE", type=Path, help="a file that export wrote")
    images = command("images", "the images in the cache directory: list, pin, collect, verify", "basedev images list")
    add_verbs(_verbs(images))
    verb = _verbs(command("serve", "the warm server that makes builds faster", "basedev serve status"))
    verb("start", "start the server of this checkout's base image; builds do so by themselves", "basedev serve start")
    for name, help in (("stop", "end the server of this checkout's base image"), ("status", "what servers run")):
        every = verb(name, help, f"basedev serve {name} --all")
        every.add_argument("--all", action="store_true", help="those of all base images in the cache directory")
    _add_patch(command("patch", "what Julia's current runtime needs for chained images", "basedev patch apply"))
    _add_bisect(command("bisect", "find the commit that broke something", "basedev bisect status"))
    verify = command(
        "verify",
        "compare the chained image with a full rebuild of the same sources, in minutes",
        "basedev verify --tests strings/basic",
    )
    verify.add_argument("--tests", nargs="+", default=[], metavar="NAME", help="tests to run on both images too")
    verify.add_argument("--max", type=count, default=20, metavar="N", help="differences to show (default: 20)")
    doctor = command("doctor", "check everything that basedev depends on, and say what to do", "basedev doctor")
    doctor.add_argument("--checksums", action="store_true", help="read all that is stored, in some seconds a GiB")
    hook = command("hook", "git hooks that build in the background", "basedev hook install")
    hook.add_argument("verb", choices=("install", "status", "remove"), help="what to do")
    hook.add_argument("--hooks", metavar="NAMES", help=f"some of {','.join(HOOKS)} (default: all)")
    hook.add_argument("--force", action="store_true", help="install in a shared directory of hooks")
    shell_init = command(
        "shell-init", "code for a shell that puts a julia for the present sources in front", "basedev shell-init bash"
    )
    shell_init.add_argument("shell", nargs="?", choices=SHELLS, help="the shell (default: from $SHELL)")
    completion = command("completion", "code with which a shell completes basedev's words", "basedev completion bash")
    completion.add_argument("shell", choices=SHELLS, help="the shell")
    return parser


def _add_patch(parser: argparse.ArgumentParser) -> None:
    verb = _verbs(parser)
    check = verb("check", "see whether they can be applied", "basedev patch check v1.12.0..release-1.12")
    check.add_argument("revisions", nargs="*", metavar="REV", help="revisions of git, or ranges; without, the files")
    verb("apply", "apply them to the working tree", "basedev patch apply")
    verb("revert", "take them out of the working tree", "basedev patch revert")
    verb("status", "what of them the working tree has", "basedev patch status")
    export = verb("export", "write them as patches for git am, for HEAD", "basedev patch export -o ../chained")
    export.add_argument("-o", dest="output", metavar="DIR", type=Path, default=Path("chained-patches"), help="where to")


def _add_bisect(parser: argparse.ArgumentParser) -> None:
    verb = _verbs(parser)

    def testing(parser: argparse.ArgumentParser) -> None:
        policy = "a commit that can't be chained: as the configuration says (chain), rebuild in full, or skip"
        parser.add_argument("--policy", choices=POLICIES, default="chain", help=policy)
        parser.add_argument("arguments", nargs="*", metavar="COMMAND", help="what fails on a bad commit, after --")

    run = verb(
        "run",
        "find the first commit on whose image COMMAND fails",
        'basedev bisect run --bad HEAD --good v1.5.3 -- julia -e \'exit(chomp("a") != "a")\'',
    )
    run.add_argument("--bad", metavar="COMMIT", help="one on which COMMAND fails")
    run.add_argument("--good", metavar="COMMIT", action="append", default=[], help="one on which it succeeds; or more")
    run.add_argument("--first-parent", action="store_true", help="look at merges as wholes, not at what they brought")
    run.add_argument("--no-check", action="store_true", help="don't see first that the ends are what they are named")
    run.add_argument("--resume", action="store_true", help="go on with a run that was interrupted")
    testing(run)
    testing(verb("step", "test the present sources, for git bisect run", "basedev bisect step -- julia check.jl"))
    verb("status", "what is known, as git bisect log tells it", "basedev bisect status")
    verb("abort", "forget a run that was interrupted", "basedev bisect abort")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name that this terminal can't show is no failure
    # It may stand behind the command too.
    own = words[: words.index("--")] if "--" in words else words
    terminal = Terminal(as_json="--json" in own)
    if terminal.as_json:
        words = ["--json", *(word for word in own if word != "--json"), *words[len(own) :]]
    try:
        return _run(parser_of_arguments().parse_args(words), terminal)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with suppress(OutputError):
            terminal.interrupted()
        return INTERRUPTED
    except OutputError as problem:
        # What could not be written is not to be tried again when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        error: BasedevError = SetupError(f"the result can't be written to standard output: {problem.strerror}")
    except BasedevError as problem:
        error = problem
    except ImportError:  # of a package that is only loaded when it is needed
        raise
    except OSError as problem:
        where = f"{problem.filename}: " if problem.filename else ""
        error = SetupError(f"cannot go on: {where}{problem.strerror or problem}")
    except Exception as problem:
        what = f"{type(problem).__name__}: {problem}".splitlines()[0]
        error = InternalError(
            f"a defect of basedev: {what}; please report it with what follows", traceback.format_exc()
        )
    with suppress(OutputError):
        terminal.error(error)
    return exit_code(error.exit_code, words)


def _run(options: argparse.Namespace, terminal: Terminal) -> int:
    if options.command == "images":
        return _images(options, terminal)
    if options.command == "patch":
        return _patch(options, terminal)
    if options.command == "completion":
        from . import completion, usage

        terminal.code(completion.code(options.shell, usage.read(parser_of_arguments())))
        return 0
    if options.command == "doctor":
        return _doctor(options, terminal)
    storage = Storage()
    if options.command == "shell-init":
        terminal.code(shell_code(options.shell, storage))
        return 0
    if options.command == "serve":
        return _serve(storage, options, terminal)
    checkout = Checkout.find(options.directory)
    background = Background(checkout.root, storage)
    if options.command == "build" and options.background:
        if not is_adopted(storage, checkout.root):  # hooks and the julia in front ask for this
            raise SetupError(f"{checkout.root} was not adopted by you: run basedev init")
        if not background.detach():
            terminal.queued(background.log)
            return 0
        terminal = Terminal(as_json=False)
    config = load_config(checkout.root)
    storage.sweep()
    if options.command == "hook":
        return _hook(checkout, background, options, terminal)
    if options.command == "init":
        with terminal.steps() as steps:
            base = initialise(checkout, storage, steps, terminal.message, trust=options.trust)
        if terminal.as_json:
            terminal.json({"status": "ready", "base_id": base.id, "image": str(base.sysimage), "errors": []})
        else:
            terminal.message(f"{checkout.root} is ready: base image {base.id}")
        return 0
    if options.command == "status":
        with terminal.steps() as steps:
            plan = builder_for(checkout, storage, steps).plan()
        terminal.status(plan, background.report())
        return 0
    if options.command == "bisect":
        return _bisect(checkout, storage, config, options, terminal)
    if options.command == "revision":
        return _revision(checkout, storage, options, terminal)
    if options.command == "impact":
        return _impact(checkout, storage, options, terminal)
    if options.command == "watch":
        return _watch(checkout, options, terminal)
    if options.command == "run" and options.replay:
        return _replay(checkout, storage, options, terminal)
    if options.command == "test":
        check_names(options.names, checkout.root)
    if options.command == "verify":
        from .workflows.verify import verify

        check_names(options.tests, checkout.root)
        with terminal.steps() as steps:
            found = verify(Builder(checkout, storage, steps), options.tests)
        terminal.verified(found, options.max)
        return InternalError.exit_code if found.differences else 0
    if options.command == "build" and options.background:
        done = background.run(
            lambda: checkout.sources().id, lambda: _build(checkout, storage, config, options, terminal)
        )
        if done:
            terminal.built(done)
        return 0
    result = _build(checkout, storage, config, options, terminal)
    if options.command == "build":
        terminal.built(result)
        return 0
    assert result.image is not None
    if options.command == "run":
        arguments, cwd = options.arguments, None
    else:
        names = options.names or tests_for(result.changed_files, checkout.root / "test")
        if not names:
            raise UsageError("no source file differs from the base image: name the tests to run")
        if not options.names:
            terminal.message(f"tests of the changed files: {' '.join(names)}")
        arguments, cwd = ["runtests.jl", *names], checkout.root / "test"
    if terminal.as_json:
        code = run_julia(checkout, result.image, arguments, cwd)
        terminal.json({**result.to_json(), "exit_code": code})
        return code
    return become_julia(checkout, result.image, arguments, cwd)


def _images(options: argparse.Namespace, terminal: Terminal) -> int:
    from . import command_images
    from .workflows.images import Images

    try:
        checkout = Checkout.find(options.directory)
    except UsageError:
        if options.directory != Path():
            raise
        checkout = None
    storage = Storage()
    leftovers = storage.sweep()
    budget = parse_size(load_config(checkout.root if checkout else None).budget)
    return command_images.run(Images(checkout, storage, budget), options, leftovers, terminal)


def _serve(storage: Storage, options: argparse.Namespace, terminal: Terminal) -> int:
    from .workflows.serve import servers_of, start, stop

    with terminal.steps() as steps:
        if options.verb == "start":
            found = [start(Checkout.find(options.directory), storage, steps)]
        else:
            checkout = None if options.all else Checkout.find(options.directory)
            found = servers_of(checkout, storage)
            if options.verb == "stop":
                stop(found, storage)
    terminal.servers({"start": "started", "stop": "stopped", "status": "shown"}[options.verb], found)
    return 0


def _patch(options: argparse.Namespace, terminal: Terminal) -> int:
    from .workflows.patch import Patches

    patches = Patches(Checkout.find(options.directory))
    if options.verb == "check":
        return 0 if terminal.patches_checked(patches.check(options.revisions)) else UserCodeError.exit_code
    if options.verb == "apply":
        terminal.patches_done("applied", patches.apply())
    elif options.verb == "revert":
        terminal.patches_done("reverted", patches.revert())
    elif options.verb == "status":
        terminal.patches_status(*patches.status())
    else:
        terminal.patches_done("exported", tuple(map(str, patches.export(options.output))))
    return 0


def _hook(checkout: Checkout, background: Background, options: argparse.Namespace, terminal: Terminal) -> int:
    from .workflows.hooks import Hooks

    if options.force and options.verb != "install":
        raise UsageError("--force is for install only")
    hooks = Hooks(checkout, options.hooks)
    if options.verb == "install":
        hooks.install(force=options.force)
    elif options.verb == "remove":
        hooks.remove()
    terminal.hooks(hooks, background.report())
    return 0


def _revision(checkout: Checkout, storage: Storage, options: argparse.Namespace, terminal: Terminal) -> int:
    from .workflows.revisions import Reviser, load, save

    if options.verb == "show" and options.file:
        terminal.revision(load(options.file))
        return 0
    if options.verb == "export" and terminal.as_json and not options.output:
        raise UsageError("with --json, standard output is for the object: name the revision's file with -o")
    if options.verb == "export" and options.force and not options.output:
        raise UsageError("--force is for a file: name it with -o")
    with terminal.steps() as steps, _only_chained():
        reviser = Reviser(checkout, storage, steps)
        if options.verb == "apply":
            result = reviser.apply(options.file)
        else:
            exported = reviser.export()
    if options.verb == "apply":
        terminal.built(result)
    elif options.verb == "show":
        terminal.revision(exported)
    else:
        if options.output:
            save(exported.text, options.output, force=options.force)
        terminal.exported(exported, options.output)
    return 0


def _doctor(options: argparse.Namespace, terminal: Terminal) -> int:
    from .workflows.doctor import PROBLEM, Doctor

    states = terminal.findings(Doctor(options.directory, checksums=options.checksums).findings())
    return UserCodeError.exit_code if PROBLEM in states else 0


def _impact(checkout: Checkout, storage: Storage, options: argparse.Namespace, terminal: Terminal) -> int:
    from . import command_impact
    from .workflows.impact import Impacts, compare

    with terminal.steps() as steps:
        if options.compare:
            found = compare(checkout, storage, steps, tuple(options.compare), server=options.server)
        else:
            found = Impacts(checkout, storage, steps, server=options.server).present()
    return command_impact.show(found, options, terminal)


def _watch(checkout: Checkout, options: argparse.Namespace, terminal: Terminal) -> int:
    from .display import display_for  # inotify and what shows it: only this command has to load them
    from .workflows.watch import Watch

    check_names(options.test or (), checkout.root)
    words = ["--engine", options.engine] if options.engine else []
    if options.full_rebuild is not None:
        words.append("--full-rebuild" if options.full_rebuild else "--no-full-rebuild")
    if options.server is not None:
        words.append("--server" if options.server else "--no-server")
    with display_for(terminal) as display:
        return Watch(checkout, display, words, options.test, options.hook, options.once).run()


def _bisect(
    checkout: Checkout, storage: Storage, config: Config, options: argparse.Namespace, terminal: Terminal
) -> int:
    if options.verb == "step":
        if terminal.as_json:
            raise UsageError("bisect step prints what COMMAND prints: leave out --json")
        if not options.arguments:
            raise UsageError("name the command that tests the sources, after --")
        from .workflows.bisect import step

        return step(checkout, storage, config, options.policy, options.arguments, terminal.steps, terminal.message)
    from .workflows.bisect import Bisector

    bisector = Bisector(checkout, storage, config, terminal.steps, terminal.message)
    if options.verb == "status":
        terminal.bisection(bisector.status())
        return 0
    if options.verb == "abort":
        terminal.aborted(bisector.abort())
        return 0
    asked = None
    if options.resume:
        if options.bad or options.good or options.arguments:
            raise UsageError("--resume goes on with what was asked for: leave out the commits and the command")
    elif not (options.bad and options.good and options.arguments):
        raise UsageError("name a commit with --bad, one or more with --good, and the command after --")
    else:
        kind = {"first_parent": options.first_parent, "policy": options.policy, "check": not options.no_check}
        asked = bisector.asked(options.bad, options.good, options.arguments, **kind)
    outcome = bisector.run(asked)
    terminal.bisected(outcome)
    return 0 if outcome.status == "found" else UserCodeError.exit_code


def _replay(checkout: Checkout, storage: Storage, options: argparse.Namespace, terminal: Terminal) -> int:
    from .workflows.revisions import Reviser

    if options.engine or options.full_rebuild is not None:
        raise UsageError("--replay makes no image: leave out --engine and --full-rebuild")
    with terminal.steps() as steps, _only_chained():
        result, file = Reviser(checkout, storage, steps).replay()
    assert result.image is not None
    arguments = [*(("-L", str(file)) if file else ()), *options.arguments]
    if terminal.as_json:
        code = run_julia(checkout, result.image, arguments)
        terminal.json({**result.to_json(), "exit_code": code})
        return code
    return become_julia(checkout, result.image, arguments)


@contextmanager
def _only_chained() -> Iterator[None]:
    """Where there is no other way, the reason for a full rebuild is an error."""
    try:
        yield
    except NeedsFullRebuild as reason:
        raise SetupError(
            f"no revision leads to these sources, only a full rebuild (basedev build): {reason}"
        ) from reason


def _build(
    checkout: Checkout, storage: Storage, config: Config, options: argparse.Namespace, terminal: Terminal
) -> Result:
    engine = options.engine or config.engine
    may_rebuild = config.full_rebuild if options.full_rebuild is None else options.full_rebuild
    if engine == FULL and not may_rebuild:
        raise UsageError("the engine full rebuilds in full, which is forbidden (full-rebuild)")
    with terminal.steps() as steps:
        builder = builder_for(checkout, storage, steps, server=options.server)
        try:
            result = builder.build(engine=None if engine == "auto" else engine, may_rebuild=may_rebuild)
        except NeedsFullRebuild as reason:
            raise SetupError(f"only a full rebuild is right, and it was not wanted: {reason}") from reason
    if options.command != "build" and result.full_rebuild_reason and result.status == "built":
        terminal.message(f"rebuilt in full: {result.full_rebuild_reason}")
    return result
