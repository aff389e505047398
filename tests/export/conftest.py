"""Predictions of small phantoms, as `ocuseg predict` leaves them, beside the DICOM files and the picture that they were made of."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from pipeline.export.case import Settings
from pipeline.export.run import Predictions
from pipeline.phantoms.dicom import VisitRecord, photograph, tomography, write_dicom
from pipeline.scans.raster import write_png
from pipeline.types import CaseKey, LabelClass, LabelMap
from tests.reports.conftest import Out, vcdr

VISIT = VisitRecord((9, 1, 0), "P0009", "MÜLLER^ÄNNE", "19500101", "F", "20240305", "093000")
DISC_CUP = LabelMap(
    (
        LabelClass(1, "disc", (240, 228, 66), "SCT:81016008"),
        LabelClass(2, "cup", (86, 180, 233), None, "disc", "optic_cup"),
    ),
    overlapping=True,
)
LAYERS = LabelMap(
    (LabelClass(1, "RNFL", (213, 94, 0)), LabelClass(2, "GCL_IPL", (230, 159, 0)), LabelClass(3, "fluid", (0, 158, 115))),
    layered=("RNFL", "GCL_IPL"),
)
PLANE, SLICES = (60, 84), 3
DESCRIBED = {"spacing_mm": [0.02, 0.03], "spacing_source": "tag", "laterality": "R", "laterality_source": "tag"}


@dataclass
class Site:
    """``files``: the scan of each case by a short name, ``cases`` its name in ``predictions``."""

    predictions: Path
    scans: Path
    files: dict[str, Path]
    cases: dict[str, str]

    def header(self, short: str) -> Any:
        return pydicom.dcmread(self.files[short], stop_before_pixels=True)


def disc_and_cup(plane: tuple[int, int] = PLANE, move: int = 0) -> np.ndarray:
    """Bits: 1 disc, 2 cup."""
    y, x = np.mgrid[: plane[0], : plane[1]]
    square = (y - 25 - move) ** 2 + (x - 50) ** 2
    return ((square < 190).astype(np.uint8) | ((square < 60).astype(np.uint8) << 1)).astype(np.uint8)


def layers() -> np.ndarray:
    """Values 1 to 3, (slices, rows, columns); no fluid in the first slice."""
    out = np.zeros((SLICES, *PLANE), np.uint8)
    for at in range(SLICES):
        out[at, 20 + at : 28 + at], out[at, 28 + at : 40] = 1, 2
        out[at, 30:33, 10 : 10 + 5 * at] = 3
    return out


def build_site(root: Path) -> Site:
    rng = np.random.default_rng(4)
    scans = root / "scans"
    scans.mkdir(parents=True)
    site = Site(root / "out", scans, {}, {})
    out = Out(site.predictions, DISC_CUP)

    def add(short: str, number: int, mask: np.ndarray, image: np.ndarray, eye: str = "R", **changes: Any) -> None:
        case = str(CaseKey("a" * 16, eye, "b" * 16, f"{number}" * 16))  # type: ignore[arg-type]
        changes["sha256"] = hashlib.sha256(site.files[short].read_bytes()).hexdigest()
        geometry = DESCRIBED | {"laterality": eye} | changes.pop("geometry", {})
        out.add(case, mask, image, geometry, **changes)
        site.cases[short] = case

    colour = rng.integers(0, 255, (*PLANE, 3), dtype=np.uint8)
    grey = colour[..., 1]
    volume = rng.integers(0, 255, (SLICES, *PLANE), dtype=np.uint8)
    made = {
        "colour": photograph(colour, VISIT, "R", (0.02, 0.03), 1, "explicit"),
        "grey": photograph(grey.astype(np.uint16) * 257, VISIT, "L", (0.02, 0.03), 2, "rle"),
        "frames": _multi_frame(volume),
        "volume": tomography(volume, VISIT, "R", (0.5, 0.02, 0.03), 4, "explicit"),
    }
    for short, dataset in made.items():
        site.files[short] = scans / f"{short}.dcm"
        write_dicom(dataset, site.files[short])
    site.files["picture"] = scans / "picture.png"
    write_png(site.files["picture"], colour)

    add("colour", 2, disc_and_cup(), colour, measures=[vcdr(0.61)])
    add("grey", 3, disc_and_cup(), grey, "L", geometry={"spacing_mm": None, "spacing_source": "unknown"})
    frames = {"spacing_mm": [None, 0.02, 0.03]}
    add("frames", 4, np.stack([disc_and_cup(move=3 * at) for at in range(SLICES)]), volume, geometry=frames)
    depth = {"spacing_mm": [0.5, 0.02, 0.03]}
    add("volume", 5, layers(), volume, modality="oct", geometry=depth, label_map=LAYERS.to_json())
    np.save(root / "layers.npy", layers())
    add("picture", 6, disc_and_cup(), colour)
    return site


def _multi_frame(volume: np.ndarray) -> Any:
    """An ophthalmic photograph of several frames, as a video of an angiography is stored."""
    dataset = photograph(volume[0].astype(np.uint16) * 257, VISIT, "R", (0.02, 0.03), 3, "explicit")
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = pydicom.uid.OphthalmicPhotography8BitImageStorage
    dataset.NumberOfFrames, dataset.FrameTime = len(volume), "100"
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit = 7
    dataset.PixelData = volume.tobytes() + b"\0" * (volume.size % 2)
    dataset["PixelData"].VR = "OB"
    return dataset


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """To be read only."""
    return build_site(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="session")
def exported(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every case as segmentation and overlay; to be read only."""
    out = tmp_path_factory.mktemp("segmentations")
    predictions = Predictions(site.predictions, Settings(("seg", "sc")))
    predictions.find_originals(site.scans, None)
    for case in site.cases.values():
        predictions.export(case, out)
    return out
