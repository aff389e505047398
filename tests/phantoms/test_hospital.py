"""The phantom hospital: valid DICOM, exact pixels, the promised layout, and trouble only where it was asked for."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import get_args

import numpy as np
import pydicom
import pytest
from PIL import Image

from pipeline.errors import ConfigError
from pipeline.phantoms.dicom import Syntax, VisitRecord, make_uid, photograph, tomography, write_dicom
from pipeline.phantoms.fundus import draw_fundus
from pipeline.phantoms.hospital import write_hospital
from pipeline.phantoms.oct import OCT_LABELS, draw_oct
from pipeline.scans.nifti import read_nifti
from tests.dicom_validity import errors

VISIT = VisitRecord((1, 2, 0), "P0002", "PHANTOM^0002", "19500101", "F", "20240305", "093000")
SMALL = {"fundus_shape": (96, 120), "oct_shape": (3, 72, 88)}


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, int]]:
    out = tmp_path_factory.mktemp("hospital")
    return out, write_hospital(out, 3, 4, broken=True, **SMALL)


def digests(root: Path) -> dict[str, str]:
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(root.rglob("*")) if p.is_file()}


SYNTAXES = get_args(Syntax)


@pytest.mark.parametrize(("syntax", "depth"), [(s, d) for s in SYNTAXES for d in (8, 16) if (s, d) != ("jpeg", 16)])
def test_photographs_come_back_exact_and_are_valid(syntax: Syntax, depth: int, tmp_path: Path) -> None:
    image = draw_fundus(1, "L", (96, 121)).image  # an odd number of pixels, too
    if depth == 16:
        image = image[..., 1].astype(np.uint16) * 257 + 3
    write_dicom(photograph(image, VISIT, "L", (0.03, 0.04), 1, syntax), tmp_path / "scan")
    dataset = pydicom.dcmread(tmp_path / "scan")
    assert (dataset.Rows, dataset.Columns, dataset.ImageLaterality) == (96, 121, "L")
    assert [float(value) for value in dataset.PixelSpacing] == [0.03, 0.04]
    assert str(dataset.PatientName).startswith("PHANTOM")
    if syntax == "jpeg":
        assert dataset.LossyImageCompression == "01"
        assert np.abs(dataset.pixel_array.astype(int) - image).mean() < 4
    else:
        assert dataset.LossyImageCompression == "00"
        np.testing.assert_array_equal(dataset.pixel_array, image)
    assert errors(tmp_path / "scan", "Ophthalmic") == []


@pytest.mark.parametrize("syntax", [name for name in SYNTAXES if name != "jpeg"])
def test_volumes_come_back_exact_with_their_geometry(syntax: Syntax, tmp_path: Path) -> None:
    phantom = draw_oct(2, "R", 3, 71, 89)
    write_dicom(tomography(phantom.volume, VISIT, "R", phantom.spacing_mm, 1, syntax), tmp_path / "scan")
    dataset = pydicom.dcmread(tmp_path / "scan")
    np.testing.assert_array_equal(dataset.pixel_array, phantom.volume)
    shared = dataset.SharedFunctionalGroupsSequence[0]
    assert [float(v) for v in shared.PixelMeasuresSequence[0].PixelSpacing] == pytest.approx(phantom.spacing_mm[1:])
    corners = np.array([f.PlanePositionSequence[0].ImagePositionPatient for f in dataset.PerFrameFunctionalGroupsSequence], dtype=float)
    np.testing.assert_allclose(np.diff(corners, axis=0), [[0, 0, -phantom.spacing_mm[0]]] * 2)
    # An OPT that is no concatenation cannot please dciodvfy: it wants attributes that it then refuses (three, all about that).
    complaints = errors(tmp_path / "scan", "Ophthalmic")
    assert len(complaints) <= 3
    assert all("Concatenation" in complaint for complaint in complaints)


def test_uids_depend_on_their_words_alone() -> None:
    assert make_uid(1, "a") == make_uid(1, "a") != make_uid(1, "b")
    assert all(pydicom.uid.UID(make_uid(number)).is_valid for number in range(200))


def test_layout_counts_and_syntaxes(hospital: tuple[Path, dict[str, int]]) -> None:
    out, counts = hospital
    files = [path for path in (out / "scans").rglob("*") if path.is_file()]
    assert counts["files"] == len(files)
    assert {key: counts[key] for key in ("patients", "visits", "photographs", "red_free", "volumes", "broken", "duplicates")} == {
        "patients": 3, "visits": 2 + 3 + 1, "photographs": 12 + 2, "red_free": 2, "volumes": 6, "broken": 5, "duplicates": 2,
    }  # fmt: skip
    assert {path.relative_to(out / "scans").parts[0] for path in files} == {"P0001", "P0002", "P0003"}
    assert all(len(path.relative_to(out / "scans").parts) == 3 for path in files)
    syntaxes = set()
    for path in files:
        if path.stem.endswith("photo") and path.suffix in ("", ".dcm"):
            dataset = pydicom.dcmread(path, stop_before_pixels=True)
            syntaxes.add(dataset.file_meta.TransferSyntaxUID)
            assert dataset.PatientID == path.parts[-3]
            assert dataset.StudyDate == path.parts[-2]
            assert dataset.ImageLaterality == {"OD": "R", "OS": "L"}[path.name[:2]]
    assert len(syntaxes) == len(SYNTAXES)
    assert list((out / "scans").rglob("*_photo.png"))
    assert list((out / "scans").rglob("*_macula.nii.gz"))


def test_card_holds_the_truth_about_every_photograph_and_volume(hospital: tuple[Path, dict[str, int]]) -> None:
    card = hospital[0] / "card"
    names = sorted(path.name for path in (card / "images").iterdir())
    assert len(names) == 12
    assert names[:2] == ["P0001_L_V1.png", "P0001_L_V2.png"]
    folders = {"vessels": {0, 255}, "fov": {0, 255}, "arteries_veins": {0, 1, 2, 3}, "disc_cup": {0, 1, 3}, "lesions": {0, 1, 2}}
    for folder, values in folders.items():
        assert sorted(path.name for path in (card / folder).iterdir()) == names
        seen = {int(value) for name in names for value in np.unique(np.asarray(Image.open(card / folder / name)))}
        assert seen == values, folder
    for name in names:
        lesions, numbers = (np.asarray(Image.open(card / folder / name)) for folder in ("lesions", "lesion_instances"))
        np.testing.assert_array_equal(lesions > 0, numbers > 0)
        assert all(len(np.unique(lesions[numbers == number])) == 1 for number in np.unique(numbers))
    volumes = sorted(path.name for path in (card / "oct").iterdir())
    assert volumes == sorted(path.name for path in (card / "oct_labels").iterdir())
    assert len(volumes) == 6
    for name in volumes:
        labels, geometry = read_nifti(card / "oct_labels" / name)
        assert labels.shape == SMALL["oct_shape"]
        assert geometry.spacing_mm == pytest.approx((2.0, 1.3 / 72, 6 / 88))
        assert labels.max() <= max(OCT_LABELS.values())


def test_card_images_are_the_scans_in_the_tree(hospital: tuple[Path, dict[str, int]]) -> None:
    out = hospital[0]
    days = sorted(path.name for path in (out / "scans" / "P0002").iterdir())
    compared = 0
    for index, day in enumerate(days):
        for eye, short in (("R", "OD"), ("L", "OS")):
            path = out / "scans" / "P0002" / day / f"{short}_photo"
            if path.exists() and pydicom.dcmread(path, stop_before_pixels=True).LossyImageCompression == "00":
                truth = np.asarray(Image.open(out / "card" / "images" / f"P0002_{eye}_V{index + 1}.png"))
                np.testing.assert_array_equal(pydicom.dcmread(path).pixel_array, truth)
                compared += 1
    assert compared >= 3


def test_equal_arguments_give_equal_bytes_and_patients_do_not_depend_on_each_other(
    hospital: tuple[Path, dict[str, int]], tmp_path: Path
) -> None:
    out = hospital[0]
    write_hospital(tmp_path / "again", 3, 4, broken=True, **SMALL)
    assert digests(tmp_path / "again") == digests(out)
    write_hospital(tmp_path / "one", 1, 4, first_patient=3, truth=False, **SMALL)
    everyone = digests(out / "scans")
    assert digests(tmp_path / "one" / "scans") == {name: value for name, value in everyone.items() if name.startswith("P0003")}
    assert not (tmp_path / "one" / "card").exists()
    write_hospital(tmp_path / "other", 1, 5, first_patient=3, truth=False, **SMALL)
    assert not set(digests(tmp_path / "other").values()) & set(everyone.values())


def test_trouble_is_what_it_says(hospital: tuple[Path, dict[str, int]]) -> None:
    out = hospital[0]
    folder = next(path.parent for path in out.rglob("notes.txt"))
    assert (folder / "empty.dcm").stat().st_size == 0
    assert (folder / "photo_copy.dcm").read_bytes() == (folder / "photo_extra.dcm").read_bytes()
    extra, resent, chest = (pydicom.dcmread(folder / name) for name in ("photo_extra.dcm", "photo_resent.dcm", "chest.dcm"))
    assert extra.SOPInstanceUID == resent.SOPInstanceUID
    assert (folder / "photo_extra.dcm").read_bytes() != (folder / "photo_resent.dcm").read_bytes()
    np.testing.assert_array_equal(extra.pixel_array, resent.pixel_array)
    assert "<script>" in extra.StudyDescription
    assert chest.Modality == "CT"
    with pytest.raises(OSError, match="truncated"), Image.open(folder / "truncated.jpg") as picture:
        picture.load()
    assert [path.name for path in folder.iterdir() if "\n" in path.name] == ["OD_photo\nretake.png"]


def test_no_trouble_unless_asked_and_progress_reaches_its_end(tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    counts = write_hospital(tmp_path, 1, 0, progress=lambda done, total: steps.append((done, total)), **SMALL)
    assert counts["broken"] == counts["duplicates"] == 0
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert all(path.name.startswith(("OD_", "OS_")) for path in (tmp_path / "scans").rglob("*") if path.is_file())


def test_nothing_is_overwritten_and_nonsense_is_refused(hospital: tuple[Path, dict[str, int]], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="already holds phantom patient P0002"):
        write_hospital(hospital[0], 1, 0, first_patient=2)
    for patients, seed, first in ((0, 0, 1), (1, -1, 1), (1, 0, 0), (2, 0, 9999)):
        with pytest.raises(ConfigError, match="patients"):
            write_hospital(tmp_path, patients, seed, first_patient=first)
    assert not any(tmp_path.iterdir())


def test_lesion_bits_name_the_kind(tmp_path: Path) -> None:
    from pipeline.phantoms.hospital import _write_fundus_truth

    phantom = draw_fundus((7, 3), "R", (200, 232), severity=1.0)
    _write_fundus_truth(tmp_path, "one", phantom)
    bits = np.asarray(Image.open(tmp_path / "lesions" / "one.png"))
    for bit, kind in ((1, "microaneurysm"), (2, "haemorrhage"), (4, "exudate")):
        assert phantom.masks[kind].any()
        np.testing.assert_array_equal(bits == bit, phantom.masks[kind])
