"""What a data set is, measured on a bounded sample of its training images: the facts that a plan follows from."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from pipeline.cards.card import CardCase, DataCard, check_sizes, read_field_of_view, read_scan
from pipeline.cards.labels import InstancesLabel, MasksLabel
from pipeline.cards.objects import Objects
from pipeline.cards.targets import read_truth
from pipeline.errors import CardError, NothingUsableError, OcusegError
from pipeline.scans.field_of_view import detect_field_of_view, field_diameter
from pipeline.types import Modality, Part, ProgressCallback, Role, Scan, no_progress

IMAGES, SLICES, PIXELS, FEWEST = 24, 5, 120_000_000, 4
"""At most so many images are read, of a volume so many slices are measured; of huge images fewer are read, but not fewer than FEWEST."""
ELONGATED = 8
"""A structure is thin where it spans at least so many of its own widths."""

Labels = Literal["masks", "instances", "boxes"]


@dataclass(frozen=True)
class ClassFacts:
    """Of one class, in source pixels; a value that nothing in the sample tells is None.

    ``held``: fraction of images (slices of a volume) that hold it · ``fraction`` of the field of view that it fills where it is held ·
    ``objects`` in such an image, median · ``side_px`` of an object, the median square root of its box's area · ``span_px``: longer side of
    an image's largest object, median · ``width_px``: how wide it is across, see :func:`width_across`.
    """

    name: str
    role: Role | None
    held: float
    fraction: float | None = None
    objects: float | None = None
    side_px: float | None = None
    span_px: float | None = None
    width_px: float | None = None

    @property
    def thin(self) -> bool:
        """Whether it is a line or a net of lines, such as vessels or a layer; a disc or a lesion is not."""
        return self.width_px is not None and self.span_px is not None and self.span_px >= ELONGATED * self.width_px


@dataclass(frozen=True)
class SetFacts:
    """Of a whole set: ``images`` and ``patients`` are counted, everything about pixels is of the ``measured`` images.

    ``parts``: images of each official part, none where the card does not give every image one · ``samples``: pictures, or slices of
    volumes, that are not of the test part, about · ``plane`` (rows, columns) of the median image, ``largest`` of the largest ·
    ``field_px``: diameter of the field of view of a photograph, median, smallest and largest · ``channels`` that occur · ``labels``:
    masks of classes, masks of single objects, or boxes alone.
    """

    card: str
    modality: Modality
    images: int
    patients: int
    parts: dict[Part, int]
    samples: int
    measured: int
    unreadable: int
    plane: tuple[int, int]
    largest: tuple[int, int]
    one_size: bool
    slices: int
    field_px: tuple[float, float, float] | None
    channels: tuple[int, ...]
    labels: Labels
    overlapping: bool
    layers: bool
    classes: tuple[ClassFacts, ...]

    @property
    def known(self) -> tuple[ClassFacts, ...]:
        """The classes of which the sample holds something."""
        return tuple(cls for cls in self.classes if cls.held > 0)

    @property
    def thin(self) -> tuple[ClassFacts, ...]:
        return tuple(cls for cls in self.known if cls.thin)

    @property
    def diameter(self) -> float:
        """Of the field of view, or the longer side where there is none to find."""
        return self.field_px[0] if self.field_px else float(max(self.plane))


def measure(card: DataCard, cases: Sequence[CardCase], progress: ProgressCallback = no_progress) -> SetFacts:
    """The facts of ``cases``, of which at most :data:`IMAGES` are read: spread evenly, and none of the official test part.

    Raises
    ------
    CardError: see :func:`official_parts`. NothingUsableError: not one image of the sample can be read.
    """
    parts = official_parts(card, cases)
    pool = _training_cases(cases, parts)
    seen = _Seen(card)
    chosen = spread(pool, IMAGES)
    for number, case in enumerate(chosen, 1):
        if seen.measured >= FEWEST and seen.pixels > PIXELS:
            break
        seen.read(case)
        progress(number, len(chosen), "measuring images")
    if not seen.planes:
        raise NothingUsableError(f"card {card.name}: none of the {seen.unreadable} images looked at can be read: {seen.why}")
    slices = round(statistics.median(seen.slices))
    return SetFacts(
        card=card.name,
        modality=card.modality,
        images=len(cases),
        patients=untested_patients(cases, parts),
        parts=parts,
        samples=len(pool) * slices,
        measured=seen.measured,
        unreadable=seen.unreadable,
        plane=_median_plane(seen.planes),
        largest=max(seen.planes, key=math.prod),
        one_size=len(set(seen.planes)) == 1,
        slices=slices,
        field_px=(statistics.median(seen.fields), min(seen.fields), max(seen.fields)) if seen.fields else None,
        channels=tuple(sorted(set(seen.channels))),
        labels=seen.labels,
        overlapping=card.label_map.overlapping,
        layers=bool(card.label_map.layered),
        classes=tuple(found.facts() for found in seen.classes),
    )


def official_parts(card: DataCard, cases: Sequence[CardCase]) -> dict[Part, int]:
    """Images of each part that the card names; none where it leaves one without, or has no training part.

    Raises
    ------
    CardError: such a card names test images, which a split of its own would train on.
    """
    counts = Counter(case.part for case in cases)
    if not counts[None] and counts["train"]:
        return {part: count for part, count in counts.items() if part is not None}
    if counts["test"]:
        lacking = f"none for {counts[None]} of the {len(cases)} images" if counts[None] else "no training part"
        raise CardError(
            f"card {card.name}: it names a test part of {counts['test']} images here and {lacking}; complete its parts, so that no test "
            "image is trained on"
        )
    return {}


def volume_slices(card: DataCard, cases: Sequence[CardCase]) -> int:
    """How many slices the first training case that can be read has: 1 of a photograph."""
    for case in _training_cases(cases, official_parts(card, cases)):
        with suppress(OcusegError, OSError):  # who is unreadable is told by the training
            return read_scan(card, case).geometry.slices
    return 1


def _training_cases(cases: Sequence[CardCase], parts: Mapping[Part, int]) -> list[CardCase]:
    """Those that a plan may look at: of the official training part, all of them where there are no ``parts``."""
    return [case for case in cases if not parts or case.part == "train"]


def untested_patients(cases: Sequence[CardCase], parts: Mapping[Part, int]) -> int:
    """People outside the official test part; all of them where there are no ``parts``."""
    return len({case.key.patient for case in cases if not parts or case.part != "test"})


def spread(cases: Sequence[CardCase], most: int) -> list[CardCase]:
    """At most ``most`` of them, evenly spaced, so that no end of the alphabet is left out."""
    count = min(most, len(cases))
    return [cases[(2 * number + 1) * len(cases) // (2 * count)] for number in range(count)]


def _median_plane(planes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    return sorted(planes, key=lambda plane: (math.prod(plane), plane))[len(planes) // 2]


def width_across(mask: npt.NDArray[np.bool_]) -> float | None:
    """How many pixels wide the structures of a mask (H, W) are, whichever way they run: 2 area / length of the outline; None of none.

    An outline along pixel edges is 4 / pi times as long as the line itself, in the mean over directions (Cauchy and Crofton). A strip of
    width w has w, a disc its radius.
    """
    area = int(np.count_nonzero(mask))
    if not area:
        return None
    edges = sum(int(np.count_nonzero(np.diff(np.pad(mask, 1), axis=axis))) for axis in (0, 1))
    return 2 * area / (edges * math.pi / 4)


@dataclass
class _Class:
    """What has been seen of a class so far, a value an image (slice) that holds it; ``sides`` one an object."""

    name: str
    role: Role | None
    planes: int = 0
    fractions: list[float] = field(default_factory=list)
    objects: list[int] = field(default_factory=list)
    sides: list[float] = field(default_factory=list)
    spans: list[float] = field(default_factory=list)
    widths: list[float] = field(default_factory=list)

    def add(self, boxes: npt.NDArray[np.float32], layer: npt.NDArray[np.bool_] | None, inside: npt.NDArray[np.bool_]) -> None:
        self.planes += 1
        if len(boxes):
            width, height = (boxes[:, 2:] - boxes[:, :2]).T.astype(float)
            self.objects.append(len(boxes))
            self.sides += np.sqrt(width * height).tolist()
            self.spans.append(float(np.maximum(width, height).max()))
        across = None if layer is None else width_across(layer)
        if layer is not None and across is not None:
            self.widths.append(across)
            self.fractions.append(float((layer & inside).sum() / max(int(inside.sum()), 1)))

    def facts(self) -> ClassFacts:
        values = (_median(self.objects), _median(self.sides), _median(self.spans), _median(self.widths))
        fraction = float(np.mean(self.fractions)) if self.fractions else None
        held = max(len(self.objects), len(self.fractions)) / max(self.planes, 1)
        return ClassFacts(self.name, self.role, held, fraction, *values)


def _median(values: Sequence[float]) -> float | None:
    return float(statistics.median(values)) if values else None


class _Seen:
    """What the images read so far have shown."""

    def __init__(self, card: DataCard) -> None:
        self.card = card
        self.measured = self.unreadable = self.pixels = 0
        self.why = ""
        self.planes: list[tuple[int, int]] = []
        self.slices: list[int] = []
        self.channels: list[int] = []
        self.fields: list[float] = []
        self.labels: Labels = "instances" if any(isinstance(s, InstancesLabel | MasksLabel) for s in card.labels) else "masks"
        self.classes = [_Class(name, role) for name, role in zip(card.label_map.names, card.label_map.roles, strict=True)]

    def read(self, case: CardCase) -> None:
        try:
            scan = read_scan(self.card, case)
            truth = read_truth(self.card, case, objects=True, scan=scan)
            if truth.mask is not None:
                check_sizes(scan.geometry, truth.mask, "the label")
            view = read_field_of_view(self.card, case, scan)
        except (OcusegError, OSError) as error:
            told = error.strerror if isinstance(error, OSError) else str(error).removeprefix(f"case {case.key}: ")
            self.why = self.why or f"case {case.key}: {told}"
            self.unreadable += 1
            return
        self.measured += 1
        self.pixels += scan.pixels[0].size
        self.planes.append(scan.geometry.plane)
        self.slices.append(scan.geometry.slices)
        self.channels.append(scan.pixels.shape[0])
        inside = self._field(scan, view)
        if truth.mask is None:
            self.labels = "boxes"
        mask = None if truth.mask is None else truth.mask.reshape(scan.geometry.slices, *scan.geometry.plane)
        for index in _some(scan.geometry.slices):
            layers = None if mask is None else self.card.label_map.layers(mask[index])
            self._add((truth.objects or ())[index], layers, inside)

    def _field(self, scan: Scan, view: npt.NDArray[np.bool_] | None) -> npt.NDArray[np.bool_]:
        """The field of view; of a photograph its diameter is remembered."""
        whole = np.ones(scan.geometry.plane, dtype=bool)
        if self.card.modality != "fundus" or scan.pixels.ndim == 4:
            return whole if view is None or view.shape != whole.shape or not view.any() else view
        found = detect_field_of_view(scan.pixels)
        self.fields.append(float(field_diameter(found)))
        return found

    def _add(self, objects: Objects, layers: npt.NDArray[np.bool_] | None, inside: npt.NDArray[np.bool_]) -> None:
        for number, cls in enumerate(self.classes):
            cls.add(objects.boxes[objects.labels == number + 1], None if layers is None else layers[number], inside)


def _some(slices: int) -> Iterator[int]:
    count = min(slices, SLICES)
    yield from ((2 * number + 1) * slices // (2 * count) for number in range(count))


def require_classes(card: DataCard) -> None:
    """Raise CardError where a card labels nothing: there is nothing to plan."""
    if not card.classes:
        raise CardError(f"card {card.name} has no classes, so there is nothing to learn; take a card whose files are labelled")
