"""NIfTI-1 and -2 in and out (https://nifti.nimh.nih.gov; 10.1016/j.jneumeth.2016.03.001).

NIfTI counts (column, row, slice) and its world is RAS: x to the right, y to the front, z up. ocuseg's is DICOM's LPS. The one
place where the two meet is :data:`_RAS_LPS`, which is its own inverse.
"""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from pipeline.atomic import atomic_path
from pipeline.errors import ScanError
from pipeline.scans.files import MAX_PIXELS, check_pixels, decoding, open_regular, sniff_file
from pipeline.scans.quiet import quiet
from pipeline.types import Geometry

Pixels = npt.NDArray[Any]

_RAS_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_RGB = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
_COMMENT = 6  # the extension code that every reader keeps and none interprets
_MARK = b"ocuseg-geometry "


def read_nifti(path: Path, max_pixels: int = MAX_PIXELS) -> tuple[Pixels, Geometry]:
    """An array (H, W), (D, H, W), or with RGB (..., 3) last, in the stored dtype (float32 where the header scales), and its Geometry.

    Raises
    ------
    ScanError: ``empty``, ``truncated``, ``malformed``, ``too_large``, ``not_an_image``, ``unsupported`` (time series, vectors,
        complex numbers, header and image in two files), ``unreadable``, ``not_a_file``.
    """
    with open_regular(path) as file:
        if sniff_file(file) != "nifti":
            if not file.read(1):
                raise ScanError("empty", "the file is empty")
            raise ScanError("not_an_image", "this is not a NIfTI image")
        return decode_nifti(file, max_pixels)


def decode_nifti(file: BinaryIO, max_pixels: int = MAX_PIXELS) -> tuple[Pixels, Geometry]:
    """:func:`read_nifti` of an open file."""
    with quiet(), decoding("the NIfTI image"):
        import nibabel

        file.seek(0)
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        stream: Any = gzip.GzipFile(fileobj=file) if packed else file
        first = stream.read(4)
        stream.seek(0)
        second = first in (b"\x1c\x02\0\0", b"\0\0\x02\x1c")
        kind = nibabel.Nifti2Header if second else nibabel.Nifti1Header
        header = kind.from_fileobj(stream)
        if bytes(header["magic"])[:2] == b"ni":
            raise ScanError("unsupported", "header and image lie in two files (.hdr, .img); save as one .nii file")
        shape = tuple(int(n) for n in header.get_data_shape())
        while len(shape) > 3 and shape[-1] == 1:
            shape = shape[:-1]
        if len(shape) not in (2, 3) or min(shape) < 1:
            raise ScanError("unsupported", f"NIfTI images with {len(shape)} dimensions are not read; save 2 or 3")
        count = int(np.prod(shape, dtype=object))
        check_pixels(count, max_pixels)
        stored = header.get_data_dtype()
        size = count * stored.itemsize
        stream.seek(int(header.get_data_offset()))
        data = stream.read(size)
        if len(data) < size:
            raise ScanError("truncated", "the NIfTI image is truncated; copy or export it again")
        # Fortran order over (column, row, slice) is C order over (slice, row, column).
        array = np.frombuffer(data, dtype=stored).reshape(shape[::-1])
        return _values(array, *header.get_slope_inter()), _geometry(header, shape[::-1])


def _values(array: Pixels, slope: float | None, intercept: float | None) -> Pixels:
    if array.dtype.names is not None:
        channels = [array[name] for name in ("R", "G", "B")]
        return np.stack(channels, axis=-1)
    if array.dtype.kind not in "iuf":
        raise ScanError("unsupported", f"NIfTI images of type {array.dtype.name} are not read; save numbers or RGB")
    if slope is not None and (slope, intercept or 0.0) != (1.0, 0.0):
        array = (array.astype(np.float64) * slope + (intercept or 0.0)).astype(np.float32)
    else:
        array = array.astype(array.dtype.newbyteorder("="))  # a copy, so that the result can be written to
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ScanError("malformed", "the NIfTI image holds NaN or infinite values; replace them")
    return array


def _geometry(header: Any, shape: tuple[int, ...]) -> Geometry:
    affine = _RAS_LPS @ header.get_best_affine() if int(header["sform_code"]) or int(header["qform_code"]) else None
    if affine is not None and not (np.isfinite(affine).all() and abs(np.linalg.det(affine)) > 1e-12):
        affine = None
    spacing = tuple(float(z) for z in header.get_zooms()[: len(shape)][::-1])
    exact = _recorded(header, shape, spacing, affine)
    if exact is not None:
        return exact
    # pixdim is 1.0 in every file whose writer knew no better; it counts only where the header names a space or a unit.
    to_mm = {"meter": 1000.0, "mm": 1.0, "micron": 0.001}.get(header.get_xyzt_units()[0])
    if affine is None and to_mm is None:
        return Geometry(shape)
    known = all(np.isfinite(s) and s > 0 for s in spacing)
    factor = 1.0 if to_mm is None else to_mm
    if affine is not None:
        affine = np.diag([factor, factor, factor, 1.0]) @ affine
    return Geometry(shape, tuple(s * factor for s in spacing) if known else None, "tag" if known else "unknown", affine)


def _recorded(header: Any, shape: tuple[int, ...], spacing: tuple[float, ...], affine: Pixels | None) -> Geometry | None:
    """The Geometry that :func:`write_nifti` left in the header, unless another program has moved the image since."""
    for extension in header.extensions:
        content = bytes(extension.get_content()).rstrip(b"\0") if extension.get_code() == _COMMENT else b""
        if not content.startswith(_MARK):
            continue
        said = json.loads(content[len(_MARK) :])
        exact = Geometry(
            tuple(said["shape"]),
            tuple(said["spacing_mm"]) if said["spacing_mm"] else None,
            said["spacing_source"],
            np.array(said["affine"]) if said["affine"] else None,
            said["laterality"],
            said["laterality_source"],
        )
        same = exact.shape == shape and (exact.affine is None) == (affine is None)
        known = [(ours, stored) for ours, stored in zip(exact.spacing_mm or (), spacing, strict=False) if ours is not None]
        same = same and all(bool(np.isclose(ours, stored, rtol=1e-6)) for ours, stored in known)
        same = same and (affine is None or exact.affine is None or bool(np.allclose(exact.affine, affine, rtol=1e-6, atol=1e-5)))
        if same:
            return exact
    return None


def write_nifti(path: Path, array: Pixels, geometry: Geometry) -> None:
    """Write (H, W), (D, H, W) or uint8 RGB (..., 3) in ``geometry``; gzipped when the name ends in .gz; atomically.

    ``open_scan`` of the result has the same pixels and an identical Geometry: the header's own fields are float32, so the
    exact one goes along as a comment extension, and is believed only while the fields still agree with it. bool becomes uint8.
    The same input always gives the same bytes.
    """
    import nibabel

    colour = array.shape == (*geometry.shape, 3) and array.dtype == np.uint8
    if array.shape != geometry.shape and not colour:
        raise ValueError(f"array {array.shape} does not match geometry {geometry.shape}")
    if array.dtype == np.bool_:
        array = array.astype(np.uint8)
    if colour:
        array = np.ascontiguousarray(array).view(_RGB)[..., 0]
    kind = nibabel.Nifti2Header if max(geometry.shape) > np.iinfo(np.int16).max else nibabel.Nifti1Header
    header = kind()
    header.set_data_dtype(array.dtype)
    header.set_data_shape(geometry.shape[::-1])
    header.set_slope_inter(1.0, 0.0)
    if geometry.spacing_mm is not None:
        header.set_zooms([1.0 if axis is None else axis for axis in geometry.spacing_mm[::-1]])
    # A unit would make a stated 1 mm of an axis that is not known.
    if geometry.voxel_mm is not None or geometry.affine is not None:
        header.set_xyzt_units("mm")
    if geometry.affine is not None:
        header.set_sform(_RAS_LPS @ geometry.affine, code="scanner")
    recorded = {
        "shape": geometry.shape,
        "spacing_mm": geometry.spacing_mm,
        "spacing_source": geometry.spacing_source,
        "affine": None if geometry.affine is None else geometry.affine.tolist(),
        "laterality": geometry.laterality,
        "laterality_source": geometry.laterality_source,
    }
    header.extensions.append(nibabel.nifti1.Nifti1Extension(_COMMENT, _MARK + json.dumps(recorded).encode()))
    header["magic"] = header.single_magic
    header.set_data_offset(header.single_vox_offset + header.extensions.get_sizeondisk())
    out = io.BytesIO()
    header.write_to(out)
    out.write(b"\0" * (int(header.get_data_offset()) - out.tell()))
    out.write(np.ascontiguousarray(array).tobytes())
    content = out.getvalue()
    if path.name.endswith(".gz"):
        content = gzip.compress(content, compresslevel=4, mtime=0)
    with atomic_path(path) as staged:
        staged.write_bytes(content)
