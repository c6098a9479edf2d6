"""The steps of a revision as hosts read them: a line of words, then the byte strings whose lengths they are."""

from __future__ import annotations

from collections.abc import Iterable

from ..revision import Contents, Delete, Evaluate, Exclude, Include, Move, Step, Unbind, Undocument, Unexport, Unlog


def encode(steps: Iterable[Step]) -> Iterable[bytes]:
    """The steps, as stock15/host/main.cpp describes them, but for contents, which no host asks for."""
    for step in steps:
        if isinstance(step, Contents):
            continue
        if isinstance(step, Evaluate):
            words = [text_bytes(step.module), text_bytes(step.file), text_bytes(step.text)]
            yield b"evaluate %d %d %d %d\n" % (step.line, *map(len, words))
        elif isinstance(step, Delete):
            words = [text_bytes(step.module), text_bytes(step.name), text_bytes(step.signature)]
            yield b"delete %d %d %d\n" % tuple(map(len, words))
        elif isinstance(step, Move):
            words = [text_bytes(step.file)]
            yield b"move %d %d %d %d\n" % (len(words[0]), step.first, step.last, step.by)
        elif isinstance(step, Unlog):
            words = [text_bytes(step.file)]
            yield b"unlog %d %d %d\n" % (len(words[0]), step.first, step.last)
        elif isinstance(step, Undocument):
            words = [text_bytes(step.module), text_bytes(step.file)]
            yield b"undocument %d %d %d %d\n" % (step.first, step.last, *map(len, words))
        elif isinstance(step, Include):
            words = [text_bytes(step.module), text_bytes(step.file), text_bytes(step.after)]
            yield b"include %d %d %d\n" % tuple(map(len, words))
        else:
            verb = {Exclude: b"exclude", Unbind: b"unbind", Unexport: b"unexport"}[type(step)]
            words = [text_bytes(step.module), text_bytes(step.file if isinstance(step, Exclude) else step.name)]
            yield b"%b %d %d\n" % (verb, len(words[0]), len(words[1]))
        yield from words


def text_bytes(text: str) -> bytes:
    """A text of sources as it stands in their files."""
    return text.encode("utf-8", "surrogateescape")
