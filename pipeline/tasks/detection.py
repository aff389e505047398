"""Each object gets its box, class, score and, where the network has them, its mask: the detection family."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from itertools import groupby
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, field_validator
from torch import Tensor

from pipeline.datasets.preprocess import TargetKind
from pipeline.errors import ConfigError
from pipeline.metrics.detection import Counts, ImageObjects, average_precision, best_f1, centre_hits, iou_hits
from pipeline.metrics.matching import touched
from pipeline.metrics.threshold import DEFAULT_THRESHOLD, DiceSearch
from pipeline.models.base import Family
from pipeline.models.detector import Detector
from pipeline.registry import unknown_name
from pipeline.tasks.base import TASKS, Labelled, Reference, Task, TaskConfig, TileSides
from pipeline.tasks.fitting import images_at_once, in_pieces, tile_that_fits
from pipeline.tasks.fov import objects_in_fov
from pipeline.tasks.paste import paste
from pipeline.tasks.pixels import pixel_summary, presence_numbers
from pipeline.tasks.tiles import WholeObjects, grid, merge
from pipeline.types import Batch, LabelMap, Measure, Placement, Prediction, Target

HITS = {"f1": iou_hits, "f1_centre": centre_hits}
MEANING = {
    "f1": "2 TP / (2 TP + FP + FN) of objects found with a box IoU of at least .50",
    "f1_centre": "2 TP / (2 TP + FP + FN) of objects in whose box the centre of a detection lies",
    "count": "objects found at or above the class's score threshold",
}


class DetectionConfig(TaskConfig):
    family: ClassVar[Family] = "detection"
    need: ClassVar[TargetKind] = "objects"

    name: Literal["detection"] = "detection"
    losses: dict[str, float] = Field({}, description="loss weights by name, 1 where none is given; 0 disables")
    score_threshold: float = Field(0.05, ge=0, lt=1, description="objects with a lower score are discarded")
    detections: int = Field(100, ge=1, description="maximum number of objects kept per image, by score")
    tile: TileSides | None = Field(
        None, description="predict in overlapping tiles of (rows, columns), one number for squares; null: whole images"
    )
    tile_overlap: float = Field(
        0.25,
        ge=0,
        lt=1,
        description="overlap of neighbouring tiles as a fraction of their side; objects smaller than it lie whole in at least one tile",
    )
    headline: Literal["ap50", "ap", "dice"] = Field(
        "ap50", description="validation score that selects the best epoch: average precision of boxes, or Dice of masks"
    )

    def outputs(self, label_map: LabelMap) -> int:
        return len(label_map)

    @field_validator("losses")
    @classmethod
    def _not_negative(cls, losses: dict[str, float]) -> dict[str, float]:
        for name, weight in losses.items():
            if weight < 0:
                raise ValueError(f"the weight of loss {name!r} must be at least 0")
        return losses


class DetectionTask(Task):
    """A detector of K classes (``len(label_map)``) with its way of predicting. ``thresholds`` are scores, 0.5 where none is given."""

    network: Detector

    def __init__(self, config: DetectionConfig, network: Detector, label_map: LabelMap) -> None:
        super().__init__()
        if config.headline == "dice" and not network.has_masks:
            raise ConfigError("task.headline: dice needs a network with masks, such as mask_rcnn; write ap50 or ap")
        self.config = config
        self.network = network
        self.label_map = label_map
        self.headline = config.headline
        self.thresholds: Mapping[str, float] = {}

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The network's named losses times their weights."""
        if batch.targets is None or any(target.boxes is None for target in batch.targets):
            raise ValueError("a training batch needs targets with boxes")
        losses: dict[str, Tensor] = self.network(batch.images, batch.targets, batch.proposals, batch.seeds if self.training else None)
        for name in self.config.losses.keys() - losses.keys():
            raise ConfigError(f"task.losses: {unknown_name('loss', name, list(losses))}")
        weights = {name: self.config.losses.get(name, 1.0) for name in losses}
        return {name: weights[name] * loss for name, loss in losses.items() if weights[name] > 0}

    def measuring(self) -> AbstractContextManager[None]:
        return self.network.measuring()

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[Prediction]:
        """Objects of each image in its source frame, in descending order of score; the training mode is left as it was."""
        was_training = self.training
        self.eval()
        try:
            return [prediction for places in self._together(batch.images) for prediction in self._predict(batch, places)]
        finally:
            self.train(was_training)

    def measure_objects(self, evidence: Sequence[Any]) -> dict[str, Measure]:
        """``f1``, ``f1_centre`` and ``count`` of each class (``f1/disc``).

        Objects count where their centre, and pixels where they, lie inside the field of view and are not ignored. Pixels are the union of
        a class's masks at its threshold, so that they compare with those of a semantic task.
        """
        measures: dict[str, Measure] = {}
        for index, name in enumerate(self.label_map.names, 1):
            for kind, hits in HITS.items():
                f1 = hits(evidence, index, self._threshold(name)).f1
                measures[f"{kind}/{name}"] = Measure(f1, "1", MEANING[kind], "there is no true object" if f1 is None else None)
            found = sum(int(np.count_nonzero((o.labels == index) & (o.scores >= self._threshold(name)))) for o in evidence)
            measures[f"count/{name}"] = Measure(found, "1", MEANING["count"])
        return measures

    def reference(self, target: Target, encoding: LabelMap | None = None) -> Reference | None:
        """From the semantic mask, else from the instances; None without any mask."""
        if target.mask is not None or target.instance_masks is None or target.labels is None:
            return super().reference(target, encoding)
        names = [name for name in self.label_map.names if encoding is None or name in encoding.names]
        labels = [self.label_map.names.index(name) + 1 for name in names]
        layers = torch.stack([target.instance_masks[target.labels == label].any(dim=0) for label in labels])
        return layers.cpu().numpy(), np.ones(target.instance_masks.shape[1:], dtype=np.bool_)

    def evidence(self, prediction: Prediction, target: Target, valid: Tensor | None = None) -> ImageObjects:
        """What is true and what was found (tasks/fov.py), masks as run lengths; masks only where both sides have them."""
        return objects_in_fov(prediction, target, valid)

    def summarise(self, scores: Sequence[Mapping[str, Measure]], evidence: Sequence[Any] = ()) -> dict[str, float]:
        """Means over images, objects of all images together (``f1_pooled/disc``) and average precision of boxes (``ap``, ``ap50``,
        ``ap75``, ``ap50/disc``) and masks (``mask_ap50``); what is undefined, for want of a true object, is left out.
        """
        means = {name: value for name, value in super().summarise(scores).items() if not name.startswith("count/")}
        out: dict[str, float | None] = dict(pixel_summary(self.label_map, scores, means))
        for index, name in enumerate(self.label_map.names if evidence else (), 1):
            for kind, hits in HITS.items():
                pooled: Counts = hits(evidence, index, self._threshold(name))
                out[f"{kind}_pooled/{name}"] = pooled.f1
            if f"held/{name}" not in out:  # without masks, what an image holds are its objects
                out |= presence_numbers(name, (centre_hits([image], index, self._threshold(name)) for image in evidence))
        for prefix, kind in self._kinds(evidence).items():
            found = average_precision(evidence, len(self.label_map), kind)
            out |= {f"{prefix}ap": found.ap, f"{prefix}ap50": found.ap50, f"{prefix}ap75": found.ap75}
            out |= {f"{prefix}ap50/{name}": found.by_class[index]["ap50"] for index, name in enumerate(self.label_map.names, 1)}
        return {name: value for name, value in out.items() if value is not None}

    def figures(self, evidence: Sequence[Any]) -> dict[str, npt.NDArray[np.uint8]]:
        """``precision_recall`` of the boxes and, where there are masks, ``precision_recall_masks``, at an IoU of .50."""
        from pipeline.drawing.curves import draw_precision_recall  # draws with matplotlib, which nobody else needs

        names = {"": "precision_recall", "mask_": "precision_recall_masks"}
        scores = {prefix: average_precision(evidence, len(self.label_map), kind) for prefix, kind in self._kinds(evidence).items()}
        return {names[prefix]: draw_precision_recall(found, self.label_map) for prefix, found in scores.items() if found.curves}

    def tune(self, labelled: Callable[[], Iterable[Labelled]]) -> dict[str, float]:
        """The score threshold of each class: with masks that of the best mean Dice of their union, else of the best pooled F1."""
        searches = {name: DiceSearch() for name in self.label_map.names}
        masked, evidence = False, []
        for prediction, target, valid in labelled():
            reference = self.reference(target)
            if prediction.instance_masks is None or reference is None:
                evidence.append(self.evidence(replace(prediction, instance_masks=None), target, valid))
                continue
            masked = True
            truth, known = reference
            known = known if valid is None else known & valid.cpu().numpy()
            for index, (search, layer) in enumerate(zip(searches.values(), truth, strict=True), 1):
                search.add(_score_map(prediction, index), layer, known)
        if masked:
            return {name: search.best for name, search in searches.items()}
        best = {name: best_f1(evidence, index) for index, name in enumerate(self.label_map.names, 1)}
        return {name: found[0] for name, found in best.items() if found is not None}

    def layers(self, prediction: Prediction) -> npt.NDArray[np.bool_] | None:
        """Boolean layers (K, H, W): the union of each class's masks at or above its threshold; None of a network without masks.

        Pixels of a class that lies inside another one count where both are; its boxes and its objects' own masks stay as found.
        """
        if prediction.instance_masks is None:
            return None
        assert prediction.labels is not None
        assert prediction.scores is not None
        out = np.zeros((len(self.label_map), *prediction.instance_masks.shape[1:]), dtype=np.bool_)
        for number, index in enumerate(prediction.labels.tolist()):
            if prediction.scores[number] >= self._threshold(self.label_map.names[index - 1]):
                inside = _inside(prediction, number)
                out[index - 1][inside] |= prediction.instance_masks[number][inside]
        return self.label_map.nested(out)

    def _threshold(self, name: str) -> float:
        return self.thresholds.get(name, DEFAULT_THRESHOLD)

    def _kinds(self, evidence: Sequence[Any]) -> dict[str, Literal["box", "mask"]]:
        """What average precision can be measured on, by the prefix of its name."""
        masked = bool(evidence) and all(image.masks is not None and image.true_masks is not None for image in evidence)
        return {"": "box", "mask_": "mask"} if masked else {"": "box"} if evidence else {}

    def complete(self, batches: Callable[[], Iterable[Batch]]) -> None:
        self.network.complete(batches)

    def _together(self, images: Sequence[Tensor]) -> Iterator[list[int]]:
        """Places of neighbours that have one size, as many of them as the network is to look at together."""
        for _, group in groupby(range(len(images)), key=lambda place: images[place].shape):
            places = list(group)
            room = images_at_once(self.network, self._detect, images[places[0]][None], len(places))
            yield from (places[at : at + room] for at in range(0, len(places), room))

    def _detect(self, images: Tensor) -> Any:
        """Of (B, C, H, W)."""
        return self.network.detect(list(images))

    def _predict(self, batch: Batch, places: Sequence[int]) -> list[Prediction]:
        """Of images of one size: together where they are seen whole, else one after the other."""
        images = [batch.images[place] for place in places]
        tile, (rows, columns) = self._tile(images[0]), images[0].shape[-2:]
        if tile is None or (rows <= tile[0] and columns <= tile[1]):
            proposals = None if batch.proposals is None else [batch.proposals[place] for place in places]
            found = [WholeObjects.whole(one) for one in self.network.detect(images, proposals)]
        else:
            found = [self._by_tiles(image, batch.valid[place], tile) for image, place in zip(images, places, strict=True)]
        return [self._prediction(one, batch.placements[place], tile) for one, place in zip(found, places, strict=True)]

    def _prediction(self, found: WholeObjects, placement: Placement, tile: tuple[int, int] | None) -> Prediction:
        boxes = placement.boxes_to_source(found.boxes)
        solid = ((boxes[:, 2:] - boxes[:, :2]).amin(dim=1) > 0) & (found.scores >= self.config.score_threshold)
        kept = solid.nonzero()[:, 0][torch.argsort(found.scores[solid], descending=True, stable=True)][: self.config.detections]
        masks = None
        if found.piece_masks is not None:
            pieces = [found.pieces[number] for number in kept.tolist()]
            masks = paste(pieces, _unclipped(found.piece_boxes, placement), found.piece_masks, placement.source, boxes[kept])
        return Prediction(
            boxes=boxes[kept].numpy(),
            labels=found.labels[kept].numpy(),
            scores=found.scores[kept].numpy(),
            instance_masks=masks,
            warnings=() if tile is None or tile == self.config.tile else (in_pieces(tile),),
        )

    def _tile(self, image: Tensor) -> tuple[int, int] | None:
        """(rows, columns) of the tiles by which an image is seen: as configured, or less where the memory asks for it; None: whole."""
        tile = self.config.tile
        piece = image[None] if tile is None else image[None, ..., : tile[0], : tile[1]]
        return tile_that_fits(self.network, self._detect, piece) or tile

    def _by_tiles(self, image: Tensor, valid: Tensor, tile: tuple[int, int]) -> WholeObjects:
        """Objects of an image (C, H, W) in its own pixels; a tile without a valid pixel is not looked at, and a network makes the proposals
        of a tile by itself, as those that it may have been given are of the whole image."""
        rows, columns = int(image.shape[-2]), int(image.shape[-1])
        every = grid(rows, columns, tile, self.config.tile_overlap)
        tiles = [part for part in every if bool(part.of(valid).any())] or every
        # One tile at a time: memory stays that of one, and on a CPU several together are no faster.
        return merge(tiles, [self.network.detect([part.of(image)])[0] for part in tiles], (rows, columns))


def _unclipped(boxes: Tensor, placement: Placement) -> Tensor:
    """Boxes in network pixels -> in source pixels, past the source's edges too, where a mask's grid may begin."""
    zero = placement.boxes_to_net(boxes.new_zeros(1, 4))
    scale_y, scale_x = placement.scale
    return (boxes - zero) / boxes.new_tensor([scale_x, scale_y, scale_x, scale_y])


def _inside(prediction: Prediction, number: int) -> tuple[slice, slice]:
    """(rows, columns) of the pixels that an object's box touches; its mask lies inside them."""
    assert prediction.boxes is not None
    assert prediction.instance_masks is not None
    _, rows, columns = prediction.instance_masks.shape
    left, top, right, bottom = touched(prediction.boxes[number], (rows, columns))
    return slice(top, bottom), slice(left, right)


def _score_map(prediction: Prediction, index: int) -> npt.NDArray[np.float32]:
    """float32 (H, W): the highest score of class ``index`` on each pixel, so that at any threshold it gives the masks' union."""
    assert prediction.instance_masks is not None
    assert prediction.labels is not None
    assert prediction.scores is not None
    out = np.zeros(prediction.instance_masks.shape[1:], dtype=np.float32)
    for number in np.flatnonzero(prediction.labels == index).tolist():
        inside = _inside(prediction, number)
        np.maximum(out[inside], prediction.scores[number] * prediction.instance_masks[number][inside], out=out[inside])
    return out


@TASKS.add(DetectionConfig)
def build(config: DetectionConfig, network: Detector, label_map: LabelMap) -> Task:
    return DetectionTask(config, network, label_map)
