"""What became of each bundle in a folder of predictions: how many scans it fitted, and in how many it found nothing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pipeline.metrics.useless import mostly_empty_sentence, useless_sentence, validation_dice
from pipeline.types.case_record import CaseRecord, ClassRecord
from pipeline.types.run_record import RunRecord

_RECORD = "bundle.json"


@dataclass(frozen=True)
class Use:
    """``classes`` of a bundle · ``scans``: cases that it took part in · ``empty``: those of them in which it found nothing."""

    classes: tuple[str, ...] = ()
    scans: int = 0
    empty: int = 0

    def with_case(self, own: Mapping[str, ClassRecord]) -> Use:
        """One case more, with the classes of this bundle."""
        # One that says what a scan as a whole is has no classes that could be found in it.
        nothing = bool(own) and not any(found.pixels or found.objects for found in own.values())
        return Use(tuple(dict.fromkeys((*self.classes, *own))), self.scans + 1, self.empty + nothing)


def uses_of(cases: Iterable[tuple[str, Mapping[str, ClassRecord]]]) -> dict[str, Use]:
    """By each bundle's id, from the bundle id and the classes of each case (types/case_record.py)."""
    uses: dict[str, Use] = {}
    for ids, classes in cases:
        for one in ids.split("+"):
            own = classes if one == ids else {name: found for name, found in classes.items() if found.bundle_id == one}
            uses[one] = uses.get(one, Use()).with_case(own)
    return uses


def cases_in(out: Path) -> Iterator[tuple[str, Mapping[str, ClassRecord]]]:
    """What :func:`uses_of` takes, of a folder of predictions; cases whose record cannot be read are passed over; the report has them."""
    for case in records_in(out):
        yield case.bundle_id, case.classes


def records_in(out: Path) -> Iterator[CaseRecord]:
    """The cases of a folder of predictions whose record can be read."""
    for folder in sorted((out / "cases").iterdir()):
        with suppress(OSError, ValueError):
            yield CaseRecord.read(folder)


def eyes_lines(cases: Iterable[CaseRecord]) -> list[str]:
    """How many cases a person must look at, and why; nothing of a folder in which none is."""
    total, withheld, poor, flagged = 0, 0, 0, 0
    for case in cases:
        total += 1
        withheld += not case.measurable
        poor += case.measurable and case.quality is not None and case.quality.grade == "poor"
        flagged += case.measurable and bool(case.flags) and not (case.quality is not None and case.quality.grade == "poor")
    if not withheld + poor + flagged:
        return []
    parts = [f"{withheld} not measurable (no numbers)", f"{poor} poor picture{'s' * (poor != 1)}", f"{flagged} with a doubtful finding"]
    shown = ", ".join(part for number, part in zip((withheld, poor, flagged), parts, strict=True) if number)
    return [f"needs a person's eyes: {withheld + poor + flagged} of {total} ({shown})"]


def use_lines(uses: Mapping[str, Use], bundles: Mapping[str, Path]) -> list[str]:
    """What a person reads of each bundle, by its name."""
    lines = []
    for name, path in bundles.items():
        record = json.loads((path / _RECORD).read_text(encoding="utf-8"))
        use = uses.get(record["id"], Use())
        kind = "" if record["modality"] == "unknown" else f"{record['modality']} "
        left_out = f"left out, no {kind}scan was segmented"
        lines.append(f"{name}: {f'{use.scans} scan' + 's' * (use.scans != 1) if use.scans else left_out}")
    return lines


def doubts(metrics: Mapping[str, object], uses: Mapping[str, Use]) -> list[str]:
    """What must be said before anybody uses the predictions: of bundles without use, and of those that found nothing in most scans."""
    empty = (mostly_empty_sentence(" and ".join(use.classes), use.empty, use.scans) for use in uses.values())
    return [sentence for sentence in (useless_sentence(validation_dice(metrics), "validation"), *empty) if sentence is not None]


def doubts_in(out: Path) -> list[str]:
    """:func:`doubts` of a folder of predictions."""
    return doubts(RunRecord.read(out).metrics, uses_of(cases_in(out)))
