"""The image of a reviewed case in a labelled set: the prediction's own copy, or the pixels of the original where somebody has it."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np

from pipeline.errors import OcusegError
from pipeline.reports.results import ReportCase
from pipeline.scans.nifti import read_nifti, write_nifti
from pipeline.scans.open import open_scan
from pipeline.scans.raster import write_png
from pipeline.scans.walk import names_below
from pipeline.types import Scan

IMAGES = "images"
ORIGINAL, STORED, COPY, UNKNOWN = "original", "stored", "8-bit copy", "unknown"


class Originals:
    """Scans below a folder by the hash of their file; each is decoded anew, so that no name, tag or comment of it goes along."""

    def __init__(self, folder: Path | None) -> None:
        self._files: dict[str, Path] = {}
        for name in names_below(folder)[0] if folder is not None else ():
            with (folder / name).open("rb") as file:  # type: ignore[operator]
                self._files.setdefault(hashlib.file_digest(file, "sha256").hexdigest(), folder / name)  # type: ignore[operator]

    def scan(self, case: ReportCase) -> Scan | None:
        """None where it is not there, or was one slice of a volume of many files."""
        path = self._files.get(case.sha256)
        if path is None:
            return None
        try:
            scan = open_scan(path)
        except OcusegError:
            return None
        return scan if scan.geometry.shape == case.geometry.shape else None


def write_image(folder: Path, case: ReportCase, name: str, originals: Originals) -> tuple[str, str]:
    """Write ``images/NAME.*`` and return (its place in the folder, where its pixels come from).

    A picture stays PNG or JPEG as the prediction has it; volumes, B-scans whose pixels have a known size, and what no PNG can hold are
    NIfTI, which keeps place and size.
    """
    (folder / IMAGES).mkdir(exist_ok=True)
    scan = originals.scan(case)
    if scan is not None:
        return _write_pixels(folder, name, scan), ORIGINAL
    told = STORED if case.record.pixel_type == "uint8" else COPY if case.record.pixel_type else UNKNOWN
    if case.volume or (case.modality == "oct" and case.pixel_size is not None):
        geometry = read_nifti(case.folder / "mask.nii.gz")[1]
        planes = np.stack([case.image(plane) for plane in case.planes])
        file = f"{IMAGES}/{name}.nii.gz"
        write_nifti(folder / file, planes if case.volume else planes[0], geometry)
        return file, told
    own = case.folder / case.planes[0].image
    file = f"{IMAGES}/{name}{own.suffix}"
    shutil.copyfile(own, folder / file)
    return file, told


def _write_pixels(folder: Path, name: str, scan: Scan) -> str:
    pixels = scan.pixels[0] if len(scan.pixels) == 1 else np.moveaxis(scan.pixels, 0, -1)
    flat = scan.pixels.ndim == 3
    sized = scan.modality == "oct" and scan.geometry.trusted().voxel_mm is not None
    if flat and not sized and (pixels.dtype == np.uint8 or (pixels.ndim == 2 and pixels.dtype == np.uint16)):
        file = f"{IMAGES}/{name}.png"
        write_png(folder / file, pixels)
    else:
        file = f"{IMAGES}/{name}.nii.gz"
        write_nifti(folder / file, pixels, scan.geometry)
    return file
