"""OCT alone, as many instruments would see the phantom patients: for networks that are to read scans of a real one."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.errors import ConfigError
from pipeline.phantoms.oct import OctPhantom, draw_oct
from pipeline.phantoms.oct_protocol import varied
from pipeline.scans.nifti import write_nifti
from pipeline.types import Geometry, Laterality, ProgressCallback

RASTER_SHAPE = (9, 248, 384)
CIRCLES = 3
_EYES: tuple[Laterality, ...] = ("R", "L")


def write_oct_set(
    out: Path, patients: int, seed: int, *, shape: tuple[int, int, int] = RASTER_SHAPE, progress: ProgressCallback | None = None
) -> dict[str, int]:
    """Write ``out/card``, as the cards ``phantom_oct`` and ``phantom_oct_layers`` read it; equal arguments give equal bytes.

    Both eyes of each patient: ``<patient>_<eye>_V1.nii.gz``, a raster of the macula of ``shape`` (slices, rows, columns), and
    ``<patient>_<eye>_V1-circle.nii.gz``, ``CIRCLES`` concentric circles around the disc, in ``oct`` (uint8) and ``oct_labels``
    (values of ``phantom_oct.OCT_LABELS``). Each scan has a protocol of its own (:func:`phantom_oct_protocol.varied`).

    Returns
    -------
    Counts: patients, rasters, circles.

    Raises
    ------
    ConfigError: no patients asked for, or ``out`` holds OCT phantoms already.
    """
    if not 1 <= patients < 10_000 or seed < 0:
        raise ConfigError(f"patients {patients} with seed {seed}: 1 to 9999 of them, and a seed of 0 or more")
    for kind in ("oct", "oct_labels"):
        folder = out / "card" / kind
        if folder.exists() and any(folder.iterdir()):
            raise ConfigError(f"{out} already holds OCT phantoms; choose an empty folder")
        folder.mkdir(parents=True, exist_ok=True)
    for done in range(2 * patients):
        number, eye = done // 2 + 1, _EYES[done % 2]
        eye_seed, case = (seed, number, done % 2), f"P{number:04}_{eye}_V1"
        _write(out, case, draw_oct(eye_seed, eye, *shape, protocol=varied(eye_seed, "raster")), flat=True)
        circle = draw_oct(eye_seed, eye, CIRCLES, *shape[1:], protocol=varied(eye_seed, "circle"))
        _write(out, f"{case}-circle", circle, flat=False)
        if progress is not None:
            progress(done + 1, 2 * patients)
    return {"patients": patients, "rasters": 2 * patients, "circles": 2 * patients}


def scan_frame(phantom: OctPhantom) -> Geometry:
    """The frame of a raster, as :func:`pipeline.phantoms.dicom.tomography` writes it, too."""
    slices, rows, columns = phantom.volume.shape
    gap, row_mm, column_mm = phantom.spacing_mm
    affine = np.diag([column_mm, row_mm, -gap, 1.0])
    affine[:3, 3] = (-(columns - 1) / 2 * column_mm, -(rows - 1) / 2 * row_mm, (slices - 1) / 2 * gap)
    return Geometry((slices, rows, columns), phantom.spacing_mm, "tag", affine)


def _write(out: Path, case: str, phantom: OctPhantom, *, flat: bool) -> None:
    """Circles have no place in a flat frame of the patient, so they have none but their spacing."""
    geometry = scan_frame(phantom) if flat else Geometry(phantom.volume.shape, phantom.spacing_mm, "tag")
    for kind, array in (("oct", phantom.volume), ("oct_labels", phantom.labels)):
        write_nifti(out / "card" / kind / f"{case}.nii.gz", array, geometry)
