"""A case as one visitor sees it, and whether what they send is about that."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.review.log import Event, VersionConflict
from pipeline.review.state import ReviewState
from pipeline.review.submitted import Unfit


@dataclass(frozen=True)
class Seen:
    """A case as one visitor sees it: ``events`` that are visible to them, ``state`` of their own role's work, ``all`` of everybody's
    that is visible · ``model``: hash of what the model found · ``correction`` that stands in place of it, or ""."""

    events: list[Event]
    state: ReviewState
    all: ReviewState
    model: str
    correction: str

    @property
    def changed(self) -> bool:
        """Whether the model's answer is another one than that of the last verdict."""
        return bool(self.state.mask_sha256) and self.state.mask_sha256 != self.model

    @property
    def author(self) -> str:
        """Who drew the correction that stands."""
        return next((one.reviewer for one in self.events if self.correction and one.correction == self.correction), "")

    def check(self, model: str) -> None:
        """Raises Unfit: it was decided on another answer of the model than the one that is there now."""
        if model and model != self.model:
            raise Unfit("the case was predicted again since this page was loaded, so that nothing is stored; load the page again")

    def shown(self, base: str | None) -> str:
        """The correction that a verdict or an edit is about, "" the model's answer; where the page does not say it, whatever stands.

        Raises Unfit: no event that the visitor may see names it.
        """
        if base is None:
            return self.correction
        if base and base not in {one.correction for one in self.events if one.mask_sha256 == self.model}:
            raise Unfit("the correction that was shown is none of this case; load the page again")
        return base

    def conflict(self) -> VersionConflict:
        last = self.events[-1] if self.events else None
        return VersionConflict(last.reviewer if last else "", last.at if last else "", len(self.events))
