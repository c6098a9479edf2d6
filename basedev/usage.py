"""The command line as data: commands with their options, read from the parser of arguments.

Completions of shells and the man page are written from it.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Value:
    """What an option or a command takes."""

    name: str
    """As in its help; one word for each that it takes, where these are several at once."""
    help: str
    choices: tuple[str, ...]
    many: bool
    required: bool
    is_path: bool


@dataclass(frozen=True)
class Option:
    """An option, under all its names."""

    names: tuple[str, ...]
    help: str
    value: Value | None
    """None: it takes none."""


@dataclass(frozen=True)
class Command:
    """A command or verb, with those below it."""

    words: tuple[str, ...]
    """How it is called: `basedev`, `images`, `list`."""
    help: str
    example: str
    options: tuple[Option, ...]
    values: tuple[Value, ...]
    commands: tuple[Command, ...]

    def all(self) -> list[Command]:
        """It, and all below it."""
        return [self, *(one for command in self.commands for one in command.all())]


def read(parser: argparse.ArgumentParser) -> Command:
    """The command that a parser is for."""
    return _command(parser, (parser.prog,), parser.description or "")


def _command(parser: argparse.ArgumentParser, words: tuple[str, ...], help: str) -> Command:
    options, values = [], []
    commands: list[Command] = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            told = {choice.dest: choice.help or "" for choice in action._choices_actions}
            commands = [_command(below, (*words, name), told.get(name, "")) for name, below in action.choices.items()]
        elif action.option_strings:
            options.append(Option(tuple(action.option_strings), action.help or "", _value(action)))
        elif value := _value(action):
            values.append(value)
    example = (parser.epilog or "").removeprefix("example: ")
    return Command(words, help, example, tuple(options), tuple(values), tuple(commands))


def _value(action: argparse.Action) -> Value | None:
    if action.nargs == 0:
        return None
    names = action.metavar or action.dest.upper()
    name = " ".join(names) if isinstance(names, tuple) else names
    return Value(
        name,
        action.help or "",
        tuple(map(str, action.choices or ())),
        many=action.nargs in ("*", "+"),
        required=action.nargs not in ("*", "?"),
        is_path=action.type is Path,
    )
