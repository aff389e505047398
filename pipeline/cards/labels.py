"""How stored label images become masks: values, colours, bits or thresholds, as the data card says, never in code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, Field, field_validator, model_validator

from pipeline.cards.label_file import DicomSegLabel, LabelFile
from pipeline.errors import CardError
from pipeline.registry import Colour, Strict
from pipeline.types import IGNORE, Geometry, LabelMap

BACKGROUND_NAME = "background"
IGNORE_NAME = "ignore"
# One stored value may mean one class, several overlapping ones, "background" or "ignore".
Meaning = str | list[str]


Place = Literal["geometry", "array", "rows_up"]
_PLACE = Field(
    description="how a NIfTI or DICOM label lies on its image. geometry: by the affines of both, flips and orders of axes exactly; an "
    "image without one (PNG) lies as ITK places it, columns to the left, rows to the back; a label without one as it is stored. array: "
    "pixel by pixel as both are stored, whatever the headers say. rows_up: the same, but with the label's rows from the bottom up"
)


class _Placed(LabelFile):
    """Arrays of pixels with a position on the image."""

    place: Annotated[Place, _PLACE] = "geometry"


class _Pixels(_Placed):
    """States a class for every pixel; objects are derived from that."""

    objects: Literal["components", "one"] = Field(
        "components",
        description="what a detector takes for one object: components: pixels of a class that touch, corners included (lesions); "
        "one: all pixels of a class in an image, right if there is only one (disc, cup), so that stray pixels do not become objects",
    )


class ValuesLabel(_Pixels):
    """A grey image whose stored values each mean a class: {255: vessel}. 0 is background unless said otherwise."""

    kind: Literal["values"]
    values: dict[int, Meaning] = Field(min_length=1)


class ColourRule(Strict):
    rgb: Colour
    means: Meaning


class ColoursLabel(_Pixels):
    """A colour image whose exact colours each mean a class; black is background unless said otherwise."""

    kind: Literal["colours"]
    colours: list[ColourRule] = Field(min_length=1)


class BitsLabel(_Pixels):
    """A grey image whose bits each mean a class: {0: disc, 1: cup}."""

    kind: Literal["bits"]
    bits: dict[Annotated[int, Field(ge=0, le=30)], str] = Field(min_length=1)


class ThresholdLabel(_Pixels):
    """A soft map of one class (agreement of experts, probability): present where the stored value is at least ``at_least``."""

    kind: Literal["threshold"]
    means: str
    at_least: float


class YoloBoxesLabel(LabelFile):
    """Text files with a line "class centre_x centre_y width height" (fractions of the image) for every box; no mask."""

    kind: Literal["yolo_boxes"]
    values: dict[int, str] = Field(min_length=1)


class ClassesFrom(Strict):
    """A table that gives each number of an instance image its class. Nested keys are joined by dots: attributes.kind."""

    model_config = ConfigDict(serialize_by_alias=True)

    json_file: str | None = Field(None, alias="json", description="pattern of a JSON file, of each image or one for all")
    csv: str | None = Field(None, description="pattern of a CSV file, of each image or one for all; each row is an object")
    path: str = Field(
        "",
        description="JSON: keys, joined by dots, that lead to the objects, a list or entries by number; fields of the image's pattern "
        "are filled in ({name}), and lists on the way are searched",
    )
    image: str | None = Field(None, description="key or column that names the image, where one table covers many images")
    id: str = Field("id", description="key or column of the object's number")
    category: str = Field("category", description="key or column of what the object is")
    values: dict[str, str] = Field(min_length=1, description="what the value means: a class, or background to leave the object out")
    leave_out: dict[str, list[str | int | float | bool]] = Field(
        default_factory=dict, description="key or column: values at which an object is left out, such as {uncertain: [true]}"
    )
    unlisted: Literal["refuse", "background"] = Field(
        "refuse", description="objects of the image that the table does not list: refuse the label, or leave them out"
    )

    @field_validator("values", mode="before")
    @classmethod
    def _numbers_are_text(cls, values: Any) -> Any:
        return {str(key): value for key, value in values.items()} if isinstance(values, dict) else values

    @model_validator(mode="after")
    def _one_file(self) -> ClassesFrom:
        if (self.json_file is None) == (self.csv is None):
            raise ValueError("give either json: PATTERN or csv: PATTERN")
        if self.csv is not None and self.path:
            raise ValueError("a CSV has rows and no path")
        return self

    @property
    def file(self) -> str:
        return self.json_file or self.csv or ""


class InstancesLabel(_Placed):
    """A grey image (8 or 16 bit, or a volume) of numbered objects, of one class or with classes from a table: 0 is background, and equal
    values are one object, even if its pixels do not touch. Objects that are left out become background."""

    kind: Literal["instances"]
    means: str | None = Field(None, description="the class of all objects")
    classes_from: ClassesFrom | None = Field(None, description="instead of means: a table of each object's class")
    leave_out: list[int] = Field(default_factory=list, description="stored numbers that are no objects, such as 65535 for the surround")
    min_area_px: int | None = Field(None, ge=1, description="objects of fewer pixels are left out")
    max_area_px: int | None = Field(None, ge=1, description="objects of more pixels are left out")

    @model_validator(mode="after")
    def _one_way(self) -> InstancesLabel:
        if (self.means is None) == (self.classes_from is None):
            raise ValueError("give either means: CLASS or classes_from: a table of each object's class")
        if self.min_area_px is not None and self.max_area_px is not None and self.min_area_px > self.max_area_px:
            raise ValueError("min_area_px is above max_area_px, so every object would be left out")
        return self


class MasksLabel(_Placed):
    """One grey image per object, present where the stored value is at least ``at_least``: "lesions/{name}_{object}.png"; the field
    {object} distinguishes the files of one image."""

    kind: Literal["masks"]
    means: str
    at_least: float = 1


class CocoLabel(LabelFile):
    """A COCO JSON file for many images, matched by file name; each category name means a class.

    Polygons and run lengths (compressed or not) are masks; if one object of the file has none, only boxes are used.
    Crowds (iscrowd) are left out.
    """

    kind: Literal["coco"]
    categories: dict[str, str] = Field(min_length=1, description="name of a category: class, or background to leave it out")


PixelSource = ValuesLabel | ColoursLabel | BitsLabel | ThresholdLabel
ObjectSource = YoloBoxesLabel | InstancesLabel | MasksLabel | CocoLabel | DicomSegLabel
LabelSource = Annotated[PixelSource | ObjectSource, Field(discriminator="kind")]


class FieldOfViewSource(Strict):
    """A grey image of the field of view: inside where the stored value is at least ``at_least``."""

    file: str
    at_least: float = 1
    place: Annotated[Place, _PLACE] = "geometry"

    @model_validator(mode="after")
    def _positive(self) -> FieldOfViewSource:
        if self.at_least <= 0:
            raise ValueError("at_least must be above 0, else everything is inside")
        return self


def meanings(source: LabelSource) -> list[str]:
    """Every class name that a label source uses."""
    if isinstance(source, InstancesLabel):
        return list(source.classes_from.values.values()) if source.classes_from is not None else [source.means or ""]
    if isinstance(source, ThresholdLabel | MasksLabel):
        return [source.means]
    if isinstance(source, BitsLabel):
        return list(source.bits.values())
    if isinstance(source, CocoLabel | DicomSegLabel):
        return list((source.categories if isinstance(source, CocoLabel) else source.segments).values())
    named = [rule.means for rule in source.colours] if isinstance(source, ColoursLabel) else list(source.values.values())
    return [name for meaning in named for name in ([meaning] if isinstance(meaning, str) else meaning)]


def read_stored(path: Path) -> npt.NDArray[Any]:
    """A label file as stored: (H, W), (H, W, 3) or (D, H, W[, 3]); a 1-bit image as uint8 0 and 255.

    Raises
    ------
    ScanError: the file cannot be read.
    """
    return _stored(path)[0]


def read_placed(path: Path, image: Geometry, place: Place = "geometry") -> npt.NDArray[Any]:
    """:func:`read_stored`, aligned with the image.

    Raises
    ------
    ScanError: the file cannot be read; ``misplaced``: it does not lie on its image.
    """
    from pipeline.scans.alignment import align

    stored, own = _stored(path)
    if place == "rows_up":
        stored = np.flip(stored, len(own.shape) - 2)
    if place != "geometry":
        own = replace(own, affine=None, nifti=None)
    return align(stored, own, image if place == "geometry" else replace(image, affine=None, nifti=None))


def _stored(path: Path) -> tuple[npt.NDArray[Any], Geometry]:
    """The stored label and its geometry."""
    from pipeline.scans.open import open_scan, sniff
    from pipeline.scans.raster import RASTER_FORMATS, read_image

    kind = sniff(path)
    if kind is None or kind in RASTER_FORMATS:
        image = read_image(path)
        return image, Geometry(image.shape[:2])
    scan = open_scan(path)
    return (scan.pixels[0] if scan.pixels.shape[0] == 1 else np.moveaxis(scan.pixels, 0, -1)), scan.geometry


def decode(source: PixelSource, stored: npt.NDArray[Any], label_map: LabelMap) -> npt.NDArray[np.int64]:
    """A stored label image -> mask int64 (H, W) or (D, H, W), encoded by ``label_map``, ignored pixels -1.

    Raises
    ------
    CardError: a value, colour or bit that the card does not name.
    """
    return _codes(source, _plane(stored, source), label_map)


def combine(masks: Sequence[npt.NDArray[np.int64]], label_map: LabelMap) -> npt.NDArray[np.int64]:
    """Merges the masks of several sources. Overlapping classes are united; for exclusive ones a later source overrides an earlier one.

    Raises
    ------
    CardError: masks of different sizes.
    """
    out, *others = masks
    for codes in others:
        if codes.shape != out.shape:
            raise CardError(f"label files differ in size: {out.shape} and {codes.shape}")
        ignored = (out == IGNORE) | (codes == IGNORE)
        out = np.where(ignored, IGNORE, out | codes if label_map.overlapping else np.where(codes != 0, codes, out))
    return out


def _plane(stored: npt.NDArray[Any], source: PixelSource) -> npt.NDArray[Any]:
    """Single-valued image, or packed 24-bit colours."""
    is_colour = stored.ndim == 3 and stored.shape[-1] == 3
    if isinstance(source, ColoursLabel):
        if not is_colour or stored.dtype != np.uint8:
            raise CardError(f"the card says colours, but the label is {stored.dtype} of shape {stored.shape}")
        wide = stored.astype(np.int64)
        return np.asarray((wide[..., 0] << 16) | (wide[..., 1] << 8) | wide[..., 2])
    if not is_colour:
        return stored
    if not ((stored[..., 0] == stored[..., 1]) & (stored[..., 1] == stored[..., 2])).all():
        raise CardError(f"the card says {source.kind}, but the label is a colour image; use kind: colours")
    return stored[..., 0]


def _codes(source: PixelSource, plane: npt.NDArray[Any], label_map: LabelMap) -> npt.NDArray[np.int64]:
    if isinstance(source, ThresholdLabel):
        return np.where(plane >= source.at_least, _code(source.means, label_map), 0).astype(np.int64)
    if np.issubdtype(plane.dtype, np.floating):
        if not (plane == np.rint(plane)).all():
            raise CardError(f"the card says {source.kind}, but the label holds fractions; use kind: threshold")
        plane = plane.astype(np.int64)
    if isinstance(source, BitsLabel):
        unknown = int(np.bitwise_or.reduce(plane, axis=None)) & ~sum(1 << bit for bit in source.bits)
        if unknown:
            raise CardError(f"the label has bit {(unknown & -unknown).bit_length() - 1} set, which the card does not name")
        layers = {name: ((plane >> bit) & 1).astype(bool) for bit, name in source.bits.items()}
        empty = np.zeros(plane.shape, dtype=bool)
        return label_map.mask(np.stack([layers.get(name, empty) for name in label_map.names]))
    if isinstance(source, ColoursLabel):
        table = {(r.rgb[0] << 16) | (r.rgb[1] << 8) | r.rgb[2]: _code(r.means, label_map) for r in source.colours}
    else:
        table = {value: _code(meaning, label_map) for value, meaning in source.values.items()}
    return _look_up(plane, {0: 0} | table, "colour" if isinstance(source, ColoursLabel) else "value")


def _look_up(plane: npt.NDArray[Any], table: Mapping[int, int], what: str) -> npt.NDArray[np.int64]:
    known = np.array(sorted(table), dtype=np.int64)
    codes = np.array([table[int(value)] for value in known], dtype=np.int64)
    if plane.dtype == np.uint8:  # by far the commonest: one look-up in 256 entries
        position = np.full(256, -1, dtype=np.int64)
        inside = (known >= 0) & (known < 256)
        position[known[inside]] = np.flatnonzero(inside)
        found = position[plane]
        strange = found < 0
    else:
        found = np.searchsorted(known, plane).clip(max=len(known) - 1)
        strange = known[found] != plane
    if strange.any():
        values = np.unique(plane[strange])
        shown = [f"({v >> 16}, {v >> 8 & 255}, {v & 255})" if what == "colour" else str(v) for v in values[:5].tolist()]
        more = f" and {len(values) - 5} more" if len(values) > 5 else ""
        what = f"{what} {', '.join(shown)}{more} in {int(strange.sum())} pixels"
        raise CardError(f"the label holds {what}, which the card does not name; name them, or correct the label (JPEG blurs: use at_least)")
    return np.asarray(codes[found])


def _code(meaning: Meaning, label_map: LabelMap) -> int:
    names = [meaning] if isinstance(meaning, str) else meaning
    if names == [IGNORE_NAME]:
        return IGNORE
    code = 0
    for name in names:
        if name != BACKGROUND_NAME:
            index = label_map.names.index(name)
            code = code | 1 << index if label_map.overlapping else index + 1
    return code
