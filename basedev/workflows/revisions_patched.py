"""`basedev revision` and `basedev run --replay` for a source checkout of current Julia."""

from __future__ import annotations

from ..engines.patched.host_program import Host, defining
from ..errors import UserCodeError
from ..revision import Delete, Evaluate, Revision, Unbind
from ..sources import Sources
from .build import Result
from .build_patched import PatchedBuilder
from .revisions import Reviser, Standing, standing


class PatchedReviser(Reviser, PatchedBuilder):
    """See `Reviser`."""

    def _found(self, sources: Sources) -> tuple[Revision, Standing]:
        self._check_ground()

        def find(host: Host) -> tuple[Revision, Standing]:
            revision = self._revise(sources, host)
            return revision, standing(revision, host.parse_all)

        return self.with_host(find)

    def _make(self, revision: Revision, name: str, result: Result, commit: str | None) -> None:
        def find(host: Host) -> Revision:
            self._try(host, revision)
            return revision

        self._make_chained(name, result, find, lambda: commit)

    @staticmethod
    def _try(host: Host, revision: Revision) -> None:
        """Raises UserCodeError when a definition fails, NeedsFullRebuild when the revision can't be chained."""
        for error in host.trial(revision.steps)["errors"]:
            step = defining(revision.steps)[error["step"]]
            assert isinstance(step, Evaluate | Delete | Unbind)
            what = f"{step.file}:{step.line}" if isinstance(step, Evaluate) else f"{step.module}.{step.name}"
            raise UserCodeError(f"{what}: a definition fails when it is evaluated", error["message"])
        host.computed(revision.steps, None, None)
