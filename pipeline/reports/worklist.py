"""The page one opens first: every case, its picture and findings; what was not segmented and why; what made it all."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError, NothingUsableError, OcusegError
from pipeline.inference.uses import doubts, uses_of
from pipeline.lock import locked
from pipeline.reports import wording
from pipeline.reports.case_page import write_case_page
from pipeline.reports.need import Asymmetry, asymmetries, needs_eyes_first
from pipeline.reports.neighbours import Neighbours, neighbours
from pipeline.reports.page_facts import PageFacts
from pipeline.reports.pages import write_assets, write_page, write_text
from pipeline.reports.patient_page import write_patient_pages
from pipeline.reports.results import LedgerRow, ReportCase, RunFacts, read_case, read_ledger, read_run
from pipeline.reports.row_files import ROWS_FILE, TABLE_FILE, as_csv, as_script
from pipeline.reports.rows import Row, row_of
from pipeline.reports.visits import read_visits
from pipeline.types import Laterality, ProgressCallback

logger = logging.getLogger(__name__)

FOLDERS = ("cases", "data", "thumbs", "views", "patients")
"""Of a report."""
_MOST_COLUMNS = 6
"""Classes of objects with a column each; of more, one column names those that were found."""
_HUNDRED = 100
"""Rows that stand in the page itself; the script draws the others when one comes near them."""
_PAGE = 2000
"""Cases on a page of a long list, and files of a status that are listed (ledger.csv has them all)."""
_GRADES = ("not measurable", "poor", "usable", "good", "not graded")
_ORDERS = (
    *(("needs", "needs eyes first"), ("case", "patient and visit"), ("eye", "eye"), ("modality", "kind of scan"), ("size", "size")),
    *(
        ("quality", "quality"),
        ("status", "status"),
        ("doubt", "doubt"),
        ("asymmetry", "difference to the fellow eye"),
        ("warnings", "warnings"),
    ),
)


@dataclass(frozen=True)
class Unshown:
    """A case folder that no page could be made of."""

    name: str
    reason: str


def write_report(
    out: Path, *, eyes: Mapping[str, Laterality] | None = None, progress: ProgressCallback | None = None, wait: bool = False
) -> Path:
    """Write or update ``out/report`` from what `ocuseg predict` left in ``out``; return its ``index.html``.

    ``report/worklist.csv`` has the same rows in the same order. Case pages whose case did not change are kept as they are. Every file
    is replaced whole and the worklist comes last, so a report that is being read, or whose making is interrupted, is the old one or
    the new one. A damaged case is listed, not fatal.

    Parameters
    ----------
    eyes: as reviewers set them, by name of the case; what the case's own record says stays on the disk.
    progress: called with the number of cases finished and the number of all. wait: for another process that writes it, too.

    Raises
    ------
    NothingUsableError: ``out`` holds no predictions. ConfigError: another process is writing the report.
    OSError: the disk is full, or the folder cannot be written.
    """
    run = read_run(out)
    ledger = read_ledger(out)
    if not _folders(out) and not ledger:
        raise NothingUsableError("no case and no ledger here: give the folder that `ocuseg predict ... --out FOLDER` wrote")
    report = out / "report"
    for name in FOLDERS:
        (report / name).mkdir(parents=True, exist_ok=True)
    busy = ConfigError("another process is writing this report; wait for it, then run the command again")
    with locked(report / ".lock", None if wait else busy):
        return _write(out, report, run, ledger, eyes or {}, progress)


def _write(
    out: Path,
    report: Path,
    run: RunFacts,
    ledger: list[LedgerRow] | None,
    eyes: Mapping[str, Laterality],
    progress: ProgressCallback | None,
) -> Path:
    """:func:`write_report` by the one process that holds the lock."""
    cases, asymmetry, unshown = cases_in_order(out, eyes)
    visits = read_visits(out)
    write_assets(report)
    shown: list[tuple[ReportCase, PageFacts]] = []
    names = [str(case.key) for case in cases]
    for at, (case, near) in enumerate(zip(cases, neighbours(cases, visits), strict=True)):
        try:
            shown.append((case, write_case_page(report, case, run, near)))
        except (OcusegError, FileNotFoundError, ValueError) as error:
            reason = "a file of this case is missing; predict it again" if isinstance(error, FileNotFoundError) else str(error)
            unshown.append(Unshown(names[at], reason))
            _write_stand_in(report, names[at], reason, near)
        if progress is not None:
            progress(at + 1, len(cases))
    for missing in unshown:
        logger.warning("case %s is not shown: %s", missing.name, missing.reason)
    rows, styles = _rows(run, shown, asymmetry), wording.class_styles(run.label_map)
    write_text(report / ROWS_FILE, as_script(rows, styles))
    write_text(report / TABLE_FILE, as_csv(rows, styles))
    write_patient_pages(report, run, [case for case, _ in shown], visits)
    index = report / "index.html"
    files = [TABLE_FILE, *(f"../{name}" for name in ("ledger.csv", "coco.json") if (out / name).exists())]
    write_page(index, "worklist.html", _values(run, ledger, rows, unshown) | {"files": files})
    _remove_stale(report, set(names))
    return index


def _folders(out: Path) -> list[Path]:
    return sorted(p for p in (out / "cases").glob("*") if p.is_dir() and not p.name.startswith("."))


def cases_in_order(out: Path, eyes: Mapping[str, Laterality]) -> tuple[list[ReportCase], dict[str, Asymmetry], list[Unshown]]:
    """The cases in the order in which the worklist opens, how fellow eyes differ, and the folders that cannot be read."""
    cases: list[ReportCase] = []
    unshown: list[Unshown] = []
    for folder in _folders(out):
        try:
            case = read_case(folder)
            cases.append(case.with_eye(eyes[folder.name]) if folder.name in eyes else case)
        except OcusegError as error:
            unshown.append(Unshown(folder.name, str(error)))
    asymmetry = asymmetries(cases)
    cases.sort(key=lambda case: needs_eyes_first(case, asymmetry))
    return cases, asymmetry, unshown


def _rows(run: RunFacts, shown: Sequence[tuple[ReportCase, PageFacts]], asymmetry: Mapping[str, Asymmetry]) -> list[Row]:
    styles = wording.class_styles(run.label_map)
    return [row_of(case, facts, styles, asymmetry.get(str(case.key)), useless=bool(run.useless)) for case, facts in shown]


def _write_stand_in(report: Path, name: str, reason: str, near: Neighbours) -> None:
    """A page in place of one that cannot be made, so that "next" never leads nowhere or to an outdated page."""
    (report / "data" / f"{name}.json").unlink(missing_ok=True)
    values = {"name": name, "reason": reason, "previous": near.previous, "following": near.following}
    write_page(report / "cases" / f"{name}.html", "unshown.html", values)


def _remove_stale(report: Path, names: set[str]) -> None:
    """Pages of cases whose folders are gone: the pictures they show are gone with them."""
    for folder, ending in (("cases", ".html"), ("thumbs", ".jpg"), ("views", ".jpg"), ("data", ".json"), ("data", ".js")):
        for path in (report / folder).glob(f"*{ending}"):
            stem = path.stem.rpartition("_")[0] if ending == ".js" else path.stem
            if stem not in names:
                path.unlink()


def _values(run: RunFacts, ledger: list[LedgerRow] | None, listed: Sequence[Row], unshown: Sequence[Unshown]) -> dict[str, Any]:
    """What the template shows."""
    rows = ledger or []
    counts = Counter(row.status for row in rows)
    styles = wording.class_styles(run.label_map)
    present = {row.name for row in listed} | {case.name for case in unshown}
    lost = [row for row in rows if row.status == "done" and row.name not in present]
    sections = []
    for kind, title in (
        ("rejected", "Rejected"),
        ("failed", "Failed"),
        ("duplicate", "Duplicates"),
        ("part", "Files that are slices of a volume"),
        ("not_an_image", "Files that are no images"),
        ("not_followed", "Links that lead out of the folder"),
    ):
        chosen = [row for row in rows if row.status == kind]
        if chosen:
            codes = Counter(row.code for row in chosen if row.code).most_common()
            sections.append({"kind": kind, "title": title, "rows": chosen[:_PAGE], "left": len(chosen[_PAGE:]), "codes": codes})
    columns = run.objects and len(styles) <= _MOST_COLUMNS and all(row.case.label_map is None for row in listed)
    orders = [*_ORDERS, *((f"found{at}", style.name) for at, style in enumerate(styles))] if columns else [*_ORDERS, ("found", "found")]
    return {
        "run": run,
        "rows": listed[:_HUNDRED],
        "page": _PAGE,
        "patients": len({row.case.key.patient for row in listed}),
        "orders": orders,
        "grades": _GRADES,
        "doubts": [*filter(None, [run.useless]), *doubts({}, uses_of((row.case.bundle_id, row.case.found) for row in listed))],
        "total": len(listed),
        "unshown": unshown,
        "lost": lost,
        "sections": sections,
        "ledger_missing": ledger is None,
        "tiles": [
            ("Predicted" if run.objects or not styles else "Segmented", counts["done"] if ledger is not None else len(listed), "done"),
            ("Need eyes", sum(row.status.level == "look" for row in listed), "eyes"),
            ("Rejected", counts["rejected"], "rejected"),
            ("Failed", counts["failed"], "failed"),
            ("Duplicates", counts["duplicate"], "duplicate"),
            ("No images", counts["not_an_image"], "not_an_image"),
        ],
        "styles": styles,
        "scores": _scores(run),
        "columns": columns,
        "started": wording.moment(run.started),
        "made": wording.moment(datetime.now(UTC).isoformat()),
    }


def _scores(run: RunFacts) -> list[tuple[str, float]]:
    """The bundle's own: means over classes first, then each class; all of them, so that the worst is not what is left out."""
    words = {name: set(name.lower().split()) for name, _ in run.metrics}
    chosen = [
        (name, value) for name, value in run.metrics if words[name] & {"dice", "ap50", "accuracy", "auroc"} and "pooled" not in words[name]
    ]
    chosen.sort(key=lambda score: len(words[score[0]] - {"mask"}))
    return [(re.sub(r"\b(mask )?ap50\b", lambda of: f"{of[1] or 'box '}AP@.50", name), value) for name, value in chosen]
