"""Spoilt input of every format of our own: it is read or refused, as `tools/fuzz` tries with many more."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from fuzzing import TARGETS, WAYS, Edit, in_memory
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

EDITS = st.lists(
    st.tuples(st.integers(0, WAYS - 1), st.integers(0, (1 << 32) - 1), st.binary(min_size=1, max_size=8)), max_size=6
)


@pytest.mark.parametrize("name", TARGETS)
def test_spoilt_input_is_refused(name: str) -> None:
    target = TARGETS[name]
    with in_memory() as directory:
        examples = target.examples(directory)
        for example in examples:
            target.read(example, [], directory)  # which nothing is wrong with
        _try(name, examples, directory)


def _try(name: str, examples: list[bytes], directory: Path) -> None:
    @settings(max_examples=50, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(examples), EDITS)
    def try_one(example: bytes, edits: list[Edit]) -> None:
        with suppress(*TARGETS[name].refusals):
            TARGETS[name].read(example, edits, directory)

    try_one()
