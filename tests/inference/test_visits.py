"""Visits stand in the order of their dates, with the days between them, and no output holds a date; numbers follow what arrives later."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from pipeline.bundles.bundle import Bundle
from pipeline.inference.folder import predict_folder
from pipeline.inference.journal import Entry, Journal
from pipeline.inference.visits import export, visits_of
from pipeline.scans.folder import index_folder
from pipeline.scans.identity import Pseudonyms
from pipeline.types import CaseKey
from pipeline.types.visits import VisitsRecord
from tests.inference.conftest import picture
from tests.scans.make import dicom, saved

KEY = Pseudonyms(b"a site key for tests")


def test_days_are_true_within_a_patient_and_say_nothing_of_the_date() -> None:
    first, second = KEY.day("p", "20230919"), KEY.day("p", "20240229")
    assert first is not None
    assert second is not None
    assert second - first == (date(2024, 2, 29) - date(2023, 9, 19)).days
    assert KEY.day("q", "20230919") != first
    assert Pseudonyms(b"another key for tests").day("p", "20230919") != first
    assert KEY.day("p", "2023.09.19") == first
    for no_date in ("", "20230230", "2023", "202309191", "baseline"):
        assert KEY.day("p", no_date) is None


def test_visits_are_numbered_by_their_days_and_undated_ones_stand_last() -> None:
    p = visits_of([("p_R_c_1", 1000, "tag"), ("p_L_a_2", 1163, "tag"), ("p_R_b_3", None, "tag"), ("p_L_c_4", 1000, "tag")])
    found = VisitsRecord(patients={"p": p, "q": visits_of([("q_U_0_5", None, "tag")])})
    assert [(v.visit, v.number, v.days) for v in p.visits] == [("c", 1, 0), ("a", 2, 163), ("b", None, None)]
    assert [found.words(CaseKey.parse(case)) for case in ("p_R_c_1", "p_L_a_2", "p_R_b_3", "z_R_0_1")] == [
        "visit 1 of 2",
        "visit 2 of 2, +163 days",
        "visit without a date",
        "visit without a date",
    ]
    assert (p.cases, p.dated, found.patients["q"].dated) == (4, 2, 0)


def test_a_folder_with_many_pictures_may_be_no_patient() -> None:
    pictures = [(f"p_U_0_{number}", None, "folder") for number in range(20)]
    one, few = visits_of(pictures), visits_of([*pictures[1:], ("p_U_0_t", None, "tag")])
    assert (one.source, one.in_doubt, few.source, few.in_doubt) == ("folder", True, "folder", False)


def test_each_patient_has_a_place_in_the_file_and_keeps_it(tmp_path: Path) -> None:
    """The file is written patient by patient, and is what the record of all of them would be."""
    cases = [("q_L_v2_1", 7), ("q_L_v1_2", None), ("p1_R_v1_3", 3), ("p_R_v1_4", 4)]
    with closing(Journal(tmp_path / "copy.sqlite", KEY, copy=True)) as journal:
        export(journal, tmp_path)
        assert VisitsRecord.read(tmp_path) == VisitsRecord(patients={})
        journal.record(*(Entry(case, "", "", "", case, "done", "", "", 0.0, patient_source="tag", day=day) for case, day in cases))
        export(journal, tmp_path)
    found = VisitsRecord.read(tmp_path)
    assert list(found.patients) == ["p", "p1", "q"]
    assert [visit.visit for visit in found.patients["q"].visits] == ["v2", "v1"]
    assert (tmp_path / "visits.json").read_text() == json.dumps(found.to_json(), indent=1) + "\n"


def test_an_earlier_visit_that_arrives_later_moves_the_others(tmp_path: Path, bundle: Bundle) -> None:
    """A run that goes on tells the same order as one that sees all files at once; tags and a folder's date are one calendar."""
    scans = tmp_path / "scans"

    def arrives(name: str, day: str) -> None:
        (scans / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.ascontiguousarray(picture(len(name) + int(day[-2:])))
        saved(dicom(pixels, PatientID="P9", StudyDate=day, ImageLaterality="R"), scans / name)

    def run(out: str) -> tuple[list[tuple[int | None, int | None]], str]:
        predict_folder(tmp_path / "bundle", scans, tmp_path / out, device="cpu", pseudonyms=KEY)
        (patient,) = VisitsRecord.read(tmp_path / out).patients.values()
        assert patient.source == "tag"
        return [(visit.number, visit.days) for visit in patient.visits], (tmp_path / out / "visits.json").read_text()

    arrives("b.dcm", "20240612")
    arrives("c.dcm", "20240229")
    before, _ = run("out")
    assert before == [(1, 0), (2, 104)]
    arrives("a.dcm", "20230919")
    after, text = run("out")
    assert after == [(1, 0), (2, 163), (3, 267)]
    assert run("anew")[1] == text
    assert not any(day in text for day in ("2023", "2024"))

    index_folder(scans, tmp_path / "catalogue.sqlite", pseudonyms=KEY, workers=1)
    with closing(sqlite3.connect(tmp_path / "catalogue.sqlite")) as catalogue:
        rows = catalogue.execute("SELECT number, dated, days FROM visits ORDER BY number").fetchall()
    assert rows == [(1, 3, 0), (2, 3, 163), (3, 3, 267)]


def test_a_journal_without_days_gets_them_and_keeps_its_results(tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(dicom(picture(1), PatientID="P9", StudyDate="20240612"), _made(tmp_path / "scans") / "a.dcm")
    out = tmp_path / "out"
    predict_folder(tmp_path / "bundle", tmp_path / "scans", out, device="cpu", pseudonyms=KEY)
    whole = (out / "visits.json").read_text()
    with closing(sqlite3.connect(out / "journal.sqlite")) as journal, journal:
        journal.execute("ALTER TABLE entries DROP COLUMN day")
        journal.execute("ALTER TABLE entries DROP COLUMN patient_source")
        journal.execute("PRAGMA user_version = 2")
    with closing(Journal(out / "journal.sqlite", KEY)) as opened:
        assert [(one.stamp, one.day) for one in opened] == [("", None)]
    monkeypatch.setattr("pipeline.inference.writing.write_case", lambda *_: pytest.fail("its result is there"))
    predict_folder(tmp_path / "bundle", tmp_path / "scans", out, device="cpu", pseudonyms=KEY)
    assert (out / "visits.json").read_text() == whole
    (case,) = (out / "cases").iterdir()
    assert json.loads((case / "case.json").read_text())["patient_source"] == "tag"


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
