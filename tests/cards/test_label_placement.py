"""Labels of a card lie where their headers say, over every kind of image, for every kind of label that has pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from pipeline.cards.card import read_field_of_view, read_scan
from pipeline.cards.find_cases import find_cases
from pipeline.cards.targets import read_truth
from pipeline.errors import CardError
from pipeline.phantoms.dicom import VisitRecord, tomography, write_dicom
from pipeline.scans.nifti import write_nifti
from pipeline.scans.open import open_scan
from pipeline.scans.raster import write_png
from pipeline.types import Geometry
from tests.cards.conftest import make_card

SHAPE = (4, 30, 40)
RAS_OF_ITK = np.diag([-1.0, -1.0, 1.0, 1.0])


@pytest.fixture
def drawn() -> np.ndarray:
    """uint8 (slices, rows, columns), two blobs that no flip and no turn maps onto themselves."""
    out = np.zeros(SHAPE, np.uint8)
    out[1:, 3:9, 5:20] = 1
    out[0, 20:24, 30:38] = 1
    return out


def truth_of(root: Path, label: dict[str, Any], image: str = "images/{name}.nii.gz") -> np.ndarray:
    card = make_card(modality="oct", images={"file": image}, labels=[label])
    (case,) = find_cases(card, root)
    truth = read_truth(card, case, objects=True, scan=read_scan(card, case))
    assert truth.mask is not None
    assert truth.objects is not None
    drawn = np.stack([part.codes(card.label_map) for part in truth.objects])
    assert np.array_equal(drawn.reshape(truth.mask.shape), truth.mask), "objects and pixels lie in one place"
    return truth.mask


def folders(tmp_path: Path) -> Path:
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    return tmp_path


@pytest.mark.parametrize(
    "label",
    [
        {"kind": "values", "values": {1: "vessel"}},
        {"kind": "bits", "bits": {0: "vessel"}},
        {"kind": "threshold", "means": "vessel", "at_least": 0.5},
        {"kind": "instances", "means": "vessel"},
        {"kind": "masks", "means": "vessel"},
    ],
)
def test_a_label_turned_over_by_another_program(label: dict[str, Any], drawn: np.ndarray, tmp_path: Path) -> None:
    root = folders(tmp_path)
    affine = np.array([[0.0117, 0, 0, 3], [0, 0.0039, 0, -1], [0, 0, 0.12, 5], [0, 0, 0, 1]])
    image = nibabel.Nifti1Image((drawn * 90).T + 20, affine)
    nibabel.save(image, root / "images" / "P1.nii.gz")
    own = nibabel.Nifti1Image(drawn.T, affine)
    for codes in ("LPS", "RAS", "LAS", "SRP", "PIL"):
        turn = nibabel.orientations.ornt_transform(nibabel.io_orientation(affine), nibabel.orientations.axcodes2ornt(codes))
        turned = own.as_reoriented(turn)
        nibabel.save(turned, root / "labels" / "P1.nii.gz")
        assert np.array_equal(truth_of(root, {**label, "file": "labels/{name}.nii.gz"}), drawn)


def test_a_label_of_a_dicom_volume_as_dcm2niix_lays_it_out(drawn: np.ndarray, tmp_path: Path) -> None:
    root = folders(tmp_path)
    scan = write_volume(drawn, root / "images" / "P1.dcm")
    assert scan.geometry.affine is not None
    rows_up = np.array([[1, 0, 0, 0], [0, -1, 0, SHAPE[1] - 1], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ scan.geometry.affine @ rows_up
    nibabel.save(nibabel.Nifti1Image(drawn[:, ::-1].T, affine), root / "labels" / "P1.nii.gz")
    label = {"kind": "values", "file": "labels/{name}.nii.gz", "values": {1: "vessel"}}
    assert np.array_equal(truth_of(root, label, "images/{name}.dcm"), drawn)
    # Without a code its array is all there is; who knows how it was made says so.
    nibabel.save(nibabel.Nifti1Image(drawn[:, ::-1].T, None), root / "labels" / "P1.nii.gz")
    assert np.array_equal(truth_of(root, label | {"place": "rows_up"}, "images/{name}.dcm"), drawn)


def write_volume(drawn: np.ndarray, path: Path) -> Any:
    visit = VisitRecord((1, 2, 0), "P0002", "PHANTOM^0002", "19500101", "F", "20240305", "093000")
    write_dicom(tomography(drawn * 90 + np.uint8(20), visit, "R", (0.12, 0.0039, 0.0117), 1, "explicit"), path)
    return open_scan(path)


def test_a_mask_of_itk_snap_over_a_picture(drawn: np.ndarray, tmp_path: Path) -> None:
    root = folders(tmp_path)
    write_png(root / "images" / "P1.png", drawn[1] * 90 + np.uint8(20))
    nibabel.save(nibabel.Nifti1Image(drawn[1].T[..., None], RAS_OF_ITK), root / "labels" / "P1.nii.gz")
    label = {"kind": "values", "file": "labels/{name}.nii.gz", "values": {1: "vessel"}}
    assert np.array_equal(truth_of(root, label, "images/{name}.png"), drawn[1])
    nibabel.save(nibabel.Nifti1Image(drawn[1].T, np.eye(4)), root / "labels" / "P1.nii.gz")
    with pytest.raises(CardError, match=r"case P1.*does not lie on its image.*place: array"):
        truth_of(root, label, "images/{name}.png")
    assert np.array_equal(truth_of(root, label | {"place": "array"}, "images/{name}.png"), drawn[1])
    nibabel.save(nibabel.Nifti1Image(drawn[1].T, None), root / "labels" / "P1.nii.gz")
    assert np.array_equal(truth_of(root, label, "images/{name}.png"), drawn[1])


def test_a_metaimage_over_a_metaimage(drawn: np.ndarray, tmp_path: Path) -> None:
    root = folders(tmp_path)

    def write(path: Path, array: np.ndarray, matrix: str, offset: str) -> None:
        head = f"NDims = 3\nDimSize = 40 30 4\nElementSpacing = 1 1 1\nTransformMatrix = {matrix}\nOffset = {offset}\n"
        path.write_bytes(f"ObjectType = Image\n{head}ElementType = MET_UCHAR\nElementDataFile = LOCAL\n".encode() + array.tobytes())

    write(root / "images" / "P1.mha", drawn * 90 + np.uint8(20), "1 0 0 0 1 0 0 0 1", "0 0 0")
    write(root / "labels" / "P1.mha", drawn[:, ::-1], "1 0 0 0 -1 0 0 0 1", "0 29 0")
    label = {"kind": "values", "file": "labels/{name}.mha", "values": {1: "vessel"}}
    assert np.array_equal(truth_of(root, label, "images/{name}.mha"), drawn)


def test_a_field_of_view_is_placed_as_well(drawn: np.ndarray, tmp_path: Path) -> None:
    root = folders(tmp_path)
    write_png(root / "images" / "P1.png", drawn[1] * 90 + np.uint8(20))
    write_png(root / "labels" / "P1.png", drawn[1])
    flipped = np.array([[-1, 0, 0, 0], [0, 1, 0, 1 - SHAPE[1]], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    nibabel.save(nibabel.Nifti1Image(drawn[1, ::-1].T, flipped), root / "P1_view.nii")
    card = make_card(
        images={"file": "images/{name}.png"},
        labels=[{"kind": "values", "file": "labels/{name}.png", "values": {1: "vessel"}}],
        field_of_view={"file": "{name}_view.nii"},
    )
    (case,) = find_cases(card, root)
    view = read_field_of_view(card, case, read_scan(card, case))
    assert view is not None
    assert np.array_equal(view, drawn[1] == 1)


def test_what_the_own_writer_wrote_is_placed_by_its_array(drawn: np.ndarray, tmp_path: Path) -> None:
    root = folders(tmp_path)
    for geometry in (Geometry(SHAPE), Geometry(SHAPE, (None, 0.004, 0.01), "tag"), Geometry(SHAPE, (0.2, 0.004, 0.01), "user")):
        write_nifti(root / "images" / "P1.nii.gz", drawn * 90 + np.uint8(20), geometry)
        write_nifti(root / "labels" / "P1.nii.gz", drawn, geometry)
        assert np.array_equal(truth_of(root, {"kind": "values", "file": "labels/{name}.nii.gz", "values": {1: "vessel"}}), drawn)
