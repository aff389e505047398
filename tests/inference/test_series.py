"""What files say of each other, in prediction as in the catalogue: slices of a volume, one UID of two pictures, links, folders."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from pipeline.bundles.bundle import Bundle
from pipeline.errors import ScanError
from pipeline.inference.predict import Predictor, PreprocessedScan
from pipeline.scans.catalogue import Catalogue
from pipeline.scans.folder import index_folder
from pipeline.scans.open import open_scan
from pipeline.types import Scan
from tests.inference.conftest import BrightTask, make_bundle, picture, write_folder
from tests.inference.test_folder import KEY, counts, ledger, run
from tests.scans.make import dicom, ramp, saved
from tests.scans.test_series import write_series


def indexed(tmp_path: Path) -> list[tuple[str, str]]:
    index_folder(tmp_path / "scans", tmp_path / "c.sqlite", pseudonyms=KEY, workers=0)
    with Catalogue(tmp_path / "c.sqlite") as catalogue:
        return sorted((record.token, "done" if record.status == "read" else record.status) for record in catalogue)


@pytest.fixture
def oct_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    made = make_bundle(tmp_path / "bundle", modality="oct", input_channels=1)
    monkeypatch.setattr("pipeline.inference.folder_work.open_bundle", lambda path, device="cpu": made)
    return made


def test_files_of_one_series_are_one_case_and_grow_with_it(tmp_path: Path, oct_bundle: Bundle) -> None:
    folder = tmp_path / "scans" / "A"
    volume = write_series(folder)
    (tmp_path / "scans" / "copy.dcm").write_bytes(sorted(folder.iterdir())[1].read_bytes())
    late = sorted(folder.iterdir())[-1]
    late.rename(tmp_path / "late.dcm")
    assert run(tmp_path) == counts(done=1, part=2, duplicate=1, with_warnings=1)  # one slice is missing
    (tmp_path / "late.dcm").rename(late)
    assert run(tmp_path) == run(tmp_path) == counts(done=2, part=3, duplicate=1, with_warnings=1)  # the smaller volume's result stays
    rows = ledger(tmp_path / "out")
    whole = next(row for row in rows if "slice 4 of 4" in row["reason"])["case"]
    case = tmp_path / "out" / "cases" / whole
    record = json.loads((case / "case.json").read_text())
    assert record["geometry"]["shape"] == [4, 6, 11]
    assert record["geometry"]["spacing_mm"] == pytest.approx([0.2, 0.004, 0.01])
    mask = open_scan(case / "mask.nii.gz")
    assert mask.pixels.shape == (1, 4, 6, 11)
    shown = np.stack([open_scan(case / f"image_{k:03d}.png").pixels[0] for k in range(4)])
    assert (np.argsort(shown[:, 0, 0]) == np.argsort(volume[:, 0, 0])).all()
    assert sorted({(row["token"], row["status"]) for row in rows}) == indexed(tmp_path)


@pytest.mark.parametrize("uid", [True, False])
def test_copies_of_every_slice_stay_duplicates(tmp_path: Path, oct_bundle: Bundle, uid: bool) -> None:
    folder, copies = tmp_path / "scans" / "A", tmp_path / "scans" / "copies"
    write_series(folder)
    copies.mkdir()
    for path in folder.iterdir():
        if not uid:
            dataset = pydicom.dcmread(path)
            del dataset.SOPInstanceUID
            dataset.save_as(path)
        shutil.copy(path, copies)
    for _ in range(2):
        assert run(tmp_path) == counts(done=1, part=3, duplicate=4)
    assert isinstance(oct_bundle.task, BrightTask)
    assert len(oct_bundle.task.seen) == 4


@pytest.mark.parametrize("at_once", [1, 8])
def test_a_volume_that_does_not_fit_is_pictures_that_say_why_and_the_run_goes_on(
    tmp_path: Path, oct_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    """Also where, on a GPU, these pictures wait for more of their size."""
    write_series(tmp_path / "scans" / "A")
    ready = Predictor.ready
    monkeypatch.setattr(Predictor, "at_once", lambda self, pixels: at_once)

    def little_memory(self: Predictor, scan: Scan, *arguments: Any, **options: Any) -> PreprocessedScan:
        if scan.geometry.slices > 1:
            raise ScanError("too_large", "too large for this machine's memory")
        return ready(self, scan, *arguments, **options)

    monkeypatch.setattr(Predictor, "ready", little_memory)
    assert run(tmp_path) == counts(done=4, with_warnings=4)
    assert all("too large for this machine" in row["reason"] for row in ledger(tmp_path / "out"))


def test_one_uid_of_two_pictures_keeps_both_and_says_so(tmp_path: Path, bundle: Bundle) -> None:
    (tmp_path / "scans").mkdir()
    for name, pixels in (("a", picture(1)), ("b", picture(2)), ("c", picture(2))):
        saved(dicom(pixels, SOPInstanceUID="1.2.3.4", PatientComments=name, PatientID="ANON"), tmp_path / "scans" / f"{name}.dcm")
    assert run(tmp_path) == run(tmp_path) == counts(done=2, duplicate=1, with_warnings=1)
    rows = {row["status"]: row for row in ledger(tmp_path / "out") if row["reason"]}
    assert "the same SOP Instance UID and another picture" in rows["done"]["reason"]
    assert rows["duplicate"]["reason"] == f"the same SOP Instance UID and the same pixels as {rows['done']['case']}"
    about = json.loads((tmp_path / "out" / "cases" / rows["done"]["case"] / "case.json").read_text())
    assert rows["done"]["reason"] in about["warnings"]


def test_links_folders_and_odd_files_count_as_in_the_catalogue(tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    (good,) = write_folder(tmp_path / "scans", 1)
    folder = good.parent
    saved(
        dicom(ramp(6, 11), PixelData=None, Rows=None, Columns=None, SOPClassUID="1.2.840.10008.5.1.4.1.1.88.11", Modality="SR"),
        folder / "report.dcm",
    )
    (folder / "._scan_0_OD.png").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X        ")
    (folder / "empty.png").write_bytes(b"")
    (tmp_path / "elsewhere.png").write_bytes(good.read_bytes() + b"x")
    (folder / "link.png").symlink_to(tmp_path / "elsewhere.png")
    (folder / "up").symlink_to(tmp_path)
    shut = tmp_path / "scans" / "shut"
    shut.mkdir()
    (shut / "notes.txt").write_text("none of ours")
    real = os.scandir

    def refuse(path: Any) -> Any:
        if path == os.fsencode(shut):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert run(tmp_path) == counts(done=1, not_an_image=2, not_followed=2, rejected=2)
    assert sorted((row["token"], row["status"]) for row in ledger(tmp_path / "out")) == indexed(tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr("pipeline.inference.folder_work.open_bundle", lambda path, device="cpu": bundle)
    assert run(tmp_path) == counts(done=1, not_an_image=3, not_followed=2, rejected=1)
    assert sorted((row["token"], row["status"]) for row in ledger(tmp_path / "out")) == indexed(tmp_path)
