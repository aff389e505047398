"""What files say of each other, decided from all of them together, so that neither the order nor the process in which they came counts.

* Files of equal content (equal SHA-256; or one SOP Instance UID and equal pixels) are one case. It is named by the file with the smallest
  (name of its case, token of its path); slices by the smallest folder first, so that a volume is made of one folder's.
* Two pictures under one name: the one with the smaller SHA-256 has it, the other one gets the beginning of its own behind it.
* Files of a series are one volume, or pictures that say why not, whatever blocks they were in.
* One SOP Instance UID of two pictures: the first by the same order stays as it is, the other one says so.

What an earlier complete run has settled stays (its cases may have been reviewed): what comes later is compared with that. Until all
is known each process gives the result to the first file that it meets; where that was another one than here, the case is made once more.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline.inference.case_files import recorded_sha256, suffixed, write_json
from pipeline.inference.journal import Entry, Journal
from pipeline.inference.laterality import doubt_side
from pipeline.inference.out_folder import REMOVED, WORK
from pipeline.inference.pieces import judged
from pipeline.scans.originals import Other
from pipeline.types import CaseKey
from pipeline.types.case_record import CASE_FILE, CaseRecord

_RESULTS = ("done", "part")


@dataclass
class Decision:
    """``entries`` that end differently than they were entered · ``drop``: cases that must not be · ``make``: files that are to become one
    case, or pictures of one series, with the name that a case must have, where that is another one than its file says."""

    entries: list[Entry] = field(default_factory=list)
    drop: set[str] = field(default_factory=set)
    make: list[tuple[tuple[str, ...], str]] = field(default_factory=list)


def decide(journal: Journal, out: Path, is_there: Callable[[str], bool]) -> Decision:
    """What must change before all files are as they would be had one process seen them all; nothing where that is so.

    ``is_there``: whether the file with a token can be read, should it have to be.
    """
    journal.gather()
    decision = Decision()
    copies = _duplicates(journal, out, is_there, decision)
    _series(journal, copies, is_there, decision)
    if not decision.make and not decision.drop:
        _names(journal, copies, decision)
    return decision


def carry_out(decision: Decision, journal: Journal, out: Path) -> None:
    """Enter and remove; what is to be made is left to the caller."""
    for case in sorted(decision.drop):
        _remove(out, case)
        journal.forget_case(case)
    journal.record(*decision.entries)


def _remove(out: Path, case: str) -> None:
    """First the name, at once: of a process that is killed here no half of a case is left that would be taken for a whole one."""
    folder, aside = out / "cases" / case, out / WORK / f"{REMOVED}{case}"
    shutil.rmtree(aside, ignore_errors=True)
    with suppress(OSError):
        folder.rename(aside)
    for path in (aside, folder):
        shutil.rmtree(path, ignore_errors=True)


def _has_case(entry: Entry, out: Path) -> bool:
    return entry.status in _RESULTS and (out / "cases" / entry.case).is_dir()


def _rank(entry: Entry) -> tuple[bool, str, str, str]:
    return (not (entry.settled and entry.status in _RESULTS), entry.place, entry.key or entry.case, entry.token)


def _duplicates(journal: Journal, out: Path, is_there: Callable[[str], bool], decision: Decision) -> set[str]:
    """Tokens of the files that repeat others."""
    copies: set[str] = set()
    for group in journal.equal_contents():
        usable = [entry for entry in group if (_has_case(entry, out) if entry.status in _RESULTS else is_there(entry.token))]
        if not usable:
            continue
        first = min(usable, key=_rank)
        others = [entry for entry in group if entry.token != first.token]
        has_case = first.status in _RESULTS
        if has_case and not first.settled and any(one.status in _RESULTS and one.case == first.case for one in others):
            decision.drop |= {first.case} if not first.series else set()  # of two equal names nobody knows whose it is
            has_case = False
        if not has_case and not first.series:
            decision.make.append(((first.token,), ""))
        for entry in others:
            copies.add(entry.token)
            if not entry.settled:
                decision.drop |= _folders(entry, out) - ({first.case} if has_case else set())
                decision.entries.append(_copy_of(first, entry))
    return copies


def _folders(entry: Entry, out: Path) -> set[str]:
    """Of the case that a file has, though it repeats another one, perhaps left by a process that was killed."""
    if entry.series:
        return set()  # a volume's, which its series decides on
    own = entry.key or entry.case
    names = {entry.case} if entry.status in _RESULTS else {own, suffixed(CaseKey.parse(own), entry.sha256)}
    return {name for name in names if recorded_sha256(out / "cases" / name) == entry.sha256}


def _copy_of(first: Entry, entry: Entry) -> Entry:
    other, name = _other(first, entry), entry.key or entry.case
    return replace(
        entry, status="duplicate", code=other.kind, reason=other.same, case=name, sha256=entry.own or entry.sha256, judged="", seconds=0.0
    )


def _other(first: Entry, entry: Entry) -> Other:
    same = (entry.own or entry.sha256) == (first.own or first.sha256)
    return Other("same_content" if same else "same_instance", first.token, first.case)


def _series(journal: Journal, copies: set[str], is_there: Callable[[str], bool], decision: Decision) -> None:
    for group in journal.new_series():
        wanted = [entry for entry in group if entry.token not in copies and (entry.status in _RESULTS or is_there(entry.token))]
        of = judged(entry.token for entry in wanted)
        made = {entry.case for entry in group if entry.status == "done" and not entry.settled}
        of_copies = {entry.case for entry in group if entry.status == "done" and not entry.settled and entry.token in copies}
        good = {entry.case for entry in wanted}
        if all(entry.status in _RESULTS and entry.judged == of for entry in wanted) and not good & of_copies:
            decision.drop |= of_copies
        elif wanted:
            decision.drop |= made
            decision.make.append((tuple(entry.token for entry in wanted), ""))


def _names(journal: Journal, copies: set[str], decision: Decision) -> None:
    for group in journal.equal_names():
        results = sorted((entry for entry in group if entry.token not in copies), key=lambda one: (not one.settled, one.sha256))
        for place, entry in enumerate(results):
            wanted = entry.key if place == 0 else suffixed(CaseKey.parse(entry.key), entry.sha256)
            if not entry.settled and entry.case != wanted and not entry.series:
                decision.drop.add(entry.case)
                decision.make.append(((entry.token,), wanted))


def tell_conflicts(journal: Journal, out: Path) -> None:
    """What cases say of others, once all are there: one SOP Instance UID of two pictures, one picture under the names of both eyes."""
    journal.gather()
    for group in journal.conflicts():
        first = min(group, key=_rank)
        note = f"{first.case} has the same SOP Instance UID and another picture; one of the two is named wrongly"
        for case in sorted({entry.case for entry in group if entry.pixels != first.pixels and not entry.settled} - {first.case}):
            _warn(out / "cases" / case, note)
            journal.record(*(_noted(entry, note) for entry in journal.of_case(case) if entry.status == "done"))
    journal.gather()
    for group in journal.equal_contents():
        made = [entry for entry in group if _has_case(entry, out)]
        for entry in (one for one in group if made and one.status == "duplicate" and not one.settled):
            first = min(made, key=_rank)
            copy = _copy_of(first, entry)
            said = doubt_side(out, _other(first, entry), copy.case)
            journal.record(replace(copy, reason=copy.reason + said))


def _noted(entry: Entry, note: str) -> Entry:
    return entry if note in entry.reason else replace(entry, reason="; ".join(filter(None, (entry.reason, note))))


def _warn(folder: Path, note: str) -> None:
    with suppress(OSError, ValueError):  # of a damaged record the report tells
        record = CaseRecord.read(folder)
        if note not in record.warnings:
            write_json(folder / CASE_FILE, record.model_copy(update={"warnings": (*record.warnings, note)}).to_json())
