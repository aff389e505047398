"""DICOM segmentations (PS3.3 A.51): which pixels of which image each segment holds.

Read with pydicom alone: highdicom refuses files without planes in the patient's space, which a photograph cannot have, including files
that it wrote itself from an ophthalmic photograph.
"""

from __future__ import annotations

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

SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"


@dataclass(frozen=True, eq=False)
class Segment:
    """``planes``: slice index to bool (H, W); slices that the file leaves out are empty."""

    number: int
    label: str
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
            if str(dataset.get("SOPClassUID")) != SEGMENTATION:
                return None
            return {int(item.SegmentNumber): str(item.SegmentLabel) for item in dataset.SegmentSequence}


def read_segmentation(path: Path, image: Geometry, sop_instance_uid: str | None = None) -> list[Segment]:
    """The segments of an image, by number; empty ones included.

    A frame is placed by its plane position and orientation, flips and orders of axes included; if it or the image has none, on the
    image frame that it refers to, rows and columns as stored.

    Parameters
    ----------
    sop_instance_uid: the image's own, if it has one; frames that refer to another image are skipped.

    Raises
    ------
    ScanError: ``unsupported`` (not a binary segmentation), ``too_large``, ``malformed``, ``truncated``; ``mismatch``: it belongs to
        another image; ``misplaced``: a frame does not lie on the image.
    """
    with quiet(), open_regular(path) as file, decoding("the DICOM segmentation"):
        dataset = read_dataset(file)
        if str(dataset.get("SOPClassUID")) != SEGMENTATION or str(dataset.get("SegmentationType")) != "BINARY":
            raise ScanError("unsupported", "this is not a binary DICOM segmentation; export it as one (Segmentation Type BINARY)")
        rows, columns, frames = int(dataset.Rows), int(dataset.Columns), int(dataset.get("NumberOfFrames", 1))
        check_pixels(rows * columns * frames, MAX_PIXELS)
        segments = {int(item.SegmentNumber): Segment(int(item.SegmentNumber), str(item.SegmentLabel)) for item in dataset.SegmentSequence}
        stored = dataset.pixel_array.reshape(frames, rows, columns) != 0
        images: set[str | None] = set()
        for frame in range(frames):
            identified: Any = macro(dataset, frame, "SegmentIdentificationSequence")
            number = int(identified.ReferencedSegmentNumber)
            source = _source(macro(dataset, frame, "DerivationImageSequence"))
            uid = None if source is None else str(source.get("ReferencedSOPInstanceUID"))
            if None not in (uid, sop_instance_uid) and uid != sop_instance_uid:
                continue
            images.add(uid)
            affine = None if image.affine is None else plane_affine(dataset, frame)
            if affine is None:
                start, box = _referred(stored[frame], source, image)
            else:
                start, box = _placed(stored[frame], affine, image, source if None not in (uid, sop_instance_uid) else None)
            segments[number].add(start, box, image)
    if frames and not images:
        raise ScanError("mismatch", "the segmentation refers to another image; give the one that was drawn on this image")
    if len(images - {None}) > 1:
        raise ScanError("mismatch", "the segmentation refers to several images, and this file does not say which of them it is")
    return [segments[number] for number in sorted(segments)]


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
