"""One case, or all cases of a folder of predictions, in the formats that were asked for.

``OUT/<case>/`` holds a case's files and ``export.json``, which says what they were made of: what is there already and still the same is
left alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import Field

from pipeline.atomic import write_text
from pipeline.errors import NothingUsableError, OcusegError
from pipeline.export.case import ExportCase, Settings
from pipeline.export.exporter import DICOM_FORMATS, EXPORTERS, LeftOut
from pipeline.export.objects import need_highdicom, usable_original
from pipeline.export.originals import Originals, find_originals
from pipeline.reports.neighbours import neighbours
from pipeline.reports.pdf import Documents, printer
from pipeline.reports.results import ReportCase, RunFacts, read_run
from pipeline.reports.visits import read_visits
from pipeline.reports.worklist import cases_in_order
from pipeline.review.corrected import as_reviewed
from pipeline.review.state import eyes_of, states
from pipeline.scans.identity import Pseudonyms
from pipeline.scans.quiet import quiet
from pipeline.types import ProgressCallback, no_progress
from pipeline.types.assessment import Record

EXPORT_FILE = "export.json"


class FormatRecord(Record):
    """One format of an exported case: its ``files``, or why there is none (``left_out``)."""

    state: str
    files: tuple[str, ...] = ()
    left_out: str = ""


class ExportRecord(Record):
    """``export.json``: ``original``: whether the objects belong to the hospital's own study; else ``without`` says why."""

    case: str
    original: bool = False
    without: str = ""
    formats: dict[str, FormatRecord] = Field({})


@dataclass(frozen=True)
class Exported:
    """One case's files, those that were there already included · ``new``: how many were written now · ``notes``: what a person must know
    of them."""

    case: str
    files: tuple[Path, ...]
    new: int
    notes: tuple[str, ...] = ()


@dataclass
class Summary:
    """Of a folder: ``failed`` cases with one sentence each."""

    exported: list[Exported] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


class Predictions:
    """A folder of predictions, open for export.

    Raises
    ------
    NothingUsableError: it holds no predictions. ConfigError: a format is unknown, or what it needs is not installed.
    """

    def __init__(self, folder: Path, settings: Settings) -> None:
        for name in settings.formats:
            EXPORTERS[name]
        if DICOM_FORMATS & set(settings.formats):
            need_highdicom()
        if "pdf" in settings.formats:
            printer()  # or each case would fail for the same reason
        self.folder, self.settings = folder, settings
        self.run: RunFacts = read_run(folder)
        self._eyes = eyes_of(folder)
        listed, _, unreadable = cases_in_order(folder, self._eyes)
        self.cases: dict[str, ReportCase] = {str(case.key): case for case in listed}
        self._fellows: dict[str, ReportCase | None] = {}
        if "pdf" in settings.formats:
            near = neighbours(listed, read_visits(folder))
            self._fellows = {str(case.key): one.fellow for case, one in zip(listed, near, strict=True)}
        self.unreadable = {one.name: one.reason for one in unreadable}
        self.reviews = states(folder)
        self.originals = Originals()
        self._documents: Documents | None = None
        self.why_without = "no folder of scans was given (--from)"

    def find_originals(self, scans: Path, names: Pseudonyms | None, progress: ProgressCallback = no_progress) -> None:
        """Look for the DICOM files that the cases were made of."""
        hashes = {name: case.sha256 for name, case in self.cases.items()}
        self.originals = find_originals(self.folder, hashes, scans, names, progress)
        self.why_without = "its file is no DICOM file, or is not below the folder of scans"

    def case(self, name: str) -> ExportCase:
        """As it is exported.

        Raises
        ------
        OcusegError: its DICOM file or a reviewer's correction cannot be read.
        """
        case, reviewed = as_reviewed(self.folder, self.cases[name], self.run, self.reviews.get(name))
        headers = self.originals.headers(name)
        why = usable_original(headers) if headers else self.why_without
        original, fellow = () if why else headers, self._fellows.get(name)
        return ExportCase(self.folder, case, self.run.of(case), original, why, reviewed, self._print, fellow)

    def _print(self, case: ReportCase, review: str) -> bytes:
        """The case's PDF."""
        if self._documents is None:
            self._documents = Documents(self.folder, self._eyes)
        return self._documents.of_case(case, review)

    def export(self, name: str, out: Path) -> Exported:
        """Write one case's files into ``out/<case>``.

        Raises
        ------
        OcusegError: what is wrong with the case, in one sentence. OSError: a file cannot be written.
        """
        with quiet():  # pydicom's warnings about a header quote it
            return export_case(self.case(name), self.settings, out / name)


def export_case(case: ExportCase, settings: Settings, folder: Path) -> Exported:
    """Write one case's files into ``folder``; what is there and still the same is left alone."""
    folder.mkdir(parents=True, exist_ok=True)
    before = _known(folder)
    formats, new = dict(before.formats), set[str]()
    rejected = case.reviewed.rejected and not settings.rejected
    # What must not stay is looked at though nobody asks for it: a rejected case's objects, and a picture in place of an original.
    stale = [name for name in before.formats if rejected or (name == "image" and case.original)]
    for name in dict.fromkeys((*_with_image(settings.formats, case), *stale)):
        known = formats.get(name)
        state = case.state(settings, name) + (" rejected" if rejected else "")
        if known is not None and known.state == state and all((folder / file).is_file() for file in known.files):
            continue
        files, left_out = [], ""
        try:
            if rejected:
                raise LeftOut("a reviewer rejected it (--rejected exports it all the same)")
            for document in EXPORTERS[name].build(case, settings):
                document.write(folder / document.name)
                files.append(document.name)
        except LeftOut as reason:
            left_out = str(reason)
        formats[name] = FormatRecord(state=state, files=tuple(files), left_out=left_out)
        kept = {file for one in formats.values() for file in one.files}
        for old in set(known.files if known is not None else ()) - kept:
            (folder / old).unlink(missing_ok=True)
        new.update(files)
        record = ExportRecord(case=case.name, original=bool(case.original), without=case.without, formats=formats)
        write_text(folder / EXPORT_FILE, json.dumps(record.to_json(), indent=1, ensure_ascii=False) + "\n")
    asked = {name: formats[name] for name in _with_image(settings.formats, case)}
    paths = tuple(dict.fromkeys(folder / file for one in asked.values() for file in one.files))
    return Exported(case.name, paths, len(new), _notes(case, settings, asked))


def _with_image(formats: Sequence[str], case: ExportCase) -> list[str]:
    """What refers to a picture brings one along where the case has no DICOM original."""
    refers = not case.original and bool({"seg", "sr", "sc"} & set(formats)) and "image" not in formats
    return [*(["image"] if refers else []), *formats]


def _notes(case: ExportCase, settings: Settings, asked: Mapping[str, FormatRecord]) -> tuple[str, ...]:
    out = [f"{name}: not exported, {one.left_out}" for name, one in asked.items() if one.left_out and name != "image"]
    if not case.original and DICOM_FORMATS & set(settings.formats):
        out.append(f"in a study of its own under the case's pseudonym: {case.without}")
    if case.reviewed.outdated:
        out.append("it was predicted anew after its review, so it counts as not reviewed")
    if settings.labelmap and "seg" in settings.formats and case.label_map.overlapping:
        out.append("seg: its classes may overlap, which a label map cannot hold, so it is a binary segmentation")
    return tuple(out)


def _known(folder: Path) -> ExportRecord:
    try:
        return ExportRecord.model_validate_json((folder / EXPORT_FILE).read_bytes())
    except (OSError, ValueError):
        return ExportRecord(case=folder.name)


def export_folder(predictions: Predictions, out: Path, wanted: Sequence[str] = (), progress: ProgressCallback = no_progress) -> Summary:
    """Export every case, or those ``wanted``; one that fails is told, and the others go on.

    Raises
    ------
    NothingUsableError: there is no case, or none of the name asked for.
    """
    names = list(wanted) or [*predictions.cases, *predictions.unreadable]
    if not names:
        raise NothingUsableError("the folder holds no case; give the folder that `ocuseg predict ... --out FOLDER` wrote")
    strange = [name for name in names if name not in predictions.cases and name not in predictions.unreadable]
    if strange:
        raise NothingUsableError(f"no case is called {strange[0]!r} here; names are in ledger.csv and in the worklist")
    summary = Summary()
    for number, name in enumerate(names, 1):
        try:
            if name in predictions.unreadable:
                raise OcusegError(predictions.unreadable[name])
            summary.exported.append(predictions.export(name, out))
        except OcusegError as error:
            summary.failed[name] = str(error)
        progress(number, len(names))
    _join_tables(out, [path for one in summary.exported for path in one.files if path.suffix == ".csv"])
    return summary


def _join_tables(out: Path, tables: Sequence[Path]) -> None:
    """Cases' tables of one name as one table in ``out``."""
    for name in sorted({path.name for path in tables}):
        texts = [path.read_text(encoding="utf-8").splitlines(keepends=True) for path in tables if path.name == name]
        write_text(out / name, "".join([*texts[0][:1], *(line for text in texts for line in text[1:])]))
