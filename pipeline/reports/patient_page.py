"""One page a patient: right eye left and left eye right as charts have them, how they differ, and how it went from visit to visit."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from pipeline.reports import wording
from pipeline.reports.measures import ShownMeasure, by_key, difference, in_front, shown_measures
from pipeline.reports.pages import edition, write_page
from pipeline.reports.results import ReportCase, RunFacts
from pipeline.reports.trends import Number, trends
from pipeline.reports.visits import has_date, visit_order
from pipeline.types.visits import VisitsRecord


@dataclass(frozen=True)
class Picture:
    """One case of a patient, as the page shows it."""

    name: str
    alt: str
    eye: str
    grade: str
    flags: tuple[str, ...]


@dataclass(frozen=True)
class BothEyes:
    """One measure of a right and a left eye, and the right one less the left one."""

    either: ShownMeasure
    right: ShownMeasure | None
    left: ShownMeasure | None

    @property
    def difference(self) -> str:
        return "" if self.right is None or self.left is None else difference(self.right, self.left)


@dataclass(frozen=True)
class KindOfScan:
    """What one visit has of one kind of scan: pictures of each eye, the first of which is measured · ``measures`` to be seen at once and
    the rest."""

    title: str
    right: tuple[Picture, ...]
    left: tuple[Picture, ...]
    unknown: tuple[Picture, ...]
    measures: tuple[BothEyes, ...]
    more: tuple[BothEyes, ...]


@dataclass(frozen=True)
class Visit:
    """``id`` in the page's address · ``numbers``: by eye, key and title of a measure what it is, for comparing two visits."""

    id: str
    token: str
    words: str
    kinds: tuple[KindOfScan, ...]
    numbers: tuple[Number, ...]


def write_patient_pages(report: Path, run: RunFacts, cases: Sequence[ReportCase], places: VisitsRecord) -> None:
    """Write ``report/patients/<patient>.html`` of every patient; a page that is up to date is left alone, one without a case goes."""
    by_patient: dict[str, list[ReportCase]] = defaultdict(list)
    for case in cases:
        by_patient[case.key.patient].append(case)
    for patient, own in by_patient.items():
        path = report / "patients" / f"{patient}.html"
        state = _fingerprint(own, run, places)
        if state in _head(path):
            continue
        visits = patient_visits(own, places)
        numbers = [visit.numbers for visit in visits]
        values = {"patient": patient, "run": run, "visits": visits, "numbers": numbers, "trends": trends(numbers), "state": state}
        known = all(has_date(case.key, places) for case in own)
        write_page(path, "patient.html", values | {"ordered": known, "total": len(own), "source": wording.patient_source(own[0])})
    for path in (report / "patients").glob("*.html"):
        if path.stem not in by_patient:
            path.unlink()


def patient_visits(cases: Sequence[ReportCase], places: VisitsRecord) -> list[Visit]:
    """The visits of one patient, in their order as far as it is known."""
    in_order = sorted(cases, key=lambda case: (visit_order(case.key, places), case.key.image))
    out = []
    for number, (visit, members) in enumerate(groupby(in_order, key=lambda case: case.key.visit), start=1):
        own = list(members)
        words = places.words(own[0].key)
        kinds = tuple(_kinds(own))
        out.append(Visit(f"visit-{number}", visit, words[0].upper() + words[1:], kinds, tuple(_numbers(kinds))))
    return out


def _kinds(cases: Sequence[ReportCase]) -> Iterator[KindOfScan]:
    for (_, title), members in groupby(sorted(cases, key=_kind), key=_kind):
        own = list(members)
        of_eye = {eye: [case for case in own if case.side == eye] for eye in ("R", "L", "U")}
        right, left, unknown = (tuple(map(_picture, eyes)) for eyes in of_eye.values())
        pairs = _both_eyes(of_eye["R"], of_eye["L"])
        front = by_key(in_front([pair.either for pair in pairs])[0])
        yield KindOfScan(
            title,
            right,
            left,
            unknown,
            tuple(pair for pair in pairs if pair.either.record.key in front),
            tuple(pair for pair in pairs if pair.either.record.key not in front),
        )


def _kind(case: ReportCase) -> tuple[bool, str]:
    return case.volume, wording.modality(case)


def _both_eyes(right: Sequence[ReportCase], left: Sequence[ReportCase]) -> list[BothEyes]:
    """Every measure of the first picture of each eye, in the order in which they were measured."""
    of_right, of_left = (by_key(shown_measures(eyes[0])) if eyes else {} for eyes in (right, left))
    keys = dict.fromkeys([*of_right, *of_left])
    return [BothEyes(of_right.get(key) or of_left[key], of_right.get(key), of_left.get(key)) for key in keys]


def _picture(case: ReportCase) -> Picture:
    eye, record = wording.eye(case), case.record
    grade = "" if record.quality is None else wording.GRADES[record.quality.grade]
    alt = f"{wording.modality(case)}, {eye.words}, with what was found"
    return Picture(str(case.key), alt, eye.short, grade, tuple(flag.text for flag in record.flags))


def _numbers(kinds: Sequence[KindOfScan]) -> Iterator[Number]:
    for kind in kinds:
        for pair in (*kind.measures, *kind.more):
            for eye, one in (("OD", pair.right), ("OS", pair.left)):
                if one is not None:
                    key, title = f"{kind.title} {one.record.key}", pair.either.record.title
                    yield eye, key, title, one.value, one.text, one.record.unit, one.estimated


def _fingerprint(cases: Sequence[ReportCase], run: RunFacts, places: VisitsRecord) -> str:
    """Changes with anything the page shows."""
    digest = hashlib.sha256(repr((edition(), run.bundle_id, run.version, places.patients.get(cases[0].key.patient))).encode())
    for case in cases:
        digest.update(repr((case.key, case.side, case.record.to_json())).encode())
    return digest.hexdigest()


def _head(path: Path) -> str:
    """The beginning of a page, where its fingerprint stands; "" where there is none."""
    try:
        with path.open(encoding="utf-8") as file:
            return file.read(2_000)
    except (OSError, ValueError):
        return ""
