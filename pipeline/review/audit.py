"""Whether a review is still what its reviewers left: the chain of the log, the corrections that it names, and the model's answers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import OcusegError
from pipeline.review.corrections import corrections_folder, model_sha256, read_files
from pipeline.review.log import AuditLog, Event
from pipeline.review.state import states


@dataclass(frozen=True)
class Audit:
    """``broken``: the first event that is not as it was written, or None · ``head``: hash of the newest · ``faults``: a sentence each ·
    ``unnamed``: corrections that no event names, which a process left that ended before it could."""

    events: int
    head: str
    broken: int | None
    faults: tuple[str, ...]
    corrections: int
    unnamed: int


def audit(predictions: Path, noted: str | None = None) -> Audit:
    """Look at everything. ``noted``: a hash that was the newest once, kept elsewhere; the log must still hold it."""
    log = AuditLog.of(predictions)
    events, broken = log.events(), log.verify()
    faults = [] if broken is None else [f"event {broken} of the log is not as it was written, and what follows cannot be relied on"]
    if noted is not None and noted not in {event.hash for event in events}:
        faults.append(f"the log does not hold the event {noted[:12]} that was noted: its end was replaced")
    named = {event.correction: event.case for event in events if event.correction}
    for name, case in named.items():
        try:
            read_files(predictions, name)
        except OcusegError as error:
            faults.append(f"{case}: {error}")
    faults += _changed(predictions, events)
    there = {path.name for path in corrections_folder(predictions).glob("[0-9a-f]*") if path.is_dir()}
    return Audit(len(events), log.head(), broken, tuple(faults), len(named), len(there - set(named)))


def status(predictions: Path, cases: int) -> dict[str, Any]:
    """Counts of a review of so many ``cases``."""
    found = states(predictions)
    verdicts = Counter(state.verdict for state in found.values())
    events = AuditLog.of(predictions).events()
    reviewed = {verdict: verdicts[verdict] for verdict in ("accepted", "rejected", "edited")}
    return {
        "cases": cases,
        **reviewed,
        "unreviewed": cases - sum(reviewed.values()),
        "reasons": dict(Counter(reason for state in found.values() if state.verdict == "rejected" for reason in state.reasons)),
        "read_twice": sum({"reader", "second"} <= set(state.readings) for state in found.values()),
        "disagreements": sum(state.disagreement for state in found.values()),
        "reviewers": dict(Counter(event.reviewer for event in events if event.verdict)),
        "events": len(events),
        "head": events[-1].hash if events else "",
    }


def _changed(predictions: Path, events: list[Event]) -> list[str]:
    """Cases whose model's answer is another one than that of the last verdict."""
    last = {event.case: event for event in events if event.verdict}
    out = []
    for case, event in sorted(last.items()):
        folder = predictions / "cases" / case
        if not folder.is_dir():
            out.append(f"{case}: it was reviewed and is not among the predictions any more")
        elif model_sha256(folder) != event.mask_sha256:
            out.append(f"{case}: the model's answer is another one than the one that was reviewed")
    return out
