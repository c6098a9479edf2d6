"""What a child works out while its parent does something else."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest

from basedev.aside import Aside
from basedev.errors import InternalError, SetupError


def fail() -> int:
    raise SetupError("no room", "on the disk")


def test_result_and_error_come_back() -> None:
    with Aside(lambda: (os.getpid(), os.getppid())) as asked:
        child, parent = asked.result()
    assert parent == os.getpid() != child
    with Aside(fail) as failing, pytest.raises(SetupError, match="no room") as caught:
        failing.result()
    assert caught.value.detail == "on the disk"


def test_it_ends_with_its_block(tmp_path: Path) -> None:
    def work() -> None:
        (tmp_path / "pid").write_text(str(os.getpid()))
        time.sleep(600)

    with suppress(KeyboardInterrupt), Aside(work):
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            time.sleep(0.01)
        raise KeyboardInterrupt
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_one_that_is_killed_is_told() -> None:
    with (
        Aside(lambda: os.kill(os.getpid(), signal.SIGKILL)) as killed,
        pytest.raises(InternalError, match="a child of basedev was killed by signal 9"),
    ):
        killed.result()
