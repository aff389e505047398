"""DICOM segmentations (PS3.3 A.51): which pixels of which image each segment holds.

Read by pydicom alone: highdicom refuses files that lack what a photograph cannot have (planes in the patient's space), among them
those it wrote itself from an ophthalmic photograph.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import ScanError
from pipeline.scans.dicom import read_dataset
from pipeline.scans.files import MAX_PIXELS, check_pixels, decoding, open_regular
from pipeline.scans.quiet import quiet

SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"


@dataclass(frozen=True, eq=False)
class Segment:
    """``planes``: slice index to bool (H, W); slices that the file leaves out hold nothing of it."""

    number: int
    label: str
    planes: dict[int, npt.NDArray[np.bool_]] = field(default_factory=dict)


def read_segmentation(path: Path, shape: tuple[int, ...], sop_instance_uid: str | None = None) -> list[Segment]:
    """The segments of an image of ``shape`` ([slices,] rows, columns), by number; one that holds nothing is listed, too.

    Parameters
    ----------
    sop_instance_uid: the image's own, where it has one; frames that refer to another image are passed over.

    Raises
    ------
    ScanError: ``unsupported`` (not a binary segmentation), ``too_large``, ``malformed``, ``truncated``; ``mismatch``: it belongs to
        another image.
    """
    with quiet(), open_regular(path) as file, decoding("the DICOM segmentation"):
        dataset = read_dataset(file)
        if str(dataset.get("SOPClassUID")) != SEGMENTATION or str(dataset.get("SegmentationType")) != "BINARY":
            raise ScanError("unsupported", "this is no binary DICOM segmentation; export it as one (Segmentation Type BINARY)")
        rows, columns, frames = int(dataset.Rows), int(dataset.Columns), int(dataset.get("NumberOfFrames", 1))
        check_pixels(rows * columns * frames, MAX_PIXELS)
        if (rows, columns) != tuple(shape[-2:]):
            raise ScanError("mismatch", f"the segmentation is {rows} x {columns}, but the image is {shape[-2]} x {shape[-1]}")
        segments = {int(item.SegmentNumber): Segment(int(item.SegmentNumber), str(item.SegmentLabel)) for item in dataset.SegmentSequence}
        stored = dataset.pixel_array.reshape(frames, rows, columns)
        shared = next(iter(dataset.get("SharedFunctionalGroupsSequence", [])), None)
        slices, images = (shape[0] if len(shape) == 3 else 1), set()
        for frame, groups in zip(stored, dataset.PerFrameFunctionalGroupsSequence, strict=True):
            number = int(_macro(groups, shared, "SegmentIdentificationSequence").ReferencedSegmentNumber)
            source = _source(_macro(groups, shared, "DerivationImageSequence"))
            image = None if source is None else str(source.get("ReferencedSOPInstanceUID"))
            if None not in (image, sop_instance_uid) and image != sop_instance_uid:
                continue
            images.add(image)
            place, planes = _slice(source, slices), segments[number].planes
            planes[place] = planes.get(place, False) | (frame != 0)
    if frames and not images:
        raise ScanError("mismatch", "the segmentation refers to another image; give the one that was drawn on this image")
    if len(images - {None}) > 1:
        raise ScanError("mismatch", "the segmentation refers to several images, and this file does not say which of them it is")
    return [segments[number] for number in sorted(segments)]


def _macro(groups: Any, shared: Any, name: str) -> Any:
    """The first item of a functional group, of the frame or of all frames; None where there is none."""
    for holder in (groups, shared):
        if holder is not None and holder.get(name):
            return holder[name].value[0]
    return None


def _source(derivation: Any) -> Any:
    """The image that a frame says it was drawn on, or None."""
    return next(iter(derivation.get("SourceImageSequence") or []), None) if derivation is not None else None


def _slice(source: Any, slices: int) -> int:
    """Which slice of the image a frame lies on."""
    number = None if source is None else source.get("ReferencedFrameNumber")
    if number is None:
        if slices > 1:
            raise ScanError(
                "unsupported", "the segmentation does not say which slice each of its frames lies on; export it with references"
            )
        return 0
    numbers = [int(n) for n in (number if hasattr(number, "__iter__") else [number])]
    if len(numbers) != 1 or not 1 <= numbers[0] <= slices:
        raise ScanError("mismatch", f"the segmentation refers to frame {numbers[0]} of an image with {slices}")
    return numbers[0] - 1
