"""Objects from the files that hold them: label images, one mask a file, YOLO text, DICOM segmentations. COCO is in coco.py."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pipeline.cards.label_file import DicomSegLabel
from pipeline.cards.labels import BACKGROUND_NAME, IGNORE_NAME, Place, read_placed
from pipeline.cards.objects import Mask, Objects, fitted
from pipeline.errors import CardError
from pipeline.types import Geometry, LabelMap

_EIGHT = np.ones((3, 3), dtype=np.int8)
_YOLO = "class centre_x centre_y width height"


def from_components(layer: Mask, label: int, objects: Literal["components", "one"] = "components") -> Objects:
    """Objects of a class from its pixels, bool (H, W): connected pixels, corners included; or all of them together."""
    from scipy.ndimage import find_objects
    from scipy.ndimage import label as number

    plane = (layer.shape[0], layer.shape[1])
    if objects == "one":
        return fitted(plane, [(0, 0, layer)], [label])
    numbered, _ = number(layer, _EIGHT)
    places = enumerate(find_objects(numbered), 1)
    return fitted(plane, pieces := [(p[0].start, p[1].start, numbered[p] == n) for n, p in places], [label] * len(pieces))


def from_instance_ids(
    numbers: npt.NDArray[Any], label: int | Mapping[int, int], *, leave_out: Sequence[int] = (), area: tuple[float, float] = (1, math.inf)
) -> Objects:
    """Objects from an image (H, W) of their numbers; 0 is background.

    Parameters
    ----------
    label: of all of them, or of each number; 0 leaves it out.
    leave_out: numbers that are not objects. ``area``: minimum and maximum pixels of an object.

    Raises
    ------
    CardError: the image does not hold whole numbers, or a number has no label.
    """
    from scipy.ndimage import find_objects

    if numbers.ndim == 3 and (numbers == numbers[..., :1]).all():
        numbers = numbers[..., 0]
    if np.issubdtype(numbers.dtype, np.floating) and (numbers == np.rint(numbers)).all():  # NIfTI often stores labels so
        numbers = numbers.astype(np.int64)
    if numbers.ndim != 2 or not np.issubdtype(numbers.dtype, np.integer) or (numbers.size and int(numbers.min()) < 0):
        raise CardError(f"the card says instances, but the label is {numbers.dtype} of shape {numbers.shape}")
    # Numbers may be large and far apart: counted anew, so that no list of all possible ones is made.
    values, dense = np.unique(numbers, return_inverse=True)
    dense = dense.reshape(numbers.shape) + (values[0] != 0)
    places = enumerate(find_objects(dense), 1)
    stored = dict(enumerate(values[values != 0].tolist(), 1))
    pieces, labels = [], []
    for n, place in places:
        if place is None or stored[n] in leave_out:
            continue
        if not isinstance(label, int) and stored[n] not in label:
            raise CardError(f"object {stored[n]} is not listed in the table of classes; complete it, or say unlisted: background")
        own = label if isinstance(label, int) else label[stored[n]]
        mask = dense[place] == n
        if own and area[0] <= np.count_nonzero(mask) <= area[1]:
            pieces.append((place[0].start, place[1].start, mask))
            labels.append(own)
    return fitted((numbers.shape[0], numbers.shape[1]), pieces, labels)


def from_masks(masks: Iterable[npt.NDArray[Any]], plane: tuple[int, int], label: int, at_least: float) -> Objects:
    """One object from each grey image (H, W); empty images give none.

    Raises
    ------
    CardError: an image of another size than ``plane``, or a colour image.
    """
    pieces = []
    for mask in masks:
        if mask.shape != plane:
            raise CardError(f"a mask is {' x '.join(map(str, mask.shape))}, but the image is {' x '.join(map(str, plane))}")
        pieces.append((0, 0, mask >= at_least))
    return fitted(plane, pieces, [label] * len(pieces))


def from_yolo(text: str, plane: tuple[int, int], classes: Mapping[int, int]) -> Objects:
    """Objects from lines "class centre_x centre_y width height"; ``classes``: stored number to label, 0 to leave it out.

    An outline ("class x1 y1 x2 y2 x3 y3 ...") counts as the box around it. Decimal commas are read as points.

    Raises
    ------
    CardError: names the line that is invalid or has an unknown class, and why.
    """
    rows, columns = plane
    boxes, labels, lines = [], [], []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            kind, (x1, y1, x2, y2) = _yolo_line(line)
        except CardError as error:
            raise CardError(f"line {number} {error}") from None
        if kind not in classes:
            raise CardError(f"line {number} has class {kind}, which the card does not name")
        if classes[kind]:
            boxes.append([x1 * columns, y1 * rows, x2 * columns, y2 * rows])
            labels.append(classes[kind])
            lines.append(f"line {number}")
    return Objects.make(plane, boxes, labels).checked(lines)


def _yolo_line(line: str) -> tuple[int, tuple[float, float, float, float]]:
    """Class and edges (x1, y1, x2, y2), fractions of the image, of one line; CardError says what is wrong with it."""
    try:
        kind, *numbers = (float(part.replace(",", ".")) for part in line.split())
    except ValueError:
        raise CardError(f"is not: {_YOLO}") from None
    if len(numbers) == 5:
        raise CardError("has a sixth number, as predictions have (their score); take it out if these boxes are true")
    if len(numbers) < 4 or len(numbers) % 2 or not kind.is_integer():
        raise CardError(f"is not: {_YOLO}")
    # Not NaN, which compares as false. Edges a little outside are clipped later.
    if not all(-1 < number < 2 for number in numbers):
        raise CardError("is a box outside the image; its numbers are fractions of the image")
    if len(numbers) > 4:
        return int(kind), (min(numbers[::2]), min(numbers[1::2]), max(numbers[::2]), max(numbers[1::2]))
    x, y, width, height = numbers
    if width <= 0 or height <= 0:
        raise CardError("is an empty box; its numbers are: " + _YOLO)
    return int(kind), (x - width / 2, y - height / 2, x + width / 2, y + height / 2)


def from_seg(paths: Sequence[Path], image: Geometry, source: DicomSegLabel, label_map: LabelMap, uid: str | None) -> list[Objects]:
    """Objects of each slice of an image from its DICOM segmentations.

    Parameters
    ----------
    uid: the image's SOP Instance UID, if it has one: frames that refer to another image are ignored.

    Raises
    ------
    CardError: a segment that the card does not name. ScanError: not a segmentation of this image.
    """
    from pipeline.scans.segmentation import read_segmentation

    by_slice: list[list[Objects]] = [[] for _ in range(image.slices)]
    for path in paths:
        for segment in read_segmentation(path, image, uid, at_least=source.at_least):
            if label := label_of(source.meaning(segment), label_map):
                for slice_index, plane in segment.planes.items():
                    by_slice[slice_index].append(from_components(plane, label, source.objects))
    return [Objects.join(image.plane, found) for found in by_slice]


def label_of(name: str, label_map: LabelMap) -> int:
    """1..K, or 0 for what is not an object: "background" and "ignore"."""
    return 0 if name in (BACKGROUND_NAME, IGNORE_NAME) else label_map.names.index(name) + 1


def read_planes(path: Path, geometry: Geometry, place: Place) -> Sequence[npt.NDArray[Any]]:
    """A label image, or every slice of a label volume, aligned with the image of ``geometry``."""
    stored = read_placed(path, geometry, place)
    return list(stored) if stored.ndim == 3 and stored.shape[-1] != 3 else [stored]
