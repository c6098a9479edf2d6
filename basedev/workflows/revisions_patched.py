"""`basedev revision` and `basedev run --replay` for a source checkout of current Julia."""

from __future__ import annotations

from ..engines.patched.host_program import Host, defining
from ..engines.patched.spares import ALL, Spares
from ..errors import UserCodeError
from ..revision import Delete, Evaluate, Revision, Unbind
from ..sources import Sources
from .build import Result
from .build_patched import PatchedBuilder, old_lines
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
        self._check_ground()

        def make(spares: Spares | None) -> None:
            with self._making_layer(spares) as (made, make_layer):
                with self._host(spares) as host:
                    result.invalidated = self._tried(host, revision)
                    kept = self._cut_off(host, revision, result.invalidated)
                result.reinferred, result.no_cutoff_reason = kept.inferred, kept.no_cutoff_reason
                layer = make_layer(revision.steps, kept, self.progress)
                result.linker, result.server, result.timings = layer.linker, self.server, dict(layer.timings)
                result.old_lines_reason = old_lines(revision)
                self._publish(name, made / "sys.so", result, commit)

        self._with_spares(ALL, make)

    @staticmethod
    def _tried(host: Host, revision: Revision) -> int:
        """How many MethodInstances a revision invalidates. Raises UserCodeError when a definition fails,
        NeedsFullRebuild when it can't be chained."""
        for error in host.trial(revision.steps)["errors"]:
            step = defining(revision.steps)[error["step"]]
            assert isinstance(step, Evaluate | Delete | Unbind)
            what = f"{step.file}:{step.line}" if isinstance(step, Evaluate) else f"{step.module}.{step.name}"
            raise UserCodeError(f"{what}: a definition fails when it is evaluated", error["message"])
        host.computed(revision.steps, None, None)
        return host.invalidated
