"""Edits as contributors make them (`corpus.py`), one at a time. Some together are in `test_verify.py`."""

from __future__ import annotations

import pytest
from conftest import Bench
from corpus import EDITS, Edit, apply


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


def test_edits_fit_together(bench: Bench) -> None:
    apply(bench.root, [edit for edit in EDITS if edit.together])  # fails where their places are not disjoint
    assert len([edit for edit in EDITS if edit.together]) > 50


def test_corpus_is_wide() -> None:
    assert len(EDITS) >= 64
    assert len({edit.name for edit in EDITS}) == len(EDITS)
    assert len({edit.kind for edit in EDITS}) >= 60
