"""What every source of labels says of its files, and how DICOM segmentations are read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from pipeline.errors import CardError
from pipeline.registry import Strict

if TYPE_CHECKING:  # DICOM's readers take a tenth of a second, and most cards need none
    from pipeline.scans.segmentation import Segment


class LabelFile(Strict):
    file: str = Field(description="pattern of the label files, with the fields of the image pattern, and {stem} for the image's name")
    missing: Literal["skip", "empty"] = Field(
        "skip", description="an image without this file: skip: it has no label (no fault if explicit); empty: it has none of the classes"
    )


class DicomSegLabel(LabelFile):
    """A DICOM segmentation (binary, fractional or label map); each segment's number, label or code means a class."""

    kind: Literal["dicom_seg"]
    segments: dict[int | str, str] = Field(
        min_length=1, description='number, label or code ("SCT:81016008") of a segment: class, or background to leave it out'
    )
    objects: Literal["components", "one"] = Field("components", description="components: pixels of a segment that touch; one: a segment")
    match: Literal["name", "reference"] = Field(
        "name",
        description="which image a file belongs to: name: the one with the same fields in its name; reference: the DICOM image that it "
        "refers to, however it is called (one image may have several files)",
    )
    at_least: float = Field(0.5, gt=0, le=1, description="of a fractional segmentation: from which fraction on a pixel is of a segment")

    def meaning(self, segment: Segment) -> str:
        """What a segment means.

        Raises
        ------
        CardError: the card does not say.
        """
        keys: Mapping[int | str, str] = self.segments
        name = next((keys[key] for key in (segment.number, segment.label, segment.code) if key in keys), None)
        if name is None:
            raise CardError(f"the segmentation has segment {segment.number}, which the card does not name")
        return name
