"""``measurements.csv`` of a predictions folder, and the same as Parquet: one row an eye and visit, the numbers those of ``case.json``.

Columns are documented in docs/measurements.md. Records are read patient by patient and put aside on the disk, so that memory does not grow
with the number of cases.
"""

from __future__ import annotations

import csv
import json
import logging
import math
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import IO, Any, get_args

from pipeline.atomic import atomic_path
from pipeline.measurements.by_role import place_in_registry
from pipeline.measurements.quantity import rounded
from pipeline.types.assessment import QualityGrade
from pipeline.types.case_record import CaseRecord, first_fault
from pipeline.types.scan import CaseKey, Modality
from pipeline.types.visits import PatientVisits, VisitRecord, VisitsRecord

log = logging.getLogger(__name__)

CSV_FILE, PARQUET_FILE = "measurements.csv", "measurements.parquet"
WHOSE = ("patient", "patient_source", "eye", "visit", "visit_number", "days")
ABOUT = (*WHOSE, "images", "cases", "joined", "quality", "flags", "not_measured")
"""Columns before the measures: docs/measurements.md says what each holds."""
COUNTS = ("visit_number", "days", "images")
_SUFFIX = {"1": "", "%": "_percent", "1/px": "_per_px", "1/mm": "_per_mm", "1/px2": "_per_px2", "1/mm2": "_per_mm2"}
_GRADES: tuple[str | None, ...] = (*get_args(QualityGrade)[:2], None, *get_args(QualityGrade)[2:])
"""The best first; what nobody graded lies between usable and poor."""

Numbers = Sequence[float | None]


@dataclass(frozen=True, order=True)
class _Image:
    """Where the row of a case belongs: ``number`` of the visit, infinite where it has none; ``alone`` where another image may be of
    another eye or person."""

    patient: str
    number: float
    visit: str
    eye: str
    case: str
    alone: bool

    @property
    def group(self) -> tuple[object, ...]:
        """The same for all images of one eye and visit."""
        return (self.patient, self.number, self.visit, self.eye, self.case if self.alone else "")


def column_of(key: str, unit: str, scale: str | None) -> str:
    """The name of a measure's column: key, unit, and that the size of a pixel was only estimated."""
    return key + _SUFFIX.get(unit, f"_{unit}") + ("_estimated" if scale == "estimated" else "")


def write_measurements(out: Path, patients: Iterable[tuple[str, PatientVisits, Sequence[str]]]) -> None:
    """Write ``measurements.csv``, and ``measurements.parquet`` where pyarrow is installed, from the records of finished cases.

    ``patients``: the visits of each, and the names of the cases, sorted.

    Raises
    ------
    OSError: the disk is full, or the folder cannot be written.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8", dir=out) as aside:
        columns = _put_aside(out, patients, aside)
        names = sorted(columns, key=lambda name: (place_in_registry(columns[name]), name))
        heading = [*ABOUT, *(f"{name}{end}" for name in names for end in ("", "_low", "_high"))]
        aside.seek(0)
        with atomic_path(out / CSV_FILE, durable=True) as staged, staged.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(heading)
            for whose, records in map(json.loads, aside):
                writer.writerow(_row(whose, records, names, columns))
    if find_spec("pyarrow") is None:
        log.info("%s is not written, because pyarrow is not installed; %s holds the same", PARQUET_FILE, CSV_FILE)
        return
    _write_parquet(out, heading)


def _put_aside(out: Path, patients: Iterable[tuple[str, PatientVisits, Sequence[str]]], aside: IO[str]) -> dict[str, str]:
    """Of each line, in their order, whose it is and {case: its numbers}. Returns {column: key of its measure}."""
    columns: dict[str, str] = {}
    for patient, its_visits, cases in patients:
        visits = VisitsRecord(patients={patient: its_visits})
        images, records = [], {}
        for case in cases:
            try:
                record = CaseRecord.read(out / "cases" / case)
                key = CaseKey.parse(record.case)
            except (OSError, ValueError) as error:
                log.warning("case %s is left out of %s: %s", case, CSV_FILE, first_fault(error))
                continue
            eye, visit = record.geometry.laterality or key.eye, visits.of(key)
            number = math.inf if visit is None or visit.number is None else visit.number
            images.append(_Image(key.patient, number, key.visit, eye, case, eye == "U" or its_visits.in_doubt))
            records[case] = _numbers(record, columns)
        for _, group in groupby(sorted(images), key=lambda image: image.group):
            together = [*group]
            first = together[0]
            when = visits.of(CaseKey.parse(first.case)) or VisitRecord(visit=first.visit)
            whose = [first.patient, its_visits.source, first.eye, first.visit, when.number, when.days]
            aside.write(json.dumps([whose, {image.case: records[image.case] for image in together}]) + "\n")
    return columns


def _numbers(record: CaseRecord, columns: dict[str, str]) -> dict[str, Any]:
    """What a line needs of a case; its measures are entered in ``columns``."""
    numbers = {}
    for measure in record.measures:
        if measure.value is not None:
            column = column_of(measure.key, measure.unit, measure.scale)
            columns[column] = measure.key
            numbers[column] = (measure.value, measure.low, measure.high)
    return {
        "modality": record.modality,
        "quality": record.quality.grade if record.quality else None,
        "flags": [flag.code for flag in record.flags],
        "numbers": numbers,
        "reasons": {measure.key: measure.undefined for measure in record.measures if measure.value is None},
    }


def _row(whose: Sequence[Any], records: Mapping[str, dict[str, Any]], names: Sequence[str], columns: Mapping[str, str]) -> list[Any]:
    """One line, of the images of one eye and visit."""
    kinds = _kinds(records)
    counted = {case: record for kind in kinds for case, record in kind.items()}
    numbers = [_joined(kinds, name) for name in names]
    measured = {columns[name] for name, own in zip(names, numbers, strict=True) if own[0] is not None}
    reasons = {key: why for record in counted.values() for key, why in record["reasons"].items() if key not in measured}
    grades = [grade for grade in _GRADES if grade is not None and any(record["quality"] == grade for record in counted.values())]
    flags = sorted({code for record in counted.values() for code in record["flags"]})
    about = [*("" if own is None else own for own in whose), len(records), " ".join(counted), _how(records, kinds), *(grades[:1] or [""])]
    return [
        *about,
        " ".join(flags),
        "; ".join(f"{key}: {why}" for key, why in reasons.items()),
        *("" if n is None else repr(n) for own in numbers for n in own),
    ]


def _kinds(records: Mapping[str, dict[str, Any]]) -> list[dict[str, dict[str, Any]]]:
    """Of each kind of scan, photographs first, the images of the best quality."""
    out = []
    for modality in get_args(Modality):
        own = {case: record for case, record in records.items() if record["modality"] == modality}
        best = min((_GRADES.index(record["quality"]) for record in own.values()), default=0)
        if own:
            out.append({case: record for case, record in own.items() if _GRADES.index(record["quality"]) == best})
    return out


def _how(records: Mapping[str, dict[str, Any]], kinds: Sequence[Mapping[str, dict[str, Any]]]) -> str:
    """How several images of one kind became one row, in words; "" where there are not several."""
    said = []
    for best in kinds:
        kind = next(iter(best.values()))["modality"]
        of_kind = sum(record["modality"] == kind for record in records.values())
        if of_kind > 1:
            said.append(f"{kind}: " + (f"median of {len(best)}" if len(best) > 1 else "the best") + f" of {of_kind}")
    return "; ".join(said)


def _joined(kinds: Sequence[Mapping[str, dict[str, Any]]], column: str) -> Numbers:
    """(value, low, high) of the first kind of scan that has a number: the median of its images', with the widest interval."""
    for best in kinds:
        found = [record["numbers"][column] for record in best.values() if column in record["numbers"]]
        if len(found) == 1:
            return tuple(found[0])
        if found:
            values, lows, highs = zip(*found, strict=True)
            low, high = (None if None in ends else of(ends) for ends, of in ((lows, min), (highs, max)))
            return rounded(float(median(values))), low, high
    return None, None, None


def _write_parquet(out: Path, heading: Sequence[str]) -> None:
    """The CSV file's rows, block by block: text as it is, numbers as float64, empty cells of numbers as null."""
    import pyarrow
    import pyarrow.csv  # reads the file itself: tables of Python objects would import pandas, half a second of every run
    import pyarrow.parquet

    texts = {*ABOUT} - {*COUNTS}
    kinds = dict.fromkeys(COUNTS, pyarrow.int64()) | dict.fromkeys(texts, pyarrow.string())
    schema = pyarrow.schema([(name, kinds.get(name, pyarrow.float64())) for name in heading])
    convert = pyarrow.csv.ConvertOptions(column_types=schema, null_values=[""], strings_can_be_null=False)
    parse = pyarrow.csv.ParseOptions(newlines_in_values=True)
    with (
        atomic_path(out / PARQUET_FILE, durable=True) as staged,
        pyarrow.parquet.ParquetWriter(staged, schema) as writer,
        pyarrow.csv.open_csv(out / CSV_FILE, parse_options=parse, convert_options=convert) as reader,
    ):
        for block in reader:
            writer.write_batch(block)
