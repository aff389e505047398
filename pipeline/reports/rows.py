"""One row of the worklist a case, from which the page, its script and worklist.csv are made: the same words and numbers in all three."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.reports import wording
from pipeline.reports.need import Asymmetry, Status, reasons, status, why_withheld
from pipeline.reports.page_facts import PageFacts
from pipeline.reports.results import ReportCase
from pipeline.reports.wording import ClassStyle, Eye


@dataclass(frozen=True)
class Finding:
    """What was found of one class, ``place`` in the run's classes. ``text``: as pages say it, "" where nothing was found, "–" where no
    number is shown, which ``withheld`` gives the reason of · ``objects``, ``pixels`` and ``mm`` (mm2, of a volume mm3): None where that is
    not known or not shown."""

    place: int
    name: str
    text: str
    objects: int | None = None
    pixels: int | None = None
    mm: str | None = None
    withheld: str = ""


@dataclass(frozen=True)
class Row:
    """``findings``: of every class that was looked for."""

    case: ReportCase
    eye: Eye
    status: Status
    reasons: tuple[str, ...]
    asymmetry: Asymmetry | None
    findings: tuple[Finding, ...]
    answers: tuple[str, ...]
    warnings: tuple[str, ...]
    boxes_only: bool

    @property
    def name(self) -> str:
        return str(self.case.key)

    @property
    def grade(self) -> str:
        """Of the picture, in words; "not graded" where nothing looked at its quality."""
        quality = self.case.record.quality
        return "not graded" if quality is None else quality.grade.replace("_", " ")

    @property
    def doubt(self) -> float | None:
        """0 sure to 1 in doubt."""
        doubt = self.case.record.doubt
        return None if doubt is None else doubt.score

    @property
    def flags(self) -> list[str]:
        """Their codes."""
        return [flag.code for flag in self.case.record.flags]

    @property
    def modality(self) -> str:
        return wording.modality(self.case)

    @property
    def missing(self) -> list[str]:
        """Classes that were looked for in vain."""
        return [one.name for one in self.findings if not one.text]

    @property
    def size(self) -> str:
        return wording.size(self.case.geometry)

    @property
    def eye_title(self) -> str:
        return f"{self.eye.words}; laterality: {self.eye.source}"

    @property
    def alt(self) -> str:
        """What the small picture shows."""
        return f"{self.modality}, {self.eye.words}, with {'boxes' if self.boxes_only else 'contours'}"


def row_of(case: ReportCase, facts: PageFacts, styles: Sequence[ClassStyle], asymmetry: Asymmetry | None, *, useless: bool) -> Row:
    """``styles`` of the run's classes · ``useless``: the bundle's own validation says that its results are of no use."""
    places = {style.name: place for place, style in enumerate(styles)}
    # Where several bundles made the run, a case has the classes of those that fit it.
    names = list(places) if case.label_map is None else list(case.label_map.names)
    counts: tuple[int | None, ...] = facts.objects or (0,) * len(names)
    return Row(
        case,
        wording.eye(case),
        status(case, nothing=found_nothing(case, facts), useless=useless),
        tuple(reasons(case)),
        asymmetry,
        tuple(
            _finding(case, facts, places[name], name, *two) for name, two in zip(names, zip(counts, facts.pixels, strict=True), strict=True)
        ),
        tuple(wording.answer(one) for one in case.answers) if case.record.measurable else (),
        facts.warnings,
        facts.boxes_only,
    )


def found_nothing(case: ReportCase, facts: PageFacts) -> bool:
    """Whether no class was found; of a run that marks nothing, whether no question was answered."""
    if not case.found:
        return bool(case.answers) and all(one.answer is None for one in case.answers)
    return not any(facts.pixels) and not any(number is None or number > 0 for number in facts.objects or ())


def _finding(case: ReportCase, facts: PageFacts, place: int, name: str, objects: int | None, pixels: int) -> Finding:
    if withheld := why_withheld(case, name):
        return Finding(place, name, "–", withheld=withheld)
    counted = "unknown number" if objects is None else wording.count(objects) if objects else ""
    amount = "" if facts.boxes_only or not pixels else wording.amount(case, pixels)
    return Finding(
        place,
        name,
        ", ".join(filter(None, (counted, amount))),
        None if facts.objects is None or case.by_pixels(name) else objects,
        None if facts.boxes_only or (objects is None and not pixels) else pixels,  # of what cannot be read, none is not known
        wording.mm_number(case, pixels) if amount else None,
    )
