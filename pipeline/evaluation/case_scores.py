"""Scoring case after case: predict as training prepared, score in the source frame where the label and the field of view count."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pipeline.cards.card import CardCase, DataCard, check_sizes, read_field_of_view, read_scan
from pipeline.cards.targets import Truth, boxes_only, read_target_mask, read_truth
from pipeline.datasets.normalise import NormaliseConfig, choose_field_of_view
from pipeline.datasets.preprocess import check_need
from pipeline.drawing.overlay import side_by_side
from pipeline.errors import CardError, ScanError
from pipeline.evaluation.doubt import ANSWERS, Doubted, DoubtScores
from pipeline.evaluation.grades import ScoredPicture
from pipeline.evaluation.measured import Measured, measure_masks
from pipeline.evaluation.objects import Boxes, ScoredPlane, Shared
from pipeline.evaluation.scoring import Row, rows_of
from pipeline.evaluation.surfaces import SurfaceScore, score_device, score_surfaces
from pipeline.inference.predict import Predictor, PreprocessedScan
from pipeline.inference.proposals import draw_proposals, proposals_of
from pipeline.metrics.calibration import PixelReliability
from pipeline.metrics.grades import GradedPicture
from pipeline.scans.display import plane_in_colour
from pipeline.scans.raster import write_png
from pipeline.tasks.base import Labelled, ScanScores
from pipeline.tasks.pixels import ScanPixels
from pipeline.types import IGNORE, LabelMap, Scan, Target

PICTURES = 4
"""Images of which an example, or their proposals, are drawn."""
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Kept:
    """What :class:`CaseScores` keeps of one case, to be sent from one process to another."""

    lists: dict[str, list[Any]]
    reliability: dict[str, PixelReliability]
    warnings: list[str]


_LISTS = ("rows", "planes", "measured", "surfaces", "device", "graded")


@dataclass
class CaseScores:
    """What is kept of the cases, one after the other: rows, objects and measurements, no pixels; ``out`` takes the first pictures.

    ``theirs``: the card's classes under the bundle's names. ``proposals``: whether the detector's proposals are scored, too.
    """

    predictor: Predictor
    card: DataCard
    shared: Shared
    theirs: LabelMap
    out: Path
    proposals: bool = False
    cases: int = 0
    drawn: int = 0
    rows: list[Row] = field(default_factory=list)
    planes: list[ScoredPlane] = field(default_factory=list)
    measured: list[Measured] = field(default_factory=list)
    surfaces: list[SurfaceScore] = field(default_factory=list)
    device: list[SurfaceScore] = field(default_factory=list)
    graded: list[ScoredPicture] = field(default_factory=list)
    doubt: DoubtScores = field(init=False)
    warnings: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.doubt = DoubtScores(self.predictor.bundle.label_map, self.predictor.bundle.doubt)

    def add(self, case: CardCase) -> None:
        """Predict and score one case.

        Raises
        ------
        CardError: its label, or its field of view, does not fit the image. ScanError: the image cannot be read.
        """
        scan = read_scan(self.card, case)
        self.warnings += [said for said in self.predictor.warnings(scan) if said not in self.warnings]
        view = _field_of_view(self.card, case, scan)
        truth = self._truth(case, scan)
        # The scan's one view, in the form that preparation takes it: a plane's for a picture, one a slice for a volume.
        stated = None if view is None else np.broadcast_to(view, scan.geometry.shape)
        ready = self.predictor.ready(scan, valid=stated)
        proposed = self._proposed(case, ready, stated)
        slices = self._slices(ready, stated, truth, _scored_area(scan, view))
        scores = self.predictor.task.score_scan(slices, scan.geometry, detail=True, encoding=self.theirs)
        self._keep_objects(case, truth, scores, proposed)
        if truth.grade is not None:
            whole = GradedPicture.of_slices(scores.evidence)
            self.graded.append(ScoredPicture(case.key, whole, scan.sha256))
            self.doubt.rows.append(Doubted(case.key, ANSWERS, float(whole.answer == whole.grade), whole.confidence))
        if scores.pixels is not None and truth.mask is not None:
            self._keep_pixels(case, scan, truth.mask, scores, scores.pixels)
        self.cases += 1

    def kept_of(self, number: int, case: CardCase) -> Kept:
        """What :meth:`add` keeps of the case ``number`` (from 0) alone; nothing of it stays here.

        Raises
        ------
        As of :meth:`add`.
        """
        alone = CaseScores(self.predictor, self.card, self.shared, self.theirs, self.out, self.proposals, cases=number, drawn=number)
        alone.add(case)
        lists = {name: getattr(alone, name) for name in _LISTS} | {"doubt": alone.doubt.rows}
        return Kept(lists, alone.doubt.reliability, alone.warnings)

    def include(self, kept: Kept) -> None:
        """What another process kept of the next case, as if it were added here."""
        for name in _LISTS:
            getattr(self, name).extend(kept.lists[name])
        self.doubt.rows += kept.lists["doubt"]
        for name, own in kept.reliability.items():
            self.doubt.reliability.setdefault(name, PixelReliability()).include(own)
        self.warnings += [said for said in kept.warnings if said not in self.warnings]
        self.cases += 1

    def _truth(self, case: CardCase, scan: Scan) -> Truth:
        """What the bundle's task needs to know of a case; masks made of boxes (data.weak_masks) are for training alone: against them
        a score would say how round things are."""
        need = self.predictor.bundle.config.task.need  # type: ignore[attr-defined]
        truth = read_truth(self.card, case, objects=need == "objects", scan=scan)
        if truth.mask is None and need == "masks":
            raise boxes_only(case, "score it against a card with masks")
        check_need(case, truth, need)
        if truth.mask is not None:
            check_sizes(scan.geometry, truth.mask, f"case {case.key}: the label")
        return truth

    def _slices(self, ready: PreprocessedScan, stated: Mask | None, truth: Truth, area: Mask) -> Iterator[Labelled]:
        """Prediction and truth of each plane; objects that the bundle does not know are left out."""
        for plane, prediction in enumerate(self.predictor.slices(ready, valid=stated)):
            mask = truth.mask if truth.mask is None or truth.mask.ndim == 2 else truth.mask[plane]
            if truth.grade is not None:
                target = Target(grade=int(self.shared.own_labels(len(self.theirs))[truth.grade + 1]) - 1)
            elif truth.objects is None:
                target = Target(mask=torch.from_numpy(np.array(mask, dtype=np.int64)))
            else:
                target = truth.objects[plane].renumbered(self.shared.own_labels(len(self.theirs))).target(mask)
            yield prediction, target, torch.from_numpy(area)

    def _proposed(self, case: CardCase, ready: PreprocessedScan, stated: Mask | None) -> list[Boxes] | None:
        if not self.proposals:
            return None
        boxes = list(proposals_of(self.predictor, ready, valid=stated))
        if self.cases < PICTURES:
            draw_proposals(self.out / "proposals" / f"{case.key}.png", ready.scan, boxes[0])
        return boxes

    def _keep_objects(self, case: CardCase, truth: Truth, scores: ScanScores, proposed: list[Boxes] | None) -> None:
        for plane, objects in enumerate(truth.objects or ()):
            labelled = len(objects.renumbered(self.shared.own_labels(len(self.theirs))))
            boxes = None if proposed is None else proposed[plane]
            self.planes.append(ScoredPlane.of(case.key, plane, scores.evidence[plane], self.shared, labelled, boxes))

    def _keep_pixels(self, case: CardCase, scan: Scan, mask: npt.NDArray[np.int64], scores: ScanScores, pixels: ScanPixels) -> None:
        """A row a class, what is measured of masks and of layers, and an example."""
        second = None
        if case.second_reader:
            other = read_target_mask(self.card, case, reader="second", scan=scan)
            check_sizes(scan.geometry, other, f"case {case.key}: the second reader's label")
            second = (self.theirs.layers(other)[[label - 1 for label in self.shared.theirs]], other != IGNORE)
        self.rows += rows_of(case.key, scan.sha256, scores.measures, pixels, second)
        self.measured += measure_masks(case.key, self.shared.label_map, pixels.found, pixels.truth)
        self.doubt.add(case.key, pixels, scores.measures)
        if pixels.probabilities is not None:
            ours, spacing = self.predictor.bundle.label_map, scan.geometry.spacing_mm
            known = pixels.known
            self.surfaces += score_surfaces(case.key, pixels.probabilities, pixels.layers, ours, mask, self.theirs, known, spacing)
        self.device += score_device(case.key, scan.lines, mask, self.theirs, mask != IGNORE, scan.geometry.spacing_mm)
        if self.drawn < PICTURES:
            self.drawn += 1
            _draw_example(self.out / "examples" / f"{case.key}.png", scan, self.shared.label_map, pixels)


@contextmanager
def named_case(case: CardCase) -> Iterator[None]:
    """A file that cannot be used is told with the case it belongs to."""
    try:
        yield
    except ScanError as error:
        raise CardError(f"case {case.key}: {error}") from error
    except OSError as error:
        raise CardError(f"case {case.key}: a file cannot be read ({error.strerror or type(error).__name__})") from error


def _draw_example(path: Path, scan: Scan, label_map: LabelMap, pixels: ScanPixels) -> None:
    """Prediction and reference beside each other; of a volume the middle slice."""
    middle = scan.geometry.slices // 2
    sides = [{"layers": layers if layers.ndim == 3 else layers[:, middle]} for layers in (pixels.found, pixels.truth)]
    path.parent.mkdir(exist_ok=True)
    write_png(path, side_by_side(plane_in_colour(scan, middle), label_map, *sides))


def _field_of_view(card: DataCard, case: CardCase, scan: Scan) -> Mask | None:
    """The card's field of view, bool (H, W), of the image's own size."""
    view = read_field_of_view(card, case, scan)
    if view is not None and view.shape != scan.geometry.plane:
        raise CardError(f"case {case.key}: the field of view is {view.shape}, but the image is {scan.geometry.plane} (rows, columns)")
    return view


def _scored_area(scan: Scan, view: Mask | None) -> Mask:
    """bool (H, W): the card's field of view, else the one found in the picture, whatever the network was shown."""
    plane = scan.pixels if scan.pixels.ndim == 3 else scan.pixels[:, 0]
    return np.ascontiguousarray(choose_field_of_view(plane, NormaliseConfig(), scan.modality, view))
