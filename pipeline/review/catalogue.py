"""The cases under review, in their order, and the report that shows them, kept up to date."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pipeline.errors import OcusegError
from pipeline.reports.case_page import write_case_page
from pipeline.reports.neighbours import neighbours
from pipeline.reports.results import ReportCase, read_case, read_run
from pipeline.reports.visits import read_visits
from pipeline.reports.worklist import cases_in_order, write_report
from pipeline.types import Laterality, ProgressCallback

Order = Callable[[Sequence[str]], Sequence[str]]
"""Names in the worklist's order -> in the order of review."""


class UnknownCase(OcusegError):
    """No case of that name is under review."""


class Catalogue:
    """``order``: names of the cases as they are to be reviewed · ``run``: what made them.

    Raises
    ------
    NothingUsableError: the folder holds no predictions. ConfigError: another process is writing the report.
    """

    def __init__(self, predictions: Path, order: Order, progress: ProgressCallback | None = None) -> None:
        self.predictions, self._order, self._progress = predictions, order, progress
        self._lock = threading.Lock()
        self._stamp: object = None
        self.run = read_run(predictions)
        self.order: list[str] = []
        self._cases: dict[str, ReportCase] = {}
        self._drawn: dict[str, int] = {}
        """What the files of each case were when its page was written."""

    def case(self, name: str) -> ReportCase:
        """Raises UnknownCase."""
        try:
            return self._cases[name]
        except KeyError:
            raise UnknownCase("no case of that name is under review here") from None

    def refresh(self, eyes: Mapping[str, Laterality]) -> bool:
        """Write the report, and list the cases, if cases came or went since, and say whether; ``eyes`` as reviewers set them."""
        with self._lock:
            stamp = (self.predictions / "cases").stat().st_mtime_ns
            if stamp == self._stamp:
                return False
            run = read_run(self.predictions)
            drawn = {path.name: _state(path) for path in (self.predictions / "cases").iterdir() if path.is_dir()}
            write_report(self.predictions, eyes=eyes, progress=self._progress)
            cases, _, _ = cases_in_order(self.predictions, eyes)
            self._cases = {str(case.key): case for case in cases}
            self.order = list(self._order(list(self._cases)))
            self.run, self._drawn, self._stamp, self._progress = run, drawn, stamp, None
            return True

    def set_eye(self, name: str, eye: Laterality) -> None:
        """Write a case's page anew with the eye that a reviewer set; the rest of the report follows when the worklist is asked for."""
        with self._lock:
            self._write_page(name, self.case(name).with_eye(eye))
            self._stamp = None

    def redraw(self, name: str) -> None:
        """Write a case's page anew where its files are others than those that were drawn: nobody should judge what is there no more."""
        folder = self.case(name).folder
        if _state(folder) == self._drawn.get(name):
            return
        with self._lock:
            before, state = self.case(name).geometry, _state(folder)
            case = read_case(folder)
            if before.laterality_source == "reviewer" and before.laterality is not None:
                case = case.with_eye(before.laterality)
            self.run = read_run(self.predictions)
            self._write_page(name, case)
            self._drawn[name] = state

    def _write_page(self, name: str, case: ReportCase) -> None:
        self._cases[name] = case
        cases = list(self._cases.values())
        near = neighbours(cases, read_visits(self.predictions))[list(self._cases).index(name)]
        write_case_page(self.predictions / "report", case, self.run, near)

    def after(self, name: str) -> list[str]:
        """All others in the order of review, from the next one on, round to the one before."""
        at = self.order.index(name)
        return self.order[at + 1 :] + self.order[:at]


def _state(folder: Path) -> int:
    """Changes with the names, sizes and times of a case's files; 0 while another process puts the folder in its place."""
    try:
        with os.scandir(folder) as files:
            return hash(tuple(sorted((file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files)))
    except OSError:
        return 0
