"""An impact as one page for a browser: the template `impact.html` with the data in it. It loads nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .impact import Change, Impact, Node
from .signatures import brief

TEMPLATE = Path(__file__).with_name("impact.html")

PLACE = "{{data}}"
"""Where the template has the data."""


def page(impact: Impact) -> str:
    """The text of the page."""
    # In a script, only the end of the element and the beginning of a comment mean anything else.
    data = json.dumps(_data(impact), ensure_ascii=True, separators=(",", ":")).replace("<", "\\u003c")
    return TEMPLATE.read_text(encoding="utf-8").replace(PLACE, data)


def _data(impact: Impact) -> dict[str, Any]:
    nodes = list(impact.nodes())
    numbers = {id(node): number for number, node in enumerate(nodes)}
    callees = {id(caller): numbers[id(node)] for node in nodes for caller in node.callers}
    total = impact.total
    return {
        "summary": impact.summary,
        "compared": impact.compared,
        "files": impact.changed_files,
        "definitions": [vars(one) for one in impact.definitions],
        "everything": impact.everything,
        "total": {**vars(total), "recompiled": impact.recompiled},
        # numbers instead of names: there are thousands
        "nodes": [[*_node(node), callees.get(id(node), -1), node.ways, *node.own.numbers] for node in nodes],
        "branches": [numbers[id(node)] for node in impact.branches()],
        "methods": [
            [one.what, one.path.removeprefix("base/"), one.line, *one.counts.numbers] for one in impact.methods()
        ],
        "overtaken": [
            f"{what} of {of}, by {change.what}" for change in impact.changes for what, of in change.overtaken
        ],
        "ambiguities": [f"{one} and {other}" for one, other in impact.ambiguities],
        "overwrites": impact.overwrites,
        "elsewhere": impact.elsewhere,
    }


def _node(node: Node) -> tuple[str, str, str, str, int, str]:
    kind = node.kind if isinstance(node, Change) else ""
    return node.what, brief(node.what, 80), node.module, node.path.removeprefix("base/"), node.line, kind
