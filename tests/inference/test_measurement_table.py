"""measurements.csv: one row an eye and visit, the numbers those of the records, and what was joined is said."""

from __future__ import annotations

import csv
import json
import re
from itertools import groupby
from pathlib import Path
from typing import Any, get_args

import pytest

from pipeline.inference.measurement_table import column_of, write_measurements
from pipeline.types import Unit
from pipeline.types.assessment import FlagRecord, MeasureRecord, QualityRecord
from pipeline.types.case_record import CASE_FILE, CaseRecord, GeometryRecord, PlaneRecord
from pipeline.types.visits import PatientVisits, VisitRecord, VisitsRecord
from workflows.measurement_docs import PAGE, page


def measure(key: str, value: float | None, unit: Any = "1", **more: Any) -> MeasureRecord:
    return MeasureRecord(key=key, title=key, value=value, unit=unit, definition="d", undefined=None if value is not None else "why", **more)


def add(
    out: Path, case: str, *measures: MeasureRecord, grade: Any = None, eye: Any = "R", modality: Any = "fundus", flags: Any = ()
) -> None:
    record = CaseRecord(
        case=case,
        modality=modality,
        geometry=GeometryRecord(shape=(4, 5), laterality=eye, laterality_source="unknown" if eye is None else "picture"),
        sha256="0" * 64,
        planes=(PlaneRecord(index=0, image="image_000.png"),),
        quality=None if grade is None else QualityRecord(grade=grade),
        flags=tuple(FlagRecord(code=code, text="look") for code in flags),
        measures=measures,
    )
    folder = out / "cases" / case
    folder.mkdir(parents=True)
    (folder / CASE_FILE).write_text(json.dumps(record.to_json()))


def rows(out: Path) -> list[dict[str, str]]:
    visits, names = VisitsRecord.read(out), sorted(path.name for path in (out / "cases").iterdir())
    patients = groupby(names, key=lambda name: name.partition("_")[0])
    write_measurements(out, ((patient, visits.patients.get(patient, PatientVisits()), [*cases]) for patient, cases in patients))
    with (out / "measurements.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_row_holds_the_numbers_of_the_record_and_says_what_is_missing(tmp_path: Path) -> None:
    numbers = (measure("disc_height", 1.62345, "mm", low=1.6, high=1.65, scale="tag"), measure("vcdr", None), measure("unheard_of", 3.0))
    add(tmp_path, "pa_R_v1_i1", *numbers, grade="usable", flags=["two_discs"])
    (row,) = rows(tmp_path)
    assert {name: row[name] for name in ("patient", "eye", "visit", "images", "cases", "joined", "quality", "flags")} == {
        "patient": "pa", "eye": "R", "visit": "v1", "images": "1", "cases": "pa_R_v1_i1", "joined": "", "quality": "usable",
        "flags": "two_discs",
    }  # fmt: skip
    assert [row[f"disc_height_mm{end}"] for end in ("", "_low", "_high")] == ["1.62345", "1.6", "1.65"]
    assert row["not_measured"] == "vcdr: why"
    assert list(row)[12:] == [f"{key}{end}" for key in ("disc_height_mm", "unheard_of") for end in ("", "_low", "_high")]
    assert (row["unheard_of"], row["unheard_of_low"]) == ("3.0", "")


def test_of_several_images_the_best_count_and_equals_give_their_median(tmp_path: Path) -> None:
    for image, grade, value in (("a", "good", 0.3), ("b", "good", 0.4), ("c", "good", 0.9), ("d", "poor", 5.0)):
        add(tmp_path, f"pa_R_v1_{image}", measure("vcdr", value, low=value - 0.1, high=value + 0.1), grade=grade)
    add(tmp_path, "pa_R_v1_e", measure("vcdr", 7.0), measure("fluid_volume_irf", 0.25, "mm3"), modality="oct")
    (row,) = rows(tmp_path)
    assert [float(row[name]) for name in ("vcdr", "vcdr_low", "vcdr_high")] == pytest.approx([0.4, 0.2, 1.0])
    assert (row["images"], row["cases"]) == ("5", "pa_R_v1_a pa_R_v1_b pa_R_v1_c pa_R_v1_e")
    assert row["joined"] == "fundus: median of 3 of 4"
    assert row["fluid_volume_irf_mm3"] == "0.25"


def test_an_eye_is_a_row_and_images_of_unknown_eyes_are_not_joined(tmp_path: Path) -> None:
    add(tmp_path, "pa_U_v1_a", measure("vcdr", 0.1), eye="L")
    add(tmp_path, "pa_L_v1_b", measure("vcdr", 0.2), eye="L")
    for name in ("pa_U_v1_c", "pa_U_v1_d", "pb_U_v1_a"):
        add(tmp_path, name, measure("vcdr", 0.3), eye=None)
    assert [(row["patient"], row["eye"], row["images"]) for row in rows(tmp_path)] == [
        ("pa", "L", "2"), ("pa", "U", "1"), ("pa", "U", "1"), ("pb", "U", "1"),
    ]  # fmt: skip


def test_visits_stand_in_their_order_and_people_who_may_be_several_are_not_joined(tmp_path: Path) -> None:
    for case in ("pa_R_v1_a", "pa_R_v2_b", "pb_R_v1_a", "pb_R_v1_b"):
        add(tmp_path, case, measure("vcdr", 0.5))
    visits = tuple(VisitRecord(visit=visit, number=number, days=days) for visit, number, days in (("v2", 1, 0), ("v1", 2, 163)))
    of = {"pa": PatientVisits(source="tag", visits=visits), "pb": PatientVisits(source="folder", in_doubt=True)}
    (tmp_path / "visits.json").write_text(json.dumps(VisitsRecord(patients=of).to_json()))
    names = ("patient", "patient_source", "visit", "visit_number", "days", "images")
    assert [tuple(row[name] for name in names) for row in rows(tmp_path)] == [
        ("pa", "tag", "v2", "1", "0", "1"), ("pa", "tag", "v1", "2", "163", "1"),
        ("pb", "folder", "v1", "", "", "1"), ("pb", "folder", "v1", "", "", "1"),
    ]  # fmt: skip


def test_estimated_millimetres_have_columns_of_their_own(tmp_path: Path) -> None:
    assert column_of("disc_height", "mm", "estimated") == "disc_height_mm_estimated"
    assert column_of("vcdr", "1", None) == "vcdr"
    add(tmp_path, "pa_R_v1_i1", measure("disc_height", 1.5, "mm", scale="tag"))
    add(tmp_path, "pb_R_v1_i1", measure("disc_height", 1.7, "mm", scale="estimated"))
    add(tmp_path, "pc_R_v1_i1", measure("disc_height", 90.0, "px"))
    table = rows(tmp_path)
    names = ("disc_height_mm", "disc_height_mm_estimated", "disc_height_px")
    assert [[row[name] for name in names] for row in table] == [["1.5", "", ""], ["", "1.7", ""], ["", "", "90.0"]]


def test_parquet_holds_the_same(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    add(tmp_path, "pa_R_v1_i1", measure("vcdr", 0.123456))
    add(tmp_path, "007_R_v1_i1", measure("vcdr", None))
    table = rows(tmp_path)
    stored = parquet.read_table(tmp_path / "measurements.parquet").to_pylist()
    assert [row["patient"] for row in stored] == [row["patient"] for row in table] == ["007", "pa"]
    assert [row["vcdr"] for row in stored] == [None, 0.123456]


def test_a_damaged_record_is_left_out_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    add(tmp_path, "pa_R_v1_i1", measure("vcdr", 0.5))
    (tmp_path / "cases" / "pb_R_v1_i1").mkdir()
    assert [row["patient"] for row in rows(tmp_path)] == ["pa"]
    assert "pb_R_v1_i1 is left out of measurements.csv" in caplog.text


def test_the_documentation_is_that_of_the_registry() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert page(text) == text, "renew it: python workflows/measurement_docs.py --write"


def test_a_column_is_named_in_letters_whatever_the_unit() -> None:
    names = [column_of("key", unit, None) for unit in get_args(Unit) if unit != "%"]
    assert len({*names}) == len(names)
    assert all(re.fullmatch("[a-z0-9_]+", name) for name in names)
    assert column_of("vein_squared_curvature", "1/mm2", "estimated") == "vein_squared_curvature_per_mm2_estimated"
