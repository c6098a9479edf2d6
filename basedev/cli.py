"""The command line: a thin skin over the workflows. Does what the arguments say, and maps errors to exit codes.

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
from dataclasses import dataclass
from pathlib import Path

from .adopted import is_adopted
from .arguments import parser_of_arguments
from .checkout import Checkout
from .config import Config, load_config
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
from .sizes import parse_size
from .storage import Storage
from .terminal import Terminal
from .workflows.autoload import shell_code
from .workflows.background import Background
from .workflows.build import FULL, Result
from .workflows.builders import builder_for, initialise
from .workflows.run import become_julia, run_julia
from .workflows.testing import check_names, tests_for

INTERRUPTED = 130


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


@dataclass
class _Call:
    """A command that works on a checkout, and what it is given."""

    options: argparse.Namespace
    terminal: Terminal
    storage: Storage
    checkout: Checkout
    background: Background
    config: Config


def _run(options: argparse.Namespace, terminal: Terminal) -> int:
    if anywhere := ANYWHERE.get(options.command):
        return anywhere(options, terminal)
    storage, checkout = Storage(), Checkout.find(options.directory)
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
    return ON_CHECKOUT[options.command](_Call(options, terminal, storage, checkout, background, config))


# ---- commands that need no checkout ----


def _completion(options: argparse.Namespace, terminal: Terminal) -> int:
    from . import completion, usage

    terminal.code(completion.code(options.shell, usage.read(parser_of_arguments())))
    return 0


def _doctor(options: argparse.Namespace, terminal: Terminal) -> int:
    from .workflows.doctor import PROBLEM, Doctor

    states = terminal.findings(Doctor(options.directory, checksums=options.checksums).findings())
    return UserCodeError.exit_code if PROBLEM in states else 0


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


def _serve(options: argparse.Namespace, terminal: Terminal) -> int:
    from .workflows.serve import servers_of, start, stop

    storage = Storage()
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


def _shell_init(options: argparse.Namespace, terminal: Terminal) -> int:
    terminal.code(shell_code(options.shell, Storage()))
    return 0


# ---- commands that work on a checkout ----


def _init(call: _Call) -> int:
    terminal = call.terminal
    with terminal.steps() as steps:
        options = call.options
        base = initialise(
            call.checkout, call.storage, steps, terminal.message, trust=options.trust, debug=options.debug
        )
    if terminal.as_json:
        terminal.json({"status": "ready", "base_id": base.id, "image": str(base.sysimage), "errors": []})
    else:
        terminal.message(f"{call.checkout.root} is ready: base image {base.id}")
    return 0


def _status(call: _Call) -> int:
    with call.terminal.steps() as steps:
        plan = builder_for(call.checkout, call.storage, steps).plan()
    call.terminal.status(plan, call.background.report())
    return 0


def _build(call: _Call) -> int:
    if call.options.background:
        result = call.background.run(lambda: call.checkout.sources().id, lambda: _built(call))
    else:
        result = _built(call)
    if result:
        call.terminal.built(result)
    return 0


def _julia(call: _Call) -> int:
    if call.options.replay:
        return _replay(call)
    return _run_on(call, _built(call), call.options.arguments)


def _test(call: _Call) -> int:
    options, tests = call.options, call.checkout.tree / "test"
    check_names(options.names, call.checkout.tree)
    result = _built(call)
    names = options.names or tests_for((*result.changed_files, *result.loaded_files), tests)
    if not names:
        raise UsageError("no source file differs from the base image: name the tests to run")
    if not options.names:
        call.terminal.message(f"tests of the changed files: {' '.join(names)}")
    return _run_on(call, result, ["runtests.jl", *names], tests)


def _verify(call: _Call) -> int:
    from .workflows.verify import verify

    check_names(call.options.tests, call.checkout.tree)
    with call.terminal.steps() as steps:
        found = verify(builder_for(call.checkout, call.storage, steps), call.options.tests)
    call.terminal.verified(found, call.options.max)
    return InternalError.exit_code if found.differences else 0


def _hook(call: _Call) -> int:
    from .workflows.hooks import Hooks

    options = call.options
    if options.force and options.verb != "install":
        raise UsageError("--force is for install only")
    hooks = Hooks(call.checkout, options.hooks)
    if options.verb == "install":
        hooks.install(force=options.force)
    elif options.verb == "remove":
        hooks.remove()
    call.terminal.hooks(hooks, call.background.report())
    return 0


def _revision(call: _Call) -> int:
    from .workflows.revisions import load, reviser_for, save

    options, terminal = call.options, call.terminal
    if options.verb == "show" and options.file:
        terminal.revision(load(options.file))
        return 0
    if options.verb == "export" and terminal.as_json and not options.output:
        raise UsageError("with --json, standard output is for the object: name the revision's file with -o")
    if options.verb == "export" and options.force and not options.output:
        raise UsageError("--force is for a file: name it with -o")
    with terminal.steps() as steps, _only_chained():
        reviser = reviser_for(call.checkout, call.storage, steps)
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


def _impact(call: _Call) -> int:
    from . import command_impact
    from .workflows.impact import compare, impacts_for

    options = call.options
    with call.terminal.steps() as steps:
        if options.compare:
            found = compare(call.checkout, call.storage, steps, tuple(options.compare), server=options.server)
        else:
            found = impacts_for(call.checkout, call.storage, steps, server=options.server).present()
    return command_impact.show(found, options, call.terminal)


def _watch(call: _Call) -> int:
    from .display import display_for  # inotify and what shows it: only this command has to load them
    from .workflows.watch import Watch

    options = call.options
    check_names(options.test or (), call.checkout.tree)
    words = ["--engine", options.engine] if options.engine else []
    if options.full_rebuild is not None:
        words.append("--full-rebuild" if options.full_rebuild else "--no-full-rebuild")
    elif call.checkout.is_patched:
        words.append("--no-full-rebuild")  # as for other builds in the background
    if options.server is not None:
        words.append("--server" if options.server else "--no-server")
    with display_for(call.terminal) as display:
        return Watch(call.checkout, display, words, options.test, options.hook, options.once).run()


def _bisect(call: _Call) -> int:
    options, terminal = call.options, call.terminal
    where = call.checkout, call.storage, call.config
    if options.verb == "step":
        if terminal.as_json:
            raise UsageError("bisect step prints what COMMAND prints: leave out --json")
        if not options.arguments:
            raise UsageError("name the command that tests the sources, after --")
        from .workflows.bisect import step

        return step(*where, options.policy, options.arguments, terminal.steps, terminal.message)
    from .workflows.bisect import Bisector

    bisector = Bisector(*where, terminal.steps, terminal.message)
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


ANYWHERE: dict[str, Callable[[argparse.Namespace, Terminal], int]] = {
    **{"completion": _completion, "doctor": _doctor, "images": _images, "patch": _patch, "serve": _serve},
    "shell-init": _shell_init,
}

ON_CHECKOUT: dict[str, Callable[[_Call], int]] = {
    **{"bisect": _bisect, "build": _build, "hook": _hook, "impact": _impact, "init": _init, "revision": _revision},
    **{"run": _julia, "status": _status, "test": _test, "verify": _verify, "watch": _watch},
}


# ---- what several have in common ----


def _built(call: _Call) -> Result:
    """The image for the present sources, made now if need be."""
    options, config, terminal = call.options, call.config, call.terminal
    engine = options.engine or config.engine
    may_rebuild = _may_rebuild(call)
    if engine == FULL and not may_rebuild:
        raise UsageError("the engine full rebuilds in full, which is forbidden (full-rebuild)")
    with terminal.steps() as steps:
        builder = builder_for(call.checkout, call.storage, steps, server=options.server)
        try:
            result = builder.build(engine=None if engine == "auto" else engine, may_rebuild=may_rebuild)
        except NeedsFullRebuild as reason:
            needed = "only a full rebuild is right, and it was not wanted"
            if call.checkout.is_patched:
                needed = "only make can build this, and it was not wanted (basedev build runs it)"
            raise SetupError(f"{needed}: {reason}") from reason
    if options.command != "build" and result.full_rebuild_reason and result.status == "built":
        terminal.message(f"rebuilt in full: {result.full_rebuild_reason}")
    return result


def _may_rebuild(call: _Call) -> bool:
    """Whether a full rebuild may be made. The checkout's own `make`, which works in the user's tree, is only started in
    the background where it was asked for."""
    options = call.options
    if options.full_rebuild is not None:
        return bool(options.full_rebuild)
    in_background = options.command == "build" and options.background
    return call.config.full_rebuild and not (in_background and call.checkout.is_patched)


def _replay(call: _Call) -> int:
    from .workflows.revisions import reviser_for

    options = call.options
    if options.engine or options.full_rebuild is not None:
        raise UsageError("--replay makes no image: leave out --engine and --full-rebuild")
    with call.terminal.steps() as steps, _only_chained():
        result, file = reviser_for(call.checkout, call.storage, steps).replay()
    return _run_on(call, result, [*(("-L", str(file)) if file else ()), *options.arguments])


def _run_on(call: _Call, result: Result, arguments: Sequence[str], cwd: Path | None = None) -> int:
    """Runs Julia on an image, in the place of this process where nothing is to be told afterwards."""
    assert result.image is not None
    if not call.terminal.as_json:
        return become_julia(call.checkout, result.image, arguments, cwd)
    code = run_julia(call.checkout, result.image, arguments, cwd)
    call.terminal.json({**result.to_json(), "exit_code": code})
    return code


@contextmanager
def _only_chained() -> Iterator[None]:
    """Where there is no other way, the reason for a full rebuild is an error."""
    try:
        yield
    except NeedsFullRebuild as reason:
        raise SetupError(
            f"no revision leads to these sources, only a full rebuild (basedev build): {reason}"
        ) from reason
