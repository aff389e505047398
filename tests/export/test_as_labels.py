"""What is exported as segmentations is a labelled set: it labels the images that it refers to, with every pixel."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from pipeline.cards.check import check_card
from pipeline.cards.find_cases import find_cases, search_folder
from pipeline.cards.targets import read_target_mask
from pipeline.export.case import Settings
from pipeline.export.run import Predictions
from tests.cards.conftest import make_card
from tests.export.conftest import SLICES, Site, disc_and_cup

SOURCE = {
    "kind": "dicom_seg",
    "file": "seg/{path}.dcm",
    "match": "reference",
    "segments": {"SCT:81016008": "disc", "99OCUSEG:CUP": "cup"},
    "objects": "one",
}


def card(names: str, **source: Any) -> Any:
    return make_card(
        classes=[{"name": "disc", "colour": [240, 228, 66]}, {"name": "cup", "colour": [86, 180, 233], "inside": "disc"}],
        overlapping=True,
        images={"file": f"scans/{{name:{names}}}.dcm"},
        labels=[SOURCE | source],
        parts=None,
    )


@pytest.fixture
def root(site: Site, exported: Path, tmp_path: Path) -> Path:
    """Scans beside the segmentations of three of them; their names have nothing in common."""
    shutil.copytree(site.scans, tmp_path / "scans")
    for short in ("colour", "grey", "frames"):
        case = site.cases[short]
        shutil.copytree(exported / case, tmp_path / "seg" / case, ignore=shutil.ignore_patterns("overlay.dcm"))
    return tmp_path


def test_segmentations_label_the_images_that_they_refer_to(root: Path) -> None:
    wanted = {"colour": disc_and_cup(), "frames": np.stack([disc_and_cup(move=3 * at) for at in range(SLICES)])}
    labelled = card("colour|frames|grey")
    assert check_card(labelled, root) == []
    cases = find_cases(labelled, root)
    assert len(cases) == 3
    for case in cases:
        mask = read_target_mask(labelled, case)
        np.testing.assert_array_equal(mask, wanted.get(case.image.stem, disc_and_cup()))


def test_a_label_map_is_a_label_too(site: Site, root: Path) -> None:
    import highdicom as hd

    predictions = Predictions(site.predictions, Settings(("seg",), labelmap=True))
    predictions.find_originals(site.scans, None)
    shutil.rmtree(root / "seg")
    (file,) = predictions.export(site.cases["volume"], root / "seg").files
    made = hd.seg.segread(file)
    assert made.SegmentationType == "LABELMAP"
    uid = str(site.header("volume").SOPInstanceUID)
    stored = made.get_pixels_by_source_frame(uid, [1, 2, 3], combine_segments=True, assert_missing_frames_are_empty=True)
    made._db_con.close()
    volume = make_card(
        modality="oct",
        classes=[{"name": name, "colour": [9, 9, 9]} for name in ("RNFL", "fluid")],
        images={"file": "scans/{name:volume}.dcm"},
        labels=[SOURCE | {"segments": {"RNFL": "RNFL", 3: "fluid", "GCL_IPL": "background"}}],
        parts=None,
    )
    (case,) = find_cases(volume, root)
    layers = np.load(site.predictions.parent / "layers.npy")
    np.testing.assert_array_equal(stored, layers)
    np.testing.assert_array_equal(read_target_mask(volume, case), np.select([layers == 1, layers == 3], [1, 2]))


def test_a_reference_that_leads_nowhere_is_told(site: Site, root: Path) -> None:
    (root / "scans" / "grey.dcm").unlink()
    nameless = pydicom.dcmread(next((root / "seg" / site.cases["colour"]).glob("seg.dcm")))
    del nameless.ReferencedSeriesSequence
    for group in nameless.PerFrameFunctionalGroupsSequence:
        del group.DerivationImageSequence
    nameless.save_as(root / "seg" / "nameless.dcm")
    (root / "seg" / "other.dcm").write_bytes((root / "scans" / "volume.dcm").read_bytes())
    found = search_folder(card("colour|grey|volume"), root)
    said = dict(found.left_over)
    assert [case.image.stem for case in found.cases] == ["colour"]
    assert said["seg/nameless.dcm"] == "it refers to no image, so nothing says whose it is; match it by name"
    assert said["seg/other.dcm"] == "it is no DICOM segmentation"
    assert said[f"seg/{site.cases['grey']}/seg.dcm"] == "the image that it refers to is not here"
    assert said["scans/volume.dcm"] == "no label fits 'seg/{path}.dcm'"
