"""Method signatures in the words of the field: `Tuple{typeof(Base.chomp), String}` -> `Base.chomp(::String)`."""

from __future__ import annotations

import re


def split_parameters(text: str) -> list[str]:
    """The parts of a list that are separated by commas outside any bracket or string."""
    parts, depth, begin, quoted = [], 0, 0, False
    for position, character in enumerate(text):
        if character == '"':
            quoted = not quoted
        elif quoted:
            continue
        elif character in "({[":
            depth += 1
        elif character in ")}]":
            depth -= 1
        elif character == "," and depth == 0:
            parts.append(text[begin:position].strip())
            begin = position + 1
    rest = text[begin:].strip()
    return [*parts, rest] if rest else parts


def names_in(signature: str) -> set[str]:
    """The names in a signature type, each by itself: those of modules too."""
    return set(re.findall(r'[^][\s{}(),."]+', signature))


def pretty(signature: str) -> str:
    """A signature type as Julia prints it (`jl_static_show`), written as a call."""
    match = re.fullmatch(r"Tuple\{(.*?)\}((?: where .*)?)", signature, re.DOTALL)
    if match is None or match[1].count("{") != match[1].count("}"):
        end = _closing(signature, len("Tuple"))
        if not signature.startswith("Tuple{") or end < 0:
            return signature
        inner, where = signature[len("Tuple{") : end], signature[end + 1 :]
    else:
        inner, where = match[1], match[2]
    parameters = split_parameters(inner)
    if not parameters:
        return signature
    called, *arguments = parameters
    if function := re.fullmatch(r"typeof\((.*)\)", called):
        name = function[1]
    elif constructor := re.fullmatch(r"Type\{(.*)\}", called):
        name = constructor[1]
    elif keywords := re.fullmatch(r'(.*?)\.?var"#(.*)##kw"', called):
        return f"{keywords[1]}.{keywords[2]}(...; ...)"
    else:
        name = f"(::{called})"
    return f"{name}({', '.join('::' + _plain(argument) for argument in arguments)}){where}"


def spoken(signature: str) -> str:
    """What `pretty` gives, but of the functions that Julia makes for keywords, the call that they are for:
    `Tuple{Base.var"##sort#7", Bool, typeof(Base.sort), Any}` -> `Base.sort(::Any; ...)`."""
    inner = signature.removeprefix("Tuple{").removesuffix("}")
    made, *others = split_parameters(inner) or [""]
    if name := re.fullmatch(r'.*?var"#(?:#(.*)#\d+|(.*)##kw)"', made):
        for number, other in enumerate(others):
            called = re.fullmatch(r"typeof\((.*)\)|Type\{(.*)\}", other)
            function = called and (called[1] or called[2])
            if function and re.sub(r"\{.*", "", function).rpartition(".")[2] == (name[1] or name[2]):
                call = pretty(f"Tuple{{{', '.join(others[number:])}}}")
                return f"{call.removesuffix(')')}; ...)"
    return pretty(signature)


def brief(call: str, longest: int = 120) -> str:
    """What `pretty` gives for people to read: of long ones, the innermost type parameters are left out."""
    for depth in (3, 2, 1, 0):
        if len(call) <= longest:
            break
        call = _without_parameters(call, depth)
    return call


def _without_parameters(text: str, deepest: int) -> str:
    kept, depth = [], 0
    for character in text:
        if character == "}":
            depth -= 1
            kept.append("…}" if depth == deepest else "}" if depth < deepest else "")
        elif depth <= deepest:
            kept.append(character)
        depth += character == "{"
    return "".join(kept)


def _plain(type_text: str) -> str:
    return re.sub(r"\b(?:Base|Core)\.(?=[A-Z])", "", type_text)


def _closing(text: str, opening: int) -> int:
    """Where the bracket at `opening` is closed, or -1."""
    depth = 0
    for position in range(opening, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return position
    return -1
