"""What detectors share that look at boxes which nobody has learnt to propose: where those come from, and which of them train or stay."""

from __future__ import annotations

import abc
from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor, nn

from pipeline.models.detector import Detections, NMSConfig, ProposingDetector, Sizes
from pipeline.models.sampling import drawn
from pipeline.models.selective_search import SelectiveSearchConfig, selective_search
from pipeline.types import Target


class RegionConfig(NMSConfig):
    """Base of the settings of detectors that look at the boxes of selective search."""

    proposals: SelectiveSearchConfig = Field(
        default_factory=SelectiveSearchConfig,
        description="selective search, which makes the boxes that are looked at; those of training images are kept with them (data.cache)",
    )

    @property
    def search(self) -> SelectiveSearchConfig:
        return self.proposals


class SelectiveSearch(nn.Module):
    """``forward``: an image (C, H, W) -> boxes float32 (P, 4) by selective search, computed on the CPU."""

    def __init__(self, config: SelectiveSearchConfig) -> None:
        super().__init__()
        self.config = config

    @torch.no_grad()
    def forward(self, image: Tensor) -> Tensor:
        return torch.from_numpy(selective_search(image.float().cpu().numpy(), self.config)).to(image.device)


class RegionDetector(ProposingDetector):
    """A detector that looks at the boxes of selective search, which are made beforehand for training (datasets/store.py)."""

    def __init__(self, search: SelectiveSearchConfig) -> None:
        super().__init__()
        self.proposer = SelectiveSearch(search)

    @abc.abstractmethod
    def region_losses(self, images: Tensor, sizes: Sizes, targets: Sequence[Target], proposals: Sequence[Tensor]) -> dict[str, Tensor]:
        """As :meth:`batch_losses`, with boxes (P, 4) of each image, P at least 1."""

    @abc.abstractmethod
    def region_detections(self, images: Tensor, sizes: Sizes, proposals: Sequence[Tensor]) -> list[Detections]:
        """As :meth:`batch_detections`, with boxes (P, 4) of each image, P at least 1."""

    def batch_losses(self, images: Tensor, sizes: Sizes, targets: Sequence[Target]) -> dict[str, Tensor]:
        return self.region_losses(images, sizes, targets, self._boxes(_cut(images, sizes)))

    def batch_detections(self, images: Tensor, sizes: Sizes) -> list[Detections]:
        return self.region_detections(images, sizes, self._boxes(_cut(images, sizes)))

    def forward(
        self,
        images: Sequence[Tensor],
        targets: Sequence[Target],
        proposals: Sequence[Tensor] | None = None,
        seeds: Sequence[int] | None = None,
    ) -> dict[str, Tensor]:
        tensor, sizes = self._batch(images)
        self._draw_from(seeds, len(images))
        return self.region_losses(tensor, sizes, [self._padded(target, tensor) for target in targets], self._boxes(images, proposals))

    @torch.no_grad()
    def detect(self, images: Sequence[Tensor], proposals: Sequence[Tensor] | None = None) -> list[Detections]:
        """Objects of each image; images are looked at one by one, for each has boxes enough."""
        found = []
        for image, boxes in zip(images, self._boxes(images, proposals), strict=True):
            found += self.region_detections(*self._batch([image]), [boxes])
        return found

    @torch.no_grad()
    def proposals(self, images: Sequence[Tensor]) -> list[Detections]:
        """The boxes of selective search in their order, by which their scores fall from 1 to 0."""
        every = self._boxes(images)
        return [Detections(b, torch.ones(len(b), dtype=torch.int64, device=b.device), torch.linspace(1, 0, len(b)).to(b)) for b in every]

    def _boxes(self, images: Sequence[Tensor], given: Sequence[Tensor] | None = None) -> list[Tensor]:
        """The given proposals, or new ones; the whole image where there is none."""
        every = [self.proposer(image) for image in images] if given is None else given
        return [
            boxes if len(boxes) else image.new_tensor([[0, 0, image.shape[-1], image.shape[-2]]], dtype=torch.float32)
            for boxes, image in zip(every, images, strict=True)
        ]


def _cut(images: Tensor, sizes: Sizes) -> list[Tensor]:
    return [image[:, :rows, :columns] for image, (rows, columns) in zip(images, sizes, strict=True)]


def sampled(boxes: Tensor, target: Target, samples: int, positive: float, seed: int) -> tuple[Tensor, Tensor]:
    """Boxes (S, 4), S at most ``samples``, drawn by ``seed`` from ``boxes`` and the objects' own, and their classes int64 (S), 0 of
    background.

    A box is of the class of the object that it overlaps most, by an IoU of .5 or more; at most the fraction ``positive`` of ``samples`` is.
    """
    every, overlaps, which = overlap_with_objects(boxes, target)
    assert target.labels is not None
    labels = torch.zeros(len(every), dtype=torch.int64, device=every.device)
    hit = overlaps >= 0.5
    labels[hit] = target.labels[which[hit]]
    found, rest = drawn([(labels > 0, int(positive * samples)), (labels == 0, samples)], seed)
    kept = torch.cat([found, rest])[:samples]
    return every[kept], labels[kept]


def overlap_with_objects(boxes: Tensor, target: Target) -> tuple[Tensor, Tensor, Tensor]:
    """The objects' boxes and ``boxes`` (A, 4), each one's highest IoU (A) with an object, and with which (A); 0 and 0 without objects."""
    from torchvision.ops import box_iou

    assert target.boxes is not None
    every = torch.cat([target.boxes, boxes])
    if not len(target.boxes):
        return every, every.new_zeros(len(every)), torch.zeros(len(every), dtype=torch.int64, device=every.device)
    overlaps, which = box_iou(every, target.boxes).max(1)
    return every, overlaps, which


def warped(image: Tensor, boxes: Tensor, size: int, context: int = 0) -> Tensor:
    """Each box (P, 4) of an image (C, H, W), whatever its shape, as a square of ``size`` pixels: float (P, C, size, size).

    ``context``: so many pixels on each side of the square show what lies around the box (Girshick et al. 2014, appendix A); beyond the
    image are zeros.
    """
    from torchvision.ops import roi_align

    around = (boxes[:, 2:] - boxes[:, :2]) * (context / (size - 2 * context))
    larger = torch.cat([boxes[:, :2] - around, boxes[:, 2:] + around], 1)
    return torch.as_tensor(roi_align(image[None], [larger.to(image.dtype)], size, sampling_ratio=1 if not context else 2, aligned=True))


def best_of(boxes: Tensor, scores: Tensor, size: tuple[int, int], config: NMSConfig) -> Detections:
    """What is found where each class k has a score (P, K) and a box (P, K, 4) at every place: non-maximum suppression by class."""
    from torchvision.ops import batched_nms, clip_boxes_to_image

    place, label = (scores >= config.score_threshold).nonzero(as_tuple=True)
    likely, inside = scores[place, label], clip_boxes_to_image(boxes[place, label], size)
    solid = ((inside[:, 2:] - inside[:, :2]) > 0).all(1)
    inside, likely, label = inside[solid], likely[solid], label[solid]
    kept = batched_nms(inside, likely, label, config.nms)[: config.detections]
    return Detections(inside[kept], label[kept] + 1, likely[kept])
