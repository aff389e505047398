"""A detector without weights that finds bright blobs exactly, so that tests are about what is done with its findings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional

from pipeline.models.detector import Detections, Detector, Sizes
from pipeline.types import LabelClass, LabelMap, Target

GRID = 28
LESIONS = LabelMap((LabelClass(1, "exudate", (240, 228, 66)), LabelClass(2, "haemorrhage", (213, 94, 0))))


class BlobFinder(Detector):
    """Connected pixels above 0.5; class 1 up to 1.5, class 2 above; the score falls a little with the place, so none is equal.

    ``least``: shorter blobs are missed, as by a network whose finest map has a coarse stride.
    """

    multiple = 1
    has_masks = True

    def __init__(self, least: int = 1) -> None:
        super().__init__()
        self.least = least
        self.seen: list[tuple[int, int]] = []
        self.scale = nn.Parameter(torch.ones(()))

    def batch_losses(self, images: Tensor, sizes: Sizes, targets: Sequence[Target]) -> dict[str, Tensor]:
        objects = sum(len(target.boxes) for target in targets if target.boxes is not None)
        return {"class": self.scale * objects, "box": 2 * self.scale * objects}

    def batch_detections(self, images: Tensor, sizes: Sizes) -> list[Detections]:
        self.seen += sizes
        return [self._found(image[0, :rows, :columns].cpu().numpy()) for image, (rows, columns) in zip(images, sizes, strict=True)]

    def _found(self, plane: np.ndarray) -> Detections:
        boxes, labels, masks = [], [], []
        numbered, _ = ndimage.label(plane > 0.5, structure=np.ones((3, 3)))
        for number, (rows, columns) in enumerate(ndimage.find_objects(numbered), 1):
            own = numbered[rows, columns] == number
            if max(own.shape) < self.least:
                continue
            boxes.append([columns.start, rows.start, columns.stop, rows.stop])
            labels.append(2 if plane[rows, columns][own].max() > 1.5 else 1)
            masks.append(functional.interpolate(torch.from_numpy(own)[None, None].float(), size=(GRID, GRID), mode="bilinear")[0, 0])
        order = range(len(boxes))
        return Detections(
            torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
            torch.tensor(labels, dtype=torch.int64),
            torch.tensor([0.9 - 0.01 * place for place in order], dtype=torch.float32),
            torch.stack(masks) if masks else torch.zeros(0, GRID, GRID),
        )


def drawn(rows: int, columns: int, *objects: tuple[int, int, int, int, int]) -> Tensor:
    """An image (1, rows, columns) of 0 with filled rectangles (left, top, right, bottom, class)."""
    image = torch.zeros(1, rows, columns)
    for left, top, right, bottom, label in objects:
        image[:, top:bottom, left:right] = float(label)
    return image
