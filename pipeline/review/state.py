"""What became of each case, from the events of the audit log."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

from pipeline.review.log import AuditLog, Event, Role, Verdict
from pipeline.types import Laterality


@dataclass(frozen=True)
class Reading:
    """The last verdict of one role on a case. ``correction`` "": it is about the model's own mask · ``mask_sha256`` of what the model had
    found then."""

    role: Role
    reviewer: str
    verdict: Verdict
    at: str
    reasons: tuple[str, ...] = ()
    comment: str = ""
    correction: str = ""
    mask_sha256: str = ""


@dataclass(frozen=True)
class ReviewState:
    """A case as reviewed so far.

    ``verdict`` is the adjudicator's, else the reader's, else the second reader's. "edited": the mask that counts is the ``correction``;
    "accepted": it is the model's own; "rejected": none does. ``reviewer`` and ``at`` belong to the verdict, ``author`` and ``drawn`` to the
    correction, which somebody else may have accepted · ``comment``: the last one · ``eye``: R or L as a reviewer set it, or "" ·
    ``readings``: the last verdict of each role · ``mask_sha256`` and ``bundle_id``: of what the model had found when the verdict was given.
    """

    case: str
    verdict: Verdict = "unreviewed"
    reasons: tuple[str, ...] = ()
    comment: str = ""
    reviewer: str = ""
    at: str = ""
    version: int = 0
    eye: str = ""
    correction: str = ""
    author: str = ""
    drawn: str = ""
    mask_sha256: str = ""
    bundle_id: str = ""
    readings: Mapping[Role, Reading] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def disagreement(self) -> bool:
        """Whether reader and second reader gave different verdicts and no adjudicator has ended it."""
        pair = [self.readings[role].verdict for role in ("reader", "second") if role in self.readings]
        return len(pair) == 2 and pair[0] != pair[1] and "adjudicator" not in self.readings


def states(predictions: Path) -> dict[str, ReviewState]:
    """Of each case with an event; {} where there was no review.

    Raises
    ------
    OcusegError: the log cannot be read.
    """
    by_case: dict[str, list[Event]] = {}
    for event in AuditLog.of(predictions).events():
        by_case.setdefault(event.case, []).append(event)
    return {case: state_of(case, events) for case, events in by_case.items()}


def eyes_of(predictions: Path) -> dict[str, Laterality]:
    """The eye of each case whose eye a reviewer set, for whoever shows it; the case's own record stays as it was."""
    eyes: Mapping[str, Laterality] = {"R": "R", "L": "L"}
    return {case: eyes[state.eye] for case, state in states(predictions).items() if state.eye in eyes}


def state_of(case: str, events: Iterable[Event]) -> ReviewState:
    """The state that these events of one case, in their order, lead to."""
    readings: dict[Role, Reading] = {}
    given: dict[Role, Event] = {}
    events = list(events)
    comment, eye = "", ""
    for event in events:
        comment, eye = event.comment or comment, event.eye or eye
        if event.verdict:
            given[event.role] = event
            told = (event.reasons, event.comment, event.correction, event.mask_sha256)
            readings[event.role] = Reading(event.role, event.reviewer, event.verdict, event.at, *told)
    state = ReviewState(case, comment=comment, eye=eye, version=len(events), readings=MappingProxyType(readings))
    order: tuple[Role, ...] = ("adjudicator", "reader", "second")
    counts = next((given[role] for role in order if role in given), None)
    if counts is None or not counts.verdict:
        return state
    drawn = next((event for event in events if event.correction == counts.correction), counts) if counts.correction else None
    return replace(
        state,
        verdict=counts.verdict,
        reasons=counts.reasons,
        reviewer=counts.reviewer,
        at=counts.at,
        correction=counts.correction,
        author=drawn.reviewer if drawn is not None else "",
        drawn=drawn.at if drawn is not None else "",
        mask_sha256=counts.mask_sha256,
        bundle_id=counts.bundle_id,
    )
