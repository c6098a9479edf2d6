"""The command line's arguments: commands, verbs and options, with their help."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from . import __version__
from .command_images import add_verbs
from .command_impact import add_arguments, count
from .config import ENGINES, POLICIES
from .errors import UsageError
from .places import HOOKS
from .shells import SHELLS


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
    debug = "use the debug build that make made, or the other one again (default: as before, else the other one)"
    init.add_argument("--debug", action=argparse.BooleanOptionalAction, help=debug)
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
