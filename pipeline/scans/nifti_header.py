"""The position of an image from a NIfTI header, and back (https://nifti.nimh.nih.gov; 10.1016/j.jneumeth.2016.03.001).

NIfTI counts (column, row, slice) and its world is RAS: x to the right, y to the front, z up. ocuseg's is DICOM's LPS. The one
place where the two meet is :data:`_RAS_LPS`, which is its own inverse.
"""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from pipeline.lean_import import lean_import
from pipeline.types import Geometry, NiftiFrame, known_spacing

Matrix = npt.NDArray[np.float64]

_RAS_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_TO_MM = {1: 1000.0, 2: 1.0, 3: 0.001}  # metres, millimetres, micrometres: the low three bits of xyzt_units
_QUATERNION = ("quatern_b", "quatern_c", "quatern_d")
_OFFSET = ("qoffset_x", "qoffset_y", "qoffset_z")
_COMMENT = 6  # the extension code that every reader keeps and none interprets
_MARK = b"ocuseg-geometry "
_SILENT = logging.Logger("nibabel")  # nibabel's own prints what it mends, past every filter
_SILENT.disabled = True


def lean_nibabel() -> Any:
    """nibabel, without pydicom: what a NIfTI file has of DICOM is kept as it is, never parsed, and importing takes a fifth of the time."""
    with lean_import("nibabel", {"pydicom"}):
        import nibabel
    return nibabel


def read_header(stream: BinaryIO) -> tuple[Any, NiftiFrame]:
    """nibabel's header of an open NIfTI file of either version, and the fields of its position as stored.

    nibabel changes a pixdim of 0 to 1 while reading, which would invent a spacing, and refuses quaternions slightly longer than 1, which
    the reference library scales to 1, as this function does.
    """
    nibabel = lean_nibabel()
    first = stream.read(4)
    stream.seek(0)
    kind = nibabel.Nifti2Header if first in (b"\x1c\x02\0\0", b"\0\0\x02\x1c") else nibabel.Nifti1Header
    header = kind.from_fileobj(stream, check=False)
    pixdim = tuple(float(size) for size in header["pixdim"][:4])
    header.check_fix(_SILENT)
    length = float(np.linalg.norm([float(header[name]) for name in _QUATERNION]))
    if length > 1:
        for name in _QUATERNION:
            header[name] = float(header[name]) / length
    return header, replace(_frame(header), pixdim=pixdim)


def _frame(header: Any) -> NiftiFrame:
    return NiftiFrame(
        tuple(float(size) for size in header["pixdim"][:4]),
        int(header["xyzt_units"]),
        int(header["qform_code"]),
        int(header["sform_code"]),
        tuple(float(header[name]) for name in (*_QUATERNION, *_OFFSET)),
        tuple(tuple(float(number) for number in header[f"srow_{axis}"]) for axis in "xyz"),
    )


def _fields(frame: NiftiFrame) -> list[float]:
    """All of them, to compare."""
    return [*frame.pixdim, frame.units, frame.qform_code, frame.sform_code, *frame.quaternion, *(n for row in frame.srow for n in row)]


def geometry_of(header: Any, frame: NiftiFrame, shape: tuple[int, ...]) -> Geometry:
    """The Geometry of an image of ``shape`` ([slices,] rows, columns): what :func:`fill_header` stored, else what the fields say.

    Spacing is taken from the affine if a code says that there is one. Without a code, pixdim counts only if the header names a unit:
    it is 1 in every file whose writer did not know it.
    """
    affine = _affine(header, frame, len(shape))
    if affine is not None:
        spacing = known_spacing(float(np.linalg.norm(affine[:3, axis])) for axis in reversed(range(len(shape))))
    elif frame.units & 7 in _TO_MM:
        stated = stated_mm(frame)[: len(shape)][::-1]
        spacing = known_spacing(size if np.isfinite(size) and size > 0 else None for size in stated)
    else:
        spacing = None
    placed = Geometry(shape, spacing, "unknown" if spacing is None else "tag", affine, nifti=frame)
    noted = _noted(header, frame, shape)
    return placed if noted is None else replace(noted, nifti=frame)


def stated_mm(frame: NiftiFrame) -> tuple[float, ...]:
    """pixdim of (columns, rows, slices) in mm, also assumed if the header names no unit; 0 if nothing is stated."""
    return tuple(abs(size) * _TO_MM.get(frame.units & 7, 1.0) for size in frame.pixdim[1:])


def _affine(header: Any, frame: NiftiFrame, dimensions: int) -> Matrix | None:
    """Voxel (column, row, slice) to LPS in mm; None if no code says that the header places the image, or its fields cannot."""
    if not (frame.qform_code or frame.sform_code):
        return None
    to_mm = _TO_MM.get(frame.units & 7, 1.0)
    affine: Matrix = _RAS_LPS @ np.diag([to_mm, to_mm, to_mm, 1.0]) @ header.get_best_affine()
    if dimensions == 2 and not affine[:3, 2].any():  # a picture needs no third axis
        affine[:3, 2] = np.cross(affine[:3, 0], affine[:3, 1])
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if not (np.isfinite(affine).all() and (lengths > 0).all() and abs(np.linalg.det(affine[:3, :3] / lengths)) > 1e-6):
        return None
    return affine


def _noted(header: Any, frame: NiftiFrame, shape: tuple[int, ...]) -> Geometry | None:
    """The exact Geometry that :func:`fill_header` left in the header, unless another program has moved the image since."""
    for extension in header.extensions:
        content = bytes(extension.get_content()).rstrip(b"\0") if extension.get_code() == _COMMENT else b""
        if not content.startswith(_MARK):
            continue
        said = json.loads(content[len(_MARK) :])
        noted = Geometry(
            tuple(said["shape"]),
            tuple(said["spacing_mm"]) if said["spacing_mm"] else None,
            said["spacing_source"],
            np.array(said["affine"]) if said["affine"] else None,
            said["laterality"],
            said["laterality_source"],
        )
        if noted.shape == shape and np.array_equal(said.get("fields", []), _fields(frame), equal_nan=True):
            return noted
    return None


def fill_header(header: Any, geometry: Geometry) -> None:
    """Write ``geometry`` into a header of its shape: as the source's own fields if it was NIfTI, else as an sform in mm.

    The fields are float32, so the exact Geometry goes along as a comment extension.
    """
    nibabel = lean_nibabel()
    if geometry.nifti is not None:
        _copy_fields(header, geometry.nifti)
    else:
        if geometry.spacing_mm is not None:
            header.set_zooms([1.0 if axis is None else axis for axis in geometry.spacing_mm[::-1]])
        # A unit would make a stated 1 mm of an axis that is not known.
        if geometry.voxel_mm is not None or geometry.affine is not None:
            header.set_xyzt_units("mm")
        if geometry.affine is not None:
            header.set_sform(_RAS_LPS @ geometry.affine, code="scanner")
    noted = {
        "shape": geometry.shape,
        "spacing_mm": geometry.spacing_mm,
        "spacing_source": geometry.spacing_source,
        "affine": None if geometry.affine is None else geometry.affine.tolist(),
        "laterality": geometry.laterality,
        "laterality_source": geometry.laterality_source,
        "fields": _fields(_frame(header)),
    }
    header.extensions.append(nibabel.nifti1.Nifti1Extension(_COMMENT, _MARK + json.dumps(noted).encode()))


def _copy_fields(header: Any, frame: NiftiFrame) -> None:
    header["pixdim"][: len(frame.pixdim)] = frame.pixdim
    header["xyzt_units"], header["qform_code"], header["sform_code"] = frame.units, frame.qform_code, frame.sform_code
    for name, number in zip((*_QUATERNION, *_OFFSET), frame.quaternion, strict=True):
        header[name] = number
    for axis, row in zip("xyz", frame.srow, strict=True):
        header[f"srow_{axis}"] = row
