"""Bisection as such: which commit of a graph to test next, and what is known in the end.

The choice is git's own (`bisect.c`): the commit that halves best what is left, of equals the one with the smallest id;
with skipped commits about, one at some distance from them that is always the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import isqrt

PRN_MODULO = 32768


@dataclass(frozen=True)
class Choice:
    """What to do next: test `commit`, or, when it is None, take one of `culprits` for the first bad commit."""

    commit: str | None
    left: int = 0
    """How many commits may still be left to test after this one."""
    steps: int = 0
    """How many tests that will take, about."""
    culprits: tuple[str, ...] = ()
    """The first bad commit; where skipped commits hide it, all that it may be, in the order of history."""


@dataclass(frozen=True)
class Graph:
    """The parents of commits, children before their parents. Parents that are not among the commits are left out."""

    parents: Mapping[str, tuple[str, ...]]

    @classmethod
    def read(cls, text: str, *, first_parent: bool = False) -> Graph:
        """The graph that `git rev-list --topo-order --parents` prints."""
        lines = [line.split() for line in text.splitlines()]
        known = {commit for commit, *_ in lines}
        most = 1 if first_parent else None
        return cls({commit: tuple(one for one in rest[:most] if one in known) for commit, *rest in lines})

    def choose(self, bad: str, good: Iterable[str], skipped: Collection[str] = ()) -> Choice:
        """The next commit to test, when `bad` is bad, those of `good` are good, and `skipped` can't be tested."""
        passed = set(self._ancestors(good))
        mine = set(self._ancestors([bad]))
        candidates = [commit for commit in self.parents if commit in mine and commit not in passed]
        weights = self._weights(candidates)
        total = len(candidates)
        # how many a test there leaves at least, whatever comes of it
        halving = sorted(candidates, key=lambda commit: (-min(weights[commit], total - weights[commit]), commit))
        testable = [commit for commit in halving if commit == bad or commit not in skipped] or [bad]
        chosen = testable[0] if halving[:1] == testable[:1] else _away(testable, bad)
        if chosen == bad:
            hidden = [commit for commit in reversed(candidates) if commit in skipped and commit != bad]
            return Choice(None, culprits=(*hidden, bad))
        return Choice(chosen, total - weights[chosen] - 1, estimated_steps(total))

    def _ancestors(self, commits: Iterable[str]) -> Iterator[str]:
        """Commits of the graph, and those from which they come."""
        waiting = [commit for commit in commits if commit in self.parents]
        seen = set(waiting)
        while waiting:
            commit = waiting.pop()
            yield commit
            fresh = [parent for parent in self.parents[commit] if parent not in seen]
            seen.update(fresh)
            waiting += fresh

    def _weights(self, candidates: list[str]) -> dict[str, int]:
        """How many of the candidates each of them contains, itself included."""
        bit = {commit: 1 << number for number, commit in enumerate(reversed(candidates))}
        children = Counter(parent for commit in candidates for parent in self.parents[commit])
        reached: dict[str, int] = {}  # as sets of bits, of commits that have children still to come
        weights = {}
        for commit in reversed(candidates):
            reach = bit[commit]
            for parent in self.parents[commit]:
                reach |= reached.get(parent, 0)
                children[parent] -= 1
                if not children[parent]:
                    reached.pop(parent, None)
            reached[commit] = reach
            weights[commit] = reach.bit_count()
        return weights


def estimated_steps(total: int) -> int:
    """How many tests bisecting so many commits takes, as git estimates it."""
    if total < 3:
        return 0
    whole = total.bit_length() - 1
    return whole if 1 << whole < 3 * (total - (1 << whole)) else whole - 1


def _away(testable: list[str], bad: str) -> str:
    """One that is not too near to the best, which was skipped: git's `skip_away`."""
    count = len(testable)
    random = ((count * 1103515245 + 12345) % 2**32 // 65536) % PRN_MODULO
    index = (count * random // PRN_MODULO) * isqrt(random) // isqrt(PRN_MODULO)
    chosen = testable[index] if index < count else testable[0]
    return testable[index - 1] if chosen == bad and 0 < index < count else chosen
