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
from itertools import pairwise
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

Draw = Callable[[st.SearchStrategy[Any]], Any]

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
            method.primary_world > world || return
            ccall(:jl_methtable_lookup, Any, (Any, Any, UInt), table, method.sig, typemax(UInt)) === method || return
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


@dataclass(repr=False)
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
        return revise(self.sources(old), self.sources({**old, **new}), self.base.files, self.host)

    def sources(self, texts: Mapping[str, bytes]) -> Sources:
        """The sources of the base image, but for the texts of some files."""
        blobs = {**self.base.sources.blobs, **{path: blob_id(text) for path, text in texts.items()}}
        return Sources(blobs, Edited(self.base, texts))

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
        steps: list[Step] = [
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


def same_meaning(draw: Draw, differ: Differ, text: str) -> str:
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


def reformatted(draw: Draw, text: str) -> Iterator[str]:
    """The lines of a definition, some of them with other white space; what may be in a string or comment stays."""
    quoted = False
    lines = text.splitlines(keepends=True)
    for number, line in enumerate(lines):
        plain = not quoted and not re.search(r"[\"'#`]|\\$", line)
        quoted ^= re.sub(r"\\\"|'\"'", "", line).count('"') % 2 == 1
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


@examples(4, 200)
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


Edit = Callable[[Draw, list[Piece]], None]

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


def one_method(draw: Draw, all_pieces: list[Piece]) -> Piece:
    piece: Piece = draw(st.sampled_from([piece for piece in all_pieces if piece.is_method]))
    return piece


def parameters(piece: Piece) -> tuple[int, int]:
    """Where the parameters of a method begin and end."""
    found = METHOD.match(piece.definition)
    assert found
    depth, at = 1, found.end()
    while depth:
        depth += (piece.definition[at] in "([{") - (piece.definition[at] in ")]}")
        at += 1
    return found.end(), at - 1


def change_body(draw: Draw, all_pieces: list[Piece]) -> None:
    piece = one_method(draw, all_pieces)
    if piece.definition.endswith("end") and re.match(r"(@\w+ )*function", piece.definition):
        piece.definition = piece.definition[:-3] + draw(st.sampled_from(("\n    nothing\nend", "; 1 + 1 end")))
    else:
        piece.definition += " |> identity"


def change_documentation(draw: Draw, all_pieces: list[Piece]) -> None:
    one_method(draw, all_pieces).documentation = draw(
        st.sampled_from(("", '"short"\n', '"""\nOver\nseveral lines: $(1 + 1)\n"""\n', '@doc "told" ->\n'))
    )


def add_method(draw: Draw, all_pieces: list[Piece]) -> None:
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


def add_constant(draw: Draw, all_pieces: list[Piece]) -> None:
    number = draw(st.integers(0, 99))
    text = f"const DIFFER_NEW{number} = ({number}, :new)"
    all_pieces.insert(draw(st.integers(0, len(all_pieces))), Piece("", text, False))


def delete(draw: Draw, all_pieces: list[Piece]) -> None:
    all_pieces.remove(one_method(draw, all_pieces))


def duplicate(draw: Draw, all_pieces: list[Piece]) -> None:
    piece = one_method(draw, all_pieces)
    all_pieces.insert(draw(st.integers(0, len(all_pieces))), Piece("", piece.definition, False))


def reorder(draw: Draw, all_pieces: list[Piece]) -> None:
    piece = one_method(draw, all_pieces)
    all_pieces.remove(piece)
    all_pieces.insert(draw(st.integers(0, len(all_pieces))), piece)


def rename(draw: Draw, all_pieces: list[Piece]) -> None:
    piece = one_method(draw, all_pieces)
    piece.definition = METHOD.sub(lambda found: found[0].replace(found[1], "differ_renamed"), piece.definition, count=1)


def change_type(draw: Draw, all_pieces: list[Piece]) -> None:
    piece = one_method(draw, all_pieces)
    first, last = parameters(piece)
    written = re.sub(r"::\w+\b(?![.{])", "::Missing", piece.definition[first:last], count=1)
    piece.definition = piece.definition[:first] + written + piece.definition[last:]


def add_parameter(draw: Draw, all_pieces: list[Piece]) -> None:
    piece = one_method(draw, all_pieces)
    first, last = parameters(piece)
    inside = piece.definition[first:last]
    new = "differ_extra::Missing" + (", " if inside and not inside.startswith(";") else "")
    piece.definition = piece.definition[:first] + new + piece.definition[first:]


def add_default(draw: Draw, all_pieces: list[Piece]) -> None:
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


def edited(draw: Draw, differ: Differ, path: str, edits: Sequence[Edit]) -> str:
    """A file's text after some edits."""
    all_pieces = pieces(differ, differ.text(path))
    for edit in draw(st.lists(st.sampled_from(edits), min_size=1, max_size=5)):
        edit(draw, all_pieces)
    gaps = st.sampled_from(("\n", "\n", "\n\n", "\n# between\n"))
    return "".join(piece.text + draw(gaps) for piece in all_pieces)


@examples(5, 200)
@given(st.data())
def test_plain_edits_give_what_the_text_defines(differ: Differ, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(FILES))
    text = edited(data.draw, differ, path, PLAIN)
    differ.check(path, text, differ.revise({path: text}))


@examples(6, 200)
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


# ---- texts that are the same ----


@examples(12, 300)
@given(st.data())
def test_unchanged_text_changes_nothing(differ: Differ, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(sorted(differ.base.files)))
    text = differ.text(path)
    difference = compare(path, differ.statements(text, path), differ.statements(text + "\n# the end", path))
    assert not difference.removed and not difference.evaluated and not difference.undocumented
    assert line_moves(difference) == []


def test_comment_at_the_end_gives_an_empty_revision(differ: Differ) -> None:
    paths = [path for path, file in differ.base.files.items() if path.endswith(".jl") and file.modules != ("Core",)][
        ::9
    ]
    assert differ.revise({path: differ.text(path) + "\n#= the end =#" for path in paths}).steps == ()


# ---- the differ alone ----

NAMES = ("f", "g", "h")


@st.composite
def written(draw: Draw) -> list[Statement]:
    """Statements as of a text: in the order of lines, each of which only one is on, several of them equal."""
    found = []
    line = 1
    for name in draw(st.lists(st.sampled_from(NAMES), max_size=12)):
        line += draw(st.integers(0, 2))
        documentation = draw(st.sampled_from((None, None, "one", "another")))
        head = f'"{documentation}"\n' if documentation else ""
        body = draw(st.integers(0, 3))
        inner = sorted(draw(st.sets(st.integers(0, body), min_size=1)))
        definition_line = line + bool(documentation)
        last_line = definition_line + body
        found.append(
            Statement(
                inside=draw(st.sampled_from(((), (), ("M",)))),
                line=line,
                last_line=last_line,
                text=head + name + "\n" * body,
                tree=("function", ("call", name), len(inner)),
                documentation=documentation,
                definition_at=len(head),
                lines=tuple(definition_line + one for one in inner),
                method_lines=(definition_line + inner[0],),
            )
        )
        line = last_line + 1
    return found


@examples(300, 5000)
@given(written(), written())
def test_each_statement_is_paired_or_told(old: list[Statement], new: list[Statement]) -> None:
    difference = compare("x.jl", old, new)
    before = [id(pair[0]) for pair in difference.unchanged] + [id(one) for one in difference.removed]
    assert sorted(before) == sorted(map(id, old))
    evaluated = [id(one.statement) for one in difference.evaluated if not one.only_documentation]
    assert sorted([id(pair[1]) for pair in difference.unchanged] + evaluated) == sorted(map(id, new))
    documented = [id(one.statement) for one in difference.evaluated if one.only_documentation]
    for pair in difference.unchanged:
        assert (pair[0].tree, pair[0].inside) == (pair[1].tree, pair[1].inside)
        changed = pair[0].documentation != pair[1].documentation
        assert (id(pair[1]) in documented) == (changed and pair[1].documentation is not None)
        assert (pair[0] in difference.undocumented) == (changed and pair[0].documentation is not None)
    assert (
        Counter((one.tree, one.inside) for one in difference.removed)
        .keys()
        .isdisjoint(
            (one.statement.tree, one.statement.inside) for one in difference.evaluated if not one.only_documentation
        )
    )


@examples(300, 5000)
@given(written(), written())
def test_lines_are_moved_where_they_are(old: list[Statement], new: list[Statement]) -> None:
    difference = compare("x.jl", old, new)
    moves = line_moves(difference)
    assert all(first <= last and by for first, last, by in moves)
    assert all(one[1] < other[0] for one, other in pairwise(moves))
    for before, now in difference.unchanged:
        documented = [(before.line, now.line)] if before.documentation and now.documentation else []
        for line, wanted in [*zip(before.lines, now.lines, strict=True), *documented]:
            assert line + sum(by for first, last, by in moves if first <= line <= last) == wanted


def test_lines_that_an_edit_left_as_they_were_are_moved(differ: Differ) -> None:
    old = '"doc"\nmacro make(name)\n    quote\n        one() = 1\n        two() = 2\n    end\nend\n'
    new = "#\n" + old.replace("    quote", "    name === :x && return\n    quote").replace("= 2", "= 3")
    difference = compare("x.jl", differ.statements(old), differ.statements(new))
    assert not difference.unchanged
    assert line_moves(difference) == [(1, 2, 1), (3, 7, 2)]


# ---- particular texts ----

ADDED = {
    "several on a line": "one_of(x) = 1; two_of(x) = 2; three_of(x) = 3\n",
    "docstring on the line": '"doc" documented(x) = 1\n',
    "docstring of several": 'one_of(x) = 1\ntwo_of(x) = 2\n"doc"\n(one_of, two_of)\n',
    "docstring of a name": '"more"\nencode\n',
    "docstring of a macro": '"doc"\nmacro documented(x)\n    x\nend\n',
    "docstring of a macro's name": 'macro documented(x)\n    x\nend\n"doc"\n:(@documented)\n',
    "docstring of a constant": '"doc"\nconst DOCUMENTED = 1\n',
    "docstrings of fields": '"doc"\nstruct Documented\n    "field"\n    x::Int\nend\n',
    "equal statements": "same(x) = 1\nsame(x) = 1\n",
    "modules": '"doc"\nmodule Outer\nmodule Inner\nf(x) = 1\nend\n"inner"\ng(x) = 1\nend\n',
    "unicode": "ε̂(λ::Int, β₂=1) = λ ∈ (β₂,)\na ⊞ b = 1\n",
    "block": "begin\n    one_of(x) = 1\n    two_of(x) = 2\nend\n",
    "let": "let x = 1\n    global counted(y) = x\nend\n",
    "condition": "if true\n    chosen(y) = 1\nelse\n    chosen(y) = 2\nend\n",
    "string macro": 'const PATTERN = r"""a\n"b" """x\nraw_text(x) = raw"""\nq"""\n',
    "nested comment": "#= a #= b =# c =#\ncommented(x) = #= a #= b\n =# =# 1\n",
    "callable": 'struct Callable end\n(::Callable)(x) = 1\n"doc"\n(c::Callable)(x, y) = 2\n',
    "no line end": "at_the_end(x) = 1",
}


@pytest.mark.parametrize("added", ADDED.values(), ids=ADDED)
def test_added_text(differ: Differ, added: str) -> None:
    path = "stdlib/Base64/src/encode.jl"
    text = differ.text(path) + added
    differ.check(path, text, differ.revise({path: text}))


CHANGED: dict[str, tuple[Callable[[str], str], bool]] = {
    "other line ends": (lambda text: text.replace("\n", "\r\n"), True),
    "no line end": (str.rstrip, True),
    "nested comment": (lambda text: "#= a #= b =#\n =#" + text, True),
    "several on a line": (lambda text: re.sub(r"\n+function", "; function", text), False),
    "only comments": (lambda text: "# nothing\n#= here =#", False),
}


@pytest.mark.parametrize(("change", "only_moves"), CHANGED.values(), ids=CHANGED)
def test_changed_text(differ: Differ, change: Callable[[str], str], only_moves: bool) -> None:
    path = "base/ntuple.jl"
    text = change(differ.text(path))
    try:
        revision = differ.revise({path: text})
    except (NeedsFullRebuild, UserCodeError):
        assert not only_moves
        return
    if only_moves:
        assert all(isinstance(step, Move) for step in revision.steps)
    differ.check(path, text, revision)


def test_byte_order_mark_is_no_statement(differ: Differ) -> None:
    assert [one.line for one in differ.statements("\ufeff\n# a comment\nf(x) = 1\n")] == [3]


def test_what_one_line_tore_apart_is_evaluated_again(differ: Differ) -> None:
    old = differ.statements('f(x) = 1\n@eval begin g(x) = 2; h(x) = 3 end\n"doc" k(x) = 4\nl(x) = 5\n')
    new = differ.statements('\nf(x) = 1\n@eval begin g(x) = 2;\nh(x) = 3 end\n"doc"\nk(x) = 4\nl(x) = 5\n')
    difference = compare("x.jl", old, new)
    assert [one.statement.definition_line for one in difference.evaluated] == [3, 6]
    assert line_moves(difference) == [(1, 1, 1), (4, 4, 3)]


@pytest.mark.parametrize("text", ("", "\n\n", "# a comment", "#= a\n #= b =# =#\n", ";;\n;\n"))
def test_nothing_in_a_text(differ: Differ, text: str) -> None:
    assert differ.statements(text) == []


def test_statements_tell_their_text(differ: Differ) -> None:
    text = (
        '"doc" f(x) = 1; g() = 2\n"β"\nkw"if"\n"m"\nmodule A\nmodule B\nend\n"""\nlong\n"""\nβ(x) = r"""\n"x" """i\nend'
    )
    told = [(one.inside, one.line, one.last_line, one.text, one.definition_line) for one in differ.statements(text)]
    assert told == [
        ((), 1, 1, '"doc" f(x) = 1; g() = 2', 1),
        ((), 2, 3, '"β"\nkw"if"', 3),
        ((), 4, 6, '"m"\nmodule A\nend', 5),
        (("A",), 6, 7, "module B\nend", 6),
        (("A",), 8, 12, '"""\nlong\n"""\nβ(x) = r"""\n"x" """i', 11),
    ]
