"""What a detector looks at before it decides: the boxes of its proposal network, counted and drawn."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from pipeline.errors import ConfigError
from pipeline.inference.predict import Predictor, PreprocessedScan
from pipeline.models.detector import ProposingDetector
from pipeline.scans.display import displayed
from pipeline.scans.raster import write_png
from pipeline.tasks.detection import DetectionConfig
from pipeline.tasks.fov import centres_inside
from pipeline.tasks.tiles import grid
from pipeline.types import LabelClass, LabelMap, Scan

MOST, DRAWN = 1000, 30
_SAME = 0.7
"""Proposals of different tiles that overlap more are one, as within a tile (Ren et al. 2015, arXiv:1506.01497, section 3.3)."""
_PROPOSED = LabelMap((LabelClass(1, "proposal", (255, 255, 255)),))
"""A proposal has no class yet, and is drawn in no class's colour."""


def check_proposals(predictor: Predictor) -> None:
    """Raise ConfigError where the bundle's network has no proposals of its own."""
    if not isinstance(predictor.task.network, ProposingDetector):
        raise ConfigError(
            f"--proposals: {predictor.bundle.config.model.name} decides at once and proposes nothing; "  # type: ignore[attr-defined]
            "fast_rcnn, faster_rcnn, mask_rcnn and rcnn look at proposals"
        )


def proposals_of(
    predictor: Predictor, ready: PreprocessedScan, valid: npt.NDArray[np.bool_] | None = None
) -> Iterator[npt.NDArray[np.float32]]:
    """Boxes float32 (P, 4) of each plane in its source frame, highest-scoring first, at most :data:`MOST`; none outside the field of
    view."""
    from torchvision.ops import nms

    network = predictor.task.network
    assert isinstance(network, ProposingDetector)
    task = predictor.bundle.config.task
    assert isinstance(task, DetectionConfig)
    batches = predictor.batches(ready, valid=valid)
    for image, reduced in (plane for batch, prepared in batches for plane in zip(batch.images, prepared, strict=True)):
        rows, columns = image.shape[-2:]
        tiles = grid(rows, columns, task.tile or (rows, columns), task.tile_overlap)
        with torch.inference_mode():
            found = [network.proposals([part.of(image)])[0] for part in tiles]
        corners = [f.boxes + f.boxes.new_tensor([t.left, t.top, t.left, t.top]) for f, t in zip(found, tiles, strict=True)]
        boxes, scores = torch.cat(corners), torch.cat([f.scores for f in found])
        best = nms(boxes, scores, _SAME) if len(tiles) > 1 else torch.argsort(scores, descending=True, stable=True)
        source = reduced.placement.boxes_to_source(boxes[best]).cpu().numpy().astype(np.float32)
        yield source[centres_inside(source, reduced.source_valid)][:MOST]


def draw_proposals(path: Path, scan: Scan, boxes: npt.NDArray[np.float32]) -> None:
    """Write a picture (the first plane of a volume) with its highest-scoring proposals, :data:`DRAWN` at most."""
    from pipeline.drawing.overlay import draw_overlay

    shown = displayed(scan.pixels if scan.pixels.ndim == 3 else scan.pixels[:, 0])
    picture = np.ascontiguousarray(np.moveaxis(np.broadcast_to(shown, (3, *shown.shape[1:])), 0, -1))
    top = boxes[:DRAWN]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_png(path, draw_overlay(picture, None, _PROPOSED, boxes=top, labels=np.ones(len(top), dtype=np.int64)))
