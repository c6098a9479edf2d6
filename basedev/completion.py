"""Completion of the command line in shells: code for each, written from the commands themselves."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping

from .shells import fish_word
from .usage import Command, Option, Value

BASH = """\
# basedev: completion for bash
_basedev() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} at=basedev skip='' word words=''
    for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
        if [[ $word == -- ]]; then return; fi
        if [[ $skip ]]; then skip=''; continue; fi
        case "$at:$word" in
{takes}
        esac
    done
    case "$at:$before" in
{values}
    esac
    case "$at" in
{words}
    esac
    COMPREPLY=($(compgen -W "$words" -- "$current"))
}}
complete -o default -F _basedev basedev
"""

FISH = """\
# basedev: completion for fish
function __basedev_at
    set -l at basedev
    set -l skip ''
    for word in (commandline -opc)[2..-1]
        if test $word = --
            return 1
        end
        if test -n "$skip"
            set skip ''
            continue
        end
        switch "$at:$word"
{takes}
        end
    end
    test "$at" = "$argv"
end
complete -c basedev -e
complete -c basedev -n 'not contains -- -- (commandline -opc)' -f
{words}
"""


def code(shell: str, root: Command) -> str:
    """The code that has a shell complete the command line."""
    return WRITERS[shell](root)


def _name(command: Command) -> str:
    return " ".join(command.words)


def _bash(root: Command) -> str:
    takes, values, words = [], [], []
    for command in root.all():
        name = _name(command)
        for option in filter(_takes_one, command.options):
            at = "|".join(shlex.quote(f"{name}:{one}") for one in option.names)
            takes.append(f"        {at}) skip=1 ;;")
            values.append(f"    {at}) COMPREPLY=({_compgen(option)}); return ;;")
        for below in command.commands:
            takes.append(f"        {shlex.quote(f'{name}:{below.words[-1]}')}) at+=' {below.words[-1]}' ;;")
        told = [one for option in command.options for one in option.names]
        told += [below.words[-1] for below in command.commands]
        told += [choice for value in command.values for choice in value.choices]
        words.append(f"    {shlex.quote(name)}) words={shlex.quote(' '.join(told))} ;;")
    return BASH.format(takes="\n".join(takes), values="\n".join(values), words="\n".join(words))


def _takes_one(option: Option) -> bool:
    return option.value is not None and not (option.value.many and not option.value.required)


def _compgen(option: Option) -> str:
    assert option.value is not None
    if option.value.choices:
        return f'$(compgen -W {shlex.quote(" ".join(option.value.choices))} -- "$current")'
    if option.value.is_path:
        return f'$(compgen {"-d" if option.value.name == "DIR" else "-f"} -- "$current")'
    return ""


def _fish(root: Command) -> str:
    takes, words = [], []
    for command in root.all():
        name = _name(command)
        at = f"-n {fish_word(f'__basedev_at {name}')}"
        for option in command.options:
            names = " ".join(_fish_name(one) for one in option.names)
            words.append(f"complete -c basedev {at} {names}{_fish_value(option.value)} -d {fish_word(option.help)}")
            if _takes_one(option):
                takes += [
                    f"            case {fish_word(f'{name}:{one}')}\n                set skip 1" for one in option.names
                ]
        for below in command.commands:
            word = below.words[-1]
            words.append(f"complete -c basedev {at} -a {word} -d {fish_word(below.help)}")
            takes.append(f'            case {fish_word(f"{name}:{word}")}\n                set at "$at {word}"')
        for value in command.values:
            if value.choices:
                words.append(f"complete -c basedev {at} -a {fish_word(' '.join(value.choices))}")
            elif value.is_path or not value.required:
                words.append(f"complete -c basedev {at} -F")
    return FISH.format(takes="\n".join(takes), words="\n".join(words))


def _fish_name(name: str) -> str:
    return f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}"


def _fish_value(value: Value | None) -> str:
    if value is None:
        return ""
    if value.choices:
        return f" -x -a {fish_word(' '.join(value.choices))}"
    return " -r -F" if value.is_path else " -x"


def _zsh(root: Command) -> str:
    functions = "\n".join(_zsh_function(command) for command in reversed(root.all()))
    return f"#compdef basedev\n# basedev: completion for zsh\n{functions}\ncompdef _basedev basedev\n"


def _zsh_function(command: Command) -> str:
    lines = [f"{_zsh_function_name(command)}() {{"]
    specs = [one for option in command.options for one in _zsh_option(option)]
    if command.commands:
        lines += ["    local context state state_descr line", "    typeset -A opt_args"]
        specs += ["'1: :->command'", "'*:: :->rest'"]
    specs += [_zsh_value(value) for value in command.values]
    flag = "-C " if command.commands else ""
    lines.append(f"    _arguments {flag}-S " + " ".join(f"\\\n        {spec}" for spec in specs))
    if command.commands:
        told = " ".join(shlex.quote(f"{one.words[-1]}:{one.help}") for one in command.commands)
        lines += ["    case $state in", "    command)", f"        local -a commands=({told})"]
        lines += ["        _describe command commands ;;", "    rest)", "        case $words[1] in"]
        lines += [f"        {one.words[-1]}) {_zsh_function_name(one)} ;;" for one in command.commands]
        lines += ["        esac ;;", "    esac"]
    return "\n".join([*lines, "}"])


def _zsh_function_name(command: Command) -> str:
    return "_" + "_".join(command.words).replace("-", "_")


def _zsh_option(option: Option) -> Iterator[str]:
    help = option.help.translate({ord("["): "\\[", ord("]"): "\\]", ord(":"): "\\:"})
    names = option.value.name.split() if option.value else []
    value = "".join(f":{name}:{_zsh_action(option.value)}" for name in names if option.value)
    for name in option.names:
        many = "*" if option.value and option.value.many else ""
        yield shlex.quote(f"{many}{name}[{help}]{value}")


def _zsh_value(value: Value) -> str:
    place = "*" if value.many else "" if value.required else ":"
    return shlex.quote(f"{place}:{value.name}:{_zsh_action(value)}")


def _zsh_action(value: Value) -> str:
    if value.choices:
        return f"({' '.join(value.choices)})"
    if value.name == "DIR":
        return "_files -/"
    return "_files" if value.is_path or value.many else " "


WRITERS: Mapping[str, Callable[[Command], str]] = {"bash": _bash, "zsh": _zsh, "fish": _fish}
