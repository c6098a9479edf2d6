"""The statement differ against Julia itself: after a revision a file defines what evaluating its new text defines.

What is defined is asked of the runtime: a module of the tests' own in the host lists the methods and docstrings of a
file. It is asked in children of the host, so that no example sees another's definitions.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, event, given, settings
from hypothesis import strategies as st

from basedev.difference import compare, line_moves
from basedev.distribution import Distribution
from basedev.engines.stock15.baseimage import BaseImage, make_base_image
from basedev.engines.stock15.host_program import Host, host_program
from basedev.errors import NeedsFullRebuild, UserCodeError
from basedev.revise import revise
from basedev.revision import Evaluate, Move, Revision, Step, Unbind
from basedev.sources import Sources, blob_id
from basedev.storage import Storage
from basedev.syntax import Statement, statements

UTIL = "base/strings/util.jl"
PAIR = "base/pair.jl"
QUICK = (
    *("base/ntuple.jl", "base/version.jl", "base/accumulate.jl", "base/secretbuffer.jl", "base/channels.jl"),
    *(f"stdlib/Base64/src/{name}.jl" for name in ("encode", "buffer", "decode")),
)
SLOW = (UTIL, PAIR, "base/strings/substring.jl", "base/set.jl", "base/env.jl", "base/weakkeydict.jl", "base/bitset.jl")
"""Files whose whole text can be evaluated once more in the base image; the slow ones take several seconds."""

THOROUGH = bool(os.environ.get("BASEDEV_THOROUGH"))
"""Whether to try many examples, other ones in each run."""

FILES = (*QUICK, *SLOW) if THOROUGH else QUICK


def examples(usual: int, thorough: int) -> settings:
    """How many examples a property is tried on."""
    return settings(
        max_examples=thorough if THOROUGH else usual,
        deadline=None,
        derandomize=not THOROUGH,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.generate, *([Phase.shrink] if THOROUGH else [])],
    )


PROBE = r"""
module DifferProbe
const UNNUMBERED = r"#(s?)\d+" => s"#\1N"
module_named(names) = foldl(getfield, Symbol.(names[2:end]), init=root(names[1]))
root(name) = only(mod for mod in (Core, Main, values(Base.loaded_modules)...) if string(nameof(mod)) == name)
function tables!(found, mod, seen)
    mod in seen && return
    push!(seen, mod)
    for name in names(mod; all=true)
        isdefined(mod, name) || continue
        value = getfield(mod, name)
        if value isa Module
            parentmodule(value) === mod && tables!(found, value, seen)
        else
            push!(found, typeof(value).name.mt)
        end
    end
end
function tell_methods(out, file, world)
    found, seen = Base.IdSet{Core.MethodTable}(), Base.IdSet{Module}()
    for mod in (Core, values(Base.loaded_modules)...)
        tables!(found, mod, seen)
    end
    for table in found
        Base.visit(table) do method
            method isa Method && method.file === Symbol(file) || return
            method.primary_world > world && method.deleted_world == typemax(UInt) || return
            source = isdefined(method, :source) ? method.source : nothing
            body = source === nothing ? "" : string(Base.uncompressed_ast(method).code)
            told = (method.module, method.name, method.sig, hash(replace(body, UNNUMBERED)))
            println(out, "method\t", method.line, '\t', replace(join(told, '\t'), UNNUMBERED))
        end
    end
end
docstrings(mod) = [(binding, several, signature, several.docs[signature])
                   for (binding, several) in Base.Docs.meta(mod) if several isa Base.Docs.MultiDoc
                   for signature in several.order]
at(docstring, file) = string(get(docstring.data, :path, "")) == file
function tell_docstrings(out, file, mod)
    for (binding, several, signature, docstring) in docstrings(mod)
        at(docstring, file) || continue
        told = (docstring.data[:linenumber], binding, signature, hash(join(docstring.text)))
        println(out, "docstring\t", replace(join(told, '\t'), UNNUMBERED))
    end
end
function forget_docstrings(file, name)
    mod = module_named(split(name, '.'))
    for (binding, several, signature, docstring) in docstrings(mod)
        if at(docstring, file)
            delete!(several.docs, signature)
            filter!(!=(signature), several.order)
        end
    end
end
function tell(file, world, names...)
    out = IOBuffer()
    tell_methods(out, file, world)
    for name in names
        tell_docstrings(out, file, module_named(split(name, '.')))
    end
    error("<<<", String(take!(out)), ">>>")
end
end
"""


@dataclass(frozen=True)
class Defined:
    """What a file defines, each with its line: methods of names that are written, of the compiler's, docstrings."""

    methods: Counter[str]
    hidden: Counter[str]
    docstrings: Counter[str]


class Edited(Mapping[str, bytes]):
    """The contents of the base image's files, but for some."""

    def __init__(self, base: BaseImage, changed: Mapping[str, bytes]) -> None:
        self.base = base
        self.changed = changed

    def __getitem__(self, path: str) -> bytes:
        return self.changed[path] if path in self.changed else self.base.sources.contents[path]

    def __iter__(self) -> Iterator[str]:
        return iter(self.base.sources.blobs)

    def __len__(self) -> int:
        return len(self.base.sources.blobs)


@dataclass
class Differ:
    """The base image, and a host on it."""

    base: BaseImage
    host: Host

    def text(self, path: str) -> str:
        """A file of the base image."""
        return self.base.sources.contents[path].decode()

    def statements(self, text: str, path: str = "x.jl") -> list[Statement]:
        """The statements of a text."""
        return statements(self.host.parse(text.encode()), text.encode(), path)

    def revise(self, changed: Mapping[str, str], base: Mapping[str, str] | None = None) -> Revision:
        """The revision that leads to other texts of some files. `base` are texts to take for the base image's."""
        new = {path: text.encode() for path, text in changed.items()}
        old = {path: text.encode() for path, text in (base or {}).items()}
        sources = [
            Sources(
                {**self.base.sources.blobs, **{path: blob_id(text) for path, text in texts.items()}},
                Edited(self.base, texts),
            )
            for texts in (old, {**old, **new})
        ]
        return revise(*sources, self.base.files, self.host)

    def _told(self, path: str, steps: Sequence[Step], world: str) -> Defined:
        """What a file defines after some steps. Fails when one of them fails."""
        file = self.base.files[path]
        modules = ", ".join(f'"{module}"' for module in file.modules if module != "Core.Compiler")
        ask = Evaluate("Main", "ask.jl", 1, f'DifferProbe.tell("{file.name}", {world}, {modules})')
        answer = self.host.trial([*steps, ask])
        *errors, told = answer["errors"]
        assert not errors, errors
        text = told["message"].partition("<<<")[2].partition(">>>")[0]
        assert told["step"] == len(steps) and ">>>" in told["message"], told
        found: dict[str, Counter[str]] = {"method": Counter(), "hidden": Counter(), "docstring": Counter()}
        for line in text.splitlines():
            kind, _, rest = line.partition("\t")
            name = rest.split("\t")[2]
            hidden = kind == "method" and "#" in name and not name.endswith("##kw")
            found["hidden" if hidden else kind][rest] += 1
        return Defined(found["method"], found["hidden"], found["docstring"])

    def after(self, path: str, revision: Revision) -> Defined:
        """What a file defines after a revision."""
        return self._told(path, revision.steps, "0")

    def truth(self, path: str, text: str) -> Defined:
        """What evaluating the whole of a text defines."""
        file = self.base.files[path]
        trees = [one.tree for one in self.statements(self.text(path)) if isinstance(one.tree, tuple)]
        constants = [tree[1][1] for tree in trees if tree[0] == "const" and isinstance(tree[1][1], str)]
        steps = [
            Evaluate("Main", "ask.jl", 1, "const differ_began = ccall(:jl_get_world_counter, UInt, ())"),
            *(
                Evaluate("Main", "ask.jl", 1, f'DifferProbe.forget_docstrings("{file.name}", "{module}")')
                for module in file.modules
                if module != "Core.Compiler"
            ),
            *(Unbind(module, name) for module in file.modules for name in constants),
            *(Evaluate(module, file.name, 1, text) for module in file.modules),
        ]
        return self._told(path, steps, "differ_began")

    def check(self, path: str, text: str, revision: Revision, *, hidden_lines: bool = True) -> None:
        """Fails unless the revision gives what the text defines. Of a closure the line may differ when it was on one
        line with the method that it is in: they move together."""
        after, truth = self.after(path, revision), self.truth(path, text)
        assert after.methods == truth.methods
        assert after.docstrings == truth.docstrings
        if not hidden_lines:
            after, truth = (
                Defined(
                    one.methods, Counter({key.partition("\t")[2]: n for key, n in one.hidden.items()}), one.docstrings
                )
                for one in (after, truth)
            )
        assert not truth.hidden - after.hidden  # old ones stay, and nothing calls them


@pytest.fixture(scope="module")
def differ(julia: Distribution) -> Iterator[Differ]:
    storage = Storage()
    base = make_base_image(julia, storage, lambda *_: None)
    with Host(host_program(julia, storage, lambda *_: None), base.sysimage, julia) as host:
        warm = [
            PROBE,
            'DifferProbe.tell("strings/util.jl", 0, "Base")',
            'DifferProbe.forget_docstrings("none", "Base")',
        ]
        host.apply([Evaluate("Main", "probe.jl", 1, text) for text in warm])
        yield Differ(base, host)


# ---- texts that mean the same ----


def same_meaning(draw: st.DrawFn, differ: Differ, text: str) -> str:
    """The text with other white space, comments and line breaks."""
    code = text.encode()
    made, done = [], 0
    for entry in differ.host.parse(code):
        begin, end = entry["begin"], entry["end"]
        made.append(code[done:begin].decode())
        if made[-1].endswith("\n") or not done:
            made.append(
                draw(st.sampled_from(("", "", "\n", "# a comment\n", "\n\n#= over\n#= several =#\nlines =#\n")))
            )
        at = entry.get("definition", begin)
        made.append(code[begin:at].decode())
        made += reformatted(draw, code[at:end].decode())
        done = end
    made.append(code[done:].decode())
    return "".join(made)


def reformatted(draw: st.DrawFn, text: str) -> Iterator[str]:
    """The lines of a definition, some of them with other white space; what may be in a string or comment stays."""
    quoted = False
    lines = text.splitlines(keepends=True)
    for number, line in enumerate(lines):
        plain = not quoted and not re.search(r"[\"'#`]|\\$", line)
        quoted ^= line.count('"""') % 2 == 1
        if not plain:
            yield line
            continue
        kind = draw(st.sampled_from(("", "", "", "indent", "inside", "comma", "end", "blank")))
        if kind == "indent" and number:
            yield "  " + line
        elif kind == "inside" and ", " in line:
            yield line.replace(", ", ", #= inside =# ", 1)
        elif kind == "comma" and (at := comma_in_parentheses(line)):
            yield f"{line[: at + 1]}\n      {line[at + 1 :]}"
        elif kind in ("end", "blank") and line.endswith("\n") and number + 1 < len(lines):
            yield line[:-1] + draw(st.sampled_from(("  \n", "\t# a comment\n", " #= one =#  # more\n")))
            if kind == "blank":
                yield draw(st.sampled_from(("\n", "        # a line\n", "\n\n#= two\n lines =#\n")))
        else:
            yield line


def comma_in_parentheses(line: str) -> int:
    """Where a comma stands inside parentheses that the line opens; 0 for nowhere."""
    depth = 0
    for at, character in enumerate(line):
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth > 0:
            return at
    return 0


@examples(8, 200)
@given(st.data())
def test_white_space_and_comments_only_move(differ: Differ, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(FILES))
    text = same_meaning(data.draw, differ, differ.text(path))
    revision = differ.revise({path: text})
    assert [step for step in revision.steps if not isinstance(step, Move)] == []
    differ.check(path, text, revision, hidden_lines=False)


# ---- random edits ----


@dataclass
class Piece:
    """A statement of a file that is edited."""

    documentation: str
    definition: str
    is_method: bool

    @property
    def text(self) -> str:
        return self.documentation + self.definition


Edit = Callable[[st.DrawFn, list[Piece]], None]

METHOD = re.compile(r"(?:@\w+ )*(?:function )?(?:\w+\.)*(\w+!?)(\{[^()]*\})?\(")


def pieces(differ: Differ, text: str) -> list[Piece]:
    """The statements of a text, without what stands between them."""
    code = text.encode()
    found = []
    for entry, statement in zip(differ.host.parse(code), differ.statements(text), strict=True):
        at = entry.get("definition", entry["begin"])
        definition = code[at : entry["end"]].decode().rstrip()
        tree = statement.tree
        while isinstance(tree, tuple) and tree[0] == "macrocall":
            tree = tree[-1]
        is_method = isinstance(tree, tuple) and tree[0] in ("function", "=") and METHOD.match(definition) is not None
        found.append(Piece(code[entry["begin"] : at].decode(), definition, is_method and len(tree) == 3))
    return found


def one_method(draw: st.DrawFn, all_pieces: list[Piece]) -> Piece:
    return draw(st.sampled_from([piece for piece in all_pieces if piece.is_method]))


def parameters(piece: Piece) -> tuple[int, int]:
    """Where the parameters of a method begin and end."""
    found = METHOD.match(piece.definition)
    assert found
    depth, at = 1, found.end()
    while depth:
        depth += (piece.definition[at] in "([{") - (piece.definition[at] in ")]}")
        at += 1
    return found.end(), at - 1


def change_body(draw: st.DrawFn, all_pieces: list[Piece]) -> None:
    piece = one_method(draw, all_pieces)
    if piece.definition.endswith("end") and re.match(r"(@\w+ )*function", piece.definition):
        piece.definition = piece.definition[:-3] + draw(st.sampled_from(("\n    nothing\nend", "; 1 + 1 end")))
    else:
        piece.definition += " |> identity"


def change_documentation(draw: st.DrawFn, all_pieces: list[Piece]) -> None:
    one_method(draw, all_pieces).documentation = draw(
        st.sampled_from(("", '"short"\n', '"""\nOver\nseveral lines: $(1 + 1)\n"""\n', '@doc "told" ->\n'))
    )


def add_method(draw: st.DrawFn, all_pieces: list[Piece]) -> None:
    number = draw(st.integers(0, 99))
    documentation = draw(st.sampled_from(("", '"new"\n', '"""\n    new\n\nNew.\n"""\n')))
    definition = draw(
        st.sampled_from(
            (
                f"differ_new{number}(x) = x + {number}",
                f"function differ_new{number}(x::Int, y=2; z=3)\n    # added\n    x + y + z\nend",
                f"@inline differ_new{number}(x, rest...) = map(y -> x + y, rest)",
                f"function differ_new{number} end",
                f"differ_new{number}(x::Vector{{T}}) where {{T<:Real}} = T",
            )
        )
    )
    all_pieces.insert(draw(st.integers(0, len(all_pieces))), Piece(documentation, definition, False))


def add_constant(draw: st.DrawFn, all_pieces: list[Piece]) -> None:
    number = draw(st.integers(0, 99))
    text = f"const DIFFER_NEW{number} = ({number}, :new)"
    all_pieces.insert(draw(st.integers(0, len(all_pieces))), Piece("", text, False))


def delete(draw: st.DrawFn, all_pieces: list[Piece]) -> None:
    all_pieces.remove(one_method(draw, all_pieces))


def duplicate(draw: st.DrawFn, all_pieces: list[Piece]) -> None:
    piece = one_method(draw, all_pieces)
    all_pieces.insert(draw(st.integers(0, len(all_pieces))), Piece("", piece.definition, False))


def reorder(draw: st.DrawFn, all_pieces: list[Piece]) -> None:
    piece = one_method(draw, all_pieces)
    all_pieces.remove(piece)
    all_pieces.insert(draw(st.integers(0, len(all_pieces))), piece)


def rename(draw: st.DrawFn, all_pieces: list[Piece]) -> None:
    piece = one_method(draw, all_pieces)
    piece.definition = METHOD.sub(lambda found: found[0].replace(found[1], "differ_renamed"), piece.definition, count=1)


def change_type(draw: st.DrawFn, all_pieces: list[Piece]) -> None:
    piece = one_method(draw, all_pieces)
    first, last = parameters(piece)
    written = re.sub(r"::\w+\b(?![.{])", "::Missing", piece.definition[first:last], count=1)
    piece.definition = piece.definition[:first] + written + piece.definition[last:]


def add_parameter(draw: st.DrawFn, all_pieces: list[Piece]) -> None:
    piece = one_method(draw, all_pieces)
    first, last = parameters(piece)
    inside = piece.definition[first:last]
    new = "differ_extra::Missing" + (", " if inside and not inside.startswith(";") else "")
    piece.definition = piece.definition[:first] + new + piece.definition[first:]


def add_default(draw: st.DrawFn, all_pieces: list[Piece]) -> None:
    piece = one_method(draw, all_pieces)
    first, last = parameters(piece)
    inside = piece.definition[first:last]
    if ";" in inside or "..." in inside:
        return
    separator = draw(st.sampled_from(("; ", ", " if inside else "")))
    piece.definition = f"{piece.definition[:last]}{separator}differ_extra=1{piece.definition[last:]}"


PLAIN: Sequence[Edit] = (change_body, change_documentation, add_method, add_constant)
"""Edits that must never be refused."""

ALL: Sequence[Edit] = (
    *PLAIN,
    *(delete, duplicate, reorder, rename, change_type, add_parameter, add_default),
)


def edited(draw: st.DrawFn, differ: Differ, path: str, edits: Sequence[Edit]) -> str:
    """A file's text after some edits."""
    all_pieces = pieces(differ, differ.text(path))
    for edit in draw(st.lists(st.sampled_from(edits), min_size=1, max_size=5)):
        edit(draw, all_pieces)
    gaps = st.sampled_from(("\n", "\n", "\n\n", "\n# between\n"))
    return "".join(piece.text + draw(gaps) for piece in all_pieces)


@examples(8, 200)
@given(st.data())
def test_plain_edits_give_what_the_text_defines(differ: Differ, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(FILES))
    text = edited(data.draw, differ, path, PLAIN)
    differ.check(path, text, differ.revise({path: text}))


@examples(8, 200)
@given(st.data())
def test_edits_give_what_the_text_defines(differ: Differ, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(FILES))
    text = edited(data.draw, differ, path, ALL)
    try:
        revision = differ.revise({path: text})
    except (NeedsFullRebuild, UserCodeError) as refusal:
        event(f"refused: {re.sub(r'[^ ]*[./(][^ ]*', '...', str(refusal))}")
        return
    differ.check(path, text, revision)
