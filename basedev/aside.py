"""What is done while this process waits for another."""

from __future__ import annotations

import os
import pickle
import signal
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, NoReturn, TypeVar, cast

from .errors import InternalError
from .process import INTERRUPTIONS, die_with_parent, how_it_ended

T = TypeVar("T")


class Aside(Generic[T]):
    """A function's result, which a child of this process works out. `with` it, the child has ended afterwards.

    A thread would do if there were no Ctrl-C: Python's locks do not survive an interruption at every moment. One that
    came during an import left the lock of imports locked, and a thread that imported GitPython waited for it for ever.
    """

    def __init__(self, work: Callable[[], T]) -> None:
        self._answer: tuple[bool, object] | None = None
        reading, writing = os.pipe()
        # An interruption must find that one of the two knows what it is: it would be cleaned up twice after.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, INTERRUPTIONS)
        try:
            self._child = os.fork()
            if self._child == 0:
                _answer(work, writing)
            os.close(writing)
            self._pipe = os.fdopen(reading, "rb")
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def result(self) -> T:
        """Waits for it. Raises what the function raised, InternalError when the child was killed."""
        if self._answer is None:
            said = self._pipe.read()
            status = os.waitstatus_to_exitcode(os.waitpid(self._child, 0)[1])
            if not said or status:
                raise InternalError(f"a child of basedev {how_it_ended(status)}")
            self._answer = pickle.loads(said)
        succeeded, value = self._answer
        if not succeeded:
            raise cast(BaseException, value)
        return cast(T, value)

    def __enter__(self) -> Aside[T]:
        return self

    def __exit__(self, *_: object) -> None:
        if self._answer is None:
            with suppress(ProcessLookupError, ChildProcessError):
                os.kill(self._child, signal.SIGKILL)
                os.waitpid(self._child, 0)
        self._pipe.close()


def _answer(work: Callable[[], object], pipe: int) -> NoReturn:
    """All that the child does. It must not return to what its parent was doing."""
    try:
        die_with_parent()
        for number in INTERRUPTIONS:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, INTERRUPTIONS)
        try:
            answer: tuple[bool, object] = True, work()
        except Exception as error:
            answer = False, error
        with os.fdopen(pipe, "wb") as file:
            file.write(pickle.dumps(answer))
        os._exit(0)
    finally:
        os._exit(1)
