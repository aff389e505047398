"""What every detector promises its task: images of any size in, named losses or objects out, always in the images' own pixels."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from pipeline.models.base import Family, ModelConfig, Network, memory_format
from pipeline.models.selective_search import SelectiveSearchConfig
from pipeline.types import Batch, Target

Sizes = list[tuple[int, int]]

LowestScore = Annotated[float, Field(ge=0, lt=1, exclude=True, description="taken from task.score_threshold")]
LargestOverlap = Annotated[
    float,
    Field(
        gt=0,
        le=1,
        description="IoU threshold of non-maximum suppression, per class",
    ),
]
FrozenStages = Annotated[
    int, Field(ge=0, le=5, description="number of encoder stages (of 5, from the image on) that stay frozen when weights are loaded")
]


class DetectorConfig(ModelConfig):
    """Base of every detector's settings."""

    family: ClassVar[Family] = "detection"

    @property
    def search(self) -> SelectiveSearchConfig | None:
        """How the proposals are made that the network looks at, where it does not learn to propose or needs none."""
        return None

    def with_fitted_anchors(self, sizes: npt.NDArray[np.float32]) -> Self:
        """These settings with everything that is to come from the data (anchors) filled in.

        ``sizes`` float32 (N, 2): width and height of each training box in working pixels; N may be 0.
        """
        return self


class NMSConfig(DetectorConfig):
    """Settings of a detector that finds an object many times and keeps the highest-scoring (non-maximum suppression).

    How many objects are kept, and from which score on, is the task's to say (``with_limits``); older files said it of the model too.
    """

    score_threshold: LowestScore = 0.01
    nms: LargestOverlap = 0.5
    detections: int = Field(100, ge=1, exclude=True, description="taken from task.detections")

    def with_limits(self, detections: int, score_threshold: float) -> Self:
        return self.model_copy(update={"detections": detections, "score_threshold": score_threshold})


@dataclass(frozen=True, eq=False)
class Detections:
    """Objects found in one image, highest-scoring first, in the image's own pixels.

    ``boxes`` float32 (N, 4) xyxy, inside the image · ``labels`` int64 (N), 1..K · ``scores`` float32 (N) in 0..1 · ``masks``
    float32 (N, M, M), the probability of each object's mask on a grid over its box, or None.
    """

    boxes: Tensor
    labels: Tensor
    scores: Tensor
    masks: Tensor | None = None


class Detector(Network, abc.ABC):
    """A network that finds objects of K classes.

    A subclass works on one padded tensor: :meth:`batch_losses` and :meth:`batch_detections`. Rows and columns of that tensor are
    multiples of ``multiple``; padding is 0 on the right and below.
    """

    multiple: int = 32
    compilable = False
    not_exportable = "a detector finds as many objects as there are, which a graph of fixed shapes cannot say"
    has_masks: ClassVar[bool] = False
    seeds: Sequence[int] = ()
    """Of each image whose losses are being computed (:meth:`forward`)."""

    @abc.abstractmethod
    def batch_losses(self, images: Tensor, sizes: Sizes, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Named scalar losses of images (B, C, H, W), of which (rows, columns) ``sizes`` are picture.

        Targets have boxes and labels, and instance masks (N, H, W) of the padded size if ``has_masks``; N may be 0.
        """

    @abc.abstractmethod
    def batch_detections(self, images: Tensor, sizes: Sizes) -> list[Detections]:
        """Objects of each image (B, C, H, W); the network is in evaluation mode and no gradient is kept."""

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Inside, a network in evaluation mode gives losses: no normalisation statistics move. Whoever needs more overrides it."""
        yield

    def complete(self, batches: Callable[[], Iterable[Batch]]) -> None:
        """Learn what is not learnt by gradients (tasks/base.py, Task.complete); most networks have no such part."""
        return

    def forward(
        self,
        images: Sequence[Tensor],
        targets: Sequence[Target],
        proposals: Sequence[Tensor] | None = None,
        seeds: Sequence[int] | None = None,
    ) -> dict[str, Tensor]:
        """Named losses of images (C, H, W) of any sizes; a network that looks at ``proposals`` (P, 4) makes those that are not given.

        ``seeds``: a number for each image from which is drawn what its losses look at; without them it is drawn anew each time, in
        evaluation mode always the same.
        """
        tensor, sizes = self._batch(images)
        self._draw_from(seeds, len(images))
        return self.batch_losses(tensor, sizes, [self._padded(target, tensor) for target in targets])

    @torch.no_grad()
    def detect(self, images: Sequence[Tensor], proposals: Sequence[Tensor] | None = None) -> list[Detections]:
        """Objects of each image. Images of one size are computed together, others apart, so that no neighbour's padding matters."""
        found: dict[int, Detections] = {}
        for size in dict.fromkeys(tuple(image.shape[-2:]) for image in images):
            places = [place for place, image in enumerate(images) if tuple(image.shape[-2:]) == size]
            tensor, sizes = self._batch([images[place] for place in places])
            found.update(zip(places, self.batch_detections(tensor, sizes), strict=True))
        return [found[place] for place in range(len(images))]

    def _draw_from(self, seeds: Sequence[int] | None, images: int) -> None:
        if seeds is None:
            seeds = torch.randint(2**62, (images,)).tolist() if self.training else [0] * images
        self.seeds = seeds

    def _batch(self, images: Sequence[Tensor]) -> tuple[Tensor, Sizes]:
        sizes = [(int(image.shape[-2]), int(image.shape[-1])) for image in images]
        rows, columns = (-(-max(extent) // self.multiple) * self.multiple for extent in zip(*sizes, strict=True))
        padded = [functional.pad(image, (0, columns - image.shape[-1], 0, rows - image.shape[-2])) for image in images]
        return torch.stack(padded).contiguous(memory_format=memory_format(self)), sizes

    def _padded(self, target: Target, images: Tensor) -> Target:
        boxes_and_labels(target)
        masks = target.instance_masks
        if masks is None or not self.has_masks:
            return Target(boxes=target.boxes, labels=target.labels)
        rows, columns = images.shape[-2:]
        padded = functional.pad(masks, (0, columns - masks.shape[-1], 0, rows - masks.shape[-2]))
        return Target(boxes=target.boxes, labels=target.labels, instance_masks=padded)


class ProposingDetector(Detector):
    """A detector that first proposes where objects may be; ``proposer`` is the part that does."""

    proposer: nn.Module

    @abc.abstractmethod
    def proposals(self, images: Sequence[Tensor]) -> list[Detections]:
        """What is looked at more closely in each image, all of class 1, the highest scores first."""


def boxes_and_labels(target: Target) -> tuple[Tensor, Tensor]:
    """Boxes float32 (N, 4) and labels int64 (N) of a target that has them, as a detector's has to."""
    if target.boxes is None or target.labels is None:
        raise ValueError("a detector's target has boxes and labels")
    return target.boxes, target.labels
