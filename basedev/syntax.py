"""Source texts as statements: what Julia's parser read, freed of what does not matter, and what kind it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any

from .errors import UserCodeError

Tree = Any
"""A syntax tree: a tuple (head, arguments...) for an Expr, a str for a Symbol, a Literal, or None for `nothing`;
without line numbers, so that two are equal when they mean the same."""


@dataclass(frozen=True)
class Literal:
    """What is not made of other expressions, with its kind as told in the host's syntax.h."""

    kind: str
    value: Tree


WRAPPING_MACROS = frozenset(
    {
        *("@inline", "@noinline", "@propagate_inbounds", "@generated", "@pure", "@eval", "@static", "@doc"),
        *("@nospecialize", "@nospecializeinfer", "@nospecs", "@assume_effects", "@constprop"),
    }
)
"""Macros whose last argument is the definition, which they leave one."""

DEFINING_MACROS = frozenset({"@kwdef", "@enum", "@deprecate", "@deprecate_binding", "@deprecate_moved", "@irrational"})
"""Macros that do nothing at top level but to define methods and names, to document and to export them."""

PLACE_MACROS = frozenset({"@__LINE__", "@debug", "@info", "@warn", "@error", "@logmsg", "@test", "@testset"})
"""Macros whose expansion has the line where they stand in it (users of `__source__`)."""

LOGGING_MACROS = frozenset({"@debug", "@info", "@warn", "@error", "@logmsg"})
"""Macros whose expansion has an id that no other log message of the image has."""

DEFINED_BY = {
    "const": "constant",
    "global": "global",
    "struct": "struct",
    "abstract": "abstract type",
    "primitive": "primitive type",
    "macro": "macro",
    "export": "export",
    "import": "import",
    "using": "using",
    "module": "module",
}


@dataclass(frozen=True)
class Statement:
    """A statement at top level of a file or of a module in it."""

    inside: tuple[str, ...]
    """The modules in the file that it stands in, outermost first."""
    line: int
    last_line: int
    text: str
    tree: Tree
    """Without the docstring."""
    documentation: Tree | None
    definition_at: int
    """Where in `text` the documented definition begins; 0 without a docstring."""
    lines: tuple[int, ...] = ()
    """The lines that the parser notes in the definition, in the order of the tree."""
    method_lines: tuple[int, ...] = ()
    """Those of them that the methods which it defines have as theirs."""

    @property
    def definition_line(self) -> int:
        """The line on which the definition begins, below its docstring."""
        return self.line + self.text.count("\n", 0, self.definition_at)

    @property
    def is_understood(self) -> bool:
        """Whether evaluating it once more tells all that it did (see only_defines)."""
        return only_defines(self.tree) or (self.documentation is not None and not is_definition(self.tree))

    @property
    def is_module(self) -> bool:
        """Whether it is the beginning of a module, whose own statements follow it."""
        return isinstance(self.tree, tuple) and self.tree[:1] == ("module",)

    def undocumented(self) -> Statement:
        """The definition alone."""
        return replace(
            self,
            line=self.definition_line,
            text=self.text[self.definition_at :],
            documentation=None,
            definition_at=0,
        )

    def only_documentation(self) -> str:
        """A statement that documents the definition without defining it again (`@doc text definition false`)."""
        if not is_definition(self.tree):
            return self.text  # the name of something, which defines nothing
        return f"Core.@doc({self.text[: self.definition_at]}, {self.text[self.definition_at :]}\n, false)"


def statements(parsed: list[dict[str, Any]], text: bytes, path: str) -> list[Statement]:
    """The statements of a text, in order, from the host's answer.

    Raises UserCodeError with Julia's message, the line and a mark under the place when it does not parse.
    """
    return list(_statements(parsed, text, path, (), 1))


def _statements(
    parsed: list[dict[str, Any]], text: bytes, path: str, inside: tuple[str, ...], depth: int
) -> Iterator[Statement]:
    for entry in parsed:
        begin, end = entry["begin"], entry["end"]
        if "error" in entry:
            raise _syntax_error(entry, text, path)
        if "module" in entry:
            keyword = "baremodule" if entry["bare"] else "module"
            tree, head = ("module", keyword, entry["module"]), f"{keyword} {entry['module']}\nend"
            documentation, at = None, 0
            if "documentation" in entry:
                documentation = _tree(entry["documentation"])
                body_at = entry["body"][0]["begin"] if entry["body"] else end
                written = text[begin:body_at].decode("utf-8", "surrogateescape")
                at = written.rindex(keyword)
                head = written[:at] + head
            yield Statement(inside, entry["line"], entry["line"] + head.count("\n"), head, tree, documentation, at)
            yield from _statements(entry["body"], text, path, (*inside, entry["module"]), depth + 1)
            continue
        written = text[begin:end].decode("utf-8", "surrogateescape").rstrip()
        last_line = entry["line"] + written.count("\n")
        tree, documentation, at = _tree(entry["tree"]), None, 0
        numbered = entry["tree"]
        if "definition" in entry:
            documentation, tree = tree[2], tree[3]
            numbered = numbered[-1]
            at = len(text[begin : entry["definition"]].decode("utf-8", "surrogateescape"))
        first = entry["line"]
        lines = tuple(first - 1 + line for line in _lines(numbered))
        method_lines = tuple(first - 1 + line for line in _method_lines(numbered))
        yield Statement(inside, first, last_line, written, tree, documentation, at, lines, method_lines)


def _tree(node: Any) -> Tree:
    kind = type(node)
    if kind is list:
        # A line number is an argument of its own kind in the host's answer: a bare number. A macro call keeps the
        # place of its first one, so that its arguments have fixed places.
        parts = [node[0], node[1], *node[3:]] if node[0] == "macrocall" else node
        return tuple([_tree(part) if type(part) in (list, dict) else part for part in parts if type(part) is not int])
    if kind is dict:
        ((what, value),) = node.items()
        return Literal(what, _tree(value) if type(value) in (list, dict) else value)
    return node


def _lines(node: Any) -> Iterator[int]:
    found: list[int] = []
    _collect_lines(node, found)
    return iter(found)


def _collect_lines(node: Any, found: list[int]) -> None:
    for part in node[1:] if type(node) is list else node.values() if type(node) is dict else ():
        if type(part) is list or type(part) is dict:
            _collect_lines(part, found)
        elif type(part) is int and type(node) is list:
            found.append(part)


def _method_lines(node: Any) -> Iterator[int]:
    """The lines of methods: a method's is the first that its body notes (`jl_method_set_source`)."""
    if not isinstance(node, list):
        return
    head = node[0]
    if head in ("function", "macro") or (head == "=" and is_signature(_tree(node[1]))):
        yield from (line for line in node[-1][1:2] if _is_line(line) and len(node) == 3)
    elif head == "macrocall":
        if name_of(_tree(node[1])) in WRAPPING_MACROS:
            yield from _method_lines(node[-1])
        else:
            yield from _lines(node)
    elif head == "struct":
        body = node[3]
        yield from (line for line in body[1:2] if _is_line(line))
        yield from _method_lines(body)
    elif head in ("block", "toplevel", "for", "let", "if", "elseif", "const", "global"):
        for part in node[1:]:
            yield from _method_lines(part)


def _is_line(node: Any) -> bool:
    return isinstance(node, int) and not isinstance(node, bool)


def _syntax_error(entry: dict[str, Any], text: bytes, path: str) -> UserCodeError:
    stop = min(entry["end"], len(text))
    if "multi-line comment" in entry["error"]:
        stop = entry["begin"] + 1  # it has no end: where it stands is more use than the end of the file
    # the parser stops behind what it could not use, often a line further
    while stop > entry["begin"] and text[stop - 1 : stop].isspace():
        stop -= 1
    line_begin = text.rfind(b"\n", 0, stop) + 1
    line_end = text.find(b"\n", stop)
    line = text[line_begin : line_end if line_end >= 0 else len(text)].decode(errors="replace")
    number = text.count(b"\n", 0, stop) + 1
    column = max(len(text[line_begin:stop].decode(errors="replace")), 1)
    mark = "".join("\t" if character == "\t" else " " for character in line[: column - 1]) + "^"
    gutter = f"{number} | "
    return UserCodeError(
        f"{path}:{number}:{column}: syntax: {entry['error']}",
        f"{gutter}{line}\n{' ' * len(gutter)}{mark}",
    )


def is_definition(tree: Tree) -> bool:
    """Whether a statement by its form defines something: a method, a name, a type, a macro."""
    while isinstance(tree, tuple) and tree[:1] == ("macrocall",):
        tree = tree[-1]
    heads = ("function", "=", "const", "struct", "abstract", "primitive", "macro", "global", "module")
    return isinstance(tree, tuple) and bool(tree) and (tree[0] in heads or tree[0] in ("block", "for", "let", "if"))


def only_defines(tree: Tree, *, local: bool = False) -> bool:
    """Whether all that a statement does, by its form, is to define methods and names, to import and to export them.

    Then what it did is known when it is evaluated once more. Loops and conditions around definitions are followed,
    as is `@eval`. What the right-hand side of an assignment calls is taken to change nothing, unless its name ends
    in `!`, by convention, and its first argument is not made for it just there. `local` tells that an assignment
    to a plain name makes a local variable, as in a loop or a `let`.
    """
    if isinstance(tree, Literal):
        return True
    if not isinstance(tree, tuple) or not tree:
        return True  # a name, which may be documented
    head = tree[0]
    if head in ("function", "macro", "struct", "abstract", "primitive", "import", "using", "global", "."):
        return True
    if exported(tree) is not None:
        return True
    if head == "=":
        if is_signature(tree[1]) or limits_methods(tree):
            return True
        return _is_name(tree[1]) and not _calls_mutating(tree[2])
    if head == "const":
        return only_defines(tree[1])
    if head == "macrocall":
        name = name_of(tree[1])
        if name == "@doc" and isinstance(tree[-1], tuple) and tree[-1][:1] in (("call",), ("where",), ("$",)):
            return True  # documents a signature without defining it
        return (
            asserts(tree)
            or name in DEFINING_MACROS
            or (name in WRAPPING_MACROS and only_defines(tree[-1], local=local and name != "@eval"))
        )
    if head in ("&&", "||"):
        return only_defines(tree[2], local=local)
    if head in ("block", "toplevel"):
        return all(only_defines(part, local=local) for part in tree[1:])
    if head in ("if", "elseif"):
        return all(only_defines(branch, local=local) for branch in tree[2:])
    if head in ("for", "let"):
        return only_defines(tree[-1], local=True)
    if head == "call" and tree[1] in ("precompile", "error", "throw"):
        return True  # compiles earlier what would be compiled anyway; ends the evaluation, so it was not reached
    return head in ("tuple", "::")


def limits_methods(tree: Tree) -> bool:
    """Whether a statement tells how many methods of a function inference may look at
    (`typeof(f).name.max_methods = UInt8(1)`)."""
    if not isinstance(tree, tuple) or len(tree) != 3 or tree[0] != "=":
        return False
    number = tree[2]
    if not (isinstance(number, tuple) and number[:2] == ("call", "UInt8") and isinstance(number[-1], Literal)):
        return False
    names, left = [], tree[1]
    while isinstance(left, tuple) and len(left) == 3 and left[0] == ".":
        names.append(name_of(left))
        left = left[1]
    return names == ["max_methods", "name"] and isinstance(left, tuple) and left[:2] == ("call", "typeof")


def asserts(tree: Tree) -> bool:
    """Whether all that a statement does is to fail where something does not hold."""
    is_assert = isinstance(tree, tuple) and tree[:1] == ("macrocall",) and name_of(tree[1]) == "@assert"
    return is_assert and not _calls_mutating(tree)


def registers(tree: Tree) -> bool:
    """Whether a statement adds a handler to the list of error hints."""
    return isinstance(tree, tuple) and tree[:1] == ("call",) and name_of(tree[1]) == "register_error_hint"


def is_method(tree: Tree) -> bool:
    """Whether a statement is a definition of a method, in one of the two forms."""
    if not isinstance(tree, tuple) or not tree:
        return False
    return tree[0] == "function" or (tree[0] == "=" and is_signature(tree[1]))


def only_defines_methods(tree: Tree) -> bool:
    """Whether all that a statement does, by its form, is to define methods of functions and macros."""
    if not isinstance(tree, tuple) or not tree:
        return False
    if tree[0] in ("block", "toplevel"):
        return all(map(only_defines_methods, tree[1:]))
    if tree[0] in ("if", "elseif"):
        return all(map(only_defines_methods, tree[2:])) and not mentions(tree[1], "isdefined")
    if tree[0] == "for":
        return all(only_defines_methods(part) or _sets_local(part) for part in _parts(tree[-1]))
    if tree[0] == "let":
        return all(_sets_local(part) or isinstance(part, str) for part in _parts(tree[1])) and all(
            only_defines_methods(part) or _sets_local(part) or _names_globals(part) for part in _parts(tree[2])
        )
    if tree[0] == "macrocall":
        return name_of(tree[1]) in WRAPPING_MACROS and only_defines_methods(tree[-1])
    return is_method(tree) or tree[0] == "macro"


def _parts(tree: Tree) -> Sequence[Tree]:
    """The statements of a block, or one alone."""
    return tree[1:] if isinstance(tree, tuple) and tree[:1] == ("block",) else [tree]


def _sets_local(tree: Tree) -> bool:
    """Whether a statement in a loop or a `let` sets a variable of its own."""
    return isinstance(tree, tuple) and tree[:1] == ("=",) and isinstance(tree[1], str) and not _calls_mutating(tree[2])


def _names_globals(tree: Tree) -> bool:
    """Whether a statement in a `let` tells names that are not of its own."""
    return isinstance(tree, tuple) and tree[:1] == ("global",) and all(isinstance(name, str) for name in tree[1:])


def _is_name(left: Tree) -> bool:
    """Whether an assignment to this binds names, and changes no object that a name stands for."""
    if isinstance(left, tuple) and left:
        return left[0] in ("tuple", "::", "curly", "global", "$") and all(_is_name(part) for part in left[1:2])
    return isinstance(left, str)


def computes(statement: Statement) -> bool:
    """Whether evaluating a statement runs code of Julia's own: for a value that it binds, or to expand a macro."""
    tree = statement.tree
    if statement.is_module or included(tree) is not None or not isinstance(tree, tuple) or not is_definition(tree):
        return False
    return not is_method(tree) or _has_macro(tree)


def _has_macro(tree: Tree) -> bool:
    if isinstance(tree, tuple):
        return tree[:1] == ("macrocall",) or any(_has_macro(part) for part in tree)
    return isinstance(tree, Literal) and tree.kind == "q" and _has_macro(tree.value)


def included(tree: Tree) -> str | None:
    """The file that an `include` statement names; None for other statements."""
    if isinstance(tree, tuple) and len(tree) == 3 and tree[:2] == ("call", "include"):
        return tree[2].value if isinstance(tree[2], Literal) and tree[2].kind == "s" else None
    return None


def mentions(tree: Tree, name: str) -> bool:
    """Whether a name occurs anywhere in a tree, quoted or not."""
    if isinstance(tree, tuple):
        return any(mentions(part, name) for part in tree)
    if isinstance(tree, Literal):
        if tree.kind == "g":  # a macro that the parser calls
            return str(tree.value).endswith(f".{name}")
        return tree.kind == "q" and mentions(tree.value, name)
    return bool(tree == name)


def mentions_any(tree: Tree, names: Set[str]) -> bool:
    """Whether one of the names occurs anywhere in a tree, quoted or not."""
    if isinstance(tree, tuple):
        return any(mentions_any(part, names) for part in tree)
    if isinstance(tree, Literal):
        return tree.kind == "q" and mentions_any(tree.value, names)
    return isinstance(tree, str) and tree in names


def specializing(tree: Tree) -> bool | None:
    """What a bare `@specialize` or `@nospecialize` asks for the methods that follow; None for other statements."""
    if isinstance(tree, tuple) and len(tree) == 2 and tree[0] == "macrocall":
        return {"@specialize": True, "@nospecialize": False}.get(name_of(tree[1]))
    return None


def logs(tree: Tree) -> bool:
    """Whether a statement has log messages."""
    return mentions_any(tree, LOGGING_MACROS)


def depends_on_place(tree: Tree) -> bool:
    """Whether a statement means something else on another line."""
    return mentions_any(tree, PLACE_MACROS)


def exported(tree: Tree) -> frozenset[str] | None:
    """The names that a statement exports or makes public; None for other statements."""
    return frozenset(tree[1:]) if isinstance(tree, tuple) and tree[:1] in (("export",), ("public",)) else None


def _calls_mutating(tree: Tree) -> bool:
    """Whether a function is called that changes an argument, by its name, unless that was made for it just there."""
    if not isinstance(tree, tuple):
        return False
    if tree[:1] == ("call",) and isinstance(tree[1], str) and tree[1].endswith("!") and tree[1] != "!":
        arguments = [one for one in tree[2:] if not (isinstance(one, tuple) and one[:1] == ("parameters",))]
        if not arguments or not _makes_new(arguments[0]):
            return True
    return any(_calls_mutating(part) for part in tree)


def _makes_new(tree: Tree) -> bool:
    """Whether an expression makes an array or calls a type, whose name begins with a capital letter by convention."""
    if not isinstance(tree, tuple) or len(tree) < 2:
        return False
    called = tree[1][1] if isinstance(tree[1], tuple) and tree[1][:1] == ("curly",) else tree[1]
    return tree[0] in ("vect", "comprehension") or (
        tree[0] == "call" and isinstance(called, str) and called[:1].isupper()
    )


def is_signature(left: Tree) -> bool:
    """Whether what stands left of a `=` makes it the definition of a method."""
    if not isinstance(left, tuple):
        return False
    if left[0] == "where":
        return is_signature(left[1])
    if left[0] == "::" and len(left) == 3:  # f(x)::T = ...
        return is_signature(left[1])
    return bool(left[0] == "call")


def may_define(tree: Tree, name: str) -> bool:
    """Whether a statement may define a method of a function of this name, by its form.

    Where names are put in by `@eval`, each name that occurs may be one.
    """
    if not isinstance(tree, tuple) or not tree:
        return False
    if tree[0] in ("function", "="):
        return len(tree) > 1 and (_called(tree[1]) in (name, None) and mentions(tree, name))
    return any(may_define(part, name) for part in tree[1:]) or (mentions(tree, "@eval") and mentions(tree, name))


def _called(signature: Tree) -> str | None:
    """The name of the function that a signature is for; None when it is not there to be read."""
    while isinstance(signature, tuple) and signature and signature[0] in ("where", "::", "call", "curly"):
        signature = signature[1] if len(signature) > 1 else None
    if isinstance(signature, tuple) and signature[:1] == (".",):
        last = signature[-1]
        return last.value if isinstance(last, Literal) and isinstance(last.value, str) else None
    return signature if isinstance(signature, str) else None


def defined_function(tree: Tree) -> str | None:
    """The name of the function that a statement defines a method of, where it is there to be read."""
    while isinstance(tree, tuple) and tree[:1] == ("macrocall",):
        tree = tree[-1]
    if isinstance(tree, tuple) and len(tree) > 1 and tree[0] in ("function", "="):
        return _called(tree[1])
    return None


def describe(tree: Tree) -> str:
    """A few words for a statement: what it is and the name it is about."""
    if isinstance(tree, tuple) and tree:
        if tree[0] == "macrocall":
            return f"{name_of(tree[1])} {_first_name(tree[2:])}".rstrip()
        if names := exported(tree):
            return f"{tree[0]} {', '.join(sorted(names))}"
        if tree[0] == "module":
            return f"module {tree[2]}"
        kind = DEFINED_BY.get(str(tree[0]))
        if kind:
            return f"{kind} {_first_name(tree[1:])}".rstrip()
        if tree[0] == "call" and tree[1] == "include":
            return "include"
        if is_method(tree):
            return f"method {_first_name(tree[1:])}".rstrip()
        if tree[0] == "=":
            return f"global {_first_name(tree[1:])}".rstrip()
        return f"top-level {tree[0]}"
    return "top-level expression"


def name_of(tree: Tree) -> str:
    """A name that may have its module before it, or that the parser put there (as of a string macro)."""
    if isinstance(tree, Literal) and tree.kind == "g":
        return str(tree.value).rpartition(".")[2]
    if isinstance(tree, tuple) and tree and tree[0] == ".":
        last = tree[-1].value if isinstance(tree[-1], Literal) else tree[-1]
        return last if isinstance(last, str) else ""
    return tree if isinstance(tree, str) else _first_name((tree,))


def _first_name(trees: Any) -> str:
    """The first Symbol that is a name, in the order of the text."""
    for tree in trees:
        if isinstance(tree, str):
            return tree
        if isinstance(tree, tuple) and tree:
            rest = tree[1:] if isinstance(tree[0], str) else tree
            if found := _first_name(rest):
                return found
    return ""
