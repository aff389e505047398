"""The numbers of a correction, measured on the reviewer's masks once, and kept in PREDICTIONS/review/numbers/: they can be made again."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from pipeline.atomic import write_text
from pipeline.errors import OcusegError
from pipeline.reports import wording
from pipeline.reports.case_values import number_values
from pipeline.reports.objects import read_objects
from pipeline.reports.page_facts import PageFacts
from pipeline.reports.pages import rendered
from pipeline.reports.results import ReportCase, RunFacts
from pipeline.reports.rows import row_of
from pipeline.review.corrected import CORRECTED, Reviewed, corrected_case
from pipeline.review.log import REVIEW
from pipeline.review.reviewed import read_labels
from pipeline.types.assessment import FlagRecord, MeasureRecord, Record
from pipeline.types.case_record import ClassRecord

NUMBERS = "numbers"


class Measured(Record):
    """``case``: :func:`_state` of that whose mask was corrected · ``planes``: of each slice the pixels of each class."""

    ocuseg: str
    case: str
    classes: dict[str, ClassRecord] = Field({})
    measures: tuple[MeasureRecord, ...] = ()
    flags: tuple[FlagRecord, ...] = ()
    planes: tuple[tuple[int, ...], ...] = ()

    def put_into(self, case: ReportCase) -> ReportCase:
        record = case.record.model_copy(update={"classes": self.classes, "measures": self.measures, "flags": self.flags})
        return replace(case, found=self.classes, record=record)


class Numbers:
    """Of the corrections in one folder of predictions. Threads may share it; one measures at a time, until it is closed."""

    def __init__(self, predictions: Path) -> None:
        self._predictions, self._lock, self._open = predictions, threading.Lock(), True
        self._waiting: set[str] = set()
        self._failed: dict[str, str] = {}

    def _file(self, correction: str) -> Path:
        return self._predictions / REVIEW / NUMBERS / f"{correction}.json"

    def known(self, case: ReportCase, correction: str) -> Measured | None:
        """As measured before, by this version of ocuseg on the case as it is."""
        with suppress(OSError, ValueError):
            found = Measured.model_validate_json(self._file(correction).read_bytes())
            return found if (found.ocuseg, found.case) == (installed("ocuseg"), _state(case)) else None
        return None

    def of(self, case: ReportCase, run: RunFacts, correction: str) -> Measured:
        """Raises OcusegError: the correction cannot be read, or does not fit the case."""
        with self._lock:
            found = self.known(case, correction)
            if found is None and not self._open:
                raise OcusegError("the server is ending")
            if found is None:
                found = self._measure(case, run, correction)
                self._file(correction).parent.mkdir(exist_ok=True)
                write_text(self._file(correction), found.model_dump_json(by_alias=True) + "\n")
            return found

    def asked(self, case: ReportCase, run: RunFacts, correction: str) -> Measured | None:
        """As known; else None, and they are measured in a thread, so that nobody's request waits for them.

        Raises
        ------
        OcusegError: they could not be measured.
        """
        found = self.known(case, correction)
        if found is None and correction in self._failed:
            raise OcusegError(self._failed.pop(correction))  # the next one tries again
        if found is None and self._open and correction not in self._waiting:
            self._waiting.add(correction)
            threading.Thread(target=self._measured, args=(case, run, correction)).start()
        return found

    def close(self) -> None:
        """Measure nothing more; what has begun is finished."""
        self._open = False

    def _measured(self, case: ReportCase, run: RunFacts, correction: str) -> None:
        try:
            if self._open:
                self.of(case, run, correction)
        except OcusegError as error:
            self._failed[correction] = str(error)
        except OSError as error:
            self._failed[correction] = f"the correction's numbers cannot be stored ({error.strerror or type(error).__name__})"
        finally:
            self._waiting.discard(correction)

    def _measure(self, case: ReportCase, run: RunFacts, correction: str) -> Measured:
        labels = read_labels(self._predictions, run, case, correction)
        made = corrected_case(case, labels, Reviewed("edited"))
        planes = [[int(np.count_nonzero(layer)) for layer in labels.label_map.layers(made.mask(plane))] for plane in made.planes]
        return Measured(
            ocuseg=installed("ocuseg"),
            case=_state(case),
            classes=dict(made.found),
            measures=made.record.measures,
            flags=made.record.flags,
            planes=tuple(map(tuple, planes)),
        )


def _state(case: ReportCase) -> str:
    """Changes with what a number needs beside masks: a spacing that a new prediction was told, or the eye that a reviewer set."""
    return hashlib.sha256(repr((case.record.to_json(), case.geometry.laterality)).encode()).hexdigest()


def shown(case: ReportCase, run: RunFacts, numbers: Measured, reviewer: str) -> dict[str, Any]:
    """The sections of a case page by their ids as HTML, the pixels of each class in each slice of a volume, and how many numbers could not
    be measured anew."""
    made, own = numbers.put_into(case), run.of(case)
    objects = read_objects(case, own) if own.objects else None
    whose = reviewer or "a reviewer"
    values = number_values(made, own, _facts(made, own, numbers), objects, numbers.planes[0] if numbers.planes else (), whose=whose)
    return {
        "measures": rendered("case_measures.html", values),
        "found": rendered("case_found.html", values),
        "planes": numbers.planes if case.volume else [],
        "unmeasured": sum(one.undefined == CORRECTED for one in numbers.measures),
    }


def findings(case: ReportCase, run: RunFacts, numbers: Measured) -> list[Mapping[str, Any]]:
    """What a worklist's row says of each class."""
    made, own = numbers.put_into(case), run.of(case)
    row = row_of(made, _facts(made, own, numbers), wording.class_styles(run.label_map), None, useless=False)
    return [{"place": one.place, "name": one.name, "text": one.text, "withheld": one.withheld} for one in row.findings]


def _facts(case: ReportCase, run: RunFacts, numbers: Measured) -> PageFacts:
    empty = ClassRecord()
    own = [numbers.classes.get(name, empty) for name in run.label_map.names]
    objects = read_objects(case, run) if run.objects else None
    counts = None if objects is None else tuple(one.objects or 0 for one in own)
    pixels, slices = tuple(one.pixels for one in own), tuple(one.slices for one in own)
    return PageFacts(pixels, slices, (), counts, objects is not None and objects.boxes_only)
