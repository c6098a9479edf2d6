"""`basedev impact` for a source checkout of current Julia."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from ..checkout import Checkout
from ..commits import CommitCheckout
from ..engines.patched.baseimage import files_in
from ..engines.patched.host_program import Host
from ..engines.patched.limits import check, check_difference
from ..errors import NeedsFullRebuild, SetupError
from ..impact import Impact
from ..includes import SourceFile
from ..revise import revise
from ..revision import Revision, Step
from ..sources import Sources
from .build import PATCHED
from .build_patched import PatchedBuilder
from .impact import followed, told

NO_CUTOFF = "what comes out the same is not looked for here"
ALL_ANEW = "{}, and what comes out otherwise is not counted here"


class PatchedImpacts(PatchedBuilder):
    """See `impact.Impacts`."""

    def present(self) -> Impact:
        base, sources = self.base, self.checkout.sources(self.base.sources)
        if self._id_in_images(sources) == self._id_in_images(base.sources):
            return told(base, base.sources, sources, {})
        if reason := self._other_ground():
            return told(base, base.sources, sources, {"full_rebuild_reason": reason})
        self.progress("comparing definitions", 3.0)

        def follow(host: Host) -> dict[str, Any]:
            return self._followed(host, base.files, lambda: self._revise(sources, host))

        return told(base, base.sources, sources, self.with_host(follow))

    def against(self, after: Checkout) -> Impact:
        base, old, new = self.base, self.checkout.sources(self.base.sources), after.sources(self.base.sources)
        if old.id == new.id:
            return told(base, old, new, {})
        if isinstance(after, CommitCheckout) and (reason := after.unlike_base()):
            return told(base, old, new, {"full_rebuild_reason": reason})
        try:
            image = self.build(engine=PATCHED).image
        except NeedsFullRebuild as reason:
            raise SetupError(f"what is compared with needs an image that is chained: {reason}") from reason
        assert image is not None
        self.progress("comparing definitions", 8.0)
        with Host(self.checkout.julia, image) as host:
            files = files_in(host.facts()["files"], base.files)
            found = self._followed(host, files, partial(self._difference, host, files, old, new))
        return told(base, old, new, found)

    @staticmethod
    def _difference(host: Host, files: Mapping[str, SourceFile], old: Sources, new: Sources) -> Revision:
        old, new = (one.of_images(files) for one in (old, new))
        check(old, new, files)
        return revise(old, new, files, host, check=check_difference)

    def _followed(self, host: Host, files: Mapping[str, SourceFile], find: Callable[[], Revision]) -> dict[str, Any]:
        def impact(steps: Sequence[Step]) -> dict[str, Any]:
            self.progress("following what the edit invalidates", 3.0)
            reason = ALL_ANEW.format(host.anew_reason) if host.anew_reason else NO_CUTOFF
            return {**host.impact(steps), "new_code_reason": None, "no_cutoff_reason": reason}

        return followed(find, impact, files)
