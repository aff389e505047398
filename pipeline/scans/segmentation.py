"""DICOM segmentations (PS3.3 A.51): which pixels of which image each segment holds.

Read with pydicom alone: highdicom refuses files without planes in the patient's space, which a photograph cannot have, including files
that it wrote itself from an ophthalmic photograph.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import ScanError
from pipeline.scans.alignment import Indices, difference, grid_map, rows_run_up
from pipeline.scans.dicom import read_dataset
from pipeline.scans.dicom_geometry import macro, plane_affine
from pipeline.scans.files import MAX_PIXELS, check_pixels, decoding, open_regular, sniff_file
from pipeline.scans.quiet import quiet
from pipeline.types import Geometry

Mask = npt.NDArray[np.bool_]

SEGMENTATION, LABEL_MAP = "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7"


@dataclass(frozen=True, eq=False)
class Segment:
    """``code`` of what it is, "SCHEME:VALUE" or "" · ``planes``: slice index to bool (H, W); slices that the file leaves out are empty."""

    number: int
    label: str
    code: str = ""
    planes: dict[int, Mask] = field(default_factory=dict)

    def add(self, start: Indices, box: Mask, image: Geometry) -> None:
        """Pixels (slices, rows, columns) that lie in the image from ``start`` on."""
        rows, columns = (slice(first, first + size) for first, size in zip(start[1:], box.shape[1:], strict=True))
        for index, plane in enumerate(box, start[0]):
            whole = self.planes.setdefault(index, np.zeros(image.plane, dtype=bool))
            whole[rows, columns] |= plane


def segment_labels(path: Path) -> dict[int, str] | None:
    """Number and label of each segment from the header of a DICOM segmentation; None for any other file.

    Raises
    ------
    ScanError: the file cannot be read.
    """
    with quiet(), open_regular(path) as file:
        if sniff_file(file) != "dicom":
            return None
        with decoding("the DICOM segmentation"):
            dataset = read_dataset(file)
            if str(dataset.get("SOPClassUID")) not in (SEGMENTATION, LABEL_MAP):
                return None
            return {number: segment.label for number, segment in _described(dataset).items()}


def instance_uid(path: Path) -> str | None:
    """SOP Instance UID of a DICOM file, from its header; None of any other file."""
    return None if (header := _header(path)) is None else str(header.get("SOPInstanceUID") or "") or None


def referred_images(path: Path) -> set[str]:
    """SOP Instance UIDs of the images that a DICOM segmentation was drawn on.

    Raises
    ------
    ScanError: ``unsupported``: it is no DICOM segmentation; or it cannot be read.
    """
    header = _header(path)
    if header is None or str(header.get("SOPClassUID")) not in (SEGMENTATION, LABEL_MAP):
        raise ScanError("unsupported", "it is no DICOM segmentation")
    with decoding("the DICOM segmentation"):
        series = [item for one in header.get("ReferencedSeriesSequence") or () for item in one.get("ReferencedInstanceSequence") or ()]
        frames = range(len(header.get("PerFrameFunctionalGroupsSequence") or ()))
        drawn_on = (_source(macro(header, frame, "DerivationImageSequence")) for frame in frames)
        named = {str(item.get("ReferencedSOPInstanceUID") or "") for item in (*series, *drawn_on) if item is not None}
        return named - {""}


def _header(path: Path) -> Any:
    """The data set of a DICOM file up to its pixels; None of any other file."""
    import pydicom

    with quiet(), open_regular(path) as file:
        if sniff_file(file) != "dicom":
            return None
        with decoding("the DICOM file"):
            return pydicom.dcmread(file, stop_before_pixels=True, force=True)


def _described(dataset: Any) -> dict[int, Segment]:
    """Its segments by number; that of a label map's background is none."""
    out = {}
    for item in dataset.SegmentSequence:
        number = int(item.SegmentNumber)
        if number:
            code = next((_code(own) for own in item.get("SegmentedPropertyTypeCodeSequence") or ()), "")
            out[number] = Segment(number, str(item.SegmentLabel), code)
    return out


def _code(item: Any) -> str:
    """ "SCHEME:VALUE" of a code, or ""."""
    value = str(item.get("CodeValue") or item.get("LongCodeValue") or "")
    return f"{item.get('CodingSchemeDesignator')}:{value}" if value else ""


def read_segmentation(path: Path, image: Geometry, sop_instance_uid: str | None = None, *, at_least: float = 0.5) -> list[Segment]:
    """The segments of an image, by number; empty ones included.

    A frame is placed by its plane position and orientation, flips and orders of axes included; if it or the image has none, on the
    image frame that it refers to, rows and columns as stored.

    Parameters
    ----------
    sop_instance_uid: the image's own, if it has one; frames that refer to another image are skipped.
    at_least: of a fractional segmentation the fraction, of its greatest, from which a pixel belongs to a segment.

    Raises
    ------
    ScanError: ``unsupported`` (not a segmentation), ``too_large``, ``malformed``, ``truncated``; ``mismatch``: it belongs to
        another image; ``misplaced``: a frame does not lie on the image.
    """
    with quiet(), open_regular(path) as file, decoding("the DICOM segmentation"):
        dataset = read_dataset(file)
        if str(dataset.get("SOPClassUID")) not in (SEGMENTATION, LABEL_MAP):
            raise ScanError("unsupported", "this is not a DICOM segmentation; export it as one")
        rows, columns, frames = int(dataset.Rows), int(dataset.Columns), int(dataset.get("NumberOfFrames", 1))
        check_pixels(rows * columns * frames, MAX_PIXELS)
        segments = _described(dataset)
        stored = dataset.pixel_array.reshape(frames, rows, columns)
        images: set[str | None] = set()
        for frame in range(frames):
            source = _source(macro(dataset, frame, "DerivationImageSequence"))
            uid = None if source is None else str(source.get("ReferencedSOPInstanceUID"))
            if None not in (uid, sop_instance_uid) and uid != sop_instance_uid:
                continue
            images.add(uid)
            affine = None if image.affine is None else plane_affine(dataset, frame)
            for number, inside in _of_segments(dataset, frame, stored[frame], segments, at_least):
                if affine is None:
                    start, box = _referred(inside, source, image)
                else:
                    start, box = _placed(inside, affine, image, source if None not in (uid, sop_instance_uid) else None)
                segments[number].add(start, box, image)
    if frames and not images:
        raise ScanError("mismatch", "the segmentation refers to another image; give the one that was drawn on this image")
    if len(images - {None}) > 1:
        raise ScanError("mismatch", "the segmentation refers to several images, and this file does not say which of them it is")
    return [segments[number] for number in sorted(segments)]


def _of_segments(
    dataset: Any, frame: int, stored: npt.NDArray[Any], segments: Mapping[int, Segment], at_least: float
) -> Iterator[tuple[int, Mask]]:
    """Number and pixels of each segment of one frame: of a label map all, of other types the one that the frame is of."""
    kind = str(dataset.get("SegmentationType"))
    if kind == "LABELMAP":
        held = set(np.unique(stored).tolist()) - {0}
        if strange := held - set(segments):
            raise ScanError("malformed", f"the label map holds {min(strange)}, which is no segment of it; export it again")
        yield from ((number, stored == number) for number in sorted(held))
        return
    identified: Any = macro(dataset, frame, "SegmentIdentificationSequence")
    number = int(identified.ReferencedSegmentNumber)
    if kind == "FRACTIONAL":
        yield number, stored >= at_least * int(dataset.get("MaximumFractionalValue", 255))
    elif kind == "BINARY":
        yield number, stored != 0
    else:
        raise ScanError("unsupported", "the DICOM segmentation does not say that it is BINARY, FRACTIONAL or LABELMAP; export it again")


def _source(derivation: Any) -> Any:
    """The image that a frame says it was drawn on, or None."""
    return next(iter(derivation.get("SourceImageSequence") or []), None) if derivation is not None else None


def _placed(frame: Mask, affine: npt.NDArray[np.float64], image: Geometry, source: Any) -> tuple[Indices, Mask]:
    """Where a frame begins in the image, and its pixels in the image's order (slices, rows, columns), by both affines.

    ``source``: the reference to this image, if there is one: a slice that it names must be the one on which the frame lies.
    """
    assert image.affine is not None
    shape = (image.slices, *image.plane)
    laid = grid_map(affine, (1, *frame.shape), image.affine, shape)
    box = laid.apply(frame[None])
    inside = all(start >= 0 and start + size <= whole for start, size, whole in zip(laid.start, box.shape, shape, strict=True))
    if not (laid.exact and inside):
        apart = difference(affine, (1, *frame.shape), image.affine, shape)
        raise ScanError("misplaced", f"a frame of the segmentation does not lie on the image: {apart}; give the image that it was drawn on")
    named = _slice_number(source, image.slices)
    if named is not None and box.shape[0] == 1 and named != laid.start[0]:
        raise ScanError(
            "misplaced",
            f"a frame of the segmentation refers to slice {named + 1} of the image, but its position is that of slice "
            f"{laid.start[0] + 1}; export it again",
        )
    return laid.start, box


def _referred(frame: Mask, source: Any, image: Geometry) -> tuple[Indices, Mask]:
    """As :func:`_placed`, by the image frame number that a frame refers to."""
    if rows_run_up(image):
        raise ScanError("mismatch", "the image's rows run from the bottom up, as dcm2niix stores them: give the DICOM image itself")
    if frame.shape != image.plane:
        (rows, columns), (height, width) = frame.shape, image.plane
        raise ScanError("mismatch", f"the segmentation is {rows} x {columns}, but the image is {height} x {width}")
    number = _slice_number(source, image.slices)
    if number is None and image.slices > 1:
        raise ScanError(
            "unsupported",
            "nothing says which slice each frame of the segmentation belongs to: the files have neither positions nor references; add them",
        )
    return (number or 0, 0, 0), frame[None]


def _slice_number(source: Any, slices: int) -> int | None:
    """Index of the slice that a reference names, or None."""
    number = None if source is None else source.get("ReferencedFrameNumber")
    if number is None:
        return None
    numbers = [int(n) for n in (number if hasattr(number, "__iter__") else [number])]
    if len(numbers) != 1 or not 1 <= numbers[0] <= slices:
        raise ScanError("mismatch", f"the segmentation refers to frame {numbers[0]} of an image with {slices}")
    return numbers[0] - 1
