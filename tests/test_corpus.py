"""Edits as contributors make them (`corpus.py`), one at a time, and all that can be chained in one image."""

from __future__ import annotations

import pytest
from conftest import Bench
from corpus import EDITS, MARK, Edit, apply, joined


def parameters() -> list[object]:
    """The edits, those that show a defect that is known marked as such."""
    return [
        pytest.param(
            edit,
            id=edit.name,
            marks=[pytest.mark.xfail(strict=True, reason=edit.defect)] if edit.defect else [],
        )
        for edit in EDITS
    ]


@pytest.mark.parametrize("edit", parameters())
def test_edit(bench: Bench, edit: Edit) -> None:
    apply(bench.root, [edit])
    if edit.outcome:
        assert edit.outcome in bench.refusal()
    elif edit.new_code:
        plan = bench.json("status")
        assert plan["status"] == "chain" and plan["new_code_reason"]
    else:
        built = bench.chain()
        assert bench.julia(built["image"], edit.check) == edit.prints
        assert built["new_code_reason"] is None


def test_all_together(bench: Bench) -> None:
    # that the places of the edits are disjoint is what `apply` sees to
    together = [edit for edit in EDITS if edit.together]
    apply(bench.root, together)
    program, prints = joined(together)
    shown = bench.julia(bench.chain()["image"], program).split(MARK)
    differing = [
        (edit.name, is_, said) for edit, is_, said in zip(together, shown[1:], prints, strict=True) if is_ != said
    ]
    assert not differing


def test_corpus_is_wide() -> None:
    assert len(EDITS) >= 64
    assert len({edit.name for edit in EDITS}) == len(EDITS)
    assert len({edit.kind for edit in EDITS}) >= 60
