"""From a pseudonym back to the file and the patient: with the key and the folder, and not without."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.scans.identity import NO_VISIT, Pseudonyms
from pipeline.scans.open import open_scan
from pipeline.scans.raster import write_png
from pipeline.scans.record import token_of
from pipeline.scans.stated import fill, stated
from tests.scans.make import dicom, photograph, ramp, saved

KEY = b"a site key for tests"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A tagged scan, one in a patient's folder, one by its name alone, and something that is no scan."""
    root = tmp_path / "scans"
    (root / "Meyer" / "2024-06-12").mkdir(parents=True)
    saved(dicom(ramp(8, 12), PatientID="P0042", StudyDate="20240229", ImageLaterality="L"), root / "tagged.dcm")
    write_png(root / "Meyer" / "2024-06-12" / "x_OD.png", photograph(8, 12))
    write_png(root / "Schmidt_OS.png", photograph(9, 12))
    (root / "notes.txt").write_text("nothing to see")
    (tmp_path / "key").write_bytes(KEY)
    (tmp_path / "key").chmod(0o600)
    return root


def asked(token: str, root: Path, *more: str, key: str = "key") -> tuple[int, str]:
    said = CliRunner().invoke(app, ["whois", token, "--root", str(root), "--site-key", str(root.parent / key), *more])
    return said.exit_code, said.output


def test_every_kind_of_pseudonym_leads_back(site: Path) -> None:
    names = Pseudonyms(KEY)
    expected = {"tagged.dcm": ("P0042", "tag", "20240229"), "Meyer/2024-06-12/x_OD.png": ("Meyer", "folder", "20240612")}
    expected["Schmidt_OS.png"] = ("Schmidt", "file", "")
    for name, (patient, source, visit) in expected.items():
        path = site / name
        case = open_scan(path, pseudonyms=names, root=site).case
        for token in (case.patient, case.image, str(case), f"{case}-0123456789ab", token_of(path, site, names), case.visit):
            if token == NO_VISIT:
                continue
            code, output = asked(token, site, "--json")
            (row,) = json.loads(output)
            assert (code, row["file"], row["patient"], row["visit"], row["case"]) == (0, str(path), patient, visit, str(case))
            assert {"tag": "header", "folder": "folder", "file": "file's name"}[source] in row["patient_source"]
        assert patient in asked(str(case), site)[1]


def test_what_leads_nowhere_is_one_sentence(site: Path) -> None:
    (site.parent / "other").write_bytes(b"quite another site key")
    (site.parent / "other").chmod(0o600)
    token = Pseudonyms(KEY).patient("P0042")
    code, said = asked(token, site, key="other")
    assert (code, "made with another site key" in said) == (4, True)
    assert asked("a" * 16, site)[0] == 4
    code, said = asked("P0042", site)
    assert (code, "is no pseudonym" in said) == (2, True)
    code, said = asked(token, site, key="none")
    assert (code, "there is no site key" in said) == (2, True)
    assert not (site.parent / "none").exists()  # another key is never made here


def test_the_key_is_held_against_that_of_the_results(site: Path) -> None:
    results = site.parent / "out"
    results.mkdir()
    check = Pseudonyms(b"quite another site key").token("path", "ocuseg key check")
    (results / "run.json").write_text(json.dumps({"classes": {}, "key_check": check}))
    code, said = asked("a" * 16, site, "--results", str(results))
    assert (code, "the results were made with another site key" in said) == (2, True)


def test_a_patient_of_the_files_own_leads_back_too(site: Path) -> None:
    """As `--patients file` names it, in a folder that has a name of its own."""
    names, path = Pseudonyms(KEY), site / "Meyer" / "2024-06-12" / "x_OD.png"
    case = fill(stated(patients="file"), names, open_scan(path, pseudonyms=names, root=site), path).case
    for token in (case.patient, str(case)):
        code, said = asked(token, site, "--json")
        assert code == 0, said
        (row,) = json.loads(said)
        assert (row["file"], row["patient"], row["patient_source"], row["case"]) == (str(path), "x", "from the file's name", str(case))
