"""What an edit invalidates: the graph from changed definitions over their callers to all that Julia ends.

The host finds it (`host/impact.h`); here it is put into words, counted and sorted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .revision import Definition, as_json, place
from .signatures import brief, pretty, spoken

MOST_BRANCHES = 10
"""Branches that are told as the most costly."""

WHOLE = 0.9
"""A branch of which one caller has more than this share is told as that caller's."""


@dataclass(frozen=True)
class Counts:
    """Of CodeInstances, results of inference for one method with certain types of arguments."""

    invalidated: int = 0
    """That Julia ends."""
    changed: int = 0
    """Of these, that come out otherwise when they are inferred anew."""
    native: int = 0
    """Of those that Julia ends, how many have native code."""
    recompiled: int = 0
    """Functions that get new native code."""
    size: int = 0
    """Bytes of inferred code that Julia ends: what inferring and compiling it again costs grows with it."""

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(a + b for a, b in zip(self.numbers, other.numbers, strict=True)))

    @property
    def numbers(self) -> tuple[int, ...]:
        """In the order of the fields."""
        return self.invalidated, self.changed, self.native, self.recompiled, self.size


@dataclass
class Node:
    """A function, for the types of arguments that it was compiled for, or a changed definition."""

    what: str
    module: str
    path: str
    """The source file: relative to the checkout, as far as that is known."""
    line: int
    own: Counts
    ways: int = 0
    """How many calls lead from it to what is invalidated or changed."""
    branch: Counts = Counts()
    """Of it and of all that is reached through it."""
    callers: list[Node] = field(default_factory=list)
    """Those that are reached through it first, by as few calls as can be."""

    @property
    def place(self) -> tuple[str, str, int]:
        """Of its method."""
        return self.module, self.path, self.line


@dataclass
class Change(Node):
    """A method from which an invalidation begins."""

    kind: str = "modified"
    """"added", "modified" or "deleted"."""
    specializations: int = 0
    """That the method had, which are made again or gone."""
    specialized: int = 0
    """How many of these have native code."""
    overtaken: list[tuple[str, str]] = field(default_factory=list)
    """Specializations whose calls go to the added method from now on, each with the method that they are of."""


@dataclass(frozen=True)
class Lost:
    """What a method loses."""

    what: str
    path: str
    line: int
    counts: Counts
    specializations: int


SORTS: Mapping[str, Callable[[Node], Any]] = {
    "invalidated": lambda node: (-node.branch.invalidated, -node.branch.changed, node.what),
    "changed": lambda node: (-node.branch.changed, -node.branch.invalidated, node.what),
    "cost": lambda node: (-node.branch.size, -node.branch.invalidated, node.what),
    "name": lambda node: (node.what, node.path, node.line),
}
"""Orders of branches, by name."""


@dataclass(frozen=True)
class Impact:
    """What an edit does to compiled code."""

    base_id: str
    sources_id: str
    compared: tuple[str, str] | None = None
    """The two commits, if it is what differs between these; otherwise it is the edit of the present sources."""
    changed_files: tuple[str, ...] = ()
    definitions: tuple[Definition, ...] = ()
    changes: Sequence[Change] = ()
    elsewhere: Sequence[str] = ()
    """CodeInstances that Julia ends for no call that is known."""
    recompiled: int = 0
    """Functions that get new native code, those of the edited definitions themselves and new ones among them."""
    ambiguities: Sequence[tuple[str, str]] = ()
    """Pairs of methods that are ambiguous and were not."""
    overwrites: Sequence[str] = ()
    """Methods that a new definition overwrites, while their own stays."""
    full_rebuild_reason: str | None = None
    new_code_reason: str | None = None
    """Why all native code is made anew, if it is."""
    no_cutoff_reason: str | None = None
    server: str | None = None

    @property
    def total(self) -> Counts:
        """Of everything."""
        return sum((change.branch for change in self.changes), Counts(invalidated=len(self.elsewhere)))

    @property
    def everything(self) -> str | None:
        """Why everything is compiled anew, whatever the graph tells; None if it is not."""
        if self.full_rebuild_reason:
            return f"a full rebuild is needed: {self.full_rebuild_reason}"
        return self.new_code_reason and f"all native code is made anew: {self.new_code_reason}"

    @property
    def summary(self) -> str:
        """All of it in a sentence."""
        edit = f"{self.compared[0][:10]}..{self.compared[1][:10]}" if self.compared else "this edit"
        if self.full_rebuild_reason:
            return f"{edit}: {self.everything}"
        total = self.total
        if not (total.invalidated or self.new_code_reason):
            return f"{edit} invalidates nothing"
        many = f"{edit} invalidates {total.invalidated} CodeInstance{'s' * (total.invalidated != 1)}"
        if self.new_code_reason:
            return f"{many}, and {self.everything}"
        if self.no_cutoff_reason:
            return f"{many}, all of which are compiled anew: {self.no_cutoff_reason}"
        return f"{many}, {total.changed} of which really change{'s' * (total.changed == 1)}"

    def nodes(self) -> Iterable[Node]:
        """All, each before its callers."""
        waiting: list[Node] = list(self.changes)
        for node in waiting:  # grows meanwhile
            yield node
            waiting += node.callers

    def modules(self) -> dict[str, Counts]:
        """By module, the most invalidated first."""
        found: dict[str, Counts] = defaultdict(Counts)
        for node in self.nodes():
            found[node.module] += node.own
        order = sorted(found, key=lambda module: (-found[module].invalidated, module))
        return {module: found[module] for module in order if found[module].invalidated}

    def methods(self) -> list[Lost]:
        """Methods that lose specializations, those that lose most first."""
        found: dict[tuple[str, str, int], list[Node]] = defaultdict(list)
        for node in self.nodes():
            if node.own.invalidated:
                found[node.place].append(node)
        lost = [
            Lost(
                nodes[0].what.partition("(")[0] or nodes[0].what,
                nodes[0].path,
                nodes[0].line,
                sum((node.own for node in nodes), Counts()),
                len(nodes),
            )
            for nodes in found.values()
        ]
        return sorted(lost, key=lambda one: (-one.specializations, one.what, one.path, one.line))

    def branches(self) -> list[Node]:
        """Where it costs most: callers through whom most code is ended, that of none of which one further caller has
        all."""
        found = []
        for node in self.nodes():
            heaviest = max((caller.branch.size for caller in node.callers), default=0)
            if not isinstance(node, Change) and node.callers and heaviest < WHOLE * node.branch.size:
                found.append(node)
        return sorted(found, key=SORTS["cost"])[:MOST_BRANCHES]

    def to_json(self) -> dict[str, Any]:
        """For programs: the graph is a list of nodes, each with the number of the one that it calls."""
        numbers: dict[int, int] = {}
        nodes: list[dict[str, Any]] = []
        for node in self.nodes():
            numbers[id(node)] = len(nodes)
            about: dict[str, Any] = {
                **{"what": node.what, "module": node.module, "path": node.path, "line": node.line},
                **{"callee": None, "ways": node.ways, **_named(node.own), "branch": _named(node.branch)},
            }
            if isinstance(node, Change):
                about["change"] = node.kind
                about["specializations"], about["specialized"] = node.specializations, node.specialized
                about["overtaken"] = [{"what": what, "of": of} for what, of in node.overtaken]
            nodes.append(about)
        for node in self.nodes():
            for caller in node.callers:
                nodes[numbers[id(caller)]]["callee"] = numbers[id(node)]
        total = self.total
        return {
            "status": "shown",
            "summary": self.summary,
            "compared": list(self.compared) if self.compared else None,
            "base_id": self.base_id,
            "sources_id": self.sources_id,
            "changed_files": list(self.changed_files),
            "definitions": as_json(self.definitions),
            "full_rebuild_reason": self.full_rebuild_reason,
            "new_code_reason": self.new_code_reason,
            "no_cutoff_reason": self.no_cutoff_reason,
            "server": self.server,
            "invalidated": total.invalidated,
            "changed": total.changed,
            "recompiled": self.recompiled,
            "modules": {module: _named(counts) for module, counts in self.modules().items()},
            "methods": [
                {"what": one.what, "path": one.path, "line": one.line, "specializations": one.specializations}
                | _named(one.counts)
                for one in self.methods()
            ],
            "branches": [numbers[id(node)] for node in self.branches()],
            "ambiguities": [list(pair) for pair in self.ambiguities],
            "overwrites": list(self.overwrites),
            "elsewhere": list(self.elsewhere),
            "nodes": nodes,
        }


def _named(counts: Counts) -> dict[str, int]:
    return vars(counts).copy()


def read(answer: Mapping[str, Any], paths: Mapping[str, str]) -> dict[str, Any]:
    """What the host answers, as fields of `Impact`. `paths` are those of source files by their names in the image."""

    def node(about: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "what": spoken(about["types"]),
            "module": about.get("module", ""),
            "path": paths.get(about.get("file", ""), about.get("file", "")),
            "line": about.get("line", 0),
            "own": Counts(about["ended"], about["changed"], about["native"], about.get("compiled", 0), about["size"]),
        }

    changes = [
        Change(
            **node(about),
            kind=about["kind"],
            specializations=about["specializations"],
            specialized=about["specialized"],
            overtaken=[(pretty(one["types"]), pretty(one["of"])) for one in about["overtaken"]],
        )
        for about in answer["changes"]
    ]
    nodes = [Node(**node(about), ways=about["ways"]) for about in answer["nodes"]]
    for one, about in zip(nodes, answer["nodes"], strict=True):
        callee = changes[about["change"]] if about["callee"] < 0 else nodes[about["callee"]]
        callee.callers.append(one)
        one.branch = one.own
    for number in range(len(nodes) - 1, -1, -1):  # callers come after those that they call
        for caller in nodes[number].callers:
            nodes[number].branch += caller.branch
    for change in changes:
        change.branch = sum((caller.branch for caller in change.callers), change.own)
    return {
        "changes": changes,
        "elsewhere": [spoken(types) for types in answer["elsewhere"]],
        "recompiled": answer["compiled"],
        "ambiguities": [(f"{_method(one, paths)}", f"{_method(other, paths)}") for one, other in answer["ambiguities"]],
        "new_code_reason": answer["new_code_reason"] or None,
        "no_cutoff_reason": answer["no_cutoff_reason"] or None,
    }


def _method(about: Mapping[str, Any], paths: Mapping[str, str]) -> str:
    where = place(paths.get(about["file"], about["file"]), about["line"])
    return f"{brief(pretty(about['signature']))} in {where}"
