"""A folder without whose it is: names, ledger, second runs, refusals, and text burned into pixels."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image, ImageDraw, ImageFont
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.deidentify import burned_in
from pipeline.deidentify.burned_in import blacken, find_text
from pipeline.deidentify.cleaned import Cleaned
from pipeline.deidentify.file import Job, check_unnamed
from pipeline.deidentify.folder import deidentify_folder
from pipeline.deidentify.profile import Rules
from pipeline.errors import ScanError
from pipeline.memory import Limits
from pipeline.phantoms.fundus import draw_fundus
from pipeline.phantoms.oct import draw_oct
from pipeline.scans.identity import Pseudonyms
from pipeline.scans.open import open_scan
from pipeline.scans.whois import who_is
from tests.scans.make import dicom, encapsulated, jpeg, saved

SHAPE = (200, 280)


@pytest.fixture(scope="module")
def photograph() -> Any:
    return draw_fundus((0, 0, 0), "R", SHAPE).image


def written(picture: Any, text: str = "MEIER 4711") -> Any:
    """With white text in the top left corner."""
    image = Image.fromarray(picture)
    ImageDraw.Draw(image).text((6, 6), text, fill="white", font=ImageFont.load_default(14))
    return np.asarray(image)


def run(folder: Path, out: Path, key: Path, *more: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["deidentify", str(folder), "--out", str(out), "--site-key", str(key), "--workers", "0", *more])
    return result.exit_code, result.output


def ledger(out: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((out / "ledger.csv").read_text())))


def test_text_in_pixels_is_refused_reported_or_blackened(tmp_path: Path, photograph: Any) -> None:
    folder, key = tmp_path / "scans" / "Meier" / "2024-03-01", tmp_path / "key"
    folder.mkdir(parents=True)
    text = written(photograph)
    Image.fromarray(text).save(folder / "OD.jpg", quality=92)
    coded = encapsulated(dicom(text, PatientID="4711", StudyDate="20240301"), "1.2.840.10008.1.2.4.50", [jpeg(text, quality=92)])
    coded.PhotometricInterpretation = "YBR_FULL_422"
    saved(coded, folder / "OS.dcm")
    Image.fromarray(photograph).save(folder / "clean_OD.png")
    scans = tmp_path / "scans"
    code, said = run(scans, tmp_path / "refused", key)
    assert (code, "written: 1" in said, "refused: 2" in said) == (3, True, True)
    assert "--burned-in black" in said
    assert run(scans, tmp_path / "reported", key, "--burned-in", "report")[0] == 0
    assert sum("text burned in (frame 1: " in line["notes"] for line in ledger(tmp_path / "reported")) == 2
    assert run(scans, tmp_path / "black", key, "--option", "clean-pixels")[0] == 0
    assert sorted(path.suffix for path in (tmp_path / "black").rglob("*_O*.*")) == [".png", ".png"]
    assert ["written as PNG" in line["notes"] for line in ledger(tmp_path / "black") if line["output"].endswith("_OD.png")].count(True) == 1
    for path in (tmp_path / "black").glob("*/*/*"):
        scan = open_scan(path)
        seen = np.moveaxis(scan.pixels, 0, -1)
        assert find_text(seen) == []
        assert np.abs(seen[100:].astype(int) - text[100:]).max() <= 60  # JPEG's own error, where nothing was blackened
    (again,) = (pydicom.dcmread(path) for path in (tmp_path / "black").rglob("*.dcm"))
    assert (again.BurnedInAnnotation, again.PhotometricInterpretation) == ("NO", "RGB")
    assert "113101" in [item.CodeValue for item in again.DeidentificationMethodCodeSequence]


def test_text_is_found_in_speckle_turned_and_across_tiles_and_nothing_else_is() -> None:
    scan = draw_oct((3, 3, 0), "R", 1, 540, 560).volume[0]
    assert find_text(scan) == []
    drawn = ImageFont.load_default(22).getmask("MEIER-4711 F")
    letters = np.array(drawn, np.uint8).reshape(drawn.size[::-1])
    for turns, (row, column) in ((0, (430, 400)), (0, (250, 60)), (1, (200, 430))):
        ink = np.rot90(letters > 127, turns)
        picture, where = scan.copy(), np.s_[row : row + ink.shape[0], column : column + ink.shape[1]]
        picture[where][ink] = 255
        boxes = find_text(picture)
        blacken(picture[None], [boxes])
        assert not picture[where][ink].any()
        assert 0 < (picture != scan).sum() < 10 * ink.size


def test_lines_that_touch_at_an_angle_are_found() -> None:
    image = Image.new("L", (300, 30))
    ImageDraw.Draw(image).text((2, 2), "MEIER 4711 1954-03-02 OD", fill=255, font=ImageFont.load_default(22))
    picture = np.zeros((420, 420), np.uint8)
    picture[8:38, 8:308] = image
    picture[38:338, 8:38] = np.rot90(image, -1)
    boxes = find_text(picture)
    assert boxes
    blacken(picture[None], [boxes])
    assert not picture.any()


def test_text_is_found_in_pictures_of_one_bit_and_beside_a_hot_pixel(photograph: Any) -> None:
    letters = written(np.zeros_like(photograph)).max(2) // 128
    assert letters.max() == 1
    assert find_text(letters)
    for picture, there in ((written(photograph), True), (photograph, False)):
        deep = 4 * picture[..., 1].astype(np.uint16)
        deep[150, 20] = 65_535
        assert bool(find_text(deep)) is there


def test_a_picture_without_an_answer_is_refused(photograph: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    layers, head, _ = burned_in._weights()
    monkeypatch.setattr(burned_in, "_weights", lambda: (layers, head, float("nan")))
    with pytest.raises(ScanError, match="gave no number"):
        find_text(photograph)
    assert find_text(np.zeros((0, 0), np.uint8)) == []


def test_a_second_run_continues_and_another_key_is_refused(tmp_path: Path, photograph: Any) -> None:
    folder, out, key = tmp_path / "scans", tmp_path / "out", tmp_path / "key"
    for visit in ("2024-03-01", "2024-03-31"):
        (folder / "Meier" / visit).mkdir(parents=True)
        Image.fromarray(photograph).save(folder / "Meier" / visit / "Meier_OS.png")
    (folder / "notes.txt").write_text("Meier")
    code, said = run(folder, out, key, "--dry-run")
    assert (code, out.exists()) == (0, False)
    assert "nothing to remove" in said
    assert run(folder, out, key)[0] == 0
    first = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    names = Pseudonyms.load(key)
    patient = names.patient("Meier")
    visits = sorted(path.parent.name for path in first)
    days = [np.datetime64(f"{day[:4]}-{day[4:6]}-{day[6:]}") for day in visits]
    assert ((days[1] - days[0]).astype(int), {path.parts[-3] for path in first}) == (30, {patient})
    assert {path.stem[-3:] for path in first} == {"_OS"}
    (known,) = who_is(next(iter(first)).stem[:-3], folder, names)  # the way back: only with the key
    assert known.whose.patient == "Meier"
    Image.fromarray(photograph[::-1]).save(folder / "Meier" / "2024-03-31" / "Meier_OD.png")
    assert run(folder, out, key)[0] == 0
    assert {path: path.stat().st_mtime_ns for path in first} == first
    assert len(list(out.rglob("*.png"))) == 3
    assert [line["status"] for line in ledger(out)].count("written") == 3
    everything = b"".join(path.read_bytes() + path.name.encode() for path in out.rglob("*") if path.is_file())
    assert b"meier" not in everything.lower()
    code, said = run(folder, out, tmp_path / "another")
    assert (code, "another site key" in said) == (2, True)
    code, said = run(folder, folder / "out", key)
    assert (code, "lie in each other" in said) == (2, True)


def test_a_file_that_takes_too_much_memory_costs_that_file(tmp_path: Path, photograph: Any) -> None:
    folder = tmp_path / "scans" / "p"
    folder.mkdir(parents=True)
    Image.fromarray(np.zeros((6000, 6000), np.uint8)).save(folder / "large.png")
    Image.fromarray(photograph).save(folder / "small.png")
    limits = Limits(1, 1 << 30, 200 << 20)  # of pixels, what the job says counts
    job = Job(Rules.of("basic", ()), Pseudonyms(b"a key of sixteen"), tmp_path / "scans", "refuse", 10**8)
    assert deidentify_folder(job, tmp_path / "out", workers=1, limits=limits) == {"refused": 1, "written": 1, "text": 0}
    assert {line["status"]: line["code"] for line in ledger(tmp_path / "out")} == {"refused": "too_large", "written": ""}


def test_equal_identifiers_are_a_duplicate_or_a_conflict(tmp_path: Path, photograph: Any) -> None:
    folder = tmp_path / "scans"
    folder.mkdir()
    dataset = dicom(photograph, PatientID="4711")
    for name in ("a.dcm", "b.dcm"):
        saved(dataset, folder / name)
    dataset.PixelData = dataset.PixelData[::-1]
    saved(dataset, folder / "c.dcm")
    code, said = run(folder, tmp_path / "out", tmp_path / "key")
    assert (code, "written: 1" in said, "duplicate: 1" in said, "refused: 1" in said) == (3, True, True, True)
    assert "same identifiers" in said


def test_a_newcomer_with_the_same_identifiers_takes_nobodys_place(tmp_path: Path, photograph: Any) -> None:
    folder, out, key = tmp_path / "scans", tmp_path / "out", tmp_path / "key"
    folder.mkdir()
    dataset = dicom(photograph, PatientID="4711")
    saved(dataset, folder / "b.dcm")
    assert run(folder, out, key)[0] == 0
    (place,) = out.rglob("*.dcm")
    first = place.read_bytes()
    dataset.PixelData = dataset.PixelData[::-1]
    saved(dataset, folder / "a.dcm")  # is met first
    for _ in range(2):
        code, said = run(folder, out, key)
        assert (code, "written: 1" in said, "refused: 1" in said, place.read_bytes() == first) == (3, True, True, True)
    (folder / "b.dcm").unlink()  # and without the other one there is no conflict
    code, said = run(folder, out, key)
    assert (code, "written: 1" in said, place.read_bytes() == first) == (0, True, False)


def test_a_folder_named_in_another_encoding_ends_nothing(tmp_path: Path, photograph: Any) -> None:
    folder = tmp_path / "scans" / os.fsdecode("Müllermann".encode("latin-1"))
    folder.mkdir(parents=True)
    Image.fromarray(photograph).save(folder / "OD.png")
    assert run(tmp_path / "scans", tmp_path / "out", tmp_path / "key")[0] == 0


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "latin-1"])
def test_a_name_that_is_left_is_found_in_capitals_too(encoding: str) -> None:
    with pytest.raises(ScanError, match="still somewhere"):
        check_unnamed(Cleaned(b"", ".dcm", searched="Herr MÜLLERMANN".encode(encoding)), frozenset({"müllermann"}))
