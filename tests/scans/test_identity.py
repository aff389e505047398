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
from pipeline.scans.eyes import eyes_in_names, laterality_from_name
from pipeline.scans.identity import NO_VISIT, Pseudonyms, default_key_path, identify, stated_patient, warn_of_one_patient
from pipeline.scans.open import open_scan
from pipeline.scans.place import laterality_from_place, patient_and_visit_from_place
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
    key = keys.pop()
    assert len(key) == 32
    assert key.hex() not in path.read_text()
    assert path.read_text().replace("-", "").startswith(f"ocusegkey{key.hex()}")
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


def _refused(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ConfigError) as refused:
        Pseudonyms.load_or_create(path)
    return str(refused.value)


def test_a_damaged_key_is_refused_wherever_it_was_cut_or_changed(tmp_path: Path) -> None:
    path = tmp_path / "key"
    key = Pseudonyms.load_or_create(path).key
    whole = path.read_bytes().strip()
    for start in range(0, len(whole), 7):
        for end in range(start + 1, len(whole) + 1, 5):
            if (part := whole[start:end]) != whole:
                assert "site key" in _refused(path, part), part
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] = ord("0") if changed[place] != ord("0") else ord("1")
        assert "damaged" in _refused(path, bytes(changed)), place
    for same in (whole + b"\r\n", whole.upper(), b"\xef\xbb\xbf" + whole, whole.decode().encode("utf-16")):
        path.write_bytes(same)
        assert Pseudonyms.load_or_create(path).key == key


def test_a_key_without_a_check_is_read_as_before(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "key"
    for content, key in (
        (b"ab" * 32 + b"\n", b"\xab" * 32),
        (b"deadbeef" * 4, b"deadbeef" * 4),
        (bytes(range(40, 80)), bytes(range(40, 80))),
    ):
        path.write_bytes(content)
        path.chmod(0o600)
        assert Pseudonyms.load_or_create(path).key == key
    assert caplog.text.count("it was cut") == 1


def test_what_is_no_key_is_said_in_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "key"
    assert "empty" in _refused(path, b" \n")
    assert "only zeros" in _refused(path, bytes(80))
    assert "1 MiB" in _refused(path, b"x" * (1 << 21))
    for place, word in ((tmp_path, "a folder"), (tmp_path / "link", "a broken link")):
        if place.name == "link":
            place.symlink_to(tmp_path / "nothing")
        with pytest.raises(ConfigError, match=word):
            Pseudonyms.load_or_create(place)


def test_a_new_key_says_where_it_lies(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="pipeline")
    Pseudonyms.load_or_create(tmp_path / "site.key")
    assert str(tmp_path / "site.key") in caplog.text


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
        ("visit2 right macula", "R", "visit2 macula"),
        ("P7_L_2", "L", "P7_2"),
        ("OD", "R", "OD"),
        ("P0001_OD_OS", None, "P0001_OD_OS"),
        ("scan_l_2", None, "scan_l_2"),
        ("glaucoma", None, "glaucoma"),
        ("01_dr", None, "01_dr"),
        ("RIGA_5", None, "RIGA_5"),
        ("model", None, "model"),
        ("", None, ""),
        ("RET002OS", "L", "RET002"),
        ("ret002od", "R", "ret002"),
        ("P1_RE", "R", "P1"),
        ("P1-LE", "L", "P1"),
        ("P1_le", None, "P1_le"),
        ("P3_OI", "L", "P3"),
        ("01OG", "L", "01"),
        ("P1_OU", None, "P1"),
        ("P1_OD2", "R", "P1_2"),
        ("macula_gauche_P1", "L", "macula_P1"),
        ("LeftEye_03", "L", "Eye_03"),
        ("P1_D", None, "P1_D"),
        ("iOS_001", None, "iOS_001"),
        ("Grüos_1", None, "Grüos_1"),
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
    picture, tagged, issued = (open_scan(folder / n, pseudonyms=names, root=tmp_path).case for n in ("a_OS.png", "b", "c"))
    assert picture.patient == tagged.patient == issued.patient == names.token("patient", "P0001")
    assert (picture.eye, tagged.eye) == ("L", "R")
    assert picture.visit == names.token("visit", "2024")
    assert len({picture.image, tagged.image, issued.image}) == 3


@pytest.mark.parametrize("written", [" P0001", "P0001\0\0", "P0001\t", "\u00a0P0001", "P0001\n"])
def test_blanks_and_padding_of_an_id_do_not_matter(written: str) -> None:
    assert Pseudonyms(b"site").patient(written) == Pseudonyms(b"site").patient("P0001")


@pytest.mark.parametrize("other", ["p0001", "P001", "P 0001", "P0001.", "0P0001"])
def test_what_may_tell_two_people_apart_stays(other: str) -> None:
    assert Pseudonyms(b"site").patient(other) != Pseudonyms(b"site").patient("P0001")


def test_an_accent_is_the_same_however_it_is_written() -> None:
    assert Pseudonyms(b"site").patient("Mu\u0308ller") == Pseudonyms(b"site").patient("M\u00fcller")


@pytest.mark.parametrize("placeholder", ["ANONYMOUS", "anonymized", " Unknown ", "0", "000", "N/A", "-", "xxx", "PatientID"])
def test_an_id_that_stands_for_nobody_leaves_the_patient_to_the_folder(placeholder: str, tmp_path: Path) -> None:
    names = Pseudonyms(b"site")
    for patient in ("P1", "P2"):
        (tmp_path / patient).mkdir()
        path = saved(dicom(ramp(6, 11), PatientID=placeholder), tmp_path / patient / "a")
        assert open_scan(path, pseudonyms=names, root=tmp_path).case.patient == names.patient(patient)
    assert stated_patient("ANON-0012") == "ANON-0012"


@pytest.mark.parametrize(
    ("place", "patient", "visit", "eye"),
    [
        ("OD/P1.png", "P1", None, "R"),
        ("OS/P1.png", "P1", None, "L"),
        ("P1/OD/a.png", "P1", None, "R"),
        ("Left eye/P1_macula.png", "P1_macula", None, "L"),
        ("P1/2024-01-02/OS/a.png", "P1", "20240102", "L"),
        ("2024-01-02/P1/a.png", "P1", "20240102", None),
        ("2024/03/17/P1/a.png", "P1", "20240317", None),
        ("02.01.2024/P1/a.png", "P1", "02.01.2024", None),
        ("visit 1/P1/a.png", "P1", "visit 1", None),
        ("OCT/P1/a.png", "P1", None, None),
        ("P1/OCT/a.png", "P1", None, None),
        ("export/images/P1_OD.png", "P1", None, "R"),
        ("OD/a_OS.png", "a", None, None),
        ("patient 12/a.png", "patient 12", None, None),
        ("2001/1/a.png", "2001", "1", None),
        ("20241302/a.png", "20241302", None, None),
        ("12345678/a.png", "12345678", None, None),
        ("D/a.png", "D", None, None),
        ("OD1/a.png", "OD1", None, None),
    ],
)
def test_folders_that_name_an_eye_a_date_or_a_kind_are_no_patients(place: str, patient: str, visit: str | None, eye: str | None) -> None:
    path, root = Path("/data") / place, Path("/data")
    assert patient_and_visit_from_place(path, root) == (patient, visit)
    assert laterality_from_place(path, root) == eye


@pytest.mark.parametrize(
    ("right", "left"), [("_D", "_G"), ("_D", "_E"), ("_D", "_I"), ("D", "S"), ("_re", "_le"), ("-RA", "-LA"), ("OD", "OS"), ("_dx", "_sx")]
)
def test_a_set_of_names_shows_what_its_pairs_mean(right: str, left: str) -> None:
    sides = {side: [f"case{number}{side}" for number in (11, 12, 13)] for side in (right, left)}
    read = eyes_in_names([*sides[right], *sides[left], "case14"])
    assert read.question is None
    assert read.rule
    assert [read.of[name] for name in sides[right]] == [("R", f"case{number}") for number in (11, 12, 13)]
    assert [read.of[name][0] for name in sides[left]] == ["L"] * 3
    assert read.of["case14"] == (None, "case14")


@pytest.mark.parametrize(("one", "two"), [("_r", "_l"), ("a", "b"), ("_1", "_2"), ("_pre", "_post")])
def test_names_in_pairs_that_are_not_understood_raise_a_question(one: str, two: str) -> None:
    read = eyes_in_names([f"case{number}{side}" for number in (11, 12, 13) for side in (one, two)])
    assert read.question == tuple(sorted((one.strip("_"), two.strip("_"))))
    assert read.example is not None


@pytest.mark.parametrize(
    "names",
    [
        [f"im{number:03}" for number in range(20)],
        ["x_0", "x_1", "x_2", "y_0", "y_1", "y_2"],
        ["01_h", "01_g", "01_dr", "02_h", "02_g", "02_dr"],
        ["a1", "a2", "b1", "b2"],
        ["P_D", "Q_G"],
        [],
    ],
)
def test_other_names_say_nothing_of_eyes(names: list[str]) -> None:
    read = eyes_in_names(names)
    assert (read.rule, read.question) == ("", None)
    assert all(read.of[name] == (None, name) for name in names)


@pytest.mark.parametrize("told", ["R", "L"])
def test_what_contradicts_the_tag_of_the_eye_is_said(told: str, tmp_path: Path) -> None:
    other, own = ("OS", "OD") if told == "R" else ("OD", "OS")

    def opened(name: str, **tags: str | None) -> tuple[str | None, str]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        scan = open_scan(saved(dicom(ramp(6, 11), PatientID="P1", **tags), tmp_path / name), root=tmp_path)
        assert scan.case.eye == (scan.geometry.laterality or "U")
        assert all(code == "side_conflict" and "counts; check" in said for code, said in scan.doubts)
        return scan.geometry.laterality, scan.told

    series = "L" if told == "R" else "R"
    assert opened(f"a_{own}.dcm", ImageLaterality=told) == (told, "")
    for name, where in ((f"a_{other}.dcm", "name"), (f"{other}/a.dcm", "folder")):
        eye, said = opened(name, ImageLaterality=told)
        assert eye == told
        assert f"the file's {where}" in said
    eye, said = opened("b.dcm", ImageLaterality=told, Laterality=series)
    assert (eye, "series' tag" in said) == (told, True)
    eye, said = opened("c.dcm", Laterality=series)
    assert (eye, "series' tag" in said) == (None, True)
    eye, said = opened(f"d_{own}.dcm")
    assert (eye, "unknown" in said) == (None, True)
    eye, said = opened("e.dcm", ImageLaterality=own)
    assert (eye, own in said) == (None, True)
    assert opened("f.dcm", ImageLaterality="B") == (None, "")


@pytest.mark.parametrize(
    ("counts", "said"), [({"a": 20}, True), ({"a": 19}, False), ({"a": 30, "b": 30}, False), ({}, False), ({"a": 22, "b": 20}, True)]
)
def test_one_patient_for_most_of_a_folder_is_said(counts: dict[str, int], said: bool, caplog: pytest.LogCaptureFixture) -> None:
    warn_of_one_patient(counts.items())
    assert ("count as one patient" in caplog.text) is said


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


def test_a_date_without_a_visit_makes_no_dated_visit(tmp_path: Path) -> None:
    """All files of a patient that state no visit share one token, so that no day is theirs."""
    path = tmp_path / "P" / "a.dcm"
    whose = identify(Pseudonyms.unkeyed(), path, tmp_path, None, patient="P0042", date="20240229")
    assert (whose.case.visit, whose.day) == (NO_VISIT, None)
    assert identify(Pseudonyms.unkeyed(), path, tmp_path, None, patient="P0042", visit="1.2.3", date="20240229").day is not None
