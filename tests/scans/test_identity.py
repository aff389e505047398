"""Pseudonyms: the same person has the same token, and nobody can get from the token to the person."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from base64 import b32encode
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.errors import ConfigError
from pipeline.scans.identity import Pseudonyms, default_key_path, laterality_from_name, patient_and_visit_from_place
from pipeline.scans.open import open_scan
from pipeline.scans.raster import write_png
from tests.scans.make import dicom, ramp, saved


def test_a_token_is_hmac_sha256_cut_to_80_bits() -> None:
    token = Pseudonyms(b"key").token("patient", "P0001")
    expected = b32encode(hmac.new(b"key", b"patient\0P0001", hashlib.sha256).digest()[:10]).decode().lower()
    assert token == expected
    assert re.fullmatch("[a-z2-7]{16}", token)


def test_kinds_keys_and_values_differ() -> None:
    one, other = Pseudonyms(b"one"), Pseudonyms(b"other")
    tokens = {one.token("patient", "A"), one.token("visit", "A"), one.token("patient", "B"), other.token("patient", "A")}
    assert len(tokens) == 4
    assert one.token("patient", "Müller") == one.token("patient", "Müller".encode())


def test_the_key_is_made_once_and_private(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "site.key"
    with ThreadPoolExecutor(8) as pool:
        keys = {p.key for p in pool.map(lambda _: Pseudonyms.load_or_create(path), range(16))}
    assert len(keys) == 1
    assert len(keys.pop()) == 32
    assert path.stat().st_mode & 0o777 == 0o600
    assert [p.name for p in path.parent.iterdir()] == ["site.key"]


def test_a_key_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"a passphrase of this hospital\n")
    path.chmod(0o600)
    assert Pseudonyms.load_or_create(path).key == b"a passphrase of this hospital"
    path.write_bytes(b"short")
    with pytest.raises(ConfigError, match="shorter than 16 bytes"):
        Pseudonyms.load_or_create(path)
    with pytest.raises(ConfigError, match="OCUSEG_SITE_KEY"):
        Pseudonyms.load_or_create(path / "below a file")


def test_a_key_open_to_others_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "key").write_bytes(b"a passphrase of this hospital")
    (tmp_path / "key").chmod(0o644)
    Pseudonyms.load_or_create(tmp_path / "key")
    assert "0600" in caplog.text


def test_where_the_key_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCUSEG_SITE_KEY", "given")
    assert default_key_path() == Path("given")
    monkeypatch.delenv("OCUSEG_SITE_KEY")
    assert default_key_path().parts[-3:] == (".config", "ocuseg", "site.key")


@pytest.mark.parametrize(
    ("name", "eye", "rest"),
    [
        ("Image_01L", "L", "Image_01"),
        ("Image_01R", "R", "Image_01"),
        ("P0001_OD", "R", "P0001"),
        ("os-P0001", "L", "P0001"),
        ("visit2 right macula", "R", "visit2  macula"),
        ("P7_L_2", "L", "P7__2"),
        ("OD", "R", "OD"),
        ("P0001_OD_OS", None, "P0001_OD_OS"),
        ("scan_l_2", None, "scan_l_2"),
        ("glaucoma", None, "glaucoma"),
        ("01_dr", None, "01_dr"),
        ("RIGA_5", None, "RIGA_5"),
        ("model", None, "model"),
        ("", None, ""),
    ],
)
def test_the_eye_in_a_name(name: str, eye: str | None, rest: str) -> None:
    assert laterality_from_name(name) == (eye, rest)


def test_place_tells_patient_and_visit() -> None:
    root = Path("/data")
    assert patient_and_visit_from_place(root / "P1" / "V2" / "deep" / "a.png", root) == ("P1", "V2")
    assert patient_and_visit_from_place(root / "P1" / "a.png", root) == ("P1", None)
    assert patient_and_visit_from_place(root / "Image_01L.nii.gz", root) == ("Image_01", None)
    assert patient_and_visit_from_place(Path("/else/Image_01L.png"), root) == ("Image_01", None)


def test_tags_and_folders_meet_in_one_patient(tmp_path: Path) -> None:
    folder = tmp_path / "P0001" / "2024"
    folder.mkdir(parents=True)
    write_png(folder / "a_OS.png", ramp(6, 11))
    saved(dicom(ramp(6, 11), ImageLaterality="R", PatientID="P0001  "), folder / "b")
    saved(dicom(ramp(6, 11), ImageLaterality="R", IssuerOfPatientID="elsewhere"), folder / "c")
    names = Pseudonyms(b"site")
    picture, tagged, foreign = (open_scan(folder / n, pseudonyms=names, root=tmp_path).case for n in ("a_OS.png", "b", "c"))
    assert picture.patient == tagged.patient == names.token("patient", "P0001")
    assert foreign.patient == names.token("patient", "P0001\0elsewhere")
    assert (picture.eye, tagged.eye) == ("L", "R")
    assert picture.visit == names.token("visit", "2024")
    assert len({picture.image, tagged.image, foreign.image}) == 3


def test_tags_win_over_place_and_missing_tags_fall_back_to_it(tmp_path: Path) -> None:
    folder = tmp_path / "folder" / "visit"
    folder.mkdir(parents=True)
    names = Pseudonyms(b"site")
    dataset = dicom(ramp(6, 11), PatientID="tag", StudyDate="20240102", StudyInstanceUID=None)
    case = open_scan(saved(dataset, folder / "a"), pseudonyms=names, root=tmp_path).case
    assert (case.patient, case.visit) == (names.token("patient", "tag"), names.token("visit", "20240102"))
    assert case.image == names.token("image", str(dataset.SOPInstanceUID))
    bare = dicom(ramp(6, 11), PatientID="", StudyInstanceUID="")
    case = open_scan(saved(bare, folder / "b"), pseudonyms=names, root=tmp_path).case
    assert (case.patient, case.visit) == (names.token("patient", "folder"), names.token("visit", "visit"))


def test_the_same_place_has_the_same_token_wherever_the_tree_lies(tmp_path: Path) -> None:
    for tree in ("one", "two"):
        (tmp_path / tree / "P1").mkdir(parents=True)
        write_png(tmp_path / tree / "P1" / "a.png", ramp(6, 11))
    cases = {open_scan(tmp_path / tree / "P1" / "a.png", root=tmp_path / tree).case for tree in ("one", "two")}
    assert len(cases) == 1


def test_any_file_name_has_a_case(tmp_path: Path) -> None:
    for name in (b"new\nline.png", b"\xff\xfe not utf-8.png", b".png", b" "):
        path = Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name)))
        write_png(path, ramp(6, 11))
        assert re.fullmatch(r"[a-z2-7]{16}_U_0_[a-z2-7]{16}", str(open_scan(path, root=tmp_path).case))
