#!/usr/bin/env python3
"""Writes the man page, man/basedev.1, from the parser of arguments.

tools/manual.py            writes it
tools/manual.py --check    exits with 1 if it is not up to date
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from basedev import __version__, usage
from basedev.arguments import parser_of_arguments
from basedev.usage import Command, Value

PAGE = Path(__file__).resolve().parent.parent / "man/basedev.1"

ABOUT = (
    "Whoever changes a line of Julia's Base waits for the system image to be made anew. basedev finds out which "
    "definitions changed, evaluates only those on top of the image that is there, compiles only what they "
    "invalidated, and puts that together with the old native code to a plain image that the stock julia runs. What "
    "can't be chained with the same result is recognised, told with its reason, and rebuilt in full."
)

EXITS = (
    ("0", "done"),
    ("1", "the edited sources are at fault, or tests failed; a problem was found (doctor)"),
    ("2", "usage or configuration"),
    ("3", "something needed is missing, or a full rebuild was needed and forbidden"),
    ("4", "a defect (verify: a difference)"),
    ("5", "more is invalidated than is allowed (impact)"),
    ("130", "interrupted"),
)

VARIABLES = (
    ("BASEDEV_CACHE", "the cache directory, in place of ~/.cache/basedev"),
    (
        "BASEDEV_SERVER, BASEDEV_HOOKS, BASEDEV_SHIM",
        "0 switches off warm servers, the git hooks, the julia of shell-init",
    ),
)

FILES = (
    (".basedev.toml", "settings of a checkout: a table [basedev]"),
    ("~/.config/basedev/config.toml", "settings for all checkouts"),
    ("~/.cache/basedev", "base images, images, and all else that is kept"),
)


def page() -> str:
    """The text of the man page."""
    return "\n".join(_lines(usage.read(parser_of_arguments()))) + "\n"


def _lines(root: Command) -> Iterator[str]:
    yield f'.TH BASEDEV 1 "" "basedev {__version__}"'
    yield from (".SH NAME", rf"basedev \- {_plain(root.help[0].lower() + root.help[1:].rstrip('.'))}")
    yield from (".SH SYNOPSIS", *_synopsis(root))
    yield from (".SH DESCRIPTION", _plain(ABOUT))
    yield ".SH OPTIONS"
    yield from _options(root)
    yield ".SH COMMANDS"
    for command in root.all()[1:]:
        yield f".SS {_quoted(' '.join(command.words[1:]))}"
        yield from _synopsis(command)
        yield from (".PP", _plain(command.help[0].upper() + command.help[1:] + "."))
        yield from _values(command)
        yield from _options(command)
        if command.example:
            yield from (".PP", "Example:", ".PP", ".RS", ".nf", _plain(command.example), ".fi", ".RE")
    for title, told in (("EXIT STATUS", EXITS), ("ENVIRONMENT", VARIABLES), ("FILES", FILES)):
        yield f".SH {_quoted(title)}"
        for name, about in told:
            yield from (".TP", rf"\fB{_plain(name)}\fR", _plain(about))
    yield from (".SH SEE ALSO", ".BR julia (1),", ".BR git (1)", ".PP", "The documents in docs/ of the source tree.")


def _synopsis(command: Command) -> Iterator[str]:
    words = [rf"\fB{_plain(' '.join(command.words))}\fR"]
    if len(command.words) == 1:
        words.append(r"[\fB\-C\fR \fIDIR\fR] [\fB\-\-json\fR]")
    elif any(option.names[0] != "-h" for option in command.options):
        words.append(r"[\fIOPTIONS\fR]")
    if command.commands:
        words.append(rf"\fI{'VERB' if len(command.words) > 1 else 'COMMAND'}\fR")
    words += [_value(value) for value in command.values]
    yield " ".join(words)


def _value(value: Value) -> str:
    name = "|".join(value.choices) if value.choices and len(value.choices) < 5 else value.name
    text = rf"\fI{_plain(name)}\fR" + (" ..." if value.many else "")
    return text if value.required else f"[{text}]"


def _values(command: Command) -> Iterator[str]:
    for value in command.values:
        if value.help:
            yield from (".TP", rf"\fI{_plain(value.name)}\fR", _plain(value.help))


def _options(command: Command) -> Iterator[str]:
    for option in command.options:
        if option.names[0] == "-h" and len(command.words) > 1:
            continue
        names = ", ".join(rf"\fB{_plain(name)}\fR" for name in option.names)
        value = f" {_value(option.value)}" if option.value else ""
        yield from (".TP", names + value, _plain(option.help))


def _plain(text: str) -> str:
    """A text as it is: no character of it is a request."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("`", "\\(ga")
    return rf"\&{text}" if text.startswith((".", "'")) else text


def _quoted(text: str) -> str:
    return '"' + _plain(text).replace('"', '""') + '"'


def main() -> int:
    """Runs the tool."""
    text = page()
    if "--check" in sys.argv[1:]:
        if not PAGE.exists() or PAGE.read_text() != text:
            print(f"{PAGE} is not up to date: run tools/manual.py", file=sys.stderr)
            return 1
        return 0
    PAGE.write_text(text)
    print(PAGE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
