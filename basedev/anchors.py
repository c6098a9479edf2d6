"""Places in sources of C, C++ and Julia, told by a function and a short expression instead of by a line number.

Rests on how Julia's sources are written: a function of C begins in the first column, and ends with a brace there; one
of Julia ends with an `end` that is as far in as its beginning.
"""

from __future__ import annotations

import re

_C = re.compile(r"""(?P<comment>//(?:\\\n|[^\n])*|/\*.*?\*/)|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])+'""", re.DOTALL)
_JULIA = re.compile(
    r'''(?P<comment>\#=.*?=\#|\#[^\n]*)|"""(?:\\.|[^\\])*?"""|"(?:\\.|[^"\\])*"|'(?:\\.[^']*|[^'\\\n])\'''', re.DOTALL
)


def is_julia(path: str) -> bool:
    """Whether a file is in Julia rather than in C or C++."""
    return path.endswith(".jl")


def without_comments(text: str, path: str) -> str:
    """The text with blanks in place of comments: every other character stays where it is."""

    def blank(match: re.Match[str]) -> str:
        comment = match["comment"]
        return match[0] if comment is None else re.sub(r"[^\n]", " ", comment)

    return (_JULIA if is_julia(path) else _C).sub(blank, text)


def find(code: str, expression: str, function: str | None, path: str) -> tuple[int, int] | str:
    """The span of an expression, however it is spaced, in the function whose definition begins like `function` (None:
    in the file); or in one line why there is not exactly one. `code` has no comments."""
    span: tuple[int, int] | str = (0, len(code))
    if function is not None:
        span = _julia_function(code, function) if is_julia(path) else _c_function(code, function)
        if isinstance(span, str):
            return span
    found = [match.span() for match in _pattern(expression).finditer(code, *span)]
    where = f" in {function!r}" if function else ""
    if len(found) == 1:
        return found[0]
    return f"{expression!r} stands {len(found)} times{where}" if found else f"there is no {expression!r}{where}"


def _pattern(expression: str) -> re.Pattern[str]:
    words = re.findall(r"\w+|[^\w\s]", expression)
    parts = []
    for before, word in zip(["", *words], words, strict=False):
        if before:
            parts.append(r"\s+" if _is_name(before) and _is_name(word) else r"\s*")
        parts.append(re.escape(word))
    begin = r"(?<!\w)" if _is_name(words[0]) else ""
    end = r"(?!\w)" if _is_name(words[-1]) else ""
    return re.compile(begin + "".join(parts) + end)


def _is_name(word: str) -> bool:
    return re.match(r"\w", word) is not None


def _c_function(code: str, begin: str) -> tuple[int, int] | str:
    spans = []
    for match in _pattern(begin).finditer(code):
        line = code.rfind("\n", 0, match.start()) + 1
        if code[line].isspace() or not _has_body(code, match.end(), begin.count("(") - begin.count(")")):
            continue
        if end := re.compile(r"^\}", re.MULTILINE).search(code, match.end()):
            spans.append((line, end.end()))
    return _only(spans, begin)


def _has_body(code: str, at: int, depth: int) -> bool:
    """Whether braces follow the parameters, of which those from `at` on are still to come, in `depth` parentheses."""
    for match in re.compile(r"[(){};]").finditer(code, at):
        if match[0] in "()":
            depth += 1 if match[0] == "(" else -1
        elif depth == 0:
            return match[0] == "{"
    return False


def _julia_function(code: str, begin: str) -> tuple[int, int] | str:
    spans = []
    for match in _pattern(begin).finditer(code):
        line = code.rfind("\n", 0, match.start()) + 1
        indent = code[line : match.start()]
        if indent.strip():
            continue
        if end := re.compile(rf"^{indent}end\b", re.MULTILINE).search(code, match.end()):
            spans.append((line, end.end()))
    return _only(spans, begin)


def _only(spans: list[tuple[int, int]], begin: str) -> tuple[int, int] | str:
    if len(spans) == 1:
        return spans[0]
    return f"{len(spans)} functions begin {begin!r}" if spans else f"no function begins {begin!r}"
